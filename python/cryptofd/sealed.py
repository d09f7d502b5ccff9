"""Files of any length under a brokered key: every segment is sealed by a worker, none here.

No key, not even one for this file alone, is ever in this process: what the key allows (usage,
expiry, number of uses) holds for each segment, and a key that is deleted opens no file.

A file is a header and segments. Integers are little-endian; the header counts to the first segment.

====== ==========================================================
bytes  header
====== ==========================================================
8      ``CFDSEAL1``
2      bytes of the header, all of it
4      bytes of a segment as it lies in the file; the last may be shorter
1      version of the key
16     id of that version of the key
32     random: which file this is
1, n   bytes of the algorithm's name, the name
2, n   bytes of the key's reference when it was written, the reference (UTF-8)
====== ==========================================================

A segment is what SEAL returns (version, iv, ciphertext, tag) under the associated data
SHA-256(header, caller's aad), the segment's number (8 bytes), 1 for the last segment or 0 (1 byte).
So segments can be neither changed, moved, repeated, cut off nor put into another file, and each is
verified before any of it is given out.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Any

import cryptofd
from cryptofd.errors import BadTag, CryptoFDError, InvalidArgument
from cryptofd.streaming import Source, fill, unverified

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from cryptofd import CryptoFD
    from cryptofd.broker.client import Connection, Key

MAGIC = b"CFDSEAL1"
#: Bytes of a segment in the file: what goes into a record itself, both ways.
SEGMENT = 65536
#: The most that a reader takes.
MOST = 16 << 20

_FIXED = struct.Struct("<8sHIB16s32s")
_BEGIN = struct.Struct("<8sH")


class Sealed:
    """One file's key and associated data."""

    def __init__(self, session: CryptoFD, header: bytes, segment: int, more: int, aad: Buffer):
        self.session = session
        self.header = header
        self.segment = segment
        self.more = more
        self._version = _FIXED.unpack_from(header)[3]
        with cryptofd.open("sha256") as hashing:
            hashing.update(header)
            hashing.update(aad)
            self._file = hashing.digest()

    def _aad(self, number: int, last: bool) -> bytes:
        return self._file + number.to_bytes(8, "little") + bytes([last])

    def capacity(self, number: int) -> int:
        """Bytes of plaintext that segment `number` holds."""
        return self.segment - self.more - (0 if number else len(self.header))

    def seal(self, number: int, last: bool, data: Buffer, out: memoryview) -> int:
        """Writes a segment of the file to `out`; its size."""
        box = self.session.seal(data, aad=self._aad(number, last))
        if len(box) != memoryview(data).nbytes + self.more:
            raise CryptoFDError(errno.EPROTO, "the worker's answer is no sealed segment")
        out[: len(box)] = box
        return len(box)

    def unseal(self, number: int, last: bool, data: Buffer, out: memoryview) -> int:
        """Writes a segment's plaintext to `out`; its size."""
        try:
            view = memoryview(data)
            if view.nbytes < self.more or view[0] != self._version:
                raise BadTag(errno.EBADMSG, "shorter than what sealing adds, or of another version")
            plain = self.session.unseal(data, aad=self._aad(number, last))
            if len(plain) != view.nbytes - self.more:
                raise BadTag(errno.EBADMSG, "not the size of a segment's plaintext")
        except BadTag:
            raise unverified(number, last) from None
        out[: len(plain)] = plain
        return len(plain)


def fresh(
    reference: str, aad: Buffer, options: dict[str, Any], broker: Connection | None = None
) -> Sealed:
    """For a new file, under the newest version of the key."""
    broker = broker or cryptofd.connect()
    key = broker.keys.info(reference)
    session, more = _session(key, reference, "encrypt", options, broker)
    algorithm = key.algorithm.encode()
    name = f"cryptofd:{key.owner.removeprefix('uid:')}/{key.label}".encode()
    rest = bytes([len(algorithm)]) + algorithm + len(name).to_bytes(2, "little") + name
    header = _FIXED.pack(
        MAGIC, _FIXED.size + len(rest), SEGMENT, key.version, bytes.fromhex(key.id), os.urandom(32)
    )
    return Sealed(session, header + rest, SEGMENT, more, aad)


def found(
    source: Source,
    reference: str,
    aad: Buffer,
    options: dict[str, Any],
    broker: Connection | None = None,
) -> Sealed:
    """For the file whose header `source` stands at, if it was sealed by that key."""
    header, segment, version, key_id, name = _header(source)
    broker = broker or cryptofd.connect()
    by = f"it was sealed by {name}, version {version} (key {key_id})"
    try:
        key = broker.keys.info(reference, version=version)
    except CryptoFDError as error:
        if error.errno != errno.ENOKEY:
            raise
        raise CryptoFDError(
            errno.ENOKEY, f"{by}, and there is no version {version} of {reference} that you may use"
        ) from None
    if key.id != key_id:
        raise BadTag(errno.EBADMSG, f"{by}, not by {reference} (key {key.id}), or changed")
    session, more = _session(key, reference, "decrypt", options, broker)
    return Sealed(session, header, segment, more, aad)


def _session(
    key: Key, reference: str, usage: str, options: dict[str, Any], broker: Connection
) -> tuple[CryptoFD, int]:
    """A session that may do this and nothing else, and how many bytes sealing adds."""
    about = next(a for a in cryptofd.algorithms() if a.name == key.algorithm)
    if about.kind != "aead":
        raise InvalidArgument(
            errno.EINVAL,
            f"{reference} is of {key.algorithm}, which seals nothing; an AEAD does: "
            "cryptofd key generate LABEL -a 'gcm(aes)'",
        )
    session = cryptofd.open(
        key.algorithm, key=reference, version=key.version, usage=[usage], broker=broker, **options
    )
    return session, 1 + about.iv_default + session.tag_size


def _header(source: Source) -> tuple[bytes, int, int, str, str]:
    """The header, and of what is in it: bytes of a segment, version, id and name of the key."""
    begin = bytearray(_BEGIN.size)
    size = fill(source, memoryview(begin))
    if begin[: len(MAGIC)] != MAGIC:
        raise BadTag(
            errno.EBADMSG,
            "no key of the broker's sealed this; what `encrypt -k file:` or Tink made needs the "
            "bytes of its key: file:PATH, env:NAME or fd:N",
        )
    whole = _BEGIN.unpack(begin)[1] if size == len(begin) else 0
    header = bytearray(max(whole, len(begin)))
    header[: len(begin)] = begin
    if size < len(begin) or fill(source, memoryview(header)[len(begin) :]) < whole - len(begin):
        raise BadTag(errno.EBADMSG, "cut short within its header")
    try:
        _, _, segment, version, key_id, _ = _FIXED.unpack_from(header)
        rest = bytes(header[_FIXED.size :])
        name = rest[1 + rest[0] :]
        reference = name[2:].decode()
        if int.from_bytes(name[:2], "little") != len(name) - 2 or not reference.isprintable():
            raise ValueError
        if not 2 * whole < segment <= MOST or not version:
            raise ValueError
    except (struct.error, ValueError, IndexError):
        raise BadTag(errno.EBADMSG, "its header was changed") from None
    return bytes(header), segment, version, key_id.hex(), reference
