//! AEADs with a key of the broker's. A worker gives no plaintext whose tag it has not seen, so that a message is
//! one piece, and its tag comes before it; who gives no IV to encrypt with gets one of the worker's.

use crate::cipher::{Variant, failed, room, wrong_iv};
use crate::error::{Error, Reason, Result};
use crate::ffi::params::{Asked, Given};
use crate::secret_key::SecretKey;
use cryptofd_core::engine::Direction;
use cryptofd_core::sys::buffer::{Input, Output};
use std::sync::Arc;

/// Bytes of the longest IV that OpenSSL takes, and of the longest tag.
const LONGEST: usize = 128;
const TAG: usize = 16;
/// Bytes of an IV that a worker chooses.
const CHOSEN: usize = 12;
/// Most bytes of associated data, which are kept until the message comes.
const AAD: usize = 64 << 20;

/// Where the message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Associated data may come, and the message.
    Open,
    /// It was done.
    Done,
}

/// A message of an AEAD.
#[derive(Clone)]
pub struct Sealed {
    variant: &'static Variant,
    key: Arc<SecretKey>,
    /// Bytes of the key's tags.
    tag_size: usize,
    direction: Direction,
    iv: [u8; LONGEST],
    iv_size: usize,
    /// Whether the program gave it.
    iv_set: bool,
    aad: Vec<u8>,
    /// How long the message is, where that was said.
    length: Option<usize>,
    /// The one that was given to decrypt, or made.
    tag: Option<[u8; TAG]>,
    state: State,
}

impl Sealed {
    /// With what the program has set so far.
    pub fn new(
        variant: &'static Variant,
        key: Arc<SecretKey>,
        direction: Direction,
        iv_size: usize,
        iv: Option<&[u8]>,
        tag: Option<&[u8]>,
    ) -> Result<Sealed> {
        key.serves(variant.algorithm, Some(variant.key), variant.chief())?;
        let mut sealed = Sealed {
            variant,
            tag_size: key.tag_size()?.min(TAG),
            key,
            direction,
            iv: [0; LONGEST],
            iv_size,
            iv_set: false,
            aad: Vec::new(),
            length: None,
            tag: None,
            state: State::Open,
        };
        if let Some(iv) = iv {
            sealed.set_iv(iv)?;
        }
        if let Some(tag) = tag {
            sealed.set_tag(tag)?;
        }
        Ok(sealed)
    }

    fn set_iv(&mut self, iv: &[u8]) -> Result<()> {
        if iv.len() != self.iv_size || iv.len() > LONGEST {
            return Err(wrong_iv(self.variant, iv.len()));
        }
        self.iv[..iv.len()].copy_from_slice(iv);
        self.iv_set = true;
        Ok(())
    }

    fn set_tag(&mut self, tag: &[u8]) -> Result<()> {
        self.check_tag(tag.len(), true)?;
        let mut own = [0; TAG];
        own[..tag.len()].copy_from_slice(tag);
        self.tag = Some(own);
        Ok(())
    }

    /// `whole`: a worker compares whole tags, and CCM's messages depend on their size.
    fn check_tag(&self, size: usize, whole: bool) -> Result<()> {
        let whole = whole || self.variant.algorithm.template() == "ccm";
        if size == self.tag_size || (!whole && (1..self.tag_size).contains(&size)) {
            return Ok(());
        }
        Err(Error::new(
            Reason::INVALID_TAG_LENGTH,
            format!(
                "a tag of {size} bytes: those of {} have {}, which was said when it was made",
                self.key.uri().to_string_lossy(),
                self.tag_size
            ),
        ))
    }

    /// Begins a message.
    pub fn init(
        &mut self,
        direction: Direction,
        iv: Option<&[u8]>,
        params: Given<'_>,
    ) -> Result<()> {
        // A tag may be given before the IV.
        if self.state == State::Done || direction != self.direction {
            self.tag = None;
            self.iv_set = false;
        }
        self.direction = direction;
        self.state = State::Open;
        self.aad.clear();
        self.length = None;
        if let Some(iv) = iv {
            self.set_iv(iv)?;
        }
        self.set_params(params)
    }

    fn whole(&mut self, data: Input<'_>, out: Output<'_>) -> Result<usize> {
        if self.state == State::Done {
            return Err(failed(
                "a key of the broker's takes a message in one piece, and an iv once: begin again",
            ));
        }
        if self.length.is_some_and(|length| length != data.len()) {
            return Err(failed("a message of another length than was said"));
        }
        let out = room(out, data.len())?;
        let aad = Input::from(&self.aad[..]);
        let iv = &self.iv[..self.iv_size];
        let lost = || Error::new(Reason::INTERNAL, "an answer of another length");
        match self.direction {
            Direction::Encrypt => {
                let size = self.tag_size;
                let (made, from) = if self.iv_set {
                    (self.key.crypt(Direction::Encrypt, iv, aad, data)?, 0)
                } else if self.iv_size == CHOSEN {
                    (self.key.seal(aad, data)?, CHOSEN)
                } else {
                    let text = "a worker chooses ivs of 12 bytes: others are given";
                    return Err(failed(text));
                };
                if made.len() != from + data.len() + size {
                    return Err(lost());
                }
                self.iv[..from].copy_from_slice(&made[..from]);
                let (sealed, tag) = made[from..].split_at(data.len());
                out.copy_from(sealed);
                let mut own = [0; TAG];
                own[..size].copy_from_slice(tag);
                self.tag = Some(own);
            }
            Direction::Decrypt => {
                if !self.iv_set {
                    return Err(failed(format!("{} has no iv", self.variant.chief())));
                }
                let tag = self.tag.ok_or_else(|| {
                    Error::new(
                        Reason::TAG_NOT_SET,
                        "set the tag before the message: a key of the broker's gives no plaintext whose \
                         tag was not seen",
                    )
                })?;
                let mut sealed = data.to_vec();
                sealed.extend_from_slice(&tag[..self.tag_size]);
                let sealed = Input::from(&sealed);
                let made = self.key.crypt(Direction::Decrypt, iv, aad, sealed)?;
                if made.len() != data.len() {
                    return Err(lost());
                }
                out.copy_from(&made);
            }
        }
        self.state = State::Done;
        self.aad.clear();
        self.length = None;
        Ok(data.len())
    }

    /// Goes on: associated data without `out`, the message with it.
    pub fn update(
        &mut self,
        data: Option<Input<'_>>,
        length: usize,
        out: Option<Output<'_>>,
    ) -> Result<usize> {
        match (data, out) {
            (None, Some(_)) => return Ok(0),
            (None, None) => self.length = Some(length),
            (Some(data), None) => {
                if self.state == State::Done {
                    return Err(failed("associated data come before the message"));
                }
                if self.aad.len().saturating_add(data.len()) > AAD {
                    let text = format!("associated data of more than {AAD} bytes");
                    return Err(Error::new(Reason::TOO_LARGE, text));
                }
                data.pieces(|piece| self.aad.extend_from_slice(piece));
            }
            (Some(data), Some(out)) if length > 0 => return self.whole(data, out),
            (Some(_), Some(_)) => return Ok(0),
        }
        Ok(length)
    }

    /// Ends; a message that had no piece is empty.
    pub fn finish(&mut self) -> Result<usize> {
        if self.state == State::Open {
            self.whole(Input::EMPTY, Output::from(&mut [][..]))?;
        }
        Ok(0)
    }

    /// EVP_Cipher().
    pub fn once(
        &mut self,
        data: Option<Input<'_>>,
        length: usize,
        out: Option<Output<'_>>,
    ) -> Result<usize> {
        match data {
            None if length == 0 => self.finish(),
            data => self.update(data, length, out),
        }
    }

    /// Parameters of the program's.
    pub fn set_params(&mut self, params: Given<'_>) -> Result<()> {
        for value in params.iter() {
            match value.key().to_bytes() {
                b"tag" => match value.octets_or_size()? {
                    (Some(_), _) if self.direction == Direction::Encrypt => {
                        let text = "a tag is given to decrypt";
                        return Err(Error::new(Reason::TAG_NOT_NEEDED, text));
                    }
                    (Some(tag), _) => self.set_tag(tag)?,
                    (None, size) => self.check_tag(size, false)?,
                },
                b"ivlen" => {
                    let size = value.size()?;
                    if size > LONGEST || !self.variant.algorithm.iv.contains(size) {
                        return Err(wrong_iv(self.variant, size));
                    }
                    if size != self.iv_size {
                        self.iv_size = size;
                        self.iv_set = false;
                    }
                }
                b"keylen" => {
                    let size = value.size()?;
                    if size != self.variant.key {
                        let text = format!("keylen={size} for {}", self.variant.chief());
                        return Err(Error::new(Reason::INVALID_KEY_LENGTH, text));
                    }
                }
                b"tlsaad" | b"tlsivfixed" | b"tlsivinv" => return Err(no_records()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Answers.
    pub fn get_params(&self, asked: &mut Asked<'_>) -> Result<()> {
        asked.answer(|key, slot| match key.to_bytes() {
            b"keylen" => slot.size(self.variant.key),
            b"ivlen" => slot.size(self.iv_size),
            b"taglen" => slot.size(self.tag_size),
            b"tlsaadpad" => slot.size(0),
            b"iv" | b"updated-iv" => {
                if !self.iv_set && self.state == State::Open {
                    return Err(failed(format!("{} has no iv", self.variant.chief())));
                }
                slot.octets_or_ptr(&self.iv[..self.iv_size])
            }
            b"tag" => {
                let made = self.direction == Direction::Encrypt && self.state == State::Done;
                let tag = self.tag.filter(|_| made).ok_or_else(|| {
                    let text = "there is no tag before the message";
                    Error::new(Reason::TAG_NOT_SET, text)
                })?;
                let size = slot.room();
                self.check_tag(size, false)?;
                slot.octets(&tag[..size])
            }
            b"tlsivgen" => Err(no_records()),
            _ => Ok(()),
        })
    }
}

fn no_records() -> Error {
    Error::new(
        Reason::UNSUPPORTED,
        "records of TLS: their keys are made by the two ends, and none is the broker's",
    )
}
