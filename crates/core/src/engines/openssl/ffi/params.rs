//! Lists of parameters, as OpenSSL's functions take them (OSSL_PARAM(3)).

use super::api::OSSL_PARAM;
use std::ffi::{CStr, c_void};
use std::marker::PhantomData;

const UNSIGNED_INTEGER: u32 = 2;
const UTF8_STRING: u32 = 4;
const OCTET_STRING: u32 = 5;

/// A list that borrows its strings and bytes.
pub struct Params<'a> {
    list: Vec<OSSL_PARAM>,
    /// Where numbers stand; their addresses are in the list, so they do not move.
    numbers: Box<[u64; 8]>,
    used: usize,
    life: PhantomData<&'a [u8]>,
}

impl<'a> Params<'a> {
    /// An empty list.
    pub fn new() -> Params<'a> {
        let mut list = Vec::with_capacity(8);
        list.push(OSSL_PARAM {
            key: std::ptr::null(),
            data_type: 0,
            data: std::ptr::null_mut(),
            data_size: 0,
            return_size: 0,
        });
        Params {
            list,
            numbers: Box::new([0; 8]),
            used: 0,
            life: PhantomData,
        }
    }

    fn add(mut self, key: &'static CStr, data_type: u32, data: *const c_void, size: usize) -> Self {
        let end = self.list.len() - 1;
        self.list.insert(
            end,
            OSSL_PARAM {
                key: key.as_ptr(),
                data_type,
                data: data.cast_mut(),
                data_size: size,
                return_size: usize::MAX,
            },
        );
        self
    }

    /// And a string.
    pub fn text(self, key: &'static CStr, value: &'a CStr) -> Self {
        let size = value.to_bytes().len();
        self.add(key, UTF8_STRING, value.as_ptr().cast(), size)
    }

    /// And bytes.
    pub fn bytes(self, key: &'static CStr, value: &'a [u8]) -> Self {
        self.add(key, OCTET_STRING, value.as_ptr().cast(), value.len())
    }

    /// And a number (eight at most); OpenSSL converts it to the width that it wants.
    pub fn number(mut self, key: &'static CStr, value: u64) -> Self {
        let slot = &mut self.numbers[self.used];
        *slot = value;
        let place: *const u64 = slot;
        self.used += 1;
        self.add(key, UNSIGNED_INTEGER, place.cast(), size_of::<u64>())
    }

    /// The list, for as long as `self` lives.
    pub fn as_ptr(&self) -> *const OSSL_PARAM {
        self.list.as_ptr()
    }
}

/// The string that a list holds under `key`.
///
/// # Safety
/// `list` is null or ends with an entry whose key is null; a string in it ends with a NUL.
pub unsafe fn string(list: *const OSSL_PARAM, key: &CStr) -> Option<String> {
    // SAFETY: as the caller promises.
    let entry = unsafe { find(list, key) }?;
    if entry.data_type != UTF8_STRING || entry.data.is_null() {
        return None;
    }
    // SAFETY: a string that ends with a NUL, as the caller promises.
    let value = unsafe { CStr::from_ptr(entry.data.cast_const().cast()) };
    Some(value.to_string_lossy().into_owned())
}

/// Whether a list of what can be set names `key`.
///
/// # Safety
/// `list` is null or ends with an entry whose key is null.
pub unsafe fn names(list: *const OSSL_PARAM, key: &CStr) -> bool {
    // SAFETY: as the caller promises.
    unsafe { find(list, key) }.is_some()
}

/// The entry with this key.
///
/// # Safety
/// `list` is null or ends with an entry whose key is null, and outlives the answer.
unsafe fn find<'a>(mut list: *const OSSL_PARAM, key: &CStr) -> Option<&'a OSSL_PARAM> {
    if list.is_null() {
        return None;
    }
    loop {
        // SAFETY: not yet beyond the last entry.
        let entry = unsafe { &*list };
        if entry.key.is_null() {
            return None;
        }
        // SAFETY: a key is a static C string.
        if unsafe { CStr::from_ptr(entry.key) } == key {
            return Some(entry);
        }
        // SAFETY: this entry was not the last.
        list = unsafe { list.add(1) };
    }
}
