"""What AF_ALG refuses is an answer: the reason is kept, and another engine serves."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys

import pytest

import cryptofd

TYPES = {"hash": "hash", "mac": "hash", "cipher": "skcipher", "aead": "aead", "rng": "rng"}
TABLE = [a for a in cryptofd.algorithms() if a.names["kernel"] and a.kind in TYPES]
AF_ALG = 38


def raw(algorithm: cryptofd.Algorithm) -> int:
    """The errno of this kernel's own answer; 0 where it binds."""
    try:
        with socket.socket(AF_ALG, socket.SOCK_SEQPACKET) as bound:
            bound.bind((TYPES[algorithm.kind], algorithm.names["kernel"]))
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.mark.parametrize("algorithm", TABLE, ids=lambda a: a.name)
def test_the_kernels_answer_is_the_engines(algorithm: cryptofd.Algorithm) -> None:
    answer = raw(algorithm)
    (candidate,) = [c for c in cryptofd.explain(algorithm.name) if c.engine == "kernel"]
    if answer:
        assert not candidate.offers
        assert candidate.why
        key = bytes(range(min(algorithm.key.max, 64))) if algorithm.key else None
        with pytest.raises(cryptofd.NoEngine) as caught:
            cryptofd.open(algorithm.name, key, engine="kernel")
        assert caught.value.errno == errno.ENODEV
        assert "kernel: " in str(caught.value)


def test_everything_is_served_by_somebody() -> None:
    for algorithm in cryptofd.algorithms():
        if algorithm.kind != "streaming":
            served = [c for c in cryptofd.explain(algorithm.name) if c.serves]
            assert len(served) == 1, algorithm.name


FALLS_BACK = """
import json, cryptofd
fd = cryptofd.open("gcm(aes)", key=bytes(32))
assert fd.decrypt(fd.encrypt(b"data", iv=bytes(12)), iv=bytes(12)) == b"data"
info = fd.info()
print(json.dumps([info.engine, [reason.engine for reason in info.reasons]]))
"""


def test_falling_back_is_never_silent() -> None:
    # A process of its own: the environment is read when it starts.
    done = subprocess.run(
        [sys.executable, "-c", FALLS_BACK],
        env=os.environ | {"CRYPTOFD_ENGINES": "kernel,software"},
        capture_output=True,
        check=True,
    )
    (gcm,) = [a for a in TABLE if a.name == "gcm(aes)"]
    expected = ["software", ["kernel"]] if raw(gcm) else ["kernel", []]
    assert json.loads(done.stdout) == expected
