//! The threads that serve: few, started when there is something to serve, gone when there is nothing.
//!
//! One epoll with EPOLLONESHOT: a descriptor is with one thread at a time, so its order holds. Everything
//! may be taken away from under us (closefrom(3), fork(2)); then a fresh pool begins for fresh sessions.

use super::connection::{Connection, Next, State, guarded_pair, pair};
use super::ring::Scratch;
use crate::cpu::cores;
use crate::error::{Error, Result};
use crate::record;
use crate::sys::descriptor::{self, Guarded};
use crate::sys::publish::Published;
use crate::sys::{socket, thread};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard};

/// Most threads.
const THREADS: usize = 4;
/// Milliseconds after which an idle thread looks whether it is still needed.
const IDLE: i32 = 30_000;

struct Pool {
    epoll: Guarded,
    /// Watched by our epoll and no other: tells it from an epoll that took its number.
    _marker: Guarded,
    generation: u64,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    connections: HashMap<u64, Arc<Mutex<Connection>>>,
    /// The last token given; 0 is the marker's.
    last: u64,
    threads: usize,
    /// Threads started so far, for their names.
    started: usize,
}

static POOL: Published<Pool> = Published::new();

fn system(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::system(error.raw_os_error().unwrap_or(libc::EIO), what)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Serves `state`; returns the client's end.
pub fn serve(state: State) -> Result<OwnedFd> {
    let pool = Pool::current()?;
    let (end, client) = pair()?;
    pool.add(Connection::new(end, state), true)?;
    Ok(client)
}

/// A descriptor that is served.
pub struct Served(Arc<Mutex<Connection>>);

impl Served {
    /// Says what INFO says before it is asked: as the answer to a request with the id 0.
    pub fn inform(&self) {
        lock(&self.0).inform();
    }
}

/// Serves `state` on an end whose client's end is elsewhere already.
pub fn serve_end(end: OwnedFd, state: State, announce: bool) -> Result<Served> {
    let pool = Pool::current()?;
    let end = descriptor::making(|| Guarded::new(end));
    let mut connection = Connection::new(end, state);
    let said = !announce || connection.announce();
    pool.add(connection, said).map(Served)
}

/// Gives up what has nothing under way, and later the rest.
pub fn drain(whatever: bool) {
    let Some(pool) = POOL.get().filter(|pool| pool.alive()) else {
        return;
    };
    let all: Vec<_> = lock(&pool.inside)
        .connections
        .iter()
        .map(|(token, connection)| (*token, connection.clone()))
        .collect();
    for (token, connection) in all {
        if lock(&connection).leave(whatever) {
            drop(connection);
            pool.remove(token);
        }
    }
}

/// The same for a client's end that a serving thread passes on.
pub fn serve_guarded(state: State) -> Result<Guarded> {
    let pool = Pool::current()?;
    let (end, client) = guarded_pair()?;
    if let Some(keeper) = state.keeper() {
        keeper.hold(end.again(), end.inode())?;
    }
    pool.add(Connection::new(end, state), true)?;
    Ok(client)
}

impl Pool {
    fn new() -> Result<Pool> {
        descriptor::making(|| {
            let epoll = socket::epoll().map_err(system("epoll_create1"))?;
            let marker = socket::lone().map_err(system("socket"))?;
            socket::watch(epoll.as_fd(), marker.as_fd(), 0, 0, false)
                .map_err(system("epoll_ctl"))?;
            let epoll = Guarded::epoll(epoll, marker.as_fd());
            Ok(Pool {
                epoll,
                _marker: Guarded::new(marker),
                generation: descriptor::generation(),
                inside: Mutex::default(),
            })
        })
    }

    /// Whether its process and its epoll still are what they were.
    fn alive(&self) -> bool {
        self.generation == descriptor::generation() && self.epoll.get().is_some()
    }

    /// The pool of this process, made anew where there is none or the program took the old one's epoll.
    fn current() -> Result<&'static Pool> {
        loop {
            let now = POOL.get();
            if let Some(pool) = now.filter(|pool| pool.alive()) {
                return Ok(pool);
            }
            if POOL.replace(now, Pool::new()?) {
                // A parent's pool may be locked for ever: its memory stays untouched.
                if let Some(old) = now.filter(|old| old.generation == descriptor::generation()) {
                    old.forget();
                }
            }
        }
    }

    /// Ends what is left of a pool whose epoll is gone: the clients that still live see POLLHUP.
    fn forget(&self) {
        let connections = std::mem::take(&mut lock(&self.inside).connections);
        drop(connections);
    }

    /// Serves one more connection, with one more thread if there are too few.
    fn add(
        &'static self,
        connection: Connection,
        readable: bool,
    ) -> Result<Arc<Mutex<Connection>>> {
        let connection = Arc::new(Mutex::new(connection));
        let token = {
            let mut inside = lock(&self.inside);
            inside.last += 1;
            let token = inside.last;
            inside.connections.insert(token, connection.clone());
            if inside.threads < THREADS.min(cores()).min(inside.connections.len()) {
                let name = format!("cfd-serve-{}", inside.started);
                match thread::spawn(name, move || self.run()) {
                    Ok(()) => {
                        inside.threads += 1;
                        inside.started += 1;
                    }
                    // Those that run can serve this one too.
                    Err(_) if inside.threads > 0 => {}
                    Err(error) => {
                        let removed = inside.connections.remove(&token);
                        drop(inside);
                        drop(removed);
                        return Err(system("starting a thread that serves")(error));
                    }
                }
            }
            token
        };
        let watched = {
            let connection = lock(&connection);
            socket::watch(
                self.epoll.again(),
                connection.as_fd(),
                libc::EPOLLONESHOT
                    | if readable {
                        libc::EPOLLIN
                    } else {
                        libc::EPOLLOUT
                    },
                token,
                false,
            )
        };
        match watched {
            Ok(()) => Ok(connection),
            Err(error) => {
                self.remove(token);
                Err(system("epoll_ctl")(error))
            }
        }
    }

    /// Serves a connection no more. Other processes may have copies of its end, so that closing ours is
    /// not enough to end the watching.
    fn remove(&self, token: u64) {
        let removed = lock(&self.inside).connections.remove(&token);
        if let Some(connection) = removed {
            let connection = lock(&connection);
            if let Some(end) = connection.end() {
                let _ = socket::unwatch(self.epoll.again(), end);
            }
        }
    }

    /// A thread's life.
    fn run(&'static self) {
        let mut buffer = vec![0; record::RECORD + 1];
        let mut scratch = Scratch::default();
        loop {
            if !self.alive() {
                lock(&self.inside).threads -= 1;
                self.forget();
                return;
            }
            match socket::wait(self.epoll.again(), IDLE) {
                Ok(Some(0)) | Err(_) => {}
                Ok(Some(token)) => {
                    self.turn(token, &mut buffer, &mut scratch);
                    scratch.settle();
                    thread::wipe_stack();
                }
                Ok(None) => {
                    scratch.clear();
                    let mut inside = lock(&self.inside);
                    if inside.connections.is_empty() {
                        inside.threads -= 1;
                        return;
                    }
                }
            }
        }
    }

    fn turn(&self, token: u64, buffer: &mut [u8], scratch: &mut Scratch) {
        let Some(connection) = lock(&self.inside).connections.get(&token).cloned() else {
            return;
        };
        let watched = {
            let mut connection = lock(&connection);
            // A panic would be a bug of ours; it ends this session, not the program.
            let next = catch_unwind(AssertUnwindSafe(|| connection.turn(buffer, scratch)));
            let events = match next {
                Ok(Next::Readable) => libc::EPOLLIN,
                Ok(Next::Writable) => libc::EPOLLOUT,
                Ok(Next::Soon) => libc::EPOLLIN | libc::EPOLLOUT,
                Ok(Next::Over) | Err(_) => 0,
            };
            events != 0
                && connection.end().is_some_and(|end| {
                    let events = events | libc::EPOLLONESHOT;
                    socket::watch(self.epoll.again(), end, events, token, true).is_ok()
                })
        };
        if !watched {
            drop(connection);
            self.remove(token);
        }
    }
}
