//! The engine `software`: AWS-LC, always there, and kept crates for the little that it lacks.

mod ffi;

use crate::engine::{Engine, Opened, Spec, Work};
use crate::error::{Error, Result};
use crate::table::Kind;

/// The engine.
pub struct Software;

impl Engine for Software {
    fn name(&self) -> &'static str {
        "software"
    }

    fn probe(&self) -> Result<String> {
        Ok(ffi::version())
    }

    fn open(&self, spec: &Spec) -> Result<Opened> {
        let algorithm = spec.algorithm;
        let work = match algorithm.kind {
            Kind::Aead => Work::Aead(Box::new(ffi::Aead::new(spec)?)),
            Kind::Hash => Work::Hashing(Box::new(ffi::Hash::new(algorithm.name)?)),
            _ => return Err(Error::not_offered(format!("no {}", algorithm.name))),
        };
        Ok(Opened {
            work,
            driver: "aws-lc".into(),
            driver_certain: true,
            hardware: false,
            fips: false,
        })
    }
}
