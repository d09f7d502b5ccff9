"""`cryptofd hash` and `mac` beside sha256sum and its kin: the same lines, the same exit codes."""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cryptofd
from cryptofd.cli import digests
from cryptofd.cli.output import Progress

CRYPTOFD = [sys.executable, "-m", "cryptofd"]

NAMES = ["plain", "sp ace", "back\\slash", "new\nline", "re\rturn", "-dash", "#hash", "ü", " "]
NAMES += [os.fsdecode(b"not-utf-8-\xff")]


def run(*arguments: str, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The command, and whatever it says."""
    return subprocess.run(
        [*CRYPTOFD, *arguments], cwd=cwd, input=stdin, capture_output=True, timeout=60, check=False
    )


def coreutils(*arguments: str, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The model."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        arguments, cwd=cwd, input=stdin, capture_output=True, env=environment, check=False
    )


def same(
    ours: subprocess.CompletedProcess[bytes], model: subprocess.CompletedProcess[bytes]
) -> None:
    assert ours.stdout == model.stdout
    assert ours.stderr.replace(b"cryptofd: ", b"") == model.stderr.replace(b"sha256sum: ", b"")
    assert ours.returncode == model.returncode


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(bytes([number]) * number * 100_000)
    return tmp_path


@pytest.mark.parametrize("flags", [[], ["-b"], ["--tag"], ["-z"], ["-z", "--tag"], ["-t"]])
def test_lines_are_those_of_sha256sum(files: Path, flags: list[str]) -> None:
    names = ["--", *NAMES, "missing", "."]
    ours, model = (
        run("hash", *flags, *names, cwd=files),
        coreutils("sha256sum", *flags, *names, cwd=files),
    )
    assert model.returncode == 1
    same(ours, model)


@pytest.mark.parametrize(
    ("algorithm", "tool"),
    [
        *((name, f"{name}sum") for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")),
        ("blake2b", "b2sum"),
    ],
)
def test_other_algorithms(files: Path, algorithm: str, tool: str) -> None:
    for flags in ([], ["--tag"]):
        ours = run("hash", "-a", algorithm, *flags, "plain", "sp ace", cwd=files)
        assert ours.stdout == coreutils(tool, *flags, "plain", "sp ace", cwd=files).stdout
        # Each accepts the other's list.
        assert coreutils(tool, "-c", cwd=files, stdin=ours.stdout).returncode == 0
        asked = ["-a", algorithm] if not flags else []
        assert run("hash", "-c", *asked, cwd=files, stdin=ours.stdout).returncode == 0


def test_lengths(files: Path) -> None:
    ours = run("hash", "-a", "blake2b", "-l", "256", "--tag", "plain", cwd=files)
    assert ours.stdout == coreutils("b2sum", "-l", "256", "--tag", "plain", cwd=files).stdout
    assert run("hash", "-c", cwd=files, stdin=ours.stdout).stdout == b"plain: OK\n"
    shake = run("hash", "-a", "shake128", "-l", "800", "sp ace", cwd=files).stdout
    expected = hashlib.shake_128((files / "sp ace").read_bytes()).hexdigest(100)
    assert shake == f"{expected}  sp ace\n".encode()
    wrong = run("hash", "-a", "blake2b", "-l", "12", "plain", cwd=files)
    assert wrong.returncode == 1
    assert b"multiple of 8" in wrong.stderr


def test_standard_input(files: Path) -> None:
    for arguments in ([], ["-"], ["-", "plain"]):
        same(
            run("hash", *arguments, cwd=files, stdin=b"abc" * 200_000),
            coreutils("sha256sum", *arguments, cwd=files, stdin=b"abc" * 200_000),
        )


LISTS = {
    "all is well": "",
    "an empty line": "\n",
    "a comment": "# hello\n",
    "nonsense": "nonsense\nmore of it\n",
    "one line of nonsense": "deadbeef\n",
    "missing": f"{'0' * 64}  missing\n",
    "two missing": f"{'0' * 64}  missing\n{'0' * 64}  missing too\n",
    "wrong": f"{'0' * 64}  plain\n",
    "two wrong": f"{'0' * 64}  plain\n{'1' * 64} *sp ace\n",
    "too short": f"{'0' * 62}  plain\n",
    "a directory": f"{'0' * 64}  .\n",
    "a bad escape": f"\\{'0' * 64}  back\\xslash\n",
    "upper case": f"{hashlib.sha256(b'').hexdigest().upper()}  plain\n",
    "carriage return": f"{hashlib.sha256(b'').hexdigest()}  plain\r\n",
    "a tag": f"SHA256 (plain) = {hashlib.sha256(b'').hexdigest()}\n",
    "no end": f"{'0' * 64}  plain",
}


def _listed(files: Path, more: str) -> None:
    names = ["--", *NAMES]
    text = coreutils("sha256sum", *names, cwd=files).stdout + more.encode()
    (files / "list").write_bytes(text)


@pytest.mark.parametrize("more", LISTS.values(), ids=LISTS.keys())
def test_checks_are_those_of_sha256sum(files: Path, more: str) -> None:
    _listed(files, more)
    same(run("hash", "-c", "list", cwd=files), coreutils("sha256sum", "-c", "list", cwd=files))


@pytest.mark.parametrize("flag", ["--quiet", "--status", "--strict", "--ignore-missing"])
@pytest.mark.parametrize("more", ["all is well", "nonsense", "two missing", "two wrong"])
def test_what_a_check_may_be_asked(files: Path, more: str, flag: str) -> None:
    _listed(files, LISTS[more])
    same(
        run("hash", "-c", flag, "list", cwd=files),
        coreutils("sha256sum", "-c", flag, "list", cwd=files),
    )


def test_lists_of_nothing(files: Path) -> None:
    (files / "list").write_text("nothing\n")
    for name in ("list", "plain", "absent"):
        same(run("hash", "-c", name, cwd=files), coreutils("sha256sum", "-c", name, cwd=files))
    (files / "list").write_text(f"{'0' * 64}  gone\n")
    same(
        run("hash", "-c", "--ignore-missing", "list", cwd=files),
        coreutils("sha256sum", "-c", "--ignore-missing", "list", cwd=files),
    )


def test_a_tag_names_its_algorithm(files: Path) -> None:
    text = b"".join(
        coreutils("cksum", "-a", name, "sp ace", cwd=files).stdout
        for name in ("md5", "sha1", "sha512", "sm3", "blake2b")
    )
    result = run("hash", "-c", "--strict", cwd=files, stdin=text)
    assert result.stdout == b"sp ace: OK\n" * 5
    assert result.returncode == 0
    text_of_openssl = coreutils("openssl", "dgst", "-sha256", "sp ace", cwd=files).stdout
    assert run("hash", "-c", cwd=files, stdin=text_of_openssl).stdout == b"sp ace: OK\n"
    # Unless one algorithm was asked for.
    result = run("hash", "-c", "-a", "sha1", cwd=files, stdin=text)
    assert result.stdout == b"sp ace: OK\n"
    assert b"4 lines are improperly formatted" in result.stderr


def test_many_files_stay_in_order(tmp_path: Path) -> None:
    names = [f"{number:04}" for number in range(700)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * (20_000 if name == "0003" else 1))
    same(run("hash", *names, cwd=tmp_path), coreutils("sha256sum", *names, cwd=tmp_path))


def test_json(files: Path) -> None:
    result = run("hash", "--json", "plain", "missing", cwd=files)
    digest = hashlib.sha256(b"").hexdigest()
    assert json.loads(result.stdout) == [{"file": "plain", "algorithm": "SHA256", "digest": digest}]
    assert result.returncode == 1


def test_unknown_algorithm(files: Path) -> None:
    result = run("hash", "-a", "sha9", "plain", cwd=files)
    assert result.returncode == 1
    assert result.stderr.startswith(b"cryptofd: no algorithm")
    assert result.stderr.count(b"\n") == 1


def test_a_full_disk_is_an_error(files: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [*CRYPTOFD, "hash", "plain"],
            cwd=files,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == b"cryptofd: No space left on device\n"


KEY = b"a key of any length"


def mac(*arguments: str, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    (cwd / "key").write_bytes(KEY)
    (cwd / "key").chmod(0o600)
    return run("mac", "--key", "file:key", *arguments, cwd=cwd, stdin=stdin)


def test_mac(files: Path) -> None:
    code = hmac.digest(KEY, (files / "sp ace").read_bytes(), "sha256").hex()
    listed = mac("sp ace", cwd=files)
    assert listed.stdout == f"{code}  sp ace\n".encode()
    assert mac("-c", cwd=files, stdin=listed.stdout).stdout == b"sp ace: OK\n"
    assert mac("--verify", code, "sp ace", cwd=files).returncode == 0
    wrong = mac("--verify", code[:-1] + "x", "sp ace", cwd=files)
    assert (wrong.returncode, wrong.stdout) == (1, b"FAILED\n")
    (files / "sp ace").write_bytes(b"changed")
    assert mac("-c", cwd=files, stdin=listed.stdout).returncode == 1
    tagged = mac("-a", "hmac(sha512)", "--tag", "plain", cwd=files).stdout
    assert (
        tagged
        == b"hmac(sha512) (plain) = " + hmac.digest(KEY, b"", "sha512").hex().encode() + b"\n"
    )
    assert mac("-a", "hmac(sha512)", "-c", cwd=files, stdin=tagged).returncode == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_cmac_and_gmac(files: Path) -> None:
    (files / "aes").write_bytes(bytes(range(32)))
    (files / "aes").chmod(0o600)
    key = bytes(range(32)).hex()
    data = (files / "sp ace").read_bytes()
    gcm = ["-macopt", "cipher:AES-256-GCM", "-macopt", f"hexiv:{'00' * 12}", "GMAC"]
    for algorithm, ours, theirs in (
        ("cmac(aes)", [], ["-macopt", "cipher:AES-256-CBC", "CMAC"]),
        ("gmac(aes)", ["--iv", "00" * 12], gcm),
    ):
        result = run("mac", "-k", "file:aes", "-a", algorithm, *ours, "sp ace", cwd=files)
        model = coreutils(
            "openssl", "mac", "-macopt", f"hexkey:{key}", *theirs, cwd=files, stdin=data
        )
        assert result.stdout.split()[0].lower() == model.stdout.strip().lower(), result.stderr


def test_one_message_under_one_nonce(files: Path) -> None:
    (files / "aes").write_bytes(bytes(range(32)))
    (files / "aes").chmod(0o600)
    gmac = ["mac", "-k", "file:aes", "-a", "gmac(aes)", "--iv", "00" * 12]
    poly1305 = ["mac", "-k", "file:aes", "-a", "poly1305"]
    for command in (gmac, poly1305):
        one = run(*command, "plain", cwd=files)
        assert one.returncode == 0
        (files / "list").write_bytes(one.stdout)
        assert run(*command, "-c", "list", cwd=files).returncode == 0
        two = run(*command, "plain", "sp ace", cwd=files)
        assert (two.returncode, two.stdout) == (1, one.stdout)
        assert b"'sp ace': " in two.stderr
        assert b"one message" in two.stderr
        (files / "list").write_bytes(one.stdout * 2)
        twice = run(*command, "-c", "list", cwd=files)
        assert twice.returncode == 1
        assert twice.stdout.startswith(b"plain: OK\n")
        assert b"one message" in twice.stderr


def test_names_that_are_no_text(files: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    name = NAMES[-1]
    (files / "list").write_bytes(run("hash", name, cwd=files).stdout)
    for arguments in (["-c", "list"], ["--json", name], ["--tag", name], [name, "missing-\udcff"]):
        done = subprocess.run(
            [*CRYPTOFD, "hash", *arguments],
            cwd=files,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert b"Traceback" not in done.stderr
        assert b"not-utf-8-" in done.stdout


def test_a_hash_is_no_mac(files: Path) -> None:
    result = mac("-a", "sha256", "plain", cwd=files)
    assert result.returncode == 1
    assert b"sha256 is no MAC but a hash" in result.stderr


class Mortal:
    """A running digest whose state is lost once, when a second part has come."""

    lives = 0

    def __init__(self) -> None:
        self.parts = hashlib.sha256()
        self.count = 0
        Mortal.lives += 1

    def update(self, data: bytes) -> None:
        self.count += 1
        if Mortal.lives == 1 and self.count == 2:
            raise cryptofd.StaleStream(errno.ESTALE, "the worker is gone")
        self.parts.update(data)

    def hexdigest(self, length: int | None = None) -> str:
        return self.parts.hexdigest()


def test_a_state_that_is_lost_is_made_again(tmp_path: Path) -> None:
    data = os.urandom(3 * digests.CHUNK)
    (tmp_path / "file").write_bytes(data)
    scheme = digests.Scheme("sha256", Mortal, None, 32)
    computer = digests.Computer(Progress("hashing", None))
    Mortal.lives = 0
    assert computer.digest(str(tmp_path / "file"), scheme) == hashlib.sha256(data).hexdigest()
    assert Mortal.lives == 2
    # What was read from a pipe is gone.
    Mortal.lives = 0
    os.mkfifo(tmp_path / "pipe")
    writing = ["cp", tmp_path / "file", tmp_path / "pipe"]
    with (
        subprocess.Popen(writing, stderr=subprocess.DEVNULL),
        pytest.raises(cryptofd.StaleStream),
    ):
        computer.digest(str(tmp_path / "pipe"), scheme)
