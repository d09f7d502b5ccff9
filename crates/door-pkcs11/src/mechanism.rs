//! Which mechanisms there are: the table of algorithms, seen through PKCS#11.

use crate::rv::{Result, Rv};
use cryptofd_core::engine::Key;
use cryptofd_core::error::Error;
use cryptofd_core::pair::Options;
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{Request, Session};
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::table::{self, Algorithm, Kind};
use cryptoki_sys::*;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// What a mechanism does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    Digest,
    /// HMAC and CMAC; `general`: its length is a parameter.
    Mac {
        general: bool,
    },
    /// A mode of a block cipher, or a stream cipher; `padded`: PKCS#7.
    Cipher {
        padded: bool,
    },
    Aead,
    KeyWrap,
    /// A signature of a pair. `hash`: of the message; none where the data is signed as it is.
    Sign {
        hash: Option<&'static str>,
        scheme: Option<&'static str>,
    },
    /// RSA with its three paddings.
    Crypt {
        scheme: &'static str,
    },
    /// A key from random bytes.
    Generate {
        key: CK_KEY_TYPE,
    },
    /// Both halves.
    GeneratePair {
        key: CK_KEY_TYPE,
    },
    Agree,
    Encapsulate,
    Hkdf {
        data: bool,
    },
    /// TLS 1.2: one secret of the PRF; the keys of both directions; Finished.
    Tls,
    TlsKeys,
    TlsMac,
}

/// A mechanism: what does it, and how.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The algorithms of the table that serve it, by the key that comes.
    pub algorithm: Option<&'static Algorithm>,
    pub does: Does,
    /// Smallest and largest key, in the units that PKCS#11 has for it.
    pub sizes: (CK_ULONG, CK_ULONG),
    pub flags: CK_FLAGS,
}

/// HMACs whose length is the caller's, by those whose length is not.
const GENERAL: [(CK_MECHANISM_TYPE, CK_MECHANISM_TYPE); 12] = [
    (CKM_MD5_HMAC, CKM_MD5_HMAC_GENERAL),
    (CKM_SHA_1_HMAC, CKM_SHA_1_HMAC_GENERAL),
    (CKM_SHA224_HMAC, CKM_SHA224_HMAC_GENERAL),
    (CKM_SHA256_HMAC, CKM_SHA256_HMAC_GENERAL),
    (CKM_SHA384_HMAC, CKM_SHA384_HMAC_GENERAL),
    (CKM_SHA512_HMAC, CKM_SHA512_HMAC_GENERAL),
    (CKM_SHA512_256_HMAC, CKM_SHA512_256_HMAC_GENERAL),
    (CKM_SHA3_224_HMAC, CKM_SHA3_224_HMAC_GENERAL),
    (CKM_SHA3_256_HMAC, CKM_SHA3_256_HMAC_GENERAL),
    (CKM_SHA3_384_HMAC, CKM_SHA3_384_HMAC_GENERAL),
    (CKM_SHA3_512_HMAC, CKM_SHA3_512_HMAC_GENERAL),
    (CKM_AES_CMAC, CKM_AES_CMAC_GENERAL),
];

const CRYPT: CK_FLAGS = CKF_ENCRYPT | CKF_DECRYPT;
const MESSAGES: CK_FLAGS = CKF_MESSAGE_ENCRYPT | CKF_MESSAGE_DECRYPT | CKF_MULTI_MESSAGE;
const SIGN: CK_FLAGS = CKF_SIGN | CKF_VERIFY;
const WRAP: CK_FLAGS = CKF_WRAP | CKF_UNWRAP;
const CURVE: CK_FLAGS = CKF_EC_F_P | CKF_EC_OID | CKF_EC_UNCOMPRESS | CKF_EC_CURVENAME;

/// All of them, by number.
pub fn all() -> &'static BTreeMap<CK_MECHANISM_TYPE, Known> {
    static ALL: OnceLock<BTreeMap<CK_MECHANISM_TYPE, Known>> = OnceLock::new();
    ALL.get_or_init(build)
}

/// The mechanism with this number.
pub fn find(kind: CK_MECHANISM_TYPE) -> Result<&'static Known> {
    all().get(&kind).ok_or(Rv(CKR_MECHANISM_INVALID))
}

/// Encrypts a message to the key of the table's own tests, and decrypts it.
fn rsa_decrypts(scheme: &'static str) -> bool {
    let attempt = || -> std::result::Result<(), Error> {
        let algorithm = table::find("rsa")?;
        let test = algorithm.tests.iter().find(|test| !test.key.is_empty());
        let key = test.ok_or_else(|| Error::unsupported("the table has no key of RSA"))?;
        let session = Session::open(Request {
            algorithm: algorithm.name.into(),
            key: Key::Bytes(Secret::new(key.key)),
            ..Request::default()
        })?;
        let options = Options {
            scheme: Some(scheme),
            ..Options::default()
        };
        let sealed = session.pair_encrypt(Input::from(scheme.as_bytes()), &options)?;
        session.pair_decrypt(Input::from(&sealed), &options)?;
        Ok(())
    };
    attempt().is_ok()
}

/// What a mechanism does on this host: no engine may be there that decrypts PKCS#1 v1.5 safely.
pub fn flags(kind: CK_MECHANISM_TYPE) -> Result<CK_FLAGS> {
    static PKCS1: OnceLock<bool> = OnceLock::new();
    let flags = find(kind)?.flags;
    if kind == CKM_RSA_PKCS && !*PKCS1.get_or_init(|| rsa_decrypts("pkcs1")) {
        return Ok(flags & !(CKF_DECRYPT | CKF_UNWRAP));
    }
    Ok(flags)
}

/// The mechanisms that a key of this algorithm serves.
pub fn of(algorithm: &Algorithm) -> Vec<CK_MECHANISM_TYPE> {
    let pair = algorithm.kind == Kind::Pair;
    let own = algorithm.pkcs11.iter().chain(algorithm.mechanisms);
    let own: Vec<_> = own.map(|one| one.id as CK_MECHANISM_TYPE).collect();
    let serves = |kind: &CK_MECHANISM_TYPE, known: &Known| {
        let same = known.algorithm.is_some_and(|a| a.name == algorithm.name);
        let generates = matches!(known.does, Does::GeneratePair { .. });
        !generates && (same || pair && own.contains(kind))
    };
    let all = all().iter().filter(|(kind, known)| serves(kind, known));
    all.map(|(kind, _)| *kind).collect()
}

/// The hash that a mechanism number names.
pub fn hash(kind: CK_MECHANISM_TYPE) -> Result<&'static str> {
    match find(kind) {
        Ok(Known {
            algorithm: Some(algorithm),
            does: Does::Digest,
            ..
        }) => Ok(algorithm.name),
        _ => Err(Rv(CKR_MECHANISM_PARAM_INVALID)),
    }
}

/// The hash of a mask generation function.
pub fn mgf(kind: CK_RSA_PKCS_MGF_TYPE) -> Result<&'static str> {
    Ok(match kind {
        CKG_MGF1_SHA1 => "sha1",
        CKG_MGF1_SHA224 => "sha224",
        CKG_MGF1_SHA256 => "sha256",
        CKG_MGF1_SHA384 => "sha384",
        CKG_MGF1_SHA512 => "sha512",
        CKG_MGF1_SHA3_224 => "sha3-224",
        CKG_MGF1_SHA3_256 => "sha3-256",
        CKG_MGF1_SHA3_384 => "sha3-384",
        CKG_MGF1_SHA3_512 => "sha3-512",
        _ => return Err(Rv(CKR_MECHANISM_PARAM_INVALID)),
    })
}

/// The hash in the name of a signature's mechanism: `CKM_SHA3_256_RSA_PKCS`, `CKM_ECDSA_SHA256`.
fn hash_in(name: &str) -> Option<&'static str> {
    let word = name
        .strip_prefix("CKM_ECDSA_")
        .or_else(|| {
            name.strip_prefix("CKM_")?
                .strip_suffix("_PSS")?
                .strip_suffix("_RSA_PKCS")
        })
        .or_else(|| name.strip_prefix("CKM_")?.strip_suffix("_RSA_PKCS"))?;
    let word = word.to_lowercase().replace('_', "-");
    table::ALGORITHMS
        .iter()
        .find(|a| a.kind == Kind::Hash && a.name == word)
        .map(|a| a.name)
}

fn build() -> BTreeMap<CK_MECHANISM_TYPE, Known> {
    let mut all: BTreeMap<CK_MECHANISM_TYPE, Known> = BTreeMap::new();
    for algorithm in table::ALGORITHMS {
        let Some(mechanism) = &algorithm.pkcs11 else {
            continue;
        };
        let kind = mechanism.id as CK_MECHANISM_TYPE;
        let bytes = (algorithm.key.min as CK_ULONG, algorithm.key.max as CK_ULONG);
        let mut put = |kind, does, sizes, flags| {
            all.entry(kind).or_insert(Known {
                algorithm: Some(algorithm),
                does,
                sizes,
                flags,
            });
        };
        match algorithm.kind {
            Kind::Hash => put(kind, Does::Digest, (0, 0), CKF_DIGEST),
            // One message a key, or an IV that belongs to the session: no MAC that C_Sign could make.
            Kind::Mac if algorithm.one_message() => {}
            Kind::Mac => {
                let sizes = if algorithm.template() == "hmac" {
                    // CKK_GENERIC_SECRET of any length.
                    (1, 4096)
                } else {
                    bytes
                };
                put(kind, Does::Mac { general: false }, sizes, SIGN);
                if let Some((_, general)) = GENERAL.iter().find(|(own, _)| *own == kind) {
                    put(*general, Does::Mac { general: true }, sizes, SIGN);
                }
            }
            // Its parameter has a counter and a nonce of many sizes; it comes with Poly1305.
            Kind::Cipher if algorithm.name == "chacha20" => {}
            Kind::Cipher => {
                put(kind, Does::Cipher { padded: false }, bytes, CRYPT);
                if kind == CKM_AES_CBC {
                    put(
                        CKM_AES_CBC_PAD,
                        Does::Cipher { padded: true },
                        bytes,
                        CRYPT | WRAP,
                    );
                }
            }
            Kind::Aead => put(kind, Does::Aead, bytes, CRYPT | MESSAGES),
            Kind::Wrap => put(kind, Does::KeyWrap, bytes, WRAP | CRYPT),
            Kind::Kdf if algorithm.template() == "hkdf" => {
                put(kind, Does::Hkdf { data: false }, (1, 4096), CKF_DERIVE);
                put(
                    CKM_HKDF_DATA,
                    Does::Hkdf { data: true },
                    (1, 4096),
                    CKF_DERIVE,
                );
            }
            Kind::Pair => pair(algorithm, kind, &mut put),
            _ => {}
        }
    }
    for (kind, key, sizes) in [
        (CKM_AES_KEY_GEN, CKK_AES, (16, 32)),
        (CKM_AES_XTS_KEY_GEN, CKK_AES_XTS, (32, 64)),
        (CKM_GENERIC_SECRET_KEY_GEN, CKK_GENERIC_SECRET, (1, 4096)),
        (CKM_CHACHA20_KEY_GEN, CKK_CHACHA20, (32, 32)),
        (CKM_HKDF_KEY_GEN, CKK_HKDF, (1, 4096)),
        (CKM_DES3_KEY_GEN, CKK_DES3, (24, 24)),
    ] {
        let does = Does::Generate { key };
        all.insert(
            kind,
            Known {
                algorithm: None,
                does,
                sizes,
                flags: CKF_GENERATE,
            },
        );
    }
    for (kind, does, sizes, flags) in [
        (CKM_TLS12_MASTER_KEY_DERIVE, Does::Tls, (48, 48), CKF_DERIVE),
        (
            CKM_TLS12_MASTER_KEY_DERIVE_DH,
            Does::Tls,
            (1, 4096),
            CKF_DERIVE,
        ),
        (
            CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE,
            Does::Tls,
            (48, 48),
            CKF_DERIVE,
        ),
        (
            CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH,
            Does::Tls,
            (1, 4096),
            CKF_DERIVE,
        ),
        (CKM_TLS_KDF, Does::Tls, (1, 4096), CKF_DERIVE),
        (
            CKM_TLS12_KEY_AND_MAC_DERIVE,
            Does::TlsKeys,
            (48, 48),
            CKF_DERIVE,
        ),
        (
            CKM_TLS12_KEY_SAFE_DERIVE,
            Does::TlsKeys,
            (48, 48),
            CKF_DERIVE,
        ),
        (CKM_TLS_MAC, Does::TlsMac, (48, 48), SIGN),
    ] {
        all.insert(
            kind,
            Known {
                algorithm: None,
                does,
                sizes,
                flags,
            },
        );
    }
    all
}

fn pair(
    algorithm: &'static Algorithm,
    kind: CK_MECHANISM_TYPE,
    put: &mut impl FnMut(CK_MECHANISM_TYPE, Does, (CK_ULONG, CK_ULONG), CK_FLAGS),
) {
    let Some(key) = &algorithm.key_type else {
        return;
    };
    let key = key.id as CK_KEY_TYPE;
    // Of all curves, not of this one.
    let (sizes, curve) = match key {
        CKK_RSA => (
            (
                algorithm.bits.min as CK_ULONG,
                algorithm.bits.max as CK_ULONG,
            ),
            0,
        ),
        CKK_EC => ((256, 521), CURVE),
        CKK_ML_DSA | CKK_ML_KEM => {
            // By parameter set, and not by size.
            let (does, flags, generate) = match key {
                CKK_ML_DSA => (
                    Does::Sign {
                        hash: None,
                        scheme: None,
                    },
                    SIGN,
                    CKM_ML_DSA_KEY_PAIR_GEN,
                ),
                _ => (
                    Does::Encapsulate,
                    CKF_ENCAPSULATE | CKF_DECAPSULATE,
                    CKM_ML_KEM_KEY_PAIR_GEN,
                ),
            };
            put(kind, does, (0, 0), flags);
            put(
                generate,
                Does::GeneratePair { key },
                (0, 0),
                CKF_GENERATE_KEY_PAIR,
            );
            return;
        }
        CKK_EC_EDWARDS | CKK_EC_MONTGOMERY => {
            ((255, 255), CKF_EC_F_P | CKF_EC_OID | CKF_EC_CURVENAME)
        }
        _ => return,
    };
    let sign = |hash, scheme| Does::Sign { hash, scheme };
    match key {
        CKK_RSA => {
            let flags = SIGN | CRYPT | WRAP;
            put(kind, sign(None, Some("pkcs1")), sizes, flags);
            for one in algorithm.mechanisms {
                let kind = one.id as CK_MECHANISM_TYPE;
                match kind {
                    CKM_RSA_X_509 => put(kind, sign(None, Some("raw")), sizes, SIGN | CRYPT),
                    CKM_RSA_PKCS_OAEP => {
                        put(kind, Does::Crypt { scheme: "oaep" }, sizes, CRYPT | WRAP);
                    }
                    CKM_RSA_PKCS_PSS => put(kind, sign(None, Some("pss")), sizes, SIGN),
                    _ => {
                        let scheme = if one.name.ends_with("_PSS") {
                            "pss"
                        } else {
                            "pkcs1"
                        };
                        if let Some(hash) = hash_in(one.name) {
                            put(kind, sign(Some(hash), Some(scheme)), sizes, SIGN);
                        }
                    }
                }
            }
            put(
                CKM_RSA_PKCS_KEY_PAIR_GEN,
                Does::GeneratePair { key },
                sizes,
                CKF_GENERATE_KEY_PAIR,
            );
        }
        _ if algorithm.does("sign") => {
            put(kind, sign(None, None), sizes, SIGN | curve);
            for one in algorithm.mechanisms {
                if let Some(hash) = hash_in(one.name) {
                    put(
                        one.id as CK_MECHANISM_TYPE,
                        sign(Some(hash), None),
                        sizes,
                        SIGN | curve,
                    );
                }
            }
            let generate = match key {
                CKK_EC => CKM_EC_KEY_PAIR_GEN,
                _ => CKM_EC_EDWARDS_KEY_PAIR_GEN,
            };
            put(
                generate,
                Does::GeneratePair { key },
                sizes,
                CKF_GENERATE_KEY_PAIR | curve,
            );
        }
        _ => {
            put(kind, Does::Agree, (255, 521), CKF_DERIVE | CURVE);
            if key == CKK_EC_MONTGOMERY {
                put(
                    CKM_EC_MONTGOMERY_KEY_PAIR_GEN,
                    Does::GeneratePair { key },
                    sizes,
                    CKF_GENERATE_KEY_PAIR | curve,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mechanism_of_the_table_is_there_or_left_out_on_purpose() {
        let left_out = ["gmac(aes)", "poly1305", "chacha20"];
        for algorithm in table::ALGORITHMS {
            let Some(mechanism) = &algorithm.pkcs11 else {
                continue;
            };
            let other = matches!(algorithm.template(), "pbkdf2" | "kdf108-ctr");
            let there = all().contains_key(&(mechanism.id as CK_MECHANISM_TYPE));
            assert_eq!(
                there,
                !other && !left_out.contains(&algorithm.name),
                "{}",
                algorithm.name
            );
        }
    }

    #[test]
    fn hashes_are_found_in_names() {
        let signs = |kind| match find(kind).unwrap().does {
            Does::Sign { hash, scheme } => (hash, scheme),
            other => panic!("{other:?}"),
        };
        assert_eq!(signs(CKM_SHA256_RSA_PKCS), (Some("sha256"), Some("pkcs1")));
        assert_eq!(signs(CKM_SHA1_RSA_PKCS_PSS), (Some("sha1"), Some("pss")));
        assert_eq!(
            signs(CKM_SHA3_384_RSA_PKCS),
            (Some("sha3-384"), Some("pkcs1"))
        );
        assert_eq!(signs(CKM_ECDSA_SHA512), (Some("sha512"), None));
        assert_eq!(signs(CKM_ECDSA), (None, None));
        assert_eq!(signs(CKM_RSA_X_509), (None, Some("raw")));
    }
}
