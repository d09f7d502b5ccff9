//! Hashes and XOFs: EVP_MD.

use super::api::{Api, EVP_MD, EVP_MD_CTX};
use super::library::{Provider, Quiet};
use super::params::{self, Params};
use super::running::{Ready, Running};
use crate::engine::Hashing;
use crate::engines::openssl::pool::Pool;
use crate::error::{Error, Result};
use crate::sys::buffer::Input;

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

/// A hash or XOF.
struct Hash {
    provider: &'static Provider,
    digest: *const EVP_MD,
    xof: bool,
    /// A size of output that is not the algorithm's own (BLAKE2).
    size: Option<usize>,
}

// SAFETY: a fetched EVP_MD is constant; the rest is Send and Sync by itself.
unsafe impl Send for Hash {}
// SAFETY: as above.
unsafe impl Sync for Hash {}

/// The hash of OpenSSL's `name`, with `size` bytes of output.
pub fn hash(
    provider: &'static Provider,
    name: &str,
    xof: bool,
    size: usize,
) -> Result<Box<dyn Hashing>> {
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
    Ok(Box::new(Ready::new(Hash {
        provider,
        digest,
        xof,
        size: other.then_some(size),
    })?))
}

impl Hash {
    fn empty(&self) -> Result<Context> {
        let api = self.provider.api();
        // SAFETY: returns an owned context or null.
        let raw = unsafe { (api.EVP_MD_CTX_new)() };
        if raw.is_null() {
            return Err(Error::system(libc::ENOMEM, "OpenSSL"));
        }
        Ok(Context { api, raw })
    }

    /// Ok for OpenSSL's 1. A fetched hash fails for want of memory only, so no mark is put into the
    /// error queue before: it would take longer than a short message.
    fn done(&self, result: i32) -> Result<()> {
        if result == 1 {
            Ok(())
        } else {
            Err(self.provider.failed(&Quiet::new(self.provider.api())))
        }
    }
}

impl Running for Hash {
    type Context = Context;
    const AGAIN: bool = true;

    fn fresh(&self) -> Result<Context> {
        let mut context = self.empty()?;
        self.begin(&mut context)?;
        Ok(context)
    }

    fn begin(&self, context: &mut Context) -> Result<()> {
        let params = self
            .size
            .map(|size| Params::new().number(c"size", size as u64));
        let list = params.as_ref().map_or(std::ptr::null(), Params::as_ptr);
        // SAFETY: context and digest are valid; the list is terminated and outlives the call.
        self.done(unsafe { (context.api.EVP_DigestInit_ex2)(context.raw, self.digest, list) })
    }

    fn update(&self, context: &mut Context, data: Input<'_>) -> Result<()> {
        let update = context.api.EVP_DigestUpdate;
        // SAFETY: the context is initialised; data is readable for its length.
        self.done(unsafe { update(context.raw, data.as_ptr().cast(), data.len()) })
    }

    fn finish(&self, context: &mut Context, out: &mut [u8]) -> Result<()> {
        let api = context.api;
        if self.xof {
            if out.is_empty() {
                return Ok(());
            }
            // SAFETY: the context is initialised; out is writable for its length.
            return self.done(unsafe {
                (api.EVP_DigestFinalXOF)(context.raw, out.as_mut_ptr(), out.len())
            });
        }
        let mut whole = [0u8; 64];
        let mut length = 0;
        // SAFETY: EVP_MAX_MD_SIZE is 64; the length is written.
        self.done(unsafe {
            (api.EVP_DigestFinal_ex)(context.raw, whole.as_mut_ptr(), &mut length)
        })?;
        if length as usize != out.len() {
            return Err(Error::engine_failed(
                libc::EIO,
                format!("OpenSSL gave {length} bytes of digest, not {}", out.len()),
            ));
        }
        out.copy_from_slice(&whole[..out.len()]);
        Ok(())
    }

    fn copy(&self, context: &Context, pool: &Pool<Context>) -> Result<Context> {
        let copy = pool.take(|| self.empty())?;
        // SAFETY: both contexts are valid, and only the copy is written.
        self.done(unsafe { (copy.api.EVP_MD_CTX_copy_ex)(copy.raw, context.raw) })?;
        Ok(copy)
    }
}
