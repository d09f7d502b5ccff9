//! The C side: every pointer of the host's is read and written here and nowhere else.

pub mod cipher;
pub mod core;
pub mod decoder;
pub mod decrypting;
pub mod digest;
pub mod encoder;
mod entry;
mod generating;
pub mod host;
pub mod kdf;
pub mod keymgmt;
pub mod mac;
pub mod params;
pub mod rand;
pub mod routed;
pub mod signature;
pub mod skeymgmt;
pub mod store;
pub mod types;

use crate::call::silent;
use crate::context::Provider;
use cryptofd_core::sys::buffer::{Input, Output};
use std::ffi::c_void;
use std::sync::{Arc, OnceLock};
use types::OSSL_DISPATCH;

/// The provider that a host's `provctx` is.
///
/// # Safety
/// `provctx` is what OSSL_provider_init gave, and has not been torn down.
unsafe fn provider(provctx: *mut c_void) -> Arc<Provider> {
    // SAFETY: the address that OSSL_provider_init made by Arc::into_raw, which keeps its count.
    unsafe {
        let pointer = provctx.cast_const().cast::<Provider>();
        Arc::increment_strong_count(pointer);
        Arc::from_raw(pointer)
    }
}

/// What a host holds of ours: a context, a key. Null where making it failed.
fn give<T>(made: Option<Box<T>>) -> *mut c_void {
    made.map_or(std::ptr::null_mut(), |made| Box::into_raw(made).cast())
}

/// A context that the host brings back.
///
/// # Safety
/// `pointer` is from give::<T>(), not freed, and in use by no other thread.
unsafe fn held<'a, T>(pointer: *mut c_void) -> &'a mut T {
    // SAFETY: as the caller vouches.
    unsafe { &mut *pointer.cast::<T>() }
}

/// A context that several threads of the host's may have at once.
///
/// # Safety
/// `pointer` is from give::<T>() and not freed.
unsafe fn shared<'a, T: Sync>(pointer: *mut c_void) -> &'a T {
    // SAFETY: as the caller vouches.
    unsafe { &*pointer.cast::<T>() }
}

/// Takes one back for good. Null is nothing.
///
/// # Safety
/// As `held`; it is not used again.
unsafe fn take<T>(pointer: *mut c_void) -> Option<Box<T>> {
    // SAFETY: as the caller vouches.
    (!pointer.is_null()).then(|| unsafe { Box::from_raw(pointer.cast::<T>()) })
}

/// Frees a context: a function of every family's.
unsafe extern "C" fn freectx<T>(context: *mut c_void) {
    // SAFETY: of the host, for the last time.
    let context = unsafe { take::<T>(context) };
    silent((), || {
        drop(context);
        Ok(())
    });
}

/// A context that knows its provider and nothing else.
struct Bare {
    provider: Arc<Provider>,
}

unsafe extern "C" fn newbare(provctx: *mut c_void) -> *mut c_void {
    // SAFETY: of the host.
    let provider = unsafe { provider(provctx) };
    give(silent(None, || Ok(Some(Box::new(Bare { provider })))))
}

/// Bytes that the host gives. Null is none.
///
/// # Safety
/// `pointer` is null or readable for `length` bytes during 'a.
unsafe fn input<'a>(pointer: *const u8, length: usize) -> Input<'a> {
    if pointer.is_null() || length == 0 || length > isize::MAX as usize {
        return Input::EMPTY;
    }
    // SAFETY: as the caller vouches.
    unsafe { Input::from_raw(pointer, length) }
}

/// Room that the host gives. Null is none.
///
/// # Safety
/// `pointer` is null or writable for `length` bytes during 'a.
unsafe fn output<'a>(pointer: *mut u8, length: usize) -> Output<'a> {
    let length = if pointer.is_null() { 0 } else { length };
    // SAFETY: as the caller vouches.
    unsafe { Output::from_raw(pointer, length.min(isize::MAX as usize)) }
}

/// A static array of a function over numbers: OpenSSL does not say which algorithm it makes a context of, so
/// each has a function of its own. `numbered!(ALL, newctx)` has `newctx::<0>` first.
macro_rules! numbered {
    ($name:ident, $function:ident) => {
        static $name: $crate::ffi::Numbered = $crate::ffi::Numbered($crate::ffi::numbers!($function
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
            32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60
            61 62 63));
    };
}
macro_rules! numbers {
    ($function:ident $($number:literal)*) => {
        [$($function::<$number> as *const std::ffi::c_void,)*]
    };
}
use {numbered, numbers};

/// The tables of a family's functions, each made once in a process: hosts keep their addresses.
struct Tables(OnceLock<Vec<&'static [OSSL_DISPATCH]>>);

impl Tables {
    const fn new() -> Tables {
        Tables(OnceLock::new())
    }

    /// The table of this place; `made` makes each of so many, and its end is added.
    fn get(
        &self,
        place: usize,
        count: usize,
        made: impl Fn(usize) -> Vec<OSSL_DISPATCH>,
    ) -> &'static [OSSL_DISPATCH] {
        let all = self.0.get_or_init(|| {
            let table = |place| {
                let mut table = made(place);
                table.push(OSSL_DISPATCH::END);
                &*table.leak()
            };
            (0..count).map(table).collect()
        });
        all[place]
    }
}

/// What `numbered!` makes.
struct Numbered([*const c_void; 64]);

// SAFETY: addresses of functions.
unsafe impl Sync for Numbered {}

impl std::ops::Index<usize> for Numbered {
    type Output = *const c_void;
    fn index(&self, place: usize) -> &*const c_void {
        &self.0[place]
    }
}
