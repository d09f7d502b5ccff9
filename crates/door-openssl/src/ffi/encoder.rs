//! The C side of writing a key of the broker's to a file (provider-encoder(7)): the file holds only its name.

use super::core::Core;
use super::keymgmt::{Held, PRIVATE, key};
use super::types::*;
use super::{Bare, freectx, newbare, shared};
use crate::call::guarded;
use crate::error::{Error, Reason, Result};
use crate::key::Key;
use std::ffi::{c_int, c_void};

type Write = unsafe extern "C" fn(*mut OSSL_CORE_BIO, *const c_void, usize, *mut usize) -> c_int;

/// The functions of the encoder to PEM.
pub fn to_pem() -> &'static [OSSL_DISPATCH] {
    functions(pem as *const c_void)
}

/// Those of what people read.
pub fn to_text() -> &'static [OSSL_DISPATCH] {
    functions(text as *const c_void)
}

fn functions(encode: *const c_void) -> &'static [OSSL_DISPATCH] {
    let f = OSSL_DISPATCH::new;
    let all = vec![
        f(encoder::NEWCTX, newbare as *const c_void),
        f(encoder::FREECTX, freectx::<Bare> as *const c_void),
        f(encoder::DOES_SELECTION, does_selection as *const c_void),
        f(encoder::ENCODE, encode),
        OSSL_DISPATCH::END,
    ];
    all.leak()
}

/// Private halves: public ones are exported, and the host's own encoders write them.
unsafe extern "C" fn does_selection(_provctx: *mut c_void, selection: c_int) -> c_int {
    c_int::from(selection & PRIVATE != 0)
}

/// A name is no secret: a passphrase that the program has is not asked for.
unsafe extern "C" fn pem(
    context: *mut c_void,
    bio: *mut OSSL_CORE_BIO,
    held: *const c_void,
    _parts: *const OSSL_PARAM,
    selection: c_int,
    _passphrase: *const c_void,
    _passphrase_argument: *mut c_void,
) -> c_int {
    // SAFETY: of the host.
    unsafe { encode(context, bio, held, selection, Key::reference) }
}

unsafe extern "C" fn text(
    context: *mut c_void,
    bio: *mut OSSL_CORE_BIO,
    held: *const c_void,
    _parts: *const OSSL_PARAM,
    selection: c_int,
    _passphrase: *const c_void,
    _passphrase_argument: *mut c_void,
) -> c_int {
    // SAFETY: of the host.
    unsafe { encode(context, bio, held, selection, Key::text) }
}

/// Writes what `made` makes of a key.
///
/// # Safety
/// All is of the host, the key one of ours.
unsafe fn encode(
    context: *mut c_void,
    bio: *mut OSSL_CORE_BIO,
    held: *const c_void,
    selection: c_int,
    made: impl Fn(&Key) -> Result<String>,
) -> c_int {
    // SAFETY: as the caller vouches.
    let context = unsafe { shared::<Bare>(context) };
    guarded(&context.provider, 0, || {
        if held.is_null() || selection & PRIVATE == 0 {
            let text = "only a key that the broker keeps is written so";
            return Err(Error::new(Reason::UNSUPPORTED, text));
        }
        // SAFETY: as the caller vouches.
        let held: &Held = unsafe { key(held) };
        let made = made(&held.key)?;
        // SAFETY: the host's BIO.
        unsafe { write(context.provider.core(), bio, made.as_bytes()) }.map(|()| 1)
    })
}

/// Writes all of it.
///
/// # Safety
/// The BIO is the host's.
unsafe fn write(core: &Core, bio: *mut OSSL_CORE_BIO, mut data: &[u8]) -> Result<()> {
    let failed = || Error::new(Reason::SYSTEM, "writing a key's reference");
    // SAFETY: the number's type, by core_dispatch.h; the host's BIO; readable for its length.
    unsafe {
        let write: Write = core.function(upcall::BIO_WRITE_EX).ok_or_else(failed)?;
        while !data.is_empty() {
            let mut written = 0;
            let done = write(bio, data.as_ptr().cast(), data.len(), &raw mut written);
            if done != 1 || written == 0 {
                return Err(failed());
            }
            data = data.get(written..).unwrap_or_default();
        }
    }
    Ok(())
}
