//! Trust domains and their workers: starting, watching, taking over, replacing.

use super::counts::Counts;
use super::process::Process;
use super::{Deaths, End, Inform, LINK, Session, Supervisor, system};
use crate::elsewhere::{self, Foreign};
use crate::packet::{FDS, Incoming, Link, PACKET, Packet, answered};
use crate::sys;
use cryptofd_core::error::{Error, Kind, Result};
use cryptofd_core::sys::socket;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a worker may need until it is ready.
pub const READY: Duration = Duration::from_secs(5);
/// How often a worker that serves sessions is asked whether it lives.
const PING: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A worker that served for longer did not die of what is asked again of the next one: its death does not
/// count against its domain.
const BRIEF: Duration = Duration::from_millis(500);
/// What part of all descriptors that there may be a domain's workers have kept beside its sessions' first.
const PART: u64 = 4;
/// Packets of one worker before others have their turn.
const TURN: usize = 32;
/// How long streams may go on at a planned replacement.
const DRAIN: Duration = Duration::from_secs(30);

/// What a worker was asked and has not answered.
enum Pending {
    Kek,
    Rekey,
    Broker,
    Counts,
    Ping,
    Drain,
    Serve(Vec<Given>),
    Move(Move),
}

/// Ends of a session (by inode) that a worker was given.
struct Given {
    sid: u64,
    ends: Vec<u64>,
}

/// A session that is to be served by another engine, and the broker's request for it.
struct Move {
    /// `None`: who asked is gone.
    reply: Option<u64>,
    sid: u64,
    engine: String,
}

/// What one packet gives to a worker.
#[derive(Default)]
struct Batch {
    given: Vec<Given>,
    ends: usize,
    text: String,
}

impl Batch {
    /// Most ends: one descriptor of a packet may be its body.
    const ENDS: usize = FDS - 1;
    /// Most bytes before another packet begins.
    const TEXT: usize = PACKET - 4096;

    fn has_room(&self, ends: &[u64], recipe: &str) -> bool {
        self.given.is_empty()
            || (self.ends + ends.len() <= Self::ENDS
                && self.text.len() + recipe.len() <= Self::TEXT)
    }

    fn add(&mut self, given: Given, session: &Session) {
        // Nobody has seen a session that still has to be answered, unless its first worker spoke of itself.
        let takeover = session.reply.is_none() || session.inform == Inform::Given;
        let info = session.inform == Inform::Wanted;
        let recipe = &session.recipe;
        let place = session.place.map_or(Value::Null, Value::from);
        let comma = if self.given.is_empty() { "" } else { "," };
        let (sid, number) = (given.sid, given.ends.len());
        let _ = write!(
            self.text,
            r#"{comma}{{"sid":{sid},"ends":{number},"takeover":{takeover},"info":{info},"place":{place},"recipe":{recipe}}}"#
        );
        self.ends += number;
        self.given.push(given);
    }
}

/// A worker process.
pub struct Worker {
    pub domain: String,
    pub process: Process,
    pub link: Link,
    pub epoch: u32,
    pub ready: bool,
    /// Since when it is ready; before that, since when it starts.
    started: Instant,
    /// By the numbers of the requests: they are answered in this order, but for a drain.
    pending: BTreeMap<u64, Pending>,
    last: u64,
    /// What it is to serve and there was no room yet to give it. Given are descriptors, of which a packet
    /// that waits would need copies: the supervisor may have no more.
    owed: VecDeque<Given>,
    /// When it was asked whether it lives; `None`: it has answered.
    asked: Option<Instant>,
    answered: Instant,
    /// The worker in whose place it comes, once it is ready.
    replaces: Option<u64>,
    /// When it has to be gone, if another has come in its place.
    leaving: Option<Instant>,
    /// The broker's request for the replacement.
    replacement: Option<u64>,
    /// What it did that none of ours does, for which it is ended.
    fault: Option<String>,
}

impl Worker {
    /// One that was started before this program was run anew.
    pub fn known(domain: String, process: Process, link: Link, epoch: u32, last: u64) -> Worker {
        Worker {
            domain,
            process,
            link,
            epoch,
            ready: true,
            started: Instant::now(),
            pending: BTreeMap::new(),
            last,
            owed: VecDeque::new(),
            asked: None,
            answered: Instant::now(),
            replaces: None,
            leaving: None,
            replacement: None,
            fault: None,
        }
    }

    /// Whoever waits for it through the broker is gone.
    pub fn forget_replies(&mut self) {
        self.replacement = None;
        for pending in self.pending.values_mut() {
            if let Pending::Move(moved) = pending {
                moved.reply = None;
            }
        }
    }

    fn next(&mut self, pending: Pending) -> u64 {
        self.last += 1;
        self.pending.insert(self.last, pending);
        self.last
    }

    /// Asks it something. EAGAIN: it does not read, and was not asked.
    fn ask(&mut self, pending: Pending, mut asked: Value, fds: Vec<OwnedFd>) -> Result<()> {
        let id = self.next(pending);
        asked["id"] = id.into();
        self.link.send(&asked, fds).inspect_err(|_| {
            self.pending.remove(&id);
        })
    }

    /// Ends it for what it did.
    fn condemn(&mut self, fault: String) {
        eprintln!(
            "cryptofd-daemon: worker {} of {} is ended: {fault}",
            self.process.pid, self.domain
        );
        self.fault.get_or_insert(fault);
        self.process.signal(libc::SIGKILL);
    }

    /// Whether something that it was asked before `id` is unanswered, though it answers in order.
    fn passed_over(&self, id: u64) -> bool {
        let drain = |p: &Pending| matches!(p, Pending::Drain);
        self.pending.range(..id).any(|(_, pending)| !drain(pending))
    }

    /// When something about it is overdue.
    pub fn deadline(&self, idle: bool) -> Option<Instant> {
        let alive = if !self.ready {
            Some(self.started + READY)
        } else if let Some(at) = self.asked {
            Some(at + PATIENCE)
        } else if idle && self.leaving.is_none() {
            None
        } else {
            Some(self.answered + PING)
        };
        self.leaving.into_iter().chain(alive).min()
    }

    /// It answered something: whether it lives need not be known for another while.
    fn lives(&mut self, now: Instant) {
        self.answered = now;
        if let Some(at) = &mut self.asked {
            *at = now;
        }
    }

    /// Nothing is under way with it.
    pub fn quiet(&self) -> bool {
        self.ready
            && self.replaces.is_none()
            && self.leaving.is_none()
            && !self.waits()
            && self.pending.values().all(|p| matches!(p, Pending::Ping))
    }

    /// Somebody waits for it.
    pub fn busy(&self) -> bool {
        let served = |p: &Pending| matches!(p, Pending::Serve(_));
        !self.ready || !self.owed.is_empty() || self.pending.values().any(served)
    }

    /// Something waits for room to be sent.
    fn waits(&self) -> bool {
        self.link.waiting() || !self.owed.is_empty()
    }

    /// The number of its last request.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Whether another has come in its place.
    pub fn leaves(&self) -> bool {
        self.leaving.is_some()
    }
}

/// A trust domain.
#[derive(Default)]
pub struct Domain {
    /// The worker that serves new sessions.
    pub current: Option<u64>,
    /// Of its last worker.
    pub epoch: u32,
    pub(super) deaths: Deaths,
    /// Why nobody serves it any more.
    pub given_up: Option<String>,
    /// The broker's requests that wait for a worker.
    pub waiting: Vec<u64>,
    /// How often its sessions did what.
    pub(super) counts: Option<Counts>,
    /// For what its last worker was ended that did what none of ours does.
    pub fault: Option<String>,
    /// Shared by every end that its workers have had kept.
    pub(super) held: Arc<()>,
}

impl Supervisor {
    pub(super) fn domain_has_sessions(&self, domain: &str) -> bool {
        self.sessions.values().any(|s| s.domain == domain)
    }

    /// The worker of a domain, started if there is none.
    pub(super) fn current(&mut self, name: &str) -> Result<u64> {
        let domain = self.domains.entry(name.to_owned()).or_default();
        if let Some(number) = domain.current {
            return Ok(number);
        }
        if let Some(why) = &domain.given_up {
            if !domain.deaths.over() {
                return Err(Error::new(
                    Kind::NoEngine,
                    libc::ENODEV,
                    format!("nobody serves {name}: {why}; try again in ten seconds"),
                ));
            }
            domain.given_up = None;
        }
        self.start_worker(name)
    }

    /// Gives a domain a worker: the spare one, or one that is started now.
    fn start_worker(&mut self, name: &str) -> Result<u64> {
        self.with_reserve(|this| this.start_and_tell(name))
    }

    fn start_and_tell(&mut self, name: &str) -> Result<u64> {
        let begun = self.next_worker()?;
        let number = begun.number;
        let domain = self.domains.entry(name.to_owned()).or_default();
        domain.epoch = domain.epoch.max(self.epochs) + 1;
        domain.counts = domain.counts.take().or_else(Counts::new);
        domain.current = Some(number);
        let epoch = domain.epoch;
        let mut worker = Worker::known(name.to_owned(), begun.process, begun.link, epoch, 0);
        worker.ready = false;
        let begin = json!({"op": "begin", "epoch": epoch});
        let id = worker.next(Pending::Kek);
        let told = worker.link.send(&begin, Vec::new());
        let told = told.and_then(|()| self.kek.give(id, &mut worker.link));
        if let Some(counts) = self.domains.get(name).and_then(|d| d.counts.as_ref()) {
            if let Ok(memory) = counts.as_fd().try_clone_to_owned() {
                let _ = worker.ask(Pending::Counts, json!({"op": "counts"}), vec![memory]);
            }
        }
        // Even one that could not be told anything: its exit is seen to as any other's.
        if told.is_err() {
            worker.process.signal(libc::SIGKILL);
        }
        self.workers.insert(number, worker);
        self.rewatch_worker(number);
        Ok(number)
    }

    /// Gives a worker the key-encryption keys that are new; whether it was told.
    pub(super) fn give_kek(&mut self, number: u64) -> bool {
        let told = self.with_reserve(|this| {
            let worker = this.workers.get_mut(&number)?;
            let id = worker.next(Pending::Rekey);
            Some(this.kek.give(id, &mut worker.link))
        });
        let Some(worker) = self.workers.get(&number) else {
            return false;
        };
        if !matches!(told, Some(Ok(()))) {
            // Without them it is of no use: the next one has them from the beginning.
            worker.process.signal(libc::SIGKILL);
            return false;
        }
        self.rewatch_worker(number);
        true
    }

    /// A fresh channel between a worker and the broker; returns the broker's end.
    pub(super) fn channel(&mut self, number: u64) -> Result<OwnedFd> {
        let pair = self.with_reserve(|_| socket::pair());
        let (broker, there) = pair.map_err(system("socketpair"))?;
        let worker = self.worker(number)?;
        worker.ask(Pending::Broker, json!({"op": "broker"}), vec![there])?;
        self.rewatch_worker(number);
        Ok(broker)
    }

    fn worker(&mut self, number: u64) -> Result<&mut Worker> {
        self.workers
            .get_mut(&number)
            .ok_or_else(|| Error::system(libc::ESRCH, "this worker"))
    }

    fn rewatch_worker(&self, number: u64) {
        if let Some(worker) = self.workers.get(&number) {
            let events = worker.link.watches(true, worker.waits());
            self.rewatch(&worker.link, LINK | number, events);
        }
    }

    /// Gives a worker ends of sessions (by inode): it is their worker from now on. What it cannot be given is
    /// dropped.
    pub(super) fn give(&mut self, number: u64, all: Vec<(u64, Vec<u64>)>) {
        let Some(worker) = self.workers.get_mut(&number) else {
            return;
        };
        for (sid, ends) in all {
            let Some(session) = self.sessions.get_mut(&sid) else {
                continue;
            };
            for end in &mut session.ends {
                if ends.contains(&end.inode) {
                    end.worker = number;
                }
            }
            for some in ends.chunks(Batch::ENDS) {
                let ends = some.to_vec();
                worker.owed.push_back(Given { sid, ends });
            }
        }
        self.give_owed(number);
    }

    /// Gives a worker what it is owed, many in a packet, while there is room.
    fn give_owed(&mut self, number: u64) {
        loop {
            let Some(worker) = self.workers.get_mut(&number) else {
                return;
            };
            if worker.link.waiting() {
                break;
            }
            let mut batch = Batch::default();
            while let Some(mut given) = worker.owed.pop_front() {
                // Some of it may have been closed since.
                let Some(session) = self.sessions.get(&given.sid) else {
                    continue;
                };
                let there = |inode: &u64| {
                    let mut ends = session.ends.iter();
                    ends.any(|end| end.inode == *inode && end.worker == number)
                };
                given.ends.retain(there);
                if given.ends.is_empty() {
                    continue;
                }
                if !batch.has_room(&given.ends, &session.recipe) {
                    worker.owed.push_front(given);
                    break;
                }
                batch.add(given, session);
            }
            if batch.given.is_empty() || !self.give_batch(number, batch) {
                break;
            }
        }
        self.rewatch_worker(number);
    }

    /// Whether there was room for it.
    fn give_batch(&mut self, number: u64, batch: Batch) -> bool {
        let fds: Vec<BorrowedFd<'_>> = batch
            .given
            .iter()
            .filter_map(|given| Some((given, self.sessions.get(&given.sid)?)))
            .flat_map(|(given, session)| given.ends.iter().map(move |inode| (session, inode)))
            .filter_map(|(session, inode)| session.ends.iter().find(|end| end.inode == *inode))
            .map(|end| end.fd.as_fd())
            .collect();
        let Some(worker) = self.workers.get_mut(&number) else {
            return false;
        };
        let id = worker.last + 1;
        let text = format!(r#"{{"id":{id},"op":"serve","sessions":[{}]}}"#, batch.text);
        match worker.link.try_send_text(text, &fds) {
            Ok(true) => {
                for given in &batch.given {
                    if let Some(session) = self.sessions.get_mut(&given.sid) {
                        session.inform = session.inform.given();
                    }
                }
                worker.last = id;
                worker.pending.insert(id, Pending::Serve(batch.given));
                true
            }
            Ok(false) => {
                for given in batch.given.into_iter().rev() {
                    worker.owed.push_front(given);
                }
                false
            }
            Err(error) => {
                for given in batch.given {
                    self.refused(number, given, error.clone());
                }
                true
            }
        }
    }

    /// A worker does not serve what it was given.
    fn refused(&mut self, number: u64, given: Given, error: Error) {
        let Given { sid, ends } = given;
        let reply = self.sessions.get_mut(&sid).and_then(|s| s.reply.take());
        if let Some((id, _)) = reply {
            if let Some(session) = self.sessions.remove(&sid) {
                self.leave_place(&session);
            }
            super::systemd::forget(sid);
            self.reply(id, Err(error), Vec::new());
            return;
        }
        let mine: Vec<u64> = self.sessions.get(&sid).map_or(Vec::new(), |session| {
            let mine = session.ends.iter().filter(|end| end.worker == number);
            mine.map(|end| end.inode)
                .filter(|inode| ends.contains(inode))
                .collect()
        });
        if !mine.is_empty() {
            eprintln!("cryptofd-daemon: session {sid} is not served any more: {error}");
            self.drop_ends(sid, &mine);
        }
    }

    pub(super) fn worker_readable(&mut self, number: u64) {
        if self.spare_stirred(number) {
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..TURN {
            let Some(worker) = self.workers.get_mut(&number) else {
                break;
            };
            match worker.link.receive(&mut buffer) {
                Incoming::Packet(packet) => self.heard(number, packet),
                // Our want of room, for which nobody is ended: what would have been kept is not. Nor can it be
                // ended, since nobody here has it: such a clone lives until its worker is gone.
                Incoming::Lost(_) => {}
                Incoming::Garbage(error) => {
                    // Ours do not send such: it is not ours any more.
                    worker.condemn(format!("it sent {}", error.message()));
                    let _ = socket::unwatch(self.epoll.as_fd(), worker.link.as_fd());
                    break;
                }
                Incoming::Nothing => break,
                Incoming::End => {
                    // Its exit follows, or it is made to.
                    worker.process.signal(libc::SIGKILL);
                    let _ = socket::unwatch(self.epoll.as_fd(), worker.link.as_fd());
                    self.buffer = buffer;
                    return;
                }
            }
        }
        self.buffer = buffer;
        if let Some(worker) = self.workers.get_mut(&number) {
            worker.link.flush();
            if !worker.owed.is_empty() {
                return self.with_reserve(|this| this.give_owed(number));
            }
        }
        self.rewatch_worker(number);
    }

    /// One packet of a worker, of which nothing is believed.
    fn heard(&mut self, number: u64, mut packet: Packet) {
        self.take_in(number, &mut packet);
        elsewhere::close_all(packet.fds);
    }

    fn take_in(&mut self, number: u64, packet: &mut Packet) {
        match packet.text("event") {
            Ok("hold") => {
                let Ok(sid) = packet.number("sid") else {
                    return;
                };
                if packet.fds.len() == 1 {
                    if let Some(fd) = packet.fds.pop() {
                        self.hold(number, sid, Foreign::new(fd));
                    }
                }
            }
            Ok("ended") => {
                let (Ok(sid), Ok(end)) = (packet.number("sid"), packet.number("end")) else {
                    return;
                };
                let released = packet.object.get("released") == Some(&Value::Bool(true));
                self.ended(number, sid, end, released);
            }
            Ok(_) => {}
            Err(_) => self.worker_answered(number, packet),
        }
    }

    /// Keeps a clone's end, or ends it: its session may have been closed while it was made, and what is not
    /// kept could not be ended later.
    fn hold(&mut self, number: u64, sid: u64, fd: Foreign) {
        // Anything else is not ours to touch.
        if !sys::carries_packets(fd.as_fd()) {
            return;
        }
        if let Some(fd) = self.keep(number, sid, fd) {
            sys::shutdown(fd.as_fd());
        }
    }

    /// Keeps a clone's end; what it returns is not kept.
    fn keep(&mut self, number: u64, sid: u64, fd: Foreign) -> Option<Foreign> {
        let known = (sys::inode(fd.as_fd()).ok())
            .zip(self.workers.get(&number))
            .zip(self.sessions.get_mut(&sid));
        let Some(((inode, worker), session)) = known else {
            return Some(fd);
        };
        let Some(domain) = self.domains.get(&worker.domain) else {
            return Some(fd);
        };
        if session.domain != worker.domain {
            return Some(fd);
        }
        if session.ends.iter().any(|end| end.inode == inode) {
            return None;
        }
        let most = cryptofd_core::serve::DESCRIPTORS;
        // Of others' room nothing is taken.
        let held = Arc::strong_count(&domain.held) as u64;
        if session.ends.len() >= most || held > sys::descriptors() / PART {
            return Some(fd);
        }
        super::systemd::keep_end(sid, std::iter::once(fd.as_fd()));
        session.ends.push(End {
            fd,
            inode,
            worker: number,
            _held: Some(domain.held.clone()),
        });
        None
    }

    fn ended(&mut self, number: u64, sid: u64, inode: u64, released: bool) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        let place = session
            .ends
            .iter()
            .position(|end| end.inode == inode && end.worker == number);
        if place.is_none() {
            return;
        }
        if released {
            let next = self.domains.get(&session.domain).and_then(|d| d.current);
            if let Some(next) = next.filter(|next| *next != number) {
                return self.give(next, vec![(sid, vec![inode])]);
            }
        }
        self.drop_ends(sid, &[inode]);
    }

    /// Lets go of ends, and of the session with its last one.
    fn drop_ends(&mut self, sid: u64, inodes: &[u64]) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        session.ends.retain(|end| {
            let gone = inodes.contains(&end.inode);
            if gone {
                sys::shutdown(end.fd.as_fd());
            }
            !gone
        });
        if session.ends.is_empty() {
            self.close_session(sid);
        }
    }

    /// Ends a session for everybody: its holders see POLLHUP.
    pub(super) fn close_session(&mut self, sid: u64) -> bool {
        let Some(session) = self.sessions.remove(&sid) else {
            return false;
        };
        for end in &session.ends {
            sys::shutdown(end.fd.as_fd());
        }
        super::systemd::forget(sid);
        self.leave_place(&session);
        self.busy = Instant::now();
        if let Some((id, _)) = session.reply {
            let gone = Error::system(libc::ENODEV, "the session's worker");
            self.reply(id, Err(gone), Vec::new());
        } else {
            self.tell(&json!({"event": "ended", "sid": sid}), Vec::new());
        }
        true
    }

    fn worker_answered(&mut self, number: u64, packet: &Packet) {
        let Ok(id) = packet.number("id") else { return };
        let Some(worker) = self.workers.get_mut(&number) else {
            return;
        };
        let Some(pending) = worker.pending.remove(&id) else {
            return;
        };
        if worker.passed_over(id) {
            // What it was asked before is given to the next one with its sessions.
            return worker.condemn("it answers, but not what it was asked before".into());
        }
        let done = answered(&packet.object).map(refusals);
        worker.lives(Instant::now());
        match (pending, done) {
            (Pending::Kek, Ok(_)) => self.ready(number),
            (Pending::Rekey, Ok(_)) => self.rekeyed(Some(number)),
            (Pending::Kek | Pending::Rekey, Err(error)) => {
                eprintln!(
                    "cryptofd-daemon: worker {}: {error}",
                    self.workers[&number].process.pid
                );
                self.workers[&number].process.signal(libc::SIGKILL);
            }
            (Pending::Ping, _) => worker.asked = None,
            (Pending::Broker | Pending::Counts | Pending::Drain, _) => {}
            (Pending::Move(moved), done) => self.moved(moved, done.map(drop)),
            (Pending::Serve(all), Ok(refusals)) => {
                for given in all {
                    match refusals.iter().position(|(sid, _)| *sid == given.sid) {
                        Some(place) => self.refused(number, given, refusals[place].1.clone()),
                        None => self.served(given.sid),
                    }
                }
                self.plan_spare();
            }
            (Pending::Serve(all), Err(error)) => {
                for given in all {
                    self.refused(number, given, error.clone());
                }
            }
        }
    }

    /// A session is served: whoever waits for it may have it.
    fn served(&mut self, sid: u64) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        let informed = session.inform != Inform::Nothing;
        if let Some((id, client)) = session.reply.take() {
            let mut said = json!({"sid": sid});
            if informed {
                said["info"] = true.into();
            }
            self.reply(id, Ok(said), client.take().into_iter().collect());
        }
    }

    /// A worker has its key-encryption key and can serve.
    fn ready(&mut self, number: u64) {
        let Some(worker) = self.workers.get_mut(&number) else {
            return;
        };
        worker.ready = true;
        worker.started = Instant::now();
        let (name, replaces) = (worker.domain.clone(), worker.replaces.take());
        let (pid, epoch) = (worker.process.pid, worker.epoch);
        let asked = self.answer_waiting(&name, number);
        if !asked && epoch > 1 {
            if let Ok(fd) = self.channel(number) {
                let why = if replaces.is_some() {
                    "replaced"
                } else {
                    "taken over"
                };
                let event = json!({
                    "event": "worker", "domain": name, "pid": pid, "epoch": epoch, "why": why,
                });
                self.tell(&event, vec![fd]);
            }
        }
        if let Some(old) = replaces {
            let mut owed = VecDeque::new();
            if let Some(old) = self.workers.get_mut(&old) {
                owed = std::mem::take(&mut old.owed);
                old.leaving = Some(Instant::now() + DRAIN + READY);
                let drain = json!({"op": "drain", "seconds": DRAIN.as_secs()});
                if old.ask(Pending::Drain, drain, Vec::new()).is_err() {
                    old.process.signal(libc::SIGKILL);
                }
            }
            self.rewatch_worker(old);
            let owed = owed.into_iter().map(|given| (given.sid, given.ends));
            self.give(number, owed.collect());
        }
        self.plan_spare();
        self.say_status();
    }

    /// Gives a channel to a domain's worker to those of the broker's requests that wait for one; whether any do.
    fn answer_waiting(&mut self, name: &str, number: u64) -> bool {
        let waiting = match self.domains.get_mut(name) {
            Some(domain) => std::mem::take(&mut domain.waiting),
            None => Vec::new(),
        };
        let any = !waiting.is_empty();
        for id in waiting {
            let about = self
                .workers
                .get(&number)
                .map(|worker| json!({"pid": worker.process.pid, "epoch": worker.epoch}));
            match (self.channel(number), about) {
                (Ok(fd), Some(about)) => self.reply(id, Ok(about), vec![fd]),
                (Ok(_), None) => {}
                (Err(error), _) => self.reply(id, Err(error), Vec::new()),
            }
        }
        any
    }

    /// Does what time asks for with one worker.
    pub(super) fn look_after(&mut self, number: u64, now: Instant) {
        let Some(worker) = self.workers.get(&number) else {
            return;
        };
        let idle = !self.domain_has_sessions(&worker.domain);
        if worker.deadline(idle).is_none_or(|at| at > now) {
            return;
        }
        let Ok(worker) = self.worker(number) else {
            return;
        };
        if worker.leaving.is_some_and(|at| at <= now) {
            // Too late: its exit is what follows.
            worker.leaving = Some(now + READY);
            worker.process.signal(libc::SIGKILL);
        } else if worker.asked.is_some() {
            worker.asked = Some(now);
            worker.condemn("it did not answer for 2 seconds".into());
        } else if !worker.ready {
            worker.started = now;
            worker.process.signal(libc::SIGKILL);
            let (name, old) = (worker.domain.clone(), worker.replaces);
            // Where another serves still, that one goes on.
            if old.is_none_or(|old| !self.workers.contains_key(&old)) {
                self.give_up(&name, "no worker was ready within 5 seconds");
            }
        } else {
            worker.asked = Some(now);
            // One that does not even read is overdue as one that does not answer.
            let _ = worker.ask(Pending::Ping, json!({"op": "ping"}), Vec::new());
            self.rewatch_worker(number);
        }
    }

    /// Ends a domain's sessions: their holders see POLLHUP.
    fn give_up(&mut self, name: &str, why: &str) {
        eprintln!("cryptofd-daemon: {name} is given up: {why}");
        let Some(domain) = self.domains.get_mut(name) else {
            return;
        };
        domain.given_up = Some(why.to_owned());
        domain.current = None;
        let waiting = std::mem::take(&mut domain.waiting);
        let sids: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.domain == name)
            .map(|(sid, _)| *sid)
            .collect();
        for sid in sids {
            self.close_session(sid);
        }
        for id in waiting {
            let error = Error::new(
                Kind::NoEngine,
                libc::ENODEV,
                format!("nobody serves {name}: {why}"),
            );
            self.reply(id, Err(error), Vec::new());
        }
        self.say_status();
    }

    /// A worker is gone: what it said before comes first, then the next one takes over.
    pub(super) fn worker_exited(&mut self, number: u64) {
        if self.spare_stirred(number) {
            return;
        }
        let Some(worker) = self.workers.get(&number) else {
            return;
        };
        let Some(exit) = worker.process.reap() else {
            return;
        };
        // It may have given its end to others, who would write for ever.
        sys::shutdown_reading(worker.link.as_fd());
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(worker) = self.workers.get(&number) {
            match worker.link.receive(&mut buffer) {
                Incoming::Packet(packet) => self.heard(number, packet),
                Incoming::Lost(_) | Incoming::Garbage(_) => {}
                Incoming::Nothing | Incoming::End => break,
            }
        }
        self.buffer = buffer;
        let Some(worker) = self.workers.remove(&number) else {
            return;
        };
        let _ = socket::unwatch(self.epoll.as_fd(), worker.link.as_fd());
        let _ = socket::unwatch(self.epoll.as_fd(), worker.process.as_fd());
        self.rekeyed(Some(number));
        let name = worker.domain.clone();
        if worker.leaving.is_none() {
            eprintln!(
                "cryptofd-daemon: worker {} of {name} is gone: {exit}",
                worker.process.pid
            );
        }
        if let Some(id) = worker.replacement {
            self.replaced(id, worker.leaving.is_some());
        }
        let Some(domain) = self.domains.get_mut(&name) else {
            return;
        };
        if domain.current == Some(number) {
            domain.current = None;
            let at_once = !worker.ready || worker.started.elapsed() < BRIEF;
            let counts = at_once || worker.fault.is_some();
            let too_many = counts && domain.deaths.add();
            let last = worker.fault.clone().unwrap_or_else(|| exit.to_string());
            domain.fault = worker.fault.clone().or(domain.fault.take());
            // One that was to replace another, which is still there.
            let old = worker.replaces.filter(|old| self.workers.contains_key(old));
            if let Some(old) = old {
                self.not_replaced(&name, old);
            } else if too_many {
                let why = format!("five workers died within ten seconds, the last: {last}");
                self.give_up(&name, &why);
            } else if let Err(error) = self.start_worker(&name) {
                self.give_up(&name, error.message());
            }
        }
        self.hand_over(&name, number);
        for pending in worker.pending.into_values() {
            if let Pending::Move(moved) = pending {
                self.move_again(moved);
            }
        }
        self.say_status();
    }

    /// Has a session served by another engine: by the worker that has it, and by all that follow.
    pub(super) fn move_session(
        &mut self,
        reply: Option<u64>,
        sid: u64,
        engine: &str,
    ) -> Result<()> {
        let session = self.sessions.get(&sid).filter(|s| s.reply.is_none());
        let number = session
            .and_then(|session| session.ends.first())
            .map(|end| end.worker)
            .ok_or_else(|| Error::system(libc::ENOENT, &format!("session {sid}")))?;
        let worker = self.worker(number)?;
        if worker.owed.iter().any(|given| given.sid == sid) {
            let why = format!("session {sid} is being taken over: try again");
            return Err(Error::new(Kind::Again, libc::EAGAIN, why));
        }
        let pending = Pending::Move(Move {
            reply,
            sid,
            engine: engine.to_owned(),
        });
        let asked = json!({"op": "move", "sid": sid, "engine": engine});
        worker.ask(pending, asked, Vec::new())?;
        self.rewatch_worker(number);
        Ok(())
    }

    /// The worker died before it answered.
    fn move_again(&mut self, moved: Move) {
        let again = self.move_session(moved.reply, moved.sid, &moved.engine);
        if let (Err(error), Some(id)) = (again, moved.reply) {
            self.reply(id, Err(error), Vec::new());
        }
    }

    fn moved(&mut self, moved: Move, done: Result<()>) {
        if done.is_ok() {
            if let Some(session) = self.sessions.get_mut(&moved.sid) {
                let mut recipe: Value = serde_json::from_str(&session.recipe).unwrap_or_default();
                if !recipe["session"].is_object() {
                    recipe["session"] = json!({});
                }
                recipe["session"]["engine"] = moved.engine.into();
                session.recipe = recipe.to_string();
                super::systemd::keep_recipe(moved.sid, session);
            }
        }
        if let Some(id) = moved.reply {
            self.reply(id, done.map(|()| json!({})), Vec::new());
        }
    }

    /// Where a session of a domain is counted.
    pub(super) fn place(&mut self, name: &str) -> Option<u32> {
        self.domains.get_mut(name)?.counts.as_mut()?.take()
    }

    fn leave_place(&mut self, session: &Session) {
        let domain = self.domains.get_mut(&session.domain);
        let counts = domain.and_then(|domain| domain.counts.as_mut());
        if let Some((counts, place)) = counts.zip(session.place) {
            counts.leave(place);
        }
    }

    /// Gives all that a worker served to the one that serves now.
    fn hand_over(&mut self, name: &str, from: u64) {
        let Some(next) = self.domains.get(name).and_then(|d| d.current) else {
            return;
        };
        let mine: Vec<(u64, Vec<u64>)> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.domain == name)
            .map(|(sid, session)| {
                let mine = session.ends.iter().filter(|end| end.worker == from);
                (*sid, mine.map(|end| end.inode).collect::<Vec<u64>>())
            })
            .filter(|(_, ends)| !ends.is_empty())
            .collect();
        self.with_reserve(|this| this.give(next, mine));
    }

    /// Puts a fresh worker in the place of a domain's; the request `id` is answered when the old one is
    /// gone. False: there is none to be replaced.
    pub(super) fn replace(&mut self, name: &str, id: u64) -> Result<bool> {
        let Some(old) = self.domains.get(name).and_then(|d| d.current) else {
            return Ok(false);
        };
        let busy = |worker: &Worker| !worker.ready || worker.replaces.is_some();
        if self.workers.get(&old).is_none_or(busy) {
            return Err(Error::system(
                libc::EBUSY,
                "this domain's worker is being replaced already",
            ));
        }
        // What a spare worker read when it began may be what is to be replaced: engines, preferences.
        self.dismiss_spare();
        let fresh = match self.start_worker(name) {
            Ok(fresh) => fresh,
            Err(error) => {
                if let Some(domain) = self.domains.get_mut(name) {
                    domain.current = Some(old);
                }
                return Err(error);
            }
        };
        if let Ok(fresh) = self.worker(fresh) {
            fresh.replaces = Some(old);
        }
        if let Ok(old) = self.worker(old) {
            old.replacement = Some(id);
        }
        *self.replacements.entry(id).or_default() += 1;
        Ok(true)
    }

    /// The worker that was to come in the place of `old` died before it was ready: `old` goes on.
    fn not_replaced(&mut self, name: &str, old: u64) {
        let domain = self.domains.entry(name.to_owned()).or_default();
        domain.current = Some(old);
        if let Some(id) = self
            .workers
            .get_mut(&old)
            .and_then(|w| w.replacement.take())
        {
            self.replaced(id, false);
        }
        self.answer_waiting(name, old);
    }

    fn replaced(&mut self, id: u64, planned: bool) {
        let Some(left) = self.replacements.get_mut(&id) else {
            return;
        };
        *left -= 1;
        let none_left = *left == 0;
        if !planned {
            self.replacements.remove(&id);
            let died = Error::system(
                libc::EIO,
                "a worker died before one was replaced by the other",
            );
            self.reply(id, Err(died), Vec::new());
        } else if none_left {
            self.replacements.remove(&id);
            self.reply(id, Ok(json!({})), Vec::new());
        }
    }
}

/// The sessions that a worker has refused among those that it was given.
fn refusals(ok: &Map<String, Value>) -> Vec<(u64, Error)> {
    let all = ok.get("refused").and_then(Value::as_array);
    all.map_or(&[][..], Vec::as_slice)
        .iter()
        .filter_map(|entry| {
            let entry = entry.as_object()?;
            let sid = entry.get("sid")?.as_u64()?;
            Some((sid, answered(entry).err()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> Worker {
        let (here, there) = socket::pair().unwrap();
        let process = Process::with(1, there);
        Worker::known("uid:1".into(), process, Link::to_worker(here), 1, 0)
    }

    #[test]
    fn any_answer_is_a_sign_of_life() {
        let mut worker = worker();
        let asked = Instant::now();
        worker.asked = Some(asked);
        assert_eq!(worker.deadline(false), Some(asked + PATIENCE));
        worker.lives(asked + PING);
        assert_eq!(worker.deadline(false), Some(asked + PING + PATIENCE));
    }

    #[test]
    fn one_that_leaves_is_asked_whether_it_lives() {
        let mut worker = worker();
        assert_eq!(worker.deadline(true), None);
        worker.leaving = Some(worker.answered + DRAIN);
        assert_eq!(worker.deadline(true), Some(worker.answered + PING));
        worker.leaving = Some(worker.answered);
        assert_eq!(worker.deadline(true), Some(worker.answered));
    }
}
