"""What the doctor looks at: each function examines one thing and says what to do about it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import re
import resource
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """`ok`: in order. `absent`: not there, and nothing depends on it. `broken`: to be mended."""

    topic: str
    state: Literal["ok", "absent", "broken"]
    what: str
    todo: tuple[str, ...] = field(default=())


def examine() -> Iterator[Finding]:
    """All findings, topic by topic."""
    from cryptofd.cli.findings_broker import broker
    from cryptofd.cli.findings_nss import databases, module
    from cryptofd.cli.findings_openssl import provider

    for look in (
        engines, preferences, kernel, hardware, openssl, provider, nss, module, databases, memory,
        broker, fips,
    ):  # fmt: skip
        yield from look()


def read(path: str | Path) -> str | None:
    """A small file of the kernel's, if it is there and may be read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def release() -> tuple[int, int]:
    """The kernel's version, as far as it can be compared."""
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(match[1]), int(match[2])) if match else (0, 0)


def engines() -> Iterator[Finding]:
    import cryptofd

    topic = "Engines"
    try:
        listed = cryptofd.engines()
    except OSError as error:
        yield Finding(topic, "broken", f"{error.strerror}", ("mend or remove that file",))
        return
    for engine in listed:
        if not engine.available:
            yield Finding(topic, "absent", f"{engine.name}: {engine.about}")
        elif not engine.enabled:
            todo = (f"cryptofd engines enable {engine.name}",)
            yield Finding(topic, "absent", f"{engine.name}: {engine.about}, but disabled", todo)
        else:
            yield Finding(topic, "ok", f"{engine.name}: {engine.about}")
        for out in engine.quarantined:
            yield Finding(
                topic,
                "broken",
                f"{engine.name} answered wrong for {out['algorithm']}: {out['why']}",
                ("it serves that algorithm no more; report it with `cryptofd engines --json`",),
            )


def preferences() -> Iterator[Finding]:
    from cryptofd.cli import preferences

    topic = "Preferences"
    seen = False
    for path in (preferences.SYSTEM, preferences.path(system=False)):
        try:
            status = path.stat()
        except OSError:
            continue
        seen = True
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or status.st_uid not in {0, os.geteuid()}:
            yield Finding(
                topic,
                "broken",
                f"{path}: others can write it",
                (f"chown root {path}; chmod 0644 {path}",),
            )
        else:
            yield Finding(topic, "ok", str(path))
    if not seen:
        yield Finding(
            topic, "absent", "none: engines in their own order", ("cryptofd engines prefer NAME",)
        )


_KINDS = (
    ("hash", "sha256", "algif_hash"),
    ("skcipher", "cbc(aes)", "algif_skcipher"),
    ("aead", "gcm(aes)", "algif_aead"),
    ("rng", "stdrng", "algif_rng"),
)


def kernel() -> Iterator[Finding]:
    topic = f"Kernel {platform.release()}"
    level = read("/proc/sys/crypto/af_alg_restrict")
    version = release()
    if level not in {None, "0"}:
        what = {"1": "a short list of algorithms, most for administrators", "2": "none of AF_ALG"}
        yield Finding(
            topic,
            "absent",
            f"crypto.af_alg_restrict = {level}: {what.get(level or '', 'unknown')}",
            (
                "engines software and openssl do the rest; nothing need be done",
                "who needs the kernel's: sysctl crypto.af_alg_restrict=0 (it widens the attack "
                "surface of the kernel)",
            ),
        )
    if version >= (7, 2):
        yield Finding(topic, "absent", "from Linux 7.2 on AF_ALG reaches no hardware")
    try:
        socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).close()
    except OSError as error:
        yield Finding(topic, "absent", *_no_af_alg(error))
    else:
        if level in {None, "0"}:
            shown = "no crypto.af_alg_restrict" if level is None else "crypto.af_alg_restrict = 0"
            yield Finding(topic, "ok", f"{shown}: all of AF_ALG is open")
        yield from (_kind(topic, *kind) for kind in _KINDS)
        if version >= (6, 2) and Path("/proc/keys").exists():
            yield Finding(
                topic, "ok", "keys of the keyring by serial number (keyring:), Linux 6.2+"
            )
        else:
            yield Finding(
                topic, "absent", "no keys by serial number: Linux 6.2 and later take them"
            )
    yield from _modules(topic)
    seccomp = re.search(r"^Seccomp:\s*(\d)", read("/proc/self/status") or "", re.MULTILINE)
    if seccomp and seccomp[1] == "2":
        todo = ("containers often forbid AF_ALG; descriptors handed in still work",)
        yield Finding(topic, "absent", "a seccomp filter is over this process", todo)


def _no_af_alg(error: OSError) -> tuple[str, tuple[str, ...]]:
    name = errno.errorcode.get(error.errno or 0, "?")
    todo = {
        errno.EAFNOSUPPORT: (
            "modprobe af_alg, if the kernel has it; else engines software and openssl serve",
        ),
        errno.EPERM: (
            "a container or a policy forbids it; ask who runs it, or use another engine",
        ),
        errno.EACCES: ("a security module forbids it",),
    }
    return f"no AF_ALG: {error.strerror} ({name})", todo.get(error.errno or 0, ())


def _kind(topic: str, kind: str, name: str, module: str) -> Finding:
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.bind((kind, name))
        except OSError as error:
            code = errno.errorcode.get(error.errno or 0, "?")
            blocked = _blacklisted(module)
            todo = (
                (f"{blocked} blocks {module}: leave it so unless you need it",)
                if blocked
                else (f"modprobe {module}, if the kernel has it",)
            )
            return Finding(topic, "absent", f"AF_ALG {kind} {name}: refused ({code})", todo)
    return Finding(topic, "ok", f"AF_ALG {kind}: {name} can be bound")


def _blacklisted(module: str) -> str | None:
    """The file of modprobe's that blocks a module."""
    pattern = re.compile(
        rf"^\s*(blacklist\s+{module}|install\s+{module}\s+\S*/(false|true))\b", re.M
    )
    for directory in (
        "/etc/modprobe.d",
        "/run/modprobe.d",
        "/usr/lib/modprobe.d",
        "/lib/modprobe.d",
    ):
        for path in sorted(Path(directory).glob("*.conf")):
            if pattern.search(read(path) or ""):
                return str(path)
    return None


def _modules(topic: str) -> Iterator[Finding]:
    wanted = ("af_alg", "algif_hash", "algif_skcipher", "algif_aead", "algif_rng", "crypto_user")
    loaded = {line.split()[0] for line in (read("/proc/modules") or "").splitlines()}
    there = [name for name in wanted if name in loaded or Path(f"/sys/module/{name}").exists()]
    if there:
        yield Finding(topic, "ok", f"modules: {', '.join(there)}")
    if "crypto_user" not in there:
        try:
            # NETLINK_CRYPTO; the socket can be made only where the kernel has it.
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 21).close()
        except OSError:
            yield Finding(
                topic,
                "absent",
                "no NETLINK_CRYPTO: drivers are listed from /proc/crypto, priorities are fixed",
                ("modprobe crypto_user, if the kernel has it",),
            )


# PCI: vendor, devices, what they are. (virtio-crypto shows on its own bus.)
_DEVICES: tuple[tuple[int, frozenset[int], str], ...] = (
    (
        0x8086,
        frozenset(
            {0x0435, 0x0443, 0x37C8, 0x37C9, 0x6F54, 0x6F55, 0x19E2, 0x19E3, 0x18A0, 0x18A1}
            | {0x4940, 0x4941, 0x4942, 0x4943, 0x4944, 0x4945, 0x4946, 0x4947, 0x578A, 0x578B}
        ),
        "Intel QuickAssist (QAT)",
    ),
    (0x1022, frozenset({0x1537, 0x1456, 0x1468, 0x1486, 0x15DF, 0x14CA}), "AMD CCP"),
    (0x19E5, frozenset({0xA255, 0xA256, 0xA250, 0xA251}), "HiSilicon SEC or HPRE"),
    (0x177D, frozenset({0x0010, 0x0011, 0xA040, 0xA041, 0xA0F2}), "Marvell CPT or Nitrox"),
)

_FLAGS = ("aes", "pclmulqdq", "sha_ni", "vaes", "vpclmulqdq", "sha1", "sha2", "sha512", "pmull")


def hardware() -> Iterator[Finding]:
    topic = "Hardware"
    text = read("/proc/cpuinfo") or ""
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    flags = set(match[1].split()) if match else set()
    have = [flag for flag in _FLAGS if flag in flags]
    yield Finding(
        topic,
        "ok" if have else "absent",
        f"CPU instructions: {', '.join(have) or 'none for cryptography'}",
    )
    found = False
    for device in sorted(Path("/sys/bus/pci/devices").glob("*")):
        ids = (read(device / "vendor") or "0", read(device / "device") or "0")
        vendor, product = (int(value, 16) for value in ids)
        for maker, products, name in _DEVICES:
            if vendor == maker and product in products:
                found = True
                yield _device(topic, name, device)
    for device in sorted(Path("/sys/bus/virtio/devices").glob("*")):
        if int(read(device / "device") or "0", 16) == 20:  # virtio-crypto, VIRTIO 1.2, 5.9
            found = True
            yield _device(topic, "virtio-crypto", device)
    for name in (
        "caam",
        "ccree",
        "stm32-cryp",
        "sa2ul-crypto",
        "omap-aes",
        "atmel_aes",
        "sun8i-ce",
    ):
        for device in sorted(Path(f"/sys/bus/platform/drivers/{name}").glob("*/driver")):
            found = True
            yield Finding(topic, "ok", f"{name}: {device.parent.name}")
    if not found:
        yield Finding(topic, "absent", "no crypto device (virtio-crypto, QAT, CCP, CAAM, ...)")
    node = Path("/dev/crypto")
    if not node.exists():
        yield Finding(topic, "absent", "no /dev/crypto (cryptodev-linux)")
    elif os.access(node, os.R_OK | os.W_OK):
        yield Finding(topic, "ok", "/dev/crypto is there and may be used")
    else:
        todo = ("let a group use it by a udev rule",)
        yield Finding(topic, "broken", "/dev/crypto is there, and you may not use it", todo)


def _device(topic: str, name: str, device: Path) -> Finding:
    driver = device / "driver"
    if driver.exists():
        return Finding(
            topic, "ok", f"{name} at {device.name}, driver {driver.resolve().name}",
            ("cryptofd drivers --hardware",),
        )  # fmt: skip
    return Finding(
        topic, "broken", f"{name} at {device.name} has no driver", ("load its kernel module",)
    )


def openssl() -> Iterator[Finding]:
    topic = "OpenSSL"
    library = None
    for name in ("libcrypto.so.4", "libcrypto.so.3"):
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(name)
            break
    if library is None:
        yield Finding(topic, "absent", "no libcrypto 3 or later", ("apt install libssl3",))
        return
    library.OpenSSL_version.restype = ctypes.c_char_p
    version, modules = (library.OpenSSL_version(n).decode() for n in (0, 8))
    yield Finding(topic, "ok", version)
    path = re.search(r'"(.+)"', modules)
    provider = Path(path[1]) / "fips.so" if path else None
    if provider is not None and provider.exists():
        yield _fips_provider(topic, provider)
    else:
        yield Finding(
            topic,
            "absent",
            f"no FIPS provider{f' at {provider}' if provider else ''}",
            ("fips=True is refused (EPERM) without one; distributions ship it as a package",),
        )


def _fips_provider(topic: str, provider: Path) -> Finding:
    import cryptofd

    try:
        candidates = cryptofd.explain("sha256", engine="openssl", fips=True)
    except OSError as error:
        return Finding(topic, "absent", f"{provider} is not asked: {error.strerror}")
    if any(c.serves for c in candidates):
        return Finding(topic, "ok", f"the FIPS provider serves: {provider}")
    why = "; ".join(c.why for c in candidates if c.engine == "openssl")
    return Finding(
        topic,
        "broken",
        f"{provider} does not serve: {why}",
        ("openssl fipsinstall, as its guide says",),
    )


def nss() -> Iterator[Finding]:
    topic = "NSS"
    places = ["/usr/lib", "/usr/lib64", "/lib64", "/usr/local/lib"]
    places += [str(p) for p in Path("/usr/lib").glob("*-linux-*")]
    for name, about in (
        ("libnss3.so", "the library that programs load"),
        ("libsoftokn3.so", "its validated token"),
    ):
        found = next(
            (p for d in places for p in [Path(d, name), Path(d, "nss", name)] if p.exists()), None
        )
        if found:
            yield Finding(topic, "ok", f"{found}: {about}")
        else:
            yield Finding(topic, "absent", f"no {name}: {about}", ("apt install libnss3",))


def memory() -> Iterator[Finding]:
    topic = "Memory for keys"
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    locked = re.search(r"^VmLck:\s*(\d+)", read("/proc/self/status") or "", re.MULTILINE)
    now = f"{locked[1]} KiB locked now" if locked else "nothing known of what is locked"

    def shown(limit: int) -> str:
        return "no limit" if limit == resource.RLIM_INFINITY else f"{limit // 1024} KiB"

    what = f"RLIMIT_MEMLOCK: {shown(soft)} (at most {shown(hard)}), {now}"
    if soft != resource.RLIM_INFINITY and soft < 64 * 1024:
        yield Finding(topic, "broken", what, ("ulimit -l 1024, or LimitMEMLOCK= in the unit",))
    else:
        yield Finding(topic, "ok", what)
    swaps = (read("/proc/swaps") or "").splitlines()[1:]
    plain_swap = [line.split()[0] for line in swaps if "/dm-" not in line and "zram" not in line]
    if plain_swap:
        yield Finding(
            topic, "absent", f"swap that may not be encrypted: {', '.join(plain_swap)}",
            ("what a program itself holds of a key can reach it",),
        )  # fmt: skip


def fips() -> Iterator[Finding]:
    topic = "FIPS"
    if read("/proc/sys/crypto/fips_enabled") == "1":
        yield Finding(
            topic, "ok", "the kernel runs in FIPS mode",
            ("ask for fips=True: only a validated module then serves",),
        )  # fmt: skip
    else:
        yield Finding(topic, "absent", "the kernel does not run in FIPS mode")
