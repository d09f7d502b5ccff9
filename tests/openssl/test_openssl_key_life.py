"""Keys by reference in programs that fork, run threads, close what is not theirs; restarts."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hosts import Host

if TYPE_CHECKING:
    from real_broker import Broker

#: A key by libcrypto itself, in Python: `sign(key)` checks what it signed with the public half.
LIBCRYPTO = textwrap.dedent("""
    import ctypes, os, sys, threading
    crypto = ctypes.CDLL("libcrypto.so.3")
    pointer, size, int_ = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    def function(name, result, *arguments):
        made = getattr(crypto, name)
        made.restype, made.argtypes = result, arguments
        return made
    store_open = function("OSSL_STORE_open", pointer, ctypes.c_char_p, *[pointer] * 4)
    store_load = function("OSSL_STORE_load", pointer, pointer)
    store_close = function("OSSL_STORE_close", int_, pointer)
    get1_pkey = function("OSSL_STORE_INFO_get1_PKEY", pointer, pointer)
    info_free = function("OSSL_STORE_INFO_free", None, pointer)
    key_free = function("EVP_PKEY_free", None, pointer)
    new = function("EVP_MD_CTX_new", pointer)
    free = function("EVP_MD_CTX_free", None, pointer)
    sha256 = function("EVP_sha256", pointer)()
    init = {
        name: function(f"EVP_Digest{name}Init", int_, *[pointer] * 5) for name in ("Sign", "Verify")
    }
    make = function("EVP_DigestSign", int_, pointer, pointer, pointer, ctypes.c_char_p, size)
    text = ctypes.c_char_p
    check = function("EVP_DigestVerify", int_, pointer, text, size, text, size)
    errors = function("ERR_print_errors_cb", None, pointer, pointer)
    def said():
        lines = []
        called = ctypes.CFUNCTYPE(int_, ctypes.c_char_p, size, pointer)
        errors(called(lambda line, *_: lines.append(line.decode()) or 1), None)
        return "".join(lines)
    def load(uri):
        store = store_open(uri.encode(), None, None, None, None)
        info = store and store_load(store)
        if not info:
            raise SystemExit(said())
        key = get1_pkey(info)
        info_free(info)
        store_close(store)
        return key
    def sign(key, message=b"message"):
        context, length = new(), size(1024)
        out = ctypes.create_string_buffer(1024)
        fine = init["Sign"](context, None, sha256, None, key) == 1
        fine = fine and make(context, out, ctypes.byref(length), message, len(message)) == 1
        free(context)
        if not fine:
            return said() or "?"
        context = new()
        fine = init["Verify"](context, None, sha256, None, key) == 1
        made = out.raw[: length.value]
        fine = fine and check(context, made, len(made), message, len(message)) == 1
        free(context)
        return None if fine else "does not verify: " + said()
    def wait(child):
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
""")


@pytest.fixture(scope="module")
def broker(broker: Broker) -> Broker:
    keys = broker.connect().keys
    keys.generate("web", "ecdsa-nist-p256", usage={"sign", "verify"})
    keys.generate("rsa", "rsa", bits=2048, usage={"sign", "encrypt", "decrypt"})
    keys.generate("p256", "ecdh-nist-p256", usage={"derive-bytes"})
    keys.generate("p521", "ecdh-nist-p521", usage={"derive-bytes"})
    keys.generate("x25519", "x25519", usage={"derive-bytes"})
    keys.generate("bound", "x25519", usage={"derive"}, derive_template={
        "algorithm": "gcm(aes)", "bits": 256, "usage": ["encrypt", "decrypt"]})  # fmt: skip
    return broker


@pytest.fixture(scope="module")
def host(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(tmp_path_factory.mktemp("host"), None, None)


def run(host: Host, code: str, *arguments: str, **env: str) -> str:
    text = LIBCRYPTO + textwrap.dedent(code)
    return host.run(sys.executable, "-c", text, *arguments, **env).decode()


def test_a_parent_loads_and_children_sign(host: Host) -> None:
    """All at once, again and again, and their children too."""
    run(
        host,
        """
        key = load("cryptofd:web")
        assert sign(key) is None
        children = []
        for _ in range(8):
            child = os.fork()
            if not child:
                for _ in range(5):
                    assert sign(key) is None
                inner = os.fork()
                if not inner:
                    assert sign(key) is None
                    os._exit(0)
                wait(inner)
                assert sign(key) is None
                os._exit(0)
            children.append(child)
        assert sign(key) is None
        for child in children:
            wait(child)
        assert sign(key) is None
        """,
    )


def test_threads_share_a_key_while_others_fork(host: Host) -> None:
    run(
        host,
        """
        keys = [load("cryptofd:web"), load("cryptofd:rsa")]
        wrong = []
        def signs(key):
            for _ in range(30):
                answer = sign(key)
                if answer:
                    wrong.append(answer)
        threads = [threading.Thread(target=signs, args=(key,)) for key in keys * 3]
        for thread in threads:
            thread.start()
        for _ in range(10):
            child = os.fork()
            if not child:
                os._exit(sum(sign(key) is not None for key in keys))
            wait(child)
        for thread in threads:
            thread.join()
        assert not wrong, wrong
        """,
    )


def test_a_program_closes_what_is_not_its_own(host: Host) -> None:
    """And uses the numbers again: what is behind them by then is not touched."""
    run(
        host,
        """
        key = load("cryptofd:web")
        assert sign(key) is None
        os.closerange(3, 256)
        assert sign(key) is None
        ours = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]
        reading, writing = os.pipe()
        for number in range(3, 256):
            if number not in (reading, writing):
                os.dup2(writing, number)
        assert sign(key) is None
        assert sign(load("cryptofd:web")) is None
        for number in range(3, 256):
            if number not in (reading, writing):
                assert os.fstat(number).st_ino == os.fstat(writing).st_ino, number
        os.set_blocking(reading, False)
        try:
            assert os.read(reading, 1) == b"", "something was written there"
            raise SystemExit("the pipe was closed")
        except BlockingIOError:
            pass
        key_free(key)
        """,
    )


def test_a_child_goes_on_when_another_worker_serves(host: Host, broker: Broker) -> None:
    """With its own share of the session that its parent opened."""
    import subprocess

    from real_broker import until

    text = LIBCRYPTO + textwrap.dedent(
        """
        key = load("cryptofd:web")
        assert sign(key) is None
        child = os.fork()
        if not child:
            if not os.geteuid():
                os.setresuid(65534, 65534, 65534)  # nobody, who has no right to the key
            assert sign(key) is None
            print("begun", flush=True)
            sys.stdin.readline()
            print(sign(key) or "fine", flush=True)
            os._exit(0)
        wait(child)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", text], env=host.environment(), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as program:  # fmt: skip
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == "begun\n"
        gone = broker.kill_worker()
        until(lambda: all(one["pid"] != gone for one in broker.status()["workers"]), "a worker")
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.stdout.readline() == "fine\n"


def test_the_service_is_restarted_under_a_program(host: Host, broker: Broker) -> None:
    """Its sessions end; the next signature opens another."""
    import subprocess

    text = LIBCRYPTO + textwrap.dedent(
        """
        key = load("cryptofd:web")
        for line in sys.stdin:
            answer = sign(key)
            print("fine" if answer is None else answer.replace("\\n", " "), flush=True)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", text], env=host.environment(), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as program:  # fmt: skip
        assert program.stdin is not None
        assert program.stdout is not None

        def asks() -> str:
            assert program.stdin is not None
            assert program.stdout is not None
            program.stdin.write("\n")
            program.stdin.flush()
            return program.stdout.readline().strip()

        assert asks() == "fine"
        broker.end()
        assert "broker cannot be asked" in asks()
        broker.start()
        assert asks() == "fine"
        broker.kill_worker()
        assert asks() == "fine"
        broker.kill_broker()
        assert asks() == "fine"
        program.stdin.close()


def openssl(host: Host, line: str, *, fails: bool = False) -> bytes:
    return host.run("openssl", *line.split(), fails=fails)


@pytest.mark.parametrize("label", ["p256", "p521", "x25519"])
def test_agreement(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str) -> None:
    """With a key that the program made, each seeing the other's public half."""
    monkeypatch.chdir(tmp_path)
    kind = {"p256": "EC -pkeyopt group:P-256", "p521": "EC -pkeyopt group:P-521"}
    openssl(host, f"genpkey -algorithm {kind.get(label, 'X25519')} -out own")
    openssl(host, "pkey -in own -pubout -out own.public")
    openssl(host, f"pkey -in cryptofd:{label} -pubout -out public")
    openssl(host, f"pkeyutl -derive -inkey cryptofd:{label} -peerkey own.public -out one")
    openssl(host, "pkeyutl -derive -inkey own -peerkey public -out two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    if label == "x25519":
        said = openssl(
            host, "pkeyutl -derive -inkey cryptofd:bound -peerkey own.public", fails=True
        )
        assert b"refused by policy" in said


@pytest.mark.parametrize(
    "padding",
    [
        "-pkeyopt rsa_padding_mode:oaep",
        "-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256",
        "-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_oaep_label:6c",
    ],
)
def test_rsa_decrypts(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, padding: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(b"secret")
    openssl(host, "pkey -in cryptofd:rsa -pubout -out public")
    for key in ("-pubin -inkey public", "-inkey cryptofd:rsa"):
        openssl(host, f"pkeyutl -encrypt {key} -in secret -out sealed {padding}")
        back = openssl(host, f"pkeyutl -decrypt -inkey cryptofd:rsa -in sealed {padding}")
        assert back == b"secret"
    other = padding.replace("sha256", "sha512") + " -pkeyopt rsa_oaep_label:00"
    openssl(host, f"pkeyutl -decrypt -inkey cryptofd:rsa -in sealed {other}", fails=True)


def test_rsa_hides_whether_a_padding_was_right(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PKCS#1 v1.5, by an engine that answers a bad padding like a good one, or not at all."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(b"secret")
    openssl(host, "pkeyutl -encrypt -inkey cryptofd:rsa -in secret -out sealed")
    found = re.match(r"OpenSSL (\d+)\.(\d+)", openssl(host, "version").decode())
    assert found
    decrypt = "pkeyutl -decrypt -inkey cryptofd:rsa -in sealed"
    if (int(found[1]), int(found[2])) >= (3, 2):
        assert openssl(host, decrypt) == b"secret"
    else:
        assert b"use oaep" in openssl(host, decrypt, fails=True)


def test_cms_is_decrypted(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "message").write_bytes(b"message")
    openssl(host, "req -x509 -new -key cryptofd:rsa -subj /CN=x -out certificate")
    seal = "cms -encrypt -aes256 -in message -outform DER -out sealed -recip certificate"
    openssl(host, f"{seal} -keyopt rsa_padding_mode:oaep")
    opened = "cms -decrypt -in sealed -inform DER -inkey cryptofd:rsa -recip certificate"
    assert openssl(host, opened) == b"message"
