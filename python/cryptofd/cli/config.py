"""Where the C library and its header are: what a compiler wants to know."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cflags", action="store_true", help="the compiler's flags")
    parser.add_argument("--libs", action="store_true", help="the linker's flags")
    parser.add_argument("--man", action="store_true", help="the folder of cryptofd(3)")


def run(options: argparse.Namespace) -> int:
    from pathlib import Path

    import cryptofd

    home = Path(cryptofd.__file__).parent
    library = home / "lib"
    words = []
    everything = not (options.cflags or options.libs or options.man)
    if options.cflags or everything:
        words.append(f"-I{home / 'include'}")
    if options.libs or everything:
        words.append(f"-L{library} -Wl,-rpath,{library} -lcryptofd")
    if options.man:
        words.append(str(home / "man"))
    print(" ".join(words))
    return 0
