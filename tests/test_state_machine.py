"""A session of random operations against a model made of hashlib, hmac and PyCA."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from host_engines import refusal
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from reference import TABLE, Case, random_key, reference

import cryptofd

DIGESTING = [
    "sha256",
    "sha3-512",
    "shake256",
    "blake2b",
    "hmac(sha256)",
    "hmac(sha3-384)",
    "cmac(aes)",
]
STREAMING = ["cbc(aes)", "ctr(aes)", "cfb(aes)", "ecb(aes)", "chacha20", "cbc(des3_ede)"]
SEALING = ["gcm(aes)", "ccm(aes)", "rfc7539(chacha20,poly1305)", "gcm-siv(aes)"]

PIECES = st.one_of(st.binary(max_size=40), st.integers(0, 20_000).map(lambda n: bytes(n)))


@dataclass
class Digesting:
    """A hash or MAC and all that it has taken."""

    fd: cryptofd.CryptoFD
    case: Case
    taken: bytes = b""
    closed: bool = False

    def expected(self) -> bytes:
        self.case.data = self.taken
        answer = reference(self.case)
        assert answer is not None
        return answer


@dataclass
class Streaming:
    """A cipher's stream, what went in and what came out."""

    stream: cryptofd.Stream
    case: Case
    went: bytes = b""
    came: bytes = b""
    finished: bool = False


@dataclass
class Sealing:
    """An AEAD and the boxes that it has made."""

    fd: cryptofd.CryptoFD
    case: Case
    boxes: list[tuple[bytes, bytes, bytes, bytes]] = field(default_factory=list)
    counts: list[int] = field(default_factory=lambda: [0, 0])
    closed: bool = False


def machine(engine: str) -> type[RuleBasedStateMachine]:
    """The machine for one engine."""

    def offered(names: list[str]) -> st.SearchStrategy[str]:
        return st.sampled_from([n for n in names if refusal(engine, n) is None])

    class Session(RuleBasedStateMachine):
        digests: Bundle[Any] = Bundle("digests")
        streams: Bundle[Any] = Bundle("streams")
        seals: Bundle[Any] = Bundle("seals")

        def __init__(self) -> None:
            super().__init__()
            self.steps = 0

        @invariant()
        def alive(self) -> None:
            self.steps += 1

        # Hashes and MACs

        @rule(target=digests, name=offered(DIGESTING), seed=st.integers(0, 9))
        def open_digest(self, name: str, seed: int) -> Digesting:
            case = Case(name, random_key(name, random.Random(seed)))
            case.length = 50 if TABLE[name].kind == "xof" else None
            return Digesting(cryptofd.open(name, key=case.key, engine=engine), case)

        @rule(model=digests, data=PIECES)
        def update(self, model: Digesting, data: bytes) -> None:
            if model.closed:
                with pytest.raises(cryptofd.Closed):
                    model.fd.update(data)
            else:
                model.fd.update(data)
                model.taken += data

        @rule(model=digests)
        def digest(self, model: Digesting) -> None:
            if model.closed:
                with pytest.raises(cryptofd.Closed):
                    model.fd.digest()
            else:
                assert model.fd.digest(model.case.length) == model.expected()
                assert model.fd.hexdigest(model.case.length) == model.expected().hex()

        @rule(target=digests, model=digests)
        def copy(self, model: Digesting) -> Digesting:
            if model.closed:
                with pytest.raises(cryptofd.Closed):
                    model.fd.copy()
                return model
            case = Case(model.case.algorithm, model.case.key, length=model.case.length)
            return Digesting(model.fd.copy(), case, model.taken)

        @rule(model=digests)
        def reset(self, model: Digesting) -> None:
            if not model.closed:
                model.fd.reset()
                model.taken = b""

        @rule(model=digests, bit=st.integers(0, 127))
        def verify(self, model: Digesting, bit: int) -> None:
            if model.closed or TABLE[model.case.algorithm].kind != "mac":
                with pytest.raises((cryptofd.Closed, cryptofd.Unsupported)):
                    model.fd.verify(bytes(16))
                return
            tag = bytearray(model.expected())
            model.fd.verify(tag)
            tag[bit // 8] ^= 1 << bit % 8
            with pytest.raises(cryptofd.BadTag):
                model.fd.verify(tag)

        @rule(model=digests)
        def close_digest(self, model: Digesting) -> None:
            model.fd.close()
            model.closed = True

        # Streams

        @rule(
            target=streams,
            name=offered(STREAMING),
            seed=st.integers(0, 9),
            padded=st.booleans(),
            direction=st.sampled_from(["encrypt", "decrypt"]),
        )
        def open_stream(self, name: str, seed: int, padded: bool, direction: str) -> Streaming:
            generator = random.Random(seed)
            case = Case(name, random_key(name, generator), {"direction": direction})
            options: dict[str, Any] = {}
            if padded and name.startswith("cbc") and direction == "encrypt":
                options = {"padding": "pkcs7"}
            case.options.update(options)
            case.iv = generator.randbytes(16 if name != "cbc(des3_ede)" else 8)
            if name == "ecb(aes)":
                case.iv = None
            if name == "ctr(aes)" and seed % 2:
                case.iv = b"\xff" * 16  # the counter wraps around
            if name == "chacha20":
                # Its counter must not: RFC 8439 has none to spare.
                case.iv = bytes(4) + generator.randbytes(12)
            fd = cryptofd.open(name, key=case.key, engine=engine, **options)
            return Streaming(fd.stream(direction, iv=case.iv), case)  # type: ignore[arg-type]

        @rule(model=streams, data=PIECES)
        def feed(self, model: Streaming, data: bytes) -> None:
            if model.finished:
                with pytest.raises(cryptofd.InvalidArgument):
                    model.stream.update(data)
                return
            model.came += model.stream.update(data)
            model.went += data
            block = TABLE[model.case.algorithm].block_size
            assert len(model.went) - block < len(model.came) <= len(model.went)

        @rule(model=streams)
        def finish(self, model: Streaming) -> None:
            block = TABLE[model.case.algorithm].block_size
            whole = model.case.algorithm.startswith(("cbc", "ecb"))
            padded = "padding" in model.case.options
            if model.finished or (whole and not padded and len(model.went) % block):
                with pytest.raises(cryptofd.InvalidArgument):
                    model.stream.finish()
                return
            model.came += model.stream.finish()
            model.finished = True
            options = {k: v for k, v in model.case.options.items() if k != "direction"}
            if model.case.options["direction"] == "encrypt":
                plain, sealed = model.went, model.came
            else:
                plain, sealed = model.came, model.went
            case = Case(model.case.algorithm, model.case.key, options, model.case.iv, data=plain)
            assert reference(case) == sealed

        # AEADs

        @rule(target=seals, name=offered(SEALING), seed=st.integers(0, 9))
        def open_seal(self, name: str, seed: int) -> Sealing:
            case = Case(name, random_key(name, random.Random(seed)))
            try:
                return Sealing(cryptofd.open(name, key=case.key, engine=engine), case)
            except cryptofd.NoEngine:
                case = Case(name, bytes(32))
                return Sealing(cryptofd.open(name, key=bytes(32), engine=engine), case)

        @rule(
            model=seals,
            data=PIECES,
            aad=st.binary(max_size=40),
            iv=st.binary(min_size=12, max_size=12),
        )
        def seal(self, model: Sealing, data: bytes, aad: bytes, iv: bytes) -> None:
            if model.closed:
                with pytest.raises(cryptofd.Closed):
                    model.fd.encrypt(data, iv=iv, aad=aad)
                return
            box = model.fd.encrypt(data, iv=iv, aad=aad)
            expected = reference(
                Case(model.case.algorithm, model.case.key, iv=iv, aad=aad, data=data)
            )
            assert expected in (box, None)
            model.boxes.append((box, iv, aad, data))
            model.counts[0] += 1

        @precondition(lambda self: self.steps > 0)
        @rule(model=seals, place=st.integers(0, 99), bit=st.integers(0, 127))
        def unseal(self, model: Sealing, place: int, bit: int) -> None:
            if not model.boxes:
                return
            box, iv, aad, data = model.boxes[place % len(model.boxes)]
            if model.closed:
                with pytest.raises(cryptofd.Closed):
                    model.fd.decrypt(box, iv=iv, aad=aad)
                return
            assert model.fd.decrypt(box, iv=iv, aad=aad) == data
            changed = bytearray(box)
            changed[bit // 8 % len(box)] ^= 1 << bit % 8
            with pytest.raises(cryptofd.BadTag):
                model.fd.decrypt(changed, iv=iv, aad=aad)
            model.counts[0] += 1
            model.counts[1] += 1

        @rule(model=seals)
        def count(self, model: Sealing) -> None:
            if not model.closed:
                counts = model.fd.info().counts
                assert [counts.operations, counts.refused] == model.counts

        @rule(model=seals)
        def close_seal(self, model: Sealing) -> None:
            model.fd.close()
            model.closed = True

    return Session


CHECKS = list(HealthCheck)


def test_sessions(engine: str) -> None:
    run_state_machine_as_test(
        machine(engine),
        settings=settings(
            max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=CHECKS,
            database=None, derandomize=True,
        ),
    )  # fmt: skip


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_sessions_for_long(engine: str) -> None:
    run_state_machine_as_test(
        machine(engine),
        settings=settings(
            max_examples=2000, stateful_step_count=100, deadline=None,
            suppress_health_check=CHECKS, database=None,
        ),
    )  # fmt: skip
