//! Running the program anew, as after an upgrade: everything it knows travels in a memfd, and its children,
//! sockets and sessions stay what they are.

use super::counts::{Counts, Figures};
use super::domains::{Domain, Worker};
use super::process::Process;
use super::{EXIT, End, Kek, LINK, Listening, Options, Session, Supervisor, system};
use crate::elsewhere::Foreign;
use crate::packet::Link;
use crate::sys;
use cryptofd_core::error::{Error, Kind, Result};
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::sys::memfd;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// The version of what is written here.
const VERSION: u64 = 3;

impl Supervisor {
    /// Runs the program anew if that was asked for and nothing is under way.
    pub(super) fn reexec_when_quiet(&mut self) {
        let Some((id, _)) = self.reexec else { return };
        let quiet = self.workers.values().all(Worker::quiet)
            && self.sessions.values().all(|s| s.reply.is_none())
            && self.replacements.is_empty()
            && self.rekey.quiet()
            && self.deferred.is_empty()
            && self.domains.values().all(|d| d.waiting.is_empty())
            && self.broker.as_ref().is_some_and(|b| !b.link.waiting());
        if !quiet {
            return;
        }
        // The next program starts its own.
        self.dismiss_spare();
        let error = self.reexec_now(id);
        self.reexec = None;
        self.reply(id, Err(error), Vec::new());
    }

    /// Comes back only if it fails.
    fn reexec_now(&mut self, id: u64) -> Error {
        let state = self.state(id).to_string();
        let memory = match memfd::with(&[Input::from(state.as_bytes())]) {
            Ok(memory) => memory,
            Err(error) => return error,
        };
        let program = match sys::program() {
            Ok(program) => program,
            Err(error) => return system("the path of this program")(error),
        };
        let mut fds = self.fds();
        fds.push(memory.as_fd());
        for fd in &fds {
            let _ = sys::close_on_exec(*fd, false);
        }
        let error = Command::new(&program)
            .arg("supervisor")
            .arg("--state")
            .arg(memory.as_raw_fd().to_string())
            .exec();
        for fd in &fds {
            let _ = sys::close_on_exec(*fd, true);
        }
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        Error::system(errno, &format!("running {}", program.display()))
    }

    /// Every descriptor that is kept.
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds: Vec<BorrowedFd<'_>> = self.listening.iter().map(|l| l.fd.as_fd()).collect();
        match &self.kek {
            Kek::Memory { memory, .. } => fds.push(memory.as_fd()),
            Kek::Process { process, link, .. } => fds.extend([process.as_fd(), link.as_fd()]),
        }
        if let Some(broker) = &self.broker {
            fds.push(broker.link.as_fd());
            fds.extend(broker.process.iter().map(AsFd::as_fd));
        }
        for worker in self.workers.values() {
            fds.extend([worker.link.as_fd(), worker.process.as_fd()]);
        }
        let counts = self.domains.values().filter_map(|d| d.counts.as_ref());
        fds.extend(counts.map(AsFd::as_fd));
        for session in self.sessions.values() {
            fds.extend(session.ends.iter().map(|end| end.fd.as_fd()));
        }
        fds
    }

    fn state(&self, reply: u64) -> Value {
        let number = |fd: &dyn AsFd| fd.as_fd().as_raw_fd();
        let process = |process: &Process| json!({"pid": process.pid, "fd": number(process)});
        let listening: Vec<Value> = self
            .listening
            .iter()
            .map(|l| {
                let path = l.path.as_ref().map(|path| path.as_os_str().as_bytes());
                json!({"fd": number(&l.fd), "path": path})
            })
            .collect();
        let kek = match &self.kek {
            Kek::Memory { memory, bytes } => json!({"memory": number(memory), "bytes": bytes}),
            Kek::Process {
                process: keeper,
                link,
                bytes,
            } => json!({"process": process(keeper), "link": number(link), "bytes": bytes}),
        };
        let workers: Vec<Value> = self
            .workers
            .iter()
            .map(|(serial, worker)| {
                json!({
                    "number": serial, "domain": worker.domain, "epoch": worker.epoch,
                    "process": process(&worker.process), "link": number(&worker.link),
                    "last": worker.last(),
                })
            })
            .collect();
        let domains: Vec<Value> = self
            .domains
            .iter()
            .map(|(name, domain)| {
                json!({
                    "name": name, "current": domain.current, "epoch": domain.epoch,
                    "given_up": domain.given_up,
                    "counts": domain.counts.as_ref().map(|counts| json!({
                        "fd": number(counts), "next": counts.next(), "past": counts.past().kept(),
                    })),
                })
            })
            .collect();
        let sessions: Vec<Value> = self
            .sessions
            .iter()
            .map(|(sid, session)| {
                let ends: Vec<Value> = session
                    .ends
                    .iter()
                    .map(|end| json!([number(&end.fd), end.inode, end.worker]))
                    .collect();
                json!({
                    "sid": sid, "domain": session.domain, "recipe": session.recipe, "ends": ends,
                    "place": session.place,
                })
            })
            .collect();
        let broker = self.broker.as_ref().map(|broker| {
            json!({"link": number(&broker.link), "process": broker.process.as_ref().map(process)})
        });
        let command: Vec<&[u8]> = self.options.command.iter().map(|w| w.as_bytes()).collect();
        json!({
            "version": VERSION, "reply": reply, "listening": listening, "kek": kek,
            "workers": workers, "domains": domains, "sessions": sessions, "broker": broker,
            "last_worker": self.last_worker, "last_session": self.last_session,
            "epochs": self.epochs, "clients": self.clients, "sources": self.rekey.sources,
            "secret_memory": self.secret_memory,
            "options": {
                "command": command, "user": self.options.user, "idle_exit": self.options.idle_exit,
            },
        })
    }

    /// Goes on where the program before this one stopped.
    pub(super) fn restored(memory: i32) -> Result<Supervisor> {
        let memory = sys::inherited(memory).map_err(system("--state"))?;
        let size = std::fs::File::from(memory.try_clone().map_err(system("dup"))?)
            .metadata()
            .map_err(system("--state"))?
            .len();
        let text = memfd::read(memory.as_fd(), size as usize)?;
        let state: Value = serde_json::from_slice(&text).map_err(|_| broken("it is no JSON"))?;
        if state["version"].as_u64() != Some(VERSION) {
            return Err(broken("it is of another version"));
        }
        let options = Options {
            command: list(&state["options"]["command"])
                .iter()
                .map(|word| Ok(OsString::from_vec(bytes(word)?)))
                .collect::<Result<_>>()?,
            user: match &state["options"]["user"] {
                Value::Null => None,
                user => Some((integer(&user[0])?, integer(&user[1])?)),
            },
            idle_exit: state["options"]["idle_exit"].as_u64(),
        };
        let mut listening = Vec::new();
        for entry in list(&state["listening"]) {
            let path = match &entry["path"] {
                Value::Null => None,
                path => Some(PathBuf::from(OsString::from_vec(bytes(path)?))),
            };
            listening.push(Listening {
                fd: fd(&entry["fd"])?,
                path,
            });
        }
        let bytes_of_kek = integer(&state["kek"]["bytes"])?;
        let kek = if state["kek"]["memory"].is_null() {
            Kek::Process {
                process: process(&state["kek"]["process"])?,
                link: fd(&state["kek"]["link"])?,
                bytes: bytes_of_kek,
            }
        } else {
            Kek::Memory {
                memory: fd(&state["kek"]["memory"])?,
                bytes: bytes_of_kek,
            }
        };
        let mut supervisor = Supervisor::new(options, kek, listening)?;
        supervisor.last_worker = integer(&state["last_worker"])?;
        supervisor.last_session = integer(&state["last_session"])?;
        supervisor.rekey.sources = state["sources"].clone();
        supervisor.secret_memory = state["secret_memory"] == Value::Bool(true);
        supervisor.epochs = integer(&state["epochs"])? as u32;
        supervisor.clients = integer(&state["clients"])?;
        for entry in list(&state["domains"]) {
            let counts = match &entry["counts"] {
                Value::Null => None,
                counts => {
                    let next = integer(&counts["next"])? as u32;
                    let taken: BTreeSet<u64> = list(&state["sessions"])
                        .iter()
                        .filter(|session| session["domain"] == entry["name"])
                        .filter_map(|session| session["place"].as_u64())
                        .collect();
                    let free = (0..next).filter(|place| !taken.contains(&u64::from(*place)));
                    let free = free.collect();
                    let past = Figures::restored(&counts["past"]);
                    Some(Counts::with(fd(&counts["fd"])?, next, free, past))
                }
            };
            let domain = Domain {
                counts,
                current: entry["current"].as_u64(),
                epoch: integer(&entry["epoch"])? as u32,
                given_up: entry["given_up"].as_str().map(str::to_owned),
                ..Domain::default()
            };
            supervisor.domains.insert(name(&entry["name"])?, domain);
        }
        for entry in list(&state["workers"]) {
            let number = integer(&entry["number"])?;
            let worker = Worker::known(
                name(&entry["domain"])?,
                process(&entry["process"])?,
                Link::to_worker(fd(&entry["link"])?),
                integer(&entry["epoch"])? as u32,
                integer(&entry["last"])?,
            );
            supervisor.watch(worker.link.as_fd(), LINK | number)?;
            supervisor.watch(worker.process.as_fd(), EXIT | number)?;
            supervisor.workers.insert(number, worker);
        }
        for entry in list(&state["sessions"]) {
            let mut ends = Vec::new();
            for end in list(&entry["ends"]) {
                ends.push(End {
                    fd: Foreign::new(fd(&end[0])?),
                    inode: integer(&end[1])?,
                    worker: integer(&end[2])?,
                    _held: None,
                });
            }
            let session = Session {
                domain: name(&entry["domain"])?,
                recipe: name(&entry["recipe"])?,
                place: entry["place"].as_u64().map(|place| place as u32),
                ends,
                reply: None,
                inform: super::Inform::Nothing,
            };
            supervisor.sessions.insert(integer(&entry["sid"])?, session);
        }
        let broker = &state["broker"];
        let started = match &broker["process"] {
            Value::Null => None,
            started => Some(process(started)?),
        };
        supervisor.adopt_broker(started, fd(&broker["link"])?)?;
        supervisor.plan_spare();
        supervisor.reply(integer(&state["reply"])?, Ok(json!({})), Vec::new());
        Ok(supervisor)
    }
}

fn broken(why: &str) -> Error {
    Error::new(
        Kind::System,
        libc::EUCLEAN,
        format!("the state of the program before this one: {why}"),
    )
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn integer(value: &Value) -> Result<u64> {
    value.as_u64().ok_or_else(|| broken("a number is missing"))
}

fn name(value: &Value) -> Result<String> {
    let text = value.as_str().ok_or_else(|| broken("a name is missing"))?;
    Ok(text.to_owned())
}

fn bytes(value: &Value) -> Result<Vec<u8>> {
    list(value)
        .iter()
        .map(|byte| u8::try_from(integer(byte)?).map_err(|_| broken("a byte is none")))
        .collect()
}

fn fd(value: &Value) -> Result<OwnedFd> {
    let number = i32::try_from(integer(value)?).map_err(|_| broken("a descriptor is none"))?;
    sys::inherited(number).map_err(system("a descriptor of the program before this one"))
}

fn process(value: &Value) -> Result<Process> {
    let pid = integer(&value["pid"])? as u32;
    Ok(Process::with(pid, fd(&value["fd"])?))
}
