//! Making objects: brought, copied, generated.

use crate::attributes::Attributes;
use crate::der;
use crate::keys::{self, Wanted};
use crate::mechanism::{self, Does};
use crate::module::{Session, State};
use crate::object::{self, Material, Origin};
use crate::parameter::Mechanism;
use crate::rv::{Result, Rv, invalid_is};
use crate::shelf;
use crate::slot;
use cryptofd_core::engines::software;
use cryptofd_core::pair;
use cryptofd_core::secret::Secret;
use cryptofd_core::table::{self, Kind};
use cryptoki_sys::*;

/// Whether an object stays. Keys are kept by the broker, and only in its slot.
pub fn token(session: &Session, attributes: &Attributes) -> Result<bool> {
    let token = attributes.flag(CKA_TOKEN);
    if token && session.slot != slot::KEYS {
        return Err(Rv(CKR_TOKEN_WRITE_PROTECTED));
    }
    if token && !session.writes {
        return Err(Rv(CKR_SESSION_READ_ONLY));
    }
    Ok(token)
}

/// C_CreateObject.
pub fn create(
    state: &State,
    session: &Session,
    mut attributes: Attributes,
) -> Result<CK_OBJECT_HANDLE> {
    let class = attributes
        .number(CKA_CLASS)
        .ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
    let token = token(session, &attributes)?;
    object::untrusted(&attributes)?;
    match class {
        CKO_DATA => {
            for kind in [CKA_APPLICATION, CKA_LABEL, CKA_VALUE, CKA_OBJECT_ID] {
                attributes.default_bytes(kind, &[]);
            }
        }
        CKO_CERTIFICATE => {
            if !attributes.has(CKA_CERTIFICATE_TYPE) || !attributes.has(CKA_VALUE) {
                return Err(Rv(CKR_TEMPLATE_INCOMPLETE));
            }
            for kind in [
                CKA_LABEL,
                CKA_ID,
                CKA_SUBJECT,
                CKA_ISSUER,
                CKA_SERIAL_NUMBER,
            ] {
                attributes.default_bytes(kind, &[]);
            }
            attributes.default_flag(CKA_TRUSTED, false);
        }
        CKO_SECRET_KEY | CKO_PUBLIC_KEY | CKO_PRIVATE_KEY => {
            object::complete(&mut attributes, Origin::Created)?;
            let material = object::bring(&mut attributes)?;
            // A public key is no secret: it stays as long as the session.
            if token && class != CKO_PUBLIC_KEY {
                return give(state, &attributes, &material);
            }
            attributes.set_flag(CKA_TOKEN, false);
            return Ok(state.keep_in(session, attributes, material));
        }
        _ => return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID)),
    }
    object::stored(&mut attributes);
    if token {
        let name = shelf::put(&attributes)?;
        return keys::shelved(state, &name);
    }
    Ok(state.keep_in(session, attributes, Material::None))
}

/// The broker's name of the algorithm of a secret key. One key of the broker's serves one algorithm: that of the
/// mechanisms which the template allows, or the usual one of the key's type.
fn secret_algorithm(attributes: &Attributes) -> Result<&'static str> {
    if attributes.has(CKA_ALLOWED_MECHANISMS) {
        let allowed = attributes.numbers(CKA_ALLOWED_MECHANISMS);
        let wrong = Rv(CKR_ATTRIBUTE_VALUE_INVALID);
        let first = *allowed.first().ok_or(wrong)?;
        let algorithm = mechanism::find(first).map_err(|_| wrong)?.algorithm;
        let algorithm = algorithm.ok_or(wrong)?;
        let one = mechanism::of(algorithm);
        if !allowed.iter().all(|kind| one.contains(kind)) {
            return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
        }
        // What wraps does so within the broker, which gives and takes no bytes of keys.
        let keyed = matches!(
            algorithm.kind,
            Kind::Cipher | Kind::Aead | Kind::Mac | Kind::Kdf
        );
        let (own, said) = (keys::key_type(algorithm), attributes.key_type());
        return if keyed && own.is_some() && own == said {
            Ok(algorithm.name)
        } else {
            Err(wrong)
        };
    }
    match attributes.key_type() {
        Some(CKK_AES) => Ok("gcm(aes)"),
        Some(CKK_CHACHA20) => Ok("rfc7539(chacha20,poly1305)"),
        Some(CKK_AES_XTS) => Ok("xts(aes)"),
        Some(CKK_HKDF) => Ok("hkdf(sha256)"),
        Some(CKK_GENERIC_SECRET | CKK_SHA256_HMAC) => Ok("hmac(sha256)"),
        Some(CKK_SHA384_HMAC) => Ok("hmac(sha384)"),
        Some(CKK_SHA512_HMAC) => Ok("hmac(sha512)"),
        _ => Err(Rv(CKR_TEMPLATE_INCONSISTENT)),
    }
}

/// Gives a key that was brought to the broker.
pub fn give(
    state: &State,
    attributes: &Attributes,
    material: &Material,
) -> Result<CK_OBJECT_HANDLE> {
    let (algorithm, bytes) = match material {
        Material::Secret(key) => (secret_algorithm(attributes)?, key),
        Material::Pair(key) => (pair_algorithm(attributes)?, key),
        _ => return Err(Rv(CKR_TEMPLATE_INCONSISTENT)),
    };
    let wanted = Wanted {
        algorithm,
        bits: None,
        attributes,
        public: None,
    };
    let id = keys::import(&wanted, bytes.expose())?;
    Ok(keys::objects_of(state, &id)?.0)
}

/// An EC key that derives is another algorithm than one that signs.
fn pair_algorithm(attributes: &Attributes) -> Result<&'static str> {
    // The broker holds a pair to its usages and not to a list, except that raw RSA must be asked for; it does whatever
    // the others do.
    let allowed = attributes.numbers(CKA_ALLOWED_MECHANISMS);
    if attributes.has(CKA_ALLOWED_MECHANISMS) && !allowed.contains(&CKM_RSA_X_509) {
        return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
    }
    let agrees = attributes.flag(CKA_DERIVE) && !attributes.flag(CKA_SIGN);
    if agrees {
        return Ok(der::algorithm(attributes, true)?.name);
    }
    Ok(der::any_algorithm(attributes)?.name)
}

/// C_CopyObject.
pub fn copy(
    state: &State,
    session: &Session,
    handle: CK_OBJECT_HANDLE,
    changes: &Attributes,
) -> Result<CK_OBJECT_HANDLE> {
    let object = state.object(session.slot, handle)?;
    if !object.flag(CKA_COPYABLE) {
        return Err(Rv(CKR_ACTION_PROHIBITED));
    }
    token(session, changes)?;
    if changes.flag(CKA_TOKEN) {
        return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
    }
    let old = object.attributes.read().unwrap_or_else(|e| e.into_inner());
    object::check_change(&old, changes, true)?;
    let mut attributes = old.clone();
    drop(old);
    for (kind, value) in changes.iter() {
        attributes.set(kind, value);
    }
    attributes.set_flag(CKA_TOKEN, false);
    let material = match &object.material {
        Material::None | Material::Shelved(_) => Material::None,
        Material::Secret(key) => Material::Secret(key.clone()),
        Material::Pair(key) => Material::Pair(key.clone()),
        Material::Kept(_) => return Err(Rv(CKR_ACTION_PROHIBITED)),
    };
    Ok(state.keep_in(session, attributes, material))
}

/// C_DestroyObject.
pub fn destroy(state: &State, session: &Session, handle: CK_OBJECT_HANDLE) -> Result<()> {
    let object = state.object(session.slot, handle)?;
    if !object.flag(CKA_DESTROYABLE) {
        return Err(Rv(CKR_ACTION_PROHIBITED));
    }
    if object.owner.is_none() {
        if !session.writes {
            return Err(Rv(CKR_SESSION_READ_ONLY));
        }
        match &object.material {
            Material::Kept(kept) => kept.delete()?,
            Material::Shelved(name) => shelf::remove(name)?,
            // It goes with its private half.
            _ => return Err(Rv(CKR_ACTION_PROHIBITED)),
        }
        return keys::refresh(state);
    }
    state.drop_object(handle);
    Ok(())
}

/// C_SetAttributeValue.
pub fn change(
    state: &State,
    session: &Session,
    handle: CK_OBJECT_HANDLE,
    changes: &Attributes,
) -> Result<()> {
    let object = state.object(session.slot, handle)?;
    let mut attributes = object.attributes.write().unwrap_or_else(|e| e.into_inner());
    // NSS sets the CKA_ID that we compute as it does: said again.
    if changes
        .iter()
        .all(|(kind, value)| kind == CKA_ID && attributes.bytes(kind) == Some(value))
    {
        return Ok(());
    }
    if !attributes.flag(CKA_MODIFIABLE) {
        return Err(Rv(CKR_ACTION_PROHIBITED));
    }
    object::check_change(&attributes, changes, false)?;
    if object.owner.is_none() && !session.writes {
        return Err(Rv(CKR_SESSION_READ_ONLY));
    }
    let mut changed = attributes.clone();
    for (kind, value) in changes.iter() {
        changed.set(kind, value);
    }
    match &object.material {
        Material::Kept(kept) => {
            // The broker keeps a label and nothing else of this. A subject, which NSS gives to the key of a
            // certificate, is the certificate's; here it lasts as long as the program.
            let other = |(kind, value): (CK_ATTRIBUTE_TYPE, &[u8])| {
                !matches!(kind, CKA_LABEL | CKA_SUBJECT) && attributes.bytes(kind) != Some(value)
            };
            if changes.iter().any(other) {
                return Err(Rv(CKR_ATTRIBUTE_READ_ONLY));
            }
            let label = changed.bytes(CKA_LABEL);
            if label != attributes.bytes(CKA_LABEL) {
                kept.rename(label.unwrap_or_default())?;
            }
        }
        Material::Shelved(name) => shelf::replace(name, &changed)?,
        _ if object.owner.is_none() => return Err(Rv(CKR_ATTRIBUTE_READ_ONLY)),
        _ => {}
    }
    *attributes = changed;
    Ok(())
}

/// C_GenerateKey.
pub fn key(
    state: &State,
    session: &Session,
    mechanism: &Mechanism,
    mut attributes: Attributes,
) -> Result<CK_OBJECT_HANDLE> {
    let Does::Generate { key } = mechanism::find(mechanism.kind)?.does else {
        return Err(Rv(CKR_MECHANISM_INVALID));
    };
    mechanism.nothing()?;
    let mut implied = Attributes::default();
    implied.set_number(CKA_CLASS, CKO_SECRET_KEY);
    if !(mechanism.kind == CKM_GENERIC_SECRET_KEY_GEN && attributes.has(CKA_KEY_TYPE)) {
        implied.set_number(CKA_KEY_TYPE, key);
    }
    attributes.agree(&implied)?;
    if attributes.has(CKA_VALUE) {
        return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
    }
    let length = match (attributes.number(CKA_VALUE_LEN), key) {
        (Some(length), _) => length as usize,
        (None, CKK_CHACHA20) => 32,
        (None, CKK_DES3) => 24,
        (None, _) => return Err(Rv(CKR_TEMPLATE_INCOMPLETE)),
    };
    let sizes = mechanism::find(mechanism.kind)?.sizes;
    if (length as CK_ULONG) < sizes.0 || length as CK_ULONG > sizes.1 {
        return Err(Rv(CKR_KEY_SIZE_RANGE));
    }
    object::complete(&mut attributes, Origin::Generated(mechanism.kind))?;
    if token(session, &attributes)? {
        let wanted = Wanted {
            algorithm: secret_algorithm(&attributes)?,
            bits: Some(length * 8),
            attributes: &attributes,
            public: None,
        };
        let id = keys::generate(&wanted)?;
        return Ok(keys::objects_of(state, &id)?.0);
    }
    let secret = Secret::made(length, |bytes| {
        software::random(bytes).map(|()| bytes.len())
    })?;
    let actual = attributes.key_type().unwrap_or(key);
    let material = object::secret_of(&mut attributes, actual, secret.expose())?;
    Ok(state.keep_in(session, attributes, material))
}

/// C_GenerateKeyPair: handles of the public and the private half.
pub fn key_pair(
    state: &State,
    session: &Session,
    mechanism: &Mechanism,
    mut public: Attributes,
    mut private: Attributes,
) -> Result<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE)> {
    let Does::GeneratePair { key } = mechanism::find(mechanism.kind)?.does else {
        return Err(Rv(CKR_MECHANISM_INVALID));
    };
    mechanism.nothing()?;
    for (attributes, class) in [
        (&mut public, CKO_PUBLIC_KEY),
        (&mut private, CKO_PRIVATE_KEY),
    ] {
        let mut implied = Attributes::default();
        implied.set_number(CKA_CLASS, class);
        implied.set_number(CKA_KEY_TYPE, key);
        attributes.agree(&implied)?;
    }
    let (name, bits) = der::to_generate(&public, key)?;
    let algorithm = table::find(name)?;
    if key == CKK_RSA && !algorithm.bits.contains(bits) {
        return Err(Rv(CKR_KEY_SIZE_RANGE));
    }
    let origin = Origin::Generated(mechanism.kind);
    object::complete(&mut public, origin)?;
    object::complete(&mut private, origin)?;
    for kind in [CKA_EC_PARAMS, CKA_PARAMETER_SET] {
        if let Some(parameters) = public.bytes(kind) {
            let parameters = parameters.to_vec();
            private.set(kind, &parameters);
        }
    }
    let token = token(session, &private)?;
    self::token(session, &public)?;
    if token {
        let wanted = Wanted {
            algorithm: pair_algorithm(&private)?,
            bits: (bits > 0).then_some(bits),
            attributes: &private,
            public: Some(&public),
        };
        let id = keys::generate(&wanted)?;
        let (own, other) = keys::objects_of(state, &id)?;
        return Ok((other.ok_or(Rv(CKR_DEVICE_ERROR))?, own));
    }
    let made = pair::generate(algorithm, (bits > 0).then_some(bits));
    let made = made.map_err(invalid_is(CKR_KEY_SIZE_RANGE))?;
    let spki = made.public.ok_or(Rv(CKR_GENERAL_ERROR))?;
    let private_key = object::pair_of(&mut private, made.key.expose())?;
    let public_key = object::pair_of(&mut public, &spki)?;
    let session_object = |mut attributes: Attributes, material| {
        attributes.set_flag(CKA_TOKEN, false);
        state.keep_in(session, attributes, material)
    };
    Ok((
        session_object(public, public_key),
        session_object(private, private_key),
    ))
}
