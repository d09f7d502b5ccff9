//! Signatures and MACs, made and checked.

use crate::der;
use crate::digest;
use crate::ffi::Out;
use crate::mechanism::{self, Does};
use crate::module::{Session, State};
use crate::object::{How, Object};
use crate::parameter::{Mechanism, Parameter};
use crate::rv::{Result, Rv, invalid_is};
use crate::served::{Hashing, Served};
use crate::tls;
use cryptofd_core::engine::Direction;
use cryptofd_core::error::Error;
use cryptofd_core::pair::Options;
use cryptofd_core::secret::{self, Secret};
use cryptofd_core::sys::buffer::Input;
use cryptoki_sys::*;
use zeroize::Zeroizing;

/// Bytes of a message that is signed as a whole.
const WHOLE: usize = 64 << 20;

/// Make or check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Sign,
    Verify,
}

enum Way {
    /// A MAC of `length` bytes.
    Mac {
        length: usize,
        running: Option<Hashing>,
    },
    /// TLS 1.2's Finished, of a digest of the handshake.
    Finished {
        secret: Secret,
        hash: &'static str,
        label: &'static [u8],
        length: usize,
    },
    /// A pair's. `hash`: the data is the message, and this is its hash; otherwise it is signed as it is.
    Pair {
        hash: Option<&'static str>,
        /// What a digest that came is signed as.
        digest: Option<&'static str>,
        scheme: Option<&'static str>,
        salt: Option<u32>,
        /// Bytes of a signature.
        size: usize,
        /// The running hash, where the key may sign digests.
        hashing: Option<Hashing>,
        /// The message so far, where only the whole of it is signed.
        came: Vec<u8>,
    },
}

/// A signature under way.
pub struct Signing {
    served: Served,
    way: Way,
    begun: bool,
}

fn place(session: &mut Session, side: Side) -> &mut Option<Signing> {
    match side {
        Side::Sign => &mut session.sign,
        Side::Verify => &mut session.verify,
    }
}

fn running(session: &mut Session, side: Side) -> Result<&mut Signing> {
    place(session, side)
        .as_mut()
        .ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))
}

/// Ends what is under way.
pub fn cancel(session: &mut Session, side: Side) {
    *place(session, side) = None;
}

/// C_SignInit and C_VerifyInit.
pub fn begin(
    state: &State,
    session: &mut Session,
    side: Side,
    mechanism: &Mechanism,
    key: CK_OBJECT_HANDLE,
) -> Result<()> {
    if place(session, side).is_some() {
        return Err(Rv(CKR_OPERATION_ACTIVE));
    }
    let key = state.key(session.slot, key)?;
    if mechanism::flags(mechanism.kind)? & CKF_SIGN == 0 {
        return Err(Rv(CKR_MECHANISM_INVALID));
    }
    let signing = prepare(&key, side, mechanism)?;
    let usage = match side {
        Side::Sign => CKA_SIGN,
        Side::Verify => CKA_VERIFY,
    };
    key.may(usage, mechanism.kind)?;
    *place(session, side) = Some(signing);
    Ok(())
}

fn prepare(key: &Object, side: Side, mechanism: &Mechanism) -> Result<Signing> {
    let known = mechanism::find(mechanism.kind)?;
    let kind = key.key_type()?;
    let (served, way) = match (known.does, known.algorithm) {
        (Does::Mac { general }, Some(algorithm)) => {
            let right = match algorithm.template() {
                "hmac" => !matches!(
                    kind,
                    CKK_RSA | CKK_EC | CKK_EC_EDWARDS | CKK_EC_MONTGOMERY | CKK_AES | CKK_AES_XTS
                ),
                _ => kind == CKK_AES,
            };
            if !right || key.class() != CKO_SECRET_KEY {
                return Err(Rv(CKR_KEY_TYPE_INCONSISTENT));
            }
            let whole = algorithm.digest;
            let length = if general {
                mechanism.number()?
            } else {
                mechanism.nothing()?;
                whole
            };
            if length == 0 || length > whole {
                return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
            }
            let served = key.serve(algorithm, How::default())?;
            let way = Way::Mac {
                length,
                running: None,
            };
            (served, way)
        }
        (Does::TlsMac, _) => {
            let Parameter::TlsMac {
                hash,
                length,
                label,
            } = mechanism.parameter
            else {
                return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
            };
            if kind != CKK_GENERIC_SECRET || length == 0 || length > 64 {
                return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
            }
            let hash = mechanism::hash(hash)?;
            let way = Way::Finished {
                secret: key.secret()?.clone(),
                hash,
                label,
                length,
            };
            (digest::named(hash)?, way)
        }
        (Does::Sign { hash, scheme }, _) => {
            let class = match side {
                Side::Sign => CKO_PRIVATE_KEY,
                Side::Verify => CKO_PUBLIC_KEY,
            };
            if key.class() != class {
                return Err(Rv(CKR_KEY_TYPE_INCONSISTENT));
            }
            let attributes = key.attributes.read().unwrap_or_else(|e| e.into_inner());
            let algorithm = der::algorithm(&attributes, false)?;
            drop(attributes);
            // The mechanism is one of this algorithm's.
            let own = algorithm.pkcs11.iter().chain(algorithm.mechanisms);
            if !own
                .into_iter()
                .any(|one| one.id as CK_MECHANISM_TYPE == mechanism.kind)
            {
                return Err(Rv(CKR_KEY_TYPE_INCONSISTENT));
            }
            let served = key.serve(algorithm, How::default())?;
            let (mut digest, mut salt) = (None, None);
            match (&mechanism.parameter, scheme) {
                (
                    Parameter::Pss {
                        hash: said,
                        mgf,
                        salt: bytes,
                    },
                    Some("pss"),
                ) => {
                    let said = mechanism::hash(*said)?;
                    if mechanism::mgf(*mgf)? != said || hash.is_some_and(|own| own != said) {
                        return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
                    }
                    digest = Some(said);
                    let bytes = u32::try_from(*bytes);
                    salt = Some(bytes.map_err(|_| Rv(CKR_MECHANISM_PARAM_INVALID))?);
                }
                (_, Some("pss")) => return Err(Rv(CKR_MECHANISM_PARAM_INVALID)),
                // ML-DSA's context is none. Ed25519 has no parameter: with one it is another signature.
                (
                    Parameter::Signing {
                        prehashed: false,
                        context,
                    },
                    None,
                ) if context.is_empty() && kind == CKK_ML_DSA => {}
                (Parameter::None, _) => {}
                _ => return Err(Rv(CKR_MECHANISM_PARAM_INVALID)),
            }
            let size = match kind {
                CKK_RSA => key.attribute(CKA_MODULUS)?.len(),
                // FIPS 204, table 2.
                CKK_ML_DSA => 3309,
                _ => 2 * (algorithm.bits.max.div_ceil(8)),
            };
            let way = Way::Pair {
                hash,
                digest,
                scheme,
                salt,
                size,
                hashing: None,
                came: Vec::new(),
            };
            (served, way)
        }
        _ => return Err(Rv(CKR_MECHANISM_INVALID)),
    };
    Ok(Signing {
        served,
        way,
        begun: false,
    })
}

/// What a failure to sign means.
fn unsigned(error: Error) -> Rv {
    match error.errno() {
        libc::EINVAL | libc::EMSGSIZE => Rv(CKR_DATA_LEN_RANGE),
        _ => Rv::from(error),
    }
}

impl Signing {
    /// Bytes of a signature.
    fn size(&self) -> usize {
        match &self.way {
            Way::Mac { length, .. } | Way::Finished { length, .. } => *length,
            Way::Pair { size, .. } => *size,
        }
    }

    /// Whether the data is hashed here as it comes: the worker may refuse a digest, and does its own hashing.
    fn hashes_here(&self) -> bool {
        matches!(self.served, Served::Here(_))
    }

    fn update(&mut self, data: Input<'_>) -> Result<()> {
        self.begun = true;
        let here = self.hashes_here();
        match &mut self.way {
            Way::Mac { running, .. } => {
                let running = match running {
                    Some(running) => running,
                    None => running.insert(self.served.hasher()?),
                };
                running.update(data)
            }
            // A digest comes at once.
            Way::Finished { .. } => Err(Rv(CKR_FUNCTION_NOT_SUPPORTED)),
            Way::Pair {
                hash: Some(hash),
                hashing,
                ..
            } if here => {
                let hashing = match hashing {
                    Some(hashing) => hashing,
                    None => hashing.insert(digest::named(hash)?.hasher()?),
                };
                hashing.update(data)
            }
            Way::Pair { came, .. } => {
                if came.len().saturating_add(data.len()) > WHOLE {
                    return Err(Rv(CKR_DATA_LEN_RANGE));
                }
                data.pieces(|piece| came.extend_from_slice(piece));
                Ok(())
            }
        }
    }

    fn options(&self) -> (Options<'static>, bool) {
        let Way::Pair {
            hash,
            digest,
            scheme,
            salt,
            ..
        } = &self.way
        else {
            return (Options::default(), false);
        };
        let (scheme, salt, digest) = (*scheme, *salt, *digest);
        let curve = self.served.algorithm().name.starts_with("ecdsa");
        // RSA without a hash in its mechanism's name, and ECDSA, take a digest, or what is to be one.
        let prehashed = hash.is_none() && (scheme.is_some() || curve);
        let options = Options {
            hash: match (hash, digest) {
                (Some(hash), _) => Some(hash),
                (None, Some(digest)) => Some(digest),
                (None, None) if prehashed && scheme != Some("raw") => Some("none"),
                _ => None,
            },
            scheme,
            salt_length: salt,
            format: curve.then_some("raw"),
            label: None,
        };
        (options, prehashed)
    }

    /// The MAC of what came, or of `data` alone.
    fn mac(&mut self, data: Option<Input<'_>>) -> Result<Zeroizing<Vec<u8>>> {
        if let Way::Finished {
            secret,
            hash,
            label,
            length,
        } = &self.way
        {
            let data = data.ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))?;
            if data.len() > WHOLE {
                return Err(Rv(CKR_DATA_LEN_RANGE));
            }
            let data = data.to_vec();
            return tls::prf(secret, hash, label, &data, *length);
        }
        let Way::Mac { length, running } = &mut self.way else {
            return Err(Rv(CKR_GENERAL_ERROR));
        };
        let mut whole = match data {
            Some(data) => {
                let mut whole = Zeroizing::new(vec![0; self.served.digest_size()]);
                self.served.digest(data, &mut whole)?;
                whole
            }
            None => match running.take() {
                Some(mut running) => running.finish()?,
                None => self.served.hasher()?.finish()?,
            },
        };
        whole.truncate(*length);
        Ok(whole)
    }

    /// What a pair is given to sign: data, and whether it is a digest already.
    fn given(&mut self) -> Result<(Vec<u8>, bool, Options<'static>)> {
        let (options, prehashed) = self.options();
        let here = self.hashes_here();
        let Way::Pair {
            hash,
            hashing,
            came,
            ..
        } = &mut self.way
        else {
            return Err(Rv(CKR_GENERAL_ERROR));
        };
        if let (Some(hash), true) = (hash, here) {
            let digest = match hashing.take() {
                Some(mut hashing) => hashing.finish()?.to_vec(),
                None => digest::of(hash, &[])?,
            };
            return Ok((digest, true, options));
        }
        Ok((std::mem::take(came), prehashed, options))
    }

    fn sign(&mut self, data: Option<Input<'_>>) -> Result<Vec<u8>> {
        if matches!(self.way, Way::Mac { .. } | Way::Finished { .. }) {
            return Ok(self.mac(data)?.to_vec());
        }
        match data {
            Some(data) => {
                let (options, prehashed) = self.options();
                self.pair_sign(data, prehashed, &options)
            }
            None => {
                let (data, prehashed, options) = self.given()?;
                self.pair_sign(Input::from(&data), prehashed, &options)
            }
        }
    }

    fn pair_sign(
        &self,
        data: Input<'_>,
        prehashed: bool,
        options: &Options<'_>,
    ) -> Result<Vec<u8>> {
        if options.scheme == Some("raw") {
            let block = self.padded(data)?;
            let signed = self.raw(Direction::Decrypt, &block)?;
            return Ok(signed.to_vec());
        }
        self.served.sign(data, prehashed, options).map_err(unsigned)
    }

    fn pair_verify(
        &self,
        data: Input<'_>,
        prehashed: bool,
        signature: &[u8],
        options: &Options<'_>,
    ) -> Result<()> {
        if options.scheme == Some("raw") {
            let block = self.padded(data)?;
            return match self.raw(Direction::Encrypt, signature) {
                Ok(signed) if *signed == block => Ok(()),
                Ok(_) | Err(Rv(CKR_DATA_LEN_RANGE)) => Err(Rv(CKR_SIGNATURE_INVALID)),
                Err(error) => Err(error),
            };
        }
        let done = self.served.verify(data, prehashed, signature, options);
        done.map_err(unsigned)
    }

    /// RSA with no padding at all: a signature is what decryption makes of the block.
    fn raw(&self, direction: Direction, block: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let options = Options {
            scheme: Some("raw"),
            ..Options::default()
        };
        let done = self
            .served
            .pair_crypt(direction, Input::from(block), &options);
        done.map_err(invalid_is(CKR_DATA_LEN_RANGE))
    }

    /// CKM_RSA_X_509 takes numbers without their leading zeroes.
    fn padded(&self, data: Input<'_>) -> Result<Vec<u8>> {
        let missing = self.size().checked_sub(data.len());
        let mut whole = vec![0; missing.ok_or(Rv(CKR_DATA_LEN_RANGE))?];
        whole.extend_from_slice(&data.to_vec());
        Ok(whole)
    }

    fn verify(&mut self, data: Option<Input<'_>>, signature: &[u8]) -> Result<()> {
        if signature.len() != self.size() {
            return Err(Rv(CKR_SIGNATURE_LEN_RANGE));
        }
        if matches!(self.way, Way::Mac { .. } | Way::Finished { .. }) {
            let own = self.mac(data)?;
            return if secret::equal(&own, signature) {
                Ok(())
            } else {
                Err(Rv(CKR_SIGNATURE_INVALID))
            };
        }
        match data {
            Some(data) => {
                let (options, prehashed) = self.options();
                self.pair_verify(data, prehashed, signature, &options)
            }
            None => {
                let (data, prehashed, options) = self.given()?;
                self.pair_verify(Input::from(&data), prehashed, signature, &options)
            }
        }
    }
}

/// C_Sign.
pub fn sign(session: &mut Session, data: Input<'_>, out: &mut Out<'_>) -> Result<()> {
    let signing = running(session, Side::Sign)?;
    if signing.begun {
        return Err(Rv(CKR_OPERATION_ACTIVE));
    }
    if !out.fits(signing.size())? {
        return Ok(());
    }
    let done = signing.sign(Some(data));
    cancel(session, Side::Sign);
    out.give(&done?)
}

/// C_SignUpdate and C_VerifyUpdate.
pub fn update(session: &mut Session, side: Side, data: Input<'_>) -> Result<()> {
    let done = running(session, side)?.update(data);
    if done.is_err() {
        cancel(session, side);
    }
    done
}

/// C_SignFinal.
pub fn sign_finish(session: &mut Session, out: &mut Out<'_>) -> Result<()> {
    let signing = running(session, Side::Sign)?;
    if !out.fits(signing.size())? {
        return Ok(());
    }
    let done = signing.sign(None);
    cancel(session, Side::Sign);
    out.give(&done?)
}

/// C_Verify.
pub fn verify(session: &mut Session, data: Input<'_>, signature: &[u8]) -> Result<()> {
    let signing = running(session, Side::Verify)?;
    if signing.begun {
        return Err(Rv(CKR_OPERATION_ACTIVE));
    }
    let done = signing.verify(Some(data), signature);
    cancel(session, Side::Verify);
    done
}

/// C_VerifyFinal.
pub fn verify_finish(session: &mut Session, signature: &[u8]) -> Result<()> {
    let done = running(session, Side::Verify)?.verify(None, signature);
    cancel(session, Side::Verify);
    done
}
