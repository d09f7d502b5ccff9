//! Objects: keys, certificates, data; what may be seen of them and what may be done with them.

use crate::attributes::Attributes;
use crate::der;
use crate::keys::Kept;
use crate::rv::{Result, Rv, invalid_is};
use crate::served::Served;
use cryptofd_core::engine::{Key, Parameters};
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{Request, Session};
use cryptofd_core::table::Algorithm;
use cryptoki_sys::*;
use std::sync::{Arc, Mutex, RwLock};
use zeroize::Zeroizing;

/// The key itself.
pub enum Material {
    /// There is none: data, certificates.
    None,
    Secret(Secret),
    /// PKCS#8 of a private key; SubjectPublicKeyInfo of a public one.
    Pair(Secret),
    /// One of the broker's, which nobody here has.
    Kept(Arc<Kept>),
    /// No key, but it stays: the name of its file.
    Shelved(String),
}

/// What a session on a key is opened with besides the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct How {
    pub tag_size: Option<usize>,
    pub pkcs7: bool,
}

/// Sessions on one key that were opened before.
type Opened = Vec<(&'static str, How, Served)>;
/// How many of them are kept.
const OPENED: usize = 8;

/// An object.
pub struct Object {
    pub attributes: RwLock<Attributes>,
    pub material: Material,
    /// The slot whose object it is.
    pub slot: CK_SLOT_ID,
    /// The session that it ends with; none if it stays.
    pub owner: Option<CK_SESSION_HANDLE>,
    opened: Mutex<Opened>,
}

/// Attributes that are nobody's to see where the key is sensitive or not extractable.
fn secret(kind: CK_ATTRIBUTE_TYPE) -> bool {
    matches!(
        kind,
        CKA_VALUE
            | CKA_SEED
            | CKA_PRIVATE_EXPONENT
            | CKA_PRIME_1
            | CKA_PRIME_2
            | CKA_EXPONENT_1
            | CKA_EXPONENT_2
            | CKA_COEFFICIENT
    )
}

impl Object {
    /// An object of these attributes.
    pub fn new(
        attributes: Attributes,
        material: Material,
        slot: CK_SLOT_ID,
        owner: Option<CK_SESSION_HANDLE>,
    ) -> Arc<Object> {
        Arc::new(Object {
            attributes: RwLock::new(attributes),
            material,
            slot,
            owner,
            opened: Mutex::default(),
        })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Attributes> {
        self.attributes.read().unwrap_or_else(|e| e.into_inner())
    }

    /// The class.
    pub fn class(&self) -> CK_OBJECT_CLASS {
        self.read().class()
    }

    /// A flag.
    pub fn flag(&self, kind: CK_ATTRIBUTE_TYPE) -> bool {
        self.read().flag(kind)
    }

    /// The type of the key; `CKR_KEY_HANDLE_INVALID` of what is none.
    pub fn key_type(&self) -> Result<CK_KEY_TYPE> {
        let attributes = self.read();
        match attributes.class() {
            CKO_SECRET_KEY | CKO_PUBLIC_KEY | CKO_PRIVATE_KEY => {
                attributes.key_type().ok_or(Rv(CKR_KEY_HANDLE_INVALID))
            }
            _ => Err(Rv(CKR_KEY_HANDLE_INVALID)),
        }
    }

    /// That the key may be used so, by this mechanism.
    pub fn may(&self, usage: CK_ATTRIBUTE_TYPE, mechanism: CK_MECHANISM_TYPE) -> Result<()> {
        self.key_type()?;
        let attributes = self.read();
        if !attributes.flag(usage) {
            return Err(Rv(CKR_KEY_FUNCTION_NOT_PERMITTED));
        }
        let listed = attributes.has(CKA_ALLOWED_MECHANISMS);
        let allowed = attributes.numbers(CKA_ALLOWED_MECHANISMS);
        if listed && !allowed.contains(&mechanism) {
            return Err(Rv(CKR_MECHANISM_INVALID));
        }
        Ok(())
    }

    /// Whether anybody may see the key itself.
    pub fn is_open(&self) -> bool {
        let attributes = self.read();
        attributes.class() == CKO_PUBLIC_KEY
            || !attributes.flag(CKA_SENSITIVE) && attributes.flag(CKA_EXTRACTABLE)
    }

    /// One attribute.
    pub fn attribute(&self, kind: CK_ATTRIBUTE_TYPE) -> Result<Zeroizing<Vec<u8>>> {
        let attributes = self.read();
        if let Some(value) = attributes.bytes(kind) {
            return Ok(Zeroizing::new(value.to_vec()));
        }
        let key = matches!(attributes.class(), CKO_SECRET_KEY | CKO_PRIVATE_KEY);
        if !key || !secret(kind) {
            return Err(Rv(CKR_ATTRIBUTE_TYPE_INVALID));
        }
        drop(attributes);
        if !self.is_open() {
            return Err(Rv(CKR_ATTRIBUTE_SENSITIVE));
        }
        let found = match &self.material {
            Material::Secret(secret) if kind == CKA_VALUE => {
                Some(Zeroizing::new(secret.expose().to_vec()))
            }
            Material::Pair(key) => der::tell_private(key.expose(), kind)?,
            _ => None,
        };
        found.ok_or(Rv(CKR_ATTRIBUTE_TYPE_INVALID))
    }

    /// The bytes of a secret key of this process.
    pub fn secret(&self) -> Result<&Secret> {
        match &self.material {
            Material::Secret(secret) => Ok(secret),
            Material::Kept(_) => Err(Rv(CKR_KEY_UNEXTRACTABLE)),
            _ => Err(Rv(CKR_KEY_TYPE_INCONSISTENT)),
        }
    }

    /// A session on the key. Sessions are kept: to open one costs more than a short message.
    pub fn serve(&self, algorithm: &'static Algorithm, how: How) -> Result<Served> {
        let mut opened = self.opened.lock().unwrap_or_else(|e| e.into_inner());
        let same = |one: &&(&str, How, Served)| one.0 == algorithm.name && one.1 == how;
        if let Some((_, _, served)) = opened.iter().find(same) {
            return Ok(served.clone());
        }
        let served = match &self.material {
            Material::Kept(kept) => kept.open(algorithm, how)?,
            Material::None | Material::Shelved(_) => return Err(Rv(CKR_KEY_HANDLE_INVALID)),
            Material::Secret(key) | Material::Pair(key) => {
                let request = Request {
                    algorithm: algorithm.name.into(),
                    key: Key::Bytes(key.clone()),
                    parameters: Parameters {
                        tag_size: how.tag_size,
                        pkcs7: how.pkcs7,
                        ..Parameters::default()
                    },
                    ..Request::default()
                };
                let wrong = match (&self.material, how.tag_size) {
                    (Material::Secret(key), _) if !algorithm.key.contains(key.len()) => {
                        CKR_KEY_SIZE_RANGE
                    }
                    (_, Some(_)) => CKR_MECHANISM_PARAM_INVALID,
                    _ => CKR_KEY_TYPE_INCONSISTENT,
                };
                Served::Here(Session::open(request).map_err(invalid_is(wrong))?)
            }
        };
        if opened.len() == OPENED {
            opened.remove(0);
        }
        opened.push((algorithm.name, how, served.clone()));
        Ok(served)
    }

    /// Whether all that a template says is so.
    pub fn matches(&self, template: &Attributes) -> bool {
        template
            .iter()
            .all(|(kind, wanted)| self.attribute(kind).is_ok_and(|value| *value == wanted))
    }

    /// Bytes that it takes, about.
    pub fn size(&self) -> usize {
        self.read().iter().map(|(_, value)| value.len() + 16).sum()
    }
}

/// How an object comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By C_CreateObject.
    Created,
    /// By C_GenerateKey and C_GenerateKeyPair.
    Generated(CK_MECHANISM_TYPE),
    /// By C_UnwrapKey.
    Unwrapped,
    /// By C_DeriveKey, from keys that always and never were what is said.
    Derived { sensitive: bool, kept: bool },
}

impl Origin {
    /// From this key by C_DeriveKey and its like.
    pub fn derived(base: &Object) -> Origin {
        Origin::Derived {
            sensitive: base.flag(CKA_ALWAYS_SENSITIVE),
            kept: base.flag(CKA_NEVER_EXTRACTABLE),
        }
    }
}

/// Fills in what a template of any object did not say.
pub fn stored(attributes: &mut Attributes) {
    for (kind, value) in [
        (CKA_TOKEN, false),
        (CKA_PRIVATE, false),
        (CKA_MODIFIABLE, true),
        (CKA_COPYABLE, true),
        (CKA_DESTROYABLE, true),
    ] {
        attributes.default_flag(kind, value);
    }
}

/// That nobody says of an object that it is trusted: an administrator's word, which nobody gives here.
pub fn untrusted(attributes: &Attributes) -> Result<()> {
    if attributes.flag(CKA_TRUSTED) {
        return Err(Rv(CKR_ATTRIBUTE_READ_ONLY));
    }
    Ok(())
}

/// Fills in what a template of a key did not say, and what nobody may say.
pub fn complete(attributes: &mut Attributes, origin: Origin) -> Result<()> {
    for kind in [
        CKA_LOCAL,
        CKA_ALWAYS_SENSITIVE,
        CKA_NEVER_EXTRACTABLE,
        CKA_KEY_GEN_MECHANISM,
    ] {
        if attributes.has(kind) {
            return Err(Rv(CKR_ATTRIBUTE_READ_ONLY));
        }
    }
    untrusted(attributes)?;
    // Nobody logs in for one use of a key.
    if attributes.flag(CKA_ALWAYS_AUTHENTICATE) {
        return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
    }
    let kem = attributes.key_type() == Some(CKK_ML_KEM);
    if !kem && (attributes.flag(CKA_ENCAPSULATE) || attributes.flag(CKA_DECAPSULATE)) {
        return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
    }
    let class = attributes.class();
    let private = matches!(class, CKO_SECRET_KEY | CKO_PRIVATE_KEY);
    stored(attributes);
    // False, says PKCS#11. NSS makes the secret of its Encrypted Client Hello grease and says nothing of
    // what it does next, derive; its own token lets it, and Firefox greases every handshake.
    let secret = matches!(origin, Origin::Generated(CKM_GENERIC_SECRET_KEY_GEN));
    attributes.default_flag(CKA_DERIVE, secret);
    for kind in [CKA_LABEL, CKA_ID, CKA_START_DATE, CKA_END_DATE] {
        attributes.default_bytes(kind, &[]);
    }
    let generated = matches!(origin, Origin::Generated(_));
    attributes.set_flag(CKA_LOCAL, generated);
    attributes.set_number(
        CKA_KEY_GEN_MECHANISM,
        match origin {
            Origin::Generated(mechanism) => mechanism,
            _ => CK_UNAVAILABLE_INFORMATION,
        },
    );
    let (one_way, other_way): (&[_], &[_]) = (
        &[CKA_ENCRYPT, CKA_VERIFY, CKA_WRAP],
        &[CKA_DECRYPT, CKA_SIGN, CKA_UNWRAP],
    );
    let key = attributes.key_type();
    let usages: Vec<CK_ATTRIBUTE_TYPE> = match class {
        CKO_PUBLIC_KEY => one_way.to_vec(),
        CKO_PRIVATE_KEY => other_way.to_vec(),
        _ => [one_way, other_way].concat(),
    };
    for kind in usages {
        // What is not said is allowed where the key can do it at all.
        attributes.default_flag(kind, can(class, key, kind));
    }
    // A key of a KEM does nothing else.
    if class == CKO_PUBLIC_KEY {
        attributes.default_flag(CKA_ENCAPSULATE, kem);
        attributes.default_flag(CKA_VERIFY_RECOVER, false);
        attributes.default_flag(CKA_TRUSTED, false);
        attributes.default_bytes(CKA_SUBJECT, &[]);
        return Ok(());
    }
    if class == CKO_PRIVATE_KEY {
        attributes.default_flag(CKA_DECAPSULATE, kem);
        attributes.default_flag(CKA_SIGN_RECOVER, false);
        attributes.default_flag(CKA_ALWAYS_AUTHENTICATE, false);
        attributes.default_bytes(CKA_SUBJECT, &[]);
    }
    if private {
        // What the broker keeps stays with it unless the program says otherwise.
        let kept = attributes.flag(CKA_TOKEN);
        attributes.default_flag(CKA_SENSITIVE, kept || class == CKO_PRIVATE_KEY);
        attributes.default_flag(CKA_EXTRACTABLE, !kept && class == CKO_SECRET_KEY);
        attributes.default_flag(CKA_WRAP_WITH_TRUSTED, false);
        attributes.default_flag(CKA_TRUSTED, false);
        let (sensitive, kept) = match origin {
            Origin::Generated(_) => (true, true),
            Origin::Derived { sensitive, kept } => (sensitive, kept),
            _ => (false, false),
        };
        let sensitive = sensitive && attributes.flag(CKA_SENSITIVE);
        let kept = kept && !attributes.flag(CKA_EXTRACTABLE);
        attributes.set_flag(CKA_ALWAYS_SENSITIVE, sensitive);
        attributes.set_flag(CKA_NEVER_EXTRACTABLE, kept);
    }
    Ok(())
}

/// Whether keys of a type serve a usage at all.
fn can(class: CK_OBJECT_CLASS, key: Option<CK_KEY_TYPE>, usage: CK_ATTRIBUTE_TYPE) -> bool {
    match (class, key) {
        (CKO_SECRET_KEY, Some(CKK_HKDF)) => false,
        (CKO_SECRET_KEY, _) => !matches!(usage, CKA_WRAP | CKA_UNWRAP),
        (_, Some(CKK_RSA)) => true,
        (_, Some(CKK_EC_MONTGOMERY | CKK_ML_KEM)) => false,
        _ => matches!(usage, CKA_SIGN | CKA_VERIFY),
    }
}

/// Secret keys of a known size, by type.
fn size_is_right(key: CK_KEY_TYPE, length: usize) -> bool {
    match key {
        CKK_AES => matches!(length, 16 | 24 | 32),
        CKK_AES_XTS => matches!(length, 32 | 64),
        CKK_CHACHA20 => length == 32,
        CKK_DES3 => length == 24,
        _ => length > 0,
    }
}

/// The material of a key that a program brings, from its template, which keeps no secret.
pub fn bring(attributes: &mut Attributes) -> Result<Material> {
    let class = attributes.class();
    if matches!(class, CKO_DATA | CKO_CERTIFICATE) {
        return Ok(Material::None);
    }
    let key = attributes.key_type().ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
    match class {
        CKO_SECRET_KEY => {
            let value = attributes
                .take(CKA_VALUE)
                .ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
            if let Some(said) = attributes.number(CKA_VALUE_LEN) {
                if said as usize != value.len() {
                    return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
                }
            }
            secret_of(attributes, key, &value)
        }
        CKO_PUBLIC_KEY => {
            let spki = der::public(attributes)?;
            pair_of(attributes, &spki)
        }
        CKO_PRIVATE_KEY => {
            let pkcs8 = der::private(attributes)?;
            for kind in [
                CKA_VALUE,
                CKA_SEED,
                CKA_PRIVATE_EXPONENT,
                CKA_PRIME_1,
                CKA_PRIME_2,
                CKA_EXPONENT_1,
                CKA_EXPONENT_2,
                CKA_COEFFICIENT,
            ] {
                attributes.take(kind);
            }
            pair_of(attributes, &pkcs8)
        }
        _ => Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID)),
    }
}

/// A secret key of these bytes.
pub fn secret_of(attributes: &mut Attributes, key: CK_KEY_TYPE, value: &[u8]) -> Result<Material> {
    if !size_is_right(key, value.len()) {
        return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
    }
    attributes.set_number(CKA_VALUE_LEN, value.len() as CK_ULONG);
    Ok(Material::Secret(Secret::new(value)))
}

/// A private or public key of this DER, which is checked by whoever will use it.
pub fn pair_of(attributes: &mut Attributes, der: &[u8]) -> Result<Material> {
    let algorithm = der::any_algorithm(attributes)?;
    let wrong = invalid_is(CKR_ATTRIBUTE_VALUE_INVALID);
    let (secret, facts) = cryptofd_core::pair::inspect(algorithm, der).map_err(wrong)?;
    if facts.private != (attributes.class() == CKO_PRIVATE_KEY) {
        return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
    }
    let mut told = Attributes::default();
    if let Some(parameters) = attributes.bytes(CKA_EC_PARAMS) {
        told.set(CKA_EC_PARAMS, parameters);
    }
    let private = attributes.class() == CKO_PRIVATE_KEY;
    der::tell_public(&facts.public, &mut told)?;
    for (kind, value) in told.iter() {
        // A private key has no attribute for its point or its bits, and another value.
        if private && matches!(kind, CKA_EC_POINT | CKA_MODULUS_BITS | CKA_VALUE) {
            continue;
        }
        attributes.set(kind, value);
    }
    attributes.set(CKA_PUBLIC_KEY_INFO, &facts.public);
    Ok(Material::Pair(secret))
}

/// That a change to an object is one that may be made.
pub fn check_change(old: &Attributes, changes: &Attributes, copying: bool) -> Result<()> {
    for (kind, value) in changes.iter() {
        let on = value != [0];
        let fine = match kind {
            CKA_LABEL | CKA_ID | CKA_SUBJECT | CKA_START_DATE | CKA_END_DATE | CKA_ENCRYPT
            | CKA_DECRYPT | CKA_SIGN | CKA_VERIFY | CKA_WRAP | CKA_UNWRAP | CKA_DERIVE
            | CKA_SIGN_RECOVER | CKA_VERIFY_RECOVER => true,
            CKA_APPLICATION | CKA_OBJECT_ID | CKA_VALUE | CKA_ISSUER | CKA_SERIAL_NUMBER => {
                old.class() == CKO_DATA
            }
            CKA_SENSITIVE | CKA_WRAP_WITH_TRUSTED => on || !old.flag(kind),
            CKA_EXTRACTABLE | CKA_COPYABLE | CKA_DESTROYABLE => !on || old.flag(kind),
            CKA_TOKEN | CKA_PRIVATE | CKA_MODIFIABLE => copying || old.flag(kind) == on,
            _ => copying && old.bytes(kind) == Some(value),
        };
        if !fine {
            return Err(Rv(CKR_ATTRIBUTE_READ_ONLY));
        }
    }
    Ok(())
}
