//! Running hashes for cryptofd.doors: made quickly, and often.

use crate::errors::Raise;
use crate::fd::{hex, settings};
use crate::ffi::View;
use cryptofd_core::error::Error;
use cryptofd_core::session::{self, Session};
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::table::Kind;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyType};
use std::sync::{Arc, Mutex};
use zeroize::Zeroize;

/// Above this many bytes the GIL is released.
pub const LONG: usize = 8192;

/// Input up to this many bytes is held until it is clear that a running state is needed: a short message
/// is then hashed all at once.
const SHORT: usize = 192;

/// Sessions of one hash or MAC: the one that serves, and the one for messages that are short, where that
/// is another.
struct Sessions {
    long: Arc<Session>,
    short: Option<Arc<Session>>,
}

impl Sessions {
    fn for_length(&self, length: usize) -> &Session {
        match &self.short {
            Some(short) if length <= SHORT => short,
            _ => &self.long,
        }
    }
}

/// A session of a hash or MAC from which running hashes are made.
#[pyclass(frozen, module = "cryptofd._core")]
pub struct HashFactory {
    sessions: Arc<Sessions>,
    /// Made of a name alone, so another process can make the same.
    plain: bool,
}

#[pymethods]
impl HashFactory {
    /// `HashFactory(algorithm, key=None, **what open() takes)`.
    #[new]
    #[pyo3(signature = (algorithm, key=None, **options))]
    fn new(
        algorithm: &str,
        key: Option<&Bound<'_, PyAny>>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<HashFactory> {
        let plain = key.is_none() && options.is_none_or(|options| options.is_empty());
        let request = settings(algorithm, key, options)?;
        let session = Session::open(request).map_err(Raise)?;
        if !matches!(session.algorithm().kind, Kind::Hash | Kind::Xof | Kind::Mac) {
            return Err(Raise(Error::unsupported(format!(
                "{} is a {}: it does not digest",
                session.algorithm().name,
                session.algorithm().kind.name()
            )))
            .into());
        }
        let sessions = Arc::new(Sessions {
            short: session.for_short(),
            long: session,
        });
        Ok(HashFactory { sessions, plain })
    }

    /// A running hash that has taken `data`.
    #[pyo3(signature = (data=None, /))]
    fn __call__(&self, python: Python<'_>, data: Option<&Bound<'_, PyAny>>) -> PyResult<Hasher> {
        let hasher = Hasher {
            sessions: self.sessions.clone(),
            state: Mutex::new(State::new(&self.sessions.long).map_err(Raise)?),
        };
        if let Some(data) = data {
            hasher.update(python, data)?;
        }
        Ok(hasher)
    }

    /// The same, with the arguments of hashlib's constructors. `usedforsecurity` decides nothing here:
    /// what may be used is the policy's to say.
    #[pyo3(name = "new", signature = (string=None, *, data=None, usedforsecurity=None))]
    fn begin(
        &self,
        python: Python<'_>,
        string: Option<&Bound<'_, PyAny>>,
        data: Option<&Bound<'_, PyAny>>,
        usedforsecurity: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Hasher> {
        let _ = usedforsecurity;
        if string.is_some() && data.is_some() {
            return Err(PyTypeError::new_err(
                "'data' and 'string' are two names of one argument: give one",
            ));
        }
        self.__call__(python, string.or(data))
    }

    /// The digest of `data`, all at once.
    #[pyo3(signature = (data, length=None, /))]
    fn digest<'py>(
        &self,
        python: Python<'py>,
        data: &Bound<'py, PyAny>,
        length: Option<isize>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let length = output_length(&self.sessions.long, length)?;
        let data = View::read(data)?;
        let input = data.input();
        PyBytes::new_with(python, length, |out| {
            if input.len() > LONG {
                python.detach(|| self.sessions.long.digest(input, out))
            } else {
                self.sessions.for_length(input.len()).digest(input, out)
            }
            .map_err(|error| Raise(error).into())
        })
    }

    /// Bytes of a digest.
    #[getter]
    fn digest_size(&self) -> usize {
        digest_size(&self.sessions.long)
    }

    /// Bytes of a block.
    #[getter]
    fn block_size(&self) -> usize {
        self.sessions.long.algorithm().block
    }

    /// The algorithm's name.
    #[getter]
    fn algorithm(&self) -> &'static str {
        self.sessions.long.algorithm().name
    }

    /// The algorithm's name in hashlib.
    #[getter]
    fn name(&self) -> String {
        name(&self.sessions.long)
    }

    fn __reduce__<'py>(this: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyType>, (&'static str,))> {
        if this.get().plain {
            Ok((this.get_type(), (this.get().algorithm(),)))
        } else {
            Err(PyTypeError::new_err(
                "a HashFactory with a key or options is not pickled: its key would be copied",
            ))
        }
    }

    fn __repr__(&self) -> String {
        format!("<constructor of {}>", self.name())
    }
}

/// hashlib's name of a hash; hmac's of an HMAC.
fn name(session: &Session) -> String {
    let algorithm = session.algorithm();
    let name = algorithm.hashlib.unwrap_or(algorithm.name);
    if algorithm.template() == "hmac" {
        format!("hmac-{name}")
    } else {
        name.to_owned()
    }
}

/// hashlib's: 0 where there is no one size.
fn digest_size(session: &Session) -> usize {
    match session.algorithm().kind {
        Kind::Xof => 0,
        _ => session.digest_size(),
    }
}

/// Bytes of output when `length` was asked for.
fn output_length(session: &Session, length: Option<isize>) -> PyResult<usize> {
    match (session.algorithm().kind, length) {
        (Kind::Xof, Some(length)) => usize::try_from(length)
            .ok()
            .filter(|length| *length < 1 << 29)
            .ok_or_else(|| PyValueError::new_err("length: 0 to 2^29-1 bytes")),
        (Kind::Xof, None) => Err(PyTypeError::new_err(
            "an extendable output wants a length in bytes",
        )),
        (_, None) => Ok(session.digest_size()),
        (_, Some(_)) => Err(PyTypeError::new_err("this hash has one length only")),
    }
}

/// What a hash has taken.
enum State {
    /// Little, kept as it is.
    Held { bytes: [u8; SHORT], length: usize },
    /// More: the engine's state.
    Running(session::Hasher),
}

impl State {
    fn new(session: &Arc<Session>) -> cryptofd_core::Result<State> {
        // What authenticates one message tells it from others by its running state.
        if session.algorithm().one_message() {
            return Ok(State::Running(session.hasher()?));
        }
        Ok(State::Held {
            bytes: [0; SHORT],
            length: 0,
        })
    }

    fn update(&mut self, session: &Arc<Session>, data: Input<'_>) -> cryptofd_core::Result<()> {
        match self {
            State::Running(hasher) => hasher.update(data),
            State::Held { bytes, length } => {
                if let Some(room) = bytes.get_mut(*length..*length + data.len()) {
                    data.copy_to(room);
                    *length += data.len();
                    return Ok(());
                }
                let mut hasher = session.hasher()?;
                if *length > 0 {
                    hasher.update(Input::from(&bytes[..*length]))?;
                }
                hasher.update(data)?;
                *self = State::Running(hasher);
                Ok(())
            }
        }
    }

    fn peek(&mut self, sessions: &Sessions, out: &mut [u8]) -> cryptofd_core::Result<()> {
        match self {
            State::Running(hasher) => hasher.peek(out),
            State::Held { bytes, length } => sessions
                .for_length(*length)
                .digest(Input::from(&bytes[..*length]), out),
        }
    }

    fn fork(&self) -> cryptofd_core::Result<State> {
        Ok(match self {
            State::Running(hasher) => State::Running(hasher.fork()?),
            State::Held { bytes, length } => State::Held {
                bytes: *bytes,
                length: *length,
            },
        })
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let State::Held { bytes, length } = self {
            bytes[..*length].zeroize();
        }
    }
}

/// A running hash or MAC.
#[pyclass(frozen, module = "cryptofd._core")]
pub struct Hasher {
    sessions: Arc<Sessions>,
    state: Mutex<State>,
}

impl Hasher {
    /// Runs `f` on the state: with the GIL when the work is short and the state is free, else without.
    /// The lock is never held while the GIL is waited for.
    fn with<T: Send>(
        &self,
        python: Python<'_>,
        long: bool,
        f: impl FnOnce(&mut State) -> cryptofd_core::Result<T> + Send,
    ) -> PyResult<T> {
        if !long {
            if let Ok(mut state) = self.state.try_lock() {
                return f(&mut state).map_err(|error| Raise(error).into());
            }
        }
        python
            .detach(|| f(&mut self.state.lock().unwrap_or_else(|e| e.into_inner())))
            .map_err(|error| Raise(error).into())
    }
}

#[pymethods]
impl Hasher {
    /// Takes more data.
    pub fn update(&self, python: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = View::read(data)?;
        let input = data.input();
        self.with(python, input.len() > LONG, |state| {
            state.update(&self.sessions.long, input)
        })
    }

    /// The digest of what was taken so far; more may be taken afterwards.
    #[pyo3(signature = (length=None))]
    fn digest<'py>(
        &self,
        python: Python<'py>,
        length: Option<isize>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let length = output_length(&self.sessions.long, length)?;
        PyBytes::new_with(python, length, |out| {
            self.with(python, length > LONG, |state| {
                state.peek(&self.sessions, out)
            })
        })
    }

    /// The digest in hexadecimal.
    #[pyo3(signature = (length=None))]
    fn hexdigest(&self, python: Python<'_>, length: Option<isize>) -> PyResult<String> {
        let mut out = vec![0; output_length(&self.sessions.long, length)?];
        self.with(python, out.len() > LONG, |state| {
            state.peek(&self.sessions, &mut out)
        })?;
        Ok(hex(&out))
    }

    /// An independent copy.
    fn copy(&self, python: Python<'_>) -> PyResult<Hasher> {
        Ok(Hasher {
            sessions: self.sessions.clone(),
            state: Mutex::new(self.with(python, false, |state| state.fork())?),
        })
    }

    /// Bytes of a digest.
    #[getter]
    fn digest_size(&self) -> usize {
        digest_size(&self.sessions.long)
    }

    /// Bytes of a block.
    #[getter]
    fn block_size(&self) -> usize {
        self.sessions.long.algorithm().block
    }

    /// The algorithm's name.
    #[getter]
    fn algorithm(&self) -> &'static str {
        self.sessions.long.algorithm().name
    }

    /// The algorithm's name in hashlib.
    #[getter]
    fn name(&self) -> String {
        name(&self.sessions.long)
    }

    fn __repr__(&self) -> String {
        let info = self.sessions.long.info();
        let short = self.sessions.short.as_ref().map(|short| short.info());
        format!(
            "<{} by {}/{}{}>",
            name(&self.sessions.long),
            info.engine,
            info.driver,
            short.map_or(String::new(), |short| format!(
                ", short messages by {}/{}",
                short.engine, short.driver
            ))
        )
    }
}
