//! AEADs message by message (PKCS#11 3.0): the IV and the tag go by the parameter of each.

use crate::cipher;
use crate::ffi::{Generator, Out, Record};
use crate::gather::{self, Gathered};
use crate::mechanism::{self, Does};
use crate::module::{Session, State};
use crate::object::Object;
use crate::parameter::Mechanism;
use crate::rv::{Result, Rv};
use cryptofd_core::engine::Direction;
use cryptofd_core::engines::software;
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::table::Algorithm;
use cryptoki_sys::*;
use std::sync::Arc;

/// A key whose messages are under way.
pub struct Messaging {
    key: Arc<Object>,
    algorithm: &'static Algorithm,
    pub mechanism: CK_MECHANISM_TYPE,
    /// A message that comes in pieces: its associated data, and what came.
    piecewise: Option<(Vec<u8>, Gathered)>,
    /// Messages whose IV was counted: TLS 1.3 has its sequence numbers so.
    counted: u64,
}

/// Both directions.
#[derive(Default)]
pub struct Messages {
    encrypt: Option<Messaging>,
    decrypt: Option<Messaging>,
}

impl Messages {
    fn place(&mut self, direction: Direction) -> &mut Option<Messaging> {
        match direction {
            Direction::Encrypt => &mut self.encrypt,
            Direction::Decrypt => &mut self.decrypt,
        }
    }

    fn running(&mut self, direction: Direction) -> Result<&mut Messaging> {
        self.place(direction)
            .as_mut()
            .ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))
    }

    /// The mechanism under way, which says how a message's parameter is laid out.
    pub fn mechanism(&mut self, direction: Direction) -> Result<CK_MECHANISM_TYPE> {
        Ok(self.running(direction)?.mechanism)
    }
}

/// C_MessageEncryptInit and C_MessageDecryptInit.
pub fn begin(
    state: &State,
    session: &mut Session,
    direction: Direction,
    mechanism: &Mechanism,
    key: CK_OBJECT_HANDLE,
) -> Result<()> {
    if session.messages.place(direction).is_some() {
        return Err(Rv(CKR_OPERATION_ACTIVE));
    }
    let known = mechanism::find(mechanism.kind)?;
    let (Does::Aead, Some(algorithm)) = (known.does, known.algorithm) else {
        return Err(Rv(CKR_MECHANISM_INVALID));
    };
    let key = state.key(session.slot, key)?;
    let usage = match direction {
        Direction::Encrypt => CKA_ENCRYPT,
        Direction::Decrypt => CKA_DECRYPT,
    };
    key.may(usage, mechanism.kind)?;
    // That it is a key of this algorithm.
    cipher::aead(&key, algorithm, algorithm.tag)?;
    *session.messages.place(direction) = Some(Messaging {
        key,
        algorithm,
        mechanism: mechanism.kind,
        piecewise: None,
        counted: 0,
    });
    Ok(())
}

/// C_MessageEncryptFinal and C_MessageDecryptFinal.
pub fn end(session: &mut Session, direction: Direction) -> Result<()> {
    match session.messages.place(direction).take() {
        Some(_) => Ok(()),
        None => Err(Rv(CKR_OPERATION_NOT_INITIALIZED)),
    }
}

/// C_EncryptMessage and C_DecryptMessage.
pub fn whole(
    session: &mut Session,
    direction: Direction,
    record: &mut Record<'_>,
    aad: &[u8],
    data: Input<'_>,
    out: &mut Out<'_>,
) -> Result<()> {
    let messaging = session.messages.running(direction)?;
    if !out.fits(data.len())? {
        return Ok(());
    }
    messaging.message(direction, record, aad, data, out)
}

/// C_EncryptMessageBegin and C_DecryptMessageBegin.
pub fn start(session: &mut Session, direction: Direction, aad: &[u8]) -> Result<()> {
    let messaging = session.messages.running(direction)?;
    if messaging.piecewise.is_some() {
        return Err(Rv(CKR_OPERATION_ACTIVE));
    }
    messaging.piecewise = Some((aad.to_vec(), Gathered::default()));
    Ok(())
}

/// C_EncryptMessageNext and C_DecryptMessageNext: all of it comes out at the end.
pub fn next(
    session: &mut Session,
    direction: Direction,
    record: &mut Record<'_>,
    data: Input<'_>,
    last: bool,
    out: &mut Out<'_>,
) -> Result<()> {
    let messaging = session.messages.running(direction)?;
    let Some((_, came)) = &mut messaging.piecewise else {
        return Err(Rv(CKR_OPERATION_NOT_INITIALIZED));
    };
    if last && !out.fits(came.length_with(data)?)? {
        return Ok(());
    }
    came.push(data)?;
    if !last {
        out.tell(0);
        return Ok(());
    }
    let Some((aad, came)) = messaging.piecewise.take() else {
        return Err(Rv(CKR_OPERATION_NOT_INITIALIZED));
    };
    messaging.message(direction, record, &aad, Input::from(came.bytes()), out)
}

impl Messaging {
    /// The caller's IV with the number of this message in it, or over it.
    fn counted(&mut self, mut iv: Vec<u8>, flexible: usize, over: bool) -> Result<Vec<u8>> {
        let number = self.counted;
        if flexible < 64 && number >> flexible != 0 || number == u64::MAX {
            return Err(Rv(CKR_KEY_EXHAUSTED));
        }
        self.counted += 1;
        let bits = iv.iter_mut().rev();
        for (place, byte) in bits.enumerate().take(flexible.div_ceil(8)) {
            // The bits of this byte that are the counter's.
            let own = match flexible - place * 8 {
                some @ ..8 => (1 << some) - 1,
                _ => 0xff,
            };
            if !over {
                *byte &= !own;
            }
            if place < 8 {
                *byte ^= number.to_le_bytes()[place];
            }
        }
        Ok(iv)
    }

    fn message(
        &mut self,
        direction: Direction,
        record: &mut Record<'_>,
        aad: &[u8],
        data: Input<'_>,
        out: &mut Out<'_>,
    ) -> Result<()> {
        let tag = record.tag_size();
        let served = cipher::aead(&self.key, self.algorithm, tag)?;
        let length = data.len();
        if length > gather::MOST {
            return Err(Rv(CKR_DATA_LEN_RANGE));
        }
        match direction {
            Direction::Encrypt => {
                match record.generator()? {
                    Generator::Given => {}
                    Generator::Counter { flexible } => {
                        let iv = self.counted(record.iv(), flexible, false)?;
                        record.set_iv(&iv);
                    }
                    Generator::Xor { flexible } => {
                        let iv = self.counted(record.iv(), flexible, true)?;
                        record.set_iv(&iv);
                    }
                    Generator::Random => {
                        // A kept key's worker chooses: whoever cannot choose an IV cannot repeat one.
                        if let Some(sealed) = (record.iv().len() == 12)
                            .then(|| served.seal(aad, data))
                            .transpose()?
                            .flatten()
                        {
                            let body = sealed.get(13..).filter(|body| body.len() == length + tag);
                            let body = body.ok_or(Rv(CKR_DEVICE_ERROR))?;
                            record.set_iv(&sealed[1..13]);
                            record.set_tag(&body[length..]);
                            return out.give(&body[..length]);
                        }
                        let mut iv = vec![0; record.iv().len()];
                        software::random(&mut iv)?;
                        record.set_iv(&iv);
                    }
                }
                let mut sealed = vec![0; length + tag];
                let iv = record.iv();
                served.crypt(direction, &iv, aad, data, (&mut sealed).into())?;
                record.set_tag(&sealed[length..]);
                out.give(&sealed[..length])
            }
            Direction::Decrypt => {
                let mut sealed = vec![0; length + tag];
                data.copy_to(&mut sealed[..length]);
                sealed[length..].copy_from_slice(&record.tag());
                let iv = record.iv();
                out.fill(length, |out| {
                    served
                        .crypt(direction, &iv, aad, Input::from(&sealed), out)
                        .map_err(|error| match error.errno() {
                            libc::EBADMSG => Rv(CKR_AEAD_DECRYPT_FAILED),
                            libc::EINVAL => Rv(CKR_MECHANISM_PARAM_INVALID),
                            _ => Rv::from(error),
                        })
                })
            }
        }
    }
}
