//! Making keys and moving them: what a worker does for the broker, and what it refuses whatever it says.

mod common;

use common::*;
use cryptofd_core::error::Result;
use cryptofd_core::record::{Op, Params, Request};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

/// What comes out of a pipe that the worker writes a key to.
fn export(worker: &mut Channel, made: &Made) -> Result<Vec<u8>> {
    let (mut read, write) = pipe();
    let mut asked = key(made);
    asked["op"] = json!("export");
    worker.ask_with(asked, vec![OwnedFd::from(write)])?;
    let mut bytes = Vec::new();
    read.read_to_end(&mut bytes).unwrap();
    Ok(bytes)
}

#[test]
fn keys_are_generated_in_every_size_and_completed() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    for (algorithm, bits, given) in [
        ("gcm(aes)", json!(128), 128),
        ("gcm(aes)", json!(256), 256),
        ("rfc7539(chacha20,poly1305)", json!(256), 256),
        ("hmac(sha512)", json!(512), 512),
        ("xts(aes)", json!(512), 512),
    ] {
        let made = make(&mut worker, algorithm, &[], json!({"bits": bits})).unwrap();
        let attributes = &made["attributes"];
        assert_eq!(attributes["bits"], json!(given), "{algorithm}");
        assert_eq!(attributes["origin"], json!("generated"));
        assert_eq!(attributes["exportable"], json!(false));
        assert_eq!(attributes["fingerprint"].as_str().unwrap().len(), 32);
    }
    for (algorithm, bits, errno_) in [
        ("gcm(aes)", 129, libc::EINVAL),
        ("gcm(aes)", 64, libc::EINVAL),
        ("sha256", 256, libc::EOPNOTSUPP),
        ("poly1305", 256, libc::EOPNOTSUPP),
        ("nonsense", 256, libc::ENOENT),
    ] {
        let made = make(&mut worker, algorithm, &[], json!({"bits": bits}));
        assert_eq!(errno(made), errno_, "{algorithm} {bits}");
    }
    let trusted = make(&mut worker, "kw(aes)", &["wrap"], json!({"trusted": true}));
    assert_eq!(errno(trusted), libc::EPERM);
    let unknown = worker.ask(json!({"op": "fly"}));
    assert_eq!(errno(unknown), libc::EOPNOTSUPP);
}

#[test]
fn an_imported_key_is_the_one_that_came_and_leaves_only_if_it_may() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let bytes = [0x5a; 32];
    let mut wanted = attributes("hmac(sha256)", &["sign"]);
    let kept = import(&mut worker, wanted.clone(), &bytes).unwrap();
    assert_eq!(kept["attributes"]["origin"], json!("imported"));
    assert_eq!(errno(export(&mut worker, &kept)), libc::EPERM);
    wanted["exportable"] = json!(true);
    let free = import(&mut worker, wanted.clone(), &bytes).unwrap();
    assert_eq!(export(&mut worker, &free).unwrap(), bytes);
    // The attack: exportable in the store, where the key never was.
    let mut flipped = kept.clone();
    flipped["attributes"]["exportable"] = json!(true);
    assert_eq!(errno(export(&mut worker, &flipped)), libc::EBADMSG);
    // The same key computes the same, wherever it is.
    let client = daemon.open(recipe(&kept)).unwrap();
    let here = cryptofd_core::Session::open(cryptofd_core::session::Request {
        algorithm: "hmac(sha256)".into(),
        key: cryptofd_core::engine::Key::Bytes(cryptofd_core::secret::Secret::new(&bytes)),
        ..Default::default()
    })
    .unwrap();
    let mut tag = [0; 32];
    here.digest((&b"abc"[..]).into(), &mut tag).unwrap();
    assert_eq!(call(&client, Op::Digest, b"abc").unwrap(), tag);
    // Sizes, and descriptors that are not what they should be.
    let wrong = import(&mut worker, attributes("gcm(aes)", &[]), &bytes[..31]);
    assert_eq!(errno(wrong), libc::EINVAL);
    let huge = import(&mut worker, wanted.clone(), &vec![1; (64 << 10) + 1]);
    assert_eq!(errno(huge), libc::EMSGSIZE);
    let none = worker.ask(json!({"op": "import", "attributes": wanted}));
    assert_eq!(errno(none), libc::EINVAL);
}

/// A client that never writes its key stops nobody else of its domain.
#[test]
fn a_slow_import_does_not_stop_the_worker() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let (read, mut write) = pipe();
    let wanted = attributes("gcm(aes)", &["encrypt"]);
    let asked = json!({"op": "import", "attributes": wanted});
    let slow = worker.send(asked, vec![OwnedFd::from(read)]);
    let made = generate(&mut worker, "gcm(aes)", &["encrypt"]);
    call(&daemon.open(recipe(&made)).unwrap(), Op::Seal, b"x").unwrap();
    write.write_all(&[1; 32]).unwrap();
    drop(write);
    let (made, _) = worker.wait(slow).unwrap();
    assert_eq!(made["attributes"]["bits"], json!(256));
}

fn wrap(worker: &mut Channel, made: &Made, by: &Made, format: &str) -> Result<Value> {
    let asked = json!({"op": "wrap", "key": key(made), "by": key(by), "format": format});
    worker.ask(asked).map(|(ok, _)| ok["wrapped"].clone())
}

fn unwrap(
    worker: &mut Channel,
    wanted: Value,
    wrapped: &Value,
    by: &Made,
    format: &str,
) -> Result<Made> {
    let asked = json!({
        "op": "unwrap", "attributes": wanted, "wrapped": wrapped, "by": key(by), "format": format,
    });
    worker.ask(asked).map(|(ok, _)| ok)
}

fn trusted(worker: &mut Channel, made: &Made) -> Made {
    let mut new = made["attributes"].clone();
    new["trusted"] = json!(true);
    let mut asked = key(made);
    asked["op"] = json!("rewrap");
    asked["new_attributes"] = new;
    worker.ask(asked).unwrap().0
}

#[test]
fn wrapping_keeps_its_rules() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let worker = &mut worker;
    let wrappable = json!({"wrappable": true});
    let secret = make(
        worker,
        "gcm(aes)",
        &["encrypt", "decrypt"],
        wrappable.clone(),
    )
    .unwrap();
    let closed = make(worker, "gcm(aes)", &["encrypt"], json!({})).unwrap();
    let plain = make(worker, "gcm(aes)", &["wrap", "unwrap"], json!({})).unwrap();
    let kek = trusted(worker, &plain);
    // Only a trusted key wraps what is not exportable; what is not wrappable is not wrapped at all.
    assert_eq!(
        errno(wrap(worker, &secret, &plain, "cryptofd")),
        libc::EPERM
    );
    assert_eq!(errno(wrap(worker, &closed, &kek, "cryptofd")), libc::EPERM);
    // The attack: a key whose bytes are known.
    let mut known = attributes("kw(aes)", &["wrap", "unwrap"]);
    let mine = import(worker, known.clone(), &[7; 32]).unwrap();
    assert_eq!(errno(wrap(worker, &secret, &mine, "kw")), libc::EPERM);
    known["trusted"] = json!(true);
    assert_eq!(errno(import(worker, known, &[7; 32])), libc::EPERM);
    // Never a weaker over a stronger.
    let weak = make(worker, "gcm(aes)", &["wrap"], json!({"bits": 128})).unwrap();
    let weak = trusted(worker, &weak);
    let error = wrap(worker, &secret, &weak, "cryptofd").unwrap_err();
    assert_eq!(error.errno(), libc::EPERM);
    assert!(error.message().contains("weaker"), "{error}");
    // A wrapping key does nothing else, and others do not wrap.
    let mixed = make(worker, "gcm(aes)", &["encrypt", "wrap"], json!({}));
    assert_eq!(errno(mixed), libc::EINVAL);
    assert_eq!(
        errno(wrap(worker, &secret, &secret, "cryptofd")),
        libc::EPERM
    );
    let client = daemon.open(recipe(&kek)).unwrap();
    assert_eq!(errno(call(&client, Op::Seal, b"x")), libc::EPERM);
    assert_eq!(errno(call(&client, Op::Unseal, &[0; 64])), libc::EPERM);

    let wrapped = wrap(worker, &secret, &kek, "cryptofd").unwrap();
    let wanted =
        json!({"id": "f".repeat(32), "owner": DOMAIN, "label": "back", "exportable": true});
    let back = unwrap(worker, wanted.clone(), &wrapped, &kek, "cryptofd").unwrap();
    let attributes_ = &back["attributes"];
    assert_eq!(
        attributes_["fingerprint"],
        secret["attributes"]["fingerprint"]
    );
    assert_eq!(attributes_["exportable"], json!(false));
    assert_eq!(attributes_["origin"], json!("unwrapped"));
    assert_eq!(attributes_["usage"], secret["attributes"]["usage"]);
    let (one, two) = (daemon.open(recipe(&secret)), daemon.open(recipe(&back)));
    let sealed = call(&one.unwrap(), Op::Seal, b"x").unwrap();
    assert_eq!(call(&two.unwrap(), Op::Unseal, &sealed).unwrap(), b"x");
    // The attacks: another algorithm, more usage, a changed blob.
    for (name, value) in [
        ("algorithm", json!("ctr(aes)")),
        ("usage", json!(["derive-bytes"])),
        ("trusted", json!(true)),
    ] {
        let mut other = wanted.clone();
        other[name] = value;
        let refused = unwrap(worker, other, &wrapped, &kek, "cryptofd");
        assert_eq!(errno(refused), libc::EPERM, "{name}");
    }
    let mut text = wrapped.as_str().unwrap().to_owned();
    let last = if text.ends_with("A") { "B" } else { "A" };
    let at = text.len() / 2;
    text.replace_range(at..=at, if &text[at..=at] == last { "C" } else { last });
    let changed = unwrap(worker, wanted, &json!(text), &kek, "cryptofd");
    assert!(matches!(errno(changed), libc::EBADMSG | libc::EINVAL));
}

#[test]
fn foreign_formats_take_their_attributes_from_the_template() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let worker = &mut worker;
    let free = make(
        worker,
        "hmac(sha256)",
        &["sign"],
        json!({"bits": 256, "exportable": true, "wrappable": true}),
    )
    .unwrap();
    let kept = make(
        worker,
        "hmac(sha256)",
        &["sign"],
        json!({"exportable": true}),
    )
    .unwrap();
    for (algorithm, format) in [("kw(aes)", "kw"), ("kwp(aes)", "kwp")] {
        let template = json!({"algorithm": "hmac(sha256)", "usage": ["verify"]});
        let with = json!({"wrap_template": template});
        let kek = make(worker, algorithm, &["wrap", "unwrap"], with).unwrap();
        let wrapped = wrap(worker, &free, &kek, format).unwrap();
        assert_eq!(errno(wrap(worker, &kept, &kek, format)), libc::EPERM);
        let wanted = json!({"id": "e".repeat(32), "owner": DOMAIN});
        let back = unwrap(worker, wanted.clone(), &wrapped, &kek, format).unwrap();
        assert_eq!(back["attributes"]["usage"], json!(["verify"]));
        assert_eq!(back["attributes"]["exportable"], json!(false));
        let fingerprint = &back["attributes"]["fingerprint"];
        assert_eq!(*fingerprint, free["attributes"]["fingerprint"]);
        let mut more = wanted.clone();
        more["usage"] = json!(["sign", "verify"]);
        assert_eq!(
            errno(unwrap(worker, more, &wrapped, &kek, format)),
            libc::EPERM
        );
        let bare = make(worker, algorithm, &["wrap", "unwrap"], json!({})).unwrap();
        let wrapped = wrap(worker, &free, &bare, format).unwrap();
        let refused = unwrap(worker, wanted, &wrapped, &bare, format);
        assert_eq!(errno(refused), libc::EPERM);
        // Through a descriptor a wrapping key gives nobody bytes.
        let client = daemon.open(recipe(&kek)).unwrap();
        assert_eq!(errno(call(&client, Op::Unwrap, &[0; 40])), libc::EPERM);
    }
}

#[test]
fn what_is_derived_is_a_key_and_follows_the_template() {
    let mut daemon = Daemon::start();
    let (mut worker, _) = daemon.worker(DOMAIN);
    let worker = &mut worker;
    let template = json!({"algorithm": "gcm(aes)", "bits": 256, "usage": ["decrypt", "encrypt"]});
    let with = json!({"derive_template": template});
    let base = make(worker, "hkdf(sha256)", &["derive"], with.clone()).unwrap();
    let derive = |worker: &mut Channel, base: &Made, wanted: Value, bits: u64| {
        let how = base["attributes"]["algorithm"].clone();
        let asked = json!({
            "op": "derive", "attributes": wanted, "base": key(base), "how": how, "info": "aW5mbw==",
            "bits": bits,
        });
        worker.ask(asked).map(|(ok, _)| ok)
    };
    let wanted = attributes("gcm(aes)", &["encrypt", "decrypt"]);
    let one = derive(worker, &base, wanted.clone(), 256).unwrap();
    let two = derive(worker, &base, wanted.clone(), 256).unwrap();
    assert_eq!(
        one["attributes"]["fingerprint"],
        two["attributes"]["fingerprint"]
    );
    assert_eq!(one["attributes"]["origin"], json!("derived"));
    // The attacks: a shorter key, another algorithm, more rights, more freedom, bytes.
    assert_eq!(
        errno(derive(worker, &base, wanted.clone(), 128)),
        libc::EPERM
    );
    assert_eq!(
        errno(derive(worker, &base, wanted.clone(), 64)),
        libc::EPERM
    );
    let other = attributes("ctr(aes)", &[]);
    assert_eq!(errno(derive(worker, &base, other, 256)), libc::EPERM);
    let more = attributes("gcm(aes)", &["wrap"]);
    assert_eq!(errno(derive(worker, &base, more, 256)), libc::EPERM);
    let mut free = wanted.clone();
    free["exportable"] = json!(true);
    assert_eq!(errno(derive(worker, &base, free, 256)), libc::EPERM);
    let bare = make(worker, "hkdf(sha256)", &["derive"], json!({})).unwrap();
    assert_eq!(
        errno(derive(worker, &bare, wanted.clone(), 256)),
        libc::EPERM
    );
    let not = make(worker, "hkdf(sha256)", &["derive-bytes"], with).unwrap();
    assert_eq!(errno(derive(worker, &not, wanted, 256)), libc::EPERM);
    let client = daemon.open(recipe(&base)).unwrap();
    let bytes = Request {
        params: Params {
            length: Some(32),
            ..Params::default()
        },
        ..Request::new(Op::Derive)
    };
    assert_eq!(errno(client.call(&bytes, &mut never)), libc::EPERM);
}

/// The store's keys outlive the service; another's key-encryption key opens none of them.
#[test]
fn keys_outlive_the_service_and_no_other_store_opens_them() {
    let folder = Folder::new();
    let path = folder.0.clone();
    let mut daemon = Daemon::start_with(&[], folder);
    let (mut worker, _) = daemon.worker(DOMAIN);
    let made = generate(&mut worker, "gcm(aes)", &["encrypt", "decrypt"]);
    let sealed = call(&daemon.open(recipe(&made)).unwrap(), Op::Seal, b"x").unwrap();
    let kept = std::fs::read(path.join("kek")).unwrap();
    assert_eq!(kept.len(), 36);
    drop(daemon);
    let folder = Folder::new();
    std::fs::write(folder.0.join("kek"), &kept).unwrap();
    use std::os::unix::fs::PermissionsExt;
    let own = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(folder.0.join("kek"), own).unwrap();
    // The way of kernels without memfd_secret gives the same.
    let mut daemon = Daemon::start_with(&["--secret-memory", "no"], folder);
    assert_eq!(daemon.status()["kek"], json!("process"));
    let client = daemon.open(recipe(&made)).unwrap();
    assert_eq!(call(&client, Op::Unseal, &sealed).unwrap(), b"x");
    let mut stranger = Daemon::start();
    assert_eq!(errno(stranger.open_fd(recipe(&made))), libc::EBADMSG);
}

#[test]
fn a_key_encryption_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    for (content, mode) in [(&[1; 36][..], 0o644), (&[1; 35], 0o600)] {
        let folder = Folder::new();
        let file = folder.0.join("kek");
        std::fs::write(&file, content).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut daemon = Daemon::start_with(&[], folder);
        assert!(!daemon.child.wait().unwrap().success(), "{mode:o}");
    }
}
