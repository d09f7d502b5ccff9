"""The engine `kernel` in a kernel of the lab, against libkcapi and OpenSSL's engine `afalg`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from bench.calls import size
from bench.inside import MARK, Job
from bench.measure import Effort, Figure, figure
from bench.provider import configured

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
TURNS = 8
SIZES = (64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10)


def _job(command: Sequence[str | Path], says: str = "", **environment: str) -> Job:
    return {"command": [str(word) for word in command], "environment": environment, "says": says}


@contextmanager
def _folder() -> Iterator[Path]:
    """Within the checkout: the guest sees that, and not the host's /tmp."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / ".lab"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _in_turns(jobs: Sequence[tuple[Job, Job]], effort: Effort) -> list[list[tuple[float, float]]]:
    """The pairs of seconds of each job, ours and the peer's, in the guest."""
    lab = [sys.executable, "-m", "lab", "run", "--kernel", KERNEL, "--timeout", "3000", "--"]
    inside = ["python", "-m", "bench.inside", json.dumps(jobs), str(effort.seconds)]
    run = subprocess.run(
        [*lab, *inside, str(effort.pairs)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith(MARK)]
    if run.returncode or len(lines) != 1:
        raise SystemExit(f"bench: the lab's kernel gave no figures:\n{run.stdout}")
    all_pairs: list[list[tuple[float, float]]] = [
        [(ours, theirs) for ours, theirs in pairs]
        for pairs in json.loads(lines[0].removeprefix(MARK))
    ]
    return all_pairs


def _folded(turns: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Pairs of means over so many turns."""
    parts = [turns[at : at + TURNS] for at in range(0, len(turns), TURNS)]
    return [(fmean(ours for ours, _ in part), fmean(peer for _, peer in part)) for part in parts]


def kernel(effort: Effort) -> list[Figure]:
    """A Rust and a Python caller, each in turns with libkcapi's."""
    work = [(algorithm, each, caller) for algorithm, each in WORK for caller in ("rust", "python")]
    with _folder() as folder:
        kcapi, rust = _native(folder)
        callers: dict[str, list[str | Path]] = {
            "rust": [rust],
            "python": ["python", "-m", "bench.inside", "work"],
        }
        pairs = _in_turns(
            [
                (
                    _job([*callers[caller], algorithm, str(each)]),
                    _job([kcapi, algorithm, str(each)]),
                )
                for algorithm, each, caller in work
            ],
            effort,
        )
    return [
        figure(
            f"{algorithm} by the kernel, {size(each)}, {caller} caller",
            f"libkcapi (C) in {KERNEL}",
            TARGETS[caller, each],
            taken,
        )
        for (algorithm, each, caller), taken in zip(work, pairs, strict=True)
    ]


def _native(folder: Path) -> tuple[Path, Path]:
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
    return kcapi, rust


def afalg(effort: Effort) -> list[Figure]:
    """A program of OpenSSL's: the provider on the engine `kernel`, and OpenSSL's engine `afalg`."""
    with _folder() as folder:
        caller = folder / "evp"
        subprocess.run(["cc", "-O2", "-o", caller, HERE / "evp.c", "-lcrypto"], check=True)
        forced = {"CRYPTOFD_ENGINES": "kernel", "CRYPTOFD_DISABLE": "software,openssl"}
        ours, none = configured(folder, "all"), configured(folder, None)

        def both(each: int) -> tuple[Job, Job]:
            job = ("AES-256-CBC", str(each), "turns")
            return (
                _job([caller, "encrypt", *job], "libcryptofd-openssl", OPENSSL_CONF=ours, **forced),
                _job([caller, "afalg", *job], "afalg", OPENSSL_CONF=none),
            )

        # The emulator's CPUs wait for the host's: many short turns make a pair, so that both do.
        more = replace(effort, pairs=TURNS * effort.pairs)
        pairs = _in_turns([both(each) for each in SIZES], more)
    return [
        figure(
            f"OpenSSL, engine kernel: AES-256-CBC, {size(each)}",
            f"OpenSSL's engine afalg in {KERNEL}",
            1.0,
            _folded(taken),
        )
        for each, taken in zip(SIZES, pairs, strict=True)
    ]
