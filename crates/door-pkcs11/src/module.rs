//! What C_Initialize makes and C_Finalize takes away: sessions and objects by their handles.

use crate::attributes::Attributes;
use crate::cipher::Crypting;
use crate::digest::Digesting;
use crate::message::Messages;
use crate::object::{Material, Object};
use crate::rv::{Result, Rv};
use crate::signature::Signing;
use crate::slot;
use cryptoki_sys::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

/// One session: what is under way on it.
pub struct Session {
    pub handle: CK_SESSION_HANDLE,
    pub slot: CK_SLOT_ID,
    pub writes: bool,
    pub digest: Option<Digesting>,
    pub encrypt: Option<Crypting>,
    pub decrypt: Option<Crypting>,
    pub sign: Option<Signing>,
    pub verify: Option<Signing>,
    pub messages: Messages,
    /// What a search has found and not given yet.
    pub found: Option<Vec<CK_OBJECT_HANDLE>>,
}

/// The states of digests that programs took out; no more than so many are kept.
pub const STATES: usize = 4096;

/// The module's state.
#[derive(Default)]
pub struct State {
    sessions: RwLock<HashMap<CK_SESSION_HANDLE, Arc<Mutex<Session>>>>,
    pub objects: RwLock<BTreeMap<CK_OBJECT_HANDLE, Arc<Object>>>,
    last: AtomicU64,
    /// Whether the program has logged in to the keys' slot.
    pub logged_in: AtomicBool,
    /// Saved digests, by the random name that the program holds.
    pub states: Mutex<HashMap<[u8; 32], Digesting>>,
}

static STATE: RwLock<Option<Arc<State>>> = RwLock::new(None);

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// The state, if there is one.
pub fn state() -> Result<Arc<State>> {
    let state = STATE.read().unwrap_or_else(|e| e.into_inner());
    state.clone().ok_or(Rv(CKR_CRYPTOKI_NOT_INITIALIZED))
}

/// Makes the state. `again`: where there is one, it is made anew (in a forked child).
pub fn begin(again: bool) -> Result<()> {
    let mut state = STATE.write().unwrap_or_else(|e| e.into_inner());
    if state.is_some() && !again {
        return Err(Rv(CKR_CRYPTOKI_ALREADY_INITIALIZED));
    }
    *state = Some(Arc::default());
    Ok(())
}

/// Takes it away.
pub fn end() -> Result<()> {
    let mut state = STATE.write().unwrap_or_else(|e| e.into_inner());
    match state.take() {
        Some(_) => Ok(()),
        None => Err(Rv(CKR_CRYPTOKI_NOT_INITIALIZED)),
    }
}

impl State {
    /// A number that was never given out.
    pub fn next(&self) -> CK_ULONG {
        self.last.fetch_add(1, Ordering::Relaxed) as CK_ULONG + 1
    }

    /// Opens a session.
    pub fn open(&self, slot: CK_SLOT_ID, flags: CK_FLAGS) -> Result<CK_SESSION_HANDLE> {
        slot::check(slot)?;
        if flags & CKF_SERIAL_SESSION == 0 {
            return Err(Rv(CKR_SESSION_PARALLEL_NOT_SUPPORTED));
        }
        let handle = self.next();
        let session = Session {
            handle,
            slot,
            writes: flags & CKF_RW_SESSION != 0,
            digest: None,
            encrypt: None,
            decrypt: None,
            sign: None,
            verify: None,
            messages: Messages::default(),
            found: None,
        };
        let mut sessions = self.sessions.write().unwrap_or_else(|e| e.into_inner());
        sessions.insert(handle, Arc::new(Mutex::new(session)));
        Ok(handle)
    }

    /// A session.
    pub fn session(&self, handle: CK_SESSION_HANDLE) -> Result<Arc<Mutex<Session>>> {
        let sessions = self.sessions.read().unwrap_or_else(|e| e.into_inner());
        sessions
            .get(&handle)
            .cloned()
            .ok_or(Rv(CKR_SESSION_HANDLE_INVALID))
    }

    /// Ends a session, and the objects that end with it.
    pub fn close(&self, handle: CK_SESSION_HANDLE) -> Result<()> {
        let mut sessions = self.sessions.write().unwrap_or_else(|e| e.into_inner());
        let gone = sessions
            .remove(&handle)
            .ok_or(Rv(CKR_SESSION_HANDLE_INVALID))?;
        let slot = lock(&gone).slot;
        self.left(slot, &sessions);
        drop(sessions);
        self.forget(|object| object.owner == Some(handle));
        Ok(())
    }

    /// Ends all sessions of a slot.
    pub fn close_all(&self, slot: CK_SLOT_ID) -> Result<()> {
        slot::check(slot)?;
        let mut sessions = self.sessions.write().unwrap_or_else(|e| e.into_inner());
        sessions.retain(|_, session| lock(session).slot != slot);
        self.left(slot, &sessions);
        drop(sessions);
        self.forget(|object| object.slot == slot && object.owner.is_some());
        Ok(())
    }

    /// Without sessions nobody is logged in.
    fn left(&self, slot: CK_SLOT_ID, all: &HashMap<CK_SESSION_HANDLE, Arc<Mutex<Session>>>) {
        if slot == slot::KEYS && !all.values().any(|session| lock(session).slot == slot) {
            self.logged_in.store(false, Ordering::Relaxed);
        }
    }

    /// How many sessions a slot has, and how many of them write.
    pub fn count(&self, slot: CK_SLOT_ID) -> (usize, usize) {
        let sessions = self.sessions.read().unwrap_or_else(|e| e.into_inner());
        let of = sessions
            .values()
            .filter(|session| lock(session).slot == slot);
        of.fold((0, 0), |(all, writing), session| {
            (all + 1, writing + usize::from(lock(session).writes))
        })
    }

    /// Keeps an object; its handle.
    fn keep(&self, object: Arc<Object>) -> CK_OBJECT_HANDLE {
        let handle = self.next();
        let mut objects = self.objects.write().unwrap_or_else(|e| e.into_inner());
        objects.insert(handle, object);
        handle
    }

    /// Keeps an object that ends with its session; its handle.
    pub fn keep_in(
        &self,
        session: &Session,
        attributes: Attributes,
        material: Material,
    ) -> CK_OBJECT_HANDLE {
        let owner = Some(session.handle);
        self.keep(Object::new(attributes, material, session.slot, owner))
    }

    /// An object of a slot.
    pub fn object(&self, slot: CK_SLOT_ID, handle: CK_OBJECT_HANDLE) -> Result<Arc<Object>> {
        let objects = self.objects.read().unwrap_or_else(|e| e.into_inner());
        let found = objects.get(&handle).filter(|object| object.slot == slot);
        found.cloned().ok_or(Rv(CKR_OBJECT_HANDLE_INVALID))
    }

    /// A key of a slot.
    pub fn key(&self, slot: CK_SLOT_ID, handle: CK_OBJECT_HANDLE) -> Result<Arc<Object>> {
        let object = self.object(slot, handle);
        let object = object.map_err(|_| Rv(CKR_KEY_HANDLE_INVALID))?;
        object.key_type()?;
        Ok(object)
    }

    /// Drops an object.
    pub fn drop_object(&self, handle: CK_OBJECT_HANDLE) {
        let mut objects = self.objects.write().unwrap_or_else(|e| e.into_inner());
        objects.remove(&handle);
    }

    fn forget(&self, which: impl Fn(&Object) -> bool) {
        let mut objects = self.objects.write().unwrap_or_else(|e| e.into_inner());
        objects.retain(|_, object| !which(object));
    }
}
