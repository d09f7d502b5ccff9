//! Preferences and policy: which engines in which order, and what is allowed at all.
//!
//! Preferences: the last source wins (system, user, environment, argument). Policy: the sources
//! intersect, so a later one can only narrow. Inside a process a policy is advice.

pub mod file;
mod sources;
#[cfg(test)]
mod tests;

pub use sources::{Environment, Sources, trusted};

use crate::cpu;
use crate::engine::{Engine, Hardware, Key, Spec};
use crate::error::{Error, Result};
use crate::table::{self, Algorithm, Faster, Kind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// What one source prefers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Engines by name, best first; those not named follow in their own order.
    pub prefer: Option<Vec<String>>,
    /// Engines that are not to be used unless a session asks for one by name.
    pub disable: Option<Vec<String>>,
}

/// What one source allows. Everything that is not set allows all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Who says so: a file's path or a variable's name.
    pub source: String,
    /// Fewest bits of security strength.
    pub minimum_strength: Option<u32>,
    /// Algorithms that are refused, by the table's names.
    pub forbid: Vec<&'static str>,
    /// The only algorithms that are not refused.
    pub allow: Option<Vec<&'static str>>,
    /// The only engines that may serve.
    pub engines: Option<Vec<String>>,
    /// `Require` or `Forbid` for every session.
    pub hardware: Option<Hardware>,
    /// Validated modules only.
    pub fips: bool,
    /// Whether what the table calls weak is refused.
    pub refuse_weak: bool,
}

/// What all sources together say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preferences {
    /// For every algorithm.
    pub wishes: Wishes,
    /// Hardware or not, for sessions that do not say.
    pub hardware: Hardware,
    /// For single algorithms, by the table's names.
    pub per_algorithm: Vec<(&'static str, Wishes)>,
    /// All of them hold.
    pub policies: Vec<Policy>,
}

fn names(list: &Option<Vec<String>>, engine: &str) -> bool {
    list.iter().flatten().any(|name| name == engine)
}

/// Bits of security of `spec`: the algorithm's, or its key's where the key is what one would guess.
fn strength(spec: &Spec) -> u32 {
    let Algorithm { kind, strength, .. } = *spec.algorithm;
    let guessed = matches!(kind, Kind::Mac | Kind::Cipher | Kind::Aead | Kind::Wrap);
    match &spec.key {
        Key::Bytes(key) if guessed => {
            // An XTS key is two keys.
            let bytes = if spec.algorithm.template() == "xts" {
                key.len() / 2
            } else {
                key.len()
            };
            strength.min(u32::try_from(bytes * 8).unwrap_or(u32::MAX))
        }
        _ => strength,
    }
}

impl Preferences {
    fn special(&self, algorithm: &str) -> Option<&Wishes> {
        self.per_algorithm
            .iter()
            .find(|(name, _)| *name == algorithm)
            .map(|(_, wishes)| wishes)
    }

    /// The engines that some source wants first for `algorithm`.
    fn wanted(&self, algorithm: &str) -> Option<&Vec<String>> {
        self.special(algorithm)
            .and_then(|wishes| wishes.prefer.as_ref())
            .or(self.wishes.prefer.as_ref())
    }

    /// The engine that comes first for `algorithm` because it is faster on this CPU, where no source wants
    /// another order.
    pub fn faster(&self, algorithm: &str) -> Option<Faster> {
        let faster = table::find(algorithm).ok()?.faster?;
        (self.wanted(algorithm).is_none() && cpu::lacks(faster.without)).then_some(faster)
    }

    /// The engines in the order for `algorithm`.
    pub fn order(&self, algorithm: &str, all: &[&'static dyn Engine]) -> Vec<&'static dyn Engine> {
        let faster = self.faster(algorithm).map(|faster| faster.engine);
        let first: Vec<&str> = match self.wanted(algorithm) {
            Some(wanted) => wanted.iter().map(String::as_str).collect(),
            None => faster.into_iter().collect(),
        };
        let mut order: Vec<&'static dyn Engine> = all.to_vec();
        order.sort_by_key(|e| {
            let place = first.iter().position(|name| *name == e.name());
            place.unwrap_or(usize::MAX)
        });
        order
    }

    /// Why `engine` may not serve `algorithm`, if it may not.
    pub fn against(&self, engine: &str, algorithm: &str) -> Option<String> {
        if let Some(why) = self.forbids(engine) {
            return Some(why);
        }
        let special = self.special(algorithm);
        if names(&self.wishes.disable, engine) {
            Some("disabled by preference".into())
        } else if special.is_some_and(|wishes| names(&wishes.disable, engine)) {
            Some(format!("disabled by preference for {algorithm}"))
        } else {
            None
        }
    }

    /// Why no policy lets `engine` serve, if so. A session that asks for the engine by name overrides a
    /// preference, not this.
    pub fn forbids(&self, engine: &str) -> Option<String> {
        self.policies
            .iter()
            .find(|policy| policy.engines.is_some() && !names(&policy.engines, engine))
            .map(|policy| {
                format!(
                    "the policy of {} allows {} only",
                    policy.source,
                    policy
                        .engines
                        .iter()
                        .flatten()
                        .cloned()
                        .collect::<Vec<_>>()
                        .join(", ")
                )
            })
    }

    /// EPERM where a policy refuses `spec`.
    pub fn check(&self, spec: &Spec) -> Result<()> {
        let algorithm = spec.algorithm;
        let name = algorithm.name;
        for policy in &self.policies {
            let source = &policy.source;
            if policy.forbid.contains(&name) {
                return Err(Error::refused(format!(
                    "{name} is refused by the policy of {source} (forbid)"
                )));
            }
            if policy
                .allow
                .as_ref()
                .is_some_and(|allow| !allow.contains(&name))
            {
                return Err(Error::refused(format!(
                    "{name} is refused by the policy of {source}: it is not in its list \"allow\""
                )));
            }
            if let (true, Some(why)) = (policy.refuse_weak, algorithm.weak) {
                return Err(Error::refused(format!(
                    "{name} is weak, which the policy of {source} refuses: {why}"
                )));
            }
            let strength = strength(spec);
            if let Some(minimum) = policy.minimum_strength.filter(|least| strength < *least) {
                return Err(Error::refused(format!(
                    "{name} here has {strength} bits of strength, the policy of {source} asks for \
                     {minimum}"
                )));
            }
        }
        Ok(())
    }

    /// `spec` with what the preferences add and the policies demand; EPERM where they refuse it.
    pub fn apply(&self, spec: &Spec) -> Result<Spec> {
        self.check(spec)?;
        let mut spec = spec.clone();
        if spec.hardware == Hardware::Any {
            spec.hardware = self.hardware;
        }
        for policy in &self.policies {
            spec.fips |= policy.fips;
            let Some(demanded) = policy.hardware else {
                continue;
            };
            if matches!(spec.hardware, Hardware::Require | Hardware::Forbid)
                && spec.hardware != demanded
            {
                return Err(Error::refused(format!(
                    "hardware={} against the policy of {}, which says hardware={}",
                    spec.hardware.name(),
                    policy.source,
                    demanded.name()
                )));
            }
            spec.hardware = demanded;
        }
        Ok(spec)
    }

    /// Lays what a later source says over this.
    fn add(&mut self, later: file::Said) {
        fn over(base: &mut Wishes, later: Wishes) {
            if later.prefer.is_some() {
                base.prefer = later.prefer;
            }
            if later.disable.is_some() {
                base.disable = later.disable;
            }
        }
        over(&mut self.wishes, later.wishes);
        if let Some(hardware) = later.hardware {
            self.hardware = hardware;
        }
        for (name, wishes) in later.per_algorithm {
            match self
                .per_algorithm
                .iter_mut()
                .find(|(known, _)| *known == name)
            {
                Some((_, known)) => over(known, wishes),
                None => self.per_algorithm.push((name, wishes)),
            }
        }
        let silent = Policy {
            source: later.policy.source.clone(),
            ..Policy::default()
        };
        if later.policy != silent {
            self.policies.push(later.policy);
        }
    }
}

/// How often the files are looked at.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was read last, and when it was last seen to be unchanged.
struct Current {
    answer: Result<Arc<Preferences>>,
    sources: Sources,
    stamps: Vec<sources::Stamp>,
    checked: Mutex<Instant>,
}

impl Current {
    fn read() -> Current {
        let sources = Sources::of_this_process();
        // Looked at before reading: what changes meanwhile is seen the next time.
        let stamps = sources.stamps();
        let answer = sources.load().map(Arc::new);
        Current {
            answer,
            sources,
            stamps,
            checked: Mutex::new(Instant::now()),
        }
    }

    /// Whether a file has changed since; looks at most once in `PATIENCE`.
    fn outdated(&self) -> bool {
        if FROZEN.load(Ordering::Relaxed) {
            return false;
        }
        // Whoever finds it taken relies on the one who has it.
        let Ok(mut checked) = self.checked.try_lock() else {
            return false;
        };
        if checked.elapsed() < PATIENCE {
            return false;
        }
        *checked = Instant::now();
        self.sources.stamps() != self.stamps
    }
}

static CURRENT: RwLock<Option<Current>> = RwLock::new(None);

/// What holds now. A file that cannot be trusted or understood is an error for as long as it stays so:
/// nothing opens on a policy that nobody could read.
pub fn current() -> Result<Arc<Preferences>> {
    if let Some(current) = CURRENT
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .as_ref()
    {
        if !current.outdated() {
            return current.answer.clone();
        }
    }
    reload()
}

static FROZEN: AtomicBool = AtomicBool::new(false);

/// Reads everything a last time: this process will not be able to open files any more.
pub fn freeze() -> Result<Arc<Preferences>> {
    let answer = reload();
    FROZEN.store(true, Ordering::Relaxed);
    answer
}

/// Reads everything again now: files and environment.
pub fn reload() -> Result<Arc<Preferences>> {
    let fresh = Current::read();
    let answer = fresh.answer.clone();
    *CURRENT.write().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
    answer
}
