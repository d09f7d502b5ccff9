"""Threads, forks and another language's runtime, with the provider in them."""

from __future__ import annotations

import hashlib

import pytest
from hosts import Host

STORM = """
    import hashlib, hmac, os, sys, threading
    import _hashlib
    from cryptography.hazmat.primitives.ciphers import Cipher, aead, algorithms, modes
    data = bytes(range(256)) * 64
    wanted = hashlib.blake2b(data).digest()

    def work(rounds):
        for n in range(rounds):
            assert _hashlib.new("blake2b512", data).digest() == wanted
            key = n.to_bytes(16, "big")
            tag = hmac.digest(key, data, "sha256")
            box = aead.AESGCM(key).encrypt(key[:12], data, tag)
            assert aead.AESGCM(key).decrypt(key[:12], box, tag) == data
            one = Cipher(algorithms.AES(key), modes.CBC(key)).encryptor()
            two = Cipher(algorithms.AES(key), modes.CBC(key)).decryptor()
            assert two.update(one.update(data) + one.finalize()) + two.finalize() == data

    # What PyCA's wheel makes at its first use it makes once: a fork amid that would wait
    # for ever for a thread that is not there.
    work(1)
    stop = threading.Event()
    failed = []

    def forever():
        try:
            while not stop.is_set():
                work(5)
        except BaseException as error:
            failed.append(repr(error))

    threads = [threading.Thread(target=forever) for _ in range(6)]
    for thread in threads:
        thread.start()
    running = _hashlib.new("sha256", data[:100])
    for n in range(%d):
        child = os.fork()
        if not child:
            code = 1
            try:
                work(2)
                # What was begun before the fork goes on in both.
                mine = running.copy()
                mine.update(data)
                assert len(mine.digest()) == 32
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, n
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed, failed
    print("done")
"""


def storm(host: Host, forks: int) -> None:
    assert host.python(STORM % forks).split() == ["done"]


CHAIN = """
    import hmac, os, _hashlib
    data = bytes(range(256)) * 64
    running = _hashlib.new("sha3_256", data[:100])
    wanted = running.copy()
    wanted.update(data)
    for n in range(30):
        # Each goes on with what was begun before it, and begins more; a child's child does too.
        child = os.fork()
        mine = running.copy()
        mine.update(data)
        assert mine.digest() == wanted.digest()
        assert _hashlib.new("sha256", data).hexdigest().startswith(%r)
        assert len(hmac.digest(b"key", data, "sha512")) == 64
        if not child and n %% 3:
            os._exit(0)
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, n
            if n and n %% 3 == 0:
                break
    print("done", flush=True)
    os._exit(0)
"""


def test_children_go_on(whole: Host) -> None:
    start = hashlib.sha256(bytes(range(256)) * 64).hexdigest()[:16]
    said = whole.python(CHAIN % start).split()
    assert len(said) > 2
    assert set(said) == {"done"}


def test_a_fork_storm(whole: Host) -> None:
    storm(whole, 40)


@pytest.mark.soak
def test_a_long_fork_storm(whole: Host) -> None:
    for _ in range(30):
        storm(whole, 300)


NODE = """
const crypto = require("crypto");
const data = Buffer.alloc(5000, "cryptofd");
const key = Buffer.from([...Array(32).keys()]);
for (const name of ["sha256", "sha3-512", "shake256", "blake2b512", "md5", "rmd160"])
  console.log(name, crypto.createHash(name).update(data).update("more").digest("hex"));
const state = crypto.createHash("sha512").update(data);
console.log(state.copy().digest("hex"), state.update("x").digest("hex"));
console.log(crypto.createHmac("sha384", key).update(data).digest("hex"));
for (const name of ["aes-256-cbc", "aes-256-ctr", "aes-256-cfb", "des-ede3-cbc"]) {
  const size = name.startsWith("des") ? [24, 8] : [32, 16];
  const parts = [key.subarray(0, size[0]), key.subarray(0, size[1])];
  const one = crypto.createCipheriv(name, ...parts);
  const sealed = Buffer.concat([one.update(data), one.final()]);
  const two = crypto.createDecipheriv(name, ...parts);
  console.log(name, sealed.toString("hex"), two.update(sealed).length + two.final().length);
}
for (const name of ["aes-256-gcm", "chacha20-poly1305", "aes-256-ccm"]) {
  const options = { authTagLength: 16 };
  const one = crypto.createCipheriv(name, key, key.subarray(0, 12), options);
  one.setAAD(Buffer.from("aad"), { plaintextLength: data.length });
  const sealed = one.update(data);
  one.final();
  const two = crypto.createDecipheriv(name, key, key.subarray(0, 12), options);
  two.setAuthTag(one.getAuthTag());
  two.setAAD(Buffer.from("aad"), { plaintextLength: data.length });
  const opened = two.update(sealed);
  two.final();
  console.log(name, sealed.toString("hex"), one.getAuthTag().toString("hex"), opened.equals(data));
}
console.log(crypto.pbkdf2Sync("pass", "salt", 1000, 40, "sha256").toString("hex"));
console.log(Buffer.from(crypto.hkdfSync("sha256", key, "salt", "info", 40)).toString("hex"));
console.log(crypto.scryptSync("pass", "salt", 40).toString("hex"));
const pair = crypto.generateKeyPairSync("ec", { namedCurve: "P-256" });
const signature = crypto.sign("sha256", data, pair.privateKey);
console.log(crypto.verify("sha256", data, pair.publicKey, signature), crypto.randomBytes(9).length);
"""


def test_node(whole: Host) -> None:
    command = ("node", "--openssl-shared-config", "-e", NODE)
    said = whole.run(*command)
    assert said == whole.run(*command, OPENSSL_CONF="/dev/null")
    assert said.count(b"true") == 4
    whole.run(*command, fails=True, CRYPTOFD_DISABLE="software,kernel")
