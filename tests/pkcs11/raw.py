"""PKCS#11 by ctypes: every function with exactly the arguments that a C program would give."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable, Iterable
from ctypes import POINTER, byref, c_char, c_char_p, c_ubyte, c_ulong, c_void_p
from pathlib import Path
from typing import Any

import pytest

#: The numbers of the two slots: programs write them down.
CRYPTO, KEYS = 0x63666400, 0x63666401

#: In the order of the lists, without C_.
FUNCTIONS_2 = """
    Initialize Finalize GetInfo GetFunctionList GetSlotList GetSlotInfo GetTokenInfo
    GetMechanismList GetMechanismInfo InitToken InitPIN SetPIN OpenSession CloseSession
    CloseAllSessions GetSessionInfo GetOperationState SetOperationState Login Logout CreateObject
    CopyObject DestroyObject GetObjectSize GetAttributeValue SetAttributeValue FindObjectsInit
    FindObjects FindObjectsFinal EncryptInit Encrypt EncryptUpdate EncryptFinal DecryptInit Decrypt
    DecryptUpdate DecryptFinal DigestInit Digest DigestUpdate DigestKey DigestFinal SignInit Sign
    SignUpdate SignFinal SignRecoverInit SignRecover VerifyInit Verify VerifyUpdate VerifyFinal
    VerifyRecoverInit VerifyRecover DigestEncryptUpdate DecryptDigestUpdate SignEncryptUpdate
    DecryptVerifyUpdate GenerateKey GenerateKeyPair WrapKey UnwrapKey DeriveKey SeedRandom
    GenerateRandom GetFunctionStatus CancelFunction WaitForSlotEvent
"""
FUNCTIONS_3 = """
    GetInterfaceList GetInterface LoginUser SessionCancel MessageEncryptInit EncryptMessage
    EncryptMessageBegin EncryptMessageNext MessageEncryptFinal MessageDecryptInit DecryptMessage
    DecryptMessageBegin DecryptMessageNext MessageDecryptFinal MessageSignInit SignMessage
    SignMessageBegin SignMessageNext MessageSignFinal MessageVerifyInit VerifyMessage
    VerifyMessageBegin VerifyMessageNext MessageVerifyFinal
"""

UNAVAILABLE = (1 << 64) - 1
# Version 3.0's, which the constants of PyKCS11 may lack.
MORE = {
    "CKM_CHACHA20_POLY1305": 0x4021, "CKM_CHACHA20_KEY_GEN": 0x1225, "CKM_AES_XTS": 0x1071,
    "CKM_AES_XTS_KEY_GEN": 0x1072, "CKM_AES_KEY_WRAP_KWP": 0x210B, "CKM_AES_KEY_WRAP": 0x2109,
    "CKM_HKDF_DERIVE": 0x402A, "CKM_HKDF_DATA": 0x402B, "CKM_HKDF_KEY_GEN": 0x402C,
    "CKK_CHACHA20": 0x33, "CKK_AES_XTS": 0x35, "CKK_HKDF": 0x42, "CKK_EC_EDWARDS": 0x40,
    "CKK_EC_MONTGOMERY": 0x41, "CKM_EC_EDWARDS_KEY_PAIR_GEN": 0x1055,
    "CKM_EC_MONTGOMERY_KEY_PAIR_GEN": 0x1056, "CKM_EDDSA": 0x1057, "CKA_UNIQUE_ID": 4,
    "CKR_AEAD_DECRYPT_FAILED": 0x42, "CKA_PUBLIC_KEY_INFO": 0x129, "CKA_DESTROYABLE": 0x172,
    "CKR_KEY_EXHAUSTED": 0x203, "CKM_SHA512_256_HMAC": 0x4D, "CKM_SHA512_256": 0x4C,
    "CKM_AES_CFB128": 0x2107, "CKM_BLAKE2B_512": 0x401B, "CKM_AES_CMAC": 0x108A,
    "CKM_AES_CMAC_GENERAL": 0x108B, "CKF_MESSAGE_ENCRYPT": 0x2, "CKF_MESSAGE_DECRYPT": 0x4,
    "CKR_OPERATION_CANCEL_FAILED": 0x202, "CKA_COPYABLE": 0x171,
    "CKA_PARAMETER_SET": 0x61D, "CKA_ENCAPSULATE": 0x633, "CKA_ALLOWED_MECHANISMS": 0x40000600,
}  # fmt: skip


def constants() -> Any:
    """PyKCS11's; who tests without it is told so."""
    return pytest.importorskip("PyKCS11.LowLevel")


def number(name: str) -> int:
    """A constant by its name."""
    low = constants()
    return MORE[name] if name in MORE else int(getattr(low, name))


def name_of(rv: int) -> str:
    """CKR_... of a number."""
    for name in (*dir(constants()), *MORE):
        if name.startswith("CKR_") and number(name) == rv:
            return name
    return hex(rv)


class Attribute(ctypes.Structure):
    _fields_ = [("type", c_ulong), ("value", c_void_p), ("length", c_ulong)]


class RawMechanism(ctypes.Structure):
    _fields_ = [("mechanism", c_ulong), ("parameter", c_void_p), ("length", c_ulong)]


class Gcm(ctypes.Structure):
    _fields_ = [
        ("iv", c_char_p), ("iv_length", c_ulong), ("iv_bits", c_ulong),
        ("aad", c_char_p), ("aad_length", c_ulong), ("tag_bits", c_ulong),
    ]  # fmt: skip


class Ccm(ctypes.Structure):
    _fields_ = [
        ("data_length", c_ulong), ("nonce", c_char_p), ("nonce_length", c_ulong),
        ("aad", c_char_p), ("aad_length", c_ulong), ("mac_length", c_ulong),
    ]  # fmt: skip


class ChaChaPoly(ctypes.Structure):
    _fields_ = [
        ("nonce", c_char_p), ("nonce_length", c_ulong), ("aad", c_char_p), ("aad_length", c_ulong)
    ]  # fmt: skip


class Ctr(ctypes.Structure):
    _fields_ = [("bits", c_ulong), ("block", c_ubyte * 16)]


class Pss(ctypes.Structure):
    _fields_ = [("hash", c_ulong), ("mgf", c_ulong), ("salt", c_ulong)]


class Oaep(ctypes.Structure):
    _fields_ = [
        ("hash", c_ulong), ("mgf", c_ulong), ("source", c_ulong),
        ("label", c_char_p), ("label_length", c_ulong),
    ]  # fmt: skip


class Ecdh(ctypes.Structure):
    _fields_ = [
        ("kdf", c_ulong), ("shared_length", c_ulong), ("shared", c_char_p),
        ("public_length", c_ulong), ("public", c_char_p),
    ]  # fmt: skip


class Hkdf(ctypes.Structure):
    _fields_ = [
        ("extract", c_ubyte), ("expand", c_ubyte), ("hash", c_ulong), ("salt_type", c_ulong),
        ("salt", c_char_p), ("salt_length", c_ulong), ("salt_key", c_ulong),
        ("info", c_char_p), ("info_length", c_ulong),
    ]  # fmt: skip


class GcmMessage(ctypes.Structure):
    _fields_ = [
        ("iv", c_void_p), ("iv_length", c_ulong), ("iv_fixed_bits", c_ulong),
        ("iv_generator", c_ulong), ("tag", c_void_p), ("tag_bits", c_ulong),
    ]  # fmt: skip


class Interface(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("functions", c_void_p), ("flags", c_ulong)]


class Failed(Exception):
    """A call that did not answer CKR_OK."""

    def __init__(self, function: str, rv: int) -> None:
        super().__init__(f"C_{function}: {name_of(rv)}")
        self.rv = rv
        self.name = name_of(rv)


def given(value: Any) -> Any:
    """An argument as ctypes passes it on."""
    if isinstance(value, bool):
        return c_ubyte(value)
    if isinstance(value, int):
        return c_ulong(value)
    if isinstance(value, (bytes, bytearray)):
        return (c_char * len(value)).from_buffer_copy(value) if value else c_char_p(b"")
    return value


def mechanism(kind: str | int, parameter: Any = None) -> RawMechanism:
    """CK_MECHANISM; the parameter is a structure, bytes or nothing."""
    one = RawMechanism(number(kind) if isinstance(kind, str) else kind, None, 0)
    if parameter is None:
        return one
    if isinstance(parameter, int):
        parameter = c_ulong(parameter)
    if isinstance(parameter, bytes):
        parameter = (c_char * len(parameter)).from_buffer_copy(parameter)
    one.kept = parameter  # type: ignore[attr-defined]
    one.parameter, one.length = ctypes.addressof(parameter), ctypes.sizeof(parameter)
    return one


def template(attributes: dict[str, Any]) -> tuple[Any, int]:
    """CK_ATTRIBUTE_PTR and how many there are."""
    return pairs(list(attributes.items()))


def pairs(attributes: Iterable[tuple[str, Any]]) -> tuple[Any, int]:
    """The same of pairs, which may name an attribute twice."""
    attributes = list(attributes)
    array = (Attribute * max(1, len(attributes)))()
    array.kept = []
    for place, (name, value) in zip(array, attributes, strict=False):
        if isinstance(value, bool):
            value = c_ubyte(value)
        elif isinstance(value, int):
            value = c_ulong(value)
        elif isinstance(value, bytes):
            value = (c_char * len(value)).from_buffer_copy(value) if value else (c_char * 1)()
            place.length = len(attributes) and len(value)
        place.type = number(name)
        place.value = ctypes.addressof(value)
        place.length = ctypes.sizeof(value)
        array.kept.append(value)
    for place, (_, value) in zip(array, attributes, strict=False):
        if value == b"" and isinstance(value, bytes):
            place.value, place.length = None, 0
    return array, len(attributes)


class Module:
    """The module, as a C program loads it."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        interface = POINTER(Interface)()
        get = self.library.C_GetInterface
        get.restype = c_ulong
        rv = get(None, None, byref(interface), c_ulong(0))
        assert rv == 0, name_of(rv)
        names = f"{FUNCTIONS_2} {FUNCTIONS_3}".split()
        self.version = tuple(ctypes.string_at(interface.contents.functions, 2))
        assert self.version >= (3, 0), self.version
        pointers = (c_void_p * len(names)).from_address(interface.contents.functions + 8)
        kind = ctypes.CFUNCTYPE(c_ulong)
        self.functions: dict[str, Callable[..., int]] = {
            name: kind(pointer) for name, pointer in zip(names, pointers, strict=True)
        }

    def call(self, function: str, *arguments: Any) -> int:
        """CK_RV."""
        passed = [given(argument) for argument in arguments]
        return int(self.functions[function](*passed))

    def ok(self, function: str, *arguments: Any) -> None:
        """The same; what is not CKR_OK is an error."""
        rv = self.call(function, *arguments)
        if rv:
            raise Failed(function, rv)

    def session(self, slot: int, writes: bool = True) -> Session:
        handle = c_ulong()
        flags = number("CKF_SERIAL_SESSION") | (number("CKF_RW_SESSION") if writes else 0)
        self.ok("OpenSession", slot, flags, None, None, byref(handle))
        return Session(self, handle.value)


class Session:
    """A session; methods are C_ functions whose results come back as Python's."""

    def __init__(self, module: Module, handle: int) -> None:
        self.module = module
        self.handle = handle

    def close(self) -> None:
        self.module.ok("CloseSession", self.handle)

    def call(self, function: str, *arguments: Any) -> int:
        return self.module.call(function, self.handle, *arguments)

    def ok(self, function: str, *arguments: Any) -> None:
        self.module.ok(function, self.handle, *arguments)

    def out(self, function: str, *arguments: Any, room: int | None = None) -> bytes:
        """A function whose last two arguments are a buffer and its length; without ``room`` it is
        asked first, as most programs do."""
        length = c_ulong(0)
        if room is None:
            self.ok(function, *arguments, None, byref(length))
        else:
            length.value = room
        buffer = (c_char * max(1, length.value))()
        self.ok(function, *arguments, buffer, byref(length))
        return buffer.raw[: length.value]

    def refused(self, function: str, *arguments: Any) -> str:
        """The name of what it answers."""
        return name_of(self.call(function, *arguments))

    # Objects

    def create(self, **attributes: Any) -> int:
        handle = c_ulong()
        self.ok("CreateObject", *template(attributes), byref(handle))
        return handle.value

    def secret(self, kind: str, value: bytes, **more: Any) -> int:
        """A secret key that the program brings."""
        said = {"CKA_CLASS": number("CKO_SECRET_KEY"), "CKA_KEY_TYPE": number(kind)}
        return self.create(**said, CKA_VALUE=value, **more)

    def generate(self, kind: str, parameter: Any = None, **attributes: Any) -> int:
        handle = c_ulong()
        self.ok(
            "GenerateKey", byref(mechanism(kind, parameter)), *template(attributes), byref(handle)
        )
        return handle.value

    def pair(
        self, kind: str, public: dict[str, Any], private: dict[str, Any] | None = None
    ) -> tuple[int, int]:
        """(public, private)"""
        handles = c_ulong(), c_ulong()
        self.ok(
            "GenerateKeyPair", byref(mechanism(kind)), *template(public), *template(private or {}),
            byref(handles[0]), byref(handles[1]),
        )  # fmt: skip
        return handles[0].value, handles[1].value

    def derive(self, how: RawMechanism, base: int, **attributes: Any) -> int:
        handle = c_ulong()
        self.ok("DeriveKey", byref(how), base, *template(attributes), byref(handle))
        return handle.value

    def get(self, key: int, name: str) -> bytes:
        one = Attribute(number(name), None, 0)
        self.ok("GetAttributeValue", key, byref(one), 1)
        buffer = (c_char * max(1, one.length))()
        one.value = ctypes.addressof(buffer)
        self.ok("GetAttributeValue", key, byref(one), 1)
        return buffer.raw[: one.length]

    def flag(self, key: int, name: str) -> bool:
        value = self.get(key, name)
        assert value in (b"\0", b"\1"), value
        return value == b"\1"

    def number(self, key: int, name: str) -> int:
        return int.from_bytes(self.get(key, name), "little")

    def set(self, key: int, **attributes: Any) -> None:
        self.ok("SetAttributeValue", key, *template(attributes))

    def find(self, **attributes: Any) -> list[int]:
        self.ok("FindObjectsInit", *template(attributes))
        found: list[int] = []
        while True:
            some, count = (c_ulong * 3)(), c_ulong()
            self.ok("FindObjects", some, 3, byref(count))
            if not count.value:
                break
            found += some[: count.value]
        self.ok("FindObjectsFinal")
        return found

    def wrap(self, how: RawMechanism, by: int, key: int) -> bytes:
        return self.out("WrapKey", byref(how), by, key)

    def unwrap(self, how: RawMechanism, by: int, wrapped: bytes, **attributes: Any) -> int:
        handle = c_ulong()
        self.ok(
            "UnwrapKey", byref(how), by, wrapped, len(wrapped), *template(attributes),
            byref(handle),
        )  # fmt: skip
        return handle.value

    # Operations

    def digest(self, how: RawMechanism, *pieces: bytes) -> bytes:
        """In one call for one piece, else piece by piece."""
        self.ok("DigestInit", byref(how))
        if len(pieces) == 1:
            return self.out("Digest", pieces[0], len(pieces[0]))
        for piece in pieces:
            self.ok("DigestUpdate", piece, len(piece))
        return self.out("DigestFinal")

    def sign(self, how: RawMechanism, key: int, *pieces: bytes) -> bytes:
        self.ok("SignInit", byref(how), key)
        if len(pieces) == 1:
            return self.out("Sign", pieces[0], len(pieces[0]))
        for piece in pieces:
            self.ok("SignUpdate", piece, len(piece))
        return self.out("SignFinal")

    def verify(self, how: RawMechanism, key: int, signature: bytes, *pieces: bytes) -> None:
        self.ok("VerifyInit", byref(how), key)
        if len(pieces) == 1:
            self.ok("Verify", pieces[0], len(pieces[0]), signature, len(signature))
            return
        for piece in pieces:
            self.ok("VerifyUpdate", piece, len(piece))
        self.ok("VerifyFinal", signature, len(signature))

    def encrypt(self, how: RawMechanism, key: int, *pieces: bytes) -> bytes:
        return self._crypt("Encrypt", how, key, pieces)

    def decrypt(self, how: RawMechanism, key: int, *pieces: bytes) -> bytes:
        return self._crypt("Decrypt", how, key, pieces)

    def _crypt(self, what: str, how: RawMechanism, key: int, pieces: tuple[bytes, ...]) -> bytes:
        self.ok(f"{what}Init", byref(how), key)
        if len(pieces) == 1:
            return self.out(what, pieces[0], len(pieces[0]))
        whole = b"".join(self.out(f"{what}Update", piece, len(piece)) for piece in pieces)
        return whole + self.out(f"{what}Final")


def loaded(library: Path, folder: Path, name: str) -> Module:
    """The module under a name of its own: a state of its own, whoever else loads it."""
    copy = folder / f"{name}.so"
    shutil.copy(library, copy)
    return Module(copy)
