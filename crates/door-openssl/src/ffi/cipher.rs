//! The C side of ciphers.

use super::params::{Asked, Given, described, int, octets, octets_ptr, size, text, uint};
use super::skeymgmt::symmetric;
use super::types::*;
use super::{Tables, freectx, give, held, input, numbered, output, provider};
use crate::call::{asking, gated, silent};
use crate::cipher::{Running, Way, variants};
use crate::context::Provider;
use crate::error::Result;
use crate::message::Message;
use crate::pieces::InPieces;
use crate::plain::Plain;
use crate::secret_key::PARAMETER;
use crate::skeys::Symmetric;
use cryptofd_core::engine::Direction;
use cryptofd_core::sys::buffer::{Input, Output};
use std::ffi::{c_int, c_void};
use std::sync::Arc;

/// What a host holds.
struct Context<R> {
    provider: Arc<Provider>,
    running: R,
    /// Bytes beyond the room that OpenSSL names: a key that is wrapped with padding may grow by more than it
    /// counts, and its documentation says that there is room for it.
    slack: usize,
}

/// The functions of a cipher.
pub fn functions(place: usize) -> &'static [OSSL_DISPATCH] {
    static ALL: Tables = Tables::new();
    ALL.get(place, variants().len(), |place| {
        match variants()[place].way {
            Way::Pieces => table::<InPieces>(place, NEW_IN_PIECES[place]),
            Way::Message => table::<Message>(place, NEW_MESSAGE[place]),
            _ => table::<Plain>(place, NEW_PLAIN[place]),
        }
    })
}

fn table<R: Running>(place: usize, newctx: *const c_void) -> Vec<OSSL_DISPATCH> {
    let f = OSSL_DISPATCH::new;
    let aead = variants()[place].aead();
    let (gettable, settable) = if aead {
        (
            gettable_of_aeads as *const c_void,
            settable_of_aeads as *const c_void,
        )
    } else {
        (
            gettable_ctx_params as *const c_void,
            settable_ctx_params as *const c_void,
        )
    };
    let mut all = vec![
        f(cipher::NEWCTX, newctx),
        f(cipher::ENCRYPT_INIT, encrypt_init::<R> as *const c_void),
        f(cipher::DECRYPT_INIT, decrypt_init::<R> as *const c_void),
        f(
            cipher::ENCRYPT_SKEY_INIT,
            encrypt_skey_init::<R> as *const c_void,
        ),
        f(
            cipher::DECRYPT_SKEY_INIT,
            decrypt_skey_init::<R> as *const c_void,
        ),
        f(cipher::UPDATE, update::<R> as *const c_void),
        f(cipher::FINAL, finish::<R> as *const c_void),
        f(cipher::FREECTX, freectx::<Context<R>> as *const c_void),
        f(cipher::DUPCTX, dupctx::<R> as *const c_void),
        f(cipher::GET_PARAMS, GET_PARAMS[place]),
        f(cipher::GETTABLE_PARAMS, gettable_params as *const c_void),
        f(cipher::GET_CTX_PARAMS, get_ctx_params::<R> as *const c_void),
        f(cipher::SET_CTX_PARAMS, set_ctx_params::<R> as *const c_void),
        f(cipher::GETTABLE_CTX_PARAMS, gettable),
        f(cipher::SETTABLE_CTX_PARAMS, settable),
    ];
    // Nobody wraps with EVP_Cipher(); where it is there, it is a flag that programs see.
    if variants()[place].way != Way::Wrap {
        all.push(f(cipher::CIPHER, once::<R> as *const c_void));
    }
    all
}

numbered!(NEW_PLAIN, new_plain);
numbered!(NEW_IN_PIECES, new_in_pieces);
numbered!(NEW_MESSAGE, new_message);
numbered!(GET_PARAMS, get_params);

described!(GETTABLE:
    uint(c"mode"),
    size(c"keylen"),
    size(c"ivlen"),
    size(c"blocksize"),
    int(c"aead"),
    int(c"custom-iv"),
    int(c"cts"),
    int(c"tls-multi"),
    int(c"has-randkey"),
);
described!(GETTABLE_CTX:
    size(c"keylen"),
    size(c"ivlen"),
    uint(c"padding"),
    uint(c"num"),
    octets(c"iv"),
    octets(c"updated-iv"),
    octets_ptr(c"tls-mac"),
    octets(c"randkey"),
);
described!(SETTABLE_CTX:
    uint(c"padding"),
    uint(c"num"),
    size(c"keylen"),
    uint(c"use-bits"),
    uint(c"tls-version"),
    size(c"tls-mac-size"),
    text(PARAMETER),
);
described!(GETTABLE_OF_AEADS:
    size(c"keylen"),
    size(c"ivlen"),
    size(c"taglen"),
    octets(c"iv"),
    octets(c"updated-iv"),
    octets(c"tag"),
    size(c"tlsaadpad"),
    octets(c"tlsivgen"),
);
described!(SETTABLE_OF_AEADS:
    size(c"keylen"),
    size(c"ivlen"),
    octets(c"tag"),
    octets(c"tlsaad"),
    octets(c"tlsivfixed"),
    octets(c"tlsivinv"),
    text(PARAMETER),
);

unsafe fn newctx<R: Running>(provctx: *mut c_void, place: usize) -> *mut c_void {
    // SAFETY: of the host.
    let provider = unsafe { provider(provctx) };
    let variant = &variants()[place];
    let made = silent(None, || {
        Ok(Some(Box::new(Context {
            provider,
            running: R::new(variant),
            slack: if variant.way == Way::Wrap { 8 } else { 0 },
        })))
    });
    give(made)
}

unsafe extern "C" fn new_plain<const N: usize>(provctx: *mut c_void) -> *mut c_void {
    // SAFETY: of the host.
    unsafe { newctx::<Plain>(provctx, N) }
}

unsafe extern "C" fn new_in_pieces<const N: usize>(provctx: *mut c_void) -> *mut c_void {
    // SAFETY: of the host.
    unsafe { newctx::<InPieces>(provctx, N) }
}

unsafe extern "C" fn new_message<const N: usize>(provctx: *mut c_void) -> *mut c_void {
    // SAFETY: of the host.
    unsafe { newctx::<Message>(provctx, N) }
}

unsafe extern "C" fn dupctx<R: Running>(context: *mut c_void) -> *mut c_void {
    // SAFETY: of the host.
    let context = unsafe { held::<Context<R>>(context) };
    let made = gated(&context.provider, None, || {
        Ok(Some(Box::new(Context {
            provider: context.provider.clone(),
            running: context.running.fork()?,
            slack: context.slack,
        })))
    });
    give(made)
}

unsafe fn bytes<'a>(pointer: *const u8, length: usize) -> Option<&'a [u8]> {
    // SAFETY: of the host, whose private memory keys and IVs are.
    (!pointer.is_null()).then(|| unsafe { std::slice::from_raw_parts(pointer, length) })
}

unsafe fn init<R: Running>(
    context: *mut c_void,
    direction: Direction,
    key: Option<&[u8]>,
    iv: Option<&[u8]>,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    let (context, params) = unsafe { (held::<Context<R>>(context), Given::new(params)) };
    gated(&context.provider, 0, || {
        let running = &mut context.running;
        running.init(&context.provider, direction, key, iv, params)?;
        Ok(1)
    })
}

unsafe extern "C" fn encrypt_init<R: Running>(
    context: *mut c_void,
    key: *const u8,
    key_length: usize,
    iv: *const u8,
    iv_length: usize,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let (key, iv) = (bytes(key, key_length), bytes(iv, iv_length));
        init::<R>(context, Direction::Encrypt, key, iv, params)
    }
}

unsafe extern "C" fn decrypt_init<R: Running>(
    context: *mut c_void,
    key: *const u8,
    key_length: usize,
    iv: *const u8,
    iv_length: usize,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let (key, iv) = (bytes(key, key_length), bytes(iv, iv_length));
        init::<R>(context, Direction::Decrypt, key, iv, params)
    }
}

/// Begins with a key that is an object of ours; without one, with the key before.
///
/// # Safety
/// All of the host.
unsafe fn skey_init<R: Running>(
    context: *mut c_void,
    direction: Direction,
    key: *const c_void,
    iv: Option<&[u8]>,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: as the caller vouches.
    let (context, params, key) = unsafe {
        (
            held::<Context<R>>(context),
            Given::new(params),
            symmetric(key),
        )
    };
    gated(&context.provider, 0, || {
        let (provider, running) = (&context.provider, &mut context.running);
        match key {
            None => running.init(provider, direction, None, iv, params)?,
            Some(Symmetric::Own(key)) => {
                running.init(provider, direction, Some(key.expose()), iv, params)?;
            }
            Some(Symmetric::Kept(key)) => {
                running.keep(key.clone())?;
                running.init(provider, direction, None, iv, params)?;
            }
        }
        Ok(1)
    })
}

unsafe extern "C" fn encrypt_skey_init<R: Running>(
    context: *mut c_void,
    key: *const c_void,
    iv: *const u8,
    iv_length: usize,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let iv = bytes(iv, iv_length);
        skey_init::<R>(context, Direction::Encrypt, key, iv, params)
    }
}

unsafe extern "C" fn decrypt_skey_init<R: Running>(
    context: *mut c_void,
    key: *const c_void,
    iv: *const u8,
    iv_length: usize,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let iv = bytes(iv, iv_length);
        skey_init::<R>(context, Direction::Decrypt, key, iv, params)
    }
}

/// What the host gives to a function that has input and output: null says something of its own.
struct Passed<'a> {
    data: Option<Input<'a>>,
    out: Option<Output<'a>>,
}

unsafe fn passed<'a>(
    data: *const u8,
    length: usize,
    out: *mut u8,
    room: usize,
    slack: usize,
) -> Passed<'a> {
    // SAFETY: of the host.
    unsafe {
        Passed {
            data: (!data.is_null()).then(|| input(data, length)),
            out: (!out.is_null()).then(|| output(out, room.saturating_add(slack))),
        }
    }
}

/// Runs `f` and tells how many bytes it gave.
unsafe fn telling<R: Running>(
    context: &mut Context<R>,
    written: *mut usize,
    f: impl FnOnce(&mut R) -> Result<usize>,
) -> c_int {
    let running = &mut context.running;
    asking(running.asks(), &context.provider, 0, || {
        let length = f(running)?;
        if !written.is_null() {
            // SAFETY: not null, and then a place for a size.
            unsafe { *written = length };
        }
        Ok(1)
    })
}

unsafe extern "C" fn update<R: Running>(
    context: *mut c_void,
    out: *mut u8,
    written: *mut usize,
    room: usize,
    data: *const u8,
    length: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Context<R>>(context);
        let passed = passed(data, length, out, room, context.slack);
        telling(context, written, |running| {
            running.update(passed.data, length, passed.out)
        })
    }
}

unsafe extern "C" fn once<R: Running>(
    context: *mut c_void,
    out: *mut u8,
    written: *mut usize,
    room: usize,
    data: *const u8,
    length: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Context<R>>(context);
        let passed = passed(data, length, out, room, context.slack);
        telling(context, written, |running| {
            running.once(passed.data, length, passed.out)
        })
    }
}

unsafe extern "C" fn finish<R: Running>(
    context: *mut c_void,
    out: *mut u8,
    written: *mut usize,
    room: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let context = held::<Context<R>>(context);
        let out = output(out, room);
        telling(context, written, |running| running.finish(out))
    }
}

unsafe extern "C" fn get_ctx_params<R: Running>(
    context: *mut c_void,
    params: *mut OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    let (context, mut asked) = unsafe { (held::<Context<R>>(context), Asked::new(params)) };
    asking(context.running.asks(), &context.provider, 0, || {
        context.running.get_params(&context.provider, &mut asked)?;
        Ok(1)
    })
}

unsafe extern "C" fn set_ctx_params<R: Running>(
    context: *mut c_void,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    let (context, params) = unsafe { (held::<Context<R>>(context), Given::new(params)) };
    gated(&context.provider, 0, || {
        context.running.set_params(&context.provider, params)?;
        Ok(1)
    })
}

unsafe extern "C" fn get_params<const N: usize>(params: *mut OSSL_PARAM) -> c_int {
    silent(0, || {
        // SAFETY: of the host.
        variants()[N].get_params(&mut unsafe { Asked::new(params) })?;
        Ok(1)
    })
}

unsafe extern "C" fn gettable_params(_: *mut c_void) -> *const OSSL_PARAM {
    GETTABLE.as_ptr()
}

unsafe extern "C" fn gettable_ctx_params(_: *mut c_void, _: *mut c_void) -> *const OSSL_PARAM {
    GETTABLE_CTX.as_ptr()
}

unsafe extern "C" fn settable_ctx_params(_: *mut c_void, _: *mut c_void) -> *const OSSL_PARAM {
    SETTABLE_CTX.as_ptr()
}

unsafe extern "C" fn gettable_of_aeads(_: *mut c_void, _: *mut c_void) -> *const OSSL_PARAM {
    GETTABLE_OF_AEADS.as_ptr()
}

unsafe extern "C" fn settable_of_aeads(_: *mut c_void, _: *mut c_void) -> *const OSSL_PARAM {
    SETTABLE_OF_AEADS.as_ptr()
}
