//! The worker dies, hangs or is replaced, the supervisor runs itself anew, and nobody's answer is lost.

mod common;

use common::*;
use cryptofd_core::client::Client;
use cryptofd_core::engine::Direction;
use cryptofd_core::record::{Op, Params, Request};
use serde_json::{Value, json};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn hmac_key(daemon: &mut Daemon) -> (Channel, u32, Value) {
    let (mut worker, pid) = daemon.worker(DOMAIN);
    let made = generate(&mut worker, "hmac(sha256)", &["sign", "verify"]);
    (worker, pid, recipe(&made))
}

/// Waits for the next worker and returns its pid.
fn next_worker(daemon: &mut Daemon, before: u32) -> u32 {
    let event = daemon.control.notice("worker");
    let pid = event.number("pid").unwrap() as u32;
    assert_ne!(pid, before);
    assert_eq!(event.fds.len(), 1);
    pid
}

#[test]
fn a_killed_workers_sessions_go_on() {
    let mut daemon = Daemon::start();
    let (_worker, pid, recipe) = hmac_key(&mut daemon);
    let client = daemon.open(recipe).unwrap();
    let clone = client.try_clone(&mut never).unwrap();
    let right = call(&client, Op::Digest, b"x").unwrap();
    kill(pid);
    assert_eq!(call(&client, Op::Digest, b"x").unwrap(), right);
    assert_eq!(call(&clone, Op::Digest, b"x").unwrap(), right);
    let second = next_worker(&mut daemon, pid);
    kill(second);
    assert_eq!(call(&clone, Op::Digest, b"x").unwrap(), right);
    assert_eq!(call(&client, Op::Digest, b"x").unwrap(), right);
    next_worker(&mut daemon, second);
    let info: Value = serde_json::from_slice(&call(&client, Op::Info, b"").unwrap()).unwrap();
    assert_eq!(info["epoch"], json!(3));
}

#[test]
fn a_hanging_worker_is_ended_and_taken_over() {
    let mut daemon = Daemon::start();
    let (_worker, pid, recipe) = hmac_key(&mut daemon);
    let client = daemon.open(recipe).unwrap();
    let right = call(&client, Op::Digest, b"x").unwrap();
    // SAFETY: a worker of this test's own supervisor.
    assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGSTOP) }, 0);
    assert_eq!(call(&client, Op::Digest, b"x").unwrap(), right);
    next_worker(&mut daemon, pid);
}

#[test]
fn what_ran_is_lost_with_its_worker_and_says_so() {
    let mut daemon = Daemon::start();
    let (mut worker, pid, recipe_) = hmac_key(&mut daemon);
    let made = generate(&mut worker, "cbc(aes)", &["encrypt"]);
    let hash = daemon.open(recipe_).unwrap();
    let cipher = daemon.open(recipe(&made)).unwrap();
    let begin = Request {
        iv: &[3; 16],
        params: Params {
            direction: Some(Direction::Encrypt),
            ..Params::default()
        },
        ..Request::new(Op::StreamBegin)
    };
    call(&hash, Op::Update, b"lost").unwrap();
    cipher.call(&begin, &mut never).unwrap();
    kill(pid);
    for op in [Op::Update, Op::Finish, Op::Peek] {
        let data: &[u8] = if op == Op::Update { b"x" } else { b"" };
        assert_eq!(errno(call(&hash, op, data)), libc::ESTALE, "{}", op.name());
    }
    assert_eq!(
        errno(call(&cipher, Op::StreamUpdate, &[1; 16])),
        libc::ESTALE
    );
    // A one-shot request needs nothing that was lost; a fresh beginning neither.
    assert_eq!(call(&hash, Op::Digest, b"abc").unwrap().len(), 32);
    call(&hash, Op::Reset, b"").unwrap();
    call(&hash, Op::Update, b"abc").unwrap();
    let whole = call(&hash, Op::Digest, b"abc").unwrap();
    assert_eq!(call(&hash, Op::Finish, b"").unwrap(), whole);
    cipher.call(&begin, &mut never).unwrap();
    assert_eq!(call(&cipher, Op::StreamUpdate, &[1; 16]).unwrap().len(), 16);
}

/// Five deaths within ten seconds: the domain is given up, its holders see POLLHUP, and the reason stays.
#[test]
fn a_worker_that_keeps_dying_is_given_up() {
    let mut daemon = Daemon::start();
    let (_worker, mut pid, recipe) = hmac_key(&mut daemon);
    let client = daemon.open(recipe).unwrap();
    for _ in 0..4 {
        kill(pid);
        pid = next_worker(&mut daemon, pid);
    }
    kill(pid);
    assert_eq!(errno(call(&client, Op::Digest, b"x")), libc::EPIPE);
    let status = daemon.status();
    let why = status["given_up"][DOMAIN].as_str().unwrap();
    assert!(why.contains("five workers died"), "{why}");
    let again = daemon
        .control
        .ask(json!({"op": "worker", "domain": DOMAIN}));
    assert_eq!(errno(again), libc::ENODEV);
    // Others are not touched.
    daemon.worker("uid:1001");
}

struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<u64>>,
}

/// Threads that ask without end, each on its own session, one at a time and many in flight.
fn load(daemon: &mut Daemon, recipe: &Value, threads: usize) -> Load {
    let stop = Arc::new(AtomicBool::new(false));
    let started = Arc::new(AtomicU64::new(0));
    let threads = (0..threads)
        .map(|number| {
            let client = daemon.open(recipe.clone()).unwrap();
            let stop = stop.clone();
            let started = started.clone();
            std::thread::spawn(move || {
                let mut done = 0u64;
                let mut first = true;
                while !stop.load(Ordering::Relaxed) {
                    done += if number % 2 == 0 {
                        one_by_one(&client, number, done)
                    } else {
                        in_flight(&client, number, done)
                    };
                    if std::mem::take(&mut first) {
                        started.fetch_add(1, Ordering::Relaxed);
                    }
                }
                done
            })
        })
        .collect::<Vec<_>>();
    while started.load(Ordering::Relaxed) < threads.len() as u64 {
        std::thread::yield_now();
    }
    Load { stop, threads }
}

impl Load {
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|t| t.join().unwrap()).sum()
    }
}

fn message(number: usize, count: u64) -> Vec<u8> {
    let size = 16 + (count as usize * 977) % 5000;
    let mut data = vec![number as u8; size];
    data[..8].copy_from_slice(&count.to_le_bytes());
    // Now and then one that travels in a memfd.
    if count % 97 == 96 {
        data.resize(100_000, 1);
    }
    data
}

/// Seals, unseals, compares.
fn one_by_one(client: &Client, number: usize, count: u64) -> u64 {
    let data = message(number, count);
    let sealed = call(client, Op::Seal, &data).unwrap();
    assert_eq!(call(client, Op::Unseal, &sealed).unwrap(), data);
    2
}

/// Many at once: every answer once, in the order of the requests.
fn in_flight(client: &Client, number: usize, count: u64) -> u64 {
    let some: Vec<(Vec<u8>, u64)> = (0..16)
        .map(|n| {
            let data = message(number, count + n);
            let id = client
                .submit(&Request::with(Op::Seal, &data[..]), false, &mut never)
                .unwrap();
            (data, id)
        })
        .collect();
    let boxes: Vec<Vec<u8>> = some
        .iter()
        .map(|(data, id)| {
            let done = client.complete(false, &mut never).unwrap();
            assert_eq!(done.id, *id);
            let sealed = done.result().unwrap();
            assert_eq!(sealed.len(), data.len() + 29);
            sealed
        })
        .collect();
    assert_eq!(client.outstanding(), 0);
    assert_eq!(errno(client.complete(true, &mut never)), libc::EAGAIN);
    for ((data, _), sealed) in some.iter().zip(&boxes) {
        assert_eq!(&call(client, Op::Unseal, sealed).unwrap(), data);
    }
    32
}

fn gcm(daemon: &mut Daemon) -> (Channel, u32, Value) {
    let (mut worker, pid) = daemon.worker(DOMAIN);
    let made = generate(&mut worker, "gcm(aes)", &["encrypt", "decrypt"]);
    (worker, pid, recipe(&made))
}

/// Every answer is right, none is lost, none comes twice, whenever the worker is killed.
#[test]
fn under_load_no_answer_is_lost_and_none_comes_twice() {
    let mut daemon = Daemon::start();
    let (_worker, mut pid, recipe) = gcm(&mut daemon);
    let load = load(&mut daemon, &recipe, 6);
    for _ in 0..4 {
        kill(pid);
        pid = next_worker(&mut daemon, pid);
        // The fresh one has begun to serve.
        let probe = daemon.open(recipe.clone()).unwrap();
        call(&probe, Op::Seal, b"x").unwrap();
    }
    let done = load.end();
    eprintln!("{done} operations, 4 workers killed");
}

#[test]
fn a_planned_replacement_loses_nothing_not_even_streams() {
    let mut daemon = Daemon::start();
    let (mut worker, pid, recipe_) = gcm(&mut daemon);
    let made = generate(&mut worker, "cbc(aes)", &["encrypt"]);
    let cipher = daemon.open(recipe(&made)).unwrap();
    let begin = Request {
        iv: &[3; 16],
        params: Params {
            direction: Some(Direction::Encrypt),
            ..Params::default()
        },
        ..Request::new(Op::StreamBegin)
    };
    cipher.call(&begin, &mut never).unwrap();
    let load = load(&mut daemon, &recipe_, 4);
    let replaced = daemon
        .control
        .send(json!({"op": "replace", "domain": DOMAIN}), Vec::new());
    let second = next_worker(&mut daemon, pid);
    // The stream goes on with the old worker, which waits for it.
    assert_eq!(call(&cipher, Op::StreamUpdate, &[1; 32]).unwrap().len(), 32);
    let sealed = call(&daemon.open(recipe_.clone()).unwrap(), Op::Seal, b"x").unwrap();
    assert_eq!(sealed.len(), 30);
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    call(&cipher, Op::StreamFinish, b"").unwrap();
    daemon.control.wait(replaced).unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    let info: Value = serde_json::from_slice(&call(&cipher, Op::Info, b"").unwrap()).unwrap();
    assert_eq!(info["epoch"], json!(2));
    let done = load.end();
    eprintln!("{done} operations, one replacement");
    assert_eq!(daemon.status()["workers"][0]["pid"], json!(second));
}

#[test]
fn the_supervisor_runs_itself_anew_and_nobody_notices() {
    let mut daemon = Daemon::start();
    let (_worker, pid, recipe) = gcm(&mut daemon);
    let load = load(&mut daemon, &recipe, 4);
    for _ in 0..5 {
        daemon.control.ask(json!({"op": "reexec"})).unwrap();
    }
    let status = daemon.status();
    assert_eq!(status["supervisor"], json!(daemon.pid()));
    assert_eq!(status["workers"][0]["pid"], json!(pid));
    // It knows its children and its sessions: a takeover works as before.
    kill(pid);
    let second = next_worker(&mut daemon, pid);
    let client = daemon.open(recipe).unwrap();
    let clone = client.try_clone(&mut never).unwrap();
    daemon.control.ask(json!({"op": "reexec"})).unwrap();
    kill(second);
    call(&clone, Op::Seal, b"x").unwrap();
    let done = load.end();
    eprintln!("{done} operations, six re-executions, two workers killed");
    drop(client);
    drop(clone);
    // And lets go of what nobody holds.
    while daemon.status()["workers"][0]["sessions"] != json!(0) {
        std::thread::yield_now();
    }
}

/// The broker's work goes on with a fresh channel.
#[test]
fn hello_gives_the_channels_of_living_workers() {
    let mut daemon = Daemon::start();
    let (_worker, pid, recipe) = gcm(&mut daemon);
    let client = daemon.open(recipe).unwrap();
    let (hello, mut fds) = daemon.control.ask(json!({"op": "hello"})).unwrap();
    assert_eq!(hello["workers"][0]["pid"], json!(pid));
    assert_eq!(hello["workers"][0]["sessions"], json!(1));
    let mut fresh = Channel::new(fds.remove(0));
    fresh.ask(json!({"op": "ping"})).unwrap();
    generate(&mut fresh, "gcm(aes)", &["encrypt"]);
    call(&client, Op::Seal, b"x").unwrap();
}

/// How long a takeover is for those who wait: run with --ignored --nocapture, on a quiet machine.
#[test]
#[ignore = "a measurement"]
fn how_long_a_takeover_takes() {
    for number in [64, 1000] {
        let mut daemon = Daemon::start();
        let (_worker, mut pid, recipe) = gcm(&mut daemon);
        let clients: Vec<Client> = (0..number)
            .map(|_| daemon.open(recipe.clone()).unwrap())
            .collect();
        let mut all = Vec::new();
        for _ in 0..10 {
            for client in &clients {
                call(client, Op::Seal, b"x").unwrap();
            }
            let begin = std::time::Instant::now();
            kill(pid);
            let mut ids = Vec::new();
            for client in &clients {
                let id = client.submit(&Request::with(Op::Seal, b"x"), false, &mut never);
                ids.push(id.unwrap());
            }
            let mut last = std::time::Duration::ZERO;
            for client in &clients {
                client
                    .complete(false, &mut never)
                    .unwrap()
                    .result()
                    .unwrap();
                last = begin.elapsed();
                all.push(last);
            }
            pid = next_worker(&mut daemon, pid);
            eprintln!("  {number} sessions: the last after {last:?}");
            // Not five deaths in ten seconds.
            std::thread::sleep(std::time::Duration::from_millis(2600));
        }
        all.sort();
        let at = |part: f64| all[((all.len() - 1) as f64 * part) as usize];
        eprintln!("{number} sessions: p50 {:?} p99 {:?}", at(0.5), at(0.99));
    }
}

#[test]
#[ignore = "a measurement"]
fn how_long_a_request_takes() {
    let mut daemon = Daemon::start();
    let (_worker, _, recipe) = gcm(&mut daemon);
    let client = daemon.open(recipe).unwrap();
    for size in [64, 4096] {
        let data = vec![7; size];
        let mut all: Vec<_> = (0..20_000)
            .map(|_| {
                let begin = std::time::Instant::now();
                call(&client, Op::Seal, &data).unwrap();
                begin.elapsed()
            })
            .collect();
        all.sort();
        let at = |part: f64| all[((all.len() - 1) as f64 * part) as usize];
        eprintln!(
            "seal of {size} bytes: p50 {:?} p90 {:?} p99 {:?}",
            at(0.5),
            at(0.9),
            at(0.99)
        );
    }
    let _: OwnedFd = client.as_fd().try_clone_to_owned().unwrap();
}

/// Descriptors by their number alone, as C has them: a worker that has stopped takes nothing any more, and what
/// was sent then is for the next.
mod bare {
    use super::*;
    use cryptofd_core::client::{Completion, bare};
    use cryptofd_core::error::Result;
    use cryptofd_core::sys::socket;
    use std::os::fd::BorrowedFd;

    struct Stopped {
        daemon: Daemon,
        _worker: Channel,
        pid: u32,
        fd: OwnedFd,
        near: std::sync::Arc<cryptofd_core::Session>,
    }

    const KEY: [u8; 32] = [7; 32];

    fn begin() -> Stopped {
        let mut daemon = Daemon::start();
        let (mut worker, pid) = daemon.worker(DOMAIN);
        let wanted = attributes("hmac(sha256)", &["sign"]);
        let made = import(&mut worker, wanted, &KEY).unwrap();
        let (_, fd) = daemon.open_fd(recipe(&made)).unwrap();
        let near = cryptofd_core::Session::open(cryptofd_core::session::Request {
            algorithm: "hmac(sha256)".into(),
            key: cryptofd_core::engine::Key::Bytes(cryptofd_core::secret::Secret::new(&KEY)),
            ..Default::default()
        });
        Stopped {
            daemon,
            _worker: worker,
            pid,
            fd,
            near: near.unwrap(),
        }
    }

    fn digest(fd: BorrowedFd<'_>, id: u64, data: &[u8]) -> Result<()> {
        bare::submit(fd, id, &Request::with(Op::Digest, data))
    }

    /// Waits as a program that polls does.
    fn polled(fd: BorrowedFd<'_>) -> Completion {
        loop {
            match bare::complete(fd, 32) {
                Err(error) if error.errno() == libc::EAGAIN => {
                    socket::poll(fd, libc::POLLIN, -1).unwrap();
                }
                done => return done.unwrap(),
            }
        }
    }

    impl Stopped {
        fn right(&self, data: &[u8]) -> Vec<u8> {
            let mut tag = vec![0; 32];
            self.near.digest(data.into(), &mut tag).unwrap();
            tag
        }

        /// One digest: the epoch is known from then on.
        fn one(&self) {
            digest(self.fd.as_fd(), 7, b"x").unwrap();
            let done = bare::complete(self.fd.as_fd(), 32).unwrap();
            assert_eq!((done.id, done.status), (7, 0));
            assert_eq!(done.data, self.right(b"x"));
        }

        fn stop(&self) {
            // SAFETY: a worker of this test's own supervisor.
            assert_eq!(unsafe { libc::kill(self.pid as i32, libc::SIGSTOP) }, 0);
            let state = || {
                let path = format!("/proc/{}/task", self.pid);
                std::fs::read_dir(path).unwrap().all(|task| {
                    let stat = task.unwrap().path().join("stat");
                    let stat = std::fs::read_to_string(stat).unwrap();
                    stat.rsplit_once(')').unwrap().1.trim().starts_with('T')
                })
            };
            while !state() {
                std::thread::yield_now();
            }
        }

        fn kill(&mut self) {
            // SAFETY: as above; the supervisor may have found that it hangs, and ended it before.
            unsafe { libc::kill(self.pid as i32, libc::SIGKILL) };
            self.pid = next_worker(&mut self.daemon, self.pid);
        }

        /// Nothing waits, and nothing will come.
        fn quiet(&self) {
            socket::set_nonblocking(self.fd.as_fd(), true).unwrap();
            digest(self.fd.as_fd(), 99, b"y").unwrap();
            let done = polled(self.fd.as_fd());
            assert_eq!((done.id, done.data), (99, self.right(b"y")));
            assert_eq!(errno(bare::complete(self.fd.as_fd(), 32)), libc::EAGAIN);
        }
    }

    /// What the worker before had not read, whether its epoch was known or not: all with the same id.
    #[test]
    fn what_nobody_had_read_is_answered_once() {
        for known in [false, true] {
            let mut all = begin();
            let fd = all.fd.as_fd().try_clone_to_owned().unwrap();
            if known {
                all.one();
            }
            all.stop();
            let some: Vec<Vec<u8>> = (0..40).map(|n| message(3, n * 3)).collect();
            for data in &some {
                digest(fd.as_fd(), 5, data).unwrap();
            }
            all.kill();
            for data in &some {
                let done = bare::complete(fd.as_fd(), 32).unwrap();
                assert_eq!((done.id, done.status), (5, 0));
                assert_eq!(done.data, all.right(data));
            }
            all.quiet();
        }
    }

    /// The socket is full of what the fresh worker passes over, and the program waits for nothing but answers.
    #[test]
    fn a_full_socket_empties() {
        for known in [false, true] {
            let mut all = begin();
            let fd = all.fd.as_fd().try_clone_to_owned().unwrap();
            if known {
                all.one();
            }
            socket::set_nonblocking(fd.as_fd(), true).unwrap();
            all.stop();
            let mut sent = 0;
            loop {
                match digest(fd.as_fd(), sent, &message(4, sent)) {
                    Ok(()) => sent += 1,
                    Err(error) => break assert_eq!(error.errno(), libc::EAGAIN),
                }
            }
            all.kill();
            for n in 0..sent {
                let done = polled(fd.as_fd());
                assert_eq!((done.id, done.status), (n, 0));
                assert_eq!(done.data, all.right(&message(4, n)));
            }
            all.quiet();
        }
    }

    /// Another holder of the descriptor, a child perhaps, took the record that tells of the fresh worker.
    #[test]
    fn an_epoch_that_somebody_else_took_is_told_again() {
        let mut all = begin();
        all.one();
        all.kill();
        let mut record = [0; 64];
        let took = socket::receive(
            all.fd.as_fd(),
            &mut [&mut record],
            socket::Take::Whole,
            false,
        );
        assert_eq!((took.unwrap().length, record[3]), (64, 3));
        all.one();
        all.quiet();
    }

    /// More than is kept: those say so in their turn, and the others are answered.
    #[test]
    fn what_was_too_large_to_be_kept_is_stale() {
        let mut all = begin();
        let fd = all.fd.as_fd().try_clone_to_owned().unwrap();
        all.one();
        all.stop();
        let large = vec![1; cryptofd_core::record::ATTACHED];
        for id in 0..4 {
            digest(fd.as_fd(), id, if id == 1 { b"x" } else { &large }).unwrap();
        }
        all.kill();
        let statuses = [0, 0, libc::ESTALE, libc::ESTALE];
        for (id, status) in statuses.into_iter().enumerate() {
            let done = bare::complete(fd.as_fd(), 32).unwrap();
            let op = Op::Digest as u16;
            assert_eq!((done.id, done.op, done.status), (id as u64, op, status));
        }
        all.quiet();
    }

    /// One holder asks, another takes the answers: nothing is kept for ever, and a takeover is told.
    #[test]
    fn what_is_answered_elsewhere_is_not_kept() {
        let mut all = begin();
        let fd = all.fd.as_fd().try_clone_to_owned().unwrap();
        let taken_by_another = || {
            let mut record = [0; 1024];
            let parts = &mut [&mut record[..]];
            let took = socket::receive(fd.as_fd(), parts, socket::Take::Whole, false);
            assert_eq!((took.unwrap().length, record[3]), (64 + 32, 2));
        };
        for id in 0..5000 {
            digest(fd.as_fd(), id, b"x").unwrap();
            taken_by_another();
        }
        all.kill();
        assert_eq!(errno(bare::complete(fd.as_fd(), 32)), libc::ESTALE);
        all.one();
    }

    /// A clone's descriptor comes once, and nothing stays open.
    #[test]
    fn a_clone_is_made_once() {
        let mut all = begin();
        let fd = all.fd.as_fd().try_clone_to_owned().unwrap();
        all.stop();
        bare::submit(fd.as_fd(), 1, &Request::new(Op::Clone)).unwrap();
        digest(fd.as_fd(), 2, b"x").unwrap();
        all.kill();
        let done = bare::complete(fd.as_fd(), 0).unwrap();
        assert_eq!((done.id, done.status), (1, 0));
        let clone = done.fd.unwrap();
        // Too small a buffer: the answer stays.
        assert_eq!(errno(bare::complete(fd.as_fd(), 31)), libc::EMSGSIZE);
        assert_eq!(bare::peek(fd.as_fd()).unwrap().id, 2);
        assert_eq!(
            bare::complete(fd.as_fd(), 32).unwrap().data,
            all.right(b"x")
        );
        digest(clone.as_fd(), 3, b"z").unwrap();
        assert_eq!(
            bare::complete(clone.as_fd(), 32).unwrap().data,
            all.right(b"z")
        );
        let info = bare::info(fd.as_fd(), 4).unwrap();
        let info: Value = serde_json::from_slice(&info).unwrap();
        assert_eq!(info["epoch"], json!(2));
        all.quiet();
    }
}
