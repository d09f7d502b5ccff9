//! Key derivation: EVP_KDF.

use super::api::{Api, EVP_KDF, EVP_KDF_CTX};
use super::library::{Provider, Quiet};
use super::params::Params;
use crate::engine::{self, Derivation};
use crate::error::{Error, Result};
use crate::secret::Secret;
use std::ffi::CString;

/// Which parameters the KDF takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// RFC 5869.
    Hkdf,
    /// RFC 8018.
    Pbkdf2,
    /// RFC 7914.
    Scrypt,
    /// SP 800-108 in counter mode: a counter of 32 bits, then the fixed input and nothing else.
    Counter,
}

/// More memory than this is left to an engine that takes it.
const MOST_MEMORY: u64 = 1 << 33;

/// A key that others derive from.
pub struct Kdf {
    provider: &'static Provider,
    kdf: *mut EVP_KDF,
    method: Method,
    digest: CString,
    key: Secret,
}

// SAFETY: a fetched EVP_KDF is constant; the rest is Send and Sync by itself.
unsafe impl Send for Kdf {}
// SAFETY: as above.
unsafe impl Sync for Kdf {}

impl Kdf {
    /// The KDF of OpenSSL's `name` over the hash of OpenSSL's `digest` (none for scrypt).
    pub fn new(
        provider: &'static Provider,
        name: &str,
        method: Method,
        digest: Option<&str>,
        key: &[u8],
    ) -> Result<Kdf> {
        if let Some(digest) = digest {
            provider.digest(digest)?;
        }
        Ok(Kdf {
            provider,
            kdf: provider.kdf(name)?,
            method,
            digest: CString::new(digest.unwrap_or_default())
                .map_err(|_| Error::not_offered("a name with a NUL"))?,
            key: Secret::new(key),
        })
    }
}

struct Context {
    api: &'static Api,
    raw: *mut EVP_KDF_CTX,
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: owned; freeing wipes it.
        unsafe { (self.api.EVP_KDF_CTX_free)(self.raw) }
    }
}

impl engine::Kdf for Kdf {
    fn derive(&self, with: &Derivation<'_>, out: &mut [u8]) -> Result<()> {
        let api = self.provider.api();
        let quiet = Quiet::new(api);
        let key = self.key.expose();
        let params = match self.method {
            Method::Hkdf => Params::new()
                .text(c"mode", c"EXTRACT_AND_EXPAND")
                .text(c"digest", &self.digest)
                .bytes(c"key", key)
                .bytes(c"salt", with.salt)
                .bytes(c"info", with.info),
            Method::Pbkdf2 => Params::new()
                .text(c"digest", &self.digest)
                .bytes(c"pass", key)
                .bytes(c"salt", with.salt)
                .number(c"iter", with.iterations.into()),
            Method::Scrypt => {
                let (n, r, p) = (with.n, u64::from(with.r), u64::from(with.p));
                // What OpenSSL counts: B (128 r p), V (128 r n) and two blocks of work.
                let memory = n
                    .checked_add(p)
                    .and_then(|blocks| blocks.checked_add(4))
                    .and_then(|blocks| blocks.checked_mul(128 * r))
                    .filter(|memory| *memory <= MOST_MEMORY)
                    .ok_or_else(|| {
                        Error::elsewhere(format!(
                            "n={n} r={r} p={p}: more than {MOST_MEMORY} bytes of memory"
                        ))
                    })?;
                Params::new()
                    .bytes(c"pass", key)
                    .bytes(c"salt", with.salt)
                    .number(c"n", n)
                    .number(c"r", r)
                    .number(c"p", p)
                    .number(c"maxmem_bytes", memory)
            }
            Method::Counter => Params::new()
                .text(c"mode", c"COUNTER")
                .text(c"mac", c"HMAC")
                .text(c"digest", &self.digest)
                .bytes(c"key", key)
                .bytes(c"info", with.info)
                .number(c"use-l", 0)
                .number(c"use-separator", 0),
        };
        // SAFETY: `kdf` is fetched; returns an owned context or null.
        let raw = unsafe { (api.EVP_KDF_CTX_new)(self.kdf) };
        if raw.is_null() {
            return Err(Error::system(libc::ENOMEM, "OpenSSL"));
        }
        let context = Context { api, raw };
        // SAFETY: out is writable for its length; the list is terminated and outlives the call.
        let done = unsafe {
            (api.EVP_KDF_derive)(context.raw, out.as_mut_ptr(), out.len(), params.as_ptr())
        };
        if done == 1 {
            Ok(())
        } else {
            zeroize::Zeroize::zeroize(out);
            Err(self.provider.elsewhere("this derivation", &quiet))
        }
    }
}
