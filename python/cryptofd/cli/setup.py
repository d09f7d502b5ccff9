"""Makes programs use cryptofd's OpenSSL provider or PKCS#11 module, or tells; --undo takes it back.

openssl   everything on OpenSSL 3 or later: openssl, curl, nginx, Python's ssl …
nss       an NSS database: Firefox, Thunderbird, Chromium, certutil, libreswan …
p11-kit   everything that asks p11-kit: GnuTLS, curl, wpa_supplicant …
openssh   ssh and ssh-agent
java      the provider SunPKCS11

Profiles for nss and openssl:
  keys  the broker's keys are there to be used; everything else is computed as before
  bulk  digests, ciphers, MACs and key derivation come to cryptofd, too; for openssl those that
        are faster here, which is measured
  all   all of them, and random bytes; for nss also RSA with keys that the program brings
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
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--user", action="store_true", help="openssl: a file of yours, for OPENSSL_CONF (default)"
    )
    where.add_argument(
        "--system", action="store_true", help="openssl: the system's configuration, for everybody"
    )
    parser.add_argument("--profile", choices=["keys", "bulk", "all"], default="keys")
    parser.add_argument("--print", action="store_true", dest="only", help="show; change nothing")
    parser.add_argument("--undo", action="store_true", help="take it back")


def run(options: argparse.Namespace) -> int:
    DOES[options.what](options)
    return 0


def library(name: str | None = None) -> Path:
    """A module as it is installed; without a name, that of PKCS#11."""
    import errno

    import cryptofd
    from cryptofd.cli.nss_database import LIBRARY
    from cryptofd.errors import CryptoFDError

    path = Path(cryptofd.__file__).resolve().parent / "lib" / (name or LIBRARY)
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


def openssl(options: argparse.Namespace) -> None:
    """A file of the user's that has the system's configuration in it, or the system's itself."""
    import errno

    from cryptofd.cli import openssl_configuration as ossl
    from cryptofd.cli.openssl_measured import measured, summary
    from cryptofd.errors import CryptoFDError

    base = ossl.system()
    if options.system:
        if base is None:
            raise CryptoFDError(errno.ENOENT, "no libcrypto 3 or later: apt install libssl3")
        path = base
    else:
        path = ossl.users()
    before = path.read_text() if path.exists() else ""
    if options.undo:
        after = ossl.without(before) if options.system else ""
        if before and not options.system and ossl.BEGIN not in before:
            raise CryptoFDError(errno.EEXIST, "was not made by cryptofd setup", str(path))
    else:
        included = base if base is not None and base.exists() else None
        text = before if options.system else f".include {included}\n" if included else ""
        module = library(ossl.LIBRARY)
        after = ossl.with_ours(text, path.parent, module, options.profile)
    if options.only:
        print(f"# {path}\n{after}", end="")
        return
    if after == before:
        print(f"{path}: nothing to change")
    elif not after and not options.system:
        path.unlink()
        print(f"{path}: is gone; unset OPENSSL_CONF where you set it")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.cryptofd-new")
        unfinished.write_text(after)
        if path.exists():
            unfinished.chmod(path.stat().st_mode & 0o7777)
        unfinished.replace(path)
        print(f"{path}: cryptofd is {'taken out' if options.undo else 'in'}")
    if options.undo:
        return
    if not options.system:
        print(f"  for the shell, or a service's environment: export OPENSSL_CONF={path}")
    print(f"  profile {options.profile}; `openssl list -providers` shows {ossl.NAME}")
    if options.profile == "bulk":
        print(
            f"  {summary(measured(library(ossl.LIBRARY), again=True, everybodys=options.system))}"
        )
        print("  OpenSSL goes on doing the rest")
    print("  programs that run now see it when they start again")
    scope = "--system" if options.system else "--user"
    print(f"  undo: cryptofd setup openssl {scope} --undo")


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
    "openssl": openssl, "nss": nss, "p11-kit": p11_kit, "openssh": openssh, "java": java,
}  # fmt: skip
