//! What the broker asks of the supervisor.

use super::counts::{Counts, Figures};
use super::{End, Inform, Session, Supervisor, system};
use crate::elsewhere::Foreign;
use crate::packet::{self, FDS, Packet};
use crate::sys;
use cryptofd_core::error::{Error, Result};
use cryptofd_core::sys::socket;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// Most bytes of a domain's name.
const NAME: usize = 256;
/// Most sessions of all domains.
const SESSIONS: usize = 1 << 17;

/// An answer now, or later.
pub(super) enum Done {
    Now(Value, Vec<OwnedFd>),
    Later,
}

impl Supervisor {
    pub(super) fn request(&mut self, packet: Packet) {
        let Ok(id) = packet.number("id") else { return };
        self.busy = Instant::now();
        match self.requested(id, packet) {
            Ok(Done::Now(value, fds)) => self.reply(id, Ok(value), fds),
            Ok(Done::Later) => {}
            Err(error) => self.reply(id, Err(error), Vec::new()),
        }
    }

    fn requested(&mut self, id: u64, packet: Packet) -> Result<Done> {
        let now = |value| Ok(Done::Now(value, Vec::new()));
        match packet.text("op")? {
            "hello" => self.hello(),
            "status" => now(self.status(&self.live())),
            "worker" => {
                let name = domain(&packet)?;
                let number = self.current(&name)?;
                match self.workers.get(&number) {
                    Some(worker) if worker.ready => {
                        let about = json!({"pid": worker.process.pid, "epoch": worker.epoch});
                        Ok(Done::Now(about, vec![self.channel(number)?]))
                    }
                    _ => {
                        let domain = self.domains.entry(name).or_default();
                        domain.waiting.push(id);
                        Ok(Done::Later)
                    }
                }
            }
            "kek" => self.rekey(id, packet),
            "move" => {
                let (sid, engine) = (packet.number("sid")?, packet.text("engine")?);
                self.move_session(Some(id), sid, engine)?;
                Ok(Done::Later)
            }
            "session" => self.open(id, &packet),
            "close" => {
                let sid = packet.number("sid")?;
                if self.close_session(sid) {
                    now(json!({}))
                } else {
                    Err(Error::system(libc::ENOENT, &format!("session {sid}")))
                }
            }
            "sessions" => {
                let list: Vec<Value> = self
                    .sessions
                    .iter()
                    .map(|(sid, session)| self.described(*sid, session))
                    .collect();
                now(json!({"sessions": list}))
            }
            "replace" => {
                let names: Vec<String> = match packet.object.get("domain") {
                    None | Some(Value::Null) => self.domains.keys().cloned().collect(),
                    Some(_) => vec![domain(&packet)?],
                };
                let mut any = false;
                for name in names {
                    any |= self.replace(&name, id)?;
                }
                if any { Ok(Done::Later) } else { now(json!({})) }
            }
            // How many clients the broker has: it ends with the last one, if it is to end when idle.
            "busy" => {
                self.clients = packet.number("clients")?;
                now(json!({}))
            }
            "reexec" => {
                self.reexec = Some((id, Instant::now()));
                Ok(Done::Later)
            }
            op => Err(Error::unsupported(format!("no op {op:?}"))),
        }
    }

    /// The workers that can be talked to.
    fn live(&self) -> Vec<u64> {
        let mut live: Vec<u64> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.ready && !worker.leaves())
            .map(|(number, _)| *number)
            .collect();
        live.sort_unstable();
        live
    }

    /// All workers, with a channel to each. One packet carries only so many: the others are named, and
    /// asked for with "worker".
    fn hello(&mut self) -> Result<Done> {
        let mut live = self.live();
        let rest = live.split_off(live.len().min(FDS - 1));
        let mut fds = Vec::new();
        for number in &live {
            fds.push(self.channel(*number)?);
        }
        let mut status = self.status(&live);
        let more: Vec<&str> = rest
            .iter()
            .filter_map(|number| self.workers.get(number))
            .map(|worker| worker.domain.as_str())
            .collect();
        status["more"] = json!(more);
        Ok(Done::Now(status, fds))
    }

    fn status(&self, live: &[u64]) -> Value {
        let of = |number: u64| {
            self.sessions
                .values()
                .filter(|s| s.ends.iter().any(|end| end.worker == number))
                .count()
        };
        let workers: Vec<Value> = live
            .iter()
            .filter_map(|number| Some((number, self.workers.get(number)?)))
            .map(|(number, worker)| {
                json!({
                    "domain": worker.domain, "pid": worker.process.pid, "epoch": worker.epoch,
                    "sessions": of(*number), "counts": self.total(&worker.domain).told(),
                })
            })
            .collect();
        let given_up: serde_json::Map<String, Value> = self
            .domains
            .iter()
            .filter_map(|(name, domain)| Some((name.clone(), domain.given_up.clone()?.into())))
            .collect();
        let faults: serde_json::Map<String, Value> = self
            .domains
            .iter()
            .filter_map(|(name, domain)| Some((name.clone(), domain.fault.clone()?.into())))
            .collect();
        let listening: Vec<Value> = self
            .listening
            .iter()
            .map(|socket| match &socket.path {
                Some(path) => path.to_string_lossy().into(),
                None => Value::Null,
            })
            .collect();
        json!({
            "supervisor": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "workers": workers,
            "spare": self.spare.pid(),
            "given_up": given_up,
            "faults": faults,
            "listening": listening,
            "kek": match &self.kek {
                super::Kek::Memory { .. } => "memfd_secret",
                super::Kek::Process { .. } => "process",
            },
        })
    }

    /// A session without its wrapped key.
    fn described(&self, sid: u64, session: &Session) -> Value {
        let mut public: Value = serde_json::from_str(&session.recipe).unwrap_or_default();
        let keks = keks(&public);
        if let Some(recipe) = public.as_object_mut() {
            for field in ["blob", "public", "older"] {
                recipe.remove(field);
            }
        }
        json!({
            "sid": sid, "domain": session.domain, "ends": session.ends.len(),
            "recipe_public": public, "keks": keks, "counts": self.figures(session).told(),
        })
    }

    fn figures(&self, session: &Session) -> Figures {
        let counts = self.domains.get(&session.domain);
        let counts = counts.and_then(|domain| domain.counts.as_ref());
        counts
            .zip(session.place)
            .map_or(Figures::default(), |(counts, place)| counts.read(place))
    }

    /// All that a domain did, for sessions that are over and those that live.
    fn total(&self, name: &str) -> Figures {
        let counts = self.domains.get(name).and_then(|d| d.counts.as_ref());
        let mut total = counts.map_or(Figures::default(), Counts::past);
        for session in self.sessions.values().filter(|s| s.domain == name) {
            total += self.figures(session);
        }
        total
    }

    fn open(&mut self, id: u64, packet: &Packet) -> Result<Done> {
        let name = domain(packet)?;
        let recipe = packet::object(&packet.object, "recipe")?;
        if self.sessions.len() >= SESSIONS {
            return Err(Error::system(
                libc::EMFILE,
                &format!("{SESSIONS} sessions, which is the limit"),
            ));
        }
        let number = self.current(&name)?;
        let (client, serving) = socket::pair().map_err(system("socketpair"))?;
        let nonblock = recipe.get("session").and_then(|s| s.get("nonblock"));
        if nonblock == Some(&Value::Bool(true)) {
            socket::set_nonblocking(client.as_fd(), true).map_err(system("fcntl"))?;
        }
        let inode = sys::inode(serving.as_fd()).map_err(system("fstat"))?;
        self.last_session += 1;
        let sid = self.last_session;
        let session = Session {
            place: self.place(&name),
            domain: name,
            recipe: serde_json::to_string(recipe).map_err(|_| Error::invalid("no JSON"))?,
            ends: vec![End {
                fd: Foreign::new(serving),
                inode,
                worker: number,
                _held: None,
            }],
            reply: Some((id, Foreign::new(client))),
            inform: match packet.object.get("info") {
                Some(Value::Bool(true)) => Inform::Wanted,
                _ => Inform::Nothing,
            },
        };
        super::systemd::keep(sid, &session);
        self.sessions.insert(sid, session);
        self.give(number, vec![(sid, vec![inode])]);
        self.soon = true;
        Ok(Done::Later)
    }
}

/// The name of a domain, which goes to logs.
fn domain(packet: &Packet) -> Result<String> {
    let name = packet.text("domain")?;
    if name.is_empty() || name.len() > NAME || name.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "a domain's name has 1 to {NAME} bytes and no control characters"
        )));
    }
    Ok(name.to_owned())
}

/// The numbers of the key-encryption keys that a recipe's blobs are under: they stand in their heads.
fn keks(recipe: &Value) -> BTreeSet<u32> {
    let older = recipe["older"].as_array().map_or(&[][..], Vec::as_slice);
    std::iter::once(recipe)
        .chain(older)
        .filter_map(|of| packet::bytes(of.as_object()?, "blob").ok()?)
        .filter_map(|blob| Some(u32::from_le_bytes(blob.get(4..8)?.try_into().ok()?)))
        .collect()
}
