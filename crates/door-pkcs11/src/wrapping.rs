//! Wrapping, unwrapping and deriving keys.

use crate::attributes::Attributes;
use crate::cipher;
use crate::der;
use crate::digest;
use crate::ffi::Out;
use crate::generate;
use crate::mechanism::{self, Does};
use crate::module::{Session, State};
use crate::object::{self, How, Material, Object, Origin};
use crate::parameter::{Mechanism, Parameter, Salt};
use crate::rv::{Result, Rv, invalid_is};
use crate::served::Served;
use crate::tls;
use cryptofd_core::engine::{Derivation, Direction, Key};
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{self, Request};
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::table;
use cryptoki_sys::*;
use std::sync::Arc;
use zeroize::Zeroizing;

/// C_WrapKey.
pub fn wrap(
    state: &State,
    session: &Session,
    mechanism: &Mechanism,
    by: CK_OBJECT_HANDLE,
    key: CK_OBJECT_HANDLE,
    out: &mut Out<'_>,
) -> Result<()> {
    let by = state
        .object(session.slot, by)
        .map_err(|_| Rv(CKR_WRAPPING_KEY_HANDLE_INVALID))?;
    let key = state.key(session.slot, key)?;
    if mechanism::flags(mechanism.kind)? & CKF_WRAP == 0 {
        return Err(Rv(CKR_MECHANISM_INVALID));
    }
    by.may(CKA_WRAP, mechanism.kind)?;
    if !key.flag(CKA_EXTRACTABLE) {
        return Err(Rv(CKR_KEY_UNEXTRACTABLE));
    }
    if key.flag(CKA_WRAP_WITH_TRUSTED) && !by.flag(CKA_TRUSTED) {
        return Err(Rv(CKR_KEY_NOT_WRAPPABLE));
    }
    let bytes = match &key.material {
        Material::Secret(secret) => secret,
        // PKCS#8, as PKCS#11 has private keys wrapped.
        Material::Pair(secret) if key.class() == CKO_PRIVATE_KEY => secret,
        Material::Kept(_) => return Err(Rv(CKR_KEY_UNEXTRACTABLE)),
        _ => return Err(Rv(CKR_KEY_NOT_WRAPPABLE)),
    };
    let crypting = cipher::prepare(&by, mechanism, Direction::Encrypt)?;
    if out.capacity().is_none() {
        out.tell(crypting.room(bytes.len()));
        return Ok(());
    }
    let wrapped = crypting.whole(Input::from(bytes.expose()));
    let wrapped = wrapped.map_err(|error| match error.0 {
        CKR_DATA_LEN_RANGE | CKR_ARGUMENTS_BAD => Rv(CKR_KEY_SIZE_RANGE),
        _ => error,
    })?;
    if out.fits(wrapped.len())? {
        out.give(&wrapped)?;
    }
    Ok(())
}

/// C_UnwrapKey.
pub fn unwrap(
    state: &State,
    session: &Session,
    mechanism: &Mechanism,
    by: CK_OBJECT_HANDLE,
    wrapped: &[u8],
    mut attributes: Attributes,
) -> Result<CK_OBJECT_HANDLE> {
    let by = state
        .object(session.slot, by)
        .map_err(|_| Rv(CKR_UNWRAPPING_KEY_HANDLE_INVALID))?;
    if mechanism::flags(mechanism.kind)? & CKF_UNWRAP == 0 {
        return Err(Rv(CKR_MECHANISM_INVALID));
    }
    by.may(CKA_UNWRAP, mechanism.kind)?;
    let class = attributes
        .number(CKA_CLASS)
        .ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
    let kind = attributes.key_type().ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
    if attributes.has(CKA_VALUE) || !matches!(class, CKO_SECRET_KEY | CKO_PRIVATE_KEY) {
        return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
    }
    let token = generate::token(session, &attributes)?;
    object::complete(&mut attributes, Origin::Unwrapped)?;
    let crypting = cipher::prepare(&by, mechanism, Direction::Decrypt)?;
    let key = crypting
        .whole(Input::from(wrapped))
        .map_err(|error| match error.0 {
            CKR_ENCRYPTED_DATA_INVALID | CKR_AEAD_DECRYPT_FAILED => Rv(CKR_WRAPPED_KEY_INVALID),
            CKR_ENCRYPTED_DATA_LEN_RANGE | CKR_ARGUMENTS_BAD => Rv(CKR_WRAPPED_KEY_LEN_RANGE),
            _ => error,
        })?;
    let wrong = |error: Rv| match error.0 {
        CKR_ATTRIBUTE_VALUE_INVALID => Rv(CKR_WRAPPED_KEY_INVALID),
        _ => error,
    };
    let material = if class == CKO_SECRET_KEY {
        let length = attributes
            .number(CKA_VALUE_LEN)
            .map(|length| length as usize);
        if length.is_some_and(|length| length != key.len()) {
            return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
        }
        object::secret_of(&mut attributes, kind, &key).map_err(wrong)?
    } else {
        let implied = der::told_by_private(&key, kind).map_err(wrong)?;
        attributes.agree(&implied)?;
        object::pair_of(&mut attributes, &key).map_err(wrong)?
    };
    if token {
        return generate::give(state, &attributes, &material);
    }
    Ok(state.keep_in(session, attributes, material))
}

/// C_DeriveKey.
pub fn derive(
    state: &State,
    session: &Session,
    mechanism: &Mechanism,
    base: CK_OBJECT_HANDLE,
    mut attributes: Attributes,
) -> Result<Option<CK_OBJECT_HANDLE>> {
    let known = mechanism::find(mechanism.kind)?;
    if known.flags & CKF_DERIVE == 0 {
        return Err(Rv(CKR_MECHANISM_INVALID));
    }
    let base = if matches!(known.does, Does::Hkdf { .. }) {
        keyed(state, session, base)?
    } else {
        state.key(session.slot, base)?
    };
    // Data has no usages.
    if base.class() != CKO_DATA {
        base.may(CKA_DERIVE, mechanism.kind)?;
    }
    if attributes.flag(CKA_TOKEN) {
        return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
    }
    match known.does {
        Does::Tls => return tls::derive(state, session, &base, mechanism, attributes).map(Some),
        // Their handles are in the parameter.
        Does::TlsKeys => {
            return tls::keys(state, session, &base, mechanism, &attributes).map(|()| None);
        }
        _ => {}
    }
    // NSS's grease asks for data that is a secret key, which hides no less.
    let said = attributes.number(CKA_CLASS);
    let data = matches!(known.does, Does::Hkdf { data: true }) && said != Some(CKO_SECRET_KEY);
    let class = if data { CKO_DATA } else { CKO_SECRET_KEY };
    let mut implied = Attributes::default();
    implied.set_number(CKA_CLASS, class);
    attributes.agree(&implied)?;
    if !data && !attributes.has(CKA_KEY_TYPE) {
        attributes.set_number(CKA_KEY_TYPE, CKK_GENERIC_SECRET);
    }
    let kind = attributes.key_type().unwrap_or(CKK_GENERIC_SECRET);
    let length = match (attributes.number(CKA_VALUE_LEN), kind) {
        (Some(length), _) => Some(length as usize),
        (None, CKK_CHACHA20) => Some(32),
        (None, CKK_DES3) => Some(24),
        _ => None,
    };
    let bytes = match known.does {
        Does::Agree => agree(&base, mechanism, length)?,
        // A key of another type has a length of its own.
        Does::Hkdf { .. } if length.is_none() && !matches!(kind, CKK_GENERIC_SECRET | CKK_HKDF) => {
            return Err(Rv(CKR_TEMPLATE_INCOMPLETE));
        }
        Does::Hkdf { .. } => hkdf(state, session, &base, mechanism, length)?,
        _ => return Err(Rv(CKR_MECHANISM_INVALID)),
    };
    let material = if data {
        attributes.set(CKA_VALUE, bytes.expose());
        object::stored(&mut attributes);
        Material::None
    } else {
        object::complete(&mut attributes, Origin::derived(&base))?;
        object::secret_of(&mut attributes, kind, bytes.expose())?
    };
    Ok(Some(state.keep_in(session, attributes, material)))
}

/// The key of a KEM, and its algorithm.
fn kem(
    state: &State,
    session: &Session,
    mechanism: &Mechanism,
    key: CK_OBJECT_HANDLE,
    usage: CK_ATTRIBUTE_TYPE,
) -> Result<(Arc<Object>, Served)> {
    let Does::Encapsulate = mechanism::find(mechanism.kind)?.does else {
        return Err(Rv(CKR_MECHANISM_INVALID));
    };
    mechanism.nothing()?;
    let key = state.key(session.slot, key)?;
    if key.key_type()? != CKK_ML_KEM {
        return Err(Rv(CKR_KEY_TYPE_INCONSISTENT));
    }
    key.may(usage, mechanism.kind)?;
    let attributes = key.attributes.read().unwrap_or_else(|e| e.into_inner());
    let algorithm = der::algorithm(&attributes, false)?;
    drop(attributes);
    let served = key.serve(algorithm, How::default())?;
    Ok((key, served))
}

/// Keeps the secret of a KEM.
fn shared(
    state: &State,
    session: &Session,
    base: &Object,
    mut attributes: Attributes,
    secret: &Secret,
) -> Result<CK_OBJECT_HANDLE> {
    let mut implied = Attributes::default();
    implied.set_number(CKA_CLASS, CKO_SECRET_KEY);
    attributes.agree(&implied)?;
    if attributes.flag(CKA_TOKEN) || attributes.has(CKA_VALUE) {
        return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
    }
    if !attributes.has(CKA_KEY_TYPE) {
        attributes.set_number(CKA_KEY_TYPE, CKK_GENERIC_SECRET);
    }
    let said = attributes
        .number(CKA_VALUE_LEN)
        .map(|length| length as usize);
    if said.is_some_and(|length| length != secret.len()) {
        return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
    }
    let kind = attributes.key_type().unwrap_or(CKK_GENERIC_SECRET);
    object::complete(&mut attributes, Origin::derived(base))?;
    let material = object::secret_of(&mut attributes, kind, secret.expose())?;
    Ok(state.keep_in(session, attributes, material))
}

/// C_EncapsulateKey; none where only the ciphertext's length was asked for.
pub fn encapsulate(
    state: &State,
    session: &Session,
    mechanism: &Mechanism,
    key: CK_OBJECT_HANDLE,
    attributes: Attributes,
    out: &mut Out<'_>,
) -> Result<Option<CK_OBJECT_HANDLE>> {
    let (key, served) = kem(state, session, mechanism, key, CKA_ENCAPSULATE)?;
    // FIPS 203, table 3.
    let length = match served.algorithm().name {
        "ml-kem-768" => 1088,
        _ => 1568,
    };
    if !out.fits(length)? {
        return Ok(None);
    }
    let (ciphertext, secret) = served.encapsulate()?;
    let made = shared(state, session, &key, attributes, &secret)?;
    out.give(&ciphertext)?;
    Ok(Some(made))
}

/// C_DecapsulateKey.
pub fn decapsulate(
    state: &State,
    session: &Session,
    mechanism: &Mechanism,
    key: CK_OBJECT_HANDLE,
    ciphertext: &[u8],
    attributes: Attributes,
) -> Result<CK_OBJECT_HANDLE> {
    let (key, served) = kem(state, session, mechanism, key, CKA_DECAPSULATE)?;
    let secret = served.decapsulate(ciphertext);
    let secret = secret.map_err(invalid_is(CKR_WRAPPED_KEY_LEN_RANGE))?;
    shared(state, session, &key, attributes, &secret)
}

/// The leading bytes of a secret, which has enough of them.
fn cut(secret: &[u8], length: Option<usize>) -> Result<Secret> {
    match length {
        None => Ok(Secret::new(secret)),
        // The trailing ones, as PKCS#11 has it of ECDH without a KDF.
        Some(length) if length > 0 && length <= secret.len() => {
            Ok(Secret::new(&secret[secret.len() - length..]))
        }
        Some(_) => Err(Rv(CKR_KEY_SIZE_RANGE)),
    }
}

fn agree(base: &Object, mechanism: &Mechanism, length: Option<usize>) -> Result<Secret> {
    let Parameter::Agreement {
        kdf,
        shared,
        public,
    } = &mechanism.parameter
    else {
        return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
    };
    if base.class() != CKO_PRIVATE_KEY {
        return Err(Rv(CKR_KEY_TYPE_INCONSISTENT));
    }
    let attributes = base.attributes.read().unwrap_or_else(|e| e.into_inner());
    let algorithm = der::algorithm(&attributes, true)?;
    let peer = der::peer(&attributes, public)?;
    drop(attributes);
    let served = base.serve(algorithm, How::default())?;
    let secret = served
        .agree(&peer)
        .map_err(invalid_is(CKR_MECHANISM_PARAM_INVALID))?;
    if *kdf == CKD_NULL {
        if !shared.is_empty() {
            return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
        }
        return cut(secret.expose(), length);
    }
    // ANSI X9.63: hash of the secret, a counter, and what both sides know.
    let hash = match *kdf {
        CKD_SHA1_KDF => "sha1",
        CKD_SHA224_KDF => "sha224",
        CKD_SHA256_KDF => "sha256",
        CKD_SHA384_KDF => "sha384",
        CKD_SHA512_KDF => "sha512",
        _ => return Err(Rv(CKR_MECHANISM_PARAM_INVALID)),
    };
    let served = digest::named(hash)?;
    let length = length.unwrap_or(served.digest_size());
    if length == 0 || length > 64 * served.digest_size() {
        return Err(Rv(CKR_KEY_SIZE_RANGE));
    }
    let mut made = Zeroizing::new(Vec::with_capacity(length + 64));
    let mut counter = 0u32;
    while made.len() < length {
        counter += 1;
        let mut hasher = served.hasher()?;
        hasher.update(Input::from(secret.expose()))?;
        hasher.update(Input::from(&counter.to_be_bytes()))?;
        hasher.update(Input::from(&shared[..]))?;
        made.extend_from_slice(&hasher.finish()?);
    }
    Ok(Secret::new(&made[..length]))
}

/// What HKDF works on: a key, or data, which TLS 1.3 begins with where there is no secret yet.
fn keyed(state: &State, session: &Session, handle: CK_OBJECT_HANDLE) -> Result<Arc<Object>> {
    let object = state.object(session.slot, handle);
    let object = object.map_err(|_| Rv(CKR_KEY_HANDLE_INVALID))?;
    if object.class() != CKO_DATA {
        object.key_type()?;
    }
    Ok(object)
}

/// The bytes of it.
fn input(object: &Object) -> Result<Secret> {
    if object.class() == CKO_DATA {
        return Ok(Secret::new(&object.attribute(CKA_VALUE)?));
    }
    match object.key_type()? {
        CKK_HKDF | CKK_GENERIC_SECRET => Ok(object.secret()?.clone()),
        _ => Err(Rv(CKR_KEY_TYPE_INCONSISTENT)),
    }
}

/// HKDF (RFC 5869), both steps or one. Extracting is HMAC under the salt.
fn hkdf(
    state: &State,
    session: &Session,
    base: &Object,
    mechanism: &Mechanism,
    length: Option<usize>,
) -> Result<Secret> {
    let wrong = Rv(CKR_MECHANISM_PARAM_INVALID);
    let Parameter::Hkdf {
        extract,
        expand,
        hash,
        salt,
        info,
    } = &mechanism.parameter
    else {
        return Err(wrong);
    };
    let hash = mechanism::hash(*hash)?;
    let key = &input(base)?;
    let salt_key;
    let salt: &[u8] = match salt {
        Salt::None => &[],
        Salt::Bytes(bytes) => bytes,
        Salt::Key(handle) => {
            salt_key = input(&*keyed(state, session, *handle)?)?;
            salt_key.expose()
        }
    };
    let open = |name: String, key: Key| {
        let request = Request {
            algorithm: name,
            key,
            ..Request::default()
        };
        session::Session::open(request).map_err(invalid_is(CKR_MECHANISM_PARAM_INVALID))
    };
    let size = table::find(hash)?.digest;
    // As many bytes as the hash has, where nobody says how many.
    let length = length.unwrap_or(size);
    let with = Derivation {
        salt,
        info,
        ..Derivation::default()
    };
    match (*extract, *expand) {
        (true, true) => {
            if length == 0 || length > 255 * size {
                return Err(Rv(CKR_KEY_SIZE_RANGE));
            }
            let kdf = open(format!("hkdf({hash})"), Key::Bytes(key.clone()))?;
            Ok(Secret::made(length, |out| {
                kdf.derive(&with, out).map(|()| out.len())
            })?)
        }
        (true, false) => {
            if length != size {
                return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
            }
            // No salt is as many zeroes as the hash has bytes.
            let zeroes = [0; 64];
            let salt = if salt.is_empty() {
                &zeroes[..size]
            } else {
                salt
            };
            let mac = open(format!("hmac({hash})"), Key::Bytes(Secret::new(salt)))?;
            Ok(Secret::made(size, |out| {
                mac.digest(Input::from(key.expose()), out)
                    .map(|()| out.len())
            })?)
        }
        (false, true) => {
            if length == 0 || length > 255 * size {
                return Err(Rv(CKR_KEY_SIZE_RANGE));
            }
            let mac = open(format!("hmac({hash})"), Key::Bytes(key.clone()))?;
            let mut made = Zeroizing::new(Vec::with_capacity(length + 64));
            let mut last = Zeroizing::new(Vec::new());
            let mut counter = 0u8;
            while made.len() < length {
                counter += 1;
                let mut hasher = mac.hasher()?;
                hasher.update(Input::from(&last[..]))?;
                hasher.update(Input::from(&info[..]))?;
                hasher.update(Input::from(&[counter]))?;
                let mut next = Zeroizing::new(vec![0; size]);
                hasher.finish(&mut next)?;
                made.extend_from_slice(&next);
                last = next;
            }
            Ok(Secret::new(&made[..length]))
        }
        (false, false) => Err(wrong),
    }
}
