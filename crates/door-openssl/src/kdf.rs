//! Key derivation (provider-kdf(7)): HKDF, PBKDF2, scrypt, SP 800-108 in counter mode.
//!
//! The host's own implementation goes along: it judges parameters, answers questions, and derives what the
//! table has no algorithm for (a step of HKDF alone, other hashes, other modes). What the table has is derived
//! by a session.

use crate::context::Provider;
use crate::error::{Error, Reason, Result};
use crate::family;
use crate::ffi::host;
use crate::ffi::params::{Asked, Given};
use crate::ffi::types::op;
use crate::measure::{Job, Value};
use crate::names;
use crate::secret_key::SecretKey;
use crate::sessions;
use cryptofd_core::engine::{Derivation, Key};
use cryptofd_core::secret::Secret;
use cryptofd_core::session::Request;
use cryptofd_core::table::{ALGORITHMS, Algorithm, Kind, find};
use std::sync::{Arc, OnceLock};
use zeroize::Zeroizing;

/// One construction.
pub struct Variant {
    /// The part before the parenthesis of the table's names.
    template: &'static str,
    names: Vec<&'static str>,
}

/// The constructions.
pub fn variants() -> &'static [Variant] {
    static ALL: OnceLock<Vec<Variant>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all: Vec<Variant> = Vec::new();
        for algorithm in ALGORITHMS.iter().filter(|a| a.kind == Kind::Kdf) {
            let Some(name) = algorithm.openssl else {
                continue;
            };
            let more = algorithm.openssl_aliases;
            match all.iter_mut().find(|known| known.names[0] == name) {
                Some(known) => known.names.extend(more),
                None => all.push(Variant {
                    template: algorithm.template(),
                    names: std::iter::once(name).chain(more.iter().copied()).collect(),
                }),
            }
        }
        all
    })
}

/// What is advertised.
pub fn algorithms() -> Vec<family::Algorithm> {
    let all = variants().iter().enumerate().map(|(place, variant)| {
        let functions = crate::ffi::kdf::functions(place);
        let text = format!("cryptofd's {}", variant.template);
        let job: Option<&[_]> = match variant.template {
            "hkdf" => Some(&[
                (c"digest", Value::Text("SHA2-256")),
                (c"key", Value::Octets(32)),
                (c"salt", Value::Octets(32)),
                (c"info", Value::Octets(16)),
            ]),
            "pbkdf2" => Some(&[
                (c"digest", Value::Text("SHA2-256")),
                (c"pass", Value::Octets(16)),
                (c"salt", Value::Octets(16)),
                (c"iter", Value::Number(1000)),
            ]),
            "scrypt" => Some(&[
                (c"pass", Value::Octets(16)),
                (c"salt", Value::Octets(16)),
                (c"n", Value::Number(256)),
                (c"r", Value::Number(8)),
                (c"p", Value::Number(1)),
            ]),
            _ => None,
        };
        let made = family::Algorithm::new(&variant.names.join(":"), functions, &text);
        made.measured(job.map(Job::Kdf), None)
    });
    all.collect()
}

/// Those that derive from a key of the broker's; the others take passwords.
pub fn by_reference() -> Vec<family::Algorithm> {
    family::by_reference(algorithms(), |place| variants()[place].takes_keys())
}

impl Variant {
    fn takes_keys(&self) -> bool {
        matches!(self.template, "hkdf" | "kdf108-ctr")
    }
}

/// What was set, of what a session can do.
#[derive(Clone, Default)]
struct Inputs {
    hash: Option<&'static Algorithm>,
    key: Option<Secret>,
    /// A key of the broker's in its place.
    kept: Option<Arc<SecretKey>>,
    salt: Option<Vec<u8>>,
    info: Vec<u8>,
    iterations: Option<u64>,
    n: Option<u64>,
    r: Option<u64>,
    p: Option<u64>,
    memory: Option<u64>,
    no_length: bool,
    no_separator: bool,
    /// A parameter that only the host's own understands.
    beyond: bool,
}

/// A derivation under way.
pub struct Deriving {
    variant: &'static Variant,
    inputs: Inputs,
    host: Option<host::Kdf>,
}

impl Deriving {
    /// Not begun.
    pub fn new(provider: &Provider, variant: &'static Variant) -> Result<Deriving> {
        let host = provider.host(op::KDF, variant.names[0]);
        Ok(Deriving {
            variant,
            inputs: Inputs::default(),
            host: host.map(|host| host.kdf()).transpose()?,
        })
    }

    /// Back to the beginning.
    pub fn reset(&mut self) {
        self.inputs = Inputs::default();
        if let Some(host) = &mut self.host {
            host.reset();
        }
    }

    /// Parameters of the program's.
    pub fn set_params(&mut self, params: Given<'_>) -> Result<()> {
        if let Some(host) = &mut self.host {
            host.set_params(params)?;
        }
        let kbkdf = self.variant.template == "kdf108-ctr";
        let inputs = &mut self.inputs;
        let mut info = None::<Vec<u8>>;
        for value in params.iter() {
            match value.key().to_bytes() {
                b"digest" => {
                    inputs.hash = names::digest(value.text()?);
                    inputs.beyond |= inputs.hash.is_none();
                }
                b"key" | b"pass" => {
                    inputs.key = Some(Secret::new(value.octets()?));
                    inputs.kept = None;
                }
                b"cryptofd-key" => {
                    inputs.kept = Some(SecretKey::given(&value)?);
                    inputs.key = None;
                }
                b"salt" => inputs.salt = Some(value.octets()?.to_vec()),
                // They add up.
                b"info" => info
                    .get_or_insert_default()
                    .extend_from_slice(value.octets()?),
                b"iter" => inputs.iterations = Some(value.uint64()?),
                b"n" => inputs.n = Some(value.uint64()?),
                b"r" if !kbkdf => inputs.r = Some(value.uint64()?),
                b"p" => inputs.p = Some(value.uint64()?),
                b"maxmem_bytes" => inputs.memory = Some(value.uint64()?),
                b"use-l" => inputs.no_length = value.int()? == 0,
                b"use-separator" => inputs.no_separator = value.int()? == 0,
                b"mode" => {
                    let ours = match value.text() {
                        Ok(word) if kbkdf => word.eq_ignore_ascii_case("counter"),
                        Ok(word) => word.eq_ignore_ascii_case("EXTRACT_AND_EXPAND"),
                        Err(_) => value.int()? == 0,
                    };
                    inputs.beyond |= !ours;
                }
                b"mac" => inputs.beyond |= !value.text()?.eq_ignore_ascii_case("HMAC"),
                b"pkcs5" => inputs.beyond |= value.int()? == 0,
                b"properties" | b"size" => {}
                _ => inputs.beyond = true,
            }
        }
        if let Some(info) = info {
            inputs.info = info;
        }
        Ok(())
    }

    /// Takes a key of the broker's.
    pub fn keep(&mut self, key: Arc<SecretKey>) {
        self.inputs.kept = Some(key);
        self.inputs.key = None;
    }

    /// The algorithm of the broker's key, if that is what was asked for.
    fn algorithm_of(&self, key: &SecretKey) -> Result<&'static Algorithm> {
        let own = key.algorithm();
        let fits = own.template() == self.variant.template && self.variant.takes_keys();
        let wanted = self.inputs.hash.map(|_| self.named());
        let same = wanted.is_none_or(|wanted| wanted.is_some_and(|one| one.name == own.name));
        if fits && same && !self.inputs.beyond {
            return Ok(own);
        }
        Err(Error::new(
            Reason::UNSUPPORTED,
            format!(
                "{} is a key of {}: not {} with these parameters",
                key.uri().to_string_lossy(),
                own.name,
                self.variant.names[0]
            ),
        ))
    }

    /// The table's algorithm, where it has one and all inputs are there.
    fn algorithm(&self) -> Option<&'static Algorithm> {
        let inputs = &self.inputs;
        (!inputs.beyond && inputs.key.is_some())
            .then(|| self.named())
            .flatten()
    }

    /// The same, whatever the key is.
    fn named(&self) -> Option<&'static Algorithm> {
        let inputs = &self.inputs;
        match self.variant.template {
            "scrypt" => {
                // OpenSSL's bound on memory is its own to refuse.
                let (n, r, p) = (inputs.n.unwrap_or(1 << 20), inputs.r.unwrap_or(8), inputs.p);
                let needs = 128 * u128::from(r) * (u128::from(n) + 2 + u128::from(p.unwrap_or(1)));
                let has = inputs.memory.unwrap_or(1025 * 1024 * 1024);
                (needs <= u128::from(has) && inputs.salt.is_some())
                    .then(|| find("scrypt").ok())
                    .flatten()
            }
            "pbkdf2" => {
                inputs.salt.as_ref()?;
                let hash = inputs.hash.map_or("sha1", |hash| hash.name);
                find(&format!("pbkdf2(hmac({hash}))")).ok()
            }
            "kdf108-ctr" => find(&format!("kdf108-ctr(hmac({}))", inputs.hash?.name)).ok(),
            template => find(&format!("{template}({})", inputs.hash?.name)).ok(),
        }
    }

    /// Derives.
    pub fn derive(&mut self, out: &mut [u8], params: Given<'_>) -> Result<()> {
        self.set_params(params)?;
        let fits = |algorithm: &&Algorithm| {
            let length = out.len() as u64;
            let bits = u32::try_from(length.saturating_mul(8)).is_ok();
            (1..=algorithm.max_message).contains(&length) && bits
        };
        let kept = self.inputs.kept.clone();
        let named = match &kept {
            Some(key) => Some(self.algorithm_of(key)?),
            None => self.algorithm(),
        };
        let Some(algorithm) = named.filter(fits) else {
            if kept.is_some() {
                let text = format!("{} bytes of {}", out.len(), self.variant.names[0]);
                return Err(Error::new(Reason::INVALID_OUTPUT_LENGTH, text));
            }
            return match &mut self.host {
                Some(host) => host.derive(out),
                None => Err(Error::new(
                    Reason::NOT_SUPPORTED,
                    format!("{}: not with these parameters", self.variant.names[0]),
                )),
            };
        };
        let inputs = &self.inputs;
        let (salt, mut info) = (
            inputs.salt.as_deref().unwrap_or_default(),
            Zeroizing::new(inputs.info.clone()),
        );
        let mut with = Derivation {
            salt,
            iterations: u32::try_from(inputs.iterations.unwrap_or(2048)).unwrap_or(u32::MAX),
            n: inputs.n.unwrap_or(1 << 20),
            r: u32::try_from(inputs.r.unwrap_or(8)).unwrap_or(u32::MAX),
            p: u32::try_from(inputs.p.unwrap_or(1)).unwrap_or(u32::MAX),
            ..Derivation::default()
        };
        if self.variant.template == "kdf108-ctr" {
            // SP 800-108, 4: label, a zero, context, and the length in bits.
            let mut fixed = Zeroizing::new(salt.to_vec());
            if !inputs.no_separator {
                fixed.push(0);
            }
            fixed.extend_from_slice(&info);
            if !inputs.no_length {
                let bits = u32::try_from(out.len() * 8).unwrap_or(0);
                fixed.extend_from_slice(&bits.to_be_bytes());
            }
            info = fixed;
            with.salt = &[];
        }
        with.info = &info;
        if let Some(key) = kept {
            return key.derive(with.salt, with.info, out);
        }
        let key = inputs.key.clone().map_or(Key::None, Key::Bytes);
        let session = sessions::open(Request {
            algorithm: algorithm.name.to_owned(),
            key,
            ..Request::default()
        })?;
        Ok(session.derive(&with, out)?)
    }

    /// Answers.
    pub fn get_params(&self, asked: &mut Asked<'_>) -> Result<()> {
        match &self.host {
            Some(host) => host.get_params(asked),
            None => asked.answer(|key, slot| match key.to_bytes() {
                b"size" => slot.size(usize::MAX),
                _ => Ok(()),
            }),
        }
    }

    /// Another that goes on from here.
    pub fn fork(&self) -> Result<Deriving> {
        Ok(Deriving {
            variant: self.variant,
            inputs: self.inputs.clone(),
            host: self.host.as_ref().map(host::Kdf::fork).transpose()?,
        })
    }
}
