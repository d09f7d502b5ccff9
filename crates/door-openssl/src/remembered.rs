//! What was measured on this host, kept in a file for the programs that come later: which algorithms are worth an
//! engine, by the CPU, the kernel, the host's libcrypto, this library and the preferences that hold.

use crate::worth::Verdict;
use cryptofd_core::preferences;
use cryptofd_core::sys::process;
use serde_json::{Map, Value, json};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// For everybody.
const SYSTEM: &str = "/var/cache/cryptofd";
const NAME: &str = "openssl-bulk.json";
/// `again` has everything measured again, `user` has the user's own file looked at alone.
const VARIABLE: &str = "CRYPTOFD_OPENSSL_MEASURE";
/// The hosts that a file is about at most: home directories are shared, and a program may have a libcrypto of its
/// own.
const HOSTS: usize = 16;

/// What is known of this host.
pub struct Record {
    /// What tells this host from others, for people too.
    host: String,
    known: BTreeMap<String, Verdict>,
    changed: bool,
    /// Whether it is worth measuring: what is found out is kept, or was asked for.
    may_grow: OnceCell<bool>,
}

/// The file that is this user's, and whether others shall read it: root's is everybody's.
fn own() -> Option<(PathBuf, bool)> {
    if process::is_privileged() {
        return None;
    }
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    match cache {
        Some(path) => Some((path.join("cryptofd"), false)),
        None if process::effective_uid() == 0 => Some((SYSTEM.into(), true)),
        None => variable("HOME")
            .filter(|path| path.is_absolute())
            .map(|home| (home.join(".cache/cryptofd"), false)),
    }
}

/// The beginning of a file that the kernel makes.
fn head(path: &str) -> String {
    let mut text = [0; 4096];
    let read = fs::File::open(path).and_then(|mut file| file.read(&mut text));
    String::from_utf8_lossy(&text[..read.unwrap_or(0)]).into_owned()
}

/// What this host is: another CPU, kernel, libcrypto, version or preference makes other figures.
fn host(libcrypto: &str) -> String {
    let cpu = head("/proc/cpuinfo");
    let line = |name: &str| {
        let found = cpu.lines().find(|line| line.starts_with(name));
        let value = found.and_then(|line| line.split_once(':'));
        value.map_or("", |(_, value)| value.trim()).to_owned()
    };
    let mut rest = DefaultHasher::new();
    (line("flags"), line("Features"), line("microcode")).hash(&mut rest);
    if !process::is_privileged() {
        std::env::var_os("OPENSSL_ia32cap").hash(&mut rest);
    }
    format!("{:?}", preferences::current().ok()).hash(&mut rest);
    format!(
        "{}; Linux {}; OpenSSL {libcrypto}; cryptofd {}; {:016x}",
        line("model name"),
        head("/proc/sys/kernel/osrelease").trim(),
        env!("CARGO_PKG_VERSION"),
        rest.finish()
    )
}

/// A folder that is this user's alone to write, held: a user whose variables root has kept does not choose where root
/// writes.
fn ours(folder: &Path) -> Option<fs::File> {
    let held = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(folder)
        .ok()?;
    let about = held.metadata().ok()?;
    (about.uid() == process::effective_uid() && about.mode() & 0o022 == 0).then_some(held)
}

fn file(folder: &Path) -> Option<Map<String, Value>> {
    // What others could have written, and what is broken, is as if it were not there.
    let owners = [0, process::effective_uid()];
    let text = preferences::trusted(&folder.join(NAME), &owners).ok()??;
    match serde_json::from_str(&text).ok()? {
        Value::Object(hosts) => Some(hosts),
        _ => None,
    }
}

impl Record {
    /// What the files know of this host with this libcrypto: the user's, or else the system's.
    pub fn read(libcrypto: &str) -> Record {
        let host = host(libcrypto);
        let own = own().map(|(folder, _)| folder);
        let system = Some(SYSTEM.into());
        let variable = std::env::var(VARIABLE).ok();
        let variable = variable.filter(|_| !process::is_privileged());
        let folders = match variable.as_deref() {
            Some("again") => [None, None],
            Some("user") => [own, None],
            _ => [own, system],
        };
        let known = folders
            .into_iter()
            .flatten()
            .find_map(|folder| file(&folder)?.get(&host)?.get("algorithms").map(understood));
        Record {
            host,
            known: known.unwrap_or_default(),
            changed: false,
            may_grow: match variable.as_deref() {
                Some("again") => OnceCell::from(true),
                _ => OnceCell::new(),
            },
        }
    }

    /// Whether more shall be measured. Not where it could not be kept: every program would wait for it.
    pub fn may_grow(&self) -> bool {
        *self.may_grow.get_or_init(|| self.write().is_some())
    }

    /// Where an algorithm's work goes.
    pub fn get(&self, algorithm: &str) -> Option<Verdict> {
        self.known.get(algorithm).copied()
    }

    /// Adds one.
    pub fn put(&mut self, algorithm: String, verdict: Verdict) {
        self.known.insert(algorithm, verdict);
        self.changed = true;
    }

    /// Keeps it for others, where that is possible: nobody is told where it is not.
    pub fn keep(&mut self) {
        if std::mem::take(&mut self.changed) {
            let _ = self.write();
        }
    }

    /// All that is known, by the algorithms' names.
    pub fn algorithms(&self) -> Value {
        let known = self.known.iter().map(|(name, verdict)| {
            let gain = (verdict.gain * 100.0).round() / 100.0;
            (name.clone(), json!({"from": verdict.from, "gain": gain}))
        });
        Value::Object(known.collect())
    }

    fn write(&self) -> Option<()> {
        let (folder, everybodys) = own()?;
        let (folder_mode, mode) = if everybodys {
            (0o755, 0o644)
        } else {
            (0o700, 0o600)
        };
        DirBuilder::new()
            .recursive(true)
            .mode(folder_mode)
            .create(&folder)
            .ok()?;
        let held = ours(&folder)?;
        let folder = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
        let mut hosts = file(&folder).unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        hosts.insert(
            self.host.clone(),
            json!({"measured": now, "algorithms": self.algorithms()}),
        );
        while hosts.len() > HOSTS {
            let oldest = hosts
                .iter()
                .min_by_key(|(_, host)| host.get("measured").and_then(Value::as_u64));
            let oldest = oldest.map(|(name, _)| name.clone())?;
            hosts.remove(&oldest);
        }
        let text = serde_json::to_string_pretty(&Value::Object(hosts)).ok()?;
        let unfinished = folder.join(format!(".{NAME}.{}", std::process::id()));
        let _ = fs::remove_file(&unfinished);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&unfinished)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&unfinished, folder.join(NAME)));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written.ok()
    }
}

/// Verdicts that a file has; those that mean nothing are left out.
fn understood(algorithms: &Value) -> BTreeMap<String, Verdict> {
    let all = algorithms.as_object().into_iter().flatten();
    all.filter_map(|(name, one)| {
        let from = match one.get("from")? {
            Value::Null => None,
            from => Some(usize::try_from(from.as_u64()?).ok()?),
        };
        let gain = one.get("gain").and_then(Value::as_f64).unwrap_or(1.0);
        Some((name.clone(), Verdict { from, gain }))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::understood;
    use crate::worth::Verdict;
    use serde_json::json;

    #[test]
    fn what_a_file_says_wrongly_is_left_out() {
        let found = understood(&json!({
            "SHA2-256": {"from": 4096, "gain": 1.5},
            "SM3": {"from": null},
            "MD5": {"from": -1},
            "SHA1": {"from": "0"},
            "AES": 7,
            "RIPEMD": {},
        }));
        let one = Verdict {
            from: Some(4096),
            gain: 1.5,
        };
        assert_eq!(found.get("SHA2-256"), Some(&one));
        assert_eq!(found.get("SM3").unwrap().from, None);
        assert_eq!(found.len(), 2);
        assert!(understood(&json!([1, 2])).is_empty());
    }
}
