//! SOCK_SEQPACKET sockets and epoll: packets with descriptors, never a signal, never a leaked descriptor.

use crate::sys::buffer::Input;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Two connected ends, close-on-exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two numbers.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    // SAFETY: fresh and ours.
    let ends = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    for end in [&ends.0, &ends.1] {
        // POLLOUT comes when a quarter is used at most: a whole record must fit into the rest. The kernel
        // doubles this and cuts it to wmem_max; its default is enough for one record.
        let size: libc::c_int = 212_992;
        // SAFETY: an int and its size.
        unsafe {
            libc::setsockopt(
                end.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDBUF,
                (&raw const size).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
    }
    Ok(ends)
}

/// A socket on which nothing ever happens, with an inode of its own.
pub fn lone() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is involved.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    // SAFETY: fresh and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether O_NONBLOCK is set.
pub fn is_nonblocking(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: asks for the flags of a borrowed descriptor.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    Ok(flags & libc::O_NONBLOCK != 0)
}

/// Sets or clears O_NONBLOCK.
pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    // SAFETY: no memory is involved.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    let flags = if on {
        flags | libc::O_NONBLOCK
    } else {
        flags & !libc::O_NONBLOCK
    };
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) })?;
    Ok(())
}

/// Room for descriptors beside a packet: two, so that one too many is seen and closed.
const MOST_FDS: usize = 2;
/// Their control message, in words for its alignment: a header of 16 bytes (12 on 32 bits) and the numbers.
type Control = [u64; 4];

/// Most descriptors beside a packet of `send_many`.
pub const MANY: usize = 16;
/// Their control message.
type LargeControl = [u64; 2 + MANY / 2];

/// Sends one packet of all `parts`, with a descriptor or without.
pub fn send(
    fd: BorrowedFd<'_>,
    parts: &[Input<'_>],
    attached: Option<BorrowedFd<'_>>,
    nonblock: bool,
) -> io::Result<()> {
    let mut control: Control = [0; 4];
    send_with(fd, parts, attached.as_slice(), nonblock, &mut control).map(drop)
}

/// The same with any number of descriptors up to `MANY`. How many bytes went: all of a packet, what there was
/// room for of a stream.
pub fn send_many(
    fd: BorrowedFd<'_>,
    parts: &[Input<'_>],
    attached: &[BorrowedFd<'_>],
    nonblock: bool,
) -> io::Result<usize> {
    if attached.len() > MANY {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    let mut control: LargeControl = [0; 2 + MANY / 2];
    send_with(fd, parts, attached, nonblock, &mut control)
}

fn send_with(
    fd: BorrowedFd<'_>,
    parts: &[Input<'_>],
    attached: &[BorrowedFd<'_>],
    nonblock: bool,
    control: &mut [u64],
) -> io::Result<usize> {
    let iov: Vec<libc::iovec> = parts
        .iter()
        .map(|part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        })
        .collect();
    // SAFETY: all zero is an empty msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iov.as_ptr().cast_mut();
    message.msg_iovlen = iov.len() as _;
    if !attached.is_empty() {
        let size = size_of_val(attached) as u32;
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: both callers' `control` has room for one header and the numbers (checked here again), and
        // lives through the call.
        unsafe {
            let space = libc::CMSG_SPACE(size);
            assert!(space as usize <= size_of_val(control));
            message.msg_controllen = space as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size) as _;
            let numbers = libc::CMSG_DATA(header).cast::<RawFd>();
            for (place, attached) in attached.iter().enumerate() {
                numbers.add(place).write_unaligned(attached.as_raw_fd());
            }
        }
    }
    let flags = libc::MSG_NOSIGNAL | if nonblock { libc::MSG_DONTWAIT } else { 0 };
    // SAFETY: every part is readable for its length; the kernel copies, so bytes that change are harmless.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// What `receive` brought.
pub struct Received {
    /// Bytes of the packet, which may be more than the buffer's. 0 at the end, or for an empty packet.
    pub length: usize,
    /// Descriptors that came with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// Descriptors came that could not be taken: too many, or this process has no room.
    pub lost: bool,
}

/// Which way to receive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// The packet and its descriptors.
    Whole,
    /// The packet; descriptors with it are dropped.
    WithoutFds,
    /// A look at it with its descriptors; it stays.
    Peek,
    /// A look at it; it and its descriptors stay.
    PeekWithoutFds,
}

/// Receives one packet into `parts`, one after the other.
pub fn receive(
    fd: BorrowedFd<'_>,
    parts: &mut [&mut [u8]],
    take: Take,
    nonblock: bool,
) -> io::Result<Received> {
    let mut control: Control = [0; 4];
    // SAFETY: arithmetic.
    let room = unsafe { libc::CMSG_SPACE((MOST_FDS * size_of::<RawFd>()) as u32) };
    let control = &mut control[..(room as usize).div_ceil(8)];
    receive_with(fd, parts, take, nonblock, control)
}

/// Receives one packet with all the descriptors that the kernel takes (253): what there is no room for it would
/// close itself, and that may take as long as whoever sent it likes.
pub fn receive_many(fd: BorrowedFd<'_>, buffer: &mut [u8], nonblock: bool) -> io::Result<Received> {
    let mut control = [0u64; 2 + 254 / 2];
    receive_with(fd, &mut [buffer], Take::Whole, nonblock, &mut control)
}

fn receive_with(
    fd: BorrowedFd<'_>,
    parts: &mut [&mut [u8]],
    take: Take,
    nonblock: bool,
    control: &mut [u64],
) -> io::Result<Received> {
    let mut iov: Vec<libc::iovec> = parts
        .iter_mut()
        .map(|part| libc::iovec {
            iov_base: part.as_mut_ptr().cast(),
            iov_len: part.len(),
        })
        .collect();
    // SAFETY: all zero is an empty msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iov.as_mut_ptr();
    message.msg_iovlen = iov.len() as _;
    if matches!(take, Take::Whole | Take::Peek) {
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(control) as _;
    }
    let mut flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_TRUNC;
    if nonblock {
        flags |= libc::MSG_DONTWAIT;
    }
    if matches!(take, Take::Peek | Take::PeekWithoutFds) {
        flags |= libc::MSG_PEEK;
    }
    // SAFETY: every part and `control` are writable for the lengths given and live through the call.
    let length = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
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
        length: length as usize,
        fds,
        lost: message.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

/// An option of a socket that is a number (SOL_SOCKET); `None` where `fd` is no socket.
pub(super) fn option(fd: BorrowedFd<'_>, name: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = -1;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: an int and its size.
    let done = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast(),
            &raw mut size,
        )
    };
    (done == 0).then_some(value)
}

/// Who made the pair, or connected; 0 in another pid namespace. `None` where `fd` is no Unix socket.
pub fn peer(fd: BorrowedFd<'_>) -> Option<u32> {
    let mut who = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: a ucred and its size.
    let done = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut who).cast(),
            &raw mut size,
        )
    };
    (done == 0).then_some(who.pid as u32)
}

/// Waits for `events`; returns what is there, 0 after `timeout` milliseconds (-1: never).
pub fn poll(fd: BorrowedFd<'_>, events: i16, timeout: i32) -> io::Result<i16> {
    let mut one = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one pollfd.
    check(unsafe { libc::poll(&raw mut one, 1, timeout) })?;
    Ok(one.revents)
}

/// A fresh epoll, close-on-exec.
pub fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    // SAFETY: fresh and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has `epoll` watch `fd` for `events`, told as `token`; `again`: it does already.
pub fn watch(
    epoll: BorrowedFd<'_>,
    fd: BorrowedFd<'_>,
    events: i32,
    token: u64,
    again: bool,
) -> io::Result<()> {
    let mut event = libc::epoll_event {
        events: events as u32,
        u64: token,
    };
    let what = if again {
        libc::EPOLL_CTL_MOD
    } else {
        libc::EPOLL_CTL_ADD
    };
    // SAFETY: `event` lives through the call.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), what, fd.as_raw_fd(), &raw mut event) })?;
    Ok(())
}

/// Has `epoll` forget `fd`.
pub fn unwatch(epoll: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    let what = libc::EPOLL_CTL_DEL;
    // SAFETY: `event` lives through the call.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), what, fd.as_raw_fd(), &raw mut event) })?;
    Ok(())
}

/// Waits for one event and returns its token; `None` after `timeout` milliseconds.
pub fn wait(epoll: BorrowedFd<'_>, timeout: i32) -> io::Result<Option<u64>> {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: room for one event.
    let number = check(unsafe { libc::epoll_wait(epoll.as_raw_fd(), &raw mut event, 1, timeout) })?;
    Ok((number > 0).then_some(event.u64))
}
