"""What a key may be: usages and their combinations, sizes, strength. No state, no caller."""

from __future__ import annotations

import errno
import functools
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptofd.broker.refusal import invalid, refusal

USAGES = frozenset(
    {
        "encrypt",
        "decrypt",
        "sign",
        "sign-digest",
        "verify",
        "wrap",
        "unwrap",
        "derive",
        "derive-bytes",
        "digest",
        "raw",
    }
)
#: Right to choose the IV; the attribute ``iv`` says the same.
CALLER_IV = "caller-iv"
#: Bytes of a key, or bits of a pair, up to which the table's sizes are what is asked for; where any
#: length will do, the default is the algorithm's strength.
_LISTED = 1 << 16
#: What an old version of a rotated key still does.
OLD_VERSION = frozenset({"decrypt", "verify", "unwrap"})
#: What a wrapping key does, and nothing else.
WRAPPING = frozenset({"wrap", "unwrap"})
#: Bits that a derived key has at least.
DERIVED_BITS = 128

#: Spaces are single and within: two labels that look alike are one. NSS itself names things "John's
#: Example ID".
_LABEL = re.compile(r"(?!.{65})[A-Za-z0-9_](?: ?[A-Za-z0-9._@+'-])*")

_BY_KIND: Mapping[str, frozenset[str]] = {
    "aead": frozenset({"encrypt", "decrypt", "wrap", "unwrap", "digest"}),
    "cipher": frozenset({"encrypt", "decrypt", "digest"}),
    "mac": frozenset({"sign", "verify", "digest"}),
    "wrap": WRAPPING,
    "kdf": frozenset({"derive", "derive-bytes", "digest"}),
    "streaming": frozenset({"encrypt", "decrypt"}),
    "rsa": frozenset(
        {"encrypt", "decrypt", "sign", "sign-digest", "verify", "wrap", "unwrap", "raw"}
    ),
    "signature": frozenset({"sign", "sign-digest", "verify"}),
    "message-signature": frozenset({"sign", "verify"}),
    "agreement": frozenset({"derive", "derive-bytes"}),
    "kem": frozenset({"derive", "derive-bytes"}),
}

_DEFAULT: Mapping[str, frozenset[str]] = {
    "aead": frozenset({"encrypt", "decrypt"}),
    "cipher": frozenset({"encrypt", "decrypt", CALLER_IV}),
    "mac": frozenset({"sign", "verify"}),
    "wrap": WRAPPING,
    "kdf": frozenset({"derive"}),
    "streaming": frozenset({"encrypt", "decrypt"}),
    "rsa": frozenset({"sign", "verify"}),
    "signature": frozenset({"sign", "verify"}),
    "message-signature": frozenset({"sign", "verify"}),
    "agreement": frozenset({"derive"}),
    "kem": frozenset({"derive"}),
}

#: Ciphers that turn encryption into decryption: one right alone would be both.
_TWO_WAY = frozenset({"ctr(aes)", "cfb(aes)", "chacha20"})


@dataclass(frozen=True)
class Family:
    """An algorithm as far as rules need it. ``bits``: sizes that a key may have, None for any."""

    name: str
    kind: str
    bits: tuple[int, ...] | None
    default_bits: int
    #: Of the best key; ``strengths`` by bits where that is not all there is to say.
    strength: int
    strengths: tuple[tuple[int, int], ...]
    weak: str | None
    fips: bool
    one_time: bool = False
    #: Bytes that an AEAD's tag may have, and has if nobody says.
    tags: tuple[int, ...] = ()
    tag: int | None = None

    @property
    def pair(self) -> bool:
        """Whether its keys are pairs of a private and a public one."""
        return self.kind in {"rsa", "signature", "message-signature", "agreement", "kem"}


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    from cryptofd._core import algorithms

    return {entry["name"]: entry for entry in json.loads(algorithms())}


@functools.cache
def family(name: str) -> Family:
    """The family of an algorithm; ENOENT if nobody knows it."""
    entry = _table().get(name)
    if entry is None:
        raise refusal(
            errno.ENOENT, f"no algorithm is called {name[:64]!r}; cryptofd algorithms lists them"
        )
    kind, sizes, unit = entry["kind"], entry.get("key"), 8
    if kind == "pair":
        kind, sizes, unit = _pair(entry), entry["bits"], 1
    bits = None
    if sizes and sizes["min"] > 0 and sizes["max"] <= _LISTED:
        step = max(sizes["step"], 1)
        bits = tuple(unit * n for n in range(sizes["min"], sizes["max"] + 1, step))
    return Family(
        name,
        kind,
        bits,
        entry.get("bits_default") or (bits[-1] if bits else max(256, entry["strength"])),
        entry["strength"],
        tuple(sorted(map(_step, entry.get("strengths") or ()))),
        entry["weak"],
        entry["fips"],
        # A MAC for one message: with a nonce its key serves again, without one it does not.
        bool(entry.get("one_message") or entry.get("one_time_key")) and not entry.get("iv"),
        tuple(entry.get("tag_sizes") or ()),
        entry.get("tag_size") if kind == "aead" else None,
    )


def _pair(entry: Mapping[str, Any]) -> str:
    """Which of the kinds of pairs it is, by what it does."""
    does = set(entry["operations"])
    if {"sign", "encrypt"} <= does:
        return "rsa"
    if "sign" in does:
        return "signature" if entry.get("hashes") else "message-signature"
    return "agreement" if "agree" in does else "kem"


def _step(value: Any) -> tuple[int, int]:
    if isinstance(value, Mapping):
        return value["bits"], value["strength"]
    bits, strength = value
    return bits, strength


def strength(algorithm: str, bits: int) -> int:
    """Bits of security of a key (SP 800-57 part 1 revision 5, table 2)."""
    of = family(algorithm)
    if of.strengths:
        return max((value for size, value in of.strengths if bits >= size), default=0)
    if of.kind == "rsa":
        return _factoring(bits)
    if of.pair:
        return of.strength
    if algorithm == "xts(aes)":
        bits //= 2
    return min(of.strength, bits)


def _factoring(bits: int) -> int:
    """Bits of security of a modulus (SP 800-56B revision 2, appendix D)."""
    if bits < 512:
        return 0
    size = bits * math.log(2)
    cost: float = 1.923 * size ** (1 / 3) * math.log(size) ** (2 / 3) - 4.69
    return 8 * round(cost / math.log(2) / 8)


def label(text: str) -> str:
    """A label; EINVAL for what could be mistaken for something else."""
    if not _LABEL.fullmatch(text):
        raise invalid(
            f"{text[:64]!r} is no label: 1 to 64 of letters, digits, . _ @ + - ' and single spaces "
            "within, beginning with a letter, a digit or _"
        )
    return text


@dataclass(frozen=True)
class Right:
    """The usage of a key, and who chooses the IV."""

    usage: tuple[str, ...]
    iv: str


def usage_of(algorithm: str, asked: Iterable[str] | None) -> Right:
    """The usage that a new key gets; EINVAL for a combination that would not hold."""
    of = family(algorithm)
    if of.kind not in _BY_KIND or of.one_time:
        raise invalid(f"no key of {algorithm} can be kept: it takes none, or one for one message")
    chosen = set(_DEFAULT[of.kind] if asked is None else asked)
    caller_iv = CALLER_IV in chosen
    chosen.discard(CALLER_IV)
    if strange := chosen - USAGES:
        raise invalid(
            f"no usage is called {', '.join(sorted(strange))[:128]!r}; there are "
            f"{', '.join(sorted(USAGES | {CALLER_IV}))}"
        )
    if not chosen:
        raise invalid("a key without a usage would do nothing; name one")
    if beyond := chosen - _BY_KIND[of.kind]:
        raise invalid(
            f"a key of {algorithm} does not {', '.join(sorted(beyond))}; "
            f"it may {', '.join(sorted(_BY_KIND[of.kind]))}"
        )
    if chosen & WRAPPING and chosen - WRAPPING:
        raise invalid("a wrapping key does nothing else: wrap and unwrap go with no other usage")
    both = {"encrypt", "decrypt"}
    if algorithm in _TWO_WAY and chosen & both and not both <= chosen:
        raise invalid(
            f"{algorithm} encrypts and decrypts by the same step: its keys need both usages"
        )
    if caller_iv and (of.kind not in {"aead", "cipher"} or not both <= chosen):
        raise invalid(
            "caller-iv needs encrypt and decrypt together: "
            "who chooses the IV of a stream cipher can decrypt"
        )
    if "raw" in chosen and not {"sign", "decrypt"} <= chosen:
        raise invalid("raw RSA is both: a key with raw needs sign and decrypt")
    iv = "caller" if caller_iv else "worker"
    usage = chosen | {CALLER_IV} if caller_iv else chosen
    return Right(tuple(sorted(usage)), iv)


def bits_of(algorithm: str, bits: int | None) -> int:
    """The size of a new key; EINVAL for one that the algorithm does not take."""
    of = family(algorithm)
    if bits is None:
        return of.default_bits
    if of.bits is not None:
        if bits not in of.bits:
            if len(of.bits) > 8:
                sizes = f"{of.bits[0]} to {of.bits[-1]} by {of.bits[1] - of.bits[0]}"
            else:
                sizes = ", ".join(map(str, of.bits))
            raise invalid(f"{algorithm} takes no key of {bits} bits, but of {sizes}")
    elif bits % 8 or not 64 <= bits <= 8192:
        raise invalid(f"{algorithm} takes keys of 64 to 8192 bits by 8, not {bits}")
    return bits
