//! Keys of every algorithm through the software engine: what goes round, what is refused, what children do.

use super::{Facts, Options, ecdsa, generate, inspect};
use crate::engine::Key;
use crate::error::Kind as ErrorKind;
use crate::secret::Secret;
use crate::session::{Request, Session};
use crate::sys::buffer::Input;
use crate::sys::forked::in_child;
use crate::table::{ALGORITHMS, Algorithm, Kind, find};
use std::sync::Arc;

fn pairs() -> impl Iterator<Item = &'static Algorithm> {
    ALGORITHMS.iter().filter(|a| a.kind == Kind::Pair)
}

fn open(algorithm: &str, der: &[u8]) -> crate::Result<Arc<Session>> {
    Session::open(Request {
        algorithm: algorithm.into(),
        key: Key::Bytes(Secret::new(der)),
        ..Request::default()
    })
}

fn fresh(algorithm: &'static Algorithm) -> (Arc<Session>, Arc<Session>) {
    let made = generate(algorithm, Some(algorithm.bits.min)).unwrap();
    let private = open(algorithm.name, made.key.expose()).unwrap();
    let public = open(algorithm.name, &made.public.unwrap()).unwrap();
    (private, public)
}

#[test]
fn every_pair_is_made_and_does_what_the_table_says() {
    for algorithm in pairs() {
        let (private, public) = fresh(algorithm);
        let name = algorithm.name;
        assert_eq!(private.public_key().unwrap(), public.public_key().unwrap());
        let facts: &Facts = private.pair().unwrap();
        assert_eq!((facts.private, facts.bits), (true, algorithm.bits.min));
        assert!(!public.pair().unwrap().private);
        let (data, options) = (Input::from(b"a message"), Options::default());
        let lacks = |error: crate::Error| assert_eq!(error.errno(), libc::EOPNOTSUPP, "{name}");
        match private.sign(data, false, &options) {
            Ok(signature) if algorithm.does("sign") => {
                public
                    .verify_signature(data, false, &signature, &options)
                    .unwrap();
                let error = public
                    .verify_signature(Input::from(b"another"), false, &signature, &options)
                    .unwrap_err();
                assert_eq!(error.errno(), libc::EKEYREJECTED);
                lacks(public.sign(data, false, &options).unwrap_err());
            }
            other => lacks(other.unwrap_err()),
        }
        match public.pair_encrypt(data, &options) {
            Ok(sealed) if algorithm.does("encrypt") => {
                let back = private.pair_decrypt(Input::from(&sealed[..]), &options);
                assert_eq!(back.unwrap().expose(), b"a message");
            }
            other => lacks(other.unwrap_err()),
        }
        let other = fresh(algorithm);
        match private.agree(other.1.public_key().unwrap()) {
            Ok(secret) if algorithm.does("agree") => {
                let same = other.0.agree(public.public_key().unwrap()).unwrap();
                assert_eq!(secret.expose(), same.expose());
                lacks(public.agree(other.1.public_key().unwrap()).unwrap_err());
            }
            other => lacks(other.unwrap_err()),
        }
        match public.encapsulate() {
            Ok((mut ciphertext, secret)) if algorithm.does("encapsulate") => {
                let back = private.decapsulate(&ciphertext).unwrap();
                assert_eq!(back.expose(), secret.expose());
                ciphertext[0] ^= 1;
                let another = private.decapsulate(&ciphertext).unwrap();
                assert_ne!(another.expose(), secret.expose());
                let error = private.decapsulate(&ciphertext[1..]).unwrap_err();
                assert_eq!(error.errno(), libc::EINVAL);
            }
            other => lacks(other.unwrap_err()),
        }
    }
}

#[test]
fn a_key_of_one_algorithm_is_no_key_of_another() {
    let keys: Vec<_> = pairs()
        .map(|a| (a, generate(a, Some(a.bits.min)).unwrap().key))
        .collect();
    for (algorithm, key) in &keys {
        for other in pairs() {
            // ECDSA and ECDH have the same keys.
            let curve = |a: &Algorithm| a.name.split_once("-nist-").map(|(_, curve)| curve);
            let same = algorithm.name == other.name
                || curve(algorithm).is_some() && curve(algorithm) == curve(other);
            let got = open(other.name, key.expose());
            assert_eq!(got.is_ok(), same, "{} as {}", algorithm.name, other.name);
            if let Err(error) = got {
                assert_eq!(error.kind(), ErrorKind::Invalid);
            }
        }
    }
}

#[test]
fn every_truncation_and_addition_of_a_key_is_refused() {
    for algorithm in pairs() {
        let made = generate(algorithm, Some(algorithm.bits.min)).unwrap();
        for der in [made.key.expose(), &made.public.unwrap()] {
            for end in (0..der.len()).step_by(1 + der.len() / 100) {
                let error = inspect(algorithm, &der[..end]).unwrap_err();
                assert_eq!(error.errno(), libc::EINVAL, "{} {end}", algorithm.name);
            }
            let longer = [der, &[0]].concat();
            assert!(inspect(algorithm, &longer).is_err(), "{}", algorithm.name);
        }
    }
}

#[test]
fn rsa_is_made_in_the_sizes_that_the_library_makes() {
    let rsa = find("rsa").unwrap();
    for (bits, right) in [
        (2048, true),
        (2176, true),
        (2056, false),
        (1024, false),
        (8200, false),
    ] {
        let made = generate(rsa, Some(bits));
        assert_eq!(made.is_ok(), right, "{bits}");
        if let Ok(made) = made {
            assert_eq!(inspect(rsa, made.key.expose()).unwrap().1.bits, bits);
        }
    }
}

#[test]
fn secret_keys_have_the_right_size_and_form() {
    for algorithm in ALGORITHMS {
        let made = generate(algorithm, None);
        if !algorithm.takes_key() {
            assert_eq!(made.unwrap_err().errno(), libc::EINVAL);
            continue;
        }
        let made = made.unwrap();
        assert_eq!(made.public.is_some(), algorithm.kind == Kind::Pair);
        if algorithm.kind == Kind::Pair {
            continue;
        }
        let key = made.key.expose();
        assert!(algorithm.key.contains(key.len()), "{}", algorithm.name);
        assert_eq!(made.bits, key.len() * 8);
        assert!(key.iter().any(|b| *b != key[0]), "{}", algorithm.name);
        if algorithm.name == "cbc(des3_ede)" {
            assert!(key.iter().all(|b| b.count_ones() % 2 == 1));
        }
    }
    let aes = find("gcm(aes)").unwrap();
    assert_eq!(generate(aes, Some(128)).unwrap().key.len(), 16);
    for bits in [0, 8, 127, 136, 512] {
        assert_eq!(generate(aes, Some(bits)).unwrap_err().errno(), libc::EINVAL);
    }
}

#[test]
fn raw_signatures_go_round() {
    for size in [32, 48, 66] {
        for first in [0u8, 1, 0x7f, 0x80, 0xff] {
            let mut raw = vec![0x5a; 2 * size];
            (raw[0], raw[1], raw[size]) = (first, 0x80, first);
            let der = ecdsa::from_raw(&raw, size).unwrap();
            assert_eq!(ecdsa::to_raw(&der, size).unwrap(), raw, "{size} {first}");
        }
        let zeros = vec![0; 2 * size];
        let der = ecdsa::from_raw(&zeros, size).unwrap();
        assert_eq!(der, [0x30, 6, 2, 1, 0, 2, 1, 0]);
        assert_eq!(ecdsa::to_raw(&der, size).unwrap(), zeros);
        assert!(ecdsa::from_raw(&zeros[1..], size).is_none());
    }
}

#[test]
fn children_and_threads_use_a_key_that_they_inherit() {
    for name in ["rsa", "ecdsa-nist-p256", "ed25519"] {
        let (private, public) = fresh(find(name).unwrap());
        let sign = |private: &Session| {
            private
                .sign(Input::from(b"data"), false, &Options::default())
                .unwrap()
        };
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // A thread that is nearly always within the library when the fork comes.
            let (flag, key) = (&done, &private);
            scope.spawn(move || {
                while !flag.load(std::sync::atomic::Ordering::Relaxed) {
                    sign(key);
                }
            });
            for _ in 0..20 {
                let signature = in_child(|| sign(&private)).expect("the child ended well");
                public
                    .verify_signature(Input::from(b"data"), false, &signature, &Options::default())
                    .unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
