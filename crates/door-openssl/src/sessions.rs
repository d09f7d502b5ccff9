//! Sessions of this door's: those that need no key are opened once for all contexts, and again when the
//! preferences have changed.

use crate::error::Result;
use cryptofd_core::engine::Key;
use cryptofd_core::preferences::{self, Preferences};
use cryptofd_core::secret::{self, Secret};
use cryptofd_core::session::{Request, Session};
use cryptofd_core::table::Algorithm;
use std::sync::{Arc, RwLock};

/// The place of one algorithm's session.
#[derive(Default)]
pub struct Shared(RwLock<Option<(Arc<Preferences>, Arc<Session>)>>);

impl Shared {
    /// Not opened.
    pub const fn new() -> Shared {
        Shared(RwLock::new(None))
    }

    /// The session.
    pub fn get(&self, algorithm: &Algorithm) -> Result<Arc<Session>> {
        let current = preferences::current()?;
        if let Some((preferences, session)) = &*self.0.read().unwrap_or_else(|e| e.into_inner()) {
            if Arc::ptr_eq(preferences, &current) {
                return Ok(session.clone());
            }
        }
        let session = open(Request {
            algorithm: algorithm.name.to_owned(),
            ..Request::default()
        })?;
        *self.0.write().unwrap_or_else(|e| e.into_inner()) = Some((current, session.clone()));
        Ok(session)
    }
}

/// Whether this session has this key: programs that set the same key for each message need no other.
pub fn has_key(session: Option<&Arc<Session>>, key: &[u8]) -> bool {
    session.is_some_and(|session| {
        let own = session.spec().key.bytes();
        own.is_ok_and(|own| secret::equal(own, key))
    })
}

/// A session of an algorithm with this key.
pub fn with_key(algorithm: &Algorithm, key: &[u8]) -> Result<Arc<Session>> {
    open(Request {
        algorithm: algorithm.name.to_owned(),
        key: Key::Bytes(Secret::new(key)),
        ..Request::default()
    })
}

/// A session of this door's.
pub fn open(request: Request) -> Result<Arc<Session>> {
    Ok(Session::open(request)?)
}
