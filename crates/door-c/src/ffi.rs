//! The C ABI: checks what a caller gives, hands it to the core, and never lets a panic across.

use cryptofd_core::client::{Completion, bare};
use cryptofd_core::engine::{Direction, Hardware, Key, Parameters};
use cryptofd_core::error::{Error, Result};
use cryptofd_core::record::{self, Op, Params};
use cryptofd_core::secret::Secret;
use cryptofd_core::serve;
use cryptofd_core::session::{Request, Session};
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::sys::{gate, socket};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd};

/// struct cryptofd_args.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Args {
    pub algorithm: *const c_char,
    pub key: *const c_void,
    pub key_size: usize,
    pub key_serial: i32,
    pub hardware: u32,
    pub engine: *const c_char,
    pub driver: *const c_char,
    pub tag_size: u32,
    pub digest_size: u32,
    pub padding: u32,
    pub fips: u32,
    pub iv: *const c_void,
    pub iv_size: usize,
}

/// struct cryptofd_request.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct CRequest {
    pub id: u64,
    pub op: u16,
    pub flags: u16,
    pub direction: u32,
    pub iv: *const c_void,
    pub iv_size: usize,
    pub aad: *const c_void,
    pub aad_size: usize,
    pub data: *const c_void,
    pub data_size: usize,
    pub tag: *const c_void,
    pub tag_size: usize,
    pub salt: *const c_void,
    pub salt_size: usize,
    pub info: *const c_void,
    pub info_size: usize,
    pub length: u64,
    pub n: u64,
    pub r: u32,
    pub p: u32,
    pub iterations: u32,
    pub salt_length: i32,
    pub target: u64,
    pub hash: *const c_char,
    pub scheme: *const c_char,
    pub format: *const c_char,
    pub label: *const c_void,
    pub label_size: usize,
}

/// struct cryptofd_completion.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct CCompletion {
    pub data: *mut c_void,
    pub data_size: usize,
    pub id: u64,
    pub length: usize,
    pub status: i32,
    pub fd: i32,
    pub op: u16,
    pub reserved: [u16; 3],
}

/// The id under which cryptofd_info() asks.
const INFO_ID: u64 = u64::MAX;

fn os(errno: c_int) -> Error {
    Error::system(errno, "cryptofd")
}

/// Runs `f`; its error becomes -1 and errno, a panic EIO.
fn guard(f: impl FnOnce() -> Result<c_int>) -> c_int {
    let errno = match gate::quietly(f) {
        Some(Ok(value)) => return value,
        Some(Err(error)) => error.errno(),
        None => libc::EIO,
    };
    // SAFETY: errno of this thread.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// A copy of a structure that may be older or newer than ours, as with clone3(2) and openat2(2).
///
/// # Safety
/// `pointer` is null or readable for `size` bytes; all zero is a valid `T`.
unsafe fn extensible<T: Copy>(pointer: *const T, size: usize, least: usize) -> Result<T> {
    if pointer.is_null() {
        return Err(os(libc::EFAULT));
    }
    if size < least {
        return Err(os(libc::EINVAL));
    }
    if size > 4096 {
        return Err(os(libc::E2BIG));
    }
    // SAFETY: readable for `size`, of which no more than T's are copied; the rest of T is zero, which the
    // caller vouches for.
    unsafe {
        let bytes = pointer.cast::<u8>();
        for at in size_of::<T>()..size {
            if *bytes.add(at) != 0 {
                return Err(os(libc::E2BIG));
            }
        }
        let mut copy: T = std::mem::zeroed();
        let known = size.min(size_of::<T>());
        std::ptr::copy_nonoverlapping(bytes, (&raw mut copy).cast::<u8>(), known);
        Ok(copy)
    }
}

/// # Safety
/// `pointer` is null or readable for `size` bytes during 'a.
unsafe fn input<'a>(pointer: *const c_void, size: usize) -> Result<Input<'a>> {
    if size > isize::MAX as usize {
        return Err(os(libc::EINVAL));
    }
    match (pointer.is_null(), size) {
        (true, 0) => Ok(Input::EMPTY),
        (true, _) => Err(os(libc::EFAULT)),
        // SAFETY: the caller's promise.
        _ => Ok(unsafe { Input::from_raw(pointer.cast(), size) }),
    }
}

/// # Safety
/// `pointer` is null or a C string.
unsafe fn text(pointer: *const c_char) -> Result<Option<String>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    match unsafe { CStr::from_ptr(pointer) }.to_str() {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(os(libc::EINVAL)),
    }
}

/// # Safety
/// As `cryptofd`.
unsafe fn open(args: *const Args, size: usize, flags: c_uint) -> Result<c_int> {
    // SAFETY: cryptofd(3) promises that every pointer is readable for the size beside it.
    unsafe {
        if flags & !(libc::O_NONBLOCK as c_uint) != 0 {
            return Err(os(libc::EINVAL));
        }
        // The first published structure is the least.
        let args = extensible(args, size, size_of::<Args>())?;
        let algorithm = text(args.algorithm)?.ok_or_else(|| os(libc::EFAULT))?;
        let key = match (args.key.is_null(), args.key_serial) {
            (true, 0) if args.key_size == 0 => Key::None,
            (true, 0) => return Err(os(libc::EFAULT)),
            (true, serial) if args.key_size == 0 => Key::Serial(serial),
            (false, 0) => {
                // Far beyond every algorithm's largest key: a mistake, not a key.
                if args.key_size > 1 << 24 {
                    return Err(os(libc::EINVAL));
                }
                let key = input(args.key, args.key_size)?.to_vec();
                let secret = Secret::new(&key);
                let mut key = key;
                libc::explicit_bzero(key.as_mut_ptr().cast(), key.len());
                Key::Bytes(secret)
            }
            _ => return Err(os(libc::EINVAL)),
        };
        let hardware = match args.hardware {
            0 => Hardware::Any,
            1 => Hardware::Prefer,
            2 => Hardware::Require,
            3 => Hardware::Forbid,
            _ => return Err(os(libc::EINVAL)),
        };
        if args.padding > 1 || args.fips > 1 || args.iv_size > 1 << 24 {
            return Err(os(libc::EINVAL));
        }
        let chosen = |size: u32| (size != 0).then_some(size as usize);
        let session = Session::open(Request {
            algorithm,
            key,
            parameters: Parameters {
                tag_size: chosen(args.tag_size),
                digest_size: chosen(args.digest_size),
                pkcs7: args.padding == 1,
                iv: input(args.iv, args.iv_size)?.to_vec(),
                blake2: None,
            },
            engine: text(args.engine)?,
            driver: text(args.driver)?,
            hardware,
            fips: args.fips == 1,
        })?;
        let fd = serve::serve(session)?;
        if flags != 0 {
            socket::set_nonblocking(fd.as_fd(), true)
                .map_err(|error| os(error.raw_os_error().unwrap_or(libc::EIO)))?;
        }
        Ok(fd.into_raw_fd())
    }
}

/// A descriptor of a caller: its number is checked by the system calls that use it.
///
/// # Safety
/// It stays open during 'a (or gives EBADF, which is handled).
unsafe fn borrow<'a>(fd: c_int) -> Result<BorrowedFd<'a>> {
    if fd < 0 {
        return Err(os(libc::EBADF));
    }
    // SAFETY: not -1; the caller's promise.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// # Safety
/// As `cryptofd_submit`.
unsafe fn submit(fd: c_int, request: *const CRequest, size: usize) -> Result<c_int> {
    // SAFETY: cryptofd(3) promises that every pointer is readable for the size beside it.
    unsafe {
        let fd = borrow(fd)?;
        let request = extensible(request, size, size_of::<CRequest>())?;
        let op = Op::from_number(request.op).ok_or_else(|| os(libc::EOPNOTSUPP))?;
        if request.flags & !record::FLAG_RUNNING != 0 {
            return Err(os(libc::EINVAL));
        }
        // The small ones are private copies, bounded by what a record can hold.
        let copy = |pointer, size: usize| {
            if size > record::RECORD {
                return Err(os(libc::EMSGSIZE));
            }
            Ok(input(pointer, size)?.to_vec())
        };
        let iv = copy(request.iv, request.iv_size)?;
        let tag = copy(request.tag, request.tag_size)?;
        let salt = copy(request.salt, request.salt_size)?;
        let info = copy(request.info, request.info_size)?;
        let label = copy(request.label, request.label_size)?;
        let (hash, scheme) = (text(request.hash)?, text(request.scheme)?);
        let format = text(request.format)?;
        let params = Params {
            length: (request.length != 0).then_some(request.length),
            direction: match request.direction {
                0 => None,
                1 => Some(Direction::Encrypt),
                2 => Some(Direction::Decrypt),
                _ => return Err(os(libc::EINVAL)),
            },
            tag: (!request.tag.is_null()).then_some(&tag[..]),
            salt: (!request.salt.is_null()).then_some(&salt[..]),
            info: (!request.info.is_null()).then_some(&info[..]),
            iterations: (request.iterations != 0).then_some(request.iterations),
            n: (request.n != 0).then_some(request.n),
            r: (request.r != 0).then_some(request.r),
            p: (request.p != 0).then_some(request.p),
            target: (request.target != 0).then_some(request.target),
            hash: hash.as_deref(),
            scheme: scheme.as_deref(),
            salt_length: match request.salt_length {
                0 => None,
                -1 => Some(0),
                length => Some(u32::try_from(length).map_err(|_| os(libc::EINVAL))?),
            },
            label: (!request.label.is_null()).then_some(&label[..]),
            format: format.as_deref(),
        };
        let whole = record::Request {
            op,
            flags: request.flags,
            iv: &iv,
            aad: input(request.aad, request.aad_size)?,
            data: input(request.data, request.data_size)?,
            params,
        };
        bare::submit(fd, request.id, &whole)?;
        Ok(0)
    }
}

/// # Safety
/// As `cryptofd_complete`.
unsafe fn complete(fd: c_int, completion: *mut CCompletion, size: usize) -> Result<c_int> {
    // SAFETY: cryptofd(3) promises that `completion` is readable and writable for `size` bytes and its
    // data writable for data_size.
    unsafe {
        let fd = borrow(fd)?;
        let mut answer = extensible(completion.cast_const(), size, size_of::<CCompletion>())?;
        if answer.data.is_null() && answer.data_size != 0 {
            return Err(os(libc::EFAULT));
        }
        if answer.reserved != [0; 3] {
            return Err(os(libc::EINVAL));
        }
        let done = match bare::complete(fd, answer.data_size) {
            Ok(done) => done,
            Err(error) => {
                if error.errno() == libc::EMSGSIZE {
                    if let Ok(waiting) = bare::peek(fd) {
                        (*completion).length = waiting.length;
                        (*completion).id = waiting.id;
                    }
                }
                return Err(error);
            }
        };
        fill(&mut answer, done);
        completion.write(answer);
        Ok(0)
    }
}

/// # Safety
/// `answer.data` is writable for `answer.data_size` bytes.
unsafe fn fill(answer: &mut CCompletion, done: Completion) {
    // A refusal's sentence is cut to the buffer; a result was checked to fit.
    let length = done.data.len().min(answer.data_size);
    if length > 0 {
        // SAFETY: the caller's promise; `length` is within both.
        unsafe {
            std::ptr::copy_nonoverlapping(done.data.as_ptr(), answer.data.cast::<u8>(), length)
        };
    }
    answer.id = done.id;
    answer.length = length;
    answer.status = done.status;
    answer.fd = done.fd.map_or(-1, IntoRawFd::into_raw_fd);
    answer.op = done.op;
}

/// # Safety
/// As `cryptofd_info`.
unsafe fn info(fd: c_int, buffer: *mut c_char, size: usize) -> Result<c_int> {
    // SAFETY: cryptofd(3) promises that `buffer` is writable for `size` bytes.
    unsafe {
        let fd = borrow(fd)?;
        if buffer.is_null() && size != 0 {
            return Err(os(libc::EFAULT));
        }
        let text = bare::info(fd, INFO_ID)?;
        let length = c_int::try_from(text.len()).map_err(|_| os(libc::EPROTO))?;
        if size > 0 {
            let copied = text.len().min(size - 1);
            std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast::<u8>(), copied);
            *buffer.add(copied) = 0;
        }
        Ok(length)
    }
}

/// Opens a session and returns its descriptor, close-on-exec; -1 and errno. See cryptofd(3).
///
/// # Safety
/// `args` is readable for `size` bytes, and every pointer in it for the size beside it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cryptofd(args: *const Args, size: usize, flags: c_uint) -> c_int {
    // SAFETY: the caller's promise.
    guard(|| unsafe { open(args, size, flags) })
}

/// Sends a request: 0, or -1 and errno. See cryptofd(3).
///
/// # Safety
/// `request` is readable for `size` bytes, and every pointer in it for the size beside it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cryptofd_submit(
    fd: c_int,
    request: *const CRequest,
    size: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    guard(|| unsafe { submit(fd, request, size) })
}

/// Takes the next answer: 0, or -1 and errno. See cryptofd(3).
///
/// # Safety
/// `completion` is readable and writable for `size` bytes, and its data writable for its data_size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cryptofd_complete(
    fd: c_int,
    completion: *mut CCompletion,
    size: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    guard(|| unsafe { complete(fd, completion, size) })
}

/// Writes the session's description (JSON) into `buffer`, cut to `size` with its zero; returns its whole
/// length, or -1 and errno. See cryptofd(3).
///
/// # Safety
/// `buffer` is writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cryptofd_info(fd: c_int, buffer: *mut c_char, size: usize) -> c_int {
    // SAFETY: the caller's promise.
    guard(|| unsafe { info(fd, buffer, size) })
}
