"""The PKCS#11 door, called from C: against the targets, SoftHSM and the bare library."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import cryptofd
from bench import broker, peers
from bench.measure import Effort, Figure, absolute, batch, figure, in_turns, more_than

HERE = Path(__file__).parent
MODULE = Path(cryptofd.__file__).parent / "lib" / "libcryptofd-pkcs11.so"
#: Places in the list of slots.
CRYPTO, KEYS = "0", "1"
#: Targets, in seconds; SoftHSM's in times as fast.
SEAL, DIGEST, SIGNATURE, START, TOKEN, CBC = 6e-6, 4e-6, 10e-6, 5e-3, 1.0, 5e-6


def door(effort: Effort) -> list[Figure]:
    """What a program in C sees of the module."""
    with broker.own() as folder, tempfile.TemporaryDirectory() as name:
        caller = Path(name) / "pkcs11"
        source = HERE / "pkcs11.c"
        subprocess.run(["cc", "-O2", "-w", "-o", str(caller), str(source), "-ldl"], check=True)
        return _measured(effort, folder, caller)


def _timed(caller: Path, module: str, slot: str, pin: str, effort: Effort, operation: str) -> float:
    command = [str(caller), module, slot, pin, str(effort.seconds * 1000), operation]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[1]) / 1e9


def _measured(effort: Effort, folder: Path, caller: Path) -> list[Figure]:
    def ours(slot: str, operation: str) -> Callable[[], float]:
        return lambda: _timed(caller, str(MODULE), slot, "-", effort, operation)

    def values(slot: str, operation: str) -> list[float]:
        run = ours(slot, operation)
        return [run() for _ in range(effort.pairs)]

    work = "AES-256-GCM of 4 KiB by PKCS#11, the broker's key"
    module = peers.softhsm(folder)
    token: Callable[[], float] = lambda: _timed(caller, module, "0", peers.PIN, effort, "gcm")  # noqa: E731
    pairs = in_turns(ours(KEYS, "gcm"), token, effort.pairs)
    figures = [
        absolute(work, [seconds for seconds, _ in pairs], SEAL, "s", less=True),
        figure(work, "SoftHSM in process", TOKEN, pairs),
        absolute("SHA-256 of 4 KiB by PKCS#11", values(CRYPTO, "sha256"), DIGEST, "s", less=True),
        absolute(
            "PKCS#11: C_Initialize to a first digest, fresh process",
            values(CRYPTO, "start"),
            START,
            "s",
            less=True,
        ),
    ]
    work = "AES-256-CBC of 4 KiB by PKCS#11, the broker's key"
    library = ctypes.util.find_library("crypto") or "libcrypto.so.3"
    bare: Callable[[], float] = lambda: _timed(caller, library, "-", "-", effort, "bare")  # noqa: E731
    pairs = in_turns(ours(KEYS, "cbc"), bare, effort.pairs)
    figures.append(more_than(work, "OpenSSL in process", CBC, pairs))
    token = lambda: _timed(caller, module, "0", peers.PIN, effort, "cbc")  # noqa: E731
    pairs = in_turns(ours(KEYS, "cbc"), token, effort.pairs)
    figures.append(figure(work, "SoftHSM in process", TOKEN, pairs))
    for operation, python in _bare().items():
        pairs = in_turns(ours(KEYS, operation), batch(python, effort.seconds), effort.pairs)
        names = {"rsa": "RSA-2048", "p256": "P-256"}
        work = f"{names[operation]} signature by PKCS#11, the broker's key"
        figures.append(more_than(work, "PyCA in process", SIGNATURE, pairs))
    return figures


def _bare() -> dict[str, Callable[[], object]]:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    data = os.urandom(64)
    curve, digest = ec.ECDSA(hashes.SHA256()), hashes.SHA256()
    elliptic = ec.generate_private_key(ec.SECP256R1())
    factored = rsa.generate_private_key(65537, 2048)
    return {
        "rsa": lambda: factored.sign(data, padding.PKCS1v15(), digest),
        "p256": lambda: elliptic.sign(data, curve),
    }
