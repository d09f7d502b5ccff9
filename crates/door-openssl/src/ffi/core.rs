//! What the core of the host's libcrypto does for a provider: its functions, found by number.

use super::params::{Given, Value};
use super::types::*;
use crate::error::Error;
use std::ffi::{CStr, CString, c_char, c_int, c_void};

type NewError = unsafe extern "C" fn(*const OSSL_CORE_HANDLE);
type SetErrorDebug =
    unsafe extern "C" fn(*const OSSL_CORE_HANDLE, *const c_char, c_int, *const c_char);
type VsetError = unsafe extern "C" fn(*const OSSL_CORE_HANDLE, u32, *const c_char, *const c_void);
type GetParams = unsafe extern "C" fn(*const OSSL_CORE_HANDLE, *mut OSSL_PARAM) -> c_int;

type Mark = unsafe extern "C" fn(*const OSSL_CORE_HANDLE) -> c_int;

/// The function of this number in a table, if it is there.
///
/// # Safety
/// The table is null or ends with 0; F is a function pointer of the type that core_dispatch.h gives the number.
pub unsafe fn in_table<F: Copy>(table: *const OSSL_DISPATCH, number: c_int) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*const c_void>()) };
    let mut next = table;
    // SAFETY: as the caller vouches; F is as wide as the address.
    unsafe {
        while !next.is_null() && (*next).function_id != 0 {
            if (*next).function_id == number && !(*next).function.is_null() {
                return Some(std::mem::transmute_copy(&(*next).function));
            }
            next = next.add(1);
        }
    }
    None
}

/// The core: who we are to it, and its functions.
pub struct Core {
    handle: *const OSSL_CORE_HANDLE,
    table: *const OSSL_DISPATCH,
    new_error: Option<NewError>,
    set_error_debug: Option<SetErrorDebug>,
    vset_error: Option<VsetError>,
    get_params: Option<GetParams>,
    set_mark: Option<Mark>,
    clear_mark: Option<Mark>,
    back_to_mark: Option<Mark>,
}

// SAFETY: the core's functions may be called from every thread; the table is constant.
unsafe impl Send for Core {}
// SAFETY: as above.
unsafe impl Sync for Core {}

impl Core {
    /// # Safety
    /// What OSSL_provider_init was given; both live as long as the provider.
    pub unsafe fn new(handle: *const OSSL_CORE_HANDLE, table: *const OSSL_DISPATCH) -> Core {
        let mut core = Core {
            handle,
            table,
            new_error: None,
            set_error_debug: None,
            vset_error: None,
            get_params: None,
            set_mark: None,
            clear_mark: None,
            back_to_mark: None,
        };
        // SAFETY: the numbers say the functions' types (core_dispatch.h).
        unsafe {
            core.new_error = core.function(upcall::NEW_ERROR);
            core.set_error_debug = core.function(upcall::SET_ERROR_DEBUG);
            core.vset_error = core.function(upcall::VSET_ERROR);
            core.get_params = core.function(upcall::GET_PARAMS);
            core.set_mark = core.function(upcall::SET_ERROR_MARK);
            core.clear_mark = core.function(upcall::CLEAR_LAST_ERROR_MARK);
            core.back_to_mark = core.function(upcall::POP_ERROR_TO_MARK);
        }
        core
    }

    /// The core's function of this number, if it has it.
    ///
    /// # Safety
    /// F is a function pointer of the type that core_dispatch.h gives the number.
    pub unsafe fn function<F: Copy>(&self, number: c_int) -> Option<F> {
        // SAFETY: a table that ends with 0, by new(); the caller vouches for the type.
        unsafe { in_table(self.table, number) }
    }

    /// Who we are to the core.
    pub fn handle(&self) -> *const OSSL_CORE_HANDLE {
        self.handle
    }

    /// Puts an error on this thread's stack of the host's.
    pub fn raise(&self, error: &Error) {
        if error.reason.0 == 0 {
            return;
        }
        let (Some(new), Some(set)) = (self.new_error, self.vset_error) else {
            return;
        };
        // The text is the format, with nothing in it to be filled in: so the va_list is not looked at, and
        // any address will do for it on every ABI (an array, a pointer, or a structure by its address).
        let text: String = error.text.replace('%', "%%").replace('\0', " ");
        let Ok(text) = CString::new(text) else {
            return;
        };
        let nothing = [0u64; 8];
        // SAFETY: by the functions' types; the format asks for no argument.
        unsafe {
            new(self.handle);
            if let Some(debug) = self.set_error_debug {
                debug(self.handle, c"cryptofd".as_ptr(), 0, c"".as_ptr());
            }
            set(
                self.handle,
                error.reason.0,
                text.as_ptr(),
                nothing.as_ptr().cast(),
            );
        }
    }

    /// Whether `f` succeeds; if it does not, what it said is taken back: somebody else will do it.
    pub fn forgetting(&self, f: impl FnOnce() -> bool) -> bool {
        let (Some(set), Some(clear), Some(back)) =
            (self.set_mark, self.clear_mark, self.back_to_mark)
        else {
            return f();
        };
        // SAFETY: by the functions' types; one mark is set and one taken away.
        unsafe {
            set(self.handle);
            let done = f();
            (if done { clear } else { back })(self.handle);
            done
        }
    }

    /// What the provider's section of the configuration, or the core itself, says under this name.
    pub fn parameter(&self, name: &CStr) -> Option<String> {
        let get = self.get_params?;
        let mut text: *const c_char = std::ptr::null();
        let mut list = [
            OSSL_PARAM {
                key: name.as_ptr(),
                data_type: OSSL_PARAM_UTF8_PTR,
                data: (&raw mut text).cast(),
                data_size: 0,
                return_size: OSSL_PARAM_UNMODIFIED,
            },
            super::params::end(),
        ];
        // SAFETY: a list with an end; the core puts the address of a text of its own there.
        unsafe {
            if get(self.handle, list.as_mut_ptr()) != 1 || text.is_null() {
                return None;
            }
            let given: Option<Value<'_>> = Given::new(list.as_ptr()).find(name);
            given.and_then(|value| value.text().ok().map(str::to_owned))
        }
    }
}
