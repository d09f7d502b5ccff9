//! OpenSSL 3's libcrypto through its C interface. Everything unsafe of the engine is below here.

mod aead;
mod api;
mod cipher;
mod digest;
mod kdf;
mod library;
mod mac;
mod pair;
mod params;
mod random;
mod running;
mod wrap;

pub use aead::Aead;
pub use cipher::Cipher;
pub use digest::hash;
pub use kdf::{Kdf, Method};
pub use library::{Library, Provider};
pub use mac::{Over, mac};
pub use pair::Pair;
pub use random::Random;
pub use wrap::KeyWrap;
