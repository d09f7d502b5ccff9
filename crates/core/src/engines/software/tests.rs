//! The engine against the table: it serves all of it, and states, pieces and places do not matter.

use super::Software;
use crate::engine::{Direction, Engine, Key, Opened, Spec, Work};
use crate::secret::Secret;
use crate::selftest;
use crate::sys::buffer::{Input, Output};
use crate::sys::forked::in_child;
use crate::table::{ALGORITHMS, Algorithm, Kind};

/// What the engine does not serve, and why.
const WITHOUT: &[(&str, &str)] = &[(
    "aes256-gcm-hkdf-1mb",
    "a format composed of hkdf(sha256) and gcm(aes), above the engines",
)];

static SOFTWARE: Software = Software;

/// Bytes that look random and are the same every time (xorshift64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.next() >> 32) as u8).collect()
    }
}

fn served() -> impl Iterator<Item = &'static Algorithm> {
    ALGORITHMS
        .iter()
        .filter(|a| !WITHOUT.iter().any(|(name, _)| *name == a.name))
}

/// A valid spec with a key of `size` bytes.
fn spec(algorithm: &'static Algorithm, size: usize, noise: &mut Noise) -> Spec {
    let key = if algorithm.takes_key() && size > 0 {
        Key::Bytes(Secret::new(&noise.bytes(size)))
    } else {
        Key::None
    };
    let mut spec = Spec::new(algorithm, key);
    if algorithm.kind == Kind::Mac && algorithm.iv.max > 0 {
        spec.parameters.iv = noise.bytes(algorithm.iv_default);
    }
    spec
}

fn key_sizes(algorithm: &Algorithm) -> Vec<usize> {
    let sizes = algorithm.key;
    if sizes.max > 64 {
        vec![sizes.min, 32, 64, 65, 129, 200]
    } else {
        (sizes.min..=sizes.max).step_by(sizes.step).collect()
    }
}

fn open(spec: &Spec) -> Opened {
    SOFTWARE
        .open(spec)
        .unwrap_or_else(|e| panic!("{}: {e}", spec.algorithm.name))
}

#[test]
fn every_algorithm_of_the_table_opens_and_passes_its_known_answers() {
    let mut noise = Noise(1);
    for algorithm in ALGORITHMS {
        if let Some((name, why)) = WITHOUT.iter().find(|(name, _)| *name == algorithm.name) {
            let spec = spec(algorithm, algorithm.key.min, &mut noise);
            assert!(SOFTWARE.open(&spec).is_err(), "{name} is served: {why}");
            continue;
        }
        assert!(
            !algorithm.tests.is_empty() || algorithm.kind == Kind::Rng,
            "{}: no known answer",
            algorithm.name
        );
        // Any size below 200 keeps this quick; each known answer brings its own.
        if algorithm.kind == Kind::Pair {
            let key = Key::Bytes(Secret::new(algorithm.tests[0].key));
            let spec = Spec::new(algorithm, key);
            let opened = open(&spec);
            selftest::passed(&SOFTWARE, &spec, &opened)
                .unwrap_or_else(|e| panic!("{} by {}: {e}", algorithm.name, opened.driver));
            continue;
        }
        for size in key_sizes(algorithm) {
            let spec = spec(algorithm, size, &mut noise);
            let opened = open(&spec);
            selftest::passed(&SOFTWARE, &spec, &opened)
                .unwrap_or_else(|e| panic!("{} by {}: {e}", algorithm.name, opened.driver));
        }
        // The self-test skips what an engine does not offer: here nothing may be skipped.
        for test in algorithm.tests {
            let key = Key::Bytes(Secret::new(test.key));
            let mut spec = Spec::new(algorithm, key);
            spec.parameters.iv = test.iv.to_vec();
            open(&spec);
        }
    }
}

#[test]
fn the_list_of_exceptions_names_algorithms_that_exist() {
    for (name, _) in WITHOUT {
        assert!(crate::table::find(name).is_ok());
    }
}

#[test]
fn a_hash_in_random_pieces_copied_and_reset_equals_the_whole() {
    let mut noise = Noise(2);
    for algorithm in served().filter(|a| a.kind != Kind::Pair) {
        for size in key_sizes(algorithm).into_iter().step_by(3) {
            let spec = spec(algorithm, size, &mut noise);
            let Work::Hashing(hashing) = open(&spec).work else {
                break;
            };
            let out_size = spec.digest_size();
            for length in [
                0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1000, 5000, 9000,
            ] {
                let name = algorithm.name;
                let data = noise.bytes(length);
                let (mut whole, mut pieces, mut copied, mut again) = (
                    vec![0; out_size],
                    vec![0; out_size],
                    vec![0; out_size],
                    vec![0; out_size],
                );
                hashing.once(Input::from(&data), &mut whole).unwrap();
                let mut state = hashing.begin().unwrap();
                let mut copy = None;
                let mut at = 0;
                while at < length {
                    let piece = (1 + noise.below(300)).min(length - at);
                    if at > length / 2 && copy.is_none() {
                        copy = Some((state.fork().unwrap(), at));
                    }
                    state.update(Input::from(&data[at..at + piece])).unwrap();
                    at += piece;
                }
                state.finish(&mut pieces).unwrap();
                assert_eq!(whole, pieces, "{name} of {length} bytes in pieces");
                if let Some((mut copy, at)) = copy {
                    // The original is finished; the copy goes on by itself.
                    copy.update(Input::from(&data[at..])).unwrap();
                    copy.finish(&mut copied).unwrap();
                    assert_eq!(whole, copied, "{name} of {length} bytes from a copy");
                }
                state.reset().unwrap();
                state.update(Input::from(&data)).unwrap();
                state.finish(&mut again).unwrap();
                assert_eq!(whole, again, "{name} of {length} bytes after a reset");
            }
        }
    }
}

#[test]
fn an_xof_gives_any_length_and_shorter_ones_are_its_beginning() {
    for algorithm in served().filter(|a| a.kind == Kind::Xof) {
        let Work::Hashing(hashing) = open(&Spec::new(algorithm, Key::None)).work else {
            panic!("{}", algorithm.name);
        };
        let mut long = vec![0; 5000];
        hashing.once(Input::from(b"abc"), &mut long).unwrap();
        for length in [0, 1, 31, 32, 136, 137, 168, 169, 4999] {
            let mut short = vec![0; length];
            hashing.once(Input::from(b"abc"), &mut short).unwrap();
            assert_eq!(short, long[..length]);
        }
    }
}

#[test]
fn a_digest_of_the_wrong_size_is_refused() {
    let mut noise = Noise(3);
    for algorithm in served().filter(|a| matches!(a.kind, Kind::Hash | Kind::Mac)) {
        let spec = spec(algorithm, algorithm.key.max.min(32), &mut noise);
        let Work::Hashing(hashing) = open(&spec).work else {
            panic!("{}", algorithm.name);
        };
        let mut out = vec![0; spec.digest_size() + 1];
        let mut state = hashing.begin().unwrap();
        assert!(state.finish(&mut out).is_err(), "{}", algorithm.name);
        assert!(
            hashing.once(Input::EMPTY, &mut out).is_err(),
            "{}",
            algorithm.name
        );
    }
}

#[test]
fn a_cipher_in_pieces_and_in_place_equals_the_whole_and_comes_back() {
    let mut noise = Noise(4);
    for algorithm in served().filter(|a| a.kind == Kind::Cipher) {
        let name = algorithm.name;
        let (xts, block) = (algorithm.template() == "xts", algorithm.block);
        for size in key_sizes(algorithm) {
            let Work::Cipher(cipher) = open(&spec(algorithm, size, &mut noise)).work else {
                panic!("{name}");
            };
            for blocks in [0, 1, 2, 3, 7, 8, 9, 31, 64, 257] {
                let mut length = blocks * block;
                if algorithm.stream || xts && blocks > 0 {
                    length += noise.below(block);
                }
                if xts && length == 0 {
                    continue;
                }
                let mut iv = noise.bytes(algorithm.iv.max);
                if name == "chacha20" {
                    iv[3] = 0;
                }
                let data = noise.bytes(length);
                let (mut sealed, mut back) = (vec![0; length], vec![0; length]);
                let encrypt = Direction::Encrypt;
                cipher
                    .once(encrypt, &iv, Input::from(&data), Output::from(&mut sealed))
                    .unwrap();
                assert!(length < 16 || sealed != data, "{name}");
                for direction in [Direction::Encrypt, Direction::Decrypt] {
                    let (from, to) = match direction {
                        Direction::Encrypt => (&data, &sealed),
                        Direction::Decrypt => (&sealed, &data),
                    };
                    cipher
                        .once(direction, &iv, Input::from(from), Output::from(&mut back))
                        .unwrap();
                    assert_eq!(&back, to, "{name} {direction:?} {length}");
                    let mut place = from.clone();
                    let out = Output::from(&mut place);
                    cipher.once(direction, &iv, out.as_input(), out).unwrap();
                    assert_eq!(&place, to, "{name} {direction:?} {length} in place");
                    let mut stream = cipher.begin(direction, &iv).unwrap();
                    let mut at = 0;
                    back.fill(0);
                    while !xts && length - at > block {
                        let most = (length - at - 1) / block;
                        let piece = (1 + noise.below(most)) * block;
                        stream
                            .update(
                                Input::from(&from[at..at + piece]),
                                Output::from(&mut back[at..at + piece]),
                                false,
                            )
                            .unwrap();
                        at += piece;
                    }
                    stream
                        .update(
                            Input::from(&from[at..]),
                            Output::from(&mut back[at..]),
                            true,
                        )
                        .unwrap();
                    assert_eq!(&back, to, "{name} {direction:?} {length} in pieces");
                }
            }
        }
    }
}

#[test]
fn an_aead_goes_round_with_every_size_and_refuses_every_forgery() {
    let mut noise = Noise(6);
    for algorithm in served().filter(|a| a.kind == Kind::Aead) {
        let name = algorithm.name;
        let ivs: Vec<usize> = if algorithm.iv.max > 16 {
            vec![1, 7, 8, 11, 12, 13, 16, 17, 128, 1024]
        } else {
            (algorithm.iv.min..=algorithm.iv.max).collect()
        };
        for size in key_sizes(algorithm) {
            for &tag in algorithm.tag_sizes {
                let mut spec = spec(algorithm, size, &mut noise);
                spec.parameters.tag_size = Some(tag);
                let Work::Aead(aead) = open(&spec).work else {
                    panic!("{name}");
                };
                for &iv_size in &ivs {
                    for length in [0, 1, 16, 33, 300] {
                        let aad_length = noise.below(3) * 17;
                        let (iv, aad) = (noise.bytes(iv_size), noise.bytes(aad_length));
                        let data = noise.bytes(length);
                        let aad = Input::from(&aad);
                        let (mut sealed, mut back) = (vec![0; length + tag], vec![0; length]);
                        aead.seal(&iv, aad, Input::from(&data), Output::from(&mut sealed))
                            .unwrap();
                        aead.unseal(&iv, aad, Input::from(&sealed), Output::from(&mut back))
                            .unwrap();
                        assert_eq!(back, data, "{name} iv {iv_size} tag {tag} {length}");

                        let mut place = data.clone();
                        place.resize(length + tag, 0);
                        let room = Output::from(&mut place);
                        let (body, _) = room.split_at(length);
                        aead.seal(&iv, aad, body.as_input(), room).unwrap();
                        assert_eq!(place, sealed, "{name} in place");
                        let room = Output::from(&mut place);
                        let (body, _) = room.split_at(length);
                        aead.unseal(&iv, aad, room.as_input(), body).unwrap();
                        assert_eq!(place[..length], data, "{name} in place");

                        let mut forged = sealed.clone();
                        let bit = noise.below(forged.len() * 8);
                        forged[bit / 8] ^= 1 << (bit % 8);
                        back.fill(0xaa);
                        let error = aead
                            .unseal(&iv, aad, Input::from(&forged), Output::from(&mut back))
                            .unwrap_err();
                        assert_eq!(error.errno(), libc::EBADMSG, "{name}");
                        assert_eq!(back, vec![0; length], "{name}: released plaintext");
                        // A refusal leaves nothing behind in the session.
                        aead.unseal(&iv, aad, Input::from(&sealed), Output::from(&mut back))
                            .unwrap();
                        assert_eq!(back, data, "{name} after a forgery");
                        let mut other = iv.clone();
                        other[0] ^= 1;
                        assert!(
                            aead.unseal(&other, aad, Input::from(&sealed), Output::from(&mut back))
                                .is_err(),
                            "{name}: another iv"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn threads_share_a_session_and_none_sees_another() {
    let mut noise = Noise(7);
    for name in ["ccm(aes)", "cmac(aes)", "xts(aes)", "ecb(aes)", "gcm(aes)"] {
        let algorithm = crate::table::find(name).unwrap();
        let work = open(&spec(algorithm, algorithm.key.max, &mut noise)).work;
        let run = |seed: u64| {
            let mut noise = Noise(seed + 1);
            let mut all = Vec::new();
            for _ in 0..300 {
                let blocks = 1 + noise.below(20);
                let data = noise.bytes(16 * blocks);
                let iv = noise.bytes(algorithm.iv_default.min(16));
                let mut out = vec![0; data.len() + 16];
                match &work {
                    Work::Aead(aead) => aead
                        .seal(
                            &iv,
                            Input::EMPTY,
                            Input::from(&data),
                            Output::from(&mut out),
                        )
                        .unwrap(),
                    Work::Cipher(cipher) => cipher
                        .once(
                            Direction::Encrypt,
                            &iv,
                            Input::from(&data),
                            Output::from(&mut out[..data.len()]),
                        )
                        .unwrap(),
                    Work::Hashing(mac) => {
                        mac.once(Input::from(&data), &mut out[..16]).unwrap();
                    }
                    _ => panic!("{name}"),
                }
                all.push(out);
            }
            all
        };
        let alone: Vec<_> = (0..4).map(run).collect();
        let together: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|seed| scope.spawn(move || run(seed))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(alone, together, "{name}");
    }
}

#[test]
fn a_wrapped_key_comes_back_and_a_changed_one_does_not() {
    let mut noise = Noise(8);
    for algorithm in served().filter(|a| a.kind == Kind::Wrap) {
        for size in key_sizes(algorithm) {
            let Work::Wrap(wrap) = open(&spec(algorithm, size, &mut noise)).work else {
                panic!("{}", algorithm.name);
            };
            let lengths: Vec<usize> = match algorithm.template() {
                "kw" => (16..200).step_by(8).collect(),
                _ => (1..100).collect(),
            };
            for length in lengths {
                let key = noise.bytes(length);
                let mut wrapped = wrap.wrap(&key).unwrap();
                assert_eq!(wrapped.len(), length.next_multiple_of(8) + 8);
                assert_eq!(wrap.unwrap(&wrapped).unwrap().expose(), key);
                let bit = noise.below(wrapped.len() * 8);
                wrapped[bit / 8] ^= 1 << (bit % 8);
                let error = wrap.unwrap(&wrapped).unwrap_err();
                assert_eq!(error.errno(), libc::EBADMSG);
            }
        }
    }
}

#[test]
fn a_forked_child_has_the_sessions_and_random_bytes_of_its_own() {
    let mut noise = Noise(9);
    let mut sessions = Vec::new();
    for name in ["gcm(aes)", "ccm(aes)", "hmac(sha256)", "cmac(aes)"] {
        let algorithm = crate::table::find(name).unwrap();
        sessions.push(open(&spec(algorithm, 32, &mut noise)).work);
    }
    let stdrng = crate::table::find("stdrng").unwrap();
    let Work::Random(random) = open(&Spec::new(stdrng, Key::None)).work else {
        panic!();
    };
    let all = || {
        let mut answers = Vec::new();
        for work in &sessions {
            let mut out = [0u8; 32];
            match work {
                Work::Aead(aead) => aead
                    .seal(
                        &[1; 12],
                        Input::EMPTY,
                        Input::from(&[2; 16]),
                        Output::from(&mut out[..]),
                    )
                    .unwrap(),
                Work::Hashing(mac) => {
                    let size = if answers.len() == 64 { 32 } else { 16 };
                    mac.once(Input::from(b"abc"), &mut out[..size]).unwrap();
                }
                _ => panic!(),
            }
            answers.extend_from_slice(&out);
        }
        answers
    };
    let mut seen = std::collections::HashSet::new();
    let draw = || {
        let mut bytes = vec![0u8; 32];
        random.fill(&mut bytes).unwrap();
        bytes
    };
    assert!(seen.insert(draw()));
    for _ in 0..20 {
        assert_eq!(in_child(all).as_ref(), Some(&all()));
        assert!(seen.insert(in_child(draw).unwrap()), "repeats");
        assert!(seen.insert(draw()), "repeats");
    }
}

#[test]
fn random_bytes_come_in_any_length() {
    let stdrng = crate::table::find("stdrng").unwrap();
    let Work::Random(random) = open(&Spec::new(stdrng, Key::None)).work else {
        panic!();
    };
    for length in [0, 1, 31, 33, 1000, 100_000] {
        let mut out = vec![0u8; length];
        random.fill(&mut out).unwrap();
        let zeros = out.iter().filter(|b| **b == 0).count();
        assert!(length < 31 || zeros < length / 8, "{zeros} of {length}");
    }
}

/// BLAKE2 with every parameter, against hashlib of CPython (which wraps the reference code).
#[test]
fn blake2_takes_all_its_parameters() {
    let known = [
        ("blake2b", "b00f36577b9cdafd5f3a09b3debc988d4a7d4b15"),
        ("blake2s", "b70ca314c8e056b7d995c8b09b76d96f366cd10e"),
    ];
    for (name, answer) in known {
        let algorithm = crate::table::find(name).unwrap();
        let mut spec = Spec::new(algorithm, Key::Bytes(Secret::new(b"key")));
        spec.parameters.digest_size = Some(20);
        spec.parameters.blake2 = Some(crate::engine::Blake2 {
            salt: b"salt".to_vec(),
            person: b"person".to_vec(),
            fanout: 2,
            depth: 3,
            leaf_size: 4096,
            node_offset: 5,
            node_depth: 1,
            inner_size: 32,
            last_node: true,
        });
        let Work::Hashing(hashing) = open(&spec).work else {
            panic!();
        };
        let mut out = [0u8; 20];
        hashing.once(Input::from(b"abc"), &mut out).unwrap();
        let hex: String = out.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, answer, "{name}");
    }
}
