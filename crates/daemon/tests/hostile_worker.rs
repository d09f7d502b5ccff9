//! A worker that was taken over by its clients, and a supervisor without room: nobody else notices, nothing
//! is believed.
//!
//! The hostile worker is the test itself. Where the supervisor finds its program for the next worker (as
//! after an upgrade) lies one that gives its control socket to the test and then waits to be killed.

mod common;

use common::*;
use cryptofd_core::client::Client;
use cryptofd_core::record::Op;
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::sys::socket;
use packet::{Incoming, Packet, pack, receive};
use serde_json::{Value, json};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

/// A domain whose worker is an honest one.
const OTHER: &str = "uid:1001";
/// By which the other worker's program is told where to give its socket.
const WHERE: &str = "CRYPTOFD_TEST_HOSTILE";

/// Not a test: what runs in the worker's place.
#[test]
#[ignore = "is run by the tests of this file, as a worker"]
fn hostile_program() {
    let Ok(told) = std::env::var(WHERE) else {
        return;
    };
    let (path, number) = told.rsplit_once(' ').unwrap();
    let there = UnixStream::connect(path).unwrap();
    let number: i32 = number.parse().unwrap();
    // SAFETY: inherited, as the command line said, and nobody else's here.
    let control = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let pid = std::process::id().to_string();
    let part = [Input::from(pid.as_bytes())];
    socket::send_many(there.as_fd(), &part, &[control], false).unwrap();
    // The test's copy must not be the second: the supervisor shall see the end of it.
    // SAFETY: as above.
    unsafe { libc::close(number) };
    loop {
        std::thread::park();
    }
}

/// Copied by a program of its own: while this one had it open for writing, a child of another test's could
/// have it too, and it could not be run.
fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// A supervisor whose workers are honest or not, as the test says.
struct Stage {
    daemon: Daemon,
    given: UnixListener,
}

/// A worker's place.
struct Hostile {
    control: OwnedFd,
    pid: u32,
    buffer: Vec<u8>,
}

impl Stage {
    fn new() -> Stage {
        let folder = Folder::new();
        let program = folder.0.join("cryptofd-daemon");
        copy(Path::new(env!("CARGO_BIN_EXE_cryptofd-daemon")), &program);
        let given = UnixListener::bind(folder.0.join("given")).unwrap();
        Stage {
            daemon: Daemon::start_program(&program, folder),
            given,
        }
    }

    /// Which program the next worker is.
    fn next_is(&mut self, hostile: bool) {
        let folder = &self.daemon.folder.0;
        let fresh = folder.join("fresh");
        if hostile {
            let script = folder.join("script");
            let test = std::env::current_exe().unwrap();
            let text = format!(
                "#!/bin/sh\n{WHERE}='{}'\" $3\" exec '{}' --exact hostile_program --ignored\n",
                folder.join("given").display(),
                test.display(),
            );
            std::fs::write(&script, text).unwrap();
            std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
            copy(&script, &fresh);
        } else {
            copy(Path::new(env!("CARGO_BIN_EXE_cryptofd-daemon")), &fresh);
        }
        std::fs::rename(&fresh, folder.join("cryptofd-daemon")).unwrap();
    }

    /// The place of a worker that begins now, once it was told its epoch. One that was started to be spare
    /// and was not needed is passed over.
    fn hostile(&mut self) -> Hostile {
        loop {
            let (there, _) = self.given.accept().unwrap();
            let mut buffer = vec![0; 64];
            let mut got = socket::receive_many(there.as_fd(), &mut buffer, false).unwrap();
            let Some(control) = got.fds.pop() else {
                continue;
            };
            let pid = std::str::from_utf8(&buffer[..got.length]).unwrap();
            let pid = pid.parse().unwrap();
            if let Incoming::Packet(packet) = receive(control.as_fd(), &mut buffer, false) {
                assert_eq!(packet.text("op").unwrap(), "begin");
                return Hostile {
                    control,
                    pid,
                    buffer,
                };
            }
        }
    }

    /// A worker of `domain` that this test is, after what every worker is told first; no one is served yet.
    fn take(&mut self, domain: &str) -> Hostile {
        self.next_is(true);
        let asked = json!({"op": "worker", "domain": domain});
        let id = self.daemon.control.send(asked, Vec::new());
        let mut hostile = self.hostile();
        hostile.begin();
        self.daemon.control.wait(id).unwrap();
        self.next_is(false);
        hostile
    }

    fn recipe_in(&mut self, domain: &str) -> Value {
        let (mut worker, _) = self.daemon.worker(domain);
        recipe(&generate(&mut worker, "hmac(sha256)", &["sign"]))
    }

    /// Asks for a session; the request's number.
    fn ask_session(&mut self, domain: &str, recipe: &Value) -> u64 {
        let asked = json!({"op": "session", "domain": domain, "recipe": recipe});
        self.daemon.control.send(asked, Vec::new())
    }

    fn session(&mut self, id: u64) -> (u64, Client) {
        let (ok, mut fds) = self.daemon.control.wait(id).unwrap();
        let client = Client::adopt(fds.pop().unwrap(), &mut never).unwrap();
        (ok["sid"].as_u64().unwrap(), client)
    }

    fn open_in(&mut self, domain: &str, recipe: &Value) -> (u64, Client) {
        let id = self.ask_session(domain, recipe);
        self.session(id)
    }

    fn ends(&mut self, sid: u64) -> u64 {
        let (ok, _) = self.daemon.control.ask(json!({"op": "sessions"})).unwrap();
        let all = ok["sessions"].as_array().unwrap();
        let one = all.iter().find(|s| s["sid"] == json!(sid));
        one.map_or(0, |one| one["ends"].as_u64().unwrap())
    }

    fn fault(&mut self, domain: &str) -> String {
        let status = self.daemon.status();
        status["faults"][domain].as_str().unwrap_or("").to_owned()
    }

    /// Waits until another worker has taken the place of this one.
    fn taken_over(&mut self, hostile: &Hostile) {
        loop {
            let event = self.daemon.control.notice("worker");
            if event.number("pid").unwrap() != u64::from(hostile.pid) {
                return;
            }
        }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: our own child, which lives.
        assert_eq!(unsafe { libc::kill(self.daemon.pid() as i32, signal) }, 0);
    }

    /// Waits until this one is known to be gone.
    fn taken_over_or_gone(&mut self, hostile: &Hostile) {
        loop {
            let status = self.daemon.status();
            let workers = status["workers"].as_array().unwrap();
            if workers.iter().all(|one| one["pid"] != json!(hostile.pid)) {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// The supervisor's descriptors, once nothing comes and goes.
    fn standing(&mut self) -> usize {
        let (mut last, mut same) = (0, 0);
        while same < 50 {
            self.daemon.status();
            let now = self.descriptors();
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        last
    }

    /// Waits until it has closed all but so many: it does so beside its work.
    fn settled(&mut self, most: usize) {
        for _ in 0..2000 {
            self.daemon.status();
            if self.descriptors() <= most {
                return;
            }
        }
        panic!("{} descriptors, not {most}", self.descriptors());
    }

    /// Descriptors that the supervisor has.
    fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.daemon.pid());
        std::fs::read_dir(folder).unwrap().count()
    }
}

impl Hostile {
    fn say(&self, object: &Value, fds: Vec<OwnedFd>) {
        let packet = pack(object, fds).unwrap();
        // Descriptors on their way that the supervisor has not taken yet have a limit too.
        while let Err(error) = packet.send(self.control.as_fd(), false) {
            assert_eq!(error.raw_os_error(), Some(libc::ETOOMANYREFS), "{error}");
            std::thread::yield_now();
        }
    }

    /// The same, when it may be dead by now.
    fn try_say(&self, object: &Value, fds: Vec<OwnedFd>) -> bool {
        let packet = pack(object, fds).unwrap();
        packet.send(self.control.as_fd(), false).is_ok()
    }

    fn next(&mut self) -> Packet {
        match receive(self.control.as_fd(), &mut self.buffer, false) {
            Incoming::Packet(packet) => packet,
            _ => panic!("the supervisor says nothing any more"),
        }
    }

    fn answer(&self, packet: &Packet) {
        self.say(
            &json!({"id": packet.number("id").unwrap(), "ok": {}}),
            vec![],
        );
    }

    /// Tells of a clone.
    fn hold(&self, sid: u64, held: &OwnedFd) {
        let held = held.try_clone().unwrap();
        self.say(&json!({"event": "hold", "sid": sid}), vec![held]);
    }

    /// Takes epoch, keys, counts and the broker's channel, as if it were one of ours.
    fn begin(&mut self) {
        loop {
            let packet = self.next();
            match packet.text("op").unwrap() {
                "broker" => return self.answer(&packet),
                _ => self.answer(&packet),
            }
        }
    }

    /// Serves what it is given next, or says so; the session's number and end.
    fn serve(&mut self) -> (u64, OwnedFd) {
        loop {
            let mut packet = self.next();
            self.answer(&packet);
            if packet.text("op").unwrap() == "serve" {
                let sid = packet.object["sessions"][0]["sid"].as_u64().unwrap();
                return (sid, packet.fds.pop().unwrap());
            }
        }
    }

    /// Returns when the supervisor has taken all that was sent: nothing is on its way.
    fn heard(&self) {
        loop {
            let mut left: libc::c_int = 0;
            // SAFETY: room for a number.
            let asked =
                unsafe { libc::ioctl(self.control.as_raw_fd(), libc::TIOCOUTQ, &raw mut left) };
            assert_eq!(asked, 0);
            if left == 0 {
                return;
            }
            std::thread::yield_now();
        }
    }
}

fn inode(fd: &OwnedFd) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::File::from(fd.try_clone().unwrap());
    file.metadata().unwrap().ino()
}

/// What a worker says of sessions of another domain, or of requests that nobody made, changes nothing.
#[test]
fn lies_about_others_change_nothing() {
    let mut stage = Stage::new();
    let others = stage.recipe_in(OTHER);
    let (theirs, client) = stage.open_in(OTHER, &others);
    let right = call(&client, Op::Digest, b"x").unwrap();
    let mut evil = stage.take(DOMAIN);
    let asked = stage.ask_session(DOMAIN, &others);
    let (own, end) = evil.serve();
    let (ok, _) = stage.daemon.control.wait(asked).unwrap();
    assert_eq!(ok["sid"], json!(own));
    for number in 0..200 {
        for said in [
            json!({"event": "ended", "sid": theirs, "end": number, "ends_left": 0}),
            json!({"event": "ended", "sid": theirs, "end": inode(&end), "released": true}),
            json!({"event": "ended", "sid": u64::MAX, "end": number, "released": true}),
            json!({"event": "ended", "sid": own, "end": number + 1, "ends_left": 0}),
            json!({"event": "ended", "sid": [own], "end": {"a": 1}}),
            json!({"event": ["hold"], "sid": own}),
            json!({"event": "dream", "sid": theirs}),
            json!({"op": "close", "sid": theirs}),
            // Answered long ago, and never asked.
            json!({"id": number, "ok": {"refused": [{"sid": theirs, "errno": 5, "error": "no"}]}}),
            json!({"id": number + (1i64 << 40), "errno": -1, "error": ["no"]}),
            json!({"id": -1.5, "ok": {}}),
        ] {
            evil.say(&said, Vec::new());
        }
        let (held, _) = socket::pair().unwrap();
        evil.say(&json!({"event": "hold", "sid": theirs}), vec![held]);
    }
    evil.heard();
    assert_eq!(stage.ends(theirs), 1);
    assert_eq!(stage.ends(own), 1);
    assert_eq!(call(&client, Op::Digest, b"x").unwrap(), right);
}

/// What is no packet of a worker's is its end, and said in the status; the next one serves.
#[test]
fn garbage_from_a_worker_is_its_end() {
    let mut stage = Stage::new();
    let others = stage.recipe_in(OTHER);
    let (_, client) = stage.open_in(OTHER, &others);
    let right = call(&client, Op::Digest, b"x").unwrap();
    let before = stage.descriptors();
    let unsealed = || {
        let memory = cryptofd_core::sys::memfd::create().unwrap();
        std::fs::File::from(memory.try_clone().unwrap())
            .set_len(64)
            .unwrap();
        memory
    };
    let body = |bytes: u64| json!({"body": "attached", "bytes": bytes}).to_string();
    let deep = [&br#"{"ok":"#[..], &b"[".repeat(60_000)].concat();
    let (pipe, _writing) = pipe();
    let many = (0..packet::FDS).map(|_| unsealed()).collect();
    let garbage: Vec<(Vec<u8>, Vec<OwnedFd>)> = vec![
        (b"\xff{{{".to_vec(), vec![]),
        (br#"{"event":"hold","sid":"#.to_vec(), vec![unsealed()]),
        (b"[]".to_vec(), many),
        (deep, vec![]),
        (vec![b' '; packet::PACKET + 1], vec![]),
        (body(5).into_bytes(), vec![]),
        (body(5).into_bytes(), vec![pipe.into()]),
        (body(64).into_bytes(), vec![unsealed()]),
        (body(1 << 40).into_bytes(), vec![memory(b"{}")]),
        (body(3).into_bytes(), vec![memory(b"{}")]),
        // Well made, and more than any worker has to say.
        (body(2).into_bytes(), vec![memory(b"{}")]),
    ];
    for (place, (bytes, fds)) in garbage.into_iter().enumerate() {
        let domain = format!("uid:{}", 2000 + place);
        let evil = stage.take(&domain);
        let all: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let part = [Input::from(&bytes[..])];
        socket::send_many(evil.control.as_fd(), &part, &all, false).unwrap();
        stage.taken_over(&evil);
        let fault = stage.fault(&domain);
        assert!(fault.starts_with("it sent "), "{place}: {fault}");
        // Whoever is next is one of ours.
        let own = stage.recipe_in(&domain);
        let (_, client) = stage.open_in(&domain, &own);
        call(&client, Op::Digest, b"x").unwrap();
    }
    assert_eq!(call(&client, Op::Digest, b"x").unwrap(), right);
    // A domain with its session: link, process, page and end. Nothing of what came is left.
    let domains = 11;
    stage.settled(before + 4 * domains + 2);
}

/// A worker that lies every time is not started for ever: its domain is given up, with the reason.
#[test]
fn a_domain_of_liars_is_given_up() {
    let mut stage = Stage::new();
    let others = stage.recipe_in(OTHER);
    let (_, theirs) = stage.open_in(OTHER, &others);
    stage.next_is(true);
    let asked = json!({"op": "worker", "domain": DOMAIN});
    let id = stage.daemon.control.send(asked, Vec::new());
    for number in 0..5 {
        let mut evil = stage.hostile();
        if number == 0 {
            evil.begin();
            stage.daemon.control.wait(id).unwrap();
        }
        let part = [Input::from(&b"{"[..])];
        socket::send(evil.control.as_fd(), &part, None, false).unwrap();
    }
    let why = loop {
        let status = stage.daemon.status();
        if let Some(why) = status["given_up"][DOMAIN].as_str() {
            break why.to_owned();
        }
        std::thread::yield_now();
    };
    assert!(why.contains("it sent a packet that is no JSON"), "{why}");
    call(&theirs, Op::Digest, b"x").unwrap();
}

/// Ends that a worker invents are bounded, and cost nobody else anything.
#[test]
fn a_flood_of_held_ends_has_an_end() {
    let mut stage = Stage::new();
    let others = stage.recipe_in(OTHER);
    let (_, theirs) = stage.open_in(OTHER, &others);
    let mut evil = stage.take(DOMAIN);
    stage.ask_session(DOMAIN, &others);
    let (sid, _end) = evil.serve();
    let hold = json!({"event": "hold", "sid": sid});
    // The same end is one end; what is no end of a session is none; one packet brings one.
    let (held, _other) = socket::pair().unwrap();
    let (stream, _) = UnixStream::pair().unwrap();
    for _ in 0..50 {
        evil.say(&hold, vec![held.try_clone().unwrap()]);
        evil.say(&hold, vec![memory(b"x")]);
        evil.say(&hold, vec![stream.try_clone().unwrap().into()]);
        let many = (0..packet::FDS).map(|_| socket::pair().unwrap().0);
        evil.say(&hold, many.collect());
        evil.say(&hold, vec![]);
    }
    evil.heard();
    assert_eq!(stage.ends(sid), 2);
    // A quarter of what the supervisor may have.
    let before = stage.descriptors();
    limit(stage.daemon.pid(), "nofile", 2048);
    for _ in 0..1500 {
        let (fd, _) = socket::pair().unwrap();
        evil.say(&hold, vec![fd]);
    }
    evil.heard();
    let ends = stage.ends(sid);
    assert!((512..=514).contains(&ends), "{ends}");
    stage.settled(before + 514);
    let (_, more) = stage.open_in(OTHER, &others);
    call(&more, Op::Digest, b"x").unwrap();
    call(&theirs, Op::Digest, b"x").unwrap();
    // And with the session all of it goes.
    stage
        .daemon
        .control
        .ask(json!({"op": "close", "sid": sid}))
        .unwrap();
    stage.settled(before + 4);
}

/// A worker that stops reading and answering is killed after two seconds; others do not wait for it.
#[test]
fn one_that_does_not_read_stops_nobody() {
    let mut stage = Stage::new();
    let others = stage.recipe_in(OTHER);
    let (_, theirs) = stage.open_in(OTHER, &others);
    let mut evil = stage.take(DOMAIN);
    stage.ask_session(DOMAIN, &others);
    evil.serve();
    // More than its socket takes: this waits in the supervisor, which does not.
    let waiting: Vec<u64> = (0..300)
        .map(|_| stage.ask_session(DOMAIN, &others))
        .collect();
    let (_, more) = stage.open_in(OTHER, &others);
    call(&more, Op::Digest, b"x").unwrap();
    call(&theirs, Op::Digest, b"x").unwrap();
    stage.taken_over(&evil);
    let fault = stage.fault(DOMAIN);
    assert!(fault.contains("did not answer"), "{fault}");
    // The next one serves all of them.
    for id in waiting {
        let (_, client) = stage.session(id);
        call(&client, Op::Digest, b"x").unwrap();
    }
}

/// A worker that answers whether it lives, and does nothing else: killed, and the next one does it.
#[test]
fn one_that_only_answers_pings_is_no_worker() {
    let mut stage = Stage::new();
    let own = stage.recipe_in(OTHER);
    let mut evil = stage.take(DOMAIN);
    let id = stage.ask_session(DOMAIN, &own);
    loop {
        let packet = evil.next();
        if packet.text("op").unwrap() == "ping" {
            evil.answer(&packet);
            break;
        }
    }
    let (_, client) = stage.session(id);
    call(&client, Op::Digest, b"x").unwrap();
    let fault = stage.fault(DOMAIN);
    assert!(fault.contains("what it was asked before"), "{fault}");
}

/// One that gave its socket to others, who write for ever: the supervisor listens to nobody after its end.
#[test]
fn a_socket_given_away_does_not_outlive_its_worker() {
    let mut stage = Stage::new();
    let own = stage.recipe_in(OTHER);
    let mut evil = stage.take(DOMAIN);
    stage.ask_session(DOMAIN, &own);
    evil.serve();
    let flood: Vec<_> = (0..4)
        .map(|_| {
            let accomplice = evil.control.try_clone().unwrap();
            std::thread::spawn(move || {
                // Reading one takes longer than writing the next.
                let long = json!({"event": "dream", "of": vec![7; 20_000]});
                let long = pack(&long, Vec::new()).unwrap();
                while long.send(accomplice.as_fd(), false).is_ok() {}
            })
        })
        .collect();
    kill(evil.pid);
    stage.taken_over(&evil);
    for thread in flood {
        thread.join().unwrap();
    }
}

/// A TCP socket of which close(2) takes an hour: it lingers, and its other end does not read.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sock = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    sock.set_nonblocking(true).unwrap();
    while sock.write(&[0; 1 << 16]).is_ok() {}
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 3600,
    };
    // SAFETY: a whole linger, of whose size the kernel is told.
    let set = unsafe {
        libc::setsockopt(
            sock.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of_val(&linger) as libc::socklen_t,
        )
    };
    assert_eq!(set, 0);
    (sock.into(), peer)
}

/// Descriptors whose last copy is the supervisor's, and which take an hour to close: others are served.
#[test]
fn what_takes_an_hour_to_close_stops_nobody() {
    let (mut socks, _peers): (Vec<_>, Vec<_>) = (0..9).map(|_| lingering()).unzip();
    let mut one = || socks.pop().unwrap();
    let mut stage = Stage::new();
    let others = stage.recipe_in(OTHER);
    let (_, theirs) = stage.open_in(OTHER, &others);
    let mut evil = stage.take(DOMAIN);
    let id = stage.ask_session(DOMAIN, &others);
    let (sid, end) = evil.serve();
    let (_, mut fds) = stage.daemon.control.wait(id).unwrap();
    let client = fds.pop().unwrap();
    // So that none of what is sent is closed there before it is closed here.
    stage.signal(libc::SIGSTOP);
    // No end of a session; too many; more than a packet brings; in the queue of what is an end.
    evil.say(&json!({"event": "hold", "sid": sid}), vec![one()]);
    evil.say(&json!({"event": "hold", "sid": sid}), vec![one(), one()]);
    evil.say(&json!({"event": "dream"}), vec![one()]);
    for sid in [sid, sid + 1000] {
        let (there, here) = socket::pair().unwrap();
        let sock = one();
        socket::send(
            here.as_fd(),
            &[Input::from(b"x")],
            Some(sock.as_fd()),
            false,
        )
        .unwrap();
        evil.say(&json!({"event": "hold", "sid": sid}), vec![there]);
    }
    // What a client has sent and no worker read.
    let sock = one();
    socket::send(
        client.as_fd(),
        &[Input::from(b"x")],
        Some(sock.as_fd()),
        false,
    )
    .unwrap();
    drop((sock, client, end));
    stage.signal(libc::SIGCONT);
    evil.heard();
    call(&theirs, Op::Digest, b"x").unwrap();
    assert!(stage.ends(sid) >= 2);
    let close = json!({"op": "close", "sid": sid});
    stage.daemon.control.ask(close).unwrap();
    assert_eq!(stage.ends(sid), 0);
    // What the worker puts where a client would read, if it did not refuse the session.
    let id = stage.ask_session(DOMAIN, &others);
    let asked = loop {
        let packet = evil.next();
        match packet.text("op").unwrap() {
            "serve" => break packet,
            _ => evil.answer(&packet),
        }
    };
    let sock = one();
    let end = asked.fds[0].as_fd();
    socket::send(end, &[Input::from(b"x")], Some(sock.as_fd()), false).unwrap();
    drop(sock);
    let refused = json!([{"sid": asked.object["sessions"][0]["sid"], "errno": 5, "error": "no"}]);
    evil.say(
        &json!({"id": asked.object["id"], "ok": {"refused": refused}}),
        vec![],
    );
    drop(asked);
    assert_eq!(errno(stage.daemon.control.wait(id)), 5);
    // With garbage, and at its end.
    stage.signal(libc::SIGSTOP);
    let sock = one();
    let fds = [sock.as_fd(); packet::FDS];
    socket::send_many(evil.control.as_fd(), &[Input::from(b"{")], &fds, false).unwrap();
    drop(sock);
    stage.signal(libc::SIGCONT);
    stage.taken_over_or_gone(&evil);
    let (_, more) = stage.open_in(OTHER, &others);
    call(&more, Op::Digest, b"x").unwrap();
}

/// A worker that talks without end is heard in turn with others.
#[test]
fn a_flood_of_notices_stops_nobody() {
    let mut stage = Stage::new();
    let others = stage.recipe_in(OTHER);
    let evil = stage.take(DOMAIN);
    let pid = evil.pid;
    let flood = std::thread::spawn(move || {
        let text = "x".repeat(packet::PACKET - 64);
        while evil.try_say(&json!({"event": "dream", "text": text}), Vec::new()) {}
    });
    for _ in 0..20 {
        let (_, client) = stage.open_in(OTHER, &others);
        call(&client, Op::Digest, b"x").unwrap();
    }
    kill(pid);
    flood.join().unwrap();
}

fn limit(pid: u32, what: &str, most: u64) {
    let done = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--{what}={most}:")])
        .status()
        .unwrap();
    assert!(done.success());
}

/// A supervisor without a free descriptor refuses what is new, and serves and takes over what is there.
#[test]
fn without_descriptors_what_is_there_goes_on() {
    for free in [0, 1, 2, 4, 8] {
        goes_on_with(free);
    }
}

/// What little is `free` may be taken by what could have waited.
fn goes_on_with(free: u64) {
    let mut stage = Stage::new();
    let own = stage.recipe_in(DOMAIN);
    let (_, mine) = stage.open_in(DOMAIN, &own);
    let right = call(&mine, Op::Digest, b"x").unwrap();
    while stage.daemon.status()["spare"].is_null() {
        std::thread::yield_now();
    }
    let few = stage.standing() as u64 - 1;
    limit(stage.daemon.pid(), "nofile", few + free);
    let asked = json!({"op": "session", "domain": DOMAIN, "recipe": own});
    if free == 0 {
        let refused = stage.daemon.control.ask(asked.clone());
        assert_eq!(errno(refused), libc::EMFILE);
    }
    // The first takeover has a spare worker, the others begin one, or find one that was begun since.
    for _ in 0..4 {
        let pid = stage.daemon.status()["workers"][0]["pid"].as_u64().unwrap();
        kill(pid as u32);
        let again = call(&mine, Op::Digest, b"x");
        assert_eq!(again.unwrap(), right, "{free} descriptors are free");
        stage.daemon.control.notice("worker");
    }
    limit(stage.daemon.pid(), "nofile", 1024);
    assert_eq!(errno(stage.daemon.control.ask(asked)), 0);
}

/// Whether the holder of the other end sees that it is over.
fn over(client: &OwnedFd) -> bool {
    let seen = socket::poll(client.as_fd(), libc::POLLIN, 0).unwrap();
    seen & libc::POLLHUP != 0
}

/// A clone is served by who was told of it, or by nobody: one that was under way when its session was closed
/// ends with it, and one that is not kept is not served either.
#[test]
fn an_end_that_is_not_kept_is_ended() {
    let mut stage = Stage::new();
    let own = stage.recipe_in(OTHER);
    let (others, theirs) = stage.open_in(OTHER, &own);
    let mut evil = stage.take(DOMAIN);
    let id = stage.ask_session(DOMAIN, &own);
    let (sid, _end) = evil.serve();
    let _client = stage.daemon.control.wait(id).unwrap();
    let (kept, client) = socket::pair().unwrap();
    evil.hold(sid, &kept);
    evil.hold(sid, &kept);
    let (strange, strangers) = socket::pair().unwrap();
    evil.hold(others, &strange);
    evil.heard();
    assert_eq!(stage.ends(sid), 2);
    assert!(!over(&client), "what is known is told twice");
    assert!(over(&strangers), "a session of another domain");
    stage
        .daemon
        .control
        .ask(json!({"op": "close", "sid": sid}))
        .unwrap();
    assert!(over(&client));
    let (late, client) = socket::pair().unwrap();
    evil.hold(sid, &late);
    evil.heard();
    stage.daemon.status();
    assert!(over(&client), "a clone of a session that is closed");
    // Beyond a domain's part of all descriptors.
    let id = stage.ask_session(DOMAIN, &own);
    let (sid, _end) = evil.serve();
    let _client = stage.daemon.control.wait(id).unwrap();
    limit(stage.daemon.pid(), "nofile", 256);
    let clones: Vec<_> = (0..100).map(|_| socket::pair().unwrap()).collect();
    for (held, _) in &clones {
        evil.hold(sid, held);
    }
    evil.heard();
    let kept = stage.ends(sid) as usize - 1;
    let living = clones.iter().filter(|(_, client)| !over(client)).count();
    assert_eq!(living, kept);
    assert!(kept < clones.len());
    call(&theirs, Op::Digest, b"x").unwrap();
}

impl Stage {
    /// Asks that a domain's worker be replaced, by one that this test is and that is not ready.
    fn replace(&mut self, domain: &str) -> (u64, Hostile) {
        self.next_is(true);
        let asked = json!({"op": "replace", "domain": domain});
        let id = self.daemon.control.send(asked, Vec::new());
        let hostile = self.hostile();
        self.next_is(false);
        (id, hostile)
    }

    /// A session of a domain whose worker is to be replaced, what it answers, and its worker's pid.
    fn served(&mut self) -> (Client, Vec<u8>, u32) {
        let own = self.recipe_in(DOMAIN);
        let (_, client) = self.open_in(DOMAIN, &own);
        let right = call(&client, Op::Digest, b"x").unwrap();
        (client, right, self.daemon.worker(DOMAIN).1)
    }
}

/// A planned replacement whose fresh worker is never ready, or dies: the old one goes on, with all that was
/// asked for meanwhile, and whoever asked for the replacement is told.
#[test]
fn a_replacement_that_fails_costs_nobody_anything() {
    for dies in [true, false] {
        let mut stage = Stage::new();
        let (client, right, pid) = stage.served();
        let (id, evil) = stage.replace(DOMAIN);
        let asked = json!({"op": "worker", "domain": DOMAIN});
        let waiting = stage.daemon.control.send(asked, Vec::new());
        assert_eq!(call(&client, Op::Digest, b"x").unwrap(), right);
        // Otherwise the supervisor does that, after five seconds.
        if dies {
            kill(evil.pid);
        }
        assert_eq!(errno(stage.daemon.control.wait(id)), libc::EIO);
        let (ok, fds) = stage.daemon.control.wait(waiting).unwrap();
        assert_eq!(ok["pid"], json!(pid));
        generate(
            &mut Channel::new(fds.into_iter().next().unwrap()),
            "gcm(aes)",
            &["encrypt"],
        );
        assert_eq!(call(&client, Op::Digest, b"x").unwrap(), right);
        assert_eq!(stage.daemon.worker(DOMAIN).1, pid);
        // Nothing of it is left: it can be asked again, and the program run anew.
        let again = json!({"op": "replace", "domain": DOMAIN});
        stage.daemon.control.ask(again).unwrap();
        stage.daemon.control.ask(json!({"op": "reexec"})).unwrap();
        assert_eq!(call(&client, Op::Digest, b"x").unwrap(), right);
    }
}

/// A program that cannot be run anew says so, and its broker is heard as before.
#[test]
fn a_program_that_cannot_be_run_anew_goes_on() {
    let mut stage = Stage::new();
    let (client, right, _) = stage.served();
    let program = stage.daemon.folder.0.join("cryptofd-daemon");
    std::fs::remove_file(&program).unwrap();
    std::fs::create_dir(&program).unwrap();
    for _ in 0..2 {
        let refused = stage.daemon.control.ask(json!({"op": "reexec"}));
        assert_eq!(errno(refused), libc::EACCES);
        stage.daemon.status();
    }
    std::fs::remove_dir(&program).unwrap();
    stage.next_is(false);
    // Nor is one deaf that was busy for too long: a worker goes on with what it began.
    let own = stage.recipe_in(DOMAIN);
    let (_, begun) = stage.open_in(DOMAIN, &own);
    call(&begun, Op::Update, b"x").unwrap();
    let asked = json!({"op": "replace", "domain": DOMAIN});
    let replaced = stage.daemon.control.send(asked, Vec::new());
    stage.daemon.control.notice("worker");
    let refused = stage.daemon.control.ask(json!({"op": "reexec"}));
    assert_eq!(errno(refused), libc::EBUSY);
    stage.daemon.status();
    call(&begun, Op::Finish, b"").unwrap();
    stage.daemon.control.wait(replaced).unwrap();
    stage.daemon.control.ask(json!({"op": "reexec"})).unwrap();
    assert_eq!(call(&client, Op::Digest, b"x").unwrap(), right);
}

/// One that hangs when another comes in its place is not waited for as one that finishes its streams.
#[test]
fn one_that_hangs_while_it_leaves_is_ended() {
    let mut stage = Stage::new();
    let own = stage.recipe_in(OTHER);
    let mut evil = stage.take(DOMAIN);
    let id = stage.ask_session(DOMAIN, &own);
    evil.serve();
    let (_, mut fds) = stage.daemon.control.wait(id).unwrap();
    let asked = json!({"op": "replace", "domain": DOMAIN});
    let replaced = stage.daemon.control.send(asked, Vec::new());
    while evil.next().text("op").unwrap() != "drain" {}
    // Twenty seconds are the most that is waited for here: a stream would have thirty.
    stage.daemon.control.wait(replaced).unwrap();
    let client = Client::adopt(fds.pop().unwrap(), &mut never).unwrap();
    call(&client, Op::Digest, b"x").unwrap();
}

/// What a worker is given needs no room in the supervisor while it waits: with hardly a descriptor more than
/// its sessions have, all of them are taken over.
#[test]
fn a_takeover_needs_no_descriptor_a_session() {
    const MANY: usize = 400;
    let mut stage = Stage::new();
    let own = stage.recipe_in(OTHER);
    let evil = stage.take(DOMAIN);
    // Two for a session that is not answered yet, and what a takeover needs.
    let before = stage.descriptors();
    limit(stage.daemon.pid(), "nofile", (before + 2 * MANY + 8) as u64);
    let waiting: Vec<u64> = (0..MANY).map(|_| stage.ask_session(DOMAIN, &own)).collect();
    stage.daemon.status();
    kill(evil.pid);
    let clients: Vec<Client> = waiting.into_iter().map(|id| stage.session(id).1).collect();
    let right = call(&clients[0], Op::Digest, b"x").unwrap();
    stage.settled(before + MANY + 8);
    // Now one for each.
    limit(stage.daemon.pid(), "nofile", (before + MANY + 16) as u64);
    for _ in 0..2 {
        let pid = stage.daemon.worker(DOMAIN).1;
        kill(pid);
        for client in &clients {
            assert_eq!(call(client, Op::Digest, b"x").unwrap(), right);
        }
    }
}

/// Where no worker can be started, one of the program before is better than none.
#[test]
fn an_outdated_spare_worker_is_better_than_none() {
    let mut stage = Stage::new();
    let (client, right, pid) = stage.served();
    let spare = loop {
        if let Some(pid) = stage.daemon.status()["spare"].as_u64() {
            break pid;
        }
        std::thread::yield_now();
    };
    let program = stage.daemon.folder.0.join("cryptofd-daemon");
    std::fs::remove_file(&program).unwrap();
    std::fs::create_dir(&program).unwrap();
    kill(pid);
    assert_eq!(call(&client, Op::Digest, b"x").unwrap(), right);
    assert_eq!(u64::from(stage.daemon.worker(DOMAIN).1), spare);
}
