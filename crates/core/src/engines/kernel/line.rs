//! A line to the kernel: one operation socket, used for one request at a time.
//!
//! Software computes within the system call, so its line is the socket itself. Hardware may never
//! answer: Linux forgets the requests of a device that is pulled, and whoever waits for one of them
//! sleeps for ever, beyond the reach of signals. So a hardware line is carried by a thread of its own,
//! which works on memory of its own and is given up, memory and all, when it is late.

use super::sys::{Control, Errno, Socket};
use crate::error::Error;
use crate::sys::buffer::{Input, Output};
use crate::sys::{fork, thread};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zeroize::Zeroizing;

/// How long a device may take over one request of at most 64 KiB.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// One operation socket.
pub struct Line {
    way: Way,
    generation: u64,
}

enum Way {
    Direct(Socket),
    Carried(Courier),
}

/// Whether a thread could be started.
fn spawn(f: impl FnOnce() + Send + 'static) -> bool {
    thread::spawn("cryptofd-kernel".to_owned(), f).is_ok()
}

/// Runs `f` on a thread of its own. ETIMEDOUT when it is late: the thread is given up.
pub fn within<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T, Errno> {
    let (give, take) = mpsc::sync_channel(1);
    let job = move || {
        // Nobody waits any more when this fails, and what was made goes here.
        let _ = give.send(f());
    };
    if !spawn(job) {
        return Err(libc::EAGAIN);
    }
    match take.recv_timeout(PATIENCE) {
        Ok(value) => Ok(value),
        Err(RecvTimeoutError::Timeout) => Err(libc::ETIMEDOUT),
        Err(RecvTimeoutError::Disconnected) => Err(libc::EIO),
    }
}

type Job = Box<dyn FnOnce(&Socket) + Send>;

/// A thread that holds an operation socket of a hardware driver.
struct Courier {
    jobs: mpsc::Sender<Job>,
}

impl Courier {
    fn start(socket: Socket) -> Result<Courier, Errno> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let work = move || {
            while let Ok(job) = queue.recv() {
                job(&socket);
            }
        };
        if spawn(work) {
            Ok(Courier { jobs })
        } else {
            Err(libc::EAGAIN)
        }
    }

    fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Socket) -> Result<T, Errno> + Send + 'static,
    ) -> Result<T, Errno> {
        let (give, take) = mpsc::sync_channel(1);
        let job: Job = Box::new(move |socket| {
            let _ = give.send(f(socket));
        });
        self.jobs.send(job).map_err(|_| libc::EIO)?;
        match take.recv_timeout(PATIENCE) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(libc::ETIMEDOUT),
            Err(RecvTimeoutError::Disconnected) => Err(libc::EIO),
        }
    }
}

/// One complete request, or a part of one.
pub struct Exchange<'a> {
    /// Direction, IV, associated data; `None` for hashes and random bytes.
    pub control: Option<&'a Control>,
    /// What goes in; at most `PIECES`.
    pub send: &'a [Input<'a>],
    /// Whether more of the message follows (then nothing is received).
    pub more: bool,
    /// What comes out, to the byte; at most `PIECES`.
    pub receive: &'a [Output<'a>],
}

fn total<T>(pieces: &[T], length: impl Fn(&T) -> usize) -> usize {
    pieces.iter().map(length).sum()
}

/// Sends all of it, or says EMSGSIZE: what was taken of a message counts as the whole of it. EBADF if the
/// number is not ours any more.
fn send(
    socket: &Socket,
    control: Option<&Control>,
    pieces: &[Input<'_>],
    more: bool,
) -> Result<(), Errno> {
    if !socket.is_ours_lately() {
        return Err(libc::EBADF);
    }
    let wanted = total(pieces, Input::len);
    match socket.send(control, pieces, more) {
        Ok(sent) if sent == wanted => Ok(()),
        // Each kind of stranger refuses in its own way.
        Err(_) if !socket.is_ours() => Err(libc::EBADF),
        Ok(_) | Err(libc::EAGAIN) => Err(libc::EMSGSIZE),
        Err(errno) => Err(errno),
    }
}

fn receive(socket: &Socket, pieces: &[Output<'_>]) -> Result<(), Errno> {
    match socket.receive(pieces) {
        Ok(received) if received == total(pieces, Output::len) => Ok(()),
        Ok(_) => Err(libc::EPROTO),
        Err(errno) => Err(errno),
    }
}

/// A receive whose result is known to be empty still has to happen: it is what verifies an AEAD's tag.
/// A byte of room makes the kernel look; it returns without filling it.
fn receive_nothing(socket: &Socket) -> Result<(), Errno> {
    let mut room = [0u8; 1];
    match socket.receive(&[Output::from(&mut room[..])]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(libc::EPROTO),
        Err(errno) => Err(errno),
    }
}

fn exchange(socket: &Socket, request: &Exchange<'_>) -> Result<(), Errno> {
    // Random bytes are only received.
    if request.control.is_some() || !request.send.is_empty() {
        send(socket, request.control, request.send, request.more)?;
    } else if !socket.is_ours() {
        return Err(libc::EBADF);
    }
    match request.receive {
        _ if request.more => Ok(()),
        [] => Ok(()),
        pieces if total(pieces, Output::len) == 0 => receive_nothing(socket),
        pieces => receive(socket, pieces),
    }
}

impl Line {
    /// An operation socket of `parent`.
    fn open(parent: &Socket, hardware: bool, buffers: usize) -> Result<Line, Errno> {
        let socket = parent.accept()?;
        if buffers > 0 {
            socket.buffers(buffers)?;
        }
        Line::over(socket, hardware)
    }

    fn over(socket: Socket, hardware: bool) -> Result<Line, Errno> {
        let way = if hardware {
            Way::Carried(Courier::start(socket)?)
        } else {
            Way::Direct(socket)
        };
        Ok(Line {
            way,
            generation: fork::generation(),
        })
    }

    /// Whether this process made it; a child does not share a state with its parent.
    pub fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }

    /// Does a request. After any error the line must not be used again.
    pub fn exchange(&self, request: &Exchange<'_>) -> Result<(), Errno> {
        match &self.way {
            Way::Direct(socket) => exchange(socket, request),
            Way::Carried(courier) => carry(courier, request),
        }
    }

    /// Receives what a message that was sent with `more` comes to.
    pub fn conclude(&self, out: &mut [u8]) -> Result<(), Errno> {
        let length = out.len();
        match &self.way {
            Way::Direct(socket) if !socket.is_ours() => Err(libc::EBADF),
            Way::Direct(socket) => receive(socket, &[Output::from(out)]),
            Way::Carried(courier) => {
                let result = courier.run(move |socket| {
                    let mut result = vec![0u8; length];
                    receive(socket, &[Output::from(&mut result)])?;
                    Ok(result)
                })?;
                out.copy_from_slice(&result);
                Ok(())
            }
        }
    }

    /// A copy with its state (hashes).
    pub fn copy(&self) -> Result<Line, Errno> {
        match &self.way {
            Way::Direct(socket) if !socket.is_ours() => Err(libc::EBADF),
            Way::Direct(socket) => Line::over(socket.accept()?, false),
            Way::Carried(courier) => Line::over(courier.run(Socket::accept)?, true),
        }
    }
}

/// The same, through private memory: what the kernel still does with it after we gave up hurts nobody.
fn carry(courier: &Courier, request: &Exchange<'_>) -> Result<(), Errno> {
    let gather = |pieces: &[Input<'_>]| {
        let mut bytes = Zeroizing::new(Vec::with_capacity(total(pieces, Input::len)));
        for piece in pieces {
            bytes.extend_from_slice(&Zeroizing::new(piece.to_vec()));
        }
        bytes
    };
    let data = gather(request.send);
    let control = request.control.copied();
    let more = request.more;
    let lengths: Vec<usize> = request.receive.iter().map(Output::len).collect();
    let room = lengths.iter().sum();
    let nothing_sent = request.send.is_empty();
    let nothing_expected = lengths.is_empty();
    let result = courier.run(move |socket| {
        let mut result = Zeroizing::new(vec![0u8; room]);
        let send = [Input::from(&data[..])];
        let out = [Output::from(&mut result[..])];
        let request = Exchange {
            control: control.as_ref(),
            send: if nothing_sent { &[] } else { &send },
            more,
            receive: if nothing_expected { &[] } else { &out },
        };
        exchange(socket, &request)?;
        Ok(result)
    })?;
    let mut rest = &result[..];
    for piece in request.receive {
        let (head, tail) = rest.split_at(piece.len());
        piece.copy_from(head);
        rest = tail;
    }
    Ok(())
}

/// A bound socket with its key, and the lines that nobody uses at the moment.
pub struct Lines {
    /// `None` only while it is being dropped.
    parent: Option<Arc<Socket>>,
    idle: Mutex<Vec<Line>>,
    /// The only line, where no parent is at hand to make others; `None` once it is out of step.
    single: Option<Mutex<Option<Line>>>,
    hardware: bool,
    buffers: usize,
    /// Most bytes of one message, in or out.
    pub room: usize,
}

/// Lines that are kept for the next request; more run in parallel when more threads ask.
const KEPT: usize = 8;

impl Lines {
    /// Over a socket that is bound and keyed. `buffers`: bytes to ask for, 0 for none (hashes).
    pub fn of(parent: Arc<Socket>, hardware: bool, buffers: usize) -> Result<Lines, Errno> {
        let first = parent.accept()?;
        let room = if buffers > 0 {
            first.buffers(buffers)?
        } else {
            usize::MAX
        };
        let first = Line::over(first, hardware)?;
        Ok(Lines {
            parent: Some(parent),
            idle: Mutex::new(vec![first]),
            single: None,
            hardware,
            buffers,
            room,
        })
    }

    /// Over one operation socket, whose requests wait for each other.
    pub fn single(socket: Socket, hardware: bool, buffers: usize) -> Result<Lines, Errno> {
        let room = socket.buffers(buffers)?;
        let line = Line::over(socket, hardware)?;
        Ok(Lines {
            parent: None,
            idle: Mutex::new(Vec::new()),
            single: Some(Mutex::new(Some(line))),
            hardware,
            buffers,
            room,
        })
    }

    fn on_the_only(
        line: &Mutex<Option<Line>>,
        f: impl FnOnce(&Line) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut place = line.lock().unwrap_or_else(|e| e.into_inner());
        let line = place.as_ref().ok_or(libc::EPIPE)?;
        // A child of fork has the same socket as its parent, and would get its parent's answers.
        if !line.is_ours() {
            return Err(libc::EBUSY);
        }
        let done = f(line);
        // After a wrong tag nothing is left in the socket; after anything else something may be.
        if !matches!(done, Ok(()) | Err(libc::EBADMSG)) {
            *place = None;
        }
        done
    }

    /// A line for one request, or for one stream.
    pub fn take(&self) -> Result<Line, Errno> {
        // A lock that another thread held when this process was forked never opens again: no waiting.
        if let Ok(mut idle) = self.idle.try_lock() {
            while let Some(line) = idle.pop() {
                if line.is_ours() {
                    return Ok(line);
                }
                line.forget();
            }
        }
        let parent = self.parent.as_ref().ok_or(libc::EBADF)?;
        if !parent.is_ours() {
            return Err(libc::EBADF);
        }
        if !self.hardware {
            return Line::open(parent, false, self.buffers);
        }
        let (parent, buffers) = (parent.clone(), self.buffers);
        within(move || Line::open(&parent, true, buffers))?
    }

    /// Gives back a line whose last request was done.
    pub fn put(&self, line: Line) {
        if let Ok(mut idle) = self.idle.try_lock() {
            if idle.len() < KEPT {
                idle.push(line);
            }
        }
    }

    /// One request on any line.
    pub fn exchange(&self, request: &Exchange<'_>) -> Result<(), Errno> {
        self.on_a_line(|line| line.exchange(request))
    }

    /// Runs a whole request on any line. A line whose number the program closed or reused is passed over:
    /// nothing was sent on it, and the parent's number may still be ours.
    pub fn on_a_line(&self, mut f: impl FnMut(&Line) -> Result<(), Errno>) -> Result<(), Errno> {
        if let Some(line) = &self.single {
            return Lines::on_the_only(line, f);
        }
        for _ in 0..=KEPT {
            let line = self.take()?;
            match f(&line) {
                Ok(()) => {
                    self.put(line);
                    return Ok(());
                }
                Err(libc::EBADF) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(libc::EBADF)
    }
}

impl Line {
    /// Lets go of a parent process's line: its socket is closed here, its thread is not here at all.
    fn forget(self) {
        if let Way::Carried(courier) = self.way {
            std::mem::forget(courier);
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let Some(parent) = self.parent.take() else {
            return;
        };
        // Closing asks the device to forget the key, and a device that is gone may not answer that either.
        if self.hardware && Arc::strong_count(&parent) == 1 {
            let parent = Arc::into_inner(parent);
            spawn(move || drop(parent));
        }
    }
}

/// What an errno of a request means for the session. `in_place`: the input is gone where output came.
pub fn failure(driver: &str, errno: Errno, in_place: bool) -> Error {
    let text = std::io::Error::from_raw_os_error(errno);
    match errno {
        libc::EBADMSG => Error::bad_tag(),
        libc::EPROTO if in_place => Error::stale(format!(
            "{driver} gave less than the whole result; the input was overwritten in place and cannot be repeated"
        )),
        libc::EPROTO => {
            Error::engine_failed(errno, format!("{driver} gave less than the whole result"))
        }
        libc::EMSGSIZE | libc::ENOMEM | libc::ENOBUFS | libc::EINVAL => Error::elsewhere(format!(
            "one request of this size is beyond AF_ALG here ({driver}: {text})"
        )),
        libc::EMFILE | libc::ENFILE => {
            Error::elsewhere(format!("no descriptor for a request by {driver}: {text}"))
        }
        libc::ETIMEDOUT => Error::engine_failed(
            errno,
            format!(
                "{driver} did not answer within {} seconds",
                PATIENCE.as_secs()
            ),
        ),
        libc::EBADF => Error::engine_failed(
            errno,
            format!("the descriptors of {driver} were closed by this program"),
        ),
        libc::EBUSY => Error::engine_failed(
            errno,
            format!("{driver}: the adopted operation socket is the parent process's as well"),
        ),
        libc::EPIPE => Error::engine_failed(
            errno,
            format!("{driver}: the adopted operation socket is out of step after a failed request"),
        ),
        _ => Error::engine_failed(errno, format!("{driver}: {text}")),
    }
}
