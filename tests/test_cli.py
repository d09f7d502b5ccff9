"""The command: files that appear whole or not at all, keys, preferences, lists, signals."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from cryptofd import streaming
from cryptofd.cli import COMMANDS, preferences

CRYPTOFD = [sys.executable, "-m", "cryptofd"]
KEY = bytes(range(32))
PLAIN = os.urandom(3 * 1024 * 1024 + 17)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a key and a file in it, which is where commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "plain").write_bytes(PLAIN)
    return tmp_path


def run(*arguments: str, stdin: bytes = b"", **more: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [*CRYPTOFD, *arguments], input=stdin, capture_output=True, timeout=60, check=False, **more
    )


def good(*arguments: str, stdin: bytes = b"", **more: object) -> bytes:
    result = run(*arguments, stdin=stdin, **more)
    assert result.returncode == 0, result.stderr
    assert result.stderr == b""
    return result.stdout


def bad(*arguments: str, stdin: bytes = b"", code: int = 1, **more: object) -> str:
    """What the command complains of, in one line."""
    result = run(*arguments, stdin=stdin, **more)
    assert result.returncode == code, result
    message = result.stderr.decode()
    assert message.startswith("cryptofd: ") or code == 2
    assert message.count("\n") == 1 or code == 2
    return message


def interruptible() -> None:
    """A shell's background jobs ignore SIGINT, and so does all that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class TestFiles:
    def test_there_and_back(self, here: Path) -> None:
        good("encrypt", "-k", "file:key", "plain")
        assert stat.S_IMODE((here / "plain.cfd").stat().st_mode) == 0o600
        (here / "plain").unlink()
        good("decrypt", "-k", "file:key", "plain.cfd")
        assert (here / "plain").read_bytes() == PLAIN
        assert stat.S_IMODE((here / "plain").stat().st_mode) == 0o600
        assert sorted(p.name for p in here.iterdir()) == ["key", "plain", "plain.cfd"]

    def test_pipes(self, here: Path) -> None:
        box = good("encrypt", "-k", "file:key", "--aad", "für dich", stdin=PLAIN)
        assert good("decrypt", "-k", "file:key", "--aad", "für dich", stdin=box) == PLAIN
        assert "aad" in bad("decrypt", "-k", "file:key", stdin=box)

    def test_nothing_is_replaced_unasked(self, here: Path) -> None:
        (here / "plain.cfd").write_text("precious")
        assert "--force" in bad("encrypt", "-k", "file:key", "plain")
        assert (here / "plain.cfd").read_text() == "precious"
        good("encrypt", "-k", "file:key", "--force", "plain")
        assert "plain: exists" in bad("decrypt", "-k", "file:key", "plain.cfd")
        (here / "link").symlink_to("nowhere")
        assert "--force" in bad("encrypt", "-k", "file:key", "-o", "link", "plain")
        assert not (here / "nowhere").exists()

    @pytest.mark.parametrize("at", [0, 5, 2 * 1024 * 1024, -1])
    def test_no_plaintext_after_a_bad_tag(self, here: Path, at: int) -> None:
        good("encrypt", "-k", "file:key", "-o", "box", "plain")
        box = bytearray((here / "box").read_bytes())
        box[at] ^= 1
        (here / "box").write_bytes(box)
        before = sorted(here.iterdir())
        message = bad("decrypt", "-k", "file:key", "-o", "out", "box")
        assert message.startswith("cryptofd: box: ")
        assert sorted(here.iterdir()) == before
        # An old file stays what it was, even with --force.
        (here / "out").write_text("old")
        bad("decrypt", "-k", "file:key", "--force", "-o", "out", "box")
        assert (here / "out").read_text() == "old"

    def test_a_pipe_gets_only_what_is_verified(self, here: Path) -> None:
        box = good("encrypt", "-k", "file:key", stdin=PLAIN)
        layout = streaming.Layout.of(streaming.FORMAT)
        for size in (layout.segment, 2 * layout.segment + 100, len(box) - 1):
            result = run("decrypt", "-k", "file:key", stdin=box[:size])
            assert result.returncode == 1
            assert PLAIN.startswith(result.stdout)
            assert len(result.stdout) < len(PLAIN)
            assert b"cut short" in result.stderr

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_no_plaintext_after_a_signal(self, here: Path, number: signal.Signals) -> None:
        box = good("encrypt", "-k", "file:key", stdin=PLAIN)
        before = sorted(here.iterdir())
        with subprocess.Popen(
            [*CRYPTOFD, "decrypt", "-k", "file:key", "-o", "out"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=interruptible,
        ) as process:
            assert process.stdin is not None
            process.stdin.write(box[:-1])
            process.stdin.flush()
            time.sleep(0.3)
            process.send_signal(number)
            # Standard input stays open: nothing but the signal can end it.
            assert process.wait(20) == -number
            assert process.stderr is not None
            assert process.stderr.read() == b""
        assert sorted(here.iterdir()) == before

    def test_hash_of_a_terminal_can_be_interrupted(self, here: Path) -> None:
        for arguments in (["hash"], ["hash", "-", "plain"]):
            process = subprocess.Popen(
                [*CRYPTOFD, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                preexec_fn=interruptible,
            )
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == -signal.SIGINT
            assert process.stdin is not None
            process.stdin.close()

    def test_names(self, here: Path) -> None:
        assert "-o" in bad("decrypt", "-k", "file:key", "plain")
        assert "No such file" in bad("encrypt", "-k", "file:key", "missing")
        assert "No such file" in bad("encrypt", "-k", "file:key", "-o", "no/where", "plain")

    def test_a_full_disk(self, here: Path) -> None:
        message = bad("encrypt", "-k", "file:key", "-f", "-o", "/dev/full", "plain")
        assert "No space left" in message

    def test_tink_and_the_library_read_it(self, here: Path) -> None:
        good("encrypt", "-k", "file:key", "--aad", "name", "plain")
        with (here / "plain.cfd").open("rb") as file:
            reader = streaming.open_reader(file, key=KEY, aad=b"name")
            reader.seek(2_000_000)
            assert reader.read(10) == PLAIN[2_000_000:2_000_010]

    def test_engines(self, here: Path) -> None:
        box = good("encrypt", "-k", "file:key", "--engine", "openssl", stdin=b"hello")
        assert good("decrypt", "-k", "file:key", "--engine", "software", stdin=box) == b"hello"
        assert "no engine" in bad("encrypt", "-k", "file:key", "--engine", "none", stdin=b"")


class TestKeys:
    def mac(self, key: str, **more: object) -> bytes:
        return good("mac", "-k", key, "plain", **more)

    def test_places(self, here: Path) -> None:
        expected = self.mac("file:key")
        assert self.mac("env:KEY", env={**os.environ, "KEY": KEY.hex()}) == expected
        with (here / "key").open("rb") as file:
            number = file.fileno()
            assert self.mac(f"fd:{number}", pass_fds=[number]) == expected

    @pytest.mark.parametrize("key", [KEY.hex(), "secret", "pass:word", "", "file"])
    def test_never_in_the_argument_list(self, here: Path, key: str) -> None:
        message = bad("mac", "-k", key, "plain")
        assert "file:PATH" in message
        # It may have been the key: it is not said again.
        assert not key or key == "file" or key not in message

    def test_mistakes(self, here: Path) -> None:
        assert "no such variable" in bad("mac", "-k", "env:NO_SUCH", "plain")
        odd = {**os.environ, "KEY": "abc"}
        assert "hexadecimal" in bad("mac", "-k", "env:KEY", "plain", env=odd)
        assert "fd:99" in bad("mac", "-k", "fd:99", "plain")
        assert "not the number" in bad("mac", "-k", "fd:x", "plain")
        assert "No such file" in bad("mac", "-k", "file:missing", "plain")
        (here / "empty").touch(0o600)
        assert "empty" in bad("mac", "-k", "file:empty", "plain")
        assert "more than" in bad("mac", "-k", "file:/dev/zero", "plain")
        assert "never read" in bad("encrypt", "-k", "keyring:1", "plain")
        assert "keyring:nobody" in bad("mac", "-k", "keyring:nobody", "plain")
        assert "32 to 1024 bytes" in bad(
            "encrypt", "-k", "env:KEY", "plain", env={**odd, "KEY": "00"}
        )

    def test_a_key_that_all_can_read_is_mentioned(self, here: Path) -> None:
        (here / "key").chmod(0o644)
        result = run("mac", "-k", "file:key", "plain")
        assert result.returncode == 0
        assert b"every user can read" in result.stderr


class TestRandom:
    def test_forms(self, here: Path) -> None:
        assert len(good("random", "100000")) == 100_000
        assert len(bytes.fromhex(good("random", "70000", "--hex").decode())) == 70_000
        text = good("random", "100001", "--base64")
        assert text.count(b"\n") == 1
        import base64

        assert len(base64.b64decode(text, validate=False)) == 100_001
        assert len(good("random", "1K")) == 1024
        assert good("random", "32") != good("random", "32")

    def test_a_new_key(self, here: Path) -> None:
        good("random", "32", "-o", "new")
        assert stat.S_IMODE((here / "new").stat().st_mode) == 0o600
        assert "exists" in bad("random", "32", "-o", "new")
        assert "no number" in bad("random", "many", code=2)


class TestEngines:
    def test_lists(self, here: Path) -> None:
        listed = json.loads(good("engines", "--json"))
        assert {"software", "openssl"} <= {engine["name"] for engine in listed}
        assert "software" in good("engines").decode()

    def test_preferences_are_written(self, here: Path) -> None:
        file = here / "config" / "cryptofd" / "cryptofd.toml"
        good("engines", "prefer", "openssl", "--for", "gcm(aes)")
        good("engines", "disable", "software")
        assert tomllib.loads(file.read_text()) == {
            "engines": {"disable": ["software"], "for": {"gcm(aes)": {"prefer": ["openssl"]}}}
        }
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        good("engines", "enable", "software")
        assert tomllib.loads(file.read_text())["engines"]["disable"] == []

    def test_mistakes(self, here: Path) -> None:
        assert "there are software" in bad("engines", "prefer", "hope")
        assert "no algorithm" in bad("engines", "prefer", "software", "--for", "rot13")
        bad("engines", "love", "software", code=2)

    def test_explain(self, here: Path) -> None:
        candidates = json.loads(good("explain", "gcm(aes)", "--engine", "openssl", "--json"))
        assert [c["engine"] for c in candidates if c["serves"]] == ["openssl"]
        assert run("explain", "sha256", "--driver", "nobody").returncode == 1
        assert "no algorithm" in bad("explain", "rot13")


OLD = """# mine
[policy]
minimum_strength = 112  # bits

[engines]
# fastest first
prefer = [
    "kernel",  # the device
    "software",
]
other = 1
[engines.for.'cbc(aes)']
disable = ["openssl"]
"""


class TestPreferences:
    def change(self, text: str, verb: str, engine: str, algorithm: str | None, home: Path) -> str:
        file = home / "file.toml"
        file.write_text(text)
        preferences.change(file, verb, engine, algorithm)
        return file.read_text()

    def test_the_rest_of_the_file_stays(self, tmp_path: Path) -> None:
        new = self.change(OLD, "prefer", "openssl", None, tmp_path)
        parsed = tomllib.loads(new)
        assert parsed["engines"]["prefer"] == ["openssl", "kernel", "software"]
        assert parsed["engines"]["other"] == 1
        for line in ("# mine", "minimum_strength = 112  # bits", "# fastest first"):
            assert line in new.splitlines()
        new = self.change(new, "prefer", "openssl", "cbc(aes)", tmp_path)
        assert tomllib.loads(new)["engines"]["for"]["cbc(aes)"] == {
            "prefer": ["openssl"],
            "disable": [],
        }
        new = self.change(new, "disable", "kernel", None, tmp_path)
        assert tomllib.loads(new)["engines"]["prefer"] == ["openssl", "software"]
        assert tomllib.loads(new)["engines"]["disable"] == ["kernel"]
        assert tomllib.loads(new)["policy"] == {"minimum_strength": 112}

    @pytest.mark.parametrize("text", ["engines = { prefer = [] }\n", "engines.prefer = ['x']\n"])
    def test_what_cannot_be_changed_is_left(self, text: str, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="by hand"):
            self.change(text, "prefer", "software", None, tmp_path)
        assert (tmp_path / "file.toml").read_text() == text

    def test_what_is_no_toml_is_left(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="not TOML"):
            self.change("[engines\n", "prefer", "software", None, tmp_path)
        assert (tmp_path / "file.toml").read_text() == "[engines\n"


class TestLists:
    def test_algorithms(self, here: Path) -> None:
        listed = json.loads(good("algorithms", "--json"))
        assert {a["name"] for a in listed} >= {"sha256", "gcm(aes)", streaming.FORMAT}
        hashes = json.loads(good("algorithms", "--kind", "hash", "--json"))
        assert {a["kind"] for a in hashes} == {"hash"}
        assert "no algorithm" in bad("algorithms", "rot13")
        assert good("algorithms", "md5").count(b"\n") == 2

    def test_drivers(self, here: Path) -> None:
        if not Path("/proc/crypto").exists():
            pytest.skip("this kernel has no cryptography")
        every = json.loads(good("drivers", "--all", "--json"))
        named = [
            line.split(":")[1].strip()
            for line in Path("/proc/crypto").read_text().splitlines()
            if line.startswith("driver")
        ]
        assert sorted(driver["name"] for driver in every) == sorted(named)
        one = every[0]["algorithm"]
        of_one = json.loads(good("drivers", "--all", "--algorithm", one, "--json"))
        assert of_one == sorted(
            (d for d in every if d["algorithm"] == one), key=lambda d: -d["priority"]
        )
        assert "no driver 'nobody'" in bad("drivers", "prefer", "nobody")

    def test_doctor(self, here: Path) -> None:
        found = json.loads(run("doctor", "--json").stdout)
        topics = {finding["topic"].split()[0] for finding in found}
        assert topics == {
            *("Engines", "Preferences", "Kernel", "Hardware", "OpenSSL", "NSS", "Memory"),
            *("PKCS#11", "Broker", "FIPS"),
        }
        assert {finding["state"] for finding in found} <= {"ok", "absent", "broken"}
        shown = run("doctor").stdout.decode()
        for finding in found:
            assert finding["what"].split(",")[0] in shown

    def test_doctor_finds_a_file_that_others_can_write(self, here: Path) -> None:
        good("engines", "prefer", "software")
        (here / "config" / "cryptofd" / "cryptofd.toml").chmod(0o666)
        result = run("doctor", "--json")
        assert result.returncode == 1
        assert any(
            "others can write" in f["what"]
            for f in json.loads(result.stdout)
            if f["state"] == "broken"
        )

    def test_bench(self, here: Path) -> None:
        arguments = ["--json", "--seconds", "0.01", "--engine", "software"]
        results = json.loads(good("bench", *arguments, "sha256", "hkdf(sha256)", "stdrng"))
        assert [("per_second" in r, "why_not" in r) for r in results] == [
            (True, False),
            (False, True),
            (True, False),
        ]
        assert all(rate > 0 for rate in results[0]["per_second"].values())
        assert "kdf" in run("bench", *arguments, "hkdf(sha256)").stdout.decode()
        assert run("bench", *arguments, "hkdf(sha256)").returncode == 1

    def test_tour(self, here: Path) -> None:
        result = run("tour", "--json", "plain", "key")
        assert result.returncode == 0, result.stderr
        stops = json.loads(result.stdout)
        assert all(stop["right"] for stop in stops)
        brokered = [stop for stop in stops if "broker's key" in stop["where"]]
        assert len(brokered) == 2
        assert "went on" in brokered[0]["checked"]
        searched = [stop["where"] for stop in stops if stop["what"].startswith("search")]
        assert [where.split(" (")[0] for where in searched] == [
            "client half way",
            "client at the end",
            "broker",
            "supervisor",
            "the same with a key in process",
        ]
        assert len(stops) == 6 + len(brokered) + len(searched)
        assert {stop["result"]["uid"] for stop in stops if "chroot" in stop["where"]} <= {65534}


class TestTheCommand:
    def test_help(self) -> None:
        for arguments in (["--help"], ["-h"], ["help"]):
            text = good(*arguments).decode()
            assert all(name in text for name, _, _ in COMMANDS)
        for name, _, _ in COMMANDS:
            assert f"usage: cryptofd {name}" in good(name, "--help").decode()
        assert run().returncode == 2

    def test_usage(self) -> None:
        assert "no command 'fly'" in bad("fly", code=2)
        bad("hash", "--fly", code=2)
        bad("mac", code=2)

    def test_help_loads_little(self) -> None:
        code = "import sys; from cryptofd.cli import main; main(['--help']); print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        loaded = set(done.stdout.splitlines()[-1].split())
        assert not loaded & {"rich", "argparse", "json", "dataclasses", "hashlib", "subprocess"}

    def test_a_reader_that_leaves_is_no_error(self, here: Path) -> None:
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m cryptofd random 10M --hex | head -c 1 >/dev/null; "
             "echo ${PIPESTATUS[0]}"],
            capture_output=True, check=True,
        )  # fmt: skip
        assert done.stdout == b"141\n"
        assert done.stderr == b""

    @pytest.mark.parametrize("rich", [True, False])
    def test_a_terminal_gets_tables(self, here: Path, rich: bool) -> None:
        if not rich:
            (here / "rich.py").write_text("raise ImportError('not installed')")
        paths = ([] if rich else [str(here)]) + [path for path in sys.path if path]
        ours, theirs = pty.openpty()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"}
        subprocess.run(
            [*CRYPTOFD, "algorithms", "sha256"], stdout=theirs, env=environment, check=True
        )
        os.close(theirs)
        text = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:
                break
            if not part:
                break
            text += part
        os.close(ours)
        assert b"sha256" in text
        assert (b"\x1b[" in text or "─".encode() in text) == rich

    def test_ciphertext_is_not_for_terminals(self, here: Path) -> None:
        ours, theirs = pty.openpty()
        done = subprocess.run(
            [*CRYPTOFD, "encrypt", "-k", "file:key", "-o", "-", "plain"],
            stdout=theirs, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
        os.close(theirs)
        os.close(ours)
        assert done.returncode == 1
        assert b"terminal" in done.stderr
