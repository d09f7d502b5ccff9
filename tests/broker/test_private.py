"""A broker of one's own that cannot live: whoever starts it is told, and nothing stays behind."""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path

import pytest

import cryptofd

pytest.importorskip("asyncvarlink")
from cryptofd.broker import private


def test_a_broker_that_never_answers_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It listens, for the supervisor does that, and each broker ends as soon as it begins."""
    monkeypatch.setattr(private, "PATIENCE", 1.0)
    made = private.command(tmp_path / "broker", tmp_path / "state")
    broken = [*made[: made.index("--") + 1], sys.executable, "-c", "raise SystemExit(1)"]
    monkeypatch.setattr(private, "command", lambda *_, **__: broken)
    started = []
    popen = private.subprocess.Popen

    def noted(*arguments: object, **more: object) -> object:
        started.append(popen(*arguments, **more))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(private.subprocess, "Popen", noted)
    with pytest.raises(cryptofd.CryptoFDError) as caught:
        private.launch(tmp_path / "broker", tmp_path / "state", tmp_path / "log", os.environ)
    assert caught.value.errno in (errno.ETIMEDOUT, errno.ECONNREFUSED)
    assert str(tmp_path / "log") in str(caught.value)
    (process,) = started
    assert process.returncode is not None


def test_a_socket_that_nobody_serves_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "broker"
    monkeypatch.setattr(private, "PATIENCE", 0.2)
    monkeypatch.setattr(private, "socket_path", lambda: path)
    assert private.listening() is None
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        assert private.listening() is None
        sock.listen()
        with pytest.raises(cryptofd.CryptoFDError, match="does not answer") as caught:
            private.listening()
        assert caught.value.errno == errno.ETIMEDOUT
