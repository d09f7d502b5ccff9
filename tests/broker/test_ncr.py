"""NCR's table (crypto.4 of cryptodev-linux, branch newapi), row by row, on the real processes.

Each ioctl that NCR had and each that it lacked has a row that shows it at work; each flag has its
refusals, with their errno.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, hmac, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from real_broker import DEADLINE, Broker, opened, refused, until

import cryptofd
from cryptofd.broker import rules
from cryptofd.broker.client import Connection

DER, PKCS8 = serialization.Encoding.DER, serialization.PrivateFormat.PKCS8
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo
RAW = bytes(range(32))

PAIRS = {
    "rsa": 2048,
    "ecdsa-nist-p256": 256,
    "ecdsa-nist-p384": 384,
    "ecdsa-nist-p521": 521,
    "ecdh-nist-p256": 256,
    "ecdh-nist-p384": 384,
    "ecdh-nist-p521": 521,
    "ed25519": 256,
    "x25519": 255,
    "ml-kem-768": 9472,
    "ml-kem-1024": 12544,
    "ml-dsa-65": 15616,
}


def _secret() -> list[str]:
    return [
        one.name
        for one in cryptofd.algorithms()
        if one.kind in ("aead", "cipher", "mac", "wrap", "kdf")
        and not rules.family(one.name).one_time
    ]


def pkcs8(private: Any) -> bytes:
    data: bytes = private.private_bytes(DER, PKCS8, serialization.NoEncryption())
    return data


def spki(public: Any) -> bytes:
    data: bytes = public.public_bytes(DER, SPKI)
    return data


def template(algorithm: str, bits: int, *usage: str) -> dict[str, Any]:
    return {"algorithm": algorithm, "bits": bits, "usage": sorted(usage)}


# KEY_INIT and KEY_GENERATE


@pytest.mark.parametrize("algorithm", _secret())
def test_generate(b: Connection, algorithm: str) -> None:
    made = b.keys.generate("k", algorithm)
    assert (made.algorithm, made.type, made.origin) == (algorithm, "secret", "generated")
    assert made.bits == rules.family(algorithm).default_bits
    assert (made.exportable, made.wrappable, made.trusted, made.version) == (False, False, False, 1)
    assert len(made.fingerprint) == 32
    assert b.keys.generate("other", algorithm).fingerprint != made.fingerprint


@pytest.mark.parametrize("algorithm", PAIRS)
def test_generate_pair(b: Connection, algorithm: str) -> None:
    made = b.keys.generate("k", algorithm)
    assert (made.algorithm, made.type) == (algorithm, "pair")
    assert made.public is not None
    if algorithm == "rsa":
        assert made.bits == rules.family("rsa").default_bits
    else:
        assert made.bits == PAIRS[algorithm]
    assert b.keys.generate("other", algorithm).public != made.public
    refused(errno.EPERM, b.keys.export, "k")


def test_generate_rsa_of_other_sizes(b: Connection) -> None:
    for bits in (2048, 3072):
        made = b.keys.generate(f"k{bits}", "rsa", bits=bits)
        assert made.bits == bits
    for bits in (1024, 2047, 8200):
        refused(errno.EINVAL, b.keys.generate, "k", "rsa", bits=bits)


@pytest.mark.soak
def test_generate_the_longest_rsa(b: Connection) -> None:
    assert b.keys.generate("k", "rsa", bits=8192).bits == 8192


# KEY_IMPORT and KEY_EXPORT


@pytest.mark.parametrize("algorithm", _secret())
def test_import_and_export(b: Connection, algorithm: str) -> None:
    key = bytes(range(rules.family(algorithm).default_bits // 8))
    made = b.keys.import_key("k", algorithm, key, exportable=True)
    assert (made.origin, made.bits) == ("imported", 8 * len(key))
    assert b.keys.export("k") == key
    b.keys.import_key("hidden", algorithm, key)
    refused(errno.EPERM, b.keys.export, "hidden")
    assert b.keys.info("hidden").fingerprint == made.fingerprint
    if rules.family(algorithm).bits is not None:
        refused(errno.EINVAL, b.keys.import_key, "short", algorithm, key[:-1] or b"x" * 99)


def test_import_a_pair(b: Connection) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    usage = {"sign", "verify"}
    made = b.keys.import_key("k", "ecdsa-nist-p256", pkcs8(private), usage=usage, exportable=True)
    assert (made.type, made.origin) == ("pair", "imported")
    with opened(b, "ecdsa-nist-p256", "k") as fd:
        assert fd.public_key() == spki(private.public_key())
        signature = fd.sign(b"data", hash="sha256")
        private.public_key().verify(signature, b"data", ec.ECDSA(hashes.SHA256()))
    loaded = serialization.load_der_private_key(b.keys.export("k"), None)
    assert spki(loaded.public_key()) == spki(private.public_key())
    # Under another name it is another algorithm's, and no key at all is none.
    refused(errno.EINVAL, b.keys.import_key, "x", "ecdsa-nist-p384", pkcs8(private))
    refused(errno.EINVAL, b.keys.import_key, "x", "ed25519", pkcs8(private))
    refused(errno.EINVAL, b.keys.import_key, "x", "rsa", b"nothing")


def test_import_too_much(b: Connection) -> None:
    refused(errno.EMSGSIZE, b.keys.import_key, "k", "hmac(sha256)", bytes(65537))
    refused(errno.EINVAL, b.keys.import_key, "k", "gcm(aes)", bytes(33))
    refused(errno.EINVAL, b.keys.import_key, "k", "gcm(aes)", b"")
    assert b.keys.list() == []


# KEY_GET_INFO, KEY_DEINIT


def test_info_list_delete(b: Connection) -> None:
    b.keys.generate("k", "gcm(aes)", bits=128, usage={"encrypt"}, wrappable=True, uses=1000,
                    expires=int(time.time()) + 1000, tag_size=12)  # fmt: skip
    got = b.keys.info("k")
    assert (got.bits, got.usage, got.iv, got.tag_size) == (128, ["encrypt"], "worker", 12)
    assert (got.uses, got.uses_left, got.wrappable, got.current) == (1000, 1000, True, True)
    assert [key.id for key in b.keys.list()] == [got.id]
    fd = opened(b, "gcm(aes)", "k")
    assert fd.info().driver
    b.keys.delete("k")
    refused(errno.ENOKEY, b.keys.info, "k")
    refused(errno.ENOKEY, b.keys.delete, "k")
    poll = select.poll()
    poll.register(fd.fileno(), select.POLLIN)
    assert poll.poll(DEADLINE * 1000)
    assert poll.poll(0)[0][1] & select.POLLHUP
    refused(errno.EPIPE, fd.seal, b"data")


# KEY_WRAP, KEY_UNWRAP, KEY_STORAGE_WRAP


@pytest.mark.parametrize("by", ["gcm(aes)", "gcm-siv(aes)", "ccm(aes)"])
@pytest.mark.parametrize("algorithm", ["gcm(aes)", "hmac(sha256)", "ecdsa-nist-p256", "rsa"])
def test_wrap_and_unwrap_our_own(b: Connection, by: str, algorithm: str) -> None:
    b.keys.generate("kek", by, usage={"wrap", "unwrap"})
    b.keys.trust("kek")
    made = b.keys.generate("k", algorithm, wrappable=True)
    box = b.keys.wrap("k", by="kek")
    assert b.keys.wrap("k", by="kek") != box
    back = b.keys.unwrap("back", box, by="kek")
    assert (back.algorithm, back.bits, back.usage) == (made.algorithm, made.bits, made.usage)
    assert (back.fingerprint, back.public) == (made.fingerprint, made.public)
    assert (back.exportable, back.trusted, back.origin) == (False, False, "unwrapped")
    refused(errno.EPERM, b.keys.export, "back")
    for at in (0, 9, len(box) // 2, len(box) - 1):
        broken = box[:at] + bytes([box[at] ^ 1]) + box[at + 1 :]
        with pytest.raises(cryptofd.CryptoFDError) as caught:
            b.keys.unwrap("broken", broken, by="kek")
        assert caught.value.errno in (errno.EBADMSG, errno.EINVAL)


@pytest.mark.parametrize(("form", "algorithm"), [("kw", "kw(aes)"), ("kwp", "kwp(aes)")])
def test_wrap_and_unwrap_as_others_do(b: Connection, form: Any, algorithm: str) -> None:
    kek = bytes(range(32, 64))
    plain = template("gcm(aes)", 256, "decrypt", "encrypt")
    b.keys.import_key("kek", algorithm, kek, wrap_template=plain)
    b.keys.import_key("k", "gcm(aes)", RAW, exportable=True, wrappable=True)
    box = b.keys.wrap("k", by="kek", format=form)
    wrap = {"kw": keywrap.aes_key_wrap, "kwp": keywrap.aes_key_wrap_with_padding}[form]
    assert box == wrap(kek, RAW)
    back = b.keys.unwrap("back", box, by="kek", format=form)
    assert (back.algorithm, back.bits, back.usage) == ("gcm(aes)", 256, ["decrypt", "encrypt"])
    with opened(b, "gcm(aes)", "k") as one, opened(b, "gcm(aes)", "back") as two:
        assert two.unseal(one.seal(b"data")) == b"data"
    refused(errno.EPERM, b.keys.export, "back")
    refused(errno.EBADMSG, b.keys.unwrap, "x", box[:-1] + b"\0", by="kek", format=form)
    # Of another size than the template says.
    refused(errno.EINVAL, b.keys.unwrap, "x", wrap(kek, RAW[:16]), by="kek", format=form)


def test_wrap_a_pair_as_others_do(b: Connection) -> None:
    b.keys.import_key(
        "kek", "kwp(aes)", RAW, wrap_template=template("ecdsa-nist-p256", 256, "sign", "verify")
    )
    private = ec.generate_private_key(ec.SECP256R1())
    b.keys.import_key(
        "k", "ecdsa-nist-p256", pkcs8(private), usage={"sign", "verify"}, exportable=True,
        wrappable=True,
    )  # fmt: skip
    box = b.keys.wrap("k", by="kek", format="kwp")
    data = keywrap.aes_key_unwrap_with_padding(RAW, box)
    loaded = serialization.load_der_private_key(data, None)
    assert spki(loaded.public_key()) == spki(private.public_key())
    back = b.keys.unwrap("back", box, by="kek", format="kwp")
    assert (back.type, back.public) == ("pair", b.keys.info("k").public)
    refused(errno.EINVAL, b.keys.wrap, "k", by="kek", format="kw")


def test_wrap_and_unwrap_by_rsa(b: Connection) -> None:
    plain = template("gcm(aes)", 128, "decrypt", "encrypt")
    made = b.keys.generate("kek", "rsa", bits=3072, usage={"wrap", "unwrap"}, wrap_template=plain)
    public = serialization.load_der_public_key(base64.b64decode(made.public or ""))
    assert isinstance(public, rsa.RSAPublicKey)
    b.keys.import_key("k", "gcm(aes)", RAW[:16], exportable=True, wrappable=True)
    box = b.keys.wrap("k", by="kek", format="rsa-oaep")
    back = b.keys.unwrap("back", box, by="kek", format="rsa-oaep")
    assert back.fingerprint == b.keys.info("k").fingerprint
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    theirs = b.keys.unwrap("theirs", public.encrypt(RAW[:16], oaep), by="kek", format="rsa-oaep")
    assert theirs.fingerprint == back.fingerprint
    refused(errno.EBADMSG, b.keys.unwrap, "x", bytes(384), by="kek", format="rsa-oaep")


def test_storage_over_restarts(tmp_path: Path) -> None:
    real = Broker(tmp_path)
    b = real.connect()
    b.keys.generate("secret", "gcm(aes)")
    b.keys.generate("pair", "ed25519")
    with opened(b, "gcm(aes)", "secret") as fd:
        box = fd.seal(b"data")
    with opened(b, "ed25519", "pair") as fd:
        signature = fd.sign(b"data")
    before = {key.id: key for key in b.keys.list()}
    real.end()
    real.start()
    b = real.connect()
    assert {key.id: key for key in b.keys.list()} == before
    assert opened(b, "gcm(aes)", "secret").unseal(box) == b"data"
    opened(b, "ed25519", "pair").verify(signature, b"data")
    real.end()
    # Without the key-encryption key there is nothing, and none is made anew: it may come back.
    (real.state / "kek").rename(real.state / "elsewhere")
    real.launch()
    until(lambda: "state/kek: No such file" in real.log.read_text(), "it starts")
    assert not (real.state / "kek").exists()
    real.end()
    (real.state / "elsewhere").rename(real.state / "kek")
    real.start()
    assert opened(real.connect(), "gcm(aes)", "secret").unseal(box) == b"data"
    real.end()


# KEY_DERIVE


def test_derive_hkdf(b: Connection) -> None:
    to = template("gcm(aes)", 256, "decrypt", "encrypt")
    b.keys.import_key("base", "hkdf(sha256)", RAW, derive_template=to)
    made = b.keys.derive("k", base="base", salt=b"salt", info=b"info")
    assert (made.algorithm, made.bits, made.origin) == ("gcm(aes)", 256, "derived")
    right = HKDF(hashes.SHA256(), 32, b"salt", b"info").derive(RAW)
    box = opened(b, "gcm(aes)", "k").seal(b"data", aad=b"head")
    assert AESGCM(right).decrypt(box[1:13], box[13:], b"head") == b"data"
    assert b.keys.derive("other", base="base", info=b"else").fingerprint != made.fingerprint
    refused(errno.EPERM, b.keys.export, "k")


def test_derive_sp800_108(b: Connection) -> None:
    how = "kdf108-ctr(hmac(sha256))"
    to = template("hmac(sha256)", 256, "sign")
    b.keys.import_key("base", how, RAW, derive_template=to)
    b.keys.derive("k", base="base", info=b"label and context")
    right = KBKDFHMAC(
        hashes.SHA256(), Mode.CounterMode, 32, 4, None, CounterLocation.BeforeFixed, None, None,
        b"label and context",
    ).derive(RAW)  # fmt: skip
    mac = hmac.HMAC(right, hashes.SHA256())
    mac.update(b"data")
    fd = opened(b, "hmac(sha256)", "k")
    fd.update(b"data")
    assert fd.digest() == mac.finalize()


@pytest.mark.parametrize(
    "algorithm", ["ecdh-nist-p256", "ecdh-nist-p384", "ecdh-nist-p521", "x25519"]
)
def test_derive_by_agreement(b: Connection, algorithm: str) -> None:
    """Both sides get the same key; neither sees it."""
    to = template("gcm(aes)", 256, "decrypt", "encrypt")
    for label in ("mine", "yours"):
        b.keys.generate(label, algorithm, usage={"derive"}, derive_template=to)
    public = {
        label: base64.b64decode(b.keys.info(label).public or "") for label in ("mine", "yours")
    }
    one = b.keys.derive("one", base="mine", peer=public["yours"])
    two = b.keys.derive("two", base="yours", peer=public["mine"])
    assert one.fingerprint == two.fingerprint
    box = opened(b, "gcm(aes)", "one").seal(b"data")
    assert opened(b, "gcm(aes)", "two").unseal(box) == b"data"
    refused(errno.EINVAL, b.keys.derive, "x", base="mine", peer=b"no key")
    refused(errno.EINVAL, b.keys.derive, "x", base="mine")
    if algorithm == "x25519":
        low = spki(x25519.X25519PublicKey.from_public_bytes(bytes(32)))
    else:
        low = public["yours"][:-1]
    with pytest.raises(cryptofd.CryptoFDError):
        b.keys.derive("x", base="mine", peer=low)


# SESSION_INIT, UPDATE, FINAL, ONCE, CLONE_FROM; UPDATE_INPUT_KEY_AS_DATA


def test_a_key_is_hashed(b: Connection) -> None:
    b.keys.import_key("k", "hmac(sha256)", RAW, usage={"digest"})
    with opened(b, "sha256", "k") as fd:
        fd.update(b"before")
        fd.update_key()
        fd.update(b"after")
        assert fd.digest() == hashlib.sha256(b"before" + RAW + b"after").digest()
    # Only that, and only where its usage says so.
    refused(errno.EPERM, opened, b, "hmac(sha256)", "k")
    b.keys.generate("silent", "hmac(sha256)")
    refused(errno.EPERM, opened, b, "sha256", "silent")
    b.keys.generate("both", "hmac(sha256)", usage={"sign", "digest"})
    with opened(b, "hmac(sha256)", "both") as fd:
        refused(errno.EPERM, fd.update_key)


def test_a_session_of_each_kind(b: Connection) -> None:
    iv = bytes(16)
    b.keys.import_key("cbc", "cbc(aes)", RAW)
    with opened(b, "cbc(aes)", "cbc") as fd, cryptofd.open("cbc(aes)", key=RAW) as near:
        assert fd.encrypt(RAW, iv=iv) == near.encrypt(RAW, iv=iv)
        stream = fd.stream("encrypt", iv=iv)
        assert stream.update(RAW) + stream.finish() == near.encrypt(RAW, iv=iv)
    b.keys.import_key("mac", "cmac(aes)", RAW)
    with opened(b, "cmac(aes)", "mac") as fd, cryptofd.open("cmac(aes)", key=RAW) as near:
        fd.update(b"da")
        clone = fd.clone()
        for one in (fd, clone, near):
            one.update(b"ta" if one is not near else b"data")
        assert fd.digest() == clone.digest() == near.digest()
        near.reset()
        near.update(b"one")
        # In one call.
        number = fd.submit("digest", b"one")
        answer = fd.complete()
        assert (answer.id, answer.data) == (number, near.digest())


def test_one_call_and_no_session(b: Connection) -> None:
    b.keys.generate("k", "gcm(aes)", usage={"encrypt", "decrypt"})
    b.keys.import_key("mac", "hmac(sha256)", RAW, usage={"sign", "verify"})
    b.keys.generate("web", "ecdsa-nist-p256", usage={"sign", "verify"})
    box = b.keys.once("k", "seal", b"data", aad=b"head")
    assert b.keys.once("cryptofd:k", "unseal", box, aad=b"head") == b"data"
    tag = b.keys.once("mac", "mac", b"data")
    with cryptofd.open("hmac(sha256)", key=RAW) as near:
        near.update(b"data")
        assert tag == near.digest()
    b.keys.once("mac", "check", b"data", tag)
    with pytest.raises(cryptofd.BadTag):
        b.keys.once("mac", "check", b"atad", tag)
    signature = b.keys.once("web", "sign", b"data", hash="sha256")
    b.keys.once("web", "verify", signature, b"data", hash="sha256")
    until(lambda: b.sessions() == [], "a session stays")
    # The rules are those of a session.
    refused(errno.EPERM, b.keys.once, "k", "encrypt", b"data", iv=bytes(12))
    with pytest.raises(ValueError, match="not done at once"):
        b.keys.once("k", "close")


# What NCR lacked: rotation, expiry, use limits


def test_rotation(b: Connection) -> None:
    b.keys.generate("k", "gcm(aes)")
    first = opened(b, "gcm(aes)", "k")
    box = first.seal(b"data")
    assert b.keys.rotate("k").version == 2
    old = opened(b, "gcm(aes)", "k", version=1)
    assert old.unseal(box) == b"data"
    refused(errno.EPERM, old.seal, b"data")
    new = opened(b, "gcm(aes)", "k")
    assert new.unseal(box) == b"data"
    assert new.seal(b"data")[0] == 2
    # A box of a version that is not there is nobody's.
    refused(errno.EINVAL, new.unseal, b"\x03" + box[1:])
    b.keys.delete("k", version=1)
    refused(errno.EINVAL, opened(b, "gcm(aes)", "k").unseal, box)
    refused(errno.ENOKEY, opened, b, "gcm(aes)", "k", version=1)


def test_a_session_goes_on_with_the_version_that_it_was_opened_on(b: Connection) -> None:
    b.keys.generate("k", "gcm(aes)")
    fd = opened(b, "gcm(aes)", "k")
    b.keys.rotate("k")
    box = fd.seal(b"data")
    assert box[0] == 1
    assert opened(b, "gcm(aes)", "k").unseal(box) == b"data"


@pytest.mark.parametrize(
    ("algorithm", "does"),
    [
        ("hmac(sha256)", lambda fd: fd.update(b"x")),
        ("ed25519", lambda fd: fd.sign(b"x")),
        ("cbc(aes)", lambda fd: fd.encrypt(bytes(16), iv=bytes(16))),
    ],
)
def test_old_versions_do_nothing_new(
    b: Connection, algorithm: str, does: Callable[[cryptofd.CryptoFD], Any]
) -> None:
    b.keys.generate("k", algorithm)
    b.keys.rotate("k")
    fd = opened(b, algorithm, "k", version=1)
    if algorithm == "hmac(sha256)":
        fd.update(b"x")
        refused(errno.EPERM, fd.digest)
    else:
        refused(errno.EPERM, does, fd)


def test_expiry(b: Connection) -> None:
    ends = int(time.time()) + 2
    b.keys.generate("k", "gcm(aes)", expires=ends)
    fd = opened(b, "gcm(aes)", "k")
    box = fd.seal(b"data")
    until(lambda: time.time() >= ends, "time stands still")
    refused(errno.EKEYEXPIRED, fd.seal, b"data")
    refused(errno.EKEYEXPIRED, fd.unseal, box)
    refused(errno.EKEYEXPIRED, opened, b, "gcm(aes)", "k")
    refused(errno.EKEYEXPIRED, b.keys.rotate, "k")
    refused(errno.EINVAL, b.keys.generate, "gone", "gcm(aes)", expires=ends)
    refused(errno.EPERM, b.keys.change, "k", expires=ends + 1000)


def test_a_key_that_ends_now_ends_its_sessions(b: Connection) -> None:
    b.keys.generate("k", "gcm(aes)")
    fd = opened(b, "gcm(aes)", "k")
    b.keys.change("k", expires=0)
    refused(errno.EPIPE, fd.seal, b"data")
    refused(errno.EKEYEXPIRED, opened, b, "gcm(aes)", "k")


def test_a_key_that_ends_sooner_than_it_did_ends_in_its_sessions(b: Connection) -> None:
    b.keys.generate("k", "gcm(aes)")
    fd = opened(b, "gcm(aes)", "k")
    ends = int(time.time()) + 2
    b.keys.change("k", expires=ends)
    until(lambda: time.time() >= ends, "time stands still")
    # The broker looks once a second.
    poll = select.poll()
    poll.register(fd.fileno(), 0)
    assert poll.poll(DEADLINE * 1000)
    refused(errno.EPIPE, fd.seal, b"data")


def test_use_limit(real: Broker, b: Connection) -> None:
    b.keys.generate("k", "gcm(aes)", uses=10)
    fd = opened(b, "gcm(aes)", "k")
    boxes = [fd.seal(b"data") for _ in range(5)]
    assert [fd.unseal(box) for box in boxes] == [b"data"] * 5
    refused(errno.EDQUOT, fd.seal, b"data")
    refused(errno.EDQUOT, fd.unseal, boxes[0])
    refused(errno.EDQUOT, opened, b, "gcm(aes)", "k")
    assert b.keys.info("k").uses_left == 0
    assert b.keys.rotate("k").uses_left == 10
    assert opened(b, "gcm(aes)", "k").seal(b"data")


def test_use_limit_over_sessions(b: Connection) -> None:
    """What one session did not use is there for the next."""
    b.keys.generate("k", "hmac(sha256)", uses=200)
    done = 0
    code = None
    while code is None:
        try:
            with opened(b, "hmac(sha256)", "k") as fd:
                fd.update(b"x")
                fd.digest()
            done += 1
        except cryptofd.CryptoFDError as error:
            code = error.errno
    assert code == errno.EDQUOT
    # Every session leases a few ahead, a sixteenth of all at most.
    assert 16 <= done <= 200
