//! A test in the broker's place, on the control socket of the real program.
#![allow(dead_code)]

#[path = "../../src/elsewhere.rs"]
pub mod elsewhere;
#[path = "../../src/packet.rs"]
pub mod packet;

use cryptofd_core::client::Client;
use cryptofd_core::error::{Error, Result};
use cryptofd_core::record::{Op, Request};
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::sys::socket;
use packet::{Incoming, Packet, answered, pack, receive};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};

const PROGRAM: &str = env!("CARGO_BIN_EXE_cryptofd-daemon");

/// Signals do not end anything here.
pub fn never() -> Result<()> {
    Ok(())
}

/// A directory that is gone with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("cfd-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A request's answer.
pub type Answer = (Map<String, Value>, Vec<OwnedFd>);

/// One end of a socket on which requests are asked and answered.
pub struct Channel {
    pub fd: OwnedFd,
    last: u64,
    buffer: Vec<u8>,
    /// Notices that came meanwhile.
    pub notices: VecDeque<Packet>,
    early: Vec<Packet>,
}

impl Channel {
    pub fn new(fd: OwnedFd) -> Channel {
        Channel {
            fd,
            last: 0,
            buffer: Vec::new(),
            notices: VecDeque::new(),
            early: Vec::new(),
        }
    }

    pub fn send(&mut self, mut object: Value, fds: Vec<OwnedFd>) -> u64 {
        self.last += 1;
        object["id"] = self.last.into();
        let packet = pack(&object, fds).unwrap();
        packet.send(self.fd.as_fd(), false).unwrap();
        self.last
    }

    /// The next packet, whatever it is.
    pub fn next(&mut self) -> Packet {
        self.maybe_next().expect("the other side is gone")
    }

    /// The same; `None` when the other side is gone.
    pub fn maybe_next(&mut self) -> Option<Packet> {
        let events = socket::poll(self.fd.as_fd(), libc::POLLIN, 20_000).unwrap();
        assert_ne!(events, 0, "nothing came for 20 seconds");
        match receive(self.fd.as_fd(), &mut self.buffer, false) {
            Incoming::Packet(packet) => Some(packet),
            Incoming::Lost(_) => panic!("no room for a descriptor"),
            Incoming::Garbage(error) => panic!("{error}"),
            Incoming::Nothing | Incoming::End => None,
        }
    }

    pub fn wait(&mut self, id: u64) -> Result<Answer> {
        loop {
            let early = self
                .early
                .iter()
                .position(|p| p.number("id").ok() == Some(id));
            let packet = match early {
                Some(place) => self.early.remove(place),
                None => self.next(),
            };
            if packet.object.contains_key("event") || packet.object.contains_key("op") {
                self.notices.push_back(packet);
            } else if packet.number("id").unwrap() == id {
                return answered(&packet.object).map(|ok| (ok.clone(), packet.fds));
            } else {
                self.early.push(packet);
            }
        }
    }

    pub fn ask_with(&mut self, object: Value, fds: Vec<OwnedFd>) -> Result<Answer> {
        let id = self.send(object, fds);
        self.wait(id)
    }

    pub fn ask(&mut self, object: Value) -> Result<Answer> {
        self.ask_with(object, Vec::new())
    }

    /// The next notice of this event.
    pub fn notice(&mut self, event: &str) -> Packet {
        loop {
            let place = self
                .notices
                .iter()
                .position(|n| n.text("event").ok() == Some(event));
            if let Some(place) = place {
                return self.notices.remove(place).unwrap();
            }
            let packet = self.next();
            if packet.object.contains_key("event") || packet.object.contains_key("op") {
                self.notices.push_back(packet);
            } else {
                self.early.push(packet);
            }
        }
    }
}

/// A supervisor, and the test on the broker's end of its control socket.
pub struct Daemon {
    pub child: Child,
    pub control: Channel,
    pub folder: Folder,
}

pub const DOMAIN: &str = "uid:1000";

impl Daemon {
    pub fn start() -> Daemon {
        Daemon::start_with(&[], Folder::new())
    }

    /// As another user, who may lock so many bytes.
    pub fn start_as(user: u32, locked: u64) -> Daemon {
        use std::os::unix::fs::chown;
        use std::os::unix::process::CommandExt;
        let folder = Folder::new();
        chown(&folder.0, Some(user), Some(user)).unwrap();
        // That user may not reach where it was built.
        let program = folder.0.join("cryptofd-daemon");
        std::fs::copy(PROGRAM, &program).unwrap();
        let limit = libc::rlimit {
            rlim_cur: locked,
            rlim_max: locked,
        };
        Daemon::run(&program, &[], folder, |command| {
            command.uid(user).gid(user);
            // SAFETY: the child's own limit, by a bare system call.
            unsafe {
                command.pre_exec(move || {
                    libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit);
                    Ok(())
                })
            };
        })
    }

    /// Of a program that may be replaced.
    pub fn start_program(program: &Path, folder: Folder) -> Daemon {
        Daemon::run(program, &[], folder, |_| ())
    }

    pub fn start_with(more: &[&str], folder: Folder) -> Daemon {
        Daemon::run(Path::new(PROGRAM), more, folder, |_| ())
    }

    fn run(
        program: &Path,
        more: &[&str],
        folder: Folder,
        change: impl FnOnce(&mut Command),
    ) -> Daemon {
        let (here, there) = socket::pair().unwrap();
        let flags = 0;
        // SAFETY: no memory is involved.
        unsafe { libc::fcntl(there.as_raw_fd(), libc::F_SETFD, flags) };
        let mut command = Command::new(program);
        command
            .arg("supervisor")
            .arg("--kek")
            .arg(folder.0.join("kek"))
            .arg("--broker-fd")
            .arg(there.as_raw_fd().to_string())
            .args(more)
            .env("CRYPTOFD_SYSTEM_CONFIG", "/nonexistent");
        change(&mut command);
        Daemon {
            child: command.spawn().unwrap(),
            control: Channel::new(here),
            folder,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The broker's channel to a domain's worker, and the worker's pid.
    pub fn worker(&mut self, domain: &str) -> (Channel, u32) {
        let (ok, mut fds) = self
            .control
            .ask(json!({"op": "worker", "domain": domain}))
            .unwrap();
        let pid = ok["pid"].as_u64().unwrap() as u32;
        (Channel::new(fds.pop().unwrap()), pid)
    }

    pub fn status(&mut self) -> Map<String, Value> {
        self.control.ask(json!({"op": "status"})).unwrap().0
    }

    /// Opens a session and returns its number and its descriptor.
    pub fn open_fd(&mut self, recipe: Value) -> Result<(u64, OwnedFd)> {
        let (ok, mut fds) = self
            .control
            .ask(json!({"op": "session", "domain": DOMAIN, "recipe": recipe}))?;
        Ok((ok["sid"].as_u64().unwrap(), fds.pop().unwrap()))
    }

    pub fn open(&mut self, recipe: Value) -> Result<Client> {
        let (_, fd) = self.open_fd(recipe)?;
        Client::adopt(fd, &mut never)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SAFETY: our own child, which was not reaped yet.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

/// Attributes of a new key.
pub fn attributes(algorithm: &str, usage: &[&str]) -> Value {
    static LAST: AtomicU64 = AtomicU64::new(1);
    let mut usage = usage.to_vec();
    usage.sort_unstable();
    let iv = if usage.contains(&"caller-iv") {
        "caller"
    } else {
        "worker"
    };
    json!({
        "id": format!("{:032x}", LAST.fetch_add(1, Ordering::Relaxed)), "label": "db",
        "owner": DOMAIN, "algorithm": algorithm, "usage": usage, "iv": iv,
    })
}

/// A recipe of what `generate`, `import` … gave.
pub fn recipe(made: &Map<String, Value>) -> Value {
    json!({
        "key": made["attributes"], "blob": made["blob"], "algorithm": made["attributes"]["algorithm"],
        "usage": made["attributes"]["usage"], "session": {}, "lease": null,
    })
}

pub fn generate(channel: &mut Channel, algorithm: &str, usage: &[&str]) -> Map<String, Value> {
    channel
        .ask(json!({"op": "generate", "attributes": attributes(algorithm, usage)}))
        .unwrap()
        .0
}

/// What is told of a key that was made.
pub type Made = Map<String, Value>;

/// The key, as the broker names it.
pub fn key(made: &Made) -> Value {
    json!({"attributes": made["attributes"], "blob": made["blob"]})
}

/// A fresh key with these attributes besides.
pub fn make(worker: &mut Channel, algorithm: &str, usage: &[&str], more: Value) -> Result<Made> {
    let mut wanted = attributes(algorithm, usage);
    for (name, value) in more.as_object().unwrap() {
        wanted[name] = value.clone();
    }
    let asked = json!({"op": "generate", "attributes": wanted});
    worker.ask(asked).map(|(made, _)| made)
}

/// A key that is brought along.
pub fn import(worker: &mut Channel, wanted: Value, bytes: &[u8]) -> Result<Made> {
    let asked = json!({"op": "import", "attributes": wanted});
    worker
        .ask_with(asked, vec![memory(bytes)])
        .map(|(made, _)| made)
}

/// A memfd with these bytes.
pub fn memory(bytes: &[u8]) -> OwnedFd {
    cryptofd_core::sys::memfd::with(&[Input::from(bytes)]).unwrap()
}

/// A pipe: reading end, writing end.
pub fn pipe() -> (std::fs::File, std::fs::File) {
    use std::os::fd::FromRawFd;
    let mut ends = [0; 2];
    // SAFETY: room for two numbers, which are fresh.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (
            std::fs::File::from_raw_fd(ends[0]),
            std::fs::File::from_raw_fd(ends[1]),
        )
    }
}

pub fn call(client: &Client, op: Op, data: &[u8]) -> Result<Vec<u8>> {
    client.call(&Request::with(op, data), &mut never)
}

pub fn errno<T>(result: Result<T>) -> i32 {
    result.err().map_or(0, |error: Error| error.errno())
}

pub fn kill(pid: u32) {
    // SAFETY: a worker of this test's own supervisor.
    assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGKILL) }, 0);
}

/// Whether a process has these bytes anywhere in its memory.
pub fn remembers(pid: u32, needle: &[u8]) -> bool {
    use std::os::unix::fs::FileExt;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut chunk = vec![0; 1 << 20];
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else {
            continue;
        };
        if !rights.starts_with('r') || line.ends_with("[vvar]") || line.ends_with("[vsyscall]") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let mut at = u64::from_str_radix(start, 16).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        while at < end {
            let length = (end - at).min(chunk.len() as u64) as usize;
            if memory.read_exact_at(&mut chunk[..length], at).is_ok()
                && chunk[..length].windows(needle.len()).any(|w| w == needle)
            {
                return true;
            }
            // Overlapping, so that what lies across two chunks is seen.
            at += if (length as u64) < chunk.len() as u64 {
                length as u64
            } else {
                (length - needle.len()) as u64
            };
        }
    }
    false
}
