//! A provider that was loaded: the core's functions, the profile, the lists of algorithms.

use crate::error::{Error, Reason, Result};
use crate::family::{Algorithm, FAMILIES};
use crate::ffi::core::Core;
use crate::ffi::host::{Implementation, Others};
use crate::ffi::types::{OSSL_ALGORITHM, op};
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
    /// By operation, each list with its end.
    lists: BTreeMap<c_int, Vec<OSSL_ALGORITHM>>,
    others: OnceLock<Others>,
}

/// The algorithms of every family, once in a process: the hosts keep addresses of names and functions.
fn families() -> &'static [Vec<Algorithm>] {
    static ALL: OnceLock<Vec<Vec<Algorithm>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let all = FAMILIES.iter().map(|family| (family.algorithms)());
        all.collect()
    })
}

/// The host's version.
fn version(core: &Core) -> (u32, u32) {
    let text = core.parameter(c"openssl-version").unwrap_or_default();
    let mut numbers = text.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)).max((3, 0))
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
        let mut lists: BTreeMap<c_int, Vec<OSSL_ALGORITHM>> = BTreeMap::new();
        for (family, algorithms) in FAMILIES.iter().zip(families()) {
            // What a key of the broker's works with has the names of the host's own.
            let shared = family.from == Profile::Keys && family.operation != op::STORE;
            if profile >= family.from && (beside || !shared) {
                let list = lists.entry(family.operation).or_default();
                let known = algorithms.iter().filter(|one| one.since <= version);
                list.extend(known.map(|algorithm| OSSL_ALGORITHM {
                    algorithm_names: algorithm.names.as_ptr(),
                    property_definition: algorithm.properties_in(profile).as_ptr(),
                    implementation: algorithm.functions.as_ptr(),
                    algorithm_description: algorithm.description.as_ptr(),
                }));
            }
        }
        for list in lists.values_mut() {
            list.push(OSSL_ALGORITHM {
                algorithm_names: std::ptr::null(),
                property_definition: std::ptr::null(),
                implementation: std::ptr::null(),
                algorithm_description: std::ptr::null(),
            });
        }
        Ok(Arc::new(Provider {
            core,
            profile,
            version,
            beside,
            lists,
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

    /// The algorithms of an operation, with their end.
    pub fn list(&self, operation: c_int) -> Option<&[OSSL_ALGORITHM]> {
        self.lists.get(&operation).map(Vec::as_slice)
    }
}
