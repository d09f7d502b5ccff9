"""Keys of pairs for the tests: DER of right and of wrong numbers, with no library's help."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from host_engines import available, refusal

import cryptofd

PAIRS = {a.name: a for a in cryptofd.algorithms() if a.kind == "pair"}
#: Engines that offer a pair, and the pair.
OFFERED = [
    (engine, name)
    for engine in available()
    for name in PAIRS
    if engine in {"software", "openssl"} and refusal(engine, name) is None
]
CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
EC_OIDS = {
    "p256": "2a8648ce3d030107",
    "p384": "2b81040022",
    "p521": "2b81040023",
}
OIDS = {
    "rsa": "2a864886f70d010101",
    "ec": "2a8648ce3d0201",
    "ed25519": "2b6570",
    "x25519": "2b656e",
    "ml-kem-768": "608648016503040402",
    "ml-kem-1024": "608648016503040403",
    "ml-dsa-65": "608648016503040312",
}


def der(tag: int, *parts: bytes) -> bytes:
    """One element."""
    body = b"".join(parts)
    length = len(body)
    if length < 0x80:
        return bytes([tag, length]) + body
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + body


def integer(number: int) -> bytes:
    """INTEGER."""
    return der(2, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def named(*oids: str) -> bytes:
    """AlgorithmIdentifier of an OID, and its parameters: an OID or, of RSA, NULL."""
    parts = [der(6, bytes.fromhex(oid)) for oid in oids]
    if oids[0] == OIDS["rsa"]:
        parts.append(b"\x05\x00")
    return der(0x30, *parts)


def spki(identifier: bytes, bits: bytes) -> bytes:
    """SubjectPublicKeyInfo."""
    return der(0x30, identifier, der(3, b"\0", bits))


def pkcs8(identifier: bytes, key: bytes) -> bytes:
    """PKCS#8's PrivateKeyInfo."""
    return der(0x30, integer(0), identifier, der(4, key))


def rsa_public(n: int, e: int) -> bytes:
    return spki(named(OIDS["rsa"]), der(0x30, integer(n), integer(e)))


def ec_public(curve: str, x: int, y: int) -> bytes:
    size = (CURVES[curve].key_size + 7) // 8
    point = b"\4" + x.to_bytes(size, "big") + y.to_bytes(size, "big")
    return spki(named(OIDS["ec"], EC_OIDS[curve]), point)


def ec_private(curve: str, d: int, x: int, y: int) -> bytes:
    size = (CURVES[curve].key_size + 7) // 8
    point = b"\4" + x.to_bytes(size, "big") + y.to_bytes(size, "big")
    key = der(0x30, integer(1), der(4, d.to_bytes(size, "big")), der(0xA1, der(3, b"\0", point)))
    return pkcs8(named(OIDS["ec"], EC_OIDS[curve]), key)


def raw_public(name: str, key: bytes) -> bytes:
    """Of what is bytes without structure: Ed25519, X25519, ML-KEM, ML-DSA."""
    return spki(named(OIDS[name]), key)


def raw_private(name: str, key: bytes) -> bytes:
    """Ed25519 and X25519 (RFC 8410)."""
    return pkcs8(named(OIDS[name]), der(4, key))


def seed_private(name: str, seed: bytes) -> bytes:
    """ML-KEM, ML-DSA: the seed alone (RFC 9935, RFC 9881)."""
    return pkcs8(named(OIDS[name]), der(0x80, seed))


def private_der(key: object) -> bytes:
    """PKCS#8 of a private key of PyCA."""
    return key.private_bytes(form.Encoding.DER, form.PrivateFormat.PKCS8, form.NoEncryption())  # type: ignore[attr-defined,no-any-return]


def public_der(key: object) -> bytes:
    """SubjectPublicKeyInfo of a public key of PyCA."""
    return key.public_bytes(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]


def fresh(name: str) -> object:
    """A new private key of PyCA."""
    if name == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if name == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if name == "x25519":
        return x25519.X25519PrivateKey.generate()
    if name.startswith("ec"):
        return ec.generate_private_key(CURVES[name[-4:]])
    return form.load_der_private_key(cryptofd.generate(name)[0], None)


def offering(operation: str) -> list[object]:
    """Parameters (engine, name) for the pairs that do ``operation``."""
    return [
        pytest.param(engine, name, id=f"{engine}-{name}")
        for engine, name in OFFERED
        if operation in PAIRS[name].operations
    ]
