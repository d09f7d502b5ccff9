//! Asymmetric keys: what they are and what may be asked of them.

mod ecdsa;
mod generate;

pub use generate::{Generated, generate};

use crate::engine::{Key, Padding, Pair, Scheme, Signing, Spec, Work};
use crate::engines::software;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::secret::Secret;
use crate::session::Session;
use crate::sys::buffer::Input;
use crate::table::{self, Algorithm, Kind};
use std::sync::Arc;

/// Most bytes of a key in DER: twice what the longest takes.
pub const DER_MAX: usize = 16384;

/// What is known of an asymmetric key.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Whether its private half is there.
    pub private: bool,
    /// Bits, as the table counts them.
    pub bits: usize,
    /// Its public half: a SubjectPublicKeyInfo in DER (RFC 5280, section 4.1.2.7).
    pub public: Arc<[u8]>,
}

impl Facts {
    /// Bytes of the modulus, of a coordinate.
    fn size(&self) -> usize {
        self.bits.div_ceil(8)
    }
}

/// Checks the key of an asymmetric session (its form, its algorithm, its size, its numbers) and puts the
/// one form in its place that engines take: PKCS#8 of a private key, SubjectPublicKeyInfo of a public one.
/// `None` for all other algorithms.
pub fn settle(spec: &mut Spec) -> Result<Option<Facts>> {
    let algorithm = spec.algorithm;
    if algorithm.kind != Kind::Pair {
        return Ok(None);
    }
    let key = match &spec.key {
        Key::Bytes(key) => key,
        Key::None => {
            return Err(Error::invalid(format!(
                "{} needs a key: PKCS#8 (private) or SubjectPublicKeyInfo (public) in DER; \
                 cryptofd.generate() makes one",
                algorithm.name
            )));
        }
        Key::Serial(_) | Key::Adopted(_) => {
            return Err(Error::unsupported(format!(
                "a key that is in the kernel: no engine uses {} keys there yet",
                algorithm.name
            )));
        }
    };
    let (key, facts) = inspect(algorithm, key.expose())?;
    spec.key = Key::Bytes(key);
    Ok(Some(facts))
}

/// Checks a key in DER; gives its one form and what is known of it.
pub fn inspect(algorithm: &'static Algorithm, der: &[u8]) -> Result<(Secret, Facts)> {
    if der.len() > DER_MAX {
        return Err(Error::invalid(format!(
            "a key of {} bytes: keys of {} in DER have at most {DER_MAX}",
            der.len(),
            algorithm.name
        )));
    }
    if der.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Err(Error::invalid(
            "this key is PEM: give what is between its lines, in base64, as bytes (DER)",
        ));
    }
    let (key, facts) = software::pair::inspect(algorithm, der)?;
    if !algorithm.bits.contains(facts.bits) {
        let bits = algorithm.bits;
        return Err(Error::invalid(format!(
            "a key of {} bits: {} takes {} to {} in steps of {}",
            facts.bits, algorithm.name, bits.min, bits.max, bits.step
        )));
    }
    Ok((key, facts))
}

/// What a caller may say about a signature or an encryption. `None`: the algorithm's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options<'a> {
    /// The table's name of a hash; `none` for a prehashed message that is taken as it is.
    pub hash: Option<&'a str>,
    /// pkcs1, pss, oaep, raw: RSA only.
    pub scheme: Option<&'a str>,
    /// Bytes of PSS's salt; otherwise as many as the hash has.
    pub salt_length: Option<u32>,
    /// der or raw: ECDSA's signature as X9.62 has it, or r and s one after the other (IEEE P1363).
    pub format: Option<&'a str>,
    /// OAEP's label.
    pub label: Option<&'a [u8]>,
}

fn no_choice(algorithm: &Algorithm, what: &str) -> Error {
    Error::invalid(format!(
        "{what}: {} has no choice of it here",
        algorithm.name
    ))
}

fn no_option(algorithm: &Algorithm, what: &str, has: bool) -> Result<()> {
    if has {
        Err(no_choice(algorithm, what))
    } else {
        Ok(())
    }
}

impl Options<'_> {
    /// An error if anything is set that only a pair takes.
    pub fn none(&self, algorithm: &Algorithm) -> Result<()> {
        no_option(
            algorithm,
            "hash, scheme, salt_length, format, label",
            *self != Options::default(),
        )
    }

    /// The table's hash of this name, if `algorithm` takes it.
    fn hash_of(&self, algorithm: &'static Algorithm) -> Result<&'static Algorithm> {
        let name = self.hash.or(algorithm.default_hash).unwrap_or_default();
        let hash = table::find(name).map_err(|_| {
            Error::invalid(format!(
                "hash={name:?}: {} takes {}",
                algorithm.name,
                algorithm.hashes.join(", ")
            ))
        })?;
        if algorithm.hashes.contains(&hash.name) {
            Ok(hash)
        } else {
            Err(Error::invalid(format!(
                "hash={name:?}: {} takes {}",
                algorithm.name,
                algorithm.hashes.join(", ")
            )))
        }
    }

    /// Whether ECDSA's signatures are r and s one after the other.
    fn raw_format(&self, algorithm: &Algorithm) -> Result<bool> {
        match self.format {
            None => Ok(false),
            Some(_) if algorithm.template() == "rsa" || algorithm.hashes.is_empty() => {
                Err(no_choice(algorithm, "format"))
            }
            Some("der") => Ok(false),
            Some("raw") => Ok(true),
            Some(other) => Err(Error::invalid(format!("format={other:?}: der or raw"))),
        }
    }

    /// A signature's parameters; `length` bytes are to be signed, or are the digest.
    fn signing(
        &self,
        algorithm: &'static Algorithm,
        facts: &Facts,
        prehashed: bool,
        length: usize,
    ) -> Result<Signing> {
        no_option(algorithm, "label", self.label.is_some())?;
        let rsa = algorithm.template() == "rsa";
        let scheme = match (rsa, self.scheme) {
            (true, None | Some("pkcs1")) => Scheme::Pkcs1,
            (true, Some("pss")) => Scheme::Pss,
            (true, Some(other)) => {
                return Err(Error::invalid(format!(
                    "scheme={other:?}: rsa signs with pkcs1 or pss"
                )));
            }
            (false, None) => Scheme::Own,
            (false, Some(_)) => return Err(no_choice(algorithm, "scheme")),
        };
        no_option(
            algorithm,
            "salt_length",
            self.salt_length.is_some() && scheme != Scheme::Pss,
        )?;
        if algorithm.hashes.is_empty() {
            no_option(algorithm, "hash", self.hash.is_some())?;
            if prehashed {
                return Err(Error::unsupported(format!(
                    "{} signs the message itself, not a digest of it",
                    algorithm.name
                )));
            }
            return Ok(Signing {
                scheme,
                hash: None,
                salt_length: 0,
                prehashed,
            });
        }
        if self.hash == Some("none") {
            let most = match scheme {
                Scheme::Pkcs1 => facts.size() - 11,
                Scheme::Own => 64,
                _ => 0,
            };
            if !prehashed || length == 0 || length > most {
                return Err(Error::invalid(format!(
                    "hash=\"none\" of {length} bytes: only what is hashed already goes under ecdsa or \
                     pkcs1 as it is, here 1 to {most} bytes"
                )));
            }
            return Ok(Signing {
                scheme,
                hash: None,
                salt_length: 0,
                prehashed,
            });
        }
        let hash = self.hash_of(algorithm)?;
        if prehashed && length != hash.digest {
            return Err(Error::invalid(format!(
                "a digest of {length} bytes: {} gives {}",
                hash.name, hash.digest
            )));
        }
        let salt_length = self.salt_length.map_or(hash.digest, |n| n as usize);
        if scheme == Scheme::Pss {
            // RFC 8017, 9.1.1, step 3, of an encoded message one bit shorter than the modulus.
            let room = (facts.bits - 1).div_ceil(8);
            let most = room.saturating_sub(hash.digest + 2);
            if salt_length > most {
                return Err(Error::invalid(format!(
                    "a salt of {salt_length} bytes: {} bits with {} take at most {most}",
                    facts.bits, hash.name
                )));
            }
        }
        Ok(Signing {
            scheme,
            hash: Some(hash.name),
            salt_length,
            prehashed,
        })
    }

    /// An encryption's parameters, and the most bytes of plaintext.
    fn padding(
        &self,
        algorithm: &'static Algorithm,
        facts: &Facts,
    ) -> Result<(Padding<'_>, usize)> {
        no_option(algorithm, "salt_length", self.salt_length.is_some())?;
        no_option(algorithm, "format", self.format.is_some())?;
        let scheme = match self.scheme {
            None | Some("oaep") => Scheme::Oaep,
            Some("pkcs1") => Scheme::Pkcs1,
            Some("raw") => Scheme::Raw,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "scheme={other:?}: rsa encrypts with oaep, pkcs1 or raw"
                )));
            }
        };
        if scheme != Scheme::Oaep {
            no_option(algorithm, "hash", self.hash.is_some())?;
            no_option(algorithm, "label", self.label.is_some())?;
            let most = facts.size() - if scheme == Scheme::Raw { 0 } else { 11 };
            let padding = Padding {
                scheme,
                hash: None,
                label: &[],
            };
            return Ok((padding, most));
        }
        let hash = self.hash_of(algorithm)?;
        let padding = Padding {
            scheme,
            hash: Some(hash.name),
            label: self.label.unwrap_or_default(),
        };
        Ok((padding, facts.size().saturating_sub(2 * hash.digest + 2)))
    }
}

impl Session {
    /// The key's facts, if it can do `operation`.
    fn able(&self, operation: &str, private: bool) -> Result<&Facts> {
        let algorithm = self.algorithm();
        let facts = match self.pair() {
            Some(facts) if algorithm.does(operation) => facts,
            _ => return Err(self.not_this(operation)),
        };
        if private && !facts.private {
            return Err(Error::unsupported(format!(
                "this is a public key of {}: to {operation} takes the private one",
                algorithm.name
            )));
        }
        Ok(facts)
    }

    fn work<T>(&self, length: usize, mut f: impl FnMut(&dyn Pair) -> Result<T>) -> Result<T> {
        let done = self.run(|work| match work {
            Work::Pair(pair) => f(&**pair),
            _ => Err(self.not_this("work with a pair of keys")),
        });
        self.count(length, done)
    }

    /// The signature of `data`, or of the digest `data`.
    pub fn sign(&self, data: Input<'_>, prehashed: bool, options: &Options<'_>) -> Result<Vec<u8>> {
        let facts = self.able("sign", true)?;
        let how = options.signing(self.algorithm(), facts, prehashed, data.len())?;
        let raw = options.raw_format(self.algorithm())?;
        // Ed25519 reads its message twice: were it changed in between, the signature would give the key away.
        let copy = (how.hash.is_none()).then(|| data.to_vec());
        let data = copy.as_deref().map_or(data, Input::from);
        let signature = self.work(data.len(), |pair| pair.sign(&how, data))?;
        if raw {
            ecdsa::to_raw(&signature, facts.size())
        } else {
            Ok(signature)
        }
    }

    /// Ok if the signature is that of `data`, or of the digest `data`; EKEYREJECTED otherwise.
    pub fn verify_signature(
        &self,
        data: Input<'_>,
        prehashed: bool,
        signature: &[u8],
        options: &Options<'_>,
    ) -> Result<()> {
        let facts = self.able("verify", false)?;
        let how = options.signing(self.algorithm(), facts, prehashed, data.len())?;
        let der;
        let signature = if options.raw_format(self.algorithm())? {
            der = ecdsa::from_raw(signature, facts.size());
            der.as_deref()
        } else {
            Some(signature)
        };
        let copy = (how.hash.is_none()).then(|| data.to_vec());
        let data = copy.as_deref().map_or(data, Input::from);
        self.work(data.len(), |pair| match signature {
            Some(signature) => pair.verify(&how, data, signature),
            None => Err(Error::bad_signature()),
        })
    }

    /// The public half: a SubjectPublicKeyInfo in DER.
    pub fn public_key(&self) -> Result<&[u8]> {
        match self.pair() {
            Some(facts) => Ok(&facts.public),
            None => Err(self.not_this("have a public key")),
        }
    }

    /// RSA: the ciphertext. EMSGSIZE beyond what the padding leaves room for.
    pub fn pair_encrypt(&self, data: Input<'_>, options: &Options<'_>) -> Result<Vec<u8>> {
        let facts = self.able("encrypt", false)?;
        let (how, most) = options.padding(self.algorithm(), facts)?;
        if data.len() > most {
            return Err(Error::too_large(format!(
                "{} bytes: rsa of {} bits encrypts at most {most} with this padding; encrypt a key, \
                 and with it the data",
                data.len(),
                facts.bits
            )));
        }
        self.check_raw(&how, data.len(), facts)?;
        let data = Secret::made(data.len(), |copy| {
            data.copy_to(copy);
            Ok(copy.len())
        })?;
        self.work(data.len(), |pair| pair.encrypt(&how, data.expose()))
    }

    /// RSA: the plaintext; EBADMSG where it does not decrypt.
    pub fn pair_decrypt(&self, data: Input<'_>, options: &Options<'_>) -> Result<Secret> {
        let facts = self.able("decrypt", true)?;
        let (how, _) = options.padding(self.algorithm(), facts)?;
        if data.len() != facts.size() {
            return Err(Error::invalid(format!(
                "a ciphertext of {} bytes: rsa of {} bits gives {}",
                data.len(),
                facts.bits,
                facts.size()
            )));
        }
        let data = data.to_vec();
        self.work(data.len(), |pair| pair.decrypt(&how, &data))
            .map_err(|error| match error.kind() {
                // No size was too large: nobody here can.
                ErrorKind::TooLarge | ErrorKind::Elsewhere => {
                    Error::unsupported(error.message().to_owned())
                }
                _ => error,
            })
    }

    fn check_raw(&self, how: &Padding<'_>, length: usize, facts: &Facts) -> Result<()> {
        if how.scheme == Scheme::Raw && length != facts.size() {
            return Err(Error::invalid(format!(
                "{length} bytes: without padding rsa of {} bits takes {}",
                facts.bits,
                facts.size()
            )));
        }
        Ok(())
    }

    /// The secret shared with the holder of the public key `peer` (SubjectPublicKeyInfo in DER).
    pub fn agree(&self, peer: &[u8]) -> Result<Secret> {
        self.able("agree", true)?;
        let (_, other) = inspect(self.algorithm(), peer)?;
        if other.private {
            return Err(Error::invalid(
                "the peer's key is a private one: agreement takes its SubjectPublicKeyInfo",
            ));
        }
        self.work(peer.len(), |pair| pair.agree(&other.public))
    }

    /// A ciphertext for the holder of the private key, and the secret in it.
    pub fn encapsulate(&self) -> Result<(Vec<u8>, Secret)> {
        self.able("encapsulate", false)?;
        self.work(0, |pair| pair.encapsulate())
    }

    /// The secret in a ciphertext.
    pub fn decapsulate(&self, ciphertext: &[u8]) -> Result<Secret> {
        self.able("decapsulate", true)?;
        self.work(ciphertext.len(), |pair| pair.decapsulate(ciphertext))
    }
}

#[cfg(test)]
mod tests;
