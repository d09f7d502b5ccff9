//! Symmetric keys as objects (provider-skeymgmt(7), OpenSSL 3.5 and later): the program's own, or names of the
//! broker's.

use crate::error::{Error, Reason, Result};
use crate::family::Algorithm;
use crate::ffi;
use crate::ffi::params::Given;
use crate::making;
use crate::secret_key::{PARAMETER, SecretKey};
use cryptofd_core::engines::software;
use cryptofd_core::secret::Secret;
use cryptofd_core::table;
use std::ffi::CStr;
use std::sync::Arc;

/// A symmetric key.
pub enum Symmetric {
    /// The program's own.
    Own(Secret),
    /// The broker's.
    Kept(Arc<SecretKey>),
}

/// OpenSSL's types of them.
const TYPES: [&str; 2] = ["AES", "GENERIC-SECRET"];

/// What is advertised.
pub fn managers() -> Vec<Algorithm> {
    let all = TYPES.iter().enumerate();
    all.map(|(place, name)| {
        let about = "symmetric keys, cryptofd's by reference";
        Algorithm::new(name, ffi::skeymgmt::functions(place), about)
            .with("provider=cryptofd,cryptofd.keys=yes", (3, 5))
    })
    .collect()
}

/// Sizes of AES's keys, and of those that nobody says the size of.
const AES: [usize; 3] = [16, 24, 32];
const USUAL: usize = 32;
/// Most bytes of a key of no algorithm.
const MOST: usize = 4096;

/// Whether a key of this algorithm is of the type at this place.
fn fits(place: usize, algorithm: &table::Algorithm) -> Result<()> {
    if place == 0 && !algorithm.name.contains("aes") {
        let text = format!("a key of {}: of the type GENERIC-SECRET", algorithm.name);
        return Err(Error::new(Reason::UNSUPPORTED, text));
    }
    Ok(())
}

impl Symmetric {
    /// One of the broker's, which is of the type at this place.
    fn kept(place: usize, key: Arc<SecretKey>) -> Result<Symmetric> {
        fits(place, key.algorithm())?;
        Ok(Symmetric::Kept(key))
    }

    /// One of the program's own.
    fn own(place: usize, key: Secret) -> Result<Symmetric> {
        let size = key.expose().len();
        if place == 0 && !AES.contains(&size) {
            let text = format!("an AES key of {size} bytes: 16, 24 or 32");
            return Err(Error::new(Reason::INVALID_KEY_LENGTH, text));
        }
        Ok(Symmetric::Own(key))
    }

    /// A new one of the type at this place: where the parameters name it, the broker makes and keeps it.
    pub fn generate(place: usize, params: Given<'_>) -> Result<Symmetric> {
        if let Some(key) = making::secret(params, |algorithm| fits(place, algorithm))? {
            return Ok(Symmetric::Kept(key));
        }
        let size = params.find(c"key-length");
        let size = size.map_or(Ok(USUAL), |size| size.size())?;
        if size == 0 || size > MOST {
            let text = format!("a key of {size} bytes: 1 to {MOST}");
            return Err(Error::new(Reason::INVALID_KEY_LENGTH, text));
        }
        let key = Secret::made(size, |out| software::random(out).map(|()| size))?;
        Symmetric::own(place, key)
    }

    /// Of the type at this place.
    pub fn import(place: usize, params: Given<'_>) -> Result<Symmetric> {
        let named = params.find(PARAMETER);
        let raw = params.find(c"raw-bytes");
        match (named, raw) {
            (Some(_), Some(_)) => {
                let text = "raw-bytes and cryptofd-key: one of them";
                Err(Error::new(Reason::PARAMETER, text))
            }
            (Some(value), None) => Symmetric::kept(place, SecretKey::given(&value)?),
            (None, Some(value)) => Symmetric::own(place, Secret::new(value.octets()?)),
            (None, None) => {
                let text = "neither raw-bytes nor cryptofd-key (cryptofd:LABEL) was given";
                Err(Error::new(Reason::PARAMETER, text))
            }
        }
    }

    /// Its bytes, where it is the program's own.
    pub fn bytes(&self) -> Result<&[u8]> {
        match self {
            Symmetric::Own(key) => Ok(key.expose()),
            Symmetric::Kept(key) => Err(Error::new(
                Reason::REFUSED,
                format!(
                    "{} stays with the broker: its bytes are in no program. Fetch the cipher or MAC with \
                     cryptofd.keys=yes, which works with it",
                    key.uri().to_string_lossy()
                ),
            )),
        }
    }

    /// What it is called, where the broker has it.
    pub fn id(&self) -> Option<&CStr> {
        match self {
            Symmetric::Own(_) => None,
            Symmetric::Kept(key) => Some(key.uri()),
        }
    }
}
