"""Secret keys that tests give to the broker; the default provider has their bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from real_broker import Broker

#: Label, algorithm, bytes, usage where it is not the usual one.
_BOTH = ("encrypt", "decrypt")
KEYS: dict[str, tuple[str, bytes, tuple[str, ...] | None]] = {
    "cbc": ("cbc(aes)", bytes(range(1, 33)), None),
    "cbc128": ("cbc(aes)", bytes(range(2, 18)), None),
    "ecb": ("ecb(aes)", bytes(range(3, 27)), None),
    "ctr": ("ctr(aes)", bytes(range(4, 36)), None),
    "cfb": ("cfb(aes)", bytes(range(5, 37)), None),
    "xts": ("xts(aes)", bytes(range(6, 70)), None),
    "gcm": ("gcm(aes)", bytes(range(7, 39)), (*_BOTH, "caller-iv")),
    "ccm": ("ccm(aes)", bytes(range(8, 40)), (*_BOTH, "caller-iv")),
    "siv": ("gcm-siv(aes)", bytes(range(9, 41)), (*_BOTH, "caller-iv")),
    "chacha": ("rfc7539(chacha20,poly1305)", bytes(range(10, 42)), (*_BOTH, "caller-iv")),
    # The worker chooses its IVs.
    "boxes": ("gcm(aes)", bytes(range(11, 43)), None),
    "reads": ("cbc(aes)", bytes(range(12, 44)), ("decrypt",)),
    "hmac": ("hmac(sha256)", bytes(range(13, 45)), None),
    "cmac": ("cmac(aes)", bytes(range(14, 46)), None),
    "checks": ("hmac(sha256)", bytes(range(15, 47)), ("verify",)),
    "base": ("hkdf(sha256)", bytes(range(17, 49)), ("derive-bytes",)),
    "counter": ("kdf108-ctr(hmac(sha256))", bytes(range(18, 50)), ("derive-bytes",)),
    "wraps": ("kw(aes)", bytes(range(16, 48)), None),
}


def fill(broker: Broker) -> None:
    """Puts them there."""
    keys = broker.connect().keys
    for label, (algorithm, key, usage) in KEYS.items():
        options = {} if usage is None else {"usage": set(usage)}
        keys.import_key(label, algorithm, key, **options)  # type: ignore[arg-type]
