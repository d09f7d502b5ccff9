"""Every kernel boots, and what pytest says in it is said here, test by test."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lab.common import NAMES
from lab.kernels import CHECKOUT

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

RECORDER = """
import json

def pytest_runtest_logreport(report):
    if report.when == "call" or report.skipped:
        with open("reports", "a") as reports:
            said = report.longrepr[2] if report.skipped else report.longreprtext
            json.dump([report.nodeid, report.outcome, said, report.capstdout], reports)
            reports.write("\\n")
"""


def relayed(tmp_path: Path, module: str) -> tuple[list[tuple[str, str]], dict[str, str], str]:
    """Runs a module of selections in a pytest of its own.

    Returns (node id, outcome) in order, what was said by node id, and the terminal's output.
    """
    (tmp_path / "conftest.py").write_text(RECORDER)
    (tmp_path / "test_module.py").write_text(
        "from lab import Selection\n" + textwrap.dedent(module)
    )
    command = [sys.executable, "-m", "pytest", "-p", "lab.plugin", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "-c", "/dev/null", "test_module.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(CHECKOUT), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    outcomes, said = [], {}
    for line in (tmp_path / "reports").read_text().splitlines():
        nodeid, outcome, text, printed = json.loads(line)
        name = nodeid.replace("test_module.py::", "").replace("tests/lab/inner/", "")
        outcomes.append((name, outcome))
        said[name] = text + printed
    return outcomes, said, done.stdout + done.stderr


@pytest.mark.parametrize("kernel", NAMES)
def test_three_results_come_back_as_they_were(kernel: str, tmp_path: Path) -> None:
    check = "tests/lab/inner/check_three.py"
    outcomes, said, output = relayed(tmp_path, f"three = Selection({kernel!r}, {check!r})")
    inside = f"three@{kernel}::check_three.py"
    assert outcomes == [
        (f"{inside}::test_passes", "passed"),
        (f"{inside}::test_fails", "failed"),
        (f"{inside}::test_skips", "skipped"),
        (f"three@{kernel}", "passed"),
    ], output
    assert (
        f"printed by Linux {kernel.removeprefix('qemu-').replace('uml', '')}"
        in (said[f"{inside}::test_passes"])
    )
    assert "this failure must reach the host" in said[f"{inside}::test_fails"]
    assert "not in a lab kernel" in said[f"{inside}::test_skips"]
    assert "1 failed, 2 passed, 1 skipped" in output


def test_selections_with_one_setting_share_a_boot_and_stay_apart(tmp_path: Path) -> None:
    module = """
        check = "tests/lab/inner/check_three.py"
        first = Selection("uml", check, "-k", "passes")
        second = Selection("uml", check, "-k", "skips")
        nothing = Selection("uml", check, "-k", "no_such_test")
        missing = Selection("uml", "tests/lab/inner/no_such_file.py")
        broken = Selection("uml", "tests/lab/inner/check_broken.py")
        dies = Selection("uml", "tests/lab/inner/check_death.py", "-k", "process")
        last = Selection("uml", "tests/lab/inner/check_death.py", "-k", "kernel")
    """
    outcomes, said, output = relayed(tmp_path, module)
    assert outcomes == [
        ("first@uml::check_three.py::test_passes", "passed"),
        ("first@uml", "passed"),
        ("second@uml::check_three.py::test_skips", "skipped"),
        ("second@uml", "passed"),
        ("nothing@uml", "failed"),
        ("missing@uml", "failed"),
        ("broken@uml", "failed"),
        ("dies@uml::check_death.py::test_kills_its_process", "failed"),
        ("dies@uml", "failed"),
        ("last@uml::check_death.py::test_kills_its_kernel", "failed"),
        ("last@uml", "failed"),
    ], output
    assert "NO_TESTS_COLLECTED" in said["nothing@uml"]
    assert "no_such_file.py" in said["missing@uml"]
    assert "no_such_module" in said["broken@uml"]
    assert "killed by signal 9" in said["dies@uml"]
    assert "sysrq triggered crash" in said["last@uml"]


def test_what_tests_beside_a_selection_share_ends_with_it(tmp_path: Path) -> None:
    module = """
        import pytest

        class TestShares:
            @pytest.fixture(scope="class")
            @classmethod
            def shared(cls):
                yield

            def test_before(self, shared):
                assert True

            among = Selection("uml", "tests/lab/inner/check_three.py", "-k", "passes")

        def test_after():
            assert False
    """
    outcomes, said, output = relayed(tmp_path, module)
    assert outcomes == [
        ("TestShares::test_before", "passed"),
        ("TestShares::among@uml::check_three.py::test_passes", "passed"),
        ("TestShares::among@uml", "passed"),
        ("test_after", "failed"),
    ], output
    assert "assert False" in said["test_after"]
    assert "previous item" not in output


@pytest.mark.parametrize("name", ["test_watchdog_barks", "test_cpu_is_not_heard_of"])
def test_a_kernel_that_is_locked_up_is_booted_once_more(name: str, tmp_path: Path) -> None:
    check = f'"tests/lab/inner/check_lockup.py", "-k", "passes or {name}"'
    module = f"""
        first = Selection("uml", "tests/lab/inner/check_three.py", "-k", "passes")
        locked = Selection("uml", {check}, patience=10)
        silent = Selection("uml", "tests/lab/inner/check_three.py", "-k", "skips")
    """
    outcomes, said, output = relayed(tmp_path, module)
    assert outcomes == [
        ("first@uml::check_three.py::test_passes", "passed"),
        ("first@uml", "passed"),
        ("locked@uml::check_lockup.py::test_passes", "passed"),
        (f"locked@uml::check_lockup.py::{name}", "failed"),
        ("locked@uml", "failed"),
        ("silent@uml", "failed"),
    ], output
    assert "said nothing for 10 s" in said["locked@uml"]
    assert "uml locked up; it is booted again" in output
    assert "said nothing for 10 s at a selection before this one" in said["silent@uml"]
