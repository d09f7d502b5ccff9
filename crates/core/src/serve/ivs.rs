//! IVs of our own making: 96 random bits each, at most 2^32 messages a key (SP 800-38D, 8.3).

use crate::engines::software::random;
use crate::error::Result;

/// Bytes of one.
pub const IV: usize = 12;
/// That are drawn at once at most.
const MOST: usize = 32;

/// A few that were drawn at once, for requests whose bytes are fixed already: a draw costs more than a short
/// message's encryption. Never kept for later requests, which could see them twice after a snapshot.
pub struct Ivs {
    drawn: [u8; MOST * IV],
    /// Bytes of it that are not used.
    left: usize,
}

impl Default for Ivs {
    fn default() -> Ivs {
        Ivs {
            drawn: [0; MOST * IV],
            left: 0,
        }
    }
}

impl Ivs {
    /// Draws some, if that can be. Whatever was left is forgotten.
    pub fn draw(&mut self, count: usize) {
        self.forget();
        let bytes = count.min(MOST) * IV;
        if random(&mut self.drawn[..bytes]).is_ok() {
            self.left = bytes;
        }
    }

    /// Only these: drawn with others', for one request.
    pub fn give(&mut self, iv: [u8; IV]) {
        self.drawn[..IV].copy_from_slice(&iv);
        self.left = IV;
    }

    /// One that nobody else has.
    pub fn next(&mut self) -> Result<[u8; IV]> {
        if let Some(iv) = self.drawn() {
            return Ok(iv);
        }
        let mut iv = [0; IV];
        random(&mut iv)?;
        Ok(iv)
    }

    /// One of those that were drawn.
    pub fn drawn(&mut self) -> Option<[u8; IV]> {
        let left = self.left.checked_sub(IV)?;
        let mut iv = [0; IV];
        iv.copy_from_slice(&self.drawn[left..self.left]);
        self.left = left;
        Some(iv)
    }

    /// Those that are left are not used any more.
    pub fn forget(&mut self) {
        self.left = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_comes_twice() {
        let mut ivs = Ivs::default();
        let mut seen = std::collections::HashSet::new();
        for count in [0, 1, 2, 31, 32, 33] {
            ivs.draw(count);
            // More than were drawn, and some are left where not.
            for _ in 0..count + 3 {
                assert!(seen.insert(ivs.next().unwrap()));
            }
            ivs.draw(5);
            let one = ivs.drawn().unwrap();
            ivs.give(one);
            assert_eq!(ivs.next().unwrap(), one);
            assert_eq!(ivs.drawn(), None);
            assert!(seen.insert(ivs.next().unwrap()));
            ivs.forget();
            assert!(seen.insert(ivs.next().unwrap()));
        }
        assert!(!seen.contains(&[0; IV]));
    }
}
