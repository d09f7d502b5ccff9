"""Asymmetric keys behind a real broker, judged by PyCA: what leaves is right, what must not, does
not leave."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from real_broker import Broker, opened, refused

from cryptofd.broker.client import Connection, Key

pytest.importorskip("cryptography")

from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

TEMPLATE = {"algorithm": "gcm(aes)", "bits": 256, "usage": ["decrypt", "encrypt"]}
HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
CURVES = {256: ec.SECP256R1(), 384: ec.SECP384R1(), 521: ec.SECP521R1()}
#: The hash of the HKDF behind an agreement: as strong as the group.
HASH_OF = {"ecdh-nist-p256": "sha256", "ecdh-nist-p384": "sha384", "ecdh-nist-p521": "sha512",
           "x25519": "sha256"}  # fmt: skip


def public(key: Key) -> Any:
    """The public half as PyCA has it."""
    assert key.public is not None
    der = base64.b64decode(key.public)
    assert key.fingerprint == hashlib.sha256(der).hexdigest()
    return serialization.load_der_public_key(der)


def der(private: Any) -> bytes:
    data: bytes = private.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return data


def spki(private: Any) -> bytes:
    data: bytes = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return data


@pytest.mark.parametrize("bits", [256, 384, 521])
def test_ecdsa(b: Connection, bits: int) -> None:
    algorithm = f"ecdsa-nist-p{bits}"
    key = b.keys.generate("web", algorithm, usage={"sign", "sign-digest", "verify"})
    assert (key.type, key.bits, key.exportable) == ("pair", bits, False)
    fd, theirs = opened(b, algorithm, "web"), public(key)
    assert fd.public_key() == base64.b64decode(key.public or "")
    for name, algorithm_ in HASHES.items():
        signature = fd.sign(b"data", hash=name)
        theirs.verify(signature, b"data", ec.ECDSA(algorithm_))
        fd.verify(signature, b"data", hash=name)
        refused(errno.EKEYREJECTED, fd.verify, signature, b"other", hash=name)
        digest = hashlib.new(name, b"data").digest()
        signature = fd.sign_digest(digest, hash=name)
        theirs.verify(signature, digest, ec.ECDSA(utils.Prehashed(algorithm_)))
        raw = fd.sign(b"data", hash=name, format="raw")
        assert len(raw) == 2 * -(-bits // 8)


@pytest.mark.parametrize("bits", [2048, 3072])
def test_rsa(b: Connection, bits: int) -> None:
    usage = {"sign", "verify", "encrypt", "decrypt"}
    key = b.keys.generate("web", "rsa", bits=bits, usage=usage)
    fd, theirs = opened(b, "rsa", "web"), public(key)
    for name, hash_ in HASHES.items():
        theirs.verify(fd.sign(b"data", hash=name), b"data", padding.PKCS1v15(), hash_)
        pss = fd.sign(b"data", hash=name, scheme="pss", salt_length=20)
        theirs.verify(pss, b"data", padding.PSS(padding.MGF1(hash_), 20), hash_)
        oaep = padding.OAEP(padding.MGF1(hash_), hash_, b"label")
        options: dict[str, Any] = {"hash": name, "scheme": "oaep", "label": b"label"}
        assert fd.decrypt(theirs.encrypt(b"data", oaep), **options) == b"data"
        refused(errno.EBADMSG, fd.decrypt, theirs.encrypt(b"data", oaep), hash=name)
    # A digest of the caller's, and RSA without padding, need more than sign and decrypt.
    refused(errno.EPERM, fd.sign_digest, bytes(32), hash="sha256")
    refused(errno.EPERM, fd.decrypt, bytes(bits // 8), scheme="raw")
    refused(errno.EPERM, fd.encrypt, bytes(bits // 8), scheme="raw")


def test_raw_rsa_is_a_right_of_its_own(b: Connection) -> None:
    with pytest.raises(OSError, match="raw"):
        b.keys.generate("no", "rsa", bits=2048, usage={"raw", "sign"})
    private = rsa.generate_private_key(65537, 2048)
    usage = {"raw", "sign", "decrypt"}
    b.keys.import_key("raw", "rsa", der(private), usage=usage)
    number = bytes(1) + os.urandom(255)
    numbers = private.private_numbers()
    right = pow(int.from_bytes(number), numbers.d, numbers.public_numbers.n)
    assert int.from_bytes(opened(b, "rsa", "raw").decrypt(number, scheme="raw")) == right
    narrow = opened(b, "rsa", "raw", usage={"sign", "decrypt"})
    refused(errno.EPERM, narrow.decrypt, number, scheme="raw")


def test_ed25519_and_ml_dsa(b: Connection) -> None:
    key = b.keys.generate("ed", "ed25519")
    fd = opened(b, "ed25519", "ed")
    public(key).verify(fd.sign(b"data"), b"data")
    b.keys.generate("ml", "ml-dsa-65")
    fd = opened(b, "ml-dsa-65", "ml")
    signature = fd.sign(b"data")
    fd.verify(signature, b"data")
    refused(errno.EKEYREJECTED, fd.verify, signature, b"other")


@pytest.mark.parametrize("algorithm", HASH_OF)
def test_agreement(b: Connection, algorithm: str) -> None:
    private: Any
    if algorithm == "x25519":
        private = x25519.X25519PrivateKey.generate()
    else:
        private = ec.generate_private_key(CURVES[int(algorithm[-3:])])
    key = b.keys.generate(
        "mine", algorithm, usage={"derive", "derive-bytes"}, derive_template=TEMPLATE
    )
    theirs = public(key)
    exchange = (theirs,) if algorithm == "x25519" else (ec.ECDH(), theirs)
    secret = private.exchange(*exchange)
    assert opened(b, algorithm, "mine").agree(spki(private)) == secret
    made = b.keys.derive(
        "shared", base="mine", peer=spki(private), salt=b"salt", info=b"for a test"
    )
    assert (made.algorithm, made.bits, made.origin) == ("gcm(aes)", 256, "derived")
    hkdf = HKDF(HASHES[HASH_OF[algorithm]], 32, b"salt", b"for a test")
    near = AESGCM(hkdf.derive(secret))
    box = opened(b, "gcm(aes)", "shared").seal(b"data", aad=b"head")
    assert near.decrypt(box[1:13], box[13:], b"head") == b"data"
    # Nobody gets the bytes, a part of the key, or another algorithm's.
    refused(errno.EPERM, b.keys.export, "shared")
    peer = spki(private)
    refused(errno.EPERM, b.keys.derive, "part", base="mine", peer=peer, bits=128)
    refused(errno.EPERM, b.keys.derive, "other", base="mine", peer=peer, algorithm="ctr(aes)")
    refused(errno.EINVAL, b.keys.derive, "bad", base="mine", peer=b"no key")
    b.keys.generate("closed", algorithm, usage={"derive"})
    refused(errno.EPERM, opened, b, algorithm, "closed")


@pytest.mark.parametrize("algorithm", ["ml-kem-768", "ml-kem-1024"])
def test_encapsulation(b: Connection, algorithm: str) -> None:
    b.keys.generate("kem", algorithm, usage={"derive-bytes"})
    fd = opened(b, algorithm, "kem")
    ciphertext, secret = fd.encapsulate()
    assert fd.decapsulate(ciphertext) == secret
    changed = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    assert fd.decapsulate(changed) != secret


def test_pairs_come_as_der_or_pem_and_go_as_der(b: Connection) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    encoded = {
        "pkcs8": (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8),
        "traditional": (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL),
        "der": (serialization.Encoding.DER, serialization.PrivateFormat.PKCS8),
    }
    for label, (encoding, form) in encoded.items():
        data = private.private_bytes(encoding, form, serialization.NoEncryption())
        b.keys.import_key(label, "ecdsa-nist-p256", data, exportable=True)
        back: Any = serialization.load_der_private_key(b.keys.export(label), None)
        assert back.private_numbers() == private.private_numbers()
        signature = opened(b, "ecdsa-nist-p256", label).sign(b"data")
        private.public_key().verify(signature, b"data", ec.ECDSA(hashes.SHA256()))
    locked = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"word"),
    )  # fmt: skip
    with pytest.raises(ValueError, match="encrypted"):
        b.keys.import_key("locked", "ecdsa-nist-p256", locked)
    # The public half alone: it verifies, and that is all.
    half = b.keys.import_key("half", "ecdsa-nist-p256", spki(private), usage={"verify"})
    assert half.type == "public"
    fd = opened(b, "ecdsa-nist-p256", "half")
    fd.verify(private.sign(b"data", ec.ECDSA(hashes.SHA256())), b"data")
    refused(errno.EPERM, fd.sign, b"data")
    with pytest.raises(OSError, match="public"):
        b.keys.import_key("no", "ecdsa-nist-p256", spki(private))
    for wrong in (b"", b"\x30\x00", der(private)[:-1], der(ed25519.Ed25519PrivateKey.generate())):
        refused(errno.EINVAL, b.keys.import_key, "wrong", "ecdsa-nist-p256", wrong)


def test_wrapped_keys_are_what_others_unwrap(b: Connection) -> None:
    kek = os.urandom(32)
    usage = {"wrap", "unwrap"}
    b.keys.import_key("kwp", "kwp(aes)", kek, usage=usage, wrap_template={
        "algorithm": "ed25519", "bits": 256, "usage": ["sign", "verify"]})  # fmt: skip
    b.keys.import_key("kw", "kw(aes)", kek, usage=usage, wrap_template=TEMPLATE)
    raw = os.urandom(32)
    b.keys.import_key("aes", "gcm(aes)", raw, exportable=True, wrappable=True)
    wrapped = b.keys.wrap("aes", by="kw", format="kw")
    assert keywrap.aes_key_unwrap(kek, wrapped) == raw
    assert keywrap.aes_key_unwrap_with_padding(
        kek, b.keys.wrap("aes", by="kwp", format="kwp")
    ) == raw  # fmt: skip
    pair = b.keys.generate("ed", "ed25519", exportable=True, wrappable=True)
    inner = keywrap.aes_key_unwrap_with_padding(kek, b.keys.wrap("ed", by="kwp", format="kwp"))
    theirs: Any = serialization.load_der_private_key(inner, None)
    public(pair).verify(theirs.sign(b"data"), b"data")
    # And the other way: what PyCA wrapped is taken in, never to leave.
    mine = ed25519.Ed25519PrivateKey.generate()
    wrapped = keywrap.aes_key_wrap_with_padding(kek, der(mine))
    back = b.keys.unwrap("back", wrapped, by="kwp", format="kwp")
    assert (back.algorithm, back.type, back.exportable) == ("ed25519", "pair", False)
    mine.public_key().verify(opened(b, "ed25519", "back").sign(b"data"), b"data")
    refused(errno.EPERM, b.keys.export, "back")
    refused(errno.EINVAL, b.keys.wrap, "ed", by="kw", format="kw")


def test_rsa_oaep_wraps_secret_keys(b: Connection) -> None:
    template = {**TEMPLATE, "bits": 128}
    kek = b.keys.generate("kek", "rsa", usage={"wrap", "unwrap"}, wrap_template=template)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    raw = os.urandom(16)
    b.keys.unwrap("in", public(kek).encrypt(raw, oaep), by="kek", format="rsa-oaep")
    box = opened(b, "gcm(aes)", "in").seal(b"data")
    assert AESGCM(raw).decrypt(box[1:13], box[13:], None) == b"data"
    # Under a key of ours whose private half PyCA has.
    private = rsa.generate_private_key(65537, 3072)
    b.keys.import_key("out", "rsa", spki(private), usage={"wrap"})
    b.keys.import_key("aes", "gcm(aes)", raw, exportable=True, wrappable=True)
    wrapped = b.keys.wrap("aes", by="out", format="rsa-oaep")
    assert private.decrypt(wrapped, oaep) == raw
    # 3072 bits are worth 128: no stronger key goes in or out under them.
    b.keys.generate("strong", "gcm(aes)", bits=256, exportable=True, wrappable=True)
    refused(errno.EPERM, b.keys.wrap, "strong", by="out", format="rsa-oaep")
    refused(
        errno.EPERM, b.keys.unwrap, "no", public(kek).encrypt(bytes(32), oaep),
        by="kek", format="rsa-oaep",
    )  # fmt: skip
    # Not exportable: the wrapping key must be trusted.
    b.keys.generate("secret", "gcm(aes)", bits=128, wrappable=True)
    refused(errno.EPERM, b.keys.wrap, "secret", by="out", format="rsa-oaep")


@pytest.mark.parametrize("algorithm", ["gcm(aes)", "kwp(aes)", "kw(aes)"])
def test_our_own_format_keeps_a_pairs_attributes(b: Connection, algorithm: str) -> None:
    b.keys.generate("kek", algorithm, bits=256, usage={"wrap", "unwrap"})
    made = b.keys.generate("rsa", "rsa", bits=2048, exportable=True, wrappable=True)
    wrapped = b.keys.wrap("rsa", by="kek")
    back = b.keys.unwrap("back", wrapped, by="kek")
    same = ("algorithm", "bits", "type", "usage", "fingerprint", "public")
    assert [getattr(back, n) for n in same] == [getattr(made, n) for n in same]
    assert not back.exportable
    less = b.keys.unwrap("less", wrapped, by="kek", usage={"verify"})
    assert less.usage == ["verify"]
    refused(errno.EPERM, b.keys.unwrap, "more", wrapped, by="kek", usage={"decrypt"})


def test_a_hash_takes_in_a_key(b: Connection) -> None:
    raw = os.urandom(32)
    b.keys.import_key("psk", "hmac(sha256)", raw, usage={"digest"})
    hash_ = opened(b, "sha256", "psk", usage={"digest"})
    hash_.update(b"before")
    hash_.update_key()
    clone = hash_.clone()
    hash_.update(b"after")
    assert hash_.digest() == hashlib.sha256(b"before" + raw + b"after").digest()
    assert clone.digest() == hashlib.sha256(b"before" + raw).digest()
    b.keys.generate("aes", "gcm(aes)")
    refused(errno.EPERM, opened, b, "sha256", "aes", usage={"digest"})
    refused(errno.EPERM, opened, b, "hmac(sha512)", "psk", usage={"digest"})
    import cryptofd

    refused(errno.EOPNOTSUPP, cryptofd.open("sha256").update_key)


def test_a_use_limit_counts_signatures(b: Connection) -> None:
    b.keys.generate("few", "ed25519", uses=2)
    fd = opened(b, "ed25519", "few")
    fd.public_key()
    fd.verify(fd.sign(b"data"), b"data")
    refused(errno.EDQUOT, fd.sign, b"data")


def test_the_old_version_only_verifies(b: Connection) -> None:
    b.keys.generate("web", "ecdsa-nist-p256")
    signature = opened(b, "ecdsa-nist-p256", "web").sign(b"data")
    b.keys.rotate("web")
    old = opened(b, "ecdsa-nist-p256", "web", version=1)
    old.verify(signature, b"data")
    refused(errno.EPERM, old.sign, b"data")
    new = opened(b, "ecdsa-nist-p256", "web")
    refused(errno.EKEYREJECTED, new.verify, signature, b"data")


def test_the_command(real: Broker, b: Connection, tmp_path: Path) -> None:
    def cryptofd_(*arguments: str) -> str:
        done = real.command(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = cryptofd_("key", "generate", "web", "-a", "ecdsa-nist-p256")
    assert said == "cryptofd:web: ecdsa-nist-p256, 256 bits, sign, verify\n"
    shown = json.loads(cryptofd_("key", "show", "web", "--json"))
    assert shown["public"] in cryptofd_("key", "show", "web")
    serialization.load_der_public_key(base64.b64decode(shown["public"]))
    private = rsa.generate_private_key(65537, 2048)
    (tmp_path / "key.pem").write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    cryptofd_("key", "import", "old", "-a", "rsa", "--from", "file:key.pem", "--exportable")
    cryptofd_("key", "export", "old", "-o", "out")
    assert serialization.load_der_private_key((tmp_path / "out").read_bytes(), None)
