"""The audit: what is changed, moved, taken away or put in is found."""

from __future__ import annotations

import errno
import hmac
import json
import os
import pathlib

import pytest

from cryptofd.broker.audit import Audit, Head, page, verify


@pytest.fixture
def log(tmp_path: pathlib.Path) -> tuple[pathlib.Path, bytes, list[Head]]:
    """A log of 20 lines, its key, and a head of each."""
    path = tmp_path / "audit.log"
    audit = Audit(path)
    key = audit.initial_key
    assert key is not None
    heads = []
    for number in range(20):
        audit.write("open", uid=number, key="ü" * number)
        heads.append(audit.head)
    audit.close()
    return path, key, heads


def test_a_whole_log_is_good(log: tuple[pathlib.Path, bytes, list[Head]]) -> None:
    path, key, heads = log
    verdict = verify(path, key, heads)
    assert verdict.good
    assert verdict.lines == 20
    assert verdict.head == heads[-1] == Head.of(str(heads[-1]))


def test_the_chain_is_what_its_description_says(
    log: tuple[pathlib.Path, bytes, list[Head]],
) -> None:
    """Computed with the standard library."""
    path, key, heads = log
    mac = bytes(32)
    for line, head in zip(path.read_bytes().splitlines(), heads, strict=True):
        entry = json.loads(line)
        body = line[: line.rindex(b',"mac":"')] + b"}"
        mac = hmac.digest(key, mac + body, "sha256")
        assert entry["mac"] == mac.hex() == head.mac
        key = hmac.digest(key, b"cryptofd audit next", "sha256")


def test_every_flipped_bit_is_found(log: tuple[pathlib.Path, bytes, list[Head]]) -> None:
    path, key, _ = log
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    offset = sum(map(len, lines[:9]))
    for at in range(len(lines[9])):
        changed = bytearray(whole)
        changed[offset + at] ^= 1
        path.write_bytes(changed)
        verdict = verify(path, key)
        assert verdict.bad == 10, at


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        (lambda lines: lines[:4] + lines[5:], 5),
        (lambda lines: lines[1:], 1),
        (lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]], 5),
        (lambda lines: [*lines[:4], lines[3], *lines[4:]], 5),
        (lambda lines: [*lines, lines[-1]], 21),
        (lambda lines: [*lines[:-1], lines[-1][:40]], 20),
        (lambda lines: [*lines, b'{"n":21,"event":"open","mac":"' + b"0" * 64 + b'"}\n'], 21),
    ],
    ids=["gap", "first gone", "swapped", "twice", "repeated", "half", "forged"],
)
def test_what_was_done_to_lines_is_found(
    log: tuple[pathlib.Path, bytes, list[Head]], change: object, bad: int
) -> None:
    path, key, _ = log
    assert callable(change)
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    assert verify(path, key).bad == bad


def test_a_missing_end_is_found_by_a_head(log: tuple[pathlib.Path, bytes, list[Head]]) -> None:
    path, key, heads = log
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:10]))
    assert verify(path, key).good
    verdict = verify(path, key, [heads[9], heads[19]])
    assert not verdict.good
    assert verdict.missing == ["line 20 is gone: a head of it was kept"]


def test_another_log_is_found_by_its_key_and_a_head(
    log: tuple[pathlib.Path, bytes, list[Head]], tmp_path: pathlib.Path
) -> None:
    _, key, heads = log
    other = Audit(tmp_path / "other.log")
    for number in range(20):
        other.write("open", uid=number)
    other.close()
    assert other.initial_key is not None
    assert verify(tmp_path / "other.log", key).bad == 1
    assert verify(tmp_path / "other.log", other.initial_key, heads).bad == 1


def test_the_state_makes_no_line_before_it(log: tuple[pathlib.Path, bytes, list[Head]]) -> None:
    """Forward security: whoever takes everything that is there cannot write the past anew."""
    path, key, _ = log
    state = path.with_suffix(".state").read_bytes()
    present = state[40:]
    assert key not in state
    walked = key
    for _ in range(20):
        assert walked != present
        assert walked not in path.read_bytes() + state
        walked = hmac.digest(walked, b"cryptofd audit next", "sha256")
    assert walked == present


def test_it_goes_on_after_a_restart_and_a_death(
    log: tuple[pathlib.Path, bytes, list[Head]],
) -> None:
    path, key, _ = log
    before = path.with_suffix(".state").read_bytes()
    audit = Audit(path)
    assert audit.initial_key is None
    for _ in range(3):
        audit.write("close")
    audit.close()
    # Death between lines and state, and in the middle of a line.
    path.with_suffix(".state").write_bytes(before)
    with path.open("ab") as file:
        file.write(b'{"n":24,"t":1,"eve')
    audit = Audit(path)
    assert audit.head.number == 23
    audit.write("open")
    audit.close()
    verdict = verify(path, key)
    assert verdict.good
    assert verdict.lines == 24


def test_lines_that_were_put_in_stop_the_broker(
    log: tuple[pathlib.Path, bytes, list[Head]],
) -> None:
    path, _, _ = log
    with path.open("ab") as file:
        file.write(b'{"n":21,"event":"open","mac":"' + b"0" * 64 + b'"}\n')
    with pytest.raises(OSError, match="not written here"):
        Audit(path)


def test_a_lost_state_stops_the_broker(log: tuple[pathlib.Path, bytes, list[Head]]) -> None:
    path, _, _ = log
    path.with_suffix(".state").unlink()
    with pytest.raises(OSError, match="state is lost"):
        Audit(path)


def test_pages(log: tuple[pathlib.Path, bytes, list[Head]]) -> None:
    path, _, _ = log
    numbers = [json.loads(line)["n"] for line in page(path, 15, 3)]
    assert numbers == [16, 17, 18]
    assert len(page(path, 0, 1000)) == 20
    assert page(path, 20, 10) == []


def test_a_disk_that_fails_under_the_lines_ends_everything(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Audit(tmp_path / "audit.log")
    log.write("one")

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fails)
        with pytest.raises(OSError, match="Input/output"):
            log.sync()
    # The kernel would say that all is well now; the line is not on the disk.
    log.sync()
    with pytest.raises(OSError, match="not logged") as caught:
        log.write("two")
    assert caught.value.errno == errno.EIO
    log.close()
    log = Audit(tmp_path / "audit.log")
    log.write("two")
    log.close()
