"""Hosts of a test's own: each a network and a mount namespace without a name, which ends with the
process that holds it, and a wire between two of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from programs import program
from real_broker import with_us


class Host:
    """One of them; without the right to make it the test is skipped, visibly."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            pytest.skip("making network namespaces needs root")
        script = f"{program('ip')} link set lo up && echo made && exec sleep infinity"
        self.holder = subprocess.Popen(
            [program("unshare"), "--net", "--mount", "sh", "-c", script], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            preexec_fn=with_us,
        )  # fmt: skip
        assert self.holder.stdout is not None
        said = self.holder.stdout.readline().strip()
        if said != "made":
            self.end()
            pytest.skip(f"no namespace can be made here: {said}")

    def inside(self, *command: str | Path) -> list[str]:
        """The command line that runs ``command`` there, as the process that it starts."""
        where = ["--target", str(self.holder.pid), "--net", "--mount"]
        return [program("nsenter"), *where, "--", *map(str, command)]

    def ran(self, *command: str | Path) -> str:
        done = subprocess.run(
            self.inside(*command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def end(self) -> None:
        self.holder.kill()
        self.holder.wait()
        assert self.holder.stdout is not None
        self.holder.stdout.close()


def wire(one: Host, other: Host, addresses: tuple[str, str]) -> None:
    """Between the two, with an address at each end."""
    ip = program("ip")
    there = ["peer", "name", "wire", "netns", str(other.holder.pid)]
    one.ran(ip, "link", "add", "wire", "type", "veth", *there)
    for host, address in zip((one, other), addresses, strict=True):
        host.ran(ip, "address", "add", f"{address}/24", "dev", "wire")
        host.ran(ip, "link", "set", "wire", "up")
