//! The worker that waits for the next to die: who it is, when there is one, and that it knows nothing.

mod common;

use common::*;
use cryptofd_core::record::Op;
use serde_json::{Value, json};

fn session(daemon: &mut Daemon) -> (cryptofd_core::client::Client, u32) {
    let (mut worker, pid) = daemon.worker(DOMAIN);
    let made = generate(&mut worker, "gcm(aes)", &["encrypt", "decrypt"]);
    (daemon.open(recipe(&made)).unwrap(), pid)
}

/// The spare worker's pid, once there is another one than `before`.
fn spare(daemon: &mut Daemon, before: Option<u32>) -> u32 {
    loop {
        let pid = daemon.status()["spare"].as_u64().map(|pid| pid as u32);
        match pid.filter(|_| pid != before) {
            Some(pid) => return pid,
            None => std::thread::yield_now(),
        }
    }
}

fn gone(pid: u32) -> bool {
    !std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn the_spare_worker_takes_over_and_another_is_made() {
    let mut daemon = Daemon::start();
    assert_eq!(daemon.status()["spare"], Value::Null);
    let (client, pid) = session(&mut daemon);
    let first = spare(&mut daemon, None);
    kill(pid);
    call(&client, Op::Seal, b"x").unwrap();
    assert_eq!(daemon.status()["workers"][0]["pid"], json!(first));
    let second = spare(&mut daemon, Some(first));
    // Its own death is nobody's loss.
    kill(second);
    let third = spare(&mut daemon, Some(second));
    call(&client, Op::Seal, b"x").unwrap();
    assert_eq!(daemon.status()["workers"][0]["pid"], json!(first));
    // It serves a new domain as well.
    assert_eq!(daemon.worker("uid:1001").1, third);
}

/// Whoever replaces a worker wants what was changed: engines, libraries, preferences, the program.
#[test]
fn a_planned_replacement_does_without_it() {
    let mut daemon = Daemon::start();
    let (client, _) = session(&mut daemon);
    let first = spare(&mut daemon, None);
    daemon
        .control
        .ask(json!({"op": "replace", "domain": DOMAIN}))
        .unwrap();
    call(&client, Op::Seal, b"x").unwrap();
    assert_ne!(daemon.status()["workers"][0]["pid"], json!(first));
    assert!(gone(first));
    let second = spare(&mut daemon, Some(first));
    // Neither does the next program keep it.
    daemon.control.ask(json!({"op": "reexec"})).unwrap();
    let third = spare(&mut daemon, Some(second));
    assert!(gone(second));
    // SAFETY: this test's own supervisor.
    assert_eq!(unsafe { libc::kill(daemon.pid() as i32, libc::SIGHUP) }, 0);
    spare(&mut daemon, Some(third));
    assert!(gone(third));
    call(&client, Op::Seal, b"x").unwrap();
}

/// While it waits it has the filters of one that serves, and no thread that could be without them.
#[test]
fn it_is_confined_before_it_has_anything() {
    let mut daemon = Daemon::start();
    let (_client, pid) = session(&mut daemon);
    let first = spare(&mut daemon, None);
    let status = |pid: u32, name: &str| -> String {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].trim().to_owned()
    };
    while status(first, "Seccomp_filters:") != status(pid, "Seccomp_filters:") {
        std::thread::yield_now();
    }
    assert_eq!(status(first, "Seccomp:"), "2");
    assert_eq!(status(first, "NoNewPrivs:"), "1");
    assert_eq!(status(first, "Threads:"), "1");
}

/// One that does not serve when its turn comes is no different from one that dies.
#[test]
fn a_spare_worker_that_died_unseen_costs_nobody_an_answer() {
    let mut daemon = Daemon::start();
    let (client, pid) = session(&mut daemon);
    let first = spare(&mut daemon, None);
    // SAFETY: this test's own supervisor, which sees both deaths at once when it goes on.
    unsafe {
        libc::kill(daemon.pid() as i32, libc::SIGSTOP);
        libc::kill(pid as i32, libc::SIGKILL);
        libc::kill(first as i32, libc::SIGKILL);
        libc::kill(daemon.pid() as i32, libc::SIGCONT);
    }
    call(&client, Op::Seal, b"x").unwrap();
    let now = daemon.status()["workers"][0]["pid"].as_u64().unwrap() as u32;
    assert!(now != pid && now != first);
}
