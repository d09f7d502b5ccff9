//! What runs a cipher without authentication: a session of this process, or a worker with a key of the broker's.

use crate::error::{Error, Reason, Result};
use crate::secret_key::SecretKey;
use cryptofd_core::engine::Direction;
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{self, Place, Session};
use cryptofd_core::sys::buffer::{Input, Output};
use std::sync::Arc;

/// Bytes of one request to a worker; whole blocks of every cipher.
const REQUEST: usize = 16 << 20;

/// What runs it.
#[derive(Clone)]
pub enum Served {
    Here(Arc<Session>),
    There(Arc<SecretKey>),
}

/// The key's bytes are in the worker alone.
fn elsewhere(what: &str) -> Error {
    Error::new(
        Reason::UNSUPPORTED,
        format!("{what}: not with a key that the broker keeps"),
    )
}

impl Served {
    /// Whether a worker is asked.
    pub fn asks(&self) -> bool {
        matches!(self, Served::There(_))
    }

    /// The session of this process.
    pub fn here(&self) -> Option<&Arc<Session>> {
        match self {
            Served::Here(session) => Some(session),
            Served::There(_) => None,
        }
    }

    /// The key's bytes, for the host's own implementation of `what`.
    pub fn bytes(&self, what: &str) -> Result<&[u8]> {
        match self {
            Served::Here(session) => Ok(session.spec().key.bytes()?),
            Served::There(_) => Err(elsewhere(what)),
        }
    }

    /// A message in whole blocks.
    pub fn pieces(&self, direction: Direction, iv: &[u8]) -> Result<Pieces> {
        Ok(match self {
            Served::Here(session) => Pieces::Here(session.pieces(direction, iv)?),
            Served::There(key) => Pieces::There {
                key: key.clone(),
                direction,
                place: Place::new(key.algorithm(), direction, iv),
            },
        })
    }

    /// A whole message; its bytes in `out`, which is as long.
    pub fn crypt(
        &self,
        direction: Direction,
        iv: &[u8],
        data: Input<'_>,
        out: Output<'_>,
    ) -> Result<usize> {
        match self {
            Served::Here(session) => Ok(session.crypt(direction, iv, data, out)?),
            Served::There(key) => {
                there(key, direction, iv, data, out)?;
                Ok(out.len())
            }
        }
    }

    /// A key under this one.
    pub fn wrap(&self, key: &[u8]) -> Result<Vec<u8>> {
        match self {
            Served::Here(session) => Ok(session.wrap(key)?),
            Served::There(_) => Err(elsewhere("to wrap bytes")),
        }
    }

    /// The key that this one wraps.
    pub fn unwrap(&self, wrapped: &[u8]) -> Result<Secret> {
        match self {
            Served::Here(session) => Ok(session.unwrap(wrapped)?),
            Served::There(_) => Err(elsewhere("to unwrap bytes")),
        }
    }
}

/// Has a worker do it. Its answer is taken whole before `out`, which may be where `data` is, is touched.
fn there(
    key: &SecretKey,
    direction: Direction,
    iv: &[u8],
    data: Input<'_>,
    out: Output<'_>,
) -> Result<()> {
    let made = key.crypt(direction, iv, Input::EMPTY, data)?;
    if made.len() != out.len() {
        return Err(Error::new(Reason::INTERNAL, "an answer of another length"));
    }
    out.copy_from(&made);
    Ok(())
}

/// A message in whole blocks.
pub enum Pieces {
    Here(session::Pieces),
    /// Each update is a request of its own, from an IV that is kept here: no worker has a state to lose.
    There {
        key: Arc<SecretKey>,
        direction: Direction,
        place: Place,
    },
}

impl Pieces {
    /// Another message under the same key.
    pub fn begin_again(&mut self, direction: Direction, iv: &[u8]) -> Result<()> {
        match self {
            Pieces::Here(pieces) => pieces.begin_again(direction, iv)?,
            Pieces::There {
                direction: kept,
                place,
                ..
            } => {
                *kept = direction;
                place.begin_again(direction, iv);
            }
        }
        Ok(())
    }

    /// The IV with which the message would go on from here.
    pub fn iv(&self) -> &[u8] {
        match self {
            Pieces::Here(pieces) => pieces.iv(),
            Pieces::There { place, .. } => place.iv(),
        }
    }

    /// Another that goes on from here.
    pub fn fork(&self) -> Pieces {
        match self {
            Pieces::Here(pieces) => Pieces::Here(pieces.fork()),
            Pieces::There {
                key,
                direction,
                place,
            } => Pieces::There {
                key: key.clone(),
                direction: *direction,
                place: *place,
            },
        }
    }

    /// Whole blocks, as long in `out`, which is the same memory or apart.
    pub fn update(&mut self, data: Input<'_>, out: Output<'_>) -> Result<()> {
        match self {
            Pieces::Here(pieces) => Ok(pieces.update(data, out)?),
            Pieces::There {
                key,
                direction,
                place,
            } => {
                let (mut rest, mut to) = (data, out);
                while !rest.is_empty() {
                    let take = rest.len().min(REQUEST);
                    let (piece, after) = rest.split_at(take);
                    let (target, space) = to.split_at(take);
                    let before = place.before(piece);
                    there(key, *direction, place.iv(), piece, target)?;
                    place.advance(&before, target.as_input());
                    (rest, to) = (after, space);
                }
                Ok(())
            }
        }
    }

    /// What the beginning of a block becomes, in a mode that takes any length; the message does not go on.
    pub fn look(&self, data: Input<'_>, out: Output<'_>) -> Result<()> {
        match self {
            Pieces::Here(pieces) => Ok(pieces.look(data, out)?),
            Pieces::There {
                key,
                direction,
                place,
            } => there(key, *direction, place.iv(), data, out),
        }
    }
}
