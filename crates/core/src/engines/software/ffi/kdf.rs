//! Key derivation: HKDF, PBKDF2, SP 800-108 counter mode, scrypt.

use super::failed;
use crate::engine::{Derivation, Kdf};
use crate::error::{Error, Result};
use crate::secret::Secret;
use aws_lc_sys as c;

/// The constructions over a hash.
#[derive(Clone, Copy)]
pub enum Over {
    /// RFC 5869.
    Hkdf,
    /// RFC 8018, 5.2, with HMAC.
    Pbkdf2,
    /// SP 800-108, 4.1, with HMAC: a 32-bit counter, then the fixed input.
    Kdf108,
}

/// A KDF over a hash, with its key.
pub struct Hashed {
    over: Over,
    digest: *const c::EVP_MD,
    key: Secret,
}

// SAFETY: EVP_MD is a static constant.
unsafe impl Send for Hashed {}
// SAFETY: as above.
unsafe impl Sync for Hashed {}

impl Hashed {
    /// `None` where AWS-LC lacks the hash.
    pub fn open(over: Over, hash: &str, key: &Secret) -> Option<Hashed> {
        super::digest(hash).map(|digest| Hashed {
            over,
            digest,
            key: key.clone(),
        })
    }
}

impl Kdf for Hashed {
    fn derive(&self, with: &Derivation<'_>, out: &mut [u8]) -> Result<()> {
        let key = self.key.expose();
        // SAFETY: every pointer is valid for its length, and none is null.
        let result = unsafe {
            match self.over {
                Over::Hkdf => c::HKDF(
                    out.as_mut_ptr(),
                    out.len(),
                    self.digest,
                    key.as_ptr(),
                    key.len(),
                    with.salt.as_ptr(),
                    with.salt.len(),
                    with.info.as_ptr(),
                    with.info.len(),
                ),
                Over::Pbkdf2 => c::PKCS5_PBKDF2_HMAC(
                    key.as_ptr().cast(),
                    key.len(),
                    with.salt.as_ptr(),
                    with.salt.len(),
                    with.iterations,
                    self.digest,
                    out.len(),
                    out.as_mut_ptr(),
                ),
                Over::Kdf108 => c::KBKDF_ctr_hmac(
                    out.as_mut_ptr(),
                    out.len(),
                    self.digest,
                    key.as_ptr(),
                    key.len(),
                    with.info.as_ptr(),
                    with.info.len(),
                ),
            }
        };
        if result == 1 {
            Ok(())
        } else {
            zeroize::Zeroize::zeroize(out);
            Err(failed("key derivation"))
        }
    }
}

/// scrypt (RFC 7914), with its password.
pub struct Scrypt(Secret);

impl Scrypt {
    /// From a password of any length.
    pub fn new(password: &Secret) -> Scrypt {
        Scrypt(password.clone())
    }
}

impl Kdf for Scrypt {
    fn derive(&self, with: &Derivation<'_>, out: &mut [u8]) -> Result<()> {
        // RFC 7914, 2: N is less than 2^(128 r / 8).
        if with.r < 4 && with.n >= 1 << (16 * with.r) {
            return Err(Error::invalid(format!(
                "n={} r={}: scrypt takes n below 2^(16 r)",
                with.n, with.r
            )));
        }
        let password = self.0.expose();
        // SAFETY: every pointer is valid for its length; memory was bounded by the session.
        let result = unsafe {
            c::EVP_PBE_scrypt(
                password.as_ptr().cast(),
                password.len(),
                with.salt.as_ptr(),
                with.salt.len(),
                with.n,
                with.r.into(),
                with.p.into(),
                usize::MAX,
                out.as_mut_ptr(),
                out.len(),
            )
        };
        if result == 1 {
            return Ok(());
        }
        zeroize::Zeroize::zeroize(out);
        // SAFETY: empties this thread's error queue.
        unsafe { c::ERR_clear_error() }
        Err(Error::system(
            libc::ENOMEM,
            "scrypt, whose memory is 128 r (n + p + 1) bytes",
        ))
    }
}
