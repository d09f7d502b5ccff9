//! libcryptofd-openssl.so: cryptofd's sessions, and the keys of its broker, as a provider of OpenSSL 3.0 and
//! later.
//!
//! A door: it knows sessions, and sessions know engines. It is loaded by a libcrypto, of which there may be
//! several in a process (one linked into Python's `cryptography`, say), and links none: structures and
//! numbers of OpenSSL's ABI are written by hand (`ffi/types.rs`), parameters are read and written by hand
//! (`ffi/params.rs`), and what only the host can do is asked of its core (`ffi/core.rs`). One symbol is
//! exported.
//!
//! # How a family is added
//!
//! A family has the algorithms of one operation (OSSL_OP_*).
//!
//! 1. `NAME.rs`, safe Rust: `pub fn algorithms() -> Vec<family::Algorithm>`, called once in a process, and
//!    the contexts: what is begun, updated, asked for parameters (`params::Given`, `params::Asked`).
//! 2. `ffi/NAME.rs`, the C functions and their tables (`OSSL_DISPATCH`). Each turns pointers into references
//!    (`held`, `input`, `output`, `Given::new`, `Asked::new`) and runs under `call::gated`, where it may take a
//!    lock (opens a session, asks the broker, allocates a secret), or `call::guarded`, where it works on its
//!    context alone; both keep panics in and put what failed on the host's error stack. A context holds an
//!    `Arc<Provider>`, made by `provider(provctx)`; `give` hands a box out, `take` takes it back. Where
//!    OpenSSL does not say which algorithm it means, `numbered!` makes a function of each.
//! 3. One line in `family::FAMILIES`: the operation, from which profile on, `algorithms`.
//! 4. Names, aliases and object identifiers stand in algorithms.toml (`openssl`, `openssl_aliases`), and
//!    `names::of` makes of them what OpenSSL wants. New reasons stand in `error.rs`.
//! 5. What profile `bulk` shall offer says what is measured of it (`Algorithm::measured`, `measure::Job`): without
//!    that it is offered where the host has nothing of this name.

mod call;
mod cipher;
mod context;
mod decrypting;
mod digest;
mod error;
mod family;
mod ffi;
mod identifier;
mod kdf;
mod kept;
mod key;
mod keys;
mod mac;
mod mac_kept;
mod making;
mod measure;
mod measured;
mod message;
mod names;
mod pair;
mod pieces;
mod plain;
mod profile;
mod rand;
mod reference;
mod remembered;
mod sealed;
mod secret_key;
mod served;
mod sessions;
mod signing;
mod skeys;
mod worth;
