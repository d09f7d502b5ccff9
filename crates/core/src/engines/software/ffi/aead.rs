//! AEADs: GCM, GCM-SIV and ChaCha20-Poly1305 by EVP_AEAD, CCM by EVP_CIPHER.

use super::evp::{Context, Keyed, MOST, int};
use super::{bad_tag, failed};
use crate::engine::{self, AeadStream, Direction};
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::sys::arena::ArenaBox;
use crate::sys::buffer::{Input, Output};
use aws_lc_sys as c;
use std::sync::OnceLock;

/// An AEAD with its key expanded.
pub struct Aead {
    context: ArenaBox<c::EVP_AEAD_CTX>,
    /// For messages in pieces: the cipher and the key, and a keyed context, made when there is one.
    pieces: Option<(*const c::EVP_CIPHER, Secret)>,
    template: OnceLock<Context>,
}

// SAFETY: seal and open take a const context and keep no state in it (aead.h: thread-safe).
unsafe impl Send for Aead {}
// SAFETY: as above.
unsafe impl Sync for Aead {}

impl Aead {
    fn new(aead: *const c::EVP_AEAD, key: &[u8], tag: usize) -> Result<Aead> {
        // SAFETY: an all-zero EVP_AEAD_CTX is what EVP_AEAD_CTX_zero makes. It stays where it is
        // initialised, for its state may be aligned within it.
        let mut context = unsafe { ArenaBox::<c::EVP_AEAD_CTX>::zeroed() };
        // SAFETY: context, aead and key are valid for the call; the key is copied.
        let result = unsafe {
            c::EVP_AEAD_CTX_init(
                &mut *context,
                aead,
                key.as_ptr(),
                key.len(),
                tag,
                std::ptr::null_mut(),
            )
        };
        super::done(result, "AEAD key").map(|()| Aead {
            context,
            pieces: None,
            template: OnceLock::new(),
        })
    }

    /// The same, and for messages in pieces too.
    pub fn with_pieces(mut self, gcm: bool, key: &Secret) -> Aead {
        // SAFETY: these return pointers to static tables.
        let cipher = unsafe {
            match (gcm, key.len()) {
                (false, _) => c::EVP_chacha20_poly1305(),
                (true, 16) => c::EVP_aes_128_gcm(),
                (true, 24) => c::EVP_aes_192_gcm(),
                (true, _) => c::EVP_aes_256_gcm(),
            }
        };
        self.pieces = Some((cipher, key.clone()));
        self
    }

    /// AES-GCM: any nonce but an empty one, any tag up to 16 bytes.
    pub fn gcm(key: &[u8], tag: usize) -> Result<Aead> {
        // SAFETY: these return pointers to static tables.
        let aead = unsafe {
            match key.len() {
                16 => c::EVP_aead_aes_128_gcm(),
                24 => c::EVP_aead_aes_192_gcm(),
                _ => c::EVP_aead_aes_256_gcm(),
            }
        };
        Aead::new(aead, key, tag)
    }

    /// AES-GCM-SIV (RFC 8452).
    pub fn gcm_siv(key: &[u8], tag: usize) -> Result<Aead> {
        // SAFETY: these return pointers to static tables.
        let aead = unsafe {
            match key.len() {
                16 => c::EVP_aead_aes_128_gcm_siv(),
                _ => c::EVP_aead_aes_256_gcm_siv(),
            }
        };
        Aead::new(aead, key, tag)
    }

    /// ChaCha20-Poly1305 (RFC 8439).
    pub fn chacha20_poly1305(key: &[u8], tag: usize) -> Result<Aead> {
        // SAFETY: returns a pointer to a static table.
        Aead::new(unsafe { c::EVP_aead_chacha20_poly1305() }, key, tag)
    }
}

/// EVP_AEAD_CTX_seal or EVP_AEAD_CTX_open.
type Call = unsafe extern "C" fn(
    *const c::EVP_AEAD_CTX,
    *mut u8,
    *mut usize,
    usize,
    *const u8,
    usize,
    *const u8,
    usize,
    *const u8,
    usize,
) -> i32;

impl Aead {
    /// Whether `call` filled `out`, which is wiped if it did not.
    fn call(
        &self,
        call: Call,
        iv: &[u8],
        aad: Input<'_>,
        data: Input<'_>,
        out: Output<'_>,
    ) -> bool {
        let mut written = 0;
        // SAFETY: every pointer is valid for its length during the call; out holds data and tag (or the
        // plaintext), and is the same memory as data or apart from it, as both calls ask.
        let result = unsafe {
            call(
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
        let done = result == 1 && written == out.len();
        if !done {
            out.wipe();
        }
        done
    }
}

impl engine::Aead for Aead {
    fn seal(&self, iv: &[u8], aad: Input<'_>, data: Input<'_>, out: Output<'_>) -> Result<()> {
        if self.call(c::EVP_AEAD_CTX_seal, iv, aad, data, out) {
            Ok(())
        } else {
            Err(failed("AEAD encryption"))
        }
    }

    fn unseal(&self, iv: &[u8], aad: Input<'_>, data: Input<'_>, out: Output<'_>) -> Result<()> {
        if self.call(c::EVP_AEAD_CTX_open, iv, aad, data, out) {
            Ok(())
        } else {
            Err(bad_tag())
        }
    }

    fn begin(&self, direction: Direction, iv: &[u8]) -> Result<Box<dyn AeadStream>> {
        let Some((cipher, key)) = &self.pieces else {
            return Err(Error::elsewhere("an AEAD of whole messages only"));
        };
        let template = match self.template.get() {
            Some(template) => template,
            None => {
                let mut made = Context::new(*cipher, true)?;
                made.key(key.expose())?;
                self.template.get_or_init(|| made)
            }
        };
        let mut running = Running(template.copy()?);
        running.begin_again(direction, iv)?;
        Ok(Box::new(running))
    }
}

/// A message of GCM or ChaCha20-Poly1305 in pieces.
struct Running(Context);

impl AeadStream for Running {
    fn begin_again(&mut self, direction: Direction, iv: &[u8]) -> Result<()> {
        let null = std::ptr::null_mut();
        // SAFETY: this command takes a length and no pointer.
        unsafe {
            self.0
                .control(c::EVP_CTRL_AEAD_SET_IVLEN, int(iv.len())?, null)?;
        }
        self.0.begin(iv, direction == Direction::Encrypt)
    }

    fn aad(&mut self, data: Input<'_>) -> Result<()> {
        self.pieces(data, None)
    }

    fn update(&mut self, data: Input<'_>, out: Output<'_>) -> Result<()> {
        self.pieces(data, Some(out))
    }

    fn tag(&mut self, tag: &mut [u8; 16]) -> Result<()> {
        let mut length = 0;
        // SAFETY: nothing is left to be written; the tag has 16 bytes.
        unsafe {
            super::done(
                c::EVP_CipherFinal_ex(self.0.raw(), tag.as_mut_ptr(), &mut length),
                "AEAD",
            )?;
            self.0
                .control(c::EVP_CTRL_AEAD_GET_TAG, 16, tag.as_mut_ptr().cast())
        }
    }

    fn verify(&mut self, tag: &[u8]) -> Result<()> {
        let mut expected = [0u8; 16];
        if tag.is_empty() || tag.len() > 16 {
            return Err(Error::invalid("a tag of 1 to 16 bytes"));
        }
        expected[..tag.len()].copy_from_slice(tag);
        let (mut length, mut nothing) = (0, [0u8; 16]);
        // SAFETY: the tag is readable for its size; nothing is left to be written.
        let right = unsafe {
            self.0.control(
                c::EVP_CTRL_AEAD_SET_TAG,
                int(tag.len())?,
                expected.as_mut_ptr().cast(),
            )?;
            c::EVP_CipherFinal_ex(self.0.raw(), nothing.as_mut_ptr(), &mut length)
        };
        if right == 1 { Ok(()) } else { Err(bad_tag()) }
    }

    fn fork(&self) -> Result<Box<dyn AeadStream>> {
        Ok(Box::new(Running(self.0.copy()?)))
    }
}

impl Running {
    /// Without an output it is associated data.
    fn pieces(&mut self, data: Input<'_>, out: Option<Output<'_>>) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            let length = (data.len() - done).min(MOST);
            let piece = data.split_at(done).1;
            let target = match out {
                Some(out) => out.split_at(done).1.as_mut_ptr(),
                None => std::ptr::null_mut(),
            };
            // SAFETY: both are valid for `length` (an output is as long as the data), and the same memory or
            // apart.
            if !unsafe { self.0.update(target, piece.as_ptr(), int(length)?) } {
                return Err(failed("AEAD"));
            }
            done += length;
        }
        Ok(())
    }
}

impl Drop for Aead {
    fn drop(&mut self) {
        // SAFETY: initialised in new(), or empty; the arena wipes the rest.
        unsafe { c::EVP_AEAD_CTX_cleanup(&mut *self.context) }
    }
}

/// CCM (SP 800-38C): every nonce of 7 to 13 bytes with every even tag of 4 to 16.
pub struct Ccm {
    keyed: Keyed<Context>,
    tag: usize,
}

impl Ccm {
    /// From a key of 16, 24 or 32 bytes.
    pub fn new(key: &[u8], tag: usize) -> Result<Ccm> {
        // SAFETY: these return pointers to static tables.
        let cipher = unsafe {
            match key.len() {
                16 => c::EVP_aes_128_ccm(),
                24 => c::EVP_aes_192_ccm(),
                _ => c::EVP_aes_256_ccm(),
            }
        };
        let mut template = Context::new(cipher, true)?;
        // SAFETY: with a null pointer this command sets the tag's size.
        unsafe {
            template.control(c::EVP_CTRL_AEAD_SET_TAG, int(tag)?, std::ptr::null_mut())?;
        }
        template.key(key)?;
        Ok(Ccm {
            keyed: Keyed::new(template),
            tag,
        })
    }

    /// Nonce, length and associated data, which CCM wants before the message.
    fn begin(
        context: &mut Context,
        iv: &[u8],
        aad: Input<'_>,
        length: usize,
        encrypt: bool,
    ) -> Result<()> {
        let (length, aad_length) = (limit(length)?, limit(aad.len())?);
        let null = std::ptr::null_mut();
        // SAFETY: this command takes a length and no pointer.
        unsafe { context.control(c::EVP_CTRL_AEAD_SET_IVLEN, int(iv.len())?, null)? };
        context.begin(iv, encrypt)?;
        // SAFETY: no output and no input: the length of the message; no output: associated data. It
        // is given even when empty, for it also begins the MAC.
        let fine = unsafe {
            context.update(null.cast(), std::ptr::null(), length)
                && context.update(null.cast(), aad.as_ptr(), aad_length)
        };
        if fine { Ok(()) } else { Err(failed("CCM")) }
    }
}

fn limit(length: usize) -> Result<i32> {
    i32::try_from(length).map_err(|_| {
        Error::elsewhere(format!(
            "{length} bytes: ccm(aes) of AWS-LC takes at most {} at once",
            i32::MAX
        ))
    })
}

impl engine::Aead for Ccm {
    fn seal(&self, iv: &[u8], aad: Input<'_>, data: Input<'_>, out: Output<'_>) -> Result<()> {
        let result = self.keyed.with(Context::copy, |context| {
            Ccm::begin(context, iv, aad, data.len(), true)?;
            let (body, tag) = out.split_at(data.len());
            // SAFETY: body is as long as data, and tag has the tag's size, set in new().
            unsafe {
                if !context.update(body.as_mut_ptr(), data.as_ptr(), limit(data.len())?) {
                    return Err(failed("CCM"));
                }
                context.control(
                    c::EVP_CTRL_AEAD_GET_TAG,
                    int(self.tag)?,
                    tag.as_mut_ptr().cast(),
                )
            }
        });
        if result.is_err() {
            out.wipe();
        }
        result
    }

    fn unseal(&self, iv: &[u8], aad: Input<'_>, data: Input<'_>, out: Output<'_>) -> Result<()> {
        let result = self.keyed.with(Context::copy, |context| {
            let (body, tag) = data.split_at(out.len());
            let mut expected = [0u8; 16];
            tag.copy_to(&mut expected[..self.tag]);
            Ccm::begin(context, iv, aad, body.len(), false)?;
            // SAFETY: the expected tag has the tag's size; out is as long as body.
            unsafe {
                context.control(
                    c::EVP_CTRL_AEAD_SET_TAG,
                    int(self.tag)?,
                    expected.as_mut_ptr().cast(),
                )?;
                if context.update(out.as_mut_ptr(), body.as_ptr(), limit(body.len())?) {
                    Ok(())
                } else {
                    Err(bad_tag())
                }
            }
        });
        if result.is_err() {
            out.wipe();
        }
        result
    }
}
