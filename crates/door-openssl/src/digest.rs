//! Digests (provider-digest(7)): hashes and XOFs.

use crate::error::{Error, Reason, Result};
use crate::family;
use crate::ffi::params::{Asked, Given};
use crate::measure::Job;
use crate::names;
use crate::sessions::{self, Shared};
use cryptofd_core::engine::Parameters;
use cryptofd_core::session::{Hasher, Request};
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::table::{ALGORITHMS, Algorithm, Kind};
use std::sync::OnceLock;

/// One digest.
pub struct Variant {
    pub algorithm: &'static Algorithm,
    session: Shared,
}

/// The digests, in the table's order.
pub fn variants() -> &'static [Variant] {
    static ALL: OnceLock<Vec<Variant>> = OnceLock::new();
    ALL.get_or_init(|| {
        let digests = ALGORITHMS.iter().filter(|algorithm| {
            matches!(algorithm.kind, Kind::Hash | Kind::Xof) && algorithm.openssl.is_some()
        });
        let variant = |algorithm| Variant {
            algorithm,
            session: Shared::default(),
        };
        digests.map(variant).collect()
    })
}

/// What is advertised.
pub fn algorithms() -> Vec<family::Algorithm> {
    let all = variants()
        .iter()
        .enumerate()
        .filter_map(|(place, variant)| {
            let names = names::of(variant.algorithm, 0, 0)?;
            let functions = crate::ffi::digest::functions(place);
            let text = format!("cryptofd's {}", variant.algorithm.name);
            let routed = family::Routed {
                place,
                functions: crate::ffi::routed::digests,
                cipher: None,
            };
            let made = family::Algorithm::new(&names, functions, &text);
            Some(made.measured(Some(Job::Digest), Some(routed)))
        });
    all.collect()
}

impl Variant {
    fn xof(&self) -> bool {
        self.algorithm.kind == Kind::Xof
    }

    /// Bytes that it gives when nobody says: an XOF, half its block's capacity (SHAKE128 16, SHAKE256 32).
    pub fn size(&self) -> usize {
        if self.xof() {
            self.algorithm.digest / 2
        } else {
            self.algorithm.digest
        }
    }

    /// Facts of the digest.
    pub fn get_params(&self, asked: &mut Asked<'_>) -> Result<()> {
        // SHA's identifiers stand without parameters in a DigestInfo (RFC 8017, A.2.4); MD5's and those of
        // the others with NULL.
        let absent = self.algorithm.name.starts_with("sha");
        asked.answer(|key, slot| match key.to_bytes() {
            b"blocksize" => slot.size(self.algorithm.block),
            b"size" => slot.size(self.size()),
            b"xof" => slot.integer(self.xof().into()),
            b"algid-absent" => slot.integer(absent.into()),
            _ => Ok(()),
        })
    }

    fn hasher(&self, size: Option<usize>) -> Result<Hasher> {
        if let Some(size) = size.filter(|size| !self.xof() && *size != self.algorithm.digest) {
            let session = sessions::open(Request {
                algorithm: self.algorithm.name.to_owned(),
                parameters: Parameters {
                    digest_size: Some(size),
                    ..Parameters::default()
                },
                ..Request::default()
            })?;
            return Ok(session.hasher()?);
        }
        Ok(self.session.get(self.algorithm)?.hasher()?)
    }
}

/// Most bytes that an XOF gives piece by piece.
const MOST: usize = 256 << 20;

/// A digest under way.
pub struct Running {
    pub variant: &'static Variant,
    hasher: Option<Hasher>,
    /// Bytes that the end gives, where somebody said so.
    size: Option<usize>,
    squeezed: Squeezed,
}

/// What an XOF has given piece by piece: its beginning, of which more is made than is asked for, as each time it is
/// made anew.
#[derive(Clone, Default)]
struct Squeezed {
    made: Vec<u8>,
    given: usize,
}

impl Running {
    /// Not begun.
    pub fn new(variant: &'static Variant) -> Running {
        Running {
            variant,
            hasher: None,
            size: None,
            squeezed: Squeezed::default(),
        }
    }

    fn chosen(&self) -> bool {
        self.variant.xof() || self.variant.algorithm.digest_sizes.max > 0
    }

    /// Begins (again).
    pub fn init(&mut self, params: Given<'_>) -> Result<()> {
        self.squeezed = Squeezed::default();
        let before = self.size.filter(|_| !self.variant.xof());
        self.set_params(params)?;
        match &mut self.hasher {
            Some(hasher) if before == self.size || self.variant.xof() => hasher.reset()?,
            place => *place = Some(self.variant.hasher(self.size)?),
        }
        Ok(())
    }

    /// An XOF's and BLAKE2's size.
    pub fn set_params(&mut self, params: Given<'_>) -> Result<()> {
        if !self.chosen() {
            return Ok(());
        }
        let name = if self.variant.xof() {
            c"xoflen"
        } else {
            c"size"
        };
        let also = if self.variant.xof() {
            c"size"
        } else {
            c"xoflen"
        };
        for value in params.iter() {
            if value.key() == name || (value.key() == also && self.variant.xof()) {
                let size = value.size()?;
                let sizes = self.variant.algorithm.digest_sizes;
                if !self.variant.xof() && !sizes.contains(size) {
                    return Err(Error::new(
                        Reason::INVALID_DIGEST_SIZE,
                        format!("size={size}: {} takes {sizes}", self.variant.algorithm.name),
                    ));
                }
                self.size = Some(size);
            }
        }
        Ok(())
    }

    /// Bytes that the end gives.
    pub fn size(&self) -> usize {
        self.size.unwrap_or(self.variant.size())
    }

    /// Facts of this one.
    pub fn get_params(&self, asked: &mut Asked<'_>) -> Result<()> {
        asked.answer(|key, slot| match key.to_bytes() {
            b"size" | b"xoflen" if self.chosen() => slot.size(self.size()),
            _ => Ok(()),
        })
    }

    fn hasher(&mut self) -> Result<&mut Hasher> {
        let none = || Error::new(Reason::OUT_OF_ORDER, "the digest was not begun");
        self.hasher.as_mut().ok_or_else(none)
    }

    /// Takes more.
    pub fn update(&mut self, data: Input<'_>) -> Result<()> {
        Ok(self.hasher()?.update(data)?)
    }

    /// Ends.
    pub fn finish(&mut self, out: &mut [u8]) -> Result<()> {
        Ok(self.hasher()?.finish(out)?)
    }

    /// The next bytes of an XOF.
    pub fn squeeze(&mut self, out: &mut [u8]) -> Result<()> {
        let (from, has) = (self.squeezed.given, self.squeezed.made.len());
        let to = from.saturating_add(out.len());
        if to > MOST {
            let text = format!("{to} bytes of an XOF piece by piece: at most {MOST}");
            return Err(Error::new(Reason::TOO_LARGE, text));
        }
        if to > has {
            let mut made = vec![0; to.max(has * 2).max(512)];
            self.hasher()?.peek(&mut made)?;
            self.squeezed.made = made;
        }
        out.copy_from_slice(&self.squeezed.made[from..to]);
        self.squeezed.given = to;
        Ok(())
    }

    /// Another that goes on from here.
    pub fn fork(&self) -> Result<Running> {
        Ok(Running {
            variant: self.variant,
            hasher: self.hasher.as_ref().map(Hasher::fork).transpose()?,
            size: self.size,
            squeezed: self.squeezed.clone(),
        })
    }
}
