//! AWS-LC through its C interface: one file a kind of work.

pub mod aead;
pub mod cipher;
mod evp;
pub mod hash;
pub mod kdf;
pub mod mac;
pub mod pair;
pub mod random;
pub mod wrap;

use crate::error::{Error, Result};
use crate::sys::arena::{self, ArenaBox};
use aws_lc_sys as c;
use std::ffi::CStr;

/// AWS-LC's own name for its version.
pub fn version() -> String {
    // SAFETY: returns a static string.
    let text = unsafe { CStr::from_ptr(c::OpenSSL_version(0)) };
    text.to_string_lossy().into_owned()
}

/// From now on all that AWS-LC allocates is in the arena: keys that it expands are locked, not dumped, and
/// wiped. False: it has allocated something by itself, or was told so before.
///
/// Only before its first use, in a process of our own: what was allocated before would be freed wrongly.
pub fn allocate_in_arena() -> bool {
    // SAFETY: three functions that do what malloc(3), realloc(3) and free(3) do.
    unsafe {
        c::CRYPTO_set_mem_functions(
            Some(arena::c_malloc),
            Some(arena::c_realloc),
            Some(arena::c_free),
        ) == 1
    }
}

/// What AWS-LC could not do though its input was valid: memory is short, or it is broken.
#[cold]
fn failed(what: &str) -> Error {
    // SAFETY: empties this thread's error queue.
    unsafe { c::ERR_clear_error() }
    Error::engine_failed(libc::EIO, format!("AWS-LC failed: {what}"))
}

/// Ok for AWS-LC's 1.
#[inline]
fn done(result: i32, what: &str) -> Result<()> {
    if result == 1 {
        Ok(())
    } else {
        Err(failed(what))
    }
}

/// A tag that does not verify. AWS-LC's error queue must not keep it.
#[cold]
fn bad_tag() -> Error {
    // SAFETY: empties this thread's error queue.
    unsafe { c::ERR_clear_error() }
    Error::bad_tag()
}

/// The digest of this name, for HMAC and what is built on it.
fn digest(name: &str) -> Option<*const c::EVP_MD> {
    // SAFETY: these return pointers to static tables.
    let digest = unsafe {
        match name {
            "md5" => c::EVP_md5(),
            "sha1" => c::EVP_sha1(),
            "sha224" => c::EVP_sha224(),
            "sha256" => c::EVP_sha256(),
            "sha384" => c::EVP_sha384(),
            "sha512" => c::EVP_sha512(),
            "sha512/256" => c::EVP_sha512_256(),
            "sha3-224" => c::EVP_sha3_224(),
            "sha3-256" => c::EVP_sha3_256(),
            "sha3-384" => c::EVP_sha3_384(),
            "sha3-512" => c::EVP_sha3_512(),
            _ => return None,
        }
    };
    Some(digest)
}

/// An expanded AES key, for encrypting or for decrypting.
fn aes_key(key: &[u8], decrypt: bool) -> Result<ArenaBox<c::AES_KEY>> {
    // SAFETY: an AES_KEY is numbers only.
    let mut expanded = unsafe { ArenaBox::<c::AES_KEY>::zeroed() };
    let bits = (key.len() * 8) as u32;
    // SAFETY: the key has `bits` bits and the schedule is ours to write.
    let result = unsafe {
        if decrypt {
            c::AES_set_decrypt_key(key.as_ptr(), bits, &mut *expanded)
        } else {
            c::AES_set_encrypt_key(key.as_ptr(), bits, &mut *expanded)
        }
    };
    if result == 0 {
        Ok(expanded)
    } else {
        Err(failed("AES key"))
    }
}
