//! How much each user takes of what the policy limits: the memory of rings, the bytes of requests that are
//! worked on.

use super::upstream::lock;
use cryptofd_core::error::{Error, Kind, Result};
use cryptofd_core::ring;
use cryptofd_core::serve::Share;
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

/// Rings have a multiple of this.
const STEP: u64 = 64 << 10;

/// Counters by uid; those without one share one.
#[derive(Default)]
pub struct Counters(Mutex<HashMap<Option<u64>, Arc<AtomicU64>>>);

impl Counters {
    /// The counter of `uid`'s sessions.
    pub fn of(&self, uid: Option<u64>) -> Arc<AtomicU64> {
        let mut counters = lock(&self.0);
        // Users whose sessions have all gone.
        counters.retain(|_, counter| Arc::strong_count(counter) > 1);
        counters.entry(uid).or_default().clone()
    }
}

/// What a user takes, and the policy's limit on it.
pub struct Limit {
    pub taken: Arc<AtomicU64>,
    pub most: u64,
}

fn beyond(said: String) -> Error {
    Error::new(Kind::System, libc::EDQUOT, said)
}

impl Limit {
    /// Takes `wanted` bytes for a ring, or what is left. EPERM: there may be none. EDQUOT: hardly any are left.
    pub fn ring(&self, wanted: usize) -> Result<Share> {
        let most = self.most;
        if most == 0 {
            return Err(Error::refused(
                "the policy allows no rings here (ring = 0): requests go by the socket",
            ));
        }
        let part = |used| {
            let bytes = (wanted as u64).min(most.saturating_sub(used)) / STEP * STEP;
            (bytes >= ring::LEAST as u64).then_some(bytes)
        };
        Share::take(&self.taken, part).map_err(|used| {
            beyond(format!(
                "{used} of {most} bytes of rings are taken, which is the policy's limit: close some sessions"
            ))
        })
    }

    /// Takes all the bytes of a request. EDQUOT if there would be more than may be.
    pub fn flight(&self, bytes: usize) -> Result<Share> {
        let (bytes, most) = (bytes as u64, self.most);
        let part = |used: u64| (used.saturating_add(bytes) <= most).then_some(bytes);
        Share::take(&self.taken, part).map_err(|used| {
            let way = if bytes > most {
                "send it in pieces"
            } else {
                "take some answers first"
            };
            beyond(format!(
                "{} bytes of this user's requests would be in flight, and the policy's limit is {most} \
                 (in_flight): {way}",
                used.saturating_add(bytes)
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn a_limit_of_rings_holds_and_what_is_dropped_is_given_back() {
        let rings = Counters::default();
        let of = |uid, most| Limit {
            taken: rings.of(Some(uid)),
            most,
        };
        let errno = |most, wanted| of(1, most).ring(wanted).err().map(|e| e.errno());
        assert_eq!(errno(0, 1 << 20), Some(libc::EPERM));
        assert_eq!(errno(1000, 1 << 20), Some(libc::EDQUOT));
        let one = of(1, 3 << 19).ring(1 << 20).unwrap();
        assert_eq!(one.bytes(), 1 << 20);
        // Less than was wanted.
        let two = of(1, 3 << 19).ring(1 << 20).unwrap();
        assert_eq!(two.bytes(), 1 << 19);
        assert_eq!(errno(3 << 19, 1 << 20), Some(libc::EDQUOT));
        let other = of(2, 3 << 19).ring(1 << 20).unwrap();
        assert_eq!(other.bytes(), 1 << 20);
        drop(one);
        assert_eq!(errno(3 << 19, 1 << 20), None);
        drop(two);
        rings.of(Some(3));
        assert!(!lock(&rings.0).contains_key(&Some(1)));
    }

    #[test]
    fn a_limit_of_flights_holds_and_what_has_landed_counts_no_more() {
        let flights = Counters::default();
        let of = |uid| Limit {
            taken: flights.of(Some(uid)),
            most: 100,
        };
        let mine = of(1);
        let errno = |bytes| mine.flight(bytes).err().map(|e| e.errno());
        let one = mine.flight(60).unwrap();
        assert_eq!(errno(41), Some(libc::EDQUOT));
        assert_eq!(errno(40), None);
        assert!(of(1).flight(41).is_err());
        assert!(of(2).flight(41).is_ok());
        drop(one);
        assert_eq!(errno(100), None);
        assert_eq!(errno(101), Some(libc::EDQUOT));
        assert_eq!(mine.taken.load(Ordering::Relaxed), 0);
        drop(mine);
        flights.of(Some(3));
        assert_eq!(lock(&flights.0).len(), 1);
    }
}
