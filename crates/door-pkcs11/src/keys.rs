//! The broker's keys of this user, as objects of the slot *cryptofd keys*.

use crate::attributes::Attributes;
use crate::der;
use crate::digest;
use crate::mechanism;
use crate::module::{State, lock};
use crate::object::{How, Material, Object};
use crate::rv::{Result, Rv, invalid_is};
use crate::served::{Remote, Served};
use crate::shelf;
use crate::slot;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cryptofd_core::broker;
use cryptofd_core::error::Error;
use cryptofd_core::secret::Secret;
use cryptofd_core::table::{self, Algorithm, Kind};
use cryptoki_sys::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard};

/// Most keys that are shown.
const MOST: usize = 10_000;

/// A key of the broker's.
pub struct Kept {
    pub id: String,
    /// `OWNER/LABEL`.
    name: Mutex<String>,
    version: u64,
    algorithm: &'static Algorithm,
}

fn call(
    method: &str,
    parameters: &Value,
    repeated: bool,
) -> std::result::Result<broker::Answer, Error> {
    broker::default()?.call(method, parameters, &[], repeated, &mut || Ok(()))
}

impl Kept {
    /// A session on it.
    pub fn open(&self, algorithm: &'static Algorithm, how: How) -> Result<Served> {
        if algorithm.name != self.algorithm.name {
            return Err(Rv(CKR_KEY_TYPE_INCONSISTENT));
        }
        let mut options = json!({});
        if let Some(tag) = how.tag_size {
            options["tag_size"] = tag.into();
        }
        if how.pkcs7 {
            options["padding"] = "pkcs7".into();
        }
        let asked = json!({"key": *self.name(), "version": self.version, "options": options});
        let mut answer = call("Open", &asked, true)?;
        let fd = answer.descriptor("fd")?;
        Ok(Served::There(Arc::new(Remote::adopt(fd)?)))
    }

    /// Gives it another label; what was opened by the old one goes on.
    pub fn rename(&self, label: &[u8]) -> Result<()> {
        let label = std::str::from_utf8(label).map_err(|_| Rv(CKR_ATTRIBUTE_VALUE_INVALID))?;
        own(label)?;
        let mut name = self.name();
        let wrong = invalid_is(CKR_ATTRIBUTE_VALUE_INVALID);
        call("ChangeKey", &json!({"key": *name, "label": label}), false).map_err(wrong)?;
        if let Some((owner, _)) = name.rsplit_once('/') {
            *name = format!("{owner}/{label}");
        }
        Ok(())
    }

    fn name(&self) -> MutexGuard<'_, String> {
        lock(&self.name)
    }

    /// Deletes it.
    pub fn delete(&self) -> Result<()> {
        call(
            "DeleteKey",
            &json!({"key": *self.name(), "version": null}),
            false,
        )?;
        Ok(())
    }
}

/// What a template of a private or secret key implies: those of the broker's usages that such a key has.
fn usages(
    attributes: &Attributes,
    public: Option<&Attributes>,
    algorithm: &Algorithm,
) -> Vec<&'static str> {
    let has = |flag| attributes.flag(flag) || public.is_some_and(|public| public.flag(flag));
    let pair = algorithm.kind == Kind::Pair;
    let crypts = match algorithm.kind {
        Kind::Aead | Kind::Cipher => true,
        Kind::Pair => algorithm.does("encrypt"),
        _ => false,
    };
    let signs = algorithm.kind == Kind::Mac || algorithm.does("sign");
    let kem = algorithm.does("decapsulate");
    let derives = algorithm.kind == Kind::Kdf || algorithm.does("agree");
    let mut usage = Vec::new();
    for (flag, can, implied) in [
        (CKA_ENCRYPT, crypts, "encrypt"),
        (CKA_DECRYPT, crypts, "decrypt"),
        (CKA_SIGN, signs, "sign"),
        // C_Sign of a digest that the program computed. Ed25519 signs no digest.
        (
            CKA_SIGN,
            signs && pair && !algorithm.hashes.is_empty(),
            "sign-digest",
        ),
        (CKA_VERIFY, signs, "verify"),
        (CKA_DERIVE, derives, "derive"),
        (CKA_DERIVE, derives, "derive-bytes"),
        (CKA_DECAPSULATE, kem, "derive-bytes"),
    ] {
        if can && has(flag) {
            usage.push(implied);
        }
    }
    // C_Encrypt brings its IV.
    if matches!(algorithm.kind, Kind::Aead | Kind::Cipher) && usage.len() == 2 {
        usage.push("caller-iv");
    }
    let raw = attributes.numbers(CKA_ALLOWED_MECHANISMS);
    if raw.contains(&CKM_RSA_X_509) {
        usage.push("raw");
    }
    usage
}

/// A label with an owner in it would be another user's key.
fn own(label: &str) -> Result<()> {
    if label.contains('/') {
        return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
    }
    Ok(())
}

/// A label for a key that has none.
fn label(attributes: &Attributes) -> Result<String> {
    let said = attributes.bytes(CKA_LABEL).unwrap_or_default();
    if !said.is_empty() {
        let text = std::str::from_utf8(said).map_err(|_| Rv(CKR_ATTRIBUTE_VALUE_INVALID))?;
        own(text)?;
        return Ok(text.to_owned());
    }
    let mut random = [0; 8];
    cryptofd_core::engines::software::random(&mut random)?;
    Ok(format!("pkcs11-{:016x}", u64::from_ne_bytes(random)))
}

/// What the broker is asked to make.
pub struct Wanted<'a> {
    pub algorithm: &'static str,
    pub bits: Option<usize>,
    pub attributes: &'a Attributes,
    pub public: Option<&'a Attributes>,
}

impl Wanted<'_> {
    fn said(&self) -> Result<Value> {
        let usage = usages(self.attributes, self.public, table::find(self.algorithm)?);
        Ok(json!({
            "label": label(self.attributes)?,
            "algorithm": self.algorithm,
            "bits": self.bits,
            "usage": usage,
            "exportable": self.attributes.flag(CKA_EXTRACTABLE),
        }))
    }
}

/// Has a key generated; its id.
pub fn generate(wanted: &Wanted<'_>) -> Result<String> {
    let made = call("GenerateKey", &wanted.said()?, false);
    let made = made.map_err(invalid_is(CKR_ATTRIBUTE_VALUE_INVALID))?;
    id(&made)
}

/// Gives a key away to the broker; its id.
pub fn import(wanted: &Wanted<'_>, key: &[u8]) -> Result<String> {
    let mut said = wanted.said()?;
    said["fd"] = 0.into();
    if let Some(said) = said.as_object_mut() {
        said.remove("bits");
    }
    let pipe = broker::pipe(key)?;
    let made = broker::default()?.call("ImportKey", &said, &[pipe.as_fd()], false, &mut || Ok(()));
    let made = made.map_err(invalid_is(CKR_ATTRIBUTE_VALUE_INVALID))?;
    id(&made)
}

fn id(made: &broker::Answer) -> Result<String> {
    let id = made.parameters["key"]["id"].as_str();
    Ok(id.ok_or(Rv(CKR_DEVICE_ERROR))?.to_owned())
}

/// The objects of a key: handles of the private or secret one, and of the public one.
pub fn objects_of(state: &State, id: &str) -> Result<(CK_OBJECT_HANDLE, Option<CK_OBJECT_HANDLE>)> {
    refresh(state)?;
    let objects = state.objects.read().unwrap_or_else(|e| e.into_inner());
    let mut found = (None, None);
    for (handle, object) in objects.iter() {
        match &object.material {
            Material::Kept(kept) if kept.id == id => found.0 = Some(*handle),
            Material::Pair(_)
                if object
                    .attribute(CKA_UNIQUE_ID)
                    .is_ok_and(|u| *u == public_id(id)) =>
            {
                found.1 = Some(*handle);
            }
            _ => {}
        }
    }
    Ok((found.0.ok_or(Rv(CKR_DEVICE_ERROR))?, found.1))
}

fn public_id(id: &str) -> Vec<u8> {
    format!("{id}.public").into_bytes()
}

/// Brings the objects of the keys' slot up to what the broker has now. Without a broker there are none.
pub fn refresh(state: &State) -> Result<()> {
    let listed = match list() {
        Ok(listed) => listed,
        Err(error) if matches!(error.errno(), libc::ECONNREFUSED | libc::EPIPE) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let shelved = shelf::all();
    let mut objects = state.objects.write().unwrap_or_else(|e| e.into_inner());
    let mut there = HashSet::new();
    let names = shelved.iter().map(|(name, _)| name.as_str());
    let wanted: HashSet<&str> = listed
        .iter()
        .filter_map(|key| key["id"].as_str())
        .chain(names)
        .collect();
    let unique = |object: &Object| {
        let unique = object.attribute(CKA_UNIQUE_ID).ok()?;
        String::from_utf8(unique.to_vec()).ok()
    };
    objects.retain(|_, object| {
        if object.slot != slot::KEYS || object.owner.is_some() {
            return true;
        }
        let Some(unique) = unique(object) else {
            return true;
        };
        let stays = wanted.contains(unique.trim_end_matches(".public"));
        if stays {
            there.insert(unique);
        }
        stays
    });
    for key in &listed {
        let Some(id) = key["id"].as_str() else {
            continue;
        };
        if there.contains(id) {
            relabel(&objects, id, key);
            continue;
        }
        // What this door has no words for is not shown.
        for object in seen(key).unwrap_or_default() {
            objects.insert(state.next(), object);
        }
    }
    for (name, mut attributes) in shelved {
        if !there.contains(&name) {
            attributes.set(CKA_UNIQUE_ID, name.as_bytes());
            let object = Object::new(attributes, Material::Shelved(name), slot::KEYS, None);
            objects.insert(state.next(), object);
        }
    }
    Ok(())
}

/// Somebody else may have given a key another label.
fn relabel(objects: &BTreeMap<CK_OBJECT_HANDLE, Arc<Object>>, id: &str, key: &Value) {
    let (Some(owner), Some(label)) = (key["owner"].as_str(), key["label"].as_str()) else {
        return;
    };
    for object in objects.values() {
        let its = match &object.material {
            Material::Kept(kept) if kept.id == id => {
                *kept.name() = format!("{owner}/{label}");
                true
            }
            Material::Pair(_) => object
                .attribute(CKA_UNIQUE_ID)
                .is_ok_and(|unique| *unique == public_id(id)),
            _ => false,
        };
        if its {
            let mut attributes = object.attributes.write().unwrap_or_else(|e| e.into_inner());
            if attributes.bytes(CKA_LABEL) != Some(label.as_bytes()) {
                attributes.set(CKA_LABEL, label.as_bytes());
            }
        }
    }
}

/// The handle of what was just put on the shelf.
pub fn shelved(state: &State, name: &str) -> Result<CK_OBJECT_HANDLE> {
    refresh(state)?;
    let objects = state.objects.read().unwrap_or_else(|e| e.into_inner());
    let same = |object: &Object| matches!(&object.material, Material::Shelved(own) if own == name);
    let found = objects.iter().find(|(_, object)| same(object));
    found.map(|(handle, _)| *handle).ok_or(Rv(CKR_DEVICE_ERROR))
}

fn list() -> std::result::Result<Vec<Value>, Error> {
    let mut all: Vec<Value> = Vec::new();
    let mut after = Value::Null;
    loop {
        let answer = call("ListKeys", &json!({"all": null, "after": after}), true)?;
        let mut keys = match answer.parameters.get("keys") {
            Some(Value::Array(keys)) => keys.clone(),
            _ => return Err(Error::system(libc::EPROTO, "the broker's list of keys")),
        };
        let Some(last) = keys.last().map(|key| key["id"].clone()) else {
            return Ok(all);
        };
        all.append(&mut keys);
        if all.len() >= MOST || last == after {
            return Ok(all);
        }
        after = last;
    }
}

/// The type of keys of an algorithm.
pub fn key_type(algorithm: &Algorithm) -> Option<CK_KEY_TYPE> {
    if let Some(own) = &algorithm.key_type {
        return Some(own.id as CK_KEY_TYPE);
    }
    Some(match (algorithm.template(), algorithm.inner()) {
        ("hmac", _) => CKK_GENERIC_SECRET,
        ("hkdf", _) => CKK_HKDF,
        ("xts", _) => CKK_AES_XTS,
        (_, Some("aes")) => CKK_AES,
        ("rfc7539", _) => CKK_CHACHA20,
        _ => return None,
    })
}

/// What NSS calls a key by: SHA-1 of the modulus or of the point.
fn pair_id(public: &Attributes) -> Result<Vec<u8>> {
    let point = public.bytes(CKA_EC_POINT).map(|point| {
        // Out of its OCTET STRING.
        let header = if point.get(1).is_some_and(|length| *length & 0x80 != 0) {
            3
        } else {
            2
        };
        &point[header.min(point.len())..]
    });
    let value = public
        .bytes(CKA_MODULUS)
        .or(point)
        .or(public.bytes(CKA_VALUE));
    let value = value.unwrap_or_default();
    digest::of("sha1", value)
}

/// The objects that a key of the broker's is.
fn seen(key: &Value) -> Result<Vec<Arc<Object>>> {
    let text = |name: &str| key[name].as_str().unwrap_or_default();
    let flag = |name: &str| key[name].as_bool().unwrap_or(false);
    let algorithm = table::find(text("algorithm"))?;
    let kind = key_type(algorithm).ok_or(Rv(CKR_KEY_TYPE_INCONSISTENT))?;
    let usage: HashSet<&str> = key["usage"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let has = |name: &str| usage.contains(name);
    let pair = algorithm.kind == Kind::Pair;
    let mut common = Attributes::default();
    common.set_number(CKA_KEY_TYPE, kind);
    common.set(CKA_LABEL, text("label").as_bytes());
    for (kind, value) in [
        (CKA_TOKEN, true),
        (CKA_PRIVATE, false),
        (CKA_MODIFIABLE, true),
        (CKA_COPYABLE, false),
        (CKA_DESTROYABLE, true),
        (CKA_LOCAL, text("origin") == "generated"),
    ] {
        common.set_flag(kind, value);
    }
    common.set_number(CKA_KEY_GEN_MECHANISM, CK_UNAVAILABLE_INFORMATION);
    for kind in [CKA_START_DATE, CKA_END_DATE] {
        common.set(kind, &[]);
    }
    let mut own = common.clone();
    let mut public = None;
    let decoded = key["public"]
        .as_str()
        .and_then(|text| STANDARD.decode(text).ok());
    if let Some(spki) = decoded {
        let mut told = Attributes::default();
        der::tell_public(&spki, &mut told)?;
        let id = pair_id(&told)?;
        let mut other = common.clone();
        other.agree(&told)?;
        other.set_number(CKA_CLASS, CKO_PUBLIC_KEY);
        other.set(CKA_ID, &id);
        other.set(CKA_SUBJECT, &[]);
        other.set(CKA_PUBLIC_KEY_INFO, &spki);
        other.set(CKA_UNIQUE_ID, &public_id(text("id")));
        other.set_flag(CKA_TRUSTED, false);
        other.set_flag(CKA_VERIFY, algorithm.does("verify"));
        other.set_flag(CKA_ENCRYPT, algorithm.does("encrypt"));
        other.set_flag(CKA_WRAP, algorithm.does("encrypt"));
        other.set_flag(CKA_ENCAPSULATE, algorithm.does("encapsulate"));
        other.set_flag(CKA_DERIVE, false);
        public = Some(Object::new(
            other,
            Material::Pair(Secret::new(&spki)),
            slot::KEYS,
            None,
        ));
        own.set(CKA_ID, &id);
        own.set(CKA_PUBLIC_KEY_INFO, &spki);
        for (kind, value) in told.iter() {
            if !matches!(kind, CKA_EC_POINT | CKA_MODULUS_BITS | CKA_VALUE) {
                own.set(kind, value);
            }
        }
    } else {
        own.set(CKA_ID, text("id").as_bytes());
    }
    let mechanisms = mechanism::of(algorithm).into_iter();
    let allowed: Vec<u8> = mechanisms
        .filter(|kind| *kind != CKM_RSA_X_509 || has("raw"))
        .flat_map(CK_MECHANISM_TYPE::to_ne_bytes)
        .collect();
    if !allowed.is_empty() {
        own.set(CKA_ALLOWED_MECHANISMS, &allowed);
    }
    let class = if pair {
        CKO_PRIVATE_KEY
    } else {
        CKO_SECRET_KEY
    };
    own.set_number(CKA_CLASS, class);
    own.set(CKA_UNIQUE_ID, text("id").as_bytes());
    own.set(CKA_SUBJECT, &[]);
    if !pair {
        let bytes = key["bits"].as_u64().unwrap_or(0) / 8;
        own.set_number(CKA_VALUE_LEN, bytes as CK_ULONG);
        own.set_flag(CKA_ENCRYPT, has("encrypt"));
        own.set_flag(CKA_VERIFY, has("verify"));
        own.set_flag(CKA_WRAP, has("wrap"));
    }
    for (kind, value) in [
        (CKA_DECRYPT, has("decrypt")),
        (CKA_SIGN, has("sign")),
        (CKA_UNWRAP, has("unwrap")),
        (CKA_DERIVE, has("derive") || has("derive-bytes")),
        (CKA_DECAPSULATE, algorithm.does("decapsulate")),
        (CKA_SENSITIVE, true),
        (CKA_ALWAYS_SENSITIVE, text("origin") == "generated"),
        (CKA_EXTRACTABLE, flag("exportable")),
        (
            CKA_NEVER_EXTRACTABLE,
            text("origin") == "generated" && !flag("exportable"),
        ),
        (CKA_TRUSTED, flag("trusted")),
        (CKA_WRAP_WITH_TRUSTED, !flag("exportable")),
        (CKA_ALWAYS_AUTHENTICATE, false),
    ] {
        own.set_flag(kind, value);
    }
    let mut objects = Vec::new();
    if text("type") != "public" {
        let kept = Kept {
            id: text("id").to_owned(),
            name: Mutex::new(format!("{}/{}", text("owner"), text("label"))),
            version: key["version"].as_u64().unwrap_or(1),
            algorithm,
        };
        objects.push(Object::new(
            own,
            Material::Kept(Arc::new(kept)),
            slot::KEYS,
            None,
        ));
    }
    objects.extend(public);
    Ok(objects)
}
