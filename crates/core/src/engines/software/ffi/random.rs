//! Random bytes from AWS-LC's DRBG, which notices forks and snapshots of virtual machines.

use super::done;
use crate::engine::Random;
use crate::error::Result;
use aws_lc_sys as c;

/// The DRBG of this thread.
pub struct Drbg;

impl Random for Drbg {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        // SAFETY: out is writable for its length.
        done(unsafe { c::RAND_bytes(out.as_mut_ptr(), out.len()) }, "RNG")
    }
}
