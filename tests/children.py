"""Forked children whose failures are the test's."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def in_a_child(does: Callable[[], None]) -> None:
    """Runs it in a forked child; what it raises fails the test."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            does()
            code = 0
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = file.read().decode()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, said
