//! The lists of functions that programs ask for first.

#![allow(non_snake_case)]

use super::calls::*;
use crate::call::guarded;
use crate::rv::Rv;
use cryptoki_sys::*;
use std::ffi::c_void;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

const BAD: Rv = Rv(CKR_ARGUMENTS_BAD);

/// A list with these functions.
macro_rules! list {
    ($kind:ident $major:literal $minor:literal $($name:ident)*) => {
        $kind {
            version: CK_VERSION { major: $major, minor: $minor },
            $($name: Some($name),)*
        }
    };
}

/// Those of 2.40, and more.
macro_rules! list_2 {
    ($kind:ident $major:literal $minor:literal $($more:ident)*) => {
        list!($kind $major $minor
            C_Initialize C_Finalize C_GetInfo C_GetFunctionList C_GetSlotList C_GetSlotInfo
            C_GetTokenInfo C_GetMechanismList C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN
            C_OpenSession C_CloseSession C_CloseAllSessions C_GetSessionInfo C_GetOperationState
            C_SetOperationState C_Login C_Logout C_CreateObject C_CopyObject C_DestroyObject
            C_GetObjectSize C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit
            C_FindObjects C_FindObjectsFinal C_EncryptInit C_Encrypt C_EncryptUpdate
            C_EncryptFinal C_DecryptInit C_Decrypt C_DecryptUpdate C_DecryptFinal C_DigestInit
            C_Digest C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit C_Sign C_SignUpdate
            C_SignFinal C_SignRecoverInit C_SignRecover C_VerifyInit C_Verify C_VerifyUpdate
            C_VerifyFinal C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate
            C_DecryptDigestUpdate C_SignEncryptUpdate C_DecryptVerifyUpdate C_GenerateKey
            C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey C_SeedRandom C_GenerateRandom
            C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent
            $($more)*)
    };
}

/// Those of 3.0, and more.
macro_rules! list_3 {
    ($kind:ident $major:literal $minor:literal $($more:ident)*) => {
        list_2!($kind $major $minor
            C_GetInterfaceList C_GetInterface C_LoginUser C_SessionCancel C_MessageEncryptInit
            C_EncryptMessage C_EncryptMessageBegin C_EncryptMessageNext C_MessageEncryptFinal
            C_MessageDecryptInit C_DecryptMessage C_DecryptMessageBegin C_DecryptMessageNext
            C_MessageDecryptFinal C_MessageSignInit C_SignMessage C_SignMessageBegin
            C_SignMessageNext C_MessageSignFinal C_MessageVerifyInit C_VerifyMessage
            C_VerifyMessageBegin C_VerifyMessageNext C_MessageVerifyFinal
            $($more)*)
    };
}

static LIST: CK_FUNCTION_LIST = list_2!(CK_FUNCTION_LIST 2 40);
static LIST_3: CK_FUNCTION_LIST_3_0 = list_3!(CK_FUNCTION_LIST_3_0 3 0);
static LIST_3_2: CK_FUNCTION_LIST_3_2 = list_3!(CK_FUNCTION_LIST_3_2 3 2
    C_EncapsulateKey C_DecapsulateKey C_VerifySignatureInit C_VerifySignature
    C_VerifySignatureUpdate C_VerifySignatureFinal C_GetSessionValidationFlags C_AsyncComplete
    C_AsyncGetID C_AsyncJoin C_WrapKeyAuthenticated C_UnwrapKeyAuthenticated);

/// The interfaces. The first is what a program gets that names no version.
struct Interfaces([CK_INTERFACE; 3]);

// SAFETY: pointers to statics that nobody writes.
unsafe impl Sync for Interfaces {}

static NAME: [u8; 8] = *b"PKCS 11\0";
static INTERFACES: Interfaces = Interfaces([
    CK_INTERFACE {
        pInterfaceName: (&raw const NAME).cast::<CK_UTF8CHAR>().cast_mut(),
        pFunctionList: (&raw const LIST_3).cast::<c_void>().cast_mut(),
        flags: CKF_INTERFACE_FORK_SAFE,
    },
    CK_INTERFACE {
        pInterfaceName: (&raw const NAME).cast::<CK_UTF8CHAR>().cast_mut(),
        pFunctionList: (&raw const LIST_3_2).cast::<c_void>().cast_mut(),
        flags: CKF_INTERFACE_FORK_SAFE,
    },
    CK_INTERFACE {
        pInterfaceName: (&raw const NAME).cast::<CK_UTF8CHAR>().cast_mut(),
        pFunctionList: (&raw const LIST).cast::<c_void>().cast_mut(),
        flags: CKF_INTERFACE_FORK_SAFE,
    },
]);

/// An interface where its program may write, which pkcs11-spy does: it puts its own functions there.
#[repr(C)]
struct Given {
    name: AtomicPtr<CK_UTF8CHAR>,
    functions: AtomicPtr<c_void>,
    flags: AtomicUsize,
}

static GIVEN: [Given; 3] = [const { Given::nothing() }; 3];

impl Given {
    const fn nothing() -> Given {
        Given {
            name: AtomicPtr::new(std::ptr::null_mut()),
            functions: AtomicPtr::new(std::ptr::null_mut()),
            flags: AtomicUsize::new(0),
        }
    }

    /// This interface as it is, whatever was written there since it was last given.
    fn anew(&self, interface: &CK_INTERFACE) -> *mut CK_INTERFACE {
        self.name.store(interface.pInterfaceName, Ordering::Relaxed);
        self.functions
            .store(interface.pFunctionList, Ordering::Release);
        self.flags
            .store(interface.flags as usize, Ordering::Relaxed);
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

/// # Safety
/// As PKCS#11 has it of C_GetFunctionList.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    guarded(|| {
        if list.is_null() {
            return Err(BAD);
        }
        // SAFETY: writable, by PKCS#11.
        unsafe { *list = (&raw const LIST).cast_mut() };
        Ok(())
    })
}

/// # Safety
/// As PKCS#11 has it of C_GetInterfaceList.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInterfaceList(
    list: *mut CK_INTERFACE,
    count: *mut CK_ULONG,
) -> CK_RV {
    guarded(|| {
        if count.is_null() {
            return Err(BAD);
        }
        // SAFETY: valid, by PKCS#11.
        let room = unsafe { *count } as usize;
        // SAFETY: as above.
        unsafe { *count = INTERFACES.0.len() as CK_ULONG };
        if list.is_null() {
            return Ok(());
        }
        if room < INTERFACES.0.len() {
            return Err(Rv(CKR_BUFFER_TOO_SMALL));
        }
        for (number, interface) in INTERFACES.0.iter().enumerate() {
            // SAFETY: room for all, checked just now.
            unsafe { list.add(number).write_unaligned(*interface) };
        }
        Ok(())
    })
}

/// # Safety
/// As PKCS#11 has it of C_GetInterface.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInterface(
    name: *mut CK_UTF8CHAR,
    version: *mut CK_VERSION,
    interface: *mut *mut CK_INTERFACE,
    flags: CK_FLAGS,
) -> CK_RV {
    guarded(|| {
        if interface.is_null() {
            return Err(BAD);
        }
        // SAFETY: null or a text that ends with a zero, by PKCS#11.
        let wanted = (!name.is_null()).then(|| unsafe { std::ffi::CStr::from_ptr(name.cast()) });
        if wanted.is_some_and(|wanted| wanted.to_bytes() != b"PKCS 11") {
            return Err(Rv(CKR_FUNCTION_FAILED));
        }
        // SAFETY: null or a version, by PKCS#11.
        let version = (!version.is_null()).then(|| unsafe { *version });
        let found = INTERFACES.0.iter().zip(&GIVEN).find(|(one, _)| {
            // SAFETY: every list begins with its version.
            let own = unsafe { *one.pFunctionList.cast::<CK_VERSION>() };
            let right = version.is_none_or(|v| (v.major, v.minor) == (own.major, own.minor));
            right && flags & !one.flags == 0
        });
        let (found, given) = found.ok_or(Rv(CKR_FUNCTION_FAILED))?;
        // SAFETY: writable, by PKCS#11.
        unsafe { *interface = given.anew(found) };
        Ok(())
    })
}
