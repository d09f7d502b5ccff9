//! Random bytes: generators of our own (EVP_RAND), seeded by the system.

use super::api::{Api, EVP_RAND, EVP_RAND_CTX};
use super::library::{Provider, Quiet};
use super::params::Params;
use crate::engine;
use crate::engines::openssl::pool::Pool;
use crate::error::{Error, Result};
use std::ffi::CString;

/// Bits of security that a generator is asked for.
const STRENGTH: u32 = 256;

/// A source of random bytes. Generators are not shared between threads; a child of fork() has OpenSSL
/// reseed its copies, which it recognises by their process id.
pub struct Random {
    provider: &'static Provider,
    rand: *mut EVP_RAND,
    cipher: CString,
    pool: Pool<Generator>,
}

// SAFETY: a fetched EVP_RAND is constant; the rest is Send and Sync by itself.
unsafe impl Send for Random {}
// SAFETY: as above.
unsafe impl Sync for Random {}

struct Generator {
    api: &'static Api,
    raw: *mut EVP_RAND_CTX,
}

// SAFETY: owned, and used by one thread at a time.
unsafe impl Send for Generator {}

impl Drop for Generator {
    fn drop(&mut self) {
        // SAFETY: owned; freeing wipes it.
        unsafe { (self.api.EVP_RAND_CTX_free)(self.raw) }
    }
}

impl Random {
    /// The generator of OpenSSL's `name`, over the cipher of OpenSSL's name.
    pub fn new(provider: &'static Provider, name: &str, cipher: &str) -> Result<Random> {
        let random = Random {
            provider,
            rand: provider.rand(name)?,
            cipher: CString::new(cipher).map_err(|_| Error::not_offered("a name with a NUL"))?,
            pool: Pool::new(),
        };
        let first = random.seeded()?;
        random.pool.give(first);
        Ok(random)
    }

    fn seeded(&self) -> Result<Generator> {
        let api = self.provider.api();
        let quiet = Quiet::new(api);
        // SAFETY: `rand` is fetched; without a parent, the system's entropy seeds it.
        let raw = unsafe { (api.EVP_RAND_CTX_new)(self.rand, std::ptr::null_mut()) };
        if raw.is_null() {
            return Err(Error::system(libc::ENOMEM, "OpenSSL"));
        }
        let generator = Generator { api, raw };
        let params = Params::new().text(c"cipher", &self.cipher);
        // SAFETY: the context is valid; no personalisation; the list is terminated.
        let done = unsafe {
            (api.EVP_RAND_instantiate)(raw, STRENGTH, 0, std::ptr::null(), 0, params.as_ptr())
        };
        if done == 1 {
            Ok(generator)
        } else {
            Err(self.provider.not_offered("to seed a generator", &quiet))
        }
    }
}

impl engine::Random for Random {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let api = self.provider.api();
        let quiet = Quiet::new(api);
        let generator = self.pool.take(|| self.seeded())?;
        // SAFETY: out is writable for its length; OpenSSL cuts it into requests.
        let done = unsafe {
            (api.EVP_RAND_generate)(
                generator.raw,
                out.as_mut_ptr(),
                out.len(),
                STRENGTH,
                0,
                std::ptr::null(),
                0,
            )
        };
        if done == 1 {
            self.pool.give(generator);
            Ok(())
        } else {
            zeroize::Zeroize::zeroize(out);
            Err(self.provider.failed(&quiet))
        }
    }
}
