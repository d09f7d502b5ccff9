"""What others answer to the same question: hashlib, hmac and PyCA, under the table's names."""

from __future__ import annotations

import hashlib
import hmac
import random
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import cmac, hashes, keywrap, poly1305
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import (
    AESCCM,
    AESGCM,
    AESGCMSIV,
    ChaCha20Poly1305,
)
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

import cryptofd

#: Pairs of keys are another matter: pairs.py.
TABLE = {a.name: a for a in cryptofd.algorithms() if a.kind != "pair"}


@dataclass
class Case:
    """One question: what to open, what to ask."""

    algorithm: str
    key: bytes | None = None
    options: dict[str, Any] = field(default_factory=dict)
    iv: bytes | None = None
    aad: bytes | None = None
    data: bytes = b""
    #: Of shake and random bytes; and derive()'s.
    length: int | None = None
    derive: dict[str, Any] = field(default_factory=dict)

    def answer(self, engine: str | None = None) -> bytes:
        """What cryptofd says; a cipher's and an AEAD's way back is checked on the way."""
        kind = TABLE[self.algorithm].kind
        with cryptofd.open(self.algorithm, key=self.key, engine=engine, **self.options) as fd:
            if kind in {"hash", "xof", "mac"}:
                fd.update(self.data)
                return fd.digest(self.length)
            if kind == "wrap":
                wrapped = fd.wrap(self.data)
                assert fd.unwrap(wrapped) == self.data
                return wrapped
            if kind == "kdf":
                assert self.length is not None
                return fd.derive(self.length, **self.derive)
            box = fd.encrypt(self.data, iv=self.iv, aad=self.aad)
            assert fd.decrypt(box, iv=self.iv, aad=self.aad) == self.data
            return box


def hash_name(name: str) -> str:
    """hashlib's name of the table's hash."""
    return str(TABLE[name].names["hashlib"])


def _pyca_hash(name: str) -> hashes.HashAlgorithm | None:
    known = {
        "md5": hashes.MD5,
        "sha1": hashes.SHA1,
        "sha224": hashes.SHA224,
        "sha256": hashes.SHA256,
        "sha384": hashes.SHA384,
        "sha512": hashes.SHA512,
        "sha512/256": hashes.SHA512_256,
        "sha3-224": hashes.SHA3_224,
        "sha3-256": hashes.SHA3_256,
        "sha3-384": hashes.SHA3_384,
        "sha3-512": hashes.SHA3_512,
        "sm3": hashes.SM3,
    }
    return known[name]() if name in known else None


def _once(cipher: Cipher[Any], data: bytes) -> bytes:
    context = cipher.encryptor()
    return context.update(data) + context.finalize()


def _pad(case: Case) -> bytes:
    if case.options.get("padding") != "pkcs7":
        return case.data
    block = TABLE[case.algorithm].block_size
    filler = block - len(case.data) % block
    return case.data + bytes([filler]) * filler


def reference(case: Case) -> bytes | None:
    """The same answer by others; None where none of them has the algorithm or the size."""
    name, kind = case.algorithm, TABLE[case.algorithm].kind
    inner = name[name.find("(") + 1 : -1] if "(" in name else name
    key, iv, aad = case.key or b"", case.iv or b"", case.aad or b""
    tag = case.options.get("tag_size")
    if kind == "hash" and name.startswith("blake2"):
        options = dict(case.options)
        return getattr(hashlib, name)(case.data, key=key, **options).digest()  # type: ignore[no-any-return]
    if kind == "hash":
        if name == "sm3":
            context = hashes.Hash(hashes.SM3())
            context.update(case.data)
            return context.finalize()
        return hashlib.new(hash_name(name), case.data).digest()
    if kind == "xof":
        return getattr(hashlib, hash_name(name))(case.data).digest(case.length)  # type: ignore[no-any-return]
    if name.startswith("hmac("):
        if inner == "sm3":
            return None
        return hmac.digest(key, case.data, hash_name(inner))[: tag or 64]
    if name == "cmac(aes)":
        mac = cmac.CMAC(algorithms.AES(key))
        mac.update(case.data)
        return mac.finalize()[: tag or 16]
    if name == "gmac(aes)":
        iv = case.options["iv"]
        return AESGCM(key).encrypt(iv, b"", case.data)[: tag or 16] if 8 <= len(iv) <= 128 else None
    if name == "poly1305":
        return poly1305.Poly1305.generate_tag(key, case.data)
    if kind == "cipher":
        chosen: dict[str, Any] = {
            "ecb(aes)": lambda: Cipher(algorithms.AES(key), modes.ECB()),
            "cbc(aes)": lambda: Cipher(algorithms.AES(key), modes.CBC(iv)),
            "ctr(aes)": lambda: Cipher(algorithms.AES(key), modes.CTR(iv)),
            "xts(aes)": lambda: Cipher(algorithms.AES(key), modes.XTS(iv)),
            "chacha20": lambda: Cipher(algorithms.ChaCha20(key, iv), None),
        }
        if name in {"cfb(aes)", "cbc(des3_ede)"}:
            from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
            from cryptography.hazmat.decrepit.ciphers.modes import CFB

            chosen["cfb(aes)"] = lambda: Cipher(algorithms.AES(key), CFB(iv))
            chosen["cbc(des3_ede)"] = lambda: Cipher(TripleDES(key), modes.CBC(iv))
        return _once(chosen[name](), _pad(case))
    if name == "gcm(aes)":
        if not 8 <= len(iv) <= 128:
            return None
        box = AESGCM(key).encrypt(iv, case.data, aad)
        return box[: len(case.data) + (tag or 16)]
    if name == "ccm(aes)":
        # Nonce and length share 15 bytes: PyCA raises ValueError, the engines TooLarge.
        if len(case.data) >> (8 * (15 - len(iv))):
            return None
        return AESCCM(key, tag or 16).encrypt(iv, case.data, aad)
    if name == "rfc7539(chacha20,poly1305)":
        return ChaCha20Poly1305(key).encrypt(iv, case.data, aad)
    if name == "gcm-siv(aes)":
        # PyCA refuses an empty message.
        return AESGCMSIV(key).encrypt(iv, case.data, aad) if case.data else None
    if name == "kw(aes)":
        return keywrap.aes_key_wrap(key, case.data)
    if name == "kwp(aes)":
        return keywrap.aes_key_wrap_with_padding(key, case.data)
    length, with_ = case.length or 0, case.derive
    if name.startswith("hkdf("):
        algorithm = _pyca_hash(inner)
        if algorithm is None:
            return None
        return HKDF(algorithm, length, with_.get("salt"), with_.get("info")).derive(key)
    if name.startswith("pbkdf2("):
        if "sm3" in inner:
            return None
        return hashlib.pbkdf2_hmac(
            hash_name(inner[5:-1]), key, with_["salt"], with_["iterations"], length
        )
    if name == "scrypt":
        return hashlib.scrypt(key, dklen=length, **with_)
    if name.startswith("kdf108-ctr("):
        algorithm = _pyca_hash(inner[5:-1])
        if algorithm is None:
            return None
        return KBKDFHMAC(
            algorithm, Mode.CounterMode, length, 4, None, CounterLocation.BeforeFixed,
            None, None, with_["info"],
        ).derive(key)  # fmt: skip
    return None


def random_key(algorithm: str, generator: random.Random) -> bytes | None:
    """A key of a random size that the table allows, not longer than 200 bytes."""
    sizes = TABLE[algorithm].key
    if sizes is None:
        return None
    most = min(sizes.max, 200)
    return generator.randbytes(generator.randrange(sizes.min, most + 1, sizes.step))


def random_case(algorithm: str, generator: random.Random, largest: int = 5000) -> Case:
    """A random question about an algorithm; sizes near limits and blocks come more often."""
    entry = TABLE[algorithm]
    case = Case(algorithm, random_key(algorithm, generator))
    bits = generator.randint(0, largest.bit_length())
    size = min(
        largest, generator.choice([generator.getrandbits(bits), 16 * generator.randint(0, 9)])
    )
    if entry.kind in {"mac", "aead"} and entry.tag_sizes and generator.random() < 0.5:
        case.options["tag_size"] = generator.choice(entry.tag_sizes)
    if entry.iv:
        near = min(entry.iv.max, 128)
        iv = generator.randrange(max(entry.iv.min, 8 if near > 16 else 0), near + 1)
        case.iv = generator.randbytes(generator.choice([iv, entry.iv_default or iv]))
        if entry.kind == "mac":
            case.options["iv"], case.iv = case.iv, None
    if entry.kind == "aead":
        case.aad = generator.randbytes(generator.choice([0, 1, 13, 16, 100]))
    if entry.kind == "cipher":
        if algorithm.startswith("cbc") and generator.random() < 0.5:
            case.options["padding"] = "pkcs7"
        elif algorithm == "xts(aes)":
            size = max(size, 16)
        elif not algorithm.startswith(("ctr", "cfb", "chacha20")):
            size -= size % entry.block_size
    if entry.kind == "wrap":
        size = min(size, 300)
        size = max(16, size - size % 8) if algorithm == "kw(aes)" else max(1, size)
    if entry.kind == "xof":
        case.length = generator.choice([0, 1, 32, 500])
    if algorithm.startswith("blake2"):
        case.options = {
            "digest_size": generator.randint(1, entry.digest_size),
            "salt": generator.randbytes(generator.randint(0, entry.digest_size // 4)),
            "person": generator.randbytes(generator.randint(0, entry.digest_size // 4)),
        }
    if entry.kind == "kdf":
        size = 0
        case.length = generator.choice([1, 16, 31, 64, 100])
        salt = generator.randbytes(generator.choice([0, 8, 16, 70]))
        if algorithm.startswith("hkdf"):
            case.derive = {"salt": salt, "info": generator.randbytes(generator.randint(0, 40))}
        elif algorithm.startswith("pbkdf2"):
            case.derive = {"salt": salt, "iterations": generator.randint(1, 20)}
        elif algorithm == "scrypt":
            costs = generator.choice([(2, 1, 1), (16, 3, 2), (64, 8, 1)])
            case.derive = {"salt": salt, **dict(zip("nrp", costs, strict=True))}
        else:
            case.derive = {"info": generator.randbytes(generator.randint(1, 60))}
    case.data = generator.randbytes(size)
    return case
