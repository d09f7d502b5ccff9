//! Ciphers: AES in CBC, CTR and CFB, 3DES and ChaCha20 by their own functions, ECB and XTS by EVP.

use super::evp::{Context, Keyed, MOST, int};
use super::failed;
use crate::engine::{Cipher, CipherStream, Direction};
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::sys::arena::ArenaBox;
use crate::sys::buffer::{Input, Output};
use aws_lc_sys as c;
use std::sync::Arc;

/// Modes whose streams keep nothing but an IV, a partial block and its place in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Cipher block chaining.
    Cbc,
    /// Counter, big-endian over the whole block.
    Ctr,
    /// Cipher feedback of whole blocks (CFB128).
    Cfb,
}

struct Keys {
    mode: Mode,
    encrypt: ArenaBox<c::AES_KEY>,
    /// CBC's only.
    decrypt: Option<ArenaBox<c::AES_KEY>>,
}

/// AES in CBC, CTR or CFB.
pub struct Aes(Arc<Keys>);

impl Aes {
    /// From a key of 16, 24 or 32 bytes.
    pub fn new(mode: Mode, key: &[u8]) -> Result<Aes> {
        Ok(Aes(Arc::new(Keys {
            mode,
            encrypt: super::aes_key(key, false)?,
            decrypt: match mode {
                Mode::Cbc => Some(super::aes_key(key, true)?),
                _ => None,
            },
        })))
    }
}

/// Where a message is.
struct Position {
    direction: Direction,
    iv: [u8; 16],
    partial: [u8; 16],
    number: u32,
}

impl Position {
    fn new(direction: Direction, iv: &[u8]) -> Result<Position> {
        Ok(Position {
            direction,
            iv: iv.try_into().map_err(|_| wrong_iv(iv))?,
            partial: [0; 16],
            number: 0,
        })
    }
}

impl Drop for Position {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.partial);
    }
}

#[cold]
fn wrong_iv(iv: &[u8]) -> Error {
    Error::invalid(format!("an iv of {} bytes", iv.len()))
}

fn whole_blocks(length: usize, block: usize) -> Result<()> {
    if length % block == 0 {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "{length} bytes: not whole blocks of {block} bytes"
        )))
    }
}

fn same_length(data: Input<'_>, out: Output<'_>) -> Result<()> {
    if data.len() == out.len() {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "an output of {} bytes where {} are needed",
            out.len(),
            data.len()
        )))
    }
}

impl Keys {
    fn work(&self, at: &mut Position, data: Input<'_>, out: Output<'_>) -> Result<()> {
        same_length(data, out)?;
        let encrypt = i32::from(at.direction == Direction::Encrypt);
        let (from, to, length) = (data.as_ptr(), out.as_mut_ptr(), data.len());
        let iv = at.iv.as_mut_ptr();
        match self.mode {
            Mode::Cbc => {
                whole_blocks(length, 16)?;
                let key = match (&self.decrypt, at.direction) {
                    (Some(key), Direction::Decrypt) => key,
                    _ => &self.encrypt,
                };
                // SAFETY: both buffers are valid for `length`, whole blocks, and the same memory or
                // apart; the key is expanded for this direction; the iv is a block.
                unsafe { c::AES_cbc_encrypt(from, to, length, &**key, iv, encrypt) }
            }
            Mode::Ctr => {
                // SAFETY: as above, of any length; partial and number belong together.
                unsafe {
                    c::AES_ctr128_encrypt(
                        from,
                        to,
                        length,
                        &*self.encrypt,
                        iv,
                        at.partial.as_mut_ptr(),
                        &mut at.number,
                    );
                }
            }
            Mode::Cfb => {
                let mut number = at.number as i32;
                // SAFETY: as above; number is the place in the block, 0 to 15.
                unsafe {
                    c::AES_cfb128_encrypt(
                        from,
                        to,
                        length,
                        &*self.encrypt,
                        iv,
                        &mut number,
                        encrypt,
                    );
                }
                at.number = number as u32;
            }
        }
        Ok(())
    }
}

struct AesStream {
    keys: Arc<Keys>,
    at: Position,
}

impl Cipher for Aes {
    fn begin(&self, direction: Direction, iv: &[u8]) -> Result<Box<dyn CipherStream>> {
        Ok(Box::new(AesStream {
            keys: self.0.clone(),
            at: Position::new(direction, iv)?,
        }))
    }

    fn once(
        &self,
        direction: Direction,
        iv: &[u8],
        data: Input<'_>,
        out: Output<'_>,
    ) -> Result<()> {
        self.0.work(&mut Position::new(direction, iv)?, data, out)
    }
}

impl CipherStream for AesStream {
    fn update(&mut self, data: Input<'_>, out: Output<'_>, _last: bool) -> Result<()> {
        self.keys.work(&mut self.at, data, out)
    }

    fn begin_again(&mut self, direction: Direction, iv: &[u8]) -> bool {
        match Position::new(direction, iv) {
            Ok(at) => self.at = at,
            Err(_) => return false,
        }
        true
    }
}

/// 3DES in CBC.
pub struct Des3(Arc<ArenaBox<[c::DES_key_schedule; 3]>>);

impl Des3 {
    /// From a key of 24 bytes.
    pub fn new(key: &[u8]) -> Result<Des3> {
        // SAFETY: a key schedule is numbers only.
        let mut schedules = unsafe { ArenaBox::<[c::DES_key_schedule; 3]>::zeroed() };
        for (schedule, part) in schedules.iter_mut().zip(key.chunks_exact(8)) {
            // SAFETY: a DES_cblock is 8 bytes without alignment; the schedule is ours.
            unsafe { c::DES_set_key_unchecked(part.as_ptr().cast(), schedule) }
        }
        Ok(Des3(Arc::new(schedules)))
    }
}

struct Des3Stream {
    keys: Arc<ArenaBox<[c::DES_key_schedule; 3]>>,
    direction: Direction,
    iv: c::DES_cblock,
}

impl Cipher for Des3 {
    fn begin(&self, direction: Direction, iv: &[u8]) -> Result<Box<dyn CipherStream>> {
        Ok(Box::new(Des3Stream {
            keys: self.0.clone(),
            direction,
            iv: c::DES_cblock {
                bytes: iv.try_into().map_err(|_| wrong_iv(iv))?,
            },
        }))
    }
}

impl CipherStream for Des3Stream {
    fn update(&mut self, data: Input<'_>, out: Output<'_>, _last: bool) -> Result<()> {
        same_length(data, out)?;
        whole_blocks(data.len(), 8)?;
        // SAFETY: both buffers are valid for the length, whole blocks, and the same memory or apart.
        unsafe {
            c::DES_ede3_cbc_encrypt(
                data.as_ptr(),
                out.as_mut_ptr(),
                data.len(),
                &self.keys[0],
                &self.keys[1],
                &self.keys[2],
                &mut self.iv,
                i32::from(self.direction == Direction::Encrypt),
            );
        }
        Ok(())
    }
}

/// ChaCha20 (RFC 8439); its 16-byte iv is the kernel's: a little-endian block counter, then the nonce.
pub struct ChaCha20(Secret);

impl ChaCha20 {
    /// From a key of 32 bytes.
    pub fn new(key: &Secret) -> ChaCha20 {
        ChaCha20(key.clone())
    }
}

struct ChaChaStream {
    key: Secret,
    nonce: [u8; 12],
    /// The next block. The session sees to it that it does not wrap within a message.
    counter: u32,
}

impl ChaChaStream {
    fn new(key: &Secret, iv: &[u8]) -> Result<ChaChaStream> {
        let iv: [u8; 16] = iv.try_into().map_err(|_| wrong_iv(iv))?;
        let [a, b, c, d, nonce @ ..] = iv;
        Ok(ChaChaStream {
            key: key.clone(),
            nonce,
            counter: u32::from_le_bytes([a, b, c, d]),
        })
    }
}

impl Cipher for ChaCha20 {
    fn begin(&self, _: Direction, iv: &[u8]) -> Result<Box<dyn CipherStream>> {
        Ok(Box::new(ChaChaStream::new(&self.0, iv)?))
    }

    fn once(&self, _: Direction, iv: &[u8], data: Input<'_>, out: Output<'_>) -> Result<()> {
        ChaChaStream::new(&self.0, iv)?.update(data, out, true)
    }
}

impl CipherStream for ChaChaStream {
    fn update(&mut self, data: Input<'_>, out: Output<'_>, _last: bool) -> Result<()> {
        same_length(data, out)?;
        if data.is_empty() {
            return Ok(());
        }
        // SAFETY: both buffers are valid for the length and the same memory or apart; key and nonce
        // have their sizes.
        unsafe {
            c::CRYPTO_chacha_20(
                out.as_mut_ptr(),
                data.as_ptr(),
                data.len(),
                self.key.expose().as_ptr(),
                self.nonce.as_ptr(),
                self.counter,
            );
        }
        // Zero after the last block, when there is no more to come.
        self.counter = self.counter.wrapping_add(data.len().div_ceil(64) as u32);
        Ok(())
    }
}

/// One keyed EVP context for each direction.
struct Both {
    encrypt: Keyed<Context>,
    decrypt: Keyed<Context>,
}

impl Both {
    fn new(cipher: *const c::EVP_CIPHER, key: &[u8]) -> Result<Both> {
        let one = |encrypt| -> Result<Keyed<Context>> {
            let mut context = Context::new(cipher, encrypt)?;
            // SAFETY: a context of ours.
            unsafe { c::EVP_CIPHER_CTX_set_padding(context.raw(), 0) };
            context.key(key)?;
            Ok(Keyed::new(context))
        };
        Ok(Both {
            encrypt: one(true)?,
            decrypt: one(false)?,
        })
    }

    fn work(
        &self,
        direction: Direction,
        iv: &[u8],
        data: Input<'_>,
        out: Output<'_>,
    ) -> Result<()> {
        same_length(data, out)?;
        let encrypt = direction == Direction::Encrypt;
        let keyed = if encrypt {
            &self.encrypt
        } else {
            &self.decrypt
        };
        keyed.with(Context::copy, |context| {
            context.begin(iv, encrypt)?;
            let (mut from, mut to) = (data, out);
            while !from.is_empty() {
                let length = from.len().min(MOST);
                let (piece, rest) = from.split_at(length);
                let (target, space) = to.split_at(length);
                // SAFETY: both are valid for `length`, and the same memory or apart.
                let fine =
                    unsafe { context.update(target.as_mut_ptr(), piece.as_ptr(), int(length)?) };
                if !fine {
                    return Err(failed("cipher"));
                }
                (from, to) = (rest, space);
            }
            Ok(())
        })
    }
}

/// AES block by block.
pub struct Ecb(Arc<Both>);

impl Ecb {
    /// From a key of 16, 24 or 32 bytes.
    pub fn new(key: &[u8]) -> Result<Ecb> {
        // SAFETY: these return pointers to static tables.
        let cipher = unsafe {
            match key.len() {
                16 => c::EVP_aes_128_ecb(),
                24 => c::EVP_aes_192_ecb(),
                _ => c::EVP_aes_256_ecb(),
            }
        };
        Ok(Ecb(Arc::new(Both::new(cipher, key)?)))
    }
}

struct EcbStream(Arc<Both>, Direction);

impl Cipher for Ecb {
    fn begin(&self, direction: Direction, _: &[u8]) -> Result<Box<dyn CipherStream>> {
        Ok(Box::new(EcbStream(self.0.clone(), direction)))
    }

    fn once(&self, direction: Direction, _: &[u8], data: Input<'_>, out: Output<'_>) -> Result<()> {
        whole_blocks(data.len(), 16)?;
        self.0.work(direction, &[], data, out)
    }
}

impl CipherStream for EcbStream {
    fn update(&mut self, data: Input<'_>, out: Output<'_>, _last: bool) -> Result<()> {
        whole_blocks(data.len(), 16)?;
        self.0.work(self.1, &[], data, out)
    }
}

/// AES-256-XTS (IEEE 1619): whole data units, one iv each.
pub struct Xts(Arc<Both>);

impl Xts {
    /// From a key of 64 bytes.
    pub fn new(key: &[u8]) -> Result<Xts> {
        // SAFETY: returns a pointer to a static table.
        let cipher = unsafe { c::EVP_aes_256_xts() };
        Ok(Xts(Arc::new(Both::new(cipher, key)?)))
    }
}

struct XtsUnit {
    keys: Arc<Both>,
    direction: Direction,
    /// Gone once it was used.
    iv: Option<[u8; 16]>,
}

impl Cipher for Xts {
    fn begin(&self, direction: Direction, iv: &[u8]) -> Result<Box<dyn CipherStream>> {
        Ok(Box::new(XtsUnit {
            keys: self.0.clone(),
            direction,
            iv: Some(iv.try_into().map_err(|_| wrong_iv(iv))?),
        }))
    }

    fn once(
        &self,
        direction: Direction,
        iv: &[u8],
        data: Input<'_>,
        out: Output<'_>,
    ) -> Result<()> {
        self.0.work(direction, iv, data, out)
    }
}

impl CipherStream for XtsUnit {
    fn update(&mut self, data: Input<'_>, out: Output<'_>, last: bool) -> Result<()> {
        match self.iv.take() {
            Some(iv) if last => self.keys.work(self.direction, &iv, data, out),
            _ => Err(Error::unsupported(
                "xts(aes) works on whole data units: one update for each iv",
            )),
        }
    }
}
