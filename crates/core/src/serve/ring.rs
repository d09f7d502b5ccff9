//! A ring's serving side: everything on it is copied once, checked, computed in private memory and copied out.

use super::Share;
use super::connection::State;
use crate::engines::software::random;
use crate::error::{Error, Result};
use crate::record::{self, Incoming, Op};
use crate::ring::{self, Completed, ENTRIES, Submission};
use crate::sys::buffer::Output;
use crate::sys::descriptor::{self, Guarded};
use crate::sys::shared::{self, Shared};
use crate::sys::{arena, memfd};
use std::sync::OnceLock;
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

/// Threads that spin just now, of all connections: so many that one core is always left.
static SPINNERS: AtomicUsize = AtomicUsize::new(0);

fn most_spinners() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    *MOST.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from) - 1)
}

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
                let ring_it = self.one(state, scratch)?;
                done += 1;
                waiting -= 1;
                if ring_it {
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
        if SPINNERS.fetch_add(1, Ordering::Relaxed) >= most_spinners() {
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

    /// Serves one request. True: the client is to be rung for.
    fn one(
        &mut self,
        state: &mut State,
        scratch: &mut Scratch,
    ) -> std::result::Result<bool, Broken> {
        let shared = &self.shared;
        let at = ring::submission_at(self.taken);
        let (submission, known) = Submission::decode(shared.watched(|| shared.load(at)));
        let done = known
            .and_then(|()| submission.check(shared.len()))
            .and_then(|()| work(shared, &submission, state, scratch));
        let (status, length) = match done {
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

/// Does a request whose places were checked; bytes of the result, which is in its place.
fn work(
    shared: &Shared,
    submission: &Submission,
    state: &mut State,
    scratch: &mut Scratch,
) -> Result<usize> {
    let (head, data) = (submission.head() as usize, submission.data as usize);
    let room = submission.room as usize;
    let _flight = state.flight((head + data).max(room))?;
    let private = scratch.of(head + data + room)?;
    let (private_head, rest) = private.split_at_mut(head);
    let (private_data, out) = rest.split_at_mut(data);
    shared.watched(|| {
        if head > 0 {
            shared
                .input(submission.head_at as usize, head)
                .copy_to(private_head);
        }
        if data > 0 {
            shared
                .input(submission.data_at as usize, data)
                .copy_to(private_data);
        }
    });
    let (iv, rest) = private_head.split_at(submission.iv as usize);
    let (aad, params) = rest.split_at(submission.aad as usize);
    let sections = [iv, aad, params, &*private_data];
    let done = Incoming::on_ring(submission.op, submission.id, submission.flags, sections)
        .and_then(|request| {
            state.allow(&request)?;
            let given = arena::bounded(|| state.work_into(&request, out))?;
            Ok((request.op, given))
        });
    if brings_key(submission.op) {
        Output::from(&mut *private_data).wipe();
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
