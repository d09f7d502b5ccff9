"""CPython's own test_hashlib on cryptofd.doors.hashlib, and what it does not look at."""

from __future__ import annotations

import hashlib as standard
import io
import pickle
import random
import unittest
from pathlib import Path
from typing import Any

import pytest
from cpython_suite import run_suite

import cryptofd
from cryptofd.doors import hashlib

#: Tests of CPython that do not test the API, and why.
DESELECTED = {
    "test_extra_sha3": "private attributes of the standard module's _sha3",
    "test_get_builtin_constructor": "the standard module's private fallback to _md5 and its like",
    "test_hash_disallow_instantiation": "types of the standard module's _hashlib",
    "test_pbkdf2_hmac_py": "the standard module's own PBKDF2 in Python",
    "test_readonly_types": "our hash objects' type is made for the stable ABI, which cannot mark "
    "a type immutable before Python 3.14",
}
#: They fetch their vectors from a server; tests/vectors has NIST's.
OFFLINE = "vector"

module = pytest.importorskip(
    "test.test_hashlib", reason="this Python comes without its test package (libpython3-testsuite)"
)


def _patch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "hashlib", hashlib)
    monkeypatch.setattr(module, "openssl_hashlib", hashlib)
    monkeypatch.setattr(
        module, "openssl_md_meth_names", {"sha1", "sha256", "sha512"}, raising=False
    )
    monkeypatch.setattr(module, "HASH", None)
    # Only our constructors, none of the standard module's C modules.
    monkeypatch.setattr(module.HashLibTestCase, "_conditional_import_module", lambda *_: None)


def _names() -> list[str]:
    loader = unittest.TestLoader()
    return [
        f"{case.__name__}.{name}"
        for case in (module.HashLibTestCase, module.KDFTests)
        for name in loader.getTestCaseNames(case)
        if name not in DESELECTED and not (OFFLINE in name and "large" not in name)
    ]


@pytest.mark.parametrize("name", _names())
def test_cpython(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _patch(monkeypatch)
    run_suite(module, name)


def test_cpython_suite_is_there() -> None:
    assert len(_names()) > 60
    everything = set(dir(module.HashLibTestCase)) | set(dir(module.KDFTests))
    assert set(DESELECTED) <= everything, "a name that CPython no longer has"


FIXED = sorted(hashlib.algorithms_guaranteed - {"shake_128", "shake_256"})


@pytest.mark.parametrize("name", sorted(hashlib.algorithms_guaranteed))
def test_like_the_standard_module(name: str) -> None:
    """The same answers for the same calls, at every size around the held input and the blocks."""
    generator = random.Random(name)
    length = (50,) if name.startswith("shake") else ()
    for size in [*range(0, 70), 127, 128, 129, 1000, 8191, 8192, 8193, 100_000]:
        data = generator.randbytes(size)
        cut = generator.randint(0, size)
        ours, theirs = getattr(hashlib, name)(data[:cut]), getattr(standard, name)(data[:cut])
        copies = ours.copy(), theirs.copy()
        assert ours.digest(*length) == theirs.digest(*length)
        for hasher in (ours, theirs):
            hasher.update(data[cut:])
            hasher.update(b"")
        assert ours.hexdigest(*length) == theirs.hexdigest(*length)
        assert ours.digest(*length) == theirs.digest(*length)
        assert copies[0].digest(*length) == copies[1].digest(*length)
        for attribute in ("name", "digest_size", "block_size"):
            assert getattr(ours, attribute) == getattr(theirs, attribute)


@pytest.mark.parametrize("name", ["blake2b", "blake2s"])
def test_blake2_like_the_standard_module(name: str) -> None:
    ours, theirs = getattr(hashlib, name), getattr(standard, name)
    generator = random.Random(name)
    for _ in range(200):
        options: dict[str, Any] = {
            "digest_size": generator.randint(1, theirs.MAX_DIGEST_SIZE),
            "key": generator.randbytes(generator.randint(0, theirs.MAX_KEY_SIZE)),
            "salt": generator.randbytes(generator.randint(0, theirs.SALT_SIZE)),
            "person": generator.randbytes(generator.randint(0, theirs.PERSON_SIZE)),
            "fanout": generator.randint(0, 255),
            "depth": generator.randint(1, 255),
            "leaf_size": generator.getrandbits(32),
            "node_offset": generator.getrandbits(48),
            "node_depth": generator.randint(0, 255),
            "inner_size": generator.randint(0, theirs.MAX_DIGEST_SIZE),
            "last_node": generator.choice([True, False]),
        }
        options = {key: value for key, value in options.items() if generator.random() < 0.6}
        data = generator.randbytes(generator.randint(0, 300))
        assert ours(data, **options).hexdigest() == theirs(data, **options).hexdigest(), options


def test_blake2_is_a_class() -> None:
    assert isinstance(hashlib.blake2b(), hashlib.blake2b)
    assert type(hashlib.new("blake2s")) is hashlib.blake2s
    with pytest.raises(TypeError, match="immutable"):
        hashlib.blake2b.SALT_SIZE = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="base type"):
        type("mine", (hashlib.blake2b,), {})


def test_names() -> None:
    assert hashlib.algorithms_guaranteed == standard.algorithms_guaranteed
    assert {"sm3", "sha512_256"} <= hashlib.algorithms_available
    for name in hashlib.algorithms_available:
        assert hashlib.new(name).name == name
    assert hashlib.new("SHA3-256").name == "sha3_256"
    assert set(hashlib.__all__) <= set(dir(hashlib))
    for name in hashlib.__all__:
        assert getattr(hashlib, name) is not None


def test_arguments() -> None:
    for call in (hashlib.sha256, hashlib.sha3_256):
        assert call(string=b"a").digest() == call(b"a").digest() == call(data=b"a").digest()  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            call(b"a", data=b"a")  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            call(b"a", nonsense=1)  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            call(b"a").digest(3)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        hashlib.shake_128().digest()  # type: ignore[call-arg]
    assert hashlib.shake_128().digest(0) == b""
    for bad in ("text", 3, memoryview(bytes(8))[::2]):
        with pytest.raises((TypeError, BufferError)):
            hashlib.sha256(bad)  # type: ignore[arg-type]
    assert hashlib.sha256(memoryview(bytes(8))).digest() == standard.sha256(bytes(8)).digest()


def test_constructors_travel() -> None:
    again = pickle.loads(pickle.dumps(hashlib.sha256))
    assert again(b"a").digest() == standard.sha256(b"a").digest()
    with pytest.raises(TypeError):
        pickle.dumps(hashlib.sha256())


def test_kdfs() -> None:
    for name in ("sha256", "sha3_512", "SHA384"):
        args = (b"password", b"salt", 3)
        assert hashlib.pbkdf2_hmac(name, *args) == standard.pbkdf2_hmac(name, *args)
        assert hashlib.pbkdf2_hmac(name, *args, 99) == standard.pbkdf2_hmac(name, *args, 99)
    options = {"salt": b"salt", "n": 16, "r": 2, "p": 3}
    assert hashlib.scrypt(b"", **options) == standard.scrypt(b"", **options)
    with pytest.raises(ValueError, match="maxmem"):
        hashlib.scrypt(b"", salt=b"", n=1 << 20, r=8, p=1)


def test_file_digest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(700_000))
    expected = standard.sha256(bytes(700_000)).hexdigest()
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == expected
    with path.open("rb", buffering=0) as file:
        assert hashlib.file_digest(file, hashlib.sha256).hexdigest() == expected
    assert hashlib.file_digest(io.BytesIO(bytes(700_000)), "sha256").hexdigest() == expected
    with pytest.raises(ValueError, match="binary"):
        hashlib.file_digest(io.StringIO("a"), "sha256")


def test_served_by_cryptofd() -> None:
    factory = hashlib.sha256.__self__  # type: ignore[attr-defined]
    assert type(factory).__module__ == "cryptofd._core"
    assert any(engine.name in repr(hashlib.sha256()) for engine in cryptofd.engines())


def test_short_messages_may_have_an_engine_of_their_own() -> None:
    # Whoever does it, each length around the border of "short" is right, at once and in pieces.
    for length in (0, 1, 63, 64, 191, 192, 193, 1000):
        data = bytes(range(256)) * 4
        expected = standard.sha256(data[:length]).hexdigest()
        assert hashlib.sha256(data[:length]).hexdigest() == expected
        pieces = hashlib.sha256()
        for start in range(0, length, 100):
            pieces.update(data[start : min(start + 100, length)])
        assert pieces.copy().hexdigest() == expected == pieces.hexdigest()
    said = repr(hashlib.sha256())
    chosen = cryptofd.open("sha256").info().engine
    assert f"by {chosen}/" in said
    if chosen == "software":
        assert "short messages" not in said
