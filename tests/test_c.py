"""The C door: a program that multiplexes, the ABI's shape, and one source for every number."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

import cryptofd

ROOT = Path(__file__).parent.parent
DOOR = ROOT / "crates/door-c"
RECORD = tomllib.loads((ROOT / "interface/record.toml").read_text())


def run(*command: object, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, **more)


@pytest.fixture(scope="module")
def library() -> Path:
    """The package's libcryptofd.so, in a directory that also has its soname."""
    found = Path(cryptofd.__file__).parent / "lib"
    for name in ("libcryptofd.so", "libcryptofd.so.0"):
        assert (found / name).exists(), f"{found} has no {name}"
    return found / "libcryptofd.so.0"


@pytest.fixture(scope="module")
def program(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    program = tmp_path_factory.mktemp("c") / "multiplex"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-g"]
    paths = ["-I", DOOR / "include", "-L", library.parent, f"-Wl,-rpath,{library.parent}"]
    source = ROOT / "tests/c/multiplex.c"
    built = run("cc", *flags, *paths, source, "-o", program, "-lcryptofd")
    assert built.returncode == 0, built.stderr
    return program


EXPECTED = ["multiplexed: 200 messages, 5 ticks or more"] + [
    f"{what}: right" for what in ("errors", "answers", "signals")
]


@pytest.mark.timeout(600)
def test_one_epoll_loop_for_a_timerfd_a_socket_and_ten_cryptofds(program: Path) -> None:
    done = run(program, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == EXPECTED


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_same_under_valgrind(program: Path) -> None:
    if not shutil.which("valgrind"):
        pytest.skip("no valgrind")
    # A fork's child inherits what its parent's threads held, and nobody frees it: no leak check.
    command = ["valgrind", "-q", "--error-exitcode=9", "--leak-check=no"]
    done = run(*command, program, timeout=800)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == EXPECTED


def test_only_our_symbols_leave_the_library(library: Path) -> None:
    out = run("nm", "-D", "--defined-only", library).stdout
    names = sorted(line.split()[-1] for line in out.splitlines())
    assert names == ["cryptofd", "cryptofd_complete", "cryptofd_info", "cryptofd_submit"]


def test_the_soname_and_that_it_stays_loaded(library: Path) -> None:
    out = run("readelf", "-d", library).stdout
    assert "Library soname: [libcryptofd.so.0]" in out
    assert "NODELETE" in out


def test_the_header_also_is_cplusplus(tmp_path: Path) -> None:
    if not shutil.which("c++"):
        pytest.skip("no C++ compiler")
    source = tmp_path / "header.cc"
    source.write_text("#include <cryptofd.h>\nint main() { return sizeof(cryptofd_args) == 0; }\n")
    command = ["c++", "-Wall", "-Wextra", "-Werror", "-I", DOOR / "include", "-fsyntax-only"]
    built = run(*command, source)
    assert built.returncode == 0, built.stderr


def defines() -> dict[str, int]:
    text = (DOOR / "include/cryptofd.h").read_text()
    return {n: int(v) for n, v in re.findall(r"^#define CRYPTOFD_(\w+) (\d+)", text, re.M)}


def test_the_header_has_the_numbers_of_the_record() -> None:
    has = defines()
    assert {name: has[name] for name in RECORD["op"]} == RECORD["op"]
    assert has["RUNNING"] == RECORD["flag"]["RUNNING"]
    limits = RECORD["limits"]
    for name in ("inline", "record", "attached"):
        assert has[f"{name.upper()}_MAX"] == limits[name]


def table(page: str, first: str) -> list[list[str]]:
    """The rows of the Markdown table whose header begins with `first`."""
    rows = page.split(f"| {first} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_page_on_the_wire_has_the_numbers_of_the_record() -> None:
    page = (ROOT / "docs/wire.md").read_text()
    fields = [(name, int(offset), int(size)) for name, offset, size, _ in table(page, "field")]
    assert fields == [(f["name"], f["offset"], f["bytes"]) for f in RECORD["field"]]
    assert {row[0]: int(row[1]) for row in table(page, "op | number")} == RECORD["op"]
    assert {row[0]: int(row[1]) for row in table(page, "parameter | number")} == RECORD["param"]
    assert {row[0]: int(row[1]) for row in table(page, "flag | value")} == RECORD["flag"]
    assert {row[0]: int(row[1].split()[0]) for row in table(page, "limit")} == RECORD["limits"]


def test_the_manual_page_speaks_of_every_function_and_field() -> None:
    page = (DOOR / "man/cryptofd.3").read_text()
    header = (DOOR / "include/cryptofd.h").read_text()
    functions = re.findall(r"^int (cryptofd\w*)\(", header, re.M)
    assert len(functions) == 4
    structures = "".join(re.findall(r"^struct \w+ \{(.*?)^\};", header, re.M | re.S))
    names = re.findall(r"(\w+)(?:\[\d+\])?;", re.sub(r"/\*.*?\*/", "", structures))
    assert len(names) > 35
    missing = [n for n in functions + names if n != "reserved" and n not in page]
    assert missing == []
    for op in RECORD["op"]:
        if op != "RING":
            assert f"CRYPTOFD_{op}" in page, op
    if shutil.which("man"):
        shown = run("man", "--warnings", "-l", DOOR / "man/cryptofd.3", env={"LC_ALL": "C"})
        assert (shown.returncode, shown.stderr) == (0, "")
