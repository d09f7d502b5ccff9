"""Mechanisms (CKM_*): which algorithm of the table each one is, and what NSS knows of them all.

What a session serves comes from the table: its names, numbers and sizes. The rest of a mechanism is
PKCS#11's: whether it pads, what its parameter is, which type of key it takes.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptofd.doors.nss.arguments import a_or_none, takes, text, unsigned
from cryptofd.doors.nss.constants import ATTRIBUTES, MECHANISMS
from cryptofd.doors.nss.data import SecItem
from cryptofd.doors.nss.oids import all_known

if TYPE_CHECKING:
    from cryptofd.description import Algorithm

#: What no mechanism is.
INVALID: Final = 0xFFFFFFFF


@dataclass(frozen=True)
class Mechanism:
    """A mechanism that is served.

    ``kind``: as in the table, or ``sign`` (with a pair), ``pairgen``, ``keygen``, ``digest-key`` (a
    key that is another's digest) and ``extract`` (a key that is a piece of another). ``key``: the
    type of key that it takes.
    ``algorithm``: the table's name.
    """

    name: str
    number: int
    kind: str
    key: str
    algorithm: str = ""
    #: It pads with PKCS#7.
    pads: bool = False
    #: Each block by itself, where the table has the chained mode only.
    by_block: bool = False
    #: The length of the MAC is the parameter.
    general: bool = False
    iv: int = 0
    block: int = 0

    @property
    def operations(self) -> frozenset[str]:
        """What a context of it may do."""
        return _OPERATIONS.get(self.kind, frozenset())


_OPERATIONS: Final = {
    "cipher": frozenset({"CKA_ENCRYPT", "CKA_DECRYPT"}),
    "aead": frozenset({"CKA_ENCRYPT", "CKA_DECRYPT"}),
    "mac": frozenset({"CKA_SIGN", "CKA_VERIFY"}),
}

#: The bytes that a key of a type has; any number where it is not here.
KEY_SIZES: Final = {
    "AES": (16, 24, 32),
    "AES-XTS": (32, 64),
    "DES": (8,),
    "DES3": (16, 24),
    "CHACHA20": (32,),
}

#: What is one of the table's algorithms in other clothes: mechanism, algorithm, type of key.
#: Single DES is triple DES with one key three times (SP 800-67, 3.2); the electronic codebook
#: is the chained mode of one block with a zero IV.
_DRESSED: Final = (
    Mechanism("CKM_AES_CBC_PAD", 0, "cipher", "AES", "cbc(aes)", pads=True),
    Mechanism("CKM_DES3_CBC_PAD", 0, "cipher", "DES3", "cbc(des3_ede)", pads=True),
    Mechanism("CKM_DES3_ECB", 0, "cipher", "DES3", "cbc(des3_ede)", by_block=True),
    Mechanism("CKM_DES_CBC", 0, "cipher", "DES", "cbc(des3_ede)"),
    Mechanism("CKM_DES_CBC_PAD", 0, "cipher", "DES", "cbc(des3_ede)", pads=True),
    Mechanism("CKM_DES_ECB", 0, "cipher", "DES", "cbc(des3_ede)", by_block=True),
    Mechanism("CKM_MD5_KEY_DERIVATION", 0, "digest-key", "GENERIC", "md5"),
    Mechanism("CKM_SHA1_KEY_DERIVATION", 0, "digest-key", "GENERIC", "sha1"),
    Mechanism("CKM_SHA224_KEY_DERIVATION", 0, "digest-key", "GENERIC", "sha224"),
    Mechanism("CKM_SHA256_KEY_DERIVATION", 0, "digest-key", "GENERIC", "sha256"),
    Mechanism("CKM_SHA384_KEY_DERIVATION", 0, "digest-key", "GENERIC", "sha384"),
    Mechanism("CKM_SHA512_KEY_DERIVATION", 0, "digest-key", "GENERIC", "sha512"),
    Mechanism("CKM_EXTRACT_KEY_FROM_KEY", 0, "extract", "GENERIC"),
    Mechanism("CKM_AES_KEY_GEN", 0, "keygen", "AES"),
    Mechanism("CKM_DES_KEY_GEN", 0, "keygen", "DES"),
    Mechanism("CKM_DES2_KEY_GEN", 0, "keygen", "DES3"),
    Mechanism("CKM_DES3_KEY_GEN", 0, "keygen", "DES3"),
    Mechanism("CKM_GENERIC_SECRET_KEY_GEN", 0, "keygen", "GENERIC"),
    Mechanism("CKM_RSA_PKCS_KEY_PAIR_GEN", 0, "pairgen", "RSA", "rsa"),
    Mechanism("CKM_EC_KEY_PAIR_GEN", 0, "pairgen", "EC", "ecdsa"),
)

#: PKCS#11's, where python-nss has no name and the table no algorithm: marked extensions.
EXTENSIONS: Final = {
    "CKM_AES_XTS_KEY_GEN": 0x1072,
    "CKM_CHACHA20_KEY_GEN": 0x1225,
    "CKM_SHA512_256_HMAC_GENERAL": 0x4E,
    "CKM_SHA3_224_HMAC_GENERAL": 0x2B7,
    "CKM_SHA3_256_HMAC_GENERAL": 0x2B2,
    "CKM_SHA3_384_HMAC_GENERAL": 0x2C2,
    "CKM_SHA3_512_HMAC_GENERAL": 0x2D2,
    "CKM_AES_CMAC_GENERAL": 0x108B,
    "CKM_EC_EDWARDS_KEY_PAIR_GEN": 0x1055,
}

#: What signs with a pair of which type, or (RSA) wraps.
_SIGNATURES: Final = {
    "CKM_RSA_PKCS(_OAEP)?|CKM_SHA[0-9_]+_RSA_PKCS(_PSS)?": "RSA",
    "CKM_ECDSA(_SHA[0-9_]+)?": "EC",
    "CKM_EDDSA": "ED",
}

#: The table's kinds that a context, a key or a digest is made of.
_KINDS: Final = frozenset({"hash", "mac", "cipher", "aead", "wrap"})


def _key_type(algorithm: Algorithm) -> str:
    if algorithm.kind == "mac" and algorithm.name.startswith("hmac("):
        return "GENERIC"
    if algorithm.name == "xts(aes)":
        return "AES-XTS"
    if "(aes)" in algorithm.name:
        return "AES"
    if "des3" in algorithm.name:
        return "DES3"
    return "CHACHA20" if "chacha20" in algorithm.name else "GENERIC"


@functools.cache
def _table() -> dict[str, Algorithm]:
    from cryptofd import algorithms

    return {algorithm.name: algorithm for algorithm in algorithms()}


@functools.cache
def _served() -> dict[int, Mechanism]:
    found = []
    for algorithm in _table().values():
        named = algorithm.names["pkcs11"]
        # What authenticates one message with one key has no place in a context that begins anew.
        if not named or algorithm.kind not in _KINDS or algorithm.one_message:
            continue
        iv = algorithm.iv_default if algorithm.iv else 0
        mechanism = Mechanism(
            named["name"],
            named["id"],
            algorithm.kind,
            _key_type(algorithm),
            algorithm.name,
            iv=iv,
            block=algorithm.block_size,
        )
        found.append(mechanism)
        general = {**MECHANISMS, **EXTENSIONS}.get(f"{mechanism.name}_GENERAL")
        if general is not None:
            found.append(
                Mechanism(
                    f"{mechanism.name}_GENERAL",
                    general,
                    "mac",
                    mechanism.key,
                    algorithm.name,
                    general=True,
                    block=algorithm.block_size,
                )
            )
    for each in _DRESSED:
        dressed = _table().get(each.algorithm)
        block = dressed.block_size if dressed else 0
        iv = block if each.kind == "cipher" and not each.by_block else 0
        found.append(
            Mechanism(
                **{**vars(each), "number": constants()[each.name], "iv": iv, "block": block},
            )
        )
    found += [
        Mechanism(name, number, "sign", key)
        for name, number in constants().items()
        for pattern, key in _SIGNATURES.items()
        if re.fullmatch(pattern, name)
    ]
    edwards = EXTENSIONS["CKM_EC_EDWARDS_KEY_PAIR_GEN"]
    found.append(Mechanism("CKM_EC_EDWARDS_KEY_PAIR_GEN", edwards, "pairgen", "ED", "ed25519"))
    for name, key in (("CKM_AES_XTS_KEY_GEN", "AES-XTS"), ("CKM_CHACHA20_KEY_GEN", "CHACHA20")):
        found.append(Mechanism(name, EXTENSIONS[name], "keygen", key))
    return {mechanism.number: mechanism for mechanism in found}


def served(number: int) -> Mechanism | None:
    """The mechanism of this number; None where no session serves it."""
    return _served().get(number)


def of_algorithm(algorithm: str) -> Mechanism | None:
    """The mechanism of a symmetric key that is one of the table's algorithms itself."""
    found = (
        each
        for each in _served().values()
        if each.algorithm == algorithm and each.kind in _KINDS - {"hash"}
    )
    return next(found, None)


def digest_size(algorithm: str) -> int:
    """Bytes of a hash's digest."""
    return _table()[algorithm].digest_size


@functools.cache
def constants() -> dict[str, int]:
    """Every mechanism that has a name here: the table's, python-nss's, the extensions."""
    named = {
        mechanism["name"]: mechanism["id"]
        for algorithm in _table().values()
        for mechanism in [algorithm.names["pkcs11"], *algorithm.names["mechanisms"]]
        if isinstance(mechanism, dict)
    }
    return {**MECHANISMS, **EXTENSIONS, **named, "CKM_INVALID_MECHANISM": INVALID}


# What NSS answers for mechanisms that no session serves: facts of its tables of names.
def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NO_IV: Final = _words(
    """
    CKM_RC4 CKM_PBE_SHA1_RC4_128 CKM_PBE_SHA1_RC4_40 CKM_RSA_9796 CKM_RSA_PKCS
    CKM_RSA_X_509 CKM_BATON_WRAP CKM_SKIPJACK_WRAP CKM_CAMELLIA_ECB CKM_CAST128_ECB
    CKM_CAST3_ECB CKM_CAST_ECB CKM_IDEA_ECB CKM_RC2_ECB CKM_RC5_ECB CKM_SEED_ECB
    """
)
_IV_16: Final = _words(
    """
    CKM_CAMELLIA_CBC CKM_CAMELLIA_CBC_PAD CKM_SEED_CBC CKM_SEED_CBC_PAD
    """
)
_BLOCK_16: Final = _IV_16 | {"CKM_CAMELLIA_ECB", "CKM_SEED_ECB"}
_BATON_16: Final = _words(
    """
    CKM_BATON_CBC128 CKM_BATON_COUNTER CKM_BATON_ECB128 CKM_BATON_SHUFFLE
    CKM_JUNIPER_CBC128 CKM_JUNIPER_COUNTER CKM_JUNIPER_ECB128 CKM_JUNIPER_SHUFFLE
    """
)
_IV_24: Final = _BATON_16 | _words(
    """
    CKM_BATON_ECB96 CKM_SKIPJACK_CBC64 CKM_SKIPJACK_CFB16 CKM_SKIPJACK_CFB32
    CKM_SKIPJACK_CFB64 CKM_SKIPJACK_CFB8 CKM_SKIPJACK_ECB64 CKM_SKIPJACK_OFB64
    """
)
_BLOCK_OF: Final = {
    "CKM_BATON_ECB96": 12,
    "CKM_SKIPJACK_CFB16": 4,
    "CKM_SKIPJACK_CFB32": 4,
    "CKM_SKIPJACK_CFB8": 4,
    "CKM_PBE_SHA1_RC4_128": 0,
    "CKM_PBE_SHA1_RC4_40": 0,
    "CKM_RC4": 0,
    # As long as the key, which nobody gave.
    "CKM_RSA_9796": -1,
    "CKM_RSA_PKCS": -1,
    "CKM_RSA_X_509": -1,
}
_USUAL: Final = 8


@functools.cache
def _names() -> dict[int, str]:
    return {number: name for name, number in constants().items()}


@takes(unsigned)
def get_iv_length(mechanism: int) -> int:
    """Bytes of the mechanism's initialization vector; 0 where it takes none, 8 where nothing is
    known."""
    known = served(mechanism)
    if known and known.kind in {"cipher", "aead"}:
        return known.iv
    name = _names().get(mechanism, "")
    if name in _NO_IV:
        return 0
    return 16 if name in _IV_16 else 24 if name in _IV_24 else _USUAL


@takes(unsigned, a_or_none(SecItem), optional=1, keywords=True)
def get_block_size(mechanism: int, sec_param: SecItem | None = None) -> int:
    """Bytes of the mechanism's block; 8 where nothing is known."""
    known = served(mechanism)
    if known and known.kind in {"cipher", "aead"}:
        return known.block
    name = _names().get(mechanism, "")
    return 16 if name in _BLOCK_16 | _BATON_16 else _BLOCK_OF.get(name, _USUAL)


@takes(unsigned)
def get_pad_mechanism(mechanism: int) -> int:
    """The mechanism that pads, of one that does not; the same where there is no such."""
    name = _names().get(mechanism, "")
    return MECHANISMS.get(f"{name}_PAD", mechanism)


@functools.cache
def _mechanisms_by_tag() -> dict[int, int]:
    # A mechanism without a name, NSS's own, stands in the table as a number.
    named = constants()
    return {
        oid.tag: int(oid.mechanism, 16) if oid.mechanism[0] == "0" else named[oid.mechanism]
        for oid in all_known()
        if oid.mechanism
    }


@functools.cache
def _tags_by_mechanism() -> dict[int, int]:
    return {mechanism: tag for tag, mechanism in _mechanisms_by_tag().items()}


def mechanism_of_tag(tag: int) -> int | None:
    """The mechanism of an identifier's tag; None where it has none."""
    return _mechanisms_by_tag().get(tag)


# NSS means to say which, but its format is unknown to CPython and stands there as it is.
@takes(unsigned)
def algtag_to_mechanism(algtag: int) -> int:
    """The mechanism of an identifier's tag; KeyError where it has none."""
    try:
        return _mechanisms_by_tag()[algtag]
    except KeyError:
        raise KeyError("algtag not found: %#lx") from None


@takes(unsigned)
def mechanism_to_algtag(mechanism: int) -> int:
    """The tag of a mechanism's identifier, that of the longest key; KeyError where it has none."""
    try:
        return _tags_by_mechanism()[mechanism]
    except KeyError:
        raise KeyError("mechanism not found: %#lx") from None


@takes(unsigned)
def key_mechanism_type_name(mechanism: int) -> str:
    """The name of a mechanism (CKM_*); KeyError where it has none."""
    try:
        return _names()[mechanism]
    except KeyError:
        raise KeyError(f"mechanism name not found: {mechanism}") from None


@functools.cache
def _mechanisms_by_name() -> dict[str, int]:
    return {
        key: number
        for name, number in constants().items()
        for key in (name.lower(), name.removeprefix("CKM_").lower())
    }


@takes(text)
def key_mechanism_type_from_name(name: str) -> int:
    """The mechanism of a name, in any case, with or without CKM_; KeyError where there is none."""
    try:
        return _mechanisms_by_name()[name.lower()]
    except KeyError:
        raise KeyError(f"mechanism name not found: {name}") from None


_ATTRIBUTE_NAMES: Final = {number: name for name, number in ATTRIBUTES.items()}
_ATTRIBUTES_BY_NAME: Final = {
    key: number
    for name, number in ATTRIBUTES.items()
    for key in (name.lower(), name.removeprefix("CKA_").lower())
}


@takes(unsigned)
def pk11_attribute_type_name(type: int) -> str:
    """The name of an attribute (CKA_*); KeyError where it has none."""
    try:
        return _ATTRIBUTE_NAMES[type]
    except KeyError:
        raise KeyError(f"attribute type name not found: {type}") from None


@takes(text)
def pk11_attribute_type_from_name(name: str) -> int:
    """The attribute of a name, in any case, with or without CKA_; KeyError where there is none."""
    try:
        return _ATTRIBUTES_BY_NAME[name.lower()]
    except KeyError:
        raise KeyError(f"attribute name not found: {name}") from None
