//! The sessions that a worker serves, opened by their recipes.

use super::grant::{Facts, Grant, known};
use super::keys::Wrapper;
use super::lease::Leases;
use super::recipe::{Keyed, list, number, options};
use super::shares::{Counters, Limit};
use super::upstream::{Upstream, lock};
use crate::packet::{self, Packet};
use crate::sys::Mapping;
use cryptofd_core::engine::Key;
use cryptofd_core::error::{Error, Result};
use cryptofd_core::serve::{Kept, Served};
use cryptofd_core::session::Session;
use cryptofd_core::sys::arena;
use cryptofd_core::table;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

/// All of them.
pub struct Sessions {
    epoch: u32,
    upstream: Arc<Upstream>,
    leases: Arc<Leases>,
    rings: Counters,
    flights: Counters,
    open: Mutex<HashMap<u64, Arc<Kept>>>,
    fewer: Condvar,
    counts: OnceLock<Arc<Mapping>>,
}

impl Sessions {
    /// None yet.
    pub fn new(epoch: u32, upstream: Arc<Upstream>, leases: Arc<Leases>) -> Sessions {
        Sessions {
            epoch,
            upstream,
            leases,
            rings: Counters::default(),
            flights: Counters::default(),
            open: Mutex::default(),
            fewer: Condvar::new(),
            counts: OnceLock::new(),
        }
    }

    /// Where sessions that are opened from now on are counted; once.
    pub fn count_in(&self, page: Arc<Mapping>) {
        let _ = self.counts.set(page);
    }

    /// Has a session served by another engine.
    pub fn move_to(&self, packet: &Packet) -> Result<()> {
        let (sid, engine) = (packet.number("sid")?, packet.text("engine")?);
        let kept = lock(&self.open).get(&sid).cloned();
        let kept = kept.ok_or_else(|| Error::system(libc::ENOENT, &format!("session {sid}")))?;
        arena::bounded(|| kept.session().move_to(engine))
    }

    /// Waits until there is none, at most so long. Whether there is none.
    pub fn none_left(&self, patience: Duration) -> bool {
        let open = lock(&self.open);
        let waited = self
            .fewer
            .wait_timeout_while(open, patience, |open| !open.is_empty());
        waited.unwrap_or_else(|e| e.into_inner()).0.is_empty()
    }

    /// Serves the ends that came with a packet, for sessions that are open or are opened now. The answer
    /// names those that are not; `informed` are those that want INFO without asking.
    pub fn serve(
        self: &Arc<Self>,
        packet: Packet,
        wrapper: Option<&Wrapper>,
        informed: &mut Vec<Served>,
    ) -> Result<Value> {
        let mut fds = packet.fds.into_iter();
        let mut refused = Vec::new();
        for session in list(&packet.object, "sessions")? {
            let sid = packet::number(session, "sid")?;
            let number = packet::number(session, "ends")? as usize;
            let ends: Vec<OwnedFd> = fds.by_ref().take(number).collect();
            match self.serve_one(sid, session, ends, wrapper) {
                Ok(served) if session.get("info") == Some(&Value::Bool(true)) => {
                    informed.extend(served);
                }
                Ok(_) => {}
                Err(error) => refused.push(json!({
                    "sid": sid, "errno": error.errno().clamp(1, 4095), "error": error.message(),
                })),
            }
        }
        Ok(json!({"refused": refused}))
    }

    fn serve_one(
        self: &Arc<Self>,
        sid: u64,
        session: &Map<String, Value>,
        ends: Vec<OwnedFd>,
        wrapper: Option<&Wrapper>,
    ) -> Result<Vec<Served>> {
        let taken_over = session.get("takeover") == Some(&Value::Bool(true));
        let known = lock(&self.open).get(&sid).cloned();
        let kept = match known {
            Some(kept) => kept,
            None => {
                let recipe = packet::object(session, "recipe")?;
                let kept = Arc::new(arena::bounded(|| {
                    self.open(sid, recipe, wrapper, taken_over)
                })?);
                let place = session.get("place").and_then(Value::as_u64);
                let place = self.counts.get().zip(place);
                if let Some(place) = place.and_then(|(page, place)| page.place(place as usize)) {
                    kept.session().count_in(Arc::new(place));
                }
                lock(&self.open).insert(sid, kept.clone());
                kept
            }
        };
        let served = ends
            .into_iter()
            .map(|end| kept.serve(end, taken_over))
            .collect::<Result<_>>();
        if kept.ends() == 0 {
            self.forget(sid);
        } else {
            // Its last end may have gone when it had none of these yet.
            self.remember(sid, kept);
        }
        served
    }

    fn remember(&self, sid: u64, kept: Arc<Kept>) {
        let mut open = lock(&self.open);
        // Counted under the lock: whoever takes the last end away comes here later.
        if kept.ends() > 0 {
            open.entry(sid).or_insert(kept);
        }
    }

    /// Its last end is gone, and the key goes with it, unless it was given another meanwhile.
    pub fn forget(&self, sid: u64) {
        let mut open = lock(&self.open);
        let over = open.get(&sid).is_some_and(|kept| kept.ends() == 0);
        let gone = over.then(|| open.remove(&sid));
        drop(open);
        drop(gone);
        self.fewer.notify_all();
    }

    fn open(
        self: &Arc<Self>,
        sid: u64,
        recipe: &Map<String, Value>,
        wrapper: Option<&Wrapper>,
        taken_over: bool,
    ) -> Result<Kept> {
        let algorithm = table::find(packet::text(recipe, "algorithm")?)?;
        let mut request = options(recipe)?;
        request.algorithm = algorithm.name.into();
        let mut usage = known([].into_iter());
        let mut key = None;
        let mut lease = None;
        let mut older = BTreeMap::new();
        let mut input = None;
        if let Some(keyed) = Keyed::maybe(recipe)? {
            let (attributes, own) = (&keyed.attributes, keyed.algorithm);
            let wrapper = wrapper.ok_or_else(no_wrapper)?;
            let hashed = matches!(algorithm.kind, table::Kind::Hash | table::Kind::Xof);
            let taken_in = own.name != algorithm.name && hashed && attributes.allows("digest");
            if own.name != algorithm.name && !taken_in {
                return Err(Error::refused(format!(
                    "{} is a key of {}: it does not serve {}",
                    attributes.name(),
                    own.name,
                    algorithm.name
                )));
            }
            attributes.check_expiry()?;
            if !taken_in {
                keyed.tags(&mut request)?;
            }
            usage = known(keyed.usage().filter(|u| !taken_in || *u == "digest"));
            let secret = keyed.unwrap(wrapper)?;
            if taken_in {
                input = Some(secret);
            } else {
                request.key = Key::Bytes(secret);
            }
            // What UNSEAL asks for: nothing else says which version it is of.
            let sealed = algorithm.kind == table::Kind::Aead && !taken_in;
            for entry in list(recipe, "older")?.into_iter().filter(|_| sealed) {
                let old = Keyed::of(entry)?;
                if old.algorithm.name != algorithm.name {
                    continue;
                }
                let mut request = request.clone();
                request.key = Key::Bytes(old.unwrap(wrapper)?);
                let version = old.attributes.number("version").unwrap_or(0);
                if let Ok(version @ 1..) = u8::try_from(version) {
                    let facts = Facts::from(&old.attributes);
                    older.insert(version, (facts, Session::open(request)?));
                }
            }
            // What was leased before a takeover counts as used.
            let given = match recipe.get("lease").and_then(Value::as_object) {
                Some(_) if taken_over => Some(0),
                Some(lease) => Some(lease.get("uses").and_then(Value::as_u64).unwrap_or(0)),
                None if attributes.number("uses").is_some() => {
                    return Err(Error::refused(format!(
                        "{} has a use limit, and no lease came with it",
                        attributes.name()
                    )));
                }
                None => None,
            };
            let id = attributes.text("id").unwrap_or_default();
            let stored = attributes.text("class") == Some("stored");
            lease = Some(self.leases.of(id, stored, given));
            key = Some(Facts::from(attributes));
        } else if algorithm.takes_key() && algorithm.key.min > 0 {
            return Err(Error::invalid(format!("{} needs a key", algorithm.name)));
        }
        let uid = number(recipe, "who", "uid");
        let grant = Grant {
            sid,
            epoch: self.epoch,
            algorithm,
            key,
            usage,
            input,
            older,
            lease,
            leases: self.leases.clone(),
            upstream: self.upstream.clone(),
            sessions: Arc::downgrade(self),
            rings: Limit {
                taken: self.rings.of(uid),
                most: number(recipe, "limits", "ring").unwrap_or(0),
            },
            flights: Limit {
                taken: self.flights.of(uid),
                most: number(recipe, "limits", "in_flight").unwrap_or(u64::MAX),
            },
        };
        Kept::new(Session::open(request)?, Arc::new(grant))
    }
}

/// What a worker says before it has its key-encryption key.
pub fn no_wrapper() -> Error {
    Error::system(libc::ENOKEY, "this worker has no key-encryption key")
}
