"""Other userlands: a root of another Debian suite, with its libc, its OpenSSL and its Python.

mmdebstrap fetches it, once, and checks the archive's signatures. A command runs in it on this
checkout: chroot(2) in a mount namespace of its own, so that nothing of it stays behind.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab.common import SUITES, LabError
from lab.kernels import CHECKOUT, cache

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# What the checkout needs to run there, and what is looked at. Nothing is configured: no script of a
# package runs.
_PACKAGES = (
    *("base-files", "coreutils", "dash", "mount", "util-linux"),
    *("python3", "python3-cffi-backend"),
)

# Where the checkout and Python's packages are mounted.
_PLACES = ("checkout", "packages")


@dataclass(frozen=True)
class _Recipe:
    suites: tuple[str, ...]
    packages: tuple[str, ...]
    preload: str = ""
    """The libcrypto that every program there has, where Python itself is linked with an older."""


_OPENSSL = ("openssl", "openssl-provider-fips")

# As of Debian 13: OpenSSL 3.5, 3.6 and 4.0.
RECIPES = {
    "trixie": _Recipe(("trixie",), _OPENSSL),
    "forky": _Recipe(("forky",), _OPENSSL),
    "experimental": _Recipe(
        ("sid", "experimental"),
        tuple(f"{package}=4.*" for package in _OPENSSL),
        preload="libcrypto.so.4",
    ),
}

# $0 is the root, $1 the checkout, $2 the directory of Python's packages; the rest is the command.
_ENTER = """
set -e
root=$0 checkout=$1 packages=$2
shift 2
mount --bind "$root" "$root"
mount -t tmpfs tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --bind "$checkout" "$root/checkout"
mount -o remount,bind,ro "$root/checkout"
mount --bind "$packages" "$root/packages"
mount -o remount,bind,ro "$root/packages"
mount -o remount,bind,ro "$root"
exec chroot "$root" /bin/sh -c 'cd /checkout && exec "$@"' sh "$@"
"""


@dataclass(frozen=True)
class Userland:
    """A root directory that is ready."""

    suite: str
    root: Path

    def command(self, *command: str) -> list[str]:
        """How to run `command` in this root and on this checkout (at /checkout, read-only)."""
        environment = {
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": "/checkout/python:/packages",
            "LD_PRELOAD": RECIPES[self.suite].preload,
        }
        packages = sysconfig.get_path("purelib")
        return [
            *("unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER),
            *(str(self.root), str(CHECKOUT), packages),
            *("env", "-i", *(f"{name}={value}" for name, value in environment.items())),
            *command,
        ]


def userland(suite: str) -> Userland:
    """The root of this suite, fetched first if it is not there yet. Needs to be root."""
    if suite not in SUITES:
        raise LabError(f"no userland {suite!r}; there are {', '.join(SUITES)}")
    if os.geteuid():
        raise LabError("another userland needs root: it is a chroot(2) in a mount namespace")
    home = cache() / "userland"
    home.mkdir(parents=True, exist_ok=True)
    root, ready = home / suite, home / f"{suite}.ready"
    with (home / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        recipe = _fingerprint(suite)
        if not ready.exists() or ready.read_text() != recipe:
            ready.unlink(missing_ok=True)
            if root.exists():
                shutil.rmtree(root)
            _fetch(suite, root)
            ready.write_text(recipe)
    return Userland(suite, root.resolve())


def _fingerprint(suite: str) -> str:
    """Of everything that decides what a root holds."""
    return hashlib.sha256(repr((_PACKAGES, _PLACES, RECIPES[suite])).encode()).hexdigest()


def _fetch(suite: str, root: Path) -> None:
    tool = shutil.which("mmdebstrap")
    if tool is None:
        raise LabError("mmdebstrap is not installed: apt-get install mmdebstrap")
    if not KEYRING.exists():
        raise LabError(f"no {KEYRING}: apt-get install debian-archive-keyring")
    recipe = RECIPES[suite]
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=root.parent) as scratch:
        tree = Path(scratch) / suite
        command = [
            *(tool, "--quiet", "--mode=root", "--variant=extract"),
            f"--include={','.join((*_PACKAGES, *recipe.packages))}",
            '--aptopt=Apt::Install-Recommends "false"',
            '--aptopt=Acquire::Languages "none"',
            *(recipe.suites[0], str(tree), *sources(suite)),
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"{suite}: mmdebstrap failed ({done.returncode}): {done.stderr.strip()}")
        for place in _PLACES:
            (tree / place).mkdir()
        tree.chmod(0o755)
        tree.rename(root)


def sources(suite: str) -> list[str]:
    """Where apt has a userland's packages from, as lines of a sources.list."""
    # Signatures are checked, the age of what is signed is not: suites in motion are valid for a
    # week, and a mirror that stands still is good enough for a test.
    options = f"signed-by={KEYRING} check-valid-until=no"
    mirror = _mirror()
    return [f"deb [{options}] {mirror} {source} main" for source in RECIPES[suite].suites]


def _mirror() -> str:
    """Where this host has Debian from."""
    ask = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)"]
    for again in (False, True):
        if again:  # who signed what is known only of what was fetched
            subprocess.run(["apt-get", "update", "-q"], check=False, capture_output=True)
        said = subprocess.run(ask, check=False, capture_output=True, text=True).stdout
        for line in said.splitlines():
            if line.startswith("Debian Debian "):
                return line.split(" ", 2)[2]
    raise LabError("apt has no sources of Debian's: the lab needs a Debian host")
