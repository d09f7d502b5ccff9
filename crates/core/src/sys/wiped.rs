//! A value whose bytes are zeroed when it goes.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

/// Wipes the whole of `T` after dropping it, where `T` itself does not.
///
/// Moving it leaves a copy behind, as with every Rust value: make it where it stays.
pub struct Wiped<T>(ManuallyDrop<T>);

impl<T> Wiped<T> {
    /// Takes the value.
    pub fn new(value: T) -> Wiped<T> {
        Wiped(ManuallyDrop::new(value))
    }
}

impl<T: Clone> Clone for Wiped<T> {
    fn clone(&self) -> Self {
        Wiped(self.0.clone())
    }
}

impl<T> Deref for Wiped<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Wiped<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for Wiped<T> {
    fn drop(&mut self) {
        // SAFETY: dropped once, here, and not used after; then its own bytes are overwritten.
        unsafe {
            ManuallyDrop::drop(&mut self.0);
            libc::explicit_bzero((&raw mut self.0).cast(), size_of::<T>());
        }
    }
}
