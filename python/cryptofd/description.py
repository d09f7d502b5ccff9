"""What a session, an engine and an algorithm tell of themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self


class FromJSON:
    """Made of JSON, without what it does not know."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Of a mapping, whose further names (of a later version) are passed over."""
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        return cls(**{name: value for name, value in values.items() if name in known})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Of a JSON object."""
        return cls.of(json.loads(text))


@dataclass(frozen=True)
class Reason:
    """Why an engine does not serve a session."""

    engine: str
    why: str


@dataclass(frozen=True)
class Counts:
    """How often a session did what.

    ``operations``: requests done. ``bytes``: payload taken. ``refused``: requests refused, bad tags
    among them. ``elsewhere``: requests that another engine did because they were beyond this one.
    ``moved``: how often the session moved to another engine.
    """

    operations: int
    bytes: int
    refused: int
    elsewhere: int
    moved: int


@dataclass(frozen=True)
class Info(FromJSON):
    """A session: who serves it, why not the others, its limits (bytes) and counts."""

    algorithm: str
    kind: str
    engine: str
    driver: str
    #: False where the kernel was bound by algorithm name: ``driver`` is then the likely one.
    driver_certain: bool
    hardware: bool
    fips: bool
    reasons: Sequence[Reason]
    tag_size: int
    digest_size: int
    block_size: int
    key_size: int
    limits: Mapping[str, Any]
    counts: Counts
    #: Of an asymmetric key: its bits, and whether the private half is there.
    key_bits: int | None = None
    private: bool | None = None
    #: Of a brokered session: the ``bytes`` of its ring, how many are ``used``, the ``requests`` on
    #: it; or ``why`` there is none.
    ring: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        return super().of(
            {
                **values,
                "reasons": [Reason(r["engine"], r["why"]) for r in values["reasons"]],
                "counts": Counts(**values["counts"]),
            }
        )


@dataclass(frozen=True)
class EngineInfo(FromJSON):
    """An engine of this host; ``about`` is its version, or why it is not there."""

    name: str
    available: bool
    enabled: bool
    about: str
    quarantined: Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Sizes:
    """Sizes in bytes, from ``min`` to ``max`` in steps."""

    min: int
    max: int
    step: int

    def __contains__(self, size: int) -> bool:
        return self.min <= size <= self.max and (size - self.min) % self.step == 0

    def __str__(self) -> str:
        if self.min == self.max:
            return str(self.min)
        return f"{self.min}-{self.max}" + (f" by {self.step}" if self.step > 1 else "")


@dataclass(frozen=True)
class Streaming:
    """What a streaming format is made of: bytes of a segment and of the derived key, KDF, AEAD."""

    segment: int
    derived_key: int
    kdf: str
    cipher: str


@dataclass(frozen=True)
class Algorithm(FromJSON):
    """An algorithm of the table: sizes in bytes, strength in bits, its names elsewhere."""

    name: str
    kind: str
    aliases: Sequence[str]
    key: Sizes | None
    iv: Sizes | None
    iv_default: int
    digest_size: int
    block_size: int
    tag_size: int
    tag_sizes: Sequence[int]
    strength: int
    weak: str | None
    fips: bool
    max_message: int | None
    names: Mapping[str, Any]
    streaming: Streaming | None = None
    #: A key, or a key and nonce, authenticates one message only (Poly1305, GMAC).
    one_message: bool = False
    #: Of an asymmetric key: bits, those of generate(), what it does, its hashes, the default one.
    bits: Sizes | None = None
    bits_default: int = 0
    operations: Sequence[str] = ()
    hash: str | None = None
    hashes: Sequence[str] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        parts: dict[str, Any] = {
            name: Sizes(**values[name]) if values[name] else None for name in ("key", "iv", "bits")
        }
        streaming = values.get("streaming")
        parts["streaming"] = Streaming(**streaming) if streaming else None
        return super().of({**values, **parts})


@dataclass(frozen=True)
class Candidate(FromJSON):
    """What one engine answers to a request; the one that ``serves`` is taken."""

    engine: str
    offers: bool
    serves: bool
    why: str
    driver: str | None = None
    driver_certain: bool = True
    hardware: bool = False
    fips: bool = False
