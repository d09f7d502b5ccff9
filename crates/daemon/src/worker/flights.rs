//! How many bytes of each user's requests are being worked on, and the policy's limit on it.

use super::upstream::lock;
use cryptofd_core::error::{Error, Kind, Result};
use cryptofd_core::serve::Flight;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Counters by uid; those without one share one.
#[derive(Default)]
pub struct Flights(Mutex<HashMap<Option<u64>, Arc<AtomicU64>>>);

impl Flights {
    /// The counter of `uid`'s sessions.
    pub fn of(&self, uid: Option<u64>) -> Arc<AtomicU64> {
        let mut counters = lock(&self.0);
        // Users whose sessions have all gone.
        counters.retain(|_, counter| Arc::strong_count(counter) > 1);
        counters.entry(uid).or_default().clone()
    }
}

/// Counts a request of so many bytes until the flight is dropped. EDQUOT if there would be more than `most`.
pub fn begin(counter: &Arc<AtomicU64>, bytes: usize, most: u64) -> Result<Flight> {
    let bytes = bytes as u64;
    let flight = Flight::new(counter.clone(), bytes);
    let now = counter.fetch_add(bytes, Ordering::Relaxed) + bytes;
    if now <= most {
        return Ok(flight);
    }
    let way = if bytes > most {
        "send it in pieces"
    } else {
        "take some answers first"
    };
    Err(Error::new(
        Kind::System,
        libc::EDQUOT,
        format!(
            "{now} bytes of this user's requests would be in flight, and the policy's limit is {most} \
             (in_flight): {way}"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_and_what_has_landed_counts_no_more() {
        let flights = Flights::default();
        let counter = flights.of(Some(1));
        let errno = |bytes| begin(&counter, bytes, 100).err().map(|e| e.errno());
        let one = begin(&counter, 60, 100).unwrap();
        assert_eq!(errno(41), Some(libc::EDQUOT));
        assert_eq!(errno(40), None);
        assert!(begin(&flights.of(Some(1)), 41, 100).is_err());
        assert!(begin(&flights.of(Some(2)), 41, 100).is_ok());
        drop(one);
        assert_eq!(errno(100), None);
        assert_eq!(errno(101), Some(libc::EDQUOT));
        assert_eq!(counter.load(Ordering::Relaxed), 0);
        drop(counter);
        flights.of(Some(3));
        assert_eq!(lock(&flights.0).len(), 1);
    }
}
