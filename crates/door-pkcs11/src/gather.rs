//! A message that comes in pieces and is worked on as a whole.

use crate::rv::{Result, Rv};
use cryptofd_core::sys::buffer::Input;
use cryptoki_sys::*;
use zeroize::Zeroizing;

/// Bytes of one.
pub const MOST: usize = 256 << 20;

/// What came so far. It is wiped wherever it was: a vector that grew by itself would leave copies behind.
#[derive(Default)]
pub struct Gathered(Zeroizing<Vec<u8>>);

impl Gathered {
    /// Takes another piece. CKR_DATA_LEN_RANGE beyond the limit.
    pub fn push(&mut self, data: Input<'_>) -> Result<()> {
        let length = self.length_with(data)?;
        if length > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(length.saturating_mul(2)));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        data.pieces(|piece| self.0.extend_from_slice(piece));
        Ok(())
    }

    /// Bytes that there would be with this piece.
    pub fn length_with(&self, data: Input<'_>) -> Result<usize> {
        let length = self.0.len().saturating_add(data.len());
        if length > MOST {
            return Err(Rv(CKR_DATA_LEN_RANGE));
        }
        Ok(length)
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_one() {
        let mut gathered = Gathered::default();
        let mut whole = Vec::new();
        for length in [0, 1, 4096, 7, 10_000, 0, 3] {
            let piece = vec![length as u8; length];
            gathered.push(Input::from(&piece)).unwrap();
            whole.extend_from_slice(&piece);
            assert_eq!(gathered.bytes(), whole);
        }
    }
}
