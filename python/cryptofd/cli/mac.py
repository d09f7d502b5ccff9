"""Prints or checks authentication codes (MACs) under a key, in sha256sum's format."""

from __future__ import annotations

import argparse
import errno
from typing import Any

from cryptofd.cli import digests
from cryptofd.cli.hash import add_lists, checking, print_digests
from cryptofd.cli.keys import add_key, key_of
from cryptofd.cli.options import add_engine, engine_options, hexadecimal

DEFAULT = "hmac(sha256)"


def configure(parser: argparse.ArgumentParser) -> None:
    add_key(parser)
    parser.add_argument(
        "-a", "--algorithm", default=DEFAULT, metavar="ALG", help=f"default: {DEFAULT}"
    )
    parser.add_argument("--iv", type=hexadecimal, metavar="HEX", help="the nonce of a GMAC")
    parser.add_argument(
        "--verify", metavar="HEX", help="compare with this code: 0 if it is the same"
    )
    add_lists(parser)
    add_engine(parser)


def run(options: argparse.Namespace) -> int:
    import hmac

    import cryptofd
    from cryptofd._core import HashFactory
    from cryptofd.errors import InvalidArgument

    name = options.algorithm
    known = {n: a for a in cryptofd.algorithms() for n in (a.name, *a.aliases)}
    if name in known and known[name].kind != "mac":
        raise InvalidArgument(
            errno.EINVAL,
            f"{name} is no MAC but a {known[name].kind}; `cryptofd algorithms` lists them",
        )
    asked = engine_options(options)
    if options.iv is not None:
        asked["iv"] = options.iv
    key = key_of(options.key)
    factory: Any
    if isinstance(key, str):
        if options.iv is not None:
            raise InvalidArgument(
                errno.EINVAL, "--iv: a key of the broker's makes codes without nonces only"
            )
        usage = "verify" if options.check or options.verify is not None else "sign"
        session = cryptofd.open(name, key=key, usage=[usage], **asked)
        # A file, a descriptor: threads do not wait for each other's.
        factory, size = session.clone, session.digest_size
    else:
        factory = HashFactory(name, key, **asked)
        size = factory.digest_size
    scheme = digests.Scheme(name, factory, None, size, compares=isinstance(key, str))
    files = options.files or ["-"]
    if known[name].one_message:
        # The session refuses every message but one: let that be the first.
        options.threads = 1
    if options.verify is not None:
        if len(files) != 1:
            raise InvalidArgument(errno.EINVAL, "--verify compares one file")
        expected = options.verify.strip().lower()
        task = (files[0], scheme.against(expected))
        (result,) = digests.in_order([task], "hashing", digests.total(files))
        if isinstance(result, OSError):
            raise result
        same = hmac.compare_digest(result.encode(), expected.encode())
        if not options.status:
            print("OK" if same else "FAILED")
        return int(not same)
    if options.check:
        # One key, one nonce: all lines are of this algorithm.
        def of_line(listed: digests.Listed) -> digests.Scheme | None:
            fits = listed.label in {None, name} and len(listed.digest) == 2 * scheme.size
            return scheme if fits else None

        return digests.check(files, of_line, checking(options))
    return print_digests(files, scheme, options)
