//! The client's side of a descriptor: requests out, answers in, nothing of it believed unchecked.
//!
//! `send` and `take` work on any descriptor and keep nothing; `Client` adds ids, an order of its own and
//! calls that wait. Of a brokered session it keeps what is unanswered, and sends it again, in its order, when
//! another worker takes over (docs/wire.md, Epochs).

pub mod bare;
mod facts;
mod lane;
pub(crate) mod pace;
mod unanswered;

pub use facts::Facts;
pub use lane::{Buffer, Item};

use crate::engines::software::random as random_bytes;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::record::{self, Answer, Header, Op, Params, Request};
use crate::sys::buffer::{Input, Output};
use crate::sys::descriptor::{duplicate, is_seqpacket};
use crate::sys::memfd;
use crate::sys::socket::{self, Take};
use lane::{Flight, Lane, Stop};
use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};
use unanswered::Unanswered;

/// How long `adopt` waits for a descriptor's first answer.
const PATIENCE: Duration = Duration::from_secs(10);

fn system(error: &std::io::Error, what: &str) -> Error {
    match error.raw_os_error().unwrap_or(libc::EIO) {
        libc::EAGAIN => Error::new(ErrorKind::Again, libc::EAGAIN, format!("{what}: not ready")),
        libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN => gone(),
        errno => Error::system(errno, what),
    }
}

fn gone() -> Error {
    Error::new(
        ErrorKind::System,
        libc::EPIPE,
        "the serving side of this cryptofd is gone for good",
    )
}

fn lying(why: &str) -> Error {
    Error::new(
        ErrorKind::System,
        libc::EPROTO,
        format!("the serving side sent no proper answer: {why}"),
    )
}

/// Sends `request` under `id`: in the record where it fits, in a memfd where not. EAGAIN when `nonblock`
/// or O_NONBLOCK is set and no request is taken now, EINTR when a signal came first, EPIPE when nobody
/// serves any more, EMSGSIZE beyond the limits.
pub fn send(fd: BorrowedFd<'_>, id: u64, request: &Request<'_>, nonblock: bool) -> Result<()> {
    framed(fd, id, 0, request, nonblock, |parts, memory| {
        socket::send(fd, parts, memory, nonblock).map_err(|e| system(&e, "submit"))
    })
}

/// Gives `put` the parts of the record that `request` makes, and the memfd that goes with it.
fn framed<T>(
    fd: BorrowedFd<'_>,
    id: u64,
    epoch: u32,
    request: &Request<'_>,
    nonblock: bool,
    put: impl FnOnce(&[Input<'_>], Option<BorrowedFd<'_>>) -> Result<T>,
) -> Result<T> {
    let Request { aad, data, .. } = *request;
    let params = request.params.encode();
    let fixed = record::HEADER + request.iv.len() + params.len();
    let fits = |length: usize| length <= record::RECORD && data.len() <= record::INLINE_ANSWER;
    let mut header = Header {
        op: request.op as u16,
        flags: request.flags,
        id,
        epoch,
        params: params.len() as u32,
        ..Header::default()
    };
    if fixed > record::RECORD {
        return Err(Error::too_large(format!(
            "iv and parameters of {} bytes: a record has at most {}",
            fixed - record::HEADER,
            record::RECORD
        )));
    }
    header.iv = request.iv.len() as u32;
    let whole = fixed.saturating_add(aad.len()).saturating_add(data.len());
    if fits(whole) {
        (header.aad, header.data) = (aad.len() as u32, data.len() as u32);
        let head = header.request();
        let parts = [
            Input::from(&head),
            Input::from(request.iv),
            aad,
            Input::from(&params),
            data,
        ];
        return put(&parts, None);
    }
    let attached = aad.len().saturating_add(data.len());
    if attached > record::ATTACHED {
        return Err(Error::too_large(format!(
            "{attached} bytes: at most {} in one request; use several, or a session in this process",
            record::ATTACHED
        )));
    }
    if nonblock && !is(socket::poll(fd, libc::POLLOUT, 0), libc::POLLOUT)? {
        // Before the work of copying, not after it.
        return Err(system(
            &std::io::Error::from_raw_os_error(libc::EAGAIN),
            "submit",
        ));
    }
    let memory = memfd::with(&[aad, data])?;
    header.flags |= record::FLAG_ATTACHED;
    header.attached = attached as u64;
    header.attached_aad = aad.len() as u64;
    let head = header.request();
    let parts = [
        Input::from(&head),
        Input::from(request.iv),
        Input::from(&params),
    ];
    put(&parts, Some(memory.as_fd()))
}

fn is(polled: std::io::Result<i16>, event: i16) -> Result<bool> {
    match polled {
        Ok(events) => Ok(events & (event | libc::POLLHUP | libc::POLLERR) != 0),
        Err(error) => Err(system(&error, "poll")),
    }
}

/// An answer that was taken.
#[derive(Debug)]
pub struct Completion {
    /// The request's id.
    pub id: u64,
    /// The request's op.
    pub op: u16,
    /// An errno, or 0.
    pub status: i32,
    /// The result, or the error's sentence.
    pub data: Vec<u8>,
    /// CLONE's descriptor.
    pub fd: Option<OwnedFd>,
    /// Which worker answered.
    epoch: u32,
}

impl Completion {
    /// The result, or the error.
    pub fn result(self) -> Result<Vec<u8>> {
        match self.status {
            0 => Ok(self.data),
            status => Err(record::error(status, &self.data)),
        }
    }
}

/// What waits to be taken.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// The request's id.
    pub id: u64,
    /// The request's op.
    op: u16,
    /// Bytes of its result or sentence.
    pub length: usize,
    /// Whether it is a refusal.
    pub refused: bool,
    /// Bytes of the packet.
    packet: usize,
    /// Whether it says that it brings a descriptor.
    brings: bool,
    /// Whether it is no answer but says that another worker serves now.
    epoch: bool,
    /// Whether it is no answer but says that there is news on the ring.
    bell: bool,
}

/// Looks at the next answer without taking it. EAGAIN, EINTR, EPIPE as `send`; EPROTO if it is none.
pub fn peek(fd: BorrowedFd<'_>, nonblock: bool) -> Result<Waiting> {
    let mut head = [0; record::HEADER];
    let got = receive(fd, &mut [&mut head], Take::PeekWithoutFds, nonblock)?;
    peeked(&head, got.length)
}

const CLONE: u16 = Op::Clone as u16;
const RING: u16 = Op::Ring as u16;

/// Reads what a packet of `length` bytes that begins with `head` says of itself.
fn peeked(head: &[u8; record::HEADER], length: usize) -> Result<Waiting> {
    if !(record::HEADER..=record::RECORD).contains(&length) {
        return Err(lying("its size is beyond every limit"));
    }
    let number = |at: usize, bytes: usize| {
        let bytes = &head[at..at + bytes];
        bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
    };
    let result = number(36, 4).saturating_add(number(40, 8));
    if result > (record::ATTACHED + record::RECORD) as u64 {
        return Err(lying("its lengths are beyond every limit"));
    }
    Ok(Waiting {
        id: number(8, 8),
        op: number(4, 2) as u16,
        length: result as usize,
        refused: number(20, 4) != 0,
        packet: length,
        brings: matches!(number(4, 2) as u16, CLONE | RING) || number(6, 2) != 0,
        epoch: record::announced(head).is_some(),
        bell: length == record::HEADER && record::is_bell(head),
    })
}

/// `socket::receive`, with the end of the connection as an error.
fn receive(
    fd: BorrowedFd<'_>,
    parts: &mut [&mut [u8]],
    take: Take,
    nonblock: bool,
) -> Result<socket::Received> {
    let mut reset = false;
    loop {
        match socket::receive(fd, parts, take, nonblock) {
            Ok(got) if got.length == 0 => return Err(gone()),
            Ok(got) => return Ok(got),
            // The serving side went with requests unread; what it answered before still comes.
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) && !reset => reset = true,
            Err(error) => return Err(system(&error, "complete")),
        }
    }
}

/// Takes the next answer; EMSGSIZE, and it stays, if its result (not a refusal's sentence) is longer than
/// `most`. EMFILE, and it
/// stays, if it brings a descriptor and this process has no room. EPROTO, and it is gone, if it is no
/// proper answer. ESTALE, once, when another worker has taken over: what is unanswered has to be submitted
/// again. Otherwise errors as `peek`.
pub fn take(fd: BorrowedFd<'_>, most: usize, nonblock: bool) -> Result<Completion> {
    loop {
        return match next(fd, most, nonblock, |_| true)? {
            Taken::Answer(completion) => Ok(completion),
            Taken::Epoch(_) => Err(Error::stale(
                "another worker serves this session now: submit again what was not answered yet",
            )),
            Taken::Left => Err(lying("it was refused unseen")),
            Taken::Bell => continue,
        };
    }
}

/// What was taken.
enum Taken {
    Answer(Completion),
    /// Another worker serves from here on.
    Epoch(u32),
    /// There is news on the ring, or was.
    Bell,
    /// An answer that is not wanted; it stays.
    Left,
}

/// Takes what comes next; an answer only if `wanted` says so of its id.
fn next(
    fd: BorrowedFd<'_>,
    most: usize,
    nonblock: bool,
    wanted: impl FnOnce(u64) -> bool,
) -> Result<Taken> {
    let waiting = match peek(fd, nonblock) {
        Err(error) if error.errno() == libc::EPROTO => {
            // It must not stand in the way for ever.
            receive(fd, &mut [&mut [0]], Take::WithoutFds, true)?;
            return Err(error);
        }
        other => other?,
    };
    if waiting.bell {
        receive(fd, &mut [&mut [0]], Take::WithoutFds, true)?;
        return Ok(Taken::Bell);
    }
    if !waiting.epoch && !wanted(waiting.id) {
        return Ok(Taken::Left);
    }
    if waiting.length > most && !waiting.refused {
        return Err(Error::too_large(format!(
            "the answer has {} bytes, the buffer {most}",
            waiting.length
        )));
    }
    let mut packet = vec![0; waiting.packet];
    let got = if waiting.brings {
        // Descriptors by a look, the packet by taking it: a full table loses neither.
        let peeked = receive(fd, &mut [&mut packet], Take::Peek, true)?;
        if peeked.lost && peeked.fds.is_empty() {
            return Err(Error::system(
                libc::EMFILE,
                "the answer brings a descriptor and this process has no room for it",
            ));
        }
        let taken = receive(fd, &mut [&mut packet], Take::WithoutFds, true)?;
        socket::Received {
            length: taken.length,
            ..peeked
        }
    } else {
        receive(fd, &mut [&mut packet], Take::Whole, true)?
    };
    if got.length != packet.len() || record::id(&packet) != Some(waiting.id) {
        return Err(Error::new(
            ErrorKind::System,
            libc::EBUSY,
            "another holder of this descriptor takes its answers too: clone it first",
        ));
    }
    if waiting.epoch {
        return match record::announced(&packet) {
            Some(Ok(epoch)) if got.fds.is_empty() => Ok(Taken::Epoch(epoch)),
            _ => Err(lying("its epoch is none")),
        };
    }
    let answer = Answer::parse(&packet)?;
    if got.lost {
        return Err(lying("it brings too many descriptors"));
    }
    completion(&answer, got.fds).map(Taken::Answer)
}

fn completion(answer: &Answer<'_>, fds: Vec<OwnedFd>) -> Result<Completion> {
    let brings = match answer.op {
        CLONE => true,
        // Without, where one was given back.
        RING => !answer.data.is_empty(),
        _ => answer.attached > 0,
    };
    if fds.len() != usize::from(brings && answer.status == 0) {
        return Err(lying("it brings more or fewer descriptors than it says"));
    }
    let fd = fds.into_iter().next();
    let (data, fd) = match fd {
        Some(fd) if answer.attached > 0 => {
            let data =
                memfd::read(fd.as_fd(), answer.attached).map_err(|error| lying(error.message()))?;
            (data, None)
        }
        Some(fd) if answer.op == CLONE && !is_seqpacket(fd.as_fd()) => {
            drop(fd);
            return Err(lying("its clone is not a cryptofd"));
        }
        fd => (answer.data.to_vec(), fd),
    };
    Ok(Completion {
        id: answer.id,
        op: answer.op,
        status: answer.status,
        data,
        fd,
        epoch: answer.epoch,
    })
}

/// What a `Client` remembers.
#[derive(Default)]
struct Books {
    last: u64,
    /// Submitted here and not completed.
    outstanding: HashSet<u64>,
    /// Calls that wait, with their answers if another thread took them.
    calls: HashMap<u64, Option<Completion>>,
    /// Calls that were given up: their answers are dropped.
    abandoned: HashSet<u64>,
    /// Answers for `complete` that came while something else was waited for.
    early: VecDeque<Completion>,
    /// How many of those nobody asked for here: a former holder, or a server that makes them up.
    foreign: usize,
    /// What another worker would get.
    unanswered: Unanswered,
}

/// Most answers to somebody else's requests that are kept.
const FOREIGN: usize = 4096;

/// How long an answer to somebody else's request is left for them before it is taken out of the way: several
/// processes may adopt one inherited descriptor at once, each to clone it. One that did not run for this long
/// hardly will again.
const COURTESY: Duration = Duration::from_secs(2);
/// The same for those behind one that nobody took: a former holder left them all.
const LEFT_BEHIND: Duration = Duration::from_millis(50);

/// An answer to somebody else's request that is first in the queue.
struct Stranger {
    head: Option<(u64, Instant)>,
    courtesy: Duration,
}

impl Default for Stranger {
    fn default() -> Stranger {
        Stranger {
            head: None,
            courtesy: COURTESY,
        }
    }
}

impl Stranger {
    /// Whether `id` is to be left where it is for now.
    fn wait(&mut self, id: u64) -> bool {
        match self.head {
            Some((head, since)) if head == id => {
                let wait = since.elapsed() < self.courtesy;
                if !wait {
                    self.courtesy = LEFT_BEHIND;
                }
                wait
            }
            _ => {
                self.head = Some((id, Instant::now()));
                true
            }
        }
    }
}

/// A request whose answer somebody here waits for.
struct Call {
    id: u64,
    sent: bool,
    /// Others are under way too.
    many: bool,
    stranger: Stranger,
}

/// Requests of a batch that are under way on the socket at once, and bytes of them.
const PIPELINED: usize = 32;
const PIPELINED_BYTES: usize = 1 << 20;

impl Books {
    /// Puts an answer where it belongs; returns it if that is `complete`.
    fn file(&mut self, completion: Completion) -> Option<Completion> {
        let completion = self.unanswered.answered(completion)?;
        if let Some(place) = self.calls.get_mut(&completion.id) {
            *place = Some(completion);
            None
        } else if self.abandoned.remove(&completion.id) {
            None
        } else {
            Some(completion)
        }
    }

    fn aside(&mut self, completion: Completion) -> Result<()> {
        if let Some(completion) = self.file(completion) {
            if !self.outstanding.contains(&completion.id) {
                if self.foreign == FOREIGN {
                    return Err(lying("thousands of answers that nobody asked for"));
                }
                self.foreign += 1;
            }
            self.early.push_back(completion);
        }
        Ok(())
    }

    /// Whether an answer was asked for here.
    fn knows(&self, id: u64) -> bool {
        self.calls.contains_key(&id)
            || self.outstanding.contains(&id)
            || self.abandoned.contains(&id)
            || self.unanswered.swallows(id)
    }

    fn next(&mut self) -> u64 {
        self.last = self.last.wrapping_add(1);
        self.last
    }

    /// Completes an answer: the first that was taken aside, or this one.
    fn completed(&mut self, completion: Completion) -> Completion {
        self.outstanding.remove(&completion.id);
        completion
    }
}

/// A descriptor with its own ids. Threads may share it: calls wait for each other.
pub struct Client {
    fd: OwnedFd,
    books: Mutex<Books>,
    /// Held while an answer is waited for and taken; never while a signal's handler runs.
    taking: Mutex<Lane>,
    info: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// What a waiting call does when a signal came: an error ends the waiting. No lock is held.
pub type Interrupted<'a> = &'a mut dyn FnMut() -> Result<()>;

fn again(why: &'static str) -> Error {
    Error::new(ErrorKind::Again, libc::EAGAIN, why)
}

impl Client {
    /// A client of a descriptor that is known to be a cryptofd.
    pub fn new(fd: OwnedFd) -> Client {
        // Others that hold the descriptor may count too: begin where they hardly do.
        // From a source that notices forks: the children of one parent would count alike.
        let mut random = [0; 4];
        // Without it two may count alike, which clone() mends.
        let _ = random_bytes(&mut random);
        let random = u32::from_ne_bytes(random);
        let books = Books {
            last: u64::from(random >> 1) << 32,
            ..Books::default()
        };
        Client {
            fd,
            books: Mutex::new(books),
            taking: Mutex::default(),
            info: String::new(),
        }
    }

    /// A client of a descriptor from elsewhere. EINVAL if it is not a cryptofd. What was submitted on it
    /// before is completed here.
    pub fn adopt(fd: OwnedFd, interrupted: Interrupted<'_>) -> Result<Client> {
        Client::known(fd, false, interrupted)
    }

    /// The same of a brokered session's first descriptor on which INFO was asked for as it was opened: the
    /// answer, with the id 0, is on its way.
    pub fn informed(fd: OwnedFd, interrupted: Interrupted<'_>) -> Result<Client> {
        Client::known(fd, true, interrupted)
    }

    fn known(fd: OwnedFd, informed: bool, interrupted: Interrupted<'_>) -> Result<Client> {
        if !is_seqpacket(fd.as_fd()) {
            return Err(Error::invalid("this descriptor is not a cryptofd"));
        }
        let mut client = Client::new(fd);
        // Perhaps it is a brokered session, and its worker goes before it answers.
        lock(&client.books).unanswered.is(Some(0));
        let until = Some(Instant::now() + PATIENCE);
        let not = |error: Error| match error.errno() {
            libc::EPROTO | libc::ETIMEDOUT | libc::EINVAL => Error::invalid(format!(
                "this descriptor is not a cryptofd, or nobody serves it ({error})"
            )),
            _ => error,
        };
        let request = Request::new(Op::Info);
        let answer = if informed {
            let mut call = client.asked_before(0, Op::Info);
            let answer = client.wait(&mut call, &request, until, interrupted);
            client.end(call, answer.is_ok());
            answer
        } else {
            client.ask(&request, until, interrupted)
        };
        // Who serves a brokered session says so in each answer: its epoch is in the books.
        let info = answer.and_then(Completion::result).map_err(not)?;
        client.info = String::from_utf8(info).map_err(|_| {
            Error::invalid("this descriptor is not a cryptofd: its INFO is no text")
        })?;
        Ok(client)
    }

    /// The same client on another copy of its descriptor.
    #[must_use]
    pub fn on(mut self, copy: OwnedFd) -> Client {
        self.fd = copy;
        self
    }

    /// Sends a request, after what a fresh worker has to get before it. EAGAIN: not now.
    fn dispatch(&self, id: u64, request: &Request<'_>) -> Result<()> {
        let fd = self.fd.as_fd();
        let mut books = lock(&self.books);
        if books.unanswered.epoch().is_none() {
            drop(books);
            return send(fd, id, request, true);
        }
        books.unanswered.send(fd, id, request)
    }

    /// INFO's JSON as it was when the descriptor was adopted; empty after `new`. Not to be believed
    /// unchecked.
    pub fn info(&self) -> &str {
        &self.info
    }

    /// Sends a request; its answer comes by `complete`. Where it would block while answers wait, those are
    /// taken aside first, so that one thread can submit without end; with O_NONBLOCK it is EAGAIN.
    pub fn submit(
        &self,
        request: &Request<'_>,
        nonblock: bool,
        interrupted: Interrupted<'_>,
    ) -> Result<u64> {
        let id = {
            let mut books = lock(&self.books);
            let id = books.next();
            books.outstanding.insert(id);
            id
        };
        let sent = loop {
            let error = match self.dispatch(id, request) {
                Err(error) if error.kind() == ErrorKind::Again && !nonblock => {
                    match socket::is_nonblocking(self.fd.as_fd()) {
                        Ok(false) => self.make_room(),
                        _ => break Err(error),
                    }
                }
                done => break done,
            };
            if let Err(error) = interruptible(error, interrupted) {
                break Err(error);
            }
        };
        if let Err(error) = sent {
            lock(&self.books).outstanding.remove(&id);
            return Err(error);
        }
        Ok(id)
    }

    /// Waits until a request can be sent, and takes an answer aside if one is in the way.
    fn make_room(&self) -> Result<()> {
        let events = socket::poll(self.fd.as_fd(), libc::POLLOUT | libc::POLLIN, 1000)
            .map_err(|e| system(&e, "submit"))?;
        if events & libc::POLLOUT == 0 && events & libc::POLLIN != 0 {
            // Another thread that completes will make room as well.
            let Ok(_taking) = self.taking.try_lock() else {
                std::thread::yield_now();
                return Ok(());
            };
            self.take_aside(None)?;
        }
        Ok(())
    }

    /// Takes an answer, if there is one, and files it. With `stranger`, one that nobody here asked for is
    /// left for a while to whoever did. False: there was none.
    fn take_aside(&self, stranger: Option<&mut Stranger>) -> Result<bool> {
        let fd = self.fd.as_fd();
        let wanted = |id| match stranger {
            Some(stranger) => lock(&self.books).knows(id) || !stranger.wait(id),
            None => true,
        };
        match next(fd, usize::MAX, true, wanted) {
            Ok(Taken::Answer(completion)) => lock(&self.books).aside(completion)?,
            Ok(Taken::Epoch(epoch)) => lock(&self.books).unanswered.renew(fd, epoch)?,
            // It keeps the descriptor readable: poll would not wait.
            Ok(Taken::Left) => std::thread::sleep(Duration::from_micros(200)),
            Ok(Taken::Bell) => {}
            Err(error) if error.kind() == ErrorKind::Again => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// The next answer, in the order of the requests. EAGAIN when `nonblock` or O_NONBLOCK is set and none
    /// waits; otherwise it waits, even if nothing was submitted here: others may share the descriptor.
    pub fn complete(&self, nonblock: bool, interrupted: Interrupted<'_>) -> Result<Completion> {
        loop {
            // Held until what was taken is filed: whoever takes an epoch repeats what is not.
            let _taking = match self.taking.try_lock() {
                Ok(guard) => guard,
                Err(TryLockError::Poisoned(guard)) => guard.into_inner(),
                Err(TryLockError::WouldBlock) if nonblock => {
                    return Err(again(
                        "another thread is waiting for this cryptofd's answers",
                    ));
                }
                Err(TryLockError::WouldBlock) => lock(&self.taking),
            };
            let mut books = lock(&self.books);
            if let Some(completion) = books.early.pop_front() {
                return Ok(books.completed(completion));
            }
            let fd = self.fd.as_fd();
            let repeated = books.unanswered.repeat(fd)?;
            drop(books);
            let done = if repeated {
                next(fd, usize::MAX, nonblock, |_| true)
            } else {
                // Whichever comes first: room to go on sending, or an answer.
                let wait = !nonblock && !socket::is_nonblocking(fd).unwrap_or(true);
                let events = libc::POLLIN | libc::POLLOUT;
                match socket::poll(fd, events, if wait { -1 } else { 0 }) {
                    Ok(events) if wait && events & libc::POLLIN == 0 => continue,
                    Ok(_) => next(fd, usize::MAX, true, |_| true),
                    Err(error) => Err(system(&error, "poll")),
                }
            };
            match done {
                Ok(Taken::Epoch(epoch)) => lock(&self.books).unanswered.renew(fd, epoch)?,
                Ok(Taken::Left | Taken::Bell) => {}
                Ok(Taken::Answer(completion)) => {
                    let mut books = lock(&self.books);
                    if let Some(completion) = books.file(completion) {
                        return Ok(books.completed(completion));
                    }
                }
                Err(error) if error.errno() == libc::EINTR => {
                    drop(_taking);
                    interrupted()?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// How many requests were submitted here and not completed yet.
    pub fn outstanding(&self) -> usize {
        lock(&self.books).outstanding.len()
    }

    /// Submits and waits for this answer. EBUSY while answers of `submit` are outstanding.
    pub fn call(&self, request: &Request<'_>, interrupted: Interrupted<'_>) -> Result<Vec<u8>> {
        self.exclusive()?;
        if let (Some(_), Some(most)) = (self.served_by(), lane::most(request)) {
            let mut result = Vec::new();
            result
                .try_reserve_exact(most)
                .map_err(|_| Error::system(libc::ENOMEM, "a result"))?;
            result.resize(most, 0);
            let used = self.call_into(request, Output::from(&mut result), interrupted)?;
            result.truncate(used);
            return Ok(result);
        }
        let completion = self.ask(request, None, interrupted)?;
        if completion.op != request.op as u16 {
            return Err(lying("it answers another op than was asked"));
        }
        completion.result()
    }

    /// The same with the result in `out`, which has room for as much as it can be (otherwise EPROTO); returns
    /// its bytes.
    pub fn call_into(
        &self,
        request: &Request<'_>,
        out: Output<'_>,
        interrupted: Interrupted<'_>,
    ) -> Result<usize> {
        let mut items = [Item::new(*request, out)];
        self.batch(&mut items, interrupted)?;
        let [item] = items;
        item.done
            .unwrap_or_else(|| Err(lying("it was not answered")))
    }

    /// Does many requests, as many at a time as there is room for, and waits for all. Each has its own result
    /// or error; an error of the whole says that some were not done.
    pub fn batch(&self, items: &mut [Item<'_>], interrupted: Interrupted<'_>) -> Result<()> {
        self.exclusive()?;
        let mut flight = Flight::default();
        loop {
            let Some(epoch) = self.served_by() else {
                return self.by_socket(items, interrupted);
            };
            if !flight.begun() {
                self.ask_for_ring(|lane| lane.wants(items, epoch))?;
            }
            let stopped = {
                let mut lane = lock(&self.taking);
                if !flight.begun() && !lane.check(self.served_by()) {
                    drop(lane);
                    return self.by_socket(items, interrupted);
                }
                lane.run(self, items, &mut flight)
            };
            match stopped {
                Ok(Stop::Done) => return Ok(()),
                Ok(Stop::Lost) => {}
                Ok(Stop::Socket(item)) => {
                    self.by_socket(&mut items[item..=item], interrupted)?;
                }
                Err(error) => {
                    let error = match interruptible(Err(error), interrupted) {
                        Ok(()) => continue,
                        Err(error) => error,
                    };
                    lock(&self.taking).abandon(&mut flight);
                    return Err(error);
                }
            }
        }
    }

    /// The worker that serves this session, if it is a brokered one and that is known.
    fn served_by(&self) -> Option<u32> {
        let books = lock(&self.books);
        books.unanswered.epoch().filter(|epoch| *epoch != 0)
    }

    /// Asks for a ring if `wants` says how large it is to be. One that is refused is done without.
    fn ask_for_ring(
        &self,
        wants: impl FnOnce(&mut Lane) -> Option<(usize, Option<u64>)>,
    ) -> Result<()> {
        let Some((size, instead)) = wants(&mut lock(&self.taking)) else {
            return Ok(());
        };
        if instead.is_some() {
            // The worker forgets it whether there is another or not.
            lock(&self.taking).give_up();
        }
        let mut request = Request::new(Op::Ring);
        request.params.length = Some(size as u64);
        request.params.target = instead;
        // A signal waits for this answer: given up, the worker would have a ring that nobody knows here.
        let completion = self.ask(&request, None, &mut || Ok(()))?;
        let brought = match completion.status {
            0 => completion.fd.ok_or_else(|| lying("a ring without memory")),
            status => Err(record::error(status, &completion.data)),
        };
        lock(&self.taking).answered(size, brought);
        Ok(())
    }

    /// Does what is not done yet by records on the socket, as many at a time as there is room for.
    fn by_socket(&self, items: &mut [Item<'_>], interrupted: Interrupted<'_>) -> Result<()> {
        let mut begun = VecDeque::new();
        let done = self.pipelined(items, &mut begun, interrupted);
        // Nobody waits for these any more.
        for (_, call) in begun {
            self.end(call, false);
        }
        done
    }

    fn pipelined(
        &self,
        items: &mut [Item<'_>],
        begun: &mut VecDeque<(usize, Call)>,
        interrupted: Interrupted<'_>,
    ) -> Result<()> {
        let (mut next, mut bytes) = (0, 0);
        loop {
            while next < items.len() && begun.len() < PIPELINED && bytes < PIPELINED_BYTES {
                if items[next].done.is_none() {
                    let mut call = self.begin(true);
                    let sent = self.dispatch(call.id, &items[next].request);
                    call.sent = sent.is_ok();
                    let full = match sent {
                        Err(error) if error.kind() == ErrorKind::Again && !begun.is_empty() => {
                            self.end(call, false);
                            break;
                        }
                        // Waited for below.
                        Err(error) if error.kind() == ErrorKind::Again => true,
                        Err(error) => {
                            self.end(call, false);
                            return Err(error);
                        }
                        Ok(()) => false,
                    };
                    begun.push_back((next, call));
                    bytes += items[next].request.data.len();
                    next += 1;
                    if full {
                        break;
                    }
                } else {
                    next += 1;
                }
            }
            let Some((item, call)) = begun.front_mut() else {
                return Ok(());
            };
            let item = *item;
            let completion = self.wait(call, &items[item].request, None, interrupted)?;
            if let Some((_, call)) = begun.pop_front() {
                self.end(call, true);
            }
            bytes -= items[item].request.data.len();
            items[item].take(completion);
        }
    }

    /// Memory in the ring, `length` bytes of zeroes: what is computed from there, or to there, is not copied
    /// on this side. ENOBUFS, with the reason, where there is no ring for it.
    pub fn buffer(&self, length: usize) -> Result<Buffer> {
        let Some(epoch) = self.served_by() else {
            return Err(Error::unsupported(
                "only a brokered session has a ring; any buffer is as good here",
            ));
        };
        if length > record::ATTACHED {
            return Err(Error::too_large(format!(
                "a buffer of {length} bytes: at most {} in one request",
                record::ATTACHED
            )));
        }
        self.ask_for_ring(|lane| lane.wants_buffer(length, epoch))?;
        lock(&self.taking).buffer(length)
    }

    /// What info() tells of the ring: `bytes`, `used` and `requests`, or `why` there is none. `None` of a
    /// session that is not brokered.
    pub fn ring(&self) -> Option<serde_json::Value> {
        self.served_by()?;
        Some(lock(&self.taking).report())
    }

    fn exclusive(&self) -> Result<()> {
        match self.outstanding() {
            0 => Ok(()),
            number => Err(Error::new(
                ErrorKind::System,
                libc::EBUSY,
                format!(
                    "{number} answers are outstanding on this cryptofd: complete() them first, or clone"
                ),
            )),
        }
    }

    /// Submits and waits; other answers are put where they belong.
    fn ask(
        &self,
        request: &Request<'_>,
        until: Option<Instant>,
        interrupted: Interrupted<'_>,
    ) -> Result<Completion> {
        let mut call = self.begin(false);
        let answer = self.wait(&mut call, request, until, interrupted);
        self.end(call, answer.is_ok());
        answer
    }

    fn begin(&self, many: bool) -> Call {
        let mut books = lock(&self.books);
        let id = books.next();
        books.calls.insert(id, None);
        Call {
            id,
            sent: false,
            many,
            stranger: Stranger::default(),
        }
    }

    /// A call that whoever made this descriptor has sent.
    fn asked_before(&self, id: u64, op: Op) -> Call {
        let mut books = lock(&self.books);
        books.unanswered.asked_before(id, op);
        books.calls.insert(id, None);
        Call {
            id,
            sent: true,
            many: false,
            stranger: Stranger::default(),
        }
    }

    /// Forgets a call. If it is not answered, its answer is dropped when it comes.
    fn end(&self, call: Call, answered: bool) {
        let mut books = lock(&self.books);
        let taken = books.calls.remove(&call.id).flatten();
        if !answered && call.sent && taken.is_none() {
            books.abandoned.insert(call.id);
        }
    }

    /// Waits for the answer of a call, which is sent if it was not.
    fn wait(
        &self,
        call: &mut Call,
        request: &Request<'_>,
        until: Option<Instant>,
        interrupted: Interrupted<'_>,
    ) -> Result<Completion> {
        loop {
            let step = {
                // One caller at a time.
                let _taking = lock(&self.taking);
                self.step(call, request, until)
            };
            match step {
                Ok(Some(completion)) => return Ok(completion),
                Ok(None) => {}
                Err(error) if error.errno() == libc::EINTR => interrupted()?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends the request of a call, or waits for its answer, until something has happened.
    fn step(
        &self,
        call: &mut Call,
        request: &Request<'_>,
        until: Option<Instant>,
    ) -> Result<Option<Completion>> {
        let fd = self.fd.as_fd();
        loop {
            if !call.sent {
                match self.dispatch(call.id, request) {
                    Ok(()) => call.sent = true,
                    Err(error) if error.kind() == ErrorKind::Again => {}
                    Err(error) => return Err(error),
                }
            }
            let repeating = {
                let mut books = lock(&self.books);
                let repeating = !books.unanswered.repeat(fd)?;
                let answer = books.calls.get_mut(&call.id).map(Option::take);
                if let Some(Some(completion)) = answer {
                    return Ok(Some(completion));
                }
                repeating
            };
            if call.many && call.sent && !repeating {
                // Probably it is there.
                if self.take_aside(Some(&mut call.stranger))? {
                    continue;
                }
            }
            let events = if call.sent && !repeating {
                libc::POLLIN
            } else {
                libc::POLLIN | libc::POLLOUT
            };
            let patience = until.map_or(-1, |until| {
                let left = until.saturating_duration_since(Instant::now());
                left.as_millis().min(60_000) as i32
            });
            let polled = socket::poll(fd, events, patience).map_err(|e| system(&e, "poll"))?;
            if polled == 0 {
                return Err(Error::system(libc::ETIMEDOUT, "waiting for an answer"));
            }
            if polled & libc::POLLOUT == 0 || (call.sent && polled & libc::POLLIN != 0) {
                self.take_aside(Some(&mut call.stranger))?;
            }
        }
    }

    /// A fresh descriptor for the same session, with a running hash's or MAC's state.
    pub fn try_clone(&self, interrupted: Interrupted<'_>) -> Result<Client> {
        self.clone_until(None, interrupted)
    }

    /// The same with an end: another holder of the descriptor that uses it, too, may take the answer. Then
    /// (ETIMEDOUT) it can be asked for again.
    pub(crate) fn clone_until(
        &self,
        until: Option<Instant>,
        interrupted: Interrupted<'_>,
    ) -> Result<Client> {
        self.exclusive()?;
        let completion = self.ask(&Request::new(Op::Clone), until, interrupted)?;
        if completion.status != 0 {
            return Err(record::error(completion.status, &completion.data));
        }
        let fd = completion
            .fd
            .ok_or_else(|| lying("a clone without a descriptor"))?;
        let mut client = Client::new(fd);
        client.info.clone_from(&self.info);
        // Its worker is the one that serves this descriptor, or one before it that will be announced.
        let epoch = lock(&self.books).unanswered.epoch();
        let fresh = Unanswered::of(epoch.map(|_| completion.epoch));
        lock(&client.books).unanswered = fresh;
        Ok(client)
    }

    /// Asks that the request `id` (or all, without) be refused with ECANCELED if it has not begun. Its own
    /// answer comes in its turn.
    pub fn cancel(
        &self,
        id: Option<u64>,
        nonblock: bool,
        interrupted: Interrupted<'_>,
    ) -> Result<u64> {
        let request = Request {
            params: Params {
                target: id,
                ..Params::default()
            },
            ..Request::new(Op::Cancel)
        };
        self.submit(&request, nonblock, interrupted)
    }

    /// A client with books of its own on another copy of a brokered session's descriptor, as a forked child
    /// needs it: which worker serves, it learns from the first answer, or when another one takes over.
    pub(crate) fn beside(&self) -> Result<Client> {
        let client = Client::new(self.duplicate()?);
        lock(&client.books).unanswered.is(Some(0));
        Ok(client)
    }

    /// A second descriptor of the same end (dup): shares the answers.
    pub fn duplicate(&self) -> Result<OwnedFd> {
        duplicate(self.fd.as_raw_fd())
    }

    /// The descriptor; what is outstanding is forgotten here.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

/// `done`, with a signal left to the caller.
fn interruptible(done: Result<()>, interrupted: Interrupted<'_>) -> Result<()> {
    match done {
        Err(error) if error.errno() == libc::EINTR => interrupted(),
        other => other,
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
