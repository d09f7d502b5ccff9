//! The engine `openssl`: the host's own libcrypto, in a library context of its own.
//!
//! Loaded when it is first asked for, never linked. OpenSSL's names stand in the table of algorithms;
//! what this host's OpenSSL lacks, it says when it is asked.

mod ffi;
mod pool;
#[cfg(test)]
mod tests;

use crate::engine::{Blake2, Engine, Opened, Spec, Work};
use crate::error::{Error, Result};
use crate::table::{self, Kind};
use ffi::{Library, Method, Over, Provider};
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};

/// The engine.
pub struct OpenSsl;

static DISABLED: AtomicBool = AtomicBool::new(false);

/// Takes the engine out of this process for good: for a door that OpenSSL itself has opened, which would
/// otherwise call itself.
pub fn disable() {
    DISABLED.store(true, Ordering::Relaxed);
}

fn allowed() -> Result<()> {
    if DISABLED.load(Ordering::Relaxed) {
        return Err(Error::not_offered(
            "not used inside OpenSSL's own provider, which would call itself",
        ));
    }
    Ok(())
}

impl Engine for OpenSsl {
    fn name(&self) -> &'static str {
        "openssl"
    }

    fn probe(&self) -> Result<String> {
        allowed()?;
        let library = Library::get()?;
        Ok(format!(
            "{}, {}",
            library.version(),
            if library.has_fips_module() {
                "FIPS provider installed"
            } else {
                "no FIPS provider"
            }
        ))
    }

    fn open(&self, spec: &Spec) -> Result<Opened> {
        allowed()?;
        let provider = Provider::get(spec.fips)?;
        // A module has more than what is approved: Triple-DES still, for data of old.
        if spec.fips && !spec.algorithm.fips {
            return Err(Error::not_offered(format!(
                "{} is not approved in FIPS 140-3",
                spec.algorithm.name
            )));
        }
        Ok(Opened {
            work: work(provider, spec)?,
            driver: provider.name().into(),
            driver_certain: true,
            hardware: false,
            fips: provider.is_fips(),
        })
    }
}

/// OpenSSL's name of `spec`'s algorithm, with the key's bits in it.
fn name(spec: &Spec) -> Result<String> {
    let algorithm = spec.algorithm;
    let name = algorithm
        .openssl
        .ok_or_else(|| Error::not_offered(format!("OpenSSL has no name for {}", algorithm.name)))?;
    let size = spec.key.bytes()?.len();
    // An XTS key is two keys.
    let size = if algorithm.template() == "xts" {
        size / 2
    } else {
        size
    };
    Ok(name.replace('*', &(size * 8).to_string()))
}

/// OpenSSL's name of another algorithm of the table.
fn name_of(algorithm: &str) -> Result<&'static str> {
    table::find(algorithm)?
        .openssl
        .ok_or_else(|| Error::not_offered(format!("OpenSSL has no name for {algorithm}")))
}

fn c_name(name: &str) -> Result<CString> {
    CString::new(name).map_err(|_| Error::not_offered("a name with a NUL"))
}

fn work(provider: &'static Provider, spec: &Spec) -> Result<Work> {
    let algorithm = spec.algorithm;
    let name = name(spec)?;
    let key = spec.key.bytes()?;
    Ok(match algorithm.kind {
        Kind::Hash if algorithm.salt > 0 => blake2(provider, spec, &name)?,
        Kind::Hash | Kind::Xof => {
            let xof = algorithm.kind == Kind::Xof;
            Work::Hashing(ffi::hash(provider, &name, xof, spec.digest_size())?)
        }
        Kind::Mac => {
            let mut over = Over {
                iv: spec.parameters.iv.clone(),
                ..Over::default()
            };
            let (mac, beneath) = name.split_once('/').unwrap_or((&name, ""));
            if algorithm.template() == "hmac" {
                provider.has_digest(beneath)?;
                over.digest = Some(c_name(beneath)?);
            } else if !beneath.is_empty() {
                provider.has_cipher(beneath)?;
                over.cipher = Some(c_name(beneath)?);
            }
            Work::Hashing(ffi::mac(provider, mac, key, over)?)
        }
        Kind::Cipher => {
            let counter = algorithm.template() == "chacha20";
            Work::Cipher(Box::new(ffi::Cipher::new(provider, &name, key, counter)?))
        }
        Kind::Aead => Work::Aead(Box::new(ffi::Aead::new(
            provider,
            &name,
            algorithm.template(),
            key,
            spec.tag_size(),
        )?)),
        Kind::Wrap => Work::Wrap(Box::new(ffi::KeyWrap::new(provider, &name, key)?)),
        Kind::Kdf => {
            let method = match algorithm.template() {
                "hkdf" => Method::Hkdf,
                "pbkdf2" => Method::Pbkdf2,
                "scrypt" => Method::Scrypt,
                "kdf108-ctr" => Method::Counter,
                other => return Err(Error::not_offered(format!("no way to derive by {other}"))),
            };
            let digest = algorithm.hash().map(name_of).transpose()?;
            Work::Kdf(Box::new(ffi::Kdf::new(
                provider, &name, method, digest, key,
            )?))
        }
        Kind::Rng => {
            let cipher = name_of("ctr(aes)")?.replace('*', "256");
            Work::Random(Box::new(ffi::Random::new(provider, &name, &cipher)?))
        }
        Kind::Pair => Work::Pair(Box::new(ffi::Pair::new(provider, &name, key)?)),
        Kind::Streaming => {
            return Err(Error::not_offered(format!(
                "{} is composed by the session, of other algorithms",
                algorithm.name
            )));
        }
    })
}

/// BLAKE2: without a key a hash, with one a MAC, which alone takes salt and personalisation.
fn blake2(provider: &'static Provider, spec: &Spec, name: &str) -> Result<Work> {
    let key = spec.key.bytes()?;
    let asked = spec.parameters.blake2.clone().unwrap_or_default();
    let sequential = Blake2 {
        salt: asked.salt.clone(),
        person: asked.person.clone(),
        ..Blake2::default()
    };
    if asked != sequential {
        return Err(Error::not_offered("OpenSSL has no tree hashing for BLAKE2"));
    }
    if key.is_empty() {
        if asked != Blake2::default() {
            return Err(Error::not_offered(
                "OpenSSL takes BLAKE2's salt and person only together with a key",
            ));
        }
        let hash = ffi::hash(provider, name, false, spec.digest_size())?;
        return Ok(Work::Hashing(hash));
    }
    // BLAKE2B-512 with a key is BLAKE2BMAC.
    let family = name.split('-').next().unwrap_or(name);
    let over = Over {
        salt: asked.salt,
        person: asked.person,
        size: Some(spec.digest_size()),
        ..Over::default()
    };
    let mac = ffi::mac(provider, &format!("{family}MAC"), key, over)?;
    Ok(Work::Hashing(mac))
}
