//! MACs: EVP_MAC, and keyed BLAKE2, which is one of them.

use super::api::{Api, EVP_MAC, EVP_MAC_CTX};
use super::library::{Provider, Quiet};
use super::params::Params;
use super::running::{Ready, Running};
use crate::engine::Hashing;
use crate::engines::openssl::pool::Pool;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::sys::buffer::Input;
use std::ffi::CString;

/// An owned EVP_MAC_CTX.
struct Context {
    api: &'static Api,
    raw: *mut EVP_MAC_CTX,
}

// SAFETY: owned, and used by one thread at a time (&mut), or duplicated, which only reads it.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: owned; freeing wipes it.
        unsafe { (self.api.EVP_MAC_CTX_free)(self.raw) }
    }
}

/// What a MAC is made of besides its key.
#[derive(Default)]
pub struct Over {
    /// The hash beneath, by OpenSSL's name (HMAC).
    pub digest: Option<CString>,
    /// The cipher beneath, by OpenSSL's name (CMAC, GMAC).
    pub cipher: Option<CString>,
    /// GMAC's nonce.
    pub iv: Vec<u8>,
    /// BLAKE2's salt.
    pub salt: Vec<u8>,
    /// BLAKE2's personalisation.
    pub person: Vec<u8>,
    /// BLAKE2's output in bytes.
    pub size: Option<usize>,
}

/// A MAC with its key.
struct Mac {
    provider: &'static Provider,
    mac: *mut EVP_MAC,
    key: Secret,
    over: Over,
}

// SAFETY: a fetched EVP_MAC is constant; the rest is Send and Sync by itself.
unsafe impl Send for Mac {}
// SAFETY: as above.
unsafe impl Sync for Mac {}

/// The MAC of OpenSSL's `name`.
pub fn mac(
    provider: &'static Provider,
    name: &str,
    key: &[u8],
    over: Over,
) -> Result<Box<dyn Hashing>> {
    Ok(Box::new(Ready::new(Mac {
        provider,
        mac: provider.mac(name)?,
        key: Secret::new(key),
        over,
    })?))
}

impl Mac {
    fn with_iv<'a>(&'a self, params: Params<'a>) -> Params<'a> {
        if self.over.iv.is_empty() {
            params
        } else {
            params.bytes(c"iv", &self.over.iv)
        }
    }

    fn init(&self, context: &Context, params: &Params<'_>) -> bool {
        let key = self.key.expose();
        // SAFETY: the context is valid, the key readable for its length, the list terminated.
        let done = unsafe {
            (context.api.EVP_MAC_init)(context.raw, key.as_ptr(), key.len(), params.as_ptr())
        };
        done == 1
    }
}

impl Running for Mac {
    type Context = Context;
    const AGAIN: bool = false;

    /// What OpenSSL refuses here it does not offer.
    fn fresh(&self) -> Result<Context> {
        let api = self.provider.api();
        let quiet = Quiet::new(api);
        // SAFETY: `mac` is fetched; returns an owned context or null.
        let raw = unsafe { (api.EVP_MAC_CTX_new)(self.mac) };
        if raw.is_null() {
            return Err(Error::system(libc::ENOMEM, "OpenSSL"));
        }
        let context = Context { api, raw };
        let mut params = Params::new();
        if let Some(digest) = &self.over.digest {
            params = params.text(c"digest", digest);
        }
        if let Some(cipher) = &self.over.cipher {
            params = params.text(c"cipher", cipher);
        }
        if let Some(size) = self.over.size {
            params = params.number(c"size", size as u64);
        }
        if !self.over.salt.is_empty() {
            params = params.bytes(c"salt", &self.over.salt);
        }
        if !self.over.person.is_empty() {
            params = params.bytes(c"custom", &self.over.person);
        }
        let params = self.with_iv(params);
        if !self.init(&context, &params) {
            return Err(self.provider.not_offered("this key or nonce", &quiet));
        }
        Ok(context)
    }

    /// The key is given again: not every MAC of every 3.0.x starts again
    /// without one, and digest and cipher stay as they were set.
    fn begin(&self, context: &mut Context) -> Result<()> {
        let quiet = Quiet::new(context.api);
        if self.init(context, &self.with_iv(Params::new())) {
            Ok(())
        } else {
            Err(self.provider.failed(&quiet))
        }
    }

    fn update(&self, context: &mut Context, data: Input<'_>) -> Result<()> {
        let quiet = Quiet::new(context.api);
        // SAFETY: the context is initialised; data is readable for its length.
        let done = unsafe { (context.api.EVP_MAC_update)(context.raw, data.as_ptr(), data.len()) };
        if done == 1 {
            Ok(())
        } else {
            Err(self.provider.failed(&quiet))
        }
    }

    fn finish(&self, context: &mut Context, out: &mut [u8]) -> Result<()> {
        let quiet = Quiet::new(context.api);
        let mut length = 0;
        // SAFETY: out is writable for its length, which OpenSSL is told; the length is written.
        let done = unsafe {
            (context.api.EVP_MAC_final)(context.raw, out.as_mut_ptr(), &mut length, out.len())
        };
        if done == 1 && length == out.len() {
            Ok(())
        } else {
            Err(self.provider.failed(&quiet))
        }
    }

    fn copy(&self, context: &Context, _: &Pool<Context>) -> Result<Context> {
        let api = context.api;
        let _quiet = Quiet::new(api);
        // SAFETY: the context is valid; returns an owned copy or null.
        let raw = unsafe { (api.EVP_MAC_CTX_dup)(context.raw) };
        if raw.is_null() {
            return Err(Error::unsupported(
                "this OpenSSL cannot copy the state of this MAC; begin another one",
            ));
        }
        Ok(Context { api, raw })
    }
}
