"""Who may do what: policy files in TOML, their sources intersected, every decision explained.

    level = "FUTURE"                  # LEGACY, DEFAULT, FUTURE, FIPS; the system's applies too

    [[rule]]
    uid = [1000, "alice"]             # who: all that is said must hold; nothing said is everybody
    group = "web"
    unit = "nginx.service"
    algorithms = ["gcm(aes)", "hmac(*)"]
    keys = { "root/tls*" = ["use"] }  # rights on keys of others: use, manage
    own = ["use"]                     # rights on one's own keys; use and manage if no rule says
    engines = ["software"]
    hardware = false
    direct = true                     # nobody has it who is not given it
    admin = true
    domain = "web"                    # a worker shared by those whom this rule names
    sessions = 100                    # numbers: the smallest holds
    keys_max = 20
    in_flight = 1048576               # bytes
    ring = 4194304                    # bytes
    deny = true                       # nothing at all

What rules restrict intersects, what they give (keys, direct, admin) adds up. A file that others can
write is refused. A file that broke keeps the policy that was.
"""

from __future__ import annotations

import errno
import fnmatch
import grp
import os
import pathlib
import pwd
import stat
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cryptofd.broker import rules
from cryptofd.broker.refusal import refusal, refused
from cryptofd.broker.who import Peer
from cryptofd.errors import CryptoFDError

SYSTEM = pathlib.Path("/etc/cryptofd/policy.toml")
_CRYPTO_POLICIES = (
    pathlib.Path("/etc/crypto-policies/state/current"),
    pathlib.Path("/etc/crypto-policies/config"),
)
_FIPS_ENABLED = pathlib.Path("/proc/sys/crypto/fips_enabled")
_LARGEST_FILE = 1 << 20

RIGHTS = ("use", "manage", "admin")


@dataclass(frozen=True)
class Level:
    """A level as Fedora's crypto-policies name it: bits of security that a key must have."""

    name: str
    strength: int
    weak: bool
    fips: bool


LEVELS: Mapping[str, Level] = {
    level.name: level
    for level in (
        Level("LEGACY", 63, True, False),
        Level("DEFAULT", 112, True, False),
        Level("FUTURE", 128, False, False),
        Level("FIPS", 112, True, True),
    )
}


@dataclass(frozen=True)
class Numbers:
    """Limits of one uid: sessions, stored keys, bytes in flight, bytes of rings."""

    sessions: int = 1024
    keys_max: int = 1000
    in_flight: int = 256 << 20
    ring: int = 64 << 20


_NUMBERS = ("sessions", "keys_max", "in_flight", "ring")


@dataclass(frozen=True)
class Rule:
    """One [[rule]] of a file."""

    name: str
    source: str
    uids: frozenset[int] | None = None
    gids: frozenset[int] | None = None
    units: tuple[str, ...] | None = None
    algorithms: tuple[str, ...] | None = None
    engines: tuple[str, ...] | None = None
    keys: tuple[tuple[str, frozenset[str]], ...] = ()
    own: frozenset[str] | None = None
    hardware: bool | None = None
    direct: bool | None = None
    admin: bool = False
    deny: bool = False
    domain: str | None = None
    numbers: tuple[tuple[str, int], ...] = ()

    def speaks_of(self, peer: Peer) -> bool:
        """Whether the rule is about ``peer``."""
        return (
            (self.uids is None or peer.uid in self.uids)
            and (self.gids is None or bool(self.gids & peer.groups))
            and (
                self.units is None
                or (
                    peer.unit is not None
                    and any(fnmatch.fnmatchcase(peer.unit, unit) for unit in self.units)
                )
            )
        )


@dataclass(frozen=True)
class Spoken:
    """What a rule said to one question."""

    source: str
    rule: str
    verdict: str
    says: str


@dataclass
class Answer:
    """A decision: everything that spoke, and whether any of it refused."""

    spoken: list[Spoken] = field(default_factory=list)

    @property
    def allowed(self) -> bool:
        return not any(one.verdict == "refuses" for one in self.spoken)

    def say(self, source: str, rule: str, allows: bool, says: str) -> None:
        self.spoken.append(Spoken(source, rule, "allows" if allows else "refuses", says))

    def require(self) -> None:
        """EPERM with the first rule that refused."""
        for one in self.spoken:
            if one.verdict == "refuses":
                raise refused(
                    f"{one.says} ({one.source}, {one.rule}); cryptofd policy check explains it"
                )


@dataclass(frozen=True)
class Parsed:
    """One source."""

    name: str
    level: Level | None
    rules: tuple[Rule, ...]


#: Decisions that are remembered until the files change.
_REMEMBERED = 4096


class Broken(Exception):
    """A policy that cannot be used; the text says why."""


def read(path: pathlib.Path) -> Parsed | None:
    """Read one file; None if there is none. Broken if it is wrong or others can write it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Broken(f"{path}: {error.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise Broken(f"{path} is no file")
        for where, which in ((path, about), (path.parent, path.parent.stat())):
            _only_ours(where, which)
        text = file.read(_LARGEST_FILE + 1)
    if len(text) > _LARGEST_FILE:
        raise Broken(f"{path} is longer than {_LARGEST_FILE} bytes")
    try:
        return parse(text.decode(), str(path))
    except UnicodeDecodeError as error:
        raise Broken(f"{path} is not UTF-8 at byte {error.start}") from None


def _only_ours(path: pathlib.Path, about: os.stat_result) -> None:
    if about.st_uid not in {0, os.geteuid()}:
        raise Broken(f"{path} belongs to uid {about.st_uid}, who could write it; chown it to root")
    sticky = stat.S_ISDIR(about.st_mode) and about.st_mode & stat.S_ISVTX
    if about.st_mode & 0o022 and not sticky:
        raise Broken(f"{path} can be written by others; chmod go-w it")


def parse(text: str, name: str) -> Parsed:
    """Of TOML; Broken with the place for anything that is not understood."""
    try:
        top = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise Broken(f"{name}: {error}") from None
    level = None
    if "level" in top:
        chosen = top.pop("level")
        if not isinstance(chosen, str) or chosen not in LEVELS:
            raise Broken(f"{name}: level is one of {', '.join(LEVELS)}")
        level = LEVELS[chosen]
    listed = top.pop("rule", [])
    if not isinstance(listed, list) or not all(isinstance(rule, dict) for rule in listed):
        raise Broken(f"{name}: rules are written as [[rule]]")
    if top:
        raise Broken(f"{name}: {', '.join(sorted(top))[:128]} is not understood")
    return Parsed(name, level, tuple(_rule(rule, n, name) for n, rule in enumerate(listed, 1)))


def _rule(values: dict[str, Any], number: int, source: str) -> Rule:
    here = f"rule {number}"
    values = dict(values)
    name = values.pop("name", here)

    def broken(what: str) -> Broken:
        return Broken(f"{source}: {here}: {what}")

    def texts(key: str) -> tuple[str, ...] | None:
        value = values.pop(key, None)
        if value is None:
            return None
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise broken(f"{key} is text, or a list of it")
        return tuple(value)

    def flag(key: str) -> bool | None:
        value = values.pop(key, None)
        if value is not None and not isinstance(value, bool):
            raise broken(f"{key} is true or false")
        return value

    def ids(key: str, look_up: Any) -> frozenset[int] | None:
        value = values.pop(key, None)
        if value is None:
            return None
        found = set()
        for one in value if isinstance(value, list) else [value]:
            if type(one) is int:
                found.add(one)
            elif isinstance(one, str):
                try:
                    found.add(look_up(one))
                except KeyError:
                    # Not an error: the file may be shared by hosts. It names nobody here.
                    continue
            else:
                raise broken(f"{key} is a number, a name, or a list of them")
        return frozenset(found)

    def rights(value: Any, what: str) -> frozenset[str]:
        if not isinstance(value, list) or not set(map(str, value)) <= set(RIGHTS):
            raise broken(f"rights {what} are a list of {', '.join(RIGHTS)}")
        return frozenset(value)

    if not isinstance(name, str):
        raise broken("name is text")
    keys = values.pop("keys", {})
    if not isinstance(keys, dict) or not all("/" in key for key in keys):
        raise broken('keys is a table of "OWNER/LABEL" = [rights]')
    numbers = []
    for key in _NUMBERS:
        value = values.pop(key, None)
        if value is not None:
            if type(value) is not int or value < 0:
                raise broken(f"{key} is a number, not below 0")
            numbers.append((key, value))
    own = values.pop("own", None)
    domain = values.pop("domain", None)
    if domain is not None and not isinstance(domain, str):
        raise broken("domain is text")
    rule = Rule(
        name,
        source,
        uids=ids("uid", lambda one: pwd.getpwnam(one).pw_uid),
        gids=ids("group", lambda one: grp.getgrnam(one).gr_gid),
        units=texts("unit"),
        algorithms=texts("algorithms"),
        engines=texts("engines"),
        keys=tuple((_owned(key), rights(value, f"on {key}")) for key, value in keys.items()),
        own=None if own is None else rights(own, "on own keys"),
        hardware=flag("hardware"),
        direct=flag("direct"),
        admin=bool(flag("admin")),
        deny=bool(flag("deny")),
        domain=None if domain is None else f"group:{rules.label(domain)}",
        numbers=tuple(numbers),
    )
    if values:
        raise broken(f"{', '.join(sorted(values))[:128]} is not understood")
    return rule


def _owned(pattern: str) -> str:
    owner, _, label = pattern.partition("/")
    return f"{owner_of(owner)}/{label}"


def owner_of(text: str) -> str:
    """``uid:N`` of a number, a name, or uid:N itself; a pattern stays one."""
    text = text.removeprefix("uid:")
    if text.isdigit() and len(text) <= 10:
        return f"uid:{int(text)}"
    if "*" in text:
        return text
    try:
        return f"uid:{pwd.getpwnam(text).pw_uid}"
    except (KeyError, ValueError):
        return f"uid:nobody-called-{text[:64]}"


def system_level() -> Level | None:
    """The level of the system's crypto-policies, or FIPS if the kernel says so."""
    try:
        if _FIPS_ENABLED.read_text().strip() == "1":
            return LEVELS["FIPS"]
    except OSError:
        pass
    for path in _CRYPTO_POLICIES:
        try:
            text = path.read_text()
        except OSError:
            continue
        for line in text.splitlines():
            # Subpolicies (DEFAULT:NO-SHA1) are the business of the libraries that know them.
            word = line.partition("#")[0].strip().partition(":")[0].upper()
            if word in LEVELS:
                return LEVELS[word]
    return None


class Policy:
    """The policy in force, of files that are looked at again before each call."""

    def __init__(
        self, sources: Sequence[pathlib.Path], *, administrators: Iterable[int] = (0,)
    ) -> None:
        self.sources = tuple(sources)
        self._watched = [os.fspath(path) for path in (*self.sources, *_CRYPTO_POLICIES)]
        self.administrators = frozenset(administrators)
        #: Why the files as they are now are not in force; None when they are.
        self.problem: str | None = None
        #: Counts up with every policy that came into force.
        self.generation = 0
        #: Counts up whenever the files are read again, whatever came of it.
        self.readings = 0
        self._parsed: tuple[Parsed, ...] = ()
        self._closed = False
        self._stamp: tuple[tuple[int, ...] | None, ...] | None = None
        # What was decided since the files changed: most calls ask what was asked before.
        self._allowed: set[tuple[Any, ...]] = set()
        self._numbers: dict[Peer, Numbers] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the files again if they changed. A broken one keeps what was in force."""
        stamp = tuple(map(_stamp_of, self._watched))
        if stamp == self._stamp:
            return
        self._stamp = stamp
        self.readings += 1
        self._allowed.clear()
        self._numbers.clear()
        try:
            parsed = [one for path in self.sources if (one := read(path)) is not None]
            level = system_level()
        except (Broken, CryptoFDError, OSError) as error:
            self.problem = str(error)
            # Nothing was in force yet: then nobody but administrators gets anything.
            self._closed = self.generation == 0
            return
        if level is not None:
            parsed.append(Parsed("the system's crypto-policies", level, ()))
        self._parsed = tuple(parsed)
        self._closed = False
        self.problem = None
        self.generation += 1

    @property
    def level(self) -> str:
        """The levels in force."""
        names = sorted({one.level.name for one in self._levels()})
        return " and ".join(names)

    def _levels(self) -> list[_Leveled]:
        found = [_Leveled(one.name, one.level) for one in self._parsed if one.level is not None]
        return found or [_Leveled("built in", LEVELS["DEFAULT"])]

    def _rules(self, peer: Peer) -> list[Rule]:
        return [rule for one in self._parsed for rule in one.rules if rule.speaks_of(peer)]

    def admin(self, peer: Peer) -> bool:
        """Whether ``peer`` administers this broker."""
        return peer.uid in self.administrators or any(
            rule.admin and not rule.deny for rule in self._rules(peer)
        )

    def numbers(self, peer: Peer) -> Numbers:
        """The limits of ``peer``: of each the smallest that a rule names."""
        found = self._numbers.get(peer)
        if found is not None:
            return found
        said: dict[str, int] = {}
        for rule in self._rules(peer):
            for name, value in rule.numbers:
                said[name] = min(said.get(name, value), value)
        if len(self._numbers) >= _REMEMBERED:
            self._numbers.clear()
        return self._numbers.setdefault(peer, replace(Numbers(), **said))

    def narrowing(self, peer: Peer, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What a session must be opened with although its opener did not ask for it."""
        forced: dict[str, Any] = {}
        for rule in self._rules(peer):
            if rule.engines is not None and "engine" not in asked and "engine" not in forced:
                # The first that is named is the one that is preferred.
                forced["engine"] = next((one for one in rule.engines if "*" not in one), "none")
            if rule.hardware is False:
                forced["hardware"] = "forbid"
        if any(one.level.fips for one in self._levels()):
            forced["fips"] = True
        return forced

    def domain(self, peer: Peer) -> str:
        """The trust domain whose worker serves ``peer``."""
        for rule in self._rules(peer):
            if rule.domain is not None:
                return rule.domain
        return peer.owner

    def rights(self, peer: Peer, owner: str, label: str) -> frozenset[str]:
        """The rights of ``peer`` on a key."""
        if self.admin(peer):
            return frozenset(RIGHTS)
        speaking = self._rules(peer)
        if self._closed or any(rule.deny for rule in speaking):
            return frozenset()
        found: set[str] = set()
        if owner == peer.owner:
            found |= {"use", "manage"}
            for rule in speaking:
                if rule.own is not None:
                    found &= rule.own
        name = f"{owner}/{label}"
        for rule in speaking:
            for pattern, rights in rule.keys:
                if fnmatch.fnmatchcase(name, pattern):
                    found |= rights
        return frozenset(found)

    def check(
        self,
        peer: Peer,
        *,
        algorithm: str | None = None,
        bits: int | None = None,
        key: tuple[str, str] | None = None,
        right: str | None = None,
        engine: str | None = None,
        hardware: bool = False,
        direct: bool = False,
    ) -> Answer:
        """Decide, and say which rules spoke. ``key`` is owner and label."""
        answer = Answer()
        speaking = self._rules(peer)
        if self._closed and not self.admin(peer):
            answer.say("policy", "startup", False, f"no policy is in force: {self.problem}")
        for rule in speaking:
            if rule.deny:
                answer.say(rule.source, rule.name, False, f"{peer} gets nothing")
        if algorithm is not None:
            self._check_algorithm(answer, speaking, algorithm, bits)
        if engine is not None:
            for rule in speaking:
                if rule.engines is not None:
                    ok = any(fnmatch.fnmatchcase(engine, pattern) for pattern in rule.engines)
                    answer.say(
                        rule.source,
                        rule.name,
                        ok,
                        f"engine {engine} is {'' if ok else 'not '}in {', '.join(rule.engines)}",
                    )
        if hardware:
            for rule in speaking:
                if rule.hardware is not None:
                    ok = rule.hardware
                    answer.say(
                        rule.source, rule.name, ok, f"hardware is {'' if ok else 'not '}for {peer}"
                    )
        if direct:
            giving = [rule for rule in speaking if rule.direct]
            refusing = [rule for rule in speaking if rule.direct is False]
            for rule in giving + refusing:
                answer.say(
                    rule.source, rule.name, bool(rule.direct), "direct sessions, not revocable"
                )
            if not giving:
                answer.say("built in", "direct", False, "no rule gives direct sessions")
        if key is not None:
            self._check_key(answer, peer, speaking, *key, right or "use")
        elif right == "admin":
            ok = self.admin(peer)
            answer.say(
                "policy", "administrators", ok, f"{peer} is {'' if ok else 'no '}administrator"
            )
        if not answer.spoken:
            answer.say("built in", "default", True, "no rule speaks against it")
        return answer

    def _check_algorithm(
        self, answer: Answer, speaking: list[Rule], algorithm: str, bits: int | None
    ) -> None:
        of = rules.family(algorithm)
        strength = of.strength if bits is None else rules.strength(algorithm, bits)
        for one in self._levels():
            level = one.level
            if level.fips and not of.fips:
                ok, says = False, f"level FIPS: {algorithm} is not approved in FIPS 140-3 modules"
            elif of.weak is not None and not level.weak:
                ok, says = False, f"level {level.name}: {of.weak}"
            else:
                ok = strength >= level.strength or of.kind == "rng"
                says = (
                    f"level {level.name} asks for {level.strength} bits of security; "
                    f"{algorithm} has {strength}"
                )
            answer.say(one.source, "level", ok, says)
        for rule in speaking:
            if rule.algorithms is not None:
                ok = any(fnmatch.fnmatchcase(algorithm, pattern) for pattern in rule.algorithms)
                listed = ", ".join(rule.algorithms)
                answer.say(
                    rule.source,
                    rule.name,
                    ok,
                    f"{algorithm} is {'' if ok else 'not '}in {listed}",
                )

    def _check_key(
        self,
        answer: Answer,
        peer: Peer,
        speaking: list[Rule],
        owner: str,
        label: str,
        right: str,
    ) -> None:
        name = f"{owner}/{label}"
        if self.admin(peer):
            answer.say("policy", "administrators", True, f"{peer} administers every key")
            return
        ok = right in self.rights(peer, owner, label)
        spoke = False
        if owner == peer.owner:
            for rule in speaking:
                if rule.own is not None and right not in rule.own:
                    answer.spoken.append(
                        Spoken(
                            rule.source,
                            rule.name,
                            "allows" if ok else "refuses",
                            f"one's own keys: no right to {right}",
                        )
                    )
                    spoke = True
            if ok and not spoke:
                answer.say("built in", "owner", True, f"{name} is {peer}'s own")
                spoke = True
        for rule in speaking:
            for pattern, rights in rule.keys:
                if fnmatch.fnmatchcase(name, pattern) and right in rights:
                    answer.say(rule.source, rule.name, True, f"{pattern}: {right}")
                    spoke = True
        if not ok and not any(one.verdict == "refuses" for one in answer.spoken):
            answer.say(
                "built in", "owner", False, f"no rule gives {peer} the right to {right} {name}"
            )

    def require(self, peer: Peer, **asked: Any) -> None:
        """EPERM unless check() allows."""
        case = (peer, *asked.items())
        if case in self._allowed:
            return
        self.check(peer, **asked).require()
        if len(self._allowed) >= _REMEMBERED:
            self._allowed.clear()
        self._allowed.add(case)


@dataclass(frozen=True)
class _Leveled:
    source: str
    level: Level


def _stamp_of(path: str) -> tuple[int, ...] | None:
    try:
        about = os.stat(path)  # noqa: PTH116 - before each call, and a Path is slower
    except OSError:
        return None
    return (
        about.st_dev,
        about.st_ino,
        about.st_size,
        about.st_mtime_ns,
        about.st_ctime_ns,
    )


def over(what: str, limit: int, way_out: str) -> CryptoFDError:
    """EDQUOT."""
    return refusal(errno.EDQUOT, f"the policy allows {limit} {what}; {way_out}")
