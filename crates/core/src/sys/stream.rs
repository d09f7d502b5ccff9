//! Stream sockets to the broker: messages with several descriptors, and who is at the other end.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Most descriptors beside one message.
pub const MOST_FDS: usize = 16;
/// Their control message, in words for its alignment.
type Control = [u64; 2 + MOST_FDS / 2 + 1];

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A pipe's reading and writing end, close-on-exec.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: room for two numbers, which are fresh and ours.
    unsafe {
        check(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC))?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// Connects to a socket in the file system, or (a name that begins with a zero byte) in the abstract
/// namespace. Close-on-exec.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let name = path.as_os_str().as_bytes();
    // SAFETY: all zero is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    // A path needs its final zero; an abstract name is as long as it says.
    let terminated = name.first().is_some_and(|first| *first != 0);
    if name.is_empty() || name.len() + usize::from(terminated) > address.sun_path.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    let head = std::mem::offset_of!(libc::sockaddr_un, sun_path);
    let length = head + name.len() + usize::from(terminated);
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is involved; then the descriptor is fresh and ours.
    let fd = unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_UNIX, kind, 0))?) };
    loop {
        // SAFETY: the address is valid for `length` bytes.
        let done = unsafe {
            libc::connect(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                length as libc::socklen_t,
            )
        };
        match check(done) {
            Ok(_) => return Ok(fd),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A copy, close-on-exec, of a connection that this process inherited. ENOTSOCK if it is something else.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved; the copy is fresh and ours.
    let copy =
        unsafe { OwnedFd::from_raw_fd(check(libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3))?) };
    if is_unix_stream(copy.as_fd()) {
        Ok(copy)
    } else {
        Err(io::Error::from_raw_os_error(libc::ENOTSOCK))
    }
}

/// Whether `fd` is a connected Unix stream socket.
fn is_unix_stream(fd: BorrowedFd<'_>) -> bool {
    let option = |name| {
        let mut value: libc::c_int = -1;
        let mut length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: an int and its size.
        let done = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                name,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        (done == 0).then_some(value)
    };
    option(libc::SO_DOMAIN) == Some(libc::AF_UNIX)
        && option(libc::SO_TYPE) == Some(libc::SOCK_STREAM)
        && option(libc::SO_ACCEPTCONN) == Some(0)
}

/// The uid of whoever listens at the other end (unix(7), SO_PEERCRED).
pub fn peer_uid(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: all zero is a valid ucred.
    let mut peer: libc::ucred = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: a ucred and its size.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    })?;
    Ok(peer.uid)
}

/// Sends what it can of `bytes`, with descriptors beside the first; how many bytes went.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if fds.len() > MOST_FDS {
        return Err(io::Error::from_raw_os_error(libc::ETOOMANYREFS));
    }
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut control: Control = [0; size_of::<Control>() / 8];
    // SAFETY: all zero is an empty msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let size = size_of_val(fds) as u32;
        debug_assert_eq!(size_of::<BorrowedFd<'_>>(), size_of::<RawFd>());
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: `control` has room for one header and MOST_FDS numbers, and lives through the call.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(size) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size) as _;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (number, fd) in fds.iter().enumerate() {
                data.add(number).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    // SAFETY: everything lives through the call.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// What one `receive` brought.
pub struct Received {
    /// Bytes; 0 at the end.
    pub length: usize,
    /// Descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// Descriptors came that could not be taken.
    pub lost: bool,
}

/// Receives into `buffer`.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut control: Control = [0; size_of::<Control>() / 8];
    // SAFETY: all zero is an empty msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: everything is writable for the lengths given and lives through the call.
    let length = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let mut fds = Vec::new();
    // SAFETY: the kernel wrote whole headers within msg_controllen; the macros stay within it, and every
    // number of an SCM_RIGHTS message is a fresh descriptor of ours.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for number in 0..bytes / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(number).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(Received {
        length,
        fds,
        lost: message.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

/// The uid of a user by name (getpwnam_r(3)).
pub fn uid_of(name: &std::ffi::CStr) -> Option<u32> {
    let mut buffer = vec![0u8; 16 << 10];
    // SAFETY: all zero is a valid passwd.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: everything is writable for its size and lives through the call.
    let done = unsafe {
        libc::getpwnam_r(
            name.as_ptr(),
            &raw mut entry,
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            &raw mut found,
        )
    };
    (done == 0 && !found.is_null()).then_some(entry.pw_uid)
}
