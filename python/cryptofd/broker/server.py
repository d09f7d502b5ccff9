"""The broker's process: what it starts with, one method for each call, metrics and status."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import pathlib
import select
import signal
import socket
import sqlite3
import stat
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from asyncvarlink import FileDescriptor, VarlinkInterfaceRegistry
from asyncvarlink.serviceinterface import VarlinkServiceInterface

from cryptofd.broker import audit, interface, kek, rules, terms
from cryptofd.broker.backend import Backend, Made, to_base64
from cryptofd.broker.keys import Caller, Keys
from cryptofd.broker.policy import Policy, owner_of
from cryptofd.broker.refusal import invalid, refusal, refused
from cryptofd.broker.sessions import Sessions, counts
from cryptofd.broker.store import Store
from cryptofd.broker.transport import Limits, Listener, Registry, Then, unexpected
from cryptofd.broker.who import Peer
from cryptofd.version import __version__

_log = logging.getLogger("cryptofd.broker")

#: Bytes of a backup that is read.
_LARGEST = 256 << 20
#: Seconds without a byte after which a backup's descriptor is given up.
_PATIENCE = 30
#: Refusals of one uid, or of one domain's worker, that are logged at once, and then one a second.
_BURST = 20
#: Seconds between heads in the journal.
_HEADS = 60
#: Seconds between attempts to forget key-encryption keys that nothing should need.
_FORGETTING = 10
#: Of Open: the parameters of a plain call, and those of one without any.
_PLAIN: dict[str, type] = {
    "key": str, "algorithm": str, "version": int, "usage": list, "info": bool,
}  # fmt: skip
_NOTHING = dict.fromkeys((*_PLAIN, "options"))


@dataclass
class Config:
    """What a broker starts with."""

    state: pathlib.Path
    supervisor: socket.socket
    listening: Sequence[socket.socket]
    policies: Sequence[pathlib.Path] = ()
    administrators: frozenset[int] = frozenset({0})
    metrics: pathlib.Path | None = None
    #: Where the key-encryption key of a new store comes from.
    kek: str | None = None
    passphrase: int | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass
class _Bucket:
    left: float
    at: float
    passed_over: int = 0

    def take(self) -> bool:
        """Whether one more is logged; if not, it is counted."""
        now = time.monotonic()
        self.left = min(_BURST, self.left + now - self.at)
        self.at = now
        if self.left < 1:
            self.passed_over += 1
            return False
        self.left -= 1
        return True


class Server:
    """One broker."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.store = Store(config.state / "store.sqlite")
        self.policy = Policy(config.policies, administrators=config.administrators)
        self.audit = audit.Audit(config.state / "audit.log", head_out=self._head)
        self.backend = Backend(
            config.supervisor,
            ended=lambda sid: self.sessions.ended(sid),
            lease=lambda domain, key, uses: self.sessions.lease(domain, key, uses),
            reported=self._reported,
            lost=self._supervisor_lost,
        )
        self.keys = Keys(
            self.store,
            self.policy,
            self.audit,
            self.backend,
            lambda key: self.sessions.end_on(key),
        )
        self.sessions = Sessions(self.store, self.policy, self.audit, self.backend, self.keys)
        self.listener: Listener | None = None
        self.calls: Counter[str] = Counter()
        self.refusals: Counter[tuple[str, str]] = Counter()
        self.started = time.time()
        self._head_logged = 0.0
        self._buckets: dict[int, _Bucket] = {}
        self._reports: dict[str, _Bucket] = {}
        self._stopping = asyncio.Event()
        self._metrics: asyncio.Server | None = None
        self._clients = 0
        self._keks: list[kek.Source] = []
        self._rekeying = asyncio.Lock()
        self._forget_at = 0.0

    # Life

    async def start(self) -> None:
        """Everything up to taking the first connection."""
        for problem in self.store.problems:
            _log.error("store: %s", problem)
        if self.policy.problem is not None:
            _log.error("policy: %s; nobody but administrators gets anything", self.policy.problem)
        self._keep_initial_key()
        await self.backend.hello()
        await self._give_keks()
        await self.sessions.recover()
        self.audit.write("start", pid=os.getpid(), version=__version__, level=self.policy.level)
        if self.config.metrics is not None:
            self.config.metrics.unlink(missing_ok=True)
            self._metrics = await asyncio.start_unix_server(
                self._serve_metrics, self.config.metrics, limit=4096, backlog=8
            )
            self.config.metrics.chmod(0o600)
        self.listener = Listener(list(self.config.listening), self._registry, self.config.limits)
        self._notify("STATUS=ready")

    async def run(self) -> None:
        """Serve until a signal, or until the supervisor is gone."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self.policy.refresh)
        try:
            while not self._stopping.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), 1)
                # A supervisor that ends waits for us, and answers nothing.
                if not self._stopping.is_set():
                    await self._tick()
        finally:
            self.close()

    def stop(self) -> None:
        """Let run() return."""
        self._stopping.set()

    def close(self) -> None:
        """Let go of everything; sessions go on without a broker."""
        if self.listener is not None:
            self.listener.close()
        if self._metrics is not None:
            self._metrics.close()
        self.backend.close()
        self._head_logged = 0.0
        self.audit.close()
        self.store.close()

    async def _tick(self) -> None:
        await self._say_how_busy()
        await self._forget_keks()
        with contextlib.suppress(OSError):
            await self.sessions.end_expired(time.time())
        try:
            self.store.settle()
        except (OSError, sqlite3.Error) as error:
            _log.error("store: what was sealed is not counted: %s", error)
        before = self.policy.problem
        self.policy.refresh()
        if self.policy.problem not in (None, before):
            _log.error("policy: %s; the old one stays in force", self.policy.problem)
        try:
            await asyncio.to_thread(self.audit.sync)
        except OSError as error:
            _log.error("audit: %s", error.strerror)
        if len(self._buckets) > 4096:
            self._buckets.clear()
        self._notify(
            f"STATUS={len(self.store)} keys, {self.sessions.count()} sessions, "
            f"{len(self.backend.links)} workers"
        )

    async def _say_how_busy(self) -> None:
        """A supervisor that may end when nobody needs it counts our connections."""
        clients = len(self.listener) if self.listener is not None else 0
        if clients == self._clients:
            return
        self._clients = clients
        with contextlib.suppress(OSError):
            await self.backend.ask_supervisor("busy", clients=clients)

    def _supervisor_lost(self) -> None:
        if not self._stopping.is_set():
            _log.error("the supervisor is gone")
            self._stopping.set()

    def _head(self, head: audit.Head) -> None:
        now = time.monotonic()
        if now - self._head_logged >= _HEADS:
            self._head_logged = now
            _log.info("audit head %s", head)

    def _keep_initial_key(self) -> None:
        if self.audit.initial_key is None:
            return
        path = self.config.state / "audit.key"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(self.audit.initial_key.hex() + "\n")
        self.audit.initial_key = None
        _log.warning(
            "%s checks the audit from its beginning: keep it elsewhere and delete it here", path
        )

    async def _give_keks(self) -> None:
        """Tell the supervisor where the key-encryption keys are, and hand it the descriptors."""
        found = kek.sources(self.store)
        if not found:
            text = self.config.kek
            if text is None:
                folder = os.environ.get("CREDENTIALS_DIRECTORY")
                there = folder and (pathlib.Path(folder) / kek.CREDENTIAL).exists()
                text = "credential" if there else "file"
            first = kek.new_source(1, text)
            if first.kind == "file" and not (self.config.state / first.about["name"]).exists():
                if len(self.store):
                    raise refusal(
                        errno.ENOKEY, f"the store has keys, but {first.about['name']} is not there"
                    )
                kek.make(self.config.state, first.about["name"])
            found = [first]
            kek.keep(self.store, found)
        await self._send_keks(kek.needed(self.store, found, await self._keks_of_sessions()))

    async def _send_keks(self, found: list[kek.Source]) -> None:
        fds: list[int] = []
        try:
            listed = []
            for one in found:
                fd = kek.opened(one, self.config.state, self.config.passphrase)
                listed.append({**one.fields(), "fd": None if fd is None else len(fds)})
                if fd is not None:
                    fds.append(fd)
            await self.backend.ask_supervisor("kek", fds, keks=listed, current=found[-1].number)
            self._keks = found
        finally:
            for fd in fds:
                os.close(fd)

    async def _keks_of_sessions(self) -> set[int]:
        """The numbers of the key-encryption keys that the next worker needs for what is open."""
        answer = await self.backend.ask_supervisor("sessions")
        return {
            number
            for session in answer.list("sessions")
            for number in session.get("keks", ())
            if isinstance(number, int)
        }

    async def _under_newest(self) -> int:
        """Bring all keys under the newest key-encryption key, and forget those before it as far as
        nothing needs them. How many keys were under another."""
        async with self._rekeying:
            return await self._rewrapped()

    async def _rewrapped(self) -> int:
        found = kek.sources(self.store)
        needed = kek.needed(self.store, found, await self._keks_of_sessions())
        if needed != self._keks:
            await self._send_keks(needed)
        count = await self.keys.rewrap_all(found[-1].number)
        needed = kek.needed(self.store, found, await self._keks_of_sessions())
        if needed != self._keks:
            await self._send_keks(needed)
        return count

    async def _forget_keks(self) -> None:
        """See to what a death in the middle of a rotation left, a session that is over, or a key
        that was made in its course."""
        if time.monotonic() < self._forget_at:
            return
        self._forget_at = time.monotonic() + _FORGETTING
        if kek.needed(self.store, kek.sources(self.store)) == self._keks and len(self._keks) == 1:
            return
        try:
            await self._under_newest()
        except OSError as error:
            _log.error("bringing keys under the newest key-encryption key: %s", error.strerror)

    def _notify(self, text: str) -> None:
        address = os.environ.get("NOTIFY_SOCKET")
        if not address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(text.encode(), "\0" + address[1:] if address[0] == "@" else address)

    # Calls

    def _registry(self, peer: Peer) -> VarlinkInterfaceRegistry:
        registry = Registry()
        caller = Caller(peer)
        registry.register_interface(interface.Broker(self, caller))
        registry.quick[f"{interface.NAME}.Open"] = functools.partial(self._open_quickly, caller)
        registry.register_interface(
            VarlinkServiceInterface("cryptofd", "broker", __version__, "org.cryptofd", registry)
        )
        return registry

    async def call(self, caller: Caller, method: str, **asked: Any) -> Any:
        """Do one call; every refusal is counted, and logged as far as one uid may fill the log."""
        self.calls[method] += 1
        # Each call is decided by the files as they are when it comes.
        self.policy.refresh()
        try:
            return await getattr(self, f"_do_{method}")(caller, **asked)
        except OSError as error:
            self._count_refusal(caller, method, asked, error)
            raise

    def _open_quickly(self, caller: Caller, given: Any) -> Callable[[Then], None] | None:
        """Open with nothing but plain parameters: what is asked most often, without a task."""
        if not isinstance(given, dict) or not given.keys() <= _PLAIN.keys():
            return None
        if not all(type(value) is _PLAIN[name] for name, value in given.items()):
            return None
        usage = given.get("usage")
        if usage is not None and not all(type(word) is str for word in usage):
            return None
        return functools.partial(self._open_plainly, caller, {**_NOTHING, **given})

    def _open_plainly(self, caller: Caller, asked: dict[str, Any], then: Then) -> None:
        def made(outcome: Made | OSError) -> None:
            if isinstance(outcome, OSError):
                self._count_refusal(caller, "open", asked, outcome)
                then(outcome)
            else:
                informed = "true" if outcome.informed else "null"
                then(
                    (
                        f'{{"session":{outcome.sid},"fd":0,"tag_size":null,"info":{informed}}}',
                        outcome.fd,
                    )
                )

        self.calls["open"] += 1
        self.policy.refresh()
        try:
            self.sessions.begin(caller, made, **asked)
        except OSError as error:
            made(error)
        except Exception as error:
            then(unexpected(error))

    def _count_refusal(
        self, caller: Caller, method: str, asked: dict[str, Any], error: OSError
    ) -> None:
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        self.refusals[(method, name)] += 1
        self._log_refusal(caller, method, name, asked)

    def _log_refusal(self, caller: Caller, method: str, name: str, asked: dict[str, Any]) -> None:
        bucket = self._buckets.setdefault(caller.peer.uid, _Bucket(_BURST, time.monotonic()))
        if not bucket.take():
            return
        key = asked.get("key") or asked.get("label") or asked.get("by")
        what: dict[str, Any] = {}
        if isinstance(key, str):
            what["key"] = key[:128]
        if bucket.passed_over:
            what["passed_over"], bucket.passed_over = bucket.passed_over, 0
        with contextlib.suppress(OSError):
            # Nothing leaves with it: a full disk must not turn a refusal into another error.
            self.audit.write(
                "refused", uid=caller.peer.uid, pid=caller.peer.pid, call=method, errno=name, **what
            )

    def _reported(self, domain: str, fields: dict[str, Any]) -> None:
        what = {
            name: value[:128] if isinstance(value, str) else value
            for name in ("sid", "op", "errno", "count")
            if type(value := fields.get(name)) in (int, str)
        }
        bucket = self._reports.setdefault(domain, _Bucket(_BURST, time.monotonic()))
        if not bucket.take():
            return
        if bucket.passed_over:
            what["passed_over"], bucket.passed_over = bucket.passed_over, 0
        with contextlib.suppress(OSError):
            self.audit.write("refused-by-worker", domain=domain, **what)

    async def _do_open(self, caller: Caller, **asked: Any) -> interface.Opened:
        return _opened(*await self.sessions.open(caller, **asked))

    async def _do_hand_over(
        self, caller: Caller, fd: FileDescriptor, **asked: Any
    ) -> interface.Opened:
        return _opened(await self.sessions.hand_over(caller, fd=_readable(fd), **asked))

    async def _do_generate(self, caller: Caller, **asked: Any) -> terms.Key:
        return self.keys.describe(await self.keys.generate(caller, **asked))

    async def _do_import_key(self, caller: Caller, fd: FileDescriptor, **asked: Any) -> terms.Key:
        return self.keys.describe(await self.keys.import_key(caller, _readable(fd), **asked))

    async def _do_export(self, caller: Caller, key: str, version: int | None) -> FileDescriptor:
        return FileDescriptor(await self.keys.export(caller, key, version), should_close=True)

    async def _do_info(self, caller: Caller, key: str, version: int | None) -> terms.Key:
        return await self.keys.info(caller, key, version)

    async def _do_list_keys(self, caller: Caller, all: bool, after: str | None) -> list[terms.Key]:
        return await self.keys.listed(caller, all, after)

    async def _do_delete(self, caller: Caller, key: str, version: int | None) -> None:
        await self.keys.delete(caller, key, version)

    async def _do_wrap(self, caller: Caller, key: str, by: str, format: str) -> str:
        return to_base64(await self.keys.wrap(caller, key, by, format))

    async def _do_unwrap(self, caller: Caller, **asked: Any) -> terms.Key:
        return self.keys.describe(await self.keys.unwrap(caller, **asked))

    async def _do_derive(self, caller: Caller, **asked: Any) -> terms.Key:
        return self.keys.describe(await self.keys.derive(caller, **asked))

    async def _do_rotate(self, caller: Caller, key: str, token: str | None) -> terms.Key:
        return self.keys.describe(await self.keys.rotate(caller, key, token))

    async def _do_trust(self, caller: Caller, key: str, trusted: bool) -> terms.Key:
        return self.keys.describe(await self.keys.trust(caller, key, trusted))

    async def _do_change(
        self, caller: Caller, key: str, label: str | None, expires: int | None
    ) -> terms.Key:
        return self.keys.describe(await self.keys.change(caller, key, label, expires))

    async def _do_status(self, caller: Caller) -> interface.StatusOf:
        answer = await self.backend.ask_supervisor("status")
        workers = []
        for values in answer.list("workers"):
            with contextlib.suppress(KeyError, TypeError, ValueError):
                workers.append(
                    terms.Worker(
                        str(values["domain"]),
                        int(values["pid"]),
                        int(values["epoch"]),
                        int(values["sessions"]),
                        *counts(values),
                    )
                )
        problems = list(self.store.problems)
        if self.policy.problem is not None:
            problems.append(f"policy: {self.policy.problem}; the old one stays in force")
        advice = []
        if (self.config.state / "audit.key").exists():
            advice.append("audit.key lies beside the log that it checks: keep it elsewhere")
        if self.audit.problem is not None:
            problems.append(f"{self.audit.problem}; nothing is done until the broker starts again")
        given_up = answer.fields.get("given_up")
        if isinstance(given_up, dict):
            problems += [f"the worker of {name}: {why}" for name, why in given_up.items()]
        faults = answer.fields.get("faults")
        if isinstance(faults, dict):
            problems += [
                f"a worker of {name} was ended and replaced: {why}" for name, why in faults.items()
            ]
        return {
            "version": __version__,
            "broker": os.getpid(),
            "supervisor": self.backend.supervisor_pid,
            "workers": workers,
            "sessions": self.sessions.count(),
            "keys": len(self.store),
            "problems": [problem[:300] for problem in problems[:20]],
            "advice": advice,
            "policy": ", ".join(str(path) for path in self.policy.sources if path.exists())
            or "built in",
            "level": self.policy.level,
            "audit": str(self.audit.head),
            "kek": str(answer.fields["kek"])[:64] if "kek" in answer.fields else None,
        }

    async def _do_sessions(self, caller: Caller, all: bool) -> list[terms.Session]:
        if caller.narrowed is not None:
            raise refused("this connection was narrowed")
        return await self.sessions.listed(caller, all)

    async def _do_close_session(self, caller: Caller, session: int) -> None:
        await self.sessions.close(caller, session)

    async def _do_move_session(self, caller: Caller, session: int, engine: str) -> None:
        await self.sessions.move(caller, session, engine)

    async def _do_replace_worker(self, caller: Caller, domain: str | None) -> None:
        self._administrator(caller, "replaces workers")
        until = asyncio.get_running_loop().time() + 10
        while True:
            try:
                await self.backend.ask_supervisor("replace", domain=domain)
                break
            except OSError as error:
                # A takeover is or was under way: after it there is a worker that can be replaced.
                late = asyncio.get_running_loop().time() > until
                if error.errno not in {errno.EBUSY, errno.EIO} or late:
                    raise
                await asyncio.sleep(0.05)
        self.audit.write("replace", uid=caller.peer.uid, pid=caller.peer.pid, domain=domain)

    async def _do_replace_supervisor(self, caller: Caller) -> None:
        self._administrator(caller, "replaces the supervisor")
        await self.backend.ask_supervisor("reexec")
        self.audit.write("replace-supervisor", uid=caller.peer.uid, pid=caller.peer.pid)

    async def _do_check_policy(
        self,
        caller: Caller,
        uid: int | None,
        groups: list[str] | None,
        unit: str | None,
        algorithm: str | None,
        key: str | None,
        right: str | None,
        engine: str | None,
        hardware: bool,
        direct: bool,
    ) -> interface.Explained:
        peer = caller.peer
        if uid is not None or groups is not None or unit is not None:
            if uid != peer.uid or groups is not None or unit is not None:
                self._administrator(caller, "asks for others")
            uid = peer.uid if uid is None else uid
            peer = Peer(uid, -1, 0, frozenset(map(_gid, groups or [])), unit)
        if right not in (None, "use", "manage", "admin"):
            raise invalid("a right is use, manage or admin")
        named = None
        if key is not None:
            text = key.removeprefix("cryptofd:")
            owner, slash, label = text.rpartition("/")
            named = (owner_of(owner) if slash else peer.owner, rules.label(label))
        answer = self.policy.check(
            peer,
            algorithm=algorithm,
            key=named,
            right=right,
            engine=engine,
            hardware=hardware,
            direct=direct,
        )
        return {
            "allowed": answer.allowed,
            "rules": [
                terms.Rule(one.source, one.rule, one.verdict, one.says) for one in answer.spoken
            ],
        }

    async def _do_audit(self, caller: Caller, after: int, most: int) -> interface.AuditPage:
        self._administrator(caller, "reads the audit")
        if not after >= 0 or not 1 <= most <= 1000:
            raise invalid("after is a number of an entry, most is 1 to 1000")
        entries = await asyncio.to_thread(audit.page, self.audit.path, after, most)
        return {"entries": entries, "head": str(self.audit.head)}

    async def _do_narrow(self, caller: Caller, labels: list[str]) -> None:
        if not 0 < len(labels) <= 256:
            raise invalid("narrow to 1 to 256 keys")
        found = frozenset(self.keys.name(caller, label) for label in labels)
        caller.narrowed = found if caller.narrowed is None else caller.narrowed & found

    async def _do_backup(self, caller: Caller, fd: FileDescriptor) -> None:
        self._administrator(caller, "backs up the store")
        data = self.store.backup()
        self.audit.write("backup", uid=caller.peer.uid, pid=caller.peer.pid, keys=len(self.store))
        await asyncio.to_thread(_write_all, os.dup(fd.fileno()), data)

    async def _do_rotate_kek(self, caller: Caller, source: str) -> int:
        self._administrator(caller, "rotates the key-encryption key")
        found = kek.sources(self.store)
        new = kek.new_source(found[-1].number + 1, source)
        if new.kind == "passphrase":
            raise invalid("a passphrase is given when the broker starts; begin a store with it")
        if new.kind == "file":
            kek.make(self.config.state, new.about["name"], new.number)
        async with self._rekeying:
            # Known before it is used: a death after this line loses no key.
            kek.keep(self.store, [*found, new])
            try:
                await self._send_keks([*self._keks, new])
            except OSError:
                kek.keep(self.store, found)
                raise
            self.audit.write(
                "rotate-kek",
                uid=caller.peer.uid,
                pid=caller.peer.pid,
                number=new.number,
                source=source,
            )
            return await self._rewrapped()

    async def _do_restore(self, caller: Caller, fd: FileDescriptor) -> int:
        self._administrator(caller, "restores a store")
        data = await asyncio.to_thread(_read_all, os.dup(fd.fileno()))
        count, passed = self.store.restore(data)
        for one in passed[:100]:
            _log.warning("restore: %s", one)
        self.audit.write(
            "restore",
            uid=caller.peer.uid,
            pid=caller.peer.pid,
            keys=count,
            passed_over=len(passed),
        )
        await self._under_newest()
        return count

    def _administrator(self, caller: Caller, does: str) -> None:
        if caller.narrowed is not None or not self.policy.admin(caller.peer):
            raise refused(f"only an administrator {does}; {caller.peer} is none")

    # Metrics

    async def metrics(self) -> str:
        """Prometheus text (version 0.0.4)."""
        workers: list[Any] = []
        with contextlib.suppress(OSError):
            workers = (await self.backend.ask_supervisor("status")).list("workers")
        listener = self.listener
        lines: list[str] = []

        def one(name: str, kind: str, about: str, *values: tuple[str, float]) -> None:
            lines.append(f"# HELP cryptofd_{name} {about}")
            lines.append(f"# TYPE cryptofd_{name} {kind}")
            lines.extend(f"cryptofd_{name}{labels} {value:.15g}" for labels, value in values)

        one("keys", "gauge", "Stored keys, all versions.", ("", len(self.store)))
        one("sessions", "gauge", "Sessions that live.", ("", self.sessions.count()))
        one("sessions_opened_total", "counter", "Sessions opened.", ("", self.sessions.opened))
        one("workers", "gauge", "Workers that live.", ("", len(self.backend.links)))
        one("takeovers_total", "counter", "Workers replaced.", ("", self.backend.takeovers))
        one("connections", "gauge", "Connections.", ("", len(listener) if listener else 0))
        one(
            "connections_refused_total",
            "counter",
            "Connections turned away.",
            ("", listener.turned_away if listener else 0),
        )
        of_domain = [(f'{{domain="{_escaped(w["domain"])}"}}', counts(w)) for w in workers]
        for place, (name, about) in enumerate(
            (
                ("operations_total", "Requests that workers did."),
                ("bytes_total", "Bytes that they were about."),
                ("operations_refused_total", "Requests that workers refused."),
            )
        ):
            one(name, "counter", about, *((labels, sums[place]) for labels, sums in of_domain))
        one(
            "calls_total",
            "counter",
            "Calls by method.",
            *((f'{{method="{name}"}}', count) for name, count in sorted(self.calls.items())),
        )
        one(
            "refusals_total",
            "counter",
            "Refusals by method and errno.",
            *(
                (f'{{method="{method}",errno="{name}"}}', count)
                for (method, name), count in sorted(self.refusals.items())
            ),
        )
        one("audit_entries", "counter", "Entries of the audit.", ("", self.audit.head.number))
        one("store_problems", "gauge", "Damage found.", ("", len(self.store.problems)))
        broken = self.policy.problem is not None
        one("policy_broken", "gauge", "1 if the files are not in force.", ("", int(broken)))
        one("start_time_seconds", "gauge", "Since when this broker runs.", ("", self.started))
        return "\n".join(lines) + "\n"

    async def _serve_metrics(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            async with asyncio.timeout(5):
                # HTTP for whoever speaks it, plain text for a reader that only listens.
                asked = b""
                with contextlib.suppress(TimeoutError, ValueError):
                    asked = await asyncio.wait_for(reader.readline(), 0.2)
                body = (await self.metrics()).encode()
                if asked.startswith(b"GET "):
                    head = (
                        "HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"
                        f"Content-Length: {len(body)}\r\n\r\n"
                    )
                    body = head.encode() + body
                writer.write(body)
                await writer.drain()
        except (OSError, TimeoutError):
            pass
        finally:
            writer.close()


def _escaped(text: str) -> str:
    """As a label's value."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")


def _gid(text: str) -> int:
    import grp

    try:
        return int(text) if text.isdigit() else grp.getgrnam(text).gr_gid
    except (KeyError, OverflowError):
        raise invalid(f"there is no group {text[:64]!r}") from None


def _opened(made: Made, tag_size: int | None = None) -> interface.Opened:
    return {
        "session": made.sid,
        "fd": FileDescriptor(made.fd, should_close=True),
        "tag_size": tag_size,
        "info": made.informed or None,
    }


def _readable(fd: FileDescriptor) -> int:
    """A descriptor whose content may be a key: what a worker can read without harm."""
    try:
        number = fd.fileno()
        kind = os.fstat(number).st_mode
    except (OSError, ValueError):
        raise invalid("no descriptor came with the message") from None
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or stat.S_ISREG(kind)):
        raise invalid("the key's descriptor is a pipe, a socket or a file")
    return number


def _write_all(fd: int, data: bytes) -> None:
    try:
        view = memoryview(data)
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        while view:
            if not poll.poll(_PATIENCE * 1000):
                raise refusal(errno.EAGAIN, f"nobody read the backup for {_PATIENCE} s")
            view = view[os.write(fd, view[:65536]) :]
    finally:
        os.close(fd)


def _read_all(fd: int) -> bytes:
    try:
        data = bytearray()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while True:
            if not poll.poll(_PATIENCE * 1000):
                raise refusal(errno.EAGAIN, f"nobody wrote the backup for {_PATIENCE} s")
            part = os.read(fd, 1 << 20)
            if not part:
                return bytes(data)
            data += part
            if len(data) > _LARGEST:
                raise refusal(errno.EMSGSIZE, f"a backup of more than {_LARGEST} bytes")
    finally:
        os.close(fd)
