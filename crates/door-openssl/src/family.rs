//! The families: each is a module that says which algorithms of one operation it has.

use crate::ffi::types::{OSSL_DISPATCH, op};
use crate::profile::Profile;
use std::ffi::{CString, c_int};

/// One algorithm that is advertised.
pub struct Algorithm {
    /// Its names, with colons between.
    pub names: CString,
    /// What it does it with, with its end.
    pub functions: &'static [OSSL_DISPATCH],
    /// For people.
    pub description: CString,
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
        }
    }
}

/// The algorithms of one operation.
pub struct Family {
    /// OSSL_OP_*.
    pub operation: c_int,
    /// The least profile that offers it.
    pub from: Profile,
    /// Its algorithms. Called once in a process.
    pub algorithms: fn() -> Vec<Algorithm>,
}

/// All of them.
pub static FAMILIES: &[Family] = &[
    Family {
        operation: op::DIGEST,
        from: Profile::Bulk,
        algorithms: crate::digest::algorithms,
    },
    Family {
        operation: op::CIPHER,
        from: Profile::Bulk,
        algorithms: crate::cipher::algorithms,
    },
    Family {
        operation: op::MAC,
        from: Profile::Bulk,
        algorithms: crate::mac::algorithms,
    },
];
