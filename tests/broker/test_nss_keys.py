"""Keys that stay in the broker, by python-nss's interface."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import cryptofd
import cryptofd.doors.nss as nss
from cryptofd.doors.nss.error import NSPRError

pytest.importorskip("asyncvarlink")

if TYPE_CHECKING:
    from real_broker import Broker

    from cryptofd.broker.client import Connection


@pytest.fixture(autouse=True)
def _started(real: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CRYPTOFD_BROKER", str(real.socket))
    nss.nss_init_nodb()
    yield
    nss.nss_shutdown()


def key_of(label: str) -> nss.PK11SymKey:
    (key,) = nss.get_internal_key_slot().list_fixed_keys(label)
    return key


def test_listed(b: Connection) -> None:
    b.keys.generate("db", "gcm(aes)", bits=256, usage={"encrypt", "decrypt"}, exportable=False)
    b.keys.generate("tag", "hmac(sha256)", bits=256, usage={"sign", "verify"}, exportable=False)
    b.keys.generate("pair", "ed25519", usage={"sign"}, exportable=False)
    slot = nss.get_internal_key_slot()
    listed = {key.nickname: key for key in slot.list_fixed_keys()}
    assert set(listed) == {"db", "tag"}
    db = listed["db"]
    assert (db.mechanism, db.key_length, db.slot) == (nss.CKM_AES_GCM, 32, slot)
    assert slot.list_fixed_keys("cryptofd:db")[0].nickname == "db"
    assert slot.list_fixed_keys("none") == ()
    assert nss.get_internal_slot().list_fixed_keys() == ()
    with pytest.raises(NSPRError, match="cryptofd:db does not leave the broker"):
        _ = db.key_data
    assert "does not leave the broker" in db.format()
    for unreadable in (
        lambda: nss.create_digest_context(nss.SEC_OID_SHA256).digest_key(db),
        lambda: db.derive(
            nss.CKM_SHA256_KEY_DERIVATION, None, nss.CKM_AES_CBC, nss.CKA_ENCRYPT, 16
        ),
        lambda: (
            nss.get_internal_slot()
            .key_gen(nss.CKM_AES_KEY_WRAP, None, 32)
            .wrap_sym_key(nss.CKM_AES_KEY_WRAP, None, db)
        ),
    ):
        with pytest.raises(NSPRError, match="does not leave the broker"):
            unreadable()


def test_sealed_with_a_key_that_stays(b: Connection) -> None:
    b.keys.generate("db", "gcm(aes)", bits=256, usage={"encrypt", "decrypt"}, exportable=False)
    key = key_of("db")
    param = nss.param_from_aead(nss.CKM_AES_GCM, None, nss.SecItem(b"header"))
    context = nss.create_context_by_sym_key(nss.CKM_AES_GCM, nss.CKA_ENCRYPT, key, param)
    assert context.cipher_op(b"a secret") == b""
    box = context.digest_final()
    with cryptofd.open("gcm(aes)", key="cryptofd:db") as session:
        assert session.unseal(box, aad=b"header") == b"a secret"
    context = nss.create_context_by_sym_key(nss.CKM_AES_GCM, nss.CKA_DECRYPT, key, param)
    context.cipher_op(box)
    assert context.digest_final() == b"a secret"
    # A nonce of the caller's wants a right that the key has not.
    own = nss.param_from_iv(nss.CKM_AES_GCM, nss.SecItem(bytes(12)))
    context = nss.create_context_by_sym_key(nss.CKM_AES_GCM, nss.CKA_ENCRYPT, key, own)
    with pytest.raises(NSPRError, match="SEC_ERROR_INVALID_KEY"):
        context.cipher_op(b"x") + context.digest_final()
    with pytest.raises(NSPRError, match=r"cryptofd:db is a key for gcm\(aes\)"):
        nss.create_context_by_sym_key(nss.CKM_AES_CBC, nss.CKA_ENCRYPT, key, nss.SecItem(bytes(16)))


def test_authenticated_with_a_key_that_stays(b: Connection) -> None:
    raw = bytes(range(32))
    b.keys.import_key("tag", "hmac(sha256)", raw, usage={"sign"}, exportable=False)
    key = key_of("tag")
    context = nss.create_context_by_sym_key(nss.CKM_SHA256_HMAC, nss.CKA_SIGN, key)
    for _ in range(2):
        context.digest_begin()
        context.digest_op(b"a ")
        context.digest_op(b"message")
        assert context.digest_final() == hmac.digest(raw, b"a message", hashlib.sha256)
    with pytest.raises(NSPRError, match="SEC_ERROR_INVALID_KEY"):
        nss.create_context_by_sym_key(nss.CKM_SHA256_HMAC, nss.CKA_VERIFY, key)


def test_what_a_key_is_not_for_is_refused(b: Connection) -> None:
    b.keys.generate("in", "gcm(aes)", bits=256, usage={"encrypt"}, exportable=False)
    with pytest.raises(NSPRError, match="SEC_ERROR_INVALID_KEY"):
        nss.create_context_by_sym_key(nss.CKM_AES_GCM, nss.CKA_DECRYPT, key_of("in"))


def test_signed_with_a_pair_that_stays(b: Connection) -> None:
    b.keys.generate("host", "ed25519", usage={"sign"}, exportable=False)
    b.keys.generate("db", "gcm(aes)", bits=256, usage={"encrypt"}, exportable=False)
    slot = nss.get_internal_key_slot()
    assert [key.nickname for key in slot.list_priv_keys()] == ["host"]
    assert nss.get_internal_slot().list_priv_keys() == ()
    (private,) = slot.list_priv_keys("host")
    message = nss.SecItem(b"a message")
    signature = nss.sign_with_mechanism(private, nss.CKM_EDDSA, None, message)
    public = private.convert_to_public_key()
    nss.verify_with_mechanism(public, nss.CKM_EDDSA, None, signature, message)
    der = public.encode_der_subject_public_key_info().data
    with cryptofd.open("ed25519", key=der) as session:
        session.verify(signature.data, b"a message")


def test_a_stream_with_a_key_that_stays(b: Connection) -> None:
    raw = bytes(range(16))
    usage = {"encrypt", "decrypt", "caller-iv"}
    b.keys.import_key("disk", "cbc(aes)", raw, usage=usage, exportable=False)
    iv = nss.param_from_iv(nss.CKM_AES_CBC_PAD, nss.SecItem(bytes(16)))
    boxes = []
    local = nss.import_sym_key(
        nss.get_internal_slot(),
        nss.CKM_AES_CBC_PAD,
        nss.PK11_OriginUnwrap,
        nss.CKA_ENCRYPT,
        nss.SecItem(raw),
    )
    for key in (key_of("disk"), local):
        context = nss.create_context_by_sym_key(nss.CKM_AES_CBC_PAD, nss.CKA_ENCRYPT, key, iv)
        boxes.append(context.cipher_op(b"any") + context.cipher_op(bytes(40)))
        boxes[-1] += context.digest_final()
    assert boxes[0] == boxes[1]
