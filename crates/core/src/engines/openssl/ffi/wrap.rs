//! Key wrapping: AES-KW and AES-KWP (RFC 3394, RFC 5649) through EVP_CIPHER.

use super::api::EVP_CIPHER;
use super::cipher::{Context, MOST};
use super::library::{Provider, Quiet};
use crate::engine::{self, Direction};
use crate::error::{Error, Result};
use crate::secret::Secret;
use std::ffi::c_int;
use zeroize::Zeroizing;

const EVP_CIPHER_CTX_FLAG_WRAP_ALLOW: c_int = 0x1;

/// A key-wrapping key.
pub struct KeyWrap {
    provider: &'static Provider,
    cipher: *const EVP_CIPHER,
    key: Secret,
}

// SAFETY: a fetched EVP_CIPHER is constant; the rest is Send and Sync by itself.
unsafe impl Send for KeyWrap {}
// SAFETY: as above.
unsafe impl Sync for KeyWrap {}

impl KeyWrap {
    /// The wrapping cipher of OpenSSL's `name`.
    pub fn new(provider: &'static Provider, name: &str, key: &[u8]) -> Result<KeyWrap> {
        Ok(KeyWrap {
            provider,
            cipher: provider.cipher(name)?,
            key: Secret::new(key),
        })
    }

    /// The result, or `None` where OpenSSL refuses.
    fn pass(&self, direction: Direction, data: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let api = self.provider.api();
        if data.len() > MOST {
            return Err(Error::elsewhere(format!(
                "{} bytes: OpenSSL wraps at most {MOST} at once",
                data.len()
            )));
        }
        let mut context = Context::new(api)?;
        // SAFETY: the context is valid.
        unsafe { (api.EVP_CIPHER_CTX_set_flags)(context.raw, EVP_CIPHER_CTX_FLAG_WRAP_ALLOW) };
        if !context.init(self.cipher, Some(self.key.expose()), None, direction) {
            let quiet = Quiet::new(api);
            return Err(self.provider.failed(&quiet));
        }
        // Padding to 8 bytes, a header of 8, and a block of room for OpenSSL.
        let mut out = Zeroizing::new(vec![0u8; data.len() + 32]);
        let mut length: c_int = 0;
        // SAFETY: data is readable for its length; out has room for the longest result.
        let done = unsafe {
            (api.EVP_CipherUpdate)(
                context.raw,
                out.as_mut_ptr(),
                &mut length,
                data.as_ptr(),
                data.len() as c_int,
            )
        };
        match usize::try_from(length) {
            Ok(length) if done == 1 && length > 0 && length <= out.len() => {
                out.truncate(length);
                Ok(Some(out))
            }
            _ => Ok(None),
        }
    }
}

impl engine::KeyWrap for KeyWrap {
    fn wrap(&self, key: &[u8]) -> Result<Vec<u8>> {
        let quiet = Quiet::new(self.provider.api());
        match self.pass(Direction::Encrypt, key)? {
            Some(wrapped) => Ok(wrapped.to_vec()),
            None => Err(self.provider.elsewhere("to wrap this key", &quiet)),
        }
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<Secret> {
        let _quiet = Quiet::new(self.provider.api());
        match self.pass(Direction::Decrypt, wrapped)? {
            Some(key) => Ok(Secret::new(&key)),
            None => Err(Error::bad_tag()),
        }
    }
}
