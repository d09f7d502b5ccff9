"""Arguments as CPython's C functions take them: the same conversions, and the same complaints.

python-nss is written in C. What its functions say of wrong arguments comes from CPython's
PyArg_ParseTuple, and programs (and their tests) see it: so the functions here say the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

#: What is given, the function's name, the argument's place (from 1): what the function gets.
Converter = Callable[[Any, str, int], Any]

_INT_MAX = (1 << 31) - 1
_LONG_BITS = 64


def _kind(value: object) -> str:
    if value is None:
        return "None"
    return full_name(type(value))


def full_name(kind: type) -> str:
    """A type's name as C knows it: its module's name is part of it only for those of this door."""
    if kind.__module__.startswith(__package__ or ""):
        return f"{kind.__module__}.{kind.__qualname__}"
    return kind.__qualname__


def _wrong(name: str, place: int, expected: str, value: object) -> TypeError:
    return TypeError(f"{name}() argument {place} must be {expected}, not {_kind(value)}")


def anything(value: Any, name: str, place: int) -> Any:
    """Any object."""
    return value


def unsigned(value: Any, name: str, place: int) -> int:
    """An unsigned long: of a longer number, its low bits."""
    if not isinstance(value, int):
        raise _wrong(name, place, "int", value)
    return value & ((1 << _LONG_BITS) - 1)


def integer(value: Any, name: str, place: int) -> int:
    """A C int."""
    if not hasattr(value, "__index__"):
        raise TypeError(f"{type(value).__name__!r} object cannot be interpreted as an integer")
    number = value.__index__()
    if not isinstance(number, int):
        raise TypeError(f"__index__ returned non-int (type {type(number).__name__})")
    if not -(1 << (_LONG_BITS - 1)) <= number < 1 << (_LONG_BITS - 1):
        raise OverflowError("Python int too large to convert to C long")
    if number > _INT_MAX:
        raise OverflowError("signed integer is greater than maximum")
    if number < -_INT_MAX - 1:
        raise OverflowError("signed integer is less than minimum")
    return number


def as_bytes(value: Any) -> bytes:
    """What is in a buffer; TypeError where there is none. Before Python 3.12 a class that is
    written in Python is a buffer for those only who ask it."""
    if type(value) is bytes:
        return value
    return bytes(value.__buffer__(0) if hasattr(value, "__buffer__") else memoryview(value))


def octets(value: Any, name: str, place: int) -> bytes:
    """Bytes; a copy, for what was given may change under us. Any buffer is taken."""
    try:
        return as_bytes(value)
    except TypeError:
        # memoryview's own words are not those of the functions that take bytes.
        raise TypeError(f"a bytes-like object is required, not {type(value).__name__!r}") from None


def octets_or_text(value: Any, name: str, place: int) -> bytes | None:
    """Bytes, text (as UTF-8) or None."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode()
    try:
        return as_bytes(value)
    except TypeError:
        raise TypeError(f"a bytes-like object is required, not {type(value).__name__!r}") from None


def text(value: Any, name: str, place: int) -> str:
    """Text without a null character."""
    if not isinstance(value, str):
        raise _wrong(name, place, "str", value)
    if "\0" in value:
        raise ValueError("embedded null character")
    return value


def encoded(value: Any, name: str, place: int) -> str:
    """Text without a null character, where C wants it in UTF-8."""
    if not isinstance(value, str):
        raise _wrong(name, place, "str", value)
    if "\0" in value:
        raise _wrong(name, place, "encoded string without null bytes", value)
    return value


def password(value: Any, name: str, place: int) -> str:
    """Text, any."""
    if not isinstance(value, str):
        raise TypeError(f"must be a string, not {type(value).__name__}")
    return value


def text_or_none(value: Any, name: str, place: int) -> str | None:
    """Text without a null character, or None."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise _wrong(name, place, "str or None", value)
    return text(value, name, place)


def a(kind: type) -> Converter:
    """An object of this type."""

    def convert(value: Any, name: str, place: int) -> Any:
        if not isinstance(value, kind):
            raise _wrong(name, place, full_name(kind), value)
        return value

    return convert


def a_or_none(kind: type) -> Converter:
    """An object of this type, or None."""

    def convert(value: Any, name: str, place: int) -> Any:
        if value is not None and not isinstance(value, kind):
            shown = "NoneType" if value is None else full_name(type(value))
            raise TypeError(f"must be {full_name(kind)} or None, not {shown}")
        return value

    return convert


def _plural(count: int) -> str:
    return "argument" if count == 1 else "arguments"


def _positional(name: str, arguments: tuple[Any, ...], least: int, most: int, rest: bool) -> None:
    given = min(len(arguments), most) if rest else len(arguments)
    if given < least:
        how, bound = ("exactly" if least == most else "at least"), least
    elif given > most:
        how, bound = ("exactly" if least == most else "at most"), most
    else:
        return
    raise TypeError(f"{name}() takes {how} {bound} {_plural(bound)} ({given} given)")


def _named(
    name: str,
    names: tuple[str, ...],
    converters: tuple[Converter, ...],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    least: int,
) -> dict[str, Any]:
    given = len(arguments) + len(options)
    if given > len(names):
        kind = "" if arguments else "keyword "
        raise TypeError(
            f"{name}() takes at most {len(names)} {kind}{_plural(len(names))} ({given} given)"
        )
    converted = {}
    for place, (each, convert) in enumerate(zip(names, converters, strict=True)):
        if place < len(arguments):
            if each in options:
                raise TypeError(
                    f"argument for {name}() given by name ({each!r}) and position ({place + 1})"
                )
            converted[each] = convert(arguments[place], name, place + 1)
        elif each in options:
            converted[each] = convert(options[each], name, place + 1)
        elif place < least:
            raise TypeError(f"{name}() missing required argument {each!r} (pos {place + 1})")
    for each in options:
        if each not in names:
            raise TypeError(f"{each!r} is an invalid keyword argument for {name}()")
    return converted


def takes(
    *converters: Converter,
    optional: int = 0,
    keywords: bool = False,
    rest: bool = False,
    name: str | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a function take its arguments as a C function of this signature does.

    One converter an argument, the last ``optional`` of which may be left out; ``keywords``: they
    have names; ``rest``: what stands after them is passed on as it is.
    """
    most = len(converters)
    least = most - optional

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        shown = name or function.__name__
        code = function.__code__
        method = code.co_varnames[:1] == ("self",)
        names = code.co_varnames[method : method + most]
        qualified = function.__qualname__ if method else f"{__package__}.{shown}"

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            mine, arguments = arguments[:method], arguments[method:]
            if keywords:
                converted = _named(shown, names, converters, arguments, options, least)
                return function(*mine, **converted)
            if options:
                told = shown if converters else qualified
                raise TypeError(f"{told}() takes no keyword arguments")
            if not converters and arguments and not rest:
                raise TypeError(f"{qualified}() takes no arguments ({len(arguments)} given)")
            _positional(shown, arguments, least, most, rest)
            inorder = [
                convert(value, shown, place)
                for place, (convert, value) in enumerate(
                    zip(converters, arguments, strict=False), 1
                )
            ]
            return function(*mine, *inorder, *arguments[most:])  # type: ignore[call-arg]

        return call

    return decorate
