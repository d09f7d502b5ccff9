//! The fd's contract between processes: fork, SCM_RIGHTS, a full table, signals, descriptors closed behind
//! the library's back. One test per process state, each in a child of its own.

mod common;

use common::*;
use cryptofd_core::client::{self, Client};
use cryptofd_core::record::{Op, Request};
use cryptofd_core::serve::serve;
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::sys::socket::{self, Take};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Mutex;

/// A fork copies the state of every test that runs: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// Runs `f` in a forked child; it must return true.
fn in_child(f: impl FnOnce() -> bool) {
    wait_for(start_child(f));
}

fn start_child(f: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child runs `f` and leaves by _exit.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // A child that hangs is a failure, not a hanging test.
        // SAFETY: no memory is involved.
        unsafe { libc::alarm(60) };
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(false);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    child
}

fn wait_for(child: i32) {
    let mut status = 0;
    // SAFETY: room for a status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child failed");
}

fn digest(client: &Client) -> bool {
    client
        .call(&Request::with(Op::Digest, b"abc"), &mut never)
        .is_ok_and(|digest| digest == once("sha256", b"abc"))
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_child_uses_its_parents_session_and_serves_its_own() {
    let _alone = alone();
    let client = adopt("sha256", None);
    assert!(digest(&client));
    in_child(|| digest(&client) && digest(&adopt("sha256", None)));
    assert!(digest(&client));
    // And a grandchild.
    in_child(|| {
        let own = adopt("sha256", None);
        in_child(|| digest(&client) && digest(&own) && digest(&adopt("sha256", None)));
        digest(&own)
    });
}

#[test]
fn pollhup_when_the_serving_parent_dies_though_its_child_lives() {
    let _alone = alone();
    let (ours, theirs) = socket::pair().unwrap();
    // The server hands its descriptor over, forks a child that lives on, and dies.
    let server = start_child(|| {
        let fd = serve(open("sha256", None)).unwrap();
        let packet = [1u8];
        socket::send(
            theirs.as_fd(),
            &[Input::from(&packet)],
            Some(fd.as_fd()),
            false,
        )
        .unwrap();
        drop(fd);
        let lives = start_child(|| {
            std::thread::sleep(std::time::Duration::from_secs(20));
            true
        });
        let mut byte = [0];
        socket::send(
            theirs.as_fd(),
            &[Input::from(&lives.to_le_bytes())],
            None,
            false,
        )
        .unwrap();
        socket::receive(theirs.as_fd(), &mut [&mut byte], Take::Whole, false).is_ok()
    });
    let mut got = [0; 4];
    let fd = socket::receive(ours.as_fd(), &mut [&mut got], Take::Whole, false)
        .unwrap()
        .fds
        .remove(0);
    socket::receive(ours.as_fd(), &mut [&mut got], Take::Whole, false).unwrap();
    let client = Client::adopt(fd, &mut never).unwrap();
    assert!(digest(&client));
    socket::send(ours.as_fd(), &[Input::from(&[1])], None, false).unwrap();
    wait_for(server);
    let seen = socket::poll(client.as_fd(), libc::POLLIN, 5000).unwrap();
    assert_ne!(seen & libc::POLLHUP, 0, "{seen:#x}");
    let error = client
        .call(&Request::new(Op::Info), &mut never)
        .unwrap_err();
    assert_eq!(error.errno(), libc::EPIPE);
    // SAFETY: our own grandchild.
    unsafe { libc::kill(i32::from_le_bytes(got), libc::SIGKILL) };
}

#[test]
fn forks_while_threads_serve() {
    let _alone = alone();
    let clients: Vec<Client> = (0..4).map(|_| adopt("sha256", None)).collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert!(digest(client));
                }
            });
        }
        for _ in 0..50 {
            // What is tested is that the fork's handlers come back, in both.
            in_child(|| true);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_full_table_is_emfile_and_nothing_leaks() {
    let _alone = alone();
    in_child(|| {
        let client = adopt("sha256", None);
        let most = 64;
        let limit = libc::rlimit {
            rlim_cur: most,
            rlim_max: most,
        };
        // SAFETY: a whole rlimit.
        let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
        assert_eq!(set, 0);
        let before = open_fds();
        let mut filler = Vec::new();
        while let Ok(end) = client.duplicate() {
            filler.push(end);
        }
        // Nothing free: no session, no clone, no attached payload; what needs no descriptor works.
        let session = open("sha256", None);
        assert_eq!(serve(session.clone()).unwrap_err().errno(), libc::EMFILE);
        let error = client.try_clone(&mut never).map(drop).unwrap_err();
        assert_eq!(error.errno(), libc::EMFILE);
        let large = vec![0; 1 << 20];
        let error = client
            .call(&Request::with(Op::Digest, &large), &mut never)
            .unwrap_err();
        assert_eq!(error.errno(), libc::EMFILE);
        assert!(digest(&client));
        // One free: a clone needs a pair.
        filler.pop();
        let error = client.try_clone(&mut never).map(drop).unwrap_err();
        assert_eq!(error.errno(), libc::EMFILE);
        assert!(digest(&client));
        filler.clear();
        for _ in 0..200 {
            drop(client.try_clone(&mut never).unwrap());
            drop(serve(session.clone()).unwrap());
            client
                .call(&Request::with(Op::Digest, &large), &mut never)
                .unwrap();
        }
        // The serving ends go when their threads see the end.
        for _ in 0..500 {
            if open_fds() <= before {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        false
    });
}

#[test]
fn a_clone_passed_to_another_process() {
    let _alone = alone();
    let (ours, theirs) = socket::pair().unwrap();
    let child = start_child(|| {
        let mut byte = [0];
        let got = socket::receive(theirs.as_fd(), &mut [&mut byte], Take::Whole, false);
        let fd = got.unwrap().fds.remove(0);
        digest(&Client::adopt(fd, &mut never).unwrap())
    });
    let clone = adopt("sha256", None).try_clone(&mut never).unwrap();
    socket::send(
        ours.as_fd(),
        &[Input::from(&[1])],
        Some(clone.as_fd()),
        false,
    )
    .unwrap();
    wait_for(child);
}

#[test]
fn descriptors_closed_behind_our_back_are_never_touched() {
    let _alone = alone();
    in_child(|| {
        let client = adopt("sha256", None);
        assert!(digest(&client));
        // Another's file takes every number that we had.
        // SAFETY: no memory is involved; what was ours is checked below.
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
        std::mem::forget(client.into_fd());
        let mut theirs = Vec::new();
        for _ in 0..40 {
            theirs.push(memfd(b"theirs"));
        }
        // A fresh pool begins, beside them.
        let fresh = adopt("sha256", None);
        let works = digest(&fresh);
        in_child(|| digest(&fresh));
        drop(fresh);
        std::thread::sleep(std::time::Duration::from_millis(100));
        works
            && theirs.iter().all(|fd| {
                // SAFETY: only asks what the number is.
                unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) >= 0 }
            })
    });
}

extern "C" fn nothing(_signal: i32) {}

#[test]
fn a_signal_is_eintr_and_a_call_goes_on_if_told_so() {
    let _alone = alone();
    in_child(|| {
        // SAFETY: a handler that does nothing, without SA_RESTART; timers of this child.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(i32) as libc::sighandler_t;
            libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
            let every = libc::itimerval {
                it_interval: libc::timeval {
                    tv_sec: 0,
                    tv_usec: 5000,
                },
                it_value: libc::timeval {
                    tv_sec: 0,
                    tv_usec: 5000,
                },
            };
            libc::setitimer(libc::ITIMER_REAL, &raw const every, std::ptr::null_mut());
        }
        let fd = serve(open("sha256", None)).unwrap();
        let error = client::take(fd.as_fd(), 32, false).unwrap_err();
        assert_eq!(error.errno(), libc::EINTR);
        let kdf = Client::new(serve(open("pbkdf2(hmac(sha256))", Some(b"x"))).unwrap());
        let slow = Request {
            params: cryptofd_core::record::Params {
                length: Some(32),
                iterations: Some(300_000),
                ..Default::default()
            },
            ..Request::new(Op::Derive)
        };
        let mut signals = 0;
        let done = kdf.call(&slow, &mut || {
            signals += 1;
            Ok(())
        });
        assert_eq!(done.unwrap().len(), 32);
        assert!(signals > 0);
        // Told to stop, it stops; the late answer disturbs nobody.
        let stopped = kdf.call(&slow, &mut || Err(cryptofd_core::Error::refused("stop")));
        assert_eq!(stopped.unwrap_err().errno(), libc::EPERM);
        kdf.call(&Request::new(Op::Info), &mut never)
            .unwrap()
            .starts_with(b"{")
    });
}

#[test]
fn the_threads_are_named_and_deaf() {
    let _alone = alone();
    let client = adopt("sha256", None);
    assert!(digest(&client));
    let mut seen = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with("cfd-serve-") {
            let status = std::fs::read_to_string(path.join("status")).unwrap();
            let blocked = status.lines().find(|l| l.starts_with("SigBlk:")).unwrap();
            let blocked = u64::from_str_radix(blocked[7..].trim(), 16).unwrap();
            for signal in [libc::SIGALRM, libc::SIGTERM, libc::SIGCHLD, libc::SIGUSR1] {
                assert_ne!(blocked & 1 << (signal - 1), 0, "{signal}");
            }
            seen += 1;
        }
    }
    assert!((1..=4).contains(&seen));
}
