//! Ciphers by AF_ALG's `skcipher`.
//!
//! Every request is a whole message with its own IV, and the IV of the next follows from what went
//! through: the kernel's chaining between messages is not used, which for chacha20 and xts does not
//! exist, for some devices is wrong, and would tie a stream to one socket.

use super::line::{Exchange, failure};
use super::sys::Control;
use super::{Chosen, Served};
use crate::engine::{Cipher, CipherStream, Direction, Spec};
use crate::error::{Error, Result};
use crate::sys::buffer::{Input, Output};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Bytes of one request: below every default of net.core.wmem_default, and where more is no faster.
const CHUNK: usize = 64 << 10;

/// Bytes asked of the socket's buffers where a message cannot be cut (xts).
const WHOLE: usize = 1 << 20;

pub fn open(spec: &Spec, chosen: &Chosen) -> Result<Skcipher> {
    let mode = match spec.algorithm.template() {
        "ecb" => Mode::Ecb,
        "cbc" => Mode::Cbc,
        "cfb" => Mode::Cfb,
        "ctr" => Mode::Ctr,
        "chacha20" => Mode::ChaCha20,
        "xts" => Mode::Xts,
        other => return Err(Error::not_offered(format!("no mode {other} over AF_ALG"))),
    };
    let buffers = if mode == Mode::Xts {
        WHOLE
    } else {
        CHUNK + (8 << 10)
    };
    let served = Served::open(chosen, "skcipher", &spec.key, None, buffers)?;
    let block = spec.algorithm.block;
    let room = served.lines.room;
    let chunk = match mode {
        Mode::Xts => room,
        _ => room.min(CHUNK) / block * block,
    };
    Ok(Skcipher(Arc::new(Shared {
        served,
        mode,
        chunk,
    })))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Ecb,
    Cbc,
    Cfb,
    Ctr,
    ChaCha20,
    Xts,
}

struct Shared {
    served: Served,
    mode: Mode,
    chunk: usize,
}

/// A cipher with its key in the kernel.
pub struct Skcipher(Arc<Shared>);

/// Room for the longest IV.
const IV: usize = 16;

struct Stream {
    shared: Arc<Shared>,
    direction: Direction,
    iv: [u8; IV],
    iv_size: usize,
}

impl Shared {
    /// One message, in requests that the socket's buffers hold.
    fn crypt(
        &self,
        direction: Direction,
        iv: &mut [u8],
        data: Input<'_>,
        out: Output<'_>,
    ) -> Result<()> {
        let (mut data, mut out) = (data, out);
        if self.mode == Mode::Xts && data.len() > self.chunk {
            return Err(Error::elsewhere(format!(
                "AF_ALG takes at most {} bytes of xts(aes) at once (net.core.wmem_max)",
                self.chunk
            )));
        }
        let in_place = data.as_ptr() == out.as_mut_ptr().cast_const();
        // Another engine repeats the message when this one fails on the way: it must find the input.
        let whole = out;
        let keep = in_place && self.served.hardware && data.len() > self.chunk;
        let kept = keep.then(|| Zeroizing::new(data.to_vec()));
        let mut done = 0;
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(self.chunk));
            let (place, rest) = out.split_at(now.len());
            if let Err(error) = self.request(direction, iv, now, place, in_place) {
                if let Some(kept) = &kept {
                    whole.copy_from(kept);
                } else if in_place && done > 0 {
                    return Err(Error::stale(format!(
                        "{error}; {done} bytes of the input were overwritten in place and cannot be repeated"
                    )));
                }
                return Err(error);
            }
            done += now.len();
            (data, out) = (later, rest);
        }
        Ok(())
    }

    fn request(
        &self,
        direction: Direction,
        iv: &mut [u8],
        data: Input<'_>,
        out: Output<'_>,
        in_place: bool,
    ) -> Result<()> {
        self.served.check()?;
        // In place, the ciphertext that becomes the next IV is gone afterwards.
        let mut next = [0u8; IV];
        let next = &mut next[..iv.len()];
        let chained = matches!(self.mode, Mode::Cbc | Mode::Cfb) && data.len() >= iv.len();
        if chained && direction == Direction::Decrypt {
            data.split_at(data.len() - iv.len()).1.copy_to(next);
        }
        let control = Control::new(direction == Direction::Encrypt, iv);
        let request = Exchange {
            control: Some(&control),
            send: &[data],
            more: false,
            receive: &[out],
        };
        self.served
            .lines
            .exchange(&request)
            .map_err(|errno| failure(&self.served.driver, errno, in_place))?;
        match self.mode {
            Mode::Cbc | Mode::Cfb if chained => {
                if direction == Direction::Encrypt {
                    let last = out.as_input().split_at(out.len() - iv.len()).1;
                    last.copy_to(next);
                }
                iv.copy_from_slice(next);
            }
            Mode::Ctr => advance_ctr(iv, data.len()),
            Mode::ChaCha20 => advance_chacha20(iv, data.len()),
            _ => {}
        }
        Ok(())
    }
}

/// A counter of 128 bits, big-endian (SP 800-38A, B.1).
fn advance_ctr(iv: &mut [u8], length: usize) {
    let mut counter = [0u8; 16];
    counter.copy_from_slice(iv);
    let blocks = length.div_ceil(16) as u128;
    let next = u128::from_be_bytes(counter).wrapping_add(blocks);
    iv.copy_from_slice(&next.to_be_bytes());
}

/// A counter of 32 bits, little-endian, then the nonce (RFC 8439, 2.4).
fn advance_chacha20(iv: &mut [u8], length: usize) {
    let mut counter = [0u8; 4];
    counter.copy_from_slice(&iv[..4]);
    let blocks = length.div_ceil(64) as u32;
    let next = u32::from_le_bytes(counter).wrapping_add(blocks);
    iv[..4].copy_from_slice(&next.to_le_bytes());
}

impl Cipher for Skcipher {
    fn begin(&self, direction: Direction, iv: &[u8]) -> Result<Box<dyn CipherStream>> {
        let mut own = [0u8; IV];
        own[..iv.len()].copy_from_slice(iv);
        Ok(Box::new(Stream {
            shared: self.0.clone(),
            direction,
            iv: own,
            iv_size: iv.len(),
        }))
    }

    fn once(
        &self,
        direction: Direction,
        iv: &[u8],
        data: Input<'_>,
        out: Output<'_>,
    ) -> Result<()> {
        let mut own = [0u8; IV];
        let own = &mut own[..iv.len()];
        own.copy_from_slice(iv);
        self.0.crypt(direction, own, data, out)
    }
}

impl CipherStream for Stream {
    fn update(&mut self, data: Input<'_>, out: Output<'_>, _last: bool) -> Result<()> {
        let iv = &mut self.iv[..self.iv_size];
        self.shared.crypt(self.direction, iv, data, out)
    }

    fn begin_again(&mut self, direction: Direction, iv: &[u8]) -> bool {
        self.direction = direction;
        self.iv[..iv.len()].copy_from_slice(iv);
        self.iv_size = iv.len();
        true
    }
}
