//! The client of the broker: Varlink over a Unix socket, blocking, the same for Python and every door.
//!
//! A call is one JSON object, ended by a zero byte, and descriptors beside it; so is its answer. Nothing of
//! an answer is believed unchecked. A program in which this runs may fork at any time: a child has a
//! connection of its own.

use crate::client::pace::{LONGEST, Least};
use crate::cpu::{cores, spin};
use crate::error::{Error, Kind, Result};
use crate::record;
use crate::sys::buffer::Input;
use crate::sys::{descriptor, fork, process, socket, stream};
use serde_json::{Value, json};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

/// The interface's name.
pub const INTERFACE: &str = "org.cryptofd.Broker";
/// Where the system's broker listens.
pub const SYSTEM: &str = "/run/cryptofd/broker";
/// The system user under which it may run.
const USER: &std::ffi::CStr = c"cryptofd";
/// Most bytes of an answer.
const ANSWER: usize = 1 << 20;
/// How long a broker that restarts is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// The call that is paced.
const OPEN: &str = "Open";

/// Where a broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket in the file system or, with a first byte of zero, an abstract one.
    Path(PathBuf),
    /// A connection that this process inherited, by its number.
    Inherited(i32),
}

impl Address {
    /// From the text of `CRYPTOFD_BROKER`: a path, `@NAME` of an abstract socket, or `fd:N`.
    pub fn parse(text: &str) -> Result<Address> {
        if let Some(name) = text.strip_prefix('@') {
            return Ok(Address::Path(format!("\0{name}").into()));
        }
        match text.strip_prefix("fd:") {
            Some(number) => number
                .parse()
                .ok()
                .filter(|number| *number >= 0)
                .map(Address::Inherited)
                .ok_or_else(|| Error::invalid(format!("{text:?}: fd: and a number"))),
            None if Path::new(text).is_absolute() => Ok(Address::Path(text.into())),
            None => Err(Error::invalid(format!(
                "{text:?}: a broker's address is an absolute path, @ and an abstract name, or fd: and a number"
            ))),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Path(path) => match path.as_os_str().to_string_lossy().strip_prefix('\0') {
                Some(name) => write!(f, "@{name}"),
                None => write!(f, "{}", path.display()),
            },
            Address::Inherited(number) => write!(f, "fd:{number}"),
        }
    }
}

/// Where a user's own broker listens as well, if it was told to: a name that needs no file system.
pub fn abstract_name(uid: u32) -> String {
    format!("@cryptofd/{uid}")
}

/// Where this user's own broker listens.
pub fn private() -> PathBuf {
    let uid = process::effective_uid();
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !process::is_privileged()) {
        Some(folder) if Path::new(&folder).is_absolute() => {
            Path::new(&folder).join("cryptofd/broker")
        }
        _ if uid == 0 => PathBuf::from("/run/cryptofd-0/broker"),
        _ => PathBuf::from(format!("/tmp/cryptofd-{uid}/broker")),
    }
}

/// Where the broker is that a program uses if it says nothing: `CRYPTOFD_BROKER_FD`, `CRYPTOFD_BROKER`, the
/// user's own if it listens, the system's; where neither has a path, their abstract names. A set-uid program knows the system's only.
pub fn address() -> Result<Address> {
    if process::is_privileged() {
        return Ok(Address::Path(SYSTEM.into()));
    }
    if let Ok(number) = std::env::var("CRYPTOFD_BROKER_FD") {
        return Address::parse(&format!("fd:{number}"));
    }
    if let Ok(text) = std::env::var("CRYPTOFD_BROKER") {
        return Address::parse(&text);
    }
    let own = private();
    if own.exists() {
        return Ok(Address::Path(own));
    }
    if !Path::new(SYSTEM).exists() {
        // In a chroot, say. Anybody may take these names: who listens is asked before a byte is sent.
        static FOUND: OnceLock<Address> = OnceLock::new();
        if let Some(found) = FOUND.get() {
            return Ok(found.clone());
        }
        let own = process::effective_uid();
        for uid in std::iter::once(own).chain((own != 0).then_some(0)) {
            let address = Address::parse(&abstract_name(uid))?;
            let Address::Path(path) = &address else {
                continue;
            };
            let found = stream::connect(path).and_then(|fd| stream::peer_uid(fd.as_fd()));
            if found.is_ok_and(|listens| listens == uid) {
                return Ok(FOUND.get_or_init(|| address).clone());
            }
        }
    }
    Ok(Address::Path(SYSTEM.into()))
}

/// An answer: its parameters, and the descriptors that its numbers mean.
pub struct Answer {
    /// The parameters.
    pub parameters: Value,
    /// The descriptors, by index.
    pub fds: Vec<OwnedFd>,
}

impl Answer {
    /// Takes the descriptor that the parameter `name` means.
    pub fn descriptor(&mut self, name: &str) -> Result<OwnedFd> {
        let index = self.parameters[name].as_u64().map(|index| index as usize);
        match index {
            Some(index) if index < self.fds.len() => Ok(self.fds.swap_remove(index)),
            _ => Err(lying("its answer lacks a descriptor")),
        }
    }
}

struct Connection {
    fd: OwnedFd,
    /// What it was when it was made (st_dev and st_ino).
    socket: Option<(u64, u64)>,
    /// The process that made it.
    generation: u64,
    /// Bytes of an answer that was not taken to its end.
    left: Vec<u8>,
    /// How long Open takes: programs ask for many sessions, one after the other.
    open: Least,
}

impl Connection {
    fn is_there(&self) -> bool {
        self.socket.is_some() && self.socket == descriptor::identity(self.fd.as_raw_fd())
    }
}

/// A broker, connected when it is first asked.
pub struct Broker {
    address: Address,
    connection: Mutex<Option<Connection>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

fn lying(why: &str) -> Error {
    Error::new(
        Kind::System,
        libc::EPROTO,
        format!("the broker sent no proper answer: {why}"),
    )
}

fn absent(address: &Address, error: &io::Error) -> Error {
    // ENOENT is what a broker says of an algorithm: nobody listens is one errno, however it comes about.
    let errno = match error.raw_os_error().unwrap_or(libc::EIO) {
        libc::ENOENT => libc::ECONNREFUSED,
        errno => errno,
    };
    let out = match errno {
        libc::ECONNREFUSED => "; `cryptofd broker` starts one",
        _ => "",
    };
    Error::new(
        Kind::System,
        errno,
        format!("no broker at {address}: {error}{out}"),
    )
}

/// What a call does when a signal came: an error ends the waiting.
pub type Interrupted<'a> = &'a mut dyn FnMut() -> Result<()>;

impl Broker {
    /// A broker at this address; nothing is sent yet.
    pub fn new(address: Address) -> Broker {
        Broker {
            address,
            connection: Mutex::new(None),
        }
    }

    /// The address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Connects, if it is not yet; the other end must be root, the service's user, or this one.
    pub fn connect(&self) -> Result<()> {
        let mut place = lock(&self.connection);
        self.connected(&mut place, Instant::now())?;
        Ok(())
    }

    /// Gives the connection away, for a program that inherits it.
    pub fn detach(&self) -> Result<OwnedFd> {
        let mut place = lock(&self.connection);
        self.connected(&mut place, Instant::now())?;
        match place.take() {
            Some(connection) => Ok(connection.fd),
            None => Err(Error::closed()),
        }
    }

    fn connected<'a>(
        &self,
        place: &'a mut Option<Connection>,
        until: Instant,
    ) -> Result<&'a mut Connection> {
        let generation = fork::generation();
        if place.as_ref().is_some_and(|c| !c.is_there()) {
            // The program closed it behind our back, and may use its number: it is not closed again.
            if let Some(gone) = place.take() {
                std::mem::forget(gone.fd);
            }
        }
        if place.as_ref().is_some_and(|c| c.generation != generation) {
            // A parent's: its bytes and ours must not mix.
            if let Address::Inherited(number) = self.address {
                return Err(Error::invalid(format!(
                    "descriptor {number} is the parent's connection to its broker: give each process its own"
                )));
            }
            *place = None;
        }
        if place.is_none() {
            let fd = loop {
                let made = match &self.address {
                    Address::Path(path) => stream::connect(path),
                    Address::Inherited(number) => stream::inherited(*number),
                };
                match made {
                    Ok(fd) => break fd,
                    Err(error) => match error.raw_os_error() {
                        // It restarts, or is asked by many.
                        Some(libc::ENOENT | libc::ECONNREFUSED | libc::EAGAIN)
                            if Instant::now() < until =>
                        {
                            std::thread::sleep(Duration::from_millis(5));
                        }
                        _ => return Err(absent(&self.address, &error)),
                    },
                }
            };
            let peer = stream::peer_uid(fd.as_fd()).map_err(|e| absent(&self.address, &e))?;
            if !trusted(peer) {
                return Err(Error::refused(format!(
                    "the broker at {} runs as uid {peer}: neither root, nor the service's user, nor this one",
                    self.address
                )));
            }
            *place = Some(Connection {
                socket: descriptor::identity(fd.as_raw_fd()),
                fd,
                generation,
                left: Vec::new(),
                open: Least::default(),
            });
        }
        match place {
            Some(connection) => Ok(connection),
            None => Err(Error::closed()),
        }
    }

    /// Calls `method` of the broker's interface. The error of a call that the broker refused has its errno
    /// and its sentence. If the broker goes away before it answers, a call that may be `repeated` (it changes
    /// nothing, or carries a token) waits for the next broker and is made again; another is EPIPE.
    pub fn call(
        &self,
        method: &str,
        parameters: &Value,
        fds: &[BorrowedFd<'_>],
        repeated: bool,
        interrupted: Interrupted<'_>,
    ) -> Result<Answer> {
        // Names of methods are nothing that JSON would escape.
        let head = format!(r#"{{"method":"{INTERFACE}.{method}","parameters":"#);
        let mut message = head.into_bytes();
        serde_json::to_writer(&mut message, parameters)
            .map_err(|_| Error::invalid("parameters that are no JSON"))?;
        message.extend_from_slice(b"}\0");
        let mut place = lock(&self.connection);
        // Since it went away: what it was asked may have taken long before.
        let mut until = None;
        loop {
            let now = Instant::now();
            let fresh = place.is_none();
            let patience = if fresh { now } else { now + PATIENCE };
            let connection = self.connected(&mut place, patience)?;
            match exchange(connection, &message, fds, method == OPEN, interrupted) {
                Ok(answer) => return judged(answer),
                Err(Broken::Gone) => {
                    *place = None;
                    let again = matches!(self.address, Address::Path(_)) && repeated;
                    let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
                    if !again || Instant::now() >= until {
                        return Err(Error::new(
                            Kind::System,
                            libc::EPIPE,
                            format!("{method}: the broker went away before it answered"),
                        ));
                    }
                    // The next one may need a moment.
                    self.connected(&mut place, until)?;
                }
                Err(Broken::Other(error)) => {
                    // Half a message may be on its way: this connection is of no use any more.
                    *place = None;
                    return Err(error);
                }
            }
        }
    }
}

fn trusted(uid: u32) -> bool {
    uid == 0 || uid == process::effective_uid() || stream::uid_of(USER) == Some(uid)
}

enum Broken {
    /// The broker is gone, and nothing of an answer came.
    Gone,
    Other(Error),
}

fn exchange(
    connection: &mut Connection,
    message: &[u8],
    fds: &[BorrowedFd<'_>],
    open: bool,
    interrupted: Interrupted<'_>,
) -> std::result::Result<(Value, Vec<OwnedFd>), Broken> {
    let begun = Instant::now();
    let mut step = |error: io::Error, doing: &str| match error.raw_os_error() {
        Some(libc::EINTR) => interrupted().map_err(Broken::Other),
        Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN) => Err(Broken::Gone),
        errno => Err(Broken::Other(Error::system(
            errno.unwrap_or(libc::EIO),
            doing,
        ))),
    };
    let (mut sent, mut with) = (0, fds);
    while sent < message.len() {
        match socket::send_many(
            connection.fd.as_fd(),
            &[Input::from(&message[sent..])],
            with,
            false,
        ) {
            Ok(length) => {
                sent += length;
                with = &[];
            }
            Err(error) => step(error, "asking the broker")?,
        }
    }
    if let Some(ahead) = connection.open.ahead().filter(|_| open && cores() > 1) {
        std::thread::sleep(ahead);
        let fd = connection.fd.as_fd();
        if !spin(LONGEST, || {
            !matches!(socket::poll(fd, libc::POLLIN, 0), Ok(0))
        }) {
            connection.open.crowded();
        }
    }
    let mut bytes = std::mem::take(&mut connection.left);
    let mut came = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    loop {
        if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
            connection.left = bytes.split_off(end + 1);
            if !connection.left.is_empty() {
                return Err(Broken::Other(lying("two where one was asked for")));
            }
            bytes.pop();
            if open {
                connection.open.took(begun.elapsed());
            }
            let value = serde_json::from_slice(&bytes)
                .map_err(|_| Broken::Other(lying("it is no JSON")))?;
            return Ok((value, came));
        }
        if bytes.len() > ANSWER {
            return Err(Broken::Other(lying("it is longer than every limit")));
        }
        match socket::receive_many(connection.fd.as_fd(), &mut buffer, false) {
            Ok(got) if got.lost => {
                return Err(Broken::Other(Error::system(
                    libc::EMFILE,
                    "the broker's answer brings a descriptor",
                )));
            }
            Ok(got) if got.length == 0 && bytes.is_empty() => return Err(Broken::Gone),
            Ok(got) if got.length == 0 => {
                return Err(Broken::Other(lying("it ends in the middle")));
            }
            Ok(got) => {
                bytes.extend_from_slice(&buffer[..got.length]);
                came.extend(got.fds);
            }
            Err(error) => step(error, "waiting for the broker")?,
        }
    }
}

/// The answer, or the error that it is.
fn judged((mut value, fds): (Value, Vec<OwnedFd>)) -> Result<Answer> {
    let parameters = value
        .get_mut("parameters")
        .map_or_else(|| json!({}), Value::take);
    let Some(name) = value.get("error") else {
        return Ok(Answer { parameters, fds });
    };
    let errno = parameters["errno"].as_i64().unwrap_or(0);
    let errno = i32::try_from(errno).ok().filter(|n| (1..4096).contains(n));
    let name: String = name.to_string().chars().take(100).collect();
    Err(match (errno, parameters["message"].as_str()) {
        (Some(errno), Some(message)) => record::error(errno, message.as_bytes()),
        _ => Error::new(
            Kind::System,
            libc::EPROTO,
            format!("the broker refused the call itself: {name} {parameters}"),
        ),
    })
}

/// The reading end of a pipe that holds `key`, for a worker to read. EMSGSIZE beyond 64 KiB.
pub fn pipe(key: &[u8]) -> Result<OwnedFd> {
    const MOST: usize = 64 << 10;
    if key.len() > MOST {
        return Err(Error::too_large(format!(
            "a key of {} bytes: at most {MOST} can be handed over",
            key.len()
        )));
    }
    let failed = |error: io::Error| {
        Error::system(
            error.raw_os_error().unwrap_or(libc::EIO),
            "a pipe for the key",
        )
    };
    let (reading, writing) = stream::pipe().map_err(failed)?;
    // An empty pipe holds that much, so this does not wait; a smaller one (pipe(7), the user's limit) is an
    // error and not a hang.
    socket::set_nonblocking(writing.as_fd(), true)
        .and_then(|()| io::Write::write_all(&mut std::fs::File::from(writing), key))
        .map_err(failed)?;
    Ok(reading)
}

/// The label in a key's reference (`cryptofd:LABEL`, `cryptofd:OWNER/LABEL`), if it is one.
pub fn reference(text: &str) -> Option<&str> {
    text.strip_prefix("cryptofd:")
}

/// The broker of this process, by the environment as it was when it was first needed.
pub fn default() -> Result<&'static Broker> {
    static DEFAULT: Mutex<Option<&'static Broker>> = Mutex::new(None);
    let mut known = lock(&DEFAULT);
    let wanted = address()?;
    match *known {
        Some(broker) if broker.address == wanted => Ok(broker),
        _ => {
            // A process changes its mind a few times at most: what stays behind is small.
            let broker: &'static Broker = Box::leak(Box::new(Broker::new(wanted)));
            *known = Some(broker);
            Ok(broker)
        }
    }
}
