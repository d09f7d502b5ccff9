//! MACs with a key of the broker's. Short messages are kept and sent as a whole, so that no worker has a state to
//! lose; of a longer one the worker has the state, and one that takes over says that it is lost.

use crate::error::{Error, Reason, Result};
use crate::kept::told;
use crate::secret_key::SecretKey;
use cryptofd_core::client::Client;
use cryptofd_core::engine::Direction;
use cryptofd_core::record::{Op, Request};
use cryptofd_core::remote::request;
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::sys::fork;
use std::sync::Arc;

/// Bytes up to which a message is kept.
const SHORT: usize = 64 << 10;
/// The same of GMAC's, which are the associated data of one request.
const WHOLE: usize = 64 << 20;
/// Bytes of one request.
const REQUEST: usize = 16 << 20;

/// A MAC under way.
pub struct Kept {
    key: Arc<SecretKey>,
    size: usize,
    /// GMAC's nonce: such a MAC is GCM's tag of an empty message.
    nonce: Option<Vec<u8>>,
    came: Vec<u8>,
    /// The state in the worker, and the process that began it.
    running: Option<(u64, Client)>,
}

impl Kept {
    /// Not begun. `over_gcm`: GMAC.
    pub fn new(key: Arc<SecretKey>, over_gcm: bool) -> Result<Kept> {
        let size = if over_gcm {
            key.tag_size()?
        } else {
            key.digest_size()?
        };
        Ok(Kept {
            key,
            size,
            nonce: over_gcm.then(Vec::new),
            came: Vec::new(),
            running: None,
        })
    }

    /// The key.
    pub fn key(&self) -> &SecretKey {
        &self.key
    }

    /// Bytes of the MAC.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Begins a message; `nonce`: GMAC's.
    pub fn begin(&mut self, nonce: &[u8]) {
        if let Some(own) = &mut self.nonce {
            *own = nonce.to_vec();
        }
        self.came.clear();
        self.running = None;
    }

    /// Takes more.
    pub fn update(&mut self, data: Input<'_>) -> Result<()> {
        let length = self.came.len().saturating_add(data.len());
        if self.nonce.is_some() && length > WHOLE {
            let text = format!("GMAC with a key of the broker's takes {WHOLE} bytes at most");
            return Err(Error::new(Reason::TOO_LARGE, text));
        }
        if self.running.is_none() && (self.nonce.is_some() || length <= SHORT) {
            data.pieces(|piece| self.came.extend_from_slice(piece));
            return Ok(());
        }
        if self.running.is_none() {
            let client = self.key.running()?;
            let came = std::mem::take(&mut self.came);
            take(&client, Input::from(&came))?;
            self.running = Some((fork::generation(), client));
        }
        take(self.client()?, data)
    }

    /// The worker's state, which a forked child has no share in.
    fn client(&self) -> Result<&Client> {
        match &self.running {
            Some((process, client)) if *process == fork::generation() => Ok(client),
            _ => Err(Error::new(
                Reason::STATE_LOST,
                "a message that another process began: begin again",
            )),
        }
    }

    /// Ends: the MAC, which has `size` bytes.
    pub fn finish(&mut self, out: &mut [u8]) -> Result<()> {
        let lost = || Error::new(Reason::INTERNAL, "a MAC of another length");
        let made = match (&self.nonce, &self.running) {
            (Some(nonce), _) if nonce.is_empty() => {
                return Err(Error::new(
                    Reason::INVALID_IV_LENGTH,
                    "GMAC takes an iv: set it before the end",
                ));
            }
            (Some(nonce), _) => {
                let aad = Input::from(&self.came);
                self.key
                    .crypt(Direction::Encrypt, nonce, aad, Input::EMPTY)?
                    .to_vec()
            }
            (None, None) => return self.key.digest(Input::from(&self.came), out),
            (None, Some(_)) => {
                let finish = Request::new(Op::Finish);
                let made = self.client()?.call(&finish, &mut || Ok(()));
                made.map_err(told)?
            }
        };
        if made.len() != out.len() {
            return Err(lost());
        }
        out.copy_from_slice(&made);
        Ok(())
    }

    /// Another that goes on from here.
    pub fn fork(&self) -> Result<Kept> {
        let running = match &self.running {
            Some((process, _)) => {
                let client = self.client()?.try_clone(&mut || Ok(())).map_err(told)?;
                Some((*process, client))
            }
            None => None,
        };
        Ok(Kept {
            key: self.key.clone(),
            size: self.size,
            nonce: self.nonce.clone(),
            came: self.came.clone(),
            running,
        })
    }
}

fn take(client: &Client, data: Input<'_>) -> Result<()> {
    let mut rest = data;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(REQUEST));
        let update = request(Op::Update, piece);
        client.call(&update, &mut || Ok(())).map_err(told)?;
        rest = after;
    }
    Ok(())
}
