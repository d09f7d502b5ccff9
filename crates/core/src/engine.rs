//! What an engine is, and the kinds of work that it can give.

use crate::engines::kernel::Adopted;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::sys::buffer::{Input, Output};
use crate::table::Algorithm;

/// Where an engine is asked to do the work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hardware {
    /// Whatever the preferences' order gives.
    #[default]
    Any,
    /// Hardware when there is any, software when there is none.
    Prefer,
    /// Hardware or nothing.
    Require,
    /// Software only.
    Forbid,
}

impl Hardware {
    /// The word that people write.
    pub fn name(self) -> &'static str {
        match self {
            Hardware::Any => "any",
            Hardware::Prefer => "prefer",
            Hardware::Require => "require",
            Hardware::Forbid => "forbid",
        }
    }

    /// From the word that people write.
    pub fn parse(word: &str) -> Result<Hardware> {
        match word {
            "any" => Ok(Hardware::Any),
            "prefer" => Ok(Hardware::Prefer),
            "require" => Ok(Hardware::Require),
            "forbid" => Ok(Hardware::Forbid),
            _ => Err(Error::invalid(format!(
                "hardware={word:?}: one of any, prefer, require, forbid"
            ))),
        }
    }
}

/// A session's key.
#[derive(Clone, Debug, Default)]
pub enum Key {
    /// None (hashes, random bytes).
    #[default]
    None,
    /// Bytes that the program holds.
    Bytes(Secret),
    /// A key in the kernel's keyring, by serial number; only the kernel reads it.
    Serial(i32),
    /// A key behind an AF_ALG socket that another process made; only the kernel knows it.
    Adopted(Adopted),
}

impl Key {
    /// The bytes; empty where there is no key. An engine that needs bytes and gets a serial number
    /// does not offer the session.
    pub fn bytes(&self) -> Result<&[u8]> {
        match self {
            Key::None => Ok(&[]),
            Key::Bytes(secret) => Ok(secret.expose()),
            Key::Serial(serial) => Err(Error::not_offered(format!(
                "key {serial} is in the kernel's keyring: only the kernel can use it"
            ))),
            Key::Adopted(_) => Err(Error::not_offered(
                "the key is behind an AF_ALG socket: only the kernel can use it",
            )),
        }
    }
}

/// BLAKE2's parameters beyond key and digest size (RFC 7693, section 2.5; the BLAKE2 paper, 2.8).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Blake2 {
    pub salt: Vec<u8>,
    pub person: Vec<u8>,
    pub fanout: u8,
    pub depth: u8,
    pub leaf_size: u32,
    pub node_offset: u64,
    pub node_depth: u8,
    pub inner_size: u8,
    pub last_node: bool,
}

impl Default for Blake2 {
    fn default() -> Self {
        Blake2 {
            salt: Vec::new(),
            person: Vec::new(),
            fanout: 1,
            depth: 1,
            leaf_size: 0,
            node_offset: 0,
            node_depth: 0,
            inner_size: 0,
            last_node: false,
        }
    }
}

/// What belongs to a session besides algorithm and key. All of it is validated before an engine sees it.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    /// Bytes of an AEAD's or MAC's tag; `None`: the algorithm's own.
    pub tag_size: Option<usize>,
    /// Bytes of a hash, where there is a choice.
    pub digest_size: Option<usize>,
    /// PKCS#7 padding. Done by the session, the same for every engine.
    pub pkcs7: bool,
    /// A nonce that belongs to the session (GMAC).
    pub iv: Vec<u8>,
    /// BLAKE2's; `None` for its defaults and for all others.
    pub blake2: Option<Blake2>,
}

/// All that an engine is told.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What is computed.
    pub algorithm: &'static Algorithm,
    /// With which key.
    pub key: Key,
    /// With which parameters.
    pub parameters: Parameters,
    /// By which driver, if the caller named one.
    pub driver: Option<String>,
    /// On hardware or not. `Prefer` and `Any` leave the engine its choice; prefer hardware in the first.
    pub hardware: Hardware,
    /// By a validated module only.
    pub fips: bool,
}

impl Spec {
    /// A session with nothing but an algorithm and a key.
    pub fn new(algorithm: &'static Algorithm, key: Key) -> Spec {
        Spec {
            algorithm,
            key,
            parameters: Parameters::default(),
            driver: None,
            hardware: Hardware::Any,
            fips: false,
        }
    }

    /// Bytes of the tag.
    pub fn tag_size(&self) -> usize {
        self.parameters.tag_size.unwrap_or(self.algorithm.tag)
    }

    /// Bytes of the digest (of a MAC: before it is cut to the tag size).
    pub fn digest_size(&self) -> usize {
        self.parameters.digest_size.unwrap_or(self.algorithm.digest)
    }
}

/// Encrypt or decrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Direction {
    Encrypt,
    Decrypt,
}

/// A running hash or MAC.
pub trait Digest: Send + Sync {
    /// Takes more input.
    fn update(&mut self, data: Input<'_>) -> Result<()>;

    /// Fills `out` (a hash's or MAC's whole size, any length of an XOF) and leaves the state fit only
    /// for `reset` and dropping.
    fn finish(&mut self, out: &mut [u8]) -> Result<()>;

    /// An independent copy of the state. EOPNOTSUPP where the engine cannot.
    fn fork(&self) -> Result<Box<dyn Digest>>;

    /// Back to the (keyed) beginning.
    fn reset(&mut self) -> Result<()>;
}

/// A hash or MAC that is ready to begin.
pub trait Hashing: Send + Sync {
    /// A fresh (keyed) state.
    fn begin(&self) -> Result<Box<dyn Digest>>;

    /// All at once; engines override it where that is faster.
    fn once(&self, data: Input<'_>, out: &mut [u8]) -> Result<()> {
        let mut state = self.begin()?;
        state.update(data)?;
        state.finish(out)
    }
}

/// An AEAD with its key. IV size, tag size and lengths have been validated against the table.
pub trait Aead: Send + Sync {
    /// `out` is `data` plus the tag long; it may be the same memory as `data`, never a part of it.
    fn seal(&self, iv: &[u8], aad: Input<'_>, data: Input<'_>, out: Output<'_>) -> Result<()>;

    /// `out` is `data` less the tag long; same memory as above. EBADMSG leaves it wiped.
    fn unseal(&self, iv: &[u8], aad: Input<'_>, data: Input<'_>, out: Output<'_>) -> Result<()>;

    /// A message in pieces, for `session::Unchecked`.
    fn begin(&self, _direction: Direction, _iv: &[u8]) -> Result<Box<dyn AeadStream>> {
        Err(Error::elsewhere("an AEAD of whole messages only"))
    }
}

/// A running AEAD, which gives what it has before its tag was seen.
pub trait AeadStream: Send + Sync {
    /// Another message under the same key.
    fn begin_again(&mut self, direction: Direction, iv: &[u8]) -> Result<()>;

    /// Associated data; all of it before the message.
    fn aad(&mut self, data: Input<'_>) -> Result<()>;

    /// Same length in and out; the same memory or apart.
    fn update(&mut self, data: Input<'_>, out: Output<'_>) -> Result<()>;

    /// Ends: the tag of what was encrypted.
    fn tag(&mut self, tag: &mut [u8; 16]) -> Result<()>;

    /// Ends: EBADMSG if `tag`, of 1 to 16 bytes, is not the beginning of the tag of what was decrypted.
    fn verify(&mut self, tag: &[u8]) -> Result<()>;

    /// An independent copy.
    fn fork(&self) -> Result<Box<dyn AeadStream>>;
}

/// A cipher without authentication, with its key.
pub trait Cipher: Send + Sync {
    /// A running message.
    fn begin(&self, direction: Direction, iv: &[u8]) -> Result<Box<dyn CipherStream>>;

    /// A whole message; `out` is as long as `data`, may be the same memory, never a part of it.
    fn once(
        &self,
        direction: Direction,
        iv: &[u8],
        data: Input<'_>,
        out: Output<'_>,
    ) -> Result<()> {
        self.begin(direction, iv)?.update(data, out, true)
    }
}

/// A running cipher. The session cuts: every `data` but the last is whole blocks.
pub trait CipherStream: Send + Sync {
    /// Same length in and out; `last` closes the message.
    fn update(&mut self, data: Input<'_>, out: Output<'_>, last: bool) -> Result<()>;

    /// Another message under the same key, if that is cheaper than another `begin`; whether it is begun.
    fn begin_again(&mut self, _direction: Direction, _iv: &[u8]) -> bool {
        false
    }
}

/// A key-wrapping key.
pub trait KeyWrap: Send + Sync {
    /// The wrapped key.
    fn wrap(&self, key: &[u8]) -> Result<Vec<u8>>;

    /// The key, or EBADMSG.
    fn unwrap(&self, wrapped: &[u8]) -> Result<Secret>;
}

/// The inputs of a derivation besides the key.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Derivation<'a> {
    pub salt: &'a [u8],
    /// HKDF's info; SP 800-108's fixed input.
    pub info: &'a [u8],
    pub iterations: u32,
    /// scrypt's cost, block size and parallelism.
    pub n: u64,
    pub r: u32,
    pub p: u32,
}

/// A key that others derive from.
pub trait Kdf: Send + Sync {
    /// Fills `out`.
    fn derive(&self, with: &Derivation<'_>, out: &mut [u8]) -> Result<()>;
}

/// How RSA pads; the one way of all other algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// PKCS#1 v1.5 (RFC 8017, sections 8.2 and 7.2).
    Pkcs1,
    /// RSASSA-PSS with MGF1 over the same hash (section 8.1).
    Pss,
    /// RSAES-OAEP with MGF1 over the same hash (section 7.1).
    Oaep,
    /// No padding: the numbers themselves (section 5).
    Raw,
    /// The algorithm's own: ECDSA, Ed25519, ML-DSA.
    Own,
}

/// How a signature is made or checked. Validated before an engine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signing {
    /// The padding.
    pub scheme: Scheme,
    /// The hash. `None` where the algorithm has its own, and for a prehashed message that PKCS#1 v1.5
    /// (which then names no hash either) or ECDSA takes as it is.
    pub hash: Option<&'static str>,
    /// Bytes of PSS's salt.
    pub salt_length: usize,
    /// The data is the digest already.
    pub prehashed: bool,
}

/// How RSA encrypts. Validated before an engine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Padding<'a> {
    pub scheme: Scheme,
    /// OAEP's hash; `None` for the others.
    pub hash: Option<&'static str>,
    /// OAEP's label.
    pub label: &'a [u8],
}

/// A private key and its public half, or the public half alone. The session asks for no more than the key
/// can: nothing private of a public key, nothing that the table does not name for the algorithm. Peers and
/// lengths have been validated.
pub trait Pair: Send + Sync {
    /// The signature, in DER for ECDSA. `data` is read once, or is private memory.
    fn sign(&self, how: &Signing, data: Input<'_>) -> Result<Vec<u8>>;

    /// Ok if the signature is `data`'s, EKEYREJECTED otherwise, whatever is wrong with it.
    fn verify(&self, how: &Signing, data: Input<'_>, signature: &[u8]) -> Result<()>;

    /// RSA: the ciphertext, as long as the modulus.
    fn encrypt(&self, how: &Padding<'_>, data: &[u8]) -> Result<Vec<u8>>;

    /// RSA: the plaintext, or EBADMSG. Under PKCS#1 v1.5 a bad padding must look like a good one (implicit
    /// rejection): an engine that cannot do that leaves the request to another.
    fn decrypt(&self, how: &Padding<'_>, data: &[u8]) -> Result<Secret>;

    /// The secret shared with the peer of this SubjectPublicKeyInfo, which is of the same group: the x
    /// coordinate, or X25519's output, which is refused (EINVAL) where it is zero.
    fn agree(&self, peer: &[u8]) -> Result<Secret>;

    /// A fresh ciphertext and the secret in it.
    fn encapsulate(&self) -> Result<(Vec<u8>, Secret)>;

    /// The secret in a ciphertext of the right size; of a forged one, another (implicit rejection, FIPS 203).
    fn decapsulate(&self, ciphertext: &[u8]) -> Result<Secret>;
}

/// Random bytes.
pub trait Random: Send + Sync {
    /// Fills `out`, however long.
    fn fill(&self, out: &mut [u8]) -> Result<()>;
}

/// One of the kinds of work.
#[allow(missing_docs)]
pub enum Work {
    Hashing(Box<dyn Hashing>),
    Aead(Box<dyn Aead>),
    Cipher(Box<dyn Cipher>),
    Wrap(Box<dyn KeyWrap>),
    Kdf(Box<dyn Kdf>),
    Pair(Box<dyn Pair>),
    Random(Box<dyn Random>),
}

/// What an engine answers to `open`.
pub struct Opened {
    /// The work.
    pub work: Work,
    /// The implementation that does it: `aws-lc`, `cbc-aes-aesni`.
    pub driver: String,
    /// Whether `driver` is a fact, or only the likely one (the engine bound by algorithm name).
    pub driver_certain: bool,
    /// Whether it is hardware off the CPU.
    pub hardware: bool,
    /// Whether a validated module does it.
    pub fips: bool,
}

/// Something that can compute.
pub trait Engine: Send + Sync {
    /// `software`, `openssl`, `kernel`.
    fn name(&self) -> &'static str;

    /// Whether it is there, and what it is (`AWS-LC 5.11`, `OpenSSL 3.0.19, FIPS provider none`); an
    /// error says why it is not. Cheap after the first time.
    fn probe(&self) -> Result<String>;

    /// Opens work for `spec`. `Error::not_offered` with the reason where it cannot: the next engine is
    /// asked. Never panics, never prints.
    fn open(&self, spec: &Spec) -> Result<Opened>;
}
