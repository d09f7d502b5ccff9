//! The C side of key derivation.

use super::params::{Asked, Given, Own, described, int, octets, size, text, uint, uint64};
use super::skeymgmt::symmetric;
use super::types::*;
use super::{Tables, freectx, give, held, numbered, provider};
use crate::call::{gated, silent};
use crate::context::Provider;
use crate::error::{Error, Reason, Result};
use crate::kdf::{Deriving, variants};
use crate::secret_key::PARAMETER;
use crate::skeys::Symmetric;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;

/// What a host holds.
struct Context {
    provider: Arc<Provider>,
    deriving: Deriving,
}

/// The functions of a construction.
pub fn functions(place: usize) -> &'static [OSSL_DISPATCH] {
    static ALL: Tables = Tables::new();
    ALL.get(place, variants().len(), table)
}

fn table(place: usize) -> Vec<OSSL_DISPATCH> {
    let f = OSSL_DISPATCH::new;
    vec![
        f(kdf::NEWCTX, NEWCTX[place]),
        f(kdf::DUPCTX, dupctx as *const c_void),
        f(kdf::FREECTX, freectx::<Context> as *const c_void),
        f(kdf::RESET, reset as *const c_void),
        f(kdf::DERIVE, derive as *const c_void),
        f(kdf::SET_SKEY, set_skey as *const c_void),
        f(kdf::SET_CTX_PARAMS, set_ctx_params as *const c_void),
        f(kdf::GET_CTX_PARAMS, get_ctx_params as *const c_void),
        f(
            kdf::SETTABLE_CTX_PARAMS,
            settable_ctx_params as *const c_void,
        ),
        f(
            kdf::GETTABLE_CTX_PARAMS,
            gettable_ctx_params as *const c_void,
        ),
    ]
}

numbered!(NEWCTX, newctx);

described!(SETTABLE:
    text(c"digest"),
    text(c"mac"),
    text(c"cipher"),
    text(c"properties"),
    text(c"mode"),
    int(c"mode"),
    octets(c"key"),
    octets(c"pass"),
    octets(c"salt"),
    octets(c"info"),
    octets(c"seed"),
    uint64(c"iter"),
    int(c"pkcs5"),
    uint64(c"n"),
    uint(c"r"),
    uint(c"p"),
    uint64(c"maxmem_bytes"),
    int(c"use-l"),
    int(c"use-separator"),
    text(PARAMETER),
);
described!(GETTABLE: size(c"size"), octets(c"info"));

unsafe extern "C" fn newctx<const N: usize>(provctx: *mut c_void) -> *mut c_void {
    // SAFETY: of the host.
    let provider = unsafe { provider(provctx) };
    let made = silent(None, || {
        Ok(Some(Box::new(Context {
            deriving: Deriving::new(&provider, &variants()[N])?,
            provider,
        })))
    });
    give(made)
}

/// Runs `f` on a context, and it may take a lock.
unsafe fn with(context: *mut c_void, f: impl FnOnce(&mut Deriving) -> Result<()>) -> c_int {
    // SAFETY: of the host.
    let context = unsafe { held::<Context>(context) };
    let deriving = &mut context.deriving;
    gated(&context.provider, 0, || f(deriving).map(|()| 1))
}

unsafe extern "C" fn dupctx(context: *mut c_void) -> *mut c_void {
    // SAFETY: of the host.
    let context = unsafe { held::<Context>(context) };
    let made = gated(&context.provider, None, || {
        Ok(Some(Box::new(Context {
            provider: context.provider.clone(),
            deriving: context.deriving.fork()?,
        })))
    });
    give(made)
}

unsafe extern "C" fn reset(context: *mut c_void) {
    // SAFETY: of the host.
    unsafe {
        with(context, |deriving| {
            deriving.reset();
            Ok(())
        });
    }
}

unsafe extern "C" fn derive(
    context: *mut c_void,
    out: *mut u8,
    length: usize,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host; a derived key's place is its own private memory.
    unsafe {
        let out = if out.is_null() || length == 0 {
            &mut []
        } else {
            std::slice::from_raw_parts_mut(out, length)
        };
        let params = Given::new(params);
        with(context, |deriving| deriving.derive(out, params))
    }
}

unsafe extern "C" fn set_ctx_params(context: *mut c_void, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let params = Given::new(params);
        with(context, |deriving| deriving.set_params(params))
    }
}

unsafe extern "C" fn set_skey(
    context: *mut c_void,
    key: *const c_void,
    name: *const c_char,
) -> c_int {
    // SAFETY: of the host; the name is text, or null.
    unsafe {
        let key = symmetric(key);
        let password = !name.is_null() && CStr::from_ptr(name) == c"pass";
        with(context, |deriving| match key {
            None => {
                let text = "no key was given";
                Err(Error::new(Reason::MISSING_KEY, text))
            }
            Some(Symmetric::Own(key)) => {
                let mut own = Own::default();
                own.octets(if password { c"pass" } else { c"key" }, key.expose());
                deriving.set_params(own.given())
            }
            Some(Symmetric::Kept(key)) => {
                deriving.keep(key.clone());
                Ok(())
            }
        })
    }
}

unsafe extern "C" fn get_ctx_params(context: *mut c_void, params: *mut OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let mut asked = Asked::new(params);
        with(context, |deriving| deriving.get_params(&mut asked))
    }
}

unsafe extern "C" fn settable_ctx_params(_: *mut c_void, _: *mut c_void) -> *const OSSL_PARAM {
    SETTABLE.as_ptr()
}

unsafe extern "C" fn gettable_ctx_params(_: *mut c_void, _: *mut c_void) -> *const OSSL_PARAM {
    GETTABLE.as_ptr()
}
