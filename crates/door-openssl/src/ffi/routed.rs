//! Contexts of what an engine does faster only from some size on: each is the host's own, and where the first piece
//! of a message is long enough, ours takes the message over before it begins. So small work costs what it cost
//! without this provider, but for a comparison.
//!
//! Nothing here may panic: it copies a few bytes and calls functions of both sides, and ours have their own guard.

mod crypting;
mod hashing;
#[cfg(test)]
mod tests;

pub use crypting::{Cipher, functions as ciphers};
pub use hashing::{Digest, functions as digests};

use super::host::Implementation;
use super::types::*;
use super::{give, take};
use crate::context::Provider;
use crate::error::Result;
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

type New = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
type Dup = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type SetParams = unsafe extern "C" fn(*mut c_void, *const OSSL_PARAM) -> c_int;
type GetParams = unsafe extern "C" fn(*mut c_void, *mut OSSL_PARAM) -> c_int;
type Final = unsafe extern "C" fn(*mut c_void, *mut u8, *mut usize, usize) -> c_int;

/// What begins and ends an implementation's contexts.
struct Life {
    provctx: *mut c_void,
    new: New,
    dup: Dup,
    free: Free,
}

/// The functions of one implementation.
pub trait Side {
    /// What begins and ends its contexts.
    #[allow(private_interfaces, reason = "of use here alone")]
    fn life(&self) -> &Life;
}

/// Where the work of one algorithm goes.
pub struct Route<S> {
    theirs: S,
    ours: S,
    /// From how many bytes on it is ours.
    from: usize,
    /// Keeps the host's functions there.
    #[allow(dead_code, reason = "held")]
    host: Implementation,
}

// SAFETY: constants of providers that are kept, whose functions may be called from every thread.
unsafe impl<S> Send for Route<S> {}
// SAFETY: as above.
unsafe impl<S> Sync for Route<S> {}

/// The routes of a family, by place.
pub type Routes<S> = Vec<OnceLock<Route<S>>>;

impl<S> Route<S> {
    /// `side`: the functions of an implementation.
    pub fn new(
        ours: &Implementation,
        host: Implementation,
        from: usize,
        side: impl Fn(&Implementation) -> Result<S>,
    ) -> Result<Route<S>> {
        Ok(Route {
            theirs: side(&host)?,
            ours: side(ours)?,
            from,
            host,
        })
    }
}

/// The provider, which the host keeps for as long as a context of it lives (provider(7)), and with it its routes.
unsafe fn of<'a>(provctx: *mut c_void) -> &'a Provider {
    // SAFETY: what OSSL_provider_init gave, and has not been torn down.
    unsafe { &*provctx.cast_const().cast::<Provider>() }
}

/// A context of each side, of which one has the message.
struct Both<S: Side> {
    route: *const Route<S>,
    at_theirs: *mut c_void,
    /// Null until it is needed.
    at_ours: *mut c_void,
    /// Whether this message is ours.
    taken: bool,
    /// Whether it may be: nothing of it has gone in.
    free: bool,
    /// Whether theirs was told something that ours was not: the host's for good, as that may outlast a message.
    stays: bool,
}

impl<S: Side> Both<S> {
    /// The host's, for now. None where it makes none.
    ///
    /// # Safety
    /// The route outlives it.
    unsafe fn new(route: &Route<S>) -> Option<Both<S>> {
        let life = route.theirs.life();
        // SAFETY: theirs makes its own.
        let at_theirs = unsafe { (life.new)(life.provctx) };
        (!at_theirs.is_null()).then_some(Both {
            route,
            at_theirs,
            at_ours: std::ptr::null_mut(),
            taken: false,
            free: false,
            stays: false,
        })
    }

    fn route(&self) -> &Route<S> {
        // SAFETY: it goes with the provider, by new().
        unsafe { &*self.route }
    }

    /// Another that goes on from here; each side copies its own.
    unsafe fn copy(&self) -> Option<Both<S>> {
        let route = self.route();
        let mut copy = Both {
            at_theirs: std::ptr::null_mut(),
            at_ours: std::ptr::null_mut(),
            ..*self
        };
        // SAFETY: made by the sides' own functions.
        unsafe {
            copy.at_theirs = (route.theirs.life().dup)(self.at_theirs);
            if self.taken {
                copy.at_ours = (route.ours.life().dup)(self.at_ours);
            }
        }
        let whole = !copy.at_theirs.is_null() && self.taken != copy.at_ours.is_null();
        whole.then_some(copy)
    }

    /// The side that has the message, and its context.
    fn now(&self) -> (&S, *mut c_void) {
        if self.taken {
            (&self.route().ours, self.at_ours)
        } else {
            (&self.route().theirs, self.at_theirs)
        }
    }

    /// Makes the message ours, which has not begun, if `begin` succeeds with a context of ours; else it stays the
    /// host's, and nothing is said of it.
    #[cold]
    unsafe fn take(&mut self, begin: impl FnOnce(&S, *mut c_void) -> bool) {
        let ours = &self.route().ours;
        let life = ours.life();
        let mut at = self.at_ours;
        // SAFETY: ours makes its own; its provider is this one.
        let provider = unsafe {
            if at.is_null() {
                at = (life.new)(life.provctx);
            }
            of(life.provctx)
        };
        let begun = !at.is_null() && provider.core().forgetting(|| begin(ours, at));
        self.at_ours = at;
        self.taken = begun;
    }
}

impl<S: Side> Drop for Both<S> {
    fn drop(&mut self) {
        let route = self.route();
        // SAFETY: made by the sides' own functions, and not used again.
        unsafe {
            if !self.at_theirs.is_null() {
                (route.theirs.life().free)(self.at_theirs);
            }
            if !self.at_ours.is_null() {
                (route.ours.life().free)(self.at_ours);
            }
        }
    }
}

/// Frees a context of ours with both.
unsafe extern "C" fn end<C>(context: *mut c_void) {
    // SAFETY: of the host, for the last time.
    drop(unsafe { take::<C>(context) });
}
