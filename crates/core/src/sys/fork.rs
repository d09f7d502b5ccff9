//! Whether this process is still the one that made an object: a number that changes in a forked child.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A page that the kernel zeroes in a child, however it was forked; no system call to look at it.
struct Page(*const AtomicU64);

// SAFETY: the pointer is to a mapping that is never unmapped, and behind it is an atomic.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    fn map() -> Option<Page> {
        // SAFETY: a fresh private mapping, of which only one atomic at its beginning is used; where the
        // kernel cannot wipe it on fork (before 4.14), it is given back and not used.
        unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let page = libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0);
            if page == libc::MAP_FAILED {
                return None;
            }
            if libc::madvise(page, 4096, libc::MADV_WIPEONFORK) != 0 {
                libc::munmap(page, 4096);
                return None;
            }
            Some(Page(page.cast_const().cast()))
        }
    }
}

static PAGE: OnceLock<Option<Page>> = OnceLock::new();
static LAST: AtomicU64 = AtomicU64::new(0);

/// This process's number among its ancestors; another one in every forked child.
pub fn generation() -> u64 {
    let Some(page) = PAGE.get_or_init(Page::map) else {
        return u64::from(std::process::id());
    };
    // SAFETY: the mapping lives as long as the process.
    let number = unsafe { &*page.0 };
    match number.load(Ordering::Relaxed) {
        0 => {
            // LAST is ordinary memory: a child goes on counting where its parent was.
            let fresh = LAST.fetch_add(1, Ordering::Relaxed) + 1;
            match number.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => fresh,
                Err(other) => other,
            }
        }
        known => known,
    }
}

#[cfg(test)]
mod tests {
    use super::generation;

    #[test]
    fn a_child_has_another_generation() {
        let mine = generation();
        assert_eq!(mine, generation());
        // SAFETY: the child only computes and leaves.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let same = generation() == mine;
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(i32::from(same)) };
        }
        let mut status = -1;
        // SAFETY: waits for the child above.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0);
        assert_eq!(mine, generation());
    }
}
