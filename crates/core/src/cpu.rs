//! What this host's CPU cannot do.

/// Whether it could have `feature`, by the name that /proc/cpuinfo has for it, and has not. What its kind of
/// CPU never has it does not lack.
pub fn lacks(feature: &str) -> bool {
    match feature {
        #[cfg(target_arch = "x86_64")]
        "sha_ni" => !std::arch::is_x86_feature_detected!("sha"),
        _ => false,
    }
}
