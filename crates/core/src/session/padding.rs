//! PKCS#7 padding of the last block.

/// PKCS#7 (RFC 5652, 6.3): `block` holds `used` bytes of data; the rest becomes padding.
pub fn pad(block: &mut [u8], used: usize) {
    let filler = (block.len() - used) as u8;
    block[used..].fill(filler);
}

/// How many bytes of `block` are data; `None` if the padding is wrong. Time does not depend on its bytes.
pub fn unpad(block: &[u8]) -> Option<usize> {
    use subtle::{Choice, ConstantTimeEq, ConstantTimeGreater, ConstantTimeLess};
    let size = block.len() as u8;
    let filler = block[block.len() - 1];
    let mut good: Choice = !filler.ct_eq(&0) & !filler.ct_gt(&size);
    for (place, byte) in block.iter().rev().enumerate() {
        let within = (place as u8).ct_lt(&filler);
        good &= !within | byte.ct_eq(&filler);
    }
    bool::from(good).then(|| block.len() - filler as usize)
}
