//! The far end of a descriptor: a session that another thread or process serves.

use crate::errors::Raise;
use cryptofd_core::client::{Client, Completion, Facts};
use cryptofd_core::engine::Direction;
use cryptofd_core::error::{Error, Kind as ErrorKind};
use cryptofd_core::record::{Op, Request};
use cryptofd_core::sys::buffer::Output;
use cryptofd_core::table::Kind;
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};
use zeroize::Zeroizing;

/// A descriptor's client, and what its INFO said.
pub struct Remote {
    pub client: Client,
    pub facts: Facts,
    /// No running hash or MAC is known to have been begun: none can be lost with a worker.
    pub idle: AtomicBool,
}

impl Remote {
    /// One that nothing is known of, or, if it is `fresh`, that nothing was done on.
    pub fn new(client: Client, facts: Facts, fresh: bool) -> Remote {
        Remote {
            client,
            facts,
            idle: AtomicBool::new(fresh),
        }
    }

    /// Does a request of the running hash or MAC. Where the worker that it would have run in is gone, and
    /// nothing ran, it begins anew: that is no loss.
    pub fn run(
        &self,
        python: Python<'_>,
        request: &Request<'_>,
        goes_on: bool,
    ) -> PyResult<Vec<u8>> {
        let idle = self.idle.load(Ordering::Relaxed);
        let done = patiently(python, |interrupted| {
            match self.client.call(request, interrupted) {
                Err(error) if idle && error.errno() == libc::ESTALE => {
                    self.client.call(&Request::new(Op::Reset), interrupted)?;
                    self.client.call(request, interrupted)
                }
                done => done,
            }
        });
        if goes_on {
            self.idle.store(false, Ordering::Relaxed);
        }
        done
    }
}

/// Runs `f` without the GIL; a signal's handler runs when one comes, and its exception ends the wait.
pub fn patiently<T: Send>(
    python: Python<'_>,
    f: impl FnOnce(&mut dyn FnMut() -> cryptofd_core::Result<()>) -> cryptofd_core::Result<T> + Send,
) -> PyResult<T> {
    let mut raised = None;
    let done = python.detach(|| {
        f(&mut || {
            Python::attach(|python| python.check_signals()).map_err(|error| {
                raised = Some(error);
                Error::system(libc::EINTR, "a signal's handler raised")
            })
        })
    });
    match raised {
        Some(error) => Err(error),
        None => done.map_err(|error| Raise(error).into()),
    }
}

/// Submits and waits for this answer.
pub fn call(python: Python<'_>, client: &Client, request: &Request<'_>) -> PyResult<Vec<u8>> {
    patiently(python, |interrupted| client.call(request, interrupted))
}

/// The same with the result in `out`; returns its bytes.
pub fn call_into(
    python: Python<'_>,
    client: &Client,
    request: &Request<'_>,
    out: Output<'_>,
) -> PyResult<usize> {
    patiently(python, |interrupted| {
        client.call_into(request, out, interrupted)
    })
}

/// Bytes that a message of `length` bytes becomes, where there is only one right answer.
pub fn exactly(facts: &Facts, direction: Direction, length: usize) -> Option<usize> {
    match (facts.algorithm.kind, direction) {
        (Kind::Aead, Direction::Encrypt) => Some(length + facts.tag_size),
        (Kind::Aead, Direction::Decrypt) => Some(length.saturating_sub(facts.tag_size)),
        _ => None,
    }
}

/// The same for a message whose result fills `out` exactly. The serving side is not believed.
pub fn call_exactly(
    python: Python<'_>,
    remote: &Remote,
    request: &Request<'_>,
    out: Output<'_>,
) -> PyResult<usize> {
    let length = call_into(python, &remote.client, request, out)?;
    if length == out.len() {
        Ok(length)
    } else {
        out.wipe();
        Err(wrong_length(remote, length, request.data.len()).into())
    }
}

fn wrong_length(remote: &Remote, answer: usize, length: usize) -> Raise {
    Raise(Error::new(
        ErrorKind::System,
        libc::EPROTO,
        format!(
            "the serving side answered {answer} bytes to a message of {length}: no {} does",
            remote.facts.algorithm.name
        ),
    ))
}

/// INFO's JSON with what this side knows of the ring.
pub fn with_ring(remote: &Remote, text: String) -> String {
    let Some(ring) = remote.client.ring() else {
        return text;
    };
    match serde_json::from_str(&text) {
        Ok(serde_json::Value::Object(mut info)) => {
            info.insert("ring".into(), ring);
            serde_json::Value::Object(info).to_string()
        }
        _ => text,
    }
}

/// Submits; the answer comes by `complete`.
pub fn submit(python: Python<'_>, client: &Client, request: &Request<'_>) -> PyResult<u64> {
    patiently(python, |interrupted| {
        client.submit(request, false, interrupted)
    })
}

/// Takes the next answer. Nothing outstanding is EAGAIN at once: nothing would ever come.
pub fn complete(python: Python<'_>, client: &Client) -> PyResult<Completion> {
    let nonblock = client.outstanding() == 0;
    patiently(python, |interrupted| client.complete(nonblock, interrupted))
}

/// The same for a message: what comes back must have a length that such a message can have. The serving
/// side is not believed.
pub fn transform(
    python: Python<'_>,
    remote: &Remote,
    direction: Direction,
    request: &Request<'_>,
) -> PyResult<Zeroizing<Vec<u8>>> {
    let answer = Zeroizing::new(call(python, &remote.client, request)?);
    let (length, facts) = (request.data.len(), &remote.facts);
    let right = match (facts.algorithm.kind, direction) {
        (Kind::Aead, Direction::Encrypt) => answer.len() == length + facts.tag_size,
        (Kind::Aead, Direction::Decrypt) => answer.len() + facts.tag_size == length,
        // RSA's, of 8192 bits at most.
        (Kind::Pair, _) => answer.len() <= 1024,
        // Padding may be on: at most a block more, or a block less.
        (_, Direction::Encrypt) if facts.algorithm.pkcs7 => {
            answer.len() >= length && answer.len() - length <= facts.algorithm.block
        }
        (_, Direction::Decrypt) if facts.algorithm.pkcs7 => {
            answer.len() <= length && length - answer.len() <= facts.algorithm.block
        }
        _ => answer.len() == length,
    };
    if right {
        Ok(answer)
    } else {
        Err(wrong_length(remote, answer.len(), length).into())
    }
}

/// A client of `client`'s session with a descriptor of its own.
pub fn clone(python: Python<'_>, client: &Client) -> PyResult<Client> {
    patiently(python, |interrupted| client.try_clone(interrupted))
}

/// A client of a descriptor from elsewhere, and its INFO.
pub fn adopt(python: Python<'_>, fd: std::os::fd::OwnedFd) -> PyResult<Client> {
    patiently(python, |interrupted| Client::adopt(fd, interrupted))
}

/// The same of a session that was opened with INFO asked for.
pub fn informed(python: Python<'_>, fd: std::os::fd::OwnedFd) -> PyResult<Client> {
    patiently(python, |interrupted| Client::informed(fd, interrupted))
}
