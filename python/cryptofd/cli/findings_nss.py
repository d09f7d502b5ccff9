"""What the doctor looks at of the PKCS#11 module: it loads, and which NSS databases have it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

from cryptofd.cli.findings import Finding

TOPIC = "PKCS#11 module"


def module() -> Iterator[Finding]:
    """It is there, and a program can load it."""
    from cryptofd.cli.setup import library

    try:
        path = library()
    except OSError as error:
        yield Finding(TOPIC, "broken", f"{error.strerror}")
        return
    why = loads(path)
    if why is not None:
        yield Finding(TOPIC, "broken", f"{path} does not load: {why}", ("install cryptofd again",))
    else:
        yield Finding(TOPIC, "ok", f"{path} loads")


def loads(path: Path) -> str | None:
    """Why not."""
    try:
        functions = ctypes.c_void_p()
        rv = ctypes.CDLL(str(path)).C_GetFunctionList(ctypes.byref(functions))
    except (OSError, AttributeError) as error:
        return str(error)
    return f"C_GetFunctionList answers {rv:#x}" if rv or not functions else None


def databases() -> Iterator[Finding]:
    """Those of the user's that are where NSS programs have them."""
    from cryptofd.cli.nss_database import Database, folders, mechanisms

    for folder in folders(Path.home()):
        try:
            database = Database.read(folder)
        except OSError as error:
            yield Finding(TOPIC, "absent", f"{folder}: {error.strerror}")
            continue
        ours = database.ours
        if ours is None:
            todo = (f"cryptofd setup nss --db {folder}",)
            yield Finding(TOPIC, "absent", f"{folder}: NSS does not know cryptofd here", todo)
        elif (why := loads(Path(ours.library))) is not None:
            todo = (f"cryptofd setup nss --db {folder}, or with --undo",)
            yield Finding(TOPIC, "broken", f"{folder}: {ours.library} does not load: {why}", todo)
        else:
            count = sum(database.chooses_us(kind) for kind in mechanisms())
            what = f"NSS asks cryptofd for {count} mechanisms" if count else "for keys alone"
            todo = (f"cryptofd doctor --nss {folder}",)
            yield Finding(TOPIC, "ok", f"{folder}: cryptofd is in, {what}", todo)
