//! The C side of signatures (provider-signature(7)).

use super::keymgmt::key;
use super::params::{Asked, Given, described, int, octets, text};
use super::types::*;
use super::{freectx, give, held, input, provider};
use crate::call::{gated, silent};
use crate::context::Provider;
use crate::error::{Error, Reason, Result};
use crate::signing::{Side, Signing, Subject};
use cryptofd_core::sys::buffer::Input;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;

struct Context {
    provider: Arc<Provider>,
    signing: Signing,
}

/// The functions; `messages`: of keys that sign messages, and no digests; `recovers`: whose signatures say what
/// was signed.
pub fn functions(messages: bool, recovers: bool) -> &'static [OSSL_DISPATCH] {
    let f = OSSL_DISPATCH::new;
    let mut all = vec![
        f(signature::NEWCTX, newctx as *const c_void),
        f(signature::FREECTX, freectx::<Context> as *const c_void),
        f(signature::DUPCTX, dupctx as *const c_void),
        f(
            signature::DIGEST_SIGN_INIT,
            digest_sign_init as *const c_void,
        ),
        f(signature::DIGEST_SIGN_UPDATE, update as *const c_void),
        f(
            signature::DIGEST_SIGN_FINAL,
            digest_sign_final as *const c_void,
        ),
        f(signature::DIGEST_SIGN, sign as *const c_void),
        f(
            signature::DIGEST_VERIFY_INIT,
            digest_verify_init as *const c_void,
        ),
        f(signature::DIGEST_VERIFY_UPDATE, update as *const c_void),
        f(
            signature::DIGEST_VERIFY_FINAL,
            digest_verify_final as *const c_void,
        ),
        f(signature::DIGEST_VERIFY, verify as *const c_void),
        f(signature::GET_CTX_PARAMS, get_ctx_params as *const c_void),
        f(
            signature::GETTABLE_CTX_PARAMS,
            gettable_ctx_params as *const c_void,
        ),
        f(signature::SET_CTX_PARAMS, set_ctx_params as *const c_void),
        f(
            signature::SETTABLE_CTX_PARAMS,
            settable_ctx_params as *const c_void,
        ),
    ];
    let (sign_begins, verify_begins) = if messages {
        (
            sign_message_init as *const c_void,
            verify_message_init as *const c_void,
        )
    } else {
        (sign_init as *const c_void, verify_init as *const c_void)
    };
    if messages {
        // 3.0 does not know these, and wants the others where there are SIGN and VERIFY.
        all.extend([
            f(signature::SIGN_MESSAGE_INIT, sign_begins),
            f(signature::VERIFY_MESSAGE_INIT, verify_begins),
        ]);
    }
    if recovers {
        all.extend([
            f(signature::VERIFY_RECOVER_INIT, verify_begins),
            f(signature::VERIFY_RECOVER, recover as *const c_void),
        ]);
    }
    all.extend([
        f(signature::SIGN_INIT, sign_begins),
        f(signature::VERIFY_INIT, verify_begins),
        f(signature::SIGN, sign as *const c_void),
        f(signature::VERIFY, verify as *const c_void),
        OSSL_DISPATCH::END,
    ]);
    all.leak()
}

unsafe extern "C" fn newctx(provctx: *mut c_void, _propq: *const c_char) -> *mut c_void {
    // SAFETY: of the host.
    let provider = unsafe { provider(provctx) };
    give(silent(None, || {
        Ok(Some(Box::new(Context {
            provider,
            signing: Signing::default(),
        })))
    }))
}

unsafe extern "C" fn dupctx(context: *mut c_void) -> *mut c_void {
    // SAFETY: of the host.
    let context = unsafe { held::<Context>(context) };
    give(gated(&context.provider, None, || {
        Ok(Some(Box::new(Context {
            provider: context.provider.clone(),
            signing: context.signing.fork()?,
        })))
    }))
}

/// # Safety
/// All of the host.
unsafe fn begin(
    context: *mut c_void,
    side: Side,
    subject: Subject,
    digest: *const c_char,
    with: *const c_void,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: as the caller vouches.
    let (context, params) = unsafe { (held::<Context>(context), Given::new(params)) };
    gated(&context.provider, 0, || {
        // SAFETY: as above; null where there is none.
        let (with, digest) = unsafe {
            (
                (!with.is_null()).then(|| key(with).key.clone()),
                (!digest.is_null()).then(|| CStr::from_ptr(digest)),
            )
        };
        let digest = digest.map(CStr::to_str).transpose();
        let digest =
            digest.map_err(|_| Error::new(Reason::PARAMETER, "a digest's name is text"))?;
        context.signing.begin(side, subject, with, digest, params)?;
        Ok(1)
    })
}

macro_rules! beginning {
    ($($name:ident: $side:ident $subject:ident;)*) => {$(
        unsafe extern "C" fn $name(
            context: *mut c_void,
            with: *const c_void,
            params: *const OSSL_PARAM,
        ) -> c_int {
            // SAFETY: of the host.
            unsafe {
                begin(context, Side::$side, Subject::$subject, std::ptr::null(), with, params)
            }
        }
    )*};
}

beginning! {
    sign_init: Sign Digest;
    verify_init: Verify Digest;
    sign_message_init: Sign Message;
    verify_message_init: Verify Message;
}

unsafe extern "C" fn digest_sign_init(
    context: *mut c_void,
    digest: *const c_char,
    with: *const c_void,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    unsafe { begin(context, Side::Sign, Subject::Message, digest, with, params) }
}

unsafe extern "C" fn digest_verify_init(
    context: *mut c_void,
    digest: *const c_char,
    with: *const c_void,
    params: *const OSSL_PARAM,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        begin(
            context,
            Side::Verify,
            Subject::Message,
            digest,
            with,
            params,
        )
    }
}

unsafe extern "C" fn update(context: *mut c_void, data: *const u8, length: usize) -> c_int {
    // SAFETY: of the host.
    let (context, data) = unsafe { (held::<Context>(context), input(data, length)) };
    gated(&context.provider, 0, || {
        context.signing.update(data)?;
        Ok(1)
    })
}

/// The signature of what came, and of `last`; its size alone where there is no room.
///
/// # Safety
/// All of the host.
unsafe fn signed(
    context: &mut Context,
    out: *mut u8,
    length: *mut usize,
    room: usize,
    last: Option<Input<'_>>,
) -> c_int {
    gated(&context.provider, 0, || {
        let most = context.signing.size()?;
        if out.is_null() {
            // SAFETY: a place for the size.
            unsafe { *length = most };
            return Ok(1);
        }
        let small = || {
            let text = format!("{room} bytes for a signature of {most}");
            Error::new(Reason::OUTPUT_TOO_SMALL, text)
        };
        // Some callers give the room that an exact size needs, and DER's is known afterwards only.
        let signature = context.signing.sign(last)?;
        if signature.len() > room {
            return Err(small());
        }
        // SAFETY: there is room.
        unsafe {
            std::ptr::copy_nonoverlapping(signature.as_ptr(), out, signature.len());
            *length = signature.len();
        }
        Ok(1)
    })
}

unsafe extern "C" fn sign(
    context: *mut c_void,
    out: *mut u8,
    length: *mut usize,
    room: usize,
    data: *const u8,
    data_length: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let last = input(data, data_length);
        signed(held::<Context>(context), out, length, room, Some(last))
    }
}

unsafe extern "C" fn digest_sign_final(
    context: *mut c_void,
    out: *mut u8,
    length: *mut usize,
    room: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe { signed(held::<Context>(context), out, length, room, None) }
}

fn verified(context: &mut Context, signature: Input<'_>, last: Option<Input<'_>>) -> c_int {
    gated(&context.provider, 0, || {
        let signature = signature.to_vec();
        Ok(c_int::from(context.signing.verify(last, &signature)?))
    })
}

unsafe extern "C" fn verify(
    context: *mut c_void,
    signature: *const u8,
    signature_length: usize,
    data: *const u8,
    data_length: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        let last = input(data, data_length);
        verified(
            held::<Context>(context),
            input(signature, signature_length),
            Some(last),
        )
    }
}

unsafe extern "C" fn recover(
    context: *mut c_void,
    out: *mut u8,
    length: *mut usize,
    room: usize,
    signature: *const u8,
    signature_length: usize,
) -> c_int {
    // SAFETY: of the host.
    let (context, signature) =
        unsafe { (held::<Context>(context), input(signature, signature_length)) };
    gated(&context.provider, 0, || {
        if out.is_null() {
            let most = context.signing.size()?;
            // SAFETY: a place for the size.
            unsafe { *length = most };
            return Ok(1);
        }
        let signed = context.signing.recover(&signature.to_vec())?;
        if signed.len() > room {
            let text = format!("{room} bytes where {} are needed", signed.len());
            return Err(Error::new(Reason::OUTPUT_TOO_SMALL, text));
        }
        // SAFETY: there is room.
        unsafe {
            std::ptr::copy_nonoverlapping(signed.as_ptr(), out, signed.len());
            *length = signed.len();
        }
        Ok(1)
    })
}

unsafe extern "C" fn digest_verify_final(
    context: *mut c_void,
    signature: *const u8,
    signature_length: usize,
) -> c_int {
    // SAFETY: of the host.
    unsafe {
        verified(
            held::<Context>(context),
            input(signature, signature_length),
            None,
        )
    }
}

described!(GETTABLE: octets(c"algorithm-id"), text(c"digest"), text(c"pad-mode"), text(c"saltlen"),
    text(c"mgf1-digest"));
described!(SETTABLE: text(c"digest"), text(c"properties"), text(c"pad-mode"), text(c"saltlen"),
    text(c"mgf1-digest"), text(c"mgf1-properties"), text(c"instance"), octets(c"context-string"),
    int(c"deterministic"));

unsafe extern "C" fn gettable_ctx_params(_: *mut c_void, _: *mut c_void) -> *const OSSL_PARAM {
    GETTABLE.as_ptr()
}

unsafe extern "C" fn settable_ctx_params(_: *mut c_void, _: *mut c_void) -> *const OSSL_PARAM {
    SETTABLE.as_ptr()
}

unsafe extern "C" fn get_ctx_params(context: *mut c_void, params: *mut OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    let (context, asked) = unsafe { (held::<Context>(context), Asked::new(params)) };
    gated(&context.provider, 0, || {
        context.signing.tell(asked)?;
        Ok(1)
    })
}

unsafe extern "C" fn set_ctx_params(context: *mut c_void, params: *const OSSL_PARAM) -> c_int {
    // SAFETY: of the host.
    let (context, given) = unsafe { (held::<Context>(context), Given::new(params)) };
    gated(&context.provider, 0, || {
        let done: Result<()> = context.signing.set(given);
        done.map(|()| 1)
    })
}
