//! OpenSSL's structures (core.h) and numbers (core_dispatch.h), written by hand: they are its ABI since 3.0,
//! later releases only add numbers, and a number that the host does not know is passed over.

#![allow(non_camel_case_types)]
#![allow(
    dead_code,
    reason = "the numbers of a family stand together, used or not"
)]

use std::ffi::{c_char, c_int, c_uint, c_void};

/// Who the provider is, to the core.
pub enum OSSL_CORE_HANDLE {}
/// The host's library context.
pub enum OPENSSL_CORE_CTX {}
/// A BIO of the host's.
pub enum OSSL_CORE_BIO {}

/// One function of a table; a table ends with number 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OSSL_DISPATCH {
    pub function_id: c_int,
    pub function: *const c_void,
}

// SAFETY: a number and the address of a function.
unsafe impl Send for OSSL_DISPATCH {}
// SAFETY: as above.
unsafe impl Sync for OSSL_DISPATCH {}

impl OSSL_DISPATCH {
    /// What ends a table.
    pub const END: OSSL_DISPATCH = OSSL_DISPATCH {
        function_id: 0,
        function: std::ptr::null(),
    };

    /// A function, given as `f as *const c_void`.
    pub const fn new(function_id: c_int, function: *const c_void) -> OSSL_DISPATCH {
        OSSL_DISPATCH {
            function_id,
            function,
        }
    }
}

/// A number and its text; a list ends with 0 and null.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OSSL_ITEM {
    pub id: c_uint,
    pub ptr: *const c_void,
}

// SAFETY: a number and the address of a constant.
unsafe impl Send for OSSL_ITEM {}
// SAFETY: as above.
unsafe impl Sync for OSSL_ITEM {}

/// One algorithm of an operation; a list ends with null names.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OSSL_ALGORITHM {
    pub algorithm_names: *const c_char,
    pub property_definition: *const c_char,
    pub implementation: *const OSSL_DISPATCH,
    pub algorithm_description: *const c_char,
}

// SAFETY: addresses of constants.
unsafe impl Send for OSSL_ALGORITHM {}
// SAFETY: as above.
unsafe impl Sync for OSSL_ALGORITHM {}

/// A parameter; a list ends with a null key.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OSSL_PARAM {
    pub key: *const c_char,
    pub data_type: c_uint,
    pub data: *mut c_void,
    pub data_size: usize,
    pub return_size: usize,
}

pub const OSSL_PARAM_INTEGER: c_uint = 1;
pub const OSSL_PARAM_UNSIGNED_INTEGER: c_uint = 2;
pub const OSSL_PARAM_REAL: c_uint = 3;
pub const OSSL_PARAM_UTF8_STRING: c_uint = 4;
pub const OSSL_PARAM_OCTET_STRING: c_uint = 5;
pub const OSSL_PARAM_UTF8_PTR: c_uint = 6;
pub const OSSL_PARAM_OCTET_PTR: c_uint = 7;
/// The return size of a parameter that nobody answered.
pub const OSSL_PARAM_UNMODIFIED: usize = usize::MAX;

/// Functions that the core gives a provider.
pub mod upcall {
    pub const GETTABLE_PARAMS: i32 = 1;
    pub const GET_PARAMS: i32 = 2;
    pub const THREAD_START: i32 = 3;
    pub const GET_LIBCTX: i32 = 4;
    pub const NEW_ERROR: i32 = 5;
    pub const SET_ERROR_DEBUG: i32 = 6;
    pub const VSET_ERROR: i32 = 7;
    pub const SET_ERROR_MARK: i32 = 8;
    pub const CLEAR_LAST_ERROR_MARK: i32 = 9;
    pub const POP_ERROR_TO_MARK: i32 = 10;
    pub const OBJ_ADD_SIGID: i32 = 11;
    pub const OBJ_CREATE: i32 = 12;
    pub const CRYPTO_MALLOC: i32 = 20;
    pub const CRYPTO_ZALLOC: i32 = 21;
    pub const CRYPTO_FREE: i32 = 22;
    pub const CRYPTO_CLEAR_FREE: i32 = 23;
    pub const CRYPTO_REALLOC: i32 = 24;
    pub const CRYPTO_CLEAR_REALLOC: i32 = 25;
    pub const CRYPTO_SECURE_MALLOC: i32 = 26;
    pub const CRYPTO_SECURE_ZALLOC: i32 = 27;
    pub const CRYPTO_SECURE_FREE: i32 = 28;
    pub const CRYPTO_SECURE_CLEAR_FREE: i32 = 29;
    pub const CRYPTO_SECURE_ALLOCATED: i32 = 30;
    pub const OPENSSL_CLEANSE: i32 = 31;
    pub const BIO_NEW_FILE: i32 = 40;
    pub const BIO_NEW_MEMBUF: i32 = 41;
    pub const BIO_READ_EX: i32 = 42;
    pub const BIO_WRITE_EX: i32 = 43;
    pub const BIO_UP_REF: i32 = 44;
    pub const BIO_FREE: i32 = 45;
    pub const BIO_VPRINTF: i32 = 46;
    pub const BIO_VSNPRINTF: i32 = 47;
    pub const BIO_PUTS: i32 = 48;
    pub const BIO_GETS: i32 = 49;
    pub const BIO_CTRL: i32 = 50;
    pub const CLEANUP_USER_ENTROPY: i32 = 96;
    pub const CLEANUP_USER_NONCE: i32 = 97;
    pub const GET_USER_ENTROPY: i32 = 98;
    pub const GET_USER_NONCE: i32 = 99;
    pub const INDICATOR_CB: i32 = 95;
    pub const SELF_TEST_CB: i32 = 100;
    pub const GET_ENTROPY: i32 = 101;
    pub const CLEANUP_ENTROPY: i32 = 102;
    pub const GET_NONCE: i32 = 103;
    pub const CLEANUP_NONCE: i32 = 104;
    pub const PROVIDER_REGISTER_CHILD_CB: i32 = 105;
    pub const PROVIDER_DEREGISTER_CHILD_CB: i32 = 106;
    pub const PROVIDER_NAME: i32 = 107;
    pub const PROVIDER_GET0_PROVIDER_CTX: i32 = 108;
    pub const PROVIDER_GET0_DISPATCH: i32 = 109;
    pub const PROVIDER_UP_REF: i32 = 110;
    pub const PROVIDER_FREE: i32 = 111;
    pub const COUNT_TO_MARK: i32 = 120;
}

/// Functions of a provider (OSSL_FUNC_PROVIDER_*).
pub mod provider {
    pub const TEARDOWN: i32 = 1024;
    pub const GETTABLE_PARAMS: i32 = 1025;
    pub const GET_PARAMS: i32 = 1026;
    pub const QUERY_OPERATION: i32 = 1027;
    pub const UNQUERY_OPERATION: i32 = 1028;
    pub const GET_REASON_STRINGS: i32 = 1029;
    pub const GET_CAPABILITIES: i32 = 1030;
    pub const SELF_TEST: i32 = 1031;
    pub const RANDOM_BYTES: i32 = 1032;
}

/// Operations (OSSL_OP_*).
pub mod op {
    pub const DIGEST: i32 = 1;
    pub const CIPHER: i32 = 2;
    pub const MAC: i32 = 3;
    pub const KDF: i32 = 4;
    pub const RAND: i32 = 5;
    pub const KEYMGMT: i32 = 10;
    pub const KEYEXCH: i32 = 11;
    pub const SIGNATURE: i32 = 12;
    pub const ASYM_CIPHER: i32 = 13;
    pub const KEM: i32 = 14;
    pub const SKEYMGMT: i32 = 15;
    pub const ENCODER: i32 = 20;
    pub const DECODER: i32 = 21;
    pub const STORE: i32 = 22;
}

/// OSSL_FUNC_DIGEST_*.
pub mod digest {
    pub const NEWCTX: i32 = 1;
    pub const INIT: i32 = 2;
    pub const UPDATE: i32 = 3;
    pub const FINAL: i32 = 4;
    pub const DIGEST: i32 = 5;
    pub const FREECTX: i32 = 6;
    pub const DUPCTX: i32 = 7;
    pub const GET_PARAMS: i32 = 8;
    pub const SET_CTX_PARAMS: i32 = 9;
    pub const GET_CTX_PARAMS: i32 = 10;
    pub const GETTABLE_PARAMS: i32 = 11;
    pub const SETTABLE_CTX_PARAMS: i32 = 12;
    pub const GETTABLE_CTX_PARAMS: i32 = 13;
    pub const SQUEEZE: i32 = 14;
    pub const COPYCTX: i32 = 15;
}

/// OSSL_FUNC_CIPHER_*.
pub mod cipher {
    pub const NEWCTX: i32 = 1;
    pub const ENCRYPT_INIT: i32 = 2;
    pub const DECRYPT_INIT: i32 = 3;
    pub const UPDATE: i32 = 4;
    pub const FINAL: i32 = 5;
    pub const CIPHER: i32 = 6;
    pub const FREECTX: i32 = 7;
    pub const DUPCTX: i32 = 8;
    pub const GET_PARAMS: i32 = 9;
    pub const GET_CTX_PARAMS: i32 = 10;
    pub const SET_CTX_PARAMS: i32 = 11;
    pub const GETTABLE_PARAMS: i32 = 12;
    pub const GETTABLE_CTX_PARAMS: i32 = 13;
    pub const SETTABLE_CTX_PARAMS: i32 = 14;
    pub const PIPELINE_ENCRYPT_INIT: i32 = 15;
    pub const PIPELINE_DECRYPT_INIT: i32 = 16;
    pub const PIPELINE_UPDATE: i32 = 17;
    pub const PIPELINE_FINAL: i32 = 18;
    pub const ENCRYPT_SKEY_INIT: i32 = 19;
    pub const DECRYPT_SKEY_INIT: i32 = 20;
}

/// OSSL_FUNC_MAC_*.
pub mod mac {
    pub const NEWCTX: i32 = 1;
    pub const DUPCTX: i32 = 2;
    pub const FREECTX: i32 = 3;
    pub const INIT: i32 = 4;
    pub const UPDATE: i32 = 5;
    pub const FINAL: i32 = 6;
    pub const GET_PARAMS: i32 = 7;
    pub const GET_CTX_PARAMS: i32 = 8;
    pub const SET_CTX_PARAMS: i32 = 9;
    pub const GETTABLE_PARAMS: i32 = 10;
    pub const GETTABLE_CTX_PARAMS: i32 = 11;
    pub const SETTABLE_CTX_PARAMS: i32 = 12;
    pub const INIT_SKEY: i32 = 13;
}

/// OSSL_FUNC_SKEYMGMT_*.
pub mod skeymgmt {
    pub const FREE: i32 = 1;
    pub const IMPORT: i32 = 2;
    pub const EXPORT: i32 = 3;
    pub const GENERATE: i32 = 4;
    pub const GET_KEY_ID: i32 = 5;
    pub const IMP_SETTABLE_PARAMS: i32 = 6;
    pub const GEN_SETTABLE_PARAMS: i32 = 7;
}

/// OSSL_FUNC_KDF_*.
pub mod kdf {
    pub const NEWCTX: i32 = 1;
    pub const DUPCTX: i32 = 2;
    pub const FREECTX: i32 = 3;
    pub const RESET: i32 = 4;
    pub const DERIVE: i32 = 5;
    pub const GETTABLE_PARAMS: i32 = 6;
    pub const GETTABLE_CTX_PARAMS: i32 = 7;
    pub const SETTABLE_CTX_PARAMS: i32 = 8;
    pub const GET_PARAMS: i32 = 9;
    pub const GET_CTX_PARAMS: i32 = 10;
    pub const SET_CTX_PARAMS: i32 = 11;
    pub const SET_SKEY: i32 = 12;
    pub const DERIVE_SKEY: i32 = 13;
}

/// OSSL_FUNC_RAND_*.
pub mod rand {
    pub const NEWCTX: i32 = 1;
    pub const FREECTX: i32 = 2;
    pub const INSTANTIATE: i32 = 3;
    pub const UNINSTANTIATE: i32 = 4;
    pub const GENERATE: i32 = 5;
    pub const RESEED: i32 = 6;
    pub const NONCE: i32 = 7;
    pub const ENABLE_LOCKING: i32 = 8;
    pub const LOCK: i32 = 9;
    pub const UNLOCK: i32 = 10;
    pub const GETTABLE_PARAMS: i32 = 11;
    pub const GETTABLE_CTX_PARAMS: i32 = 12;
    pub const SETTABLE_CTX_PARAMS: i32 = 13;
    pub const GET_PARAMS: i32 = 14;
    pub const GET_CTX_PARAMS: i32 = 15;
    pub const SET_CTX_PARAMS: i32 = 16;
    pub const VERIFY_ZEROIZATION: i32 = 17;
    pub const GET_SEED: i32 = 18;
    pub const CLEAR_SEED: i32 = 19;
}

/// OSSL_FUNC_KEYMGMT_*.
pub mod keymgmt {
    pub const NEW: i32 = 1;
    pub const GEN_INIT: i32 = 2;
    pub const GEN_SET_TEMPLATE: i32 = 3;
    pub const GEN_SET_PARAMS: i32 = 4;
    pub const GEN_SETTABLE_PARAMS: i32 = 5;
    pub const GEN: i32 = 6;
    pub const GEN_CLEANUP: i32 = 7;
    pub const GEN_GET_PARAMS: i32 = 15;
    pub const GEN_GETTABLE_PARAMS: i32 = 16;
    pub const LOAD: i32 = 8;
    pub const FREE: i32 = 10;
    pub const GET_PARAMS: i32 = 11;
    pub const GETTABLE_PARAMS: i32 = 12;
    pub const SET_PARAMS: i32 = 13;
    pub const SETTABLE_PARAMS: i32 = 14;
    pub const QUERY_OPERATION_NAME: i32 = 20;
    pub const HAS: i32 = 21;
    pub const VALIDATE: i32 = 22;
    pub const MATCH: i32 = 23;
    pub const IMPORT: i32 = 40;
    pub const IMPORT_TYPES: i32 = 41;
    pub const EXPORT: i32 = 42;
    pub const EXPORT_TYPES: i32 = 43;
    pub const DUP: i32 = 44;
    pub const IMPORT_TYPES_EX: i32 = 45;
    pub const EXPORT_TYPES_EX: i32 = 46;
}

/// OSSL_FUNC_KEYEXCH_*.
pub mod keyexch {
    pub const NEWCTX: i32 = 1;
    pub const INIT: i32 = 2;
    pub const DERIVE: i32 = 3;
    pub const SET_PEER: i32 = 4;
    pub const FREECTX: i32 = 5;
    pub const DUPCTX: i32 = 6;
    pub const SET_CTX_PARAMS: i32 = 7;
    pub const SETTABLE_CTX_PARAMS: i32 = 8;
    pub const GET_CTX_PARAMS: i32 = 9;
    pub const GETTABLE_CTX_PARAMS: i32 = 10;
    pub const DERIVE_SKEY: i32 = 11;
}

/// OSSL_FUNC_SIGNATURE_*.
pub mod signature {
    pub const NEWCTX: i32 = 1;
    pub const SIGN_INIT: i32 = 2;
    pub const SIGN: i32 = 3;
    pub const VERIFY_INIT: i32 = 4;
    pub const VERIFY: i32 = 5;
    pub const VERIFY_RECOVER_INIT: i32 = 6;
    pub const VERIFY_RECOVER: i32 = 7;
    pub const DIGEST_SIGN_INIT: i32 = 8;
    pub const DIGEST_SIGN_UPDATE: i32 = 9;
    pub const DIGEST_SIGN_FINAL: i32 = 10;
    pub const DIGEST_SIGN: i32 = 11;
    pub const DIGEST_VERIFY_INIT: i32 = 12;
    pub const DIGEST_VERIFY_UPDATE: i32 = 13;
    pub const DIGEST_VERIFY_FINAL: i32 = 14;
    pub const DIGEST_VERIFY: i32 = 15;
    pub const FREECTX: i32 = 16;
    pub const DUPCTX: i32 = 17;
    pub const GET_CTX_PARAMS: i32 = 18;
    pub const GETTABLE_CTX_PARAMS: i32 = 19;
    pub const SET_CTX_PARAMS: i32 = 20;
    pub const SETTABLE_CTX_PARAMS: i32 = 21;
    pub const GET_CTX_MD_PARAMS: i32 = 22;
    pub const GETTABLE_CTX_MD_PARAMS: i32 = 23;
    pub const SET_CTX_MD_PARAMS: i32 = 24;
    pub const SETTABLE_CTX_MD_PARAMS: i32 = 25;
    pub const QUERY_KEY_TYPES: i32 = 26;
    pub const SIGN_MESSAGE_INIT: i32 = 27;
    pub const SIGN_MESSAGE_UPDATE: i32 = 28;
    pub const SIGN_MESSAGE_FINAL: i32 = 29;
    pub const VERIFY_MESSAGE_INIT: i32 = 30;
    pub const VERIFY_MESSAGE_UPDATE: i32 = 31;
    pub const VERIFY_MESSAGE_FINAL: i32 = 32;
}

/// OSSL_FUNC_ASYM_CIPHER_*.
pub mod asym_cipher {
    pub const NEWCTX: i32 = 1;
    pub const ENCRYPT_INIT: i32 = 2;
    pub const ENCRYPT: i32 = 3;
    pub const DECRYPT_INIT: i32 = 4;
    pub const DECRYPT: i32 = 5;
    pub const FREECTX: i32 = 6;
    pub const DUPCTX: i32 = 7;
    pub const GET_CTX_PARAMS: i32 = 8;
    pub const GETTABLE_CTX_PARAMS: i32 = 9;
    pub const SET_CTX_PARAMS: i32 = 10;
    pub const SETTABLE_CTX_PARAMS: i32 = 11;
}

/// OSSL_FUNC_KEM_*.
pub mod kem {
    pub const NEWCTX: i32 = 1;
    pub const ENCAPSULATE_INIT: i32 = 2;
    pub const ENCAPSULATE: i32 = 3;
    pub const DECAPSULATE_INIT: i32 = 4;
    pub const DECAPSULATE: i32 = 5;
    pub const FREECTX: i32 = 6;
    pub const DUPCTX: i32 = 7;
    pub const GET_CTX_PARAMS: i32 = 8;
    pub const GETTABLE_CTX_PARAMS: i32 = 9;
    pub const SET_CTX_PARAMS: i32 = 10;
    pub const SETTABLE_CTX_PARAMS: i32 = 11;
    pub const AUTH_ENCAPSULATE_INIT: i32 = 12;
    pub const AUTH_DECAPSULATE_INIT: i32 = 13;
}

/// OSSL_FUNC_ENCODER_*.
pub mod encoder {
    pub const NEWCTX: i32 = 1;
    pub const FREECTX: i32 = 2;
    pub const GET_PARAMS: i32 = 3;
    pub const GETTABLE_PARAMS: i32 = 4;
    pub const SET_CTX_PARAMS: i32 = 5;
    pub const SETTABLE_CTX_PARAMS: i32 = 6;
    pub const DOES_SELECTION: i32 = 10;
    pub const ENCODE: i32 = 11;
    pub const IMPORT_OBJECT: i32 = 20;
    pub const FREE_OBJECT: i32 = 21;
}

/// OSSL_FUNC_DECODER_*.
pub mod decoder {
    pub const NEWCTX: i32 = 1;
    pub const FREECTX: i32 = 2;
    pub const GET_PARAMS: i32 = 3;
    pub const GETTABLE_PARAMS: i32 = 4;
    pub const SET_CTX_PARAMS: i32 = 5;
    pub const SETTABLE_CTX_PARAMS: i32 = 6;
    pub const DOES_SELECTION: i32 = 10;
    pub const DECODE: i32 = 11;
    pub const EXPORT_OBJECT: i32 = 20;
}

/// OSSL_FUNC_STORE_*.
pub mod store {
    pub const OPEN: i32 = 1;
    pub const ATTACH: i32 = 2;
    pub const SETTABLE_CTX_PARAMS: i32 = 3;
    pub const SET_CTX_PARAMS: i32 = 4;
    pub const LOAD: i32 = 5;
    pub const EOF: i32 = 6;
    pub const CLOSE: i32 = 7;
    pub const EXPORT_OBJECT: i32 = 8;
    pub const DELETE: i32 = 9;
    pub const OPEN_EX: i32 = 10;
}
