//! The ring: shared memory on which requests and answers of one descriptor travel without system calls
//! (interface/record.toml, docs/wire.md). What both sides agree on; nothing read here is believed yet.

mod count;
pub mod room;

pub use count::{Word, awake, may_sleep, must_ring};

use crate::error::{Error, Result};
use crate::sys::shared::{Shared, full_fence};
use std::sync::atomic::Ordering;

/// At the beginning of every ring.
pub const MAGIC: u32 = 0x3152_4643;
/// The version written here.
pub const VERSION: u32 = 1;
/// Requests that may be unanswered at once.
pub const ENTRIES: u32 = 256;
/// Bytes of one request's description.
pub const SUBMISSION: usize = 64;
/// Bytes of one answer's.
pub const COMPLETION: usize = 32;
/// Fewest bytes of a ring.
pub const LEAST: usize = 128 << 10;
/// Most bytes of a ring.
pub const MOST: usize = 256 << 20;

/// Where what stands in the header: name, offset, bytes.
pub const FIELDS: [(&str, usize, usize); 13] = [
    ("magic", 0, 4),
    ("version", 4, 4),
    ("size", 8, 4),
    ("entries", 12, 4),
    ("submissions", 16, 4),
    ("completions", 20, 4),
    ("arena", 24, 4),
    ("epoch", 28, 4),
    ("number", 32, 8),
    ("submitted", SUBMITTED, 4),
    ("completed", COMPLETED, 4),
    ("client_sleeps", CLIENT_SLEEPS, 4),
    ("worker_sleeps", WORKER_SLEEPS, 4),
];

/// Counts requests; the client writes it.
pub const SUBMITTED: usize = 64;
/// Counts answers; the worker writes it.
pub const COMPLETED: usize = 128;
/// 1: the client wants a bell.
pub const CLIENT_SLEEPS: usize = 192;
/// 1: the worker wants a bell.
pub const WORKER_SLEEPS: usize = 256;

const SUBMISSIONS: usize = 512;
const COMPLETIONS: usize = SUBMISSIONS + ENTRIES as usize * SUBMISSION;
/// Where the payload begins.
pub const ARENA: usize = 28 << 10;

/// The fields of a request's description: name, offset, bytes.
pub const SUBMISSION_FIELDS: [(&str, usize, usize); 13] = [
    ("op", 0, 2),
    ("flags", 2, 2),
    ("iv", 4, 4),
    ("id", 8, 8),
    ("aad", 16, 4),
    ("params", 20, 4),
    ("data", 24, 4),
    ("head_at", 28, 4),
    ("data_at", 32, 4),
    ("out_at", 36, 4),
    ("room", 40, 4),
    ("message", 44, 4),
    ("reserved", 48, 16),
];

/// The fields of an answer's: name, offset, bytes.
pub const COMPLETION_FIELDS: [(&str, usize, usize); 5] = [
    ("id", 0, 8),
    ("op", 8, 4),
    ("status", 12, 4),
    ("length", 16, 4),
    ("reserved", 20, 12),
];

/// A request: where its sections are, and where its answer may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Submission {
    pub op: u16,
    pub flags: u16,
    pub id: u64,
    /// Bytes of the sections.
    pub iv: u32,
    pub aad: u32,
    pub params: u32,
    pub data: u32,
    /// Where iv, aad and params are, one after the other; a refusal's sentence goes there too.
    pub head_at: u32,
    pub data_at: u32,
    pub out_at: u32,
    /// Bytes that the result may take.
    pub room: u32,
    /// Bytes that a refusal's sentence may take.
    pub message: u32,
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

impl Submission {
    /// As it stands in the ring.
    pub fn encode(&self) -> [u64; 8] {
        let first = u32::from(self.op) | u32::from(self.flags) << 16;
        [
            pair(first, self.iv),
            self.id,
            pair(self.aad, self.params),
            pair(self.data, self.head_at),
            pair(self.data_at, self.out_at),
            pair(self.room, self.message),
            0,
            0,
        ]
    }

    /// From the ring. EINVAL, with the id, if it says more than this side understands.
    pub fn decode(words: [u64; 8]) -> (Submission, Result<()>) {
        let (first, iv) = halves(words[0]);
        let (aad, params) = halves(words[2]);
        let (data, head_at) = halves(words[3]);
        let (data_at, out_at) = halves(words[4]);
        let (room, message) = halves(words[5]);
        let submission = Submission {
            op: first as u16,
            flags: (first >> 16) as u16,
            id: words[1],
            iv,
            aad,
            params,
            data,
            head_at,
            data_at,
            out_at,
            room,
            message,
        };
        let known = if words[6] | words[7] == 0 {
            Ok(())
        } else {
            Err(Error::invalid("the reserved field must be zero"))
        };
        (submission, known)
    }

    /// Bytes of iv, aad and params.
    pub fn head(&self) -> u64 {
        u64::from(self.iv) + u64::from(self.aad) + u64::from(self.params)
    }

    /// Bytes of all sections of one that was checked.
    pub fn bytes(&self) -> usize {
        (self.head() + u64::from(self.data)) as usize
    }

    /// Whether all of it lies in the arena of a ring of `size` bytes.
    pub fn check(&self, size: usize) -> Result<()> {
        let within = |at: u32, length: u64| {
            length == 0 || (at as usize >= ARENA && u64::from(at) + length <= size as u64)
        };
        let right = within(self.head_at, self.head().max(self.message.into()))
            && within(self.data_at, self.data.into())
            && within(self.out_at, self.room.into());
        if right {
            Ok(())
        } else {
            Err(Error::invalid("a section lies beyond the ring's arena"))
        }
    }
}

/// An answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Completed {
    pub id: u64,
    pub op: u16,
    /// An errno, or 0.
    pub status: u32,
    /// Bytes of the result, or of the refusal's sentence.
    pub length: u32,
}

impl Completed {
    /// As it stands in the ring.
    pub fn encode(&self) -> [u64; 4] {
        [
            self.id,
            pair(self.op.into(), self.status),
            self.length.into(),
            0,
        ]
    }

    /// From the ring.
    pub fn decode(words: [u64; 4]) -> Completed {
        let (op, status) = halves(words[1]);
        Completed {
            id: words[0],
            op: op as u16,
            status,
            length: words[2] as u32,
        }
    }
}

/// Writes the header of a fresh ring.
pub fn begin(shared: &Shared, epoch: u32, number: u64) {
    shared.store(
        0,
        [
            pair(MAGIC, VERSION),
            pair(shared.len() as u32, ENTRIES),
            pair(SUBMISSIONS as u32, COMPLETIONS as u32),
            pair(ARENA as u32, epoch),
            number,
        ],
    );
}

/// The epoch and the number in the header of a ring that this side understands.
pub fn header(shared: &Shared) -> Option<(u32, u64)> {
    let words: [u64; 5] = shared.load(0);
    let layout = [
        pair(MAGIC, VERSION),
        pair(shared.len() as u32, ENTRIES),
        pair(SUBMISSIONS as u32, COMPLETIONS as u32),
    ];
    let (arena, epoch) = halves(words[3]);
    (words[..3] == layout && arena as usize == ARENA).then_some((epoch, words[4]))
}

/// Where the description of the request `number` is.
pub fn submission_at(number: u32) -> usize {
    SUBMISSIONS + (number % ENTRIES) as usize * SUBMISSION
}

/// Where that of the answer `number` is.
pub fn completion_at(number: u32) -> usize {
    COMPLETIONS + (number % ENTRIES) as usize * COMPLETION
}

impl Word for std::sync::atomic::AtomicU32 {
    fn load(&self) -> u32 {
        std::sync::atomic::AtomicU32::load(self, Ordering::Acquire)
    }

    fn store(&self, value: u32) {
        std::sync::atomic::AtomicU32::store(self, value, Ordering::Release);
    }

    fn swap(&self, value: u32) -> u32 {
        std::sync::atomic::AtomicU32::swap(self, value, Ordering::AcqRel)
    }

    fn fence() {
        full_fence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_go_round() {
        let submission = Submission {
            op: 24,
            flags: 2,
            id: u64::MAX - 5,
            iv: 1,
            aad: 2,
            params: 3,
            data: 4,
            head_at: ARENA as u32,
            data_at: ARENA as u32 + 64,
            out_at: ARENA as u32 + 128,
            room: 9,
            message: 10,
        };
        let (back, known) = Submission::decode(submission.encode());
        assert_eq!(back, submission);
        assert!(known.is_ok() && back.check(LEAST).is_ok());
        let mut more = submission.encode();
        more[7] = 1;
        assert!(Submission::decode(more).1.is_err());
        let completed = Completed {
            id: 7,
            op: 24,
            status: 22,
            length: 99,
        };
        assert_eq!(Completed::decode(completed.encode()), completed);
    }

    #[test]
    fn nothing_lies_beyond_the_arena() {
        let fine = Submission {
            head_at: ARENA as u32,
            data_at: ARENA as u32,
            out_at: ARENA as u32,
            ..Submission::default()
        };
        let end = LEAST as u32;
        for change in [
            |s: &mut Submission, v| (s.iv, s.head_at) = (1, v),
            |s: &mut Submission, v| (s.aad, s.head_at) = (1, v),
            |s: &mut Submission, v| (s.params, s.head_at) = (1, v),
            |s: &mut Submission, v| (s.message, s.head_at) = (1, v),
            |s: &mut Submission, v| (s.data, s.data_at) = (1, v),
            |s: &mut Submission, v| (s.room, s.out_at) = (1, v),
        ] {
            let with = |value| {
                let mut one = fine;
                change(&mut one, value);
                one.check(LEAST).is_ok()
            };
            assert!(with(ARENA as u32) && with(end - 1));
            for value in [0, ARENA as u32 - 1, end, end + 1, u32::MAX] {
                assert!(!with(value), "{value}");
            }
        }
        for sum in [
            Submission {
                iv: u32::MAX,
                aad: u32::MAX,
                params: u32::MAX,
                ..fine
            },
            Submission {
                data: u32::MAX,
                ..fine
            },
            Submission {
                room: u32::MAX,
                ..fine
            },
        ] {
            assert!(sum.check(LEAST).is_err());
        }
    }

    #[test]
    fn the_layout_does_not_overlap() {
        const { assert!(WORKER_SLEEPS + 64 <= SUBMISSIONS) };
        const { assert!(COMPLETIONS + ENTRIES as usize * COMPLETION <= ARENA) };
        assert_eq!(submission_at(ENTRIES), submission_at(0));
        assert_eq!(u32::MAX % ENTRIES, ENTRIES - 1);
    }
}
