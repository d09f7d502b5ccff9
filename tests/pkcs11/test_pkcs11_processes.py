"""Threads and forks: eight threads with sessions of their own, children that go on."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from collections.abc import Callable

from children import in_a_child
from raw import CRYPTO, Module, Session, mechanism

DATA = bytes(range(256)) * 4
IV = bytes(16)


def work(session: Session, key: int, mac: int, rounds: int) -> None:
    """What has one right answer, many times."""
    how = mechanism("CKM_AES_CBC_PAD", IV)
    wanted = hmac.digest(b"m" * 32, DATA, "sha256")
    for n in range(rounds):
        data = DATA[n:]
        box = session.encrypt(how, key, data[:100], data[100:])
        assert session.decrypt(how, key, box) == data
        assert session.digest(mechanism("CKM_SHA256"), data) == hashlib.sha256(data).digest()
        assert session.sign(mechanism("CKM_SHA256_HMAC"), mac, DATA) == wanted


def keys_of(session: Session) -> tuple[int, int]:
    return (
        session.secret("CKK_AES", bytes(32), CKA_ENCRYPT=True, CKA_DECRYPT=True),
        session.secret("CKK_GENERIC_SECRET", b"m" * 32, CKA_SIGN=True, CKA_VERIFY=True),
    )


def in_threads(count: int, does: Callable[[int], None]) -> None:
    errors: list[BaseException] = []

    def guarded(n: int) -> None:
        try:
            does(n)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_threads_with_sessions_of_their_own(module: Module) -> None:
    keeper = module.session(CRYPTO)
    shared = keys_of(keeper)

    def one(n: int) -> None:
        session = module.session(CRYPTO)
        # Half of them with keys of their own, half with the same.
        keys = keys_of(session) if n % 2 else shared
        work(session, *keys, rounds=60)
        for _ in range(20):
            extra = module.session(CRYPTO)
            keys_of(extra)
            extra.close()
        session.close()

    in_threads(8, one)
    keeper.close()


def test_a_child_goes_on_with_sessions_and_keys(session: Session) -> None:
    keys = keys_of(session)
    session.ok("DigestInit", *_pointer("CKM_SHA256"))
    session.ok("DigestUpdate", b"begun ", 6)

    def child() -> None:
        session.ok("DigestUpdate", b"child", 5)
        assert session.out("DigestFinal") == hashlib.sha256(b"begun child").digest()
        work(session, *keys, rounds=5)
        mine = session.module.session(CRYPTO)
        work(mine, *keys_of(mine), rounds=5)

    in_a_child(child)
    session.ok("DigestUpdate", b"parent", 6)
    assert session.out("DigestFinal") == hashlib.sha256(b"begun parent").digest()
    work(session, *keys, rounds=5)


def test_parent_and_child_draw_different_random_bytes(session: Session) -> None:
    import ctypes

    def drawn() -> bytes:
        buffer = (ctypes.c_char * 32)()
        session.ok("GenerateRandom", buffer, 32)
        return buffer.raw

    drawn()
    reading, writing = os.pipe()
    in_a_child(lambda: os.write(writing, drawn()) and None)
    assert os.read(reading, 32) != drawn()
    os.close(reading)
    os.close(writing)


def test_a_child_may_begin_anew(module: Module) -> None:
    """As PKCS#11 2.40 says: C_Initialize in the child, after which it has nothing of before."""

    def child() -> None:
        rv = module.call("Initialize", None)
        assert rv in (0, 0x191), hex(rv)
        session = module.session(CRYPTO)
        work(session, *keys_of(session), rounds=3)

    in_a_child(child)


def test_forks_while_threads_work(module: Module) -> None:
    stop = threading.Event()

    def busy() -> None:
        session = module.session(CRYPTO)
        keys = keys_of(session)
        while not stop.is_set():
            work(session, *keys, rounds=1)
        session.close()

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    mine = module.session(CRYPTO)
    keys = keys_of(mine)
    try:
        for _ in range(10):
            in_a_child(lambda: work(mine, *keys, rounds=2))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    mine.close()


def _pointer(name: str) -> tuple[object]:
    from ctypes import byref

    return (byref(mechanism(name)),)
