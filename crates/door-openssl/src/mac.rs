//! MACs (provider-mac(7)): HMAC, CMAC, GMAC, Poly1305, keyed BLAKE2.
//!
//! What the table lacks under one of these names (HMAC over another hash, CMAC over another cipher) is done by
//! the host's own implementation, so that nothing that worked without this provider fails with it; so is the MAC
//! of a TLS record in CBC mode, whose time must not depend on its padding.

use crate::context::Provider;
use crate::error::{Error, Reason, Result};
use crate::family;
use crate::ffi::host;
use crate::ffi::params::{Asked, Given, Own};
use crate::ffi::types::op;
use crate::mac_kept::Kept;
use crate::measure::Job;
use crate::names;
use crate::secret_key::{PARAMETER, SecretKey};
use crate::sessions;
use cryptofd_core::engine::{Blake2, Key, Parameters};
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{Hasher, Request, Session};
use cryptofd_core::sys::buffer::{Input, Output};
use cryptofd_core::table::{ALGORITHMS, Algorithm, Kind, find};
use std::sync::{Arc, OnceLock};

/// Which MAC, and what says the rest of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// HMAC: parameter `digest`.
    Digest,
    /// CMAC: parameter `cipher`.
    Cipher,
    /// GMAC: parameters `cipher` and `iv`.
    Nonce,
    /// Poly1305: nothing.
    Itself,
    /// BLAKE2: parameters `size`, `salt`, `custom`.
    Blake2,
}

/// One MAC.
pub struct Variant {
    /// OpenSSL's names.
    names: String,
    /// The chief of them.
    chief: &'static str,
    pub over: Over,
    /// The algorithm, where the name says all.
    algorithm: Option<&'static Algorithm>,
}

/// The MACs.
pub fn variants() -> &'static [Variant] {
    static ALL: OnceLock<Vec<Variant>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all: Vec<Variant> = Vec::new();
        for algorithm in ALGORITHMS {
            let (chief, names, over) = match algorithm.kind {
                Kind::Mac => {
                    let Some(name) = algorithm.openssl else {
                        continue;
                    };
                    let chief = name.split('/').next().unwrap_or(name);
                    let over = match algorithm.template() {
                        "hmac" => Over::Digest,
                        "cmac" => Over::Cipher,
                        "gmac" => Over::Nonce,
                        _ => Over::Itself,
                    };
                    let more = algorithm.openssl_aliases.iter();
                    let names: Vec<&str> = std::iter::once(chief).chain(more.copied()).collect();
                    (chief, names, over)
                }
                Kind::Hash => {
                    let Some(chief) = algorithm.openssl_mac.first() else {
                        continue;
                    };
                    (*chief, algorithm.openssl_mac.to_vec(), Over::Blake2)
                }
                _ => continue,
            };
            if all.iter().all(|known| known.chief != chief) {
                let whole = matches!(over, Over::Itself | Over::Blake2);
                all.push(Variant {
                    names: names.join(":"),
                    chief,
                    over,
                    algorithm: whole.then_some(algorithm),
                });
            }
        }
        all
    })
}

/// What is advertised.
pub fn algorithms() -> Vec<family::Algorithm> {
    let all = variants().iter().enumerate().map(|(place, variant)| {
        let functions = crate::ffi::mac::functions(place);
        let text = format!("cryptofd's {}", variant.chief);
        let job = Job::Mac(match variant.over {
            Over::Digest => &[(c"digest", "SHA2-256")],
            Over::Cipher => &[(c"cipher", "AES-256-CBC")],
            Over::Nonce => &[(c"cipher", "AES-256-GCM")],
            Over::Itself | Over::Blake2 => &[],
        });
        family::Algorithm::new(&variant.names, functions, &text).measured(Some(job), None)
    });
    all.collect()
}

/// Those that a key of the broker's works with.
pub fn by_reference() -> Vec<family::Algorithm> {
    let kept = |over| matches!(over, Over::Digest | Over::Cipher | Over::Nonce);
    family::by_reference(algorithms(), |place| kept(variants()[place].over))
}

impl Variant {
    /// Bytes of the tag, where the name says them.
    pub fn size(&self) -> Option<usize> {
        match self.over {
            Over::Nonce | Over::Itself => Some(16),
            _ => None,
        }
    }
}

/// Only the host's own implementation does it.
fn not_with_a_kept_key() -> Error {
    let text = "this digest or cipher: not with a key that the broker keeps";
    Error::new(Reason::UNSUPPORTED, text)
}

/// A MAC under way.
pub struct Running {
    pub variant: &'static Variant,
    algorithm: Option<&'static Algorithm>,
    /// Bytes of the key that the cipher's name asks for.
    key_size: Option<usize>,
    key: Option<Secret>,
    iv: Vec<u8>,
    blake2: Blake2,
    size: Option<usize>,
    session: Option<Arc<Session>>,
    hasher: Option<Hasher>,
    /// Whether it has taken or given something.
    used: bool,
    host: Option<host::Mac>,
    /// With a key of the broker's, a worker does it.
    kept: Option<Kept>,
}

impl Running {
    /// Not begun.
    pub fn new(variant: &'static Variant) -> Running {
        Running {
            variant,
            algorithm: variant.algorithm,
            key_size: None,
            key: None,
            iv: Vec::new(),
            blake2: Blake2::default(),
            size: None,
            session: None,
            hasher: None,
            used: false,
            host: None,
            kept: None,
        }
    }

    /// From now on the host's own implementation does it, begun with what is known so far.
    fn hand_over(&mut self, provider: &Provider) -> Result<()> {
        let name = self.variant.chief;
        if self.kept.is_some() {
            let text = format!("{name} over this: not with a key that the broker keeps");
            return Err(Error::new(Reason::UNSUPPORTED, text));
        }
        let found = provider.host(op::MAC, name).ok_or_else(|| {
            Error::new(
                Reason::UNKNOWN_ALGORITHM,
                format!(
                    "{name} over this is not in cryptofd's table, and no other provider has it"
                ),
            )
        })?;
        let mut host = found.mac()?;
        if self.variant.over == Over::Digest {
            if let Some(digest) = self.algorithm.and_then(Algorithm::hash) {
                let name = find(digest)?.openssl.unwrap_or(digest);
                let mut own = Own::default();
                own.text(c"digest", name);
                match &self.key {
                    Some(key) => host.init(Some(key.expose()), own.given())?,
                    None => host.set_params(own.given())?,
                }
            }
        }
        self.host = Some(host);
        Ok(())
    }

    /// Parameters of the program's.
    pub fn set_params(&mut self, provider: &Provider, params: Given<'_>) -> Result<()> {
        let named = params.find(PARAMETER);
        if named.is_some() {
            self.kept = None;
            self.host = None;
        }
        if let Some(host) = &mut self.host {
            return host.set_params(params);
        }
        let mut key = None;
        for value in params.iter() {
            match (value.key().to_bytes(), self.variant.over) {
                (b"digest", Over::Digest) => {
                    let hash = names::digest(value.text()?);
                    let hmac = hash.and_then(|hash| find(&format!("hmac({})", hash.name)).ok());
                    if hmac.is_none() {
                        self.hand_over(provider)?;
                    } else if self.algorithm.map(|a| a.name) != hmac.map(|a| a.name) {
                        self.algorithm = hmac;
                        self.fits_key()?;
                        self.session = None;
                        self.hasher = None;
                    }
                }
                (b"cipher", Over::Cipher | Over::Nonce) => {
                    let (mode, mac) = match self.variant.over {
                        Over::Cipher => ("cbc(aes)", "cmac(aes)"),
                        _ => ("gcm(aes)", "gmac(aes)"),
                    };
                    match names::cipher(value.text()?) {
                        Some((cipher, bits)) if cipher.name == mode => {
                            self.algorithm = Some(find(mac)?);
                            self.key_size = Some(bits / 8);
                            self.fits_key()?;
                            self.session = None;
                            self.hasher = None;
                        }
                        _ => self.hand_over(provider)?,
                    }
                }
                (b"tls-data-size", Over::Digest) if value.size()? > 0 => {
                    self.hand_over(provider)?;
                }
                (b"key", _) => key = Some(value.octets()?),
                (b"iv", Over::Nonce) => {
                    self.iv = value.octets()?.to_vec();
                    if let Some(kept) = &mut self.kept {
                        kept.begin(&self.iv);
                    }
                    self.session = None;
                    self.hasher = None;
                }
                (b"size", Over::Blake2) => {
                    let size = value.size()?;
                    let sizes = self.algorithm.map(|a| a.digest_sizes);
                    if !sizes.is_some_and(|sizes| sizes.contains(size)) {
                        return Err(Error::new(
                            Reason::NOT_XOF_OR_INVALID_LENGTH,
                            format!("size={size} of {}", self.variant.chief),
                        ));
                    }
                    self.size = Some(size);
                    self.session = None;
                }
                (b"custom", Over::Blake2) => {
                    self.blake2.person = value.octets()?.to_vec();
                    self.fits(self.blake2.person.len(), Reason::INVALID_CUSTOM_LENGTH)?;
                    self.session = None;
                }
                (b"salt", Over::Blake2) => {
                    self.blake2.salt = value.octets()?.to_vec();
                    self.fits(self.blake2.salt.len(), Reason::INVALID_SALT_LENGTH)?;
                    self.session = None;
                }
                _ => {}
            }
            if self.host.is_some() && named.is_some() {
                return Err(not_with_a_kept_key());
            }
            if let Some(host) = &mut self.host {
                return host.set_params(params);
            }
        }
        if let Some(value) = named {
            return self.keep(SecretKey::given(&value)?);
        }
        if let Some(key) = key {
            self.set_key(key)?;
            self.begin()?;
        }
        Ok(())
    }

    /// Takes a key of the broker's, and what it is for.
    fn keep(&mut self, key: Arc<SecretKey>) -> Result<()> {
        let over_gcm = self.variant.over == Over::Nonce;
        let own = key.algorithm();
        let fits = match self.variant.over {
            Over::Digest => own.template() == "hmac",
            Over::Cipher => own.template() == "cmac",
            Over::Nonce => own.name == "gcm(aes)",
            Over::Itself | Over::Blake2 => false,
        };
        if !fits {
            let text = format!(
                "{} is a key of {}: not {}",
                key.uri().to_string_lossy(),
                own.name,
                self.variant.chief
            );
            return Err(Error::new(Reason::UNSUPPORTED, text));
        }
        let mut kept = Kept::new(key, over_gcm)?;
        kept.begin(&self.iv);
        self.kept = Some(kept);
        self.key = None;
        self.session = None;
        self.hasher = None;
        if self.algorithm.is_none() {
            self.algorithm = Some(if over_gcm { find("gmac(aes)")? } else { own });
        }
        self.fits_key()
    }

    /// An error if the digest or cipher that was set is another than the broker's key is for.
    fn fits_key(&mut self) -> Result<()> {
        let (Some(kept), Some(algorithm)) = (&self.kept, self.algorithm) else {
            return Ok(());
        };
        let key = kept.key();
        let algorithm = match self.variant.over {
            Over::Nonce => key.algorithm(),
            _ => algorithm,
        };
        let fits = key.serves(algorithm, self.key_size, algorithm.name);
        if fits.is_err() {
            self.kept = None;
        }
        fits
    }

    /// Whether a worker is asked, which may take locks.
    pub fn asks(&self) -> bool {
        self.kept.is_some()
    }

    /// Begins with a key of the broker's.
    pub fn init_kept(
        &mut self,
        provider: &Provider,
        key: Arc<SecretKey>,
        params: Given<'_>,
    ) -> Result<()> {
        self.kept = None;
        self.host = None;
        self.set_params(provider, params)?;
        if self.host.is_some() {
            return Err(not_with_a_kept_key());
        }
        self.keep(key)
    }

    fn fits(&self, size: usize, reason: Reason) -> Result<()> {
        let most = self.algorithm.map_or(0, |algorithm| algorithm.salt);
        if size <= most {
            return Ok(());
        }
        let text = format!("{size} bytes: {} takes at most {most}", self.variant.chief);
        Err(Error::new(reason, text))
    }

    fn set_key(&mut self, key: &[u8]) -> Result<()> {
        if self.key_size.is_some_and(|size| size != key.len()) {
            return Err(Error::new(
                Reason::INVALID_KEY_LENGTH,
                format!("a key of {} bytes for {}", key.len(), self.variant.chief),
            ));
        }
        if self.variant.over == Over::Blake2 {
            let sizes = self.algorithm.map(|algorithm| algorithm.key);
            if key.is_empty() || !sizes.is_some_and(|sizes| sizes.contains(key.len())) {
                return Err(Error::new(
                    Reason::INVALID_KEY_LENGTH,
                    format!("a key of {} bytes for {}", key.len(), self.variant.chief),
                ));
            }
        }
        self.key = Some(Secret::new(key));
        self.kept = None;
        self.session = None;
        self.hasher = None;
        Ok(())
    }

    /// Begins; without a key, again with the one before.
    pub fn init(
        &mut self,
        provider: &Provider,
        key: Option<&[u8]>,
        params: Given<'_>,
    ) -> Result<()> {
        self.set_params(provider, params)?;
        if let Some(host) = &mut self.host {
            return host.init(key, params);
        }
        if let (None, Some(kept)) = (key, &mut self.kept) {
            kept.begin(&self.iv);
            return Ok(());
        }
        match key {
            Some(key) => self.set_key(key)?,
            None if self.key.is_none() => {
                let text = format!("{} has no key", self.variant.chief);
                return Err(Error::new(Reason::NO_KEY_SET, text));
            }
            None => {}
        }
        self.begin()
    }

    fn begin(&mut self) -> Result<()> {
        let one_message = matches!(self.variant.over, Over::Nonce | Over::Itself);
        if self.used && one_message && self.hasher.is_some() {
            return Err(Error::new(
                Reason::OUT_OF_ORDER,
                format!(
                    "{} authenticates one message with one key",
                    self.variant.chief
                ),
            ));
        }
        // GMAC's nonce may come after its key.
        if self.variant.over == Over::Nonce && self.iv.is_empty() {
            return Ok(());
        }
        self.used = false;
        match (&self.session, &mut self.hasher) {
            (Some(_), Some(hasher)) => Ok(hasher.reset()?),
            (Some(session), place) => {
                *place = Some(session.hasher()?);
                Ok(())
            }
            (None, _) => self.open(),
        }
    }

    fn open(&mut self) -> Result<()> {
        let Some(algorithm) = self.algorithm else {
            let (reason, what) = match self.variant.over {
                Over::Digest => (Reason::MISSING_MESSAGE_DIGEST, "digest"),
                _ => (Reason::MISSING_CIPHER, "cipher"),
            };
            return Err(Error::new(reason, format!("no parameter {what}")));
        };
        let key = self.key.clone().map_or(Key::None, Key::Bytes);
        let blake2 = self.variant.over == Over::Blake2;
        let session = sessions::open(Request {
            algorithm: algorithm.name.to_owned(),
            key,
            parameters: Parameters {
                digest_size: self.size,
                iv: self.iv.clone(),
                blake2: blake2.then(|| self.blake2.clone()),
                ..Parameters::default()
            },
            ..Request::default()
        })?;
        self.hasher = Some(session.hasher()?);
        self.session = Some(session);
        Ok(())
    }

    /// Bytes of the tag; 0 where it is not known yet.
    pub fn size(&self) -> usize {
        if let Some(kept) = &self.kept {
            return kept.size();
        }
        match self.variant.over {
            Over::Digest | Over::Cipher => self.algorithm.map_or(0, |a| a.digest),
            Over::Blake2 => self.size.or(self.algorithm.map(|a| a.digest)).unwrap_or(0),
            Over::Nonce | Over::Itself => 16,
        }
    }

    /// Answers.
    pub fn get_params(&self, asked: &mut Asked<'_>) -> Result<()> {
        if let Some(host) = &self.host {
            return host.get_params(asked);
        }
        asked.answer(|key, slot| match key.to_bytes() {
            b"size" => slot.size(self.size()),
            b"block-size" => slot.size(self.algorithm.map_or(0, |algorithm| algorithm.block)),
            _ => Ok(()),
        })
    }

    fn hasher(&mut self) -> Result<&mut Hasher> {
        if self.hasher.is_none() {
            let text = format!("{} was not begun", self.variant.chief);
            return Err(Error::new(Reason::NO_KEY_SET, text));
        }
        self.used = true;
        self.hasher
            .as_mut()
            .ok_or(Error::new(Reason::INTERNAL, "no state"))
    }

    /// Takes more.
    pub fn update(&mut self, data: Input<'_>) -> Result<()> {
        if let Some(host) = &mut self.host {
            return host.update(data);
        }
        if let Some(kept) = &mut self.kept {
            return kept.update(data);
        }
        if self.hasher.is_none() && self.key.is_some() {
            self.begin()?;
        }
        Ok(self.hasher()?.update(data)?)
    }

    /// Ends; bytes of the tag.
    pub fn finish(&mut self, out: Output<'_>) -> Result<usize> {
        if let Some(host) = &mut self.host {
            return host.finish(out);
        }
        let size = self.size();
        if out.len() < size {
            return Err(Error::new(
                Reason::OUTPUT_TOO_SMALL,
                format!("room for {} bytes: the tag has {size}", out.len()),
            ));
        }
        let mut tag = [0; 64];
        if let Some(kept) = &mut self.kept {
            let made = tag.get_mut(..size);
            let made = made.ok_or(Error::new(Reason::INTERNAL, "a MAC of impossible size"))?;
            kept.finish(made)?;
            out.split_at(size).0.copy_from(made);
            return Ok(size);
        }
        let one_message = matches!(self.variant.over, Over::Nonce | Over::Itself);
        let hasher = self.hasher()?;
        if one_message {
            // It cannot begin again, as finish() would.
            hasher.peek(&mut tag[..size])?;
        } else {
            hasher.finish(&mut tag[..size])?;
        }
        out.split_at(size).0.copy_from(&tag[..size]);
        Ok(size)
    }

    /// Another that goes on from here.
    pub fn fork(&self) -> Result<Running> {
        Ok(Running {
            variant: self.variant,
            algorithm: self.algorithm,
            key_size: self.key_size,
            key: self.key.clone(),
            iv: self.iv.clone(),
            blake2: self.blake2.clone(),
            size: self.size,
            session: self.session.clone(),
            hasher: self.hasher.as_ref().map(Hasher::fork).transpose()?,
            used: self.used,
            host: self.host.as_ref().map(host::Mac::fork).transpose()?,
            kept: self.kept.as_ref().map(Kept::fork).transpose()?,
        })
    }
}
