//! Searching: everything in the slot that a template describes.

use crate::attributes::Attributes;
use crate::keys;
use crate::module::{Session, State};
use crate::rv::{Result, Rv};
use crate::slot;
use cryptoki_sys::*;

/// C_FindObjectsInit.
pub fn begin(state: &State, session: &mut Session, template: &Attributes) -> Result<()> {
    if session.found.is_some() {
        return Err(Rv(CKR_OPERATION_ACTIVE));
    }
    if session.slot == slot::KEYS {
        keys::refresh(state)?;
    }
    let objects = state.objects.read().unwrap_or_else(|e| e.into_inner());
    let mut found: Vec<CK_OBJECT_HANDLE> = objects
        .iter()
        .filter(|(_, object)| object.slot == session.slot && object.matches(template))
        .map(|(handle, _)| *handle)
        .collect();
    // Given from the end.
    found.reverse();
    session.found = Some(found);
    Ok(())
}

/// C_FindObjects: the next ones, at most so many.
pub fn next(session: &mut Session, most: usize) -> Result<Vec<CK_OBJECT_HANDLE>> {
    let found = session
        .found
        .as_mut()
        .ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))?;
    let left = found.len().saturating_sub(most);
    let mut some = found.split_off(left);
    some.reverse();
    Ok(some)
}

/// C_FindObjectsFinal.
pub fn end(session: &mut Session) -> Result<()> {
    match session.found.take() {
        Some(_) => Ok(()),
        None => Err(Rv(CKR_OPERATION_NOT_INITIALIZED)),
    }
}
