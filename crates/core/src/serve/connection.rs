//! One descriptor's serving end: takes requests, has them done in order, sends the answers.

use super::ivs::{IV, Ivs};
use super::ring::{Ring, Scratch, Turn, brings_key, secret};
use super::work::Done;
use super::{DESCRIPTORS, IN_FLIGHT, Keeper, Share, Shared, pool};
use crate::error::{Error, Result};
use crate::record::{self, Header, Incoming, Op};
use crate::ring;
use crate::session::{Hasher, Session, Stream};
use crate::sys::buffer::Input;
use crate::sys::descriptor::{self, Guarded};
use crate::sys::{arena, memfd, socket};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use zeroize::Zeroize;

/// Bytes of requests that are taken ahead of the work.
const AHEAD: usize = 256 << 10;
/// Requests after which others have their turn.
const TURN: usize = 64;
/// How long others may wait unseen, a CANCEL among them, while there is work.
const UNSEEN: Duration = Duration::from_micros(20);

/// What one descriptor has of its own: the running hash, MAC or stream.
pub struct State {
    shared: Arc<Shared>,
    pub(super) hasher: Option<Hasher>,
    pub(super) stream: Option<Stream>,
    /// Whatever ran here was lost with the worker that served it before.
    pub(super) lost: bool,
    /// Counted among the session's descriptors.
    counted: bool,
    /// For INFO: the ring's bytes, and what was served on it.
    pub(super) ring: Option<(usize, u64)>,
    /// For SEAL.
    pub(super) ivs: Ivs,
}

impl State {
    pub(super) fn new(shared: Arc<Shared>) -> State {
        shared.descriptors.fetch_add(1, Ordering::Relaxed);
        State {
            shared,
            hasher: None,
            stream: None,
            lost: false,
            counted: true,
            ring: None,
            ivs: Ivs::default(),
        }
    }

    /// Who answers for the session, if it is a brokered one.
    pub(super) fn keeper(&self) -> Option<&Arc<dyn Keeper>> {
        self.shared.keeper.as_ref()
    }

    /// Counts the bytes that a request takes as long as the answer lives; EDQUOT beyond the limit.
    pub(super) fn flight(&self, bytes: usize) -> Result<Option<Share>> {
        self.keeper()
            .map_or(Ok(None), |keeper| keeper.flight(bytes))
    }

    /// Whether `request` may be done now.
    pub(super) fn allow(&self, request: &Incoming<'_>) -> Result<()> {
        let allowed = self.keeper().map_or(Ok(()), |keeper| keeper.allow(request));
        allowed.inspect_err(|_| self.session().count_refused())
    }

    /// Not one of the session's descriptors any more; returns how many are left.
    fn leave(&mut self) -> usize {
        if std::mem::take(&mut self.counted) {
            self.shared.descriptors.fetch_sub(1, Ordering::AcqRel) - 1
        } else {
            self.shared.descriptors.load(Ordering::Acquire)
        }
    }

    /// Nothing of it would be missed.
    fn clean(&self) -> bool {
        self.stream.is_none() && self.hasher.as_ref().is_none_or(|h| h.length() == 0)
    }

    /// The session.
    pub fn session(&self) -> &Arc<Session> {
        &self.shared.session
    }

    /// The running hash or MAC, begun if it was not.
    pub fn hasher(&mut self) -> Result<&mut Hasher> {
        match &mut self.hasher {
            Some(hasher) => Ok(hasher),
            None if self.lost => Err(Error::stale(
                "what this descriptor had taken was lost with its worker: reset, and begin again",
            )),
            none => Ok(none.insert(self.shared.session.hasher()?)),
        }
    }

    /// A state for another descriptor of the session.
    pub fn fork(&self) -> Result<State> {
        if self.stream.is_some() {
            return Err(Error::unsupported(
                "a stream is open on this descriptor: finish it before you clone",
            ));
        }
        if self.shared.descriptors.load(Ordering::Relaxed) >= DESCRIPTORS {
            return Err(Error::new(
                crate::error::Kind::System,
                libc::EMFILE,
                format!(
                    "this session has {DESCRIPTORS} descriptors, which is the limit: close some"
                ),
            ));
        }
        let hasher = match &self.hasher {
            Some(hasher) => Some(hasher.fork()?),
            None => None,
        };
        let mut fresh = State::new(self.shared.clone());
        fresh.hasher = hasher;
        fresh.lost = self.lost;
        Ok(fresh)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A request that waits for its turn.
struct Waiting {
    packet: Vec<u8>,
    id: u64,
    fds: Vec<Guarded>,
    /// What it will be answered instead of being done.
    refused: Option<Error>,
    /// How many a CANCEL has cancelled.
    cancelled: Option<u64>,
    /// For SEAL, if it was drawn with others'.
    iv: Option<[u8; IV]>,
}

impl Drop for Waiting {
    /// A key that was to be wrapped does not stay in freed memory.
    fn drop(&mut self) {
        if brings_key(record::op(&self.packet)) {
            self.packet.zeroize();
        }
    }
}

/// An answer that waits to be sent.
struct Outgoing {
    packet: Vec<u8>,
    fd: Option<Guarded>,
    op: u16,
    id: u64,
}

impl Drop for Outgoing {
    /// Keys do not stay in freed memory.
    fn drop(&mut self) {
        if Op::from_number(self.op).is_some_and(secret) {
            self.packet.zeroize();
        }
    }
}

/// What a turn ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Come back when there is a request.
    Readable,
    /// Come back when an answer can be sent.
    Writable,
    /// Come back at once.
    Soon,
    /// It is over.
    Over,
}

/// A serving end.
pub struct Connection {
    end: Guarded,
    state: State,
    inbox: VecDeque<Waiting>,
    ahead: usize,
    outbox: Option<Outgoing>,
    ring: Option<Box<Ring>>,
    /// When all that was there had been taken.
    taken: Option<Instant>,
    /// Requests to the worker before were passed over: whoever sent them may not know of this one.
    passed_over: bool,
    /// Nothing more will come.
    ended: bool,
    /// To be given up to another worker: as soon as nothing is under way (or, `true`, at once).
    leaving: Option<bool>,
    /// It is given up to another worker: what comes now is that one's.
    left: bool,
}

impl Connection {
    pub(super) fn new(end: Guarded, state: State) -> Connection {
        Connection {
            end,
            state,
            inbox: VecDeque::new(),
            ahead: 0,
            outbox: None,
            ring: None,
            taken: None,
            passed_over: false,
            ended: false,
            leaving: None,
            left: false,
        }
    }

    /// Says first which worker serves now. False: there is no room yet.
    pub(super) fn announce(&mut self) -> bool {
        self.outbox = Some(self.notice(Header::announcement));
        self.flush().unwrap_or(true)
    }

    /// Says what INFO says before it is asked: as the answer to a request with the id 0.
    pub(super) fn inform(&mut self) {
        if self.outbox.is_some() || self.end.get().is_none() {
            return;
        }
        let header = Header {
            op: Op::Info as u16,
            ..Header::default()
        };
        self.outbox = Some(self.answer(Waiting {
            packet: header.request().to_vec(),
            id: 0,
            fds: Vec::new(),
            refused: None,
            cancelled: None,
            iv: None,
        }));
        // What finds no room is sent when the client asks for something.
        let _ = self.flush();
    }

    /// To be given up to another worker; true if that can be now.
    pub(super) fn leave(&mut self, whatever: bool) -> bool {
        let whatever = whatever || self.leaving == Some(true);
        self.leaving = Some(whatever);
        self.leaves()
    }

    /// Whether it goes now. That is decided once: a client may put a request on the ring at any moment.
    fn leaves(&mut self) -> bool {
        self.left = self.left || self.may_leave();
        self.left
    }

    fn may_leave(&self) -> bool {
        let still = |ring: &Ring| ring.waiting().is_ok_and(|waiting| waiting == 0);
        let idle = self.inbox.is_empty()
            && self.outbox.is_none()
            && self.ring.as_deref().is_none_or(still);
        match self.leaving {
            Some(true) => true,
            Some(false) => idle && self.state.clean(),
            None => false,
        }
    }

    /// The serving end; `None` if the program took it away.
    pub(super) fn end(&self) -> Option<BorrowedFd<'_>> {
        self.end.get()
    }

    /// Serves until there is nothing to do, or others must have their turn. `buffer` holds one record and
    /// a byte more.
    pub(super) fn turn(&mut self, buffer: &mut [u8], scratch: &mut Scratch) -> Next {
        if self.end.get().is_none() || self.left {
            return Next::Over;
        }
        let mut budget = TURN;
        loop {
            match self.flush() {
                Ok(true) => {}
                Ok(false) => return Next::Writable,
                Err(Gone) => return Next::Over,
            }
            if self.leaves() {
                return Next::Over;
            }
            if self.inbox.is_empty() && budget == 0 {
                return if self.ring.is_some() {
                    Next::Soon
                } else {
                    Next::Readable
                };
            }
            let seen = |taken: Instant| taken.elapsed() < UNSEEN;
            if !self.ended && (self.inbox.is_empty() || !self.taken.is_some_and(seen)) {
                if self.take(buffer).is_err() {
                    return Next::Over;
                }
                self.draw();
                self.taken = (self.inbox.len() > 1).then(Instant::now);
            }
            if std::mem::take(&mut self.passed_over) {
                self.outbox = Some(self.notice(Header::announcement));
                budget = budget.saturating_sub(1);
                continue;
            }
            let Some(waiting) = self.inbox.pop_front() else {
                let Some(ring) = self.ring.as_mut().filter(|_| !self.ended) else {
                    return if self.ended {
                        Next::Over
                    } else {
                        Next::Readable
                    };
                };
                match ring.turn(&mut self.state, scratch) {
                    Ok(Turn::Ring) => self.outbox = Some(self.notice(Header::bell)),
                    Ok(Turn::Asleep) if self.leaves() => return Next::Over,
                    Ok(Turn::Asleep) => return Next::Readable,
                    Ok(Turn::More) => return Next::Soon,
                    // Whoever scribbles on a ring loses the session, and nobody else does.
                    Err(_) => return Next::Over,
                }
                continue;
            };
            if budget == 0 {
                self.inbox.push_front(waiting);
                return Next::Soon;
            }
            budget -= 1;
            self.ahead -= waiting.packet.len();
            self.outbox = Some(self.answer(waiting));
        }
    }

    /// Takes what is there, up to the limits.
    fn take(&mut self, buffer: &mut [u8]) -> std::result::Result<(), Gone> {
        let mut looked_at = 0;
        while self.inbox.len() < IN_FLIGHT && self.ahead < AHEAD && looked_at < TURN {
            looked_at += 1;
            if self.inbox.back().is_some_and(|w| !w.fds.is_empty()) {
                return Ok(());
            }
            let end = self.end.again();
            let received = descriptor::making(|| {
                let got = socket::receive(end, &mut [&mut *buffer], socket::Take::Whole, true)?;
                let fds: Vec<Guarded> = got.fds.into_iter().map(Guarded::new).collect();
                Ok::<_, std::io::Error>((got.length, fds, got.lost))
            });
            let (length, fds, lost) = match received {
                Ok(received) => received,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::EAGAIN) => return Ok(()),
                    // The other end closed with answers unread.
                    Some(libc::ECONNRESET) => continue,
                    _ => return Err(Gone),
                },
            };
            if length == 0 {
                // The end; or an empty packet, which is no record.
                self.ended = true;
                return Ok(());
            }
            let packet = &buffer[..length.min(buffer.len())];
            let Some(id) = record::id(packet) else {
                // What cannot even be refused ends the session, after what came before it.
                self.ended = true;
                return Ok(());
            };
            if let Some(keeper) = self.state.keeper() {
                let epoch = record::epoch(packet);
                if epoch != 0 && epoch != keeper.epoch() {
                    // Meant for the worker before; the client sends it again.
                    self.passed_over = true;
                    continue;
                }
                if length == packet.len() && record::is_bell(packet) {
                    // It has woken us, which is all that it is for.
                    continue;
                }
            }
            self.accept(packet.to_vec(), id, length, fds, lost);
            let packet = &mut buffer[..length.min(record::RECORD + 1)];
            if brings_key(record::op(packet)) {
                packet.zeroize();
            }
        }
        Ok(())
    }

    /// Draws the IVs of small messages that wait, at once, now that their bytes are fixed (see `Ivs`).
    fn draw(&mut self) {
        let fresh = |waiting: &&mut Waiting| {
            waiting.iv.is_none()
                && waiting.refused.is_none()
                && waiting.fds.is_empty()
                && record::op(&waiting.packet) == Op::Seal as u16
        };
        let count = self.inbox.iter_mut().filter(fresh).count();
        if count < 2 {
            return;
        }
        let mut ivs = Ivs::default();
        ivs.draw(count);
        for waiting in self.inbox.iter_mut().filter(fresh) {
            waiting.iv = ivs.drawn();
        }
    }

    /// Looks at a packet before its turn: what is wrong with it, and whom it cancels.
    fn accept(&mut self, packet: Vec<u8>, id: u64, length: usize, fds: Vec<Guarded>, lost: bool) {
        let mut waiting = Waiting {
            packet,
            id,
            fds,
            refused: None,
            cancelled: None,
            iv: None,
        };
        if length > record::RECORD {
            waiting.refused = Some(Error::too_large(format!(
                "a record of {length} bytes: at most {}; attach a memfd for more",
                record::RECORD
            )));
        } else {
            match Incoming::parse(&waiting.packet) {
                Err(error) => waiting.refused = Some(error),
                Ok(request) => {
                    let expected = usize::from(request.attached > 0);
                    if waiting.fds.len() > expected {
                        waiting.refused = Some(Error::invalid(format!(
                            "{} descriptors where {expected} belong",
                            waiting.fds.len()
                        )));
                    } else if lost {
                        waiting.refused = Some(Error::system(
                            libc::EMFILE,
                            "the serving process has no room for the attached descriptor",
                        ));
                    } else if request.epoch != 0 && self.state.keeper().is_none() {
                        waiting.refused = Some(Error::invalid(
                            "an epoch: this session has no worker to be replaced",
                        ));
                    } else if waiting.fds.len() < expected {
                        waiting.refused =
                            Some(Error::invalid("the flag ATTACHED without a descriptor"));
                    } else if request.op == Op::Cancel {
                        waiting.cancelled = Some(cancel(&mut self.inbox, request.params.target));
                    }
                }
            }
        }
        if waiting.refused.is_some() {
            waiting.fds.clear();
            // Only its id and op are needed for the answer.
            let rest = record::HEADER.min(waiting.packet.len());
            if brings_key(record::op(&waiting.packet)) {
                waiting.packet[rest..].zeroize();
            }
            waiting.packet.truncate(rest);
        }
        self.ahead += waiting.packet.len();
        self.inbox.push_back(waiting);
    }

    /// Does a request, or says why not.
    fn answer(&mut self, mut waiting: Waiting) -> Outgoing {
        let fds = std::mem::take(&mut waiting.fds);
        let done = match waiting.refused.take() {
            Some(error) => Err(error),
            None => self.done(&waiting, &fds),
        };
        drop(fds);
        let (id, op) = (waiting.id, record::op(&waiting.packet));
        let mut outgoing = match done.and_then(|done| outgoing(done, id, op)) {
            Ok(outgoing) => outgoing,
            Err(error) => refusal(&error, id, op),
        };
        if let Some(keeper) = self.state.keeper() {
            record::set_epoch(&mut outgoing.packet, keeper.epoch());
        }
        outgoing
    }

    fn done(&mut self, waiting: &Waiting, fds: &[Guarded]) -> Result<Done> {
        let request = Incoming::parse(&waiting.packet)?;
        if let Some(number) = waiting.cancelled {
            let mut result = vec![0; record::HEADER];
            result.extend_from_slice(&number.to_le_bytes());
            return Ok(Done::Record(result));
        }
        let bytes = waiting.packet.len().max(request.attached);
        let flight = self.state.flight(bytes);
        let _flight = flight.inspect_err(|_| self.state.session().count_refused())?;
        self.state.allow(&request)?;
        if self.state.keeper().is_some() && request.op == Op::Ring {
            return self.make_ring(&request);
        }
        self.state.ring = self.ring.as_ref().map(|ring| ring.report());
        let mut attached = Vec::new();
        let (mut aad, mut data) = (request.aad, request.data);
        if let Some(fd) = fds.first() {
            attached = memfd::read(fd.again(), request.attached)?;
            let (head, tail) = attached.split_at(request.attached_aad);
            if !head.is_empty() {
                aad = head;
            }
            data = tail;
        }
        if let Some(iv) = waiting.iv {
            self.state.ivs.give(iv);
        }
        let done = arena::bounded(|| self.state.work(&request, aad, data));
        self.state.ivs.forget();
        if brings_key(request.op as u16) {
            attached.zeroize();
        }
        done
    }

    /// Makes a ring for the client, in place of the one whose number it knows.
    fn make_ring(&mut self, request: &Incoming<'_>) -> Result<Done> {
        let Some(keeper) = self.state.keeper().cloned() else {
            return Err(Error::unsupported("no rings here"));
        };
        if let Some(ring) = &self.ring {
            if request.params.target != Some(ring.number()) {
                return Err(Error::system(
                    libc::EBUSY,
                    "this descriptor has a ring, which another holder may use: clone it for one of your own",
                ));
            }
            if ring.waiting().map_or(true, |waiting| waiting > 0) {
                return Err(Error::system(libc::EBUSY, "requests wait on the ring"));
            }
            self.ring = None;
        }
        let wanted = request.params.length.unwrap_or(0);
        if wanted == 0 {
            return Ok(Done::Record(super::work::room(0)?));
        }
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let share = keeper.ring(wanted.clamp(ring::LEAST, ring::MOST))?;
        let size = share.bytes();
        let (ring, memory) = Ring::make(keeper.epoch(), share)?;
        let said = serde_json::json!({"bytes": size}).to_string();
        self.ring = Some(Box::new(ring));
        Ok(Done::Ring(memory, said.into_bytes()))
    }

    /// A record that answers nothing: a header with the epoch.
    fn notice(&self, header: impl FnOnce(u32) -> [u8; record::HEADER]) -> Outgoing {
        let epoch = self.state.keeper().map_or(0, |keeper| keeper.epoch());
        Outgoing {
            packet: header(epoch).to_vec(),
            fd: None,
            op: 0,
            id: 0,
        }
    }

    /// Sends what waits. False: there is no room yet.
    fn flush(&mut self) -> std::result::Result<bool, Gone> {
        let Some(outgoing) = self.outbox.take() else {
            return Ok(true);
        };
        let fd = outgoing.fd.as_ref().map(Guarded::again);
        let packet = &outgoing.packet[..];
        match socket::send(self.end.again(), &[Input::from(packet)], fd, true) {
            Ok(()) => Ok(true),
            Err(error) => match error.raw_os_error() {
                Some(errno @ (libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM)) => {
                    if matches!(errno, libc::ENOBUFS | libc::ENOMEM) {
                        // EPOLLOUT does not speak of memory: do not spin.
                        std::thread::sleep(std::time::Duration::from_millis(5));
                    }
                    self.outbox = Some(outgoing);
                    Ok(false)
                }
                // Too many descriptors on their way, or this one cannot travel: the answer is a refusal.
                Some(errno) if outgoing.fd.is_some() && errno != libc::EPIPE => {
                    if outgoing.op == Op::StreamUpdate as u16 {
                        // Its output is lost, so what follows would not fit.
                        self.state.stream = None;
                    }
                    let error = Error::system(errno, "passing the answer's descriptor");
                    let mut refused = refusal(&error, outgoing.id, outgoing.op);
                    record::set_epoch(&mut refused.packet, record::epoch(&outgoing.packet));
                    self.outbox = Some(refused);
                    self.flush()
                }
                _ => Err(Gone),
            },
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let released = self.left && !self.ended;
        let left = self.state.leave();
        if let Some(keeper) = self.state.keeper() {
            keeper.ended(self.end.inode(), left, released);
        }
    }
}

/// The other end is gone.
struct Gone;

/// Refuses those that wait with ECANCELED: the one with the id `target`, or all. Returns how many.
fn cancel(inbox: &mut VecDeque<Waiting>, target: Option<u64>) -> u64 {
    let mut number = 0;
    for waiting in inbox.iter_mut() {
        let meant = target.is_none_or(|target| target == waiting.id);
        if meant && waiting.refused.is_none() && waiting.cancelled.is_none() {
            waiting.refused = Some(Error::system(libc::ECANCELED, "cancelled before it began"));
            waiting.fds.clear();
            number += 1;
        }
    }
    number
}

/// An answer of what was done: in the record, in a memfd, or as a descriptor.
fn outgoing(done: Done, id: u64, op: u16) -> Result<Outgoing> {
    let mut header = Header {
        op,
        id,
        ..Header::default()
    };
    match done {
        Done::Clone(state) => {
            let client = pool::serve_guarded(*state)?;
            Ok(Outgoing {
                packet: header.answer().to_vec(),
                fd: Some(client),
                op,
                id,
            })
        }
        Done::Ring(memory, said) => {
            header.data = said.len() as u32;
            Ok(Outgoing {
                packet: [&header.answer()[..], &said].concat(),
                fd: Some(memory),
                op,
                id,
            })
        }
        Done::Record(mut packet) => {
            let length = packet.len() - record::HEADER;
            let fd = if length > record::INLINE_ANSWER {
                header.flags = record::FLAG_ATTACHED;
                header.attached = length as u64;
                let fd = descriptor::making(|| memfd::create().map(Guarded::new))?;
                memfd::fill(fd.again(), &[Input::from(&packet[record::HEADER..])])?;
                packet.truncate(record::HEADER);
                Some(fd)
            } else {
                header.data = length as u32;
                None
            };
            packet[..record::HEADER].copy_from_slice(&header.answer());
            Ok(Outgoing { packet, fd, op, id })
        }
    }
}

/// An answer that says no.
fn refusal(error: &Error, id: u64, op: u16) -> Outgoing {
    let sentence = record::message(error);
    let header = Header {
        op,
        id,
        // Never 0, which would be a success.
        status: error.errno().clamp(1, 4095) as u32,
        data: sentence.len() as u32,
        ..Header::default()
    };
    let mut packet = header.answer().to_vec();
    packet.extend_from_slice(sentence);
    Outgoing {
        packet,
        fd: None,
        op,
        id,
    }
}

/// A connected pair: the serving end written down before any fork, and the client's.
pub(super) fn pair() -> Result<(Guarded, OwnedFd)> {
    descriptor::making(|| {
        let (client, end) = socket::pair()
            .map_err(|e| Error::system(e.raw_os_error().unwrap_or(libc::EIO), "socketpair"))?;
        Ok((Guarded::new(end), client))
    })
}

/// The same, with the client's end written down too: it is on its way to another process.
pub(super) fn guarded_pair() -> Result<(Guarded, Guarded)> {
    descriptor::making(|| {
        let (client, end) = socket::pair()
            .map_err(|e| Error::system(e.raw_os_error().unwrap_or(libc::EIO), "socketpair"))?;
        Ok((Guarded::new(end), Guarded::new(client)))
    })
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.again()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::shared::Shared as Memory;
    use serde_json::Value;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU64;

    /// Says which ends went, and whether to another worker.
    #[derive(Default)]
    struct Recorder(Mutex<Vec<bool>>);

    impl Keeper for Recorder {
        fn epoch(&self) -> u32 {
            1
        }
        fn allow(&self, _: &Incoming<'_>) -> Result<()> {
            Ok(())
        }
        fn input(&self) -> Option<&crate::secret::Secret> {
            None
        }
        fn version(&self) -> u8 {
            1
        }
        fn older(&self, _: u8) -> Option<Arc<Session>> {
            None
        }
        fn info(&self) -> Value {
            Value::Null
        }
        fn hold(&self, _: BorrowedFd<'_>, _: u64) -> Result<()> {
            Ok(())
        }
        fn ended(&self, _: u64, _: usize, released: bool) {
            self.0.lock().unwrap().push(released);
        }
    }

    #[test]
    fn what_comes_as_an_end_is_given_up_is_the_next_workers() {
        let keeper = Arc::new(Recorder::default());
        let request = crate::session::Request {
            algorithm: "sha256".into(),
            ..Default::default()
        };
        let shared = Arc::new(Shared {
            session: Session::open(request).unwrap(),
            descriptors: 0.into(),
            keeper: Some(keeper.clone()),
        });
        let size = ring::LEAST as u64;
        let share = Share::take(&Arc::new(AtomicU64::new(0)), |_| Some(size));
        let (ring, memory) = Ring::make(1, share.ok().unwrap()).unwrap();
        let clients = Memory::map(memory.again(), ring::LEAST).unwrap();
        let (here, client) = socket::pair().unwrap();
        let mut connection = Connection::new(Guarded::new(here), State::new(shared));
        connection.ring = Some(Box::new(ring));

        assert!(connection.leave(false), "nothing is under way");
        let (mut buffer, mut scratch) = (vec![0; record::RECORD + 1], Scratch::default());
        // On the ring, and beside it.
        clients.word(ring::SUBMITTED).store(1, Ordering::Release);
        let header = Header {
            op: Op::Info as u16,
            id: 1,
            ..Header::default()
        };
        socket::send(
            client.as_fd(),
            &[Input::from(&header.request()[..])],
            None,
            true,
        )
        .unwrap();
        assert_eq!(connection.turn(&mut buffer, &mut scratch), Next::Over);
        drop(connection);
        assert_eq!(*keeper.0.lock().unwrap(), [true]);
    }
}
