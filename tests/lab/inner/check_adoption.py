"""AF_ALG sockets that another process made, keyed and passed on: cryptofd.adopt(fd, algorithm)."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import hashlib
import hmac
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import cryptofd

KEY, IV = bytes(range(32)), bytes(range(16))
NONCE = bytes(range(12))
TYPES = {"cbc(aes)": "skcipher", "gcm(aes)": "aead", "hmac(sha256)": "hash", "sha256": "hash"}
BOTH = pytest.mark.parametrize("bound", [True, False], ids=["bound", "operation"])


def made(
    algorithm: str, *, bound: bool = False, key: bytes | None = KEY, tag: int | None = None
) -> int:
    """A descriptor that a process of its own, gone by now, made and sent here."""
    near, far = socket.socketpair()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            parent = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
            parent.bind((TYPES[algorithm], algorithm))
            if key is not None and algorithm != "sha256":
                parent.setsockopt(socket.SOL_ALG, socket.ALG_SET_KEY, key)
            if tag:
                parent.setsockopt(socket.SOL_ALG, socket.ALG_SET_AEAD_AUTHSIZE, None, tag)
            given = parent if bound else parent.accept()[0]
            rights = array.array("i", [given.fileno()])
            far.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        os._exit(0)
    os.waitpid(child, 0)
    _, fds, _, _ = socket.recv_fds(near, 1, 1)
    near.close()
    far.close()
    return fds[0]


def cbc(data: bytes, key: bytes = KEY) -> bytes:
    encryptor = Cipher(algorithms.AES(key), modes.CBC(IV)).encryptor()
    return encryptor.update(data) + encryptor.finalize()


@contextlib.contextmanager
def refused(kind: type[OSError], code: int, words: str, fd: int) -> Iterator[None]:
    """The call raises, and the descriptor stays the caller's."""
    with pytest.raises(kind, match=words) as caught:
        yield
    assert caught.value.errno == code
    os.fstat(fd)
    os.close(fd)


@BOTH
def test_a_cipher(bound: bool) -> None:
    number = made("cbc(aes)", bound=bound)
    fd = cryptofd.adopt(number, "cbc(aes)")
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)
    for length in (0, 16, 4096, 65536, 65536 + 16, 1 << 20):
        data = os.urandom(length)
        assert fd.encrypt(data, iv=IV) == cbc(data)
        assert fd.decrypt(cbc(data), iv=IV) == data
    stream = fd.stream("encrypt", IV)
    data = os.urandom(100_000)
    pieces = [stream.update(data[at : at + 777]) for at in range(0, len(data), 777)]
    assert b"".join([*pieces, stream.finish()]) == cbc(data)
    info = fd.info()
    assert (info.engine, info.driver_certain, info.key_size) == ("kernel", False, 0)


@BOTH
def test_an_aead_and_its_tag(bound: bool) -> None:
    fd = cryptofd.adopt(made("gcm(aes)", bound=bound), "gcm(aes)")
    theirs = AESGCM(KEY)
    for length in (0, 1, 1000, 65536):
        data = os.urandom(length)
        box = theirs.encrypt(NONCE, data, b"header")
        assert fd.encrypt(data, iv=NONCE, aad=b"header") == box
        assert fd.decrypt(box, iv=NONCE, aad=b"header") == data
        forged = bytes([box[0] ^ 1]) + box[1:]
        with pytest.raises(cryptofd.BadTag):
            fd.decrypt(forged, iv=NONCE, aad=b"header")
    # What is beyond the kernel goes nowhere else: the key is there alone.
    for data, iv in ((bytes(8 << 20), NONCE), (b"", bytes(13))):
        with pytest.raises(cryptofd.TooLarge):
            fd.encrypt(data, iv=iv)
    assert fd.encrypt(b"still", iv=NONCE) == theirs.encrypt(NONCE, b"still", None)


@BOTH
def test_a_short_tag_is_said_and_checked(bound: bool) -> None:
    fd = cryptofd.adopt(made("gcm(aes)", bound=bound, tag=12), "gcm(aes)", tag_size=12)
    assert fd.encrypt(b"text", iv=NONCE) == AESGCM(KEY).encrypt(NONCE, b"text", None)[:-4]
    number = made("gcm(aes)", bound=bound, tag=12)
    with refused(cryptofd.InvalidArgument, errno.EINVAL, "its tag has 12 bytes", number):
        cryptofd.adopt(number, "gcm(aes)")


@BOTH
def test_a_hash_and_a_mac(bound: bool) -> None:
    with cryptofd.adopt(made("sha256", bound=bound), "sha256") as fd:
        fd.update(b"abc")
        copy = fd.copy()
        copy.update(b"def")
        assert fd.digest() == hashlib.sha256(b"abc").digest()
        assert copy.digest() == hashlib.sha256(b"abcdef").digest()
    with cryptofd.adopt(made("hmac(sha256)", bound=bound), "hmac(sha256)") as mac:
        mac.update(b"abc")
        mac.verify(hmac.digest(KEY, b"abc", "sha256"))
        with pytest.raises(cryptofd.BadTag):
            mac.verify(bytes(32))


def test_a_hash_that_had_begun_begins_anew() -> None:
    number = made("sha256")
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0, fileno=os.dup(number)) as theirs:
        theirs.send(b"what was before", socket.MSG_MORE)
    fd = cryptofd.adopt(number, "sha256")
    fd.update(b"abc")
    assert fd.digest() == hashlib.sha256(b"abc").digest()


@BOTH
def test_threads_and_copies_share_it(bound: bool) -> None:
    fd = cryptofd.adopt(made("cbc(aes)", bound=bound), "cbc(aes)")
    wrong: list[int] = []

    def work(number: int) -> None:
        mine = fd.copy()
        data = bytes([number]) * 4096
        for _ in range(50):
            if mine.encrypt(data, iv=IV) != cbc(data):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_forked_child_does_not_share_the_only_operation_socket() -> None:
    fd = cryptofd.adopt(made("cbc(aes)"), "cbc(aes)")
    assert fd.encrypt(bytes(16), iv=IV) == cbc(bytes(16))
    child = os.fork()
    if not child:
        try:
            fd.encrypt(bytes(16), iv=IV)
        except cryptofd.NoEngine as error:
            os._exit(7 if error.errno == errno.EBUSY else 8)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert fd.encrypt(bytes(16), iv=IV) == cbc(bytes(16))


def test_it_has_a_descriptor_to_await_and_pass_on() -> None:
    here = cryptofd.adopt(made("cbc(aes)"), "cbc(aes)")
    there = cryptofd.adopt(os.dup(here.fileno()))
    assert there.encrypt(bytes(64), iv=IV) == cbc(bytes(64))

    async def awaited() -> bytes:
        async with cryptofd.aio.adopt(made("gcm(aes)"), "gcm(aes)") as fd:
            box: bytes = await fd.encrypt(b"text", iv=NONCE)
            return box

    assert asyncio.run(awaited()) == AESGCM(KEY).encrypt(NONCE, b"text", None)


def test_a_process_that_may_not_make_any_adopts_one() -> None:
    program = (
        "import sys, cryptofd\n"
        "fd = cryptofd.adopt(int(sys.argv[1]), 'gcm(aes)')\n"
        "print(fd.encrypt(b'text', iv=bytes(range(12))).hex())\n"
        "try:\n    cryptofd.open('gcm(aes)', key=bytes(32), engine='kernel')\n"
        "except cryptofd.NoEngine:\n    print('none')\n"
    )
    number = made("gcm(aes)", bound=True)
    restrict = [sys.executable, "-m", "lab", "restrict", "--linux", "7.3:2", "--"]
    run = subprocess.run(
        [*restrict, sys.executable, "-c", program, str(number)],
        pass_fds=[number],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [AESGCM(KEY).encrypt(NONCE, b"text", None).hex(), "none"]


def test_an_af_alg_socket_needs_its_algorithm() -> None:
    number = made("cbc(aes)")
    with refused(cryptofd.InvalidArgument, errno.EINVAL, "does not say what it computes", number):
        cryptofd.adopt(number)


@BOTH
@pytest.mark.parametrize(
    ("real", "said"),
    [
        ("cbc(aes)", "sha256"),
        ("cbc(aes)", "gcm(aes)"),
        ("cbc(aes)", "ecb(aes)"),
        ("gcm(aes)", "cbc(aes)"),
        ("gcm(aes)", "hmac(sha256)"),
        ("sha256", "cbc(aes)"),
        ("sha256", "gcm(aes)"),
        ("sha256", "sha512"),
    ],
)
def test_another_algorithm_than_it_computes(bound: bool, real: str, said: str) -> None:
    number = made(real, bound=bound)
    words = f"AF_ALG socket does not compute {said}".replace("(", r"\(").replace(")", r"\)")
    with refused(cryptofd.InvalidArgument, errno.EINVAL, words, number):
        cryptofd.adopt(number, said)


@BOTH
def test_a_socket_without_a_key(bound: bool) -> None:
    number = made("cbc(aes)", bound=bound, key=None)
    with refused(cryptofd.InvalidArgument, errno.EINVAL, "no key", number):
        cryptofd.adopt(number, "cbc(aes)")


def test_a_socket_that_is_bound_to_nothing() -> None:
    number = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).detach()
    with refused(cryptofd.InvalidArgument, errno.EINVAL, "bound to no algorithm", number):
        cryptofd.adopt(number, "cbc(aes)")


def test_what_is_no_af_alg_socket_takes_no_algorithm() -> None:
    number = socket.socketpair()[0].detach()
    with refused(cryptofd.InvalidArgument, errno.EINVAL, "no AF_ALG socket", number):
        cryptofd.adopt(number, "cbc(aes)")
    here = cryptofd.open("sha256")
    number = os.dup(here.fileno())
    with refused(cryptofd.InvalidArgument, errno.EINVAL, "no AF_ALG socket", number):
        cryptofd.adopt(number, tag_size=12)


def test_other_wrong_usages() -> None:
    number = made("cbc(aes)")
    with pytest.raises(TypeError, match='no option "engine"'):
        cryptofd.adopt(number, "cbc(aes)", engine="kernel")  # type: ignore[call-arg]
    with pytest.raises(cryptofd.UnknownAlgorithm):
        cryptofd.adopt(number, "cbc(no such)")
    with refused(cryptofd.InvalidArgument, errno.EINVAL, "has no tag", number):
        cryptofd.adopt(number, "cbc(aes)", tag_size=12)


@BOTH
def test_it_never_falls_back(bound: bool) -> None:
    # The program closes what it does not own: another engine would do, but the key is not there.
    fd = cryptofd.adopt(made("cbc(aes)", bound=bound), "cbc(aes)")
    pair = socket.socketpair()
    pair[1].setblocking(False)
    for path in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):
            copy = os.dup(int(path.name))
            with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0, fileno=copy) as other:
                if other.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_ALG:
                    os.dup2(pair[0].fileno(), int(path.name))
    for _ in range(2):
        with pytest.raises(cryptofd.NoEngine, match="does not fall back") as caught:
            fd.encrypt(bytes(64), iv=IV)
        assert isinstance(caught.value, OSError)
    with pytest.raises(BlockingIOError):
        pair[1].recv(100)
