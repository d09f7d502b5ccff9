"""PyCA's own tests of hashes, HMAC, AES and what else is ours, on the OpenSSL in its wheel."""

from __future__ import annotations

import fnmatch

import pyca_suite
import pytest
from hosts import Host

#: Nothing but ours is found: what passes is done by us.
OURS = [
    "test_hashes.py", "test_hash_vectors.py", "test_xofhash.py", "test_hmac.py",
    "test_hmac_vectors.py", "test_cmac.py", "test_poly1305.py", "test_aes.py", "test_aes_gcm.py",
    "test_block.py", "test_chacha20.py", "test_keywrap.py",
]  # fmt: skip
#: Where they are collected, they ask for ciphers that nobody here has.
OTHERS = ["test_ciphers.py", "test_aead.py", "test_padding.py", "test_camellia.py", "test_sm4.py"]
DERIVATIONS = [
    "test_hkdf.py", "test_hkdf_vectors.py", "test_pbkdf2hmac.py", "test_pbkdf2hmac_vectors.py",
    "test_scrypt.py", "test_kbkdf.py", "test_kbkdf_vectors.py", "test_concatkdf.py",
    "test_x963kdf.py", "test_x963_vectors.py",
]  # fmt: skip
#: A few seconds of them.
QUICK = "TestSHA256 or TestSHA3256 or TestSHAKE128 or TestBLAKE2b or TestHMAC or cbc or ctr or ecb"


def test_hashes_hmac_and_aes_are_done_by_us(only: Host) -> None:
    files = ["test_hashes.py", "test_hash_vectors.py", "test_hmac.py", "test_aes.py"]
    ran = pyca_suite.run(only, files, QUICK)
    assert not ran.unlisted(), ran.said[-5000:]
    for name in ("TestSHA256", "TestHMAC", "TestAESModeCBC", "TestAESModeCTR", "TestAESModeECB"):
        assert any(name in test for test in ran.passed), name
    # Without our engines nothing is done.
    without = pyca_suite.run(
        only, ["test_hash_vectors.py", "test_aes.py"], "TestSHA256 or test_cbc",
        CRYPTOFD_DISABLE="software,kernel",
    )  # fmt: skip
    assert without.failed
    assert not without.passed


@pytest.mark.soak
def test_all_of_ours(only: Host) -> None:
    ran = pyca_suite.run(only, OURS)
    assert not ran.unlisted(), ran.said[-8000:]
    assert len(ran.passed) > 200
    # No entry of the list is out of date, but for tests that this version has not.
    for skip in pyca_suite.skips():
        matching = [
            test for test in ran.failed for name in skip.names if fnmatch.fnmatchcase(test, name)
        ]  # fmt: skip
        assert matching, skip


@pytest.mark.soak
def test_nothing_fails_beside_the_default_provider(whole: Host) -> None:
    ran = pyca_suite.run(whole, [*OURS, *OTHERS, *DERIVATIONS])
    assert not ran.failed, ran.said[-8000:]
    assert len(ran.passed) > 500
