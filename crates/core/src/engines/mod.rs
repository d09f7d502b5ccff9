//! The engines: one folder each, one line each in the list.

use crate::engine::Engine;

pub mod kernel;
pub mod openssl;
pub mod software;

/// Every engine, in the order in which they are preferred where nobody says otherwise.
pub fn all() -> &'static [&'static dyn Engine] {
    static ALL: &[&dyn Engine] = &[&software::Software, &openssl::OpenSsl, &kernel::Kernel];
    ALL
}
