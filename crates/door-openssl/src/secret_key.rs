//! Secret keys of the broker's: programs name them, workers use them, and their bytes are not in this process.

use crate::error::{Error, Reason, Result};
use crate::ffi::params::Value as Parameter;
use crate::kept::{Kept, ask};
use crate::reference::{self, Name};
use cryptofd_core::client::Client;
use cryptofd_core::engine::Direction;
use cryptofd_core::record::{Op, Params, Request};
use cryptofd_core::remote::request;
use cryptofd_core::sys::buffer::{Input, Output};
use cryptofd_core::table::{self, Algorithm, Kind};
use serde_json::{Value, json};
use std::ffi::{CStr, CString};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The parameter of ciphers and MACs, and of what a symmetric key is made of, that names one: `cryptofd:LABEL`.
pub const PARAMETER: &CStr = c"cryptofd-key";

/// A secret key of the broker's.
pub struct SecretKey {
    algorithm: &'static Algorithm,
    /// Bytes of it.
    size: usize,
    uri: CString,
    kept: Kept,
}

impl SecretKey {
    /// The key that a parameter names. Its session is opened now, as a pair's is.
    pub fn given(value: &Parameter<'_>) -> Result<Arc<SecretKey>> {
        match Name::given(value.text()?)? {
            Name::Key(name) => SecretKey::named(&name),
            Name::All => {
                let text = "cryptofd: names all keys, of which one is wanted: cryptofd:LABEL";
                Err(Error::new(Reason::BAD_URI, text))
            }
        }
    }

    /// The key of this name.
    fn named(name: &str) -> Result<Arc<SecretKey>> {
        let answer = ask("KeyInfo", &json!({"key": name, "version": null}))?;
        let key = SecretKey::of(&answer.parameters["key"])?;
        key.kept.session()?;
        Ok(key)
    }

    /// The key that the broker describes so.
    pub fn of(description: &Value) -> Result<Arc<SecretKey>> {
        let algorithm = table::find(description["algorithm"].as_str().unwrap_or_default())?;
        let kept = Kept::of(description);
        let uri = reference::uri(kept.name());
        if algorithm.kind == Kind::Pair {
            let text = format!(
                "{uri} is a pair of keys ({}): OSSL_STORE loads it",
                algorithm.name
            );
            return Err(Error::new(Reason::UNSUPPORTED, text));
        }
        let bits = description["bits"].as_u64().unwrap_or(0);
        let key = SecretKey {
            algorithm,
            size: usize::try_from(bits / 8).unwrap_or(0),
            uri: CString::new(uri).unwrap_or_default(),
            kept,
        };
        Ok(Arc::new(key))
    }

    /// What it is for: a key of the broker's serves one algorithm.
    pub fn algorithm(&self) -> &'static Algorithm {
        self.algorithm
    }

    /// `cryptofd:OWNER/LABEL`.
    pub fn uri(&self) -> &CStr {
        &self.uri
    }

    /// An error unless it serves this algorithm; `size`: bytes that a key must have there.
    pub fn serves(&self, algorithm: &Algorithm, size: Option<usize>, what: &str) -> Result<()> {
        let fits = size.is_none_or(|size| size == self.size);
        if self.algorithm.name == algorithm.name && fits {
            return Ok(());
        }
        Err(Error::new(
            Reason::UNSUPPORTED,
            format!(
                "{} is a key of {} with {} bits, which serves nothing else: not {what}",
                self.uri.to_string_lossy(),
                self.algorithm.name,
                self.size * 8,
            ),
        ))
    }

    /// Bytes of the tags that it makes.
    pub fn tag_size(&self) -> Result<usize> {
        Ok(self.kept.session()?.tag_size())
    }

    /// Bytes of the MACs that it makes.
    pub fn digest_size(&self) -> Result<usize> {
        Ok(self.kept.session()?.digest_size())
    }

    /// A whole message; an AEAD's tag is the end of what is encrypted.
    pub fn crypt(
        &self,
        direction: Direction,
        iv: &[u8],
        aad: Input<'_>,
        data: Input<'_>,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let op = match direction {
            Direction::Encrypt => Op::Encrypt,
            Direction::Decrypt => Op::Decrypt,
        };
        let request = Request {
            iv,
            aad,
            ..request(op, data)
        };
        self.kept.with(|remote| remote.ask(&request))
    }

    /// A whole message with an IV of the worker's own: the IV, the ciphertext and the tag.
    pub fn seal(&self, aad: Input<'_>, data: Input<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let request = Request {
            aad,
            ..request(Op::Seal, data)
        };
        let mut sealed = self.kept.with(|remote| remote.ask(&request))?;
        // The key's version, which is this session's.
        if !sealed.is_empty() {
            sealed.remove(0);
        }
        Ok(sealed)
    }

    /// The MAC of a whole message.
    pub fn digest(&self, data: Input<'_>, out: &mut [u8]) -> Result<()> {
        let request = request(Op::Digest, data);
        let made = self.kept.with(|remote| remote.ask(&request))?;
        if made.len() != out.len() {
            return Err(Error::new(Reason::INTERNAL, "a MAC of another length"));
        }
        Output::from(out).copy_from(&made);
        Ok(())
    }

    /// Bytes that are derived from it.
    pub fn derive(&self, salt: &[u8], info: &[u8], out: &mut [u8]) -> Result<()> {
        let request = Request {
            params: Params {
                length: Some(out.len() as u64),
                salt: (!salt.is_empty()).then_some(salt),
                info: (!info.is_empty()).then_some(info),
                ..Params::default()
            },
            ..Request::new(Op::Derive)
        };
        let made = self.kept.with(|remote| remote.ask(&request))?;
        if made.len() != out.len() {
            return Err(Error::new(Reason::INTERNAL, "an answer of another length"));
        }
        out.copy_from_slice(&made);
        Ok(())
    }

    /// A running MAC in the worker.
    pub fn running(&self) -> Result<Client> {
        self.kept.with(|remote| remote.fresh())
    }
}
