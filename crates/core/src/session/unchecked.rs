//! A running AEAD whose plaintext is given before its tag was seen.

use super::Session;
use crate::engine::{AeadStream, Direction};
use crate::error::{Error, Result};
use crate::sys::buffer::{Input, Output};
use std::sync::Arc;

/// A message of an AEAD in pieces of any length: associated data, then the message, then the tag. Who decrypts
/// must throw away what it got if `verify` fails.
pub struct Unchecked {
    pub(super) session: Arc<Session>,
    pub(super) state: Box<dyn AeadStream>,
    pub(super) length: u64,
}

impl Unchecked {
    /// Another message under the same key, on the same state.
    pub fn begin_again(&mut self, direction: Direction, iv: &[u8]) -> Result<()> {
        self.session.check_iv(iv)?;
        self.length = 0;
        self.state.begin_again(direction, iv)
    }

    /// Takes associated data; before the message.
    pub fn aad(&mut self, data: Input<'_>) -> Result<()> {
        self.state.aad(data)
    }

    /// As long in `out`, which is the same memory or apart.
    pub fn update(&mut self, data: Input<'_>, out: Output<'_>) -> Result<()> {
        super::check_output(out.len(), data.len())?;
        super::check_overlap(data, out)?;
        let length = self.length.saturating_add(data.len() as u64);
        let most = self.session.spec.algorithm.max_message;
        if length > most {
            return Err(Error::too_large(format!(
                "{length} bytes: {} takes at most {most} in one message",
                self.session.spec.algorithm.name
            )));
        }
        self.state.update(data, out)?;
        self.length = length;
        Ok(())
    }

    /// Ends: the tag of what was encrypted, all its 16 bytes.
    pub fn tag(&mut self, tag: &mut [u8; 16]) -> Result<()> {
        let made = self.state.tag(tag);
        self.session.count(self.length as usize, made)
    }

    /// Ends: EBADMSG if this is not the tag (or its beginning) of what was decrypted.
    pub fn verify(&mut self, tag: &[u8]) -> Result<()> {
        let seen = self.state.verify(tag);
        self.session.count(self.length as usize, seen)
    }

    /// Another that goes on from here.
    pub fn fork(&self) -> Result<Unchecked> {
        Ok(Unchecked {
            session: self.session.clone(),
            state: self.state.fork()?,
            length: self.length,
        })
    }
}
