//! The C side of MACs.

use super::params::{Asked, Given, described, int, octets, size, text};
use super::skeymgmt::symmetric;
use super::types::*;
use super::{Tables, freectx, give, held, input, numbered, output, provider};
use crate::call::{asking, gated, silent};
use crate::context::Provider;
use crate::error::Result;
use crate::mac::{Over, Running, variants};
use crate::secret_key::PARAMETER;
use crate::skeys::Symmetric;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

/// What a host holds.
struct Context {
    provider: Arc<Provider>,
    running: Running,
}

/// The functions of a MAC.
pub fn functions(place: usize) -> &'static [OSSL_DISPATCH] {
    static ALL: Tables = Tables::new();
    ALL.get(place, variants().len(), table)
}

fn table(place: usize) -> Vec<OSSL_DISPATCH> {
    let f = OSSL_DISPATCH::new;
    let mut all = vec![
        f(mac::NEWCTX, NEWCTX[place]),
        f(mac::DUPCTX, dupctx as *const c_void),
        f(mac::FREECTX, freectx::<Context> as *const c_void),
        f(mac::INIT, init as *const c_void),
        f(mac::INIT_SKEY, init_skey as *const c_void),
        f(mac::UPDATE, update as *const c_void),
        f(mac::FINAL, finish as *const c_void),
        f(mac::SET_CTX_PARAMS, set_ctx_params as *const c_void),
        f(mac::SETTABLE_CTX_PARAMS, SETTABLE_CTX_PARAMS[place]),
        f(mac::GET_CTX_PARAMS, get_ctx_params as *const c_void),
        f(
            mac::GETTABLE_CTX_PARAMS,
            gettable_ctx_params as *const c_void,
        ),
    ];
    if variants()[place].size().is_some() {
        all.extend([
            f(mac::GET_PARAMS, GET_PARAMS[place]),
            f(mac::GETTABLE_PARAMS, gettable_params as *const c_void),
        ]);
    }
    all
}

numbered!(NEWCTX, newctx);
numbered!(GET_PARAMS, get_params);
numbered!(SETTABLE_CTX_PARAMS, settable_ctx_params);

described!(SIZE: size(c"size"));
described!(SIZES: size(c"size"), size(c"block-size"));
described!(OF_DIGEST:
    text(c"digest"),
    text(c"properties"),
    octets(c"key"),
    int(c"digest-noinit"),
    int(c"digest-oneshot"),
    size(c"tls-data-size"),
    text(PARAMETER),
);
described!(OF_CIPHER: text(c"cipher"), text(c"properties"), octets(c"key"),
    text(PARAMETER));
described!(OF_NONCE: text(c"cipher"), text(c"properties"), octets(c"key"), octets(c"iv"),
    text(PARAMETER));
described!(OF_ITSELF: octets(c"key"));
described!(OF_BLAKE2: size(c"size"), octets(c"key"), octets(c"custom"), octets(c"salt"));

unsafe extern "C" fn newctx<const N: usize>(provctx: *mut c_void) -> *mut c_void {
    // SAFETY: of the host.
    let provider = unsafe { provider(provctx) };
    let made = silent(None, || {
        Ok(Some(Box::new(Context {
            provider,
            running: Running::new(&variants()[N]),
        })))
    });
    give(made)
}

/// Runs `f` on a context, and it may take a lock.
unsafe fn with<T>(
    context: *mut c_void,
    failed: T,
    f: impl FnOnce(&mut Running, &Provider) -> Result<T>,
) -> T {
    // SAFETY: of the host.
    let context = unsafe { held::<Context>(context) };
    let provider = &context.provider;
    let running = &mut context.running;
    gated(provider, failed, || f(running, provider))
}

unsafe extern "C" fn dupctx(context: *mut c_void) -> *mut c_void {
    // SAFETY: of the host.
    let context = unsafe { held::<Context>(context) };
    let made = gated(&context.provider, None, || {
        Ok(Some(Box::new(Context {
            provider: context.provider.clone(),
            running: context.running.fork()?,
        })))
    });
    give(made)
}

unsafe extern "C" fn init(
    context: *mut c_void,
    key: *const u8,
    length: usize,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host; a key is read by nobody else's leave, and private memory of the host's.
    unsafe {
        let key = (!key.is_null()).then(|| std::slice::from_raw_parts(key, length));
        let params = Given::new(params);
        with(context, 0, |running, provider| {
            running.init(provider, key, params)?;
            Ok(1)
        })
    }
}

unsafe extern "C" fn init_skey(
    context: *mut c_void,
    key: *const c_void,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let (key, params) = (symmetric(key), Given::new(params));
        with(context, 0, |running, provider| {
            match key {
                None => running.init(provider, None, params)?,
                Some(Symmetric::Own(key)) => running.init(provider, Some(key.expose()), params)?,
                Some(Symmetric::Kept(key)) => running.init_kept(provider, key.clone(), params)?,
            }
            Ok(1)
        })
    }
}

unsafe extern "C" fn update(context: *mut c_void, data: *const u8, length: usize) -> c_int {
    // SAFETY: of the host.
    let (context, data) = unsafe { (held::<Context>(context), input(data, length)) };
    asking(context.running.asks(), &context.provider, 0, || {
        context.running.update(data)?;
        Ok(1)
    })
}

unsafe extern "C" fn finish(
    context: *mut c_void,
    out: *mut u8,
    written: *mut usize,
    room: usize,
) -> c_int {
    // SAFETY: of the host.
    let (context, out) = unsafe { (held::<Context>(context), output(out, room)) };
    asking(context.running.asks(), &context.provider, 0, || {
        let size = context.running.finish(out)?;
        if !written.is_null() {
            // SAFETY: not null, and then a place for a size.
            unsafe { *written = size };
        }
        Ok(1)
    })
}

unsafe extern "C" fn set_ctx_params(context: *mut c_void, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let params = Given::new(params);
        with(context, 0, |running, provider| {
            running.set_params(provider, params)?;
            Ok(1)
        })
    }
}

unsafe extern "C" fn get_ctx_params(context: *mut c_void, params: *mut OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    let (context, mut asked) = unsafe { (held::<Context>(context), Asked::new(params)) };
    asking(context.running.asks(), &context.provider, 0, || {
        context.running.get_params(&mut asked)?;
        Ok(1)
    })
}

unsafe extern "C" fn get_params<const N: usize>(params: *mut OSSL_PARAM) -> c_int {
    silent(0, || {
        // SAFETY: of the host.
        let mut asked = unsafe { Asked::new(params) };
        asked.answer(|key, slot| match (key.to_bytes(), variants()[N].size()) {
            (b"size", Some(size)) => slot.size(size),
            _ => Ok(()),
        })?;
        Ok(1)
    })
}

unsafe extern "C" fn gettable_params(_: *mut c_void) -> *const OSSL_PARAM {
    SIZE.as_ptr()
}

unsafe extern "C" fn gettable_ctx_params(_: *mut c_void, _: *mut c_void) -> *const OSSL_PARAM {
    SIZES.as_ptr()
}

unsafe extern "C" fn settable_ctx_params<const N: usize>(
    _: *mut c_void,
    _: *mut c_void,
) -> *const OSSL_PARAM {
    match variants()[N].over {
        Over::Digest => OF_DIGEST.as_ptr(),
        Over::Cipher => OF_CIPHER.as_ptr(),
        Over::Nonce => OF_NONCE.as_ptr(),
        Over::Itself => OF_ITSELF.as_ptr(),
        Over::Blake2 => OF_BLAKE2.as_ptr(),
    }
}
