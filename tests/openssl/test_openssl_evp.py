"""OpenSSL's own evp_test with ours and nothing else: nothing fails that the default one passes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from evp_suite import HOST, Choice, Ran, Skips, Stanza, Suite, built, run, written
from hosts import Host

from lab.common import SUITES
from lab.kernels import CHECKOUT
from lab.userland import userland

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(
    params=[HOST, *(pytest.param(suite, marks=pytest.mark.soak) for suite in SUITES)]
)  # fmt: skip
def place(request: pytest.FixtureRequest) -> str:
    if request.param != HOST and os.geteuid():
        pytest.skip("another userland needs root")
    return str(request.param)


def run_at(
    place: str, suite: Suite, host: Host, folder: Path, name: str, kept: list[Stanza]
) -> Ran:
    """Stanzas in a file of this name, with the host's OpenSSL or that of a userland."""
    if place == HOST:
        return run(suite, host.file, written(folder / name, kept))

    def there(path: Path) -> Path:
        return Path("/checkout") / path.relative_to(CHECKOUT)

    folder = suite.program.parent / "chosen"
    folder.mkdir(exist_ok=True)
    # Later ones have random bytes of their own provider's: only what is tested must be ours.
    host = Host(folder, "all", None)
    host.file.write_text(host.file.read_text().replace(str(CHECKOUT), "/checkout"))
    file = written(folder / name, kept)
    own = Suite(there(suite.program), there(suite.folder))
    before = userland(place).command("env", "OPENSSL_CONF=/dev/null")
    return run(own, there(host.file), there(file), *before, query="provider=cryptofd")


def test_no_stanza_fails(place: str, only: Host, tmp_path: Path) -> None:
    suite, skips, count, wrong = built(place), Skips(), 0, ""
    for file in suite.files():
        kept = Choice.of(file, skips).kept
        if not kept:
            continue
        ran = run_at(place, suite, only, tmp_path, file.name, kept)
        count += ran.count
        if ran.failed:
            wrong += f"{file.name}: {ran.said[-6000:]}\n"
    assert not wrong, wrong
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
