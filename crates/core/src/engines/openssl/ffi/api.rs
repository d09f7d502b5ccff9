//! The functions of libcrypto that the engine calls, found at run time (openssl/evp.h and its neighbours
//! of OpenSSL 3.0; none of them is deprecated in 3.x or gone in 4.0).

#![allow(non_snake_case, non_camel_case_types)]

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{c_char, c_int, c_long, c_uchar, c_uint, c_ulong, c_void};

/// How `dlopen` is told to look only at what the process has loaded already (dlopen(3)).
const RTLD_NOLOAD: c_int = libc::RTLD_NOLOAD;

macro_rules! opaque {
    ($($name:ident)*) => { $(
        #[repr(C)]
        pub struct $name { hidden: [u8; 0] }
    )* };
}

opaque!(
    OSSL_LIB_CTX OSSL_PROVIDER EVP_MD EVP_MD_CTX EVP_MAC EVP_MAC_CTX EVP_CIPHER EVP_CIPHER_CTX EVP_KDF
    EVP_KDF_CTX EVP_RAND EVP_RAND_CTX EVP_PKEY EVP_PKEY_CTX
);

/// OSSL_PARAM(3).
#[repr(C)]
pub struct OSSL_PARAM {
    pub key: *const c_char,
    pub data_type: c_uint,
    pub data: *mut c_void,
    pub data_size: usize,
    pub return_size: usize,
}

/// OSSL_CALLBACK of openssl/core.h.
pub type OSSL_CALLBACK = unsafe extern "C" fn(*const OSSL_PARAM, *mut c_void) -> c_int;

/// The functions of CRYPTO_set_mem_functions(3).
pub type Malloc = extern "C" fn(usize, *const c_char, c_int) -> *mut c_void;
pub type Realloc = unsafe extern "C" fn(*mut c_void, usize, *const c_char, c_int) -> *mut c_void;
pub type Free = unsafe extern "C" fn(*mut c_void, *const c_char, c_int);

macro_rules! functions {
    ($($name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions, by their own names.
        pub struct Api { $(pub $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)* }

        impl Api {
            /// Finds every function in `library`; the name of the first that is missing otherwise.
            pub fn find(library: &Library) -> Result<Api, &'static str> {
                Ok(Api { $(
                    // SAFETY: the type is the one that OpenSSL's headers declare for this name since 3.0,
                    // and the library is never unloaded.
                    $name: unsafe {
                        *library.get(concat!(stringify!($name), "\0").as_bytes())
                            .map_err(|_| stringify!($name))?
                    },
                )* })
            }
        }
    };
}

functions! {
    OPENSSL_version_major() -> c_uint;
    OpenSSL_version(c_int) -> *const c_char;
    OPENSSL_info(c_int) -> *const c_char;
    OPENSSL_init_crypto(u64, *const c_void) -> c_int;
    CRYPTO_set_mem_functions(Malloc, Realloc, Free) -> c_int;
    ERR_set_mark() -> c_int;
    ERR_pop_to_mark() -> c_int;
    ERR_peek_error() -> c_ulong;
    ERR_peek_last_error() -> c_ulong;
    ERR_reason_error_string(c_ulong) -> *const c_char;
    OSSL_LIB_CTX_new() -> *mut OSSL_LIB_CTX;
    OSSL_LIB_CTX_free(*mut OSSL_LIB_CTX);
    OSSL_LIB_CTX_load_config(*mut OSSL_LIB_CTX, *const c_char) -> c_int;
    OSSL_PROVIDER_load(*mut OSSL_LIB_CTX, *const c_char) -> *mut OSSL_PROVIDER;
    OSSL_PROVIDER_available(*mut OSSL_LIB_CTX, *const c_char) -> c_int;
    OSSL_SELF_TEST_set_callback(*mut OSSL_LIB_CTX, Option<OSSL_CALLBACK>, *mut c_void);
    EVP_MD_fetch(*mut OSSL_LIB_CTX, *const c_char, *const c_char) -> *mut EVP_MD;
    EVP_MD_get_size(*const EVP_MD) -> c_int;
    EVP_MD_settable_ctx_params(*const EVP_MD) -> *const OSSL_PARAM;
    EVP_MD_CTX_new() -> *mut EVP_MD_CTX;
    EVP_MD_CTX_free(*mut EVP_MD_CTX);
    EVP_MD_CTX_copy_ex(*mut EVP_MD_CTX, *const EVP_MD_CTX) -> c_int;
    EVP_DigestInit_ex2(*mut EVP_MD_CTX, *const EVP_MD, *const OSSL_PARAM) -> c_int;
    EVP_DigestUpdate(*mut EVP_MD_CTX, *const c_void, usize) -> c_int;
    EVP_DigestFinal_ex(*mut EVP_MD_CTX, *mut c_uchar, *mut c_uint) -> c_int;
    EVP_DigestFinalXOF(*mut EVP_MD_CTX, *mut c_uchar, usize) -> c_int;
    EVP_MAC_fetch(*mut OSSL_LIB_CTX, *const c_char, *const c_char) -> *mut EVP_MAC;
    EVP_MAC_CTX_new(*mut EVP_MAC) -> *mut EVP_MAC_CTX;
    EVP_MAC_CTX_free(*mut EVP_MAC_CTX);
    EVP_MAC_CTX_dup(*const EVP_MAC_CTX) -> *mut EVP_MAC_CTX;
    EVP_MAC_init(*mut EVP_MAC_CTX, *const c_uchar, usize, *const OSSL_PARAM) -> c_int;
    EVP_MAC_update(*mut EVP_MAC_CTX, *const c_uchar, usize) -> c_int;
    EVP_MAC_final(*mut EVP_MAC_CTX, *mut c_uchar, *mut usize, usize) -> c_int;
    EVP_CIPHER_fetch(*mut OSSL_LIB_CTX, *const c_char, *const c_char) -> *mut EVP_CIPHER;
    EVP_CIPHER_CTX_new() -> *mut EVP_CIPHER_CTX;
    EVP_CIPHER_CTX_free(*mut EVP_CIPHER_CTX);
    EVP_CIPHER_CTX_ctrl(*mut EVP_CIPHER_CTX, c_int, c_int, *mut c_void) -> c_int;
    EVP_CIPHER_CTX_set_padding(*mut EVP_CIPHER_CTX, c_int) -> c_int;
    EVP_CIPHER_CTX_set_flags(*mut EVP_CIPHER_CTX, c_int);
    EVP_CipherInit_ex2(*mut EVP_CIPHER_CTX, *const EVP_CIPHER, *const c_uchar, *const c_uchar, c_int, *const OSSL_PARAM) -> c_int;
    EVP_CipherUpdate(*mut EVP_CIPHER_CTX, *mut c_uchar, *mut c_int, *const c_uchar, c_int) -> c_int;
    EVP_CipherFinal_ex(*mut EVP_CIPHER_CTX, *mut c_uchar, *mut c_int) -> c_int;
    EVP_KDF_fetch(*mut OSSL_LIB_CTX, *const c_char, *const c_char) -> *mut EVP_KDF;
    EVP_KDF_CTX_new(*mut EVP_KDF) -> *mut EVP_KDF_CTX;
    EVP_KDF_CTX_free(*mut EVP_KDF_CTX);
    EVP_KDF_derive(*mut EVP_KDF_CTX, *mut c_uchar, usize, *const OSSL_PARAM) -> c_int;
    EVP_RAND_fetch(*mut OSSL_LIB_CTX, *const c_char, *const c_char) -> *mut EVP_RAND;
    EVP_RAND_CTX_new(*mut EVP_RAND, *mut EVP_RAND_CTX) -> *mut EVP_RAND_CTX;
    EVP_RAND_CTX_free(*mut EVP_RAND_CTX);
    EVP_RAND_instantiate(*mut EVP_RAND_CTX, c_uint, c_int, *const c_uchar, usize, *const OSSL_PARAM) -> c_int;
    d2i_AutoPrivateKey_ex(*mut *mut EVP_PKEY, *mut *const c_uchar, c_long, *mut OSSL_LIB_CTX, *const c_char) -> *mut EVP_PKEY;
    d2i_PUBKEY_ex(*mut *mut EVP_PKEY, *mut *const c_uchar, c_long, *mut OSSL_LIB_CTX, *const c_char) -> *mut EVP_PKEY;
    EVP_PKEY_free(*mut EVP_PKEY);
    EVP_PKEY_is_a(*const EVP_PKEY, *const c_char) -> c_int;
    EVP_PKEY_get_size(*const EVP_PKEY) -> c_int;
    EVP_PKEY_CTX_new_from_pkey(*mut OSSL_LIB_CTX, *mut EVP_PKEY, *const c_char) -> *mut EVP_PKEY_CTX;
    EVP_PKEY_CTX_free(*mut EVP_PKEY_CTX);
    EVP_PKEY_CTX_settable_params(*const EVP_PKEY_CTX) -> *const OSSL_PARAM;
    EVP_DigestSignInit_ex(*mut EVP_MD_CTX, *mut *mut EVP_PKEY_CTX, *const c_char, *mut OSSL_LIB_CTX, *const c_char, *mut EVP_PKEY, *const OSSL_PARAM) -> c_int;
    EVP_DigestSign(*mut EVP_MD_CTX, *mut c_uchar, *mut usize, *const c_uchar, usize) -> c_int;
    EVP_DigestVerifyInit_ex(*mut EVP_MD_CTX, *mut *mut EVP_PKEY_CTX, *const c_char, *mut OSSL_LIB_CTX, *const c_char, *mut EVP_PKEY, *const OSSL_PARAM) -> c_int;
    EVP_DigestVerify(*mut EVP_MD_CTX, *const c_uchar, usize, *const c_uchar, usize) -> c_int;
    EVP_PKEY_sign_init_ex(*mut EVP_PKEY_CTX, *const OSSL_PARAM) -> c_int;
    EVP_PKEY_sign(*mut EVP_PKEY_CTX, *mut c_uchar, *mut usize, *const c_uchar, usize) -> c_int;
    EVP_PKEY_verify_init_ex(*mut EVP_PKEY_CTX, *const OSSL_PARAM) -> c_int;
    EVP_PKEY_verify(*mut EVP_PKEY_CTX, *const c_uchar, usize, *const c_uchar, usize) -> c_int;
    EVP_PKEY_encrypt_init_ex(*mut EVP_PKEY_CTX, *const OSSL_PARAM) -> c_int;
    EVP_PKEY_encrypt(*mut EVP_PKEY_CTX, *mut c_uchar, *mut usize, *const c_uchar, usize) -> c_int;
    EVP_PKEY_decrypt_init_ex(*mut EVP_PKEY_CTX, *const OSSL_PARAM) -> c_int;
    EVP_PKEY_decrypt(*mut EVP_PKEY_CTX, *mut c_uchar, *mut usize, *const c_uchar, usize) -> c_int;
    EVP_PKEY_derive_init_ex(*mut EVP_PKEY_CTX, *const OSSL_PARAM) -> c_int;
    EVP_PKEY_derive_set_peer(*mut EVP_PKEY_CTX, *mut EVP_PKEY) -> c_int;
    EVP_PKEY_derive(*mut EVP_PKEY_CTX, *mut c_uchar, *mut usize) -> c_int;
    EVP_PKEY_encapsulate_init(*mut EVP_PKEY_CTX, *const OSSL_PARAM) -> c_int;
    EVP_PKEY_encapsulate(*mut EVP_PKEY_CTX, *mut c_uchar, *mut usize, *mut c_uchar, *mut usize) -> c_int;
    EVP_PKEY_decapsulate_init(*mut EVP_PKEY_CTX, *const OSSL_PARAM) -> c_int;
    EVP_PKEY_decapsulate(*mut EVP_PKEY_CTX, *mut c_uchar, *mut usize, *const c_uchar, usize) -> c_int;
    EVP_RAND_generate(*mut EVP_RAND_CTX, *mut c_uchar, usize, c_uint, c_int, *const c_uchar, usize) -> c_int;
}

/// libcrypto's names, newest first.
const NAMES: [&str; 2] = ["libcrypto.so.4", "libcrypto.so.3"];

/// The copy that the process has loaded already, or else the newest that the host has.
pub fn load() -> Result<Library, String> {
    let mut why = String::new();
    for flags in [RTLD_NOLOAD, 0] {
        for name in NAMES {
            // SAFETY: libcrypto's constructors are those that any program linked with it runs.
            match unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL | flags) } {
                Ok(library) => return Ok(library),
                Err(error) => why = error.to_string(),
            }
        }
    }
    Err(format!(
        "no libcrypto of OpenSSL 3 or later on this host ({why})"
    ))
}
