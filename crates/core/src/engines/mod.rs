//! The engines: one folder each, one line each in the list.

use crate::engine::Engine;
use std::sync::OnceLock;

pub mod kernel;
pub mod openssl;
pub mod software;

/// Every engine, in the order in which they are preferred where nobody says otherwise.
pub fn all() -> &'static [&'static dyn Engine] {
    static ALL: &[&dyn Engine] = &[&software::Software, &openssl::OpenSsl, &kernel::Kernel];
    ALL
}

static LEFT_OUT: OnceLock<(&'static str, &'static str)> = OnceLock::new();

/// Leaves an engine out of this door for good, and says why: a door inside a program that *is* the engine
/// would call itself. Once.
pub fn leave_out(engine: &'static str, why: &'static str) {
    let _ = LEFT_OUT.set((engine, why));
}

/// Why this door does without `engine`, if it does.
pub fn left_out(engine: &str) -> Option<&'static str> {
    LEFT_OUT
        .get()
        .and_then(|(name, why)| (*name == engine).then_some(*why))
}
