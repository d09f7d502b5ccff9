//! Memory that another process writes at the same time: words by atomics, bytes by copies, never a reference.

use super::buffer::{Input, Output};
use super::{bus, fork};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// Linux's commands and seals (fcntl(2)).
const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

/// A mapping of a memfd, gone in a forked child.
pub struct Shared {
    base: *mut u8,
    length: usize,
    /// Something under it was taken away: what is read is zeroes (see `bus`).
    broken: AtomicBool,
    generation: u64,
}

// SAFETY: a pointer to a mapping that lives as long as this; every access is an atomic or a copy.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Gives a fresh memfd `length` bytes, there already, and seals its size. A memory that is full is an error
/// here and not a fault later.
pub fn allocate(fd: BorrowedFd<'_>, length: usize) -> io::Result<()> {
    let length =
        libc::off_t::try_from(length).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    loop {
        // SAFETY: no memory is involved.
        let done = unsafe { libc::fallocate(fd.as_raw_fd(), 0, 0, length) };
        match io::Error::last_os_error() {
            _ if done == 0 => break,
            error if error.raw_os_error() == Some(libc::EINTR) => {}
            error => return Err(error),
        }
    }
    // SAFETY: no memory is involved.
    super::socket::check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS) })?;
    Ok(())
}

/// Bytes of a memfd whose size nobody can change any more; `None` if it is not one.
pub fn sealed_length(fd: BorrowedFd<'_>) -> Option<usize> {
    // SAFETY: no memory is involved.
    let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
    if seals < 0 || seals & SEALS != SEALS {
        return None;
    }
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` has room for what fstat writes.
    if unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: fstat succeeded.
    usize::try_from(unsafe { stat.assume_init() }.st_size).ok()
}

impl Shared {
    /// Maps the first `length` bytes, which must be there. Not in forked children, not in core dumps.
    pub fn map(fd: BorrowedFd<'_>, length: usize) -> io::Result<Shared> {
        // SAFETY: a fresh mapping that nobody else refers to; the advice only takes away from it.
        let base = unsafe {
            let base = libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.as_raw_fd(),
                0,
            );
            if base == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            if libc::madvise(base, length, libc::MADV_DONTFORK) != 0 {
                let error = io::Error::last_os_error();
                libc::munmap(base, length);
                return Err(error);
            }
            libc::madvise(base, length, libc::MADV_DONTDUMP);
            base
        };
        Ok(Shared {
            base: base.cast(),
            length,
            broken: AtomicBool::new(false),
            generation: fork::generation(),
        })
    }

    /// Whether it is in this process; false in a forked child, where nothing of it may be touched.
    pub fn here(&self) -> bool {
        self.generation == fork::generation()
    }

    /// Whether something under it was taken away.
    pub fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Runs `f`, which uses this mapping: a fault on it sets `broken` instead of ending the process, where
    /// `bus::install` was called.
    pub fn watched<T>(&self, f: impl FnOnce() -> T) -> T {
        bus::watching(self.base as usize, self.length, &self.broken, f)
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Panics beyond the end.
    fn at(&self, at: usize, length: usize) -> *mut u8 {
        assert!(at <= self.length && length <= self.length - at);
        // SAFETY: within the mapping, checked just now.
        unsafe { self.base.add(at) }
    }

    /// A word that both sides use. Panics beyond the end, or where it is not aligned.
    pub fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at % 4 == 0);
        // SAFETY: aligned (a mapping begins at a page) and within the mapping, which outlives the borrow.
        unsafe { &*self.at(at, 4).cast::<AtomicU32>() }
    }

    /// Copies words of 8 bytes, each read exactly once: what is checked in `out` is what is used.
    pub fn load<const N: usize>(&self, at: usize) -> [u64; N] {
        assert!(at % 8 == 0);
        let from = self.at(at, N * 8).cast::<AtomicU64>();
        // SAFETY: aligned and within the mapping, checked just now.
        std::array::from_fn(|n| unsafe { &*from.add(n) }.load(Ordering::Relaxed))
    }

    /// Writes words of 8 bytes.
    pub fn store<const N: usize>(&self, at: usize, words: [u64; N]) {
        assert!(at % 8 == 0);
        let to = self.at(at, N * 8).cast::<AtomicU64>();
        for (n, word) in words.into_iter().enumerate() {
            // SAFETY: aligned and within the mapping, checked just now.
            unsafe { &*to.add(n) }.store(word, Ordering::Relaxed);
        }
    }

    /// Bytes of it to read. Panics beyond the end.
    pub fn input(&self, at: usize, length: usize) -> Input<'_> {
        // SAFETY: within the mapping, which outlives the borrow.
        unsafe { Input::from_raw(self.at(at, length), length) }
    }

    /// Bytes of it to write. Panics beyond the end.
    pub fn output(&self, at: usize, length: usize) -> Output<'_> {
        // SAFETY: as above.
        unsafe { Output::from_raw(self.at(at, length), length) }
    }

    /// Where in it these bytes are, if they are in it.
    pub fn offset(&self, pointer: *const u8, length: usize) -> Option<usize> {
        let at = (pointer as usize).checked_sub(self.base as usize)?;
        (length > 0 && at <= self.length && length <= self.length - at).then_some(at)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.here() {
            // SAFETY: mapped in map(), and nobody borrows it any more.
            unsafe { libc::munmap(self.base.cast(), self.length) };
        }
    }
}

/// Between a store that the other side must see and a load that must see the other side's.
pub fn full_fence() {
    fence(Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memfd;
    use std::os::fd::AsFd;

    #[test]
    fn a_size_is_sealed_and_read_back() {
        let fd = memfd::create().unwrap();
        assert_eq!(sealed_length(fd.as_fd()), None);
        allocate(fd.as_fd(), 8192).unwrap();
        assert_eq!(sealed_length(fd.as_fd()), Some(8192));
        let (one, two) = (
            Shared::map(fd.as_fd(), 8192).unwrap(),
            Shared::map(fd.as_fd(), 8192).unwrap(),
        );
        one.store(64, [1, 2, 3]);
        assert_eq!(two.load(64), [1, 2, 3]);
        one.output(100, 3).copy_from(b"abc");
        assert_eq!(two.input(100, 3).to_vec(), b"abc");
        let inside = one.input(4000, 10);
        assert_eq!(one.offset(inside.as_ptr(), 10), Some(4000));
        assert_eq!(two.offset(inside.as_ptr(), 10), None);
    }
}
