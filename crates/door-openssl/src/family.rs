//! The families: each is a module that says which algorithms of one operation it has.

use crate::cipher::Way;
use crate::ffi::types::{OSSL_DISPATCH, op};
use crate::measure::Job;
use crate::profile::Profile;
use std::ffi::{CStr, CString, c_int};
use std::sync::OnceLock;

/// One algorithm that is advertised.
pub struct Algorithm {
    /// Its names, with colons between.
    pub names: CString,
    /// What it does it with, with its end.
    pub functions: &'static [OSSL_DISPATCH],
    /// For people.
    pub description: CString,
    /// Its properties.
    pub properties: CString,
    /// The same in profile `keys`, where they are others.
    pub alone: Option<CString>,
    /// The first version of OpenSSL that has such a thing.
    pub since: (u32, u32),
    /// What is measured to see whether it is worth its way; where there is nothing, it is not, if the host has it.
    pub job: Option<Job>,
    /// How a message of some length comes to it while shorter ones are the host's.
    pub routed: Option<Routed>,
}

/// The functions of an algorithm whose short messages are the host's.
#[derive(Clone, Copy)]
pub struct Routed {
    /// Its number, which they ask for.
    pub place: usize,
    pub functions: fn(usize) -> &'static [OSSL_DISPATCH],
    /// A cipher's: how it is run, and whether a message without an IV of its own begins with the one before.
    pub cipher: Option<(Way, bool)>,
}

impl Algorithm {
    /// From Rust's strings.
    pub fn new(names: &str, functions: &'static [OSSL_DISPATCH], description: &str) -> Algorithm {
        assert!(functions.last().is_some_and(|last| last.function_id == 0));
        let text = |text: &str| CString::new(text).unwrap_or_default();
        Algorithm {
            names: text(names),
            functions,
            description: text(description),
            properties: text("provider=cryptofd"),
            alone: None,
            since: (3, 0),
            job: None,
            routed: None,
        }
    }

    /// Its properties in a profile.
    pub fn properties_in(&self, profile: Profile) -> &CStr {
        match &self.alone {
            Some(alone) if profile == Profile::Keys => alone,
            _ => &self.properties,
        }
    }

    /// With what is measured, and the functions of where it is worth its way from some length on.
    pub fn measured(mut self, job: Option<Job>, routed: Option<Routed>) -> Algorithm {
        self.job = job;
        self.routed = routed;
        self
    }

    /// The chief of its names.
    pub fn chief(&self) -> &str {
        let names = self.names.to_str().unwrap_or_default();
        names.split(':').next().unwrap_or_default()
    }

    /// With these properties, from this version of OpenSSL on.
    pub fn with(mut self, properties: &str, since: (u32, u32)) -> Algorithm {
        self.properties = CString::new(properties).unwrap_or_default();
        self.since = since;
        self
    }

    /// Of what works with keys of the broker's, too. Whoever looks for `provider=cryptofd` gets it where nothing
    /// else is ours; beside what is, `cryptofd.keys=yes` alone finds it.
    fn by_reference(mut self) -> Algorithm {
        self.properties = c"provider=cryptofd-keys,cryptofd.keys=yes".to_owned();
        self.alone = Some(c"provider=cryptofd,cryptofd.keys=yes".to_owned());
        self
    }
}

/// Those of a family's that work with keys of the broker's, by their places.
pub fn by_reference(all: Vec<Algorithm>, works: impl Fn(usize) -> bool) -> Vec<Algorithm> {
    let all = all.into_iter().enumerate();
    let all = all.filter(|(place, _)| works(*place));
    all.map(|(_, one)| one.by_reference()).collect()
}

/// The algorithms of one operation.
pub struct Family {
    /// OSSL_OP_*.
    pub operation: c_int,
    /// The least profile that offers it.
    pub from: Profile,
    make: fn() -> Vec<Algorithm>,
    made: OnceLock<Vec<Algorithm>>,
}

impl Family {
    /// Its algorithms, made once in a process, by the first provider that offers them: the hosts keep addresses of
    /// names and functions.
    pub fn algorithms(&'static self) -> &'static [Algorithm] {
        self.made.get_or_init(self.make)
    }
}

const fn family(operation: c_int, from: Profile, make: fn() -> Vec<Algorithm>) -> Family {
    Family {
        operation,
        from,
        make,
        made: OnceLock::new(),
    }
}

/// All of them.
pub static FAMILIES: [Family; 17] = [
    family(op::KEYMGMT, Profile::Keys, crate::keys::managers),
    family(op::SIGNATURE, Profile::Keys, crate::keys::signatures),
    family(op::ASYM_CIPHER, Profile::Keys, crate::keys::ciphers),
    family(op::KEYEXCH, Profile::Keys, crate::keys::exchanges),
    family(op::KEM, Profile::Keys, crate::keys::kems),
    family(op::STORE, Profile::Keys, crate::keys::stores),
    family(op::ENCODER, Profile::Keys, crate::keys::encoders),
    family(op::DECODER, Profile::Keys, crate::keys::decoders),
    family(op::SKEYMGMT, Profile::Keys, crate::skeys::managers),
    family(op::CIPHER, Profile::Keys, crate::cipher::by_reference),
    family(op::MAC, Profile::Keys, crate::mac::by_reference),
    family(op::KDF, Profile::Keys, crate::kdf::by_reference),
    family(op::DIGEST, Profile::Bulk, crate::digest::algorithms),
    family(op::CIPHER, Profile::Bulk, crate::cipher::algorithms),
    family(op::MAC, Profile::Bulk, crate::mac::algorithms),
    family(op::KDF, Profile::Bulk, crate::kdf::algorithms),
    family(op::RAND, Profile::All, crate::rand::algorithms),
];
