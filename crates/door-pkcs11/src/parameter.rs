//! What a mechanism is told, copied from the caller's memory and checked for shape.

use crate::ffi::{Returned, Version};
use crate::rv::{Result, Rv};
use cryptoki_sys::*;
use zeroize::Zeroizing;

/// The parameter of a mechanism.
#[derive(Debug, Default)]
pub enum Parameter {
    /// None.
    #[default]
    None,
    /// Bytes: an IV, a salt.
    Bytes(Vec<u8>),
    /// A number: the bytes of a MAC.
    Number(usize),
    /// AES-CTR: how many bits of the block count.
    Counter { bits: usize, block: [u8; 16] },
    /// An AEAD's. `length`: CCM's, of the message.
    Aead {
        nonce: Vec<u8>,
        aad: Vec<u8>,
        tag: usize,
        length: Option<usize>,
    },
    /// RSA-PSS.
    Pss {
        hash: CK_MECHANISM_TYPE,
        mgf: CK_RSA_PKCS_MGF_TYPE,
        salt: usize,
    },
    /// RSA-OAEP.
    Oaep {
        hash: CK_MECHANISM_TYPE,
        mgf: CK_RSA_PKCS_MGF_TYPE,
        label: Vec<u8>,
    },
    /// EdDSA and ML-DSA, whose context is none.
    Signing { prehashed: bool, context: Vec<u8> },
    /// ECDH.
    Agreement {
        kdf: CK_EC_KDF_TYPE,
        shared: Zeroizing<Vec<u8>>,
        public: Vec<u8>,
    },
    /// TLS 1.2's PRF: of a hash, a label, and what both sides said.
    Tls {
        hash: CK_MECHANISM_TYPE,
        label: Vec<u8>,
        seed: Vec<u8>,
        version: Option<Version>,
    },
    /// TLS 1.2's keys: bytes of each, and where they are told.
    TlsKeys {
        hash: CK_MECHANISM_TYPE,
        mac: usize,
        key: usize,
        iv: usize,
        seed: Vec<u8>,
        returned: Returned,
    },
    /// TLS 1.2's Finished.
    TlsMac {
        hash: CK_MECHANISM_TYPE,
        length: usize,
        label: &'static [u8],
    },
    /// HKDF.
    Hkdf {
        extract: bool,
        expand: bool,
        hash: CK_MECHANISM_TYPE,
        salt: Salt,
        info: Vec<u8>,
    },
}

/// HKDF's salt.
#[derive(Debug)]
pub enum Salt {
    None,
    Bytes(Vec<u8>),
    Key(CK_OBJECT_HANDLE),
}

/// A mechanism and its parameter.
#[derive(Debug)]
pub struct Mechanism {
    pub kind: CK_MECHANISM_TYPE,
    pub parameter: Parameter,
}

const WRONG: Rv = Rv(CKR_MECHANISM_PARAM_INVALID);

impl Mechanism {
    /// That there is no parameter.
    pub fn nothing(&self) -> Result<()> {
        match self.parameter {
            Parameter::None => Ok(()),
            _ => Err(WRONG),
        }
    }

    /// An IV of so many bytes.
    pub fn iv(&self, length: usize) -> Result<&[u8]> {
        match &self.parameter {
            Parameter::Bytes(bytes) if bytes.len() == length => Ok(bytes),
            Parameter::None if length == 0 => Ok(&[]),
            _ => Err(WRONG),
        }
    }

    /// A number.
    pub fn number(&self) -> Result<usize> {
        match self.parameter {
            Parameter::Number(number) => Ok(number),
            _ => Err(WRONG),
        }
    }
}
