//! The system calls of AF_ALG and NETLINK_CRYPTO, one method each; EINTR is retried, an errno comes back.

use crate::sys::buffer::{Input, Output};
use std::mem::size_of;

/// An errno.
pub type Errno = i32;

const SOL_ALG: i32 = libc::SOL_ALG;
const ALG_SET_KEY: i32 = 1;
const ALG_SET_IV: i32 = 2;
const ALG_SET_OP: i32 = 3;
const ALG_SET_AEAD_ASSOCLEN: i32 = 4;
const ALG_SET_AEAD_AUTHSIZE: i32 = 5;
const ALG_SET_KEY_BY_KEY_SERIAL: i32 = 7;

const NETLINK_CRYPTO: i32 = 21;

fn errno() -> Errno {
    std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

/// Repeats a call that a signal interrupted.
fn call(mut f: impl FnMut() -> libc::ssize_t) -> Result<usize, Errno> {
    loop {
        let result = f();
        if result >= 0 {
            return Ok(result as usize);
        }
        match errno() {
            libc::EINTR => {}
            other => return Err(other),
        }
    }
}

/// A descriptor of ours that notices when the program around us closed or reused its number.
#[derive(Debug)]
pub struct Socket {
    fd: libc::c_int,
    identity: (u64, u64),
}

/// Which file a descriptor stands for; `None` when it is closed.
fn identity(fd: libc::c_int) -> Option<(u64, u64)> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat writes a whole stat where it returns 0, and only then is it read.
    let stat = unsafe {
        if libc::fstat(fd, stat.as_mut_ptr()) != 0 {
            return None;
        }
        stat.assume_init()
    };
    Some((stat.st_dev, stat.st_ino))
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_ours() {
            // SAFETY: the number still stands for the socket that this object made.
            unsafe { libc::close(self.fd) };
        }
    }
}

impl Socket {
    fn own(result: libc::c_int) -> Result<Socket, Errno> {
        if result < 0 {
            return Err(errno());
        }
        match identity(result) {
            Some(identity) => Ok(Socket {
                fd: result,
                identity,
            }),
            None => Err(errno()),
        }
    }

    /// A fresh AF_ALG socket.
    pub fn algorithm() -> Result<Socket, Errno> {
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: no memory is passed.
        Socket::own(unsafe { libc::socket(libc::AF_ALG, kind, 0) })
    }

    /// A fresh NETLINK_CRYPTO socket; answers that do not come within two seconds are EAGAIN.
    pub fn netlink() -> Result<Socket, Errno> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no memory is passed.
        let socket = Socket::own(unsafe { libc::socket(libc::AF_NETLINK, kind, NETLINK_CRYPTO) })?;
        let wait = libc::timeval {
            tv_sec: 2,
            tv_usec: 0,
        };
        let size = size_of::<libc::timeval>() as libc::socklen_t;
        let value = (&raw const wait).cast();
        // SAFETY: a timeval and its size.
        let result = unsafe {
            libc::setsockopt(socket.fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, value, size)
        };
        if result == 0 {
            Ok(socket)
        } else {
            Err(errno())
        }
    }

    /// Whether the number still stands for the socket that this object made.
    pub fn is_ours(&self) -> bool {
        identity(self.fd) == Some(self.identity)
    }

    /// bind() to a type and an algorithm's or a driver's name.
    pub fn bind(&self, kind: &str, name: &str) -> Result<(), Errno> {
        // SAFETY: sockaddr_alg is plain integers, for which zero is a value.
        let mut address: libc::sockaddr_alg = unsafe { std::mem::zeroed() };
        if kind.len() >= address.salg_type.len() || name.len() >= address.salg_name.len() {
            return Err(libc::ENAMETOOLONG);
        }
        address.salg_family = libc::AF_ALG as u16;
        address.salg_type[..kind.len()].copy_from_slice(kind.as_bytes());
        address.salg_name[..name.len()].copy_from_slice(name.as_bytes());
        let size = size_of::<libc::sockaddr_alg>() as libc::socklen_t;
        // SAFETY: a whole sockaddr_alg and its size.
        call(|| unsafe { libc::bind(self.fd, (&raw const address).cast(), size) as _ }).map(drop)
    }

    fn option(&self, level: i32, name: i32, value: *const u8, length: usize) -> Result<(), Errno> {
        let length = length as libc::socklen_t;
        // SAFETY: callers pass memory of `length` bytes, or null with ALG_SET_AEAD_AUTHSIZE, whose
        // length is the value and whose memory the kernel does not look at.
        call(|| unsafe { libc::setsockopt(self.fd, level, name, value.cast(), length) as _ })
            .map(drop)
    }

    /// ALG_SET_KEY.
    pub fn set_key(&self, key: &[u8]) -> Result<(), Errno> {
        self.option(SOL_ALG, ALG_SET_KEY, key.as_ptr(), key.len())
    }

    /// ALG_SET_KEY_BY_KEY_SERIAL (Linux 6.2).
    pub fn set_key_serial(&self, serial: i32) -> Result<(), Errno> {
        let bytes = serial.to_ne_bytes();
        self.option(SOL_ALG, ALG_SET_KEY_BY_KEY_SERIAL, bytes.as_ptr(), 4)
    }

    /// ALG_SET_AEAD_AUTHSIZE.
    pub fn set_tag_size(&self, size: usize) -> Result<(), Errno> {
        self.option(SOL_ALG, ALG_SET_AEAD_AUTHSIZE, std::ptr::null(), size)
    }

    /// An operation socket; of a hash's operation socket: a copy with its state.
    pub fn accept(&self) -> Result<Socket, Errno> {
        let (address, size) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: no address is asked for.
        let fd = call(|| unsafe {
            libc::accept4(self.fd, address, size, libc::SOCK_CLOEXEC) as libc::ssize_t
        })?;
        Socket::own(fd as libc::c_int)
    }

    /// Asks for `bytes` of send and receive buffer; returns what one message may surely take.
    pub fn buffers(&self, bytes: usize) -> Result<usize, Errno> {
        let wanted = (bytes as i32).to_ne_bytes();
        let mut least = usize::MAX;
        for name in [libc::SO_SNDBUF, libc::SO_RCVBUF] {
            let mut now = [0u8; 4];
            let mut size: libc::socklen_t = 4;
            let mut ask = || {
                // SAFETY: four bytes to write, and their number.
                call(|| unsafe {
                    let value = now.as_mut_ptr().cast();
                    libc::getsockopt(self.fd, libc::SOL_SOCKET, name, value, &raw mut size) as _
                })?;
                Ok::<usize, Errno>(usize::try_from(i32::from_ne_bytes(now)).unwrap_or(0))
            };
            let mut have = ask()?;
            if have < bytes {
                // net.core.wmem_max may give less; what it gives is asked afterwards.
                self.option(libc::SOL_SOCKET, name, wanted.as_ptr(), 4)?;
                have = ask()?;
            }
            least = least.min(have);
        }
        // The kernel counts whole pages, and wants one free before it takes more.
        let page = page_size();
        Ok((least / page).saturating_sub(1).max(1) * page)
    }

    /// One send. Never blocks: what does not fit is a short count, which the caller must look at.
    pub fn send(
        &self,
        control: Option<&Control>,
        pieces: &[Input<'_>],
        more: bool,
    ) -> Result<usize, Errno> {
        let more = if more { libc::MSG_MORE } else { 0 };
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | more;
        if let (None, [piece]) = (control, pieces) {
            let (pointer, length) = (piece.as_ptr().cast(), piece.len());
            // SAFETY: an Input is readable for its length.
            return call(|| unsafe { libc::send(self.fd, pointer, length, flags) });
        }
        let mut vectors = [EMPTY; PIECES];
        for (vector, piece) in vectors.iter_mut().zip(pieces) {
            vector.iov_base = piece.as_ptr().cast_mut().cast();
            vector.iov_len = piece.len();
        }
        let (header, length) =
            control.map_or((std::ptr::null(), 0), |c| (c.bytes.as_ptr(), c.length));
        let message = message(&mut vectors, pieces.len(), header.cast_mut(), length);
        // SAFETY: vectors, their memory and the control data are valid during the call, which only
        // reads them.
        call(|| unsafe { libc::sendmsg(self.fd, &raw const message, flags) })
    }

    /// One receive. The kernel blocks for ever on a buffer longer than the result: bring the exact length.
    pub fn receive(&self, pieces: &[Output<'_>]) -> Result<usize, Errno> {
        if let [piece] = pieces {
            let (pointer, length) = (piece.as_mut_ptr().cast(), piece.len());
            // SAFETY: an Output is writable for its length.
            return call(|| unsafe { libc::recv(self.fd, pointer, length, 0) });
        }
        let mut vectors = [EMPTY; PIECES];
        for (vector, piece) in vectors.iter_mut().zip(pieces) {
            vector.iov_base = piece.as_mut_ptr().cast();
            vector.iov_len = piece.len();
        }
        let mut message = message(&mut vectors, pieces.len(), std::ptr::null_mut(), 0);
        // SAFETY: vectors and the memory that they name are writable during the call.
        call(|| unsafe { libc::recvmsg(self.fd, &raw mut message, 0) })
    }
}

/// Most pieces of one message.
pub const PIECES: usize = 3;

const EMPTY: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

fn message(
    vectors: &mut [libc::iovec; PIECES],
    count: usize,
    control: *mut u8,
    length: usize,
) -> libc::msghdr {
    assert!(count <= PIECES);
    // SAFETY: msghdr is integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = count as _;
    if length > 0 {
        message.msg_control = control.cast();
        message.msg_controllen = length as _;
    }
    message
}

fn page_size() -> usize {
    // SAFETY: no memory is passed.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Control data of one request: direction, and always an IV where the algorithm has one. A message
/// without an IV would go on with the last one: for an AEAD that is a nonce used twice.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Control {
    bytes: [u8; 128],
    length: usize,
}

const HEADER: usize = size_of::<usize>() + 8;

impl Control {
    /// For a request that encrypts or decrypts with this IV (of at most 32 bytes).
    pub fn new(encrypt: bool, iv: &[u8]) -> Control {
        let mut control = Control {
            bytes: [0; 128],
            length: 0,
        };
        control.put(ALG_SET_OP, &u32::from(encrypt).to_ne_bytes());
        if !iv.is_empty() {
            let mut value = [0u8; 36];
            value[..4].copy_from_slice(&(iv.len() as u32).to_ne_bytes());
            value[4..4 + iv.len()].copy_from_slice(iv);
            control.put(ALG_SET_IV, &value[..4 + iv.len()]);
        }
        control
    }

    /// With so many bytes of associated data in front.
    pub fn with_aad(mut self, length: u32) -> Control {
        self.put(ALG_SET_AEAD_ASSOCLEN, &length.to_ne_bytes());
        self
    }

    /// One struct cmsghdr (cmsg(3)): its length, SOL_ALG, its type, its value, padding.
    fn put(&mut self, kind: i32, value: &[u8]) {
        let length = HEADER + value.len();
        let place = &mut self.bytes[self.length..][..length];
        place[..size_of::<usize>()].copy_from_slice(&length.to_ne_bytes());
        place[HEADER - 8..HEADER - 4].copy_from_slice(&SOL_ALG.to_ne_bytes());
        place[HEADER - 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        place[HEADER..].copy_from_slice(value);
        self.length += length.next_multiple_of(size_of::<usize>());
    }
}
