//! One value for the whole process, replaced without a lock and never freed.
//!
//! A lock could be held by another thread at a fork, and the child would wait for it for ever; a freed
//! value could still be in use.

use std::sync::atomic::{AtomicPtr, Ordering};

/// Nothing yet, or a value that lives as long as the process.
pub struct Published<T: 'static>(AtomicPtr<T>);

impl<T: Send + Sync> Published<T> {
    /// Nothing yet.
    pub const fn new() -> Published<T> {
        Published(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// What was published last.
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: null, or a box that was leaked by `replace`.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Publishes `fresh` if `old` still is the current value. False: somebody else was first, and `fresh` is
    /// dropped.
    pub fn replace(&self, old: Option<&'static T>, fresh: T) -> bool {
        let old = old.map_or(std::ptr::null_mut(), |old| {
            std::ptr::from_ref(old).cast_mut()
        });
        let fresh = Box::into_raw(Box::new(fresh));
        let done = self
            .0
            .compare_exchange(old, fresh, Ordering::AcqRel, Ordering::Acquire);
        if done.is_err() {
            // SAFETY: nobody else has seen it.
            drop(unsafe { Box::from_raw(fresh) });
        }
        done.is_ok()
    }
}

impl<T: Send + Sync> Default for Published<T> {
    fn default() -> Self {
        Published::new()
    }
}
