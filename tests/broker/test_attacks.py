"""Every usage, wrapping and deriving rule, with the attack that it stops, on the real processes."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from real_broker import Broker, opened, refused

import cryptofd
from cryptofd.broker import rules
from cryptofd.broker.client import Connection
from cryptofd.broker.store import _sum, canonical

RAW, IV = bytes(range(32)), bytes(16)
USAGES = sorted(rules.USAGES | {rules.CALLER_IV})


def template(algorithm: str, bits: int, *usage: str) -> dict[str, Any]:
    return {"algorithm": algorithm, "bits": bits, "usage": sorted(usage)}


# Usage: what each right opens, and nothing else


def once(op: str, *arguments: Any, **options: Any) -> Callable[[cryptofd.CryptoFD], Any]:
    def call(fd: cryptofd.CryptoFD) -> Any:
        fd.submit(op, *arguments, **options)
        answer = fd.complete()
        if answer.error is not None:
            raise answer.error
        return answer.data

    return call


def streamed(direction: Any, iv: bytes) -> Callable[[cryptofd.CryptoFD], Any]:
    return lambda fd: fd.stream(direction, iv=iv)


def into(fd: cryptofd.CryptoFD) -> Any:
    return fd.encrypt_into(bytearray(64), b"data", iv=IV[:12])


Table = dict[str, list[tuple[str, set[str], Callable[[cryptofd.CryptoFD], Any]]]]

#: By algorithm: an operation, what it needs, and how it is asked for.
TABLE: Table = {
    "gcm(aes)": [
        ("seal", {"encrypt"}, lambda fd: fd.seal(b"data")),
        ("unseal", {"decrypt"}, lambda fd: fd.unseal(bytes([1]) + bytes(28))),
        ("encrypt", {"caller-iv", "encrypt", "decrypt"}, lambda fd: fd.encrypt(b"x", iv=IV[:12])),
        ("encrypt_into", {"caller-iv", "encrypt", "decrypt"}, into),
        (
            "encrypt_many",
            {"caller-iv", "encrypt", "decrypt"},
            lambda fd: fd.encrypt_many([(b"data", IV[:12])]),
        ),
        ("decrypt", {"decrypt"}, lambda fd: fd.decrypt(bytes(20), iv=IV[:12])),
    ],
    "cbc(aes)": [
        ("encrypt", {"encrypt"}, lambda fd: fd.encrypt(RAW, iv=IV)),
        ("decrypt", {"decrypt"}, lambda fd: fd.decrypt(RAW, iv=IV)),
        ("stream, encrypting", {"encrypt"}, streamed("encrypt", IV)),
        ("stream, decrypting", {"decrypt"}, streamed("decrypt", IV)),
    ],
    "ctr(aes)": [
        ("encrypt", {"encrypt", "decrypt"}, lambda fd: fd.encrypt(RAW, iv=IV)),
        ("decrypt", {"encrypt", "decrypt"}, lambda fd: fd.decrypt(RAW, iv=IV)),
        ("stream", {"encrypt", "decrypt"}, streamed("encrypt", IV)),
    ],
    "hmac(sha256)": [
        ("digest", {"sign"}, once("digest", b"data")),
        ("verify", {"verify"}, once("verify", b"data", tag=bytes(32))),
        ("update, digest", {"sign"}, lambda fd: (fd.update(b"data"), fd.digest())),
        (
            "update, verify",
            {"verify"},
            lambda fd: (fd.update(b"data"), once("verify", tag=bytes(32))(fd)),
        ),
    ],
    "hkdf(sha256)": [
        ("derive", {"derive-bytes"}, lambda fd: fd.derive(32, info=b"x")),
    ],
    "ed25519": [
        ("sign", {"sign"}, lambda fd: fd.sign(b"data")),
        ("verify", {"verify"}, lambda fd: fd.verify(bytes(64), b"data")),
    ],
    "ecdsa-nist-p256": [
        ("sign", {"sign"}, lambda fd: fd.sign(b"data", hash="sha256")),
        ("sign_digest", {"sign-digest"}, lambda fd: fd.sign_digest(bytes(32), hash="sha256")),
        ("verify", {"verify"}, lambda fd: fd.verify(bytes(64), b"data", hash="sha256")),
        (
            "verify_digest",
            {"verify"},
            lambda fd: fd.verify_digest(bytes(64), bytes(32), hash="sha256"),
        ),
    ],
    "rsa": [
        ("sign", {"sign"}, lambda fd: fd.sign(b"data", hash="sha256")),
        ("sign_digest", {"sign-digest"}, lambda fd: fd.sign_digest(bytes(32), hash="sha256")),
        ("verify", {"verify"}, lambda fd: fd.verify(bytes(256), b"data", hash="sha256")),
        ("encrypt", {"encrypt"}, lambda fd: fd.encrypt(b"data", hash="sha256", scheme="oaep")),
        (
            "decrypt",
            {"decrypt"},
            lambda fd: fd.decrypt(bytes(256), hash="sha256", scheme="oaep"),
        ),
        (
            "decrypt without padding",
            {"raw", "sign", "decrypt"},
            lambda fd: fd.decrypt(bytes(255) + b"\x02", scheme="raw"),
        ),
    ],
    "x25519": [("agree", {"derive-bytes"}, lambda fd: fd.agree(b"no key"))],
    "ml-kem-768": [
        ("encapsulate", {"derive-bytes"}, lambda fd: fd.encapsulate()),
        ("decapsulate", {"derive-bytes"}, lambda fd: fd.decapsulate(bytes(1088))),
    ],
}


def _sets(algorithm: str) -> list[list[str]]:
    """Every single usage that the algorithm takes, the sets that go together, and all at once."""
    found = []
    both = ["decrypt", "encrypt"]
    for usage in ([one] for one in USAGES):
        found.append(usage)
    found += [both, [*both, "caller-iv"], ["decrypt", "raw", "sign"], ["sign", "verify"]]
    taken = []
    for usage in found:
        try:
            taken.append(list(rules.usage_of(algorithm, usage).usage))
        except OSError:
            continue
    return taken


@pytest.mark.parametrize(
    ("algorithm", "usage"),
    [(algorithm, usage) for algorithm in TABLE for usage in _sets(algorithm)],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_a_right_opens_its_operations_and_no_other(
    b: Connection, algorithm: str, usage: list[str]
) -> None:
    b.keys.generate("k", algorithm, usage=set(usage), bits=2048 if algorithm == "rsa" else None)
    try:
        fd = opened(b, algorithm, "k")
    except cryptofd.Refused:
        # Nothing of it is done in a session.
        assert not any(needed <= set(usage) for _, needed, _ in TABLE[algorithm])
        return
    for name, needed, call in TABLE[algorithm]:
        try:
            call(fd)
            code = None
        except cryptofd.CryptoFDError as error:
            code = error.errno
        if needed <= set(usage):
            assert code in (None, errno.EBADMSG, errno.EKEYREJECTED, errno.EINVAL), (name, code)
        else:
            assert code == errno.EPERM, f"{name} needs {needed}"
        if algorithm == "hmac(sha256)":
            fd.reset()


@pytest.mark.parametrize("algorithm", ["ctr(aes)", "cfb(aes)", "chacha20"])
@pytest.mark.parametrize("usage", ["encrypt", "decrypt"])
def test_encrypting_a_key_stream_is_decrypting_it(
    b: Connection, algorithm: str, usage: str
) -> None:
    refused(errno.EINVAL, b.keys.generate, "k", algorithm, usage={usage})
    b.keys.generate("k", algorithm)
    narrow = opened(b, algorithm, "k", usage={usage})
    for call in (
        lambda fd: fd.encrypt(RAW, iv=IV),
        lambda fd: fd.decrypt(RAW, iv=IV),
        streamed("encrypt", IV),
        streamed("decrypt", IV),
    ):
        refused(errno.EPERM, call, narrow)


@pytest.mark.parametrize("algorithm", ["gcm(aes)", "ccm(aes)", "rfc7539(chacha20,poly1305)"])
def test_no_way_to_choose_the_iv_without_the_right(b: Connection, algorithm: str) -> None:
    iv = bytes(12)
    for usage in ({"encrypt"}, {"decrypt"}, {"encrypt", "caller-iv"}, {"decrypt", "caller-iv"}):
        if "caller-iv" in usage:
            refused(errno.EINVAL, b.keys.generate, "k", algorithm, usage=usage)
    b.keys.generate("k", algorithm)
    fd = opened(b, algorithm, "k")
    ways: list[Callable[[], Any]] = [
        lambda: fd.encrypt(b"x", iv=iv),
        lambda: fd.encrypt_into(bytearray(64), b"x", iv=iv),
        lambda: fd.encrypt_many([(b"x", iv)]),
        lambda: once("encrypt", b"x", iv)(fd),
        lambda: opened(b, algorithm, "k", usage={"encrypt", "decrypt", "caller-iv"}),
    ]
    for way in ways:
        refused(errno.EPERM, way)
    # There is no way around by a stream, and SEAL takes no IV.
    for odd in (lambda: fd.stream("encrypt", iv=iv), lambda: once("seal", b"x", iv)(fd)):
        with pytest.raises(cryptofd.CryptoFDError) as caught:
            odd()
        assert caught.value.errno in (errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP)
    boxes = {fd.seal(b"") for _ in range(100)}
    assert len({box[1:13] for box in boxes}) == 100


def test_what_a_session_was_narrowed_to_stays(b: Connection) -> None:
    b.keys.generate("k", "gcm(aes)", usage={"encrypt", "decrypt", "caller-iv"})
    box = opened(b, "gcm(aes)", "k").seal(b"data")
    narrow = opened(b, "gcm(aes)", "k", usage={"decrypt"})
    clone = narrow.clone()
    adopted = cryptofd.adopt(os.dup(narrow.fileno()))
    for fd in (narrow, clone, adopted):
        assert fd.unseal(box) == b"data"
        refused(errno.EPERM, fd.seal, b"data")
        refused(errno.EPERM, fd.encrypt, b"data", iv=IV[:12])
    # Nobody gets more than the key has.
    b.keys.generate("d", "gcm(aes)", usage={"decrypt"})
    refused(errno.EPERM, opened, b, "gcm(aes)", "d", usage={"encrypt", "decrypt"})


def test_a_key_is_bound_to_its_algorithm(b: Connection) -> None:
    b.keys.generate("k", "gcm(aes)")
    for other in ("ctr(aes)", "ecb(aes)", "cbc(aes)", "gcm-siv(aes)", "hmac(sha256)", "kw(aes)"):
        refused(errno.EPERM, opened, b, other, "k")
    refused(errno.EPERM, opened, b, "sha256", "k")


def test_a_tag_is_not_made_shorter(b: Connection) -> None:
    """The shorter the tag, the fewer forgeries until one is taken."""
    b.keys.generate("k", "gcm(aes)")
    refused(errno.EPERM, opened, b, "gcm(aes)", "k", tag_size=12)
    fd = opened(b, "gcm(aes)", "k")
    box = fd.seal(b"data")
    refused(errno.EBADMSG, fd.unseal, box[:-4])
    b.keys.generate("m", "hmac(sha256)")
    mac = opened(b, "hmac(sha256)", "m")
    tag = once("digest", b"data")(mac)
    once("verify", b"data", tag=tag)(mac)
    for length in (0, 1, 2, 4):
        with pytest.raises(cryptofd.CryptoFDError) as caught:
            once("verify", b"data", tag=tag[:length])(mac)
        assert caught.value.errno in (errno.EBADMSG, errno.EINVAL)


# Wrapping


def test_a_wrapping_key_does_nothing_else(b: Connection) -> None:
    for algorithm, more in (("gcm(aes)", "encrypt"), ("gcm(aes)", "decrypt"), ("rsa", "decrypt"),
                            ("rsa", "sign"), ("gcm(aes)", "digest")):  # fmt: skip
        refused(errno.EINVAL, b.keys.generate, "k", algorithm, usage={"wrap", "unwrap", more})
    for algorithm in ("gcm(aes)", "kw(aes)", "kwp(aes)"):
        b.keys.generate("kek", algorithm, usage={"wrap", "unwrap"})
        refused(errno.EPERM, opened, b, algorithm, "kek")
        refused(errno.EPERM, opened, b, algorithm, "kek", usage={"unwrap"})
        b.keys.delete("kek")
    # One that encrypts does not wrap.
    b.keys.generate("data", "gcm(aes)")
    b.keys.generate("k", "gcm(aes)", exportable=True, wrappable=True)
    refused(errno.EPERM, b.keys.wrap, "k", by="data")


def test_a_known_wrapping_key_does_not_get_a_key_out(b: Connection) -> None:
    b.keys.generate("k", "gcm(aes)", wrappable=True)
    b.keys.import_key("known", "kw(aes)", RAW)
    refused(errno.EPERM, b.keys.wrap, "k", by="known", format="kw")
    # Not by a detour: one's own key is not made trusted by wrapping, unwrapping or rotating it.
    b.keys.generate("kek", "gcm(aes)", usage={"wrap", "unwrap"}, wrappable=True)
    b.keys.trust("kek")
    b.keys.import_key("inner", "gcm(aes)", RAW, usage={"wrap", "unwrap"}, wrappable=True)
    box = b.keys.wrap("inner", by="kek")
    assert not b.keys.unwrap("again", box, by="kek").trusted
    refused(errno.EPERM, b.keys.wrap, "k", by="again")
    assert not b.keys.rotate("kek").trusted
    refused(errno.EPERM, b.keys.wrap, "k", by="kek")
    # Nor is what somebody could read.
    b.keys.generate("loud", "gcm(aes)", usage={"wrap"}, exportable=True)
    refused(errno.EPERM, b.keys.trust, "loud")


def test_what_is_not_wrappable_stays(b: Connection) -> None:
    b.keys.generate("kek", "gcm(aes)", usage={"wrap", "unwrap"})
    b.keys.trust("kek")
    b.keys.generate("k", "gcm(aes)")
    refused(errno.EPERM, b.keys.wrap, "k", by="kek")
    b.keys.generate("few", "gcm(aes)", wrappable=True, uses=5)
    assert "use limit" in refused(errno.EPERM, b.keys.wrap, "few", by="kek")
    refused(errno.EPERM, b.keys.wrap, "kek", by="kek")


@pytest.mark.parametrize(
    ("by", "by_bits", "key", "bits"),
    [
        ("gcm(aes)", 128, "gcm(aes)", 256),
        ("gcm(aes)", 192, "hmac(sha256)", 256),
        ("kwp(aes)", 128, "xts(aes)", 512),
        ("gcm(aes)", 128, "ecdsa-nist-p384", 384),
        ("rsa", 2048, "gcm(aes)", 128),
        ("rsa", 3072, "gcm(aes)", 192),
    ],
)
def test_nothing_weaker_wraps_something_stronger(
    b: Connection, by: str, by_bits: int, key: str, bits: int
) -> None:
    b.keys.generate("kek", by, bits=by_bits, usage={"wrap", "unwrap"})
    b.keys.trust("kek")
    b.keys.generate("k", key, bits=bits, wrappable=True)
    form: Any = {"rsa": "rsa-oaep", "kwp(aes)": "kwp"}.get(by, "cryptofd")
    assert "weaker" in refused(errno.EPERM, b.keys.wrap, "k", by="kek", format=form)


def test_what_was_unwrapped_never_leaves(b: Connection) -> None:
    b.keys.import_key("kek", "gcm(aes)", RAW, usage={"wrap", "unwrap"})
    b.keys.import_key("k", "gcm(aes)", RAW, exportable=True, wrappable=True)
    box = b.keys.wrap("k", by="kek")
    back = b.keys.unwrap("back", box, by="kek")
    assert not back.exportable
    refused(errno.EPERM, b.keys.export, "back")
    # The untrusted key that brought it in does not take it out again.
    refused(errno.EPERM, b.keys.wrap, "back", by="kek")


def test_a_key_comes_back_as_what_it_was(b: Connection) -> None:
    """Of our own format: under no other algorithm, with no more usage, no later end."""
    b.keys.generate("kek", "gcm(aes)", usage={"wrap", "unwrap"})
    b.keys.trust("kek")
    b.keys.generate("k", "gcm(aes)", usage={"encrypt"}, wrappable=True, expires=4102444800)
    box = b.keys.wrap("k", by="kek")
    for other in ("ctr(aes)", "ecb(aes)", "gcm-siv(aes)"):
        with pytest.raises(cryptofd.CryptoFDError) as caught:
            b.keys.unwrap("x", box, by="kek", algorithm=other)
        assert caught.value.errno in (errno.EBADMSG, errno.EPERM)
    refused(errno.EPERM, b.keys.unwrap, "x", box, by="kek", usage={"encrypt", "decrypt"})
    back = b.keys.unwrap("back", box, by="kek")
    assert (back.usage, back.expires, back.tag_size) == (["encrypt"], 4102444800, 16)
    # Attributes in the box are authenticated.
    at = box.index(b'"encrypt"')
    refused(errno.EBADMSG, b.keys.unwrap, "x", box[:at] + b'"decrypt"' + box[at + 9 :], by="kek")
    # What another key wrapped is nothing to this one.
    b.keys.generate("other", "gcm(aes)", usage={"wrap", "unwrap"})
    refused(errno.EBADMSG, b.keys.unwrap, "x", box, by="other")


@pytest.mark.parametrize(
    ("to", "usage"),
    [
        (template("ctr(aes)", 256, "encrypt", "decrypt", "caller-iv"), {"encrypt", "decrypt"}),
        (template("gcm(aes)", 256, "encrypt", "decrypt"), {"encrypt"}),
        (template("gcm(aes)", 256, "encrypt", "decrypt", "caller-iv"), {"encrypt", "decrypt"}),
    ],
    ids=["another algorithm", "more usage", "the caller's IV"],
)
@pytest.mark.parametrize("form", ["kw", "kwp"])
def test_a_foreign_format_does_not_wash_attributes_off(
    b: Connection, to: dict[str, Any], usage: set[str], form: Any
) -> None:
    """KW carries no attributes: what its key unwraps to must not be more than what it wrapped."""
    b.keys.generate("kek", f"{form}(aes)", wrap_template=to)
    b.keys.trust("kek")
    b.keys.generate("k", "gcm(aes)", usage=usage, wrappable=True)
    assert "template" in refused(errno.EPERM, b.keys.wrap, "k", by="kek", format=form)


def test_nor_an_end(b: Connection) -> None:
    b.keys.generate("kek", "kw(aes)", wrap_template=template("gcm(aes)", 256, "encrypt", "decrypt"))
    b.keys.trust("kek")
    b.keys.generate("k", "gcm(aes)", wrappable=True, expires=4102444800)
    assert "end" in refused(errno.EPERM, b.keys.wrap, "k", by="kek", format="kw")
    b.keys.generate("whole", "gcm(aes)", wrappable=True)
    assert b.keys.unwrap("back", b.keys.wrap("whole", by="kek", format="kw"), by="kek", format="kw")


def test_unwrapping_needs_the_template(b: Connection) -> None:
    kek = bytes(range(32, 64))
    b.keys.import_key("bare", "kw(aes)", kek)
    wrapped = keywrap.aes_key_wrap(kek, RAW)
    refused(errno.EPERM, b.keys.unwrap, "x", wrapped, by="bare", format="kw")
    refused(errno.EPERM, b.keys.unwrap, "x", wrapped, by="bare", format="kw", algorithm="gcm(aes)")
    to = template("gcm(aes)", 256, "decrypt")
    b.keys.import_key("kek", "kw(aes)", kek, wrap_template=to)
    refused(errno.EPERM, b.keys.unwrap, "x", wrapped, by="kek", format="kw", algorithm="ctr(aes)")
    refused(errno.EPERM, b.keys.unwrap, "x", wrapped, by="kek", format="kw", usage={"encrypt"})
    assert b.keys.unwrap("k", wrapped, by="kek", format="kw").usage == ["decrypt"]
    # A key of another size than the template says.
    with pytest.raises(cryptofd.CryptoFDError) as caught:
        b.keys.unwrap("x", keywrap.aes_key_wrap(kek, RAW[:16]), by="kek", format="kw")
    assert caught.value.errno in (errno.EPERM, errno.EINVAL)


# Deriving


def test_a_derived_key_is_what_the_template_says(b: Connection) -> None:
    to = template("gcm(aes)", 256, "encrypt", "decrypt")
    b.keys.generate("base", "hkdf(sha256)", derive_template=to)
    # A shorter one is a part of the longer one.
    for bits in (128, 192, 64, 8):
        refused(errno.EPERM, b.keys.derive, "x", base="base", bits=bits)
    for other in ("ctr(aes)", "hmac(sha256)", "gcm-siv(aes)"):
        refused(errno.EPERM, b.keys.derive, "x", base="base", algorithm=other)
    refused(errno.EPERM, b.keys.derive, "x", base="base", usage={"encrypt", "caller-iv"})
    refused(errno.EPERM, b.keys.derive, "x", base="base", exportable=True)
    refused(errno.EINVAL, b.keys.derive, "x", base="base", how="hkdf(sha512)")
    short = template("hmac(sha256)", 64, "sign")
    refused(errno.EINVAL, b.keys.generate, "short", "hkdf(sha256)", derive_template=short)
    b.keys.generate("bare", "hkdf(sha256)")
    refused(errno.EPERM, b.keys.derive, "x", base="bare")
    # Its bytes are not to be had either.
    refused(errno.EPERM, opened, b, "hkdf(sha256)", "base")
    b.keys.generate("bytes", "hkdf(sha256)", usage={"derive-bytes"})
    refused(errno.EPERM, b.keys.derive, "x", base="bytes")
    assert len(opened(b, "hkdf(sha256)", "bytes").derive(16)) == 16
    # A key for wrapping or for data derives nothing.
    b.keys.generate("data", "gcm(aes)")
    refused(errno.EPERM, b.keys.derive, "x", base="data", how="hkdf(sha256)")


# The store


def forged(real: Broker, which: str, /, **changed: Any) -> None:
    """Change attributes or columns of a key, and its checksum with them, as root could."""
    connection = sqlite3.connect(real.state / "store.sqlite")
    names = ("id", "attributes", "blob", "public", "current", "spent", "token")
    rows = connection.execute(f"SELECT number, {', '.join(names)} FROM keys").fetchall()
    (row,) = [row for row in rows if json.loads(row[2])["label"] == which]
    columns = dict(zip(names, row[1:], strict=True))
    attributes = json.loads(columns["attributes"])
    for name, value in changed.items():
        if name in columns:
            columns[name] = value
        else:
            attributes[name] = value
    columns["attributes"] = canonical(attributes)
    if "id" in changed:
        columns["attributes"] = canonical({**attributes, "id": changed["id"]})
    values = [columns[name] for name in names]
    checksum = _sum(*(bool(v) if n == "current" else v for n, v in zip(names, values, strict=True)))
    assigned = ", ".join(f"{name} = ?" for name in (*names, "sum"))
    connection.execute(f"UPDATE keys SET {assigned} WHERE number = ?", (*values, checksum, row[0]))
    connection.commit()
    connection.close()


FLIPS: dict[str, Any] = {
    "exportable": True,
    "wrappable": True,
    "trusted": True,
    "usage": ["caller-iv", "decrypt", "encrypt"],
    "iv": "caller",
    "algorithm": "gcm-siv(aes)",
    "bits": 128,
    "tag_size": 12,
    "expires": None,
    "uses": None,
    "created": 0,
    "origin": "imported",
    "fingerprint": "0" * 32,
    "class": "session",
    "owner": "uid:4242",
    "id": "0" * 32,
    "version": 7,
    "wrap_template": template("gcm(aes)", 256, "encrypt"),
    "derive_template": template("gcm(aes)", 256, "encrypt"),
    "more": 1,
}


def test_a_flipped_attribute_makes_the_key_useless(tmp_path: Path) -> None:
    real = Broker(tmp_path)
    b = real.connect()
    for label in FLIPS:
        b.keys.generate(label, "gcm(aes)", usage={"decrypt"}, expires=4102444800, uses=1000)
    b.keys.generate("label", "gcm(aes)", usage={"decrypt"})
    b.keys.generate("whole", "gcm(aes)", usage={"decrypt"})
    b.keys.generate("kek", "gcm(aes)", usage={"wrap", "unwrap"})
    b.keys.trust("kek")
    real.end()
    for name, value in FLIPS.items():
        forged(real, name, **{name: value})
    forged(real, "label", label="renamed")
    real.start()
    b = real.connect()
    assert b.status()["problems"] == []
    for label in [*FLIPS, "label"]:
        name = {"owner": "4242/owner", "label": "renamed"}.get(label, label)
        algorithm = "gcm-siv(aes)" if label == "algorithm" else "gcm(aes)"
        for call in (
            lambda n=name, a=algorithm: opened(b, a, n),
            lambda n=name: b.keys.export(n),
            lambda n=name: b.keys.wrap(n, by="kek"),
            lambda n=name: b.keys.change(n, expires=2000000000),
        ):
            with pytest.raises(cryptofd.CryptoFDError) as caught:
                call()
            assert caught.value.errno in (errno.EBADMSG, errno.EPERM, errno.EINVAL), label
        # Something of it must have reached the worker, and been found out there.
        refused(errno.EBADMSG, opened, b, algorithm, name)
    assert opened(b, "gcm(aes)", "whole")
    real.end()


def test_what_was_taken_from_another_key_is_none_of_ones_own(tmp_path: Path) -> None:
    real = Broker(tmp_path)
    b = real.connect()
    one = b.keys.generate("one", "gcm(aes)")
    b.keys.generate("two", "gcm(aes)")
    b.keys.generate("k", "gcm(aes)")
    with opened(b, "gcm(aes)", "k") as fd:
        box = fd.seal(b"data")
    b.keys.rotate("k")
    real.end()
    connection = sqlite3.connect(real.state / "store.sqlite")
    (blob,) = connection.execute("SELECT blob FROM keys WHERE id = ?", (one.id,)).fetchone()
    connection.close()
    forged(real, "two", blob=blob)
    # The old version says that it is the newest.
    connection = sqlite3.connect(real.state / "store.sqlite")
    row = connection.execute(
        "SELECT number, id, attributes, blob, public, spent, token FROM keys WHERE current = 0"
    ).fetchone()
    number, key, attributes, blob, public, spent, token = row
    connection.execute(
        "UPDATE keys SET current = 1, sum = ? WHERE number = ?",
        (_sum(key, attributes, blob, public, True, spent, token), number),
    )
    connection.commit()
    connection.close()
    real.start()
    b = real.connect()
    refused(errno.EBADMSG, opened, b, "gcm(aes)", "two")
    assert opened(b, "gcm(aes)", "one")
    old = opened(b, "gcm(aes)", "k", version=1)
    assert old.unseal(box) == b"data"
    refused(errno.EPERM, old.seal, b"data")
    real.end()


def test_nobody_is_shown_a_public_key_that_was_put_into_the_store(tmp_path: Path) -> None:
    """Whoever is told the attacker's would encrypt to him, or take his signatures."""
    real = Broker(tmp_path)
    b = real.connect()
    for label in ("whole", "alone", "with-fingerprint", "of-another", "none"):
        b.keys.generate(label, "ed25519")
    before = {key.label: key for key in b.keys.list()}
    real.end()
    mine = Ed25519PrivateKey.generate().public_key()
    spki = mine.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    forged(real, "alone", public=spki)
    forged(real, "with-fingerprint", public=spki, fingerprint=hashlib.sha256(spki).hexdigest())
    other = base64.b64decode(str(before["whole"].public))
    forged(real, "of-another", public=other, fingerprint=hashlib.sha256(other).hexdigest())
    forged(real, "none", public=None)
    real.start()
    b = real.connect()
    for label in ("alone", "with-fingerprint", "of-another"):
        with pytest.raises(cryptofd.CryptoFDError) as caught:
            b.keys.info(label)
        assert caught.value.errno == errno.EBADMSG
    with pytest.raises(cryptofd.CryptoFDError, match="alone version 1 is not that key's"):
        b.keys.info("alone")
    # One key does not hide the others; it is listed, without what is not its own.
    for _ in range(2):
        shown = {key.label: key.public for key in b.keys.list()}
        assert shown == {**dict.fromkeys(before), "whole": before["whole"].public}
    assert b.keys.info("whole").public == before["whole"].public
    # The private key is what it was: whoever verifies with the true public key is served.
    with opened(b, "ed25519", "alone") as fd:
        public = load_der_public_key(base64.b64decode(str(before["alone"].public)))
        assert isinstance(public, Ed25519PublicKey)
        public.verify(fd.sign(b"data"), b"data")
    real.end()


def test_counts_that_are_put_back(tmp_path: Path) -> None:
    """What the store says is spent is not authenticated (docs/threats.md): a use limit can be put
    back to its beginning by whoever writes the store, and no further."""
    real = Broker(tmp_path)
    b = real.connect()
    for label in ("back", "below"):
        b.keys.generate(label, "hmac(sha256)", usage={"sign"}, uses=16)
    with opened(b, "hmac(sha256)", "back") as fd:
        fd.update(b"data")
        fd.digest()
    real.end()
    forged(real, "back", spent=0)
    forged(real, "below", spent=-1000)
    real.start()
    b = real.connect()
    assert b.keys.info("back").uses_left == 16
    assert any("below" in problem or "its counts" in problem for problem in b.status()["problems"])
    refused(errno.ENOKEY, opened, b, "hmac(sha256)", "below")
    real.end()


def test_a_death_gives_no_use_back(real: Broker, b: Connection) -> None:
    """What was leased is spent, whoever dies before it was used."""
    b.keys.generate("k", "hmac(sha256)", uses=500)
    fd = opened(b, "hmac(sha256)", "k")
    done = 0
    digest = once("digest", b"data")
    for death in (real.kill_worker, real.kill_broker, real.kill_worker):
        for _ in range(40):
            digest(fd)
            done += 1
        death()
    code = None
    while code is None:
        try:
            digest(fd)
            done += 1
        except cryptofd.CryptoFDError as error:
            code = error.errno
    assert code == errno.EDQUOT
    assert done <= 500
    assert b.keys.info("k").uses_left == 0


def test_what_was_deleted_serves_nobody(real: Broker, b: Connection) -> None:
    b.keys.generate("k", "gcm(aes)")
    fd = opened(b, "gcm(aes)", "k")
    clone = fd.clone()
    box = fd.seal(b"data")
    b.keys.delete("k")
    for one in (fd, clone):
        refused(errno.EPIPE, one.unseal, box)
    # Not after a takeover either.
    os.kill(b.status()["workers"][0]["pid"], signal.SIGKILL)
    refused(errno.EPIPE, clone.unseal, box)
    refused(errno.ENOKEY, opened, b, "gcm(aes)", "k")
    # A new key of this name is another.
    b.keys.generate("k", "gcm(aes)")
    refused(errno.EBADMSG, opened(b, "gcm(aes)", "k").unseal, box)
