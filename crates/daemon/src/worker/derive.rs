//! Keys out of keys: by a KDF, or by an agreement and then HKDF.
//!
//! What comes out is a key of the worker's, at least 128 bits long, of the algorithm that the base's template
//! says and never more exportable than the base.

use super::attributes::Attributes;
use super::create::{Material, asked, finish, software, stored};
use super::keys::{KEY, Wrapper};
use crate::packet;
use cryptofd_core::engine::Derivation;
use cryptofd_core::error::{Error, Result};
use cryptofd_core::secret::Secret;
use cryptofd_core::table::{Algorithm, Kind};
use serde_json::{Map, Value};

/// Fewest bits of a derived key.
const DERIVED: u64 = 128;

/// What a derivation takes besides the key.
struct Inputs {
    peer: Option<Vec<u8>>,
    salt: Vec<u8>,
    info: Vec<u8>,
}

/// How a base of this algorithm derives: the KDF, and whether an agreement comes before it. An agreed secret
/// goes through HKDF (SP 800-56C, 5) over the hash that is as strong as the group.
fn method(base: &Attributes, how: &str) -> Result<(String, bool)> {
    let algorithm: &Algorithm = base.algorithm()?;
    if algorithm.kind == Kind::Kdf && algorithm.name == how {
        return Ok((how.into(), false));
    }
    let agreed = match how {
        "ecdh" => algorithm.name.starts_with("ecdh-"),
        "x25519" => algorithm.name == "x25519",
        _ => false,
    };
    if agreed && algorithm.does("agree") {
        return Ok((format!("hkdf(sha{})", 2 * algorithm.strength), true));
    }
    Err(Error::invalid(format!(
        "{} is a key of {}: it does not derive by {how:?}",
        base.name(),
        algorithm.name
    )))
}

/// `length` bytes of `base` by `how`.
fn derived(
    base: &Attributes,
    secret: &Secret,
    how: &str,
    inputs: &Inputs,
    length: usize,
) -> Result<Secret> {
    let (kdf, agrees) = method(base, how)?;
    let secret = match (agrees, &inputs.peer) {
        (true, Some(peer)) => software(base.algorithm()?.name, Some(secret))?.agree(peer)?,
        (true, None) => {
            return Err(Error::invalid(
                "derive: peer, the other side's public key, is missing",
            ));
        }
        (false, Some(_)) => return Err(Error::invalid("derive: a KDF takes no peer")),
        (false, None) => secret.clone(),
    };
    let session = software(&kdf, Some(&secret))?;
    Secret::made(length, |out| {
        let with = Derivation {
            salt: &inputs.salt,
            info: &inputs.info,
            ..Derivation::default()
        };
        session.derive(&with, out)?;
        Ok(length)
    })
}

/// A key out of another one.
pub fn derive(object: &Map<String, Value>, wrapper: &Wrapper) -> Result<Value> {
    let mut attributes = asked(object)?;
    let how = packet::text(object, "how")?;
    let (base, secret) = stored(packet::object(object, "base")?, wrapper)?;
    let name = base.name();
    if !base.allows("derive") {
        return Err(Error::refused(format!("{name} has not the usage derive")));
    }
    base.check_expiry()?;
    method(&base, how)?;
    let template = base.object("derive_template").ok_or_else(|| {
        Error::refused(format!(
            "{name} has no derive_template, which would say what may be derived"
        ))
    })?;
    let template = Attributes::parse(template)?;
    let new = attributes.algorithm()?;
    if template.algorithm().map(|a| a.name).ok() != Some(new.name) {
        return Err(Error::refused(format!(
            "{}: the derive_template of {name} says {}",
            new.name,
            template.text("algorithm").unwrap_or("no algorithm")
        )));
    }
    if new.kind == Kind::Pair {
        return Err(Error::unsupported(format!(
            "{}: what is derived is a secret key, not a pair",
            new.name
        )));
    }
    let bits = object
        .get("bits")
        .and_then(Value::as_u64)
        .or(attributes.number("bits"))
        .or(template.number("bits"))
        .ok_or_else(|| Error::invalid("derive: bits is missing"))?;
    // A shorter key would be the beginning of the longer one: it gives it away, and is easier to search.
    if template.number("bits") != Some(bits) {
        return Err(Error::refused(match template.number("bits") {
            Some(only) => format!("{bits} bits: the derive_template of {name} says {only}"),
            None => format!("the derive_template of {name} says no bits"),
        }));
    }
    if bits < DERIVED || bits % 8 != 0 || bits / 8 > KEY as u64 {
        return Err(Error::refused(format!(
            "{bits} bits: a derived key has at least {DERIVED}, in whole bytes"
        )));
    }
    if template.value().get("usage").is_some() {
        if let Some(more) = attributes.usage().find(|usage| !template.allows(usage)) {
            return Err(Error::refused(format!(
                "usage {more}: the derive_template of {name} has it not"
            )));
        }
    }
    for right in ["exportable", "wrappable"] {
        if attributes.is(right) && !base.is(right) {
            return Err(Error::refused(format!(
                "{right}: {name} is not, and what is derived from it never more so"
            )));
        }
    }
    attributes.end_with(&base);
    let inputs = Inputs {
        peer: packet::bytes(object, "peer")?,
        salt: packet::bytes(object, "salt")?.unwrap_or_default(),
        info: packet::bytes(object, "info")?.unwrap_or_default(),
    };
    let key = derived(&base, &secret, how, &inputs, (bits / 8) as usize)?;
    attributes.set("bits", bits);
    finish(attributes, &Material::of(new, key)?, "derived", wrapper)
}
