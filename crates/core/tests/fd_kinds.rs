//! The fd's contract for every kind of work beyond hashes and AEADs.

mod common;

use common::*;
use cryptofd_core::engine::Direction;
use cryptofd_core::record::{self, Op, Params, Request};

#[test]
fn a_mac_verifies_at_once_and_running() {
    let client = adopt("hmac(sha256)", Some(&[3; 32]));
    let tag = client
        .call(&Request::with(Op::Digest, b"abc"), &mut never)
        .unwrap();
    let verify = |flags, data: &'static [u8], tag: &[u8]| {
        let request = Request {
            flags,
            params: Params {
                tag: Some(tag),
                ..Params::default()
            },
            ..Request::with(Op::Verify, data)
        };
        client.call(&request, &mut never).map_err(|e| e.errno())
    };
    assert_eq!(verify(0, b"abc", &tag), Ok(vec![]));
    assert_eq!(verify(0, b"abd", &tag), Err(libc::EBADMSG));
    assert_eq!(verify(0, b"abc", &tag[1..]), Err(libc::EINVAL));
    client
        .call(&Request::with(Op::Update, b"a"), &mut never)
        .unwrap();
    assert_eq!(verify(record::FLAG_RUNNING, b"bc", &tag), Ok(vec![]));
    assert_eq!(
        verify(record::FLAG_RUNNING, b"bc", &tag),
        Err(libc::EBADMSG)
    );
    // A hash has nothing to verify.
    let hash = adopt("sha256", None);
    let request = Request {
        params: Params {
            tag: Some(&tag),
            ..Params::default()
        },
        ..Request::new(Op::Verify)
    };
    assert_eq!(
        hash.call(&request, &mut never).unwrap_err().errno(),
        libc::EOPNOTSUPP
    );
}

#[test]
fn a_cipher_streams_and_a_stream_is_not_cloned() {
    let client = adopt("cbc(aes)", Some(&[5; 16]));
    let data: Vec<u8> = (0..96).collect();
    let whole = Request {
        iv: &[2; 16],
        ..Request::with(Op::Encrypt, &data)
    };
    let whole = client.call(&whole, &mut never).unwrap();
    let begin = Request {
        iv: &[2; 16],
        params: Params {
            direction: Some(Direction::Encrypt),
            ..Params::default()
        },
        ..Request::new(Op::StreamBegin)
    };
    client.call(&begin, &mut never).unwrap();
    let mut pieces = Vec::new();
    for piece in data.chunks(7) {
        pieces.extend(
            client
                .call(&Request::with(Op::StreamUpdate, piece), &mut never)
                .unwrap(),
        );
    }
    let error = client.try_clone(&mut never).map(drop).unwrap_err();
    assert_eq!(error.errno(), libc::EOPNOTSUPP);
    pieces.extend(
        client
            .call(&Request::new(Op::StreamFinish), &mut never)
            .unwrap(),
    );
    assert_eq!(pieces, whole);
    client.try_clone(&mut never).unwrap();
    let error = client
        .call(&Request::with(Op::StreamUpdate, b"late"), &mut never)
        .unwrap_err();
    assert_eq!(error.errno(), libc::EINVAL);
}

#[test]
fn wrap_derive_random_xof() {
    let wrap = adopt("kw(aes)", Some(&[1; 32]));
    let wrapped = wrap
        .call(&Request::with(Op::Wrap, &[8; 32]), &mut never)
        .unwrap();
    assert_eq!(
        wrap.call(&Request::with(Op::Unwrap, &wrapped), &mut never)
            .unwrap(),
        [8; 32]
    );
    let length = |op, length| Request {
        params: Params {
            length: Some(length),
            ..Params::default()
        },
        ..Request::new(op)
    };
    let kdf = adopt("hkdf(sha256)", Some(&[1; 32]));
    assert_eq!(
        kdf.call(&length(Op::Derive, 42), &mut never).unwrap().len(),
        42
    );
    let rng = adopt("stdrng", None);
    // Inline, just inline, attached.
    for size in [1, 66_560, 66_561, 1 << 20] {
        let random = rng.call(&length(Op::Random, size), &mut never).unwrap();
        assert_eq!(random.len() as u64, size);
    }
    let error = rng
        .call(&length(Op::Random, u64::MAX), &mut never)
        .unwrap_err();
    assert_eq!(error.errno(), libc::EMSGSIZE);
    let error = rng.call(&Request::new(Op::Random), &mut never).unwrap_err();
    assert_eq!(error.errno(), libc::EINVAL);
    let xof = adopt("shake128", None);
    assert_eq!(
        xof.call(&length(Op::Digest, 100_000), &mut never)
            .unwrap()
            .len(),
        100_000
    );
}

#[test]
fn nobody_occupies_a_thread_for_hours() {
    let kdf = adopt("pbkdf2(hmac(sha256))", Some(b"password"));
    let request = Request {
        params: Params {
            length: Some(32),
            iterations: Some(u32::MAX),
            ..Params::default()
        },
        ..Request::new(Op::Derive)
    };
    assert_eq!(
        kdf.call(&request, &mut never).unwrap_err().errno(),
        libc::EMSGSIZE
    );
}

#[test]
fn cancel_refuses_what_has_not_begun_and_keeps_the_order() {
    let client = adopt("pbkdf2(hmac(sha256))", Some(b"password"));
    let slow = Request {
        params: Params {
            length: Some(32),
            iterations: Some(100_000),
            ..Params::default()
        },
        ..Request::new(Op::Derive)
    };
    let mut ids: Vec<u64> = (0..30)
        .map(|_| client.submit(&slow, false, &mut never).unwrap())
        .collect();
    // An answer shows that the first had begun; before, all of them may still be cancelled.
    let mut done = vec![client.complete(false, &mut never).unwrap()];
    ids.push(client.cancel(Some(ids[29]), false, &mut never).unwrap());
    ids.push(client.cancel(None, false, &mut never).unwrap());
    done.extend((1..32).map(|_| client.complete(false, &mut never).unwrap()));
    assert_eq!(done.iter().map(|d| d.id).collect::<Vec<_>>(), ids);
    assert_eq!(done[0].status, 0);
    assert_eq!(done[29].status, libc::ECANCELED);
    let cancelled = done[..30]
        .iter()
        .filter(|d| d.status == libc::ECANCELED)
        .count() as u64;
    let count = |n: usize| u64::from_le_bytes(done[n].data[..].try_into().unwrap());
    assert_eq!((done[30].status, done[31].status), (0, 0));
    assert_eq!(count(30), 1);
    assert_eq!(count(30) + count(31), cancelled);
}
