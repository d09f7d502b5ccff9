//! The core's errors as the classes of cryptofd.errors.

use cryptofd_core::error::{Error, Kind};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// An error on its way to Python.
pub struct Raise(pub Error);

impl From<Error> for Raise {
    fn from(error: Error) -> Raise {
        Raise(error)
    }
}

impl From<Raise> for PyErr {
    fn from(Raise(error): Raise) -> PyErr {
        Python::attach(|python| raise(python, &error))
    }
}

/// The name of the class for each kind.
fn class(error: &Error) -> &'static str {
    match error.kind() {
        Kind::UnknownAlgorithm => "UnknownAlgorithm",
        Kind::Invalid => "InvalidArgument",
        Kind::Refused => "Refused",
        Kind::NoEngine | Kind::NotOffered | Kind::EngineFailed => "NoEngine",
        Kind::BadTag => "BadTag",
        Kind::BadSignature => "BadSignature",
        Kind::TooLarge | Kind::Elsewhere => "TooLarge",
        Kind::Unsupported => "Unsupported",
        Kind::Stale => "StaleStream",
        Kind::Closed => "Closed",
        Kind::Again => "NotReady",
        Kind::KeyRevoked => "KeyRevoked",
        Kind::System => "CryptoFDError",
    }
}

fn raise(python: Python<'_>, error: &Error) -> PyErr {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let found = MODULE
        .get_or_try_init(python, || {
            python.import("cryptofd.errors").map(Bound::unbind)
        })
        .and_then(|module| module.bind(python).getattr(class(error)))
        .and_then(|class| class.cast_into::<PyType>().map_err(Into::into));
    match found {
        Ok(class) => PyErr::from_type(class, (error.errno(), error.message().to_owned())),
        Err(failure) => failure,
    }
}
