//! Key wrapping: KW (RFC 3394) and KWP (RFC 5649).

use super::{bad_tag, failed};
use crate::engine::KeyWrap;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::sys::arena::ArenaBox;
use aws_lc_sys as c;

/// A key-wrapping key.
pub struct Wrap {
    encrypt: ArenaBox<c::AES_KEY>,
    decrypt: ArenaBox<c::AES_KEY>,
    padded: bool,
}

impl Wrap {
    /// From a key of 16, 24 or 32 bytes; `padded` for KWP.
    pub fn new(key: &[u8], padded: bool) -> Result<Wrap> {
        Ok(Wrap {
            encrypt: super::aes_key(key, false)?,
            decrypt: super::aes_key(key, true)?,
            padded,
        })
    }
}

fn limit(length: usize) -> Result<()> {
    const MOST: usize = i32::MAX as usize - 16;
    if length <= MOST {
        Ok(())
    } else {
        Err(Error::too_large(format!(
            "{length} bytes: AES key wrap of AWS-LC takes at most {MOST}"
        )))
    }
}

impl KeyWrap for Wrap {
    fn wrap(&self, key: &[u8]) -> Result<Vec<u8>> {
        limit(key.len())?;
        let mut out = vec![0u8; key.len().next_multiple_of(8) + 8];
        // SAFETY: out holds the key, padded, and 8 bytes more; a null iv is the standard's own.
        let written = unsafe {
            if self.padded {
                let mut written = 0;
                let done = c::AES_wrap_key_padded(
                    &*self.encrypt,
                    out.as_mut_ptr(),
                    &mut written,
                    out.len(),
                    key.as_ptr(),
                    key.len(),
                );
                if done == 1 { written } else { 0 }
            } else {
                let written = c::AES_wrap_key(
                    &*self.encrypt,
                    std::ptr::null(),
                    out.as_mut_ptr(),
                    key.as_ptr(),
                    key.len(),
                );
                usize::try_from(written).unwrap_or(0)
            }
        };
        if written == out.len() {
            Ok(out)
        } else {
            zeroize::Zeroize::zeroize(&mut out);
            Err(failed("key wrap"))
        }
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<Secret> {
        limit(wrapped.len())?;
        let Some(room) = wrapped.len().checked_sub(8) else {
            return Err(Error::bad_tag());
        };
        Secret::made(room, |out| {
            // SAFETY: out is 8 bytes shorter than the input, the most that either writes.
            unsafe {
                if self.padded {
                    let mut written = 0;
                    let done = c::AES_unwrap_key_padded(
                        &*self.decrypt,
                        out.as_mut_ptr(),
                        &mut written,
                        out.len(),
                        wrapped.as_ptr(),
                        wrapped.len(),
                    );
                    if done == 1 {
                        Ok(written)
                    } else {
                        Err(bad_tag())
                    }
                } else {
                    let written = c::AES_unwrap_key(
                        &*self.decrypt,
                        std::ptr::null(),
                        out.as_mut_ptr(),
                        wrapped.as_ptr(),
                        wrapped.len(),
                    );
                    usize::try_from(written).map_err(|_| bad_tag())
                }
            }
        })
    }
}
