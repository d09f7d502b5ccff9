//! Around every call: no panic leaves it, and no fork falls into its middle.

use crate::rv::Result;
use cryptoki_sys::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{RwLock, RwLockWriteGuard};

/// Calls read it; a fork writes it, so that a child finds every lock behind it free.
static GATE: RwLock<()> = RwLock::new(());

/// Runs a call. Nothing is printed: what panics is a bug, and the program's business is its own.
pub fn guarded(f: impl FnOnce() -> Result<()>) -> CK_RV {
    let _gate = GATE.read().unwrap_or_else(|e| e.into_inner());
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(())) => CKR_OK,
        Ok(Err(rv)) => rv.0,
        Err(_) => CKR_GENERAL_ERROR,
    }
}

/// Waits until no call runs, and keeps others from beginning.
pub fn close_gate() -> RwLockWriteGuard<'static, ()> {
    GATE.write().unwrap_or_else(|e| e.into_inner())
}
