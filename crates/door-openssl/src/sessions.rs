//! Sessions that need no key, opened once for all contexts, and again when the preferences have changed.

use crate::error::Result;
use cryptofd_core::preferences::{self, Preferences};
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

/// A session of this door's.
pub fn open(request: Request) -> Result<Arc<Session>> {
    Ok(Session::open(request)?)
}
