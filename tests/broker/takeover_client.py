"""One of the clients of test_takeover.py: works until its standard input ends, checks all it gets.

``takeover_client.py SOCKET NUMBER FOLDER``: counts what it did in eight bytes of FOLDER/progress,
writes every IV of its seals to FOLDER/ivs-NUMBER, and at the end what it saw, as JSON.
"""

from __future__ import annotations

import collections
import hmac
import json
import mmap
import os
import random
import select
import struct
import sys
from pathlib import Path
from typing import Any

import cryptofd
from cryptofd.broker.client import Connection

#: Keys that the test imported: what they give is computed here as well.
MAC_KEY, CIPHER_KEY = bytes(range(32)), bytes(range(32, 64))


class Client:
    def __init__(self, socket: str, number: int, folder: Path) -> None:
        self.broker = Connection(socket)
        self.random = random.Random(number)
        self.number = number
        self.counts: collections.Counter[str] = collections.Counter()
        self.stale: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self.ivs = (folder / f"ivs-{number}").open("wb")
        with (folder / "progress").open("r+b") as file:
            self.progress = mmap.mmap(file.fileno(), 0)
        self.aead = self.open("gcm(aes)", "aead")
        self.mac = self.open("hmac(sha256)", "mac")
        self.cipher = self.open("cbc(aes)", "cipher")
        self.running = self.open("hmac(sha256)", "mac")
        self.works = [self.seal, self.seal, self.pipelined, self.one_shot, self.stream]
        self.works += [self.running_mac, self.fresh]
        if any(key.label == "pair" for key in self.broker.keys):
            self.pair = self.open("ed25519", "pair")
            self.works.append(self.sign)

    def open(self, algorithm: str, label: str) -> cryptofd.CryptoFD:
        return cryptofd.open(algorithm, key=f"cryptofd:{label}", broker=self.broker)

    def data(self, most: int = 20000) -> bytes:
        return self.random.randbytes(self.random.randrange(most))

    def blocks(self) -> bytes:
        return self.random.randbytes(16 * self.random.randrange(1, 1000))

    def expect(self, what: str, got: Any, right: Any) -> None:
        if got != right:
            self.wrong.append(what)

    def seal(self, fd: cryptofd.CryptoFD | None = None) -> None:
        fd = fd or self.aead
        data, aad = self.data(), self.random.randbytes(16)
        box = fd.seal(data, aad=aad)
        self.ivs.write(box[1:13])
        self.expect("unseal", fd.unseal(box, aad=aad), data)

    def pipelined(self) -> None:
        """Sixteen at once: each answered once, with its own answer."""
        asked = {}
        for _ in range(16):
            data = self.data(2000)
            asked[self.mac.submit("digest", data)] = data
        while asked:
            answer = self.mac.complete()
            data = asked.pop(answer.id)
            if answer.error is not None:
                raise answer.error
            self.expect("digest", answer.data, hmac.digest(MAC_KEY, data, "sha256"))
        self.expect("outstanding", self.mac.outstanding, 0)

    def one_shot(self) -> None:
        data, iv = self.blocks(), self.random.randbytes(16)
        box = self.cipher.encrypt(data, iv=iv)
        with cryptofd.open("cbc(aes)", key=CIPHER_KEY) as near:
            self.expect("encrypt", box, near.encrypt(data, iv=iv))
        self.expect("decrypt", self.cipher.decrypt(box, iv=iv), data)

    def stream(self) -> None:
        data, iv = self.blocks(), self.random.randbytes(16)
        stream = self.cipher.stream("encrypt", iv=iv)
        box = b""
        for at in range(0, len(data), 4096):
            box += stream.update(data[at : at + 4096])
        box += stream.finish()
        self.expect("stream", self.cipher.decrypt(box, iv=iv), data)

    def running_mac(self) -> None:
        parts = [self.data(3000) for _ in range(4)]
        try:
            for part in parts:
                self.running.update(part)
            got = self.running.digest()
        except cryptofd.StaleStream:
            self.running.reset()
            raise
        self.running.reset()
        self.expect("running", got, hmac.digest(MAC_KEY, b"".join(parts), "sha256"))

    def sign(self) -> None:
        data = self.data()
        self.pair.verify(self.pair.sign(data), data)

    def fresh(self) -> None:
        """A session of its own, and a clone of it."""
        with self.open("gcm(aes)", "aead") as fd:
            self.seal(fd)
            with fd.clone() as clone:
                self.seal(clone)

    def step(self) -> None:
        work = self.random.choice(self.works)
        try:
            work()
        except cryptofd.StaleStream:
            # Only what runs may be lost, and then it says so.
            self.stale[work.__name__] += 1
            if work.__name__ not in ("stream", "running_mac"):
                self.wrong.append(f"{work.__name__} was stale")
            return
        self.counts[work.__name__] += 1
        struct.pack_into("Q", self.progress, 8 * self.number, sum(self.counts.values()))

    def left(self) -> list[str]:
        """Sessions on which an answer waits that nobody asked for."""
        named = {"aead": self.aead, "mac": self.mac, "cipher": self.cipher, "running": self.running}
        poll = select.poll()
        for fd in named.values():
            fd.info()
            poll.register(fd.fileno(), select.POLLIN)
        ready = {number for number, _ in poll.poll(0)}
        return [name for name, fd in named.items() if fd.fileno() in ready]


def size() -> tuple[int, int]:
    """KiB that are resident, and descriptors."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]), len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def main() -> None:
    socket, number, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    client = Client(socket, number, folder)
    stop = select.poll()
    stop.register(0, select.POLLIN | select.POLLHUP)
    early: tuple[int, int] | None = None
    while not stop.poll(0):
        client.step()
        if sum(client.counts.values()) == 100:
            early = size()
    client.ivs.close()
    print(
        json.dumps(
            {
                "counts": client.counts, "stale": client.stale, "wrong": client.wrong,
                "left": client.left(), "early": early, "late": size(),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
