//! The C side of digests.

use super::params::{Asked, Given, described, int, size};
use super::types::*;
use super::{Tables, freectx, give, held, input, numbered, provider};
use crate::call::{gated, guarded, silent};
use crate::context::Provider;
use crate::digest::{Running, Variant, variants};
use crate::error::{Error, Reason, Result};
use cryptofd_core::table::Kind;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

/// What a host holds.
struct Context {
    provider: Arc<Provider>,
    running: Running,
}

fn variant(number: usize) -> &'static Variant {
    &variants()[number]
}

/// The functions of a digest.
pub fn functions(place: usize) -> &'static [OSSL_DISPATCH] {
    static ALL: Tables = Tables::new();
    ALL.get(place, variants().len(), table)
}

fn table(place: usize) -> Vec<OSSL_DISPATCH> {
    let f = OSSL_DISPATCH::new;
    let mut all = vec![
        f(digest::NEWCTX, NEWCTX[place]),
        f(digest::INIT, init as *const c_void),
        f(digest::UPDATE, update as *const c_void),
        f(digest::FINAL, finish as *const c_void),
        f(digest::DIGEST, ONCE[place]),
        f(digest::FREECTX, freectx::<Context> as *const c_void),
        f(digest::DUPCTX, dupctx as *const c_void),
        f(digest::GET_PARAMS, GET_PARAMS[place]),
        f(digest::GETTABLE_PARAMS, gettable_params as *const c_void),
    ];
    let algorithm = variants()[place].algorithm;
    if algorithm.kind == Kind::Xof || algorithm.digest_sizes.max > 0 {
        all.extend([
            f(digest::SET_CTX_PARAMS, set_ctx_params as *const c_void),
            f(digest::GET_CTX_PARAMS, get_ctx_params as *const c_void),
            f(
                digest::SETTABLE_CTX_PARAMS,
                settable_ctx_params as *const c_void,
            ),
            f(
                digest::GETTABLE_CTX_PARAMS,
                settable_ctx_params as *const c_void,
            ),
        ]);
    }
    if algorithm.kind == Kind::Xof {
        // OpenSSL 3.3 and later.
        all.push(f(digest::SQUEEZE, squeeze as *const c_void));
    }
    all
}

numbered!(NEWCTX, newctx);
numbered!(ONCE, once);
numbered!(GET_PARAMS, get_params);

described!(GETTABLE: size(c"blocksize"), size(c"size"), int(c"xof"), int(c"algid-absent"));
described!(SIZES: size(c"xoflen"), size(c"size"));

unsafe extern "C" fn newctx<const N: usize>(provctx: *mut c_void) -> *mut c_void {
    // SAFETY: of the host.
    let provider = unsafe { provider(provctx) };
    let made = silent(None, || {
        Ok(Some(Box::new(Context {
            provider,
            running: Running::new(variant(N)),
        })))
    });
    give(made)
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

unsafe extern "C" fn init(context: *mut c_void, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    let (context, params) = unsafe { (held::<Context>(context), Given::new(params)) };
    gated(&context.provider, 0, || {
        context.running.init(params)?;
        Ok(1)
    })
}

unsafe extern "C" fn update(context: *mut c_void, data: *const u8, length: usize) -> c_int {
    // SAFETY: of the host.
    let (context, data) = unsafe { (held::<Context>(context), input(data, length)) };
    guarded(&context.provider, 0, || {
        context.running.update(data)?;
        Ok(1)
    })
}

/// Room of `needs` bytes, or why there is none.
///
/// # Safety
/// `out` is null or writable for `room` bytes.
unsafe fn space<'a>(out: *mut u8, room: usize, needs: usize) -> Result<&'a mut [u8]> {
    if out.is_null() || room < needs {
        return Err(Error::new(
            Reason::OUTPUT_TOO_SMALL,
            format!("room for {room} bytes: the digest has {needs}"),
        ));
    }
    // SAFETY: as the caller vouches; a digest's place is the host's own and written by nobody else.
    Ok(unsafe { std::slice::from_raw_parts_mut(out, needs) })
}

unsafe extern "C" fn finish(
    context: *mut c_void,
    out: *mut u8,
    written: *mut usize,
    room: usize,
) -> c_int {
    // SAFETY: of the host.
    let context = unsafe { held::<Context>(context) };
    guarded(&context.provider, 0, || {
        let needs = context.running.size();
        // SAFETY: of the host.
        unsafe {
            if needs > 0 {
                context.running.finish(space(out, room, needs)?)?;
            }
            if !written.is_null() {
                *written = needs;
            }
        }
        Ok(1)
    })
}

unsafe extern "C" fn squeeze(
    context: *mut c_void,
    out: *mut u8,
    written: *mut usize,
    room: usize,
) -> c_int {
    // SAFETY: of the host.
    let context = unsafe { held::<Context>(context) };
    guarded(&context.provider, 0, || {
        // SAFETY: of the host.
        unsafe {
            if room > 0 {
                context.running.squeeze(space(out, room, room)?)?;
            }
            if !written.is_null() {
                *written = room;
            }
        }
        Ok(1)
    })
}

unsafe extern "C" fn once<const N: usize>(
    provctx: *mut c_void,
    data: *const u8,
    length: usize,
    out: *mut u8,
    written: *mut usize,
    room: usize,
) -> c_int {
    // SAFETY: of the host.
    let (provider, data) = unsafe { (provider(provctx), input(data, length)) };
    gated(&provider, 0, || {
        let mut running = Running::new(variant(N));
        // SAFETY: as above; a null list is an empty one.
        unsafe {
            running.init(Given::new(std::ptr::null()))?;
            running.update(data)?;
            running.finish(space(out, room, running.size())?)?;
            if !written.is_null() {
                *written = running.size();
            }
        }
        Ok(1)
    })
}

unsafe extern "C" fn get_params<const N: usize>(params: *mut OSSL_PARAM) -> c_int {
    silent(0, || {
        // SAFETY: of the host.
        variant(N).get_params(&mut unsafe { Asked::new(params) })?;
        Ok(1)
    })
}

unsafe extern "C" fn gettable_params(_: *mut c_void) -> *const OSSL_PARAM {
    GETTABLE.as_ptr()
}

unsafe extern "C" fn set_ctx_params(context: *mut c_void, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    let (context, params) = unsafe { (held::<Context>(context), Given::new(params)) };
    guarded(&context.provider, 0, || {
        context.running.set_params(params)?;
        Ok(1)
    })
}

unsafe extern "C" fn get_ctx_params(context: *mut c_void, params: *mut OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    let (context, mut asked) = unsafe { (held::<Context>(context), Asked::new(params)) };
    guarded(&context.provider, 0, || {
        context.running.get_params(&mut asked)?;
        Ok(1)
    })
}

unsafe extern "C" fn settable_ctx_params(_: *mut c_void, _: *mut c_void) -> *const OSSL_PARAM {
    SIZES.as_ptr()
}
