//! Whether an engine is worth its way: judged by times of the same work, done by us and by the host itself.

use crate::error::{Error, Result};
use std::time::Duration;

/// From this ratio of the host's time to ours on, an algorithm is worth being taken from the host.
const GAIN: f64 = 1.05;
/// With this one we are as fast, but for what a clock gets wrong.
const SAME: f64 = 0.97;
/// Below this one, no clock is so wrong.
const HOPELESS: f64 = 0.8;
/// What a program that is handed on to the host may lose.
pub const ROUTED: f64 = 0.95;
/// The times of one side that are taken; the least counts, as what disturbs only adds.
const ROUNDS: usize = 7;

/// Whatever is done so many times lasts: where it does not, the clock stands (programs are run with one that does).
const MOST: u32 = 1 << 11;

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Ours,
    Theirs,
}

/// Where an algorithm's work goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// From how many bytes on it is ours; never where there is none.
    pub from: Option<usize>,
    /// The host's time through ours for the longest work.
    pub gain: f64,
}

/// How many times a piece of work has to be done to last so long. An error where the clock does not see it.
pub fn times(long: Duration, mut time: impl FnMut(u32) -> Result<Duration>) -> Result<u32> {
    let mut again = 1;
    while time(again)? < long {
        again *= 2;
        if again > MOST {
            return Err(Error::SAID);
        }
    }
    Ok(again)
}

/// The host's time through ours, of one piece of work.
pub fn ratio(mut time: impl FnMut(Side) -> Result<Duration>) -> Result<f64> {
    let (mut ours, mut theirs) = (Duration::MAX, Duration::MAX);
    let quotient = |theirs: Duration, ours: Duration| {
        theirs.as_nanos().max(1) as f64 / ours.as_nanos().max(1) as f64
    };
    for round in 0..ROUNDS {
        theirs = theirs.min(time(Side::Theirs)?);
        ours = ours.min(time(Side::Ours)?);
        if round > 0 && quotient(theirs, ours) < HOPELESS {
            break;
        }
    }
    Ok(quotient(theirs, ours))
}

/// Judges an algorithm by its ratios: `of(size)` for each of `sizes`, which rise. The longest work is what an
/// engine is for: where it gains nothing there, the rest is not looked at.
pub fn judge(sizes: &[usize], mut of: impl FnMut(usize) -> Result<f64>) -> Result<Verdict> {
    let Some((longest, shorter)) = sizes.split_last() else {
        return Ok(Verdict {
            from: None,
            gain: 1.0,
        });
    };
    let gain = of(*longest)?;
    if gain < GAIN {
        return Ok(Verdict { from: None, gain });
    }
    let mut from = *longest;
    for size in shorter.iter().rev() {
        if of(*size)? < SAME {
            return Ok(Verdict {
                from: Some(from),
                gain,
            });
        }
        from = *size;
    }
    Ok(Verdict {
        from: Some(0),
        gain,
    })
}

#[cfg(test)]
mod tests {
    use super::{Side, Verdict, judge, ratio, times};
    use std::time::Duration;

    const SIZES: [usize; 4] = [16, 256, 4096, 65536];

    fn from(ratios: [f64; 4]) -> Option<usize> {
        let of = |size| Ok(ratios[SIZES.iter().position(|one| *one == size).unwrap()]);
        judge(&SIZES, of).unwrap().from
    }

    #[test]
    fn what_gains_nothing_at_length_is_never_ours() {
        assert_eq!(from([2.0, 2.0, 2.0, 1.0]), None);
        assert_eq!(from([0.4, 0.5, 0.6, 0.7]), None);
    }

    #[test]
    fn what_gains_at_length_is_ours_from_where_it_loses_nothing() {
        assert_eq!(from([1.0, 1.0, 1.2, 1.4]), Some(0));
        assert_eq!(from([0.5, 0.8, 1.1, 1.4]), Some(4096));
        assert_eq!(from([0.5, 0.8, 0.9, 1.4]), Some(65536));
        // What it loses between counts.
        assert_eq!(from([1.5, 0.5, 1.1, 1.4]), Some(4096));
    }

    #[test]
    fn an_algorithm_without_sizes_is_never_ours() {
        let never = Verdict {
            from: None,
            gain: 1.0,
        };
        assert_eq!(judge(&[], |_| Ok(9.0)).unwrap(), never);
    }

    #[test]
    fn work_is_done_until_a_clock_sees_it() {
        let micros = Duration::from_micros;
        let of = |each: u64| times(micros(20), |again| Ok(micros(each) * again));
        assert_eq!(of(100).unwrap(), 1);
        assert_eq!(of(3).unwrap(), 8);
        // A clock that stands is not waited for.
        assert!(of(0).is_err());
    }

    #[test]
    fn what_disturbs_once_does_not_count() {
        let mut times = [9, 20, 10, 20, 10, 700].into_iter().cycle();
        let of = |side| {
            let micros = times.next().unwrap();
            Ok(Duration::from_micros(if side == Side::Ours {
                micros / 2
            } else {
                micros
            }))
        };
        let found = ratio(of).unwrap();
        assert!((0.8..1.3).contains(&found), "{found}");
    }
}
