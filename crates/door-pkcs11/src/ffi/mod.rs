//! The C side: every pointer of a caller's is read and written here and nowhere else.

mod calls;
mod lists;

use crate::attributes::Attributes;
use crate::parameter::{Mechanism, Parameter, Salt};
use crate::rv::{Result, Rv};
use cryptofd_core::sys::buffer::{Input, Output};
use cryptoki_sys::*;
use std::marker::PhantomData;
use zeroize::Zeroizing;

/// A buffer of the caller's, and where its length is said.
pub struct Out<'a> {
    pointer: *mut u8,
    length: *mut CK_ULONG,
    life: PhantomData<&'a mut [u8]>,
}

impl Out<'_> {
    /// # Safety
    /// `length` is null or valid; `pointer` is null or writable for as many bytes as it says.
    unsafe fn new(pointer: *mut CK_BYTE, length: *mut CK_ULONG) -> Result<Self> {
        if length.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        Ok(Out {
            pointer,
            length,
            life: PhantomData,
        })
    }

    /// Bytes that fit; none where only the length is asked for.
    pub fn capacity(&self) -> Option<usize> {
        // SAFETY: valid, by new().
        (!self.pointer.is_null()).then(|| unsafe { *self.length } as usize)
    }

    /// Says how long the result is, or may be.
    pub fn tell(&mut self, length: usize) {
        // SAFETY: valid, by new().
        unsafe { *self.length = length as CK_ULONG }
    }

    /// Whether so many bytes can be given now. False: only their number was asked for, and is told.
    pub fn fits(&mut self, length: usize) -> Result<bool> {
        match self.capacity() {
            Some(capacity) if capacity >= length => Ok(true),
            other => {
                self.tell(length);
                match other {
                    None => Ok(false),
                    Some(_) => Err(Rv(CKR_BUFFER_TOO_SMALL)),
                }
            }
        }
    }

    /// Gives these bytes, which fit.
    pub fn give(&mut self, bytes: &[u8]) -> Result<()> {
        self.fill(bytes.len(), |out| {
            out.copy_from(bytes);
            Ok(bytes.len())
        })
    }

    /// Has the first `most` bytes filled, which fit; as many count as `f` says.
    pub fn fill(&mut self, most: usize, f: impl FnOnce(Output<'_>) -> Result<usize>) -> Result<()> {
        if self.capacity().is_none_or(|capacity| capacity < most) {
            return Err(Rv(CKR_GENERAL_ERROR));
        }
        // SAFETY: writable for its capacity, by new(), which is not less than `most`.
        let out = unsafe { Output::from_raw(self.pointer, most) };
        let used = f(out)?;
        self.tell(used);
        Ok(())
    }
}

/// The parameter of one message of an AEAD: where its IV and its tag are.
pub struct Record<'a> {
    iv: (*mut u8, usize),
    tag: (*mut u8, usize),
    generator: CK_GENERATOR_FUNCTION,
    fixed: usize,
    life: PhantomData<&'a mut [u8]>,
}

const WRONG: Rv = Rv(CKR_MECHANISM_PARAM_INVALID);

/// # Safety
/// `pointer` is null, or a whole T of which `length` says the bytes.
unsafe fn structure<T: Copy>(pointer: *const std::ffi::c_void, length: CK_ULONG) -> Result<T> {
    if pointer.is_null() || length as usize != size_of::<T>() {
        return Err(WRONG);
    }
    // SAFETY: readable for T's bytes; T is plain data of which every value is one.
    Ok(unsafe { pointer.cast::<T>().read_unaligned() })
}

/// # Safety
/// `pointer` is readable for `length` bytes, or null.
unsafe fn bytes(pointer: *const CK_BYTE, length: CK_ULONG) -> Result<Vec<u8>> {
    // SAFETY: as the caller vouches.
    let data = unsafe { input(pointer, length)? };
    let mut copy = Vec::new();
    // A length that is nonsense is the program's error, and not the end of the program.
    copy.try_reserve_exact(data.len())
        .map_err(|_| Rv(CKR_HOST_MEMORY))?;
    data.pieces(|piece| copy.extend_from_slice(piece));
    Ok(copy)
}

/// # Safety
/// `pointer` is readable for `length` bytes during 'a, or null.
unsafe fn input<'a>(pointer: *const CK_BYTE, length: CK_ULONG) -> Result<Input<'a>> {
    if pointer.is_null() && length > 0 {
        return Err(Rv(CKR_ARGUMENTS_BAD));
    }
    if length as usize > isize::MAX as usize {
        return Err(Rv(CKR_DATA_LEN_RANGE));
    }
    // SAFETY: as the caller vouches.
    Ok(unsafe { Input::from_raw(pointer, length as usize) })
}

/// What begins the messages of a mechanism: nothing, which NSS says, or a parameter for the first of them.
///
/// # Safety
/// As `mechanism`.
unsafe fn messages(pointer: *const CK_MECHANISM) -> Result<Mechanism> {
    if pointer.is_null() {
        return Err(Rv(CKR_ARGUMENTS_BAD));
    }
    // SAFETY: as the caller vouches.
    let m = unsafe { pointer.read_unaligned() };
    let right = match m.mechanism {
        CKM_AES_GCM => [
            size_of::<CK_GCM_MESSAGE_PARAMS>(),
            size_of::<CK_GCM_PARAMS>(),
        ],
        CKM_AES_CCM => [
            size_of::<CK_CCM_MESSAGE_PARAMS>(),
            size_of::<CK_CCM_PARAMS>(),
        ],
        _ => [
            size_of::<CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS>(),
            size_of::<CK_SALSA20_CHACHA20_POLY1305_PARAMS>(),
        ],
    };
    let none = m.pParameter.is_null() && m.ulParameterLen == 0;
    if !none && (m.pParameter.is_null() || !right.contains(&(m.ulParameterLen as usize))) {
        return Err(WRONG);
    }
    Ok(Mechanism {
        kind: m.mechanism,
        parameter: Parameter::None,
    })
}

impl Record<'_> {
    /// # Safety
    /// `pointer` is null or the parameter of a message of this mechanism, whose pointers are valid.
    unsafe fn read(
        mechanism: CK_MECHANISM_TYPE,
        pointer: *mut std::ffi::c_void,
        length: CK_ULONG,
    ) -> Result<Self> {
        // SAFETY: as the caller vouches, in every arm.
        let (iv, tag, generator, fixed) = unsafe {
            match mechanism {
                CKM_AES_GCM => {
                    let p: CK_GCM_MESSAGE_PARAMS = structure(pointer, length)?;
                    if p.ulTagBits % 8 != 0 {
                        return Err(WRONG);
                    }
                    let tag = (p.pTag, p.ulTagBits as usize / 8);
                    ((p.pIv, p.ulIvLen), tag, p.ivGenerator, p.ulIvFixedBits)
                }
                CKM_AES_CCM => {
                    let p: CK_CCM_MESSAGE_PARAMS = structure(pointer, length)?;
                    let tag = (p.pMAC, p.ulMACLen as usize);
                    (
                        (p.pNonce, p.ulNonceLen),
                        tag,
                        p.nonceGenerator,
                        p.ulNonceFixedBits,
                    )
                }
                _ => {
                    let p: CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS = structure(pointer, length)?;
                    ((p.pNonce, p.ulNonceLen), (p.pTag, 16), CKG_NO_GENERATE, 0)
                }
            }
        };
        if iv.0.is_null() || tag.0.is_null() || iv.1 > 256 || tag.1 > 16 {
            return Err(WRONG);
        }
        Ok(Record {
            iv: (iv.0, iv.1 as usize),
            tag,
            generator,
            fixed: fixed as usize,
            life: PhantomData,
        })
    }

    /// Bytes of the tag.
    pub fn tag_size(&self) -> usize {
        self.tag.1
    }

    /// Where the IV comes from.
    pub fn generator(&self) -> Result<Generator> {
        let flexible = (self.iv.1 * 8).checked_sub(self.fixed).ok_or(WRONG)?;
        match self.generator {
            CKG_NO_GENERATE => Ok(Generator::Given),
            CKG_GENERATE | CKG_GENERATE_RANDOM if self.fixed == 0 => Ok(Generator::Random),
            CKG_GENERATE | CKG_GENERATE_COUNTER if flexible > 0 => {
                Ok(Generator::Counter { flexible })
            }
            CKG_GENERATE_COUNTER_XOR if flexible > 0 => Ok(Generator::Xor { flexible }),
            _ => Err(WRONG),
        }
    }

    /// The IV.
    pub fn iv(&self) -> Vec<u8> {
        // SAFETY: readable, by read().
        unsafe { Input::from_raw(self.iv.0, self.iv.1) }.to_vec()
    }

    /// The tag.
    pub fn tag(&self) -> Vec<u8> {
        // SAFETY: readable, by read().
        unsafe { Input::from_raw(self.tag.0, self.tag.1) }.to_vec()
    }

    /// Says which IV it was.
    pub fn set_iv(&mut self, iv: &[u8]) {
        // SAFETY: writable, by read().
        unsafe { Output::from_raw(self.iv.0, self.iv.1) }.copy_from(iv);
    }

    /// Gives the tag.
    pub fn set_tag(&mut self, tag: &[u8]) {
        // SAFETY: writable, by read().
        unsafe { Output::from_raw(self.tag.0, self.tag.1) }.copy_from(tag);
    }
}

/// Where a message's IV comes from; of a counter, how many of the last bits are its.
#[derive(Clone, Copy, Debug)]
pub enum Generator {
    Given,
    Random,
    Counter { flexible: usize },
    Xor { flexible: usize },
}

/// Where the version of a premaster secret is told.
#[derive(Debug)]
pub struct Version(*mut CK_VERSION);

impl Version {
    /// Tells it.
    pub fn put(&self, major: u8, minor: u8) {
        // SAFETY: writable, by whoever made it.
        unsafe { self.0.write_unaligned(CK_VERSION { major, minor }) };
    }
}

/// Where TLS's keys are told.
#[derive(Debug)]
pub struct Returned(*mut CK_SSL3_KEY_MAT_OUT);

impl Returned {
    /// Tells the handles: secrets of the MACs, keys; the client's first.
    pub fn put(&self, handles: [CK_OBJECT_HANDLE; 4]) {
        // SAFETY: writable, by whoever made it.
        unsafe {
            let mut out = self.0.read_unaligned();
            [
                out.hClientMacSecret,
                out.hServerMacSecret,
                out.hClientKey,
                out.hServerKey,
            ] = handles;
            self.0.write_unaligned(out);
        }
    }

    /// Tells the IVs, for which the caller made room.
    pub fn put_ivs(&self, client: &[u8], server: &[u8]) {
        // SAFETY: as above; the pointers have room for IVs of the size that was asked for.
        unsafe {
            let out = self.0.read_unaligned();
            for (place, iv) in [(out.pIVClient, client), (out.pIVServer, server)] {
                if !place.is_null() {
                    Output::from_raw(place, iv.len()).copy_from(iv);
                }
            }
        }
    }
}

/// Both random numbers, the client's first.
///
/// # Safety
/// Its pointers are readable for their lengths.
unsafe fn randoms(info: &CK_SSL3_RANDOM_DATA) -> Result<(Vec<u8>, Vec<u8>)> {
    // SAFETY: as the caller vouches.
    unsafe {
        let client = bytes(info.pClientRandom, info.ulClientRandomLen).map_err(|_| WRONG)?;
        let server = bytes(info.pServerRandom, info.ulServerRandomLen).map_err(|_| WRONG)?;
        Ok((client, server))
    }
}

/// TLS 1.2's.
///
/// # Safety
/// As `mechanism`.
unsafe fn tls(
    kind: CK_MECHANISM_TYPE,
    pointer: *const std::ffi::c_void,
    length: CK_ULONG,
) -> Result<Parameter> {
    let version = |pointer: *mut CK_VERSION| (!pointer.is_null()).then_some(Version(pointer));
    let diffie_hellman = matches!(
        kind,
        CKM_TLS12_MASTER_KEY_DERIVE_DH | CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH
    );
    // SAFETY: as the caller vouches, in every arm.
    let made = unsafe {
        match kind {
            CKM_TLS12_MASTER_KEY_DERIVE | CKM_TLS12_MASTER_KEY_DERIVE_DH => {
                let p: CK_TLS12_MASTER_KEY_DERIVE_PARAMS = structure(pointer, length)?;
                let (client, server) = randoms(&p.RandomInfo)?;
                Parameter::Tls {
                    hash: p.prfHashMechanism,
                    label: b"master secret".to_vec(),
                    seed: [client, server].concat(),
                    version: version(p.pVersion),
                }
            }
            CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE | CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE_DH => {
                let p: CK_TLS12_EXTENDED_MASTER_KEY_DERIVE_PARAMS = structure(pointer, length)?;
                Parameter::Tls {
                    hash: p.prfHashMechanism,
                    label: b"extended master secret".to_vec(),
                    seed: bytes(p.pSessionHash, p.ulSessionHashLen).map_err(|_| WRONG)?,
                    version: version(p.pVersion),
                }
            }
            CKM_TLS_KDF => {
                let p: CK_TLS_KDF_PARAMS = structure(pointer, length)?;
                let (client, server) = randoms(&p.RandomInfo)?;
                let context = bytes(p.pContextData, p.ulContextDataLength).map_err(|_| WRONG)?;
                Parameter::Tls {
                    hash: p.prfMechanism,
                    label: bytes(p.pLabel, p.ulLabelLength).map_err(|_| WRONG)?,
                    seed: [client, server, context].concat(),
                    version: None,
                }
            }
            CKM_TLS_MAC => {
                let p: CK_TLS_MAC_PARAMS = structure(pointer, length)?;
                Parameter::TlsMac {
                    hash: p.prfHashMechanism,
                    length: p.ulMacLength as usize,
                    label: match p.ulServerOrClient {
                        1 => b"server finished",
                        2 => b"client finished",
                        _ => return Err(WRONG),
                    },
                }
            }
            _ => {
                let p: CK_TLS12_KEY_MAT_PARAMS = structure(pointer, length)?;
                let (client, server) = randoms(&p.RandomInfo)?;
                let sizes = [p.ulMacSizeInBits, p.ulKeySizeInBits, p.ulIVSizeInBits];
                let wrong = sizes.iter().any(|bits| bits % 8 != 0 || *bits > 2048);
                if wrong || p.bIsExport != CK_FALSE || p.pReturnedKeyMaterial.is_null() {
                    return Err(WRONG);
                }
                Parameter::TlsKeys {
                    hash: p.prfHashMechanism,
                    mac: sizes[0] as usize / 8,
                    key: sizes[1] as usize / 8,
                    iv: sizes[2] as usize / 8,
                    seed: [server, client].concat(),
                    returned: Returned(p.pReturnedKeyMaterial),
                }
            }
        }
    };
    match made {
        // Nobody's version is in a secret that was agreed on.
        Parameter::Tls {
            version: Some(_), ..
        } if diffie_hellman => Err(WRONG),
        made => Ok(made),
    }
}

/// # Safety
/// `pointer` is null or `count` attributes, whose pointers are readable for their lengths.
unsafe fn template(pointer: *const CK_ATTRIBUTE, count: CK_ULONG) -> Result<Attributes> {
    if count == 0 {
        return Ok(Attributes::default());
    }
    if pointer.is_null() || count > 4096 {
        return Err(Rv(CKR_ARGUMENTS_BAD));
    }
    let mut all = Vec::with_capacity(count as usize);
    for number in 0..count as usize {
        // SAFETY: as the caller vouches.
        let value = unsafe {
            let one = pointer.add(number).read_unaligned();
            if one.ulValueLen as usize > 1 << 24 {
                return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
            }
            let value = bytes(one.pValue.cast(), one.ulValueLen);
            (
                one.type_,
                value.map_err(|_| Rv(CKR_ATTRIBUTE_VALUE_INVALID))?,
            )
        };
        all.push((value.0, Zeroizing::new(value.1)));
    }
    Attributes::from_template(all)
}

/// # Safety
/// `pointer` is null or a mechanism, whose parameter is what its kind says.
unsafe fn mechanism(pointer: *const CK_MECHANISM) -> Result<Mechanism> {
    if pointer.is_null() {
        return Err(Rv(CKR_ARGUMENTS_BAD));
    }
    // SAFETY: as the caller vouches.
    let (kind, parameter) = unsafe {
        let m = pointer.read_unaligned();
        (
            m.mechanism,
            parameter(m.mechanism, m.pParameter, m.ulParameterLen)?,
        )
    };
    Ok(Mechanism { kind, parameter })
}

/// # Safety
/// As `mechanism`.
unsafe fn parameter(
    kind: CK_MECHANISM_TYPE,
    pointer: *const std::ffi::c_void,
    length: CK_ULONG,
) -> Result<Parameter> {
    let known = crate::mechanism::find(kind)?;
    if pointer.is_null() && length > 0 {
        return Err(WRONG);
    }
    if pointer.is_null() {
        return Ok(Parameter::None);
    }
    use crate::mechanism::Does;
    // SAFETY: as the caller vouches, in every arm.
    unsafe {
        Ok(match (known.does, kind) {
            (_, CKM_AES_CTR) => {
                let p: CK_AES_CTR_PARAMS = structure(pointer, length)?;
                Parameter::Counter {
                    bits: p.ulCounterBits as usize,
                    block: p.cb,
                }
            }
            (_, CKM_AES_GCM) => gcm(pointer, length)?,
            (_, CKM_AES_CCM) => {
                let p: CK_CCM_PARAMS = structure(pointer, length)?;
                Parameter::Aead {
                    nonce: bytes(p.pNonce, p.ulNonceLen).map_err(|_| WRONG)?,
                    aad: bytes(p.pAAD, p.ulAADLen).map_err(|_| WRONG)?,
                    tag: p.ulMACLen as usize,
                    length: Some(p.ulDataLen as usize),
                }
            }
            (_, CKM_CHACHA20_POLY1305) => {
                let p: CK_SALSA20_CHACHA20_POLY1305_PARAMS = structure(pointer, length)?;
                Parameter::Aead {
                    nonce: bytes(p.pNonce, p.ulNonceLen).map_err(|_| WRONG)?,
                    aad: bytes(p.pAAD, p.ulAADLen).map_err(|_| WRONG)?,
                    tag: 16,
                    length: None,
                }
            }
            (_, CKM_RSA_PKCS_OAEP) => {
                let p: CK_RSA_PKCS_OAEP_PARAMS = structure(pointer, length)?;
                let label = bytes(p.pSourceData.cast(), p.ulSourceDataLen).map_err(|_| WRONG)?;
                if p.source != CKZ_DATA_SPECIFIED && !(p.source == 0 && label.is_empty()) {
                    return Err(WRONG);
                }
                Parameter::Oaep {
                    hash: p.hashAlg,
                    mgf: p.mgf,
                    label,
                }
            }
            (
                Does::Sign {
                    scheme: Some("pss"),
                    ..
                },
                _,
            ) => {
                let p: CK_RSA_PKCS_PSS_PARAMS = structure(pointer, length)?;
                Parameter::Pss {
                    hash: p.hashAlg,
                    mgf: p.mgf,
                    salt: p.sLen as usize,
                }
            }
            (_, CKM_EDDSA) => {
                let p: CK_EDDSA_PARAMS = structure(pointer, length)?;
                Parameter::Signing {
                    prehashed: p.phFlag != CK_FALSE,
                    context: bytes(p.pContextData, p.ulContextDataLen).map_err(|_| WRONG)?,
                }
            }
            (_, CKM_ML_DSA) => {
                let p: CK_SIGN_ADDITIONAL_CONTEXT = structure(pointer, length)?;
                // Hedged, which is what there is; whoever must have the other is told.
                if p.hedgeVariant == CKH_DETERMINISTIC_REQUIRED {
                    return Err(WRONG);
                }
                Parameter::Signing {
                    prehashed: false,
                    context: bytes(p.pContext, p.ulContextLen).map_err(|_| WRONG)?,
                }
            }
            (Does::Agree, _) => {
                let p: CK_ECDH1_DERIVE_PARAMS = structure(pointer, length)?;
                let shared = bytes(p.pSharedData, p.ulSharedDataLen).map_err(|_| WRONG)?;
                Parameter::Agreement {
                    kdf: p.kdf,
                    shared: Zeroizing::new(shared),
                    public: bytes(p.pPublicData, p.ulPublicDataLen).map_err(|_| WRONG)?,
                }
            }
            (Does::Hkdf { .. }, _) => {
                let p: CK_HKDF_PARAMS = structure(pointer, length)?;
                Parameter::Hkdf {
                    extract: p.bExtract != CK_FALSE,
                    expand: p.bExpand != CK_FALSE,
                    hash: p.prfHashMechanism,
                    salt: match p.ulSaltType {
                        // NSS leaves it as its stack was.
                        _ if p.bExtract == CK_FALSE => Salt::None,
                        CKF_HKDF_SALT_NULL | 0 => Salt::None,
                        CKF_HKDF_SALT_DATA => {
                            Salt::Bytes(bytes(p.pSalt, p.ulSaltLen).map_err(|_| WRONG)?)
                        }
                        CKF_HKDF_SALT_KEY => Salt::Key(p.hSaltKey),
                        _ => return Err(WRONG),
                    },
                    info: if p.bExpand == CK_FALSE {
                        Vec::new()
                    } else {
                        bytes(p.pInfo, p.ulInfoLen).map_err(|_| WRONG)?
                    },
                }
            }
            (Does::Tls | Does::TlsKeys | Does::TlsMac, _) => tls(kind, pointer, length)?,
            (Does::Mac { general: true }, _) => {
                let number: CK_ULONG = structure(pointer, length)?;
                Parameter::Number(number as usize)
            }
            _ if length > 4096 => return Err(WRONG),
            _ if length == 0 => Parameter::None,
            _ => Parameter::Bytes(bytes(pointer.cast(), length)?),
        })
    }
}

/// GCM's, as PKCS#11 2.40 has it now, and as it had it without `ulIvBits`.
///
/// # Safety
/// As `mechanism`.
unsafe fn gcm(pointer: *const std::ffi::c_void, length: CK_ULONG) -> Result<Parameter> {
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Old {
        iv: *mut CK_BYTE,
        iv_length: CK_ULONG,
        aad: *mut CK_BYTE,
        aad_length: CK_ULONG,
        tag_bits: CK_ULONG,
    }
    // SAFETY: as the caller vouches.
    let p: Old = unsafe {
        if length as usize == size_of::<Old>() {
            structure(pointer, length)?
        } else {
            let p: CK_GCM_PARAMS = structure(pointer, length)?;
            Old {
                iv: p.pIv,
                iv_length: p.ulIvLen,
                aad: p.pAAD,
                aad_length: p.ulAADLen,
                tag_bits: p.ulTagBits,
            }
        }
    };
    if p.tag_bits % 8 != 0 {
        return Err(WRONG);
    }
    // SAFETY: as the caller vouches.
    unsafe {
        Ok(Parameter::Aead {
            nonce: bytes(p.iv, p.iv_length).map_err(|_| WRONG)?,
            aad: bytes(p.aad, p.aad_length).map_err(|_| WRONG)?,
            tag: p.tag_bits as usize / 8,
            length: None,
        })
    }
}
