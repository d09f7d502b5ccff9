//! Keys as they are stored: wrapped by the key-encryption key, their attributes authenticated with them.
//!
//! A blob is `CFK1`, the number of the key-encryption key (u32, little-endian), a nonce of 12 bytes, and
//! AES-256-GCM-SIV (RFC 8452) of the key's bytes with the canonical attributes as associated data.

use super::attributes::Attributes;
use cryptofd_core::engine::Key;
use cryptofd_core::engines::software::random;
use cryptofd_core::error::{Error, Kind, Result};
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{Request, Session};
use cryptofd_core::sys::arena;
use cryptofd_core::sys::buffer::{Input, Output};
use std::sync::Arc;

const MAGIC: &[u8; 4] = b"CFK1";
const NONCE: usize = 12;
const TAG: usize = 16;
const HEAD: usize = 4 + 4 + NONCE;
/// Bytes of a key-encryption key.
pub const KEK: usize = 32;
/// Bytes of its entry in a file or in secret memory: its number, then the key.
pub const ENTRY: usize = 4 + KEK;
/// Most of them.
const ENTRIES: usize = 64;
/// Most bytes of key-encryption keys.
pub const MATERIAL: usize = ENTRY * ENTRIES;
/// Most bytes of one key.
pub const KEY: usize = 64 << 10;

/// The key-encryption keys, the present one last.
pub struct Wrapper(Vec<(u32, Arc<Session>)>);

impl Wrapper {
    /// From entries of 36 bytes: number (u32, little-endian) and key.
    pub fn new(material: &[u8]) -> Result<Wrapper> {
        let whole = material.len() % ENTRY == 0;
        if !whole || !(1..=ENTRIES).contains(&(material.len() / ENTRY)) {
            return Err(Error::new(
                Kind::System,
                libc::EUCLEAN,
                format!(
                    "the key-encryption key has {} bytes: 1 to {ENTRIES} times {ENTRY}",
                    material.len()
                ),
            ));
        }
        let keys = material.chunks(ENTRY).map(|entry| {
            let number = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
            let session = Session::open(Request {
                algorithm: "gcm-siv(aes)".into(),
                key: Key::Bytes(Secret::new(&entry[4..])),
                engine: Some("software".into()),
                ..Request::default()
            })?;
            Ok((number, session))
        });
        Ok(Wrapper(keys.collect::<Result<_>>()?))
    }

    /// One entry with a fresh key.
    pub fn entry(number: u32) -> Result<Secret> {
        Secret::made(ENTRY, |entry| {
            entry[..4].copy_from_slice(&number.to_le_bytes());
            random(&mut entry[4..])?;
            Ok(ENTRY)
        })
    }

    /// The blob of a key.
    pub fn wrap(&self, attributes: &Attributes, key: &Secret) -> Result<Vec<u8>> {
        let (number, session) = self
            .0
            .last()
            .ok_or_else(|| Error::invalid("no key-encryption key"))?;
        let mut blob = vec![0; HEAD + key.len() + TAG];
        let (head, out) = blob.split_at_mut(HEAD);
        head[..4].copy_from_slice(MAGIC);
        head[4..8].copy_from_slice(&number.to_le_bytes());
        random(&mut head[8..])?;
        session.seal(
            &head[8..],
            Input::from(&attributes.canonical()?[..]),
            Input::from(key.expose()),
            Output::from(out),
        )?;
        Ok(blob)
    }

    /// The key of a blob. EBADMSG if the blob or any attribute is not what it was.
    pub fn unwrap(&self, attributes: &Attributes, blob: &[u8]) -> Result<Secret> {
        let name = || attributes.name();
        let sealed = blob
            .get(HEAD..)
            .filter(|sealed| blob.starts_with(MAGIC) && sealed.len() >= TAG)
            .filter(|sealed| sealed.len() <= KEY + TAG)
            .ok_or_else(|| Error::invalid(format!("the blob of {} is none", name())))?;
        let number = u32::from_le_bytes([blob[4], blob[5], blob[6], blob[7]]);
        let (_, session) = self.0.iter().find(|(n, _)| *n == number).ok_or_else(|| {
            Error::new(
                Kind::System,
                libc::ENOKEY,
                format!(
                    "{} is wrapped by key-encryption key {number}, which is not there",
                    name()
                ),
            )
        })?;
        let aad = attributes.canonical()?;
        arena::bounded(|| {
            Secret::made(sealed.len() - TAG, |out| {
                let length = out.len();
                session.unseal(
                    &blob[8..HEAD],
                    Input::from(&aad[..]),
                    Input::from(sealed),
                    Output::from(out),
                )?;
                Ok(length)
            })
        })
        .map_err(|error| match error.kind() {
            Kind::BadTag => Error::new(
                Kind::BadTag,
                libc::EBADMSG,
                format!(
                    "{}: the stored key or its attributes were changed, or belong to another store",
                    name()
                ),
            ),
            _ => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn attributes(exportable: bool) -> Attributes {
        let value =
            json!({"id": "0".repeat(32), "algorithm": "gcm(aes)", "exportable": exportable});
        Attributes::parse(value.as_object().unwrap()).unwrap()
    }

    fn wrapper(numbers: &[u32]) -> Wrapper {
        let entries: Vec<Secret> = numbers
            .iter()
            .map(|n| Wrapper::entry(*n).unwrap())
            .collect();
        let material: Vec<u8> = entries.iter().flat_map(|e| e.expose().to_vec()).collect();
        Wrapper::new(&material).unwrap()
    }

    #[test]
    fn a_key_goes_round_and_nothing_of_it_may_change() {
        let wrapper = wrapper(&[1, 7]);
        let key = Secret::new(b"a key of thirty-two bytes, truly");
        let blob = wrapper.wrap(&attributes(false), &key).unwrap();
        assert_eq!(&blob[..8], b"CFK1\x07\0\0\0");
        let back = wrapper.unwrap(&attributes(false), &blob).unwrap();
        assert_eq!(back.expose(), key.expose());
        // Whoever makes a key exportable in the store makes it useless.
        let error = wrapper.unwrap(&attributes(true), &blob).unwrap_err();
        assert_eq!(error.errno(), libc::EBADMSG);
        for at in 0..blob.len() {
            let mut changed = blob.clone();
            changed[at] ^= 1;
            assert!(
                wrapper.unwrap(&attributes(false), &changed).is_err(),
                "{at}"
            );
        }
        for length in 0..blob.len() {
            assert!(wrapper.unwrap(&attributes(false), &blob[..length]).is_err());
        }
        assert_ne!(blob, wrapper.wrap(&attributes(false), &key).unwrap());
    }

    #[test]
    fn an_older_key_encryption_key_still_unwraps() {
        let (one, two) = (Wrapper::entry(1).unwrap(), Wrapper::entry(2).unwrap());
        let old = Wrapper::new(one.expose()).unwrap();
        let both = Wrapper::new(&[one.expose(), two.expose()].concat()).unwrap();
        let key = Secret::new(&[9; 16]);
        let blob = old.wrap(&attributes(false), &key).unwrap();
        assert!(both.unwrap(&attributes(false), &blob).is_ok());
        let newer = both.wrap(&attributes(false), &key).unwrap();
        let error = old.unwrap(&attributes(false), &newer).unwrap_err();
        assert_eq!(error.errno(), libc::ENOKEY);
    }

    #[test]
    fn torn_material_is_refused() {
        for length in [0, 1, 35, 37, MATERIAL + ENTRY] {
            let error = Wrapper::new(&vec![0; length]).map(drop).unwrap_err();
            assert_eq!(error.errno(), libc::EUCLEAN, "{length}");
        }
    }
}
