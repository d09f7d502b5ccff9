//! What holds when several sources speak, and which files are not trusted.

use super::{Environment, Preferences, Sources};
use crate::engine::{Hardware, Key, Spec};
use crate::engines;
use crate::error::{Error, Kind};
use crate::secret::Secret;
use crate::table;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of its own, with a system's and a user's file in it.
struct Root {
    path: PathBuf,
    sources: Sources,
}

impl Root {
    fn new() -> Root {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("cryptofd-preferences-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        let uid = fs::metadata(&path).unwrap().uid();
        Root {
            sources: Sources {
                system: path.join("system.toml"),
                system_owner: uid,
                user: Some(path.join("user.toml")),
                more: None,
                environment: Environment::default(),
                uid,
            },
            path,
        }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    fn system(self, text: &str) -> Root {
        self.write("system.toml", text);
        self
    }

    fn user(self, text: &str) -> Root {
        self.write("user.toml", text);
        self
    }

    fn load(&self) -> Preferences {
        self.sources.load().unwrap()
    }

    fn error(&self) -> Error {
        self.sources.load().unwrap_err()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.path).unwrap();
    }
}

fn order(preferences: &Preferences, algorithm: &str) -> Vec<&'static str> {
    preferences
        .order(algorithm, engines::all())
        .iter()
        .map(|engine| engine.name())
        .collect()
}

fn spec(algorithm: &str, key: usize) -> Spec {
    let key = match key {
        0 => Key::None,
        size => Key::Bytes(Secret::new(&vec![1; size])),
    };
    Spec::new(table::find(algorithm).unwrap(), key)
}

fn refused(preferences: &Preferences, spec: &Spec) -> String {
    let error = preferences.apply(spec).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (Kind::Refused, libc::EPERM));
    error.message().to_owned()
}

#[test]
fn nothing_said_allows_everything() {
    let preferences = Root::new().load();
    assert_eq!(preferences, Preferences::default());
    assert_eq!(order(&preferences, "sha512")[0], engines::all()[0].name());
    for algorithm in table::ALGORITHMS {
        preferences.check(&spec(algorithm.name, 0)).unwrap();
    }
}

#[test]
fn the_last_preference_wins() {
    let mut root = Root::new()
        .system(
            "[engines]\nprefer = [\"openssl\"]\ndisable = [\"software\"]\nhardware = \"forbid\"\n",
        )
        .user("[engines]\nhardware = \"prefer\"\n");
    let system = root.load();
    assert_eq!(order(&system, "sha256")[0], "openssl");
    assert_eq!(
        system.against("software", "sha256").unwrap(),
        "disabled by preference"
    );
    assert_eq!(system.against("openssl", "sha256"), None);
    assert_eq!(system.hardware, Hardware::Prefer);

    root.write(
        "user.toml",
        "[engines]\nprefer = [\"software\"]\ndisable = []\n",
    );
    let user = root.load();
    assert_eq!(order(&user, "sha256")[0], "software");
    assert_eq!(user.against("software", "sha256"), None);
    assert_eq!(user.hardware, Hardware::Forbid);

    root.sources.more = Some(root.write("more.toml", "[engines]\nhardware = \"any\"\n"));
    assert_eq!(root.load().hardware, Hardware::Any);

    root.sources.environment = Environment {
        engines: Some(" openssl , software".into()),
        disable: Some("software".into()),
        hardware: Some("require".into()),
        fips: None,
    };
    let environment = root.load();
    assert_eq!(order(&environment, "sha256")[..2], ["openssl", "software"]);
    assert!(environment.against("software", "sha256").is_some());
    assert_eq!(environment.hardware, Hardware::Require);
    // And the argument over all of them.
    let mut asked = spec("sha256", 0);
    assert_eq!(
        environment.apply(&asked).unwrap().hardware,
        Hardware::Require
    );
    asked.hardware = Hardware::Forbid;
    assert_eq!(
        environment.apply(&asked).unwrap().hardware,
        Hardware::Forbid
    );
}

#[test]
fn the_faster_engine_comes_first_where_nobody_has_an_order() {
    let own = engines::all()[0].name();
    let silent = Root::new().system("[engines]\nhardware = \"any\"\n").load();
    for algorithm in table::ALGORITHMS {
        let name = algorithm.name;
        match algorithm.faster {
            Some(faster) if crate::cpu::lacks(faster.without) => {
                assert_eq!(silent.faster(name), Some(faster));
                assert_eq!(order(&silent, name)[0], faster.engine);
            }
            _ => {
                assert_eq!(silent.faster(name), None);
                assert_eq!(order(&silent, name)[0], own);
            }
        }
        // A name that no engine has would do nothing.
        assert!(algorithm.faster.is_none_or(|faster| {
            engines::all().iter().any(|e| e.name() == faster.engine) && faster.engine != own
        }));
    }
    for text in [
        "[engines]\nprefer = [\"software\"]\n",
        "[engines.for.sha256]\nprefer = [\"software\"]\n",
    ] {
        let asked = Root::new().user(text).load();
        assert_eq!(asked.faster("sha256"), None);
        assert_eq!(order(&asked, "sha256")[0], "software");
    }
    let none = Root::new().user("[engines]\nprefer = []\n").load();
    assert_eq!(order(&none, "sha256")[0], own);
}

#[test]
fn single_algorithms_have_their_own_preferences() {
    let root = Root::new()
        .system(
            "[engines]\nprefer = [\"software\"]\n\
             [engines.for.\"gcm(aes)\"]\nprefer = [\"openssl\"]\n\
             [engines.for.chacha20-poly1305]\ndisable = [\"software\"]\n",
        )
        .user("[engines.for.\"gcm(aes)\"]\ndisable = [\"software\"]\n");
    let preferences = root.load();
    assert_eq!(order(&preferences, "sha256")[0], "software");
    assert_eq!(order(&preferences, "gcm(aes)")[0], "openssl");
    let why = preferences.against("software", "gcm(aes)").unwrap();
    assert_eq!(why, "disabled by preference for gcm(aes)");
    // What is disabled for one algorithm is disabled besides what is disabled for all.
    root.write(
        "user.toml",
        "[engines]\ndisable = [\"openssl\"]\n[engines.for.sha1]\ndisable = [\"software\"]\n",
    );
    let both = root.load();
    assert!(both.against("openssl", "sha1").is_some());
    assert!(both.against("software", "sha1").is_some());
    assert_eq!(both.against("software", "sha256"), None);
    // An alias means the algorithm.
    let name = "rfc7539(chacha20,poly1305)";
    assert!(preferences.against("software", name).is_some());
    assert_eq!(preferences.against("software", "sha256"), None);
}

#[test]
fn policies_intersect() {
    let root = Root::new()
        .system(
            "[policy]\nminimum_strength = 112\nforbid = [\"sha1\"]\nengines = [\"software\"]\n\
             allow = [\"sha1\", \"sha224\", \"sha256\", \"gcm(aes)\", \"xts(aes)\", \"hkdf(sha1)\"]\n",
        )
        .user(
            "[policy]\nminimum_strength = 1\nallow = [\"sha1\", \"sha256\", \"sha512\", \"gcm(aes)\"]\n\
             engines = [\"software\", \"openssl\"]\n",
        );
    let preferences = root.load();
    preferences.check(&spec("sha256", 0)).unwrap();
    preferences.check(&spec("gcm(aes)", 16)).unwrap();
    assert!(refused(&preferences, &spec("sha1", 0)).contains("(forbid)"));
    // In one list "allow" only.
    assert!(refused(&preferences, &spec("sha224", 0)).contains("user.toml"));
    assert!(refused(&preferences, &spec("sha512", 0)).contains("system.toml"));
    assert_eq!(preferences.against("software", "sha256"), None);
    let why = preferences.against("openssl", "sha256").unwrap();
    assert!(why.contains("system.toml allows software only"), "{why}");
    assert_eq!(preferences.forbids("openssl").unwrap(), why);

    // A user narrows the strength, and cannot widen it.
    root.write("user.toml", "[policy]\nminimum_strength = 256\n");
    let narrow = root.load();
    assert!(refused(&narrow, &spec("sha256", 0)).contains("128 bits of strength"));
    narrow.check(&spec("gcm(aes)", 32)).unwrap();
    assert!(refused(&narrow, &spec("gcm(aes)", 16)).contains("128 bits of strength"));
    narrow.check(&spec("xts(aes)", 64)).unwrap();
    assert!(refused(&narrow, &spec("xts(aes)", 32)).contains("128 bits of strength"));

    root.write("user.toml", "[policy]\nfips = false\nweak = \"allow\"\n");
    root.write(
        "system.toml",
        "[policy]\nfips = true\nweak = \"refuse\"\nhardware = \"forbid\"\n",
    );
    let strict = root.load();
    assert!(strict.apply(&spec("sha256", 0)).unwrap().fips);
    assert!(refused(&strict, &spec("md5", 0)).contains("collisions"));
    assert_eq!(
        strict.apply(&spec("sha256", 0)).unwrap().hardware,
        Hardware::Forbid
    );
    let mut asked = spec("sha256", 0);
    asked.hardware = Hardware::Prefer;
    assert_eq!(strict.apply(&asked).unwrap().hardware, Hardware::Forbid);
    asked.hardware = Hardware::Require;
    assert!(refused(&strict, &asked).contains("hardware=require against"));

    root.write("user.toml", "[policy]\nhardware = \"require\"\n");
    assert!(refused(&root.load(), &spec("sha256", 0)).contains("against the policy"));
}

#[test]
fn the_environment_can_ask_for_fips() {
    let mut root = Root::new();
    root.sources.environment.fips = Some("1".into());
    assert!(root.load().apply(&spec("sha256", 0)).unwrap().fips);
    root.sources.environment.fips = Some("0".into());
    assert_eq!(root.load(), Preferences::default());
    root.sources.environment.fips = Some("yes".into());
    assert!(root.error().message().contains("CRYPTOFD_FIPS=yes"));
}

#[test]
fn what_others_can_write_is_refused() {
    let root = Root::new().system("[policy]\nforbid = [\"md5\"]\n");
    let path = root.path.join("system.toml");
    for mode in [0o664, 0o646, 0o666, 0o620] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = root.error();
        assert_eq!(error.errno(), libc::EPERM);
        let way_out = format!("chmod go-w {}", path.display());
        assert!(error.message().contains(&way_out), "{error}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    root.load();
}

#[test]
fn what_belongs_to_others_is_refused() {
    let mut root = Root::new().system("[policy]\n").user("[policy]\n");
    root.load();
    let mine = root.sources.uid;
    for name in ["system.toml", "user.toml"] {
        let path = root.path.join(name);
        if mine == 0 {
            chown(&path, Some(12345), None).unwrap();
        } else {
            root.sources.uid = mine + 1;
            root.sources.system_owner = mine + 1;
        }
        let error = root.error();
        assert_eq!(error.errno(), libc::EPERM);
        assert!(error.message().contains("belongs to uid"), "{error}");
        if mine == 0 {
            chown(&path, Some(0), None).unwrap();
        }
    }
}

#[test]
fn broken_files_say_where() {
    let cases = [
        ("[engines]\nprefer = [\n", "system.toml, line 2", ""),
        ("\n\n[policy]\nfips = 3\n", "system.toml, line 4", "boolean"),
        ("[policy]\n\nforbidden = []\n", "line 3", "forbidden"),
        ("[engin]\n", "line 1", "engin"),
        ("[engines.for.sha256]\nlike = []\n", "line 2", "like"),
        ("[policy]\nforbid = [\"md55\"]\n", "policy.forbid", "md55"),
        (
            "[policy]\nengines = [\"softwear\"]\n",
            "policy.engines",
            "softwear",
        ),
        ("[engines.for.md55]\n", "engines.for", "md55"),
        (
            "[policy]\nhardware = \"prefer\"\n",
            "policy.hardware",
            "prefer",
        ),
        (
            "[engines]\nhardware = \"hard\"\n",
            "engines.hardware",
            "hard",
        ),
        ("[policy]\nweak = \"no\"\n", "policy.weak", "no"),
        ("[policy]\nminimum_strength = -1\n", "line 2", "-1"),
    ];
    for (text, place, what) in cases {
        let root = Root::new().system(text);
        let error = root.error();
        assert_eq!(error.errno(), libc::EINVAL, "{text}: {error}");
        let message = error.message();
        assert!(message.contains(place), "{text}: {message}");
        assert!(message.contains(what), "{text}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
    let root = Root::new();
    fs::write(root.path.join("user.toml"), b"[policy]\n# \xff\n").unwrap();
    assert!(root.error().message().contains("line 2: not UTF-8"));
}

#[test]
fn odd_files_are_errors_too() {
    let mut root = Root::new();
    fs::create_dir(root.path.join("user.toml")).unwrap();
    assert!(root.error().message().contains("not a regular file"));
    fs::remove_dir(root.path.join("user.toml")).unwrap();
    root.write("user.toml", &"#".repeat((1 << 20) + 1));
    assert_eq!(root.error().errno(), libc::EFBIG);
    root.write("user.toml", "");
    root.load();
    root.sources.more = Some(root.path.join("nowhere.toml"));
    let error = root.error();
    assert_eq!(error.errno(), libc::ENOENT);
    assert!(error.message().contains("nowhere.toml"), "{error}");
    root.sources.more = Some(Path::new("here.toml").into());
    assert!(root.error().message().contains("absolute"));
    root.sources.more = None;
    root.sources.environment.engines = Some("hamster".into());
    assert!(root.error().message().contains("CRYPTOFD_ENGINES"));
}

#[test]
fn a_changed_file_is_seen() {
    let root = Root::new();
    let mut before = root.sources.stamps();
    assert_eq!(before, root.sources.stamps());
    let mut change = |what: &str| {
        let after = root.sources.stamps();
        assert_ne!(after, before, "{what}");
        before = after;
    };
    root.write("user.toml", "[policy]\n");
    change("appeared");
    root.write("user.toml", "[policy]\nfips = true\n");
    change("grew");
    let path = root.path.join("user.toml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    change("others may write");
    root.write("other.toml", "[policy]\nfips = true\n");
    fs::rename(root.path.join("other.toml"), &path).unwrap();
    change("was replaced");
    fs::remove_file(&path).unwrap();
    change("vanished");
}
