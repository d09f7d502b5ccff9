"""Ciphers and AEADs through the provider: call for call the same as the default provider's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hosts import LIBRARY, Host

PROGRAM = Path(__file__).with_name("both_ciphers.py")


def both(host: Host, seed: int, rounds: int) -> None:
    env = {
        "CRYPTOFD_TEST_LIBRARY": str(LIBRARY),
        "CRYPTOFD_OPENSSL_PROFILE": "all",
        "OPENSSL_CONF": "/dev/null",
    }
    said = host.run(sys.executable, PROGRAM, str(seed), str(rounds), **env)
    assert said.split() == [b"done"]


def test_the_same_as_the_default_provider(whole: Host) -> None:
    both(whole, 1, 300)


@pytest.mark.soak
def test_the_same_for_long(whole: Host) -> None:
    for number in range(1, 21):
        both(whole, number * 100_000, 5000)


PYCA = """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives import keywrap, padding
    from cryptography.hazmat.primitives.ciphers import Cipher, aead, algorithms, modes
    data = bytes(range(256)) * 17
    for bits in (128, 192, 256):
        key = bytes(range(bits // 8))
        aes = algorithms.AES(key)
        for mode in (modes.ECB(), modes.CBC(key[:16]), modes.CTR(key[:16]), modes.CFB(key[:16])):
            one = Cipher(aes, mode).encryptor()
            sealed = one.update(data[:48]) + one.update(data[48:]) + one.finalize()
            two = Cipher(aes, mode).decryptor()
            assert two.update(sealed) + two.finalize() == data
            print(sealed.hex())
        one = Cipher(aes, modes.GCM(key[:12])).encryptor()
        one.authenticate_additional_data(b"aad")
        sealed = one.update(data[:5]) + one.update(data[5:]) + one.finalize()
        print(sealed.hex(), one.tag.hex())
        two = Cipher(aes, modes.GCM(key[:12], one.tag)).decryptor()
        two.authenticate_additional_data(b"other")
        two.update(sealed)
        try:
            two.finalize()
        except InvalidTag:
            print("refused")
        box = aead.AESGCM(key).encrypt(key[:12], data, b"aad")
        assert aead.AESGCM(key).decrypt(key[:12], box, b"aad") == data
        box2 = aead.AESCCM(key, tag_length=8).encrypt(key[:13], data, b"aad")
        assert aead.AESCCM(key, tag_length=8).decrypt(key[:13], box2, b"aad") == data
        try:
            aead.AESCCM(key, tag_length=8).decrypt(key[:13], box2, b"wrong")
        except InvalidTag:
            print("refused")
        print(box.hex(), box2.hex())
        wrapped = keywrap.aes_key_wrap(key, key + key)
        assert keywrap.aes_key_unwrap(key, wrapped) == key + key
        print(wrapped.hex(), keywrap.aes_key_wrap_with_padding(key, b"seven..").hex())
    box = aead.ChaCha20Poly1305(bytes(32)).encrypt(bytes(12), data, b"aad")
    assert aead.ChaCha20Poly1305(bytes(32)).decrypt(bytes(12), box, b"aad") == data
    one = Cipher(algorithms.ChaCha20(bytes(32), bytes(16)), None).encryptor()
    print(box.hex(), one.update(data[:7]).hex(), one.update(data).hex())
    xts = Cipher(algorithms.AES(bytes(range(64))), modes.XTS(bytes(16))).encryptor()
    print(xts.update(data[:333]).hex())
    wrong = Cipher(algorithms.AES(bytes(16)), modes.CBC(bytes(16))).decryptor()
    wrong.update(b"seven..")
    try:
        wrong.finalize()
    except ValueError as error:
        print(error)
"""


def test_pycas_wheel(whole: Host) -> None:
    said = whole.python(PYCA)
    assert said == whole.python(PYCA, OPENSSL_CONF="/dev/null")
    assert said.count("refused") == 6
    whole.python(PYCA, fails=True, CRYPTOFD_DISABLE="software,kernel")


@pytest.mark.parametrize("cipher", ["-aes-256-cbc", "-aes-128-ctr", "-des3", "-chacha20"])
def test_openssl_enc(whole: Host, cipher: str) -> None:
    sealing = (
        "openssl",
        "enc",
        cipher,
        "-pass",
        "pass:secret",
        "-S",
        "0011223344556677",
        "-pbkdf2",
    )
    data = bytes(range(256)) * 999
    sealed = whole.run(*sealing, given=data)
    assert sealed == whole.run(*sealing, given=data, OPENSSL_CONF="/dev/null")
    assert whole.run(*sealing, "-d", given=sealed) == data
    whole.run(*sealing, given=data, fails=True, CRYPTOFD_DISABLE="software,kernel")
