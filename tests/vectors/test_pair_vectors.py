"""Known answers for pairs of keys: the files of cryptography-vectors, through both engines."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateNumbers,
    RSAPublicNumbers,
    rsa_crt_dmp1,
    rsa_crt_dmq1,
    rsa_crt_iqmp,
)
from host_engines import refusal
from pairs import (
    ec_private,
    ec_public,
    private_der,
    public_der,
    raw_private,
    raw_public,
    rsa_public,
    seed_private,
)
from vector_files import count, read, unhex

import cryptofd


@pytest.fixture(params=["software", "openssl"])
def library(request: pytest.FixtureRequest) -> str:
    """The engines that know pairs."""
    found = {e.name: e.available for e in cryptofd.engines()}
    if not found[request.param]:
        pytest.skip(f"no {request.param} here")
    return str(request.param)


def sections(path: str) -> Iterator[dict[str, str]]:
    """Records, apart by blank lines. What stands in brackets, and alone before records, goes on."""
    shared: dict[str, str] = {}
    for block in re.split(r"\n\s*\n", read(path)):
        record: dict[str, str] = {}
        for line in block.splitlines():
            if curve := re.fullmatch(r"\[([PKB]-\d+),(SHA-\d+)\]", line.strip()):
                shared["curve"], shared["sha"] = curve[1], curve[2]
            elif "=" in line and line[0] not in "#[":
                name, _, value = line.partition("=")
                record[name.strip().lower()] = value.strip()
        if "s" in record:
            yield {**shared, **record}
        else:
            shared |= record


def sha(name: str) -> str:
    return name.lower().replace("-", "")


def right(
    library: str, algorithm: str, key: bytes, signature: bytes, message: bytes, **how: object
) -> bool:
    """Whether the key is one and the signature verifies."""
    try:
        fd = cryptofd.open(algorithm, key=key, engine=library)
    except cryptofd.InvalidArgument:
        return False
    try:
        fd.verify(signature, message, **how)  # type: ignore[call-overload]
    except cryptofd.BadSignature:
        return False
    return True


@pytest.mark.parametrize("file", ["SigVer.rsp", "SigGen.txt"])
@pytest.mark.parametrize("curve", ["p256", "p384", "p521"])
def test_ecdsa(library: str, curve: str, file: str) -> None:
    counts = {True: 0, False: 0}
    for r in sections(f"asymmetric/ECDSA/FIPS_186-3/{file}"):
        if r["curve"] != curve.upper().replace("P", "P-"):
            continue
        size = (int(curve[1:]) + 7) // 8
        key = ec_public(curve, int(r["qx"], 16), int(r["qy"], 16))
        signature = b"".join(int(r[n], 16).to_bytes(size, "big") for n in "rs")
        got = right(
            library, f"ecdsa-nist-{curve}", key, signature, unhex(r["msg"]),
            hash=sha(r["sha"]), format="raw",
        )  # fmt: skip
        assert got is (r.get("result", "P")[0] == "P"), r
        counts[got] += 1
    if file == "SigGen.txt":
        assert counts == {True: 75, False: 0}
    else:
        assert sum(counts.values()) == 75
        assert counts[True] >= 5
        assert counts[False] >= 25


def test_ecdsa_of_rfc_6979(library: str) -> None:
    text = read("asymmetric/ECDSA/RFC6979/evppkey_ecdsa_rfc6979.txt")
    keys = {
        name: form.load_pem_public_key(pem.encode())
        for name, pem in re.findall(
            r"PublicKey=(P-(?:256|384|521)\S+)\n(-.*?-----END PUBLIC KEY-----)", text, re.DOTALL
        )
    }
    done = 0
    for block in text.split("\n\n"):
        r = dict(re.findall(r"^(\w+) = (.*)$", block, re.M))
        curve = r.get("Key", "")[2:5]
        if "DigestVerify" not in r or curve not in {"256", "384", "521"}:
            continue
        if not r["Key"].startswith("P-"):
            continue
        key = public_der(keys[r["Key"]])
        message = unhex(r["Input"])
        got = right(
            library, f"ecdsa-nist-p{curve}", key, unhex(r["Output"]), message,
            hash=sha(r["DigestVerify"]),
        )  # fmt: skip
        assert got is ("Result" not in r), r
        done += 1
    assert done >= 3 * 5 * 2


@pytest.mark.parametrize("file", ["SigVer15", "SigGen15", "SigVerPSS", "SigGenPSS"])
def test_rsa_signatures(library: str, file: str) -> None:
    """Keys below 2048 bits are refused; so are exponents that AWS-LC finds too long (33 bits)."""
    path = f"asymmetric/RSA/FIPS_186-2/{file}_186-3.rsp"
    counts = {"P": 0, "F": 0, "small": 0, "exponent": 0}
    for r in sections(path):
        n, e = int(r["n"], 16), int(r["e"], 16)
        key, signature = rsa_public(n, e), unhex(r["s"])
        good = r.get("result", "P")[0] == "P"
        if n.bit_length() < 2048:
            with pytest.raises(cryptofd.InvalidArgument, match="2048"):
                cryptofd.open("rsa", key=key, engine=library)
            counts["small"] += 1
            continue
        if e.bit_length() > 33:
            with pytest.raises(cryptofd.InvalidArgument):
                cryptofd.open("rsa", key=key, engine=library)
            counts["exponent"] += 1
            continue
        how: dict[str, object] = {"hash": sha(r["shaalg"])}
        if "PSS" in file:
            salt = unhex(r.get("saltval", "00"))
            how |= {"scheme": "pss", "salt_length": len(salt)}
            if len(salt) == 1:
                how["salt_length"] = 0
        got = right(library, "rsa", key, signature, unhex(r["msg"]), **how)
        assert got is good, r
        counts[r.get("result", "P")[0]] += 1
    assert counts["P"] >= 12, counts
    assert counts["small"] > 0, counts
    assert counts["F"] > 0 or "Gen" in file, counts


def test_rsa_of_pss_with_salts_of_twenty_bytes(library: str) -> None:
    text = read("asymmetric/RSA/pkcs-1v2-1d2-vec/pss-vect.txt")
    key = text[text.index("A 2048-bit RSA key pair") :]
    values = re.findall(r"^# ([\w ]+):?\s*\n((?:[0-9a-f ]+\n)+)", key, re.M)
    numbers: dict[str, bytes] = {}
    done = 0
    message = b""
    for label, body in values:
        value = bytes.fromhex(body)
        label = label.lower()
        if label in {"modulus", "public exponent"}:
            numbers["n" if label == "modulus" else "e"] = value
        elif "message" in label:
            message = value
        elif "signature" in label:
            n, e = (int.from_bytes(numbers[x], "big") for x in "ne")
            if n.bit_length() == 2048:
                assert right(
                    library, "rsa", rsa_public(n, e), value, message,
                    hash="sha1", scheme="pss", salt_length=20,
                )  # fmt: skip
                done += 1
    assert done == 6


OAEP = ["sha1", "sha224", "sha256", "sha384", "sha512"]


@pytest.mark.parametrize("hash_", OAEP[1:])
def test_rsa_oaep(library: str, hash_: str) -> None:
    lines = read(f"asymmetric/RSA/oaep-custom/oaep-{hash_}-{hash_}.txt").splitlines()
    numbers: dict[str, int] = {}
    label, message, done, small = "", b"", 0, 0
    for line in lines:
        if line.startswith("#"):
            label = line.strip("# :").lower()
            continue
        if not line.strip():
            continue
        if label in {"modulus", "public exponent", "exponent"} or label.startswith("prime"):
            numbers[label] = int(line, 16)
        elif label == "message":
            message = bytes.fromhex(line.strip())
        elif label == "encryption":
            n, e, d = numbers["modulus"], numbers["public exponent"], numbers["exponent"]
            p, q = numbers["prime 1"], numbers["prime 2"]
            public = RSAPublicNumbers(e, n)
            if n.bit_length() < 2048:
                with pytest.raises(cryptofd.InvalidArgument, match="2048"):
                    cryptofd.open("rsa", key=rsa_public(n, e), engine=library)
                small += 1
                continue
            crt = (rsa_crt_dmp1(d, p), rsa_crt_dmq1(d, q), rsa_crt_iqmp(p, q))
            private = RSAPrivateNumbers(p, q, d, *crt, public).private_key()
            fd = cryptofd.open("rsa", key=private_der(private), engine=library)
            assert fd.decrypt(bytes.fromhex(line.strip()), hash=hash_) == message
            done += 1
    assert done + small > 0


def test_ed25519(library: str) -> None:
    done = 0
    for line in read("asymmetric/Ed25519/sign.input").splitlines():
        secret, public, message, signed, *_ = line.split(":")
        seed, signature = unhex(secret)[:32], unhex(signed)[:64]
        fd = cryptofd.open("ed25519", key=raw_private("ed25519", seed), engine=library)
        assert fd.public_key() == raw_public("ed25519", unhex(public))
        assert fd.sign(unhex(message)) == signature
        fd.verify(signature, unhex(message))
        done += 1
    assert done == 1024


def test_x25519(library: str) -> None:
    why = refusal(library, "x25519")
    if why is not None:
        pytest.skip(f"{library} does not offer x25519: {why}")
    done = 0
    path = "asymmetric/X25519/rfc7748.txt"
    for scalar, u, out in re.findall(
        r"INPUT_SCALAR = (\w+)\nINPUT_U = (\w+)\nOUTPUT_U = (\w+)", read(path)
    ):
        fd = cryptofd.open("x25519", key=raw_private("x25519", unhex(scalar)), engine=library)
        assert fd.agree(raw_public("x25519", unhex(u))) == unhex(out)
        done += 1
    assert done == count(path, "COUNT")


@pytest.mark.parametrize("role", ["init", "resp"])
def test_ecdh(library: str, role: str) -> None:
    text = read(f"asymmetric/ECDH/KASValidityTest_ECCStaticUnified_NOKC_ZZOnly_{role}.fax")
    done = {"P": 0, "F": 0}
    for mark, curve in (("EC", "p256"), ("ED", "p384"), ("EE", "p521")):
        part = text[text.index(f"[{mark} - ") :]
        after = re.search(r"\n\[E[A-E] - (?!.*\Z)", part[5:])
        part = part[: after.start() + 5] if after else part
        for block in part.split("COUNT =")[1:]:
            r = dict(re.findall(r"^(\w+) = (.+)$", block, re.M))
            n = {name: int(r[name], 16) for name in r if re.fullmatch(r"[dQ]\w+|Z", name)}
            try:
                key = ec_private(curve, n["dsIUT"], n["QsIUTx"], n["QsIUTy"])
                fd = cryptofd.open(f"ecdh-nist-{curve}", key=key, engine=library)
                z = fd.agree(ec_public(curve, n["QsCAVSx"], n["QsCAVSy"]))
                got = int.from_bytes(z, "big") == n["Z"]
            except (cryptofd.InvalidArgument, OverflowError):
                got = False
            # "Z changed" and "CAVSHashZZ changed" are told by what comes after the agreement.
            if "HashZZ" not in r["Result"]:
                assert got is (r["Result"][0] == "P"), block
            done[r["Result"][0]] += 1
    assert done["P"] >= 9
    assert done["F"] >= 9


@pytest.mark.parametrize("name", ["ml-kem-768", "ml-kem-1024"])
def test_ml_kem(name: str) -> None:
    done = 0
    path = f"asymmetric/MLKEM/kat_{name.upper().replace('ML-KEM-', 'MLKEM_')}.rsp"
    for block in read(path).split("count =")[1:]:
        r = dict(re.findall(r"^(\w+) = (\w+)$", block, re.M))
        key = seed_private(name, unhex(r["d"] + r["z"]))
        fd = cryptofd.open(name, key=key, engine="software")
        assert fd.public_key() == raw_public(name, unhex(r["pk"]))
        assert fd.decapsulate(unhex(r["ct"])) == unhex(r["ss"])
        if "ct_n" in r:
            assert fd.decapsulate(unhex(r["ct_n"])) == unhex(r["ss_n"])
        done += 1
    assert done == count(path, "count") >= 100


def test_ml_dsa_makes_the_public_keys_of_its_seeds() -> None:
    """The file's signatures have contexts, which this interface has not."""
    done = 0
    path = "asymmetric/MLDSA/kat_MLDSA_65_det_pure.rsp"
    for block in read(path).split("count =")[1:]:
        r = dict(re.findall(r"^(\w+) = (\w+)$", block, re.M))
        key = seed_private("ml-dsa-65", unhex(r["xi"]))
        fd = cryptofd.open("ml-dsa-65", key=key, engine="software")
        assert fd.public_key() == raw_public("ml-dsa-65", unhex(r["pk"]))
        # And a signature of another context is no signature.
        signature = unhex(r["sm"])[: -int(r["mlen"]) or None]
        with pytest.raises(cryptofd.BadSignature):
            fd.verify(signature, unhex(r["msg"]))
        done += 1
    assert done == count(path, "count") >= 100
