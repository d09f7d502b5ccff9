//! Around every call: no panic leaves it, what failed is on the host's error stack, and no fork falls into
//! the middle of a call that takes a lock.

use crate::context::Provider;
use crate::error::{Error, Reason, Result};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Gated calls read it; a fork writes it, so that a child finds every lock behind it free.
static GATE: RwLock<()> = RwLock::new(());

thread_local! {
    /// How many gated calls of this thread are under way: a host calls back into us (a store's object, a
    /// decoder's key), and who waits to fork must not come between.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

struct Inside(#[allow(dead_code, reason = "held")] Option<RwLockReadGuard<'static, ()>>);

impl Inside {
    fn enter() -> Inside {
        let outermost = DEPTH.with(|depth| depth.replace(depth.get() + 1) == 0);
        Inside(outermost.then(|| GATE.read().unwrap_or_else(|e| e.into_inner())))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get() - 1));
    }
}

/// Waits until no gated call runs, and keeps others from beginning. Not within one: then this thread forks
/// in a callback of the host's, and only its own call is under way in the child.
pub fn close_gate() -> Option<RwLockWriteGuard<'static, ()>> {
    if DEPTH.with(Cell::get) > 0 {
        return None;
    }
    Some(GATE.write().unwrap_or_else(|e| e.into_inner()))
}

fn shield<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f))
        .unwrap_or_else(|_| Err(Error::new(Reason::INTERNAL, "a panic, which is a bug")))
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
    let _inside = Inside::enter();
    guarded(provider, failed, f)
}

/// A call without a context, on whose behalf nothing can be said; it may take a lock.
pub fn silent<T>(failed: T, f: impl FnOnce() -> Result<T>) -> T {
    let _inside = Inside::enter();
    shield(f).unwrap_or(failed)
}
