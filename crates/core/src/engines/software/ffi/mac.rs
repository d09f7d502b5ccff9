//! MACs: HMAC, CMAC, GMAC, Poly1305.

use super::evp::{Context, Keyed, MOST, int};
use super::{done, failed};
use crate::engine::{Digest, Hashing};
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::sys::arena::ArenaBox;
use crate::sys::buffer::Input;
use aws_lc_sys as c;
use std::sync::Arc;

fn check(out: &[u8], size: usize) -> Result<()> {
    if out.len() == size {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "an output of {} bytes for a tag of {size}",
            out.len()
        )))
    }
}

/// HMAC over one of AWS-LC's digests: the keyed context is made once and copied.
pub struct Hmac {
    template: ArenaBox<c::HMAC_CTX>,
    size: usize,
}

// SAFETY: the template is only read; its pointers are to static tables (an HMAC_CTX is flat).
unsafe impl Send for Hmac {}
// SAFETY: as above.
unsafe impl Sync for Hmac {}

impl Hmac {
    /// `None` where AWS-LC lacks the hash.
    pub fn open(hash: &str, key: &[u8]) -> Option<Result<Hmac>> {
        super::digest(hash).map(|digest| Hmac::new(digest, key))
    }

    fn new(digest: *const c::EVP_MD, key: &[u8]) -> Result<Hmac> {
        // SAFETY: an all-zero HMAC_CTX is what HMAC_CTX_init makes.
        let mut template = unsafe { ArenaBox::<c::HMAC_CTX>::zeroed() };
        // SAFETY: the key is readable for its length, and its pointer is never null.
        let result = unsafe {
            c::HMAC_CTX_init(&mut *template);
            c::HMAC_Init_ex(
                &mut *template,
                key.as_ptr().cast(),
                key.len(),
                digest,
                std::ptr::null_mut(),
            )
        };
        done(result, "HMAC key")?;
        Ok(Hmac {
            // SAFETY: a static table.
            size: unsafe { c::EVP_MD_size(digest) },
            template,
        })
    }
}

/// A copy of an HMAC context in the arena.
fn copy_hmac(from: &c::HMAC_CTX, size: usize) -> Result<HmacRunning> {
    // SAFETY: an all-zero HMAC_CTX is an empty one, and HMAC_CTX_copy_ex fills it.
    let mut context = unsafe { ArenaBox::<c::HMAC_CTX>::zeroed() };
    // SAFETY: both are valid contexts.
    let result = unsafe { c::HMAC_CTX_copy_ex(&mut *context, from) };
    done(result, "HMAC copy").map(|()| HmacRunning { context, size })
}

impl Hashing for Hmac {
    fn begin(&self) -> Result<Box<dyn Digest>> {
        Ok(Box::new(copy_hmac(&self.template, self.size)?))
    }

    fn once(&self, data: Input<'_>, out: &mut [u8]) -> Result<()> {
        check(out, self.size)?;
        let mut context = std::mem::MaybeUninit::<c::HMAC_CTX>::uninit();
        let context = context.as_mut_ptr();
        // SAFETY: copying initialises the context; data and out are valid for their lengths, out for
        // the digest's size; cleanup wipes all of the copy.
        let result = unsafe {
            let result = i32::from(
                c::HMAC_CTX_copy_ex(context, &*self.template) == 1
                    && c::HMAC_Update(context, data.as_ptr(), data.len()) == 1
                    && c::HMAC_Final(context, out.as_mut_ptr(), std::ptr::null_mut()) == 1,
            );
            c::HMAC_CTX_cleanup(context);
            result
        };
        done(result, "HMAC")
    }
}

struct HmacRunning {
    context: ArenaBox<c::HMAC_CTX>,
    size: usize,
}

// SAFETY: owned and flat; its pointers are to static tables.
unsafe impl Send for HmacRunning {}
// SAFETY: &HmacRunning is only copied from.
unsafe impl Sync for HmacRunning {}

impl Digest for HmacRunning {
    fn update(&mut self, data: Input<'_>) -> Result<()> {
        // SAFETY: the context is initialised; data is readable for its length.
        let result = unsafe { c::HMAC_Update(&mut *self.context, data.as_ptr(), data.len()) };
        done(result, "HMAC")
    }

    fn finish(&mut self, out: &mut [u8]) -> Result<()> {
        check(out, self.size)?;
        // SAFETY: the context is initialised; out has the digest's size.
        let result =
            unsafe { c::HMAC_Final(&mut *self.context, out.as_mut_ptr(), std::ptr::null_mut()) };
        done(result, "HMAC")
    }

    fn fork(&self) -> Result<Box<dyn Digest>> {
        Ok(Box::new(copy_hmac(&self.context, self.size)?))
    }

    fn reset(&mut self) -> Result<()> {
        // SAFETY: no key and no digest: back to the beginning with those that it has.
        let result = unsafe {
            c::HMAC_Init_ex(
                &mut *self.context,
                std::ptr::null(),
                0,
                std::ptr::null(),
                std::ptr::null_mut(),
            )
        };
        done(result, "HMAC")
    }
}

/// A CMAC_CTX.
struct CmacContext(*mut c::CMAC_CTX);

// SAFETY: owned; AWS-LC binds no context to a thread.
unsafe impl Send for CmacContext {}
// SAFETY: &CmacContext is only copied from.
unsafe impl Sync for CmacContext {}

impl CmacContext {
    fn empty() -> Result<CmacContext> {
        // SAFETY: returns an owned context or null.
        let context = unsafe { c::CMAC_CTX_new() };
        if context.is_null() {
            return Err(failed("CMAC"));
        }
        Ok(CmacContext(context))
    }

    fn copy(&self) -> Result<CmacContext> {
        let copy = CmacContext::empty()?;
        // SAFETY: both are valid contexts.
        done(unsafe { c::CMAC_CTX_copy(copy.0, self.0) }, "CMAC copy")?;
        Ok(copy)
    }
}

impl Drop for CmacContext {
    fn drop(&mut self) {
        // SAFETY: owned; AWS-LC wipes it when it frees it.
        unsafe { c::CMAC_CTX_free(self.0) }
    }
}

impl Digest for CmacContext {
    fn update(&mut self, data: Input<'_>) -> Result<()> {
        // SAFETY: the context is initialised; data is readable for its length.
        let result = unsafe { c::CMAC_Update(self.0, data.as_ptr(), data.len()) };
        done(result, "CMAC")
    }

    fn finish(&mut self, out: &mut [u8]) -> Result<()> {
        check(out, 16)?;
        let mut length = 0;
        // SAFETY: the context is initialised; out holds a block.
        let result = unsafe { c::CMAC_Final(self.0, out.as_mut_ptr(), &mut length) };
        done(result, "CMAC")
    }

    fn fork(&self) -> Result<Box<dyn Digest>> {
        Ok(Box::new(self.copy()?))
    }

    fn reset(&mut self) -> Result<()> {
        // SAFETY: the context is initialised and keyed.
        done(unsafe { c::CMAC_Reset(self.0) }, "CMAC")
    }
}

/// CMAC over AES.
pub struct Cmac(Keyed<CmacContext>);

impl Cmac {
    /// From a key of 16, 24 or 32 bytes.
    pub fn new(key: &[u8]) -> Result<Cmac> {
        // SAFETY: these return pointers to static tables.
        let cipher = unsafe {
            match key.len() {
                16 => c::EVP_aes_128_cbc(),
                24 => c::EVP_aes_192_cbc(),
                _ => c::EVP_aes_256_cbc(),
            }
        };
        let template = CmacContext::empty()?;
        // SAFETY: the key is readable for its length, which is the cipher's (checked by CMAC_Init).
        let result = unsafe {
            c::CMAC_Init(
                template.0,
                key.as_ptr().cast(),
                key.len(),
                cipher,
                std::ptr::null_mut(),
            )
        };
        done(result, "CMAC key")?;
        Ok(Cmac(Keyed::new(template)))
    }
}

impl Hashing for Cmac {
    fn begin(&self) -> Result<Box<dyn Digest>> {
        self.0.template().fork()
    }

    fn once(&self, data: Input<'_>, out: &mut [u8]) -> Result<()> {
        self.0.with(CmacContext::copy, |context| {
            context.reset()?;
            context.update(data)?;
            context.finish(out)
        })
    }
}

/// GMAC: GCM with nothing to encrypt (SP 800-38D, 3). Key and nonce belong to the session.
pub struct Gmac {
    inner: Arc<GmacInner>,
}

struct GmacInner {
    aead: super::aead::Aead,
    key: Secret,
    iv: Vec<u8>,
}

impl Gmac {
    /// From a key of 16, 24 or 32 bytes and a nonce.
    pub fn new(key: &Secret, iv: &[u8]) -> Result<Gmac> {
        Ok(Gmac {
            inner: Arc::new(GmacInner {
                aead: super::aead::Aead::gcm(key.expose(), 16)?,
                key: key.clone(),
                iv: iv.to_vec(),
            }),
        })
    }
}

impl Hashing for Gmac {
    fn begin(&self) -> Result<Box<dyn Digest>> {
        let key = self.inner.key.expose();
        // SAFETY: these return pointers to static tables.
        let cipher = unsafe {
            match key.len() {
                16 => c::EVP_aes_128_gcm(),
                24 => c::EVP_aes_192_gcm(),
                _ => c::EVP_aes_256_gcm(),
            }
        };
        let mut context = Context::new(cipher, true)?;
        // SAFETY: this command takes a length and no pointer.
        unsafe {
            context.control(
                c::EVP_CTRL_AEAD_SET_IVLEN,
                int(self.inner.iv.len())?,
                std::ptr::null_mut(),
            )?;
        }
        context.key(key)?;
        context.begin(&self.inner.iv, true)?;
        Ok(Box::new(GmacRunning {
            context,
            inner: self.inner.clone(),
        }))
    }

    fn once(&self, data: Input<'_>, out: &mut [u8]) -> Result<()> {
        use crate::engine::Aead as _;
        check(out, 16)?;
        self.inner
            .aead
            .seal(&self.inner.iv, data, Input::EMPTY, out.into())
    }
}

struct GmacRunning {
    context: Context,
    inner: Arc<GmacInner>,
}

impl Digest for GmacRunning {
    fn update(&mut self, data: Input<'_>) -> Result<()> {
        let mut rest = data;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(MOST));
            // SAFETY: no output: the input, readable for its length, is associated data.
            let fine = unsafe {
                self.context
                    .update(std::ptr::null_mut(), piece.as_ptr(), int(piece.len())?)
            };
            if !fine {
                return Err(failed("GMAC"));
            }
            rest = after;
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut [u8]) -> Result<()> {
        check(out, 16)?;
        let mut nothing = [0u8; 16];
        let mut length = 0;
        // SAFETY: the context is initialised; nothing is left to be written, and out holds the tag.
        unsafe {
            done(
                c::EVP_EncryptFinal_ex(self.context.raw(), nothing.as_mut_ptr(), &mut length),
                "GMAC",
            )?;
            self.context
                .control(c::EVP_CTRL_AEAD_GET_TAG, 16, out.as_mut_ptr().cast())
        }
    }

    fn fork(&self) -> Result<Box<dyn Digest>> {
        Ok(Box::new(GmacRunning {
            context: self.context.copy()?,
            inner: self.inner.clone(),
        }))
    }

    fn reset(&mut self) -> Result<()> {
        self.context.begin(&self.inner.iv, true)
    }
}

/// Poly1305 (RFC 8439): AWS-LC finds an aligned place within its state, so a copy must keep the
/// alignment.
#[repr(C, align(64))]
struct PolyState(c::poly1305_state);

/// Poly1305 with its one-time key.
pub struct Poly1305(Secret);

impl Poly1305 {
    /// From a key of 32 bytes.
    pub fn new(key: &Secret) -> Poly1305 {
        Poly1305(key.clone())
    }
}

impl Hashing for Poly1305 {
    fn begin(&self) -> Result<Box<dyn Digest>> {
        // SAFETY: the state is bytes only.
        let state = unsafe { ArenaBox::<PolyState>::zeroed() };
        let mut running = PolyRunning {
            state,
            key: self.0.clone(),
        };
        running.reset()?;
        Ok(Box::new(running))
    }
}

struct PolyRunning {
    state: ArenaBox<PolyState>,
    key: Secret,
}

impl Digest for PolyRunning {
    fn update(&mut self, data: Input<'_>) -> Result<()> {
        // SAFETY: the state is initialised; data is readable for its length.
        unsafe { c::CRYPTO_poly1305_update(&mut self.state.0, data.as_ptr(), data.len()) }
        Ok(())
    }

    fn finish(&mut self, out: &mut [u8]) -> Result<()> {
        check(out, 16)?;
        // SAFETY: the state is initialised; out holds the tag.
        unsafe { c::CRYPTO_poly1305_finish(&mut self.state.0, out.as_mut_ptr()) }
        Ok(())
    }

    fn fork(&self) -> Result<Box<dyn Digest>> {
        // SAFETY: the state is bytes only.
        let mut state = unsafe { ArenaBox::<PolyState>::zeroed() };
        state.0 = self.state.0;
        Ok(Box::new(PolyRunning {
            state,
            key: self.key.clone(),
        }))
    }

    fn reset(&mut self) -> Result<()> {
        let key = self.key.expose();
        if key.len() != 32 {
            return Err(Error::invalid("poly1305 takes a key of 32 bytes"));
        }
        // SAFETY: the state is ours and the key has 32 bytes.
        unsafe { c::CRYPTO_poly1305_init(&mut self.state.0, key.as_ptr()) }
        Ok(())
    }
}
