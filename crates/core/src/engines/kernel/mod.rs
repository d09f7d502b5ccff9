//! The engine `kernel`: AF_ALG sockets, with all their traps behind a straight face.
//!
//! What bind() refuses is an ordinary answer: remembered for a minute with its reason, and the next
//! engine is asked.

mod adopt;
mod aead;
mod cipher;
pub mod drivers;
mod hash;
mod line;
mod random;
mod sys;

pub use adopt::Adopted;
pub use sys::is_af_alg;

use crate::engine::{Engine, Hardware, Key, Opened, Spec, Work};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::table::Kind;
use drivers::Driver;
use line::Lines;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use sys::{Errno, Socket};

/// The engine.
pub struct Kernel;

/// How long a refusal counts; a module may be loaded later.
const REMEMBERED: Duration = Duration::from_secs(60);

type Refusals = HashMap<(&'static str, String), (Instant, String)>;

static REFUSALS: Mutex<Option<Refusals>> = Mutex::new(None);

/// Forgets what the kernel refused so far, and asks again.
pub fn reload() {
    *REFUSALS.lock().unwrap_or_else(|e| e.into_inner()) = None;
}

fn remembered(kind: &'static str, name: &str) -> Option<String> {
    // In a child of fork the lock may be held for ever by a thread that is not here: then ask the kernel.
    let refusals = REFUSALS.try_lock().ok()?;
    let (when, why) = refusals.as_ref()?.get(&(kind, name.to_owned()))?;
    (when.elapsed() < REMEMBERED).then(|| why.clone())
}

fn remember(kind: &'static str, name: &str, why: &str) {
    if let Ok(mut refusals) = REFUSALS.try_lock() {
        refusals
            .get_or_insert_default()
            .insert((kind, name.to_owned()), (Instant::now(), why.to_owned()));
    }
}

/// What socket() says, as a sentence.
fn no_socket(errno: Errno) -> String {
    let text = std::io::Error::from_raw_os_error(errno);
    match errno {
        libc::EAFNOSUPPORT => {
            "this kernel has no AF_ALG (not built, its module not there, or switched off)".into()
        }
        libc::EPERM | libc::EACCES => {
            format!("a sandbox or security module forbids AF_ALG ({text})")
        }
        _ => format!("socket(AF_ALG): {text}"),
    }
}

/// What bind() says, as a sentence.
fn no_bind(kind: &str, name: &str, errno: Errno) -> String {
    let text = std::io::Error::from_raw_os_error(errno);
    match errno {
        libc::ENOENT => match std::fs::read_to_string("/proc/sys/crypto/af_alg_restrict") {
            Ok(level) if level.trim() != "0" => format!(
                "AF_ALG offers no {kind} {name}: crypto.af_alg_restrict={} keeps it from programs, \
                 or the kernel has none",
                level.trim()
            ),
            _ => format!("AF_ALG offers no {kind} {name}"),
        },
        libc::ELIBBAD => format!("{name} failed the kernel's own self-test"),
        libc::EPERM | libc::EACCES => {
            format!("a sandbox or security module forbids AF_ALG's {name} ({text})")
        }
        _ => format!("AF_ALG's {kind} {name}: {text}"),
    }
}

/// A bound socket; a refusal is remembered.
fn bind(kind: &'static str, name: &str) -> Result<Socket> {
    if let Some(why) = remembered(kind, name) {
        return Err(Error::not_offered(why));
    }
    let socket = Socket::algorithm().map_err(|errno| Error::not_offered(no_socket(errno)))?;
    socket.bind(kind, name).map_err(|errno| {
        let why = no_bind(kind, name, errno);
        // A shortage passes; a refusal stays.
        if !matches!(errno, libc::ENOMEM | libc::ETIMEDOUT) {
            remember(kind, name, &why);
        }
        Error::not_offered(why)
    })?;
    Ok(socket)
}

/// Gives a bound socket its key.
fn set_key(socket: &Socket, key: &Key, name: &str) -> Result<()> {
    let refused = |what: &str, errno: Errno| {
        let text = std::io::Error::from_raw_os_error(errno);
        Error::not_offered(format!("AF_ALG's {name} refuses {what}: {text}"))
    };
    match key {
        Key::None | Key::Adopted(_) => Ok(()),
        Key::Bytes(bytes) => socket
            .set_key(bytes.expose())
            .map_err(|errno| refused(&format!("this key of {} bytes", bytes.len()), errno)),
        Key::Serial(serial) => socket.set_key_serial(*serial).map_err(|errno| match errno {
            libc::ENOPROTOOPT => Error::not_offered(format!(
                "AF_ALG does not take key {serial}: keys by serial number need Linux 6.2 and a key of \
                 type user, logon, encrypted or trusted"
            )),
            libc::EKEYREVOKED | libc::EKEYEXPIRED => Error::new(
                ErrorKind::KeyRevoked,
                errno,
                format!("key {serial} of the kernel's keyring was revoked or has expired"),
            ),
            _ => refused(&format!("key {serial}"), errno),
        }),
    }
}

fn refused(name: &str, errno: Errno) -> Error {
    let text = std::io::Error::from_raw_os_error(errno);
    Error::not_offered(format!("AF_ALG's {name}: {text}"))
}

/// A bound socket with its key and the size of its tags.
fn keyed(kind: &'static str, name: &str, key: &Key, tag_size: Option<usize>) -> Result<Socket> {
    let socket = bind(kind, name)?;
    set_key(&socket, key, name)?;
    if let Some(size) = tag_size {
        socket
            .set_tag_size(size)
            .map_err(|errno| refused(name, errno))?;
    }
    Ok(socket)
}

/// An operation socket of its own for a cipher, an AEAD or a MAC with a key, to be given away: whoever holds
/// it uses the key in both directions and cannot read it. Also the driver that serves it.
pub fn operation(spec: &Spec) -> Result<(OwnedFd, String)> {
    let algorithm = spec.algorithm;
    let (Some(name), Some(kind)) = (algorithm.kernel, alg_type(algorithm.kind)) else {
        return Err(Error::not_offered(format!(
            "AF_ALG has no {}",
            algorithm.name
        )));
    };
    if matches!(spec.key, Key::None | Key::Adopted(_)) || algorithm.name == "poly1305" {
        return Err(Error::unsupported(format!(
            "{}: an AF_ALG socket to give away holds a key",
            algorithm.name
        )));
    }
    let name = match kind {
        "hash" => hash::name(spec, name)?,
        _ => name.to_owned(),
    };
    let chosen = choose(spec, kind, &name)?;
    let tag_size = (algorithm.kind == Kind::Aead).then(|| spec.tag_size());
    let socket = keyed(kind, &chosen.bind, &spec.key, tag_size)?;
    let given = socket.accept().and_then(Socket::into_fd);
    let given = given.map_err(|errno| refused(&chosen.bind, errno))?;
    Ok((given, chosen.driver))
}

/// The kind of socket that serves a kind of algorithm.
fn alg_type(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Hash | Kind::Mac => "hash",
        Kind::Cipher => "skcipher",
        Kind::Aead => "aead",
        Kind::Rng => "rng",
        _ => return None,
    })
}

/// Which driver a session gets.
struct Chosen {
    /// What to bind: a driver's name, or the algorithm's.
    bind: String,
    driver: String,
    certain: bool,
    hardware: bool,
}

/// Decides what to bind for `spec`.
fn choose(spec: &Spec, kind: &'static str, name: &str) -> Result<Chosen> {
    // The first bind makes the kernel load modules and build templates; only then are drivers listed.
    let by_algorithm = bind(kind, name).map(drop);
    if let Some(asked) = &spec.driver {
        // A template that nobody has asked for yet is built by asking for it.
        let _ = bind(kind, asked);
    }
    let mut found = drivers::candidates(kind, name);
    // Since Linux 7.2 hardware is listed but not offered; a driver that is not offered by its name does
    // not serve by the algorithm's either.
    found.retain(|d| !d.hardware() || bind(kind, &d.name).is_ok());
    let wanted = |driver: &&Driver| {
        spec.driver
            .as_ref()
            .is_none_or(|asked| driver.name == *asked)
            && match spec.hardware {
                Hardware::Require => driver.hardware(),
                Hardware::Forbid => !driver.hardware(),
                Hardware::Any | Hardware::Prefer => true,
            }
    };
    let Some(driver) = found.iter().find(wanted) else {
        by_algorithm?;
        let listed = found.first().map_or("none is listed", |best| &best.name);
        if let Some(asked) = &spec.driver {
            return Err(Error::not_offered(format!(
                "the kernel's {name} has no driver {asked} ({listed})"
            )));
        }
        return match spec.hardware {
            Hardware::Require => Err(Error::not_offered(format!(
                "AF_ALG offers no hardware driver for {name} ({listed})"
            ))),
            Hardware::Forbid if !found.is_empty() => Err(Error::not_offered(format!(
                "AF_ALG offers no software driver for {name} ({listed})"
            ))),
            // Neither netlink nor /proc/crypto: nothing is known of what serves.
            _ => Ok(Chosen {
                bind: name.to_owned(),
                driver: name.to_owned(),
                certain: false,
                hardware: false,
            }),
        };
    };
    let best = found.first().is_some_and(|best| best.name == driver.name);
    let by_name = spec.driver.is_some() || driver.hardware() || !best;
    // Since Linux 7.3 only the algorithm's name may be taken; then the best driver is the likely one.
    let certain = by_name && (!best || bind(kind, &driver.name).is_ok());
    if !certain {
        by_algorithm?;
    }
    Ok(Chosen {
        bind: if certain {
            driver.name.clone()
        } else {
            name.to_owned()
        },
        driver: driver.name.clone(),
        certain,
        hardware: driver.hardware(),
    })
}

/// A driver that serves a session: its lines, and whether it is still there.
struct Served {
    lines: Lines,
    driver: String,
    hardware: bool,
}

impl Served {
    fn open(
        chosen: &Chosen,
        kind: &'static str,
        key: &Key,
        tag_size: Option<usize>,
        buffers: usize,
    ) -> Result<Served> {
        if let Key::Adopted(socket) = key {
            return socket.serve(chosen, kind, buffers);
        }
        let (name, hardware) = (chosen.bind.clone(), chosen.hardware);
        let key = key.clone();
        let ready = move || -> Result<Lines> {
            let socket = keyed(kind, &name, &key, tag_size)?;
            Lines::of(Arc::new(socket), hardware, buffers).map_err(|errno| refused(&name, errno))
        };
        let lines = if hardware {
            line::within(ready).map_err(|errno| {
                let text = std::io::Error::from_raw_os_error(errno);
                Error::not_offered(format!("{} did not take the key: {text}", chosen.driver))
            })??
        } else {
            ready()?
        };
        Ok(Served {
            lines,
            driver: chosen.driver.clone(),
            hardware,
        })
    }

    /// A device that was pulled leaves its sessions behind, and the kernel does not notice: whoever sends
    /// it a request waits for ever. So it is asked for before each.
    fn check(&self) -> Result<()> {
        if self.hardware && !drivers::present(&self.driver) {
            return Err(Error::engine_failed(
                libc::ENODEV,
                format!("{} is gone: its device was removed", self.driver),
            ));
        }
        Ok(())
    }
}

/// Whether the kernel runs in FIPS mode.
fn fips_enabled() -> bool {
    std::fs::read_to_string("/proc/sys/crypto/fips_enabled").is_ok_and(|t| t.trim() == "1")
}

impl Engine for Kernel {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn probe(&self) -> Result<String> {
        if let Some(why) = remembered("", "") {
            return Err(Error::not_offered(why));
        }
        match Socket::algorithm() {
            Ok(_) => {
                let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
                let release = release.unwrap_or_default();
                Ok(format!("AF_ALG of Linux {}", release.trim()))
            }
            Err(errno) => {
                let why = no_socket(errno);
                if !matches!(errno, libc::EMFILE | libc::ENFILE | libc::ENOMEM) {
                    remember("", "", &why);
                }
                Err(Error::not_offered(why))
            }
        }
    }

    fn open(&self, spec: &Spec) -> Result<Opened> {
        let algorithm = spec.algorithm;
        let (Some(name), Some(kind)) = (algorithm.kernel, alg_type(algorithm.kind)) else {
            return Err(Error::not_offered(format!(
                "AF_ALG has no {}",
                algorithm.name
            )));
        };
        let name = match kind {
            "hash" => hash::name(spec, name)?,
            _ => name.to_owned(),
        };
        let chosen = match &spec.key {
            Key::Adopted(socket) => {
                socket.check(spec, kind)?;
                adopt::likely(kind, &name)
            }
            _ => choose(spec, kind, &name)?,
        };
        let work = match kind {
            "hash" => Work::Hashing(Box::new(hash::open(spec, &chosen)?)),
            "skcipher" => Work::Cipher(Box::new(cipher::open(spec, &chosen)?)),
            "aead" => Work::Aead(Box::new(aead::open(spec, &chosen)?)),
            _ => Work::Random(Box::new(random::open(&chosen)?)),
        };
        Ok(Opened {
            work,
            driver: chosen.driver,
            driver_certain: chosen.certain,
            hardware: chosen.hardware,
            fips: algorithm.fips && fips_enabled(),
        })
    }
}
