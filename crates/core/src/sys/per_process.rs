//! A value that every process makes for itself. A library's object may hold a lock that another thread took
//! just when this process was forked: nobody will ever give it back, so the child does not touch it.

use super::fork;
use crate::error::Result;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Made by whoever asks first in each process; lives as long as this does.
pub struct PerProcess<T: Send + Sync> {
    newest: AtomicPtr<Made<T>>,
}

struct Made<T> {
    value: T,
    generation: u64,
    /// The parent's.
    before: *mut Made<T>,
}

impl<T: Send + Sync> Default for PerProcess<T> {
    fn default() -> Self {
        PerProcess::new()
    }
}

impl<T: Send + Sync> PerProcess<T> {
    /// Not made yet.
    pub const fn new() -> Self {
        PerProcess {
            newest: AtomicPtr::new(null_mut()),
        }
    }

    /// This process's value; made now if it is not there yet.
    pub fn get(&self, make: impl FnOnce() -> Result<T>) -> Result<&T> {
        self.get_from(|_| make())
    }

    /// The same, made with a look at what the parent had.
    pub fn get_from(&self, make: impl FnOnce(Option<&T>) -> Result<T>) -> Result<&T> {
        let generation = fork::generation();
        let newest = self.newest.load(Ordering::Acquire);
        // SAFETY: what was put there lives until `self` is dropped.
        let before = unsafe { newest.as_ref() };
        if let Some(made) = before.filter(|made| made.generation == generation) {
            return Ok(&made.value);
        }
        let mine = Box::into_raw(Box::new(Made {
            value: make(before.map(|made| &made.value))?,
            generation,
            before: newest,
        }));
        match self
            .newest
            .compare_exchange(newest, mine, Ordering::AcqRel, Ordering::Acquire)
        {
            // SAFETY: lives until `self` is dropped.
            Ok(_) => Ok(unsafe { &(*mine).value }),
            Err(other) => {
                // SAFETY: mine was never shared; the other is of another thread of this process, is not null
                // and lives until `self` is dropped.
                unsafe {
                    drop(Box::from_raw(mine));
                    Ok(&(*other).value)
                }
            }
        }
    }
}

impl<T: Send + Sync> Drop for PerProcess<T> {
    fn drop(&mut self) {
        let mut next = *self.newest.get_mut();
        while !next.is_null() {
            // SAFETY: made by Box::into_raw in get(), and nobody else's any more.
            let made = unsafe { Box::from_raw(next) };
            next = made.before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PerProcess;
    use crate::sys::forked::in_child;

    #[test]
    fn a_child_makes_its_own() {
        let place = PerProcess::default();
        let get = |fresh: u32| *place.get(|| Ok(fresh)).unwrap();
        assert_eq!((get(1), get(2)), (1, 1));
        let child = in_child(|| vec![get(3) as u8, get(4) as u8]);
        assert_eq!(child, Some(vec![3, 3]));
        assert_eq!(get(5), 1);
    }

    #[test]
    fn what_cannot_be_made_is_tried_again() {
        let place = PerProcess::default();
        assert!(place.get(|| Err(crate::Error::closed())).is_err());
        assert_eq!(*place.get(|| Ok(7)).unwrap(), 7);
    }
}
