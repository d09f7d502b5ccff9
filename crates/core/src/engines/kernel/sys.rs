//! The system calls of AF_ALG and NETLINK_CRYPTO, one method each; EINTR is retried, an errno comes back.

use crate::sys::buffer::{Input, Output};
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

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
    /// When the number was last seen to be ours: a tick of the kernel's clock, and how many sockets had
    /// been made.
    seen: [AtomicU64; 2],
}

/// How many sockets were made: one that was made on a number that another one has is a number lost.
static MADE: AtomicU64 = AtomicU64::new(0);

/// The tick of the kernel's clock (1 to 10 ms), without a system call.
fn tick() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a timespec to write.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    ((now.tv_sec as u64) << 30) | now.tv_nsec as u64
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
        let made = MADE.fetch_add(1, Ordering::AcqRel) + 1;
        match identity(result) {
            Some(identity) => Ok(Socket {
                fd: result,
                identity,
                seen: [AtomicU64::new(tick()), AtomicU64::new(made)],
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

    /// A descriptor that somebody else made; ours from here on.
    pub fn adopt(fd: OwnedFd) -> Result<Socket, Errno> {
        Socket::own(fd.into_raw_fd())
    }

    /// A second descriptor for the same socket.
    pub fn duplicate(&self) -> Result<Socket, Errno> {
        if !self.is_ours() {
            return Err(libc::EBADF);
        }
        // SAFETY: no memory is passed.
        Socket::own(unsafe { libc::fcntl(self.fd, libc::F_DUPFD_CLOEXEC, 0) })
    }

    /// Gives the descriptor away.
    pub fn into_fd(self) -> Result<OwnedFd, Errno> {
        if !self.is_ours() {
            return Err(libc::EBADF);
        }
        let socket = std::mem::ManuallyDrop::new(self);
        // SAFETY: the number stands for the socket that this object made, and nobody closes it any more.
        Ok(unsafe { OwnedFd::from_raw_fd(socket.fd) })
    }

    /// Whether it is an AF_ALG socket at all.
    pub fn is_af_alg(&self) -> bool {
        // SAFETY: the number is open while this object lives.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        is_af_alg(fd)
    }

    /// Whether it takes options (a bound socket) or not (an operation socket). Asked with one that there
    /// is not, so that nothing changes: EBUSY or ENOPROTOOPT from the first, EOPNOTSUPP from the second.
    pub fn is_bound_not_accepted(&self) -> bool {
        self.option(SOL_ALG, 0x7fff, std::ptr::null(), 0) != Err(libc::EOPNOTSUPP)
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

    /// The same, asked of the kernel once in a tick of its clock and whenever a socket was made here:
    /// enough in front of a `send`, which takes care of almost all strangers itself.
    pub fn is_ours_lately(&self) -> bool {
        let now = [tick(), MADE.load(Ordering::Acquire)];
        let pairs = || self.seen.iter().zip(now);
        if pairs().all(|(seen, now)| seen.load(Ordering::Relaxed) == now) {
            return true;
        }
        if !self.is_ours() {
            return false;
        }
        pairs().for_each(|(seen, now)| seen.store(now, Ordering::Relaxed));
        true
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
    ///
    /// What stands under the number may be a stranger's by now, and no check before a send closes the gap
    /// between the two. So the message is one that AF_ALG takes and hardly anybody else does: it goes to
    /// an address of no family, with MSG_OOB and MSG_FASTOPEN. AF_ALG looks at neither the address nor
    /// these flags. Others, before they take a byte:
    /// - what is no socket answers ENOTSOCK;
    /// - UDP, raw, netlink, AF_UNIX's datagrams and packets, vsock, Bluetooth: EOPNOTSUPP to MSG_OOB, and
    ///   kernel TLS and RDS to any flag that they do not know;
    /// - AF_UNIX's streams, packet, CAN and SCTP sockets refuse the address, connected or not;
    /// - TCP, MPTCP and SMC: EOPNOTSUPP or EINVAL to MSG_FASTOPEN with this address (Linux 4.12, see
    ///   tcp_sendmsg_fastopen; before, the connection is cut off).
    ///
    /// AF_ALG sockets of others take it, of course, and so do TIPC's streams, KCM and TCP in a BPF
    /// sockmap. `is_ours_lately` is for these: what they can still get is what is sent within a tick of
    /// the kernel's clock after the number was taken from us.
    pub fn send(
        &self,
        control: Option<&Control>,
        pieces: &[Input<'_>],
        more: bool,
    ) -> Result<usize, Errno> {
        static NOWHERE: libc::sockaddr = libc::sockaddr {
            sa_family: libc::AF_UNSPEC as libc::sa_family_t,
            sa_data: [0; 14],
        };
        const OURS: i32 = libc::MSG_OOB | libc::MSG_FASTOPEN;
        let more = if more { libc::MSG_MORE } else { 0 };
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | OURS | more;
        let (address, size) = (&raw const NOWHERE, size_of::<libc::sockaddr>());
        if let (None, [piece]) = (control, pieces) {
            let (pointer, length) = (piece.as_ptr().cast(), piece.len());
            // SAFETY: an Input is readable for its length, and an address is for its.
            return call(|| unsafe {
                libc::sendto(self.fd, pointer, length, flags, address, size as _)
            });
        }
        let mut vectors = [EMPTY; PIECES];
        for (vector, piece) in vectors.iter_mut().zip(pieces) {
            vector.iov_base = piece.as_ptr().cast_mut().cast();
            vector.iov_len = piece.len();
        }
        let (header, length) =
            control.map_or((std::ptr::null(), 0), |c| (c.bytes.as_ptr(), c.length));
        let mut message = message(&mut vectors, pieces.len(), header.cast_mut(), length);
        message.msg_name = address.cast_mut().cast();
        message.msg_namelen = size as _;
        // SAFETY: vectors, their memory, the address and the control data are valid during the call,
        // which only reads them.
        call(|| unsafe { libc::sendmsg(self.fd, &raw const message, flags) })
    }

    /// One send of a question to NETLINK_CRYPTO.
    pub fn ask(&self, question: &[u8]) -> Result<usize, Errno> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: a slice is readable for its length.
        call(|| unsafe { libc::send(self.fd, question.as_ptr().cast(), question.len(), flags) })
    }

    /// What there is, up to all of the room; EAGAIN if there is nothing.
    pub fn receive_now(&self, out: Output<'_>) -> Result<usize, Errno> {
        let (pointer, length) = (out.as_mut_ptr().cast(), out.len());
        // SAFETY: an Output is writable for its length.
        call(|| unsafe { libc::recv(self.fd, pointer, length, libc::MSG_DONTWAIT) })
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

/// Whether a descriptor is an AF_ALG socket.
pub fn is_af_alg(fd: BorrowedFd<'_>) -> bool {
    let mut domain: libc::c_int = -1;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_DOMAIN);
    // SAFETY: an int and its size.
    let done = unsafe {
        let value = (&raw mut domain).cast();
        libc::getsockopt(fd.as_raw_fd(), level, name, value, &raw mut size)
    };
    done == 0 && domain == libc::AF_ALG
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::FromRawFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    /// A `Socket` that takes a stranger's descriptor for its own; what `send` says to it, with control
    /// data and without.
    fn refused(stranger: &impl AsRawFd) -> Vec<Errno> {
        let socket = Socket {
            fd: stranger.as_raw_fd(),
            identity: (0, 0),
            seen: Default::default(),
        };
        assert!(!socket.is_ours() && !socket.is_ours_lately());
        let control = Control::new(true, &[0; 16]);
        let payload = [Input::from(b"payload")];
        let sent = [
            socket.send(None, &payload, false),
            socket.send(Some(&control), &payload, false),
            socket.send(None, &[payload[0], payload[0]], true),
        ];
        drop(socket);
        sent.map(|sent| sent.unwrap_err()).to_vec()
    }

    fn is_silent(peer: &mut impl Read) {
        let mut byte = [0; 1];
        assert_eq!(
            peer.read(&mut byte).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
    }

    fn connected(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// Whoever was refused, and not closed, can still talk.
    fn still_talks(near: &mut (impl Write + AsRawFd), peer: &mut impl Read) {
        near.write_all(b"still").unwrap();
        let mut five = [0; 5];
        peer.read_exact(&mut five).unwrap();
        assert_eq!(&five, b"still");
    }

    #[test]
    fn a_streams_peer_gets_nothing() {
        let (mut near, mut peer) = UnixStream::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        assert_eq!(refused(&near), [libc::EISCONN; 3]);
        is_silent(&mut peer);
        still_talks(&mut near, &mut peer);
    }

    #[test]
    fn datagrams_and_packets_are_not_sent() {
        let (near, peer) = UnixDatagram::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        assert_eq!(refused(&near), [libc::EOPNOTSUPP; 3]);
        assert!(peer.recv(&mut [0; 8]).is_err());
        let mut pair = [0; 2];
        // SAFETY: room for two descriptors, which nobody else owns.
        let (near, peer) = unsafe {
            let (family, kind) = (libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK);
            assert_eq!(libc::socketpair(family, kind, 0, pair.as_mut_ptr()), 0);
            (
                OwnedFd::from_raw_fd(pair[0]),
                UnixDatagram::from_raw_fd(pair[1]),
            )
        };
        assert_eq!(refused(&near), [libc::EOPNOTSUPP; 3]);
        assert!(peer.recv(&mut [0; 8]).is_err());
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let near = UdpSocket::bind("127.0.0.1:0").unwrap();
        near.connect(peer.local_addr().unwrap()).unwrap();
        peer.set_nonblocking(true).unwrap();
        assert_eq!(refused(&near), [libc::EOPNOTSUPP; 3]);
        assert!(peer.recv(&mut [0; 8]).is_err());
        assert_eq!(near.send(b"still").unwrap(), 5);
    }

    #[test]
    fn a_connections_peer_gets_nothing_and_keeps_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut near, mut peer) = connected(&listener);
        peer.set_nonblocking(true).unwrap();
        assert_eq!(refused(&near), [libc::EOPNOTSUPP; 3]);
        is_silent(&mut peer);
        peer.set_nonblocking(false).unwrap();
        still_talks(&mut near, &mut peer);
    }

    #[test]
    fn a_connection_of_another_protocol_gets_nothing() {
        for protocol in [libc::IPPROTO_MPTCP, libc::IPPROTO_SCTP] {
            // SAFETY: no memory is passed; a descriptor that nobody else owns.
            let sockets = unsafe {
                let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
                let one = libc::socket(libc::AF_INET, kind, protocol);
                let two = libc::socket(libc::AF_INET, kind, protocol);
                if one < 0 || two < 0 {
                    eprintln!("skipped: this kernel has no protocol {protocol}");
                    continue;
                }
                libc::listen(one, 1);
                (TcpListener::from_raw_fd(one), TcpStream::from_raw_fd(two))
            };
            let (listener, mut near) = sockets;
            let address = listener.local_addr().unwrap();
            let there = libc::sockaddr_in {
                sin_family: libc::AF_INET as _,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes([127, 0, 0, 1]),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: an address and its size.
            let joined = unsafe { libc::connect(near.as_raw_fd(), (&raw const there).cast(), 16) };
            assert_eq!(joined, 0);
            let mut peer = listener.accept().unwrap().0;
            peer.set_nonblocking(true).unwrap();
            refused(&near);
            is_silent(&mut peer);
            peer.set_nonblocking(false).unwrap();
            still_talks(&mut near, &mut peer);
        }
    }

    #[test]
    fn kernel_tls_sends_nothing() {
        const TCP_ULP: i32 = 31;
        const SOL_TLS: i32 = 282;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (near, mut peer) = connected(&listener);
        // TLS 1.2, AES-GCM-128: version, cipher, explicit nonce, key, salt, sequence number.
        let mut parameters = [7u8; 40];
        parameters[..4].copy_from_slice(&[3, 3, 51, 0]);
        // SAFETY: options and their sizes.
        let ready = unsafe {
            let (fd, name) = (near.as_raw_fd(), c"tls");
            libc::setsockopt(fd, libc::IPPROTO_TCP, TCP_ULP, name.as_ptr().cast(), 3) == 0
                && libc::setsockopt(fd, SOL_TLS, 1, parameters.as_ptr().cast(), 40) == 0
        };
        if !ready {
            eprintln!("skipped: this kernel has no TLS");
            return;
        }
        peer.set_nonblocking(true).unwrap();
        assert_eq!(refused(&near), [libc::EOPNOTSUPP; 3]);
        is_silent(&mut peer);
    }

    #[test]
    fn files_and_pipes_are_not_written() {
        // SAFETY: a name; a descriptor that nobody else owns.
        let file = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"test".as_ptr(), 0)) };
        assert_eq!(refused(&file), [libc::ENOTSOCK; 3]);
        assert_eq!(std::fs::File::from(file).metadata().unwrap().len(), 0);
        let mut pipe = [0; 2];
        // SAFETY: room for two descriptors, which nobody else owns.
        let [_reader, writer] = unsafe {
            assert_eq!(libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC), 0);
            pipe.map(|end| OwnedFd::from_raw_fd(end))
        };
        assert_eq!(refused(&writer), [libc::ENOTSOCK; 3]);
    }

    #[test]
    fn a_socket_that_was_made_since_is_noticed_within_a_tick() {
        let (one, two) = UnixDatagram::pair().unwrap();
        let number = one.as_raw_fd();
        let socket = Socket {
            fd: number,
            identity: identity(number).unwrap(),
            seen: [AtomicU64::new(u64::MAX), AtomicU64::new(0)],
        };
        assert!(socket.is_ours_lately());
        // SAFETY: two descriptors of this test.
        unsafe { libc::dup2(two.as_raw_fd(), number) };
        MADE.fetch_add(1, Ordering::AcqRel);
        assert!(!socket.is_ours_lately());
    }
}
