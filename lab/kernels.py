"""The kernels: where they come from, how they are fetched once, and what boots them."""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.common import NAMES, LabError

CHECKOUT = Path(__file__).resolve().parent.parent

# The packages that a Debian host needs for the lab.
PACKAGES = ("busybox-static", "cpio", "kmod", "qemu-system-x86", "user-mode-linux", "zstd")

# Kernels that boot in QEMU: Debian's name of the package that always names the newest build.
_METAPACKAGES = {"qemu-6.1": "linux-image-amd64", "qemu-6.12": "linux-image-6.12-amd64"}

# Of a kernel package only this is unpacked: the rest is drivers for hardware that no test has.
_WANTED = (
    "./boot/vmlinuz-*",
    "./boot/config-*",
    "./lib/modules/*/modules.*",
    "./lib/modules/*/kernel/arch/*",
    "./lib/modules/*/kernel/crypto/*",
    "./lib/modules/*/kernel/drivers/char/*",
    "./lib/modules/*/kernel/drivers/crypto/*",
    "./lib/modules/*/kernel/drivers/md/*",
    "./lib/modules/*/kernel/drivers/virtio/*",
    "./lib/modules/*/kernel/fs/9p/*",
    "./lib/modules/*/kernel/fs/fscache/*",
    "./lib/modules/*/kernel/fs/netfs/*",
    "./lib/modules/*/kernel/lib/*",
    "./lib/modules/*/kernel/net/9p/*",
    "./lib/modules/*/kernel/security/*",
)

# What the initrd loads before the host's root is there.
_FOR_ROOT = ("virtio_pci", "9pnet_virtio", "9p")


@dataclass(frozen=True)
class Kernel:
    """One kernel ready to boot."""

    name: str
    """As on the command line: `uml`, `qemu-6.1`, `qemu-6.12`."""
    release: str
    """What `uname -r` says in it."""
    image: Path
    """A bootable file: User-Mode Linux's program, or an ELF or bzImage for QEMU."""
    initrd: Path
    modules: Path
    """The root for `modprobe -d`: `lib/modules/RELEASE` lies below it."""

    @property
    def in_qemu(self) -> bool:
        return self.name != "uml"


def cache() -> Path:
    """The directory that holds kernels and initrds; CRYPTOFD_LAB_CACHE moves it."""
    return Path(os.environ.get("CRYPTOFD_LAB_CACHE") or CHECKOUT / ".lab")


def kernel(name: str) -> Kernel:
    """The kernel of this name, fetched first if it is not there yet."""
    if name not in NAMES:
        raise LabError(f"no kernel {name!r}; there are {', '.join(NAMES)}")
    ready = cache() / name / "ready.json"
    with _locked():
        try:
            facts = json.loads(ready.read_text())
        except FileNotFoundError:
            facts = None
        if facts is None or facts["recipe"] != _recipe():
            facts = _prepare(name)
            facts["recipe"] = _recipe()
            ready.write_text(json.dumps(facts, indent=1) + "\n")
    home = cache() / name
    return Kernel(
        name=name,
        release=facts["release"],
        image=Path(facts["image"]),
        initrd=home / "initrd.gz",
        modules=home,
    )


def _recipe() -> str:
    """A fingerprint of everything that decides what the cache holds."""
    recipe = hashlib.sha256()
    for part in ("kernels.py", "init.sh"):
        recipe.update((Path(__file__).parent / part).read_bytes())
    return recipe.hexdigest()


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prepare(name: str) -> dict[str, str]:
    home = cache() / name
    home.mkdir(exist_ok=True)
    facts = _user_mode_linux(home) if name == "uml" else _debian(name, home)
    order: list[Path] = [] if name == "uml" else _root_modules(home, facts["release"])
    _write_initrd(home / "initrd.gz", order)
    return facts


def _user_mode_linux(home: Path) -> dict[str, str]:
    image = _tool("linux.uml", "user-mode-linux")
    release = _output(image, "--version").strip()
    modules = Path("/usr/lib/uml/modules") / release
    if not (modules / "modules.dep").exists():
        raise LabError(f"{image} is Linux {release}, but {modules} is not there")
    link = home / "lib" / "modules" / release
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(modules)
    return {"release": release, "image": image}


def _debian(name: str, home: Path) -> dict[str, str]:
    """Debian's kernel, unpacked without being installed."""
    if not any(home.glob("boot/vmlinuz-*")):
        _fetch(name, home)
    compressed = _only(home, "boot/vmlinuz-*")
    release = compressed.name.removeprefix("vmlinuz-")
    _output(_tool("depmod", "kmod"), "-b", str(home), release)
    image = home / "vmlinux"
    if not image.exists():
        _uncompress(compressed, image)
    return {"release": release, "image": str(image)}


def _fetch(name: str, home: Path) -> None:
    meta = _METAPACKAGES[name]
    if not _real_package(meta):
        _output("apt-get", "update", "-q")
    package = _real_package(meta)
    if not package:
        raise LabError(f"apt knows no {meta}: the lab needs Debian 12 with its security archive")
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache()) as scratch:
        download = ["apt-get", "download", "-q", package]
        if subprocess.run(download, cwd=scratch, check=False, capture_output=True).returncode:
            # A list of packages that is a day old names builds that the mirror no longer has.
            _output("apt-get", "update", "-q")
            _output(*download, cwd=scratch)
        deb = _only(Path(scratch), "*.deb")
        tree = Path(scratch) / "tree"
        _unpack(deb, tree)
        for part in ("boot", "lib"):
            shutil.rmtree(home / part, ignore_errors=True)
            (tree / part).rename(home / part)
        (home / "vmlinux").unlink(missing_ok=True)


def _unpack(deb: Path, tree: Path) -> None:
    command = ["dpkg", "--fsys-tarfile", str(deb)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as unpacked,
        tarfile.open(fileobj=unpacked.stdout, mode="r|") as members,
    ):
        for member in members:
            if any(fnmatch.fnmatchcase(member.name, wanted) for wanted in _WANTED):
                members.extract(member, tree, filter="data")
    if unpacked.returncode:
        raise LabError(f"{' '.join(command)} failed ({unpacked.returncode})")


def _real_package(meta: str) -> str | None:
    """The kernel package that a metapackage stands for today."""
    found = subprocess.run(
        ["apt-cache", "depends", meta], check=False, capture_output=True, text=True
    )
    match = re.search(r"Depends: (linux-image-\S+)", found.stdout)
    return match and match[1]


def _uncompress(compressed: Path, image: Path) -> None:
    """The ELF kernel in a bzImage: QEMU starts it directly, and saves the guest's decompressing."""
    data = compressed.read_bytes()
    zstd = shutil.which("zstd")
    for start in re.finditer(rb"\xfd7zXZ\0|\x28\xb5\x2f\xfd", data):
        stream = data[start.start() :]
        elf = b""
        if start[0].startswith(b"\xfd"):
            with contextlib.suppress(lzma.LZMAError):
                elf = lzma.LZMADecompressor().decompress(stream)
        elif zstd:
            elf = subprocess.run(
                [zstd, "-dcq"], input=stream, check=False, capture_output=True
            ).stdout
        if elf.startswith(b"\x7fELF"):
            image.write_bytes(elf)
            return
    shutil.copy(compressed, image)


def _root_modules(home: Path, release: str) -> list[Path]:
    """The modules that reach the host's root, in loading order."""
    order: list[Path] = []
    modprobe = _tool("modprobe", "kmod")
    for module in _FOR_ROOT:
        shown = _output(modprobe, "-d", str(home), "-S", release, "--show-depends", module)
        for line in shown.splitlines():
            kind, _, path = line.strip().partition(" ")
            if kind == "insmod" and Path(path.strip()) not in order:
                order.append(Path(path.strip()))
    return order


def _write_initrd(target: Path, modules: list[Path]) -> None:
    busybox = _tool("busybox", "busybox-static")
    with tempfile.TemporaryDirectory(prefix="initrd-", dir=cache()) as scratch:
        root = Path(scratch)
        for directory in ("bin", "sbin", "dev", "proc", "sys", "host", "keep", "exchange"):
            (root / directory).mkdir()
        shutil.copy(busybox, root / "bin" / "busybox")
        for applet in _output(busybox, "--list").split():
            if applet != "busybox":
                (root / "bin" / applet).symlink_to("busybox")
        (root / "modules").mkdir()
        names = []
        for module in modules:
            name, data = module.name, module.read_bytes()
            if name.endswith(".xz"):
                name, data = name.removesuffix(".xz"), lzma.decompress(data)
            (root / "modules" / name).write_bytes(data)
            names.append(name)
        (root / "modules" / "order").write_text("".join(f"{name}\n" for name in names))
        init = root / "init"
        shutil.copy(Path(__file__).with_name("init.sh"), init)
        init.chmod(0o755)
        entries = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        packed = subprocess.run(
            [_tool("cpio", "cpio"), "-o", "-H", "newc", "-R", "0:0", "--quiet"],
            input=entries.encode(),
            cwd=root,
            capture_output=True,
            check=True,
        ).stdout
        target.write_bytes(gzip.compress(packed, 1))


def _tool(name: str, package: str) -> str:
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    found = shutil.which(name, path=path)
    if found is None:
        raise LabError(f"{name} is not installed: apt-get install {package}")
    return found


def _only(directory: Path, pattern: str) -> Path:
    found = sorted(directory.glob(pattern))
    if len(found) != 1:
        raise LabError(f"{directory}: {len(found)} files match {pattern}, one was expected")
    return found[0]


def _output(*command: str, cwd: str | None = None) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        raise LabError(f"{' '.join(command)} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout
