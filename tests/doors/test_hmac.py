"""CPython's own test_hmac on cryptofd.doors.hmac, and what it does not look at."""

from __future__ import annotations

import hashlib as standard_hashlib
import hmac as standard
import random
import unittest

import pytest
from cpython_suite import run_suite

from cryptofd.doors import hashlib, hmac

#: Tests of CPython that do not test the API, and why.
DESELECTED = {
    "test_attributes_old": "private attributes of the standard module's second way",
    "test_realcopy_old": "private attributes of the standard module's second way",
    "test_with_fallback": "the standard hashlib's private cache of constructors",
    "test_internal_types": "types of the standard module's _hashlib",
}

module = pytest.importorskip(
    "test.test_hmac", reason="this Python comes without its test package (libpython3-testsuite)"
)
CASES = (
    module.TestVectorsTestCase,
    module.ConstructorTestCase,
    module.SanityTestCase,
    module.CopyTestCase,
    module.CompareDigestTestCase,
)


def _names() -> list[str]:
    loader = unittest.TestLoader()
    return [
        f"{case.__name__}.{name}"
        for case in CASES
        for name in loader.getTestCaseNames(case)
        if name not in DESELECTED
    ]


@pytest.mark.parametrize("name", _names())
def test_cpython(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "hmac", hmac)
    monkeypatch.setattr(module, "hashlib", hashlib)
    # The standard module's C functions are not what is tested.
    monkeypatch.setattr(module, "c_hmac_new", None)
    run_suite(module, name)


def test_cpython_suite_is_there() -> None:
    assert len(_names()) >= 22
    assert set(DESELECTED) <= {name for case in CASES for name in dir(case)}


NAMES = ["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3_256", "blake2b", "blake2s"]


@pytest.mark.parametrize("name", NAMES)
def test_like_the_standard_module(name: str) -> None:
    generator = random.Random(name)
    for size in (0, 1, 16, 63, 64, 65, 127, 128, 129, 300):
        key, data = generator.randbytes(size), generator.randbytes(size * 7)
        expected = standard.HMAC(key, data, getattr(standard_hashlib, name))
        for digestmod in (name, getattr(hashlib, name), getattr(standard_hashlib, name)):
            ours = hmac.new(key, digestmod=digestmod)
            ours.update(data[:size])
            other = ours.copy()
            ours.update(data[size:])
            assert ours.digest() == hmac.digest(key, data, digestmod) == expected.digest()
            assert ours.hexdigest() == expected.hexdigest()
            assert other.digest() == standard.digest(key, data[:size], name)
            for attribute in ("name", "digest_size", "block_size"):
                assert getattr(ours, attribute) == getattr(other, attribute)
                assert getattr(ours, attribute) == getattr(expected, attribute)


def test_a_foreign_constructor_is_not_mistaken_for_ours() -> None:
    def salted(data: bytes = b"") -> object:
        return standard_hashlib.blake2b(data, salt=b"salt")

    assert hmac.digest(b"key", b"data", salted) == standard.digest(b"key", b"data", salted)
    assert hmac.new(b"key", b"data", salted).digest() == standard.digest(b"key", b"data", salted)


def test_long_key() -> None:
    key = bytes(3 << 20)
    assert hmac.digest(key, b"data", "sha256") == standard.digest(key, b"data", "sha256")


def test_arguments() -> None:
    with pytest.raises(ValueError, match="unsupported"):
        hmac.new(b"key", b"", "spam")
    with pytest.raises(ValueError, match="unsupported"):
        hmac.new(b"key", b"", "shake_128")
    with pytest.raises(TypeError):
        hmac.new(memoryview(b"key"), b"", "sha256")  # type: ignore[arg-type]
    assert hmac.compare_digest(b"a", b"a")
