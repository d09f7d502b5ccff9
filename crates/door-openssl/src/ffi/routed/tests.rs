//! Two sides that write down what they hear.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "every context is one of a side that is made here"
)]

use super::crypting::{
    AAD, Crypting, cipher_final, cipher_get_params, cipher_set_params, cipher_update, decrypt_init,
    encrypt_init, new_cipher,
};
use super::hashing::{
    digest_dup, digest_final, digest_init, digest_set_params, digest_update, new_digest,
};
use super::*;
use crate::cipher::Way;
use crate::ffi::core::Core;
use crate::ffi::held;
use crate::ffi::params::{Given, Own};
use std::ffi::c_char;
use std::sync::Arc;

/// What a side has heard of one context: ours in capitals.
struct Heard {
    ours: bool,
    fails: bool,
    log: String,
}

/// Every context says what it heard when it is freed.
static SAID: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

fn heard<'a>(context: *mut c_void) -> &'a mut Heard {
    unsafe { held::<Heard>(context) }
}

fn hear(context: *mut c_void, what: impl AsRef<str>) -> c_int {
    let one = heard(context);
    one.log.push_str(what.as_ref());
    c_int::from(!one.fails)
}

unsafe extern "C" fn new<const OURS: bool, const FAILS: bool>(_: *mut c_void) -> *mut c_void {
    give(Some(Box::new(Heard {
        ours: OURS,
        fails: FAILS,
        log: String::new(),
    })))
}
unsafe extern "C" fn dup(context: *mut c_void) -> *mut c_void {
    let one = heard(context);
    give(Some(Box::new(Heard {
        ours: one.ours,
        fails: one.fails,
        log: format!("{}d", one.log),
    })))
}
unsafe extern "C" fn free(context: *mut c_void) {
    let one = unsafe { take::<Heard>(context) }.unwrap();
    let log = if one.ours {
        one.log.to_uppercase()
    } else {
        one.log
    };
    SAID.lock().unwrap().push(log);
}
unsafe extern "C" fn init(context: *mut c_void, _: *const OSSL_PARAM) -> c_int {
    hear(context, "i")
}
unsafe extern "C" fn update(context: *mut c_void, _: *const u8, length: usize) -> c_int {
    hear(context, format!("u{length}"))
}
unsafe extern "C" fn finish(context: *mut c_void, _: *mut u8, _: *mut usize, _: usize) -> c_int {
    hear(context, "f")
}
unsafe extern "C" fn keyed(
    context: *mut c_void,
    key: *const u8,
    length: usize,
    iv: *const u8,
    iv_length: usize,
    params: *const OSSL_PARAM,
) -> c_int {
    let bytes = |pointer: *const u8, length| match pointer.is_null() {
        true => "-".to_owned(),
        false => String::from_utf8_lossy(unsafe { std::slice::from_raw_parts(pointer, length) })
            .into_owned(),
    };
    let names: Vec<_> = unsafe { Given::new(params) }
        .iter()
        .map(|value| value.key().to_string_lossy().into_owned())
        .collect();
    let (key, iv) = (bytes(key, length), bytes(iv, iv_length));
    hear(context, format!("i({key},{iv}{})", names.concat()))
}
unsafe extern "C" fn crypt(
    context: *mut c_void,
    out: *mut u8,
    _: *mut usize,
    _: usize,
    data: *const u8,
    length: usize,
) -> c_int {
    let kind = match (out.is_null(), data.is_null()) {
        (true, true) => "l",
        (true, false) => "a",
        _ => "u",
    };
    hear(context, format!("{kind}{length}"))
}
unsafe extern "C" fn set(context: *mut c_void, params: *const OSSL_PARAM) -> c_int {
    let names: Vec<_> = unsafe { Given::new(params) }
        .iter()
        .map(|value| value.key().to_string_lossy().into_owned())
        .collect();
    hear(context, format!("s({})", names.concat()))
}
/// Does not know padding.
unsafe extern "C" fn refusing(
    context: *mut c_void,
    key: *const u8,
    length: usize,
    iv: *const u8,
    iv_length: usize,
    params: *const OSSL_PARAM,
) -> c_int {
    let done = unsafe { keyed(context, key, length, iv, iv_length, params) };
    let padding = unsafe { Given::new(params) }.find(c"padding");
    done & c_int::from(padding.is_none())
}

fn table(functions: &[(c_int, *const c_void)]) -> &'static [OSSL_DISPATCH] {
    let all = functions
        .iter()
        .map(|(number, function)| OSSL_DISPATCH::new(*number, *function));
    all.chain([OSSL_DISPATCH::END]).collect::<Vec<_>>().leak()
}

fn side(provider: &Provider, of_ciphers: bool, made: New) -> Implementation {
    let table = if of_ciphers {
        table(&[
            (cipher::NEWCTX, made as *const c_void),
            (cipher::ENCRYPT_INIT, keyed as *const c_void),
            (cipher::DECRYPT_INIT, refusing as *const c_void),
            (cipher::UPDATE, crypt as *const c_void),
            (cipher::FINAL, finish as *const c_void),
            (cipher::DUPCTX, dup as *const c_void),
            (cipher::FREECTX, free as *const c_void),
            (cipher::SET_CTX_PARAMS, set as *const c_void),
            (cipher::GET_CTX_PARAMS, set as *const c_void),
        ])
    } else {
        table(&[
            (digest::NEWCTX, made as *const c_void),
            (digest::INIT, init as *const c_void),
            (digest::UPDATE, update as *const c_void),
            (digest::FINAL, finish as *const c_void),
            (digest::DUPCTX, dup as *const c_void),
            (digest::FREECTX, free as *const c_void),
            (digest::SET_CTX_PARAMS, set as *const c_void),
        ])
    };
    Implementation::ours(provider, table)
}

/// A provider whose first digest and cipher go to two sides that listen, from 10 bytes on to ours. What all
/// contexts heard of what `f` does is the result, in the order in which they are freed.
fn listening(fails: bool, way: Way, f: impl FnOnce(*mut c_void)) -> Vec<String> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let core = unsafe { Core::new(std::ptr::null(), std::ptr::null()) };
    let provider = Provider::new(core).ok().unwrap();
    let ours: New = if fails {
        new::<true, true>
    } else {
        new::<true, false>
    };
    for of_ciphers in [false, true] {
        let (ours, theirs) = (
            side(&provider, of_ciphers, ours),
            side(&provider, of_ciphers, new::<false, false>),
        );
        if of_ciphers {
            let side = |one: &Implementation| Cipher::of(one, way, way == Way::Blocks);
            let route = Route::new(&ours, theirs, 10, side).ok().unwrap();
            assert!(provider.ciphers[0].set(route).is_ok());
        } else {
            let route = Route::new(&ours, theirs, 10, Digest::of).ok().unwrap();
            assert!(provider.digests[0].set(route).is_ok());
        }
    }
    SAID.lock().unwrap().clear();
    f(Arc::as_ptr(&provider).cast_mut().cast());
    std::mem::take(&mut SAID.lock().unwrap())
}

unsafe fn digest_free(context: *mut c_void) {
    unsafe { end::<Both<Digest>>(context) }
}

unsafe fn cipher_free(context: *mut c_void) {
    unsafe { end::<Crypting>(context) }
}

fn digests(context: *mut c_void, sizes: &[usize]) {
    unsafe {
        assert_eq!(digest_init(context, std::ptr::null()), 1);
        for size in sizes {
            assert_eq!(digest_update(context, b"".as_ptr(), *size), 1);
        }
        assert_eq!(
            digest_final(context, std::ptr::null_mut(), std::ptr::null_mut(), 0),
            1
        );
    }
}

#[test]
fn a_digest_goes_where_its_first_piece_belongs() {
    let said = listening(false, Way::Stream, |provctx| unsafe {
        let context = new_digest::<0>(provctx);
        digests(context, &[3, 99]);
        digests(context, &[0, 10, 3]);
        digests(context, &[]);
        digest_free(context);
    });
    assert_eq!(said, ["iu3u99fiu0if", "IU10U3F"]);
}

#[test]
fn a_digest_that_ours_fails_to_begin_is_theirs() {
    let said = listening(true, Way::Stream, |provctx| unsafe {
        let context = new_digest::<0>(provctx);
        digests(context, &[50]);
        digest_free(context);
    });
    assert_eq!(said, ["iu50f", "I"]);
}

#[test]
fn a_copy_goes_on_on_the_same_side() {
    let said = listening(false, Way::Stream, |provctx| unsafe {
        let context = new_digest::<0>(provctx);
        assert_eq!(digest_init(context, std::ptr::null()), 1);
        assert_eq!(digest_update(context, b"".as_ptr(), 20), 1);
        let copy = digest_dup(context);
        digest_free(context);
        assert_eq!(digest_update(copy, b"".as_ptr(), 1), 1);
        digest_free(copy);
    });
    assert_eq!(said, ["i", "IU20", "id", "IU20DU1"]);
}

#[test]
fn what_a_digest_was_told_outlasts_its_message() {
    let said = listening(false, Way::Stream, |provctx| unsafe {
        let mut params = Own::default();
        params.size(c"size", 20);
        let params = params.given().as_ptr();
        let context = new_digest::<0>(provctx);
        assert_eq!(digest_init(context, params), 1);
        digests(context, &[50]);
        digest_free(context);
        let context = new_digest::<0>(provctx);
        assert_eq!(digest_init(context, std::ptr::null()), 1);
        assert_eq!(digest_set_params(context, params), 1);
        digests(context, &[50]);
        digest_free(context);
        // Both know what is said while ours is at it.
        let context = new_digest::<0>(provctx);
        assert_eq!(digest_init(context, std::ptr::null()), 1);
        assert_eq!(digest_update(context, b"".as_ptr(), 50), 1);
        assert_eq!(digest_set_params(context, params), 1);
        digests(context, &[3]);
        digests(context, &[50]);
        digest_free(context);
    });
    assert_eq!(
        said,
        [
            "iiu50f",
            "is(size)iu50f",
            "is(size)iu3fi",
            "IU50S(SIZE)IU50F"
        ]
    );
}

unsafe fn begin(context: *mut c_void, key: &str, iv: &str) {
    let part = |text: &str| match text {
        "-" => (std::ptr::null(), 0),
        text => (text.as_ptr(), text.len()),
    };
    let (key, iv) = (part(key), part(iv));
    let none = std::ptr::null();
    assert_eq!(
        unsafe { encrypt_init(context, key.0, key.1, iv.0, iv.1, none) },
        1
    );
}

unsafe fn piece(context: *mut c_void, length: usize) {
    let (mut out, mut written) = ([0u8; 1], 0);
    let data: *const c_char = c"".as_ptr();
    let done = unsafe {
        cipher_update(
            context,
            out.as_mut_ptr(),
            &mut written,
            1,
            data.cast(),
            length,
        )
    };
    assert_eq!(done, 1);
}

#[test]
fn ours_is_told_what_was_said_before_it() {
    let said = listening(false, Way::Message, |provctx| unsafe {
        let context = new_cipher::<0>(provctx);
        let mut params = Own::default();
        params.size(c"ivlen", 3);
        params.octets_to_come(c"tag", 8);
        assert_eq!(cipher_set_params(context, params.given().as_ptr()), 1);
        begin(context, "key", "iv1");
        let (null, mut written) = (std::ptr::null_mut(), 0);
        let none = std::ptr::null();
        assert_eq!(cipher_update(context, null, &mut written, 0, none, 77), 1);
        assert_eq!(
            cipher_update(context, null, &mut written, 0, c"aad".as_ptr().cast(), 3),
            1
        );
        piece(context, 77);
        begin(context, "-", "iv2");
        piece(context, 9);
        begin(context, "-", "iv3");
        piece(context, 10);
        cipher_free(context);
    });
    assert_eq!(
        said,
        [
            "s(ivlentag)i(key,iv1)l77a3i(-,iv2)u9i(-,iv3)",
            "I(-,-IVLEN)I(KEY,IV1TAG)L77A3U77I(-,-IVLEN)I(-,IV3TAG)U10"
        ]
    );
}

#[test]
fn without_an_iv_chains_begin_again_and_counters_go_on() {
    let work = |provctx: *mut c_void| unsafe {
        let context = new_cipher::<0>(provctx);
        begin(context, "key", "iv");
        piece(context, 16);
        begin(context, "-", "-");
        piece(context, 2);
        begin(context, "new", "-");
        piece(context, 32);
        cipher_free(context);
    };
    let said = listening(false, Way::Blocks, work);
    assert_eq!(
        said,
        ["i(key,iv)i(-,-)u2i(new,-)", "I(KEY,IV)U16I(NEW,IV)U32"]
    );
    let said = listening(false, Way::Stream, work);
    assert_eq!(
        said,
        ["i(key,iv)i(-,-)i(new,-)", "I(KEY,IV)U16I(-,-)U2I(NEW,-)U32"]
    );
}

#[test]
fn what_ours_cannot_be_told_stays_theirs() {
    let said = listening(false, Way::Pieces, |provctx| unsafe {
        let context = new_cipher::<0>(provctx);
        begin(context, "key", "iv");
        let mut params = Own::default();
        params.octets(c"tlsaad", &[0; 13]);
        assert_eq!(cipher_set_params(context, params.given().as_ptr()), 1);
        piece(context, 5000);
        cipher_free(context);
        // Nor is a message without an IV, nor one with much before it.
        let context = new_cipher::<0>(provctx);
        begin(context, "key", "-");
        piece(context, 5000);
        begin(context, "key", "iv");
        let (null, mut written) = (std::ptr::null_mut(), 0);
        let much = [b' '; AAD + 1];
        let done = cipher_update(context, null, &mut written, 0, much.as_ptr(), much.len());
        assert_eq!(done, 1);
        piece(context, 5000);
        cipher_free(context);
    });
    assert_eq!(
        said,
        ["i(key,iv)s(tlsaad)u5000", "i(key,-)u5000i(key,iv)a65u5000"]
    );
}

#[test]
fn a_cipher_that_ours_fails_to_begin_is_theirs() {
    let said = listening(true, Way::Pieces, |provctx| unsafe {
        let context = new_cipher::<0>(provctx);
        for _ in 0..2 {
            begin(context, "key", "iv");
            piece(context, 5000);
        }
        cipher_free(context);
    });
    assert_eq!(said, ["i(key,iv)u5000i(key,iv)u5000", "I(KEY,IV)"]);
}

#[test]
fn a_tag_that_comes_before_its_iv_is_told_to_both() {
    let said = listening(false, Way::Message, |provctx| unsafe {
        let context = new_cipher::<0>(provctx);
        let (null, nothing) = (std::ptr::null(), std::ptr::null_mut());
        let init = |key: &str, iv: &str| {
            let key = if key.is_empty() { null } else { key.as_ptr() };
            let done = decrypt_init(context, key, 3, iv.as_ptr(), 3, std::ptr::null());
            assert_eq!(done, 1);
        };
        let mut tag = Own::default();
        tag.octets(c"tag", &[7; 8]);
        let tag = tag.given().as_ptr();
        assert_eq!(cipher_set_params(context, tag), 1);
        init("key", "iv1");
        piece(context, 77);
        assert_eq!(cipher_final(context, nothing, std::ptr::null_mut(), 0), 1);
        // Of the next message, which is short.
        assert_eq!(cipher_set_params(context, tag), 1);
        init("", "iv2");
        piece(context, 3);
        cipher_free(context);
    });
    assert_eq!(said[0], "s(tag)i(key,iv1)s(tag)i(-,iv2)u3");
}

#[test]
fn a_key_that_failed_is_not_ours_yet() {
    let said = listening(false, Way::Stream, |provctx| unsafe {
        let context = new_cipher::<0>(provctx);
        begin(context, "key", "iv");
        piece(context, 16);
        let mut params = Own::default();
        params.size(c"padding", 0);
        let key = c"new".as_ptr().cast();
        let (none, params) = (std::ptr::null(), params.given().as_ptr());
        assert_eq!(decrypt_init(context, key, 3, none, 0, params), 0);
        begin(context, "-", "iv");
        piece(context, 16);
        cipher_free(context);
    });
    assert_eq!(
        said,
        [
            "i(key,iv)i(new,-padding)i(-,iv)",
            "I(KEY,IV)U16I(-,-PADDING)I(NEW,IV)U16"
        ]
    );
}

#[test]
fn an_iv_that_was_given_away_is_theirs() {
    let said = listening(false, Way::Stream, |provctx| unsafe {
        let context = new_cipher::<0>(provctx);
        begin(context, "key", "iv");
        let mut params = [
            super::super::params::at(c"updated-iv", OSSL_PARAM_OCTET_PTR, std::ptr::null_mut(), 0),
            super::super::params::end(),
        ];
        assert_eq!(cipher_get_params(context, params.as_mut_ptr()), 1);
        piece(context, 16);
        cipher_free(context);
    });
    assert_eq!(said, ["i(key,iv)s(updated-iv)u16"]);
}

#[test]
fn an_iv_is_used_once() {
    let (null, nothing) = (std::ptr::null(), std::ptr::null_mut());
    let before: [fn(*mut c_void); 4] = [
        |context| unsafe {
            assert_eq!(
                cipher_final(context, std::ptr::null_mut(), std::ptr::null_mut(), 0),
                1
            );
        },
        |context| unsafe { piece(context, 3) },
        |context| unsafe {
            let (mut written, much) = (0, [b' '; AAD + 1]);
            let null = std::ptr::null_mut();
            let done = cipher_update(context, null, &mut written, 0, much.as_ptr(), much.len());
            assert_eq!(done, 1);
        },
        |context| unsafe {
            let (mut written, null) = (0, std::ptr::null_mut());
            let done = cipher_update(context, null, &mut written, 0, b"a".as_ptr(), 1);
            assert_eq!(done, 1);
        },
    ];
    for spent in before {
        let said = listening(false, Way::Pieces, |provctx| unsafe {
            let context = new_cipher::<0>(provctx);
            begin(context, "key", "iv");
            spent(context);
            begin(context, "-", "-");
            piece(context, 99);
            assert_eq!(cipher_final(context, nothing, std::ptr::null_mut(), 0), 1);
            assert_eq!(encrypt_init(context, null, 0, null, 0, std::ptr::null()), 1);
            piece(context, 99);
            cipher_free(context);
        });
        assert_eq!(said.len(), 1, "{said:?}");
    }
}

#[test]
fn a_chain_without_an_iv_is_theirs() {
    let said = listening(false, Way::Blocks, |provctx| unsafe {
        let context = new_cipher::<0>(provctx);
        begin(context, "key", "-");
        piece(context, 16);
        cipher_free(context);
    });
    assert_eq!(said, ["i(key,-)u16"]);
}
