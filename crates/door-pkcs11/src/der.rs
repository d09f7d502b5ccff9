//! Keys as PKCS#11 has them, number by number, and as the rest of the world does: SubjectPublicKeyInfo and PKCS#8.

use crate::attributes::Attributes;
use crate::rv::{Result, Rv};
use cryptofd_core::table::{self, Algorithm};
use cryptoki_sys::*;
use pkcs1::{RsaPrivateKey, RsaPublicKey, UintRef};
use pkcs8::PrivateKeyInfo;
use sec1::{EcParameters, EcPrivateKey};
use spki::der::asn1::{AnyRef, BitStringRef, OctetStringRef};
use spki::der::{Decode, Encode, Reader, SliceReader, Tag, Tagged};
use spki::{AlgorithmIdentifierRef, ObjectIdentifier, SubjectPublicKeyInfoRef};
use zeroize::Zeroizing;

const RSA: ObjectIdentifier = oid("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = oid("1.2.840.10045.2.1");

/// A curve: its OID, the name that PKCS#11 has for it besides, and the algorithms that serve it.
struct Curve {
    oid: ObjectIdentifier,
    name: &'static str,
    key: CK_KEY_TYPE,
    /// Bytes of a private key's number.
    size: usize,
    signs: Option<&'static str>,
    agrees: Option<&'static str>,
}

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

const CURVES: [Curve; 5] = [
    Curve {
        oid: oid("1.2.840.10045.3.1.7"),
        name: "secp256r1",
        key: CKK_EC,
        size: 32,
        signs: Some("ecdsa-nist-p256"),
        agrees: Some("ecdh-nist-p256"),
    },
    Curve {
        oid: oid("1.3.132.0.34"),
        name: "secp384r1",
        key: CKK_EC,
        size: 48,
        signs: Some("ecdsa-nist-p384"),
        agrees: Some("ecdh-nist-p384"),
    },
    Curve {
        oid: oid("1.3.132.0.35"),
        name: "secp521r1",
        key: CKK_EC,
        size: 66,
        signs: Some("ecdsa-nist-p521"),
        agrees: Some("ecdh-nist-p521"),
    },
    Curve {
        oid: oid("1.3.101.112"),
        name: "edwards25519",
        key: CKK_EC_EDWARDS,
        size: 32,
        signs: Some("ed25519"),
        agrees: None,
    },
    Curve {
        oid: oid("1.3.101.110"),
        name: "curve25519",
        key: CKK_EC_MONTGOMERY,
        size: 32,
        signs: None,
        agrees: Some("x25519"),
    },
];

/// A lattice's keys: SPKI has the public one as it is, PKCS#8 the seed (RFC 9881, RFC 9935).
struct Lattice {
    oid: ObjectIdentifier,
    key: CK_KEY_TYPE,
    set: CK_ULONG,
    name: &'static str,
    seed: usize,
}

const LATTICES: [Lattice; 3] = [
    Lattice {
        oid: oid("2.16.840.1.101.3.4.3.18"),
        key: CKK_ML_DSA,
        set: CKP_ML_DSA_65,
        name: "ml-dsa-65",
        seed: 32,
    },
    Lattice {
        oid: oid("2.16.840.1.101.3.4.4.2"),
        key: CKK_ML_KEM,
        set: CKP_ML_KEM_768,
        name: "ml-kem-768",
        seed: 64,
    },
    Lattice {
        oid: oid("2.16.840.1.101.3.4.4.3"),
        key: CKK_ML_KEM,
        set: CKP_ML_KEM_1024,
        name: "ml-kem-1024",
        seed: 64,
    },
];

/// Whether keys of this type are a lattice's.
fn of_lattice(key: Option<CK_KEY_TYPE>) -> bool {
    matches!(key, Some(CKK_ML_DSA | CKK_ML_KEM))
}

fn lattice(attributes: &Attributes) -> Result<&'static Lattice> {
    let set = attributes
        .number(CKA_PARAMETER_SET)
        .ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
    let same = |l: &&Lattice| Some(l.key) == attributes.key_type() && l.set == set;
    LATTICES
        .iter()
        .find(same)
        .ok_or(Rv(CKR_PARAMETER_SET_NOT_SUPPORTED))
}

/// Any of its errors: what came is no such key.
fn wrong<E>(_: E) -> Rv {
    Rv(CKR_ATTRIBUTE_VALUE_INVALID)
}

/// One that comes from our own side.
fn ours<E>(_: E) -> Rv {
    Rv(CKR_GENERAL_ERROR)
}

fn curve(parameters: &[u8]) -> Result<&'static Curve> {
    let unknown = Rv(CKR_CURVE_NOT_SUPPORTED);
    let any = AnyRef::from_der(parameters).map_err(|_| Rv(CKR_DOMAIN_PARAMS_INVALID))?;
    let found = match any.tag() {
        Tag::ObjectIdentifier => {
            let oid = any.decode_as::<ObjectIdentifier>().map_err(wrong)?;
            CURVES.iter().find(|curve| curve.oid == oid)
        }
        Tag::PrintableString => CURVES.iter().find(|c| c.name.as_bytes() == any.value()),
        _ => None,
    };
    found.ok_or(unknown)
}

/// What serves a pair with these attributes; to sign, or to agree on a secret.
pub fn algorithm(attributes: &Attributes, agrees: bool) -> Result<&'static Algorithm> {
    let name = match attributes.key_type() {
        Some(CKK_RSA) if !agrees => Some("rsa"),
        key if of_lattice(key) && !agrees => Some(lattice(attributes)?.name),
        Some(key @ (CKK_EC | CKK_EC_EDWARDS | CKK_EC_MONTGOMERY)) => {
            let parameters = attributes.bytes(CKA_EC_PARAMS);
            let curve = curve(parameters.ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?)?;
            if curve.key != key {
                return Err(Rv(CKR_DOMAIN_PARAMS_INVALID));
            }
            if agrees { curve.agrees } else { curve.signs }
        }
        _ => None,
    };
    let name = name.ok_or(Rv(CKR_KEY_TYPE_INCONSISTENT))?;
    table::find(name).map_err(Rv::from)
}

/// What serves a pair with these attributes at all: whether its key is one is asked of that.
pub fn any_algorithm(attributes: &Attributes) -> Result<&'static Algorithm> {
    algorithm(attributes, false).or_else(|error| match error.0 {
        CKR_KEY_TYPE_INCONSISTENT => algorithm(attributes, true),
        _ => Err(error),
    })
}

fn needed(attributes: &Attributes, kind: CK_ATTRIBUTE_TYPE) -> Result<&[u8]> {
    attributes.bytes(kind).ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))
}

fn number(attributes: &Attributes, kind: CK_ATTRIBUTE_TYPE) -> Result<UintRef<'_>> {
    UintRef::new(needed(attributes, kind)?).map_err(wrong)
}

/// The point: an OCTET STRING as PKCS#11 says, or its bytes as many programs have it.
fn point(bytes: &[u8], curve: &Curve) -> Vec<u8> {
    if let Ok(inner) = OctetStringRef::from_der(bytes) {
        return inner.as_bytes().to_vec();
    }
    // Edwards and Montgomery points were BIT STRINGs in a draft.
    match BitStringRef::from_der(bytes) {
        Ok(inner) if curve.key != CKK_EC => inner.raw_bytes().to_vec(),
        _ => bytes.to_vec(),
    }
}

fn identifier(curve: &Curve) -> AlgorithmIdentifierRef<'_> {
    match curve.key {
        CKK_EC => AlgorithmIdentifierRef {
            oid: EC,
            parameters: Some((&curve.oid).into()),
        },
        _ => AlgorithmIdentifierRef {
            oid: curve.oid,
            parameters: None,
        },
    }
}

fn spki(algorithm: AlgorithmIdentifierRef<'_>, key: &[u8]) -> Result<Vec<u8>> {
    let subject_public_key = BitStringRef::from_bytes(key).map_err(wrong)?;
    let whole = SubjectPublicKeyInfoRef {
        algorithm,
        subject_public_key,
    };
    whole.to_der().map_err(ours)
}

fn rsa_identifier() -> AlgorithmIdentifierRef<'static> {
    AlgorithmIdentifierRef {
        oid: RSA,
        parameters: Some(AnyRef::NULL),
    }
}

/// The SubjectPublicKeyInfo of a public key's attributes.
pub fn public(attributes: &Attributes) -> Result<Vec<u8>> {
    if attributes.key_type() == Some(CKK_RSA) {
        let key = RsaPublicKey {
            modulus: number(attributes, CKA_MODULUS)?,
            public_exponent: number(attributes, CKA_PUBLIC_EXPONENT)?,
        };
        return spki(rsa_identifier(), &key.to_der().map_err(wrong)?);
    }
    if of_lattice(attributes.key_type()) {
        let identifier = AlgorithmIdentifierRef {
            oid: lattice(attributes)?.oid,
            parameters: None,
        };
        return spki(identifier, needed(attributes, CKA_VALUE)?);
    }
    let curve = curve(needed(attributes, CKA_EC_PARAMS)?)?;
    let point = point(needed(attributes, CKA_EC_POINT)?, curve);
    spki(identifier(curve), &point)
}

/// The PKCS#8 of a private key's attributes.
pub fn private(attributes: &Attributes) -> Result<Zeroizing<Vec<u8>>> {
    if attributes.key_type() == Some(CKK_RSA) {
        let key = RsaPrivateKey {
            modulus: number(attributes, CKA_MODULUS)?,
            public_exponent: number(attributes, CKA_PUBLIC_EXPONENT)?,
            private_exponent: number(attributes, CKA_PRIVATE_EXPONENT)?,
            prime1: number(attributes, CKA_PRIME_1)?,
            prime2: number(attributes, CKA_PRIME_2)?,
            exponent1: number(attributes, CKA_EXPONENT_1)?,
            exponent2: number(attributes, CKA_EXPONENT_2)?,
            coefficient: number(attributes, CKA_COEFFICIENT)?,
            other_prime_infos: None,
        };
        let inner = Zeroizing::new(key.to_der().map_err(wrong)?);
        let whole = PrivateKeyInfo::new(rsa_identifier(), &inner);
        return whole.to_der().map(Zeroizing::new).map_err(ours);
    }
    if of_lattice(attributes.key_type()) {
        let lattice = lattice(attributes)?;
        // The expanded key alone is not taken: no library of ours keeps that form.
        let seed = needed(attributes, CKA_SEED)?;
        if seed.len() != lattice.seed {
            return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
        }
        let mut inner = Zeroizing::new(vec![0x80, lattice.seed as u8]);
        inner.extend_from_slice(seed);
        let identifier = AlgorithmIdentifierRef {
            oid: lattice.oid,
            parameters: None,
        };
        let whole = PrivateKeyInfo::new(identifier, &inner);
        return whole.to_der().map(Zeroizing::new).map_err(ours);
    }
    let curve = curve(needed(attributes, CKA_EC_PARAMS)?)?;
    let value = needed(attributes, CKA_VALUE)?;
    let inner = match curve.key {
        CKK_EC => {
            // A number: leading zeroes may be missing, or one be there.
            let first = value.iter().position(|byte| *byte != 0).unwrap_or(0);
            let value = &value[first..];
            if value.len() > curve.size {
                return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
            }
            let mut whole = Zeroizing::new(vec![0; curve.size]);
            whole[curve.size - value.len()..].copy_from_slice(value);
            let public = attributes
                .bytes(CKA_EC_POINT)
                .map(|bytes| point(bytes, curve));
            let key = EcPrivateKey {
                private_key: &whole,
                parameters: Some(EcParameters::NamedCurve(curve.oid)),
                public_key: public.as_deref(),
            };
            key.to_der().map_err(wrong)?
        }
        _ => {
            if value.len() != curve.size {
                return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
            }
            OctetStringRef::new(value)
                .and_then(|value| value.to_der())
                .map_err(wrong)?
        }
    };
    let inner = Zeroizing::new(inner);
    let whole = PrivateKeyInfo::new(identifier(curve), &inner);
    whole.to_der().map(Zeroizing::new).map_err(ours)
}

/// What PKCS#11 tells of the public half: type, and modulus and exponent, or curve and point.
pub fn tell_public(spki: &[u8], attributes: &mut Attributes) -> Result<()> {
    let info = SubjectPublicKeyInfoRef::from_der(spki).map_err(ours)?;
    let key = info.subject_public_key.raw_bytes();
    if info.algorithm.oid == RSA {
        let rsa = RsaPublicKey::from_der(key).map_err(ours)?;
        let modulus = rsa.modulus.as_bytes();
        attributes.set_number(CKA_KEY_TYPE, CKK_RSA);
        attributes.set(CKA_MODULUS, modulus);
        attributes.set(CKA_PUBLIC_EXPONENT, rsa.public_exponent.as_bytes());
        let bits = modulus.len() * 8 - modulus.first().map_or(0, |b| b.leading_zeros() as usize);
        attributes.set_number(CKA_MODULUS_BITS, bits as CK_ULONG);
        return Ok(());
    }
    if let Some(lattice) = LATTICES.iter().find(|l| l.oid == info.algorithm.oid) {
        attributes.set_number(CKA_KEY_TYPE, lattice.key);
        attributes.set_number(CKA_PARAMETER_SET, lattice.set);
        attributes.set(CKA_VALUE, key);
        return Ok(());
    }
    let oid = if info.algorithm.oid == EC {
        let parameters = info.algorithm.parameters.ok_or(Rv(CKR_GENERAL_ERROR))?;
        parameters.decode_as::<ObjectIdentifier>().map_err(ours)?
    } else {
        info.algorithm.oid
    };
    let curve = CURVES.iter().find(|curve| curve.oid == oid);
    let curve = curve.ok_or(Rv(CKR_CURVE_NOT_SUPPORTED))?;
    attributes.set_number(CKA_KEY_TYPE, curve.key);
    if !attributes.has(CKA_EC_PARAMS) {
        attributes.set(CKA_EC_PARAMS, &curve.oid.to_der().map_err(ours)?);
    }
    let point = OctetStringRef::new(key).and_then(|key| key.to_der());
    attributes.set(CKA_EC_POINT, &point.map_err(ours)?);
    Ok(())
}

/// One of the numbers of a private key, which may be told.
pub fn tell_private(pkcs8: &[u8], kind: CK_ATTRIBUTE_TYPE) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let info = PrivateKeyInfo::from_der(pkcs8).map_err(ours)?;
    let found = if info.algorithm.oid == RSA {
        let rsa = RsaPrivateKey::from_der(info.private_key).map_err(ours)?;
        match kind {
            CKA_PRIVATE_EXPONENT => Some(rsa.private_exponent),
            CKA_PRIME_1 => Some(rsa.prime1),
            CKA_PRIME_2 => Some(rsa.prime2),
            CKA_EXPONENT_1 => Some(rsa.exponent1),
            CKA_EXPONENT_2 => Some(rsa.exponent2),
            CKA_COEFFICIENT => Some(rsa.coefficient),
            _ => None,
        }
        .map(|number| number.as_bytes().to_vec())
    } else if LATTICES.iter().any(|l| l.oid == info.algorithm.oid) {
        let seed = info
            .private_key
            .strip_prefix(&[0x80])
            .and_then(|rest| rest.get(1..));
        seed.filter(|_| kind == CKA_SEED).map(<[u8]>::to_vec)
    } else if kind != CKA_VALUE {
        None
    } else if info.algorithm.oid == EC {
        let key = EcPrivateKey::from_der(info.private_key).map_err(ours)?;
        Some(key.private_key.to_vec())
    } else {
        let mut reader = SliceReader::new(info.private_key).map_err(ours)?;
        let inner: OctetStringRef<'_> = reader.decode().map_err(ours)?;
        Some(inner.as_bytes().to_vec())
    };
    Ok(found.map(Zeroizing::new))
}

/// The SubjectPublicKeyInfo of the peer with whom a key agrees: PKCS#11 gives a point, wrapped or not.
pub fn peer(own: &Attributes, given: &[u8]) -> Result<Vec<u8>> {
    let curve = curve(needed(own, CKA_EC_PARAMS)?)?;
    let raw = match curve.key {
        CKK_EC => 1 + 2 * curve.size,
        _ => curve.size,
    };
    let inner = if given.len() == raw {
        given.to_vec()
    } else {
        point(given, curve)
    };
    spki(identifier(curve), &inner)
}

/// What to generate for a template of a public key: the table's name and the bits.
pub fn to_generate(attributes: &Attributes, key: CK_KEY_TYPE) -> Result<(&'static str, usize)> {
    if key == CKK_RSA {
        let bits = attributes.number(CKA_MODULUS_BITS);
        let bits = bits.ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))? as usize;
        let exponent = attributes.bytes(CKA_PUBLIC_EXPONENT).unwrap_or(&[1, 0, 1]);
        let first = exponent.iter().position(|byte| *byte != 0).unwrap_or(0);
        if exponent[first..] != [1, 0, 1] {
            return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
        }
        return Ok(("rsa", bits));
    }
    if of_lattice(Some(key)) {
        return Ok((lattice(attributes)?.name, 0));
    }
    let curve = curve(needed(attributes, CKA_EC_PARAMS)?)?;
    if curve.key != key {
        return Err(Rv(CKR_CURVE_NOT_SUPPORTED));
    }
    let name = curve
        .signs
        .or(curve.agrees)
        .ok_or(Rv(CKR_CURVE_NOT_SUPPORTED))?;
    Ok((name, 0))
}

/// What a PKCS#8 says of the type that a template must have: the type, and the curve.
pub fn told_by_private(pkcs8: &[u8], key: CK_KEY_TYPE) -> Result<Attributes> {
    let info = PrivateKeyInfo::from_der(pkcs8).map_err(wrong)?;
    let mut told = Attributes::default();
    if info.algorithm.oid == RSA {
        told.set_number(CKA_KEY_TYPE, CKK_RSA);
        return Ok(told);
    }
    if let Some(lattice) = LATTICES.iter().find(|l| l.oid == info.algorithm.oid) {
        told.set_number(CKA_KEY_TYPE, lattice.key);
        told.set_number(CKA_PARAMETER_SET, lattice.set);
        return Ok(told);
    }
    let oid = match info.algorithm.parameters {
        Some(parameters) if info.algorithm.oid == EC => {
            parameters.decode_as::<ObjectIdentifier>().map_err(wrong)?
        }
        _ => info.algorithm.oid,
    };
    let curve = CURVES
        .iter()
        .find(|curve| curve.oid == oid && curve.key == key);
    let curve = curve.ok_or(Rv(CKR_ATTRIBUTE_VALUE_INVALID))?;
    told.set_number(CKA_KEY_TYPE, curve.key);
    told.set(CKA_EC_PARAMS, &curve.oid.to_der().map_err(ours)?);
    Ok(told)
}
