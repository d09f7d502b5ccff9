"""Sessions: who may open one on what, the recipe that a worker gets, and what lives."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import itertools
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptofd.broker import rules, terms
from cryptofd.broker.audit import Audit, members
from cryptofd.broker.backend import Backend, Made, session_members, to_base64
from cryptofd.broker.keys import Caller, Keys, made_by_worker, spent, without_unknown
from cryptofd.broker.packets import Packet
from cryptofd.broker.policy import Numbers, Policy, over
from cryptofd.broker.refusal import invalid, refusal, refused
from cryptofd.broker.store import Store, Stored
from cryptofd.broker.who import Peer

_log = logging.getLogger("cryptofd.broker")

#: Uses that are leased for a session when it is opened, and what part of all at most: one that does
#: little must not spend what others need. The worker asks for more as it needs them.
LEASE = 64
_PART = 16

#: Decisions that are remembered until policy or store change.
_REMEMBERED = 4096

_HARDWARE = ("any", "prefer", "require", "forbid")
_PADDING = ("pkcs7", "none")


@dataclass(frozen=True)
class Live:
    """A session that lives."""

    sid: int
    uid: int
    pid: int
    domain: str
    algorithm: str
    #: The id of the version of the key, and the key's name.
    key: str | None = None
    name: str | None = None
    opened: int | None = None
    #: A socket of the kernel's, which nobody takes back.
    direct: bool = False


@dataclass(frozen=True)
class _Wanted:
    """A session that may be, and the recipe for it."""

    uid: int
    pid: int
    unit: str | None
    domain: str
    recipe: dict[str, Any]
    key: str | None
    name: str | None
    direct: bool = False
    #: What the audit will say of it.
    logged: str = ""


@dataclass(frozen=True)
class _Decided:
    """A session that was decided on before, and what it was decided by."""

    wanted: _Wanted
    stored: Stored
    #: The request for it.
    request: str


@dataclass
class Sessions:
    """The sessions of this broker."""

    store: Store
    policy: Policy
    audit: Audit
    backend: Backend
    keys: Keys
    live: dict[int, Live] = field(default_factory=dict)
    opened: int = 0
    _of_uid: Counter[int] = field(default_factory=Counter)
    _opening: Counter[int] = field(default_factory=Counter)
    #: Sessions that ended before we heard of them: their notices overtook the answers.
    _over: set[int] = field(default_factory=set)
    #: What was decided since policy and store changed: most calls ask what was asked before.
    _decided: dict[tuple[Any, ...], _Decided] = field(default_factory=dict)
    _decided_by: tuple[int, int] = (0, 0)
    #: Numbers of direct sessions, which the supervisor knows nothing of.
    _direct_numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1 << 48))

    async def recover(self) -> None:
        """Learn of the sessions that a broker before this one opened."""
        answer = await self.backend.ask_supervisor("sessions")
        for values in answer.list("sessions"):
            with contextlib.suppress(OSError):
                one = Packet(values if isinstance(values, dict) else {})
                recipe = Packet(one.object("recipe_public"))
                who = Packet(recipe.object("who"))
                key = recipe.fields.get("key")
                about = key if isinstance(key, dict) else {}
                stored = self.store.get(str(about.get("id")))
                self._begin(
                    Live(
                        one.integer("sid"),
                        who.integer("uid"),
                        who.integer("pid"),
                        one.text("domain", 256),
                        recipe.text("algorithm", 128),
                        None if stored is None else stored.id,
                        None if stored is None else stored.name,
                    )
                )

    async def open(
        self, caller: Caller, *, info: bool | None = None, **asked: Any
    ) -> tuple[Made, int | None]:
        """A session; of a direct one also the size of its tags."""
        wanted = self._wanted(caller, **asked)
        if wanted.direct:
            return await self._direct(caller, wanted)
        return await self._open(wanted, bool(info)), None

    def begin(
        self,
        caller: Caller,
        then: Callable[[Made | OSError], None],
        *,
        info: bool | None = None,
        **asked: Any,
    ) -> None:
        """As open(), without a task: ``then`` gets what was made, or the error."""
        wanted, request = self._remembered(caller, bool(info), **asked)

        def made(outcome: Made | OSError) -> None:
            self._count_opening(wanted.uid, -1)
            if not isinstance(outcome, OSError):
                try:
                    self._made(wanted, outcome)
                except OSError as error:
                    outcome = error
            then(outcome)

        self._count_opening(wanted.uid, 1)
        try:
            self.backend.begin_session(wanted.domain, wanted.recipe, bool(info), made, request)
        except BaseException:
            self._count_opening(wanted.uid, -1)
            raise

    def _remembered(
        self,
        caller: Caller,
        info: bool,
        *,
        key: str | None,
        algorithm: str | None,
        version: int | None,
        options: terms.SessionOptions | None,
        usage: list[str] | None,
    ) -> tuple[_Wanted, str | None]:
        """The session that is asked for, if it may be, and the request for it if it is at hand.

        The decision is the same as long as policy and store are; what else it hangs on is looked
        at each time: the key's end and the number of sessions.
        """
        decided_by = (self.policy.readings, self.store.changes)
        if decided_by != self._decided_by or len(self._decided) >= _REMEMBERED:
            self._decided.clear()
            self._decided_by = decided_by
        words = None if usage is None else tuple(usage)
        case = (caller.peer, caller.narrowed, info, key, algorithm, version, words)
        known = self._decided.get(case)
        if known is not None:
            self.keys.check_time(known.stored)
            self._check_number(caller.peer)
            return known.wanted, known.request
        wanted = self._wanted(
            caller, key=key, algorithm=algorithm, version=version, options=options, usage=usage
        )
        # A use limit is leased from each time; an owner's name may become another's.
        stored = None if wanted.key is None else self.store.get(wanted.key)
        if stored is None or wanted.recipe["lease"] is not None or "/" in str(key):
            return wanted, None
        request = session_members(wanted.domain, wanted.recipe, info)
        if options is None and request is not None:
            self._decided[case] = _Decided(wanted, stored, request)
        return wanted, request

    def _wanted(
        self,
        caller: Caller,
        *,
        key: str | None,
        algorithm: str | None,
        version: int | None,
        options: terms.SessionOptions | None,
        usage: list[str] | None,
    ) -> _Wanted:
        """The session that is asked for, if it may be."""
        direct = options is not None and bool(options.direct)
        if key is None:
            if direct:
                raise invalid("a direct session holds a key: name one")
            if algorithm is None or usage is not None or version is not None:
                raise invalid(
                    "name a key, or an algorithm that takes none (then no usage, version)"
                )
            self._keyless(algorithm)
            none = {"key": None, "blob": None, "public": None}
            return self._recipe(caller, none, algorithm, [], options, None)
        stored = self.keys.find(caller, key, "use", version)
        self.keys.check_time(stored)
        own = stored.attributes["algorithm"]
        granted = self._usage(stored.attributes, stored.current, usage, algorithm or own)
        if algorithm is None:
            algorithm = own
        elif algorithm != own and granted != ["digest"]:
            raise refused(f"{stored.name} is bound to {own}; it does not serve {algorithm}")
        if not granted:
            what = ", ".join(stored.attributes["usage"])
            if stored.current:
                raise refused(
                    f"{stored.name} does nothing in a session: it may {what}; wrap, unwrap and "
                    "derive are calls of the broker"
                )
            raise refusal(
                errno.EKEYREVOKED,
                f"{stored.name} version {stored.version} is old and may {what}: nothing is left; "
                "leave the version out for the newest",
            )
        self.policy.require(caller.peer, algorithm=own, bits=stored.attributes["bits"])
        if options is not None and options.tag_size not in (None, stored.attributes["tag_size"]):
            raise refused(f"the tag size belongs to {stored.name}: it is fixed when a key is made")
        lease = None
        material: dict[str, Any] = {
            "key": stored.attributes,
            "blob": to_base64(stored.blob),
            "public": None if stored.public is None else to_base64(stored.public),
        }
        if direct:
            if not stored.current or algorithm != own:
                raise refused(
                    f"{stored.name} version {stored.version} as {algorithm}: a direct session is "
                    "on the newest version, as what it is"
                )
            recipe = self._recipe(
                caller, material, algorithm, granted, options, None, stored.id, stored.name
            )
            return dataclasses.replace(recipe, direct=True)
        if stored.current and "decrypt" in granted:
            # What an old version sealed is unsealed through the session on the newest.
            material["older"] = [
                {"key": old.attributes, "blob": to_base64(old.blob)}
                for old in self.store.versions(stored.owner, stored.label)
                if not old.current
            ]
        if stored.attributes["uses"] is not None:
            block = max(1, min(LEASE, stored.attributes["uses"] // _PART))
            uses = self.store.lease(stored.id, block)
            if not uses:
                raise spent(stored)
            lease = {"key": stored.id, "uses": uses}
        return self._recipe(
            caller, material, algorithm, granted, options, lease, stored.id, stored.name
        )

    async def hand_over(
        self,
        caller: Caller,
        *,
        algorithm: str,
        fd: int,
        options: terms.SessionOptions | None,
    ) -> Made:
        """A session on a raw key, which lives as long as the session."""
        if caller.narrowed is not None:
            raise refused("this connection was narrowed: it takes no key of its own")
        if options is not None and options.direct:
            raise invalid("a direct session is on a stored key")
        self.policy.require(caller.peer, algorithm=algorithm)
        attributes = self.keys.attributes(
            caller.peer.owner,
            "handed-over",
            algorithm,
            bits=None,
            usage=self._everything(algorithm),
            origin="imported",
            lasting="session",
        )
        answer = await self.backend.ask(
            self.policy.domain(caller.peer), "import", (fd,), attributes=without_unknown(attributes)
        )
        half = frozenset({"type"}) if attributes["type"] == "pair" else frozenset()
        stored = made_by_worker(answer, attributes, None, half)
        self.policy.require(caller.peer, algorithm=algorithm, bits=stored.attributes["bits"])
        material = {
            "key": stored.attributes,
            "blob": to_base64(stored.blob),
            "public": None if stored.public is None else to_base64(stored.public),
        }
        usage = attributes["usage"]
        return await self._open(
            self._recipe(caller, material, algorithm, usage, options, None, raw=True)
        )

    def _recipe(
        self,
        caller: Caller,
        material: dict[str, Any],
        algorithm: str,
        usage: list[str],
        options: terms.SessionOptions | None,
        lease: dict[str, Any] | None,
        key: str | None = None,
        name: str | None = None,
        raw: bool = False,
    ) -> _Wanted:
        peer = caller.peer
        asked = self._options(caller, algorithm, options)
        numbers = self._check_number(peer)
        domain = self.policy.domain(peer)
        recipe = {
            **material,
            "algorithm": algorithm,
            "usage": usage,
            "session": asked,
            "lease": lease,
            "limits": {"in_flight": numbers.in_flight, "ring": numbers.ring},
            "who": {"uid": peer.uid, "pid": peer.pid},
            "raw": raw,
        }
        logged = members(
            {
                "uid": peer.uid, "pid": peer.pid, "unit": peer.unit, "key": name, "id": key,
                "algorithm": algorithm, "usage": usage,
            }
        )  # fmt: skip
        return _Wanted(peer.uid, peer.pid, peer.unit, domain, recipe, key, name, logged=logged)

    def _check_number(self, peer: Peer) -> Numbers:
        """The limits of ``peer``; EDQUOT if it has as many sessions as it may."""
        numbers = self.policy.numbers(peer)
        if self._of_uid[peer.uid] + self._opening[peer.uid] >= numbers.sessions:
            raise over("sessions", numbers.sessions, "close some (cryptofd sessions)")
        return numbers

    async def _open(self, wanted: _Wanted, info: bool = False) -> Made:
        self._count_opening(wanted.uid, 1)
        try:
            made = await self.backend.session(wanted.domain, wanted.recipe, info)
        finally:
            self._count_opening(wanted.uid, -1)
        self._made(wanted, made)
        return made

    async def _direct(self, caller: Caller, wanted: _Wanted) -> tuple[Made, int | None]:
        """A socket of the kernel's with the key in it. The worker checks that nothing of the key's
        is lost by it; who may have one is the policy's to say."""
        recipe, peer = wanted.recipe, caller.peer
        algorithm, asked = recipe["algorithm"], recipe["session"]
        self.policy.require(
            peer, algorithm=algorithm, engine="kernel", direct=True,
            hardware=asked.get("hardware") in ("prefer", "require"),
        )  # fmt: skip
        try:
            holder = os.pidfd_open(peer.pid)
        except OSError:
            raise refused(f"{peer} is gone: a direct session is listed by who got it") from None
        try:
            needed = ("key", "blob", "usage", "session")
            answer = await self.backend.ask(
                wanted.domain, "direct", **{name: recipe[name] for name in needed}
            )
            driver = answer.text("driver", 128)
            sid, fd = next(self._direct_numbers), answer.take(1)[0]
            self._log(wanted, sid, fd, engine="kernel", direct=True, driver=driver)
        except BaseException:
            os.close(holder)
            raise
        loop = asyncio.get_running_loop()

        def over_with() -> None:
            loop.remove_reader(holder)
            os.close(holder)
            self.ended(sid)

        loop.add_reader(holder, over_with)
        return Made(sid, fd), recipe["key"]["tag_size"]

    def _count_opening(self, uid: int, change: int) -> None:
        self._opening[uid] += change
        if not self._opening[uid]:
            del self._opening[uid]

    def _made(self, wanted: _Wanted, made: Made) -> None:
        """Log a session that the worker serves now, and count it."""
        try:
            self._log(wanted, made.sid, made.fd, engine=wanted.recipe["session"].get("engine"))
        except BaseException:
            with contextlib.suppress(OSError):
                self.backend.tell_supervisor("close", sid=made.sid)
            raise

    def _log(self, wanted: _Wanted, sid: int, fd: int, **more: Any) -> None:
        """Log what is about to leave, and count it; what may not leave is closed."""
        algorithm = wanted.recipe["algorithm"]
        try:
            # No line, no session.
            self.audit.write_members("open", f"{wanted.logged}{members({'session': sid, **more})}")
            if wanted.key is not None and self.store.get(wanted.key) is None:
                raise refusal(errno.EKEYREVOKED, f"{wanted.name} was deleted meanwhile")
        except BaseException:
            os.close(fd)
            raise
        self.opened += 1
        self._begin(
            Live(
                sid, wanted.uid, wanted.pid, wanted.domain, algorithm, wanted.key, wanted.name,
                int(time.time()), wanted.direct,
            )
        )  # fmt: skip

    def _usage(
        self,
        attributes: Mapping[str, Any],
        current: bool,
        asked: list[str] | None,
        algorithm: str,
    ) -> list[str]:
        """What the session may do: what the key may, as far as asked and its version still does."""
        may = set(attributes["usage"]) - rules.WRAPPING - {"derive"}
        if algorithm != attributes["algorithm"]:
            # The key as what a hash takes in (NCR's HASHABLE).
            hashes = rules.family(algorithm).kind in ("hash", "xof")
            may &= {"digest"} if hashes else set()
        elif asked is None:
            may.discard("digest")
        if not current:
            may &= rules.OLD_VERSION
        if asked is not None:
            wanted = set(asked)
            if beyond := wanted - set(attributes["usage"]):
                raise refused(
                    f"the key may not {', '.join(sorted(beyond))[:128]}, but "
                    f"{', '.join(attributes['usage'])}"
                )
            may &= wanted
        return sorted(may)

    def _keyless(self, algorithm: str) -> None:
        of = rules.family(algorithm)
        if of.kind not in ("hash", "xof", "rng"):
            raise invalid(f"{algorithm} needs a key: name one, or hand one over")

    def _everything(self, algorithm: str) -> list[str]:
        """All that a key of one's own may do in a session: its holder could do it without us."""
        of = rules.family(algorithm)
        usage = {
            "aead": ["encrypt", "decrypt", rules.CALLER_IV],
            "cipher": ["encrypt", "decrypt", rules.CALLER_IV],
            "mac": ["sign", "verify"],
            "kdf": ["derive", "derive-bytes"],
            "streaming": ["encrypt", "decrypt"],
            "rsa": ["encrypt", "decrypt", "sign", "sign-digest", "verify"],
            "signature": ["sign", "sign-digest", "verify"],
            "message-signature": ["sign", "verify"],
            "agreement": ["derive", "derive-bytes"],
            "kem": ["derive", "derive-bytes"],
        }.get(of.kind)
        if usage is None:
            raise invalid(
                f"a key of {algorithm} cannot be handed over: it does nothing in a session"
            )
        return usage

    def _options(
        self, caller: Caller, algorithm: str, given: terms.SessionOptions | None
    ) -> dict[str, Any]:
        options = given or terms.SessionOptions()
        asked = {name: value for name, value in vars(options).items() if value is not None}
        for name, choices in (("hardware", _HARDWARE), ("padding", _PADDING)):
            if name in asked and asked[name] not in choices:
                raise invalid(f"{name} is one of {', '.join(choices)}")
        for name in ("tag_size", "digest_size"):
            if name in asked and not 0 < asked[name] <= 1 << 20:
                raise invalid(f"{name} is a number of bytes")
        for name in ("engine", "driver"):
            if name in asked and not (0 < len(asked[name]) <= 128 and asked[name].isprintable()):
                raise invalid(f"{name} is a name")
        peer = caller.peer
        hardware = asked.get("hardware") in ("prefer", "require")
        self.policy.require(
            peer, algorithm=algorithm, engine=asked.get("engine"), hardware=hardware
        )
        asked.pop("direct", None)
        return {**asked, **self.policy.narrowing(peer, asked)}

    # What lives

    def _begin(self, one: Live) -> None:
        if one.sid in self._over:
            self._over.discard(one.sid)
            return
        self.live[one.sid] = one
        self._of_uid[one.uid] += 1

    def ended(self, sid: int) -> None:
        """The last descriptor of a session was closed, or its domain given up."""
        one = self.live.pop(sid, None)
        if one is None:
            # Only while an answer may still come.
            if self._opening and len(self._over) < 4096:
                self._over.add(sid)
            return
        self._of_uid[one.uid] -= 1
        if not self._of_uid[one.uid]:
            del self._of_uid[one.uid]

    def lease(self, domain: str, key: str, uses: int) -> int:
        """More uses for a worker: only of keys that its domain has a session on."""
        if not any(one.key == key and one.domain == domain for one in self.live.values()):
            raise refusal(errno.EPERM, "this domain has no session on that key")
        return self.store.lease(key, max(uses, 0))

    async def end_on(self, key: str) -> None:
        """End all sessions on a version of a key."""
        for one in [one for one in self.live.values() if one.key == key]:
            if one.direct:
                # The key is gone from here; what was given away stays with who holds it.
                self.audit.write("not-revoked", uid=one.uid, pid=one.pid, session=one.sid, id=key)
            else:
                await self._close(one.sid)

    async def end_expired(self, now: float) -> None:
        """End the sessions on keys whose time is over: the worker knows the end that was set when
        they were opened, and it may have come earlier since."""
        expired = []
        for one in self.live.values():
            stored = None if one.key is None else self.store.get(one.key)
            expires = None if stored is None else stored.attributes["expires"]
            if expires is not None and now >= expires:
                expired.append(one.sid)
        for sid in expired:
            await self._close(sid)

    async def close(self, caller: Caller, sid: int) -> None:
        """End a session of the caller's own, or any for an administrator."""
        self._revocable(await self._mine(caller, sid))
        self.audit.write("close", uid=caller.peer.uid, pid=caller.peer.pid, session=sid)
        await self._close(sid)

    async def move(self, caller: Caller, sid: int, engine: str) -> None:
        """Serve a session by another engine."""
        one = await self._mine(caller, sid)
        self._revocable(one)
        self.policy.require(caller.peer, algorithm=one.algorithm, engine=engine)
        await self.backend.ask_supervisor("move", sid=sid, engine=engine)
        self.audit.write(
            "move", uid=caller.peer.uid, pid=caller.peer.pid, session=sid, engine=engine
        )

    async def _mine(self, caller: Caller, sid: int) -> Live:
        one = self.live.get(sid)
        mine = one is not None and one.uid == caller.peer.uid and caller.narrowed is None
        if one is None or not (
            mine or (caller.narrowed is None and self.policy.admin(caller.peer))
        ):
            raise invalid(f"{caller.peer} has no session {sid}; cryptofd sessions lists them")
        return one

    @staticmethod
    def _revocable(one: Live) -> None:
        if one.direct:
            raise refused(
                f"session {one.sid} is direct: a socket of the kernel's, which pid {one.pid} has "
                "or gave away, and which cannot be taken back; end the process, rotate the key"
            )

    async def _close(self, sid: int) -> None:
        try:
            await self.backend.ask_supervisor("close", sid=sid)
        except OSError as error:
            _log.warning("session %d: %s", sid, error.strerror)

    async def listed(self, caller: Caller, all_of_them: bool) -> list[terms.Session]:
        """The caller's sessions, or all of them."""
        if all_of_them and not self.policy.admin(caller.peer):
            raise refused(
                f"only an administrator sees the sessions of others; {caller.peer} is none"
            )
        counted: dict[Any, tuple[int, int, int]] = {}
        with contextlib.suppress(OSError):
            answer = await self.backend.ask_supervisor("sessions")
            counted = {one.get("sid"): counts(one) for one in answer.list("sessions")}
        return [
            terms.Session(
                one.sid, one.uid, one.pid, one.domain, one.algorithm, one.name, one.opened,
                one.direct, *counted.get(one.sid, (0, 0, 0)),
            )
            for one in self.live.values()
            if all_of_them or one.uid == caller.peer.uid
        ][:PAGE]  # fmt: skip

    def count(self) -> int:
        """How many live."""
        return len(self.live)


def counts(values: Mapping[str, Any]) -> tuple[int, int, int]:
    """Requests done, bytes, requests refused, as the supervisor read them from a worker's page. The
    worker may have written anything there."""
    found = values.get("counts")
    if not isinstance(found, dict):
        return 0, 0, 0
    done, size, refusals = (found.get(name) for name in ("operations", "bytes", "refused"))
    if type(done) is int and type(size) is int and type(refusals) is int:
        return done, size, refusals
    return 0, 0, 0


#: Sessions of one answer.
PAGE = 256
