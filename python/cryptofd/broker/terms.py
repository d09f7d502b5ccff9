"""What the interface and its clients speak of: the broker's keys, sessions, workers and rules.

The interface is made of these types, so they depend on nothing; clients import no asyncvarlink.
"""

# Annotations are read at run time: no ``from __future__ import annotations`` here.

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypedDict

from cryptofd.description import FromJSON


@dataclass(frozen=True)
class SessionOptions:
    """What a session may be asked for; the names are those of cryptofd.open()."""

    engine: str | None = None
    driver: str | None = None
    hardware: str | None = None
    fips: bool | None = None
    tag_size: int | None = None
    digest_size: int | None = None
    padding: str | None = None
    nonblock: bool | None = None
    direct: bool | None = None


@dataclass(frozen=True)
class Template(FromJSON):
    """What a key that is unwrapped or derived by another one may be."""

    algorithm: str
    bits: int | None
    usage: list[str] | None


class KeyOptions(TypedDict, total=False):
    """What a new key may be asked for, in whatever way it comes to be.

    ``usage``: words as encrypt, decrypt. ``expires``: Unix seconds. ``uses``: operations.
    ``tag_size``: bytes, of an AEAD. Templates: what it may unwrap, or have derived from it.
    """

    usage: Any
    exportable: bool
    wrappable: bool
    expires: int | None
    uses: int | None
    tag_size: int | None
    wrap_template: Mapping[str, Any] | None
    derive_template: Mapping[str, Any] | None


@dataclass(frozen=True)
class Key(FromJSON):
    """What may be told of a key; its bytes stay where they are.

    ``bits``: its size. ``expires``: Unix seconds. ``uses``, ``uses_left``: operations, of all and
    to come. ``iv``: whether the worker chooses nonces or the caller may. ``version``: counted from
    1; ``current``: whether it is the one that encrypts and signs. ``public``: of a pair, its
    SubjectPublicKeyInfo in base64.
    """

    id: str
    label: str
    owner: str
    algorithm: str
    type: str
    bits: int
    usage: list[str]
    exportable: bool
    wrappable: bool
    trusted: bool
    created: int
    expires: int | None
    uses: int | None
    uses_left: int | None
    iv: str
    tag_size: int | None
    version: int
    current: bool
    fingerprint: str
    origin: str
    wrap_template: Template | None
    derive_template: Template | None
    public: str | None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Of an answer; what is not there is None."""
        absent = dict.fromkeys(("expires", "uses", "uses_left", "tag_size", "public"))
        templates = {
            name: None if values.get(name) is None else Template.of({**_ANY, **values[name]})
            for name in ("wrap_template", "derive_template")
        }
        return super().of({**absent, **values, **templates})

    @property
    def reference(self) -> str:
        """What ``cryptofd.open(..., key=)`` takes."""
        return f"cryptofd:{self.label}"


_ANY: dict[str, Any] = {"bits": None, "usage": None}


@dataclass(frozen=True)
class Worker(FromJSON):
    """A worker: serves the sessions of one trust domain."""

    domain: str
    pid: int
    epoch: int
    sessions: int
    #: Of all its domain's sessions so far: requests done, bytes they were about, requests refused.
    operations: int
    bytes: int
    refused: int


@dataclass(frozen=True)
class Session(FromJSON):
    """A session that lives. ``opened``: Unix seconds; ``direct``: the kernel's own descriptor, not
    to be taken back, listed as long as the process that got it lives."""

    id: int
    uid: int
    pid: int
    domain: str
    algorithm: str
    key: str | None
    opened: int | None
    direct: bool
    #: Requests done, bytes they were about, requests refused.
    operations: int
    bytes: int
    refused: int

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Of an answer; what is not there is None."""
        return super().of({"key": None, "opened": None, "direct": False, **values})


@dataclass(frozen=True)
class Rule(FromJSON):
    """A rule of the policy that spoke, and what it said."""

    source: str
    rule: str
    verdict: str
    says: str
