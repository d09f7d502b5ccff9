"""The module's manners: buffers that are too small, attributes, wrong handles, wrong states."""

from __future__ import annotations

import ctypes
import hashlib
import os
from ctypes import byref, c_char, c_ulong
from pathlib import Path
from typing import Any

import pytest
from raw import (
    CRYPTO,
    KEYS,
    Attribute,
    Failed,
    Gcm,
    GcmMessage,
    Module,
    Session,
    loaded,
    mechanism,
    name_of,
    number,
    pairs,
    template,
)

USES = {"CKA_ENCRYPT": True, "CKA_DECRYPT": True}
SIGNS = {"CKA_SIGN": True, "CKA_VERIFY": True}
P256 = bytes.fromhex("06082a8648ce3d030107")
DATA = os.urandom(100)
IV = bytes(16)


# What it says of itself


def test_slots_have_their_numbers(module: Module) -> None:
    count = c_ulong()
    module.ok("GetSlotList", 1, None, byref(count))
    slots = (c_ulong * count.value)()
    module.ok("GetSlotList", 1, slots, byref(count))
    assert list(slots) == [CRYPTO, KEYS]
    count.value = 1
    assert name_of(module.call("GetSlotList", 1, slots, byref(count))) == "CKR_BUFFER_TOO_SMALL"
    assert count.value == 2
    assert name_of(module.call("GetSlotInfo", 7, ctypes.create_string_buffer(512))) == (
        "CKR_SLOT_ID_INVALID"
    )


def test_what_a_mechanism_claims_can_be_begun(session: Session) -> None:
    """A mechanism with CKF_DIGEST digests; one without refuses."""
    count = c_ulong()
    session.module.ok("GetMechanismList", CRYPTO, None, byref(count))
    kinds = (c_ulong * count.value)()
    session.module.ok("GetMechanismList", CRYPTO, kinds, byref(count))
    assert len(set(kinds)) == count.value > 80
    info = (c_ulong * 3)()
    for kind in kinds:
        session.module.ok("GetMechanismInfo", CRYPTO, kind, info)
        least, most, flags = info
        assert flags, hex(kind)
        assert least <= most, hex(kind)
        how = mechanism(kind)
        rv = session.call("DigestInit", byref(how))
        if flags & number("CKF_DIGEST"):
            assert rv == 0, hex(kind)
            session.out("DigestFinal")
        else:
            assert name_of(rv) == "CKR_MECHANISM_INVALID", hex(kind)
    assert name_of(session.module.call("GetMechanismInfo", CRYPTO, 0x7FFF, info)) == (
        "CKR_MECHANISM_INVALID"
    )


# Buffers


def test_an_operation_survives_a_buffer_that_is_too_small(session: Session) -> None:
    aes = session.secret("CKK_AES", bytes(32), **USES)
    mac = session.secret("CKK_GENERIC_SECRET", bytes(32), **SIGNS)
    _, private = session.pair("CKM_EC_KEY_PAIR_GEN", {"CKA_EC_PARAMS": P256}, {"CKA_SIGN": True})
    gcm = Gcm(bytes(12), 12, 96, None, 0, 128)
    for what, init, size in (
        ("Digest", ("DigestInit", byref(mechanism("CKM_SHA256"))), 32),
        ("Sign", ("SignInit", byref(mechanism("CKM_SHA256_HMAC")), mac), 32),
        ("Sign", ("SignInit", byref(mechanism("CKM_ECDSA_SHA256")), private), 64),
        ("Encrypt", ("EncryptInit", byref(mechanism("CKM_AES_CBC_PAD", IV)), aes), 112),
        ("Encrypt", ("EncryptInit", byref(mechanism("CKM_AES_GCM", gcm)), aes), 116),
    ):
        session.ok(*init)
        for room in (0, 1, size - 1):
            buffer, length = (c_char * (room + 8))(), c_ulong(room)
            rv = session.call(what, DATA, len(DATA), buffer, byref(length))
            assert name_of(rv) == "CKR_BUFFER_TOO_SMALL"
            assert length.value == size
            assert buffer.raw == bytes(room + 8), "written past what was given"
        length = c_ulong(0)
        session.ok(what, DATA, len(DATA), None, byref(length))
        assert length.value == size
        assert len(session.out(what, DATA, len(DATA), room=size)) == size
        # Now it is over.
        assert session.refused(what, DATA, len(DATA), None, byref(length)) == (
            "CKR_OPERATION_NOT_INITIALIZED"
        )


def test_a_stream_survives_a_buffer_that_is_too_small(session: Session) -> None:
    key = session.secret("CKK_AES", bytes(32), **USES)
    how = mechanism("CKM_AES_CBC_PAD", IV)
    wanted = session.encrypt(how, key, DATA)
    session.ok("EncryptInit", byref(how), key)
    got = b""
    for piece in (DATA[:40], DATA[40:90], DATA[90:]):
        buffer, length = (c_char * 200)(), c_ulong(1)
        rv = session.call("EncryptUpdate", piece, len(piece), buffer, byref(length))
        if rv:
            assert name_of(rv) == "CKR_BUFFER_TOO_SMALL"
            length.value = max(length.value, 1)
            session.ok("EncryptUpdate", piece, len(piece), buffer, byref(length))
        got += buffer.raw[: length.value]
    buffer, length = (c_char * 64)(), c_ulong(3)
    assert session.refused("EncryptFinal", buffer, byref(length)) == "CKR_BUFFER_TOO_SMALL"
    session.ok("EncryptFinal", buffer, byref(length))
    assert got + buffer.raw[: length.value] == wanted


def test_encryption_in_place(session: Session) -> None:
    key = session.secret("CKK_AES", bytes(32), **USES)
    for name, parameter in (
        ("CKM_AES_CBC_PAD", IV),
        ("CKM_AES_GCM", Gcm(bytes(12), 12, 96, None, 0, 128)),
    ):
        how = mechanism(name, parameter)
        buffer, length = (c_char * 256)(), c_ulong(256)
        buffer[: len(DATA)] = DATA
        session.ok("EncryptInit", byref(how), key)
        session.ok("Encrypt", buffer, len(DATA), buffer, byref(length))
        session.ok("DecryptInit", byref(how), key)
        size = length.value
        length.value = 256
        session.ok("Decrypt", buffer, size, buffer, byref(length))
        assert buffer.raw[: length.value] == DATA


# Messages


def test_messages(session: Session) -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    secret = os.urandom(32)
    key = session.secret("CKK_AES", secret, **USES)
    how = mechanism("CKM_AES_GCM")
    session.ok("MessageEncryptInit", byref(how), key)
    assert session.refused("MessageEncryptInit", byref(how), key) == "CKR_OPERATION_ACTIVE"
    sealed = []
    for generator in (0, 1):  # CKG_NO_GENERATE, CKG_GENERATE
        iv, tag = (c_char * 12)(*b"twelve bytes"), (c_char * 16)()
        message = GcmMessage(ctypes.addressof(iv), 12, 0, generator, ctypes.addressof(tag), 128)
        aad, size = b"header", ctypes.sizeof(message)
        for _ in range(2):
            box = session.out(
                "EncryptMessage", byref(message), size, aad, len(aad), DATA, len(DATA),
                room=len(DATA),
            )  # fmt: skip
            assert AESGCM(secret).decrypt(iv.raw, box + tag.raw, aad) == DATA
            sealed.append((iv.raw, box, tag.raw))
            small = c_ulong(5)
            buffer = (c_char * 5)()
            rv = session.call(
                "EncryptMessage", byref(message), size, aad, len(aad), DATA, len(DATA), buffer,
                byref(small),
            )  # fmt: skip
            assert name_of(rv) == "CKR_BUFFER_TOO_SMALL"
    assert len({iv for iv, _, _ in sealed[2:]}) == 2, "a generated IV came twice"
    session.ok("MessageEncryptFinal")
    assert session.refused("MessageEncryptFinal") == "CKR_OPERATION_NOT_INITIALIZED"
    session.ok("MessageDecryptInit", byref(how), key)
    for iv_bytes, box, tag_bytes in sealed:
        for broken in (False, True):
            iv, tag = (c_char * 12)(*iv_bytes), (c_char * 16)(*tag_bytes)
            if broken:
                tag[3] = bytes([tag_bytes[3] ^ 1])
            message = GcmMessage(ctypes.addressof(iv), 12, 0, 0, ctypes.addressof(tag), 128)
            buffer, length = (c_char * len(box))(), c_ulong(len(box))
            rv = session.call(
                "DecryptMessage", byref(message), size, aad, len(aad), box, len(box), buffer,
                byref(length),
            )  # fmt: skip
            if broken:
                assert name_of(rv) == "CKR_AEAD_DECRYPT_FAILED"
                assert DATA[:16] not in buffer.raw, "plaintext whose tag failed"
            else:
                assert rv == 0, name_of(rv)
                assert buffer.raw == DATA
    session.ok("MessageDecryptFinal")


@pytest.mark.parametrize(("generator", "fixed"), [(2, 32), (4, 32), (2, 90), (4, 0)])
def test_messages_whose_iv_is_counted(session: Session, generator: int, fixed: int) -> None:
    """CKG_GENERATE_COUNTER puts the message's number into the last bits, CKG_GENERATE_COUNTER_XOR
    over them, as TLS 1.3 has its sequence numbers."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    secret, begin = os.urandom(32), os.urandom(12)
    key = session.secret("CKK_AES", secret, **USES)
    session.ok("MessageEncryptInit", byref(mechanism("CKM_AES_GCM")), key)
    mask = (1 << (96 - fixed)) - 1
    for count in range(300 if fixed < 90 else 65):
        iv, tag = (c_char * 12)(*begin), (c_char * 16)()
        message = GcmMessage(ctypes.addressof(iv), 12, fixed, generator, ctypes.addressof(tag), 128)
        buffer, length = (c_char * 4)(), c_ulong(4)
        rv = session.call(
            "EncryptMessage", byref(message), ctypes.sizeof(message), None, 0, b"data", 4, buffer,
            byref(length),
        )  # fmt: skip
        if count == 64 and fixed == 90:
            assert name_of(rv) == "CKR_KEY_EXHAUSTED", "an IV would come again"
            break
        assert rv == 0, name_of(rv)
        first = int.from_bytes(begin, "big")
        number_ = first ^ count if generator == 4 else first & ~mask | count
        assert iv.raw == number_.to_bytes(12, "big")
        assert AESGCM(secret).decrypt(iv.raw, buffer.raw + tag.raw, None) == b"data"
    session.ok("MessageEncryptFinal")


def test_a_message_in_pieces(session: Session) -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    secret = os.urandom(16)
    key = session.secret("CKK_AES", secret, **USES)
    session.ok("MessageEncryptInit", byref(mechanism("CKM_AES_GCM")), key)
    iv, tag = (c_char * 12)(*b"twelve bytes"), (c_char * 16)()
    message = GcmMessage(ctypes.addressof(iv), 12, 0, 0, ctypes.addressof(tag), 128)
    size = ctypes.sizeof(message)
    session.ok("EncryptMessageBegin", byref(message), size, b"aad", 3)
    box = b""
    for piece, flags in ((DATA[:33], 0), (DATA[33:], 1)):
        buffer, length = (c_char * 200)(), c_ulong(200)
        session.ok(
            "EncryptMessageNext", byref(message), size, piece, len(piece), buffer, byref(length),
            flags,
        )  # fmt: skip
        box += buffer.raw[: length.value]
    assert AESGCM(secret).decrypt(iv.raw, box + tag.raw, b"aad") == DATA


# Attributes


def test_what_a_sensitive_key_tells(session: Session) -> None:
    for said, readable in (
        ({"CKA_SENSITIVE": False, "CKA_EXTRACTABLE": True}, True),
        ({"CKA_SENSITIVE": True, "CKA_EXTRACTABLE": True}, False),
        ({"CKA_SENSITIVE": False, "CKA_EXTRACTABLE": False}, False),
    ):
        key = session.generate("CKM_AES_KEY_GEN", CKA_VALUE_LEN=32, **said)
        assert session.flag(key, "CKA_LOCAL")
        assert session.flag(key, "CKA_ALWAYS_SENSITIVE") == said["CKA_SENSITIVE"]
        assert session.flag(key, "CKA_NEVER_EXTRACTABLE") == (not said["CKA_EXTRACTABLE"])
        if readable:
            assert len(session.get(key, "CKA_VALUE")) == 32
        else:
            one = Attribute(number("CKA_VALUE"), None, 0)
            rv = session.call("GetAttributeValue", key, byref(one), 1)
            assert name_of(rv) == "CKR_ATTRIBUTE_SENSITIVE"
            assert one.length == (1 << 64) - 1
            # Nor by a search that guesses.
            guess = session.secret("CKK_AES", b"k" * 32, **said)
            assert guess not in session.find(CKA_VALUE=b"k" * 32)
    brought = session.secret("CKK_AES", bytes(32), CKA_SENSITIVE=True, CKA_EXTRACTABLE=False)
    for name in ("CKA_LOCAL", "CKA_ALWAYS_SENSITIVE", "CKA_NEVER_EXTRACTABLE"):
        assert not session.flag(brought, name)


def test_a_call_for_many_attributes_gives_what_it_may(session: Session) -> None:
    key = session.generate("CKM_AES_KEY_GEN", CKA_VALUE_LEN=32, CKA_SENSITIVE=True, CKA_LABEL=b"me")
    label, value, modulus = (c_char * 9)(), (c_char * 32)(), (c_char * 9)()
    many = (Attribute * 3)(
        Attribute(number("CKA_VALUE"), ctypes.addressof(value), 32),
        Attribute(number("CKA_LABEL"), ctypes.addressof(label), 9),
        Attribute(number("CKA_MODULUS"), ctypes.addressof(modulus), 9),
    )
    assert session.refused("GetAttributeValue", key, many, 3) in (
        "CKR_ATTRIBUTE_SENSITIVE", "CKR_ATTRIBUTE_TYPE_INVALID",
    )  # fmt: skip
    assert label.raw[: many[1].length] == b"me"
    assert many[0].length == many[2].length == (1 << 64) - 1
    assert value.raw == bytes(32)
    short = Attribute(number("CKA_LABEL"), ctypes.addressof(label), 1)
    assert session.refused("GetAttributeValue", key, byref(short), 1) == "CKR_BUFFER_TOO_SMALL"


def test_a_key_only_becomes_more_protected(session: Session) -> None:
    key = session.secret("CKK_AES", bytes(32), CKA_SENSITIVE=False, CKA_EXTRACTABLE=True)
    session.set(key, CKA_SENSITIVE=True)
    session.set(key, CKA_EXTRACTABLE=False)
    for change in (
        {"CKA_SENSITIVE": False}, {"CKA_EXTRACTABLE": True}, {"CKA_LOCAL": True},
        {"CKA_ALWAYS_SENSITIVE": True}, {"CKA_NEVER_EXTRACTABLE": True}, {"CKA_TRUSTED": True},
        {"CKA_CLASS": number("CKO_PUBLIC_KEY")}, {"CKA_VALUE": bytes(32)},
        {"CKA_KEY_TYPE": number("CKK_CHACHA20")},
    ):  # fmt: skip
        with pytest.raises(Failed, match="CKR_ATTRIBUTE_READ_ONLY"):
            session.set(key, **change)
    session.set(key, CKA_LABEL=b"fine")
    assert session.get(key, "CKA_LABEL") == b"fine"
    handle = c_ulong()
    for change in ({"CKA_SENSITIVE": False}, {"CKA_EXTRACTABLE": True}):
        said = template(change)
        assert session.refused("CopyObject", key, *said, byref(handle)) in (
            "CKR_ATTRIBUTE_READ_ONLY", "CKR_TEMPLATE_INCONSISTENT",
        )  # fmt: skip
    session.ok("CopyObject", key, *template({"CKA_LABEL": b"copy"}), byref(handle))
    assert session.flag(handle.value, "CKA_SENSITIVE")
    assert session.find(CKA_LABEL=b"copy") == [handle.value]


def test_modifiable_copyable_destroyable(session: Session) -> None:
    fixed = session.secret("CKK_AES", bytes(16), CKA_MODIFIABLE=False)
    with pytest.raises(Failed, match=r"CKR_ACTION_PROHIBITED|CKR_ATTRIBUTE_READ_ONLY"):
        session.set(fixed, CKA_LABEL=b"x")
    single = session.secret("CKK_AES", bytes(16), CKA_COPYABLE=False)
    said = template({"CKA_LABEL": b"x"})
    assert session.refused("CopyObject", single, *said, byref(c_ulong())) == (
        "CKR_ACTION_PROHIBITED"
    )
    lasting = session.secret("CKK_AES", bytes(16), CKA_DESTROYABLE=False)
    assert session.refused("DestroyObject", lasting) == "CKR_ACTION_PROHIBITED"
    session.ok("DestroyObject", single)
    assert session.refused("DestroyObject", single) == "CKR_OBJECT_HANDLE_INVALID"


def test_usages_are_kept(session: Session) -> None:
    key = session.secret("CKK_AES", bytes(32), CKA_ENCRYPT=True, CKA_DECRYPT=False)
    how = mechanism("CKM_AES_CBC", IV)
    session.encrypt(how, key, bytes(16))
    assert session.refused("DecryptInit", byref(how), key) == "CKR_KEY_FUNCTION_NOT_PERMITTED"
    mac = session.secret("CKK_GENERIC_SECRET", bytes(32), CKA_SIGN=False, CKA_VERIFY=True)
    how = mechanism("CKM_SHA256_HMAC")
    assert session.refused("SignInit", byref(how), mac) == "CKR_KEY_FUNCTION_NOT_PERMITTED"
    _, private = session.pair("CKM_EC_KEY_PAIR_GEN", {"CKA_EC_PARAMS": P256}, {"CKA_SIGN": False})
    how = mechanism("CKM_ECDSA")
    assert session.refused("SignInit", byref(how), private) == "CKR_KEY_FUNCTION_NOT_PERMITTED"


NONSENSE: list[tuple[list[tuple[str, Any]], str]] = [
    ([], "CKR_TEMPLATE_INCOMPLETE"),
    ([("CKA_CLASS", "secret")], "CKR_TEMPLATE_INCOMPLETE"),
    ([("CKA_CLASS", "secret"), ("CKA_KEY_TYPE", "aes")], "CKR_TEMPLATE_INCOMPLETE"),
    (
        [("CKA_CLASS", "secret"), ("CKA_KEY_TYPE", "aes"), ("CKA_VALUE", b"short")],
        "CKR_ATTRIBUTE_VALUE_INVALID",
    ),
    (
        [("CKA_CLASS", "secret"), ("CKA_CLASS", "secret"), ("CKA_KEY_TYPE", "aes")],
        "CKR_TEMPLATE_INCONSISTENT",
    ),
    ([("CKA_CLASS", b"\3")], "CKR_ATTRIBUTE_VALUE_INVALID"),
    (
        [
            ("CKA_CLASS", "secret"), ("CKA_KEY_TYPE", "aes"), ("CKA_VALUE", bytes(16)),
            ("CKA_LOCAL", True),
        ],
        "CKR_ATTRIBUTE_READ_ONLY",
    ),
    (
        [
            ("CKA_CLASS", "secret"), ("CKA_KEY_TYPE", "aes"), ("CKA_VALUE", bytes(16)),
            ("CKA_VALUE_LEN", 32),
        ],
        "CKR_TEMPLATE_INCONSISTENT",
    ),
    (
        [
            ("CKA_CLASS", "private"), ("CKA_KEY_TYPE", "ec"), ("CKA_EC_PARAMS", b"\6\1\1"),
            ("CKA_VALUE", bytes(32)),
        ],
        "CKR_(ATTRIBUTE_VALUE_INVALID|CURVE_NOT_SUPPORTED|DOMAIN_PARAMS_INVALID)",
    ),
    (
        [
            ("CKA_CLASS", "private"), ("CKA_KEY_TYPE", "ec"), ("CKA_EC_PARAMS", P256),
            ("CKA_VALUE", bytes(32)),
        ],
        "CKR_ATTRIBUTE_VALUE_INVALID",
    ),
    ([("CKA_CLASS", 77)], "CKR_ATTRIBUTE_VALUE_INVALID"),
    (
        [
            ("CKA_CLASS", "secret"), ("CKA_KEY_TYPE", "aes"), ("CKA_VALUE", bytes(16)),
            ("CKA_TOKEN", True),
        ],
        "CKR_TOKEN_WRITE_PROTECTED",
    ),
]  # fmt: skip
WORDS = {
    "secret": number("CKO_SECRET_KEY"), "private": number("CKO_PRIVATE_KEY"),
    "aes": number("CKK_AES"), "ec": number("CKK_EC"),
}  # fmt: skip


@pytest.mark.parametrize(("said", "wanted"), NONSENSE)
def test_nonsense_is_refused(session: Session, said: list[tuple[str, Any]], wanted: str) -> None:
    import re

    plain = [(name, WORDS[v] if isinstance(v, str) else v) for name, v in said]
    handle = c_ulong()
    before = session.find()
    got = session.refused("CreateObject", *pairs(plain), byref(handle))
    assert re.fullmatch(wanted, got), got
    assert session.find() == before


# Handles and states


def test_wrong_handles(session: Session) -> None:
    how = mechanism("CKM_AES_CBC", IV)
    assert session.refused("EncryptInit", byref(how), 99999) in (
        "CKR_KEY_HANDLE_INVALID", "CKR_OBJECT_HANDLE_INVALID",
    )  # fmt: skip
    assert session.refused("GetAttributeValue", 99999, None, 0) == "CKR_OBJECT_HANDLE_INVALID"
    other = Session(session.module, 4242)
    for function, arguments in (
        ("DigestInit", (byref(mechanism("CKM_SHA256")),)), ("GenerateRandom", (None, 0)),
        ("FindObjectsInit", (None, 0)), ("CloseSession", ()), ("Logout", ()),
        ("EncryptInit", (byref(how), 1)), ("GetOperationState", (None, byref(c_ulong()))),
    ):  # fmt: skip
        assert other.refused(function, *arguments) == "CKR_SESSION_HANDLE_INVALID", function


def test_a_key_of_another_type_is_refused(session: Session) -> None:
    generic = session.secret("CKK_GENERIC_SECRET", bytes(32), **USES, **SIGNS)
    aes = session.secret("CKK_AES", bytes(32), **USES, **SIGNS)
    public, private = session.pair("CKM_EC_KEY_PAIR_GEN", {"CKA_EC_PARAMS": P256})
    data = session.create(CKA_CLASS=number("CKO_DATA"), CKA_VALUE=b"x")
    for function, name, parameter, key in (
        ("EncryptInit", "CKM_AES_CBC", IV, generic),
        ("EncryptInit", "CKM_CHACHA20_POLY1305", None, aes),
        ("SignInit", "CKM_SHA256_RSA_PKCS", None, private),
        ("VerifyInit", "CKM_SHA256_RSA_PKCS", None, public),
        ("SignInit", "CKM_ECDSA", None, aes),
        ("SignInit", "CKM_EDDSA", None, private),
        ("EncryptInit", "CKM_AES_CBC", IV, data),
    ):
        got = session.refused(function, byref(mechanism(name, parameter)), key)
        assert got in (
            "CKR_KEY_TYPE_INCONSISTENT", "CKR_MECHANISM_PARAM_INVALID", "CKR_KEY_HANDLE_INVALID",
            "CKR_KEY_FUNCTION_NOT_PERMITTED",
        ), (name, got)  # fmt: skip


def test_wrong_states(session: Session) -> None:
    buffer, length = (c_char * 64)(), c_ulong(64)
    key = session.secret("CKK_AES", bytes(32), **USES)
    how, sha = mechanism("CKM_AES_CBC_PAD", IV), mechanism("CKM_SHA256")
    for function, arguments in (
        ("Digest", (b"", 0, buffer, byref(length))), ("DigestUpdate", (b"", 0)),
        ("DigestFinal", (buffer, byref(length))), ("SignUpdate", (b"", 0)),
        ("EncryptUpdate", (b"", 0, buffer, byref(length))), ("FindObjectsFinal", ()),
        ("EncryptFinal", (buffer, byref(length))), ("Verify", (b"", 0, b"", 0)),
        ("MessageEncryptFinal", ()), ("DecryptMessageBegin", (None, 0, None, 0)),
    ):  # fmt: skip
        assert session.refused(function, *arguments) == "CKR_OPERATION_NOT_INITIALIZED", function
    session.ok("DigestInit", byref(sha))
    assert session.refused("DigestInit", byref(sha)) == "CKR_OPERATION_ACTIVE"
    session.ok("DigestUpdate", b"abc", 3)
    assert session.out("DigestFinal") == hashlib.sha256(b"abc").digest()
    session.ok("EncryptInit", byref(how), key)
    assert session.refused("EncryptInit", byref(how), key) == "CKR_OPERATION_ACTIVE"
    # A stream was begun: no whole message may come into it.
    session.out("EncryptUpdate", DATA, len(DATA))
    assert session.refused("Encrypt", DATA, len(DATA), buffer, byref(length)) in (
        "CKR_OPERATION_ACTIVE", "CKR_OPERATION_NOT_INITIALIZED", "CKR_FUNCTION_FAILED",
    )  # fmt: skip
    # PKCS#11 3.0: Init without a mechanism ends it.
    session.call("EncryptInit", None, 0)
    session.encrypt(how, key, DATA)


def test_null_where_there_must_be_something(session: Session) -> None:
    for function, arguments in (
        ("DigestUpdate", (None, 3)), ("GenerateKey", (None, None, 0, None)),
        ("CreateObject", (None, 3, byref(c_ulong()))), ("FindObjects", (None, 3, None)),
        ("GetSessionInfo", (None,)), ("GenerateRandom", (None, 5)),
    ):  # fmt: skip
        got = session.refused(function, *arguments)
        assert got in (
            "CKR_ARGUMENTS_BAD", "CKR_OPERATION_NOT_INITIALIZED", "CKR_MECHANISM_INVALID",
        ), (function, got)  # fmt: skip


def test_objects_end_with_their_session(module: Module) -> None:
    one, other = module.session(CRYPTO), module.session(CRYPTO)
    key = one.secret("CKK_AES", bytes(32), CKA_LABEL=b"of one", **USES)
    # Another session of the program sees it.
    assert other.find(CKA_LABEL=b"of one") == [key]
    other.encrypt(mechanism("CKM_AES_CBC_PAD", IV), key, DATA)
    one.close()
    assert other.find(CKA_LABEL=b"of one") == []
    how = mechanism("CKM_AES_CBC_PAD", IV)
    assert "HANDLE_INVALID" in other.refused("EncryptInit", byref(how), key)
    other.close()


def test_life(library: Path, tmp_path: Path) -> None:
    """C_Initialize and C_Finalize in every order."""
    module = loaded(library, tmp_path, "life")
    not_yet = "CKR_CRYPTOKI_NOT_INITIALIZED"
    assert name_of(module.call("GetSlotList", 1, None, byref(c_ulong()))) == not_yet
    assert name_of(module.call("Finalize", None)) == not_yet
    module.ok("Initialize", None)
    assert name_of(module.call("Initialize", None)) == "CKR_CRYPTOKI_ALREADY_INITIALIZED"
    session = module.session(CRYPTO)
    key = session.secret("CKK_AES", bytes(32))
    module.ok("Finalize", None)
    assert session.refused("DestroyObject", key) == not_yet
    module.ok("Initialize", None)
    again = module.session(CRYPTO)
    assert again.find() == []
    assert module.session(CRYPTO, writes=False).handle != again.handle
    module.ok("CloseAllSessions", CRYPTO)
    assert again.refused("Logout") == "CKR_SESSION_HANDLE_INVALID"
    module.ok("Finalize", None)
