//! What touches memory and the system directly; the safe faces of it.

pub mod arena;
pub mod buffer;
pub mod wiped;
