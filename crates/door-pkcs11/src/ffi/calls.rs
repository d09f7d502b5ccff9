//! The functions, one by one: each is a call that is guarded, with its pointers read.

#![allow(non_snake_case)]

use super::{Out, Record, bytes, input, mechanism, template, watch_forks};
use crate::attributes::Attributes;
use crate::call::guarded;
use crate::mechanism as mechanisms;
use crate::module::{self, Session, State, lock};
use crate::rv::{Result, Rv};
use crate::signature::{self, Side};
use crate::{cipher, digest, generate, message, search, slot, wrapping};
use cryptofd_core::engine::Direction;
use cryptofd_core::engines::software;
use cryptofd_core::sys::buffer::Output;
use cryptofd_core::sys::fork;
use cryptoki_sys::*;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

type Handle = CK_SESSION_HANDLE;
const BAD: Rv = Rv(CKR_ARGUMENTS_BAD);
const NO: Rv = Rv(CKR_FUNCTION_NOT_SUPPORTED);

/// The process that initialized.
static MAKER: AtomicU64 = AtomicU64::new(0);

fn on(handle: Handle, f: impl FnOnce(&State, &mut Session) -> Result<()>) -> CK_RV {
    guarded(|| {
        let state = module::state()?;
        let session = state.session(handle)?;
        let mut session = lock(&session);
        f(&state, &mut session)
    })
}

/// # Safety
/// `place` is null or writable.
unsafe fn put<T>(place: *mut T, value: T) -> Result<()> {
    if place.is_null() {
        return Err(BAD);
    }
    // SAFETY: as the caller vouches.
    unsafe { place.write_unaligned(value) };
    Ok(())
}

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut out = [b' '; N];
    let length = text.len().min(N);
    out[..length].copy_from_slice(&text.as_bytes()[..length]);
    out
}

fn version(text: &str) -> CK_VERSION {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    CK_VERSION {
        major: parts.next().unwrap_or(0),
        minor: parts.next().unwrap_or(0),
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
const MAKERS: &str = "cryptofd";

/// # Safety
/// `list` is null or has room for as many numbers as `count` says, which is valid.
unsafe fn numbers(all: &[CK_ULONG], list: *mut CK_ULONG, count: *mut CK_ULONG) -> Result<()> {
    if count.is_null() {
        return Err(BAD);
    }
    // SAFETY: as the caller vouches.
    unsafe {
        let room = *count as usize;
        *count = all.len() as CK_ULONG;
        if list.is_null() {
            return Ok(());
        }
        if room < all.len() {
            return Err(Rv(CKR_BUFFER_TOO_SMALL));
        }
        for (number, one) in all.iter().enumerate() {
            list.add(number).write_unaligned(*one);
        }
    }
    Ok(())
}

/// # Safety
/// As PKCS#11 has it of C_Initialize.
pub unsafe extern "C" fn C_Initialize(args: *mut c_void) -> CK_RV {
    guarded(|| {
        if !args.is_null() {
            // SAFETY: what PKCS#11 says is given here.
            let args = unsafe { args.cast::<CK_C_INITIALIZE_ARGS>().read_unaligned() };
            if !args.pReserved.is_null() {
                // NSS gives its module's parameters here; there is nothing to set.
                let _ = args.pReserved;
            }
            let own = [
                args.CreateMutex.is_some(),
                args.DestroyMutex.is_some(),
                args.LockMutex.is_some(),
                args.UnlockMutex.is_some(),
            ];
            if own.contains(&true) && own.contains(&false) {
                return Err(BAD);
            }
            if own.contains(&true) && args.flags & CKF_OS_LOCKING_OK == 0 {
                return Err(Rv(CKR_CANT_LOCK));
            }
        }
        watch_forks();
        let generation = fork::generation();
        // In a child the parent's sessions may be left behind.
        let again = MAKER.swap(generation, Ordering::Relaxed) != generation;
        module::begin(again)
    })
}

/// # Safety
/// As PKCS#11 has it of C_Finalize.
pub unsafe extern "C" fn C_Finalize(reserved: *mut c_void) -> CK_RV {
    guarded(|| {
        if !reserved.is_null() {
            return Err(BAD);
        }
        module::end()
    })
}

/// # Safety
/// As PKCS#11 has it of C_GetInfo.
pub unsafe extern "C" fn C_GetInfo(info: *mut CK_INFO) -> CK_RV {
    guarded(|| {
        module::state()?;
        let told = CK_INFO {
            cryptokiVersion: CK_VERSION { major: 3, minor: 0 },
            manufacturerID: padded(MAKERS),
            flags: 0,
            libraryDescription: padded("cryptofd: keys never read"),
            libraryVersion: version(VERSION),
        };
        // SAFETY: null or writable, by PKCS#11.
        unsafe { put(info, told) }
    })
}

/// # Safety
/// As PKCS#11 has it of C_GetSlotList.
pub unsafe extern "C" fn C_GetSlotList(
    _present: CK_BBOOL,
    list: *mut CK_SLOT_ID,
    count: *mut CK_ULONG,
) -> CK_RV {
    guarded(|| {
        module::state()?;
        // SAFETY: as PKCS#11 says.
        unsafe { numbers(&slot::ALL, list, count) }
    })
}

/// # Safety
/// As PKCS#11 has it of C_GetSlotInfo.
pub unsafe extern "C" fn C_GetSlotInfo(id: CK_SLOT_ID, info: *mut CK_SLOT_INFO) -> CK_RV {
    guarded(|| {
        module::state()?;
        slot::check(id)?;
        let told = CK_SLOT_INFO {
            slotDescription: padded(slot::description(id)),
            manufacturerID: padded(MAKERS),
            flags: CKF_TOKEN_PRESENT,
            hardwareVersion: version(VERSION),
            firmwareVersion: version(VERSION),
        };
        // SAFETY: null or writable, by PKCS#11.
        unsafe { put(info, told) }
    })
}

/// # Safety
/// As PKCS#11 has it of C_GetTokenInfo.
pub unsafe extern "C" fn C_GetTokenInfo(id: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> CK_RV {
    guarded(|| {
        let state = module::state()?;
        slot::check(id)?;
        let (all, writing) = state.count(id);
        let told = CK_TOKEN_INFO {
            label: padded(slot::label(id)),
            manufacturerID: padded(MAKERS),
            model: padded("cryptofd"),
            serialNumber: padded(&format!("{id:x}")),
            flags: slot::flags(id),
            ulMaxSessionCount: CK_EFFECTIVELY_INFINITE,
            ulSessionCount: all as CK_ULONG,
            ulMaxRwSessionCount: CK_EFFECTIVELY_INFINITE,
            ulRwSessionCount: writing as CK_ULONG,
            ulMaxPinLen: 256,
            ulMinPinLen: 0,
            ulTotalPublicMemory: CK_UNAVAILABLE_INFORMATION,
            ulFreePublicMemory: CK_UNAVAILABLE_INFORMATION,
            ulTotalPrivateMemory: CK_UNAVAILABLE_INFORMATION,
            ulFreePrivateMemory: CK_UNAVAILABLE_INFORMATION,
            hardwareVersion: version(VERSION),
            firmwareVersion: version(VERSION),
            utcTime: padded(""),
        };
        // SAFETY: null or writable, by PKCS#11.
        unsafe { put(info, told) }
    })
}

/// # Safety
/// As PKCS#11 has it of C_GetMechanismList.
pub unsafe extern "C" fn C_GetMechanismList(
    id: CK_SLOT_ID,
    list: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    guarded(|| {
        module::state()?;
        slot::check(id)?;
        let all: Vec<CK_MECHANISM_TYPE> = mechanisms::all().keys().copied().collect();
        // SAFETY: as PKCS#11 says.
        unsafe { numbers(&all, list, count) }
    })
}

/// # Safety
/// As PKCS#11 has it of C_GetMechanismInfo.
pub unsafe extern "C" fn C_GetMechanismInfo(
    id: CK_SLOT_ID,
    kind: CK_MECHANISM_TYPE,
    info: *mut CK_MECHANISM_INFO,
) -> CK_RV {
    guarded(|| {
        module::state()?;
        slot::check(id)?;
        let known = mechanisms::find(kind)?;
        let told = CK_MECHANISM_INFO {
            ulMinKeySize: known.sizes.0,
            ulMaxKeySize: known.sizes.1,
            flags: known.flags,
        };
        // SAFETY: null or writable, by PKCS#11.
        unsafe { put(info, told) }
    })
}

/// # Safety
/// As PKCS#11 has it of C_OpenSession.
pub unsafe extern "C" fn C_OpenSession(
    id: CK_SLOT_ID,
    flags: CK_FLAGS,
    _application: *mut c_void,
    _notify: CK_NOTIFY,
    handle: *mut Handle,
) -> CK_RV {
    guarded(|| {
        let state = module::state()?;
        if handle.is_null() {
            return Err(BAD);
        }
        let opened = state.open(id, flags)?;
        // SAFETY: writable, by PKCS#11.
        unsafe { put(handle, opened) }
    })
}

/// # Safety
/// As PKCS#11 has it of C_CloseSession.
pub unsafe extern "C" fn C_CloseSession(handle: Handle) -> CK_RV {
    guarded(|| module::state()?.close(handle))
}

/// # Safety
/// As PKCS#11 has it of C_CloseAllSessions.
pub unsafe extern "C" fn C_CloseAllSessions(id: CK_SLOT_ID) -> CK_RV {
    guarded(|| module::state()?.close_all(id))
}

/// # Safety
/// As PKCS#11 has it of C_GetSessionInfo.
pub unsafe extern "C" fn C_GetSessionInfo(handle: Handle, info: *mut CK_SESSION_INFO) -> CK_RV {
    on(handle, |state, session| {
        let logged_in = session.slot == slot::KEYS && state.logged_in.load(Ordering::Relaxed);
        let told = CK_SESSION_INFO {
            slotID: session.slot,
            state: match (session.writes, logged_in) {
                (false, false) => CKS_RO_PUBLIC_SESSION,
                (true, false) => CKS_RW_PUBLIC_SESSION,
                (false, true) => CKS_RO_USER_FUNCTIONS,
                (true, true) => CKS_RW_USER_FUNCTIONS,
            },
            flags: CKF_SERIAL_SESSION | if session.writes { CKF_RW_SESSION } else { 0 },
            ulDeviceError: 0,
        };
        // SAFETY: null or writable, by PKCS#11.
        unsafe { put(info, told) }
    })
}

/// # Safety
/// As PKCS#11 has it of C_GetOperationState.
pub unsafe extern "C" fn C_GetOperationState(
    handle: Handle,
    state: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    on(handle, |all, session| {
        // SAFETY: as PKCS#11 says.
        let mut out = unsafe { Out::new(state, length)? };
        digest::save(all, session, &mut out)
    })
}

/// # Safety
/// As PKCS#11 has it of C_SetOperationState.
pub unsafe extern "C" fn C_SetOperationState(
    handle: Handle,
    state: *mut CK_BYTE,
    length: CK_ULONG,
    _encryption: CK_OBJECT_HANDLE,
    _authentication: CK_OBJECT_HANDLE,
) -> CK_RV {
    on(handle, |all, session| {
        // SAFETY: as PKCS#11 says.
        let saved = unsafe { bytes(state, length)? };
        digest::restore(all, session, &saved)
    })
}

/// # Safety
/// As PKCS#11 has it of C_Login.
pub unsafe extern "C" fn C_Login(
    handle: Handle,
    user: CK_USER_TYPE,
    _pin: *mut CK_UTF8CHAR,
    _length: CK_ULONG,
) -> CK_RV {
    on(handle, |state, session| {
        if session.slot != slot::KEYS || user == CKU_SO {
            return Err(Rv(CKR_USER_TYPE_INVALID));
        }
        // Who connects is whom the broker sees: there is nothing to check here.
        if state.logged_in.swap(true, Ordering::Relaxed) {
            return Err(Rv(CKR_USER_ALREADY_LOGGED_IN));
        }
        Ok(())
    })
}

/// # Safety
/// As PKCS#11 has it of C_Logout.
pub unsafe extern "C" fn C_Logout(handle: Handle) -> CK_RV {
    on(handle, |state, session| {
        if session.slot != slot::KEYS || !state.logged_in.swap(false, Ordering::Relaxed) {
            return Err(Rv(CKR_USER_NOT_LOGGED_IN));
        }
        Ok(())
    })
}

/// # Safety
/// As PKCS#11 has it of C_CreateObject.
pub unsafe extern "C" fn C_CreateObject(
    handle: Handle,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    object: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    on(handle, |state, session| {
        if object.is_null() {
            return Err(BAD);
        }
        // SAFETY: as PKCS#11 says.
        unsafe {
            put(
                object,
                generate::create(state, session, template(attributes, count)?)?,
            )
        }
    })
}

/// # Safety
/// As PKCS#11 has it of C_CopyObject.
pub unsafe extern "C" fn C_CopyObject(
    handle: Handle,
    old: CK_OBJECT_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    object: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    on(handle, |state, session| {
        if object.is_null() {
            return Err(BAD);
        }
        // SAFETY: as PKCS#11 says.
        unsafe {
            put(
                object,
                generate::copy(state, session, old, &template(attributes, count)?)?,
            )
        }
    })
}

/// # Safety
/// As PKCS#11 has it of C_DestroyObject.
pub unsafe extern "C" fn C_DestroyObject(handle: Handle, object: CK_OBJECT_HANDLE) -> CK_RV {
    on(handle, |state, session| {
        generate::destroy(state, session, object)
    })
}

/// # Safety
/// As PKCS#11 has it of C_GetObjectSize.
pub unsafe extern "C" fn C_GetObjectSize(
    handle: Handle,
    object: CK_OBJECT_HANDLE,
    size: *mut CK_ULONG,
) -> CK_RV {
    on(handle, |state, session| {
        let object = state.object(session.slot, object)?;
        // SAFETY: null or writable, by PKCS#11.
        unsafe { put(size, object.size() as CK_ULONG) }
    })
}

/// # Safety
/// As PKCS#11 has it of C_GetAttributeValue.
pub unsafe extern "C" fn C_GetAttributeValue(
    handle: Handle,
    object: CK_OBJECT_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    on(handle, |state, session| {
        let object = state.object(session.slot, object)?;
        if attributes.is_null() || count > 4096 {
            return Err(BAD);
        }
        let mut done = Ok(());
        for number in 0..count as usize {
            // SAFETY: as many attributes as said, by PKCS#11.
            let place = unsafe { attributes.add(number) };
            // SAFETY: as above.
            let mut one = unsafe { place.read_unaligned() };
            match object.attribute(one.type_) {
                Ok(value) if one.pValue.is_null() => one.ulValueLen = value.len() as CK_ULONG,
                Ok(value) if (one.ulValueLen as usize) < value.len() => {
                    one.ulValueLen = CK_UNAVAILABLE_INFORMATION;
                    done = Err(Rv(CKR_BUFFER_TOO_SMALL));
                }
                Ok(value) => {
                    // SAFETY: writable for as many bytes as said, by PKCS#11.
                    unsafe { Output::from_raw(one.pValue.cast(), value.len()) }.copy_from(&value);
                    one.ulValueLen = value.len() as CK_ULONG;
                }
                Err(error) => {
                    one.ulValueLen = CK_UNAVAILABLE_INFORMATION;
                    done = Err(error);
                }
            }
            // SAFETY: as above.
            unsafe { place.write_unaligned(one) };
        }
        done
    })
}

/// # Safety
/// As PKCS#11 has it of C_SetAttributeValue.
pub unsafe extern "C" fn C_SetAttributeValue(
    handle: Handle,
    object: CK_OBJECT_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    on(handle, |state, session| {
        // SAFETY: as PKCS#11 says.
        let changes = unsafe { template(attributes, count)? };
        generate::change(state, session, object, &changes)
    })
}

/// # Safety
/// As PKCS#11 has it of C_FindObjectsInit.
pub unsafe extern "C" fn C_FindObjectsInit(
    handle: Handle,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    on(handle, |state, session| {
        // SAFETY: as PKCS#11 says.
        let wanted: Attributes = unsafe { template(attributes, count)? };
        search::begin(state, session, &wanted)
    })
}

/// # Safety
/// As PKCS#11 has it of C_FindObjects.
pub unsafe extern "C" fn C_FindObjects(
    handle: Handle,
    objects: *mut CK_OBJECT_HANDLE,
    most: CK_ULONG,
    count: *mut CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        if count.is_null() || (objects.is_null() && most > 0) {
            return Err(BAD);
        }
        let some = search::next(session, most as usize)?;
        for (number, one) in some.iter().enumerate() {
            // SAFETY: room for `most`, by PKCS#11.
            unsafe { objects.add(number).write_unaligned(*one) };
        }
        // SAFETY: writable, by PKCS#11.
        unsafe { put(count, some.len() as CK_ULONG) }
    })
}

/// # Safety
/// As PKCS#11 has it of C_FindObjectsFinal.
pub unsafe extern "C" fn C_FindObjectsFinal(handle: Handle) -> CK_RV {
    on(handle, |_, session| search::end(session))
}

/// # Safety
/// As PKCS#11 has it of C_EncryptInit.
pub unsafe extern "C" fn C_EncryptInit(
    handle: Handle,
    by: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    on(handle, |state, session| {
        if by.is_null() {
            cipher::cancel(session, Direction::Encrypt);
            return Ok(());
        }
        // SAFETY: as PKCS#11 says.
        let mechanism = unsafe { mechanism(by)? };
        cipher::begin(state, session, Direction::Encrypt, &mechanism, key)
    })
}

/// # Safety
/// As PKCS#11 has it of C_Encrypt.
pub unsafe extern "C" fn C_Encrypt(
    handle: Handle,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    result: *mut CK_BYTE,
    result_length: *mut CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        // SAFETY: as PKCS#11 says.
        let (data, mut out) = unsafe { (input(data, length)?, Out::new(result, result_length)?) };
        cipher::whole(session, Direction::Encrypt, data, &mut out)
    })
}

/// # Safety
/// As PKCS#11 has it of C_EncryptUpdate.
pub unsafe extern "C" fn C_EncryptUpdate(
    handle: Handle,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    result: *mut CK_BYTE,
    result_length: *mut CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        // SAFETY: as PKCS#11 says.
        let (data, mut out) = unsafe { (input(data, length)?, Out::new(result, result_length)?) };
        cipher::update(session, Direction::Encrypt, data, &mut out)
    })
}

/// # Safety
/// As PKCS#11 has it of C_EncryptFinal.
pub unsafe extern "C" fn C_EncryptFinal(
    handle: Handle,
    result: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        // SAFETY: as PKCS#11 says.
        let mut out = unsafe { Out::new(result, length)? };
        cipher::finish(session, Direction::Encrypt, &mut out)
    })
}

/// # Safety
/// As PKCS#11 has it of C_DecryptInit.
pub unsafe extern "C" fn C_DecryptInit(
    handle: Handle,
    by: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    on(handle, |state, session| {
        if by.is_null() {
            cipher::cancel(session, Direction::Decrypt);
            return Ok(());
        }
        // SAFETY: as PKCS#11 says.
        let mechanism = unsafe { mechanism(by)? };
        cipher::begin(state, session, Direction::Decrypt, &mechanism, key)
    })
}

/// # Safety
/// As PKCS#11 has it of C_Decrypt.
pub unsafe extern "C" fn C_Decrypt(
    handle: Handle,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    result: *mut CK_BYTE,
    result_length: *mut CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        // SAFETY: as PKCS#11 says.
        let (data, mut out) = unsafe { (input(data, length)?, Out::new(result, result_length)?) };
        cipher::whole(session, Direction::Decrypt, data, &mut out)
    })
}

/// # Safety
/// As PKCS#11 has it of C_DecryptUpdate.
pub unsafe extern "C" fn C_DecryptUpdate(
    handle: Handle,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    result: *mut CK_BYTE,
    result_length: *mut CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        // SAFETY: as PKCS#11 says.
        let (data, mut out) = unsafe { (input(data, length)?, Out::new(result, result_length)?) };
        cipher::update(session, Direction::Decrypt, data, &mut out)
    })
}

/// # Safety
/// As PKCS#11 has it of C_DecryptFinal.
pub unsafe extern "C" fn C_DecryptFinal(
    handle: Handle,
    result: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        // SAFETY: as PKCS#11 says.
        let mut out = unsafe { Out::new(result, length)? };
        cipher::finish(session, Direction::Decrypt, &mut out)
    })
}

/// # Safety
/// As PKCS#11 has it of C_DigestInit.
pub unsafe extern "C" fn C_DigestInit(handle: Handle, by: *mut CK_MECHANISM) -> CK_RV {
    on(handle, |_, session| {
        if by.is_null() {
            session.digest = None;
            return Ok(());
        }
        // SAFETY: as PKCS#11 says.
        let mechanism = unsafe { mechanism(by)? };
        digest::begin(session, &mechanism)
    })
}

/// # Safety
/// As PKCS#11 has it of C_Digest.
pub unsafe extern "C" fn C_Digest(
    handle: Handle,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    result: *mut CK_BYTE,
    result_length: *mut CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        // SAFETY: as PKCS#11 says.
        let (data, mut out) = unsafe { (input(data, length)?, Out::new(result, result_length)?) };
        digest::whole(session, data, &mut out)
    })
}

/// # Safety
/// As PKCS#11 has it of C_DigestUpdate.
pub unsafe extern "C" fn C_DigestUpdate(
    handle: Handle,
    data: *mut CK_BYTE,
    length: CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        // SAFETY: as PKCS#11 says.
        let data = unsafe { input(data, length)? };
        digest::update(session, data)
    })
}

/// # Safety
/// As PKCS#11 has it of C_DigestKey.
pub unsafe extern "C" fn C_DigestKey(handle: Handle, key: CK_OBJECT_HANDLE) -> CK_RV {
    on(handle, |state, session| digest::key(state, session, key))
}

/// # Safety
/// As PKCS#11 has it of C_DigestFinal.
pub unsafe extern "C" fn C_DigestFinal(
    handle: Handle,
    result: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        // SAFETY: as PKCS#11 says.
        let mut out = unsafe { Out::new(result, length)? };
        digest::finish(session, &mut out)
    })
}

/// # Safety
/// As PKCS#11 has it of C_SignInit.
pub unsafe extern "C" fn C_SignInit(
    handle: Handle,
    by: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    on(handle, |state, session| {
        if by.is_null() {
            signature::cancel(session, Side::Sign);
            return Ok(());
        }
        // SAFETY: as PKCS#11 says.
        let mechanism = unsafe { mechanism(by)? };
        signature::begin(state, session, Side::Sign, &mechanism, key)
    })
}

/// # Safety
/// As PKCS#11 has it of C_SignUpdate.
pub unsafe extern "C" fn C_SignUpdate(
    handle: Handle,
    data: *mut CK_BYTE,
    length: CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        // SAFETY: as PKCS#11 says.
        let data = unsafe { input(data, length)? };
        signature::update(session, Side::Sign, data)
    })
}

/// # Safety
/// As PKCS#11 has it of C_VerifyInit.
pub unsafe extern "C" fn C_VerifyInit(
    handle: Handle,
    by: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    on(handle, |state, session| {
        if by.is_null() {
            signature::cancel(session, Side::Verify);
            return Ok(());
        }
        // SAFETY: as PKCS#11 says.
        let mechanism = unsafe { mechanism(by)? };
        signature::begin(state, session, Side::Verify, &mechanism, key)
    })
}

/// # Safety
/// As PKCS#11 has it of C_VerifyUpdate.
pub unsafe extern "C" fn C_VerifyUpdate(
    handle: Handle,
    data: *mut CK_BYTE,
    length: CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        // SAFETY: as PKCS#11 says.
        let data = unsafe { input(data, length)? };
        signature::update(session, Side::Verify, data)
    })
}

/// # Safety
/// As PKCS#11 has it of C_Sign.
pub unsafe extern "C" fn C_Sign(
    handle: Handle,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    result: *mut CK_BYTE,
    result_length: *mut CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        // SAFETY: as PKCS#11 says.
        let (data, mut out) = unsafe { (input(data, length)?, Out::new(result, result_length)?) };
        signature::sign(session, data, &mut out)
    })
}

/// # Safety
/// As PKCS#11 has it of C_SignFinal.
pub unsafe extern "C" fn C_SignFinal(
    handle: Handle,
    result: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        // SAFETY: as PKCS#11 says.
        let mut out = unsafe { Out::new(result, length)? };
        signature::sign_finish(session, &mut out)
    })
}

/// # Safety
/// As PKCS#11 has it of C_Verify.
pub unsafe extern "C" fn C_Verify(
    handle: Handle,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    signature: *mut CK_BYTE,
    signature_length: CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        // SAFETY: as PKCS#11 says.
        let (data, signature) =
            unsafe { (input(data, length)?, bytes(signature, signature_length)?) };
        signature::verify(session, data, &signature)
    })
}

/// # Safety
/// As PKCS#11 has it of C_VerifyFinal.
pub unsafe extern "C" fn C_VerifyFinal(
    handle: Handle,
    signature: *mut CK_BYTE,
    length: CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        // SAFETY: as PKCS#11 says.
        let signature = unsafe { bytes(signature, length)? };
        signature::verify_finish(session, &signature)
    })
}

/// # Safety
/// As PKCS#11 has it of C_GenerateKey.
pub unsafe extern "C" fn C_GenerateKey(
    handle: Handle,
    by: *mut CK_MECHANISM,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    on(handle, |state, session| {
        if key.is_null() {
            return Err(BAD);
        }
        // SAFETY: as PKCS#11 says.
        unsafe {
            let (mechanism, attributes) = (mechanism(by)?, template(attributes, count)?);
            put(key, generate::key(state, session, &mechanism, attributes)?)
        }
    })
}

/// # Safety
/// As PKCS#11 has it of C_GenerateKeyPair.
pub unsafe extern "C" fn C_GenerateKeyPair(
    handle: Handle,
    by: *mut CK_MECHANISM,
    public: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public_key: *mut CK_OBJECT_HANDLE,
    private_key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    on(handle, |state, session| {
        if public_key.is_null() || private_key.is_null() {
            return Err(BAD);
        }
        // SAFETY: as PKCS#11 says.
        unsafe {
            let mechanism = mechanism(by)?;
            let (public, private) = (
                template(public, public_count)?,
                template(private, private_count)?,
            );
            let (one, other) = generate::key_pair(state, session, &mechanism, public, private)?;
            put(public_key, one)?;
            put(private_key, other)
        }
    })
}

/// # Safety
/// As PKCS#11 has it of C_WrapKey.
pub unsafe extern "C" fn C_WrapKey(
    handle: Handle,
    by: *mut CK_MECHANISM,
    wrapping: CK_OBJECT_HANDLE,
    key: CK_OBJECT_HANDLE,
    result: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    on(handle, |state, session| {
        // SAFETY: as PKCS#11 says.
        let (mechanism, mut out) = unsafe { (mechanism(by)?, Out::new(result, length)?) };
        wrapping::wrap(state, session, &mechanism, wrapping, key, &mut out)
    })
}

/// # Safety
/// As PKCS#11 has it of C_UnwrapKey.
pub unsafe extern "C" fn C_UnwrapKey(
    handle: Handle,
    by: *mut CK_MECHANISM,
    unwrapping: CK_OBJECT_HANDLE,
    wrapped: *mut CK_BYTE,
    length: CK_ULONG,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    on(handle, |state, session| {
        if key.is_null() {
            return Err(BAD);
        }
        // SAFETY: as PKCS#11 says.
        unsafe {
            let (mechanism, wrapped) = (mechanism(by)?, bytes(wrapped, length)?);
            let attributes = template(attributes, count)?;
            let made =
                wrapping::unwrap(state, session, &mechanism, unwrapping, &wrapped, attributes)?;
            put(key, made)
        }
    })
}

/// # Safety
/// As PKCS#11 has it of C_DeriveKey.
pub unsafe extern "C" fn C_DeriveKey(
    handle: Handle,
    by: *mut CK_MECHANISM,
    base: CK_OBJECT_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    on(handle, |state, session| {
        // SAFETY: as PKCS#11 says.
        let (mechanism, attributes) = unsafe { (mechanism(by)?, template(attributes, count)?) };
        let several = matches!(
            mechanism.parameter,
            crate::parameter::Parameter::TlsKeys { .. }
        );
        if key.is_null() && !several {
            return Err(BAD);
        }
        match wrapping::derive(state, session, &mechanism, base, attributes)? {
            // SAFETY: writable, by PKCS#11.
            Some(made) => unsafe { put(key, made) },
            None => Ok(()),
        }
    })
}

/// # Safety
/// As PKCS#11 has it of C_SeedRandom.
pub unsafe extern "C" fn C_SeedRandom(
    handle: Handle,
    seed: *mut CK_BYTE,
    length: CK_ULONG,
) -> CK_RV {
    on(handle, |_, _| {
        // Taken, and not used: our source needs nobody's help, and hears from nobody.
        // SAFETY: as PKCS#11 says.
        unsafe { input(seed, length) }.map(drop)
    })
}

/// # Safety
/// As PKCS#11 has it of C_GenerateRandom.
pub unsafe extern "C" fn C_GenerateRandom(
    handle: Handle,
    result: *mut CK_BYTE,
    length: CK_ULONG,
) -> CK_RV {
    on(handle, |_, _| {
        if result.is_null() && length > 0 {
            return Err(BAD);
        }
        let mut done = 0;
        let mut piece = [0; 4096];
        while done < length as usize {
            let some = (length as usize - done).min(piece.len());
            software::random(&mut piece[..some])?;
            // SAFETY: writable for `length` bytes, by PKCS#11.
            unsafe { Output::from_raw(result.add(done), some) }.copy_from(&piece[..some]);
            done += some;
        }
        Output::from(&mut piece[..]).wipe();
        Ok(())
    })
}

/// # Safety
/// As PKCS#11 has it of C_GetFunctionStatus.
pub unsafe extern "C" fn C_GetFunctionStatus(_handle: Handle) -> CK_RV {
    CKR_FUNCTION_NOT_PARALLEL
}

/// # Safety
/// As PKCS#11 has it of C_CancelFunction.
pub unsafe extern "C" fn C_CancelFunction(_handle: Handle) -> CK_RV {
    CKR_FUNCTION_NOT_PARALLEL
}

/// # Safety
/// As PKCS#11 has it of C_WaitForSlotEvent.
pub unsafe extern "C" fn C_WaitForSlotEvent(
    flags: CK_FLAGS,
    _id: *mut CK_SLOT_ID,
    _reserved: *mut c_void,
) -> CK_RV {
    guarded(|| {
        module::state()?;
        // The slots are there, always.
        if flags & CKF_DONT_BLOCK != 0 {
            Err(Rv(CKR_NO_EVENT))
        } else {
            Err(NO)
        }
    })
}

/// # Safety
/// As PKCS#11 has it of C_InitToken.
pub unsafe extern "C" fn C_InitToken(
    _id: CK_SLOT_ID,
    _pin: *mut CK_UTF8CHAR,
    _length: CK_ULONG,
    _label: *mut CK_UTF8CHAR,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_InitPIN.
pub unsafe extern "C" fn C_InitPIN(
    _handle: Handle,
    _pin: *mut CK_UTF8CHAR,
    _length: CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_SetPIN.
pub unsafe extern "C" fn C_SetPIN(
    _handle: Handle,
    _old: *mut CK_UTF8CHAR,
    _old_length: CK_ULONG,
    _new: *mut CK_UTF8CHAR,
    _new_length: CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_SignRecoverInit.
pub unsafe extern "C" fn C_SignRecoverInit(
    _handle: Handle,
    _by: *mut CK_MECHANISM,
    _key: CK_OBJECT_HANDLE,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_VerifyRecoverInit.
pub unsafe extern "C" fn C_VerifyRecoverInit(
    _handle: Handle,
    _by: *mut CK_MECHANISM,
    _key: CK_OBJECT_HANDLE,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_SignRecover.
pub unsafe extern "C" fn C_SignRecover(
    _handle: Handle,
    _data: *mut CK_BYTE,
    _length: CK_ULONG,
    _result: *mut CK_BYTE,
    _result_length: *mut CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_VerifyRecover.
pub unsafe extern "C" fn C_VerifyRecover(
    _handle: Handle,
    _data: *mut CK_BYTE,
    _length: CK_ULONG,
    _result: *mut CK_BYTE,
    _result_length: *mut CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_DigestEncryptUpdate.
pub unsafe extern "C" fn C_DigestEncryptUpdate(
    _handle: Handle,
    _data: *mut CK_BYTE,
    _length: CK_ULONG,
    _result: *mut CK_BYTE,
    _result_length: *mut CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_DecryptDigestUpdate.
pub unsafe extern "C" fn C_DecryptDigestUpdate(
    _handle: Handle,
    _data: *mut CK_BYTE,
    _length: CK_ULONG,
    _result: *mut CK_BYTE,
    _result_length: *mut CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_SignEncryptUpdate.
pub unsafe extern "C" fn C_SignEncryptUpdate(
    _handle: Handle,
    _data: *mut CK_BYTE,
    _length: CK_ULONG,
    _result: *mut CK_BYTE,
    _result_length: *mut CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_DecryptVerifyUpdate.
pub unsafe extern "C" fn C_DecryptVerifyUpdate(
    _handle: Handle,
    _data: *mut CK_BYTE,
    _length: CK_ULONG,
    _result: *mut CK_BYTE,
    _result_length: *mut CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_LoginUser.
pub unsafe extern "C" fn C_LoginUser(
    handle: Handle,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    length: CK_ULONG,
    _name: *mut CK_UTF8CHAR,
    _name_length: CK_ULONG,
) -> CK_RV {
    {
        // SAFETY: the same pointers, for the same time.
        unsafe { C_Login(handle, user, pin, length) }
    }
}

/// # Safety
/// As PKCS#11 has it of C_SessionCancel.
pub unsafe extern "C" fn C_SessionCancel(handle: Handle, flags: CK_FLAGS) -> CK_RV {
    on(handle, |_, session| {
        let has = |flag| flags & flag != 0;
        if has(CKF_ENCRYPT) {
            session.encrypt = None;
        }
        if has(CKF_DECRYPT) {
            session.decrypt = None;
        }
        if has(CKF_DIGEST) {
            session.digest = None;
        }
        if has(CKF_SIGN) {
            session.sign = None;
        }
        if has(CKF_VERIFY) {
            session.verify = None;
        }
        if has(CKF_FIND_OBJECTS) {
            session.found = None;
        }
        if has(CKF_MESSAGE_ENCRYPT) {
            let _ = message::end(session, Direction::Encrypt);
        }
        if has(CKF_MESSAGE_DECRYPT) {
            let _ = message::end(session, Direction::Decrypt);
        }
        Ok(())
    })
}

/// # Safety
/// As PKCS#11 has it of C_MessageEncryptInit.
pub unsafe extern "C" fn C_MessageEncryptInit(
    handle: Handle,
    by: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    on(handle, |state, session| {
        if by.is_null() {
            let _ = message::end(session, Direction::Encrypt);
            return Ok(());
        }
        // SAFETY: as PKCS#11 says. The parameter is each message's.
        let kind = unsafe { by.read_unaligned() }.mechanism;
        let mechanism = crate::parameter::Mechanism {
            kind,
            parameter: crate::parameter::Parameter::None,
        };
        message::begin(state, session, Direction::Encrypt, &mechanism, key)
    })
}

/// # Safety
/// As PKCS#11 has it of C_EncryptMessage.
pub unsafe extern "C" fn C_EncryptMessage(
    handle: Handle,
    parameter: *mut c_void,
    parameter_length: CK_ULONG,
    aad: *mut CK_BYTE,
    aad_length: CK_ULONG,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    result: *mut CK_BYTE,
    result_length: *mut CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        let mechanism = session.messages.mechanism(Direction::Encrypt)?;
        // SAFETY: as PKCS#11 says.
        let (mut record, aad, data, mut out) = unsafe {
            let record = Record::read(mechanism, parameter, parameter_length)?;
            let (aad, data) = (bytes(aad, aad_length)?, input(data, length)?);
            (record, aad, data, Out::new(result, result_length)?)
        };
        message::whole(
            session,
            Direction::Encrypt,
            &mut record,
            &aad,
            data,
            &mut out,
        )
    })
}

/// # Safety
/// As PKCS#11 has it of C_EncryptMessageBegin.
pub unsafe extern "C" fn C_EncryptMessageBegin(
    handle: Handle,
    _parameter: *mut c_void,
    _parameter_length: CK_ULONG,
    aad: *mut CK_BYTE,
    aad_length: CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        // SAFETY: as PKCS#11 says.
        let aad = unsafe { bytes(aad, aad_length)? };
        message::start(session, Direction::Encrypt, &aad)
    })
}

/// # Safety
/// As PKCS#11 has it of C_EncryptMessageNext.
pub unsafe extern "C" fn C_EncryptMessageNext(
    handle: Handle,
    parameter: *mut c_void,
    parameter_length: CK_ULONG,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    result: *mut CK_BYTE,
    result_length: *mut CK_ULONG,
    flags: CK_FLAGS,
) -> CK_RV {
    on(handle, |_, session| {
        let mechanism = session.messages.mechanism(Direction::Encrypt)?;
        // SAFETY: as PKCS#11 says.
        let (mut record, data, mut out) = unsafe {
            let record = Record::read(mechanism, parameter, parameter_length)?;
            (
                record,
                input(data, length)?,
                Out::new(result, result_length)?,
            )
        };
        let last = flags & CKF_END_OF_MESSAGE != 0;
        message::next(
            session,
            Direction::Encrypt,
            &mut record,
            data,
            last,
            &mut out,
        )
    })
}

/// # Safety
/// As PKCS#11 has it of C_MessageEncryptFinal.
pub unsafe extern "C" fn C_MessageEncryptFinal(handle: Handle) -> CK_RV {
    on(handle, |_, session| {
        message::end(session, Direction::Encrypt)
    })
}

/// # Safety
/// As PKCS#11 has it of C_MessageDecryptInit.
pub unsafe extern "C" fn C_MessageDecryptInit(
    handle: Handle,
    by: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    on(handle, |state, session| {
        if by.is_null() {
            let _ = message::end(session, Direction::Decrypt);
            return Ok(());
        }
        // SAFETY: as PKCS#11 says. The parameter is each message's.
        let kind = unsafe { by.read_unaligned() }.mechanism;
        let mechanism = crate::parameter::Mechanism {
            kind,
            parameter: crate::parameter::Parameter::None,
        };
        message::begin(state, session, Direction::Decrypt, &mechanism, key)
    })
}

/// # Safety
/// As PKCS#11 has it of C_DecryptMessage.
pub unsafe extern "C" fn C_DecryptMessage(
    handle: Handle,
    parameter: *mut c_void,
    parameter_length: CK_ULONG,
    aad: *mut CK_BYTE,
    aad_length: CK_ULONG,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    result: *mut CK_BYTE,
    result_length: *mut CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        let mechanism = session.messages.mechanism(Direction::Decrypt)?;
        // SAFETY: as PKCS#11 says.
        let (mut record, aad, data, mut out) = unsafe {
            let record = Record::read(mechanism, parameter, parameter_length)?;
            let (aad, data) = (bytes(aad, aad_length)?, input(data, length)?);
            (record, aad, data, Out::new(result, result_length)?)
        };
        message::whole(
            session,
            Direction::Decrypt,
            &mut record,
            &aad,
            data,
            &mut out,
        )
    })
}

/// # Safety
/// As PKCS#11 has it of C_DecryptMessageBegin.
pub unsafe extern "C" fn C_DecryptMessageBegin(
    handle: Handle,
    _parameter: *mut c_void,
    _parameter_length: CK_ULONG,
    aad: *mut CK_BYTE,
    aad_length: CK_ULONG,
) -> CK_RV {
    on(handle, |_, session| {
        // SAFETY: as PKCS#11 says.
        let aad = unsafe { bytes(aad, aad_length)? };
        message::start(session, Direction::Decrypt, &aad)
    })
}

/// # Safety
/// As PKCS#11 has it of C_DecryptMessageNext.
pub unsafe extern "C" fn C_DecryptMessageNext(
    handle: Handle,
    parameter: *mut c_void,
    parameter_length: CK_ULONG,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    result: *mut CK_BYTE,
    result_length: *mut CK_ULONG,
    flags: CK_FLAGS,
) -> CK_RV {
    on(handle, |_, session| {
        let mechanism = session.messages.mechanism(Direction::Decrypt)?;
        // SAFETY: as PKCS#11 says.
        let (mut record, data, mut out) = unsafe {
            let record = Record::read(mechanism, parameter, parameter_length)?;
            (
                record,
                input(data, length)?,
                Out::new(result, result_length)?,
            )
        };
        let last = flags & CKF_END_OF_MESSAGE != 0;
        message::next(
            session,
            Direction::Decrypt,
            &mut record,
            data,
            last,
            &mut out,
        )
    })
}

/// # Safety
/// As PKCS#11 has it of C_MessageDecryptFinal.
pub unsafe extern "C" fn C_MessageDecryptFinal(handle: Handle) -> CK_RV {
    on(handle, |_, session| {
        message::end(session, Direction::Decrypt)
    })
}

/// # Safety
/// As PKCS#11 has it of C_MessageSignInit.
pub unsafe extern "C" fn C_MessageSignInit(
    _handle: Handle,
    _by: *mut CK_MECHANISM,
    _key: CK_OBJECT_HANDLE,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_MessageVerifyInit.
pub unsafe extern "C" fn C_MessageVerifyInit(
    _handle: Handle,
    _by: *mut CK_MECHANISM,
    _key: CK_OBJECT_HANDLE,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_SignMessage.
pub unsafe extern "C" fn C_SignMessage(
    _handle: Handle,
    _parameter: *mut c_void,
    _parameter_length: CK_ULONG,
    _data: *mut CK_BYTE,
    _length: CK_ULONG,
    _result: *mut CK_BYTE,
    _result_length: *mut CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_SignMessageNext.
pub unsafe extern "C" fn C_SignMessageNext(
    _handle: Handle,
    _parameter: *mut c_void,
    _parameter_length: CK_ULONG,
    _data: *mut CK_BYTE,
    _length: CK_ULONG,
    _result: *mut CK_BYTE,
    _result_length: *mut CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_VerifyMessage.
pub unsafe extern "C" fn C_VerifyMessage(
    _handle: Handle,
    _parameter: *mut c_void,
    _parameter_length: CK_ULONG,
    _data: *mut CK_BYTE,
    _length: CK_ULONG,
    _signature: *mut CK_BYTE,
    _signature_length: CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_VerifyMessageNext.
pub unsafe extern "C" fn C_VerifyMessageNext(
    _handle: Handle,
    _parameter: *mut c_void,
    _parameter_length: CK_ULONG,
    _data: *mut CK_BYTE,
    _length: CK_ULONG,
    _signature: *mut CK_BYTE,
    _signature_length: CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_SignMessageBegin.
pub unsafe extern "C" fn C_SignMessageBegin(
    _handle: Handle,
    _parameter: *mut c_void,
    _parameter_length: CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_VerifyMessageBegin.
pub unsafe extern "C" fn C_VerifyMessageBegin(
    _handle: Handle,
    _parameter: *mut c_void,
    _parameter_length: CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_MessageSignFinal.
pub unsafe extern "C" fn C_MessageSignFinal(_handle: Handle) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_MessageVerifyFinal.
pub unsafe extern "C" fn C_MessageVerifyFinal(_handle: Handle) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}
/// # Safety
/// As PKCS#11 has it of C_EncapsulateKey.
pub unsafe extern "C" fn C_EncapsulateKey(
    handle: Handle,
    by: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    ciphertext: *mut CK_BYTE,
    length: *mut CK_ULONG,
    made: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    on(handle, |state, session| {
        // SAFETY: as PKCS#11 says.
        let (mechanism, attributes, mut out) = unsafe {
            let attributes = template(attributes, count)?;
            (mechanism(by)?, attributes, Out::new(ciphertext, length)?)
        };
        if made.is_null() && out.capacity().is_some() {
            return Err(BAD);
        }
        match wrapping::encapsulate(state, session, &mechanism, key, attributes, &mut out)? {
            // SAFETY: writable, by PKCS#11.
            Some(handle) => unsafe { put(made, handle) },
            None => Ok(()),
        }
    })
}

/// # Safety
/// As PKCS#11 has it of C_DecapsulateKey.
pub unsafe extern "C" fn C_DecapsulateKey(
    handle: Handle,
    by: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    ciphertext: *mut CK_BYTE,
    length: CK_ULONG,
    made: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    on(handle, |state, session| {
        if made.is_null() {
            return Err(BAD);
        }
        // SAFETY: as PKCS#11 says.
        unsafe {
            let (mechanism, attributes) = (mechanism(by)?, template(attributes, count)?);
            let ciphertext = bytes(ciphertext, length)?;
            let secret =
                wrapping::decapsulate(state, session, &mechanism, key, &ciphertext, attributes)?;
            put(made, secret)
        }
    })
}

/// # Safety
/// As PKCS#11 has it of C_VerifySignatureInit.
pub unsafe extern "C" fn C_VerifySignatureInit(
    _handle: Handle,
    _by: *mut CK_MECHANISM,
    _key: CK_OBJECT_HANDLE,
    _signature: *mut CK_BYTE,
    _length: CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_VerifySignature.
pub unsafe extern "C" fn C_VerifySignature(
    _handle: Handle,
    _data: *mut CK_BYTE,
    _length: CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_VerifySignatureUpdate.
pub unsafe extern "C" fn C_VerifySignatureUpdate(
    _handle: Handle,
    _data: *mut CK_BYTE,
    _length: CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_VerifySignatureFinal.
pub unsafe extern "C" fn C_VerifySignatureFinal(_handle: Handle) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_GetSessionValidationFlags.
pub unsafe extern "C" fn C_GetSessionValidationFlags(
    _handle: Handle,
    _kind: CK_SESSION_VALIDATION_FLAGS_TYPE,
    _flags: *mut CK_FLAGS,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_AsyncComplete.
pub unsafe extern "C" fn C_AsyncComplete(
    _handle: Handle,
    _function: *mut CK_UTF8CHAR,
    _result: *mut CK_ASYNC_DATA,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_AsyncGetID.
pub unsafe extern "C" fn C_AsyncGetID(
    _handle: Handle,
    _function: *mut CK_UTF8CHAR,
    _id: *mut CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_AsyncJoin.
pub unsafe extern "C" fn C_AsyncJoin(
    _handle: Handle,
    _function: *mut CK_UTF8CHAR,
    _id: CK_ULONG,
    _data: *mut CK_BYTE,
    _length: CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_WrapKeyAuthenticated.
pub unsafe extern "C" fn C_WrapKeyAuthenticated(
    _handle: Handle,
    _by: *mut CK_MECHANISM,
    _key: CK_OBJECT_HANDLE,
    _wrapped: CK_OBJECT_HANDLE,
    _aad: *mut CK_BYTE,
    _aad_length: CK_ULONG,
    _result: *mut CK_BYTE,
    _length: *mut CK_ULONG,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}

/// # Safety
/// As PKCS#11 has it of C_UnwrapKeyAuthenticated.
pub unsafe extern "C" fn C_UnwrapKeyAuthenticated(
    _handle: Handle,
    _by: *mut CK_MECHANISM,
    _key: CK_OBJECT_HANDLE,
    _wrapped: *mut CK_BYTE,
    _length: CK_ULONG,
    _attributes: *mut CK_ATTRIBUTE,
    _count: CK_ULONG,
    _aad: *mut CK_BYTE,
    _aad_length: CK_ULONG,
    _made: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    guarded(|| module::state().and(Err(NO)))
}
