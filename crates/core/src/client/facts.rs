//! What is known of a session that another process serves.

use crate::error::{Error, Result};
use crate::table::{Algorithm, find};

/// What is known of a session.
#[derive(Clone, Copy)]
pub struct Facts {
    /// What it computes.
    pub algorithm: &'static Algorithm,
    /// Bytes of an AEAD's tag.
    pub tag_size: usize,
    /// Bytes of a digest or MAC.
    pub digest_size: usize,
}

impl Facts {
    /// Reads what the serving side says of the session; none of it is believed beyond this table.
    pub fn new(info: &str) -> Result<Facts> {
        let not = |what: &str| Error::invalid(format!("this descriptor is not a cryptofd: {what}"));
        let info: serde_json::Value =
            serde_json::from_str(info).map_err(|_| not("its INFO is no JSON"))?;
        let name = info["algorithm"]
            .as_str()
            .ok_or_else(|| not("its INFO names no algorithm"))?;
        let size = |field: &str| {
            info[field]
                .as_u64()
                .filter(|size| *size <= 1 << 16)
                .map(|size| size as usize)
                .ok_or_else(|| not("its INFO has impossible sizes"))
        };
        Ok(Facts {
            algorithm: find(name)?,
            tag_size: size("tag_size")?,
            digest_size: size("digest_size")?,
        })
    }
}
