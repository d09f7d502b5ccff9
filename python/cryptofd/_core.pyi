"""Types of the extension."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, Self, final, overload

from typing_extensions import Buffer

from cryptofd.broker.client import Connection
from cryptofd.description import Info

NONBLOCK: int

@final
class KeyringKey:
    serial: int
    def __new__(cls, serial: int) -> Self: ...

@final
class Completion:
    id: int
    error: OSError | None
    @property
    def data(self) -> bytes: ...
    def __iter__(self) -> Iterator[int | bytes]: ...

@final
class BrokerClient:
    address: str
    def __new__(cls, address: str | None = None) -> Self: ...
    def connect(self) -> None: ...
    def detach(self) -> int: ...
    def call(
        self, method: str, parameters: str = "{}", fds: list[int] = ..., *, repeated: bool = False
    ) -> tuple[str, list[int]]: ...
    @staticmethod
    def pipe(key: Buffer) -> int: ...
    @staticmethod
    def private() -> str: ...
    @staticmethod
    def abstract_name() -> str: ...

@final
class Stream:
    def update(self, data: Buffer) -> bytes: ...
    def finish(self) -> bytes: ...

@final
class CryptoFD:
    algorithm: str
    name: str
    digest_size: int
    block_size: int
    tag_size: int
    closed: bool
    @overload
    def encrypt(
        self, data: Buffer, iv: Buffer | None = None, aad: Buffer | None = None
    ) -> bytes: ...
    @overload
    def encrypt(
        self,
        data: Buffer,
        *,
        hash: str | None = None,
        scheme: Literal["oaep", "pkcs1", "raw"] | None = None,
        label: Buffer | None = None,
    ) -> bytes: ...
    @overload
    def decrypt(
        self, data: Buffer, iv: Buffer | None = None, aad: Buffer | None = None
    ) -> bytes: ...
    @overload
    def decrypt(
        self,
        data: Buffer,
        *,
        hash: str | None = None,
        scheme: Literal["oaep", "pkcs1", "raw"] | None = None,
        label: Buffer | None = None,
    ) -> bytes: ...
    def seal(self, data: Buffer, aad: Buffer | None = None) -> bytes: ...
    def unseal(self, data: Buffer, aad: Buffer | None = None) -> bytes: ...
    def encrypt_into(
        self, out: Buffer, data: Buffer, iv: Buffer | None = None, aad: Buffer | None = None
    ) -> int: ...
    def decrypt_into(
        self, out: Buffer, data: Buffer, iv: Buffer | None = None, aad: Buffer | None = None
    ) -> int: ...
    def encrypt_many(self, items: Iterable[tuple[Buffer | None, ...]]) -> list[bytes]: ...
    def decrypt_many(self, items: Iterable[tuple[Buffer | None, ...]]) -> list[bytes]: ...
    def seal_many(self, items: Iterable[Buffer | tuple[Buffer, Buffer | None]]) -> list[bytes]: ...
    def unseal_many(
        self, items: Iterable[Buffer | tuple[Buffer, Buffer | None]]
    ) -> list[bytes]: ...
    def seal_into(self, out: Buffer, data: Buffer, aad: Buffer | None = None) -> int: ...
    def unseal_into(self, out: Buffer, data: Buffer, aad: Buffer | None = None) -> int: ...
    def buffer(self, size: int) -> memoryview: ...
    def stream(
        self, direction: Literal["encrypt", "decrypt"], iv: Buffer | None = None
    ) -> Stream: ...
    def wrap(self, key: Buffer) -> bytes: ...
    def unwrap(self, wrapped: Buffer) -> bytes: ...
    def derive(
        self,
        length: int,
        *,
        salt: Buffer | None = None,
        info: Buffer | None = None,
        iterations: int | None = None,
        n: int | None = None,
        r: int | None = None,
        p: int | None = None,
    ) -> bytes: ...
    def read(self, size: int) -> bytes: ...
    def update(self, data: Buffer) -> None: ...
    def update_key(self) -> None: ...
    def digest(self, length: int | None = None) -> bytes: ...
    def hexdigest(self, length: int | None = None) -> str: ...
    @overload
    def verify(self, tag: Buffer) -> None: ...
    @overload
    def verify(
        self,
        tag: Buffer,
        data: Buffer,
        *,
        hash: str | None = None,
        scheme: Literal["pkcs1", "pss"] | None = None,
        salt_length: int | None = None,
        format: Literal["der", "raw"] | None = None,
    ) -> None: ...
    def sign(
        self,
        data: Buffer,
        *,
        hash: str | None = None,
        scheme: Literal["pkcs1", "pss"] | None = None,
        salt_length: int | None = None,
        format: Literal["der", "raw"] | None = None,
    ) -> bytes: ...
    def sign_digest(
        self,
        digest: Buffer,
        *,
        hash: str | None = None,
        scheme: Literal["pkcs1", "pss"] | None = None,
        salt_length: int | None = None,
        format: Literal["der", "raw"] | None = None,
    ) -> bytes: ...
    def verify_digest(
        self,
        signature: Buffer,
        digest: Buffer,
        *,
        hash: str | None = None,
        scheme: Literal["pkcs1", "pss"] | None = None,
        salt_length: int | None = None,
        format: Literal["der", "raw"] | None = None,
    ) -> None: ...
    def public_key(self) -> bytes: ...
    def agree(self, peer: Buffer) -> bytes: ...
    def encapsulate(self) -> tuple[bytes, bytes]: ...
    def decapsulate(self, ciphertext: Buffer) -> bytes: ...
    def reset(self) -> None: ...
    def copy(self) -> CryptoFD: ...
    def clone(self) -> CryptoFD: ...
    def fileno(self) -> int: ...
    outstanding: int
    def submit(
        self,
        op: str,
        data: Buffer | None = None,
        iv: Buffer | None = None,
        aad: Buffer | None = None,
        *,
        length: int | None = None,
        tag: Buffer | None = None,
        salt: Buffer | None = None,
        info: Buffer | None = None,
        iterations: int | None = None,
        n: int | None = None,
        r: int | None = None,
        p: int | None = None,
        target: int | None = None,
        hash: str | None = None,
        scheme: str | None = None,
        salt_length: int | None = None,
        label: Buffer | None = None,
        format: str | None = None,
    ) -> int: ...
    def complete(self) -> Completion: ...
    def info(self) -> Info: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *details: object) -> None: ...

@final
class Hasher:
    digest_size: int
    block_size: int
    algorithm: str
    name: str
    def update(self, data: Buffer) -> None: ...
    def digest(self, length: int | None = None) -> bytes: ...
    def hexdigest(self, length: int | None = None) -> str: ...
    def copy(self) -> Hasher: ...

@final
class HashFactory:
    digest_size: int
    block_size: int
    algorithm: str
    name: str
    def __new__(
        cls, algorithm: str, key: Buffer | KeyringKey | None = None, **options: Any
    ) -> Self: ...
    def __call__(self, data: Buffer | None = None, /) -> Hasher: ...
    def new(
        self,
        string: Buffer | None = None,
        *,
        data: Buffer | None = None,
        usedforsecurity: object = None,
    ) -> Hasher: ...
    def digest(self, data: Buffer, length: int | None = None, /) -> bytes: ...

def open(
    algorithm: str,
    key: Buffer | KeyringKey | str | None = None,
    *,
    flags: int = 0,
    broker: bool | Connection | None = None,
    version: int | None = None,
    usage: Iterable[str] | None = None,
    direct: bool = False,
    engine: str | None = None,
    driver: str | None = None,
    hardware: Literal["any", "prefer", "require", "forbid"] | None = None,
    fips: bool = False,
    tag_size: int | None = None,
    digest_size: int | None = None,
    padding: Literal["pkcs7", "none"] | None = None,
    iv: Buffer | None = None,
    salt: Buffer | None = None,
    person: Buffer | None = None,
    fanout: int | None = None,
    depth: int | None = None,
    leaf_size: int | None = None,
    node_offset: int | None = None,
    node_depth: int | None = None,
    inner_size: int | None = None,
    last_node: bool | None = None,
) -> CryptoFD: ...
def adopt(
    fd: int,
    algorithm: str | None = None,
    *,
    tag_size: int | None = None,
    digest_size: int | None = None,
    padding: Literal["pkcs7", "none"] | None = None,
) -> CryptoFD: ...
def generate(algorithm: str, bits: int | None = None) -> tuple[bytes, bytes | None]: ...
def algorithms() -> str: ...
def engines() -> str: ...
def drivers() -> str: ...
def explain(algorithm: str, **options: Any) -> str: ...
