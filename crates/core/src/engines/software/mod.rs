//! The engine `software`: AWS-LC, always there, and kept crates for the little that it lacks.

mod ffi;
mod portable;

/// Reading, checking and making asymmetric keys, for sessions of every engine.
pub(crate) mod pair {
    pub use super::ffi::pair::{generate, inspect};
}

use crate::engine::{Engine, Key, Opened, Spec, Work};
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::table::Kind;

/// The engine.
pub struct Software;

const AWS_LC: &str = "aws-lc";

impl Engine for Software {
    fn name(&self) -> &'static str {
        "software"
    }

    fn probe(&self) -> Result<String> {
        Ok(ffi::version())
    }

    fn open(&self, spec: &Spec) -> Result<Opened> {
        let (driver, work) = match spec.algorithm.kind {
            Kind::Hash | Kind::Xof => hash(spec)?,
            Kind::Mac => mac(spec)?,
            Kind::Cipher => cipher(spec)?,
            Kind::Aead => (AWS_LC, aead(spec)?),
            Kind::Wrap => (AWS_LC, wrap(spec)?),
            Kind::Kdf => kdf(spec)?,
            Kind::Pair => {
                let pair = ffi::pair::Pair::open(spec.algorithm, &secret(spec)?)?;
                (AWS_LC, Work::Pair(Box::new(pair)))
            }
            Kind::Rng => (AWS_LC, Work::Random(Box::new(ffi::random::Drbg))),
            Kind::Streaming => return Err(lacks(spec)),
        };
        Ok(Opened {
            work,
            driver: driver.into(),
            driver_certain: true,
            hardware: false,
            fips: false,
        })
    }
}

/// All that AWS-LC allocates in this process is in the arena. Only in a process of our own, and first of
/// all: false if it is too late.
pub fn allocate_in_arena() -> bool {
    ffi::allocate_in_arena()
}

/// Fills `out` from AWS-LC's DRBG, which notices forks and snapshots of virtual machines.
pub fn random(out: &mut [u8]) -> Result<()> {
    crate::engine::Random::fill(&ffi::random::Drbg, out)
}

fn lacks(spec: &Spec) -> Error {
    Error::not_offered(format!("no {}", spec.algorithm.name))
}

/// The key as a secret that an engine may keep; an empty one where there is none.
fn secret(spec: &Spec) -> Result<Secret> {
    match &spec.key {
        Key::Bytes(secret) => Ok(secret.clone()),
        other => other.bytes().map(Secret::new),
    }
}

fn hash(spec: &Spec) -> Result<(&'static str, Work)> {
    if let Some(hash) = ffi::hash::open(spec.algorithm.name) {
        return Ok((AWS_LC, Work::Hashing(hash)));
    }
    match portable::hash(spec)? {
        Some((driver, hash)) => Ok((driver, Work::Hashing(hash))),
        None => Err(lacks(spec)),
    }
}

fn mac(spec: &Spec) -> Result<(&'static str, Work)> {
    let key = secret(spec)?;
    let work = match (spec.algorithm.template(), spec.algorithm.hash()) {
        ("hmac", Some(hash)) => {
            if let Some(hmac) = ffi::mac::Hmac::open(hash, key.expose()) {
                return Ok((AWS_LC, Work::Hashing(Box::new(hmac?))));
            }
            let hmac = portable::hmac(hash, key.expose())?.ok_or_else(|| lacks(spec))?;
            return Ok((portable::RUSTCRYPTO, Work::Hashing(hmac)));
        }
        ("cmac", _) => Work::Hashing(Box::new(ffi::mac::Cmac::new(key.expose())?)),
        ("gmac", _) => Work::Hashing(Box::new(ffi::mac::Gmac::new(&key, &spec.parameters.iv)?)),
        ("poly1305", _) => Work::Hashing(Box::new(ffi::mac::Poly1305::new(&key))),
        _ => return Err(lacks(spec)),
    };
    Ok((AWS_LC, work))
}

fn cipher(spec: &Spec) -> Result<(&'static str, Work)> {
    use ffi::cipher::{Aes, ChaCha20, Des3, Ecb, Mode, Xts};
    let key = spec.key.bytes()?;
    let work = match spec.algorithm.name {
        "ecb(aes)" => Work::Cipher(Box::new(Ecb::new(key)?)),
        "cbc(aes)" => Work::Cipher(Box::new(Aes::new(Mode::Cbc, key)?)),
        "ctr(aes)" => Work::Cipher(Box::new(Aes::new(Mode::Ctr, key)?)),
        "cfb(aes)" => Work::Cipher(Box::new(Aes::new(Mode::Cfb, key)?)),
        "xts(aes)" if key.len() == 64 => Work::Cipher(Box::new(Xts::new(key)?)),
        "xts(aes)" => {
            let xts = portable::Xts::new(key)?;
            return Ok((portable::RUSTCRYPTO, Work::Cipher(Box::new(xts))));
        }
        "cbc(des3_ede)" => Work::Cipher(Box::new(Des3::new(key)?)),
        "chacha20" => Work::Cipher(Box::new(ChaCha20::new(&secret(spec)?))),
        _ => return Err(lacks(spec)),
    };
    Ok((AWS_LC, work))
}

fn aead(spec: &Spec) -> Result<Work> {
    use ffi::aead::{Aead, Ccm};
    let secret = secret(spec)?;
    let (key, tag) = (secret.expose(), spec.tag_size());
    Ok(Work::Aead(match spec.algorithm.template() {
        "gcm" => Box::new(Aead::gcm(key, tag)?.with_pieces(true, &secret)),
        "gcm-siv" => Box::new(Aead::gcm_siv(key, tag)?),
        "rfc7539" => Box::new(Aead::chacha20_poly1305(key, tag)?.with_pieces(false, &secret)),
        "ccm" => Box::new(Ccm::new(key, tag)?),
        _ => return Err(lacks(spec)),
    }))
}

fn wrap(spec: &Spec) -> Result<Work> {
    let padded = match spec.algorithm.template() {
        "kw" => false,
        "kwp" => true,
        _ => return Err(lacks(spec)),
    };
    let wrap = ffi::wrap::Wrap::new(spec.key.bytes()?, padded)?;
    Ok(Work::Wrap(Box::new(wrap)))
}

fn kdf(spec: &Spec) -> Result<(&'static str, Work)> {
    use ffi::kdf::{Hashed, Over, Scrypt};
    let key = secret(spec)?;
    let template = spec.algorithm.template();
    let over = match template {
        "scrypt" => return Ok((AWS_LC, Work::Kdf(Box::new(Scrypt::new(&key))))),
        "hkdf" => Over::Hkdf,
        "pbkdf2" => Over::Pbkdf2,
        "kdf108-ctr" => Over::Kdf108,
        _ => return Err(lacks(spec)),
    };
    let hash = spec.algorithm.hash().ok_or_else(|| lacks(spec))?;
    if let Some(kdf) = Hashed::open(over, hash, &key) {
        return Ok((AWS_LC, Work::Kdf(Box::new(kdf))));
    }
    let kdf = portable::kdf(template, hash, &key).ok_or_else(|| lacks(spec))?;
    Ok((portable::RUSTCRYPTO, Work::Kdf(kdf)))
}

#[cfg(test)]
mod tests;
