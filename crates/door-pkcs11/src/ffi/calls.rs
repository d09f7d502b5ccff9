//! The functions, one by one: each is a call that is guarded, with its pointers read.

#![allow(non_snake_case)]

use super::{Out, Record, bytes, input, mechanism, messages, template};
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
use cryptofd_core::sys::{fork, gate};
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

/// A step of what was begun, which ends when the step fails; unless room was missing, or it was no step of it.
fn step(
    handle: Handle,
    cancel: impl FnOnce(&mut Session),
    f: impl FnOnce(&mut Session) -> Result<()>,
) -> CK_RV {
    on(handle, |_, session| {
        let done = f(session);
        if done.is_err_and(|rv| !matches!(rv.0, CKR_BUFFER_TOO_SMALL | CKR_OPERATION_ACTIVE)) {
            cancel(session);
        }
        done
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
        gate::watch_forks();
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
        let (known, flags) = (mechanisms::find(kind)?, mechanisms::flags(kind)?);
        let told = CK_MECHANISM_INFO {
            ulMinKeySize: known.sizes.0,
            ulMaxKeySize: known.sizes.1,
            flags,
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
    step(
        handle,
        |session| session.digest = None,
        |session| {
            // SAFETY: as PKCS#11 says.
            let (data, mut out) =
                unsafe { (input(data, length)?, Out::new(result, result_length)?) };
            digest::whole(session, data, &mut out)
        },
    )
}

/// # Safety
/// As PKCS#11 has it of C_DigestUpdate.
pub unsafe extern "C" fn C_DigestUpdate(
    handle: Handle,
    data: *mut CK_BYTE,
    length: CK_ULONG,
) -> CK_RV {
    step(
        handle,
        |session| session.digest = None,
        |session| {
            // SAFETY: as PKCS#11 says.
            let data = unsafe { input(data, length)? };
            digest::update(session, data)
        },
    )
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
    step(
        handle,
        |session| session.digest = None,
        |session| {
            // SAFETY: as PKCS#11 says.
            let mut out = unsafe { Out::new(result, length)? };
            digest::finish(session, &mut out)
        },
    )
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
    step(
        handle,
        |session| signature::cancel(session, Side::Sign),
        |session| {
            // SAFETY: as PKCS#11 says.
            let (data, mut out) =
                unsafe { (input(data, length)?, Out::new(result, result_length)?) };
            signature::sign(session, data, &mut out)
        },
    )
}

/// # Safety
/// As PKCS#11 has it of C_SignFinal.
pub unsafe extern "C" fn C_SignFinal(
    handle: Handle,
    result: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    step(
        handle,
        |session| signature::cancel(session, Side::Sign),
        |session| {
            // SAFETY: as PKCS#11 says.
            let mut out = unsafe { Out::new(result, length)? };
            signature::sign_finish(session, &mut out)
        },
    )
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
    step(
        handle,
        |session| signature::cancel(session, Side::Verify),
        |session| {
            // SAFETY: as PKCS#11 says.
            let (data, signature) =
                unsafe { (input(data, length)?, bytes(signature, signature_length)?) };
            signature::verify(session, data, &signature)
        },
    )
}

/// # Safety
/// As PKCS#11 has it of C_VerifyFinal.
pub unsafe extern "C" fn C_VerifyFinal(
    handle: Handle,
    signature: *mut CK_BYTE,
    length: CK_ULONG,
) -> CK_RV {
    step(
        handle,
        |session| signature::cancel(session, Side::Verify),
        |session| {
            // SAFETY: as PKCS#11 says.
            let signature = unsafe { bytes(signature, length)? };
            signature::verify_finish(session, &signature)
        },
    )
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

/// Encryption and decryption differ in their direction.
macro_rules! crypting {
    ($direction:expr, $x_init:ident, $x:ident, $x_update:ident, $x_final:ident, $message_x_init:ident, $x_message:ident, $x_message_begin:ident, $x_message_next:ident, $message_x_final:ident $(,)?) => {
        /// # Safety
        /// As PKCS#11 has it.
        pub unsafe extern "C" fn $x_init(
            handle: Handle,
            by: *mut CK_MECHANISM,
            key: CK_OBJECT_HANDLE,
        ) -> CK_RV {
            on(handle, |state, session| {
                if by.is_null() {
                    cipher::cancel(session, $direction);
                    return Ok(());
                }
                // SAFETY: as PKCS#11 says.
                let mechanism = unsafe { mechanism(by)? };
                cipher::begin(state, session, $direction, &mechanism, key)
            })
        }

        /// # Safety
        /// As PKCS#11 has it.
        pub unsafe extern "C" fn $x(
            handle: Handle,
            data: *mut CK_BYTE,
            length: CK_ULONG,
            result: *mut CK_BYTE,
            result_length: *mut CK_ULONG,
        ) -> CK_RV {
            step(
                handle,
                |session| cipher::cancel(session, $direction),
                |session| {
                    // SAFETY: as PKCS#11 says.
                    let data = unsafe { input(data, length)? };
                    // SAFETY: as above.
                    let mut out = unsafe { Out::new(result, result_length)? };
                    cipher::whole(session, $direction, data, &mut out)
                },
            )
        }

        /// # Safety
        /// As PKCS#11 has it.
        pub unsafe extern "C" fn $x_update(
            handle: Handle,
            data: *mut CK_BYTE,
            length: CK_ULONG,
            result: *mut CK_BYTE,
            result_length: *mut CK_ULONG,
        ) -> CK_RV {
            step(
                handle,
                |session| cipher::cancel(session, $direction),
                |session| {
                    // SAFETY: as PKCS#11 says.
                    let data = unsafe { input(data, length)? };
                    // SAFETY: as above.
                    let mut out = unsafe { Out::new(result, result_length)? };
                    cipher::update(session, $direction, data, &mut out)
                },
            )
        }

        /// # Safety
        /// As PKCS#11 has it.
        pub unsafe extern "C" fn $x_final(
            handle: Handle,
            result: *mut CK_BYTE,
            length: *mut CK_ULONG,
        ) -> CK_RV {
            step(
                handle,
                |session| cipher::cancel(session, $direction),
                |session| {
                    // SAFETY: as PKCS#11 says.
                    let mut out = unsafe { Out::new(result, length)? };
                    cipher::finish(session, $direction, &mut out)
                },
            )
        }

        /// # Safety
        /// As PKCS#11 has it.
        pub unsafe extern "C" fn $message_x_init(
            handle: Handle,
            by: *mut CK_MECHANISM,
            key: CK_OBJECT_HANDLE,
        ) -> CK_RV {
            on(handle, |state, session| {
                if by.is_null() {
                    let _ = message::end(session, $direction);
                    return Ok(());
                }
                // SAFETY: as PKCS#11 says.
                let mechanism = unsafe { messages(by)? };
                message::begin(state, session, $direction, &mechanism, key)
            })
        }

        /// # Safety
        /// As PKCS#11 has it.
        pub unsafe extern "C" fn $x_message(
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
                let mechanism = session.messages.mechanism($direction)?;
                // SAFETY: as PKCS#11 says.
                let (mut record, aad, data, mut out) = unsafe {
                    let record = Record::read(mechanism, parameter, parameter_length)?;
                    let (aad, data) = (bytes(aad, aad_length)?, input(data, length)?);
                    (record, aad, data, Out::new(result, result_length)?)
                };
                message::whole(session, $direction, &mut record, &aad, data, &mut out)
            })
        }

        /// # Safety
        /// As PKCS#11 has it.
        pub unsafe extern "C" fn $x_message_begin(
            handle: Handle,
            _parameter: *mut c_void,
            _parameter_length: CK_ULONG,
            aad: *mut CK_BYTE,
            aad_length: CK_ULONG,
        ) -> CK_RV {
            on(handle, |_, session| {
                // SAFETY: as PKCS#11 says.
                let aad = unsafe { bytes(aad, aad_length)? };
                message::start(session, $direction, &aad)
            })
        }

        /// # Safety
        /// As PKCS#11 has it.
        pub unsafe extern "C" fn $x_message_next(
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
                let mechanism = session.messages.mechanism($direction)?;
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
                message::next(session, $direction, &mut record, data, last, &mut out)
            })
        }

        /// # Safety
        /// As PKCS#11 has it.
        pub unsafe extern "C" fn $message_x_final(handle: Handle) -> CK_RV {
            on(handle, |_, session| message::end(session, $direction))
        }
    };
}

crypting!(
    Direction::Encrypt,
    C_EncryptInit,
    C_Encrypt,
    C_EncryptUpdate,
    C_EncryptFinal,
    C_MessageEncryptInit,
    C_EncryptMessage,
    C_EncryptMessageBegin,
    C_EncryptMessageNext,
    C_MessageEncryptFinal,
);

crypting!(
    Direction::Decrypt,
    C_DecryptInit,
    C_Decrypt,
    C_DecryptUpdate,
    C_DecryptFinal,
    C_MessageDecryptInit,
    C_DecryptMessage,
    C_DecryptMessageBegin,
    C_DecryptMessageNext,
    C_MessageDecryptFinal,
);

/// Signing and verifying begin and go on alike.
macro_rules! signing {
    ($direction:expr, $x_init:ident, $x_update:ident $(,)?) => {
        /// # Safety
        /// As PKCS#11 has it.
        pub unsafe extern "C" fn $x_init(
            handle: Handle,
            by: *mut CK_MECHANISM,
            key: CK_OBJECT_HANDLE,
        ) -> CK_RV {
            on(handle, |state, session| {
                if by.is_null() {
                    signature::cancel(session, $direction);
                    return Ok(());
                }
                // SAFETY: as PKCS#11 says.
                let mechanism = unsafe { mechanism(by)? };
                signature::begin(state, session, $direction, &mechanism, key)
            })
        }

        /// # Safety
        /// As PKCS#11 has it.
        pub unsafe extern "C" fn $x_update(
            handle: Handle,
            data: *mut CK_BYTE,
            length: CK_ULONG,
        ) -> CK_RV {
            step(
                handle,
                |session| signature::cancel(session, $direction),
                |session| {
                    // SAFETY: as PKCS#11 says.
                    let data = unsafe { input(data, length)? };
                    signature::update(session, $direction, data)
                },
            )
        }
    };
}

signing!(Side::Sign, C_SignInit, C_SignUpdate,);

signing!(Side::Verify, C_VerifyInit, C_VerifyUpdate,);

/// Functions that are not there: each says so.
macro_rules! absent {
    ($($name:ident($($kind:ty),*);)*) => {$(
        /// # Safety
        /// Nothing is read.
        pub unsafe extern "C" fn $name($(_: $kind),*) -> CK_RV {
            guarded(|| module::state().and(Err(NO)))
        }
    )*};
}

absent! {
    C_InitToken(CK_SLOT_ID, *mut CK_UTF8CHAR, CK_ULONG, *mut CK_UTF8CHAR);
    C_InitPIN(Handle, *mut CK_UTF8CHAR, CK_ULONG);
    C_SetPIN(Handle, *mut CK_UTF8CHAR, CK_ULONG, *mut CK_UTF8CHAR, CK_ULONG);
    C_SignRecoverInit(Handle, *mut CK_MECHANISM, CK_OBJECT_HANDLE);
    C_VerifyRecoverInit(Handle, *mut CK_MECHANISM, CK_OBJECT_HANDLE);
    C_SignRecover(Handle, *mut CK_BYTE, CK_ULONG, *mut CK_BYTE, *mut CK_ULONG);
    C_VerifyRecover(Handle, *mut CK_BYTE, CK_ULONG, *mut CK_BYTE, *mut CK_ULONG);
    C_DigestEncryptUpdate(Handle, *mut CK_BYTE, CK_ULONG, *mut CK_BYTE, *mut CK_ULONG);
    C_DecryptDigestUpdate(Handle, *mut CK_BYTE, CK_ULONG, *mut CK_BYTE, *mut CK_ULONG);
    C_SignEncryptUpdate(Handle, *mut CK_BYTE, CK_ULONG, *mut CK_BYTE, *mut CK_ULONG);
    C_DecryptVerifyUpdate(Handle, *mut CK_BYTE, CK_ULONG, *mut CK_BYTE, *mut CK_ULONG);
    C_MessageSignInit(Handle, *mut CK_MECHANISM, CK_OBJECT_HANDLE);
    C_MessageVerifyInit(Handle, *mut CK_MECHANISM, CK_OBJECT_HANDLE);
    C_SignMessage(Handle, *mut c_void, CK_ULONG, *mut CK_BYTE, CK_ULONG, *mut CK_BYTE, *mut CK_ULONG);
    C_SignMessageNext(Handle, *mut c_void, CK_ULONG, *mut CK_BYTE, CK_ULONG, *mut CK_BYTE, *mut CK_ULONG);
    C_VerifyMessage(Handle, *mut c_void, CK_ULONG, *mut CK_BYTE, CK_ULONG, *mut CK_BYTE, CK_ULONG);
    C_VerifyMessageNext(Handle, *mut c_void, CK_ULONG, *mut CK_BYTE, CK_ULONG, *mut CK_BYTE, CK_ULONG);
    C_SignMessageBegin(Handle, *mut c_void, CK_ULONG);
    C_VerifyMessageBegin(Handle, *mut c_void, CK_ULONG);
    C_MessageSignFinal(Handle);
    C_MessageVerifyFinal(Handle);
    C_VerifySignatureInit(Handle, *mut CK_MECHANISM, CK_OBJECT_HANDLE, *mut CK_BYTE, CK_ULONG);
    C_VerifySignature(Handle, *mut CK_BYTE, CK_ULONG);
    C_VerifySignatureUpdate(Handle, *mut CK_BYTE, CK_ULONG);
    C_VerifySignatureFinal(Handle);
    C_GetSessionValidationFlags(Handle, CK_SESSION_VALIDATION_FLAGS_TYPE, *mut CK_FLAGS);
    C_AsyncComplete(Handle, *mut CK_UTF8CHAR, *mut CK_ASYNC_DATA);
    C_AsyncGetID(Handle, *mut CK_UTF8CHAR, *mut CK_ULONG);
    C_AsyncJoin(Handle, *mut CK_UTF8CHAR, CK_ULONG, *mut CK_BYTE, CK_ULONG);
    C_WrapKeyAuthenticated(Handle, *mut CK_MECHANISM, CK_OBJECT_HANDLE, CK_OBJECT_HANDLE, *mut CK_BYTE, CK_ULONG, *mut CK_BYTE, *mut CK_ULONG);
    C_UnwrapKeyAuthenticated(Handle, *mut CK_MECHANISM, CK_OBJECT_HANDLE, *mut CK_BYTE, CK_ULONG, *mut CK_ATTRIBUTE, CK_ULONG, *mut CK_BYTE, CK_ULONG, *mut CK_OBJECT_HANDLE);
}
