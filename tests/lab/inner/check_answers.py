"""What AF_ALG answers, asked with raw sockets: run in a lab kernel by tests/lab.

The expected answers are written out here from the documentation of Linux 7.2 and 7.3, and
know nothing of the code that makes them.
"""

import errno
import os
import socket
import subprocess
import sys
import textwrap

import pytest

from lab import guest

LINUX = guest.linux()
ROOT = os.getuid() == 0

UNPRIVILEGED = [
    ("hash", "sha1"),
    ("skcipher", "xts(aes)"),
]
PRIVILEGED = [
    ("hash", "md5"),
    ("hash", "sha224"),
    ("hash", "sha256"),
    ("hash", "sha384"),
    ("hash", "sha512"),
    ("hash", "cmac(aes)"),
    ("hash", "hmac(md5)"),
    ("hash", "hmac(sha1)"),
    ("hash", "hmac(sha256)"),
    ("hash", "hmac(sha512)"),
    ("skcipher", "cbc(aes)"),
    ("skcipher", "cbc(des3_ede)"),
    ("skcipher", "ctr(aes)"),
    ("skcipher", "ecb(aes)"),
    ("aead", "ccm(aes)"),
]
UNLISTED = [
    ("aead", "gcm(aes)"),
    ("aead", "rfc7539(chacha20,poly1305)"),
    ("rng", "stdrng"),
    ("hash", "sha3-256"),
    ("hash", "blake2b-512"),
    ("skcipher", "cfb(aes)"),
]


def answer(kind: str, name: str, feat: int = 0, mask: int = 0) -> str:
    """What socket() and bind() say: `bound`, or the name of an errno."""
    try:
        with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as parent:
            parent.bind((kind, name, feat, mask))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "bound"


def has(kind: str, name: str) -> bool:
    """Whether this kernel was built with it (cfb went in 6.10)."""
    return not (
        name == "cfb(aes)" and tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 10)
    )


@pytest.mark.parametrize(("kind", "name"), UNPRIVILEGED + PRIVILEGED + UNLISTED)
def test_an_algorithm_is_answered_as_by_that_linux(kind: str, name: str) -> None:
    if LINUX == "7.3:2":
        expected = "EAFNOSUPPORT"
    elif LINUX == "7.3:1":
        allowed = UNPRIVILEGED + (PRIVILEGED if ROOT else [])
        expected = "bound" if (kind, name) in allowed else "ENOENT"
    else:
        expected = "bound" if has(kind, name) else "ENOENT"
    assert answer(kind, name) == expected


@pytest.mark.skipif(LINUX == "7.3:2", reason="there is no AF_ALG at this level")
class TestWhereThereIsAfAlg:
    def test_what_no_linux_has_is_enoent(self) -> None:
        assert answer("hash", "nonsense") == "ENOENT"
        assert answer("nonsense", "sha1") == "ENOENT"

    def test_feat_and_mask_are_ignored_from_7_2_on(self) -> None:
        expected = "EINVAL" if LINUX is None else "bound"
        assert answer("hash", "sha1", 1, 0) == expected
        assert answer("hash", "sha1", 0, 1) == expected

    def test_what_computes_in_another_thread_is_gone_in_7_2(self) -> None:
        name = "cryptd(ecb(aes-generic))"
        assert answer("skcipher", name) == ("bound" if LINUX is None else "ENOENT")

    def test_a_driver_name_is_not_on_the_allowlist(self) -> None:
        expected = "ENOENT" if LINUX == "7.3:1" else "bound"
        assert answer("hash", "sha1-generic") == expected

    def test_an_operation_works_on_what_was_bound(self) -> None:
        with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as parent:
            parent.bind(("hash", "sha1"))
            operation, _ = parent.accept()
            with operation:
                operation.sendall(b"abc")
                digest = operation.recv(20)
        assert digest.hex() == "a9993e364706816aba3e25717850c26c9cd0d89d"

    def test_an_operation_has_no_bind(self) -> None:
        with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as parent:
            parent.bind(("hash", "sha1"))
            operation, _ = parent.accept()
            with operation, pytest.raises(OSError, match="not supported") as caught:
                operation.bind(("hash", "sha256"))
        assert caught.value.errno == errno.EOPNOTSUPP

    def test_an_address_that_is_too_short_is_the_kernels_to_refuse(self) -> None:
        program = """
            import ctypes, socket
            libc = ctypes.CDLL(None, use_errno=True)
            parent = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
            assert libc.bind(parent.fileno(), bytes([38, 0]) + b"hash", 6) == -1
            assert ctypes.get_errno() == 22, ctypes.get_errno()
            assert libc.bind(parent.fileno(), 8, 88) == -1
            assert ctypes.get_errno() == 14, ctypes.get_errno()
        """
        subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)

    @pytest.mark.skipif(not ROOT, reason="others have no capabilities to lose")
    def test_capabilities_in_another_user_namespace_do_not_count(self) -> None:
        program = """
            import os, socket
            assert "CapEff:\\t00000" in open("/proc/self/status").read()
            parent = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
            parent.bind(("hash", "sha1"))
            try:
                parent.bind(("hash", "sha256"))
            except FileNotFoundError:
                print("refused")
            else:
                print("bound")
        """
        inside = subprocess.run(
            [
                "unshare",
                "--user",
                "--map-root-user",
                sys.executable,
                "-c",
                textwrap.dedent(program),
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        assert inside.stdout.strip() == ("refused" if LINUX == "7.3:1" else "bound")


def test_other_sockets_are_left_alone() -> None:
    with socket.socket(socket.AF_INET) as other:
        other.bind(("127.0.0.1", 0))
        assert other.getsockname()[1] > 0
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("\0lab")
        assert other.getsockname() == b"\0lab"
    with pytest.raises(OSError, match=r"assign|denied") as caught:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).bind(("192.0.2.1", 80))
    assert caught.value.errno in (errno.EADDRNOTAVAIL, errno.EACCES)
