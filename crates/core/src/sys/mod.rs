//! What touches memory and the system directly; the safe faces of it.

pub mod buffer;
