//! A session: one algorithm, one key, one engine, opened once, and moved when the engine fails.

mod one_message;
mod padding;
mod pieces;
mod unchecked;

use crate::choose::{self, Choice, Reason};
use crate::engine::{Derivation, Digest, Direction, Engine, Hardware, Key, Parameters, Spec, Work};
use crate::engines::kernel::{self, Adopted};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::pair;
use crate::preferences;
use crate::secret::Secret;
use crate::selftest;
use crate::sys::buffer::{Input, Output};
use crate::table::{self, Algorithm, Kind};
use arc_swap::{ArcSwap, ArcSwapOption};
use one_message::OneMessage;
pub use padding::{pad, unpad};
pub use pieces::{Pieces, Place};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
pub use unchecked::Unchecked;

/// What a caller asks for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The algorithm's name or alias.
    pub algorithm: String,
    /// The key.
    pub key: Key,
    /// The parameters.
    pub parameters: Parameters,
    /// This engine and no other.
    pub engine: Option<String>,
    /// This driver and no other.
    pub driver: Option<String>,
    /// On hardware or not.
    pub hardware: Hardware,
    /// In a validated module only.
    pub fips: bool,
}

/// The engine that serves now.
struct Active {
    engine: &'static dyn Engine,
    work: Work,
    driver: String,
    driver_certain: bool,
    hardware: bool,
    fips: bool,
    /// How often the session has moved before this one.
    generation: u64,
    /// Why not the others.
    reasons: Vec<Reason>,
    /// Those that failed under the session before this one.
    failed: Vec<Reason>,
    /// Another engine, for single requests that are beyond this one.
    spare: ArcSwapOption<Active>,
}

impl Active {
    fn new(choice: Choice, generation: u64, failed: Vec<Reason>) -> Arc<Active> {
        Arc::new(Active {
            engine: choice.engine,
            work: choice.opened.work,
            driver: choice.opened.driver,
            driver_certain: choice.opened.driver_certain,
            hardware: choice.opened.hardware,
            fips: choice.opened.fips,
            generation,
            reasons: choice.reasons,
            failed,
            spare: ArcSwapOption::empty(),
        })
    }
}

/// How often a session did what. Laid out as it stands: it may lie in memory that outlives the process.
#[repr(C)]
#[derive(Default)]
pub struct Counters {
    /// Requests that were done.
    pub operations: AtomicU64,
    /// Bytes that they were about.
    pub bytes: AtomicU64,
    /// Requests that were refused.
    pub refused: AtomicU64,
    /// Requests that another engine did.
    pub elsewhere: AtomicU64,
}

/// Counters that lie elsewhere.
pub type Tally = Arc<dyn AsRef<Counters> + Send + Sync>;

/// How often a session did what, read at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that were done.
    pub operations: u64,
    /// Bytes of payload that went in.
    pub bytes: u64,
    /// Requests that were refused (a bad tag among them).
    pub refused: u64,
    /// Requests that another engine did because they were beyond this one.
    pub elsewhere: u64,
    /// How often the session moved to another engine.
    pub moved: u64,
}

/// What `info()` tells.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Info {
    pub algorithm: &'static Algorithm,
    pub engine: &'static str,
    pub driver: String,
    /// Whether the driver is a fact or only the likely one.
    pub driver_certain: bool,
    pub hardware: bool,
    pub fips: bool,
    pub reasons: Vec<Reason>,
    pub tag_size: usize,
    pub digest_size: usize,
    pub key_size: usize,
    /// Of an asymmetric key.
    pub pair: Option<pair::Facts>,
    pub counts: Counts,
}

/// One algorithm, one key, one engine.
pub struct Session {
    spec: Spec,
    pair: Option<pair::Facts>,
    engine: Option<String>,
    /// Without a lock: the child of a fork would wait for whichever thread held it.
    active: ArcSwap<Active>,
    counters: Counters,
    tally: OnceLock<Tally>,
    one_message: OneMessage,
}

impl Session {
    /// Validates the request against the table and opens it with the first engine that can.
    pub fn open(request: Request) -> Result<Arc<Session>> {
        let algorithm = table::find(&request.algorithm)?;
        let mut spec = Spec {
            algorithm,
            key: request.key,
            parameters: request.parameters,
            driver: request.driver,
            hardware: request.hardware,
            fips: request.fips,
        };
        if algorithm.kind == Kind::Streaming {
            return Err(Error::unsupported(format!(
                "{} is a format of files and pipes: cryptofd.streaming, or cryptofd encrypt",
                algorithm.name
            )));
        }
        validate(&spec)?;
        let pair = pair::settle(&mut spec)?;
        let choice = choose::open(&spec, request.engine.as_deref(), &[])?;
        Ok(Session::of(spec, pair, request.engine, choice))
    }

    fn of(
        spec: Spec,
        pair: Option<pair::Facts>,
        engine: Option<String>,
        choice: Choice,
    ) -> Arc<Session> {
        Arc::new(Session {
            one_message: OneMessage::of(spec.algorithm),
            spec,
            pair,
            engine,
            active: ArcSwap::new(Active::new(choice, 0, Vec::new())),
            counters: Counters::default(),
            tally: OnceLock::new(),
        })
    }

    /// A second session for short messages, where this one's engine was chosen for being faster at long
    /// ones only (the table's `faster`).
    pub fn for_short(&self) -> Option<Arc<Session>> {
        if self.engine.is_some() || self.spec.driver.is_some() {
            return None;
        }
        let faster = preferences::current()
            .ok()?
            .faster(self.spec.algorithm.name)?;
        if self.active.load().engine.name() != faster.engine {
            return None;
        }
        let passed = Reason {
            engine: faster.engine,
            why: "faster at long messages only".to_owned(),
        };
        let choice = choose::open(&self.spec, None, &[passed]).ok()?;
        if choice.engine.name() != crate::engines::all().first()?.name() {
            return None;
        }
        Some(Session::of(self.spec.clone(), None, None, choice))
    }

    /// An AF_ALG operation socket with the key in the kernel, to be given away, and its driver. Whoever holds
    /// it uses the key in both directions, cannot read it, and cannot be stopped.
    pub fn give_away(mut request: Request) -> Result<(OwnedFd, String)> {
        request.engine = Some("kernel".to_owned());
        // Opened first, so that all that holds of a session holds of the socket: constraints, policy, tests.
        let session = Session::open(request)?;
        kernel::operation(&session.spec)
    }

    /// A session over an AF_ALG socket that another process made: a bound one, or an operation socket.
    /// The key stays in the kernel, so the session never leaves the engine `kernel`. The socket cannot say
    /// what it computes: EINVAL if it turns out to be something else.
    pub fn adopt(fd: OwnedFd, algorithm: &str, parameters: Parameters) -> Result<Arc<Session>> {
        Session::open(Request {
            algorithm: algorithm.to_owned(),
            key: Key::Adopted(Adopted::new(fd)?),
            parameters,
            engine: Some("kernel".to_owned()),
            ..Request::default()
        })
    }

    /// The algorithm.
    pub fn algorithm(&self) -> &'static Algorithm {
        self.spec.algorithm
    }

    /// All that the engine was told.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Bytes of the tag.
    pub fn tag_size(&self) -> usize {
        self.spec.tag_size()
    }

    /// Bytes of the digest; for a MAC, of the tag.
    pub fn digest_size(&self) -> usize {
        match self.spec.algorithm.kind {
            Kind::Mac => self.spec.tag_size(),
            _ => self.spec.digest_size(),
        }
    }

    /// Engine, driver, reasons, counts.
    pub fn info(&self) -> Info {
        let active = self.active.load();
        let counters = self.counters();
        let spare = active.spare.load();
        let more = spare.iter().flat_map(|spare| &spare.reasons);
        Info {
            algorithm: self.spec.algorithm,
            engine: active.engine.name(),
            driver: active.driver.clone(),
            driver_certain: active.driver_certain,
            hardware: active.hardware,
            fips: active.fips,
            reasons: active.reasons.iter().chain(more).cloned().collect(),
            tag_size: self.tag_size(),
            digest_size: self.digest_size(),
            key_size: self.spec.key.bytes().map_or(0, <[u8]>::len),
            pair: self.pair.clone(),
            counts: Counts {
                operations: counters.operations.load(Ordering::Relaxed),
                bytes: counters.bytes.load(Ordering::Relaxed),
                refused: counters.refused.load(Ordering::Relaxed),
                elsewhere: counters.elsewhere.load(Ordering::Relaxed),
                moved: active.generation,
            },
        }
    }

    /// What is known of an asymmetric key.
    pub(crate) fn pair(&self) -> Option<&pair::Facts> {
        self.pair.as_ref()
    }

    /// Counts in `tally` from now on; once.
    pub fn count_in(&self, tally: Tally) {
        let _ = self.tally.set(tally);
    }

    fn counters(&self) -> &Counters {
        self.tally
            .get()
            .map_or(&self.counters, |tally| (**tally).as_ref())
    }

    /// Counts a request that was refused before it came here.
    pub fn count_refused(&self) {
        self.counters().refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request.
    pub(crate) fn count<T>(&self, bytes: usize, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => {
                let counters = self.counters();
                counters.operations.fetch_add(1, Ordering::Relaxed);
                counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            Err(_) => {
                self.counters().refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        result
    }

    /// Runs `f` on the active engine; moves and repeats when it fails; asks the spare for what is beyond it.
    pub(crate) fn run<T>(&self, mut f: impl FnMut(&Work) -> Result<T>) -> Result<T> {
        loop {
            let active = self.active.load();
            let error = match f(&active.work) {
                Err(error) => error,
                done => return done,
            };
            match error.kind() {
                ErrorKind::EngineFailed => {
                    let generation = active.generation;
                    drop(active);
                    self.move_on(generation, &error)?;
                }
                ErrorKind::Elsewhere => {
                    let spare = self.spare(&active, &error)?;
                    self.counters().elsewhere.fetch_add(1, Ordering::Relaxed);
                    return f(&spare.work);
                }
                _ => return Err(error),
            }
        }
    }

    /// Serves by the engine of this name from now on. What runs (a hash, a stream) is finished where it was
    /// begun. Where it cannot serve, the session stays where it is.
    pub fn move_to(&self, engine: &str) -> Result<()> {
        if matches!(self.spec.key, Key::Adopted(_)) {
            return Err(Error::refused("a key in the kernel does not leave it"));
        }
        let choice = choose::open(&self.spec, Some(engine), &[])?;
        let generation = self.active.load().generation + 1;
        self.active
            .store(Active::new(choice, generation, Vec::new()));
        Ok(())
    }

    /// Leaves the engine of `generation` for the next one (unless another thread did already).
    fn move_on(&self, generation: u64, error: &Error) -> Result<()> {
        let active = self.active.load_full();
        if active.generation != generation {
            return Ok(());
        }
        if self.engine.is_some() || self.spec.driver.is_some() {
            return Err(Error::new(
                ErrorKind::NoEngine,
                error.errno(),
                format!(
                    "{error}; the session was opened for this engine only, so it does not fall back"
                ),
            ));
        }
        let mut failed = active.failed.clone();
        failed.push(Reason {
            engine: active.engine.name(),
            why: format!("failed under the session ({}): {error}", active.driver),
        });
        let choice = choose::open(&self.spec, None, &failed)?;
        let fresh = Active::new(choice, generation + 1, failed);
        // Of several threads that found out, the first decides.
        self.active.compare_and_swap(&active, fresh);
        Ok(())
    }

    /// Another engine for one request that is beyond the active one.
    fn spare(&self, active: &Active, error: &Error) -> Result<Arc<Active>> {
        if let Some(spare) = active.spare.load_full() {
            return Ok(spare);
        }
        let refused = |more: &str| Error::too_large(format!("{}{more}", error.message()));
        if self.engine.is_some() || self.spec.driver.is_some() {
            return Err(refused("; the session was opened for this engine only"));
        }
        let mut without = active.failed.clone();
        without.push(Reason {
            engine: active.engine.name(),
            why: error.message().to_owned(),
        });
        let mut choice = choose::open(&self.spec, None, &without)
            .map_err(|_| refused("; and no other engine can do it"))?;
        choice.reasons = vec![Reason {
            engine: choice.engine.name(),
            why: format!("did a request that was beyond {}: {error}", active.driver),
        }];
        let fresh = Active::new(choice, 0, Vec::new());
        active
            .spare
            .compare_and_swap(&None::<Arc<Active>>, Some(fresh.clone()));
        Ok(fresh)
    }

    /// Says that the active engine gave a wrong answer: quarantine, and the next one.
    pub fn distrust(&self, why: &str) -> Result<()> {
        let active = self.active.load();
        let name = self.spec.algorithm.name;
        selftest::quarantine(active.engine.name(), &active.driver, name, why);
        let error = Error::engine_failed(libc::EIO, why.to_owned());
        self.move_on(active.generation, &error)
    }

    fn is(&self, kind: Kind, what: &str) -> Result<()> {
        if self.spec.algorithm.kind == kind {
            Ok(())
        } else {
            Err(self.not_this(what))
        }
    }

    pub(crate) fn not_this(&self, what: &str) -> Error {
        Error::unsupported(format!(
            "{} is a {}: it does not {what}",
            self.spec.algorithm.name,
            self.spec.algorithm.kind.name()
        ))
    }

    fn check_iv(&self, iv: &[u8]) -> Result<()> {
        let sizes = self.spec.algorithm.iv;
        if sizes.contains(iv.len()) {
            Ok(())
        } else if sizes.max == 0 {
            Err(Error::invalid(format!(
                "{} takes no iv",
                self.spec.algorithm.name
            )))
        } else {
            Err(Error::invalid(format!(
                "iv of {} bytes: {} takes {}",
                iv.len(),
                self.spec.algorithm.name,
                sizes
            )))
        }
    }

    fn check_length(&self, length: usize) -> Result<()> {
        let algorithm = self.spec.algorithm;
        let length = length as u64;
        if length > algorithm.max_message {
            return Err(Error::too_large(format!(
                "{length} bytes: {} takes at most {} in one message",
                algorithm.name, algorithm.max_message
            )));
        }
        if length < algorithm.min_message {
            return Err(Error::invalid(format!(
                "{length} bytes: {} takes at least {} in one message",
                algorithm.name, algorithm.min_message
            )));
        }
        Ok(())
    }

    /// CCM's length field shares 15 bytes with the nonce (SP 800-38C, A.1).
    fn check_aead_length(&self, iv: &[u8], length: usize) -> Result<()> {
        self.check_length(length)?;
        let most = match 15usize.saturating_sub(iv.len()) {
            field @ ..8 => (1u64 << (8 * field)) - 1,
            _ => u64::MAX,
        };
        if length as u64 > most && self.spec.algorithm.template() == "ccm" {
            return Err(Error::too_large(format!(
                "{length} bytes: ccm(aes) with an iv of {} bytes takes at most {most}",
                iv.len(),
            )));
        }
        Ok(())
    }

    /// AEAD: `out` is `data` plus the tag long.
    pub fn seal(&self, iv: &[u8], aad: Input<'_>, data: Input<'_>, out: Output<'_>) -> Result<()> {
        self.is(Kind::Aead, "encrypt with a tag")?;
        self.check_iv(iv)?;
        self.check_aead_length(iv, data.len())?;
        check_output(out.len(), data.len() + self.tag_size())?;
        check_overlap(data, out)?;
        let done = self.run(|work| match work {
            Work::Aead(aead) => aead.seal(iv, aad, data, out),
            _ => Err(self.not_this("encrypt with a tag")),
        });
        self.count(data.len(), done)
    }

    /// AEAD: `out` is `data` less the tag long, and wiped if the tag does not verify.
    pub fn unseal(
        &self,
        iv: &[u8],
        aad: Input<'_>,
        data: Input<'_>,
        out: Output<'_>,
    ) -> Result<()> {
        self.is(Kind::Aead, "decrypt with a tag")?;
        self.check_iv(iv)?;
        let Some(length) = data.len().checked_sub(self.tag_size()) else {
            return Err(Error::invalid(format!(
                "{} bytes: shorter than the tag of {} bytes",
                data.len(),
                self.tag_size()
            )));
        };
        self.check_aead_length(iv, length)?;
        check_output(out.len(), length)?;
        check_overlap(data, out)?;
        let done = self.run(|work| match work {
            Work::Aead(aead) => aead.unseal(iv, aad, data, out),
            _ => Err(self.not_this("decrypt with a tag")),
        });
        self.count(data.len(), done)
    }

    /// Bytes that a cipher's output may take: the input's, and a block of padding when encrypting.
    pub fn cipher_room(&self, direction: Direction, length: usize) -> usize {
        let block = self.spec.algorithm.block;
        if self.spec.parameters.pkcs7 && direction == Direction::Encrypt {
            length - length % block + block
        } else {
            length
        }
    }

    /// Cipher: a whole message. `out` has `cipher_room` bytes; returns those that count.
    pub fn crypt(
        &self,
        direction: Direction,
        iv: &[u8],
        data: Input<'_>,
        out: Output<'_>,
    ) -> Result<usize> {
        self.is(Kind::Cipher, "encrypt or decrypt")?;
        self.check_iv(iv)?;
        self.check_length(data.len())?;
        self.check_counter(iv, data.len())?;
        check_output(out.len(), self.cipher_room(direction, data.len()))?;
        check_overlap(data, out)?;
        let done = if self.spec.parameters.pkcs7 {
            self.crypt_padded(direction, iv, data, out)
        } else {
            self.check_blocks(data.len())?;
            self.run(|work| match work {
                Work::Cipher(cipher) => cipher.once(direction, iv, data, out),
                _ => Err(self.not_this("encrypt or decrypt")),
            })
            .map(|()| data.len())
        };
        self.count(data.len(), done)
    }

    /// ChaCha20's counter has 32 bits (RFC 8439): beyond them the key stream would repeat.
    fn check_counter(&self, iv: &[u8], length: usize) -> Result<()> {
        let left = self.counter_room(iv);
        if length as u64 > left {
            return Err(counter_wraps(length, left));
        }
        Ok(())
    }

    /// Bytes until the counter in `iv` wraps.
    fn counter_room(&self, iv: &[u8]) -> u64 {
        match (self.spec.algorithm.name, iv.first_chunk::<4>()) {
            ("chacha20", Some(counter)) => {
                ((1 << 32) - u64::from(u32::from_le_bytes(*counter))) * 64
            }
            _ => u64::MAX,
        }
    }

    fn check_blocks(&self, length: usize) -> Result<()> {
        let algorithm = self.spec.algorithm;
        let free = algorithm.stream || algorithm.template() == "xts";
        if !free && length % algorithm.block != 0 {
            return Err(Error::invalid(format!(
                "{length} bytes: {} takes whole blocks of {} bytes{}",
                algorithm.name,
                algorithm.block,
                if algorithm.pkcs7 {
                    " (or padding=\"pkcs7\")"
                } else {
                    ""
                }
            )));
        }
        Ok(())
    }

    fn crypt_padded(
        &self,
        direction: Direction,
        iv: &[u8],
        data: Input<'_>,
        out: Output<'_>,
    ) -> Result<usize> {
        let block = self.spec.algorithm.block;
        match direction {
            Direction::Encrypt => {
                let (whole, rest) = data.split_at(data.len() - data.len() % block);
                let mut last = [0u8; 64];
                rest.copy_to(&mut last[..rest.len()]);
                pad(&mut last[..block], rest.len());
                self.run(|work| {
                    let Work::Cipher(cipher) = work else {
                        return Err(self.not_this("encrypt or decrypt"));
                    };
                    let (head, tail) = out.split_at(whole.len());
                    let mut stream = cipher.begin(direction, iv)?;
                    if !whole.is_empty() {
                        stream.update(whole, head, false)?;
                    }
                    stream.update(Input::from(&last[..block]), tail, true)
                })?;
                Ok(out.len())
            }
            Direction::Decrypt => {
                if data.is_empty() || data.len() % block != 0 {
                    return Err(Error::invalid(format!(
                        "{} bytes: padded {} is one or more blocks of {block} bytes",
                        data.len(),
                        self.spec.algorithm.name
                    )));
                }
                self.run(|work| match work {
                    Work::Cipher(cipher) => cipher.once(direction, iv, data, out),
                    _ => Err(self.not_this("encrypt or decrypt")),
                })?;
                let mut last = [0u8; 64];
                let (_, tail) = out.split_at(out.len() - block);
                tail.as_input().copy_to(&mut last[..block]);
                match unpad(&last[..block]) {
                    Some(kept) => Ok(out.len() - block + kept),
                    None => {
                        out.wipe();
                        Err(bad_padding())
                    }
                }
            }
        }
    }

    /// Cipher: a message in pieces.
    pub fn stream(self: &Arc<Self>, direction: Direction, iv: &[u8]) -> Result<Stream> {
        match self.spec.algorithm.kind {
            Kind::Cipher => {}
            Kind::Aead => {
                return Err(Error::unsupported(format!(
                    "{} releases nothing before its tag verifies, so it has no stream(); \
                     aes256-gcm-hkdf-1mb is made for streams",
                    self.spec.algorithm.name
                )));
            }
            _ => return Err(self.not_this("stream")),
        }
        if self.spec.algorithm.template() == "xts" {
            return Err(Error::unsupported(
                "xts(aes) works on whole data units: use encrypt() and decrypt() with one iv each",
            ));
        }
        Ok(Stream {
            pieces: self.pieces(direction, iv)?,
            session: self.clone(),
            direction,
            held: Vec::new(),
            closed: false,
        })
    }

    /// Cipher: whole blocks of a message, as they come, for a caller that cuts and pads by itself.
    pub fn pieces(self: &Arc<Self>, direction: Direction, iv: &[u8]) -> Result<Pieces> {
        self.is(Kind::Cipher, "stream")?;
        self.check_iv(iv)?;
        Ok(Pieces::new(self, direction, iv))
    }

    /// AEAD: a message in pieces, whose plaintext is given before the tag was seen. That is what OpenSSL's
    /// interface asks for, and for a program's own keys in the program only: nothing that the broker serves
    /// comes here.
    pub fn unchecked(self: &Arc<Self>, direction: Direction, iv: &[u8]) -> Result<Unchecked> {
        self.is(Kind::Aead, "encrypt with a tag")?;
        self.check_iv(iv)?;
        let state = self.run(|work| match work {
            Work::Aead(aead) => aead.begin(direction, iv),
            _ => Err(self.not_this("encrypt with a tag")),
        })?;
        Ok(Unchecked {
            session: self.clone(),
            state,
            length: 0,
        })
    }

    /// Hash, XOF or MAC: all at once into `out` (a MAC's or hash's size; any, for an XOF). EPERM for a
    /// second message under a key and nonce that authenticate one.
    pub fn digest(&self, data: Input<'_>, out: &mut [u8]) -> Result<()> {
        let result = self.one_message.tag(&mut false, || {
            self.cut(out, |out| {
                self.run(|work| match work {
                    Work::Hashing(hashing) => hashing.once(data, out),
                    _ => Err(self.not_this("digest")),
                })
            })
        });
        self.count(data.len(), result)
    }

    /// Gives `f` room for the whole digest, and cuts a MAC to its tag.
    fn cut(&self, out: &mut [u8], f: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        match self.spec.algorithm.kind {
            Kind::Mac if out.len() < self.spec.algorithm.digest => {
                let mut whole = zeroize::Zeroizing::new([0u8; 64]);
                let whole = &mut whole[..self.spec.algorithm.digest];
                f(whole)?;
                out.copy_from_slice(&whole[..out.len()]);
                Ok(())
            }
            _ => f(out),
        }
    }

    /// Hash, XOF or MAC: a message in pieces. EPERM as for `digest`.
    pub fn hasher(self: &Arc<Self>) -> Result<Hasher> {
        match self.spec.algorithm.kind {
            Kind::Hash | Kind::Xof | Kind::Mac => {}
            _ => return Err(self.not_this("digest")),
        }
        self.one_message.open()?;
        let (state, generation) = self.begin()?;
        Ok(Hasher {
            session: self.clone(),
            state,
            generation,
            length: 0,
            tagged: false,
        })
    }

    fn begin(&self) -> Result<(Box<dyn Digest>, u64)> {
        let state = self.run(|work| match work {
            Work::Hashing(hashing) => hashing.begin(),
            _ => Err(self.not_this("digest")),
        })?;
        Ok((state, self.active.load().generation))
    }

    /// Key wrap.
    pub fn wrap(&self, key: &[u8]) -> Result<Vec<u8>> {
        self.is(Kind::Wrap, "wrap")?;
        let template = self.spec.algorithm.template();
        self.check_length(key.len())?;
        if template == "kw" && key.len() % 8 != 0 {
            return Err(Error::invalid(format!(
                "{} bytes: kw(aes) wraps multiples of 8 bytes, at least 16; kwp(aes) wraps any",
                key.len()
            )));
        }
        let done = self.run(|work| match work {
            Work::Wrap(wrap) => wrap.wrap(key),
            _ => Err(self.not_this("wrap")),
        });
        self.count(key.len(), done)
    }

    /// Key unwrap; EBADMSG if the wrapped key does not verify.
    pub fn unwrap(&self, wrapped: &[u8]) -> Result<Secret> {
        self.is(Kind::Wrap, "unwrap")?;
        let least = if self.spec.algorithm.template() == "kw" {
            24
        } else {
            16
        };
        if wrapped.len() < least || wrapped.len() % 8 != 0 {
            return Err(Error::invalid(format!(
                "{} bytes: a key wrapped by {} has a multiple of 8 bytes, at least {least}",
                wrapped.len(),
                self.spec.algorithm.name
            )));
        }
        let done = self.run(|work| match work {
            Work::Wrap(wrap) => wrap.unwrap(wrapped),
            _ => Err(self.not_this("unwrap")),
        });
        self.count(wrapped.len(), done)
    }

    /// KDF: fills `out`.
    pub fn derive(&self, with: &Derivation<'_>, out: &mut [u8]) -> Result<()> {
        self.is(Kind::Kdf, "derive")?;
        let algorithm = self.spec.algorithm;
        if out.is_empty() {
            return Err(Error::invalid("0 bytes: derive at least 1"));
        }
        self.check_length(out.len())?;
        match algorithm.template() {
            "pbkdf2" if with.iterations == 0 => {
                return Err(Error::invalid("iterations=0: pbkdf2 takes at least 1"));
            }
            "kdf108-ctr" if !with.salt.is_empty() => {
                return Err(Error::invalid(format!(
                    "salt=: {} takes info, its fixed input, and no salt",
                    algorithm.name
                )));
            }
            "scrypt" => check_scrypt(with)?,
            _ => {}
        }
        let done = self.run(|work| match work {
            Work::Kdf(kdf) => kdf.derive(with, out),
            _ => Err(self.not_this("derive")),
        });
        self.count(out.len(), done)
    }

    /// RNG: fills `out`.
    pub fn random(&self, out: &mut [u8]) -> Result<()> {
        self.is(Kind::Rng, "give random bytes")?;
        let done = self.run(|work| match work {
            Work::Random(random) => random.fill(out),
            _ => Err(self.not_this("give random bytes")),
        });
        self.count(out.len(), done)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let active = self.active.load();
        write!(
            f,
            "Session({} by {})",
            self.spec.algorithm.name, active.driver
        )
    }
}

/// scrypt's own rules (RFC 7914), and a bound on memory that a typing error would not survive.
fn check_scrypt(with: &Derivation<'_>) -> Result<()> {
    const MOST: u64 = 1 << 32;
    if with.n < 2 || !with.n.is_power_of_two() || with.r == 0 || with.p == 0 {
        return Err(Error::invalid(format!(
            "n={} r={} p={}: scrypt takes n a power of two above 1, r and p at least 1",
            with.n, with.r, with.p
        )));
    }
    let memory = with
        .n
        .checked_mul(128)
        .and_then(|m| m.checked_mul(u64::from(with.r)));
    // Libraries hold 128 r p bytes beside it.
    if memory.is_none_or(|m| m > MOST) || u64::from(with.r) * u64::from(with.p) * 128 > MOST {
        return Err(Error::too_large(format!(
            "n={} r={} p={}: scrypt may use at most {MOST} bytes of memory (128 n r, and 128 r p)",
            with.n, with.r, with.p
        )));
    }
    Ok(())
}

fn counter_wraps(length: usize, left: u64) -> Error {
    Error::too_large(format!(
        "{length} bytes: chacha20 has {left} from this counter on, then its key stream repeats"
    ))
}

fn check_output(has: usize, needs: usize) -> Result<()> {
    if has == needs {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "an output of {has} bytes where {needs} are needed"
        )))
    }
}

fn check_overlap(data: Input<'_>, out: Output<'_>) -> Result<()> {
    if out.overlaps_partly(data) {
        return Err(Error::invalid(
            "input and output overlap in part: use the same buffer or two",
        ));
    }
    Ok(())
}

fn bad_padding() -> Error {
    Error::new(
        ErrorKind::BadTag,
        libc::EBADMSG,
        "the padding is wrong: wrong key or iv, or the data was changed",
    )
}

/// All that is refused before any engine is asked.
fn validate(spec: &Spec) -> Result<()> {
    let algorithm = spec.algorithm;
    let name = algorithm.name;
    match &spec.key {
        // What these must be, pair::settle() says.
        Key::Bytes(_) | Key::None if algorithm.kind == Kind::Pair => {}
        Key::None if algorithm.takes_key() && algorithm.key.min > 0 => {
            return Err(Error::invalid(format!(
                "{name} needs a key of {}",
                algorithm.key
            )));
        }
        Key::None | Key::Serial(_) | Key::Adopted(_) => {}
        Key::Bytes(_) if !algorithm.takes_key() => {
            return Err(Error::invalid(format!("{name} takes no key")));
        }
        Key::Bytes(key) if !algorithm.key.contains(key.len()) => {
            return Err(Error::invalid(format!(
                "a key of {} bytes: {name} takes {}",
                key.len(),
                algorithm.key
            )));
        }
        Key::Bytes(key) => {
            if algorithm.template() == "xts" {
                let (one, two) = key.expose().split_at(key.len() / 2);
                if crate::secret::equal(one, two) {
                    return Err(Error::invalid(
                        "the two halves of an xts(aes) key must differ (FIPS 140 IG C.I)",
                    ));
                }
            }
        }
    }
    let parameters = &spec.parameters;
    if let Some(tag) = parameters.tag_size {
        if !algorithm.tag_sizes.contains(&tag) {
            return Err(if algorithm.tag_sizes.is_empty() {
                Error::invalid(format!("tag_size={tag}: {name} has no tag"))
            } else {
                Error::invalid(format!(
                    "tag_size={tag}: {name} takes {:?} bytes",
                    algorithm.tag_sizes
                ))
            });
        }
    }
    if let Some(size) = parameters.digest_size {
        if algorithm.digest_sizes.max == 0 || !algorithm.digest_sizes.contains(size) {
            return Err(Error::invalid(if algorithm.digest_sizes.max == 0 {
                format!("digest_size={size}: {name} has one size only")
            } else {
                format!(
                    "digest_size={size}: {name} takes {}",
                    algorithm.digest_sizes
                )
            }));
        }
    }
    if parameters.pkcs7 && !algorithm.pkcs7 {
        return Err(Error::invalid(format!(
            "padding=\"pkcs7\": {name} has no padding"
        )));
    }
    let nonce_at_open = algorithm.kind == Kind::Mac && algorithm.iv.max > 0;
    if nonce_at_open && !algorithm.iv.contains(parameters.iv.len()) {
        return Err(Error::invalid(format!(
            "iv of {} bytes: {name} takes {} when it is opened",
            parameters.iv.len(),
            algorithm.iv
        )));
    }
    if !nonce_at_open && !parameters.iv.is_empty() {
        return Err(Error::invalid(format!(
            "iv= when opening: {name} takes its iv with each message, or none"
        )));
    }
    if let Some(blake2) = &parameters.blake2 {
        if algorithm.salt == 0 {
            return Err(Error::invalid(format!("{name} takes no BLAKE2 parameters")));
        }
        let most = |what: &str, size: usize, most: usize| {
            if size > most {
                Err(Error::invalid(format!(
                    "{what} of {size}: {name} takes at most {most}"
                )))
            } else {
                Ok(())
            }
        };
        most("a salt", blake2.salt.len(), algorithm.salt)?;
        most("a person", blake2.person.len(), algorithm.person)?;
        most("an inner_size", blake2.inner_size.into(), algorithm.digest)?;
        if algorithm.digest == 32 && blake2.node_offset >= 1 << 48 {
            return Err(Error::invalid("node_offset: blake2s takes less than 2^48"));
        }
        if blake2.depth == 0 {
            return Err(Error::invalid("depth: 1 to 255"));
        }
    }
    Ok(())
}

/// A running hash or MAC of a session.
pub struct Hasher {
    session: Arc<Session>,
    state: Box<dyn Digest>,
    generation: u64,
    length: u64,
    /// Whether it holds the one message, tagged, of an algorithm that authenticates one only.
    tagged: bool,
}

impl Hasher {
    /// The session.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Takes more input.
    pub fn update(&mut self, data: Input<'_>) -> Result<()> {
        if !data.is_empty() {
            self.session.one_message.open()?;
        }
        loop {
            match self.state.update(data) {
                Ok(()) => {
                    self.length += data.len() as u64;
                    let bytes = &self.session.counters().bytes;
                    bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) => self.recover(error)?,
            }
        }
    }

    /// A stream that has taken nothing begins again on the next engine; another's state is lost.
    fn recover(&mut self, error: Error) -> Result<()> {
        if error.kind() != ErrorKind::EngineFailed {
            return Err(error);
        }
        self.session.move_on(self.generation, &error)?;
        if self.length > 0 {
            return Err(Error::stale(format!(
                "{error}; {} bytes were taken and their state is lost with the engine: begin again",
                self.length
            )));
        }
        let (state, generation) = self.session.begin()?;
        self.state = state;
        self.generation = generation;
        Ok(())
    }

    /// The digest of what was taken so far; the hasher goes on.
    pub fn peek(&mut self, out: &mut [u8]) -> Result<()> {
        match self.state.fork() {
            Ok(mut copy) => {
                let session = &self.session;
                let done = session.one_message.tag(&mut self.tagged, || {
                    session.cut(out, |out| copy.finish(out))
                });
                session.count(0, done)
            }
            Err(error) => Err(error),
        }
    }

    /// The digest; the hasher begins again.
    pub fn finish(&mut self, out: &mut [u8]) -> Result<()> {
        let session = self.session.clone();
        let mut tagged = self.tagged;
        let done = session.one_message.tag(&mut tagged, || {
            loop {
                match session.cut(out, |out| self.state.finish(out)) {
                    Ok(()) => return Ok(()),
                    Err(error) => self.recover(error)?,
                }
            }
        });
        session.count(0, done)?;
        self.begin_again()
    }

    /// Back to the beginning.
    pub fn reset(&mut self) -> Result<()> {
        self.session.one_message.open()?;
        self.begin_again()
    }

    fn begin_again(&mut self) -> Result<()> {
        self.tagged = false;
        self.length = 0;
        loop {
            match self.state.reset() {
                Ok(()) => return Ok(()),
                Err(error) => self.recover(error)?,
            }
        }
    }

    /// An independent copy. Of two copies of an algorithm that authenticates one message, the first that
    /// gives a tag is the only one that does.
    pub fn fork(&self) -> Result<Hasher> {
        self.session.one_message.open()?;
        Ok(Hasher {
            session: self.session.clone(),
            state: self.state.fork()?,
            generation: self.generation,
            length: self.length,
            tagged: false,
        })
    }

    /// Bytes taken since the beginning.
    pub fn length(&self) -> u64 {
        self.length
    }
}

/// A running cipher of a session.
///
/// The engine sees whole blocks; what is left over waits here.
pub struct Stream {
    session: Arc<Session>,
    direction: Direction,
    pieces: Pieces,
    held: Vec<u8>,
    closed: bool,
}

impl Stream {
    /// Bytes that `update` of `length` bytes gives.
    pub fn room(&self, length: usize) -> usize {
        let block = self.session.spec.algorithm.block;
        // When unpadding, the last block must wait: it may be the padding.
        let keeps = self.session.spec.parameters.pkcs7 && self.direction == Direction::Decrypt;
        let total = self.held.len().saturating_add(length);
        let whole = total - total % block;
        if keeps && whole == total {
            whole.saturating_sub(block)
        } else {
            whole
        }
    }

    /// Bytes that `finish` may give at most.
    pub fn final_room(&self) -> usize {
        self.session.spec.algorithm.block.max(16)
    }

    /// Takes input and gives what is whole; returns the bytes of `out` that count.
    pub fn update(&mut self, data: Input<'_>, out: Output<'_>) -> Result<usize> {
        if self.closed {
            return Err(Error::invalid("the stream is finished: begin a new one"));
        }
        if out.len() < self.room(data.len()) {
            return Err(Error::invalid(format!(
                "an output of {} bytes where {} are needed",
                out.len(),
                self.room(data.len())
            )));
        }
        let block = self.session.spec.algorithm.block;
        let whole = self.room(data.len());
        if whole == 0 {
            self.held.extend_from_slice(&data.to_vec());
            return Ok(0);
        }
        let mut given = 0;
        let mut rest = data;
        if !self.held.is_empty() {
            let (fill, after) =
                rest.split_at(block.saturating_sub(self.held.len()).min(rest.len()));
            self.held.extend_from_slice(&fill.to_vec());
            rest = after;
            let mut first = zeroize::Zeroizing::new(std::mem::take(&mut self.held));
            let length = first.len();
            debug_assert_eq!(length, block);
            let mut result = zeroize::Zeroizing::new(vec![0u8; length]);
            self.pass(Input::from(&first[..]), Output::from(&mut result[..]))?;
            out.split_at(length).0.copy_from(&result);
            first.clear();
            given = length;
        }
        let (bulk, tail) = rest.split_at(whole - given);
        if !bulk.is_empty() {
            let (_, target) = out.split_at(given);
            let (target, _) = target.split_at(bulk.len());
            check_overlap(bulk, target)?;
            self.pass(bulk, target)?;
            given += bulk.len();
        }
        self.held.extend_from_slice(&tail.to_vec());
        let bytes = &self.session.counters().bytes;
        bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(given)
    }

    /// An error closes the stream.
    fn pass(&mut self, data: Input<'_>, out: Output<'_>) -> Result<()> {
        let passed = self.pieces.pass(data, out, false);
        self.closed |= passed.is_err();
        passed
    }

    /// Closes the message; returns the bytes of `out` that count.
    pub fn finish(&mut self, out: Output<'_>) -> Result<usize> {
        if self.closed {
            return Err(Error::invalid("the stream is finished: begin a new one"));
        }
        let room = self.final_room();
        if out.len() < room {
            return Err(Error::invalid(format!(
                "an output of {} bytes where {room} may be needed",
                out.len()
            )));
        }
        let session = self.session.clone();
        let done = self.close(out);
        session.count(0, done)
    }

    fn close(&mut self, out: Output<'_>) -> Result<usize> {
        let block = self.session.spec.algorithm.block;
        let mut held = zeroize::Zeroizing::new(std::mem::take(&mut self.held));
        if self.session.spec.parameters.pkcs7 {
            if self.direction == Direction::Encrypt {
                let used = held.len();
                held.resize(block, 0);
                pad(&mut held, used);
            } else if held.len() != block {
                self.closed = true;
                return Err(Error::invalid(format!(
                    "padded {} ends with a whole block of {block} bytes",
                    self.session.spec.algorithm.name
                )));
            }
        } else if !self.session.spec.algorithm.stream && !held.is_empty() {
            let left = held.len();
            self.held = held.to_vec();
            return Err(Error::invalid(format!(
                "{left} bytes beyond the last whole block: {} takes whole blocks of {block} bytes",
                self.session.spec.algorithm.name
            )));
        }
        let mut result = zeroize::Zeroizing::new(vec![0u8; held.len()]);
        if !held.is_empty() || self.pieces.begun() {
            self.closed = true;
            let (held, result) = (Input::from(&held[..]), Output::from(&mut result[..]));
            self.pieces.pass(held, result, true)?;
        }
        self.closed = true;
        let mut length = result.len();
        if self.session.spec.parameters.pkcs7 && self.direction == Direction::Decrypt {
            length = unpad(&result).ok_or_else(bad_padding)?;
        }
        out.split_at(length).0.copy_from(&result[..length]);
        Ok(length)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.held);
    }
}
