"""Every family of mechanisms on the slot `cryptofd`, against hashlib and PyCA's library."""

from __future__ import annotations

import hashlib
import hmac
import os
from ctypes import byref, c_ulong
from typing import Any

import pytest
from cryptography.hazmat.primitives import cmac, hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from raw import (
    Ccm,
    ChaChaPoly,
    Ctr,
    Ecdh,
    Failed,
    Gcm,
    Hkdf,
    Oaep,
    Pss,
    Session,
    mechanism,
    number,
)

import cryptofd

USES = {"CKA_ENCRYPT": True, "CKA_DECRYPT": True}
SIGNS = {"CKA_SIGN": True, "CKA_VERIFY": True}
OPEN = {"CKA_SENSITIVE": False, "CKA_EXTRACTABLE": True}
DATA = bytes(range(256)) * 5
HASHES = {
    "CKM_MD5": "md5", "CKM_SHA_1": "sha1", "CKM_SHA224": "sha224", "CKM_SHA256": "sha256",
    "CKM_SHA384": "sha384", "CKM_SHA512": "sha512", "CKM_SHA3_224": "sha3_224",
    "CKM_SHA3_256": "sha3_256", "CKM_SHA3_384": "sha3_384", "CKM_SHA3_512": "sha3_512",
    "CKM_SHA512_256": "sha512_256", "CKM_BLAKE2B_512": "blake2b",
}  # fmt: skip


def pieces(data: bytes) -> list[tuple[bytes, ...]]:
    """The ways in which a message may come."""
    return [
        (data,),
        (data[:1], data[1:15], data[15:17], b"", data[17:700], data[700:]),
        tuple(data[n : n + 16] for n in range(0, len(data), 16)),
    ]


@pytest.mark.parametrize("name", HASHES)
def test_digests(session: Session, name: str) -> None:
    wanted = hashlib.new(HASHES[name], DATA).digest()
    for way in pieces(DATA):
        assert session.digest(mechanism(name), *way) == wanted
    assert session.digest(mechanism(name), b"") == hashlib.new(HASHES[name]).digest()


@pytest.mark.parametrize("name", ["CKM_SHA256", "CKM_SHA384", "CKM_SHA3_256"])
def test_the_state_of_a_digest_goes_on_elsewhere(session: Session, name: str) -> None:
    other = session.module.session(0x63666400)
    session.ok("DigestInit", byref(mechanism(name)))
    session.ok("DigestUpdate", b"abc", 3)
    state = session.out("GetOperationState")
    session.ok("DigestUpdate", b"def", 3)
    assert session.out("DigestFinal") == hashlib.new(HASHES[name], b"abcdef").digest()
    for tail in (b"x", b"yy"):
        other.ok("SetOperationState", state, len(state), 0, 0)
        other.ok("DigestUpdate", tail, len(tail))
        assert other.out("DigestFinal") == hashlib.new(HASHES[name], b"abc" + tail).digest()
    wrong = bytes(len(state))
    assert other.refused("SetOperationState", wrong, len(wrong), 0, 0) == "CKR_SAVED_STATE_INVALID"
    assert other.refused("GetOperationState", None, byref(c_ulong())) == (
        "CKR_OPERATION_NOT_INITIALIZED"
    )
    other.close()


def test_a_key_goes_into_a_digest(session: Session) -> None:
    key = session.secret("CKK_GENERIC_SECRET", b"secret", CKA_SENSITIVE=False, CKA_EXTRACTABLE=True)
    session.ok("DigestInit", byref(mechanism("CKM_SHA256")))
    session.ok("DigestUpdate", b"a", 1)
    session.ok("DigestKey", key)
    assert session.out("DigestFinal") == hashlib.sha256(b"asecret").digest()
    hidden = session.secret("CKK_GENERIC_SECRET", b"secret", CKA_SENSITIVE=True)
    session.ok("DigestInit", byref(mechanism("CKM_SHA256")))
    assert session.refused("DigestKey", hidden) == "CKR_KEY_INDIGESTIBLE"


@pytest.mark.parametrize("name", [name for name in HASHES if name != "CKM_BLAKE2B_512"])
def test_hmac(session: Session, name: str) -> None:
    secret = os.urandom(20)
    key = session.secret("CKK_GENERIC_SECRET", secret, **SIGNS)
    wanted = hmac.digest(secret, DATA, HASHES[name])
    for way in pieces(DATA):
        assert session.sign(mechanism(f"{name}_HMAC"), key, *way) == wanted
        session.verify(mechanism(f"{name}_HMAC"), key, wanted, *way)
        with pytest.raises(Failed, match="CKR_SIGNATURE_INVALID"):
            session.verify(mechanism(f"{name}_HMAC"), key, wanted[:-1] + b"\0\0"[:1], *way)
    if name == "CKM_SHA512_256":
        return
    general = mechanism(f"{name}_HMAC_GENERAL", c_ulong(10))
    assert session.sign(general, key, DATA) == wanted[:10]
    session.verify(general, key, wanted[:10], DATA)
    with pytest.raises(Failed, match="CKR_SIGNATURE_LEN_RANGE"):
        session.verify(general, key, wanted, DATA)
    with pytest.raises(Failed, match="CKR_MECHANISM_PARAM_INVALID"):
        session.sign(mechanism(f"{name}_HMAC_GENERAL", c_ulong(1000)), key, DATA)


def test_cmac(session: Session) -> None:
    for size in (16, 24, 32):
        secret = os.urandom(size)
        key = session.secret("CKK_AES", secret, **SIGNS)
        reference = cmac.CMAC(algorithms.AES(secret))
        reference.update(DATA)
        wanted = reference.finalize()
        for way in pieces(DATA):
            assert session.sign(mechanism("CKM_AES_CMAC"), key, *way) == wanted
            session.verify(mechanism("CKM_AES_CMAC"), key, wanted, *way)
        general = mechanism("CKM_AES_CMAC_GENERAL", c_ulong(8))
        assert session.sign(general, key, DATA) == wanted[:8]
        session.verify(general, key, wanted[:8], DATA)


IV = bytes(range(16))
CIPHERS: dict[str, tuple[Any, Any]] = {
    "CKM_AES_ECB": (lambda: None, modes.ECB),
    "CKM_AES_CBC": (lambda: IV, lambda: modes.CBC(IV)),
    "CKM_AES_CTR": (lambda: Ctr(128, (type(Ctr().block))(*IV)), lambda: modes.CTR(IV)),
}


@pytest.mark.parametrize("name", CIPHERS)
@pytest.mark.parametrize("size", [16, 24, 32])
def test_ciphers(session: Session, name: str, size: int) -> None:
    secret = os.urandom(size)
    key = session.secret("CKK_AES", secret, **USES)
    parameter, mode = CIPHERS[name]
    reference = Cipher(algorithms.AES(secret), mode()).encryptor()
    wanted = reference.update(DATA) + reference.finalize()
    for way in pieces(DATA):
        assert session.encrypt(mechanism(name, parameter()), key, *way) == wanted
    for way in pieces(wanted):
        assert session.decrypt(mechanism(name, parameter()), key, *way) == DATA
    if name != "CKM_AES_CTR":
        with pytest.raises(Failed, match="CKR_DATA_LEN_RANGE"):
            session.encrypt(mechanism(name, parameter()), key, DATA[:17])
        with pytest.raises(Failed, match="CKR_ENCRYPTED_DATA_LEN_RANGE"):
            session.decrypt(mechanism(name, parameter()), key, DATA[:17])
    with pytest.raises(Failed, match="CKR_MECHANISM_PARAM_INVALID"):
        session.encrypt(mechanism(name, b"short"), key, DATA)


def test_cfb(session: Session) -> None:
    from cryptography.hazmat.decrepit.ciphers.modes import CFB

    secret = os.urandom(32)
    key = session.secret("CKK_AES", secret, **USES)
    reference = Cipher(algorithms.AES(secret), CFB(IV)).encryptor()
    wanted = reference.update(DATA[:333]) + reference.finalize()
    assert session.encrypt(mechanism("CKM_AES_CFB128", IV), key, DATA[:333]) == wanted
    assert session.decrypt(mechanism("CKM_AES_CFB128", IV), key, wanted) == DATA[:333]


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 4096])
def test_cbc_with_padding(session: Session, length: int) -> None:
    from cryptography.hazmat.primitives.padding import PKCS7

    secret, data = os.urandom(32), os.urandom(length)
    key = session.secret("CKK_AES", secret, **USES)
    padder = PKCS7(128).padder()
    reference = Cipher(algorithms.AES(secret), modes.CBC(IV)).encryptor()
    wanted = reference.update(padder.update(data) + padder.finalize()) + reference.finalize()
    how = mechanism("CKM_AES_CBC_PAD", IV)
    for way in pieces(data):
        assert session.encrypt(how, key, *way) == wanted
    for way in pieces(wanted):
        assert session.decrypt(how, key, *way) == data
    with pytest.raises(Failed, match=r"CKR_ENCRYPTED_DATA_(INVALID|LEN_RANGE)"):
        session.decrypt(how, key, session.encrypt(mechanism("CKM_AES_CBC", IV), key, bytes(32)))


def test_xts(session: Session) -> None:
    secret = os.urandom(64)
    key = session.secret("CKK_AES_XTS", secret, **USES)
    reference = Cipher(algorithms.AES(secret), modes.XTS(IV)).encryptor()
    wanted = reference.update(DATA[:77]) + reference.finalize()
    assert session.encrypt(mechanism("CKM_AES_XTS", IV), key, DATA[:77]) == wanted
    assert session.decrypt(mechanism("CKM_AES_XTS", IV), key, wanted) == DATA[:77]


@pytest.mark.parametrize("length", [0, 5, 1280])
@pytest.mark.parametrize("name", ["gcm", "gcm of 12 bytes", "ccm", "chacha"])
def test_aeads(session: Session, name: str, length: int) -> None:
    secret, nonce, aad, data = os.urandom(32), os.urandom(12), b"header", os.urandom(length)
    if name == "chacha":
        key = session.secret("CKK_CHACHA20", secret, **USES)
        wanted = ChaCha20Poly1305(secret).encrypt(nonce, data, aad)

        def how() -> Any:
            return mechanism("CKM_CHACHA20_POLY1305", ChaChaPoly(nonce, 12, aad, len(aad)))
    elif name == "ccm":
        key = session.secret("CKK_AES", secret, **USES)
        wanted = AESCCM(secret, 8).encrypt(nonce, data, aad)

        def how() -> Any:
            return mechanism("CKM_AES_CCM", Ccm(length, nonce, 12, aad, len(aad), 8))
    else:
        tag = 12 if "12" in name else 16
        key = session.secret("CKK_AES", secret, **USES)
        wanted = AESGCM(secret).encrypt(nonce, data, aad)[: length + tag]

        def how() -> Any:
            return mechanism("CKM_AES_GCM", Gcm(nonce, 12, 96, aad, len(aad), tag * 8))

    for way in pieces(data):
        assert session.encrypt(how(), key, *way) == wanted
    for way in pieces(wanted):
        assert session.decrypt(how(), key, *way) == data
    broken = bytes([wanted[0] ^ 1]) + wanted[1:]
    for way in pieces(broken):
        with pytest.raises(Failed, match=r"CKR_ENCRYPTED_DATA_INVALID|CKR_AEAD_DECRYPT_FAILED"):
            session.decrypt(how(), key, *way)
    with pytest.raises(Failed, match="CKR_ENCRYPTED_DATA_LEN_RANGE"):
        session.decrypt(how(), key, b"short")


def test_key_wrap_of_data_and_of_keys(session: Session) -> None:
    secret, kept = os.urandom(32), os.urandom(24)
    kek = session.secret("CKK_AES", secret, CKA_WRAP=True, CKA_UNWRAP=True, **USES)
    key = session.secret("CKK_GENERIC_SECRET", kept, CKA_EXTRACTABLE=True)
    for name, reference in (
        ("CKM_AES_KEY_WRAP", keywrap.aes_key_wrap(secret, kept)),
        ("CKM_AES_KEY_WRAP_KWP", keywrap.aes_key_wrap_with_padding(secret, kept)),
    ):
        assert session.wrap(mechanism(name), kek, key) == reference
        back = session.unwrap(
            mechanism(name), kek, reference, CKA_CLASS=number("CKO_SECRET_KEY"),
            CKA_KEY_TYPE=number("CKK_GENERIC_SECRET"), **OPEN,
        )  # fmt: skip
        assert session.get(back, "CKA_VALUE") == kept
        assert not session.flag(back, "CKA_LOCAL")
        assert not session.flag(back, "CKA_NEVER_EXTRACTABLE")
        with pytest.raises(Failed, match=r"CKR_WRAPPED_KEY_INVALID|CKR_WRAPPED_KEY_LEN_RANGE"):
            session.unwrap(
                mechanism(name), kek, bytes(len(reference)), CKA_KEY_TYPE=number("CKK_AES"),
                CKA_CLASS=number("CKO_SECRET_KEY"),
            )  # fmt: skip
    kept_in = session.secret("CKK_AES", kept, CKA_EXTRACTABLE=False)
    with pytest.raises(Failed, match="CKR_KEY_UNEXTRACTABLE"):
        session.wrap(mechanism("CKM_AES_KEY_WRAP"), kek, kept_in)


# Private keys, brought by their numbers


def big(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def rsa_objects(session: Session, key: rsa.RSAPrivateKey) -> tuple[int, int]:
    """(public, private)"""
    private, common = key.private_numbers(), {"CKA_KEY_TYPE": number("CKK_RSA")}
    of = private.public_numbers
    common |= {"CKA_MODULUS": big(of.n), "CKA_PUBLIC_EXPONENT": big(of.e)}  # type: ignore[dict-item]
    return (
        session.create(CKA_CLASS=number("CKO_PUBLIC_KEY"), **common),
        session.create(
            CKA_CLASS=number("CKO_PRIVATE_KEY"), CKA_PRIVATE_EXPONENT=big(private.d),
            CKA_PRIME_1=big(private.p), CKA_PRIME_2=big(private.q),
            CKA_EXPONENT_1=big(private.dmp1), CKA_EXPONENT_2=big(private.dmq1),
            CKA_COEFFICIENT=big(private.iqmp), **common,
        ),
    )  # fmt: skip


MGF = {"CKM_SHA_1": 1, "CKM_SHA256": 2, "CKM_SHA384": 3, "CKM_SHA512": 4}
PYCA = {
    "CKM_SHA_1": hashes.SHA1, "CKM_SHA256": hashes.SHA256, "CKM_SHA384": hashes.SHA384,
    "CKM_SHA512": hashes.SHA512,
}  # fmt: skip


@pytest.mark.parametrize("name", ["CKM_SHA256", "CKM_SHA384", "CKM_SHA512"])
def test_rsa_signatures(session: Session, rsa_key: rsa.RSAPrivateKey, name: str) -> None:
    public, private = rsa_objects(session, rsa_key)
    hash_ = PYCA[name]()
    for way in pieces(DATA):
        how = mechanism(f"{name}_RSA_PKCS")
        signature = session.sign(how, private, *way)
        assert signature == rsa_key.sign(DATA, padding.PKCS1v15(), hash_)
        session.verify(how, public, signature, *way)
        how = mechanism(f"{name}_RSA_PKCS_PSS", Pss(number(name), MGF[name], 32))
        signature = session.sign(how, private, *way)
        pss = padding.PSS(padding.MGF1(hash_), 32)
        rsa_key.public_key().verify(signature, DATA, pss, hash_)
        session.verify(how, public, rsa_key.sign(DATA, pss, hash_), *way)
        with pytest.raises(Failed, match="CKR_SIGNATURE_INVALID"):
            session.verify(how, public, bytes(256), *way)
    digest = hashlib.new(HASHES[name], DATA).digest()
    how = mechanism("CKM_RSA_PKCS_PSS", Pss(number(name), MGF[name], 20))
    signature = session.sign(how, private, digest)
    pss = padding.PSS(padding.MGF1(hash_), 20)
    rsa_key.public_key().verify(signature, DATA, pss, hash_)
    session.verify(how, public, signature, digest)


def test_rsa_signs_what_it_is_given(session: Session, rsa_key: rsa.RSAPrivateKey) -> None:
    """CKM_RSA_PKCS takes a DigestInfo, as TLS 1.2 gives it, or any bytes; CKM_RSA_X_509 a block."""
    public, private = rsa_objects(session, rsa_key)
    info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(DATA).digest()
    signature = session.sign(mechanism("CKM_RSA_PKCS"), private, info)
    assert signature == rsa_key.sign(DATA, padding.PKCS1v15(), hashes.SHA256())
    session.verify(mechanism("CKM_RSA_PKCS"), public, signature, info)
    of = rsa_key.private_numbers()
    n, d = of.public_numbers.n, of.d
    for data in (b"x", b"any thirty-six bytes, MD5 and SHA-1 "):
        signature = session.sign(mechanism("CKM_RSA_PKCS"), private, data)
        block = b"\0\1" + b"\xff" * (253 - len(data)) + b"\0" + data
        assert int.from_bytes(signature, "big") == pow(int.from_bytes(block, "big"), d, n)
        session.verify(mechanism("CKM_RSA_PKCS"), public, signature, data)
    block = b"\0" + os.urandom(255)
    signature = session.sign(mechanism("CKM_RSA_X_509"), private, block)
    assert int.from_bytes(signature, "big") == pow(int.from_bytes(block, "big"), d, n)
    session.verify(mechanism("CKM_RSA_X_509"), public, signature, block)
    with pytest.raises(Failed, match="CKR_DATA_LEN_RANGE"):
        session.sign(mechanism("CKM_RSA_PKCS"), private, bytes(246))


def test_rsa_encryption(session: Session, rsa_key: rsa.RSAPrivateKey) -> None:
    public, private = rsa_objects(session, rsa_key)
    theirs = rsa_key.public_key()
    box = session.encrypt(mechanism("CKM_RSA_PKCS"), public, b"secret")
    assert rsa_key.decrypt(box, padding.PKCS1v15()) == b"secret"
    theirs_box = theirs.encrypt(b"other", padding.PKCS1v15())
    how = mechanism("CKM_RSA_PKCS")
    if decrypts_pkcs1(rsa_key, theirs_box):
        assert session.decrypt(how, private, theirs_box) == b"other"
    else:
        # No engine here that does not tell a bad padding from a good one (Bleichenbacher, 1998).
        with pytest.raises(Failed, match="CKR_MECHANISM_INVALID"):
            session.decrypt(how, private, theirs_box)
    for name in MGF:
        for label in (b"", b"label"):
            how = mechanism(
                "CKM_RSA_PKCS_OAEP",
                Oaep(number(name), MGF[name], 1 if label else 0, label or None, len(label)),
            )
            oaep = padding.OAEP(padding.MGF1(PYCA[name]()), PYCA[name](), label or None)
            assert rsa_key.decrypt(session.encrypt(how, public, b"secret"), oaep) == b"secret"
            assert session.decrypt(how, private, theirs.encrypt(b"other", oaep)) == b"other"
    block = b"\0" + os.urandom(255)
    box = session.encrypt(mechanism("CKM_RSA_X_509"), public, block)
    assert session.decrypt(mechanism("CKM_RSA_X_509"), private, box) == block


def decrypts_pkcs1(key: rsa.RSAPrivateKey, box: bytes) -> bool:
    der = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        cryptofd.open("rsa", key=der).decrypt(box, scheme="pkcs1")
    except cryptofd.Unsupported:
        return False
    return True


def test_rsa_wraps_keys(session: Session, rsa_key: rsa.RSAPrivateKey) -> None:
    public, private = rsa_objects(session, rsa_key)
    kept = os.urandom(32)
    key = session.secret("CKK_AES", kept, CKA_EXTRACTABLE=True)
    how = mechanism("CKM_RSA_PKCS_OAEP", Oaep(number("CKM_SHA256"), 2, 0, None, 0))
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    wrapped = session.wrap(how, public, key)
    assert rsa_key.decrypt(wrapped, oaep) == kept
    back = session.unwrap(
        how, private, wrapped, CKA_CLASS=number("CKO_SECRET_KEY"), CKA_KEY_TYPE=number("CKK_AES"),
        **OPEN,
    )  # fmt: skip
    assert session.get(back, "CKA_VALUE") == kept


CURVES = {
    "secp256r1": (ec.SECP256R1(), "06082a8648ce3d030107", 32),
    "secp384r1": (ec.SECP384R1(), "06052b81040022", 48),
    "secp521r1": (ec.SECP521R1(), "06052b81040023", 66),
}


def octets(data: bytes) -> bytes:
    """OCTET STRING."""
    long = b"\x81" if len(data) > 127 else b""
    return b"\4" + long + bytes([len(data)]) + data


def point_of(der: bytes) -> bytes:
    """What is in an OCTET STRING."""
    return der[3:] if der[1] & 0x80 else der[2:]


def ec_objects(session: Session, curve: str, key: ec.EllipticCurvePrivateKey) -> tuple[int, int]:
    _, oid, size = CURVES[curve]
    point = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    common = {"CKA_KEY_TYPE": number("CKK_EC"), "CKA_EC_PARAMS": bytes.fromhex(oid)}
    value = key.private_numbers().private_value.to_bytes(size, "big")
    return (
        session.create(CKA_CLASS=number("CKO_PUBLIC_KEY"), CKA_EC_POINT=octets(point), **common),
        session.create(
            CKA_CLASS=number("CKO_PRIVATE_KEY"), CKA_VALUE=value, CKA_DERIVE=True, **common
        ),
    )


@pytest.mark.parametrize("curve", CURVES)
def test_ecdsa(session: Session, curve: str) -> None:
    key = ec.generate_private_key(CURVES[curve][0])
    public, private = ec_objects(session, curve, key)
    size = CURVES[curve][2]

    def theirs(signature: bytes, hash_: Any) -> None:
        r, s = (int.from_bytes(half, "big") for half in (signature[:size], signature[size:]))
        key.public_key().verify(utils.encode_dss_signature(r, s), DATA, ec.ECDSA(hash_))

    for name in ("CKM_SHA256", "CKM_SHA384", "CKM_SHA512"):
        hash_ = PYCA[name]()
        digest = hashlib.new(HASHES[name], DATA).digest()
        signature = session.sign(mechanism("CKM_ECDSA"), private, digest)
        assert len(signature) == 2 * size
        theirs(signature, hash_)
        how = mechanism(f"CKM_ECDSA_{name.removeprefix('CKM_')}")
        session.verify(how, public, signature, DATA)
        for way in pieces(DATA):
            signature = session.sign(how, private, *way)
            theirs(signature, hash_)
            session.verify(how, public, signature, *way)
            session.verify(mechanism("CKM_ECDSA"), public, signature, digest)
            with pytest.raises(Failed, match="CKR_SIGNATURE_INVALID"):
                session.verify(how, public, signature, *way, b"more")
            with pytest.raises(Failed, match="CKR_SIGNATURE_LEN_RANGE"):
                session.verify(how, public, signature + b"\0", *way)


def test_ed25519(session: Session) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    common = {
        "CKA_KEY_TYPE": number("CKK_EC_EDWARDS"),
        "CKA_EC_PARAMS": bytes.fromhex("06032b6570"),
    }
    raw_public = key.public_key().public_bytes_raw()
    public = session.create(
        CKA_CLASS=number("CKO_PUBLIC_KEY"), CKA_EC_POINT=octets(raw_public), **common
    )
    private = session.create(
        CKA_CLASS=number("CKO_PRIVATE_KEY"), CKA_VALUE=key.private_bytes_raw(), **common
    )
    how = mechanism("CKM_EDDSA")
    for way in pieces(DATA):
        assert session.sign(how, private, *way) == key.sign(DATA)
        session.verify(how, public, key.sign(DATA), *way)
    with pytest.raises(Failed, match="CKR_SIGNATURE_INVALID"):
        session.verify(how, public, bytes(64), DATA)


@pytest.mark.parametrize("curve", CURVES)
def test_ecdh(session: Session, curve: str) -> None:
    ours, theirs = (ec.generate_private_key(CURVES[curve][0]) for _ in range(2))
    _, private = ec_objects(session, curve, ours)
    point = theirs.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    shared = ours.exchange(ec.ECDH(), theirs.public_key())
    agreed(session, private, [point, octets(point)], shared)


def test_x25519(session: Session) -> None:
    ours, theirs = x25519.X25519PrivateKey.generate(), x25519.X25519PrivateKey.generate()
    private = session.create(
        CKA_CLASS=number("CKO_PRIVATE_KEY"), CKA_KEY_TYPE=number("CKK_EC_MONTGOMERY"),
        CKA_EC_PARAMS=bytes.fromhex("06032b656e"), CKA_VALUE=ours.private_bytes_raw(),
        CKA_DERIVE=True,
    )  # fmt: skip
    public = theirs.public_key()
    agreed(session, private, [public.public_bytes_raw()], ours.exchange(public))


def agreed(session: Session, private: int, points: list[bytes], shared: bytes) -> None:
    generic = {
        "CKA_CLASS": number("CKO_SECRET_KEY"), "CKA_KEY_TYPE": number("CKK_GENERIC_SECRET"), **OPEN,
    }  # fmt: skip
    for point in points:
        plain = Ecdh(1, 0, None, len(point), point)
        key = session.derive(mechanism("CKM_ECDH1_DERIVE", plain), private, **generic)
        assert session.get(key, "CKA_VALUE") == shared
        for kdf, hash_ in ((5, hashes.SHA224()), (6, hashes.SHA256()), (8, hashes.SHA512())):
            hashed = Ecdh(kdf, 4, b"info", len(point), point)
            key = session.derive(
                mechanism("CKM_ECDH1_DERIVE", hashed), private, CKA_VALUE_LEN=24, **generic
            )
            assert session.get(key, "CKA_VALUE") == X963KDF(hash_, 24, b"info").derive(shared)
    bad = Ecdh(1, 0, None, 5, b"\4\1\2\3\4")
    with pytest.raises(Failed, match="CKR_MECHANISM_PARAM_INVALID"):
        session.derive(mechanism("CKM_ECDH1_DERIVE", bad), private, **generic)


def test_hkdf(session: Session) -> None:
    secret, salt, info = os.urandom(32), b"salt", b"info"
    base = session.secret("CKK_HKDF", secret, CKA_DERIVE=True)
    aes = {"CKA_CLASS": number("CKO_SECRET_KEY"), "CKA_KEY_TYPE": number("CKK_AES"), **OPEN}
    sha256 = number("CKM_SHA256")
    both = mechanism("CKM_HKDF_DERIVE", Hkdf(1, 1, sha256, 2, salt, 4, 0, info, 4))
    key = session.derive(both, base, CKA_VALUE_LEN=32, **aes)
    assert session.get(key, "CKA_VALUE") == HKDF(hashes.SHA256(), 32, salt, info).derive(secret)
    extract = mechanism("CKM_HKDF_DERIVE", Hkdf(1, 0, sha256, 2, salt, 4, 0, None, 0))
    prk = session.derive(
        extract, base, CKA_CLASS=number("CKO_SECRET_KEY"), CKA_KEY_TYPE=number("CKK_HKDF"),
        CKA_DERIVE=True, **OPEN,
    )  # fmt: skip
    assert session.get(prk, "CKA_VALUE") == hmac.digest(salt, secret, "sha256")
    # NSS leaves the salt's fields as its stack was where there is nothing to extract.
    expand = mechanism("CKM_HKDF_DERIVE", Hkdf(0, 1, sha256, 77, None, 9, 5, info, 4))
    key = session.derive(expand, prk, CKA_VALUE_LEN=16, **aes)
    wanted = HKDFExpand(hashes.SHA256(), 16, info).derive(hmac.digest(salt, secret, "sha256"))
    assert session.get(key, "CKA_VALUE") == wanted
    data = mechanism("CKM_HKDF_DATA", Hkdf(1, 1, sha256, 2, salt, 4, 0, info, 4))
    made = session.derive(data, base, CKA_CLASS=number("CKO_DATA"), CKA_VALUE_LEN=42)
    assert session.get(made, "CKA_VALUE") == HKDF(hashes.SHA256(), 42, salt, info).derive(secret)


def test_hkdf_on_data(session: Session) -> None:
    """As TLS 1.3 begins: the first secret is zeroes, which are no key."""
    zeroes = session.create(CKA_CLASS=number("CKO_DATA"), CKA_VALUE=bytes(32))
    salt = session.create(CKA_CLASS=number("CKO_DATA"), CKA_VALUE=b"salt")
    how = mechanism("CKM_HKDF_DERIVE", Hkdf(1, 0, number("CKM_SHA256"), 4, None, 0, salt, None, 0))
    key = session.derive(
        how, zeroes, CKA_CLASS=number("CKO_SECRET_KEY"), CKA_KEY_TYPE=number("CKK_HKDF"),
        CKA_DERIVE=True, **OPEN,
    )  # fmt: skip
    assert session.get(key, "CKA_VALUE") == hmac.digest(b"salt", bytes(32), "sha256")
    assert not session.flag(key, "CKA_ALWAYS_SENSITIVE")
    with pytest.raises(Failed, match="CKR_KEY_HANDLE_INVALID"):
        session.derive(mechanism("CKM_ECDH1_DERIVE", Ecdh(1, 0, None, 1, b"x")), zeroes)


# Generation


def test_generated_secret_keys(session: Session) -> None:
    for kind, length in (
        ("CKM_AES_KEY_GEN", 32), ("CKM_GENERIC_SECRET_KEY_GEN", 20), ("CKM_HKDF_KEY_GEN", 32),
        ("CKM_AES_XTS_KEY_GEN", 64),
    ):  # fmt: skip
        one, other = (session.generate(kind, CKA_VALUE_LEN=length, **OPEN) for _ in range(2))
        values = {session.get(key, "CKA_VALUE") for key in (one, other)}
        assert len(values) == 2
        assert {len(value) for value in values} == {length}
    key = session.generate("CKM_CHACHA20_KEY_GEN", **OPEN)
    assert len(session.get(key, "CKA_VALUE")) == 32
    with pytest.raises(Failed, match="CKR_TEMPLATE_INCOMPLETE"):
        session.generate("CKM_AES_KEY_GEN")
    with pytest.raises(Failed, match=r"CKR_(ATTRIBUTE_VALUE_INVALID|KEY_SIZE_RANGE)"):
        session.generate("CKM_AES_KEY_GEN", CKA_VALUE_LEN=17)


@pytest.mark.parametrize("curve", CURVES)
def test_generated_pairs_work_elsewhere(session: Session, curve: str) -> None:
    public, private = session.pair(
        "CKM_EC_KEY_PAIR_GEN", {"CKA_EC_PARAMS": bytes.fromhex(CURVES[curve][1])}, OPEN
    )
    value = int.from_bytes(session.get(private, "CKA_VALUE"), "big")
    theirs = ec.derive_private_key(value, CURVES[curve][0])
    point = theirs.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    assert point_of(session.get(public, "CKA_EC_POINT")) == point


def test_a_generated_rsa_key_has_its_numbers(session: Session) -> None:
    public, private = session.pair(
        "CKM_RSA_PKCS_KEY_PAIR_GEN",
        {"CKA_MODULUS_BITS": 2048, "CKA_PUBLIC_EXPONENT": b"\1\0\1"},
        OPEN,
    )
    get = {
        name: int.from_bytes(session.get(private, f"CKA_{name}"), "big")
        for name in ("MODULUS", "PRIVATE_EXPONENT", "PRIME_1", "PRIME_2", "EXPONENT_1")
    }
    assert get["PRIME_1"] * get["PRIME_2"] == get["MODULUS"]
    assert get["MODULUS"].bit_length() == session.number(public, "CKA_MODULUS_BITS") == 2048
    assert get["PRIVATE_EXPONENT"] % (get["PRIME_1"] - 1) == get["EXPONENT_1"]
    assert pow(pow(5, 65537, get["MODULUS"]), get["PRIVATE_EXPONENT"], get["MODULUS"]) == 5


def test_random(session: Session) -> None:
    import ctypes

    seen = set()
    for _ in range(4):
        buffer = (ctypes.c_char * 64)()
        session.ok("GenerateRandom", buffer, 64)
        seen.add(buffer.raw)
    assert len(seen) == 4
    session.ok("SeedRandom", b"seed", 4)


def test_wrapped_private_keys_are_pkcs8(session: Session, rsa_key: rsa.RSAPrivateKey) -> None:
    secret = os.urandom(32)
    kek = session.secret("CKK_AES", secret, CKA_WRAP=True, CKA_UNWRAP=True)
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    wrapped = keywrap.aes_key_wrap_with_padding(secret, der)
    private = session.unwrap(
        mechanism("CKM_AES_KEY_WRAP_KWP"), kek, wrapped, CKA_CLASS=number("CKO_PRIVATE_KEY"),
        CKA_KEY_TYPE=number("CKK_EC"), CKA_SENSITIVE=True, CKA_EXTRACTABLE=True,
    )  # fmt: skip
    signature = session.sign(mechanism("CKM_ECDSA_SHA256"), private, DATA)
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    encoded = utils.encode_dss_signature(r, s)
    key.public_key().verify(encoded, DATA, ec.ECDSA(hashes.SHA256()))
    back = session.wrap(mechanism("CKM_AES_KEY_WRAP_KWP"), kek, private)
    again = serialization.load_der_private_key(
        keywrap.aes_key_unwrap_with_padding(secret, back), None
    )
    assert isinstance(again, ec.EllipticCurvePrivateKey)
    assert again.private_numbers() == key.private_numbers()
