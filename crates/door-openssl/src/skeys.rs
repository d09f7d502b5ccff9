//! Symmetric keys as objects (provider-skeymgmt(7), OpenSSL 3.5 and later): the program's own, or names of the
//! broker's.

use crate::error::{Error, Reason, Result};
use crate::family::Algorithm;
use crate::ffi;
use crate::ffi::params::Given;
use crate::secret_key::{PARAMETER, SecretKey};
use cryptofd_core::secret::Secret;
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

impl Symmetric {
    /// Of the type at this place.
    pub fn import(place: usize, params: Given<'_>) -> Result<Symmetric> {
        let named = params.find(PARAMETER);
        let raw = params.find(c"raw-bytes");
        let (key, size) = match (named, raw) {
            (Some(_), Some(_)) => {
                let text = "raw-bytes and cryptofd-key: one of them";
                return Err(Error::new(Reason::PARAMETER, text));
            }
            (Some(value), None) => {
                let key = SecretKey::given(&value)?;
                let aes = key.algorithm().name.contains("aes");
                if place == 0 && !aes {
                    let text = format!(
                        "{} is a key of {}: of the type GENERIC-SECRET",
                        key.uri().to_string_lossy(),
                        key.algorithm().name
                    );
                    return Err(Error::new(Reason::UNSUPPORTED, text));
                }
                return Ok(Symmetric::Kept(key));
            }
            (None, Some(value)) => {
                let bytes = value.octets()?;
                (Secret::new(bytes), bytes.len())
            }
            (None, None) => {
                let text = "neither raw-bytes nor cryptofd-key (cryptofd:LABEL) was given";
                return Err(Error::new(Reason::PARAMETER, text));
            }
        };
        if place == 0 && ![16, 24, 32].contains(&size) {
            let text = format!("an AES key of {size} bytes: 16, 24 or 32");
            return Err(Error::new(Reason::INVALID_KEY_LENGTH, text));
        }
        Ok(Symmetric::Own(key))
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
