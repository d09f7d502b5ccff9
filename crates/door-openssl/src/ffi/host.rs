//! Implementations, the host's own and ours, called without libcrypto between. The core names the providers that
//! are active (as it does for those that mirror them in a library context of their own); each gives its table of
//! functions, and that its algorithms. So it works where libcrypto is linked into a program and exports nothing.

use super::core::{Core, in_table};
use super::params::{Asked, Given};
use super::types::*;
use crate::context::Provider;
use crate::error::{Error, Result};
use cryptofd_core::engine::Direction;
use cryptofd_core::sys::buffer::{Input, Output};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;

/// Beyond the numbers of every operation whose functions are called here.
const MOST: usize = 24;

type Created = unsafe extern "C" fn(*const OSSL_CORE_HANDLE, *mut c_void) -> c_int;
type Properties = unsafe extern "C" fn(*const c_char, *mut c_void) -> c_int;
type Register = unsafe extern "C" fn(
    *const OSSL_CORE_HANDLE,
    Created,
    Created,
    Properties,
    *mut c_void,
) -> c_int;
type Deregister = unsafe extern "C" fn(*const OSSL_CORE_HANDLE);
type Own = unsafe extern "C" fn(*const OSSL_CORE_HANDLE) -> *mut c_void;
type Count = unsafe extern "C" fn(*const OSSL_CORE_HANDLE, c_int) -> c_int;
type Query = unsafe extern "C" fn(*mut c_void, c_int, *mut c_int) -> *const OSSL_ALGORITHM;

/// Another provider that the host has, kept from going while we have this.
struct Other {
    handle: *const OSSL_CORE_HANDLE,
    provctx: *mut c_void,
    query: Query,
    free: Count,
}

// SAFETY: a provider's functions may be called from every thread.
unsafe impl Send for Other {}
// SAFETY: as above.
unsafe impl Sync for Other {}

impl Drop for Other {
    fn drop(&mut self) {
        // SAFETY: gives back what Others::new() took.
        unsafe { (self.free)(self.handle, 0) };
    }
}

/// The host's other providers, in the order in which it has them.
pub struct Others(Vec<Arc<Other>>);

/// Those that the core names, each kept from going as soon as it is named: another thread may unload it.
struct Named<'a> {
    core: &'a Core,
    up: Count,
    provctx: Own,
    table: Own,
    free: Count,
    others: Vec<Arc<Other>>,
}

unsafe extern "C" fn created(handle: *const OSSL_CORE_HANDLE, named: *mut c_void) -> c_int {
    // SAFETY: what Others::find() gave, which waits for this; the provider is there while the core names it.
    unsafe {
        let named = &mut *named.cast::<Named<'_>>();
        if handle == named.core.handle() {
            return 1;
        }
        let table = (named.table)(handle).cast_const().cast::<OSSL_DISPATCH>();
        let Some(query) = in_table::<Query>(table, provider::QUERY_OPERATION) else {
            return 1;
        };
        // Under another name it may be this library again: not the host's own, and each would keep the other.
        if query as usize != super::entry::query_operation as *const () as usize
            && (named.up)(handle, 0) != 0
        {
            named.others.push(Arc::new(Other {
                handle,
                provctx: (named.provctx)(handle),
                query,
                free: named.free,
            }));
        }
    }
    1
}

unsafe extern "C" fn removed(_: *const OSSL_CORE_HANDLE, _: *mut c_void) -> c_int {
    1
}

unsafe extern "C" fn properties(_: *const c_char, _: *mut c_void) -> c_int {
    1
}

impl Others {
    /// Those that are active now. None where the core does not say.
    pub fn new(core: &Core) -> Others {
        Others(Others::find(core).unwrap_or_default())
    }

    fn find(core: &Core) -> Option<Vec<Arc<Other>>> {
        // SAFETY: the types are those of the numbers; the list outlives the registration.
        unsafe {
            let register: Register = core.function(upcall::PROVIDER_REGISTER_CHILD_CB)?;
            let deregister: Deregister = core.function(upcall::PROVIDER_DEREGISTER_CHILD_CB)?;
            let mut named = Named {
                core,
                up: core.function(upcall::PROVIDER_UP_REF)?,
                provctx: core.function(upcall::PROVIDER_GET0_PROVIDER_CTX)?,
                table: core.function(upcall::PROVIDER_GET0_DISPATCH)?,
                free: core.function(upcall::PROVIDER_FREE)?,
                others: Vec::new(),
            };
            let list = (&raw mut named).cast();
            if register(core.handle(), created, removed, properties, list) == 1 {
                deregister(core.handle());
            }
            Some(named.others)
        }
    }

    /// The first implementation of `name` in `operation`.
    pub fn implementation(&self, operation: c_int, name: &str) -> Option<Implementation> {
        for other in &self.0 {
            let mut no_store = 0;
            // SAFETY: a provider's query function; its list ends with null names.
            unsafe {
                let mut next = (other.query)(other.provctx, operation, &mut no_store);
                while !next.is_null() && !(*next).algorithm_names.is_null() {
                    let names = CStr::from_ptr((*next).algorithm_names).to_bytes();
                    let mut names = names.split(|byte| *byte == b':');
                    if names.any(|one| one.eq_ignore_ascii_case(name.as_bytes())) {
                        let table = (*next).implementation;
                        return Some(Implementation::new(
                            other.provctx,
                            table,
                            Some(other.clone()),
                        ));
                    }
                    next = next.add(1);
                }
            }
        }
        None
    }
}

/// One algorithm of a provider's.
#[derive(Clone)]
pub struct Implementation(Arc<Functions>);

struct Functions {
    /// By their numbers.
    functions: [*const c_void; MOST],
    provctx: *mut c_void,
    /// What keeps them from going; ours go with this library, which does not.
    #[allow(dead_code, reason = "held")]
    of: Option<Arc<Other>>,
}

// SAFETY: constants of a provider that is kept, whose functions may be called from every thread.
unsafe impl Send for Functions {}
// SAFETY: as above.
unsafe impl Sync for Functions {}

type New = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
type Copy1 = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type Update = unsafe extern "C" fn(*mut c_void, *const u8, usize) -> c_int;
type Final = unsafe extern "C" fn(*mut c_void, *mut u8, *mut usize, usize) -> c_int;
type MacInit = unsafe extern "C" fn(*mut c_void, *const u8, usize, *const OSSL_PARAM) -> c_int;
type CipherInit = unsafe extern "C" fn(
    *mut c_void,
    *const u8,
    usize,
    *const u8,
    usize,
    *const OSSL_PARAM,
) -> c_int;
type CipherUpdate =
    unsafe extern "C" fn(*mut c_void, *mut u8, *mut usize, usize, *const u8, usize) -> c_int;
type SetParams = unsafe extern "C" fn(*mut c_void, *const OSSL_PARAM) -> c_int;
type GetParams = unsafe extern "C" fn(*mut c_void, *mut OSSL_PARAM) -> c_int;

/// What the host itself has said on its error stack.
fn said(done: c_int) -> Result<()> {
    if done > 0 { Ok(()) } else { Err(Error::SAID) }
}

impl Implementation {
    /// # Safety
    /// The table ends with 0 and is constant; its functions may be called while `of` is held.
    unsafe fn new(
        provctx: *mut c_void,
        table: *const OSSL_DISPATCH,
        of: Option<Arc<Other>>,
    ) -> Implementation {
        let mut functions = [std::ptr::null(); MOST];
        let numbers = 1..MOST as c_int;
        for (number, place) in numbers.zip(&mut functions[1..]) {
            // SAFETY: as the caller vouches; an address.
            *place = unsafe { in_table(table, number) }.unwrap_or(std::ptr::null());
        }
        Implementation(Arc::new(Functions {
            functions,
            provctx,
            of,
        }))
    }

    /// One of ours, in this provider.
    pub fn ours(provider: &Provider, table: &'static [OSSL_DISPATCH]) -> Implementation {
        assert!(table.last().is_some_and(|last| last.function_id == 0));
        let provctx = std::ptr::from_ref(provider).cast_mut().cast();
        // SAFETY: a table of this library's, with its end.
        unsafe { Implementation::new(provctx, table.as_ptr(), None) }
    }

    /// The function of this number, if it is there.
    ///
    /// # Safety
    /// F is a function pointer of the type that core_dispatch.h gives the number in this operation.
    pub(super) unsafe fn function<F: Copy>(&self, number: c_int) -> Result<F> {
        const { assert!(size_of::<F>() == size_of::<*const c_void>()) };
        let function = self.0.functions[number as usize];
        if function.is_null() {
            return Err(Error::SAID);
        }
        // SAFETY: as the caller vouches; F is as wide as the address.
        Ok(unsafe { std::mem::transmute_copy(&function) })
    }

    /// What its functions that make a context take.
    pub(super) fn provctx(&self) -> *mut c_void {
        self.0.provctx
    }

    fn context(&self, new: c_int, free: c_int) -> Result<Foreign> {
        // SAFETY: the numbers say the types.
        unsafe {
            let made = self.function::<New>(new)?(self.provctx());
            if made.is_null() {
                return Err(Error::SAID);
            }
            Ok(Foreign {
                context: made,
                free: self.function(free)?,
                of: self.clone(),
            })
        }
    }

    /// A context of a digest.
    pub fn digest(&self) -> Result<Digest> {
        Ok(Digest(self.context(digest::NEWCTX, digest::FREECTX)?))
    }

    /// A context of a cipher.
    pub fn cipher(&self) -> Result<Cipher> {
        Ok(Cipher(self.context(cipher::NEWCTX, cipher::FREECTX)?))
    }

    /// A context of a derivation.
    pub fn kdf(&self) -> Result<Kdf> {
        Ok(Kdf(self.context(kdf::NEWCTX, kdf::FREECTX)?))
    }

    /// A context of a MAC.
    pub fn mac(&self) -> Result<Mac> {
        Ok(Mac(self.context(mac::NEWCTX, mac::FREECTX)?))
    }
}

/// A context of another provider's.
struct Foreign {
    context: *mut c_void,
    free: Free,
    of: Implementation,
}

// SAFETY: one thread at a time has it, and may be another one each time.
unsafe impl Send for Foreign {}

impl Drop for Foreign {
    fn drop(&mut self) {
        // SAFETY: made by the same implementation, and not used again.
        unsafe { (self.free)(self.context) };
    }
}

impl Foreign {
    fn copy(&self, dup: c_int) -> Result<Foreign> {
        // SAFETY: the number says the type.
        let copy = unsafe { self.of.function::<Copy1>(dup)?(self.context) };
        if copy.is_null() {
            return Err(Error::SAID);
        }
        Ok(Foreign {
            context: copy,
            free: self.free,
            of: self.of.clone(),
        })
    }

    fn update(&mut self, number: c_int, data: Input<'_>) -> Result<()> {
        // SAFETY: the number says the type; data is readable for its length.
        said(unsafe {
            self.of.function::<Update>(number)?(self.context, data.as_ptr(), data.len())
        })
    }

    fn finish(&mut self, number: c_int, out: Output<'_>) -> Result<usize> {
        let mut written = 0;
        // SAFETY: the number says the type; out is writable for its length.
        said(unsafe {
            self.of.function::<Final>(number)?(
                self.context,
                out.as_mut_ptr(),
                &mut written,
                out.len(),
            )
        })?;
        Ok(written)
    }

    fn set_params(&mut self, number: c_int, params: Given<'_>) -> Result<()> {
        // SAFETY: the number says the type.
        said(unsafe { self.of.function::<SetParams>(number)?(self.context, params.as_ptr()) })
    }

    fn get_params(&self, number: c_int, asked: &mut Asked<'_>) -> Result<()> {
        // SAFETY: the number says the type.
        let answer =
            unsafe { self.of.function::<GetParams>(number)?(self.context, asked.as_mut_ptr()) };
        match answer {
            // Some derivations say so where they know none of what is asked.
            -2 => Ok(()),
            answer => said(answer),
        }
    }
}

fn parts(bytes: Option<&[u8]>) -> (*const u8, usize) {
    bytes.map_or((std::ptr::null(), 0), |bytes| (bytes.as_ptr(), bytes.len()))
}

/// A digest.
pub struct Digest(Foreign);

impl Digest {
    /// Begins (again).
    pub fn init(&mut self) -> Result<()> {
        self.0.set_params(digest::INIT, Given::NONE)
    }

    /// Takes more.
    pub fn update(&mut self, data: Input<'_>) -> Result<()> {
        self.0.update(digest::UPDATE, data)
    }

    /// Ends; bytes that it gave.
    pub fn finish(&mut self, out: Output<'_>) -> Result<usize> {
        self.0.finish(digest::FINAL, out)
    }
}

/// A MAC of the host's.
pub struct Mac(Foreign);

impl Mac {
    /// Begins; without a key, again with the one before.
    pub fn init(&mut self, key: Option<&[u8]>, params: Given<'_>) -> Result<()> {
        let (key, length) = parts(key);
        // SAFETY: the number says the type; the key is readable for its length.
        said(unsafe {
            self.0.of.function::<MacInit>(mac::INIT)?(self.0.context, key, length, params.as_ptr())
        })
    }

    /// Takes more.
    pub fn update(&mut self, data: Input<'_>) -> Result<()> {
        self.0.update(mac::UPDATE, data)
    }

    /// Ends; bytes that it gave.
    pub fn finish(&mut self, out: Output<'_>) -> Result<usize> {
        self.0.finish(mac::FINAL, out)
    }

    /// Another that goes on from here.
    pub fn fork(&self) -> Result<Mac> {
        Ok(Mac(self.0.copy(mac::DUPCTX)?))
    }

    /// Sets parameters.
    pub fn set_params(&mut self, params: Given<'_>) -> Result<()> {
        self.0.set_params(mac::SET_CTX_PARAMS, params)
    }

    /// Answers.
    pub fn get_params(&self, asked: &mut Asked<'_>) -> Result<()> {
        self.0.get_params(mac::GET_CTX_PARAMS, asked)
    }
}

/// A cipher of the host's.
pub struct Cipher(Foreign);

impl Cipher {
    /// Begins; what is not given stays as it was.
    pub fn init(
        &mut self,
        direction: Direction,
        key: Option<&[u8]>,
        iv: Option<&[u8]>,
        params: Given<'_>,
    ) -> Result<()> {
        let number = match direction {
            Direction::Encrypt => cipher::ENCRYPT_INIT,
            Direction::Decrypt => cipher::DECRYPT_INIT,
        };
        let ((key, key_length), (iv, iv_length)) = (parts(key), parts(iv));
        // SAFETY: the number says the type; key and iv are readable for their lengths.
        said(unsafe {
            self.0.of.function::<CipherInit>(number)?(
                self.0.context,
                key,
                key_length,
                iv,
                iv_length,
                params.as_ptr(),
            )
        })
    }

    fn pass(&mut self, number: c_int, data: Input<'_>, out: Output<'_>) -> Result<usize> {
        let mut written = 0;
        // SAFETY: the number says the type; data is readable and out writable for their lengths.
        said(unsafe {
            self.0.of.function::<CipherUpdate>(number)?(
                self.0.context,
                out.as_mut_ptr(),
                &mut written,
                out.len(),
                data.as_ptr(),
                data.len(),
            )
        })?;
        Ok(written)
    }

    /// Goes on; bytes that it gave.
    pub fn update(&mut self, data: Input<'_>, out: Output<'_>) -> Result<usize> {
        self.pass(cipher::UPDATE, data, out)
    }

    /// Associated data, or how long the message will be.
    pub fn associated(&mut self, data: Option<Input<'_>>, length: usize) -> Result<()> {
        let mut written = 0;
        // SAFETY: the number says the type; data is readable for its length.
        said(unsafe {
            self.0.of.function::<CipherUpdate>(cipher::UPDATE)?(
                self.0.context,
                std::ptr::null_mut(),
                &mut written,
                length,
                data.map_or(std::ptr::null(), |data| data.as_ptr()),
                length,
            )
        })
    }

    /// All at once; bytes that it gave.
    pub fn once(&mut self, data: Input<'_>, out: Output<'_>) -> Result<usize> {
        self.pass(cipher::CIPHER, data, out)
    }

    /// Ends; bytes that it gave.
    pub fn finish(&mut self, out: Output<'_>) -> Result<usize> {
        self.0.finish(cipher::FINAL, out)
    }

    /// Another that goes on from here.
    pub fn fork(&self) -> Result<Cipher> {
        Ok(Cipher(self.0.copy(cipher::DUPCTX)?))
    }

    /// Sets parameters.
    pub fn set_params(&mut self, params: Given<'_>) -> Result<()> {
        self.0.set_params(cipher::SET_CTX_PARAMS, params)
    }

    /// Answers.
    pub fn get_params(&self, asked: &mut Asked<'_>) -> Result<()> {
        self.0.get_params(cipher::GET_CTX_PARAMS, asked)
    }
}

/// A derivation of the host's.
pub struct Kdf(Foreign);

type Derive = unsafe extern "C" fn(*mut c_void, *mut u8, usize, *const OSSL_PARAM) -> c_int;

impl Kdf {
    /// Derives with what was set.
    pub fn derive(&mut self, out: &mut [u8]) -> Result<()> {
        // SAFETY: the number says the type; out is writable for its length.
        said(unsafe {
            self.0.of.function::<Derive>(kdf::DERIVE)?(
                self.0.context,
                out.as_mut_ptr(),
                out.len(),
                std::ptr::null(),
            )
        })
    }

    /// Back to the beginning.
    pub fn reset(&mut self) {
        // SAFETY: the number says the type.
        unsafe {
            if let Ok(reset) = self.0.of.function::<Free>(kdf::RESET) {
                reset(self.0.context);
            }
        }
    }

    /// Another that goes on from here.
    pub fn fork(&self) -> Result<Kdf> {
        Ok(Kdf(self.0.copy(kdf::DUPCTX)?))
    }

    /// Sets parameters.
    pub fn set_params(&mut self, params: Given<'_>) -> Result<()> {
        self.0.set_params(kdf::SET_CTX_PARAMS, params)
    }

    /// Answers.
    pub fn get_params(&self, asked: &mut Asked<'_>) -> Result<()> {
        self.0.get_params(kdf::GET_CTX_PARAMS, asked)
    }
}
