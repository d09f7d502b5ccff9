"""What holds where OpenSSL has a FIPS provider that works: test_fips.py makes such a place."""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cryptofd

TABLE = [a for a in cryptofd.algorithms() if a.kind != "streaming"]
APPROVED = [a.name for a in TABLE if a.fips]
OTHERS = [a.name for a in TABLE if not a.fips]
KEY = bytes(range(32))


def refused(algorithm: str, **options: object) -> str:
    """The message of the refusal of ``algorithm``; a key is given where one is needed."""
    a = next(a for a in TABLE if a.name == algorithm)
    key = KEY[: 24 if "des3" in algorithm else 32] if a.key and a.key.min else None
    if a.kind == "pair":
        key, _ = cryptofd.generate(algorithm)
    with pytest.raises(cryptofd.Refused) as caught:
        cryptofd.open(algorithm, key=key, **options)  # type: ignore[arg-type]
    assert caught.value.errno == errno.EPERM
    return str(caught.value)


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cryptofd", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_gcm_is_served_by_the_module() -> None:
    # GCM test case 16 of McGrew and Viega's specification.
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
    plain = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    aad = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    iv = bytes.fromhex("cafebabefacedbaddecaf888")
    fd = cryptofd.open("gcm(aes)", key=key, fips=True)
    info = fd.info()
    assert (info.engine, info.driver, info.fips, info.hardware) == ("openssl", "fips", True, False)
    box = fd.encrypt(plain, iv=iv, aad=aad)
    assert box.hex().endswith("76fc6ece0f4e1768cddf8853bb2d551b")
    assert fd.decrypt(box, iv=iv, aad=aad) == plain
    with pytest.raises(cryptofd.BadTag):
        fd.decrypt(box[:-1] + bytes([box[-1] ^ 1]), iv=iv, aad=aad)


@pytest.mark.parametrize("algorithm", APPROVED)
def test_what_is_approved_is_served(algorithm: str) -> None:
    """By the module, after its known answers were right."""
    if not any(c.engine == "openssl" and c.offers for c in cryptofd.explain(algorithm)):
        pytest.skip(f"this libcrypto has no {algorithm}, whatever module is below it")
    first = cryptofd.explain(algorithm, fips=True)
    serving = [(c.engine, c.driver, c.fips) for c in first if c.serves]
    assert serving == [("openssl", "fips", True)], first


@pytest.mark.parametrize("algorithm", OTHERS)
def test_what_is_not_approved_is_refused(algorithm: str) -> None:
    """No software serves instead, and the message gives each engine's reason."""
    message = refused(algorithm, fips=True)
    assert "in a validated module" in message
    assert f"openssl: {algorithm} is not approved in FIPS 140-3" in message
    assert "software: not a validated module" in message
    # Without the demand it is served as ever, so that the demand is what refuses it.
    assert any(c.serves for c in cryptofd.explain(algorithm))


def test_software_by_name_is_refused() -> None:
    assert "not a validated module" in refused("sha256", fips=True, engine="software")


def test_hashes_and_macs() -> None:
    data = bytes(1000)
    hash_ = cryptofd.open("sha256", fips=True)
    hash_.update(data)
    assert hash_.digest() == hashlib.sha256(data).digest()
    mac = cryptofd.open("hmac(sha256)", key=KEY, fips=True)
    mac.update(data[:300])
    mac.update(data[300:])
    assert mac.digest() == hmac.digest(KEY, data, "sha256")
    assert mac.info().driver == "fips"


@pytest.mark.parametrize("hash_", ["sha1", "sha256", "sha512", "sha3-384"])
def test_pbkdf2(hash_: str) -> None:
    """RFC 6070's long vector's inputs: what SP 800-132 asks for is in them."""
    password, salt = b"passwordPASSWORDpassword", b"saltSALTsaltSALTsaltSALTsaltSALTsalt"
    fd = cryptofd.open(f"pbkdf2(hmac({hash_}))", key=password, fips=True)
    assert fd.info().driver == "fips"
    found = fd.derive(25, salt=salt, iterations=4096)
    if hash_ == "sha1":
        assert found.hex() == "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038"
    name = hash_.replace("-", "_")
    assert found == hashlib.pbkdf2_hmac(name, password, salt, 4096, 25)


def test_what_the_module_refuses_nobody_does() -> None:
    """A request beyond the module is not done by software behind the caller's back."""
    fd = cryptofd.open("pbkdf2(hmac(sha256))", key=b"passwordPASSWORDpassword", fips=True)
    with pytest.raises(cryptofd.CryptoFDError, match="invalid iteration count"):
        fd.derive(32, salt=bytes(16), iterations=10)
    assert fd.info().engine == "openssl"


def test_short_keys_of_hmac() -> None:
    """Below 112 bits SP 800-131A allows verifying only; a pedantic module refuses them."""
    if os.environ.get("CHECK_FIPS_PEDANTIC"):
        with pytest.raises(cryptofd.Refused, match="invalid key length"):
            cryptofd.open("hmac(sha256)", key=bytes(13), fips=True)
    else:
        mac = cryptofd.open("hmac(sha256)", key=bytes(13), fips=True)
        mac.update(b"abc")
        assert mac.digest() == hmac.digest(bytes(13), b"abc", "sha256")
    assert cryptofd.open("hmac(sha256)", key=bytes(14), fips=True).info().driver == "fips"


def test_random() -> None:
    rng = cryptofd.open("stdrng", fips=True)
    assert (rng.info().engine, rng.info().driver, rng.info().fips) == ("openssl", "fips", True)
    one, two = rng.read(100_000), rng.read(32)
    assert len(one) == 100_000
    assert len(set(one)) == 256
    assert two not in one


def test_the_descriptor_too() -> None:
    fd = cryptofd.open("gcm(aes)", key=KEY, fips=True)
    other = cryptofd.adopt(fd.fileno())
    assert other.info().fips
    box = other.encrypt(b"abc", iv=bytes(12))
    assert box == cryptofd.open("gcm(aes)", key=KEY, engine="software").encrypt(
        b"abc", iv=bytes(12)
    )


def test_the_environment_demands_it() -> None:
    served = command("explain", "gcm(aes)", "--json", CRYPTOFD_FIPS="1")
    assert served.returncode == 0, served.stderr
    found = {c["engine"]: c for c in json.loads(served.stdout)}
    assert found["openssl"]["serves"]
    assert found["openssl"]["driver"] == "fips"
    assert found["software"]["why"] == "not a validated module"
    refusal = command("hash", "-a", "md5", "/dev/null", CRYPTOFD_FIPS="1")
    assert refusal.returncode == 1
    assert "not approved in FIPS 140-3" in refusal.stderr
    assert command("hash", "-a", "sha256", "/dev/null", CRYPTOFD_FIPS="1").stdout.startswith(
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )


def test_a_policy_demands_it(tmp_path: Path) -> None:
    policy = tmp_path / "cryptofd.toml"
    policy.write_text("[policy]\nfips = true\n")
    policy.chmod(0o600)
    code = (
        "import cryptofd\n"
        "i = cryptofd.open('sha256', fips=False).info(); print(i.engine, i.driver, i.fips)\n"
        "try: cryptofd.open('md5')\n"
        "except cryptofd.Refused as error: print(error.errno)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CRYPTOFD_CONFIG": str(policy)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout.splitlines() == ["openssl fips True", "1"], ran


def test_explain_and_doctor_say_so() -> None:
    shown = command("explain", "gcm(aes)", "--fips")
    assert shown.returncode == 0, shown.stderr
    assert "fips" in shown.stdout
    findings = json.loads(command("doctor", "--json").stdout)
    (finding,) = [f for f in findings if f["topic"] == "OpenSSL" and "FIPS" in f["what"]]
    assert finding["state"] == "ok", finding
    assert "the FIPS provider serves" in finding["what"]
