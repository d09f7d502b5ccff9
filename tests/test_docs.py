"""Every command and example in README.md and docs/ is run; pages from tables are current."""

from __future__ import annotations

import doctest
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def blocks(language: str) -> Iterator[tuple[Path, int, str]]:
    """The fenced blocks of one language: page, line, text."""
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            yield page, text.count("\n", 0, match.start()) + 1, match[1]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_examples(page: Path) -> None:
    examples = [(line, text) for where, line, text in blocks("python") if where == page]
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    names: dict[str, object] = {"__name__": "__main__"}
    for line, text in examples:
        # What has no prompt is a program: it runs as it stands.
        if ">>>" not in text:
            exec(compile("\n" * line + text, str(page), "exec"), names)
            continue
        test = doctest.DocTestParser().get_doctest(text, names, name_of(page), str(page), line)
        runner.run(test, clear_globs=False)
        names.update(test.globs)
    assert runner.failures == 0


@pytest.fixture
def shell(tmp_path: Path) -> Path:
    """A directory with the pages in it and `cryptofd` on the path."""
    for page in PAGES:
        shutil.copy(page, tmp_path)
    program = tmp_path / "bin" / "cryptofd"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cryptofd "$@"\n')
    program.chmod(0o755)
    return tmp_path


SHELL = list(blocks("sh"))


@pytest.mark.parametrize(
    ("page", "line", "text"), SHELL, ids=[f"{name_of(page)}:{line}" for page, line, _ in SHELL]
)
def test_shell_examples(page: Path, line: int, text: str, shell: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{shell / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "XDG_CONFIG_HOME": str(shell / "config"),
        "XDG_STATE_HOME": str(shell / "state"),
        "XDG_RUNTIME_DIR": str(shell / "run"),
    }
    (shell / "run").mkdir(mode=0o700)
    # A line with `!` succeeds when its command fails; -e passes over those, so they are asked.
    script = re.sub(r"^! (.*)$", r"if \1; then exit 99; fi", text, flags=re.MULTILINE)
    # `doctor` answers for this host, which may have something to mend.
    script = re.sub(r"^(cryptofd doctor\b.*?)(\s+#.*)?$", r"\1 || test $? = 1", script, flags=re.M)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=shell,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert not (shell / "run" / "cryptofd" / "broker").exists(), "an example leaves its broker"


C = list(blocks("c"))


@pytest.mark.parametrize(
    ("page", "line", "text"), C, ids=[f"{name_of(page)}:{line}" for page, line, _ in C]
)
def test_c_examples(page: Path, line: int, text: str, shell: Path) -> None:
    (shell / "hello.c").write_text(text)
    # As the README says it, and with every warning an error.
    build = "cc -Wall -Wextra -Werror hello.c $(cryptofd config) -o hello"
    assert build.replace("-Wall -Wextra -Werror ", "") in page.read_text()
    environment = {**os.environ, "PATH": f"{shell / 'bin'}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    subprocess.run(["sh", "-c", build], cwd=shell, env=environment, check=True)
    done = subprocess.run(["./hello"], cwd=shell, capture_output=True, text=True, check=True)
    # All of them hash "hello".
    assert done.stdout.strip() == hashlib.sha256(b"hello").hexdigest()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_page_of_algorithms_is_current() -> None:
    drawn = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "algorithms.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ROOT / "docs" / "algorithms.md").read_text() == drawn.stdout


def test_every_command_is_documented() -> None:
    from cryptofd.cli import COMMANDS

    page = (ROOT / "docs" / "cli.md").read_text()
    for name, _, _ in COMMANDS:
        assert re.search(rf"^## .*\b{name}\b", page, re.MULTILINE), name
