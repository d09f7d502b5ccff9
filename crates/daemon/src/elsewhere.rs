//! Closing what others gave us, in threads of their own: the supervisor waits for nobody.
//!
//! close(2) of another's descriptor may take as long as its owner likes: a TCP socket that lingers, a file whose
//! file system he serves himself, a Unix socket in whose queue such things lie.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex};

/// Threads at most; each may be held up by one descriptor.
const MOST: usize = 64;

struct Closing {
    waiting: VecDeque<OwnedFd>,
    /// Threads, and how many of them have nothing to close.
    threads: usize,
    idle: usize,
}

static CLOSING: Mutex<Closing> = Mutex::new(Closing {
    waiting: VecDeque::new(),
    threads: 0,
    idle: 0,
});
static MORE: Condvar = Condvar::new();

/// Closes it soon.
pub fn close(fd: OwnedFd) {
    let mut closing = CLOSING.lock().unwrap_or_else(|e| e.into_inner());
    closing.waiting.push_back(fd);
    if closing.waiting.len() > closing.idle && closing.threads < MOST {
        let started = std::thread::Builder::new()
            .name("closing".into())
            .stack_size(64 << 10)
            .spawn(run);
        match started {
            Ok(_) => closing.threads += 1,
            // Nobody else will: then it is waited for.
            Err(_) if closing.threads == 0 => {
                let fd = closing.waiting.pop_back();
                drop(closing);
                drop(fd);
                return;
            }
            Err(_) => {}
        }
    }
    drop(closing);
    MORE.notify_one();
}

/// The same of many.
pub fn close_all(fds: Vec<OwnedFd>) {
    fds.into_iter().for_each(close);
}

fn run() {
    let mut closing = CLOSING.lock().unwrap_or_else(|e| e.into_inner());
    loop {
        match closing.waiting.pop_front() {
            Some(fd) => {
                drop(closing);
                drop(fd);
                closing = CLOSING.lock().unwrap_or_else(|e| e.into_inner());
            }
            None => {
                closing.idle += 1;
                closing = MORE.wait(closing).unwrap_or_else(|e| e.into_inner());
                closing.idle -= 1;
            }
        }
    }
}

/// A descriptor in whose queue others may have put what they like.
pub struct Foreign(Option<OwnedFd>);

impl Foreign {
    /// For a descriptor that is closed elsewhere when this is dropped.
    pub fn new(fd: OwnedFd) -> Foreign {
        Foreign(Some(fd))
    }

    /// The descriptor, to be given away.
    pub fn take(mut self) -> Option<OwnedFd> {
        self.0.take()
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0
            .as_ref()
            .expect("it is there until it is dropped")
            .as_fd()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(fd) = self.0.take() {
            close(fd);
        }
    }
}
