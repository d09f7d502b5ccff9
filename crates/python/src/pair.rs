//! Asymmetric keys: signatures, RSA's encryption, agreement, encapsulation, and new keys of all kinds.

use crate::errors::Raise;
use crate::fd::CryptoFD;
use crate::ffi::View;
use cryptofd_core::engine::Direction;
use cryptofd_core::error::{Error, Kind as ErrorKind};
use cryptofd_core::pair::{self, Options};
use cryptofd_core::record::{Op, Params, Request as Record};
use cryptofd_core::session::Session;
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::table::{Kind, find};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use zeroize::Zeroizing;

/// What a call says of a signature or an encryption, as a record's parameters.
pub fn params<'a>(options: &Options<'a>) -> Params<'a> {
    Params {
        hash: options.hash,
        scheme: options.scheme,
        salt_length: options.salt_length,
        label: options.label,
        format: options.format,
        ..Params::default()
    }
}

/// RSA's encryption or decryption by a session of this process.
pub fn crypt<'py>(
    python: Python<'py>,
    session: &Session,
    direction: Direction,
    data: Input<'_>,
    options: &Options<'_>,
) -> PyResult<Bound<'py, PyBytes>> {
    match direction {
        Direction::Encrypt => {
            let sealed = python
                .detach(|| session.pair_encrypt(data, options))
                .map_err(Raise)?;
            Ok(PyBytes::new(python, &sealed))
        }
        Direction::Decrypt => {
            let secret = python
                .detach(|| session.pair_decrypt(data, options))
                .map_err(Raise)?;
            Ok(PyBytes::new(python, secret.expose()))
        }
    }
}

/// Makes a key: raw bytes for what has a secret key; PKCS#8 and, second, SubjectPublicKeyInfo for a pair.
#[pyfunction]
#[pyo3(signature = (algorithm, bits=None))]
pub fn generate<'py>(
    python: Python<'py>,
    algorithm: &str,
    bits: Option<usize>,
) -> PyResult<(Bound<'py, PyBytes>, Option<Bound<'py, PyBytes>>)> {
    let algorithm = find(algorithm).map_err(Raise)?;
    let made = python
        .detach(|| pair::generate(algorithm, bits))
        .map_err(Raise)?;
    let public = made.public.map(|public| PyBytes::new(python, &public));
    Ok((PyBytes::new(python, made.key.expose()), public))
}

impl CryptoFD {
    /// The signature of a message or of a digest.
    pub(crate) fn signature<'py>(
        &self,
        python: Python<'py>,
        prehashed: bool,
        data: &Bound<'py, PyAny>,
        options: &Options<'_>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = View::read(data)?;
        let input = data.input();
        let op = if prehashed { Op::SignDigest } else { Op::Sign };
        let record = Record {
            params: params(options),
            ..Record::with(op, input)
        };
        if let Some(signature) = self.call(python, &record)? {
            return Ok(PyBytes::new(python, &signature));
        }
        let session = self.local()?;
        let signature = python
            .detach(|| session.sign(input, prehashed, options))
            .map_err(Raise)?;
        Ok(PyBytes::new(python, &signature))
    }

    /// Raises unless `signature` is that of a message or of a digest.
    pub(crate) fn check_signature(
        &self,
        python: Python<'_>,
        prehashed: bool,
        signature: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
        options: &Options<'_>,
    ) -> PyResult<()> {
        let signature = View::read(signature)?.to_vec();
        let data = View::read(data)?;
        let input = data.input();
        let op = if prehashed {
            Op::VerifyDigest
        } else {
            Op::VerifySignature
        };
        let record = Record {
            params: Params {
                tag: Some(&signature),
                ..params(options)
            },
            ..Record::with(op, input)
        };
        if self.call(python, &record)?.is_some() {
            return Ok(());
        }
        let session = self.local()?;
        python
            .detach(|| session.verify_signature(input, prehashed, &signature, options))
            .map_err(|error| Raise(error).into())
    }

    /// verify() of a pair, told from a MAC's by the data.
    pub(crate) fn is_pair(&self, data: bool) -> PyResult<bool> {
        let algorithm = self.facts()?.algorithm;
        match (algorithm.kind == Kind::Pair, data) {
            (true, false) => Err(PyTypeError::new_err(
                "verify(signature, data): a signature is verified against the data",
            )),
            (false, true) => Err(PyTypeError::new_err(
                "verify(tag): a tag is verified against what update() took",
            )),
            (is, _) => Ok(is),
        }
    }

    pub(crate) fn public(&self, python: Python<'_>) -> PyResult<Vec<u8>> {
        match self.call(python, &Record::new(Op::PublicKey))? {
            Some(public) => Ok(public),
            None => Ok(self.local()?.public_key().map_err(Raise)?.to_vec()),
        }
    }

    pub(crate) fn agreed<'py>(
        &self,
        python: Python<'py>,
        peer: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let peer = View::read(peer)?.to_vec();
        if let Some(secret) = self.call(python, &Record::with(Op::Agree, &peer))? {
            return Ok(PyBytes::new(python, &Zeroizing::new(secret)));
        }
        let session = self.local()?;
        let secret = python.detach(|| session.agree(&peer)).map_err(Raise)?;
        Ok(PyBytes::new(python, secret.expose()))
    }

    pub(crate) fn encapsulated<'py>(
        &self,
        python: Python<'py>,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        if let Some(both) = self.call(python, &Record::new(Op::Encapsulate))? {
            let both = Zeroizing::new(both);
            let (ciphertext, secret) = parts(&both).ok_or_else(|| {
                Raise(Error::new(
                    ErrorKind::System,
                    libc::EPROTO,
                    "the serving side answered no ciphertext and secret",
                ))
            })?;
            return Ok((
                PyBytes::new(python, ciphertext),
                PyBytes::new(python, secret),
            ));
        }
        let session = self.local()?;
        let (ciphertext, secret) = python.detach(|| session.encapsulate()).map_err(Raise)?;
        Ok((
            PyBytes::new(python, &ciphertext),
            PyBytes::new(python, secret.expose()),
        ))
    }

    pub(crate) fn decapsulated<'py>(
        &self,
        python: Python<'py>,
        ciphertext: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let ciphertext = View::read(ciphertext)?.to_vec();
        let record = Record::with(Op::Decapsulate, &ciphertext);
        if let Some(secret) = self.call(python, &record)? {
            return Ok(PyBytes::new(python, &Zeroizing::new(secret)));
        }
        let session = self.local()?;
        let secret = python
            .detach(|| session.decapsulate(&ciphertext))
            .map_err(Raise)?;
        Ok(PyBytes::new(python, secret.expose()))
    }
}

/// ENCAPSULATE's answer: a length of four bytes, the ciphertext, the secret.
fn parts(both: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = both.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*head) as usize)
}
