//! Key bytes: in locked memory, wiped when dropped, compared in constant time, never printed.

use crate::error::Result;
use crate::sys::arena::ArenaBytes;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Secret bytes, which never change. Clones share the one copy.
#[derive(Clone)]
pub struct Secret(Arc<ArenaBytes>);

impl Secret {
    /// A private copy of `bytes`.
    pub fn new(bytes: &[u8]) -> Secret {
        let mut copy = ArenaBytes::zeroed(bytes.len());
        copy.copy_from_slice(bytes);
        Secret(Arc::new(copy))
    }

    /// Made in place: `fill` gets `length` zero bytes and says how many of them count.
    pub fn made(length: usize, fill: impl FnOnce(&mut [u8]) -> Result<usize>) -> Result<Secret> {
        let mut bytes = ArenaBytes::zeroed(length);
        let counts = fill(&mut bytes)?;
        if counts == length {
            Ok(Secret(Arc::new(bytes)))
        } else {
            Ok(Secret::new(&bytes[..counts]))
        }
    }

    /// The bytes, for an engine.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// Whether two public-length byte strings are equal, in time that does not depend on where they differ.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}
