//! Random bytes by AF_ALG's `rng`: an SP 800-90A DRBG, instantiated by us, at most 128 bytes a read.

use super::line::{Exchange, failure};
use super::{Chosen, Served};
use crate::engine::{Key, Random as Work};
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::sys::buffer::Output;

/// What one read gives at most.
const READ: usize = 128;

pub fn open(chosen: &Chosen) -> Result<Random> {
    // `stdrng` may also be ansi_cprng, whose output follows from the seed that a program gives it.
    if !chosen.driver.starts_with("drbg_") {
        return Err(Error::not_offered(format!(
            "the kernel's stdrng is {}, which does not seed itself",
            chosen.driver
        )));
    }
    // An empty key instantiates it from the kernel's own entropy.
    let seed = Key::Bytes(Secret::new(&[]));
    Ok(Random(Served::open(chosen, "rng", &seed, None, 0)?))
}

/// A DRBG in the kernel.
pub struct Random(Served);

impl Work for Random {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        for piece in out.chunks_mut(READ) {
            self.0.check()?;
            let request = Exchange {
                control: None,
                send: &[],
                more: false,
                receive: &[Output::from(piece)],
            };
            self.0
                .lines
                .exchange(&request)
                .map_err(|errno| failure(&self.0.driver, errno, false))?;
        }
        Ok(())
    }
}
