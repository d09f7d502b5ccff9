//! A session's recipe: what it asks of an engine, the key that it names, and what it leaves of that key's usage.

use super::attributes::Attributes;
use super::keys::Wrapper;
use crate::packet;
use cryptofd_core::engine::{Hardware, Parameters};
use cryptofd_core::error::{Error, Result};
use cryptofd_core::secret::Secret;
use cryptofd_core::session::Request;
use cryptofd_core::table::Algorithm;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The key that a recipe names.
pub struct Keyed {
    pub attributes: Attributes,
    /// The key's own.
    pub algorithm: &'static Algorithm,
    narrowed: Option<BTreeSet<String>>,
    blob: Vec<u8>,
}

impl Keyed {
    /// The key of a recipe that must have one.
    pub fn of(recipe: &Map<String, Value>) -> Result<Keyed> {
        let attributes = Attributes::parse(packet::object(recipe, "key")?)?;
        Ok(Keyed {
            algorithm: attributes.algorithm()?,
            attributes,
            narrowed: words(recipe, "usage")?,
            blob: packet::needed(recipe, "blob")?,
        })
    }

    /// The key of a recipe, if it names one.
    pub fn maybe(recipe: &Map<String, Value>) -> Result<Option<Keyed>> {
        match recipe.get("key") {
            None | Some(Value::Null) => Ok(None),
            Some(_) => Keyed::of(recipe).map(Some),
        }
    }

    /// What the key may be used for, as far as the recipe leaves it.
    pub fn usage(&self) -> impl Iterator<Item = &str> {
        let left = |usage: &&str| self.narrowed.as_ref().is_none_or(|n| n.contains(*usage));
        self.attributes.usage().filter(left)
    }

    /// The size of an AEAD's tags belongs to the key: EPERM if the recipe asks for another.
    pub fn tags(&self, request: &mut Request) -> Result<()> {
        let Some(tag) = self.attributes.number("tag_size") else {
            return Ok(());
        };
        let wanted = request.parameters.tag_size;
        if wanted.is_some_and(|wanted| wanted as u64 != tag) {
            return Err(Error::refused(format!(
                "the tags of {} have {tag} bytes, always",
                self.attributes.name()
            )));
        }
        request.parameters.tag_size = Some(tag as usize);
        Ok(())
    }

    /// The key's bytes.
    pub fn unwrap(&self, wrapper: &Wrapper) -> Result<Secret> {
        wrapper.unwrap(&self.attributes, &self.blob)
    }
}

/// A number in an object of the recipe, where there is one.
pub fn number(recipe: &Map<String, Value>, object: &str, field: &str) -> Option<u64> {
    recipe.get(object)?.get(field)?.as_u64()
}

/// A list of texts; `None` where it is null or absent.
fn words(recipe: &Map<String, Value>, field: &str) -> Result<Option<BTreeSet<String>>> {
    match recipe.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(words)) => words
            .iter()
            .map(|w| w.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .map(Some)
            .ok_or_else(|| Error::invalid(format!("recipe: {field} is a list of texts"))),
        Some(_) => Err(Error::invalid(format!(
            "recipe: {field} is a list of texts"
        ))),
    }
}

/// A list of objects; empty where it is null or absent.
pub fn list<'a>(
    recipe: &'a Map<String, Value>,
    field: &str,
) -> Result<Vec<&'a Map<String, Value>>> {
    match recipe.get(field) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(entries)) if entries.len() <= 255 => entries
            .iter()
            .map(Value::as_object)
            .collect::<Option<_>>()
            .ok_or_else(|| Error::invalid(format!("recipe: {field} is a list of objects"))),
        Some(_) => Err(Error::invalid(format!(
            "recipe: {field} is a list of objects"
        ))),
    }
}

/// What the recipe says besides algorithm and key.
pub fn options(recipe: &Map<String, Value>) -> Result<Request> {
    let empty = Map::new();
    let session = match recipe.get("session") {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(session)) => session,
        Some(_) => return Err(Error::invalid("recipe: session is an object")),
    };
    let word = |field: &str| match session.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Error::invalid(format!("recipe: {field} is text"))),
    };
    let size = |field: &str| match session.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_u64()
            .and_then(|size| usize::try_from(size).ok())
            .map(Some)
            .ok_or_else(|| Error::invalid(format!("recipe: {field} is a number of bytes"))),
    };
    let pkcs7 = match word("padding")?.as_deref() {
        None | Some("" | "none") => false,
        Some("pkcs7") => true,
        Some(other) => return Err(Error::invalid(format!("padding={other:?}: none or pkcs7"))),
    };
    Ok(Request {
        engine: word("engine")?,
        driver: word("driver")?,
        hardware: word("hardware")?.map_or(Ok(Hardware::Any), |word| Hardware::parse(&word))?,
        fips: session.get("fips") == Some(&Value::Bool(true)),
        parameters: Parameters {
            tag_size: size("tag_size")?,
            digest_size: size("digest_size")?,
            pkcs7,
            iv: packet::bytes(session, "iv")?.unwrap_or_default(),
            ..Parameters::default()
        },
        ..Request::default()
    })
}
