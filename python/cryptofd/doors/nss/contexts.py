"""Contexts: an operation in several parts, in NSS's order of calls."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from cryptofd.doors.nss.arguments import a, a_or_none, octets, takes, unsigned
from cryptofd.doors.nss.data import SecItem
from cryptofd.doors.nss.digests import factory, random_bytes
from cryptofd.doors.nss.error import failure, told
from cryptofd.doors.nss.keys import PK11SymKey, operation_name
from cryptofd.doors.nss.library import nss_is_initialized
from cryptofd.doors.nss.mechanisms import (
    Mechanism,
    get_iv_length,
    mechanism_of_tag,
    served,
)
from cryptofd.errors import CryptoFDError

if TYPE_CHECKING:
    from cryptofd._core import CryptoFD, Hasher, Stream


class Cipher(Protocol):
    """A running encryption or decryption."""

    def update(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes: ...


class Taker(Protocol):
    """A running digest or MAC."""

    def update(self, data: bytes) -> None: ...
    def digest(self) -> bytes: ...


class _Whole:
    """A cipher without padding: whole blocks in, the same out."""

    def __init__(self, stream: Stream, mechanism: Mechanism) -> None:
        self._stream, self._mechanism = stream, mechanism

    def update(self, data: bytes) -> bytes:
        if len(data) % self._mechanism.block:
            # Each of softoken's ciphers has its own word for it.
            raise failure(_part_of_block(self._mechanism))
        return self._stream.update(data)

    def finish(self) -> bytes:
        return self._stream.finish()


class _ByBlock:
    """Each block by itself, of a session that chains them."""

    def __init__(self, session: CryptoFD, mechanism: Mechanism, operation: str) -> None:
        self._many = session.encrypt_many if operation == "CKA_ENCRYPT" else session.decrypt_many
        self._mechanism = mechanism

    def update(self, data: bytes) -> bytes:
        block = self._mechanism.block
        if len(data) % block:
            raise failure(_part_of_block(self._mechanism))
        zero = bytes(block)
        blocks = (data[start : start + block] for start in range(0, len(data), block))
        return b"".join(self._many([(each, zero) for each in blocks]))

    def finish(self) -> bytes:
        return b""


class _Padded:
    """A cipher that pads: any length in; the last block waits."""

    def __init__(self, stream: Stream, mechanism: Mechanism, operation: str) -> None:
        self._stream = stream
        self._block = mechanism.block if operation == "CKA_DECRYPT" else 1
        self._decrypts = operation == "CKA_DECRYPT"
        self._begun = False

    def update(self, data: bytes) -> bytes:
        if self._decrypts and (not data or len(data) % self._block):
            raise failure("SEC_ERROR_BAD_DATA")
        self._begun = True
        return self._stream.update(data)

    def finish(self) -> bytes:
        if self._decrypts and not self._begun:
            return b""
        return self._stream.finish()


class _Streaming:
    """A stream cipher: any length in, the same out."""

    def __init__(self, stream: Stream) -> None:
        self.update = stream.update
        self.finish = stream.finish


class _AtOnce:
    """What is computed when all is there: of an AEAD, no plaintext leaves before the tag is known
    to be right; of a mode with one message, its length decides."""

    def __init__(self, compute: Callable[[bytes], bytes]) -> None:
        self._compute = compute
        self._data = bytearray()

    def update(self, data: bytes) -> bytes:
        self._data += data
        return b""

    def finish(self) -> bytes:
        return self._compute(bytes(self._data))


def _part_of_block(mechanism: Mechanism) -> str:
    return "SEC_ERROR_INPUT_LEN" if mechanism.key == "AES" else "SEC_ERROR_INVALID_ARGS"


def cipher(key: PK11SymKey, mechanism: Mechanism, operation: str, param: SecItem) -> Cipher:
    """A running cipher; NSPRError for a key or a parameter that does not fit."""
    if key.kind != mechanism.key or not key.may(operation):
        raise failure("SEC_ERROR_INVALID_KEY")
    direction = "encrypt" if operation == "CKA_ENCRYPT" else "decrypt"
    if mechanism.kind == "aead":
        from cryptofd.doors.nss.aead import parameters

        given = parameters(mechanism, param)
        session = key.session(mechanism, given.tag_length)
        if given.iv is None:
            sealing = session.seal if direction == "encrypt" else session.unseal
            return _AtOnce(lambda data: sealing(data, given.aad))
        once = session.encrypt if direction == "encrypt" else session.decrypt
        return _AtOnce(lambda data: once(data, iv=given.iv, aad=given.aad))
    iv = _iv(mechanism, param)
    session = key.session(mechanism)
    if mechanism.by_block:
        return _ByBlock(session, mechanism, operation)
    if mechanism.algorithm == "xts(aes)":
        once = session.encrypt if direction == "encrypt" else session.decrypt
        return _AtOnce(lambda data: once(data, iv=iv))
    stream = session.stream(direction, iv=iv or None)  # type: ignore[arg-type]
    if mechanism.pads:
        return _Padded(stream, mechanism, operation)
    return _Streaming(stream) if _is_stream(mechanism) else _Whole(stream, mechanism)


def _is_stream(mechanism: Mechanism) -> bool:
    return mechanism.algorithm.partition("(")[0] in {"ctr", "cfb", "chacha20"}


#: A tag is a C enumeration: of a longer number, its low bits.
_TAG = 0xFFFFFFFF

#: CK_AES_CTR_PARAMS: how many bits of the block count, and the block.
_CTR_PARAMS = struct.Struct("L16s")


def _iv(mechanism: Mechanism, param: SecItem) -> bytes:
    if not mechanism.iv:
        return b""
    iv = param.data
    if mechanism.algorithm == "ctr(aes)" and len(iv) == _CTR_PARAMS.size:
        bits, iv = _CTR_PARAMS.unpack(iv)
        if bits != 128:
            raise failure("SEC_ERROR_BAD_DATA", f"a counter of {bits} bits: 128 is what counts")
    if len(iv) < mechanism.iv:
        raise failure("SEC_ERROR_BAD_DATA" if mechanism.key == "AES" else "SEC_ERROR_INVALID_KEY")
    return iv[: mechanism.iv]


class _Running:
    """What a context has under way."""

    def __init__(
        self,
        cipher: Cipher | None = None,
        hasher: Taker | None = None,
        size: int | None = None,
    ) -> None:
        self.cipher, self.hasher, self.size = cipher, hasher, size


def _finish(cipher: Cipher) -> bytes:
    try:
        return cipher.finish()
    except CryptoFDError as error:
        raise told(error) from error


class PK11Context:
    """A digest, a MAC or a cipher in parts.

    ``digest_op``, or ``cipher_op``, as often as there is data; ``digest_final`` gives what is left,
    the digest or the MAC, and ends it; ``digest_begin`` then begins anew, as at first. As in
    NSS, it does so after ``digest_op`` and ``digest_final`` only.
    """

    __slots__ = ("__weakref__", "_begin", "_fresh", "_operation", "_running")

    _begin: Callable[[], _Running]
    _operation: str
    _running: _Running | None
    _fresh: bool

    @classmethod
    def _of(cls, operation: str, begin: Callable[[], _Running]) -> PK11Context:
        self = object.__new__(cls)
        self._operation, self._begin = operation, begin
        self._running, self._fresh = begin(), True
        return self

    def _under_way(self, *operations: str) -> _Running:
        if self._running is None or self._operation not in operations:
            raise failure("SEC_ERROR_LIBRARY_FAILURE")
        return self._running

    def _no_verification(self) -> None:
        if self._operation == "CKA_VERIFY":
            raise failure("SEC_ERROR_INVALID_ARGS")

    @takes(octets)
    def cipher_op(self, data: bytes) -> bytes:
        """What ``data`` gives, as far as it is known yet."""
        cipher = self._under_way("CKA_ENCRYPT", "CKA_DECRYPT").cipher
        assert cipher is not None
        try:
            return cipher.update(data)
        except CryptoFDError as error:
            raise told(error) from error

    @takes()
    def digest_begin(self) -> None:
        """Begins anew, unless nothing was done yet. A verification is begun once."""
        if self._fresh:
            return
        if self._operation == "CKA_VERIFY":
            raise failure("SEC_ERROR_LIBRARY_FAILURE")
        self._running, self._fresh = self._begin(), True

    @takes(octets)
    def digest_op(self, data: bytes) -> None:
        """Takes more of what is digested or authenticated."""
        if data:
            self._fresh = False
            hasher = self._under_way("CKA_DIGEST", "CKA_SIGN", "CKA_VERIFY").hasher
            assert hasher is not None
            try:
                hasher.update(data)
            except CryptoFDError as error:
                raise told(error) from error

    @takes(a(PK11SymKey))
    def digest_key(self, sym_key: PK11SymKey) -> None:
        """Takes the bytes of a key for more of what is digested."""
        self._fresh = False
        hasher = self._under_way("CKA_DIGEST").hasher
        assert hasher is not None
        hasher.update(sym_key.key_data)

    @takes()
    def digest_final(self) -> bytes:
        """The digest, the MAC, or what a cipher still had; the operation is over. As in
        python-nss, a verification has nobody to tell it a MAC, and fails."""
        self._fresh = False
        self._no_verification()
        running = self._under_way("CKA_DIGEST", "CKA_SIGN", "CKA_ENCRYPT", "CKA_DECRYPT")
        self._running = None
        if running.hasher is not None:
            try:
                return running.hasher.digest()[: running.size]
            except CryptoFDError as error:
                raise told(error) from error
        assert running.cipher is not None
        return _finish(running.cipher)

    @takes()
    def finalize(self) -> None:
        """Ends the operation; what is left is thrown away. Wrong padding is told."""
        self._no_verification()
        running, self._running = self._running, None
        if running is not None and isinstance(running.cipher, _Padded):
            _finish(running.cipher)

    @takes(lambda value, name, place: a(PK11Context)(value, name, place))
    def clone_context(self, context: PK11Context) -> PK11Context:
        """A copy of this context (whatever is given) in the middle of a digest. As in NSS, others
        cannot be copied."""
        if self._operation != "CKA_DIGEST":
            raise failure("SEC_ERROR_NO_MEMORY")
        if self._running is None:
            raise failure("SEC_ERROR_LIBRARY_FAILURE")
        other = object.__new__(PK11Context)
        other._operation, other._begin, other._fresh = self._operation, self._begin, self._fresh
        hasher = cast("Hasher", self._running.hasher)
        other._running = _Running(hasher=hasher.copy())
        return other


@takes(unsigned)
def create_digest_context(hash_alg: int) -> PK11Context:
    """A context for a hash, by its tag (SEC_OID_*)."""
    number = mechanism_of_tag(hash_alg & _TAG)
    known = served(number) if number is not None else None
    if number is None or not nss_is_initialized():
        raise failure("SEC_ERROR_NO_MODULE")
    if known is None or known.kind != "hash":
        raise failure("SEC_ERROR_INVALID_ALGORITHM")
    algorithm = known.algorithm
    return PK11Context._of("CKA_DIGEST", lambda: _Running(hasher=factory(algorithm)()))


def _mac_size(mechanism: Mechanism, param: SecItem, size: int) -> int:
    if not mechanism.general:
        return size
    if len(param.data) != struct.calcsize("L"):
        raise failure("SEC_ERROR_BAD_DATA")
    wanted: int = struct.unpack("L", param.data)[0]
    if not 0 < wanted <= size:
        raise failure("SEC_ERROR_BAD_DATA")
    return wanted


@takes(unsigned, unsigned, a(PK11SymKey), a_or_none(SecItem), optional=1, keywords=True)
def create_context_by_sym_key(
    mechanism: int, operation: int, sym_key: PK11SymKey, sec_param: SecItem | None = None
) -> PK11Context:
    """A context for a key: CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN or CKA_VERIFY, with a parameter as
    ``param_from_iv`` gives it."""
    param = sec_param or SecItem()
    wanted = operation_name(operation)
    known = served(mechanism)
    if wanted in {"CKA_ENCRYPT", "CKA_DECRYPT"}:
        if known is None or wanted not in known.operations:
            raise failure("SEC_ERROR_INVALID_ALGORITHM")
        kind = known

        def begin_cipher() -> _Running:
            try:
                return _Running(cipher=cipher(sym_key, kind, wanted, param))
            except CryptoFDError as error:
                raise told(error) from error

        return PK11Context._of(wanted, begin_cipher)
    if wanted in {"CKA_SIGN", "CKA_VERIFY"}:
        if not sym_key.may(wanted):
            raise failure("SEC_ERROR_INVALID_KEY")
        if known is None or wanted not in known.operations:
            raise failure("SEC_ERROR_INVALID_ALGORITHM")
        if known.key != "GENERIC" and known.key != sym_key.kind:
            raise failure("SEC_ERROR_INVALID_KEY")
        mac = known
        try:
            size = _mac_size(mac, param, sym_key.mac_size(mac))
        except CryptoFDError as error:
            raise told(error) from error

        def begin_mac() -> _Running:
            try:
                return _Running(hasher=sym_key.authenticate(mac), size=size)
            except CryptoFDError as error:
                raise told(error) from error

        return PK11Context._of(wanted, begin_mac)
    raise failure("SEC_ERROR_LIBRARY_FAILURE")


@takes(unsigned, a_or_none(SecItem), optional=1, keywords=True)
def param_from_iv(mechanism: int, iv: SecItem | None = None) -> SecItem:
    """The parameter of a mechanism with this initialization vector; empty where it takes none."""
    if iv is None or not get_iv_length(mechanism):
        return SecItem()
    return SecItem.of(iv.data)


@takes(unsigned, a_or_none(PK11SymKey), optional=1, keywords=True)
def generate_new_param(mechanism: int, sym_key: PK11SymKey | None = None) -> SecItem:
    """A parameter with a new, random initialization vector."""
    size = get_iv_length(mechanism)
    return SecItem.of(random_bytes(size)) if size else SecItem()
