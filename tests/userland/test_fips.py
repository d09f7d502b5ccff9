"""The FIPS provider of a later Debian below this host's own libcrypto.

Its module and what `openssl fipsinstall` writes about it are mounted where OpenSSL looks, in a
mount namespace of each test's own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import cryptofd
from lab.userland import userland

CHECKOUT = Path(__file__).parents[2]
PRIVATE = ("unshare", "--mount", "--propagation", "private")
MOUNT = 'set -e; mount --bind "$0" "$1"; mount --bind "$2" "$3"; shift 3; exec "$@"'

# Who does what is asked for, or why not; in JSON.
ASK = """
import cryptofd, json
try:
    info = cryptofd.open("sha256", fips=True).info()
    print(json.dumps({"engine": info.engine, "driver": info.driver}))
except cryptofd.Refused as error:
    print(json.dumps({"errno": error.errno, "why": error.strerror}))
print(cryptofd.open("gcm(aes)", key=bytes(32)).info().engine)
"""


@dataclass
class Place:
    """Two directories, and where OpenSSL looks for them."""

    modules: Path
    config: Path
    modules_place: str
    config_place: str

    @property
    def module(self) -> Path:
        return self.modules / "fips.so"

    @property
    def written(self) -> Path:
        return self.config / "fipsmodule.cnf"

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        here = (str(self.modules), self.modules_place, str(self.config), self.config_place)
        return subprocess.run(
            [*PRIVATE, "sh", "-c", MOUNT, *here, *command],
            cwd=CHECKOUT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
            check=False,
        )

    def asked(self) -> dict[str, object]:
        """What a program gets that asks for a validated module."""
        ran = self.run(sys.executable, "-c", ASK)
        assert ran.returncode == 0, ran.stdout
        answer, other = ran.stdout.splitlines()
        assert other == "software", "who does not ask is served as ever"
        found: dict[str, object] = json.loads(answer)
        return found

    def pytest(self, *arguments: str, **environment: str) -> int:
        """How many tests passed; none may fail."""
        ran = self.run(
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments),
            **environment,
        )
        print(ran.stdout)
        assert ran.returncode == 0, ran.stdout[-5000:]
        passed = re.search(r"(\d+) passed", ran.stdout)
        return int(passed[1]) if passed else 0


def _said(flag: str) -> str:
    """A directory that `openssl version` names."""
    said = subprocess.run(
        ["openssl", "version", flag], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r'"(.+)"', said)
    assert found, said
    return found[1]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    if os.geteuid():
        pytest.skip("mounting a FIPS module for a test needs root")
    tried = subprocess.run([*PRIVATE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no mount namespace here: {tried.stderr.strip()}")
    if "libcrypto" in next(e.about for e in cryptofd.engines() if e.name == "openssl"):
        pytest.skip("no libcrypto of OpenSSL 3 or later here")
    place = Place(tmp_path / "modules", tmp_path / "ssl", _said("-m"), _said("-d"))
    shutil.copytree(place.modules_place, place.modules)
    shutil.copytree(place.config_place, place.config, symlinks=True)
    (module,) = (userland("trixie").root / "usr/lib").glob("*/ossl-modules/fips.so")
    shutil.copy(module, place.module)
    place.written.unlink(missing_ok=True)
    subprocess.run(
        ["openssl", "fipsinstall", "-module", place.module, "-out", place.written],
        capture_output=True,
        check=True,
    )
    return place


def test_a_provider_that_works(place: Place) -> None:
    assert place.asked() == {"engine": "openssl", "driver": "fips"}
    assert place.pytest("tests/userland/check_fips.py") >= len(cryptofd.algorithms())


def test_vectors(place: Place) -> None:
    """The known answers, and random questions, all to the module.

    Random questions to PBKDF2 have fewer rounds than SP 800-132 allows; check_fips.py asks it.
    """
    passed = place.pytest(
        *("tests/vectors", "tests/test_differential.py", "-m", "not soak"),
        *("-k", "(openssl or agree) and not pbkdf2"),
        CRYPTOFD_FIPS="1",
    )
    assert passed > 100


def refusal(place: Place) -> str:
    """Why nobody serves; the doctor says it too, and calls it broken."""
    answer = place.asked()
    assert answer["errno"] == 1, answer
    why = str(answer["why"])
    assert why.startswith("no engine serves sha256 in a validated module (")
    assert "software: not a validated module" in why
    doctor = place.run(sys.executable, "-m", "cryptofd", "doctor", "--json")
    (finding,) = [
        f
        for f in json.loads(doctor.stdout)
        if f["topic"] == "OpenSSL" and "does not serve" in f["what"]
    ]
    assert finding["state"] == "broken"
    assert finding["todo"]
    assert f"openssl: {finding['what'].split('does not serve: ')[1]}" in why
    return why


def test_a_changed_byte_is_refused(place: Place) -> None:
    module = bytearray(place.module.read_bytes())
    module[-1] ^= 1  # of a table that nothing loads: the module runs, and its integrity is gone
    place.module.write_bytes(module)
    assert "the module fails its own self-test Module_Integrity" in refusal(place)


def test_another_modules_configuration_is_refused(place: Place) -> None:
    mac = re.compile(r"(module-mac = )(..)")
    text = place.written.read_text()
    other = mac.sub(lambda m: m[1] + f"{int(m[2], 16) ^ 1:02X}", text)
    assert other != text
    place.written.write_text(other)
    assert "the module fails its own self-test Module_Integrity" in refusal(place)


def test_without_its_configuration_it_is_refused(place: Place) -> None:
    place.written.unlink()
    why = refusal(place)
    assert f"its module needs {place.config_place}/fipsmodule.cnf" in why
    assert "`openssl fipsinstall` writes" in why


def test_with_an_empty_configuration_it_is_refused(place: Place) -> None:
    place.written.write_text("")
    assert f"{place.config_place}/fipsmodule.cnf does not activate its module" in refusal(place)


def test_without_a_module_it_is_refused(place: Place) -> None:
    place.module.unlink()
    place.written.unlink()
    answer = place.asked()
    assert answer["errno"] == 1
    assert "no FIPS provider" in str(answer["why"])
