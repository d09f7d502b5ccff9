//! Keys: public ones, and those whose private half the broker keeps.

use crate::error::{Error, Reason, Result};
use crate::kept::{Kept, ask};
use crate::pair::{Curve, Numbers, Public, TYPES};
use crate::reference;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cryptofd_core::engine::Key as Material;
use cryptofd_core::error::Result as CoreResult;
use cryptofd_core::remote::Remote;
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{Request, Session};
use cryptofd_core::table::{self, Algorithm, Kind};
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};

/// Most keys that are listed.
const MOST: usize = 10_000;

/// A key. Before OpenSSL has imported a public one into it, it is empty.
pub struct Key {
    place: usize,
    /// Where nothing but the curve was taken over from another key.
    curve: Option<&'static Curve>,
    public: OnceLock<Public>,
    /// The table's algorithm that a kept key is for.
    algorithm: Option<&'static Algorithm>,
    kept: Option<Kept>,
    /// The public half's own session, where it is used.
    here: OnceLock<Arc<Session>>,
}

impl Key {
    /// One without anything in it, of the type at this place.
    pub fn empty(place: usize) -> Key {
        Key {
            place,
            curve: None,
            public: OnceLock::new(),
            algorithm: None,
            kept: None,
            here: OnceLock::new(),
        }
    }

    /// One of which only the curve is known.
    pub fn on(place: usize, curve: Option<&'static Curve>) -> Key {
        Key {
            curve,
            ..Key::empty(place)
        }
    }

    /// The key that the broker describes so; None: OpenSSL has no words for it.
    pub fn of(description: &Value, private: bool) -> Result<Option<Key>> {
        let text = |name: &str| description[name].as_str().unwrap_or_default();
        let Ok(algorithm) = table::find(text("algorithm")) else {
            return Ok(None);
        };
        if algorithm.kind != Kind::Pair {
            return Ok(None);
        }
        let Ok(spki) = STANDARD.decode(text("public")) else {
            return Ok(None);
        };
        // What this door has no words for is not shown.
        let Ok(public) = Public::parse(&spki) else {
            return Ok(None);
        };
        let kept = (private && text("type") != "public").then(|| Kept::of(description));
        Ok(Some(Key {
            place: public.place,
            curve: None,
            public: OnceLock::from(public),
            algorithm: Some(algorithm),
            kept,
            here: OnceLock::new(),
        }))
    }

    /// The broker's key of this name. Its session is opened now: what it needs may be the right of a parent
    /// that gives up its rights, or of a program before it changes its root.
    pub fn named(name: &str, private: bool) -> Result<Key> {
        let answer = ask("KeyInfo", &json!({"key": name, "version": null}))?;
        let description = &answer.parameters["key"];
        match Key::of(description, private)? {
            Some(key) => {
                if let Some(kept) = &key.kept {
                    kept.session()?;
                }
                Ok(key)
            }
            None => Err(Error::new(
                Reason::UNSUPPORTED,
                format!(
                    "cryptofd:{name} is of {}: not a pair of keys that OpenSSL's programs can use",
                    description["algorithm"]
                ),
            )),
        }
    }

    /// All pairs that the caller may use.
    pub fn all(private: bool) -> Result<Vec<Key>> {
        let mut all = Vec::new();
        let mut after = Value::Null;
        loop {
            let answer = ask("ListKeys", &json!({"all": null, "after": after}))?;
            let keys = answer.parameters["keys"].as_array();
            let keys = keys.map(Vec::as_slice).unwrap_or_default();
            let Some(last) = keys.last().map(|key| key["id"].clone()) else {
                return Ok(all);
            };
            for description in keys {
                all.extend(Key::of(description, private)?);
            }
            if last == after || all.len() >= MOST {
                return Ok(all);
            }
            after = last;
        }
    }

    /// The same key without its private half.
    pub fn public_half(&self) -> Key {
        let public = OnceLock::new();
        if let Some(own) = self.public() {
            let _ = public.set(own.clone());
        }
        Key {
            place: self.place,
            curve: self.curve,
            public,
            algorithm: self.algorithm,
            kept: None,
            here: OnceLock::new(),
        }
    }

    /// A key of the same curve without its numbers.
    pub fn parameters(&self) -> Key {
        Key::on(self.place, self.curve())
    }

    /// Its curve.
    pub fn curve(&self) -> Option<&'static Curve> {
        self.public().and_then(Public::curve).or(self.curve)
    }

    /// Takes a public key as it is encoded: what a peer sends.
    pub fn fill_encoded(&self, bytes: &[u8]) -> Result<()> {
        let numbers = match (TYPES[self.place].name.to_bytes(), self.curve()) {
            (b"RSA", _) => {
                return Err(Error::new(Reason::INVALID, "RSA's keys are not encoded so"));
            }
            (b"EC", None) => return Err(Error::new(Reason::INVALID, "a point without a curve")),
            (_, Some(curve)) => Numbers::Ec {
                curve,
                point: bytes.to_vec(),
            },
            _ => Numbers::Plain(bytes.to_vec()),
        };
        self.fill(Public::build(self.place, numbers)?)
    }

    /// Takes a public key, if it has none yet.
    pub fn fill(&self, public: Public) -> Result<()> {
        if public.place != self.place {
            return Err(Error::new(Reason::INVALID, "a key of another type"));
        }
        self.public
            .set(public)
            .map_err(|_| Error::new(Reason::INVALID, "this key has its numbers already"))
    }

    /// Its type's place.
    pub fn place(&self) -> usize {
        self.place
    }

    /// The public half, if it is there.
    pub fn public(&self) -> Option<&Public> {
        self.public.get()
    }

    /// The public half.
    pub fn numbers(&self) -> Result<&Public> {
        self.public()
            .ok_or_else(|| Error::new(Reason::MISSING_KEY, "there is no key in this object"))
    }

    /// Whether the broker has its private half.
    pub fn is_private(&self) -> bool {
        self.kept.is_some()
    }

    /// Whether the private half is for this (sign, sign-digest, decrypt ...).
    pub fn may(&self, usage: &str) -> Result<bool> {
        Ok(self.kept()?.session()?.may(usage))
    }

    fn kept(&self) -> Result<&Kept> {
        self.kept.as_ref().ok_or_else(|| {
            Error::new(
                Reason::MISSING_KEY,
                "this key has no private half that the broker keeps",
            )
        })
    }

    /// What people are shown of it.
    pub fn text(&self) -> Result<String> {
        let kind = TYPES[self.place].name.to_string_lossy();
        let bits = self.numbers()?.bits();
        let uri = reference::uri(self.kept()?.name());
        Ok(format!(
            "{kind} Private-Key: ({bits} bit)\nkept by the broker: {uri}\n"
        ))
    }

    /// The PEM file that holds its name.
    pub fn reference(&self) -> Result<String> {
        reference::write(self.place, &reference::uri(self.kept()?.name()))
    }

    /// Does something with the private half, in the worker.
    pub fn with<T>(&self, does: impl Fn(&Remote) -> CoreResult<T>) -> Result<T> {
        self.kept()?.with(does)
    }

    /// Does something with the public half, in this process.
    pub fn publicly<T>(&self, does: impl Fn(&Session) -> CoreResult<T>) -> Result<T> {
        let session = match self.here.get() {
            Some(session) => session,
            None => {
                let public = self.numbers()?;
                let algorithm = match self.algorithm {
                    Some(algorithm) => algorithm,
                    None => public.algorithm(false)?,
                };
                let made = Session::open(Request {
                    algorithm: algorithm.name.to_owned(),
                    key: Material::Bytes(Secret::new(&public.spki)),
                    ..Request::default()
                })?;
                self.here.get_or_init(|| made)
            }
        };
        Ok(does(session)?)
    }

    /// Whether it is the same key: its public half.
    pub fn same(&self, other: &Key) -> bool {
        match (self.public(), other.public()) {
            (Some(one), Some(two)) => one.place == two.place && one.numbers == two.numbers,
            _ => false,
        }
    }
}
