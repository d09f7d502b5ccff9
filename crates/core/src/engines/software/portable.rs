//! What AWS-LC lacks, by kept crates: BLAKE2 with its parameters, SM3, HMAC, HKDF and PBKDF2 over
//! them, AES-128-XTS.

use crate::engine::{
    Blake2, Cipher, CipherStream, Derivation, Digest, Direction, Hashing, Kdf, Spec,
};
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::sys::arena::ArenaBox;
use crate::sys::buffer::{Input, Output};
use crate::sys::wiped::Wiped;
use aes::cipher::{Array, KeyInit as _};
use hmac::digest::common::BlockSizeUser;
use hmac::digest::typenum::{U32, U64, U128};
use hmac::digest::{
    Digest as RustDigest, FixedOutput, HashMarker, Output as DigestOutput, OutputSizeUser, Update,
};
use hmac::{Mac as _, SimpleHmac};
use sm3::Sm3;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The driver's name for BLAKE2.
pub const BLAKE2: &str = "blake2_simd";
/// The driver's name for the rest.
pub const RUSTCRYPTO: &str = "rustcrypto";

/// A running hash or MAC of a crate.
trait State: Clone + Send + Sync + 'static {
    fn feed(&mut self, data: &[u8]);
    /// `out` has the size of the digest.
    fn close(&self, out: &mut [u8]);
}

impl State for blake2b_simd::State {
    fn feed(&mut self, data: &[u8]) {
        self.update(data);
    }
    fn close(&self, out: &mut [u8]) {
        out.copy_from_slice(Wiped::new(self.finalize()).as_bytes());
    }
}

impl State for blake2s_simd::State {
    fn feed(&mut self, data: &[u8]) {
        self.update(data);
    }
    fn close(&self, out: &mut [u8]) {
        out.copy_from_slice(Wiped::new(self.finalize()).as_bytes());
    }
}

impl State for Sm3 {
    fn feed(&mut self, data: &[u8]) {
        Update::update(self, data);
    }
    fn close(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.clone().finalize());
    }
}

impl<D> State for SimpleHmac<D>
where
    D: RustDigest + BlockSizeUser + Clone + Send + Sync + 'static,
{
    fn feed(&mut self, data: &[u8]) {
        Update::update(self, data);
    }
    fn close(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.clone().finalize().into_bytes());
    }
}

/// The beginning of a hash or MAC: keyed and parametrised, and copied for each message.
struct Beginning<S> {
    state: ArenaBox<S>,
    size: usize,
}

fn ready<S: State>(state: S, size: usize) -> Box<dyn Hashing> {
    let state = Wiped::new(state);
    Box::new(Ready(Arc::new(Beginning {
        state: ArenaBox::new((*state).clone()),
        size,
    })))
}

struct Ready<S>(Arc<Beginning<S>>);

struct Running<S> {
    beginning: Arc<Beginning<S>>,
    state: Wiped<S>,
}

impl<S> Beginning<S> {
    fn check(&self, out: &[u8]) -> Result<()> {
        if out.len() == self.size {
            Ok(())
        } else {
            Err(Error::invalid(format!(
                "an output of {} bytes for a digest of {}",
                out.len(),
                self.size
            )))
        }
    }
}

impl<S: State> Hashing for Ready<S> {
    fn begin(&self) -> Result<Box<dyn Digest>> {
        Ok(Box::new(Running {
            beginning: self.0.clone(),
            state: Wiped::new((*self.0.state).clone()),
        }))
    }

    fn once(&self, data: Input<'_>, out: &mut [u8]) -> Result<()> {
        self.0.check(out)?;
        let mut state = Wiped::new((*self.0.state).clone());
        data.pieces(|piece| state.feed(piece));
        state.close(out);
        Ok(())
    }
}

impl<S: State> Digest for Running<S> {
    fn update(&mut self, data: Input<'_>) -> Result<()> {
        data.pieces(|piece| self.state.feed(piece));
        Ok(())
    }

    fn finish(&mut self, out: &mut [u8]) -> Result<()> {
        self.beginning.check(out)?;
        self.state.close(out);
        Ok(())
    }

    fn fork(&self) -> Result<Box<dyn Digest>> {
        Ok(Box::new(Running {
            beginning: self.beginning.clone(),
            state: self.state.clone(),
        }))
    }

    fn reset(&mut self) -> Result<()> {
        self.state = Wiped::new((*self.beginning.state).clone());
        Ok(())
    }
}

/// The parameters of a BLAKE2 crate from those of the session.
macro_rules! parametrise {
    ($parameters:expr, $spec:expr, $key:expr) => {{
        let parameters = &mut $parameters;
        let defaults = Blake2::default();
        let blake2 = $spec.parameters.blake2.as_ref().unwrap_or(&defaults);
        parameters
            .hash_length($spec.digest_size())
            .key($key)
            .salt(&blake2.salt)
            .personal(&blake2.person)
            .fanout(blake2.fanout)
            .max_depth(blake2.depth)
            .max_leaf_length(blake2.leaf_size)
            .node_offset(blake2.node_offset)
            .node_depth(blake2.node_depth)
            .inner_hash_length(blake2.inner_size.into())
            .last_node(blake2.last_node);
        parameters.to_state()
    }};
}

/// A hash that AWS-LC lacks: its driver, and the work.
pub fn hash(spec: &Spec) -> Result<Option<(&'static str, Box<dyn Hashing>)>> {
    let key = spec.key.bytes()?;
    Ok(match spec.algorithm.name {
        "blake2b" => {
            let mut parameters = Wiped::new(blake2b_simd::Params::new());
            let state = parametrise!(*parameters, spec, key);
            Some((BLAKE2, ready(state, spec.digest_size())))
        }
        "blake2s" => {
            let mut parameters = Wiped::new(blake2s_simd::Params::new());
            let state = parametrise!(*parameters, spec, key);
            Some((BLAKE2, ready(state, spec.digest_size())))
        }
        "sm3" => Some((RUSTCRYPTO, ready(Sm3::new(), 32))),
        _ => None,
    })
}

/// A BLAKE2 crate's state as RustCrypto's HMAC wants it.
macro_rules! as_digest {
    ($name:ident, $state:ty, $block:ty, $size:ty) => {
        #[derive(Clone)]
        struct $name(Wiped<$state>);

        impl Default for $name {
            fn default() -> Self {
                $name(Wiped::new(<$state>::new()))
            }
        }
        impl HashMarker for $name {}
        impl BlockSizeUser for $name {
            type BlockSize = $block;
        }
        impl OutputSizeUser for $name {
            type OutputSize = $size;
        }
        impl Update for $name {
            fn update(&mut self, data: &[u8]) {
                self.0.update(data);
            }
        }
        impl FixedOutput for $name {
            fn finalize_into(self, out: &mut DigestOutput<Self>) {
                self.0.close(out);
            }
        }
    };
}

as_digest!(Blake2b, blake2b_simd::State, U128, U64);
as_digest!(Blake2s, blake2s_simd::State, U64, U32);

fn keyed<D>(key: &[u8]) -> Result<Box<dyn Hashing>>
where
    D: RustDigest + BlockSizeUser + Clone + Send + Sync + 'static,
{
    let size = <D as RustDigest>::output_size();
    let state = <SimpleHmac<D> as hmac::KeyInit>::new_from_slice(key)
        .map_err(|_| Error::invalid(format!("a key of {} bytes for HMAC", key.len())))?;
    Ok(ready(state, size))
}

/// HMAC over a hash that AWS-LC lacks.
pub fn hmac(hash: &str, key: &[u8]) -> Result<Option<Box<dyn Hashing>>> {
    Ok(match hash {
        "blake2b" => Some(keyed::<Blake2b>(key)?),
        "blake2s" => Some(keyed::<Blake2s>(key)?),
        "sm3" => Some(keyed::<Sm3>(key)?),
        _ => None,
    })
}

/// HKDF and PBKDF2 over SM3.
pub fn kdf(template: &str, hash: &str, key: &Secret) -> Option<Box<dyn Kdf>> {
    match (template, hash) {
        ("hkdf", "sm3") => Some(Box::new(HkdfSm3(key.clone()))),
        ("pbkdf2", "sm3") => Some(Box::new(Pbkdf2Sm3(key.clone()))),
        _ => None,
    }
}

struct HkdfSm3(Secret);

impl Kdf for HkdfSm3 {
    fn derive(&self, with: &Derivation<'_>, out: &mut [u8]) -> Result<()> {
        let hkdf = Wiped::new(hkdf::SimpleHkdf::<Sm3>::new(
            Some(with.salt),
            self.0.expose(),
        ));
        hkdf.expand(with.info, out)
            .map_err(|_| Error::too_large(format!("{} bytes from hkdf(sm3)", out.len())))
    }
}

struct Pbkdf2Sm3(Secret);

impl Kdf for Pbkdf2Sm3 {
    fn derive(&self, with: &Derivation<'_>, out: &mut [u8]) -> Result<()> {
        let key = self.0.expose();
        pbkdf2::pbkdf2::<SimpleHmac<Sm3>>(key, with.salt, with.iterations, out)
            .map_err(|_| Error::invalid(format!("a password of {} bytes", key.len())))
    }
}

type Aes128Xts = xts_mode::Xts128<aes::Aes128>;

/// AES-128-XTS.
pub struct Xts(Arc<ArenaBox<Aes128Xts>>);

impl Xts {
    /// From a key of 32 bytes.
    pub fn new(key: &[u8]) -> Result<Xts> {
        let half = |part: &[u8]| {
            aes::Aes128::new_from_slice(part)
                .map_err(|_| Error::invalid(format!("half a key of {} bytes", part.len())))
        };
        let (one, two) = key.split_at(key.len() / 2);
        Ok(Xts(Arc::new(ArenaBox::new(Aes128Xts::new(
            half(one)?,
            half(two)?,
        )))))
    }
}

/// The crate works in place on a slice: a private copy, for others may change the buffers.
fn unit(
    keys: &Aes128Xts,
    direction: Direction,
    iv: &[u8],
    data: Input<'_>,
    out: Output<'_>,
) -> Result<()> {
    let tweak = Array::try_from(iv)
        .map_err(|_| Error::invalid(format!("an iv of {} bytes for xts(aes)", iv.len())))?;
    if data.len() < 16 || data.len() != out.len() {
        return Err(Error::invalid(format!(
            "{} bytes into {}: xts(aes) takes at least 16 and gives as many",
            data.len(),
            out.len()
        )));
    }
    let mut copy = Zeroizing::new(data.to_vec());
    match direction {
        Direction::Encrypt => keys.encrypt_sector(&mut copy, tweak),
        Direction::Decrypt => keys.decrypt_sector(&mut copy, tweak),
    }
    out.copy_from(&copy);
    Ok(())
}

impl Cipher for Xts {
    fn begin(&self, direction: Direction, iv: &[u8]) -> Result<Box<dyn CipherStream>> {
        Ok(Box::new(XtsUnit {
            keys: self.0.clone(),
            direction,
            iv: Some(iv.to_vec()),
        }))
    }

    fn once(
        &self,
        direction: Direction,
        iv: &[u8],
        data: Input<'_>,
        out: Output<'_>,
    ) -> Result<()> {
        unit(&self.0, direction, iv, data, out)
    }
}

struct XtsUnit {
    keys: Arc<ArenaBox<Aes128Xts>>,
    direction: Direction,
    /// Gone once it was used.
    iv: Option<Vec<u8>>,
}

impl CipherStream for XtsUnit {
    fn update(&mut self, data: Input<'_>, out: Output<'_>, last: bool) -> Result<()> {
        match self.iv.take() {
            Some(iv) if last => unit(&self.keys, self.direction, &iv, data, out),
            _ => Err(Error::unsupported(
                "xts(aes) works on whole data units: one update for each iv",
            )),
        }
    }
}
