//! The record: one request or one answer on a descriptor (interface/record.toml, docs/wire.md).
//!
//! Parsing takes bytes from anybody: every length is checked, nothing panics.

use crate::engine::{Derivation, Direction};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::pair;
use crate::sys::buffer::Input;

/// The version written here.
pub const VERSION: u8 = 1;
/// Bytes of the header written here.
pub const HEADER: usize = 64;
/// Bytes of the longest header taken; those beyond `HEADER` must be zero.
pub const HEADER_MAX: usize = 256;
/// Bytes of payload that always fit into a record, whatever tag or padding comes with them.
pub const INLINE: usize = 65536;
/// Bytes of the longest record.
pub const RECORD: usize = 81920;
/// Bytes of the largest attached memfd.
pub const ATTACHED: usize = 64 << 20;
/// Most bytes of an error's sentence.
pub const MESSAGE: usize = 1024;
/// Most bytes of data in an answer's record: the payload and what an algorithm adds to it.
pub const INLINE_ANSWER: usize = INLINE + 1024;

/// The header's fields: name, offset, bytes.
pub const FIELDS: [(&str, usize, usize); 15] = [
    ("size", 0, 2),
    ("version", 2, 1),
    ("kind", 3, 1),
    ("op", 4, 2),
    ("flags", 6, 2),
    ("id", 8, 8),
    ("epoch", 16, 4),
    ("status", 20, 4),
    ("iv", 24, 4),
    ("aad", 28, 4),
    ("params", 32, 4),
    ("data", 36, 4),
    ("attached", 40, 8),
    ("attached_aad", 48, 8),
    ("reserved", 56, 8),
];

/// The payload is in the attached memfd.
pub const FLAG_ATTACHED: u16 = 1;
/// VERIFY: the running state, then the data.
pub const FLAG_RUNNING: u16 = 2;

const REQUEST: u8 = 1;
const ANSWER: u8 = 2;
/// A fresh worker serves from here on; nothing but a header.
const EPOCH: u8 = 3;
/// There is news on the ring; nothing but a header.
const BELL: u8 = 4;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[allow(missing_docs)]
pub enum Op {
    Info = 1,
    Clone = 2,
    Cancel = 3,
    Ring = 4,
    Encrypt = 16,
    Decrypt = 17,
    Digest = 18,
    Verify = 19,
    Wrap = 20,
    Unwrap = 21,
    Derive = 22,
    Random = 23,
    Seal = 24,
    Unseal = 25,
    Update = 32,
    Finish = 33,
    Reset = 34,
    Peek = 35,
    SignDigest = 38,
    VerifyDigest = 39,
    Sign = 40,
    VerifySignature = 41,
    PublicKey = 42,
    Agree = 43,
    Encapsulate = 44,
    Decapsulate = 45,
    HashKey = 46,
    StreamBegin = 48,
    StreamUpdate = 49,
    StreamFinish = 50,
}

/// What a request of one op may carry.
struct Takes {
    iv: bool,
    aad: bool,
    data: bool,
    flags: u16,
    params: &'static [u16],
}

impl Takes {
    fn check(&self, name: &str, iv: bool, aad: bool, data: bool) -> Result<()> {
        for (has, may, what) in [
            (iv, self.iv, "iv"),
            (aad, self.aad, "aad"),
            (data, self.data, "data"),
        ] {
            if has && !may {
                return Err(Error::invalid(format!("{name} takes no {what}")));
            }
        }
        Ok(())
    }
}

impl Op {
    /// Every op with the name that interface/record.toml gives it.
    pub const ALL: [(Op, &'static str); 30] = [
        (Op::Info, "INFO"),
        (Op::Clone, "CLONE"),
        (Op::Cancel, "CANCEL"),
        (Op::Ring, "RING"),
        (Op::Encrypt, "ENCRYPT"),
        (Op::Decrypt, "DECRYPT"),
        (Op::Digest, "DIGEST"),
        (Op::Verify, "VERIFY"),
        (Op::Wrap, "WRAP"),
        (Op::Unwrap, "UNWRAP"),
        (Op::Derive, "DERIVE"),
        (Op::Random, "RANDOM"),
        (Op::Seal, "SEAL"),
        (Op::Unseal, "UNSEAL"),
        (Op::Update, "UPDATE"),
        (Op::Finish, "FINISH"),
        (Op::Reset, "RESET"),
        (Op::Peek, "PEEK"),
        (Op::SignDigest, "SIGN_DIGEST"),
        (Op::VerifyDigest, "VERIFY_DIGEST"),
        (Op::Sign, "SIGN"),
        (Op::VerifySignature, "VERIFY_SIGNATURE"),
        (Op::PublicKey, "PUBLIC_KEY"),
        (Op::Agree, "AGREE"),
        (Op::Encapsulate, "ENCAPSULATE"),
        (Op::Decapsulate, "DECAPSULATE"),
        (Op::HashKey, "HASH_KEY"),
        (Op::StreamBegin, "STREAM_BEGIN"),
        (Op::StreamUpdate, "STREAM_UPDATE"),
        (Op::StreamFinish, "STREAM_FINISH"),
    ];

    /// From its number.
    pub fn from_number(number: u16) -> Option<Op> {
        Op::ALL
            .iter()
            .map(|(op, _)| *op)
            .find(|op| *op as u16 == number)
    }

    /// From its name, in any case: `encrypt`, `STREAM_BEGIN`.
    pub fn from_name(name: &str) -> Option<Op> {
        Op::ALL
            .iter()
            .find(|(_, n)| n.eq_ignore_ascii_case(name))
            .map(|(op, _)| *op)
    }

    /// Its name in interface/record.toml.
    pub fn name(self) -> &'static str {
        Op::ALL
            .iter()
            .find(|(op, _)| *op == self)
            .map_or("", |(_, name)| *name)
    }

    fn takes(self) -> Takes {
        let (iv, aad, data) = match self {
            Op::Encrypt | Op::Decrypt => (true, true, true),
            Op::Seal | Op::Unseal => (false, true, true),
            Op::StreamBegin => (true, false, false),
            Op::Digest | Op::Verify | Op::Wrap | Op::Unwrap | Op::Update | Op::StreamUpdate => {
                (false, false, true)
            }
            Op::SignDigest | Op::VerifyDigest | Op::Sign | Op::VerifySignature => {
                (false, false, true)
            }
            Op::Agree | Op::Decapsulate => (false, false, true),
            _ => (false, false, false),
        };
        let params: &[u16] = match self {
            Op::Cancel => &[Params::TARGET],
            Op::Ring => &[Params::LENGTH, Params::TARGET],
            Op::Digest | Op::Finish | Op::Peek | Op::Random => &[Params::LENGTH],
            Op::Verify => &[Params::TAG],
            Op::Encrypt | Op::Decrypt => &[Params::HASH, Params::SCHEME, Params::LABEL],
            Op::Sign | Op::SignDigest => &[
                Params::HASH,
                Params::SCHEME,
                Params::SALT_LENGTH,
                Params::FORMAT,
            ],
            Op::VerifySignature | Op::VerifyDigest => &[
                Params::TAG,
                Params::HASH,
                Params::SCHEME,
                Params::SALT_LENGTH,
                Params::FORMAT,
            ],
            Op::Derive => &[
                Params::LENGTH,
                Params::SALT,
                Params::INFO,
                Params::ITERATIONS,
                Params::N,
                Params::R,
                Params::P,
            ],
            Op::StreamBegin => &[Params::DIRECTION],
            _ => &[],
        };
        let attached = if data { FLAG_ATTACHED } else { 0 };
        let running = if self == Op::Verify { FLAG_RUNNING } else { 0 };
        Takes {
            iv,
            aad,
            data,
            flags: attached | running,
            params,
        }
    }
}

/// The section params.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params<'a> {
    /// Bytes wanted.
    pub length: Option<u64>,
    /// Which way a stream goes.
    pub direction: Option<Direction>,
    /// The tag to compare with.
    pub tag: Option<&'a [u8]>,
    /// A KDF's salt.
    pub salt: Option<&'a [u8]>,
    /// HKDF's info; SP 800-108's fixed input.
    pub info: Option<&'a [u8]>,
    /// PBKDF2's.
    pub iterations: Option<u32>,
    /// scrypt's.
    pub n: Option<u64>,
    /// scrypt's.
    pub r: Option<u32>,
    /// scrypt's.
    pub p: Option<u32>,
    /// The id to cancel; the number of the ring to replace.
    pub target: Option<u64>,
    /// A signature's or an encryption's.
    pub hash: Option<&'a str>,
    /// A signature's or an encryption's.
    pub scheme: Option<&'a str>,
    /// PSS's.
    pub salt_length: Option<u32>,
    /// OAEP's.
    pub label: Option<&'a [u8]>,
    /// ECDSA's.
    pub format: Option<&'a str>,
}

impl<'a> Params<'a> {
    const LENGTH: u16 = 1;
    const DIRECTION: u16 = 2;
    const TAG: u16 = 3;
    const SALT: u16 = 4;
    const INFO: u16 = 5;
    const ITERATIONS: u16 = 6;
    const N: u16 = 7;
    const R: u16 = 8;
    const P: u16 = 9;
    const TARGET: u16 = 10;
    const HASH: u16 = 11;
    const SCHEME: u16 = 12;
    const SALT_LENGTH: u16 = 13;
    const LABEL: u16 = 14;
    const FORMAT: u16 = 15;

    /// Every parameter with the name that interface/record.toml gives it.
    pub const ALL: [(&'static str, u16); 15] = [
        ("LENGTH", Params::LENGTH),
        ("DIRECTION", Params::DIRECTION),
        ("TAG", Params::TAG),
        ("SALT", Params::SALT),
        ("INFO", Params::INFO),
        ("ITERATIONS", Params::ITERATIONS),
        ("N", Params::N),
        ("R", Params::R),
        ("P", Params::P),
        ("TARGET", Params::TARGET),
        ("HASH", Params::HASH),
        ("SCHEME", Params::SCHEME),
        ("SALT_LENGTH", Params::SALT_LENGTH),
        ("LABEL", Params::LABEL),
        ("FORMAT", Params::FORMAT),
    ];

    /// A derivation's inputs.
    pub fn derivation(&self) -> Derivation<'a> {
        Derivation {
            salt: self.salt.unwrap_or_default(),
            info: self.info.unwrap_or_default(),
            iterations: self.iterations.unwrap_or_default(),
            n: self.n.unwrap_or_default(),
            r: self.r.unwrap_or_default(),
            p: self.p.unwrap_or_default(),
        }
    }

    /// What is said of a signature or an encryption.
    pub fn pair(&self) -> pair::Options<'a> {
        pair::Options {
            hash: self.hash,
            scheme: self.scheme,
            salt_length: self.salt_length,
            format: self.format,
            label: self.label,
        }
    }

    /// The bytes of the section.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |number: u16, value: Option<&[u8]>| {
            if let Some(value) = value {
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&[0; 2]);
                out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                out.extend_from_slice(value);
            }
        };
        let u64s = |v: Option<u64>| v.map(u64::to_le_bytes);
        let u32s = |v: Option<u32>| v.map(u32::to_le_bytes);
        let direction = self.direction.map(|d| match d {
            Direction::Encrypt => 1,
            Direction::Decrypt => 2,
        });
        put(Self::LENGTH, u64s(self.length).as_ref().map(|b| &b[..]));
        put(Self::DIRECTION, u32s(direction).as_ref().map(|b| &b[..]));
        put(Self::TAG, self.tag);
        put(Self::SALT, self.salt);
        put(Self::INFO, self.info);
        put(
            Self::ITERATIONS,
            u32s(self.iterations).as_ref().map(|b| &b[..]),
        );
        put(Self::N, u64s(self.n).as_ref().map(|b| &b[..]));
        put(Self::R, u32s(self.r).as_ref().map(|b| &b[..]));
        put(Self::P, u32s(self.p).as_ref().map(|b| &b[..]));
        put(Self::TARGET, u64s(self.target).as_ref().map(|b| &b[..]));
        put(Self::HASH, self.hash.map(str::as_bytes));
        put(Self::SCHEME, self.scheme.map(str::as_bytes));
        put(
            Self::SALT_LENGTH,
            u32s(self.salt_length).as_ref().map(|b| &b[..]),
        );
        put(Self::LABEL, self.label);
        put(Self::FORMAT, self.format.map(str::as_bytes));
        out
    }

    /// The section's parameters, of which only `allowed` may be there.
    fn parse(mut bytes: &'a [u8], allowed: &[u16]) -> Result<Params<'a>> {
        let mut params = Params::default();
        let mut seen = 0u32;
        while !bytes.is_empty() {
            let broken = || Error::invalid("the params section is cut short");
            let head = bytes.get(..8).ok_or_else(broken)?;
            let number = u16::from_le_bytes([head[0], head[1]]);
            let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
            if head[2..4] != [0; 2] {
                return Err(Error::invalid("params: the reserved bytes are not zero"));
            }
            let rest = &bytes[8..];
            let value = rest.get(..length).ok_or_else(broken)?;
            bytes = &rest[length..];
            if !allowed.contains(&number) {
                return Err(Error::invalid(format!(
                    "params: number {number} does not belong to this op"
                )));
            }
            if seen & (1 << number) != 0 {
                return Err(Error::invalid(format!(
                    "params: number {number} stands there twice"
                )));
            }
            seen |= 1 << number;
            match number {
                Self::LENGTH => params.length = Some(long(value)?),
                Self::DIRECTION => {
                    params.direction = Some(match word(value)? {
                        1 => Direction::Encrypt,
                        2 => Direction::Decrypt,
                        _ => return Err(Error::invalid("params: direction is 1 or 2")),
                    });
                }
                Self::TAG => params.tag = Some(value),
                Self::SALT => params.salt = Some(value),
                Self::INFO => params.info = Some(value),
                Self::ITERATIONS => params.iterations = Some(word(value)?),
                Self::N => params.n = Some(long(value)?),
                Self::R => params.r = Some(word(value)?),
                Self::P => params.p = Some(word(value)?),
                Self::HASH => params.hash = Some(name(value)?),
                Self::SCHEME => params.scheme = Some(name(value)?),
                Self::SALT_LENGTH => params.salt_length = Some(word(value)?),
                Self::LABEL => params.label = Some(value),
                Self::FORMAT => params.format = Some(name(value)?),
                _ => params.target = Some(long(value)?),
            }
        }
        Ok(params)
    }
}

/// A name: text of at most 64 bytes.
fn name(value: &[u8]) -> Result<&str> {
    Some(value)
        .filter(|value| value.len() <= 64)
        .and_then(|value| std::str::from_utf8(value).ok())
        .ok_or_else(|| Error::invalid("params: a name is UTF-8 of at most 64 bytes"))
}

fn word(value: &[u8]) -> Result<u32> {
    let bytes: [u8; 4] = value
        .try_into()
        .map_err(|_| Error::invalid("params: this number has 4 bytes"))?;
    Ok(u32::from_le_bytes(bytes))
}

fn long(value: &[u8]) -> Result<u64> {
    let bytes: [u8; 8] = value
        .try_into()
        .map_err(|_| Error::invalid("params: this number has 8 bytes"))?;
    Ok(u64::from_le_bytes(bytes))
}

/// A request to be sent.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// What is asked.
    pub op: Op,
    /// `FLAG_RUNNING` or 0; `FLAG_ATTACHED` is set where it is needed.
    pub flags: u16,
    /// The section iv.
    pub iv: &'a [u8],
    /// The section aad.
    pub aad: Input<'a>,
    /// The section data.
    pub data: Input<'a>,
    /// The section params.
    pub params: Params<'a>,
}

impl<'a> Request<'a> {
    /// A request with nothing but its op.
    pub fn new(op: Op) -> Request<'a> {
        Request {
            op,
            flags: 0,
            iv: &[],
            aad: Input::EMPTY,
            data: Input::EMPTY,
            params: Params::default(),
        }
    }

    /// A request with data.
    pub fn with(op: Op, data: impl Into<Input<'a>>) -> Request<'a> {
        Request {
            data: data.into(),
            ..Request::new(op)
        }
    }
}

/// A header's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Header {
    pub op: u16,
    pub flags: u16,
    pub id: u64,
    pub epoch: u32,
    pub status: u32,
    pub iv: u32,
    pub aad: u32,
    pub params: u32,
    pub data: u32,
    pub attached: u64,
    pub attached_aad: u64,
}

impl Header {
    fn encode(&self, kind: u8) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[0..2].copy_from_slice(&(HEADER as u16).to_le_bytes());
        out[2] = VERSION;
        out[3] = kind;
        out[4..6].copy_from_slice(&self.op.to_le_bytes());
        out[6..8].copy_from_slice(&self.flags.to_le_bytes());
        out[8..16].copy_from_slice(&self.id.to_le_bytes());
        out[16..20].copy_from_slice(&self.epoch.to_le_bytes());
        out[20..24].copy_from_slice(&self.status.to_le_bytes());
        out[24..28].copy_from_slice(&self.iv.to_le_bytes());
        out[28..32].copy_from_slice(&self.aad.to_le_bytes());
        out[32..36].copy_from_slice(&self.params.to_le_bytes());
        out[36..40].copy_from_slice(&self.data.to_le_bytes());
        out[40..48].copy_from_slice(&self.attached.to_le_bytes());
        out[48..56].copy_from_slice(&self.attached_aad.to_le_bytes());
        out
    }

    /// A request's header.
    pub fn request(&self) -> [u8; HEADER] {
        self.encode(REQUEST)
    }

    /// An answer's header.
    pub fn answer(&self) -> [u8; HEADER] {
        self.encode(ANSWER)
    }

    /// The record that announces `epoch`.
    pub fn announcement(epoch: u32) -> [u8; HEADER] {
        Header {
            epoch,
            ..Header::default()
        }
        .encode(EPOCH)
    }

    /// The record that says that there is news on the ring.
    pub fn bell(epoch: u32) -> [u8; HEADER] {
        Header {
            epoch,
            ..Header::default()
        }
        .encode(BELL)
    }

    /// The header at the beginning of `bytes` and its size; what it says of the rest is not checked yet.
    fn parse(bytes: &[u8], kind: u8) -> Result<(Header, usize)> {
        let fixed: &[u8; HEADER] = bytes
            .first_chunk()
            .ok_or_else(|| Error::invalid(format!("a record has at least {HEADER} bytes")))?;
        let u16_at = |at: usize| u16::from_le_bytes([fixed[at], fixed[at + 1]]);
        let u32_at = |at: usize| {
            u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if fixed[2] != VERSION {
            return Err(Error::new(
                ErrorKind::Invalid,
                libc::EPROTONOSUPPORT,
                format!("record version {}: this side speaks {VERSION}", fixed[2]),
            ));
        }
        if fixed[3] != kind {
            return Err(Error::invalid(format!(
                "record kind {}: {} was expected (1 request, 2 answer, 3 epoch, 4 bell)",
                fixed[3], kind
            )));
        }
        let size = usize::from(u16_at(0));
        if !(HEADER..=HEADER_MAX).contains(&size) || size % 8 != 0 {
            return Err(Error::invalid(format!(
                "a header of {size} bytes: a multiple of 8 from {HEADER} to {HEADER_MAX}"
            )));
        }
        let more = bytes
            .get(HEADER..size)
            .ok_or_else(|| Error::invalid("the record is shorter than its header"))?;
        if more.iter().any(|b| *b != 0) {
            return Err(Error::new(
                ErrorKind::Invalid,
                libc::E2BIG,
                "the header says more than this side understands",
            ));
        }
        if u64_at(56) != 0 {
            return Err(Error::invalid("the reserved field must be zero"));
        }
        let header = Header {
            op: u16_at(4),
            flags: u16_at(6),
            id: u64_at(8),
            epoch: u32_at(16),
            status: u32_at(20),
            iv: u32_at(24),
            aad: u32_at(28),
            params: u32_at(32),
            data: u32_at(36),
            attached: u64_at(40),
            attached_aad: u64_at(48),
        };
        Ok((header, size))
    }

    /// The four sections of a record of `size` bytes of header, which they must fill exactly.
    fn sections<'a>(&self, bytes: &'a [u8], size: usize) -> Result<[&'a [u8]; 4]> {
        let mut sections: [&[u8]; 4] = [&[]; 4];
        let mut rest = &bytes[size..];
        for (section, length) in
            sections
                .iter_mut()
                .zip([self.iv, self.aad, self.params, self.data])
        {
            let Some((head, tail)) = rest.split_at_checked(length as usize) else {
                return Err(Error::invalid(format!(
                    "a record of {} bytes: its header speaks of more",
                    bytes.len()
                )));
            };
            *section = head;
            rest = tail;
        }
        if rest.is_empty() {
            Ok(sections)
        } else {
            Err(Error::invalid(format!(
                "a record of {} bytes: {} beyond its last section",
                bytes.len(),
                rest.len()
            )))
        }
    }

    fn check_attached(&self) -> Result<()> {
        if self.flags & FLAG_ATTACHED == 0 {
            if self.attached != 0 || self.attached_aad != 0 {
                return Err(Error::invalid("attached bytes without the flag ATTACHED"));
            }
        } else if self.attached == 0 || self.attached_aad > self.attached || self.data != 0 {
            return Err(Error::invalid(
                "attached: at least one byte, no more aad than bytes, and no inline data beside it",
            ));
        } else if self.attached > ATTACHED as u64 {
            return Err(Error::too_large(format!(
                "{} attached bytes: at most {ATTACHED}",
                self.attached
            )));
        }
        Ok(())
    }
}

/// The id of a record, if there are bytes enough to hold one; the first 16 bytes never change their meaning.
pub fn id(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?))
}

/// The number of the op of a record, known or not.
pub fn op(bytes: &[u8]) -> u16 {
    bytes
        .get(4..6)
        .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

/// The epoch that a record announces; `None` if it is another kind of record.
pub fn announced(bytes: &[u8]) -> Option<Result<u32>> {
    (bytes.get(3) == Some(&EPOCH)).then(|| {
        let (header, size) = Header::parse(bytes, EPOCH)?;
        let plain = Header {
            epoch: header.epoch,
            ..Header::default()
        };
        if header == plain && header.epoch != 0 && bytes.len() == size {
            Ok(header.epoch)
        } else {
            Err(Error::invalid("an epoch's record has a number and no more"))
        }
    })
}

/// Whether a record only says that there is news on the ring.
pub fn is_bell(bytes: &[u8]) -> bool {
    bytes.len() == HEADER && bytes.get(3) == Some(&BELL)
}

/// The epoch of a record; 0 where there is none.
pub fn epoch(bytes: &[u8]) -> u32 {
    bytes
        .get(16..20)
        .map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// Writes `epoch` into a record that was made already.
pub fn set_epoch(bytes: &mut [u8], epoch: u32) {
    if let Some(place) = bytes.get_mut(16..20) {
        place.copy_from_slice(&epoch.to_le_bytes());
    }
}

/// A request that has come in.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Incoming<'a> {
    pub id: u64,
    pub op: Op,
    pub flags: u16,
    /// The epoch that the client knows; 0: none.
    pub epoch: u32,
    pub iv: &'a [u8],
    pub aad: &'a [u8],
    pub params: Params<'a>,
    pub data: &'a [u8],
    pub attached: usize,
    pub attached_aad: usize,
}

impl<'a> Incoming<'a> {
    /// Checks all of it.
    pub fn parse(bytes: &'a [u8]) -> Result<Incoming<'a>> {
        if bytes.len() > RECORD {
            return Err(Error::too_large(format!(
                "a record of {} bytes: at most {RECORD}; attach a memfd for more",
                bytes.len()
            )));
        }
        let (header, size) = Header::parse(bytes, REQUEST)?;
        let op = Op::from_number(header.op).ok_or_else(|| {
            Error::unsupported(format!("no op {}: see interface/record.toml", header.op))
        })?;
        let takes = op.takes();
        let name = op.name();
        if header.flags & !takes.flags != 0 {
            return Err(Error::invalid(format!(
                "flags {:#x}: {name} takes {:#x}",
                header.flags, takes.flags
            )));
        }
        if header.status != 0 {
            return Err(Error::invalid("a request's status is zero"));
        }
        header.check_attached()?;
        let [iv, aad, params, data] = header.sections(bytes, size)?;
        let attached_aad = header.attached_aad != 0;
        takes.check(
            name,
            !iv.is_empty(),
            !aad.is_empty() || attached_aad,
            !data.is_empty(),
        )?;
        if !aad.is_empty() && attached_aad {
            return Err(Error::invalid("aad both in the record and in the memfd"));
        }
        Ok(Incoming {
            id: header.id,
            op,
            flags: header.flags,
            epoch: header.epoch,
            iv,
            aad,
            params: Params::parse(params, takes.params)?,
            data,
            attached: header.attached as usize,
            attached_aad: header.attached_aad as usize,
        })
    }

    /// The same of a request on a ring, whose sections were copied already. Those that concern the
    /// descriptor itself go by its socket.
    pub fn on_ring(
        op: u16,
        id: u64,
        flags: u16,
        [iv, aad, params, data]: [&'a [u8]; 4],
    ) -> Result<Incoming<'a>> {
        let op = Op::from_number(op)
            .ok_or_else(|| Error::unsupported(format!("no op {op}: see interface/record.toml")))?;
        let takes = op.takes();
        let name = op.name();
        if matches!(op, Op::Info | Op::Clone | Op::Cancel | Op::Ring) {
            return Err(Error::unsupported(format!(
                "{name} goes by the socket, not by the ring"
            )));
        }
        let known = takes.flags & !FLAG_ATTACHED;
        if flags & !known != 0 {
            return Err(Error::invalid(format!(
                "flags {flags:#x}: {name} takes {known:#x} on a ring"
            )));
        }
        takes.check(name, !iv.is_empty(), !aad.is_empty(), !data.is_empty())?;
        Ok(Incoming {
            id,
            op,
            flags,
            epoch: 0,
            iv,
            aad,
            params: Params::parse(params, takes.params)?,
            data,
            attached: 0,
            attached_aad: 0,
        })
    }
}

/// An answer that has come in.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Answer<'a> {
    pub id: u64,
    pub op: u16,
    /// Which worker of a brokered session answers.
    pub epoch: u32,
    /// An errno, or 0.
    pub status: i32,
    pub data: &'a [u8],
    /// Bytes of the answer that are in the attached memfd.
    pub attached: usize,
}

impl<'a> Answer<'a> {
    /// Checks all of it.
    pub fn parse(bytes: &'a [u8]) -> Result<Answer<'a>> {
        Answer::checked(bytes).map_err(|error| {
            Error::new(
                ErrorKind::System,
                libc::EPROTO,
                format!(
                    "the serving side sent no proper answer: {}",
                    error.message()
                ),
            )
        })
    }

    fn checked(bytes: &'a [u8]) -> Result<Answer<'a>> {
        if bytes.len() > RECORD {
            return Err(Error::invalid(format!("{} bytes", bytes.len())));
        }
        let (header, size) = Header::parse(bytes, ANSWER)?;
        if header.flags & !FLAG_ATTACHED != 0 || header.status > 4095 {
            return Err(Error::invalid("unknown flags or status"));
        }
        header.check_attached()?;
        let [iv, aad, params, data] = header.sections(bytes, size)?;
        if !iv.is_empty() || !aad.is_empty() || !params.is_empty() || header.attached_aad != 0 {
            return Err(Error::invalid("an answer has data only"));
        }
        if header.status != 0 && header.attached != 0 {
            return Err(Error::invalid("a refusal carries no payload"));
        }
        Ok(Answer {
            id: header.id,
            op: header.op,
            epoch: header.epoch,
            status: header.status as i32,
            data,
            attached: header.attached as usize,
        })
    }

    /// Bytes of the result or of the error's sentence.
    pub fn length(&self) -> usize {
        self.data.len() + self.attached
    }
}

/// An error's sentence as an answer carries it.
pub fn message(error: &Error) -> &[u8] {
    let text = error.message();
    let mut end = text.len().min(MESSAGE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text.as_bytes()[..end]
}

/// The error that an answer's status and sentence speak of.
pub fn error(status: i32, sentence: &[u8]) -> Error {
    let kind = match status {
        libc::ENOENT => ErrorKind::UnknownAlgorithm,
        libc::EINVAL | libc::E2BIG | libc::EPROTONOSUPPORT => ErrorKind::Invalid,
        libc::EPERM => ErrorKind::Refused,
        libc::ENODEV => ErrorKind::NoEngine,
        libc::EBADMSG => ErrorKind::BadTag,
        libc::EKEYREJECTED => ErrorKind::BadSignature,
        libc::EMSGSIZE => ErrorKind::TooLarge,
        libc::EOPNOTSUPP => ErrorKind::Unsupported,
        libc::ESTALE => ErrorKind::Stale,
        libc::EKEYREVOKED | libc::EKEYEXPIRED => ErrorKind::KeyRevoked,
        _ => ErrorKind::System,
    };
    let sentence = &sentence[..sentence.len().min(MESSAGE)];
    let text = String::from_utf8_lossy(sentence);
    if text.is_empty() {
        Error::system(status, "the serving side refused")
    } else {
        // What an untrusted side wrote goes to terminals and logs.
        let text: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        Error::new(kind, status, text)
    }
}

#[cfg(test)]
mod tests;
