"""Keys that OpenSSL's programs have the broker make, and the files in which they find them."""

from __future__ import annotations

import base64
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hosts import Host

if TYPE_CHECKING:
    from real_broker import Broker

#: What makes ours of it.
OURS = "-propquery provider=cryptofd-keys"
NUMBERS = itertools.count()
NAME = "-----BEGIN CRYPTOFD KEY REFERENCE-----"


@pytest.fixture(scope="module", params=[None, "all"])
def host(
    request: pytest.FixtureRequest, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Host:
    return Host(tmp_path_factory.mktemp("host"), request.param, None)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "message").write_bytes(b"message")
    return tmp_path


@pytest.fixture
def label() -> str:
    """One that no other test has."""
    return f"key{next(NUMBERS)}"


def openssl(host: Host, line: str, *, fails: bool = False) -> str:
    return host.run("openssl", *line.split(), fails=fails).decode()


TYPES = {
    "rsa": ("RSA -pkeyopt rsa_keygen_bits:2048", "rsa", 2048),
    "p256": ("EC -pkeyopt ec_paramgen_curve:P-256", "ecdsa-nist-p256", 256),
    "p384": ("EC -pkeyopt group:secp384r1", "ecdsa-nist-p384", 384),
    "ed": ("ED25519", "ed25519", 256),
}


@pytest.mark.parametrize("kind", TYPES)
def test_pairs(host: Host, broker: Broker, here: Path, label: str, kind: str) -> None:
    how, algorithm, bits = TYPES[kind]
    openssl(host, f"genpkey {OURS} -algorithm {how} -pkeyopt cryptofd-key:cryptofd:{label} -out k")
    key = broker.connect().keys.info(label)
    assert (key.algorithm, key.bits) == (algorithm, bits)
    assert set(key.usage) == {"sign", "verify"}
    assert (here / "k").read_text().startswith(NAME)
    public = broker.command("key", "public", label).stdout
    assert openssl(host, "pkey -in k -pubout") == public
    # The same file as the command's.
    own = broker.command("key", "reference", label).stdout
    assert openssl(host, f"pkey -in cryptofd:{label}") == own == (here / "k").read_text()
    openssl(host, "req -x509 -new -key k -subj /CN=x -out certificate")
    openssl(host, "verify -CAfile certificate certificate")


def test_a_request_makes_its_key(host: Host, broker: Broker, here: Path, label: str) -> None:
    """The passphrase that others' keys would need is not asked for: a name is no secret."""
    openssl(
        host, f"req {OURS} -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -pkeyopt "
        f"cryptofd-key:cryptofd:{label} -subj /CN=x -keyout k -passout pass:word -out certificate"
    )  # fmt: skip
    assert (here / "k").read_text().startswith(NAME)
    openssl(host, "verify -CAfile certificate certificate")
    assert broker.connect().keys.info(label).algorithm == "ecdsa-nist-p256"


def test_what_a_key_is_for(host: Host, broker: Broker, here: Path, label: str) -> None:
    name = f"-pkeyopt cryptofd-key:cryptofd:{label}"
    for kind, algorithm, usage in (
        ("EC -pkeyopt group:P-256", "ecdh-nist-p256", "-pkeyopt cryptofd-usage:derive-bytes"),
        # There is nothing else that a program can do with it.
        ("X25519", "x25519", ""),
    ):
        openssl(host, f"genpkey {OURS} -algorithm {kind} {name}-{algorithm} {usage} -out k")
        assert broker.connect().keys.info(f"{label}-{algorithm}").algorithm == algorithm
        openssl(host, f"genpkey -algorithm {kind} -out own")
        openssl(host, "pkey -in own -pubout -out own.public")
        openssl(host, "pkey -in k -pubout -out public")
        openssl(host, "pkeyutl -derive -inkey k -peerkey own.public -out one")
        openssl(host, "pkeyutl -derive -inkey own -peerkey public -out two")
        assert (here / "one").read_bytes() == (here / "two").read_bytes()
    usage = "-pkeyopt cryptofd-usage:sign,sign-digest"
    openssl(host, f"genpkey {OURS} -algorithm EC -pkeyopt group:P-521 {name} {usage} -out k")
    assert set(broker.connect().keys.info(label).usage) == {"sign", "sign-digest"}


def test_a_key_that_no_program_uses_is_made(host: Host, broker: Broker, here: Path) -> None:
    """What fails later has a key to go on with, and no label that is taken for nothing."""
    label = f"key{next(NUMBERS)}"
    how = f"-pkeyopt group:P-256 -pkeyopt cryptofd-key:cryptofd:{label}"
    openssl(host, f"genpkey {OURS} -algorithm EC {how} -pkeyopt cryptofd-usage:derive -out k")
    assert set(broker.connect().keys.info(label).usage) == {"derive"}
    assert (here / "k").read_text().startswith(NAME)


def test_options_of_each_type(host: Host, here: Path, label: str) -> None:
    name = f"-pkeyopt cryptofd-key:cryptofd:{label}"
    ec = f"genpkey {OURS} -algorithm EC -pkeyopt group:P-256 {name}"
    for wrong in ("ec_param_enc:explicit", "bits:521", "rsa_keygen_bits:2048"):
        openssl(host, f"{ec} -pkeyopt {wrong}", fails=True)
    for wrong in ("group:P-521", "bits:4096"):
        openssl(host, f"genpkey {OURS} -algorithm ED25519 {name} -pkeyopt {wrong}", fails=True)
    made = openssl(host, f"{ec} -pkeyopt ec_param_enc:named_curve -text")
    assert "EC Private-Key: (256 bit)\nkept by the broker: cryptofd:" in made


def test_what_is_not_made_says_why(host: Host, broker: Broker, here: Path, label: str) -> None:
    def refused(how: str, *words: str) -> None:
        said = openssl(host, f"genpkey {OURS} -algorithm {how} -out k", fails=True)
        for word in words:
            assert word in said, said

    name = f"-pkeyopt cryptofd-key:cryptofd:{label}"
    curve = "-pkeyopt group:P-256"
    refused(f"EC {curve}", "cryptofd:LABEL, under which the broker keeps the new key")
    refused(f"EC {name}", "say on which curve")
    refused(f"EC -pkeyopt group:secp256k1 {name}", "P-256, P-384 or P-521")
    refused(f"EC {curve} -pkeyopt cryptofd-key:file:x", "its scheme is another one")
    refused(f"EC {curve} -pkeyopt cryptofd-key:cryptofd:", "a new key is its maker's own")
    refused(f"EC {curve} -pkeyopt cryptofd-key:cryptofd:uid:1/x", "a new key is its maker's own")
    refused(f"EC {curve} {name} -pkeyopt cryptofd-usage:fly", "fly")
    refused(f"RSA {name} -pkeyopt rsa_keygen_pubexp:3", "65537")
    refused(f"RSA {name} -pkeyopt rsa_keygen_primes:3", "primes 3")
    refused(f"RSA {name} -pkeyopt rsa_keygen_bits:512", "512")
    labels = {key.label for key in broker.connect().keys.list()}
    assert label not in labels
    openssl(host, f"genpkey {OURS} -algorithm EC {curve} {name} -out k")
    before = (here / "k").read_text()
    refused(f"EC {curve} {name}", label)
    assert openssl(host, f"pkey -in cryptofd:{label}") == before


def test_who_does_not_ask_for_ours_makes_its_own(host: Host, here: Path) -> None:
    for kind in ("EC -pkeyopt group:P-256", "ED25519", "RSA"):
        assert "BEGIN PRIVATE KEY" in openssl(host, f"genpkey -algorithm {kind}")
    openssl(host, "genpkey -algorithm EC -pkeyopt group:P-256 -aes256 -pass pass:x -out own")
    assert "ENCRYPTED" in (here / "own").read_text()


def test_parameters_alone(host: Host, here: Path) -> None:
    said = openssl(host, f"genpkey -genparam {OURS} -algorithm EC -pkeyopt group:P-384")
    theirs = openssl(host, "genpkey -genparam -algorithm EC -pkeyopt group:P-384")
    assert said == theirs
    said = openssl(host, f"genpkey -genparam {OURS} -algorithm EC", fails=True)
    assert "say on which curve" in said
    openssl(host, f"genpkey -genparam {OURS} -algorithm RSA", fails=True)


@pytest.mark.parametrize("profile", ["keys", "all"])
def test_own_keys_where_ours_is_preferred(here: Path, tmp_path: Path, profile: str) -> None:
    """They are made, encrypted and read as without us."""
    preferring = Host(tmp_path, profile)
    for kind in ("EC -pkeyopt group:P-256", "ED25519", "RSA"):
        openssl(preferring, f"genpkey -algorithm {kind} -out own")
        openssl(preferring, "pkey -in own -aes256 -passout pass:x -out sealed")
        assert "ENCRYPTED" in (here / "sealed").read_text()
        openssl(preferring, "pkey -in sealed -passin pass:x -out again")
        assert (here / "own").read_text() == (here / "again").read_text()


def test_the_file_holds_no_secret(host: Host, here: Path, label: str) -> None:
    name = f"-pkeyopt cryptofd-key:cryptofd:{label}"
    openssl(host, f"genpkey {OURS} -algorithm ED25519 {name} -out k")
    lines = (here / "k").read_text().splitlines()
    der = base64.b64decode("".join(lines[1:-1]))
    assert der[2:4] + der[4:11] == b"\x0c\x07ED25519"
    assert f"/{label}".encode() in der
    assert len(der) < 100


GENERATED = """
import ctypes, sys
sys.path.insert(0, {tests!r})
from libcrypto import POINTER, function, last_error, params
text = ctypes.c_char_p
new = function("EVP_PKEY_CTX_new_from_name", POINTER, text, text, result=POINTER)
new_like = function("EVP_PKEY_CTX_new_from_pkey", POINTER, POINTER, text, result=POINTER)
bits = function("EVP_PKEY_get_bits", POINTER)
begin_parameters = function("EVP_PKEY_paramgen_init", POINTER)
begin = function("EVP_PKEY_keygen_init", POINTER)
set_params = function("EVP_PKEY_CTX_set_params", POINTER, POINTER)
make = function("EVP_PKEY_generate", POINTER, ctypes.POINTER(POINTER))
ours = b"provider=cryptofd-keys"
# Parameters of ours, and a key like them.
context = new(None, b"EC", ours)
assert begin_parameters(context) > 0, last_error()
assert set_params(context, params(group="P-384")) > 0, last_error()
curve, like = POINTER(), POINTER()
assert make(context, ctypes.byref(curve)) > 0, last_error()
assert bits(curve) == 384
context = new_like(None, curve, ours)
assert begin(context) > 0, last_error()
assert set_params(context, params(cryptofd_key="cryptofd:like-" + sys.argv[1])) > 0, last_error()
assert make(context, ctypes.byref(like)) > 0, last_error()
assert bits(like) == 384
for name in sys.argv[1:]:
    context = new(None, b"EC", b"provider=cryptofd-keys")
    assert begin(context) > 0, last_error()
    how = params(cryptofd_key="cryptofd:" + name, group="P-256")
    assert set_params(context, how) > 0, last_error()
    key = POINTER()
    print(make(context, ctypes.byref(key)), last_error(), flush=True)
"""


def test_a_program_makes_many(host: Host, broker: Broker, label: str) -> None:
    code = GENERATED.format(tests=str(Path(__file__).parent))
    names = [f"{label}-{number}" for number in range(20)]
    said = host.run("python3", "-c", code, *names).decode().splitlines()
    assert [line.split()[0] for line in said] == ["1"] * 20, said
    owned = {key.label for key in broker.connect().keys.list()}
    assert {*names, f"like-{names[0]}"} <= owned
