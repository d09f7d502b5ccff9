"""Prints or checks digests, in sha256sum's format and with its exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cryptofd.cli import digests
from cryptofd.cli.options import add_engine, add_json, engine_options
from cryptofd.cli.output import print_json

DEFAULT = "sha256"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--algorithm", metavar="ALG", help=f"default: {DEFAULT}")
    parser.add_argument(
        "-l", "--length", type=int, metavar="BITS", help="of the digest: shake, blake2"
    )
    add_lists(parser)
    add_engine(parser)


def add_lists(parser: argparse.ArgumentParser) -> None:
    """The options that sha256sum has too."""
    parser.add_argument("files", nargs="*", metavar="FILE", help="none, or -: standard input")
    parser.add_argument("-b", "--binary", action="store_true", help="mark the names with *")
    parser.add_argument("-t", "--text", action="store_true", help="do not (the default)")
    parser.add_argument("--tag", action="store_true", help="BSD's style: ALG (FILE) = DIGEST")
    parser.add_argument("-z", "--zero", action="store_true", help="end lines with NUL, escape none")
    parser.add_argument(
        "-j", "--threads", type=int, metavar="N", help="files at a time; default: a core each"
    )
    add_json(parser)
    check = parser.add_argument_group("checking")
    check.add_argument("-c", "--check", action="store_true", help="FILEs are lists of digests")
    check.add_argument("--ignore-missing", action="store_true", help="pass over missing files")
    check.add_argument("--quiet", action="store_true", help="no OK for each file")
    check.add_argument("--status", action="store_true", help="no output, only the exit code")
    check.add_argument("--strict", action="store_true", help="fail for improper lines")
    check.add_argument("-w", "--warn", action="store_true", help="tell which lines are improper")


def checking(options: argparse.Namespace) -> digests.Checking:
    """Those options as one value."""
    return digests.Checking(
        quiet=options.quiet,
        status=options.status,
        strict=options.strict,
        warn=options.warn,
        ignore_missing=options.ignore_missing,
        threads=options.threads,
    )


def run(options: argparse.Namespace) -> int:
    schemes = _Schemes(options)
    files = options.files or ["-"]
    if options.check:
        return digests.check(files, schemes.of_line, checking(options))
    return print_digests(files, schemes.of(options.algorithm or DEFAULT, options.length), options)


def print_digests(files: Sequence[str], scheme: digests.Scheme, options: argparse.Namespace) -> int:
    """The digest of each file, a line each; 1 if one could not be read."""
    failed = False
    listed = []
    tasks = ((path, scheme) for path in files)
    results = digests.in_order(tasks, "hashing", digests.total(files), options.threads)
    for path, result in zip(files, results, strict=True):
        if isinstance(result, OSError):
            digests.complain(f"{digests.quoted(path)}: {result.strerror}")
            failed = True
        elif options.json:
            listed.append({"file": path, "algorithm": scheme.label, "digest": result})
        else:
            sys.stdout.buffer.write(
                digests.line(
                    scheme.label,
                    result,
                    path,
                    tag=options.tag,
                    binary=options.binary,
                    zero=options.zero,
                ).encode("utf-8", "surrogateescape")
            )
    if options.json:
        print_json(listed)
    return int(failed)


class _Schemes:
    """Hashes by name and length, each opened once."""

    def __init__(self, options: argparse.Namespace) -> None:
        import cryptofd

        self._options = options
        self._engine = engine_options(options)
        self._made: dict[tuple[str, int | None], digests.Scheme] = {}
        self._hashes = [a for a in cryptofd.algorithms() if a.kind in {"hash", "xof"}]

    def of(self, name: str, bits: int | None) -> digests.Scheme:
        """The scheme of this algorithm, its digest of `bits`."""
        import errno

        from cryptofd._core import HashFactory
        from cryptofd.errors import InvalidArgument

        if (name, bits) in self._made:
            return self._made[name, bits]
        if bits is not None and (bits <= 0 or bits % 8):
            raise InvalidArgument(errno.EINVAL, f"--length {bits}: a multiple of 8 bits is needed")
        kind = next((a.kind for a in self._hashes if name in (a.name, *a.aliases)), None)
        size = None if bits is None else bits // 8
        choice = {} if kind == "xof" or size is None else {"digest_size": size}
        factory = HashFactory(name, None, **choice, **self._engine)
        length = size if kind == "xof" else None
        label = _label(name) + (f"-{bits}" if bits is not None else "")
        scheme = digests.Scheme(label, factory, length, size or factory.digest_size)
        self._made[name, bits] = scheme
        return scheme

    def of_line(self, listed: digests.Listed) -> digests.Scheme | None:
        """The scheme that a line of a list means; None where it does not fit what was asked for."""
        asked = self._options.algorithm
        size = len(listed.digest) // 2
        name = asked or DEFAULT
        if listed.label is not None:
            named = self._named(listed.label)
            if named is None or (asked and named != asked):
                return None
            name = named
        found = next((a for a in self._hashes if name in (a.name, *a.aliases)), None)
        if found is None:
            return self.of(name, None)  # raises: no such algorithm
        variable = found.kind == "xof" or found.name.startswith("blake2")
        if len(listed.digest) % 2 or (size != found.digest_size and not variable):
            return None
        return self.of(name, None if size == found.digest_size else size * 8)

    def _named(self, label: str) -> str | None:
        """The algorithm of a tag: `SHA256`, `BLAKE2b-256`, openssl's `SHA2-256`."""
        labels = {_label(a.name).lower(): a.name for a in self._hashes}
        labels |= {a.names["openssl"].lower(): a.name for a in self._hashes if a.names["openssl"]}
        short, _, bits = label.lower().rpartition("-")
        if label.lower() in labels:
            return labels[label.lower()]
        return labels.get(short) if bits.isdecimal() else None


def _label(name: str) -> str:
    """The name as `--tag` writes it, coreutils' spelling where that has one."""
    return {"blake2b": "BLAKE2b", "blake2s": "BLAKE2s"}.get(name, name.upper())
