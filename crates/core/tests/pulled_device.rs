//! A crypto device that is pulled in the middle of a long run: every byte right, the rest done in software,
//! the reason in info(). Runs in the lab's machines that have such a device (LAB_HARDWARE).

use cryptofd_core::engine::{Direction, Hardware, Key};
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{Request, Session};
use cryptofd_core::sys::buffer::{Input, Output};
use std::path::Path;
use std::time::{Duration, Instant};

fn open(hardware: Hardware) -> std::sync::Arc<Session> {
    Session::open(Request {
        algorithm: "cbc(aes)".into(),
        key: Key::Bytes(Secret::new(&[7; 16])),
        hardware,
        ..Request::default()
    })
    .unwrap()
}

fn encrypt(session: &Session, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0u8; data.len()];
    session
        .crypt(
            Direction::Encrypt,
            &[9; 16],
            Input::from(data),
            Output::from(&mut out),
        )
        .unwrap();
    out
}

/// Asks the lab to pull the device; it does so while we go on.
fn unplug(exchange: &str) {
    let requests = Path::new(exchange).join("requests");
    std::fs::write(
        requests.join("pull.new"),
        r#"{"do": "unplug", "seconds": 30}"#,
    )
    .unwrap();
    std::fs::rename(requests.join("pull.new"), requests.join("pull.request")).unwrap();
}

#[test]
fn a_pulled_device_costs_no_byte() {
    let Ok(exchange) = std::env::var("LAB_EXCHANGE") else {
        eprintln!("skipped: not in the lab");
        return;
    };
    if std::env::var("LAB_HARDWARE").as_deref() != Ok("1") {
        eprintln!("skipped: no device to pull");
        return;
    }
    let session = open(Hardware::Prefer);
    let info = session.info();
    assert!(info.hardware, "{info:?}");
    assert_eq!(info.driver, "virtio_crypto_aes_cbc");
    let software = open(Hardware::Forbid);
    let mut data = vec![0u8; 200_000 / 16 * 16];
    let started = Instant::now();
    let (mut rounds, mut after) = (0u32, 0);
    while after < 20 {
        for (place, byte) in data.iter_mut().enumerate() {
            *byte = (place as u32 ^ rounds) as u8;
        }
        assert_eq!(
            encrypt(&session, &data),
            encrypt(&software, &data),
            "{rounds}"
        );
        rounds += 1;
        if rounds == 30 {
            unplug(&exchange);
        }
        if session.info().counts.moved > 0 {
            after += 1;
        }
        assert!(
            started.elapsed() < Duration::from_secs(90),
            "the device never went"
        );
    }
    let info = session.info();
    println!(
        "{rounds} rounds; {} by {}; {:?}",
        info.engine, info.driver, info.reasons
    );
    assert!(!info.hardware);
    assert!(
        info.reasons
            .iter()
            .any(|r| r.engine == "kernel" && r.why.contains("virtio_crypto_aes_cbc")),
        "{:?}",
        info.reasons
    );
}
