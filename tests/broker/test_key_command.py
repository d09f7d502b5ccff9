"""`cryptofd key`: what comes out of a key, and what goes in, as other programs have it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from real_broker import Broker


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("key"))
    yield broker
    broker.end()


def key(real: Broker, *arguments: str, here: Path, code: int = 0) -> str:
    done = real.command("key", *arguments, cwd=here)
    assert done.returncode == code, done.stderr
    if code:
        # A sentence, and no traceback.
        assert done.stderr.startswith("cryptofd: ")
        assert done.stderr.count("\n") == 1
        return done.stderr
    return done.stdout


def test_the_public_half_comes_out(real: Broker, tmp_path: Path) -> None:
    key(real, "generate", "web", "-a", "ecdsa-nist-p256", here=tmp_path)
    pem = key(real, "public", "web", here=tmp_path)
    der = serialization.load_pem_public_key(pem.encode()).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert base64.b64decode(real.connect().keys.info("web").public or "") == der
    key(real, "public", "web", "--der", "-o", "web.der", here=tmp_path)
    assert (tmp_path / "web.der").read_bytes() == der
    key(real, "generate", "secret", "-a", "gcm(aes)", here=tmp_path)
    assert "no public half" in key(real, "public", "secret", here=tmp_path, code=1)


def test_a_derived_key_is_the_one_that_others_derive(real: Broker, tmp_path: Path) -> None:
    raw = bytes(range(32))
    (tmp_path / "raw").write_bytes(raw)
    (tmp_path / "raw").chmod(0o600)
    base = ["import", "base", "-a", "hkdf(sha256)", "--from", "file:raw", "--exportable"]
    key(real, *base, "--usage", "derive", "--derives", "gcm(aes):256:encrypt", here=tmp_path)
    derive = ["derive", "tape", "--base", "base", "--salt", "0102", "--info", "tape 7"]
    key(real, *derive, "--exportable", here=tmp_path)
    key(real, "export", "tape", "-o", "tape", here=tmp_path)
    theirs = HKDF(hashes.SHA256(), 32, b"\1\2", b"tape 7").derive(raw)
    assert (tmp_path / "tape").read_bytes() == theirs
    made = real.connect().keys.info("tape")
    assert (made.algorithm, made.bits, list(made.usage)) == ("gcm(aes)", 256, ["encrypt"])
    # Not what the template does not say.
    wrong = ["derive", "more", "--base", "base", "--usage", "decrypt"]
    key(real, *wrong, here=tmp_path, code=1)
    key(real, "derive", "other", "--base", "base", "-a", "ctr(aes)", here=tmp_path, code=1)


def test_two_sides_agree(real: Broker, tmp_path: Path) -> None:
    template = ["--usage", "derive", "--derives", "gcm(aes):256:encrypt,decrypt"]
    for side in ("one", "two"):
        key(real, "generate", side, "-a", "ecdh-nist-p256", *template, here=tmp_path)
        key(real, "public", side, "-o", f"{side}.pem", here=tmp_path)
    key(real, "derive", "a", "--base", "one", "--peer", "two.pem", here=tmp_path)
    key(real, "derive", "b", "--base", "two", "--peer", "one.pem", here=tmp_path)
    keys = real.connect().keys
    assert keys.info("a").fingerprint == keys.info("b").fingerprint
    (tmp_path / "bad.pem").write_text("-----BEGIN PUBLIC KEY-----\n*\n-----END PUBLIC KEY-----\n")
    said = key(real, "derive", "c", "--base", "one", "--peer", "bad.pem", here=tmp_path, code=1)
    assert "PEM" in said


def test_a_key_that_is_encrypted_is_said_to_be(real: Broker, tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "pem").write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"word"),
        )
    )
    (tmp_path / "pem").chmod(0o600)
    brought = ["import", "web2", "-a", "ecdsa-nist-p256", "--from", "file:pem"]
    assert "encrypted" in key(real, *brought, here=tmp_path, code=1)


def test_another_label_and_an_earlier_end(real: Broker, tmp_path: Path) -> None:
    key(real, "generate", "before", "-a", "gcm(aes)", here=tmp_path)
    key(real, "change", "before", "--label", "after", "--expires", "2d", here=tmp_path)
    made = real.connect().keys.info("after")
    assert made.expires is not None
    key(real, "show", "before", here=tmp_path, code=1)
    key(real, "change", "after", "--expires", "3d", here=tmp_path, code=1)
