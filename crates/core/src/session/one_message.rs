//! One message under one key and nonce: a second tag under a Poly1305 key (RFC 8439, 2.5), or under a GMAC
//! key with its nonce (SP 800-38D, 8), lets who sees both forge every further one.

use crate::error::{Error, Result};
use crate::table::Algorithm;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the session's one message has its tag. It is the session's, so its copies and descriptors
/// share it.
pub(super) struct OneMessage {
    algorithm: &'static Algorithm,
    tagged: AtomicBool,
}

impl OneMessage {
    /// The rule for a session of `algorithm`; most have none.
    pub fn of(algorithm: &'static Algorithm) -> OneMessage {
        OneMessage {
            algorithm,
            tagged: AtomicBool::new(false),
        }
    }

    /// EPERM when the message has its tag: then there is no other to begin, go on with or take along.
    pub fn open(&self) -> Result<()> {
        if self.tagged.load(Ordering::Acquire) {
            return Err(self.refusal());
        }
        Ok(())
    }

    /// Makes a tag by `f`, EPERM if another message has one. `mine` stays with the running state whose
    /// message it is: the same message's tag may be read again.
    pub fn tag(&self, mine: &mut bool, f: impl FnOnce() -> Result<()>) -> Result<()> {
        if !self.algorithm.one_message() || *mine {
            return f();
        }
        // Taken before the tag is made: of two threads one gets it.
        if self.tagged.swap(true, Ordering::AcqRel) {
            return Err(self.refusal());
        }
        let made = f();
        *mine = made.is_ok();
        if !*mine {
            self.tagged.store(false, Ordering::Release);
        }
        made
    }

    #[cold]
    fn refusal(&self) -> Error {
        let (with, anew) = if self.algorithm.one_time_key {
            ("one key", "a new key")
        } else {
            ("one key and nonce", "a new iv")
        };
        Error::refused(format!(
            "{} authenticates one message with {with}, and this session's has its tag: open a new session \
             with {anew}",
            self.algorithm.name
        ))
    }
}
