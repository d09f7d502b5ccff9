//! Ciphers without authentication: EVP_CIPHER, without padding (the session pads).

use super::api::{Api, EVP_CIPHER, EVP_CIPHER_CTX};
use super::library::{Provider, Quiet};
use crate::engine::{self, CipherStream, Direction};
use crate::engines::openssl::pool::Pool;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::sys::buffer::{Input, Output};
use std::ffi::c_int;
use std::sync::Arc;

/// Most bytes given to OpenSSL at once, whose lengths are ints: a multiple of every block size.
pub(super) const MOST: usize = 1 << 30;

/// OpenSSL's word for a direction.
pub(super) fn way(direction: Direction) -> c_int {
    match direction {
        Direction::Encrypt => 1,
        Direction::Decrypt => 0,
    }
}

/// An owned EVP_CIPHER_CTX.
pub(super) struct Context {
    pub api: &'static Api,
    pub raw: *mut EVP_CIPHER_CTX,
}

// SAFETY: owned, and used by one thread at a time.
unsafe impl Send for Context {}
// SAFETY: nothing is done with a shared reference.
unsafe impl Sync for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: owned; freeing wipes it.
        unsafe { (self.api.EVP_CIPHER_CTX_free)(self.raw) }
    }
}

impl Context {
    /// An empty one.
    pub fn new(api: &'static Api) -> Result<Context> {
        // SAFETY: returns an owned context or null.
        let raw = unsafe { (api.EVP_CIPHER_CTX_new)() };
        if raw.is_null() {
            return Err(Error::system(libc::ENOMEM, "OpenSSL"));
        }
        Ok(Context { api, raw })
    }

    /// EVP_CipherInit_ex2; null and empty leave what was set before.
    pub fn init(
        &mut self,
        cipher: *const EVP_CIPHER,
        key: Option<&[u8]>,
        iv: Option<&[u8]>,
        direction: Direction,
    ) -> bool {
        let pointer = |bytes: Option<&[u8]>| bytes.map_or(std::ptr::null(), <[u8]>::as_ptr);
        // SAFETY: the caller gives a key and an iv as long as cipher and context say.
        let done = unsafe {
            (self.api.EVP_CipherInit_ex2)(
                self.raw,
                cipher,
                pointer(key),
                pointer(iv),
                way(direction),
                std::ptr::null(),
            )
        };
        done == 1
    }

    /// EVP_CipherUpdate over any length, same length in and out.
    pub fn pass(&mut self, data: Input<'_>, out: Output<'_>) -> bool {
        let (mut data, mut out) = (data, out);
        while !data.is_empty() {
            let now = data.len().min(MOST);
            let (head, rest) = data.split_at(now);
            let (target, room) = out.split_at(now);
            if self.pass_some(head, target) != Some(now) {
                return false;
            }
            (data, out) = (rest, room);
        }
        true
    }

    /// One EVP_CipherUpdate of at most `MOST` bytes, even of none.
    pub fn pass_some(&mut self, data: Input<'_>, out: Output<'_>) -> Option<usize> {
        let mut length: c_int = 0;
        let size = c_int::try_from(data.len()).ok()?;
        // SAFETY: data is readable and out writable for `size` bytes, which is what a cipher without
        // padding and without blocks left over writes; they are the same memory or apart.
        let done = unsafe {
            (self.api.EVP_CipherUpdate)(
                self.raw,
                out.as_mut_ptr(),
                &mut length,
                data.as_ptr(),
                size,
            )
        };
        if done != 1 {
            return None;
        }
        usize::try_from(length).ok()
    }
}

/// A cipher with its key.
pub struct Cipher(Arc<Shared>);

struct Shared {
    provider: &'static Provider,
    cipher: *const EVP_CIPHER,
    key: Secret,
    /// ChaCha20: RFC 8439's counter has 32 bits and wraps, OpenSSL's would carry into the nonce.
    counter: bool,
    pools: [Pool<Context>; 2],
}

// SAFETY: a fetched EVP_CIPHER is constant; the rest is Send and Sync by itself.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Cipher {
    /// The cipher of OpenSSL's `name`; `counter` for ChaCha20.
    pub fn new(
        provider: &'static Provider,
        name: &str,
        key: &[u8],
        counter: bool,
    ) -> Result<Cipher> {
        let shared = Shared {
            provider,
            cipher: provider.cipher(name)?,
            key: Secret::new(key),
            counter,
            pools: [Pool::new(), Pool::new()],
        };
        let first = shared
            .keyed(Direction::Encrypt)
            .map_err(|error| Error::not_offered(error.message().to_owned()))?;
        shared.pools[way(Direction::Encrypt) as usize].give(first);
        Ok(Cipher(Arc::new(shared)))
    }
}

impl Shared {
    fn keyed(&self, direction: Direction) -> Result<Context> {
        let api = self.provider.api();
        let quiet = Quiet::new(api);
        let mut context = Context::new(api)?;
        let key = Some(self.key.expose());
        let done = context.init(self.cipher, key, None, direction);
        // SAFETY: the context is valid.
        if !done || unsafe { (api.EVP_CIPHER_CTX_set_padding)(context.raw, 0) } != 1 {
            return Err(self.provider.elsewhere("this key", &quiet));
        }
        Ok(context)
    }

    fn start(self: &Arc<Self>, direction: Direction, iv: &[u8]) -> Result<Running> {
        let pool = &self.pools[way(direction) as usize];
        let mut running = Running {
            context: Some(pool.take(|| self.keyed(direction))?),
            shared: self.clone(),
            direction,
            iv: [0; 16],
            iv_size: iv.len(),
            left: u64::MAX,
        };
        running.iv[..iv.len()].copy_from_slice(iv);
        running.restart()?;
        Ok(running)
    }
}

impl engine::Cipher for Cipher {
    fn begin(&self, direction: Direction, iv: &[u8]) -> Result<Box<dyn CipherStream>> {
        Ok(Box::new(self.0.start(direction, iv)?))
    }

    fn once(
        &self,
        direction: Direction,
        iv: &[u8],
        data: Input<'_>,
        out: Output<'_>,
    ) -> Result<()> {
        self.0.start(direction, iv)?.update(data, out, true)
    }
}

/// A running message; its context goes back to the pool when it ends well.
struct Running {
    context: Option<Context>,
    shared: Arc<Shared>,
    direction: Direction,
    iv: [u8; 16],
    iv_size: usize,
    /// Bytes until ChaCha20's counter wraps.
    left: u64,
}

impl Running {
    /// Gives the iv to the context.
    fn restart(&mut self) -> Result<()> {
        let provider = self.shared.provider;
        let quiet = Quiet::new(provider.api());
        if self.shared.counter {
            let counter = u32::from_le_bytes([self.iv[0], self.iv[1], self.iv[2], self.iv[3]]);
            self.left = ((1u64 << 32) - u64::from(counter)) * 64;
        }
        let iv = (self.iv_size > 0).then_some(&self.iv[..self.iv_size]);
        let context = self.context.as_mut().ok_or_else(Error::closed)?;
        if context.init(std::ptr::null(), None, iv, self.direction) {
            Ok(())
        } else {
            Err(provider.elsewhere("this iv", &quiet))
        }
    }

    fn pass(&mut self, data: Input<'_>, out: Output<'_>) -> Result<()> {
        let provider = self.shared.provider;
        let quiet = Quiet::new(provider.api());
        let context = self.context.as_mut().ok_or_else(Error::closed)?;
        if context.pass(data, out) {
            Ok(())
        } else {
            self.context = None;
            Err(provider.elsewhere("this message", &quiet))
        }
    }
}

impl CipherStream for Running {
    fn update(&mut self, data: Input<'_>, out: Output<'_>, last: bool) -> Result<()> {
        let (mut data, mut out) = (data, out);
        while data.len() as u64 > self.left {
            let now = self.left as usize;
            let (head, rest) = data.split_at(now);
            let (target, room) = out.split_at(now);
            self.pass(head, target)?;
            self.iv[..4].fill(0);
            self.restart()?;
            (data, out) = (rest, room);
        }
        self.pass(data, out)?;
        if self.shared.counter {
            // Every piece but the last is whole blocks.
            self.left -= data.len() as u64;
        }
        if last {
            if let Some(context) = self.context.take() {
                self.shared.pools[way(self.direction) as usize].give(context);
            }
        }
        Ok(())
    }
}
