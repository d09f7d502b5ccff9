//! `CryptoFD`: one algorithm, one key, one engine; the whole everyday API.

use crate::broker::Opened;
use crate::errors::Raise;
use crate::ffi::buffer::Buffer;
use crate::ffi::{self, Fresh, View, new_bytes};
use crate::hash::LONG;
use crate::pair;
use crate::remote::{self, Remote};
use crate::stream::Stream;
use arc_swap::ArcSwap;
use cryptofd_core::client::{Client, Facts, Item};
use cryptofd_core::engine::{Blake2, Direction, Hardware, Key};
use cryptofd_core::engines::kernel;
use cryptofd_core::error::Error;
use cryptofd_core::pair::Options;
use cryptofd_core::record::{FLAG_RUNNING, Op, Params, Request as Record};
use cryptofd_core::secret::{Secret, equal};
use cryptofd_core::serve;
use cryptofd_core::session::{Hasher, Request, Session};
use cryptofd_core::sys::buffer::{Input, Output};
use cryptofd_core::sys::descriptor::duplicate;
use cryptofd_core::table::Kind;
use pyo3::exceptions::{PyMemoryError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyMemoryView, PyTuple};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use zeroize::Zeroizing;

/// A key in the kernel's keyring, by serial number: the kernel uses it, nobody here reads it.
#[pyclass(frozen, module = "cryptofd", from_py_object)]
#[derive(Clone)]
pub struct KeyringKey {
    /// The serial number, as `keyctl` shows it.
    #[pyo3(get)]
    serial: i32,
}

#[pymethods]
impl KeyringKey {
    #[new]
    fn new(serial: i32) -> KeyringKey {
        KeyringKey { serial }
    }

    fn __repr__(&self) -> String {
        format!("KeyringKey({})", self.serial)
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

/// What open() takes, as the core's request.
pub fn settings(
    algorithm: &str,
    key: Option<&Bound<'_, PyAny>>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<Request> {
    let mut request = Request {
        algorithm: algorithm.to_owned(),
        ..Request::default()
    };
    if let Some(key) = key {
        request.key = if let Ok(reference) = key.cast::<KeyringKey>() {
            Key::Serial(reference.get().serial)
        } else if key.is_instance_of::<pyo3::types::PyString>() {
            return Err(PyTypeError::new_err(
                "key: bytes, a KeyringKey, or cryptofd:LABEL for one of the broker's; other text is never a key",
            ));
        } else {
            let view = View::read(key)?;
            let copy = Zeroizing::new(view.to_vec());
            Key::Bytes(Secret::new(&copy))
        };
    }
    let mut blake2: Option<Blake2> = None;
    for (name, value) in options.into_iter().flatten() {
        if value.is_none() {
            continue;
        }
        let name: String = name.extract()?;
        let parameters = &mut request.parameters;
        match name.as_str() {
            "engine" => request.engine = Some(value.extract()?),
            "driver" => request.driver = Some(value.extract()?),
            "hardware" => {
                request.hardware = Hardware::parse(&value.extract::<String>()?).map_err(Raise)?;
            }
            "fips" => request.fips = value.extract()?,
            "tag_size" => parameters.tag_size = Some(value.extract()?),
            "digest_size" => parameters.digest_size = Some(value.extract()?),
            "padding" => match value.extract::<String>()?.as_str() {
                "pkcs7" => parameters.pkcs7 = true,
                "none" => parameters.pkcs7 = false,
                other => {
                    return Err(PyErr::from(Raise(Error::invalid(format!(
                        "padding={other:?}: pkcs7 or none"
                    )))));
                }
            },
            "iv" => parameters.iv = View::read(&value)?.to_vec(),
            _ => {
                let blake2 = blake2.get_or_insert_default();
                match name.as_str() {
                    "salt" => blake2.salt = View::read(&value)?.to_vec(),
                    "person" => blake2.person = View::read(&value)?.to_vec(),
                    "fanout" => blake2.fanout = value.extract()?,
                    "depth" => blake2.depth = value.extract()?,
                    "leaf_size" => blake2.leaf_size = value.extract()?,
                    "node_offset" => blake2.node_offset = value.extract()?,
                    "node_depth" => blake2.node_depth = value.extract()?,
                    "inner_size" => blake2.inner_size = value.extract()?,
                    "last_node" => blake2.last_node = value.extract()?,
                    _ => {
                        return Err(PyTypeError::new_err(format!(
                            "open() has no option {name:?}"
                        )));
                    }
                }
            }
        }
    }
    request.parameters.blake2 = blake2;
    Ok(request)
}

/// Opens a session: one algorithm, one key, one engine.
#[pyfunction]
#[pyo3(signature = (algorithm, key=None, *, flags=0, **options))]
pub fn open(
    python: Python<'_>,
    algorithm: &str,
    key: Option<&Bound<'_, PyAny>>,
    flags: i32,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<CryptoFD> {
    if flags & !libc::O_NONBLOCK != 0 {
        return Err(PyErr::from(Raise(Error::invalid(format!(
            "flags={flags:#x}: cryptofd.NONBLOCK is the only one"
        )))));
    }
    let session = match crate::broker::open(python, algorithm, key, options)? {
        Some(Opened::Served(client)) => {
            if flags & libc::O_NONBLOCK != 0 {
                ffi::set_nonblock(client.as_fd()).map_err(Raise)?;
            }
            let facts = Facts::new(client.info()).map_err(Raise)?;
            let client = *client;
            let backing = Backing::Remote(Arc::new(Remote::new(client, facts, true)));
            return Ok(CryptoFD::new(backing, None));
        }
        Some(Opened::Direct(session)) => session,
        None => {
            let request = settings(algorithm, key, options)?;
            python.detach(|| Session::open(request)).map_err(Raise)?
        }
    };
    Ok(CryptoFD {
        nonblock: flags & libc::O_NONBLOCK != 0,
        ..CryptoFD::new(Backing::Local(session), None)
    })
}

/// Takes over a descriptor that another process, thread or program opened. InvalidArgument (EINVAL), and
/// the descriptor stays the caller's, if it is not a cryptofd. It is close-on-exec from here on.
///
/// An AF_ALG socket (bound, or an operation socket) is taken over as well, and closed with the session;
/// the caller says what it computes: `algorithm`, and tag_size, digest_size, padding as for open().
#[pyfunction]
#[pyo3(signature = (fd, algorithm=None, **options))]
pub fn adopt(
    python: Python<'_>,
    fd: i32,
    algorithm: Option<&str>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<CryptoFD> {
    // The check runs on a copy, so that a number that is no cryptofd is not closed by us.
    let copy = duplicate(fd).map_err(Raise)?;
    let raw = kernel::is_af_alg(copy.as_fd());
    match (raw, algorithm) {
        (true, Some(algorithm)) => return adopt_raw(python, fd, copy, algorithm, options),
        (true, None) => {
            return Err(raise(Error::invalid(format!(
                "descriptor {fd} is an AF_ALG socket, which does not say what it computes: \
                 adopt({fd}, algorithm=\"cbc(aes)\") does"
            ))));
        }
        (false, None) if options.is_none_or(|options| options.is_empty()) => {}
        (false, _) => {
            return Err(raise(Error::invalid(format!(
                "descriptor {fd} is no AF_ALG socket: a cryptofd says itself what it computes, so \
                 adopt({fd}) takes no algorithm and no options for it"
            ))));
        }
    }
    let probe = remote::adopt(python, copy)?;
    let facts = Facts::new(probe.info()).map_err(Raise)?;
    // A process in a chroot may not find it when info() is asked for.
    python.import("cryptofd.description")?;
    let client = probe.on(ffi::own(fd).map_err(Raise)?);
    Ok(CryptoFD::new(
        Backing::Remote(Arc::new(Remote::new(client, facts, false))),
        None,
    ))
}

/// Takes over an AF_ALG socket; `copy` is a second descriptor for it.
fn adopt_raw(
    python: Python<'_>,
    fd: i32,
    copy: OwnedFd,
    algorithm: &str,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<CryptoFD> {
    for (name, _) in options.into_iter().flatten() {
        let name: String = name.extract()?;
        if !matches!(name.as_str(), "tag_size" | "digest_size" | "padding") {
            return Err(PyTypeError::new_err(format!(
                "adopt() has no option {name:?}"
            )));
        }
    }
    let request = settings(algorithm, None, options)?;
    let session = python
        .detach(|| Session::adopt(copy, algorithm, request.parameters))
        .map_err(Raise)?;
    // The session has a descriptor of its own; this one was given away.
    drop(ffi::own(fd).map_err(Raise)?);
    Ok(CryptoFD::new(Backing::Local(session), None))
}

/// An answer that was taken: `id` is submit()'s; `data` is the result, or raises what the request raised.
#[pyclass(frozen, module = "cryptofd")]
pub struct Completion {
    /// What submit() returned.
    #[pyo3(get)]
    id: u64,
    result: Result<Py<PyBytes>, Error>,
}

#[pymethods]
impl Completion {
    /// The result; raises the request's error.
    #[getter]
    fn data(&self, python: Python<'_>) -> PyResult<Py<PyBytes>> {
        match &self.result {
            Ok(data) => Ok(data.clone_ref(python)),
            Err(error) => Err(raise(error.clone())),
        }
    }

    /// The request's error, or None.
    #[getter]
    fn error(&self) -> Option<PyErr> {
        self.result.as_ref().err().map(|error| raise(error.clone()))
    }

    fn __iter__<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let pair = (self.id, self.data(python)?).into_pyobject(python)?;
        Ok(pair.try_iter()?.into_any())
    }

    fn __repr__(&self) -> String {
        match &self.result {
            Ok(_) => format!("<completion {}>", self.id),
            Err(error) => format!("<completion {}: {error}>", self.id),
        }
    }
}

/// Where the session is.
#[derive(Clone)]
enum Backing {
    /// In this process: calls go straight to it.
    Local(Arc<Session>),
    /// Behind a descriptor: calls are records.
    Remote(Arc<Remote>),
    Closed,
}

/// A session that a program holds.
#[pyclass(frozen, module = "cryptofd")]
pub struct CryptoFD {
    backing: ArcSwap<Backing>,
    /// A local session's running hash or MAC.
    running: Mutex<Option<Hasher>>,
    /// A local session's descriptor, made when it is asked for.
    descriptor: Mutex<Option<Arc<Client>>>,
    nonblock: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

fn raise(error: Error) -> PyErr {
    Raise(error).into()
}

/// A nonce: small, copied to the stack.
struct Nonce {
    bytes: [u8; 128],
    more: Vec<u8>,
    length: usize,
}

impl Nonce {
    fn read(object: Option<&Bound<'_, PyAny>>) -> PyResult<Nonce> {
        let mut nonce = Nonce {
            bytes: [0; 128],
            more: Vec::new(),
            length: 0,
        };
        if let Some(object) = object {
            let view = View::read(object)?;
            nonce.length = view.len();
            match nonce.bytes.get_mut(..view.len()) {
                Some(bytes) => view.input().copy_to(bytes),
                None => nonce.more = view.to_vec(),
            }
        }
        Ok(nonce)
    }

    fn get(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.more)
    }
}

fn optional<'py>(object: Option<&Bound<'py, PyAny>>) -> PyResult<Option<View<'py>>> {
    object.map(View::read).transpose()
}

fn input<'a>(view: &'a Option<View<'_>>) -> Input<'a> {
    view.as_ref().map_or(Input::EMPTY, View::input)
}

/// The first `room` bytes of a caller's buffer.
fn beginning<'a>(target: &'a View<'_>, room: usize) -> PyResult<Output<'a>> {
    if target.len() < room {
        return Err(raise(Error::too_large(format!(
            "out has {} bytes where {room} are needed",
            target.len()
        ))));
    }
    Ok(target.output().split_at(room).0)
}

/// Up to so many bytes the GIL is kept. An AEAD in this process does a TLS record in a few microseconds,
/// of which giving the GIL away and taking it back would be a part that shows.
fn brief(session: &Session) -> usize {
    match session.algorithm().kind {
        Kind::Aead => 2 * LONG,
        _ => LONG,
    }
}

fn op(direction: Direction) -> Op {
    match direction {
        Direction::Encrypt => Op::Encrypt,
        Direction::Decrypt => Op::Decrypt,
    }
}

impl CryptoFD {
    fn new(backing: Backing, running: Option<Hasher>) -> CryptoFD {
        CryptoFD {
            backing: ArcSwap::from_pointee(backing),
            running: Mutex::new(running),
            descriptor: Mutex::new(None),
            nonblock: false,
        }
    }

    fn backing(&self) -> Backing {
        Backing::clone(&self.backing.load())
    }

    pub(crate) fn facts(&self) -> PyResult<Facts> {
        match self.backing() {
            Backing::Local(session) => Ok(Facts {
                algorithm: session.algorithm(),
                tag_size: session.tag_size(),
                digest_size: session.digest_size(),
            }),
            Backing::Remote(remote) => Ok(remote.facts),
            Backing::Closed => Err(raise(Error::closed())),
        }
    }

    /// SEAL or UNSEAL: done by whoever serves the descriptor, which is where the IV is chosen.
    fn boxed<'py>(
        &self,
        python: Python<'py>,
        op: Op,
        data: &Bound<'py, PyAny>,
        aad: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = View::read(data)?;
        let aad = optional(aad)?;
        let record = Record {
            aad: input(&aad),
            ..Record::with(op, data.input())
        };
        let room = box_room(&self.facts()?, op, data.len());
        self.with_client(python, |client| {
            new_bytes(python, room, |out| {
                remote::call_into(python, client, &record, out)
            })
        })
    }

    /// The same into a caller's buffer.
    fn boxed_into<'py>(
        &self,
        python: Python<'py>,
        op: Op,
        out: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
        aad: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<usize> {
        let target = View::write(out)?;
        let data = View::read(data)?;
        let aad = optional(aad)?;
        let record = Record {
            aad: input(&aad),
            ..Record::with(op, data.input())
        };
        let room = box_room(&self.facts()?, op, data.len());
        let out = beginning(&target, room)?;
        self.with_client(python, |client| {
            remote::call_into(python, client, &record, out)
        })
    }

    /// The session, where it is in this process.
    pub(crate) fn local(&self) -> PyResult<Arc<Session>> {
        match self.backing() {
            Backing::Local(session) => Ok(session),
            _ => Err(raise(Error::closed())),
        }
    }

    /// Sends a record where the session is behind a descriptor; `None` where it is here.
    pub(crate) fn call(
        &self,
        python: Python<'_>,
        record: &Record<'_>,
    ) -> PyResult<Option<Vec<u8>>> {
        match self.backing() {
            Backing::Local(_) => Ok(None),
            Backing::Remote(remote) => remote::call(python, &remote.client, record).map(Some),
            Backing::Closed => Err(raise(Error::closed())),
        }
    }

    /// The same of a request of the running hash or MAC, which `goes_on` afterwards.
    fn run(
        &self,
        python: Python<'_>,
        record: &Record<'_>,
        goes_on: bool,
    ) -> PyResult<Option<Vec<u8>>> {
        match self.backing() {
            Backing::Remote(remote) => remote.run(python, record, goes_on).map(Some),
            _ => self.call(python, record),
        }
    }

    /// Runs `f` with the client of the descriptor; a local session gets one when it is asked for.
    fn with_client<T>(
        &self,
        python: Python<'_>,
        f: impl FnOnce(&Client) -> PyResult<T>,
    ) -> PyResult<T> {
        let session = match self.backing() {
            Backing::Local(session) => session,
            Backing::Remote(remote) => return f(&remote.client),
            Backing::Closed => return Err(raise(Error::closed())),
        };
        let client = python
            .detach(|| {
                let mut place = lock(&self.descriptor);
                if let Some(client) = place.as_ref() {
                    return Ok(client.clone());
                }
                let running = lock(&self.running).as_ref().map(Hasher::fork).transpose()?;
                let fd = serve::serve_from(session, running)?;
                if self.nonblock {
                    ffi::set_nonblock(fd.as_fd())?;
                }
                let client = Arc::new(Client::new(fd));
                *place = Some(client.clone());
                Ok(client)
            })
            .map_err(raise)?;
        f(&client)
    }

    fn both<'py>(
        &self,
        python: Python<'py>,
        direction: Direction,
        data: &Bound<'py, PyAny>,
        iv: Option<&Bound<'py, PyAny>>,
        aad: Option<&Bound<'py, PyAny>>,
        options: &Options<'_>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = View::read(data)?;
        let nonce = Nonce::read(iv)?;
        let aad = optional(aad)?;
        let (from, with) = (data.input(), input(&aad));
        let backing = self.backing.load();
        let session = match &**backing {
            Backing::Local(session) => session,
            Backing::Remote(remote) => {
                let record = Record {
                    iv: nonce.get(),
                    aad: with,
                    params: pair::params(options),
                    ..Record::with(op(direction), from)
                };
                let answer = remote::transform(python, remote, direction, &record)?;
                return Ok(PyBytes::new(python, &answer));
            }
            Backing::Closed => return Err(raise(Error::closed())),
        };
        if session.algorithm().kind == Kind::Pair {
            if iv.is_some() || !with.is_empty() {
                let name = session.algorithm().name;
                return Err(raise(Error::invalid(format!(
                    "{name} takes no iv and no aad"
                ))));
            }
            return pair::crypt(python, session, direction, from, options);
        }
        options.none(session.algorithm()).map_err(Raise)?;
        let long = from.len().max(with.len()) > brief(session);
        new_bytes(python, room(session, direction, from.len())?, |out| {
            let work = || transform(session, direction, nonce.get(), with, from, out);
            if long { python.detach(work) } else { work() }.map_err(Raise)
        })
    }

    fn into<'py>(
        &self,
        python: Python<'py>,
        direction: Direction,
        out: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
        iv: Option<&Bound<'py, PyAny>>,
        aad: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<usize> {
        let target = View::write(out)?;
        let data = View::read(data)?;
        let nonce = Nonce::read(iv)?;
        let aad = optional(aad)?;
        let (from, with) = (data.input(), input(&aad));
        let session = match self.backing() {
            Backing::Local(session) => session,
            Backing::Remote(remote) => {
                let record = Record {
                    iv: nonce.get(),
                    aad: with,
                    ..Record::with(op(direction), from)
                };
                if let Some(room) = remote::exactly(&remote.facts, direction, from.len()) {
                    return remote::call_exactly(
                        python,
                        &remote,
                        &record,
                        beginning(&target, room)?,
                    );
                }
                let answer = remote::transform(python, &remote, direction, &record)?;
                beginning(&target, answer.len())?.copy_from(&answer);
                return Ok(answer.len());
            }
            Backing::Closed => return Err(raise(Error::closed())),
        };
        let out = beginning(&target, room(&session, direction, from.len())?)?;
        python
            .detach(|| transform(&session, direction, nonce.get(), with, from, out))
            .map_err(raise)
    }

    fn many<'py>(
        &self,
        python: Python<'py>,
        op: Op,
        items: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let direction = match op {
            Op::Encrypt => Some(Direction::Encrypt),
            Op::Decrypt => Some(Direction::Decrypt),
            _ => None,
        };
        let backing = self.backing();
        let facts = self.facts()?;
        let batched = match (&backing, direction) {
            (Backing::Remote(_), Some(direction)) => {
                remote::exactly(&facts, direction, 1 << 16).is_some()
            }
            (_, direction) => direction.is_none(),
        };
        let mut asked = Vec::new();
        let list = PyList::empty(python);
        for item in items.try_iter()? {
            let parts = Parts::read(&item?, direction.is_some())?;
            match direction {
                Some(direction) if !batched => {
                    let (iv, aad) = (parts.iv.as_ref(), parts.aad.as_ref());
                    let options = Options::default();
                    list.append(self.both(python, direction, &parts.data, iv, aad, &options)?)?;
                }
                _ => asked.push(parts),
            }
        }
        if !batched {
            return Ok(list);
        }
        let mut views = Vec::with_capacity(asked.len());
        for parts in &asked {
            let data = View::read(&parts.data)?;
            let room = match direction {
                Some(direction) => remote::exactly(&facts, direction, data.len()).unwrap_or(0),
                None => box_room(&facts, op, data.len()),
            };
            let nonce = Nonce::read(parts.iv.as_ref())?;
            let aad = optional(parts.aad.as_ref())?;
            views.push((data, nonce, aad, Fresh::new(python, room)?));
        }
        let mut batch: Vec<Item<'_>> = views
            .iter()
            .map(|(data, nonce, aad, result)| {
                let record = Record {
                    iv: nonce.get(),
                    aad: input(aad),
                    ..Record::with(op, data.input())
                };
                Item::new(record, result.output())
            })
            .collect();
        self.with_client(python, |client| {
            remote::patiently(python, |interrupted| client.batch(&mut batch, interrupted))
        })?;
        let done: Vec<_> = batch.into_iter().map(|item| item.done).collect();
        for ((_, _, _, result), done) in views.into_iter().zip(done) {
            let used = done
                .unwrap_or_else(|| Err(Error::closed()))
                .map_err(Raise)?;
            list.append(result.finish(python, used)?)?;
        }
        Ok(list)
    }

    /// Runs `f` on the running hash; the lock is never held while the GIL is waited for.
    fn hashing<T: Send>(
        &self,
        python: Python<'_>,
        f: impl FnOnce(&mut Hasher) -> cryptofd_core::Result<T> + Send,
    ) -> PyResult<T> {
        let session = self.local()?;
        python
            .detach(|| {
                let mut running = lock(&self.running);
                if running.is_none() {
                    *running = Some(session.hasher()?);
                }
                match running.as_mut() {
                    Some(hasher) => f(hasher),
                    None => Err(Error::closed()),
                }
            })
            .map_err(raise)
    }

    /// The digest of what was taken so far.
    fn peek(&self, python: Python<'_>, length: Option<usize>) -> PyResult<Vec<u8>> {
        let facts = self.facts()?;
        let xof = facts.algorithm.kind == Kind::Xof;
        let size = length.unwrap_or(facts.digest_size);
        if size != facts.digest_size && !xof {
            return Err(raise(Error::invalid(format!(
                "digest({size}): {} gives {} bytes; only shake128 and shake256 give any number",
                facts.algorithm.name, facts.digest_size
            ))));
        }
        let mut record = Record::new(Op::Peek);
        record.params.length = xof.then_some(size as u64);
        if let Some(digest) = self.run(python, &record, false)? {
            return Ok(digest);
        }
        let mut out = Vec::new();
        if out.try_reserve_exact(size).is_err() {
            return Err(PyMemoryError::new_err("more bytes than fit in memory"));
        }
        out.resize(size, 0);
        self.hashing(python, |hasher| hasher.peek(&mut out))?;
        Ok(out)
    }
}

/// Bytes that the answer may take.
fn room(session: &Session, direction: Direction, length: usize) -> PyResult<usize> {
    match (session.algorithm().kind, direction) {
        (Kind::Aead, Direction::Encrypt) => Ok(length + session.tag_size()),
        (Kind::Aead, Direction::Decrypt) => {
            length.checked_sub(session.tag_size()).ok_or_else(|| {
                PyErr::from(Raise(Error::invalid(format!(
                    "{length} bytes: shorter than the tag of {} bytes",
                    session.tag_size()
                ))))
            })
        }
        _ => Ok(session.cipher_room(direction, length)),
    }
}

fn transform(
    session: &Session,
    direction: Direction,
    iv: &[u8],
    aad: Input<'_>,
    data: Input<'_>,
    out: Output<'_>,
) -> cryptofd_core::Result<usize> {
    match (session.algorithm().kind, direction) {
        (Kind::Aead, Direction::Encrypt) => session.seal(iv, aad, data, out).map(|()| out.len()),
        (Kind::Aead, Direction::Decrypt) => session.unseal(iv, aad, data, out).map(|()| out.len()),
        (Kind::Cipher, _) if !aad.is_empty() => Err(Error::invalid(format!(
            "{} authenticates nothing, so it takes no aad",
            session.algorithm().name
        ))),
        _ => session.crypt(direction, iv, data, out),
    }
}

#[pymethods]
impl CryptoFD {
    /// An AEAD's message with a random IV of its own: version ‖ iv ‖ ciphertext ‖ tag. On a key of the
    /// broker's a worker chooses the IV, and the version is the key's.
    #[pyo3(signature = (data, aad=None))]
    fn seal<'py>(
        &self,
        python: Python<'py>,
        data: &Bound<'py, PyAny>,
        aad: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.boxed(python, Op::Seal, data, aad)
    }

    /// The message of what seal() made, by this version of the key or an older one.
    #[pyo3(signature = (data, aad=None))]
    fn unseal<'py>(
        &self,
        python: Python<'py>,
        data: &Bound<'py, PyAny>,
        aad: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.boxed(python, Op::Unseal, data, aad)
    }

    /// Encrypts a whole message; an AEAD's result ends with the tag.
    /// RSA: hash, scheme, label.
    #[pyo3(signature = (data, iv=None, aad=None, *, hash=None, scheme=None, label=None))]
    #[allow(clippy::too_many_arguments)]
    fn encrypt<'py>(
        &self,
        python: Python<'py>,
        data: &Bound<'py, PyAny>,
        iv: Option<&Bound<'py, PyAny>>,
        aad: Option<&Bound<'py, PyAny>>,
        hash: Option<&str>,
        scheme: Option<&str>,
        label: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let label = copy(label)?;
        let options = Options {
            hash,
            scheme,
            label: label.as_deref(),
            ..Options::default()
        };
        self.both(python, Direction::Encrypt, data, iv, aad, &options)
    }

    /// Decrypts a whole message; BadTag (EBADMSG) if its tag does not verify.
    /// RSA: hash, scheme, label.
    #[pyo3(signature = (data, iv=None, aad=None, *, hash=None, scheme=None, label=None))]
    #[allow(clippy::too_many_arguments)]
    fn decrypt<'py>(
        &self,
        python: Python<'py>,
        data: &Bound<'py, PyAny>,
        iv: Option<&Bound<'py, PyAny>>,
        aad: Option<&Bound<'py, PyAny>>,
        hash: Option<&str>,
        scheme: Option<&str>,
        label: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let label = copy(label)?;
        let options = Options {
            hash,
            scheme,
            label: label.as_deref(),
            ..Options::default()
        };
        self.both(python, Direction::Decrypt, data, iv, aad, &options)
    }

    /// Encrypts into a writable buffer; returns how many of its bytes count.
    #[pyo3(signature = (out, data, iv=None, aad=None))]
    fn encrypt_into<'py>(
        &self,
        python: Python<'py>,
        out: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
        iv: Option<&Bound<'py, PyAny>>,
        aad: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<usize> {
        self.into(python, Direction::Encrypt, out, data, iv, aad)
    }

    /// Decrypts into a writable buffer, which is wiped if the tag does not verify.
    #[pyo3(signature = (out, data, iv=None, aad=None))]
    fn decrypt_into<'py>(
        &self,
        python: Python<'py>,
        out: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
        iv: Option<&Bound<'py, PyAny>>,
        aad: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<usize> {
        self.into(python, Direction::Decrypt, out, data, iv, aad)
    }

    /// Encrypts many messages, each (data, iv) or (data, iv, aad).
    fn encrypt_many<'py>(
        &self,
        python: Python<'py>,
        items: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        self.many(python, Op::Encrypt, items)
    }

    /// Decrypts many messages; the first that fails raises.
    fn decrypt_many<'py>(
        &self,
        python: Python<'py>,
        items: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        self.many(python, Op::Decrypt, items)
    }

    /// Seals many messages, each data or (data, aad), in one go.
    fn seal_many<'py>(
        &self,
        python: Python<'py>,
        items: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        self.many(python, Op::Seal, items)
    }

    /// Unseals many, each box or (box, aad); the first that fails raises.
    fn unseal_many<'py>(
        &self,
        python: Python<'py>,
        items: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        self.many(python, Op::Unseal, items)
    }

    /// seal() into a writable buffer; returns how many of its bytes count.
    #[pyo3(signature = (out, data, aad=None))]
    fn seal_into<'py>(
        &self,
        python: Python<'py>,
        out: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
        aad: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<usize> {
        self.boxed_into(python, Op::Seal, out, data, aad)
    }

    /// unseal() into a writable buffer; returns how many of its bytes count.
    #[pyo3(signature = (out, data, aad=None))]
    fn unseal_into<'py>(
        &self,
        python: Python<'py>,
        out: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
        aad: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<usize> {
        self.boxed_into(python, Op::Unseal, out, data, aad)
    }

    /// A memoryview of `size` bytes, zeroed and writable. A brokered session's lies in memory that it shares with its
    /// worker: data there, and results that go there (seal_into, encrypt_into …), are not copied on this
    /// side. Whoever has it may not use it in a forked child. ENOBUFS where the policy leaves no room.
    fn buffer<'py>(&self, python: Python<'py>, size: usize) -> PyResult<Bound<'py, PyMemoryView>> {
        let memory = match self.backing() {
            Backing::Remote(remote) if remote.client.ring().is_some() => {
                let buffer = python
                    .detach(|| remote.client.buffer(size))
                    .map_err(Raise)?;
                Bound::new(python, Buffer::new(buffer))?.into_any()
            }
            Backing::Closed => return Err(raise(Error::closed())),
            // Nothing to share with anybody.
            _ => python
                .import("builtins")?
                .getattr("bytearray")?
                .call1((size,))?,
        };
        PyMemoryView::from(&memory)
    }

    /// A cipher's message in pieces: `direction` is "encrypt" or "decrypt".
    #[pyo3(signature = (direction, iv=None))]
    fn stream(
        &self,
        python: Python<'_>,
        direction: &str,
        iv: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Stream> {
        let direction = match direction {
            "encrypt" => Direction::Encrypt,
            "decrypt" => Direction::Decrypt,
            other => {
                return Err(raise(Error::invalid(format!(
                    "stream({other:?}): \"encrypt\" or \"decrypt\""
                ))));
            }
        };
        let nonce = Nonce::read(iv)?;
        match self.backing() {
            Backing::Local(session) => {
                let stream = session.stream(direction, nonce.get()).map_err(Raise)?;
                Ok(Stream::new(stream))
            }
            Backing::Remote(remote) => {
                // A descriptor of its own, so that the stream and other calls do not meet.
                let client = remote::clone(python, &remote.client)?;
                let mut record = Record::new(Op::StreamBegin);
                record.iv = nonce.get();
                record.params.direction = Some(direction);
                remote::call(python, &client, &record)?;
                Ok(Stream::remote(client))
            }
            Backing::Closed => Err(raise(Error::closed())),
        }
    }

    /// Wraps a key (RFC 3394, RFC 5649).
    fn wrap<'py>(
        &self,
        python: Python<'py>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let key = Zeroizing::new(View::read(key)?.to_vec());
        let wrapped = match self.call(python, &Record::with(Op::Wrap, &*key))? {
            Some(wrapped) => wrapped,
            None => self.local()?.wrap(&key).map_err(Raise)?,
        };
        Ok(PyBytes::new(python, &wrapped))
    }

    /// Unwraps a key; BadTag if it was not wrapped with this one.
    fn unwrap<'py>(
        &self,
        python: Python<'py>,
        wrapped: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let wrapped = View::read(wrapped)?.to_vec();
        if let Some(key) = self.call(python, &Record::with(Op::Unwrap, &wrapped))? {
            return Ok(PyBytes::new(python, &Zeroizing::new(key)));
        }
        let key = self.local()?.unwrap(&wrapped).map_err(Raise)?;
        Ok(PyBytes::new(python, key.expose()))
    }

    /// Derives `length` bytes. hkdf: salt, info; pbkdf2: salt, iterations; scrypt: salt, n, r, p;
    /// kdf108-ctr: info, the fixed input.
    #[pyo3(signature = (length, *, salt=None, info=None, iterations=None, n=None, r=None, p=None))]
    #[allow(clippy::too_many_arguments)]
    fn derive<'py>(
        &self,
        python: Python<'py>,
        length: usize,
        salt: Option<&Bound<'py, PyAny>>,
        info: Option<&Bound<'py, PyAny>>,
        iterations: Option<u32>,
        n: Option<u64>,
        r: Option<u32>,
        p: Option<u32>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let algorithm = self.facts()?.algorithm;
        // Before so much memory is asked for.
        if algorithm.kind == Kind::Kdf && length as u64 > algorithm.max_message {
            return Err(raise(Error::too_large(format!(
                "{length} bytes: {} derives at most {}",
                algorithm.name, algorithm.max_message
            ))));
        }
        let (salt, info) = (copy(salt)?, copy(info)?);
        let mut record = Record::new(Op::Derive);
        record.params = Params {
            length: Some(length as u64),
            salt: salt.as_deref(),
            info: info.as_deref(),
            iterations,
            n,
            r,
            p,
            ..Params::default()
        };
        if let Some(derived) = self.call(python, &record)? {
            return Ok(PyBytes::new(python, &Zeroizing::new(derived)));
        }
        let session = self.local()?;
        let with = record.params.derivation();
        PyBytes::new_with(python, length, |out| {
            python.detach(|| session.derive(&with, out)).map_err(raise)
        })
    }

    /// `size` random bytes.
    fn read<'py>(&self, python: Python<'py>, size: usize) -> PyResult<Bound<'py, PyBytes>> {
        let mut record = Record::new(Op::Random);
        record.params.length = Some(size as u64);
        if let Some(bytes) = self.call(python, &record)? {
            return Ok(PyBytes::new(python, &Zeroizing::new(bytes)));
        }
        let session = self.local()?;
        PyBytes::new_with(python, size, |out| {
            python.detach(|| session.random(out)).map_err(raise)
        })
    }

    /// Hash, MAC: takes more data.
    fn update(&self, python: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = View::read(data)?;
        let input = data.input();
        match self.run(python, &Record::with(Op::Update, input), true)? {
            Some(_) => Ok(()),
            None => self.hashing(python, |hasher| hasher.update(input)),
        }
    }

    /// A hash on a key of the broker's (usage digest): takes in the key, as update() takes bytes.
    fn update_key(&self, python: Python<'_>) -> PyResult<()> {
        match self.run(python, &Record::new(Op::HashKey), true)? {
            Some(_) => Ok(()),
            None => Err(Raise(Error::unsupported(
                "update_key() is for a hash on a key of the broker's, which is opened with key=",
            ))
            .into()),
        }
    }

    /// Hash, MAC: the digest of what was taken so far; more may be taken afterwards. `length` for shake.
    #[pyo3(signature = (length=None))]
    fn digest<'py>(
        &self,
        python: Python<'py>,
        length: Option<usize>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(python, &self.peek(python, length)?))
    }

    /// The digest in hexadecimal.
    #[pyo3(signature = (length=None))]
    fn hexdigest(&self, python: Python<'_>, length: Option<usize>) -> PyResult<String> {
        Ok(hex(&self.peek(python, length)?))
    }

    /// The signature of `data`. `hash`: a name of the table, by default what suits the key. RSA: `scheme`
    /// pkcs1 (the default) or pss with `salt_length` bytes (as many as the hash has). ECDSA: `format` der
    /// (the default) or raw, r and s one after the other. Ed25519 and ML-DSA take none of these.
    #[pyo3(signature = (data, *, hash=None, scheme=None, salt_length=None, format=None))]
    #[allow(clippy::too_many_arguments)]
    fn sign<'py>(
        &self,
        python: Python<'py>,
        data: &Bound<'py, PyAny>,
        hash: Option<&str>,
        scheme: Option<&str>,
        salt_length: Option<u32>,
        format: Option<&str>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let options = signing(hash, scheme, salt_length, format);
        self.signature(python, false, data, &options)
    }

    /// The signature of a digest that the caller computed; otherwise as sign(). With hash="none" it goes
    /// under ECDSA, or under pkcs1, as it is.
    #[pyo3(signature = (digest, *, hash=None, scheme=None, salt_length=None, format=None))]
    #[allow(clippy::too_many_arguments)]
    fn sign_digest<'py>(
        &self,
        python: Python<'py>,
        digest: &Bound<'py, PyAny>,
        hash: Option<&str>,
        scheme: Option<&str>,
        salt_length: Option<u32>,
        format: Option<&str>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let options = signing(hash, scheme, salt_length, format);
        self.signature(python, true, digest, &options)
    }

    /// Raises BadSignature (EKEYREJECTED) unless `signature` is that of a digest that the caller computed.
    #[pyo3(signature = (signature, digest, *, hash=None, scheme=None, salt_length=None, format=None))]
    #[allow(clippy::too_many_arguments)]
    fn verify_digest(
        &self,
        python: Python<'_>,
        signature: &Bound<'_, PyAny>,
        digest: &Bound<'_, PyAny>,
        hash: Option<&str>,
        scheme: Option<&str>,
        salt_length: Option<u32>,
        format: Option<&str>,
    ) -> PyResult<()> {
        let options = signing(hash, scheme, salt_length, format);
        self.check_signature(python, true, signature, digest, &options)
    }

    /// The public key of a pair: a SubjectPublicKeyInfo in DER.
    fn public_key<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(python, &self.public(python)?))
    }

    /// ECDH, X25519: the secret shared with the holder of `peer`, a public key as public_key() gives it. Not
    /// a key yet: derive one from it (hkdf).
    fn agree<'py>(
        &self,
        python: Python<'py>,
        peer: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.agreed(python, peer)
    }

    /// ML-KEM: a ciphertext for the holder of the private key, and the secret in it.
    fn encapsulate<'py>(
        &self,
        python: Python<'py>,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        self.encapsulated(python)
    }

    /// ML-KEM: the secret in a ciphertext; in a forged one, another secret.
    fn decapsulate<'py>(
        &self,
        python: Python<'py>,
        ciphertext: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.decapsulated(python, ciphertext)
    }

    /// MAC: raises BadTag unless `tag` is that of what was taken so far; compares in constant time. A pair:
    /// raises BadSignature (EKEYREJECTED) unless `tag` is a signature of `data`, made as sign() says.
    #[pyo3(signature = (tag, data=None, *, hash=None, scheme=None, salt_length=None, format=None))]
    #[allow(clippy::too_many_arguments)]
    fn verify(
        &self,
        python: Python<'_>,
        tag: &Bound<'_, PyAny>,
        data: Option<&Bound<'_, PyAny>>,
        hash: Option<&str>,
        scheme: Option<&str>,
        salt_length: Option<u32>,
        format: Option<&str>,
    ) -> PyResult<()> {
        let options = signing(hash, scheme, salt_length, format);
        if self.is_pair(data.is_some())? {
            let data = data.unwrap_or(tag);
            return self.check_signature(python, false, tag, data, &options);
        }
        options.none(self.facts()?.algorithm).map_err(Raise)?;
        let algorithm = self.facts()?.algorithm;
        if algorithm.kind != Kind::Mac {
            return Err(raise(Error::unsupported(format!(
                "{} is no MAC: there is no tag to verify",
                algorithm.name
            ))));
        }
        let tag = View::read(tag)?.to_vec();
        // What authenticates one message is not cloned once it has its tag, which is asked for again below.
        let far = match self.backing() {
            Backing::Remote(remote) if !algorithm.one_message() => Some(remote),
            _ => None,
        };
        if let Some(remote) = far {
            if tag.len() != remote.facts.digest_size {
                return Err(raise(Error::bad_tag()));
            }
            // Compared there: a key may verify and not sign. On a clone, for it ends the state.
            let copy = remote::clone(python, &remote.client)?;
            let record = Record {
                flags: FLAG_RUNNING,
                params: Params {
                    tag: Some(&tag),
                    ..Params::default()
                },
                ..Record::new(Op::Verify)
            };
            return remote::call(python, &copy, &record).map(|_| ());
        }
        let own = Zeroizing::new(self.peek(python, None)?);
        if equal(&own, &tag) {
            Ok(())
        } else {
            Err(raise(Error::bad_tag()))
        }
    }

    /// Hash, MAC: back to the beginning.
    fn reset(&self, python: Python<'_>) -> PyResult<()> {
        match self.call(python, &Record::new(Op::Reset))? {
            Some(_) => {
                if let Backing::Remote(remote) = self.backing() {
                    remote.idle.store(true, Ordering::Relaxed);
                }
                Ok(())
            }
            None => self.hashing(python, Hasher::reset),
        }
    }

    /// An independent session with the same key; a hash or MAC takes its state along.
    fn copy(&self, python: Python<'_>) -> PyResult<CryptoFD> {
        match self.backing() {
            Backing::Local(session) => {
                let running = python
                    .detach(|| lock(&self.running).as_ref().map(Hasher::fork).transpose())
                    .map_err(Raise)?;
                Ok(CryptoFD {
                    nonblock: self.nonblock,
                    ..CryptoFD::new(Backing::Local(session), running)
                })
            }
            Backing::Remote(remote) => {
                let idle = remote.idle.load(Ordering::Relaxed);
                let client = remote::clone(python, &remote.client)?;
                let copy = Remote::new(client, remote.facts, idle);
                Ok(CryptoFD::new(Backing::Remote(Arc::new(copy)), None))
            }
            Backing::Closed => Err(raise(Error::closed())),
        }
    }

    /// The same as copy(): a fresh session, and descriptor, with the same grant.
    fn clone(&self, python: Python<'_>) -> PyResult<CryptoFD> {
        self.copy(python)
    }

    /// The descriptor: poll it, pass it on (SCM_RIGHTS, inheritance), adopt() it elsewhere. Served by a
    /// thread of this process; close-on-exec. A running hash's or MAC's state goes along as it is now.
    fn fileno(&self, python: Python<'_>) -> PyResult<i32> {
        self.with_client(python, |client| Ok(client.as_fd().as_raw_fd()))
    }

    /// Sends a request on the descriptor and returns its id; the answer comes by complete().
    ///
    /// `op`: encrypt, decrypt, digest, verify, wrap, unwrap, derive, random, update, finish, reset, peek,
    /// sign, sign_digest, verify_signature and verify_digest (with tag), public_key, agree, encapsulate,
    /// decapsulate, info, cancel (with target). NotReady (EAGAIN) if the descriptor is non-blocking and takes no
    /// request now.
    #[pyo3(signature = (op, data=None, iv=None, aad=None, *, length=None, tag=None, salt=None,
                        info=None, iterations=None, n=None, r=None, p=None, target=None, hash=None,
                        scheme=None, salt_length=None, label=None, format=None))]
    #[allow(clippy::too_many_arguments)]
    fn submit(
        &self,
        python: Python<'_>,
        op: &str,
        data: Option<&Bound<'_, PyAny>>,
        iv: Option<&Bound<'_, PyAny>>,
        aad: Option<&Bound<'_, PyAny>>,
        length: Option<u64>,
        tag: Option<&Bound<'_, PyAny>>,
        salt: Option<&Bound<'_, PyAny>>,
        info: Option<&Bound<'_, PyAny>>,
        iterations: Option<u32>,
        n: Option<u64>,
        r: Option<u32>,
        p: Option<u32>,
        target: Option<u64>,
        hash: Option<&str>,
        scheme: Option<&str>,
        salt_length: Option<u32>,
        label: Option<&Bound<'_, PyAny>>,
        format: Option<&str>,
    ) -> PyResult<u64> {
        // What would bring a descriptor, or a stream's state, has calls of its own.
        let known = Op::from_name(op).filter(|op| {
            !matches!(
                op,
                Op::Clone | Op::Ring | Op::StreamBegin | Op::StreamUpdate | Op::StreamFinish
            )
        });
        let Some(op) = known else {
            return Err(raise(Error::invalid(format!(
                "submit({op:?}): encrypt, decrypt, digest, verify, wrap, unwrap, derive, random, \
                 update, finish, reset, peek, sign, sign_digest, verify_signature, verify_digest, \
                 public_key, agree, encapsulate, decapsulate, info or cancel"
            ))));
        };
        let nonce = Nonce::read(iv)?;
        let running = op == Op::Verify && data.is_none();
        let (data, aad) = (optional(data)?, optional(aad)?);
        let (tag, salt, info) = (copy(tag)?, copy(salt)?, copy(info)?);
        let label = copy(label)?;
        let record = Record {
            op,
            flags: if running { FLAG_RUNNING } else { 0 },
            iv: nonce.get(),
            aad: input(&aad),
            data: input(&data),
            params: Params {
                length,
                tag: tag.as_deref(),
                salt: salt.as_deref(),
                info: info.as_deref(),
                iterations,
                n,
                r,
                p,
                target,
                hash,
                scheme,
                salt_length,
                label: label.as_deref(),
                format,
                ..Params::default()
            },
        };
        if let (Op::Update | Op::HashKey, Backing::Remote(remote)) = (op, self.backing()) {
            remote.idle.store(false, Ordering::Relaxed);
        }
        self.with_client(python, |client| remote::submit(python, client, &record))
    }

    /// The next answer, in the order of the requests. NotReady (a BlockingIOError) when none waits and
    /// the descriptor is non-blocking, or when nothing is outstanding.
    fn complete(&self, python: Python<'_>) -> PyResult<Completion> {
        let completion = self.with_client(python, |client| remote::complete(python, client))?;
        let id = completion.id;
        let result = completion
            .result()
            .map(|data| PyBytes::new(python, &Zeroizing::new(data)).unbind());
        Ok(Completion { id, result })
    }

    /// How many requests were submitted and not completed.
    #[getter]
    fn outstanding(&self) -> usize {
        match self.backing() {
            Backing::Remote(remote) => remote.client.outstanding(),
            _ => lock(&self.descriptor)
                .as_ref()
                .map_or(0, |client| client.outstanding()),
        }
    }

    /// The algorithm's name.
    #[getter]
    fn algorithm(&self) -> PyResult<&'static str> {
        Ok(self.facts()?.algorithm.name)
    }

    /// The algorithm's name, as hashlib calls this.
    #[getter]
    fn name(&self) -> PyResult<&'static str> {
        self.algorithm()
    }

    /// Bytes of a digest or tag.
    #[getter]
    fn digest_size(&self) -> PyResult<usize> {
        Ok(self.facts()?.digest_size)
    }

    /// Bytes of a block.
    #[getter]
    fn block_size(&self) -> PyResult<usize> {
        Ok(self.facts()?.algorithm.block)
    }

    /// Bytes of an AEAD's or MAC's tag.
    #[getter]
    fn tag_size(&self) -> PyResult<usize> {
        Ok(self.facts()?.tag_size)
    }

    /// Engine, driver, hardware or software, why not the others, limits and counts.
    fn info<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let text = match self.call(python, &Record::new(Op::Info))? {
            Some(text) => String::from_utf8_lossy(&text).into_owned(),
            None => {
                let session = self.local()?;
                python.detach(|| session.info().json(serve::limits()).to_string())
            }
        };
        let text = match self.backing() {
            Backing::Remote(remote) => remote::with_ring(&remote, text),
            _ => text,
        };
        python
            .import("cryptofd.description")?
            .getattr("Info")?
            .call_method1("from_json", (text,))
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self) -> bool {
        matches!(self.backing(), Backing::Closed)
    }

    /// Ends the session here; the key is wiped when its last descriptor and user are gone.
    fn close(&self) {
        self.backing.store(Arc::new(Backing::Closed));
        lock(&self.running).take();
        lock(&self.descriptor).take();
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_details))]
    fn __exit__(&self, _details: &Bound<'_, PyTuple>) {
        self.close();
    }

    fn __repr__(&self) -> String {
        match self.backing() {
            Backing::Local(session) => {
                let info = session.info();
                format!(
                    "<cryptofd {} by {}/{}>",
                    info.algorithm.name, info.engine, info.driver
                )
            }
            Backing::Remote(remote) => format!(
                "<cryptofd {} on descriptor {}>",
                remote.facts.algorithm.name,
                remote.client.as_fd().as_raw_fd()
            ),
            Backing::Closed => "<cryptofd closed>".to_owned(),
        }
    }
}

/// Bytes that SEAL or UNSEAL makes of `length`.
fn box_room(facts: &Facts, op: Op, length: usize) -> usize {
    let more = 1 + 12 + facts.tag_size;
    match op {
        Op::Seal => length + more,
        _ => length.saturating_sub(more),
    }
}

/// One item of a batch: data, (data, aad), or (data, iv, aad).
struct Parts<'py> {
    data: Bound<'py, PyAny>,
    iv: Option<Bound<'py, PyAny>>,
    aad: Option<Bound<'py, PyAny>>,
}

impl<'py> Parts<'py> {
    fn read(item: &Bound<'py, PyAny>, with_iv: bool) -> PyResult<Parts<'py>> {
        let most = if with_iv { 3 } else { 2 };
        if !with_iv && !item.is_instance_of::<PyTuple>() {
            return Ok(Parts {
                data: item.clone(),
                iv: None,
                aad: None,
            });
        }
        let tuple = item.cast::<PyTuple>()?;
        if tuple.is_empty() || tuple.len() > most {
            return Err(PyValueError::new_err(if with_iv {
                "items are (data, iv) or (data, iv, aad)"
            } else {
                "items are data or (data, aad)"
            }));
        }
        let part = |n: usize| -> PyResult<Option<Bound<'py, PyAny>>> {
            if n < tuple.len() {
                Ok(Some(tuple.get_item(n)?).filter(|object| !object.is_none()))
            } else {
                Ok(None)
            }
        };
        Ok(Parts {
            data: tuple.get_item(0)?,
            iv: if with_iv { part(1)? } else { None },
            aad: part(if with_iv { 2 } else { 1 })?,
        })
    }
}

/// What a call says of a signature.
fn signing<'a>(
    hash: Option<&'a str>,
    scheme: Option<&'a str>,
    salt_length: Option<u32>,
    format: Option<&'a str>,
) -> Options<'a> {
    Options {
        hash,
        scheme,
        salt_length,
        format,
        label: None,
    }
}

/// A private copy of an optional buffer.
fn copy(object: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Vec<u8>>> {
    Ok(optional(object)?.map(|view| view.to_vec()))
}
