"""The broker: what its clients see, against the bare library, PKCS#11 tokens and ssh-agent."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cryptofd
from bench import peers
from bench.calls import size
from bench.measure import Effort, Figure, absolute, batch, figure, in_turns, more_than
from bench.pkcs11 import Module

KEY = "cryptofd:bench"
#: Targets. Seconds of a seal of 4 KiB; times as fast as the tokens.
SEAL, P11_KIT, TOKEN = 10e-6, 20.0, 1.0
#: Operations a second in batches of 32 messages of 64 bytes, with a ring and without.
BATCH = {True: 1e6, False: 250e3}
#: Share of in-process throughput: bytes in and out, and buffers that live in the ring.
SHARES = {64 << 10: (0.40, 0.55), 1 << 20: (0.35, 0.50)}
#: What a seal adds: version, IV, tag.
MORE = 1 + 12 + 16
#: Sessions opened and closed a second, and the median's seconds; clones a second.
SESSIONS, SESSION, CLONES = 1500.0, 1e-3, 20_000.0
#: More than the bare library's signature, in seconds; against ssh-agent, times.
SIGNATURE, AGENT = 10e-6, 1.0


@contextlib.contextmanager
def own() -> Iterator[Path]:
    """A broker of our own, in a folder that goes with it."""
    if missing := peers.missing():
        names = ", ".join(missing)
        raise SystemExit(f"bench: {names}: apt install softhsm2 p11-kit openssh-client")
    with tempfile.TemporaryDirectory(prefix="cryptofd-bench-") as name, peers.broker(Path(name)):
        yield Path(name)


def broker(effort: Effort) -> list[Figure]:
    """A key that seals, and its sessions."""
    with own() as folder:
        keys = cryptofd.connect().keys
        keys.generate("bench", "gcm(aes)", bits=256, usage={"encrypt", "decrypt"})
        return [
            *sealing(effort, folder),
            *batches(effort, folder),
            *throughput(effort),
            *sessions(effort),
        ]


def signatures(effort: Effort) -> list[Figure]:
    """Pairs that sign."""
    with own() as folder:
        return signing(effort, folder)


def sealing(effort: Effort, folder: Path) -> list[Figure]:
    """4 KiB of AES-256-GCM, one at a time."""
    data = os.urandom(4096)
    session = cryptofd.open("gcm(aes)", key=KEY)

    def ours() -> bytes:
        return session.seal(data)

    if session.unseal(ours()) != data:
        raise SystemExit("bench: the broker does not unseal what it sealed")
    figures = [latency("seal of 4 KiB, the broker's key", ours, SEAL, effort)]
    module = peers.softhsm(folder)
    with peers.p11_kit(folder, module) as client:
        remote = Module(client, peers.PIN)
        pairs = in_turns(batch(ours, effort.seconds), batch(remote.ecb(data), effort.seconds),
                         effort.pairs)  # fmt: skip
        figures.append(
            figure(
                "seal of 4 KiB, the broker's key", "p11-kit server + SoftHSM, AES-ECB", P11_KIT,
                pairs, "ECB, for this p11-kit carries no GCM",
            )
        )  # fmt: skip
        remote.close()
    token = Module(module, peers.PIN)
    pairs = in_turns(batch(ours, effort.seconds), batch(token.gcm(data), effort.seconds),
                     effort.pairs)  # fmt: skip
    name = "SoftHSM in process, AES-GCM"
    figures.append(figure("seal of 4 KiB, the broker's key", name, TOKEN, pairs))
    token.close()
    return figures


def batches(effort: Effort, folder: Path) -> list[Figure]:
    """64 bytes, 32 in flight, with a ring and where the policy allows none."""
    items = [os.urandom(64)] * 32
    policy = folder / "policy.toml"
    figures = []
    for ring, target in BATCH.items():
        policy.write_text("" if ring else "[[rule]]\nring = 0\n")
        session = cryptofd.open("gcm(aes)", key=KEY)
        session.seal_many(items)
        if bool((session.info().ring or {}).get("bytes")) != ring:
            raise SystemExit(f"bench: the ring is {session.info().ring}")
        run = batch(lambda session=session: session.seal_many(items), effort.seconds)  # type: ignore[misc]
        rates = [len(items) / run() for _ in range(effort.pairs)]
        work = "seals of 64 B, 32 in flight" + ("" if ring else ", no ring")
        figures.append(absolute(work, rates, target, "/s"))
    policy.unlink()
    return figures


def throughput(effort: Effort) -> list[Figure]:
    """Big messages, against the same key in process."""
    figures = []
    raw, iv = os.urandom(32), os.urandom(12)
    session, local = cryptofd.open("gcm(aes)", key=KEY), cryptofd.open("gcm(aes)", key=raw)
    ring: Any = session
    made: Any = getattr(session, "buffer", None)
    for length, (copied, lasting) in SHARES.items():
        data = os.urandom(length)
        theirs = batch(lambda data=data: local.encrypt(data, iv), effort.seconds)  # type: ignore[misc]
        ours = batch(lambda data=data: session.seal(data), effort.seconds)  # type: ignore[misc]
        pairs = in_turns(ours, theirs, effort.pairs)
        name = "in process"
        figures.append(figure(f"seal of {size(length)}, bytes in and out", name, copied, pairs))
        if made is not None:
            buffer, out = made(length), made(length + MORE)
            buffer[:] = data
            into = ring.seal_into
            ours = batch(
                lambda into=into, out=out, buffer=buffer: into(out, buffer),  # type: ignore[misc]
                effort.seconds,
            )
            pairs = in_turns(ours, theirs, effort.pairs)
            figures.append(figure(f"seal of {size(length)}, within the ring", name, lasting, pairs))
    return figures


def sessions(effort: Effort) -> list[Figure]:
    """Opening one on a stored key and closing it; cloning one."""
    connection = cryptofd.connect()

    def whole() -> None:
        cryptofd.open("gcm(aes)", key=KEY, broker=connection).close()

    grant = cryptofd.open("gcm(aes)", key=KEY, broker=connection)
    run = batch(whole, effort.seconds * 4)
    rates = [1 / run() for _ in range(effort.pairs)]
    run = batch(lambda: grant.clone().close(), effort.seconds)
    clones = [1 / run() for _ in range(effort.pairs)]
    return [
        absolute("open a session on a stored key, close it", rates, SESSIONS, "/s"),
        latency("open a session on a stored key, close it", whole, SESSION, effort),
        absolute("clone a grant, close the clone", clones, CLONES, "/s"),
    ]


def signing(effort: Effort, folder: Path) -> list[Figure]:
    """P-256 and RSA-2048, each against the bare library and ssh-agent."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    data = os.urandom(64)
    curve, digest = ec.ECDSA(hashes.SHA256()), hashes.SHA256()
    elliptic, factored = (
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65537, 2048),
    )
    bare: dict[str, Callable[[], object]] = {
        "ecdsa-nist-p256": lambda: elliptic.sign(data, curve),
        "rsa": lambda: factored.sign(data, padding.PKCS1v15(), digest),
    }
    agents = {"ecdsa-nist-p256": ("ecdsa", 256, 0), "rsa": ("rsa", 2048, 2)}
    names = {"ecdsa-nist-p256": "P-256", "rsa": "RSA-2048"}
    connection = cryptofd.connect()
    figures = []
    for algorithm, private in (("ecdsa-nist-p256", elliptic), ("rsa", factored)):
        # The same key on both sides: an RSA key's signatures differ in speed by its primes.
        der = private.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        connection.keys.import_key(f"bench-{algorithm}", algorithm, der, usage={"sign", "verify"})
        reference = f"cryptofd:bench-{algorithm}"
        session = cryptofd.open(algorithm, key=reference, broker=connection)
        scheme: dict[str, Any] = {"scheme": "pkcs1"} if algorithm == "rsa" else {}
        ours = lambda session=session, scheme=scheme: session.sign(data, hash="sha256", **scheme)  # noqa: E731
        run = batch(ours, effort.seconds)
        pairs = in_turns(run, batch(bare[algorithm], effort.seconds), effort.pairs)
        work = f"{names[algorithm]} signature by the broker"
        figures.append(more_than(work, "PyCA in process", SIGNATURE, pairs))
        kind, bits, flags = agents[algorithm]
        agent = peers.Agent(folder, kind, bits)
        try:
            theirs = batch(agent.signing(data, flags), effort.seconds)
            figures.append(figure(work, "ssh-agent", AGENT, in_turns(run, theirs, effort.pairs)))
        finally:
            agent.close()
    return figures


def latency(work: str, call: Callable[[], object], target: float, effort: Effort) -> Figure:
    """The median of single calls, in each of as many batches as there are pairs elsewhere."""
    call()
    return absolute(
        f"{work}, p50",
        [statistics.median(_each(call, effort.seconds)) for _ in range(effort.pairs)],
        target,
        "s",
        less=True,
    )


def _each(call: Callable[[], object], seconds: float) -> Sequence[float]:
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end or len(taken) < 5:
        call()
        taken.append(time.perf_counter() - start)
    return taken
