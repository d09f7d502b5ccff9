"""Keys from passwords: PBES2 and PBMAC1 with PBKDF2 (RFC 8018)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cryptofd.doors.nss import der
from cryptofd.doors.nss.arguments import (
    a,
    anything,
    as_bytes,
    integer,
    octets_or_text,
    takes,
)
from cryptofd.doors.nss.data import Line, SecItem, hex_lines, indented, label
from cryptofd.doors.nss.digests import random_bytes
from cryptofd.doors.nss.error import failure, told
from cryptofd.doors.nss.keys import PK11SymKey, with_parity
from cryptofd.doors.nss.mechanisms import (
    Mechanism,
    constants,
    digest_size,
    get_pad_mechanism,
    mechanism_of_tag,
    served,
)
from cryptofd.doors.nss.oids import TAGS, Oid, dotted, find, tag_of
from cryptofd.errors import CryptoFDError

if TYPE_CHECKING:
    from cryptofd.doors.nss.slots import PK11Slot

_PBKDF2 = TAGS["SEC_OID_PKCS5_PBKDF2"]
_PBES2 = TAGS["SEC_OID_PKCS5_PBES2"]
_PBMAC1 = TAGS["SEC_OID_PKCS5_PBMAC1"]
_USUAL_SALT = 16


class AlgorithmID:
    """An algorithm and its parameters (RFC 5280, section 4.1.1.2)."""

    __slots__ = ("_oid", "_parameters")

    _oid: bytes
    _parameters: bytes

    @classmethod
    def of(cls, content: bytes) -> AlgorithmID:
        """Of what is in the sequence that it is written in."""
        self = object.__new__(cls)
        oid = der.element(content, der.OBJECT_IDENTIFIER)
        self._oid, self._parameters = oid.content, oid.rest
        return self

    @property
    def id_oid(self) -> SecItem:
        """The identifier's DER, without tag and length."""
        return SecItem.of(self._oid)

    @property
    def id_tag(self) -> int:
        """The identifier's tag (SEC_OID_*); SEC_OID_UNKNOWN where it has none."""
        return tag_of(self._oid)

    @property
    def id_str(self) -> str:
        """The identifier's description, or its dotted decimal."""
        known = find(self.id_tag)
        return known.description if self.id_tag and known else f"OID.{dotted(self._oid)}"

    @property
    def parameters(self) -> SecItem:
        """The parameters' DER."""
        return SecItem.of(self._parameters)

    def _parts(self) -> tuple[AlgorithmID, AlgorithmID]:
        """Of PBES2 and PBMAC1: how the key is derived, and what it is for."""
        if self.id_tag not in {_PBES2, _PBMAC1}:
            raise failure("SEC_ERROR_INVALID_ALGORITHM")
        kdf = der.element(der.element(self._parameters, der.SEQUENCE).content, der.SEQUENCE)
        purpose = der.element(kdf.rest, der.SEQUENCE)
        return AlgorithmID.of(kdf.content), AlgorithmID.of(purpose.content)

    def _derivation(self) -> tuple[bytes, int, int, AlgorithmID]:
        """Of PBKDF2: salt, iterations, bytes of the key, the function."""
        salt = der.element(der.element(self._parameters, der.SEQUENCE).content, der.OCTET_STRING)
        iterations = der.element(salt.rest, der.INTEGER)
        size = der.element(iterations.rest, der.INTEGER)
        function = der.element(size.rest, der.SEQUENCE)
        return (
            salt.content,
            int.from_bytes(iterations.content, "big"),
            int.from_bytes(size.content, "big"),
            AlgorithmID.of(function.content),
        )

    @takes(lambda value, name, place: value, anything, optional=1, keywords=True)
    def get_pbe_crypto_mechanism(
        self, alg_id: PK11SymKey, padded: bool = True
    ) -> tuple[int, SecItem]:
        """The mechanism, one that pads unless it is not wanted, and the parameter, for a context of
        the key that ``PK11Slot.pbe_key_gen`` made of it."""
        a(PK11SymKey)(alg_id, "get_pbe_crypto_mechanism", 1)
        a(bool)(padded, "get_pbe_crypto_mechanism", 2)
        _, purpose = self._parts()
        mechanism = mechanism_of_tag(purpose.id_tag)
        if mechanism is None:
            raise failure("SEC_ERROR_INVALID_ALGORITHM")
        return (get_pad_mechanism(mechanism) if padded else mechanism), purpose.iv()

    @takes(octets_or_text)
    def get_pbe_iv(self, password: str | bytes) -> SecItem:
        """The initialization vector: PBES2 keeps it among the parameters."""
        return self._parts()[1].iv()

    def iv(self) -> SecItem:
        """Of a cipher: the initialization vector that is its parameter."""
        if not self._parameters:
            return SecItem()
        return SecItem.of(der.element(self._parameters, der.OCTET_STRING).content)

    def key(self, slot: PK11Slot, password: bytes) -> PK11SymKey:
        """The key of a password."""
        import cryptofd

        kdf, purpose = self._parts()
        if kdf.id_tag != _PBKDF2:
            raise failure("SEC_ERROR_INVALID_ALGORITHM")
        salt, iterations, size, function = kdf._derivation()
        known = _served(function.id_tag)
        wanted = _served(purpose.id_tag)
        if known is None or wanted is None or known.kind != "mac":
            raise failure("SEC_ERROR_INVALID_ALGORITHM")
        try:
            with cryptofd.open(f"pbkdf2({known.algorithm})", key=password) as session:
                data = session.derive(size, salt=salt, iterations=iterations)
        except CryptoFDError as error:
            raise told(error) from error
        if wanted.key in {"DES", "DES3"}:
            data = with_parity(data)
        number = constants()["CKM_PKCS5_PBKD2"]
        return PK11SymKey.of(slot, number, wanted.key, data, ["CKA_SIGN"])

    @takes(integer, optional=1, keywords=True)
    def format_lines(self, level: int = 0) -> list[Line]:
        """Lines for ``indented_format``."""
        lines: list[Line] = [label(level, "Algorithm", self.id_str)]
        if self.id_tag == _PBKDF2:
            salt, iterations, size, function = self._derivation()
            shown = ":".join(f"{octet:02x}" for octet in salt)
            lines += [
                (level, "Parameters:"),
                label(level + 1, "Salt", shown),
                label(level + 1, "Iteration Count", iterations),
                label(level + 1, "Key Length", size),
                (level + 1, "KDF Algorithm:"),
                *function.format_lines(level + 2),
            ]
        elif self.id_tag in {_PBES2, _PBMAC1}:
            kdf, purpose = self._parts()
            lines += [
                (level, "Encryption:" if self.id_tag == _PBES2 else "MAC:"),
                (level + 1, "KDF:"),
                *kdf.format_lines(level + 2),
                (level + 1, "Cipher:"),
                *purpose.format_lines(level + 2),
            ]
        if self._parameters not in {b"", der.encoded(der.NULL, b"")}:
            lines += [(level, "Raw Parameter Data:"), *hex_lines(level + 1, self._parameters)]
        return lines

    @takes(integer, integer, optional=2, keywords=True)
    def format(self, level: int = 0, indent_len: int = 4) -> str:
        """Its lines, indented."""
        return indented(self.format_lines(level), indent_len)

    def __str__(self) -> str:
        return self.format()


def _served(tag: int) -> Mechanism | None:
    number = mechanism_of_tag(tag)
    return served(number) if number is not None else None


def _size(oid: Oid, known: Mechanism) -> int:
    """Bytes of the key of a cipher or MAC."""
    if known.kind == "mac":
        return digest_size(known.algorithm)
    named = re.search(r"AES_(\d+)", oid.name)
    return int(named[1]) // 8 if named else {"DES": 8, "DES3": 24}[known.key]


def _salt(salt: Any) -> bytes:
    if salt is None:
        return random_bytes(_USUAL_SALT)
    try:
        return as_bytes(salt)
    except TypeError:
        raise TypeError("must be SecItem, buffer object or None") from None


@takes(
    lambda value, name, place: tag_of(value),
    lambda value, name, place: tag_of(value),
    lambda value, name, place: tag_of(value),
    integer,
    integer,
    lambda value, name, place: _salt(value),
    optional=6,
    keywords=True,
)
def create_pbev2_algorithm_id(
    pbe_alg: int | str | SecItem = "SEC_OID_PKCS5_PBKDF2",
    cipher_alg: int | str | SecItem = "SEC_OID_AES_256_CBC",
    prf_alg: int | str | SecItem = "SEC_OID_HMAC_SHA1",
    key_length: int = 0,
    iterations: int = 100,
    salt: SecItem | bytes | None = None,
) -> AlgorithmID:
    """How a key is made of a password, for ``PK11Slot.pbe_key_gen``: cipher (or MAC), function,
    bytes of the key (0: as many as the cipher takes), iterations, salt (None: a random one). NSS's
    100 iterations are few: ask for some hundred thousands."""
    scheme, purpose, function = (tag_of(each) for each in (pbe_alg, cipher_alg, prf_alg))
    known, oid, prf = _served(purpose), find(purpose), find(function)
    if (
        scheme not in {_PBKDF2, _PBES2, _PBMAC1}
        or iterations <= 0
        or known is None
        or oid is None
        or prf is None
        or known.kind not in {"cipher", "mac"}
    ):
        raise failure("SEC_ERROR_INVALID_ALGORITHM")
    authenticates = known.kind == "mac" or scheme == _PBMAC1
    size = key_length or _size(oid, known)
    iv = known.iv if known.kind == "cipher" else 8
    parameter = der.encoded(der.OCTET_STRING, random_bytes(iv)) if iv else b""
    made_by = _served(function)
    none = b"" if made_by and made_by.kind == "mac" else der.encoded(der.NULL, b"")
    kdf = der.sequence(
        der.encoded(der.OCTET_STRING, _salt(salt)),
        der.number(iterations),
        der.number(size),
        der.sequence(der.identifier(prf.dotted), none),
    )
    names = {tag: find(tag) for tag in (_PBKDF2, _PBMAC1 if authenticates else _PBES2)}
    pbkdf2, whole = (each.dotted for each in names.values() if each)
    return AlgorithmID.of(
        der.identifier(whole)
        + der.sequence(
            der.sequence(der.identifier(pbkdf2), kdf),
            der.sequence(der.identifier(oid.dotted), parameter),
        )
    )


@takes(a(AlgorithmID))
def param_from_algid(algid: AlgorithmID) -> SecItem:
    """The parameter of a cipher's identifier: its initialization vector."""
    return algid.iv()
