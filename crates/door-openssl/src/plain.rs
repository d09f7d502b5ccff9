//! Ciphers without authentication, and key wrapping.

use crate::cipher::{Running, Variant, Way, check_key, failed, no_key, room, wrong_iv};
use crate::context::Provider;
use crate::error::{Error, Reason, Result};
use crate::ffi::host;
use crate::ffi::params::{Asked, Given, Own};
use crate::ffi::types::op;
use crate::secret_key::{PARAMETER, SecretKey};
use crate::served::{Pieces, Served};
use crate::sessions;
use cryptofd_core::engine::Direction;
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{pad, unpad};
use cryptofd_core::sys::buffer::{Input, Output};
use std::sync::Arc;
use zeroize::Zeroize;

/// Bytes of the longest block (ChaCha20's).
const LONGEST: usize = 64;

/// A cipher under way.
pub struct Plain {
    variant: &'static Variant,
    direction: Direction,
    session: Option<Served>,
    /// As it was given, and with which it goes on: what programs look at.
    first_iv: [u8; 16],
    iv: [u8; 16],
    iv_set: bool,
    padding: bool,
    /// Whether ChaCha20's counter counts the block that is under way, as OpenSSL 3.6 and later have it.
    counts: bool,
    /// The engine's side, kept from message to message.
    pieces: Option<Pieces>,
    /// Whether the message is under way there.
    begun: bool,
    /// The beginning of a block: what waits for its rest, or (where any length goes) what has gone in.
    held: [u8; LONGEST],
    holds: usize,
    /// The host's own: for TLS's CBC, and for what programs rarely ask.
    host: Option<host::Cipher>,
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.held.zeroize();
    }
}

impl Plain {
    /// From now on the host's own implementation does it, with this key or from where this is.
    fn hand_over(&mut self, provider: &Provider, key: Option<&[u8]>) -> Result<()> {
        let name = self.variant.chief();
        let none = || {
            Error::new(
                Reason::NOT_SUPPORTED,
                format!("no other provider has {name}"),
            )
        };
        let mut host = provider.host(op::CIPHER, name).ok_or_else(none)?.cipher()?;
        if self.holds > 0 {
            return Err(failed("too late: data have gone in"));
        }
        let own = self.session.as_ref();
        let own = own.map(|served| served.bytes(name)).transpose()?;
        if let Some(key) = key.or(own) {
            let size = self.variant.iv;
            let at = self.updated_iv();
            let iv = (self.iv_set && size > 0).then_some(&at[..size]);
            host.init(self.direction, Some(key), iv, Given::NONE)?;
        }
        if self.variant.way == Way::Blocks {
            let mut own = Own::default();
            own.size(c"padding", self.padding.into());
            host.set_params(own.given())?;
        }
        self.host = Some(host);
        Ok(())
    }

    fn session(&self) -> Result<&Served> {
        self.session.as_ref().ok_or_else(|| no_key(self.variant))
    }

    fn size(&self) -> usize {
        self.variant.iv
    }

    /// The engine's side, from the IV on.
    fn pieces(&mut self) -> Result<&mut Pieces> {
        if !self.begun {
            let size = if self.variant.way == Way::Blocks || self.variant.way == Way::Stream {
                self.size()
            } else {
                0
            };
            let iv = &self.iv[..size];
            match &mut self.pieces {
                Some(pieces) => pieces.begin_again(self.direction, iv)?,
                None => self.pieces = Some(self.session()?.pieces(self.direction, iv)?),
            }
            self.begun = true;
        }
        let none = Error::new(Reason::INTERNAL, "no pieces");
        self.pieces.as_mut().ok_or(none)
    }

    /// Whole blocks.
    fn pass(&mut self, data: Input<'_>, out: Output<'_>) -> Result<()> {
        self.pieces()?.update(data, out)
    }

    /// Any length at any time. The beginning of a block is computed again with what comes after it, so that
    /// no engine has to keep its middle.
    fn stream(&mut self, data: Input<'_>, out: Output<'_>) -> Result<usize> {
        let block = self.variant.algorithm.block;
        let length = data.len();
        let out = room(out, length)?;
        let (mut rest, mut to) = (data, out);
        if self.holds > 0 && length > 0 {
            let before = self.holds;
            let take = (block - before).min(length);
            let (fill, after) = rest.split_at(take);
            fill.copy_to(&mut self.held[before..before + take]);
            let (target, space) = to.split_at(take);
            self.part(before, before + take, target)?;
            (rest, to) = (after, space);
        }
        let whole = rest.len() - rest.len() % block;
        if whole > 0 {
            let (bulk, after) = rest.split_at(whole);
            let (target, space) = to.split_at(whole);
            self.pass(bulk, target)?;
            (rest, to) = (after, space);
        }
        if !rest.is_empty() {
            rest.copy_to(&mut self.held[..rest.len()]);
            self.part(0, rest.len(), to)?;
        }
        Ok(length)
    }

    /// What the held bytes from `before` to `after` become; a whole block goes to the engine for good.
    fn part(&mut self, before: usize, after: usize, out: Output<'_>) -> Result<()> {
        let mut result = zeroize::Zeroizing::new([0u8; LONGEST]);
        let held = self.held;
        let (data, result_to) = (
            Input::from(&held[..after]),
            Output::from(&mut result[..after]),
        );
        if after == self.variant.algorithm.block {
            self.pass(data, result_to)?;
            self.holds = 0;
        } else {
            self.pieces()?.look(data, result_to)?;
            self.holds = after;
        }
        out.copy_from(&result[before..after]);
        Ok(())
    }

    /// Whole blocks, and what is over waits; of what is to be unpadded the last block waits too.
    fn blocks(&mut self, data: Input<'_>, out: Output<'_>) -> Result<usize> {
        let block = self.variant.block;
        let waits = self.direction == Direction::Decrypt && self.padding;
        let (mut rest, mut given) = (data, 0);
        if self.holds > 0 {
            let take = (block - self.holds).min(rest.len());
            let (fill, after) = rest.split_at(take);
            fill.copy_to(&mut self.held[self.holds..self.holds + take]);
            self.holds += take;
            rest = after;
            if self.holds == block && (!waits || !rest.is_empty()) {
                let target = room(out, block)?;
                let held = self.held;
                self.pass(Input::from(&held[..block]), target)?;
                self.holds = 0;
                given = block;
            }
        }
        let mut whole = rest.len() - rest.len() % block;
        if waits && whole > 0 && whole == rest.len() {
            whole -= block;
        }
        if whole > 0 {
            let (bulk, after) = rest.split_at(whole);
            let target = room(out, given + whole)?.split_at(given).1;
            self.pass(bulk, target)?;
            given += whole;
            rest = after;
        }
        if !rest.is_empty() {
            rest.copy_to(&mut self.held[self.holds..self.holds + rest.len()]);
            self.holds += rest.len();
        }
        Ok(given)
    }

    fn last_block(&mut self, out: Output<'_>) -> Result<usize> {
        let block = self.variant.block;
        let wrong = || {
            Error::new(
                Reason::WRONG_FINAL_BLOCK_LENGTH,
                format!("the message is not whole blocks of {block} bytes"),
            )
        };
        match self.direction {
            Direction::Encrypt if self.padding => pad(&mut self.held[..block], self.holds),
            _ if self.holds == 0 && !self.padding => return Ok(0),
            _ if self.holds != block => return Err(wrong()),
            _ => {}
        }
        let mut result = zeroize::Zeroizing::new([0u8; LONGEST]);
        let held = self.held;
        self.pass(
            Input::from(&held[..block]),
            Output::from(&mut result[..block]),
        )?;
        self.holds = 0;
        let length = match self.direction {
            Direction::Decrypt if self.padding => unpad(&result[..block]).ok_or_else(|| {
                Error::new(Reason::BAD_DECRYPT, "the padding is wrong: key, iv or data")
            })?,
            _ => block,
        };
        room(out, length)?.copy_from(&result[..length]);
        Ok(length)
    }

    /// A data unit of XTS.
    fn unit(&mut self, data: Input<'_>, out: Output<'_>) -> Result<usize> {
        let algorithm = self.variant.algorithm;
        if !self.iv_set {
            return Err(failed(format!("{} has no iv", self.variant.chief())));
        }
        if data.len() as u64 > algorithm.max_message {
            return Err(Error::new(
                Reason::XTS_DATA_UNIT_IS_TOO_LARGE,
                format!("{} bytes: at most {}", data.len(), algorithm.max_message),
            ));
        }
        let out = room(out, data.len())?;
        let iv = &self.iv[..self.size()];
        self.session()?.crypt(self.direction, iv, data, out)
    }

    /// A key.
    fn wrap(&mut self, data: Input<'_>, out: Option<Output<'_>>) -> Result<usize> {
        let length = data.len();
        let padded = self.variant.iv == 4;
        let wrong = match self.direction {
            Direction::Encrypt => length == 0 || (!padded && length % 8 != 0),
            Direction::Decrypt => length < 16 || length % 8 != 0,
        };
        if wrong {
            let text = format!("{length} bytes for {}", self.variant.chief());
            return Err(Error::new(Reason::INVALID_INPUT_LENGTH, text));
        }
        let most = match self.direction {
            Direction::Encrypt => length.next_multiple_of(8) + 8,
            Direction::Decrypt => length - 8,
        };
        let Some(out) = out else {
            return Ok(most);
        };
        let session = self.session()?;
        match self.direction {
            Direction::Encrypt => {
                let key = Secret::new(&zeroize::Zeroizing::new(data.to_vec()));
                let wrapped = session.wrap(key.expose())?;
                room(out, wrapped.len())?.copy_from(&wrapped);
                Ok(wrapped.len())
            }
            Direction::Decrypt => {
                let key = session
                    .unwrap(&data.to_vec())
                    .map_err(|error| failed(error.text))?;
                room(out, key.len())?.copy_from(key.expose());
                Ok(key.len())
            }
        }
    }

    /// OpenSSL's counters count the block that is under way, and its feedback is what it will be.
    fn updated_iv(&self) -> [u8; 16] {
        let mut iv = self.iv;
        let Some(pieces) = self.pieces.as_ref().filter(|_| self.begun) else {
            return iv;
        };
        iv[..pieces.iv().len()].copy_from_slice(pieces.iv());
        if self.variant.way == Way::Stream && self.holds > 0 {
            match self.variant.algorithm.template() {
                "ctr" => iv = u128::from_be_bytes(iv).wrapping_add(1).to_be_bytes(),
                "chacha20" if self.counts => {
                    if let Some((counter, _)) = iv.split_first_chunk_mut() {
                        *counter = u64::from_le_bytes(*counter).wrapping_add(1).to_le_bytes();
                    }
                }
                "cfb" => {
                    // What is left of E(iv), with the ciphertext so far before it.
                    let stream = Output::from(&mut iv[..]);
                    if pieces.look(Input::from(&[0u8; 16]), stream).is_ok() {
                        for (place, byte) in self.held[..self.holds].iter().enumerate() {
                            iv[place] = match self.direction {
                                Direction::Decrypt => *byte,
                                Direction::Encrypt => iv[place] ^ byte,
                            };
                        }
                    }
                }
                _ => {}
            }
        }
        iv
    }
}

impl Running for Plain {
    fn new(variant: &'static Variant) -> Plain {
        Plain {
            variant,
            direction: Direction::Encrypt,
            session: None,
            first_iv: [0; 16],
            iv: [0; 16],
            iv_set: false,
            padding: true,
            counts: false,
            pieces: None,
            begun: false,
            held: [0; LONGEST],
            holds: 0,
            host: None,
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
        if params.find(PARAMETER).is_some() {
            self.host = None;
        }
        if let Some(host) = &mut self.host {
            return host.init(direction, key, iv, params);
        }
        self.counts = provider.has((3, 6));
        // Without an IV, chaining modes begin again with the first that was given, and counters go on; ChaCha20 in
        // the middle of its block, if no key is new.
        let within = self.begun
            && self.pieces.is_some()
            && key.is_none()
            && iv.is_none()
            && self.variant.algorithm.template() == "chacha20";
        if !within {
            self.iv = if self.variant.chained() && self.iv_set {
                self.first_iv
            } else {
                self.updated_iv()
            };
            self.begun = false;
            self.holds = 0;
        }
        self.direction = direction;
        let mut custom = false;
        if let Some(iv) = iv.filter(|_| self.size() > 0) {
            if iv.len() != self.size() {
                return Err(wrong_iv(self.variant, iv.len()));
            }
            self.first_iv[..iv.len()].copy_from_slice(iv);
            self.iv = self.first_iv;
            self.iv_set = true;
            // RFC 3394's and RFC 5649's initial values are the only ones that engines know.
            let own: &[u8] = match self.size() {
                8 => &[0xa6; 8],
                _ => &[0xa6, 0x59, 0x59, 0xa6],
            };
            custom = self.variant.way == Way::Wrap && iv != own;
        }
        if let Some(key) = key {
            check_key(self.variant, key)?;
            if self.variant.way == Way::Unit {
                let (one, two) = key.split_at(key.len() / 2);
                if cryptofd_core::secret::equal(one, two) {
                    if direction == Direction::Encrypt {
                        let text = "the two halves of the key are the same";
                        return Err(Error::new(Reason::XTS_DUPLICATED_KEYS, text));
                    }
                    // What somebody encrypted so can be decrypted, though not by our engines.
                    self.hand_over(provider, Some(key))?;
                    return self.set_params(provider, params);
                }
            }
            let own = self.session.as_ref().and_then(Served::here);
            if !sessions::has_key(own, key) {
                let made = sessions::with_key(self.variant.algorithm, key)?;
                self.session = Some(Served::Here(made));
                self.pieces = None;
            }
        }
        if custom {
            self.hand_over(provider, None)?;
        }
        self.set_params(provider, params)
    }

    fn update(
        &mut self,
        data: Option<Input<'_>>,
        length: usize,
        out: Option<Output<'_>>,
    ) -> Result<usize> {
        let data = data.unwrap_or(Input::EMPTY);
        if let Some(host) = &mut self.host {
            let out = out.unwrap_or(Output::from(&mut [][..]));
            return host.update(data, out);
        }
        self.session()?;
        if length == 0 && !matches!(self.variant.way, Way::Unit | Way::Blocks) {
            return Ok(0);
        }
        if self.variant.way == Way::Wrap {
            return self.wrap(data, out);
        }
        let out = out.ok_or_else(|| failed("no room for the output"))?;
        match self.variant.way {
            Way::Blocks => self.blocks(data, out),
            Way::Unit => self.unit(data, out),
            _ => self.stream(data, out),
        }
    }

    fn finish(&mut self, out: Output<'_>) -> Result<usize> {
        if let Some(host) = &mut self.host {
            return host.finish(out);
        }
        self.session()?;
        match self.variant.way {
            Way::Blocks => self.last_block(out),
            _ => Ok(0),
        }
    }

    fn once(
        &mut self,
        data: Option<Input<'_>>,
        length: usize,
        out: Option<Output<'_>>,
    ) -> Result<usize> {
        if let Some(host) = &mut self.host {
            let out = out.unwrap_or(Output::from(&mut [][..]));
            return host.once(data.unwrap_or(Input::EMPTY), out);
        }
        match (self.variant.way, data, out) {
            (Way::Blocks, Some(data), Some(out)) => {
                self.session()?;
                let out = room(out, length)?;
                self.pass(data, out)?;
                Ok(length)
            }
            (_, data, out) => self.update(data, length, out),
        }
    }

    fn keep(&mut self, key: Arc<SecretKey>) -> Result<()> {
        if self.variant.way == Way::Wrap {
            return Err(Error::new(
                Reason::UNSUPPORTED,
                "a key of the broker's that wraps keys does so for the broker alone: cryptofd key wrap",
            ));
        }
        key.serves(
            self.variant.algorithm,
            Some(self.variant.key),
            self.variant.chief(),
        )?;
        self.session = Some(Served::There(key));
        self.host = None;
        self.pieces = None;
        self.begun = false;
        self.holds = 0;
        Ok(())
    }

    fn asks(&self) -> bool {
        self.session.as_ref().is_some_and(Served::asks)
    }

    fn set_params(&mut self, provider: &Provider, params: Given<'_>) -> Result<()> {
        if let Some(value) = params.find(PARAMETER) {
            self.keep(SecretKey::given(&value)?)?;
        }
        if self.host.is_none() {
            for value in params.iter() {
                match value.key().to_bytes() {
                    b"padding" => self.padding = value.uint()? != 0,
                    b"keylen" => {
                        let size = value.size()?;
                        if size != self.variant.key {
                            return Err(Error::new(
                                Reason::INVALID_KEY_LENGTH,
                                format!("keylen={size} for {}", self.variant.chief()),
                            ));
                        }
                    }
                    b"ivlen" if self.variant.algorithm.template() == "chacha20" => {
                        let size = value.size()?;
                        if size != self.size() {
                            return Err(wrong_iv(self.variant, size));
                        }
                    }
                    b"num" if value.uint()? as usize != self.holds => {
                        self.hand_over(provider, None)?;
                        break;
                    }
                    b"tls-version" if value.uint()? > 0 => {
                        self.hand_over(provider, None)?;
                        break;
                    }
                    _ => {}
                }
            }
        }
        match &mut self.host {
            Some(host) => host.set_params(params),
            None => Ok(()),
        }
    }

    fn get_params(&mut self, provider: &Provider, asked: &mut Asked<'_>) -> Result<()> {
        if let Some(host) = &self.host {
            return host.get_params(asked);
        }
        let size = self.size();
        let makes_keys = self.variant.makes_keys();
        let mut random = false;
        asked.answer(|key, slot| match key.to_bytes() {
            b"keylen" => slot.size(self.variant.key),
            b"ivlen" => slot.size(size),
            b"padding" => slot.integer(self.padding.into()),
            b"num" if self.variant.way == Way::Stream => slot.size(self.holds),
            b"num" => slot.size(0),
            b"iv" => slot.octets_or_ptr(&self.first_iv[..size]),
            b"updated-iv" if self.holds > 0 => slot.octets(&self.updated_iv()[..size]),
            b"updated-iv" => {
                // Kept in the context, for it may be asked for by its address.
                self.iv = self.updated_iv();
                slot.octets_or_ptr(&self.iv[..size])
            }
            b"randkey" if makes_keys => {
                random = true;
                Ok(())
            }
            _ => Ok(()),
        })?;
        if random {
            let name = self.variant.chief();
            let found = provider.host(op::CIPHER, name);
            let none = Error::new(Reason::NOT_SUPPORTED, "no other provider makes DES keys");
            return found.ok_or(none)?.cipher()?.get_params(asked);
        }
        Ok(())
    }

    fn fork(&self) -> Result<Plain> {
        Ok(Plain {
            variant: self.variant,
            direction: self.direction,
            session: self.session.clone(),
            first_iv: self.first_iv,
            iv: self.iv,
            iv_set: self.iv_set,
            padding: self.padding,
            counts: self.counts,
            pieces: self.pieces.as_ref().map(Pieces::fork),
            begun: self.begun,
            held: self.held,
            holds: self.holds,
            host: self.host.as_ref().map(host::Cipher::fork).transpose()?,
        })
    }
}
