"""What profile `bulk` measured, and a record of it that says something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hosts import Host

#: From so many bytes on a message is ours where a test says so.
FROM = 48


def record(cache: Path) -> Path:
    return cache / "cryptofd" / "openssl-bulk.json"


def environment(cache: Path) -> dict[str, str]:
    """In which nothing else is known."""
    return {"XDG_CACHE_HOME": str(cache), "CRYPTOFD_OPENSSL_MEASURE": "user"}


def measure(host: Host, cache: Path) -> dict[str, dict[str, Any]]:
    """What it finds out here; a machine at work may need more than one go."""
    for _ in range(20):
        host.run("openssl", "dgst", "-sha256", given=b"", **environment(cache))
        hosts = json.loads(record(cache).read_text()).values()
        here = max((one for one in hosts if isinstance(one, dict)), key=lambda one: one["measured"])
        algorithms: dict[str, dict[str, Any]] = here["algorithms"]
        if len(algorithms) >= 45:
            return algorithms
    raise AssertionError(f"only {len(algorithms)} algorithms were measured")


def claim(cache: Path, place: int | None, *names: str) -> None:
    """Rewrites the record: these (all, if none is named) are ours from so many bytes on."""
    file = record(cache)
    hosts = json.loads(file.read_text())
    for host in hosts.values():
        for name, one in host["algorithms"].items():
            if not names or name in names:
                one["from"] = place
    file.write_text(json.dumps(hosts))
