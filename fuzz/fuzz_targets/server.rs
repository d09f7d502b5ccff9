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

/// Packets out of the fuzzer's bytes: a length of two bytes before each. Half of them get a good header of
/// the fuzzer's op, so that what lies behind the parser is reached too.
fn packets(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let [low, high, rest @ ..] = bytes {
        let length = usize::from(u16::from_le_bytes([*low, high & 0x03]));
        let (packet, more) = rest.split_at(length.min(rest.len()));
        bytes = more;
        let mut packet = packet.to_vec();
        if high & 0x80 != 0 && packet.len() >= record::HEADER {
            let body = packet.len() - record::HEADER;
            let number = |at: usize| usize::from(packet[at]) | usize::from(packet[at + 1]) << 8;
            let iv = number(24).min(body);
            let aad = number(28).min(body - iv);
            let params = number(32).min(body - iv - aad);
            let attached = packet[6] & 1 != 0;
            let header = record::Header {
                op: u16::from(packet[4]),
                flags: u16::from(packet[6]),
                id: record::id(&packet).unwrap_or_default(),
                iv: iv as u32,
                aad: aad as u32,
                params: params as u32,
                data: (body - iv - aad - params) as u32,
                attached: if attached { number(40) as u64 } else { 0 },
                attached_aad: if attached { number(48) as u64 } else { 0 },
                ..Default::default()
            };
            packet[..record::HEADER].copy_from_slice(&header.request());
        }
        all.push(packet);
    }
    all
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
