//! A worker started ahead of need: confined and tested, but without domain, epoch or key. It takes the place
//! of the next one that dies, so that a takeover does not wait for a program to begin.
//!
//! One for all domains. It is started after a takeover, when everybody is served again, never in its way.

use super::process::{Process, command};
use super::{Deaths, EXIT, LINK, Supervisor, system};
use crate::packet::Link;
use crate::sys;
use cryptofd_core::error::Result;
use cryptofd_core::sys::socket;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// How long it waits after the last takeover, so that clients have their answers first.
const GRACE: Duration = Duration::from_millis(200);
/// How long none is started after some died of their own.
const PAUSE: Duration = Duration::from_secs(10);

/// A worker's process before it is anybody's.
pub struct Begun {
    pub number: u64,
    pub process: Process,
    pub link: Link,
    program: Option<Program>,
}

/// Which file the program is: another after an upgrade.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Program(u64, u64, i64, i64);

fn program() -> Option<Program> {
    let about = std::fs::metadata(sys::program().ok()?).ok()?;
    Some(Program(
        about.dev(),
        about.ino(),
        about.mtime(),
        about.mtime_nsec(),
    ))
}

/// The spare worker, or when there will be one.
#[derive(Default)]
pub struct Spare {
    worker: Option<Begun>,
    at: Option<Instant>,
    deaths: Deaths,
}

impl Spare {
    /// When something is to be done.
    pub fn deadline(&self) -> Option<Instant> {
        self.at
    }

    /// Its pid.
    pub fn pid(&self) -> Option<u32> {
        self.worker.as_ref().map(|worker| worker.process.pid)
    }
}

impl Supervisor {
    /// Starts a worker's process, which waits for an epoch.
    pub(super) fn begin_worker(&mut self) -> Result<Begun> {
        let (here, there) = socket::pair().map_err(system("socketpair"))?;
        let path = sys::program().map_err(system("the path of this program"))?;
        let program = program();
        let mut command = command(path.as_os_str());
        command.arg("worker");
        command.arg("--control").arg(there.as_raw_fd().to_string());
        if let Some((uid, gid)) = self.options.user {
            command.arg("--uid").arg(uid.to_string());
            command.arg("--gid").arg(gid.to_string());
        }
        let process = Process::start(&mut command, &[there.as_fd()])?;
        self.last_worker += 1;
        let number = self.last_worker;
        let link = Link::to_worker(here);
        self.watch(link.as_fd(), LINK | number)?;
        self.watch(process.as_fd(), EXIT | number)?;
        Ok(Begun {
            number,
            process,
            link,
            program,
        })
    }

    /// The spare worker, if there is one of the program as it is now; one that begins, or else the spare one
    /// as it is: what serves is worth more than what is new.
    pub(super) fn next_worker(&mut self) -> Result<Begun> {
        let spare = self.spare.worker.take();
        match spare {
            Some(spare) if spare.program == program() => Ok(spare),
            Some(spare) => {
                let begun = self.begin_worker();
                if begun.is_err() {
                    return Ok(spare);
                }
                self.spare.worker = Some(spare);
                self.dismiss_spare();
                begun
            }
            None => self.begin_worker(),
        }
    }

    /// Lets the spare worker go: what it read when it began is not what holds now.
    pub(super) fn dismiss_spare(&mut self) {
        let Some(worker) = self.spare.worker.take() else {
            return;
        };
        worker.process.signal(libc::SIGKILL);
        let _ = socket::unwatch(self.epoll.as_fd(), worker.link.as_fd());
        let _ = socket::unwatch(self.epoll.as_fd(), worker.process.as_fd());
        let _ = socket::poll(worker.process.as_fd(), libc::POLLIN, -1);
        worker.process.reap();
    }

    /// Has one started soon, if there are sessions to go on with.
    pub(super) fn plan_spare(&mut self) {
        if self.spare.worker.is_none() && self.spare.at.is_none() && !self.sessions.is_empty() {
            self.spare.at = Some(Instant::now() + GRACE);
        }
    }

    /// Starts it if it is time and nobody waits for a worker.
    pub(super) fn start_spare(&mut self, now: Instant) {
        if self.spare.at.is_none_or(|at| at > now) {
            return;
        }
        if self.workers.values().any(super::domains::Worker::busy) {
            self.spare.at = Some(now + GRACE);
            return;
        }
        self.spare.at = None;
        if self.spare.worker.is_some() {
            return;
        }
        match self.begin_worker() {
            Ok(worker) => self.spare.worker = Some(worker),
            Err(error) => {
                eprintln!("cryptofd-daemon: a spare worker: {error}");
                self.spare.at = Some(now + PAUSE);
            }
        }
    }

    /// The spare worker said something, though nobody asked it, or is gone. False: it is not the spare one.
    pub(super) fn spare_stirred(&mut self, number: u64) -> bool {
        let Some(worker) = &self.spare.worker else {
            return false;
        };
        if worker.number != number {
            return false;
        }
        self.dismiss_spare();
        let often = self.spare.deaths.add();
        let wait = if often { PAUSE } else { GRACE };
        self.spare.at = Some(Instant::now() + wait);
        true
    }
}
