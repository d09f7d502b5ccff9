//! A cipher's message in pieces.

use crate::errors::Raise;
use crate::ffi::{View, new_bytes};
use cryptofd_core::session;
use cryptofd_core::sys::buffer::Output;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::Mutex;

/// A message on its way through a cipher: `update()` as often as there is data, then `finish()`.
///
/// `update` returns the bytes that are whole; what is left of a block comes with the next call.
#[pyclass(frozen, module = "cryptofd")]
pub struct Stream(Mutex<session::Stream>);

impl Stream {
    pub fn new(stream: session::Stream) -> Stream {
        Stream(Mutex::new(stream))
    }
}

#[pymethods]
impl Stream {
    /// Takes data of any length; returns what is whole.
    fn update<'py>(
        &self,
        python: Python<'py>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = View::read(data)?;
        let input = data.input();
        // Another thread may hold the lock and wait for the GIL.
        let room = python.detach(|| lock(&self.0).room(input.len()));
        new_bytes(python, room, |out| {
            python
                .detach(|| {
                    let mut stream = lock(&self.0);
                    let room = stream.room(input.len());
                    if room > out.len() {
                        return Err(cryptofd_core::Error::invalid(
                            "another thread used the stream meanwhile: use one stream a thread",
                        ));
                    }
                    stream.update(input, out)
                })
                .map_err(Raise)
        })
    }

    /// Closes the message; returns the rest.
    fn finish<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let mut rest = zeroize::Zeroizing::new([0u8; 64]);
        let length = python
            .detach(|| lock(&self.0).finish(Output::from(&mut rest[..])))
            .map_err(Raise)?;
        Ok(PyBytes::new(python, &rest[..length]))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
