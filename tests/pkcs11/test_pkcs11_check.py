"""pkcs11-check: its quick cases always; all of them in `make soak`, beside SoftHSM."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pkcs11_check as suite
import pytest
from programs import program

if TYPE_CHECKING:
    from real_broker import Broker

#: The files that hold its cases marked smoke: to look through all takes longer than to run these.
QUICK = [
    "test_aes_modes", "test_interface", "test_interface_negotiation", "test_interop_openssl",
    "test_mech_message", "test_mech_negative", "test_multipart", "test_slot",
    "test_vendor_extensions",
]  # fmt: skip
SLOTS = {"cryptofd": 0, "cryptofd keys": 1}


@pytest.fixture(scope="module")
def python() -> Path:
    return suite.installed()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("slot", SLOTS)
def test_smoke(python: Path, broker: Broker, library: Path, slot: str, tmp_path: Path) -> None:
    targets = [str(suite.cases(python) / f"{name}.py") for name in QUICK]
    # On the broker's slot it logs in, with a PIN that nobody looks at.
    pin = "1234" if slot == "cryptofd keys" else None
    done = suite.ran(python, library, SLOTS[slot], tmp_path, "-m", "smoke", *targets, pin=pin)
    assert done.failed == {}
    assert len(done.passed) > 100


def softhsm(python: Path, folder: Path) -> Counter[str]:
    """How many cases of each file fail on SoftHSM; a process for each file, since some crash it."""
    library = next(
        one
        for place in ("/usr/lib/softhsm", "/usr/lib/*/softhsm")
        for one in Path("/").glob(f"{place[1:]}/libsofthsm2.so")
    )
    (folder / "tokens").mkdir()
    conf = folder / "conf"
    conf.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n")
    env = {**os.environ, "SOFTHSM2_CONF": str(conf), "XDG_CACHE_HOME": str(folder)}
    env.pop("PYTHONPATH", None)
    token = ["--init-token", "--free", "--label", "t", "--pin", "1234", "--so-pin", "5678"]
    subprocess.run([program("softhsm2-util"), *token], check=True, env=env, capture_output=True)
    with (folder / "log").open("wb") as log:
        subprocess.run(
            [
                str(python.parent / "pkcs11-check"), "test", "--module", str(library), "--slot",
                "0", "--pin", "1234", "--so-pin", "5678", "--isolation", "file", "-o", "json",
                "--output-file", str(folder / "results.json"),
            ],
            cwd=folder, env=env, stdout=log, stderr=log, check=False,
        )  # fmt: skip
    failed: Counter[str] = Counter()
    for unit in json.loads((folder / "results.json").read_text())["units"]:
        name = unit["target"].partition("testcases/")[2].removesuffix(".py").replace("/", ".")
        # One that was ended before it said anything has no counts.
        counts = unit.get("counts") or {unit["status"]: 1}
        failed[name] = sum(
            counts.get(kind, 0) for kind in ("failed", "error", "crashed", "timeout")
        )
    return failed


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_everything(python: Path, broker: Broker, library: Path, tmp_path: Path) -> None:
    program("softhsm2-util")
    folders = {name: tmp_path / name.replace(" ", "-") for name in (*SLOTS, "SoftHSM")}
    for folder in folders.values():
        folder.mkdir()
    all_cases = str(suite.cases(python))
    with ThreadPoolExecutor() as pool:
        runs = {
            slot: pool.submit(
                suite.ran, python, library, place, folders[slot], all_cases,
                pin="1234" if place else None,
            )
            for slot, place in SLOTS.items()
        }  # fmt: skip
        theirs = pool.submit(softhsm, python, folders["SoftHSM"]).result()
        done = {slot: run.result() for slot, run in runs.items()}
    table = suite.exceptions()
    wrong = []
    for slot, outcome in done.items():
        excepted = {
            test for test in outcome.failed if any(one.matches(test, slot) for one in table)
        }
        wrong += [
            f"{slot}: {test}: {why}" for test, why in outcome.failed.items() if test not in excepted
        ]
        left = Counter(suite.file_of(test) for test in outcome.failed.keys() - excepted)
        wrong += [
            f"{slot}: {file} fails {count}, SoftHSM {theirs[file]}"
            for file, count in left.items()
            if count > theirs[file]
        ]
        assert len(outcome.passed) > 2000, slot
        print(
            f"{slot}: {len(outcome.passed)} passed, {len(outcome.failed)} failed of which "
            f"{len(excepted)} are excepted, {len(outcome.skipped)} skipped or expected to fail"
        )
    print(f"SoftHSM: {sum(theirs.values())} failed")
    wrong += [
        f"the exception {one.tests} is needed no longer on {slot}"
        for one in table
        for slot in one.slots
        if not any(one.matches(test, slot) for test in done[slot].failed)
    ]
    assert not wrong, "\n".join(wrong)
