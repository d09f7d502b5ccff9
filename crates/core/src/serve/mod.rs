//! Serving a session on a descriptor of its own.

mod connection;
mod pool;
mod work;

use crate::error::Result;
use crate::record;
use crate::session::{Hasher, Session};
use crate::sys::descriptor;
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

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
