//! How much the provider offers: only brokered keys, bulk too, or all.

use crate::ffi::core::Core;
use cryptofd_core::sys::process;
use std::ffi::CStr;

/// How much is offered; each includes the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// Keys that the broker keeps.
    Keys,
    /// Hashes, MACs, ciphers and derivations too.
    Bulk,
    /// Random numbers too.
    All,
}

impl Profile {
    /// The word that people write.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Keys => "keys",
            Profile::Bulk => "bulk",
            Profile::All => "all",
        }
    }

    /// The same, for the host.
    pub fn word(self) -> &'static CStr {
        match self {
            Profile::Keys => c"keys",
            Profile::Bulk => c"bulk",
            Profile::All => c"all",
        }
    }

    fn parse(word: &str) -> Option<Profile> {
        [Profile::Keys, Profile::Bulk, Profile::All]
            .into_iter()
            .find(|profile| profile.name() == word)
    }

    /// What the provider's section of the configuration says, unless CRYPTOFD_OPENSSL_PROFILE says
    /// otherwise in a program that runs with no more rights than whoever started it. Err: the word that is
    /// none.
    pub fn settle(core: &Core) -> Result<Profile, String> {
        let variable = (!process::is_privileged())
            .then(|| std::env::var("CRYPTOFD_OPENSSL_PROFILE").ok())
            .flatten()
            .filter(|word| !word.is_empty());
        match variable.or_else(|| core.parameter(c"profile")) {
            None => Ok(Profile::Keys),
            Some(word) => Profile::parse(&word).ok_or(word),
        }
    }
}
