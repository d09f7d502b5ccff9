//! Errors: an errno, a kind, and a sentence that names the object, the limit and the way out.

use std::borrow::Cow;

/// What kind of failure; decides the Python class and whether a session moves to another engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No such algorithm (ENOENT).
    UnknownAlgorithm,
    /// A wrong size, flag or combination (EINVAL).
    Invalid,
    /// A policy forbids it (EPERM).
    Refused,
    /// No engine can serve it (ENODEV).
    NoEngine,
    /// The tag does not verify (EBADMSG).
    BadTag,
    /// The signature does not verify (EKEYREJECTED).
    BadSignature,
    /// More than a stated limit (EMSGSIZE).
    TooLarge,
    /// Not something this object does (EOPNOTSUPP).
    Unsupported,
    /// An engine does not offer this; the next one is asked.
    NotOffered,
    /// This request is beyond the engine, though it works: another does this one request.
    Elsewhere,
    /// The engine failed under the session: the session moves on.
    EngineFailed,
    /// A stream's state is lost with its engine (ESTALE).
    Stale,
    /// Used after close (EBADF).
    Closed,
    /// Not ready (EAGAIN).
    Again,
    /// A key was revoked or has expired (EKEYREVOKED, EKEYEXPIRED).
    KeyRevoked,
    /// Anything else the system said.
    System,
}

/// An error of cryptofd.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    errno: i32,
    message: Cow<'static, str>,
}

/// What cryptofd's functions return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this kind, with this errno.
    pub fn new(kind: Kind, errno: i32, message: impl Into<Cow<'static, str>>) -> Error {
        Error {
            kind,
            errno,
            message: message.into(),
        }
    }

    /// EINVAL.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Kind::Invalid, libc::EINVAL, message)
    }

    /// ENOENT: no such algorithm.
    pub fn unknown_algorithm(name: &str) -> Error {
        let name: String = name.chars().take(80).collect();
        Error::new(
            Kind::UnknownAlgorithm,
            libc::ENOENT,
            format!("no algorithm {name:?}; cryptofd.algorithms() lists those there are"),
        )
    }

    /// EBADMSG.
    pub fn bad_tag() -> Error {
        Error::new(
            Kind::BadTag,
            libc::EBADMSG,
            "the tag does not verify: wrong key, iv or aad, or the data was changed",
        )
    }

    /// EKEYREJECTED, as the kernel's public_key_verify_signature() has it.
    pub fn bad_signature() -> Error {
        Error::new(
            Kind::BadSignature,
            libc::EKEYREJECTED,
            "the signature does not verify: another key, hash or scheme, or the data was changed",
        )
    }

    /// EPERM.
    pub fn refused(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Kind::Refused, libc::EPERM, message)
    }

    /// EMSGSIZE.
    pub fn too_large(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Kind::TooLarge, libc::EMSGSIZE, message)
    }

    /// EOPNOTSUPP.
    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Kind::Unsupported, libc::EOPNOTSUPP, message)
    }

    /// The engine does not offer this; the next is asked, and the message is kept as the reason.
    pub fn not_offered(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Kind::NotOffered, libc::ENOENT, message)
    }

    /// This one request is beyond the engine (EMSGSIZE if no other engine may do it).
    pub fn elsewhere(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Kind::Elsewhere, libc::EMSGSIZE, message)
    }

    /// The engine failed under the session.
    pub fn engine_failed(errno: i32, message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Kind::EngineFailed, errno, message)
    }

    /// ESTALE.
    pub fn stale(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Kind::Stale, libc::ESTALE, message)
    }

    /// EBADF.
    pub fn closed() -> Error {
        Error::new(
            Kind::Closed,
            libc::EBADF,
            "this cryptofd is closed; open a new one",
        )
    }

    /// What the system said, in the words of `what`.
    pub fn system(errno: i32, what: &str) -> Error {
        let text = std::io::Error::from_raw_os_error(errno);
        Error::new(Kind::System, errno, format!("{what}: {text}"))
    }

    /// What the last system call said, in the words of `what`.
    pub fn last_os(what: &str) -> Error {
        let errno = std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO);
        Error::system(errno, what)
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The errno that a system call would give.
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
