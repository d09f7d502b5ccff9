//! Making keys, and what is done to stored ones: generate, import, export, wrap, unwrap, derive, rewrap.
//!
//! Every rule here holds whatever the broker says: it can only narrow.

use super::attributes::Attributes;
use super::keys::{KEY, Wrapper};
use crate::packet::{self, Packet};
use crate::sys;
use cryptofd_core::engine::{Derivation, Key};
use cryptofd_core::engines::software::random;
use cryptofd_core::error::{Error, Result};
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{Request, Session};
use cryptofd_core::sys::buffer::{Input, Output};
use cryptofd_core::sys::{arena, socket};
use cryptofd_core::table::{Algorithm, Kind};
use serde_json::{Map, Value, json};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the other end of an import or export may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Fewest bits of a derived key.
const DERIVED: u64 = 128;
/// What our own wrapped keys begin with.
const WRAPPED: &[u8; 4] = b"CFW1";
const NONCE: usize = 12;

/// Does one request of the broker.
pub fn run(op: &str, mut packet: Packet, wrapper: &Wrapper) -> Result<Value> {
    let object = packet.object.clone();
    arena::bounded(|| match op {
        "generate" => generate(&object, wrapper),
        "import" => import(&object, packet.only_fd()?, wrapper),
        "export" => export(&object, packet.only_fd()?, wrapper),
        "wrap" => wrap(&object, wrapper),
        "unwrap" => unwrap(&object, wrapper),
        "derive" => derive(&object, wrapper),
        "rewrap" => rewrap(&object, wrapper),
        "public" => {
            let key = stored(&object, wrapper)?;
            Err(not_a_pair(&key.0))
        }
        _ => Err(Error::unsupported(format!("no op {op:?}"))),
    })
}

fn not_a_pair(attributes: &Attributes) -> Error {
    Error::unsupported(format!(
        "{} is no key pair: it has no public key",
        attributes.name()
    ))
}

/// The key that `{attributes, blob}` speaks of.
fn stored(object: &Map<String, Value>, wrapper: &Wrapper) -> Result<(Attributes, Secret)> {
    let attributes = Attributes::parse(packet::object(object, "attributes")?)?;
    let secret = wrapper.unwrap(&attributes, &packet::needed(object, "blob")?)?;
    Ok((attributes, secret))
}

/// Names the key's bytes without giving any of them away.
fn fingerprint(key: &Secret) -> Result<String> {
    let session = software("hmac(sha256)", key)?;
    let mut digest = [0; 32];
    session.digest(Input::from(b"cryptofd key id"), &mut digest)?;
    Ok(digest[..16].iter().map(|b| format!("{b:02x}")).collect())
}

fn software(algorithm: &str, key: &Secret) -> Result<Arc<Session>> {
    Session::open(Request {
        algorithm: algorithm.into(),
        key: Key::Bytes(key.clone()),
        engine: Some("software".into()),
        ..Request::default()
    })
}

/// The algorithm of a secret key that can be kept.
fn keepable(attributes: &Attributes) -> Result<&'static Algorithm> {
    let algorithm = attributes.algorithm()?;
    match attributes.text("type") {
        None | Some("secret") => {}
        Some(other) => {
            return Err(Error::unsupported(format!(
                "{} is an algorithm of secret keys, not of a {other}",
                algorithm.name
            )));
        }
    }
    if !algorithm.takes_key() || algorithm.one_time_key || algorithm.kind == Kind::Streaming {
        return Err(Error::unsupported(format!(
            "keys of {} are not kept",
            algorithm.name
        )));
    }
    Ok(algorithm)
}

/// Completes the attributes of a new key, checks them, and wraps it.
fn finish(
    mut attributes: Attributes,
    key: &Secret,
    origin: &str,
    wrapper: &Wrapper,
) -> Result<Value> {
    let algorithm = keepable(&attributes)?;
    let bits = key.len() as u64 * 8;
    if !algorithm.key.contains(key.len()) {
        return Err(Error::invalid(format!(
            "a key of {} bytes: {} takes {}",
            key.len(),
            algorithm.name,
            algorithm.key
        )));
    }
    if attributes
        .number("bits")
        .is_some_and(|wanted| wanted != bits)
    {
        return Err(Error::invalid(format!(
            "bits is {}, the key has {bits}",
            attributes.number("bits").unwrap_or_default()
        )));
    }
    attributes.set("algorithm", algorithm.name);
    attributes.set("type", "secret");
    attributes.set("bits", bits);
    attributes.set("origin", origin);
    attributes.set("fingerprint", fingerprint(key)?);
    for (name, default) in [
        ("version", json!(1)),
        ("created", json!(sys::now())),
        ("usage", json!([])),
        ("exportable", json!(false)),
        ("wrappable", json!(false)),
        ("trusted", json!(false)),
        ("class", json!("stored")),
        ("expires", Value::Null),
        ("uses", Value::Null),
        ("wrap_template", Value::Null),
        ("derive_template", Value::Null),
        ("label", json!("")),
    ] {
        if attributes.value().get(name).is_none() {
            attributes.set(name, default);
        }
    }
    let iv = if attributes.allows("caller-iv") {
        "caller"
    } else {
        "worker"
    };
    if attributes.text("iv").is_none() {
        attributes.set("iv", iv);
    }
    if algorithm.kind == Kind::Aead {
        let tag = attributes
            .number("tag_size")
            .unwrap_or(algorithm.tag as u64);
        let right = algorithm.tag == tag as usize || algorithm.tag_sizes.contains(&(tag as usize));
        if !right {
            return Err(Error::invalid(format!(
                "a tag of {tag} bytes: {} has no such",
                algorithm.name
            )));
        }
        attributes.set("tag_size", tag);
    }
    attributes.check_new()?;
    let blob = wrapper.wrap(&attributes, key)?;
    Ok(json!({"attributes": attributes.value(), "blob": packet::base64(&blob)}))
}

fn attributes_of(object: &Map<String, Value>) -> Result<Attributes> {
    let attributes = Attributes::parse(packet::object(object, "attributes")?)?;
    if attributes.is("trusted") {
        return Err(Error::refused(
            "a key becomes trusted by an administrator, after it was made",
        ));
    }
    Ok(attributes)
}

fn fresh(length: usize) -> Result<Secret> {
    Secret::made(length, |out| {
        random(out)?;
        Ok(length)
    })
}

fn generate(object: &Map<String, Value>, wrapper: &Wrapper) -> Result<Value> {
    let attributes = attributes_of(object)?;
    let algorithm = keepable(&attributes)?;
    let length = match attributes.number("bits") {
        Some(bits) if bits % 8 == 0 && algorithm.key.contains((bits / 8) as usize) => {
            (bits / 8) as usize
        }
        Some(bits) => {
            return Err(Error::invalid(format!(
                "a key of {bits} bits: {} takes {}",
                algorithm.name, algorithm.key
            )));
        }
        // Where any size will do: as strong as the algorithm, and no longer.
        None if algorithm.key.max > 64 => algorithm.digest.clamp(32, 64).max(algorithm.key.min),
        None => algorithm.key.max,
    };
    if length > KEY {
        return Err(Error::too_large(format!("a key has at most {KEY} bytes")));
    }
    finish(attributes, &fresh(length)?, "generated", wrapper)
}

/// Waits until `fd` is ready; ETIMEDOUT at `until`.
fn ready(fd: &OwnedFd, events: i16, until: Instant) -> Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        match socket::poll(fd.as_fd(), events, left.min(60_000) as i32) {
            Ok(0) => {
                return Err(Error::system(
                    libc::ETIMEDOUT,
                    "the other end of a key's descriptor",
                ));
            }
            Ok(_) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => {
                return Err(Error::system(
                    error.raw_os_error().unwrap_or(libc::EIO),
                    "poll of a key's descriptor",
                ));
            }
        }
    }
}

fn failed(error: &std::io::Error, what: &str) -> Result<()> {
    match error.raw_os_error().unwrap_or(libc::EIO) {
        libc::EINTR | libc::EAGAIN => Ok(()),
        errno => Err(Error::system(errno, what)),
    }
}

fn import(object: &Map<String, Value>, fd: OwnedFd, wrapper: &Wrapper) -> Result<Value> {
    let attributes = attributes_of(object)?;
    keepable(&attributes)?;
    let until = Instant::now() + PATIENCE;
    // A byte more than there may be, to see that there is more.
    let key = Secret::made(KEY + 1, |out| {
        let mut length = 0;
        while length < out.len() {
            ready(&fd, libc::POLLIN, until)?;
            match sys::read(fd.as_fd(), &mut out[length..]) {
                Ok(0) => break,
                Ok(got) => length += got,
                Err(error) => failed(&error, "reading the key")?,
            }
        }
        Ok(length)
    })?;
    if key.len() > KEY {
        return Err(Error::too_large(format!("a key has at most {KEY} bytes")));
    }
    finish(attributes, &key, "imported", wrapper)
}

fn export(object: &Map<String, Value>, fd: OwnedFd, wrapper: &Wrapper) -> Result<Value> {
    let (attributes, key) = stored(object, wrapper)?;
    if !attributes.is("exportable") {
        return Err(Error::refused(format!(
            "{} is not exportable",
            attributes.name()
        )));
    }
    attributes.check_expiry()?;
    let until = Instant::now() + PATIENCE;
    let mut rest = key.expose();
    while !rest.is_empty() {
        ready(&fd, libc::POLLOUT, until)?;
        // A pipe that is ready has room for this much: the write does not block.
        match sys::write(fd.as_fd(), &rest[..rest.len().min(4096)]) {
            Ok(put) => rest = &rest[put..],
            Err(error) => failed(&error, "writing the key")?,
        }
    }
    Ok(json!({}))
}

/// A key that wraps or unwraps, and may.
fn wrapping(
    object: &Map<String, Value>,
    usage: &str,
    format: &str,
    wrapper: &Wrapper,
) -> Result<(Attributes, Arc<Session>)> {
    let by = packet::object(object, "by")?;
    let (attributes, secret) = stored(by, wrapper)?;
    let name = attributes.name();
    if !attributes.allows(usage) {
        return Err(Error::refused(format!("{name} has not the usage {usage}")));
    }
    attributes.check_expiry()?;
    let algorithm = attributes.algorithm()?;
    let right = match format {
        "cryptofd" => algorithm.kind == Kind::Aead && algorithm.iv.contains(NONCE),
        "kw" => algorithm.name == "kw(aes)",
        "kwp" => algorithm.name == "kwp(aes)",
        "rsa-oaep" => false,
        _ => {
            return Err(Error::invalid(format!(
                "format {format:?}: cryptofd, kw, kwp or rsa-oaep"
            )));
        }
    };
    if !right {
        return Err(Error::invalid(format!(
            "{name} is a key of {}: it does not make the format {format:?}",
            algorithm.name
        )));
    }
    let session = software(algorithm.name, &secret)?;
    Ok((attributes, session))
}

fn wrap(object: &Map<String, Value>, wrapper: &Wrapper) -> Result<Value> {
    let format = packet::text(object, "format")?;
    let (attributes, key) = stored(packet::object(object, "key")?, wrapper)?;
    let (by, session) = wrapping(object, "wrap", format, wrapper)?;
    let name = attributes.name();
    attributes.check_expiry()?;
    if !attributes.is("wrappable") && !attributes.is("exportable") {
        return Err(Error::refused(format!("{name} is not wrappable")));
    }
    if !attributes.is("exportable") && !by.is("trusted") {
        return Err(Error::refused(format!(
            "{name} is not exportable, and {} is not trusted: an administrator can make it so",
            by.name()
        )));
    }
    if by.strength() < attributes.strength() {
        return Err(Error::refused(format!(
            "{} with {} bits is weaker than {name} with {}",
            by.name(),
            by.strength(),
            attributes.strength()
        )));
    }
    let wrapped = match format {
        "cryptofd" => {
            let attributes = attributes.canonical();
            let length = u32::try_from(attributes.len())
                .map_err(|_| Error::too_large("the attributes are too long"))?;
            let mut out = WRAPPED.to_vec();
            out.extend_from_slice(&length.to_le_bytes());
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
            out
        }
        _ => session.wrap(key.expose())?,
    };
    Ok(json!({"wrapped": packet::base64(&wrapped)}))
}

/// Attributes that a wrapped key of our own brings, and its bytes.
fn opened(session: &Session, wrapped: &[u8]) -> Result<(Attributes, Secret)> {
    let none = || Error::invalid("this is no key that was wrapped in the format \"cryptofd\"");
    let head = wrapped.get(..8).ok_or_else(none)?;
    if !head.starts_with(WRAPPED) {
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
    let text: Value = serde_json::from_slice(&aad[8..8 + length]).map_err(|_| none())?;
    let attributes = Attributes::parse(text.as_object().ok_or_else(none)?)?;
    Ok((attributes, key))
}

fn unwrap(object: &Map<String, Value>, wrapper: &Wrapper) -> Result<Value> {
    let format = packet::text(object, "format")?;
    let asked = attributes_of(object)?;
    let wrapped = packet::needed(object, "wrapped")?;
    let (by, session) = wrapping(object, "unwrap", format, wrapper)?;
    let (mut attributes, key) = if format == "cryptofd" {
        opened(&session, &wrapped)?
    } else {
        let key = session.unwrap(&wrapped)?;
        let template = by.object("wrap_template").ok_or_else(|| {
            Error::refused(format!(
                "{} has no wrap_template, which would say what it unwraps",
                by.name()
            ))
        })?;
        if template.get("algorithm").is_none() {
            return Err(Error::refused(format!(
                "the wrap_template of {} names no algorithm",
                by.name()
            )));
        }
        (Attributes::parse(template)?, key)
    };
    // Whoever asks may say less than that, never something else.
    for name in ["algorithm", "type", "bits", "tag_size", "iv"] {
        match (asked.value().get(name), attributes.value().get(name)) {
            (None | Some(Value::Null), _) => {}
            (Some(wanted), Some(has)) if wanted == has => {}
            (Some(wanted), None) if name == "bits" => attributes.set(name, wanted.clone()),
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
    if asked.value().get("wrappable") == Some(&Value::Bool(false)) {
        attributes.set("wrappable", false);
    }
    attributes.set("version", asked.number("version").unwrap_or(1));
    attributes.set("created", sys::now());
    for name in ["id", "label", "owner", "class", "uses"] {
        if let Some(value) = asked.value().get(name) {
            attributes.set(name, value.clone());
        }
    }
    let expires = [asked.number("expires"), attributes.number("expires")];
    attributes.set(
        "expires",
        expires
            .into_iter()
            .flatten()
            .min()
            .map_or(Value::Null, Value::from),
    );
    finish(attributes, &key, "unwrapped", wrapper)
}

fn derive(object: &Map<String, Value>, wrapper: &Wrapper) -> Result<Value> {
    let mut attributes = attributes_of(object)?;
    let how = packet::text(object, "how")?;
    let (base, secret) = stored(packet::object(object, "base")?, wrapper)?;
    let name = base.name();
    if !base.allows("derive") {
        return Err(Error::refused(format!("{name} has not the usage derive")));
    }
    base.check_expiry()?;
    let algorithm = base.algorithm()?;
    if algorithm.name != how || algorithm.kind != Kind::Kdf {
        return Err(Error::invalid(format!(
            "{name} is a key of {}: it does not derive by {how:?}",
            algorithm.name
        )));
    }
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
    let bits = object
        .get("bits")
        .and_then(Value::as_u64)
        .or(attributes.number("bits"))
        .or(template.number("bits"))
        .ok_or_else(|| Error::invalid("derive: bits is missing"))?;
    if template.number("bits").is_some_and(|only| only != bits) {
        return Err(Error::refused(format!(
            "{bits} bits: the derive_template of {name} says {}",
            template.number("bits").unwrap_or_default()
        )));
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
    let expires = [base.number("expires"), attributes.number("expires")];
    attributes.set(
        "expires",
        expires
            .into_iter()
            .flatten()
            .min()
            .map_or(Value::Null, Value::from),
    );
    let salt = packet::bytes(object, "salt")?.unwrap_or_default();
    let info = packet::bytes(object, "info")?.unwrap_or_default();
    let session = software(how, &secret)?;
    let length = (bits / 8) as usize;
    let key = Secret::made(length, |out| {
        let with = Derivation {
            salt: &salt,
            info: &info,
            ..Derivation::default()
        };
        session.derive(&with, out)?;
        Ok(length)
    })?;
    attributes.set("bits", bits);
    finish(attributes, &key, "derived", wrapper)
}

fn rewrap(object: &Map<String, Value>, wrapper: &Wrapper) -> Result<Value> {
    let (old, key) = stored(object, wrapper)?;
    let new = match object.get("new_attributes") {
        None | Some(Value::Null) => old,
        Some(Value::Object(new)) => {
            let new = Attributes::parse(new)?;
            old.check_change(&new)?;
            new
        }
        Some(_) => return Err(Error::invalid("new_attributes is an object")),
    };
    let blob = wrapper.wrap(&new, &key)?;
    Ok(json!({"attributes": new.value(), "blob": packet::base64(&blob)}))
}
