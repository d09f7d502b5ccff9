//! What all ciphers share (provider-cipher(7)): the list of them, their facts, and what a context does.

use crate::context::Provider;
use crate::error::{Error, Reason, Result};
use crate::family;
use crate::ffi::params::{Asked, Given};
use crate::measure::Job;
use crate::names;
use crate::secret_key::SecretKey;
use cryptofd_core::engine::Direction;
use cryptofd_core::sys::buffer::{Input, Output};
use cryptofd_core::table::{ALGORITHMS, Algorithm};
use std::sync::{Arc, OnceLock};

/// How a cipher is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Whole blocks, padded or not: ECB, CBC.
    Blocks,
    /// Any length at any time: CTR, CFB, ChaCha20.
    Stream,
    /// Each update a data unit: XTS.
    Unit,
    /// Each update a key: KW, KWP.
    Wrap,
    /// An AEAD in pieces: GCM, ChaCha20-Poly1305.
    Pieces,
    /// An AEAD whose message is one piece: CCM, GCM-SIV.
    Message,
}

/// One cipher with one size of key.
pub struct Variant {
    pub algorithm: &'static Algorithm,
    pub way: Way,
    /// OpenSSL's names.
    names: String,
    /// EVP_CIPH_*_MODE.
    mode: u32,
    /// Bytes of the key.
    pub key: usize,
    /// Bytes of the block, as OpenSSL counts them.
    pub block: usize,
    /// Bytes of the IV when nobody says.
    pub iv: usize,
}

fn variant(algorithm: &'static Algorithm, bits: usize, names: String) -> Option<Variant> {
    let (way, mode, block, iv) = match algorithm.template() {
        "ecb" => (Way::Blocks, 1, algorithm.block, 0),
        "cbc" => (Way::Blocks, 2, algorithm.block, algorithm.iv.max),
        "cfb" => (Way::Stream, 3, 1, algorithm.iv.max),
        "ctr" => (Way::Stream, 5, 1, algorithm.iv.max),
        "chacha20" => (Way::Stream, 0, 1, algorithm.iv.max),
        "gcm" => (Way::Pieces, 6, 1, 12),
        "rfc7539" => (Way::Pieces, 0, 1, 12),
        "ccm" => (Way::Message, 7, 1, 7),
        "gcm-siv" => (Way::Message, 0x10005, 1, 12),
        "xts" => (Way::Unit, 0x10001, 1, algorithm.iv.max),
        "kw" => (Way::Wrap, 0x10002, 8, 8),
        "kwp" => (Way::Wrap, 0x10002, 8, 4),
        _ => return None,
    };
    let key = match bits {
        0 => algorithm.key.max,
        // Two keys, called by the size of one.
        bits if algorithm.template() == "xts" => bits / 4,
        bits => bits / 8,
    };
    Some(Variant {
        algorithm,
        way,
        names,
        mode,
        key,
        block,
        iv,
    })
}

/// The ciphers, each with each size of key, in the table's order.
pub fn variants() -> &'static [Variant] {
    static ALL: OnceLock<Vec<Variant>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = Vec::new();
        for algorithm in ALGORITHMS {
            for (place, bits) in names::key_bits(algorithm).into_iter().enumerate() {
                let named = names::of(algorithm, bits, place);
                all.extend(named.and_then(|names| variant(algorithm, bits, names)));
            }
        }
        all
    })
}

/// What is advertised.
pub fn algorithms() -> Vec<family::Algorithm> {
    let all = variants().iter().enumerate().map(|(place, variant)| {
        let functions = crate::ffi::cipher::functions(place);
        let text = format!("cryptofd's {}", variant.algorithm.name);
        let made = family::Algorithm::new(&variant.names, functions, &text);
        if variant.way == Way::Wrap {
            return made;
        }
        let job = Job::Cipher {
            key: variant.key,
            iv: variant.iv,
            way: variant.way,
        };
        let routed = family::Routed {
            place,
            functions: crate::ffi::routed::ciphers,
            cipher: Some((variant.way, variant.chained())),
        };
        made.measured(Some(job), Some(routed))
    });
    all.collect()
}

/// Those that a key of the broker's works with. What wraps keys does so for the broker alone.
pub fn by_reference() -> Vec<family::Algorithm> {
    family::by_reference(algorithms(), |place| variants()[place].way != Way::Wrap)
}

impl Variant {
    /// The chief of its names.
    pub fn chief(&self) -> &str {
        self.names.split(':').next().unwrap_or_default()
    }

    /// Whether it is an AEAD.
    pub fn aead(&self) -> bool {
        matches!(self.way, Way::Pieces | Way::Message)
    }

    /// Whether a message without an IV of its own begins with the one before; with others, counters go on.
    pub fn chained(&self) -> bool {
        matches!(self.algorithm.template(), "cbc" | "cfb")
    }

    /// Whether it makes keys of its own kind (DES, whose keys have parity).
    pub fn makes_keys(&self) -> bool {
        self.algorithm.name == "cbc(des3_ede)"
    }

    /// Facts of the cipher.
    pub fn get_params(&self, asked: &mut Asked<'_>) -> Result<()> {
        let custom = self.aead()
            || matches!(self.way, Way::Wrap | Way::Unit)
            || self.algorithm.template() == "chacha20";
        asked.answer(|key, slot| match key.to_bytes() {
            b"mode" => slot.integer(self.mode.into()),
            b"keylen" => slot.size(self.key),
            b"ivlen" => slot.size(self.iv),
            b"blocksize" => slot.size(self.block),
            b"aead" => slot.integer(self.aead().into()),
            b"custom-iv" => slot.integer(custom.into()),
            b"cts" | b"tls-multi" => slot.integer(0),
            b"has-randkey" => slot.integer(self.makes_keys().into()),
            _ => Ok(()),
        })
    }
}

/// What a context of a cipher does.
pub trait Running: Sized {
    /// Not begun.
    fn new(variant: &'static Variant) -> Self;
    /// Begins; what is not given stays as it was.
    fn init(
        &mut self,
        provider: &Provider,
        direction: Direction,
        key: Option<&[u8]>,
        iv: Option<&[u8]>,
        params: Given<'_>,
    ) -> Result<()>;
    /// Takes a key of the broker's; the rest stays as it was.
    fn keep(&mut self, key: Arc<SecretKey>) -> Result<()>;
    /// Whether a worker is asked, which may take locks.
    fn asks(&self) -> bool;
    /// Goes on; bytes that it gave. Without `out` it is associated data (or, to wrap, a question).
    fn update(
        &mut self,
        data: Option<Input<'_>>,
        length: usize,
        out: Option<Output<'_>>,
    ) -> Result<usize>;
    /// Ends; bytes that it gave.
    fn finish(&mut self, out: Output<'_>) -> Result<usize>;
    /// EVP_Cipher(): the same without padding, and without data the end.
    fn once(
        &mut self,
        data: Option<Input<'_>>,
        length: usize,
        out: Option<Output<'_>>,
    ) -> Result<usize>;
    /// Parameters of the program's.
    fn set_params(&mut self, provider: &Provider, params: Given<'_>) -> Result<()>;
    /// Answers.
    fn get_params(&mut self, provider: &Provider, asked: &mut Asked<'_>) -> Result<()>;
    /// Another that goes on from here.
    fn fork(&self) -> Result<Self>;
}

/// There is no key yet.
#[cold]
pub fn no_key(variant: &Variant) -> Error {
    Error::new(
        Reason::NO_KEY_SET,
        format!("{} has no key", variant.chief()),
    )
}

/// The operation failed.
#[cold]
pub fn failed(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Reason::CIPHER_OPERATION_FAILED, text)
}

/// Refuses a key of another size.
pub fn check_key(variant: &Variant, key: &[u8]) -> Result<()> {
    if key.len() == variant.key {
        return Ok(());
    }
    Err(Error::new(
        Reason::INVALID_KEY_LENGTH,
        format!(
            "a key of {} bytes: {} takes {}",
            key.len(),
            variant.chief(),
            variant.key
        ),
    ))
}

/// Refuses an IV of this size.
#[cold]
pub fn wrong_iv(variant: &Variant, size: usize) -> Error {
    Error::new(
        Reason::INVALID_IV_LENGTH,
        format!("an iv of {size} bytes for {}", variant.chief()),
    )
}

/// The part of `out` that a result of this length takes.
pub fn room<'a>(out: Output<'a>, length: usize) -> Result<Output<'a>> {
    if out.len() < length {
        return Err(Error::new(
            Reason::OUTPUT_TOO_SMALL,
            format!("room for {} bytes where {length} are needed", out.len()),
        ));
    }
    Ok(out.split_at(length).0)
}
