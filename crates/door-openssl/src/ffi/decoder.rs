//! The C side of files that hold only a reference to a key (provider-decoder(7)): out of PEM, then the key.

use super::core::Core;
use super::keymgmt::{Held, PRIVATE, offer};
use super::params::{Given, at, described, end, int};
use super::types::*;
use super::{Bare, freectx, held, newbare};
use crate::call::gated;
use crate::context::Provider;
use crate::error::{Error, Reason, Result};
use crate::key::Key;
use crate::reference::{self, MOST, Name, PEM, STRUCTURE};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

type Callback = unsafe extern "C" fn(*const OSSL_PARAM, *mut c_void) -> c_int;
type Read = unsafe extern "C" fn(*mut OSSL_CORE_BIO, *mut c_void, usize, *mut usize) -> c_int;
type Gets = unsafe extern "C" fn(*mut OSSL_CORE_BIO, *mut c_char, c_int) -> c_int;

/// The functions of the decoder from PEM.
pub fn from_pem() -> &'static [OSSL_DISPATCH] {
    functions(pem as *const c_void)
}

/// Those of the decoder to keys, of every type.
pub fn to_key() -> &'static [OSSL_DISPATCH] {
    functions(der as *const c_void)
}

fn functions(decode: *const c_void) -> &'static [OSSL_DISPATCH] {
    let f = OSSL_DISPATCH::new;
    let all = vec![
        f(decoder::NEWCTX, newbare as *const c_void),
        f(decoder::FREECTX, freectx::<Bare> as *const c_void),
        f(
            decoder::SETTABLE_CTX_PARAMS,
            settable_ctx_params as *const c_void,
        ),
        f(decoder::SET_CTX_PARAMS, set_ctx_params as *const c_void),
        f(decoder::DECODE, decode),
        f(decoder::EXPORT_OBJECT, export_object as *const c_void),
        OSSL_DISPATCH::END,
    ];
    all.leak()
}

described!(SETTABLE: int(c"none"));

unsafe extern "C" fn settable_ctx_params(_: *mut c_void) -> *const OSSL_PARAM {
    SETTABLE.as_ptr()
}

unsafe extern "C" fn set_ctx_params(_: *mut c_void, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    let _nothing = unsafe { Given::new(params) };
    1
}

/// The next line, without its end; None at the end of the file.
///
/// # Safety
/// The BIO is the host's.
unsafe fn line(gets: Gets, bio: *mut OSSL_CORE_BIO) -> Option<String> {
    let mut room = [0u8; 256];
    // SAFETY: as the caller vouches; room for one byte less, and a zero.
    let got = unsafe { gets(bio, room.as_mut_ptr().cast(), room.len() as c_int) };
    let got = usize::try_from(got).ok().filter(|got| *got > 0)?;
    let bytes = room.get(..got)?;
    Some(String::from_utf8_lossy(bytes).trim_end().to_owned())
}

/// What is between the lines of a reference, if the next thing in the file is one.
///
/// # Safety
/// The BIO is the host's.
unsafe fn between(core: &Core, bio: *mut OSSL_CORE_BIO) -> Option<Vec<u8>> {
    // SAFETY: the number's type, by core_dispatch.h; the host's BIO.
    unsafe {
        let gets: Gets = core.function(upcall::BIO_GETS)?;
        let begin = loop {
            let line = line(gets, bio)?;
            if line.starts_with("-----BEGIN ") {
                break line;
            }
        };
        if begin != format!("-----BEGIN {PEM}-----") {
            return None;
        }
        let mut text = String::new();
        loop {
            let line = line(gets, bio)?;
            if line == format!("-----END {PEM}-----") {
                return STANDARD.decode(text).ok();
            }
            text += line.trim();
            if text.len() > 2 * MOST {
                return None;
            }
        }
    }
}

/// What is no reference is nothing that went wrong: others may know it.
unsafe extern "C" fn pem(
    context: *mut c_void,
    bio: *mut OSSL_CORE_BIO,
    _selection: c_int,
    callback: Callback,
    argument: *mut c_void,
    _passphrase: *const c_void,
    _passphrase_argument: *mut c_void,
) -> c_int {
    // SAFETY: of the host.
    let context = unsafe { held::<Bare>(context) };
    gated(&context.provider, 0, || {
        // SAFETY: as above.
        let Some(der) = (unsafe { between(context.provider.core(), bio) }) else {
            return Ok(1);
        };
        let mut kind: c_int = 2; // OSSL_OBJECT_PKEY
        let list = [
            at(
                c"data-structure",
                OSSL_PARAM_UTF8_STRING,
                STRUCTURE.as_ptr().cast_mut().cast(),
                STRUCTURE.to_bytes().len(),
            ),
            at(
                c"data",
                OSSL_PARAM_OCTET_STRING,
                der.as_ptr().cast_mut().cast(),
                der.len(),
            ),
            at(
                c"type",
                OSSL_PARAM_INTEGER,
                (&raw mut kind).cast(),
                size_of::<c_int>(),
            ),
            end(),
        ];
        // SAFETY: a list with an end, whose data live through the call.
        Ok(unsafe { callback(list.as_ptr(), argument) })
    })
}

/// All that is in a BIO; None where it is more than a reference has.
///
/// # Safety
/// The BIO is the host's.
unsafe fn contents(core: &Core, bio: *mut OSSL_CORE_BIO) -> Option<Vec<u8>> {
    let mut all = vec![0; MOST];
    let mut length = 0;
    // SAFETY: the number's type, by core_dispatch.h; the host's BIO; within the room.
    unsafe {
        let read: Read = core.function(upcall::BIO_READ_EX)?;
        while length < MOST {
            let mut got = 0;
            let into = all[length..].as_mut_ptr().cast();
            if read(bio, into, MOST - length, &raw mut got) != 1 || got == 0 {
                all.truncate(length);
                return Some(all);
            }
            length += got;
        }
    }
    None
}

fn found(provider: &Arc<Provider>, uri: &str, place: usize, private: bool) -> Result<Held> {
    let Name::Key(name) = Name::parse(uri)? else {
        return Err(Error::new(Reason::BAD_URI, "a reference is to one key"));
    };
    let key = Key::named(&name, private)?;
    if key.place() != place {
        return Err(Error::new(
            Reason::NO_SUCH_KEY,
            format!("{uri}: the key is of another type now: write the reference again"),
        ));
    }
    Ok(Held {
        provider: provider.clone(),
        key: Arc::new(key),
    })
}

unsafe extern "C" fn der(
    context: *mut c_void,
    bio: *mut OSSL_CORE_BIO,
    selection: c_int,
    callback: Callback,
    argument: *mut c_void,
    _passphrase: *const c_void,
    _passphrase_argument: *mut c_void,
) -> c_int {
    // SAFETY: of the host.
    let context = unsafe { held::<Bare>(context) };
    gated(&context.provider, 0, || {
        // SAFETY: as above.
        let Some(der) = (unsafe { contents(context.provider.core(), bio) }) else {
            return Ok(1);
        };
        match reference::read(&der) {
            Ok((place, uri)) => {
                let private = selection == 0 || selection & PRIVATE != 0;
                let held = found(&context.provider, &uri, place, private)?;
                // SAFETY: the host's callback.
                Ok(unsafe { offer(held, callback, argument) })
            }
            Err(_) => Ok(1),
        }
    })
}

/// A key of ours is loaded by our own key manager, or not at all.
unsafe extern "C" fn export_object(
    _context: *mut c_void,
    _reference: *const c_void,
    _length: usize,
    _callback: Callback,
    _argument: *mut c_void,
) -> c_int {
    0
}
