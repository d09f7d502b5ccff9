//! The core of cryptofd: the table of algorithms, the engines, sessions and records.
//!
//! Arrows point one way: door, session, engine.

pub mod broker;
pub mod choose;
pub mod client;
pub mod cpu;
pub mod engine;
pub mod engines;
pub mod error;
pub mod info;
pub mod pair;
pub mod preferences;
pub mod record;
pub mod remote;
pub mod ring;
pub mod secret;
pub mod selftest;
pub mod serve;
pub mod session;
pub mod sys;
pub mod table;

pub use error::{Error, Result};
pub use session::Session;

#[cfg(test)]
mod tests {
    use super::engine::Key;
    use super::secret::Secret;
    use super::session::{Request, Session};
    use super::sys::buffer::{Input, Output};

    #[test]
    fn gcm_goes_round() {
        let session = Session::open(Request {
            algorithm: "gcm(aes)".into(),
            key: Key::Bytes(Secret::new(&[7; 32])),
            ..Request::default()
        })
        .unwrap();
        let (mut sealed, mut back) = ([0u8; 19], [0u8; 3]);
        let aad = Input::EMPTY;
        session
            .seal(
                &[1; 12],
                aad,
                Input::from(b"abc"),
                Output::from(&mut sealed[..]),
            )
            .unwrap();
        session
            .unseal(
                &[1; 12],
                aad,
                Input::from(&sealed),
                Output::from(&mut back[..]),
            )
            .unwrap();
        assert_eq!(&back, b"abc");
        sealed[0] ^= 1;
        let error = session
            .unseal(
                &[1; 12],
                aad,
                Input::from(&sealed),
                Output::from(&mut back[..]),
            )
            .unwrap_err();
        assert_eq!(error.errno(), libc::EBADMSG);
        assert_eq!(back, [0; 3]);
    }
}
