"""Measures one algorithm on this host's engines: speed by size of the message, in one process."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cryptofd.cli.options import add_json
from cryptofd.cli.output import print_json, print_table, size

if TYPE_CHECKING:
    from cryptofd.description import Algorithm

SIZES = (16, 1024, 16 * 1024, 1024 * 1024)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("algorithms", nargs="*", default=["gcm(aes)"], metavar="ALG")
    parser.add_argument("--engine", action="append", metavar="NAME", help="only these")
    parser.add_argument(
        "--seconds", type=float, default=0.2, help="for each figure; default: %(default)s"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    import errno

    import cryptofd
    from cryptofd.errors import CryptoFDError, UnknownAlgorithm

    table = {n: a for a in cryptofd.algorithms() for n in (a.name, *a.aliases)}
    engines = options.engine or [e.name for e in cryptofd.engines() if e.available and e.enabled]
    results: list[dict[str, Any]] = []
    for name in options.algorithms:
        if name not in table:
            raise UnknownAlgorithm(errno.ENOENT, f"no algorithm {name!r}; `cryptofd algorithms`")
        for engine in engines:
            try:
                driver, work = _work(table[name], engine)
            except CryptoFDError as error:
                results.append({"algorithm": name, "engine": engine, "why_not": error.strerror})
                continue
            speeds = {}
            for bytes_ in SIZES:
                speeds[bytes_] = _rate(work, bytes_, options.seconds)
            results.append(
                {"algorithm": name, "engine": engine, "driver": driver, "per_second": speeds}
            )
    failed = all("why_not" in result for result in results)
    if options.json:
        print_json(results)
        return int(failed)
    rows = []
    for result in results:
        if "why_not" in result:
            figures = ["" for _ in SIZES]
            note = result["why_not"]
        else:
            figures = [f"{size(n * rate)}/s" for n, rate in result["per_second"].items()]
            note = f"{result['driver']}, {1e6 / result['per_second'][SIZES[0]]:.2f} µs at 16 B"
        rows.append((result["algorithm"], result["engine"], *figures, note))
    print_table(("algorithm", "engine", *(size(n) for n in SIZES), "driver"), rows)
    return int(failed)


def _work(algorithm: Algorithm, engine: str) -> tuple[str, Callable[[bytes], object]]:
    """The driver, and what is done with a message."""
    import errno

    import cryptofd
    from cryptofd.errors import Unsupported

    key = None
    if algorithm.key is not None and algorithm.kind not in {"hash"}:
        # The longest key of those that are measured elsewhere too: 256 bits where they fit.
        fitting = [n for n in (32, 64, 24, 16, algorithm.key.min) if n in algorithm.key]
        key = bytes(range(fitting[0]))
    iv = bytes(algorithm.iv_default) if algorithm.iv else None
    options: dict[str, Any] = {"engine": engine}
    if algorithm.kind == "mac" and iv is not None:
        options["iv"] = iv
    fd = cryptofd.open(algorithm.name, key=key, **options)
    driver = fd.info().driver
    match algorithm.kind:
        case "mac" if algorithm.one_message:

            def anew(data: bytes) -> object:
                with cryptofd.open(algorithm.name, key=key, **options) as one:
                    one.update(data)
                    return one.digest()

            return driver, anew
        case "hash" | "xof" | "mac":

            def digest(data: bytes) -> object:
                fd.reset()
                fd.update(data)
                return fd.digest()

            return driver, digest
        case "aead" | "cipher":
            return driver, lambda data: fd.encrypt(data, iv=iv)
        case "wrap":
            return driver, fd.wrap
        case "rng":
            return driver, lambda data: fd.read(len(data))
        case _:
            raise Unsupported(
                errno.EOPNOTSUPP, f"{algorithm.name} is a {algorithm.kind}: it has no speed by size"
            )


def _rate(work: Callable[[bytes], object], size: int, seconds: float) -> float:
    """Messages a second: the best of five parts of the time."""
    data = bytes(size)
    work(data)
    best = 0.0
    for _ in range(5):
        count, begin = 0, time.perf_counter()
        end = begin + seconds / 5
        while (now := time.perf_counter()) < end or not count:
            for _ in range(1 if size > 65536 else 16):
                work(data)
            count += 1 if size > 65536 else 16
        now = time.perf_counter()
        best = max(best, count / (now - begin))
    return best
