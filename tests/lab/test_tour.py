"""What `make run` does, on a small file: its last stop is a kernel whose hardware does the work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab


def test_the_tour_ends_in_hardware(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 1000 + b"no whole block")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cryptofd", "tour", "--json"),
            *("--lab", "qemu-6.1", str(tmp_path / "file")),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.returncode == 0, done.stderr
    stops = json.loads(done.stdout)
    assert all(stop["right"] for stop in stops)
    last = stops[-1]
    assert last["result"]["engine"] == "kernel"
    assert last["result"]["driver"] == "virtio_crypto_aes_cbc"
    assert last["result"]["hardware"] is True
    assert any(reason.startswith("software: ") for reason in last["result"]["reasons"])
