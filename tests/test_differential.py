"""Random questions to every engine: all answer alike, and as hashlib, hmac and PyCA do."""

from __future__ import annotations

import random

import pytest
from host_engines import available, refusal
from reference import TABLE, random_case, reference

import cryptofd

ALGORITHMS = [name for name, a in TABLE.items() if a.kind not in {"rng", "streaming"}]

# None of hashlib, hmac and PyCA has these; the engines are held against each other.
UNREFERENCED = {"hmac(sm3)", "pbkdf2(hmac(sm3))"}


def compare(algorithm: str, seed: int, rounds: int, largest: int) -> None:
    engines = [e for e in available() if refusal(e, algorithm) is None]
    if not engines:
        pytest.skip(f"no engine offers {algorithm}")
    generator = random.Random(f"{algorithm} {seed}")
    answered, referenced = dict.fromkeys(engines, 0), 0
    for _ in range(rounds):
        case = random_case(algorithm, generator, largest)
        answers: dict[str, bytes] = {}
        for engine in engines:
            try:
                answers[engine] = case.answer(engine)
            except (cryptofd.NoEngine, cryptofd.TooLarge):
                continue
            answered[engine] += 1
        expected = reference(case)
        if expected is not None:
            answers["others"] = expected
            referenced += 1
        assert len(set(answers.values())) <= 1, (case, answers)
        if answers.keys() - {"others"}:
            # Whoever serves where nobody is named agrees as well.
            assert {case.answer()} == set(answers.values())
    for engine, count in answered.items():
        assert count, f"{engine} offers {algorithm} and answered none of {rounds} questions"
    assert referenced or algorithm in UNREFERENCED


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_engines_agree(algorithm: str) -> None:
    compare(algorithm, 1, 12, 5000)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_engines_agree_for_long(algorithm: str) -> None:
    compare(algorithm, 2, 500, 300_000)
    compare(algorithm, 3, 2, 20_000_000 if TABLE[algorithm].kind != "aead" else 4_000_000)


@pytest.mark.parametrize("algorithm", [n for n, a in TABLE.items() if a.kind == "aead"])
def test_a_changed_bit_is_refused(engine: str, algorithm: str) -> None:
    if refusal(engine, algorithm) is not None:
        pytest.skip(f"{engine} does not offer {algorithm}")
    generator = random.Random(algorithm)
    tried = 0
    for _ in range(10):
        case = random_case(algorithm, generator, 300)
        try:
            fd = cryptofd.open(algorithm, key=case.key, engine=engine, **case.options)
            box = fd.encrypt(case.data, iv=case.iv, aad=case.aad)
        except (cryptofd.NoEngine, cryptofd.TooLarge):
            continue
        for part in ("box", "iv", "aad"):
            value = {"box": box, "iv": case.iv or b"", "aad": case.aad or b""}[part]
            if not value:
                continue
            place = generator.randrange(len(value) * 8)
            changed = bytearray(value)
            changed[place // 8] ^= 1 << place % 8
            asked = {"box": box, "iv": case.iv, "aad": case.aad, part: bytes(changed)}
            out = bytearray(b"\xff" * len(case.data))
            with pytest.raises(cryptofd.BadTag):
                fd.decrypt(asked["box"], iv=asked["iv"], aad=asked["aad"])
            with pytest.raises(cryptofd.BadTag):
                fd.decrypt_into(out, asked["box"], iv=asked["iv"], aad=asked["aad"])
            assert out == bytes(len(out)), "plaintext of a message that does not verify"
            tried += 1
    assert tried
