//! TLS 1.2's derivations (RFC 5246, RFC 7627), so that the keys of its records never leave their slot.

use crate::attributes::Attributes;
use crate::mechanism;
use crate::module::{Session, State};
use crate::object::{self, Object, Origin};
use crate::parameter::{Mechanism, Parameter};
use crate::rv::{Result, Rv, invalid_is};
use cryptofd_core::engine::Key;
use cryptofd_core::secret::Secret;
use cryptofd_core::session::{self, Request};
use cryptofd_core::sys::buffer::Input;
use cryptoki_sys::*;
use zeroize::Zeroizing;

/// Bytes of a master secret.
const MASTER: usize = 48;
/// Most bytes that are made at once: six keys and IVs of the largest sizes.
const MOST: usize = 4096;

/// The pseudorandom function: HMAC, over and over.
pub fn prf(
    secret: &Secret,
    hash: &str,
    label: &[u8],
    seed: &[u8],
    length: usize,
) -> Result<Zeroizing<Vec<u8>>> {
    if length == 0 || length > MOST {
        return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
    }
    let request = Request {
        algorithm: format!("hmac({hash})"),
        key: Key::Bytes(secret.clone()),
        ..Request::default()
    };
    let mac = session::Session::open(request).map_err(invalid_is(CKR_MECHANISM_PARAM_INVALID))?;
    let size = mac.digest_size();
    let seed = [label, seed].concat();
    let mut chain = Zeroizing::new(vec![0; size]);
    mac.digest(Input::from(&seed), &mut chain)?;
    let mut made = Zeroizing::new(Vec::with_capacity(length + size));
    loop {
        let mut hasher = mac.hasher()?;
        hasher.update(Input::from(&chain[..]))?;
        hasher.update(Input::from(&seed))?;
        let mut block = Zeroizing::new(vec![0; size]);
        hasher.finish(&mut block)?;
        made.extend_from_slice(&block);
        if made.len() >= length {
            made.truncate(length);
            return Ok(made);
        }
        let mut next = Zeroizing::new(vec![0; size]);
        mac.digest(Input::from(&chain[..]), &mut next)?;
        chain = next;
    }
}

fn keep(
    state: &State,
    session: &Session,
    base: &Object,
    mut attributes: Attributes,
    bytes: &[u8],
) -> Result<CK_OBJECT_HANDLE> {
    attributes.take(CKA_VALUE_LEN);
    object::complete(&mut attributes, Origin::derived(base))?;
    let kind = attributes.key_type().ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
    let material = object::secret_of(&mut attributes, kind, bytes)?;
    Ok(state.keep_in(session, attributes, material))
}

/// A secret of the PRF: the master secret, or (TLS_KDF) what a label names.
pub fn derive(
    state: &State,
    session: &Session,
    base: &Object,
    mechanism: &Mechanism,
    mut attributes: Attributes,
) -> Result<CK_OBJECT_HANDLE> {
    let Parameter::Tls {
        hash,
        label,
        seed,
        version,
    } = &mechanism.parameter
    else {
        return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
    };
    let hash = mechanism::hash(*hash)?;
    let secret = base.secret()?;
    let master = mechanism.kind != CKM_TLS_KDF;
    let length = match (attributes.number(CKA_VALUE_LEN), master) {
        (Some(length), true) if length as usize != MASTER => {
            return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
        }
        (_, true) => MASTER,
        (Some(length), false) => length as usize,
        (None, false) => return Err(Rv(CKR_TEMPLATE_INCOMPLETE)),
    };
    let by_rsa = matches!(
        mechanism.kind,
        CKM_TLS12_MASTER_KEY_DERIVE | CKM_TLS12_EXTENDED_MASTER_KEY_DERIVE
    );
    if by_rsa && secret.len() != MASTER {
        return Err(Rv(CKR_KEY_SIZE_RANGE));
    }
    let made = prf(secret, hash, label, seed, length)?;
    let mut implied = Attributes::default();
    implied.set_number(CKA_CLASS, CKO_SECRET_KEY);
    attributes.agree(&implied)?;
    if !attributes.has(CKA_KEY_TYPE) {
        attributes.set_number(CKA_KEY_TYPE, CKK_GENERIC_SECRET);
    }
    let handle = keep(state, session, base, attributes, &made)?;
    if let Some(version) = version {
        // The premaster secret of RSA begins with the version that the client offered.
        version.put(secret.expose()[0], secret.expose()[1]);
    }
    Ok(handle)
}

/// The keys of both directions: secrets of their MACs, their keys, their IVs.
pub fn keys(
    state: &State,
    session: &Session,
    base: &Object,
    mechanism: &Mechanism,
    attributes: &Attributes,
) -> Result<()> {
    let Parameter::TlsKeys {
        hash,
        mac,
        key,
        iv,
        seed,
        returned,
    } = &mechanism.parameter
    else {
        return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
    };
    let hash = mechanism::hash(*hash)?;
    // The safe form tells nobody the IVs: they are made of the block all the same, and stay in it.
    let told = mechanism.kind == CKM_TLS12_KEY_AND_MAC_DERIVE;
    let whole = 2 * (mac + key + iv);
    let block = prf(base.secret()?, hash, b"key expansion", seed, whole)?;
    let mut rest = &block[..];
    let mut next = |length: usize| {
        let (piece, more) = rest.split_at(length);
        rest = more;
        piece
    };
    let pieces: [&[u8]; 6] = [
        next(*mac),
        next(*mac),
        next(*key),
        next(*key),
        next(*iv),
        next(*iv),
    ];
    let mut made = Vec::new();
    let all = (|| {
        for (number, piece) in pieces[..4].iter().enumerate() {
            if piece.is_empty() {
                made.push(CK_INVALID_HANDLE);
                continue;
            }
            let mut own = attributes.clone();
            if number < 2 {
                own = Attributes::default();
                own.set_number(CKA_KEY_TYPE, CKK_GENERIC_SECRET);
                for kind in [CKA_SIGN, CKA_VERIFY, CKA_DERIVE] {
                    own.set_flag(kind, true);
                }
            }
            // They are as secret as the key that they come from.
            for kind in [CKA_SENSITIVE, CKA_EXTRACTABLE] {
                let secret = base.flag(kind);
                if attributes.said(kind).is_some_and(|said| said != secret) {
                    return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
                }
                own.set_flag(kind, secret);
            }
            let mut implied = Attributes::default();
            implied.set_number(CKA_CLASS, CKO_SECRET_KEY);
            own.agree(&implied)?;
            made.push(keep(state, session, base, own, piece)?);
        }
        Ok(())
    })();
    if let Err(error) = all {
        // All of them or none.
        for handle in made {
            state.drop_object(handle);
        }
        return Err(error);
    }
    returned.put([made[0], made[1], made[2], made[3]]);
    if told {
        returned.put_ivs(pieces[4], pieces[5]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prf_gives_the_known_answer() {
        let hex = |text: &str| -> Vec<u8> {
            let byte = |n| u8::from_str_radix(&text[n..n + 2], 16).unwrap();
            (0..text.len()).step_by(2).map(byte).collect()
        };
        // The vector that the TLS working group's list has for SHA-256.
        let secret = Secret::new(&hex("9bbe436ba940f017b17652849a71db35"));
        let seed = hex("a0ba9f936cda311827a6f796ffd5198c");
        let known = "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a\
                     6b301791e90d35c9c9a46b4e14baf9af0fa022f7077def17abfd3797c0564bab\
                     4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff701\
                     87347b66";
        let made = prf(&secret, "sha256", b"test label", &seed, 100).unwrap();
        assert_eq!(*made, hex(known));
        let short = prf(&secret, "sha256", b"test label", &seed, 33).unwrap();
        assert_eq!(*short, hex(known)[..33]);
        assert!(prf(&secret, "sha256", b"test label", &seed, 0).is_err());
    }
}
