"""Makes programs use cryptofd's PKCS#11 module, or tells how; --undo takes it back.

nss       an NSS database: Firefox, Thunderbird, Chromium, certutil, libreswan …
p11-kit   everything that asks p11-kit: GnuTLS, curl, wpa_supplicant …
openssh   ssh and ssh-agent
java      the provider SunPKCS11

Profiles for nss:
  keys  the broker's keys are there to be used; NSS computes everything else as before
  bulk  digests, AES, MACs and random bytes come to cryptofd, too
  all   and RSA with keys that the program brings
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=list(DOES))
    parser.add_argument(
        "--db", metavar="DIR", type=Path, help="nss: the database; ~/.pki/nssdb if nothing is said"
    )
    parser.add_argument(
        "--dir", metavar="DIR", type=Path, help="p11-kit: another folder of modules than its own"
    )
    parser.add_argument("--profile", choices=["keys", "bulk", "all"], default="keys")
    parser.add_argument("--print", action="store_true", dest="only", help="show; change nothing")
    parser.add_argument("--undo", action="store_true", help="take it back")


def run(options: argparse.Namespace) -> int:
    DOES[options.what](options)
    return 0


def library() -> Path:
    """The module as it is installed."""
    import errno

    import cryptofd
    from cryptofd.cli.nss_database import LIBRARY
    from cryptofd.errors import CryptoFDError

    path = Path(cryptofd.__file__).resolve().parent / "lib" / LIBRARY
    if not path.exists():
        raise CryptoFDError(errno.ENOENT, f"{path} is not there; install cryptofd again")
    return path


def nss(options: argparse.Namespace) -> None:
    """Registers the module with both of NSS's knobs."""
    from cryptofd.cli.nss_database import Database, stanza

    folder = (options.db or Path.home() / ".pki" / "nssdb").expanduser()
    # As NSS writes it.
    if str(folder).startswith("sql:"):
        folder = Path(str(folder).removeprefix("sql:"))
    database = Database.read(folder)
    before = database.text()
    others = [one for one in database.stanzas if not one.ours]
    database.stanzas = others if options.undo else [*others, stanza(library(), options.profile)]
    if options.only:
        print(database.text() if options.undo else database.stanzas[-1].text)
        return
    if database.text() == before:
        print(f"{database.path}: nothing to change")
        return
    database.write()
    if options.undo:
        print(f"{database.path}: cryptofd is taken out")
        return
    print(f"{database.path}: cryptofd is in, profile {options.profile}")
    for line in told(database, options.profile):
        print(f"  {line}")


def told(database: object, profile: str) -> list[str]:
    """What that means."""
    from cryptofd.cli.nss_database import Database, mechanisms

    assert isinstance(database, Database)
    ours = [kind for kind in mechanisms() if database.chooses_us(kind)]
    lines = ["token 'cryptofd keys': the broker's keys and your certificates for them"]
    if ours:
        lines.append(f"token 'cryptofd': NSS asks it for {len(ours)} mechanisms")
    else:
        lines.append("token 'cryptofd': only for programs that name it")
    lines += [
        "programs that run now see it when they start again; close a browser before you change it",
        f"undo: cryptofd setup nss --db {database.folder} --undo",
    ]
    return lines


def p11_kit(options: argparse.Namespace) -> None:
    """A file of p11-kit's own: the user's, or for root the system's."""
    folder: Path | None = options.dir
    if folder is None and os.geteuid() == 0:
        folder = Path("/etc/pkcs11/modules")
    elif folder is None:
        config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        folder = Path(config) / "pkcs11" / "modules"
    path = folder / "cryptofd.module"
    text = f"module: {library()}\npriority: -1\ntrust-policy: no\n"
    if options.only:
        print(f"# {path}\n{text}", end="")
    elif options.undo:
        path.unlink(missing_ok=True)
        print(f"{path}: is gone")
    elif path.exists() and path.read_text() == text:
        print(f"{path}: nothing to change")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".new")
        unfinished.write_text(text)
        unfinished.replace(path)
        print(f"{path}: written; p11-kit list-modules shows it")


def openssh(options: argparse.Namespace) -> None:
    """Tells: ssh_config is its owner's to write."""
    path = library()
    if options.undo:
        print("Take the line `PKCS11Provider` out of ~/.ssh/config, and `ssh-add -e` the module:")
        print(f"ssh-add -e {path}")
        return
    print("# ~/.ssh/config; the public keys: ssh-keygen -D the same path")
    print(f"PKCS11Provider {path}")
    print(f"# or, with an agent that was started with -P {path}:")
    print(f"# ssh-add -s {path}")


def java(options: argparse.Namespace) -> None:
    """Tells: a provider's configuration, one a slot."""
    path = library()
    if options.undo:
        print("Take the two lines `security.provider.N=SunPKCS11 …` out of java.security.")
        return
    print("# cryptofd.cfg; for the broker's keys: name = cryptofd-keys, slotListIndex = 1")
    print(f"name = cryptofd\nlibrary = {path}\nslotListIndex = 0")
    print("# java.security: security.provider.N=SunPKCS11 /path/cryptofd.cfg")
    print(
        "# or: keytool -providerClass sun.security.pkcs11.SunPKCS11 -providerArg /path/cryptofd.cfg"
    )


DOES: dict[str, Callable[[argparse.Namespace], None]] = {
    "nss": nss, "p11-kit": p11_kit, "openssh": openssh, "java": java,
}  # fmt: skip
