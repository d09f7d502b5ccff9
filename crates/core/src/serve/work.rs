//! One request of a record, done by the session.

use super::connection::State;
use super::ivs::IV as SEAL_IV;
use super::pair;
use super::{ITERATIONS, MEMORY, limits};
use crate::engine::Direction;
use crate::error::{Error, Result};
use crate::record::{self, Incoming, Op};
use crate::secret;
use crate::session::{Session, Stream};
use crate::sys::buffer::{Input, Output};
use crate::sys::descriptor::Guarded;
use crate::table::Kind;

/// What a request gives.
pub enum Done {
    /// An answer's record with room for the header, and the result behind it.
    Record(Vec<u8>),
    /// A fresh state for a fresh descriptor.
    Clone(Box<State>),
    /// A fresh ring's memory, and what is said of it.
    Ring(Guarded, Vec<u8>),
}

/// A result of `length` bytes, zeroed, behind room for a header.
pub fn room(length: usize) -> Result<Vec<u8>> {
    let limit = record::ATTACHED + (record::INLINE_ANSWER - record::INLINE);
    if length > limit {
        return Err(Error::too_large(format!(
            "a result of {length} bytes: at most {limit} in one answer"
        )));
    }
    let mut result = Vec::new();
    result
        .try_reserve_exact(record::HEADER + length)
        .map_err(|_| Error::system(libc::ENOMEM, "a result"))?;
    result.resize(record::HEADER + length, 0);
    Ok(result)
}

/// The same with these bytes.
pub fn copied(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut result = room(bytes.len())?;
    result[record::HEADER..].copy_from_slice(bytes);
    Ok(result)
}

/// The first `length` bytes of a place for a result.
fn within(out: &mut [u8], length: usize) -> Result<&mut [u8]> {
    let room = out.len();
    out.get_mut(..length).ok_or_else(|| {
        Error::too_large(format!(
            "a result of {length} bytes: the request leaves room for {room}"
        ))
    })
}

/// Bytes wanted, which must be said and be reasonable.
fn wanted(request: &Incoming<'_>) -> Result<usize> {
    let length = request.params.length.ok_or_else(|| {
        Error::invalid(format!(
            "{}: the parameter LENGTH is missing",
            request.op.name()
        ))
    })?;
    usize::try_from(length)
        .ok()
        .filter(|length| *length <= record::ATTACHED)
        .ok_or_else(|| {
            Error::too_large(format!(
                "{length} bytes: at most {} in one answer",
                record::ATTACHED
            ))
        })
}

impl State {
    /// Does `request`, whose aad and data are `aad` and `data`.
    pub fn work(&mut self, request: &Incoming<'_>, aad: &[u8], data: &[u8]) -> Result<Done> {
        let done = match request.op {
            Op::Clone => return Ok(Done::Clone(Box::new(self.fork()?))),
            Op::Info => {
                let mut info = self.session().info().json(limits());
                if let (Some(info), Some(keeper)) = (info.as_object_mut(), self.keeper()) {
                    if let serde_json::Value::Object(more) = keeper.info() {
                        info.extend(more);
                    }
                    if let Some((bytes, served)) = self.ring {
                        let ring = serde_json::json!({"bytes": bytes, "served": served});
                        info.insert("ring".into(), ring);
                    }
                    info.insert("brokered".into(), true.into());
                    info.insert("epoch".into(), keeper.epoch().into());
                }
                let text = serde_json::to_vec(&info);
                copied(&text.map_err(|_| Error::invalid("an INFO that is no JSON"))?)?
            }
            // Counted where the queue is.
            Op::Cancel => room(0)?,
            Op::Ring => {
                return Err(Error::unsupported(
                    "no rings here: a brokered session has them",
                ));
            }
            _ if self.session().algorithm().kind == Kind::Pair => {
                pair::work(self, request, aad, data)?
            }
            Op::Encrypt => self.crypt(Direction::Encrypt, request, aad, data)?,
            Op::Decrypt => self.crypt(Direction::Decrypt, request, aad, data)?,
            Op::Seal => self.seal(aad, data)?,
            Op::Unseal => self.unseal(aad, data)?,
            Op::SignDigest
            | Op::VerifyDigest
            | Op::Sign
            | Op::VerifySignature
            | Op::PublicKey
            | Op::Agree
            | Op::Encapsulate
            | Op::Decapsulate => pair::work(self, request, aad, data)?,
            Op::Digest => {
                let mut result = room(self.digest_length(request)?)?;
                self.session()
                    .digest(Input::from(data), &mut result[record::HEADER..])?;
                result
            }
            Op::Verify => self.verify(request, data)?,
            Op::Wrap => copied(&self.session().wrap(data)?)?,
            Op::Unwrap => copied(self.session().unwrap(data)?.expose())?,
            Op::Derive => self.derive(request)?,
            Op::Random => {
                let mut result = room(wanted(request)?)?;
                self.session().random(&mut result[record::HEADER..])?;
                result
            }
            Op::Update => {
                self.hasher()?.update(Input::from(data))?;
                room(0)?
            }
            Op::HashKey => {
                let keeper = self.keeper().cloned();
                let key = keeper.as_ref().and_then(|keeper| keeper.input());
                let key = key.ok_or_else(|| {
                    Error::unsupported(
                        "HASH_KEY: this session has no key for the hash to take in; a brokered one on a \
                         hash and a key with usage digest has",
                    )
                })?;
                self.hasher()?.update(Input::from(key.expose()))?;
                room(0)?
            }
            Op::Finish | Op::Peek => {
                let mut result = room(self.digest_length(request)?)?;
                let out = &mut result[record::HEADER..];
                if request.op == Op::Finish {
                    self.hasher()?.finish(out)?;
                } else {
                    self.hasher()?.peek(out)?;
                }
                result
            }
            Op::Reset => {
                // Made first: a refusal leaves what there is.
                if self.hasher.is_some() {
                    self.hasher = Some(self.session().hasher()?);
                }
                // A stream that lost its state begins anew here as well.
                self.stream = None;
                self.lost = false;
                room(0)?
            }
            Op::StreamBegin => {
                let direction = request.params.direction.ok_or_else(|| {
                    Error::invalid("STREAM_BEGIN: the parameter DIRECTION is missing")
                })?;
                self.stream = None;
                self.stream = Some(self.session().stream(direction, request.iv)?);
                self.lost = false;
                room(0)?
            }
            Op::StreamUpdate => {
                let stream = self.stream()?;
                let mut result = room(stream.room(data.len()))?;
                let out = Output::from(&mut result[record::HEADER..]);
                let given = stream.update(Input::from(data), out)?;
                result.truncate(record::HEADER + given);
                result
            }
            Op::StreamFinish => {
                let stream = self.stream()?;
                let mut result = room(stream.final_room())?;
                let given = stream.finish(Output::from(&mut result[record::HEADER..]))?;
                result.truncate(record::HEADER + given);
                self.stream = None;
                result
            }
        };
        Ok(Done::Record(done))
    }

    /// Bytes that the result of ENCRYPT or DECRYPT may take.
    fn crypt_room(
        &self,
        direction: Direction,
        request: &Incoming<'_>,
        aad: &[u8],
        length: usize,
    ) -> Result<usize> {
        let session = self.session();
        request.params.pair().none(session.algorithm())?;
        let tag = session.tag_size();
        let aead = session.algorithm().kind == Kind::Aead;
        if !aead && !aad.is_empty() {
            return Err(Error::invalid(format!(
                "{} takes no aad",
                session.algorithm().name
            )));
        }
        Ok(match (aead, direction) {
            (true, Direction::Encrypt) => length + tag,
            (true, Direction::Decrypt) => length.saturating_sub(tag),
            (false, _) => session.cipher_room(direction, length),
        })
    }

    /// Writes it into `out`, which has `crypt_room` bytes; returns how many of them count.
    fn crypt_into(
        &self,
        direction: Direction,
        iv: &[u8],
        aad: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize> {
        let session = self.session();
        let aead = session.algorithm().kind == Kind::Aead;
        let size = out.len();
        let out = Output::from(out);
        let (aad, data) = (Input::from(aad), Input::from(data));
        match (aead, direction) {
            (true, Direction::Encrypt) => session.seal(iv, aad, data, out).map(|()| size),
            (true, Direction::Decrypt) => session.unseal(iv, aad, data, out).map(|()| size),
            (false, _) => session.crypt(direction, iv, data, out),
        }
    }

    fn crypt(
        &self,
        direction: Direction,
        request: &Incoming<'_>,
        aad: &[u8],
        data: &[u8],
    ) -> Result<Vec<u8>> {
        let mut result = room(self.crypt_room(direction, request, aad, data.len())?)?;
        let out = &mut result[record::HEADER..];
        let given = self.crypt_into(direction, request.iv, aad, data, out)?;
        result.truncate(record::HEADER + given);
        Ok(result)
    }

    /// Does `request`, all of which is in its sections, and writes the result into `out`; returns its bytes.
    /// EMSGSIZE if it has no room there.
    pub fn work_into(&mut self, request: &Incoming<'_>, out: &mut [u8]) -> Result<usize> {
        let (aad, data) = (request.aad, request.data);
        let pair = self.session().algorithm().kind == Kind::Pair;
        let crypt = |direction, out: &mut [u8]| {
            let size = self.crypt_room(direction, request, aad, data.len())?;
            self.crypt_into(direction, request.iv, aad, data, within(out, size)?)
        };
        match request.op {
            Op::Encrypt if !pair => crypt(Direction::Encrypt, out),
            Op::Decrypt if !pair => crypt(Direction::Decrypt, out),
            Op::Seal if !pair => {
                sealable(self.session())?;
                let out = within(out, self.seal_room(data.len()))?;
                self.seal_into(aad, data, out)?;
                Ok(out.len())
            }
            Op::Unseal if !pair => {
                let out = within(out, self.unseal_room(data.len())?)?;
                self.unseal_into(aad, data, out)?;
                Ok(out.len())
            }
            _ => {
                let Done::Record(result) = self.work(request, aad, data)? else {
                    return Err(Error::unsupported("this goes by the socket"));
                };
                let result = zeroize::Zeroizing::new(result);
                let result = &result[record::HEADER..];
                within(out, result.len())?.copy_from_slice(result);
                Ok(result.len())
            }
        }
    }

    fn stream(&mut self) -> Result<&mut Stream> {
        let lost = self.lost;
        self.stream.as_mut().ok_or_else(|| {
            if lost {
                Error::stale("the stream was lost with its worker: STREAM_BEGIN again")
            } else {
                Error::invalid("no stream is open on this descriptor: STREAM_BEGIN first")
            }
        })
    }

    fn seal_room(&self, length: usize) -> usize {
        1 + SEAL_IV + length + self.session().tag_size()
    }

    /// The key's version, an IV of our own, the ciphertext and the tag, into `seal_room` bytes.
    fn seal_into(&mut self, aad: &[u8], data: &[u8], out: &mut [u8]) -> Result<()> {
        let (head, out) = out.split_at_mut(1 + SEAL_IV);
        head[0] = self.keeper().map_or(1, |keeper| keeper.version());
        head[1..].copy_from_slice(&self.ivs.next()?);
        self.session().seal(
            &head[1..],
            Input::from(aad),
            Input::from(data),
            Output::from(out),
        )
    }

    fn seal(&mut self, aad: &[u8], data: &[u8]) -> Result<Vec<u8>> {
        sealable(self.session())?;
        let mut result = room(self.seal_room(data.len()))?;
        self.seal_into(aad, data, &mut result[record::HEADER..])?;
        Ok(result)
    }

    /// Bytes of the plaintext in a box of `length` bytes.
    fn unseal_room(&self, length: usize) -> Result<usize> {
        sealable(self.session())?;
        let least = 1 + SEAL_IV + self.session().tag_size();
        length.checked_sub(least).ok_or_else(|| {
            Error::invalid(format!(
                "{length} bytes: what SEAL gives here has at least {least}"
            ))
        })
    }

    fn unseal_into(&self, aad: &[u8], data: &[u8], out: &mut [u8]) -> Result<()> {
        let (head, sealed) = data.split_at(1 + SEAL_IV);
        let version = self.keeper().map_or(1, |keeper| keeper.version());
        let older;
        let session = if head[0] == version {
            self.session()
        } else {
            older = self.keeper().and_then(|keeper| keeper.older(head[0]));
            older.as_ref().ok_or_else(|| {
                Error::invalid(format!(
                    "sealed with version {} of the key: this session has version {version}",
                    head[0]
                ))
            })?
        };
        session.unseal(
            &head[1..],
            Input::from(aad),
            Input::from(sealed),
            Output::from(out),
        )
    }

    fn unseal(&self, aad: &[u8], data: &[u8]) -> Result<Vec<u8>> {
        let mut result = room(self.unseal_room(data.len())?)?;
        self.unseal_into(aad, data, &mut result[record::HEADER..])?;
        Ok(result)
    }

    /// Bytes of the digest: the algorithm's, or LENGTH of an XOF.
    fn digest_length(&self, request: &Incoming<'_>) -> Result<usize> {
        let session = self.session();
        let own = session.digest_size();
        match (session.algorithm().kind, request.params.length) {
            (Kind::Xof, Some(_)) => wanted(request),
            (Kind::Hash | Kind::Mac, Some(length)) if length != own as u64 => Err(Error::invalid(
                format!("{length} bytes: {} gives {own}", session.algorithm().name),
            )),
            _ => Ok(own),
        }
    }

    fn verify(&mut self, request: &Incoming<'_>, data: &[u8]) -> Result<Vec<u8>> {
        let session = self.session().clone();
        let algorithm = session.algorithm();
        if algorithm.kind != Kind::Mac {
            return Err(Error::unsupported(format!(
                "{} is a {}: it does not verify",
                algorithm.name,
                algorithm.kind.name()
            )));
        }
        let tag = request
            .params
            .tag
            .ok_or_else(|| Error::invalid("VERIFY: the parameter TAG is missing"))?;
        if tag.len() != session.digest_size() {
            return Err(Error::invalid(format!(
                "a tag of {} bytes: this session's have {}",
                tag.len(),
                session.digest_size()
            )));
        }
        let mut own = zeroize::Zeroizing::new(vec![0; tag.len()]);
        if request.flags & record::FLAG_RUNNING != 0 {
            let hasher = self.hasher()?;
            hasher.update(Input::from(data))?;
            hasher.finish(&mut own)?;
        } else {
            session.digest(Input::from(data), &mut own)?;
        }
        if secret::equal(&own, tag) {
            room(0)
        } else {
            Err(Error::bad_tag())
        }
    }

    fn derive(&self, request: &Incoming<'_>) -> Result<Vec<u8>> {
        let with = request.params.derivation();
        if with.iterations > ITERATIONS {
            return Err(Error::too_large(format!(
                "{} iterations: at most {ITERATIONS} through a descriptor",
                with.iterations
            )));
        }
        let memory = with
            .n
            .checked_mul(128)
            .and_then(|m| m.checked_mul(u64::from(with.r)));
        let work = memory.and_then(|m| m.checked_mul(u64::from(with.p)));
        if memory.is_none_or(|m| m > MEMORY) || work.is_none_or(|w| w > MEMORY * 64) {
            return Err(Error::too_large(format!(
                "n={} r={} p={}: at most {MEMORY} bytes of memory (128 n r) and 64 times that in all through \
                 a descriptor",
                with.n, with.r, with.p
            )));
        }
        let mut result = room(wanted(request)?)?;
        self.session()
            .derive(&with, &mut result[record::HEADER..])?;
        Ok(result)
    }
}

fn sealable(session: &Session) -> Result<()> {
    let algorithm = session.algorithm();
    if algorithm.kind == Kind::Aead && algorithm.iv.contains(SEAL_IV) {
        Ok(())
    } else {
        Err(Error::unsupported(format!(
            "{} is a {}: SEAL is for AEADs with an IV of {SEAL_IV} bytes",
            algorithm.name,
            algorithm.kind.name()
        )))
    }
}
