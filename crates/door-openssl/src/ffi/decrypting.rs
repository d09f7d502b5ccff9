//! The C side of RSA encryption, agreement and encapsulation (provider-asym_cipher(7), provider-keyexch(7),
//! provider-kem(7)).

use super::keymgmt::key;
use super::params::{Asked, Given, described, int, octets, octets_ptr, size, text, uint};
use super::types::*;
use super::{freectx, give, held, input, provider};
use crate::call::{gated, silent};
use crate::context::Provider;
use crate::decrypting::{Agreeing, Capsule, Crypting};
use crate::error::{Error, Reason, Result};
use crate::key::Key;
use cryptofd_core::engine::Direction;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

/// What a host holds.
struct Context<T> {
    provider: Arc<Provider>,
    work: T,
}

unsafe extern "C" fn newctx<T: Default>(provctx: *mut c_void) -> *mut c_void {
    // SAFETY: of the host.
    let provider = unsafe { provider(provctx) };
    give(silent(None, || {
        let work = T::default();
        Ok(Some(Box::new(Context { provider, work })))
    }))
}

unsafe extern "C" fn dupctx<T: Clone>(context: *mut c_void) -> *mut c_void {
    // SAFETY: of the host.
    let context = unsafe { held::<Context<T>>(context) };
    give(gated(&context.provider, None, || {
        Ok(Some(Box::new(Context {
            provider: context.provider.clone(),
            work: context.work.clone(),
        })))
    }))
}

/// Null is none.
///
/// # Safety
/// As `keymgmt::key`.
unsafe fn given_key(pointer: *const c_void) -> Option<Arc<Key>> {
    // SAFETY: as the caller vouches.
    (!pointer.is_null()).then(|| unsafe { key(pointer).key.clone() })
}

/// Writes what came out, or its size where there is no room given.
///
/// # Safety
/// `out` is null or has `room`, `length` is a place for a size or null.
unsafe fn put(out: *mut u8, length: *mut usize, room: usize, bytes: &[u8]) -> Result<()> {
    if bytes.len() > room {
        let text = format!("{room} bytes where {} are needed", bytes.len());
        return Err(Error::new(Reason::OUTPUT_TOO_SMALL, text));
    }
    // SAFETY: as the caller vouches.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), out, bytes.len());
        if !length.is_null() {
            *length = bytes.len();
        }
    }
    Ok(())
}

/// The functions of RSA.
pub fn cipher() -> &'static [OSSL_DISPATCH] {
    use asym_cipher::*;
    let f = OSSL_DISPATCH::new;
    let all = vec![
        f(NEWCTX, newctx::<Crypting> as *const c_void),
        f(FREECTX, freectx::<Context<Crypting>> as *const c_void),
        f(DUPCTX, dupctx::<Crypting> as *const c_void),
        f(ENCRYPT_INIT, encrypt_init as *const c_void),
        f(ENCRYPT, crypt as *const c_void),
        f(DECRYPT_INIT, decrypt_init as *const c_void),
        f(DECRYPT, crypt as *const c_void),
        f(GET_CTX_PARAMS, crypt_get as *const c_void),
        f(GETTABLE_CTX_PARAMS, crypt_params as *const c_void),
        f(SET_CTX_PARAMS, crypt_set as *const c_void),
        f(SETTABLE_CTX_PARAMS, crypt_params as *const c_void),
        OSSL_DISPATCH::END,
    ];
    all.leak()
}

/// # Safety
/// All of the host.
unsafe fn crypt_begin(
    context: *mut c_void,
    direction: Direction,
    with: *const c_void,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: as the caller vouches.
    let (context, given) = unsafe { (held::<Context<Crypting>>(context), Given::new(params)) };
    gated(&context.provider, 0, || {
        // SAFETY: as above.
        let with = unsafe { given_key(with) };
        context.work.begin(direction, with, given)?;
        Ok(1)
    })
}

unsafe extern "C" fn encrypt_init(
    context: *mut c_void,
    with: *const c_void,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    unsafe { crypt_begin(context, Direction::Encrypt, with, params) }
}

unsafe extern "C" fn decrypt_init(
    context: *mut c_void,
    with: *const c_void,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    unsafe { crypt_begin(context, Direction::Decrypt, with, params) }
}

unsafe extern "C" fn crypt(
    context: *mut c_void,
    out: *mut u8,
    length: *mut usize,
    room: usize,
    data: *const u8,
    data_length: usize,
) -> c_int {
    // SAFETY: of the host.
    let (context, data) = unsafe { (held::<Context<Crypting>>(context), input(data, data_length)) };
    gated(&context.provider, 0, || {
        if out.is_null() {
            let size = context.work.size()?;
            // SAFETY: a place for the size.
            unsafe { *length = size };
            return Ok(1);
        }
        let done = context.work.done(data)?;
        // SAFETY: of the host.
        unsafe { put(out, length, room, &done)? };
        Ok(1)
    })
}

described!(CRYPT: text(c"pad-mode"), text(c"digest"), text(c"mgf1-digest"), octets(c"oaep-label"),
    uint(c"tls-client-version"), uint(c"tls-negotiated-version"));

unsafe extern "C" fn crypt_params(_: *mut c_void, _: *mut c_void) -> *const OSSL_PARAM {
    CRYPT.as_ptr()
}

unsafe extern "C" fn crypt_get(context: *mut c_void, params: *mut OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    let (context, asked) = unsafe { (held::<Context<Crypting>>(context), Asked::new(params)) };
    gated(&context.provider, 0, || {
        context.work.tell(asked)?;
        Ok(1)
    })
}

unsafe extern "C" fn crypt_set(context: *mut c_void, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    let (context, given) = unsafe { (held::<Context<Crypting>>(context), Given::new(params)) };
    gated(&context.provider, 0, || {
        context.work.set(given)?;
        Ok(1)
    })
}

/// The functions of an agreement.
pub fn exchange() -> &'static [OSSL_DISPATCH] {
    use keyexch::*;
    let f = OSSL_DISPATCH::new;
    let all = vec![
        f(NEWCTX, newctx::<Agreeing> as *const c_void),
        f(FREECTX, freectx::<Context<Agreeing>> as *const c_void),
        f(DUPCTX, dupctx::<Agreeing> as *const c_void),
        f(INIT, agree_init as *const c_void),
        f(SET_PEER, set_peer as *const c_void),
        f(DERIVE, agree as *const c_void),
        f(SET_CTX_PARAMS, agree_set as *const c_void),
        f(SETTABLE_CTX_PARAMS, agree_settable as *const c_void),
        f(GET_CTX_PARAMS, agree_get as *const c_void),
        f(GETTABLE_CTX_PARAMS, agree_gettable as *const c_void),
        OSSL_DISPATCH::END,
    ];
    all.leak()
}

unsafe extern "C" fn agree_init(
    context: *mut c_void,
    with: *const c_void,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    let (context, given) = unsafe { (held::<Context<Agreeing>>(context), Given::new(params)) };
    gated(&context.provider, 0, || {
        // SAFETY: as above.
        let with = unsafe { given_key(with) };
        context.work.begin(with, given)?;
        Ok(1)
    })
}

unsafe extern "C" fn set_peer(context: *mut c_void, peer: *const c_void) -> c_int {
    // SAFETY: of the host.
    let context = unsafe { held::<Context<Agreeing>>(context) };
    gated(&context.provider, 0, || {
        // SAFETY: as above.
        let peer = unsafe { given_key(peer) };
        let missing = || Error::new(Reason::MISSING_KEY, "no public key of the peer");
        context.work.set_peer(peer.ok_or_else(missing)?)?;
        Ok(1)
    })
}

unsafe extern "C" fn agree(
    context: *mut c_void,
    out: *mut u8,
    length: *mut usize,
    room: usize,
) -> c_int {
    // SAFETY: of the host.
    let context = unsafe { held::<Context<Agreeing>>(context) };
    gated(&context.provider, 0, || {
        if out.is_null() {
            let size = context.work.size()?;
            // SAFETY: a place for the size.
            unsafe { *length = size };
            return Ok(1);
        }
        let secret = context.work.secret(&context.provider, room)?;
        // SAFETY: of the host.
        unsafe { put(out, length, room, secret.expose())? };
        Ok(1)
    })
}

described!(AGREE_SETTABLE: text(c"kdf-type"), text(c"kdf-digest"), text(c"kdf-digest-props"),
    size(c"kdf-outlen"), octets(c"kdf-ukm"), int(c"ecdh-cofactor-mode"));
described!(AGREE_GETTABLE: text(c"kdf-type"), text(c"kdf-digest"), size(c"kdf-outlen"),
    octets_ptr(c"kdf-ukm"), int(c"ecdh-cofactor-mode"));

unsafe extern "C" fn agree_settable(_: *mut c_void, _: *mut c_void) -> *const OSSL_PARAM {
    AGREE_SETTABLE.as_ptr()
}

unsafe extern "C" fn agree_gettable(_: *mut c_void, _: *mut c_void) -> *const OSSL_PARAM {
    AGREE_GETTABLE.as_ptr()
}

unsafe extern "C" fn agree_get(context: *mut c_void, params: *mut OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    let (context, asked) = unsafe { (held::<Context<Agreeing>>(context), Asked::new(params)) };
    gated(&context.provider, 0, || {
        context.work.tell(asked)?;
        Ok(1)
    })
}

unsafe extern "C" fn agree_set(context: *mut c_void, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    let (context, given) = unsafe { (held::<Context<Agreeing>>(context), Given::new(params)) };
    gated(&context.provider, 0, || {
        context.work.set(given)?;
        Ok(1)
    })
}

/// The functions of an encapsulation.
pub fn capsules() -> &'static [OSSL_DISPATCH] {
    use kem::*;
    let f = OSSL_DISPATCH::new;
    let all = vec![
        f(NEWCTX, newctx::<Capsule> as *const c_void),
        f(FREECTX, freectx::<Context<Capsule>> as *const c_void),
        f(DUPCTX, dupctx::<Capsule> as *const c_void),
        f(ENCAPSULATE_INIT, capsule_init::<false> as *const c_void),
        f(ENCAPSULATE, encapsulate as *const c_void),
        f(DECAPSULATE_INIT, capsule_init::<true> as *const c_void),
        f(DECAPSULATE, decapsulate as *const c_void),
        OSSL_DISPATCH::END,
    ];
    all.leak()
}

unsafe extern "C" fn capsule_init<const PRIVATE: bool>(
    context: *mut c_void,
    with: *const c_void,
    _params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    let context = unsafe { held::<Context<Capsule>>(context) };
    gated(&context.provider, 0, || {
        // SAFETY: as above.
        let with = unsafe { given_key(with) };
        context.work.begin(with, PRIVATE)?;
        Ok(1)
    })
}

/// Bytes of ML-KEM's secret.
const SECRET: usize = 32;

unsafe extern "C" fn encapsulate(
    context: *mut c_void,
    out: *mut u8,
    length: *mut usize,
    secret: *mut u8,
    secret_length: *mut usize,
) -> c_int {
    // SAFETY: of the host.
    let context = unsafe { held::<Context<Capsule>>(context) };
    gated(&context.provider, 0, || {
        let size = context.work.size()?;
        if out.is_null() {
            // SAFETY: places for sizes, or null.
            unsafe {
                if !length.is_null() {
                    *length = size;
                }
                if !secret_length.is_null() {
                    *secret_length = SECRET;
                }
            }
            return Ok(1);
        }
        if secret.is_null() {
            return Err(Error::new(Reason::PARAMETER, "no room for the secret"));
        }
        let (ciphertext, shared) = context.work.made()?;
        // SAFETY: of the host; without a size there is room for what is made.
        unsafe {
            let room = |length: *mut usize, own| if length.is_null() { own } else { *length };
            put(out, length, room(length, size), &ciphertext)?;
            put(
                secret,
                secret_length,
                room(secret_length, SECRET),
                shared.expose(),
            )?;
        }
        Ok(1)
    })
}

unsafe extern "C" fn decapsulate(
    context: *mut c_void,
    out: *mut u8,
    length: *mut usize,
    ciphertext: *const u8,
    ciphertext_length: usize,
) -> c_int {
    // SAFETY: of the host.
    let (context, ciphertext) = unsafe {
        (
            held::<Context<Capsule>>(context),
            input(ciphertext, ciphertext_length),
        )
    };
    gated(&context.provider, 0, || {
        if out.is_null() {
            // SAFETY: a place for the size.
            unsafe { *length = SECRET };
            return Ok(1);
        }
        let secret = context.work.opened(&ciphertext.to_vec())?;
        // SAFETY: of the host.
        unsafe {
            let room = if length.is_null() { SECRET } else { *length };
            put(out, length, room, secret.expose())?;
        }
        Ok(1)
    })
}
