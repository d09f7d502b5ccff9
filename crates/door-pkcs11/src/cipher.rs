//! Encryption and decryption: ciphers in a stream, AEADs whole, RSA in one block.

use crate::ffi::Out;
use crate::gather::{self, Gathered};
use crate::mechanism::{self, Does};
use crate::module::{Session, State};
use crate::object::{How, Object};
use crate::parameter::{Mechanism, Parameter};
use crate::rv::{Result, Rv, invalid_is};
use crate::served::{Served, Streaming};
use cryptofd_core::engine::Direction;
use cryptofd_core::error::Error;
use cryptofd_core::pair::Options;
use cryptofd_core::sys::buffer::{Input, Output};
use cryptofd_core::table::{self, Algorithm};
use cryptoki_sys::*;
use std::sync::Arc;
use zeroize::Zeroizing;

/// How RSA pads.
pub struct Padding {
    pub scheme: &'static str,
    pub hash: Option<&'static str>,
    pub label: Vec<u8>,
}

impl Padding {
    /// From a mechanism.
    pub fn of(mechanism: &Mechanism, scheme: &'static str) -> Result<Padding> {
        let wrong = Rv(CKR_MECHANISM_PARAM_INVALID);
        match (&mechanism.parameter, scheme) {
            (Parameter::Oaep { hash, mgf, label }, "oaep") => {
                let hash = mechanism::hash(*hash)?;
                if mechanism::mgf(*mgf)? != hash {
                    return Err(wrong);
                }
                Ok(Padding {
                    scheme,
                    hash: Some(hash),
                    label: label.clone(),
                })
            }
            (Parameter::None, "pkcs1" | "raw") => Ok(Padding {
                scheme,
                hash: None,
                label: Vec::new(),
            }),
            _ => Err(wrong),
        }
    }

    /// For the core.
    pub fn options(&self) -> Options<'_> {
        Options {
            scheme: Some(self.scheme),
            hash: self.hash,
            label: (self.scheme == "oaep" && !self.label.is_empty()).then_some(&self.label[..]),
            ..Options::default()
        }
    }
}

enum Mode {
    Cipher(Option<Streaming>),
    /// What has come, until all has.
    Aead {
        aad: Vec<u8>,
        length: Option<usize>,
        came: Gathered,
    },
    Rsa(Padding),
    Wrap,
}

/// Encryption or decryption under way.
pub struct Crypting {
    served: Served,
    direction: Direction,
    iv: Vec<u8>,
    mode: Mode,
    begun: bool,
    /// A result that did not fit: it waits for a larger buffer.
    waiting: Option<Zeroizing<Vec<u8>>>,
}

fn place(session: &mut Session, direction: Direction) -> &mut Option<Crypting> {
    match direction {
        Direction::Encrypt => &mut session.encrypt,
        Direction::Decrypt => &mut session.decrypt,
    }
}

fn running(session: &mut Session, direction: Direction) -> Result<&mut Crypting> {
    let running = place(session, direction).as_mut();
    running.ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))
}

/// The key of a symmetric mechanism is of the right type.
fn right_key(algorithm: &Algorithm, key: CK_KEY_TYPE) -> bool {
    let own = match algorithm.name {
        "xts(aes)" => CKK_AES_XTS,
        "rfc7539(chacha20,poly1305)" => CKK_CHACHA20,
        "cbc(des3_ede)" => CKK_DES3,
        _ => CKK_AES,
    };
    key == own || (own == CKK_AES_XTS && key == CKK_AES)
}

/// The algorithm and what it is opened with, for a symmetric mechanism and its key.
fn symmetric(key: &Object, algorithm: &'static Algorithm) -> Result<&'static Algorithm> {
    if right_key(algorithm, key.key_type()?) {
        Ok(algorithm)
    } else {
        Err(Rv(CKR_KEY_TYPE_INCONSISTENT))
    }
}

/// What an operation needs, from a mechanism and a key.
pub fn prepare(key: &Arc<Object>, mechanism: &Mechanism, direction: Direction) -> Result<Crypting> {
    let known = mechanism::find(mechanism.kind)?;
    let wrong = Rv(CKR_MECHANISM_PARAM_INVALID);
    let (served, iv, mode) = match (known.does, known.algorithm) {
        (Does::Cipher { padded }, Some(algorithm)) => {
            let algorithm = symmetric(key, algorithm)?;
            let how = How {
                pkcs7: padded,
                ..How::default()
            };
            let iv = match &mechanism.parameter {
                // The counter is the whole block: what would wrap within fewer bits is refused.
                Parameter::Counter { bits: 128, block } => block.to_vec(),
                Parameter::Counter { .. } => return Err(wrong),
                _ => mechanism.iv(algorithm.iv.max)?.to_vec(),
            };
            (key.serve(algorithm, how)?, iv, Mode::Cipher(None))
        }
        (Does::Aead, Some(algorithm)) => {
            let Parameter::Aead {
                nonce,
                aad,
                tag,
                length,
            } = &mechanism.parameter
            else {
                return Err(wrong);
            };
            if !algorithm.iv.contains(nonce.len()) {
                return Err(wrong);
            }
            let mode = Mode::Aead {
                aad: aad.clone(),
                length: *length,
                came: Gathered::default(),
            };
            (aead(key, algorithm, *tag)?, nonce.clone(), mode)
        }
        (Does::KeyWrap, Some(algorithm)) => {
            let algorithm = symmetric(key, algorithm)?;
            mechanism.nothing()?;
            let served = key.serve(algorithm, How::default())?;
            (served, Vec::new(), Mode::Wrap)
        }
        (
            Does::Sign {
                scheme: Some(scheme),
                hash: None,
            }
            | Does::Crypt { scheme },
            _,
        ) if known.flags & CKF_ENCRYPT != 0 => {
            if key.key_type()? != CKK_RSA {
                return Err(Rv(CKR_KEY_TYPE_INCONSISTENT));
            }
            let padding = Padding::of(mechanism, scheme)?;
            let served = key.serve(table::find("rsa")?, How::default())?;
            (served, Vec::new(), Mode::Rsa(padding))
        }
        _ => return Err(Rv(CKR_MECHANISM_INVALID)),
    };
    Ok(Crypting {
        served,
        direction,
        iv,
        mode,
        begun: false,
        waiting: None,
    })
}

/// A session on an AEAD's key with tags of so many bytes.
pub fn aead(key: &Object, algorithm: &'static Algorithm, tag: usize) -> Result<Served> {
    if tag != algorithm.tag && !algorithm.tag_sizes.contains(&tag) {
        return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
    }
    let algorithm = symmetric(key, algorithm)?;
    let how = How {
        tag_size: (tag != algorithm.tag).then_some(tag),
        ..How::default()
    };
    key.serve(algorithm, how)
}

/// C_EncryptInit and C_DecryptInit.
pub fn begin(
    state: &State,
    session: &mut Session,
    direction: Direction,
    mechanism: &Mechanism,
    key: CK_OBJECT_HANDLE,
) -> Result<()> {
    if place(session, direction).is_some() {
        return Err(Rv(CKR_OPERATION_ACTIVE));
    }
    let key = state.key(session.slot, key)?;
    let flag = match direction {
        Direction::Encrypt => CKF_ENCRYPT,
        Direction::Decrypt => CKF_DECRYPT,
    };
    if mechanism::flags(mechanism.kind)? & flag == 0 {
        return Err(Rv(CKR_MECHANISM_INVALID));
    }
    let usage = match direction {
        Direction::Encrypt => CKA_ENCRYPT,
        Direction::Decrypt => CKA_DECRYPT,
    };
    key.may(usage, mechanism.kind)?;
    *place(session, direction) = Some(prepare(&key, mechanism, direction)?);
    Ok(())
}

/// C_EncryptInit and C_DecryptInit without a mechanism: what is under way ends.
pub fn cancel(session: &mut Session, direction: Direction) {
    *place(session, direction) = None;
}

/// What a failure means, by what came.
fn failed(direction: Direction, mode: &Mode, length: usize, block: usize) -> impl Fn(Error) -> Rv {
    let rsa = matches!(mode, Mode::Rsa(_));
    let whole = block < 2 || length % block == 0;
    move |error| {
        let decrypts = direction == Direction::Decrypt;
        match error.errno() {
            libc::EBADMSG => Rv(CKR_ENCRYPTED_DATA_INVALID),
            libc::EINVAL | libc::EMSGSIZE if decrypts && (rsa || !whole) => {
                Rv(CKR_ENCRYPTED_DATA_LEN_RANGE)
            }
            libc::EINVAL | libc::EMSGSIZE if rsa || !whole => Rv(CKR_DATA_LEN_RANGE),
            libc::EINVAL if decrypts => Rv(CKR_ENCRYPTED_DATA_INVALID),
            _ => Rv::from(error),
        }
    }
}

impl Crypting {
    /// Bytes that a whole message may become.
    pub fn room(&self, length: usize) -> usize {
        match &self.mode {
            Mode::Rsa(_) => 1024,
            Mode::Wrap => match self.direction {
                Direction::Encrypt => length.next_multiple_of(8) + 8,
                Direction::Decrypt => length,
            },
            _ => self.served.room(self.direction, length),
        }
    }

    /// Bytes that a message may lose when it is decrypted: its padding or its tag.
    fn shrinks(&self) -> usize {
        match self.mode {
            Mode::Aead { .. } => self.served.tag_size(),
            _ => self.served.algorithm().block,
        }
    }

    /// A whole message into `out`, which has `room`.
    fn fill(&self, data: Input<'_>, out: Output<'_>) -> Result<usize> {
        let block = match self.mode {
            Mode::Cipher(_) if !self.served.algorithm().stream => self.served.algorithm().block,
            _ => 1,
        };
        let failed = failed(self.direction, &self.mode, data.len(), block);
        match &self.mode {
            Mode::Cipher(_) => self
                .served
                .crypt(self.direction, &self.iv, &[], data, out)
                .map_err(failed),
            Mode::Aead { aad, length, .. } => {
                if self.direction == Direction::Decrypt && data.len() < self.served.tag_size() {
                    return Err(Rv(CKR_ENCRYPTED_DATA_LEN_RANGE));
                }
                let plain = match self.direction {
                    Direction::Encrypt => data.len(),
                    Direction::Decrypt => data.len() - self.served.tag_size(),
                };
                // CCM says beforehand how long its message is.
                if length.is_some_and(|said| said != plain && said != data.len()) {
                    return Err(Rv(CKR_DATA_LEN_RANGE));
                }
                self.served
                    .crypt(self.direction, &self.iv, aad, data, out)
                    .map_err(failed)
            }
            _ => {
                let result = self.whole(data)?;
                out.split_at(result.len()).0.copy_from(&result);
                Ok(result.len())
            }
        }
    }

    /// The same into memory of our own.
    pub fn whole(&self, data: Input<'_>) -> Result<Zeroizing<Vec<u8>>> {
        // It is held here twice.
        if data.len() > gather::MOST {
            return Err(Rv(CKR_DATA_LEN_RANGE));
        }
        match &self.mode {
            Mode::Rsa(padding) => {
                let failed = failed(self.direction, &self.mode, data.len(), 1);
                let options = padding.options();
                self.served
                    .pair_crypt(self.direction, data, &options)
                    .map_err(failed)
            }
            Mode::Wrap => {
                let data = Zeroizing::new(data.to_vec());
                match self.direction {
                    Direction::Encrypt => {
                        let wrapped = self.served.wrap(&data);
                        Ok(Zeroizing::new(
                            wrapped.map_err(invalid_is(CKR_DATA_LEN_RANGE))?,
                        ))
                    }
                    Direction::Decrypt => {
                        let key = self.served.unwrap(&data);
                        let key = key.map_err(invalid_is(CKR_ENCRYPTED_DATA_LEN_RANGE))?;
                        Ok(Zeroizing::new(key.expose().to_vec()))
                    }
                }
            }
            _ => {
                let mut result = Zeroizing::new(vec![0; self.room(data.len())]);
                let length = self.fill(data, Output::from(&mut *result))?;
                result.truncate(length);
                Ok(result)
            }
        }
    }
}

/// C_Encrypt and C_Decrypt.
pub fn whole(
    session: &mut Session,
    direction: Direction,
    data: Input<'_>,
    out: &mut Out<'_>,
) -> Result<()> {
    let crypting = running(session, direction)?;
    if crypting.begun {
        return Err(Rv(CKR_OPERATION_ACTIVE));
    }
    let most = crypting.room(data.len());
    let exact = matches!(crypting.mode, Mode::Cipher(_) | Mode::Aead { .. });
    if exact && out.capacity().is_some_and(|capacity| capacity >= most) {
        let Some(crypting) = place(session, direction).take() else {
            return Err(Rv(CKR_OPERATION_NOT_INITIALIZED));
        };
        return out.fill(most, |out| crypting.fill(data, out));
    }
    if exact && out.capacity().is_none() {
        out.tell(most);
        return Ok(());
    }
    // What cannot fit is not worked on, and not read.
    let least = match direction {
        Direction::Encrypt => data.len(),
        Direction::Decrypt => data.len().saturating_sub(crypting.shrinks()),
    };
    if exact && out.capacity().is_some_and(|capacity| capacity < least) {
        return out.fits(most).map(drop);
    }
    // Its length is known when it is there; or it may fit though it might not have.
    let result = match crypting.waiting.take() {
        Some(result) => result,
        None => match crypting.whole(data) {
            Ok(result) => result,
            Err(error) => {
                cancel(session, direction);
                return Err(error);
            }
        },
    };
    match out.fits(result.len()) {
        Ok(true) => {
            cancel(session, direction);
            out.give(&result)
        }
        other => {
            running(session, direction)?.waiting = Some(result);
            other.map(drop)
        }
    }
}

/// C_EncryptUpdate and C_DecryptUpdate.
pub fn update(
    session: &mut Session,
    direction: Direction,
    data: Input<'_>,
    out: &mut Out<'_>,
) -> Result<()> {
    let done = running(session, direction)?.update(data, out);
    if done.is_err_and(|error| error.0 != CKR_BUFFER_TOO_SMALL) {
        cancel(session, direction);
    }
    done
}

/// C_EncryptFinal and C_DecryptFinal.
pub fn finish(session: &mut Session, direction: Direction, out: &mut Out<'_>) -> Result<()> {
    let asked = out.capacity().is_none();
    let done = running(session, direction)?.finish(out);
    match done {
        Ok(()) if asked => {}
        Err(Rv(CKR_BUFFER_TOO_SMALL)) => {}
        _ => cancel(session, direction),
    }
    done
}

impl Crypting {
    fn update(&mut self, data: Input<'_>, out: &mut Out<'_>) -> Result<()> {
        let (direction, block) = (self.direction, self.served.algorithm().block);
        match &mut self.mode {
            Mode::Cipher(stream) => {
                let stream = match stream {
                    Some(stream) => stream,
                    None => stream.insert(self.served.stream(direction, &self.iv)?),
                };
                let most = stream.room(data.len(), block);
                let Some(capacity) = out.capacity() else {
                    out.tell(most);
                    return Ok(());
                };
                self.begun = true;
                if capacity >= most {
                    return out.fill(most, |out| Ok(stream.update(data, out)?));
                }
                // What comes is at most this; nothing was taken yet.
                out.tell(most);
                Err(Rv(CKR_BUFFER_TOO_SMALL))
            }
            Mode::Aead { came, .. } => {
                if out.capacity().is_some() {
                    self.begun = true;
                    came.push(data)?;
                }
                out.tell(0);
                Ok(())
            }
            _ => Err(Rv(CKR_FUNCTION_NOT_SUPPORTED)),
        }
    }

    fn finish(&mut self, out: &mut Out<'_>) -> Result<()> {
        let block = self.served.algorithm().block;
        let (direction, length) = (self.direction, self.iv.len());
        if let Mode::Aead { came, .. } = &mut self.mode {
            if self.waiting.is_none() {
                let most = self.served.room(direction, came.bytes().len());
                if out.capacity().is_none_or(|capacity| capacity < most) {
                    return out.fits(most).map(drop);
                }
                let came = std::mem::take(came);
                self.waiting = Some(self.whole(Input::from(came.bytes()))?);
            }
        } else if let Mode::Cipher(stream) = &mut self.mode {
            if self.waiting.is_none() {
                let stream = match stream {
                    Some(stream) => stream,
                    None => stream.insert(self.served.stream(direction, &self.iv[..length])?),
                };
                let most = stream.final_room(block);
                if out.capacity().is_none() {
                    out.tell(most);
                    return Ok(());
                }
                let mut result = Zeroizing::new(vec![0; most]);
                let given = stream.finish(Output::from(&mut *result));
                let given = given.map_err(|error| match (direction, error.errno()) {
                    (Direction::Encrypt, libc::EINVAL) => Rv(CKR_DATA_LEN_RANGE),
                    (Direction::Decrypt, libc::EINVAL) => Rv(CKR_ENCRYPTED_DATA_LEN_RANGE),
                    _ => Rv::from(error),
                })?;
                result.truncate(given);
                self.waiting = Some(result);
            }
        } else {
            return Err(Rv(CKR_FUNCTION_NOT_SUPPORTED));
        }
        let result = self.waiting.as_ref().ok_or(Rv(CKR_GENERAL_ERROR))?;
        if out.fits(result.len())? {
            out.give(result)?;
        }
        Ok(())
    }
}
