"""Symmetric keys: imported, generated, derived, unwrapped, or the broker's; and their sessions."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from cryptofd._core import HashFactory
from cryptofd.doors.nss.arguments import a, a_or_none, full_name, integer, takes, unsigned
from cryptofd.doors.nss.constants import ATTRIBUTES
from cryptofd.doors.nss.data import Line, SecItem, hex_lines, indented, label
from cryptofd.doors.nss.digests import factory, random_bytes
from cryptofd.doors.nss.error import NSPRError, failure, told
from cryptofd.doors.nss.mechanisms import (
    KEY_SIZES,
    Mechanism,
    constants,
    key_mechanism_type_name,
    of_algorithm,
    served,
)
from cryptofd.doors.nss.slots import PK11Slot
from cryptofd.errors import CryptoFDError

if TYPE_CHECKING:
    from cryptofd import CryptoFD
    from cryptofd._core import Hasher
    from cryptofd.broker.terms import Key

#: What softoken lets a secret key do of itself (PKCS#11 leaves it to the token).
_ALWAYS: Final = frozenset({"CKA_ENCRYPT", "CKA_DECRYPT", "CKA_WRAP", "CKA_UNWRAP"})

#: What the broker lets a key do, in PKCS#11's words.
_USAGES: Final = {
    "encrypt": "CKA_ENCRYPT",
    "decrypt": "CKA_DECRYPT",
    "sign": "CKA_SIGN",
    "verify": "CKA_VERIFY",
    "wrap": "CKA_WRAP",
    "unwrap": "CKA_UNWRAP",
}

_OPERATIONS: Final = {number: name for name, number in ATTRIBUTES.items()}


def operation_name(operation: int) -> str:
    """The name of an operation (CKA_*), as far as it has one."""
    return _OPERATIONS.get(operation, "")


def _key_type(mechanism: int) -> str:
    known = served(mechanism)
    return known.key if known else "GENERIC"


class PK11SymKey:
    """A symmetric key: its bytes, what it may do, and the sessions that compute with it."""

    __slots__ = (
        "__weakref__",
        "_brokered",
        "_data",
        "_mechanism",
        "_sessions",
        "_slot",
        "_usages",
        "kind",
    )

    _data: bytes
    #: Of a key of the broker's, what is told of it: there are no bytes here.
    _brokered: Key | None
    _mechanism: int
    _slot: PK11Slot
    _usages: frozenset[str]
    _sessions: dict[tuple[str, bool], CryptoFD | HashFactory]
    #: The type of key, as in the table of mechanisms.
    kind: str

    def __init__(self) -> None:
        raise TypeError(f"cannot create '{full_name(type(self))}' instances")

    @classmethod
    def of(
        cls, slot: PK11Slot, mechanism: int, kind: str, data: bytes, usages: Iterable[str]
    ) -> PK11SymKey:
        """Of bytes; NSPRError where their number does not fit the type."""
        sizes = KEY_SIZES.get(kind)
        if sizes and len(data) not in sizes:
            raise failure("SEC_ERROR_INVALID_KEY")
        self = object.__new__(cls)
        self._slot, self._mechanism, self.kind, self._data = slot, mechanism, kind, data
        self._usages = _ALWAYS | frozenset(usages)
        self._sessions = {}
        self._brokered = None
        return self

    @classmethod
    def brokered(cls, slot: PK11Slot, known: Mechanism, key: Key) -> PK11SymKey:
        """One of the broker's."""
        self = object.__new__(cls)
        self._slot, self._mechanism, self.kind, self._data = slot, known.number, known.key, b""
        self._usages = frozenset(_USAGES[usage] for usage in key.usage if usage in _USAGES)
        self._sessions = {}
        self._brokered = key
        return self

    @property
    def mechanism(self) -> int:
        """The mechanism that it was made for."""
        return self._mechanism

    @property
    def key_data(self) -> bytes:
        """Its bytes; NSPRError where they stay in the broker."""
        if self._brokered is not None:
            raise failure("SEC_ERROR_IO", f"{self._brokered.reference} does not leave the broker")
        return self._data

    @property
    def nickname(self) -> str | None:
        """The label of a key of the broker's. An extension."""
        return self._brokered.label if self._brokered else None

    @property
    def key_length(self) -> int:
        """How many bytes it has."""
        return self._brokered.bits // 8 if self._brokered else len(self._data)

    @property
    def slot(self) -> PK11Slot:
        """The slot that holds it."""
        return self._slot

    def may(self, operation: str) -> bool:
        """Whether it is for this operation (CKA_*)."""
        return operation in self._usages

    def session(self, mechanism: Mechanism, tag_size: int | None = None) -> CryptoFD:
        """The session that ciphers or wraps with this key; opened once, and kept."""
        import cryptofd

        key: bytes | str = self._material(mechanism)
        if isinstance(key, str):
            pass
        elif mechanism.key == "DES":
            key = key * 3
        elif mechanism.key == "DES3" and len(key) == 16:
            key = key + key[:8]
        wanted = (f"{mechanism.algorithm}/{tag_size}", mechanism.pads)
        session = self._sessions.get(wanted)
        if session is None:
            options: dict[str, Any] = {"padding": "pkcs7"} if mechanism.pads else {}
            if tag_size is not None:
                options["tag_size"] = tag_size
            session = cryptofd.open(mechanism.algorithm, key=key, **options)
            self._sessions[wanted] = session
        assert not isinstance(session, HashFactory)
        return session

    def _material(self, mechanism: Mechanism) -> bytes | str:
        """What a session is opened with: bytes, or the broker's reference."""
        if self._brokered is None:
            return self._data
        if mechanism.algorithm != self._brokered.algorithm:
            raise failure(
                "SEC_ERROR_INVALID_KEY",
                f"{self._brokered.reference} is a key for {self._brokered.algorithm}",
            )
        return self._brokered.reference

    def _authenticator(self, mechanism: Mechanism) -> CryptoFD | HashFactory:
        import cryptofd

        wanted = (mechanism.algorithm, False)
        session = self._sessions.get(wanted)
        if session is None:
            key = self._material(mechanism)
            if isinstance(key, str):
                session = cryptofd.open(mechanism.algorithm, key=key)
            else:
                session = HashFactory(mechanism.algorithm, key)
            self._sessions[wanted] = session
        return session

    def mac_size(self, mechanism: Mechanism) -> int:
        """Bytes of a whole MAC."""
        return self._authenticator(mechanism).digest_size

    def authenticate(self, mechanism: Mechanism) -> Hasher | CryptoFD:
        """A running MAC, of a session that is opened once and kept."""
        session = self._authenticator(mechanism)
        return session() if isinstance(session, HashFactory) else session.clone()

    @takes(unsigned, a_or_none(SecItem), unsigned, unsigned, integer)
    def derive(
        self,
        mechanism: int,
        sec_param: SecItem | None,
        target: int,
        operation: int,
        key_size: int,
    ) -> PK11SymKey:
        """A key that is made of this one: its digest (CKM_SHA256_KEY_DERIVATION and its like), or a
        piece of it (CKM_EXTRACT_KEY_FROM_KEY; the parameter is the first bit, a native unsigned
        long). Mechanisms whose parameter is an address in memory are refused."""
        known = served(mechanism)
        if known is None or known.kind not in {"digest-key", "extract"}:
            raise failure("SEC_ERROR_INVALID_ALGORITHM")
        kind = _key_type(target)
        size = key_size or (max(KEY_SIZES[kind]) if kind in {"DES", "DES3"} else 0)
        if known.kind == "digest-key":
            data = factory(known.algorithm).digest(self.key_data)
            size = size or len(data)
        else:
            param = sec_param.data if sec_param else b""
            if len(param) != struct.calcsize("L"):
                raise failure("SEC_ERROR_INVALID_ARGS")
            data = _bits(self.key_data, struct.unpack("L", param)[0], size * 8)
        if not 0 <= size <= len(data):
            raise failure("SEC_ERROR_BAD_DATA")
        data = data[: size or None]
        if kind in {"DES", "DES3"}:
            data = with_parity(data)
        return PK11SymKey.of(self._slot, target, kind, data, [operation_name(operation)])

    @takes(unsigned, a_or_none(SecItem), lambda value, name, place: value)
    def wrap_sym_key(
        self, mechanism: int, sec_param: SecItem | None, sym_key: PK11SymKey
    ) -> SecItem:
        """``sym_key`` under this key. CKM_AES_KEY_WRAP (RFC 3394), an extension, is made for that;
        the ciphers that NSS wraps with do not tell when a wrapped key was changed."""
        if not isinstance(sym_key, PK11SymKey):
            return a(PK11SymKey)(sym_key, "wrap_sym_key", 3)
        known = _wrapping(self, mechanism, "CKA_WRAP")
        data = sym_key.key_data
        try:
            if known.kind == "wrap":
                return SecItem.of(self.session(known).wrap(data))
            from cryptofd.doors.nss.contexts import cipher

            if not known.pads:
                data += bytes(-len(data) % known.block)
            running = cipher(self, known, "CKA_ENCRYPT", sec_param or SecItem())
            return SecItem.of(running.update(data) + running.finish())
        except CryptoFDError as error:
            raise told(error) from error

    @takes(unsigned, a_or_none(SecItem), a(SecItem), unsigned, unsigned, integer)
    def unwrap_sym_key(
        self,
        mechanism: int,
        sec_param: SecItem | None,
        wrapped_key: SecItem,
        target: int,
        operation: int,
        key_size: int,
    ) -> PK11SymKey:
        """The key that was wrapped under this one; of its bytes the first ``key_size``, or (0, or
        more than there are) all."""
        known = _wrapping(self, mechanism, "CKA_UNWRAP")
        try:
            if known.kind == "wrap":
                data = self.session(known).unwrap(wrapped_key.data)
            else:
                from cryptofd.doors.nss.contexts import cipher

                running = cipher(self, known, "CKA_DECRYPT", sec_param or SecItem())
                data = running.update(wrapped_key.data) + running.finish()
        except CryptoFDError as error:
            raise told(error) from error
        if key_size > 0:
            data = data[:key_size]
        return PK11SymKey.of(
            self._slot, target, _key_type(target), data, [operation_name(operation)]
        )

    @takes(integer, optional=1, keywords=True)
    def format_lines(self, level: int = 0) -> list[Line]:
        """Lines for ``indented_format``: the key's bytes among them."""
        name = key_mechanism_type_name(self._mechanism)
        lines = [
            label(level, "Mechanism", f"{name} ({self._mechanism:#x})"),
            label(level, "Key Length", self.key_length),
        ]
        try:
            lines += [(level, "Key Data:"), *hex_lines(level + 1, self.key_data)]
        except NSPRError as error:
            lines.append(label(level, "Key Data", error))
        return [*lines, (level, "PK11 Slot:"), *self._slot.format_lines(level + 1)]

    @takes(integer, integer, optional=2, keywords=True)
    def format(self, level: int = 0, indent_len: int = 4) -> str:
        """Its lines, indented."""
        return indented(self.format_lines(level), indent_len)

    def __str__(self) -> str:
        return self.format()


def _bits(data: bytes, first: int, count: int) -> bytes:
    """``count`` bits of ``data`` from the ``first``, as bytes."""
    after = len(data) * 8 - first - count
    if count <= 0 or after < 0:
        raise failure("SEC_ERROR_BAD_DATA")
    number = int.from_bytes(data, "big") >> after
    return (number & ((1 << count) - 1)).to_bytes(count // 8, "big")


def _wrapping(key: PK11SymKey, mechanism: int, operation: str) -> Mechanism:
    known = served(mechanism)
    if known is None or known.kind not in {"cipher", "wrap"}:
        raise failure("SEC_ERROR_INVALID_ALGORITHM")
    if known.key != key.kind or not key.may(operation):
        raise failure("SEC_ERROR_INVALID_KEY")
    return known


def fixed(slot: PK11Slot, nickname: str | None) -> tuple[PK11SymKey, ...]:
    """The broker's symmetric keys of this label, or all that this program may use."""
    import cryptofd

    try:
        with cryptofd.connect() as connection:
            listed = connection.keys.list()
    except CryptoFDError as error:
        raise told(error) from error
    found = []
    for key in listed:
        known = of_algorithm(key.algorithm)
        named = nickname is None or nickname in {key.label, key.reference}
        if known is not None and key.current and named:
            found.append(PK11SymKey.brokered(slot, known, key))
    return tuple(found)


def generated(slot: PK11Slot, mechanism: int, key_size: int) -> PK11SymKey:
    """A new key for a mechanism, of so many bytes."""
    known = served(mechanism)
    if known is None or known.kind in {"digest-key", "extract", "sign", "pairgen"}:
        raise failure("SEC_ERROR_INVALID_ALGORITHM")
    sizes = KEY_SIZES.get(known.key)
    if known.number == constants()["CKM_DES2_KEY_GEN"]:
        key_size = 16
    elif known.key in {"DES", "DES3"}:
        key_size = max(sizes or ())
    elif known.key == "CHACHA20":
        key_size = key_size or max(sizes or ())
    if key_size <= 0:
        raise failure("SEC_ERROR_BAD_DATA")
    if sizes and key_size not in sizes:
        raise failure("SEC_ERROR_INVALID_KEY")
    data = random_bytes(key_size)
    if known.key in {"DES", "DES3"}:
        data = with_parity(data)
    return PK11SymKey.of(slot, mechanism, known.key, data, ["CKA_SIGN"])


def with_parity(data: bytes) -> bytes:
    """Each octet with an odd number of bits, as DES has it (FIPS 46-3)."""
    return bytes(octet ^ (octet.bit_count() + 1) % 2 for octet in data)


@takes(a(PK11Slot), unsigned, unsigned, unsigned, a(SecItem), rest=True)
def import_sym_key(
    slot: PK11Slot,
    mechanism: int,
    origin: int,
    operation: int,
    key_data: SecItem,
    *user_data: Any,
) -> PK11SymKey:
    """A key of bytes, for a mechanism and an operation (CKA_*)."""
    return PK11SymKey.of(
        slot, mechanism, _key_type(mechanism), key_data.data, [operation_name(operation)]
    )
