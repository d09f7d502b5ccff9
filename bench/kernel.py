"""The engine `kernel` against libkcapi, in a kernel of the lab."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.calls import size
from bench.measure import Effort, Figure, figure

HERE = Path(__file__).parent
ROOT = HERE.parent
KERNEL = "qemu-6.1"
WORK = [("sha256", 16), ("sha256", 64 << 10), ("cbc(aes)", 16), ("cbc(aes)", 64 << 10)]
TARGETS = {
    ("rust", 16): 1.0,
    ("rust", 64 << 10): 1.0,
    ("python", 16): 0.5,
    ("python", 64 << 10): 0.95,
}
MARK = "figures: "


def _build(folder: Path) -> dict[str, str]:
    """The two native workers."""
    kcapi = folder / "kcapi"
    subprocess.run(
        ["cc", "-O2", "-Wall", "-o", str(kcapi), str(HERE / "kcapi.c"), "-lkcapi"], check=True
    )
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    cargo = ["cargo", "build", "--release", "--quiet", "-p", "cryptofd-core", "--example", "bench"]
    subprocess.run(cargo, check=True, cwd=ROOT)
    rust = folder / "rust"
    shutil.copy(target / "release" / "examples" / "bench", rust)
    return {"kcapi": str(kcapi), "rust": str(rust)}


def kernel(effort: Effort) -> list[Figure]:
    """A Rust and a Python caller, each in turns with libkcapi's."""
    # Within the checkout: the guest sees that, and not the host's /tmp.
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / ".lab"))
    try:
        workers = _build(folder)
        command = [
            sys.executable,
            "-m",
            "lab",
            "run",
            "--kernel",
            KERNEL,
            "--timeout",
            "3000",
            "--",
        ]
        inside = ["python", "-m", "bench.inside", json.dumps(workers), str(effort.seconds)]
        run = subprocess.run(
            [*command, *inside, str(effort.pairs)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
    finally:
        shutil.rmtree(folder)
    lines = [line for line in run.stdout.splitlines() if line.startswith(MARK)]
    if run.returncode or len(lines) != 1:
        raise SystemExit(f"bench: the lab's kernel gave no figures:\n{run.stdout}")
    return [
        figure(
            f"{each['algorithm']} by the kernel, {size(each['size'])}, {each['caller']} caller",
            f"libkcapi (C) in {KERNEL}",
            TARGETS[each["caller"], each["size"]],
            [(ours, theirs) for ours, theirs in each["pairs"]],
        )
        for each in json.loads(lines[0].removeprefix(MARK))
    ]
