"""A later OpenSSL than the host's (Debian 13's, from the lab): the same module, more keys."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import secret_keys
from hosts import Host

from lab.userland import userland

if TYPE_CHECKING:
    from real_broker import Broker

USERLAND = Path(__file__).resolve().parents[2] / ".lab" / "userland" / "trixie"
#: Debian 13's.
GLIBC = (2, 41)

KEYS = {
    "rsa": ("rsa", {"sign", "decrypt"}),
    "p256": ("ecdsa-nist-p256", {"sign"}),
    "ed": ("ed25519", {"sign"}),
    "ml-dsa": ("ml-dsa-65", {"sign"}),
    "ml-kem": ("ml-kem-768", {"derive-bytes"}),
    "x25519": ("x25519", {"derive-bytes"}),
}


@pytest.fixture(scope="module")
def broker(broker: Broker) -> Broker:
    for label, (algorithm, usage) in KEYS.items():
        bits = 2048 if algorithm == "rsa" else None
        broker.connect().keys.generate(label, algorithm, bits=bits, usage=usage)
    secret_keys.fill(broker)
    return broker


class Later:
    """That OpenSSL's command, with its own libraries on this host's kernel."""

    def __init__(self, folder: Path, root: Path = USERLAND) -> None:
        self.host = Host(folder, None, None)
        self.root = root
        loaders = [*root.glob("lib64/ld-linux-*"), *root.glob("lib/ld-linux-*")]
        libraries = sorted(root.glob("usr/lib/*/libcrypto.so.[34]"))
        program = root / "usr" / "bin" / "openssl"
        if not loaders or not libraries or not program.exists():
            pytest.skip(f"the lab has no userland with OpenSSL in {root}")
        own = tuple(int(part) for part in platform.libc_ver()[1].split(".")[:2])
        if own > GLIBC:
            pytest.skip(f"built with glibc {own}, which Debian 13 cannot load")
        # Where there are two, Python is linked with the older.
        self.libcrypto = libraries[-1]
        self.command = [loaders[0], "--library-path", self.libcrypto.parent, program]

    def __call__(self, line: str, given: bytes = b"") -> bytes:
        return self.host.run(*self.command, *line.split(), given=given)

    def python(self, *arguments: str | Path) -> bytes:
        """Its own Python, whose ctypes finds that libcrypto."""
        python = self.root / "usr" / "bin" / "python3"
        return self.host.run(
            *self.command[:-1], python, *arguments, PYTHONHOME=str(self.root / "usr"),
            CRYPTOFD_TEST_LIBCRYPTO=self.libcrypto.name,
        )  # fmt: skip


@pytest.fixture
def openssl(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Later:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "message").write_bytes(b"message")
    return Later(tmp_path)


def test_it_is_a_later_one(openssl: Later) -> None:
    assert openssl("version") >= b"OpenSSL 3.5"
    assert f"Total found: {len(KEYS)}".encode() in openssl("storeutl -keys -noout cryptofd:")


@pytest.mark.parametrize("label", ["rsa", "p256", "ed", "ml-dsa"])
def test_signatures_and_certificates(openssl: Later, label: str) -> None:
    more = "-rawin" if label in ("ed", "ml-dsa") else "-rawin -digest sha256"
    openssl(f"pkey -in cryptofd:{label} -pubout -out public")
    openssl(f"pkeyutl -sign {more} -inkey cryptofd:{label} -in message -out signature")
    openssl(f"pkeyutl -verify {more} -pubin -inkey public -sigfile signature -in message")
    openssl(f"req -x509 -new -key cryptofd:{label} -subj /CN=x -out certificate")
    openssl("verify -CAfile certificate certificate")


def test_agreement_and_encapsulation(openssl: Later, tmp_path: Path) -> None:
    def same() -> bool:
        return (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()

    openssl("genpkey -algorithm X25519 -out own")
    openssl("pkey -in own -pubout -out own.public")
    openssl("pkey -in cryptofd:x25519 -pubout -out public")
    openssl("pkeyutl -derive -inkey cryptofd:x25519 -peerkey own.public -out one")
    openssl("pkeyutl -derive -inkey own -peerkey public -out two")
    assert same()
    openssl("pkey -in cryptofd:ml-kem -pubout -out public")
    openssl("pkeyutl -encap -pubin -inkey public -out sealed -secret one")
    openssl("pkeyutl -decap -inkey cryptofd:ml-kem -in sealed -secret two")
    assert same()


def test_a_programs_own_keys_are_its_own(openssl: Later) -> None:
    for kind in ("EC -pkeyopt group:P-256", "ED25519", "ML-DSA-65", "RSA"):
        openssl(f"genpkey -algorithm {kind} -out own")
        openssl("req -x509 -new -key own -subj /CN=x -out certificate")
        openssl("verify -CAfile certificate certificate")


#: As servers read a file, and what type the key is.
READ = """
import ctypes, os, sys
crypto = ctypes.CDLL(os.environ["CRYPTOFD_TEST_LIBCRYPTO"])
pointer = ctypes.c_void_p
for name in ("BIO_new_file", "PEM_read_bio_PrivateKey", "EVP_PKEY_get0_type_name"):
    getattr(crypto, name).restype = pointer
for file in sys.argv[1:]:
    key = crypto.PEM_read_bio_PrivateKey(
        pointer(crypto.BIO_new_file(file.encode(), b"r")), None, None, None)
    print(ctypes.string_at(crypto.EVP_PKEY_get0_type_name(pointer(key))).decode())
"""


def references(later: Later, broker: Broker, folder: Path) -> None:
    """Files that hold a key's name, of every type, read by the command and by programs."""
    files = []
    for label in KEYS:
        said = broker.command("key", "reference", label)
        (folder / label).write_text(said.stdout)
        files.append(str(folder / label))
        public = later(f"pkey -in cryptofd:{label} -pubout")
        assert later(f"pkey -in {folder / label} -pubout") == public
    own = folder / "own"
    later(f"genpkey -algorithm EC -pkeyopt group:P-256 -out {own}")
    types = later.python("-c", READ, *files, str(own)).decode().split()
    assert types == ["RSA", "EC", "ED25519", "ML-DSA-65", "ML-KEM-768", "X25519", "EC"]


def test_references_in_files(openssl: Later, broker: Broker, tmp_path: Path) -> None:
    references(openssl, broker, tmp_path)


BY_REFERENCE = (
    "skeys", "generated", "defaults", "plain", "units", "aeads", "macs", "kdfs", "chosen"
)  # fmt: skip


@pytest.mark.parametrize("what", BY_REFERENCE)
def test_symmetric_keys_by_reference(openssl: Later, what: str) -> None:
    """As objects (EVP_SKEY), and by the parameter."""
    program = Path(__file__).with_name("by_reference.py")
    assert openssl.python(program, what, "2", "20").split() == [b"done"]


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("suite", ["forky", "experimental"])
def test_the_same_on_still_later_ones(broker: Broker, tmp_path: Path, suite: str) -> None:
    """OpenSSL 3.6 and 4.0."""
    if os.geteuid():
        pytest.skip("another userland needs root")
    later = Later(tmp_path, userland(suite).root)
    program = Path(__file__).with_name("by_reference.py")
    for what in BY_REFERENCE:
        assert later.python(program, what, "3", "300").split() == [b"done"], what
    references(later, broker, tmp_path)


def test_the_command_encrypts_with_them(openssl: Later, tmp_path: Path) -> None:
    iv, key = bytes(range(16)).hex(), secret_keys.KEYS["cbc"][1].hex()
    query = "-propquery cryptofd.keys=yes"
    named = "-skeymgmt AES -skeyopt cryptofd-key:cryptofd:cbc"
    message = bytes(range(256)) * 300
    sealed = openssl(f"enc -aes-256-cbc {query} {named} -iv {iv}", message)
    assert sealed == openssl(f"enc -aes-256-cbc -K {key} -iv {iv}", message)
    assert openssl(f"enc -d -aes-256-cbc {query} {named} -iv {iv}", sealed) == message


def test_the_command_makes_them(openssl: Later, broker: Broker) -> None:
    made = "-skeymgmt AES -skeyopt cryptofd-key:cryptofd:made -skeyopt cryptofd-algorithm:cbc(aes)"
    query = "-propquery cryptofd.keys=yes"
    assert b"/made" in openssl(f"skeyutl -genkey {query} {made}")
    key = broker.connect().keys.info("made")
    assert (key.algorithm, key.bits) == ("cbc(aes)", 256)
    named = f"{query} -skeymgmt AES -skeyopt cryptofd-key:cryptofd:made -iv {bytes(16).hex()}"
    sealed = openssl(f"enc -aes-256-cbc {named}", b"message")
    assert openssl(f"enc -d -aes-256-cbc {named}", sealed) == b"message"


def test_it_has_pairs_made(openssl: Later, broker: Broker) -> None:
    """Also of types that earlier ones do not have."""
    ours = "-propquery provider=cryptofd-keys"
    for kind in ("ML-DSA-65", "ED25519"):
        name = f"-pkeyopt cryptofd-key:cryptofd:own-{kind.lower()}"
        openssl(f"genpkey {ours} -algorithm {kind} {name} -out k")
        openssl("pkey -in k -pubout -out public")
        openssl("pkeyutl -sign -rawin -inkey k -in message -out signature")
        openssl("pkeyutl -verify -rawin -pubin -inkey public -sigfile signature -in message")
    name = "-pkeyopt cryptofd-key:cryptofd:own-kem"
    openssl(f"genpkey {ours} -algorithm ML-KEM-768 {name} -out k")
    openssl("pkey -in k -pubout -out public")
    openssl("pkeyutl -encap -pubin -inkey public -out sealed -secret one")
    openssl("pkeyutl -decap -inkey k -in sealed -secret two")
    assert Path("one").read_bytes() == Path("two").read_bytes()
