//! The C side of keys (provider-keymgmt(7)). They are loaded by reference; of keys that a program brings only
//! public ones are taken, to agree with: its own private keys are the default provider's.

use super::params::{Asked, Described, Given, at, described, end, int, number, octets, text};
use super::types::*;
use super::{freectx, generating, numbered, provider};
use crate::call::{gated, guarded, silent};
use crate::context::Provider;
use crate::error::{Error, Reason, Result};
use crate::key::Key;
use crate::pair::{Curve, EC, Numbers, Public, TYPES};
use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

/// OSSL_KEYMGMT_SELECT_*.
pub const PRIVATE: c_int = 1;
const PUBLIC: c_int = 2;
const DOMAIN: c_int = 4;
pub const BOTH: c_int = PRIVATE | PUBLIC;

type Callback = unsafe extern "C" fn(*const OSSL_PARAM, *mut c_void) -> c_int;

/// What a host holds.
pub struct Held {
    pub provider: Arc<Provider>,
    pub key: Arc<Key>,
}

impl Held {
    /// A reference to it, for `load`: the address of the box, which whoever takes it replaces by null.
    pub fn lend(self) -> *mut Held {
        Box::into_raw(Box::new(self))
    }
}

/// A key that a host brings; many threads may.
///
/// # Safety
/// `pointer` is a `Held` of ours, not freed during 'a.
pub unsafe fn key<'a>(pointer: *const c_void) -> &'a Held {
    // SAFETY: as the caller vouches.
    unsafe { &*pointer.cast::<Held>() }
}

/// The functions of the type at this place.
pub fn functions(place: usize) -> &'static [OSSL_DISPATCH] {
    let f = OSSL_DISPATCH::new;
    let mut all = vec![
        f(keymgmt::NEW, NEW[place]),
        f(keymgmt::LOAD, load as *const c_void),
        f(keymgmt::FREE, freectx::<Held> as *const c_void),
        f(keymgmt::DUP, dup as *const c_void),
        f(keymgmt::HAS, has as *const c_void),
        f(keymgmt::VALIDATE, validate as *const c_void),
        f(keymgmt::MATCH, matches as *const c_void),
        f(keymgmt::GET_PARAMS, get_params as *const c_void),
        f(keymgmt::GETTABLE_PARAMS, GETTABLE_PARAMS[place]),
        f(keymgmt::SET_PARAMS, set_params as *const c_void),
        f(keymgmt::SETTABLE_PARAMS, settable_params as *const c_void),
        f(keymgmt::IMPORT, import as *const c_void),
        f(keymgmt::IMPORT_TYPES, TYPES_OF[place]),
        f(keymgmt::EXPORT, export as *const c_void),
        f(keymgmt::EXPORT_TYPES, TYPES_OF[place]),
        f(keymgmt::QUERY_OPERATION_NAME, OPERATION_NAME[place]),
    ];
    all.extend(generating::functions(place));
    all.push(OSSL_DISPATCH::END);
    all.leak()
}

numbered!(NEW, new);
numbered!(GETTABLE_PARAMS, gettable_params);
numbered!(TYPES_OF, types_of);
numbered!(OPERATION_NAME, operation_name);

unsafe extern "C" fn new<const N: usize>(provctx: *mut c_void) -> *mut c_void {
    // SAFETY: of the host.
    let provider = unsafe { provider(provctx) };
    silent(std::ptr::null_mut(), || {
        let key = Arc::new(Key::empty(N));
        Ok(Held { provider, key }.lend().cast())
    })
}

/// Takes the key out of a reference of ours.
unsafe extern "C" fn load(reference: *mut *mut Held, length: usize) -> *mut c_void {
    if reference.is_null() || length != size_of::<*mut Held>() {
        return std::ptr::null_mut();
    }
    // SAFETY: the reference is one that our store or decoder gave: the place of such an address.
    unsafe { std::mem::replace(&mut *reference, std::ptr::null_mut()).cast() }
}

/// Gives a key to a host by reference, with what it is called; 1 if the host took it.
///
/// # Safety
/// The callback and its argument are the host's.
pub unsafe fn offer(held: Held, callback: Callback, argument: *mut c_void) -> c_int {
    let mut kind: c_int = 2; // OSSL_OBJECT_PKEY
    let name = TYPES[held.key.place()].name;
    let mut lent = held.lend();
    let list = [
        at(
            c"type",
            OSSL_PARAM_INTEGER,
            (&raw mut kind).cast(),
            size_of::<c_int>(),
        ),
        at(
            c"data-type",
            OSSL_PARAM_UTF8_STRING,
            name.as_ptr().cast_mut().cast(),
            name.to_bytes().len(),
        ),
        at(
            c"reference",
            OSSL_PARAM_OCTET_STRING,
            (&raw mut lent).cast(),
            size_of::<*mut Held>(),
        ),
        end(),
    ];
    // SAFETY: a list with an end, whose data live through the call; the box is still ours where nobody took it.
    unsafe {
        let done = callback(list.as_ptr(), argument);
        if !lent.is_null() {
            drop(Box::from_raw(lent));
        }
        done
    }
}

unsafe extern "C" fn dup(from: *const c_void, selection: c_int) -> *mut c_void {
    // SAFETY: of the host.
    let held = unsafe { key(from) };
    gated(&held.provider, std::ptr::null_mut(), || {
        let key = if selection & BOTH == 0 && held.key.curve().is_some() {
            Arc::new(held.key.parameters())
        } else if selection & PRIVATE == 0 && held.key.is_private() {
            Arc::new(held.key.public_half())
        } else {
            held.key.clone()
        };
        let provider = held.provider.clone();
        Ok(Held { provider, key }.lend().cast())
    })
}

unsafe extern "C" fn has(held: *const c_void, selection: c_int) -> c_int {
    if held.is_null() {
        return 0;
    }
    // SAFETY: of the host.
    let key = unsafe { &key(held).key };
    let curve = selection & DOMAIN == 0 || key.public().is_some() || key.curve().is_some();
    let public = curve && (selection & PUBLIC == 0 || key.public().is_some());
    let private = selection & PRIVATE == 0 || key.is_private();
    c_int::from(public && private)
}

/// The worker checked the pair when it came to be; the public half was parsed.
unsafe extern "C" fn validate(held: *const c_void, selection: c_int, _kind: c_int) -> c_int {
    // SAFETY: of the host.
    unsafe { has(held, selection) }
}

unsafe extern "C" fn matches(one: *const c_void, two: *const c_void, selection: c_int) -> c_int {
    // SAFETY: of the host.
    let (one, two) = unsafe { (&key(one).key, &key(two).key) };
    let same = if selection & BOTH != 0 {
        one.same(two)
    } else {
        one.place() == two.place()
    };
    c_int::from(same)
}

described!(RSA_PARAMS: int(c"bits"), int(c"security-bits"), int(c"max-size"), text(c"default-digest"),
    number(c"n"), number(c"e"));
described!(EC_PARAMS: int(c"bits"), int(c"security-bits"), int(c"max-size"), text(c"default-digest"),
    text(c"group"), text(c"point-format"), text(c"field-type"), octets(c"pub"), octets(c"encoded-pub-key"),
    number(c"qx"), number(c"qy"), int(c"decoded-from-explicit"), int(c"use-cofactor-flag"));
described!(PLAIN_PARAMS: int(c"bits"), int(c"security-bits"), int(c"max-size"), text(c"mandatory-digest"),
    octets(c"pub"), octets(c"encoded-pub-key"));

unsafe extern "C" fn gettable_params<const N: usize>(_: *mut c_void) -> *const OSSL_PARAM {
    match TYPES[N].name.to_bytes() {
        b"RSA" => RSA_PARAMS.as_ptr(),
        b"EC" => EC_PARAMS.as_ptr(),
        _ => PLAIN_PARAMS.as_ptr(),
    }
}

unsafe extern "C" fn get_params(held: *const c_void, params: *mut OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    let (held, mut asked) = unsafe { (key(held), Asked::new(params)) };
    guarded(&held.provider, 0, || {
        if let (None, Some(curve)) = (held.key.public(), held.key.curve()) {
            asked.answer(|name, slot| match name.to_bytes() {
                b"group" => slot.text_ptr(curve.group),
                b"bits" => slot.size(curve.bits()),
                b"security-bits" => slot.integer(curve.strength()?.into()),
                b"max-size" => slot.size(curve.signature),
                _ => Ok(()),
            })?;
            return Ok(1);
        }
        let public = held.key.numbers()?;
        // X25519 and ML-KEM tell it so; Ed25519 has no such name.
        let encodes = public.kind().signature.is_none() || public.place == EC;
        asked.answer(|name, slot| match (name.to_bytes(), &public.numbers) {
            (b"bits", _) => slot.size(public.bits()),
            (b"security-bits", _) => slot.integer(public.strength().into()),
            (b"max-size", _) => slot.size(public.most()),
            (b"default-digest", Numbers::Rsa { .. } | Numbers::Ec { .. }) => slot.text("SHA256"),
            // Signed and agreed without a digest of the caller's.
            (b"mandatory-digest", Numbers::Plain(_)) => slot.text(""),
            (b"n", Numbers::Rsa { modulus, .. }) => slot.number(modulus),
            (b"e", Numbers::Rsa { exponent, .. }) => slot.number(exponent),
            (b"group", Numbers::Ec { curve, .. }) => slot.text_ptr(curve.group),
            (b"point-format", Numbers::Ec { .. }) => slot.text("uncompressed"),
            (b"field-type", Numbers::Ec { .. }) => slot.text("prime-field"),
            (b"decoded-from-explicit" | b"use-cofactor-flag", Numbers::Ec { .. }) => {
                slot.integer(0)
            }
            (b"pub", Numbers::Ec { point, .. } | Numbers::Plain(point)) => slot.octets(point),
            (b"encoded-pub-key", Numbers::Ec { point, .. } | Numbers::Plain(point)) if encodes => {
                slot.octets(point)
            }
            (b"qx", Numbers::Ec { curve, point }) => slot.number(&point[1..=curve.size]),
            (b"qy", Numbers::Ec { curve, point }) => slot.number(&point[1 + curve.size..]),
            _ => Ok(()),
        })?;
        Ok(1)
    })
}

described!(SETTABLE: octets(c"encoded-pub-key"));

unsafe extern "C" fn settable_params(_: *mut c_void) -> *const OSSL_PARAM {
    SETTABLE.as_ptr()
}

/// A peer's public key, into a key that has none.
unsafe extern "C" fn set_params(held: *mut c_void, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    let (held, params) = unsafe { (key(held), Given::new(params)) };
    guarded(&held.provider, 0, || {
        if let Some(value) = params.find(c"encoded-pub-key") {
            held.key.fill_encoded(value.octets()?)?;
        }
        Ok(1)
    })
}

described!(RSA_TYPES: number(c"n"), number(c"e"));
described!(EC_TYPES: text(c"group"), octets(c"pub"));
described!(PLAIN_TYPES: octets(c"pub"));
static NO_TYPES: Described<1> = Described([end()]);

/// Of the public half; there is nothing else that moves.
unsafe extern "C" fn types_of<const N: usize>(selection: c_int) -> *const OSSL_PARAM {
    if selection & (PUBLIC | DOMAIN) == 0 {
        return NO_TYPES.as_ptr();
    }
    match TYPES[N].name.to_bytes() {
        b"RSA" => RSA_TYPES.as_ptr(),
        b"EC" => EC_TYPES.as_ptr(),
        _ => PLAIN_TYPES.as_ptr(),
    }
}

fn imported(place: usize, params: Given<'_>) -> Result<Public> {
    let needs = |name: &std::ffi::CStr| {
        params.find(name).ok_or_else(|| {
            let text = format!("parameter {}: it is missing", name.to_string_lossy());
            Error::new(Reason::PARAMETER, text)
        })
    };
    let numbers = match TYPES[place].name.to_bytes() {
        b"RSA" => Numbers::Rsa {
            modulus: needs(c"n")?.number()?,
            exponent: needs(c"e")?.number()?,
        },
        b"EC" => {
            let curve = Curve::named(needs(c"group")?.text()?)?;
            let point = needs(c"pub")?.octets()?.to_vec();
            Numbers::Ec { curve, point }
        }
        _ => Numbers::Plain(needs(c"pub")?.octets()?.to_vec()),
    };
    Public::build(place, numbers)
}

unsafe extern "C" fn import(
    held: *mut c_void,
    selection: c_int,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    let (held, params) = unsafe { (key(held), Given::new(params)) };
    guarded(&held.provider, 0, || {
        let secret = [c"priv", c"d", c"seed"];
        if selection & PRIVATE != 0 && secret.iter().any(|name| params.find(name).is_some()) {
            return Err(Error::new(
                Reason::UNSUPPORTED,
                "a private key of the program's own is the default provider's: activate that before this \
                 one, or give the key to the broker (cryptofd key import)",
            ));
        }
        held.key.fill(imported(held.key.place(), params)?)?;
        Ok(1)
    })
}

/// The public half. Of a private key as a whole there is nothing to export: whoever asks for it keeps to ours.
unsafe extern "C" fn export(
    held: *mut c_void,
    selection: c_int,
    callback: Callback,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: of the host.
    let held = unsafe { key(held) };
    let key = &held.key;
    if (selection & PRIVATE != 0 && key.is_private()) || selection & (PUBLIC | DOMAIN) == 0 {
        return 0;
    }
    gated(&held.provider, 0, || {
        let given = |key: &'static std::ffi::CStr, data_type, data: &[u8]| OSSL_PARAM {
            key: key.as_ptr(),
            data_type,
            data: data.as_ptr().cast_mut().cast(),
            data_size: data.len(),
            return_size: OSSL_PARAM_UNMODIFIED,
        };
        let native = |number: &[u8]| {
            let mut bytes = number.to_vec();
            if cfg!(target_endian = "little") {
                bytes.reverse();
            }
            bytes
        };
        let group = |curve: &Curve| {
            let name = curve.group.to_bytes();
            given(c"group", OSSL_PARAM_UTF8_STRING, name)
        };
        let (first, second);
        let mut list = match key.curve().filter(|_| selection & PUBLIC == 0) {
            Some(curve) => vec![group(curve)],
            None => match &key.numbers()?.numbers {
                Numbers::Rsa { modulus, exponent } => {
                    (first, second) = (native(modulus), native(exponent));
                    vec![
                        given(c"n", OSSL_PARAM_UNSIGNED_INTEGER, &first),
                        given(c"e", OSSL_PARAM_UNSIGNED_INTEGER, &second),
                    ]
                }
                Numbers::Ec { curve, point } => {
                    vec![group(curve), given(c"pub", OSSL_PARAM_OCTET_STRING, point)]
                }
                Numbers::Plain(bytes) => vec![given(c"pub", OSSL_PARAM_OCTET_STRING, bytes)],
            },
        };
        list.push(end());
        // SAFETY: a list with an end, whose data live through the call.
        Ok(unsafe { callback(list.as_ptr(), argument) })
    })
}

unsafe extern "C" fn operation_name<const N: usize>(operation: c_int) -> *const c_char {
    let kind = &TYPES[N];
    let name = match operation {
        op::SIGNATURE => kind.signature,
        op::KEYEXCH => kind.exchange,
        op::ASYM_CIPHER => kind.cipher,
        op::KEM => kind.kem,
        _ => None,
    };
    name.unwrap_or(kind.name).as_ptr()
}
