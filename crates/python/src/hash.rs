//! Running hashes for cryptofd.doors: made quickly, and often.

use crate::errors::Raise;
use crate::fd::{hex, settings};
use crate::ffi::View;
use cryptofd_core::session::{self, Session};
use cryptofd_core::table::Kind;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::sync::{Arc, Mutex};

/// Above this many bytes the GIL is released.
pub const LONG: usize = 8192;

/// A session of a hash or MAC from which running hashes are made.
#[pyclass(frozen, module = "cryptofd._core")]
pub struct HashFactory {
    session: Arc<Session>,
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
        let request = settings(algorithm, key, options)?;
        let session = Session::open(request).map_err(Raise)?;
        Ok(HashFactory { session })
    }

    /// A running hash that has taken `data`.
    #[pyo3(signature = (data=None, /))]
    fn __call__(&self, python: Python<'_>, data: Option<&Bound<'_, PyAny>>) -> PyResult<Hasher> {
        let hasher = Hasher {
            digest_size: self.session.digest_size(),
            xof: self.session.algorithm().kind == Kind::Xof,
            state: Mutex::new(self.session.hasher().map_err(Raise)?),
        };
        if let Some(data) = data {
            hasher.update(python, data)?;
        }
        Ok(hasher)
    }

    /// The digest of `data`, all at once.
    #[pyo3(signature = (data, length=None, /))]
    fn digest<'py>(
        &self,
        python: Python<'py>,
        data: &Bound<'py, PyAny>,
        length: Option<usize>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let length = length.unwrap_or_else(|| self.session.digest_size());
        let data = View::read(data)?;
        let input = data.input();
        PyBytes::new_with(python, length, |out| {
            if input.len() > LONG {
                python.detach(|| self.session.digest(input, out))
            } else {
                self.session.digest(input, out)
            }
            .map_err(|error| Raise(error).into())
        })
    }

    /// Bytes of a digest.
    #[getter]
    fn digest_size(&self) -> usize {
        self.session.digest_size()
    }

    /// Bytes of a block.
    #[getter]
    fn block_size(&self) -> usize {
        self.session.algorithm().block
    }
}

/// A running hash or MAC.
#[pyclass(frozen, module = "cryptofd._core")]
pub struct Hasher {
    state: Mutex<session::Hasher>,
    digest_size: usize,
    xof: bool,
}

impl Hasher {
    /// Runs `f` on the state: with the GIL when the work is short and the state is free, else without.
    /// The lock is never held while the GIL is waited for.
    fn with<T: Send>(
        &self,
        python: Python<'_>,
        long: bool,
        f: impl FnOnce(&mut session::Hasher) -> cryptofd_core::Result<T> + Send,
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

    fn length(&self, length: Option<isize>) -> PyResult<usize> {
        match (self.xof, length) {
            (true, Some(length)) => usize::try_from(length)
                .ok()
                .filter(|length| *length < 1 << 29)
                .ok_or_else(|| pyo3::exceptions::PyValueError::new_err("length: 0 to 2^29-1")),
            (true, None) => Err(pyo3::exceptions::PyTypeError::new_err(
                "an extendable output wants a length",
            )),
            (false, None) => Ok(self.digest_size),
            (false, Some(_)) => Err(pyo3::exceptions::PyTypeError::new_err(
                "this hash has one length only",
            )),
        }
    }
}

#[pymethods]
impl Hasher {
    /// Takes more data.
    pub fn update(&self, python: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = View::read(data)?;
        let input = data.input();
        self.with(python, input.len() > LONG, |state| state.update(input))
    }

    /// The digest of what was taken so far; more may be taken afterwards.
    #[pyo3(signature = (length=None))]
    fn digest<'py>(
        &self,
        python: Python<'py>,
        length: Option<isize>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let length = self.length(length)?;
        PyBytes::new_with(python, length, |out| {
            self.with(python, false, |state| state.peek(out))
        })
    }

    /// The digest in hexadecimal.
    #[pyo3(signature = (length=None))]
    fn hexdigest(&self, python: Python<'_>, length: Option<isize>) -> PyResult<String> {
        let mut out = vec![0; self.length(length)?];
        self.with(python, false, |state| state.peek(&mut out))?;
        Ok(hex(&out))
    }

    /// An independent copy.
    fn copy(&self, python: Python<'_>) -> PyResult<Hasher> {
        Ok(Hasher {
            state: Mutex::new(self.with(python, false, |state| state.fork())?),
            digest_size: self.digest_size,
            xof: self.xof,
        })
    }

    /// Bytes of a digest.
    #[getter]
    fn digest_size(&self) -> usize {
        if self.xof { 0 } else { self.digest_size }
    }

    /// Bytes of a block.
    #[getter]
    fn block_size(&self, python: Python<'_>) -> PyResult<usize> {
        self.with(python, false, |state| Ok(state.session().algorithm().block))
    }

    /// The algorithm's name.
    #[getter]
    fn algorithm(&self, python: Python<'_>) -> PyResult<&'static str> {
        self.with(python, false, |state| Ok(state.session().algorithm().name))
    }
}
