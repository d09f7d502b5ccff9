//! Preferences and policy: which engines in which order, and what is allowed at all.
//!
//! Preferences: the last source wins. Policy: the sources intersect.

use crate::engine::{Engine, Spec};
use crate::error::{Error, Result};
use std::sync::{Arc, RwLock};

/// What all sources together say.
#[derive(Clone, Debug, Default)]
pub struct Preferences {
    /// Engines by name, best first; those not named follow in their own order.
    pub prefer: Vec<String>,
    /// Engines that are not to be used.
    pub disable: Vec<String>,
    /// The same for single algorithms.
    pub per_algorithm: Vec<(String, Vec<String>, Vec<String>)>,
    /// Policy: fewest bits of security strength.
    pub minimum_strength: u32,
    /// Policy: algorithms that are refused.
    pub forbid: Vec<String>,
}

impl Preferences {
    /// The engines in the order for `algorithm`.
    pub fn order(&self, algorithm: &str, all: &[&'static dyn Engine]) -> Vec<&'static dyn Engine> {
        let special = self
            .per_algorithm
            .iter()
            .find(|(name, ..)| name == algorithm);
        let wanted = special
            .map(|(_, prefer, _)| prefer)
            .filter(|p| !p.is_empty())
            .unwrap_or(&self.prefer);
        let mut order: Vec<&'static dyn Engine> = all.to_vec();
        order.sort_by_key(|e| {
            wanted
                .iter()
                .position(|name| name == e.name())
                .unwrap_or(usize::MAX)
        });
        order
    }

    /// Why `engine` may not serve `algorithm`, if it may not.
    pub fn against(&self, engine: &str, algorithm: &str) -> Option<String> {
        let special = self
            .per_algorithm
            .iter()
            .find(|(name, ..)| name == algorithm);
        if self.disable.iter().any(|e| e == engine) {
            Some("disabled by preference".into())
        } else if special.is_some_and(|(_, _, disable)| disable.iter().any(|e| e == engine)) {
            Some(format!("disabled by preference for {algorithm}"))
        } else {
            None
        }
    }

    /// EPERM where the policy refuses `spec`.
    pub fn check(&self, spec: &Spec) -> Result<()> {
        let algorithm = spec.algorithm;
        if self.forbid.iter().any(|name| name == algorithm.name) {
            return Err(Error::refused(format!(
                "{} is refused by policy",
                algorithm.name
            )));
        }
        if algorithm.strength < self.minimum_strength {
            return Err(Error::refused(format!(
                "{} has {} bits of strength, the policy asks for {}",
                algorithm.name, algorithm.strength, self.minimum_strength
            )));
        }
        Ok(())
    }
}

static CURRENT: RwLock<Option<Arc<Preferences>>> = RwLock::new(None);

/// What holds now.
pub fn current() -> Result<Arc<Preferences>> {
    if let Some(current) = CURRENT.read().unwrap_or_else(|e| e.into_inner()).as_ref() {
        return Ok(current.clone());
    }
    let fresh = Arc::new(Preferences::default());
    *CURRENT.write().unwrap_or_else(|e| e.into_inner()) = Some(fresh.clone());
    Ok(fresh)
}
