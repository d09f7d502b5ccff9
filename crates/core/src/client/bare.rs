//! Descriptors that are used by their number alone, as in C: what was sent on each is remembered by which socket
//! it is, so that a worker's going is no error here either.
//!
//! Nothing is remembered of a session that this process serves itself. A number that has become another socket is
//! another descriptor, and what was sent on one that is closed is forgotten.

use super::unanswered::Unanswered;
use super::{Completion, Waiting, again, lock, system};
use crate::error::{Error, Kind, Result};
use crate::record::{Op, Request};
use crate::sys::per_process::PerProcess;
use crate::sys::{descriptor, process, socket};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex};

/// `(st_dev, st_ino)` of a socket: the same for all copies of its descriptor.
type Identity = (u64, u64);

/// Most numbers that are remembered of one socket.
const NUMBERS: usize = 8;
/// Sockets from which on those that are closed are looked for.
const MANY: usize = 32;

struct Known {
    unanswered: Arc<Mutex<Unanswered>>,
    /// Under which numbers it was used.
    numbers: Vec<RawFd>,
}

#[derive(Default)]
struct Table {
    sockets: HashMap<Identity, Known>,
    /// How many there may be before closed ones are looked for.
    room: usize,
}

static TABLE: PerProcess<Mutex<Table>> = PerProcess::new();

impl Table {
    fn of(&mut self, socket: Identity, number: RawFd) -> Arc<Mutex<Unanswered>> {
        if !self.sockets.contains_key(&socket) {
            self.tidy(number);
        }
        let known = self.sockets.entry(socket).or_insert_with(|| Known {
            unanswered: Arc::new(Mutex::new(Unanswered::of(Some(0)))),
            numbers: Vec::new(),
        });
        if !known.numbers.contains(&number) {
            if known.numbers.len() == NUMBERS {
                known.numbers.remove(0);
            }
            known.numbers.push(number);
        }
        known.unanswered.clone()
    }

    /// Forgets sockets that are closed: whose number is another's now, and now and then all.
    fn tidy(&mut self, reused: RawFd) {
        let many = self.sockets.len() >= self.room.max(MANY);
        self.sockets.retain(|socket, known| {
            let is = |number: &RawFd| descriptor::identity(*number) == Some(*socket);
            known.numbers.retain(|number| *number != reused);
            !known.numbers.is_empty() && (!many || known.numbers.iter().any(is))
        });
        if many {
            self.room = 2 * self.sockets.len();
        }
    }

    /// A parent's, in its child: the copies are not the child's to keep.
    fn inherited(&self) {
        for known in self.sockets.values() {
            if let Ok(mut unanswered) = known.unanswered.try_lock() {
                unanswered.forget();
            }
        }
    }
}

/// What is remembered of a descriptor; `None` where nothing has to be.
fn known(fd: BorrowedFd<'_>) -> Result<Option<Arc<Mutex<Unanswered>>>> {
    // Who made the pair: of a session in this process, this process.
    if socket::peer(fd).is_none_or(|pid| pid == process::id()) {
        return Ok(None);
    }
    let Some(socket) = descriptor::identity(fd.as_raw_fd()) else {
        return Ok(None);
    };
    let table = TABLE.get_from(|parents: Option<&Mutex<Table>>| {
        // Another thread of the parent may have held it at the fork: then it stays as it is.
        if let Some(table) = parents.and_then(|parents| parents.try_lock().ok()) {
            table.inherited();
        }
        Ok(Mutex::default())
    })?;
    let unanswered = lock(table).of(socket, fd.as_raw_fd());
    let brokered = lock(&unanswered).epoch().is_some();
    Ok(brokered.then_some(unanswered))
}

/// Waits for `events`, or says that the descriptor does not wait.
fn wait(fd: BorrowedFd<'_>, events: i16, what: &'static str) -> Result<()> {
    if socket::is_nonblocking(fd).map_err(|error| system(&error, what))? {
        return Err(again(what));
    }
    let polled = socket::poll(fd, events, -1);
    polled.map(drop).map_err(|error| system(&error, what))
}

/// Sends `request` under `id`. EAGAIN, EINTR, EPIPE, EMSGSIZE as `send`.
pub fn submit(fd: BorrowedFd<'_>, id: u64, request: &Request<'_>) -> Result<()> {
    let Some(unanswered) = known(fd)? else {
        return super::send(fd, id, request, false);
    };
    loop {
        let sent = lock(&unanswered).send(fd, id, request);
        match sent {
            Err(error) if error.kind() == Kind::Again => wait(fd, libc::POLLOUT, "submit")?,
            done => return done,
        }
    }
}

/// Takes the next answer; errors as `take`, but none when another worker takes over.
pub fn complete(fd: BorrowedFd<'_>, most: usize) -> Result<Completion> {
    let Some(unanswered) = known(fd)? else {
        return super::take(fd, most, false);
    };
    loop {
        let (taken, repeated) = {
            let mut unanswered = lock(&unanswered);
            let taken = unanswered.take(fd, most);
            (taken, unanswered.repeat(fd))
        };
        match taken {
            Err(error) if error.kind() == Kind::Again => {}
            done => return done,
        }
        wait(fd, events(repeated?), "complete")?;
    }
}

/// What to wait for: an answer, and room for what is to be sent again.
fn events(repeated: bool) -> i16 {
    if repeated {
        libc::POLLIN
    } else {
        libc::POLLIN | libc::POLLOUT
    }
}

/// Looks at the next answer without taking it or waiting for it.
pub fn peek(fd: BorrowedFd<'_>) -> Result<Waiting> {
    match known(fd)? {
        Some(unanswered) => lock(&unanswered).look(fd),
        None => super::peek(fd, true),
    }
}

/// The session's description, asked for under `id`. EBUSY if another answer comes first.
pub fn info(fd: BorrowedFd<'_>, id: u64) -> Result<Vec<u8>> {
    submit(fd, id, &Request::new(Op::Info))?;
    let waiting = loop {
        match peek(fd) {
            Err(error) if error.kind() == Kind::Again => {
                // A signal cannot end this: the answer would be left over.
                let repeated = match known(fd)? {
                    Some(unanswered) => lock(&unanswered).repeat(fd)?,
                    None => true,
                };
                let _ = socket::poll(fd, events(repeated), -1);
            }
            other => break other?,
        }
    };
    if waiting.id != id {
        return Err(Error::system(
            libc::EBUSY,
            "other answers wait; the description will follow them",
        ));
    }
    complete(fd, usize::MAX)?.result()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, OwnedFd};

    fn met(table: &mut Table) -> (OwnedFd, OwnedFd) {
        let pair = socket::pair().unwrap();
        let number = pair.0.as_raw_fd();
        table.of(descriptor::identity(number).unwrap(), number);
        pair
    }

    #[test]
    fn closed_sockets_are_forgotten_and_open_ones_are_not() {
        let mut table = Table::default();
        // The same number, again and again.
        for _ in 0..200 {
            drop(met(&mut table));
            assert!(table.sockets.len() <= MANY);
        }
        let open: Vec<_> = (0..100).map(|_| met(&mut table)).collect();
        assert!(table.sockets.len() >= 100);
        // Known by another number as well: closing one changes nothing.
        let copy = descriptor::duplicate(open[0].0.as_raw_fd()).unwrap();
        let first = descriptor::identity(copy.as_raw_fd()).unwrap();
        table.of(first, copy.as_raw_fd());
        drop(open);
        let _more: Vec<_> = (0..200).map(|_| met(&mut table)).collect();
        assert!(table.sockets.len() <= 203);
        assert!(table.sockets.contains_key(&first));
    }

    #[test]
    fn a_session_of_this_process_is_not_remembered() {
        let (ours, _other) = socket::pair().unwrap();
        assert!(known(ours.as_fd()).unwrap().is_none());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(known(file.as_fd()).unwrap().is_none());
    }
}
