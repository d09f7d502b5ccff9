"""NCR's table of keys as a table of tests, and every rule of usage, wrapping and deriving.

Rows name NCR's ioctls and flags (precedents: crypto/userspace/ncr.h of cryptodev-linux).
"""

from __future__ import annotations

import base64
import errno
import os
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import pytest
from fake_supervisor import Supervisor
from varlink_client import Client

import cryptofd
from cryptofd.broker import rules

TEMPLATE = {"algorithm": "gcm(aes)", "bits": 256, "usage": ["encrypt", "decrypt"]}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def refused(call: Callable[[], Any], number: int, *words: str) -> None:
    """``call`` fails with ``number``; its sentence names these words."""
    with pytest.raises(OSError) as caught:  # noqa: PT011
        call()
    assert caught.value.errno == number, caught.value
    for word in words:
        assert word in str(caught.value.strerror), caught.value.strerror


def kek(broker: Client, label: str = "kek", algorithm: str = "kwp(aes)", **more: Any) -> None:
    broker.generate(label, algorithm, usage=["wrap", "unwrap"], **more)


@pytest.mark.parametrize(
    ("bits", "strength"), [(2048, 112), (3072, 128), (4096, 152), (6144, 176), (8192, 200)]
)
def test_the_strength_of_a_modulus(bits: int, strength: int) -> None:
    """The examples of SP 800-56B revision 2, table 4."""
    assert rules._factoring(bits) == strength


# What there is: each row of NCR's table of ioctls


def test_key_generate_secret(broker: Client) -> None:
    key = broker.generate("a", "gcm(aes)", bits=128)
    assert (key["bits"], key["type"], key["origin"], key["owner"]) == (
        128, "secret", "generated", f"uid:{os.getuid()}",
    )  # fmt: skip
    assert not key["exportable"]
    assert not key["wrappable"]
    assert not key["trusted"]
    assert len(key["fingerprint"]) == 32


@pytest.mark.parametrize("algorithm", ["rsa", "ecdsa-nist-p256", "ed25519", "ecdh-nist-p256"])
def test_key_generate_pair(broker: Client, algorithm: str) -> None:
    bits = {"rsa": 2048}.get(algorithm)
    key = broker.generate("a", algorithm, bits=bits)
    assert key["type"] == "pair"
    assert len(base64.b64decode(key["public"])) > 40


def test_key_import_export(broker: Client) -> None:
    raw = os.urandom(32)
    key = broker.import_key("a", "gcm(aes)", raw, exportable=True)
    assert (key["bits"], key["origin"]) == (256, "imported")
    assert broker.export("a") == raw


def test_key_get_info_and_list(broker: Client) -> None:
    made = broker.generate("a")
    assert broker.call("KeyInfo", key="a")["key"] == made
    assert broker.call("KeyInfo", key=f"cryptofd:{os.getuid()}/a")["key"] == made
    assert broker.call("ListKeys")["keys"] == [made]


def test_list_goes_on_where_it_stopped(broker: Client) -> None:
    for number in range(60):
        broker.generate(f"k{number}")
    first = broker.call("ListKeys")["keys"]
    second = broker.call("ListKeys", after=first[-1]["id"])["keys"]
    assert len(first) == 50
    assert {key["label"] for key in first + second} == {f"k{n}" for n in range(60)}


def test_key_deinit(broker: Client) -> None:
    broker.generate("a")
    broker.call("DeleteKey", key="a")
    refused(lambda: broker.call("KeyInfo", key="a"), errno.ENOKEY, "cryptofd:")


@pytest.mark.parametrize("form", ["cryptofd", "kwp", "kw"])
def test_key_wrap_unwrap(broker: Client, form: str) -> None:
    algorithm = {"cryptofd": "gcm(aes)"}.get(form, f"{form}(aes)")
    kek(broker, algorithm=algorithm, wrap_template=TEMPLATE)
    raw = os.urandom(32)
    broker.import_key("a", "gcm(aes)", raw, exportable=True, wrappable=True)
    wrapped = broker.call("WrapKey", key="a", by="kek", format=form)["wrapped"]
    assert raw not in base64.b64decode(wrapped)
    key = broker.call("UnwrapKey", label="b", wrapped=wrapped, by="kek", format=form)["key"]
    assert key["fingerprint"] == broker.call("KeyInfo", key="a")["key"]["fingerprint"]
    assert (key["exportable"], key["trusted"]) == (False, False)
    assert key["origin"] == "unwrapped"


def test_key_wrap_with_rsa(broker: Client) -> None:
    kek(broker, algorithm="rsa", bits=3072, wrap_template={**TEMPLATE, "bits": 128})
    broker.import_key("a", "gcm(aes)", os.urandom(16), exportable=True, wrappable=True)
    wrapped = broker.call("WrapKey", key="a", by="kek", format="rsa-oaep")["wrapped"]
    key = broker.call("UnwrapKey", label="b", wrapped=wrapped, by="kek", format="rsa-oaep")["key"]
    assert key["fingerprint"] == broker.call("KeyInfo", key="a")["key"]["fingerprint"]


def test_key_derive_hkdf(broker: Client) -> None:
    raw = os.urandom(32)
    broker.import_key("base", "hkdf(sha256)", raw, derive_template=TEMPLATE, exportable=True)
    broker.call("DeriveKey", label="out", base="base", how="hkdf(sha256)", info=b64(b"x"),
                exportable=True)  # fmt: skip
    with cryptofd.open("hkdf(sha256)", key=raw) as fd:
        assert broker.export("out") == fd.derive(32, info=b"x")


def test_key_derive_ecdh(broker: Client) -> None:
    for label in ("mine", "theirs"):
        broker.generate(label, "ecdh-nist-p256", derive_template=TEMPLATE)
    public = {
        name: broker.call("KeyInfo", key=name)["key"]["public"] for name in ("mine", "theirs")
    }
    first = broker.call("DeriveKey", label="a", base="mine", how="ecdh", peer=public["theirs"])
    second = broker.call("DeriveKey", label="b", base="theirs", how="ecdh", peer=public["mine"])
    assert first["key"]["fingerprint"] == second["key"]["fingerprint"]


def test_storage_survives_a_restart(supervisor: Supervisor, connect: Callable[[], Client]) -> None:
    made = connect().generate("a")
    supervisor.stop_broker()
    supervisor.start()
    assert connect().call("KeyInfo", key="a")["key"] == made


def test_session_init(broker: Client, supervisor: Supervisor) -> None:
    broker.generate("a", usage=["encrypt", "decrypt"])
    os.close(broker.open(key="a", usage=["encrypt"]))
    recipe = next(asked["recipe"] for op, asked in supervisor.seen if op == "session")
    assert recipe["usage"] == ["encrypt"]
    assert recipe["who"] == {"uid": os.getuid(), "pid": os.getpid()}
    assert recipe["raw"] is False


def test_session_on_a_key_of_ones_own(broker: Client, supervisor: Supervisor) -> None:
    reading, writing = os.pipe()
    os.write(writing, bytes(32))
    os.close(writing)
    broker.call("HandOver", [reading], algorithm="gcm(aes)", fd=0)
    os.close(broker.take())
    recipe = next(asked["recipe"] for op, asked in supervisor.seen if op == "session")
    assert recipe["raw"] is True
    assert recipe["key"]["class"] == "session"
    assert broker.call("ListKeys")["keys"] == []


def test_session_without_a_key(broker: Client) -> None:
    os.close(broker.open(algorithm="sha256"))


# What is refused, and with which errno

GENERATE: list[tuple[str, dict[str, Any], int, str]] = [
    ("no algorithm", {"algorithm": "rot13"}, errno.ENOENT, "rot13"),
    ("no key to keep", {"algorithm": "sha256"}, errno.EINVAL, "sha256"),
    ("one-time key", {"algorithm": "poly1305"}, errno.EINVAL, "one message"),
    ("size", {"bits": 200}, errno.EINVAL, "128, 192, 256"),
    ("label with a slash at the end", {"label": "a/"}, errno.EINVAL, "label"),
    ("label with a space at the end", {"label": "a "}, errno.EINVAL, "label"),
    ("label with a space before", {"label": " a"}, errno.EINVAL, "label"),
    ("label with two spaces", {"label": "a  b"}, errno.EINVAL, "label"),
    ("label with another space", {"label": "a\u00a0b"}, errno.EINVAL, "label"),
    ("label of two lines", {"label": "a\nb"}, errno.EINVAL, "label"),
    ("label with a line's end", {"label": "a\n"}, errno.EINVAL, "label"),
    ("label with a comma", {"label": "a,b"}, errno.EINVAL, "label"),
    ("empty label", {"label": ""}, errno.EINVAL, "label"),
    ("long label", {"label": "a" * 65}, errno.EINVAL, "64"),
    ("long label with spaces", {"label": "a " * 32 + "a"}, errno.EINVAL, "64"),
    ("label with spaces", {"label": "John's Example ID"}, 0, ""),
    ("longest label", {"label": "a b " + "c" * 60}, 0, ""),
    ("no usage", {"usage": []}, errno.EINVAL, "usage"),
    ("strange usage", {"usage": ["fly"]}, errno.EINVAL, "fly"),
    ("AEAD signs", {"usage": ["sign"]}, errno.EINVAL, "sign"),
    ("MAC encrypts", {"algorithm": "hmac(sha256)", "usage": ["encrypt"]}, errno.EINVAL, "encrypt"),
    ("wrapping and else", {"usage": ["wrap", "encrypt"]}, errno.EINVAL, "nothing else"),
    ("unwrapping and else", {"usage": ["unwrap", "digest"]}, errno.EINVAL, "nothing else"),
    ("CTR one way", {"algorithm": "ctr(aes)", "usage": ["encrypt"]}, errno.EINVAL, "both"),
    ("CTR other way", {"algorithm": "ctr(aes)", "usage": ["decrypt"]}, errno.EINVAL, "both"),
    ("CFB one way", {"algorithm": "cfb(aes)", "usage": ["encrypt"]}, errno.EINVAL, "both"),
    ("ChaCha one way", {"algorithm": "chacha20", "usage": ["decrypt"]}, errno.EINVAL, "both"),
    ("caller-iv one way", {"usage": ["encrypt", "caller-iv"]}, errno.EINVAL, "caller-iv"),
    ("caller-iv of a MAC", {"algorithm": "hmac(sha256)", "usage": ["sign", "caller-iv"]},
     errno.EINVAL, "caller-iv"),
    ("raw one way", {"algorithm": "rsa", "usage": ["raw", "sign"]}, errno.EINVAL, "raw"),
    ("RSA-1024", {"algorithm": "rsa", "bits": 1024}, errno.EINVAL, "2048"),
    ("expired", {"expires": 1}, errno.EINVAL, "second"),
    ("far away", {"expires": 1 << 60}, errno.EINVAL, "9999"),
    ("no uses", {"uses": 0}, errno.EINVAL, "1 or more"),
    ("tag size", {"tag_size": 5}, errno.EINVAL, "4, 8, 12"),
    ("tag of a MAC", {"algorithm": "hmac(sha256)", "tag_size": 16}, errno.EINVAL, "tag"),
    ("weak", {"algorithm": "hmac(md5)"}, 0, ""),
    ("64-bit blocks", {"algorithm": "cbc(des3_ede)"}, 0, ""),
    ("short MAC key", {"algorithm": "hmac(sha256)", "bits": 64}, errno.EPERM, "112"),
    ("template without unwrap", {"wrap_template": TEMPLATE}, errno.EINVAL, "unwrap"),
    ("template without derive", {"derive_template": TEMPLATE}, errno.EINVAL, "derive"),
    ("short token", {"token": "x"}, errno.EINVAL, "token"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "number", "word"), [row[1:] for row in GENERATE],
                         ids=[row[0] for row in GENERATE])  # fmt: skip
def test_generate_refuses(broker: Client, asked: dict[str, Any], number: int, word: str) -> None:
    call = {"label": "a", "algorithm": "gcm(aes)", **asked}
    if not number:
        broker.generate(**call)
        return
    refused(lambda: broker.generate(**call), number, word)
    assert broker.call("ListKeys")["keys"] == []


def test_a_derived_key_has_128_bits(broker: Client) -> None:
    short = {"algorithm": "hmac(sha256)", "bits": 64, "usage": ["sign"]}
    refused(
        lambda: broker.generate("a", "hkdf(sha256)", derive_template=short), errno.EINVAL, "128"
    )


def test_a_label_is_taken_once(broker: Client) -> None:
    broker.generate("a")
    refused(lambda: broker.generate("a"), errno.EEXIST, "/a exists")


def test_not_exportable(broker: Client) -> None:
    broker.generate("a")
    refused(lambda: broker.export("a"), errno.EPERM, "not exportable")


def test_an_imported_key_is_judged_by_its_own_size(broker: Client) -> None:
    refused(lambda: broker.import_key("a", "hmac(sha256)", bytes(8)), errno.EPERM, "112")
    assert broker.call("ListKeys")["keys"] == []


def test_import_needs_a_descriptor(broker: Client) -> None:
    with pytest.raises(OSError, match="InvalidParameter") as caught:
        broker.call("ImportKey", label="a", algorithm="gcm(aes)", fd=0)
    assert caught.value.filename == "org.varlink.service.InvalidParameter"
    fd = os.open("/", os.O_RDONLY)
    try:
        refused(
            lambda: broker.call("ImportKey", [fd], label="a", algorithm="gcm(aes)", fd=0),
            errno.EINVAL,
            "pipe",
        )
    finally:
        os.close(fd)


WRAP: list[tuple[str, dict[str, Any], dict[str, Any], str, int, str]] = [
    ("not wrappable", {"exportable": True}, {}, "kwp", errno.EPERM, "not wrappable"),
    ("not exportable by an untrusted key", {"wrappable": True}, {}, "kwp", errno.EPERM,
     "not trusted"),
    ("weaker over stronger", {"exportable": True, "wrappable": True}, {"bits": 128}, "kwp",
     errno.EPERM, "128"),
    ("key that does not wrap", {"exportable": True, "wrappable": True},
     {"usage": ["unwrap"]}, "kwp", errno.EPERM, "may not wrap"),
    ("use limit", {"exportable": True, "wrappable": True, "uses": 9}, {}, "kwp", errno.EPERM,
     "count anew"),
    ("other format", {"exportable": True, "wrappable": True}, {}, "rsa-oaep", errno.EINVAL, "RSA"),
    ("unknown format", {"exportable": True, "wrappable": True}, {}, "zip", errno.EINVAL, "zip"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "by", "form", "number", "word"), [row[1:] for row in WRAP], ids=[r[0] for r in WRAP]
)
def test_wrap_refuses(
    broker: Client, key: dict[str, Any], by: dict[str, Any], form: str, number: int, word: str
) -> None:
    broker.generate("a", **key)
    broker.generate("kek", "kwp(aes)", **{"usage": ["wrap", "unwrap"], **by})
    refused(lambda: broker.call("WrapKey", key="a", by="kek", format=form), number, word)


def test_wrap_by_an_imported_key_does_not_get_the_key_out(broker: Client) -> None:
    """The attack: a wrapping key whose bytes the attacker knows."""
    broker.generate("secret", wrappable=True)
    broker.import_key("known", "kwp(aes)", bytes(32), usage=["wrap", "unwrap"])
    refused(
        lambda: broker.call("WrapKey", key="secret", by="known", format="kwp"),
        errno.EPERM,
        "whoever knows the wrapping key",
    )


def test_a_trusted_key_wraps_what_is_not_exportable(broker: Client) -> None:
    broker.generate("secret", wrappable=True)
    kek(broker)
    broker.call("TrustKey", key="kek")
    broker.call("WrapKey", key="secret", by="kek", format="kwp")
    broker.call("TrustKey", key="kek", trusted=False)
    refused(
        lambda: broker.call("WrapKey", key="secret", by="kek", format="kwp"),
        errno.EPERM,
        "not trusted",
    )


def test_trust_is_for_wrapping_keys_that_nobody_exports(broker: Client) -> None:
    broker.generate("a")
    refused(lambda: broker.call("TrustKey", key="a"), errno.EINVAL, "wraps nothing")
    kek(broker, exportable=True)
    refused(lambda: broker.call("TrustKey", key="kek"), errno.EPERM, "exportable")


def test_a_wrapping_key_opens_no_session(broker: Client) -> None:
    kek(broker, algorithm="gcm(aes)")
    refused(lambda: broker.open(key="kek"), errno.EPERM, "nothing in a session")
    refused(lambda: broker.open(key="kek", usage=["encrypt"]), errno.EPERM, "encrypt")


def test_what_is_unwrapped_never_leaves(broker: Client) -> None:
    kek(broker, wrap_template=TEMPLATE)
    broker.generate("a", exportable=True, wrappable=True)
    wrapped = broker.call("WrapKey", key="a", by="kek", format="kwp")["wrapped"]
    broker.call("UnwrapKey", label="b", wrapped=wrapped, by="kek", format="kwp")
    refused(lambda: broker.export("b"), errno.EPERM, "not exportable")


def test_foreign_blobs_take_their_attributes_from_the_template(broker: Client) -> None:
    kek(broker)
    broker.generate("a", exportable=True, wrappable=True)
    wrapped = broker.call("WrapKey", key="a", by="kek", format="kwp")["wrapped"]
    unwrap = {"label": "b", "wrapped": wrapped, "format": "kwp"}
    refused(lambda: broker.call("UnwrapKey", by="kek", **unwrap), errno.EPERM, "template")
    kek(broker, "other", wrap_template={**TEMPLATE, "usage": ["encrypt"]})
    wrapped = broker.call("WrapKey", key="a", by="other", format="kwp")["wrapped"]
    unwrap["wrapped"] = wrapped
    refused(
        lambda: broker.call("UnwrapKey", by="other", algorithm="ctr(aes)", **unwrap),
        errno.EPERM,
        "gcm(aes) only",
    )
    refused(
        lambda: broker.call("UnwrapKey", by="other", usage=["decrypt"], **unwrap),
        errno.EPERM,
        "decrypt",
    )
    key = broker.call("UnwrapKey", by="other", **unwrap)["key"]
    assert key["usage"] == ["encrypt"]


def test_our_blobs_bring_their_attributes(broker: Client) -> None:
    """Unwrapping under another algorithm, or with more usage, is the attack."""
    kek(broker, algorithm="gcm(aes)")
    broker.generate("a", usage=["encrypt"], exportable=True, wrappable=True)
    wrapped = broker.call("WrapKey", key="a", by="kek")["wrapped"]
    refused(
        lambda: broker.call(
            "UnwrapKey", label="b", wrapped=wrapped, by="kek", algorithm="ccm(aes)"
        ),
        errno.EPERM,
    )
    refused(
        lambda: broker.call(
            "UnwrapKey", label="b", wrapped=wrapped, by="kek", usage=["encrypt", "decrypt"]
        ),
        errno.EPERM,
        "decrypt",
    )
    key = broker.call("UnwrapKey", label="c", wrapped=wrapped, by="kek")["key"]
    assert key["usage"] == ["encrypt"]
    data = bytearray(base64.b64decode(wrapped))
    at = data.index(b'"exportable":true')
    data[at : at + 17] = b'"exportable":trub'
    refused(lambda: broker.call("UnwrapKey", label="d", wrapped=b64(data), by="kek"), errno.EBADMSG)


DERIVE: list[tuple[str, dict[str, Any], dict[str, Any], int, str]] = [
    ("no template", {}, {}, errno.EPERM, "template"),
    ("no usage", {"usage": ["derive-bytes"]}, {}, errno.EPERM, "may not derive"),
    ("other algorithm", {"derive_template": TEMPLATE}, {"algorithm": "ctr(aes)"}, errno.EPERM,
     "gcm(aes) only"),
    ("truncated", {"derive_template": TEMPLATE}, {"bits": 128}, errno.EPERM, "256"),
    ("more exportable", {"derive_template": TEMPLATE}, {"exportable": True}, errno.EPERM,
     "not exportable"),
    ("more usage", {"derive_template": {**TEMPLATE, "usage": ["encrypt"]}},
     {"usage": ["decrypt"]}, errno.EPERM, "decrypt"),
    ("other way", {"derive_template": TEMPLATE}, {"how": "hkdf(sha512)"}, errno.EINVAL, "sha512"),
    ("ECDH of a KDF key", {"derive_template": TEMPLATE}, {"how": "ecdh", "peer": ""},
     errno.EINVAL, "ecdh"),
    ("peer of a KDF", {"derive_template": TEMPLATE}, {"peer": "AA=="}, errno.EINVAL, "peer"),
    ("no base64", {"derive_template": TEMPLATE}, {"info": "*"}, errno.EINVAL, "base64"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("base", "asked", "number", "word"), [row[1:] for row in DERIVE], ids=[r[0] for r in DERIVE]
)
def test_derive_refuses(
    broker: Client, base: dict[str, Any], asked: dict[str, Any], number: int, word: str
) -> None:
    broker.generate("base", "hkdf(sha256)", **base)
    call = {"label": "out", "base": "base", "how": "hkdf(sha256)", **asked}
    refused(lambda: broker.call("DeriveKey", **call), number, word)


OPEN: list[tuple[str, dict[str, Any], dict[str, Any], int, str]] = [
    ("more usage", {"usage": ["encrypt"]}, {"usage": ["decrypt"]}, errno.EPERM, "decrypt"),
    ("other algorithm", {}, {"algorithm": "ctr(aes)"}, errno.EPERM, "bound to gcm(aes)"),
    ("as a hash's input", {}, {"algorithm": "sha256"}, errno.EPERM, "bound to gcm(aes)"),
    ("other tag", {}, {"options": {"tag_size": 4}}, errno.EPERM, "tag size"),
    ("no such version", {}, {"version": 2}, errno.ENOKEY, "version 2"),
    ("strange hardware", {}, {"options": {"hardware": "maybe"}}, errno.EINVAL, "hardware"),
    ("strange engine", {}, {"options": {"engine": "a" * 200}}, errno.EINVAL, "engine"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "asked", "number", "word"), [row[1:] for row in OPEN], ids=[r[0] for r in OPEN]
)
@pytest.mark.parametrize("way", [{}, {"options": {}}], ids=["plain", "with options"])
def test_open_refuses(
    broker: Client, key: dict[str, Any], asked: dict[str, Any], number: int, word: str, way: Any
) -> None:
    """A plain call is served without a task, one with options by asyncvarlink: they agree."""
    broker.generate("a", **key)
    refused(lambda: broker.open(key="a", **{**way, **asked}), number, word)


@pytest.mark.parametrize(
    "asked",
    [{"key": 5}, {"key": "a", "usage": [5]}, {"key": "a", "version": "1"}, {"strange": "a"}],
    ids=str,
)
def test_open_takes_what_the_interface_says(broker: Client, asked: dict[str, Any]) -> None:
    broker.generate("a")
    with pytest.raises(OSError, match="InvalidParameter"):
        broker.open(**asked)
    os.close(broker.open(key="a"))


def test_calls_that_are_sent_at_once_are_answered_in_order(broker: Client) -> None:
    broker.generate("a")
    ways: list[dict[str, Any]] = [{}, {"options": {}}, {"key": "none"}, {}, {"usage": ["encrypt"]}]
    for way in ways:
        broker.send("Open", **{"key": "a", **way})
    answers = [broker.receive() for _ in ways]
    numbers = [answer["parameters"].get("session") for answer in answers]
    assert numbers[2] is None
    opened = [number for number in numbers if number is not None]
    assert opened == sorted(opened)
    assert len(broker.fds) == 4


def test_a_client_that_goes_before_its_answer_leaves_no_session(
    supervisor: Supervisor, connect: Callable[[], Client]
) -> None:
    one = connect()
    one.generate("a")
    for _ in range(20):
        going = connect()
        going.send("Open", key="a")
        going.close()
    end = time.monotonic() + 60
    while supervisor.sessions and time.monotonic() < end:
        one.call("Status")
    assert supervisor.sessions == {}


def test_open_needs_a_key_that_is_there(broker: Client) -> None:
    refused(lambda: broker.open(key="a"), errno.ENOKEY, "cryptofd:")
    refused(lambda: broker.open(algorithm="gcm(aes)"), errno.EINVAL, "needs a key")
    refused(lambda: broker.open(), errno.EINVAL)


def test_hashable(broker: Client, supervisor: Supervisor) -> None:
    """NCR_KEY_FLAG_HASHABLE: the key as the input of a hash."""
    broker.generate("a", "hmac(sha256)", usage=["sign", "digest"])
    os.close(broker.open(key="a", algorithm="sha256"))
    recipe = next(asked["recipe"] for op, asked in supervisor.seen if op == "session")
    assert (recipe["algorithm"], recipe["usage"]) == ("sha256", ["digest"])


def test_transparent_hash_is_a_usage(broker: Client, supervisor: Supervisor) -> None:
    """NCR_KEY_FLAG_ALLOW_TRANSPARENT_HASH is sign-digest."""
    broker.generate("a", "ecdsa-nist-p256", usage=["sign"])
    refused(lambda: broker.open(key="a", usage=["sign-digest"]), errno.EPERM, "sign-digest")


# Life


def test_rotation(broker: Client, supervisor: Supervisor) -> None:
    broker.generate("a", uses=500)
    new = broker.call("RotateKey", key="a")["key"]
    assert (new["version"], new["current"]) == (2, True)
    old = broker.call("KeyInfo", key="a", version=1)["key"]
    assert (old["version"], old["current"]) == (1, False)
    assert old["fingerprint"] != new["fingerprint"]
    refused(lambda: broker.open(key="a", version=1, usage=["encrypt"]), errno.EKEYREVOKED, "old")
    os.close(broker.open(key="a", version=1))
    os.close(broker.open(key="a"))
    old_recipe, new_recipe = [a["recipe"] for op, a in supervisor.seen if op == "session"]
    assert old_recipe["usage"] == ["decrypt"]
    assert new_recipe["usage"] == ["decrypt", "encrypt"]
    assert [one["key"]["version"] for one in new_recipe["older"]] == [1]


def test_an_old_wrapping_key_only_unwraps(broker: Client) -> None:
    kek(broker, wrap_template=TEMPLATE)
    broker.generate("a", exportable=True, wrappable=True)
    broker.call("TrustKey", key="kek")
    assert not broker.call("RotateKey", key="kek")["key"]["trusted"]


def test_expiry(broker: Client, supervisor: Supervisor) -> None:
    soon = int(time.time()) + 1000
    broker.generate("a", expires=soon)
    refused(lambda: broker.call("ChangeKey", key="a", expires=soon + 1), errno.EPERM, "earlier")
    fd = broker.open(key="a")
    broker.call("ChangeKey", key="a", expires=1)
    refused(lambda: broker.open(key="a"), errno.EKEYEXPIRED, "1970-01-01")
    refused(lambda: broker.call("RotateKey", key="a"), errno.EKEYEXPIRED)
    # The session that was open ended with it.
    assert os.read(fd, 1) == b""
    os.close(fd)


def test_a_label_changes_with_all_versions(broker: Client) -> None:
    broker.generate("a")
    broker.call("RotateKey", key="a")
    broker.generate("taken")
    refused(lambda: broker.call("ChangeKey", key="a", label="taken"), errno.EEXIST, "taken")
    broker.call("ChangeKey", key="a", label="b")
    assert broker.call("KeyInfo", key="b", version=1)["key"]["label"] == "b"
    refused(lambda: broker.call("KeyInfo", key="a"), errno.ENOKEY)


def test_use_limit(broker: Client, supervisor: Supervisor, connect: Callable[[], Client]) -> None:
    """What is leased is spent, whether it was used or not, and stays so after a restart."""
    broker.generate("a", uses=100)
    os.close(broker.open(key="a"))
    # A sixteenth, or 64 if that is less.
    assert broker.call("KeyInfo", key="a")["key"]["uses_left"] == 94
    for _ in range(16):
        os.close(broker.open(key="a"))
    refused(lambda: broker.open(key="a"), errno.EDQUOT, "100 uses")
    broker.generate("many", uses=10000)
    os.close(broker.open(key="many"))
    assert broker.call("KeyInfo", key="many")["key"]["uses_left"] == 10000 - 64
    supervisor.stop_broker()
    supervisor.start()
    refused(lambda: connect().open(key="a"), errno.EDQUOT, "100 uses")


def test_wrapping_uses_count(broker: Client) -> None:
    kek(broker, uses=1)
    broker.generate("a", exportable=True, wrappable=True)
    broker.call("WrapKey", key="a", by="kek", format="kwp")
    refused(lambda: broker.call("WrapKey", key="a", by="kek", format="kwp"), errno.EDQUOT, "1 uses")


def test_delete_ends_sessions(broker: Client) -> None:
    broker.generate("a")
    fd = broker.open(key="a")
    broker.call("DeleteKey", key="a")
    assert os.read(fd, 1) == b""
    os.close(fd)


def test_a_flipped_attribute_in_the_store_is_found_out(
    supervisor: Supervisor, connect: Callable[[], Client]
) -> None:
    """Who can write the store makes a key exportable; the worker's wrapping does not open then."""
    connect().generate("a")
    supervisor.stop_broker()
    from cryptofd.broker import store

    path = supervisor.state / "store.sqlite"
    with sqlite3.connect(path) as raw:
        row = list(
            raw.execute("SELECT id, attributes, blob, public, current, spent, token FROM keys")
        )
        (key, text, *rest) = row[0]
        flipped = text.replace('"exportable":false', '"exportable":true')
        assert flipped != text
        blob, public, current, spent, token = rest
        checksum = store._sum(key, flipped, blob, public, bool(current), spent, token)
        raw.execute("UPDATE keys SET attributes = ?, sum = ?", (flipped, checksum))
    raw.close()
    supervisor.start()
    client = connect()
    refused(lambda: client.export("a"), errno.EBADMSG)
    refused(lambda: client.open(key="a"), errno.EBADMSG)
