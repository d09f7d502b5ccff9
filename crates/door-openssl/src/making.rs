//! Keys that the broker makes for programs that ask OpenSSL for one: under a label, and the program gets no more
//! than its name.

use crate::error::{Error, Reason, Result};
use crate::ffi::params::{Given, Value};
use crate::kept::ask;
use crate::key::Key;
use crate::pair::{Curve, TYPES};
use crate::reference::Name;
use crate::secret_key::{PARAMETER, SecretKey};
use cryptofd_core::engines::software;
use cryptofd_core::table::{self, Algorithm, Kind};
use serde_json::json;
use std::ffi::CStr;
use std::sync::Arc;

/// The parameter that says what a key is for: DESIGN's words with commas between them.
pub const USAGE: &CStr = c"cryptofd-usage";
/// The parameter that says of which algorithm a secret key is.
pub const ALGORITHM: &CStr = c"cryptofd-algorithm";
/// The exponent of all of the broker's RSA keys.
const EXPONENT: i128 = 65537;

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
        usage.iter().any(|word| word.starts_with("derive"))
    }

    /// Has it made; its label.
    fn make(&self, algorithm: &str) -> Result<&str> {
        let label = self.label.as_deref().ok_or_else(|| {
            let text = "cryptofd-key: say cryptofd:LABEL, under which the broker keeps the new key";
            Error::new(Reason::PARAMETER, text)
        })?;
        // Whoever asks again, because the broker went away before it answered, has the same key.
        let mut token = [0; 16];
        software::random(&mut token)?;
        let asked = json!({
            "label": label,
            "algorithm": algorithm,
            "bits": self.bits,
            "usage": self.usage,
            "token": format!("{:032x}", u128::from_ne_bytes(token)),
        });
        ask("GenerateKey", &asked)?;
        Ok(label)
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

/// A number that only one value is good for.
fn only(value: Option<Value<'_>>, good: i128, what: &str) -> Result<()> {
    match value.map(|value| value.integer()).transpose()? {
        Some(number) if number != good => Err(Error::new(
            Reason::UNSUPPORTED,
            format!("{what} {number}: the broker's RSA keys have {good}"),
        )),
        _ => Ok(()),
    }
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
                only(params.find(c"primes"), 2, "primes")?;
            }
            b"EC" => {
                if let Some(value) = params.find(c"group") {
                    self.curve = Some(Curve::named(value.text()?)?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Its curve alone.
    pub fn parameters(&self) -> Key {
        Key::on(self.place, self.curve)
    }

    /// Has it made.
    pub fn make(&self) -> Result<Key> {
        let kind = &TYPES[self.place];
        let algorithm = kind.algorithm(self.curve, self.wanted.derives())?;
        let label = self.wanted.make(algorithm.name)?;
        Key::named(label, true)
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
        return Ok(None);
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
    SecretKey::named(wanted.make(algorithm.name)?).map(Some)
}
