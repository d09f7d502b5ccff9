"""ML-DSA and ML-KEM by PKCS#11 3.2, called as a C program would, against PyCA where it has them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import POINTER, Structure, byref, c_ubyte, c_ulong, c_void_p, cast
from pathlib import Path
from typing import Any

import pytest

import cryptofd

MODULE = Path(cryptofd.__file__).parent / "lib" / "libcryptofd-pkcs11.so"

#: Places in CK_FUNCTION_LIST_3_2, the version not counted.
PLACES = {
    "C_Initialize": 0, "C_Finalize": 1, "C_OpenSession": 12, "C_GetAttributeValue": 24,
    "C_SignInit": 42, "C_Sign": 43, "C_VerifyInit": 48, "C_Verify": 49, "C_GenerateKeyPair": 59,
    "C_EncapsulateKey": 92, "C_DecapsulateKey": 93,
}  # fmt: skip
SLOT = 0x63666400
CLASS, VALUE, PARAMETER_SET, SENSITIVE, EXTRACTABLE, SEED = 0, 0x11, 0x61D, 0x103, 0x162, 0x637
DSA, DSA_KEYS, KEM, KEM_KEYS = 0x1D, 0x1C, 0x17, 0xF
SIGNATURE_INVALID, BUFFER_TOO_SMALL, PARAMETERS = 0xC0, 0x150, 0x71


class Mechanism(Structure):
    _fields_ = (("kind", c_ulong), ("parameter", c_void_p), ("size", c_ulong))


class Attribute(Structure):
    _fields_ = (("kind", c_ulong), ("value", c_void_p), ("size", c_ulong))


class Interface(Structure):
    _fields_ = (("name", c_void_p), ("functions", c_void_p), ("flags", c_ulong))


class Module:
    """The functions of one session."""

    def __init__(self) -> None:
        self._kept: list[Any] = []
        library = ctypes.CDLL(str(MODULE))
        interface = POINTER(Interface)()
        version = (c_ubyte * 2)(3, 2)
        asked = (b"PKCS 11", byref(version), byref(interface), c_ulong(1))
        assert library.C_GetInterface(*asked) == 0
        self._list = cast(interface.contents.functions, POINTER(c_void_p))
        self.call("C_Initialize", None)
        self.session = c_ulong()
        self.call("C_OpenSession", c_ulong(SLOT), c_ulong(6), None, None, byref(self.session))

    def code(self, name: str, *arguments: Any) -> int:
        address = self._list[1 + PLACES[name]]
        return int(ctypes.CFUNCTYPE(c_ulong)(address or 0)(*arguments))

    def call(self, name: str, *arguments: Any) -> None:
        assert self.code(name, *arguments) == 0, name

    def template(self, **values: bytes) -> tuple[Any, c_ulong]:
        kinds = {
            "set": PARAMETER_SET, "sensitive": SENSITIVE, "extractable": EXTRACTABLE,
        }  # fmt: skip
        made = (Attribute * len(values))()
        for place, (name, value) in enumerate(values.items()):
            buffer = ctypes.create_string_buffer(value, len(value))
            self._kept.append(buffer)
            made[place] = Attribute(kinds[name], cast(buffer, c_void_p), len(value))
        return made, c_ulong(len(values))

    def pair(self, kind: int, parameters: int) -> tuple[c_ulong, c_ulong]:
        public, private = c_ulong(), c_ulong()
        self.call("C_GenerateKeyPair", self.session, byref(Mechanism(kind, None, 0)),
                  *self.template(set=parameters.to_bytes(8, "little")),
                  *self.template(sensitive=b"\0", extractable=b"\1"),
                  byref(public), byref(private))  # fmt: skip
        return public, private

    def attribute(self, handle: c_ulong, kind: int) -> bytes:
        buffer = ctypes.create_string_buffer(8192)
        one = Attribute(kind, cast(buffer, c_void_p), len(buffer))
        self.call("C_GetAttributeValue", self.session, handle, byref(one), c_ulong(1))
        return buffer.raw[: one.size]


@pytest.fixture
def module() -> Iterator[Module]:
    made = Module()
    yield made
    made.call("C_Finalize", None)


def test_ml_dsa(module: Module) -> None:
    public, private = module.pair(DSA_KEYS, 2)
    data, out, size = b"some data", ctypes.create_string_buffer(4000), c_ulong(4000)
    mechanism = Mechanism(DSA, None, 0)
    module.call("C_SignInit", module.session, byref(mechanism), private)
    module.call("C_Sign", module.session, data, c_ulong(len(data)), out, byref(size))
    assert size.value == 3309
    for message, expected in ((data, 0), (b"other data", SIGNATURE_INVALID)):
        module.call("C_VerifyInit", module.session, byref(mechanism), public)
        given = (message, c_ulong(len(message)), out, size)
        assert module.code("C_Verify", module.session, *given) == expected
    # The same public key elsewhere, and the same signature.
    value = module.attribute(public, VALUE)
    spki = bytes.fromhex("308207b2300b0609608648016503040312038207a100") + value
    there = cryptofd.open("ml-dsa-65", key=spki)
    there.verify(out.raw[: size.value], data)
    assert len(module.attribute(private, SEED)) == 32


@pytest.mark.parametrize(("parameters", "length", "name"), [(2, 1088, 768), (3, 1568, 1024)])
def test_ml_kem(module: Module, parameters: int, length: int, name: int) -> None:
    public, private = module.pair(KEM_KEYS, parameters)
    mechanism = Mechanism(KEM, None, 0)
    size, one, other = c_ulong(), c_ulong(), c_ulong()
    open_key = module.template(sensitive=b"\0", extractable=b"\1")
    begin = (module.session, byref(mechanism), public, *open_key)
    module.call("C_EncapsulateKey", *begin, None, byref(size), byref(one))
    assert size.value == length
    out = ctypes.create_string_buffer(length)
    size.value -= 1
    small = module.code("C_EncapsulateKey", *begin, out, byref(size), byref(one))
    assert (small, size.value) == (BUFFER_TOO_SMALL, length)
    module.call("C_EncapsulateKey", *begin, out, byref(size), byref(one))
    module.call("C_DecapsulateKey", module.session, byref(mechanism), private, *open_key, out, size,
                byref(other))  # fmt: skip
    secret = module.attribute(one, VALUE)
    assert len(secret) == 32
    assert module.attribute(other, VALUE) == secret
    # A forged ciphertext gives another secret, and no error (FIPS 203).
    forged = ctypes.create_string_buffer(bytes([out.raw[0] ^ 1]) + out.raw[1:length], length)
    module.call("C_DecapsulateKey", module.session, byref(mechanism), private, *open_key, forged,
                size, byref(other))  # fmt: skip
    assert module.attribute(other, VALUE) not in (secret, bytes(32))
    assert len(module.attribute(private, SEED)) == 64


def test_a_parameter_set_that_is_not_there(module: Module) -> None:
    public, private = c_ulong(), c_ulong()
    code = module.code(
        "C_GenerateKeyPair", module.session, byref(Mechanism(KEM_KEYS, None, 0)),
        *module.template(set=(1).to_bytes(8, "little")), *module.template(), byref(public),
        byref(private),
    )  # fmt: skip
    assert code != 0
    assert (public.value, private.value) == (0, 0)
