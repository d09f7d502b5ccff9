//! libcryptofd-pkcs11.so: cryptofd's sessions, and the keys of its broker, behind PKCS#11.
//!
//! A door: it knows sessions, and sessions know engines. Two slots, whose numbers never change: *cryptofd*
//! computes with keys that the program brings, *cryptofd keys* with those that the broker keeps.

mod attributes;
mod call;
mod cipher;
mod der;
mod digest;
mod ffi;
mod gather;
mod generate;
mod keys;
mod mechanism;
mod message;
mod module;
mod object;
mod parameter;
mod rv;
mod search;
mod served;
mod shelf;
mod signature;
mod slot;
mod tls;
mod wrapping;
