//! Signatures: made by the worker, checked here. A message that is at hand as a whole is hashed by the worker;
//! of a longer one that comes in pieces the digest is sent, if the key may sign digests (`sign-digest`), and
//! else the whole, up to a limit.

use crate::error::{Error, Reason, Result};
use crate::ffi::params::{Asked, Given, Value};
use crate::identifier;
use crate::key::Key;
use crate::names;
use cryptofd_core::error::Kind as CoreKind;
use cryptofd_core::pair::Options;
use cryptofd_core::session::{Hasher, Request, Session};
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::table::Algorithm;
use std::sync::Arc;

/// Bytes of a message in pieces up to which it is kept, to be sent as a whole.
const SHORT: usize = 64 << 10;
/// The same where the key signs no digest.
const WHOLE: usize = 64 << 20;

/// Make or check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Sign,
    Verify,
}

/// What is given: a message, or what its hash gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Message,
    Digest,
}

/// RSA's paddings, by OpenSSL's numbers and words (rsa.h, core_names.h).
const PADDINGS: [(&str, i128, &str); 3] =
    [("pkcs1", 1, "pkcs1"), ("none", 3, "raw"), ("pss", 6, "pss")];

/// Bytes of PSS's salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Salt {
    /// As many as the digest's.
    Digest,
    /// Making: as many as fit; checking: whatever it has.
    Auto,
    /// As many as fit.
    Max,
    /// As many as fit and the digest's at most; checking: whatever it has.
    AutoDigestMax,
    Bytes(usize),
}

/// OpenSSL's numbers and words for them.
const SALTS: [(&str, i128, Salt); 4] = [
    ("digest", -1, Salt::Digest),
    ("auto", -2, Salt::Auto),
    ("max", -3, Salt::Max),
    ("auto-digestmax", -4, Salt::AutoDigestMax),
];

/// A signature under way.
pub struct Signing {
    key: Option<Arc<Key>>,
    side: Side,
    subject: Subject,
    hash: Option<&'static Algorithm>,
    scheme: &'static str,
    salt: Salt,
    mgf1: Option<&'static Algorithm>,
    came: Vec<u8>,
    hashing: Option<Hasher>,
}

fn wrong(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Reason::INVALID, text)
}

fn hash_named(name: &str) -> Result<&'static Algorithm> {
    names::digest(name).ok_or_else(|| {
        Error::new(
            Reason::UNKNOWN_ALGORITHM,
            format!("digest {name:?}: none of those that keys sign with"),
        )
    })
}

/// A choice that may come as a number or as a word.
fn choice<T: Copy>(value: &Value<'_>, all: &[(&str, i128, T)]) -> Result<Option<T>> {
    if let Ok(text) = value.text() {
        return Ok(all.iter().find(|(word, ..)| *word == text).map(|one| one.2));
    }
    let number = value.integer()?;
    Ok(all
        .iter()
        .find(|(_, own, _)| *own == number)
        .map(|one| one.2))
}

impl Default for Signing {
    fn default() -> Signing {
        Signing {
            key: None,
            side: Side::Sign,
            subject: Subject::Digest,
            hash: None,
            scheme: "pkcs1",
            salt: Salt::Auto,
            mgf1: None,
            came: Vec::new(),
            hashing: None,
        }
    }
}

impl Signing {
    /// Another that goes on from here.
    pub fn fork(&self) -> Result<Signing> {
        Ok(Signing {
            key: self.key.clone(),
            came: self.came.clone(),
            hashing: match &self.hashing {
                Some(hashing) => Some(hashing.fork()?),
                None => None,
            },
            ..*self
        })
    }

    /// Begins; without a key it goes on with the one it has.
    pub fn begin(
        &mut self,
        side: Side,
        subject: Subject,
        key: Option<Arc<Key>>,
        hash: Option<&str>,
        params: Given<'_>,
    ) -> Result<()> {
        if let Some(key) = key {
            if side == Side::Sign && !key.is_private() {
                return Err(Error::new(
                    Reason::MISSING_KEY,
                    "this is a public key: the private one signs",
                ));
            }
            let does = key.numbers()?.algorithm(false)?.does("sign");
            if !does {
                return Err(Error::new(
                    Reason::UNSUPPORTED,
                    "keys of this type do not sign",
                ));
            }
            self.key = Some(key);
        }
        self.side = side;
        self.subject = subject;
        self.came.clear();
        self.hashing = None;
        self.key()?;
        if subject == Subject::Message {
            self.hash = None;
        }
        if let Some(name) = hash.filter(|name| !name.is_empty()) {
            self.set_hash(name)?;
        }
        self.set(params)?;
        if subject == Subject::Message && self.hash.is_none() {
            let algorithm = self.algorithm()?;
            if let Some(name) = algorithm.default_hash {
                self.hash = Some(cryptofd_core::table::find(name)?);
            }
        }
        Ok(())
    }

    fn key(&self) -> Result<&Arc<Key>> {
        self.key
            .as_ref()
            .ok_or_else(|| Error::new(Reason::NO_KEY_SET, "no key was set"))
    }

    fn algorithm(&self) -> Result<&'static Algorithm> {
        self.key()?.numbers()?.algorithm(false)
    }

    fn is_rsa(&self) -> bool {
        self.algorithm()
            .is_ok_and(|algorithm| algorithm.name == "rsa")
    }

    fn set_hash(&mut self, name: &str) -> Result<()> {
        let algorithm = self.algorithm()?;
        if algorithm.hashes.is_empty() {
            return Err(wrong(format!(
                "digest {name:?}: {} has its own",
                algorithm.name
            )));
        }
        let hash = hash_named(name)?;
        if !algorithm.hashes.contains(&hash.name) {
            return Err(wrong(format!(
                "digest {name:?}: {} takes {}",
                algorithm.name,
                algorithm.hashes.join(", ")
            )));
        }
        if self.hash.is_some_and(|old| old.name != hash.name) && !self.came.is_empty() {
            return Err(Error::new(
                Reason::OUT_OF_ORDER,
                "the digest is set too late",
            ));
        }
        self.hash = Some(hash);
        Ok(())
    }

    /// Parameters that a program sets.
    pub fn set(&mut self, params: Given<'_>) -> Result<()> {
        for value in params.iter() {
            match value.key().to_bytes() {
                b"digest" if self.key.is_some() => {
                    let name = value.text()?;
                    if !name.is_empty() {
                        self.set_hash(name)?;
                    }
                }
                b"pad-mode" if self.is_rsa() => {
                    self.scheme = choice(&value, &PADDINGS)?.ok_or_else(|| {
                        wrong("pad-mode: signatures are made with pkcs1, pss or none")
                    })?;
                }
                b"saltlen" if self.is_rsa() => {
                    let known = choice(&value, &SALTS)?;
                    let bytes = match value.text() {
                        Ok(text) => text.parse().ok(),
                        Err(_) => value.size().ok(),
                    };
                    self.salt = known.or(bytes.map(Salt::Bytes)).ok_or_else(|| {
                        wrong("saltlen: bytes, digest, max, auto or auto-digestmax")
                    })?;
                }
                b"mgf1-digest" if self.is_rsa() => self.mgf1 = Some(hash_named(value.text()?)?),
                b"instance" if value.text()?.eq_ignore_ascii_case("Ed25519") => {}
                b"instance" | b"context-string" | b"deterministic" | b"mu" | b"test-entropy" => {
                    // Other signatures, under the same key.
                    let harmless = value.octets().is_ok_and(<[u8]>::is_empty)
                        || value.integer().is_ok_and(|number| number == 0);
                    if !harmless {
                        return Err(Error::new(
                            Reason::UNSUPPORTED,
                            format!("{}: not with this key", value.key().to_string_lossy()),
                        ));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What it tells.
    pub fn tell(&self, mut asked: Asked<'_>) -> Result<()> {
        asked.answer(|key, slot| match key.to_bytes() {
            b"algorithm-id" => {
                let numbers = self.key()?.numbers()?;
                let salt = (self.scheme == "pss")
                    .then(|| self.salt_made())
                    .transpose()?;
                slot.octets(&identifier::of(numbers, self.hash, salt)?)
            }
            b"digest" => slot.text(self.hash.map_or("", names::short)),
            b"mgf1-digest" => slot.text(self.mgf1.or(self.hash).map_or("", names::short)),
            b"pad-mode" => {
                let own = PADDINGS.iter().find(|one| one.2 == self.scheme);
                let (word, number, _) = own.copied().unwrap_or(PADDINGS[0]);
                if slot.is_text() {
                    slot.text(word)
                } else {
                    slot.integer(number)
                }
            }
            b"saltlen" => {
                let known = SALTS.iter().find(|one| one.2 == self.salt);
                match (self.salt, known) {
                    (Salt::Bytes(bytes), _) if slot.is_text() => slot.text(&bytes.to_string()),
                    (Salt::Bytes(bytes), _) => slot.size(bytes),
                    (_, Some((word, ..))) if slot.is_text() => slot.text(word),
                    (_, known) => slot.integer(known.map_or(-2, |one| one.1)),
                }
            }
            _ => Ok(()),
        })
    }

    /// Most bytes of the signature.
    pub fn size(&self) -> Result<usize> {
        Ok(self.key()?.numbers()?.most())
    }

    /// The most bytes of salt that fit (RFC 8017, 9.1.1, step 3).
    fn salt_most(&self) -> Result<usize> {
        let room = (self.key()?.numbers()?.bits() - 1).div_ceil(8);
        let digest = self.hash.map_or(0, |hash| hash.digest);
        Ok(room.saturating_sub(digest + 2))
    }

    /// Bytes of salt of a signature that is made.
    fn salt_made(&self) -> Result<usize> {
        let digest = self.hash.map_or(0, |hash| hash.digest);
        Ok(match self.salt {
            Salt::Digest => digest,
            Salt::Auto | Salt::Max => self.salt_most()?,
            Salt::AutoDigestMax => self.salt_most()?.min(digest),
            Salt::Bytes(bytes) => bytes,
        })
    }

    /// More of a message.
    pub fn update(&mut self, data: Input<'_>) -> Result<()> {
        if self.subject != Subject::Message {
            return Err(Error::new(
                Reason::OUT_OF_ORDER,
                "pieces are of a message: begin with EVP_DigestSignInit or EVP_DigestVerifyInit",
            ));
        }
        if let Some(hashing) = &mut self.hashing {
            return Ok(hashing.update(data)?);
        }
        let length = self.came.len().saturating_add(data.len());
        if length > SHORT && self.hash.is_some() && self.digests()? {
            let mut hashing = self.hasher()?;
            hashing.update(Input::from(&self.came))?;
            hashing.update(data)?;
            self.hashing = Some(hashing);
            self.came = Vec::new();
            return Ok(());
        }
        if length > WHOLE {
            return Err(Error::new(
                Reason::TOO_LARGE,
                format!(
                    "a message of more than {WHOLE} bytes in pieces: a key that may sign digests \
                     (usage sign-digest) signs any"
                ),
            ));
        }
        data.pieces(|piece| self.came.extend_from_slice(piece));
        Ok(())
    }

    /// Whether what is signed or checked may be a digest.
    fn digests(&self) -> Result<bool> {
        match self.side {
            Side::Verify => Ok(true),
            Side::Sign => self.key()?.may("sign-digest"),
        }
    }

    fn hasher(&self) -> Result<Hasher> {
        let hash = self.hash.ok_or_else(|| wrong("no digest was set"))?;
        let session = Session::open(Request {
            algorithm: hash.name.to_owned(),
            ..Request::default()
        })?;
        Ok(session.hasher()?)
    }

    fn digest_of(&self, message: &[u8]) -> Result<Vec<u8>> {
        let mut hasher = self.hasher()?;
        hasher.update(Input::from(message))?;
        finished(hasher)
    }

    /// How the data is to be signed, or checked: with this salt.
    fn options(&self, prehashed: bool, salt: Option<usize>) -> Result<Options<'static>> {
        let rsa = self.is_rsa();
        if self.scheme == "pss" && rsa {
            if self.hash.is_none() {
                return Err(wrong("pss takes a digest"));
            }
            if self
                .mgf1
                .is_some_and(|own| Some(own.name) != self.hash.map(|hash| hash.name))
            {
                return Err(Error::new(
                    Reason::UNSUPPORTED,
                    "pss with another digest in its mask than of the message",
                ));
            }
        }
        let none = prehashed && !self.algorithm()?.hashes.is_empty();
        Ok(Options {
            hash: self.hash.map(|hash| hash.name).or(none.then_some("none")),
            scheme: rsa.then_some(self.scheme),
            salt_length: salt.and_then(|bytes| u32::try_from(bytes).ok()),
            ..Options::default()
        })
    }

    fn is_pss(&self) -> bool {
        self.scheme == "pss" && self.is_rsa()
    }

    /// What came, as it is to be signed: data, and whether it is a digest.
    fn given(&mut self, last: Option<Input<'_>>) -> Result<(Vec<u8>, bool)> {
        if let Some(mut hashing) = self.hashing.take() {
            if let Some(last) = last {
                hashing.update(last)?;
            }
            return Ok((finished(hashing)?, true));
        }
        let mut data = std::mem::take(&mut self.came);
        if let Some(last) = last {
            last.pieces(|piece| data.extend_from_slice(piece));
        }
        Ok((data, self.subject == Subject::Digest))
    }

    /// The signature of what came, and of `last`.
    pub fn sign(&mut self, last: Option<Input<'_>>) -> Result<Vec<u8>> {
        let (mut data, mut prehashed) = self.given(last)?;
        let key = self.key()?.clone();
        if !prehashed && self.hash.is_some() && !key.may("sign")? && key.may("sign-digest")? {
            (data, prehashed) = (self.digest_of(&data)?, true);
        }
        if self.is_rsa() && self.scheme == "raw" {
            if !prehashed {
                return Err(wrong(
                    "without padding only a block of the modulus' size is signed",
                ));
            }
            return self.raw(&key, &data);
        }
        let salt = if self.is_pss() {
            Some(self.salt_made()?)
        } else {
            None
        };
        let options = self.options(prehashed, salt)?;
        key.with(|remote| remote.sign(Input::from(&data), prehashed, &options))
    }

    /// RSA without padding: what decryption makes of the block.
    fn raw(&self, key: &Key, block: &[u8]) -> Result<Vec<u8>> {
        use cryptofd_core::engine::Direction;
        let options = Options {
            scheme: Some("raw"),
            ..Options::default()
        };
        let done =
            key.with(|remote| remote.pair_crypt(Direction::Decrypt, Input::from(block), &options))?;
        Ok(done.to_vec())
    }

    /// What a signature of RSA's says that was signed: the digest where one was named, else what was padded, or the
    /// block.
    pub fn recover(&self, signature: &[u8]) -> Result<Vec<u8>> {
        let key = self.key()?;
        let bad = || Error::new(Reason::BAD_SIGNATURE, "this is no signature of this key's");
        let options = Options {
            scheme: Some("raw"),
            ..Options::default()
        };
        let made = key.publicly(|session| session.pair_encrypt(Input::from(signature), &options));
        let block = made.map_err(|error| match error.reason {
            // Another length, or a number beyond the modulus.
            Reason::INVALID | Reason::TOO_LARGE => bad(),
            _ => error,
        })?;
        match self.scheme {
            "raw" => return Ok(block),
            "pkcs1" => {}
            scheme => {
                let text = format!("{scheme}: its signatures do not say what was signed");
                return Err(Error::new(Reason::UNSUPPORTED, text));
            }
        }
        // RFC 8017, 9.2; all of it is public.
        let rest = block.strip_prefix(&[0, 1]).ok_or_else(bad)?;
        let padding = rest.iter().take_while(|byte| **byte == 0xff).count();
        let signed = match rest.get(padding..) {
            Some([0, signed @ ..]) if padding >= 8 => signed,
            _ => return Err(bad()),
        };
        let Some(hash) = self.hash else {
            return Ok(signed.to_vec());
        };
        let from = signed.len().checked_sub(hash.digest).ok_or_else(bad)?;
        let digest = &signed[from..];
        if identifier::digest_info(hash, digest)? != signed {
            return Err(bad());
        }
        Ok(digest.to_vec())
    }

    /// Whether it is the signature of what came, and of `last`.
    pub fn verify(&mut self, last: Option<Input<'_>>, signature: &[u8]) -> Result<bool> {
        let (data, prehashed) = self.given(last)?;
        let key = self.key()?.clone();
        if self.is_rsa() && self.scheme == "raw" {
            let options = Options {
                scheme: Some("raw"),
                ..Options::default()
            };
            let block =
                key.publicly(|session| session.pair_encrypt(Input::from(signature), &options))?;
            return Ok(prehashed && block == data);
        }
        let salts: Vec<Option<usize>> = match (self.is_pss(), self.salt) {
            (false, _) => vec![None],
            (true, Salt::Auto | Salt::AutoDigestMax) => {
                // Its own length stands nowhere: the likely ones first.
                let (digest, most) = (self.hash.map_or(0, |hash| hash.digest), self.salt_most()?);
                let rest = (0..=most).filter(|bytes| ![digest, most].contains(bytes));
                [digest, most].into_iter().chain(rest).map(Some).collect()
            }
            (true, _) => vec![Some(self.salt_made()?)],
        };
        for salt in salts {
            let options = self.options(prehashed, salt)?;
            let done = key.publicly(|session| {
                let checked =
                    session.verify_signature(Input::from(&data), prehashed, signature, &options);
                match checked {
                    Ok(()) => Ok(true),
                    Err(error) if error.kind() == CoreKind::BadSignature => Ok(false),
                    Err(error) => Err(error),
                }
            })?;
            if done {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn finished(mut hashing: Hasher) -> Result<Vec<u8>> {
    let mut out = vec![0; hashing.session().digest_size()];
    hashing.finish(&mut out)?;
    Ok(out)
}
