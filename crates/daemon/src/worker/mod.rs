//! A worker: unwraps keys into locked memory and serves the sessions of one trust domain.

mod attributes;
mod confine;
mod create;
mod derive;
mod direct;
mod grant;
pub mod keys;
mod lease;
mod recipe;
mod sessions;
mod shares;
mod upstream;
mod wrapping;

use crate::arguments::Arguments;
use crate::packet::{self, Incoming, Packet, answer, pack, receive};
use crate::sys::{self, Mapping};
use cryptofd_core::engines;
use cryptofd_core::engines::software::{self, random};
use cryptofd_core::error::{Error, Kind, Result};
use cryptofd_core::preferences;
use cryptofd_core::secret::Secret;
use cryptofd_core::serve::{self, Served};
use cryptofd_core::sys::{arena, bus, descriptor, socket, thread};
use keys::{MATERIAL, Wrapper};
use lease::Leases;
use serde_json::{Value, json};
use sessions::Sessions;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;
use upstream::{Upstream, lock, put};

const CONTROL: u64 = 1;
const BROKER: u64 = 2;
/// Threads that do the broker's work: one that waits for a client's pipe must not stop the others.
const THREADS: usize = 4;
/// Most requests of the broker that wait for them.
const WAITING: usize = 256;

fn system(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::system(error.raw_os_error().unwrap_or(libc::EIO), what)
}

/// One request of the broker, and where its answer goes.
struct Job {
    packet: Packet,
    id: u64,
    op: String,
    wrapper: Option<Arc<Wrapper>>,
    channel: Arc<OwnedFd>,
}

/// The broker's requests that wait.
#[derive(Default)]
struct Jobs {
    waiting: Mutex<VecDeque<Job>>,
    more: Condvar,
}

impl Jobs {
    fn run(&self) {
        loop {
            let job = {
                let waiting = lock(&self.waiting);
                let mut waiting = self
                    .more
                    .wait_while(waiting, |waiting| waiting.is_empty())
                    .unwrap_or_else(|e| e.into_inner());
                waiting.pop_front()
            };
            let Some(job) = job else { continue };
            let mut fds = Vec::new();
            let done = match &job.wrapper {
                Some(wrapper) if job.op == "direct" => direct::run(&job.packet.object, wrapper)
                    .map(|(answer, fd)| {
                        fds.push(fd);
                        answer
                    }),
                Some(wrapper) => create::run(&job.op, job.packet, wrapper),
                None => Err(sessions::no_wrapper()),
            };
            say(&answer(job.id, done), fds, &job.channel);
            thread::goes_deep();
            thread::wipe_stack();
        }
    }
}

/// Answers the broker; one that is gone needs no answer.
fn say(object: &Value, fds: Vec<OwnedFd>, channel: &OwnedFd) {
    if let Ok(packet) = pack(object, fds) {
        let _ = put(&packet, channel);
    }
}

struct Worker {
    upstream: Arc<Upstream>,
    sessions: Arc<Sessions>,
    leases: Arc<Leases>,
    jobs: Arc<Jobs>,
    wrapper: Option<Arc<Wrapper>>,
    epoll: OwnedFd,
}

/// Runs until the supervisor is gone, or says that it is enough.
pub fn run(arguments: &mut Arguments) -> Result<()> {
    let control = arguments.number("control")? as i32;
    sys::close_others(&[control]).map_err(system("close_range"))?;
    let control = sys::inherited(control).map_err(system("the control socket"))?;
    let user = match arguments.optional("uid")? {
        Some(uid) => Some((uid as u32, arguments.number("gid")? as u32)),
        None => None,
    };
    arguments.finish()?;
    if !software::allocate_in_arena() {
        return Err(Error::invalid("the worker's library allocates elsewhere"));
    }
    confine::begin(user)?;
    descriptor::all_ours();
    arena::strict();
    // The arena is locked either way, the stacks as threads begin.
    arena::lock_all();
    // What opens files comes before the filter: preferences, engines, sources of entropy. A policy that
    // cannot be read is kept as it is: nothing opens on it.
    let _ = preferences::freeze();
    random(&mut [0; 16])?;
    for engine in engines::all() {
        let _ = engine.probe();
    }
    bus::install().map_err(system("a handler of SIGBUS"))?;
    confine::end()?;
    // Until here nothing is known of whom it will serve; it may wait a long time for that.
    let Some(epoch) = begin(&control)? else {
        return Ok(());
    };
    let upstream = Arc::new(Upstream::new(control));
    let leases = Arc::new(Leases::new(upstream.clone()));
    let sessions = Arc::new(Sessions::new(epoch, upstream.clone(), leases.clone()));
    let jobs = Arc::new(Jobs::default());
    for number in 0..THREADS {
        let jobs = jobs.clone();
        thread::spawn(format!("cfd-key-{number}"), move || jobs.run())
            .map_err(system("starting a thread"))?;
    }
    let epoll = socket::epoll().map_err(system("epoll_create1"))?;
    let watched = socket::watch(
        epoll.as_fd(),
        upstream.supervisor().as_fd(),
        libc::EPOLLIN,
        CONTROL,
        false,
    );
    watched.map_err(system("epoll_ctl"))?;
    let mut worker = Worker {
        upstream,
        sessions,
        leases,
        jobs,
        wrapper: None,
        epoll,
    };
    // Where the stack is locked: unwrapped keys pass over it.
    let (say, said) = mpsc::channel();
    thread::spawn("cfd-control".into(), move || {
        let _ = say.send(worker.serve());
    })
    .map_err(system("starting a thread"))?;
    said.recv()
        .unwrap_or_else(|_| Err(Error::invalid("the worker's control thread broke off")))
}

/// The epoch, with which a worker's life begins; `None`: it is not needed any more.
fn begin(control: &OwnedFd) -> Result<Option<u32>> {
    match receive(control.as_fd(), &mut Vec::new(), false) {
        Incoming::Packet(packet) if packet.text("op")? == "begin" => {
            let epoch = u32::try_from(packet.number("epoch")?);
            epoch
                .map(Some)
                .map_err(|_| Error::invalid("an epoch beyond all epochs"))
        }
        Incoming::End => Ok(None),
        _ => Err(Error::invalid("begin is the first that a worker is told")),
    }
}

impl Worker {
    fn serve(&mut self) -> Result<()> {
        let mut buffer = Vec::new();
        loop {
            match socket::wait(self.epoll.as_fd(), -1) {
                Ok(Some(CONTROL)) => {
                    let control = self.upstream.supervisor().as_fd();
                    match receive(control, &mut buffer, true) {
                        Incoming::Packet(packet) => self.control(packet)?,
                        Incoming::Lost(packet) => {
                            if let Ok(id) = packet.number("id") {
                                let told = answer(id, Err(packet::lost()));
                                self.upstream.tell(&told, Vec::new())?;
                            }
                        }
                        Incoming::Garbage(_) | Incoming::Nothing => {}
                        Incoming::End => return Ok(()),
                    }
                    thread::wipe_stack();
                }
                Ok(Some(_)) => self.broker(&mut buffer),
                Ok(None) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(system("epoll_wait")(error)),
            }
        }
    }

    /// One packet of the supervisor.
    fn control(&mut self, packet: Packet) -> Result<()> {
        let Ok(id) = packet.number("id") else {
            return Ok(());
        };
        let op = packet.text("op").unwrap_or_default().to_owned();
        let nothing = |()| json!({});
        let mut informed = Vec::new();
        let done = match op.as_str() {
            "ping" => Ok(json!({})),
            "kek" => self.kek(packet).map(nothing),
            "broker" => self.set_broker(packet).map(nothing),
            "counts" => self.counts(packet).map(nothing),
            "move" => self.sessions.move_to(&packet).map(nothing),
            "serve" => {
                let wrapper = self.wrapper.as_deref();
                self.sessions.serve(packet, wrapper, &mut informed)
            }
            "drain" => {
                let seconds = packet.number("seconds").unwrap_or(0);
                self.drain(id, Duration::from_secs(seconds))?;
                return Ok(());
            }
            _ => Err(Error::unsupported(format!("no op {op:?}"))),
        };
        let told = answer(id, done);
        self.upstream.tell(&told, Vec::new())?;
        // While the descriptors are on their way to who waits for them.
        informed.iter().for_each(Served::inform);
        Ok(())
    }

    /// Reads the key-encryption keys: a mapping of secret memory, or a stream of another worker's.
    fn kek(&mut self, mut packet: Packet) -> Result<()> {
        let size = packet.number("bytes")? as usize;
        if size > MATERIAL {
            return Err(Error::invalid("more key-encryption keys than there may be"));
        }
        let streamed = packet.object.get("how") == Some(&json!("stream"));
        let fd = packet.only_fd()?;
        let material = arena::bounded(|| {
            Secret::made(size, |out| {
                if streamed {
                    read_all(&fd, out)?;
                } else {
                    let mapping =
                        Mapping::new(fd.as_fd(), size).map_err(system("mapping secret memory"))?;
                    mapping.read(out);
                }
                Ok(size)
            })
        })?;
        let wrapper = arena::bounded(|| Wrapper::new(material.expose()))?;
        self.wrapper = Some(Arc::new(wrapper));
        Ok(())
    }

    /// The page in which sessions are counted.
    fn counts(&self, mut packet: Packet) -> Result<()> {
        let page = packet.only_fd()?;
        let size = usize::try_from(sys::about(page.as_fd()).map_err(system("fstat"))?.size)
            .map_err(|_| Error::invalid("a page without end"))?;
        let mapping = Mapping::new(page.as_fd(), size).map_err(system("mapping the counts"))?;
        self.sessions.count_in(Arc::new(mapping));
        Ok(())
    }

    fn set_broker(&mut self, mut packet: Packet) -> Result<()> {
        let channel = Arc::new(packet.only_fd()?);
        self.drop_broker();
        socket::watch(
            self.epoll.as_fd(),
            channel.as_fd(),
            libc::EPOLLIN,
            BROKER,
            false,
        )
        .map_err(system("epoll_ctl"))?;
        self.upstream.set_broker(Some(channel));
        self.leases.ask_again();
        Ok(())
    }

    fn drop_broker(&self) {
        if let Some(old) = self.upstream.broker() {
            let _ = socket::unwatch(self.epoll.as_fd(), old.as_fd());
        }
        self.upstream.set_broker(None);
    }

    /// One packet of the broker.
    fn broker(&self, buffer: &mut Vec<u8>) {
        let Some(channel) = self.upstream.broker() else {
            return;
        };
        let packet = match receive(channel.as_fd(), buffer, true) {
            Incoming::Packet(packet) => packet,
            Incoming::Lost(packet) => {
                if let Ok(id) = packet.number("id") {
                    say(&answer(id, Err(packet::lost())), Vec::new(), &channel);
                }
                return;
            }
            Incoming::Garbage(_) | Incoming::Nothing => return,
            Incoming::End => return self.drop_broker(),
        };
        let Ok(id) = packet.number("id") else { return };
        let Ok(op) = packet.text("op").map(str::to_owned) else {
            // An answer: of a lease, for that is all that is asked.
            let granted = packet::answered(&packet.object).ok();
            let uses = granted.and_then(|ok| ok.get("uses").and_then(Value::as_u64));
            return self.leases.answered(id, uses);
        };
        if op == "ping" {
            return say(&answer(id, Ok(json!({}))), Vec::new(), &channel);
        }
        let mut waiting = lock(&self.jobs.waiting);
        if waiting.len() >= WAITING {
            let busy = Error::new(
                Kind::Again,
                libc::EAGAIN,
                format!("{WAITING} requests wait for this worker: try again"),
            );
            drop(waiting);
            return say(&answer(id, Err(busy)), Vec::new(), &channel);
        }
        waiting.push_back(Job {
            packet,
            id,
            op,
            wrapper: self.wrapper.clone(),
            channel,
        });
        drop(waiting);
        self.jobs.more.notify_one();
    }

    /// Gives up every session to the next worker, streams when they are finished, and ends.
    fn drain(&self, id: u64, patience: Duration) -> Result<()> {
        let sessions = self.sessions.clone();
        let upstream = self.upstream.clone();
        thread::spawn("cfd-drain".into(), move || {
            serve::drain(false);
            if !sessions.none_left(patience) {
                serve::drain(true);
                sessions.none_left(patience);
            }
            let _ = upstream.tell(&answer(id, Ok(json!({}))), Vec::new());
            std::process::exit(0);
        })
        .map_err(system("starting a thread"))
    }
}

fn read_all(fd: &OwnedFd, mut out: &mut [u8]) -> Result<()> {
    while !out.is_empty() {
        match sys::read(fd.as_fd(), out) {
            Ok(0) => return Err(Error::invalid("the key-encryption key came cut short")),
            Ok(got) => out = &mut out[got..],
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(system("reading the key-encryption key")(error)),
        }
    }
    Ok(())
}
