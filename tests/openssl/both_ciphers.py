"""A program: does the same at random with our ciphers and the default provider's, and compares."""

from __future__ import annotations

import os
import random
import sys

from libcrypto import (
    GET_TAG,
    SET_IVLEN,
    SET_TAG,
    Cipher,
    cipher_padding,
    cipher_set_flags,
    context,
    last_error,
)

AES = ("128", "192", "256")
BLOCKS = [f"AES-{bits}-{mode}" for bits in AES for mode in ("ECB", "CBC")] + ["DES-EDE3-CBC"]
STREAMS = [f"AES-{bits}-{mode}" for bits in AES for mode in ("CTR", "CFB")] + ["ChaCha20"]
PIECES = [f"AES-{bits}-GCM" for bits in AES] + ["ChaCha20-Poly1305"]
MESSAGES = [f"AES-{bits}-CCM" for bits in AES]
OTHERS = ["AES-128-XTS", "AES-256-XTS"] + [
    f"AES-{bits}-{mode}" for bits in AES for mode in ("WRAP", "WRAP-PAD")
]

if os.environ["CRYPTOFD_OPENSSL_PROFILE"] == "bulk":
    # Nothing is faster at wrapping a key.
    OTHERS = [name for name in OTHERS if "WRAP" not in name]

library = context()


def pair(name: str) -> tuple[Cipher, Cipher]:
    both = Cipher(library, name, "cryptofd"), Cipher(library, name, "default")
    same(name, "facts", both[0].facts(), both[1].facts())
    return both


def same(name: str, what: str, one: object, two: object) -> None:
    assert one == two, f"{name}: {what}: {str(one)[:60]} is not {str(two)[:60]}"


def size(chance: random.Random) -> int:
    return chance.choice((0, 1, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 256, 1000, 4096, 5001))


def ciphers(name: str, chance: random.Random) -> None:
    ours, theirs = pair(name)
    key_size = theirs.facts()[0]
    iv_size = 8 if name.startswith("DES") else 16
    encrypt = chance.randrange(2)
    key, iv = chance.randbytes(key_size), chance.randbytes(iv_size)
    given = iv if chance.randrange(8) else None
    for one in (ours, theirs):
        assert one.init(key, given, encrypt)
    for _ in range(chance.randrange(1, 12)):
        match chance.randrange(12):
            case 0:
                ours, theirs = ours.copied(), theirs.copied()
            case 1:
                # Another direction takes the key again.
                key2 = chance.choice((None, key))
                encrypt = encrypt if key2 is None else chance.randrange(2)
                iv2 = chance.choice((None, chance.randbytes(iv_size)))
                if key2 and name == "ChaCha20":
                    # Where a new key begins without an IV is another thing in each release.
                    iv2 = iv2 or iv
                both = ours.init(key2, iv2, encrypt), theirs.init(key2, iv2, encrypt)
                same(name, "init", *both)
            case 2:
                both = ours.final(), theirs.final()
                same(name, "final", *both)
                if both[0] is None:
                    return
            case 3 if name in BLOCKS:
                padding = chance.randrange(2)
                for one in (ours, theirs):
                    cipher_padding(one.ctx, padding)
            case 4 if "ECB" not in name and name != "ChaCha20":
                same(name, "iv", ours.ivs(), theirs.ivs())
            case _:
                data, in_place = chance.randbytes(size(chance)), False
                given = ours.update(data, in_place=in_place), theirs.update(data)
                same(name, f"update of {len(data)}", *given)
    same(name, "final", ours.final(), theirs.final())


def pieces(name: str, chance: random.Random) -> None:
    ours, theirs = pair(name)
    key = chance.randbytes(theirs.facts()[0])
    iv_size = chance.choice((12, 12, 1, 8, 16, 64)) if "GCM" in name else 12
    sealed, aad, message = [], chance.randbytes(size(chance)), b""
    iv = chance.randbytes(iv_size)
    for one in (ours, theirs):
        assert one.init(None, None, 1)
        assert one.control(SET_IVLEN, iv_size) is not None
        assert one.init(key, iv, 1)
    cut = chance.randrange(len(aad) + 1)
    for part in (aad[:cut], aad[cut:]):
        same(name, "aad", ours.update(part, aad=True), theirs.update(part, aad=True))
    for _ in range(chance.randrange(5)):
        if chance.randrange(4) == 0:
            ours, theirs = ours.copied(), theirs.copied()
        data = chance.randbytes(size(chance))
        in_place = bool(chance.randrange(2))
        given = ours.update(data, in_place=in_place), theirs.update(data)
        same(name, "update", *given)
        message += data
        sealed.append(given[0] or b"")
    same(name, "final", ours.final(), theirs.final())
    tag_size = chance.randrange(1, 17)
    tags = ours.control(GET_TAG, tag_size, b""), theirs.control(GET_TAG, tag_size, b"")
    same(name, "tag", *tags)
    whole, tag = b"".join(sealed), tags[0] or b""
    for right in (True, False):
        wrong = bytes([tag[0] ^ 1]) + tag[1:]
        for one in (ours, theirs):
            assert one.init(None, iv, 0)
            assert one.control(SET_TAG, len(tag), tag if right else wrong) is not None
            assert one.update(aad, aad=True) == b"", last_error()
            opened, rest = b"", whole
            while rest:
                length = min(len(rest), 1 + size(chance))
                opened += one.update(rest[:length], in_place=True) or b""
                rest = rest[length:]
            assert opened == message
            assert (one.final() == b"") == right, (name, right)


def in_turn(name: str, chance: random.Random) -> None:
    """Messages in one context, each with its tag before its IV."""
    key = chance.randbytes(Cipher(library, name, "default").facts()[0])
    sealer = Cipher(library, name, "default")
    sealed = []
    for number in range(6):
        iv, data = number.to_bytes(12), chance.randbytes(1 + size(chance))
        assert sealer.init(None, None, 1)
        assert sealer.control(SET_IVLEN, 12) is not None
        if "CCM" in name:
            assert sealer.control(SET_TAG, 16) is not None
        assert sealer.init(key, iv, 1)
        whole = sealer.update(data)
        assert sealer.final() == b""
        sealed.append((iv, data, whole or b"", sealer.control(GET_TAG, 16, b"")))
    for one in pair(name):
        assert one.init(None, None, 0)
        assert one.control(SET_IVLEN, 12) is not None
        for iv, data, whole, tag in sealed:
            assert one.control(SET_TAG, 16, tag) is not None
            assert one.init(key if iv == bytes(12) else None, iv, 0)
            same(name, "opened", one.update(whole), data)
            same(name, "final", one.final() if "CCM" not in name else b"", b"")


def messages(name: str, chance: random.Random) -> None:
    key = chance.randbytes(Cipher(library, name, "default").facts()[0])
    iv_size, tag_size = chance.randrange(7, 14), chance.randrange(4, 17, 2)
    iv, aad, data = (
        chance.randbytes(iv_size), chance.randbytes(size(chance)), chance.randbytes(size(chance))
    )  # fmt: skip
    results = []
    for one in pair(name):
        assert one.init(None, None, 1)
        assert one.control(SET_IVLEN, iv_size) is not None
        assert one.control(SET_TAG, tag_size) is not None
        assert one.init(key, iv, 1)
        if aad:
            assert one.update(data, length_only=True) is not None
            assert one.update(aad, aad=True) is not None
        sealed = one.update(data)
        same(name, "final", one.final(), b"")
        results.append((sealed, one.control(GET_TAG, tag_size, b"")))
    same(name, "sealed", *results)
    sealed, tag = results[0]
    for one in pair(name):
        for right in (True, False):
            assert one.init(None, None, 0)
            assert one.control(SET_IVLEN, iv_size) is not None
            given = tag if right else bytes([tag[0] ^ 1]) + tag[1:]
            assert one.control(SET_TAG, tag_size, given) is not None
            assert one.init(key, iv, 0)
            if aad:
                assert one.update(data, length_only=True) is not None
                assert one.update(aad, aad=True) is not None
            opened = one.update(sealed)
            if right:
                assert opened == data
            elif data:
                assert opened is None


def others(name: str, chance: random.Random) -> None:
    ours, theirs = pair(name)
    key = chance.randbytes(theirs.facts()[0])
    xts = name.endswith("XTS")
    iv_size = 16 if xts else 4 if name.endswith("PAD") else 8
    iv = chance.randbytes(iv_size) if xts or chance.randrange(4) == 0 else None
    for one in (ours, theirs):
        cipher_set_flags(one.ctx, 1)
        assert one.init(key, iv, 1)
    data = chance.randbytes(chance.choice((1, 8, 15, 16, 17, 24, 32, 40, 63, 512, 4096)))
    results = ours.update(data), theirs.update(data)
    same(name, f"update of {len(data)}", *results)
    if results[0]:
        for one in (ours, theirs):
            assert one.init(key, iv, 0)
        same(name, "back", ours.update(results[0]), data)
        same(name, "back", theirs.update(results[0]), data)
        broken = bytes([results[0][0] ^ 1]) + results[0][1:]
        same(name, "broken", ours.update(broken), theirs.update(broken))


def main() -> None:
    seed, rounds = int(sys.argv[1]), int(sys.argv[2])
    for number in range(seed, seed + rounds):
        chance = random.Random(number)
        for names, test in (
            (BLOCKS + STREAMS, ciphers),
            (PIECES, pieces),
            (MESSAGES, messages),
            (PIECES + MESSAGES, in_turn),
            (OTHERS, others),
        ):
            for name in names:
                try:
                    test(name, chance)
                except AssertionError as error:
                    raise AssertionError(f"seed {number}, {name}: {error}") from error
    print("done")


main()
