//! Serving a session on a descriptor of its own.

mod connection;
mod ivs;
mod pair;
mod pool;
mod ring;
mod work;

use crate::error::{Error, Result};
use crate::record::{self, Incoming};
use crate::secret::Secret;
use crate::session::{Hasher, Session};
use crate::sys::descriptor;
pub use pool::Served;
use serde_json::{Value, json};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Requests that are taken from one descriptor ahead of the work, so that CANCEL finds them.
pub const IN_FLIGHT: usize = 64;
/// Most descriptors of one session.
pub const DESCRIPTORS: usize = 4096;
/// Most iterations of PBKDF2 in one request: nobody may occupy a thread for hours.
pub const ITERATIONS: u32 = 10_000_000;
/// Most bytes of memory for scrypt (128 n r) in one request.
pub const MEMORY: u64 = 256 << 20;

/// A session and what all its descriptors share.
pub(crate) struct Shared {
    session: Arc<Session>,
    descriptors: AtomicUsize,
    keeper: Option<Arc<dyn Keeper>>,
}

/// Who answers for a brokered session: says what it may do, and is told what becomes of its ends.
///
/// An end is told by the inode of its serving socket, which is the same for every copy of it.
pub trait Keeper: Send + Sync {
    /// Which worker this is, counted from 1.
    fn epoch(&self) -> u32;

    /// Whether `request` may be done now. EPERM names the usage that is missing.
    fn allow(&self, request: &Incoming<'_>) -> Result<()>;

    /// Counts the bytes that a request takes while it is worked on; `None` where nobody counts. EDQUOT.
    fn flight(&self, bytes: usize) -> Result<Option<Share>> {
        let _ = bytes;
        Ok(None)
    }

    /// What HASH_KEY takes in: a key that may be hashed, on a session of a hash.
    fn input(&self) -> Option<&Secret>;

    /// The version of the key, with which SEAL begins.
    fn version(&self) -> u8;

    /// The session of an older version of the key, for UNSEAL.
    fn older(&self, version: u8) -> Option<Arc<Session>>;

    /// A share of the memory that rings may take: as many bytes of `wanted` as there are. EPERM or EDQUOT.
    fn ring(&self, wanted: usize) -> Result<Share> {
        let _ = wanted;
        Err(Error::unsupported("no rings here"))
    }

    /// What INFO tells besides.
    fn info(&self) -> Value;

    /// A clone's serving end and its inode, before the clone's answer leaves: whoever takes over must have it.
    fn hold(&self, end: BorrowedFd<'_>, inode: u64) -> Result<()>;

    /// An end is not served here any more, and `left` are. `released`: it was given up to another worker.
    fn ended(&self, end: u64, left: usize, released: bool);
}

/// Bytes of a limit, counted as long as this lives.
pub struct Share {
    counter: Arc<AtomicU64>,
    bytes: u64,
}

impl Share {
    /// Counts as many bytes as `part` takes where so many are counted. If it takes none: how many are.
    pub fn take(
        counter: &Arc<AtomicU64>,
        part: impl Fn(u64) -> Option<u64>,
    ) -> std::result::Result<Share, u64> {
        let mut bytes = 0;
        counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |counted| {
            bytes = part(counted)?;
            counted.checked_add(bytes)
        })?;
        Ok(Share {
            counter: counter.clone(),
            bytes,
        })
    }

    /// How many.
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A session that is served on ends that were made elsewhere.
pub struct Kept(Arc<Shared>);

impl Kept {
    /// Nothing is served yet.
    pub fn new(session: Arc<Session>, keeper: Arc<dyn Keeper>) -> Result<Kept> {
        descriptor::watch_forks()?;
        Ok(Kept(Arc::new(Shared {
            session,
            descriptors: AtomicUsize::new(0),
            keeper: Some(keeper),
        })))
    }

    /// Serves this end from now on. `taken_over`: another worker did before; the epoch is announced, and
    /// what was running on it is lost.
    pub fn serve(&self, end: OwnedFd, taken_over: bool) -> Result<Served> {
        let mut state = connection::State::new(self.0.clone());
        state.lost = taken_over;
        pool::serve_end(end, state, taken_over)
    }

    /// The session.
    pub fn session(&self) -> &Arc<Session> {
        &self.0.session
    }

    /// How many ends are served.
    pub fn ends(&self) -> usize {
        self.0.descriptors.load(Ordering::Relaxed)
    }
}

/// Gives up every end of this process that has nothing under way; those that have (or all, if
/// `whatever`) follow when it is finished. Their keepers are told.
pub fn drain(whatever: bool) {
    pool::drain(whatever);
}

/// Gives `session` a descriptor (blocking, close-on-exec). It is served by threads of this process until
/// its last copy closes, or the process ends; it may be passed to any other process.
///
/// EMFILE, ENFILE, EAGAIN, ENOMEM where the system has no room.
pub fn serve(session: Arc<Session>) -> Result<OwnedFd> {
    serve_from(session, None)
}

/// The same, with a running hash's or MAC's state to go on from.
pub fn serve_from(session: Arc<Session>, running: Option<Hasher>) -> Result<OwnedFd> {
    descriptor::watch_forks()?;
    let mut state = connection::State::new(Arc::new(Shared {
        session,
        descriptors: AtomicUsize::new(0),
        keeper: None,
    }));
    state.hasher = running;
    pool::serve(state)
}

/// The limits of a descriptor, for `info()`.
pub fn limits() -> Value {
    json!({
        "inline": record::INLINE,
        "record": record::RECORD,
        "attached": record::ATTACHED,
        "in_flight": IN_FLIGHT,
        "descriptors": DESCRIPTORS,
        "iterations": ITERATIONS,
        "memory": MEMORY,
    })
}
