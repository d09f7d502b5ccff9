//! A key's attributes: what is authenticated with its bytes, and which of them go together.

use super::lease::SEALS;
use crate::sys;
use cryptofd_core::error::{Error, Kind as ErrorKind, Result};
use cryptofd_core::table::{self, Algorithm, Kind};
use serde_json::{Map, Value};

/// What a key may be used for.
pub const USAGES: [&str; 12] = [
    "caller-iv",
    "decrypt",
    "derive",
    "derive-bytes",
    "digest",
    "encrypt",
    "raw",
    "sign",
    "sign-digest",
    "unwrap",
    "verify",
    "wrap",
];
/// What takes the private half of a pair.
const PRIVATE: [&str; 6] = ["decrypt", "derive", "raw", "sign", "sign-digest", "unwrap"];
/// Most bytes of a text.
const TEXT: usize = 256;
/// Attributes that may be changed after a key was made.
const MUTABLE: [&str; 3] = ["expires", "label", "trusted"];

/// A key's attributes, well-formed.
#[derive(Clone, Debug, PartialEq)]
pub struct Attributes(Map<String, Value>);

fn invalid(what: impl std::fmt::Display) -> Error {
    Error::invalid(format!("key attributes: {what}"))
}

impl Attributes {
    /// Checks that each is of its type. Unknown ones are kept: they are authenticated like the others.
    pub fn parse(value: &Map<String, Value>) -> Result<Attributes> {
        for (name, value) in value {
            check(name, value)?;
        }
        Ok(Attributes(value.clone()))
    }

    /// The bytes that are authenticated: sorted keys, no spaces, UTF-8.
    pub fn canonical(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(&self.0).map_err(invalid)
    }

    /// As JSON.
    pub fn value(&self) -> Value {
        Value::Object(self.0.clone())
    }

    /// A text, where there is one.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// A number, where there is one.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name).and_then(Value::as_u64)
    }

    /// Whether it is there and true.
    pub fn is(&self, name: &str) -> bool {
        self.0.get(name) == Some(&Value::Bool(true))
    }

    /// An object, where there is one.
    pub fn object(&self, name: &str) -> Option<&Map<String, Value>> {
        self.0.get(name).and_then(Value::as_object)
    }

    /// Sets one.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.into(), value.into());
    }

    /// Ends no later than `other`.
    pub fn end_with(&mut self, other: &Attributes) {
        let ends = [self.number("expires"), other.number("expires")];
        let first = ends.into_iter().flatten().min();
        self.set("expires", first.map_or(Value::Null, Value::from));
    }

    /// Whether the key may be used for this.
    pub fn allows(&self, usage: &str) -> bool {
        self.usage().any(|u| u == usage)
    }

    /// What the key may be used for.
    pub fn usage(&self) -> impl Iterator<Item = &str> {
        self.0
            .get("usage")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
    }

    /// How it is called in an error.
    pub fn name(&self) -> String {
        let label = self.text("label").unwrap_or_default();
        if label.is_empty() {
            format!("key {}", self.text("id").unwrap_or("without id"))
        } else {
            format!("key {label:?}")
        }
    }

    /// Its algorithm in the table.
    pub fn algorithm(&self) -> Result<&'static Algorithm> {
        let name = self
            .text("algorithm")
            .ok_or_else(|| invalid("there is no algorithm"))?;
        table::find(name)
    }

    /// EKEYEXPIRED from the second on that `expires` names.
    pub fn check_expiry(&self) -> Result<()> {
        expired(self.number("expires"), || self.name())
    }

    /// Bits of security that the key gives or needs, for the rule that none is wrapped by a weaker one.
    pub fn strength(&self) -> Result<u32> {
        let bits = usize::try_from(self.number("bits").unwrap_or(0)).unwrap_or(usize::MAX);
        Ok(self.algorithm()?.strength_of(bits))
    }

    /// What must hold of a new key, whoever asks for it.
    pub fn check_new(&self) -> Result<()> {
        for name in ["id", "algorithm", "owner"] {
            if self.text(name).is_none() {
                return Err(invalid(format!("there is no {name}")));
            }
        }
        let algorithm = self.algorithm()?;
        let wrapping = self.allows("wrap") || self.allows("unwrap");
        if wrapping && self.usage().any(|u| u != "wrap" && u != "unwrap") {
            return Err(invalid(
                "a wrapping key does nothing else: wrap and unwrap, or the others",
            ));
        }
        if self.text("type") == Some("public") {
            // Who encapsulates to a public key may have the secret.
            let private = |u: &&str| match *u {
                "derive-bytes" => !algorithm.does("encapsulate"),
                u => PRIVATE.contains(&u),
            };
            if let Some(private) = self.usage().find(private) {
                return Err(invalid(format!(
                    "this is a public key: usage {private} takes the private one"
                )));
            }
        }
        if algorithm.kind == Kind::Pair && self.allows("digest") {
            return Err(invalid("a hash takes in secret keys, not pairs"));
        }
        if self.allows("raw") && !(self.allows("sign") && self.allows("decrypt")) {
            return Err(invalid("raw needs sign and decrypt: it is both"));
        }
        let both = self.allows("encrypt") && self.allows("decrypt");
        if self.allows("caller-iv") && !both {
            return Err(invalid("caller-iv needs encrypt and decrypt"));
        }
        if (self.text("iv") == Some("caller")) != self.allows("caller-iv") {
            return Err(invalid(
                "iv is \"caller\" exactly where caller-iv is a usage",
            ));
        }
        let one = self.allows("encrypt") || self.allows("decrypt");
        if raw_stream(algorithm) && one && !both {
            return Err(invalid(format!(
                "{} encrypts and decrypts by the same work: both usages, or none",
                algorithm.name
            )));
        }
        match self.number("version") {
            Some(1..=255) => Ok(()),
            _ => Err(invalid("version is 1 to 255")),
        }
    }

    /// What `new` changes, which may be the mutable ones alone; `expires` may only come earlier.
    pub fn check_change(&self, new: &Attributes) -> Result<()> {
        let names: std::collections::BTreeSet<&String> =
            self.0.keys().chain(new.0.keys()).collect();
        for name in names {
            if self.0.get(name) == new.0.get(name) {
                continue;
            }
            if !MUTABLE.contains(&name.as_str()) {
                return Err(Error::refused(format!(
                    "{}: {name} cannot be changed; make a new key",
                    self.name()
                )));
            }
        }
        match (self.number("expires"), new.number("expires")) {
            (Some(_), None) => Err(Error::refused("expires may only come earlier, not go")),
            (Some(old), Some(new)) if new > old => {
                Err(Error::refused("expires may only come earlier"))
            }
            _ => Ok(()),
        }
    }
}

/// EKEYEXPIRED from the second `expires` on.
pub fn expired(expires: Option<u64>, name: impl Fn() -> String) -> Result<()> {
    match expires {
        Some(expires) if sys::now() >= expires => Err(Error::new(
            ErrorKind::KeyRevoked,
            libc::EKEYEXPIRED,
            format!("{} has expired: make a new one", name()),
        )),
        _ => Ok(()),
    }
}

/// Whether encrypting and decrypting are the same work, so that either right would give both.
pub fn raw_stream(algorithm: &Algorithm) -> bool {
    algorithm.kind == Kind::Cipher && matches!(algorithm.template(), "ctr" | "cfb" | "chacha20")
}

fn check(name: &str, value: &Value) -> Result<()> {
    let wrong = |what: &str| Err(invalid(format!("{name} is {what}")));
    let text = value.as_str();
    match name {
        "id" => {
            let right = |id: &str| {
                id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            };
            if text.is_some_and(right) {
                Ok(())
            } else {
                wrong("32 digits of a lower-case hexadecimal number")
            }
        }
        "bits" | "created" | "version" if value.is_u64() => Ok(()),
        "bits" | "created" | "version" => wrong("a number"),
        "uses" if value.as_u64().is_some_and(|uses| uses > SEALS) => wrong("at most 2^32"),
        "expires" | "uses" | "tag_size" if value.is_u64() || value.is_null() => Ok(()),
        "expires" | "uses" | "tag_size" => wrong("a number or null"),
        "exportable" | "wrappable" | "trusted" if value.is_boolean() => Ok(()),
        "exportable" | "wrappable" | "trusted" => wrong("true or false"),
        "wrap_template" | "derive_template" if value.is_null() => Ok(()),
        "wrap_template" | "derive_template" => match value.as_object() {
            Some(template) => template.iter().try_for_each(|(n, v)| check(n, v)),
            None => wrong("an object or null"),
        },
        "type" if matches!(text, Some("secret" | "pair" | "public")) => Ok(()),
        "type" => wrong("\"secret\", \"pair\" or \"public\""),
        "iv" if matches!(text, Some("worker" | "caller")) || value.is_null() => Ok(()),
        "iv" => wrong("\"worker\" or \"caller\""),
        "class" if matches!(text, Some("stored" | "session")) => Ok(()),
        "class" => wrong("\"stored\" or \"session\""),
        "usage" => {
            let words: Option<Vec<&str>> = value
                .as_array()
                .map(|list| list.iter().map(|w| w.as_str().unwrap_or("")).collect());
            match words {
                Some(words)
                    if words.windows(2).all(|w| w[0] < w[1])
                        && words.iter().all(|w| USAGES.contains(w)) =>
                {
                    Ok(())
                }
                _ => wrong(&format!(
                    "a sorted list of words, each once: {}",
                    USAGES.join(", ")
                )),
            }
        }
        _ => match value {
            Value::String(text) if text.len() <= TEXT && !text.chars().any(char::is_control) => {
                Ok(())
            }
            Value::Null | Value::Bool(_) => Ok(()),
            Value::Number(number) if number.is_u64() => Ok(()),
            Value::Array(list) if list.iter().all(Value::is_string) => Ok(()),
            _ => wrong(&format!(
                "text of at most {TEXT} bytes, a whole number, or a list of texts"
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn attributes(change: &[(&str, Value)]) -> Result<Attributes> {
        let mut value = json!({
            "id": "0123456789abcdef0123456789abcdef", "label": "db", "owner": "uid:1000",
            "algorithm": "gcm(aes)", "type": "secret", "usage": ["decrypt", "encrypt"],
            "exportable": false, "version": 1, "expires": null, "iv": "worker",
        });
        for (name, new) in change {
            value[name] = new.clone();
        }
        Attributes::parse(value.as_object().unwrap())
    }

    #[test]
    fn canonical_is_sorted_and_without_spaces() {
        let attributes = attributes(&[("label", json!("d\u{e4}\"b"))]).unwrap();
        let text = String::from_utf8(attributes.canonical().unwrap()).unwrap();
        assert_eq!(
            text,
            "{\"algorithm\":\"gcm(aes)\",\"expires\":null,\"exportable\":false,\
             \"id\":\"0123456789abcdef0123456789abcdef\",\"iv\":\"worker\",\"label\":\"d\u{e4}\\\"b\",\
             \"owner\":\"uid:1000\",\"type\":\"secret\",\"usage\":[\"decrypt\",\"encrypt\"],\"version\":1}"
        );
    }

    #[test]
    fn wrong_types_are_refused() {
        for (name, value) in [
            ("id", json!("xyz")),
            ("usage", json!(["encrypt", "decrypt"])),
            ("usage", json!(["encrypt", "encrypt"])),
            ("usage", json!(["fly"])),
            ("usage", json!("encrypt")),
            ("version", json!("1")),
            ("version", json!(1.5)),
            ("expires", json!(-1)),
            ("exportable", json!(1)),
            ("label", json!("a\nb")),
            ("label", json!("a".repeat(257))),
            ("wrap_template", json!({"usage": ["fly"]})),
            ("anything", json!({"a": 1})),
        ] {
            assert!(
                attributes(&[(name, value.clone())]).is_err(),
                "{name} {value}"
            );
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        assert!(attributes(&[]).unwrap().check_new().is_ok());
        for change in [
            &[("usage", json!(["encrypt", "wrap"]))][..],
            &[
                ("usage", json!(["caller-iv", "encrypt"])),
                ("iv", json!("caller")),
            ],
            &[("usage", json!(["caller-iv", "decrypt", "encrypt"]))],
            &[("iv", json!("caller"))],
            &[
                ("algorithm", json!("ctr(aes)")),
                ("usage", json!(["encrypt"])),
            ],
            &[
                ("algorithm", json!("cfb(aes)")),
                ("usage", json!(["decrypt"])),
            ],
            &[("algorithm", json!("nonsense"))],
            &[("version", json!(0))],
            &[("version", json!(256))],
        ] {
            let attributes = attributes(change).unwrap();
            assert!(attributes.check_new().is_err(), "{change:?}");
        }
    }

    #[test]
    fn only_what_is_mutable_changes() {
        let old = attributes(&[("expires", json!(1000))]).unwrap();
        let with = |change: &[(&str, Value)]| {
            let mut all = vec![("expires", json!(1000))];
            all.extend_from_slice(change);
            old.check_change(&attributes(&all).unwrap())
        };
        assert!(with(&[("label", json!("x")), ("expires", json!(999))]).is_ok());
        assert!(with(&[("trusted", json!(true))]).is_ok());
        for change in [
            ("exportable", json!(true)),
            ("usage", json!(["encrypt"])),
            ("algorithm", json!("ctr(aes)")),
            ("expires", json!(1001)),
            ("expires", json!(null)),
            ("unknown", json!("new")),
        ] {
            let name = change.0;
            assert_eq!(with(&[change]).unwrap_err().errno(), libc::EPERM, "{name}");
        }
    }
}
