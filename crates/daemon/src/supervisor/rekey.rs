//! Key-encryption keys that the broker names: a keeper reads them, then every worker is given them.
//!
//! The broker passes descriptors, serials and scrypt's parameters; neither it nor this process reads a byte
//! of what is behind them. Deriving from a passphrase takes a while, and nobody is kept waiting meanwhile.

use super::keeper::{self, Kek};
use super::process::Process;
use super::requests::Done;
use super::{KEEPER, Supervisor, system};
use crate::packet::{Incoming, Packet, pack, receive};
use cryptofd_core::error::{Error, Result};
use cryptofd_core::sys::socket;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a keeper may take: scrypt on a slow board.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a keeper is reading.
struct Loading {
    reply: u64,
    process: Process,
    link: OwnedFd,
    memory: Option<OwnedFd>,
    sources: Value,
    until: Instant,
}

/// The keys' sources, and who has to be given them.
#[derive(Default)]
pub struct Rekey {
    /// Of the keys that are here; null: none were named.
    pub sources: Value,
    loading: Option<Loading>,
    /// Workers that have not answered yet.
    waiting: BTreeSet<u64>,
    reply: Option<u64>,
}

impl Rekey {
    /// When a keeper is too late.
    pub fn deadline(&self) -> Option<Instant> {
        self.loading.as_ref().map(|loading| loading.until)
    }

    /// Nothing is under way.
    pub fn quiet(&self) -> bool {
        self.loading.is_none() && self.waiting.is_empty()
    }
}

impl Supervisor {
    /// The broker's request "kek".
    pub(super) fn rekey(&mut self, id: u64, packet: Packet) -> Result<Done> {
        let sources = sources(&packet)?;
        if self.rekey.sources == sources {
            // A broker that was started again; a pipe with a passphrase is empty by now.
            return Ok(Done::Now(json!({}), Vec::new()));
        }
        if !self.rekey.quiet() {
            return Err(Error::system(
                libc::EBUSY,
                "key-encryption keys are being read already",
            ));
        }
        let (process, link) = keeper::start(None)?;
        let memory = self.secret_memory.then(keeper::memory).flatten();
        let mut asked = vec![(
            json!({
                "id": 1, "op": "load", "keks": packet.object.get("keks"),
                "current": packet.object.get("current"),
            }),
            packet.fds,
        )];
        match &memory {
            Some(memory) => {
                let copy = memory.try_clone().map_err(system("dup"))?;
                asked.push((json!({"id": 2, "op": "fill"}), vec![copy]));
            }
            None => asked.push((json!({"id": 2, "op": "size"}), Vec::new())),
        }
        for (object, fds) in asked {
            let sent = pack(&object, fds).and_then(|packet| {
                packet
                    .send(link.as_fd(), true)
                    .map_err(system("the keeper of the key-encryption key"))
            });
            if let Err(error) = sent {
                keeper::end(&process);
                return Err(error);
            }
        }
        self.watch(link.as_fd(), KEEPER)?;
        self.rekey.loading = Some(Loading {
            reply: id,
            process,
            link,
            memory,
            sources,
            until: Instant::now() + PATIENCE,
        });
        Ok(Done::Later)
    }

    /// A keeper has answered, or is gone.
    pub(super) fn keeper_readable(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(loading) = &self.rekey.loading {
            match receive(loading.link.as_fd(), &mut buffer, true) {
                Incoming::Packet(packet) => match (packet.number("id"), keeper::size(&packet)) {
                    (Ok(1), Ok(_)) => {}
                    (Ok(2), Ok(bytes)) => self.loaded(bytes),
                    (_, Err(error)) => self.not_loaded(error),
                    _ => self.not_loaded(Error::invalid("the keeper's answer is none")),
                },
                Incoming::Nothing => break,
                Incoming::Lost(_) => self.not_loaded(crate::packet::lost()),
                Incoming::Garbage(error) => self.not_loaded(error),
                Incoming::End => {
                    let gone = "the keeper of the key-encryption key ended";
                    self.not_loaded(Error::system(libc::EPIPE, gone));
                }
            }
        }
        self.buffer = buffer;
    }

    fn not_loaded(&mut self, error: Error) {
        if let Some(loading) = self.rekey.loading.take() {
            let _ = socket::unwatch(self.epoll.as_fd(), loading.link.as_fd());
            keeper::end(&loading.process);
            self.reply(loading.reply, Err(error), Vec::new());
        }
    }

    fn loaded(&mut self, bytes: u64) {
        let Some(loading) = self.rekey.loading.take() else {
            return;
        };
        let _ = socket::unwatch(self.epoll.as_fd(), loading.link.as_fd());
        let kek = match loading.memory {
            Some(memory) => {
                keeper::end(&loading.process);
                Kek::Memory { memory, bytes }
            }
            None => Kek::Process {
                process: loading.process,
                link: loading.link,
                bytes,
            },
        };
        if let Kek::Process { process, .. } = std::mem::replace(&mut self.kek, kek) {
            keeper::end(&process);
        }
        self.rekey.sources = loading.sources;
        super::systemd::keep_kek(&self.kek, &self.rekey.sources);
        self.rekey.reply = Some(loading.reply);
        let numbers: Vec<u64> = self.workers.keys().copied().collect();
        for number in numbers {
            if self.give_kek(number) {
                self.rekey.waiting.insert(number);
            }
        }
        self.rekeyed(None);
        let deferred = std::mem::take(&mut self.deferred);
        self.restore_sessions(deferred);
    }

    /// A worker has the keys, or is gone; the broker is answered after the last one.
    pub(super) fn rekeyed(&mut self, worker: Option<u64>) {
        if let Some(number) = worker {
            self.rekey.waiting.remove(&number);
        }
        if self.rekey.waiting.is_empty() {
            if let Some(id) = self.rekey.reply.take() {
                self.reply(id, Ok(json!({})), Vec::new());
            }
        }
    }

    /// Ends a keeper that is too late.
    pub(super) fn look_after_keeper(&mut self, now: Instant) {
        if self.rekey.deadline().is_some_and(|until| until <= now) {
            let late = "reading the key-encryption key (does a pipe stay open?)";
            self.not_loaded(Error::system(libc::ETIMEDOUT, late));
        }
    }

    /// Nobody waits for it any more.
    pub(super) fn forget_rekey(&mut self) {
        if let Some(loading) = self.rekey.loading.take() {
            let _ = socket::unwatch(self.epoll.as_fd(), loading.link.as_fd());
            keeper::end(&loading.process);
        }
        self.rekey.reply = None;
    }
}

/// What was asked for, without the descriptors.
fn sources(packet: &Packet) -> Result<Value> {
    let invalid = || Error::invalid("keks: a list of objects with a number and a source each");
    let mut all = Vec::new();
    let keks = packet.object.get("keks").and_then(Value::as_array);
    for kek in keks.ok_or_else(invalid)? {
        let mut kek = kek.as_object().ok_or_else(invalid)?.clone();
        kek.remove("fd");
        all.push(Value::Object(kek));
    }
    Ok(json!({"keks": all, "current": packet.number("current")?}))
}
