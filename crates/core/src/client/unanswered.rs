//! What was sent and is not answered, and how another worker gets it (docs/wire.md, Epochs). Whoever reads
//! answers reads them through this: nothing else knows what an epoch is.
//!
//! A request that was sent while the worker's epoch was not known yet is done by whichever worker finds it. So
//! before those are sent again an INFO goes: what is answered before it is answered again behind it.

use super::{Completion, Taken, Waiting, framed, lying, next, peek, system};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::record::{self, Op, Request};
use crate::sys::buffer::Input;
use crate::sys::fork;
use crate::sys::memfd::{self, Mapped};
use crate::sys::socket;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use zeroize::Zeroizing;

/// Most bytes that are kept of one descriptor's requests. Those beyond are ESTALE after a takeover.
const MOST: usize = 2 * record::ATTACHED;

/// Most requests that can be unanswered: more do not fit into a socket, a worker and a socket. Where there are,
/// somebody else takes the answers, and nothing is kept any more.
const LONGEST: usize = 4096;

/// A request, as it was sent.
struct Sent {
    id: u64,
    packet: Zeroizing<Vec<u8>>,
    memory: Option<Mapped>,
    /// The op of a request that was too large to be kept: something else goes in its place.
    dropped: Option<u16>,
    /// Any worker that finds it does it.
    loose: bool,
}

impl Sent {
    fn bytes(&self) -> usize {
        self.packet.len() + self.memory.as_ref().map_or(0, Mapped::len)
    }

    fn send(&self, fd: BorrowedFd<'_>) -> Result<()> {
        let memory = match &self.memory {
            None => None,
            Some(mapped) => Some(memfd::with(&[mapped.input()])?),
        };
        let memory = memory.as_ref().map(AsFd::as_fd);
        socket::send(fd, &[Input::from(&self.packet[..])], memory, true)
            .map_err(|e| system(&e, "submit"))
    }

    /// Keeps no more of it than what is needed to say that it is lost.
    fn forget(&mut self) {
        self.dropped = Some(record::op(&self.packet));
        self.memory = None;
        let info = record::Header {
            op: Op::Info as u16,
            id: self.id,
            ..record::Header::default()
        };
        self.packet = Zeroizing::new(info.request().to_vec());
    }
}

/// The INFO behind which nothing is answered any more that was sent before it.
struct Probe {
    id: u64,
    sent: bool,
}

/// The requests of one descriptor that are not answered.
pub(super) struct Unanswered {
    /// Which worker serves a brokered session, 0 while that is not known; `None`: not a brokered one.
    epoch: Option<u32>,
    /// In their order; nothing unless the session is brokered, or that is not known yet.
    sent: VecDeque<Sent>,
    /// How many of those, from the front, this worker has got.
    repeated: usize,
    bytes: usize,
    probe: Option<Probe>,
    /// Somebody else takes the answers.
    elsewhere: bool,
    generation: u64,
}

impl Default for Unanswered {
    fn default() -> Unanswered {
        Unanswered::of(None)
    }
}

impl Unanswered {
    /// Nothing was sent yet to the worker `epoch` (0: not known; `None`: the session is not a brokered one).
    pub(super) fn of(epoch: Option<u32>) -> Unanswered {
        Unanswered {
            epoch,
            sent: VecDeque::new(),
            repeated: 0,
            bytes: 0,
            probe: None,
            elsewhere: false,
            generation: fork::generation(),
        }
    }

    /// Which worker serves a brokered session, 0 while that is not known; `None`: not a brokered one.
    pub(super) fn epoch(&self) -> Option<u32> {
        self.epoch
    }

    /// What the session turned out to be.
    pub(super) fn is(&mut self, epoch: Option<u32>) {
        self.epoch = epoch;
        if epoch.is_none() {
            self.forget();
        }
    }

    /// Lets go of all copies.
    pub(super) fn forget(&mut self) {
        self.sent.clear();
        (self.repeated, self.bytes, self.probe) = (0, 0, None);
    }

    /// What a forked child inherited is its parent's.
    fn mine(&mut self) {
        if self.generation != fork::generation() {
            self.forget();
            self.generation = fork::generation();
        }
    }

    /// Sends `request`, behind what a fresh worker has to get before it, and keeps a copy. EAGAIN: not now.
    pub(super) fn send(
        &mut self,
        fd: BorrowedFd<'_>,
        id: u64,
        request: &Request<'_>,
    ) -> Result<()> {
        if !self.repeat(fd)? {
            return Err(super::again(
                "the requests before this one are sent again first",
            ));
        }
        if self.sent.len() == LONGEST {
            self.forget();
            self.elsewhere = true;
        }
        let Some(epoch) = self.epoch.filter(|_| !self.elsewhere) else {
            return super::send(fd, id, request, true);
        };
        let attached = request.aad.len().saturating_add(request.data.len());
        let room = MOST.saturating_sub(self.bytes);
        let sent = framed(fd, id, epoch, request, true, |parts, memory| {
            // A copy first: nobody can change it between this sending and the next.
            let length = parts.iter().map(Input::len).sum();
            let mut packet = Zeroizing::new(vec![0; length]);
            let mut rest = &mut packet[..];
            for part in parts {
                let (here, after) = rest.split_at_mut(part.len());
                part.copy_to(here);
                rest = after;
            }
            socket::send(fd, &[Input::from(&packet[..])], memory, true)
                .map_err(|e| system(&e, "submit"))?;
            let mapped = memory.map(|fd| Mapped::map(fd, attached));
            let kept = length + memory.map_or(0, |_| attached) <= room;
            let mut sent = Sent {
                id,
                packet,
                memory: None,
                dropped: None,
                loose: epoch == 0,
            };
            match mapped {
                None if kept => {}
                Some(Ok(mapped)) if kept => sent.memory = Some(mapped),
                _ => sent.forget(),
            }
            Ok(sent)
        })?;
        self.bytes += sent.bytes();
        self.sent.push_back(sent);
        self.repeated += 1;
        Ok(())
    }

    /// Keeps a request that whoever made this descriptor has sent, of its id and op alone.
    pub(super) fn asked_before(&mut self, id: u64, op: Op) {
        let header = record::Header {
            op: op as u16,
            id,
            ..record::Header::default()
        };
        let sent = Sent {
            id,
            packet: Zeroizing::new(header.request().to_vec()),
            memory: None,
            dropped: None,
            loose: true,
        };
        self.bytes += sent.bytes();
        self.sent.push_back(sent);
        self.repeated += 1;
    }

    /// Sends what the present worker has not got yet. False: there is no room for all of it now.
    pub(super) fn repeat(&mut self, fd: BorrowedFd<'_>) -> Result<bool> {
        self.mine();
        let epoch = self.epoch.unwrap_or(0);
        let done = |sent: Result<()>| match sent {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Again => Ok(false),
            Err(error) => Err(error),
        };
        if let Some(probe) = self.probe.as_mut().filter(|probe| !probe.sent) {
            let info = Request::new(Op::Info);
            let sent = framed(fd, probe.id, epoch, &info, true, |parts, _| {
                socket::send(fd, parts, None, true).map_err(|e| system(&e, "submit"))
            });
            if !done(sent)? {
                return Ok(false);
            }
            probe.sent = true;
        }
        while let Some(request) = self.sent.get_mut(self.repeated) {
            record::set_epoch(&mut request.packet, epoch);
            if !done(request.send(fd))? {
                return Ok(false);
            }
            self.repeated += 1;
        }
        Ok(true)
    }

    /// Another worker serves now. ESTALE, once, where nothing was kept.
    pub(super) fn renew(&mut self, fd: BorrowedFd<'_>, epoch: u32) -> Result<()> {
        self.mine();
        match self.epoch {
            None => return Err(lying("an epoch, and the session is not a brokered one")),
            // It says so again when it has passed over requests to the one before.
            Some(known) if known == epoch => return self.repeat(fd).map(drop),
            Some(_) => self.epoch = Some(epoch),
        }
        if self.elsewhere {
            return Err(Error::stale(
                "another worker serves this session now, and requests are answered elsewhere: submit again \
                 what was not answered yet, or clone the descriptor first",
            ));
        }
        self.repeated = 0;
        self.probe = if self.sent.iter().any(|sent| sent.loose) {
            let taken = |id: &u64| self.sent.iter().any(|sent| sent.id == *id);
            let id = (0..u64::MAX).rev().find(|id| !taken(id)).unwrap_or(0);
            Some(Probe { id, sent: false })
        } else {
            None
        };
        self.repeat(fd).map(drop)
    }

    /// Whether an answer with this id is for nobody.
    pub(super) fn swallows(&self, id: u64) -> bool {
        self.probe.as_ref().is_some_and(|probe| {
            (probe.sent && probe.id == id) || self.sent.iter().any(|s| s.loose && s.id == id)
        })
    }

    /// Counts an answer; `None` if it is for nobody.
    pub(super) fn answered(&mut self, mut completion: Completion) -> Option<Completion> {
        self.mine();
        let id = completion.id;
        if self.swallows(id) {
            if self.probe.as_ref().is_some_and(|probe| probe.id == id) {
                self.probe = None;
                self.sent.iter_mut().for_each(|sent| sent.loose = false);
            }
            return None;
        }
        if self.epoch == Some(0) {
            self.is(Some(completion.epoch).filter(|epoch| *epoch != 0));
        }
        // Answers come in the order of the requests: nearly always the first.
        let place = self.sent.iter().position(|sent| sent.id == id);
        if let Some(sent) = place.and_then(|place| self.sent.remove(place)) {
            self.repeated -= usize::from(place < Some(self.repeated));
            self.bytes -= sent.bytes();
            if let Some(op) = sent.dropped.filter(|op| *op != completion.op) {
                completion = lost(id, op, completion.epoch);
            }
        }
        Some(completion)
    }

    /// Takes what waits, up to the next answer that is for somebody. EAGAIN where there is none; otherwise
    /// errors as `take`.
    pub(super) fn take(&mut self, fd: BorrowedFd<'_>, most: usize) -> Result<Completion> {
        loop {
            self.repeat(fd)?;
            let waiting = self.look(fd)?;
            let stands_in = |sent: &Sent| sent.dropped.is_some_and(|op| op != waiting.op);
            let asked = self.sent.iter().find(|sent| sent.id == waiting.id);
            let most = if asked.is_some_and(stands_in) {
                usize::MAX
            } else {
                most
            };
            if let Taken::Answer(completion) = next(fd, most, true, |_| true)? {
                if let Some(completion) = self.answered(completion) {
                    return Ok(completion);
                }
            }
        }
    }

    /// Looks at the next answer that is for somebody, and takes what is before it. EAGAIN where there is none.
    pub(super) fn look(&mut self, fd: BorrowedFd<'_>) -> Result<Waiting> {
        self.mine();
        loop {
            match next(fd, usize::MAX, true, |id| self.swallows(id))? {
                Taken::Answer(completion) => drop(self.answered(completion)),
                Taken::Epoch(epoch) => self.renew(fd, epoch)?,
                Taken::Bell => {}
                Taken::Left => return peek(fd, true),
            }
        }
    }
}

/// What is answered to a request that was not kept.
fn lost(id: u64, op: u16, epoch: u32) -> Completion {
    let error = Error::stale(
        "its worker went before it answered, and the request was too large to be kept: submit it again",
    );
    Completion {
        id,
        op,
        status: error.errno(),
        data: error.message().as_bytes().to_vec(),
        fd: None,
        epoch,
    }
}
