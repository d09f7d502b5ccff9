//! A key that the broker keeps, and the session on it that a worker serves: opened again where it is gone,
//! and in each forked child.

use crate::error::{Error, Reason, Result};
use cryptofd_core::broker;
use cryptofd_core::error::{Error as CoreError, Result as CoreResult};
use cryptofd_core::remote::Remote;
use cryptofd_core::sys::fork;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// What the broker or a worker said.
pub fn told(error: CoreError) -> Error {
    let reason = match error.errno() {
        libc::ENOKEY => Reason::NO_SUCH_KEY,
        libc::EKEYEXPIRED | libc::EKEYREVOKED => Reason::KEY_NOT_USABLE,
        libc::ECONNREFUSED | libc::EPIPE | libc::ECONNRESET | libc::EBADF => Reason::BROKER,
        libc::EPERM | libc::EACCES | libc::EDQUOT => Reason::REFUSED,
        _ => return Error::from(error),
    };
    Error::new(reason, error.message().to_owned())
}

/// Asks the broker.
pub fn ask(method: &str, parameters: &Value) -> Result<broker::Answer> {
    broker::default()
        .and_then(|broker| broker.call(method, parameters, &[], true, &mut || Ok(())))
        .map_err(told)
}

/// A key that the broker keeps: what names it, and the session on it.
pub struct Kept {
    /// `OWNER/LABEL`.
    name: String,
    version: u64,
    /// And the process that opened it.
    session: Mutex<Option<(u64, Arc<Remote>)>>,
}

/// Whether the session itself is gone, which says nothing about the key.
fn is_gone(error: &CoreError) -> bool {
    matches!(
        error.errno(),
        libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN | libc::EBADF | libc::ENODEV
    )
}

impl Kept {
    /// The key that the broker describes so.
    pub fn of(description: &Value) -> Kept {
        let text = |name: &str| description[name].as_str().unwrap_or_default();
        Kept {
            name: format!("{}/{}", text("owner"), text("label")),
            version: description["version"].as_u64().unwrap_or(1),
            session: Mutex::default(),
        }
    }

    /// `OWNER/LABEL`.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn open(&self) -> Result<Arc<Remote>> {
        let asked = json!({"key": self.name, "version": self.version, "options": {}});
        let mut answer = ask("Open", &asked)?;
        let fd = answer.descriptor("fd").map_err(told)?;
        Ok(Arc::new(Remote::adopt(fd).map_err(told)?))
    }

    /// The session. A forked child has one of its own, or, where it has no right to the key or sees no
    /// broker, its share in its parent's.
    pub fn session(&self) -> Result<Arc<Remote>> {
        let mut place = lock(&self.session);
        let now = fork::generation();
        let session = match &*place {
            Some((process, session)) if *process == now => return Ok(session.clone()),
            Some((_, parents)) => self.open().unwrap_or_else(|_| parents.clone()),
            None => self.open()?,
        };
        *place = Some((now, session.clone()));
        Ok(session)
    }

    fn forget(&self, session: &Arc<Remote>) {
        let mut place = lock(&self.session);
        if place
            .as_ref()
            .is_some_and(|(_, now)| Arc::ptr_eq(now, session))
        {
            *place = None;
        }
    }

    /// Does something with the key, in the worker. A session that is gone (the service was restarted, the
    /// program closed the descriptor) is opened again, once.
    pub fn with<T>(&self, does: impl Fn(&Remote) -> CoreResult<T>) -> Result<T> {
        let session = self.session()?;
        match does(&session) {
            Err(error) if is_gone(&error) => {
                self.forget(&session);
                does(&*self.session()?).map_err(told)
            }
            done => done.map_err(told),
        }
    }
}
