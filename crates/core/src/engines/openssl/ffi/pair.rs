//! Asymmetric keys: EVP_PKEY, with every parameter by its name.

use super::api::{Api, EVP_MD_CTX, EVP_PKEY, EVP_PKEY_CTX};
use super::library::{Provider, Quiet};
use super::params::{self, Params};
use crate::engine::{self, Padding, Scheme, Signing};
use crate::error::{Error, Kind, Result};
use crate::secret::{Secret, equal};
use crate::sys::buffer::Input;
use crate::sys::per_process::PerProcess;
use crate::table;
use std::ffi::{CStr, CString, c_int, c_long};
use std::ptr::{null, null_mut};

/// An owned EVP_PKEY.
struct Owned {
    api: &'static Api,
    raw: *mut EVP_PKEY,
}

// SAFETY: owned, and OpenSSL binds no key to a thread.
unsafe impl Send for Owned {}
// SAFETY: a key of a provider may be used by many threads as long as none changes it, and none here does
// (openssl-threads(7)).
unsafe impl Sync for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: owned; OpenSSL wipes what it frees.
        unsafe { (self.api.EVP_PKEY_free)(self.raw) }
    }
}

impl Owned {
    /// Reads PKCS#8, or SubjectPublicKeyInfo.
    fn read(provider: &'static Provider, der: &[u8], private: bool) -> Option<Owned> {
        let api = provider.api();
        let (context, query) = provider.place();
        let (mut at, length) = (der.as_ptr(), c_long::try_from(der.len()).ok()?);
        // SAFETY: `at` is readable for `length` bytes; the context is the provider's; returns an owned key
        // or null.
        let raw = unsafe {
            if private {
                (api.d2i_AutoPrivateKey_ex)(null_mut(), &mut at, length, context, query)
            } else {
                (api.d2i_PUBKEY_ex)(null_mut(), &mut at, length, context, query)
            }
        };
        (!raw.is_null()).then_some(Owned { api, raw })
    }
}

/// An owned EVP_PKEY_CTX.
struct Context {
    api: &'static Api,
    raw: *mut EVP_PKEY_CTX,
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { (self.api.EVP_PKEY_CTX_free)(self.raw) }
    }
}

/// A hash that signs or verifies.
struct Hashing {
    api: &'static Api,
    raw: *mut EVP_MD_CTX,
}

impl Drop for Hashing {
    fn drop(&mut self) {
        // SAFETY: owned, or null.
        unsafe { (self.api.EVP_MD_CTX_free)(self.raw) }
    }
}

/// What EVP_PKEY_sign and its siblings share: a context, room, and how much of it counts.
type Transform =
    unsafe extern "C" fn(*mut EVP_PKEY_CTX, *mut u8, *mut usize, *const u8, usize) -> c_int;

/// A key of one algorithm.
pub struct Pair {
    provider: &'static Provider,
    der: Secret,
    private: bool,
    rsa: bool,
    // Keys of OpenSSL have locks.
    key: PerProcess<Owned>,
}

/// A hash's name as OpenSSL has it, or the empty name.
fn hash_name(hash: Option<&str>) -> Result<CString> {
    let name = match hash {
        Some(hash) => table::find(hash)?
            .openssl
            .ok_or_else(|| Error::elsewhere(format!("OpenSSL has no name for {hash}")))?,
        None => "",
    };
    CString::new(name).map_err(|_| Error::elsewhere("a name with a NUL"))
}

fn mode(scheme: Scheme) -> &'static CStr {
    match scheme {
        Scheme::Pkcs1 => c"pkcs1",
        Scheme::Pss => c"pss",
        Scheme::Oaep => c"oaep",
        Scheme::Raw | Scheme::Own => c"none",
    }
}

impl Pair {
    /// A key in DER of the type that OpenSSL calls `name`. It has been checked.
    pub fn new(provider: &'static Provider, name: &str, der: &[u8]) -> Result<Pair> {
        let quiet = Quiet::new(provider.api());
        let what = format!("a key of {name}");
        let refused = || provider.not_offered(&what, &quiet);
        let found = Owned::read(provider, der, true).map(|key| (key, true));
        let found = found.or_else(|| Owned::read(provider, der, false).map(|key| (key, false)));
        let (key, private) = found.ok_or_else(refused)?;
        let c_name = CString::new(name).map_err(|_| refused())?;
        // SAFETY: the key is valid, the name a C string.
        if unsafe { (provider.api().EVP_PKEY_is_a)(key.raw, c_name.as_ptr()) } != 1 {
            return Err(refused());
        }
        let place = PerProcess::default();
        place.get(|| Ok(key))?;
        Ok(Pair {
            provider,
            der: Secret::new(der),
            private,
            rsa: name == "RSA",
            key: place,
        })
    }

    /// This process's key.
    fn key(&self) -> Result<&Owned> {
        self.key.get(|| {
            let quiet = Quiet::new(self.provider.api());
            Owned::read(self.provider, self.der.expose(), self.private)
                .ok_or_else(|| self.provider.failed(&quiet))
        })
    }

    fn context(&self) -> Result<Context> {
        let (api, (place, query)) = (self.provider.api(), self.provider.place());
        // SAFETY: the key is valid, and counted by the context.
        let raw = unsafe { (api.EVP_PKEY_CTX_new_from_pkey)(place, self.key()?.raw, query) };
        if raw.is_null() {
            return Err(Error::system(libc::ENOMEM, "OpenSSL"));
        }
        Ok(Context { api, raw })
    }

    fn hashing(&self) -> Result<Hashing> {
        let api = self.provider.api();
        // SAFETY: returns an owned context or null.
        let raw = unsafe { (api.EVP_MD_CTX_new)() };
        if raw.is_null() {
            return Err(Error::system(libc::ENOMEM, "OpenSSL"));
        }
        Ok(Hashing { api, raw })
    }

    /// Bytes that a signature, a ciphertext or a modulus takes at most.
    fn room(&self) -> Result<usize> {
        let key = self.key()?;
        // SAFETY: the key is valid.
        let size = unsafe { (key.api.EVP_PKEY_get_size)(key.raw) };
        usize::try_from(size).map_err(|_| Error::engine_failed(libc::EIO, "a key without a size"))
    }

    /// The parameters of a signature; `digest` is named here only where it is not with the hashing.
    fn signing<'a>(&self, how: &Signing, digest: &'a CStr, salt: &'a CStr) -> Params<'a> {
        let mut params = Params::new();
        if how.prehashed && !digest.is_empty() {
            params = params.text(c"digest", digest);
        }
        if self.rsa {
            params = params.text(c"pad-mode", mode(how.scheme));
        }
        if how.scheme == Scheme::Pss {
            params = params.text(c"mgf1-digest", digest).text(c"saltlen", salt);
        }
        params
    }

    fn padding<'a>(how: &Padding<'a>, digest: &'a CStr) -> Params<'a> {
        let mut params = Params::new().text(c"pad-mode", mode(how.scheme));
        if !digest.is_empty() {
            params = params.text(c"digest", digest).text(c"mgf1-digest", digest);
        }
        if !how.label.is_empty() {
            params = params.bytes(c"oaep-label", how.label);
        }
        params
    }

    /// Runs one transform on `data` into `out`; how much of it counts, or `None` where OpenSSL refuses.
    fn transform(
        context: &Context,
        f: Transform,
        data: Input<'_>,
        out: &mut [u8],
    ) -> Option<usize> {
        let mut length = out.len();
        // SAFETY: the context is initialised; out is writable for `length` bytes, data readable for its own.
        let done = unsafe {
            f(
                context.raw,
                out.as_mut_ptr(),
                &mut length,
                data.as_ptr(),
                data.len(),
            )
        };
        (done == 1 && length <= out.len()).then_some(length)
    }
}

impl engine::Pair for Pair {
    fn sign(&self, how: &Signing, data: Input<'_>) -> Result<Vec<u8>> {
        let api = self.provider.api();
        let quiet = Quiet::new(api);
        let refused = || self.provider.elsewhere("this signature", &quiet);
        let digest = hash_name(how.hash)?;
        let salt = CString::new(how.salt_length.to_string()).unwrap_or_default();
        let params = self.signing(how, &digest, &salt);
        let mut signature = vec![0; self.room()?];
        let length = if how.prehashed {
            let context = self.context()?;
            // SAFETY: the context is valid, the list is terminated and outlives the call.
            if unsafe { (api.EVP_PKEY_sign_init_ex)(context.raw, params.as_ptr()) } != 1 {
                return Err(refused());
            }
            Pair::transform(&context, api.EVP_PKEY_sign, data, &mut signature)
        } else {
            let hashing = self.hashing()?;
            let (place, query) = self.provider.place();
            let name = if digest.is_empty() {
                null()
            } else {
                digest.as_ptr()
            };
            let mut length = signature.len();
            // SAFETY: key and context are valid; strings and list are terminated and outlive the calls; the
            // signature has `length` bytes.
            let done = unsafe {
                let key = self.key()?.raw;
                (api.EVP_DigestSignInit_ex)(
                    hashing.raw,
                    null_mut(),
                    name,
                    place,
                    query,
                    key,
                    params.as_ptr(),
                ) == 1
                    && (api.EVP_DigestSign)(
                        hashing.raw,
                        signature.as_mut_ptr(),
                        &mut length,
                        data.as_ptr(),
                        data.len(),
                    ) == 1
            };
            (done && length <= signature.len()).then_some(length)
        };
        signature.truncate(length.ok_or_else(refused)?);
        Ok(signature)
    }

    fn verify(&self, how: &Signing, data: Input<'_>, signature: &[u8]) -> Result<()> {
        let api = self.provider.api();
        let quiet = Quiet::new(api);
        let refused = || {
            self.provider
                .elsewhere("to verify such a signature", &quiet)
        };
        let digest = hash_name(how.hash)?;
        let salt = CString::new(how.salt_length.to_string()).unwrap_or_default();
        let params = self.signing(how, &digest, &salt);
        let (bytes, size) = (signature.as_ptr(), signature.len());
        // SAFETY: key and contexts are valid; strings and lists are terminated and outlive the calls;
        // signature and data are readable for their lengths.
        let verified = unsafe {
            if how.prehashed {
                let context = self.context()?;
                if (api.EVP_PKEY_verify_init_ex)(context.raw, params.as_ptr()) != 1 {
                    return Err(refused());
                }
                (api.EVP_PKEY_verify)(context.raw, bytes, size, data.as_ptr(), data.len())
            } else {
                let hashing = self.hashing()?;
                let (place, query) = self.provider.place();
                let name = if digest.is_empty() {
                    null()
                } else {
                    digest.as_ptr()
                };
                let begun = (api.EVP_DigestVerifyInit_ex)(
                    hashing.raw,
                    null_mut(),
                    name,
                    place,
                    query,
                    self.key()?.raw,
                    params.as_ptr(),
                );
                if begun != 1 {
                    return Err(refused());
                }
                (api.EVP_DigestVerify)(hashing.raw, bytes, size, data.as_ptr(), data.len())
            }
        };
        if verified == 1 {
            Ok(())
        } else {
            Err(Error::bad_signature())
        }
    }

    fn encrypt(&self, how: &Padding<'_>, data: &[u8]) -> Result<Vec<u8>> {
        let api = self.provider.api();
        let quiet = Quiet::new(api);
        let digest = hash_name(how.hash)?;
        let params = Pair::padding(how, &digest);
        let context = self.context()?;
        // SAFETY: the context is valid, the list is terminated and outlives the call.
        if unsafe { (api.EVP_PKEY_encrypt_init_ex)(context.raw, params.as_ptr()) } != 1 {
            return Err(self.provider.elsewhere("this encryption", &quiet));
        }
        let mut out = vec![0; self.room()?];
        match Pair::transform(&context, api.EVP_PKEY_encrypt, data.into(), &mut out) {
            Some(length) => {
                out.truncate(length);
                Ok(out)
            }
            // Lengths are right: without padding the number may be beyond the modulus.
            None => Err(Error::invalid("as a number it is not below the modulus")),
        }
    }

    fn decrypt(&self, how: &Padding<'_>, data: &[u8]) -> Result<Secret> {
        let api = self.provider.api();
        let quiet = Quiet::new(api);
        let digest = hash_name(how.hash)?;
        let mut params = Pair::padding(how, &digest);
        let context = self.context()?;
        // SAFETY: the contexts are valid, the lists are terminated and outlive the calls.
        unsafe {
            if (api.EVP_PKEY_decrypt_init_ex)(context.raw, null()) != 1 {
                return Err(self.provider.elsewhere("this decryption", &quiet));
            }
            if how.scheme == Scheme::Pkcs1 {
                let known = (api.EVP_PKEY_CTX_settable_params)(context.raw);
                if !params::names(known, c"implicit-rejection") {
                    return Err(Error::elsewhere(format!(
                        "{} decrypts no PKCS#1 v1.5 without telling a bad padding from a good one, which \
                         is enough to decrypt without the key (Bleichenbacher, 1998); 3.2 can; use oaep",
                        self.provider.version()
                    )));
                }
                params = params.number(c"implicit-rejection", 1);
            }
            if (api.EVP_PKEY_decrypt_init_ex)(context.raw, params.as_ptr()) != 1 {
                return Err(self.provider.elsewhere("this decryption", &quiet));
            }
        }
        Secret::made(self.room()?, |out| {
            Pair::transform(&context, api.EVP_PKEY_decrypt, data.into(), out).ok_or_else(|| {
                Error::new(
                    Kind::BadTag,
                    libc::EBADMSG,
                    "the ciphertext does not decrypt: another key, hash or label, or it was changed",
                )
            })
        })
    }

    fn agree(&self, peer: &[u8]) -> Result<Secret> {
        let api = self.provider.api();
        let quiet = Quiet::new(api);
        let peer = Owned::read(self.provider, peer, false)
            .ok_or_else(|| self.provider.elsewhere("this peer", &quiet))?;
        let context = self.context()?;
        let no_agreement = || {
            Error::invalid(
                "no agreement with this peer: the shared secret would not depend on the keys \
                 (RFC 7748, 6.1)",
            )
        };
        let mut length = 0;
        // SAFETY: both keys and the context are valid; the first call says how much room the second needs.
        unsafe {
            if (api.EVP_PKEY_derive_init_ex)(context.raw, null()) != 1
                || (api.EVP_PKEY_derive_set_peer)(context.raw, peer.raw) != 1
                || (api.EVP_PKEY_derive)(context.raw, null_mut(), &mut length) != 1
            {
                return Err(no_agreement());
            }
            Secret::made(length, |out| {
                let made = (api.EVP_PKEY_derive)(context.raw, out.as_mut_ptr(), &mut length);
                if made != 1 || length > out.len() || equal(out, &vec![0; out.len()]) {
                    return Err(no_agreement());
                }
                Ok(length)
            })
        }
    }

    fn encapsulate(&self) -> Result<(Vec<u8>, Secret)> {
        let api = self.provider.api();
        let quiet = Quiet::new(api);
        let refused = || self.provider.elsewhere("to encapsulate", &quiet);
        let context = self.context()?;
        let (mut length, mut size) = (0, 0);
        // SAFETY: the context is valid; the first call says how much room the second needs.
        unsafe {
            if (api.EVP_PKEY_encapsulate_init)(context.raw, null()) != 1
                || (api.EVP_PKEY_encapsulate)(
                    context.raw,
                    null_mut(),
                    &mut length,
                    null_mut(),
                    &mut size,
                ) != 1
            {
                return Err(refused());
            }
            let mut ciphertext = vec![0; length];
            let secret = Secret::made(size, |secret| {
                let made = (api.EVP_PKEY_encapsulate)(
                    context.raw,
                    ciphertext.as_mut_ptr(),
                    &mut length,
                    secret.as_mut_ptr(),
                    &mut size,
                );
                if made == 1 && size <= secret.len() {
                    Ok(size)
                } else {
                    Err(refused())
                }
            })?;
            ciphertext.truncate(length);
            Ok((ciphertext, secret))
        }
    }

    fn decapsulate(&self, ciphertext: &[u8]) -> Result<Secret> {
        let api = self.provider.api();
        let quiet = Quiet::new(api);
        let context = self.context()?;
        let (bytes, length) = (ciphertext.as_ptr(), ciphertext.len());
        let wrong = || {
            Error::invalid(format!(
                "a ciphertext of {length} bytes: this key encapsulates to another length"
            ))
        };
        let mut size = 0;
        // SAFETY: the context is valid; the first call says how much room the second needs.
        unsafe {
            if (api.EVP_PKEY_decapsulate_init)(context.raw, null()) != 1 {
                return Err(self.provider.elsewhere("to decapsulate", &quiet));
            }
            let decapsulate = api.EVP_PKEY_decapsulate;
            if decapsulate(context.raw, null_mut(), &mut size, bytes, length) != 1 {
                return Err(wrong());
            }
            Secret::made(size, |secret| {
                let made = decapsulate(context.raw, secret.as_mut_ptr(), &mut size, bytes, length);
                if made == 1 && size <= secret.len() {
                    Ok(size)
                } else {
                    Err(wrong())
                }
            })
        }
    }
}
