//! What touches memory and the system directly; the safe faces of it.

pub mod arena;
pub mod buffer;
pub mod bus;
pub mod descriptor;
pub mod fork;
#[cfg(test)]
pub mod forked;
pub mod gate;
pub mod memfd;
pub mod per_process;
pub mod process;
pub mod publish;
pub mod shared;
pub mod socket;
pub mod stream;
pub mod thread;
pub mod wiped;
