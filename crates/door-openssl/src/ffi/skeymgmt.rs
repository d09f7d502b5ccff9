//! The C side of symmetric keys (provider-skeymgmt(7)).

use super::params::{Given, described, end, octets, size, text};
use super::types::*;
use super::{freectx, give, provider};
use crate::call::gated;
use crate::context::Provider;
use crate::making::{ALGORITHM, USAGE};
use crate::secret_key::PARAMETER;
use crate::skeys::Symmetric;
use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

/// OSSL_SKEYMGMT_SELECT_SECRET_KEY.
const SECRET: c_int = 2;

type Callback = unsafe extern "C" fn(*const OSSL_PARAM, *mut c_void) -> c_int;

/// What a host holds.
struct Held {
    provider: Arc<Provider>,
    key: Symmetric,
}

/// A key that a host brings; many threads may. Null is none.
///
/// # Safety
/// `pointer` is null or a key of ours, not freed during 'a.
pub unsafe fn symmetric<'a>(pointer: *const c_void) -> Option<&'a Symmetric> {
    // SAFETY: as the caller vouches.
    unsafe { pointer.cast::<Held>().as_ref().map(|held| &held.key) }
}

/// The functions of the type at this place.
pub fn functions(place: usize) -> &'static [OSSL_DISPATCH] {
    let f = OSSL_DISPATCH::new;
    let import = [import::<0> as *const c_void, import::<1> as *const c_void];
    let generate = [
        generate::<0> as *const c_void,
        generate::<1> as *const c_void,
    ];
    let all = vec![
        f(skeymgmt::FREE, freectx::<Held> as *const c_void),
        f(skeymgmt::IMPORT, import[place]),
        f(skeymgmt::EXPORT, export as *const c_void),
        f(skeymgmt::GET_KEY_ID, get_key_id as *const c_void),
        f(
            skeymgmt::IMP_SETTABLE_PARAMS,
            imp_settable_params as *const c_void,
        ),
        f(skeymgmt::GENERATE, generate[place]),
        f(
            skeymgmt::GEN_SETTABLE_PARAMS,
            gen_settable_params as *const c_void,
        ),
        OSSL_DISPATCH::END,
    ];
    all.leak()
}

described!(SETTABLE: octets(c"raw-bytes"), size(c"key-length"), text(PARAMETER));

unsafe extern "C" fn imp_settable_params(_: *mut c_void) -> *const OSSL_PARAM {
    SETTABLE.as_ptr()
}

unsafe extern "C" fn import<const N: usize>(
    provctx: *mut c_void,
    selection: c_int,
    params: *const OSSL_PARAM,
) -> *mut c_void {
    // SAFETY: of the host.
    let (provider, params) = unsafe { (provider(provctx), Given::new(params)) };
    let made = gated(&provider, None, || {
        if selection & SECRET == 0 {
            return Ok(None);
        }
        let key = Symmetric::import(N, params)?;
        let provider = provider.clone();
        Ok(Some(Box::new(Held { provider, key })))
    });
    give(made)
}

described!(GENERATED: size(c"key-length"), text(PARAMETER), text(ALGORITHM), text(USAGE));

unsafe extern "C" fn gen_settable_params(_: *mut c_void) -> *const OSSL_PARAM {
    GENERATED.as_ptr()
}

unsafe extern "C" fn generate<const N: usize>(
    provctx: *mut c_void,
    params: *const OSSL_PARAM,
) -> *mut c_void {
    // SAFETY: of the host.
    let (provider, params) = unsafe { (provider(provctx), Given::new(params)) };
    let made = gated(&provider, None, || {
        let key = Symmetric::generate(N, params)?;
        let provider = provider.clone();
        Ok(Some(Box::new(Held { provider, key })))
    });
    give(made)
}

unsafe extern "C" fn export(
    held: *mut c_void,
    selection: c_int,
    callback: Callback,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: of the host; other threads may have it.
    let held = unsafe { &*held.cast::<Held>() };
    gated(&held.provider, 0, || {
        if selection & SECRET == 0 {
            return Ok(0);
        }
        let bytes = held.key.bytes()?;
        let list = [
            OSSL_PARAM {
                data: bytes.as_ptr().cast_mut().cast(),
                data_size: bytes.len(),
                ..octets(c"raw-bytes")
            },
            end(),
        ];
        // SAFETY: a list with an end, whose data live through the call.
        Ok(unsafe { callback(list.as_ptr(), argument) })
    })
}

unsafe extern "C" fn get_key_id(held: *mut c_void) -> *const c_char {
    // SAFETY: of the host.
    let key = unsafe { symmetric(held) };
    key.and_then(Symmetric::id)
        .map_or(std::ptr::null(), |id| id.as_ptr())
}
