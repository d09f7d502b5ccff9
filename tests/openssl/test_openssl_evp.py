"""OpenSSL's own evp_test with ours and nothing else: nothing fails that the default one passes."""

from __future__ import annotations

from pathlib import Path

import pytest
from evp_suite import Choice, Skips, built, run, written
from hosts import Host

pytestmark = pytest.mark.timeout(900)


def test_no_stanza_fails(only: Host, tmp_path: Path) -> None:
    suite, skips, count = built(), Skips(), 0
    for file in suite.files():
        kept = Choice.of(file, skips).kept
        if not kept:
            continue
        ran = run(suite, only.file, written(tmp_path / file.name, kept))
        assert ran.failed == 0, f"{file.name}: {ran.said[-6000:]}"
        assert ran.count > 0
        count += ran.count
    # What OpenSSL 3.0 has; later releases have more.
    assert count > 3300


def test_what_is_skipped_is_not_ours(only: Host) -> None:
    suite, skips = built(), Skips()
    files = [*suite.files("evpc"), *suite.files("evpm")]
    names = {stanza.name for file in files for stanza in Choice.of(file, skips).left}
    names = {name for name in names if " " not in name}
    assert len(names) > 60
    code = f"""
        import ctypes
        crypto = ctypes.CDLL("libcrypto.so.3")
        for kind in ("CIPHER", "MD", "MAC"):
            fetch = getattr(crypto, f"EVP_{{kind}}_fetch")
            fetch.restype = ctypes.c_void_p
            for name in {sorted(names)!r}:
                assert not fetch(None, name.encode(), b"provider=cryptofd"), name
    """
    only.python(code)
