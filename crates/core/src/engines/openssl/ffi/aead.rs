//! AEADs: GCM, CCM, ChaCha20-Poly1305 and GCM-SIV through EVP_CIPHER.

use super::api::EVP_CIPHER;
use super::cipher::{Context, MOST, way};
use super::library::{Provider, Quiet};
use crate::engine::{self, Direction};
use crate::engines::openssl::pool::Pool;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::sys::buffer::{Input, Output};
use std::ffi::{c_int, c_void};

const EVP_CTRL_AEAD_SET_IVLEN: c_int = 0x9;
const EVP_CTRL_AEAD_GET_TAG: c_int = 0x10;
const EVP_CTRL_AEAD_SET_TAG: c_int = 0x11;

/// How a mode wants to be driven.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Any number of pieces, any size of iv: GCM, ChaCha20-Poly1305.
    Pieces,
    /// The length first, one piece, the key again with every message since it holds the sizes: CCM.
    Ccm,
    /// One piece, a context for every message: GCM-SIV.
    Siv,
}

/// An AEAD with its key.
pub struct Aead {
    provider: &'static Provider,
    cipher: *const EVP_CIPHER,
    key: Secret,
    mode: Mode,
    tag: usize,
    pools: [Pool<Ready>; 2],
}

// SAFETY: a fetched EVP_CIPHER is constant; the rest is Send and Sync by itself.
unsafe impl Send for Aead {}
// SAFETY: as above.
unsafe impl Sync for Aead {}

/// A context that knows cipher and key.
struct Ready {
    context: Context,
    /// Bytes of iv that it expects; 0 when not yet told.
    iv: usize,
}

impl Ready {
    fn control(&mut self, what: c_int, number: usize, pointer: *mut c_void) -> bool {
        let Ok(number) = c_int::try_from(number) else {
            return false;
        };
        // SAFETY: the context is valid; the pointer is null or has `number` bytes.
        let done = unsafe {
            (self.context.api.EVP_CIPHER_CTX_ctrl)(self.context.raw, what, number, pointer)
        };
        done == 1
    }
}

impl Aead {
    /// The AEAD of OpenSSL's `name`; `template` is the algorithm's.
    pub fn new(
        provider: &'static Provider,
        name: &str,
        template: &str,
        key: &[u8],
        tag: usize,
    ) -> Result<Aead> {
        let aead = Aead {
            provider,
            cipher: provider.cipher(name)?,
            key: Secret::new(key),
            mode: match template {
                "ccm" => Mode::Ccm,
                "gcm-siv" => Mode::Siv,
                _ => Mode::Pieces,
            },
            tag,
            pools: [Pool::new(), Pool::new()],
        };
        let first = aead
            .keyed(Direction::Encrypt)
            .map_err(|error| Error::not_offered(error.message().to_owned()))?;
        aead.pools[way(Direction::Encrypt) as usize].give(first);
        Ok(aead)
    }

    fn keyed(&self, direction: Direction) -> Result<Ready> {
        let api = self.provider.api();
        let quiet = Quiet::new(api);
        let mut context = Context::new(api)?;
        let key = (self.mode == Mode::Pieces).then(|| self.key.expose());
        if !context.init(self.cipher, key, None, direction) {
            return Err(self.provider.elsewhere("this key", &quiet));
        }
        Ok(Ready { context, iv: 0 })
    }

    /// A context that waits for aad and data; `tag` when decrypting.
    fn start(
        &self,
        direction: Direction,
        iv: &[u8],
        lengths: (usize, usize),
        tag: &mut [u8],
        quiet: &Quiet,
    ) -> Result<Ready> {
        let (aad, data) = lengths;
        if self.mode != Mode::Pieces && (aad > MOST || data > i32::MAX as usize) {
            return Err(Error::elsewhere(format!(
                "{data} bytes of data and {aad} of aad: OpenSSL takes this mode in one piece of less \
                 than 2 GiB"
            )));
        }
        let mut ready = self.pools[way(direction) as usize].take(|| self.keyed(direction))?;
        if ready.iv != iv.len() {
            if !ready.control(EVP_CTRL_AEAD_SET_IVLEN, iv.len(), std::ptr::null_mut()) {
                let what = format!("an iv of {} bytes", iv.len());
                return Err(self.provider.elsewhere(&what, quiet));
            }
            ready.iv = iv.len();
        }
        let mut done = true;
        if self.mode == Mode::Ccm && direction == Direction::Encrypt {
            done = ready.control(EVP_CTRL_AEAD_SET_TAG, self.tag, std::ptr::null_mut());
        }
        if direction == Direction::Decrypt && self.mode != Mode::Pieces {
            done = ready.control(EVP_CTRL_AEAD_SET_TAG, self.tag, tag.as_mut_ptr().cast());
        }
        let key = (self.mode != Mode::Pieces).then(|| self.key.expose());
        done = done
            && ready
                .context
                .init(std::ptr::null(), key, Some(iv), direction);
        if direction == Direction::Decrypt && done {
            done = ready.control(EVP_CTRL_AEAD_SET_TAG, self.tag, tag.as_mut_ptr().cast());
        }
        if done {
            Ok(ready)
        } else {
            let what = format!("an iv of {} bytes", iv.len());
            Err(self.provider.elsewhere(&what, quiet))
        }
    }

    /// Keeps a context for the next message. A GCM-SIV context is not kept: OpenSSL 3.2 to 3.6 would add
    /// the next message's aad to that of the last.
    fn give(&self, direction: Direction, ready: Ready) {
        if self.mode != Mode::Siv {
            self.pools[way(direction) as usize].give(ready);
        }
    }

    /// The aad, and before it what CCM wants to know.
    fn take_aad(&self, ready: &mut Ready, aad: Input<'_>, data: usize) -> bool {
        let api = ready.context.api;
        let raw = ready.context.raw;
        let mut length: c_int = 0;
        if self.mode == Mode::Ccm {
            let Ok(size) = c_int::try_from(data) else {
                return false;
            };
            // SAFETY: without input and output, the length of the message is told (EVP_EncryptInit(3)).
            let done = unsafe {
                (api.EVP_CipherUpdate)(
                    raw,
                    std::ptr::null_mut(),
                    &mut length,
                    std::ptr::null(),
                    size,
                )
            };
            if done != 1 {
                return false;
            }
        }
        let mut aad = aad;
        while !aad.is_empty() {
            let (head, rest) = aad.split_at(aad.len().min(MOST));
            let Ok(size) = c_int::try_from(head.len()) else {
                return false;
            };
            // SAFETY: without output, input is aad; it is readable for `size` bytes.
            let done = unsafe {
                (api.EVP_CipherUpdate)(raw, std::ptr::null_mut(), &mut length, head.as_ptr(), size)
            };
            if done != 1 {
                return false;
            }
            aad = rest;
        }
        true
    }

    fn pass(&self, ready: &mut Ready, data: Input<'_>, out: Output<'_>) -> bool {
        if self.mode == Mode::Pieces {
            ready.context.pass(data, out)
        } else {
            ready.context.pass_some(data, out) == Some(data.len())
        }
    }

    fn finish(&self, ready: &mut Ready) -> bool {
        let mut waste = [0u8; 32];
        let mut length: c_int = 0;
        // SAFETY: a stream mode writes nothing more; 32 bytes are room for a block of any.
        let done = unsafe {
            (ready.context.api.EVP_CipherFinal_ex)(
                ready.context.raw,
                waste.as_mut_ptr(),
                &mut length,
            )
        };
        done == 1 && length == 0
    }
}

impl engine::Aead for Aead {
    fn seal(&self, iv: &[u8], aad: Input<'_>, data: Input<'_>, out: Output<'_>) -> Result<()> {
        let quiet = Quiet::new(self.provider.api());
        let lengths = (aad.len(), data.len());
        let direction = Direction::Encrypt;
        let mut ready = self.start(direction, iv, lengths, &mut [], &quiet)?;
        let (body, end) = out.split_at(data.len());
        let mut tag = [0u8; 16];
        let done = self.take_aad(&mut ready, aad, data.len())
            && self.pass(&mut ready, data, body)
            && self.finish(&mut ready)
            && ready.control(EVP_CTRL_AEAD_GET_TAG, self.tag, tag.as_mut_ptr().cast());
        if !done {
            out.wipe();
            return Err(self.provider.elsewhere("this message", &quiet));
        }
        end.copy_from(&tag[..self.tag]);
        self.give(direction, ready);
        Ok(())
    }

    fn unseal(&self, iv: &[u8], aad: Input<'_>, data: Input<'_>, out: Output<'_>) -> Result<()> {
        let quiet = Quiet::new(self.provider.api());
        let (body, end) = data.split_at(out.len());
        let mut tag = [0u8; 16];
        end.copy_to(&mut tag[..self.tag]);
        let lengths = (aad.len(), body.len());
        let direction = Direction::Decrypt;
        let mut ready = self.start(direction, iv, lengths, &mut tag[..], &quiet)?;
        if !self.take_aad(&mut ready, aad, body.len()) {
            return Err(self.provider.elsewhere("this aad", &quiet));
        }
        if !self.pass(&mut ready, body, out) {
            out.wipe();
            // CCM verifies here already; the others only fail at the end.
            return Err(if self.mode == Mode::Pieces {
                self.provider.elsewhere("this message", &quiet)
            } else {
                Error::bad_tag()
            });
        }
        if self.mode != Mode::Ccm && !self.finish(&mut ready) {
            out.wipe();
            return Err(Error::bad_tag());
        }
        self.give(direction, ready);
        Ok(())
    }
}
