//! The supervisor: holds descriptors, starts and restarts the broker and the workers, and reads nothing
//! that a client sends.
//!
//! One thread, one epoll; other threads only close what others gave us. What comes from a worker is checked like what comes from a stranger: it can only
//! end sessions of its own domain.

mod counts;
mod domains;
pub mod keeper;
mod process;
mod rekey;
mod requests;
mod sources;
mod spare;
mod state;
mod systemd;

use crate::arguments::Arguments;
use crate::elsewhere::Foreign;
use crate::packet::{self, Incoming, Link, answer};
use crate::sys;
use cryptofd_core::cpu::{cores, spin};
use cryptofd_core::error::{Error, Result};
use cryptofd_core::sys::socket;
use domains::{Domain, Worker};
use keeper::Kek;
use process::{Process, command};
use rekey::Rekey;
use serde_json::Value;
use spare::Spare;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIGNALS: u64 = 1;
const BROKER: u64 = 2;
const BROKER_EXIT: u64 = 3;
const KEEPER: u64 = 4;
/// Tokens of workers: this, and the worker's number.
const LINK: u64 = 1 << 60;
const EXIT: u64 = 2 << 60;
/// Deaths within `RECENTLY` after which something is given up, or slowed down.
const DEATHS: usize = 5;
const RECENTLY: Duration = Duration::from_secs(10);
/// Descriptors that the start of a worker needs while it lasts.
const RESERVE: usize = 8;
/// How long a broker that keeps dying is not restarted.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a worker's answer is spun for: it takes half of this to open a session.
const SPIN: Duration = Duration::from_micros(200);
/// How long the end of our children is waited for.
const FAREWELL: Duration = Duration::from_secs(2);

pub(crate) fn system(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::system(error.raw_os_error().unwrap_or(libc::EIO), what)
}

/// A serving end that is kept for the next worker.
struct End {
    fd: Foreign,
    /// By which its worker names it.
    inode: u64,
    /// The worker that serves it.
    worker: u64,
    /// Its domain's, if a worker has had it kept.
    _held: Option<Arc<()>>,
}

/// A session.
struct Session {
    domain: String,
    /// JSON, of which nothing is needed here.
    recipe: String,
    /// Where it is counted, in its domain's page.
    place: Option<u32>,
    ends: Vec<End>,
    /// The broker's request that waits for it, with the client's end.
    reply: Option<(u64, Foreign)>,
    /// Whether its first worker says what INFO says, before it is asked.
    inform: Inform,
}

/// What a client is told of its session without asking.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Inform {
    #[default]
    Nothing,
    /// To be told by the worker that gets it.
    Wanted,
    /// A worker got it, and may have told.
    Given,
}

impl Inform {
    /// Once a worker got it.
    fn given(self) -> Inform {
        match self {
            Inform::Nothing => Inform::Nothing,
            Inform::Wanted | Inform::Given => Inform::Given,
        }
    }
}

/// A listening socket.
struct Listening {
    fd: OwnedFd,
    /// Where it was bound by us.
    path: Option<PathBuf>,
}

/// The broker.
struct Broker {
    /// `None`: somebody else started it.
    process: Option<Process>,
    link: Link,
}

/// What was asked for when this process was started.
#[derive(Clone, Default)]
struct Options {
    /// The broker's command; empty: it was started by somebody else.
    command: Vec<OsString>,
    /// Whom workers become.
    user: Option<(u64, u64)>,
    /// Seconds without work after which it ends.
    idle_exit: Option<u64>,
}

/// When something died, lately.
#[derive(Default)]
struct Deaths(VecDeque<Instant>);

impl Deaths {
    /// One more; whether that is too many.
    fn add(&mut self) -> bool {
        let now = Instant::now();
        self.0.push_back(now);
        while self.0.front().is_some_and(|at| now - *at > RECENTLY) {
            self.0.pop_front();
        }
        self.0.len() >= DEATHS
    }

    /// Whether the last was a while ago.
    fn over(&self) -> bool {
        self.0.back().is_none_or(|at| at.elapsed() > RECENTLY)
    }
}

struct Supervisor {
    options: Options,
    epoll: OwnedFd,
    signals: OwnedFd,
    kek: Kek,
    rekey: Rekey,
    /// Whether keys may lie in secret memory.
    secret_memory: bool,
    listening: Vec<Listening>,
    broker: Option<Broker>,
    broker_deaths: Deaths,
    /// When the broker is to be started again.
    broker_at: Option<Instant>,
    domains: BTreeMap<String, Domain>,
    workers: HashMap<u64, Worker>,
    last_worker: u64,
    /// The epoch before any of this supervisor's.
    epochs: u32,
    spare: Spare,
    sessions: BTreeMap<u64, Session>,
    /// Sessions that the service manager kept, for which there is no key yet.
    deferred: BTreeMap<u64, systemd::Stored>,
    last_session: u64,
    /// Replacements under way: the broker's request, and how many workers are still to go.
    replacements: HashMap<u64, usize>,
    /// The broker's request to run the program anew, and since when.
    reexec: Option<(u64, Instant)>,
    /// Clients that the broker has.
    clients: u64,
    /// When there was work last.
    busy: Instant,
    /// A worker is about to answer what somebody waits for.
    soon: bool,
    /// Whether to spin for it: not while others want the core.
    spins: bool,
    buffer: Vec<u8>,
    status: String,
    /// Descriptors that are let go where a takeover needs some.
    reserve: Vec<OwnedFd>,
}

/// Runs until it is told to end.
pub fn run(arguments: &mut Arguments) -> Result<()> {
    // It holds the descriptor of the key-encryption key: who runs as the same user does not get it from here.
    sys::hide().map_err(system("hiding the supervisor's memory"))?;
    if let Some(number) = arguments.optional("state")? {
        arguments.finish()?;
        return Supervisor::restored(number as i32)?.serve();
    }
    let systemd::Inherited {
        mut listening,
        sessions: restored,
        kek: stored,
    } = systemd::inherited()?;
    for path in arguments.all("listen") {
        listening.push(listen(Path::new(&path))?);
    }
    let kek = arguments.one("kek")?.map(PathBuf::from);
    let secret_memory = arguments.one("secret-memory")?;
    let user = match arguments.optional("worker-uid")? {
        Some(uid) => Some((uid, arguments.number("worker-gid")?)),
        None => None,
    };
    let options = Options {
        command: std::mem::take(&mut arguments.rest),
        user,
        idle_exit: arguments.optional("idle-exit")?,
    };
    let broker = arguments.optional("broker-fd")?;
    arguments.finish()?;
    if broker.is_some() != options.command.is_empty() {
        return Err(Error::invalid(
            "either --broker-fd, or -- and the broker's command",
        ));
    }
    sys::raise_limits();
    let secret_memory = secret_memory.is_none_or(|word| word != "no");
    // Without any of them sessions that were kept wait for the broker, which names one.
    let known = stored.is_some() || kek.is_some();
    let (kek, sources) = match stored {
        Some((kek, sources)) => (kek, sources),
        None => (Kek::load(kek.as_deref(), secret_memory)?, Value::Null),
    };
    let mut supervisor = Supervisor::new(options, kek, listening)?;
    supervisor.secret_memory = secret_memory;
    supervisor.rekey.sources = sources;
    systemd::keep_kek(&supervisor.kek, &supervisor.rekey.sources);
    match broker {
        Some(number) => {
            let fd = sys::inherited(number as i32).map_err(system("--broker-fd"))?;
            supervisor.adopt_broker(None, fd)?;
        }
        None => supervisor.start_broker()?,
    }
    if !restored.is_empty() {
        // Clients know epochs of the supervisor before, of which nothing was kept: none may come again.
        supervisor.epochs = sys::tenths_since_boot();
    }
    if known {
        supervisor.restore_sessions(restored);
    } else {
        supervisor.deferred = restored;
    }
    systemd::ready();
    supervisor.serve()
}

/// Binds a socket that anybody may connect to: whom the directory lets through or, at an abstract name
/// (`@NAME`), whoever shares the network namespace. The broker asks who it is.
fn listen(path: &Path) -> Result<Listening> {
    let named = |error: std::io::Error| {
        Error::system(
            error.raw_os_error().unwrap_or(libc::EIO),
            &format!("listening on {}", path.display()),
        )
    };
    if let Some(name) = path.to_str().and_then(|path| path.strip_prefix('@')) {
        let socket = SocketAddr::from_abstract_name(name)
            .and_then(|address| UnixListener::bind_addr(&address))
            .map_err(named)?;
        return Ok(Listening {
            fd: socket.into(),
            path: None,
        });
    }
    let socket = match UnixListener::bind(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            // Left over by one that was killed, unless somebody answers.
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(named(error));
            }
            std::fs::remove_file(path).map_err(named)?;
            UnixListener::bind(path).map_err(named)?
        }
        other => other.map_err(named)?,
    };
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o666)).map_err(named)?;
    Ok(Listening {
        fd: socket.into(),
        path: Some(path.to_owned()),
    })
}

/// Waits for the end of a child, and brings it about when it takes too long.
fn gone(child: &Process, until: Instant) {
    let left = until.saturating_duration_since(Instant::now()).as_millis();
    let _ = socket::poll(child.as_fd(), libc::POLLIN, left as i32);
    if child.reap().is_none() {
        child.signal(libc::SIGKILL);
        let _ = socket::poll(child.as_fd(), libc::POLLIN, -1);
        child.reap();
    }
}

impl Supervisor {
    fn new(options: Options, kek: Kek, listening: Vec<Listening>) -> Result<Supervisor> {
        let epoll = socket::epoll().map_err(system("epoll_create1"))?;
        let which = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
        let signals = sys::signals(&which).map_err(system("signalfd"))?;
        let mut supervisor = Supervisor {
            options,
            epoll,
            signals,
            kek,
            rekey: Rekey::default(),
            secret_memory: true,
            deferred: BTreeMap::new(),
            listening,
            broker: None,
            broker_deaths: Deaths::default(),
            broker_at: None,
            domains: BTreeMap::new(),
            workers: HashMap::new(),
            last_worker: 0,
            epochs: 0,
            spare: Spare::default(),
            sessions: BTreeMap::new(),
            last_session: 0,
            replacements: HashMap::new(),
            reexec: None,
            clients: 0,
            busy: Instant::now(),
            soon: false,
            spins: cores() > 1,
            buffer: Vec::new(),
            status: String::new(),
            reserve: Vec::new(),
        };
        supervisor.reserve();
        supervisor.watch(supervisor.signals.as_fd(), SIGNALS)?;
        Ok(supervisor)
    }

    /// Puts by what a takeover needs: it must not fail because sessions took every descriptor.
    fn reserve(&mut self) {
        while self.reserve.len() < RESERVE {
            let Ok(fd) = self.epoll.try_clone() else {
                return;
            };
            self.reserve.push(fd);
        }
    }

    /// Does what must not fail for want of a descriptor.
    fn with_reserve<T>(&mut self, done: impl FnOnce(&mut Self) -> T) -> T {
        self.reserve.clear();
        let done = done(self);
        self.reserve();
        done
    }

    fn watch(&self, fd: BorrowedFd<'_>, token: u64) -> Result<()> {
        socket::watch(self.epoll.as_fd(), fd, libc::EPOLLIN, token, false)
            .map_err(system("epoll_ctl"))
    }

    /// Watches the broker's link. Before the program is run anew nothing is read of it: its next request is
    /// for the next program.
    fn rewatch_broker(&self) {
        if let Some(broker) = &self.broker {
            let events = broker
                .link
                .watches(self.reexec.is_none(), broker.link.waiting());
            self.rewatch(&broker.link, BROKER, events);
        }
    }

    /// Watches a link for something else than before, if there is something.
    fn rewatch(&self, link: &Link, token: u64, events: Option<i32>) {
        if let Some(events) = events {
            let _ = socket::watch(self.epoll.as_fd(), link.as_fd(), events, token, true);
        }
    }

    fn serve(mut self) -> Result<()> {
        loop {
            let patience = self.patience();
            match self.wait(patience) {
                Ok(Some(SIGNALS)) => {
                    while let Some(signal) = sys::next_signal(self.signals.as_fd()) {
                        if signal != libc::SIGHUP {
                            return self.end();
                        }
                        // What was set may be read again: by the broker its policy, by workers that come
                        // their preferences.
                        self.dismiss_spare();
                        self.plan_spare();
                        if let Some(process) = self.broker.as_ref().and_then(|b| b.process.as_ref())
                        {
                            process.signal(libc::SIGHUP);
                        }
                    }
                }
                Ok(Some(BROKER)) => self.broker_readable(),
                Ok(Some(BROKER_EXIT)) => self.broker_exited(),
                Ok(Some(KEEPER)) => self.keeper_readable(),
                Ok(Some(token)) if token & EXIT != 0 => self.worker_exited(token & !EXIT),
                Ok(Some(token)) => self.worker_readable(token & !LINK),
                // Nothing waits to be read: only now is silence a sign.
                Ok(None) => {
                    self.spins = cores() > 1;
                    if self.overdue()? {
                        return self.end();
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(system("epoll_wait")(error)),
            }
            self.reexec_when_quiet();
            self.reserve();
        }
    }

    /// What happens next, or nothing within `patience` milliseconds.
    fn wait(&mut self, patience: i32) -> std::io::Result<Option<u64>> {
        if std::mem::take(&mut self.soon) && self.spins {
            let mut happened = Ok(None);
            self.spins = spin(SPIN, || {
                happened = socket::wait(self.epoll.as_fd(), 0);
                !matches!(happened, Ok(None))
            });
            if !matches!(happened, Ok(None)) {
                return happened;
            }
        }
        socket::wait(self.epoll.as_fd(), patience)
    }

    /// Milliseconds until something is overdue.
    fn patience(&self) -> i32 {
        let now = Instant::now();
        let mut next: Option<Instant> = self.broker_at;
        let mut sooner = |at: Instant| next = Some(next.map_or(at, |n| n.min(at)));
        if let Some(at) = self.spare.deadline() {
            sooner(at);
        }
        if let Some(at) = self.rekey.deadline() {
            sooner(at);
        }
        for worker in self.workers.values() {
            let idle = !self.domain_has_sessions(&worker.domain);
            if let Some(at) = worker.deadline(idle) {
                sooner(at);
            }
        }
        if let Some(seconds) = self.options.idle_exit {
            if self.idle() {
                sooner(self.busy + Duration::from_secs(seconds));
            }
        }
        if let Some((_, since)) = self.reexec {
            sooner(since + domains::READY);
        }
        next.map_or(-1, |at| {
            // Rounded up: what is not overdue yet would make the loop spin.
            let left = at.saturating_duration_since(now).as_millis() + 1;
            left.min(60_000) as i32
        })
    }

    fn idle(&self) -> bool {
        self.sessions.is_empty() && self.clients == 0
    }

    /// Does what time asks for; true if it is time to end.
    fn overdue(&mut self) -> Result<bool> {
        let now = Instant::now();
        if self.broker_at.is_some_and(|at| at <= now) {
            self.broker_at = None;
            self.start_broker()?;
        }
        let numbers: Vec<u64> = self.workers.keys().copied().collect();
        for number in numbers {
            self.look_after(number, now);
        }
        self.start_spare(now);
        self.look_after_keeper(now);
        if let Some((id, since)) = self.reexec {
            if since + domains::READY <= now {
                self.reexec = None;
                let busy = Error::system(libc::EBUSY, "workers are starting or stopping");
                self.reply(id, Err(busy), Vec::new());
            }
        }
        let idle_exit = self.options.idle_exit.map(Duration::from_secs);
        Ok(idle_exit.is_some_and(|limit| self.idle() && self.busy + limit <= now))
    }

    fn start_broker(&mut self) -> Result<()> {
        let (here, there) = socket::pair().map_err(system("socketpair"))?;
        let Some((program, rest)) = self.options.command.split_first() else {
            return Ok(());
        };
        let mut command = command(program);
        let numbers: Vec<String> = self
            .listening
            .iter()
            .map(|socket| socket.fd.as_raw_fd().to_string())
            .collect();
        command
            .args(rest)
            .env("CRYPTOFD_SUPERVISOR_FD", there.as_raw_fd().to_string())
            .env("CRYPTOFD_LISTEN_FDS", numbers.join(","));
        let mut fds = vec![there.as_fd()];
        fds.extend(self.listening.iter().map(|socket| socket.fd.as_fd()));
        let process = Process::start(&mut command, &fds)?;
        self.adopt_broker(Some(process), here)
    }

    fn adopt_broker(&mut self, process: Option<Process>, fd: OwnedFd) -> Result<()> {
        let link = Link::new(fd);
        self.watch(link.as_fd(), BROKER)?;
        if let Some(process) = &process {
            self.watch(process.as_fd(), BROKER_EXIT)?;
        }
        self.broker = Some(Broker { process, link });
        self.busy = Instant::now();
        Ok(())
    }

    fn broker_readable(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        // A bounded number: workers have their turn too.
        for _ in 0..64 {
            let Some(broker) = &mut self.broker else {
                break;
            };
            broker.link.flush();
            if self.reexec.is_some() {
                let over = socket::poll(broker.link.as_fd(), 0, 0);
                if over.is_ok_and(|seen| seen & libc::POLLHUP == 0) {
                    break;
                }
                // Who asked for it is gone.
                self.reexec = None;
            }
            match broker.link.receive(&mut buffer) {
                Incoming::Packet(packet) => self.request(packet),
                Incoming::Lost(packet) => {
                    if let Ok(id) = packet.number("id") {
                        self.reply(id, Err(packet::lost()), Vec::new());
                    }
                }
                Incoming::Garbage(_) => {}
                Incoming::Nothing => break,
                Incoming::End => {
                    self.broker_gone();
                    break;
                }
            }
        }
        self.rewatch_broker();
        self.buffer = buffer;
    }

    /// The broker's socket is closed: what it waited for is not for anybody.
    fn broker_gone(&mut self) {
        let Some(broker) = &self.broker else { return };
        if broker.process.is_some() {
            // It ends, or is made to: its exit starts the next one.
            let _ = socket::unwatch(self.epoll.as_fd(), broker.link.as_fd());
            if let Some(process) = &broker.process {
                process.signal(libc::SIGKILL);
            }
        } else {
            let _ = socket::unwatch(self.epoll.as_fd(), broker.link.as_fd());
            self.broker = None;
        }
        self.forget_replies();
    }

    fn forget_replies(&mut self) {
        // The client's ends go, and their sessions with them.
        let waiting: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.reply.is_some())
            .map(|(sid, _)| *sid)
            .collect();
        for sid in waiting {
            self.close_session(sid);
        }
        for domain in self.domains.values_mut() {
            domain.waiting.clear();
        }
        for worker in self.workers.values_mut() {
            worker.forget_replies();
        }
        self.replacements.clear();
        self.forget_rekey();
        self.reexec = None;
        self.clients = 0;
    }

    fn broker_exited(&mut self) {
        let Some(process) = self.broker.as_ref().and_then(|b| b.process.as_ref()) else {
            return;
        };
        let Some(exit) = process.reap() else { return };
        eprintln!("cryptofd-daemon: the broker ended: {exit}; starting it again");
        let _ = socket::unwatch(self.epoll.as_fd(), process.as_fd());
        if let Some(broker) = self.broker.take() {
            let _ = socket::unwatch(self.epoll.as_fd(), broker.link.as_fd());
        }
        self.forget_replies();
        let often = self.broker_deaths.add();
        if often || self.start_broker().is_err() {
            self.broker_at = Some(Instant::now() + PAUSE);
        }
    }

    /// Tells the broker, if there is one.
    fn tell(&mut self, object: &Value, fds: Vec<OwnedFd>) {
        if let Some(broker) = &mut self.broker {
            // One that does not read at all is gone as far as anybody can tell.
            if broker.link.send(object, fds).is_err() {
                if let Some(process) = &broker.process {
                    process.signal(libc::SIGKILL);
                }
            }
        }
        self.rewatch_broker();
    }

    fn reply(&mut self, id: u64, done: Result<Value>, fds: Vec<OwnedFd>) {
        self.tell(&answer(id, done), fds);
    }

    /// Ends everything that was started here.
    fn end(mut self) -> Result<()> {
        systemd::stopping();
        self.dismiss_spare();
        // In order: who decides, so that nothing more is promised; who computes; what is left of sessions.
        let until = Instant::now() + FAREWELL;
        let broker = self.broker.take();
        if let Some(process) = broker.as_ref().and_then(|broker| broker.process.as_ref()) {
            process.signal(libc::SIGTERM);
            gone(process, until);
        }
        let mut children = Vec::new();
        for (_, worker) in self.workers.drain() {
            worker.process.signal(libc::SIGKILL);
            children.push(worker.process);
        }
        if let Kek::Process { process, .. } = &self.kek {
            process.signal(libc::SIGKILL);
        }
        for session in self.sessions.values() {
            for end in &session.ends {
                sys::shutdown(end.fd.as_fd());
            }
        }
        for socket in &self.listening {
            if let Some(path) = &socket.path {
                let _ = std::fs::remove_file(path);
            }
        }
        for child in children {
            gone(&child, until);
        }
        Ok(())
    }
}
