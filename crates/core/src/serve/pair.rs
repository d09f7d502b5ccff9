//! A request to an asymmetric session.

use super::connection::State;
use super::work::{copied, room};
use crate::error::{Error, Result};
use crate::record::{HEADER, Incoming, Op};
use crate::sys::buffer::Input;
use crate::sys::thread;

/// Does `request`, whose aad and data are `aad` and `data`: an answer's record with room for the header.
pub fn work(state: &State, request: &Incoming<'_>, aad: &[u8], data: &[u8]) -> Result<Vec<u8>> {
    thread::goes_deep();
    let session = state.session();
    let options = request.params.pair();
    let input = Input::from(data);
    let refused =
        |what: &str| Error::invalid(format!("{} takes no {what}", session.algorithm().name));
    match request.op {
        Op::Encrypt | Op::Decrypt if !request.iv.is_empty() => Err(refused("iv")),
        Op::Encrypt | Op::Decrypt if !aad.is_empty() => Err(refused("aad")),
        Op::Sign => copied(&session.sign(input, false, &options)?),
        Op::SignDigest => copied(&session.sign(input, true, &options)?),
        Op::VerifySignature | Op::VerifyDigest => {
            let prehashed = request.op == Op::VerifyDigest;
            let signature = request.params.tag.ok_or_else(|| {
                let name = request.op.name();
                Error::invalid(format!(
                    "{name}: the parameter TAG, the signature, is missing"
                ))
            })?;
            session.verify_signature(input, prehashed, signature, &options)?;
            room(0)
        }
        Op::PublicKey => copied(session.public_key()?),
        Op::Agree => copied(session.agree(data)?.expose()),
        Op::Encapsulate => {
            let (ciphertext, secret) = session.encapsulate()?;
            let length = ciphertext.len() as u32;
            let mut result = room(4 + ciphertext.len() + secret.len())?;
            let (head, rest) = result[HEADER..].split_at_mut(4);
            head.copy_from_slice(&length.to_le_bytes());
            let (first, last) = rest.split_at_mut(ciphertext.len());
            first.copy_from_slice(&ciphertext);
            last.copy_from_slice(secret.expose());
            Ok(result)
        }
        Op::Decapsulate => copied(session.decapsulate(data)?.expose()),
        Op::Encrypt => copied(&session.pair_encrypt(input, &options)?),
        Op::Decrypt => copied(session.pair_decrypt(input, &options)?.expose()),
        op => Err(Error::unsupported(format!(
            "{} is a pair: it does no {}",
            session.algorithm().name,
            op.name()
        ))),
    }
}
