//! In profile `bulk`, what is worth its way: known from before, or measured now.

use crate::error::{Error, Result};
use crate::family::Algorithm;
use crate::ffi::core::Core;
use crate::ffi::host::Implementation;
use crate::measure::{Job, Room};
use crate::remembered::Record;
use crate::worth::{self, Verdict};
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A program waits no longer than this; what is not measured by then stays the host's this time.
const PATIENCE: Duration = Duration::from_millis(600);

thread_local! {
    /// Whether this thread measures: the host may ask for more of our algorithms meanwhile.
    static HERE: Cell<bool> = const { Cell::new(false) };
}

/// What is known, and what measures.
pub struct Measured {
    once: Once,
    state: Mutex<State>,
    /// What was found out, for people.
    told: OnceLock<String>,
}

struct State {
    record: Record,
    room: Option<Room>,
    /// How long it has taken.
    spent: Duration,
}

impl Measured {
    /// With what earlier programs found out.
    pub fn new(core: &Core) -> Measured {
        let libcrypto = core.parameter(c"openssl-version").unwrap_or_default();
        Measured {
            once: Once::new(),
            told: OnceLock::new(),
            state: Mutex::new(State {
                record: Record::read(&libcrypto),
                room: None,
                spent: Duration::ZERO,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this thread is at it.
    pub fn here(&self) -> bool {
        HERE.with(Cell::get)
    }

    /// Runs what decides about all algorithms, once, and keeps what was measured. All at once and with the first
    /// question: later a program may have shut itself in, where no file can be written.
    pub fn once(&self, all: impl FnOnce()) {
        self.once.call_once(|| {
            HERE.with(|here| here.set(true));
            all();
            HERE.with(|here| here.set(false));
            let mut state = self.state();
            state.room = None;
            state.record.keep();
            let text = state.record.algorithms().to_string();
            let _ = self.told.set(text);
        });
    }

    /// What was found out, as JSON; empty before it was.
    pub fn told(&self) -> &str {
        self.told.get().map_or("", String::as_str)
    }

    /// What is known of an algorithm.
    pub fn known(&self, algorithm: &Algorithm) -> Option<Verdict> {
        self.state().record.get(algorithm.chief())
    }

    /// Remembers it.
    pub fn put(&self, algorithm: &Algorithm, verdict: Verdict) {
        let name = algorithm.chief().to_owned();
        self.state().record.put(name, verdict);
    }

    /// Measures an algorithm. Nothing where it fails, or where there is no time left: that is not remembered. Nor where
    /// nothing could be.
    pub fn judge(
        &self,
        job: &Job,
        ours: &Implementation,
        theirs: &Implementation,
    ) -> Option<Verdict> {
        if !self.state().record.may_grow() {
            return None;
        }
        worth::judge(job.sizes(), |size| self.ratio(job, ours, theirs, size)).ok()
    }

    /// Whether short messages lose nothing that counts by being handed on.
    pub fn bears(&self, job: &Job, handed_on: &Implementation, theirs: &Implementation) -> bool {
        let shortest = job.sizes()[0];
        let ratio = self.ratio(job, handed_on, theirs, shortest);
        ratio.is_ok_and(|ratio| ratio >= worth::ROUTED)
    }

    /// Without the lock while it runs: the host asks for algorithms.
    fn ratio(
        &self,
        job: &Job,
        ours: &Implementation,
        theirs: &Implementation,
        size: usize,
    ) -> Result<f64> {
        let mut room = {
            let mut state = self.state();
            if state.spent > PATIENCE {
                return Err(Error::SAID);
            }
            state.room.take().unwrap_or_default()
        };
        let begun = Instant::now();
        let ratio = job.ratio(ours, theirs, size, &mut room);
        let mut state = self.state();
        state.room = Some(room);
        let took = begun.elapsed();
        state.spent = if took.is_zero() {
            // The clock stands.
            Duration::MAX
        } else {
            state.spent.saturating_add(took)
        };
        ratio
    }
}
