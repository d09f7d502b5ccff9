//! A provider that was loaded: the core's functions, the profile, the lists of algorithms.

use crate::error::{Error, Reason, Result};
use crate::family::{Algorithm, FAMILIES};
use crate::ffi::core::Core;
use crate::ffi::host::{Implementation, Others};
use crate::ffi::routed::{Cipher, Digest, Route, Routes};
use crate::ffi::types::{OSSL_ALGORITHM, OSSL_DISPATCH, op};
use crate::measured::Measured;
use crate::profile::Profile;
use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::{Arc, OnceLock};

/// OpenSSL asks its providers in the order in which they were activated, or of their names once a program has
/// looked for one by its name, and keeps to the first that has an algorithm. All keys of a type are one
/// algorithm: what a program generates, or reads from its files, must go to the host's own providers (base,
/// default, fips), so that this one comes after these.
const BEFORE: &str = "fips";

/// One loaded provider; a library context of the host's may have each.
pub struct Provider {
    core: Core,
    profile: Profile,
    version: (u32, u32),
    /// Whether the host's own providers come before this one.
    beside: bool,
    /// By operation.
    lists: BTreeMap<c_int, List>,
    /// Every new context asks for one of these.
    pub digests: Routes<Digest>,
    pub ciphers: Routes<Cipher>,
    /// In profile `bulk`: what is worth its way.
    measured: Option<Measured>,
    others: OnceLock<Others>,
}

/// The algorithms of one operation.
#[derive(Default)]
struct List {
    /// Those of each family, and whether only what is worth its way is offered of them.
    parts: Vec<(&'static [Algorithm], bool)>,
    /// What is offered, with its end.
    offered: OnceLock<Vec<OSSL_ALGORITHM>>,
}

impl List {
    /// Whether some of them are measured.
    fn measured(&self) -> bool {
        self.parts.iter().any(|(_, measured)| *measured)
    }
}

/// The host's version.
fn version(core: &Core) -> (u32, u32) {
    let text = core.parameter(c"openssl-version").unwrap_or_default();
    let mut numbers = text.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)).max((3, 0))
}

fn unset<S>(count: usize) -> Routes<S> {
    (0..count).map(|_| OnceLock::new()).collect()
}

impl Provider {
    /// For the core of a host.
    pub fn new(core: Core) -> Result<Arc<Provider>> {
        let profile = match Profile::settle(&core) {
            Ok(profile) => profile,
            Err(word) => {
                let text = format!("profile = {word}: one of keys, bulk, all");
                let error = Error::new(Reason::PARAMETER, text);
                core.raise(&error);
                return Err(error);
            }
        };
        let version = version(&core);
        let beside = core
            .parameter(c"provider-name")
            .is_none_or(|name| name.as_str() > BEFORE);
        let mut lists: BTreeMap<c_int, List> = BTreeMap::new();
        for family in &FAMILIES {
            // What a key of the broker's works with has the names of the host's own.
            let shared = family.from == Profile::Keys && family.operation != op::STORE;
            if profile >= family.from && (beside || !shared) {
                let list = lists.entry(family.operation).or_default();
                let measured = profile == Profile::Bulk && family.from == Profile::Bulk;
                list.parts.push((family.algorithms(), measured));
            }
        }
        let measured = (profile == Profile::Bulk).then(|| Measured::new(&core));
        Ok(Arc::new(Provider {
            core,
            profile,
            version,
            beside,
            lists,
            digests: unset(crate::digest::variants().len()),
            ciphers: unset(crate::cipher::variants().len()),
            measured,
            others: OnceLock::new(),
        }))
    }

    /// The core's functions.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The host's own implementation of an algorithm, by any of its names.
    pub fn host(&self, operation: c_int, name: &str) -> Option<Implementation> {
        let others = self.others.get_or_init(|| Others::new(&self.core));
        others.implementation(operation, name)
    }

    /// The profile.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Whether the host's OpenSSL has what came with this version.
    pub fn has(&self, since: (u32, u32)) -> bool {
        since <= self.version
    }

    /// In profile `bulk`, what was measured.
    pub fn measured(&self) -> &str {
        self.measured.as_ref().map_or("", Measured::told)
    }

    /// An error where the host's own providers may come after this one: then it offers no keys.
    pub fn offers_keys(&self) -> Result<()> {
        if self.beside {
            return Ok(());
        }
        Err(Error::new(
            Reason::PARAMETER,
            "the provider's name in the configuration must come after \"fips\" in the alphabet \
             (libcryptofd-openssl, say): else programs' own keys would come to it",
        ))
    }

    /// The algorithms of an operation, with their end, and whether that is the last word.
    pub fn list(&self, operation: c_int) -> (Option<&[OSSL_ALGORITHM]>, bool) {
        let Some(list) = self.lists.get(&operation) else {
            return (None, true);
        };
        if let (true, Some(measured)) = (list.measured(), &self.measured) {
            if measured.here() {
                // The host does a job that is measured, and asks for what that stands on.
                let offered = list.offered.get();
                return (offered.map(Vec::as_slice), offered.is_some());
            }
            measured.once(|| {
                self.core.forgetting(|| {
                    // What stands on others after them: to time a MAC, the host looks for a digest.
                    for operation in [op::DIGEST, op::CIPHER, op::MAC, op::KDF] {
                        let list = self.lists.get(&operation);
                        list.map(|list| self.offered(operation, list));
                    }
                    false
                });
            });
        }
        (Some(self.offered(operation, list)), true)
    }

    fn offered<'a>(&self, operation: c_int, list: &'a List) -> &'a [OSSL_ALGORITHM] {
        list.offered.get_or_init(|| {
            let all = list.parts.iter();
            let all = all.flat_map(|(part, measured)| part.iter().map(|one| (one, *measured)));
            let known = all.filter(|(algorithm, _)| self.has(algorithm.since));
            let offered = known.filter_map(|(algorithm, measured)| {
                let functions = if measured {
                    self.worth(operation, algorithm)?
                } else {
                    algorithm.functions
                };
                Some(OSSL_ALGORITHM {
                    algorithm_names: algorithm.names.as_ptr(),
                    property_definition: algorithm.properties_in(self.profile).as_ptr(),
                    implementation: functions.as_ptr(),
                    algorithm_description: algorithm.description.as_ptr(),
                })
            });
            let end = OSSL_ALGORITHM {
                algorithm_names: std::ptr::null(),
                property_definition: std::ptr::null(),
                implementation: std::ptr::null(),
                algorithm_description: std::ptr::null(),
            };
            offered.chain([end]).collect()
        })
    }

    /// The functions of an algorithm that is worth its way.
    fn worth(&self, operation: c_int, algorithm: &Algorithm) -> Option<&'static [OSSL_DISPATCH]> {
        let Some(theirs) = self.host(operation, algorithm.chief()) else {
            // Nobody else has it.
            return Some(algorithm.functions);
        };
        let measured = self.measured.as_ref()?;
        let job = algorithm.job.as_ref()?;
        let ours = Implementation::ours(self, algorithm.functions);
        let handing_on = |from| {
            let routed = algorithm.routed?;
            let theirs = theirs.clone();
            match routed.cipher {
                Some((way, chained)) => {
                    let side = |one: &Implementation| Cipher::of(one, way, chained);
                    let made = Route::new(&ours, theirs, from, side).ok()?;
                    let _ = self.ciphers.get(routed.place)?.set(made);
                }
                None => {
                    let made = Route::new(&ours, theirs, from, Digest::of).ok()?;
                    let _ = self.digests.get(routed.place)?.set(made);
                }
            }
            Some((routed.functions)(routed.place))
        };
        if let Some(known) = measured.known(algorithm) {
            return match known.from? {
                0 => Some(algorithm.functions),
                from => handing_on(from),
            };
        }
        let mut verdict = measured.judge(job, &ours, &theirs)?;
        let functions = match verdict.from {
            None => None,
            Some(0) => Some(algorithm.functions),
            Some(from) => handing_on(from).filter(|functions| {
                measured.bears(job, &Implementation::ours(self, functions), &theirs)
            }),
        };
        if functions.is_none() {
            verdict.from = None;
        }
        measured.put(algorithm, verdict);
        functions
    }
}
