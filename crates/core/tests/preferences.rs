//! Preferences and policy of a whole process: read from its environment, and again when they change.

use cryptofd_core::engine::Key;
use cryptofd_core::session::{Request, Session};
use cryptofd_core::{Error, preferences};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn open(algorithm: &str) -> Result<std::sync::Arc<Session>, Error> {
    Session::open(Request {
        algorithm: algorithm.into(),
        key: Key::None,
        ..Request::default()
    })
}

fn directory() -> PathBuf {
    let path = std::env::temp_dir().join(format!("cryptofd-process-{}", std::process::id()));
    std::fs::create_dir_all(path.join("cryptofd")).unwrap();
    path
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_process_reads_its_own() {
    let root = directory();
    let run = |test: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", test])
            .env("XDG_CONFIG_HOME", &root)
            .env("CRYPTOFD_ENGINES", "openssl,software")
            .env_remove("CRYPTOFD_CONFIG")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{test}: {text}");
        assert!(text.contains("1 passed"), "{test}: {text}");
    };
    write(
        &root.join("cryptofd/cryptofd.toml"),
        "[policy]\nforbid = [\"sha512\"]\n",
    );
    run("policy_changes_under_a_process");
    std::fs::remove_dir_all(&root).unwrap();
}

#[test]
#[ignore = "run by a_process_reads_its_own"]
fn policy_changes_under_a_process() {
    let root = PathBuf::from(std::env::var("XDG_CONFIG_HOME").unwrap());
    let path = root.join("cryptofd/cryptofd.toml");
    let error = open("sha512").unwrap_err();
    assert_eq!(error.errno(), libc::EPERM, "{error}");
    let session = open("sha256").unwrap();
    assert_eq!(session.info().engine, "openssl", "{:?}", session.info());
    // Seen by itself after a second; at once by reload().
    write(&path, "[policy]\nforbid = [\"sha256\"]\n");
    std::thread::sleep(Duration::from_millis(1200));
    open("sha512").unwrap();
    assert_eq!(open("sha256").unwrap_err().errno(), libc::EPERM);
    write(&path, "nonsense\n");
    assert!(
        preferences::reload()
            .unwrap_err()
            .message()
            .contains("line 1")
    );
    let error = open("sha512").unwrap_err();
    assert!(error.message().contains("cryptofd.toml, line 1"), "{error}");
    std::fs::remove_file(&path).unwrap();
    preferences::reload().unwrap();
    open("sha256").unwrap();
    // An argument overrides a preference: disabled engines serve who asks for them by name.
    write(&path, "[engines]\ndisable = [\"software\"]\n");
    preferences::reload().unwrap();
    let asked = |engine: &str| {
        Session::open(Request {
            algorithm: "sha256".into(),
            engine: Some(engine.into()),
            ..Request::default()
        })
    };
    assert_eq!(asked("software").unwrap().info().engine, "software");
    // It does not override a policy.
    write(&path, "[policy]\nengines = [\"openssl\"]\n");
    preferences::reload().unwrap();
    let error = asked("software").unwrap_err();
    assert!(error.message().contains("allows openssl only"), "{error}");
}
