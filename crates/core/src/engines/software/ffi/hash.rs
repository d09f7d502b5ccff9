//! Hashes: MD5 and SHA-1/2 by their own functions on contexts that need no memory, SHA-3 by EVP.

use super::{done, failed};
use crate::engine::{Digest, Hashing};
use crate::error::{Error, Result};
use crate::sys::buffer::Input;
use aws_lc_sys as c;
use std::ffi::{c_int, c_void};

type Init<C> = unsafe extern "C" fn(*mut C) -> c_int;
type Update<C> = unsafe extern "C" fn(*mut C, *const c_void, usize) -> c_int;
type Final<C> = unsafe extern "C" fn(*mut u8, *mut C) -> c_int;

/// The functions of one hash over contexts of type `C`.
struct Functions<C> {
    size: usize,
    init: Init<C>,
    update: Update<C>,
    finish: Final<C>,
}

/// A context that is plain numbers: all zero is valid, and any copy is a context of its own.
trait Plain: Copy + Send + Sync + 'static {}
impl Plain for c::MD5_CTX {}
impl Plain for c::SHA_CTX {}
impl Plain for c::SHA256_CTX {}
impl Plain for c::SHA512_CTX {}

macro_rules! functions {
    ($name:ident, $context:ty, $size:expr, $init:ident, $update:ident, $finish:ident) => {
        static $name: Functions<$context> = Functions {
            size: $size,
            init: c::$init,
            update: c::$update,
            finish: c::$finish,
        };
    };
}

functions!(MD5, c::MD5_CTX, 16, MD5_Init, MD5_Update, MD5_Final);
functions!(SHA1, c::SHA_CTX, 20, SHA1_Init, SHA1_Update, SHA1_Final);
functions!(
    SHA224,
    c::SHA256_CTX,
    28,
    SHA224_Init,
    SHA224_Update,
    SHA224_Final
);
functions!(
    SHA256,
    c::SHA256_CTX,
    32,
    SHA256_Init,
    SHA256_Update,
    SHA256_Final
);
functions!(
    SHA384,
    c::SHA512_CTX,
    48,
    SHA384_Init,
    SHA384_Update,
    SHA384_Final
);
functions!(
    SHA512,
    c::SHA512_CTX,
    64,
    SHA512_Init,
    SHA512_Update,
    SHA512_Final
);
functions!(
    SHA512_256,
    c::SHA512_CTX,
    32,
    SHA512_256_Init,
    SHA512_256_Update,
    SHA512_256_Final
);

/// The hash of this name, if AWS-LC has it.
pub fn open(name: &str) -> Option<Box<dyn Hashing>> {
    // SAFETY: these return pointers to static tables.
    let evp = unsafe {
        match name {
            "md5" => return Some(Box::new(Hash(&MD5))),
            "sha1" => return Some(Box::new(Hash(&SHA1))),
            "sha224" => return Some(Box::new(Hash(&SHA224))),
            "sha256" => return Some(Box::new(Hash(&SHA256))),
            "sha384" => return Some(Box::new(Hash(&SHA384))),
            "sha512" => return Some(Box::new(Hash(&SHA512))),
            "sha512/256" => return Some(Box::new(Hash(&SHA512_256))),
            "sha3-224" => c::EVP_sha3_224(),
            "sha3-256" => c::EVP_sha3_256(),
            "sha3-384" => c::EVP_sha3_384(),
            "sha3-512" => c::EVP_sha3_512(),
            "shake128" => c::EVP_shake128(),
            "shake256" => c::EVP_shake256(),
            _ => return None,
        }
    };
    Some(Box::new(Evp {
        digest: evp,
        xof: name.starts_with("shake"),
    }))
}

fn check(out: &[u8], size: usize) -> Result<()> {
    if out.len() == size {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "an output of {} bytes for a digest of {size}",
            out.len()
        )))
    }
}

struct Hash<C: 'static>(&'static Functions<C>);

struct Running<C: Plain> {
    context: C,
    functions: &'static Functions<C>,
}

impl<C: Plain> Hash<C> {
    fn running(&self) -> Running<C> {
        Running {
            // SAFETY: Plain contexts are numbers only.
            context: unsafe { std::mem::zeroed() },
            functions: self.0,
        }
    }
}

impl<C: Plain> Hashing for Hash<C> {
    fn begin(&self) -> Result<Box<dyn Digest>> {
        let mut running = Box::new(self.running());
        running.reset()?;
        Ok(running)
    }

    fn once(&self, data: Input<'_>, out: &mut [u8]) -> Result<()> {
        let mut running = self.running();
        running.reset()?;
        running.update(data)?;
        running.finish(out)
    }
}

impl<C: Plain> Digest for Running<C> {
    fn update(&mut self, data: Input<'_>) -> Result<()> {
        // SAFETY: the context is initialised; data is readable for its length.
        let result =
            unsafe { (self.functions.update)(&mut self.context, data.as_ptr().cast(), data.len()) };
        done(result, "hash")
    }

    fn finish(&mut self, out: &mut [u8]) -> Result<()> {
        check(out, self.functions.size)?;
        // SAFETY: the context is initialised; out has the digest's size.
        let result = unsafe { (self.functions.finish)(out.as_mut_ptr(), &mut self.context) };
        done(result, "hash")
    }

    fn fork(&self) -> Result<Box<dyn Digest>> {
        Ok(Box::new(Running {
            context: self.context,
            functions: self.functions,
        }))
    }

    fn reset(&mut self) -> Result<()> {
        // SAFETY: the context is ours to write.
        let result = unsafe { (self.functions.init)(&mut self.context) };
        done(result, "hash")
    }
}

impl<C: Plain> Drop for Running<C> {
    fn drop(&mut self) {
        // SAFETY: the context's own bytes; zero is a valid context.
        unsafe { libc::explicit_bzero((&raw mut self.context).cast(), size_of::<C>()) }
    }
}

/// SHA-3 and SHAKE.
struct Evp {
    digest: *const c::EVP_MD,
    xof: bool,
}

// SAFETY: EVP_MD is a static constant.
unsafe impl Send for Evp {}
// SAFETY: as above.
unsafe impl Sync for Evp {}

impl Evp {
    fn running(&self) -> Result<EvpRunning> {
        let mut running = EvpRunning {
            // SAFETY: EVP_MD_CTX_init makes an all-zero context an empty one.
            context: unsafe {
                let mut context: c::EVP_MD_CTX = std::mem::zeroed();
                c::EVP_MD_CTX_init(&mut context);
                context
            },
            digest: self.digest,
            xof: self.xof,
        };
        running.reset()?;
        Ok(running)
    }
}

impl Hashing for Evp {
    fn begin(&self) -> Result<Box<dyn Digest>> {
        Ok(Box::new(self.running()?))
    }

    fn once(&self, data: Input<'_>, out: &mut [u8]) -> Result<()> {
        let mut running = self.running()?;
        running.update(data)?;
        running.finish(out)
    }
}

struct EvpRunning {
    context: c::EVP_MD_CTX,
    digest: *const c::EVP_MD,
    xof: bool,
}

// SAFETY: the context is owned; AWS-LC binds none to a thread.
unsafe impl Send for EvpRunning {}
// SAFETY: &EvpRunning is only copied from, which does not write to it.
unsafe impl Sync for EvpRunning {}

impl Digest for EvpRunning {
    fn update(&mut self, data: Input<'_>) -> Result<()> {
        // SAFETY: the context is initialised; data is readable for its length.
        let result =
            unsafe { c::EVP_DigestUpdate(&mut self.context, data.as_ptr().cast(), data.len()) };
        done(result, "hash")
    }

    fn finish(&mut self, out: &mut [u8]) -> Result<()> {
        // SAFETY: the context is initialised; out has the digest's size, or any for an XOF.
        let result = unsafe {
            if self.xof {
                c::EVP_DigestFinalXOF(&mut self.context, out.as_mut_ptr(), out.len())
            } else {
                check(out, c::EVP_MD_size(self.digest))?;
                c::EVP_DigestFinal_ex(&mut self.context, out.as_mut_ptr(), std::ptr::null_mut())
            }
        };
        done(result, "hash")
    }

    fn fork(&self) -> Result<Box<dyn Digest>> {
        let mut copy = EvpRunning {
            // SAFETY: EVP_MD_CTX_init makes an all-zero context an empty one.
            context: unsafe {
                let mut context: c::EVP_MD_CTX = std::mem::zeroed();
                c::EVP_MD_CTX_init(&mut context);
                context
            },
            digest: self.digest,
            xof: self.xof,
        };
        // SAFETY: both are valid contexts.
        match unsafe { c::EVP_MD_CTX_copy_ex(&mut copy.context, &self.context) } {
            1 => Ok(Box::new(copy)),
            _ => Err(failed("hash copy")),
        }
    }

    fn reset(&mut self) -> Result<()> {
        // SAFETY: the context is owned; the digest is static.
        let result =
            unsafe { c::EVP_DigestInit_ex(&mut self.context, self.digest, std::ptr::null_mut()) };
        done(result, "hash")
    }
}

impl Drop for EvpRunning {
    fn drop(&mut self) {
        // SAFETY: owned; AWS-LC wipes the state when it frees it.
        unsafe {
            c::EVP_MD_CTX_cleanup(&mut self.context);
        }
    }
}
