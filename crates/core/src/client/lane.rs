//! The client's side of a ring: many requests at once, without system calls while both sides are awake.
//!
//! What a caller waits for is repeated from the caller's own memory when the worker goes; the ring it was on is
//! dropped whole. What stands on a ring is never believed: only lengths, and those within what was given.

use super::pace::{LONGEST, Pace};
use super::{Client, Completion, Taken, next, system};
use crate::cpu::{cores, spin};
use crate::error::{Error, Kind, Result};
use crate::record::{self, Op, Request};
use crate::ring::room::{Room, lines};
use crate::ring::{self, Completed, ENTRIES, Submission};
use crate::sys::buffer::{Input, Output};
use crate::sys::shared::{Shared, sealed_length};
use crate::sys::socket;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Bytes of the ring that small requests get.
const SMALL: usize = 1 << 20;
/// Bytes of the largest ring that is asked for.
const LARGE: usize = 64 << 20;
/// Requests after which a ring pays.
const PAYS: u32 = 8;
/// Bytes of one request from which it pays at once.
const PAYS_BYTES: usize = 32 << 10;
/// Requests after which one that was refused is asked for again.
const ASK_AGAIN: u32 = 10_000;
/// Requests of a batch that are on their way at once.
const ON_THE_WAY: usize = ENTRIES as usize / 2;
/// The bell may have gone to another holder of the descriptor: look again.
const LOOK: i32 = 100;

/// One request of a batch, and where its result goes.
pub struct Item<'a> {
    /// What is asked.
    pub request: Request<'a>,
    /// Room for the result, as much as it may take.
    pub out: Output<'a>,
    /// Bytes of the result, or why there is none.
    pub done: Option<Result<usize>>,
}

impl<'a> Item<'a> {
    /// Not done yet.
    pub fn new(request: Request<'a>, out: Output<'a>) -> Item<'a> {
        Item {
            request,
            out,
            done: None,
        }
    }

    /// Takes an answer that came by the socket.
    pub(super) fn take(&mut self, completion: Completion) {
        if completion.op != self.request.op as u16 {
            self.done = Some(Err(super::lying("it answers another op than was asked")));
            return;
        }
        self.done = Some(completion.result().and_then(|data| {
            let data = zeroize::Zeroizing::new(data);
            if data.len() > self.out.len() {
                return Err(too_long(data.len(), self.out.len()));
            }
            self.out.split_at(data.len()).0.copy_from(&data);
            Ok(data.len())
        }));
    }
}

fn too_long(length: usize, room: usize) -> Error {
    Error::new(
        Kind::System,
        libc::EPROTO,
        format!("the serving side answered {length} bytes where at most {room} can be"),
    )
}

/// A ring's memory and what is free in it; lives as long as its last buffer.
struct Memory {
    shared: Shared,
    free: Mutex<Free>,
}

struct Free {
    room: Room,
    /// Requests that nobody waits for any more are under way: what is given back waits for them.
    abandoned: u32,
    later: Vec<(u32, u32)>,
}

impl Memory {
    fn take(&self, length: u32) -> Option<u32> {
        super::lock(&self.free).room.take(length)
    }

    fn give(&self, at: u32, length: u32) {
        let mut free = super::lock(&self.free);
        if free.abandoned > 0 {
            free.later.push((at, length));
        } else {
            free.room.give(at, length);
        }
    }

    fn abandon(&self) {
        super::lock(&self.free).abandoned += 1;
    }

    fn settled(&self) {
        let mut free = super::lock(&self.free);
        free.abandoned -= 1;
        if free.abandoned == 0 {
            for (at, length) in std::mem::take(&mut free.later) {
                free.room.give(at, length);
            }
        }
    }
}

/// Memory in the ring: a request whose data is here, or whose result goes here, is not copied on this side.
pub struct Buffer {
    memory: Arc<Memory>,
    at: u32,
    length: usize,
}

impl Buffer {
    /// The bytes; `None` in a forked child, which has not got them.
    pub fn output(&self) -> Option<Output<'_>> {
        (self.memory.shared.here())
            .then(|| self.memory.shared.output(self.at as usize, self.length))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Another thread of the parent may have held the lock at the fork.
        if self.memory.shared.here() {
            let length = lines(self.length.max(1)).unwrap_or(0);
            self.memory.give(self.at, length);
        }
    }
}

/// What became of a request on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    Waiting,
    /// Its caller has gone.
    Abandoned,
    Done(Completed),
}

/// A request under way.
struct Ticket {
    /// Which item of the batch.
    item: usize,
    /// Which request of the ring.
    number: u32,
    /// What it takes of the arena.
    block: (u32, u32),
    out_at: u32,
    message_at: u32,
}

struct Ring {
    memory: Arc<Memory>,
    epoch: u32,
    number: u64,
    submitted: u32,
    completed: u32,
    slots: Vec<Slot>,
    /// How many are not free.
    busy: u32,
    /// Blocks of those whose caller has gone, by slot.
    left: Vec<(u32, u32)>,
    pace: Pace,
    requests: u64,
}

/// The way that requests take: with a ring, or without.
#[derive(Default)]
pub(super) struct Lane {
    ring: Option<Ring>,
    /// Requests since a ring was refused, or since the beginning.
    requests: u32,
    refused: Option<Error>,
    /// The largest that is known to be refused.
    too_large: usize,
}

/// What is under way of one batch.
#[derive(Default)]
pub(super) struct Flight {
    tickets: VecDeque<Ticket>,
    /// Items before this were begun.
    next: usize,
    /// The ring that they are on.
    ring: u64,
}

impl Flight {
    pub(super) fn begun(&self) -> bool {
        !self.tickets.is_empty()
    }
}

/// Why a lane stopped.
pub(super) enum Stop {
    /// All is done.
    Done,
    /// This item is for the socket.
    Socket(usize),
    /// The ring is gone; what it held is to be begun again from here on.
    Lost,
}

/// Bytes of the arena that a request takes at most.
fn need(item: &Item<'_>) -> usize {
    let request = &item.request;
    record::MESSAGE
        .saturating_add(request.iv.len())
        .saturating_add(request.aad.len())
        .saturating_add(request.data.len())
        .saturating_add(item.out.len())
        .saturating_add(4096)
}

impl Lane {
    /// Bytes of the ring to ask for before these requests, and the number of the one that it replaces.
    pub(super) fn wants(&mut self, items: &[Item<'_>], epoch: u32) -> Option<(usize, Option<u64>)> {
        self.requests = self.requests.saturating_add(items.len() as u32);
        self.check(Some(epoch));
        if self.refused.is_some() && self.requests < ASK_AGAIN {
            return None;
        }
        let most = items.iter().map(need).max().unwrap_or(0);
        self.sized(most, most >= PAYS_BYTES || self.requests >= PAYS)
    }

    fn sized(&self, most: usize, pays: bool) -> Option<(usize, Option<u64>)> {
        let size = (most.saturating_mul(5) / 2 + ring::ARENA)
            .max(SMALL)
            .checked_next_power_of_two()?
            .min(LARGE);
        if self.too_large != 0 && size >= self.too_large {
            return None;
        }
        match &self.ring {
            // It would not fit into that either.
            _ if most + ring::ARENA > size => None,
            None if pays => Some((size, None)),
            // Half of it may be anybody's buffers.
            Some(ring) if most + ring::ARENA > ring.memory.shared.len() && ring.idle() => {
                Some((size, Some(ring.number)))
            }
            _ => None,
        }
    }

    /// The ring is to be replaced.
    pub(super) fn give_up(&mut self) {
        self.ring = None;
    }

    /// What a request for a ring brought.
    pub(super) fn answered(&mut self, size: usize, brought: Result<OwnedFd>) {
        self.requests = 0;
        self.ring = None;
        match brought.and_then(|fd| Ring::map(&fd)) {
            Ok(ring) => {
                self.refused = None;
                if ring.memory.shared.len() < size {
                    self.too_large = size;
                }
                self.ring = Some(ring);
            }
            Err(error) if size > SMALL => {
                self.too_large = match self.too_large {
                    0 => size,
                    known => known.min(size),
                };
                // A small one may be had all the same.
                (self.requests, self.refused) = (PAYS, None);
                drop(error);
            }
            Err(error) => self.refused = Some(error),
        }
    }

    /// Drops a ring of another worker.
    pub(super) fn check(&mut self, epoch: Option<u32>) -> bool {
        let alive = |ring: &Ring| epoch.is_some_and(|epoch| ring.alive(epoch));
        if !self.ring.as_ref().is_some_and(alive) {
            if self.ring.take().is_some() {
                // The next worker may have one.
                (self.requests, self.refused, self.too_large) = (PAYS, None, 0);
            }
            return false;
        }
        true
    }

    /// What info() tells.
    pub(super) fn report(&self) -> serde_json::Value {
        match (&self.ring, &self.refused) {
            (Some(ring), _) if ring.memory.shared.here() => {
                let used = super::lock(&ring.memory.free).room.used();
                serde_json::json!({
                    "bytes": ring.memory.shared.len(), "used": used, "requests": ring.requests,
                })
            }
            (_, Some(error)) => serde_json::json!({"bytes": 0, "why": error.message()}),
            _ => serde_json::json!({"bytes": 0, "why": "not needed yet"}),
        }
    }

    /// Bytes of the ring to ask for before a buffer of `length` bytes can be in it.
    pub(super) fn wants_buffer(
        &mut self,
        length: usize,
        epoch: u32,
    ) -> Option<(usize, Option<u64>)> {
        self.check(Some(epoch));
        let used = |ring: &Ring| super::lock(&ring.memory.free).room.used() as usize;
        let used = self.ring.as_ref().map_or(0, used);
        let most = length
            .saturating_mul(2)
            .saturating_add(used)
            .saturating_add(64 << 10);
        if let Some(ring) = &self.ring {
            if most + ring::ARENA <= ring.memory.shared.len() || !ring.idle() {
                return None;
            }
        }
        let size = (most + ring::ARENA)
            .max(SMALL)
            .checked_next_power_of_two()?;
        let size = size.min(LARGE);
        if self.too_large != 0 && size >= self.too_large && self.requests < ASK_AGAIN {
            return None;
        }
        Some((size, self.ring.as_ref().map(|ring| ring.number)))
    }

    /// A buffer in the ring.
    pub(super) fn buffer(&mut self, length: usize) -> Result<Buffer> {
        let none = |why: &str| {
            Error::new(
                Kind::System,
                libc::ENOBUFS,
                format!(
                    "a buffer of {length} bytes in the ring: {why}; bytearray({length}) works everywhere"
                ),
            )
        };
        let Some(ring) = &self.ring else {
            return Err(none(
                self.refused
                    .as_ref()
                    .map_or("this session has no ring", |error| error.message()),
            ));
        };
        let place = lines(length.max(1)).and_then(|lines| ring.memory.take(lines));
        let at = place.ok_or_else(|| none("the ring has not so much free"))?;
        // What was there before is nobody's business.
        let memory = ring.memory.clone();
        memory.shared.output(at as usize, length).wipe();
        Ok(Buffer { memory, at, length })
    }

    /// Does a batch on the ring, from where `flight` stands. EINTR: come again.
    pub(super) fn run(
        &mut self,
        client: &Client,
        items: &mut [Item<'_>],
        flight: &mut Flight,
    ) -> Result<Stop> {
        let epoch = super::lock(&client.books).unanswered.epoch();
        if !self.check(epoch) {
            return Ok(lost(items, flight));
        }
        let Some(ring) = self.ring.as_mut() else {
            return Ok(lost(items, flight));
        };
        if flight.begun() && flight.ring != ring.number {
            return Ok(lost(items, flight));
        }
        flight.ring = ring.number;
        loop {
            let before = ring.submitted;
            while flight.next < items.len() && flight.tickets.len() < ON_THE_WAY {
                if items[flight.next].done.is_some() {
                    flight.next += 1;
                    continue;
                }
                let Some(ticket) = ring.submit(flight.next, &items[flight.next]) else {
                    break;
                };
                flight.tickets.push_back(ticket);
                flight.next += 1;
                if ring.submitted.wrapping_sub(before) == 1 {
                    // The worker may begin.
                    ring.ring_for(client)?;
                }
            }
            if ring.submitted.wrapping_sub(before) > 1 {
                ring.ring_for(client)?;
            }
            let Some(first) = flight.tickets.front() else {
                return Ok(if flight.next == items.len() {
                    Stop::Done
                } else {
                    Stop::Socket(flight.next)
                });
            };
            let (number, op) = (first.number, items[first.item].request.op);
            match ring.wait(client, number, op) {
                Ok(true) => {}
                Ok(false) => {
                    self.check(None);
                    return Ok(lost(items, flight));
                }
                Err(error) => return Err(error),
            }
            while let Some(first) = flight.tickets.front() {
                let Slot::Done(completed) = ring.slots[slot(first.number)] else {
                    break;
                };
                ring.free(slot(first.number));
                let Some(ticket) = flight.tickets.pop_front() else {
                    break;
                };
                let item = &mut items[ticket.item];
                item.done = Some(ring.deliver(&ticket, item, completed));
                if item.request.op == Op::Wrap {
                    // A key in it is not left behind in the arena.
                    let (at, length) = (ticket.block.0 as usize, ticket.block.1 as usize);
                    ring.memory.shared.output(at, length).wipe();
                }
                ring.memory.give(ticket.block.0, ticket.block.1);
            }
        }
    }

    /// Nobody waits for these any more.
    pub(super) fn abandon(&mut self, flight: &mut Flight) {
        let Some(ring) = self.ring.as_mut().filter(|ring| ring.number == flight.ring) else {
            return;
        };
        for ticket in flight.tickets.drain(..) {
            let place = slot(ticket.number);
            match ring.slots[place] {
                Slot::Waiting => {
                    ring.memory.abandon();
                    ring.slots[place] = Slot::Abandoned;
                    ring.left[place] = ticket.block;
                }
                _ => {
                    ring.free(place);
                    ring.memory.give(ticket.block.0, ticket.block.1);
                }
            }
        }
    }
}

/// Everything that is not done is to be begun again.
fn lost(items: &[Item<'_>], flight: &mut Flight) -> Stop {
    flight.tickets.clear();
    flight.next = 0;
    match items.iter().position(|item| item.done.is_none()) {
        Some(_) => Stop::Lost,
        None => Stop::Done,
    }
}

fn slot(number: u32) -> usize {
    (number % ENTRIES) as usize
}

impl Ring {
    fn map(fd: &OwnedFd) -> Result<Ring> {
        let lying = || super::lying("its ring is none");
        let length = sealed_length(fd.as_fd())
            .filter(|length| (ring::LEAST..=ring::MOST).contains(length))
            .ok_or_else(lying)?;
        let shared = Shared::map(fd.as_fd(), length).map_err(|error| system(&error, "a ring"))?;
        let (epoch, number) = ring::header(&shared).ok_or_else(lying)?;
        let room = Room::new(ring::ARENA as u32, (length - ring::ARENA) as u32 / 64 * 64);
        Ok(Ring {
            memory: Arc::new(Memory {
                shared,
                free: Mutex::new(Free {
                    room,
                    abandoned: 0,
                    later: Vec::new(),
                }),
            }),
            epoch,
            number,
            submitted: 0,
            completed: 0,
            slots: vec![Slot::Free; ENTRIES as usize],
            busy: 0,
            left: vec![(0, 0); ENTRIES as usize],
            pace: Pace::default(),
            requests: 0,
        })
    }

    /// Whether this process, and this worker, have it.
    fn alive(&self, epoch: u32) -> bool {
        self.epoch == epoch && self.memory.shared.here()
    }

    /// Nobody waits for anything on it.
    fn idle(&self) -> bool {
        self.busy == 0
    }

    fn free(&mut self, place: usize) {
        self.slots[place] = Slot::Free;
        self.busy -= 1;
    }

    /// Puts a request on the ring; `None` if there is no room for it now.
    fn submit(&mut self, number: usize, item: &Item<'_>) -> Option<Ticket> {
        let place = slot(self.submitted);
        if self.slots[place] != Slot::Free {
            return None;
        }
        let request = &item.request;
        let shared = &self.memory.shared;
        let params = request.params.encode();
        let head = request.iv.len() + request.aad.len() + params.len();
        let within = |pointer: *const u8, length| {
            shared
                .offset(pointer, length)
                .filter(|at| *at >= ring::ARENA)
        };
        let data = within(request.data.as_ptr(), request.data.len());
        let out = within(item.out.as_mut_ptr(), item.out.len());
        let head_lines = lines(head.max(record::MESSAGE))?;
        let data_lines = if data.is_some() {
            0
        } else {
            lines(request.data.len())?
        };
        let out_lines = if out.is_some() {
            0
        } else {
            lines(item.out.len())?
        };
        let length = head_lines.checked_add(data_lines)?.checked_add(out_lines)?;
        let block = (self.memory.take(length)?, length);
        let head_at = block.0;
        let data_at = data.map_or(head_at + head_lines, |at| at as u32);
        let out_at = out.map_or(head_at + head_lines + data_lines, |at| at as u32);
        let mut at = head_at as usize;
        for part in [Input::from(request.iv), request.aad, Input::from(&params)] {
            if !part.is_empty() {
                shared.output(at, part.len()).copy_from_input(part);
                at += part.len();
            }
        }
        if data.is_none() && !request.data.is_empty() {
            let place = shared.output(data_at as usize, request.data.len());
            place.copy_from_input(request.data);
        }
        let submission = Submission {
            op: request.op as u16,
            flags: request.flags,
            id: self.submitted.into(),
            iv: request.iv.len() as u32,
            aad: request.aad.len() as u32,
            params: params.len() as u32,
            data: request.data.len() as u32,
            head_at,
            data_at,
            out_at,
            room: item.out.len() as u32,
            message: record::MESSAGE as u32,
        };
        shared.store(ring::submission_at(self.submitted), submission.encode());
        self.slots[place] = Slot::Waiting;
        self.busy += 1;
        let ticket = Ticket {
            item: number,
            number: self.submitted,
            block,
            out_at,
            message_at: head_at,
        };
        self.submitted = self.submitted.wrapping_add(1);
        self.requests += 1;
        let count = shared.word(ring::SUBMITTED);
        ring::Word::store(count, self.submitted);
        Some(ticket)
    }

    /// Wakes the worker if it sleeps.
    fn ring_for(&self, client: &Client) -> Result<()> {
        if !ring::must_ring(self.memory.shared.word(ring::WORKER_SLEEPS)) {
            return Ok(());
        }
        let bell = record::Header::bell(self.epoch);
        loop {
            match socket::send(client.fd.as_fd(), &[Input::from(&bell)], None, true) {
                Ok(()) => return Ok(()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // It has unread packets: they wake it as well.
                    Some(libc::EAGAIN) => return Ok(()),
                    _ => return Err(system(&error, "submit")),
                },
            }
        }
    }

    /// Takes the answers that are there.
    fn collect(&mut self) -> Result<()> {
        let memory = self.memory.clone();
        let shared = &memory.shared;
        let there = ring::Word::load(shared.word(ring::COMPLETED));
        if there.wrapping_sub(self.completed) > self.submitted.wrapping_sub(self.completed) {
            return Err(super::lying("it completed more than was asked"));
        }
        while self.completed != there {
            let place = slot(self.completed);
            let completed = Completed::decode(shared.load(ring::completion_at(self.completed)));
            if completed.id != u64::from(self.completed) {
                return Err(super::lying("an answer on the ring has another's id"));
            }
            match self.slots[place] {
                Slot::Abandoned => {
                    self.free(place);
                    let (at, length) = self.left[place];
                    self.memory.give(at, length);
                    self.memory.settled();
                }
                _ => self.slots[place] = Slot::Done(completed),
            }
            self.completed = self.completed.wrapping_add(1);
        }
        Ok(())
    }

    /// Waits until the request `number` is answered. False: its worker is gone.
    fn wait(&mut self, client: &Client, number: u32, op: Op) -> Result<bool> {
        let is_done = |ring: &Ring| matches!(ring.slots[slot(number)], Slot::Done(_));
        self.collect()?;
        if is_done(self) {
            return Ok(true);
        }
        // Of one among many it is not known when its work begins.
        let alone = self.busy == 1;
        let begun = Instant::now();
        if cores() > 1 {
            let ahead = self.pace.ahead(op).filter(|_| alone);
            if let Some(ahead) = ahead {
                std::thread::sleep(ahead);
            }
            let patience = ahead.map_or_else(|| self.pace.patience(), |_| LONGEST);
            let (completed, count) = (self.memory.shared.word(ring::COMPLETED), self.completed);
            let spun = spin(patience, || completed.load(Ordering::Acquire) != count);
            if !spun && ahead.is_some() {
                self.pace.crowded(op);
            }
            self.collect()?;
        }
        let mut here = true;
        while here && !is_done(self) {
            here = self.sleep(client)?;
            self.collect()?;
        }
        self.pace.took(op, begun.elapsed(), alone);
        Ok(here)
    }

    /// Sleeps until the bell. False: the worker is gone.
    fn sleep(&mut self, client: &Client) -> Result<bool> {
        let shared = &self.memory.shared;
        let (sleeps, count) = (
            shared.word(ring::CLIENT_SLEEPS),
            shared.word(ring::COMPLETED),
        );
        if !ring::may_sleep(sleeps, count, self.completed) && !ring::awake(sleeps) {
            return Ok(true);
        }
        let until = Instant::now() + Duration::from_secs(1);
        loop {
            let polled = socket::poll(client.fd.as_fd(), libc::POLLIN, LOOK);
            let polled = polled.map_err(|error| {
                // A bell that rings now is passed over by whoever reads it.
                sleeps.store(0, Ordering::Release);
                system(&error, "poll")
            })?;
            if polled == 0 {
                // Nothing for a while: perhaps another holder of the descriptor took the bell.
                let moved = count.load(Ordering::Acquire) != self.completed;
                if !moved || (!ring::awake(sleeps) || Instant::now() >= until) {
                    if moved {
                        return Ok(true);
                    }
                    sleeps.store(1, Ordering::Release);
                    crate::sys::shared::full_fence();
                }
                continue;
            }
            match next(client.fd.as_fd(), usize::MAX, true, |_| true) {
                Ok(Taken::Bell) => {
                    // It may have been one of before: then this is not slept for any more either.
                    ring::awake(sleeps);
                    return Ok(true);
                }
                Ok(Taken::Epoch(epoch)) => {
                    let fd = client.fd.as_fd();
                    super::lock(&client.books).unanswered.renew(fd, epoch)?;
                    if epoch != self.epoch {
                        return Ok(false);
                    }
                }
                Ok(Taken::Answer(completion)) => super::lock(&client.books).aside(completion)?,
                Ok(Taken::Left) => {}
                Err(error) if error.kind() == Kind::Again => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Copies a result out.
    fn deliver(&self, ticket: &Ticket, item: &Item<'_>, completed: Completed) -> Result<usize> {
        let shared = &self.memory.shared;
        let length = completed.length as usize;
        if completed.status != 0 {
            let length = length.min(record::MESSAGE);
            let sentence = shared.input(ticket.message_at as usize, length).to_vec();
            let status = completed.status.min(4095) as i32;
            return Err(record::error(status, &sentence));
        }
        if completed.op != item.request.op as u16 {
            return Err(super::lying("it answers another op than was asked"));
        }
        if length > item.out.len() {
            return Err(too_long(length, item.out.len()));
        }
        let place = shared.input(ticket.out_at as usize, length);
        if length > 0 && place.as_ptr() != item.out.as_mut_ptr().cast_const() {
            item.out.split_at(length).0.copy_from_input(place);
            if length <= 16 << 10 && keeps_a_secret(item.request.op) {
                shared.output(ticket.out_at as usize, length).wipe();
            }
        }
        Ok(length)
    }
}

/// Whether a result is a secret that is not left behind in the arena.
fn keeps_a_secret(op: Op) -> bool {
    matches!(
        op,
        Op::Unwrap | Op::Derive | Op::Random | Op::Agree | Op::Encapsulate | Op::Decapsulate
    )
}

/// Bytes that the answer to `request` may have; `None` where it goes by the socket.
pub(super) fn most(request: &Request<'_>) -> Option<usize> {
    let wanted = request.params.length.map(usize::try_from);
    let wanted = match wanted {
        Some(Ok(length)) if length <= record::ATTACHED => Some(length),
        Some(_) => return None,
        None => None,
    };
    let data = request.data.len();
    match request.op {
        Op::Info | Op::Clone | Op::Cancel | Op::Ring | Op::HashKey => None,
        Op::Encrypt | Op::Decrypt | Op::Seal | Op::StreamUpdate => Some(data + 1088),
        Op::Unseal | Op::Unwrap => Some(data),
        Op::Wrap => Some(data + 64),
        Op::Digest | Op::Finish | Op::Peek => Some(wanted.unwrap_or(64)),
        Op::Derive | Op::Random => wanted,
        Op::Verify | Op::VerifyDigest | Op::VerifySignature => Some(0),
        Op::Update | Op::Reset | Op::StreamBegin => Some(0),
        Op::StreamFinish => Some(128),
        Op::Sign | Op::SignDigest | Op::PublicKey | Op::Encapsulate => Some(8192),
        Op::Agree | Op::Decapsulate => Some(256),
    }
}
