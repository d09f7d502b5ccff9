"""pkcs11-check from PyPI, a conformance suite, in a Python and a folder of its own."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".lab" / "pkcs11-check"
WANTED = HERE / "pkcs11_check.txt"
#: Seconds that an installation may take before the network counts as absent.
PATIENCE = 200


def _python() -> str:
    """A Python of 3.12 or newer, or the test is skipped, visibly."""
    names = [f"python3.{minor}" for minor in range(20, 11, -1)]
    found = [shutil.which(name) for name in (*names, "python3")]
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found += sorted((str(one) for one in root.glob("3.*/bin/python")), reverse=True)
    ask = "import ensurepip, sys; sys.exit(sys.version_info < (3, 12))"
    for one in filter(None, found):
        if subprocess.run([one, "-c", ask], capture_output=True, check=False).returncode == 0:
            return one
    pytest.skip("no Python of 3.12 or newer is here, which pkcs11-check needs")


def installed() -> Path:
    """The Python of an environment that has the suite; made once."""
    python, stamp = FOLDER / "bin" / "python", FOLDER / "installed"
    if stamp.exists() and stamp.read_text() == WANTED.read_text():
        return python
    base = _python()
    shutil.rmtree(FOLDER, ignore_errors=True)
    steps = [
        [base, "-m", "venv", str(FOLDER)],
        [str(python), "-m", "pip", "install", "-q", "--only-binary", ":all:", "-r", str(WANTED)],
    ]
    for step in steps:
        try:
            done = subprocess.run(
                step, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"pkcs11-check is not to be had: {step[-1]} takes more than {PATIENCE} s")
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["?"])[-1]
            pytest.skip(f"pkcs11-check is not to be had: {last}")
    stamp.write_text(WANTED.read_text())
    return python


def cases(python: Path) -> Path:
    """The folder of its test cases."""
    (found,) = (python.parents[1] / "lib").glob("python3*/site-packages/pkcs11_check/testcases")
    return found


@dataclass
class Outcome:
    """What came of one run: names of tests as ``security.test_x.TestY::test_z[parameter]``."""

    passed: set[str]
    #: With the reasons.
    failed: dict[str, str]
    skipped: set[str]

    def by_file(self) -> Counter[str]:
        """How many failed in each file of the suite."""
        return Counter(file_of(test) for test in self.failed)


def file_of(test: str) -> str:
    parts = test.split("::")[0].split(".")
    return ".".join(part for part in parts if not part.startswith("Test"))


def ran(
    python: Path, module: Path, slot: int, folder: Path, *options: str, pin: str | None = None
) -> Outcome:
    """Run it in one process; if that dies, the test fails."""
    report = folder / "report.xml"
    pins = [] if pin is None else ["--p11-pin", pin]
    command = [
        str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", "--p11-module",
        str(module), "--p11-slot", str(slot), *pins, "--junit-xml", str(report), *options,
    ]  # fmt: skip
    # Our tests' path and options are not its own.
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    env.pop("PYTHONPATH", None)
    env["XDG_CACHE_HOME"] = str(folder)
    with (folder / "log").open("wb") as log:
        done = subprocess.run(command, cwd=folder, env=env, stdout=log, stderr=log, check=False)
    said = (folder / "log").read_text(errors="replace")[-4000:]
    assert done.returncode in (0, 1), f"the suite ended with {done.returncode}\n{said}"
    outcome = Outcome(set(), {}, set())
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').partition('testcases.')[2]}::{case.get('name')}"
        wrong = [one for one in case if one.tag in ("failure", "error")]
        if wrong:
            outcome.failed[name] = (wrong[0].get("message") or "").splitlines()[0][:300]
        elif any(one.tag == "skipped" for one in case):
            outcome.skipped.add(name)
        else:
            outcome.passed.add(name)
    return outcome


@dataclass
class Exception_:
    """Tests that fail on purpose."""

    tests: str
    slots: list[str]
    why: str

    def matches(self, test: str, slot: str) -> bool:
        # A parameter's brackets are no character class.
        pattern = re.sub(r"\[", "[[]", self.tests)
        return slot in self.slots and fnmatch.fnmatchcase(test, pattern)


def exceptions() -> list[Exception_]:
    with (HERE / "pkcs11_check.toml").open("rb") as file:
        return [Exception_(**one) for one in tomllib.load(file)["exception"]]
