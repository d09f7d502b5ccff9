//! Threads inside somebody else's program: named, and deaf to its signals.
//!
//! In a process of our own where no secret may be in memory that is not locked (arena::strict), what work left
//! of keys on a thread's stack is wiped before the thread waits, and stacks are locked and left out of dumps.

use crate::sys::{arena, gate};
use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;

/// Bytes of a thread's stack.
const STACK: usize = 512 << 10;
/// Bytes below its caller that `wipe_stack` overwrites; what went deeper is given back to the kernel.
const SHALLOW: usize = 16 << 10;
const PAGE: usize = 4096;
/// As in linux/mman.h.
const MADV_DONTNEED_LOCKED: libc::c_int = 24;

thread_local! {
    /// Where this thread's stack begins; 0: nobody asked.
    static LOWEST: Cell<usize> = const { Cell::new(0) };
    static DEEP: Cell<bool> = const { Cell::new(false) };
}

/// The work that follows uses much of the stack.
pub fn goes_deep() {
    DEEP.set(true);
}

/// Leaves nothing of what was done before on this thread's stack, if the process is strict.
pub fn wipe_stack() {
    if arena::is_strict() {
        wipe();
    }
}

#[inline(never)]
fn wipe() {
    let mut below = MaybeUninit::<[u8; SHALLOW]>::uninit();
    // SAFETY: all of it is ours, and nobody reads it.
    unsafe { libc::explicit_bzero(below.as_mut_ptr().cast(), SHALLOW) };
    let lowest = LOWEST.get();
    if lowest == 0 || !DEEP.replace(false) {
        return;
    }
    // What is called from here has its frames between this and `below`'s end.
    let end = (below.as_ptr() as usize - 2 * PAGE) & !(PAGE - 1);
    if let Some(length) = end.checked_sub(lowest).filter(|length| *length > 0) {
        let place = lowest as *mut libc::c_void;
        // SAFETY: whole pages of this thread's stack, far below every frame there is; they come back as
        // zeros when they are used again. Locked ones only kernels since 5.18 take back: zeros otherwise.
        unsafe {
            if libc::madvise(place, length, MADV_DONTNEED_LOCKED) != 0
                && libc::madvise(place, length, libc::MADV_DONTNEED) != 0
            {
                libc::explicit_bzero(place, length);
            }
        }
    }
}

/// Leaves this thread's stack out of dumps, and locks it, as it is touched, as far as RLIMIT_MEMLOCK allows.
fn hide_stack() {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let (mut start, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: filled before it is read, and destroyed after; the stack is this thread's own.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return;
        }
        let known = libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut start, &raw mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        if known == 0 {
            libc::madvise(start, size, libc::MADV_DONTDUMP);
            libc::syscall(libc::SYS_mlock2, start, size, libc::MLOCK_ONFAULT);
            LOWEST.set((start as usize).next_multiple_of(PAGE));
        }
    }
}

/// Starts a thread in which every signal is blocked from its first instruction on.
pub fn spawn(name: String, f: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both have room for a set; `all` is filled before it is read.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let started = std::thread::Builder::new()
        .name(name)
        .stack_size(STACK)
        .spawn(|| {
            gate::quiet_thread();
            if arena::is_strict() {
                hide_stack();
            }
            f();
        });
    // SAFETY: `before` was written above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    started.map(drop)
}
