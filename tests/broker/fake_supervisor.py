"""A supervisor and its workers for tests of the broker: they speak the control packets.

Keys are made, wrapped and unwrapped with cryptofd in this process; sessions are ends of pairs that
nobody serves. What a test wants to go wrong, goes wrong here: ``die_on``, ``lie``.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import pathlib
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import fake_pairs

import cryptofd
from cryptofd.broker import packets, rules
from cryptofd.broker.packets import Packet
from cryptofd.broker.store import canonical

fake_pairs.complete()

HERE = pathlib.Path(__file__).parent


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Fault(Exception):
    """An answer that is an errno."""

    def __init__(self, number: int, sentence: str) -> None:
        super().__init__(sentence)
        self.number = number


class Wrapped:
    """The blobs of the contract: AES-256-GCM-SIV over canonical attributes."""

    def __init__(self) -> None:
        self.keks: dict[int, bytes] = {}

    def wrap(self, attributes: dict[str, Any], key: bytes) -> bytes:
        nonce = os.urandom(12)
        number = max(self.keks)
        with cryptofd.open("gcm-siv(aes)", key=self.keks[number]) as fd:
            box = fd.encrypt(key, iv=nonce, aad=canonical(attributes).encode())
        return b"CFK1" + number.to_bytes(4, "little") + nonce + box

    def unwrap(self, attributes: dict[str, Any], blob: bytes) -> bytes:
        if blob[:4] != b"CFK1":
            raise Fault(errno.EBADMSG, "no blob")
        kek = self.keks[int.from_bytes(blob[4:8], "little")]
        try:
            with cryptofd.open("gcm-siv(aes)", key=kek) as fd:
                return fd.decrypt(blob[20:], iv=blob[8:20], aad=canonical(attributes).encode())
        except OSError as error:
            raise Fault(
                error.errno or errno.EBADMSG, "the blob is not of these attributes"
            ) from None


def _pair(algorithm: str, bits: int) -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519

    if algorithm == "rsa":
        return rsa.generate_private_key(65537, bits)
    if algorithm == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm == "x25519":
        return x25519.X25519PrivateKey.generate()
    curve = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}
    return ec.generate_private_key(curve[algorithm[-4:]]())


def _der(private: Any) -> tuple[bytes, bytes]:
    from cryptography.hazmat.primitives import serialization as s

    return (
        private.private_bytes(s.Encoding.DER, s.PrivateFormat.PKCS8, s.NoEncryption()),
        private.public_key().public_bytes(s.Encoding.DER, s.PublicFormat.SubjectPublicKeyInfo),
    )


def _loaded(der: bytes) -> Any:
    from cryptography.hazmat.primitives import serialization as s

    return s.load_der_private_key(der, None)


class Keys:
    """What a worker does with keys."""

    def __init__(self, wrapped: Wrapped) -> None:
        self.wrapped = wrapped
        self.made: dict[str, dict[str, Any]] = {}

    def answer(self, op: str, asked: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        token = asked.get("token")
        if token in self.made:
            return self.made[token]
        answer: dict[str, Any] = getattr(self, op)(asked, fds)
        if token and op in ("generate", "unwrap", "derive"):
            self.made[token] = answer
        return answer

    def _keep(self, attributes: dict[str, Any], key: bytes) -> dict[str, Any]:
        attributes = {"type": "secret", "tag_size": None, "iv": "worker", **attributes}
        attributes["tag_size"] = attributes["tag_size"] or rules.family(attributes["algorithm"]).tag
        attributes.setdefault("bits", 0)
        public = None
        if attributes["type"] == "pair":
            private = _loaded(key)
            public = _der(private)[1]
            attributes["bits"] = attributes["bits"] or private.key_size
            with cryptofd.open("sha256") as fd:
                fd.update(public)
                attributes["fingerprint"] = fd.hexdigest()
        else:
            attributes["bits"] = 8 * len(key)
            with cryptofd.open("hmac(sha256)", key=key) as fd:
                fd.update(b"cryptofd key id")
                attributes["fingerprint"] = fd.digest()[:16].hex()
        answer = {"attributes": attributes, "blob": b64(self.wrapped.wrap(attributes, key))}
        if public is not None:
            answer["public"] = b64(public)
        return answer

    def _key(self, of: dict[str, Any]) -> bytes:
        return self.wrapped.unwrap(of["attributes"], base64.b64decode(of["blob"]))

    def generate(self, asked: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        attributes = asked["attributes"]
        if attributes["type"] == "pair":
            return self._keep(
                attributes, _der(_pair(attributes["algorithm"], attributes["bits"]))[0]
            )
        return self._keep(attributes, os.urandom(attributes["bits"] // 8))

    def __getattr__(self, name: str) -> Any:
        if name == "import":
            return self.import_
        raise AttributeError(name)

    def import_(self, asked: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        (fd,) = fds
        key = b""
        while part := os.read(fd, 65537 - len(key)):
            key += part
            if len(key) > 65536:
                raise Fault(errno.EMSGSIZE, "a key of more than 64 KiB")
        if not key:
            raise Fault(errno.EINVAL, "no key came")
        return self._keep(asked["attributes"], key)

    def export(self, asked: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        (fd,) = fds
        os.write(fd, self._key(asked))
        return {}

    def rewrap(self, asked: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        new = asked.get("new_attributes") or asked["attributes"]
        return {"blob": b64(self.wrapped.wrap(new, self._key(asked)))}

    def public(self, asked: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        return {"public": b64(_der(_loaded(self._key(asked)))[1])}

    def wrap(self, asked: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        key, kek = self._key(asked["key"]), self._key(asked["by"])
        return {"wrapped": b64(self._wrap(asked["format"], kek, key, asked["key"]["attributes"]))}

    def _wrap(self, form: str, kek: bytes, key: bytes, attributes: dict[str, Any]) -> bytes:
        if form == "rsa-oaep":
            from cryptography.hazmat.primitives import hashes
            from cryptography.hazmat.primitives.asymmetric import padding

            public = _loaded(kek).public_key()
            return bytes(
                public.encrypt(
                    key, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
                )
            )
        if form in ("kw", "kwp"):
            with cryptofd.open(f"{form}(aes)", key=kek) as fd:
                return fd.wrap(key)
        text = canonical(attributes).encode()
        nonce = os.urandom(12)
        with cryptofd.open("gcm-siv(aes)", key=kek) as fd:
            box = fd.encrypt(key, iv=nonce, aad=text)
        return len(text).to_bytes(4, "little") + text + nonce + box

    def unwrap(self, asked: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        kek, data, form = (
            self._key(asked["by"]),
            base64.b64decode(asked["wrapped"]),
            asked["format"],
        )
        attributes = dict(asked["attributes"])
        try:
            if form in ("kw", "kwp"):
                with cryptofd.open(f"{form}(aes)", key=kek) as fd:
                    key = fd.unwrap(data)
            elif form == "rsa-oaep":
                from cryptography.hazmat.primitives import hashes
                from cryptography.hazmat.primitives.asymmetric import padding

                key = _loaded(kek).decrypt(
                    data, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
                )
            else:
                size = int.from_bytes(data[:4], "little")
                text, rest = data[4 : 4 + size], data[4 + size :]
                with cryptofd.open("gcm-siv(aes)", key=kek) as fd:
                    key = fd.decrypt(rest[12:], iv=rest[:12], aad=text)
                kept = json.loads(text)
                if attributes.get("algorithm") not in (None, kept["algorithm"]):
                    raise Fault(errno.EPERM, f"the wrapped key is of {kept['algorithm']}")
                usage = attributes.get("usage", kept["usage"])
                if more := set(usage) - set(kept["usage"]):
                    raise Fault(errno.EPERM, f"usage {more}: the wrapped key has it not")
                attributes = {**kept, **attributes, "usage": usage}
        except (OSError, ValueError) as error:
            raise Fault(errno.EBADMSG, f"not wrapped by this key: {error}") from None
        return self._keep(attributes, key)

    def derive(self, asked: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        base, how, length = self._key(asked["base"]), asked["how"], asked["bits"] // 8
        if how in ("ecdh", "x25519"):
            from cryptography.hazmat.primitives import serialization as s

            private = _loaded(base)
            peer: Any = s.load_der_public_key(base64.b64decode(asked["peer"]))
            if how == "x25519":
                shared = private.exchange(peer)
            else:
                from cryptography.hazmat.primitives.asymmetric import ec

                shared = private.exchange(ec.ECDH(), peer)
            key = shared[:length]
        else:
            more = {n: base64.b64decode(asked[n]) for n in ("salt", "info") if n in asked}
            with cryptofd.open(how, key=base) as fd:
                key = fd.derive(length, **more)
        return self._keep(asked["attributes"], key)

    def ping(self, asked: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        return {}


class Worker:
    def __init__(self, domain: str, epoch: int) -> None:
        self.domain = domain
        self.epoch = epoch
        self.pid = os.getpid()
        self.end, self.brokers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Supervisor:
    """Starts the broker, and one fake worker for each domain that it asks for."""

    def __init__(self, state: pathlib.Path, path: pathlib.Path, **environment: str) -> None:
        self.state = state
        self.path = path
        self.environment = environment
        self.workers: dict[str, Worker] = {}
        self.sessions: dict[int, tuple[socket.socket, dict[str, Any], str]] = {}
        self.given_up: dict[str, str] = {}
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.refused: dict[str, int] = {}
        #: Ops on which the worker dies before it answers, and how often.
        self.die_on: dict[str, int] = {}
        #: Changes an answer of a worker's.
        self.lie: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda _, answer: answer
        self.keks: list[Any] = []
        self.keys = Keys(Wrapped())
        self.broker: subprocess.Popen[bytes] | None = None
        self.log = state.parent / "broker.log"
        self._sids = 0
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ, self._run_jobs)
        self._jobs: list[Callable[[], None]] = []
        self._control: socket.socket | None = None
        self._stop = False
        self._lock = threading.Lock()
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(path))
        self.listening.listen(128)
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    # Life

    def start(self) -> None:
        """Start the broker; it is there when its first connection would be taken."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.do(lambda: self._set_control(ours))
        environment = {
            **os.environ,
            "CRYPTOFD_SUPERVISOR_FD": str(theirs.fileno()),
            "CRYPTOFD_LISTEN_FDS": str(self.listening.fileno()),
            "CRYPTOFD_STATE": str(self.state),
            **self.environment,
        }
        with self.log.open("ab") as log:
            self.broker = subprocess.Popen(
                [sys.executable, str(HERE / "run_broker.py")],
                env=environment,
                pass_fds=(theirs.fileno(), self.listening.fileno()),
                stderr=log,
            )
        theirs.close()

    def stop_broker(self, number: int = 15) -> int:
        assert self.broker is not None
        self.broker.send_signal(number)
        code = self.broker.wait(20)
        self.broker = None
        return code

    def close(self) -> None:
        if self.broker is not None:
            self.stop_broker()
        self._stop = True
        self._wake.send(b"x")
        self._thread.join(10)
        self.listening.close()

    # From the test

    def do(self, job: Callable[[], None]) -> None:
        """Run ``job`` in the supervisor's thread and wait for it."""
        done = threading.Event()

        def run() -> None:
            try:
                job()
            finally:
                done.set()

        with self._lock:
            self._jobs.append(run)
        self._wake.send(b"x")
        assert done.wait(20)

    def take_over(self, domain: str) -> None:
        """The worker dies and another one is there."""
        self.do(lambda: self._take_over(domain))

    def ask_broker(self, domain: str, fields: dict[str, Any]) -> None:
        """A request or notice of the worker's."""
        self.do(lambda: self._send(self.workers[domain].end, fields))

    # Inside

    def _loop(self) -> None:
        while not self._stop:
            for key, _ in self._selector.select():
                key.data()

    def _run_jobs(self) -> None:
        self._woken.recv(64)
        with self._lock:
            jobs, self._jobs = self._jobs, []
        for job in jobs:
            job()

    def _set_control(self, sock: socket.socket) -> None:
        if self._control is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(self._control)
            self._control.close()
        self._control = sock
        # A broker that starts gets fresh channels to workers that live.
        for domain in list(self.workers):
            self._end_worker(domain)
            self._new_worker(domain, self.workers[domain].epoch)
        self._selector.register(sock, selectors.EVENT_READ, self._from_broker)

    def _new_worker(self, domain: str, epoch: int) -> Worker:
        worker = Worker(domain, epoch)
        self.workers[domain] = worker
        self._selector.register(
            worker.end, selectors.EVENT_READ, lambda: self._from_channel(worker)
        )
        return worker

    def _end_worker(self, domain: str) -> None:
        end = self.workers[domain].end
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(end)
        end.close()

    def _take_over(self, domain: str) -> None:
        epoch = self.workers[domain].epoch + 1
        self._end_worker(domain)
        worker = self._new_worker(domain, epoch)
        assert self._control is not None
        self._send(
            self._control,
            {"event": "worker", "domain": domain, "pid": worker.pid, "epoch": epoch, "why": "test"},
            [worker.brokers],
        )

    def _send(
        self, sock: socket.socket, fields: dict[str, Any], fds: list[socket.socket] | None = None
    ) -> None:
        data, memfd = packets.encode(fields)
        numbers = [one.fileno() for one in fds or []]
        if memfd is not None:
            numbers.insert(0, memfd)
        try:
            # One that is gone needs no answer; its channel says so when it is read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(sock, [data], numbers)
        finally:
            if memfd is not None:
                os.close(memfd)
            for one in fds or []:
                one.close()

    def _from_broker(self) -> None:
        assert self._control is not None
        try:
            packet = packets.receive(self._control)
        except OSError:
            packet = None
        if packet is None:
            self._selector.unregister(self._control)
            return
        op, asked = packet.fields["op"], packet.fields
        self.seen.append((op, asked))
        number = asked["id"]
        try:
            if op in self.refused:
                raise Fault(self.refused[op], f"{op} fails in this test")
            ok, fds = self._supervise(op, asked, packet)
        except Fault as error:
            self._send(self._control, {"id": number, "errno": error.number, "error": str(error)})
        else:
            self._send(self._control, {"id": number, "ok": ok}, fds)
        finally:
            packet.close()

    def _supervise(
        self, op: str, asked: dict[str, Any], packet: Packet
    ) -> tuple[dict[str, Any], list[socket.socket]]:
        listed = [
            {"domain": w.domain, "pid": w.pid, "epoch": w.epoch, "sessions": len(self.sessions)}
            for w in self.workers.values()
        ]
        if op in ("hello", "status"):
            fds = [w.brokers for w in self.workers.values()] if op == "hello" else []
            more = {"given_up": self.given_up, "kek": "memfd_secret"} if op == "status" else {}
            return {"workers": listed, "supervisor": os.getpid(), "listening": [], **more}, fds
        if op == "kek":
            self.keks = [(one, os.pread(packet.fds[one["fd"]], 64, 0)) for one in asked["keks"]]
            for said, entry in self.keks:
                self.keys.wrapped.keks[said["number"]] = entry[-32:]
            return {}, []
        if op == "worker":
            worker = self.workers.get(asked["domain"]) or self._new_worker(asked["domain"], 1)
            return {"pid": worker.pid, "epoch": worker.epoch}, [worker.brokers]
        if op == "session":
            return self._session(asked)
        if op == "sessions":
            return {
                "sessions": [
                    {
                        "sid": sid,
                        "domain": domain,
                        "ends": 1,
                        "recipe_public": {n: recipe[n] for n in ("who", "algorithm", "key")},
                        "keks": [int.from_bytes(base64.b64decode(recipe["blob"])[4:8], "little")]
                        if recipe.get("blob")
                        else [],
                    }
                    for sid, (_, recipe, domain) in self.sessions.items()
                ]
            }, []
        if op == "close":
            if asked["sid"] in self.sessions:
                self._end(asked["sid"])
            return {}, []
        if op in ("replace", "move", "busy"):
            return {}, []
        raise Fault(errno.EOPNOTSUPP, op)

    def _session(self, asked: dict[str, Any]) -> tuple[dict[str, Any], list[socket.socket]]:
        recipe = asked["recipe"]
        for one in [recipe, *recipe.get("older", [])]:
            if one["blob"] is not None:
                self.keys.wrapped.unwrap(one["key"], base64.b64decode(one["blob"]))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sids += 1
        sid = self._sids
        self.sessions[sid] = (ours, recipe, asked["domain"])
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._end(sid))
        return {"sid": sid}, [theirs]

    def _end(self, sid: int) -> None:
        if sid not in self.sessions:
            return
        sock, _, _ = self.sessions.pop(sid)
        self._selector.unregister(sock)
        sock.close()
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._send(self._control, {"event": "ended", "sid": sid})

    def _from_channel(self, worker: Worker) -> None:
        if worker.end.fileno() < 0:
            # It died by what was done just before.
            return
        try:
            packet = packets.receive(worker.end)
        except OSError:
            packet = None
        if packet is None:
            self._selector.unregister(worker.end)
            return
        op, asked = packet.fields.get("op"), packet.fields
        if op is None:
            # An answer to what a test asked the broker.
            self.seen.append(("answer", asked))
            return
        self.seen.append((op, asked))
        try:
            ok = self.keys.answer(op, asked, packet.fds)
            if self.die_on.get(op, 0) > 0:
                # Done, and dead before the answer leaves: what is repeated must not be done twice.
                self.die_on[op] -= 1
                self._take_over(worker.domain)
                return
            self._send(worker.end, {"id": asked["id"], "ok": self.lie(op, ok)})
        except Fault as error:
            self._send(worker.end, {"id": asked["id"], "errno": error.number, "error": str(error)})
        finally:
            packet.close()
