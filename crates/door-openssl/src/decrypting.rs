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
use cryptofd_core::engines::software;
use cryptofd_core::pair::Options;
use cryptofd_core::secret::Secret;
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::table::{Algorithm, Kind};
use std::sync::Arc;
use subtle::{ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

/// RSA's paddings, by OpenSSL's numbers and words. The last has no word: PKCS#1 v1.5 of a premaster secret of TLS.
const PADDINGS: [(&str, i128, &str); 4] = [
    ("pkcs1", 1, "pkcs1"),
    ("none", 3, "raw"),
    ("oaep", 4, "oaep"),
    ("", 7, TLS),
];
const TLS: &str = "tls";
/// Bytes of a premaster secret (RFC 5246, 7.4.7.1).
const PREMASTER: usize = 48;

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
    /// The version of TLS that the client offered, and another one that it may say in its place.
    client_version: u32,
    other_version: u32,
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
            client_version: 0,
            other_version: 0,
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
                    let known = PADDINGS.iter().find(|(word, own, _)| {
                        let said = text.filter(|text| !text.is_empty());
                        said == Some(*word) || number == Some(*own)
                    });
                    self.scheme = known
                        .ok_or_else(|| {
                            let text = "pad-mode: pkcs1, oaep or none with this key";
                            Error::new(Reason::UNSUPPORTED, text)
                        })?
                        .2;
                }
                b"digest" => self.hash = Some(hash(value.text()?)?),
                b"mgf1-digest" => self.mgf1 = Some(hash(value.text()?)?),
                b"tls-client-version" => self.client_version = value.uint()?,
                b"tls-negotiated-version" => self.other_version = value.uint()?,
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
        if self.scheme == TLS {
            return Ok(PREMASTER);
        }
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
        let tls = self.scheme == TLS;
        if tls && (self.client_version == 0 || self.direction == Direction::Encrypt) {
            let text =
                "a premaster secret of TLS is decrypted, with the version that its client offered";
            return Err(Error::new(Reason::PARAMETER, text));
        }
        let oaep = self.scheme == "oaep";
        let options = Options {
            scheme: Some(if tls { "pkcs1" } else { self.scheme }),
            hash: oaep.then_some(hash),
            label: (oaep && !self.label.is_empty()).then_some(&self.label),
            ..Options::default()
        };
        match self.direction {
            Direction::Encrypt => {
                key.publicly(|session| Ok(Zeroizing::new(session.pair_encrypt(data, &options)?)))
            }
            Direction::Decrypt => {
                let made =
                    key.with(|remote| remote.pair_crypt(Direction::Decrypt, data, &options))?;
                if !tls {
                    return Ok(made);
                }
                let mut instead = Zeroizing::new([0; PREMASTER]);
                software::random(&mut instead[..])?;
                let versions = [self.client_version, self.other_version];
                Ok(premaster(&made, versions, &instead))
            }
        }
    }
}

/// The premaster secret, or `instead` where what was decrypted is none: nobody is told which (RFC 5246, 7.4.7.1).
/// The worker's engine gives a message for a bad padding, too, which is another one for each ciphertext: what this
/// takes, and how long, depends on nothing but such a message.
fn premaster(made: &[u8], versions: [u32; 2], instead: &[u8; PREMASTER]) -> Zeroizing<Vec<u8>> {
    let mut whole = Zeroizing::new([0; PREMASTER]);
    let size = made.len().min(PREMASTER);
    whole[..size].copy_from_slice(&made[..size]);
    let says = u32::from(u16::from_be_bytes([whole[0], whole[1]]));
    let [client, other] = versions;
    let version = says.ct_eq(&client) | (says.ct_eq(&other) & !other.ct_eq(&0));
    let fine = made.len().ct_eq(&PREMASTER) & version;
    let chosen = whole.iter().zip(instead);
    let chosen = chosen.map(|(own, instead)| u8::conditional_select(instead, own, fine));
    Zeroizing::new(chosen.collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_premaster_secret_says_its_version_or_is_another() {
        let instead = [7; PREMASTER];
        let mut fine = vec![9; PREMASTER];
        fine[..2].copy_from_slice(&[3, 3]);
        let made = |bytes: &[u8], versions| premaster(bytes, versions, &instead).to_vec();
        assert_eq!(made(&fine, [0x303, 0]), fine);
        // A client that says what was negotiated.
        assert_eq!(made(&fine, [0x304, 0x303]), fine);
        for versions in [[0x302, 0], [0x304, 0x302], [1, 0]] {
            assert_eq!(made(&fine, versions), instead);
        }
        let longer = [&fine[..], &[0]].concat();
        for bytes in [&fine[..47], &longer, b"", b"\x03", &fine[..2]] {
            assert_eq!(made(bytes, [0x303, 0]), instead);
        }
        // No version is none that a secret could say.
        assert_eq!(made(&[0; PREMASTER], [0x303, 0]), instead);
    }
}
