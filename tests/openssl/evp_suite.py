"""OpenSSL's own evp_test, from Debian's source package, and its stanzas.

The program is linked with the libcrypto that programs use, this host's or that of a userland of the
lab's, so that nothing of OpenSSL has to be built but the test itself.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import userland

PLACE = Path(__file__).parents[2] / ".lab" / "openssl"
#: The host's own OpenSSL, beside the userlands'.
HOST = "host"
TYPES = re.compile(r"^Types: deb$", re.MULTILINE)
KINDS = ("Cipher", "Digest", "MAC", "KDF", "PBE")
COMPLETED = re.compile(r"Completed (\d+) tests with (\d+) errors and (\d+) skipped")
DATA = "test/recipes/30-test_evp_data"
#: The default provider's: keys of a program's own, random numbers with entropy of the test's.
OTHERS = ("evppkey", "evprand", "evpencod", "evpkem", "evprsa")


@dataclass(frozen=True)
class Suite:
    """The program and its files."""

    program: Path
    folder: Path

    def files(self, prefix: str = "evp") -> list[Path]:
        """Those whose stanzas are about what a provider does with bytes and symmetric keys."""
        found = sorted(self.folder.glob(f"{prefix}*.txt"))
        return [file for file in found if not file.name.startswith(OTHERS)]


def present(place: str = HOST) -> Suite | None:
    """The suite for the OpenSSL of this place, if it was made."""
    suite = Suite(PLACE / place / "evp_test", PLACE / place / "data")
    return suite if suite.program.exists() else None


def built(place: str = HOST) -> Suite:
    """The same, made if need be."""
    suite = present(place)
    if suite is not None:
        return suite
    made = PLACE / place
    work = PLACE / f"{place}.work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    tree, headers = _fetch(place, work)
    _compile(place, tree, headers)
    shutil.copytree(tree / DATA, work / "made" / "data")
    shutil.copy(tree / "test" / "evp_test", work / "made")
    shutil.rmtree(made, ignore_errors=True)
    (work / "made").rename(made)
    shutil.rmtree(work)
    return Suite(made / "evp_test", made / "data")


def _fetch(place: str, work: Path) -> tuple[Path, Path]:
    """The source and the headers that were made of it, unpacked; apt verifies both."""
    lists, sources = work / "lists", work / "openssl.list"
    (lists / "partial").mkdir(parents=True)
    if place == HOST:
        known = Path("/etc/apt/sources.list.d/debian.sources")
        if not known.exists():
            pytest.skip("apt has no debian.sources here")
        sources = sources.with_suffix(".sources")
        sources.write_text(TYPES.sub("Types: deb deb-src", known.read_text()))
    else:
        binary = userland.sources(place)
        source = [line.replace("deb ", "deb-src ", 1) for line in binary]
        sources.write_text("\n".join([*binary, *source, ""]))
    config = work / "apt.conf"
    config.write_text(
        f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "-";\n'
        f'Dir::State::Lists "{lists}";\nDir::Cache "{work}";\nAcquire::Languages "none";\n'
    )

    def apt(*words: str) -> None:
        subprocess.run(
            ["apt-get", "-q", *words], cwd=work, env={**os.environ, "APT_CONFIG": str(config)},
            check=False, capture_output=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    apt("update")
    apt("download", f"libssl-dev={_series(place)}.*")
    package = next(work.glob("libssl-dev_*.deb"), None)
    if package is None:
        pytest.skip(f"apt gave no libssl-dev {_series(place)} for {place}")
    # Mirrors do not have each source that is listed. Only the archive is needed.
    for version in _listed(place, config):
        apt("source", "--download-only", f"openssl={version}")
        archive = next(work.glob("openssl_*.orig.tar.gz"), None)
        if archive is not None:
            break
    else:
        pytest.skip(f"apt gave no source of openssl {_series(place)} for {place}")
    with tarfile.open(archive) as opened:
        opened.extractall(work, filter="data")
    _run("dpkg-deb", "-x", package, work / "headers", cwd=work)
    tree = next(path for path in work.iterdir() if (path / "Configure").exists())
    return tree, work / "headers" / "usr" / "include"


def _library(place: str) -> Path:
    """The newest libcrypto there."""
    root = Path("/") if place == HOST else userland.userland(place).root
    return sorted(root.glob("usr/lib/*/libcrypto.so.*"))[-1]


def _series(place: str) -> str:
    """Its version, as far as one release's files do for another."""
    found = re.search(rb"OpenSSL (\d+\.\d+)\.\d+ \d+ ", _library(place).read_bytes())
    assert found, _library(place)
    return found[1].decode()


def _listed(place: str, config: Path) -> list[str]:
    """The versions of the source package that apt knows, latest first."""
    said = subprocess.run(
        ["apt-cache", "showsrc", "--only-source", "openssl"], check=False, capture_output=True,
        text=True, env={**os.environ, "APT_CONFIG": str(config)},
    )  # fmt: skip
    found = re.findall(rf"^Version: ({re.escape(_series(place))}\..*)$", said.stdout, re.MULTILINE)
    return found[::-1]


def _compile(place: str, tree: Path, headers: Path) -> None:
    """test/evp_test and what it shares with OpenSSL's other tests, as test/build.info has it."""
    include = [".", "include", "apps/include", headers, *headers.glob("*-linux-*")]
    flags = ["-O1", "-w", "-DNO_LEGACY_MODULE", *(f"-I{path}" for path in include)]
    objects = tree / "objects"
    objects.mkdir()
    for source in (*(tree / "test" / "testutil").glob("*.c"), tree / "apps" / "lib" / "opt.c"):
        _run("cc", *flags, "-c", "-o", objects / f"{source.stem}.o", source, cwd=tree)
    _run("ar", "rcs", "libtestutil.a", *sorted(objects.iterdir()), cwd=tree)
    # A later userland's libcrypto wants a later libc than this compiler's.
    later = "-Wl,--unresolved-symbols=ignore-in-shared-libs"
    _run(
        "cc", *flags, "-o", "test/evp_test", "test/evp_test.c", "libtestutil.a", _library(place),
        "-lpthread", later, cwd=tree,
    )  # fmt: skip


def _run(*command: str | Path, cwd: Path) -> None:
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:].decode(errors='replace')}"


@dataclass(frozen=True)
class Stanza:
    """One test: what it is about, and its lines."""

    name: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n\n"

    @property
    def expects_success(self) -> bool:
        return not any(line.startswith("Result ") for line in self.lines)


def stanzas(file: Path) -> Iterator[Stanza]:
    """All of a file's, without its titles."""
    for part in re.split(r"\n\s*\n", file.read_text()):
        lines = tuple(line for line in part.splitlines() if line and not line.startswith("#"))
        pairs = [line.partition("=")[::2] for line in lines]
        name = next((name.strip() for kind, name in pairs if kind.strip() in KINDS), "")
        if name:
            yield Stanza(name, lines)


class Skips:
    """A list of what is not run, with the reasons."""

    def __init__(self, key: str = "skip") -> None:
        text = Path(__file__).with_name("evp_skipped.toml").read_text()
        self.rules = tomllib.loads(text)[key]

    def reason(self, stanza: Stanza) -> str | None:
        def one_of(said: str, patterns: list[str]) -> bool:
            return any(fnmatch.fnmatch(said.lower(), one.lower()) for one in patterns)

        for rule in self.rules:
            names, lines = rule.get("names", ["*"]), rule.get("lines", ["*"])
            named = one_of(stanza.name, names) and not one_of(stanza.name, rule.get("except", []))
            if named and any(one_of(line, lines) for line in stanza.lines):
                return str(rule["reason"])
        return None


@dataclass
class Choice:
    """A file's stanzas, parted."""

    kept: list[Stanza] = field(default_factory=list)
    left: list[Stanza] = field(default_factory=list)

    @classmethod
    def of(cls, file: Path, *skips: Skips) -> Choice:
        choice = cls()
        for stanza in stanzas(file):
            skipped = any(one.reason(stanza) for one in skips)
            (choice.left if skipped else choice.kept).append(stanza)
        return choice


def written(file: Path, stanzas: list[Stanza]) -> Path:
    """A file of stanzas."""
    file.write_text("".join(stanza.text for stanza in stanzas))
    return file


@dataclass(frozen=True)
class Ran:
    """What evp_test said."""

    count: int
    failed: int
    skipped: int
    said: str


def run(
    suite: Suite, configuration: Path, file: Path, *before: str, query: str = "", **env: str
) -> Ran:
    """Runs a file of stanzas in an environment of its own; ``before`` is a command that runs it."""
    command = [*before, str(suite.program), "-config", str(configuration)]
    command += ["-propquery", query] if query else []
    command += [str(file)]
    done = subprocess.run(
        command, capture_output=True, timeout=1200, check=False,
        env={"OPENSSL_CONF": "/dev/null", "PATH": os.environ["PATH"], **env},
    )  # fmt: skip
    said = (done.stdout + done.stderr).decode(errors="replace")
    found = COMPLETED.search(said)
    assert found, f"{command}: {done.returncode}: {said[-2000:]}"
    return Ran(*map(int, found.groups()), said)
