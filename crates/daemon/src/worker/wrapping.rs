//! Keys under other keys: wrap and unwrap.
//!
//! Only a trusted key wraps what is not exportable, and never a weaker one a stronger; what was outside is
//! never exportable again. Foreign formats bring no attributes: the unwrapping key's template has them.

use super::attributes::Attributes;
use super::create::{Material, asked, finish, keepable, software, stored};
use super::keys::{KEY, Wrapper};
use crate::packet;
use crate::sys;
use cryptofd_core::engines::software::random;
use cryptofd_core::error::{Error, Result};
use cryptofd_core::pair::Options;
use cryptofd_core::secret::Secret;
use cryptofd_core::session::Session;
use cryptofd_core::sys::buffer::{Input, Output};
use cryptofd_core::table::Kind;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What our own format begins with, under an AEAD.
const SEALED: &[u8; 4] = b"CFW1";
/// And under a key of kw(aes) or kwp(aes).
const INSIDE: &[u8; 4] = b"CFW2";
/// Bytes of an AEAD's IV.
const NONCE: usize = 12;
/// Most bytes of attributes.
const ATTRIBUTES: usize = 64 << 10;

/// What stands outside of the wrapped bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    /// Ours: with attributes, authenticated.
    Own,
    /// RFC 3394.
    Kw,
    /// RFC 5649.
    Kwp,
    /// RFC 8017, 7.1, with SHA-256 and no label.
    Oaep,
}

impl Format {
    fn parse(word: &str) -> Result<Format> {
        match word {
            "cryptofd" => Ok(Format::Own),
            "kw" => Ok(Format::Kw),
            "kwp" => Ok(Format::Kwp),
            "rsa-oaep" => Ok(Format::Oaep),
            _ => Err(Error::invalid(format!(
                "format {word:?}: cryptofd, kw, kwp or rsa-oaep"
            ))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Format::Own => "cryptofd",
            Format::Kw => "kw",
            Format::Kwp => "kwp",
            Format::Oaep => "rsa-oaep",
        }
    }
}

/// A key that wraps or unwraps, and may.
struct Kek {
    attributes: Attributes,
    session: Arc<Session>,
    format: Format,
}

impl Kek {
    fn of(object: &Map<String, Value>, usage: &str, wrapper: &Wrapper) -> Result<Kek> {
        let format = Format::parse(packet::text(object, "format")?)?;
        let by = packet::object(object, "by")?;
        let (attributes, secret) = stored(by, wrapper)?;
        let name = attributes.name();
        if !attributes.allows(usage) {
            return Err(Error::refused(format!("{name} has not the usage {usage}")));
        }
        attributes.check_expiry()?;
        let algorithm = attributes.algorithm()?;
        let aead = algorithm.kind == Kind::Aead && algorithm.iv.contains(NONCE);
        let right = match format {
            Format::Own => aead || algorithm.kind == Kind::Wrap,
            Format::Kw => algorithm.name == "kw(aes)",
            Format::Kwp => algorithm.name == "kwp(aes)",
            Format::Oaep => algorithm.does("encrypt"),
        };
        if !right {
            return Err(Error::invalid(format!(
                "{name} is a key of {}: it does not make the format {:?}",
                algorithm.name,
                format.name()
            )));
        }
        Ok(Kek {
            session: software(algorithm.name, Some(&secret))?,
            attributes,
            format,
        })
    }

    fn wrap(&self, attributes: &Attributes, key: &Secret) -> Result<Vec<u8>> {
        let session = &self.session;
        match self.format {
            Format::Own if session.algorithm().kind == Kind::Aead => {
                let attributes = attributes.canonical()?;
                let mut out = SEALED.to_vec();
                out.extend_from_slice(&(attributes.len() as u32).to_le_bytes());
                out.extend_from_slice(&attributes);
                let mut nonce = [0; NONCE];
                random(&mut nonce)?;
                out.extend_from_slice(&nonce);
                let head = out.len();
                out.resize(head + key.len() + session.tag_size(), 0);
                let (aad, sealed) = out.split_at_mut(head);
                session.seal(
                    &nonce,
                    Input::from(&*aad),
                    Input::from(key.expose()),
                    Output::from(sealed),
                )?;
                Ok(out)
            }
            Format::Own => {
                let mut out = INSIDE.to_vec();
                out.append(&mut session.wrap(together(attributes, key)?.expose())?);
                Ok(out)
            }
            Format::Kw | Format::Kwp => session.wrap(key.expose()),
            Format::Oaep => session.pair_encrypt(Input::from(key.expose()), &Options::default()),
        }
    }

    /// The key's bytes, and the attributes that came with them: a foreign format's are the template.
    fn unwrap(&self, wrapped: &[u8]) -> Result<(Attributes, Secret)> {
        let session = &self.session;
        let key = match self.format {
            Format::Own if session.algorithm().kind == Kind::Aead => {
                return unsealed(session, wrapped);
            }
            Format::Own => {
                let inner = wrapped.strip_prefix(INSIDE).ok_or_else(none)?;
                return apart(&session.unwrap(inner)?);
            }
            Format::Kw | Format::Kwp => session.unwrap(wrapped)?,
            Format::Oaep => session.pair_decrypt(Input::from(wrapped), &Options::default())?,
        };
        let name = self.attributes.name();
        let template = self.attributes.object("wrap_template").ok_or_else(|| {
            Error::refused(format!(
                "{name} has no wrap_template, which would say what it unwraps"
            ))
        })?;
        if template.get("algorithm").is_none() {
            return Err(Error::refused(format!(
                "the wrap_template of {name} names no algorithm"
            )));
        }
        Ok((Attributes::parse(template)?, key))
    }
}

fn none() -> Error {
    Error::invalid("this is no key that this key wrapped in the format \"cryptofd\"")
}

/// Two lengths (u32, little-endian), the attributes, the key, and zeros up to whole blocks of 8 bytes.
fn together(attributes: &Attributes, key: &Secret) -> Result<Secret> {
    let attributes = attributes.canonical()?;
    if attributes.len() > ATTRIBUTES {
        return Err(Error::too_large("the attributes are too long"));
    }
    let parts = [&attributes[..], key.expose()];
    let length = 8 + attributes.len() + key.len();
    Secret::made(length.next_multiple_of(8), |out| {
        let mut at = 8;
        for (number, part) in parts.into_iter().enumerate() {
            let size = (part.len() as u32).to_le_bytes();
            out[4 * number..][..4].copy_from_slice(&size);
            out[at..][..part.len()].copy_from_slice(part);
            at += part.len();
        }
        Ok(out.len())
    })
}

fn apart(whole: &Secret) -> Result<(Attributes, Secret)> {
    let whole = whole.expose();
    let size = |at: usize| {
        let bytes = whole.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes
            .map(|b| u32::from_le_bytes(b) as usize)
            .ok_or_else(none)
    };
    let (text, key) = (size(0)?, size(4)?);
    if text > ATTRIBUTES || key > KEY || (8 + text + key).next_multiple_of(8) != whole.len() {
        return Err(none());
    }
    let (text, rest) = whole[8..].split_at(text);
    Ok((parsed(text)?, Secret::new(&rest[..key])))
}

fn parsed(text: &[u8]) -> Result<Attributes> {
    let text: Value = serde_json::from_slice(text).map_err(|_| none())?;
    Attributes::parse(text.as_object().ok_or_else(none)?)
}

fn unsealed(session: &Session, wrapped: &[u8]) -> Result<(Attributes, Secret)> {
    let head = wrapped.get(..8).ok_or_else(none)?;
    if !head.starts_with(SEALED) {
        return Err(none());
    }
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let end = length.checked_add(8 + NONCE).ok_or_else(none)?;
    let (aad, sealed) = wrapped.split_at_checked(end).ok_or_else(none)?;
    let nonce = &aad[end - NONCE..];
    let size = sealed
        .len()
        .checked_sub(session.tag_size())
        .filter(|size| *size <= KEY)
        .ok_or_else(none)?;
    let key = Secret::made(size, |out| {
        session.unseal(
            nonce,
            Input::from(aad),
            Input::from(sealed),
            Output::from(out),
        )?;
        Ok(size)
    })?;
    // Authentic from here on.
    Ok((parsed(&aad[8..8 + length])?, key))
}

/// EPERM if the wrapping key is weaker than what it wraps.
fn check_strength(kek: &Kek, strength: u32, name: &str) -> Result<()> {
    let own = kek.attributes.strength()?;
    if own < strength {
        return Err(Error::refused(format!(
            "{} has {own} bits of security and is weaker than {name}, which has {strength}",
            kek.attributes.name()
        )));
    }
    Ok(())
}

/// EPERM if what comes back out of a format without attributes would be more than what went in: without its
/// end, or by the template of the wrapping key of another algorithm or with more usage.
fn kept(attributes: &Attributes, by: &Attributes) -> Result<()> {
    let name = attributes.name();
    if attributes.number("expires").is_some() {
        return Err(Error::refused(format!(
            "{name} has an end, which only the format cryptofd brings along with a key"
        )));
    }
    let Some(template) = by.object("wrap_template") else {
        return Ok(());
    };
    let template = Attributes::parse(template)?;
    let same = template.algorithm()?.name == attributes.algorithm()?.name;
    if same && template.usage().all(|usage| attributes.allows(usage)) {
        return Ok(());
    }
    Err(Error::refused(format!(
        "{name} would come back as more than it is, by the template of {}: the format cryptofd keeps attributes",
        by.name()
    )))
}

/// A key under another one.
pub fn wrap(object: &Map<String, Value>, wrapper: &Wrapper) -> Result<Value> {
    let (attributes, key) = stored(packet::object(object, "key")?, wrapper)?;
    let kek = Kek::of(object, "wrap", wrapper)?;
    let (name, by) = (attributes.name(), &kek.attributes);
    attributes.check_expiry()?;
    let refused = |why: String| Err(Error::refused(why));
    if !attributes.is("wrappable") {
        return refused(format!("{name} is not wrappable"));
    }
    if attributes.number("uses").is_some() {
        return refused(format!("{name} has a use limit: a copy would count anew"));
    }
    if attributes.text("id") == by.text("id") {
        return refused(format!("{name} cannot wrap itself"));
    }
    if !attributes.is("exportable") && !by.is("trusted") {
        return refused(format!(
            "{name} is not exportable, and {} is not trusted: an administrator can make it so",
            by.name()
        ));
    }
    check_strength(&kek, attributes.strength()?, &name)?;
    let pair = attributes.algorithm()?.kind == Kind::Pair;
    if pair && matches!(kek.format, Format::Kw | Format::Oaep) {
        return Err(Error::invalid(format!(
            "{name} is a pair, and {} wraps secret keys only: kwp and cryptofd wrap both",
            kek.format.name()
        )));
    }
    if kek.format != Format::Own && !attributes.is("exportable") {
        kept(&attributes, by)?;
    }
    let wrapped = kek.wrap(&attributes, &key)?;
    Ok(json!({"wrapped": packet::base64(&wrapped)}))
}

/// A key that came wrapped, as one of ours.
pub fn unwrap(object: &Map<String, Value>, wrapper: &Wrapper) -> Result<Value> {
    let asked = asked(object)?;
    let wrapped = packet::needed(object, "wrapped")?;
    let kek = Kek::of(object, "unwrap", wrapper)?;
    let (mut attributes, key) = kek.unwrap(&wrapped)?;
    // Whoever asks may say less than that, never something else.
    for name in ["algorithm", "type", "bits", "tag_size", "iv"] {
        match (asked.value().get(name), attributes.value().get(name)) {
            (None | Some(Value::Null), _) => {}
            (Some(wanted), Some(has)) if wanted == has => {}
            (Some(wanted), None) if matches!(name, "bits" | "type") => {
                attributes.set(name, wanted.clone());
            }
            (Some(wanted), _) => {
                return Err(Error::refused(format!(
                    "{name}={wanted}: the wrapped key's own attributes say otherwise"
                )));
            }
        }
    }
    if asked.value().get("usage").is_some() {
        let mine: Vec<&str> = asked.usage().collect();
        if let Some(more) = mine.iter().find(|usage| !attributes.allows(usage)) {
            return Err(Error::refused(format!(
                "usage {more}: the wrapped key has it not"
            )));
        }
        let mine = json!(mine);
        attributes.set("usage", mine);
        if !attributes.allows("caller-iv") {
            attributes.set("iv", "worker");
        }
    }
    // The bytes were outside: it is never exportable again, and nobody's trusted key.
    attributes.set("exportable", false);
    attributes.set("trusted", false);
    if let Some(wrappable) = asked.value().get("wrappable") {
        attributes.set("wrappable", wrappable.clone());
    }
    attributes.set("version", asked.number("version").unwrap_or(1));
    attributes.set("created", sys::now());
    for name in ["id", "label", "owner", "class", "uses"] {
        if let Some(value) = asked.value().get(name) {
            attributes.set(name, value.clone());
        }
    }
    attributes.end_with(&asked);
    let algorithm = keepable(&attributes)?;
    let key = Material::of(algorithm, key)?;
    check_strength(&kek, key.strength(algorithm), "the wrapped key")?;
    finish(attributes, &key, "unwrapped", wrapper)
}
