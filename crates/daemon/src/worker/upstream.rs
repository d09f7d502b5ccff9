//! Whom a worker talks to: the supervisor on its control socket, the broker on its channel.

use crate::packet::{Outgoing, pack};
use cryptofd_core::error::{Error, Result};
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::sys::socket;
use serde_json::{Value, json};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How often refusals are reported at most; those between are counted.
const REPORTS: Duration = Duration::from_millis(100);

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Both of them.
pub struct Upstream {
    supervisor: OwnedFd,
    broker: Mutex<Option<Arc<OwnedFd>>>,
    refusals: Mutex<(Option<Instant>, u64)>,
}

impl Upstream {
    /// On the control socket `supervisor`; the broker's channel comes later.
    pub fn new(supervisor: OwnedFd) -> Upstream {
        Upstream {
            supervisor,
            broker: Mutex::new(None),
            refusals: Mutex::new((None, 0)),
        }
    }

    /// The control socket.
    pub fn supervisor(&self) -> &OwnedFd {
        &self.supervisor
    }

    /// Tells the supervisor; waits until there is room.
    pub fn tell(&self, object: &Value, fds: Vec<OwnedFd>) -> Result<()> {
        put(&pack(object, fds)?, &self.supervisor)
    }

    /// The same with a short object that is text already, and descriptors that stay the caller's.
    pub fn tell_text(&self, object: &str, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let part = [Input::from(object.as_bytes())];
        patiently(|| socket::send_many(self.supervisor.as_fd(), &part, fds, false).map(drop))
    }

    /// The broker's channel from now on.
    pub fn set_broker(&self, channel: Option<Arc<OwnedFd>>) {
        *lock(&self.broker) = channel;
    }

    /// The broker's channel.
    pub fn broker(&self) -> Option<Arc<OwnedFd>> {
        lock(&self.broker).clone()
    }

    /// Tells the broker, if there is one, without waiting for it.
    pub fn ask(&self, object: &Value) {
        if let (Some(channel), Ok(packet)) = (self.broker(), pack(object, Vec::new())) {
            let _ = packet.send(channel.as_fd(), true);
        }
    }

    /// Reports a refusal for the audit, not more often than anybody reads.
    pub fn refused(&self, sid: u64, op: &str, error: &Error) {
        let number = {
            let mut refusals = lock(&self.refusals);
            refusals.1 += 1;
            if refusals.0.is_some_and(|last| last.elapsed() < REPORTS) {
                return;
            }
            refusals.0 = Some(Instant::now());
            std::mem::take(&mut refusals.1)
        };
        self.ask(&json!({
            "event": "refused", "sid": sid, "op": op, "errno": error.errno(),
            "error": error.message(), "number": number,
        }));
    }
}

/// Sends, waiting for room.
pub fn put(packet: &Outgoing, fd: &OwnedFd) -> Result<()> {
    patiently(|| packet.send(fd.as_fd(), false))
}

fn patiently(send: impl Fn() -> io::Result<()>) -> Result<()> {
    loop {
        match send() {
            Ok(()) => return Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // Descriptors on their way that nobody has taken yet, or memory: it gets better.
                Some(libc::ETOOMANYREFS | libc::ENOBUFS | libc::ENOMEM) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                errno => {
                    let errno = errno.unwrap_or(libc::EIO);
                    return Err(Error::system(errno, "the other side of a control socket"));
                }
            },
        }
    }
}
