//! The C side of `cryptofd:` URIs (provider-storemgmt(7)).

use super::keymgmt::{Held, offer};
use super::params::{Given, described, int, text};
use super::types::*;
use super::{give, held, provider, take};
use crate::call::{gated, silent};
use crate::context::Provider;
use crate::error::{Error, Reason};
use crate::key::Key;
use crate::pair::TYPES;
use crate::reference::Name;
use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;

/// OSSL_STORE_INFO_*.
const PUBLIC_KEY: i128 = 3;
const PRIVATE_KEY: i128 = 4;

type Callback = unsafe extern "C" fn(*const OSSL_PARAM, *mut c_void) -> c_int;

struct Context {
    provider: Arc<Provider>,
    name: Name,
    /// What the program expects: OSSL_STORE_INFO_*, 0 where it says nothing.
    expects: i128,
    /// What is still to be given; none before the broker was asked.
    left: Option<VecDeque<Key>>,
}

/// The functions.
pub fn functions() -> &'static [OSSL_DISPATCH] {
    let f = OSSL_DISPATCH::new;
    let all = vec![
        f(store::OPEN, open as *const c_void),
        f(
            store::SETTABLE_CTX_PARAMS,
            settable_ctx_params as *const c_void,
        ),
        f(store::SET_CTX_PARAMS, set_ctx_params as *const c_void),
        f(store::LOAD, load as *const c_void),
        f(store::EOF, eof as *const c_void),
        f(store::CLOSE, close as *const c_void),
        OSSL_DISPATCH::END,
    ];
    all.leak()
}

unsafe extern "C" fn open(provctx: *mut c_void, uri: *const c_char) -> *mut c_void {
    // SAFETY: of the host.
    let provider = unsafe { provider(provctx) };
    let made = gated(&provider, None, || {
        provider.offers_keys()?;
        // SAFETY: a C string.
        let uri = unsafe { CStr::from_ptr(uri) };
        let uri = uri.to_str();
        let uri = uri.map_err(|_| Error::new(Reason::BAD_URI, "a URI is ASCII"))?;
        Ok(Some(Box::new(Context {
            provider: provider.clone(),
            name: Name::parse(uri)?,
            expects: 0,
            left: None,
        })))
    });
    give(made)
}

described!(SETTABLE: int(c"expect"), text(c"properties"));

unsafe extern "C" fn settable_ctx_params(_: *mut c_void) -> *const OSSL_PARAM {
    SETTABLE.as_ptr()
}

unsafe extern "C" fn set_ctx_params(context: *mut c_void, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    let (context, given) = unsafe { (held::<Context>(context), Given::new(params)) };
    gated(&context.provider, 0, || {
        if let Some(expects) = given.find(c"expect") {
            context.expects = expects.integer()?;
        }
        Ok(1)
    })
}

unsafe extern "C" fn load(
    context: *mut c_void,
    callback: Callback,
    argument: *mut c_void,
    _passphrase: *const c_void,
    _passphrase_argument: *mut c_void,
) -> c_int {
    // SAFETY: of the host.
    let context = unsafe { held::<Context>(context) };
    gated(&context.provider, 0, || {
        let private = context.expects != PUBLIC_KEY;
        if context.left.is_none() {
            // A failure is told once: then this is the end.
            context.left = Some(VecDeque::new());
            let found = match &context.name {
                _ if ![0, PUBLIC_KEY, PRIVATE_KEY].contains(&context.expects) => Vec::new(),
                Name::Key(name) => vec![Key::named(name, private)?],
                Name::All => Key::all(private)?,
            };
            let known = |key: &Key| context.provider.has(TYPES[key.place()].since);
            let all = found.len();
            let left: VecDeque<Key> = found.into_iter().filter(known).collect();
            if left.len() < all && !matches!(context.name, Name::All) {
                let text = "this OpenSSL has no keys of such a type: 3.5 and later have";
                return Err(Error::new(Reason::UNSUPPORTED, text));
            }
            context.left = Some(left);
        }
        let Some(key) = context.left.as_mut().and_then(VecDeque::pop_front) else {
            return Ok(0);
        };
        let held = Held {
            provider: context.provider.clone(),
            key: Arc::new(key),
        };
        // SAFETY: the host's callback.
        Ok(unsafe { offer(held, callback, argument) })
    })
}

unsafe extern "C" fn eof(context: *mut c_void) -> c_int {
    // SAFETY: of the host.
    let context = unsafe { held::<Context>(context) };
    c_int::from(context.left.as_ref().is_some_and(VecDeque::is_empty))
}

unsafe extern "C" fn close(context: *mut c_void) -> c_int {
    // SAFETY: of the host, for the last time.
    let context = unsafe { take::<Context>(context) };
    silent(0, || {
        drop(context);
        Ok(1)
    })
}
