//! A client given arbitrary answers: completions or errors, never a panic, never more than it was told.
#![no_main]

use cryptofd_core::client::{self, Client};
use cryptofd_core::error::Kind;
use cryptofd_core::record;
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::sys::{memfd, socket};
use libfuzzer_sys::fuzz_target;
use std::os::fd::AsFd;

fuzz_target!(|bytes: &[u8]| {
    let Some((flags, mut bytes)) = bytes.split_first() else {
        return;
    };
    let (ours, theirs) = socket::pair().unwrap();
    let attached = match flags & 3 {
        1 => Some(memfd::with(&[Input::from(&[5; 4096])]).unwrap()),
        2 => Some(socket::pair().unwrap().0),
        3 => Some(std::fs::File::open("/dev/zero").unwrap().into()),
        _ => None,
    };
    let mut sent = 0;
    while let [low, high, rest @ ..] = bytes {
        let length = usize::from(u16::from_le_bytes([*low, high & 0x03]));
        let (packet, more) = rest.split_at(length.min(rest.len()));
        bytes = more;
        if packet.is_empty() || sent == 50 {
            continue;
        }
        let mut packet = packet.to_vec();
        if high & 0x80 != 0 && packet.len() >= record::HEADER {
            let inline = packet.len() - record::HEADER;
            let attached = packet[6] & 1 != 0;
            let header = record::Header {
                op: u16::from(packet[4]),
                flags: u16::from(packet[6] & 1),
                id: record::id(&packet).unwrap_or_default(),
                status: u32::from(packet[20]),
                data: if attached { 0 } else { inline as u32 },
                attached: if attached {
                    u64::from(packet[40]) << 5
                } else {
                    0
                },
                ..Default::default()
            };
            packet[..record::HEADER].copy_from_slice(&header.answer());
        }
        let fd = attached.as_ref().map(AsFd::as_fd);
        socket::send(theirs.as_fd(), &[Input::from(&packet)], fd, false).unwrap();
        sent += 1;
    }
    drop(theirs);
    if flags & 4 != 0 {
        // It may adopt such a thing, if its fuzzer guessed an id; it must come back.
        let _ = Client::adopt(ours, &mut || Ok(()));
        return;
    }
    let most = usize::from(flags >> 3) * 64;
    for _ in 0..=sent {
        match client::take(ours.as_fd(), most, true) {
            Ok(done) => assert!(done.status != 0 || done.data.len() <= most),
            Err(error) if error.kind() == Kind::TooLarge => {
                assert!(client::peek(ours.as_fd(), true).unwrap().length > most);
                client::take(ours.as_fd(), usize::MAX, true).ok();
            }
            Err(_) => {}
        }
    }
    // All of it is gone: nothing that is no answer stands in the way for ever.
    assert_eq!(
        client::peek(ours.as_fd(), true).unwrap_err().errno(),
        libc::EPIPE
    );
});
