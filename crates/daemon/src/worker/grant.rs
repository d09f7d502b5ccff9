//! What a session may do: usage, expiry and limits, checked at every request.

use super::attributes::{Attributes, USAGES, expired, raw_stream};
use super::lease::{Lease, Leases};
use super::sessions::Sessions;
use super::shares::Limit;
use super::upstream::Upstream;
use cryptofd_core::engine::Direction;
use cryptofd_core::error::{Error, Result};
use cryptofd_core::record::{Incoming, Op};
use cryptofd_core::secret::Secret;
use cryptofd_core::serve::{Keeper, Share};
use cryptofd_core::session::Session;
use cryptofd_core::table::{Algorithm, Kind};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Weak};

/// What an op needs of a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: it does not use the key.
    Nothing,
    /// All of these.
    All(&'static [&'static str]),
    /// One of these.
    Any(&'static [&'static str]),
}

/// What `op` needs on a session of `algorithm`.
pub fn need(op: Op, direction: Option<Direction>, algorithm: &Algorithm) -> Need {
    let crypt = |direction| match direction {
        _ if raw_stream(algorithm) => Need::All(&["encrypt", "decrypt"]),
        Direction::Encrypt => Need::All(&["encrypt"]),
        Direction::Decrypt => Need::All(&["decrypt"]),
    };
    match op {
        Op::Info | Op::Clone | Op::Cancel | Op::Ring | Op::Reset | Op::Random => Need::Nothing,
        // The IV is in the request: whoever repeats one can decrypt, and forge.
        Op::Encrypt if algorithm.kind == Kind::Aead => {
            Need::All(&["caller-iv", "encrypt", "decrypt"])
        }
        Op::Encrypt => crypt(Direction::Encrypt),
        Op::Decrypt => crypt(Direction::Decrypt),
        Op::Seal => Need::All(&["encrypt"]),
        Op::Unseal => Need::All(&["decrypt"]),
        // A hash that takes a key in gives away what the key's right says, and nothing before it.
        Op::HashKey => Need::All(&["digest"]),
        Op::Digest | Op::Finish | Op::Peek | Op::Update if hash(algorithm) => {
            Need::All(&["digest"])
        }
        Op::Digest | Op::Finish | Op::Peek => Need::All(&["sign"]),
        Op::Verify => Need::All(&["verify"]),
        Op::Update => Need::Any(&["sign", "verify"]),
        // Through a descriptor these give and take bytes, which a wrapping key must not do.
        Op::Wrap => Need::All(&["encrypt"]),
        Op::Unwrap => Need::All(&["decrypt"]),
        Op::Derive => Need::All(&["derive-bytes"]),
        Op::Sign => Need::All(&["sign"]),
        Op::SignDigest => Need::All(&["sign-digest"]),
        Op::VerifySignature | Op::VerifyDigest => Need::All(&["verify"]),
        Op::PublicKey => Need::Nothing,
        Op::Agree | Op::Encapsulate | Op::Decapsulate => Need::All(&["derive-bytes"]),
        // Without a direction it is refused as it is.
        Op::StreamBegin => direction.map_or(Need::Nothing, crypt),
        // Checked when the stream began.
        Op::StreamUpdate | Op::StreamFinish => Need::Nothing,
    }
}

fn hash(algorithm: &Algorithm) -> bool {
    matches!(algorithm.kind, Kind::Hash | Kind::Xof)
}

/// Whether `op` is one use of the key; what goes on with one is not another.
fn uses(op: Op, algorithm: &Algorithm) -> bool {
    if hash(algorithm) {
        return op == Op::HashKey;
    }
    !matches!(
        op,
        Op::Info
            | Op::Clone
            | Op::Cancel
            | Op::Ring
            | Op::Reset
            | Op::Random
            | Op::PublicKey
            | Op::Update
            | Op::StreamUpdate
            | Op::StreamFinish
    )
}

/// What a session needs of its key's attributes, in a tenth of the room that they take: there may be many.
pub struct Facts {
    name: Box<str>,
    expires: Option<u64>,
    /// Whether its uses are counted.
    limited: bool,
    version: u8,
    /// Whether the key decrypts, whatever the grant says.
    decrypts: bool,
    /// What INFO tells, as JSON.
    told: Box<str>,
}

impl From<&Attributes> for Facts {
    fn from(key: &Attributes) -> Facts {
        let of = |name: &str| key.value().get(name).cloned().unwrap_or_default();
        let told = json!({
            "id": of("id"), "label": of("label"), "owner": of("owner"), "version": of("version"),
            "fingerprint": of("fingerprint"), "expires": of("expires"), "bits": of("bits"),
        });
        Facts {
            name: key.name().into(),
            expires: key.number("expires"),
            limited: key.number("uses").is_some(),
            version: key
                .number("version")
                .and_then(|v| u8::try_from(v).ok())
                .unwrap_or(1),
            decrypts: key.allows("decrypt"),
            told: told.to_string().into(),
        }
    }
}

impl Facts {
    fn check_expiry(&self) -> Result<()> {
        expired(self.expires, || self.name.to_string())
    }
}

/// The words of `usage` that there are.
pub fn known<'a>(usage: impl Iterator<Item = &'a str>) -> Box<[&'static str]> {
    usage
        .filter_map(|word| USAGES.into_iter().find(|known| *known == word))
        .collect()
}

/// A session's grant.
pub struct Grant {
    pub sid: u64,
    pub epoch: u32,
    pub algorithm: &'static Algorithm,
    /// `None` where the session has no key.
    pub key: Option<Facts>,
    /// The key's usage, narrowed by the broker.
    pub usage: Box<[&'static str]>,
    /// What HASH_KEY takes in, where the session is a hash's.
    pub input: Option<Secret>,
    /// Older versions of the key, which only unseal.
    pub older: BTreeMap<u8, (Facts, Arc<Session>)>,
    pub lease: Option<Arc<Lease>>,
    pub leases: Arc<Leases>,
    pub upstream: Arc<Upstream>,
    pub sessions: Weak<Sessions>,
    /// Bytes of the rings of whoever opened the session.
    pub rings: Limit,
    /// Bytes of requests that are worked on for whoever opened the session.
    pub flights: Limit,
}

impl Grant {
    fn check(&self, op: Op, direction: Option<Direction>, scheme: Option<&str>) -> Result<()> {
        let Some(key) = &self.key else {
            return Ok(());
        };
        let has = |usage: &&str| self.usage.contains(usage);
        let refused = |missing: &str| {
            let way = match missing {
                "caller-iv" => "; SEAL has the worker choose the IV",
                _ => "",
            };
            Err(Error::refused(format!(
                "{} needs usage {missing}, which this grant of {} has not{way}",
                op.name(),
                key.name
            )))
        };
        // RSA without padding is every other operation at once.
        let need = match scheme {
            Some("raw") => Need::All(&["raw", "sign", "decrypt"]),
            _ => need(op, direction, self.algorithm),
        };
        match need {
            Need::Nothing => {}
            Need::All(all) => {
                if let Some(missing) = all.iter().find(|usage| !has(usage)) {
                    return refused(missing);
                }
            }
            Need::Any(any) => {
                if !any.iter().any(has) {
                    return refused(&any.join(" or "));
                }
            }
        }
        if matches!(op, Op::Info | Op::Cancel | Op::Reset) {
            return Ok(());
        }
        key.check_expiry()?;
        let Some(lease) = &self.lease else {
            return Ok(());
        };
        if key.limited && uses(op, self.algorithm) {
            lease.take(&self.leases)?;
        }
        if op == Op::Seal {
            lease.seal(&self.leases)?;
        }
        Ok(())
    }
}

impl Keeper for Grant {
    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn allow(&self, request: &Incoming<'_>) -> Result<()> {
        let params = &request.params;
        self.check(request.op, params.direction, params.scheme)
            .inspect_err(|error| self.upstream.refused(self.sid, request.op.name(), error))
    }

    fn input(&self) -> Option<&Secret> {
        self.input.as_ref()
    }

    fn version(&self) -> u8 {
        self.key.as_ref().map_or(1, |key| key.version)
    }

    fn older(&self, version: u8) -> Option<Arc<Session>> {
        let (key, session) = self.older.get(&version)?;
        key.check_expiry().ok()?;
        key.decrypts.then(|| session.clone())
    }

    fn flight(&self, bytes: usize) -> Result<Option<Share>> {
        self.flights.flight(bytes).map(Some)
    }

    fn ring(&self, wanted: usize) -> Result<Share> {
        self.rings.ring(wanted)
    }

    fn info(&self) -> Value {
        let Some(key) = &self.key else {
            return json!({"session": self.sid});
        };
        let told: Value = serde_json::from_str(&key.told).unwrap_or_default();
        json!({"session": self.sid, "usage": self.usage, "key": told})
    }

    fn hold(&self, end: BorrowedFd<'_>, inode: u64) -> Result<()> {
        let sid = self.sid;
        let notice = format!(r#"{{"event":"hold","sid":{sid},"end":{inode}}}"#);
        self.upstream.tell_text(&notice, &[end])
    }

    fn ended(&self, end: u64, left: usize, released: bool) {
        let sid = self.sid;
        // A supervisor that is gone does not care.
        let _ = self.upstream.tell_text(
            &format!(
                r#"{{"event":"ended","sid":{sid},"end":{end},"ends_left":{left},"released":{released}}}"#
            ),
            &[],
        );
        if left == 0 {
            if let Some(sessions) = self.sessions.upgrade() {
                sessions.forget(self.sid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptofd_core::table::find;

    /// Every op on every kind of algorithm, and what it takes.
    #[test]
    fn every_op_has_its_usage() {
        let encrypt = Some(Direction::Encrypt);
        let decrypt = Some(Direction::Decrypt);
        let both = Need::All(&["encrypt", "decrypt"]);
        let table: &[(&str, Op, Option<Direction>, Need)] = &[
            (
                "gcm(aes)",
                Op::Encrypt,
                None,
                Need::All(&["caller-iv", "encrypt", "decrypt"]),
            ),
            ("gcm(aes)", Op::Decrypt, None, Need::All(&["decrypt"])),
            ("sha256", Op::HashKey, None, Need::All(&["digest"])),
            ("sha256", Op::Update, None, Need::All(&["digest"])),
            ("shake128", Op::Finish, None, Need::All(&["digest"])),
            ("rsa", Op::Sign, None, Need::All(&["sign"])),
            ("rsa", Op::SignDigest, None, Need::All(&["sign-digest"])),
            ("rsa", Op::VerifyDigest, None, Need::All(&["verify"])),
            ("rsa", Op::Decrypt, None, Need::All(&["decrypt"])),
            ("ed25519", Op::VerifySignature, None, Need::All(&["verify"])),
            ("ed25519", Op::PublicKey, None, Need::Nothing),
            ("x25519", Op::Agree, None, Need::All(&["derive-bytes"])),
            (
                "ml-kem-768",
                Op::Encapsulate,
                None,
                Need::All(&["derive-bytes"]),
            ),
            (
                "ml-kem-768",
                Op::Decapsulate,
                None,
                Need::All(&["derive-bytes"]),
            ),
            ("gcm(aes)", Op::Seal, None, Need::All(&["encrypt"])),
            ("gcm(aes)", Op::Unseal, None, Need::All(&["decrypt"])),
            ("cbc(aes)", Op::Encrypt, None, Need::All(&["encrypt"])),
            ("cbc(aes)", Op::Decrypt, None, Need::All(&["decrypt"])),
            (
                "cbc(aes)",
                Op::StreamBegin,
                encrypt,
                Need::All(&["encrypt"]),
            ),
            (
                "cbc(aes)",
                Op::StreamBegin,
                decrypt,
                Need::All(&["decrypt"]),
            ),
            (
                "ctr(aes)",
                Op::Encrypt,
                None,
                Need::All(&["encrypt", "decrypt"]),
            ),
            (
                "ctr(aes)",
                Op::StreamBegin,
                encrypt,
                Need::All(&["encrypt", "decrypt"]),
            ),
            (
                "cfb(aes)",
                Op::Decrypt,
                None,
                Need::All(&["encrypt", "decrypt"]),
            ),
            ("chacha20", Op::Decrypt, None, both),
            ("hmac(sha256)", Op::Digest, None, Need::All(&["sign"])),
            ("hmac(sha256)", Op::Finish, None, Need::All(&["sign"])),
            ("hmac(sha256)", Op::Peek, None, Need::All(&["sign"])),
            ("hmac(sha256)", Op::Verify, None, Need::All(&["verify"])),
            (
                "hmac(sha256)",
                Op::Update,
                None,
                Need::Any(&["sign", "verify"]),
            ),
            ("kw(aes)", Op::Wrap, None, Need::All(&["encrypt"])),
            ("kw(aes)", Op::Unwrap, None, Need::All(&["decrypt"])),
            (
                "hkdf(sha256)",
                Op::Derive,
                None,
                Need::All(&["derive-bytes"]),
            ),
            ("gcm(aes)", Op::Info, None, Need::Nothing),
            ("gcm(aes)", Op::Clone, None, Need::Nothing),
        ];
        for (algorithm, op, direction, expected) in table {
            let needed = need(*op, *direction, find(algorithm).unwrap());
            assert_eq!(needed, *expected, "{algorithm} {}", op.name());
        }
    }
}
