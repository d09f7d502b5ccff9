//! What the fd's tests share.
#![allow(dead_code)]

use cryptofd_core::client::Client;
use cryptofd_core::engine::Key;
use cryptofd_core::error::Result;
use cryptofd_core::secret::Secret;
use cryptofd_core::serve::serve;
use cryptofd_core::session::{Request, Session};
use cryptofd_core::sys::buffer::Input;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

pub fn open(algorithm: &str, key: Option<&[u8]>) -> Arc<Session> {
    Session::open(Request {
        algorithm: algorithm.into(),
        key: key.map_or(Key::None, |key| Key::Bytes(Secret::new(key))),
        ..Request::default()
    })
    .unwrap()
}

pub fn adopt(algorithm: &str, key: Option<&[u8]>) -> Client {
    Client::adopt(serve(open(algorithm, key)).unwrap(), &mut never).unwrap()
}

/// Signals do not end anything here.
pub fn never() -> Result<()> {
    Ok(())
}

/// The same digest without a descriptor.
pub fn once(algorithm: &str, data: &[u8]) -> Vec<u8> {
    let session = open(algorithm, None);
    let mut out = vec![0; session.digest_size()];
    session.digest(Input::from(data), &mut out).unwrap();
    out
}

pub fn raw_send(fd: &OwnedFd, packet: &[u8]) {
    // SAFETY: `packet` is readable for its length.
    let sent = unsafe {
        libc::send(
            fd.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            libc::MSG_NOSIGNAL,
        )
    };
    assert_eq!(sent, packet.len() as isize);
}

/// recv with MSG_TRUNC: the packet's real length.
pub fn raw_receive(fd: &OwnedFd, buffer: &mut [u8]) -> isize {
    // SAFETY: `buffer` is writable for its length.
    unsafe {
        libc::recv(
            fd.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_TRUNC,
        )
    }
}

pub fn shutdown(fd: &OwnedFd, how: i32) {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::shutdown(fd.as_raw_fd(), how) }, 0);
}

pub fn memfd(bytes: &[u8]) -> OwnedFd {
    use std::io::Write;
    // SAFETY: a C string; the number is fresh.
    let fd =
        unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC)) };
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes).unwrap();
    file.into()
}

/// A pipe: reading end, writing end.
pub fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: room for two numbers, which are fresh.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    }
}
