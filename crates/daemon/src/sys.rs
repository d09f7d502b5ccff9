//! What the daemon asks of the system directly; the safe faces of it.

use cryptofd_core::session::Counters;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn fresh(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made it just now, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Takes over a descriptor whose number was said when this process began, and marks it close-on-exec.
/// Each number once.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: no memory is involved; tells whether the number is open.
    check(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    // SAFETY: open, and whoever started this process gave it to us for this purpose.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    close_on_exec(fd.as_fd(), true)?;
    Ok(fd)
}

/// Closes every descriptor but 0, 1, 2 and `kept`: whatever else the starter of this process had open.
/// Call it before anything is opened here.
pub fn close_others(kept: &[RawFd]) -> io::Result<()> {
    let mut kept: Vec<libc::c_uint> = kept.iter().map(|fd| *fd as libc::c_uint).collect();
    kept.push(libc::STDERR_FILENO as libc::c_uint);
    kept.sort_unstable();
    for (place, fd) in kept.iter().enumerate() {
        let first = fd + 1;
        let last = kept
            .get(place + 1)
            .map_or(libc::c_uint::MAX, |next| next - 1);
        if first <= last {
            // SAFETY: nothing of this process is open there yet.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) as libc::c_int })?;
        }
    }
    Ok(())
}

/// Whether the next program that this process becomes, or starts, gets `fd`.
pub fn close_on_exec(fd: BorrowedFd<'_>, close: bool) -> io::Result<()> {
    let flags = if close { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: no memory is involved.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flags) })?;
    Ok(())
}

/// The inode, by which every copy of a socket is known.
pub fn inode(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` has room for what fstat writes.
    check(unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: fstat succeeded.
    Ok(unsafe { stat.assume_init() }.st_ino)
}

/// Owner, mode and size of an open file.
pub struct About {
    /// The owner's uid.
    pub uid: u32,
    /// Type and permissions.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
}

/// What fstat says.
pub fn about(fd: BorrowedFd<'_>) -> io::Result<About> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` has room for what fstat writes.
    check(unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: fstat succeeded.
    let stat = unsafe { stat.assume_init() };
    Ok(About {
        uid: stat.st_uid,
        mode: stat.st_mode,
        size: stat.st_size as u64,
    })
}

/// Ends a connection for every holder of either end.
pub fn shutdown(fd: BorrowedFd<'_>) {
    // SAFETY: no memory is involved; a connection that ended already is no failure.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RDWR) };
}

/// Nothing more comes: whoever has the other end writes in vain. What came before can still be read.
pub fn shutdown_reading(fd: BorrowedFd<'_>) {
    // SAFETY: no memory is involved; a connection that ended already is no failure.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RD) };
}

/// Whether it is an end of a pair of packets, as those of sessions are.
pub fn carries_packets(fd: BorrowedFd<'_>) -> bool {
    [
        (libc::SO_DOMAIN, libc::AF_UNIX),
        (libc::SO_TYPE, libc::SOCK_SEQPACKET),
    ]
    .iter()
    .all(|(option, wanted)| {
        let mut value: libc::c_int = 0;
        let mut size = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: room for a number, of whose size the kernel is told.
        let got = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                *option,
                (&raw mut value).cast(),
                &raw mut size,
            )
        };
        got == 0 && value == *wanted
    })
}

/// How many descriptors this process may have.
pub fn descriptors() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a whole rlimit.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur
}

/// A descriptor of a child process.
pub fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    fresh(unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) })
}

/// Sends a signal to exactly that process.
pub fn signal(pidfd: BorrowedFd<'_>, signal: libc::c_int) -> io::Result<()> {
    let null = std::ptr::null_mut::<libc::siginfo_t>();
    // SAFETY: no siginfo is passed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            null,
            0,
        )
    };
    check(done as libc::c_int)?;
    Ok(())
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "it exited with code {code}"),
            Exit::Signal(signal) => write!(f, "it was ended by signal {signal}"),
        }
    }
}

/// Reaps a child; `None` while it lives.
pub fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let id = pidfd.as_raw_fd() as libc::id_t;
    let options = libc::WEXITED | libc::WNOHANG;
    // SAFETY: `info` has room for what waitid writes.
    check(unsafe { libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), options) })?;
    // SAFETY: zeroed at first, so it is initialised whatever waitid wrote.
    let info = unsafe { info.assume_init() };
    // SAFETY: the fields of a SIGCHLD.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(if pid == 0 {
        None
    } else if info.si_code == libc::CLD_EXITED {
        Some(Exit::Code(status))
    } else {
        Some(Exit::Signal(status))
    })
}

/// Blocks these signals; they are read from the descriptor instead.
pub fn signals(which: &[libc::c_int]) -> io::Result<OwnedFd> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is filled before it is read; the descriptor is fresh.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in which {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        check(libc::sigprocmask(
            libc::SIG_BLOCK,
            set.as_ptr(),
            std::ptr::null_mut(),
        ))?;
        fresh(libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())
    }
}

/// The next signal that came.
pub fn next_signal(fd: BorrowedFd<'_>) -> Option<libc::c_int> {
    let mut info = std::mem::MaybeUninit::<libc::signalfd_siginfo>::uninit();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: `info` is writable for its size.
    let got = unsafe { libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
    if got != size as isize {
        return None;
    }
    // SAFETY: the kernel filled it.
    Some(unsafe { info.assume_init() }.ssi_signo as libc::c_int)
}

/// Nobody may trace this process or read its memory, and it leaves no core.
pub fn hide() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })?;
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a whole rlimit.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) })?;
    Ok(())
}

/// This process dies when the thread that started it does.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })?;
    Ok(())
}

/// No program that this process becomes gets more rights.
pub fn no_new_privileges() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    Ok(())
}

/// Raises what may be locked, and how many files may be open, as far as this process may.
pub fn raise_limits() {
    // Without a limit all of a worker's memory is locked; with one, its arena and its stacks.
    for (what, wanted) in [
        (libc::RLIMIT_MEMLOCK, libc::RLIM_INFINITY),
        (libc::RLIMIT_NOFILE, 1 << 19),
    ] {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: whole rlimits; what is refused leaves the limit as it was.
        unsafe {
            if libc::getrlimit(what, &raw mut limit) != 0 {
                continue;
            }
            let raised = libc::rlimit {
                rlim_cur: limit.rlim_cur.max(wanted),
                rlim_max: limit.rlim_max.max(wanted),
            };
            if libc::setrlimit(what, &raw const raised) != 0 {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(what, &raw const limit);
            }
        }
    }
}

/// Becomes this user and group for good, with no others.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: no groups are passed, and no memory is involved.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid))?;
    }
    // SAFETY: no memory is involved; this must fail, or the way back is open.
    if uid != 0 && unsafe { libc::setresuid(0, 0, 0) } == 0 {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    Ok(())
}

/// The effective uid.
pub fn effective_uid() -> u32 {
    // SAFETY: takes nothing and always succeeds.
    unsafe { libc::geteuid() }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Tenths of a second since the system began, asleep or not: they go on when the clock is set.
pub fn tenths_since_boot() -> u32 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: room for what is written; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    (time.tv_sec as u32).wrapping_mul(10) + (time.tv_nsec / 100_000_000) as u32
}

/// Memory that the kernel itself cannot read through its own map (memfd_secret(2)), `size` bytes long.
/// ENOSYS where the kernel has it not, or has it turned off.
pub fn secret_memory(size: usize) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = fresh(unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) })?;
    // SAFETY: no memory is involved.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), size as libc::off_t) })?;
    Ok(fd)
}

/// A mapping of a shared file, gone when it is dropped.
pub struct Mapping {
    start: *mut libc::c_void,
    length: usize,
}

impl Mapping {
    /// The first `length` bytes of `fd`.
    pub fn new(fd: BorrowedFd<'_>, length: usize) -> io::Result<Mapping> {
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { start, length })
    }

    /// Copies the beginning of it.
    pub fn read(&self, out: &mut [u8]) {
        assert!(out.len() <= self.length);
        // SAFETY: both are as long as that; the mapping is memory that only our own processes have.
        unsafe { std::ptr::copy_nonoverlapping(self.start.cast(), out.as_mut_ptr(), out.len()) };
    }

    /// Overwrites the beginning of it.
    pub fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.length);
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.cast(), bytes.len()) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: ours, and nothing points into it any more.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

/// Counters in a mapping, by their place.
pub struct Place(std::sync::Arc<Mapping>, usize);

impl Mapping {
    /// The counters at a place; `None` beyond the mapping.
    pub fn place(self: &std::sync::Arc<Self>, place: usize) -> Option<Place> {
        let end = place.checked_add(1)?.checked_mul(size_of::<Counters>())?;
        (end <= self.length).then(|| Place(self.clone(), place))
    }
}

impl AsRef<Counters> for Place {
    fn as_ref(&self) -> &Counters {
        // SAFETY: within the mapping, which lives as long as this and is aligned to a page; any bytes are
        // counters, and whoever else changes them meanwhile does so as we do, atomically.
        unsafe { &*self.0.start.cast::<Counters>().add(self.1) }
    }
}

// SAFETY: the mapping is an address that nobody moves; what lies there is copied or atomic.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// Memory of this size for others to write into: nobody can make it shorter under us.
pub fn sealed_memory(size: usize) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: a name that ends with a zero.
    let fd = fresh(unsafe { libc::memfd_create(c"cryptofd counts".as_ptr(), flags) }.into())?;
    // SAFETY: no memory is involved.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), size as libc::off_t) })?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: no memory is involved.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(fd)
}

/// Overwrites what is there from `offset` on.
pub fn write_at(fd: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> io::Result<usize> {
    let (start, length) = (bytes.as_ptr().cast(), bytes.len());
    // SAFETY: `bytes` is readable for its length.
    let put = unsafe { libc::pwrite(fd.as_raw_fd(), start, length, offset as libc::off_t) };
    usize::try_from(put).map_err(|_| io::Error::last_os_error())
}

/// Reads what there is, at most `out.len()`.
pub fn read(fd: BorrowedFd<'_>, out: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `out` is writable for its length.
    let got = unsafe { libc::read(fd.as_raw_fd(), out.as_mut_ptr().cast(), out.len()) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// The same from `offset` on, wherever others have read to. ESPIPE: it has no offsets.
pub fn read_at(fd: BorrowedFd<'_>, out: &mut [u8], offset: u64) -> io::Result<usize> {
    let (start, length) = (out.as_mut_ptr().cast(), out.len());
    // SAFETY: `out` is writable for its length.
    let got = unsafe { libc::pread(fd.as_raw_fd(), start, length, offset as libc::off_t) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// The payload of a key in the kernel's keyring (keyctl_read(3)); longer ones are cut.
pub fn keyring_read(serial: i32, out: &mut [u8]) -> io::Result<usize> {
    const KEYCTL_READ: libc::c_long = 11;
    let (serial, start) = (libc::c_long::from(serial), out.as_mut_ptr());
    // SAFETY: `out` is writable for its length; the kernel writes no more.
    let got = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_READ, serial, start, out.len()) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    Ok(got.min(out.len()))
}

/// Writes what there is room for.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is readable for its length. A signal is blocked or ignored in our processes.
    let put = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    usize::try_from(put).map_err(|_| io::Error::last_os_error())
}

/// Where the program of this process lies now: after an upgrade in place, the new one.
pub fn program() -> io::Result<std::path::PathBuf> {
    let path = std::fs::read_link("/proc/self/exe")?;
    let text = path.to_string_lossy();
    Ok(match text.strip_suffix(" (deleted)") {
        Some(before) => Path::new(before).to_path_buf(),
        None => path,
    })
}
