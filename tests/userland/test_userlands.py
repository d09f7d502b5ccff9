"""Engine `openssl` on later OpenSSLs, each in the userland of its own Debian suite."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from lab.common import SUITES
from lab.userland import Userland, userland

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

# hypothesis comes as code for one Python.
PYTEST = ("python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")

WITH_FIPS = """
set -e
cp -a /usr/lib/ssl /tmp/ssl
openssl fipsinstall $0 -module /usr/lib/*/ossl-modules/fips.so -out /tmp/ssl/fipsmodule.cnf
mount --bind /tmp/ssl /usr/lib/ssl
exec "$@"
"""


def run(place: Userland, *command: str) -> str:
    ran = subprocess.run(
        place.command(*command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout[-5000:]
    return ran.stdout


def passed(output: str) -> int:
    found = re.search(r"(\d+) passed", output)
    return int(found[1]) if found else 0


@pytest.fixture(params=SUITES)
def place(request: pytest.FixtureRequest) -> Userland:
    if os.geteuid():
        pytest.skip("another userland needs root")
    return userland(request.param)


def test_its_libcrypto_is_the_engines(place: Userland) -> None:
    version = run(place, "openssl", "version").split(" (")[0]
    code = "import cryptofd; print([e.about for e in cryptofd.engines() if e.name == 'openssl'][0])"
    assert run(place, "python3", "-c", code).startswith(version)
    assert version.startswith("OpenSSL 4." if place.suite == "experimental" else "OpenSSL 3.")


def test_the_engine(place: Userland) -> None:
    suites = ("tests/test_session.py", "tests/vectors", "tests/test_differential.py")
    choice = ("-m", "not soak", "-k", "openssl or agree")
    assert passed(run(place, *PYTEST, *suites, *choice)) > 400


@pytest.mark.parametrize("strict", ["", "-pedantic"])
def test_its_fips_provider(place: Userland, strict: str) -> None:
    """As test_fips.py has it; a pedantic one refuses the short keys in the vectors of HMAC too."""
    enter = ("sh", "-c", WITH_FIPS, strict)
    told = ("env", f"CHECK_FIPS_PEDANTIC={strict}")
    assert passed(run(place, *enter, *told, *PYTEST, "tests/userland/check_fips.py")) > 80
    vectors = ("tests/vectors", "tests/test_differential.py", "-m", "not soak")
    choice = "(openssl or agree) and not pbkdf2"
    if strict:
        choice += " and (kdf108 or not hmac)"
    demanded = ("env", "CRYPTOFD_FIPS=1")
    assert passed(run(place, *enter, *demanded, *PYTEST, *vectors, "-k", choice)) > 100


def test_rsa_key_exchange_with_a_key_of_the_brokers(place: Userland) -> None:
    said = run(place, "python3", "tests/userland/check_rsa_key_exchange.py")
    assert said.split() == ["done"]
