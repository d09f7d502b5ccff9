"""The doctor and the broker: who answers, what is to be mended, and that asking starts nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from real_broker import Broker, environment


def findings(**more: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "cryptofd", "doctor", "--json"],
        env=environment(**more), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return [one for one in json.loads(done.stdout) if one["topic"] == "Broker"]


def test_nobody_answers_and_nobody_is_started(tmp_path: Path) -> None:
    for name in ("run", "state", "config"):
        (tmp_path / name).mkdir(mode=0o700)
    found = findings(
        XDG_RUNTIME_DIR=str(tmp_path / "run"),
        XDG_STATE_HOME=str(tmp_path / "state"),
        XDG_CONFIG_HOME=str(tmp_path / "config"),
    )
    (absent,) = [one for one in found if one["what"] == "no broker answers"]
    assert absent["state"] == "absent"
    assert any("cryptofd broker" in line for line in absent["todo"])
    assert list((tmp_path / "run").iterdir()) == []
    assert list((tmp_path / "state").iterdir()) == []


def test_a_broker_and_its_problems(tmp_path: Path) -> None:
    real = Broker(tmp_path)
    try:
        real.connect().keys.generate("a", "gcm(aes)")
        found = findings(CRYPTOFD_BROKER=str(real.socket))
        (answers,) = [one for one in found if str(real.process.pid) in one["what"]]
        assert answers["state"] == "ok"
        assert "1 keys" in answers["what"]
        assert [one for one in found if one["state"] == "broken"] == []
        assert any("audit.key lies beside" in one["what"] for one in found)
        status = real.command("broker", "status")
        assert (status.returncode, "advice: audit.key" in status.stdout) == (0, True)
        (real.state / "audit.key").unlink()
        tmp_path.chmod(0o777)
        (broken,) = [
            one for one in findings(CRYPTOFD_BROKER=str(real.socket)) if one["state"] == "broken"
        ]
        assert "another socket" in broken["what"]
    finally:
        real.end()
