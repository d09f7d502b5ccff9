//! AlgorithmIdentifiers of signatures in DER, as certificates and messages carry them (RFC 3279, 4055, 5754,
//! 8410, 8692, 9881).

use crate::error::{Error, Reason, Result};
use crate::pair::{Numbers, Public};
use cryptofd_core::table::Algorithm;
use spki::ObjectIdentifier;
use spki::der::Encode;

const NULL: &[u8] = &[5, 0];

fn unknown() -> Error {
    Error::new(
        Reason::UNSUPPORTED,
        "a signature for which there is no object identifier: use another digest",
    )
}

/// An element of DER; all are short of 64 KiB.
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut whole = vec![tag];
    match content.len() {
        length @ 0..=127 => whole.push(length as u8),
        length @ 128..=255 => whole.extend([0x81, length as u8]),
        length => whole.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    whole.extend(content);
    whole
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(0x30, parts)
}

fn identifier(text: &str) -> Result<Vec<u8>> {
    let oid = ObjectIdentifier::new(text).map_err(|_| unknown())?;
    oid.to_der().map_err(|_| unknown())
}

/// That of a hash, from the table.
fn hash(hash: &Algorithm) -> Result<Vec<u8>> {
    let dotted = |name: &&&str| name.starts_with(|c: char| c.is_ascii_digit());
    let oid = hash
        .openssl_aliases
        .iter()
        .find(dotted)
        .ok_or_else(unknown)?;
    Ok(sequence(&[&identifier(oid)?, NULL]))
}

/// DigestInfo (RFC 8017, 9.2): what PKCS#1 v1.5 signs.
pub fn digest_info(by: &Algorithm, digest: &[u8]) -> Result<Vec<u8>> {
    Ok(sequence(&[&hash(by)?, &element(4, &[digest])]))
}

fn number(value: usize) -> Vec<u8> {
    let big = value.to_be_bytes();
    let zeroes = big.iter().take_while(|byte| **byte == 0).count().min(7);
    let digits = &big[zeroes..];
    let sign: &[u8] = if digits[0] & 0x80 == 0 { &[] } else { &[0] };
    element(2, &[sign, digits])
}

/// `salt`: bytes of PSS's.
pub fn of(key: &Public, by: Option<&Algorithm>, salt: Option<usize>) -> Result<Vec<u8>> {
    let name = by.map(|hash| hash.name);
    match &key.numbers {
        Numbers::Rsa { .. } => {
            if let (Some(salt), Some(by)) = (salt, by) {
                let hash = hash(by)?;
                let mask = sequence(&[&identifier("1.2.840.113549.1.1.8")?, &hash]);
                let parameters = sequence(&[
                    &element(0xa0, &[&hash]),
                    &element(0xa1, &[&mask]),
                    &element(0xa2, &[&number(salt)]),
                ]);
                return Ok(sequence(&[
                    &identifier("1.2.840.113549.1.1.10")?,
                    &parameters,
                ]));
            }
            let oid = match name.ok_or_else(unknown)? {
                "sha1" => "1.2.840.113549.1.1.5",
                "sha224" => "1.2.840.113549.1.1.14",
                "sha256" => "1.2.840.113549.1.1.11",
                "sha384" => "1.2.840.113549.1.1.12",
                "sha512" => "1.2.840.113549.1.1.13",
                "sha512/256" => "1.2.840.113549.1.1.16",
                "sha3-224" => "2.16.840.1.101.3.4.3.13",
                "sha3-256" => "2.16.840.1.101.3.4.3.14",
                "sha3-384" => "2.16.840.1.101.3.4.3.15",
                "sha3-512" => "2.16.840.1.101.3.4.3.16",
                _ => return Err(unknown()),
            };
            Ok(sequence(&[&identifier(oid)?, NULL]))
        }
        Numbers::Ec { .. } => {
            let oid = match name.ok_or_else(unknown)? {
                "sha1" => "1.2.840.10045.4.1",
                "sha224" => "1.2.840.10045.4.3.1",
                "sha256" => "1.2.840.10045.4.3.2",
                "sha384" => "1.2.840.10045.4.3.3",
                "sha512" => "1.2.840.10045.4.3.4",
                "sha3-224" => "2.16.840.1.101.3.4.3.9",
                "sha3-256" => "2.16.840.1.101.3.4.3.10",
                "sha3-384" => "2.16.840.1.101.3.4.3.11",
                "sha3-512" => "2.16.840.1.101.3.4.3.12",
                _ => return Err(unknown()),
            };
            Ok(sequence(&[&identifier(oid)?]))
        }
        // The key's own.
        Numbers::Plain(_) => {
            let oid = key.kind().oid.to_der().map_err(|_| unknown())?;
            Ok(sequence(&[&oid]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptofd_core::table::find;

    #[test]
    fn they_are_what_openssl_writes() {
        let rsa = Public::build(
            0,
            Numbers::Rsa {
                modulus: [vec![0xc1], vec![7; 255]].concat(),
                exponent: vec![1, 0, 1],
            },
        )
        .unwrap();
        let sha256 = find("sha256").ok();
        let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(of(&rsa, sha256, None).unwrap()),
            "300d06092a864886f70d01010b0500"
        );
        assert_eq!(
            hex(of(&rsa, sha256, Some(32)).unwrap()),
            "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a8648\
             86f70d010108300d06096086480165030402010500a203020120"
        );
        let ed = Public::build(2, Numbers::Plain(vec![9; 32])).unwrap();
        assert_eq!(hex(of(&ed, None, None).unwrap()), "300506032b6570");
        assert_eq!(number(222), [2, 2, 0, 222]);
        assert_eq!(number(0), [2, 1, 0]);
    }
}
