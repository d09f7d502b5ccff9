//! Making keys: of the right form and size, of the engine `software`'s random bytes.

use crate::engines::software;
use crate::error::{Error, Result};
use crate::secret::{Secret, equal};
use crate::table::{Algorithm, Kind};

/// A new key.
#[derive(Debug)]
pub struct Generated {
    /// Raw bytes of a secret key, PKCS#8 in DER of a private one.
    pub key: Secret,
    /// SubjectPublicKeyInfo in DER of an asymmetric key.
    pub public: Option<Vec<u8>>,
    /// Bits of the key.
    pub bits: usize,
}

/// Makes a key for `algorithm`, of `bits` or what suits it best. EINVAL for a size that it does not take.
pub fn generate(algorithm: &'static Algorithm, bits: Option<usize>) -> Result<Generated> {
    if algorithm.kind == Kind::Pair {
        let bits = bits.unwrap_or(algorithm.bits_default);
        let sizes = algorithm.bits;
        if !sizes.contains(bits) {
            return Err(Error::invalid(format!(
                "{bits} bits: {} takes {} to {} in steps of {}",
                algorithm.name, sizes.min, sizes.max, sizes.step
            )));
        }
        let (key, public) = software::pair::generate(algorithm, bits)?;
        return Ok(Generated {
            key,
            public: Some(public),
            bits,
        });
    }
    if !algorithm.takes_key() {
        return Err(Error::invalid(format!("{} takes no key", algorithm.name)));
    }
    let sizes = algorithm.key;
    let bytes = match bits {
        Some(bits) if bits % 8 != 0 || bits == 0 || !sizes.contains(bits / 8) => {
            return Err(Error::invalid(format!(
                "a key of {bits} bits: {} takes {sizes}",
                algorithm.name
            )));
        }
        Some(bits) => bits / 8,
        None => suitable(algorithm),
    };
    let key = loop {
        let key = Secret::made(bytes, |key| {
            software::random(key)?;
            if algorithm.name.contains("des3_ede") {
                odd_parity(key);
            }
            Ok(bytes)
        })?;
        if distinct(algorithm, key.expose()) {
            break key;
        }
    };
    Ok(Generated {
        key,
        public: None,
        bits: bytes * 8,
    })
}

/// Bytes of a key when nobody says: the longest; where any length goes, the hash's.
fn suitable(algorithm: &Algorithm) -> usize {
    let sizes = algorithm.key;
    if sizes.max <= 64 && algorithm.kind != Kind::Hash {
        sizes.max
    } else {
        algorithm.digest.clamp(32, 64).clamp(sizes.min, sizes.max)
    }
}

/// The lowest bit of each byte makes the number of ones odd (FIPS 46-3).
fn odd_parity(key: &mut [u8]) {
    for byte in key {
        *byte = (*byte & 0xfe) | u8::from((*byte >> 1).count_ones() % 2 == 0);
    }
}

/// Whether the parts of a key differ where they must: XTS (FIPS 140-3 IG C.I), triple DES (SP 800-67, 3.2).
fn distinct(algorithm: &Algorithm, key: &[u8]) -> bool {
    let parts = if algorithm.template() == "xts" {
        2
    } else if algorithm.name.contains("des3_ede") {
        3
    } else {
        return true;
    };
    let parts: Vec<&[u8]> = key.chunks(key.len() / parts).collect();
    parts
        .iter()
        .enumerate()
        .all(|(n, one)| parts[..n].iter().all(|other| !equal(one, other)))
}
