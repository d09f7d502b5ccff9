//! The engine `openssl` inside a program that uses the same libcrypto itself, and across fork().

use cryptofd_core::engine::{Digest, Engine, Key, Opened, Spec, Work};
use cryptofd_core::engines::openssl::OpenSsl;
use cryptofd_core::error::Kind;
use cryptofd_core::secret::Secret;
use cryptofd_core::sys::buffer::{Input, Output};
use cryptofd_core::table;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the program does with its own libcrypto, and fork().
mod ffi {
    use libloading::os::unix::Library;
    use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};

    type Fetch = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> *mut c_void;

    /// The program's libcrypto.
    pub struct Program(Library);

    impl Program {
        pub fn new() -> Option<Program> {
            // SAFETY: libcrypto is made to be loaded.
            unsafe { Library::new("libcrypto.so.3").ok().map(Program) }
        }

        /// OPENSSL_INIT_NO_LOAD_CONFIG.
        pub fn forbid_configuration(&self) {
            type Init = unsafe extern "C" fn(u64, *const c_void) -> c_int;
            // SAFETY: the type is that of openssl/crypto.h; the settings may be null.
            let done = unsafe {
                let init = self.0.get::<Init>(b"OPENSSL_init_crypto\0").unwrap();
                init(0x80, std::ptr::null())
            };
            assert_eq!(done, 1);
        }

        /// Puts an error with this reason into this thread's queue.
        pub fn fail(&self, reason: c_int) {
            type Set = unsafe extern "C" fn(c_int, c_int, *const c_char);
            // SAFETY: the types are those of openssl/err.h.
            unsafe {
                let new = self.0.get::<extern "C" fn()>(b"ERR_new\0").unwrap();
                let set = self.0.get::<Set>(b"ERR_set_error\0").unwrap();
                new();
                set(128, reason, std::ptr::null());
            }
        }

        /// Takes all errors out of this thread's queue, oldest first; their reasons.
        pub fn failures(&self) -> Vec<c_ulong> {
            type Get = extern "C" fn() -> c_ulong;
            // SAFETY: the type is that of openssl/err.h.
            let get = unsafe { self.0.get::<Get>(b"ERR_get_error\0").unwrap() };
            std::iter::from_fn(|| Some(get()).filter(|error| *error != 0))
                .map(|error| error & 0x7f_ffff)
                .collect()
        }

        /// Whether the program, in its default library context, finds this hash.
        pub fn has(&self, hash: &CStr) -> bool {
            // SAFETY: the type is that of openssl/evp.h; null is the default library context.
            unsafe {
                let fetch = self.0.get::<Fetch>(b"EVP_MD_fetch\0").unwrap();
                !fetch(std::ptr::null_mut(), hash.as_ptr(), std::ptr::null()).is_null()
            }
        }
    }

    /// Runs `child` in a child of fork(), which answers with bytes; the parent meanwhile `parent`.
    pub fn fork(child: impl FnOnce() -> Vec<u8>, parent: impl FnOnce()) -> Vec<u8> {
        use std::io::Read;
        use std::os::fd::FromRawFd;
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors; the child ends by _exit, which runs nothing of the harness.
        unsafe {
            assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
            let pid = libc::fork();
            assert!(pid >= 0);
            if pid == 0 {
                let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
                let Ok(answer) = answer else { libc::_exit(1) };
                libc::write(ends[1], answer.as_ptr().cast(), answer.len());
                libc::_exit(0);
            }
            libc::close(ends[1]);
            parent();
            let mut answer = Vec::new();
            std::fs::File::from_raw_fd(ends[0])
                .read_to_end(&mut answer)
                .unwrap();
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
            assert_eq!(status, 0, "the child failed");
            answer
        }
    }
}

fn open(name: &str, key: &[u8]) -> Opened {
    let key = match key {
        [] => Key::None,
        bytes => Key::Bytes(Secret::new(bytes)),
    };
    OpenSsl
        .open(&Spec::new(table::find(name).unwrap(), key))
        .unwrap()
}

/// Every kind of success and of failure.
fn use_the_engine() {
    let mut digest = [0u8; 32];
    let Work::Hashing(hash) = open("sha256", &[]).work else {
        panic!("not a hash");
    };
    hash.once(Input::from(b"abc"), &mut digest).unwrap();
    assert_eq!(digest[..4], [0xba, 0x78, 0x16, 0xbf]);
    let Work::Aead(aead) = open("gcm(aes)", &[1; 32]).work else {
        panic!("not an AEAD");
    };
    let (mut short, mut long) = ([0u8; 4], [0u8; 20]);
    let (sealed, none) = (Input::from(&[0; 20]), Input::EMPTY);
    let error = aead
        .unseal(&[1; 12], none, sealed, Output::from(&mut short[..]))
        .unwrap_err();
    assert_eq!(error.kind(), Kind::BadTag);
    let error = aead
        .seal(
            &[1; 1000],
            none,
            Input::from(&[0; 4]),
            Output::from(&mut long[..]),
        )
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Elsewhere);
    let Work::Wrap(wrap) = open("kw(aes)", &[1; 32]).work else {
        panic!("not a wrap");
    };
    assert_eq!(wrap.unwrap(&[0; 24]).unwrap_err().kind(), Kind::BadTag);
    let Work::Random(random) = open("stdrng", &[]).work else {
        panic!("not random");
    };
    random.fill(&mut digest).unwrap();
}

#[test]
fn the_error_queue_stays_the_programs() {
    let Some(program) = ffi::Program::new() else {
        return;
    };
    use_the_engine();
    assert!(program.failures().is_empty());
    program.fail(101);
    program.fail(102);
    use_the_engine();
    assert_eq!(program.failures(), [101, 102]);
}

/// Runs one of the ignored tests below in a process of its own, with a configuration for the program.
fn alone(test: &str, configuration: &std::path::Path) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test])
        .env("OPENSSL_CONF", configuration)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{test}: {text}");
    assert!(text.contains("1 passed"), "{test}: {text}");
}

/// A configuration with which a program finds no hash at all.
const NOTHING: &str = "openssl_conf = init\n[init]\nalg_section = evp\n[evp]\n\
                       default_properties = provider=nothing\n";

#[test]
fn the_programs_configuration_stays_its_own() {
    if ffi::Program::new().is_none() {
        return;
    }
    let directory = std::env::temp_dir().join(format!("cryptofd-openssl-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("openssl.cnf");
    std::fs::write(&path, NOTHING).unwrap();
    for order in ["ours_first", "program_first", "program_forbids"] {
        alone(order, &path);
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

/// What the engine does before it must not keep the program from its configuration.
#[test]
#[ignore = "run by the_programs_configuration_stays_its_own"]
fn ours_first() {
    use_the_engine();
    let program = ffi::Program::new().unwrap();
    assert!(!program.has(c"SHA256"), "the configuration was lost");
    use_the_engine();
}

#[test]
#[ignore = "run by the_programs_configuration_stays_its_own"]
fn program_first() {
    let program = ffi::Program::new().unwrap();
    assert!(!program.has(c"SHA256"), "the configuration was not read");
    use_the_engine();
    assert!(!program.has(c"SHA256"), "the default context was changed");
}

/// A program that wants no configuration gets none by way of the engine.
#[test]
#[ignore = "run by the_programs_configuration_stays_its_own"]
fn program_forbids() {
    let program = ffi::Program::new().unwrap();
    program.forbid_configuration();
    use_the_engine();
    assert!(program.has(c"SHA256"), "the configuration was read");
}

#[test]
fn fork_in_the_middle() {
    let (aead, hash, random) = (
        open("gcm(aes)", &[1; 32]).work,
        open("sha256", &[]).work,
        open("stdrng", &[]).work,
    );
    let (Work::Aead(aead), Work::Hashing(hash), Work::Random(random)) = (&aead, &hash, &random)
    else {
        panic!("other work than was asked for");
    };
    let fresh = || {
        let mut fresh = [0u8; 32];
        random.fill(&mut fresh).unwrap();
        fresh.to_vec()
    };
    let work = |state: &mut dyn Digest| {
        let (mut sealed, mut digest) = ([0u8; 19], [0u8; 32]);
        state.update(Input::from(b"bc")).unwrap();
        state.finish(&mut digest).unwrap();
        let out = Output::from(&mut sealed[..]);
        aead.seal(&[1; 12], Input::EMPTY, Input::from(b"abc"), out)
            .unwrap();
        [&sealed[..], &digest[..], &fresh()].concat()
    };
    let mut state = hash.begin().unwrap();
    state.update(Input::from(b"a")).unwrap();
    let mut copy = state.fork().unwrap();
    let mut seen = vec![fresh()];
    // Others compute while the process forks.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut digest = [0u8; 32];
                    hash.once(Input::from(b"noise"), &mut digest).unwrap();
                    random.fill(&mut digest).unwrap();
                }
            });
        }
        let mut ours = Vec::new();
        let theirs = ffi::fork(|| work(&mut *state), || ours = work(&mut *copy));
        assert_eq!(theirs.len(), 83);
        assert_eq!(ours[..51], theirs[..51]);
        assert_eq!(ours[19..23], [0xba, 0x78, 0x16, 0xbf]);
        seen.extend([ours[51..].to_vec(), theirs[51..].to_vec()]);
        for _ in 0..20 {
            seen.push(ffi::fork(fresh, || ()));
            seen.push(fresh());
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(seen.iter().all(|bytes| bytes.len() == 32));
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "parent and child repeat random bytes");
}
