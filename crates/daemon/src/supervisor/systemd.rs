//! The service manager: sockets that it opened, descriptors that it keeps for us, and what we tell it.
//!
//! Every session is kept with it as two kinds of descriptors: `session-N`, its serving ends, and `recipe-N`,
//! a memfd with its domain and recipe; the key-encryption keys as `kek` where they lie in secret memory. So
//! sessions survive the death of the supervisor itself.

use super::keeper::Kek;
use super::{Listening, Session, Supervisor};
use crate::sys;
use cryptofd_core::error::{Error, Result};
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::sys::memfd;
use sd_notify::NotifyState;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The names of the key-encryption keys' secret memory, and of what is known about it.
const KEK: &str = "kek";
const KEK_ABOUT: &str = "kek-about";

/// What was kept for one session.
#[derive(Default)]
pub struct Stored {
    recipe: Option<OwnedFd>,
    ends: Vec<OwnedFd>,
}

/// What the service manager gave us, sorted by name.
#[derive(Default)]
pub struct Inherited {
    pub listening: Vec<Listening>,
    pub sessions: BTreeMap<u64, Stored>,
    /// The key-encryption keys and their sources.
    pub kek: Option<(Kek, Value)>,
}

fn there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The sockets that the service manager opened, and what it kept. Once.
pub fn inherited() -> Result<Inherited> {
    let mut found = Inherited::default();
    let Ok(all) = sd_notify::listen_fds_with_names(false) else {
        return Ok(found);
    };
    let (mut memory, mut about) = (None, None);
    for (number, name) in all {
        let fd = sys::inherited(number).map_err(|error| {
            Error::system(
                error.raw_os_error().unwrap_or(libc::EIO),
                &format!("descriptor {number} of the service manager"),
            )
        })?;
        let of = |prefix: &str| name.strip_prefix(prefix)?.parse::<u64>().ok();
        if let Some(sid) = of("session-") {
            found.sessions.entry(sid).or_default().ends.push(fd);
        } else if let Some(sid) = of("recipe-") {
            found.sessions.entry(sid).or_default().recipe = Some(fd);
        } else if name == KEK {
            memory = Some(fd);
        } else if name == KEK_ABOUT {
            about = json(&fd);
        } else {
            found.listening.push(Listening { fd, path: None });
        }
    }
    if let (Some(memory), Some(about)) = (memory, about) {
        let bytes = about["bytes"].as_u64();
        found.kek = bytes.map(|bytes| (Kek::Memory { memory, bytes }, about["sources"].clone()));
    }
    Ok(found)
}

/// What a memfd of ours says.
fn json(memory: &OwnedFd) -> Option<Value> {
    let file = std::fs::File::from(memory.try_clone().ok()?);
    let size = usize::try_from(file.metadata().ok()?.len()).ok()?;
    serde_json::from_slice(&memfd::read(memory.as_fd(), size).ok()?).ok()
}

/// Has the key-encryption keys kept: as secret memory, or not at all.
pub fn keep_kek(kek: &Kek, sources: &Value) {
    if !there() {
        return;
    }
    for name in [KEK, KEK_ABOUT] {
        drop_named(name);
    }
    if let Kek::Memory { memory, bytes } = kek {
        let about = json!({"bytes": bytes, "sources": sources}).to_string();
        if let Ok(about) = memfd::with(&[Input::from(about.as_bytes())]) {
            store(KEK, &[memory.as_fd()]);
            store(KEK_ABOUT, &[about.as_fd()]);
        }
    }
}

fn drop_named(name: &str) {
    let _ = sd_notify::notify(
        false,
        &[NotifyState::FdStoreRemove, NotifyState::FdName(name)],
    );
}

fn store(name: &str, fds: &[BorrowedFd<'_>]) {
    let _ = sd_notify::notify_with_fds(
        false,
        &[NotifyState::FdStore, NotifyState::FdName(name)],
        fds,
    );
}

/// Has a session kept.
pub fn keep(sid: u64, session: &Session) {
    if there() {
        keep_recipe(sid, session);
        keep_end(sid, session.ends.iter().map(|end| end.fd.as_fd()));
    }
}

/// Has a session's recipe kept, in the place of another.
pub fn keep_recipe(sid: u64, session: &Session) {
    if !there() {
        return;
    }
    drop_named(&format!("recipe-{sid}"));
    let (domain, recipe) = (Value::from(&session.domain[..]), &session.recipe);
    let about = format!(r#"{{"domain":{domain},"recipe":{recipe}}}"#);
    if let Ok(memory) = memfd::with(&[Input::from(about.as_bytes())]) {
        store(&format!("recipe-{sid}"), &[memory.as_fd()]);
    }
}

/// Has more ends of a session kept.
pub fn keep_end<'a>(sid: u64, ends: impl Iterator<Item = BorrowedFd<'a>>) {
    if there() {
        for end in ends {
            store(&format!("session-{sid}"), &[end]);
        }
    }
}

/// Has a session's descriptors let go.
pub fn forget(sid: u64) {
    if there() {
        for name in [format!("recipe-{sid}"), format!("session-{sid}")] {
            drop_named(&name);
        }
    }
}

/// Everything stands.
pub fn ready() {
    let _ = sd_notify::notify(false, &[NotifyState::Ready]);
}

/// The end has begun.
pub fn stopping() {
    let _ = sd_notify::notify(false, &[NotifyState::Stopping]);
}

impl Supervisor {
    /// Tells the service manager how it stands, where that has changed.
    pub(super) fn say_status(&mut self) {
        if !there() {
            return;
        }
        let given_up = self.domains.values().filter(|d| d.given_up.is_some());
        let text = format!(
            "{} workers, {} sessions, {} domains given up",
            self.workers.len(),
            self.sessions.len(),
            given_up.count()
        );
        if text != self.status {
            let _ = sd_notify::notify(false, &[NotifyState::Status(&text)]);
            self.status = text;
        }
    }

    /// Goes on with the sessions that the service manager kept for a supervisor before this one.
    pub(super) fn restore_sessions(&mut self, stored: BTreeMap<u64, Stored>) {
        let mut all: BTreeMap<u64, Vec<(u64, Vec<u64>)>> = BTreeMap::new();
        for (sid, stored) in stored {
            match self.restore_session(sid, stored) {
                Some((worker, inodes)) => all.entry(worker).or_default().push((sid, inodes)),
                None => forget(sid),
            }
        }
        for (worker, sessions) in all {
            self.give(worker, sessions);
        }
    }

    fn restore_session(&mut self, sid: u64, stored: Stored) -> Option<(u64, Vec<u64>)> {
        let about = json(&stored.recipe?)?;
        let domain = about["domain"].as_str()?.to_owned();
        let number = self.current(&domain).ok()?;
        let mut inodes = Vec::new();
        let mut ends = Vec::new();
        for fd in stored.ends {
            let inode = sys::inode(fd.as_fd()).ok()?;
            inodes.push(inode);
            ends.push(super::End {
                fd: crate::elsewhere::Foreign::new(fd),
                inode,
                worker: number,
                _held: None,
            });
        }
        if ends.is_empty() {
            return None;
        }
        self.last_session = self.last_session.max(sid);
        let session = Session {
            place: self.place(&domain),
            domain,
            recipe: about["recipe"].to_string(),
            ends,
            reply: None,
            inform: super::Inform::Nothing,
        };
        self.sessions.insert(sid, session);
        Some((number, inodes))
    }
}
