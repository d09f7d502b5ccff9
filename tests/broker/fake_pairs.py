"""Asymmetric algorithms for a table that has none: enough for the broker's rules."""

from __future__ import annotations

from typing import Any

from cryptofd.broker import rules


def _entry(
    name: str, bits: tuple[int, int], operations: list[str], strength: int, **more: Any
) -> Any:
    low, high = bits
    return {
        "name": name,
        "kind": "pair",
        "bits": {"min": low, "max": high, "step": 8 if high > low else 1},
        "operations": operations,
        "strength": strength,
        "weak": None,
        "fips": True,
        **more,
    }


def complete() -> None:
    """Add what is not there."""
    table = rules._table()
    for entry in (
        _entry(
            "rsa",
            (2048, 8192),
            ["sign", "verify", "encrypt", "decrypt"],
            192,
            bits_default=3072,
            hashes=["sha256"],
            strengths=[[2048, 112], [3072, 128], [7680, 192]],
        ),
        _entry("ecdsa-nist-p256", (256, 256), ["sign", "verify"], 128, hashes=["sha256"]),
        _entry("ecdh-nist-p256", (256, 256), ["agree"], 128),
        _entry("ed25519", (256, 256), ["sign", "verify"], 128),
    ):
        table.setdefault(entry["name"], entry)
