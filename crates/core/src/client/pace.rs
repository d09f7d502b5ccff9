//! How long answers take, as it was lately: for how long to spin for one, and when to sleep first.

use crate::record::Op;
use std::time::Duration;

/// How long to spin for an answer at most.
pub(crate) const LONGEST: Duration = Duration::from_micros(200);
const SHORTEST: Duration = Duration::from_micros(10);
/// What takes longer than a spin is slept for, until so long before it usually comes: whoever wakes by a
/// timer in time is there when the answer is, and nobody has to be woken.
const AHEAD: Duration = Duration::from_micros(150);
/// Beyond this a waking is nothing.
const LONG: Duration = Duration::from_millis(4);
/// Above the number of every op.
const OPS: usize = 64;

/// How often nothing is slept for after it turned out that others want the core.
const CROWDED: u8 = 100;

/// How long something takes at least.
#[derive(Clone, Copy, Default)]
pub(crate) struct Least {
    /// Microseconds; 0: not known.
    micros: u32,
    /// How often to do without.
    crowded: u8,
}

impl Least {
    /// How long to sleep before spinning for it; `None` where that is not worth it.
    pub(crate) fn ahead(self) -> Option<Duration> {
        if self.crowded > 0 {
            return None;
        }
        let least = Duration::from_micros(self.micros.into());
        let ahead = least.saturating_sub(AHEAD);
        (ahead >= AHEAD && least <= LONG).then_some(ahead)
    }

    /// It took so long.
    pub(crate) fn took(&mut self, took: Duration) {
        let took = took.as_micros().min(1 << 20) as u32;
        self.micros = match self.micros {
            0 => took,
            known => took.min(known + took.saturating_sub(known) / 8),
        };
        self.crowded = self.crowded.saturating_sub(1);
    }

    /// Others want the core: whoever sleeps and is woken comes before them.
    pub(crate) fn crowded(&mut self) {
        self.crowded = CROWDED;
    }
}

/// What was learned.
pub(super) struct Pace {
    /// Microseconds that an answer takes, on the average.
    usual: u32,
    /// Of each op.
    least: [Least; OPS],
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            usual: 50,
            least: [Least::default(); OPS],
        }
    }
}

impl Pace {
    /// How long to spin where nothing is known of when the answer comes.
    pub(super) fn patience(&self) -> Duration {
        let twice = Duration::from_micros(u64::from(self.usual) * 2);
        if twice > LONGEST {
            SHORTEST
        } else {
            twice.max(SHORTEST)
        }
    }

    /// How long to sleep before spinning for the answer of `op`; `None` where that is not worth it.
    pub(super) fn ahead(&self, op: Op) -> Option<Duration> {
        self.least.get(op as usize).and_then(|least| least.ahead())
    }

    /// Others wanted the core meanwhile.
    pub(super) fn crowded(&mut self, op: Op) {
        if let Some(least) = self.least.get_mut(op as usize) {
            least.crowded();
        }
    }

    /// An answer took so long. `alone`: nothing else was under way, so that it is what `op` takes.
    pub(super) fn took(&mut self, op: Op, took: Duration, alone: bool) {
        let micros = took.as_micros().min(1 << 20) as u32;
        self.usual = (self.usual * 7 + micros) / 8;
        if let Some(least) = self.least.get_mut(op as usize).filter(|_| alone) {
            least.took(took);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn what_takes_long_is_slept_for_and_never_too_long() {
        let mut pace = Pace::default();
        assert_eq!(pace.ahead(Op::Sign), None);
        for took in [700, 650, 900, 700] {
            pace.took(Op::Sign, micros(took), true);
        }
        let ahead = pace.ahead(Op::Sign).unwrap();
        assert!(ahead <= micros(650) - AHEAD + micros(50), "{ahead:?}");
        assert!(ahead >= micros(400), "{ahead:?}");
        // Another op is not slept for, nor one that is quick now.
        assert_eq!(pace.ahead(Op::VerifySignature), None);
        pace.took(Op::Sign, micros(40), true);
        assert_eq!(pace.ahead(Op::Sign), None);
    }

    #[test]
    fn big_and_small_ones_in_turns_are_not_slept_for() {
        let mut pace = Pace::default();
        for turn in 0..100 {
            let took = if turn % 2 == 0 { 900 } else { 5 };
            pace.took(Op::Seal, micros(took), true);
            assert!(turn == 0 || pace.ahead(Op::Seal).is_none());
        }
    }

    #[test]
    fn where_others_want_the_core_it_is_done_without_for_a_while() {
        let mut pace = Pace::default();
        pace.took(Op::Sign, micros(700), true);
        assert!(pace.ahead(Op::Sign).is_some());
        pace.crowded(Op::Sign);
        let mut without = 0;
        while pace.ahead(Op::Sign).is_none() {
            pace.took(Op::Sign, micros(700), true);
            without += 1;
        }
        assert_eq!(without, u32::from(CROWDED));
    }

    #[test]
    fn one_among_many_teaches_nothing_of_its_op() {
        let mut pace = Pace::default();
        pace.took(Op::Sign, micros(900), false);
        assert_eq!(pace.ahead(Op::Sign), None);
    }

    #[test]
    fn a_spin_is_never_long() {
        let mut pace = Pace::default();
        assert!(pace.patience() <= LONGEST);
        for took in [0, 0, 30, 100, 5000, 1 << 30] {
            pace.took(Op::Seal, micros(took), true);
            assert!((SHORTEST..=LONGEST).contains(&pace.patience()));
        }
        assert_eq!(pace.patience(), SHORTEST);
        assert_eq!(pace.ahead(Op::Seal), None, "a second's sleep");
    }
}
