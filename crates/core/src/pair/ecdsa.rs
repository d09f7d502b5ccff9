//! ECDSA's signature in its two forms: DER (X9.62, RFC 3279 section 2.2.3), and r and s one after the other
//! (IEEE P1363, RFC 7518 section 3.4).

use crate::error::{Error, Result};

/// r and s of `size` bytes each, of the DER that an engine gave.
pub fn to_raw(der: &[u8], size: usize) -> Result<Vec<u8>> {
    parse(der, size).ok_or_else(|| Error::engine_failed(libc::EIO, "an ECDSA signature is no DER"))
}

fn parse(der: &[u8], size: usize) -> Option<Vec<u8>> {
    let (body, rest) = element(der, 0x30)?;
    let (r, body) = element(body, 0x02)?;
    let (s, body) = element(body, 0x02)?;
    if !rest.is_empty() || !body.is_empty() {
        return None;
    }
    let mut raw = vec![0; 2 * size];
    for (number, place) in [r, s].into_iter().zip(raw.chunks_mut(size)) {
        let zeros = number.iter().take_while(|b| **b == 0).count();
        let number = &number[zeros..];
        let at = size.checked_sub(number.len())?;
        place[at..].copy_from_slice(number);
    }
    Some(raw)
}

/// The content of the element of this tag that `der` begins with, and what follows.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (head, rest) = der.split_at_checked(2)?;
    if head[0] != tag {
        return None;
    }
    let (length, rest) = match head[1] {
        length @ 0..=0x7f => (length, rest),
        0x81 => (*rest.first()?, &rest[1..]),
        _ => return None,
    };
    rest.split_at_checked(length.into())
}

/// The DER of r and s of `size` bytes each; `None` if it is not as long as that.
pub fn from_raw(raw: &[u8], size: usize) -> Option<Vec<u8>> {
    if raw.len() != 2 * size {
        return None;
    }
    let mut body = Vec::with_capacity(raw.len() + 6);
    for number in raw.chunks(size) {
        let zeros = number.iter().take_while(|b| **b == 0).count();
        let number = &number[zeros.min(size - 1)..];
        let sign = number[0] >= 0x80;
        body.extend([0x02, (number.len() + usize::from(sign)) as u8]);
        body.extend(sign.then_some(0));
        body.extend_from_slice(number);
    }
    let mut der = vec![0x30];
    if body.len() >= 0x80 {
        der.push(0x81);
    }
    der.push(body.len() as u8);
    der.append(&mut body);
    Some(der)
}
