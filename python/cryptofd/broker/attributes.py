"""What the attributes of a key look like: types and ranges, asked of what a worker answers.

The worker has the same rules (crates/daemon, worker/attributes.rs); one that was taken over has
none.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

#: A number that JSON carries everywhere.
_NUMBER = 1 << 53
_HEX = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")
_TEXT = 256


def _number(value: Any, least: int = 0, most: int = _NUMBER) -> bool:
    return type(value) is int and least <= value <= most


def _text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _TEXT and value.isprintable()


def _words(value: Any) -> bool:
    return (
        isinstance(value, list)
        and all(map(_text, value))
        and all(one < two for one, two in itertools.pairwise(value))
    )


def _template(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and value.keys() == {"algorithm", "bits", "usage"}
        and _text(value["algorithm"])
        and _number(value["bits"], 1, 1 << 19)
        and _words(value["usage"])
    )


def strange(attributes: Mapping[str, Any]) -> str | None:
    """The name of an attribute that is none, if there is one."""
    for name, value in attributes.items():
        match name:
            case "bits":
                right = _number(value, 1, 1 << 19)
            case "version":
                right = _number(value, 1, 255)
            case "created":
                right = _number(value)
            case "expires":
                right = value is None or _number(value)
            case "uses":
                # No more than may be sealed.
                right = value is None or _number(value, 0, 1 << 32)
            case "tag_size":
                right = value is None or _number(value, 0, 64)
            case "exportable" | "wrappable" | "trusted":
                right = type(value) is bool
            case "wrap_template" | "derive_template":
                right = _template(value)
            case "usage":
                right = _words(value) and bool(value)
            case "type":
                right = value in ("secret", "pair", "public")
            case "iv":
                right = value in (None, "worker", "caller")
            case "fingerprint":
                right = isinstance(value, str) and _HEX.fullmatch(value) is not None
            case _:
                right = _text(value)
        if not right:
            return name
    return None
