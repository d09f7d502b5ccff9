//! How often each session did what: a page that its domain's workers write and that outlives them.
//!
//! The page is data of theirs, of which nothing is believed: it is read, never mapped, and a worker that
//! writes nonsense spoils the figures of its own domain.

use crate::sys;
use serde_json::{Value, json};
use std::ops::AddAssign;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of a session's counters: requests done, bytes, requests refused, requests done elsewhere.
const COUNTERS: usize = 32;
/// Most sessions of a domain that are counted; the page takes only as much memory as is used of it.
pub const PLACES: usize = 1 << 15;

/// Figures of one session, or of all.
#[derive(Clone, Copy, Default)]
pub struct Figures([u64; COUNTERS / 8]);

impl Figures {
    /// For people.
    pub fn told(&self) -> Value {
        // Others count with signed numbers.
        let [operations, bytes, refused, elsewhere] = self.0.map(|n| n.min(i64::MAX as u64));
        json!({
            "operations": operations, "bytes": bytes, "refused": refused, "elsewhere": elsewhere,
        })
    }

    /// For the next program.
    pub fn kept(&self) -> Value {
        json!(self.0)
    }

    /// As they were kept.
    pub fn restored(value: &Value) -> Figures {
        let mut figures = Figures::default();
        for (place, figure) in figures.0.iter_mut().enumerate() {
            *figure = value[place].as_u64().unwrap_or(0);
        }
        figures
    }
}

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Figures) {
        for (mine, more) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(more);
        }
    }
}

/// A domain's page.
pub struct Counts {
    memory: OwnedFd,
    free: Vec<u32>,
    next: u32,
    /// Of sessions that are over.
    past: Figures,
}

impl Counts {
    /// With nobody in it; `None` where there is no memory for one.
    pub fn new() -> Option<Counts> {
        let memory = sys::sealed_memory(PLACES * COUNTERS).ok()?;
        Some(Counts::with(memory, 0, Vec::new(), Figures::default()))
    }

    /// As it was before this program was run anew.
    pub fn with(memory: OwnedFd, next: u32, free: Vec<u32>, past: Figures) -> Counts {
        Counts {
            memory,
            free,
            next,
            past,
        }
    }

    /// A place for one more session; `None` if there is no room.
    pub fn take(&mut self) -> Option<u32> {
        if let Some(place) = self.free.pop() {
            return Some(place);
        }
        let place = self.next;
        (place < PLACES as u32).then(|| {
            self.next += 1;
            place
        })
    }

    /// The session there is over.
    pub fn leave(&mut self, place: u32) {
        self.past += self.read(place);
        let _ = sys::write_at(self.memory.as_fd(), &[0; COUNTERS], offset(place));
        self.free.push(place);
    }

    /// What stands there.
    pub fn read(&self, place: u32) -> Figures {
        let mut bytes = [0; COUNTERS];
        let mut figures = Figures::default();
        if sys::read_at(self.memory.as_fd(), &mut bytes, offset(place)).is_ok() {
            for (figure, bytes) in figures.0.iter_mut().zip(bytes.chunks(8)) {
                *figure = bytes.try_into().map_or(0, u64::from_ne_bytes);
            }
        }
        figures
    }

    /// Of sessions that are over.
    pub fn past(&self) -> Figures {
        self.past
    }

    /// The number of places that were ever taken.
    pub fn next(&self) -> u32 {
        self.next
    }
}

impl AsFd for Counts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

fn offset(place: u32) -> u64 {
    u64::from(place) * COUNTERS as u64
}
