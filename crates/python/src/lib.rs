//! `cryptofd._core`: the sessions of the core, for Python.

mod broker;
mod errors;
mod fd;
mod ffi;
mod hash;
mod host;
mod pair;
mod remote;
mod stream;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<fd::CryptoFD>()?;
    module.add_class::<fd::KeyringKey>()?;
    module.add_class::<fd::Completion>()?;
    module.add_class::<broker::BrokerClient>()?;
    module.add_class::<stream::Stream>()?;
    module.add_class::<hash::Hasher>()?;
    module.add_class::<hash::HashFactory>()?;
    module.add_function(wrap_pyfunction!(fd::open, module)?)?;
    module.add_function(wrap_pyfunction!(fd::adopt, module)?)?;
    module.add_function(wrap_pyfunction!(pair::generate, module)?)?;
    module.add_function(wrap_pyfunction!(host::algorithms, module)?)?;
    module.add_function(wrap_pyfunction!(host::engines, module)?)?;
    module.add_function(wrap_pyfunction!(host::explain, module)?)?;
    module.add_function(wrap_pyfunction!(host::drivers, module)?)?;
    module.add("NONBLOCK", libc::O_NONBLOCK)?;
    Ok(())
}
