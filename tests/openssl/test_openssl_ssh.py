"""SSH signatures of messages by the broker's keys: OpenSSL makes them, OpenSSH checks them."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hosts import Host
from programs import ran

if TYPE_CHECKING:
    from real_broker import Broker

MESSAGE, NAMESPACE = b"a message of somebody's", "file"
SIGNING = {"sign", "verify"}
#: Label: the broker's algorithm, SSH's, how `openssl` signs.
KEYS = {
    "rsa": ("rsa", "rsa-sha2-512", "dgst -sha512 -sign"),
    "p256": ("ecdsa-nist-p256", "ecdsa-sha2-nistp256", "dgst -sha256 -sign"),
    "p384": ("ecdsa-nist-p384", "ecdsa-sha2-nistp384", "dgst -sha384 -sign"),
    "ed": ("ed25519", "ssh-ed25519", "pkeyutl -rawin -sign -inkey"),
}


@pytest.fixture(scope="module")
def broker(broker: Broker) -> Broker:
    for label, (algorithm, _, _) in KEYS.items():
        bits = 2048 if algorithm == "rsa" else None
        broker.connect().keys.generate(label, algorithm, bits=bits, usage=SIGNING)
    return broker


@pytest.fixture(scope="module")
def host(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(tmp_path_factory.mktemp("host"), None, None)


def text(data: bytes | str) -> bytes:
    """A string as SSH has it (RFC 4251, 5)."""
    data = data.encode() if isinstance(data, str) else data
    return len(data).to_bytes(4) + data


def numbers(der: bytes) -> bytes:
    """What ECDSA gives in DER, as SSH wants it (RFC 5656, 3.1.2)."""
    assert der[0] == 0x30
    rest, made = der[2 + (der[1] == 0x81) :], b""
    while rest:
        assert rest[0] == 2
        made += text(rest[2 : 2 + rest[1]])
        rest = rest[2 + rest[1] :]
    return made


def published(host: Host, label: str, folder: Path) -> bytes:
    """A public key as SSH has it."""
    der = host.run("openssl", "pkey", "-in", f"cryptofd:{label}", "-pubout", "-outform", "DER")
    if label == "ed":  # ssh-keygen reads no such keys of others'.
        return text("ssh-ed25519") + text(der[-32:])
    pem = base64.encodebytes(der).decode()
    (folder / "public").write_text(f"-----BEGIN PUBLIC KEY-----\n{pem}-----END PUBLIC KEY-----\n")
    line = ran("ssh-keygen", "-i", "-m", "PKCS8", "-f", folder / "public")
    return base64.b64decode(line.split()[1])


def key_type(public: bytes) -> str:
    return public[4 : 4 + int.from_bytes(public[:4])].decode()


@pytest.mark.parametrize("label", KEYS)
def test_openssh_takes_what_the_worker_signed(host: Host, tmp_path: Path, label: str) -> None:
    _, name, how = KEYS[label]
    public = published(host, label, tmp_path)
    encoded = base64.b64encode(public).decode()
    (tmp_path / "signers").write_text(f"somebody {key_type(public)} {encoded}\n")
    # OpenSSH's PROTOCOL.sshsig.
    hashed = hashlib.sha512(MESSAGE).digest()
    (tmp_path / "signed").write_bytes(
        b"SSHSIG" + text(NAMESPACE) + text(b"") + text("sha512") + text(hashed)
    )
    arguments = [*how.split(), f"cryptofd:{label}"]
    arguments += ["-in"] if how.startswith("pkeyutl") else []
    signature = host.run("openssl", *arguments, tmp_path / "signed")
    signature = numbers(signature) if name.startswith("ecdsa") else signature
    blob = b"SSHSIG" + (1).to_bytes(4) + text(public)
    blob += text(NAMESPACE) + text(b"") + text("sha512") + text(text(name) + text(signature))
    lines = base64.encodebytes(blob).decode()
    (tmp_path / "signature").write_text(
        f"-----BEGIN SSH SIGNATURE-----\n{lines}-----END SSH SIGNATURE-----\n"
    )

    def check(message: bytes, fails: bool) -> str:
        return ran(
            "ssh-keygen", "-Y", "verify", "-f", tmp_path / "signers", "-I", "somebody", "-n",
            NAMESPACE, "-s", tmp_path / "signature", given=message, fails=fails,
        )  # fmt: skip

    assert "Good" in check(MESSAGE, fails=False)
    check(MESSAGE + b"!", fails=True)
