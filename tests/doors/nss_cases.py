"""What is asked of python-nss and of cryptofd.doors.nss alike: by table, of every name.

Run as a program, with the name of the module to ask and the number of the first case, it writes a
line of JSON for each: its name and what came of it. It dies where the module does, so the one who
runs it goes on after that.
"""

from __future__ import annotations

import importlib
import json
import re
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Case = tuple[str, Callable[[Any], Any]]

CIPHERS = {
    "AES_ECB": ((16, 24, 32), 0),
    "AES_CBC": ((16, 24, 32), 16),
    "AES_CBC_PAD": ((16, 24, 32), 16),
    "DES3_ECB": ((16, 24), 0),
    "DES3_CBC": ((16, 24), 8),
    "DES3_CBC_PAD": ((16, 24), 8),
    "DES_ECB": ((8,), 0),
    "DES_CBC": ((8,), 8),
    "DES_CBC_PAD": ((8,), 8),
}
HASHES = {"MD5": 3, "SHA1": 4, "SHA224": 309, "SHA256": 191, "SHA384": 192, "SHA512": 193}
HMACS = ["MD5", "SHA_1", "SHA224", "SHA256", "SHA384", "SHA512"]
SIZES = [0, 1, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 111, 112, 127, 128, 129, 1000, 4096]
OPERATIONS = ["ENCRYPT", "DECRYPT", "SIGN", "VERIFY", "WRAP", "UNWRAP", "DERIVE"]


def data(size: int, seed: int = 1) -> bytes:
    """Bytes that look like nothing."""
    return bytes((seed * 167 + place * place * 31 + place * 7) & 0xFF for place in range(size))


def chunkings(size: int, block: int) -> dict[str, list[int]]:
    """Ways to cut ``size`` bytes."""
    ways = {"whole": [size]}
    for step in (block, 2 * block, 5 * block):
        ways[f"by{step}"] = [min(step, size - at) for at in range(0, size, step)]
    ways["odd"] = [7, 9, 16, 1, size]
    ways["bytes"] = [1] * size if size <= 64 else [block - 1, 1, block + 1, size]
    return ways


def cut(content: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield content[at : at + size]
        at += size
    if at < len(content):
        yield content[at:]


def mechanism(nss: Any, name: str) -> int:
    number: int = getattr(nss, f"CKM_{name}")
    return number


def imported(nss: Any, name: str, content: bytes, operation: str = "ENCRYPT") -> Any:
    slot = nss.get_internal_slot()
    return nss.import_sym_key(
        slot,
        mechanism(nss, name),
        nss.PK11_OriginUnwrap,
        getattr(nss, f"CKA_{operation}"),
        nss.SecItem(content),
    )


def context(nss: Any, name: str, operation: str, key: Any, iv: bytes | None) -> Any:
    param = nss.param_from_iv(mechanism(nss, name), nss.SecItem(iv)) if iv else None
    return nss.create_context_by_sym_key(
        mechanism(nss, name), getattr(nss, f"CKA_{operation}"), key, param
    )


def attempt(nss: Any, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a call gives, or what it raises."""
    try:
        return shown(nss, function(*arguments, **options))
    except Exception as error:
        return failure(error)


def failure(error: BaseException) -> list[Any]:
    kind = type(error)
    module = kind.__module__.rpartition(".")[2]
    text = str(error).replace("cryptofd.doors.nss.", "nss.nss.")
    return ["raised", f"{module}.{kind.__qualname__}", text, getattr(error, "errno", None)]


def shown(nss: Any, value: Any) -> Any:
    """A result as JSON, whatever it is."""
    if isinstance(value, bytes):
        return f"bytes {value.hex()}"
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *(shown(nss, each) for each in value)]
    if isinstance(value, nss.SecItem):
        return ["SecItem", value.type, value.len, value.data.hex()]
    if isinstance(value, nss.PK11SymKey):
        return ["key", value.mechanism, value.key_length, attempt(nss, lambda: value.key_data)]
    return type(value).__name__


def steps(nss: Any, target: Any, script: str) -> list[Any]:
    """What the calls of a script give: ``begin``, ``final``, ``finalize``, ``op N``, ``cipher N``,
    ``key``, ``clone`` (and goes on with the copy), each of a context."""
    results = []
    for step in script.split(","):
        what, _, size = step.strip().partition(" ")
        call: Callable[[], Any]
        if what == "op":
            call = lambda on=target, size=size: on.digest_op(data(int(size)))  # noqa: E731
        elif what == "cipher":
            call = lambda on=target, size=size: on.cipher_op(data(int(size)))  # noqa: E731
        elif what == "key":
            call = lambda on=target: on.digest_key(imported(nss, "AES_CBC", data(16)))  # noqa: E731
        elif what == "clone":
            try:
                target = target.clone_context(target)
                results.append("cloned")
            except Exception as error:
                results.append(failure(error))
            continue
        else:
            call = {
                "begin": target.digest_begin,
                "final": target.digest_final,
                "finalize": target.finalize,
            }[what]
        results.append(attempt(nss, call))
    return results


def ciphers() -> Iterator[Case]:
    for name, (key_sizes, iv_size) in CIPHERS.items():
        block = 16 if name.startswith("AES") else 8
        for key_size in key_sizes:
            for size in SIZES:
                if not name.endswith("PAD") and size % block:
                    continue

                def roundtrip(
                    nss: Any,
                    name: str = name,
                    key_size: int = key_size,
                    iv_size: int = iv_size,
                    size: int = size,
                    block: int = block,
                ) -> Any:
                    iv, plain = data(iv_size, 3), data(size, 5)
                    results = []
                    # python-nss gives back memory that it never wrote where there is no padding.
                    pads = name.endswith("PAD")
                    key = imported(nss, name, data(key_size, 7))
                    encrypted = b""
                    for way, sizes in chunkings(size, block).items():
                        if not pads and any(len(part) % block for part in cut(plain, sizes)):
                            continue
                        running = context(nss, name, "ENCRYPT", key, iv)
                        parts = [running.cipher_op(part) for part in cut(plain, sizes)]
                        if pads:
                            parts.append(running.digest_final())
                        encrypted = b"".join(parts)
                        results.append([way, [part.hex() for part in parts]])
                    for way, sizes in chunkings(len(encrypted), block).items():
                        pieces = [part for part in cut(encrypted, sizes) if part]
                        if any(len(part) % block for part in pieces):
                            continue
                        running = context(nss, name, "DECRYPT", key, iv)
                        parts = [running.cipher_op(part) for part in pieces]
                        parts.append(running.digest_final())
                        results.append([way, [part.hex() for part in parts]])
                    return results

                yield f"cipher {name} {key_size} {size}", roundtrip
        for key_size in (0, 1, 5, 7, 8, 15, 16, 17, 20, 23, 24, 25, 31, 32, 33, 64):
            yield (
                f"import {name} {key_size}",
                lambda nss, name=name, size=key_size: imported(nss, name, data(size)),
            )
        for iv_length in (0, 1, 7, 8, 9, 15, 16, 17, 32):
            # A padded mode of AES reads beyond an IV that is too short.
            if name == "AES_CBC_PAD" and iv_length < 16:
                continue

            def with_iv(
                nss: Any, name: str = name, size: int = key_sizes[0], iv: int = iv_length
            ) -> Any:
                running = nss.create_context_by_sym_key(
                    mechanism(nss, name),
                    nss.CKA_ENCRYPT,
                    imported(nss, name, data(size)),
                    nss.SecItem(data(iv, 9)),
                )
                return running.cipher_op(data(32))

            yield f"iv {name} {iv_length}", with_iv
        for script in (
            "cipher 0, cipher 16, cipher 0, cipher 16",
            "cipher 16, cipher 1, cipher 16, cipher 17, cipher 32",
            "cipher 16, begin, cipher 16, begin, begin, cipher 16",
            "begin, cipher 16, finalize, cipher 16, begin, cipher 16",
            "finalize, finalize, cipher 16",
            "op 1, cipher 16, op 0, key, cipher 16",
        ):
            for operation in ("ENCRYPT", "DECRYPT"):

                def run(
                    nss: Any,
                    name: str = name,
                    size: int = key_sizes[-1],
                    iv: int = iv_size,
                    operation: str = operation,
                    script: str = script,
                ) -> Any:
                    key = imported(nss, name, data(size))
                    return steps(nss, context(nss, name, operation, key, data(iv)), script)

                yield f"steps {name} {operation}: {script}", run
        for script in (
            "final",
            "final, final, cipher 16, begin, cipher 16",
            "cipher 16, final, cipher 16, final",
            "cipher 5, final, begin, cipher 5, final",
            "cipher 16, cipher 32, final, begin, final",
            "cipher 16, finalize, final",
        ):
            for operation in ("ENCRYPT", "DECRYPT"):
                if operation == "ENCRYPT" and not name.endswith("PAD"):
                    continue

                def ending(
                    nss: Any,
                    name: str = name,
                    size: int = key_sizes[-1],
                    iv: int = iv_size,
                    operation: str = operation,
                    script: str = script,
                ) -> Any:
                    key = imported(nss, name, data(size))
                    return steps(nss, context(nss, name, operation, key, data(iv)), script)

                yield f"steps {name} {operation}: {script}", ending


def rights() -> Iterator[Case]:
    """Keys made for one thing and used for another."""
    keys = ("AES_CBC", "AES_ECB", "DES3_CBC", "DES_CBC", "SHA256_HMAC", "MD5_HMAC", "SHA256")
    uses = ("AES_CBC", "AES_ECB", "AES_CBC_PAD", "DES3_CBC", "DES_ECB", "SHA256_HMAC", "SHA256")
    sizes = {"AES": 16, "DES3": 24, "DES": 8}
    for made in keys:
        for purpose in OPERATIONS:
            for use in uses:

                def operations(
                    nss: Any, made: str = made, purpose: str = purpose, use: str = use
                ) -> Any:
                    size = sizes.get(made.partition("_")[0], 16)
                    key = imported(nss, made, data(size), purpose)
                    return [
                        attempt(
                            nss,
                            nss.create_context_by_sym_key,
                            mechanism(nss, use),
                            getattr(nss, f"CKA_{operation}"),
                            key,
                            nss.SecItem(bytes(16)),
                        )
                        for operation in ("ENCRYPT", "DECRYPT", "SIGN", "VERIFY", "WRAP", "DERIVE")
                    ]

                yield f"rights {made} for {purpose}, used by {use}", operations


def digests() -> Iterator[Case]:
    for name, tag in HASHES.items():
        for size in SIZES:

            def digest(nss: Any, tag: int = tag, size: int = size) -> Any:
                content = data(size)
                results = [nss.hash_buf(tag, content).hex()]
                for sizes in chunkings(size, 64).values():
                    running = nss.create_digest_context(tag)
                    running.digest_begin()
                    for part in cut(content, sizes):
                        running.digest_op(part)
                    results.append(running.digest_final().hex())
                return results

            yield f"hash {name} {size}", digest
        for script in (
            "final",
            "op 1, final, op 1, final, begin, op 1, final",
            "op 1, finalize, final, op 1, op 0, begin, final",
            "begin, op 3, begin, op 1, final",
            "op 3, begin, op 1, final",
            "op 5, clone, op 7, final, clone, op 1",
            "clone, begin, op 5, clone, final",
            "finalize, clone, begin, clone, op 2, final",
            "key, final, key, final",
            "op 4, key, op 70, final",
            "cipher 0, op 1, cipher 16, final",
        ):

            def run(nss: Any, tag: int = tag, script: str = script) -> Any:
                return steps(nss, nss.create_digest_context(tag), script)

            yield f"steps {name}: {script}", run
    for tag in [*range(0, 364), 999, 99999, 1 << 33, -1]:
        if tag != 1:  # MD2 is nobody's any more.
            yield (
                f"digest context {tag}",
                lambda nss, tag=tag: nss.create_digest_context(tag).digest_final(),
            )
            yield f"hash_buf {tag}", lambda nss, tag=tag: nss.hash_buf(tag, b"abc")
    for name in ("md5", "sha1", "sha256", "sha512"):
        for size in (0, 1, 100):
            yield (
                f"{name}_digest {size}",
                lambda nss, name=name, size=size: getattr(nss, f"{name}_digest")(data(size)),
            )


def macs() -> Iterator[Case]:
    for name in HMACS:
        for key_size in (0, 1, 16, 63, 64, 65, 127, 128, 129, 300):
            for size in (0, 1, 64, 200):

                def mac(
                    nss: Any, name: str = name, key_size: int = key_size, size: int = size
                ) -> Any:
                    key = imported(nss, f"{name}_HMAC", data(key_size), "SIGN")
                    results = []
                    for sizes in chunkings(size, 64).values():
                        running = context(nss, f"{name}_HMAC", "SIGN", key, None)
                        running.digest_begin()
                        for part in cut(data(size), sizes):
                            running.digest_op(part)
                        results.append(running.digest_final().hex())
                    return results

                yield f"hmac {name} {key_size} {size}", mac
        for script in (
            "op 3, final, op 1, final, begin, op 3, final",
            "finalize, op 1, begin, final",
            "key, op 2, final",
            "cipher 0, cipher 1, op 0, final",
            "op 2, begin, op 1, final",
        ):
            for operation in ("SIGN", "VERIFY"):

                def run(
                    nss: Any, name: str = name, operation: str = operation, script: str = script
                ) -> Any:
                    key = imported(nss, f"{name}_HMAC", data(20), operation)
                    running = context(nss, f"{name}_HMAC", operation, key, None)
                    return steps(nss, running, script)

                yield f"steps {name}_HMAC {operation}: {script}", run
        for length in (0, 1, 4, 8, 10, 16, 20, 28, 32, 48, 64, 65, 1 << 40):

            def general(nss: Any, name: str = name, length: int = length) -> Any:
                key = imported(nss, f"{name}_HMAC_GENERAL", data(20), "SIGN")
                running = nss.create_context_by_sym_key(
                    mechanism(nss, f"{name}_HMAC_GENERAL"),
                    nss.CKA_SIGN,
                    key,
                    nss.SecItem(struct.pack("L", length)),
                )
                running.digest_op(b"abc")
                return running.digest_final()

            yield f"hmac general {name} {length}", general


def keys() -> Iterator[Case]:
    for name in (
        "AES_CBC",
        "AES_CBC_PAD",
        "AES_ECB",
        "AES_KEY_GEN",
        "DES3_CBC",
        "DES3_KEY_GEN",
        "DES2_KEY_GEN",
        "DES_CBC",
        "DES_KEY_GEN",
        "SHA256_HMAC",
        "SHA_1_HMAC",
        "GENERIC_SECRET_KEY_GEN",
        "SHA256",
        "SHA256_HMAC_GENERAL",
    ):
        for size in (-1, 0, 1, 8, 16, 17, 20, 24, 32, 33, 64, 129):

            def generate(nss: Any, name: str = name, size: int = size) -> Any:
                slot = nss.get_internal_slot()
                key = slot.key_gen(mechanism(nss, name), None, size)
                other = slot.key_gen(mechanism(nss, name), None, size)
                same = key.key_length > 4 and key.key_data == other.key_data
                return [key.mechanism, key.key_length, len(key.key_data), same]

            yield f"key_gen {name} {size}", generate

        def usable(nss: Any, name: str = name) -> Any:
            slot = nss.get_internal_slot()
            key = slot.key_gen(mechanism(nss, name), None, 16)
            results = []
            for use in ("AES_CBC", "SHA256_HMAC"):
                for operation in ("ENCRYPT", "DECRYPT", "SIGN", "VERIFY"):
                    try:
                        context(nss, use, operation, key, bytes(16))
                        results.append(f"{use} {operation}")
                    except Exception as error:
                        results.append(failure(error)[2])
            return results

        yield f"what a generated {name} may", usable
    for odd in ("DES_CBC", "DES3_CBC", "DES2_KEY_GEN"):

        def parity(nss: Any, odd: str = odd) -> Any:
            key = nss.get_internal_slot().key_gen(mechanism(nss, odd), None, 0)
            return all(bin(octet).count("1") % 2 for octet in key.key_data)

        yield f"parity {odd}", parity
    for wrapping in ("AES_ECB", "AES_CBC", "AES_CBC_PAD", "DES3_ECB", "DES3_CBC", "DES3_CBC_PAD"):
        for target, length in (("AES_CBC", 16), ("AES_CBC", 32), ("SHA256_HMAC", 48)):
            for wanted in (-1, 0, 8, 16, 24, 32, 48, 64):

                def unwrap(
                    nss: Any,
                    wrapping: str = wrapping,
                    target: str = target,
                    length: int = length,
                    wanted: int = wanted,
                ) -> Any:
                    aes = wrapping.startswith("AES")
                    key = imported(nss, wrapping, data(16 if aes else 24), "UNWRAP")
                    iv = None if wrapping.endswith("ECB") else data(16 if aes else 8, 4)
                    wrapped = nss.SecItem(sealed(nss, wrapping, key, iv, data(length, 9)))
                    return key.unwrap_sym_key(
                        mechanism(nss, wrapping),
                        nss.SecItem(iv) if iv else None,
                        wrapped,
                        mechanism(nss, target),
                        nss.CKA_ENCRYPT,
                        wanted,
                    )

                yield f"unwrap {wrapping} {target} {length} to {wanted}", unwrap
        for length in (0, 1, 8, 15, 17):

            def malformed(nss: Any, wrapping: str = wrapping, length: int = length) -> Any:
                aes = wrapping.startswith("AES")
                key = imported(nss, wrapping, data(16 if aes else 24), "UNWRAP")
                iv = None if wrapping.endswith("ECB") else nss.SecItem(data(16 if aes else 8, 4))
                return key.unwrap_sym_key(
                    mechanism(nss, wrapping),
                    iv,
                    nss.SecItem(data(length)),
                    mechanism(nss, "SHA256_HMAC"),
                    nss.CKA_SIGN,
                    0,
                )

            yield f"unwrap {wrapping} of {length} bytes", malformed
    for purpose in OPERATIONS:

        def unwrapping(nss: Any, purpose: str = purpose) -> Any:
            key = imported(nss, "AES_ECB", data(16), purpose)
            return key.unwrap_sym_key(
                nss.CKM_AES_ECB, None, nss.SecItem(data(16)), nss.CKM_AES_CBC, nss.CKA_ENCRYPT, 16
            )

        yield f"unwrap with a key for {purpose}", unwrapping
    for wrapping in ("SHA256_HMAC", "SHA256", "AES_KEY_GEN"):

        def wrong(nss: Any, wrapping: str = wrapping) -> Any:
            key = imported(nss, wrapping, data(16), "UNWRAP")
            return key.unwrap_sym_key(
                mechanism(nss, wrapping),
                None,
                nss.SecItem(data(16)),
                nss.CKM_AES_CBC,
                nss.CKA_ENCRYPT,
                16,
            )

        yield f"unwrap by {wrapping}", wrong
    for name in ("MD5", "SHA1", "SHA224", "SHA256", "SHA384", "SHA512"):
        for target in ("AES_CBC", "SHA256_HMAC", "DES3_CBC"):
            for size in (0, 8, 16, 20, 24, 32, 64, 65):
                for purpose in ("DERIVE", "ENCRYPT"):

                    def derive(
                        nss: Any,
                        name: str = name,
                        target: str = target,
                        size: int = size,
                        purpose: str = purpose,
                    ) -> Any:
                        key = imported(nss, "SHA256_HMAC", data(20), purpose)
                        return key.derive(
                            mechanism(nss, f"{name}_KEY_DERIVATION"),
                            None,
                            mechanism(nss, target),
                            nss.CKA_ENCRYPT,
                            size,
                        )

                    yield f"derive {name} {target} {size} of a key for {purpose}", derive
    for first in (0, 1, 8, 13, 64, 128, 159, 160, 1000):
        for size in (0, 1, 8, 16, 20, 21):

            def extract(nss: Any, first: int = first, size: int = size) -> Any:
                key = imported(nss, "SHA256_HMAC", data(20), "DERIVE")
                return key.derive(
                    nss.CKM_EXTRACT_KEY_FROM_KEY,
                    nss.SecItem(struct.pack("L", first)),
                    nss.CKM_SHA256_HMAC,
                    nss.CKA_SIGN,
                    size,
                )

            yield f"extract {size} bytes from bit {first}", extract
    for name in ("AES_CBC", "SHA256_HMAC", "SHA256", "RSA_PKCS", "SHA256_RSA_PKCS"):

        def underivable(nss: Any, name: str = name) -> Any:
            key = imported(nss, "SHA256_HMAC", data(20), "DERIVE")
            return key.derive(mechanism(nss, name), None, nss.CKM_SHA256_HMAC, nss.CKA_SIGN, 16)

        yield f"derive by {name}", underivable
    for origin in (0, 1, 2, 3, 4, 99):

        def of_origin(nss: Any, origin: int = origin) -> Any:
            return nss.import_sym_key(
                nss.get_best_slot(nss.CKM_AES_CBC),
                nss.CKM_AES_CBC,
                origin,
                nss.CKA_ENCRYPT,
                nss.SecItem(data(16)),
                "user data",
            )

        yield f"origin {origin}", of_origin
    yield "a key's lines", lambda nss: imported(nss, "AES_CBC", data(32)).format().split("PK11")[0]
    yield "a key's lines 3", lambda nss: imported(nss, "AES_CBC", data(16)).format_lines(3)[:4]
    yield "make a key", lambda nss: nss.PK11SymKey()
    yield "make a context", lambda nss: type(nss.PK11Context()).__name__
    yield "make a slot", lambda nss: type(nss.PK11Slot()).__name__


def sealed(nss: Any, name: str, key: Any, iv: bytes | None, content: bytes) -> bytes:
    """What a key wraps ``content`` to: a cipher of it."""
    running = context(nss, name, "ENCRYPT", key, iv)
    parts: bytes = running.cipher_op(content)
    return parts + (running.digest_final() if name.endswith("PAD") else b"")


def parameters() -> Iterator[Case]:
    for function in ("get_iv_length", "get_block_size", "get_pad_mechanism"):
        # Without its second argument get_block_size reads what nobody wrote.
        rest = (None,) if function == "get_block_size" else ()
        yield (
            function,
            lambda nss, function=function, rest=rest: [
                [name, attempt(nss, getattr(nss, function), getattr(nss, name), *rest)]
                for name in NAMES
            ],
        )
    for function in ("key_mechanism_type_name", "mechanism_to_algtag"):
        yield (
            function,
            lambda nss, function=function: [
                [name, attempt(nss, getattr(nss, function), getattr(nss, name))] for name in NAMES
            ],
        )
        yield f"{function} of none", lambda nss, function=function: getattr(nss, function)(99999)
    yield (
        "algtag_to_mechanism",
        lambda nss: [attempt(nss, nss.algtag_to_mechanism, tag) for tag in range(346)],
    )
    for name in ("AES_CBC", "DES3_CBC_PAD", "AES_ECB", "DES_CBC", "SHA256_HMAC", "SHA256"):
        for iv in (None, 0, 1, 8, 16, 20):

            def param(nss: Any, name: str = name, iv: int | None = iv) -> Any:
                item = None if iv is None else nss.SecItem(data(iv), 3)
                return nss.param_from_iv(mechanism(nss, name), item)

            yield f"param_from_iv {name} {iv}", param

        def fresh(nss: Any, name: str = name) -> Any:
            one = nss.generate_new_param(mechanism(nss, name), None)
            other = nss.generate_new_param(mechanism(nss, name), None)
            return [one.type, one.len, other.len, one.len > 0 and one.data == other.data]

        yield f"generate_new_param {name}", fresh
    yield (
        "param_from_iv by name",
        lambda nss: nss.param_from_iv(mechanism=nss.CKM_AES_CBC, iv=nss.SecItem(bytes(16))),
    )
    yield (
        "get_block_size by name",
        lambda nss: nss.get_block_size(mechanism=nss.CKM_AES_CBC, sec_param=None),
    )
    for name in (
        "AES_CBC",
        "AES_CBC_PAD",
        "AES_KEY_GEN",
        "DES3_CBC",
        "SHA256_HMAC",
        "SHA256",
        "GENERIC_SECRET_KEY_GEN",
        "SHA384_KEY_DERIVATION",
        "IDEA_CBC",
    ):
        yield (
            f"get_best_key_length {name}",
            lambda nss, name=name: nss.get_internal_slot().get_best_key_length(
                mechanism(nss, name)
            ),
        )


def numbers() -> Iterator[Case]:
    """The constants, and their names."""
    for prefix in ("CKM_", "CKA_", "SEC_OID_", "PK11_", "NSS_INIT_", "As", "OCTETS", "HEX"):
        yield (
            f"constants {prefix}",
            lambda nss, prefix=prefix: [
                [name, getattr(nss, name)] for name in CONSTANTS if name.startswith(prefix)
            ],
        )
    yield (
        "attribute names",
        lambda nss: [
            attempt(nss, nss.pk11_attribute_type_name, number)
            for number in [*range(0x300), 0x40000600, 1 << 40]
        ],
    )
    for function in ("oid_str", "oid_tag", "oid_tag_name", "oid_dotted_decimal"):
        yield (
            f"{function} by tag",
            lambda nss, function=function: [
                attempt(nss, getattr(nss, function), tag)
                for tag in [*(t for t in range(302) if t), 99999, 0, -5]
            ],
        )
        for word in (
            "SEC_OID_SHA256",
            "sec_oid_sha256",
            "sha256",
            "SHA-256",
            "cn",
            "CN",
            "E",
            "dnQualifier",
            "serialNumber",
            "OID.2.16.840.1.101.3.4.2.1",
            "2.16.840.1.101.3.4.2.1",
            "oid.2.5.4.3",
            "2.5.4.3 ",
            "1.2.3.4.5",
            "1",
            "1.",
            "9.9.9",
            "",
            "nonsense",
            "AVA_COMMON_NAME",
        ):
            yield (
                f"{function} {word!r}",
                lambda nss, function=function, word=word: getattr(nss, function)(word),
            )
        for der in ("550403", "0603550403", "6086480165030402 01", "2b0e03021a", "", "ff", "0600"):
            yield (
                f"{function} of DER {der}",
                lambda nss, function=function, der=der: getattr(nss, function)(
                    nss.SecItem(bytes.fromhex(der))
                ),
            )
        for other in (None, 1.5, b"cn", [1]):
            yield (
                f"{function} of {other!r}",
                lambda nss, function=function, other=other: getattr(nss, function)(other),
            )
    for reason in (*range(7), 1 << 40):
        for function in ("pk11_disabled_reason_name", "pk11_disabled_reason_str"):
            yield (
                f"{function} {reason}",
                lambda nss, function=function, reason=reason: getattr(nss, function)(reason),
            )
    for flags in (0, 1, 2, 3, 64, 960, 1023, 1024, 1025, -1):
        yield f"nss_init_flags {flags}", lambda nss, flags=flags: nss.nss_init_flags(flags)


def texts() -> Iterator[Case]:
    """Bytes and text."""
    for size in (0, 1, 2, 15, 16, 17, 33, 64):
        for octets in (-1, 0, 1, 5, 16, 100):
            for separator in (":", "", ", ", None):

                def hexes(
                    nss: Any, size: int = size, octets: int = octets, separator: Any = separator
                ) -> Any:
                    item = nss.SecItem(data(size))
                    return [
                        nss.data_to_hex(data(size), octets, separator),
                        nss.data_to_hex(item, octets_per_line=octets, separator=separator),
                        item.to_hex(octets, separator),
                        attempt(nss, item.der_to_hex, octets, separator),
                    ]

                yield f"hex {size} {octets} {separator!r}", hexes
        for chars in (0, 1, 5, 64, 76, 100):
            for pem in (None, "", "CERTIFICATE"):

                def armoured(nss: Any, size: int = size, chars: int = chars, pem: Any = pem) -> Any:
                    item = nss.SecItem(data(size))
                    return item.to_base64(chars) if pem is None else item.to_base64(chars, pem)

                yield f"base64 {size} {chars} {pem!r}", armoured

        def item(nss: Any, size: int = size) -> Any:
            one = nss.SecItem(data(size), 4)
            return [
                one.type,
                one.len,
                len(one),
                one.data.hex(),
                str(one),
                one.get_integer(),
                one.format(),
                one.format_lines(2),
                one.format(1, 3),
                attempt(nss, lambda: one[0]),
                attempt(nss, lambda: one[-1]),
                attempt(nss, lambda: one[size]),
                attempt(nss, lambda: one[1:5]),
                attempt(nss, lambda: one[::-3]),
                attempt(nss, lambda: one["x"]),
                attempt(nss, lambda: list(one)),
            ]

        yield f"SecItem {size}", item
    for one, other in (
        ("", ""),
        ("61", ""),
        ("61", "61"),
        ("61", "62"),
        ("6162", "61"),
        ("62", "6161"),
        ("61", "6162"),
    ):

        def compare(nss: Any, one: str = one, other: str = other) -> Any:
            left, right = nss.SecItem(bytes.fromhex(one)), nss.SecItem(bytes.fromhex(other))
            return [
                left == right,
                left != right,
                left < right,
                left <= right,
                left > right,
                left >= right,
            ]

        # Beyond the end of the shorter one python-nss compares what is not its own.
        if len(one) <= len(other):
            yield f"compare {one!r} {other!r}", compare
    yield "compare with bytes", lambda nss: nss.SecItem(b"a") == b"a"
    for der in ("", "02", "0201", "020105", "0481ff", "048101ff", "04820001ff", "30800000"):
        yield f"der {der}", lambda nss, der=der: nss.SecItem(bytes.fromhex(der)).der_to_hex()
    for arguments in (
        (),
        (None,),
        ("text",),
        ("\u20ac",),
        (b"x", 1),
        (b"x", 1, True),
        (1,),
        (b"x", "y"),
        (b"x", 1, 2, 3),
        ("YWJj", 0, True),
        ("YWJ", 0, True),
    ):
        yield (
            f"SecItem{arguments!r}",
            lambda nss, arguments=arguments: nss.SecItem(*arguments),
        )
    for options in (
        {"data": b"x", "type": 2},
        {"ascii": True},
        {"data": "YWJj", "ascii": True},
        {"nonsense": 1},
    ):
        yield f"SecItem({options!r})", lambda nss, options=options: nss.SecItem(**options)
    pem = "-----BEGIN X-----\nYWJj\n-----END X-----\n"
    for text in (
        "YWJj",
        "YWJj\n",
        " Y W J j ",
        "YWJ",
        "YQ==",
        "YQ=",
        "YQ",
        "",
        "====",
        "Y*Jj",
        "YWJjZA==YWJj",
        "YWJj YQ==",
        pem,
        "x" + pem,
        pem.replace("\n", "\r\n"),
        pem.replace("\n", "\r"),
        pem.replace("\n", ""),
        pem.partition("-----END")[0],
        "YW\u00e9j",
        "YWJj\0",
        "YQ==\n\n",
        "\tYQ\v=\f=",
    ):
        # A copy: python-nss writes into the text that it reads PEM from.
        yield (
            f"base64_to_binary {text!r}",
            lambda nss, text=text: nss.base64_to_binary((text + "x")[:-1]),
        )
        yield (
            f"SecItem of {text!r}",
            lambda nss, text=text: nss.SecItem((text + "x")[:-1], ascii=True),
        )
    for text in (
        "",
        "01",
        "0",
        "0123456789abcdef",
        "01:23:45",
        "01, 23, AB",
        "0x01, 0X02",
        "0x010x02",
        "01  02\t03\n04",
        "zz",
        "01 zz",
        "012",
        "01:2",
        ":",
        "0x",
        "0xg0",
        "e8:a7:7c",
        "01\r02",
        "\u0660\u0661",
        " 01",
    ):
        yield f"read_hex {text!r}", lambda nss, text=text: nss.read_hex(text)
        yield (
            f"read_hex {text!r} by -",
            lambda nss, text=text: nss.read_hex(text.replace(":", "-"), separators="-"),
        )
        yield f"read_hex {text!r} by none", lambda nss, text=text: nss.read_hex(text, "")
    for lines in (
        [],
        [(0,)],
        [(0, "a")],
        [(0, "a", "b")],
        [(0, "a:", "b"), (0, "long label:", "c"), (1, "x:", "y"), (0, "z")],
        [(0, "only"), (0, "a:", ""), (0, "b:", "c")],
        [(2, "\u20ac:", "x"), (2, "ee:", "y")],
        [(1, b"bytes:", b"x")],
        [("0", "a")],
        [(-1, "a")],
        [(0, 1)],
        [(0, "a", 1)],
        [()],
        [(0, "a", "b", "c")],
        ["a"],
        [(0, "", "value"), (0, "x:", "y")],
    ):
        for indent in (None, 0, 1, 4):

            def formatted(nss: Any, lines: Any = lines, indent: Any = indent) -> Any:
                if indent is None:
                    return nss.indented_format(lines)
                return nss.indented_format(lines, indent_len=indent)

            yield f"indented_format {lines!r} {indent}", formatted
    for level in (0, 2):
        for thing in ("a", b"a", 1, None, ["a", "b"], ("a", 2), [], 1.5):
            yield (
                f"make_line_fmt_tuples {level} {thing!r}",
                lambda nss, level=level, thing=thing: nss.make_line_fmt_tuples(level, thing),
            )

    def file(nss: Any, content: bytes, ascii: bool) -> Any:
        with tempfile.NamedTemporaryFile() as opened:
            opened.write(content)
            opened.flush()
            return [
                shown(nss, nss.read_der_from_file(opened.name, ascii)),
                shown(nss, nss.read_der_from_file(Path(opened.name).open("rb"), ascii=ascii)),
            ]

    yield "read_der_from_file", lambda nss: file(nss, b"\x02\x01\x05", False)
    yield "read_der_from_file PEM", lambda nss: file(nss, pem.encode(), True)
    yield "read_der_from_file bad", lambda nss: file(nss, b"*", True)
    yield "read_der_from_file of none", lambda nss: nss.read_der_from_file("/nonexistent")
    yield "read_der_from_file of 1", lambda nss: nss.read_der_from_file(1)


def slots() -> Iterator[Case]:
    methods = [
        "is_hw",
        "is_present",
        "is_read_only",
        "is_internal",
        "need_login",
        "need_user_init",
        "is_friendly",
        "is_removable",
        "is_logged_in",
        "has_protected_authentication_path",
        "is_disabled",
        "has_root_certs",
        "get_disabled_reason",
        "authenticate",
        "get_best_wrap_mechanism",
        "logout",
    ]
    for getter in ("get_internal_slot", "get_internal_key_slot"):
        for method in methods:
            yield (
                f"{getter} {method}",
                lambda nss, getter=getter, method=method: getattr(getattr(nss, getter)(), method)(),
            )
            yield (
                f"{getter} {method} misused",
                lambda nss, getter=getter, method=method: getattr(getattr(nss, getter)(), method)(
                    1, 2
                ),
            )
        for call in ("user_disable", "user_enable"):

            def switched(nss: Any, getter: str = getter, call: str = call) -> Any:
                slot = getattr(nss, getter)()
                results = [attempt(nss, slot.user_disable)]
                results += [slot.is_disabled(), slot.get_disabled_reason(), slot.is_present()]
                if call == "user_enable":
                    results += [attempt(nss, slot.user_enable), slot.is_disabled()]
                    results += [slot.get_disabled_reason(), slot.is_present()]
                    results += [attempt(nss, slot.user_enable)]
                else:
                    results += [attempt(nss, slot.user_disable)]
                slot.user_enable()
                return results

            yield f"{getter} {call}", switched

        def lines(nss: Any, getter: str = getter) -> Any:
            slot = getattr(nss, getter)()
            text = slot.format(1, 2)
            return [text.split("\n")[2:], slot.format_lines(3)[2:], str(slot).split("\n")[2:]]

        yield f"{getter} lines", lines
    for name in (
        "AES_CBC",
        "AES_CBC_PAD",
        "AES_ECB",
        "DES3_CBC",
        "SHA256",
        "MD5",
        "SHA_1_HMAC",
        "DES_CBC",
        "AES_KEY_GEN",
        "SHA256_KEY_DERIVATION",
        "IDEA_CBC",
        "CAST_CBC",
        "RC5_CBC",
        "BATON_CBC128",
        "RIPEMD160",
    ):

        def best(nss: Any, name: str = name) -> Any:
            slot = nss.get_best_slot(mechanism(nss, name), "user", "data")
            return [type(slot).__name__, slot.is_present()]

        yield f"get_best_slot {name}", best
    yield "get_all_tokens", lambda nss: len(nss.get_all_tokens())
    yield "get_all_tokens of none", lambda nss: len(nss.get_all_tokens(pin_args=(1, 2)))
    yield "get_all_tokens by 1", lambda nss: nss.get_all_tokens(pin_args=1)
    yield "find_slot_by_name", lambda nss: nss.find_slot_by_name("nonsense")
    for name in ("NSS Generic Crypto Services", "NSS Certificate DB"):
        yield (
            f"find_slot_by_name {name}",
            lambda nss, name=name: type(nss.find_slot_by_name(name)).__name__,
        )
    yield "need_pw_init", lambda nss: nss.need_pw_init()
    yield "is_fips", lambda nss: nss.is_fips()
    yield "pk11_logout_all", lambda nss: nss.pk11_logout_all()
    for size in (0, 1, 16, 1000):
        yield (
            f"generate_random {size}",
            lambda nss, size=size: [
                len(nss.generate_random(size)),
                size > 8 and nss.generate_random(size) == nss.generate_random(size),
            ],
        )


def misuse() -> Iterator[Case]:
    """Every function with arguments of every wrong kind."""
    functions = [
        "nss_init_nodb",
        "nss_shutdown_context",
        "nss_init",
        "nss_init_read_write",
        "nss_initialize",
        "nss_init_context",
        "nss_get_version",
        "nss_version_check",
        "nss_is_initialized",
        "set_shutdown_callback",
        "set_password_callback",
        "nss_init_flags",
        "get_best_slot",
        "get_internal_slot",
        "get_internal_key_slot",
        "find_slot_by_name",
        "need_pw_init",
        "is_fips",
        "import_sym_key",
        "create_context_by_sym_key",
        "create_digest_context",
        "param_from_iv",
        "generate_new_param",
        "get_iv_length",
        "get_block_size",
        "get_pad_mechanism",
        "algtag_to_mechanism",
        "mechanism_to_algtag",
        "key_mechanism_type_name",
        "pk11_attribute_type_name",
        "hash_buf",
        "md5_digest",
        "sha1_digest",
        "sha256_digest",
        "sha512_digest",
        "generate_random",
        "data_to_hex",
        "read_hex",
        "base64_to_binary",
        "indented_format",
        "make_line_fmt_tuples",
        "oid_str",
        "oid_tag",
        "oid_tag_name",
        "oid_dotted_decimal",
        "pk11_disabled_reason_name",
        "pk11_disabled_reason_str",
        "pk11_logout_all",
        "get_all_tokens",
        "read_der_from_file",
    ]
    wrongs: tuple[tuple[Any, ...], ...] = (
        (),
        ("text",),
        (1.5,),
        (None,),
        ([],),
        (b"bytes",),
        (1, 2),
        (1, "two", 3),
        (1, 2, 3, 4, 5, 6, 7, 8),
        ("nul\0",),
        (1 << 70,),
        (-(1 << 70),),
        (1 << 31,),
        (True, None),
        (b"", 1 << 31),
    )
    harmful = {
        "nss_init_nodb",
        "nss_init",
        "nss_init_read_write",
        "nss_initialize",
        "nss_init_context",
        "set_shutdown_callback",
        "set_password_callback",
    }
    for function in functions:
        for arguments in wrongs:
            if function in harmful and arguments in ((), ("text",), (None,)):
                continue
            # Of what needs a slot's or context's memory, and of a random number of bytes.
            if function in {"generate_random"} and arguments in ((1 << 31,),):
                continue
            yield (
                f"{function}{arguments!r}",
                lambda nss, function=function, arguments=arguments: getattr(nss, function)(
                    *arguments
                ),
            )
        for options in ({"nonsense": 1}, {"mechanism": "x"}, {"data": 1, "separator": 2}):
            yield (
                f"{function}(**{options!r})",
                lambda nss, function=function, options=options: getattr(nss, function)(**options),
            )
    for method in (
        "cipher_op",
        "digest_op",
        "digest_key",
        "clone_context",
        "digest_begin",
        "digest_final",
        "finalize",
    ):
        for arguments in wrongs:
            # What is right, and whose result is random or was asked above.
            if not arguments:
                continue

            def call(nss: Any, method: str = method, arguments: Any = arguments) -> Any:
                running = nss.create_digest_context(nss.SEC_OID_SHA256)
                return getattr(running, method)(*arguments)

            yield f"PK11Context.{method}{arguments!r}", call
        yield (
            f"PK11Context.{method}(**)",
            lambda nss, method=method: getattr(
                nss.create_digest_context(nss.SEC_OID_SHA256), method
            )(nonsense=1),
        )
    for method in ("derive", "wrap_sym_key", "unwrap_sym_key", "format", "format_lines"):
        for arguments in wrongs:
            if method.startswith("format") and not arguments:
                continue

            def key_call(nss: Any, method: str = method, arguments: Any = arguments) -> Any:
                key = imported(nss, "AES_CBC", data(16))
                found = getattr(key, method)(*arguments)
                return found[:3]

            yield f"PK11SymKey.{method}{arguments!r}", key_call
    for attribute in ("key_data", "key_length", "mechanism", "slot"):

        def assign(nss: Any, attribute: str = attribute) -> Any:
            setattr(imported(nss, "AES_CBC", data(16)), attribute, 1)

        yield f"PK11SymKey.{attribute} = 1", assign
    for method in (
        "key_gen",
        "get_best_key_length",
        "check_user_passwd",
        "check_security_officer_passwd",
    ):
        for arguments in wrongs:
            yield (
                f"PK11Slot.{method}{arguments!r}",
                lambda nss, method=method, arguments=arguments: getattr(
                    nss.get_internal_slot(), method
                )(*arguments),
            )
    for method in ("to_hex", "to_base64", "der_to_hex", "format", "format_lines", "get_integer"):
        for arguments in wrongs:
            yield (
                f"SecItem.{method}{arguments!r}",
                lambda nss, method=method, arguments=arguments: getattr(
                    nss.SecItem(data(40)), method
                )(*arguments),
            )
    for arguments in wrongs:
        yield f"new SecItem{arguments!r}", lambda nss, arguments=arguments: nss.SecItem(*arguments)
        yield (
            f"InitParameters{arguments!r}",
            lambda nss, arguments=arguments: str(nss.InitParameters(*arguments)),
        )


def errors() -> Iterator[Case]:
    def error(nss: Any) -> Any:
        return importlib.import_module(f"{nss.__name__.replace('nss.nss', 'nss')}.error")

    for arguments in ((None, -8152), ("why", -8152), ("why", 12345), (None, 0), (None, -8127)):

        def made(nss: Any, arguments: Any = arguments) -> Any:
            one = error(nss).NSPRError(*arguments)
            return [
                str(one),
                one.errno,
                one.error_code,
                one.strerror,
                one.error_desc,
                one.error_message,
                one.args,
                isinstance(one, OSError),
                [each.__name__ for each in type(one).__mro__],
            ]

        yield f"NSPRError{arguments!r}", made
    yield (
        "error constants",
        lambda nss: [[name, getattr(error(nss), name)] for name in ERRORS],
    )
    for number in (-8152, -8127, 12345):
        yield (
            f"get_nspr_error_string {number}",
            lambda nss, number=number: error(nss).get_nspr_error_string(number),
        )


def lives() -> Iterator[Case]:
    """Starting and ending; each begins started, and is started again afterwards."""

    def ended(nss: Any, *calls: Callable[[], Any]) -> Any:
        results = [attempt(nss, nss.nss_shutdown)]
        results += [attempt(nss, call) for call in calls]
        nss.nss_init_nodb()
        return results

    yield "start twice", lambda nss: [nss.nss_init_nodb(), nss.nss_is_initialized()]
    yield (
        "shut down twice",
        lambda nss: ended(nss, nss.nss_is_initialized, nss.nss_shutdown, nss.nss_is_initialized),
    )
    for name, arguments in (
        ("get_best_slot", (0x1082,)),
        ("get_all_tokens", ()),
        ("find_slot_by_name", ("NSS Certificate DB",)),
        ("sha1_digest", (b"x",)),
        ("hash_buf", (191, b"x")),
        ("hash_buf", (183, b"x")),
        ("create_digest_context", (191,)),
        ("generate_random", (4,)),
        ("generate_random", (0,)),
        ("generate_random", (-1,)),
        ("get_iv_length", (0x1082,)),
        ("param_from_iv", (0x1082, None)),
        ("generate_new_param", (0x1082,)),
        ("nss_version_check", ("3.10",)),
        ("oid_str", (191,)),
        ("need_pw_init", ()),
        ("is_fips", ()),
        ("get_internal_slot", ()),
        ("get_internal_key_slot", ()),
        ("pk11_logout_all", ()),
        ("data_to_hex", (b"x",)),
        ("key_mechanism_type_name", (0x1082,)),
    ):
        yield (
            f"ended, {name}{arguments!r}",
            lambda nss, name=name, arguments=arguments: ended(
                nss, lambda: getattr(nss, name)(*arguments)
            ),
        )
    for name in ("nss_init", "nss_init_read_write", "nss_initialize", "nss_init_context"):
        for directory in ("/nonexistent", "sql:/nonexistent", "", "/etc/passwd"):

            def directed(nss: Any, name: str = name, directory: str = directory) -> Any:
                nss.nss_shutdown()
                try:
                    made = getattr(nss, name)(directory)
                    results = [type(made).__name__, nss.nss_is_initialized()]
                    del made
                except Exception as error:
                    results = [failure(error), nss.nss_is_initialized()]
                finally:
                    nss.nss_init_nodb()
                return results

            yield f"{name}({directory!r})", directed

        def empty(nss: Any, name: str = name) -> Any:
            nss.nss_shutdown()
            with tempfile.TemporaryDirectory() as directory:
                try:
                    made = getattr(nss, name)(f"sql:{directory}")
                    results = [type(made).__name__, nss.nss_is_initialized()]
                    del made
                except Exception as error:
                    results = [failure(error), nss.nss_is_initialized()]
                finally:
                    nss.nss_init_nodb()
            return results

        yield f"{name} of an empty directory", empty
    for flags in (0, 1, 2, 4, 6, 8, 9, 0x3C0, 0x3C7):
        for directory in ("/nonexistent", ""):

            def flagged(nss: Any, flags: int = flags, directory: str = directory) -> Any:
                nss.nss_shutdown()
                try:
                    nss.nss_initialize(directory, flags=flags)
                    results = [nss.nss_is_initialized()]
                except Exception as error:
                    results = [failure(error), nss.nss_is_initialized()]
                finally:
                    nss.nss_init_nodb()
                return results

            yield f"nss_initialize({directory!r}, flags={flags})", flagged

    def contexts(nss: Any) -> Any:
        nss.nss_shutdown()
        results = [nss.nss_is_initialized()]
        one = nss.nss_init_context("", "", "", "", nss.InitParameters(), 7)
        results.append(nss.nss_is_initialized())
        other = nss.nss_init_context("", "", "", "", flags=7)
        results += [attempt(nss, one.shutdown), nss.nss_is_initialized()]
        results += [attempt(nss, one.shutdown), nss.nss_is_initialized()]
        results += [attempt(nss, nss.nss_shutdown), nss.nss_is_initialized()]
        results += [attempt(nss, nss.nss_shutdown_context, other), nss.nss_is_initialized()]
        nss.nss_init_nodb()
        return results

    yield "contexts", contexts

    def forgotten(nss: Any) -> Any:
        nss.nss_shutdown()
        one = nss.nss_init_context("", "", "", "", flags=7)
        results = [nss.nss_is_initialized()]
        del one
        results.append(nss.nss_is_initialized())
        nss.nss_init_nodb()
        return results

    yield "a context that is forgotten", forgotten

    def called_back(nss: Any, answer: Any, again: Any = None) -> Any:
        seen: list[Any] = []

        def callback(*arguments: Any) -> Any:
            seen.append([shown(nss, each) if each != {} else "{}" for each in arguments])
            if answer == "raise":
                raise ValueError("no")
            return answer

        nss.set_shutdown_callback(callback, 1, "two")
        if again == "none":
            nss.set_shutdown_callback(None)
        elif again == "twice":
            nss.set_shutdown_callback(callback, 3)
        results = ended(nss)
        results += ended(nss)
        return [results, seen]

    for answer in (True, False, 1, None):
        yield f"a callback that says {answer}", lambda nss, answer=answer: called_back(nss, answer)
    yield "a callback that is taken back", lambda nss: called_back(nss, True, "none")
    yield "two callbacks", lambda nss: called_back(nss, True, "twice")
    yield "a callback that is none", lambda nss: nss.set_shutdown_callback(1)
    yield "a password that is none", lambda nss: nss.set_password_callback(None)
    yield "a password callback", lambda nss: nss.set_password_callback(lambda *arguments: None)
    for version in (
        "3.87.1",
        "3.87",
        "3.0",
        "3",
        "2.9",
        "4.0",
        "3.88",
        "3.87.2",
        "",
        "x",
        "3.x",
        "3.87.1.1",
        "3.90",
        "3.12.4 Beta",
        "99",
    ):
        yield (
            f"nss_version_check {version!r}",
            lambda nss, version=version: nss.nss_version_check(version),
        )
    for field, value in (
        ("password_required", "x"),
        ("min_password_len", 7),
        ("min_password_len", "7"),
        ("manufacturer_id", "me"),
        ("manufacturer_id", 1),
        ("db_slot_description", "\u20ac"),
    ):

        def parameter(nss: Any, field: str = field, value: Any = value) -> Any:
            given = nss.InitParameters(**{field: value})
            return [getattr(given, field), str(given), given.format(), given.format_lines(1)]

        yield f"InitParameters({field}={value!r})", parameter


def pairs() -> Iterator[Case]:
    def made(nss: Any, *arguments: Any) -> Any:
        slot = nss.get_internal_slot()
        return slot.generate_key_pair(nss.CKM_RSA_PKCS_KEY_PAIR_GEN, *arguments)

    def shape(nss: Any) -> Any:
        public, private = made(nss, nss.RSAGenParams(2048), False, False)
        size = public.rsa.modulus.len
        key = imported(nss, "AES_CBC", data(16))
        return [
            type(public).__name__,
            type(private).__name__,
            public.key_type,
            public.key_type_str,
            attempt(nss, lambda: public.dsa),
            shown(nss, public.rsa.exponent),
            public.rsa.modulus.type,
            size,
            public.format().split("\n")[:2],
            public.format(1, 2).split("\n")[-2:],
            public.format_lines(2)[-2:],
            str(public.rsa).split("\n")[-2:],
            nss.pub_wrap_sym_key(nss.CKM_RSA_PKCS, public, key).len,
            attempt(nss, nss.pub_wrap_sym_key, nss.CKM_RSA_PKCS, private, key),
            attempt(nss, nss.pub_wrap_sym_key, nss.CKM_RSA_PKCS, public, public),
        ]

    yield "a pair", shape
    yield "a pair of None", lambda nss: made(nss, None, False, False)
    yield "a pair of text", lambda nss: made(nss, "2048", 0, 0)
    yield "a pair that stays", lambda nss: made(nss, nss.RSAGenParams(2048), True, False)
    for size in (0, -1, 100):
        yield (
            f"a pair of {size} bits",
            lambda nss, size=size: made(nss, nss.RSAGenParams(size), False, False),
        )
    for arguments in (
        (),
        (1,),
        (1, 2, 3),
        ("x", None, 0, 0),
        (1, None, "x", 0),
        (1, 2, 3, 4),
        (0x1082, None, 0, 0),
    ):
        yield (
            f"generate_key_pair{arguments!r}",
            lambda nss, arguments=arguments: nss.get_internal_slot().generate_key_pair(*arguments),
        )
    for arguments in ((), (2048,), (2048, 3), ("x",), (None,), (1, 2, 3), (1 << 40,), (1, "x")):
        yield (
            f"RSAGenParams{arguments!r}",
            lambda nss, arguments=arguments: [
                str(nss.RSAGenParams(*arguments)),
                nss.RSAGenParams(*arguments).key_size,
            ],
        )
    yield "RSAGenParams by name", lambda nss: str(nss.RSAGenParams(key_size=4096, exponent=17))
    for field in ("key_size", "public_exponent"):
        for value in (17, "x", None):

            def assigned(nss: Any, field: str = field, value: Any = value) -> Any:
                params = nss.RSAGenParams()
                setattr(params, field, value)
                return str(params)

            yield f"RSAGenParams.{field} = {value!r}", assigned
    for arguments in ((), (1, 2), (1, 2, 3), ("x", 2, 3), (1, 2, 3, 4)):
        yield (
            f"pub_wrap_sym_key{arguments!r}",
            lambda nss, arguments=arguments: nss.pub_wrap_sym_key(*arguments),
        )


def passwords() -> Iterator[Case]:
    asked: tuple[dict[str, Any], ...] = (
        {},
        {"iterations": 1},
        {"iterations": 127},
        {"iterations": 128},
        {"iterations": 1000},
        {"iterations": 0},
        {"iterations": -1},
        *({"key_length": size} for size in (1, 5, 16, 24, 32, 64, 200)),
        *({"cipher_alg": tag} for tag in (4, 7, 10, 183, 184, 186, 187, 188, 191, 294, 296, 298)),
        {"cipher_alg": "sec_oid_aes_192_cbc"},
        {"cipher_alg": "AES_128_CBC"},
        {"cipher_alg": "OID.2.16.840.1.101.3.4.1.2"},
        {"cipher_alg": "nonsense"},
        *({"prf_alg": tag} for tag in (191, 294, 295, 296, 297, 298)),
        {"prf_alg": "HMAC_SHA512"},
        *({"pbe_alg": tag} for tag in (4, 291, 292, 293)),
        {"pbe_alg": 293, "cipher_alg": 296},
        {"salt": b""},
        {"salt": bytes(200)},
        {"salt": "text"},
        {"salt": 1},
        {"nonsense": 1},
        {"iterations": "1"},
        {"cipher_alg": None},
    )
    for options in asked:
        for password in ("password", "", "\u20ac", "long" * 40) if not options else ("password",):

            def key(nss: Any, options: Any = options, password: str = password) -> Any:
                made = nss.create_pbev2_algorithm_id(**{"salt": b"saltsalt", **options})
                iv = attempt(nss, made.get_pbe_iv, password)
                random = made.get_pbe_iv(password).len if iv[0] == "SecItem" else 0
                written = made.parameters.data
                key = attempt(nss, nss.get_internal_slot().pbe_key_gen, made, password)
                results = [
                    made.id_tag,
                    made.id_str,
                    made.id_oid.data.hex(),
                    written[: len(written) - random].hex(),
                    key,
                    [line for line in made.format().split("\n") if re.search("[g-z]", line)],
                    [line[0] for line in made.format_lines(2)],
                ]
                if key[0] == "key":
                    found = nss.get_internal_slot().pbe_key_gen(made, password)
                    for padded in (True, False):
                        got = attempt(nss, made.get_pbe_crypto_mechanism, found, padded)
                        results.append([got[1], got[2][2]] if got[0] == "tuple" else got)
                return results

            yield f"password {password[:10]!r} {options!r}", key

    def whole(nss: Any) -> Any:
        made = nss.create_pbev2_algorithm_id(salt=nss.SecItem(b"saltsalt"), iterations=1000)
        key = nss.get_internal_slot().pbe_key_gen(made, "password", "user data")
        number, param = made.get_pbe_crypto_mechanism(key)
        box = nss.create_context_by_sym_key(number, nss.CKA_ENCRYPT, key, param)
        sealed = box.cipher_op(b"hello") + box.digest_final()
        opening = nss.create_context_by_sym_key(number, nss.CKA_DECRYPT, key, param)
        return [opening.cipher_op(sealed), opening.digest_final()]

    yield "with a password's key", whole
    for function in ("create_pbev2_algorithm_id", "param_from_algid"):
        for arguments in ((1, 2, 3), ("x",), (1.5,), (None,), (1, 2, 3, 4, 5, 6, 7, 8)):
            yield (
                f"{function}{arguments!r}",
                lambda nss, function=function, arguments=arguments: getattr(nss, function)(
                    *arguments
                ),
            )
    yield "param_from_algid", lambda nss: nss.param_from_algid(nss.create_pbev2_algorithm_id())
    for arguments in ((), (1,), (1, "x"), (None, "x")):
        yield (
            f"pbe_key_gen{arguments!r}",
            lambda nss, arguments=arguments: nss.get_internal_slot().pbe_key_gen(*arguments),
        )
    for arguments in ((), (1,), (None, True)):
        yield (
            f"get_pbe_crypto_mechanism{arguments!r}",
            lambda nss, arguments=arguments: nss.create_pbev2_algorithm_id(
                salt=b"x"
            ).get_pbe_crypto_mechanism(*arguments),
        )


#: The names of python-nss's constants, which its side fills in.
NAMES: list[str] = []
CONSTANTS: list[str] = []
ERRORS: list[str] = []


def names_of(nss: Any, error: Any) -> dict[str, list[str]]:
    """The constants of a module, by kind."""
    listed = [name for name in dir(nss) if isinstance(getattr(nss, name), (int, str))]
    return {
        "NAMES": [name for name in listed if name.startswith("CKM_")],
        "CONSTANTS": [name for name in listed if not name.startswith("__")],
        "ERRORS": [name for name in dir(error) if isinstance(getattr(error, name), int)],
    }


def cases() -> list[Case]:
    """All of them, in order."""
    groups = (
        texts,
        numbers,
        errors,
        parameters,
        slots,
        digests,
        macs,
        ciphers,
        rights,
        keys,
        pairs,
        passwords,
        misuse,
        lives,
    )
    return [case for group in groups for case in group()]


def main() -> None:
    module, first, names = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    nss = importlib.import_module(module)
    if not names:
        print(json.dumps(names_of(nss, importlib.import_module("nss.error"))))
        return
    for kind, listed in names.items():
        globals()[kind].extend(listed)
    nss.nss_init_nodb()
    for name, ask in cases()[first:]:
        try:
            outcome = shown(nss, ask(nss))
        except Exception as error:
            outcome = failure(error)
        # Left over from a case that failed half-way.
        if not nss.nss_is_initialized():
            nss.nss_init_nodb()
        print(json.dumps([name, outcome]), flush=True)


if __name__ == "__main__":
    main()
