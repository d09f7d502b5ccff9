"""cryptofd.doors.nss against Debian's python-nss, and its extensions against PyCA."""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nss_cases
import pytest

import cryptofd
import cryptofd.doors.nss as nss
from cryptofd.doors.nss import error

PROGRAM = Path(nss_cases.__file__)
SYSTEM_PYTHON = "/usr/bin/python3"

#: Where the answers differ, by the name of the case, and why; what is not here is the same, word
#: for word.
DIFFERENCES: dict[str, str] = {
    # What python-nss does wrong, and nobody can rely on.
    r"compare '61' '6162'": "it compares the shorter one's bytes only",
    r"oid_.* of DER ": "the first pseudo-identifier without any bytes is found",
    r"find_slot_by_name(\('text'| ?$)|ended, find_slot": "it prints memory that was freed",
    r"nss_init_flags.*": "it cannot be called at all (SystemError)",
    r"InitParameters\(.*(1, 2, 3|2147483648|manufacturer_id=1)": "SystemError, or wraps around",
    r"NSPRError\('why'": "it forgets its error_message",
    r"generate_new_param\(-": "it is random",
    r"get_internal_(key_)?slot is_logged_in": "it dies when it is called without arguments",
    r"key_gen DES.* (1|16)$": "it believes the size that it was told, of a key of fixed size",
    r"unwrap .* to (-1|24|32|48|64)$": "likewise key_length, where there are fewer bytes",
    r"hmac general .*": "softoken 3.87 takes no length for these",
    r"PK11SymKey\..* = 1": "the words of CPython for what is not writable",
    r"get_all_tokens\(2147483648": "it disabled a slot while it was asked above",
    # Ciphers that neither serves, and a tag that names one: who says so.
    r"digest context (8|11[5-9]|153)$": "NSS has no module for the cipher, we no digest",
    r"password 'password' {'iterations': (0|-1)}": "it fails and says SUCCESS",
    r"password 'password' {'cipher_alg': 183}": "AES-128-ECB with a key of 32 bytes",
    r"a pair of (0|100) bits": "ours says which sizes there are",
}

#: What NSS 3.87 and python-nss 1.0.1 die of.
DIES = (
    r"get_internal_(key_)?slot is_logged_in|make a slot|param_from_iv\(|generate_new_param\(|"
    r"shut down twice|ended, generate_new_param|nss_initialize\("
)

# C's formats that PyErr_Format does not know: from there on python-nss's text is the format's.
UNFORMATTED = re.compile(r"%(td|#lx|#x|zd).*", re.DOTALL)


def _ask(python: str, module: str, first: int, names: str) -> subprocess.CompletedProcess[str]:
    # NSS writes databases where it is started.
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            [python, str(PROGRAM), module, str(first), names],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            if python == sys.executable
            else None,
        )


@functools.cache
def oracle() -> tuple[str, dict[str, Any]]:
    """The names of python-nss's constants (JSON) and its answers; skips where it is not there."""
    if not Path(SYSTEM_PYTHON).exists():
        pytest.skip(f"no {SYSTEM_PYTHON}")
    asked = _ask(SYSTEM_PYTHON, "nss.nss", 0, "{}")
    if asked.returncode:
        pytest.skip(f"no python3-nss for {SYSTEM_PYTHON}: {asked.stderr.strip()[-200:]}")
    return asked.stdout.strip(), _answers(SYSTEM_PYTHON, "nss.nss", asked.stdout.strip())


def _answers(python: str, module: str, names: str) -> dict[str, Any]:
    cases = [name for name, _ in nss_cases.cases()]
    answers: list[tuple[str, Any]] = []
    while len(answers) < len(cases):
        asked = _ask(python, module, len(answers), names)
        for line in asked.stdout.splitlines():
            # One that died in the middle of a line said nothing.
            if line.startswith("[") and line.endswith("]"):
                name, answer = json.loads(line)
                answers.append((name, answer))
        if len(answers) < len(cases):
            told = f"died: {asked.returncode} {asked.stderr[-200:]}"
            answers.append((cases[len(answers)], told))
    return dict(answers)


@functools.cache
def ours() -> dict[str, Any]:
    return _answers(sys.executable, "cryptofd.doors.nss", oracle()[0])


def same(theirs: Any, mine: Any) -> bool:
    """Whether two answers are the same, as far as python-nss could say what it meant."""
    if isinstance(theirs, list) and isinstance(mine, list) and len(theirs) == len(mine):
        return all(map(same, theirs, mine))
    if isinstance(theirs, str) and isinstance(mine, str):
        meant = UNFORMATTED.sub("", theirs)
        return mine.startswith(meant) if meant != theirs else mine == theirs
    return bool(theirs == mine)


def test_cases_have_names_of_their_own() -> None:
    names = [name for name, _ in nss_cases.cases()]
    assert len(names) == len(set(names))


def test_like_python_nss() -> None:
    theirs, mine = oracle()[1], ours()
    assert len(theirs) > 5000
    wrong, used = [], set()
    for name, answer in theirs.items():
        if isinstance(answer, str) and answer.startswith("died"):
            assert re.match(DIES, name), name
            assert not str(mine[name]).startswith("died")
        elif not same(answer, mine[name]):
            why = next((each for each in DIFFERENCES if re.match(each, name)), None)
            if why is None:
                wrong.append(f"{name}\n  {str(answer)[:300]}\n  {str(mine[name])[:300]}")
            used.add(why)
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong[:20])
    assert set(DIFFERENCES) <= used


@pytest.fixture(autouse=True)
def _started() -> Iterator[None]:
    nss.nss_init_nodb()
    yield
    if nss.nss_is_initialized():
        nss.nss_shutdown()


#: Of python-nss's names, what is none of this door's: certificates, their lists and policies,
#: PKCS#12, DSA.
ELSEWHERE = re.compile(
    r"(?i).*(cert|crl|ocsp|pkcs12|pkix|x509|dsa|pqg|dn$|ava$|rdn$|"
    r"generalname|signeddata|subject|authkeyid|authority|basicconstr|fingerprint|"
    r"key_usage|der_universal|find_key_by|_C_API).*"
)


def test_every_name_of_the_surface() -> None:
    oracle()
    asked = subprocess.run(
        [SYSTEM_PYTHON, "-c", "import nss.nss as n; print(*[k for k in dir(n) if k[:2] != '__'])"],
        capture_output=True,
        text=True,
        check=True,
    )
    constant = re.compile(r"CKM_|CKA_|SEC_OID_")
    missing = {
        name
        for name in asked.stdout.split()
        if not hasattr(nss, name) and (constant.match(name) or not ELSEWHERE.match(name))
    }
    # Constants of certificates and connections.
    others = re.compile("KU_|ssl_kea|secCert|relative|SEC_KRL")
    assert not {name for name in missing if not others.match(name)}


def test_names_are_listed() -> None:
    assert set(nss.__all__) <= set(dir(nss))
    assert {"CKM_AES_CBC", "CKM_AES_GCM", "SEC_OID_SHA3_256", "CKA_ENCRYPT"} <= set(dir(nss))
    with pytest.raises(AttributeError, match="CKM_NONSENSE"):
        _ = nss.CKM_NONSENSE
    with pytest.raises(AttributeError, match="NONSENSE"):
        _ = error.NONSENSE
    assert "SEC_ERROR_BAD_DATA" in dir(error)


def test_the_table_names_its_own() -> None:
    """A mechanism that the table names and numbers stands nowhere else."""
    from cryptofd.doors.nss.constants import MECHANISMS
    from cryptofd.doors.nss.mechanisms import EXTENSIONS

    named = {
        mechanism["name"]: mechanism["id"]
        for algorithm in cryptofd.algorithms()
        for mechanism in (algorithm.names["pkcs11"], *algorithm.names["mechanisms"])
        if mechanism
    }
    assert not named.keys() & (MECHANISMS.keys() | EXTENSIONS.keys())
    assert not MECHANISMS.keys() & EXTENSIONS.keys()
    assert all(getattr(nss, name) == number for name, number in named.items())


def test_a_key_that_many_threads_use() -> None:
    import threading

    key = key_of(nss.CKM_AES_CBC_PAD, bytes(16), nss.CKA_ENCRYPT)
    param = nss.SecItem(bytes(16))
    wrong: list[int] = []

    def work(seed: int) -> None:
        plain = bytes([seed]) * 3000
        boxes = set()
        for _ in range(50):
            running = nss.create_context_by_sym_key(
                nss.CKM_AES_CBC_PAD, nss.CKA_ENCRYPT, key, param
            )
            box = running.cipher_op(plain[:1234]) + running.cipher_op(plain[1234:])
            boxes.add(box + running.digest_final())
        if len(boxes) != 1:
            wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Extensions: what python-nss has no name for, against PyCA.


def key_of(mechanism: int, content: bytes, operation: int) -> nss.PK11SymKey:
    slot = nss.get_best_slot(mechanism)
    return nss.import_sym_key(
        slot, mechanism, nss.PK11_OriginUnwrap, operation, nss.SecItem(content)
    )


def through(
    mechanism: int, operation: int, key: bytes, param: nss.SecItem | None, parts: list[bytes]
) -> bytes:
    running = nss.create_context_by_sym_key(
        mechanism, operation, key_of(mechanism, key, operation), param
    )
    return b"".join(map(running.cipher_op, parts)) + running.digest_final()


AEADS = {
    "CKM_AES_GCM": ("AESGCM", (16, 24, 32)),
    "CKM_AES_CCM": ("AESCCM", (16, 24, 32)),
    "CKM_CHACHA20_POLY1305": ("ChaCha20Poly1305", (32,)),
}


@pytest.mark.parametrize("name", AEADS)
@pytest.mark.parametrize("size", [0, 1, 16, 100, 4096])
def test_aead(name: str, size: int) -> None:
    reference = importlib.import_module("cryptography.hazmat.primitives.ciphers.aead")
    kind, key_sizes = AEADS[name]
    mechanism = getattr(nss, name)
    for key_size in key_sizes:
        key, iv, aad = nss_cases.data(key_size), nss_cases.data(12, 2), nss_cases.data(20, 3)
        plain = nss_cases.data(size, 4)
        expected = getattr(reference, kind)(key).encrypt(iv, plain, aad)
        param = nss.param_from_aead(mechanism, nss.SecItem(iv), nss.SecItem(aad))
        cut = [plain[:7], plain[7:]]
        assert through(mechanism, nss.CKA_ENCRYPT, key, param, cut) == expected
        assert through(mechanism, nss.CKA_DECRYPT, key, param, [expected]) == plain
        for wrong in (expected[:-1] + bytes([expected[-1] ^ 1]), b"", expected[:5]):
            with pytest.raises(error.NSPRError, match="SEC_ERROR_BAD_DATA"):
                through(mechanism, nss.CKA_DECRYPT, key, param, [wrong])
        plain_nonce = nss.param_from_iv(mechanism, nss.SecItem(iv))
        without = getattr(reference, kind)(key).encrypt(iv, plain, None)
        assert through(mechanism, nss.CKA_ENCRYPT, key, plain_nonce, cut) == without


def test_aead_releases_nothing_before_the_tag() -> None:
    param = nss.param_from_aead(nss.CKM_AES_GCM, nss.SecItem(bytes(12)))
    key = key_of(nss.CKM_AES_GCM, bytes(16), nss.CKA_DECRYPT)
    running = nss.create_context_by_sym_key(nss.CKM_AES_GCM, nss.CKA_DECRYPT, key, param)
    assert running.cipher_op(bytes(1000)) == b""
    with pytest.raises(error.NSPRError) as raised:
        running.digest_final()
    assert raised.value.errno == error.SEC_ERROR_BAD_DATA
    with pytest.raises(error.NSPRError, match="LIBRARY_FAILURE"):
        running.digest_final()


def test_aead_tags_of_other_lengths() -> None:
    for length in (12, 13, 16):
        iv = nss.SecItem(bytes(12))
        param = nss.param_from_aead(nss.CKM_AES_GCM, iv, tag_length=length)
        box = through(nss.CKM_AES_GCM, nss.CKA_ENCRYPT, bytes(16), param, [b"hello"])
        assert len(box) == 5 + length
        assert through(nss.CKM_AES_GCM, nss.CKA_DECRYPT, bytes(16), param, [box]) == b"hello"
    param = nss.param_from_aead(nss.CKM_AES_GCM, nss.SecItem(bytes(12)), tag_length=99)
    with pytest.raises(error.NSPRError):
        through(nss.CKM_AES_GCM, nss.CKA_ENCRYPT, bytes(16), param, [b""])
    with pytest.raises(error.NSPRError, match="INVALID_ARGS"):
        nss.param_from_aead(nss.CKM_AES_CBC, nss.SecItem(bytes(12)))
    whole = nss.param_from_aead(nss.CKM_AES_GCM, nss.SecItem(bytes(12))).data
    for broken in (whole[:-1], whole[:20], whole + b"x"):
        with pytest.raises(error.NSPRError, match="BAD_DATA"):
            through(nss.CKM_AES_GCM, nss.CKA_ENCRYPT, bytes(16), nss.SecItem(broken), [b""])


def test_aead_with_a_nonce_that_is_chosen() -> None:
    for param in (None, nss.param_from_aead(nss.CKM_AES_GCM, None, nss.SecItem(b"header"))):
        boxes = [
            through(nss.CKM_AES_GCM, nss.CKA_ENCRYPT, bytes(32), param, [b"hel", b"lo"])
            for _ in range(2)
        ]
        assert boxes[0] != boxes[1]
        for box in boxes:
            assert through(nss.CKM_AES_GCM, nss.CKA_DECRYPT, bytes(32), param, [box]) == b"hello"
            with cryptofd.open("gcm(aes)", key=bytes(32)) as session:
                assert session.unseal(box, aad=b"header" if param else None) == b"hello"


def _reference(mode: Callable[[Any], Any]) -> Callable[[bytes, bytes, bytes], bytes]:
    ciphers = importlib.import_module("cryptography.hazmat.primitives.ciphers")

    def encrypt(key: bytes, iv: bytes, plain: bytes) -> bytes:
        algorithm, wanted = mode(ciphers)
        running = ciphers.Cipher(algorithm(key), wanted(iv)).encryptor()
        done: bytes = running.update(plain) + running.finalize()
        return done

    return encrypt


MODES = {
    "CKM_AES_CTR": lambda c: (c.algorithms.AES, c.modes.CTR),
    "CKM_AES_XTS": lambda c: (c.algorithms.AES, c.modes.XTS),
}


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("size", [16, 17, 100, 4096])
def test_modes(name: str, size: int) -> None:
    mechanism = getattr(nss, name)
    for key_size in (32, 64) if name == "CKM_AES_XTS" else (16, 24, 32):
        key, iv, plain = nss_cases.data(key_size), nss_cases.data(16, 2), nss_cases.data(size, 3)
        expected = _reference(MODES[name])(key, iv, plain)
        params = [nss.param_from_iv(mechanism, nss.SecItem(iv))]
        if name == "CKM_AES_CTR":
            params.append(nss.SecItem(struct.pack("L16s", 128, iv)))
        for param in params:
            cut = [plain[:5], plain[5:]]
            assert through(mechanism, nss.CKA_ENCRYPT, key, param, cut) == expected
            assert through(mechanism, nss.CKA_DECRYPT, key, param, [expected]) == plain
    if name == "CKM_AES_CTR":
        param = nss.SecItem(struct.pack("L16s", 64, bytes(16)))
        with pytest.raises(error.NSPRError, match="counter of 64 bits"):
            through(mechanism, nss.CKA_ENCRYPT, bytes(16), param, [b""])


@pytest.mark.parametrize("bits", [224, 256, 384, 512])
def test_sha3(bits: int) -> None:
    hashlib = importlib.import_module("hashlib")
    tag = getattr(nss, f"SEC_OID_SHA3_{bits}")
    expected = hashlib.new(f"sha3_{bits}", b"abc").digest()
    assert nss.hash_buf(tag, b"abc") == expected
    running = nss.create_digest_context(tag)
    running.digest_op(b"a")
    other = running.clone_context(running)
    running.digest_op(b"bc")
    assert running.digest_final() == expected
    assert other.digest_final() == hashlib.new(f"sha3_{bits}", b"a").digest()
    assert nss.algtag_to_mechanism(tag) == getattr(nss, f"CKM_SHA3_{bits}")
    hmac = importlib.import_module("hmac")
    key = key_of(getattr(nss, f"CKM_SHA3_{bits}_HMAC"), b"key", nss.CKA_SIGN)
    mac = nss.create_context_by_sym_key(key.mechanism, nss.CKA_SIGN, key)
    mac.digest_op(b"abc")
    assert mac.digest_final() == hmac.digest(b"key", b"abc", f"sha3_{bits}")


def test_cmac_and_lengths_of_macs() -> None:
    primitives = importlib.import_module("cryptography.hazmat.primitives.cmac")
    algorithms = importlib.import_module("cryptography.hazmat.primitives.ciphers.algorithms")
    reference = primitives.CMAC(algorithms.AES(bytes(16)))
    reference.update(b"message")
    expected = reference.finalize()
    key = key_of(nss.CKM_AES_CMAC, bytes(16), nss.CKA_SIGN)
    whole = nss.create_context_by_sym_key(nss.CKM_AES_CMAC, nss.CKA_SIGN, key)
    whole.digest_op(b"message")
    assert whole.digest_final() == expected
    part = nss.create_context_by_sym_key(
        nss.CKM_AES_CMAC_GENERAL, nss.CKA_SIGN, key, nss.SecItem(struct.pack("L", 8))
    )
    part.digest_op(b"message")
    assert part.digest_final() == expected[:8]


@pytest.mark.parametrize("wrapped", [16, 24, 32])
def test_key_wrap(wrapped: int) -> None:
    reference = importlib.import_module("cryptography.hazmat.primitives.keywrap")
    target = key_of(nss.CKM_AES_CBC, nss_cases.data(wrapped), nss.CKA_ENCRYPT)
    for name, wrap in (
        ("CKM_AES_KEY_WRAP", reference.aes_key_wrap),
        ("CKM_AES_KEY_WRAP_KWP", reference.aes_key_wrap_with_padding),
    ):
        mechanism = getattr(nss, name)
        key = key_of(mechanism, nss_cases.data(32, 2), nss.CKA_WRAP)
        box = key.wrap_sym_key(mechanism, None, target)
        assert box.data == wrap(nss_cases.data(32, 2), target.key_data)
        opened = key.unwrap_sym_key(mechanism, None, box, nss.CKM_AES_CBC, nss.CKA_ENCRYPT, 0)
        assert opened.key_data == target.key_data
        changed = nss.SecItem(box.data[:-1] + bytes([box.data[-1] ^ 1]))
        with pytest.raises(error.NSPRError, match="BAD_DATA"):
            key.unwrap_sym_key(mechanism, None, changed, nss.CKM_AES_CBC, nss.CKA_ENCRYPT, 0)


# Of wrapping python-nss writes to an address that it never set: nobody to compare with but the
# unwrapping, which was compared.
@pytest.mark.parametrize("name", ["AES_ECB", "AES_CBC", "AES_CBC_PAD", "DES3_ECB", "DES3_CBC_PAD"])
@pytest.mark.parametrize("size", [16, 24, 32])
def test_wrapping_is_what_unwrapping_undoes(name: str, size: int) -> None:
    mechanism = getattr(nss, f"CKM_{name}")
    block = 16 if name.startswith("AES") else 8
    iv = None if name.endswith("ECB") else nss.SecItem(nss_cases.data(block))
    key = key_of(mechanism, nss_cases.data(16 if block == 16 else 24), nss.CKA_WRAP)
    target = key_of(nss.CKM_AES_ECB, nss_cases.data(size, 3), nss.CKA_ENCRYPT)
    box = key.wrap_sym_key(mechanism, iv, target)
    opened = key.unwrap_sym_key(mechanism, iv, box, nss.CKM_AES_ECB, nss.CKA_ENCRYPT, size)
    assert opened.key_data == target.key_data
    for wrong in (1, None):
        with pytest.raises(TypeError, match="argument 3 must be"):
            key.wrap_sym_key(mechanism, iv, wrong)  # type: ignore[arg-type]


CURVES = {
    "SECP256R1": "06082a8648ce3d030107",
    "SECP384R1": "06052b81040022",
    "SECP521R1": "06052b81040023",
}


def pair_of(name: str, params: Any) -> tuple[nss.PublicKey, nss.PrivateKey]:
    mechanism = getattr(nss, name)
    return nss.get_best_slot(mechanism).generate_key_pair(mechanism, params, False, False)


def loaded(public: nss.PublicKey) -> Any:
    serialization = importlib.import_module("cryptography.hazmat.primitives.serialization")
    return serialization.load_der_public_key(public.encode_der_subject_public_key_info().data)


def refused(public: nss.PublicKey, mechanism: int, signature: bytes, message: bytes) -> None:
    with pytest.raises(error.NSPRError) as raised:
        nss.verify_with_mechanism(
            public, mechanism, None, nss.SecItem(signature), nss.SecItem(message)
        )
    assert raised.value.errno == error.SEC_ERROR_BAD_SIGNATURE


def test_edwards() -> None:
    public, private = pair_of("CKM_EC_EDWARDS_KEY_PAIR_GEN", None)
    message = nss.SecItem(b"a message")
    signature = nss.sign_with_mechanism(private, nss.CKM_EDDSA, None, message)
    loaded(public).verify(signature.data, b"a message")
    nss.verify_with_mechanism(public, nss.CKM_EDDSA, None, signature, message)
    refused(public, nss.CKM_EDDSA, signature.data, b"another")
    refused(public, nss.CKM_EDDSA, bytes(64), b"a message")
    assert (public.key_type, public.key_type_str) == (nss.edKey, "Edwards Curve")
    assert str(public) == "Key Type: Edwards Curve"
    assert str(private.convert_to_public_key()) == str(public)
    with pytest.raises(AttributeError, match="no attribute 'rsa'"):
        _ = public.rsa
    with pytest.raises(error.NSPRError, match="INVALID_KEY"):
        nss.sign_with_mechanism(private, nss.CKM_ECDSA_SHA256, None, message)
    with pytest.raises(error.NSPRError, match="INVALID_ALGORITHM"):
        nss.sign_with_mechanism(private, nss.CKM_AES_CBC, None, message)


@pytest.mark.parametrize("curve", CURVES)
def test_curves(curve: str) -> None:
    ec = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ec")
    utils = importlib.import_module("cryptography.hazmat.primitives.asymmetric.utils")
    hashes = importlib.import_module("cryptography.hazmat.primitives.hashes")
    hashlib = importlib.import_module("hashlib")
    oid = nss.SecItem(bytes.fromhex(CURVES[curve]))
    public, private = pair_of("CKM_EC_KEY_PAIR_GEN", oid)
    assert loaded(public).curve.name == curve.lower()
    assert public.key_type == nss.ecKey
    digest = hashlib.sha256(b"message").digest()
    for mechanism, data in ((nss.CKM_ECDSA, digest), (nss.CKM_ECDSA_SHA256, b"message")):
        signature = nss.sign_with_mechanism(private, mechanism, None, nss.SecItem(data)).data
        half = len(signature) // 2
        der = utils.encode_dss_signature(
            int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
        )
        loaded(public).verify(der, b"message", ec.ECDSA(hashes.SHA256()))
        nss.verify_with_mechanism(
            public, mechanism, None, nss.SecItem(signature), nss.SecItem(data)
        )
        refused(public, mechanism, signature[::-1], data)
    with pytest.raises(error.NSPRError, match="5 bytes are no digest"):
        nss.sign_with_mechanism(private, nss.CKM_ECDSA, None, nss.SecItem(b"short"))
    for params in (None, nss.SecItem(), nss.SecItem(bytes.fromhex("06052b8104000a"))):
        with pytest.raises(error.NSPRError, match="INVALID_ARGS"):
            pair_of("CKM_EC_KEY_PAIR_GEN", params)


def test_rsa() -> None:
    padding = importlib.import_module("cryptography.hazmat.primitives.asymmetric.padding")
    rsa = importlib.import_module("cryptography.hazmat.primitives.asymmetric.rsa")
    hashes = importlib.import_module("cryptography.hazmat.primitives.hashes")
    s = importlib.import_module("cryptography.hazmat.primitives.serialization")
    known = rsa.generate_private_key(65537, 2048)
    der = known.private_bytes(s.Encoding.DER, s.PrivateFormat.PKCS8, s.NoEncryption())
    private = nss.import_der_private_key_info(nss.SecItem(der))
    public = nss.decode_der_subject_public_key_info(
        nss.SecItem(
            known.public_key().public_bytes(s.Encoding.DER, s.PublicFormat.SubjectPublicKeyInfo)
        )
    )
    numbers = known.public_key().public_numbers()
    assert int.from_bytes(public.rsa.modulus.data, "big") == numbers.n
    assert int.from_bytes(public.rsa.exponent.data, "big") == numbers.e
    for name, wanted in (
        ("CKM_SHA256_RSA_PKCS", padding.PKCS1v15()),
        ("CKM_SHA256_RSA_PKCS_PSS", padding.PSS(padding.MGF1(hashes.SHA256()), 32)),
    ):
        mechanism = getattr(nss, name)
        signature = nss.sign_with_mechanism(private, mechanism, None, nss.SecItem(b"message")).data
        known.public_key().verify(signature, b"message", wanted, hashes.SHA256())
        nss.verify_with_mechanism(
            public, mechanism, None, nss.SecItem(signature), nss.SecItem(b"message")
        )
        refused(public, mechanism, signature, b"another")
    key = key_of(nss.CKM_AES_CBC, nss_cases.data(32), nss.CKA_ENCRYPT)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    for mechanism, wanted in (
        (nss.CKM_RSA_PKCS, padding.PKCS1v15()),
        (nss.CKM_RSA_PKCS_OAEP, oaep),
    ):
        box = nss.pub_wrap_sym_key(mechanism, public, key)
        assert known.decrypt(box.data, wanted) == key.key_data
    for broken in (b"", b"0", der[:20], bytes(50), der[::-1]):
        with pytest.raises(error.NSPRError):
            nss.import_der_private_key_info(nss.SecItem(broken))
        with pytest.raises(error.NSPRError):
            nss.decode_der_subject_public_key_info(nss.SecItem(broken))


def test_what_is_not_served_is_told() -> None:
    for name in ("CKM_RC4", "CKM_CAMELLIA_CBC", "CKM_DSA", "CKM_POLY1305", "CKM_AES_GMAC"):
        mechanism = getattr(nss, name)
        assert not nss.token_exists(mechanism)
        with pytest.raises(error.NSPRError, match="SEC_ERROR_NO_TOKEN"):
            nss.get_best_slot(mechanism)
    for name in ("CKM_AES_CBC", "CKM_AES_GCM", "CKM_SHA3_256", "CKM_AES_KEY_WRAP"):
        assert nss.token_exists(getattr(nss, name))
    nss.nss_shutdown()
    assert not nss.token_exists(nss.CKM_AES_CBC)


def test_names_of_mechanisms_and_attributes() -> None:
    # python-nss itself cannot be asked: it takes bytes only, and then refuses bytes.
    for name in ("CKM_AES_CBC", "aes_cbc", "ckm_aes_cbc", "AES_CBC"):
        assert nss.key_mechanism_type_from_name(name) == nss.CKM_AES_CBC
    assert nss.pk11_attribute_type_from_name("encrypt") == nss.CKA_ENCRYPT
    for ask in (nss.key_mechanism_type_from_name, nss.pk11_attribute_type_from_name):
        with pytest.raises(KeyError, match="name not found: nonsense"):
            ask("nonsense")
    assert nss.key_mechanism_type_name(nss.CKM_AES_GCM) == "CKM_AES_GCM"


def test_slots() -> None:
    session, keys = nss.get_internal_slot(), nss.get_internal_key_slot()
    assert (session.slot_name, keys.slot_name) == ("cryptofd", "cryptofd keys")
    assert nss.find_slot_by_name("cryptofd") is session
    assert nss.find_slot_by_name("NSS Certificate DB") is keys
    assert set(nss.get_all_tokens()) == {session, keys}
    assert session.is_logged_in() is True
    for method in (session.change_passwd, session.init_pin):
        with pytest.raises(error.NSPRError, match="SEC_ERROR_READ_ONLY"):
            method("old", "new")


def test_any_buffer_is_taken() -> None:
    import array

    for made in (bytes, bytearray, memoryview, nss.SecItem, lambda b: array.array("B", b)):
        assert nss.sha256_digest(made(b"abc")) == nss.sha256_digest(b"abc")
        assert nss.data_to_hex(made(b"abc")) == "61:62:63"
        assert nss.SecItem(made(b"abc")).data == b"abc"


def test_errors_can_be_pickled() -> None:
    pickle = importlib.import_module("pickle")
    made = error.NSPRError("why", error.SEC_ERROR_BAD_DATA)
    again = pickle.loads(pickle.dumps(made))
    assert (str(again), again.errno) == (str(made), made.errno)
    assert error.get_nspr_error_string(1) is None


def test_a_program_of_python_nss(tmp_path: Path) -> None:
    """As programs are written: a file, encrypted in pieces and decrypted again."""
    program = """
import sys
import nss.nss as nss
from nss.error import NSPRError
nss.nss_init_nodb()
mechanism = nss.CKM_DES_CBC_PAD
slot = nss.get_best_slot(mechanism)
key = nss.import_sym_key(slot, mechanism, nss.PK11_OriginUnwrap, nss.CKA_ENCRYPT,
                         nss.SecItem(nss.read_hex("e8:a7:7c:e2:05:63:6a:31")))
param = nss.param_from_iv(mechanism, nss.SecItem(nss.read_hex("e4:bb:3b:d3:c3:71:2e:58")))
encrypting = nss.create_context_by_sym_key(mechanism, nss.CKA_ENCRYPT, key, param)
decrypting = nss.create_context_by_sym_key(mechanism, nss.CKA_DECRYPT, key, param)
content = open(sys.argv[1], "rb").read()
boxed = b"".join(encrypting.cipher_op(content[at:at + 128]) for at in range(0, len(content), 128))
boxed += encrypting.digest_final()
assert boxed != content
# A context of NSS decrypts as it is fed; the pieces are whole blocks.
parts = [decrypting.cipher_op(boxed[at:at + 128]) for at in range(0, len(boxed), 128)]
assert b"".join(parts) + decrypting.digest_final() == content
try:
    decrypting.cipher_op(b"too late")
except NSPRError as error:
    print(error)
print(nss.data_to_hex(nss.sha256_digest(boxed), separator=None))
del encrypting, decrypting, key, slot
nss.nss_shutdown()
"""
    content = tmp_path / "content"
    content.write_bytes(nss_cases.data(5000))
    names, _ = oracle()
    assert names
    printed = []
    for python, text in (
        (SYSTEM_PYTHON, program),
        (
            sys.executable,
            program.replace("import nss.nss", "import cryptofd.doors.nss").replace(
                "from nss.error", "from cryptofd.doors.nss.error"
            ),
        ),
    ):
        done = subprocess.run(
            [python, "-c", text, str(content)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            if python == sys.executable
            else None,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0] == printed[1]
    assert "SEC_ERROR_LIBRARY_FAILURE" in printed[0]
