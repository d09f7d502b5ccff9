"""org.cryptofd.Broker: the typed class from which interface/org.cryptofd.Broker.varlink is made.

``python -m cryptofd.broker.interface`` prints the description.
"""

# Annotations are read at run time: no ``from __future__ import annotations`` here.

import errno
import typing

from asyncvarlink import (
    FileDescriptor,
    TypedVarlinkErrorReply,
    VarlinkInterface,
    varlinkmethod,
)

from cryptofd.broker.terms import Key, Rule, Session, SessionOptions, Template, Worker

NAME = "org.cryptofd.Broker"


class Failure(typing.TypedDict):
    """What every error brings along."""

    errno: int
    message: str


class Refused(TypedVarlinkErrorReply, interface=NAME):
    """Policy, rights, usage or a wrapping rule forbids it (EPERM)."""

    parameters: Failure


class NoSuchKey(TypedVarlinkErrorReply, interface=NAME):
    """No key of this name that the caller may know of (ENOKEY)."""

    parameters: Failure


class Exists(TypedVarlinkErrorReply, interface=NAME):
    """The label is taken (EEXIST)."""

    parameters: Failure


class Invalid(TypedVarlinkErrorReply, interface=NAME):
    """A name, size or combination that cannot be (EINVAL, ENOENT, EBADMSG)."""

    parameters: Failure


class Limit(TypedVarlinkErrorReply, interface=NAME):
    """More than the policy, the key or the disk allows (EDQUOT, ENOSPC, ENOMEM)."""

    parameters: Failure


class Busy(TypedVarlinkErrorReply, interface=NAME):
    """Not now: ask again (EAGAIN)."""

    parameters: Failure


class Unsupported(TypedVarlinkErrorReply, interface=NAME):
    """Not something that this key or this broker does (EOPNOTSUPP)."""

    parameters: Failure


class Gone(TypedVarlinkErrorReply, interface=NAME):
    """What should do it is not there (ENODEV, EIO)."""

    parameters: Failure


class Expired(TypedVarlinkErrorReply, interface=NAME):
    """The key's time is over (EKEYEXPIRED)."""

    parameters: Failure


class Revoked(TypedVarlinkErrorReply, interface=NAME):
    """The key, or this version of it, no longer serves for that (EKEYREVOKED)."""

    parameters: Failure


_BY_ERRNO: dict[int, type[TypedVarlinkErrorReply]] = {
    errno.EPERM: Refused,
    errno.EACCES: Refused,
    errno.ENOKEY: NoSuchKey,
    errno.EEXIST: Exists,
    errno.EINVAL: Invalid,
    errno.ENOENT: Invalid,
    errno.EBADMSG: Invalid,
    errno.EMSGSIZE: Invalid,
    errno.ERANGE: Invalid,
    errno.EDQUOT: Limit,
    errno.ENOSPC: Limit,
    errno.ENOMEM: Limit,
    errno.EMFILE: Limit,
    errno.ENFILE: Limit,
    errno.EAGAIN: Busy,
    errno.ECONNRESET: Busy,
    errno.EOPNOTSUPP: Unsupported,
    errno.EKEYEXPIRED: Expired,
    errno.EKEYREVOKED: Revoked,
}


def error_reply(number: int, message: str) -> TypedVarlinkErrorReply:
    """The Varlink error of an errno; the errno itself stays in the parameters."""
    # Typed subclasses take their parameters as keywords, which the base's stub does not show.
    made: typing.Any = _BY_ERRNO.get(number, Gone)
    return typing.cast(TypedVarlinkErrorReply, made({"errno": number, "message": message}))


class Opened(typing.TypedDict):
    """A session and its descriptor: a cryptofd or, of a direct one, an AF_ALG socket."""

    session: int
    fd: FileDescriptor
    tag_size: int | None
    #: Whether INFO's answer comes on the descriptor before it is asked.
    info: bool | None


class StatusOf(typing.TypedDict):
    """How the broker is."""

    version: str
    broker: int
    supervisor: int
    workers: list[Worker]
    sessions: int
    keys: int
    problems: list[str]
    advice: list[str]
    policy: str
    level: str
    audit: str
    kek: str | None


class Explained(typing.TypedDict):
    """A decision and the rules that spoke."""

    allowed: bool
    rules: list[Rule]


class AuditPage(typing.TypedDict):
    """Entries as JSON, oldest first, and the head after the last entry of the log."""

    entries: list[str]
    head: str


class Service(typing.Protocol):
    """Who does what the interface takes: ``caller`` is the connection."""

    async def call(self, caller: typing.Any, method: str, **asked: typing.Any) -> typing.Any:
        """Do ``method``; raises OSError with errno and sentence."""


class Broker(VarlinkInterface, name=NAME):
    """Keys that a program can use and never read, and sessions on them.

    A key is named LABEL (the caller's own), OWNER/LABEL (a shared one; OWNER is a user's name or
    number), both with or without the prefix cryptofd:. A descriptor is the index of one that
    travels with the message. Descriptors that carry key bytes are read and written by a worker
    only. A call that creates something takes a token of the caller's choice: repeated with the
    same token it gives the same answer.
    """

    errors = (
        Refused,
        NoSuchKey,
        Exists,
        Invalid,
        Limit,
        Busy,
        Unsupported,
        Gone,
        Expired,
        Revoked,
    )

    def __init__(self, service: Service, caller: typing.Any) -> None:
        self._service = service
        self._caller = caller

    async def _call(self, method: str, **asked: typing.Any) -> typing.Any:
        return await self._service.call(self._caller, method, **asked)

    @varlinkmethod
    async def Open(
        self,
        *,
        key: str | None = None,
        algorithm: str | None = None,
        version: int | None = None,
        options: SessionOptions | None = None,
        usage: list[str] | None = None,
        info: bool | None = None,
    ) -> Opened:
        """Open a session; without a key, one of an algorithm that takes none.

        With info, what INFO answers is sent on the descriptor before it is asked, with the id 0
        (not on a direct session's).
        """
        answer: Opened = await self._call(
            "open", key=key, algorithm=algorithm, version=version, options=options, usage=usage,
            info=info,
        )  # fmt: skip
        return answer

    @varlinkmethod
    async def HandOver(
        self, *, algorithm: str, fd: FileDescriptor, options: SessionOptions | None = None
    ) -> Opened:
        """Open a session on the raw key that a worker reads from the descriptor.

        The key is kept only as long as the session.
        """
        answer: Opened = await self._call("hand_over", algorithm=algorithm, fd=fd, options=options)
        return answer

    @varlinkmethod(return_parameter="key")
    async def GenerateKey(
        self,
        *,
        label: str,
        algorithm: str,
        bits: int | None = None,
        usage: list[str] | None = None,
        exportable: bool = False,
        wrappable: bool = False,
        expires: int | None = None,
        uses: int | None = None,
        tag_size: int | None = None,
        wrap_template: Template | None = None,
        derive_template: Template | None = None,
        token: str | None = None,
    ) -> Key:
        """Generate a key or, of an asymmetric algorithm, a pair. ``expires`` is in Unix seconds."""
        answer: Key = await self._call(
            "generate",
            label=label,
            algorithm=algorithm,
            bits=bits,
            usage=usage,
            exportable=exportable,
            wrappable=wrappable,
            expires=expires,
            uses=uses,
            tag_size=tag_size,
            wrap_template=wrap_template,
            derive_template=derive_template,
            token=token,
        )
        return answer

    @varlinkmethod(return_parameter="key")
    async def ImportKey(
        self,
        *,
        label: str,
        algorithm: str,
        fd: FileDescriptor,
        usage: list[str] | None = None,
        exportable: bool = False,
        wrappable: bool = False,
        expires: int | None = None,
        uses: int | None = None,
        tag_size: int | None = None,
        wrap_template: Template | None = None,
        derive_template: Template | None = None,
        token: str | None = None,
    ) -> Key:
        """Import the key that a worker reads from the descriptor, up to 64 KiB."""
        answer: Key = await self._call(
            "import_key",
            label=label,
            algorithm=algorithm,
            fd=fd,
            usage=usage,
            exportable=exportable,
            wrappable=wrappable,
            expires=expires,
            uses=uses,
            tag_size=tag_size,
            wrap_template=wrap_template,
            derive_template=derive_template,
            token=token,
        )
        return answer

    @varlinkmethod(return_parameter="fd")
    async def ExportKey(self, *, key: str, version: int | None = None) -> FileDescriptor:
        """The reading end of a pipe into which a worker writes an exportable key."""
        answer: FileDescriptor = await self._call("export", key=key, version=version)
        return answer

    @varlinkmethod(return_parameter="key")
    async def KeyInfo(self, *, key: str, version: int | None = None) -> Key:
        """What may be told of a key."""
        answer: Key = await self._call("info", key=key, version=version)
        return answer

    @varlinkmethod(return_parameter="keys")
    async def ListKeys(self, *, all: bool = False, after: str | None = None) -> list[Key]:
        """A page of the keys that the caller may use: in order of their ids, after that id."""
        answer: list[Key] = await self._call("list_keys", all=all, after=after)
        return answer

    @varlinkmethod
    async def DeleteKey(self, *, key: str, version: int | None = None) -> None:
        """Delete a key, or one old version of it. Sessions that are open on it end."""
        await self._call("delete", key=key, version=version)

    @varlinkmethod(return_parameter="wrapped")
    async def WrapKey(self, *, key: str, by: str, format: str = "cryptofd") -> str:
        """A key wrapped by another, in base64. Formats: cryptofd, kw, kwp, rsa-oaep."""
        answer: str = await self._call("wrap", key=key, by=by, format=format)
        return answer

    @varlinkmethod(return_parameter="key")
    async def UnwrapKey(
        self,
        *,
        label: str,
        wrapped: str,
        by: str,
        format: str = "cryptofd",
        algorithm: str | None = None,
        usage: list[str] | None = None,
        token: str | None = None,
    ) -> Key:
        """Unwrap a key and keep it; it is never exportable."""
        answer: Key = await self._call(
            "unwrap",
            label=label,
            wrapped=wrapped,
            by=by,
            format=format,
            algorithm=algorithm,
            usage=usage,
            token=token,
        )
        return answer

    @varlinkmethod(return_parameter="key")
    async def DeriveKey(
        self,
        *,
        label: str,
        base: str,
        how: str,
        algorithm: str | None = None,
        bits: int | None = None,
        usage: list[str] | None = None,
        peer: str | None = None,
        salt: str | None = None,
        info: str | None = None,
        exportable: bool = False,
        token: str | None = None,
    ) -> Key:
        """Derive a key from one whose template allows it; peer, salt and info are base64."""
        answer: Key = await self._call(
            "derive",
            label=label,
            base=base,
            how=how,
            algorithm=algorithm,
            bits=bits,
            usage=usage,
            peer=peer,
            salt=salt,
            info=info,
            exportable=exportable,
            token=token,
        )
        return answer

    @varlinkmethod(return_parameter="key")
    async def RotateKey(self, *, key: str, token: str | None = None) -> Key:
        """A new version of a key; old versions only decrypt, verify and unwrap."""
        answer: Key = await self._call("rotate", key=key, token=token)
        return answer

    @varlinkmethod(return_parameter="key")
    async def TrustKey(self, *, key: str, trusted: bool = True) -> Key:
        """Let a key wrap keys that are not exportable. Administrators only."""
        answer: Key = await self._call("trust", key=key, trusted=trusted)
        return answer

    @varlinkmethod(return_parameter="key")
    async def ChangeKey(
        self, *, key: str, label: str | None = None, expires: int | None = None
    ) -> Key:
        """Another label, or an earlier end. Nothing else of a key changes."""
        answer: Key = await self._call("change", key=key, label=label, expires=expires)
        return answer

    @varlinkmethod
    async def Status(self) -> StatusOf:
        """How the broker is."""
        answer: StatusOf = await self._call("status")
        return answer

    @varlinkmethod(return_parameter="sessions")
    async def Sessions(self, *, all: bool = False) -> list[Session]:
        """The caller's sessions; all of them for an administrator."""
        answer: list[Session] = await self._call("sessions", all=all)
        return answer

    @varlinkmethod
    async def CloseSession(self, *, session: int) -> None:
        """End a session: its descriptors see POLLHUP."""
        await self._call("close_session", session=session)

    @varlinkmethod
    async def MoveSession(self, *, session: int, engine: str) -> None:
        """Serve a session by another engine."""
        await self._call("move_session", session=session, engine=engine)

    @varlinkmethod
    async def ReplaceWorker(self, *, domain: str | None = None) -> None:
        """Put new workers in the place of the running ones; sessions go on. Administrators only."""
        await self._call("replace_worker", domain=domain)

    @varlinkmethod
    async def ReplaceSupervisor(self) -> None:
        """Run the supervisor's program anew, as after an upgrade; children and sessions stay.

        Administrators only.
        """
        await self._call("replace_supervisor")

    @varlinkmethod
    async def CheckPolicy(
        self,
        *,
        uid: int | None = None,
        groups: list[str] | None = None,
        unit: str | None = None,
        algorithm: str | None = None,
        key: str | None = None,
        right: str | None = None,
        engine: str | None = None,
        hardware: bool = False,
        direct: bool = False,
    ) -> Explained:
        """Explain a decision: for the caller, or for another uid if an administrator asks."""
        answer: Explained = await self._call(
            "check_policy",
            uid=uid,
            groups=groups,
            unit=unit,
            algorithm=algorithm,
            key=key,
            right=right,
            engine=engine,
            hardware=hardware,
            direct=direct,
        )
        return answer

    @varlinkmethod
    async def Audit(self, *, after: int = 0, most: int = 100) -> AuditPage:
        """Entries of the audit with numbers beyond ``after``. Administrators only."""
        answer: AuditPage = await self._call("audit", after=after, most=most)
        return answer

    @varlinkmethod
    async def Narrow(self, *, labels: list[str]) -> None:
        """From now on this connection reaches only these keys, to use them. Never widened again."""
        await self._call("narrow", labels=labels)

    @varlinkmethod
    async def Backup(self, *, fd: FileDescriptor) -> None:
        """Write a consistent copy of the store; keys stay wrapped. Administrators only."""
        await self._call("backup", fd=fd)

    @varlinkmethod(return_parameter="rewrapped")
    async def RotateKek(self, *, source: str = "file") -> int:
        """Bring all keys under a new key-encryption key. Administrators only.

        Sources: file, credential:NAME, keyring:SERIAL. Returns how many keys were under another.
        The old one is forgotten when no key and no session needs it; its file stays where it is,
        for backups that were made before.
        """
        answer: int = await self._call("rotate_kek", source=source)
        return answer

    @varlinkmethod(return_parameter="restored")
    async def Restore(self, *, fd: FileDescriptor) -> int:
        """Add the keys of a backup whose names are free. Administrators only."""
        answer: int = await self._call("restore", fd=fd)
        return answer


def description() -> str:
    """The description as interface/org.cryptofd.Broker.varlink holds it."""
    lines = Broker.render_interface_description().splitlines()
    return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    print(description(), end="")
