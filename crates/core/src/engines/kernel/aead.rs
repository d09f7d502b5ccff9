//! Authenticated encryption by AF_ALG's `aead`: one request that the socket's buffers must hold whole.

use super::line::{Exchange, failure};
use super::sys::Control;
use super::{Chosen, Served};
use crate::engine::{Aead as Work, Spec};
use crate::error::{Error, Result};
use crate::sys::buffer::{Input, Output};

/// Bytes asked of the socket's buffers; net.core.wmem_max may give less.
const BUFFERS: usize = 1 << 20;

pub fn open(spec: &Spec, chosen: &Chosen) -> Result<Aead> {
    let nonce = match spec.algorithm.template() {
        "ccm" => Nonce::Ccm,
        "gcm" | "rfc7539" => Nonce::Of12,
        other => return Err(Error::not_offered(format!("no mode {other} over AF_ALG"))),
    };
    let tag = spec.tag_size();
    Ok(Aead {
        served: Served::open(chosen, "aead", &spec.key, Some(tag), BUFFERS)?,
        nonce,
        tag,
    })
}

enum Nonce {
    /// Twelve bytes as they are; the kernel takes no others.
    Of12,
    /// RFC 3610's first block: the size of the length field less one, the nonce, zeros.
    Ccm,
}

/// An AEAD with its key in the kernel.
pub struct Aead {
    served: Served,
    nonce: Nonce,
    tag: usize,
}

/// Associated data that needs no allocation to be received again.
const SMALL: usize = 256;

impl Aead {
    fn request(
        &self,
        encrypt: bool,
        iv: &[u8],
        aad: Input<'_>,
        data: Input<'_>,
        out: Output<'_>,
    ) -> Result<()> {
        let mut block = [0u8; 16];
        let iv = match self.nonce {
            Nonce::Of12 if iv.len() == 12 => iv,
            Nonce::Of12 => {
                return Err(Error::elsewhere(format!(
                    "AF_ALG takes an iv of 12 bytes, not of {}",
                    iv.len()
                )));
            }
            Nonce::Ccm => {
                block[0] = 14 - iv.len() as u8;
                block[1..=iv.len()].copy_from_slice(iv);
                &block[..]
            }
        };
        let room = self.served.lines.room;
        let longest = aad
            .len()
            .saturating_add(data.len())
            .saturating_add(if encrypt { self.tag } else { 0 });
        if longest > room {
            return Err(Error::elsewhere(format!(
                "AF_ALG takes at most {room} bytes of data, associated data and tag at once \
                 (net.core.wmem_max)"
            )));
        }
        self.served.check()?;
        // The kernel gives the associated data back in front of the result: into a place of its own.
        let mut small = [0u8; SMALL];
        let mut large = Vec::new();
        let again = if aad.len() <= SMALL {
            &mut small[..aad.len()]
        } else {
            large.resize(aad.len(), 0);
            &mut large[..]
        };
        let control = Control::new(encrypt, iv).with_aad(aad.len() as u32);
        let request = Exchange {
            control: Some(&control),
            send: &[aad, data],
            more: false,
            receive: &[Output::from(again), out],
        };
        let in_place = out.as_mut_ptr().cast_const() == data.as_ptr();
        self.served.lines.exchange(&request).map_err(|errno| {
            // The kernel leaves unverified plaintext behind when the tag is wrong. After other failures
            // another engine repeats the request, and in place it must find its input.
            if !encrypt && (errno == libc::EBADMSG || !in_place) {
                out.wipe();
            }
            failure(&self.served.driver, errno, in_place)
        })
    }
}

impl Work for Aead {
    fn seal(&self, iv: &[u8], aad: Input<'_>, data: Input<'_>, out: Output<'_>) -> Result<()> {
        self.request(true, iv, aad, data, out)
    }

    fn unseal(&self, iv: &[u8], aad: Input<'_>, data: Input<'_>, out: Output<'_>) -> Result<()> {
        self.request(false, iv, aad, data, out)
    }
}
