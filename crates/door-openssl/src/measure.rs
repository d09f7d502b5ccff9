//! Jobs whose time says whether an engine is worth its way: what programs do with an algorithm, done with one
//! implementation or another.

use crate::cipher::Way;
use crate::error::{Error, Result};
use crate::ffi::host::{Cipher, Digest, Implementation, Mac};
use crate::ffi::params::{Given, Own};
use crate::worth::{self, Side};
use cryptofd_core::engine::Direction;
use cryptofd_core::sys::buffer::{Input, Output};
use std::time::{Duration, Instant};

/// What is done again and again lasts at least so long: a clock has to see it.
const LONG: Duration = Duration::from_micros(20);
/// What libcrypto itself does at least for a message, in front of any provider: with a context of its own, or with
/// one that is there. Programs wait for both.
const LIBCRYPTO: [Duration; 2] = [Duration::from_nanos(100), Duration::from_nanos(30)];
/// A cipher's padding, and more.
const ROOM: usize = 64;
/// TLS's additional data.
const AAD: usize = 13;
/// Bytes of messages. A record of TLS is at most 16 KiB; what an accelerator in the kernel gains begins later.
const SIZES: [usize; 5] = [16, 256, 1 << 10, 8 << 10, LONGEST];
const LONGEST: usize = 64 << 10;

/// What programs do with an algorithm.
#[derive(Clone, Debug)]
pub enum Job {
    Digest,
    Cipher {
        key: usize,
        iv: usize,
        way: Way,
    },
    /// With these names of what it is built on.
    Mac(&'static [(&'static std::ffi::CStr, &'static str)]),
    Kdf(&'static [(&'static std::ffi::CStr, Value)]),
}

/// A parameter's.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    Text(&'static str),
    Number(usize),
    /// So many bytes.
    Octets(usize),
}

/// Does one message.
type Message<'a> = Box<dyn FnMut(&mut [u8]) -> Result<()> + 'a>;

/// How a program goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// A context for each message.
    Fresh,
    /// One for all.
    Kept,
    /// The same, the other way round.
    KeptDecrypting,
}

/// Memory for the work, made once.
pub struct Room {
    data: Vec<u8>,
    out: Vec<u8>,
}

impl Default for Room {
    /// For the longest.
    fn default() -> Room {
        Room {
            data: (0..LONGEST).map(|i| i as u8).collect(),
            out: vec![0; LONGEST + ROOM],
        }
    }
}

impl Job {
    /// The sizes that are looked at.
    pub fn sizes(&self) -> &'static [usize] {
        match self {
            Job::Kdf(_) => &[32],
            _ => &SIZES,
        }
    }

    fn habits(&self, size: usize) -> &'static [Habit] {
        match self {
            // Where a context costs nothing against the work.
            _ if size >= LONGEST => &[Habit::Fresh],
            Job::Kdf(_) => &[Habit::Fresh],
            Job::Cipher { way, .. } if !matches!(way, Way::Pieces | Way::Message) => {
                &[Habit::Fresh, Habit::Kept, Habit::KeptDecrypting]
            }
            _ => &[Habit::Fresh, Habit::Kept],
        }
    }

    /// The host's time through ours for messages of this size, whatever a program's habit: the least.
    pub fn ratio(
        &self,
        ours: &Implementation,
        theirs: &Implementation,
        size: usize,
        room: &mut Room,
    ) -> Result<f64> {
        let mut least = f64::INFINITY;
        for habit in self.habits(size) {
            let again = worth::times(LONG, |again| self.time(theirs, size, *habit, again, room))?;
            let one = worth::ratio(|side| {
                let who = match side {
                    Side::Ours => ours,
                    Side::Theirs => theirs,
                };
                let own = LIBCRYPTO[usize::from(*habit != Habit::Fresh)];
                Ok(self.time(who, size, *habit, again, room)? + own * again)
            })?;
            least = least.min(one);
        }
        Ok(least)
    }

    /// How long it takes, so many times.
    fn time(
        &self,
        who: &Implementation,
        size: usize,
        habit: Habit,
        again: u32,
        room: &mut Room,
    ) -> Result<Duration> {
        let data = room.data.get(..size).ok_or(Error::SAID)?;
        let out = &mut room.out[..];
        let times = |mut job: Message<'_>, out: &mut [u8]| {
            // What is done once (a session that is opened, memory that is touched) does not count.
            job(out)?;
            let begun = Instant::now();
            for _ in 0..again {
                job(out)?;
            }
            Ok(begun.elapsed())
        };
        let fresh = habit == Habit::Fresh;
        match self {
            Job::Digest if fresh => {
                times(Box::new(|out| digest(&mut who.digest()?, data, out)), out)
            }
            Job::Digest => {
                let mut one = who.digest()?;
                times(Box::new(move |out| digest(&mut one, data, out)), out)
            }
            Job::Cipher { key, iv, way } => {
                let one = Crypt {
                    key: *key,
                    iv: *iv,
                    way: *way,
                    direction: if habit == Habit::KeptDecrypting {
                        Direction::Decrypt
                    } else {
                        Direction::Encrypt
                    },
                };
                if fresh {
                    return times(
                        Box::new(|out| one.message(&mut who.cipher()?, true, data, out)),
                        out,
                    );
                }
                let mut context = who.cipher()?;
                one.message(&mut context, true, data, out)?;
                times(
                    Box::new(move |out| one.message(&mut context, false, data, out)),
                    out,
                )
            }
            Job::Mac(names) => {
                let mut set = Own::default();
                for (name, text) in *names {
                    set.text(name, text);
                }
                if names.iter().any(|(_, text)| text.ends_with("GCM")) {
                    set.octets(c"iv", &[7; 12]);
                }
                if fresh {
                    return times(
                        Box::new(|out| authenticate(&mut who.mac()?, set.given(), data, out)),
                        out,
                    );
                }
                // As programs do that have many messages under one key: a copy of one that is begun.
                let mut begun = who.mac()?;
                begun.init(Some(&KEY[..32]), set.given())?;
                times(
                    Box::new(move |out| {
                        let mut one = begun.fork()?;
                        one.update(Input::from(data))?;
                        one.finish(Output::from(out)).map(drop)
                    }),
                    out,
                )
            }
            Job::Kdf(values) => {
                let mut set = Own::default();
                for (name, value) in *values {
                    match value {
                        Value::Text(text) => set.text(name, text),
                        Value::Number(number) => set.size(name, *number),
                        Value::Octets(size) => set.octets(name, &KEY[..*size]),
                    }
                }
                times(
                    Box::new(|out| {
                        let mut one = who.kdf()?;
                        one.set_params(set.given())?;
                        one.derive(&mut out[..size])
                    }),
                    out,
                )
            }
        }
    }
}

/// Bytes of keys: XTS wants two that differ.
const KEY: [u8; 64] = {
    let mut key = [0; 64];
    let mut at = 0;
    while at < key.len() {
        key[at] = (at as u8).wrapping_mul(151).wrapping_add(11);
        at += 1;
    }
    key
};

fn digest(one: &mut Digest, data: &[u8], out: &mut [u8]) -> Result<()> {
    one.init()?;
    one.update(Input::from(data))?;
    one.finish(Output::from(out)).map(drop)
}

fn authenticate(one: &mut Mac, set: Given<'_>, data: &[u8], out: &mut [u8]) -> Result<()> {
    one.init(Some(&KEY[..32]), set)?;
    one.update(Input::from(data))?;
    one.finish(Output::from(out)).map(drop)
}

#[derive(Clone, Copy)]
struct Crypt {
    key: usize,
    iv: usize,
    way: Way,
    direction: Direction,
}

impl Crypt {
    /// One message. To decrypt, it is not padded: what comes out is noise.
    fn message(&self, one: &mut Cipher, keyed: bool, data: &[u8], out: &mut [u8]) -> Result<()> {
        let iv = [9; 16];
        let key = keyed.then_some(&KEY[..self.key]);
        let iv = (self.iv > 0).then_some(&iv[..self.iv]);
        one.init(self.direction, key, iv, Given::NONE)?;
        if keyed && self.way == Way::Blocks {
            let mut set = Own::default();
            set.size(c"padding", 0);
            one.set_params(set.given())?;
        }
        if self.way == Way::Message {
            one.associated(None, data.len())?;
        }
        if matches!(self.way, Way::Pieces | Way::Message) {
            one.associated(Some(Input::from(&KEY[..AAD])), AAD)?;
        }
        let done = one.update(Input::from(data), Output::from(&mut *out))?;
        one.finish(Output::from(&mut out[done..])).map(drop)
    }
}
