//! A child process: started with the descriptors that it is told of and no others, known by its pidfd.

use crate::sys::{self, Exit};
use cryptofd_core::error::{Error, Result};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};

/// A child that was not reaped yet.
pub struct Process {
    /// Its pid, for people.
    pub pid: u32,
    pidfd: OwnedFd,
}

fn system(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::system(error.raw_os_error().unwrap_or(libc::EIO), what)
}

/// Variables of the service manager, which are not for children.
const OURS: [&str; 5] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
];

/// A command without the service manager's variables. A libcrypto in it (Python's hashlib, the engine
/// openssl) loads no provider that the host's configuration names: ours would come back to us.
pub fn command(program: &OsStr) -> Command {
    let mut command = Command::new(program);
    command.env("OPENSSL_CONF", "/dev/null");
    for name in OURS {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

impl Process {
    /// Starts `command`, which gets `fds` under the numbers that they have here.
    pub fn start(command: &mut Command, fds: &[BorrowedFd<'_>]) -> Result<Process> {
        for fd in fds {
            sys::close_on_exec(*fd, false).map_err(system("fcntl"))?;
        }
        let started = command.spawn();
        for fd in fds {
            sys::close_on_exec(*fd, true).map_err(system("fcntl"))?;
        }
        let child = started.map_err(|error| {
            Error::system(
                error.raw_os_error().unwrap_or(libc::EIO),
                &format!("starting {}", command.get_program().to_string_lossy()),
            )
        })?;
        Process::of(child.id())
    }

    /// A child of this process, by its pid.
    pub fn of(pid: u32) -> Result<Process> {
        let pidfd = sys::pidfd(pid).map_err(system("pidfd_open"))?;
        Ok(Process { pid, pidfd })
    }

    /// The same with the pidfd that it has.
    pub fn with(pid: u32, pidfd: OwnedFd) -> Process {
        Process { pid, pidfd }
    }

    /// Sends it a signal; one that is gone already is no failure.
    pub fn signal(&self, signal: i32) {
        let _ = sys::signal(self.pidfd.as_fd(), signal);
    }

    /// How it ended; `None` while it lives.
    pub fn reap(&self) -> Option<Exit> {
        match sys::reap(self.pidfd.as_fd()) {
            Ok(exit) => exit,
            // Somebody else reaped it.
            Err(_) => Some(Exit::Code(-1)),
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
