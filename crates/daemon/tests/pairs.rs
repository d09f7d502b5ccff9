//! Asymmetric keys in a worker: every op of every algorithm, on every engine that has it, and every refusal.

mod common;

use common::*;
use cryptofd_core::client::Client;
use cryptofd_core::error::Result;
use cryptofd_core::pair;
use cryptofd_core::record::{Op, Params, Request};
use cryptofd_core::table::{ALGORITHMS, Algorithm, Kind, find};
use serde_json::{Value, json};

fn pairs() -> impl Iterator<Item = &'static Algorithm> {
    ALGORITHMS.iter().filter(|a| a.kind == Kind::Pair)
}

fn usage(algorithm: &Algorithm) -> Vec<&'static str> {
    let all: &[(&str, &[&str])] = &[
        ("sign", &["sign", "verify"]),
        ("encrypt", &["decrypt", "encrypt"]),
        ("agree", &["derive", "derive-bytes"]),
        ("encapsulate", &["derive-bytes"]),
    ];
    let does = all.iter().filter(|(op, _)| algorithm.does(op));
    let mut usage: Vec<_> = does.flat_map(|(_, usage)| usage.iter().copied()).collect();
    if algorithm.does("sign") && !algorithm.hashes.is_empty() {
        usage.push("sign-digest");
    }
    usage
}

fn bytes(made: &Made, name: &str) -> Vec<u8> {
    packet::bytes(made, name).unwrap().unwrap()
}

fn ask(client: &Client, op: Op, data: &[u8], params: Params<'_>) -> Result<Vec<u8>> {
    let request = Request {
        params,
        ..Request::with(op, data)
    };
    client.call(&request, &mut never)
}

fn signed(client: &Client, op: Op, data: &[u8], params: Params<'_>) {
    let signature = ask(client, op, data, params).unwrap();
    let verify = match op {
        Op::Sign => Op::VerifySignature,
        _ => Op::VerifyDigest,
    };
    let mut with = Params {
        tag: Some(&signature),
        ..params
    };
    ask(client, verify, data, with).unwrap();
    let mut wrong = signature.clone();
    wrong[signature.len() / 2] ^= 1;
    with.tag = Some(&wrong);
    let refused = ask(client, verify, data, with);
    assert_eq!(errno(refused), libc::EKEYREJECTED);
}

/// All that a pair does, through a descriptor.
fn exercise(algorithm: &Algorithm, client: &Client, other: &Made) {
    if algorithm.does("sign") {
        signed(client, Op::Sign, b"data", Params::default());
        for hash in algorithm.hashes {
            let size = find(hash).unwrap().digest;
            let with = Params {
                hash: Some(hash),
                ..Params::default()
            };
            signed(client, Op::Sign, b"data", with);
            signed(client, Op::SignDigest, &vec![7; size], with);
        }
    }
    if algorithm.name == "rsa" {
        let pss = Params {
            scheme: Some("pss"),
            salt_length: Some(32),
            ..Params::default()
        };
        signed(client, Op::Sign, b"data", pss);
    }
    if algorithm.does("encrypt") {
        for (scheme, label) in [("oaep", Some(&b"label"[..])), ("oaep", None)] {
            let with = Params {
                scheme: Some(scheme),
                label,
                ..Params::default()
            };
            let sealed = ask(client, Op::Encrypt, b"data", with).unwrap();
            assert_eq!(ask(client, Op::Decrypt, &sealed, with).unwrap(), b"data");
            let other = Params {
                label: Some(b"another"),
                ..with
            };
            assert_eq!(
                errno(ask(client, Op::Decrypt, &sealed, other)),
                libc::EBADMSG
            );
        }
    }
    if algorithm.does("agree") {
        let secret = call(client, Op::Agree, &bytes(other, "public")).unwrap();
        assert_eq!(secret.len(), algorithm.bits.min.div_ceil(8));
        assert_eq!(errno(call(client, Op::Agree, b"no key")), libc::EINVAL);
    }
    if algorithm.does("encapsulate") {
        let both = call(client, Op::Encapsulate, b"").unwrap();
        let size = u32::from_le_bytes([both[0], both[1], both[2], both[3]]) as usize;
        let secret = call(client, Op::Decapsulate, &both[4..4 + size]).unwrap();
        assert_eq!(secret, both[4 + size..]);
    }
}

#[test]
fn every_pair_is_made_and_does_what_it_can() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    for algorithm in pairs() {
        let name = algorithm.name;
        let bits = algorithm.bits.min as u64;
        let all = usage(algorithm);
        let made = make(&mut worker, name, &all, json!({"bits": bits})).unwrap();
        let other = make(&mut worker, name, &all, json!({"bits": bits})).unwrap();
        let attributes = &made["attributes"];
        assert_eq!(attributes["type"], json!("pair"));
        assert_eq!(attributes["bits"], json!(bits), "{name}");
        let mut digest = [0; 32];
        let hash = cryptofd_core::Session::open(cryptofd_core::session::Request {
            algorithm: "sha256".into(),
            ..Default::default()
        });
        let spki = bytes(&made, "public");
        hash.unwrap()
            .digest((&spki[..]).into(), &mut digest)
            .unwrap();
        let print: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(attributes["fingerprint"], json!(print), "{name}");
        let mut asked = key(&made);
        asked["op"] = json!("public");
        let (answer, _) = worker.ask(asked).unwrap();
        assert_eq!(answer["public"], made["public"]);
        let mut served = Vec::new();
        for engine in ["software", "openssl"] {
            let mut recipe = recipe(&made);
            recipe["session"] = json!({"engine": engine});
            // A libcrypto that is not there, or is too old for this algorithm, is no engine for it.
            let Ok(client) = daemon.open(recipe) else {
                continue;
            };
            let info: Value = serde_json::from_str(client.info()).unwrap();
            assert_eq!(info["engine"], json!(engine));
            assert_eq!(call(&client, Op::PublicKey, b"").unwrap(), spki, "{name}");
            exercise(algorithm, &client, &other);
            served.push(engine);
        }
        assert!(served.contains(&"software"), "{name}");
        println!("{name}: {}", served.join(", "));
    }
}

/// What each op needs; with one right fewer it is EPERM, and the right is named.
#[test]
fn every_op_of_a_pair_is_refused_without_its_usage() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let raw = Params {
        scheme: Some("raw"),
        ..Params::default()
    };
    let tag = Params {
        tag: Some(&[0; 256]),
        ..Params::default()
    };
    let plain = Params::default();
    let table: &[(&str, Op, Params<'_>, &[&str])] = &[
        ("rsa", Op::Sign, plain, &["sign"]),
        ("rsa", Op::SignDigest, plain, &["sign-digest"]),
        ("rsa", Op::VerifySignature, tag, &["verify"]),
        ("rsa", Op::VerifyDigest, tag, &["verify"]),
        ("rsa", Op::Encrypt, plain, &["encrypt"]),
        ("rsa", Op::Decrypt, plain, &["decrypt"]),
        ("rsa", Op::Encrypt, raw, &["raw", "sign", "decrypt"]),
        ("rsa", Op::Decrypt, raw, &["raw", "sign", "decrypt"]),
        ("ecdsa-nist-p256", Op::Sign, plain, &["sign"]),
        ("ecdsa-nist-p256", Op::SignDigest, plain, &["sign-digest"]),
        ("ed25519", Op::Sign, plain, &["sign"]),
        ("ed25519", Op::VerifySignature, tag, &["verify"]),
        ("ml-dsa-65", Op::Sign, plain, &["sign"]),
        ("ecdh-nist-p256", Op::Agree, plain, &["derive-bytes"]),
        ("x25519", Op::Agree, plain, &["derive-bytes"]),
        ("ml-kem-768", Op::Encapsulate, plain, &["derive-bytes"]),
        ("ml-kem-768", Op::Decapsulate, plain, &["derive-bytes"]),
    ];
    let all = [
        "decrypt",
        "derive",
        "derive-bytes",
        "encrypt",
        "raw",
        "sign",
        "sign-digest",
        "verify",
    ];
    for (algorithm, op, params, needed) in table {
        let bits = json!({"bits": find(algorithm).unwrap().bits.min});
        let made = make(&mut worker, algorithm, &all, bits).unwrap();
        let data: &[u8] = match op {
            Op::Encapsulate => &[],
            Op::SignDigest | Op::VerifyDigest => &[7; 32],
            _ => &[7; 256],
        };
        let mut attempt = |usage: &[&str]| {
            let mut recipe = recipe(&made);
            recipe["usage"] = json!(usage);
            ask(&daemon.open(recipe).unwrap(), *op, data, *params)
        };
        let with = attempt(needed);
        assert_ne!(errno(with), libc::EPERM, "{algorithm} {}", op.name());
        for missing in *needed {
            let without: Vec<&str> = all.into_iter().filter(|u| u != missing).collect();
            let error = attempt(&without).unwrap_err();
            assert_eq!(error.errno(), libc::EPERM, "{algorithm} {}", op.name());
            assert!(error.message().contains(missing), "{}", error.message());
        }
    }
    // Whoever may verify may not sign, and so on: the grant of the broker is enough.
    let made = make(&mut worker, "ed25519", &["sign", "verify"], json!({})).unwrap();
    let mut narrowed = recipe(&made);
    narrowed["usage"] = json!(["verify"]);
    let client = daemon.open(narrowed).unwrap();
    assert_eq!(errno(call(&client, Op::Sign, b"x")), libc::EPERM);
}

#[test]
fn pairs_come_in_and_go_out_in_der() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let worker = &mut worker;
    let ec = find("ecdsa-nist-p256").unwrap();
    let made = pair::generate(ec, None).unwrap();
    let (private, public) = (made.key.expose(), made.public.unwrap());
    let mut wanted = attributes(ec.name, &["sign", "verify"]);
    wanted["exportable"] = json!(true);
    let kept = import(worker, wanted.clone(), private).unwrap();
    assert_eq!(kept["attributes"]["type"], json!("pair"));
    assert_eq!(bytes(&kept, "public"), public);
    let (mut read, write) = pipe();
    let mut asked = key(&kept);
    asked["op"] = json!("export");
    worker.ask_with(asked, vec![write.into()]).unwrap();
    let mut out = Vec::new();
    std::io::Read::read_to_end(&mut read, &mut out).unwrap();
    assert_eq!(out, private);
    // The public half alone verifies, and is asked for nothing more.
    let refused = import(worker, wanted, &public).unwrap_err();
    assert_eq!(refused.errno(), libc::EINVAL);
    assert!(refused.message().contains("sign"), "{refused}");
    let half = import(worker, attributes(ec.name, &["verify"]), &public).unwrap();
    assert_eq!(half["attributes"]["type"], json!("public"));
    assert_eq!(
        half["attributes"]["fingerprint"],
        kept["attributes"]["fingerprint"]
    );
    let signature = call(&daemon.open(recipe(&kept)).unwrap(), Op::Sign, b"x").unwrap();
    let client = daemon.open(recipe(&half)).unwrap();
    let tag = Params {
        tag: Some(&signature),
        ..Params::default()
    };
    ask(&client, Op::VerifySignature, b"x", tag).unwrap();
    // Wrong keys: of another curve, algorithm or form; cut short; PEM; of another size; rights that do not go.
    let other = pair::generate(find("ecdsa-nist-p384").unwrap(), None).unwrap();
    let pem = b"-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n";
    for wrong in [
        other.key.expose(),
        &private[..private.len() - 1],
        &[5; 32],
        b"",
        pem,
    ] {
        let refused = import(worker, attributes(ec.name, &["sign"]), wrong);
        assert_eq!(errno(refused), libc::EINVAL);
    }
    for (algorithm, usage, more, errno_) in [
        (
            "rsa",
            &["raw", "sign"][..],
            json!({"bits": 2048}),
            libc::EINVAL,
        ),
        ("rsa", &["sign"], json!({"bits": 1024}), libc::EINVAL),
        ("rsa", &["sign"], json!({"bits": 16384}), libc::EINVAL),
        (
            "rsa",
            &["sign"],
            json!({"type": "secret"}),
            libc::EOPNOTSUPP,
        ),
        ("ed25519", &["sign"], json!({"bits": 255}), libc::EINVAL),
        ("ed25519", &["digest"], json!({}), libc::EINVAL),
        (
            "ed25519",
            &["sign"],
            json!({"type": "public"}),
            libc::EINVAL,
        ),
        (
            "gcm(aes)",
            &["encrypt"],
            json!({"type": "pair"}),
            libc::EOPNOTSUPP,
        ),
    ] {
        let refused = make(worker, algorithm, usage, more.clone());
        assert_eq!(errno(refused), errno_, "{algorithm} {more}");
    }
}

fn wrap(worker: &mut Channel, made: &Made, by: &Made, format: &str) -> Result<Value> {
    let asked = json!({"op": "wrap", "key": key(made), "by": key(by), "format": format});
    worker.ask(asked).map(|(ok, _)| ok["wrapped"].clone())
}

fn unwrap(worker: &mut Channel, wrapped: &Value, by: &Made, format: &str) -> Result<Made> {
    let wanted = json!({"id": "d".repeat(32), "owner": DOMAIN, "label": "back"});
    let asked = json!({
        "op": "unwrap", "attributes": wanted, "wrapped": wrapped, "by": key(by), "format": format,
    });
    worker.ask(asked).map(|(ok, _)| ok)
}

#[test]
fn pairs_are_wrapped_by_what_is_as_strong() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let worker = &mut worker;
    let may = json!({"exportable": true, "wrappable": true});
    let template = json!({"algorithm": "ecdsa-nist-p256", "bits": 256, "usage": ["sign"]});
    let made = make(worker, "ecdsa-nist-p256", &["sign", "verify"], may.clone()).unwrap();
    for (algorithm, format, usage) in [
        ("kwp(aes)", "kwp", json!(["sign"])),
        ("kwp(aes)", "cryptofd", json!(["sign", "verify"])),
        ("kw(aes)", "cryptofd", json!(["sign", "verify"])),
        ("gcm(aes)", "cryptofd", json!(["sign", "verify"])),
        (
            "rfc7539(chacha20,poly1305)",
            "cryptofd",
            json!(["sign", "verify"]),
        ),
    ] {
        let with = json!({"wrap_template": template.clone()});
        let kek = make(worker, algorithm, &["unwrap", "wrap"], with).unwrap();
        let wrapped = wrap(worker, &made, &kek, format).unwrap();
        let back = unwrap(worker, &wrapped, &kek, format).unwrap();
        let attributes = &back["attributes"];
        assert_eq!(
            attributes["fingerprint"], made["attributes"]["fingerprint"],
            "{algorithm} {format}"
        );
        assert_eq!(attributes["usage"], usage, "{algorithm} {format}");
        assert_eq!(attributes["exportable"], json!(false));
        assert_eq!(attributes["type"], json!("pair"));
        assert_eq!(back["public"], made["public"]);
        call(&daemon.open(recipe(&back)).unwrap(), Op::Sign, b"x").unwrap();
        // Changed anywhere, it does not open.
        let mut changed = packet::bytes(&json!({"w": wrapped}).as_object().unwrap().clone(), "w")
            .unwrap()
            .unwrap();
        for at in [0, 5, changed.len() / 2, changed.len() - 1] {
            changed[at] ^= 1;
            let text = json!(packet::base64(&changed));
            let refused = errno(unwrap(worker, &text, &kek, format));
            assert!(matches!(refused, libc::EBADMSG | libc::EINVAL), "{refused}");
            changed[at] ^= 1;
        }
    }
    let kw = make(worker, "kw(aes)", &["unwrap", "wrap"], json!({})).unwrap();
    assert_eq!(errno(wrap(worker, &made, &kw, "kw")), libc::EINVAL);
    // 128 bits do not wrap P-384 (192), and wrap P-256.
    let weak = make(worker, "kwp(aes)", &["wrap"], json!({"bits": 128})).unwrap();
    wrap(worker, &made, &weak, "kwp").unwrap();
    let strong = make(worker, "ecdsa-nist-p384", &["sign"], may).unwrap();
    let error = wrap(worker, &strong, &weak, "kwp").unwrap_err();
    assert_eq!(error.errno(), libc::EPERM);
    assert!(error.message().contains("weaker"), "{error}");
}

#[test]
fn rsa_wraps_what_is_not_stronger_than_itself() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let worker = &mut worker;
    let template = json!({"algorithm": "gcm(aes)", "bits": 128, "usage": ["decrypt", "encrypt"]});
    let with = json!({"bits": 3072, "wrap_template": template});
    let kek = make(worker, "rsa", &["unwrap", "wrap"], with).unwrap();
    let secret = |worker: &mut Channel, bits: u64| {
        let with = json!({"bits": bits, "exportable": true, "wrappable": true});
        make(worker, "gcm(aes)", &["decrypt", "encrypt"], with).unwrap()
    };
    let key_ = secret(worker, 128);
    let wrapped = wrap(worker, &key_, &kek, "rsa-oaep").unwrap();
    let back = unwrap(worker, &wrapped, &kek, "rsa-oaep").unwrap();
    assert_eq!(
        back["attributes"]["fingerprint"],
        key_["attributes"]["fingerprint"]
    );
    assert_eq!(back["attributes"]["exportable"], json!(false));
    let strong = secret(worker, 256);
    assert_eq!(errno(wrap(worker, &strong, &kek, "rsa-oaep")), libc::EPERM);
    let more = json!({"exportable": true, "wrappable": true});
    let pair = make(worker, "ed25519", &["sign"], more).unwrap();
    assert_eq!(errno(wrap(worker, &pair, &kek, "rsa-oaep")), libc::EINVAL);
    for format in ["kw", "kwp", "cryptofd", "zip"] {
        assert_eq!(errno(wrap(worker, &key_, &kek, format)), libc::EINVAL);
    }
    // The attack: a stronger key in a weaker envelope, made outside with the public half.
    let outside = cryptofd_core::Session::open(cryptofd_core::session::Request {
        algorithm: "rsa".into(),
        key: cryptofd_core::engine::Key::Bytes(cryptofd_core::secret::Secret::new(&bytes(
            &kek, "public",
        ))),
        ..Default::default()
    })
    .unwrap();
    for (length, errno_) in [(16, 0), (32, libc::EPERM), (15, libc::EINVAL)] {
        let sealed = outside
            .pair_encrypt((&vec![9; length][..]).into(), &pair::Options::default())
            .unwrap();
        let got = unwrap(worker, &json!(packet::base64(&sealed)), &kek, "rsa-oaep");
        assert_eq!(errno(got), errno_, "{length}");
    }
    let garbage = json!(packet::base64(&[1; 384]));
    let refused = unwrap(worker, &garbage, &kek, "rsa-oaep");
    assert_eq!(errno(refused), libc::EBADMSG);
    // A wrapping key opens nothing through a descriptor, but shows its public half.
    let client = daemon.open(recipe(&kek)).unwrap();
    call(&client, Op::PublicKey, b"").unwrap();
    for op in [Op::Encrypt, Op::Decrypt, Op::Sign] {
        assert_eq!(errno(call(&client, op, &[1; 384])), libc::EPERM);
    }
}

#[test]
fn two_sides_derive_the_same_key_and_only_as_the_template_says() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let worker = &mut worker;
    let template = json!({"algorithm": "gcm(aes)", "bits": 256, "usage": ["decrypt", "encrypt"]});
    let with = json!({"derive_template": template});
    let wanted = attributes("gcm(aes)", &["encrypt", "decrypt"]);
    for algorithm in pairs().filter(|a| a.does("agree")) {
        let how = algorithm.name.split('-').next().unwrap();
        let one = make(worker, algorithm.name, &["derive"], with.clone()).unwrap();
        let two = make(worker, algorithm.name, &["derive"], with.clone()).unwrap();
        let ask = |worker: &mut Channel, base: &Made, peer: &Value, change: Value| {
            let mut asked = json!({
                "op": "derive", "attributes": wanted, "base": key(base), "how": how, "info": "aW5mbw==",
                "bits": 256, "peer": peer,
            });
            for (name, value) in change.as_object().unwrap() {
                asked[name] = value.clone();
            }
            worker.ask(asked).map(|(ok, _)| ok)
        };
        let here = ask(worker, &one, &two["public"], json!({})).unwrap();
        let there = ask(worker, &two, &one["public"], json!({})).unwrap();
        let print = |made: &Made| made["attributes"]["fingerprint"].clone();
        assert_eq!(print(&here), print(&there), "{how}");
        assert_eq!(here["attributes"]["exportable"], json!(false));
        let salted = ask(worker, &one, &two["public"], json!({"salt": "c2FsdA=="})).unwrap();
        assert_ne!(print(&here), print(&salted));
        // The attacks: fewer bits, another way, no peer, a peer that is none, the peer's private half.
        for (change, errno_) in [
            (json!({"bits": 128}), libc::EPERM),
            (json!({"how": "hkdf(sha256)"}), libc::EINVAL),
            (json!({"peer": null}), libc::EINVAL),
            (json!({"peer": "AAAA"}), libc::EINVAL),
        ] {
            let refused = ask(worker, &one, &two["public"], change.clone());
            assert_eq!(errno(refused), errno_, "{how} {change}");
        }
        let bytes_only = make(worker, algorithm.name, &["derive-bytes"], with.clone());
        assert_eq!(errno(bytes_only.map(|made| made["attributes"].clone())), 0);
        let bare = make(worker, algorithm.name, &["derive"], json!({})).unwrap();
        let refused = ask(worker, &bare, &two["public"], json!({}));
        assert_eq!(errno(refused), libc::EPERM);
        // Bytes need derive-bytes.
        let client = daemon.open(recipe(&one)).unwrap();
        let refused = call(&client, Op::Agree, &bytes(&two, "public"));
        assert_eq!(errno(refused), libc::EPERM);
    }
}

/// A hash takes a key in (NCR's HASHABLE) where the key allows it, and gives nothing else away.
#[test]
fn a_hash_takes_in_a_key_that_may_be_hashed() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let worker = &mut worker;
    let secret = [0x42; 32];
    let kept = import(worker, attributes("gcm(aes)", &["digest"]), &secret).unwrap();
    let mut on_hash = recipe(&kept);
    on_hash["algorithm"] = json!("sha256");
    let client = daemon.open(on_hash.clone()).unwrap();
    call(&client, Op::Update, b"before").unwrap();
    call(&client, Op::HashKey, b"").unwrap();
    let clone = client.try_clone(&mut never).unwrap();
    call(&client, Op::Update, b"after").unwrap();
    let digest = |parts: &[&[u8]]| {
        let hash = cryptofd_core::Session::open(cryptofd_core::session::Request {
            algorithm: "sha256".into(),
            ..Default::default()
        });
        let mut out = vec![0; 32];
        let hash = hash.unwrap();
        hash.digest((&parts.concat()[..]).into(), &mut out).unwrap();
        out
    };
    assert_eq!(
        call(&client, Op::Finish, b"").unwrap(),
        digest(&[b"before", &secret, b"after"])
    );
    assert_eq!(
        call(&clone, Op::Finish, b"").unwrap(),
        digest(&[b"before", &secret])
    );
    // The refusals: a key without the right, a MAC in the hash's place, a hash without a key.
    let not = import(worker, attributes("gcm(aes)", &["encrypt"]), &secret).unwrap();
    let mut refused = recipe(&not);
    refused["algorithm"] = json!("sha256");
    assert_eq!(errno(daemon.open_fd(refused)), libc::EPERM);
    let mut mac = recipe(&kept);
    mac["algorithm"] = json!("hmac(sha256)");
    assert_eq!(errno(daemon.open_fd(mac)), libc::EPERM);
    on_hash["usage"] = json!([]);
    let nothing = daemon.open(on_hash).unwrap();
    for op in [Op::HashKey, Op::Update, Op::Finish] {
        assert_eq!(errno(call(&nothing, op, b"")), libc::EPERM, "{}", op.name());
    }
    let bare =
        json!({"key": null, "blob": null, "algorithm": "sha256", "usage": [], "session": {}});
    let bare = daemon.open(bare).unwrap();
    assert_eq!(errno(call(&bare, Op::HashKey, b"")), libc::EOPNOTSUPP);
    let own = daemon.open(recipe(&kept)).unwrap();
    assert_eq!(errno(call(&own, Op::HashKey, b"")), libc::EOPNOTSUPP);
    assert_eq!(errno(call(&own, Op::Seal, b"x")), libc::EPERM);
}

/// A signature that is asked for while the worker dies is made by the next one.
#[test]
fn a_pair_outlives_its_worker() {
    let mut daemon = Daemon::start();
    let (mut worker, pid) = daemon.worker(DOMAIN);
    let made = make(
        &mut worker,
        "ecdsa-nist-p256",
        &["sign", "verify"],
        json!({}),
    )
    .unwrap();
    let client = daemon.open(recipe(&made)).unwrap();
    signed(&client, Op::Sign, b"data", Params::default());
    kill(pid);
    signed(&client, Op::Sign, b"data", Params::default());
}
