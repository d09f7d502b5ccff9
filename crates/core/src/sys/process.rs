//! Who this process is.

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
