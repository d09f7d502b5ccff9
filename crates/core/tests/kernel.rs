//! The engine `kernel` on the kernel that runs: every trap of AF_ALG its own test.
//!
//! Where the kernel has no AF_ALG each says so and is done; the lab's kernels have it.

use cryptofd_core::engine::{Direction, Hardware, Key};
use cryptofd_core::engines::{self, kernel};
use cryptofd_core::error::Kind;
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{Request, Session};
use cryptofd_core::sys::buffer::{Input, Output};
use cryptofd_core::table::{self, ALGORITHMS};
use std::sync::Arc;

mod sys {
    //! What the tests do to their own process.

    /// Runs `f` in a forked child; whether it returned true there.
    pub fn in_child(f: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child only runs `f` and leaves without the parent's exit handlers.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::alarm(60);
                libc::_exit(i32::from(!f()));
            }
            let mut status = -1;
            libc::waitpid(child, &raw mut status, 0);
            status == 0
        }
    }

    /// The numbers of all AF_ALG sockets of this process.
    pub fn af_alg() -> Vec<i32> {
        (3..1024)
            .filter(|fd| {
                let mut domain = 0i32;
                let mut size = 4;
                // SAFETY: four bytes and their size.
                let result = unsafe {
                    let value = (&raw mut domain).cast();
                    libc::getsockopt(*fd, libc::SOL_SOCKET, libc::SO_DOMAIN, value, &raw mut size)
                };
                result == 0 && domain == libc::AF_ALG
            })
            .collect()
    }

    /// For a child, which has one thread.
    pub fn set_environment(name: &str, value: &str) {
        // SAFETY: nobody else reads the environment meanwhile.
        unsafe { std::env::set_var(name, value) };
    }

    /// Puts a descriptor on each number.
    pub fn reuse(numbers: &[i32], stranger: i32) {
        for number in numbers {
            // SAFETY: the numbers are this test's own to lose.
            unsafe { libc::dup2(stranger, *number) };
        }
    }

    /// Two ends of what a program may have opened since, the second one non-blocking: a socket pair, a
    /// connection, a pipe, a file.
    pub fn stranger(kind: &str) -> (i32, i32) {
        use std::os::fd::IntoRawFd;
        let pair = |kind| {
            let mut pair = [0; 2];
            let kind = kind | libc::SOCK_NONBLOCK;
            // SAFETY: room for two descriptors.
            let made = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) };
            assert_eq!(made, 0);
            (pair[0], pair[1])
        };
        match kind {
            "stream" => pair(libc::SOCK_STREAM),
            "datagrams" => pair(libc::SOCK_DGRAM),
            "packets" => pair(libc::SOCK_SEQPACKET),
            "tcp" => {
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let far = listener.accept().unwrap().0;
                far.set_nonblocking(true).unwrap();
                (near.into_raw_fd(), far.into_raw_fd())
            }
            "udp" => {
                let far = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                let near = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                near.connect(far.local_addr().unwrap()).unwrap();
                far.set_nonblocking(true).unwrap();
                (near.into_raw_fd(), far.into_raw_fd())
            }
            "pipe" => {
                let mut pair = [0; 2];
                // SAFETY: room for two descriptors.
                let made = unsafe { libc::pipe2(pair.as_mut_ptr(), libc::O_NONBLOCK) };
                assert_eq!(made, 0);
                (pair[1], pair[0])
            }
            "file" => {
                // SAFETY: a name; no other memory is passed.
                let file = unsafe { libc::memfd_create(c"stranger".as_ptr(), 0) };
                (file, file)
            }
            other => panic!("{other}"),
        }
    }

    /// Closes them.
    pub fn close(numbers: &[i32]) {
        for number in numbers {
            // SAFETY: no memory is passed.
            unsafe { libc::close(*number) };
        }
    }

    /// Whether anything can be read.
    pub fn has_data(fd: i32) -> bool {
        let mut byte = [0u8; 1];
        // SAFETY: one byte of room.
        unsafe { libc::read(fd, byte.as_mut_ptr().cast(), 1) > 0 }
    }

    /// Whether the number is open.
    pub fn is_open(fd: i32) -> bool {
        // SAFETY: no memory is passed.
        unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
    }

    /// Whether every one is closed on exec.
    pub fn closed_on_exec(numbers: &[i32]) -> bool {
        // SAFETY: no memory is passed.
        numbers
            .iter()
            .all(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } & libc::FD_CLOEXEC != 0)
    }

    /// add_key(2) of a logon key, which no program can read back.
    pub fn add_logon_key(name: &str, key: &[u8]) -> Option<i32> {
        let name = std::ffi::CString::new(name).ok()?;
        const PROCESS_KEYRING: i32 = -2;
        // SAFETY: two strings with their ends, and bytes with their number.
        let serial = unsafe {
            libc::syscall(
                libc::SYS_add_key,
                c"logon".as_ptr(),
                name.as_ptr(),
                key.as_ptr(),
                key.len(),
                PROCESS_KEYRING,
            )
        };
        i32::try_from(serial).ok().filter(|s| *s > 0)
    }
}

/// Whether there is AF_ALG; says so where there is none.
fn af_alg() -> bool {
    let engine = engines::all()
        .iter()
        .find(|e| e.name() == "kernel")
        .unwrap();
    match engine.probe() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("skipped: {error}");
            false
        }
    }
}

fn request(algorithm: &str, key: &[u8]) -> Request {
    Request {
        algorithm: algorithm.into(),
        key: if key.is_empty() {
            Key::None
        } else {
            Key::Bytes(Secret::new(key))
        },
        engine: Some("kernel".into()),
        ..Request::default()
    }
}

/// A session by the kernel; `None`, with a word, where this kernel lacks the algorithm.
fn open(algorithm: &str, key: &[u8]) -> Option<Arc<Session>> {
    if !af_alg() {
        return None;
    }
    match Session::open(request(algorithm, key)) {
        Ok(session) => Some(session),
        Err(error) => {
            eprintln!("skipped {algorithm}: {error}");
            assert!(!error.message().contains("quarantined"), "{error}");
            None
        }
    }
}

/// Bytes that differ everywhere.
fn bytes(length: usize, seed: u8) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    (0..length)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

fn key_for(algorithm: &table::Algorithm) -> Vec<u8> {
    let test = algorithm.tests.first().map_or(&[][..], |t| t.key);
    if test.is_empty() && algorithm.key.min > 0 {
        bytes(algorithm.key.max, 1)
    } else {
        test.to_vec()
    }
}

fn crypt(session: &Session, direction: Direction, iv: &[u8], data: &[u8]) -> Vec<u8> {
    let mut out = vec![0u8; data.len()];
    session
        .crypt(direction, iv, Input::from(data), Output::from(&mut out))
        .unwrap();
    out
}

#[test]
fn every_algorithm_gives_the_known_answers() {
    if !af_alg() {
        return;
    }
    let mut served = 0;
    for algorithm in ALGORITHMS.iter().filter(|a| a.kernel.is_some()) {
        match Session::open(request(algorithm.name, &key_for(algorithm))) {
            Ok(session) => {
                let info = session.info();
                assert_eq!(info.engine, "kernel");
                println!("{:28} {}", algorithm.name, info.driver);
                served += 1;
            }
            Err(error) => {
                assert!(!error.message().contains("quarantined"), "{error}");
                println!("{:28} - {error}", algorithm.name);
            }
        }
    }
    assert!(served > 0);
}

#[test]
fn a_result_is_received_to_the_byte_whatever_its_length() {
    let Some(session) = open("ctr(aes)", &bytes(32, 1)) else {
        return;
    };
    let (iv, data) = ([0xff; 16], bytes(3 << 20, 2));
    let whole = crypt(&session, Direction::Encrypt, &iv, &data);
    for length in [
        0,
        1,
        15,
        16,
        17,
        4095,
        4096,
        65535,
        65536,
        65537,
        212_992,
        212_993,
        1 << 20,
    ] {
        let out = crypt(&session, Direction::Encrypt, &iv, &data[..length]);
        assert_eq!(out, whole[..length], "{length}");
        assert_eq!(
            crypt(&session, Direction::Decrypt, &iv, &out),
            data[..length]
        );
    }
}

#[test]
fn a_message_beyond_the_sockets_buffers_goes_in_pieces_that_chain() {
    for (name, key, iv) in [
        ("ecb(aes)", 32, 0),
        ("cbc(aes)", 32, 16),
        ("cfb(aes)", 32, 16),
        ("ctr(aes)", 32, 16),
        ("cbc(des3_ede)", 24, 8),
        ("chacha20", 32, 16),
    ] {
        let Some(session) = open(name, &bytes(key, 3)) else {
            continue;
        };
        let iv = &bytes(16, 4)[..iv];
        let data = bytes((1 << 20) + 64, 5);
        let once = crypt(&session, Direction::Encrypt, iv, &data);
        assert_ne!(once, data);
        assert_eq!(
            crypt(&session, Direction::Decrypt, iv, &once),
            data,
            "{name}"
        );
        // The same in pieces of one block, far below any of the kernel's bounds.
        for direction in [Direction::Encrypt, Direction::Decrypt] {
            let (input, wanted) = match direction {
                Direction::Encrypt => (&data, &once),
                Direction::Decrypt => (&once, &data),
            };
            let mut stream = session.stream(direction, iv).unwrap();
            let mut got = Vec::new();
            for piece in input[..20_000].chunks(1000) {
                let mut out = vec![0u8; stream.room(piece.len())];
                let length = stream
                    .update(Input::from(piece), Output::from(&mut out))
                    .unwrap();
                got.extend_from_slice(&out[..length]);
            }
            assert!(got.len() > 19_900);
            assert_eq!(got, wanted[..got.len()], "{name} {direction:?}");
        }
        // In place.
        let mut place = data.clone();
        let out = Output::from(&mut place);
        session
            .crypt(Direction::Encrypt, iv, out.as_input(), out)
            .unwrap();
        assert_eq!(place, once, "{name} in place");
    }
}

#[test]
fn xts_is_one_unit_with_one_iv_or_it_is_refused() {
    let Some(session) = open("xts(aes)", &bytes(64, 6)) else {
        return;
    };
    let iv = [7; 16];
    for length in [16, 17, 31, 512, 4096, 100_000, 190_000] {
        let data = bytes(length, 8);
        let out = crypt(&session, Direction::Encrypt, &iv, &data);
        assert_eq!(
            crypt(&session, Direction::Decrypt, &iv, &out),
            data,
            "{length}"
        );
        if length >= 4096 {
            // The first blocks do not depend on what follows.
            let head = crypt(&session, Direction::Encrypt, &iv, &data[..512]);
            assert_eq!(head, out[..512]);
        }
    }
    let data = bytes(8 << 20, 9);
    let mut out = vec![0u8; data.len()];
    let error = session
        .crypt(
            Direction::Encrypt,
            &iv,
            Input::from(&data),
            Output::from(&mut out),
        )
        .unwrap_err();
    assert_eq!(error.errno(), libc::EMSGSIZE, "{error}");
}

#[test]
fn an_aead_message_fits_whole_or_is_refused() {
    for (name, key, iv) in [
        ("gcm(aes)", 32, 12),
        ("ccm(aes)", 16, 13),
        ("ccm(aes)", 16, 7),
        ("rfc7539(chacha20,poly1305)", 32, 12),
    ] {
        let Some(session) = open(name, &bytes(key, 10)) else {
            continue;
        };
        let iv = bytes(iv, 11);
        for (aad, length) in [
            (0, 0),
            (5, 0),
            (0, 1),
            (300, 1000),
            (0, 65536),
            (4096, 150_000),
            (0, 200_000),
        ] {
            if name == "ccm(aes)" && length > 65535 && iv.len() == 13 {
                continue;
            }
            let (aad, data) = (bytes(aad, 12), bytes(length, 13));
            let mut sealed = vec![0u8; length + 16];
            session
                .seal(
                    &iv,
                    Input::from(&aad),
                    Input::from(&data),
                    Output::from(&mut sealed),
                )
                .unwrap();
            let mut back = vec![0u8; length];
            session
                .unseal(
                    &iv,
                    Input::from(&aad),
                    Input::from(&sealed),
                    Output::from(&mut back),
                )
                .unwrap();
            assert_eq!(back, data, "{name} {} {length}", aad.len());
        }
        if name == "ccm(aes)" {
            continue;
        }
        let data = bytes(4 << 20, 14);
        let mut sealed = vec![0u8; data.len() + 16];
        let error = session
            .seal(
                &iv,
                Input::EMPTY,
                Input::from(&data),
                Output::from(&mut sealed),
            )
            .unwrap_err();
        assert_eq!(error.errno(), libc::EMSGSIZE, "{error}");
        assert!(
            sealed.iter().all(|b| *b == 0),
            "a part of a message was given out"
        );
    }
}

#[test]
fn every_request_has_its_own_iv() {
    let Some(session) = open("gcm(aes)", &bytes(16, 15)) else {
        return;
    };
    let data = [0u8; 32];
    let seal = |iv: &[u8]| {
        let mut out = vec![0u8; 48];
        session
            .seal(iv, Input::EMPTY, Input::from(&data), Output::from(&mut out))
            .unwrap();
        out
    };
    let first = seal(&[1; 12]);
    assert_ne!(seal(&[2; 12]), first);
    assert_eq!(seal(&[1; 12]), first);
    // An iv that the kernel does not take is refused, never replaced.
    let mut out = vec![0u8; 48];
    let error = session
        .seal(
            &[1; 16],
            Input::EMPTY,
            Input::from(&data),
            Output::from(&mut out),
        )
        .unwrap_err();
    assert_eq!(error.errno(), libc::EMSGSIZE, "{error}");
    assert!(error.message().contains("12 bytes"), "{error}");
}

#[test]
fn a_bad_tag_is_ebadmsg_and_leaves_nothing() {
    for name in ["gcm(aes)", "ccm(aes)", "rfc7539(chacha20,poly1305)"] {
        let Some(session) = open(name, &bytes(32, 16)) else {
            continue;
        };
        for (aad, length) in [(0, 0), (9, 0), (0, 5), (9, 5000)] {
            let (iv, aad) = (bytes(12, 17), bytes(aad, 18));
            let mut sealed = vec![0u8; length + 16];
            let data = vec![b'p'; length];
            session
                .seal(
                    &iv,
                    Input::from(&aad),
                    Input::from(&data),
                    Output::from(&mut sealed),
                )
                .unwrap();
            *sealed.last_mut().unwrap() ^= 1;
            let mut back = vec![0xaa; length];
            let error = session
                .unseal(
                    &iv,
                    Input::from(&aad),
                    Input::from(&sealed),
                    Output::from(&mut back),
                )
                .unwrap_err();
            assert_eq!(
                error.kind(),
                Kind::BadTag,
                "{name} {} {length}: {error}",
                aad.len()
            );
            assert_eq!(error.errno(), libc::EBADMSG);
            assert!(back.iter().all(|b| *b == 0), "{name}: plaintext is left");
            // The session goes on.
            *sealed.last_mut().unwrap() ^= 1;
            session
                .unseal(
                    &iv,
                    Input::from(&aad),
                    Input::from(&sealed),
                    Output::from(&mut back),
                )
                .unwrap();
            assert_eq!(back, data);
        }
    }
}

#[test]
fn a_hash_in_pieces_is_the_hash_of_the_whole() {
    for (name, key) in [("sha256", 0), ("hmac(sha256)", 20), ("cmac(aes)", 16)] {
        let Some(session) = open(name, &bytes(key, 19)) else {
            continue;
        };
        let data = bytes(9 << 20, 20);
        for length in [0, 1, 64, 1000, 65536, 70_000, 9 << 20] {
            let mut whole = vec![0u8; session.digest_size()];
            session
                .digest(Input::from(&data[..length]), &mut whole)
                .unwrap();
            let mut hasher = session.hasher().unwrap();
            for piece in data[..length].chunks(length / 7 + 1) {
                hasher.update(Input::from(piece)).unwrap();
            }
            let mut pieces = vec![0u8; session.digest_size()];
            hasher.finish(&mut pieces).unwrap();
            assert_eq!(pieces, whole, "{name} {length}");
            // It begins again.
            hasher.update(Input::from(b"x")).unwrap();
            hasher.reset().unwrap();
            hasher.update(Input::from(&data[..length])).unwrap();
            hasher.finish(&mut pieces).unwrap();
            assert_eq!(pieces, whole, "{name} {length} again");
        }
    }
}

#[test]
fn a_copy_of_a_hash_goes_its_own_way() {
    let Some(session) = open("sha256", &[]) else {
        return;
    };
    let mut one = session.hasher().unwrap();
    one.update(Input::from(b"abc")).unwrap();
    let mut two = one.fork().unwrap();
    one.update(Input::from(b"def")).unwrap();
    let (mut a, mut b, mut wanted) = ([0u8; 32], [0u8; 32], [0u8; 32]);
    one.peek(&mut a).unwrap();
    two.finish(&mut b).unwrap();
    session.digest(Input::from(b"abcdef"), &mut wanted).unwrap();
    assert_eq!(a, wanted);
    one.finish(&mut a).unwrap();
    assert_eq!(a, wanted);
    session.digest(Input::from(b"abc"), &mut wanted).unwrap();
    assert_eq!(b, wanted);
}

#[test]
fn random_bytes_come_in_any_number_and_do_not_repeat() {
    let Some(session) = open("stdrng", &[]) else {
        return;
    };
    let mut seen = std::collections::HashSet::new();
    for length in [0, 1, 127, 128, 129, 100_000] {
        let mut out = vec![0u8; length];
        session.random(&mut out).unwrap();
        for block in out.chunks_exact(16) {
            assert!(seen.insert(block.to_vec()), "random bytes repeat");
        }
    }
}

#[test]
fn a_key_in_the_keyring_serves_without_being_read() {
    if !af_alg() {
        return;
    }
    let key = bytes(16, 21);
    let Some(serial) = sys::add_logon_key("cryptofd:test", &key) else {
        eprintln!("skipped: no keyring");
        return;
    };
    let mut request = request("cbc(aes)", &[]);
    request.key = Key::Serial(serial);
    match Session::open(request) {
        Ok(session) => {
            let plain = open("cbc(aes)", &key).unwrap();
            let data = bytes(64, 22);
            assert_eq!(
                crypt(&session, Direction::Encrypt, &[0; 16], &data),
                crypt(&plain, Direction::Encrypt, &[0; 16], &data)
            );
        }
        Err(error) => {
            println!("{error}");
            assert!(error.message().contains("Linux 6.2"), "{error}");
        }
    }
}

#[test]
fn a_refusal_has_a_reason_and_is_asked_again_after_reload() {
    if !af_alg() {
        return;
    }
    for _ in 0..2 {
        let mut request = request("cbc(aes)", &bytes(16, 23));
        request.driver = Some("no-such-driver".into());
        let error = Session::open(request).unwrap_err();
        assert_eq!(error.errno(), libc::ENODEV);
        assert!(error.message().contains("no-such-driver"), "{error}");
        kernel::reload();
    }
}

#[test]
fn a_driver_is_bound_by_its_name_and_hardware_is_obeyed() {
    let Some(any) = open("cbc(aes)", &bytes(16, 24)) else {
        return;
    };
    let found = kernel::drivers::candidates("skcipher", "cbc(aes)");
    assert!(!found.is_empty());
    for driver in &found {
        let mut by_name = request("cbc(aes)", &bytes(16, 24));
        by_name.driver = Some(driver.name.clone());
        match Session::open(by_name) {
            Ok(session) => {
                let info = session.info();
                assert_eq!(info.driver, driver.name);
                assert_eq!(info.hardware, driver.hardware());
                let data = bytes(100 << 10, 25);
                assert_eq!(
                    crypt(&session, Direction::Encrypt, &[1; 16], &data),
                    crypt(&any, Direction::Encrypt, &[1; 16], &data)
                );
                println!("{} hardware={}", driver.name, driver.hardware());
            }
            Err(error) => println!("{}: {error}", driver.name),
        }
    }
    let hardware = found.iter().any(|d| d.hardware());
    for (wanted, possible) in [(Hardware::Require, hardware), (Hardware::Forbid, true)] {
        let mut constrained = request("cbc(aes)", &bytes(16, 24));
        constrained.hardware = wanted;
        match Session::open(constrained) {
            Ok(session) => assert_eq!(session.info().hardware, wanted == Hardware::Require),
            Err(error) => {
                println!("{wanted:?}: {error}");
                assert!(
                    !possible || std::env::var_os("LAB_LINUX").is_some(),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn threads_share_a_session() {
    let Some(session) = open("cbc(aes)", &bytes(16, 26)) else {
        return;
    };
    let threads: Vec<_> = (0..8u8)
        .map(|number| {
            let session = session.clone();
            std::thread::spawn(move || {
                let data = bytes(70_000 / 16 * 16, number);
                for _ in 0..20 {
                    let out = crypt(&session, Direction::Encrypt, &[number; 16], &data);
                    assert_eq!(
                        crypt(&session, Direction::Decrypt, &[number; 16], &out),
                        data
                    );
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_forked_child_shares_no_state_with_its_parent() {
    let (Some(cipher), Some(hash)) = (open("cbc(aes)", &bytes(16, 27)), open("sha256", &[])) else {
        return;
    };
    let data = bytes(100_000 / 16 * 16, 28);
    let wanted = crypt(&cipher, Direction::Encrypt, &[3; 16], &data);
    let mut running = hash.hasher().unwrap();
    running.update(Input::from(b"abc")).unwrap();
    assert!(sys::in_child(|| {
        let mut out = [0u8; 32];
        let stale = running
            .finish(&mut out)
            .is_err_and(|error| error.errno() == libc::ESTALE);
        let right = (0..50).all(|_| crypt(&cipher, Direction::Encrypt, &[3; 16], &data) == wanted);
        stale && right
    }));
    let (mut out, mut abc) = ([0u8; 32], [0u8; 32]);
    running.finish(&mut out).unwrap();
    hash.digest(Input::from(b"abc"), &mut abc).unwrap();
    assert_eq!(out, abc);
    assert_eq!(crypt(&cipher, Direction::Encrypt, &[3; 16], &data), wanted);
}

#[test]
fn a_descriptor_that_the_program_closed_is_not_touched() {
    let Some(session) = open("cbc(aes)", &bytes(16, 29)) else {
        return;
    };
    for kind in [
        "stream",
        "datagrams",
        "packets",
        "tcp",
        "udp",
        "pipe",
        "file",
    ] {
        // In a child: the other tests of this process have descriptors as well.
        assert!(
            sys::in_child(|| {
                let (stranger, peer) = sys::stranger(kind);
                let data = [5u8; 64];
                let mut out = [0u8; 64];
                let mut once = || {
                    let (data, out) = (Input::from(&data), Output::from(&mut out[..]));
                    session.crypt(Direction::Encrypt, &[0; 16], data, out)
                };
                // A child makes sockets of its own with its first request.
                once().unwrap();
                let numbers = sys::af_alg();
                assert!(numbers.len() > 1 && sys::closed_on_exec(&numbers));
                sys::reuse(&numbers, stranger);
                let refused = (0..20).all(|_| once().unwrap_err().errno() == libc::EBADF);
                let untouched = !sys::has_data(peer) && numbers.iter().all(|n| sys::is_open(*n));
                sys::close(&numbers);
                refused && untouched
            }),
            "{kind}"
        );
    }
}

#[test]
fn a_number_that_is_another_sessions_by_now_computes_nothing_with_its_key() {
    let Some(session) = open("cbc(aes)", &bytes(16, 30)) else {
        return;
    };
    assert!(sys::in_child(|| {
        let data = [5u8; 64];
        let wanted = crypt(&session, Direction::Encrypt, &[0; 16], &data);
        sys::close(&sys::af_alg());
        let Some(other) = open("cbc(aes)", &bytes(16, 31)) else {
            return false;
        };
        let theirs = crypt(&other, Direction::Encrypt, &[0; 16], &data);
        let mut out = [0u8; 64];
        let (input, output) = (Input::from(&data), Output::from(&mut out[..]));
        let error = session.crypt(Direction::Encrypt, &[0; 16], input, output);
        let refused = error.unwrap_err().errno() == libc::EBADF;
        drop(session);
        // And the other one's were not closed with the first.
        let still = crypt(&other, Direction::Encrypt, &[0; 16], &data) == theirs;
        refused && still && theirs != wanted && out == [0; 64]
    }));
}

#[test]
fn a_session_whose_descriptors_were_taken_moves_to_the_next_engine() {
    if open("cbc(aes)", &bytes(16, 32)).is_none() {
        return;
    }
    assert!(sys::in_child(|| {
        let mut anywhere = request("cbc(aes)", &bytes(16, 32));
        anywhere.engine = None;
        anywhere.hardware = Hardware::Forbid;
        let wanted = crypt(
            &Session::open(anywhere.clone()).unwrap(),
            Direction::Encrypt,
            &[0; 16],
            &[5; 64],
        );
        sys::set_environment("CRYPTOFD_ENGINES", "kernel");
        cryptofd_core::preferences::reload().unwrap();
        let session = Session::open(anywhere).unwrap();
        assert_eq!(session.info().engine, "kernel");
        let (stranger, peer) = sys::stranger("stream");
        sys::reuse(&sys::af_alg(), stranger);
        let got = crypt(&session, Direction::Encrypt, &[0; 16], &[5; 64]);
        let info = session.info();
        got == wanted && info.engine != "kernel" && info.counts.moved == 1 && !sys::has_data(peer)
    }));
}
