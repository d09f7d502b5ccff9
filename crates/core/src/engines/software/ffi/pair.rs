//! Asymmetric keys through EVP_PKEY: RSA, ECDSA, ECDH, Ed25519, X25519, ML-KEM, ML-DSA.

use super::{digest, done, failed};
use crate::engine::{self, Padding, Scheme, Signing};
use crate::error::{Error, Result};
use crate::pair::Facts;
use crate::secret::{Secret, equal};
use crate::sys::buffer::Input;
use crate::sys::per_process::PerProcess;
use crate::table::Algorithm;
use aws_lc_sys as c;
use std::ptr::{null, null_mut};

/// What AWS-LC calls an algorithm: the type of its EVP_PKEY, and the curve or parameter set.
struct Family {
    id: i32,
    nid: i32,
}

fn family(algorithm: &Algorithm) -> Option<Family> {
    let (id, nid) = match algorithm.name {
        "rsa" => (c::EVP_PKEY_RSA, 0),
        "ecdsa-nist-p256" | "ecdh-nist-p256" => (c::EVP_PKEY_EC, c::NID_X9_62_prime256v1),
        "ecdsa-nist-p384" | "ecdh-nist-p384" => (c::EVP_PKEY_EC, c::NID_secp384r1),
        "ecdsa-nist-p521" | "ecdh-nist-p521" => (c::EVP_PKEY_EC, c::NID_secp521r1),
        "ed25519" => (c::EVP_PKEY_ED25519, 0),
        "x25519" => (c::EVP_PKEY_X25519, 0),
        "ml-kem-768" => (c::EVP_PKEY_KEM, c::NID_MLKEM768),
        "ml-kem-1024" => (c::EVP_PKEY_KEM, c::NID_MLKEM1024),
        "ml-dsa-65" => (c::EVP_PKEY_PQDSA, c::NID_MLDSA65),
        _ => return None,
    };
    Some(Family { id, nid })
}

/// Empties this thread's error queue: what failed is said in our words.
fn quiet() {
    // SAFETY: the queue is this thread's.
    unsafe { c::ERR_clear_error() }
}

/// An owned EVP_PKEY.
struct Owned(*mut c::EVP_PKEY);

// SAFETY: owned, and AWS-LC binds no key to a thread.
unsafe impl Send for Owned {}
// SAFETY: AWS-LC's keys are made for concurrent use by functions that do not change them (evp.h), and none
// here does.
unsafe impl Sync for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: owned; AWS-LC wipes what it frees.
        unsafe { c::EVP_PKEY_free(self.0) }
    }
}

impl Owned {
    /// The key, if it is one and `cbs` has been read to its end.
    fn whole(key: *mut c::EVP_PKEY, cbs: &c::CBS) -> Option<Owned> {
        if key.is_null() {
            quiet();
            return None;
        }
        let key = Owned(key);
        // SAFETY: the CBS was initialised and read from.
        (unsafe { c::CBS_len(cbs) } == 0).then_some(key)
    }

    fn cbs(der: &[u8]) -> c::CBS {
        let mut cbs = c::CBS {
            data: null(),
            len: 0,
        };
        // SAFETY: the CBS points to `der`, which outlives every use below.
        unsafe { c::CBS_init(&mut cbs, der.as_ptr(), der.len()) };
        cbs
    }

    fn pkcs8(der: &[u8]) -> Option<Owned> {
        let mut cbs = Owned::cbs(der);
        // SAFETY: the CBS is of `der`; returns an owned key or null.
        let key = unsafe { c::EVP_parse_private_key(&mut cbs) };
        Owned::whole(key, &cbs)
    }

    fn spki(der: &[u8]) -> Option<Owned> {
        let mut cbs = Owned::cbs(der);
        // SAFETY: the CBS is of `der`; returns an owned key or null.
        let key = unsafe { c::EVP_parse_public_key(&mut cbs) };
        Owned::whole(key, &cbs)
    }

    /// PKCS#1's RSAPrivateKey (RFC 8017, A.1.2) or an ECPrivateKey (RFC 5915).
    fn traditional(der: &[u8], family: &Family) -> Option<Owned> {
        let mut cbs = Owned::cbs(der);
        // SAFETY: each key is owned, or null and then nothing; assigning gives it to the EVP_PKEY.
        let key = unsafe {
            let key = c::EVP_PKEY_new();
            if key.is_null() {
                return None;
            }
            let assigned = match family.id {
                c::EVP_PKEY_RSA => {
                    let rsa = c::RSA_parse_private_key(&mut cbs);
                    !rsa.is_null() && c::EVP_PKEY_assign_RSA(key, rsa) == 1
                }
                c::EVP_PKEY_EC => {
                    let group = c::EC_GROUP_new_by_curve_name(family.nid);
                    let ec = c::EC_KEY_parse_private_key(&mut cbs, group);
                    !ec.is_null() && c::EVP_PKEY_assign_EC_KEY(key, ec) == 1
                }
                _ => false,
            };
            if !assigned {
                c::EVP_PKEY_free(key);
                quiet();
                return None;
            }
            key
        };
        Owned::whole(key, &cbs)
    }

    /// Whether it is of this family, and its numbers are right.
    fn check(&self, family: &Family, private: bool) -> std::result::Result<(), &'static str> {
        // SAFETY: the key is valid; get0 borrows from it.
        unsafe {
            if c::EVP_PKEY_id(self.0) != family.id {
                return Err("it is of another algorithm");
            }
            match family.id {
                c::EVP_PKEY_RSA if c::RSA_check_key(c::EVP_PKEY_get0_RSA(self.0)) != 1 => {
                    return Err("its numbers do not belong together");
                }
                c::EVP_PKEY_EC => {
                    let key = c::EVP_PKEY_get0_EC_KEY(self.0);
                    let group = c::EC_KEY_get0_group(key);
                    if group.is_null() || c::EC_GROUP_get_curve_name(group) != family.nid {
                        return Err("it is of another curve");
                    }
                    if c::EC_KEY_check_key(key) != 1 {
                        return Err("its numbers do not belong together");
                    }
                }
                c::EVP_PKEY_KEM => {
                    if c::EVP_PKEY_kem_get_type(self.0) != family.nid {
                        return Err("it is of another parameter set");
                    }
                    if private && c::EVP_PKEY_kem_check_key(self.0) != 1 {
                        return Err("its halves do not belong together");
                    }
                    // FIPS 203, 7.2: the library checks a public key whenever it encapsulates.
                    if encapsulate(self.0).is_err() {
                        return Err("its numbers are out of range");
                    }
                }
                c::EVP_PKEY_PQDSA if c::EVP_PKEY_pqdsa_get_type(self.0) != family.nid => {
                    return Err("it is of another parameter set");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// PKCS#8 in DER.
    fn private(&self) -> Option<Secret> {
        marshal(|cbb| {
            // SAFETY: the CBB is initialised, the key valid.
            unsafe { c::EVP_marshal_private_key(cbb, self.0) }
        })
    }

    /// SubjectPublicKeyInfo in DER.
    fn public(&self) -> Option<Vec<u8>> {
        marshal(|cbb| {
            // SAFETY: the CBB is initialised, the key valid.
            unsafe { c::EVP_marshal_public_key(cbb, self.0) }
        })
        .map(|der| der.expose().to_vec())
    }
}

/// What `write` writes.
fn marshal(write: impl FnOnce(*mut c::CBB) -> i32) -> Option<Secret> {
    let written = Secret::made(crate::pair::DER_MAX, |out| {
        // SAFETY: a CBB is plain data; it writes into `out`, which has the length that it is told and outlives
        // it; cleaning up gives back what a failed one holds.
        unsafe {
            let mut cbb: c::CBB = std::mem::zeroed();
            let (mut data, mut length) = (null_mut(), 0);
            if c::CBB_init_fixed(&mut cbb, out.as_mut_ptr(), out.len()) != 1
                || write(&mut cbb) != 1
                || c::CBB_finish(&mut cbb, &mut data, &mut length) != 1
            {
                c::CBB_cleanup(&mut cbb);
                return Err(failed("a key's encoding"));
            }
            Ok(length)
        }
    });
    written.ok()
}

/// Bits as the table counts them.
fn bits(key: &Owned, algorithm: &Algorithm) -> usize {
    if algorithm.bits.min == algorithm.bits.max {
        return algorithm.bits.max;
    }
    // SAFETY: the key is valid.
    usize::try_from(unsafe { c::EVP_PKEY_bits(key.0) }).unwrap_or(0)
}

/// Reads a key of `algorithm` in whatever form of DER, and checks its numbers.
pub fn inspect(algorithm: &'static Algorithm, der: &[u8]) -> Result<(Secret, Facts)> {
    let name = algorithm.name;
    let family = family(algorithm).ok_or_else(|| Error::not_offered(format!("no {name}")))?;
    let private = Owned::pkcs8(der).or_else(|| Owned::traditional(der, &family));
    let is_private = private.is_some();
    let invalid = |why: &str| {
        Error::invalid(format!(
            "a key of {} bytes is no key of {name}: {why}",
            der.len()
        ))
    };
    let Some(key) = private.or_else(|| Owned::spki(der)) else {
        return Err(invalid(
            "neither PKCS#8 (private) nor SubjectPublicKeyInfo (public) in DER that is well-formed and \
             of a kind that is known here",
        ));
    };
    key.check(&family, is_private).map_err(|why| {
        quiet();
        invalid(why)
    })?;
    let public = key
        .public()
        .ok_or_else(|| invalid("its public half is missing"))?;
    let secret = if is_private {
        let missing =
            "its private half is missing, or not in the form of a seed (RFC 9881, RFC 9935)";
        key.private().ok_or_else(|| invalid(missing))?
    } else {
        Secret::new(&public)
    };
    let facts = Facts {
        private: is_private,
        bits: bits(&key, algorithm),
        public: public.into(),
    };
    Ok((secret, facts))
}

/// A new pair: PKCS#8 and SubjectPublicKeyInfo.
pub fn generate(algorithm: &'static Algorithm, bits: usize) -> Result<(Secret, Vec<u8>)> {
    let family =
        family(algorithm).ok_or_else(|| Error::not_offered(format!("no {}", algorithm.name)))?;
    if family.id == c::EVP_PKEY_RSA && bits % 128 != 0 {
        return Err(Error::invalid(format!(
            "{bits} bits: rsa keys are made in steps of 128 bits"
        )));
    }
    // SAFETY: returns an owned context or null.
    let context = Context(unsafe { c::EVP_PKEY_CTX_new_id(family.id, null_mut()) });
    context.there()?;
    let mut key = null_mut();
    // SAFETY: the context is valid and made for this family; `key` becomes an owned key.
    let key = unsafe {
        done(c::EVP_PKEY_keygen_init(context.0), "key generation")?;
        let set = match family.id {
            c::EVP_PKEY_RSA => c::EVP_PKEY_CTX_set_rsa_keygen_bits(context.0, bits as i32),
            c::EVP_PKEY_EC => c::EVP_PKEY_CTX_set_ec_paramgen_curve_nid(context.0, family.nid),
            c::EVP_PKEY_KEM => c::EVP_PKEY_CTX_kem_set_params(context.0, family.nid),
            c::EVP_PKEY_PQDSA => c::EVP_PKEY_CTX_pqdsa_set_params(context.0, family.nid),
            _ => 1,
        };
        done(set, "key generation")?;
        done(c::EVP_PKEY_keygen(context.0, &mut key), "key generation")?;
        Owned(key)
    };
    match (key.private(), key.public()) {
        (Some(private), Some(public)) => Ok((private, public)),
        _ => Err(failed("a new key's encoding")),
    }
}

/// An owned EVP_PKEY_CTX.
struct Context(*mut c::EVP_PKEY_CTX);

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: owned, or null.
        unsafe { c::EVP_PKEY_CTX_free(self.0) }
    }
}

impl Context {
    fn there(&self) -> Result<()> {
        if self.0.is_null() {
            return Err(failed("no memory"));
        }
        Ok(())
    }

    fn new(key: *mut c::EVP_PKEY) -> Result<Context> {
        // SAFETY: the key is valid, and counted by the context.
        let context = Context(unsafe { c::EVP_PKEY_CTX_new(key, null_mut()) });
        context.there().map(|()| context)
    }
}

/// A key of one algorithm.
pub struct Pair {
    der: Secret,
    private: bool,
    rsa: bool,
    // RSA and EC keys of AWS-LC have locks.
    key: PerProcess<Owned>,
}

impl Pair {
    /// Of PKCS#8, or of SubjectPublicKeyInfo.
    pub fn open(algorithm: &'static Algorithm, der: &Secret) -> Result<Pair> {
        let lacks = || Error::not_offered(format!("no such key of {}", algorithm.name));
        let family = family(algorithm).ok_or_else(lacks)?;
        let pair = Pair {
            der: der.clone(),
            private: Owned::pkcs8(der.expose()).is_some(),
            rsa: family.id == c::EVP_PKEY_RSA,
            key: PerProcess::default(),
        };
        pair.key().map_err(|_| lacks())?;
        Ok(pair)
    }

    /// This process's key. It lives as long as `self`.
    fn key(&self) -> Result<*mut c::EVP_PKEY> {
        let der = self.der.expose();
        let key = self.key.get(|| {
            let key = if self.private {
                Owned::pkcs8(der)
            } else {
                Owned::spki(der)
            };
            key.ok_or_else(|| failed("a key that was read before"))
        })?;
        Ok(key.0)
    }

    /// Bytes that a signature, a ciphertext or a modulus takes at most.
    fn room(&self) -> Result<usize> {
        // SAFETY: the key is valid.
        let size = unsafe { c::EVP_PKEY_size(self.key()?) };
        usize::try_from(size).map_err(|_| failed("a key's size"))
    }

    /// Sets RSA's padding for a signature.
    fn pad(
        &self,
        context: *mut c::EVP_PKEY_CTX,
        how: &Signing,
        md: *const c::EVP_MD,
    ) -> Result<()> {
        if !self.rsa {
            return Ok(());
        }
        let what = "a signature's padding";
        // SAFETY: the context is initialised for signing or verifying with an RSA key; md is static.
        unsafe {
            if how.scheme == Scheme::Pss {
                let salt = i32::try_from(how.salt_length).map_err(|_| failed(what))?;
                let padding = c::RSA_PKCS1_PSS_PADDING;
                done(c::EVP_PKEY_CTX_set_rsa_padding(context, padding), what)?;
                done(c::EVP_PKEY_CTX_set_rsa_pss_saltlen(context, salt), what)?;
                done(c::EVP_PKEY_CTX_set_rsa_mgf1_md(context, md), what)
            } else {
                let padding = c::RSA_PKCS1_PADDING;
                done(c::EVP_PKEY_CTX_set_rsa_padding(context, padding), what)
            }
        }
    }

    /// The same for an encryption.
    fn wrap(&self, context: &Context, how: &Padding<'_>) -> Result<()> {
        let what = "an encryption's padding";
        let padding = match how.scheme {
            Scheme::Oaep => c::RSA_PKCS1_OAEP_PADDING,
            Scheme::Pkcs1 => c::RSA_PKCS1_PADDING,
            Scheme::Raw => c::RSA_NO_PADDING,
            Scheme::Pss | Scheme::Own => return Err(failed(what)),
        };
        // SAFETY: the context is initialised for encrypting or decrypting with an RSA key; the label is a
        // copy of AWS-LC's heap, which takes it over.
        unsafe {
            done(c::EVP_PKEY_CTX_set_rsa_padding(context.0, padding), what)?;
            if let Some(hash) = how.hash {
                let md = hash_of(hash)?;
                done(c::EVP_PKEY_CTX_set_rsa_oaep_md(context.0, md), what)?;
                done(c::EVP_PKEY_CTX_set_rsa_mgf1_md(context.0, md), what)?;
            }
            if !how.label.is_empty() {
                let label: *mut u8 = c::OPENSSL_malloc(how.label.len()).cast();
                if label.is_null() {
                    return Err(failed(what));
                }
                std::ptr::copy_nonoverlapping(how.label.as_ptr(), label, how.label.len());
                let length = how.label.len();
                if c::EVP_PKEY_CTX_set0_rsa_oaep_label(context.0, label, length) != 1 {
                    c::OPENSSL_free(label.cast());
                    return Err(failed(what));
                }
            }
        }
        Ok(())
    }
}

fn hash_of(name: &str) -> Result<*const c::EVP_MD> {
    digest(name).ok_or_else(|| Error::elsewhere(format!("AWS-LC has no {name}")))
}

fn optional(hash: Option<&str>) -> Result<*const c::EVP_MD> {
    hash.map_or(Ok(null()), hash_of)
}

/// A hash that signs or verifies.
struct Hashing(c::EVP_MD_CTX);

impl Hashing {
    fn new() -> Hashing {
        // SAFETY: EVP_MD_CTX_init makes an all-zero context an empty one.
        unsafe {
            let mut context: c::EVP_MD_CTX = std::mem::zeroed();
            c::EVP_MD_CTX_init(&mut context);
            Hashing(context)
        }
    }
}

impl Drop for Hashing {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe {
            c::EVP_MD_CTX_cleanup(&mut self.0);
        }
    }
}

impl engine::Pair for Pair {
    fn sign(&self, how: &Signing, data: Input<'_>) -> Result<Vec<u8>> {
        let (key, md) = (self.key()?, optional(how.hash)?);
        let mut signature = vec![0; self.room()?];
        let mut length = signature.len();
        // SAFETY: key and md are valid; `signature` has `length` bytes, which is the most that the key gives.
        let signed = unsafe {
            if how.prehashed {
                let context = Context::new(key)?;
                done(c::EVP_PKEY_sign_init(context.0), "signing")?;
                self.pad(context.0, how, md)?;
                if !md.is_null() {
                    done(c::EVP_PKEY_CTX_set_signature_md(context.0, md), "signing")?;
                }
                let out = signature.as_mut_ptr();
                c::EVP_PKEY_sign(context.0, out, &mut length, data.as_ptr(), data.len())
            } else {
                let (mut hashing, mut context) = (Hashing::new(), null_mut());
                let begun =
                    c::EVP_DigestSignInit(&mut hashing.0, &mut context, md, null_mut(), key);
                done(begun, "signing")?;
                self.pad(context, how, md)?;
                let (state, out) = (&mut hashing.0, signature.as_mut_ptr());
                c::EVP_DigestSign(state, out, &mut length, data.as_ptr(), data.len())
            }
        };
        done(signed, "signing")?;
        signature.truncate(length);
        Ok(signature)
    }

    fn verify(&self, how: &Signing, data: Input<'_>, signature: &[u8]) -> Result<()> {
        let (key, md) = (self.key()?, optional(how.hash)?);
        let (bytes, size) = (signature.as_ptr(), signature.len());
        // SAFETY: key and md are valid; signature and data are readable for their lengths.
        let verified = unsafe {
            if how.prehashed {
                let context = Context::new(key)?;
                done(c::EVP_PKEY_verify_init(context.0), "verifying")?;
                self.pad(context.0, how, md)?;
                if !md.is_null() {
                    done(c::EVP_PKEY_CTX_set_signature_md(context.0, md), "verifying")?;
                }
                c::EVP_PKEY_verify(context.0, bytes, size, data.as_ptr(), data.len())
            } else {
                let (mut hashing, mut context) = (Hashing::new(), null_mut());
                let begun =
                    c::EVP_DigestVerifyInit(&mut hashing.0, &mut context, md, null_mut(), key);
                done(begun, "verifying")?;
                self.pad(context, how, md)?;
                c::EVP_DigestVerify(&mut hashing.0, bytes, size, data.as_ptr(), data.len())
            }
        };
        if verified == 1 {
            Ok(())
        } else {
            quiet();
            Err(Error::bad_signature())
        }
    }

    fn encrypt(&self, how: &Padding<'_>, data: &[u8]) -> Result<Vec<u8>> {
        let context = Context::new(self.key()?)?;
        let mut out = vec![0; self.room()?];
        let mut length = out.len();
        // SAFETY: the context is valid; `out` has `length` bytes, the modulus's.
        let encrypted = unsafe {
            done(c::EVP_PKEY_encrypt_init(context.0), "encrypting")?;
            self.wrap(&context, how)?;
            let (target, source) = (out.as_mut_ptr(), data.as_ptr());
            c::EVP_PKEY_encrypt(context.0, target, &mut length, source, data.len())
        };
        if encrypted != 1 {
            quiet();
            // Lengths are right: without padding the number may be beyond the modulus.
            return Err(Error::invalid("as a number it is not below the modulus"));
        }
        out.truncate(length);
        Ok(out)
    }

    fn decrypt(&self, how: &Padding<'_>, data: &[u8]) -> Result<Secret> {
        if how.scheme == Scheme::Pkcs1 {
            return Err(Error::elsewhere(
                "AWS-LC decrypts no PKCS#1 v1.5: it tells a bad padding from a good one, which is enough \
                 to decrypt without the key (Bleichenbacher, 1998); use oaep",
            ));
        }
        let context = Context::new(self.key()?)?;
        let room = self.room()?;
        // SAFETY: the context is valid; the secret has `length` bytes, the modulus's.
        unsafe {
            done(c::EVP_PKEY_decrypt_init(context.0), "decrypting")?;
            self.wrap(&context, how)?;
            Secret::made(room, |out| {
                let mut length = out.len();
                let (target, source) = (out.as_mut_ptr(), data.as_ptr());
                match c::EVP_PKEY_decrypt(context.0, target, &mut length, source, data.len()) {
                    1 => Ok(length),
                    _ => {
                        quiet();
                        Err(undecipherable())
                    }
                }
            })
        }
    }

    fn agree(&self, peer: &[u8]) -> Result<Secret> {
        let peer = Owned::spki(peer).ok_or_else(|| failed("a peer that was read before"))?;
        let context = Context::new(self.key()?)?;
        // SAFETY: both keys are valid; the secret has the room that the first call asks for.
        unsafe {
            done(c::EVP_PKEY_derive_init(context.0), "agreeing")?;
            let mut length = 0;
            if c::EVP_PKEY_derive_set_peer(context.0, peer.0) != 1
                || c::EVP_PKEY_derive(context.0, null_mut(), &mut length) != 1
            {
                quiet();
                return Err(no_agreement());
            }
            Secret::made(length, |out| {
                let made = c::EVP_PKEY_derive(context.0, out.as_mut_ptr(), &mut length);
                if made != 1 || equal(out, &vec![0; out.len()]) {
                    quiet();
                    return Err(no_agreement());
                }
                Ok(length)
            })
        }
    }

    fn encapsulate(&self) -> Result<(Vec<u8>, Secret)> {
        encapsulate(self.key()?)
    }

    fn decapsulate(&self, ciphertext: &[u8]) -> Result<Secret> {
        let context = Context::new(self.key()?)?;
        let mut size = 0;
        let (bytes, length) = (ciphertext.as_ptr(), ciphertext.len());
        // SAFETY: the context is valid; the first call says how much room the second needs.
        unsafe {
            let ask = c::EVP_PKEY_decapsulate(context.0, null_mut(), &mut size, bytes, length);
            done(ask, "decapsulating")?;
            Secret::made(size, |secret| {
                let out = secret.as_mut_ptr();
                match c::EVP_PKEY_decapsulate(context.0, out, &mut size, bytes, length) {
                    1 => Ok(size),
                    _ => {
                        quiet();
                        Err(wrong_ciphertext(length))
                    }
                }
            })
        }
    }
}

/// A ciphertext for the holder of a private key of ML-KEM, and the secret in it.
fn encapsulate(key: *mut c::EVP_PKEY) -> Result<(Vec<u8>, Secret)> {
    let context = Context::new(key)?;
    let (mut length, mut size) = (0, 0);
    // SAFETY: the context is valid; the first call says how much room the second needs.
    unsafe {
        let ask =
            c::EVP_PKEY_encapsulate(context.0, null_mut(), &mut length, null_mut(), &mut size);
        done(ask, "encapsulating")?;
        let mut ciphertext = vec![0; length];
        let secret = Secret::made(size, |secret| {
            let made = c::EVP_PKEY_encapsulate(
                context.0,
                ciphertext.as_mut_ptr(),
                &mut length,
                secret.as_mut_ptr(),
                &mut size,
            );
            done(made, "encapsulating").map(|()| size)
        })?;
        ciphertext.truncate(length);
        Ok((ciphertext, secret))
    }
}

fn undecipherable() -> Error {
    Error::new(
        crate::error::Kind::BadTag,
        libc::EBADMSG,
        "the ciphertext does not decrypt: another key, hash or label, or it was changed",
    )
}

fn no_agreement() -> Error {
    Error::invalid(
        "no agreement with this peer: the shared secret would not depend on the keys (RFC 7748, 6.1)",
    )
}

fn wrong_ciphertext(length: usize) -> Error {
    Error::invalid(format!(
        "a ciphertext of {length} bytes: this key encapsulates to another length"
    ))
}
