//! AF_ALG sockets that another process made, with a key that this one never sees.
//!
//! Such a socket does not tell what it computes: the caller does, and what can be tried out is. Nothing
//! here sets a key, an option or an address: the socket may be shared with whoever made it.

use super::line::Lines;
use super::sys::{Control, Errno, Socket};
use super::{Chosen, Served, drivers};
use crate::engine::Spec;
use crate::error::{Error, Result};
use crate::sys::buffer::{Input, Output};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use zeroize::Zeroizing;

/// An AF_ALG socket from elsewhere.
#[derive(Clone, Debug)]
pub struct Adopted {
    socket: Arc<Socket>,
    /// A bound socket, of which operation sockets are accepted; else it is one of these.
    bound: bool,
}

impl Adopted {
    /// EINVAL if it is something else.
    pub fn new(fd: OwnedFd) -> Result<Adopted> {
        let socket = Socket::adopt(fd).map_err(|errno| Error::system(errno, "this descriptor"))?;
        if !socket.is_af_alg() {
            return Err(Error::invalid("this descriptor is not an AF_ALG socket"));
        }
        let bound = socket.is_bound_not_accepted();
        Ok(Adopted {
            socket: Arc::new(socket),
            bound,
        })
    }

    /// Tries out whether it can be a socket for `spec`. One that was in the middle of a hash begins anew.
    pub(super) fn check(&self, spec: &Spec, kind: &str) -> Result<()> {
        let name = spec.algorithm.name;
        let not = |why: String| {
            Err(Error::invalid(format!(
                "this AF_ALG socket does not compute {name}: {why}"
            )))
        };
        let accepted = if self.bound {
            match self.socket.accept() {
                Ok(socket) => Some(socket),
                Err(libc::EINVAL) => return not("it is bound to no algorithm".into()),
                Err(errno) => return Err(Error::system(errno, "accept on this AF_ALG socket")),
            }
        } else {
            None
        };
        let operation = accepted.as_ref().unwrap_or(&self.socket);
        // Of operation sockets only a hash's can be copied.
        let hashes = match operation.accept() {
            Ok(_) => true,
            Err(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => {
                return Err(Error::last_os("accept on this AF_ALG socket"));
            }
            Err(_) => false,
        };
        if hashes != (kind == "hash") {
            return not(if hashes {
                "it is a hash's or a MAC's".into()
            } else {
                "it is no hash's, and no MAC's".into()
            });
        }
        let said = |errno: Errno| match errno {
            libc::ENOKEY => Error::invalid("this AF_ALG socket has no key yet"),
            errno => Error::invalid(format!(
                "this AF_ALG socket does not compute {name}, or is in the middle of a message: {}",
                std::io::Error::from_raw_os_error(errno)
            )),
        };
        match kind {
            "hash" => {
                let size = answer(operation, None, &[]).map_err(said)?.len();
                if size != spec.digest_size() {
                    return not(format!("it gives {size} bytes"));
                }
            }
            "skcipher" => {
                let iv = [0u8; 32];
                let iv = &iv[..spec.algorithm.iv.max];
                let block = [0u8; 16];
                let control = |encrypt| Control::new(encrypt, iv);
                let there = answer(operation, Some(&control(true)), &block).map_err(said)?;
                let back = answer(operation, Some(&control(false)), &there).map_err(said)?;
                if there.len() != block.len() || **there == block || **back != block {
                    return not("what it encrypts does not decrypt".into());
                }
            }
            "aead" => {
                // Of no text, so that the tag alone comes, which nobody gets to see.
                let mut iv = [0u8; 16];
                let iv = if spec.algorithm.template() == "ccm" {
                    iv[0] = 3;
                    &iv[..]
                } else {
                    &iv[..12]
                };
                let control = Control::new(true, iv).with_aad(0);
                let size = answer(operation, Some(&control), &[]).map_err(said)?.len();
                if size != spec.tag_size() {
                    return not(format!("its tag has {size} bytes, not {}", spec.tag_size()));
                }
            }
            _ => {
                return Err(Error::unsupported(format!(
                    "{name} has no key: open it here, there is nothing to adopt"
                )));
            }
        }
        Ok(())
    }

    /// Its lines: as many as are asked for where more can be accepted, else this one.
    pub(super) fn serve(&self, chosen: &Chosen, kind: &str, buffers: usize) -> Result<Served> {
        let lines = if self.bound || kind == "hash" {
            Lines::of(self.socket.clone(), chosen.hardware, buffers)
        } else {
            self.socket
                .duplicate()
                .and_then(|socket| Lines::single(socket, chosen.hardware, buffers))
        };
        Ok(Served {
            lines: lines.map_err(|errno| Error::system(errno, "an adopted AF_ALG socket"))?,
            driver: chosen.driver.clone(),
            hardware: chosen.hardware,
        })
    }
}

/// What serves it is not told either: the best driver is the likely one.
pub(super) fn likely(kind: &'static str, name: &str) -> Chosen {
    let found = drivers::candidates(kind, name);
    let best = found.first();
    Chosen {
        bind: name.to_owned(),
        driver: best.map_or_else(|| name.to_owned(), |best| best.name.clone()),
        certain: false,
        hardware: best.is_some_and(drivers::Driver::hardware),
    }
}

/// All that comes back of one request, however long it is.
fn answer(
    socket: &Socket,
    control: Option<&Control>,
    data: &[u8],
) -> std::result::Result<Zeroizing<Vec<u8>>, Errno> {
    // A hash without input gives its digest at once, and begins anew.
    if control.is_some() {
        socket.send(control, &[Input::from(data)], false)?;
    }
    let mut room = Zeroizing::new(vec![0u8; 256]);
    let length = socket.receive_now(Output::from(&mut room[..]))?;
    room.truncate(length);
    Ok(room)
}
