//! Who this process is.

use super::fork;
use std::sync::atomic::{AtomicU64, Ordering};

/// The effective uid.
pub fn effective_uid() -> u32 {
    // SAFETY: takes nothing and always succeeds.
    unsafe { libc::geteuid() }
}

/// Whether the program runs with more rights than whoever started it (set-uid, set-gid, file
/// capabilities; getauxval(3), AT_SECURE).
pub fn is_privileged() -> bool {
    // SAFETY: takes a number; 0 where the kernel says nothing.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// This process's number, asked for once in each.
pub fn id() -> u32 {
    static KNOWN: AtomicU64 = AtomicU64::new(0);
    // A child has another generation; both begin at 1.
    let generation = fork::generation() << 32;
    let known = KNOWN.load(Ordering::Relaxed);
    if known & !0xffff_ffff == generation {
        return known as u32;
    }
    let id = std::process::id();
    KNOWN.store(generation | u64::from(id), Ordering::Relaxed);
    id
}

#[cfg(test)]
mod tests {
    use super::id;
    use crate::sys::forked::in_child;

    #[test]
    fn a_child_has_a_number_of_its_own() {
        assert_eq!(id(), std::process::id());
        let right = in_child(|| vec![u8::from(id() == std::process::id())]);
        assert_eq!(right, Some(vec![1]));
        assert_eq!(id(), std::process::id());
    }
}
