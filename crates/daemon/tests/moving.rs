//! A session is served by another engine, and what it did is counted beyond its worker's death.

mod common;

use common::*;
use cryptofd_core::client::Client;
use cryptofd_core::engine::Direction;
use cryptofd_core::record::{Op, Params, Request};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn info(client: &Client) -> Value {
    serde_json::from_slice(&call(client, Op::Info, b"").unwrap()).unwrap()
}

fn session(daemon: &mut Daemon, algorithm: &str, usage: &[&str]) -> (u64, Client, u32) {
    let (mut worker, pid) = daemon.worker(DOMAIN);
    let made = generate(&mut worker, algorithm, usage);
    let (sid, fd) = daemon.open_fd(recipe(&made)).unwrap();
    (sid, Client::adopt(fd, &mut never).unwrap(), pid)
}

fn moved(daemon: &mut Daemon, sid: u64, engine: &str) -> i32 {
    let asked = json!({"op": "move", "sid": sid, "engine": engine});
    errno(daemon.control.ask(asked))
}

fn counts(daemon: &mut Daemon, sid: u64) -> [u64; 3] {
    let (ok, _) = daemon.control.ask(json!({"op": "sessions"})).unwrap();
    let all = ok["sessions"].as_array().unwrap();
    let one = all.iter().find(|s| s["sid"] == json!(sid)).unwrap();
    ["operations", "bytes", "refused"].map(|name| one["counts"][name].as_u64().unwrap())
}

/// The engine that a session is not on, where there is one.
fn other(client: &Client) -> Option<&'static str> {
    let openssl = cryptofd_core::engines::all()
        .iter()
        .any(|engine| engine.name() == "openssl" && engine.probe().is_ok());
    match info(client)["engine"].as_str().unwrap() {
        "software" => openssl.then_some("openssl"),
        _ => Some("software"),
    }
}

#[test]
fn a_session_moves_under_load_and_stays_there() {
    let mut daemon = Daemon::start();
    let (sid, client, pid) = session(&mut daemon, "cbc(aes)", &["encrypt", "decrypt"]);
    let Some(engine) = other(&client) else {
        eprintln!("SKIPPED: this host has one engine only");
        return;
    };
    let first = info(&client)["engine"].as_str().unwrap().to_owned();
    let encrypt = Request {
        iv: &[3; 16],
        ..Request::with(Op::Encrypt, &[7; 64])
    };
    let right = client.call(&encrypt, &mut never).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let clone = client.try_clone(&mut never).unwrap();
    let load = std::thread::spawn({
        let (stop, right) = (stop.clone(), right.clone());
        move || {
            let encrypt = Request {
                iv: &[3; 16],
                ..Request::with(Op::Encrypt, &[7; 64])
            };
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(clone.call(&encrypt, &mut never).unwrap(), right);
            }
        }
    });
    let begin = Request {
        iv: &[3; 16],
        params: Params {
            direction: Some(Direction::Encrypt),
            ..Params::default()
        },
        ..Request::new(Op::StreamBegin)
    };
    client.call(&begin, &mut never).unwrap();
    let mut streamed = call(&client, Op::StreamUpdate, &[7; 32]).unwrap();
    for engine in [engine, &first, engine] {
        assert_eq!(moved(&mut daemon, sid, engine), 0);
        assert_eq!(info(&client)["engine"], json!(engine));
    }
    // What was begun before is finished, and fits.
    streamed.extend(call(&client, Op::StreamUpdate, &[7; 32]).unwrap());
    assert_eq!(streamed, right);
    call(&client, Op::StreamFinish, b"").unwrap();
    // Refused moves leave it where it is.
    for (nowhere, expected) in [("dream", libc::EINVAL), ("cryptodev", libc::ENODEV)] {
        let code = moved(&mut daemon, sid, nowhere);
        assert!(
            code == expected || code == libc::EINVAL,
            "{nowhere}: {code}"
        );
        assert_eq!(info(&client)["engine"], json!(engine));
    }
    assert_eq!(moved(&mut daemon, sid + 1, engine), libc::ENOENT);
    // The next worker serves it by the same engine, and so does one after a new program.
    kill(pid);
    assert_eq!(info(&client)["engine"], json!(engine));
    daemon.control.ask(json!({"op": "reexec"})).unwrap();
    let (_, pid) = daemon.worker(DOMAIN);
    kill(pid);
    assert_eq!(info(&client)["engine"], json!(engine));
    stop.store(true, Ordering::Relaxed);
    load.join().unwrap();
}

#[test]
fn counts_outlive_the_worker_and_the_program() {
    let mut daemon = Daemon::start();
    let (sid, client, pid) = session(&mut daemon, "gcm(aes)", &["encrypt"]);
    let (second, other, _) = session(&mut daemon, "gcm(aes)", &["encrypt"]);
    for _ in 0..10 {
        call(&client, Op::Seal, &[1; 100]).unwrap();
    }
    call(&other, Op::Seal, &[1; 100]).unwrap();
    assert_eq!(errno(call(&client, Op::Unseal, &[1; 100])), libc::EPERM);
    let [operations, bytes, refused] = counts(&mut daemon, sid);
    assert_eq!((operations, refused), (10, 1));
    assert!(bytes >= 1000);
    kill(pid);
    call(&client, Op::Seal, &[1; 100]).unwrap();
    assert_eq!(counts(&mut daemon, sid)[0], 11);
    daemon.control.ask(json!({"op": "reexec"})).unwrap();
    call(&client, Op::Seal, &[1; 100]).unwrap();
    assert_eq!(counts(&mut daemon, sid)[0], 12);
    assert_eq!(counts(&mut daemon, second)[0], 1);
    // The session is told the same.
    assert_eq!(info(&client)["counts"]["operations"], json!(12));
    // What a session did stays in its domain's sum; the next one in its place begins with nothing.
    daemon
        .control
        .ask(json!({"op": "close", "sid": sid}))
        .unwrap();
    let (third, fresh, _) = session(&mut daemon, "gcm(aes)", &["encrypt"]);
    assert_eq!(counts(&mut daemon, third), [0; 3]);
    call(&fresh, Op::Seal, b"x").unwrap();
    let total = &daemon.status()["workers"][0]["counts"];
    assert_eq!(total["operations"], json!(14));
}
