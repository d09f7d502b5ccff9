//! The whole table on OpenSSL: every algorithm opens and passes its self-test, or stands in the list of
//! what an OpenSSL of this age lacks.

use super::OpenSsl;
use crate::engine::{Blake2, Direction, Engine, Key, Opened, Spec, Work};
use crate::engines;
use crate::error::Kind as ErrorKind;
use crate::secret::Secret;
use crate::selftest;
use crate::sys::buffer::{Input, Output};
use crate::table::{self, Kind};

/// What OpenSSL 3.0 lacks, and why.
const NOT_IN_3_0: [(&str, &str); 5] = [
    ("gcm-siv(aes)", "since OpenSSL 3.2"),
    ("ml-kem-768", "since OpenSSL 3.5"),
    ("ml-kem-1024", "since OpenSSL 3.5"),
    ("ml-dsa-65", "since OpenSSL 3.5"),
    ("aes256-gcm-hkdf-1mb", "composed by the session"),
];

fn engine() -> &'static dyn Engine {
    *engines::all()
        .iter()
        .find(|engine| engine.name() == "openssl")
        .unwrap()
}

fn spec(name: &str, key: &[u8]) -> Spec {
    let key = if key.is_empty() {
        Key::None
    } else {
        Key::Bytes(Secret::new(key))
    };
    Spec::new(table::find(name).unwrap(), key)
}

fn open(name: &str, key: &[u8]) -> Opened {
    OpenSsl.open(&spec(name, key)).unwrap()
}

fn hashing(spec: &Spec) -> Box<dyn crate::engine::Hashing> {
    match OpenSsl.open(spec).unwrap().work {
        Work::Hashing(hashing) => hashing,
        _ => panic!("not a hash"),
    }
}

#[test]
fn every_algorithm_passes_or_is_listed() {
    let mut missing = Vec::new();
    for algorithm in table::ALGORITHMS {
        let sizes = algorithm.key;
        for size in (sizes.min..=sizes.max.min(64)).step_by(sizes.step) {
            let mut spec = spec(algorithm.name, &vec![7; size]);
            if algorithm.template() == "xts" {
                let half: Vec<u8> = (0..size).map(|i| i as u8).collect();
                spec.key = Key::Bytes(Secret::new(&half));
            }
            spec.parameters.iv = vec![1; algorithm.iv_default];
            if algorithm.kind == Kind::Pair {
                spec.key = Key::Bytes(Secret::new(algorithm.tests[0].key));
            }
            match OpenSsl.open(&spec) {
                Ok(opened) => {
                    assert_eq!(opened.driver, "default");
                    selftest::passed(engine(), &spec, &opened)
                        .unwrap_or_else(|error| panic!("{}: {error}", algorithm.name));
                    assert!(
                        !algorithm.tests.is_empty() || algorithm.kind == Kind::Rng,
                        "{} has no known answer",
                        algorithm.name
                    );
                }
                Err(error) => {
                    assert_eq!(
                        error.kind(),
                        ErrorKind::NotOffered,
                        "{}: {error}",
                        algorithm.name
                    );
                    println!("{} ({size}-byte key): {error}", algorithm.name);
                    missing.push(algorithm.name);
                }
            }
        }
    }
    missing.dedup();
    let newer = !OpenSsl.probe().unwrap().starts_with("OpenSSL 3.0");
    let listed: Vec<&str> = NOT_IN_3_0
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !newer || *name == "aes256-gcm-hkdf-1mb")
        .collect();
    assert_eq!(missing, listed);
}

#[test]
fn fips_without_a_module_is_not_offered() {
    let mut spec = spec("sha256", &[]);
    spec.fips = true;
    match OpenSsl.open(&spec) {
        Ok(opened) => {
            assert!(opened.fips);
            assert_eq!(opened.driver, "fips");
            selftest::passed(engine(), &spec, &opened).unwrap();
            let mut weak = spec.clone();
            weak.algorithm = table::find("md5").unwrap();
            assert_eq!(
                OpenSsl.open(&weak).err().unwrap().kind(),
                ErrorKind::NotOffered
            );
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotOffered);
            assert!(error.message().contains("no FIPS provider"), "{error}");
        }
    }
}

#[test]
fn states_fork_and_reset() {
    for algorithm in table::ALGORITHMS {
        let Some(test) = algorithm.tests.iter().find(|test| test.input.len() > 1) else {
            continue;
        };
        if !matches!(algorithm.kind, Kind::Hash | Kind::Xof | Kind::Mac) {
            continue;
        }
        let mut spec = spec(algorithm.name, test.key);
        spec.parameters.iv = test.iv.to_vec();
        let mut state = hashing(&spec).begin().unwrap();
        let (head, tail) = test.input.split_at(test.input.len() / 3);
        state.update(Input::from(head)).unwrap();
        let mut copy = match state.fork() {
            Ok(copy) => copy,
            Err(error) => {
                assert_eq!(error.errno(), libc::EOPNOTSUPP);
                println!("{}: {error}", algorithm.name);
                continue;
            }
        };
        state.update(Input::from(b"something else")).unwrap();
        copy.update(Input::from(tail)).unwrap();
        let mut out = vec![0; test.output.len()];
        copy.finish(&mut out).unwrap();
        assert_eq!(out, test.output, "{} copied", algorithm.name);
        state.reset().unwrap();
        state.update(Input::from(test.input)).unwrap();
        out.fill(0);
        state.finish(&mut out).unwrap();
        assert_eq!(out, test.output, "{} reset", algorithm.name);
        state.reset().unwrap();
        state.update(Input::from(test.input)).unwrap();
        out.fill(0);
        state.finish(&mut out).unwrap();
        assert_eq!(out, test.output, "{} reset after the end", algorithm.name);
    }
}

#[test]
fn chacha20_counter_wraps_as_rfc_8439_says() {
    let Work::Cipher(cipher) = open("chacha20", &[9; 32]).work else {
        panic!("not a cipher");
    };
    let mut last = [5u8; 16];
    last[..4].fill(0xff);
    let mut first = last;
    first[..4].fill(0);
    let (zeros, mut two, mut one) = ([0u8; 192], [0u8; 192], [0u8; 128]);
    let way = Direction::Encrypt;
    cipher
        .once(way, &last, Input::from(&zeros), Output::from(&mut two[..]))
        .unwrap();
    cipher
        .once(
            way,
            &first,
            Input::from(&zeros[..128]),
            Output::from(&mut one[..]),
        )
        .unwrap();
    assert_eq!(two[64..], one);
    assert_ne!(two[..64], one[..64]);
}

#[test]
fn aeads_take_every_size() {
    for name in [
        "gcm(aes)",
        "ccm(aes)",
        "rfc7539(chacha20,poly1305)",
        "gcm-siv(aes)",
    ] {
        let algorithm = table::find(name).unwrap();
        let ivs: Vec<usize> = (algorithm.iv.min..=algorithm.iv.max.min(128))
            .step_by(algorithm.iv.step)
            .collect();
        for &tag in algorithm.tag_sizes {
            let mut spec = spec(name, &[3; 32]);
            spec.parameters.tag_size = Some(tag);
            let Ok(opened) = OpenSsl.open(&spec) else {
                continue;
            };
            let Work::Aead(aead) = opened.work else {
                panic!("not an AEAD");
            };
            for &iv in &ivs {
                for (data, aad) in [(0, 0), (0, 5), (1, 0), (16, 16), (1000, 70000)] {
                    let iv = vec![iv as u8; iv];
                    let (data, aad) = (vec![1u8; data], vec![2u8; aad]);
                    let mut sealed = vec![0; data.len() + tag];
                    let mut back = vec![7; data.len()];
                    let what = || format!("{name} iv {} tag {tag} data {}", iv.len(), data.len());
                    aead.seal(
                        &iv,
                        Input::from(&aad),
                        Input::from(&data),
                        Output::from(&mut sealed),
                    )
                    .unwrap_or_else(|error| panic!("{}: {error}", what()));
                    aead.unseal(
                        &iv,
                        Input::from(&aad),
                        Input::from(&sealed),
                        Output::from(&mut back),
                    )
                    .unwrap_or_else(|error| panic!("{}: {error}", what()));
                    assert_eq!(back, data, "{}", what());
                    let end = sealed.len() - 1;
                    sealed[end] ^= 1;
                    back.fill(7);
                    let error = aead
                        .unseal(
                            &iv,
                            Input::from(&aad),
                            Input::from(&sealed),
                            Output::from(&mut back),
                        )
                        .unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::BadTag, "{}", what());
                    assert!(back.iter().all(|byte| *byte == 0), "{}", what());
                    // In place, after a failure.
                    let mut place = data.clone();
                    place.resize(data.len() + tag, 0);
                    let target = Output::from(&mut place);
                    let source = target.as_input().split_at(data.len()).0;
                    aead.seal(&iv, Input::from(&aad), source, target).unwrap();
                    sealed[end] ^= 1;
                    assert_eq!(place, sealed, "{}", what());
                }
            }
            if algorithm.iv.max > 128 {
                let error = aead
                    .seal(
                        &[1; 129],
                        Input::EMPTY,
                        Input::EMPTY,
                        Output::from(&mut vec![0; tag]),
                    )
                    .unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Elsewhere);
                assert!(error.message().contains("iv of 129 bytes"), "{error}");
            }
        }
    }
}

#[test]
fn blake2_says_what_openssl_lacks() {
    let keyed = |blake2: Blake2, key: &[u8], size| {
        let mut spec = spec("blake2b", key);
        spec.parameters.blake2 = Some(blake2);
        spec.parameters.digest_size = size;
        spec
    };
    // hashlib.blake2b(b"abc", key=b"k"*16, salt=b"s", person=b"p", digest_size=20)
    let salted = Blake2 {
        salt: b"s".to_vec(),
        person: b"p".to_vec(),
        ..Blake2::default()
    };
    let mut out = [0u8; 20];
    hashing(&keyed(salted.clone(), &[b'k'; 16], Some(20)))
        .once(Input::from(b"abc"), &mut out)
        .unwrap();
    let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "bfe5a5b4a1ef364b1105a64de62bacd7bb67b4d4");
    let tree = Blake2 {
        fanout: 2,
        ..Blake2::default()
    };
    for refused in [keyed(tree, &[1], None), keyed(salted, &[], None)] {
        let error = OpenSsl.open(&refused).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotOffered);
    }
    // hashlib.blake2b(b"abc", digest_size=20)
    let short = keyed(Blake2::default(), &[], Some(20));
    match OpenSsl.open(&short) {
        Ok(_) => {
            hashing(&short).once(Input::from(b"abc"), &mut out).unwrap();
            let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, "384264f676f39536840523f284921cdc68b6846b");
        }
        Err(error) => assert!(error.message().contains("gives 64 bytes only"), "{error}"),
    }
}

#[test]
fn empty_inputs_and_keys() {
    use crate::engine::Derivation;
    for name in ["hkdf(sha256)", "pbkdf2(hmac(sha256))", "scrypt"] {
        let Work::Kdf(kdf) = open(name, &[]).work else {
            panic!("not a KDF");
        };
        let with = Derivation {
            iterations: 1,
            n: 2,
            r: 1,
            p: 1,
            ..Derivation::default()
        };
        let mut out = [0u8; 32];
        match kdf.derive(&with, &mut out) {
            Ok(()) => assert_ne!(out, [0; 32], "{name}"),
            Err(error) => panic!("{name}: {error}"),
        }
    }
    let mut tag = [0u8; 32];
    hashing(&spec("hmac(sha256)", &[]))
        .once(Input::EMPTY, &mut tag)
        .unwrap();
    // hmac.digest(b"", b"", "sha256")
    assert_eq!(tag[..4], [0xb6, 0x13, 0x67, 0x9a]);
}

#[test]
fn eight_threads_share_a_session() {
    let (aead, hash, mac, rng) = (
        open("gcm(aes)", &[1; 32]).work,
        open("sha256", &[]).work,
        open("hmac(sha256)", &[2; 32]).work,
        open("stdrng", &[]).work,
    );
    let (Work::Aead(aead), Work::Hashing(hash), Work::Hashing(mac), Work::Random(rng)) =
        (&aead, &hash, &mac, &rng)
    else {
        panic!("other work than was asked for");
    };
    let expect = |data: &[u8], iv: &[u8]| {
        let (mut sealed, mut digest, mut tag) = (vec![0; data.len() + 16], [0; 32], [0; 32]);
        aead.seal(
            iv,
            Input::EMPTY,
            Input::from(data),
            Output::from(&mut sealed),
        )
        .unwrap();
        hash.once(Input::from(data), &mut digest).unwrap();
        mac.once(Input::from(data), &mut tag).unwrap();
        (sealed, digest, tag)
    };
    let known: Vec<_> = (0..8u8)
        .map(|n| expect(&vec![n; 100 + n as usize], &[n; 12]))
        .collect();
    let seen = std::sync::Mutex::new(std::collections::HashSet::new());
    std::thread::scope(|scope| {
        for thread in 0..8usize {
            let (known, seen, expect) = (&known, &seen, &expect);
            scope.spawn(move || {
                for round in 0..500 {
                    let n = ((thread + round) % 8) as u8;
                    let now = expect(&vec![n; 100 + n as usize], &[n; 12]);
                    assert!(now == known[n as usize]);
                    let mut random = [0u8; 16];
                    rng.fill(&mut random).unwrap();
                    assert!(seen.lock().unwrap().insert(random));
                }
            });
        }
    });
}

#[test]
fn long_random_reads() {
    let Work::Random(rng) = open("stdrng", &[]).work else {
        panic!("not random");
    };
    let mut out = vec![0u8; 300_000];
    rng.fill(&mut out).unwrap();
    assert!(out.chunks(16).all(|piece| piece != [0; 16]));
}
