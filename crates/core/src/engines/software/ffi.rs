//! AWS-LC through its C interface.

use crate::engine;
use crate::error::{Error, Result};
use crate::sys::buffer::{Input, Output};
use aws_lc_sys as c;
use std::ffi::CStr;

/// AWS-LC's own name for its version.
pub fn version() -> String {
    // SAFETY: returns a static string.
    let text = unsafe { CStr::from_ptr(c::OpenSSL_version(0)) };
    text.to_string_lossy().into_owned()
}

fn no_memory() -> Error {
    Error::system(libc::ENOMEM, "AWS-LC")
}

/// An AEAD with its key expanded.
pub struct Aead {
    context: Box<c::EVP_AEAD_CTX>,
    tag: usize,
}

// SAFETY: seal and open take a const context and keep no state in it (aead.h: thread-safe).
unsafe impl Send for Aead {}
// SAFETY: as above.
unsafe impl Sync for Aead {}

impl Aead {
    pub fn new(spec: &engine::Spec) -> Result<Aead> {
        let key = spec.key.bytes()?;
        // SAFETY: these return pointers to static tables.
        let aead = unsafe {
            match (spec.algorithm.template(), key.len()) {
                ("gcm", 16) => c::EVP_aead_aes_128_gcm(),
                ("gcm", 24) => c::EVP_aead_aes_192_gcm(),
                ("gcm", 32) => c::EVP_aead_aes_256_gcm(),
                _ => return Err(Error::not_offered(format!("no {}", spec.algorithm.name))),
            }
        };
        // SAFETY: an all-zero EVP_AEAD_CTX is what EVP_AEAD_CTX_zero makes.
        let mut context: Box<c::EVP_AEAD_CTX> = Box::new(unsafe { std::mem::zeroed() });
        let tag = spec.tag_size();
        // SAFETY: context, aead and key are valid for the call; the key is copied.
        let done = unsafe {
            c::EVP_AEAD_CTX_init(
                &mut *context,
                aead,
                key.as_ptr(),
                key.len(),
                tag,
                std::ptr::null_mut(),
            )
        };
        if done != 1 {
            return Err(no_memory());
        }
        Ok(Aead { context, tag })
    }
}

impl engine::Aead for Aead {
    fn seal(&self, iv: &[u8], aad: Input<'_>, data: Input<'_>, out: Output<'_>) -> Result<()> {
        let mut written = 0;
        // SAFETY: every pointer is valid for its length during the call; out holds data and tag, and
        // is the same memory as data or apart from it, as EVP_AEAD_CTX_seal asks.
        let done = unsafe {
            c::EVP_AEAD_CTX_seal(
                &*self.context,
                out.as_mut_ptr(),
                &mut written,
                out.len(),
                iv.as_ptr(),
                iv.len(),
                data.as_ptr(),
                data.len(),
                aad.as_ptr(),
                aad.len(),
            )
        };
        if done == 1 && written == data.len() + self.tag {
            Ok(())
        } else {
            out.wipe();
            Err(Error::invalid("AWS-LC refused to encrypt"))
        }
    }

    fn unseal(&self, iv: &[u8], aad: Input<'_>, data: Input<'_>, out: Output<'_>) -> Result<()> {
        let mut written = 0;
        // SAFETY: as above; out is as long as the plaintext.
        let done = unsafe {
            c::EVP_AEAD_CTX_open(
                &*self.context,
                out.as_mut_ptr(),
                &mut written,
                out.len(),
                iv.as_ptr(),
                iv.len(),
                data.as_ptr(),
                data.len(),
                aad.as_ptr(),
                aad.len(),
            )
        };
        if done == 1 && written == out.len() {
            Ok(())
        } else {
            out.wipe();
            Err(Error::bad_tag())
        }
    }
}

impl Drop for Aead {
    fn drop(&mut self) {
        // SAFETY: initialised in new(); cleanup wipes the key schedule.
        unsafe { c::EVP_AEAD_CTX_cleanup(&mut *self.context) }
    }
}

/// A hash.
pub struct Hash {
    digest: *const c::EVP_MD,
}

// SAFETY: EVP_MD is a static constant.
unsafe impl Send for Hash {}
// SAFETY: as above.
unsafe impl Sync for Hash {}

impl Hash {
    pub fn new(name: &str) -> Result<Hash> {
        // SAFETY: these return pointers to static tables.
        let digest = unsafe {
            match name {
                "sha256" => c::EVP_sha256(),
                _ => return Err(Error::not_offered(format!("no {name}"))),
            }
        };
        Ok(Hash { digest })
    }
}

impl engine::Hashing for Hash {
    fn begin(&self) -> Result<Box<dyn engine::Digest>> {
        let mut state = State {
            // SAFETY: returns an owned context or null.
            context: unsafe { c::EVP_MD_CTX_new() },
            digest: self.digest,
        };
        if state.context.is_null() {
            return Err(no_memory());
        }
        engine::Digest::reset(&mut state)?;
        Ok(Box::new(state))
    }
}

struct State {
    context: *mut c::EVP_MD_CTX,
    digest: *const c::EVP_MD,
}

// SAFETY: the context is owned and used by one thread at a time (&mut).
unsafe impl Send for State {}
// SAFETY: &State only copies the context, which does not write to it.
unsafe impl Sync for State {}

impl engine::Digest for State {
    fn update(&mut self, data: Input<'_>) -> Result<()> {
        // SAFETY: the context is initialised; data is valid for its length.
        let done = unsafe { c::EVP_DigestUpdate(self.context, data.as_ptr().cast(), data.len()) };
        if done == 1 { Ok(()) } else { Err(no_memory()) }
    }

    fn finish(&mut self, out: &mut [u8]) -> Result<()> {
        // SAFETY: out was sized from the table to the digest's size.
        let done = unsafe {
            assert_eq!(out.len(), c::EVP_MD_CTX_size(self.context) as usize);
            c::EVP_DigestFinal_ex(self.context, out.as_mut_ptr(), std::ptr::null_mut())
        };
        if done == 1 { Ok(()) } else { Err(no_memory()) }
    }

    fn fork(&self) -> Result<Box<dyn engine::Digest>> {
        let copy = State {
            // SAFETY: returns an owned context or null.
            context: unsafe { c::EVP_MD_CTX_new() },
            digest: self.digest,
        };
        if copy.context.is_null() {
            return Err(no_memory());
        }
        // SAFETY: both are contexts that are not null.
        let done = unsafe { c::EVP_MD_CTX_copy_ex(copy.context, self.context) };
        if done != 1 {
            return Err(no_memory());
        }
        Ok(Box::new(copy))
    }

    fn reset(&mut self) -> Result<()> {
        // SAFETY: the context is owned; the digest is static.
        let done = unsafe { c::EVP_DigestInit_ex(self.context, self.digest, std::ptr::null_mut()) };
        if done == 1 { Ok(()) } else { Err(no_memory()) }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // SAFETY: owned; free wipes what the context holds.
        unsafe { c::EVP_MD_CTX_free(self.context) }
    }
}
