"""The store: wrapped keys in SQLite. Every key byte in it is under the key-encryption key.

Write-ahead log with synchronous=FULL: each frame carries a checksum, so a torn write ends recovery
at the last whole transaction; the file itself is written only from a log that is synced. One table
without indexes, its uniqueness kept by the one process that holds it (locking_mode=EXCLUSIVE):
fewer pages whose loss would cost more than their own rows. Deleted content is overwritten, so that
a salvage brings nothing back that was deleted.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from cryptofd.broker.refusal import refusal
from cryptofd.broker.salvage import salvage
from cryptofd.errors import CryptoFDError

#: What this version writes; an older store is brought up to it, a newer one refused.
VERSION = 1
#: Messages that a key may seal with IVs drawn at random (SP 800-38D, 8.3), so many of which are
#: written down at once.
SEALS = 1 << 32
AT_ONCE = 1 << 20
#: Uses that are leased at once, of keys that have a limit.
BLOCK = 1 << 16
#: Bytes of a backup that restore takes.
_LARGEST_BACKUP = 256 << 20

_SCHEMA = """
CREATE TABLE meta (name TEXT NOT NULL, value TEXT NOT NULL);
CREATE TABLE keys (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    attributes TEXT NOT NULL,
    blob BLOB NOT NULL,
    public BLOB,
    current INTEGER NOT NULL,
    spent INTEGER NOT NULL,
    token TEXT,
    sum BLOB NOT NULL
);
"""
_COLUMNS = "number, id, attributes, blob, public, current, spent, token, sum"


def canonical(attributes: dict[str, Any]) -> str:
    """Canonical JSON: sorted keys, no spaces, UTF-8. It is what the wrapping authenticates."""
    return json.dumps(attributes, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True)
class Stored:
    """A version of a key: attributes and blob are the worker's, the rest may change."""

    id: str
    attributes: dict[str, Any]
    blob: bytes
    public: bytes | None = None
    #: Whether it is the newest version: older ones only decrypt, verify and unwrap.
    current: bool = True
    #: Uses that were leased, of those that the attribute ``uses`` allows; without one, messages
    #: sealed.
    spent: int = 0
    #: The idempotency token that made it.
    token: str | None = None
    number: int = 0

    @property
    def owner(self) -> str:
        return str(self.attributes["owner"])

    @property
    def label(self) -> str:
        return str(self.attributes["label"])

    @property
    def version(self) -> int:
        return int(self.attributes["version"])

    @property
    def name(self) -> str:
        return f"cryptofd:{self.owner.removeprefix('uid:')}/{self.label}"

    def _row(self) -> tuple[Any, ...]:
        text = canonical(self.attributes)
        return (
            self.id,
            text,
            self.blob,
            self.public,
            int(self.current),
            self.spent,
            self.token,
            _sum(self.id, text, self.blob, self.public, self.current, self.spent, self.token),
        )


def _sum(
    key: str,
    attributes: str,
    blob: bytes,
    public: bytes | None,
    current: bool,
    spent: int,
    token: str | None,
) -> bytes:
    """Finds accidents. Attacks are found by the worker: attributes are authenticated there."""
    digest = hashlib.sha256()
    for part in (
        key.encode(),
        attributes.encode(),
        blob,
        b"" if public is None else b"\1" + public,
        b"%d %d" % (current, spent),
        b"" if token is None else b"\1" + token.encode(),
    ):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


class CorruptRow(Exception):
    """A row that is not what was written."""


def _stored(row: tuple[Any, ...]) -> Stored:
    try:
        number, key, text, blob, public, current, spent, token, checksum = row
        if _sum(key, text, blob, public, bool(current), spent, token) != checksum:
            raise CorruptRow("its checksum does not match")
        attributes = json.loads(text)
        stored = Stored(key, attributes, blob, public, bool(current), spent, token, number)
        if type(spent) is not int or not 0 <= spent < 1 << 53 or current not in (0, 1):
            raise CorruptRow("its counts are none")
        if attributes["id"] != key or not stored.owner or not stored.label or stored.version < 1:
            raise CorruptRow("its attributes are not its own")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptRow(f"{type(error).__name__}") from None
    return stored


class Store:
    """All keys, in memory as well: reading never waits for the disk."""

    def __init__(self, path: pathlib.Path, *, pages: int | None = None) -> None:
        self.path = path
        #: What was found damaged, for status and log.
        self.problems: list[str] = []
        self._by_id: dict[str, Stored] = {}
        self._by_name: dict[tuple[str, str], dict[int, str]] = {}
        self._tokens: dict[tuple[str, str], str] = {}
        self._count: dict[str, int] = {}
        #: Messages sealed and not written down yet, by key.
        self._sealed: dict[str, int] = {}
        #: Counts up with every change of what is kept.
        self.changes = 0
        self._connection = self._open()
        if pages is not None:
            self._connection.execute(f"PRAGMA max_page_count={int(pages)}")
        self._load()

    def close(self) -> None:
        """Bring the log into the file and let it go."""
        with contextlib.suppress(OSError, sqlite3.Error):
            self.settle()
        self._connection.close()

    # Reading

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Stored]:
        return iter(sorted(self._by_id.values(), key=lambda one: one.id))

    def get(self, key: str) -> Stored | None:
        """The version of a key with this id."""
        return self._by_id.get(key)

    def find(self, owner: str, label: str, version: int | None = None) -> Stored | None:
        """The newest version of a key, or the one with this number."""
        versions = self._by_name.get((owner, label))
        if not versions:
            return None
        found = versions.get(max(versions) if version is None else version)
        return None if found is None else self._by_id[found]

    def versions(self, owner: str, label: str) -> list[Stored]:
        """All versions, newest first."""
        versions = self._by_name.get((owner, label), {})
        return [self._by_id[versions[number]] for number in sorted(versions, reverse=True)]

    def made_by(self, owner: str, token: str) -> Stored | None:
        """What a call with this idempotency token made."""
        found = self._tokens.get((owner, token))
        return None if found is None else self._by_id.get(found)

    def count(self, owner: str) -> int:
        """How many rows an owner has."""
        return self._count.get(owner, 0)

    # Writing: all or nothing, and on the disk when it returns.

    def add(self, stored: Stored, *, replaces: Stored | None = None) -> Stored:
        """Keep a key; ``replaces`` becomes an old version in the same step."""
        if stored.version in self._by_name.get((stored.owner, stored.label), {}):
            raise refusal(
                errno.EEXIST, f"{stored.name} exists; choose another label, delete or rotate it"
            )
        with self._transaction() as cursor:
            if replaces is not None:
                old = replace(replaces, current=False)
                self._write(cursor, old)
            cursor.execute(
                "INSERT INTO keys (id, attributes, blob, public, current, spent, token, sum) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                stored._row(),
            )
            stored = replace(stored, number=int(cursor.lastrowid or 0))
        if replaces is not None:
            self._forget(replaces)
            self._keep(old)
        self._keep(stored)
        return stored

    def change(self, *changes: tuple[Stored, Stored]) -> None:
        """Put the second of each pair in the place of the first; their ids stay."""
        with self._transaction() as cursor:
            for old, new in changes:
                self._write(cursor, replace(new, number=old.number))
        for old, _ in changes:
            self._forget(old)
        for old, new in changes:
            self._keep(replace(new, number=old.number))

    def delete(self, *keys: Stored) -> None:
        """Delete versions; what they held is overwritten."""
        with self._transaction() as cursor:
            for one in keys:
                cursor.execute("DELETE FROM keys WHERE number = ?", (one.number,))
        for one in keys:
            self._forget(one)
        # The log holds what was deleted until it is begun anew.
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def lease(self, key: str, uses: int) -> int:
        """Spend up to ``uses`` uses of a key, now; how many were left to spend. Without a limit of
        uses these are messages sealed, which are written down a little later (``settle``)."""
        stored = self._by_id.get(key)
        if stored is None:
            raise refusal(errno.ENOKEY, "the key was deleted")
        limit = stored.attributes.get("uses")
        if limit is None:
            return self._count_seals(stored, uses)
        granted = max(0, min(uses, BLOCK, int(limit) - stored.spent))
        if granted:
            self.change((stored, replace(stored, spent=stored.spent + granted)))
        return granted

    def _count_seals(self, stored: Stored, seals: int) -> int:
        counted = self._sealed.get(stored.id, 0)
        granted = max(0, min(seals, SEALS - stored.spent - counted))
        self._sealed[stored.id] = counted + granted
        if counted + granted >= AT_ONCE:
            self.settle(stored.id)
        return granted

    def settle(self, *keys: str) -> None:
        """Write down how much was sealed with these keys, or with all."""
        counted = {key: self._sealed.pop(key, 0) for key in keys or list(self._sealed)}
        changes = [
            (stored, replace(stored, spent=stored.spent + count))
            for key, count in counted.items()
            if count and (stored := self._by_id.get(key))
        ]
        if changes:
            self.change(*changes)

    # Small facts

    def fact(self, name: str) -> str | None:
        """A fact that was kept."""
        row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def keep_fact(self, name: str, value: str) -> None:
        """Keep a fact."""
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM meta WHERE name = ?", (name,))
            cursor.execute("INSERT INTO meta VALUES (?, ?)", (name, value))

    # Whole copies

    def backup(self) -> bytes:
        """A consistent copy, an SQLite file; blobs stay wrapped."""
        copy = sqlite3.connect(":memory:")
        try:
            self._connection.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
            return copy.serialize()
        finally:
            copy.close()

    def restore(self, image: bytes) -> tuple[int, list[str]]:
        """Add the keys of a backup whose names are free; how many, and which were passed over."""
        if len(image) > _LARGEST_BACKUP:
            raise refusal(errno.EMSGSIZE, f"a backup of more than {_LARGEST_BACKUP} bytes")
        other = sqlite3.connect(":memory:")
        added: list[Stored] = []
        passed: list[str] = []
        try:
            # WAL in bytes 18 and 19 could not be opened from memory.
            other.deserialize(image[:18] + b"\1\1" + image[20:])
            other.execute("PRAGMA trusted_schema=OFF")
            rows = list(other.execute(f"SELECT {_COLUMNS} FROM keys"))  # noqa: S608
        except sqlite3.Error as error:
            raise refusal(errno.EBADMSG, f"this is no backup of a store: {error}") from None
        finally:
            other.close()
        names = {
            (owner, label, version)
            for (owner, label), versions in self._by_name.items()
            for version in versions
        }
        for row in rows:
            try:
                stored = replace(_stored(row), number=0)
            except CorruptRow as error:
                passed.append(f"row {row[0]}: {error}")
                continue
            name = (stored.owner, stored.label, stored.version)
            if name in names or stored.id in self._by_id:
                passed.append(f"{stored.name} version {stored.version} is there")
                continue
            names.add(name)
            added.append(stored)
        numbered: list[Stored] = []
        with self._transaction() as cursor:
            for stored in added:
                cursor.execute(
                    "INSERT INTO keys (id, attributes, blob, public, current, spent, token, sum) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    stored._row(),
                )
                numbered.append(replace(stored, number=int(cursor.lastrowid or 0)))
        for stored in numbered:
            self._keep(stored)
        self._only_the_newest_is_current()
        return len(numbered), passed

    # Inside

    def _open(self) -> sqlite3.Connection:
        new = not self.path.exists()
        if new:
            # Never for a moment readable by others.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=2)
        try:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA secure_delete=ON")
            connection.execute("PRAGMA trusted_schema=OFF")
            connection.execute("BEGIN IMMEDIATE")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    if statement.strip():
                        connection.execute(statement)
                connection.execute(f"PRAGMA user_version={VERSION}")
            connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            connection.close()
            if "locked" in str(error):
                raise refusal(
                    errno.EBUSY, f"{self.path} is in use: another broker serves it"
                ) from None
            if new or isinstance(error, sqlite3.OperationalError):
                raise _failed(error, self.path) from None
            return self._rebuild(str(error))
        if version > VERSION:
            connection.close()
            raise refusal(
                errno.EPROTONOSUPPORT,
                f"{self.path} has version {version}, this is for {VERSION}; "
                "use the cryptofd that wrote it",
            )
        return connection

    def _load(self) -> None:
        try:
            check = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            rows = list(self._connection.execute(f"SELECT {_COLUMNS} FROM keys"))  # noqa: S608
        except sqlite3.DatabaseError as error:
            check, rows = str(error), []
        if check != "ok":
            self._connection.close()
            self._connection = self._rebuild(check)
            rows = list(self._connection.execute(f"SELECT {_COLUMNS} FROM keys"))  # noqa: S608
        for row in rows:
            try:
                stored = _stored(row)
            except CorruptRow as error:
                self.problems.append(f"row {row[0]} (key {str(row[1])[:40]}) is lost: {error}")
                continue
            if stored.version in self._by_name.get((stored.owner, stored.label), {}):
                self.problems.append(f"row {row[0]}: a second {stored.name}; the first is kept")
                continue
            self._keep(stored)
        self._only_the_newest_is_current()

    def _only_the_newest_is_current(self) -> None:
        """Whatever a row or a backup says of itself: a version that was rotated away stays so."""
        for versions in self._by_name.values():
            for number in versions.keys() - {max(versions)}:
                old = self._by_id[versions[number]]
                if old.current:
                    self.changes += 1
                    self._by_id[old.id] = replace(old, current=False)

    def _rebuild(self, why: str) -> sqlite3.Connection:
        """Move a damaged file aside and take every whole row out of its pages."""
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        self.path.rename(aside)
        log = self.path.with_name(self.path.name + "-wal")
        if log.exists():
            log.rename(aside.with_name(aside.name + "-wal"))
        connection = self._open()
        kept = 0
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            seen: set[str] = set()
            for rowid, values in salvage(aside):
                row = (rowid, *values[1:]) if values and values[0] is None else tuple(values)
                try:
                    stored = _stored(row)
                except CorruptRow:
                    if len(values) == 2 and all(isinstance(one, str) for one in values):
                        connection.execute("INSERT INTO meta VALUES (?, ?)", values)
                    continue
                if stored.id in seen:
                    continue
                seen.add(stored.id)
                connection.execute(
                    "INSERT INTO keys (id, attributes, blob, public, current, spent, token, sum) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    stored._row(),
                )
                kept += 1
        self.problems.append(
            f"{self.path} was damaged ({why.splitlines()[0][:200]}): {kept} keys were taken over; "
            f"the damaged file is {aside.name}"
        )
        return connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        cursor = self._connection.cursor()
        try:
            cursor.execute("BEGIN IMMEDIATE")
            yield cursor
            cursor.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    cursor.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise _failed(error, self.path) from None
            raise
        finally:
            cursor.close()

    def _write(self, cursor: sqlite3.Cursor, stored: Stored) -> None:
        cursor.execute(
            "UPDATE keys SET id = ?, attributes = ?, blob = ?, public = ?, current = ?, spent = ?, "
            "token = ?, sum = ? WHERE number = ?",
            (*stored._row(), stored.number),
        )

    def _keep(self, stored: Stored) -> None:
        self.changes += 1
        self._by_id[stored.id] = stored
        self._by_name.setdefault((stored.owner, stored.label), {})[stored.version] = stored.id
        self._count[stored.owner] = self._count.get(stored.owner, 0) + 1
        if stored.token is not None:
            self._tokens[(stored.owner, stored.token)] = stored.id

    def _forget(self, stored: Stored) -> None:
        self.changes += 1
        self._by_id.pop(stored.id, None)
        versions = self._by_name.get((stored.owner, stored.label), {})
        versions.pop(stored.version, None)
        if not versions:
            self._by_name.pop((stored.owner, stored.label), None)
        self._count[stored.owner] -= 1
        if stored.token is not None:
            self._tokens.pop((stored.owner, stored.token), None)


def _failed(error: sqlite3.Error, path: pathlib.Path) -> CryptoFDError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    number = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}.get(
        code, errno.EIO
    )
    way_out = "make room" if number == errno.ENOSPC else "see the disk"
    return refusal(number, f"{path}: {error}; nothing was changed, {way_out} and try again")
