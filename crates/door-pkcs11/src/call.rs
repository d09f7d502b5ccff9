//! Around every call: no panic leaves it, and no fork falls into its middle.

use crate::rv::Result;
use cryptofd_core::sys::gate;
use cryptoki_sys::*;

/// Runs a call. What panics is a bug, and the program's business is its own.
pub fn guarded(f: impl FnOnce() -> Result<()>) -> CK_RV {
    let _inside = gate::enter();
    match gate::quietly(f) {
        Some(Ok(())) => CKR_OK,
        Some(Err(rv)) => rv.0,
        None => CKR_GENERAL_ERROR,
    }
}
