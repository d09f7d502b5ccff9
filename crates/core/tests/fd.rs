//! The fd's contract: what section by section docs/wire.md promises, held against real descriptors.

mod common;

use common::*;
use cryptofd_core::client::{self, Client};
use cryptofd_core::record::{self, Header, Op, Request};
use cryptofd_core::serve::serve;
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::sys::socket;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

#[test]
fn close_on_exec_always_and_blocking_by_default() {
    let fd = serve(open("sha256", None)).unwrap();
    let flags = |what| {
        // SAFETY: no memory is involved.
        unsafe { libc::fcntl(fd.as_raw_fd(), what) }
    };
    assert_eq!(flags(libc::F_GETFD), libc::FD_CLOEXEC);
    assert_eq!(flags(libc::F_GETFL) & libc::O_NONBLOCK, 0);
}

#[test]
fn a_digest_goes_round_and_info_tells() {
    let client = adopt("sha256", None);
    let info: serde_json::Value = serde_json::from_str(client.info()).unwrap();
    assert_eq!(info["algorithm"], "sha256");
    assert_eq!(info["limits"]["inline"], record::INLINE);
    let digest = client
        .call(&Request::with(Op::Digest, b"abc"), &mut never)
        .unwrap();
    assert_eq!(digest, once("sha256", b"abc"));
}

#[test]
fn aead_inline_and_attached_and_a_bad_tag() {
    let client = adopt("gcm(aes)", Some(&[7; 32]));
    for size in [0, 1, 65536, 65537, 1 << 20] {
        let data: Vec<u8> = (0..size).map(|i| i as u8).collect();
        for aad in [0, 13, 20_000, 100_000] {
            let aad = vec![9; aad];
            let request = Request {
                iv: &[1; 12],
                aad: Input::from(&aad),
                ..Request::with(Op::Encrypt, &data)
            };
            let mut sealed = client.call(&request, &mut never).unwrap();
            assert_eq!(sealed.len(), size + 16);
            let back = Request {
                op: Op::Decrypt,
                data: Input::from(&sealed),
                ..request
            };
            assert_eq!(client.call(&back, &mut never).unwrap(), data);
            sealed[size / 2] ^= 1;
            let back = Request {
                op: Op::Decrypt,
                data: Input::from(&sealed),
                ..request
            };
            let error = client.call(&back, &mut never).unwrap_err();
            assert_eq!(error.errno(), libc::EBADMSG);
        }
    }
}

#[test]
fn beyond_the_attached_limit_is_emsgsize() {
    let client = adopt("sha256", None);
    let data = vec![0; record::ATTACHED + 1];
    let error = client
        .call(&Request::with(Op::Digest, &data), &mut never)
        .unwrap_err();
    assert_eq!(error.errno(), libc::EMSGSIZE);
    let digest = client
        .call(&Request::with(Op::Digest, &data[1..]), &mut never)
        .unwrap();
    assert_eq!(digest, once("sha256", &data[1..]));
}

#[test]
fn a_running_hash_and_its_clone() {
    let client = adopt("sha256", None);
    client
        .call(&Request::with(Op::Update, b"ab"), &mut never)
        .unwrap();
    let clone = client.try_clone(&mut never).unwrap();
    client
        .call(&Request::with(Op::Update, b"c"), &mut never)
        .unwrap();
    clone
        .call(&Request::with(Op::Update, b"d"), &mut never)
        .unwrap();
    let peek = client.call(&Request::new(Op::Peek), &mut never).unwrap();
    assert_eq!(peek, once("sha256", b"abc"));
    assert_eq!(
        client.call(&Request::new(Op::Finish), &mut never).unwrap(),
        peek
    );
    drop(client);
    assert_eq!(
        clone.call(&Request::new(Op::Finish), &mut never).unwrap(),
        once("sha256", b"abd")
    );
    // After FINISH and RESET it begins again.
    clone
        .call(&Request::with(Op::Update, b"x"), &mut never)
        .unwrap();
    clone.call(&Request::new(Op::Reset), &mut never).unwrap();
    assert_eq!(
        clone.call(&Request::new(Op::Finish), &mut never).unwrap(),
        once("sha256", b"")
    );
}

#[test]
fn ring_is_not_there_yet() {
    let client = adopt("sha256", None);
    let error = client
        .call(&Request::new(Op::Ring), &mut never)
        .unwrap_err();
    assert_eq!(error.errno(), libc::EOPNOTSUPP);
}

#[test]
fn ten_thousand_pipelined_in_order() {
    let client = adopt("sha256", None);
    let ids: Vec<u64> = (0..10_000u32)
        .map(|i| {
            client
                .submit(
                    &Request::with(Op::Digest, &i.to_le_bytes()),
                    false,
                    &mut never,
                )
                .unwrap()
        })
        .collect();
    assert_eq!(client.outstanding(), 10_000);
    let error = client
        .call(&Request::new(Op::Info), &mut never)
        .unwrap_err();
    assert_eq!(error.errno(), libc::EBUSY);
    for (i, id) in ids.into_iter().enumerate() {
        let completion = client.complete(false, &mut never).unwrap();
        assert_eq!(completion.id, id);
        assert_eq!(
            completion.result().unwrap(),
            once("sha256", &(i as u32).to_le_bytes())
        );
    }
    assert_eq!(client.outstanding(), 0);
    assert_eq!(
        client.complete(true, &mut never).unwrap_err().errno(),
        libc::EAGAIN
    );
}

#[test]
fn eagain_then_pollout_then_room() {
    let fd = serve(open("sha256", None)).unwrap();
    let mut sent = 0u64;
    let data = [0; 1000];
    loop {
        match client::send(fd.as_fd(), sent, &Request::with(Op::Digest, &data), true) {
            Ok(()) => sent += 1,
            Err(error) => {
                assert_eq!(error.errno(), libc::EAGAIN);
                // The serving side may only be slow: full is what stays full.
                if socket::poll(fd.as_fd(), libc::POLLOUT, 200).unwrap() == 0 {
                    break;
                }
            }
        }
    }
    assert!(sent > 100);
    for id in 0..sent {
        assert_eq!(client::take(fd.as_fd(), 32, false).unwrap().id, id);
    }
    assert_eq!(
        socket::poll(fd.as_fd(), libc::POLLOUT, 5000).unwrap(),
        libc::POLLOUT
    );
    assert_eq!(socket::poll(fd.as_fd(), libc::POLLIN, 50).unwrap(), 0);
}

#[test]
fn too_small_a_buffer_keeps_the_answer() {
    let fd = serve(open("sha256", None)).unwrap();
    client::send(fd.as_fd(), 5, &Request::with(Op::Digest, b"abc"), false).unwrap();
    for _ in 0..3 {
        let error = client::take(fd.as_fd(), 31, false).unwrap_err();
        assert_eq!(error.errno(), libc::EMSGSIZE);
        assert_eq!(client::peek(fd.as_fd(), false).unwrap().length, 32);
    }
    let done = client::take(fd.as_fd(), 32, false).unwrap();
    assert_eq!((done.id, done.data), (5, once("sha256", b"abc")));
    // A raw reader loses the rest of a record, as with any SOCK_SEQPACKET; the next one is whole.
    client::send(fd.as_fd(), 6, &Request::with(Op::Digest, b"abc"), false).unwrap();
    client::send(fd.as_fd(), 7, &Request::with(Op::Digest, b"abc"), false).unwrap();
    let mut small = [0; 16];
    let got = raw_receive(&fd, &mut small);
    assert_eq!(got, 96);
    assert_eq!(record::id(&small), Some(6));
    assert_eq!(client::take(fd.as_fd(), 32, false).unwrap().id, 7);
}

#[test]
fn a_thousand_descriptors_in_one_epoll_level_and_edge() {
    for edge in [0, libc::EPOLLET] {
        let first = adopt("sha256", None);
        let clients: Vec<Client> = (0..1000)
            .map(|_| first.try_clone(&mut never).unwrap())
            .collect();
        let epoll = socket::epoll().unwrap();
        for (number, client) in clients.iter().enumerate() {
            let events = libc::EPOLLIN | edge;
            socket::watch(epoll.as_fd(), client.as_fd(), events, number as u64, false).unwrap();
        }
        assert_eq!(socket::wait(epoll.as_fd(), 0).unwrap(), None);
        for (number, client) in clients.iter().enumerate() {
            let data = (number as u64).to_le_bytes();
            client
                .submit(&Request::with(Op::Digest, &data), true, &mut never)
                .unwrap();
        }
        let mut seen = vec![false; 1000];
        for _ in 0..1000 {
            let number = socket::wait(epoll.as_fd(), 10_000).unwrap().unwrap() as usize;
            let done = clients[number].complete(true, &mut never).unwrap();
            assert_eq!(done.data, once("sha256", &(number as u64).to_le_bytes()));
            assert!(!std::mem::replace(&mut seen[number], true));
        }
        assert_eq!(socket::wait(epoll.as_fd(), 50).unwrap(), None);
    }
}

#[test]
fn garbage_gets_einval_or_the_end() {
    let fd = serve(open("sha256", None)).unwrap();
    let mut packet = vec![0xa5; 200];
    packet[8..16].copy_from_slice(&77u64.to_le_bytes());
    raw_send(&fd, &packet);
    let done = client::take(fd.as_fd(), 4096, false).unwrap();
    assert_eq!(done.id, 77);
    assert_ne!(done.status, 0);
    // It still works.
    client::send(fd.as_fd(), 1, &Request::with(Op::Digest, b""), false).unwrap();
    assert_eq!(client::take(fd.as_fd(), 4096, false).unwrap().status, 0);
    // A packet beyond the limit is refused by name.
    raw_send(&fd, &vec![0; record::RECORD + 1]);
    assert_eq!(
        client::take(fd.as_fd(), 4096, false).unwrap().status,
        libc::EMSGSIZE
    );
    // What has no id ends the session, after the answers to what came before.
    client::send(fd.as_fd(), 2, &Request::with(Op::Digest, b""), false).unwrap();
    raw_send(&fd, &[1, 2, 3]);
    assert_eq!(client::take(fd.as_fd(), 4096, false).unwrap().id, 2);
    assert_ne!(
        socket::poll(fd.as_fd(), libc::POLLIN, 5000).unwrap() & libc::POLLHUP,
        0
    );
    assert_eq!(
        client::take(fd.as_fd(), 4096, false).unwrap_err().errno(),
        libc::EPIPE
    );
    let error = client::send(fd.as_fd(), 3, &Request::new(Op::Info), false).unwrap_err();
    assert_eq!(error.errno(), libc::EPIPE);
}

#[test]
fn half_closed_sockets() {
    // Nothing more to ask: what was asked is answered, then it ends.
    let fd = serve(open("sha256", None)).unwrap();
    for id in 0..100 {
        client::send(fd.as_fd(), id, &Request::with(Op::Digest, b""), false).unwrap();
    }
    shutdown(&fd, libc::SHUT_WR);
    for id in 0..100 {
        assert_eq!(client::take(fd.as_fd(), 4096, false).unwrap().id, id);
    }
    assert_eq!(
        client::take(fd.as_fd(), 4096, false).unwrap_err().errno(),
        libc::EPIPE
    );
    // No answers wanted: it ends, and nothing is killed by a signal.
    let fd = serve(open("sha256", None)).unwrap();
    shutdown(&fd, libc::SHUT_RD);
    client::send(fd.as_fd(), 1, &Request::new(Op::Info), false).unwrap();
    assert_ne!(
        socket::poll(fd.as_fd(), 0, 5000).unwrap() & libc::POLLHUP,
        0
    );
}

#[test]
fn a_slow_reader_stops_only_itself() {
    let slow = serve(open("sha256", None)).unwrap();
    for id in 0.. {
        let sent = client::send(
            slow.as_fd(),
            id,
            &Request::with(Op::Digest, &[0; 4000]),
            true,
        );
        if sent.is_err() && socket::poll(slow.as_fd(), libc::POLLOUT, 100).unwrap() == 0 {
            break;
        }
    }
    let other = adopt("sha256", None);
    for _ in 0..100 {
        other
            .call(&Request::with(Op::Digest, b"abc"), &mut never)
            .unwrap();
    }
}

#[test]
fn hostile_attachments_are_refused_and_closed() {
    let fd = serve(open("sha256", None)).unwrap();
    let good = |id| record::Header {
        op: Op::Digest as u16,
        flags: record::FLAG_ATTACHED,
        id,
        attached: 1000,
        ..Default::default()
    };
    let status = |header: record::Header, attached: Option<&OwnedFd>| {
        let attached = attached.map(|fd| fd.as_fd());
        socket::send(
            fd.as_fd(),
            &[Input::from(&header.request())],
            attached,
            false,
        )
        .unwrap();
        let done = client::take(fd.as_fd(), 4096, false).unwrap();
        assert_eq!(done.id, header.id);
        done.status
    };
    let memory = memfd(&[1; 1000]);
    assert_eq!(status(good(1), Some(&memory)), 0);
    assert_eq!(status(good(2), None), libc::EINVAL);
    assert_eq!(status(good(3), Some(&memfd(&[1; 999]))), libc::EINVAL);
    assert_eq!(
        status(good(4), Some(&socket::pair().unwrap().0)),
        libc::EINVAL
    );
    assert_eq!(status(good(5), Some(&pipe().0)), libc::EINVAL);
    let null: OwnedFd = std::fs::File::open("/dev/zero").unwrap().into();
    assert_eq!(status(good(6), Some(&null)), libc::EINVAL);
    let lies = record::Header {
        attached: record::ATTACHED as u64 + 1,
        ..good(7)
    };
    assert_eq!(status(lies, Some(&memory)), libc::EMSGSIZE);
    let lies = record::Header {
        attached: u64::MAX,
        attached_aad: u64::MAX,
        ..good(8)
    };
    assert_eq!(status(lies, Some(&memory)), libc::EMSGSIZE);
    // A descriptor that nobody asked for: refused, and closed on the serving side.
    let plain = record::Header {
        op: Op::Info as u16,
        id: 9,
        ..Default::default()
    };
    let (ours, theirs) = pipe();
    assert_eq!(status(plain, Some(&theirs)), libc::EINVAL);
    drop(theirs);
    assert_ne!(
        socket::poll(ours.as_fd(), libc::POLLIN, 5000).unwrap() & libc::POLLHUP,
        0
    );
}

#[test]
fn the_key_goes_with_the_last_descriptor() {
    let session = open("gcm(aes)", Some(&[1; 32]));
    let watch = std::sync::Arc::downgrade(&session);
    let client = Client::new(serve(session).unwrap());
    let clone = client.try_clone(&mut never).unwrap();
    let second = client.duplicate().unwrap();
    drop(client);
    drop(second);
    clone.call(&Request::new(Op::Info), &mut never).unwrap();
    assert!(watch.upgrade().is_some());
    drop(clone);
    for _ in 0..500 {
        if watch.upgrade().is_none() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the session outlived its descriptors");
}

#[test]
fn adopt_refuses_what_is_not_a_cryptofd() {
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    for fd in [file, pipe().0, memfd(b"")] {
        let error = Client::adopt(fd, &mut never).map(drop).unwrap_err();
        assert_eq!(error.errno(), libc::EINVAL);
    }
    // A socket of the right kind that answers nonsense.
    let (ours, theirs) = socket::pair().unwrap();
    raw_send(&theirs, &[0xff; 100]);
    let error = Client::adopt(ours, &mut never).map(drop).unwrap_err();
    assert_eq!(error.errno(), libc::EINVAL);
    // One that hangs up.
    let (ours, theirs) = socket::pair().unwrap();
    drop(theirs);
    assert!(Client::adopt(ours, &mut never).is_err());
}

#[test]
fn what_was_submitted_before_is_completed_after_adoption() {
    let fd = serve(open("sha256", None)).unwrap();
    client::send(fd.as_fd(), 42, &Request::with(Op::Digest, b"abc"), false).unwrap();
    let client = Client::adopt(fd, &mut never).unwrap();
    let done = client.complete(false, &mut never).unwrap();
    assert_eq!((done.id, done.data), (42, once("sha256", b"abc")));
}

#[test]
fn threads_share_a_client() {
    let client = adopt("sha256", None);
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let client = &client;
            scope.spawn(move || {
                for i in 0..500u32 {
                    let data = [thread.to_le_bytes(), i.to_le_bytes()].concat();
                    let digest = client
                        .call(&Request::with(Op::Digest, &data), &mut never)
                        .unwrap();
                    assert_eq!(digest, once("sha256", &data));
                }
            });
        }
    });
}

/// The other side of a brokered session, by hand: says what it is told to, and which packets came.
fn sends(end: &OwnedFd, packet: &[u8]) {
    socket::send(end.as_fd(), &[Input::from(packet)], None, true).unwrap();
}

fn info_of(id: u64, epoch: u32) -> Vec<u8> {
    let said = br#"{"algorithm":"sha256"}"#;
    let header = Header {
        op: Op::Info as u16,
        id,
        epoch,
        data: said.len() as u32,
        ..Header::default()
    };
    [&header.answer()[..], said].concat()
}

fn comes(end: &OwnedFd) -> Vec<u8> {
    let mut buffer = vec![0; record::RECORD];
    let got = socket::receive(end.as_fd(), &mut [&mut buffer], socket::Take::Whole, true).unwrap();
    buffer.truncate(got.length);
    buffer
}

#[test]
fn info_that_was_asked_for_before_is_not_asked_again() {
    let (end, client) = socket::pair().unwrap();
    sends(&end, &info_of(0, 1));
    let client = Client::informed(client, &mut never).unwrap();
    assert_eq!(client.info(), r#"{"algorithm":"sha256"}"#);
    let id = client
        .submit(&Request::with(Op::Digest, b"abc"), true, &mut never)
        .unwrap();
    // The first that comes, with the worker's number.
    let packet = comes(&end);
    assert_eq!((record::id(&packet), record::epoch(&packet)), (Some(id), 1));
}

#[test]
fn info_that_went_with_its_worker_is_asked_again() {
    let (end, client) = socket::pair().unwrap();
    sends(&end, &Header::announcement(2));
    let asked = std::thread::spawn(move || {
        // Behind an INFO that says where answers of the worker before end.
        let asked = [(); 2].map(|()| {
            socket::poll(end.as_fd(), libc::POLLIN, 60_000).unwrap();
            let packet = comes(&end);
            let id = record::id(&packet).unwrap();
            sends(&end, &info_of(id, 2));
            (id, record::op(&packet), record::epoch(&packet))
        });
        (asked, end)
    });
    let client = Client::informed(client, &mut never).unwrap();
    let ([_, asked], end) = asked.join().unwrap();
    assert_eq!(asked, (0, Op::Info as u16, 2));
    let id = client
        .submit(&Request::with(Op::Digest, b"abc"), true, &mut never)
        .unwrap();
    let answer = Header {
        op: Op::Digest as u16,
        id,
        epoch: 2,
        ..Header::default()
    };
    sends(&end, &answer.answer());
    assert_eq!(client.complete(true, &mut never).unwrap().id, id);
}

#[test]
fn info_that_came_before_a_takeover_is_the_first_of_them() {
    let (end, client) = socket::pair().unwrap();
    sends(&end, &info_of(0, 1));
    sends(&end, &Header::announcement(2));
    let client = Client::informed(client, &mut never).unwrap();
    let error = client.complete(true, &mut never).unwrap_err();
    assert_eq!(error.errno(), libc::EAGAIN);
    client
        .submit(&Request::with(Op::Digest, b"abc"), true, &mut never)
        .unwrap();
    assert_eq!(record::epoch(&comes(&end)), 2);
}
