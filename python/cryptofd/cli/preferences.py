"""Writes the choice of engines into cryptofd.toml, and leaves the rest of the file as it is."""

from __future__ import annotations

import errno
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from cryptofd.errors import InvalidArgument

SYSTEM = Path("/etc/cryptofd/cryptofd.toml")


def path(system: bool) -> Path:
    """The host's file, or the user's."""
    if system:
        return SYSTEM
    home = os.environ.get("XDG_CONFIG_HOME")
    base = Path(home) if home and Path(home).is_absolute() else Path.home() / ".config"
    return base / "cryptofd" / "cryptofd.toml"


def change(file: Path, verb: str, engine: str, algorithm: str | None) -> None:
    """Prefers, disables or enables `engine`, in general or for one algorithm."""
    try:
        text = file.read_text()
    except FileNotFoundError:
        text = ""
    try:
        whole = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(
            errno.EINVAL, f"not TOML: {error}; mend it first", str(file)
        ) from None
    section = ["engines"] if algorithm is None else ["engines", "for", algorithm]
    table = whole
    for part in section:
        table = table.setdefault(part, {})
    prefer = [name for name in table.get("prefer", []) if name != engine]
    disable = [name for name in table.get("disable", []) if name != engine]
    if verb == "prefer":
        prefer.insert(0, engine)
    elif verb == "disable":
        disable.append(engine)
    elif engine in table.get("prefer", []):
        prefer = table["prefer"]
    for key, value in (("prefer", prefer), ("disable", disable)):
        if value or key in table:
            table[key] = value
            text = _with(text, section, key, value)
    if not table.keys() & {"prefer", "disable"}:
        return  # enabled already
    try:
        right = tomllib.loads(text) == whole
    except tomllib.TOMLDecodeError:
        right = False
    if not right:
        raise InvalidArgument(
            errno.EINVAL,
            f"[{'.'.join(section)}] is written in a way that this command cannot change; "
            "edit it by hand",
            str(file),
        )
    _replace(file, text)


def _with(text: str, section: list[str], key: str, value: list[str]) -> str:
    """`text` with `key` of `section` set, everything else as it was."""
    lines = text.splitlines()
    entry = f"{key} = {json.dumps(value)}"
    begin = next((i for i, line in enumerate(lines) if _header(line) == section), None)
    if begin is None:
        shown = ".".join(p if re.fullmatch(r"[\w-]+", p) else json.dumps(p) for p in section)
        lines += [*([""] if lines else []), f"[{shown}]", entry]
        return "\n".join(lines) + "\n"
    end = begin + 1
    while end < len(lines) and _header(lines[end]) is None:
        end += 1
    for i in range(begin + 1, end):
        if re.match(rf"\s*{key}\s*=", lines[i]):
            for j in range(i + 1, end + 1):
                try:
                    tomllib.loads("\n".join(lines[i:j]))
                except tomllib.TOMLDecodeError:
                    continue
                lines[i:j] = [entry]
                return "\n".join(lines) + "\n"
    lines.insert(begin + 1, entry)
    return "\n".join(lines) + "\n"


def _header(line: str) -> list[str] | None:
    """The path of a table whose header this line is."""
    if not line.lstrip().startswith("["):
        return None
    try:
        table: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return None
    found = []
    while isinstance(table, dict) and table:
        ((name, table),) = table.items()
        found.append(name)
    return found


def _replace(file: Path, text: str) -> None:
    """The file anew, all at once; readable by all, writable by its owner, as its readers demand."""
    file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.{os.urandom(8).hex()}")
    fd = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w") as out:
            out.write(text)
            out.flush()
            os.fchmod(fd, 0o644)
            os.fsync(fd)
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)
