//! Public keys as OpenSSL has them, number by number, and as the rest of the world does: SubjectPublicKeyInfo.

use crate::error::{Error, Reason, Result};
use cryptofd_core::table::{self, Algorithm};
use pkcs1::{RsaPublicKey, UintRef};
use spki::der::asn1::{AnyRef, BitStringRef};
use spki::der::{Decode, Encode};
use spki::{AlgorithmIdentifierRef, ObjectIdentifier, SubjectPublicKeyInfoRef};
use std::ffi::CStr;

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

/// What OpenSSL calls a type of keys; one key manager each.
#[derive(Debug, PartialEq, Eq)]
pub struct Type {
    /// The chief name. The host's own key managers have the others: each that stands twice costs every
    /// program time when it reads any key.
    pub name: &'static CStr,
    /// The first version of OpenSSL that has such keys.
    pub since: (u32, u32),
    /// The object identifier of such keys, and of their signatures where these have no digest.
    pub oid: ObjectIdentifier,
    /// The table's algorithms whose keys are of this type; empty where the curve says which.
    algorithm: &'static str,
    /// The operation SIGNATURE, KEYEXCH, ASYM_CIPHER, KEM of such keys, by OpenSSL's name.
    pub signature: Option<&'static CStr>,
    pub exchange: Option<&'static CStr>,
    pub cipher: Option<&'static CStr>,
    pub kem: Option<&'static CStr>,
}

const NOTHING: Type = Type {
    name: c"",
    since: (3, 0),
    oid: oid("1.2.3"),
    algorithm: "",
    signature: None,
    exchange: None,
    cipher: None,
    kem: None,
};

/// All of them. Their places are the key managers' numbers.
pub static TYPES: [Type; 7] = [
    Type {
        name: c"RSA",
        oid: oid("1.2.840.113549.1.1.1"),
        algorithm: "rsa",
        signature: Some(c"RSA"),
        cipher: Some(c"RSA"),
        ..NOTHING
    },
    Type {
        name: c"EC",
        oid: oid("1.2.840.10045.2.1"),
        signature: Some(c"ECDSA"),
        exchange: Some(c"ECDH"),
        ..NOTHING
    },
    Type {
        name: c"ED25519",
        oid: oid("1.3.101.112"),
        algorithm: "ed25519",
        signature: Some(c"ED25519"),
        ..NOTHING
    },
    Type {
        name: c"X25519",
        oid: oid("1.3.101.110"),
        algorithm: "x25519",
        exchange: Some(c"X25519"),
        ..NOTHING
    },
    Type {
        name: c"ML-DSA-65",
        since: (3, 5),
        oid: oid("2.16.840.1.101.3.4.3.18"),
        algorithm: "ml-dsa-65",
        signature: Some(c"ML-DSA-65"),
        ..NOTHING
    },
    Type {
        name: c"ML-KEM-768",
        since: (3, 5),
        oid: oid("2.16.840.1.101.3.4.4.2"),
        algorithm: "ml-kem-768",
        kem: Some(c"ML-KEM-768"),
        ..NOTHING
    },
    Type {
        name: c"ML-KEM-1024",
        since: (3, 5),
        oid: oid("2.16.840.1.101.3.4.4.3"),
        algorithm: "ml-kem-1024",
        kem: Some(c"ML-KEM-1024"),
        ..NOTHING
    },
];

/// The place of EC among them.
pub const EC: usize = 1;

/// A curve of NIST's.
#[derive(Debug, PartialEq, Eq)]
pub struct Curve {
    oid: ObjectIdentifier,
    /// OpenSSL's name of the group.
    pub group: &'static CStr,
    /// Others that programs give it.
    aliases: &'static [&'static str],
    /// Bytes of a coordinate.
    pub size: usize,
    /// Most bytes of a signature in DER.
    pub signature: usize,
    signs: &'static str,
    agrees: &'static str,
}

static CURVES: [Curve; 3] = [
    Curve {
        oid: oid("1.2.840.10045.3.1.7"),
        group: c"prime256v1",
        aliases: &["P-256", "secp256r1"],
        size: 32,
        signature: 72,
        signs: "ecdsa-nist-p256",
        agrees: "ecdh-nist-p256",
    },
    Curve {
        oid: oid("1.3.132.0.34"),
        group: c"secp384r1",
        aliases: &["P-384"],
        size: 48,
        signature: 104,
        signs: "ecdsa-nist-p384",
        agrees: "ecdh-nist-p384",
    },
    Curve {
        oid: oid("1.3.132.0.35"),
        group: c"secp521r1",
        aliases: &["P-521"],
        size: 66,
        signature: 139,
        signs: "ecdsa-nist-p521",
        agrees: "ecdh-nist-p521",
    },
];

impl Type {
    /// The table's algorithm of its keys, on this curve: to sign, or what else they are for; or to agree on a secret.
    pub fn algorithm(
        &self,
        curve: Option<&'static Curve>,
        agrees: bool,
    ) -> Result<&'static Algorithm> {
        let name = match curve {
            Some(curve) if agrees => curve.agrees,
            Some(curve) => curve.signs,
            None if self.algorithm.is_empty() => return Err(no_curve()),
            None => self.algorithm,
        };
        Ok(table::find(name)?)
    }
}

impl Curve {
    /// Bits of a coordinate.
    pub fn bits(&self) -> usize {
        if self.size == 66 { 521 } else { self.size * 8 }
    }

    /// Bits of security.
    pub fn strength(&self) -> Result<u32> {
        Ok(table::find(self.signs)?.strength_of(self.bits()))
    }

    /// By a name that a program gives it.
    pub fn named(name: &str) -> Result<&'static Curve> {
        let same = |other: &str| other.eq_ignore_ascii_case(name);
        let found = CURVES.iter().find(|curve| {
            curve.group.to_str().is_ok_and(same) || curve.aliases.iter().any(|alias| same(alias))
        });
        found.ok_or_else(|| {
            let text = format!("group {name:?}: P-256, P-384 or P-521");
            Error::new(Reason::UNSUPPORTED, text)
        })
    }
}

/// The numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Modulus and exponent, big-endian, without leading zeroes.
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    /// An uncompressed point.
    Ec {
        curve: &'static Curve,
        point: Vec<u8>,
    },
    /// As it is.
    Plain(Vec<u8>),
}

/// A public key.
#[derive(Clone, Debug)]
pub struct Public {
    /// Its type's place.
    pub place: usize,
    /// SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// What is in it.
    pub numbers: Numbers,
}

fn wrong<E>(_: E) -> Error {
    Error::new(Reason::INVALID, "no public key of a type that is known")
}

/// Nobody said on which curve.
pub fn no_curve() -> Error {
    let text = "group: say on which curve: P-256, P-384 or P-521";
    Error::new(Reason::PARAMETER, text)
}

fn stripped(number: &[u8]) -> &[u8] {
    let zeroes = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeroes..]
}

impl Public {
    /// Of a SubjectPublicKeyInfo.
    pub fn parse(spki: &[u8]) -> Result<Public> {
        let info = SubjectPublicKeyInfoRef::from_der(spki).map_err(wrong)?;
        let place = TYPES
            .iter()
            .position(|one| one.oid == info.algorithm.oid)
            .ok_or(())
            .map_err(wrong)?;
        let key = info.subject_public_key.raw_bytes();
        let numbers = match TYPES[place].name.to_bytes() {
            b"RSA" => {
                let rsa = RsaPublicKey::from_der(key).map_err(wrong)?;
                Numbers::Rsa {
                    modulus: rsa.modulus.as_bytes().to_vec(),
                    exponent: rsa.public_exponent.as_bytes().to_vec(),
                }
            }
            b"EC" => {
                let named = info.algorithm.parameters_oid().map_err(wrong)?;
                let curve = CURVES.iter().find(|curve| curve.oid == named);
                Numbers::Ec {
                    curve: curve.ok_or(()).map_err(wrong)?,
                    point: key.to_vec(),
                }
            }
            _ => Numbers::Plain(key.to_vec()),
        };
        let public = Public {
            place,
            spki: spki.to_vec(),
            numbers,
        };
        public.check()?;
        Ok(public)
    }

    /// Of its numbers.
    pub fn build(place: usize, numbers: Numbers) -> Result<Public> {
        let rsa;
        let (parameters, key) = match &numbers {
            Numbers::Rsa { modulus, exponent } => {
                let key = RsaPublicKey {
                    modulus: UintRef::new(stripped(modulus)).map_err(wrong)?,
                    public_exponent: UintRef::new(stripped(exponent)).map_err(wrong)?,
                };
                rsa = key.to_der().map_err(wrong)?;
                (Some(AnyRef::NULL), rsa.as_slice())
            }
            Numbers::Ec { curve, point } => (Some((&curve.oid).into()), point.as_slice()),
            Numbers::Plain(bytes) => (None, bytes.as_slice()),
        };
        let info = SubjectPublicKeyInfoRef {
            algorithm: AlgorithmIdentifierRef {
                oid: TYPES[place].oid,
                parameters,
            },
            subject_public_key: BitStringRef::from_bytes(key).map_err(wrong)?,
        };
        let spki = info.to_der().map_err(wrong)?;
        let public = Public {
            place,
            spki,
            numbers,
        };
        public.check()?;
        Ok(public)
    }

    fn check(&self) -> Result<()> {
        let fits = match &self.numbers {
            Numbers::Rsa { modulus, exponent } => modulus.len() >= 64 && !exponent.is_empty(),
            Numbers::Ec { curve, point } => {
                point.first() == Some(&4) && point.len() == 1 + 2 * curve.size
            }
            Numbers::Plain(bytes) => !bytes.is_empty(),
        };
        if fits { Ok(()) } else { Err(wrong(())) }
    }

    /// Its type.
    pub fn kind(&self) -> &'static Type {
        &TYPES[self.place]
    }

    /// The table's algorithm of such a key: to sign, or what else it is for; or to agree on a secret.
    pub fn algorithm(&self, agrees: bool) -> Result<&'static Algorithm> {
        self.kind().algorithm(self.curve(), agrees)
    }

    /// Its curve, if it is on one.
    pub fn curve(&self) -> Option<&'static Curve> {
        match &self.numbers {
            Numbers::Ec { curve, .. } => Some(curve),
            _ => None,
        }
    }

    /// Bits, as OpenSSL counts them.
    pub fn bits(&self) -> usize {
        match &self.numbers {
            Numbers::Rsa { modulus, .. } => {
                modulus.len() * 8 - modulus.first().map_or(0, |b| b.leading_zeros() as usize)
            }
            Numbers::Ec { curve, .. } => curve.bits(),
            Numbers::Plain(bytes) => match self.kind().name.to_bytes() {
                b"ED25519" => 256,
                b"X25519" => 253,
                b"ML-KEM-768" => 768,
                b"ML-KEM-1024" => 1024,
                _ => bytes.len() * 8,
            },
        }
    }

    /// Bits of security.
    pub fn strength(&self) -> u32 {
        match self.algorithm(false) {
            Ok(algorithm) => algorithm.strength_of(self.bits()),
            Err(_) => 0,
        }
    }

    /// Bytes of a coordinate, which is what two agree on.
    pub fn coordinate(&self) -> usize {
        match &self.numbers {
            Numbers::Ec { curve, .. } => curve.size,
            _ => self.most(),
        }
    }

    /// Most bytes of what an operation with it gives.
    pub fn most(&self) -> usize {
        match &self.numbers {
            Numbers::Rsa { modulus, .. } => modulus.len(),
            Numbers::Ec { curve, .. } => curve.signature,
            // RFC 8032, RFC 7748; FIPS 204, table 2; FIPS 203, table 3.
            Numbers::Plain(_) => match self.kind().name.to_bytes() {
                b"ED25519" => 64,
                b"X25519" => 32,
                b"ML-DSA-65" => 3309,
                b"ML-KEM-768" => 1088,
                _ => 1568,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digit).collect()
    }

    #[test]
    fn a_public_key_goes_to_numbers_and_back() {
        let point = "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb67903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299";
        let curve = Curve::named("P-256").unwrap();
        let numbers = Numbers::Ec {
            curve,
            point: hex(point),
        };
        let built = Public::build(EC, numbers).unwrap();
        let parsed = Public::parse(&built.spki).unwrap();
        assert_eq!(parsed.numbers, built.numbers);
        assert_eq!(
            (parsed.bits(), parsed.most(), parsed.strength()),
            (256, 72, 128)
        );
        assert!(Public::parse(&built.spki[..built.spki.len() - 1]).is_err());
        let modulus = [vec![0xc1], vec![7; 255]].concat();
        let numbers = Numbers::Rsa {
            modulus,
            exponent: vec![1, 0, 1],
        };
        let built = Public::build(0, numbers).unwrap();
        let parsed = Public::parse(&built.spki).unwrap();
        assert_eq!(parsed.numbers, built.numbers);
        assert_eq!(
            (parsed.bits(), parsed.most(), parsed.strength()),
            (2048, 256, 112)
        );
        let built = Public::build(2, Numbers::Plain(vec![9; 32])).unwrap();
        assert_eq!(Public::parse(&built.spki).unwrap().kind().name, c"ED25519");
    }

    #[test]
    fn the_table_knows_every_type() {
        for kind in TYPES.iter().filter(|kind| !kind.algorithm.is_empty()) {
            let chief = table::find(kind.algorithm).unwrap().openssl.unwrap();
            assert_eq!(kind.name.to_str().unwrap(), chief);
        }
        for curve in &CURVES {
            assert_eq!(table::find(curve.signs).unwrap().openssl, Some("EC"));
            assert_eq!(table::find(curve.agrees).unwrap().openssl, Some("EC"));
        }
    }
}
