"""Draws docs/algorithms.md from the table: `python docs/algorithms.py > docs/algorithms.md`."""

from __future__ import annotations

import errno
from itertools import groupby

import cryptofd
from cryptofd.description import Algorithm

KINDS = {
    "hash": "Hashes",
    "xof": "Hashes of any length",
    "mac": "MACs",
    "cipher": "Ciphers",
    "aead": "Authenticated encryption",
    "wrap": "Key wrapping",
    "kdf": "Key derivation",
    "pair": "Pairs of keys",
    "rng": "Random bytes",
    "streaming": "Files",
}

# What was asked for and is offered by no kept library; nothing is written by hand here.
NOT_THERE = (
    ("hmac(shake128), hmac(shake256)", "no standard defines HMAC over an extendable output"),
    ("hkdf, pbkdf2, kdf108-ctr over blake2b, blake2s", "no library's interface offers them"),
)


def names(a: Algorithm) -> str:
    """What it is called elsewhere."""
    other = a.names
    parts = []
    if other["openssl"]:
        parts.append(f"OpenSSL `{other['openssl']}`")
    if other["hashlib"]:
        parts.append(f"hashlib `{other['hashlib']}`")
    if other["pkcs11"]:
        parts.append(f"`{other['pkcs11']['name']}`")
    if other["kernel"] and other["kernel"] != a.name:
        parts.append(f"Linux `{other['kernel']}`")
    if other["cryptodev"] is not None:
        parts.append(f"cryptodev {other['cryptodev']}")
    if other["virtio"]:
        parts.append(f"virtio {other['virtio']['service']} {other['virtio']['id']}")
    return ", ".join(parts)


def served(a: Algorithm) -> bool:
    """Whether the engine that is always there does it."""
    if a.streaming is not None:
        return True  # by way of its KDF and its AEAD, which stand in the table too
    try:
        return any(c.serves for c in cryptofd.explain(a.name, engine="software"))
    except cryptofd.CryptoFDError as error:
        if error.errno == errno.EPERM:
            raise SystemExit(f"a policy of this host hides {a.name}: {error.strerror}") from None
        raise


def pairs(group: list[Algorithm]) -> list[str]:
    """The table of asymmetric keys."""
    out = [
        "Keys are DER: PKCS#8 for both halves, SubjectPublicKeyInfo for the public one; sizes are",
        "in bits, as OpenSSL counts them. [Python](python.md) says what each operation takes.",
        "",
        "| algorithm | bits | does | hash | strength | FIPS | elsewhere |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for a in group:
        fips = "yes" if a.fips else ""
        elsewhere = f"{names(a)}, `{a.names['key_type']['name']}`"
        does = ", ".join(a.operations)
        cells = (f"`{a.name}`", a.bits, does, a.hash or "", a.strength, fips, elsewhere)
        out.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    hashes = sorted({h for a in group for h in a.hashes})
    out += ["", f"Hashes of signatures and of OAEP: {', '.join(f'`{h}`' for h in hashes)}."]
    return [*out, ""]


def page() -> str:
    """The page."""
    out = [
        "# Algorithms",
        "",
        "Drawn from `algorithms.toml` by `make docs`. Sizes are in bytes, strength is in bits",
        "of security with the best key; *FIPS*: approved in FIPS 140-3 modules.",
        "`cryptofd explain ALG` says who serves one on this host.",
        "",
    ]
    algorithms = cryptofd.algorithms()
    for kind, group in groupby(algorithms, key=lambda a: a.kind):
        out += [f"## {KINDS[kind]}", ""]
        if kind == "pair":
            out += pairs(list(group))
            continue
        out += ["| algorithm | key | iv | output | strength | FIPS | elsewhere |"]
        out += ["| --- | --- | --- | --- | --- | --- | --- |"]
        for a in group:
            name = f"`{a.name}`" + "".join(f", `{alias}`" for alias in a.aliases)
            size = a.digest_size or a.tag_size or ""
            fips = "yes" if a.fips else ""
            cells = (name, a.key or "", a.iv or "", size, a.strength, fips, names(a))
            out.append("| " + " | ".join(str(cell) for cell in cells) + " |")
        out.append("")
    out += [
        "## Weak",
        "",
        "The table holds them, for what is old already; a policy can refuse them.",
        "",
    ]
    out += [f"- `{a.name}`: {a.weak}" for a in algorithms if a.weak]
    out += ["", "## Not there", ""]
    out += [f"- {name}: {why}" for name, why in NOT_THERE]
    missing = [a.name for a in algorithms if not served(a)]
    if missing:
        out += [f"- {', '.join(missing)}: in the table, but not in the engine `software`"]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    print(page(), end="")
