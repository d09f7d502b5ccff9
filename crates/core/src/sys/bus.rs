//! SIGBUS of memory that somebody else takes away: a page of zeroes comes in its place, and the thread that was
//! there finds out. Only for processes that are all ours; a library never replaces a program's handler.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What this thread reads and writes just now: where it begins, its bytes, and where to say so.
type Watched = (usize, usize, *const AtomicBool);

thread_local! {
    static WATCHED: Cell<Watched> = const { Cell::new((0, 0, std::ptr::null())) };
}

static PAGE: AtomicUsize = AtomicUsize::new(4096);

extern "C" fn on_bus(
    signal: libc::c_int,
    information: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel's own siginfo of this SIGBUS; mmap and sigaction are system calls, and the thread's
    // place is a plain cell of the main program. What `broken` points to is borrowed by `watching`.
    unsafe {
        let address = (*information).si_addr() as usize;
        let (start, length, broken) = WATCHED.get();
        if address >= start && address - start < length {
            let page = PAGE.load(Ordering::Relaxed);
            let fresh = libc::mmap(
                (address & !(page - 1)) as *mut libc::c_void,
                page,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            );
            if fresh != libc::MAP_FAILED {
                (*broken).store(true, Ordering::Relaxed);
                return;
            }
        }
        // Not ours: the same again, and the end.
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &raw const default, std::ptr::null_mut());
    }
}

/// Has SIGBUS on watched memory survived from now on, in the whole process.
pub fn install() -> io::Result<()> {
    // SAFETY: sysconf takes a number; the action's handler does only what may be done in one.
    unsafe {
        if let Ok(page @ 1..) = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)) {
            PAGE.store(page, Ordering::Relaxed);
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_bus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        if libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Runs `f`; a fault on these bytes meanwhile sets `broken`.
pub(super) fn watching<T>(
    start: usize,
    length: usize,
    broken: &AtomicBool,
    f: impl FnOnce() -> T,
) -> T {
    struct Before(Watched);
    impl Drop for Before {
        fn drop(&mut self) {
            WATCHED.set(self.0);
        }
    }
    let _before = Before(WATCHED.replace((start, length, broken)));
    f()
}

#[cfg(test)]
mod tests {
    use crate::sys::forked::in_child;
    use crate::sys::memfd;
    use crate::sys::shared::Shared;
    use std::os::fd::{AsFd, AsRawFd};

    #[test]
    fn what_is_taken_away_is_zeroes_and_is_told() {
        // In a child: the handler stays.
        let told = in_child(|| {
            super::install().unwrap();
            let fd = memfd::create().unwrap();
            // SAFETY: no memory is involved.
            let resized = |size| unsafe { libc::ftruncate(fd.as_raw_fd(), size) == 0 };
            assert!(resized(8192));
            let shared = Shared::map(fd.as_fd(), 8192).unwrap();
            shared.output(5000, 3).copy_from(b"abc");
            assert!(resized(4096));
            let read = shared.watched(|| shared.input(5000, 3).to_vec());
            assert_eq!(read, [0; 3]);
            assert!(shared.broken());
            // The other page is what it was.
            shared.output(10, 1).copy_from(b"x");
            vec![u8::from(shared.broken())]
        });
        assert_eq!(told, Some(vec![1]));
    }

    #[test]
    fn another_fault_is_the_end() {
        let told = in_child(|| {
            super::install().unwrap();
            let fd = memfd::create().unwrap();
            // SAFETY: no memory is involved.
            let resized = |size| unsafe { libc::ftruncate(fd.as_raw_fd(), size) == 0 };
            assert!(resized(4096));
            let shared = Shared::map(fd.as_fd(), 4096).unwrap();
            assert!(resized(0));
            shared.input(0, 3).to_vec()
        });
        assert_eq!(told, None);
    }
}
