//! The one table of algorithms, compiled from algorithms.toml.

use crate::error::{Error, Result};

/// What kind of work an algorithm does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A hash of fixed (or, for BLAKE2, chosen) size.
    Hash,
    /// A hash of any output length.
    Xof,
    /// A message authentication code.
    Mac,
    /// A cipher without authentication.
    Cipher,
    /// Authenticated encryption with associated data.
    Aead,
    /// Key wrapping.
    Wrap,
    /// Key derivation.
    Kdf,
    /// An asymmetric key: signatures, encryption, agreement, encapsulation.
    Pair,
    /// Random bytes.
    Rng,
    /// A streaming format composed of other algorithms.
    Streaming,
}

impl Kind {
    /// The word that stands in algorithms.toml.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Hash => "hash",
            Kind::Xof => "xof",
            Kind::Mac => "mac",
            Kind::Cipher => "cipher",
            Kind::Aead => "aead",
            Kind::Wrap => "wrap",
            Kind::Kdf => "kdf",
            Kind::Pair => "pair",
            Kind::Rng => "rng",
            Kind::Streaming => "streaming",
        }
    }
}

/// A range of sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Smallest size.
    pub min: usize,
    /// Largest size.
    pub max: usize,
    /// Distance between one size and the next.
    pub step: usize,
}

impl Sizes {
    /// Whether `size` is one of them.
    pub fn contains(&self, size: usize) -> bool {
        size >= self.min && size <= self.max && (size - self.min) % self.step == 0
    }
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.min == self.max {
            write!(f, "{} bytes", self.min)
        } else if self.step == 1 {
            write!(f, "{} to {} bytes", self.min, self.max)
        } else {
            let all: Vec<String> = (self.min..=self.max)
                .step_by(self.step)
                .map(|n| n.to_string())
                .collect();
            write!(f, "{} bytes", all.join(", "))
        }
    }
}

/// A PKCS#11 mechanism or key type.
#[derive(Clone, Copy, Debug)]
pub struct Pkcs11 {
    /// Its name, as `CKM_AES_GCM`.
    pub name: &'static str,
    /// Its number.
    pub id: u64,
}

/// A virtio-crypto algorithm.
#[derive(Clone, Copy, Debug)]
pub struct Virtio {
    /// The device's service: hash, mac, cipher, aead.
    pub service: &'static str,
    /// The number within the service.
    pub id: u32,
}

/// An engine that is faster than those before it, where the CPU lacks something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faster {
    /// The engine.
    pub engine: &'static str,
    /// What the CPU lacks.
    pub without: &'static str,
}

/// A known answer.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Test {
    pub key: &'static [u8],
    pub iv: &'static [u8],
    pub aad: &'static [u8],
    pub salt: &'static [u8],
    pub info: &'static [u8],
    pub iterations: u32,
    pub n: u64,
    pub r: u32,
    pub p: u32,
    /// 0: the algorithm's own.
    pub tag_size: usize,
    /// Of a pair: what gives `output` from `input`; `verify`: `output` is the signature.
    pub op: &'static str,
    pub hash: Option<&'static str>,
    pub scheme: Option<&'static str>,
    pub input: &'static [u8],
    pub output: &'static [u8],
}

/// One algorithm: its names in every vocabulary, its sizes, its limits, its strength.
#[derive(Debug)]
pub struct Algorithm {
    /// The kernel's name, which is cryptofd's.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// Other names that open it.
    pub aliases: &'static [&'static str],
    /// Key sizes; `max` 0 where there is no key.
    pub key: Sizes,
    /// IV (nonce) sizes; `max` 0 where there is none.
    pub iv: Sizes,
    /// The IV size to use when there is a choice.
    pub iv_default: usize,
    /// Bytes of output of a hash or MAC, or of the hash under a KDF.
    pub digest: usize,
    /// Outputs that may be asked for (BLAKE2); `max` 0 where there is no choice.
    pub digest_sizes: Sizes,
    /// Block size in bytes.
    pub block: usize,
    /// Whether a block cipher's mode takes any length.
    pub stream: bool,
    /// Bytes of a tag.
    pub tag: usize,
    /// Tags that may be asked for.
    pub tag_sizes: &'static [usize],
    /// Whether PKCS#7 padding may be asked for.
    pub pkcs7: bool,
    /// Bytes of salt that BLAKE2 takes.
    pub salt: usize,
    /// Bytes of personalisation that BLAKE2 takes.
    pub person: usize,
    /// Fewest bytes of one message.
    pub min_message: u64,
    /// Most bytes of one message, or of output of a KDF.
    pub max_message: u64,
    /// Bits of security with the best key.
    pub strength: u32,
    /// Why a policy may refuse it.
    pub weak: Option<&'static str>,
    /// Approved in FIPS 140-3 modules.
    pub fips: bool,
    /// A key serves for one message only.
    pub one_time_key: bool,
    /// Bytes of a segment of a streaming format.
    pub segment: usize,
    /// Bytes of the key that a streaming format derives.
    pub derived_key: usize,
    /// The KDF of a streaming format.
    pub hkdf: Option<&'static str>,
    /// The AEAD of a streaming format.
    pub cipher: Option<&'static str>,
    /// The name that the kernel's AF_ALG takes.
    pub kernel: Option<&'static str>,
    /// OpenSSL's name; `*` stands for the key's bits, `A/B` for A over B.
    pub openssl: Option<&'static str>,
    /// OpenSSL's other names, object identifiers among them; `*` as above, and `1|21|41` for the last part of
    /// an identifier that depends on the size of the key.
    pub openssl_aliases: &'static [&'static str],
    /// OpenSSL's names of a hash that takes a key, as a MAC.
    pub openssl_mac: &'static [&'static str],
    /// OpenSSL's names of a generator as this door's own, whose engines seed themselves.
    pub openssl_rand: &'static [&'static str],
    /// hashlib's name.
    pub hashlib: Option<&'static str>,
    /// The PKCS#11 mechanism.
    pub pkcs11: Option<Pkcs11>,
    /// The number in cryptodev-linux's `/dev/crypto`.
    pub cryptodev: Option<u32>,
    /// The numbers in virtio-crypto.
    pub virtio: Option<Virtio>,
    /// The engine that is faster on some CPUs.
    pub faster: Option<Faster>,
    /// Of a pair: bits of the key; `max` 0 for all else.
    pub bits: Sizes,
    /// The bits to make a key of when nobody says.
    pub bits_default: usize,
    /// Of a pair: sign, verify, encrypt, decrypt, agree, encapsulate, decapsulate.
    pub operations: &'static [&'static str],
    /// The hash that a pair signs and pads with when nobody says.
    pub default_hash: Option<&'static str>,
    /// The hashes that a pair signs and pads with; none where it has its own.
    pub hashes: &'static [&'static str],
    /// Bits of security from so many bits of the key on, rising; none where `strength` says it all.
    pub strengths: &'static [(usize, u32)],
    /// The PKCS#11 key type of a pair.
    pub key_type: Option<Pkcs11>,
    /// Further PKCS#11 mechanisms of a pair.
    pub mechanisms: &'static [Pkcs11],
    /// Known answers, checked before an engine serves the algorithm.
    pub tests: &'static [Test],
}

impl Algorithm {
    /// The part before the parenthesis: `hmac` of `hmac(sha256)`, `sha256` of `sha256`.
    pub fn template(&self) -> &'static str {
        // Asked for with each message.
        let open = self.name.bytes().position(|byte| byte == b'(');
        open.map_or(self.name, |open| &self.name[..open])
    }

    /// The part within the outermost parentheses: `sha256` of `hmac(sha256)`.
    pub fn inner(&self) -> Option<&'static str> {
        let open = self.name.find('(')?;
        Some(&self.name[open + 1..self.name.len() - 1])
    }

    /// The hash at the heart of a MAC or KDF: `sha256` of `pbkdf2(hmac(sha256))`.
    pub fn hash(&self) -> Option<&'static str> {
        let inner = self.inner()?;
        Some(
            inner
                .strip_prefix("hmac(")
                .and_then(|rest| rest.strip_suffix(')'))
                .unwrap_or(inner),
        )
    }

    /// Whether a key (and, for GMAC, its nonce, which is the session's) authenticates one message only.
    pub fn one_message(&self) -> bool {
        self.one_time_key || (self.kind == Kind::Mac && self.iv.max > 0)
    }

    /// Whether it needs a key at all (BLAKE2 may have one).
    pub fn takes_key(&self) -> bool {
        self.key.max > 0 || self.kind == Kind::Pair
    }

    /// Whether a pair does `operation` at all.
    pub fn does(&self, operation: &str) -> bool {
        self.operations.contains(&operation)
    }

    /// Bits of security of a key of `bits` bits (SP 800-57 part 1, tables 2 and 4).
    pub fn strength_of(&self, bits: usize) -> u32 {
        if self.kind == Kind::Pair {
            let known = self.strengths.iter().rev().find(|(from, _)| bits >= *from);
            return match known {
                Some((_, strength)) => *strength,
                None if self.strengths.is_empty() => self.strength,
                None => 0,
            };
        }
        // An XTS key is two keys.
        let bits = if self.template() == "xts" {
            bits / 2
        } else {
            bits
        };
        self.strength.min(u32::try_from(bits).unwrap_or(u32::MAX))
    }
}

/// Every algorithm, in the table's order.
pub static ALGORITHMS: &[Algorithm] = include!(concat!(env!("OUT_DIR"), "/algorithms.rs"));

/// The algorithm of this name or alias; ENOENT where there is none.
pub fn find(name: &str) -> Result<&'static Algorithm> {
    ALGORITHMS
        .iter()
        .find(|a| a.name == name || a.aliases.contains(&name))
        .ok_or_else(|| Error::unknown_algorithm(name))
}
