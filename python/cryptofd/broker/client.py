"""What ``cryptofd.connect()`` returns: the broker's keys, sessions, policy and audit."""

from __future__ import annotations

import base64
import errno
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from cryptofd._core import BrokerClient
from cryptofd.broker.terms import Key, KeyOptions, Rule, Session
from cryptofd.errors import CryptoFDError
from cryptofd.pem import der

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["AuditEntry", "Connection", "Key", "Keys", "Rule", "Session", "connect"]

#: Formats of a wrapped key.
Format = Literal["cryptofd", "kw", "kwp", "rsa-oaep"]

#: What a key does in one call.
Once = Literal[
    "seal", "unseal", "encrypt", "decrypt", "mac", "check", "sign", "sign_digest", "verify",
    "verify_digest", "wrap", "unwrap", "derive", "agree", "encapsulate", "decapsulate",
]  # fmt: skip


@dataclass(frozen=True)
class AuditEntry:
    """One line of the audit."""

    text: str

    @property
    def values(self) -> Mapping[str, Any]:
        """Its fields."""
        values: Mapping[str, Any] = json.loads(self.text)
        return values


def _given(**values: Any) -> dict[str, Any]:
    """Those that were said."""
    return {name: value for name, value in values.items() if value is not None}


def _usage(usage: Iterable[str] | None) -> list[str] | None:
    if isinstance(usage, str):
        raise TypeError("usage: a set of words, as {'encrypt', 'decrypt'}")
    return None if usage is None else sorted(usage)


def _options(options: KeyOptions) -> dict[str, Any]:
    if beyond := options.keys() - KeyOptions.__annotations__.keys():
        raise TypeError(f"no option of a key: {', '.join(sorted(beyond))}")
    return {**options, "usage": _usage(options.get("usage"))}


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


@dataclass(frozen=True)
class Keys:
    """The broker's keys: ``LABEL`` is one's own, ``OWNER/LABEL`` a shared one."""

    _broker: Connection = field(repr=False)

    def _key(self, method: str, fds: Sequence[int] = (), **values: Any) -> Key:
        if "label" in values and method != "ChangeKey":
            values["token"] = str(uuid.uuid4())
        repeated = "token" in values or method == "KeyInfo"
        answer = self._broker._ask(method, _given(**values), fds, repeated=repeated)
        return Key.of(answer["key"])

    def generate(
        self, label: str, algorithm: str, *, bits: int | None = None, **options: Unpack[KeyOptions]
    ) -> Key:
        """A fresh key or, of an asymmetric algorithm, a fresh pair; made in a worker.

        ``options``: usage, exportable, wrappable, expires (Unix seconds), uses, tag_size (bytes),
        wrap_template and derive_template.
        """
        return self._key(
            "GenerateKey", label=label, algorithm=algorithm, bits=bits, **_options(options)
        )

    def import_key(
        self, label: str, algorithm: str, key: bytes, **options: Unpack[KeyOptions]
    ) -> Key:
        """A key that this program holds (of a pair: PKCS#8, or the public half's SPKI; in DER or
        PEM), with the options of ``generate``. It goes to a worker through a pipe; the broker does
        not see it."""
        asked = _options(options)
        reading = BrokerClient.pipe(der(key))
        try:
            return self._key(
                "ImportKey", [reading], label=label, algorithm=algorithm, fd=0, **asked
            )
        finally:
            os.close(reading)

    def export(self, label: str, *, version: int | None = None) -> bytes:
        """The bytes of an exportable key, from a worker's pipe. Refused (EPERM) of another."""
        with self._broker._descriptor("ExportKey", _given(key=label, version=version)) as pipe:
            key: bytes = pipe.read()
        return key

    def info(self, label: str, *, version: int | None = None) -> Key:
        """What may be told of a key."""
        return self._key("KeyInfo", key=label, version=version)

    def list(self, *, all: bool = False) -> list[Key]:
        """The keys that the caller may use; all of them for an administrator who asks."""
        found: list[Key] = []
        while True:
            after = found[-1].id if found else None
            asked = _given(all=all, after=after)
            page = self._broker._ask("ListKeys", asked, repeated=True)["keys"]
            if not page:
                return found
            found += map(Key.of, page)

    def __iter__(self) -> Iterator[Key]:
        return iter(self.list())

    def delete(self, label: str, *, version: int | None = None) -> None:
        """Delete a key, or one old version of it; its sessions end."""
        self._broker._ask("DeleteKey", _given(key=label, version=version))

    def wrap(self, label: str, *, by: str, format: Format = "cryptofd") -> bytes:
        """A key wrapped by another: only a trusted one wraps what is not exportable."""
        asked = {"key": label, "by": by, "format": format}
        return base64.b64decode(self._broker._ask("WrapKey", asked, repeated=True)["wrapped"])

    def unwrap(
        self,
        label: str,
        wrapped: bytes,
        *,
        by: str,
        format: Format = "cryptofd",
        algorithm: str | None = None,
        usage: Iterable[str] | None = None,
    ) -> Key:
        """Keep a wrapped key under ``label``; it is never exportable."""
        return self._key(
            "UnwrapKey", label=label, wrapped=_base64(wrapped), by=by, format=format,
            algorithm=algorithm, usage=_usage(usage),
        )  # fmt: skip

    def derive(
        self,
        label: str,
        *,
        base: str,
        how: str | None = None,
        peer: bytes | None = None,
        algorithm: str | None = None,
        bits: int | None = None,
        usage: Iterable[str] | None = None,
        salt: bytes | None = None,
        info: bytes | None = None,
        exportable: bool = False,
    ) -> Key:
        """A key derived from ``base``: by HKDF or SP 800-108 (``how``), or agreed with ``peer``'s
        public key (SPKI, DER)."""
        if how is None:
            own = self.info(base).algorithm
            how = "x25519" if own == "x25519" else "ecdh" if own.startswith("ecdh") else own
        return self._key(
            "DeriveKey", label=label, base=base, how=how, peer=_base64(peer), algorithm=algorithm,
            bits=bits, usage=_usage(usage), salt=_base64(salt), info=_base64(info),
            exportable=exportable,
        )  # fmt: skip

    def rotate(self, label: str) -> Key:
        """A new version; old ones only decrypt, verify and unwrap."""
        token = str(uuid.uuid4())
        answer = self._broker._ask("RotateKey", {"key": label, "token": token}, repeated=True)
        return Key.of(answer["key"])

    def trust(self, label: str, trusted: bool = True) -> Key:
        """Let a key wrap keys that are not exportable. Administrators only."""
        return self._key("TrustKey", key=label, trusted=trusted)

    def change(
        self, label: str, *, new_label: str | None = None, expires: int | None = None
    ) -> Key:
        """Another label, or an earlier end."""
        return self._key("ChangeKey", key=label, label=new_label, expires=expires)

    def once(self, label: str, operation: Once, *arguments: Any, **options: Any) -> Any:
        """One operation in one call, with no session to keep: what ``cryptofd.open()`` gives is
        asked for ``operation`` with these arguments, and closed. ``mac`` takes data, ``check`` data
        and tag.
        """
        import cryptofd

        if operation not in get_args(Once):
            raise ValueError(f"{operation!r} is not done at once; {', '.join(get_args(Once))} are")
        reference = f"cryptofd:{label.removeprefix('cryptofd:')}"
        with cryptofd.open(self.info(label).algorithm, key=reference, broker=self._broker) as fd:
            if operation not in {"mac", "check"}:
                return getattr(fd, operation)(*arguments, **options)
            data, *tag = arguments
            fd.update(data)
            return fd.verify(*tag) if operation == "check" else fd.digest(*tag, **options)


class Connection:
    """A connection to the broker. Threads may share it; a forked child makes its own."""

    def __init__(self, address: str | None = None) -> None:
        self._client = BrokerClient(address)
        self.keys = Keys(self)

    @property
    def address(self) -> str:
        """Where the broker is: a path, or fd:N."""
        return self._client.address

    def _ask(
        self,
        method: str,
        parameters: Mapping[str, Any] | None = None,
        fds: Sequence[int] = (),
        *,
        repeated: bool = False,
    ) -> dict[str, Any]:
        text, numbers = self._client.call(
            method, json.dumps(parameters or {}), list(fds), repeated=repeated
        )
        for number in numbers:
            os.close(number)
        answer: dict[str, Any] = json.loads(text)
        return answer

    def _descriptor(self, method: str, parameters: Mapping[str, Any]) -> Any:
        """A file on the descriptor that comes back."""
        text, numbers = self._client.call(method, json.dumps(parameters))
        index = json.loads(text)["fd"]
        for number in {*numbers} - {numbers[index]}:
            os.close(number)
        return os.fdopen(numbers[index], "rb")

    def status(self) -> dict[str, Any]:
        """Processes, workers, counts, problems: ``{"supervisor": pid, "broker": pid, ...}``."""
        return self._ask("Status", repeated=True)

    def sessions(self, *, all: bool = False) -> list[Session]:
        """The caller's sessions; everybody's for an administrator who asks."""
        answer = self._ask("Sessions", {"all": all}, repeated=True)
        return [Session.of(values) for values in answer["sessions"]]

    def close_session(self, session: int) -> None:
        """End a session: its descriptors see POLLHUP."""
        self._ask("CloseSession", {"session": session})

    def move_session(self, session: int, engine: str) -> None:
        """Serve a session by another engine."""
        self._ask("MoveSession", {"session": session, "engine": engine})

    def replace_worker(self, domain: str | None = None) -> None:
        """New workers in the place of the running ones; sessions go on."""
        self._ask("ReplaceWorker", _given(domain=domain))

    def replace_supervisor(self) -> None:
        """Run the supervisor's program anew, as after an upgrade; sessions go on."""
        self._ask("ReplaceSupervisor")

    def rotate_kek(self, source: str = "file") -> int:
        """Bring all keys under a new key-encryption key (file, credential:NAME, keyring:SERIAL);
        how many were under another. Administrators only."""
        rewrapped: int = self._ask("RotateKek", {"source": source})["rewrapped"]
        return rewrapped

    def check_policy(self, **asked: Any) -> tuple[bool, list[Rule]]:
        """Whether the policy allows it, and the rules that spoke."""
        answer = self._ask("CheckPolicy", _given(**asked), repeated=True)
        return answer["allowed"], [Rule.of(values) for values in answer["rules"]]

    def audit(self, *, after: int = 0, most: int = 100) -> tuple[list[AuditEntry], str]:
        """Entries of the audit beyond number ``after``, and the head after the last of all."""
        answer = self._ask("Audit", {"after": after, "most": most}, repeated=True)
        return [AuditEntry(text) for text in answer["entries"]], answer["head"]

    def narrow(self, labels: Iterable[str]) -> None:
        """From now on this connection reaches only these keys, to use them."""
        self._ask("Narrow", {"labels": sorted(labels)})

    def detach(self) -> int:
        """Give the connection away, as the number of a descriptor: for a program that inherits it
        as CRYPTOFD_BROKER_FD."""
        return self._client.detach()

    def backup(self, fd: int) -> None:
        """Write a copy of the store to a descriptor; keys stay wrapped."""
        self._ask("Backup", {"fd": 0}, [fd])

    def restore(self, fd: int) -> int:
        """Add the keys of a backup whose names are free; how many."""
        restored: int = self._ask("Restore", {"fd": 0}, [fd])["restored"]
        return restored

    def __repr__(self) -> str:
        return f"<connection to the broker at {self.address}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        return None


def connect(
    address: str | os.PathLike[str] | int | None = None, *, start: bool = True
) -> Connection:
    """As cryptofd.connect()."""
    if isinstance(address, int):
        text: str | None = f"fd:{address}"
    else:
        text = None if address is None else os.fspath(address)
    connection = Connection(text)
    try:
        connection._client.connect()
    except CryptoFDError as error:
        named = {"CRYPTOFD_BROKER", "CRYPTOFD_BROKER_FD"} & os.environ.keys()
        if error.errno != errno.ECONNREFUSED or address is not None or named or not start:
            raise
        from cryptofd.broker import private

        private.start()
        connection._client.connect()
    return connection
