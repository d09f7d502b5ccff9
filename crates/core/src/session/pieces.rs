//! A running cipher: whole blocks to the engine, and where the message is. Every mode's next IV follows from
//! what went through, so it survives the loss of its engine, and a copy goes on from the IV alone.

use super::{Session, counter_wraps};
use crate::engine::{CipherStream, Direction, Work};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::sys::buffer::{Input, Output};
use crate::table::Algorithm;
use std::sync::Arc;

/// Bytes of the longest IV.
const LONGEST: usize = 16;

/// What the next IV follows from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chain {
    Nothing,
    /// The last block of ciphertext.
    Ciphertext,
    /// The number of blocks: 128 bits, big-endian.
    Counter,
    /// The same: 32 bits, little-endian.
    ShortCounter,
}

/// Where a message of a cipher is: the IV with which it would go on.
#[derive(Clone, Copy)]
pub struct Place {
    chain: Chain,
    direction: Direction,
    iv: [u8; LONGEST],
    size: usize,
}

impl Place {
    /// At the beginning. The IV has the algorithm's size.
    pub fn new(algorithm: &'static Algorithm, direction: Direction, iv: &[u8]) -> Place {
        let mut place = Place {
            chain: match algorithm.template() {
                "cbc" | "cfb" => Chain::Ciphertext,
                "ctr" => Chain::Counter,
                "chacha20" => Chain::ShortCounter,
                _ => Chain::Nothing,
            },
            direction,
            iv: [0; LONGEST],
            size: iv.len(),
        };
        place.iv[..iv.len()].copy_from_slice(iv);
        place
    }

    /// At the beginning of another message.
    pub fn begin_again(&mut self, direction: Direction, iv: &[u8]) {
        self.direction = direction;
        self.size = iv.len();
        self.iv[..iv.len()].copy_from_slice(iv);
    }

    /// The IV with which the message would go on from here.
    pub fn iv(&self) -> &[u8] {
        &self.iv[..self.size]
    }

    /// The last block of input, where the next IV comes from the input: in place, it would be gone afterwards.
    pub fn before(&self, data: Input<'_>) -> [u8; LONGEST] {
        let size = self.size;
        let mut last = [0; LONGEST];
        let chained = self.chain == Chain::Ciphertext;
        if chained && self.direction == Direction::Decrypt && data.len() >= size {
            data.split_at(data.len() - size)
                .1
                .copy_to(&mut last[..size]);
        }
        last
    }

    /// Behind whole blocks, of which `before` was kept and `out` came.
    pub fn advance(&mut self, before: &[u8; LONGEST], out: Input<'_>) {
        let (size, length) = (self.size, out.len());
        let iv = &mut self.iv;
        match self.chain {
            Chain::Ciphertext => match self.direction {
                Direction::Decrypt => *iv = *before,
                Direction::Encrypt => {
                    let last = out.split_at(length - size).1;
                    last.copy_to(&mut iv[..size]);
                }
            },
            Chain::Counter => {
                let next = u128::from_be_bytes(*iv).wrapping_add((length / 16) as u128);
                *iv = next.to_be_bytes();
            }
            Chain::ShortCounter => {
                let mut counter = [0u8; 4];
                counter.copy_from_slice(&iv[..4]);
                let next = u32::from_le_bytes(counter).wrapping_add((length / 64) as u32);
                iv[..4].copy_from_slice(&next.to_le_bytes());
            }
            Chain::Nothing => {}
        }
    }
}

/// A message of a cipher in whole blocks; the last piece may be shorter where the mode takes any length.
pub struct Pieces {
    session: Arc<Session>,
    place: Place,
    state: Option<(Box<dyn CipherStream>, u64)>,
    /// Bytes until a counter would wrap.
    left: u64,
}

impl Pieces {
    pub(super) fn new(session: &Arc<Session>, direction: Direction, iv: &[u8]) -> Pieces {
        Pieces {
            session: session.clone(),
            place: Place::new(session.spec.algorithm, direction, iv),
            state: None,
            left: session.counter_room(iv),
        }
    }

    /// Another message under the same key; on the same state, if that is still the session's engine's.
    pub fn begin_again(&mut self, direction: Direction, iv: &[u8]) -> Result<()> {
        self.session.check_iv(iv)?;
        let kept = self.state.as_mut().is_some_and(|(state, generation)| {
            self.session.active.load().generation == *generation && state.begin_again(direction, iv)
        });
        if !kept {
            self.state = None;
        }
        self.place.begin_again(direction, iv);
        self.left = self.session.counter_room(iv);
        Ok(())
    }

    /// The IV with which the message would go on from here.
    pub fn iv(&self) -> &[u8] {
        self.place.iv()
    }

    /// Another that goes on from here.
    pub fn fork(&self) -> Pieces {
        Pieces {
            session: self.session.clone(),
            place: self.place,
            state: None,
            left: self.left,
        }
    }

    /// Whether an engine has begun.
    pub(super) fn begun(&self) -> bool {
        self.state.is_some()
    }

    /// Whole blocks, as long in `out`, which is the same memory or apart.
    pub fn update(&mut self, data: Input<'_>, out: Output<'_>) -> Result<()> {
        super::check_output(out.len(), data.len())?;
        super::check_overlap(data, out)?;
        let block = self.session.spec.algorithm.block;
        if data.len() % block != 0 {
            return Err(Error::invalid(format!(
                "{} bytes: pieces of whole blocks of {block} bytes",
                data.len()
            )));
        }
        if data.is_empty() {
            return Ok(());
        }
        self.pass(data, out, false)
    }

    /// What the beginning of a block becomes, in a mode that takes any length; the message does not go on.
    pub fn look(&self, data: Input<'_>, out: Output<'_>) -> Result<()> {
        super::check_output(out.len(), data.len())?;
        self.session.run(|work| match work {
            Work::Cipher(cipher) => cipher.once(self.place.direction, self.iv(), data, out),
            _ => Err(self.session.not_this("stream")),
        })
    }

    /// Gives blocks to the engine, on the next one if it fails, and learns the next IV.
    pub(super) fn pass(&mut self, data: Input<'_>, out: Output<'_>, last: bool) -> Result<()> {
        let length = data.len() as u64;
        if length > self.left {
            return Err(counter_wraps(data.len(), self.left));
        }
        if self.left != u64::MAX {
            self.left -= length;
        }
        let before = self.place.before(data);
        loop {
            let attempt = match &mut self.state {
                Some((state, generation)) => (state.update(data, out, last), *generation),
                None => {
                    let (direction, iv) = (self.place.direction, self.iv());
                    let state = self.session.run(|work| match work {
                        Work::Cipher(cipher) => cipher.begin(direction, iv),
                        _ => Err(self.session.not_this("stream")),
                    })?;
                    let generation = self.session.active.load().generation;
                    self.state = Some((state, generation));
                    continue;
                }
            };
            match attempt {
                (Ok(()), _) => break,
                (Err(error), generation) if error.kind() == ErrorKind::EngineFailed => {
                    self.state = None;
                    if data.as_ptr() == out.as_mut_ptr().cast_const() {
                        return Err(Error::stale(format!(
                            "{error}; the input was overwritten in place and cannot be repeated"
                        )));
                    }
                    self.session.move_on(generation, &error)?;
                }
                (Err(error), _) => {
                    self.state = None;
                    return Err(error);
                }
            }
        }
        if last {
            self.state = None;
        } else {
            self.place.advance(&before, out.as_input());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Key;
    use crate::secret::Secret;
    use crate::session::Request;

    fn passed(pieces: &mut Pieces, data: &[u8]) -> Vec<u8> {
        let mut out = vec![0; data.len()];
        pieces
            .update(Input::from(data), Output::from(&mut out[..]))
            .unwrap();
        out
    }

    #[test]
    fn a_message_that_is_begun_again_is_as_if_it_were_the_first() {
        for name in ["cbc(aes)", "ctr(aes)", "cfb(aes)", "chacha20", "ecb(aes)"] {
            let request = Request {
                algorithm: name.to_owned(),
                key: Key::Bytes(Secret::new(&[7; 32])),
                ..Request::default()
            };
            let session = Session::open(request).unwrap();
            let size = session.algorithm().iv.max;
            let message = [1u8; 128];
            let fresh = |direction, iv: &[u8], data: &[u8]| {
                passed(&mut session.pieces(direction, iv).unwrap(), data)
            };
            let mut one = session
                .pieces(Direction::Encrypt, &[9; LONGEST][..size])
                .unwrap();
            passed(&mut one, &message);
            for count in 0..4u8 {
                let iv = &[count; LONGEST][..size];
                let wanted = fresh(Direction::Encrypt, iv, &message);
                one.begin_again(Direction::Encrypt, iv).unwrap();
                let (head, tail) = message.split_at(64);
                let made = [passed(&mut one, head), passed(&mut one, tail)].concat();
                assert_eq!(made, wanted, "{name}");
                one.begin_again(Direction::Decrypt, iv).unwrap();
                assert_eq!(passed(&mut one, &wanted), message, "{name}");
                // The engine's state is another's from now on.
                session.move_to("software").unwrap();
            }
            assert!(one.begin_again(Direction::Encrypt, &[0; 5]).is_err());
        }
    }
}
