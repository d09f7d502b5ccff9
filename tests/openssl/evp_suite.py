"""OpenSSL's own evp_test: from Debian's source package, built once, and its stanzas."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
from pathlib import Path

import pytest

PLACE = Path(__file__).parents[2] / ".lab" / "openssl"
SOURCES = re.compile(r"^Types: deb$", re.MULTILINE)
KINDS = ("Cipher", "Digest", "MAC", "KDF", "PBE")


def _run(*command: str | Path, cwd: Path, **env: str) -> None:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:].decode(errors='replace')}"


def _fetch(folder: Path) -> Path:
    """The package's upstream archive, whose hash apt verifies."""
    lists, parts = folder / "lists", folder / "deb.sources"
    (lists / "partial").mkdir(parents=True)
    known = Path("/etc/apt/sources.list.d/debian.sources")
    if not known.exists():
        pytest.skip("apt has no debian.sources here")
    parts.write_text(SOURCES.sub("Types: deb-src", known.read_text()))
    config = folder / "apt.conf"
    config.write_text(
        f'Dir::Etc::sourcelist "{parts}";\nDir::Etc::sourceparts "-";\n'
        f'Dir::State::Lists "{lists}";\nDir::Cache "{folder}";\n'
    )
    env = {**os.environ, "APT_CONFIG": str(config)}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "source", "--download-only", "-q", "openssl"],
    ):
        subprocess.run(command, cwd=folder, env=env, check=False, capture_output=True)
    archives = sorted(folder.glob("openssl_*.orig.tar.gz"))
    if not archives:
        pytest.skip("apt gave no source of openssl")
    return archives[-1]


def built() -> Path:
    """The source tree with test/evp_test in it."""
    made = PLACE / "source"
    if (made / "test" / "evp_test").exists():
        return made
    work = PLACE / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with tarfile.open(_fetch(work)) as archive:
        archive.extractall(work, filter="data")
    tree = next(path for path in work.iterdir() if (path / "Configure").exists())
    _run("./config", "no-shared", "no-legacy", cwd=tree)
    _run("make", "-s", "build_generated", cwd=tree)
    _run("make", "-s", "-j2", "test/evp_test", cwd=tree)
    shutil.rmtree(made, ignore_errors=True)
    tree.rename(made)
    return made


class Skips:
    """The list of what is not run."""

    def __init__(self) -> None:
        text = Path(__file__).with_name("evp_skipped.toml").read_text()
        self.rules = tomllib.loads(text)["skip"]

    def reason(self, name: str) -> str | None:
        def one_of(patterns: list[str]) -> bool:
            return any(fnmatch.fnmatch(name.lower(), one.lower()) for one in patterns)

        for rule in self.rules:
            if one_of(rule["names"]) and not one_of(rule.get("except", [])):
                return str(rule["reason"])
        return None


def chosen(file: Path, skips: Skips) -> tuple[str, int, set[str]]:
    """The stanzas that are run, how many there are, and the names of those that are not."""
    kept, count, skipped = [], 0, set()
    for stanza in re.split(r"\n\s*\n", file.read_text()):
        lines = [line for line in stanza.splitlines() if line and not line.startswith("#")]
        if not lines:
            continue
        pairs = [line.partition("=")[::2] for line in lines]
        name = next((name.strip() for kind, name in pairs if kind.strip() in KINDS), None)
        if name is None:
            kept.append("\n".join(lines))
        elif skips.reason(name) is None:
            kept.append("\n".join(lines))
            count += 1
        else:
            skipped.add(name)
    return "\n\n".join(kept) + "\n", count, skipped
