//! Hashes and MACs by AF_ALG's `hash`.

use super::line::{Exchange, Line, failure};
use super::{Chosen, Served};
use crate::engine::{Blake2, Digest, Hashing, Key, Spec};
use crate::error::{Error, Kind, Result};
use crate::sys::buffer::{Input, Output};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Bytes of one send: a send may be cut at 2 GiB, and none should keep the kernel busy for seconds.
const SEND: usize = 4 << 20;

/// A hardware driver's data is copied for its thread.
const SEND_CARRIED: usize = 64 << 10;

/// The kernel's name for a hash with these parameters.
pub fn name(spec: &Spec, name: &str) -> Result<String> {
    if spec
        .parameters
        .blake2
        .as_ref()
        .is_some_and(|b| *b != Blake2::default())
    {
        return Err(Error::not_offered(
            "the kernel's BLAKE2 knows no parameters but key and digest size",
        ));
    }
    let family = match name {
        "blake2b-512" => "blake2b",
        "blake2s-256" => "blake2s",
        other => return Ok(other.to_owned()),
    };
    Ok(format!("{family}-{}", 8 * spec.digest_size()))
}

pub fn open(spec: &Spec, chosen: &Chosen) -> Result<Hash> {
    // The kernel's poly1305 takes its one-time key as the first 32 bytes of the message.
    let (key, prefix) = if spec.algorithm.name == "poly1305" {
        let prefix = Zeroizing::new(spec.key.bytes()?.to_vec());
        (Key::None, prefix)
    } else if matches!(&spec.key, Key::Bytes(key) if key.is_empty())
        && spec.algorithm.kind == crate::table::Kind::Hash
    {
        (Key::None, Zeroizing::default())
    } else if matches!(spec.key, Key::None) && spec.algorithm.kind == crate::table::Kind::Mac {
        let empty = crate::secret::Secret::new(&[]);
        (Key::Bytes(empty), Zeroizing::default())
    } else {
        (spec.key.clone(), Zeroizing::default())
    };
    Ok(Hash(Arc::new(Shared {
        served: Served::open(chosen, "hash", &key, None, 0)?,
        prefix,
    })))
}

struct Shared {
    served: Served,
    /// What every message begins with.
    prefix: Zeroizing<Vec<u8>>,
}

/// A hash or keyed MAC in the kernel.
pub struct Hash(Arc<Shared>);

impl Shared {
    fn longest(&self) -> usize {
        if self.served.hardware {
            SEND_CARRIED
        } else {
            SEND
        }
    }

    /// Sends `data` in pieces, `more` to follow after the last; the last piece also receives.
    fn pass(
        &self,
        line: &Line,
        first: bool,
        data: Input<'_>,
        result: Option<&mut [u8]>,
    ) -> Result<()> {
        let mut prefix = if first {
            Input::from(&*self.prefix)
        } else {
            Input::EMPTY
        };
        let receive = result.map(Output::from);
        let mut rest = data;
        loop {
            self.served.check()?;
            let (now, later) = rest.split_at(rest.len().min(self.longest()));
            let last = later.is_empty();
            let pieces = [prefix, now];
            let request = Exchange {
                control: None,
                // Without a prefix a plain send(2) does.
                send: if prefix.is_empty() {
                    &pieces[1..]
                } else {
                    &pieces
                },
                more: !last || receive.is_none(),
                receive: receive.as_slice(),
            };
            line.exchange(&request)
                .map_err(|errno| self.failed(errno))?;
            if last {
                return Ok(());
            }
            (prefix, rest) = (Input::EMPTY, later);
        }
    }

    /// A hash has no request that is too large for it: whatever goes wrong is the engine's failure.
    fn failed(&self, errno: i32) -> Error {
        let error = failure(&self.served.driver, errno, false);
        if error.kind() == Kind::Elsewhere {
            let text = std::io::Error::from_raw_os_error(errno);
            return Error::engine_failed(errno, format!("{}: {text}", self.served.driver));
        }
        error
    }

    fn take(&self) -> Result<Line> {
        self.served.lines.take().map_err(|errno| match errno {
            // A shortage of descriptors is the program's, not the engine's.
            libc::EMFILE | libc::ENFILE => Error::system(errno, "a descriptor for a hash's state"),
            errno => self.failed(errno),
        })
    }
}

impl Hashing for Hash {
    fn begin(&self) -> Result<Box<dyn Digest>> {
        Ok(Box::new(State {
            shared: self.0.clone(),
            line: None,
        }))
    }

    fn once(&self, data: Input<'_>, out: &mut [u8]) -> Result<()> {
        let line = self.0.take()?;
        match self.0.pass(&line, true, data, Some(&mut *out)) {
            Ok(()) => {
                self.0.served.lines.put(line);
                Ok(())
            }
            // The number of this line was closed by the program; a fresh one may do.
            Err(error) if error.errno() == libc::EBADF => {
                let line = self.0.take()?;
                self.0.pass(&line, true, data, Some(&mut *out))?;
                self.0.served.lines.put(line);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// A running hash: a line of its own from the first input on.
struct State {
    shared: Arc<Shared>,
    line: Option<Line>,
}

impl State {
    fn line(&self) -> Result<Option<&Line>> {
        match &self.line {
            Some(line) if !line.is_ours() => Err(Error::stale(
                "this hash took input before fork(), and its state in the kernel is the parent's: begin again",
            )),
            line => Ok(line.as_ref()),
        }
    }
}

impl Digest for State {
    fn update(&mut self, data: Input<'_>) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        if let Some(line) = self.line()? {
            return self.shared.pass(line, false, data, None);
        }
        let line = self.shared.take()?;
        let line = self.line.insert(line);
        self.shared.pass(line, true, data, None)
    }

    fn finish(&mut self, out: &mut [u8]) -> Result<()> {
        match self.line()? {
            Some(line) => {
                self.shared.served.check()?;
                line.conclude(out)
                    .map_err(|errno| self.shared.failed(errno))?;
            }
            None => {
                let line = self.shared.take()?;
                self.shared.pass(&line, true, Input::EMPTY, Some(out))?;
                self.line = Some(line);
            }
        }
        if let Some(line) = self.line.take() {
            self.shared.served.lines.put(line);
        }
        Ok(())
    }

    fn fork(&self) -> Result<Box<dyn Digest>> {
        let line = match self.line()? {
            Some(line) => Some(line.copy().map_err(|errno| match errno {
                libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL => Error::unsupported(format!(
                    "{} cannot copy its state",
                    self.shared.served.driver
                )),
                libc::EMFILE | libc::ENFILE => {
                    Error::system(errno, "a descriptor for a hash's state")
                }
                errno => self.shared.failed(errno),
            })?),
            None => None,
        };
        Ok(Box::new(State {
            shared: self.shared.clone(),
            line,
        }))
    }

    fn reset(&mut self) -> Result<()> {
        // What the line has taken goes with it.
        self.line = None;
        Ok(())
    }
}
