//! Key-encryption keys that the broker names: every source, several at a time, and what cannot be read.

mod common;

use common::*;
use cryptofd_core::engine::{Derivation, Key};
use cryptofd_core::error::Result;
use cryptofd_core::record::Op;
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{Request, Session};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::os::fd::OwnedFd;

const MODES: [&str; 2] = ["yes", "no"];

fn daemon(secret_memory: &str) -> Daemon {
    Daemon::start_with(&["--secret-memory", secret_memory], Folder::new())
}

fn load(daemon: &mut Daemon, keks: Value, current: u32, fds: Vec<OwnedFd>) -> Result<Answer> {
    let asked = json!({"op": "kek", "keks": keks, "current": current});
    daemon.control.ask_with(asked, fds)
}

/// One key of this kind by the worker, and the number of the key that it is wrapped with.
fn generated(daemon: &mut Daemon) -> (Map<String, Value>, u32) {
    let (mut worker, _) = daemon.worker(DOMAIN);
    let made = generate(&mut worker, "gcm(aes)", &["encrypt", "decrypt"]);
    let blob = packet::bytes(&made, "blob").unwrap().unwrap();
    (made, u32::from_le_bytes(blob[4..8].try_into().unwrap()))
}

fn opens(daemon: &mut Daemon, made: &Map<String, Value>) -> i32 {
    errno(daemon.open(recipe(made)).map(drop))
}

fn entry(number: u32, byte: u8) -> Vec<u8> {
    [&number.to_le_bytes()[..], &[byte; 32]].concat()
}

#[test]
fn files_and_credentials_are_read_and_the_current_one_wraps() {
    for mode in MODES {
        let mut daemon = daemon(mode);
        let keks = json!([
            {"number": 5, "source": "file", "name": "kek", "fd": 1},
            {"number": 2, "source": "credential", "name": "cryptofd.kek", "fd": 0},
        ]);
        let fds = || vec![memory(&[2; 32]), memory(&entry(5, 5))];
        load(&mut daemon, keks.clone(), 2, fds()).unwrap();
        let (under_two, number) = generated(&mut daemon);
        assert_eq!(number, 2);
        // A worker that serves is told of the change, before the answer comes.
        let client = daemon.open(recipe(&under_two)).unwrap();
        load(&mut daemon, keks, 5, fds()).unwrap();
        let (under_five, number) = generated(&mut daemon);
        assert_eq!(number, 5);
        assert_eq!(opens(&mut daemon, &under_two), 0);
        // And the next one has both as well.
        let (_, pid) = daemon.worker(DOMAIN);
        kill(pid);
        call(&client, Op::Seal, b"x").unwrap();
        assert_eq!(opens(&mut daemon, &under_five), 0);
        // Forgotten.
        let only = json!([{"number": 5, "source": "file", "name": "kek", "fd": 0}]);
        load(&mut daemon, only, 5, vec![memory(&entry(5, 5))]).unwrap();
        assert_eq!(opens(&mut daemon, &under_two), libc::ENOKEY);
        assert_eq!(opens(&mut daemon, &under_five), 0);
    }
}

/// The same sources again are no work: a broker that was started again has no passphrase any more.
#[test]
fn a_passphrase_is_derived_once_by_the_tables_scrypt() {
    for mode in MODES {
        let mut daemon = daemon(mode);
        let salt = [7; 16];
        let keks = json!([{
            "number": 1, "source": "passphrase", "fd": 0, "n": 1024, "r": 8, "p": 1,
            "salt": "07".repeat(16),
        }]);
        let (read, mut write) = pipe();
        write.write_all(b"correct horse\n").unwrap();
        drop(write);
        load(&mut daemon, keks.clone(), 1, vec![read.into()]).unwrap();
        let (made, _) = generated(&mut daemon);
        let (empty, _) = pipe();
        load(&mut daemon, keks.clone(), 1, vec![empty.into()]).unwrap();
        daemon.control.ask(json!({"op": "reexec"})).unwrap();
        load(&mut daemon, keks, 1, Vec::new()).unwrap();
        // What scrypt gives here opens it there.
        let scrypt = Session::open(Request {
            algorithm: "scrypt".into(),
            key: Key::Bytes(Secret::new(b"correct horse")),
            ..Request::default()
        })
        .unwrap();
        let mut key = [0; 32];
        let with = Derivation {
            salt: &salt,
            n: 1024,
            r: 8,
            p: 1,
            ..Derivation::default()
        };
        scrypt.derive(&with, &mut key).unwrap();
        let same = json!([{"number": 1, "source": "credential", "fd": 0}]);
        load(&mut daemon, same.clone(), 1, vec![memory(&key)]).unwrap();
        assert_eq!(opens(&mut daemon, &made), 0);
        let other = json!([{"number": 1, "source": "credential", "name": "other", "fd": 0}]);
        load(&mut daemon, other, 1, vec![memory(&[9; 32])]).unwrap();
        assert_eq!(opens(&mut daemon, &made), libc::EBADMSG);
    }
}

fn keyctl(arguments: [libc::c_long; 4]) -> std::io::Result<i64> {
    let [a, b, c, d] = arguments;
    // SAFETY: the callers' pointers are valid for the call.
    let got = unsafe { libc::syscall(libc::SYS_add_key, a, b, c, d, -3) };
    if got < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(got)
    }
}

#[test]
fn a_key_of_the_kernels_keyring_is_read_by_its_serial() {
    let (kind, name, key) = (c"user", c"cryptofd-test", entry(3, 33));
    let added = keyctl([
        kind.as_ptr() as libc::c_long,
        name.as_ptr() as libc::c_long,
        key.as_ptr() as libc::c_long,
        key.len() as libc::c_long,
    ]);
    let serial = match added {
        Ok(serial) => serial,
        Err(error) => {
            eprintln!("SKIPPED: no keyring here: {error}");
            return;
        }
    };
    let mut daemon = daemon("yes");
    let keks = json!([{"number": 3, "source": "keyring", "serial": serial}]);
    match load(&mut daemon, keks, 3, Vec::new()) {
        Ok(_) => assert_eq!(generated(&mut daemon).1, 3),
        // The keyring of a process is not its children's.
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            assert_eq!(error.errno(), libc::EACCES);
        }
    }
    let none = json!([{"number": 3, "source": "keyring", "serial": 1}]);
    assert!(load(&mut daemon, none, 3, Vec::new()).is_err());
}

/// What is wrong is said, and what was there before stays.
#[test]
fn sources_that_give_no_key_change_nothing() {
    for mode in MODES {
        let mut daemon = daemon(mode);
        let (made, _) = generated(&mut daemon);
        let credential = |fd: u32| json!([{"number": 1, "source": "credential", "fd": fd}]);
        let passphrase = json!([{
            "number": 1, "source": "passphrase", "fd": 0, "n": 1024, "r": 8, "p": 1,
            "salt": "07".repeat(16),
        }]);
        let bad: Vec<(Value, u32, Vec<u8>, i32)> = vec![
            (credential(0), 1, vec![1; 31], libc::EUCLEAN),
            (credential(0), 1, vec![1; 40], libc::EUCLEAN),
            (credential(0), 1, entry(2, 1), libc::EUCLEAN),
            (credential(1), 1, vec![1; 32], libc::EINVAL),
            (credential(0), 2, vec![1; 32], libc::EINVAL),
            (json!([]), 1, vec![1; 32], libc::EINVAL),
            (json!([7]), 1, vec![1; 32], libc::EINVAL),
            (
                json!([{"number": 1, "source": "dream", "fd": 0}]),
                1,
                vec![1; 32],
                libc::EOPNOTSUPP,
            ),
            (
                json!([{"number": 0, "source": "file", "fd": 0}]),
                0,
                vec![1; 32],
                libc::EINVAL,
            ),
            (passphrase, 1, b"\n".to_vec(), libc::EINVAL),
        ];
        for (keks, current, content, expected) in bad {
            let done = load(&mut daemon, keks.clone(), current, vec![memory(&content)]);
            assert_eq!(errno(done), expected, "{keks}");
        }
        let (_, number) = generated(&mut daemon);
        assert_eq!(number, 1);
        assert_eq!(opens(&mut daemon, &made), 0);
    }
}
