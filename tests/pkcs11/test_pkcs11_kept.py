"""The slot `cryptofd keys`: the broker's keys as objects, what is made there stays there."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
import threading
from ctypes import byref, c_char, c_ubyte, c_ulong
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from children import in_a_child
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from raw import (
    KEYS,
    Ccm,
    Ctr,
    Failed,
    Gcm,
    GcmMessage,
    Module,
    Session,
    loaded,
    mechanism,
    name_of,
    number,
    template,
)

import cryptofd

if TYPE_CHECKING:
    from real_broker import Broker

P256 = bytes.fromhex("06082a8648ce3d030107")
DATA = os.urandom(1000)
TOKEN = {"CKA_TOKEN": True}
PAIR = {"verify", "sign", "sign-digest"}


pytestmark = pytest.mark.usefixtures("fresh_token")


def only(session: Session, **attributes: Any) -> int:
    found = session.find(**attributes)
    assert len(found) == 1, found
    return found[0]


def public_of(session: Session, key: int) -> Any:
    return serialization.load_der_public_key(session.get(key, "CKA_PUBLIC_KEY_INFO"))


def test_keys_of_the_broker_are_objects(broker: Broker, keys: Session) -> None:
    with broker.connect() as connection:
        connection.keys.generate("db", "gcm(aes)", bits=256, usage={"encrypt", "decrypt"})
        connection.keys.generate("web", "ecdsa-nist-p256", usage=PAIR)
        connection.keys.generate("mac", "hmac(sha256)", usage={"sign", "verify"})
    found = {
        (keys.get(one, "CKA_LABEL"), keys.number(one, "CKA_CLASS")): one for one in keys.find()
    }
    secret, public, private = (
        number(f"CKO_{kind}_KEY") for kind in ("SECRET", "PUBLIC", "PRIVATE")
    )
    assert set(found) == {(b"db", secret), (b"mac", secret), (b"web", public), (b"web", private)}
    db = found[b"db", secret]
    assert keys.number(db, "CKA_VALUE_LEN") == 32
    for name, wanted in (
        ("TOKEN", True), ("SENSITIVE", True), ("EXTRACTABLE", False), ("ALWAYS_SENSITIVE", True),
        ("NEVER_EXTRACTABLE", True), ("LOCAL", True), ("ENCRYPT", True), ("DECRYPT", True),
        ("SIGN", False), ("WRAP", False), ("DERIVE", False),
    ):  # fmt: skip
        assert keys.flag(db, f"CKA_{name}") == wanted, name
    with pytest.raises(Failed, match="CKR_ATTRIBUTE_SENSITIVE"):
        keys.get(db, "CKA_VALUE")
    pair = found[b"web", private], found[b"web", public]
    assert keys.get(pair[0], "CKA_ID") == keys.get(pair[1], "CKA_ID") != b""


def test_they_work(broker: Broker, keys: Session) -> None:
    with broker.connect() as connection:
        connection.keys.generate("web", "ecdsa-nist-p256", usage=PAIR)
        connection.keys.generate("old", "rsa", bits=2048, usage={*PAIR, "encrypt", "decrypt"})
        connection.keys.generate("mac", "hmac(sha256)", usage={"sign", "verify"})
        fd = cryptofd.open("hmac(sha256)", key="cryptofd:mac", broker=connection)
        fd.update(DATA)
        wanted = fd.digest()
    private = only(keys, CKA_LABEL=b"web", CKA_CLASS=number("CKO_PRIVATE_KEY"))
    public = only(keys, CKA_LABEL=b"web", CKA_CLASS=number("CKO_PUBLIC_KEY"))
    digest = hashlib.sha256(DATA).digest()
    for how, pieces in (
        (mechanism("CKM_ECDSA_SHA256"), (DATA,)), (mechanism("CKM_ECDSA"), (digest,)),
        (mechanism("CKM_ECDSA_SHA256"), (DATA[:10], DATA[10:])),
    ):  # fmt: skip
        signature = keys.sign(how, private, *pieces)
        r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
        encoded = utils.encode_dss_signature(r, s)
        public_of(keys, public).verify(encoded, DATA, ec.ECDSA(hashes.SHA256()))
        keys.verify(how, public, signature, *pieces)
    old = only(keys, CKA_LABEL=b"old", CKA_CLASS=number("CKO_PRIVATE_KEY"))
    theirs = public_of(keys, old)
    signature = keys.sign(mechanism("CKM_SHA256_RSA_PKCS"), old, DATA)
    theirs.verify(signature, DATA, padding.PKCS1v15(), hashes.SHA256())
    from raw import Oaep, Pss

    how = mechanism("CKM_SHA256_RSA_PKCS_PSS", Pss(number("CKM_SHA256"), 2, 32))
    signature = keys.sign(how, old, DATA)
    theirs.verify(signature, DATA, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    how = mechanism("CKM_RSA_PKCS_OAEP", Oaep(number("CKM_SHA256"), 2, 0, None, 0))
    assert keys.decrypt(how, old, theirs.encrypt(b"secret", oaep)) == b"secret"
    mac = only(keys, CKA_LABEL=b"mac")
    for pieces in ((DATA,), (DATA[:100], DATA[100:])):
        assert keys.sign(mechanism("CKM_SHA256_HMAC"), mac, *pieces) == wanted
        keys.verify(mechanism("CKM_SHA256_HMAC"), mac, wanted, *pieces)


def test_what_is_generated_is_kept(broker: Broker, keys: Session) -> None:
    key = keys.generate(
        "CKM_AES_KEY_GEN", CKA_VALUE_LEN=32, CKA_LABEL=b"aes", CKA_ENCRYPT=True, CKA_DECRYPT=True,
        **TOKEN,
    )  # fmt: skip
    gcm = mechanism("CKM_AES_GCM", Gcm(bytes(12), 12, 96, b"aad", 3, 128))
    box = keys.encrypt(gcm, key, DATA)
    assert keys.decrypt(gcm, key, box) == DATA
    with pytest.raises(Failed, match=r"CKR_ENCRYPTED_DATA_INVALID|CKR_AEAD_DECRYPT_FAILED"):
        keys.decrypt(gcm, key, box[:-1] + b"\0\0"[:1] if box[-1] else box[:-1] + b"\1")
    for label, kind, said in (
        (b"rsa", "CKM_RSA_PKCS_KEY_PAIR_GEN", {"CKA_MODULUS_BITS": 2048}),
        (b"ec", "CKM_EC_KEY_PAIR_GEN", {"CKA_EC_PARAMS": P256}),
        (b"ed", "CKM_EC_EDWARDS_KEY_PAIR_GEN", {"CKA_EC_PARAMS": bytes.fromhex("06032b6570")}),
    ):
        public, private = keys.pair(
            kind, {**said, **TOKEN, "CKA_LABEL": label, "CKA_VERIFY": True},
            {**TOKEN, "CKA_LABEL": label, "CKA_SIGN": True, "CKA_SENSITIVE": True},
        )  # fmt: skip
        how = mechanism({b"rsa": "CKM_SHA256_RSA_PKCS", b"ec": "CKM_ECDSA_SHA256"}.get(
            label, "CKM_EDDSA"
        ))  # fmt: skip
        keys.verify(how, public, keys.sign(how, private, DATA), DATA)
        assert keys.flag(private, "CKA_SENSITIVE")
        assert not keys.flag(private, "CKA_EXTRACTABLE")
    with broker.connect() as connection:
        kept = {key.label: key for key in connection.keys.list()}
    assert set(kept) == {"aes", "rsa", "ec", "ed"}
    assert not any(key.exportable for key in kept.values())
    assert {"sign", "sign-digest"} <= set(kept["rsa"].usage)
    # Another program, later.
    assert len(keys.find(CKA_LABEL=b"rsa")) == 2


def test_what_is_brought_is_kept(broker: Broker, keys: Session) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    private = keys.create(
        CKA_CLASS=number("CKO_PRIVATE_KEY"), CKA_KEY_TYPE=number("CKK_EC"), CKA_EC_PARAMS=P256,
        CKA_VALUE=key.private_numbers().private_value.to_bytes(32, "big"), CKA_SIGN=True,
        CKA_LABEL=b"mine", **TOKEN,
    )  # fmt: skip
    signature = keys.sign(mechanism("CKM_ECDSA_SHA256"), private, DATA)
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    encoded = utils.encode_dss_signature(r, s)
    key.public_key().verify(encoded, DATA, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(Failed, match="CKR_ATTRIBUTE_SENSITIVE"):
        keys.get(private, "CKA_VALUE")
    assert not keys.flag(private, "CKA_NEVER_EXTRACTABLE")


def test_a_read_only_session_makes_nothing_that_stays(broker: Broker, keys_module: Module) -> None:
    session = keys_module.session(KEYS, writes=False)
    with pytest.raises(Failed, match="CKR_SESSION_READ_ONLY"):
        session.generate("CKM_AES_KEY_GEN", CKA_VALUE_LEN=32, **TOKEN)
    session.close()


def test_renaming_and_deleting(broker: Broker, keys: Session, keys_module: Module) -> None:
    key = keys.generate(
        "CKM_AES_KEY_GEN", CKA_VALUE_LEN=32, CKA_LABEL=b"before", CKA_ENCRYPT=True, **TOKEN
    )
    keys.set(key, CKA_LABEL=b"after")
    with broker.connect() as connection:
        assert [key.label for key in connection.keys.list()] == ["after"]
        connection.keys.change("after", new_label="elsewhere")
    assert keys.find(CKA_LABEL=b"elsewhere") == [key], "a rename elsewhere is not seen"
    keys.ok("DestroyObject", key)
    assert keys.find() == []
    with broker.connect() as connection:
        assert connection.keys.list() == []
        connection.keys.generate("gone", "gcm(aes)", usage={"encrypt"})
        assert len(keys.find()) == 1
        connection.keys.delete("gone")
    assert keys.find() == []


def test_a_usage_that_the_broker_does_not_give(broker: Broker, keys: Session) -> None:
    with broker.connect() as connection:
        connection.keys.generate("sealed", "gcm(aes)", usage={"encrypt", "decrypt"})
        connection.keys.generate("signs", "ecdsa-nist-p256", usage={"sign", "verify"})
    sealed = only(keys, CKA_LABEL=b"sealed")
    gcm = mechanism("CKM_AES_GCM", Gcm(bytes(12), 12, 96, None, 0, 128))
    with pytest.raises(Failed, match="CKR_KEY_FUNCTION_NOT_PERMITTED"):
        keys.encrypt(gcm, sealed, DATA)  # the IV would be the program's
    # With an IV of the worker's it goes.
    keys.ok("MessageEncryptInit", byref(mechanism("CKM_AES_GCM")), sealed)
    iv, tag = (c_char * 12)(), (c_char * 16)()
    message = GcmMessage(ctypes.addressof(iv), 12, 0, 1, ctypes.addressof(tag), 128)
    box = keys.out(
        "EncryptMessage", byref(message), ctypes.sizeof(message), b"aad", 3, DATA, len(DATA),
        room=len(DATA),
    )  # fmt: skip
    keys.ok("MessageEncryptFinal")
    assert iv.raw != bytes(12)
    gcm = mechanism("CKM_AES_GCM", Gcm(iv.raw, 12, 96, b"aad", 3, 128))
    assert keys.decrypt(gcm, sealed, box + tag.raw) == DATA
    private = only(keys, CKA_LABEL=b"signs", CKA_CLASS=number("CKO_PRIVATE_KEY"))
    keys.sign(mechanism("CKM_ECDSA_SHA256"), private, DATA)
    with pytest.raises(Failed, match="CKR_KEY_FUNCTION_NOT_PERMITTED"):
        keys.sign(mechanism("CKM_ECDSA"), private, bytes(32))


def test_certificates_stay(broker: Broker, library: Path, tmp_path: Path) -> None:
    one = loaded(library, tmp_path, "one")
    one.ok("Initialize", None)
    session = one.session(KEYS)
    session.create(
        CKA_CLASS=number("CKO_CERTIFICATE"), CKA_CERTIFICATE_TYPE=0, CKA_VALUE=b"der",
        CKA_LABEL=b"web", CKA_SUBJECT=b"subject", CKA_ID=b"id", **TOKEN,
    )  # fmt: skip
    session.create(CKA_CLASS=number("CKO_DATA"), CKA_VALUE=b"passes", CKA_LABEL=b"short")
    one.ok("Finalize", None)
    # A certificate holds no secret; another process sees it without a broker, too.
    other = loaded(library, tmp_path, "other")
    other.ok("Initialize", None)
    session = other.session(KEYS)
    found = only(session, CKA_CLASS=number("CKO_CERTIFICATE"))
    assert session.get(found, "CKA_VALUE") == b"der"
    assert session.find(CKA_SUBJECT=b"subject", CKA_LABEL=b"web") == [found]
    session.set(found, CKA_LABEL=b"renamed")
    assert session.find(CKA_LABEL=b"renamed") == [found]
    session.ok("DestroyObject", found)
    assert session.find() == []
    other.ok("Finalize", None)
    assert list((Path(os.environ["CRYPTOFD_STATE"]) / "objects").iterdir()) == []


def test_without_a_broker_there_are_no_keys(library: Path, tmp_path: Path) -> None:
    """The module starts none; what needs one says that it is away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRYPTOFD_BROKER", str(tmp_path / "nobody"))
        patch.setenv("CRYPTOFD_STATE", str(tmp_path))
        module = loaded(library, tmp_path, "alone")
        module.ok("Initialize", None)
        session = module.session(KEYS)
        assert session.find() == []
        with pytest.raises(Failed, match="CKR_DEVICE_REMOVED"):
            session.generate("CKM_AES_KEY_GEN", CKA_VALUE_LEN=32, **TOKEN)
        # What needs no broker goes on.
        assert session.digest(mechanism("CKM_SHA256"), b"x") == hashlib.sha256(b"x").digest()
        module.ok("Finalize", None)


def test_a_worker_dies_in_the_middle(broker: Broker, keys: Session) -> None:
    _, private = keys.pair(
        "CKM_EC_KEY_PAIR_GEN", {"CKA_EC_PARAMS": P256, **TOKEN},
        {**TOKEN, "CKA_LABEL": b"lives", "CKA_SIGN": True},
    )  # fmt: skip
    mac = keys.generate(
        "CKM_GENERIC_SECRET_KEY_GEN", CKA_VALUE_LEN=32, CKA_SIGN=True, CKA_VERIFY=True,
        CKA_LABEL=b"mac", **TOKEN,
    )  # fmt: skip
    theirs = public_of(keys, private)
    how = mechanism("CKM_SHA256_HMAC")
    before = keys.sign(how, mac, DATA)
    killed = threading.Event()
    signed = 0
    begun = threading.Event()

    def killer() -> None:
        begun.wait()
        broker.kill_worker()
        killed.set()

    thread = threading.Thread(target=killer)
    thread.start()
    after = 0
    while after < 20:
        signature = keys.sign(mechanism("CKM_ECDSA_SHA256"), private, DATA)
        signed += 1
        begun.set()
        after += killed.is_set()
        r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
        theirs.verify(utils.encode_dss_signature(r, s), DATA, ec.ECDSA(hashes.SHA256()))
    thread.join()
    # A stream whose state died with the worker is an error or the right answer, never another.
    keys.ok("SignInit", byref(how), mac)
    keys.ok("SignUpdate", DATA[:100], 100)
    broker.kill_worker()
    rest = DATA[100:]
    got = keys.refused("SignUpdate", rest, len(rest))
    if got == "CKR_OK":
        buffer, length = (c_char * 32)(), c_ulong(32)
        got = keys.refused("SignFinal", buffer, byref(length))
        assert got != "CKR_OK" or buffer.raw == before
    assert got in ("CKR_OK", "CKR_DEVICE_ERROR", "CKR_DEVICE_REMOVED", "CKR_FUNCTION_FAILED")
    keys.call("SignInit", None, 0)
    assert keys.sign(how, mac, DATA) == before


def test_a_child_goes_on_with_the_brokers_keys(broker: Broker, keys: Session) -> None:
    mac = keys.generate(
        "CKM_GENERIC_SECRET_KEY_GEN", CKA_VALUE_LEN=32, CKA_SIGN=True, CKA_LABEL=b"mac", **TOKEN
    )
    how = mechanism("CKM_SHA256_HMAC")
    wanted = {piece: keys.sign(how, mac, piece) for piece in (b"parent", b"child")}

    def child() -> None:
        for _ in range(50):
            assert keys.sign(how, mac, b"child") == wanted[b"child"]
        assert len(keys.find(CKA_LABEL=b"mac")) == 1
        made = keys.generate("CKM_AES_KEY_GEN", CKA_VALUE_LEN=16, CKA_LABEL=b"of-child", **TOKEN)
        assert keys.get(made, "CKA_LABEL") == b"of-child"

    reading, writing = os.pipe()
    in_a_child(child)
    for _ in range(50):
        assert keys.sign(how, mac, b"parent") == wanted[b"parent"]
    os.close(reading)
    os.close(writing)
    assert len(keys.find(CKA_LABEL=b"of-child")) == 1


def test_threads_on_the_brokers_keys(broker: Broker, keys: Session, keys_module: Module) -> None:
    from test_pkcs11_processes import in_threads

    mac = keys.generate(
        "CKM_GENERIC_SECRET_KEY_GEN", CKA_VALUE_LEN=32, CKA_SIGN=True, CKA_LABEL=b"mac", **TOKEN
    )
    how = mechanism("CKM_SHA256_HMAC")
    pieces = [bytes([n]) * 100 for n in range(8)]
    wanted = [keys.sign(how, mac, piece) for piece in pieces]

    def one(n: int) -> None:
        session = keys_module.session(KEYS)
        for _ in range(40):
            assert session.sign(how, mac, pieces[n]) == wanted[n]
            assert session.sign(how, mac, pieces[n][:9], pieces[n][9:]) == wanted[n]
        session.close()

    in_threads(8, one)


#: A program that uses every key that it sees, says so, and waits.
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from raw import Gcm, Module, mechanism, number
module = Module(Path(sys.argv[1]))
module.ok("Initialize", None)
session = module.session(0x63666401)
gcm = mechanism("CKM_AES_GCM", Gcm(bytes(12), 12, 96, None, 0, 128))
used = 0
for key in session.find():
    kind = session.number(key, "CKA_CLASS"), session.number(key, "CKA_KEY_TYPE")
    if session.number(key, "CKA_CLASS") == number("CKO_PUBLIC_KEY"):
        continue
    label = session.get(key, "CKA_LABEL")
    if label == b"rsa":
        session.sign(mechanism("CKM_SHA256_RSA_PKCS"), key, b"data")
    elif label == b"ec":
        session.sign(mechanism("CKM_ECDSA_SHA256"), key, b"data")
    elif label == b"mac":
        session.sign(mechanism("CKM_SHA256_HMAC"), key, b"da", b"ta")
    elif label == b"aes":
        assert session.decrypt(gcm, key, session.encrypt(gcm, key, b"data")) == b"data"
    else:
        continue
    used += 1
print(used, flush=True)
sys.stdin.read()
"""


def test_no_key_is_in_the_program(broker: Broker, library: Path) -> None:
    from isolation_client import made, pieces
    from real_broker import environment
    from test_isolation import seen

    secrets: dict[str, list[bytes]] = {}
    with broker.connect() as connection:
        for label, algorithm, usage in (
            ("rsa", "rsa", PAIR), ("ec", "ecdsa-nist-p256", PAIR),
            ("mac", "hmac(sha256)", {"sign", "verify"}),
            ("aes", "gcm(aes)", {"encrypt", "decrypt", "caller-iv"}),
        ):  # fmt: skip
            key = made(algorithm)
            connection.keys.import_key(label, algorithm, key, usage=usage)
            secrets[label] = pieces(algorithm, key)
            del key
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(library), str(Path(__file__).parent)],
        env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == "4\n"
        workers = [worker["pid"] for worker in broker.status()["workers"]]
        assert set().union(*(seen(pid, secrets) for pid in workers)) == set(secrets), "blind"
        assert seen(process.pid, secrets) == {}
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
    assert process.returncode == 0


def test_attributes_of_a_kept_key_that_do_not_change(broker: Broker, keys: Session) -> None:
    key = keys.generate(
        "CKM_AES_KEY_GEN", CKA_VALUE_LEN=32, CKA_LABEL=b"fixed", CKA_ENCRYPT=True, **TOKEN
    )
    for change in (
        {"CKA_EXTRACTABLE": True}, {"CKA_SENSITIVE": False}, {"CKA_DECRYPT": False},
        {"CKA_TRUSTED": True}, {"CKA_WRAP": True},
    ):  # fmt: skip
        rv = keys.call("SetAttributeValue", key, *template(change))
        assert name_of(rv) in ("CKR_ATTRIBUTE_READ_ONLY", "CKR_ACTION_PROHIBITED"), change
    assert keys.refused("CopyObject", key, None, 0, byref(c_ulong())) == "CKR_ACTION_PROHIBITED"
    kek = keys.secret("CKK_AES", bytes(32), CKA_WRAP=True)
    how = mechanism("CKM_AES_KEY_WRAP")
    length = c_ulong()
    assert keys.refused("WrapKey", byref(how), kek, key, None, byref(length)) == (
        "CKR_KEY_UNEXTRACTABLE"
    )


def test_a_label_that_the_broker_does_not_take(broker: Broker, keys: Session) -> None:
    for label in (b"a/b", b"\xff", b"x" * 300):
        with pytest.raises(Failed, match="CKR_ATTRIBUTE_VALUE_INVALID"):
            keys.generate("CKM_AES_KEY_GEN", CKA_VALUE_LEN=32, CKA_LABEL=label, **TOKEN)
    keys.generate("CKM_AES_KEY_GEN", CKA_VALUE_LEN=32, CKA_LABEL=b"twice", **TOKEN)
    with pytest.raises(Failed, match="CKR_ATTRIBUTE_VALUE_INVALID"):
        keys.generate("CKM_AES_KEY_GEN", CKA_VALUE_LEN=32, CKA_LABEL=b"twice", **TOKEN)
    assert len(keys.find()) == 1


# Which algorithm a key has


def mechanisms(*kinds: str) -> bytes:
    return b"".join(number(kind).to_bytes(8, "little") for kind in kinds)


def allowed(session: Session, key: int) -> set[int]:
    value = session.get(key, "CKA_ALLOWED_MECHANISMS")
    return {int.from_bytes(value[at : at + 8], "little") for at in range(0, len(value), 8)}


CRYPTS = {"CKA_ENCRYPT": True, "CKA_DECRYPT": True}


@pytest.mark.parametrize(
    ("kinds", "algorithm", "parameter"),
    [
        (["CKM_AES_CBC", "CKM_AES_CBC_PAD"], "cbc(aes)", bytes(16)),
        (["CKM_AES_CBC_PAD"], "cbc(aes)", bytes(16)),
        (["CKM_AES_ECB"], "ecb(aes)", None),
        (["CKM_AES_CTR"], "ctr(aes)", Ctr(128, (c_ubyte * 16)())),
        (["CKM_AES_CCM"], "ccm(aes)", Ccm(32, bytes(12), 12, None, 0, 16)),
        (["CKM_AES_GCM"], "gcm(aes)", Gcm(bytes(12), 12, 96, None, 0, 128)),
    ],
)
def test_the_template_chooses_the_algorithm(
    broker: Broker, keys: Session, kinds: list[str], algorithm: str, parameter: Any
) -> None:
    key = keys.generate(
        "CKM_AES_KEY_GEN", CKA_VALUE_LEN=32, CKA_LABEL=b"chosen",
        CKA_ALLOWED_MECHANISMS=mechanisms(*kinds), **CRYPTS, **TOKEN,
    )  # fmt: skip
    with broker.connect() as connection:
        assert [one.algorithm for one in connection.keys.list()] == [algorithm]
    assert {number(kind) for kind in kinds} <= allowed(keys, key)
    data = bytes(range(32))
    for kind in kinds:
        how = mechanism(kind, parameter)
        sealed = keys.encrypt(how, key, data)
        assert sealed != data
        assert keys.decrypt(how, key, sealed) == data
        if not algorithm.startswith(("gcm", "ccm")):
            assert keys.encrypt(how, key, data[:10], data[10:]) == sealed
    other = "CKM_AES_ECB" if algorithm != "ecb(aes)" else "CKM_AES_CMAC"
    function = "EncryptInit" if algorithm != "ecb(aes)" else "SignInit"
    assert keys.refused(function, byref(mechanism(other)), key) in (
        "CKR_MECHANISM_INVALID", "CKR_KEY_TYPE_INCONSISTENT",
    )  # fmt: skip


def test_a_key_that_is_brought_or_unwrapped_chooses_too(broker: Broker, keys: Session) -> None:
    cbc = mechanism("CKM_AES_CBC", bytes(16))
    ours = keys.secret("CKK_AES", bytes(range(16)))
    wanted = keys.encrypt(cbc, ours, bytes(32))
    said = {"CKA_ALLOWED_MECHANISMS": mechanisms("CKM_AES_CBC", "CKM_AES_CBC_PAD"), **CRYPTS}
    brought = keys.secret("CKK_AES", bytes(range(16)), CKA_LABEL=b"brought", **said, **TOKEN)
    assert keys.encrypt(cbc, brought, bytes(32)) == wanted
    by = keys.secret("CKK_AES", bytes(32), CKA_WRAP=True, CKA_UNWRAP=True)
    how = mechanism("CKM_AES_KEY_WRAP_KWP")
    wrapped = keys.wrap(how, by, ours)
    aes = {"CKA_CLASS": number("CKO_SECRET_KEY"), "CKA_KEY_TYPE": number("CKK_AES")}
    unwrapped = keys.unwrap(how, by, wrapped, **aes, CKA_LABEL=b"unwrapped", **said, **TOKEN)
    assert keys.encrypt(cbc, unwrapped, bytes(32)) == wanted
    assert keys.flag(unwrapped, "CKA_SENSITIVE")
    mac = keys.generate(
        "CKM_GENERIC_SECRET_KEY_GEN", CKA_VALUE_LEN=48, CKA_SIGN=True, CKA_VERIFY=True,
        CKA_ALLOWED_MECHANISMS=mechanisms("CKM_SHA384_HMAC"), **TOKEN,
    )  # fmt: skip
    assert len(keys.sign(mechanism("CKM_SHA384_HMAC"), mac, DATA)) == 48
    cmac = keys.generate(
        "CKM_AES_KEY_GEN", CKA_VALUE_LEN=16, CKA_SIGN=True, CKA_VERIFY=True,
        CKA_ALLOWED_MECHANISMS=mechanisms("CKM_AES_CMAC"), **TOKEN,
    )  # fmt: skip
    signature = keys.sign(mechanism("CKM_AES_CMAC"), cmac, DATA)
    keys.verify(mechanism("CKM_AES_CMAC"), cmac, signature, DATA)
    with broker.connect() as connection:
        made = {key.algorithm for key in connection.keys.list()}
    assert made == {"cbc(aes)", "hmac(sha384)", "cmac(aes)"}


def test_lists_that_no_key_has(broker: Broker, keys: Session) -> None:
    def refused(**said: Any) -> str:
        with pytest.raises(Failed) as failed:
            keys.generate("CKM_AES_KEY_GEN", CKA_VALUE_LEN=32, **said, **CRYPTS, **TOKEN)
        return failed.value.name

    for kinds, answer in (
        (["CKM_AES_CBC", "CKM_AES_GCM"], "CKR_TEMPLATE_INCONSISTENT"),
        (["CKM_SHA256_HMAC"], "CKR_ATTRIBUTE_VALUE_INVALID"),
        (["CKM_AES_KEY_GEN"], "CKR_ATTRIBUTE_VALUE_INVALID"),
        ([], "CKR_ATTRIBUTE_VALUE_INVALID"),
        # Wrapping keys of the broker work within it.
        (["CKM_AES_KEY_WRAP"], "CKR_ATTRIBUTE_VALUE_INVALID"),
    ):
        assert refused(CKA_ALLOWED_MECHANISMS=mechanisms(*kinds)) == answer, kinds
    with pytest.raises(Failed, match="CKR_ATTRIBUTE_VALUE_INVALID"):
        keys.pair(
            "CKM_RSA_PKCS_KEY_PAIR_GEN", {"CKA_MODULUS_BITS": 2048, **TOKEN},
            {"CKA_ALLOWED_MECHANISMS": mechanisms("CKM_RSA_PKCS_PSS"), "CKA_SIGN": True, **TOKEN},
        )  # fmt: skip
    assert keys.find() == []


def test_raw_rsa_is_asked_for(broker: Broker, keys: Session) -> None:
    raw, block = mechanism("CKM_RSA_X_509"), b"\0" + b"1" * 255
    for listed in (False, True):
        said = {"CKA_ALLOWED_MECHANISMS": mechanisms("CKM_RSA_X_509")} if listed else {}
        public, private = keys.pair(
            "CKM_RSA_PKCS_KEY_PAIR_GEN", {"CKA_MODULUS_BITS": 2048, **TOKEN},
            {"CKA_SIGN": True, "CKA_DECRYPT": True, **said, **TOKEN},
        )  # fmt: skip
        assert (number("CKM_RSA_X_509") in allowed(keys, private)) == listed
        if listed:
            keys.verify(raw, public, keys.sign(raw, private, block), block)
            assert keys.decrypt(raw, private, keys.encrypt(raw, public, block)) == block
        else:
            assert keys.refused("SignInit", byref(raw), private) == "CKR_MECHANISM_INVALID"
            assert keys.refused("DecryptInit", byref(raw), private) == "CKR_MECHANISM_INVALID"
        keys.sign(mechanism("CKM_SHA256_RSA_PKCS"), private, DATA)
