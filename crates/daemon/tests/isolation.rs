//! Where a key's bytes are, and what strangers on the control sockets can do.

mod common;

use common::*;
use cryptofd_core::client::Client;
use cryptofd_core::error::Error;
use cryptofd_core::record::{Op, Request};
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::sys::socket;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};

/// What a process of its own does in the test below: uses a session, or holds the key itself.
#[test]
fn holder() {
    let Ok(what) = std::env::var("CFD_TEST_HOLDER") else {
        return;
    };
    let session;
    let client;
    if what == "key" {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        std::io::stdin().read_exact(&mut key[..]).unwrap();
        session = cryptofd_core::Session::open(cryptofd_core::session::Request {
            algorithm: "hmac(sha256)".into(),
            key: cryptofd_core::engine::Key::Bytes(cryptofd_core::secret::Secret::new(&key[..])),
            ..Default::default()
        })
        .unwrap();
        let mut tag = [0; 32];
        session.digest((&b"x"[..]).into(), &mut tag).unwrap();
    } else {
        // SAFETY: the parent gave it to this process for this.
        let fd = unsafe { OwnedFd::from_raw_fd(what.parse().unwrap()) };
        client = cryptofd_core::client::Client::adopt(fd, &mut never).unwrap();
        call(&client, Op::Digest, b"x").unwrap();
    }
    println!("ready");
    // Until the parent has looked.
    let _ = std::io::stdin().read(&mut [0]);
}

/// Starts `holder` and waits until it is ready.
fn hold(what: &str, key: &[u8]) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holder", "--nocapture", "--test-threads", "1"])
        .env("CFD_TEST_HOLDER", what)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(key).unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("ready")));
    child
}

/// A key's bytes are in its worker and nowhere else; the same scan finds them where they are.
#[test]
fn only_the_worker_has_the_key() {
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        return eprintln!("skipped: only root looks into a worker");
    }
    for more in [&[][..], &["--secret-memory", "no"]] {
        let mut daemon = Daemon::start_with(more, Folder::new());
        let (mut worker, pid) = daemon.worker(DOMAIN);
        let mut wanted = attributes("hmac(sha256)", &["sign"]);
        wanted["exportable"] = json!(true);
        let asked = json!({"op": "generate", "attributes": wanted});
        let made = worker.ask(asked).unwrap().0;
        let (_, fd) = daemon.open_fd(recipe(&made)).unwrap();
        // SAFETY: no memory is involved.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) };
        let mut client = hold(&fd.as_raw_fd().to_string(), b"");
        daemon.control.ask(json!({"op": "reexec"})).unwrap();
        // What is looked for: the key-encryption key, and the key by the way an exportable one may leave.
        let kek = std::fs::read(daemon.folder.0.join("kek")).unwrap();
        let (mut read, write) = pipe();
        let mut asked = json!({"attributes": made["attributes"], "blob": made["blob"]});
        asked["op"] = json!("export");
        worker.ask_with(asked, vec![write.into()]).unwrap();
        let mut key = Vec::new();
        read.read_to_end(&mut key).unwrap();
        assert_eq!(key.len(), 32);
        let mut in_process = hold("key", &key);
        assert!(remembers(in_process.id(), &key), "the scan finds nothing");
        for (name, needle) in [("key", &key[..]), ("kek", &kek[4..])] {
            assert!(remembers(pid, needle), "{name} in the worker");
            assert!(!remembers(daemon.pid(), needle), "{name} in the supervisor");
            assert!(!remembers(client.id(), needle), "{name} in the client");
        }
        for child in [&mut client, &mut in_process] {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }
}

/// What is to be wrapped is a key of the client's: it does not stay, whichever way it came.
#[test]
fn a_worker_forgets_what_it_has_wrapped() {
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        return eprintln!("skipped: only root looks into a worker");
    }
    let mut daemon = Daemon::start();
    let (mut worker, pid) = daemon.worker(DOMAIN);
    let made = generate(&mut worker, "kwp(aes)", &["encrypt", "decrypt"]);
    let mut wanted = recipe(&made);
    wanted["limits"] = json!({"ring": 1 << 20});
    let client = daemon.open(wanted).unwrap();
    let secret = || {
        let mut secret = [0; 32];
        cryptofd_core::engines::software::random(&mut secret).unwrap();
        secret
    };
    let secrets = [secret(), secret(), secret(), secret()];
    let [by_socket, attached, on_ring, refused] = secrets;
    for data in [by_socket.to_vec(), attached.repeat(4096)] {
        let id = client
            .submit(&Request::with(Op::Wrap, &data), false, &mut never)
            .unwrap();
        let done = client.complete(false, &mut never).unwrap();
        assert_eq!(done.id, id);
        assert_eq!(done.result().unwrap().len(), data.len() + 8);
    }
    for _ in 0..40 {
        call(&client, Op::Wrap, &on_ring).unwrap();
    }
    assert!(client.ring().unwrap()["requests"].as_u64() > Some(0));
    let with_iv = Request {
        iv: &[1; 16],
        ..Request::with(Op::Wrap, &refused)
    };
    for _ in 0..2 {
        assert_eq!(errno(client.call(&with_iv, &mut never)), libc::EINVAL);
        client.submit(&with_iv, false, &mut never).unwrap();
        assert_ne!(client.complete(false, &mut never).unwrap().status, 0);
    }
    for secret in secrets {
        assert!(!remembers(pid, &secret));
    }
    // The same scan finds what is no key.
    let made = generate(&mut worker, "hmac(sha256)", &["sign"]);
    let mac = daemon.open(recipe(&made)).unwrap();
    let plain = secret();
    call(&mac, Op::Digest, &plain).unwrap();
    assert!(remembers(pid, &plain), "the scan finds nothing");
}

#[test]
fn a_worker_is_hidden_and_confined() {
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        return eprintln!("skipped: only root looks into a worker");
    }
    let mut daemon = Daemon::start();
    let (_worker, pid) = daemon.worker(DOMAIN);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("Seccomp_filters:"), "3");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    // Nothing but its sockets, its epolls and where its errors go.
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let entry = entry.unwrap();
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let target = std::fs::read_link(entry.path()).unwrap();
        let target = target.to_string_lossy().into_owned();
        let ours = target.starts_with("socket:") || target.starts_with("anon_inode:[event");
        assert!(number <= 2 || ours, "{number}: {target}");
    }
}

/// Of each writable mapping of a process its size in bytes and the kernel's flags.
fn writable(pid: u32) -> Vec<(usize, String)> {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut found = Vec::new();
    let mut size = None;
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some((start, end)) = words[0].split_once('-') {
            let number = |text: &str| usize::from_str_radix(text, 16).ok();
            if let (Some(start), Some(end), Some(rights)) =
                (number(start), number(end), words.get(1))
            {
                size = rights.starts_with("rw").then_some(end - start);
            }
        } else if let (Some(flags), Some(size)) = (line.strip_prefix("VmFlags:"), size) {
            found.push((size, flags.to_owned()));
        }
    }
    found
}

fn has(flags: &str, flag: &str) -> bool {
    flags.split_whitespace().any(|f| f == flag)
}

#[test]
fn all_of_a_worker_is_locked_where_nothing_limits_that() {
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        return eprintln!("skipped: only root looks into a worker");
    }
    let mut daemon = Daemon::start();
    let (mut worker, pid) = daemon.worker(DOMAIN);
    let made = generate(&mut worker, "rsa", &["sign"]);
    let client = daemon.open(recipe(&made)).unwrap();
    call(&client, Op::Sign, b"x").unwrap();
    for (size, flags) in writable(pid) {
        assert!(has(&flags, "lo"), "{size}: {flags}");
    }
}

/// Past RLIMIT_MEMLOCK there is ENOMEM for who opens one more session, and nothing else: those that are open
/// go on, and no key is in memory that is not locked.
#[test]
fn past_the_limit_sessions_are_refused_and_keys_stay_locked() {
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        return eprintln!("skipped: only root becomes another and looks into its worker");
    }
    let mut daemon = Daemon::start_as(65534, 8 << 20);
    let (mut worker, pid) = daemon.worker(DOMAIN);
    for algorithm in ["gcm(aes)", "rsa"] {
        let (usage, op) = match algorithm {
            "rsa" => (&["sign"], Op::Sign),
            _ => (&["encrypt"], Op::Seal),
        };
        let made = generate(&mut worker, algorithm, usage);
        let mut open = Vec::new();
        let error = loop {
            match daemon.open(recipe(&made)) {
                Ok(client) => open.push(client),
                Err(error) => break error,
            }
            assert!(open.len() < 20_000, "there is no limit");
            if algorithm == "gcm(aes)" && open.len() == 500 {
                break Error::invalid("enough");
            }
        };
        if algorithm == "rsa" {
            assert_eq!(error.errno(), libc::ENOMEM, "{error}");
            assert!(error.message().contains("RLIMIT_MEMLOCK"), "{error}");
            assert!(open.len() > 100, "{}", open.len());
        }
        // What is open is served, or says the same: a signature needs memory of its own.
        for client in &open {
            if let Err(error) = call(client, op, b"x") {
                assert_eq!(error.errno(), libc::ENOMEM, "{error}");
            }
        }
        for (size, flags) in writable(pid) {
            assert!(!has(&flags, "dd") || has(&flags, "lo"), "{size}: {flags}");
        }
        for client in open {
            drop(client);
            daemon.control.notice("ended");
        }
    }
    // They were closed: there is room again.
    let made = generate(&mut worker, "rsa", &["sign"]);
    let client = daemon.open(recipe(&made)).unwrap();
    call(&client, Op::Sign, b"x").unwrap();
    assert_eq!(daemon.status()["workers"][0]["pid"], json!(pid));
}

/// A session with rings as large as anybody asks for.
fn with_ring(made: &Made) -> Value {
    let mut wanted = recipe(made);
    wanted["limits"] = json!({"ring": 1 << 30});
    wanted
}

/// With not a byte left to lock, rings are made and served: what is on them is no key. Who needs more is told.
#[test]
fn rings_go_on_past_the_limit_of_locked_memory() {
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        return eprintln!("skipped: only root becomes another and looks into its worker");
    }
    let mut daemon = Daemon::start_as(65534, 4 << 20);
    let (mut worker, pid) = daemon.worker(DOMAIN);
    let mac = generate(&mut worker, "hmac(sha256)", &["sign"]);
    let seal = generate(&mut worker, "gcm(aes)", &["decrypt", "encrypt"]);
    let rsa = generate(&mut worker, "rsa", &["sign"]);
    let early = daemon.open(with_ring(&mac)).unwrap();
    let right = call(&early, Op::Digest, b"x").unwrap();
    for _ in 0..40 {
        assert_eq!(call(&early, Op::Digest, b"x").unwrap(), right);
    }
    assert!(early.ring().unwrap()["requests"].as_u64() > Some(0));
    // Sessions that have done nothing yet, whose first request finds nothing left.
    let late: Vec<Client> = (0..8)
        .map(|_| daemon.open(with_ring(&seal)).unwrap())
        .collect();
    let mut open = Vec::new();
    for made in [&rsa, &seal, &mac] {
        let error = loop {
            match daemon.open(with_ring(made)) {
                Ok(client) => open.push(client),
                Err(error) => break error,
            }
            assert!(open.len() < 20_000, "there is no limit");
        };
        assert_eq!(error.errno(), libc::ENOMEM, "{error}");
        assert!(error.message().contains("RLIMIT_MEMLOCK"), "{error}");
    }
    for _ in 0..40 {
        assert_eq!(call(&early, Op::Digest, b"x").unwrap(), right);
    }
    for client in &late {
        for _ in 0..40 {
            match call(client, Op::Seal, b"data") {
                Ok(sealed) => assert_eq!(call(client, Op::Unseal, &sealed).unwrap(), b"data"),
                Err(error) => {
                    assert_eq!(error.errno(), libc::ENOMEM, "{error}");
                    assert!(error.message().contains("RLIMIT_MEMLOCK"), "{error}");
                }
            }
        }
    }
    for (size, flags) in writable(pid) {
        // Rings are the client's memory too.
        let keys = has(&flags, "dd") && !has(&flags, "sh");
        assert!(!keys || has(&flags, "lo"), "{size}: {flags}");
    }
    assert_eq!(daemon.status()["workers"][0]["pid"], json!(pid));
    // Those that close give others their room.
    for client in open {
        drop(client);
        daemon.control.notice("ended");
    }
    for client in &late {
        let sealed = call(client, Op::Seal, b"data").unwrap();
        assert_eq!(call(client, Op::Unseal, &sealed).unwrap(), b"data");
    }
}

/// A worker that gets no memory for a ring refuses the ring, and the work goes by the socket.
#[test]
fn without_memory_for_a_ring_the_work_goes_by_the_socket() {
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        return eprintln!("skipped: only root sets a worker's limits");
    }
    let mut daemon = Daemon::start();
    let (mut worker, pid) = daemon.worker(DOMAIN);
    let mac = generate(&mut worker, "hmac(sha256)", &["sign"]);
    let clients: Vec<Client> = (0..8)
        .map(|_| daemon.open(with_ring(&mac)).unwrap())
        .collect();
    let (first, others) = clients.split_first().unwrap();
    let right = call(first, Op::Digest, b"x").unwrap();
    for client in &clients {
        assert_eq!(call(client, Op::Digest, b"x").unwrap(), right);
    }
    for _ in 0..40 {
        assert_eq!(call(first, Op::Digest, b"x").unwrap(), right);
    }
    assert!(first.ring().unwrap()["requests"].as_u64() > Some(0));
    // Of address space there is as much as it has, and half a ring.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let size: u64 = size
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let most = (size << 10) + (512 << 10);
    let done = std::process::Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--as={most}:")])
        .status()
        .unwrap();
    assert!(done.success());
    for client in others {
        for _ in 0..40 {
            assert_eq!(call(client, Op::Digest, b"x").unwrap(), right);
        }
        let why = client.ring().unwrap()["why"].to_string();
        assert!(why.contains("a ring of 1048576 bytes"), "{why}");
    }
    let before = first.ring().unwrap()["requests"].as_u64();
    for _ in 0..40 {
        assert_eq!(call(first, Op::Digest, b"x").unwrap(), right);
    }
    assert!(first.ring().unwrap()["requests"].as_u64() > before);
    assert_eq!(daemon.status()["workers"][0]["pid"], json!(pid));
}

#[test]
fn a_worker_becomes_its_own_user() {
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        return eprintln!("skipped: only root becomes another");
    }
    let more = ["--worker-uid", "65534", "--worker-gid", "65534"];
    let mut daemon = Daemon::start_with(&more, Folder::new());
    let (mut worker, pid) = daemon.worker(DOMAIN);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"));
    assert!(status.contains("Gid:\t65534\t65534\t65534\t65534"));
    let made = generate(&mut worker, "gcm(aes)", &["encrypt", "decrypt"]);
    let client = daemon.open(recipe(&made)).unwrap();
    call(&client, Op::Seal, b"x").unwrap();
    kill(pid);
    call(&client, Op::Seal, b"x").unwrap();
}

/// With ids that nobody asks with so soon: a worker believes the broker that its first question, for a lease,
/// was answered with nothing.
const GARBAGE: &[&[u8]] = &[
    b"\0",
    b"{",
    b"[]",
    b"null",
    b"{}",
    b"{\"id\":4096}",
    b"{\"id\":-1,\"op\":\"status\"}",
    b"{\"id\":4096,\"op\":7}",
    b"{\"id\":4096,\"op\":\"worker\"}",
    b"{\"id\":4096,\"op\":\"worker\",\"domain\":\"\"}",
    b"{\"id\":4096,\"op\":\"worker\",\"domain\":\"a\\u0000b\"}",
    b"{\"id\":4096,\"op\":\"session\",\"domain\":\"x\"}",
    b"{\"id\":4096,\"op\":\"session\",\"domain\":\"x\",\"recipe\":{}}",
    b"{\"id\":4096,\"op\":\"session\",\"domain\":\"x\",\"recipe\":{\"algorithm\":\"gcm(aes)\"}}",
    b"{\"id\":4096,\"op\":\"close\"}",
    b"{\"id\":4096,\"op\":\"close\",\"sid\":18446744073709551615}",
    b"{\"id\":4096,\"op\":\"nonsense\"}",
    b"{\"id\":4096,\"body\":\"attached\",\"bytes\":18446744073709551615}",
    b"{\"event\":\"ended\",\"sid\":1,\"end\":1}",
    b"{\"event\":\"hold\",\"sid\":1}",
    b"{\"id\":4096,\"ok\":{}}",
    b"\xff\xff\xff\xff",
];

#[test]
fn garbage_on_the_brokers_sockets_hurts_nobody() {
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        return eprintln!("skipped: only root looks into a worker");
    }
    let mut daemon = Daemon::start();
    let (mut worker, pid) = daemon.worker(DOMAIN);
    let made = generate(&mut worker, "gcm(aes)", &["encrypt", "decrypt"]);
    let client = daemon.open(recipe(&made)).unwrap();
    let deep = "[".repeat(60_000).into_bytes();
    let long = vec![b'a'; packet::PACKET + 100];
    let all = GARBAGE.iter().copied().chain([&deep[..], &long[..]]);
    for bytes in all {
        for fd in [daemon.control.fd.as_fd(), worker.fd.as_fd()] {
            let stranger = memory(b"stranger");
            let sent = [Input::from(bytes)];
            socket::send(fd, &sent, None, false).unwrap();
            socket::send_many(fd, &sent, &[stranger.as_fd(); 16], false).unwrap();
        }
        call(&client, Op::Seal, b"x").unwrap();
    }
    // Both go on: a request has its answer, whatever came between. (Ids of garbage were others.)
    for _ in 0..10 {
        daemon.control.send(json!({"op": "nothing"}), Vec::new());
        worker.send(json!({"op": "nothing"}), Vec::new());
    }
    let made = generate(&mut worker, "gcm(aes)", &["encrypt"]);
    call(&daemon.open(recipe(&made)).unwrap(), Op::Seal, b"x").unwrap();
    let status = daemon.status();
    let mine = status["workers"].as_array().unwrap();
    assert!(mine.iter().any(|w| w["pid"] == json!(pid)));
    // No descriptor stays behind.
    let number = || {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        fds.count()
    };
    let before = number();
    for _ in 0..50 {
        let stranger = memory(b"stranger");
        let sent = [Input::from(&b"{\"id\":1}"[..])];
        socket::send_many(worker.fd.as_fd(), &sent, &[stranger.as_fd(); 16], false).unwrap();
    }
    worker.ask(json!({"op": "ping"})).unwrap();
    assert!(number() <= before);
}

#[test]
fn garbage_from_a_client_ends_at_most_its_own_session() {
    let mut daemon = Daemon::start();
    let (mut worker, pid) = daemon.worker(DOMAIN);
    let made = generate(&mut worker, "gcm(aes)", &["encrypt", "decrypt"]);
    let client = daemon.open(recipe(&made)).unwrap();
    for round in 0..20u8 {
        let (_, fd) = daemon.open_fd(recipe(&made)).unwrap();
        for length in [0usize, 1, 15, 16, 63, 64, 65, 500] {
            let bytes: Vec<u8> = (0..length).map(|n| (n as u8).wrapping_mul(round)).collect();
            let _ = socket::send(fd.as_fd(), &[Input::from(&bytes[..])], None, true);
        }
        call(&client, Op::Seal, b"x").unwrap();
    }
    assert_eq!(daemon.status()["workers"][0]["pid"], json!(pid));
}

/// The supervisor ends, and with it all that it started.
#[test]
fn the_end_is_the_end_of_all() {
    let mut daemon = Daemon::start();
    let (_worker, pid) = daemon.worker(DOMAIN);
    // SAFETY: this test's own supervisor.
    unsafe { libc::kill(daemon.pid() as i32, libc::SIGTERM) };
    assert!(daemon.child.wait().unwrap().success());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn an_idle_supervisor_ends_by_itself() {
    let mut daemon = Daemon::start_with(&["--idle-exit", "1"], Folder::new());
    assert!(daemon.child.wait().unwrap().success());
}
