"""A PKCS#11 module with as little in between as Python can: a peer of the broker's bench."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, byref, c_ubyte, c_ulong, c_void_p, cast
from typing import Any

# PKCS#11 2.40: places in the list of functions, mechanisms, attributes, and one error.
_FUNCTIONS = {
    "C_Initialize": 0,
    "C_Finalize": 1,
    "C_GetSlotList": 4,
    "C_OpenSession": 12,
    "C_Login": 18,
    "C_EncryptInit": 29,
    "C_Encrypt": 30,
    "C_GenerateKey": 58,
}
_RW_SERIAL, _USER = 6, 1
_KEY_GEN, _ECB, _GCM = 0x1080, 0x1081, 0x1087
_VALUE_LEN, _ENCRYPT, _SENSITIVE, _EXTRACTABLE = 0x161, 0x104, 0x103, 0x162
_NO_TOKEN = 0xE1


class _Mechanism(Structure):
    _fields_ = (("mechanism", c_ulong), ("parameter", c_void_p), ("size", c_ulong))


class _Gcm(Structure):
    _fields_ = (
        ("iv", c_void_p),
        ("iv_size", c_ulong),
        ("iv_bits", c_ulong),
        ("aad", c_void_p),
        ("aad_size", c_ulong),
        ("tag_bits", c_ulong),
    )


class _Attribute(Structure):
    _fields_ = (("type", c_ulong), ("value", c_void_p), ("size", c_ulong))


def _template(values: Sequence[tuple[int, bytes]]) -> tuple[ctypes.Array[_Attribute], list[object]]:
    buffers = [ctypes.create_string_buffer(value, len(value)) for _, value in values]
    array = (_Attribute * len(values))(
        *(
            _Attribute(kind, cast(buffer, c_void_p), len(value))
            for (kind, value), buffer in zip(values, buffers, strict=True)
        )
    )
    return array, [*buffers]


class Module:
    """A module, logged in to its first token that has one, with an AES key of 256 bits that cannot
    be read."""

    def __init__(self, path: str, pin: str) -> None:
        self._library = ctypes.CDLL(path)
        listed = c_void_p()
        self._library.C_GetFunctionList(byref(listed))
        # A version of two bytes, padded, and pointers.
        self._list = cast(listed, POINTER(c_void_p))
        self._do("C_Initialize", None)
        count = c_ulong(0)
        self._do("C_GetSlotList", c_ubyte(1), None, byref(count))
        slots = (c_ulong * count.value)()
        self._do("C_GetSlotList", c_ubyte(1), slots, byref(count))
        self._session = c_ulong(0)
        opens = self._function("C_OpenSession")
        asked = (c_ulong(_RW_SERIAL), None, None, byref(self._session))
        # SoftHSM shows one more slot, for the next token.
        if all(opens(c_ulong(slot), *asked) for slot in slots):
            raise SystemExit(f"bench: {path} has no token")
        self._do("C_Login", self._session, c_ulong(_USER), pin.encode(), c_ulong(len(pin)))
        size = (32).to_bytes(ctypes.sizeof(c_ulong), "little")
        yes, no = b"\1", b"\0"
        values = [(_VALUE_LEN, size), (_ENCRYPT, yes), (_SENSITIVE, yes), (_EXTRACTABLE, no)]
        template, self._kept = _template(values)
        self._key = c_ulong(0)
        self._do(
            "C_GenerateKey", self._session, byref(_Mechanism(_KEY_GEN, None, 0)), template,
            c_ulong(len(template)), byref(self._key),
        )  # fmt: skip

    def _function(self, name: str, *arguments: type) -> Callable[..., int]:
        address = self._list[1 + _FUNCTIONS[name]]
        made: Callable[..., int] = ctypes.CFUNCTYPE(c_ulong, *arguments)(address or 0)
        return made

    def _do(self, name: str, *arguments: Any) -> None:
        code = self._function(name)(*arguments)
        if code:
            raise SystemExit(f"bench: {name}: CKR {code & 0xFFFFFFFF:#x}")

    def close(self) -> None:
        """Ends the session."""
        self._do("C_Finalize", None)

    def ecb(self, data: bytes) -> Callable[[], bytes]:
        """Encrypts with AES-256-ECB: the mode that every p11-kit carries, for it has no IV."""
        return self._encrypting(lambda: (_Mechanism(_ECB, None, 0), None), data, 0)

    def gcm(self, data: bytes) -> Callable[[], bytes]:
        """Encrypts with AES-256-GCM under a fresh IV."""

        def parameter() -> tuple[_Mechanism, object]:
            iv = os.urandom(12)
            about = _Gcm(cast(ctypes.c_char_p(iv), c_void_p), 12, 96, None, 0, 128)
            return _Mechanism(_GCM, cast(byref(about), c_void_p), ctypes.sizeof(about)), (iv, about)

        return self._encrypting(parameter, data, 16)

    def _encrypting(
        self, parameter: Callable[[], tuple[_Mechanism, object]], data: bytes, more: int
    ) -> Callable[[], bytes]:
        begin = self._function("C_EncryptInit", c_ulong, POINTER(_Mechanism), c_ulong)
        encrypt = self._function(
            "C_Encrypt", c_ulong, ctypes.c_char_p, c_ulong, c_void_p, POINTER(c_ulong)
        )
        out = ctypes.create_string_buffer(len(data) + more)
        size = c_ulong(0)
        session, key = self._session, self._key

        def call() -> bytes:
            mechanism, _kept = parameter()
            size.value = len(out)
            code = begin(session, mechanism, key)
            code = code or encrypt(session, data, len(data), out, size)
            if code:
                raise SystemExit(f"bench: the token does not encrypt: CKR {code:#x}")
            return out.raw

        return call
