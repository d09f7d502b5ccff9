//! What a keeper reads key-encryption keys from: files, credentials, the kernel's keyring, passphrases.

use super::system;
use crate::packet::{self, Packet};
use crate::sys;
use crate::worker::keys::{ENTRY, KEK, MATERIAL};
use cryptofd_core::engine::{Derivation, Key};
use cryptofd_core::error::{Error, Kind, Result};
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{Request, Session};
use serde_json::{Map, Value};
use std::os::fd::{AsFd, BorrowedFd};

/// Most bytes of a passphrase.
const PASSPHRASE: usize = 4096;

/// All the keys that a packet names, as entries (number and key), the current one last.
pub fn read(packet: &Packet) -> Result<Secret> {
    let current = packet.number("current")?;
    let keks = packet.object.get("keks").and_then(Value::as_array);
    let keks = keks.map_or(&[][..], Vec::as_slice);
    let mut all: Vec<(u64, Secret)> = Vec::new();
    for kek in keks {
        let about = kek
            .as_object()
            .ok_or_else(|| Error::invalid("keks: a list of objects"))?;
        let number = packet::number(about, "number")?;
        if !(1..=u64::from(u32::MAX)).contains(&number) || all.iter().any(|(n, _)| *n == number) {
            return Err(Error::invalid(format!(
                "key-encryption key {number}: each has a number of its own from 1 to 2^32 - 1"
            )));
        }
        all.push((number, key(number, about, packet)?));
    }
    let place = all.iter().position(|(number, _)| *number == current);
    let place = place
        .ok_or_else(|| Error::invalid(format!("key-encryption key {current} is not among them")))?;
    let last = all.remove(place);
    all.push(last);
    if all.len() * ENTRY > MATERIAL {
        return Err(Error::too_large(format!(
            "{} key-encryption keys: at most {}",
            all.len(),
            MATERIAL / ENTRY
        )));
    }
    Secret::made(all.len() * ENTRY, |out| {
        for ((number, key), entry) in all.iter().zip(out.chunks_mut(ENTRY)) {
            entry[..ENTRY - KEK].copy_from_slice(&(*number as u32).to_le_bytes());
            entry[ENTRY - KEK..].copy_from_slice(key.expose());
        }
        Ok(all.len() * ENTRY)
    })
}

fn key(number: u64, about: &Map<String, Value>, packet: &Packet) -> Result<Secret> {
    let fd = || {
        let place = packet::number(about, "fd")? as usize;
        let fd = packet.fds.get(place);
        fd.map(AsFd::as_fd)
            .ok_or_else(|| Error::invalid(format!("key-encryption key {number} has no descriptor")))
    };
    match packet::text(about, "source")? {
        "file" | "credential" => whole(number, &content(fd()?, ENTRY + 1)?),
        "keyring" => {
            let serial = packet::number(about, "serial")?;
            let serial = i32::try_from(serial)
                .map_err(|_| Error::invalid(format!("{serial} is no serial of a keyring's key")))?;
            let read = Secret::made(ENTRY + 1, |out| {
                sys::keyring_read(serial, out).map_err(|error| {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    Error::system(errno, &format!("key {serial} of the kernel's keyring"))
                })
            })?;
            whole(number, &read)
        }
        "passphrase" => derived(about, &content(fd()?, PASSPHRASE + 1)?),
        other => Err(Error::unsupported(format!(
            "a key-encryption key from {other:?}: file, credential, keyring or passphrase"
        ))),
    }
}

/// A key that is there as it is: 32 bytes, or its number (u32, little-endian) before them.
fn whole(number: u64, content: &Secret) -> Result<Secret> {
    let bytes = content.expose();
    let broken = |why: String| {
        let text = format!("key-encryption key {number}: {why}");
        Err(Error::new(Kind::System, libc::EUCLEAN, text))
    };
    match bytes.len() {
        KEK => Ok(Secret::new(bytes)),
        ENTRY => {
            let (head, key) = bytes.split_at(ENTRY - KEK);
            let named = u64::from(u32::from_le_bytes([head[0], head[1], head[2], head[3]]));
            if named == number {
                Ok(Secret::new(key))
            } else {
                broken(format!("its source holds key {named}"))
            }
        }
        other => broken(format!("{other} bytes where {KEK} or {ENTRY} belong")),
    }
}

/// A key from a passphrase (without the end of its line) by scrypt, RFC 7914.
fn derived(about: &Map<String, Value>, passphrase: &Secret) -> Result<Secret> {
    let mut bytes = passphrase.expose();
    bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if bytes.is_empty() || bytes.len() > PASSPHRASE {
        return Err(Error::invalid(format!(
            "a passphrase has 1 to {PASSPHRASE} bytes; this one has {}",
            bytes.len()
        )));
    }
    let salt = salt(packet::text(about, "salt")?)?;
    let small = |field: &str| -> Result<u32> {
        u32::try_from(packet::number(about, field)?)
            .map_err(|_| Error::invalid(format!("the field {field:?} is too large")))
    };
    let with = Derivation {
        salt: &salt,
        n: packet::number(about, "n")?,
        r: small("r")?,
        p: small("p")?,
        ..Derivation::default()
    };
    let session = Session::open(Request {
        algorithm: "scrypt".into(),
        key: Key::Bytes(Secret::new(bytes)),
        engine: Some("software".into()),
        ..Request::default()
    })?;
    Secret::made(KEK, |out| {
        session.derive(&with, out)?;
        Ok(KEK)
    })
}

fn salt(hex: &str) -> Result<Vec<u8>> {
    let invalid = || Error::invalid("the salt of a passphrase: 16 bytes or more, in hexadecimal");
    if !hex.is_ascii() || hex.len() % 2 != 0 || hex.len() < 32 {
        return Err(invalid());
    }
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| invalid()))
        .collect()
}

/// What is behind a descriptor, from its beginning where it has one: others may share its offset.
fn content(fd: BorrowedFd<'_>, most: usize) -> Result<Secret> {
    Secret::made(most, |out| {
        let mut length = 0;
        while length < out.len() {
            let got = match sys::read_at(fd, &mut out[length..], length as u64) {
                Err(error) if error.raw_os_error() == Some(libc::ESPIPE) => {
                    sys::read(fd, &mut out[length..])
                }
                other => other,
            };
            match got {
                Ok(0) => break,
                Ok(got) => length += got,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(system("reading the key-encryption key")(error)),
            }
        }
        Ok(length)
    })
}
