//! What does the work: a session of this process, or one that a worker of the broker's serves.

use crate::rv::{Result, Rv, invalid_is};
use cryptofd_core::client::Client;
use cryptofd_core::engine::Direction;
use cryptofd_core::error::Error;
use cryptofd_core::pair::Options;
use cryptofd_core::record::{Op, Params, Request};
pub use cryptofd_core::remote::Remote;
use cryptofd_core::remote::request;
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{Hasher, Session, Stream};
use cryptofd_core::sys::buffer::{Input, Output};
use cryptofd_core::table::{Algorithm, Kind};
use cryptoki_sys::*;
use std::sync::Arc;
use zeroize::Zeroizing;

type Done<T> = std::result::Result<T, Error>;

/// What does the work.
#[derive(Clone)]
pub enum Served {
    Here(Arc<Session>),
    There(Arc<Remote>),
}

impl Served {
    /// The algorithm.
    pub fn algorithm(&self) -> &'static Algorithm {
        match self {
            Served::Here(session) => session.algorithm(),
            Served::There(remote) => remote.algorithm(),
        }
    }

    /// Bytes of an AEAD's tag.
    pub fn tag_size(&self) -> usize {
        match self {
            Served::Here(session) => session.tag_size(),
            Served::There(remote) => remote.tag_size(),
        }
    }

    /// Bytes of a digest or MAC.
    pub fn digest_size(&self) -> usize {
        match self {
            Served::Here(session) => session.digest_size(),
            Served::There(remote) => remote.digest_size(),
        }
    }

    /// Bytes that a message may become.
    pub fn room(&self, direction: Direction, length: usize) -> usize {
        match (self.algorithm().kind, direction) {
            (Kind::Aead, Direction::Encrypt) => length + self.tag_size(),
            (Kind::Aead, Direction::Decrypt) => length.saturating_sub(self.tag_size()),
            _ => match self {
                Served::Here(session) => session.cipher_room(direction, length),
                Served::There(_) => length + self.algorithm().block,
            },
        }
    }

    /// A whole message of a cipher or an AEAD; bytes of the result in `out`, which has `room`.
    pub fn crypt(
        &self,
        direction: Direction,
        iv: &[u8],
        aad: &[u8],
        data: Input<'_>,
        out: Output<'_>,
    ) -> Done<usize> {
        match (self, self.algorithm().kind == Kind::Aead, direction) {
            (Served::Here(session), true, Direction::Encrypt) => {
                session.seal(iv, Input::from(aad), data, out)?;
                Ok(out.len())
            }
            (Served::Here(session), true, Direction::Decrypt) => {
                session.unseal(iv, Input::from(aad), data, out)?;
                Ok(out.len())
            }
            (Served::Here(session), false, _) => session.crypt(direction, iv, data, out),
            (Served::There(remote), ..) => {
                let op = match direction {
                    Direction::Encrypt => Op::Encrypt,
                    Direction::Decrypt => Op::Decrypt,
                };
                let request = Request {
                    iv,
                    aad: Input::from(aad),
                    ..request(op, data)
                };
                remote.answer_into(&request, out)
            }
        }
    }

    /// Seals with an IV of the worker's own: version, IV, ciphertext and tag.
    pub fn seal(&self, aad: &[u8], data: Input<'_>) -> Result<Option<Zeroizing<Vec<u8>>>> {
        match self {
            Served::Here(_) => Ok(None),
            Served::There(remote) => {
                let request = Request {
                    aad: Input::from(aad),
                    ..request(Op::Seal, data)
                };
                Ok(Some(remote.ask(&request)?))
            }
        }
    }

    /// A stream of a cipher.
    pub fn stream(&self, direction: Direction, iv: &[u8]) -> Result<Streaming> {
        let wrong = invalid_is(CKR_MECHANISM_PARAM_INVALID);
        match self {
            Served::Here(session) => {
                let stream = session.stream(direction, iv).map_err(wrong)?;
                Ok(Streaming::Here(Box::new(stream)))
            }
            Served::There(remote) => {
                let client = remote.fresh()?;
                let begin = Request {
                    iv,
                    params: Params {
                        direction: Some(direction),
                        ..Params::default()
                    },
                    ..Request::new(Op::StreamBegin)
                };
                client.call(&begin, &mut || Ok(())).map_err(wrong)?;
                Ok(Streaming::There(Box::new(client)))
            }
        }
    }

    /// A running hash or MAC.
    pub fn hasher(&self) -> Result<Hashing> {
        match self {
            Served::Here(session) => Ok(Hashing::Here(session.hasher()?)),
            Served::There(remote) => Ok(Hashing::There(
                Box::new(remote.fresh()?),
                remote.digest_size(),
            )),
        }
    }

    /// The digest or MAC of a whole message.
    pub fn digest(&self, data: Input<'_>, out: &mut [u8]) -> Result<()> {
        match self {
            Served::Here(session) => session.digest(data, out)?,
            Served::There(remote) => {
                remote.exactly(&request(Op::Digest, data), Output::from(out))?;
            }
        }
        Ok(())
    }

    /// A pair's signature.
    pub fn sign(&self, data: Input<'_>, prehashed: bool, options: &Options<'_>) -> Done<Vec<u8>> {
        match self {
            Served::Here(session) => session.sign(data, prehashed, options),
            Served::There(remote) => remote.sign(data, prehashed, options),
        }
    }

    /// Whether it is the signature.
    pub fn verify(
        &self,
        data: Input<'_>,
        prehashed: bool,
        signature: &[u8],
        options: &Options<'_>,
    ) -> Done<()> {
        match self {
            Served::Here(session) => session.verify_signature(data, prehashed, signature, options),
            Served::There(remote) => remote.verify(data, prehashed, signature, options),
        }
    }

    /// RSA, forth and back.
    pub fn pair_crypt(
        &self,
        direction: Direction,
        data: Input<'_>,
        options: &Options<'_>,
    ) -> Done<Zeroizing<Vec<u8>>> {
        match (self, direction) {
            (Served::Here(session), Direction::Encrypt) => {
                session.pair_encrypt(data, options).map(Zeroizing::new)
            }
            (Served::Here(session), Direction::Decrypt) => {
                let secret = session.pair_decrypt(data, options)?;
                Ok(Zeroizing::new(secret.expose().to_vec()))
            }
            (Served::There(remote), _) => remote.pair_crypt(direction, data, options),
        }
    }

    /// The secret shared with the peer of this SubjectPublicKeyInfo.
    pub fn agree(&self, peer: &[u8]) -> Done<Secret> {
        match self {
            Served::Here(session) => session.agree(peer),
            Served::There(remote) => remote.agree(peer),
        }
    }

    /// A fresh ciphertext, and the secret in it.
    pub fn encapsulate(&self) -> Done<(Vec<u8>, Secret)> {
        match self {
            Served::Here(session) => session.encapsulate(),
            // Public keys are served here.
            Served::There(_) => Err(Error::unsupported("to encapsulate takes the public key")),
        }
    }

    /// The secret in a ciphertext.
    pub fn decapsulate(&self, ciphertext: &[u8]) -> Done<Secret> {
        match self {
            Served::Here(session) => session.decapsulate(ciphertext),
            Served::There(remote) => remote.decapsulate(ciphertext),
        }
    }

    /// A key under this one (KW, KWP).
    pub fn wrap(&self, key: &[u8]) -> Done<Vec<u8>> {
        match self {
            Served::Here(session) => session.wrap(key),
            Served::There(remote) => {
                let wrapped = remote.ask(&request(Op::Wrap, Input::from(key)))?;
                Ok(wrapped.to_vec())
            }
        }
    }

    /// The key that this one wraps.
    pub fn unwrap(&self, wrapped: &[u8]) -> Done<Secret> {
        match self {
            Served::Here(session) => session.unwrap(wrapped),
            Served::There(remote) => {
                let key = remote.ask(&request(Op::Unwrap, Input::from(wrapped)))?;
                Ok(Secret::new(&key))
            }
        }
    }
}

/// A stream under way.
pub enum Streaming {
    Here(Box<Stream>),
    There(Box<Client>),
}

impl Streaming {
    /// Bytes that an update may give.
    pub fn room(&self, length: usize, block: usize) -> usize {
        match self {
            Streaming::Here(stream) => stream.room(length),
            Streaming::There(_) => length + 2 * block,
        }
    }

    /// Bytes that the end may give.
    pub fn final_room(&self, block: usize) -> usize {
        match self {
            Streaming::Here(stream) => stream.final_room(),
            Streaming::There(_) => 2 * block,
        }
    }

    /// Goes on; bytes that it gave into `out`.
    pub fn update(&mut self, data: Input<'_>, out: Output<'_>) -> Done<usize> {
        match self {
            Streaming::Here(stream) => stream.update(data, out),
            Streaming::There(client) => {
                client.call_into(&request(Op::StreamUpdate, data), out, &mut || Ok(()))
            }
        }
    }

    /// Ends.
    pub fn finish(&mut self, out: Output<'_>) -> Done<usize> {
        match self {
            Streaming::Here(stream) => stream.finish(out),
            Streaming::There(client) => {
                client.call_into(&Request::new(Op::StreamFinish), out, &mut || Ok(()))
            }
        }
    }
}

/// A hash or MAC under way.
pub enum Hashing {
    Here(Hasher),
    There(Box<Client>, usize),
}

impl Hashing {
    /// Takes more.
    pub fn update(&mut self, data: Input<'_>) -> Result<()> {
        match self {
            Hashing::Here(hasher) => hasher.update(data)?,
            Hashing::There(client, _) => {
                client.call(&request(Op::Update, data), &mut || Ok(()))?;
            }
        }
        Ok(())
    }

    /// Bytes of what it gives.
    pub fn size(&self) -> usize {
        match self {
            Hashing::Here(hasher) => hasher.session().digest_size(),
            Hashing::There(_, size) => *size,
        }
    }

    /// Ends.
    pub fn finish(&mut self) -> Result<Zeroizing<Vec<u8>>> {
        let mut out = Zeroizing::new(vec![0; self.size()]);
        match self {
            Hashing::Here(hasher) => hasher.finish(&mut out)?,
            Hashing::There(client, size) => {
                let finish = Request::new(Op::Finish);
                let into = Output::from(&mut *out);
                if client.call_into(&finish, into, &mut || Ok(()))? != *size {
                    return Err(Rv(CKR_DEVICE_ERROR));
                }
            }
        }
        Ok(out)
    }

    /// Another that goes on from here.
    pub fn fork(&self) -> Result<Hashing> {
        Ok(match self {
            Hashing::Here(hasher) => Hashing::Here(hasher.fork()?),
            Hashing::There(client, size) => {
                Hashing::There(Box::new(client.try_clone(&mut || Ok(()))?), *size)
            }
        })
    }
}
