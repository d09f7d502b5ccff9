"""A program: keys of the broker's by reference, call for call the same as the default provider's
with the bytes; what is asked for is named on the command line."""

from __future__ import annotations

import ctypes
import os
import random
import sys
from collections.abc import Callable
from typing import Any

from libcrypto import (
    GET_TAG,
    NUMBER,
    OCTETS,
    POINTER,
    SET_IVLEN,
    SET_TAG,
    SIZE,
    Cipher,
    cipher_fetch,
    cipher_init,
    cipher_padding,
    clear_errors,
    crypto,
    function,
    last_error,
    params,
)
from secret_keys import KEYS

#: What finds ours in every profile.
OURS = "cryptofd.keys=yes"

mac_fetch = function("EVP_MAC_fetch", POINTER, ctypes.c_char_p, ctypes.c_char_p, result=POINTER)
mac_new = function("EVP_MAC_CTX_new", POINTER, result=POINTER)
mac_free = function("EVP_MAC_CTX_free", POINTER, result=None)
mac_dup = function("EVP_MAC_CTX_dup", POINTER, result=POINTER)
mac_init = function("EVP_MAC_init", POINTER, ctypes.c_char_p, SIZE, POINTER)
mac_set = function("EVP_MAC_CTX_set_params", POINTER, POINTER)
mac_update = function("EVP_MAC_update", POINTER, ctypes.c_char_p, SIZE)
mac_final = function("EVP_MAC_final", POINTER, POINTER, ctypes.POINTER(SIZE), SIZE)
mac_size = function("EVP_MAC_CTX_get_mac_size", POINTER, result=SIZE)


def reference(label: str) -> str:
    return f"cryptofd:{label}"


class Mac:
    """An EVP_MAC_CTX."""

    def __init__(self, name: str, query: str) -> None:
        self.mac = mac_fetch(None, name.encode(), query.encode())
        assert self.mac, (name, query)
        self.ctx = mac_new(self.mac)

    def __del__(self) -> None:
        mac_free(self.ctx)

    def init(self, key: bytes | None = None, **given: str | bytes) -> bool:
        return bool(mac_init(self.ctx, key, len(key or b""), params(**given)) > 0)

    def init_skey(self, key: Any, **given: str | bytes) -> bool:
        init = function("EVP_MAC_init_SKEY", POINTER, POINTER, POINTER)
        return bool(init(self.ctx, key, params(**given)) > 0)

    def update(self, data: bytes) -> bool:
        return bool(mac_update(self.ctx, data, len(data)) > 0)

    def final(self) -> bytes | None:
        out, size = ctypes.create_string_buffer(64), SIZE(0)
        done = mac_final(self.ctx, out, ctypes.byref(size), 64) > 0
        return out.raw[: size.value] if done else None

    def copied(self) -> Mac:
        copy = object.__new__(Mac)
        copy.mac, copy.ctx = self.mac, mac_dup(self.ctx)
        assert copy.ctx, last_error()
        return copy


def said(what: str, *words: str) -> None:
    """The last call failed, and said why."""
    why = last_error()
    clear_errors()
    for word in words:
        assert word in why, f"{what}: {why}"


def begun(label: str, name: str, iv: bytes | None, encrypt: int) -> tuple[Cipher, Cipher]:
    """Ours with the reference, the default provider's with the bytes."""
    ours, theirs = Cipher(None, name, OURS), Cipher(None, name, "default")
    assert ours.init(None, iv, encrypt, cryptofd_key=reference(label)), last_error()
    assert theirs.init(KEYS[label][1], iv, encrypt), last_error()
    return ours, theirs


PLAIN = {
    "cbc": "AES-256-CBC", "cbc128": "AES-128-CBC", "ecb": "AES-192-ECB", "ctr": "AES-256-CTR",
    "cfb": "AES-256-CFB",
}  # fmt: skip


def plain(rng: random.Random, rounds: int) -> None:
    """ECB, CBC, CTR, CFB in random pieces, with copies in the middle."""
    for _ in range(rounds):
        label, name = rng.choice(list(PLAIN.items()))
        encrypt = rng.randrange(2)
        iv = None if label == "ecb" else rng.randbytes(16)
        both = begun(label, name, iv, encrypt)
        if rng.randrange(2):
            for one in both:
                assert cipher_padding(one.ctx, 0) > 0
        for _ in range(rng.randrange(1, 6)):
            data = rng.randbytes(rng.choice((0, 1, 15, 16, 17, 64, 1000, 100_000)))
            place = bool(rng.randrange(2)) and label in ("ctr", "cfb")
            made = [one.update(data, in_place=place) for one in both]
            assert made[0] == made[1], (name, len(data), last_error())
            assert both[0].ivs() == both[1].ivs(), name
            if rng.randrange(3) == 0:
                both = both[0].copied(), both[1].copied()
        made = [one.final() for one in both]
        assert made[0] == made[1], (name, "final")
        clear_errors()


def units(rng: random.Random, rounds: int) -> None:
    """XTS."""
    for _ in range(rounds):
        both = begun("xts", "AES-256-XTS", rng.randbytes(16), rng.randrange(2))
        data = rng.randbytes(rng.randrange(16, 5000))
        assert both[0].update(data) == both[1].update(data)


AEADS = {"gcm": "AES-256-GCM", "chacha": "ChaCha20-Poly1305", "ccm": "AES-256-CCM",
         "siv": "AES-256-GCM-SIV"}  # fmt: skip


def prepared(
    one: Cipher, name: str, how: dict[str, str], key: bytes | None, iv: bytes, encrypt: int,
    length: int, aad: bytes, tag: bytes | None,
) -> None:  # fmt: skip
    """An AEAD in the order that all of them take."""
    assert one.init(None, None, encrypt), last_error()
    assert one.control(SET_IVLEN, len(iv)) is not None, last_error()
    if "CCM" in name or tag is not None:
        assert one.control(SET_TAG, 16, tag) is not None, last_error()
    assert one.init(key, iv, encrypt, **how), last_error()
    if "CCM" in name:
        assert one.update(bytes(length), length_only=True) is not None, last_error()
    if aad:
        assert one.update(aad, aad=True) is not None, last_error()


def aeads(rng: random.Random, rounds: int) -> None:
    # OpenSSL 3.0 has no GCM-SIV.
    known = [
        label for label, name in AEADS.items()
        if cipher_fetch(None, name.encode(), b"provider=default")
    ]  # fmt: skip
    clear_errors()
    for _ in range(rounds):
        label = rng.choice(known)
        name, key = AEADS[label], KEYS[label][1]
        iv, aad = rng.randbytes(12), rng.randbytes(rng.choice((0, 13, 200)))
        data = rng.randbytes(rng.choice((0, 1, 16, 333, 70_000)))
        if label in ("ccm", "siv") and not data:
            data = b"something"
        theirs = Cipher(None, name, "default")
        prepared(theirs, name, {}, key, iv, 1, len(data), aad, None)
        sealed = theirs.update(data)
        assert theirs.final() is not None
        tag = theirs.control(GET_TAG, 16, bytes(16))
        ours, how = Cipher(None, name, OURS), {"cryptofd_key": reference(label)}
        prepared(ours, name, how, None, iv, 1, len(data), aad, None)
        assert ours.update(data) == sealed, last_error()
        assert ours.final() == b"", last_error()
        assert ours.control(GET_TAG, 16, bytes(16)) == tag
        if label == "gcm":
            assert ours.control(GET_TAG, 12, bytes(12)) == (tag or b"")[:12]
        assert ours.update(b"more") is None
        said("another piece", "one piece")
        # Back, with the context that was used, and with a wrong tag.
        prepared(ours, name, {}, None, iv, 0, len(data), aad, tag)
        assert ours.update(sealed or b"") == data, last_error()
        assert ours.final() == b"", last_error()
        prepared(ours, name, {}, None, iv, 0, len(data), aad, bytes(16))
        assert (ours.update(sealed or b"") if data else ours.final()) is None
        said("a wrong tag", "the tag does not verify")


def chosen(rng: random.Random) -> None:
    """A worker's own IVs: who gives none gets one."""
    seen = set()
    ours = Cipher(None, "AES-256-GCM", OURS)
    for number in range(20):
        how = {} if number else {"cryptofd_key": reference("boxes")}
        assert ours.init(None, None, 1, **how), last_error()
        assert ours.update(b"aad", aad=True) is not None
        data = rng.randbytes(100)
        sealed = ours.update(data)
        assert ours.final() == b"", last_error()
        tag, iv = ours.control(GET_TAG, 16, bytes(16)), ours.ivs()[1][:12]
        seen.add(iv)
        theirs = Cipher(None, "AES-256-GCM", "default")
        prepared(theirs, "", {}, KEYS["boxes"][1], iv, 0, 0, b"aad", tag)
        assert theirs.update(sealed or b"") == data
        assert theirs.final() == b""
    assert len(seen) == 20
    assert ours.init(None, bytes(12), 1)
    assert ours.update(b"data") is None
    said("an iv of the caller's", "caller-iv")


def macs(rng: random.Random, rounds: int) -> None:
    over = {"hmac": ("HMAC", {"digest": "SHA256"}), "cmac": ("CMAC", {"cipher": "AES-256-CBC"}),
            "gcm": ("GMAC", {"cipher": "AES-256-GCM"})}  # fmt: skip
    for number in range(rounds):
        label = rng.choice(list(over))
        name, how = over[label]
        more: dict[str, str | bytes] = {"iv": rng.randbytes(12)} if label == "gcm" else {}
        theirs, ours = Mac(name, "provider=default"), Mac(name, OURS)
        assert theirs.init(KEYS[label][1], **how, **more), last_error()
        # The key says what it is for.
        named = how if number % 2 else {}
        assert ours.init(None, cryptofd_key=reference(label), **named, **more), last_error()
        assert mac_size(ours.ctx) == mac_size(theirs.ctx) or label == "cmac"
        for _ in range(rng.randrange(4)):
            data = rng.randbytes(rng.choice((0, 10, 5000, 70_000, 200_000)))
            assert theirs.update(data)
            assert ours.update(data), last_error()
            if rng.randrange(3) == 0:
                before = ours
                ours, theirs = ours.copied(), theirs.copied()
                assert before.update(b"another message"), last_error()
        assert ours.final() == theirs.final(), (name, last_error())
        if label != "gcm":
            # Again with the key that it has.
            for one in (theirs, ours):
                assert one.init(None, **({"digest": "SHA256"} if label == "hmac" else {}))
                assert one.update(b"once more")
            assert ours.final() == theirs.final()


def kdfs(rng: random.Random, rounds: int) -> None:
    fetch = function("EVP_KDF_fetch", POINTER, ctypes.c_char_p, ctypes.c_char_p, result=POINTER)
    new = function("EVP_KDF_CTX_new", POINTER, result=POINTER)
    dup = function("EVP_KDF_CTX_dup", POINTER, result=POINTER)
    free = function("EVP_KDF_CTX_free", POINTER, result=None)
    derive = function("EVP_KDF_derive", POINTER, POINTER, SIZE, POINTER)

    def made(context: Any, size: int, **given: str | bytes) -> bytes | None:
        out = ctypes.create_string_buffer(size)
        return out.raw if derive(context, out, size, params(**given)) > 0 else None

    for _ in range(rounds):
        label, name = rng.choice((("base", "HKDF"), ("counter", "KBKDF")))
        how: dict[str, str | bytes] = {"digest": "SHA256", "info": rng.randbytes(20)}
        if rng.randrange(2) or name == "KBKDF":
            how["salt"] = rng.randbytes(13)
        if name == "KBKDF":
            how |= {"mac": "HMAC", "mode": "counter"}
        size = rng.choice((1, 16, 32, 100, 500))
        theirs = new(fetch(None, name.encode(), b"provider=default"))
        ours = new(fetch(None, name.encode(), OURS.encode()))
        expected = made(theirs, size, key=KEYS[label][1], **how)
        assert expected is not None, last_error()
        assert made(ours, size, cryptofd_key=reference(label), **how) == expected, last_error()
        # OpenSSL 3.0's own have no copies.
        copy = dup(ours) if hasattr(crypto, "EVP_SKEY_import") else None
        assert copy is None or made(copy, size) == expected, last_error()
        if hasattr(crypto, "EVP_KDF_CTX_set_SKEY"):
            set_skey = function("EVP_KDF_CTX_set_SKEY", POINTER, POINTER, ctypes.c_char_p)
            for own in ({"cryptofd_key": reference(label)}, {"raw_bytes": KEYS[label][1]}):
                again = new(fetch(None, name.encode(), OURS.encode()))
                assert set_skey(again, skey("GENERIC-SECRET", **own), None) > 0, last_error()
                assert made(again, size, **how) == expected, last_error()
                free(again)
        for context in (ours, theirs, copy):
            free(context)
    ours = new(fetch(None, b"HKDF", OURS.encode()))
    for wrong, why in (
        ({"cryptofd_key": "cryptofd:counter"}, "not HKDF"),
        ({"cryptofd_key": "cryptofd:base", "digest": "SHA512"}, "not HKDF"),
        ({"cryptofd_key": "cryptofd:base", "digest": "SHA256", "mode": "EXTRACT_ONLY"}, "not HKDF"),
        ({"cryptofd_key": "cryptofd:hmac"}, "not HKDF"),
    ):
        given: dict[str, str | bytes] = {**wrong}
        assert made(ours, 32, **given) is None
        said(str(wrong), why)
        function("EVP_KDF_CTX_reset", POINTER, result=None)(ours)


def refusals() -> None:
    """Each with its reason."""

    def begin(name: str, label: str, *words: str) -> None:
        one = Cipher(None, name, OURS)
        assert not one.init(None, bytes(16), 1, cryptofd_key=label), (name, label)
        said(f"{name} {label}", *words)

    begin("AES-128-CBC", "cryptofd:cbc", "a key of cbc(aes) with 256 bits", "AES-128-CBC")
    begin("AES-256-CTR", "cryptofd:cbc", "serves nothing else")
    begin("AES-256-CBC", "cryptofd:nothing", "nothing")
    begin("AES-256-CBC", "cryptofd:", "one is wanted")
    begin("AES-256-CBC", "file:x", "its scheme is another one")
    begin("AES-256-CBC", "cryptofd:" + "x" * 100_000, "at most")
    begin("AES-256-CBC", "cryptofd:pair", "is a pair of keys")
    begin("AES-256-GCM", "cryptofd:cbc", "serves nothing else")
    one = Cipher(None, "AES-256-CBC", OURS)
    wrong = params(cryptofd_key=b"cryptofd:cbc")
    assert wrong[0].data_type == OCTETS
    assert cipher_init(one.ctx, one.cipher, None, bytes(16), 1, wrong) <= 0
    said("bytes for text", "not text")
    # Only to decrypt.
    one = Cipher(None, "AES-256-CBC", OURS)
    assert one.init(None, bytes(16), 1, cryptofd_key="cryptofd:reads")
    assert one.update(bytes(32)) is None
    said("a right that is missing", "encrypt")
    assert one.init(None, bytes(16), 0), last_error()
    assert one.update(bytes(32)) is not None, last_error()
    # The tag after the message.
    one = Cipher(None, "AES-256-GCM", OURS)
    assert one.init(None, bytes(12), 0, cryptofd_key="cryptofd:gcm")
    assert one.update(bytes(32)) is None
    said("no tag", "set the tag before the message")
    assert one.control(SET_TAG, 12, bytes(12)) is None
    said("a short tag", "a tag of 12 bytes")
    # What only the host's own does, which would need the bytes.
    number = params(num=b"....")
    number[0].data_type, number[0].data_size = NUMBER, 4
    one = Cipher(None, "AES-256-CTR", OURS)
    assert one.init(None, bytes(16), 1, cryptofd_key="cryptofd:ctr")
    set_params = function("EVP_CIPHER_CTX_set_params", POINTER, POINTER)
    assert set_params(one.ctx, number) <= 0
    said("the host's own", "not with a key that the broker keeps")
    mac = Mac("HMAC", OURS)
    assert not mac.init(None, cryptofd_key="cryptofd:cmac")
    said("another MAC's key", "is a key of cmac(aes)")
    assert not mac.init(None, cryptofd_key="cryptofd:hmac", digest="SHA512")
    said("another digest", "a key of hmac(sha256)")
    mac = Mac("HMAC", OURS)
    assert mac.init(None, cryptofd_key="cryptofd:checks"), last_error()
    assert mac.update(b"data")
    assert mac.final() is None
    said("a right that is missing", "sign")


def defaults() -> None:
    """Who does not ask for ours does not get it."""
    name_of = function("OSSL_PROVIDER_get0_name", POINTER, result=ctypes.c_char_p)
    kinds = {"CIPHER": "AES-256-GCM AES-128-CBC AES-256-CTR ChaCha20-Poly1305 AES-256-XTS",
             "MAC": "HMAC CMAC GMAC", "MD": "SHA256", "KDF": "HKDF KBKDF"}  # fmt: skip
    if hasattr(crypto, "EVP_SKEYMGMT_fetch"):
        kinds["SKEYMGMT"] = "AES GENERIC-SECRET"
    for kind, names in kinds.items():
        fetch = function(
            f"EVP_{kind}_fetch", POINTER, ctypes.c_char_p, ctypes.c_char_p, result=POINTER
        )
        provider = function(f"EVP_{kind}_get0_provider", POINTER, result=POINTER)
        for name in names.split():
            # Also after ours was asked for.
            for query in (None, OURS.encode(), None, b"provider=default", b"?provider=default"):
                found = fetch(None, name.encode(), query)
                assert found or query == OURS.encode(), (name, query)
                if query != OURS.encode():
                    assert name_of(provider(found)) == b"default", (name, query)
            if kind in ("CIPHER", "MAC", "KDF", "SKEYMGMT"):
                for query in (OURS.encode(), b"provider=cryptofd"):
                    found = fetch(None, name.encode(), query)
                    assert name_of(provider(found)) == b"libcryptofd-openssl", (name, query)
    by_nid = function("EVP_get_cipherbyname", ctypes.c_char_p, result=POINTER)
    ctx = function("EVP_CIPHER_CTX_new", result=POINTER)()
    assert cipher_init(ctx, by_nid(b"AES-256-CBC"), bytes(32), bytes(16), 1, None) > 0
    of = function("EVP_CIPHER_CTX_get0_cipher", POINTER, result=POINTER)
    provider = function("EVP_CIPHER_get0_provider", POINTER, result=POINTER)
    assert name_of(provider(of(ctx))) == b"default"


SELECT_ALL = 3


def skey(kind: str, **given: str | bytes) -> Any:
    make = function(
        "EVP_SKEY_import", POINTER, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, POINTER,
        result=POINTER,
    )  # fmt: skip
    return make(None, kind.encode(), OURS.encode(), SELECT_ALL, params(**given))


def skeys() -> None:
    """Keys as objects."""
    init = function(
        "EVP_CipherInit_SKEY", POINTER, POINTER, POINTER, ctypes.c_char_p, SIZE, ctypes.c_int,
        POINTER,
    )  # fmt: skip
    raw = function("EVP_SKEY_get0_raw_key", POINTER, ctypes.POINTER(POINTER), ctypes.POINTER(SIZE))
    name_of = function("EVP_SKEY_get0_key_id", POINTER, result=ctypes.c_char_p)
    to = function("EVP_SKEY_to_provider", POINTER, POINTER, POINTER, ctypes.c_char_p,
                  result=POINTER)  # fmt: skip
    free = function("EVP_SKEY_free", POINTER, result=None)
    for label, kind, name in (
        ("cbc", "AES", "AES-256-CBC"), ("chacha", "GENERIC-SECRET", "ChaCha20-Poly1305"),
        ("gcm", "AES", "AES-256-GCM"), ("cbc", "GENERIC-SECRET", "AES-256-CBC"),
    ):  # fmt: skip
        key, own = skey(kind, cryptofd_key=reference(label)), skey(kind, raw_bytes=KEYS[label][1])
        assert key, last_error()
        assert own, last_error()
        assert name_of(key).startswith(b"cryptofd:"), name_of(key)
        assert name_of(key).endswith(f"/{label}".encode())
        assert name_of(own) is None
        place, size = POINTER(), SIZE()
        assert raw(own, ctypes.byref(place), ctypes.byref(size)) > 0
        assert ctypes.string_at(place.value or 0, size.value) == KEYS[label][1]
        assert raw(key, ctypes.byref(place), ctypes.byref(size)) <= 0
        said("its bytes", "stays with the broker")
        assert not to(key, None, None, b"provider=default")
        said("to another provider", "stays with the broker")
        iv = bytes(16) if "CBC" in name else bytes(12)
        made = []
        for one in (key, own):
            ours = Cipher(None, name, OURS)
            assert init(ours.ctx, ours.cipher, one, iv, len(iv), 1, None) > 0, last_error()
            made.append((ours.update(bytes(100)), ours.final()))
            # Again, without a key.
            assert init(ours.ctx, None, None, iv, len(iv), 1, None) > 0, last_error()
            made.append((ours.update(bytes(100)), ours.final()))
        theirs = Cipher(None, name, "default")
        assert theirs.init(KEYS[label][1], iv, 1)
        expected = theirs.update(bytes(100)), theirs.final()
        assert made == [expected] * 4, (name, last_error())
        free(key)
        free(own)
    assert not skey("AES", cryptofd_key="cryptofd:hmac")
    said("not AES", "GENERIC-SECRET")
    assert not skey("AES", cryptofd_key="cryptofd:cbc", raw_bytes=bytes(16))
    said("both", "one of them")
    assert not skey("AES", raw_bytes=bytes(17))
    assert not skey("AES")
    key = skey("GENERIC-SECRET", cryptofd_key="cryptofd:hmac")
    theirs_mac = Mac("HMAC", "provider=default")
    assert theirs_mac.init(KEYS["hmac"][1], digest="SHA256")
    ours_mac = Mac("HMAC", OURS)
    assert ours_mac.init_skey(key, digest="SHA256"), last_error()
    for mac in (theirs_mac, ours_mac):
        assert mac.update(bytes(1000))
    assert ours_mac.final() == theirs_mac.final()
    own = skey("GENERIC-SECRET", raw_bytes=KEYS["hmac"][1])
    assert ours_mac.init_skey(own, digest="SHA256"), last_error()
    assert ours_mac.final() is not None
    free(key)
    free(own)


def generated() -> None:
    """Keys that are made, as objects: the program's own, and the broker's under a name."""
    make = function(
        "EVP_SKEY_generate", POINTER, ctypes.c_char_p, ctypes.c_char_p, POINTER, result=POINTER
    )
    raw = function("EVP_SKEY_get0_raw_key", POINTER, ctypes.POINTER(POINTER), ctypes.POINTER(SIZE))
    name_of = function("EVP_SKEY_get0_key_id", POINTER, result=ctypes.c_char_p)
    init = function(
        "EVP_CipherInit_SKEY", POINTER, POINTER, POINTER, ctypes.c_char_p, SIZE, ctypes.c_int,
        POINTER,
    )  # fmt: skip
    free = function("EVP_SKEY_free", POINTER, result=None)

    def made(kind: str, size: int | None = None, **given: str) -> Any:
        if size is None:
            return make(None, kind.encode(), OURS.encode(), params(**given))
        how = params(key_length=size.to_bytes(8, sys.byteorder), **given)
        how[0].data_type = NUMBER
        return make(None, kind.encode(), OURS.encode(), how)

    def bytes_of(key: Any) -> bytes | None:
        place, size = POINTER(), SIZE()
        if raw(key, ctypes.byref(place), ctypes.byref(size)) <= 0:
            return None
        return ctypes.string_at(place.value or 0, size.value)

    seen = set()
    for kind, size in (("AES", None), ("AES", 16), ("AES", 24), ("GENERIC-SECRET", 100)):
        own = made(kind, size)
        assert own, last_error()
        key = bytes_of(own) or b""
        assert len(key) == (size or 32)
        assert name_of(own) is None
        seen.add(key)
        free(own)
    assert len(seen) == 4
    for kind, size in (("AES", 17), ("AES", 0), ("GENERIC-SECRET", 1 << 40)):
        assert not made(kind, size)
        said("a size", "bytes")

    for how in ({"cryptofd_algorithm": "cbc(aes)"}, {"cryptofd_usage": "encrypt"}):
        assert not made("AES", 32, **how)
        said("no name", "say cryptofd-key")

    label = f"made-{os.urandom(8).hex()}"
    named = {"cryptofd_key": reference(label)}
    refused: tuple[tuple[str, dict[str, str], str], ...] = (
        ("AES", {}, "cryptofd-algorithm"),
        ("AES", {"cryptofd_algorithm": "hmac(sha256)"}, "GENERIC-SECRET"),
        ("GENERIC-SECRET", {"cryptofd_algorithm": "ed25519"}, "pairs of keys"),
        ("GENERIC-SECRET", {"cryptofd_algorithm": "rot13"}, "rot13"),
        ("AES", {"cryptofd_algorithm": "cbc(aes)", "cryptofd_usage": "fly"}, "fly"),
        ("AES", {"cryptofd_algorithm": "cbc(aes)", "cryptofd_key": "cryptofd:a/b"}, "maker's own"),
    )
    for kind, how, why in refused:
        assert not made(kind, **{**named, **how})
        said(why, why)
    assert not made("AES", 20, **named, cryptofd_algorithm="cbc(aes)")
    said("a size", "160")
    assert not skey("AES", **named), "it was made by a call that failed"
    clear_errors()

    for number, (kind, size, algorithm, name) in enumerate((
        ("AES", 16, "cbc(aes)", "AES-128-CBC"), ("AES", None, "ctr(aes)", "AES-256-CTR"),
        ("GENERIC-SECRET", None, "rfc7539(chacha20,poly1305)", "ChaCha20-Poly1305"),
    )):  # fmt: skip
        named = {"cryptofd_key": reference(f"{label}-{number}")}
        usage = {"cryptofd_usage": "encrypt, decrypt,caller-iv"}
        key = made(kind, size, **named, **usage, cryptofd_algorithm=algorithm)
        assert key, last_error()
        assert bytes_of(key) is None
        said("its bytes", "stays with the broker")
        assert name_of(key).endswith(f"/{label}-{number}".encode())
        assert not made(kind, size, **named, cryptofd_algorithm=algorithm)
        said("again", label)
        iv = bytes(12 if "Poly" in name else 16)
        sealed = []
        for one in (key, skey(kind, **named)):
            ours = Cipher(None, name, OURS)
            assert init(ours.ctx, ours.cipher, one, iv, len(iv), 1, None) > 0, last_error()
            sealed.append(ours.update(bytes(64)))
            free(one)
        assert sealed[0] == sealed[1] != bytes(64)
    # What derives gives bytes, if nothing else is said.
    named = {"cryptofd_key": reference(f"{label}-base")}
    key = made("GENERIC-SECRET", None, **named, cryptofd_algorithm="hkdf(sha256)")
    assert key, last_error()
    free(key)
    fetch = function("EVP_KDF_fetch", POINTER, ctypes.c_char_p, ctypes.c_char_p, result=POINTER)
    new = function("EVP_KDF_CTX_new", POINTER, result=POINTER)
    derive = function("EVP_KDF_derive", POINTER, POINTER, SIZE, POINTER)
    out = ctypes.create_string_buffer(32)
    how = params(digest="SHA256", info=b"info", **named)
    assert derive(new(fetch(None, b"HKDF", OURS.encode())), out, 32, how) > 0, last_error()


def lives() -> None:
    """Goes on with what it has begun, line by line of what it is asked."""
    ours, theirs = begun("ctr", "AES-256-CTR", bytes(16), 1)
    mac = Mac("HMAC", OURS)
    # Longer than what is kept here: the state is in the worker.
    assert mac.init(None, cryptofd_key="cryptofd:hmac"), last_error()
    assert mac.update(bytes(200_000)), last_error()

    def cipher() -> str:
        made, expected = ours.update(bytes(37)), theirs.update(bytes(37))
        return "fine" if made == expected else last_error()

    def ends() -> str:
        return "fine" if mac.final() else last_error()

    def begins() -> str:
        if mac.init(None) and mac.update(b"short") and mac.final():
            return "fine"
        return last_error()

    def child() -> str:
        one = os.fork()
        if not one:
            # In the middle of the parent's message, and of the MAC that the worker has for it.
            both = cipher(), begins()
            os._exit(0 if both == ("fine", "fine") else 1)
        status = os.waitstatus_to_exitcode(os.waitpid(one, 0)[1])
        return "fine" if not status and cipher() == "fine" else f"{status}"

    def inherits() -> str:
        one = os.fork()
        if not one:
            os._exit(0 if "another process began" in ends() else 1)
        return "fine" if not os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) else "not refused"

    does = {one.__name__: one for one in (cipher, ends, begins, child, inherits)}
    print("begun", flush=True)
    for line in sys.stdin:
        clear_errors()
        print(does[line.strip()](), flush=True)


def main(what: str, seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    does: dict[str, Callable[[], None]] = {
        "plain": lambda: plain(rng, rounds), "units": lambda: units(rng, rounds),
        "aeads": lambda: aeads(rng, rounds), "macs": lambda: macs(rng, rounds),
        "kdfs": lambda: kdfs(rng, rounds),
        "chosen": lambda: chosen(rng), "refusals": refusals, "defaults": defaults, "skeys": skeys,
        "generated": generated, "lives": lives,
    }  # fmt: skip
    does[what]()
    print("done")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
