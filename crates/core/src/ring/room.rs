//! Which bytes of the arena are free: the client's alone, kept in its own memory.

/// Everything begins at a cache line.
const LINE: u32 = 64;

/// The holes, in their order, none beside another.
pub struct Room {
    holes: Vec<(u32, u32)>,
    used: u32,
}

/// Rounds up to whole cache lines.
pub fn lines(length: usize) -> Option<u32> {
    let length = u32::try_from(length).ok()?;
    Some(length.checked_add(LINE - 1)? / LINE * LINE)
}

impl Room {
    /// `length` bytes from `at` on, all free; both whole lines.
    pub fn new(at: u32, length: u32) -> Room {
        debug_assert!(at % LINE == 0 && length % LINE == 0);
        Room {
            holes: vec![(at, length)],
            used: 0,
        }
    }

    /// Takes so many bytes (whole lines), the first that there are.
    pub fn take(&mut self, length: u32) -> Option<u32> {
        debug_assert!(length > 0 && length % LINE == 0);
        let place = self.holes.iter().position(|hole| hole.1 >= length)?;
        let hole = &mut self.holes[place];
        let at = hole.0;
        hole.0 += length;
        hole.1 -= length;
        if hole.1 == 0 {
            self.holes.remove(place);
        }
        self.used += length;
        Some(at)
    }

    /// Gives them back.
    pub fn give(&mut self, at: u32, length: u32) {
        self.used -= length;
        let place = self.holes.partition_point(|hole| hole.0 < at);
        let joins_next = self
            .holes
            .get(place)
            .is_some_and(|hole| hole.0 == at + length);
        let joins_last = place > 0 && {
            let hole = self.holes[place - 1];
            hole.0 + hole.1 == at
        };
        match (joins_last, joins_next) {
            (true, true) => {
                self.holes[place - 1].1 += length + self.holes[place].1;
                self.holes.remove(place);
            }
            (true, false) => self.holes[place - 1].1 += length,
            (false, true) => {
                let hole = &mut self.holes[place];
                hole.0 = at;
                hole.1 += length;
            }
            (false, false) => self.holes.insert(place, (at, length)),
        }
    }

    /// Bytes that are taken.
    pub fn used(&self) -> u32 {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_there_again() {
        let mut room = Room::new(128, 1024);
        let taken: Vec<u32> = (0..16).map(|_| room.take(64).unwrap()).collect();
        assert_eq!(taken[0], 128);
        assert_eq!((room.take(64), room.used()), (None, 1024));
        // In every order the holes become one again.
        for step in [1, 3, 5, 7, 11] {
            for n in 0..16 {
                room.give(taken[n * step % 16], 64);
            }
            assert_eq!(room.holes, [(128, 1024)]);
            assert_eq!(room.take(1024), Some(128));
            room.give(128, 1024);
            for place in &taken {
                assert_eq!(room.take(64), Some(*place));
            }
        }
        room.give(taken[3], 64);
        assert_eq!(room.take(128), None);
        assert_eq!(room.take(64), Some(taken[3]));
    }

    #[test]
    fn lines_are_whole() {
        assert_eq!(
            (lines(0), lines(1), lines(64), lines(65)),
            (Some(0), Some(64), Some(64), Some(128))
        );
        assert_eq!(lines(usize::MAX), None);
        assert_eq!(lines(u32::MAX as usize), None);
    }
}
