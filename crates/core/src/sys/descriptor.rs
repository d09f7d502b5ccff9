//! Descriptors that serving threads own inside somebody else's program.
//!
//! The program may close them behind our back and use the number again: each remembers what it was
//! (st_dev and st_ino), and a number that has become something else is forgotten, never touched. A fork's
//! child has no serving threads: it closes all of them at once, so that the other ends see the truth when
//! the parent goes.

use crate::error::{Error, Result};
use crate::sys::socket;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, Ordering};

const FREE: i32 = -1;
const TAKEN: i32 = -2;

/// One descriptor, where a fork's child finds it without a lock.
struct Slot {
    fd: AtomicI32,
    dev: AtomicU64,
    ino: AtomicU64,
    /// For an epoll, whose inode is everybody's: a descriptor that only our own epoll watches. Else -1.
    marker: AtomicI32,
}

const SLOTS: usize = 256;

struct Chunk {
    slots: [Slot; SLOTS],
    next: AtomicPtr<Chunk>,
}

impl Chunk {
    const fn new() -> Chunk {
        Chunk {
            slots: [const {
                Slot {
                    fd: AtomicI32::new(FREE),
                    dev: AtomicU64::new(0),
                    ino: AtomicU64::new(0),
                    marker: AtomicI32::new(-1),
                }
            }; SLOTS],
            next: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    fn next(&self) -> Option<&'static Chunk> {
        // SAFETY: null, or a chunk that was leaked for good.
        unsafe { self.next.load(Ordering::Acquire).as_ref() }
    }
}

static FIRST: Chunk = Chunk::new();
/// How many threads are between making a descriptor and writing it down; -1 while a fork goes on.
static MAKING: AtomicI32 = AtomicI32::new(0);
static FORKING: AtomicBool = AtomicBool::new(false);
static GENERATION: AtomicU64 = AtomicU64::new(0);
/// Nobody else has code in this process.
static OURS: AtomicBool = AtomicBool::new(false);

/// Says that this program is ours alone: nobody closes anything behind our back, and nothing is looked at
/// before each use.
pub fn all_ours() {
    OURS.store(true, Ordering::Relaxed);
}

fn every(mut f: impl FnMut(&'static Slot)) {
    let mut chunk = Some(&FIRST);
    while let Some(here) = chunk {
        here.slots.iter().for_each(&mut f);
        chunk = here.next();
    }
}

fn slot() -> &'static Slot {
    let mut chunk: &'static Chunk = &FIRST;
    loop {
        for slot in &chunk.slots {
            let taken = slot
                .fd
                .compare_exchange(FREE, TAKEN, Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_ok() {
                return slot;
            }
        }
        chunk = match chunk.next() {
            Some(next) => next,
            None => {
                let fresh = Box::into_raw(Box::new(Chunk::new()));
                let null = std::ptr::null_mut();
                match chunk
                    .next
                    .compare_exchange(null, fresh, Ordering::AcqRel, Ordering::Acquire)
                {
                    // SAFETY: ours, and leaked for good.
                    Ok(_) => unsafe { &*fresh },
                    Err(other) => {
                        // SAFETY: nobody else has seen `fresh`; `other` is a leaked chunk.
                        unsafe {
                            drop(Box::from_raw(fresh));
                            &*other
                        }
                    }
                }
            }
        };
    }
}

/// Counts the forks that led to this process; what an older generation made is not served here.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// `(st_dev, st_ino)`; async-signal-safe.
pub(crate) fn identity(fd: RawFd) -> Option<(u64, u64)> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` has room for what fstat writes.
    if unsafe { libc::fstat(fd, stat.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: fstat succeeded.
    let stat = unsafe { stat.assume_init() };
    Some((stat.st_dev, stat.st_ino))
}

/// Whether `epoll` is the epoll that watches `marker`; async-signal-safe, changes nothing.
fn watches(epoll: RawFd, marker: RawFd) -> bool {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: `event` lives through the call. MOD of what is not watched is ENOENT.
    unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_MOD, marker, &raw mut event) == 0 }
}

impl Slot {
    /// Whether the number still is what it was.
    fn intact(&self, fd: RawFd) -> bool {
        if OURS.load(Ordering::Relaxed) {
            return true;
        }
        let marker = self.marker.load(Ordering::Relaxed);
        let is = (
            self.dev.load(Ordering::Relaxed),
            self.ino.load(Ordering::Relaxed),
        );
        identity(fd) == Some(is) && (marker < 0 || watches(fd, marker))
    }

    /// Closes it unless it has become something else.
    fn close(&self, fd: RawFd) {
        if self.intact(fd) {
            // SAFETY: it is ours (checked just now) and nobody uses it after this.
            unsafe { libc::close(fd) };
        }
        self.marker.store(-1, Ordering::Relaxed);
        self.fd.store(FREE, Ordering::Release);
    }
}

extern "C" fn before_fork() {
    // A maker needs microseconds. A fork in a signal handler that interrupted one would wait for ever:
    // rather go without.
    for _ in 0..100_000 {
        if MAKING
            .compare_exchange(0, -1, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            FORKING.store(true, Ordering::Relaxed);
            return;
        }
        // SAFETY: no arguments.
        unsafe { libc::sched_yield() };
    }
}

extern "C" fn after_fork_parent() {
    if FORKING.swap(false, Ordering::Relaxed) {
        MAKING.store(0, Ordering::Release);
    }
}

extern "C" fn after_fork_child() {
    FORKING.store(false, Ordering::Relaxed);
    GENERATION.fetch_add(1, Ordering::AcqRel);
    // Epolls first: their markers must still be there.
    for epolls in [true, false] {
        every(|slot| {
            let fd = slot.fd.load(Ordering::Acquire);
            if fd == TAKEN {
                slot.fd.store(FREE, Ordering::Release);
            } else if fd >= 0 && (slot.marker.load(Ordering::Relaxed) >= 0) == epolls {
                slot.close(fd);
            }
        });
    }
    MAKING.store(0, Ordering::Release);
}

/// Has forks looked after from now on.
pub fn watch_forks() -> Result<()> {
    static ONCE: Once = Once::new();
    static FAILED: AtomicI32 = AtomicI32::new(0);
    ONCE.call_once(|| {
        // SAFETY: three functions that live as long as the program.
        let errno = unsafe {
            libc::pthread_atfork(
                Some(before_fork),
                Some(after_fork_parent),
                Some(after_fork_child),
            )
        };
        FAILED.store(errno, Ordering::Release);
    });
    match FAILED.load(Ordering::Acquire) {
        0 => Ok(()),
        errno => Err(Error::system(errno, "pthread_atfork")),
    }
}

/// Runs `f`, which makes descriptors and hands them to `Guarded`, with no fork in between.
pub fn making<T>(f: impl FnOnce() -> T) -> T {
    struct Done;
    impl Drop for Done {
        fn drop(&mut self) {
            MAKING.fetch_sub(1, Ordering::AcqRel);
        }
    }
    loop {
        let now = MAKING.load(Ordering::Relaxed);
        if now >= 0
            && MAKING
                .compare_exchange_weak(now, now + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        {
            break;
        }
        std::thread::yield_now();
    }
    let _done = Done;
    f()
}

/// A descriptor of ours in a program that is not.
pub struct Guarded {
    fd: RawFd,
    slot: &'static Slot,
    generation: u64,
}

impl Guarded {
    /// Takes it over. Call it within `making`.
    pub fn new(fd: OwnedFd) -> Guarded {
        Guarded::marked(fd, -1)
    }

    /// Takes over an epoll that already watches `marker`.
    pub fn epoll(epoll: OwnedFd, marker: BorrowedFd<'_>) -> Guarded {
        Guarded::marked(epoll, marker.as_raw_fd())
    }

    fn marked(fd: OwnedFd, marker: RawFd) -> Guarded {
        let (dev, ino) = identity(fd.as_raw_fd()).unwrap_or_default();
        let fd = fd.into_raw_fd();
        let slot = slot();
        slot.dev.store(dev, Ordering::Relaxed);
        slot.ino.store(ino, Ordering::Relaxed);
        slot.marker.store(marker, Ordering::Relaxed);
        slot.fd.store(fd, Ordering::Release);
        Guarded {
            fd,
            slot,
            generation: generation(),
        }
    }

    /// The descriptor, if the number still is what it was.
    pub fn get(&self) -> Option<BorrowedFd<'_>> {
        if self.generation != generation() || !self.slot.intact(self.fd) {
            return None;
        }
        // SAFETY: open and ours, checked just now.
        Some(unsafe { BorrowedFd::borrow_raw(self.fd) })
    }

    /// The inode of what it was taken over as.
    pub fn inode(&self) -> u64 {
        self.slot.ino.load(Ordering::Relaxed)
    }

    /// The descriptor, unchecked: for calls that follow a `get` closely.
    pub fn again(&self) -> BorrowedFd<'_> {
        // SAFETY: a number that may have been closed behind our back gives EBADF, which is handled.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.generation == generation() {
            self.slot.close(self.fd);
        }
    }
}

/// Whether a descriptor is a Unix SOCK_SEQPACKET socket, which is all that a cryptofd can be.
pub fn is_seqpacket(fd: BorrowedFd<'_>) -> bool {
    socket::option(fd, libc::SO_DOMAIN) == Some(libc::AF_UNIX)
        && socket::option(fd, libc::SO_TYPE) == Some(libc::SOCK_SEQPACKET)
}

/// A second descriptor for the same thing, close-on-exec.
pub fn duplicate(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: fcntl on a number touches no memory.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(Error::last_os(&format!("descriptor {fd}")));
    }
    // SAFETY: fresh, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
