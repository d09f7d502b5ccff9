//! AEADs whose message is one piece: CCM, which must know its length first, and GCM-SIV, which goes over it
//! twice. They are sealed and unsealed whole, so no plaintext is given whose tag is wrong.

use crate::cipher::{Running, Variant, check_key, failed, no_key, room, wrong_iv};
use crate::context::Provider;
use crate::error::{Error, Reason, Result};
use crate::ffi::params::{Asked, Given};
use crate::sealed::Sealed;
use crate::secret_key::{PARAMETER, SecretKey};
use crate::sessions;
use cryptofd_core::engine::{Direction, Key, Parameters};
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{Request, Session};
use cryptofd_core::sys::buffer::{Input, Output};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Bytes of TLS 1.2's additional data, of the IV that goes with each record, and of its fixed part.
const TLS_AAD: usize = 13;
const EXPLICIT: usize = 8;
const FIXED: usize = 4;

/// An AEAD under way.
pub struct Message {
    variant: &'static Variant,
    direction: Direction,
    key: Option<Secret>,
    /// With the key and the size of the tag.
    session: Option<Arc<Session>>,
    iv: [u8; 16],
    iv_size: usize,
    iv_set: bool,
    aad: Vec<u8>,
    /// CCM: how long the message is, where that was said.
    length: Option<usize>,
    tag: [u8; 16],
    tag_size: usize,
    /// To decrypt: it was given. To encrypt: it was made.
    tag_set: bool,
    tls: Option<[u8; TLS_AAD]>,
    tls_padding: usize,
    /// With a key of the broker's, a worker does it.
    kept: Option<Box<Sealed>>,
}

impl Message {
    fn ccm(&self) -> bool {
        self.variant.algorithm.template() == "ccm"
    }

    fn session(&mut self) -> Result<Arc<Session>> {
        let key = self.key.clone().ok_or_else(|| no_key(self.variant))?;
        let fits = |session: &&Arc<Session>| session.tag_size() == self.tag_size;
        if let Some(session) = self.session.as_ref().filter(fits) {
            return Ok(session.clone());
        }
        let session = sessions::open(Request {
            algorithm: self.variant.algorithm.name.to_owned(),
            key: Key::Bytes(key),
            parameters: Parameters {
                tag_size: Some(self.tag_size),
                ..Parameters::default()
            },
            ..Request::default()
        })?;
        self.session = Some(session.clone());
        Ok(session)
    }

    /// The whole message.
    fn whole(&mut self, data: Input<'_>, out: Output<'_>) -> Result<usize> {
        let session = self.session()?;
        if !self.iv_set {
            return Err(failed(format!("{} has no iv", self.variant.chief())));
        }
        if self.length.is_some_and(|length| length != data.len()) {
            return Err(failed("a message of another length than was said"));
        }
        let out = room(out, data.len())?;
        let aad = Input::from(&self.aad[..]);
        let iv = &self.iv[..self.iv_size];
        match self.direction {
            Direction::Encrypt => {
                let mut sealed = Zeroizing::new(vec![0; data.len() + self.tag_size]);
                session.seal(iv, aad, data, Output::from(&mut sealed[..]))?;
                out.copy_from(&sealed[..data.len()]);
                self.tag[..self.tag_size].copy_from_slice(&sealed[data.len()..]);
                self.tag_set = true;
            }
            Direction::Decrypt => {
                if !self.tag_set {
                    return Err(failed("no tag to compare with"));
                }
                let mut sealed = data.to_vec();
                sealed.extend_from_slice(&self.tag[..self.tag_size]);
                session.unseal(iv, aad, Input::from(&sealed), out)?;
                self.tag_set = false;
                self.iv_set = false;
            }
        }
        self.aad.clear();
        self.length = None;
        Ok(data.len())
    }

    fn tls_record(&mut self, aad: &[u8]) -> Result<usize> {
        let wrong = || {
            Error::new(
                Reason::INVALID_DATA,
                "not the additional data of a TLS record",
            )
        };
        let mut own: [u8; TLS_AAD] = aad.try_into().map_err(|_| wrong())?;
        let length = usize::from(u16::from_be_bytes([own[11], own[12]]));
        let mut length = length.checked_sub(EXPLICIT).ok_or_else(wrong)?;
        if self.direction == Direction::Decrypt {
            length = length.checked_sub(self.tag_size).ok_or_else(wrong)?;
        }
        own[11..].copy_from_slice(&(length as u16).to_be_bytes());
        self.tls = Some(own);
        Ok(self.tag_size)
    }

    /// A record of TLS 1.2, in place; bytes of what it becomes.
    fn record(&mut self, aad: [u8; TLS_AAD], data: Input<'_>, out: Output<'_>) -> Result<usize> {
        let session = self.session()?;
        let tag = self.tag_size;
        if data.as_ptr() != out.as_mut_ptr().cast_const() {
            return Err(failed("a record of TLS is worked on in place"));
        }
        let short = || failed("a record that is too short");
        let payload = data.len().checked_sub(EXPLICIT + tag).ok_or_else(short)?;
        let out = room(out, data.len())?;
        if self.direction == Direction::Encrypt {
            // The sequence number, which comes first.
            out.split_at(EXPLICIT).0.copy_from(&aad[..EXPLICIT]);
        }
        let explicit = &mut self.iv[FIXED..FIXED + EXPLICIT];
        data.split_at(EXPLICIT).0.copy_to(explicit);
        let (data, out) = (data.split_at(EXPLICIT).1, out.split_at(EXPLICIT).1);
        let (iv, aad) = (&self.iv[..FIXED + EXPLICIT], Input::from(&aad));
        match self.direction {
            Direction::Encrypt => {
                session.seal(iv, aad, data.split_at(payload).0, out)?;
                Ok(EXPLICIT + payload + tag)
            }
            Direction::Decrypt => {
                session.unseal(iv, aad, data, out.split_at(payload).0)?;
                Ok(payload)
            }
        }
    }
}

impl Running for Message {
    fn new(variant: &'static Variant) -> Message {
        let ccm = variant.algorithm.template() == "ccm";
        Message {
            variant,
            direction: Direction::Encrypt,
            key: None,
            session: None,
            iv: [0; 16],
            iv_size: variant.iv,
            iv_set: false,
            aad: Vec::new(),
            length: None,
            tag: [0; 16],
            tag_size: if ccm { 12 } else { 16 },
            tag_set: false,
            tls: None,
            tls_padding: 0,
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
            if iv.len() != self.iv_size {
                return Err(wrong_iv(self.variant, iv.len()));
            }
            self.iv[..iv.len()].copy_from_slice(iv);
            self.iv_set = true;
            self.aad.clear();
            self.length = None;
        }
        if let Some(key) = key {
            check_key(self.variant, key)?;
            self.key = Some(Secret::new(key));
            self.session = None;
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
        if self.key.is_none() {
            return Err(no_key(self.variant));
        }
        if let Some(aad) = self.tls {
            return match (data, out) {
                (Some(data), Some(out)) => self.record(aad, data, out),
                _ => Err(failed("no record")),
            };
        }
        match (data, out) {
            (None, Some(_)) => return Ok(0),
            _ if !self.iv_set => {
                return Err(failed(format!("{} has no iv", self.variant.chief())));
            }
            (None, None) => self.length = Some(length),
            (Some(data), None) => {
                if self.ccm() && self.length.is_none() && length > 0 {
                    return Err(failed("CCM takes the length of the message before its aad"));
                }
                self.aad.extend_from_slice(&data.to_vec());
            }
            (Some(data), Some(out)) => return self.whole(data, out),
        }
        Ok(length)
    }

    fn finish(&mut self, out: Output<'_>) -> Result<usize> {
        if let Some(kept) = &mut self.kept {
            return kept.finish();
        }
        if self.key.is_none() {
            return Err(no_key(self.variant));
        }
        // Without a piece the message is empty.
        let done = match self.direction {
            Direction::Encrypt => self.tag_set,
            Direction::Decrypt => !self.iv_set,
        };
        if self.tls.is_none() && self.iv_set && !done {
            let empty = out.split_at(0).0;
            self.whole(Input::EMPTY, empty)?;
        }
        Ok(0)
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
        match (data, out) {
            (None, Some(out)) => self.finish(out),
            (None, None) if length == 0 => self.finish(Output::from(&mut [][..])),
            (data, out) => self.update(data, length, out),
        }
    }

    fn keep(&mut self, key: Arc<SecretKey>) -> Result<()> {
        let (variant, direction) = (self.variant, self.direction);
        let iv = self.iv_set.then_some(&self.iv[..self.iv_size]);
        let tag = self.tag_set && direction == Direction::Decrypt;
        let tag = tag.then_some(&self.tag[..self.tag_size]);
        let kept = Sealed::new(variant, key, direction, self.iv_size, iv, tag)?;
        self.kept = Some(Box::new(kept));
        self.key = None;
        self.session = None;
        self.iv_set = false;
        self.tag_set = false;
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
                    if !self.variant.algorithm.tag_sizes.contains(&size) {
                        let sizes = self.variant.algorithm.tag_sizes;
                        let text = format!("a tag of {size} bytes: {sizes:?}");
                        return Err(Error::new(Reason::INVALID_TAG_LENGTH, text));
                    }
                    if let Some(tag) = tag {
                        if self.direction == Direction::Encrypt {
                            let text = "a tag is given to decrypt";
                            return Err(Error::new(Reason::TAG_NOT_NEEDED, text));
                        }
                        self.tag[..size].copy_from_slice(tag);
                        self.tag_set = true;
                    }
                    self.tag_size = size;
                }
                b"ivlen" => {
                    let size = value.size()?;
                    if !self.variant.algorithm.iv.contains(size) {
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
                b"tlsaad" if self.ccm() => {
                    self.tls_padding = self.tls_record(value.octets()?)?;
                }
                b"tlsivfixed" if self.ccm() => {
                    let fixed = value.octets()?;
                    if fixed.len() != FIXED {
                        return Err(wrong_iv(self.variant, fixed.len()));
                    }
                    self.iv[..FIXED].copy_from_slice(fixed);
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
        let mut taken = false;
        asked.answer(|key, slot| match key.to_bytes() {
            b"keylen" => slot.size(self.variant.key),
            b"ivlen" => slot.size(self.iv_size),
            b"taglen" => slot.size(self.tag_size),
            b"iv" | b"updated-iv" => slot.octets_or_ptr(&self.iv[..self.iv_size]),
            b"tlsaadpad" => slot.size(self.tls_padding),
            b"tag" => {
                if self.direction == Direction::Decrypt || !self.tag_set {
                    let text = "there is no tag before the message";
                    return Err(Error::new(Reason::TAG_NOT_SET, text));
                }
                let size = slot.room();
                if size == 0 || size > self.tag_size {
                    let text = format!("a tag of {size} bytes: {}", self.tag_size);
                    return Err(Error::new(Reason::INVALID_TAG_LENGTH, text));
                }
                taken = true;
                slot.octets(&self.tag[..size])
            }
            _ => Ok(()),
        })?;
        if taken && self.ccm() {
            self.tag_set = false;
            self.iv_set = false;
            self.length = None;
        }
        Ok(())
    }

    fn fork(&self) -> Result<Message> {
        Ok(Message {
            variant: self.variant,
            direction: self.direction,
            key: self.key.clone(),
            session: self.session.clone(),
            iv: self.iv,
            iv_size: self.iv_size,
            iv_set: self.iv_set,
            aad: self.aad.clone(),
            length: self.length,
            tag: self.tag,
            tag_size: self.tag_size,
            tag_set: self.tag_set,
            tls: self.tls,
            tls_padding: self.tls_padding,
            kept: self.kept.clone(),
        })
    }
}
