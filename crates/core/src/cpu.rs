//! What this host's CPU cannot do, how many there are, and whether others want them.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// From here on a spin offers its core to others.
const SOON: Duration = Duration::from_micros(4);
/// Whoever offers its core and has it back later than this is among many who want it.
const CROWDED: Duration = Duration::from_micros(50);

/// How many run at once; at least 1. Asked for once: it reads files.
pub fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Looks for `news` rather than to be woken for it, for so long at most. False: others want the core, and
/// whoever sleeps and is woken comes before them.
pub fn spin(patience: Duration, mut news: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    let mut last = begun;
    while !news() {
        for _ in 0..32 {
            std::hint::spin_loop();
        }
        if begun.elapsed() > SOON {
            // Who is to make the news may wait for this very core.
            std::thread::yield_now();
        }
        let now = Instant::now();
        if now - last > CROWDED {
            return false;
        }
        if now - begun >= patience {
            break;
        }
        last = now;
    }
    true
}

/// Whether it could have `feature`, by the name that /proc/cpuinfo has for it, and has not. What its kind of
/// CPU never has it does not lack.
pub fn lacks(feature: &str) -> bool {
    match feature {
        #[cfg(target_arch = "x86_64")]
        "sha_ni" => !std::arch::is_x86_feature_detected!("sha"),
        _ => false,
    }
}
