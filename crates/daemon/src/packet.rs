//! What our own processes tell each other: one JSON object a packet, with descriptors (see docs/broker.md).
//!
//! Nobody is believed: a worker may have been taken over by its clients.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cryptofd_core::error::{Error, Kind, Result};
use cryptofd_core::sys::buffer::Input;
use cryptofd_core::sys::{memfd, socket};
use serde_json::{Map, Value, json};
use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Most bytes of a packet; a longer object travels in a memfd.
pub const PACKET: usize = 64 << 10;
/// Most bytes of an object in a memfd.
const BODY: usize = 16 << 20;
/// Most bytes that wait for one that does not read.
const QUEUE: usize = 64 << 20;
/// Most descriptors of a packet.
pub const FDS: usize = socket::MANY;

/// An object and what came with it.
#[derive(Debug)]
pub struct Packet {
    /// The object.
    pub object: Map<String, Value>,
    /// The descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

impl Packet {
    /// A field that is text.
    pub fn text(&self, field: &str) -> Result<&str> {
        text(&self.object, field)
    }

    /// A field that is a number.
    pub fn number(&self, field: &str) -> Result<u64> {
        number(&self.object, field)
    }

    /// The only descriptor.
    pub fn only_fd(&mut self) -> Result<OwnedFd> {
        let number = self.fds.len();
        match (self.fds.pop(), number) {
            (Some(fd), 1) => Ok(fd),
            _ => Err(Error::invalid(format!(
                "{number} descriptors where one belongs"
            ))),
        }
    }
}

/// A field that is a number.
pub fn number(object: &Map<String, Value>, field: &str) -> Result<u64> {
    object
        .get(field)
        .and_then(Value::as_u64)
        .ok_or_else(|| Error::invalid(format!("the field {field:?} is no number")))
}

/// A field that is text.
pub fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Result<&'a str> {
    object
        .get(field)
        .and_then(Value::as_str)
        .ok_or_else(|| Error::invalid(format!("the field {field:?} is no text")))
}

/// A field that is an object.
pub fn object<'a>(object: &'a Map<String, Value>, field: &str) -> Result<&'a Map<String, Value>> {
    object
        .get(field)
        .and_then(Value::as_object)
        .ok_or_else(|| Error::invalid(format!("the field {field:?} is no object")))
}

/// A field that is base64; `None` where it is null or absent.
pub fn bytes(object: &Map<String, Value>, field: &str) -> Result<Option<Vec<u8>>> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => STANDARD
            .decode(text)
            .map(Some)
            .map_err(|_| Error::invalid(format!("the field {field:?} is no base64"))),
        Some(_) => Err(Error::invalid(format!("the field {field:?} is no base64"))),
    }
}

/// The same where it has to be.
pub fn needed(object: &Map<String, Value>, field: &str) -> Result<Vec<u8>> {
    bytes(object, field)?.ok_or_else(|| Error::invalid(format!("the field {field:?} is missing")))
}

/// Bytes as a field.
pub fn base64(bytes: &[u8]) -> Value {
    STANDARD.encode(bytes).into()
}

/// The answer to the request `id`.
pub fn answer(id: u64, done: Result<Value>) -> Value {
    match done {
        Ok(value) => json!({"id": id, "ok": value}),
        Err(error) => {
            json!({"id": id, "errno": error.errno().clamp(1, 4095), "error": error.message()})
        }
    }
}

/// What an answer says.
pub fn answered(object: &Map<String, Value>) -> Result<&Map<String, Value>> {
    if let Some(ok) = object.get("ok").and_then(Value::as_object) {
        return Ok(ok);
    }
    let errno = object
        .get("errno")
        .and_then(Value::as_u64)
        .filter(|errno| (1..=4095).contains(errno))
        .unwrap_or(libc::EPROTO as u64);
    let sentence: String = object
        .get("error")
        .and_then(Value::as_str)
        .unwrap_or("an answer that is none")
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(1024)
        .collect();
    Err(Error::new(Kind::System, errno as i32, sentence))
}

/// A packet that is ready to go.
pub struct Outgoing {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// Makes a packet; a memfd comes first among its descriptors if the object is long.
pub fn pack(object: &Value, mut fds: Vec<OwnedFd>) -> Result<Outgoing> {
    let mut bytes = serde_json::to_vec(object).map_err(|_| Error::invalid("no JSON"))?;
    if bytes.len() > PACKET {
        let mut head = Map::new();
        for field in ["id", "op", "event"] {
            if let Some(value) = object.get(field) {
                head.insert(field.into(), value.clone());
            }
        }
        let memory;
        (memory, bytes) = attach(head, &bytes)?;
        fds.insert(0, memory);
    }
    if fds.len() > FDS {
        return Err(Error::too_large(format!(
            "{} descriptors: at most {FDS}",
            fds.len()
        )));
    }
    Ok(Outgoing { bytes, fds })
}

/// The memfd of a long object, and what is sent in its place.
fn attach(mut head: Map<String, Value>, bytes: &[u8]) -> Result<(OwnedFd, Vec<u8>)> {
    if bytes.len() > BODY {
        return Err(Error::too_large(format!(
            "a message of {} bytes: at most {BODY}",
            bytes.len()
        )));
    }
    let memory = memfd::with(&[Input::from(bytes)])?;
    head.insert("body".into(), "attached".into());
    head.insert("bytes".into(), bytes.len().into());
    Ok((memory, Value::Object(head).to_string().into_bytes()))
}

impl Outgoing {
    /// Sends it, waiting for room unless `nonblock`.
    pub fn send(&self, fd: BorrowedFd<'_>, nonblock: bool) -> io::Result<()> {
        let fds: Vec<BorrowedFd<'_>> = self.fds.iter().map(AsFd::as_fd).collect();
        socket::send_many(fd, &[Input::from(&self.bytes[..])], &fds, nonblock).map(drop)
    }
}

/// What came in.
pub enum Incoming {
    /// A packet.
    Packet(Packet),
    /// A packet whose descriptors are lost, because this process may have no more.
    Lost(Packet),
    /// A packet that is none of ours; it is gone.
    Garbage(Error),
    /// Nothing waits.
    Nothing,
    /// The other side is gone.
    End,
}

/// What is said to who sent such a packet.
pub fn lost() -> Error {
    Error::system(
        libc::EMFILE,
        "taking descriptors: close some, or raise RLIMIT_NOFILE",
    )
}

/// Takes the next packet.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>, nonblock: bool) -> Incoming {
    receive_up_to(BODY, fd, buffer, nonblock, drop)
}

/// The same of one whose objects in memfds have at most `body` bytes.
fn receive_up_to(
    body: usize,
    fd: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
    nonblock: bool,
    close: fn(Vec<OwnedFd>),
) -> Incoming {
    buffer.resize(PACKET + 1, 0);
    loop {
        let mut got = match socket::receive_many(fd, buffer, nonblock) {
            Ok(got) => got,
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => continue,
                Some(libc::EAGAIN) => return Incoming::Nothing,
                // It went with packets of ours unread; what it sent before still comes.
                Some(libc::ECONNRESET) => continue,
                _ => return Incoming::End,
            },
        };
        let parsed = if got.length == 0 && got.fds.is_empty() && !got.lost {
            return Incoming::End;
        } else if got.length > PACKET {
            Err(Error::too_large("a packet beyond every limit"))
        } else if got.fds.len() > FDS {
            Err(Error::too_large(format!("more than {FDS} descriptors")))
        } else {
            if got.lost {
                close(std::mem::take(&mut got.fds));
            }
            parse(body, &buffer[..got.length], &mut got.fds)
        };
        return match parsed {
            Ok(object) if got.lost => Incoming::Lost(Packet {
                object,
                fds: Vec::new(),
            }),
            Ok(object) => Incoming::Packet(Packet {
                object,
                fds: got.fds,
            }),
            Err(_) if got.lost && got.fds.is_empty() => Incoming::Nothing,
            Err(error) => {
                close(got.fds);
                Incoming::Garbage(error)
            }
        };
    }
}

/// The object; its body is not among the descriptors any more.
fn parse(most: usize, bytes: &[u8], fds: &mut Vec<OwnedFd>) -> Result<Map<String, Value>> {
    let none = || Error::invalid("a packet that is no JSON object");
    let value: Value = serde_json::from_slice(bytes).map_err(|_| none())?;
    let Value::Object(object) = value else {
        return Err(none());
    };
    if object.get("body").and_then(Value::as_str) != Some("attached") {
        return Ok(object);
    }
    let length = object.get("bytes").and_then(Value::as_u64);
    let (length, memory) = length
        .filter(|length| *length <= most as u64)
        .zip(fds.first())
        .ok_or_else(|| Error::invalid("an attached body that is missing or too long"))?;
    let body = memfd::read(memory.as_fd(), length as usize)?;
    let Ok(Value::Object(object)) = serde_json::from_slice(&body) else {
        return Err(none());
    };
    fds.remove(0);
    Ok(object)
}

/// Whether what could not be sent can be sent later.
fn later(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM | libc::ETOOMANYREFS)
    )
}

/// The supervisor's side of a control pair: it never waits for the other side.
pub struct Link {
    fd: OwnedFd,
    queue: VecDeque<Outgoing>,
    queued: usize,
    /// Most bytes of an object in a memfd that comes.
    body: usize,
    /// What is watched for.
    watched: Cell<i32>,
}

impl Link {
    /// Takes over an end.
    pub fn new(fd: OwnedFd) -> Link {
        Link {
            fd,
            queue: VecDeque::new(),
            queued: 0,
            body: BODY,
            watched: Cell::new(libc::EPOLLIN),
        }
    }

    /// The same, to a worker: what it has to say fits into packets. Reading more would be time that it
    /// takes from others.
    pub fn to_worker(fd: OwnedFd) -> Link {
        Link {
            body: 0,
            ..Link::new(fd)
        }
    }

    /// Sends, now or when there is room. EAGAIN: the other side does not read at all.
    pub fn send(&mut self, object: &Value, fds: Vec<OwnedFd>) -> Result<()> {
        let packet = pack(object, fds)?;
        self.put(packet)
    }

    /// Sends an object that is text already, with at most one less than `FDS` descriptors. False: there is no
    /// room now, and nothing waits: copies of them would have to be made for that.
    pub fn try_send_text(&mut self, text: String, fds: &[BorrowedFd<'_>]) -> Result<bool> {
        if self.waiting() {
            return Ok(false);
        }
        let mut bytes = text.into_bytes();
        let mut memory = None;
        if bytes.len() > PACKET {
            let (attached, head) = attach(Map::new(), &bytes)?;
            bytes = head;
            memory = Some(attached);
        }
        let all: Vec<BorrowedFd<'_>> = memory.iter().map(AsFd::as_fd).collect();
        let all = [&all[..], fds].concat();
        match socket::send_many(self.fd.as_fd(), &[Input::from(&bytes[..])], &all, true) {
            Err(error) if later(&error) => Ok(false),
            // Gone: what is to be done about it is done when its exit is seen.
            _ => Ok(true),
        }
    }

    fn put(&mut self, packet: Outgoing) -> Result<()> {
        if self.queued + packet.bytes.len() > QUEUE {
            return Err(Error::new(
                Kind::Again,
                libc::EAGAIN,
                "the other side of a control socket does not read",
            ));
        }
        self.queued += packet.bytes.len();
        self.queue.push_back(packet);
        self.flush();
        Ok(())
    }

    /// Sends what waits; what cannot be sent because the other side is gone is dropped.
    pub fn flush(&mut self) {
        while let Some(packet) = self.queue.front() {
            match packet.send(self.fd.as_fd(), true) {
                Err(error) if later(&error) => return,
                _ => {
                    self.queued -= packet.bytes.len();
                    self.queue.pop_front();
                }
            }
        }
    }

    /// Whether something waits to be sent.
    pub fn waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// What is to be watched for: what comes if it is read now, room while something waits; `None`: as before.
    pub fn watches(&self, read: bool, waits: bool) -> Option<i32> {
        let comes = if read { libc::EPOLLIN } else { 0 };
        let room = if waits { libc::EPOLLOUT } else { 0 };
        let events = comes | room;
        (self.watched.replace(events) != events).then_some(events)
    }

    /// Takes the next packet, if there is one.
    pub fn receive(&self, buffer: &mut Vec<u8>) -> Incoming {
        let close = super::elsewhere::close_all;
        receive_up_to(self.body, self.fd.as_fd(), buffer, true, close)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(object: &Value, fds: Vec<OwnedFd>) -> Incoming {
        let (here, there) = socket::pair().unwrap();
        pack(object, fds).unwrap().send(here.as_fd(), true).unwrap();
        receive(there.as_fd(), &mut Vec::new(), true)
    }

    #[test]
    fn objects_go_round_short_and_long() {
        for length in [10, PACKET * 3] {
            let object = json!({"id": 7, "op": "x", "text": "a".repeat(length)});
            let extra = memfd::with(&[Input::from(b"extra")]).unwrap();
            let Incoming::Packet(packet) = sent(&object, vec![extra]) else {
                panic!("{length}")
            };
            assert_eq!(Value::Object(packet.object), object);
            assert_eq!(packet.fds.len(), 1);
            let read = memfd::read(packet.fds[0].as_fd(), 5).unwrap();
            assert_eq!(read, b"extra");
        }
    }

    #[test]
    fn what_is_no_object_is_garbage() {
        for bytes in [
            &b"{"[..],
            b"[]",
            b"7",
            b"\xff\xfe",
            br#"{"body":"attached","bytes":5}"#,
            br#"{"body":"attached"}"#,
        ] {
            let (here, there) = socket::pair().unwrap();
            socket::send(here.as_fd(), &[Input::from(bytes)], None, true).unwrap();
            let got = receive(there.as_fd(), &mut Vec::new(), true);
            assert!(matches!(got, Incoming::Garbage(_)), "{bytes:?}");
        }
    }

    #[test]
    fn nothing_and_the_end_are_told_apart() {
        let (here, there) = socket::pair().unwrap();
        let mut buffer = Vec::new();
        assert!(matches!(
            receive(there.as_fd(), &mut buffer, true),
            Incoming::Nothing
        ));
        drop(here);
        // A child that another test is starting may have a copy until its exec.
        assert!(socket::poll(there.as_fd(), libc::POLLIN, 60_000).unwrap() != 0);
        assert!(matches!(
            receive(there.as_fd(), &mut buffer, true),
            Incoming::End
        ));
    }
}
