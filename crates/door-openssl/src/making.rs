//! Keys that the broker makes for programs that ask OpenSSL for one: under a label, and the program gets no more
//! than its name.

use crate::error::{Error, Reason, Result};
use crate::ffi::params::{Given, Value as Parameter};
use crate::kept::ask;
use crate::key::Key;
use crate::pair::{Curve, TYPES, no_curve};
use crate::reference::Name;
use crate::secret_key::{PARAMETER, SecretKey};
use cryptofd_core::engines::software;
use cryptofd_core::table::{self, Algorithm, Kind};
use serde_json::{Value, json};
use std::ffi::CStr;
use std::sync::Arc;

/// The parameter that says what a key is for: DESIGN's words with commas between them.
pub const USAGE: &CStr = c"cryptofd-usage";
/// The parameter that says of which algorithm a secret key is.
pub const ALGORITHM: &CStr = c"cryptofd-algorithm";
/// The exponent of all of the broker's RSA keys.
const EXPONENT: &str = "65537";
/// What keys are for that agree on secrets or are derived from: of other keys, and of bytes that programs get.
const DERIVE: &str = "derive";
const BYTES: &str = "derive-bytes";

/// How a key is called, and what it is for. Whatever is not said is as the broker has it.
#[derive(Clone, Debug, Default)]
struct Wanted {
    label: Option<String>,
    usage: Option<Vec<String>>,
    bits: Option<usize>,
}

impl Wanted {
    fn set(&mut self, params: Given<'_>) -> Result<()> {
        if let Some(value) = params.find(PARAMETER) {
            self.label = Some(label(value.text()?)?);
        }
        if let Some(value) = params.find(USAGE) {
            let words = value.text()?.split(',').map(|word| word.trim().to_owned());
            self.usage = Some(words.collect());
        }
        Ok(())
    }

    /// Whether it is to agree on secrets, or to derive from.
    fn derives(&self) -> bool {
        let usage = self.usage.as_deref().unwrap_or_default();
        usage.iter().any(|word| word.starts_with(DERIVE))
    }

    /// What a key is for of which nothing is said: a program that derives wants bytes. Of other algorithms it is as
    /// the broker has it.
    fn usage(&self, algorithm: &Algorithm) -> Option<Vec<String>> {
        let derives =
            algorithm.kind == Kind::Kdf || algorithm.does("agree") || algorithm.does("decapsulate");
        let bytes = || derives.then(|| vec![BYTES.to_owned()]);
        self.usage.clone().or_else(bytes)
    }

    /// Has it made, and returns the broker's description. What fails from here on has made a key: nothing does.
    fn make(&self, algorithm: &Algorithm) -> Result<Value> {
        let label = self.label.as_deref().ok_or_else(|| {
            let text = "cryptofd-key: say cryptofd:LABEL, under which the broker keeps the new key";
            Error::new(Reason::PARAMETER, text)
        })?;
        // Whoever asks again, because the broker went away before it answered, has the same key.
        let mut token = [0; 16];
        software::random(&mut token)?;
        let asked = json!({
            "label": label,
            "algorithm": algorithm.name,
            "bits": self.bits,
            "usage": self.usage(algorithm),
            "token": format!("{:032x}", u128::from_ne_bytes(token)),
        });
        let mut answer = ask("GenerateKey", &asked)?;
        Ok(answer.parameters["key"].take())
    }
}

/// The label of a key that is to be: its maker owns it.
fn label(uri: &str) -> Result<String> {
    match Name::given(uri)? {
        Name::Key(name) if !name.contains('/') => Ok(name),
        _ => Err(Error::new(
            Reason::BAD_URI,
            format!("{uri}: a new key is its maker's own: cryptofd:LABEL"),
        )),
    }
}

/// What only one value is good for.
fn only(value: Option<Parameter<'_>>, good: &str, what: &str) -> Result<()> {
    let said = match &value {
        None => return Ok(()),
        Some(value) => match value.text() {
            Ok(text) => text.to_owned(),
            Err(_) => value.integer()?.to_string(),
        },
    };
    if said == good {
        return Ok(());
    }
    let text = format!("{what} {said}: the broker's keys have {good}");
    Err(Error::new(Reason::UNSUPPORTED, text))
}

/// A pair that is to be made.
#[derive(Clone, Debug)]
pub struct Pair {
    place: usize,
    curve: Option<&'static Curve>,
    wanted: Wanted,
}

impl Pair {
    /// Of the type at this place.
    pub fn new(place: usize) -> Pair {
        Pair {
            place,
            curve: None,
            wanted: Wanted::default(),
        }
    }

    /// On the same curve as another.
    pub fn like(&mut self, other: &Key) {
        self.curve = other.curve().or(self.curve);
    }

    /// What the program says of it.
    pub fn set(&mut self, params: Given<'_>) -> Result<()> {
        self.wanted.set(params)?;
        match TYPES[self.place].name.to_bytes() {
            b"RSA" => {
                if let Some(value) = params.find(c"bits") {
                    self.wanted.bits = Some(value.size()?);
                }
                only(params.find(c"e"), EXPONENT, "exponent")?;
                only(params.find(c"primes"), "2", "primes")?;
            }
            b"EC" => {
                if let Some(value) = params.find(c"group") {
                    self.curve = Some(Curve::named(value.text()?)?);
                }
                only(params.find(c"encoding"), "named_curve", "encoding")?;
                only(params.find(c"point-format"), "uncompressed", "point-format")?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Its curve alone.
    pub fn parameters(&self) -> Result<Key> {
        match self.curve {
            Some(_) => Ok(Key::on(self.place, self.curve)),
            None => Err(no_curve()),
        }
    }

    /// Has it made.
    pub fn make(&self) -> Result<Key> {
        let kind = &TYPES[self.place];
        let algorithm = kind.algorithm(self.curve, self.wanted.derives())?;
        let made = self.wanted.make(algorithm)?;
        let key = Key::of(&made, true)?;
        key.ok_or_else(|| Error::new(Reason::INTERNAL, "a key that is none"))
    }
}

/// A secret key that is to be made; None: the parameters name none, and the program wants one of its own.
/// `fits`: whether a key of the algorithm is good enough.
pub fn secret(
    params: Given<'_>,
    fits: impl Fn(&Algorithm) -> Result<()>,
) -> Result<Option<Arc<SecretKey>>> {
    let mut wanted = Wanted::default();
    wanted.set(params)?;
    if wanted.label.is_none() {
        let said = [ALGORITHM, USAGE]
            .into_iter()
            .find(|name| params.find(name).is_some());
        return said.map_or(Ok(None), |name| {
            let text = format!(
                "{}: only a key of the broker's has that: say cryptofd-key, too",
                name.to_string_lossy()
            );
            Err(Error::new(Reason::PARAMETER, text))
        });
    }
    let name = params.find(ALGORITHM).ok_or_else(|| {
        let text = "cryptofd-algorithm: a key of the broker's serves one: gcm(aes), cbc(aes), hmac(sha256) ...";
        Error::new(Reason::PARAMETER, text)
    })?;
    let algorithm = table::find(name.text()?)?;
    if algorithm.kind == Kind::Pair {
        let text = format!("{} has pairs of keys: EVP_PKEY_generate", algorithm.name);
        return Err(Error::new(Reason::UNSUPPORTED, text));
    }
    fits(algorithm)?;
    if let Some(value) = params.find(c"key-length") {
        wanted.bits = Some(value.size()?.saturating_mul(8));
    }
    SecretKey::of(&wanted.make(algorithm)?).map(Some)
}
