//! Stream sockets to the broker: connecting, and who is at the other end. `socket` sends and receives.

use super::socket::{self, check};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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
    socket::option(fd, libc::SO_DOMAIN) == Some(libc::AF_UNIX)
        && socket::option(fd, libc::SO_TYPE) == Some(libc::SOCK_STREAM)
        && socket::option(fd, libc::SO_ACCEPTCONN) == Some(0)
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
