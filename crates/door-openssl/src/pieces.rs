//! AEADs in pieces: GCM and ChaCha20-Poly1305, with OpenSSL's own streaming semantics (plaintext is given
//! before its tag was seen), and the records of TLS 1.2, which are whole.

use crate::cipher::{Running, Variant, check_key, failed, no_key, room, wrong_iv};
use crate::context::Provider;
use crate::error::{Error, Reason, Result};
use crate::ffi::params::{Asked, Given};
use crate::sealed::Sealed;
use crate::secret_key::{PARAMETER, SecretKey};
use crate::sessions;
use cryptofd_core::engine::Direction;
use cryptofd_core::engines::software;
use cryptofd_core::session::{Session, Unchecked};
use cryptofd_core::sys::buffer::{Input, Output};
use std::sync::Arc;

/// Bytes of the longest IV that OpenSSL takes.
const LONGEST: usize = 128;
/// Bytes of a tag.
const TAG: usize = 16;
/// Bytes of TLS 1.2's additional data, of the IV that goes with each record of GCM, and of its fixed part.
const TLS_AAD: usize = 13;
const EXPLICIT: usize = 8;
const FIXED: usize = 4;

/// Where the IV is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Iv {
    None,
    /// Given, and the next piece begins a message with it.
    Given,
    /// A message is under way.
    Begun,
    /// Used up.
    Used,
}

/// An AEAD under way.
pub struct InPieces {
    variant: &'static Variant,
    direction: Direction,
    session: Option<Arc<Session>>,
    iv: [u8; LONGEST],
    iv_size: usize,
    state: Iv,
    message: Option<Unchecked>,
    tag: [u8; TAG],
    tag_size: Option<usize>,
    /// A record of TLS 1.2 comes next: its additional data, with the length of the payload.
    tls: Option<[u8; TLS_AAD]>,
    tls_padding: usize,
    /// The IV is counted here.
    counted: bool,
    records: u64,
    /// With a key of the broker's, a worker does it.
    kept: Option<Box<Sealed>>,
}

impl InPieces {
    fn gcm(&self) -> bool {
        self.variant.algorithm.template() == "gcm"
    }

    fn session(&self) -> Result<&Arc<Session>> {
        self.session.as_ref().ok_or_else(|| no_key(self.variant))
    }

    /// Begins the message, if it is not under way.
    fn message(&mut self) -> Result<&mut Unchecked> {
        let session = self.session()?.clone();
        match self.state {
            Iv::Used => return Err(failed("this iv has been used: give another")),
            Iv::None if self.direction == Direction::Encrypt && self.gcm() => {
                if self.iv_size < 12 {
                    return Err(wrong_iv(self.variant, self.iv_size));
                }
                software::random(&mut self.iv[..self.iv_size])?;
                self.state = Iv::Given;
            }
            Iv::None => return Err(failed(format!("{} has no iv", self.variant.chief()))),
            Iv::Given | Iv::Begun => {}
        }
        if self.state == Iv::Given {
            let iv = &self.iv[..self.iv_size];
            match &mut self.message {
                Some(message) => message.begin_again(self.direction, iv)?,
                place => *place = Some(session.unchecked(self.direction, iv)?),
            }
            self.state = Iv::Begun;
        }
        let none = Error::new(Reason::INTERNAL, "no message");
        self.message.as_mut().ok_or(none)
    }

    /// What TLS says of the next record; bytes that its tag adds.
    fn tls_record(&mut self, aad: &[u8]) -> Result<usize> {
        let wrong = || {
            Error::new(
                Reason::INVALID_AAD,
                "not the additional data of a TLS record",
            )
        };
        let mut own: [u8; TLS_AAD] = aad.try_into().map_err(|_| wrong())?;
        let mut length = usize::from(u16::from_be_bytes([own[11], own[12]]));
        if self.gcm() {
            length = length.checked_sub(EXPLICIT).ok_or_else(wrong)?;
        }
        if self.direction == Direction::Decrypt {
            length = length.checked_sub(TAG).ok_or_else(wrong)?;
        }
        own[11..].copy_from_slice(&(length as u16).to_be_bytes());
        self.tls = Some(own);
        Ok(TAG)
    }

    fn fixed_iv(&mut self, fixed: &[u8]) -> Result<()> {
        if !self.gcm() {
            if fixed.len() != 12 {
                return Err(wrong_iv(self.variant, fixed.len()));
            }
            self.iv[..12].copy_from_slice(fixed);
            return Ok(());
        }
        if fixed.len() < FIXED || self.iv_size < fixed.len() + EXPLICIT {
            return Err(wrong_iv(self.variant, fixed.len()));
        }
        self.iv[..fixed.len()].copy_from_slice(fixed);
        if self.direction == Direction::Encrypt {
            software::random(&mut self.iv[fixed.len()..self.iv_size])?;
        }
        self.counted = true;
        self.state = Iv::Given;
        Ok(())
    }

    /// The last bytes of the IV, which then counts on.
    fn next_iv(&mut self, out: &mut [u8]) -> Result<()> {
        self.session()?;
        if !self.counted {
            return Err(failed("no fixed iv was set"));
        }
        let size = self.iv_size;
        let take = out.len();
        out.copy_from_slice(&self.iv[size - take..size]);
        Ok(())
    }

    fn count_on(&mut self) {
        let counter = &mut self.iv[self.iv_size - 8..self.iv_size];
        for byte in counter.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
    }

    /// A record of TLS 1.2, in place; bytes of what it becomes.
    fn record(&mut self, aad: [u8; TLS_AAD], data: Input<'_>, out: Output<'_>) -> Result<usize> {
        let session = self.session()?.clone();
        if data.as_ptr() != out.as_mut_ptr().cast_const() {
            return Err(failed("a record of TLS is worked on in place"));
        }
        let before = if self.gcm() { EXPLICIT } else { 0 };
        let payload = data
            .len()
            .checked_sub(before + TAG)
            .ok_or_else(|| failed("a record that is too short"))?;
        let said = usize::from(u16::from_be_bytes([aad[11], aad[12]]));
        if !self.gcm() && payload != said {
            return Err(failed("a record of another length than was said"));
        }
        let out = room(out, data.len())?;
        let mut nonce = [0u8; 12];
        if self.gcm() {
            if self.iv_size != 12 || !self.counted {
                return Err(failed("no fixed iv was set"));
            }
            if self.direction == Direction::Encrypt {
                self.records = self
                    .records
                    .checked_add(1)
                    .ok_or_else(|| failed("too many records"))?;
                let mut explicit = [0; EXPLICIT];
                self.next_iv(&mut explicit)?;
                out.split_at(EXPLICIT).0.copy_from(&explicit);
            } else {
                let mut explicit = [0; EXPLICIT];
                data.split_at(EXPLICIT).0.copy_to(&mut explicit);
                self.iv[FIXED..12].copy_from_slice(&explicit);
            }
            nonce.copy_from_slice(&self.iv[..12]);
            if self.direction == Direction::Encrypt {
                self.count_on();
            }
        } else {
            // RFC 7905: the sequence number, which comes first, is mixed in.
            nonce.copy_from_slice(&self.iv[..12]);
            for (byte, sequence) in nonce[4..].iter_mut().zip(&aad[..8]) {
                *byte ^= sequence;
            }
        }
        let (data, out) = (data.split_at(before).1, out.split_at(before).1);
        let aad = Input::from(&aad);
        match self.direction {
            Direction::Encrypt => {
                session.seal(&nonce, aad, data.split_at(payload).0, out)?;
                Ok(before + payload + TAG)
            }
            Direction::Decrypt => {
                session.unseal(&nonce, aad, data, out.split_at(payload).0)?;
                Ok(payload)
            }
        }
    }

    fn end(&mut self) -> Result<usize> {
        match self.direction {
            Direction::Encrypt => {
                let mut tag = [0; TAG];
                self.message()?.tag(&mut tag)?;
                self.tag = tag;
                self.tag_size = Some(TAG);
            }
            Direction::Decrypt => {
                let size = self
                    .tag_size
                    .ok_or_else(|| Error::new(Reason::TAG_NOT_SET, "no tag to compare with"))?;
                let tag = self.tag;
                let seen = self.message()?.verify(&tag[..size]);
                self.state = Iv::Used;
                // OpenSSL puts nothing on its stack here, and programs look.
                seen.map_err(|_| Error::SAID)?;
            }
        }
        self.state = Iv::Used;
        Ok(0)
    }
}

impl Running for InPieces {
    fn new(variant: &'static Variant) -> InPieces {
        InPieces {
            variant,
            direction: Direction::Encrypt,
            session: None,
            iv: [0; LONGEST],
            iv_size: 12,
            state: Iv::None,
            message: None,
            tag: [0; TAG],
            tag_size: None,
            tls: None,
            tls_padding: 0,
            counted: false,
            records: 0,
            kept: None,
        }
    }

    fn init(
        &mut self,
        provider: &Provider,
        direction: Direction,
        key: Option<&[u8]>,
        iv: Option<&[u8]>,
        params: Given<'_>,
    ) -> Result<()> {
        self.direction = direction;
        if key.is_some() || params.find(PARAMETER).is_some() {
            self.kept = None;
        }
        if let Some(kept) = &mut self.kept {
            return kept.init(direction, iv, params);
        }
        if let Some(iv) = iv {
            let wrong = if self.gcm() {
                iv.is_empty() || iv.len() > LONGEST
            } else {
                iv.len() != 12
            };
            if wrong {
                return Err(wrong_iv(self.variant, iv.len()));
            }
            self.iv_size = iv.len();
            self.iv[..iv.len()].copy_from_slice(iv);
            self.state = Iv::Given;
        }
        if let Some(key) = key {
            check_key(self.variant, key)?;
            self.records = 0;
            if self.state == Iv::Begun {
                self.state = Iv::Given;
            }
            if !sessions::has_key(self.session.as_ref(), key) {
                self.message = None;
                self.session = Some(sessions::with_key(self.variant.algorithm, key)?);
            }
        }
        self.set_params(provider, params)
    }

    fn update(
        &mut self,
        data: Option<Input<'_>>,
        length: usize,
        out: Option<Output<'_>>,
    ) -> Result<usize> {
        if let Some(kept) = &mut self.kept {
            return kept.update(data, length, out);
        }
        let Some(data) = data.filter(|_| length > 0) else {
            return Ok(0);
        };
        if let Some(aad) = self.tls.take() {
            let out = out.ok_or_else(|| failed("no room for the record"))?;
            let done = self.record(aad, data, out);
            self.state = Iv::Used;
            return done;
        }
        match out {
            None => self.message()?.aad(data)?,
            Some(out) => {
                let out = room(out, length)?;
                self.message()?.update(data, out)?;
            }
        }
        Ok(length)
    }

    fn finish(&mut self, _: Output<'_>) -> Result<usize> {
        if let Some(kept) = &mut self.kept {
            return kept.finish();
        }
        self.end()
    }

    fn once(
        &mut self,
        data: Option<Input<'_>>,
        length: usize,
        out: Option<Output<'_>>,
    ) -> Result<usize> {
        if let Some(kept) = &mut self.kept {
            return kept.once(data, length, out);
        }
        match data {
            None => self.end(),
            Some(data) => self.update(Some(data), length, out),
        }
    }

    fn keep(&mut self, key: Arc<SecretKey>) -> Result<()> {
        let (variant, direction) = (self.variant, self.direction);
        let iv = (self.state == Iv::Given).then_some(&self.iv[..self.iv_size]);
        let tag = self.tag_size.filter(|_| direction == Direction::Decrypt);
        let tag = tag.map(|size| &self.tag[..size]);
        let kept = Sealed::new(variant, key, direction, self.iv_size, iv, tag)?;
        self.kept = Some(Box::new(kept));
        self.session = None;
        self.message = None;
        self.state = Iv::None;
        self.tag_size = None;
        Ok(())
    }

    fn asks(&self) -> bool {
        self.kept.is_some()
    }

    fn set_params(&mut self, _: &Provider, params: Given<'_>) -> Result<()> {
        if let Some(value) = params.find(PARAMETER) {
            self.keep(SecretKey::given(&value)?)?;
        }
        if let Some(kept) = &mut self.kept {
            return kept.set_params(params);
        }
        for value in params.iter() {
            match value.key().to_bytes() {
                b"tag" => {
                    let (tag, size) = value.octets_or_size()?;
                    if size == 0 || size > TAG {
                        let text = format!("a tag of {size} bytes: 1 to {TAG}");
                        return Err(Error::new(Reason::INVALID_TAG_LENGTH, text));
                    }
                    match tag {
                        Some(_) if self.direction == Direction::Encrypt => {
                            let text = "a tag is given to decrypt";
                            let reason = if self.gcm() {
                                Reason::INVALID_TAG
                            } else {
                                Reason::TAG_NOT_NEEDED
                            };
                            return Err(Error::new(reason, text));
                        }
                        Some(tag) => {
                            self.tag[..size].copy_from_slice(tag);
                            self.tag_size = Some(size);
                        }
                        None if self.gcm() => {
                            return Err(Error::new(Reason::INVALID_TAG, "a tag without bytes"));
                        }
                        None => self.tag_size = Some(size),
                    }
                }
                b"ivlen" => {
                    let size = value.size()?;
                    if size == 0 || size > LONGEST || (!self.gcm() && size != 12) {
                        return Err(wrong_iv(self.variant, size));
                    }
                    if size != self.iv_size {
                        if self.state != Iv::None {
                            self.state = Iv::Used;
                        }
                        self.iv_size = size;
                    }
                }
                b"keylen" => {
                    let size = value.size()?;
                    if size != self.variant.key {
                        let text = format!("keylen={size} for {}", self.variant.chief());
                        return Err(Error::new(Reason::INVALID_KEY_LENGTH, text));
                    }
                }
                b"tlsaad" => self.tls_padding = self.tls_record(value.octets()?)?,
                b"tlsivfixed" => self.fixed_iv(value.octets()?)?,
                b"tlsivinv" => {
                    let last = value.octets()?;
                    let fits = last.len() <= self.iv_size && self.counted;
                    if !fits || self.session.is_none() || self.direction == Direction::Encrypt {
                        return Err(failed("no fixed iv was set"));
                    }
                    let from = self.iv_size - last.len();
                    self.iv[from..self.iv_size].copy_from_slice(last);
                    self.state = Iv::Given;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn get_params(&mut self, _: &Provider, asked: &mut Asked<'_>) -> Result<()> {
        if let Some(kept) = &self.kept {
            return kept.get_params(asked);
        }
        asked.answer(|key, slot| match key.to_bytes() {
            b"keylen" => slot.size(self.variant.key),
            b"ivlen" => slot.size(self.iv_size),
            b"taglen" => slot.size(self.tag_size.unwrap_or(TAG)),
            b"iv" | b"updated-iv" => {
                if self.state == Iv::None {
                    return Err(failed(format!("{} has no iv", self.variant.chief())));
                }
                slot.octets_or_ptr(&self.iv[..self.iv_size])
            }
            b"tlsaadpad" => slot.size(self.tls_padding),
            b"tag" => {
                let size = slot.room();
                if self.direction == Direction::Decrypt || self.tag_size.is_none() {
                    let reason = if self.gcm() {
                        Reason::INVALID_TAG
                    } else {
                        Reason::TAG_NOT_SET
                    };
                    return Err(Error::new(reason, "there is no tag before the end"));
                }
                if size == 0 || size > TAG {
                    let text = format!("a tag of {size} bytes: 1 to {TAG}");
                    return Err(Error::new(Reason::INVALID_TAG_LENGTH, text));
                }
                slot.octets(&self.tag[..size])
            }
            b"tlsivgen" => {
                let size = match slot.room() {
                    0 => self.iv_size,
                    size => size.min(self.iv_size),
                };
                let mut last = [0; LONGEST];
                self.next_iv(&mut last[..size])?;
                // The message has this one; the next will have the next.
                let iv = &self.iv[..self.iv_size];
                self.message = Some(self.session()?.unchecked(self.direction, iv)?);
                self.state = Iv::Begun;
                self.count_on();
                slot.octets(&last[..size])
            }
            _ => Ok(()),
        })
    }

    fn fork(&self) -> Result<InPieces> {
        Ok(InPieces {
            variant: self.variant,
            direction: self.direction,
            session: self.session.clone(),
            iv: self.iv,
            iv_size: self.iv_size,
            state: self.state,
            message: self.message.as_ref().map(Unchecked::fork).transpose()?,
            tag: self.tag,
            tag_size: self.tag_size,
            tls: self.tls,
            tls_padding: self.tls_padding,
            counted: self.counted,
            records: self.records,
            kept: self.kept.clone(),
        })
    }
}
