//! The families of the broker's keys: key managers, signatures, the store, decoders. Every profile has them.

use crate::family::Algorithm;
use crate::ffi;
use crate::pair::{TYPES, Type};
use crate::reference::{SCHEME, STRUCTURE};
use std::ffi::CStr;

/// Of what works with such keys only: a program that prefers `provider=cryptofd` for its bulk keeps the
/// default provider's for its own keys.
const OWN: &str = "provider=cryptofd-keys";

fn text(name: &'static CStr) -> &'static str {
    name.to_str().unwrap_or_default()
}

/// Those of all types that have such an operation.
fn each(
    name: impl Fn(&'static Type) -> Option<&'static CStr>,
    made: impl Fn(usize, &'static str) -> Algorithm,
) -> Vec<Algorithm> {
    let all = TYPES.iter().enumerate();
    all.filter_map(|(place, kind)| Some(made(place, text(name(kind)?))))
        .collect()
}

/// KEYMGMT.
pub fn managers() -> Vec<Algorithm> {
    let all = TYPES.iter().enumerate();
    all.map(|(place, kind)| {
        let functions = ffi::keymgmt::functions(place);
        let about = "cryptofd's keys by reference";
        Algorithm::new(text(kind.name), functions, about).with(OWN, kind.since)
    })
    .collect()
}

/// SIGNATURE.
pub fn signatures() -> Vec<Algorithm> {
    each(
        |kind| kind.signature,
        |place, name| {
            let messages = !matches!(name, "RSA" | "ECDSA");
            let functions = ffi::signature::functions(messages, name == "RSA");
            let about = "signatures of cryptofd's keys";
            Algorithm::new(name, functions, about).with(OWN, TYPES[place].since)
        },
    )
}

/// ASYM_CIPHER.
pub fn ciphers() -> Vec<Algorithm> {
    each(
        |kind| kind.cipher,
        |place, name| {
            let about = "encryption with cryptofd's keys";
            Algorithm::new(name, ffi::decrypting::cipher(), about).with(OWN, TYPES[place].since)
        },
    )
}

/// KEYEXCH.
pub fn exchanges() -> Vec<Algorithm> {
    each(
        |kind| kind.exchange,
        |place, name| {
            let about = "agreement with cryptofd's keys";
            Algorithm::new(name, ffi::decrypting::exchange(), about).with(OWN, TYPES[place].since)
        },
    )
}

/// KEM.
pub fn kems() -> Vec<Algorithm> {
    each(
        |kind| kind.kem,
        |place, name| {
            let about = "encapsulation with cryptofd's keys";
            Algorithm::new(name, ffi::decrypting::capsules(), about).with(OWN, TYPES[place].since)
        },
    )
}

/// STORE.
pub fn stores() -> Vec<Algorithm> {
    let about = "cryptofd's keys by their labels";
    vec![Algorithm::new(SCHEME, ffi::store::functions(), about)]
}

/// ENCODER: private keys are written as references, so that a program that makes one has a file to read.
pub fn encoders() -> Vec<Algorithm> {
    let pem = "provider=cryptofd-keys,output=pem,structure=PrivateKeyInfo";
    let people = "provider=cryptofd-keys,output=text";
    let about = "references to cryptofd's keys";
    let ways = [
        (ffi::encoder::to_pem(), pem),
        (ffi::encoder::to_text(), people),
    ];
    let all = ways.into_iter().flat_map(|(functions, properties)| {
        TYPES.iter().map(move |kind| {
            Algorithm::new(text(kind.name), functions, about).with(properties, kind.since)
        })
    });
    all.collect()
}

/// DECODER. Until 3.2, OpenSSL looks at all pairs of them for every key that a program reads from a file; so there
/// is one for all types, and the object says which it is. Its name is a type that every release has.
pub fn decoders() -> Vec<Algorithm> {
    let about = "references to cryptofd's keys";
    let any = text(TYPES[0].name);
    let properties = format!("provider=cryptofd,input=der,structure={}", text(STRUCTURE));
    vec![
        Algorithm::new("DER", ffi::decoder::from_pem(), about)
            .with("provider=cryptofd,input=pem", (3, 0)),
        Algorithm::new(any, ffi::decoder::to_key(), about).with(&properties, (3, 0)),
    ]
}
