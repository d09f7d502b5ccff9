//! The broker from Python: calls with descriptors, and sessions on keys that stay with it.

use crate::errors::Raise;
use crate::ffi::View;
use crate::remote;
use cryptofd_core::broker::{self, Address, Answer};
use cryptofd_core::client::Client;
use cryptofd_core::engine::Parameters;
use cryptofd_core::error::Error;
use cryptofd_core::session::Session;
use cryptofd_core::sys::descriptor::duplicate;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString};
use serde_json::{Value, json};
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use zeroize::Zeroizing;

/// A broker: what is asked of it, by the name of its Varlink method. `address` is a path, `fd:N`, or None for
/// the one that the environment names.
#[pyclass(frozen, module = "cryptofd")]
pub struct BrokerClient {
    own: Option<broker::Broker>,
}

impl BrokerClient {
    fn broker(&self) -> Result<&broker::Broker, Error> {
        match &self.own {
            Some(broker) => Ok(broker),
            None => broker::default(),
        }
    }

    /// Calls without the GIL.
    pub fn ask(
        &self,
        python: Python<'_>,
        method: &str,
        parameters: &Value,
        fds: &[OwnedFd],
        repeated: bool,
    ) -> PyResult<Answer> {
        ask(
            python,
            self.broker().map_err(Raise)?,
            method,
            parameters,
            fds,
            repeated,
        )
    }
}

fn ask(
    python: Python<'_>,
    broker: &broker::Broker,
    method: &str,
    parameters: &Value,
    fds: &[OwnedFd],
    repeated: bool,
) -> PyResult<Answer> {
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    remote::patiently(python, |interrupted| {
        broker.call(method, parameters, &borrowed, repeated, interrupted)
    })
}

#[pymethods]
impl BrokerClient {
    #[new]
    #[pyo3(signature = (address=None))]
    fn new(address: Option<&str>) -> PyResult<BrokerClient> {
        let own = address.map(Address::parse).transpose().map_err(Raise)?;
        Ok(BrokerClient {
            own: own.map(broker::Broker::new),
        })
    }

    /// Where it is: a path, @NAME, or fd:N.
    #[getter]
    fn address(&self) -> PyResult<String> {
        Ok(self.broker().map_err(Raise)?.address().to_string())
    }

    /// The reading end of a pipe that holds these bytes; the caller's to close.
    #[staticmethod]
    fn pipe(key: &Bound<'_, PyAny>) -> PyResult<i32> {
        let bytes = Zeroizing::new(View::read(key)?.to_vec());
        let fd = broker::pipe(&bytes).map_err(Raise)?;
        Ok(fd.into_raw_fd())
    }

    /// Where this user's own broker listens.
    #[staticmethod]
    fn private() -> String {
        broker::private().display().to_string()
    }

    /// The name at which it listens as well, if it was told to: one that needs no file system.
    #[staticmethod]
    fn abstract_name() -> String {
        broker::abstract_name(cryptofd_core::sys::process::effective_uid())
    }

    /// Gives the connection away, as the number of a descriptor (close-on-exec).
    fn detach(&self) -> PyResult<i32> {
        let fd = self
            .broker()
            .and_then(broker::Broker::detach)
            .map_err(Raise)?;
        Ok(fd.into_raw_fd())
    }

    /// Connects, if it is not yet.
    fn connect(&self, python: Python<'_>) -> PyResult<()> {
        python
            .detach(|| self.broker()?.connect())
            .map_err(|error| Raise(error).into())
    }

    /// Calls a method: `parameters` and the answer's are JSON, `fds` are lent. A call that may be `repeated` is
    /// made again if the broker restarts in the middle. The descriptors that come back are the caller's.
    #[pyo3(signature = (method, parameters="{}", fds=Vec::new(), *, repeated=false))]
    fn call(
        &self,
        python: Python<'_>,
        method: &str,
        parameters: &str,
        fds: Vec<i32>,
        repeated: bool,
    ) -> PyResult<(String, Vec<i32>)> {
        let parameters: Value = serde_json::from_str(parameters)
            .map_err(|error| Raise(Error::invalid(format!("parameters: {error}"))))?;
        let copies = fds
            .into_iter()
            .map(duplicate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(Raise)?;
        let answer = self.ask(python, method, &parameters, &copies, repeated)?;
        let numbers = answer.fds.into_iter().map(IntoRawFd::into_raw_fd).collect();
        Ok((answer.parameters.to_string(), numbers))
    }
}

/// What the broker opened.
pub enum Opened {
    /// A session that a worker serves.
    Served(Box<Client>),
    /// A direct one: the kernel's socket, used by this process itself.
    Direct(Arc<Session>),
}

/// Opens a session of the broker's: on a key of its own that `key` names, or on one that is handed over
/// and kept as long as the session. Options are those of `open`; None where it is not the broker's.
pub fn open(
    python: Python<'_>,
    algorithm: &str,
    key: Option<&Bound<'_, PyAny>>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<Option<Opened>> {
    let text: Option<String> = match key {
        Some(key) if key.is_instance_of::<PyString>() => Some(key.extract()?),
        _ => None,
    };
    let label = text.as_deref().and_then(broker::reference);
    let asked = match options {
        Some(options) => options.get_item("broker")?.filter(|o| !o.is_none()),
        None => None,
    };
    let wanted = asked.as_ref().map(|asked| asked.is_truthy()).transpose()?;
    if wanted == Some(false) && label.is_some() {
        let error = Error::invalid("broker=False: a key that is named is the broker's");
        return Err(Raise(error).into());
    }
    if label.is_none() && wanted != Some(true) {
        return Ok(None);
    }
    let through = match &asked {
        Some(asked) if !asked.is_instance_of::<PyBool>() => Some(
            asked
                .getattr("_client")?
                .cast_into::<BrokerClient>()
                .map_err(|_| PyTypeError::new_err("broker: True, or what connect() returned"))?,
        ),
        _ => None,
    };
    let mut session = serde_json::Map::new();
    let mut parameters = json!({"algorithm": algorithm});
    for (name, value) in options.into_iter().flatten() {
        let name: String = name.extract()?;
        if value.is_none() || name == "broker" {
            continue;
        }
        let value = match name.as_str() {
            "engine" | "driver" | "hardware" | "padding" => json!(value.extract::<String>()?),
            "fips" => json!(value.extract::<bool>()?),
            "direct" if label.is_some() => json!(value.extract::<bool>()?),
            "tag_size" | "digest_size" => json!(value.extract::<u32>()?),
            "version" if label.is_some() => {
                parameters["version"] = json!(value.extract::<u32>()?);
                continue;
            }
            "usage" if label.is_some() => {
                let mut usage: Vec<String> = value
                    .try_iter()?
                    .map(|each| each?.extract())
                    .collect::<PyResult<_>>()?;
                usage.sort();
                parameters["usage"] = json!(usage);
                continue;
            }
            _ => {
                return Err(PyTypeError::new_err(format!(
                    "open() on a key of the broker's has no option {name:?}"
                )));
            }
        };
        session.insert(name, value);
    }
    if !session.is_empty() {
        parameters["options"] = Value::Object(session);
    }
    let through = through.as_ref().map(Bound::get);
    if let Some(label) = label {
        parameters["key"] = json!(label);
        let direct = parameters["options"]["direct"] == true;
        if !direct {
            parameters["info"] = json!(true);
        }
        let mut answer = self::session(python, through, "Open", &parameters, &[])?;
        let fd = answer.descriptor("fd").map_err(Raise)?;
        let opened = if direct {
            Opened::Direct(self::direct(python, algorithm, &parameters, &answer, fd)?)
        } else if answer.parameters["info"] == true {
            Opened::Served(Box::new(remote::informed(python, fd)?))
        } else {
            Opened::Served(Box::new(remote::adopt(python, fd)?))
        };
        return Ok(Some(opened));
    }
    let key = key.ok_or_else(|| PyTypeError::new_err("broker=True: which key?"))?;
    let view = View::read(key)?;
    let bytes = Zeroizing::new(view.to_vec());
    let fd = broker::pipe(&bytes).map_err(Raise)?;
    parameters["fd"] = json!(0);
    let mut answer = self::session(python, through, "HandOver", &parameters, &[fd])?;
    let fd = answer.descriptor("fd").map_err(Raise)?;
    let client = remote::adopt(python, fd)?;
    Ok(Some(Opened::Served(Box::new(client))))
}

/// The session over the kernel's socket that came.
fn direct(
    python: Python<'_>,
    algorithm: &str,
    asked: &Value,
    answer: &Answer,
    fd: OwnedFd,
) -> PyResult<Arc<Session>> {
    let tag_size = answer.parameters["tag_size"].as_u64();
    let parameters = Parameters {
        tag_size: tag_size.and_then(|size| usize::try_from(size).ok()),
        pkcs7: asked["options"]["padding"] == "pkcs7",
        ..Parameters::default()
    };
    python
        .detach(|| Session::adopt(fd, algorithm, parameters))
        .map_err(|error| Raise(error).into())
}

/// What `method`, which opens a session, answers.
fn session(
    python: Python<'_>,
    through: Option<&BrokerClient>,
    method: &str,
    parameters: &Value,
    fds: &[OwnedFd],
) -> PyResult<Answer> {
    let call = || match through {
        Some(client) => client.ask(python, method, parameters, fds, true),
        None => {
            let broker = broker::default().map_err(Raise)?;
            ask(python, broker, method, parameters, fds, true)
        }
    };
    match call() {
        Err(error) if through.is_none() && absent(python, &error) => {
            // The embedded default: a broker of this user's own.
            python
                .import("cryptofd.broker.private")?
                .call_method0("start")?;
            call()
        }
        other => other,
    }
}

/// Whether nobody listens where a broker would be, and the environment names none.
fn absent(python: Python<'_>, error: &PyErr) -> bool {
    let errno = error
        .value(python)
        .getattr("errno")
        .and_then(|errno| errno.extract::<i32>())
        .unwrap_or(0);
    let named = ["CRYPTOFD_BROKER", "CRYPTOFD_BROKER_FD"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    errno == libc::ECONNREFUSED && !named
}
