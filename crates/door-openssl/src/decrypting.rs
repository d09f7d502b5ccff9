//! What a private key opens besides signatures: RSA's ciphertexts, agreements, encapsulations. The other side
//! of each takes a public key, and is done in this process.

use crate::context::Provider;
use crate::error::{Error, Reason, Result};
use crate::ffi::params::{Asked, Given, Own};
use crate::ffi::types::op;
use crate::key::Key;
use crate::names;
use crate::pair::Numbers;
use cryptofd_core::engine::Direction;
use cryptofd_core::pair::Options;
use cryptofd_core::secret::Secret;
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::table::{Algorithm, Kind};
use std::sync::Arc;
use zeroize::Zeroizing;

/// RSA's paddings, by OpenSSL's numbers and words.
const PADDINGS: [(&str, i128, &str); 3] = [
    ("pkcs1", 1, "pkcs1"),
    ("none", 3, "raw"),
    ("oaep", 4, "oaep"),
];

fn no_key() -> Error {
    Error::new(Reason::NO_KEY_SET, "no key was set")
}

/// RSA, forth or back.
#[derive(Clone)]
pub struct Crypting {
    key: Option<Arc<Key>>,
    direction: Direction,
    scheme: &'static str,
    hash: Option<&'static Algorithm>,
    mgf1: Option<&'static Algorithm>,
    label: Vec<u8>,
}

impl Default for Crypting {
    fn default() -> Crypting {
        Crypting {
            key: None,
            direction: Direction::Encrypt,
            scheme: "pkcs1",
            hash: None,
            mgf1: None,
            label: Vec::new(),
        }
    }
}

impl Crypting {
    /// Begins, with OpenSSL's own padding.
    pub fn begin(
        &mut self,
        direction: Direction,
        key: Option<Arc<Key>>,
        params: Given<'_>,
    ) -> Result<()> {
        *self = Crypting {
            key: key.or(self.key.take()),
            direction,
            ..Crypting::default()
        };
        let key = self.key.as_ref().ok_or_else(no_key)?;
        if direction == Direction::Decrypt && !key.is_private() {
            return Err(Error::new(
                Reason::MISSING_KEY,
                "this is a public key: the private one decrypts",
            ));
        }
        self.set(params)
    }

    /// Parameters that a program sets.
    pub fn set(&mut self, params: Given<'_>) -> Result<()> {
        let hash = |name: &str| {
            names::digest(name)
                .ok_or_else(|| Error::new(Reason::UNKNOWN_ALGORITHM, format!("digest {name:?}")))
        };
        for value in params.iter() {
            match value.key().to_bytes() {
                b"pad-mode" => {
                    let text = value.text().ok();
                    let number = value.integer().ok();
                    let known = PADDINGS
                        .iter()
                        .find(|(word, own, _)| text == Some(*word) || number == Some(*own));
                    self.scheme = known
                        .ok_or_else(|| {
                            let text = "pad-mode: pkcs1, oaep or none with this key";
                            Error::new(Reason::UNSUPPORTED, text)
                        })?
                        .2;
                }
                b"digest" => self.hash = Some(hash(value.text()?)?),
                b"mgf1-digest" => self.mgf1 = Some(hash(value.text()?)?),
                b"oaep-label" => self.label = value.octets()?.to_vec(),
                _ => {}
            }
        }
        Ok(())
    }

    /// What it tells.
    pub fn tell(&self, mut asked: Asked<'_>) -> Result<()> {
        asked.answer(|key, slot| match key.to_bytes() {
            b"pad-mode" => {
                let own = PADDINGS.iter().find(|one| one.2 == self.scheme);
                let (word, number, _) = own.copied().unwrap_or(PADDINGS[0]);
                if slot.is_text() {
                    slot.text(word)
                } else {
                    slot.integer(number)
                }
            }
            b"digest" => slot.text(self.hash.map_or("SHA1", names::short)),
            b"mgf1-digest" => slot.text(self.mgf1.or(self.hash).map_or("SHA1", names::short)),
            b"oaep-label" => slot.octets(&self.label),
            _ => Ok(()),
        })
    }

    /// Most bytes of what comes out.
    pub fn size(&self) -> Result<usize> {
        Ok(self.key.as_ref().ok_or_else(no_key)?.numbers()?.most())
    }

    /// Does it.
    pub fn done(&self, data: Input<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let key = self.key.as_ref().ok_or_else(no_key)?;
        // RFC 8017's default, which is OpenSSL's.
        let hash = self.hash.map_or("sha1", |hash| hash.name);
        if self.mgf1.is_some_and(|own| own.name != hash) {
            return Err(Error::new(
                Reason::UNSUPPORTED,
                "oaep with another digest in its mask than of its label",
            ));
        }
        let oaep = self.scheme == "oaep";
        let options = Options {
            scheme: Some(self.scheme),
            hash: oaep.then_some(hash),
            label: (oaep && !self.label.is_empty()).then_some(&self.label),
            ..Options::default()
        };
        match self.direction {
            Direction::Encrypt => {
                key.publicly(|session| Ok(Zeroizing::new(session.pair_encrypt(data, &options)?)))
            }
            Direction::Decrypt => {
                key.with(|remote| remote.pair_crypt(Direction::Decrypt, data, &options))
            }
        }
    }
}

/// What is derived from a secret: X9.63's KDF (SEC 1, 3.6.1), as CMS wants it.
#[derive(Clone, Default)]
struct Deriving {
    hash: Option<&'static Algorithm>,
    /// Bytes that come out.
    length: usize,
    /// What goes in besides: user keying material.
    info: Vec<u8>,
}

/// The one KDF that OpenSSL's own agreements know.
const KDF: &str = "X963KDF";

/// An agreement on a secret.
#[derive(Clone, Default)]
pub struct Agreeing {
    key: Option<Arc<Key>>,
    peer: Option<Arc<Key>>,
    derives: bool,
    deriving: Deriving,
}

impl Agreeing {
    /// Begins.
    pub fn begin(&mut self, key: Option<Arc<Key>>, params: Given<'_>) -> Result<()> {
        if let Some(key) = key {
            if !key.is_private() {
                return Err(Error::new(
                    Reason::MISSING_KEY,
                    "this is a public key: the private one agrees",
                ));
            }
            self.key = Some(key);
        }
        self.peer = None;
        self.derives = false;
        self.key.as_ref().ok_or_else(no_key)?;
        self.set(params)
    }

    /// Parameters that a program sets. The curves here have no cofactor.
    pub fn set(&mut self, params: Given<'_>) -> Result<()> {
        for value in params.iter() {
            match value.key().to_bytes() {
                b"kdf-type" => {
                    let name = value.text()?;
                    let key = self.key.as_ref().ok_or_else(no_key)?;
                    let curve = matches!(key.numbers()?.numbers, Numbers::Ec { .. });
                    self.derives = match name {
                        "" => false,
                        name if curve && name.eq_ignore_ascii_case(KDF) => true,
                        name => {
                            let text = format!(
                                "kdf-type {name:?}: ECDH has {KDF}; with others, agree on the secret, and \
                                 derive from it with EVP_KDF"
                            );
                            return Err(Error::new(Reason::UNSUPPORTED, text));
                        }
                    };
                }
                b"kdf-digest" => {
                    let name = value.text()?;
                    let hash = names::digest(name).filter(|hash| hash.kind == Kind::Hash);
                    self.deriving.hash = Some(hash.ok_or_else(|| {
                        let text = format!("kdf-digest {name:?}: none of those there are");
                        Error::new(Reason::UNKNOWN_ALGORITHM, text)
                    })?);
                }
                b"kdf-outlen" => self.deriving.length = value.size()?,
                b"kdf-ukm" => self.deriving.info = value.octets()?.to_vec(),
                _ => {}
            }
        }
        Ok(())
    }

    /// What it tells.
    pub fn tell(&self, mut asked: Asked<'_>) -> Result<()> {
        asked.answer(|key, slot| match key.to_bytes() {
            b"kdf-type" => slot.text(if self.derives { KDF } else { "" }),
            b"kdf-digest" => slot.text(self.deriving.hash.map_or("", names::short)),
            b"kdf-outlen" => slot.size(self.deriving.length),
            b"kdf-ukm" => slot.octets_or_ptr(&self.deriving.info),
            b"ecdh-cofactor-mode" => slot.integer(0),
            _ => Ok(()),
        })
    }

    /// The other's public key.
    pub fn set_peer(&mut self, peer: Arc<Key>) -> Result<()> {
        let key = self.key.as_ref().ok_or_else(no_key)?;
        let (own, other) = (key.numbers()?, peer.numbers()?);
        if own.place != other.place || own.most() != other.most() {
            return Err(Error::new(
                Reason::INVALID,
                "the peer's key is of another type or curve",
            ));
        }
        self.peer = Some(peer);
        Ok(())
    }

    /// Bytes of what comes out.
    pub fn size(&self) -> Result<usize> {
        if self.derives {
            return Ok(self.deriving.length);
        }
        Ok(self
            .key
            .as_ref()
            .ok_or_else(no_key)?
            .numbers()?
            .coordinate())
    }

    /// The secret, or what is derived from it, of which there is room for so much.
    pub fn secret(&self, provider: &Provider, room: usize) -> Result<Secret> {
        let key = self.key.as_ref().ok_or_else(no_key)?;
        let peer = self
            .peer
            .as_ref()
            .ok_or_else(|| Error::new(Reason::MISSING_KEY, "no public key of the peer was set"))?;
        let length = self.deriving.length;
        if self.derives && (length == 0 || length > room) {
            let text = format!("kdf-outlen {length}: room for {room} bytes");
            return Err(Error::new(Reason::INVALID_OUTPUT_LENGTH, text));
        }
        let spki = &peer.numbers()?.spki;
        let secret = key.with(|remote| remote.agree(spki))?;
        if !self.derives {
            return Ok(secret);
        }
        let Some(hash) = self.deriving.hash else {
            let text = "no kdf-digest was set";
            return Err(Error::new(Reason::MISSING_MESSAGE_DIGEST, text));
        };
        let none = || {
            Error::new(
                Reason::NOT_SUPPORTED,
                format!("no other provider has {KDF}"),
            )
        };
        let mut kdf = provider.host(op::KDF, KDF).ok_or_else(none)?.kdf()?;
        let mut inputs = Own::default();
        inputs.text(c"digest", names::short(hash));
        inputs.octets(c"key", secret.expose());
        inputs.octets(c"info", &self.deriving.info);
        kdf.set_params(inputs.given())?;
        let mut out = Zeroizing::new(vec![0; length]);
        kdf.derive(&mut out)?;
        Ok(Secret::new(&out))
    }
}

/// An encapsulation.
#[derive(Clone, Default)]
pub struct Capsule {
    key: Option<Arc<Key>>,
}

impl Capsule {
    /// Begins.
    pub fn begin(&mut self, key: Option<Arc<Key>>, private: bool) -> Result<()> {
        self.key = key.or(self.key.take());
        let key = self.key.as_ref().ok_or_else(no_key)?;
        if private && !key.is_private() {
            return Err(Error::new(
                Reason::MISSING_KEY,
                "this is a public key: the private one decapsulates",
            ));
        }
        Ok(())
    }

    /// Bytes of the ciphertext; the secret has 32 (FIPS 203, table 3).
    pub fn size(&self) -> Result<usize> {
        Ok(self.key.as_ref().ok_or_else(no_key)?.numbers()?.most())
    }

    /// A ciphertext, and the secret in it.
    pub fn made(&self) -> Result<(Vec<u8>, Secret)> {
        let key = self.key.as_ref().ok_or_else(no_key)?;
        key.publicly(|session| session.encapsulate())
    }

    /// The secret in a ciphertext.
    pub fn opened(&self, ciphertext: &[u8]) -> Result<Secret> {
        let key = self.key.as_ref().ok_or_else(no_key)?;
        key.with(|remote| remote.decapsulate(ciphertext))
    }
}
