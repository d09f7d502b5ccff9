//! A cipher's message in pieces.

use crate::errors::Raise;
use crate::ffi::{View, new_bytes};
use crate::remote::call;
use cryptofd_core::client::Client;
use cryptofd_core::record::{Op, Request as Record};
use cryptofd_core::session;
use cryptofd_core::sys::buffer::Output;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::Mutex;
use zeroize::Zeroizing;

/// A message on its way through a cipher: `update()` as often as there is data, then `finish()`.
///
/// `update` returns the bytes that are whole; what is left of a block comes with the next call.
#[pyclass(frozen, module = "cryptofd")]
pub struct Stream(Place);

/// Where the stream's state is.
enum Place {
    Local(Mutex<session::Stream>),
    /// Behind a descriptor that nobody else uses.
    Remote(Box<Client>),
}

impl Stream {
    pub fn new(stream: session::Stream) -> Stream {
        Stream(Place::Local(Mutex::new(stream)))
    }

    pub fn remote(client: Client) -> Stream {
        Stream(Place::Remote(Box::new(client)))
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
        let stream = match &self.0 {
            Place::Local(stream) => stream,
            Place::Remote(client) => {
                let record = Record::with(Op::StreamUpdate, input);
                let given = Zeroizing::new(call(python, client, &record)?);
                return Ok(PyBytes::new(python, &given));
            }
        };
        // Another thread may hold the lock while it works: wait for it without the GIL.
        let room = python.detach(|| lock(stream).room(input.len()));
        new_bytes(python, room, |out| {
            python
                .detach(|| {
                    let mut stream = lock(stream);
                    if stream.room(input.len()) != out.len() {
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
        let stream = match &self.0 {
            Place::Local(stream) => stream,
            Place::Remote(client) => {
                let rest = call(python, client, &Record::new(Op::StreamFinish))?;
                return Ok(PyBytes::new(python, &Zeroizing::new(rest)));
            }
        };
        let mut rest = Zeroizing::new([0u8; 64]);
        let length = python
            .detach(|| lock(stream).finish(Output::from(&mut rest[..])))
            .map_err(Raise)?;
        Ok(PyBytes::new(python, &rest[..length]))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
