"""The store against accidents: killed writers, torn logs, full disks, corrupt rows and pages."""

from __future__ import annotations

import errno
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace
from typing import Any

import pytest

from cryptofd.broker.store import AT_ONCE, SEALS, Store, Stored, canonical


def key(label: str, version: int = 1, **more: Any) -> Stored:
    attributes = {
        "id": f"{label}-{version}",
        "owner": "uid:1000",
        "label": label,
        "version": version,
        "uses": None,
        "ü": "é",
        **more.pop("attributes", {}),
    }
    blob = more.pop("blob", label.encode() * 50)
    return Stored(f"{label}-{version}", attributes, blob, **more)


def labels(store: Store) -> set[str]:
    return {one.label for one in store}


def test_canonical_json() -> None:
    assert canonical({"b": [1], "a": "ü", "c": None}) == '{"a":"ü","b":[1],"c":null}'


def test_what_is_kept_comes_back(tmp_path: pathlib.Path) -> None:
    store = Store(tmp_path / "s")
    first = store.add(key("a", public=b"p", token="t"))
    second = store.add(key("a", 2), replaces=first)
    store.close()
    store = Store(tmp_path / "s")
    assert store.find("uid:1000", "a") == second
    assert store.find("uid:1000", "a", 1) == replace(first, current=False)
    assert store.made_by("uid:1000", "t") == replace(first, current=False)
    assert store.count("uid:1000") == len(store) == 2
    store.delete(*store.versions("uid:1000", "a"))
    assert store.find("uid:1000", "a") is None
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
    store.close()


def test_what_is_deleted_is_gone_from_the_file(tmp_path: pathlib.Path) -> None:
    store = Store(tmp_path / "s")
    store.add(key("a", blob=b"WRAPPED-SECRET" * 500))
    store.delete(store.versions("uid:1000", "a")[0])
    for path in tmp_path.iterdir():
        assert b"WRAPPED-SECRET" not in path.read_bytes(), path
    store.close()


def test_one_broker_at_a_time(tmp_path: pathlib.Path) -> None:
    store = Store(tmp_path / "s")
    with pytest.raises(OSError, match="another broker") as caught:
        Store(tmp_path / "s")
    assert caught.value.errno == errno.EBUSY
    store.close()


def test_a_store_of_a_later_version_is_left_alone(tmp_path: pathlib.Path) -> None:
    Store(tmp_path / "s").close()
    with sqlite3.connect(tmp_path / "s") as raw:
        raw.execute("PRAGMA user_version=99")
    raw.close()
    with pytest.raises(OSError, match="version 99"):
        Store(tmp_path / "s")


def test_leases_are_spent_when_they_are_given(tmp_path: pathlib.Path) -> None:
    store = Store(tmp_path / "s")
    store.add(key("a", attributes={"uses": 10}))
    assert [store.lease("a-1", 4) for _ in range(4)] == [4, 4, 2, 0]
    store.close()
    store = Store(tmp_path / "s")
    assert store.lease("a-1", 1) == 0
    store.close()


def test_what_is_sealed_is_counted_to_the_limit_and_written_down(tmp_path: pathlib.Path) -> None:
    """Without a limit of uses a key has 2^32 random IVs; what a broker that dies had not written
    down is no more than a block."""
    store = Store(tmp_path / "s")

    def spent(name: str) -> int:
        one = store.get(name)
        assert one is not None
        return one.spent

    store.add(key("a"))
    store.add(key("b"))
    assert store.lease("a-1", 64) == 64
    assert spent("a-1") == 0
    store.settle()
    assert (spent("a-1"), spent("b-1")) == (64, 0)
    assert [store.lease("a-1", AT_ONCE) for _ in range(3)] == [AT_ONCE] * 3
    assert spent("a-1") == 64 + 3 * AT_ONCE
    store.lease("a-1", 5)
    store.lease("b-1", 7)
    store.close()
    store = Store(tmp_path / "s")
    assert (spent("a-1"), spent("b-1")) == (69 + 3 * AT_ONCE, 7)
    left = SEALS - 69 - 3 * AT_ONCE
    assert [store.lease("a-1", n) for n in (left - 1, 64, 64)] == [left - 1, 1, 0]
    store.delete(store.get("a-1") or key("a"))
    store.settle()
    store.close()


WRITER = """
    import pathlib, sys
    from cryptofd.broker.store import Store, Stored
    store = Store(pathlib.Path(sys.argv[1]))
    number = len({one.label for one in store})
    while True:
        label = f"k{number}"
        def made(version):
            about = {"owner": "uid:1", "label": label, "version": version, "uses": 5}
            name = f"{label}-{version}"
            return Stored(name, {**about, "id": name}, label.encode() * 400)
        first = store.add(made(1))
        store.add(made(2), replaces=first)
        store.lease(label + "-2", 2)
        print(number, flush=True)
        number += 1
"""


@pytest.mark.parametrize("rounds", [12, pytest.param(200, marks=pytest.mark.soak)])
def test_a_killed_writer_loses_nothing_that_it_said(tmp_path: pathlib.Path, rounds: int) -> None:
    """kill -9 at random moments: what was reported is whole, what was not is whole or absent."""
    chance = random.Random(1)
    said = -1
    for _ in range(rounds):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / "s")],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        # Killed after so many lines and some instructions more: wherever it is then.
        for _ in range(chance.randint(1, 6)):
            said = int(writer.stdout.readline())
        for _ in range(chance.randint(0, 200_000)):
            pass
        writer.send_signal(signal.SIGKILL)
        said = max([said, *map(int, writer.stdout.read().split())])
        writer.wait()
        writer.stdout.close()
        store = Store(tmp_path / "s")
        assert store.problems == []
        for number in range(said + 1):
            new, old = store.versions("uid:1", f"k{number}")
            assert (new.current, old.current, new.spent) == (True, False, 2)
        assert len({one.label for one in store}) in (said + 1, said + 2)
        # A version is never without what it replaced.
        for one in store:
            if one.version == 2:
                assert store.find(one.owner, one.label, 1) is not None
        # A writer that was killed between the steps of the last key: begin after it.
        half = [o for o in store if len(store.versions(o.owner, o.label)) < 2 or
                not any(v.spent for v in store.versions(o.owner, o.label))]  # fmt: skip
        if half:
            store.delete(
                *{v.id: v for o in half for v in store.versions(o.owner, o.label)}.values()
            )
        store.close()


def test_a_torn_log_ends_at_the_last_whole_step(tmp_path: pathlib.Path) -> None:
    """Every length at which a write that was not synced could have ended, whole or with rubbish."""
    path, log = tmp_path / "s", tmp_path / "s-wal"
    store = Store(path)
    store._connection.execute("PRAGMA wal_autocheckpoint=0")
    ends = []
    for number in range(8):
        store.add(key(f"k{number}", blob=bytes(range(256)) * 8 * number))
        ends.append(log.stat().st_size)
    data, image = path.read_bytes(), log.read_bytes()
    store.close()
    chance = random.Random(2)
    cuts = {cut for end in ends for cut in (end - 1, end, end + 1, end + 512, end - 512)}
    cuts |= {chance.randrange(len(image)) for _ in range(40)}
    checked = 0
    for cut in sorted(cut for cut in cuts if 0 <= cut <= len(image)):
        for tail in (b"", chance.randbytes(4096), bytes(4096)):
            (tmp_path / "t").write_bytes(data)
            (tmp_path / "t-wal").write_bytes((image[:cut] + tail)[: max(cut, len(image))])
            torn = Store(tmp_path / "t")
            synced = sum(end <= cut for end in ends)
            found = labels(torn)
            # All that was synced, in order, and nothing half.
            assert found == {f"k{number}" for number in range(len(found))}
            assert len(found) >= synced
            for one in torn:
                assert one == key(one.label, blob=bytes(range(256)) * 8 * int(one.label[1:]),
                                  number=one.number)  # fmt: skip
            assert torn.problems == []
            torn.close()
            checked += 1
    assert checked > 150


def test_a_torn_checkpoint_is_done_again(tmp_path: pathlib.Path) -> None:
    """Half of the pages of the file are rubbish while the log that they come from is whole."""
    path, log = tmp_path / "s", tmp_path / "s-wal"
    store = Store(path)
    store._connection.execute("PRAGMA wal_autocheckpoint=0")
    for number in range(30):
        store.add(key(f"k{number}", blob=bytes(900)))
    image = log.read_bytes()
    store._connection.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
    data = path.read_bytes()
    store.close()
    chance = random.Random(3)
    for _ in range(25):
        torn = bytearray(data)
        for page in range(0, len(torn), 4096):
            if chance.random() < 0.5:
                torn[page + 2048 : page + 4096] = chance.randbytes(2048)
        (tmp_path / "t").write_bytes(torn)
        (tmp_path / "t-wal").write_bytes(image)
        again = Store(tmp_path / "t")
        assert labels(again) == {f"k{number}" for number in range(30)}
        again.close()


def test_a_full_disk_leaves_all_as_it_was(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s"
    store = Store(path, pages=40)
    added = 0
    with pytest.raises(OSError, match="nothing was changed") as caught:  # noqa: PT012
        for number in range(1000):
            store.add(key(f"k{number}", blob=bytes(3000)))
            added += 1
    assert caught.value.errno == errno.ENOSPC
    assert added > 10
    wanted = {f"k{number}" for number in range(added)}
    assert labels(store) == wanted
    # A version that does not fit leaves the old one in force.
    old = store.find("uid:1000", "k0")
    assert old is not None
    with pytest.raises(OSError, match="full"):
        store.add(key("k0", 2, blob=bytes(100_000)), replaces=old)
    assert store.find("uid:1000", "k0") == old
    # There is room again when something goes.
    store.delete(*store.versions("uid:1000", "k1"))
    store.add(key("new", blob=bytes(3000)))
    store.close()
    store = Store(path)
    assert labels(store) == (wanted - {"k1"}) | {"new"}
    assert store.problems == []
    store.close()


@pytest.mark.skipif(os.getuid() != 0, reason="a small disk needs root to mount it")
def test_a_disk_that_is_really_full(tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        store = Store(disk / "s")
        added = 0
        with pytest.raises(OSError, match="nothing was changed"):  # noqa: PT012
            for number in range(1000):
                store.add(key(f"k{number}", blob=bytes(3000)))
                added += 1
        assert labels(store) == {f"k{number}" for number in range(added)}
        store.close()
        store = Store(disk / "s")
        assert labels(store) == {f"k{number}" for number in range(added)}
        store.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_corrupt_row_loses_only_itself(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s"
    store = Store(path)
    for number in range(20):
        store.add(key(f"k{number}"))
    store.close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE keys SET blob = zeroblob(10) WHERE id = 'k7-1'")
        raw.execute("UPDATE keys SET attributes = 'x' WHERE id = 'k8-1'")
        raw.execute("UPDATE keys SET spent = -5 WHERE id = 'k9-1'")
    raw.close()
    store = Store(path)
    assert labels(store) == {f"k{n}" for n in range(20)} - {"k7", "k8", "k9"}
    assert len(store.problems) == 3
    assert "k7-1" in store.problems[0]
    store.close()


def test_current_is_the_newest_or_nothing(tmp_path: pathlib.Path) -> None:
    """Whoever writes the store chooses no older version by it."""
    path = tmp_path / "s"
    store = Store(path)
    first = store.add(key("a"))
    second = store.add(key("a", 2), replaces=first)
    store.close()
    with sqlite3.connect(path) as raw:
        for row, number in ((replace(first, current=True), 1), (replace(second, current=False), 2)):
            raw.execute(
                "UPDATE keys SET current = ?, sum = ? WHERE number = ?",
                (int(row.current), row._row()[-1], number),
            )
    raw.close()
    store = Store(path)
    assert store.problems == []
    # The newest was told to be old: then none is what new things are done with.
    found = store.find("uid:1000", "a")
    assert found is not None
    assert (found.version, found.current) == (2, False)
    assert [one.current for one in store.versions("uid:1000", "a")] == [False, False]
    store.close()


@pytest.mark.parametrize("seed", range(30))
def test_corrupt_pages_lose_only_what_is_on_them(tmp_path: pathlib.Path, seed: int) -> None:
    """A page of rubbish anywhere but the first: leaves, inner pages, overflow pages."""
    path = tmp_path / "s"
    store = Store(path)
    for number in range(300):
        store.add(key(f"k{number}", blob=bytes([number % 256]) * (300 if number % 10 else 9000)))
    store.close()
    data = bytearray(path.read_bytes())
    pages = len(data) // 4096
    page = random.Random(seed).randrange(1, pages)
    at = page * 4096
    data[at : at + 4096] = random.Random(seed).randbytes(4096)
    # At most what was on the page: a leaf holds no more than 13 of these rows.
    path.write_bytes(data)
    store = Store(path)
    lost = {f"k{n}" for n in range(300)} - labels(store)
    assert len(lost) <= 13, (page, lost)
    for one in store:
        number = int(one.label[1:])
        assert one.blob == bytes([number % 256]) * (300 if number % 10 else 9000)
    assert bool(store.problems) or not lost
    # And it is a whole store again.
    store.add(key("new"))
    store.close()
    again = Store(path)
    assert "new" in labels(again)
    assert len(again) == 301 - len(lost)
    assert again.problems == [] or all("row" in one for one in again.problems)
    again.close()


def test_a_lost_schema_is_salvaged(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s"
    store = Store(path)
    for number in range(50):
        store.add(key(f"k{number}", public=b"p" * 5000, token=f"token-{number}"))
    store.keep_fact("kek", "[]")
    store.delete(*store.versions("uid:1000", "k3"))
    store.close()
    data = bytearray(path.read_bytes())
    data[100:4096] = bytes(3996)
    path.write_bytes(data)
    store = Store(path)
    # What was deleted stays deleted.
    assert labels(store) == {f"k{n}" for n in range(50)} - {"k3"}
    assert store.fact("kek") == "[]"
    assert "49 keys" in store.problems[0]
    assert any("damaged" in one.name for one in tmp_path.iterdir())
    store.close()


def test_backup_and_restore(tmp_path: pathlib.Path) -> None:
    store = Store(tmp_path / "s")
    for number in range(20):
        store.add(key(f"k{number}"))
    image = store.backup()
    store.delete(*store.versions("uid:1000", "k1"))
    store.change((old := store.versions("uid:1000", "k2")[0], replace(old, spent=7)))
    count, passed = store.restore(image)
    assert (count, len(passed)) == (1, 19)
    found = store.find("uid:1000", "k2")
    assert found is not None
    assert found.spent == 7
    store.close()
    other = Store(tmp_path / "other")
    assert other.restore(image)[0] == 20
    other.close()
    other = Store(tmp_path / "other")
    assert len(other) == 20
    for garbage in (b"", b"x" * 5000, image[: len(image) // 2], bytes(len(image))):
        with pytest.raises(OSError, match="backup"):
            other.restore(garbage)
    assert len(other) == 20
    other.close()
    shutil.rmtree(tmp_path)
