//! Limits on the use of a key: leased from the broker in blocks before use.
//!
//! A lease that a worker did not use up counts as used, so that its death gives nobody more than the limit.

use super::upstream::{Upstream, lock};
use cryptofd_core::error::{Error, Kind, Result};
use serde_json::json;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long a request waits for the broker.
const PATIENCE: Duration = Duration::from_secs(2);
/// Messages that a key may seal with IVs drawn at random (SP 800-38D, 8.3).
pub const SEALS: u64 = 1 << 32;
/// Messages that are asked for at once, where the key has no limit but that of its IVs.
const FEW: u64 = 64;
const MANY: u64 = 1 << 20;
/// Those that are sealed before the broker has counted them, while it is being replaced.
const AHEAD: u64 = 1 << 22;
/// After which it is asked again, where it could not say.
const SOON: Duration = Duration::from_millis(50);
/// Uses that are asked for where the first lease named no number.
const BLOCK: u64 = 1024;

#[derive(Default)]
struct State {
    left: u64,
    block: u64,
    /// Since when the broker is asked.
    asked: Option<Instant>,
    /// The broker gave nothing.
    spent: bool,
    /// Messages that the broker has counted.
    granted: u64,
}

/// What is left of one key here, whatever session uses it.
pub struct Lease {
    key: String,
    /// Whether the uses are counted by the broker.
    limited: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    /// Messages sealed here.
    seals: AtomicU64,
    /// The one before which there is something to do.
    mark: AtomicU64,
}

impl Lease {
    /// Takes one use. EDQUOT: the limit is reached. EAGAIN: the broker does not answer.
    pub fn take(&self, leases: &Leases) -> Result<()> {
        if !self.limited.load(Ordering::Acquire) {
            return Ok(());
        }
        let until = Instant::now() + PATIENCE;
        let mut state = lock(&self.state);
        state.spent = false;
        loop {
            if state.left > 0 {
                state.left -= 1;
                if state.left <= state.block / 4 && state.asked.is_none() && !state.spent {
                    leases.ask(self, &mut state);
                }
                return Ok(());
            }
            if state.spent {
                return Err(Error::new(
                    Kind::System,
                    libc::EDQUOT,
                    "the key's use limit is reached: rotate it",
                ));
            }
            if state.asked.is_none_or(|at| at.elapsed() >= PATIENCE) {
                leases.ask(self, &mut state);
            }
            let wait = until.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return Err(Error::new(
                    Kind::Again,
                    libc::EAGAIN,
                    "the broker does not answer, and the uses leased from it are spent: try again",
                ));
            }
            let waited = self.changed.wait_timeout(state, wait.min(SOON));
            state = waited.unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    /// Counts one message that is sealed with a random IV, of which a key may have 2^32 (SP 800-38D, 8.3);
    /// where uses are counted, each of these is one. The broker counts on, in blocks, and gives nothing beyond.
    pub fn seal(&self, leases: &Leases) -> Result<()> {
        let number = self.seals.fetch_add(1, Ordering::Relaxed) + 1;
        if number < self.mark.load(Ordering::Acquire) || self.limited.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut state = lock(&self.state);
        if state.spent && number > state.granted {
            return Err(Error::new(
                Kind::System,
                libc::EDQUOT,
                "2^32 messages were sealed with this key, which is the limit: rotate it",
            ));
        }
        if number > state.granted + AHEAD {
            return Err(Error::new(
                Kind::Again,
                libc::EAGAIN,
                "the broker does not count what is sealed with this key: try again",
            ));
        }
        if !state.spent && state.asked.is_none_or(|at| at.elapsed() >= PATIENCE) {
            state.block = number.clamp(FEW, MANY);
            leases.ask(self, &mut state);
        }
        Ok(())
    }

    /// What the broker gave; nothing if it could not say.
    fn answered(&self, uses: Option<u64>) {
        let mut state = lock(&self.state);
        let Some(uses) = uses else {
            // One that has just begun may not know this session yet: it is asked again soon.
            state.asked = Instant::now().checked_sub(PATIENCE.saturating_sub(SOON));
            return;
        };
        state.asked = None;
        state.spent = uses == 0;
        if self.limited.load(Ordering::Acquire) {
            state.left = state.left.saturating_add(uses);
        } else {
            state.granted = state.granted.saturating_add(uses);
            let mark = state.granted - uses / 4;
            self.mark.store(mark, Ordering::Release);
        }
        self.changed.notify_all();
    }
}

/// Every key that is in use here.
pub struct Leases {
    upstream: Arc<Upstream>,
    keys: Mutex<HashMap<String, Arc<Lease>>>,
    asked: Mutex<HashMap<u64, String>>,
    last: AtomicU64,
}

impl Leases {
    /// None yet.
    pub fn new(upstream: Arc<Upstream>) -> Leases {
        Leases {
            upstream,
            keys: Mutex::default(),
            asked: Mutex::default(),
            last: AtomicU64::new(1),
        }
    }

    /// What is left of the key `id`; `given` more uses if a lease comes along. A key that is not `stored` ends
    /// with its session, and nobody else counts it.
    pub fn of(&self, id: &str, stored: bool, given: Option<u64>) -> Arc<Lease> {
        let mut keys = lock(&self.keys);
        // Nobody else holds what no session uses.
        keys.retain(|_, lease| Arc::strong_count(lease) > 1 || lease.key == id);
        let lease = keys.entry(id.to_owned()).or_insert_with(|| {
            let granted = if stored { 0 } else { SEALS };
            Arc::new(Lease {
                key: id.to_owned(),
                limited: AtomicBool::new(false),
                state: Mutex::new(State {
                    granted,
                    spent: !stored,
                    ..State::default()
                }),
                changed: Condvar::new(),
                seals: AtomicU64::new(0),
                mark: AtomicU64::new(granted),
            })
        });
        if let Some(given) = given {
            let mut state = lock(&lease.state);
            lease.limited.store(true, Ordering::Release);
            state.left = state.left.saturating_add(given);
            state.block = state.block.max(given);
        }
        lease.clone()
    }

    fn ask(&self, lease: &Lease, state: &mut State) {
        state.asked = Some(Instant::now());
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        lock(&self.asked).insert(id, lease.key.clone());
        let uses = if state.block == 0 { BLOCK } else { state.block };
        self.upstream
            .ask(&json!({"op": "lease", "id": id, "key": lease.key, "uses": uses}));
    }

    /// The broker's answer to the request `id`; `None` if it refused.
    pub fn answered(&self, id: u64, uses: Option<u64>) {
        let Some(key) = lock(&self.asked).remove(&id) else {
            return;
        };
        let Some(lease) = lock(&self.keys).get(&key).cloned() else {
            return;
        };
        lease.answered(uses);
    }

    /// Another broker is there: what the one before was asked is asked again.
    pub fn ask_again(&self) {
        lock(&self.asked).clear();
        let keys: Vec<Arc<Lease>> = lock(&self.keys).values().cloned().collect();
        for lease in keys {
            let mut state = lock(&lease.state);
            if state.asked.is_some() {
                self.ask(&lease, &mut state);
            }
        }
    }
}
