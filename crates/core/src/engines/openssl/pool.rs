//! Contexts that are ready to be used again. Never waits: a child of fork() may hold a lock that nobody
//! will ever give back, and a new context costs less than waiting for an old one.

use crate::error::Result;
use std::sync::Mutex;

/// More than this many are not kept.
const MOST: usize = 16;

/// Spare contexts.
pub struct Pool<T> {
    free: Mutex<Vec<T>>,
}

impl<T> Pool<T> {
    /// None yet.
    pub fn new() -> Pool<T> {
        Pool {
            free: Mutex::new(Vec::new()),
        }
    }

    /// A spare one, or what `make` makes.
    pub fn take(&self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let spare = self.free.try_lock().ok().and_then(|mut free| free.pop());
        match spare {
            Some(spare) => Ok(spare),
            None => make(),
        }
    }

    /// Keeps one for the next. What failed is dropped instead.
    pub fn give(&self, spare: T) {
        if let Ok(mut free) = self.free.try_lock() {
            if free.len() < MOST {
                free.push(spare);
            }
        }
    }
}
