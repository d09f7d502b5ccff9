"""The tests of PyCA's `cryptography`, from the source distribution of the version that is here."""

from __future__ import annotations

import fcntl
import fnmatch
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import tomllib
import xml.etree.ElementTree
from dataclasses import dataclass
from pathlib import Path

import pytest
from hosts import Host

VERSION = importlib.metadata.version("cryptography")
PLACE = Path(__file__).parents[2] / ".lab" / "pyca"
FOLDER = "tests/hazmat/primitives"

#: In place of the backend that would compile the wheel: pip wants no more than its name.
BACKEND = f"""
    import os
    def get_requires_for_build_wheel(config_settings=None):
        return []
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        name = "cryptography-{VERSION}.dist-info"
        os.mkdir(os.path.join(folder, name))
        with open(os.path.join(folder, name, "METADATA"), "w") as file:
            file.write("Metadata-Version: 2.1\\nName: cryptography\\nVersion: {VERSION}\\n")
        return name
"""

CONFIGURATION = """\
[pytest]
markers =
    skip_fips: theirs
    supported: theirs
    malloc_failure: theirs
"""


def _fetch(folder: Path) -> Path:
    """The archive, whose hash pip verifies."""
    backend = folder / "backend"
    backend.mkdir()
    (backend / "maturin.py").write_text(textwrap.dedent(BACKEND))
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "cryptography",
        "--no-build-isolation", "-q", "--retries", "1", "-d", str(folder),
        f"cryptography=={VERSION}",
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(backend)}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or not archives:
        pytest.skip(f"pip gave no source of cryptography {VERSION}: {done.stderr[-300:]}")
    return archives[0]


def fetched() -> Path:
    """The folder with their tests in it; fetched once."""
    place = PLACE / VERSION
    PLACE.mkdir(parents=True, exist_ok=True)
    with (PLACE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=PLACE) as name:
                folder = Path(name)
                with tarfile.open(_fetch(folder)) as archive:
                    archive.extractall(folder / "all", filter="data")
                tests = folder / "all" / f"cryptography-{VERSION}" / "tests"
                if not tests.is_dir():
                    pytest.skip(f"no tests are in the source of cryptography {VERSION}")
                (folder / "tests").mkdir()
                tests.rename(folder / "tests" / "tests")
                (folder / "tests" / "pytest.ini").write_text(CONFIGURATION)
                shutil.move(folder / "tests", place)
    return place


@dataclass(frozen=True)
class Skip:
    """Tests that do without us, and why."""

    names: tuple[str, ...]
    reason: str


def skips() -> list[Skip]:
    file = Path(__file__).with_name("pyca_skipped.toml")
    found = tomllib.loads(file.read_text())["skip"]
    return [Skip(tuple(one["names"]), one["reason"]) for one in found]


@dataclass(frozen=True)
class Ran:
    """What became of the tests: FILE::NAME."""

    passed: frozenset[str]
    failed: dict[str, str]
    said: str

    def unlisted(self) -> dict[str, str]:
        """Those that failed and stand in no list."""
        names = [name for one in skips() for name in one.names]
        return {
            test: why for test, why in self.failed.items()
            if not any(fnmatch.fnmatchcase(test, name) for name in names)
        }  # fmt: skip


def run(host: Host, files: list[str], which: str = "", **env: str) -> Ran:
    """Runs these files of theirs, or those tests of theirs that ``which`` (-k) chooses."""
    root = fetched()
    there = [f"{FOLDER}/{file}" for file in files if (root / FOLDER / file).exists()]
    assert there, f"cryptography {VERSION} has none of {files}"
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.xml"
        command = [
            sys.executable, "-m", "pytest", "-q", "-c", "pytest.ini", "--rootdir", ".",
            "-p", "no:cacheprovider", "--timeout", "0", "--tb", "line", f"--junit-xml={report}",
            "-k", which, *there,
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=root, env=host.environment(**env),
            stdin=subprocess.DEVNULL, capture_output=True, timeout=3000, check=False,
        )  # fmt: skip
        said = (done.stdout + done.stderr).decode(errors="replace")
        assert report.exists(), said[-3000:]
        tree = xml.etree.ElementTree.parse(report)
    passed, failed = set(), {}
    for case in tree.iter("testcase"):
        place = case.get("classname", "").removeprefix(FOLDER.replace("/", ".") + ".")
        test = f"{place}.{case.get('name')}"
        bad = [child for child in case if child.tag in ("failure", "error")]
        if bad:
            failed[test] = f"{bad[0].get('message')}"[:300]
        elif not any(child.tag == "skipped" for child in case):
            passed.add(test)
    return Ran(frozenset(passed), failed, said)
