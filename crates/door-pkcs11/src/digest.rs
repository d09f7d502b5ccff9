//! Digests, and their state, which a program may take out and put back (TLS 1.3 forks its transcript).

use crate::ffi::Out;
use crate::mechanism::{self, Does};
use crate::module::{STATES, Session, State, lock};
use crate::parameter::Mechanism;
use crate::rv::{Result, Rv};
use crate::served::{Hashing, Served};
use cryptofd_core::engine::Key;
use cryptofd_core::engines::software;
use cryptofd_core::session::Request;
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::table::Algorithm;
use cryptoki_sys::*;
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

/// A digest under way.
pub struct Digesting {
    served: Served,
    /// What came in pieces; none has yet.
    hashing: Option<Hashing>,
}

/// The session of a hash, opened once: it has no key.
pub fn session(algorithm: &'static Algorithm) -> Result<Served> {
    static OPEN: OnceLock<Mutex<HashMap<&'static str, Served>>> = OnceLock::new();
    let mut open = lock(OPEN.get_or_init(Mutex::default));
    if let Some(served) = open.get(algorithm.name) {
        return Ok(served.clone());
    }
    let request = Request {
        algorithm: algorithm.name.into(),
        key: Key::None,
        ..Request::default()
    };
    let served = Served::Here(cryptofd_core::Session::open(request)?);
    open.insert(algorithm.name, served.clone());
    Ok(served)
}

/// C_DigestInit.
pub fn begin(session_: &mut Session, mechanism: &Mechanism) -> Result<()> {
    if session_.digest.is_some() {
        return Err(Rv(CKR_OPERATION_ACTIVE));
    }
    let known = mechanism::find(mechanism.kind)?;
    let (Does::Digest, Some(algorithm)) = (known.does, known.algorithm) else {
        return Err(Rv(CKR_MECHANISM_INVALID));
    };
    mechanism.nothing()?;
    session_.digest = Some(Digesting {
        served: session(algorithm)?,
        hashing: None,
    });
    Ok(())
}

fn running(session: &mut Session) -> Result<&mut Digesting> {
    session
        .digest
        .as_mut()
        .ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))
}

/// C_Digest.
pub fn whole(session: &mut Session, data: Input<'_>, out: &mut Out<'_>) -> Result<()> {
    let digesting = running(session)?;
    if digesting.hashing.is_some() {
        return Err(Rv(CKR_OPERATION_ACTIVE));
    }
    let size = digesting.served.digest_size();
    if !out.fits(size)? {
        return Ok(());
    }
    let served = digesting.served.clone();
    session.digest = None;
    let mut digest = [0; 64];
    served.digest(data, &mut digest[..size])?;
    out.give(&digest[..size])
}

/// C_DigestUpdate.
pub fn update(session: &mut Session, data: Input<'_>) -> Result<()> {
    let digesting = running(session)?;
    let done = digesting.hashing().and_then(|hashing| hashing.update(data));
    if done.is_err() {
        session.digest = None;
    }
    done
}

/// C_DigestKey: a secret key of this process that may be seen.
pub fn key(state: &State, session: &mut Session, key: CK_OBJECT_HANDLE) -> Result<()> {
    running(session)?;
    let key = state.key(session.slot, key)?;
    if !key.is_open() {
        return Err(Rv(CKR_KEY_INDIGESTIBLE));
    }
    let secret = key.secret().map_err(|_| Rv(CKR_KEY_INDIGESTIBLE))?;
    update(session, Input::from(secret.expose()))
}

/// C_DigestFinal.
pub fn finish(session: &mut Session, out: &mut Out<'_>) -> Result<()> {
    let size = running(session)?.served.digest_size();
    if !out.fits(size)? {
        return Ok(());
    }
    let Some(mut digesting) = session.digest.take() else {
        return Err(Rv(CKR_OPERATION_NOT_INITIALIZED));
    };
    out.give(&digesting.hashing()?.finish()?)
}

/// C_GetOperationState: a random name, under which a clone is kept.
pub fn save(state: &State, session: &mut Session, out: &mut Out<'_>) -> Result<()> {
    if session.encrypt.is_some()
        || session.decrypt.is_some()
        || session.sign.is_some()
        || session.verify.is_some()
    {
        return Err(Rv(CKR_STATE_UNSAVEABLE));
    }
    let digesting = running(session)?;
    if !out.fits(32)? {
        return Ok(());
    }
    let clone = digesting.fork()?;
    let mut name = [0; 32];
    software::random(&mut name)?;
    let mut states = lock(&state.states);
    if states.len() >= STATES {
        // Programs do not say when they are done with one.
        states.clear();
    }
    states.insert(name, clone);
    out.give(&name)
}

/// C_SetOperationState.
pub fn restore(state: &State, session: &mut Session, saved: &[u8]) -> Result<()> {
    let name: &[u8; 32] = saved.try_into().map_err(|_| Rv(CKR_SAVED_STATE_INVALID))?;
    let states = lock(&state.states);
    let kept = states.get(name).ok_or(Rv(CKR_SAVED_STATE_INVALID))?;
    session.digest = Some(kept.fork()?);
    Ok(())
}

impl Digesting {
    fn fork(&self) -> Result<Digesting> {
        Ok(Digesting {
            served: self.served.clone(),
            hashing: self.hashing.as_ref().map(Hashing::fork).transpose()?,
        })
    }

    fn hashing(&mut self) -> Result<&mut Hashing> {
        match &mut self.hashing {
            Some(hashing) => Ok(hashing),
            none => Ok(none.insert(self.served.hasher()?)),
        }
    }
}

/// A session of the hash with this name.
pub fn named(name: &str) -> Result<Served> {
    session(cryptofd_core::table::find(name)?)
}

/// What a hash gives of a message.
pub fn of(name: &str, data: &[u8]) -> Result<Vec<u8>> {
    let served = named(name)?;
    let mut digest = vec![0; served.digest_size()];
    served.digest(Input::from(data), &mut digest)?;
    Ok(digest)
}
