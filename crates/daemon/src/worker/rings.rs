//! How much memory the rings of each user take, and the policy's limit on it.

use super::upstream::lock;
use cryptofd_core::error::{Error, Kind, Result};
use cryptofd_core::ring;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Rings have a multiple of this.
const STEP: u64 = 64 << 10;

/// Bytes by uid; those without one together.
#[derive(Default)]
pub struct Rings(Mutex<HashMap<Option<u64>, u64>>);

/// One ring's part of a user's limit; given back when it is dropped.
pub struct Share {
    rings: Arc<Rings>,
    uid: Option<u64>,
    bytes: u64,
}

impl Rings {
    /// Takes `wanted` bytes or what is left, of the `most` that the rings of `uid` may take. EPERM: none may.
    /// EDQUOT: hardly any are left.
    pub fn take(
        self: &Arc<Self>,
        uid: Option<u64>,
        wanted: u64,
        most: u64,
    ) -> Result<(usize, Share)> {
        if most == 0 {
            return Err(Error::refused(
                "the policy allows no rings here (ring = 0): requests go by the socket",
            ));
        }
        let mut taken = lock(&self.0);
        let used = taken.entry(uid).or_insert(0);
        let bytes = wanted.min(most.saturating_sub(*used)) / STEP * STEP;
        if bytes < ring::LEAST as u64 {
            let said = format!(
                "{used} of {most} bytes of rings are taken, which is the policy's limit: close some sessions"
            );
            return Err(Error::new(Kind::System, libc::EDQUOT, said));
        }
        *used += bytes;
        drop(taken);
        let share = Share {
            rings: self.clone(),
            uid,
            bytes,
        };
        Ok((bytes as usize, share))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = lock(&self.rings.0);
        if let Some(used) = taken.get_mut(&self.uid) {
            *used -= self.bytes;
            if *used == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_and_what_is_dropped_is_given_back() {
        let rings = Arc::new(Rings::default());
        let errno = |most, wanted| rings.take(Some(1), wanted, most).err().map(|e| e.errno());
        assert_eq!(errno(0, 1 << 20), Some(libc::EPERM));
        assert_eq!(errno(1000, 1 << 20), Some(libc::EDQUOT));
        let (bytes, one) = rings.take(Some(1), 1 << 20, 3 << 19).unwrap();
        assert_eq!(bytes, 1 << 20);
        // Less than was wanted.
        let (bytes, two) = rings.take(Some(1), 1 << 20, 3 << 19).unwrap();
        assert_eq!(bytes, 1 << 19);
        assert_eq!(errno(3 << 19, 1 << 20), Some(libc::EDQUOT));
        let (bytes, _other) = rings.take(Some(2), 1 << 20, 3 << 19).unwrap();
        assert_eq!(bytes, 1 << 20);
        drop(one);
        assert_eq!(errno(3 << 19, 1 << 20), None);
        drop(two);
        assert!(!lock(&rings.0).contains_key(&Some(1)));
    }
}
