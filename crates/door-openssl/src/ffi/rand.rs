//! The C side of random bytes.

use super::params::{Asked, described, int, size, uint};
use super::types::*;
use super::{freectx, give, provider, shared};
use crate::call::{gated, silent};
use crate::context::Provider;
use crate::error::Result;
use crate::rand::Generator;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::{Arc, Mutex};

/// What a host holds. Threads share it (the primary generator), with the host's own locks around calls only
/// where it asked for them.
struct Context {
    provider: Arc<Provider>,
    generator: Mutex<Generator>,
}

/// The functions of the generator.
pub fn functions() -> &'static [OSSL_DISPATCH] {
    static ALL: [OSSL_DISPATCH; 14] = [
        OSSL_DISPATCH::new(rand::NEWCTX, newctx as *const c_void),
        OSSL_DISPATCH::new(rand::FREECTX, freectx::<Context> as *const c_void),
        OSSL_DISPATCH::new(rand::INSTANTIATE, instantiate as *const c_void),
        OSSL_DISPATCH::new(rand::UNINSTANTIATE, uninstantiate as *const c_void),
        OSSL_DISPATCH::new(rand::GENERATE, generate as *const c_void),
        OSSL_DISPATCH::new(rand::RESEED, reseed as *const c_void),
        OSSL_DISPATCH::new(rand::NONCE, nonce as *const c_void),
        OSSL_DISPATCH::new(rand::ENABLE_LOCKING, fine as *const c_void),
        OSSL_DISPATCH::new(rand::LOCK, fine as *const c_void),
        OSSL_DISPATCH::new(rand::UNLOCK, nothing as *const c_void),
        OSSL_DISPATCH::new(rand::GET_CTX_PARAMS, get_ctx_params as *const c_void),
        OSSL_DISPATCH::new(
            rand::GETTABLE_CTX_PARAMS,
            gettable_ctx_params as *const c_void,
        ),
        OSSL_DISPATCH::new(rand::VERIFY_ZEROIZATION, fine as *const c_void),
        OSSL_DISPATCH::END,
    ];
    &ALL
}

described!(GETTABLE:
    int(c"state"),
    uint(c"strength"),
    size(c"max_request"),
    uint(c"reseed_counter"),
);

unsafe extern "C" fn newctx(
    provctx: *mut c_void,
    _parent: *mut c_void,
    _calls: *const OSSL_DISPATCH,
) -> *mut c_void {
    // SAFETY: of the host.
    let provider = unsafe { provider(provctx) };
    let made = silent(None, || {
        Ok(Some(Box::new(Context {
            provider,
            generator: Mutex::default(),
        })))
    });
    give(made)
}

/// Runs `f` on a context.
unsafe fn with(context: *mut c_void, f: impl FnOnce(&mut Generator) -> Result<()>) -> c_int {
    // SAFETY: of the host.
    let context = unsafe { shared::<Context>(context) };
    gated(&context.provider, 0, || {
        let mut generator = context.generator.lock().unwrap_or_else(|e| e.into_inner());
        f(&mut generator).map(|()| 1)
    })
}

unsafe extern "C" fn instantiate(
    context: *mut c_void,
    _strength: c_uint,
    _prediction_resistance: c_int,
    _personal: *const u8,
    _length: usize,
    _params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        with(context, |generator| {
            generator.set_ready(true);
            Ok(())
        })
    }
}

unsafe extern "C" fn uninstantiate(context: *mut c_void) -> c_int {
    // SAFETY: of the host.
    unsafe {
        with(context, |generator| {
            generator.set_ready(false);
            Ok(())
        })
    }
}

unsafe extern "C" fn generate(
    context: *mut c_void,
    out: *mut u8,
    length: usize,
    strength: c_uint,
    _prediction_resistance: c_int,
    _additional: *const u8,
    _additional_length: usize,
) -> c_int {
    if out.is_null() || length == 0 {
        return 1;
    }
    // SAFETY: of the host.
    unsafe {
        let out = std::slice::from_raw_parts_mut(out, length);
        with(context, |generator| generator.generate(out, strength))
    }
}

unsafe extern "C" fn reseed(
    _context: *mut c_void,
    _prediction_resistance: c_int,
    _entropy: *const u8,
    _length: usize,
    _additional: *const u8,
    _additional_length: usize,
) -> c_int {
    1
}

unsafe extern "C" fn nonce(
    context: *mut c_void,
    out: *mut u8,
    strength: c_uint,
    least: usize,
    _most: usize,
) -> usize {
    if out.is_null() {
        return least;
    }
    // SAFETY: of the host.
    let done = unsafe {
        let out = std::slice::from_raw_parts_mut(out, least);
        with(context, |generator| generator.generate(out, strength))
    };
    if done == 1 { least } else { 0 }
}

unsafe extern "C" fn fine(_: *mut c_void) -> c_int {
    1
}

unsafe extern "C" fn nothing(_: *mut c_void) {}

unsafe extern "C" fn get_ctx_params(context: *mut c_void, params: *mut OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let mut asked = Asked::new(params);
        with(context, |generator| generator.get_params(&mut asked))
    }
}

unsafe extern "C" fn gettable_ctx_params(_: *mut c_void, _: *mut c_void) -> *const OSSL_PARAM {
    GETTABLE.as_ptr()
}
