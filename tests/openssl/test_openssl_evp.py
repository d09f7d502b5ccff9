"""OpenSSL's own evp_test with ours and nothing else: nothing fails that the default one passes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from evp_suite import Skips, built, chosen
from hosts import Host

COMPLETED = re.compile(r"Completed (\d+) tests with (\d+) errors and (\d+) skipped")


def run(tree: Path, host: Host, file: Path) -> tuple[int, int, str]:
    """Stanzas that were run, those that failed, and what was said."""
    command = [tree / "test" / "evp_test", "-config", host.file, file]
    done = subprocess.run(
        command, capture_output=True, timeout=1200, check=False,
        env={"OPENSSL_CONF": "/dev/null"}, cwd=file.parent,
    )  # fmt: skip
    said = (done.stdout + done.stderr).decode(errors="replace")
    found = COMPLETED.search(said)
    assert found, said[-2000:]
    return int(found[1]), int(found[2]), said


@pytest.mark.soak
def test_no_stanza_fails(only: Host, tmp_path: Path) -> None:
    tree, skips, count = built(), Skips(), 0
    for file in sorted((tree / "test/recipes/30-test_evp_data").glob("evp*.txt")):
        if file.name.startswith(("evppkey", "evprand", "evpencod")):
            continue
        text, stanzas, _ = chosen(file, skips)
        if not stanzas:
            continue
        mine = tmp_path / file.name
        mine.write_text(text)
        ran, failed, said = run(tree, only, mine)
        assert failed == 0, f"{file.name}: {said[-6000:]}"
        assert ran > 0
        count += ran
    # What OpenSSL 3.0 has; later releases have more.
    assert count > 3300


@pytest.mark.soak
def test_what_is_skipped_is_not_ours(only: Host) -> None:
    tree, skips, names = built(), Skips(), set()
    for file in sorted((tree / "test/recipes/30-test_evp_data").glob("evp[cm]*.txt")):
        names |= chosen(file, skips)[2]
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
