//! Attached memory: memfds of ours, and those of others that may lie about everything.
//!
//! What comes from others is read with pread into private memory: a file that shrinks meanwhile gives a
//! short read, where a mapping would give SIGBUS.

use crate::error::{Error, Result};
use crate::sys::buffer::Input;
use crate::sys::fork;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A fresh memfd, empty, close-on-exec.
pub fn create() -> Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: a C string.
    let fd = unsafe { libc::memfd_create(c"cryptofd".as_ptr(), flags) };
    if fd < 0 {
        return Err(Error::last_os("memfd_create for a record's payload"));
    }
    // SAFETY: fresh and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Writes `parts` one after the other and seals the memfd against every change.
pub fn fill(fd: BorrowedFd<'_>, parts: &[Input<'_>]) -> Result<()> {
    let mut offset: libc::off_t = 0;
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() {
            // SAFETY: `rest` is readable for its length.
            let written = unsafe {
                libc::pwrite(
                    fd.as_raw_fd(),
                    rest.as_ptr().cast(),
                    rest.len().min(1 << 30),
                    offset,
                )
            };
            if written <= 0 {
                let error = std::io::Error::last_os_error();
                if written < 0 && error.kind() == std::io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(Error::last_os("writing a record's payload into a memfd"));
            }
            offset += written as libc::off_t;
            rest = rest.split_at(written as usize).1;
        }
    }
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;
    // SAFETY: no memory is involved.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
        return Err(Error::last_os("sealing a memfd"));
    }
    Ok(())
}

/// A fresh memfd with these parts in it.
pub fn with(parts: &[Input<'_>]) -> Result<OwnedFd> {
    let fd = create()?;
    fill(fd.as_fd(), parts)?;
    Ok(fd)
}

/// A private copy of the first `length` bytes of somebody's memfd. EINVAL if it is none, or shorter.
pub fn read(fd: BorrowedFd<'_>, length: usize) -> Result<Vec<u8>> {
    // Pipes, devices, FUSE files: reading them could block for as long as their owner likes. Only memory
    // answers this.
    // SAFETY: no memory is involved.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) } < 0 {
        return Err(Error::invalid(
            "the attached descriptor is not a memfd: memfd_create(2) makes one",
        ));
    }
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` has room for what fstat writes.
    if unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(Error::last_os("fstat of an attached memfd"));
    }
    // SAFETY: fstat succeeded.
    let size = unsafe { stat.assume_init() }.st_size;
    let short = |has: i128| {
        Error::invalid(format!(
            "the attached memfd has {has} bytes, the record speaks of {length}"
        ))
    };
    if (size as i128) < length as i128 {
        return Err(short(size.into()));
    }
    let mut copy = Vec::new();
    copy.try_reserve_exact(length)
        .map_err(|_| Error::system(libc::ENOMEM, "a private copy of an attached memfd"))?;
    while copy.len() < length {
        let (done, space) = (copy.len(), copy.spare_capacity_mut());
        let space = &mut space[..length - done];
        // SAFETY: `space` is writable for its length.
        let got = unsafe {
            libc::pread(
                fd.as_raw_fd(),
                space.as_mut_ptr().cast(),
                space.len().min(1 << 30),
                done as libc::off_t,
            )
        };
        if got < 0 {
            let error = std::io::Error::last_os_error();
            if error.kind() == std::io::ErrorKind::Interrupted {
                continue;
            }
            return Err(match error.raw_os_error() {
                Some(libc::EBADF) => Error::invalid("the attached memfd is not open for reading"),
                errno => Error::system(errno.unwrap_or(libc::EIO), "reading an attached memfd"),
            });
        }
        if got == 0 {
            return Err(short(done as i128));
        }
        // SAFETY: pread wrote these bytes, within the capacity.
        unsafe { copy.set_len(done + got as usize) };
    }
    Ok(copy)
}

/// What is in a sealed memfd of ours, after its descriptor is closed. Gone in a forked child, and not in core
/// dumps.
pub struct Mapped {
    base: *mut libc::c_void,
    length: usize,
    generation: u64,
}

// SAFETY: a pointer to a mapping of its own that nobody writes.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the first `length` bytes, which are there for good.
    pub fn map(fd: BorrowedFd<'_>, length: usize) -> Result<Mapped> {
        // SAFETY: a fresh mapping that nobody else refers to; the advice only takes away from it.
        let base = unsafe {
            let (kind, null) = (libc::MAP_PRIVATE, std::ptr::null_mut());
            let base = libc::mmap(null, length, libc::PROT_READ, kind, fd.as_raw_fd(), 0);
            if base == libc::MAP_FAILED {
                return Err(Error::last_os("mapping a request's payload"));
            }
            if libc::madvise(base, length, libc::MADV_DONTFORK) != 0 {
                let error = Error::last_os("mapping a request's payload");
                libc::munmap(base, length);
                return Err(error);
            }
            libc::madvise(base, length, libc::MADV_DONTDUMP);
            base
        };
        Ok(Mapped {
            base,
            length,
            generation: fork::generation(),
        })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes; none in a forked child.
    pub fn input(&self) -> Input<'_> {
        if self.generation != fork::generation() {
            return Input::EMPTY;
        }
        // SAFETY: mapped here for so many bytes, which the file's seals keep there, and outliving the borrow.
        unsafe { Input::from_raw(self.base.cast(), self.length) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if self.generation == fork::generation() {
            // SAFETY: mapped in map(), and nobody borrows it any more.
            unsafe { libc::munmap(self.base, self.length) };
        }
    }
}
