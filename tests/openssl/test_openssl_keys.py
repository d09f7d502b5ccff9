"""Keys that stay in the broker, by reference: OpenSSL's programs use them and never hold them."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hosts import Host
from programs import program

if TYPE_CHECKING:
    from real_broker import Broker

SIGNING = {"sign", "verify"}
PAIRS = {
    "rsa": ("rsa", SIGNING | {"sign-digest", "decrypt", "encrypt"}),
    "p256": ("ecdsa-nist-p256", SIGNING | {"sign-digest"}),
    "p384": ("ecdsa-nist-p384", SIGNING | {"sign-digest"}),
    "p521": ("ecdsa-nist-p521", SIGNING | {"sign-digest"}),
    "ed": ("ed25519", SIGNING),
    "messages": ("ecdsa-nist-p256", SIGNING),
    "digests": ("ecdsa-nist-p256", {"sign-digest", "verify"}),
    "agrees": ("ecdh-nist-p256", {"derive-bytes"}),
    "agrees521": ("ecdh-nist-p521", {"derive-bytes"}),
    "other": ("ecdh-nist-p256", {"derive-bytes"}),
}


@pytest.fixture(scope="module")
def broker(broker: Broker) -> Broker:
    keys = broker.connect().keys
    for label, (algorithm, usage) in PAIRS.items():
        keys.generate(label, algorithm, bits=2048 if algorithm == "rsa" else None, usage=usage)
    keys.generate("secret", "gcm(aes)")
    return broker


@pytest.fixture(scope="module")
def host(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Programs whose configuration names the provider, and nothing else."""
    return Host(tmp_path_factory.mktemp("host"), None, None)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def certificates(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of certificates of localhost, each signed with its own key: rsa.pem, p256.pem ..."""
    folder = tmp_path_factory.mktemp("certificates")
    for label in ("rsa", "p256", "p384", "ed"):
        host.run(
            "openssl", "req", "-x509", "-new", "-key", f"cryptofd:{label}", "-subj",
            "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
            "-addext", "basicConstraints=critical,CA:TRUE", "-out",
            folder / f"{label}.pem",
        )  # fmt: skip
    return folder


def openssl(host: Host, line: str, *, given: bytes = b"", fails: bool = False) -> bytes:
    return host.run("openssl", *line.split(), given=given, fails=fails)


def test_a_key_has_a_uri(host: Host, broker: Broker) -> None:
    public = openssl(host, "pkey -in cryptofd:p256 -pubout").decode()
    assert public == broker.command("key", "public", "p256").stdout
    owner = broker.connect().keys.info("p256").owner
    for uri in (f"cryptofd:{owner}/p256", f"CRYPTOFD:{owner.replace(':', '%3a')}/p%3256"):
        assert openssl(host, f"pkey -in {uri} -pubout").decode() == public
    text = openssl(host, "pkey -in cryptofd:rsa -pubout -noout -text").decode()
    assert "(2048 bit)" in text


def test_all_keys_are_listed(host: Host) -> None:
    # The secret key is none of them.
    said = openssl(host, "storeutl -noout -keys cryptofd:").decode()
    assert f"Total found: {len(PAIRS)}" in said
    assert said.count("Pkey") == len(PAIRS)
    assert b"Total found: 0" in openssl(host, "storeutl -noout -certs cryptofd:")


def test_the_private_half_is_never_written(host: Host, here: Path) -> None:
    for what in ("-outform DER -out key.der", "-traditional -out key.old"):
        said = openssl(host, f"pkey -in cryptofd:p256 {what}", fails=True)
        assert b"PRIVATE KEY" not in said
    assert not [name for name in here.iterdir() if name.stat().st_size]
    # What is written is its name.
    said = openssl(host, "pkey -in cryptofd:p256")
    assert said.startswith(b"-----BEGIN CRYPTOFD KEY REFERENCE-----")
    assert b"PRIVATE KEY" not in said
    said = openssl(host, "pkey -in cryptofd:p256 -noout -text")
    assert said.startswith(b"EC Private-Key: (256 bit)\nkept by the broker: cryptofd:")
    for what in ("pkcs8 -topk8 -nocrypt -outform DER", "pkcs12 -export -nocerts -passout pass:x"):
        given = "-inkey" if what.startswith("pkcs12") else "-in"
        said = openssl(host, f"{what} {given} cryptofd:p256 -out key.out", fails=True)
        assert not (here / "key.out").exists() or not (here / "key.out").stat().st_size


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("cryptofd:nothing", "no such key"),
        ("cryptofd:secret", "not a pair of keys"),
        ("cryptofd:a%", "hexadecimal"),
        ("cryptofd:a/b/c", "not a cryptofd URI"),
        ("cryptofd:a?b", "not a cryptofd URI"),
    ],
)
def test_what_is_no_key_is_said(host: Host, uri: str, why: str) -> None:
    assert why in openssl(host, f"pkey -in {uri} -pubout", fails=True).decode()


def test_without_a_broker_it_is_said(host: Host, here: Path) -> None:
    said = host.run(
        "openssl", "pkey", "-in", "cryptofd:p256", "-pubout", fails=True,
        CRYPTOFD_BROKER=str(here / "none"),
    ).decode()  # fmt: skip
    assert "broker cannot be asked" in said
    assert f"no broker at {here / 'none'}" in said


DIGESTS = ("sha1", "sha224", "sha256", "sha384", "sha512", "sha3-256")


@pytest.mark.parametrize("label", ["rsa", "p256", "p384", "p521"])
def test_signatures_of_messages(host: Host, here: Path, label: str) -> None:
    (here / "message").write_bytes(b"message")
    openssl(host, f"pkey -in cryptofd:{label} -pubout -out public")
    for digest in DIGESTS:
        openssl(host, f"dgst -{digest} -sign cryptofd:{label} -out signature message")
        openssl(host, f"dgst -{digest} -verify public -signature signature message")
        # With the private key's own object it is checked too.
        openssl(host, f"dgst -{digest} -prverify cryptofd:{label} -signature signature message")
        (here / "other").write_bytes(b"another")
        check = f"dgst -{digest} -prverify cryptofd:{label} -signature signature other"
        assert b"Verification failure" in openssl(host, check, fails=True)


@pytest.mark.parametrize("salt", ["digest", "max", "auto", "0", "17"])
def test_pss(host: Host, here: Path, salt: str) -> None:
    (here / "message").write_bytes(b"message")
    openssl(host, "pkey -in cryptofd:rsa -pubout -out public")
    pss = "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:"
    openssl(host, f"dgst -sha256 {pss}{salt} -sign cryptofd:rsa -out signature message")
    openssl(host, f"dgst -sha256 {pss}{salt} -verify public -signature signature message")
    for own in (salt, "auto"):
        check = f"dgst -sha256 {pss}{own} -prverify cryptofd:rsa -signature signature message"
        openssl(host, check)
    mask = "-sigopt rsa_mgf1_md:sha512"
    said = openssl(
        host, f"dgst -sha256 {pss}{salt} {mask} -sign cryptofd:rsa -out x message", fails=True
    )
    assert b"another digest in its mask" in said


def test_digests_are_signed_as_they_are(host: Host, here: Path) -> None:
    (here / "digest").write_bytes(b"d" * 32)
    for label, more in (("rsa", "-pkeyopt digest:sha256"), ("rsa", ""), ("p256", "")):
        openssl(host, f"pkey -in cryptofd:{label} -pubout -out public")
        openssl(host, f"pkeyutl -sign -inkey cryptofd:{label} -in digest -out signature {more}")
        check = f"-verify -pubin -inkey public -in digest -sigfile signature {more}"
        openssl(host, f"pkeyutl {check}")


def test_ed25519_signs_messages(host: Host, here: Path) -> None:
    (here / "message").write_bytes(b"message")
    openssl(host, "pkeyutl -sign -rawin -inkey cryptofd:ed -in message -out signature")
    openssl(host, "pkey -in cryptofd:ed -pubout -out public")
    check = "pkeyutl -verify -rawin -in message -sigfile signature"
    openssl(host, f"{check} -pubin -inkey public")
    openssl(host, f"{check} -inkey cryptofd:ed")


def test_what_a_key_is_for_is_kept(host: Host, here: Path) -> None:
    """`sign` hashes in the worker; a digest of the program's wants `sign-digest`."""
    (here / "message").write_bytes(b"message")
    (here / "digest").write_bytes(b"d" * 32)
    (here / "long").write_bytes(bytes(300_000))
    for label in ("messages", "digests"):
        openssl(host, f"pkey -in cryptofd:{label} -pubout -out public")
        for what in ("message", "long"):
            openssl(host, f"dgst -sha256 -sign cryptofd:{label} -out signature {what}")
            openssl(host, f"dgst -sha256 -verify public -signature signature {what}")
    openssl(host, "pkeyutl -sign -inkey cryptofd:digests -in digest -out signature")
    sign = "pkeyutl -sign -inkey cryptofd:messages -in digest -out signature"
    said = openssl(host, sign, fails=True)
    assert b"refused by policy" in said
    assert b"sign-digest" in said


def test_requests_and_certificates(host: Host, certificates: Path, here: Path) -> None:
    for label in ("rsa", "p256", "ed"):
        request = f"req -new -key cryptofd:{label} -subj /CN=leaf -out request"
        openssl(host, request)
        openssl(host, "req -in request -verify -noout")
        ca = certificates / "p384.pem"
        sign = f"x509 -req -in request -CA {ca} -CAkey cryptofd:p384 -CAcreateserial -out leaf"
        openssl(host, sign)
        openssl(host, f"verify -CAfile {ca} leaf")
    openssl(host, "req -new -key cryptofd:rsa -subj /CN=x -sigopt rsa_padding_mode:pss -out r")
    assert b"rsassaPss" in openssl(host, "req -in r -verify -noout -text")


@pytest.mark.parametrize("label", ["rsa", "p256", "p384"])
def test_cms(host: Host, certificates: Path, here: Path, label: str) -> None:
    (here / "message").write_bytes(b"message")
    own = certificates / f"{label}.pem"
    for more in ("", "-keyopt rsa_padding_mode:pss")[: 2 if label == "rsa" else 1]:
        openssl(
            host,
            "cms -sign -nodetach -in message -outform DER -out signed -md sha256 "
            f"-signer {own} -inkey cryptofd:{label} {more}",
        )
        check = f"cms -verify -in signed -inform DER -CAfile {own} -purpose any"
        assert openssl(host, check) == b"message"


@pytest.mark.parametrize("label", ["agrees", "agrees521"])
@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha512"])
def test_cms_is_decrypted_by_agreement(
    host: Host, certificates: Path, here: Path, label: str, digest: str
) -> None:
    (here / "message").write_bytes(b"message")
    ca = certificates / "p384.pem"
    openssl(host, f"pkey -in cryptofd:{label} -pubout -out public")
    openssl(
        host,
        "x509 -new -force_pubkey public -subj /CN=x -set_serial 1 -out own.pem "
        f"-CA {ca} -CAkey cryptofd:p384",
    )
    openssl(
        host,
        "cms -encrypt -in message -out sealed -outform DER -aes-256-cbc -recip own.pem "
        f"-keyopt ecdh_kdf_md:{digest}",
    )
    decrypt = "cms -decrypt -in sealed -inform DER -recip own.pem -inkey"
    assert openssl(host, f"{decrypt} cryptofd:{label}") == b"message"
    other = "agrees" if label != "agrees" else "other"
    assert b"message" not in openssl(host, f"{decrypt} cryptofd:{other}", fails=True)


def test_a_kdf_in_an_agreement(host: Host, here: Path) -> None:
    openssl(host, "genpkey -algorithm EC -pkeyopt group:P-256 -out own")
    openssl(host, "pkey -in own -pubout -out own.public")
    openssl(host, "pkey -in cryptofd:agrees -pubout -out public")
    kdf = "-pkeyopt kdf-type:X963KDF -pkeyopt kdf-digest:SHA2-256 -pkeyopt kdf-outlen:100"
    for more in ("", "-pkeyopt hexkdf-ukm:010203"):
        derive = f"pkeyutl -derive {kdf} {more}"
        openssl(host, f"{derive} -inkey cryptofd:agrees -peerkey own.public -out one")
        openssl(host, f"{derive} -inkey own -peerkey public -out two")
        assert (here / "one").read_bytes() == (here / "two").read_bytes()
        assert (here / "one").stat().st_size == 100
    for wrong, why in (
        ("kdf-type:HKDF", "ECDH has X963KDF"),
        ("kdf-digest:nothing", "none of those"),
    ):
        said = openssl(
            host,
            f"pkeyutl -derive {kdf} -pkeyopt {wrong} -inkey cryptofd:agrees -peerkey own.public",
            fails=True,
        )
        assert why in said.decode()


def test_what_was_signed_is_recovered(host: Host, here: Path) -> None:
    (here / "digest").write_bytes(b"d" * 32)
    openssl(host, "genpkey -algorithm RSA -out another")
    recover = "pkeyutl -verifyrecover -in signature"
    for more in ("", "-pkeyopt digest:sha256"):
        openssl(host, f"pkeyutl -sign -inkey cryptofd:rsa -in digest -out signature {more}")
        assert openssl(host, f"{recover} -inkey cryptofd:rsa {more}") == b"d" * 32
        for wrong in ("-pkeyopt digest:sha512", "-pkeyopt rsa_padding_mode:pss"):
            openssl(host, f"{recover} -inkey cryptofd:rsa {wrong}", fails=True)
    whole = openssl(host, f"{recover} -inkey cryptofd:rsa -pkeyopt rsa_padding_mode:none")
    assert whole[:3] == b"\0\1\xff"
    assert len(whole) == 256
    openssl(host, "pkeyutl -sign -inkey another -in digest -out signature")
    assert b"no signature" in openssl(host, f"{recover} -inkey cryptofd:rsa", fails=True)


def reference(broker: Broker, label: str, folder: Path) -> Path:
    """A file that holds only a reference."""
    path = folder / f"{label}.reference"
    done = broker.command("key", "reference", label)
    assert not done.returncode, done.stderr
    path.write_text(done.stdout)
    return path


def test_a_file_that_holds_only_a_reference(host: Host, broker: Broker, here: Path) -> None:
    for label in ("rsa", "p256", "ed"):
        path = reference(broker, label, here)
        assert path.read_text().startswith("-----BEGIN CRYPTOFD KEY REFERENCE-----\n")
        public = openssl(host, f"pkey -in cryptofd:{label} -pubout")
        assert openssl(host, f"pkey -in {path} -pubout") == public
        openssl(host, f"req -new -x509 -key {path} -subj /CN=x -out {label}.pem")
    # What is in it is no key that anything else could read, and a broken one is none.
    assert "PRIVATE KEY" not in path.read_text()
    text = path.read_text()
    path.write_text(text.replace("M", "N", 1))
    openssl(host, f"pkey -in {path} -pubout", fails=True)


def served(host: Host, code: str, *arguments: str | Path, **env: str) -> str:
    """What a Python program prints whose ssl has the provider."""
    return host.run(
        sys.executable, "-c", textwrap.dedent(code), *[str(one) for one in arguments], **env
    ).decode()


HANDSHAKES = """
    import ssl, sys
    certificate, key, versions = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    server.load_verify_locations(certificate)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(certificate)
    client.load_cert_chain(certificate, key)
    def handshake(version):
        client.minimum_version = client.maximum_version = getattr(ssl.TLSVersion, version)
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = [
            client.wrap_bio(down, up, server_hostname="localhost"),
            server.wrap_bio(up, down, server_side=True),
        ]
        done = set()
        while len(done) < 2:
            for end in ends:
                try:
                    end.do_handshake()
                    done.add(end)
                except ssl.SSLWantReadError:
                    pass
        ends[0].write(b"said")
        assert ends[1].read() == b"said"
        return ends[0].version()
"""


@pytest.mark.parametrize("label", ["rsa", "p256", "p384", "ed"])
def test_tls_of_python_both_ways(
    host: Host, broker: Broker, certificates: Path, here: Path, label: str
) -> None:
    """Servers and clients, in 1.2 and 1.3, each side with a certificate and a reference."""
    code = textwrap.dedent(HANDSHAKES) + "for v in versions: print(handshake(v))"
    said = served(
        host, code, certificates / f"{label}.pem", reference(broker, label, here),
        "TLSv1_2,TLSv1_3",
    )  # fmt: skip
    assert said.split() == ["TLSv1.2", "TLSv1.3"]


def test_another_keys_certificate_does_not_fit(
    host: Host, broker: Broker, certificates: Path, here: Path
) -> None:
    wrong = served(
        host,
        """
        import ssl, sys
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(*sys.argv[1:])
        except ssl.SSLError as error:
            print(error.reason)
        """,
        certificates / "p256.pem",
        reference(broker, "messages", here),
    )
    assert wrong.strip() == "KEY_VALUES_MISMATCH"


READ_PEM = """
    import ctypes, sys
    crypto = ctypes.CDLL("libcrypto.so.3")
    pointer = ctypes.c_void_p
    crypto.BIO_new_file.restype = crypto.PEM_read_bio_PrivateKey.restype = pointer
    file = pointer(crypto.BIO_new_file(sys.argv[1].encode(), b"r"))
    assert not crypto.PEM_read_bio_PrivateKey(file, None, None, None)
    called = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, pointer)
    crypto.ERR_print_errors_cb(called(lambda line, *_: print(line.decode()) or 1), None)
"""


def test_a_reference_whose_key_is_gone_says_so(host: Host, broker: Broker, here: Path) -> None:
    """As nginx reads its keys; the command drops what decoders say."""
    broker.connect().keys.generate("gone", "ed25519")
    path = reference(broker, "gone", here)
    broker.connect().keys.delete("gone")
    said = served(host, READ_PEM, path)
    assert "no such key" in said


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("label", ["rsa", "p256"])
def test_s_server(host: Host, certificates: Path, here: Path, label: str, version: str) -> None:
    certificate = certificates / f"{label}.pem"
    command = [
        program("openssl"), "s_server", "-accept", "127.0.0.1:0", "-naccept", "1",
        "-cert", certificate, "-key", f"cryptofd:{label}", "-Verify", "1", "-CAfile", certificate,
        "-rev",
    ]  # fmt: skip
    with subprocess.Popen(
        command, env=host.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        try:
            said = []
            for line in server.stdout:
                said.append(line)
                if accepting := re.match(r"ACCEPT 127\.0\.0\.1:(\d+)", line):
                    break
            else:
                pytest.fail("".join(said))
            port = accepting[1]
            got = host.run(
                "openssl", "s_client", "-connect", f"127.0.0.1:{port}", version, "-CAfile",
                certificate, "-verify_return_error", "-servername", "localhost", "-quiet",
                "-cert", certificate, "-key", f"cryptofd:{label}", given=b"olleh\nCLOSE\n",
            )  # fmt: skip
            assert b"hello" in got
        finally:
            server.terminate()


OWN = """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519
    one, two = (ec.generate_private_key(ec.SECP256R1()) for _ in "ab")
    how = ec.ECDSA(hashes.SHA256())
    one.public_key().verify(one.sign(b"m", how), b"m", how)
    assert one.exchange(ec.ECDH(), two.public_key()) == two.exchange(ec.ECDH(), one.public_key())
    key = rsa.generate_private_key(65537, 2048)
    made = key.sign(b"m", padding.PKCS1v15(), hashes.SHA256())
    key.public_key().verify(made, b"m", padding.PKCS1v15(), hashes.SHA256())
    key = ed25519.Ed25519PrivateKey.generate()
    key.public_key().verify(key.sign(b"m"), b"m")
    x25519.X25519PrivateKey.generate()
    print("fine")
"""


def test_programs_own_keys_stay_where_they_were(host: Host, here: Path) -> None:
    """Ordinary keys are the default provider's; also in a wheel that brings its own OpenSSL."""
    assert host.python(OWN).strip() == "fine"
    for made in ("RSA -pkeyopt rsa_keygen_bits:2048", "EC -pkeyopt group:P-256", "ED25519"):
        openssl(host, f"genpkey -algorithm {made} -out key.pem")
        openssl(host, "pkey -in key.pem -check -noout")
        openssl(host, "req -new -key key.pem -subj /CN=x -out request")
        openssl(host, "req -in request -verify -noout")


def test_a_name_that_comes_first_offers_no_keys(host: Host, tmp_path: Path) -> None:
    """OpenSSL sorts its providers by name once a program looks for one."""
    wrong = Host(tmp_path, None, None, name="cryptofd")
    said = openssl(wrong, "pkey -in cryptofd:p256 -pubout", fails=True)
    assert b"must come after" in said
    assert wrong.python(OWN).strip() == "fine"


def test_a_certificate_and_its_key_in_one_file(
    host: Host, broker: Broker, certificates: Path, here: Path
) -> None:
    both = here / "both.pem"
    both.write_text(
        (certificates / "p256.pem").read_text() + reference(broker, "p256", here).read_text()
    )
    code = textwrap.dedent(HANDSHAKES) + "print(handshake('TLSv1_3'))"
    assert served(host, code, both, both, "").strip() == "TLSv1.3"
