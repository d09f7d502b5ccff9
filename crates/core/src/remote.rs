//! A session that a worker serves, as doors in foreign programs hold it: each forked child has a descriptor of
//! its own.

use crate::client::{Client, Facts};
use crate::engine::Direction;
use crate::error::{Error, Result};
use crate::pair::Options;
use crate::record::{Op, Params, Request};
use crate::secret::Secret;
use crate::sys::buffer::{Input, Output};
use crate::sys::{descriptor, fork};
use crate::table::Algorithm;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// A request with data.
pub fn request<'a>(op: Op, data: Input<'a>) -> Request<'a> {
    Request {
        data,
        ..Request::new(op)
    }
}

fn params<'a>(options: &Options<'a>) -> Params<'a> {
    Params {
        hash: options.hash,
        scheme: options.scheme,
        salt_length: options.salt_length,
        format: options.format,
        label: options.label,
        ..Params::default()
    }
}

/// The client of one process.
struct Ours {
    generation: u64,
    /// What its descriptor was when it was made (st_dev and st_ino): a program may close it behind our back,
    /// and use the number again.
    socket: Option<(u64, u64)>,
    client: Arc<Client>,
}

impl Ours {
    fn new(client: Client) -> Ours {
        Ours {
            generation: fork::generation(),
            socket: descriptor::identity(client.as_fd().as_raw_fd()),
            client: Arc::new(client),
        }
    }

    fn is_there(&self) -> bool {
        self.socket.is_some()
            && self.socket == descriptor::identity(self.client.as_fd().as_raw_fd())
    }
}

/// How often a child asks for a descriptor of its own, and how long it waits each time: the parent may use
/// the one that they share, and take an answer that is not its own.
const ATTEMPTS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(1);

fn cloned(shared: &Client) -> Result<Client> {
    let mut done = Err(Error::closed());
    for _ in 0..ATTEMPTS {
        let until = Some(Instant::now() + PATIENCE);
        done = shared.beside()?.clone_until(until, &mut || Ok(()));
        if !matches!(&done, Err(error) if error.errno() == libc::ETIMEDOUT) {
            break;
        }
    }
    done
}

/// A session that a worker serves.
pub struct Remote {
    /// In a forked child it has a descriptor of its own. None: the program closed it.
    client: Mutex<Option<Ours>>,
    facts: Facts,
    usage: Vec<String>,
}

impl Remote {
    /// The session behind a descriptor.
    pub fn adopt(fd: OwnedFd) -> Result<Remote> {
        let client = Client::adopt(fd, &mut || Ok(()))?;
        let info: serde_json::Value = serde_json::from_str(client.info()).unwrap_or_default();
        let words = info["usage"].as_array().into_iter().flatten();
        Ok(Remote {
            facts: Facts::new(client.info())?,
            usage: words
                .filter_map(|word| word.as_str().map(str::to_owned))
                .collect(),
            client: Mutex::new(Some(Ours::new(client))),
        })
    }

    /// The algorithm.
    pub fn algorithm(&self) -> &'static Algorithm {
        self.facts.algorithm
    }

    /// Whether the key is for this (DESIGN's words: sign, sign-digest, decrypt ...), as the worker says.
    pub fn may(&self, usage: &str) -> bool {
        self.usage.iter().any(|word| word == usage)
    }

    /// Bytes of an AEAD's tag.
    pub fn tag_size(&self) -> usize {
        self.facts.tag_size
    }

    /// Bytes of a digest or MAC.
    pub fn digest_size(&self) -> usize {
        self.facts.digest_size
    }

    /// EBADF once the program has closed the session's descriptor, or another holder of it ended the session.
    fn client(&self) -> Result<Arc<Client>> {
        let mut place = lock(&self.client);
        let Some(ours) = place.as_ref() else {
            return Err(Error::closed());
        };
        if !ours.is_there() {
            // The number may be the program's by now: it is not closed.
            std::mem::forget(place.take());
            return Err(Error::closed());
        }
        if ours.generation != fork::generation() {
            // The parent's answers and ours must not mix.
            let own = cloned(&ours.client);
            *place = Some(Ours::new(own.map_err(|_| Error::closed())?));
        }
        match place.as_ref() {
            Some(ours) => Ok(ours.client.clone()),
            None => Err(Error::closed()),
        }
    }

    /// Asks, and waits for the answer.
    pub fn ask(&self, request: &Request<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let answer = self.client()?.call(request, &mut || Ok(()))?;
        Ok(Zeroizing::new(answer))
    }

    /// The same with the answer in `out`; its bytes.
    pub fn answer_into(&self, request: &Request<'_>, out: Output<'_>) -> Result<usize> {
        self.client()?.call_into(request, out, &mut || Ok(()))
    }

    /// The same with an answer of one length.
    pub fn exactly(&self, request: &Request<'_>, out: Output<'_>) -> Result<()> {
        if self.answer_into(request, out)? == out.len() {
            Ok(())
        } else {
            out.wipe();
            Err(Error::system(libc::EPROTO, "an answer of another length"))
        }
    }

    /// A client of the session with a state of its own.
    pub fn fresh(&self) -> Result<Client> {
        let fresh = self.client()?.try_clone(&mut || Ok(()))?;
        fresh.call(&Request::new(Op::Reset), &mut || Ok(()))?;
        Ok(fresh)
    }

    /// A pair's signature of a message, or of its digest.
    pub fn sign(&self, data: Input<'_>, prehashed: bool, options: &Options<'_>) -> Result<Vec<u8>> {
        let op = if prehashed { Op::SignDigest } else { Op::Sign };
        let request = Request {
            params: params(options),
            ..request(op, data)
        };
        Ok(self.ask(&request)?.to_vec())
    }

    /// Ok if it is the signature; EKEYREJECTED otherwise.
    pub fn verify(
        &self,
        data: Input<'_>,
        prehashed: bool,
        signature: &[u8],
        options: &Options<'_>,
    ) -> Result<()> {
        let op = if prehashed {
            Op::VerifyDigest
        } else {
            Op::VerifySignature
        };
        let request = Request {
            params: Params {
                tag: Some(signature),
                ..params(options)
            },
            ..request(op, data)
        };
        self.ask(&request).map(drop)
    }

    /// RSA, forth and back.
    pub fn pair_crypt(
        &self,
        direction: Direction,
        data: Input<'_>,
        options: &Options<'_>,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let op = match direction {
            Direction::Encrypt => Op::Encrypt,
            Direction::Decrypt => Op::Decrypt,
        };
        let request = Request {
            params: params(options),
            ..request(op, data)
        };
        self.ask(&request)
    }

    /// The secret shared with the peer of this SubjectPublicKeyInfo.
    pub fn agree(&self, peer: &[u8]) -> Result<Secret> {
        let secret = self.ask(&request(Op::Agree, Input::from(peer)))?;
        Ok(Secret::new(&secret))
    }

    /// The secret in a ciphertext.
    pub fn decapsulate(&self, ciphertext: &[u8]) -> Result<Secret> {
        let secret = self.ask(&request(Op::Decapsulate, Input::from(ciphertext)))?;
        Ok(Secret::new(&secret))
    }
}
