//! Where the key-encryption key is when no worker has it: in secret memory, or in a keeper process.
//!
//! The supervisor holds descriptors only. A keeper process reads the key from its source (a file, which it
//! fills if it is empty; a credential, the kernel's keyring, a passphrase), writes it into memory that not even
//! the kernel maps (memfd_secret(2)), and ends. Where there is no such memory, it stays and gives the key to
//! every new worker through a pipe.

use super::process::{Process, command};
use super::sources;
use crate::arguments::Arguments;
use crate::packet::{Incoming, Link, Packet, answer, answered, pack, receive};
use crate::sys::{self, Mapping};
use crate::worker::keys::{MATERIAL, Wrapper};
use cryptofd_core::error::{Error, Result};
use cryptofd_core::secret::Secret;
use cryptofd_core::sys::{arena, socket};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

fn system(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::system(error.raw_os_error().unwrap_or(libc::EIO), what)
}

/// Milliseconds that a keeper has: nothing can go on without it, and a host that starts may be busy.
const PATIENCE: i32 = 60_000;

/// The key-encryption key, as the supervisor has it.
pub enum Kek {
    /// In secret memory; this descriptor is all there is.
    Memory {
        /// The memory.
        memory: OwnedFd,
        /// Bytes of keys in it.
        bytes: u64,
    },
    /// In a keeper.
    Process {
        /// The process.
        process: Process,
        /// Its control socket.
        link: OwnedFd,
        /// Bytes of keys that it has.
        bytes: u64,
    },
}

impl Kek {
    /// Has a keeper read (or make) the key in `file`; without a file, a key that ends with this service.
    pub fn load(file: Option<&Path>, secret_memory: bool) -> Result<Kek> {
        let source = file.map(open).transpose()?;
        let (process, here) = start(source.as_ref())?;
        let memory = if secret_memory { memory() } else { None };
        let asked = match &memory {
            Some(memory) => {
                let copy = memory.try_clone().map_err(system("dup"))?;
                ask(&here, &json!({"id": 1, "op": "fill"}), vec![copy])
            }
            None => ask(&here, &json!({"id": 1, "op": "size"}), Vec::new()),
        };
        let bytes = match asked {
            Ok(bytes) => bytes,
            Err(error) => {
                end(&process);
                return Err(error);
            }
        };
        match memory {
            Some(memory) => {
                drop(here);
                wait(&process);
                Ok(Kek::Memory { memory, bytes })
            }
            None => Ok(Kek::Process {
                process,
                link: here,
                bytes,
            }),
        }
    }

    /// Tells a worker the key.
    pub fn give(&self, id: u64, link: &mut Link) -> Result<()> {
        match self {
            Kek::Memory { memory, bytes } => {
                let copy = memory.try_clone().map_err(system("dup"))?;
                let said = json!({"id": id, "op": "kek", "how": "memory", "bytes": bytes});
                link.send(&said, vec![copy])
            }
            Kek::Process {
                link: keeper,
                bytes,
                ..
            } => {
                let (read, write) = socket::pair().map_err(system("socketpair"))?;
                let give = pack(&json!({"id": 0, "op": "give"}), vec![write])?;
                give.send(keeper.as_fd(), true)
                    .map_err(system("the keeper of the key-encryption key"))?;
                let said = json!({"id": id, "op": "kek", "how": "stream", "bytes": bytes});
                link.send(&said, vec![read])
            }
        }
    }
}

/// Starts a keeper: on a file, or to be told its sources.
pub fn start(source: Option<&File>) -> Result<(Process, OwnedFd)> {
    let (here, there) = socket::pair().map_err(system("socketpair"))?;
    let program = sys::program().map_err(system("the path of this program"))?;
    let mut command = command(program.as_os_str());
    command.arg("keeper");
    command.arg("--control").arg(there.as_raw_fd().to_string());
    let mut fds = vec![there.as_fd()];
    if let Some(source) = source {
        command.arg("--source").arg(source.as_raw_fd().to_string());
        fds.push(source.as_fd());
    }
    let process = Process::start(&mut command, &fds)?;
    Ok((process, here))
}

/// Memory for keys that the kernel itself does not map, where it has such.
pub fn memory() -> Option<OwnedFd> {
    sys::secret_memory(MATERIAL).ok()
}

/// Ends a keeper.
pub fn end(process: &Process) {
    process.signal(libc::SIGKILL);
    let _ = socket::poll(process.as_fd(), libc::POLLIN, -1);
    process.reap();
}

fn wait(process: &Process) {
    let _ = socket::poll(process.as_fd(), libc::POLLIN, PATIENCE);
    process.reap();
}

/// Asks a keeper, which is ours and answers at once.
fn ask(keeper: &OwnedFd, object: &Value, fds: Vec<OwnedFd>) -> Result<u64> {
    pack(object, fds)?
        .send(keeper.as_fd(), true)
        .map_err(system("the keeper of the key-encryption key"))?;
    let late = || Error::system(libc::ETIMEDOUT, "the keeper of the key-encryption key");
    match socket::poll(keeper.as_fd(), libc::POLLIN, PATIENCE) {
        Ok(events) if events != 0 => {}
        _ => return Err(late()),
    }
    match receive(keeper.as_fd(), &mut Vec::new(), true) {
        Incoming::Packet(packet) => size(&packet),
        _ => Err(Error::system(
            libc::EPIPE,
            "the keeper of the key-encryption key is gone",
        )),
    }
}

/// How many bytes of keys a keeper has, by its answer.
pub fn size(packet: &Packet) -> Result<u64> {
    answered(&packet.object)?
        .get("bytes")
        .and_then(Value::as_u64)
        .filter(|bytes| *bytes <= MATERIAL as u64)
        .ok_or_else(|| Error::invalid("the keeper's answer is none"))
}

/// Opens the file, or makes an empty one; it must be this user's own, and nobody else's to read.
fn open(path: &Path) -> Result<File> {
    let named = |error: std::io::Error| {
        Error::system(
            error.raw_os_error().unwrap_or(libc::EIO),
            &format!("the key-encryption key {}", path.display()),
        )
    };
    let write = |create: bool| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(path)
    };
    let file = write(true).or_else(|error| match error.raw_os_error() {
        // A credential of systemd: a file that is there and cannot be written.
        Some(libc::EACCES | libc::EROFS | libc::EPERM) => OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(path),
        _ => Err(error),
    });
    let file = file.map_err(named)?;
    let about = sys::about(file.as_fd()).map_err(named)?;
    let own = about.uid == sys::effective_uid() || about.uid == 0;
    let regular = about.mode & libc::S_IFMT == libc::S_IFREG;
    if !regular || !own || about.mode & 0o077 != 0 {
        return Err(Error::refused(format!(
            "the key-encryption key {} is not a file that belongs to this user alone: chmod 600",
            path.display()
        )));
    }
    Ok(file)
}

/// A keeper's life.
pub fn run(arguments: &mut Arguments) -> Result<()> {
    let control = arguments.number("control")? as i32;
    let source = arguments.optional("source")?.map(|number| number as i32);
    let kept: Vec<i32> = [Some(control), source].into_iter().flatten().collect();
    sys::close_others(&kept).map_err(system("close_range"))?;
    let control = sys::inherited(control).map_err(system("the control socket"))?;
    let source = match source {
        Some(number) => Some(sys::inherited(number).map_err(system("--source"))?),
        None => None,
    };
    arguments.finish()?;
    sys::raise_limits();
    sys::hide().map_err(system("hiding the keeper's memory"))?;
    sys::die_with_parent().map_err(system("PR_SET_PDEATHSIG"))?;
    sys::no_new_privileges().map_err(system("PR_SET_NO_NEW_PRIVS"))?;
    arena::strict();
    let mut material = arena::bounded(|| match &source {
        Some(source) => read(source),
        None => Wrapper::entry(1),
    });
    let mut buffer = Vec::new();
    loop {
        let packet = match receive(control.as_fd(), &mut buffer, false) {
            Incoming::Packet(packet) => packet,
            Incoming::Lost(_) | Incoming::Garbage(_) | Incoming::Nothing => continue,
            Incoming::End => return Ok(()),
        };
        let id = packet.number("id").unwrap_or(0);
        if packet.text("op").is_ok_and(|op| op == "load") {
            material = arena::bounded(|| sources::read(&packet));
        }
        let done = match &material {
            Ok(material) => serve(packet, material),
            Err(error) => Err(error.clone()),
        };
        // 0: the receiver of the key sees what came of it.
        if id != 0 {
            pack(&answer(id, done), Vec::new())?
                .send(control.as_fd(), false)
                .map_err(system("the control socket"))?;
        }
    }
}

fn serve(mut packet: Packet, material: &Secret) -> Result<Value> {
    match packet.text("op")? {
        "size" | "load" => {}
        "fill" => {
            let memory = packet.only_fd()?;
            let mapping =
                Mapping::new(memory.as_fd(), MATERIAL).map_err(system("mapping secret memory"))?;
            mapping.write(material.expose());
        }
        "give" => {
            let pipe = packet.only_fd()?;
            let mut rest = material.expose();
            while !rest.is_empty() {
                let put = sys::write(pipe.as_fd(), rest).map_err(system("giving the key"))?;
                rest = &rest[put..];
            }
        }
        op => return Err(Error::unsupported(format!("no op {op:?}"))),
    }
    Ok(json!({"bytes": material.len()}))
}

/// The keys in the file; where it is empty, a first one, on the disk before it is used.
fn read(source: &OwnedFd) -> Result<Secret> {
    let file = File::from(source.try_clone().map_err(system("dup"))?);
    let material = Secret::made(MATERIAL + 1, |out| {
        let mut length = 0;
        while length < out.len() {
            match sys::read(file.as_fd(), &mut out[length..]) {
                Ok(0) => break,
                Ok(got) => length += got,
                Err(error) => return Err(system("reading the key-encryption key")(error)),
            }
        }
        Ok(length)
    })?;
    if !material.is_empty() {
        // Says what is wrong with it, if anything is.
        Wrapper::new(material.expose())?;
        return Ok(material);
    }
    let fresh = Wrapper::entry(1)?;
    let mut rest = fresh.expose();
    while !rest.is_empty() {
        let put =
            sys::write(file.as_fd(), rest).map_err(system("writing the key-encryption key"))?;
        rest = &rest[put..];
    }
    file.sync_all()
        .map_err(system("fsync of the key-encryption key"))?;
    Ok(fresh)
}
