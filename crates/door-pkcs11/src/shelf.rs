//! Certificates and data that stay: public, so in files of the user's own, beside the broker's state.
//!
//! `$CRYPTOFD_STATE/objects` or `$XDG_STATE_HOME/cryptofd/objects` (`~/.local/state/...`), one file each.
//! What stands there is as hostile as any file: what is no object of these two classes is not shown.

use crate::attributes::Attributes;
use crate::digest;
use crate::rv::{Result, Rv};
use cryptofd_core::sys::process;
use cryptoki_sys::*;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Objects that are shown, and bytes of one.
const MOST: usize = 4096;
const SIZE: u64 = 1 << 20;
/// At the beginning of every file.
const MAGIC: &[u8; 8] = b"cryptofd";
/// What begins the name of one that is still being written.
const UNFINISHED: &str = ".new-";

/// Where they are; nowhere for a set-uid program.
fn folder() -> Option<PathBuf> {
    if process::is_privileged() {
        return None;
    }
    let set = |name: &str| {
        std::env::var_os(name).filter(|value: &OsString| Path::new(value).is_absolute())
    };
    let state = match set("CRYPTOFD_STATE") {
        Some(state) => PathBuf::from(state),
        None => match set("XDG_STATE_HOME") {
            Some(state) => Path::new(&state).join("cryptofd"),
            None => home()?.join(".local/state/cryptofd"),
        },
    };
    Some(state.join("objects"))
}

/// The user's; a service has no HOME, and then the account says it.
fn home() -> Option<PathBuf> {
    // Not deprecated any more in later compilers: what it did wrong, it did on Windows.
    #[allow(deprecated)]
    std::env::home_dir().filter(|home| home.is_absolute())
}

fn encode(attributes: &Attributes) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for (kind, value) in attributes.iter() {
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
        out.extend_from_slice(value);
    }
    out
}

fn decode(bytes: &[u8]) -> Option<Attributes> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (kind, more) = rest.split_first_chunk::<8>()?;
        let (length, more) = more.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (value, more) = more.split_at_checked(length)?;
        let kind = CK_ATTRIBUTE_TYPE::from_le_bytes(*kind);
        all.push((kind, Zeroizing::new(value.to_vec())));
        rest = more;
    }
    let attributes = Attributes::from_template(all).ok()?;
    matches!(attributes.class(), CKO_CERTIFICATE | CKO_DATA).then_some(attributes)
}

fn failed(error: &std::io::Error) -> Rv {
    Rv(match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            CKR_TOKEN_WRITE_PROTECTED
        }
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => CKR_DEVICE_MEMORY,
        _ => CKR_DEVICE_ERROR,
    })
}

/// All of them, by their names.
pub fn all() -> Vec<(String, Attributes)> {
    let Some(entries) = folder().and_then(|folder| fs::read_dir(folder).ok()) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for entry in entries.flatten().take(MOST) {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name.starts_with(UNFINISHED) {
            continue;
        }
        if let Some(attributes) = read(&entry.path()) {
            all.push((name, attributes));
        }
    }
    all
}

fn read(path: &Path) -> Option<Attributes> {
    // A pipe or a device in the file's place would wait for ever.
    let mut open = fs::OpenOptions::new();
    open.read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC);
    let file = open.open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(SIZE + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > SIZE {
        return None;
    }
    decode(&bytes)
}

/// Keeps one; its name. Whole or not at all.
pub fn put(attributes: &Attributes) -> Result<String> {
    let bytes = encode(attributes);
    if bytes.len() as u64 > SIZE {
        return Err(Rv(CKR_DEVICE_MEMORY));
    }
    let name: String = digest::of("sha256", &bytes)?[..16]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    write(&name, &bytes)?;
    Ok(name)
}

/// Puts other attributes in the place of those of `name`.
pub fn replace(name: &str, attributes: &Attributes) -> Result<()> {
    write(name, &encode(attributes))
}

fn write(name: &str, bytes: &[u8]) -> Result<()> {
    let folder = folder().ok_or(Rv(CKR_TOKEN_WRITE_PROTECTED))?;
    let mut making = fs::DirBuilder::new();
    making.recursive(true).mode(0o700);
    making.create(&folder).map_err(|error| failed(&error))?;
    let unfinished = folder.join(format!("{UNFINISHED}{}-{name}", std::process::id()));
    let done = (|| {
        let mut open = fs::OpenOptions::new();
        open.write(true).create(true).truncate(true).mode(0o600);
        open.custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
        let mut file = open.open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, folder.join(name))
    })();
    done.map_err(|error| {
        let _ = fs::remove_file(&unfinished);
        failed(&error)
    })
}

/// Takes one away.
pub fn remove(name: &str) -> Result<()> {
    let folder = folder().ok_or(Rv(CKR_TOKEN_WRITE_PROTECTED))?;
    fs::remove_file(folder.join(name)).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_object_is_not_shown() {
        let mut certificate = Attributes::default();
        certificate.set_number(CKA_CLASS, CKO_CERTIFICATE);
        certificate.set(CKA_VALUE, b"der");
        let bytes = encode(&certificate);
        let back = decode(&bytes).unwrap();
        assert_eq!(back.bytes(CKA_VALUE), Some(&b"der"[..]));
        for cut in 0..bytes.len() {
            if let Some(less) = decode(&bytes[..cut]) {
                // Whole attributes, and the class among them.
                assert!(less.bytes(CKA_VALUE).is_none_or(|value| value == b"der"));
            }
        }
        let mut key = Attributes::default();
        key.set_number(CKA_CLASS, CKO_SECRET_KEY);
        assert!(decode(&encode(&key)).is_none());
        let mut long = bytes.clone();
        long[16] = 0xff;
        assert!(decode(&long).is_none());
    }
}
