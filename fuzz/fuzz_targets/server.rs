//! A server given arbitrary packets: one answer each, in order, under their ids; then it still works.
#![no_main]

use cryptofd_core::client::{self, Client};
use cryptofd_core::engine::Key;
use cryptofd_core::record::{self, Op, Request};
use cryptofd_core::secret::Secret;
use cryptofd_core::serve::serve;
use cryptofd_core::session::{self, Session};
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::sys::{memfd, socket};
use libfuzzer_sys::fuzz_target;
use std::os::fd::AsFd;

const SESSIONS: [(&str, usize); 8] = [
    ("sha256", 0),
    ("shake128", 0),
    ("hmac(sha256)", 32),
    ("gcm(aes)", 32),
    ("cbc(aes)", 16),
    ("kw(aes)", 32),
    ("hkdf(sha256)", 32),
    ("stdrng", 0),
];

/// Packets out of the fuzzer's bytes: a length of two bytes before each. Half of them get a good header,
/// described by eight of their bytes, so that short inputs reach what lies behind the parser.
fn packets(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let [low, high, rest @ ..] = bytes {
        let length = usize::from(u16::from_le_bytes([*low, high & 0x03]));
        let (packet, more) = rest.split_at(length.min(rest.len()));
        bytes = more;
        all.push(match packet.split_first_chunk() {
            Some((described, body)) if high & 0x80 != 0 => good(*described, body),
            _ => packet.to_vec(),
        });
    }
    all
}

/// A packet whose lengths are right.
fn good(described: [u8; 8], body: &[u8]) -> Vec<u8> {
    let [op, flags, id, iv, aad, params, attached, attached_aad] = described;
    let iv = usize::from(iv).min(body.len());
    let aad = usize::from(aad).min(body.len() - iv);
    let params = usize::from(params).min(body.len() - iv - aad);
    let flags = u16::from(flags) & (record::FLAG_ATTACHED | record::FLAG_RUNNING);
    let mut header = record::Header {
        op: Op::ALL[usize::from(op) % Op::ALL.len()].0 as u16,
        flags,
        id: id.into(),
        iv: iv as u32,
        aad: aad as u32,
        params: params as u32,
        ..Default::default()
    };
    let mut body = body;
    if flags & record::FLAG_ATTACHED != 0 {
        // None, some of the memfd's 4096 bytes, or more than it has.
        header.attached = u64::from(attached) << 5;
        header.attached_aad = attached_aad.into();
        body = &body[..iv + aad + params];
    }
    header.data = (body.len() - iv - aad - params) as u32;
    [&header.request()[..], body].concat()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    let (algorithm, key) = SESSIONS[usize::from(which % 8)];
    let session = Session::open(session::Request {
        algorithm: algorithm.into(),
        key: if key == 0 {
            Key::None
        } else {
            Key::Bytes(Secret::new(&vec![7; key]))
        },
        ..Default::default()
    })
    .unwrap();
    let fd = serve(session).unwrap();
    let memory = (which & 0x80 != 0).then(|| memfd::with(&[Input::from(&[5; 4096])]).unwrap());
    for packet in packets(bytes).into_iter().take(50) {
        if packet.len() < 16 {
            continue;
        }
        let attached = memory.as_ref().map(AsFd::as_fd);
        socket::send(fd.as_fd(), &[Input::from(&packet)], attached, false).unwrap();
        let done = client::take(fd.as_fd(), usize::MAX, false).unwrap();
        assert_eq!(Some(done.id), record::id(&packet));
    }
    let client = Client::new(fd);
    let info = client
        .call(&Request::new(Op::Info), &mut || Ok(()))
        .unwrap();
    assert!(info.starts_with(b"{"));
});
