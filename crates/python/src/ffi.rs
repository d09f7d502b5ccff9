//! Python's buffers as pointers, and bytes objects that are filled once.

pub mod buffer;

use cryptofd_core::error::Error;
use cryptofd_core::sys::buffer::{Input, Output};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A borrowed buffer of any object that has one; released when dropped (with the GIL held).
pub struct View<'py> {
    buffer: Option<Box<ffi::Py_buffer>>,
    pointer: *mut u8,
    length: usize,
    python: Python<'py>,
}

impl<'py> View<'py> {
    /// To read. `bytes` costs nothing; others are locked against resizing as long as this lives.
    pub fn read(object: &Bound<'py, PyAny>) -> PyResult<View<'py>> {
        if let Ok(bytes) = object.cast::<PyBytes>() {
            // The caller's reference keeps the bytes object alive during the call.
            let slice = bytes.as_bytes();
            return Ok(View {
                buffer: None,
                pointer: slice.as_ptr().cast_mut(),
                length: slice.len(),
                python: object.py(),
            });
        }
        View::acquire(object, ffi::PyBUF_SIMPLE)
    }

    /// To write.
    pub fn write(object: &Bound<'py, PyAny>) -> PyResult<View<'py>> {
        View::acquire(object, ffi::PyBUF_WRITABLE)
    }

    fn acquire(object: &Bound<'py, PyAny>, flags: i32) -> PyResult<View<'py>> {
        let mut buffer: Box<MaybeUninit<ffi::Py_buffer>> = Box::new(MaybeUninit::uninit());
        // SAFETY: the object is alive; on success the buffer is initialised, C-contiguous and ours.
        let buffer = unsafe {
            if ffi::PyObject_GetBuffer(object.as_ptr(), buffer.as_mut_ptr(), flags) != 0 {
                return Err(PyErr::fetch(object.py()));
            }
            Box::from_raw(Box::into_raw(buffer).cast::<ffi::Py_buffer>())
        };
        let length = usize::try_from(buffer.len)
            .map_err(|_| PyBufferError::new_err("a buffer of negative length"))?;
        Ok(View {
            pointer: buffer.buf.cast(),
            length,
            buffer: Some(buffer),
            python: object.py(),
        })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// For the core: a pointer and a length, whose bytes may change.
    pub fn input(&self) -> Input<'_> {
        // SAFETY: readable as long as the view lives.
        unsafe { Input::from_raw(self.pointer, self.length) }
    }

    /// For the core, of a buffer that was acquired to write.
    pub fn output(&self) -> Output<'_> {
        debug_assert!(self.buffer.is_some());
        // SAFETY: writable as long as the view lives: PyBUF_WRITABLE was asked for.
        unsafe { Output::from_raw(self.pointer, self.length) }
    }

    /// A private copy.
    pub fn to_vec(&self) -> Vec<u8> {
        self.input().to_vec()
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        if let Some(buffer) = &mut self.buffer {
            let _attached = self.python;
            // SAFETY: acquired in acquire() and released once; the token proves that the GIL is held.
            unsafe { ffi::PyBuffer_Release(&mut **buffer) }
        }
    }
}

/// A bytes object of `length` bytes that `fill` fills; wiped and dropped if it fails. `fill` returns how
/// many bytes count and may run without the GIL: nobody else knows the object yet.
pub fn new_bytes<'py, E>(
    python: Python<'py>,
    length: usize,
    fill: impl FnOnce(Output<'_>) -> Result<usize, E>,
) -> PyResult<Bound<'py, PyBytes>>
where
    PyErr: From<E>,
{
    let size = ffi::Py_ssize_t::try_from(length)
        .map_err(|_| pyo3::exceptions::PyMemoryError::new_err("more bytes than fit in memory"))?;
    // SAFETY: a null source makes an uninitialised bytes object, or null with MemoryError set.
    let object: Bound<'py, PyAny> = unsafe {
        Bound::from_owned_ptr_or_err(
            python,
            ffi::PyBytes_FromStringAndSize(std::ptr::null(), size),
        )?
    };
    // SAFETY: it is a bytes object of `length` bytes that nobody else refers to.
    let output =
        unsafe { Output::from_raw(ffi::PyBytes_AsString(object.as_ptr()).cast::<u8>(), length) };
    match fill(output) {
        Ok(used) if used == length => {}
        Ok(used) => {
            let copy = PyBytes::new_with(python, used, |target| {
                output.as_input().split_at(used).0.copy_to(target);
                Ok(())
            });
            output.wipe();
            return copy;
        }
        Err(error) => {
            output.wipe();
            return Err(error.into());
        }
    }
    object.cast_into::<PyBytes>().map_err(Into::into)
}

/// A bytes object that is being filled; wiped if it never is.
pub struct Fresh<'py> {
    object: Bound<'py, PyAny>,
    length: usize,
    finished: bool,
}

impl<'py> Fresh<'py> {
    /// Of `length` bytes.
    pub fn new(python: Python<'py>, length: usize) -> PyResult<Fresh<'py>> {
        let size = ffi::Py_ssize_t::try_from(length).map_err(|_| {
            pyo3::exceptions::PyMemoryError::new_err("more bytes than fit in memory")
        })?;
        // SAFETY: a null source makes an uninitialised bytes object, or null with MemoryError set.
        let object = unsafe {
            Bound::from_owned_ptr_or_err(
                python,
                ffi::PyBytes_FromStringAndSize(std::ptr::null(), size),
            )?
        };
        Ok(Fresh {
            object,
            length,
            finished: false,
        })
    }

    /// Where to write it, without the GIL: nobody else knows the object yet.
    pub fn output(&self) -> Output<'_> {
        // SAFETY: a bytes object of `length` bytes that nobody else refers to. One of no bytes is everybody's,
        // and nothing is written to it.
        unsafe {
            let bytes = ffi::PyBytes_AsString(self.object.as_ptr()).cast::<u8>();
            Output::from_raw(bytes, self.length)
        }
    }

    /// The object, of which `used` bytes were filled.
    pub fn finish(mut self, python: Python<'py>, used: usize) -> PyResult<Bound<'py, PyBytes>> {
        if used == self.length {
            self.finished = true;
            return self
                .object
                .clone()
                .cast_into::<PyBytes>()
                .map_err(Into::into);
        }
        PyBytes::new_with(python, used, |target| {
            self.output().as_input().split_at(used).0.copy_to(target);
            Ok(())
        })
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.output().wipe();
        }
    }
}

/// A descriptor that the caller gives away; close-on-exec from here on.
pub fn own(fd: i32) -> Result<OwnedFd, Error> {
    // SAFETY: fcntl on a number touches no memory.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(Error::last_os(&format!("descriptor {fd}")));
    }
    // SAFETY: open, as fcntl has just found, and the caller gives it away.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets O_NONBLOCK.
pub fn set_nonblock(fd: BorrowedFd<'_>) -> Result<(), Error> {
    // SAFETY: fcntl on a borrowed descriptor touches no memory.
    let done = unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        flags >= 0 && libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) >= 0
    };
    if done {
        Ok(())
    } else {
        Err(Error::last_os("O_NONBLOCK"))
    }
}
