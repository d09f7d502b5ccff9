//! Random bytes (provider-rand(7)): an engine's generator, which seeds itself and notices forks and snapshots.

use crate::error::{Error, Reason, Result};
use crate::family;
use crate::ffi::params::Asked;
use crate::sessions::Shared;
use cryptofd_core::table::{ALGORITHMS, Algorithm, Kind};

/// The generator.
fn algorithm() -> Option<&'static Algorithm> {
    let named = |algorithm: &&Algorithm| !algorithm.openssl_rand.is_empty();
    ALGORITHMS
        .iter()
        .find(|algorithm| algorithm.kind == Kind::Rng && named(algorithm))
}

/// What is advertised.
pub fn algorithms() -> Vec<family::Algorithm> {
    let all = algorithm().into_iter().map(|algorithm| {
        let functions = crate::ffi::rand::functions();
        let text = format!("cryptofd's {}", algorithm.name);
        family::Algorithm::new(&algorithm.openssl_rand.join(":"), functions, &text)
    });
    all.collect()
}

/// Bytes of one request.
const MOST: usize = 1 << 16;

/// A generator of a program's. It has no state of its own: what seeds it and keeps it apart from others is the
/// engine's affair, so parents, seeds and additional input are taken and not needed.
#[derive(Default)]
pub struct Generator {
    ready: bool,
}

impl Generator {
    /// Makes it ready, or not ready.
    pub fn set_ready(&mut self, ready: bool) {
        self.ready = ready;
    }

    /// Fills `out`.
    pub fn generate(&self, out: &mut [u8], strength: u32) -> Result<()> {
        static SESSION: Shared = Shared::new();
        let algorithm = algorithm().ok_or(Error::SAID)?;
        if !self.ready || strength > algorithm.strength || out.len() > MOST {
            return Err(Error::new(
                Reason::INVALID,
                format!(
                    "{} bytes of strength {strength}: ready, at most {MOST} of {}",
                    out.len(),
                    algorithm.strength
                ),
            ));
        }
        Ok(SESSION.get(algorithm)?.random(out)?)
    }

    /// Answers.
    pub fn get_params(&self, asked: &mut Asked<'_>) -> Result<()> {
        asked.answer(|key, slot| match key.to_bytes() {
            // EVP_RAND_STATE_READY, or not initialised.
            b"state" => slot.integer(self.ready.into()),
            b"strength" => slot.integer(algorithm().map_or(0, |a| a.strength).into()),
            b"max_request" => slot.size(MOST),
            // Never before its parent: seeding is the engine's.
            b"reseed_counter" => slot.integer(1),
            _ => Ok(()),
        })
    }
}
