//! Keyed EVP contexts: a template that stays as it is, and one working copy that is used again.

use super::failed;
use crate::error::Result;
use aws_lc_sys as c;
use std::sync::{Mutex, TryLockError};

/// An EVP_CIPHER_CTX, on AWS-LC's heap: GCM's points into itself and must not move.
pub(super) struct Context(*mut c::EVP_CIPHER_CTX);

// SAFETY: owned; AWS-LC binds no context to a thread.
unsafe impl Send for Context {}
// SAFETY: &Context is only copied from, which does not write to it.
unsafe impl Sync for Context {}

impl Context {
    fn empty() -> Result<Context> {
        // SAFETY: returns an owned context or null.
        let context = unsafe { c::EVP_CIPHER_CTX_new() };
        if context.is_null() {
            return Err(failed("cipher"));
        }
        Ok(Context(context))
    }

    /// A context for `cipher` without key: parameters come first with some.
    pub fn new(cipher: *const c::EVP_CIPHER, encrypt: bool) -> Result<Context> {
        let context = Context::empty()?;
        let (null, none) = (std::ptr::null_mut(), std::ptr::null());
        // SAFETY: the cipher is a static table; no key and no iv yet.
        let done = unsafe {
            c::EVP_CipherInit_ex(context.0, cipher, null, none, none, i32::from(encrypt))
        };
        super::done(done, "cipher").map(|()| context)
    }

    /// Sets the key.
    pub fn key(&mut self, key: &[u8]) -> Result<()> {
        let null = std::ptr::null_mut();
        // SAFETY: the key was sized from the table to the cipher's.
        let done = unsafe {
            assert_eq!(key.len(), c::EVP_CIPHER_CTX_key_length(self.0) as usize);
            c::EVP_CipherInit_ex(
                self.0,
                std::ptr::null(),
                null,
                key.as_ptr(),
                null.cast(),
                -1,
            )
        };
        super::done(done, "cipher key")
    }

    /// Begins a message. The iv has the size that the context expects (set before, where there is a
    /// choice).
    pub fn begin(&mut self, iv: &[u8], encrypt: bool) -> Result<()> {
        let null = std::ptr::null_mut();
        // SAFETY: sizes were validated against the table, and any other was set with control().
        let done = unsafe {
            c::EVP_CipherInit_ex(
                self.0,
                std::ptr::null(),
                null,
                null.cast(),
                if iv.is_empty() {
                    std::ptr::null()
                } else {
                    iv.as_ptr()
                },
                i32::from(encrypt),
            )
        };
        super::done(done, "cipher iv")
    }

    /// EVP_CIPHER_CTX_ctrl.
    ///
    /// # Safety
    /// `pointer` is what `command` with `argument` asks for.
    pub unsafe fn control(
        &mut self,
        command: i32,
        argument: i32,
        pointer: *mut std::ffi::c_void,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        let done = unsafe { c::EVP_CIPHER_CTX_ctrl(self.0, command, argument, pointer) };
        super::done(done, "cipher parameter")
    }

    /// EVP_CipherUpdate; whether it worked.
    ///
    /// # Safety
    /// `input` is readable and `out`, if not null, writable for `length` bytes.
    pub unsafe fn update(&mut self, out: *mut u8, input: *const u8, length: i32) -> bool {
        let mut written = 0;
        // SAFETY: the caller's promise; ciphers here have no padding and buffer nothing.
        let done = unsafe { c::EVP_CipherUpdate(self.0, out, &mut written, input, length) };
        done == 1 && written == length
    }

    /// An independent copy.
    pub fn copy(&self) -> Result<Context> {
        let copy = Context::empty()?;
        // SAFETY: both are valid contexts.
        let done = unsafe { c::EVP_CIPHER_CTX_copy(copy.0, self.0) };
        super::done(done, "cipher copy").map(|()| copy)
    }

    /// The context, for what has no wrapper here.
    pub fn raw(&mut self) -> *mut c::EVP_CIPHER_CTX {
        self.0
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: owned; AWS-LC wipes what it frees.
        unsafe { c::EVP_CIPHER_CTX_free(self.0) }
    }
}

/// A keyed context that many threads use: who comes first has the working copy, others copy.
pub(super) struct Keyed<T> {
    template: T,
    working: Mutex<Option<T>>,
}

impl<T> Keyed<T> {
    pub fn new(template: T) -> Keyed<T> {
        Keyed {
            template,
            working: Mutex::new(None),
        }
    }

    /// The template, for a copy that lives on.
    pub fn template(&self) -> &T {
        &self.template
    }

    /// Runs `f` on a context. After an error the context is thrown away.
    pub fn with<R>(
        &self,
        copy: impl Fn(&T) -> Result<T>,
        f: impl FnOnce(&mut T) -> Result<R>,
    ) -> Result<R> {
        let mut guard = match self.working.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Taken by another thread (or by one that a fork left behind).
            Err(TryLockError::WouldBlock) => return f(&mut copy(&self.template)?),
        };
        let mut context = match guard.take() {
            Some(context) => context,
            None => copy(&self.template)?,
        };
        let result = f(&mut context)?;
        *guard = Some(context);
        Ok(result)
    }
}

/// EVP counts in int: longer data goes in pieces of at most this, a multiple of every block.
pub(super) const MOST: usize = 1 << 30;

/// `length` as EVP wants it.
pub(super) fn int(length: usize) -> Result<i32> {
    i32::try_from(length).map_err(|_| failed("more than 2 GiB at once"))
}
