//! The C side of keys that the broker makes for a program (provider-keymgmt(7), generation).

use super::keymgmt::{BOTH, Held, key};
use super::params::{Given, described, number, size, text};
use super::types::*;
use super::{freectx, give, held, numbered, provider};
use crate::call::{gated, guarded};
use crate::context::Provider;
use crate::error::{Error, Reason};
use crate::making::{Pair, USAGE};
use crate::pair::{EC, TYPES};
use crate::secret_key::PARAMETER;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

/// What a host holds meanwhile.
struct Context {
    provider: Arc<Provider>,
    pair: Pair,
    /// Or only the parameters of a key that is to be: its curve.
    whole: bool,
}

/// The functions of the type at this place, among those of its key manager.
pub fn functions(place: usize) -> [OSSL_DISPATCH; 6] {
    let f = OSSL_DISPATCH::new;
    [
        f(keymgmt::GEN_INIT, INIT[place]),
        f(keymgmt::GEN_SET_TEMPLATE, set_template as *const c_void),
        f(keymgmt::GEN_SET_PARAMS, set_params as *const c_void),
        f(keymgmt::GEN_SETTABLE_PARAMS, SETTABLE_PARAMS[place]),
        f(keymgmt::GEN, generate as *const c_void),
        f(keymgmt::GEN_CLEANUP, freectx::<Context> as *const c_void),
    ]
}

numbered!(INIT, init);
numbered!(SETTABLE_PARAMS, settable_params);

unsafe extern "C" fn init<const N: usize>(
    provctx: *mut c_void,
    selection: c_int,
    params: *const OSSL_PARAM,
) -> *mut c_void {
    // SAFETY: of the host.
    let (provider, params) = unsafe { (provider(provctx), Given::new(params)) };
    let made = gated(&provider, None, || {
        let whole = selection & BOTH != 0;
        if !whole && N != EC {
            let text = "only keys on curves have parameters";
            return Err(Error::new(Reason::UNSUPPORTED, text));
        }
        let mut pair = Pair::new(N);
        pair.set(params)?;
        let provider = provider.clone();
        Ok(Some(Box::new(Context {
            provider,
            pair,
            whole,
        })))
    });
    give(made)
}

unsafe extern "C" fn set_template(context: *mut c_void, template: *mut c_void) -> c_int {
    if context.is_null() || template.is_null() {
        return 0;
    }
    // SAFETY: of the host: a key of this type's.
    let (context, template) = unsafe { (held::<Context>(context), key(template)) };
    guarded(&context.provider, 0, || {
        context.pair.like(&template.key);
        Ok(1)
    })
}

unsafe extern "C" fn set_params(context: *mut c_void, params: *const OSSL_PARAM) -> c_int {
    if context.is_null() {
        return 0;
    }
    // SAFETY: of the host.
    let (context, params) = unsafe { (held::<Context>(context), Given::new(params)) };
    guarded(&context.provider, 0, || {
        context.pair.set(params)?;
        Ok(1)
    })
}

described!(RSA: text(PARAMETER), text(USAGE), size(c"bits"), number(c"e"), size(c"primes"));
described!(CURVES: text(PARAMETER), text(USAGE), text(c"group"), text(c"encoding"), text(c"point-format"));
described!(PLAIN: text(PARAMETER), text(USAGE));

unsafe extern "C" fn settable_params<const N: usize>(
    _: *mut c_void,
    _: *mut c_void,
) -> *const OSSL_PARAM {
    match TYPES[N].name.to_bytes() {
        b"RSA" => RSA.as_ptr(),
        b"EC" => CURVES.as_ptr(),
        _ => PLAIN.as_ptr(),
    }
}

/// The broker does not say how far it is: the callback hears nothing.
unsafe extern "C" fn generate(
    context: *mut c_void,
    _progress: *mut c_void,
    _argument: *mut c_void,
) -> *mut c_void {
    if context.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: of the host.
    let context = unsafe { held::<Context>(context) };
    gated(&context.provider, std::ptr::null_mut(), || {
        let key = Arc::new(match context.whole {
            true => context.pair.make()?,
            false => context.pair.parameters()?,
        });
        let provider = context.provider.clone();
        Ok(Held { provider, key }.lend().cast())
    })
}
