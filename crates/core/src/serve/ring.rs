//! A ring's serving side: everything on it is copied once, checked, computed in private memory and copied out.

use super::Share;
use super::connection::State;
use crate::cpu::cores;
use crate::engines::software::random;
use crate::error::{Error, Result};
use crate::record::{self, Incoming, Op};
use crate::ring::{self, Completed, ENTRIES, Submission};
use crate::sys::buffer::Output;
use crate::sys::descriptor::{self, Guarded};
use crate::sys::shared::{self, Shared};
use crate::sys::{arena, memfd};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A ring is spun on for at most so long before its side sleeps.
const LONGEST: Duration = Duration::from_micros(100);
/// Below this it is not worth beginning to.
const SHORTEST: Duration = Duration::from_micros(4);
/// A bell so soon after the sleep began means that it was too early.
const EARLY: Duration = Duration::from_micros(400);
/// Requests, and time, after which the socket and others have their turn.
const TURN: u32 = 4096;
const TURN_TIME: Duration = Duration::from_millis(2);
/// Requests that are copied to private memory at once, and the bytes that all of them but one may take.
const BATCH: u32 = 32;
const BATCH_BYTES: usize = 64 << 10;

/// Threads that spin just now, of all connections: fewer than cores.
static SPINNERS: AtomicUsize = AtomicUsize::new(0);

/// Private memory of one serving thread.
#[derive(Default)]
pub struct Scratch(Vec<u8>);

/// What a thread keeps between requests.
const KEPT: usize = 4 << 20;

impl Scratch {
    /// So many bytes, whatever is in them.
    fn of(&mut self, length: usize) -> Result<&mut [u8]> {
        if self.0.len() < length {
            let more = length - self.0.len();
            self.0
                .try_reserve_exact(more)
                .map_err(|_| Error::system(libc::ENOMEM, "private memory for a request"))?;
            self.0.resize(length, 0);
        }
        Ok(&mut self.0[..length])
    }

    /// Lets a very large request's memory go.
    pub(super) fn settle(&mut self) {
        if self.0.len() > KEPT {
            self.clear();
        }
    }

    /// Lets go of it all.
    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }
}

/// What the client did to its ring ends its session.
pub struct Broken;

/// How it stands after a turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// All is done, and a bell will come.
    Asleep,
    /// There is more, and others have their turn first.
    More,
    /// The client is to be rung for before anything else.
    Ring,
}

/// The worker's side of a ring.
pub struct Ring {
    shared: Shared,
    number: u64,
    /// Requests taken, answers given.
    taken: u32,
    /// How long to spin before sleeping.
    patience: Duration,
    /// When it went to sleep.
    slept: Option<Instant>,
    /// The client was rung for: it is about to ask for more.
    rang: bool,
    served: u64,
    /// What was copied to private memory and is not answered yet; empty between turns.
    batch: Vec<Taken>,
    /// Gives the memory back to the policy's limit.
    _share: Share,
}

impl Ring {
    /// A fresh ring of the share's bytes, and the memfd for its client.
    pub fn make(epoch: u32, share: Share) -> Result<(Ring, Guarded)> {
        let size = share.bytes();
        let system = |error: std::io::Error| {
            Error::system(
                error.raw_os_error().unwrap_or(libc::EIO),
                &format!("a ring of {size} bytes"),
            )
        };
        let fd = descriptor::making(|| memfd::create().map(Guarded::new))?;
        shared::allocate(fd.again(), size).map_err(system)?;
        let shared = Shared::map(fd.again(), size).map_err(system)?;
        let mut number = [0; 8];
        random(&mut number)?;
        let number = u64::from_le_bytes(number) | 1;
        ring::begin(&shared, epoch, number);
        let made = Ring {
            shared,
            number,
            taken: 0,
            patience: LONGEST / 2,
            slept: None,
            rang: false,
            served: 0,
            batch: Vec::new(),
            _share: share,
        };
        made.shared
            .word(ring::WORKER_SLEEPS)
            .store(1, Ordering::Release);
        Ok((made, fd))
    }

    /// What only its client knows.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// For INFO: bytes, and requests served.
    pub fn report(&self) -> (usize, u64) {
        (self.shared.len(), self.served)
    }

    /// Requests that wait.
    pub fn waiting(&self) -> std::result::Result<u32, Broken> {
        let submitted = ring::Word::load(self.shared.word(ring::SUBMITTED));
        match submitted.wrapping_sub(self.taken) {
            waiting @ 0..=ENTRIES => Ok(waiting),
            _ => Err(Broken),
        }
    }

    /// Serves what is there, and what comes while it spins.
    pub fn turn(
        &mut self,
        state: &mut State,
        scratch: &mut Scratch,
    ) -> std::result::Result<Turn, Broken> {
        self.woken();
        let begun = Instant::now();
        let mut done = 0;
        loop {
            let mut waiting = self.waiting()?;
            if waiting == 0 {
                let rang = std::mem::take(&mut self.rang);
                if (done > 0 || rang) && self.spin()? {
                    continue;
                }
                return self.sleep();
            }
            while waiting > 0 {
                let (served, rings) = self.some(waiting, state, scratch)?;
                done += served;
                waiting -= served;
                if rings {
                    self.rang = true;
                    return Ok(Turn::Ring);
                }
            }
            if done >= TURN || begun.elapsed() >= TURN_TIME {
                return Ok(Turn::More);
            }
        }
    }

    fn woken(&mut self) {
        let sleeps = self.shared.word(ring::WORKER_SLEEPS);
        sleeps.store(0, Ordering::Release);
        if let Some(slept) = self.slept.take() {
            if slept.elapsed() < EARLY {
                self.patience = (self.patience * 2).clamp(SHORTEST, LONGEST);
            }
        }
    }

    fn sleep(&mut self) -> std::result::Result<Turn, Broken> {
        let sleeps = self.shared.word(ring::WORKER_SLEEPS);
        let count = self.shared.word(ring::SUBMITTED);
        if ring::may_sleep(sleeps, count, self.taken) {
            self.slept = Some(Instant::now());
            return Ok(Turn::Asleep);
        }
        sleeps.store(0, Ordering::Release);
        self.waiting()?;
        Ok(Turn::More)
    }

    /// Waits a little for the next request. False: none came.
    fn spin(&mut self) -> std::result::Result<bool, Broken> {
        if self.patience < SHORTEST {
            return Ok(false);
        }
        if SPINNERS.fetch_add(1, Ordering::Relaxed) + 1 >= cores() {
            SPINNERS.fetch_sub(1, Ordering::Relaxed);
            return Ok(false);
        }
        let begun = Instant::now();
        let came = loop {
            for _ in 0..32 {
                std::hint::spin_loop();
            }
            if self.waiting().map_or(true, |waiting| waiting > 0) {
                break true;
            }
            let spun = begun.elapsed();
            if spun >= self.patience {
                break false;
            }
            if spun > SHORTEST {
                // The client may wait for this very core.
                std::thread::yield_now();
            }
        };
        SPINNERS.fetch_sub(1, Ordering::Relaxed);
        self.patience = if came {
            (self.patience * 2).min(LONGEST)
        } else {
            self.patience / 2
        };
        Ok(came)
    }

    /// Serves the next request, and small ones that wait behind it. How many, and whether the client is to be
    /// rung for.
    fn some(
        &mut self,
        waiting: u32,
        state: &mut State,
        scratch: &mut Scratch,
    ) -> std::result::Result<(u32, bool), Broken> {
        let mut batch = std::mem::take(&mut self.batch);
        let private = self.gather(&mut batch, waiting, state, scratch);
        let mut served = 0;
        let mut rings = false;
        for taken in batch.drain(..) {
            rings = self.answer(taken, private, state)?;
            served += 1;
            if rings {
                // What was taken behind it is taken again.
                break;
            }
        }
        state.ivs.forget();
        self.batch = batch;
        Ok((served, rings))
    }

    /// Copies requests to private memory, which is returned with room for a result behind them. All IVs that
    /// they need are drawn at once, and after their bytes are fixed: a machine that goes on twice from a
    /// snapshot seals the same bytes with the same IV, and never others.
    fn gather<'a>(
        &self,
        batch: &mut Vec<Taken>,
        waiting: u32,
        state: &mut State,
        scratch: &'a mut Scratch,
    ) -> &'a mut [u8] {
        let shared = &self.shared;
        let (mut held, mut most, mut seals) = (0, 0, 0);
        for number in 0..waiting.min(BATCH) {
            let place = ring::submission_at(self.taken.wrapping_add(number));
            let (submission, known) = Submission::decode(shared.watched(|| shared.load(place)));
            let checked = known.and_then(|()| submission.check(shared.len()));
            let room = submission.room as usize;
            // A key is alone: it is wiped where it was.
            if number > 0 && brings_key(submission.op) {
                break;
            }
            let bytes = if checked.is_ok() {
                submission.bytes()
            } else {
                0
            };
            if number > 0 && held + bytes + most.max(room) > BATCH_BYTES {
                break;
            }
            let flight = match checked {
                Ok(()) => state.flight(bytes.max(room)),
                Err(error) => Err(error),
            };
            if number > 0 && flight.is_err() {
                // It may be done once those before it are.
                break;
            }
            let at = held;
            if flight.is_ok() {
                most = most.max(room);
                held += bytes;
                seals += usize::from(submission.op == Op::Seal as u16);
            }
            batch.push(Taken {
                submission,
                at,
                flight,
            });
        }
        let private = match scratch.of(held + most) {
            Ok(private) => private,
            Err(error) => {
                // One that is large is alone.
                batch.truncate(1);
                for taken in &mut *batch {
                    taken.flight = Err(Error::system(libc::ENOMEM, error.message()));
                }
                return &mut [];
            }
        };
        shared.watched(|| {
            for taken in batch.iter().filter(|taken| taken.flight.is_ok()) {
                let (head, data) = taken.sections();
                for (from, to) in [
                    (taken.submission.head_at, head),
                    (taken.submission.data_at, data),
                ] {
                    if !to.is_empty() {
                        let input = shared.input(from as usize, to.len());
                        input.copy_to(&mut private[to]);
                    }
                }
            }
        });
        if seals > 1 {
            state.ivs.draw(seals);
        }
        private
    }

    /// Does a request that was taken, and answers it. True: the client is to be rung for.
    fn answer(
        &mut self,
        taken: Taken,
        private: &mut [u8],
        state: &mut State,
    ) -> std::result::Result<bool, Broken> {
        let shared = &self.shared;
        let submission = taken.submission;
        let (status, length) = match work(shared, taken, private, state) {
            Ok(length) => (0, length),
            Err(error) => {
                let sentence = record::message(&error);
                // Where it may not go, it does not.
                let fits = submission.check(shared.len()).is_ok();
                let room = if fits { submission.message as usize } else { 0 };
                let sentence = &sentence[..sentence.len().min(room)];
                if !sentence.is_empty() {
                    let place = submission.head_at as usize;
                    shared.watched(|| shared.output(place, sentence.len()).copy_from(sentence));
                }
                (error.errno().clamp(1, 4095) as u32, sentence.len())
            }
        };
        let completed = Completed {
            id: submission.id,
            op: submission.op,
            status,
            length: length as u32,
        };
        let rings = shared.watched(|| {
            shared.store(ring::completion_at(self.taken), completed.encode());
            let count = shared.word(ring::COMPLETED);
            ring::Word::store(count, self.taken.wrapping_add(1));
            ring::must_ring(shared.word(ring::CLIENT_SLEEPS))
        });
        self.taken = self.taken.wrapping_add(1);
        self.served += 1;
        if self.shared.broken() {
            return Err(Broken);
        }
        Ok(rings)
    }
}

/// A request whose sections are in private memory, or why they are not.
struct Taken {
    submission: Submission,
    /// Where they begin there.
    at: usize,
    flight: Result<Option<Share>>,
}

impl Taken {
    /// Where iv, aad and params are in private memory, and where the data is.
    fn sections(&self) -> (Range<usize>, Range<usize>) {
        let middle = self.at + self.submission.head() as usize;
        (self.at..middle, middle..self.at + self.submission.bytes())
    }
}

/// Does a request; bytes of the result, which is in its place. What is behind the requests in `private` is room
/// for it.
fn work(shared: &Shared, taken: Taken, private: &mut [u8], state: &mut State) -> Result<usize> {
    let (head, data) = taken.sections();
    let submission = taken.submission;
    let _flight = taken
        .flight
        .inspect_err(|_| state.session().count_refused())?;
    let room = private.len() - submission.room as usize;
    let (private, out) = private.split_at_mut(room);
    let (iv, rest) = private[head].split_at(submission.iv as usize);
    let (aad, params) = rest.split_at(submission.aad as usize);
    let sections = [iv, aad, params, &private[data.clone()]];
    let done = Incoming::on_ring(submission.op, submission.id, submission.flags, sections)
        .and_then(|request| {
            state.allow(&request)?;
            let given = arena::bounded(|| state.work_into(&request, out))?;
            Ok((request.op, given))
        });
    if brings_key(submission.op) {
        Output::from(&mut private[data]).wipe();
    }
    let (op, given) = done?;
    if given > 0 {
        let out = &mut out[..given];
        let place = submission.out_at as usize;
        shared.watched(|| shared.output(place, given).copy_from(out));
        if secret(op) {
            Output::from(out).wipe();
        }
    }
    Ok(given)
}

/// Whether the result of `op` is not to stay in memory that is used again.
pub fn secret(op: Op) -> bool {
    matches!(
        op,
        Op::Unwrap
            | Op::Derive
            | Op::Random
            | Op::Decrypt
            | Op::Unseal
            | Op::Agree
            | Op::Encapsulate
            | Op::Decapsulate
    )
}

/// Whether the payload of the op with this number is a key of the client's, which is not left behind.
pub fn brings_key(op: u16) -> bool {
    op == Op::Wrap as u16
}
