//! The host's libcrypto, and library contexts of our own in it.
//!
//! A program may use the same copy of libcrypto (Python's hashlib does). What is the program's stays as
//! it is: its default library context, what it chose about its configuration, its error queue.

use super::api::{
    self, Api, EVP_CIPHER, EVP_KDF, EVP_MAC, EVP_MD, EVP_RAND, OSSL_LIB_CTX, OSSL_PARAM,
};
use super::params;
use crate::error::{Error, Result};
use crate::sys::arena;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_ulong, c_void};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, RwLock};

const OPENSSL_VERSION_STRING: c_int = 0;
const OPENSSL_INFO_CONFIG_DIR: c_int = 1001;
const OPENSSL_INFO_MODULES_DIR: c_int = 1003;
const OPENSSL_INIT_NO_ATEXIT: u64 = 0x0008_0000;

/// The host's libcrypto; never unloaded.
pub struct Library {
    api: Api,
    version: String,
}

impl Library {
    /// Loads it, once.
    pub fn get() -> Result<&'static Library> {
        static LIBRARY: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
        LIBRARY
            .get_or_init(Library::load)
            .as_ref()
            .map_err(|why| Error::not_offered(why.clone()))
    }

    fn load() -> std::result::Result<Library, String> {
        let handle = api::load()?;
        let api = Api::find(&handle).map_err(|name| {
            format!("the libcrypto that this process loads has no {name}: OpenSSL 3.0 or later has")
        })?;
        // Engines and sessions live until the process ends, so the library does too.
        std::mem::forget(handle);
        // SAFETY: takes nothing, returns a number.
        let major = unsafe { (api.OPENSSL_version_major)() };
        if major < 3 {
            return Err(format!(
                "OpenSSL {major} is too old: 3.0 or later is needed"
            ));
        }
        // Where no secret may be in memory that is not locked, its keys must not either. Nobody else uses
        // the library in such a process.
        // SAFETY: three functions that do what malloc(3), realloc(3) and free(3) do.
        let elsewhere = arena::is_strict()
            && unsafe {
                (api.CRYPTO_set_mem_functions)(arena::c_malloc, arena::c_realloc, arena::c_free)
            } != 1;
        if elsewhere {
            return Err(
                "libcrypto allocates by itself already, in memory that is not locked".into(),
            );
        }
        // If nobody in this process has used libcrypto yet, no clean-up at exit is registered: a thread of
        // ours may still compute then. OPENSSL_INIT_NO_LOAD_CONFIG is not set: it would keep the program
        // itself from its configuration (its TLS policy, its providers) if it comes later. Our own library
        // contexts never read one; but before 4.0 the first hash or cipher of anybody in a process looks
        // for ENGINEs, and for that libcrypto reads the program's, unless the program forbade it.
        // SAFETY: the settings may be null.
        if unsafe { (api.OPENSSL_init_crypto)(OPENSSL_INIT_NO_ATEXIT, std::ptr::null()) } != 1 {
            return Err("libcrypto could not be initialised".into());
        }
        // SAFETY: returns a static string.
        let version = text(unsafe { (api.OpenSSL_version)(OPENSSL_VERSION_STRING) });
        Ok(Library { api, version })
    }

    /// Its own name for its version: `OpenSSL 3.0.19 27 Jan 2026`.
    pub fn version(&self) -> &str {
        &self.version
    }

    fn directory(&self, which: c_int) -> Option<PathBuf> {
        // SAFETY: returns a static string or null.
        let path = unsafe { (self.api.OPENSSL_info)(which) };
        (!path.is_null()).then(|| PathBuf::from(text(path)))
    }

    /// Whether a FIPS module lies where this libcrypto looks for modules (without loading it).
    pub fn has_fips_module(&self) -> bool {
        self.directory(OPENSSL_INFO_MODULES_DIR)
            .is_some_and(|directory| directory.join("fips.so").exists())
    }
}

/// A static C string as text.
fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: not null, and static.
    unsafe { CStr::from_ptr(string) }
        .to_string_lossy()
        .into_owned()
}

/// Keeps the thread's error queue as it was before.
pub struct Quiet {
    api: &'static Api,
    /// Nothing was in the queue: whatever is now came after.
    was_empty: bool,
}

impl Quiet {
    /// Puts a mark.
    pub fn new(api: &'static Api) -> Quiet {
        // SAFETY: takes nothing, returns a number.
        let was_empty = unsafe { (api.ERR_peek_error)() } == 0;
        // SAFETY: takes nothing. On an empty queue it sets no mark, and drop() empties the queue again.
        unsafe { (api.ERR_set_mark)() };
        Quiet { api, was_empty }
    }

    /// What the last error was, in OpenSSL's words.
    pub fn reason(&self) -> String {
        // SAFETY: takes nothing, returns a number.
        self.words(unsafe { (self.api.ERR_peek_last_error)() })
    }

    /// What the first error was, which the others follow from. Where the program left errors of its own,
    /// ours cannot be told from them, and it is the last.
    /// None where OpenSSL says nothing.
    pub fn cause(&self) -> Option<String> {
        // SAFETY: takes nothing, returns a number.
        let first = unsafe { (self.api.ERR_peek_error)() };
        if first == 0 {
            None
        } else if self.was_empty {
            Some(self.words(first))
        } else {
            Some(self.reason())
        }
    }

    fn words(&self, error: c_ulong) -> String {
        // SAFETY: the string is static, or null for an error without text.
        let reason = text(unsafe { (self.api.ERR_reason_error_string)(error) });
        if reason.is_empty() {
            "no reason given".into()
        } else {
            reason
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // SAFETY: takes nothing; pops down to our mark, which everything here balances.
        unsafe { (self.api.ERR_pop_to_mark)() };
    }
}

/// A library context of our own with one provider in it.
pub struct Provider {
    library: &'static Library,
    context: *mut OSSL_LIB_CTX,
    name: &'static str,
    query: Option<&'static CStr>,
    fetched: RwLock<HashMap<(Class, String), std::result::Result<Method, String>>>,
}

/// What can be fetched.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Class {
    Digest,
    Mac,
    Cipher,
    Kdf,
    Rand,
}

/// A fetched method; never freed.
#[derive(Clone, Copy)]
struct Method(*mut c_void);

// SAFETY: fetched methods are constant and counted with atomics (EVP_MD_fetch(3), NOTES).
unsafe impl Send for Method {}
// SAFETY: as above.
unsafe impl Sync for Method {}
// SAFETY: a library context is made for use by many threads (OSSL_LIB_CTX(3)); the rest is constant.
unsafe impl Send for Provider {}
// SAFETY: as above.
unsafe impl Sync for Provider {}

impl Provider {
    /// The provider `default`, or `fips`; loaded at the first call.
    pub fn get(fips: bool) -> Result<&'static Provider> {
        static DEFAULT: OnceLock<std::result::Result<Provider, String>> = OnceLock::new();
        static FIPS: OnceLock<std::result::Result<Provider, String>> = OnceLock::new();
        let library = Library::get()?;
        if fips {
            FIPS.get_or_init(|| Provider::load_fips(library))
        } else {
            DEFAULT.get_or_init(|| Provider::load_default(library))
        }
        .as_ref()
        .map_err(|why| Error::not_offered(why.clone()))
    }

    fn context(library: &Library) -> std::result::Result<*mut OSSL_LIB_CTX, String> {
        // SAFETY: returns an owned context or null.
        let context = unsafe { (library.api.OSSL_LIB_CTX_new)() };
        if context.is_null() {
            return Err("OpenSSL: no memory for a library context".into());
        }
        Ok(context)
    }

    fn new(
        library: &'static Library,
        context: *mut OSSL_LIB_CTX,
        name: &'static str,
        query: Option<&'static CStr>,
    ) -> Provider {
        Provider {
            library,
            context,
            name,
            query,
            fetched: RwLock::new(HashMap::new()),
        }
    }

    fn load_default(library: &'static Library) -> std::result::Result<Provider, String> {
        let quiet = Quiet::new(&library.api);
        let context = Provider::context(library)?;
        // SAFETY: the context is ours, the name a C string.
        if unsafe { (library.api.OSSL_PROVIDER_load)(context, c"default".as_ptr()) }.is_null() {
            return Err(format!(
                "{}: its default provider does not load ({})",
                library.version,
                quiet.reason()
            ));
        }
        Ok(Provider::new(library, context, "default", None))
    }

    /// The FIPS provider: with what `openssl fipsinstall` wrote down beside the host's openssl.cnf
    /// (fips_config(5)), or, where it wrote nothing, as it is (a distribution may build its integrity
    /// value in). Never both: a module that was loaded without its integrity value has failed its
    /// self-test, and, since it is never unloaded (`-z nodelete`), fails for the rest of the process.
    fn load_fips(library: &'static Library) -> std::result::Result<Provider, String> {
        let context = Provider::context(library)?;
        let config = library
            .directory(OPENSSL_INFO_CONFIG_DIR)
            .map(|directory| directory.join("fipsmodule.cnf"));
        let tests = SelfTests::watch(&library.api, context);
        let loaded = match config {
            Some(config) if config.exists() => configure_fips(library, context, &config),
            config => load_bare_fips(library, context, config.as_deref()),
        };
        let failed = tests.failed();
        drop(tests);
        if let Err(mut why) = loaded {
            if let Some(test) = failed {
                why = format!("{why}; the module fails its own self-test {test}");
            }
            // SAFETY: ours, and nothing was fetched from it.
            unsafe { (library.api.OSSL_LIB_CTX_free)(context) };
            return Err(format!("no FIPS provider in {}: {why}", library.version));
        }
        Ok(Provider::new(library, context, "fips", Some(c"fips=yes")))
    }

    /// `default` or `fips`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The library's own name for its version.
    pub(super) fn version(&self) -> &str {
        &self.library.version
    }

    /// Whether it is the validated module.
    pub fn is_fips(&self) -> bool {
        self.query.is_some()
    }

    /// The functions.
    pub(super) fn api(&self) -> &'static Api {
        &self.library.api
    }

    fn fetch(&self, class: Class, name: &str) -> Result<*mut c_void> {
        let key = (class, name.to_owned());
        let known = self
            .fetched
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .get(&key)
            .cloned();
        let found = match known {
            Some(found) => found,
            None => {
                let found = self.fetch_new(class, name);
                self.fetched
                    .write()
                    .unwrap_or_else(|e| e.into_inner())
                    .insert(key, found.clone());
                found
            }
        };
        found.map(|method| method.0).map_err(Error::not_offered)
    }

    fn fetch_new(&self, class: Class, name: &str) -> std::result::Result<Method, String> {
        let api = self.api();
        let _quiet = Quiet::new(api);
        let c_name = CString::new(name).map_err(|_| "a name with a NUL".to_owned())?;
        let query = self.query.map_or(std::ptr::null(), CStr::as_ptr);
        let (context, c_name) = (self.context, c_name.as_ptr());
        // SAFETY: the context is ours, the strings are C strings that outlive the call.
        let method: *mut c_void = unsafe {
            match class {
                Class::Digest => (api.EVP_MD_fetch)(context, c_name, query).cast(),
                Class::Mac => (api.EVP_MAC_fetch)(context, c_name, query).cast(),
                Class::Cipher => (api.EVP_CIPHER_fetch)(context, c_name, query).cast(),
                Class::Kdf => (api.EVP_KDF_fetch)(context, c_name, query).cast(),
                Class::Rand => (api.EVP_RAND_fetch)(context, c_name, query).cast(),
            }
        };
        if method.is_null() {
            return Err(format!(
                "the {} provider of {} has no {name}",
                self.name, self.library.version
            ));
        }
        Ok(Method(method))
    }

    /// The library context and the property query that go with every fetch.
    pub(super) fn place(&self) -> (*mut OSSL_LIB_CTX, *const c_char) {
        (
            self.context,
            self.query.map_or(std::ptr::null(), CStr::as_ptr),
        )
    }

    /// A hash by OpenSSL's name.
    pub(super) fn digest(&self, name: &str) -> Result<*const EVP_MD> {
        Ok(self.fetch(Class::Digest, name)?.cast_const().cast())
    }

    /// A MAC by OpenSSL's name.
    pub(super) fn mac(&self, name: &str) -> Result<*mut EVP_MAC> {
        Ok(self.fetch(Class::Mac, name)?.cast())
    }

    /// A cipher by OpenSSL's name.
    pub(super) fn cipher(&self, name: &str) -> Result<*const EVP_CIPHER> {
        Ok(self.fetch(Class::Cipher, name)?.cast_const().cast())
    }

    /// A KDF by OpenSSL's name.
    pub(super) fn kdf(&self, name: &str) -> Result<*mut EVP_KDF> {
        Ok(self.fetch(Class::Kdf, name)?.cast())
    }

    /// A random generator by OpenSSL's name.
    pub(super) fn rand(&self, name: &str) -> Result<*mut EVP_RAND> {
        Ok(self.fetch(Class::Rand, name)?.cast())
    }

    /// An error where there is no such hash.
    pub fn has_digest(&self, name: &str) -> Result<()> {
        self.digest(name).map(|_| ())
    }

    /// An error where there is no such cipher.
    pub fn has_cipher(&self, name: &str) -> Result<()> {
        self.cipher(name).map(|_| ())
    }

    /// Refused at opening: the next engine is asked.
    pub(super) fn not_offered(&self, what: &str, quiet: &Quiet) -> Error {
        Error::not_offered(format!(
            "{} refuses {what}: {}",
            self.library.version,
            quiet.reason()
        ))
    }

    /// Refused for this request: another engine may do it.
    pub(super) fn elsewhere(&self, what: &str, quiet: &Quiet) -> Error {
        Error::elsewhere(format!(
            "{} refuses {what}: {}",
            self.library.version,
            quiet.reason()
        ))
    }

    /// No memory, or a failure that has no other cause.
    pub(super) fn failed(&self, quiet: &Quiet) -> Error {
        Error::engine_failed(
            libc::EIO,
            format!("{} failed: {}", self.library.version, quiet.reason()),
        )
    }
}

/// What a module's self-tests say while it is loaded (OSSL_SELF_TEST_set_callback(3)): OpenSSL 3.0 keeps
/// the errors of a module that a configuration activates to itself.
struct SelfTests {
    api: &'static Api,
    context: *mut OSSL_LIB_CTX,
    /// The first that failed. In a box, since the callback holds its address.
    failed: Box<Mutex<Option<String>>>,
}

impl SelfTests {
    fn watch(api: &'static Api, context: *mut OSSL_LIB_CTX) -> SelfTests {
        let failed = Box::new(Mutex::new(None));
        let place: *const Mutex<Option<String>> = &raw const *failed;
        // SAFETY: the context is ours; the box outlives the callback, which drop() takes away.
        unsafe {
            (api.OSSL_SELF_TEST_set_callback)(context, Some(heard), place.cast_mut().cast());
        }
        SelfTests {
            api,
            context,
            failed,
        }
    }

    fn failed(&self) -> Option<String> {
        self.failed
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .clone()
    }
}

impl Drop for SelfTests {
    fn drop(&mut self) {
        // SAFETY: the context is not freed before.
        unsafe {
            (self.api.OSSL_SELF_TEST_set_callback)(self.context, None, std::ptr::null_mut());
        }
    }
}

/// A self-test begins or ends: notes the first failure, as `Module_Integrity (HMAC)`.
///
/// # Safety
/// As SelfTests::watch() registers it: `params` is a list of strings, `place` its mutex.
unsafe extern "C" fn heard(params: *const OSSL_PARAM, place: *mut c_void) -> c_int {
    // SAFETY: the list's strings are those of the module, which end with a NUL.
    let said = |key| unsafe { params::string(params, key) };
    if said(c"st-phase").as_deref() == Some("Fail") {
        let kind = said(c"st-type").unwrap_or_default();
        let what = said(c"st-desc").unwrap_or_default();
        // SAFETY: the address of a mutex that outlives the callback.
        let failed = unsafe { &*place.cast_const().cast::<Mutex<Option<String>>>() };
        failed
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .get_or_insert(format!("{kind} ({what})"));
    }
    1
}

/// Loads `fips` into `context` without a configuration; `config` is where there is none.
fn load_bare_fips(
    library: &'static Library,
    context: *mut OSSL_LIB_CTX,
    config: Option<&Path>,
) -> std::result::Result<(), String> {
    let api = &library.api;
    let quiet = Quiet::new(api);
    // SAFETY: the context is ours, the name a C string.
    if unsafe { (api.OSSL_PROVIDER_load)(context, c"fips".as_ptr()) }.is_null() {
        let cause = quiet.cause().unwrap_or_else(|| quiet.reason());
        return Err(match config {
            Some(config) if library.has_fips_module() => format!(
                "its module needs {} ({cause}), which `openssl fipsinstall` writes",
                config.display()
            ),
            _ => format!("it does not load ({cause})"),
        });
    }
    // SAFETY: as above. `base` has what is not cryptography; nothing fails without it.
    unsafe { (api.OSSL_PROVIDER_load)(context, c"base".as_ptr()) };
    Ok(())
}

/// Activates `fips` in `context` with the host's fipsmodule.cnf, and nothing else of the host's
/// configuration (which may name providers that call us).
fn configure_fips(
    library: &'static Library,
    context: *mut OSSL_LIB_CTX,
    module: &Path,
) -> std::result::Result<(), String> {
    let quiet = Quiet::new(&library.api);
    let config = format!(
        "openssl_conf = init\n.include {}\n[init]\nproviders = providers\n[providers]\n\
         fips = fips_sect\nbase = base_sect\n[base_sect]\nactivate = 1\n",
        module.display()
    );
    // SAFETY: the name is a C string; the descriptor is new and ours.
    let mut file = unsafe {
        let fd = libc::memfd_create(c"openssl.cnf".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            return Err("no memfd for its configuration".into());
        }
        <std::fs::File as std::os::fd::FromRawFd>::from_raw_fd(fd)
    };
    file.write_all(config.as_bytes())
        .map_err(|error| error.to_string())?;
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .map_err(|error| error.to_string())?;
    // SAFETY: the context is ours; the path is a C string.
    let done = unsafe { (library.api.OSSL_LIB_CTX_load_config)(context, path.as_ptr()) };
    // SAFETY: as above.
    let there = unsafe { (library.api.OSSL_PROVIDER_available)(context, c"fips".as_ptr()) };
    if done == 1 && there == 1 {
        Ok(())
    } else {
        Err(format!(
            "{} does not activate its module{}",
            module.display(),
            quiet
                .cause()
                .map_or_else(String::new, |cause| format!(" ({cause})"))
        ))
    }
}
