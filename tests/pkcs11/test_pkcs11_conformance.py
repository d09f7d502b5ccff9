"""What conformance suites and strict programs have found: each kind of it once."""

from __future__ import annotations

import ctypes
import hashlib
import hmac
from ctypes import byref, c_char, c_ubyte, c_ulong
from pathlib import Path
from typing import Any

import pytest
from programs import program, ran
from raw import (
    CRYPTO,
    KEYS,
    Failed,
    Gcm,
    GcmMessage,
    Hkdf,
    Interface,
    Module,
    Session,
    mechanism,
    name_of,
    number,
    template,
)
from test_pkcs11_claims import FLAGS, Keys, Material, Randoms

ED25519 = bytes.fromhex("06032b6570")
#: The largest length that a C program may have: no memory is so large.
NONSENSE = (1 << 63) - 1


def numbers(*kinds: str) -> bytes:
    return b"".join(number(kind).to_bytes(8, "little") for kind in kinds)


def listed(session: Session, key: int) -> set[int]:
    """CKA_ALLOWED_MECHANISMS."""
    value = session.get(key, "CKA_ALLOWED_MECHANISMS")
    return {int.from_bytes(value[at : at + 8], "little") for at in range(0, len(value), 8)}


# Interfaces


def test_an_interface_is_its_programs_to_write(library: Path) -> None:
    """pkcs11-spy puts its own functions in the place of ours; the next who asks gets ours again."""
    get = ctypes.CDLL(str(library)).C_GetInterface
    get.restype = c_ulong
    first, again = ctypes.POINTER(Interface)(), ctypes.POINTER(Interface)()
    assert get(None, None, byref(first), c_ulong(0)) == 0
    functions = first.contents.functions
    first.contents.functions = None
    assert get(None, None, byref(again), c_ulong(0)) == 0
    assert again.contents.functions == functions


def test_pkcs11_spy(library: Path, tmp_path: Path) -> None:
    program("pkcs11-tool")
    spies = sorted(Path("/usr/lib").glob("*/pkcs11-spy.so"))
    if not spies:
        pytest.skip("pkcs11-spy.so is not installed")
    log = tmp_path / "spy"
    env = {"PKCS11SPY": str(library), "PKCS11SPY_OUTPUT": str(log)}
    assert "cryptofd keys" in ran("pkcs11-tool", "--module", spies[0], "-L", env=env)
    said = log.read_text()
    assert "C_GetInterface" in said
    assert "C_GetTokenInfo" in said


def test_what_the_tokens_say_of_themselves(module: Module) -> None:
    def flags(slot: int) -> int:
        # label, manufacturer, model and serial number come before them.
        info = (c_ubyte * 256)()
        module.ok("GetTokenInfo", slot, byref(info))
        return int.from_bytes(bytes(info)[96:104], "little")

    for slot, protected in ((CRYPTO, True), (KEYS, False)):
        assert bool(flags(slot) & number("CKF_WRITE_PROTECTED")) == protected
        assert bool(flags(slot) & number("CKF_USER_PIN_INITIALIZED")) != protected
        assert flags(slot) & number("CKF_RNG")
        assert not flags(slot) & number("CKF_LOGIN_REQUIRED")


# Templates


def test_attributes_that_nobody_can_say(session: Session) -> None:
    trusted: dict[str, Any] = {"CKA_TRUSTED": True}
    for said in (
        {"CKA_CLASS": number("CKO_DATA"), "CKA_VALUE": b"x"},
        {
            "CKA_CLASS": number("CKO_CERTIFICATE"), "CKA_CERTIFICATE_TYPE": 0, "CKA_VALUE": b"x",
        },
    ):  # fmt: skip
        with pytest.raises(Failed, match="CKR_ATTRIBUTE_READ_ONLY"):
            session.create(**said, **trusted)
    with pytest.raises(Failed, match="CKR_TEMPLATE_INCONSISTENT"):
        session.generate("CKM_AES_KEY_GEN", CKA_VALUE_LEN=16, CKA_ENCAPSULATE=True)
    with pytest.raises(Failed, match="CKR_ATTRIBUTE_VALUE_INVALID"):
        session.pair(
            "CKM_EC_EDWARDS_KEY_PAIR_GEN", {"CKA_EC_PARAMS": ED25519},
            {"CKA_ALWAYS_AUTHENTICATE": True},
        )  # fmt: skip
    key = session.generate("CKM_AES_KEY_GEN", CKA_VALUE_LEN=16)
    with pytest.raises(Failed, match="CKR_ATTRIBUTE_READ_ONLY"):
        session.set(key, CKA_KEY_GEN_MECHANISM=session.number(key, "CKA_KEY_GEN_MECHANISM"))
    with pytest.raises(Failed, match="CKR_ATTRIBUTE_VALUE_INVALID"):
        session.generate("CKM_AES_KEY_GEN", CKA_VALUE_LEN=16, CKA_ALLOWED_MECHANISMS=b"123")


def test_a_key_does_what_its_list_allows(session: Session) -> None:
    key = session.secret(
        "CKK_AES", bytes(16), CKA_ALLOWED_MECHANISMS=numbers("CKM_AES_CBC", "CKM_AES_CBC_PAD")
    )
    assert listed(session, key) == {number("CKM_AES_CBC"), number("CKM_AES_CBC_PAD")}
    cbc = mechanism("CKM_AES_CBC_PAD", bytes(16))
    assert session.decrypt(cbc, key, session.encrypt(cbc, key, b"some")) == b"some"
    for how in (mechanism("CKM_AES_ECB"), mechanism("CKM_AES_GCM", Gcm(bytes(12), 12))):
        assert session.refused("EncryptInit", byref(how), key) == "CKR_MECHANISM_INVALID"
    assert session.refused("SignInit", byref(mechanism("CKM_AES_CMAC")), key) == (
        "CKR_MECHANISM_INVALID"
    )
    nothing = session.secret("CKK_AES", bytes(16), CKA_ALLOWED_MECHANISMS=b"")
    assert listed(session, nothing) == set()
    assert session.refused("EncryptInit", byref(cbc), nothing) == "CKR_MECHANISM_INVALID"


# Operations


def test_a_step_that_fails_ends_what_was_begun(session: Session) -> None:
    key = session.secret("CKK_AES", bytes(16))
    mac = session.secret("CKK_GENERIC_SECRET", bytes(16))
    room, out = c_ulong(64), (c_char * 64)()
    for begin, step in (
        (("EncryptInit", byref(mechanism("CKM_AES_ECB")), key), "Encrypt"),
        (("EncryptInit", byref(mechanism("CKM_AES_ECB")), key), "EncryptUpdate"),
        (("DecryptInit", byref(mechanism("CKM_AES_ECB")), key), "Decrypt"),
        (("DecryptInit", byref(mechanism("CKM_AES_ECB")), key), "DecryptUpdate"),
        (("DigestInit", byref(mechanism("CKM_SHA256"))), "Digest"),
        (("SignInit", byref(mechanism("CKM_SHA256_HMAC")), mac), "Sign"),
    ):
        for data, length in ((None, byref(room)), (bytes(16), None)):
            session.ok(*begin)
            assert session.refused(step, data, 16, out, length) == "CKR_ARGUMENTS_BAD"
            session.ok(*begin)  # CKR_OPERATION_ACTIVE were it not over
            assert session.refused(step, data, 16, out, length) == "CKR_ARGUMENTS_BAD"
        if "Update" not in step:
            # A buffer that is too small ends nothing.
            session.ok(*begin)
            small = c_ulong(1)
            assert session.refused(step, bytes(16), 16, out, byref(small)) == "CKR_BUFFER_TOO_SMALL"
            session.ok(step, bytes(16), 16, out, byref(small))


def test_a_stream_says_exactly_what_it_will_give(session: Session) -> None:
    key = session.secret("CKK_AES", bytes(16))
    how = mechanism("CKM_AES_CBC_PAD", bytes(16))
    sealed = session.encrypt(how, key, b"B" * 48)
    out = (c_char * 64)()
    for direction, pieces in (
        ("Decrypt", ((sealed, 48), (b"", 0))),
        ("Decrypt", ((sealed[:20], 16), (sealed[20:48], 16))),
        ("Encrypt", ((b"1" * 15, 0), (b"2" * 2, 16), (b"3" * 31, 32))),
    ):
        session.ok(f"{direction}Init", byref(how), key)
        for piece, given in pieces:
            if given:
                small = c_ulong(1)
                refused = session.refused(
                    f"{direction}Update", piece, len(piece), out, byref(small)
                )
                assert (refused, small.value) == ("CKR_BUFFER_TOO_SMALL", given)
            assert len(session.out(f"{direction}Update", piece, len(piece))) == given
        session.ok(f"{direction}Init", None, 0)


def test_a_length_that_is_nonsense_is_an_error(session: Session) -> None:
    key = session.secret("CKK_AES", bytes(16))
    session.ok("MessageEncryptInit", byref(mechanism("CKM_AES_GCM")), key)
    iv, tag, out = (c_char * 12)(), (c_char * 16)(), (c_char * 16)()
    message = GcmMessage(ctypes.addressof(iv), 12, 0, 0, ctypes.addressof(tag), 128)
    given = byref(message), ctypes.sizeof(message)
    room = c_ulong(16)
    one = session.refused("EncryptMessage", *given, b"a", NONSENSE, bytes(16), 16, out, byref(room))
    assert one == "CKR_HOST_MEMORY"
    assert session.refused("EncryptMessageBegin", *given, b"a", NONSENSE) == "CKR_HOST_MEMORY"
    session.ok("MessageEncryptFinal")


def test_what_cannot_fit_is_not_read(session: Session) -> None:
    """Of these terabytes there are 16 bytes."""
    key, out = session.secret("CKK_AES", bytes(16)), (c_char * 32)()
    for way in ("Encrypt", "Decrypt"):
        for how in (
            mechanism("CKM_AES_ECB"), mechanism("CKM_AES_CBC_PAD", bytes(16)),
            mechanism("CKM_AES_GCM", Gcm(bytes(12), 12, 96, None, 0, 128)),
        ):  # fmt: skip
            session.ok(f"{way}Init", byref(how), key)
            room = c_ulong(32)
            small = session.refused(way, bytes(16), 1 << 44, out, byref(room))
            assert small == "CKR_BUFFER_TOO_SMALL"
            session.ok(f"{way}Init", None, 0)


def test_messages_begin_with_the_right_key_and_a_parameter_of_theirs(session: Session) -> None:
    keys = {
        "CKM_AES_GCM": session.secret("CKK_AES", bytes(16)),
        "CKM_AES_CCM": session.secret("CKK_AES", bytes(16)),
        "CKM_CHACHA20_POLY1305": session.secret("CKK_CHACHA20", bytes(32)),
    }
    for kind, key in keys.items():
        other = keys["CKM_AES_GCM" if kind == "CKM_CHACHA20_POLY1305" else "CKM_CHACHA20_POLY1305"]
        for way in ("Encrypt", "Decrypt"):
            begin = f"Message{way}Init"
            wrong = session.refused(begin, byref(mechanism(kind)), other)
            assert wrong == "CKR_KEY_TYPE_INCONSISTENT"
            malformed = session.refused(begin, byref(mechanism(kind, b"\0")), key)
            assert malformed == "CKR_MECHANISM_PARAM_INVALID"
            session.ok(begin, byref(mechanism(kind)), key)  # as NSS does
            session.ok(f"Message{way}Final")


def test_ed25519_with_a_parameter_is_another_signature(session: Session) -> None:
    """Ed25519ctx of RFC 8032, even where its context is empty."""

    class Params(ctypes.Structure):
        _fields_ = [
            ("prehashed", c_ubyte), ("length", c_ulong), ("context", ctypes.c_char_p)
        ]  # fmt: skip

    public, private = session.pair("CKM_EC_EDWARDS_KEY_PAIR_GEN", {"CKA_EC_PARAMS": ED25519})
    how = mechanism("CKM_EDDSA", Params(0, 0, None))
    for function, key in (("SignInit", private), ("VerifyInit", public)):
        assert session.refused(function, byref(how), key) == "CKR_MECHANISM_PARAM_INVALID"


def test_hkdf_gives_a_hash_where_nobody_says_how_much(session: Session) -> None:
    base = session.secret("CKK_HKDF", bytes(32), CKA_DERIVE=True)
    both = Hkdf(True, True, number("CKM_SHA384"), 1, None, 0, 0, b"info", 4)
    made = session.derive(
        mechanism("CKM_HKDF_DERIVE", both), base, CKA_SENSITIVE=False, CKA_EXTRACTABLE=True
    )
    extracted = hmac.digest(bytes(48), bytes(32), hashlib.sha384)
    assert session.get(made, "CKA_VALUE") == hmac.digest(extracted, b"info\1", hashlib.sha384)
    with pytest.raises(Failed, match="CKR_TEMPLATE_INCOMPLETE"):
        session.derive(mechanism("CKM_HKDF_DERIVE", both), base, CKA_KEY_TYPE=number("CKK_AES"))


def test_the_keys_of_tls_are_as_secret_as_their_master(session: Session) -> None:
    master = session.secret("CKK_GENERIC_SECRET", bytes(48), CKA_DERIVE=True, CKA_SENSITIVE=True)
    out = Material()
    ivs = (c_char * 16)(), (c_char * 16)()
    out.client_iv, out.server_iv = map(ctypes.addressof, ivs)
    randoms = Randoms(b"c" * 32, 32, b"s" * 32, 32)
    parameter = Keys(160, 128, 32, 0, randoms, ctypes.addressof(out), number("CKM_SHA256"))
    how = mechanism("CKM_TLS12_KEY_AND_MAC_DERIVE", parameter)
    aes = {"CKA_KEY_TYPE": number("CKK_AES")}
    other = session.call(
        "DeriveKey", byref(how), master, *template({**aes, "CKA_SENSITIVE": False}), None
    )
    assert name_of(other) == "CKR_TEMPLATE_INCONSISTENT"
    session.ok("DeriveKey", byref(how), master, *template(aes), None)
    for handle in out.handles:
        assert session.flag(handle, "CKA_SENSITIVE")


def test_rsa_pkcs_claims_decryption_where_it_is_safe(session: Session, module: Module) -> None:
    """An OpenSSL before 3.2 tells a bad padding from a good one, which nobody may see."""
    import cryptofd

    public, private = session.pair("CKM_RSA_PKCS_KEY_PAIR_GEN", {"CKA_MODULUS_BITS": 2048})
    info = (c_ulong * 3)()
    module.ok("GetMechanismInfo", CRYPTO, number("CKM_RSA_PKCS"), byref(info))
    sealed = session.encrypt(mechanism("CKM_RSA_PKCS"), public, b"secret")
    der, _ = cryptofd.generate("rsa", bits=2048)
    with cryptofd.open("rsa", key=der) as fd:
        theirs = fd.encrypt(b"secret", scheme="pkcs1")
        try:
            fd.decrypt(theirs, scheme="pkcs1")
            safe = True
        except OSError:
            safe = False
    assert bool(info[2] & FLAGS["DECRYPT"]) == bool(info[2] & FLAGS["UNWRAP"]) == safe
    if safe:
        assert session.decrypt(mechanism("CKM_RSA_PKCS"), private, sealed) == b"secret"
    else:
        refused = session.refused("DecryptInit", byref(mechanism("CKM_RSA_PKCS")), private)
        assert refused == "CKR_MECHANISM_INVALID"
