//! OSSL_provider_init, and the functions of the provider itself (provider-base(7)).

use super::core::Core;
use super::params::{Asked, described, int, text, text_ptr};
use super::provider;
use super::types::provider as own;
use super::types::*;
use crate::call::{gated, silent};
use crate::context::Provider;
use crate::error::REASONS;
use cryptofd_core::engines;
use cryptofd_core::sys::gate;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Arc, OnceLock};

/// The one symbol. 1, or 0 where the configuration is wrong (said on the error stack).
///
/// # Safety
/// By the core of a libcrypto, as provider-base(7) says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn OSSL_provider_init(
    handle: *const OSSL_CORE_HANDLE,
    core: *const OSSL_DISPATCH,
    out: *mut *const OSSL_DISPATCH,
    provctx: *mut *mut c_void,
) -> c_int {
    silent(0, || {
        gate::watch_forks();
        engines::leave_out("openssl", "it is the program's own, which asks us");
        // SAFETY: as the caller vouches.
        unsafe {
            let made = Provider::new(Core::new(handle, core))?;
            *out = FUNCTIONS.as_ptr();
            *provctx = Arc::into_raw(made).cast_mut().cast();
        }
        Ok(1)
    })
}

static FUNCTIONS: [OSSL_DISPATCH; 8] = [
    OSSL_DISPATCH::new(own::TEARDOWN, teardown as *const c_void),
    OSSL_DISPATCH::new(own::GETTABLE_PARAMS, gettable_params as *const c_void),
    OSSL_DISPATCH::new(own::GET_PARAMS, get_params as *const c_void),
    OSSL_DISPATCH::new(own::QUERY_OPERATION, query_operation as *const c_void),
    OSSL_DISPATCH::new(own::GET_REASON_STRINGS, get_reason_strings as *const c_void),
    OSSL_DISPATCH::new(own::GET_CAPABILITIES, get_capabilities as *const c_void),
    OSSL_DISPATCH::new(own::SELF_TEST, self_test as *const c_void),
    OSSL_DISPATCH::END,
];

unsafe extern "C" fn teardown(provctx: *mut c_void) {
    silent((), || {
        // SAFETY: what OSSL_provider_init gave, for the last time.
        unsafe { drop(Arc::from_raw(provctx.cast_const().cast::<Provider>())) };
        Ok(())
    });
}

described!(GETTABLE:
    text_ptr(c"name"),
    text_ptr(c"version"),
    text_ptr(c"buildinfo"),
    int(c"status"),
    text_ptr(c"profile"),
    text(c"measured"),
);

unsafe extern "C" fn gettable_params(_: *mut c_void) -> *const OSSL_PARAM {
    GETTABLE.as_ptr()
}

const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => c"",
    };

unsafe extern "C" fn get_params(provctx: *mut c_void, params: *mut OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    let (provider, mut asked) = unsafe { (provider(provctx), Asked::new(params)) };
    gated(&provider, 0, || {
        asked.answer(|key, slot| match key.to_bytes() {
            b"name" => slot.text_ptr(c"cryptofd's provider"),
            b"version" | b"buildinfo" => slot.text_ptr(VERSION),
            b"status" => slot.integer(1),
            b"measured" => slot.text(provider.measured()),
            b"profile" => slot.text_ptr(provider.profile().word()),
            _ => Ok(()),
        })?;
        Ok(1)
    })
}

pub(super) unsafe extern "C" fn query_operation(
    provctx: *mut c_void,
    operation: c_int,
    no_store: *mut c_int,
) -> *const OSSL_ALGORITHM {
    // SAFETY: of the host.
    let provider = unsafe { provider(provctx) };
    // The lists live as long as the provider. The first question may be one that measures.
    gated(&provider, std::ptr::null(), || {
        let (list, last_word) = provider.list(operation);
        if !no_store.is_null() {
            // SAFETY: not null, and then a place for an int.
            unsafe { *no_store = (!last_word).into() };
        }
        Ok(list.map_or(std::ptr::null(), <[OSSL_ALGORITHM]>::as_ptr))
    })
}

unsafe extern "C" fn get_reason_strings(_: *mut c_void) -> *const OSSL_ITEM {
    static ITEMS: OnceLock<Vec<OSSL_ITEM>> = OnceLock::new();
    let items = ITEMS.get_or_init(|| {
        let item = |&(id, text): &(u32, &'static CStr)| OSSL_ITEM {
            id,
            ptr: text.as_ptr().cast(),
        };
        let end = OSSL_ITEM {
            id: 0,
            ptr: std::ptr::null(),
        };
        REASONS.iter().map(item).chain([end]).collect()
    });
    items.as_ptr()
}

/// Groups and signature algorithms of TLS are the default provider's: no family adds one.
unsafe extern "C" fn get_capabilities(
    _: *mut c_void,
    _capability: *const c_char,
    _callback: *const c_void,
    _argument: *mut c_void,
) -> c_int {
    1
}

/// Every engine passes the known-answer test of an algorithm before it serves it; nothing is left to do here.
unsafe extern "C" fn self_test(_: *mut c_void) -> c_int {
    1
}
