//! Memory of a session's ring as a Python buffer.

use cryptofd_core::client;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::c_int;

/// Bytes that a program and a worker share; `memoryview` shows them.
#[pyclass(frozen, module = "cryptofd")]
pub struct Buffer(client::Buffer);

impl Buffer {
    pub fn new(buffer: client::Buffer) -> Buffer {
        Buffer(buffer)
    }
}

#[pymethods]
impl Buffer {
    /// # Safety
    /// Called by the interpreter, with room for a Py_buffer.
    unsafe fn __getbuffer__(
        this: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no place for the view"));
        }
        let Some(output) = this.get().0.output() else {
            return Err(PyBufferError::new_err(
                "this buffer is the parent process's: a child makes its own",
            ));
        };
        let length = ffi::Py_ssize_t::try_from(output.len())?;
        // SAFETY: the memory lives as long as `this`, to which the view gets a reference.
        let done = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                this.as_ptr(),
                output.as_mut_ptr().cast(),
                length,
                0,
                flags,
            )
        };
        if done == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(this.py()))
        }
    }
}
