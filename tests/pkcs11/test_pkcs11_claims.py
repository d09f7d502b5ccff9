"""C_GetMechanismInfo says what is so: whatever it claims is tried once, on both slots."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from ctypes import byref, c_char, c_ubyte, c_ulong
from typing import Any, NamedTuple

import pytest
from raw import (
    CRYPTO,
    KEYS,
    Ccm,
    ChaChaPoly,
    Ctr,
    Ecdh,
    Failed,
    Gcm,
    GcmMessage,
    Hkdf,
    Module,
    Oaep,
    Pss,
    RawMechanism,
    Session,
    mechanism,
    name_of,
    number,
    template,
)

P256 = bytes.fromhex("06082a8648ce3d030107")
P384 = bytes.fromhex("06052b81040022")
ED25519 = bytes.fromhex("06032b6570")
X25519 = bytes.fromhex("06032b656e")
#: Of 3.2, which the constants of PyKCS11 lack.
ML_KEM_GEN, ML_KEM, ML_DSA_GEN, ML_DSA = 0xF, 0x17, 0x1C, 0x1D

FLAGS = {
    "MESSAGE_ENCRYPT": 0x2, "MESSAGE_DECRYPT": 0x4, "MULTI_MESSAGE": 0x20, "ENCRYPT": 0x100,
    "DECRYPT": 0x200, "DIGEST": 0x400, "SIGN": 0x800, "VERIFY": 0x2000, "GENERATE": 0x8000,
    "GENERATE_KEY_PAIR": 0x10000, "WRAP": 0x20000, "UNWRAP": 0x40000, "DERIVE": 0x80000,
    "ENCAPSULATE": 0x10000000, "DECAPSULATE": 0x20000000,
}  # fmt: skip
#: What a curve's mechanism may claim besides.
CURVES = 0x100000 | 0x800000 | 0x1000000 | 0x4000000


class Info(ctypes.Structure):
    _fields_ = [("least", c_ulong), ("most", c_ulong), ("flags", c_ulong)]


class Pair(NamedTuple):
    public: int
    private: int


class Randoms(ctypes.Structure):
    _fields_ = [
        ("client", ctypes.c_char_p), ("client_length", c_ulong),
        ("server", ctypes.c_char_p), ("server_length", c_ulong),
    ]  # fmt: skip


class Master(ctypes.Structure):
    _fields_ = [("randoms", Randoms), ("version", ctypes.c_void_p), ("hash", c_ulong)]


class Extended(ctypes.Structure):
    _fields_ = [
        ("hash", c_ulong), ("session", ctypes.c_char_p), ("length", c_ulong),
        ("version", ctypes.c_void_p),
    ]  # fmt: skip


class Kdf(ctypes.Structure):
    _fields_ = [
        ("hash", c_ulong), ("label", ctypes.c_char_p), ("label_length", c_ulong),
        ("randoms", Randoms), ("context", ctypes.c_char_p), ("context_length", c_ulong),
    ]  # fmt: skip


class Material(ctypes.Structure):
    _fields_ = [
        ("handles", c_ulong * 4), ("client_iv", ctypes.c_void_p), ("server_iv", ctypes.c_void_p)
    ]  # fmt: skip


class Keys(ctypes.Structure):
    _fields_ = [
        ("mac_bits", c_ulong), ("key_bits", c_ulong), ("iv_bits", c_ulong), ("export", c_ubyte),
        ("randoms", Randoms), ("returned", ctypes.c_void_p), ("hash", c_ulong),
    ]  # fmt: skip


class Finished(ctypes.Structure):
    _fields_ = [("hash", c_ulong), ("length", c_ulong), ("side", c_ulong)]


def claims(module: Module, slot: int) -> dict[int, int]:
    """Flags by mechanism."""
    count = c_ulong()
    module.ok("GetMechanismList", slot, None, byref(count))
    kinds = (c_ulong * count.value)()
    module.ok("GetMechanismList", slot, kinds, byref(count))
    found = {}
    for kind in kinds:
        info = Info()
        module.ok("GetMechanismInfo", slot, int(kind), byref(info))
        assert info.least <= info.most, name(kind)
        found[int(kind)] = info.flags
    return found


def name(kind: int) -> str:
    """CKM_... without CKM_."""
    from raw import MORE, constants

    low = constants()
    for one in (*dir(low), *MORE):
        if one.startswith("CKM_") and number(one) == kind:
            return one.removeprefix("CKM_")
    return {ML_KEM: "ML_KEM", ML_DSA: "ML_DSA"}.get(kind, hex(kind))


class Tried:
    """Keys of each kind, made once, and an attempt for each flag."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.made: dict[str, Any] = {}
        self.randoms = Randoms(b"c" * 32, 32, b"s" * 32, 32)

    def once(self, what: str, make: Callable[[], Any]) -> Any:
        if what not in self.made:
            self.made[what] = make()
        return self.made[what]

    def secret(self, kind: str, length: int) -> int:
        usages = {
            f"CKA_{usage}": True
            for usage in ("ENCRYPT", "DECRYPT", "SIGN", "VERIFY", "WRAP", "UNWRAP", "DERIVE")
        }
        return int(
            self.once(
                f"{kind}{length}",
                lambda: self.session.secret(kind, bytes(range(length)), **usages),
            )
        )

    def pair(self, kind: str | int, **said: Any) -> Pair:
        def make() -> Pair:
            handles = c_ulong(), c_ulong()
            usages = {
                "RSA_PKCS_KEY_PAIR_GEN": ("ENCRYPT VERIFY WRAP", "DECRYPT SIGN UNWRAP"),
                "EC_MONTGOMERY_KEY_PAIR_GEN": ("", "DERIVE"),
            }.get(str(kind).removeprefix("CKM_"), ("VERIFY", "SIGN"))
            if kind == ML_KEM_GEN:
                usages = ("", "")
            if kind == "CKM_EC_KEY_PAIR_GEN":
                usages = ("VERIFY", "SIGN DERIVE")
            public, private = ({f"CKA_{one}": True for one in some.split()} for some in usages)
            array, count = template({**said, **public})
            if isinstance(kind, int):
                # ML-KEM-768 and ML-DSA-65.
                array, count = template({"CKA_PARAMETER_SET": 2})
            self.session.ok(
                "GenerateKeyPair", byref(mechanism(kind)), array, count, *template(private),
                byref(handles[0]), byref(handles[1]),
            )  # fmt: skip
            return Pair(handles[0].value, handles[1].value)

        return self.once(str(kind), make)  # type: ignore[no-any-return]

    def key(self, what: str) -> tuple[int, int]:
        """Those that encrypt, verify and wrap, and that do the contrary."""
        if "RSA" in what:
            return self.pair("CKM_RSA_PKCS_KEY_PAIR_GEN", CKA_MODULUS_BITS=2048)
        if what.startswith(("ECDSA", "ECDH")):
            return self.pair("CKM_EC_KEY_PAIR_GEN", CKA_EC_PARAMS=P256)
        if what == "EDDSA":
            return self.pair("CKM_EC_EDWARDS_KEY_PAIR_GEN", CKA_EC_PARAMS=ED25519)
        if what == "ML_DSA":
            return self.pair(ML_DSA_GEN)
        if what == "ML_KEM":
            return self.pair(ML_KEM_GEN)
        if what == "AES_XTS":
            one = self.secret("CKK_AES_XTS", 64)
        elif what.startswith("AES"):
            one = self.secret("CKK_AES", 32)
        elif what.startswith("CHACHA20"):
            one = self.secret("CKK_CHACHA20", 32)
        elif what.startswith("DES3"):
            one = self.secret("CKK_DES3", 24)
        elif what.startswith("HKDF"):
            one = self.secret("CKK_HKDF", 32)
        else:
            one = self.secret("CKK_GENERIC_SECRET", 48)
        return one, one

    def parameter(self, what: str) -> Any:
        if what == "AES_GCM":
            return Gcm(bytes(12), 12, 96, None, 0, 128)
        if what == "AES_CCM":
            return Ccm(16, bytes(12), 12, None, 0, 16)
        if what == "CHACHA20_POLY1305":
            return ChaChaPoly(bytes(12), 12, None, 0)
        if what == "AES_CTR":
            return Ctr(128, (c_ubyte * 16)())
        if what == "RSA_PKCS_OAEP":
            return Oaep(number("CKM_SHA256"), 2, 1, None, 0)
        if what.endswith("_PSS"):
            sizes = {
                "SHA1": ("CKM_SHA_1", 1, 20), "SHA224": ("CKM_SHA224", 5, 28),
                "SHA256": ("CKM_SHA256", 2, 32), "SHA384": ("CKM_SHA384", 3, 48),
                "SHA512": ("CKM_SHA512", 4, 64), "SHA3_224": ("CKM_SHA3_224", 6, 28),
                "SHA3_256": ("CKM_SHA3_256", 7, 32), "SHA3_384": ("CKM_SHA3_384", 8, 48),
                "SHA3_512": ("CKM_SHA3_512", 9, 64), "RSA": ("CKM_SHA256", 2, 32),
            }  # fmt: skip
            kind, mgf, salt = sizes[what.split("_RSA")[0].split("_PKCS")[0]]
            return Pss(number(kind), mgf, salt)
        if what.endswith("_GENERAL"):
            return 8
        if what.startswith(("AES_CBC", "AES_CFB", "AES_XTS", "AES_OFB")):
            return bytes(16)
        if what.startswith("DES3_CBC"):
            return bytes(8)
        if what == "TLS_MAC":
            return Finished(number("CKM_SHA256"), 12, 1)
        return None

    def data(self, what: str) -> bytes:
        if what == "RSA_X_509":
            return bytes(1) + b"1" * 255
        if what.startswith("RSA_PKCS_PSS") or what == "ECDSA":
            return bytes(32)
        return bytes(16)

    def how(self, kind: int) -> RawMechanism:
        return mechanism(kind, self.parameter(name(kind)))

    def attempt(self, kind: int, flag: str) -> None:
        what, session = name(kind), self.session
        data = self.data(what)
        if flag == "DIGEST":
            assert session.digest(self.how(kind), data)
        elif flag in ("ENCRYPT", "DECRYPT"):
            encrypts, decrypts = self.key(what)
            if flag == "ENCRYPT":
                assert session.encrypt(self.how(kind), encrypts, data) != data
            else:
                sealed = session.encrypt(self.how(kind), encrypts, data)
                assert session.decrypt(self.how(kind), decrypts, sealed) == data
        elif flag in ("SIGN", "VERIFY"):
            verifies, signs = self.key(what)
            signature = session.sign(self.how(kind), signs, data)
            if flag == "VERIFY":
                session.verify(self.how(kind), verifies, signature, data)
        elif flag in ("WRAP", "UNWRAP"):
            wraps, unwraps = self.key(what)
            key = self.once("wrapped", lambda: session.secret(
                "CKK_AES", bytes(range(32)), CKA_EXTRACTABLE=True, CKA_SENSITIVE=False
            ))  # fmt: skip
            wrapped = session.wrap(self.how(kind), wraps, key)
            if flag == "UNWRAP":
                back = session.unwrap(
                    self.how(kind), unwraps, wrapped, CKA_CLASS=number("CKO_SECRET_KEY"),
                    CKA_KEY_TYPE=number("CKK_AES"), CKA_EXTRACTABLE=True, CKA_SENSITIVE=False,
                )  # fmt: skip
                assert session.get(back, "CKA_VALUE") == bytes(range(32))
        elif flag == "GENERATE":
            length = {"DES3_KEY_GEN": 24, "AES_XTS_KEY_GEN": 64}.get(what, 32)
            assert session.generate(kind, CKA_VALUE_LEN=length)  # type: ignore[arg-type]
        elif flag == "GENERATE_KEY_PAIR":
            self.generated(kind, what)
        elif flag == "DERIVE":
            self.derived(kind, what)
        else:
            self.message(kind, what, flag)

    def generated(self, kind: int, what: str) -> None:
        said = {
            "RSA_PKCS_KEY_PAIR_GEN": {"CKA_MODULUS_BITS": 2048},
            "ECDSA_KEY_PAIR_GEN": {"CKA_EC_PARAMS": P384},
            "EC_EDWARDS_KEY_PAIR_GEN": {"CKA_EC_PARAMS": ED25519},
            "EC_MONTGOMERY_KEY_PAIR_GEN": {"CKA_EC_PARAMS": X25519},
        }
        if what in said:
            assert self.session.pair(f"CKM_{what}", said[what])
        else:
            assert self.pair(kind)

    def derived(self, kind: int, what: str) -> None:
        base, size = self.key(what)[1], {"CKA_VALUE_LEN": 32}
        parameter: Any
        if what == "ECDH1_DERIVE":
            point = self.session.get(self.key(what)[0], "CKA_EC_POINT")
            parameter = Ecdh(1, 0, None, len(point), point)
        elif what.startswith("HKDF"):
            parameter = Hkdf(True, True, number("CKM_SHA256"), 1, None, 0, 0, b"i", 1)
        elif what == "TLS_KDF":
            parameter = Kdf(number("CKM_SHA256"), b"label", 5, self.randoms, None, 0)
        elif "EXTENDED" in what:
            parameter, size = Extended(number("CKM_SHA256"), b"h" * 32, 32, None), {}
        elif "MASTER" in what:
            parameter, size = Master(self.randoms, None, number("CKM_SHA256")), {}
        else:
            out = Material()
            ivs = (c_char * 16)(), (c_char * 16)()
            out.client_iv, out.server_iv = map(ctypes.addressof, ivs)
            parameter = Keys(
                0, 128, 32, 0, self.randoms, ctypes.addressof(out), number("CKM_SHA256")
            )
            how = mechanism(kind, parameter)
            said = template({"CKA_KEY_TYPE": number("CKK_AES"), "CKA_ENCRYPT": True})
            self.session.ok("DeriveKey", byref(how), base, *said, None)
            assert all(out.handles[2:])
            return
        assert self.session.derive(mechanism(kind, parameter), base, **size)

    def message(self, kind: int, what: str, flag: str) -> None:
        class CcmMessage(ctypes.Structure):
            _fields_ = [
                ("length", c_ulong), ("nonce", ctypes.c_void_p), ("nonce_length", c_ulong),
                ("fixed", c_ulong), ("generator", c_ulong), ("mac", ctypes.c_void_p),
                ("mac_length", c_ulong),
            ]  # fmt: skip

        class ChaChaMessage(ctypes.Structure):
            _fields_ = [
                ("nonce", ctypes.c_void_p), ("bits", c_ulong), ("tag", ctypes.c_void_p)
            ]  # fmt: skip

        iv, tag = (c_char * 12)(), (c_char * 16)()
        places = ctypes.addressof(iv), ctypes.addressof(tag)
        parameter: Any = {
            "AES_GCM": GcmMessage(places[0], 12, 0, 0, places[1], 128),
            "AES_CCM": CcmMessage(16, places[0], 12, 0, 0, places[1], 16),
            "CHACHA20_POLY1305": ChaChaMessage(places[0], 12, places[1]),
        }[what]
        key, data = self.key(what)[0], bytes(16)
        given = byref(parameter), ctypes.sizeof(parameter), None, 0
        sealed = b""
        for way in ("Encrypt", "Decrypt"):
            text = data if way == "Encrypt" else sealed
            self.session.ok(f"Message{way}Init", byref(mechanism(kind)), key)
            for _ in range(2 if flag == "MULTI_MESSAGE" and way == "Encrypt" else 1):
                result = self.session.out(f"{way}Message", *given, text, len(text), room=16)
            self.session.ok(f"Message{way}Final")
            if way == "Encrypt":
                sealed = result
        assert result == data != sealed


@pytest.fixture(scope="module", params=[CRYPTO, KEYS], ids=["cryptofd", "cryptofd keys"])
def tried(request: pytest.FixtureRequest, module: Module) -> Iterator[tuple[Module, int, Tried]]:
    one = module.session(request.param)
    yield module, request.param, Tried(one)
    one.close()


def test_what_is_claimed_can_be_done(tried: tuple[Module, int, Tried]) -> None:
    module, slot, attempts = tried
    wrong, count = [], 0
    for kind, flags in claims(module, slot).items():
        left = flags
        for flag, bit in FLAGS.items():
            left &= ~bit
            # Encapsulation is 3.2's: test_lattices.
            if not flags & bit or flag in ("ENCAPSULATE", "DECAPSULATE"):
                continue
            count += 1
            try:
                attempts.attempt(kind, flag)
            except (Failed, AssertionError) as error:
                wrong.append(f"{name(kind)} {flag}: {error}")
        left &= ~CURVES
        if left:
            wrong.append(f"{name(kind)} claims what nobody tries: {left:#x}")
    assert not wrong, "\n".join(wrong)
    assert count > 150


def test_what_is_not_claimed_is_refused(tried: tuple[Module, int, Tried]) -> None:
    """So that a program which asks first and one that does not hear the same."""
    module, slot, attempts = tried
    session = attempts.session
    wrong = []
    for kind, flags in claims(module, slot).items():
        for flag, function in (
            ("ENCRYPT", "EncryptInit"), ("DECRYPT", "DecryptInit"), ("SIGN", "SignInit"),
            ("VERIFY", "VerifyInit"),
        ):  # fmt: skip
            if flags & FLAGS[flag] or kind in (ML_KEM, ML_KEM_GEN, ML_DSA_GEN):
                continue
            key = attempts.key(name(kind))[flag in ("DECRYPT", "SIGN")]
            rv = session.call(function, byref(attempts.how(kind)), key)
            if rv == 0:
                wrong.append(f"{name(kind)}: C_{function} answers CKR_OK")
            elif name_of(rv) not in ("CKR_MECHANISM_INVALID", "CKR_KEY_TYPE_INCONSISTENT"):
                wrong.append(f"{name(kind)}: C_{function} answers {name_of(rv)}")
    assert not wrong, "\n".join(wrong)
