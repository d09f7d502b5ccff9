//! Hashes and XOFs: EVP_MD.

use super::api::{Api, EVP_MD, EVP_MD_CTX};
use super::library::{Provider, Quiet};
use super::params::{self, Params};
use crate::engine::{self, Digest, Hashing};
use crate::engines::openssl::pool::Pool;
use crate::error::{Error, Result};
use crate::sys::buffer::Input;
use std::sync::Arc;

/// An owned EVP_MD_CTX.
struct Context {
    api: &'static Api,
    raw: *mut EVP_MD_CTX,
}

// SAFETY: owned, and used by one thread at a time (&mut), or copied from, which only reads it.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: owned; freeing wipes it.
        unsafe { (self.api.EVP_MD_CTX_free)(self.raw) }
    }
}

/// A hash or XOF that is ready to begin.
pub struct Hash(Arc<Shared>);

struct Shared {
    provider: &'static Provider,
    digest: *const EVP_MD,
    xof: bool,
    /// A size of output that is not the algorithm's own (BLAKE2).
    size: Option<usize>,
    pool: Pool<Context>,
}

// SAFETY: a fetched EVP_MD is constant; the rest is Send and Sync by itself.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Hash {
    /// The hash of OpenSSL's `name`, with `size` bytes of output.
    pub fn new(provider: &'static Provider, name: &str, xof: bool, size: usize) -> Result<Hash> {
        let digest = provider.digest(name)?;
        let api = provider.api();
        // SAFETY: `digest` is fetched.
        let natural = unsafe { (api.EVP_MD_get_size)(digest) };
        let other = !xof && usize::try_from(natural) != Ok(size);
        if other {
            // SAFETY: the list is the provider's own, static and terminated.
            let can = unsafe { params::names((api.EVP_MD_settable_ctx_params)(digest), c"size") };
            if !can {
                return Err(Error::not_offered(format!(
                    "this OpenSSL's {name} gives {natural} bytes only, not {size} (3.2 and later can)"
                )));
            }
        }
        let shared = Shared {
            provider,
            digest,
            xof,
            size: other.then_some(size),
            pool: Pool::new(),
        };
        let first = shared.fresh()?;
        shared.pool.give(first);
        Ok(Hash(Arc::new(shared)))
    }
}

impl Shared {
    /// A context at the beginning.
    fn fresh(&self) -> Result<Context> {
        let context = self.empty()?;
        self.begin(&context)?;
        Ok(context)
    }

    fn empty(&self) -> Result<Context> {
        let api = self.provider.api();
        // SAFETY: returns an owned context or null.
        let raw = unsafe { (api.EVP_MD_CTX_new)() };
        if raw.is_null() {
            return Err(Error::system(libc::ENOMEM, "OpenSSL"));
        }
        Ok(Context { api, raw })
    }

    fn begin(&self, context: &Context) -> Result<()> {
        let api = self.provider.api();
        let quiet = Quiet::new(api);
        let params = self
            .size
            .map(|size| Params::new().number(c"size", size as u64));
        let list = params.as_ref().map_or(std::ptr::null(), Params::as_ptr);
        // SAFETY: context and digest are valid; the list is terminated and outlives the call.
        if unsafe { (api.EVP_DigestInit_ex2)(context.raw, self.digest, list) } != 1 {
            return Err(self.provider.failed(&quiet));
        }
        Ok(())
    }

    fn update(&self, context: &mut Context, data: Input<'_>) -> Result<()> {
        let api = self.provider.api();
        let quiet = Quiet::new(api);
        // SAFETY: the context is initialised; data is readable for its length.
        let done = unsafe { (api.EVP_DigestUpdate)(context.raw, data.as_ptr().cast(), data.len()) };
        if done != 1 {
            return Err(self.provider.failed(&quiet));
        }
        Ok(())
    }

    fn finish(&self, context: &mut Context, out: &mut [u8]) -> Result<()> {
        let api = self.provider.api();
        let quiet = Quiet::new(api);
        if self.xof {
            if out.is_empty() {
                return Ok(());
            }
            // SAFETY: the context is initialised; out is writable for its length.
            let done =
                unsafe { (api.EVP_DigestFinalXOF)(context.raw, out.as_mut_ptr(), out.len()) };
            return if done == 1 {
                Ok(())
            } else {
                Err(self.provider.failed(&quiet))
            };
        }
        let mut whole = [0u8; 64];
        let mut length = 0;
        // SAFETY: EVP_MAX_MD_SIZE is 64; the length is written.
        let done =
            unsafe { (api.EVP_DigestFinal_ex)(context.raw, whole.as_mut_ptr(), &mut length) };
        if done != 1 {
            return Err(self.provider.failed(&quiet));
        }
        if length as usize != out.len() {
            return Err(Error::engine_failed(
                libc::EIO,
                format!("OpenSSL gave {length} bytes of digest, not {}", out.len()),
            ));
        }
        out.copy_from_slice(&whole[..out.len()]);
        Ok(())
    }
}

impl Hashing for Hash {
    fn begin(&self) -> Result<Box<dyn Digest>> {
        Ok(Box::new(State {
            context: self.0.fresh()?,
            shared: self.0.clone(),
        }))
    }

    fn once(&self, data: Input<'_>, out: &mut [u8]) -> Result<()> {
        let shared = &self.0;
        let mut context = shared.pool.take(|| shared.empty())?;
        shared.begin(&context)?;
        shared.update(&mut context, data)?;
        shared.finish(&mut context, out)?;
        shared.pool.give(context);
        Ok(())
    }
}

struct State {
    context: Context,
    shared: Arc<Shared>,
}

impl engine::Digest for State {
    fn update(&mut self, data: Input<'_>) -> Result<()> {
        self.shared.update(&mut self.context, data)
    }

    fn finish(&mut self, out: &mut [u8]) -> Result<()> {
        self.shared.finish(&mut self.context, out)
    }

    fn fork(&self) -> Result<Box<dyn Digest>> {
        let copy = self.shared.empty()?;
        let quiet = Quiet::new(copy.api);
        // SAFETY: both contexts are valid, and only the copy is written.
        if unsafe { (copy.api.EVP_MD_CTX_copy_ex)(copy.raw, self.context.raw) } != 1 {
            return Err(self.shared.provider.failed(&quiet));
        }
        Ok(Box::new(State {
            context: copy,
            shared: self.shared.clone(),
        }))
    }

    fn reset(&mut self) -> Result<()> {
        self.shared.begin(&self.context)
    }
}
