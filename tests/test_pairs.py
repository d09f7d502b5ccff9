"""Pairs of keys: against PyCA, on every engine, in process and by descriptor; what is refused."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from pairs import (
    CURVES,
    EC_OIDS,
    OIDS,
    PAIRS,
    der,
    ec_private,
    ec_public,
    fresh,
    integer,
    named,
    offering,
    pkcs8,
    private_der,
    public_der,
    raw_private,
    raw_public,
    rsa_public,
    spki,
)
from reference import TABLE

import cryptofd
from cryptofd import BadSignature, BadTag, InvalidArgument, TooLarge, Unsupported

Opener = Callable[..., Any]
DATA = b"what is signed"
HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
    "sha512/256": hashes.SHA512_256(),
    "sha3-224": hashes.SHA3_224(),
    "sha3-256": hashes.SHA3_256(),
    "sha3-384": hashes.SHA3_384(),
    "sha3-512": hashes.SHA3_512(),
}


@pytest.fixture(params=["in process", "descriptor"])
def open_(request: pytest.FixtureRequest) -> Opener:
    """open(), or open() and then what a stranger with the descriptor has."""

    def opened(algorithm: str, key: bytes, **options: Any) -> Any:
        fd = cryptofd.open(algorithm, key=key, **options)
        if request.param == "in process":
            return fd
        return cryptofd.adopt(os.dup(fd.fileno()))

    return opened


@pytest.fixture(scope="module")
def keys() -> dict[str, Any]:
    """One private key of PyCA of each kind."""
    return {name: fresh(name) for name in PAIRS}


def test_the_software_engine_offers_all_of_them() -> None:
    for name in PAIRS:
        assert [c.engine for c in cryptofd.explain(name, engine="software") if c.serves] == [
            "software"
        ]


def test_what_an_engine_lacks_it_says() -> None:
    for name in ("rsa", "ml-kem-768"):
        kernel = [c for c in cryptofd.explain(name) if c.engine == "kernel"]
        assert all(not c.offers and c.why for c in kernel)


# Against PyCA


@pytest.mark.parametrize("hash_", HASHES)
@pytest.mark.parametrize(("engine_", "name"), offering("sign"))
def test_signatures_against_pyca(
    engine_: str, name: str, hash_: str, open_: Opener, keys: dict[str, Any]
) -> None:
    key, algorithm = keys[name], HASHES[hash_]
    public = key.public_key()
    fd = open_(name, private_der(key), engine=engine_)
    if name == "rsa":
        for how, theirs in (
            ({}, padding.PKCS1v15()),
            ({"scheme": "pss"}, padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)),
            ({"scheme": "pss", "salt_length": 7}, padding.PSS(padding.MGF1(algorithm), 7)),
            ({"scheme": "pss", "salt_length": 0}, padding.PSS(padding.MGF1(algorithm), 0)),
        ):
            public.verify(fd.sign(DATA, hash=hash_, **how), DATA, theirs, algorithm)
            fd.verify(key.sign(DATA, theirs, algorithm), DATA, hash=hash_, **how)
            digest = hashes.Hash(algorithm)
            digest.update(DATA)
            digested = digest.finalize()
            public.verify(fd.sign_digest(digested, hash=hash_, **how), DATA, theirs, algorithm)
            fd.verify_digest(fd.sign(DATA, hash=hash_, **how), digested, hash=hash_, **how)
    elif name.startswith("ecdsa"):
        public.verify(fd.sign(DATA, hash=hash_), DATA, ec.ECDSA(algorithm))
        theirs = key.sign(DATA, ec.ECDSA(algorithm))
        fd.verify(theirs, DATA, hash=hash_)
        size = (key.key_size + 7) // 8
        raw = fd.sign(DATA, hash=hash_, format="raw")
        assert len(raw) == 2 * size
        r, s = (int.from_bytes(part, "big") for part in (raw[:size], raw[size:]))
        public.verify(utils.encode_dss_signature(r, s), DATA, ec.ECDSA(algorithm))
        r, s = utils.decode_dss_signature(theirs)
        raw = r.to_bytes(size, "big") + s.to_bytes(size, "big")
        fd.verify(raw, DATA, hash=hash_, format="raw")
        digest = hashes.Hash(algorithm)
        digest.update(DATA)
        digested = digest.finalize()
        public.verify(fd.sign_digest(digested, hash=hash_), DATA, ec.ECDSA(algorithm))
        public.verify(fd.sign_digest(digested, hash="none"), DATA, ec.ECDSA(algorithm))
        fd.verify_digest(theirs, digested, hash=hash_)
    else:
        public.verify(fd.sign(DATA), DATA)
        fd.verify(key.sign(DATA), DATA)
        with pytest.raises(InvalidArgument):
            fd.sign(DATA, hash=hash_)
        with pytest.raises(Unsupported):
            fd.sign_digest(bytes(32))


def test_every_hash_of_the_table_is_tried() -> None:
    for pair in PAIRS.values():
        assert set(pair.hashes) in (set(), set(HASHES))


def test_rsa_under_pkcs1_is_the_same_everywhere(open_: Opener, keys: dict[str, Any]) -> None:
    fd = open_("rsa", private_der(keys["rsa"]))
    theirs = keys["rsa"].sign(DATA, padding.PKCS1v15(), hashes.SHA256())
    assert fd.sign(DATA, hash="sha256") == fd.sign(DATA) == theirs
    # A DigestInfo that the caller made (PKCS#11's CKM_RSA_PKCS).
    info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(DATA).digest()
    assert fd.sign_digest(info, hash="none") == theirs
    fd.verify_digest(theirs, info, hash="none")


PYCA_OAEP = {"sha1", "sha224", "sha256", "sha384", "sha512"}


@pytest.mark.parametrize("hash_", HASHES)
@pytest.mark.parametrize("engine_", ["software", "openssl"])
def test_oaep_against_pyca(engine_: str, hash_: str, open_: Opener, keys: dict[str, Any]) -> None:
    key, algorithm = keys["rsa"], HASHES[hash_]
    fd = open_("rsa", private_der(key), engine=engine_)
    # What PyCA lacks, the other engine has.
    other_engine = {"software": "openssl", "openssl": "software"}[engine_]
    other = cryptofd.open("rsa", key=private_der(key), engine=other_engine)
    for label in (None, b"label"):
        theirs = padding.OAEP(padding.MGF1(algorithm), algorithm, label)
        how = {"hash": hash_} | ({"label": label} if label else {})
        most = 256 - 2 * algorithm.digest_size - 2
        for size in (0, 1, most):
            data = os.urandom(size)
            if hash_ in PYCA_OAEP:
                assert key.decrypt(fd.encrypt(data, **how), theirs) == data
                assert fd.decrypt(key.public_key().encrypt(data, theirs), **how) == data
            else:
                assert other.decrypt(fd.encrypt(data, **how), **how) == data
                assert fd.decrypt(other.encrypt(data, **how), **how) == data
        with pytest.raises(TooLarge, match=str(most)):
            fd.encrypt(bytes(most + 1), **how)
        box = fd.encrypt(b"secret", **how)
        with pytest.raises(BadTag) as caught:
            fd.decrypt(box, hash=hash_, label=b"another")
        assert caught.value.errno == errno.EBADMSG
        with pytest.raises(BadTag):
            fd.decrypt(bytes([box[0] & 1]) + bytes(255), **how)


@pytest.mark.parametrize("engine_", ["software", "openssl"])
def test_rsa_without_padding(engine_: str, open_: Opener, keys: dict[str, Any]) -> None:
    key = keys["rsa"]
    numbers = key.private_numbers()
    n = numbers.public_numbers.n
    fd = open_("rsa", private_der(key), engine=engine_)
    m = int.from_bytes(os.urandom(255), "big")
    c = pow(m, 65537, n)
    assert fd.encrypt(m.to_bytes(256, "big"), scheme="raw") == c.to_bytes(256, "big")
    assert fd.decrypt(c.to_bytes(256, "big"), scheme="raw") == m.to_bytes(256, "big")
    for size in (255, 0):
        with pytest.raises(InvalidArgument, match="256"):
            fd.encrypt(bytes(size), scheme="raw")
    with pytest.raises(InvalidArgument, match="modulus"):
        fd.encrypt(b"\xff" * 256, scheme="raw")


def test_pkcs1_v15_is_decrypted_only_without_an_oracle(keys: dict[str, Any]) -> None:
    """By an OpenSSL that rejects implicitly, or by nobody."""
    fd = cryptofd.open("rsa", key=private_der(keys["rsa"]))
    box = keys["rsa"].public_key().encrypt(b"secret", padding.PKCS1v15())
    broken = fd.encrypt(b"\0\1" + b"\xff" * 254, scheme="raw")
    about = {e.name: e.about for e in cryptofd.engines()}["openssl"]
    version = re.match(r"OpenSSL (\d+)\.(\d+)", about)
    if version and (int(version[1]), int(version[2])) >= (3, 2):
        assert fd.decrypt(box, scheme="pkcs1") == b"secret"
        # No error: the padding's fate is not told.
        fd.decrypt(broken, scheme="pkcs1")
    else:
        for each in (box, broken):
            with pytest.raises(Unsupported, match="oaep"):
                fd.decrypt(each, scheme="pkcs1")
    assert keys["rsa"].decrypt(fd.encrypt(b"x", scheme="pkcs1"), padding.PKCS1v15()) == b"x"
    with pytest.raises(TooLarge, match="245"):
        fd.encrypt(bytes(246), scheme="pkcs1")


@pytest.mark.parametrize(("engine_", "name"), offering("agree"))
def test_agreement_against_pyca(
    engine_: str, name: str, open_: Opener, keys: dict[str, Any]
) -> None:
    fd = open_(name, private_der(keys[name]), engine=engine_)
    for _ in range(5):
        theirs: Any = fresh(name)
        mine = keys[name].public_key()
        shared = theirs.exchange(mine) if name == "x25519" else theirs.exchange(ec.ECDH(), mine)
        assert fd.agree(public_der(theirs.public_key())) == shared
    with pytest.raises(InvalidArgument, match="private"):
        fd.agree(private_der(theirs))


@pytest.mark.parametrize(("engine_", "name"), offering("decapsulate"))
def test_encapsulation_against_pyca(
    engine_: str, name: str, open_: Opener, keys: dict[str, Any]
) -> None:
    key = keys[name]
    fd = open_(name, private_der(key), engine=engine_)
    secret, ciphertext = key.public_key().encapsulate()
    assert fd.decapsulate(ciphertext) == secret
    ciphertext, secret = fd.encapsulate()
    assert key.decapsulate(ciphertext) == secret
    assert len(secret) == 32
    for wrong in (ciphertext[1:], ciphertext + b"0", b""):
        with pytest.raises(InvalidArgument, match=str(len(wrong))):
            fd.decapsulate(wrong)
    forged = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    assert fd.decapsulate(forged) != secret


@pytest.mark.parametrize("name", PAIRS)
def test_keys_that_we_make_are_keys_to_pyca(name: str) -> None:
    private, public = cryptofd.generate(name)
    key: Any = form.load_der_private_key(private, None)
    assert public is not None
    assert public_der(key.public_key()) == public
    info = cryptofd.open(name, key=private).info()
    assert (info.key_bits, info.private) == (PAIRS[name].bits_default, True)
    info = cryptofd.open(name, key=public).info()
    assert (info.key_bits, info.private) == (PAIRS[name].bits_default, False)
    assert cryptofd.generate(name)[0] != private


@pytest.mark.parametrize("name", PAIRS)
def test_keys_of_pyca_are_ours(name: str, open_: Opener, keys: dict[str, Any]) -> None:
    public = public_der(keys[name].public_key())
    assert open_(name, private_der(keys[name])).public_key() == public
    assert open_(name, public).public_key() == public


@pytest.mark.parametrize("name", ["rsa", "ecdsa-nist-p256", "ecdh-nist-p521"])
def test_keys_in_their_traditional_forms(name: str, keys: dict[str, Any]) -> None:
    """PKCS#1's RSAPrivateKey, RFC 5915's ECPrivateKey."""
    old = keys[name].private_bytes(
        form.Encoding.DER, form.PrivateFormat.TraditionalOpenSSL, form.NoEncryption()
    )
    fd = cryptofd.open(name, key=old)
    assert fd.public_key() == public_der(keys[name].public_key())


def test_other_keys_are_made_too() -> None:
    for name, entry in TABLE.items():
        if entry.key is None:
            with pytest.raises(InvalidArgument):
                cryptofd.generate(name)
            continue
        key, public = cryptofd.generate(name)
        assert public is None
        assert len(key) in entry.key
        assert len(set(key)) > 1
    assert len(cryptofd.generate("gcm(aes)", 128)[0]) == 16
    assert len(cryptofd.generate("gcm(aes)")[0]) == 32
    for bits in (0, 64, 100, 1 << 20):
        with pytest.raises(InvalidArgument, match=str(bits)):
            cryptofd.generate("gcm(aes)", bits)
    with pytest.raises(cryptofd.UnknownAlgorithm):
        cryptofd.generate("rot13")


# What is refused

P256 = CURVES["p256"]
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1


def bad_keys() -> dict[str, tuple[str, bytes]]:
    """What each is, the algorithm that it is given for, and the key."""
    point = ec.derive_private_key(7, P256).public_key().public_numbers()
    other = ec.derive_private_key(8, P256).public_key().public_numbers()
    strong: Any = fresh("rsa")
    n = strong.private_numbers().public_numbers.n
    numbers = strong.private_numbers()
    curve = named(OIDS["ec"], EC_OIDS["p256"])
    rsa_key = [
        0, n, 65537, numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp,
    ]  # fmt: skip

    def rsa_private(**change: int) -> bytes:
        names = ("version", "n", "e", "d", "p", "q", "dp", "dq", "qi")
        values = dict(zip(names, rsa_key, strict=True)) | change
        return pkcs8(named(OIDS["rsa"]), der(0x30, *map(integer, values.values())))

    assert cryptofd.open("rsa", key=rsa_private()).public_key()
    return {
        "nothing": ("rsa", b""),
        "no DER": ("rsa", b"rsa"),
        "text": ("rsa", b"-----BEGIN PRIVATE KEY-----\n"),
        "far too long": ("ed25519", bytes(1 << 20)),
        "a modulus of 1024 bits": ("rsa", rsa_public((1 << 1023) + 3, 65537)),
        "a modulus of 2049 bits": ("rsa", rsa_public((1 << 2048) + 1, 65537)),
        "a modulus of 8200 bits": ("rsa", rsa_public((1 << 8199) + 1, 65537)),
        "a modulus of 16384 bits": ("rsa", rsa_public((1 << 16383) + 1, 65537)),
        "a modulus of 0": ("rsa", rsa_public(0, 65537)),
        "an even modulus": ("rsa", rsa_public(n + 1, 65537)),
        "a negative modulus": (
            "rsa",
            spki(named(OIDS["rsa"]), der(0x30, der(2, b"\xff" * 256), integer(65537))),
        ),
        "exponent 1": ("rsa", rsa_public(n, 1)),
        "an even exponent": ("rsa", rsa_public(n, 65536)),
        "exponent 0": ("rsa", rsa_public(n, 0)),
        "an exponent of 2048 bits": ("rsa", rsa_public(n, n - 2)),
        "a private key with exponent 1": ("rsa", rsa_private(e=1, d=1, dp=1, dq=1)),
        "another d": ("rsa", rsa_private(d=numbers.d + 2)),
        "another prime": ("rsa", rsa_private(p=numbers.p + 2)),
        "another dp": ("rsa", rsa_private(dp=numbers.dmp1 + 2)),
        "another modulus": ("rsa", rsa_private(n=n + 2)),
        "a version of 9": ("rsa", rsa_private(version=9)),
        "an RSA key for ECDSA": ("ecdsa-nist-p256", rsa_public(n, 65537)),
        "off the curve": ("ecdsa-nist-p256", ec_public("p256", point.x, point.y ^ 1)),
        "infinity": ("ecdsa-nist-p256", spki(curve, b"\0")),
        "an empty point": ("ecdsa-nist-p256", spki(curve, b"")),
        "a coordinate beyond the prime": (
            "ecdsa-nist-p256",
            ec_public("p256", point.x + PRIME, point.y)
            if point.x + PRIME < 1 << 256
            else ec_public("p256", PRIME, point.y),
        ),
        "a short point": (
            "ecdsa-nist-p256",
            spki(curve, b"\4" + point.x.to_bytes(32, "big") + point.y.to_bytes(32, "big")[:31]),
        ),
        "another curve": ("ecdsa-nist-p384", ec_public("p256", point.x, point.y)),
        "an unknown curve": (
            "ecdsa-nist-p256",
            spki(named(OIDS["ec"], "2b8104000a"), bytes([4]) + bytes(64)),
        ),
        "another public half": ("ecdsa-nist-p256", ec_private("p256", 7, other.x, other.y)),
        "a private key of 0": ("ecdsa-nist-p256", ec_private("p256", 0, point.x, point.y)),
        "a private key of the order": (
            "ecdsa-nist-p256",
            ec_private("p256", ORDER, point.x, point.y),
        ),
        "31 bytes": ("ed25519", raw_private("ed25519", bytes(31))),
        "33 bytes": ("x25519", raw_public("x25519", bytes(33))),
        "Ed25519 for X25519": ("x25519", raw_public("ed25519", bytes(32))),
        "X25519 for Ed25519": ("ed25519", raw_private("x25519", bytes(32))),
        "a seed too short": ("ml-kem-768", raw_public("ml-kem-768", bytes(1183))),
        "ML-KEM-768 for 1024": ("ml-kem-1024", raw_public("ml-kem-768", bytes(1184))),
        "ML-KEM coefficients beyond q": (
            "ml-kem-768",
            raw_public("ml-kem-768", b"\xff" * 1184),
        ),
        "a short ML-DSA key": ("ml-dsa-65", raw_public("ml-dsa-65", bytes(1951))),
    }


BAD_KEYS = bad_keys()


@pytest.mark.parametrize("what", BAD_KEYS)
@pytest.mark.parametrize("engine_", [None, "software", "openssl"])
def test_bad_keys(engine_: str | None, what: str) -> None:
    algorithm, key = BAD_KEYS[what]
    if engine_ and not any(c.offers for c in cryptofd.explain(algorithm, engine=engine_)):
        pytest.skip(f"{engine_} has no {algorithm}")
    with pytest.raises(InvalidArgument) as caught:
        cryptofd.open(algorithm, key=key, engine=engine_)
    assert caught.value.errno == errno.EINVAL
    assert type(caught.value) is InvalidArgument


def test_a_pair_needs_a_key_and_takes_no_other_options(keys: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="PKCS#8"):
        cryptofd.open("rsa")
    with pytest.raises(Unsupported, match="kernel"):
        cryptofd.open("rsa", key=cryptofd.KeyringKey(1))
    key = private_der(keys["ed25519"])
    for options in ({"tag_size": 16}, {"iv": bytes(12)}, {"padding": "pkcs7"}, {"salt": b"s"}):
        with pytest.raises(InvalidArgument):
            cryptofd.open("ed25519", key=key, **options)  # type: ignore[arg-type]


#: Small-order points of Curve25519 and their twins that are not reduced (RFC 7748, section 6.1).
SMALL = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    2**255 - 20,
    2**255 - 19,
    2**255 - 18,
]


@pytest.mark.parametrize("engine_", ["software", "openssl"])
def test_a_peer_of_small_order(engine_: str, open_: Opener, keys: dict[str, Any]) -> None:
    fd = open_("x25519", private_der(keys["x25519"]), engine=engine_)
    for u in SMALL:
        for number in (u, u | 1 << 255):
            peer = raw_public("x25519", number.to_bytes(32, "little"))
            with pytest.raises(InvalidArgument, match="agreement"):
                fd.agree(peer)


@pytest.mark.parametrize(
    "what", ["off the curve", "infinity", "an empty point", "another curve", "an unknown curve"]
)
def test_bad_peers(what: str, open_: Opener, keys: dict[str, Any]) -> None:
    fd = open_("ecdh-nist-p256", private_der(keys["ecdh-nist-p256"]))
    key = BAD_KEYS[what][1]
    if what == "another curve":
        key = public_der(keys["ecdh-nist-p384"].public_key())
    for peer in (key, key[:-1], b"", bytes(100)):
        with pytest.raises(InvalidArgument):
            fd.agree(peer)


@pytest.mark.parametrize(("engine_", "name"), offering("verify"))
def test_bad_signatures(engine_: str, name: str, open_: Opener, keys: dict[str, Any]) -> None:
    fd = open_(name, private_der(keys[name]), engine=engine_)
    good = fd.sign(DATA)
    fd.verify(good, DATA)
    wrong = [b"", b"\0", good[:-1], good + b"\0", bytes(len(good)), b"\xff" * len(good)]
    for at in {0, 1, len(good) // 2, len(good) - 1}:
        wrong.append(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    if name.startswith("ecdsa"):
        r, s = utils.decode_dss_signature(good)
        order = {
            "256": ORDER,
        }.get(name[-3:], 0)
        wrong += [der(0x30, integer(a), integer(b)) for a, b in ((0, s), (r, 0), (0, 0))]
        if order:
            wrong += [der(0x30, integer(r + order), integer(s))]
        # BER: a length in two bytes.
        wrong.append(b"\x30\x82" + len(good[2:]).to_bytes(2, "big") + good[2:])
        for raw in (b"", bytes(64), bytes(63), bytes(200)):
            with pytest.raises(BadSignature):
                fd.verify(raw, DATA, format="raw")
    for signature in wrong:
        with pytest.raises(BadSignature) as caught:
            fd.verify(signature, DATA)
        assert caught.value.errno == errno.EKEYREJECTED
        assert isinstance(caught.value, BadTag)
    with pytest.raises(BadSignature):
        fd.verify(good, DATA + b"!")
    other = open_(name, private_der(fresh(name)), engine=engine_)
    with pytest.raises(BadSignature):
        other.verify(good, DATA)


@pytest.mark.parametrize("name", PAIRS)
def test_what_a_pair_does_not_do(name: str, open_: Opener, keys: dict[str, Any]) -> None:
    private = open_(name, private_der(keys[name]))
    public = open_(name, public_der(keys[name].public_key()))
    calls: dict[str, Callable[[Any], Any]] = {
        "sign": lambda fd: fd.sign(DATA),
        "verify": lambda fd: fd.verify(b"", DATA),
        "encrypt": lambda fd: fd.encrypt(DATA),
        "decrypt": lambda fd: fd.decrypt(bytes(256)),
        "agree": lambda fd: fd.agree(b""),
        "encapsulate": lambda fd: fd.encapsulate(),
        "decapsulate": lambda fd: fd.decapsulate(b""),
    }
    for operation, call in calls.items():
        for fd, needs in ((private, ()), (public, ("sign", "decrypt", "agree", "decapsulate"))):
            if operation in PAIRS[name].operations and operation not in needs:
                continue
            with pytest.raises(Unsupported) as caught:
                call(fd)
            assert name in caught.value.strerror
    for call in (
        lambda fd: fd.update(b"x"),
        lambda fd: fd.digest(),
        lambda fd: fd.read(3),
        lambda fd: fd.wrap(bytes(16)),
        lambda fd: fd.unwrap(bytes(24)),
        lambda fd: fd.derive(16),
        lambda fd: fd.stream("encrypt", iv=bytes(16)),
    ):
        with pytest.raises(Unsupported):
            call(private)
    if name == "rsa":
        with pytest.raises(InvalidArgument, match="no iv"):
            private.encrypt(DATA, iv=bytes(12))


def test_others_take_nothing_of_a_pair(open_: Opener) -> None:
    aead = open_("gcm(aes)", bytes(16))
    for how in ({"hash": "sha256"}, {"scheme": "oaep"}, {"label": b"x"}):
        with pytest.raises(InvalidArgument, match="choice"):
            aead.encrypt(b"", iv=bytes(12), **how)
    for call in (aead.sign, aead.agree, aead.decapsulate):
        with pytest.raises(Unsupported):
            call(b"")
    for call in (aead.public_key, aead.encapsulate):
        with pytest.raises(Unsupported):
            call()
    mac = open_("hmac(sha256)", bytes(16))
    with pytest.raises(TypeError, match="update"):
        mac.verify(bytes(32), b"data")
    with pytest.raises(InvalidArgument):
        mac.verify(bytes(32), hash="sha256")


@pytest.mark.parametrize(
    ("name", "how", "names"),
    [
        ("rsa", {"hash": "md5"}, "sha512"),
        ("rsa", {"hash": "rot13"}, "sha512"),
        ("rsa", {"hash": "shake128"}, "sha512"),
        ("rsa", {"hash": "none"}, "none"),
        ("rsa", {"hash": "x" * 64}, "sha512"),
        ("rsa", {"scheme": "oaep"}, "pss"),
        ("rsa", {"scheme": "raw"}, "pss"),
        ("rsa", {"salt_length": 20}, "salt_length"),
        ("rsa", {"scheme": "pss", "salt_length": 223}, "222"),
        ("rsa", {"scheme": "pss", "salt_length": 2**32 - 1}, "222"),
        ("rsa", {"format": "raw"}, "format"),
        ("ecdsa-nist-p256", {"hash": "md5"}, "sha512"),
        ("ecdsa-nist-p256", {"scheme": "pss"}, "scheme"),
        ("ecdsa-nist-p256", {"salt_length": 0}, "salt_length"),
        ("ecdsa-nist-p256", {"format": "xml"}, "raw"),
        ("ed25519", {"hash": "sha512"}, "hash"),
        ("ed25519", {"format": "raw"}, "format"),
        ("ml-dsa-65", {"hash": "sha512"}, "hash"),
    ],
)
def test_wrong_options(
    name: str, how: dict[str, Any], names: str, open_: Opener, keys: dict[str, Any]
) -> None:
    fd = open_(name, private_der(keys[name]))
    for call in (lambda: fd.sign(DATA, **how), lambda: fd.verify(b"", DATA, **how)):
        with pytest.raises(InvalidArgument, match=names) as caught:
            call()
        assert caught.value.errno == errno.EINVAL


def test_digests_of_a_wrong_size(open_: Opener, keys: dict[str, Any]) -> None:
    for name in ("rsa", "ecdsa-nist-p384"):
        fd = open_(name, private_der(keys[name]))
        for size in (0, 31, 33):
            with pytest.raises(InvalidArgument, match=f"{size} bytes"):
                fd.sign_digest(bytes(size), hash="sha256")
            with pytest.raises(InvalidArgument):
                fd.verify_digest(b"", bytes(size), hash="sha256")
        for size in (0, 300):
            with pytest.raises(InvalidArgument, match=f"{size} bytes"):
                fd.sign_digest(bytes(size), hash="none")
    with pytest.raises(TypeError):
        fd.verify(b"")


def test_long_messages(open_: Opener, keys: dict[str, Any]) -> None:
    data = os.urandom(5_000_000)
    for name in ("rsa", "ecdsa-nist-p256", "ed25519", "ml-dsa-65"):
        fd = open_(name, private_der(keys[name]))
        fd.verify(fd.sign(data), data)
        with pytest.raises(BadSignature):
            fd.verify(fd.sign(data), data[:-1] + bytes([data[-1] ^ 1]))


# Around it


@pytest.mark.parametrize("name", ["rsa", "ecdsa-nist-p256", "ed25519", "x25519", "ml-kem-768"])
def test_threads(name: str, keys: dict[str, Any]) -> None:
    fd = cryptofd.open(name, key=private_der(keys[name]))
    pair, wrong = PAIRS[name], []

    def work() -> None:
        for number in range(10):
            data = b"%d" % number
            if "sign" in pair.operations:
                fd.verify(fd.sign(data), data)
            elif "agree" in pair.operations:
                wrong.extend([1] * (fd.agree(fd.public_key()) != fd.agree(fd.public_key())))
            else:
                ciphertext, secret = fd.encapsulate()
                wrong.extend([1] * (fd.decapsulate(ciphertext) != secret))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert fd.info().counts.refused == 0
    assert fd.info().counts.operations == 4 * 10 * 2


def test_a_child_signs_with_what_it_inherited(keys: dict[str, Any]) -> None:
    for engine_ in ("software", "openssl"):
        for name in ("rsa", "ecdsa-nist-p256", "ed25519"):
            fd = cryptofd.open(name, key=private_der(keys[name]), engine=engine_)
            fd.sign(DATA)
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    os.write(writing, fd.sign(DATA))
                finally:
                    os._exit(0)
            os.close(writing)
            with os.fdopen(reading, "rb") as pipe:
                signature = pipe.read()
            os.waitpid(child, 0)
            fd.verify(signature, DATA)


def test_submit_and_complete(keys: dict[str, Any]) -> None:
    fd = cryptofd.open("rsa", key=private_der(keys["rsa"]))
    number = fd.submit("sign", DATA, scheme="pss", salt_length=9, hash="sha384")
    done = fd.complete()
    assert done.id == number
    fd.verify(done.data, DATA, scheme="pss", salt_length=9, hash="sha384")
    fd.submit("verify_signature", DATA, tag=done.data, hash="sha384", scheme="pss", salt_length=8)
    assert isinstance(fd.complete().error, BadSignature)
    fd.submit("verify_signature", DATA)
    assert isinstance(fd.complete().error, InvalidArgument)
    fd.submit("public_key")
    assert fd.complete().data == fd.public_key()
    box = fd.encrypt(b"x", label=b"for you")
    fd.submit("decrypt", box, label=b"for you")
    assert fd.complete().data == b"x"


def test_awaited(keys: dict[str, Any]) -> None:
    async def signs() -> None:
        for name in ("rsa", "ecdsa-nist-p256", "ed25519"):
            async with cryptofd.aio.open(name, key=private_der(keys[name])) as fd:
                signatures = await asyncio.gather(*(fd.sign(b"%d" % n) for n in range(8)))
                for n, signature in enumerate(signatures):
                    await fd.verify(signature, b"%d" % n)
                with pytest.raises(BadSignature):
                    await fd.verify(signatures[0], b"1")
                assert await fd.public_key() == public_der(keys[name].public_key())
        async with cryptofd.aio.open("rsa", key=private_der(keys["rsa"])) as fd:
            box = await fd.encrypt(b"x", label=b"l")
            assert await fd.decrypt(box, label=b"l") == b"x"
            digest = hashlib.sha256(DATA).digest()
            await fd.verify_digest(await fd.sign_digest(digest, scheme="pss"), digest, scheme="pss")

    async def agrees() -> None:
        async with cryptofd.aio.open("ml-kem-768", key=private_der(keys["ml-kem-768"])) as fd:
            ciphertext, secret = await fd.encapsulate()
            assert await fd.decapsulate(ciphertext) == secret
        async with cryptofd.aio.open("x25519", key=private_der(keys["x25519"])) as fd:
            assert len(await fd.agree(await fd.public_key())) == 32

    asyncio.run(signs())
    asyncio.run(agrees())


def test_a_message_that_changes_while_it_is_signed(keys: dict[str, Any]) -> None:
    """Ed25519 reads twice: two messages under one nonce would give the key away."""
    fd = cryptofd.open("ed25519", key=private_der(keys["ed25519"]))
    data, stop = bytearray(200_000), threading.Event()

    def scribble() -> None:
        while not stop.is_set():
            data[1000] ^= 1

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        signatures = {fd.sign(data) for _ in range(200)}
    finally:
        stop.set()
        thread.join()
    right = set()
    for bit in (0, 1):
        data[1000] = bit
        right.add(fd.sign(data))
    assert signatures <= right


def test_copies(keys: dict[str, Any]) -> None:
    fd = cryptofd.open("ed25519", key=private_der(keys["ed25519"]))
    with fd.copy() as copy, cryptofd.adopt(os.dup(fd.fileno())) as far, far.clone() as clone:
        assert copy.sign(DATA) == fd.sign(DATA) == far.sign(DATA) == clone.sign(DATA)
    with pytest.raises(cryptofd.Closed):
        copy.sign(DATA)
