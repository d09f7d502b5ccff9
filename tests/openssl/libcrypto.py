"""The system's libcrypto by ctypes, with both providers in a context of its own."""

from __future__ import annotations

import ctypes
import os
from typing import Any

POINTER = ctypes.c_void_p
SIZE = ctypes.c_size_t

crypto = ctypes.CDLL(os.environ.get("CRYPTOFD_TEST_LIBCRYPTO", "libcrypto.so.3"))


class Param(ctypes.Structure):
    """OSSL_PARAM."""

    _fields_ = [
        ("key", ctypes.c_char_p),
        ("data_type", ctypes.c_uint),
        ("data", POINTER),
        ("data_size", SIZE),
        ("return_size", SIZE),
    ]


NUMBER, UTF8, OCTETS = 2, 4, 5


def params(**given: str | bytes) -> Any:
    """A list of texts and bytes; `_` stands for `-`."""
    made: Any = (Param * (len(given) + 1))()
    # The list has addresses alone.
    made.kept = [
        ctypes.create_string_buffer(value.encode() if isinstance(value, str) else value)
        for value in given.values()
    ]
    for place, (name, value) in enumerate(given.items()):
        data = made.kept[place]
        made[place] = Param(
            name.replace("_", "-").encode(), UTF8 if isinstance(value, str) else OCTETS,
            ctypes.cast(data, POINTER), len(data) - 1, 0,
        )  # fmt: skip
    return made


def function(name: str, *arguments: Any, result: Any = ctypes.c_int) -> Any:
    found = getattr(crypto, name)
    found.argtypes, found.restype = arguments, result
    return found


lib_new = function("OSSL_LIB_CTX_new", result=POINTER)
provider_load = function("OSSL_PROVIDER_load", POINTER, ctypes.c_char_p, result=POINTER)
clear_errors = function("ERR_clear_error", result=None)
cipher_fetch = function(
    "EVP_CIPHER_fetch", POINTER, ctypes.c_char_p, ctypes.c_char_p, result=POINTER
)
cipher_new = function("EVP_CIPHER_CTX_new", result=POINTER)
cipher_free = function("EVP_CIPHER_CTX_free", POINTER, result=None)
cipher_copy = function("EVP_CIPHER_CTX_copy", POINTER, POINTER)
cipher_init = function(
    "EVP_CipherInit_ex2", POINTER, POINTER, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, POINTER
)
cipher_update = function(
    "EVP_CipherUpdate", POINTER, POINTER, ctypes.POINTER(ctypes.c_int), POINTER, ctypes.c_int
)
cipher_final = function("EVP_CipherFinal_ex", POINTER, POINTER, ctypes.POINTER(ctypes.c_int))
cipher_padding = function("EVP_CIPHER_CTX_set_padding", POINTER, ctypes.c_int)
cipher_ctrl = function("EVP_CIPHER_CTX_ctrl", POINTER, ctypes.c_int, ctypes.c_int, POINTER)
cipher_updated_iv = function("EVP_CIPHER_CTX_get_updated_iv", POINTER, POINTER, SIZE)
cipher_original_iv = function("EVP_CIPHER_CTX_get_original_iv", POINTER, POINTER, SIZE)
cipher_num = function("EVP_CIPHER_CTX_get_num", POINTER)
cipher_iv_length = function("EVP_CIPHER_CTX_get_iv_length", POINTER)
cipher_key_length = function("EVP_CIPHER_get_key_length", POINTER)
cipher_block = function("EVP_CIPHER_get_block_size", POINTER)
cipher_mode = function("EVP_CIPHER_get_mode", POINTER)
cipher_set_flags = function("EVP_CIPHER_CTX_set_flags", POINTER, ctypes.c_int, result=None)
cipher_flags = function("EVP_CIPHER_get_flags", POINTER, result=ctypes.c_ulong)
cipher_nid = function("EVP_CIPHER_get_nid", POINTER)

error_data = function(
    "ERR_peek_last_error_all", POINTER, POINTER, POINTER, ctypes.POINTER(ctypes.c_char_p), POINTER,
    result=ctypes.c_ulong,
)  # fmt: skip

SET_IVLEN, GET_TAG, SET_TAG = 0x9, 0x10, 0x11


def last_error() -> str:
    """What the last call that failed has to say."""
    text = ctypes.c_char_p()
    number = error_data(None, None, None, ctypes.byref(text), None)
    return f"{number:x} {(text.value or b'').decode()}"


def context() -> int:
    """A library context with the default provider and ours."""
    made: int = lib_new()
    assert provider_load(made, b"default")
    assert provider_load(made, os.environ["CRYPTOFD_TEST_LIBRARY"].encode())
    return made


class Cipher:
    """An EVP_CIPHER_CTX; each call gives what it did, and nothing when it failed."""

    def __init__(self, library: int | None, name: str, provider: str) -> None:
        query = provider if "=" in provider else f"provider={provider}"
        self.cipher = cipher_fetch(library, name.encode(), query.encode())
        assert self.cipher, (name, provider)
        self.ctx = cipher_new()
        self.begun = False

    def __del__(self) -> None:
        cipher_free(self.ctx)

    def facts(self) -> tuple[int, ...]:
        return (
            cipher_key_length(self.cipher), cipher_block(self.cipher), cipher_mode(self.cipher),
            cipher_flags(self.cipher), cipher_nid(self.cipher),
        )  # fmt: skip

    def init(self, key: bytes | None, iv: bytes | None, encrypt: int, **more: str | bytes) -> bool:
        # With a cipher again, libcrypto would forget the key.
        cipher = None if self.begun else self.cipher
        self.begun = True
        given = params(**more) if more else None
        return bool(cipher_init(self.ctx, cipher, key, iv, encrypt, given) > 0)

    def update(
        self, data: bytes, *, in_place: bool = False, aad: bool = False, length_only: bool = False
    ) -> bytes | None:
        written = ctypes.c_int(0)
        if length_only:
            done = cipher_update(self.ctx, None, ctypes.byref(written), None, len(data))
            return b"" if done > 0 else None
        given = ctypes.create_string_buffer(data, len(data) + 64)
        if aad:
            done = cipher_update(self.ctx, None, ctypes.byref(written), given, len(data))
            return b"" if done > 0 else None
        out = given if in_place else ctypes.create_string_buffer(len(data) + 64)
        done = cipher_update(self.ctx, out, ctypes.byref(written), given, len(data))
        return out.raw[: written.value] if done > 0 else None

    def final(self) -> bytes | None:
        out, written = ctypes.create_string_buffer(64), ctypes.c_int(0)
        done = cipher_final(self.ctx, out, ctypes.byref(written))
        return out.raw[: written.value] if done > 0 else None

    def control(self, command: int, size: int, data: bytes | None = None) -> bytes | None:
        place = None if data is None else ctypes.create_string_buffer(data, max(size, 1))
        done = cipher_ctrl(self.ctx, command, size, place)
        return None if done <= 0 else b"" if place is None else place.raw[:size]

    def copied(self) -> Cipher:
        copy = object.__new__(Cipher)
        copy.cipher, copy.ctx, copy.begun = self.cipher, cipher_new(), self.begun
        assert cipher_copy(copy.ctx, self.ctx) > 0
        return copy

    def ivs(self) -> tuple[bytes, bytes, int]:
        size = max(cipher_iv_length(self.ctx), 0)
        one, two = ctypes.create_string_buffer(size + 1), ctypes.create_string_buffer(size + 1)
        cipher_original_iv(self.ctx, one, size)
        cipher_updated_iv(self.ctx, two, size)
        return one.raw, two.raw, cipher_num(self.ctx)
