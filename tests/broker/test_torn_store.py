"""Power fails at every step of the store: what was not synced is lost, torn, or there out of turn.

All writes of a store at work are written down in their order (record_writes.c). Then, for every
step, the files are put together as a disk might have them after power failed there: what was synced
is there; of what came later each write is there whole, in part (sectors of 512 bytes), or not at
all. The store that opens on them must be the one before or after the step under way: no key that
was acknowledged is lost, none is half, no use is given back.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from real_broker import DEADLINE, environment

from cryptofd.broker.store import Store

SECTOR = 512

#: What is done to a store. After each step it says what is there, by one write of its own.
WORK = """
import dataclasses, json, os, sys
from pathlib import Path
from cryptofd.broker.store import Store, Stored
folder = Path(sys.argv[1])
mark = os.open(folder / "mark", os.O_WRONLY | os.O_CREAT, 0o600)

def key(label, version=1, uses=None):
    identity = (label + str(version)).encode().hex().ljust(32, "0")
    attributes = dict(id=identity, owner="uid:0", label=label, version=version, uses=uses)
    return Stored(identity, attributes, os.urandom(700), token=None)

def said(store):
    there = {one.id: [one.current, one.spent, one.blob.hex()] for one in store}
    os.write(mark, json.dumps(there).encode() + b"\\n")

store = Store(folder / "store.sqlite")
said(store)
for number in range(10):
    store.add(key(f"k{number}", uses=1000 if number % 2 else None))
    said(store)
for number in range(0, 10, 3):
    store.add(key(f"k{number}", 2), replaces=store.find("uid:0", f"k{number}"))
    said(store)
for number in range(1, 10, 2):
    store.lease(store.find("uid:0", f"k{number}").id, 64)
    said(store)
store.delete(*store.versions("uid:0", "k0"))
said(store)
store.keep_fact("name", "value")
said(store)
changed = store.find("uid:0", "k1")
store.change((changed, dataclasses.replace(changed, blob=os.urandom(700))))
said(store)
for number in range(10, 16):
    store.add(key(f"k{number}"))
    said(store)
store.delete(*store.versions("uid:0", "k5"))
said(store)
store.close()
store = Store(folder / "store.sqlite")
said(store)
store.add(key("last"))
said(store)
store.close()
"""


@dataclass
class Step:
    op: str
    name: str
    offset: int
    data: bytes


@dataclass
class File:
    """A file as the disk has it, and what was asked of it since it was synced."""

    synced: bytes = b""
    later: list[Step] = field(default_factory=list)


def applied(data: bytes, step: Step, only: random.Random | None = None) -> bytes:
    if step.op == "t":
        return data[: step.offset].ljust(step.offset, b"\0")
    made = bytearray(data.ljust(step.offset + len(step.data), b"\0"))
    for at in range(0, len(step.data), SECTOR):
        if only is None or only.random() < 0.5:
            piece = step.data[at : at + SECTOR]
            made[step.offset + at : step.offset + at + len(piece)] = piece
    return bytes(made)


@dataclass
class Disk:
    files: dict[str, File] = field(default_factory=dict)

    def take(self, step: Step) -> None:
        file = self.files.setdefault(step.name, File())
        if step.op == "s":
            for one in file.later:
                file.synced = applied(file.synced, one)
            file.later = []
        elif step.op == "u":
            # A name that is gone stays gone: what SQLite unlinks, it does not need any more.
            del self.files[step.name]
        else:
            file.later.append(step)

    def after_power_failed(self, chance: random.Random) -> dict[str, bytes]:
        found = {}
        for name, file in self.files.items():
            data = file.synced
            for step in file.later:
                fate = chance.random()
                if fate < 0.4:
                    data = applied(data, step)
                elif fate < 0.7:
                    data = applied(data, step, chance)
            found[name] = data
        return found


def steps(log: bytes) -> list[Step]:
    found, at = [], 0
    while at < len(log):
        op, size = chr(log[at]), log[at + 1]
        name = log[at + 2 : at + 2 + size].decode()
        at += 2 + size
        offset, length = struct.unpack_from("<QQ", log, at)
        at += 16
        found.append(Step(op, name, offset, log[at : at + length]))
        at += length
    return found


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler for what writes the store's writes down")
    folder = tmp_path_factory.mktemp("recorded")
    library, log = folder / "record_writes.so", folder / "log"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library,
         Path(__file__).with_name("record_writes.c"), "-ldl", "-lpthread"],
        check=True, timeout=DEADLINE,
    )  # fmt: skip
    store = folder / "store"
    store.mkdir()
    subprocess.run(
        [sys.executable, "-c", WORK, str(store)], check=True, timeout=DEADLINE,
        env=environment(LD_PRELOAD=str(library), RECORD_FOLDER=str(store), RECORD_LOG=str(log)),
    )  # fmt: skip
    found = steps(log.read_bytes())
    assert {"store.sqlite", "store.sqlite-wal", "mark"} <= {step.name for step in found}
    assert sum(step.op == "s" for step in found) > 40
    return found


def there(store: Store) -> dict[str, Any]:
    return {one.id: [one.current, one.spent, one.blob.hex()] for one in store}


def check(files: dict[str, bytes], folder: Path, right: list[dict[str, Any]], where: str) -> None:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    store = Store(folder / "store.sqlite")
    try:
        assert there(store) in right, where
        assert store.problems == [], where
        # It goes on.
        store.keep_fact("after", "all")
    finally:
        store.close()
    shutil.rmtree(folder)


def run(recorded: list[Step], folder: Path, every: int, variants: int) -> None:
    marks = [json.loads(step.data) for step in recorded if step.name == "mark"]
    disk, seen = Disk(), 0
    for number, step in enumerate(recorded):
        if step.name == "mark":
            seen += 1
            continue
        disk.take(step)
        if number % every:
            continue
        # What was said, and what is under way; before the first word an empty store is right.
        right = [marks[seen - 1] if seen else {}, marks[min(seen, len(marks) - 1)]]
        for variant in range(variants):
            chance = random.Random(number * 1000 + variant)
            files = disk.after_power_failed(chance)
            check(files, folder / "after", right, f"step {number}, variant {variant}: {step.op}")


def test_power_fails_at_some_steps(recorded: list[Step], tmp_path: Path) -> None:
    run(recorded, tmp_path, 3, 1)


@pytest.mark.soak
def test_power_fails_at_every_step(recorded: list[Step], tmp_path: Path) -> None:
    run(recorded, tmp_path, 1, 12)


def test_the_disk_of_these_tests_is_a_bad_one(recorded: list[Step], tmp_path: Path) -> None:
    """They prove themselves: a store whose syncs do nothing loses what it had acknowledged."""
    with pytest.raises((AssertionError, OSError)):
        run([step for step in recorded if step.op != "s"], tmp_path, 1, 1)


def test_nothing_of_a_recording_is_missing(recorded: list[Step], tmp_path: Path) -> None:
    """With all writes in place, the last word is true."""
    disk = Disk()
    for step in recorded:
        disk.take(step)
    whole = {}
    for name, file in disk.files.items():
        data = file.synced
        for step in file.later:
            data = applied(data, step)
        whole[name] = data
    last = json.loads([step.data for step in recorded if step.name == "mark"][-1])
    check(whole, tmp_path / "whole", [last], "the end")
    assert os.listdir(tmp_path) == []  # noqa: PTH208
