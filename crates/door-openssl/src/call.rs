//! Around every call: no panic leaves it, what failed is on the host's error stack, and no fork falls into
//! the middle of a call that takes a lock.

use crate::context::Provider;
use crate::error::{Error, Reason, Result};
use cryptofd_core::sys::gate;

fn shield<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    gate::quietly(f).unwrap_or_else(|| Err(Error::new(Reason::INTERNAL, "a panic, which is a bug")))
}

/// Runs a call that takes no lock: work on a context that one thread has. `failed` where it fails, with the
/// reason on the error stack.
#[inline]
pub fn guarded<T>(provider: &Provider, failed: T, f: impl FnOnce() -> Result<T>) -> T {
    match shield(f) {
        Ok(value) => value,
        Err(error) => {
            provider.core().raise(&error);
            failed
        }
    }
}

/// Runs a call that may take a lock: one that opens a session, asks the broker, allocates secrets.
pub fn gated<T>(provider: &Provider, failed: T, f: impl FnOnce() -> Result<T>) -> T {
    let _inside = gate::enter();
    guarded(provider, failed, f)
}

/// One of the two: a call that takes locks where a worker is asked.
#[inline]
pub fn asking<T>(asks: bool, provider: &Provider, failed: T, f: impl FnOnce() -> Result<T>) -> T {
    if asks {
        gated(provider, failed, f)
    } else {
        guarded(provider, failed, f)
    }
}

/// A call without a context, on whose behalf nothing can be said; it may take a lock.
pub fn silent<T>(failed: T, f: impl FnOnce() -> Result<T>) -> T {
    let _inside = gate::enter();
    shield(f).unwrap_or(failed)
}
