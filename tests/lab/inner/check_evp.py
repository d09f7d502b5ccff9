"""OpenSSL's evp_test in this kernel, whose AF_ALG does it: all other engines are disabled."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.extend(str(Path(__file__).parents[2] / name) for name in ("openssl", "pkcs11", "broker"))

from evp_suite import Choice, Skips, Stanza, Suite, present, run, written
from hosts import Host

FORCED = {"CRYPTOFD_ENGINES": "kernel", "CRYPTOFD_DISABLE": "software,openssl"}
#: socket(AF_ALG) is EAFNOSUPPORT.
REFUSED = (sys.executable, "-m", "lab", "restrict", "--linux", "7.3:2", "--")
#: Thousands of stanzas of one algorithm.
LONG = "evpciph_aes_ccm_cavs.txt"


@pytest.fixture(scope="module")
def suite() -> Suite:
    found = present()
    if found is None:
        pytest.skip("evp_test was not built on the host")
    return found


@pytest.fixture(scope="module")
def only(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(tmp_path_factory.mktemp("openssl"), "all", "provider=cryptofd")


def stanzas_are_the_kernels(suite: Suite, only: Host, files: list[Path], folder: Path) -> int:
    """All are done, and none without AF_ALG: how many."""
    skips = [Skips(), Skips("kernel"), Skips("handed_over")]
    kept = [stanza for file in files for stanza in Choice.of(file, *skips).kept]
    ran = run(suite, only.file, written(folder / "all.txt", kept), **FORCED)
    assert ran.failed == 0, ran.said[-6000:]
    # Those that shall fail would do so here as well.
    kept = [stanza for stanza in kept if stanza.expects_success]
    without = run(suite, only.file, written(folder / "without.txt", kept), *REFUSED, **FORCED)
    assert without.failed == without.count, without.said[-6000:]
    return without.failed


@pytest.mark.parametrize(("prefix", "least"), [("evpciph", 120), ("evpmac", 80), ("evpmd", 50)])
def test_the_kernel_does_it(
    suite: Suite, only: Host, tmp_path: Path, prefix: str, least: int
) -> None:
    files = [file for file in suite.files(prefix) if file.name != LONG]
    assert stanzas_are_the_kernels(suite, only, files, tmp_path) > least


@pytest.mark.soak
def test_the_kernel_does_all_of_ccm(suite: Suite, only: Host, tmp_path: Path) -> None:
    assert stanzas_are_the_kernels(suite, only, [suite.folder / LONG], tmp_path) > 2300


def test_what_is_left_out_is_not_the_kernels(suite: Suite, only: Host, tmp_path: Path) -> None:
    """What is on the list is there for a reason."""
    skips, kernel = Skips(), Skips("kernel")
    left: list[Stanza] = []
    for file in [*suite.files("evpc"), *suite.files("evpm")]:
        left += [one for one in Choice.of(file, kernel).left if skips.reason(one) is None]
    left = [stanza for stanza in left if stanza.expects_success]
    assert len(left) > 100
    ran = run(suite, only.file, written(tmp_path / "left.txt", left), **FORCED)
    assert ran.failed == ran.count, ran.said[-6000:]
