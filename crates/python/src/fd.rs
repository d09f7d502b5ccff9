//! `CryptoFD`: one algorithm, one key, one engine; the whole everyday API.

use crate::errors::Raise;
use crate::ffi::{View, new_bytes};
use crate::hash::LONG;
use crate::stream::Stream;
use cryptofd_core::engine::{Blake2, Derivation, Direction, Hardware, Key};
use cryptofd_core::error::Error;
use cryptofd_core::secret::{Secret, equal};
use cryptofd_core::session::{Hasher, Request, Session};
use cryptofd_core::sys::buffer::{Input, Output};
use cryptofd_core::table::Kind;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use std::sync::{Arc, Mutex, RwLock};
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
                "key: bytes or a KeyringKey; text is never a key",
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
    let request = settings(algorithm, key, options)?;
    let session = python.detach(|| Session::open(request)).map_err(Raise)?;
    Ok(CryptoFD {
        state: RwLock::new(Some(session)),
        running: Mutex::new(None),
    })
}

/// A session that a program holds.
#[pyclass(frozen, module = "cryptofd")]
pub struct CryptoFD {
    state: RwLock<Option<Arc<Session>>>,
    running: Mutex<Option<Hasher>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
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

impl CryptoFD {
    fn session(&self) -> Result<Arc<Session>, Raise> {
        let state = self.state.read().unwrap_or_else(|e| e.into_inner());
        state.clone().ok_or_else(|| Raise(Error::closed()))
    }

    fn both<'py>(
        &self,
        python: Python<'py>,
        direction: Direction,
        data: &Bound<'py, PyAny>,
        iv: Option<&Bound<'py, PyAny>>,
        aad: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let session = self.session()?;
        let data = View::read(data)?;
        let nonce = Nonce::read(iv)?;
        let aad = optional(aad)?;
        let (from, with) = (data.input(), input(&aad));
        let long = from.len() > LONG || with.len() > LONG;
        new_bytes(python, room(&session, direction, from.len())?, |out| {
            let work = || transform(&session, direction, nonce.get(), with, from, out);
            if long { python.detach(work) } else { work() }.map_err(Raise)
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn into<'py>(
        &self,
        python: Python<'py>,
        direction: Direction,
        out: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
        iv: Option<&Bound<'py, PyAny>>,
        aad: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<usize> {
        let session = self.session()?;
        let target = View::write(out)?;
        let data = View::read(data)?;
        let nonce = Nonce::read(iv)?;
        let aad = optional(aad)?;
        let (from, with) = (data.input(), input(&aad));
        let room = room(&session, direction, from.len())?;
        if target.len() < room {
            return Err(PyErr::from(Raise(Error::too_large(format!(
                "out has {} bytes where {room} are needed",
                target.len()
            )))));
        }
        let out = target.output().split_at(room).0;
        python
            .detach(|| transform(&session, direction, nonce.get(), with, from, out))
            .map_err(|error| Raise(error).into())
    }

    fn many<'py>(
        &self,
        python: Python<'py>,
        direction: Direction,
        items: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(python);
        for item in items.try_iter()? {
            let item = item?;
            let item = item.cast::<PyTuple>()?;
            if item.is_empty() || item.len() > 3 {
                return Err(PyValueError::new_err(
                    "items are (data, iv) or (data, iv, aad)",
                ));
            }
            let part = |n: usize| -> PyResult<Option<Bound<'py, PyAny>>> {
                if n < item.len() {
                    Ok(Some(item.get_item(n)?).filter(|object| !object.is_none()))
                } else {
                    Ok(None)
                }
            };
            let (iv, aad) = (part(1)?, part(2)?);
            let data = item.get_item(0)?;
            list.append(self.both(python, direction, &data, iv.as_ref(), aad.as_ref())?)?;
        }
        Ok(list)
    }

    /// Runs `f` on the running hash; the lock is never held while the GIL is waited for.
    fn hashing<T: Send>(
        &self,
        python: Python<'_>,
        f: impl FnOnce(&mut Hasher) -> cryptofd_core::Result<T> + Send,
    ) -> PyResult<T> {
        let session = self.session()?;
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
            .map_err(|error| Raise(error).into())
    }

    fn digest_length(&self, length: Option<usize>) -> PyResult<usize> {
        let session = self.session()?;
        match (session.algorithm().kind, length) {
            (Kind::Xof, Some(length)) => Ok(length),
            (_, None) => Ok(session.digest_size()),
            (_, Some(length)) if length == session.digest_size() => Ok(length),
            (_, Some(length)) => Err(PyErr::from(Raise(Error::invalid(format!(
                "digest({length}): {} gives {} bytes; only shake128 and shake256 give any number",
                session.algorithm().name,
                session.digest_size()
            ))))),
        }
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
    /// Encrypts a whole message; an AEAD's result ends with the tag.
    #[pyo3(signature = (data, iv=None, aad=None))]
    fn encrypt<'py>(
        &self,
        python: Python<'py>,
        data: &Bound<'py, PyAny>,
        iv: Option<&Bound<'py, PyAny>>,
        aad: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.both(python, Direction::Encrypt, data, iv, aad)
    }

    /// Decrypts a whole message; BadTag (EBADMSG) if its tag does not verify.
    #[pyo3(signature = (data, iv=None, aad=None))]
    fn decrypt<'py>(
        &self,
        python: Python<'py>,
        data: &Bound<'py, PyAny>,
        iv: Option<&Bound<'py, PyAny>>,
        aad: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.both(python, Direction::Decrypt, data, iv, aad)
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
        self.many(python, Direction::Encrypt, items)
    }

    /// Decrypts many messages; the first that fails raises.
    fn decrypt_many<'py>(
        &self,
        python: Python<'py>,
        items: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        self.many(python, Direction::Decrypt, items)
    }

    /// A cipher's message in pieces: `direction` is "encrypt" or "decrypt".
    #[pyo3(signature = (direction, iv=None))]
    fn stream(&self, direction: &str, iv: Option<&Bound<'_, PyAny>>) -> PyResult<Stream> {
        let direction = match direction {
            "encrypt" => Direction::Encrypt,
            "decrypt" => Direction::Decrypt,
            other => {
                return Err(PyValueError::new_err(format!(
                    "stream({other:?}): \"encrypt\" or \"decrypt\""
                )));
            }
        };
        let nonce = Nonce::read(iv)?;
        let stream = self
            .session()?
            .stream(direction, nonce.get())
            .map_err(Raise)?;
        Ok(Stream::new(stream))
    }

    /// Wraps a key (RFC 3394, RFC 5649).
    fn wrap<'py>(
        &self,
        python: Python<'py>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let key = Zeroizing::new(View::read(key)?.to_vec());
        let wrapped = self.session()?.wrap(&key).map_err(Raise)?;
        Ok(PyBytes::new(python, &wrapped))
    }

    /// Unwraps a key; BadTag if it was not wrapped with this one.
    fn unwrap<'py>(
        &self,
        python: Python<'py>,
        wrapped: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let wrapped = View::read(wrapped)?.to_vec();
        let key = self.session()?.unwrap(&wrapped).map_err(Raise)?;
        Ok(PyBytes::new(python, key.expose()))
    }

    /// Derives `length` bytes. hkdf: salt, info; pbkdf2: salt, iterations; scrypt: salt, n, r, p;
    /// kdf108-ctr: info, the fixed input.
    #[pyo3(signature = (length, *, salt=None, info=None, iterations=0, n=0, r=0, p=0))]
    #[allow(clippy::too_many_arguments)]
    fn derive<'py>(
        &self,
        python: Python<'py>,
        length: usize,
        salt: Option<&Bound<'py, PyAny>>,
        info: Option<&Bound<'py, PyAny>>,
        iterations: u32,
        n: u64,
        r: u32,
        p: u32,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let session = self.session()?;
        if session.algorithm().kind == Kind::Kdf && length as u64 > session.algorithm().max_message
        {
            return Err(PyErr::from(Raise(Error::too_large(format!(
                "{length} bytes: {} derives at most {}",
                session.algorithm().name,
                session.algorithm().max_message
            )))));
        }
        let salt = optional(salt)?.map_or(Vec::new(), |view| view.to_vec());
        let info = optional(info)?.map_or(Vec::new(), |view| view.to_vec());
        PyBytes::new_with(python, length, |out| {
            let with = Derivation {
                salt: &salt,
                info: &info,
                iterations,
                n,
                r,
                p,
            };
            python
                .detach(|| session.derive(&with, out))
                .map_err(|error| Raise(error).into())
        })
    }

    /// `size` random bytes.
    fn read<'py>(&self, python: Python<'py>, size: usize) -> PyResult<Bound<'py, PyBytes>> {
        let session = self.session()?;
        PyBytes::new_with(python, size, |out| {
            python
                .detach(|| session.random(out))
                .map_err(|error| Raise(error).into())
        })
    }

    /// Hash, MAC: takes more data.
    fn update(&self, python: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = View::read(data)?;
        let input = data.input();
        self.hashing(python, |hasher| hasher.update(input))
    }

    /// Hash, MAC: the digest of what was taken so far; more may be taken afterwards. `length` for shake.
    #[pyo3(signature = (length=None))]
    fn digest<'py>(
        &self,
        python: Python<'py>,
        length: Option<usize>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let length = self.digest_length(length)?;
        PyBytes::new_with(python, length, |out| {
            self.hashing(python, |hasher| hasher.peek(out))
        })
    }

    /// The digest in hexadecimal.
    #[pyo3(signature = (length=None))]
    fn hexdigest(&self, python: Python<'_>, length: Option<usize>) -> PyResult<String> {
        let mut out = vec![0; self.digest_length(length)?];
        self.hashing(python, |hasher| hasher.peek(&mut out))?;
        Ok(hex(&out))
    }

    /// MAC: raises BadTag unless `tag` is that of what was taken so far; compares in constant time.
    fn verify(&self, python: Python<'_>, tag: &Bound<'_, PyAny>) -> PyResult<()> {
        let session = self.session()?;
        if session.algorithm().kind != Kind::Mac {
            return Err(PyErr::from(Raise(Error::unsupported(format!(
                "{} is no MAC: there is no tag to verify",
                session.algorithm().name
            )))));
        }
        let tag = View::read(tag)?.to_vec();
        let mut own = Zeroizing::new(vec![0; session.digest_size()]);
        self.hashing(python, |hasher| hasher.peek(&mut own))?;
        if equal(&own, &tag) {
            Ok(())
        } else {
            Err(PyErr::from(Raise(Error::bad_tag())))
        }
    }

    /// Hash, MAC: back to the beginning.
    fn reset(&self, python: Python<'_>) -> PyResult<()> {
        self.hashing(python, Hasher::reset)
    }

    /// An independent session with the same key; a hash or MAC takes its state along.
    fn copy(&self, python: Python<'_>) -> PyResult<CryptoFD> {
        let session = self.session()?;
        let running = python
            .detach(|| lock(&self.running).as_ref().map(Hasher::fork).transpose())
            .map_err(Raise)?;
        Ok(CryptoFD {
            state: RwLock::new(Some(session)),
            running: Mutex::new(running),
        })
    }

    /// The algorithm's name.
    #[getter]
    fn algorithm(&self) -> PyResult<&'static str> {
        Ok(self.session()?.algorithm().name)
    }

    /// The algorithm's name, as hashlib calls this.
    #[getter]
    fn name(&self) -> PyResult<&'static str> {
        self.algorithm()
    }

    /// Bytes of a digest or tag.
    #[getter]
    fn digest_size(&self) -> PyResult<usize> {
        Ok(self.session()?.digest_size())
    }

    /// Bytes of a block.
    #[getter]
    fn block_size(&self) -> PyResult<usize> {
        Ok(self.session()?.algorithm().block)
    }

    /// Bytes of an AEAD's or MAC's tag.
    #[getter]
    fn tag_size(&self) -> PyResult<usize> {
        Ok(self.session()?.tag_size())
    }

    /// Engine, driver, hardware or software, why not the others, limits and counts.
    fn info<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let session = self.session()?;
        let text = python
            .detach(|| session.info().json(serde_json::json!({})))
            .to_string();
        python
            .import("cryptofd.description")?
            .getattr("Info")?
            .call_method1("from_json", (text,))
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self) -> bool {
        self.session().is_err()
    }

    /// Ends the session; the key is wiped when its last user is done.
    fn close(&self) {
        self.state.write().unwrap_or_else(|e| e.into_inner()).take();
        lock(&self.running).take();
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_details))]
    fn __exit__(&self, _details: &Bound<'_, PyTuple>) {
        self.close();
    }

    fn __repr__(&self) -> String {
        match self.session() {
            Ok(session) => {
                let info = session.info();
                format!(
                    "<cryptofd {} by {}/{}>",
                    info.algorithm.name, info.engine, info.driver
                )
            }
            Err(_) => "<cryptofd closed>".to_owned(),
        }
    }
}
