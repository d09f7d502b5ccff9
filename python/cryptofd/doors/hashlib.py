"""The standard hashlib's interface, on cryptofd's engines.

``from cryptofd.doors import hashlib`` and the program goes on as before: the same constructors,
arguments and errors. What differs: ``algorithms_available`` lists what the engines of this host
offer; ``usedforsecurity`` is taken and decides nothing, because what may be used is the policy's to
say; an engine is chosen when a constructor is used for the first time, and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, Protocol, Self

from cryptofd._core import Hasher, HashFactory
from cryptofd.errors import CryptoFDError, InvalidArgument, TooLarge, UnknownAlgorithm

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: What the standard module guarantees on every platform, and this one too.
_GUARANTEED: Final = (
    "md5",
    "sha1",
    "sha224",
    "sha256",
    "sha384",
    "sha512",
    "blake2b",
    "blake2s",
    "sha3_224",
    "sha3_256",
    "sha3_384",
    "sha3_512",
    "shake_128",
    "shake_256",
)

# In the standard module's order.
__all__ = [
    *_GUARANTEED,
    "new",
    "algorithms_guaranteed",
    "algorithms_available",
    "pbkdf2_hmac",
    "scrypt",
    "file_digest",
]

algorithms_guaranteed: Final[Set[str]] = set(_GUARANTEED)

# OpenSSL's, which the standard module inherits: scrypt takes no more unless it is allowed to.
_SCRYPT_MEMORY: Final = 32 << 20
_INT_MAX: Final = (1 << 31) - 1


class Hash(Protocol):
    """A running hash."""

    @property
    def name(self) -> str: ...
    @property
    def digest_size(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    def update(self, data: Buffer, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...
    def copy(self) -> Self: ...


class Xof(Protocol):
    """A running hash whose output has any length."""

    @property
    def name(self) -> str: ...
    @property
    def digest_size(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    def update(self, data: Buffer, /) -> None: ...
    def digest(self, length: int, /) -> bytes: ...
    def hexdigest(self, length: int, /) -> str: ...
    def copy(self) -> Self: ...


if TYPE_CHECKING:
    algorithms_available: Set[str]

    class _Constructor(Protocol):
        def __call__(self, string: Buffer = ..., *, usedforsecurity: bool = ...) -> Hash: ...

    class _XofConstructor(Protocol):
        def __call__(self, string: Buffer = ..., *, usedforsecurity: bool = ...) -> Xof: ...

    md5: _Constructor
    sha1: _Constructor
    sha224: _Constructor
    sha256: _Constructor
    sha384: _Constructor
    sha512: _Constructor
    sha3_224: _Constructor
    sha3_256: _Constructor
    sha3_384: _Constructor
    sha3_512: _Constructor
    shake_128: _XofConstructor
    shake_256: _XofConstructor

_kernel_names: dict[str, str] = {}
_factories: dict[str, HashFactory] = {}


def kernel_name(name: str) -> str:
    """The table's name of a hash that is called ``name`` here; ValueError where there is none."""
    if not _kernel_names:
        from cryptofd import algorithms

        for algorithm in algorithms():
            if algorithm.kind in {"hash", "xof"}:
                _kernel_names[algorithm.name] = algorithm.name
                _kernel_names[algorithm.names["hashlib"] or algorithm.name] = algorithm.name
    found = _kernel_names.get(name) or _kernel_names.get(name.lower())
    if found is None:
        raise ValueError(f"unsupported hash type {name}")
    return found


def _factory(name: str) -> HashFactory:
    factory = _factories.get(name)
    if factory is None:
        factory = _factories[name] = HashFactory(kernel_name(name))
    return factory


def _unavailable(name: str, why: CryptoFDError) -> Callable[..., NoReturn]:
    # As in the standard module, a hash that is refused has a constructor, and it raises.
    def constructor(*_arguments: object, **_options: object) -> NoReturn:
        raise ValueError(f"unsupported hash type {name}: {why.strerror}") from why

    constructor.__name__ = constructor.__qualname__ = name
    return constructor


def __getattr__(name: str) -> Any:
    if name in algorithms_guaranteed:
        try:
            value: Any = _factory(name).new
        except CryptoFDError as error:
            # Not kept: the next program run, or policy, may allow it.
            return _unavailable(name, error)
    elif name == "algorithms_available":
        value = {each for each in _listed() if _offered(each)}
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _listed() -> set[str]:
    from cryptofd import algorithms

    kinds = {"hash", "xof"}
    return {a.names["hashlib"] for a in algorithms() if a.kind in kinds and a.names["hashlib"]}


def _offered(name: str) -> bool:
    try:
        _factory(name)
    except CryptoFDError:
        return False
    return True


def new(name: str, data: Buffer = b"", **options: Any) -> Any:
    """A running hash of this name that has taken ``data``; ValueError for one that is not offered.

    Names are the standard module's, in lower or upper case, and the kernel's.
    """
    if not isinstance(name, str):
        raise TypeError(f"new() argument 'name' must be str, not {type(name).__name__}")
    if name in {"blake2b", "blake2s"}:
        return (blake2b if name == "blake2b" else blake2s)(data, **options)
    try:
        factory = _factory(name)
    except CryptoFDError as error:
        raise ValueError(f"unsupported hash type {name}: {error.strerror}") from error
    return factory.new(data, **options)


class _Immutable(type):
    # The standard module's hash classes are.
    def __setattr__(cls, name: str, value: object) -> NoReturn:
        raise TypeError(f"cannot set {name!r} attribute of immutable type {cls.__qualname__!r}")

    def __delattr__(cls, name: str) -> NoReturn:
        raise TypeError(f"cannot delete {name!r} attribute of immutable type {cls.__qualname__!r}")


def _within(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{what}={value}: {least} to {most}")


def _fits(what: str, value: int, bits: int) -> None:
    if value < 0:
        raise ValueError(f"{what}={value}: 0 to 2^{bits}-1")
    if value >> bits:
        raise OverflowError(f"{what}={value}: 0 to 2^{bits}-1")


class _Blake2(metaclass=_Immutable):
    """BLAKE2 (RFC 7693) with key, salt, personalisation and tree parameters; sizes in bytes."""

    __slots__ = ("_hasher",)

    name: ClassVar[str]
    MAX_DIGEST_SIZE: ClassVar[int]
    MAX_KEY_SIZE: ClassVar[int]
    SALT_SIZE: ClassVar[int]
    PERSON_SIZE: ClassVar[int]
    _OFFSET_BITS: ClassVar[int]

    _hasher: Hasher

    def __new__(
        cls,
        data: Buffer = b"",
        /,
        *,
        digest_size: int | None = None,
        key: Buffer = b"",
        salt: Buffer = b"",
        person: Buffer = b"",
        fanout: int = 1,
        depth: int = 1,
        leaf_size: int = 0,
        node_offset: int = 0,
        node_depth: int = 0,
        inner_size: int = 0,
        last_node: bool = False,
        usedforsecurity: bool = True,
    ) -> Self:
        if digest_size is None:
            digest_size = cls.MAX_DIGEST_SIZE
        _within("digest_size", digest_size, 1, cls.MAX_DIGEST_SIZE)
        _within("fanout", fanout, 0, 255)
        _within("depth", depth, 1, 255)
        _within("node_depth", node_depth, 0, 255)
        _within("inner_size", inner_size, 0, cls.MAX_DIGEST_SIZE)
        _fits("leaf_size", leaf_size, 32)
        _fits("node_offset", node_offset, cls._OFFSET_BITS)
        # memoryview tells a wrong type before a wrong size.
        parts = [memoryview(part) for part in (key, salt, person)]
        for what, part, most in zip(
            ("key", "salt", "person"),
            parts,
            (cls.MAX_KEY_SIZE, cls.SALT_SIZE, cls.PERSON_SIZE),
            strict=True,
        ):
            _within(f"bytes of {what}", part.nbytes, 0, most)
        options: dict[str, Any] = {
            "digest_size": digest_size if digest_size != cls.MAX_DIGEST_SIZE else None,
            "salt": salt if parts[1].nbytes else None,
            "person": person if parts[2].nbytes else None,
            "fanout": fanout if fanout != 1 else None,
            "depth": depth if depth != 1 else None,
            "leaf_size": leaf_size or None,
            "node_offset": node_offset or None,
            "node_depth": node_depth or None,
            "inner_size": inner_size or None,
            "last_node": True if last_node else None,
        }
        options = {name: value for name, value in options.items() if value is not None}
        try:
            if options or parts[0].nbytes:
                factory = HashFactory(cls.name, key if parts[0].nbytes else None, **options)
            else:
                factory = _factory(cls.name)
        except CryptoFDError as error:
            raise ValueError(f"unsupported {cls.name}: {error.strerror}") from error
        self = super().__new__(cls)
        self._hasher = factory(data)
        return self

    def __init_subclass__(cls, **options: Any) -> None:
        if cls.__module__ != __name__:
            raise TypeError(f"type {cls.__mro__[1].__qualname__!r} is not an acceptable base type")

    @property
    def digest_size(self) -> int:
        """Bytes of the digest."""
        return self._hasher.digest_size

    @property
    def block_size(self) -> int:
        """Bytes of a block."""
        return self._hasher.block_size

    def update(self, data: Buffer, /) -> None:
        """Takes more data."""
        self._hasher.update(data)

    def digest(self) -> bytes:
        """The digest of what was taken so far."""
        return self._hasher.digest()

    def hexdigest(self) -> str:
        """The digest in hexadecimal."""
        return self._hasher.hexdigest()

    def copy(self) -> Self:
        """An independent copy."""
        other = object.__new__(type(self))
        other._hasher = self._hasher.copy()
        return other

    def __repr__(self) -> str:
        return repr(self._hasher)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle {type(self).__qualname__!r} object")


class blake2b(_Blake2):
    __doc__ = _Blake2.__doc__
    __slots__ = ()
    name = "blake2b"
    MAX_DIGEST_SIZE = 64
    MAX_KEY_SIZE = 64
    SALT_SIZE = 16
    PERSON_SIZE = 16
    _OFFSET_BITS = 64


class blake2s(_Blake2):
    __doc__ = _Blake2.__doc__
    __slots__ = ()
    name = "blake2s"
    MAX_DIGEST_SIZE = 32
    MAX_KEY_SIZE = 32
    SALT_SIZE = 8
    PERSON_SIZE = 8
    _OFFSET_BITS = 48


def pbkdf2_hmac(
    hash_name: str, password: Buffer, salt: Buffer, iterations: int, dklen: int | None = None
) -> bytes:
    """PBKDF2 with HMAC (RFC 8018): ``dklen`` bytes, by default as many as the hash gives."""
    from cryptofd import open

    if not isinstance(hash_name, str):
        raise TypeError(f"hash_name must be str, not {type(hash_name).__name__}")
    # kernel_name says which hashes there are at all, in the standard module's words.
    algorithm = f"pbkdf2(hmac({kernel_name(hash_name)}))"
    if iterations < 1:
        raise ValueError("iteration value must be greater than 0.")
    if iterations > _INT_MAX:
        raise OverflowError("iteration value is too great.")
    try:
        session = open(algorithm, key=password)
    except UnknownAlgorithm as error:
        raise ValueError(f"unsupported hash type {hash_name} for PBKDF2") from error
    if dklen is None:
        dklen = _factory(hash_name).digest_size
    if dklen < 1:
        raise ValueError("key length must be greater than 0.")
    if dklen > _INT_MAX:
        raise OverflowError("key length is too great.")
    with session:
        return session.derive(dklen, salt=salt, iterations=iterations)


def scrypt(
    password: Buffer,
    *,
    salt: Buffer,
    n: int,
    r: int,
    p: int,
    maxmem: int = 0,
    dklen: int = 64,
) -> bytes:
    """scrypt (RFC 7914): ``dklen`` bytes; ``maxmem`` in bytes, 0 for 32 MiB."""
    from cryptofd import open

    for what, value in (("n", n), ("r", r), ("p", p), ("maxmem", maxmem), ("dklen", dklen)):
        if not isinstance(value, int):
            raise TypeError(f"{what} must be int, not {type(value).__name__}")
    if n < 2 or n & (n - 1):
        raise ValueError("n must be a power of 2.")
    if r < 1 or p < 1:
        raise ValueError(f"r={r} p={p}: at least 1")
    if not 0 <= maxmem <= _INT_MAX:
        raise ValueError(f"maxmem must be positive and smaller than {_INT_MAX}")
    if not 1 <= dklen <= _INT_MAX:
        raise ValueError(f"dklen must be greater than 0 and smaller than {_INT_MAX}")
    memory = 128 * r * (n + p + 2)
    limit = maxmem or _SCRYPT_MEMORY
    if memory > limit:
        raise ValueError(f"memory limit exceeded: {memory} bytes where maxmem allows {limit}")
    with open("scrypt", key=password) as session:
        try:
            return session.derive(dklen, salt=salt, n=n, r=r, p=p)
        except (InvalidArgument, TooLarge) as error:
            raise ValueError(f"Invalid parameter combination for n, r, p: {error}") from error


def file_digest(
    fileobj: Any, digest: str | Callable[[], Any], /, *, _bufsize: int = 1 << 18
) -> Any:
    """Takes a binary file, BytesIO or socket file to its end; returns the running hash.

    ``digest``: a name, or what gives a running hash when it is called.
    """
    hasher = new(digest) if isinstance(digest, str) else digest()
    if hasattr(fileobj, "getbuffer"):
        with fileobj.getbuffer() as whole:
            hasher.update(whole)
        return hasher
    if not (hasattr(fileobj, "readinto") and hasattr(fileobj, "readable") and fileobj.readable()):
        raise ValueError(f"{fileobj!r} is not a file-like object in binary reading mode.")
    buffer = bytearray(_bufsize)
    with memoryview(buffer) as view:
        while (size := fileobj.readinto(buffer)) != 0:
            if size is None:
                raise BlockingIOError("I/O operation would block.")
            hasher.update(view[:size])
    return hasher
