"""Object identifiers by NSS's tag, name, dotted decimal, DER or the short name of an attribute."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from cryptofd.doors.nss.arguments import anything, takes
from cryptofd.doors.nss.data import SecItem, type_name
from cryptofd.doors.nss.error import failure
from cryptofd.doors.nss.oid_table import EXTENSIONS, OIDS

_PREFIX: Final = "SEC_OID_"
_UNKNOWN: Final = 0

#: The short names of the attributes of a distinguished name (RFC 4519, RFC 2253), by NSS's.
_ATTRIBUTES: Final = {
    "cn": "AVA_COMMON_NAME",
    "st": "AVA_STATE_OR_PROVINCE",
    "o": "AVA_ORGANIZATION_NAME",
    "ou": "AVA_ORGANIZATIONAL_UNIT_NAME",
    "dnqualifier": "AVA_DN_QUALIFIER",
    "c": "AVA_COUNTRY_NAME",
    "serialnumber": "AVA_SERIAL_NUMBER",
    "l": "AVA_LOCALITY",
    "title": "AVA_TITLE",
    "sn": "AVA_SURNAME",
    "givenname": "AVA_GIVEN_NAME",
    "initials": "AVA_INITIALS",
    "generationqualifier": "AVA_GENERATION_QUALIFIER",
    "dc": "AVA_DC",
    "mail": "RFC1274_MAIL",
    "uid": "RFC1274_UID",
    "postaladdress": "AVA_POSTAL_ADDRESS",
    "postalcode": "AVA_POSTAL_CODE",
    "postofficebox": "AVA_POST_OFFICE_BOX",
    "houseidentifier": "AVA_HOUSE_IDENTIFIER",
    "e": "PKCS9_EMAIL_ADDRESS",
}


class Oid(NamedTuple):
    """An object identifier that NSS has a tag for."""

    tag: int
    name: str
    description: str
    dotted: str
    mechanism: str


def _read(table: str) -> list[Oid]:
    rows = (line.split("|", 4) for line in table.strip().splitlines())
    return [Oid(int(tag), _PREFIX + name, *rest) for tag, name, *rest in rows]


_ROWS: Final = [*_read(OIDS), *_read(EXTENSIONS)]
_BY_TAG: Final = {oid.tag: oid for oid in _ROWS}
_BY_DOTTED: Final = {oid.dotted: oid for oid in reversed(_ROWS) if oid.dotted}

#: The constants: tags by name.
TAGS: Final = {oid.name: oid.tag for oid in _ROWS}
_BY_NAME: Final = {
    key: tag
    for name, tag in TAGS.items()
    for key in (name.lower(), name.removeprefix(_PREFIX).lower())
}


def dotted(der: bytes) -> str:
    """The dotted decimal of an identifier's DER, without tag and length (X.690, 8.19)."""
    numbers: list[int] = []
    number = 0
    for octet in der:
        number = number << 7 | octet & 0x7F
        if not octet & 0x80:
            numbers.append(number)
            number = 0
    if not numbers or der[-1] & 0x80:
        return ""
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, [first, numbers[0] - 40 * first, *numbers[1:]]))


def _tag(oid: Any) -> int:
    if isinstance(oid, str):
        # C ends a text at the null character.
        oid = oid.partition("\0")[0]
        if oid.lower() in _ATTRIBUTES:
            return TAGS[_PREFIX + _ATTRIBUTES[oid.lower()]]
        if re.fullmatch(r"(oid\.)?\d+(\.\d+)*\s*", oid, re.IGNORECASE):
            decimal = re.sub(r"(?i)^oid\.", "", oid)
            if decimal != decimal.strip() or int(decimal.partition(".")[0]) > 2:
                raise ValueError(f'failed to convert oid string "{oid}" to SECItem')
            found = _BY_DOTTED.get(decimal)
            return found.tag if found else _UNKNOWN
        if oid.lower() not in _BY_NAME:
            raise KeyError(f"oid tag name not found: {oid}")
        return _BY_NAME[oid.lower()]
    if isinstance(oid, int):
        if not -(1 << 63) <= oid < 1 << 63:
            raise OverflowError("Python int too large to convert to C long")
        # A tag is a C enumeration: of a longer number, its low bits.
        return (oid + (1 << 31)) % (1 << 32) - (1 << 31)
    if isinstance(oid, SecItem):
        found = _BY_DOTTED.get(dotted(oid.data))
        return found.tag if found else _UNKNOWN
    raise TypeError(f"oid must be a string, an integer, or a SecItem, not {type_name(oid)}")


def tag_of(oid: Any) -> int:
    """The tag of an identifier: tag, name, dotted decimal, SecItem or bytes of DER, as ``cn``;
    SEC_OID_UNKNOWN where there is none."""
    return _tag(SecItem.of(oid) if isinstance(oid, bytes) else oid)


def find(tag: int) -> Oid | None:
    """The identifier of a tag."""
    return _BY_TAG.get(tag)


def _known(oid: Any) -> int:
    tag = _tag(oid)
    if tag == _UNKNOWN:
        raise ValueError("unable to convert to known OID")
    return tag


def _row(tag: int) -> Oid:
    try:
        return _BY_TAG[tag]
    except KeyError:
        raise failure("SEC_ERROR_UNRECOGNIZED_OID") from None


def all_known() -> list[Oid]:
    """Every identifier, by tag."""
    return _ROWS


def description(tag: int) -> str:
    """What a message calls a tag."""
    oid = _BY_TAG.get(tag)
    return oid.description if oid else f"unknown({tag & 0xFFFFFFFF:#x})"


def is_known(tag: int) -> bool:
    """Whether NSS has this tag."""
    return tag in _BY_TAG


@takes(anything)
def oid_str(oid: int | str | SecItem) -> str:
    """The description of an identifier: tag, name, dotted decimal, DER, or as ``cn``."""
    return _row(_known(oid)).description


@takes(anything)
def oid_tag(oid: int | str | SecItem) -> int:
    """NSS's tag (SEC_OID_*) of an identifier."""
    return _known(oid)


@takes(anything)
def oid_tag_name(oid: int | str | SecItem) -> str:
    """The name of the tag of an identifier."""
    tag = _known(oid)
    if tag not in _BY_TAG:
        raise KeyError("oid tag not found: %#x")
    return _BY_TAG[tag].name


@takes(anything)
def oid_dotted_decimal(oid: int | str | SecItem) -> str:
    """An identifier in dotted decimal, after ``OID.``."""
    if isinstance(oid, SecItem):
        decimal = dotted(oid.data)
        return f"OID.{decimal}" if decimal else ""
    decimal = _row(_known(oid)).dotted
    return f"OID.{decimal}" if decimal else ""
