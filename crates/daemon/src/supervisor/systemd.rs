//! The service manager: sockets that it opened, descriptors that it keeps for us, and what we tell it.
//!
//! Every session is kept with it as two kinds of descriptors: `session-N`, its serving ends, and `recipe-N`,
//! a memfd with its domain and recipe. So sessions survive the death of the supervisor itself.

use super::{Listening, Session, Supervisor};
use crate::sys;
use cryptofd_core::error::{Error, Result};
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::sys::memfd;
use sd_notify::NotifyState;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

/// What was kept for one session.
#[derive(Default)]
pub struct Stored {
    recipe: Option<OwnedFd>,
    ends: Vec<OwnedFd>,
}

/// Descriptors that came with names, once sorted.
static STORED: Mutex<BTreeMap<u64, Stored>> = Mutex::new(BTreeMap::new());

fn there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The sockets that the service manager opened.
pub fn sockets() -> Result<Vec<Listening>> {
    let mut listening = Vec::new();
    let Ok(all) = sd_notify::listen_fds_with_names(false) else {
        return Ok(listening);
    };
    let mut kept = STORED.lock().unwrap_or_else(|e| e.into_inner());
    for (number, name) in all {
        let fd = sys::inherited(number).map_err(|error| {
            Error::system(
                error.raw_os_error().unwrap_or(libc::EIO),
                &format!("descriptor {number} of the service manager"),
            )
        })?;
        let of = |prefix: &str| name.strip_prefix(prefix)?.parse::<u64>().ok();
        if let Some(sid) = of("session-") {
            kept.entry(sid).or_default().ends.push(fd);
        } else if let Some(sid) = of("recipe-") {
            kept.entry(sid).or_default().recipe = Some(fd);
        } else {
            listening.push(Listening { fd, path: None });
        }
    }
    Ok(listening)
}

/// The sessions that the service manager kept; call after `sockets`, once.
pub fn stored() -> BTreeMap<u64, Stored> {
    std::mem::take(&mut *STORED.lock().unwrap_or_else(|e| e.into_inner()))
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
    if !there() {
        return;
    }
    let (domain, recipe) = (Value::from(&session.domain[..]), &session.recipe);
    let about = format!(r#"{{"domain":{domain},"recipe":{recipe}}}"#);
    if let Ok(memory) = memfd::with(&[Input::from(about.as_bytes())]) {
        store(&format!("recipe-{sid}"), &[memory.as_fd()]);
    }
    keep_end(sid, session.ends.iter().map(|end| end.fd.as_fd()));
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
            let _ = sd_notify::notify(
                false,
                &[NotifyState::FdStoreRemove, NotifyState::FdName(&name)],
            );
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
        for (sid, stored) in stored {
            if self.restore_session(sid, stored).is_none() {
                forget(sid);
            }
        }
    }

    fn restore_session(&mut self, sid: u64, stored: Stored) -> Option<()> {
        let recipe = stored.recipe?;
        let size = std::fs::File::from(recipe.try_clone().ok()?)
            .metadata()
            .ok()?
            .len();
        let text = memfd::read(recipe.as_fd(), usize::try_from(size).ok()?).ok()?;
        let about: Value = serde_json::from_slice(&text).ok()?;
        let domain = about["domain"].as_str()?.to_owned();
        let number = self.current(&domain).ok()?;
        let mut inodes = Vec::new();
        let mut ends = Vec::new();
        for fd in stored.ends {
            let inode = sys::inode(fd.as_fd()).ok()?;
            inodes.push(inode);
            ends.push(super::End {
                fd,
                inode,
                worker: number,
            });
        }
        if ends.is_empty() {
            return None;
        }
        self.last_session = self.last_session.max(sid);
        let session = Session {
            domain,
            recipe: about["recipe"].to_string(),
            ends,
            reply: None,
        };
        self.sessions.insert(sid, session);
        self.give(number, vec![(sid, inodes)]);
        Some(())
    }
}
