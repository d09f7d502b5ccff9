//! Making keys and moving them in and out: generate, import, export, public, rewrap.
//!
//! Every rule here holds whatever the broker says: it can only narrow.

use super::attributes::Attributes;
use super::keys::{KEY, Wrapper};
use super::{derive, wrapping};
use crate::packet::{self, Packet};
use crate::sys;
use cryptofd_core::engine::Key;
use cryptofd_core::error::{Error, Result};
use cryptofd_core::pair;
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{Request, Session};
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::sys::{arena, socket};
use cryptofd_core::table::{Algorithm, Kind};
use serde_json::{Map, Value, json};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the other end of an import or export may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Does one request of the broker.
pub fn run(op: &str, mut packet: Packet, wrapper: &Wrapper) -> Result<Value> {
    let object = packet.object.clone();
    arena::bounded(|| match op {
        "generate" => generate(&object, wrapper),
        "import" => import(&object, packet.only_fd()?, wrapper),
        "export" => export(&object, packet.only_fd()?, wrapper),
        "wrap" => wrapping::wrap(&object, wrapper),
        "unwrap" => wrapping::unwrap(&object, wrapper),
        "derive" => derive::derive(&object, wrapper),
        "rewrap" => rewrap(&object, wrapper),
        "public" => public(&object, wrapper),
        _ => Err(Error::unsupported(format!("no op {op:?}"))),
    })
}

/// The key that `{attributes, blob}` speaks of.
pub fn stored(object: &Map<String, Value>, wrapper: &Wrapper) -> Result<(Attributes, Secret)> {
    let attributes = Attributes::parse(packet::object(object, "attributes")?)?;
    let secret = wrapper.unwrap(&attributes, &packet::needed(object, "blob")?)?;
    Ok((attributes, secret))
}

/// The attributes that are asked for of a new key.
pub fn asked(object: &Map<String, Value>) -> Result<Attributes> {
    let attributes = Attributes::parse(packet::object(object, "attributes")?)?;
    if attributes.is("trusted") {
        return Err(Error::refused(
            "a key becomes trusted by an administrator, after it was made",
        ));
    }
    Ok(attributes)
}

/// A session of the library that is always there, for the work between keys.
pub fn software(algorithm: &str, key: Option<&Secret>) -> Result<Arc<Session>> {
    Session::open(Request {
        algorithm: algorithm.into(),
        key: key.map_or(Key::None, |key| Key::Bytes(key.clone())),
        engine: Some("software".into()),
        ..Request::default()
    })
}

/// A new key's bytes in the form in which they are kept, and what is known of them.
pub struct Material {
    key: Secret,
    bits: u64,
    /// "secret", "pair", or "public" for a public half alone.
    form: &'static str,
    /// SubjectPublicKeyInfo in DER, of an asymmetric key.
    public: Option<Vec<u8>>,
}

impl Material {
    /// Checks bytes that came from outside: their size; of a pair its form and its numbers.
    pub fn of(algorithm: &'static Algorithm, key: Secret) -> Result<Material> {
        if algorithm.kind == Kind::Pair {
            let (key, facts) = pair::inspect(algorithm, key.expose())?;
            return Ok(Material {
                key,
                bits: facts.bits as u64,
                form: if facts.private { "pair" } else { "public" },
                public: Some(facts.public.to_vec()),
            });
        }
        if !algorithm.key.contains(key.len()) {
            return Err(Error::invalid(format!(
                "a key of {} bytes: {} takes {}",
                key.len(),
                algorithm.name,
                algorithm.key
            )));
        }
        Ok(Material {
            bits: key.len() as u64 * 8,
            key,
            form: "secret",
            public: None,
        })
    }

    /// A fresh one.
    fn fresh(algorithm: &'static Algorithm, bits: Option<u64>) -> Result<Material> {
        if bits.is_some_and(|bits| bits > 8 * KEY as u64) {
            return Err(Error::too_large(format!("a key has at most {KEY} bytes")));
        }
        let made = pair::generate(algorithm, bits.map(|bits| bits as usize))?;
        Ok(Material {
            key: made.key,
            bits: made.bits as u64,
            form: if made.public.is_some() {
                "pair"
            } else {
                "secret"
            },
            public: made.public,
        })
    }

    /// Bits of security.
    pub fn strength(&self, algorithm: &Algorithm) -> u32 {
        algorithm.strength_of(self.bits as usize)
    }

    /// Names the key without giving anything of it away: a hash of its public half, or a MAC under it.
    fn fingerprint(&self) -> Result<String> {
        let mut digest = [0; 32];
        let digest = match &self.public {
            Some(public) => {
                let session = software("sha256", None)?;
                session.digest(Input::from(&public[..]), &mut digest)?;
                &digest[..]
            }
            None => {
                let session = software("hmac(sha256)", Some(&self.key))?;
                session.digest(Input::from(b"cryptofd key id"), &mut digest)?;
                &digest[..16]
            }
        };
        Ok(digest.iter().map(|b| format!("{b:02x}")).collect())
    }
}

/// The algorithm of a key that can be kept.
pub fn keepable(attributes: &Attributes) -> Result<&'static Algorithm> {
    let algorithm = attributes.algorithm()?;
    let pair = algorithm.kind == Kind::Pair;
    match attributes.text("type") {
        None => {}
        Some("secret") if !pair => {}
        Some("pair" | "public") if pair => {}
        Some(other) => {
            return Err(Error::unsupported(format!(
                "{} is no algorithm of a {other} key",
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
pub fn finish(
    mut attributes: Attributes,
    key: &Material,
    origin: &str,
    wrapper: &Wrapper,
) -> Result<Value> {
    let algorithm = keepable(&attributes)?;
    if attributes
        .number("bits")
        .is_some_and(|wanted| wanted != key.bits)
    {
        return Err(Error::invalid(format!(
            "bits is {}, the key has {}",
            attributes.number("bits").unwrap_or_default(),
            key.bits
        )));
    }
    if attributes.text("type") == Some("public") && key.form != "public" {
        return Err(Error::invalid(
            "this is a private key, where a public one is asked for: give its SubjectPublicKeyInfo",
        ));
    }
    attributes.set("algorithm", algorithm.name);
    attributes.set("type", key.form);
    attributes.set("bits", key.bits);
    attributes.set("origin", origin);
    attributes.set("fingerprint", key.fingerprint()?);
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
        ("tag_size", Value::Null),
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
    let blob = wrapper.wrap(&attributes, &key.key)?;
    let mut answer = json!({"attributes": attributes.value(), "blob": packet::base64(&blob)});
    if let Some(public) = &key.public {
        answer["public"] = packet::base64(public);
    }
    Ok(answer)
}

fn generate(object: &Map<String, Value>, wrapper: &Wrapper) -> Result<Value> {
    let attributes = asked(object)?;
    let algorithm = keepable(&attributes)?;
    let key = Material::fresh(algorithm, attributes.number("bits"))?;
    finish(attributes, &key, "generated", wrapper)
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
    let attributes = asked(object)?;
    let algorithm = keepable(&attributes)?;
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
    finish(
        attributes,
        &Material::of(algorithm, key)?,
        "imported",
        wrapper,
    )
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

/// The public half of a pair.
fn public(object: &Map<String, Value>, wrapper: &Wrapper) -> Result<Value> {
    let (attributes, key) = stored(object, wrapper)?;
    let algorithm = attributes.algorithm()?;
    match Material::of(algorithm, key)?.public {
        Some(public) => Ok(json!({"public": packet::base64(&public)})),
        None => Err(Error::unsupported(format!(
            "{} is a secret key of {}: it has no public half",
            attributes.name(),
            algorithm.name
        ))),
    }
}
