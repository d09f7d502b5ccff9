//! Sessions by recipe: what they do, and every usage that they must not.

mod common;

use common::*;
use cryptofd_core::engine::Direction;
use cryptofd_core::record::{Op, Params, Request};
use cryptofd_core::sys::buffer::Input;
use serde_json::{Value, json};

#[test]
fn a_session_by_recipe_seals_and_unseals() {
    let mut daemon = Daemon::start();
    let hello = daemon.control.ask(json!({"op": "hello"})).unwrap().0;
    assert_eq!(hello["supervisor"], json!(daemon.pid()));
    assert_eq!(hello["workers"], json!([]));
    let (mut worker, pid) = daemon.worker(DOMAIN);
    let made = generate(&mut worker, "gcm(aes)", &["encrypt", "decrypt"]);
    assert_eq!(made["attributes"]["bits"], json!(256));
    let client = daemon.open(recipe(&made)).unwrap();
    let info: Value = serde_json::from_str(client.info()).unwrap();
    assert_eq!(info["brokered"], json!(true));
    assert_eq!(info["epoch"], json!(1));
    assert_eq!(
        info["key"]["fingerprint"],
        made["attributes"]["fingerprint"]
    );
    for length in [0, 1, 4096, 65536, 200_000] {
        let data = vec![7; length];
        let sealed = call(&client, Op::Seal, &data).unwrap();
        assert_eq!(sealed.len(), 1 + 12 + length + 16);
        assert_eq!(sealed[0], 1);
        assert_eq!(call(&client, Op::Unseal, &sealed).unwrap(), data);
        let mut broken = sealed.clone();
        broken[20] ^= 1;
        assert_eq!(errno(call(&client, Op::Unseal, &broken)), libc::EBADMSG);
        assert_ne!(call(&client, Op::Seal, &data).unwrap(), sealed);
    }
    let aad = Request {
        aad: Input::from(b"head"),
        ..Request::with(Op::Seal, b"data")
    };
    let sealed = client.call(&aad, &mut never).unwrap();
    assert_eq!(errno(call(&client, Op::Unseal, &sealed)), libc::EBADMSG);
    let status = daemon.status();
    assert_eq!(status["workers"][0]["pid"], json!(pid));
    assert_eq!(status["workers"][0]["sessions"], json!(1));
    let clone = client.try_clone(&mut never).unwrap();
    assert_eq!(call(&clone, Op::Seal, b"x").unwrap().len(), 30);
    let sessions = daemon.control.ask(json!({"op": "sessions"})).unwrap().0;
    assert_eq!(sessions["sessions"][0]["ends"], json!(2));
    assert_eq!(
        sessions["sessions"][0]["recipe_public"]["blob"],
        Value::Null
    );
    drop(client);
    assert_eq!(call(&clone, Op::Seal, b"x").unwrap().len(), 30);
    drop(clone);
    let ended = daemon.control.notice("ended");
    assert_eq!(ended.object["sid"], json!(1));
    assert_eq!(daemon.status()["workers"][0]["sessions"], json!(0));
}

/// Inside the worker's filter each engine does the same, where there is one.
#[test]
fn every_engine_serves_behind_the_filter() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    for (algorithm, usage) in [
        ("gcm(aes)", &["caller-iv", "decrypt", "encrypt"][..]),
        ("cbc(aes)", &["decrypt", "encrypt"]),
        ("hmac(sha256)", &["sign"]),
        ("hkdf(sha256)", &["derive-bytes"]),
    ] {
        let made = generate(&mut worker, algorithm, usage);
        let mut answers = Vec::new();
        for engine in ["software", "openssl", "kernel"] {
            let mut recipe = recipe(&made);
            recipe["session"] = json!({"engine": engine});
            let client = match daemon.open(recipe) {
                Ok(client) => client,
                Err(error) => {
                    assert_eq!(error.errno(), libc::ENODEV, "{algorithm} {engine}: {error}");
                    continue;
                }
            };
            let info: Value = serde_json::from_str(client.info()).unwrap();
            assert_eq!(info["engine"], json!(engine));
            let (op, iv): (_, &[u8]) = match algorithm {
                "gcm(aes)" => (Op::Encrypt, &[1; 12]),
                "cbc(aes)" => (Op::Encrypt, &[1; 16]),
                "hmac(sha256)" => (Op::Digest, &[]),
                _ => (Op::Derive, &[]),
            };
            let data: &[u8] = if op == Op::Derive { &[] } else { &[7; 4096] };
            answers.push(client.call(&request(op, iv, data), &mut never).unwrap());
        }
        println!("{algorithm}: {} engines", answers.len());
        assert!(!answers.is_empty() && answers.iter().all(|a| *a == answers[0]));
    }
}

#[test]
fn closing_a_session_is_seen_by_its_holder() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let made = generate(&mut worker, "hmac(sha256)", &["sign"]);
    let (sid, fd) = daemon.open_fd(recipe(&made)).unwrap();
    let client = cryptofd_core::client::Client::adopt(fd, &mut never).unwrap();
    assert_eq!(call(&client, Op::Digest, b"x").unwrap().len(), 32);
    daemon
        .control
        .ask(json!({"op": "close", "sid": sid}))
        .unwrap();
    assert_eq!(errno(call(&client, Op::Digest, b"x")), libc::EPIPE);
    let again = daemon.control.ask(json!({"op": "close", "sid": sid}));
    assert_eq!(errno(again), libc::ENOENT);
}

#[test]
fn sessions_without_a_key_need_no_usage() {
    let mut daemon = Daemon::start();
    let recipe =
        json!({"key": null, "blob": null, "algorithm": "sha256", "usage": [], "session": {}});
    let client = daemon.open(recipe).unwrap();
    assert_eq!(
        call(&client, Op::Digest, b"abc").unwrap()[..2],
        [0xba, 0x78]
    );
}

fn request<'a>(op: Op, iv: &'a [u8], data: &'a [u8]) -> Request<'a> {
    let direction = match op {
        Op::StreamBegin => Some(Direction::Encrypt),
        _ => None,
    };
    let length = match op {
        Op::Derive => Some(32),
        _ => None,
    };
    let tag: Option<&[u8]> = match op {
        Op::Verify => Some(&[0; 32]),
        _ => None,
    };
    Request {
        iv,
        params: Params {
            direction,
            length,
            tag,
            ..Params::default()
        },
        ..Request::with(op, data)
    }
}

/// Algorithm, the usages that an op needs, the op. With all of them it is not EPERM; with one fewer it is.
const RULES: &[(&str, &[&str], Op)] = &[
    ("gcm(aes)", &["encrypt"], Op::Seal),
    ("gcm(aes)", &["decrypt"], Op::Unseal),
    (
        "gcm(aes)",
        &["caller-iv", "decrypt", "encrypt"],
        Op::Encrypt,
    ),
    ("gcm(aes)", &["decrypt"], Op::Decrypt),
    ("cbc(aes)", &["encrypt"], Op::Encrypt),
    ("cbc(aes)", &["decrypt"], Op::Decrypt),
    ("cbc(aes)", &["encrypt"], Op::StreamBegin),
    ("ctr(aes)", &["decrypt", "encrypt"], Op::Encrypt),
    ("ctr(aes)", &["decrypt", "encrypt"], Op::Decrypt),
    ("ctr(aes)", &["decrypt", "encrypt"], Op::StreamBegin),
    ("cfb(aes)", &["decrypt", "encrypt"], Op::Decrypt),
    ("chacha20", &["decrypt", "encrypt"], Op::Encrypt),
    ("hmac(sha256)", &["sign"], Op::Digest),
    ("hmac(sha256)", &["sign"], Op::Finish),
    ("hmac(sha256)", &["sign"], Op::Peek),
    ("hmac(sha256)", &["verify"], Op::Verify),
    ("kwp(aes)", &["encrypt"], Op::Wrap),
    ("kwp(aes)", &["decrypt"], Op::Unwrap),
    ("hkdf(sha256)", &["derive-bytes"], Op::Derive),
];

/// The broker narrows: the key has all rights that go together, the grant is what is tried.
#[test]
fn every_op_is_refused_without_its_usage() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let all = [
        "encrypt",
        "decrypt",
        "caller-iv",
        "sign",
        "verify",
        "derive",
        "derive-bytes",
    ];
    for (algorithm, needed, op) in RULES {
        let made = generate(&mut worker, algorithm, &all);
        let iv: &[u8] = match (*op, *algorithm) {
            (Op::Encrypt | Op::Decrypt, "gcm(aes)") => &[1; 12],
            (Op::Encrypt | Op::Decrypt | Op::StreamBegin, _) => &[1; 16],
            _ => &[],
        };
        let data: &[u8] = match op {
            Op::Finish | Op::Peek | Op::Derive | Op::StreamBegin => &[],
            _ => &[5; 48],
        };
        let mut attempt = |usage: &[&str]| {
            let mut recipe = recipe(&made);
            recipe["usage"] = json!(usage);
            let client = daemon.open(recipe).unwrap();
            client.call(&request(*op, iv, data), &mut never)
        };
        let with = attempt(needed);
        assert_ne!(errno(with), libc::EPERM, "{algorithm} {}", op.name());
        for missing in *needed {
            let without: Vec<&str> = all.into_iter().filter(|u| u != missing).collect();
            let error = attempt(&without).unwrap_err();
            assert_eq!(
                error.errno(),
                libc::EPERM,
                "{algorithm} {} {missing}",
                op.name()
            );
            assert!(error.message().contains(missing), "{}", error.message());
        }
        let error = attempt(&[]).unwrap_err();
        assert_eq!(error.errno(), libc::EPERM, "{algorithm} {}", op.name());
    }
    // The refusals were reported for the audit.
    let refused = worker.notice("refused");
    assert_eq!(refused.object["errno"], json!(libc::EPERM));
}

/// A recipe that claims more than the key's own attributes gives nothing more.
#[test]
fn the_broker_can_only_narrow() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let made = generate(&mut worker, "gcm(aes)", &["encrypt"]);
    let mut wide = recipe(&made);
    wide["usage"] = json!(["caller-iv", "decrypt", "encrypt"]);
    let client = daemon.open(wide.clone()).unwrap();
    let sealed = call(&client, Op::Seal, b"x").unwrap();
    assert_eq!(errno(call(&client, Op::Unseal, &sealed)), libc::EPERM);
    // Attributes that were changed do not open the key at all.
    for (name, value) in [
        ("usage", json!(["caller-iv", "decrypt", "encrypt"])),
        ("exportable", json!(true)),
        ("expires", json!(4_000_000_000u64)),
        ("label", json!("other")),
        ("version", json!(2)),
    ] {
        let mut changed = wide.clone();
        changed["key"][name] = value;
        assert_eq!(errno(daemon.open_fd(changed)), libc::EBADMSG, "{name}");
    }
    let mut other = recipe(&made);
    other["algorithm"] = json!("ctr(aes)");
    assert_eq!(errno(daemon.open_fd(other)), libc::EPERM);
    let mut cut = recipe(&made);
    cut["blob"] = json!("Q0ZLMQ==");
    assert_eq!(errno(daemon.open_fd(cut)), libc::EINVAL);
    let mut none = recipe(&made);
    none["key"] = Value::Null;
    assert_eq!(errno(daemon.open_fd(none)), libc::EINVAL);
}

#[test]
fn an_expired_key_is_refused_at_the_very_request() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let mut soon = attributes("hmac(sha256)", &["sign"]);
    soon["expires"] = json!(now + 2);
    let made = worker
        .ask(json!({"op": "generate", "attributes": soon}))
        .unwrap()
        .0;
    let client = daemon.open(recipe(&made)).unwrap();
    let mut done = 0;
    let error = loop {
        match call(&client, Op::Digest, b"x") {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.errno(), libc::EKEYEXPIRED);
    assert!(done > 0);
    assert_eq!(errno(daemon.open_fd(recipe(&made))), libc::EKEYEXPIRED);
}

#[test]
fn a_use_limit_holds_by_leases() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let mut limited = attributes("gcm(aes)", &["encrypt", "decrypt"]);
    limited["uses"] = json!(7);
    let made = worker
        .ask(json!({"op": "generate", "attributes": limited}))
        .unwrap()
        .0;
    assert_eq!(errno(daemon.open_fd(recipe(&made))), libc::EPERM);
    let mut leased = recipe(&made);
    leased["lease"] = json!({"key": made["attributes"]["id"], "uses": 4});
    let client = daemon.open(leased).unwrap();
    let broker = lending(worker, 3);
    let mut done = 0;
    let error = loop {
        match call(&client, Op::Seal, b"x") {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.errno(), libc::EDQUOT);
    assert_eq!(done, 7);
    drop(daemon);
    assert_eq!(broker.join().unwrap(), 3);
}

#[test]
fn what_a_key_seals_is_counted_until_nothing_is_left() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let made = worker
        .ask(json!({"op": "generate", "attributes": attributes("gcm(aes)", &["encrypt", "decrypt"])}))
        .unwrap()
        .0;
    let client = daemon.open(recipe(&made)).unwrap();
    let broker = lending(worker, 300);
    let sealed = call(&client, Op::Seal, b"x").unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut done = 1;
    // The answers come when they come; what ran ahead of them was few.
    let error = loop {
        assert!(std::time::Instant::now() < until, "{done} were sealed");
        match call(&client, Op::Seal, b"x") {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.errno(), libc::EDQUOT, "{error}");
    assert!(done >= 300, "{done}");
    // It still unseals.
    assert_eq!(call(&client, Op::Unseal, &sealed).unwrap(), b"x");
    drop(daemon);
    assert_eq!(broker.join().unwrap(), 300);
}

/// A broker that has `left` uses, and then none; joined, it says how many it gave. It has just begun: what it
/// is asked first it cannot say, which is not the same as nothing.
fn lending(mut worker: Channel, mut left: u64) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut granted = 0;
        let mut asked = 0;
        while let Some(request) = worker.maybe_next() {
            if request.text("op").ok() != Some("lease") {
                continue;
            }
            asked += 1;
            let id = request.number("id").unwrap();
            let answer = if asked < 3 {
                json!({"id": id, "errno": libc::EPERM, "error": "no session on that key"})
            } else {
                let uses = request.number("uses").unwrap().min(left);
                left -= uses;
                granted += uses;
                json!({"id": id, "ok": {"uses": uses}})
            };
            let packet = packet::pack(&answer, Vec::new());
            use std::os::fd::AsFd;
            packet.unwrap().send(worker.fd.as_fd(), false).unwrap();
        }
        granted
    })
}

#[test]
fn older_versions_only_unseal() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let old = generate(&mut worker, "gcm(aes)", &["encrypt", "decrypt"]);
    let mut second = attributes("gcm(aes)", &["encrypt", "decrypt"]);
    second["version"] = json!(2);
    let new = worker
        .ask(json!({"op": "generate", "attributes": second}))
        .unwrap()
        .0;
    let before = daemon.open(recipe(&old)).unwrap();
    let box_ = call(&before, Op::Seal, b"before").unwrap();
    let alone = daemon.open(recipe(&new)).unwrap();
    assert_eq!(errno(call(&alone, Op::Unseal, &box_)), libc::EINVAL);
    let mut both = recipe(&new);
    both["older"] = json!([{"key": old["attributes"], "blob": old["blob"]}]);
    let both = daemon.open(both).unwrap();
    assert_eq!(call(&both, Op::Unseal, &box_).unwrap(), b"before");
    let fresh = call(&both, Op::Seal, b"after").unwrap();
    assert_eq!(fresh[0], 2);
    assert_eq!(call(&alone, Op::Unseal, &fresh).unwrap(), b"after");
}
