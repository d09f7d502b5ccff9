"""An NSS database's list of modules: what stands in pkcs11.txt, and whom NSS will choose."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptofd.errors import CryptoFDError

#: Our two slots: their numbers are part of the module's interface (crates/door-pkcs11/src/slot.rs).
CRYPTO, KEYS = 0x63666400, 0x63666401
#: What our stanza is called, and how the file of the module is.
NAME, LIBRARY = "cryptofd", "libcryptofd-pkcs11.so"
#: NSS's own module has 100.
ORDER = 200
#: What each profile claims: slotFlags of the slot of session crypto. Never ECC, DH, SSL or TLS: of
#: those NSS falls back to nobody when one curve or one step is missing.
_BULK = ("AES", "MD5", "SHA1", "SHA256", "SHA512", "RANDOM")
PROFILES: dict[str, tuple[str, ...]] = {"keys": (), "bulk": _BULK, "all": (*_BULK, "RSA")}


@dataclass(frozen=True)
class Mechanism:
    """``flag``: the list of default slots that NSS asks first (pk11slot.c, PK11_GetSlotList); none:
    every token that can, by cipherOrder. ``ours``: whether our slots have it."""

    name: str
    number: int
    flag: str | None
    ours: bool


_LISTS: tuple[tuple[str, str], ...] = (
    (r"AES_(CBC|CCM|CTR|CTS|GCM|ECB)", "AES"),
    (r"SHA_1", "SHA1"),
    (r"SHA(224|256)", "SHA256"),
    (r"SHA(384|512)", "SHA512"),
    (r"MD5", "MD5"),
    (r"RSA_PKCS|RSA_PKCS_KEY_PAIR_GEN|RSA_X_509", "RSA"),
    (r"ECDSA|ECDSA_SHA1|EC_KEY_PAIR_GEN|ECDH1_DERIVE", "ECC"),
    (r"DES3_(CBC|ECB)", "DES"),
)
#: Those of NSS 3.101 and later, which older ones have no list for: left out of what is foretold.
_DEPENDS = re.compile(r"CKM_(SHA3_\d+|EDDSA|EC_EDWARDS\w*|EC_MONTGOMERY\w*|ML_\w+)")


def mechanisms() -> Iterator[Mechanism]:
    """Those that the table of algorithms has by PKCS#11's names and that a program asks NSS for
    without a parameter that decides; and two that we have not."""
    import cryptofd

    seen: dict[str, int] = {}
    for algorithm in cryptofd.algorithms():
        if algorithm.one_message or algorithm.kind == "kdf" or algorithm.name == "chacha20":
            continue
        names = algorithm.names
        for one in (names.get("pkcs11"), *(names.get("mechanisms") or ())):
            if one is not None and not _DEPENDS.fullmatch(one["name"]):
                seen.setdefault(one["name"], one["id"])
    for name, number in sorted(seen.items(), key=lambda item: item[1]):
        yield Mechanism(name, number, _list_of(name), True)
    yield Mechanism("CKM_DES3_ECB", 0x132, "DES", False)
    yield Mechanism("CKM_DSA", 0x11, "DSA", False)


def _list_of(name: str) -> str | None:
    for pattern, flag in _LISTS:
        if re.fullmatch(f"CKM_({pattern})", name):
            return flag
    return None


@dataclass
class Stanza:
    """One module as it stands in pkcs11.txt."""

    text: str
    values: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str) -> Stanza:
        values = {}
        for line in text.splitlines():
            name, equals, value = line.partition("=")
            if equals:
                values[name.strip()] = value.strip().strip('"')
        return cls(text, values)

    @property
    def name(self) -> str:
        return self.values.get("name", "")

    @property
    def library(self) -> str:
        return self.values.get("library", "")

    @property
    def ours(self) -> bool:
        return Path(self.library).name == LIBRARY

    @property
    def order(self) -> int:
        """cipherOrder; 0 if nothing is said."""
        said = re.search(r"\bcipherOrder=(\d+)", self.values.get("NSS", ""))
        return int(said[1]) if said else 0

    @property
    def flags(self) -> set[str]:
        """slotFlags of all its slots."""
        found: set[str] = set()
        for said in re.findall(r"slotFlags=\[?([\w, ]*)", self.values.get("NSS", "")):
            found |= {flag.strip() for flag in said.split(",") if flag.strip()}
        return found

    def claims(self, flag: str) -> bool:
        # "DSA" sets RSA's flag, too (utilpars.c).
        return bool({flag, "all", "ALL"} & self.flags)


@dataclass
class Database:
    """A folder with pkcs11.txt in it."""

    folder: Path
    stanzas: list[Stanza]

    @classmethod
    def read(cls, folder: Path) -> Database:
        path = folder / "pkcs11.txt"
        try:
            text = path.read_text(errors="surrogateescape")
        except FileNotFoundError as error:
            raise CryptoFDError(
                error.errno or 0,
                f"{folder} is no NSS database: it has no pkcs11.txt; "
                f"certutil -N -d sql:{folder} makes one, a browser makes its profile's",
            ) from None
        blocks = re.split(r"\n[ \t]*\n", text.strip("\n"))
        return cls(folder, [Stanza.of(block) for block in blocks if block.strip()])

    @property
    def path(self) -> Path:
        return self.folder / "pkcs11.txt"

    @property
    def ours(self) -> Stanza | None:
        return next((stanza for stanza in self.stanzas if stanza.ours), None)

    def text(self) -> str:
        return "".join(f"{stanza.text.rstrip()}\n\n" for stanza in self.stanzas)

    def write(self) -> None:
        """Whole or not at all; who may read it stays so."""
        status = self.path.stat()
        descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=".pkcs11-")
        try:
            with os.fdopen(descriptor, "w", errors="surrogateescape") as file:
                os.fchmod(file.fileno(), status.st_mode & 0o7777)
                if os.geteuid() == 0:
                    os.fchown(file.fileno(), status.st_uid, status.st_gid)
                file.write(self.text())
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def chooses_us(self, mechanism: Mechanism) -> bool:
        """Whether NSS will ask one of our slots (PK11_GetBestSlotMultipleWithAttributes): the slots
        that claim the mechanism's list, the last loaded first; else all, by cipherOrder."""
        if self.ours is None or not mechanism.ours:
            return False
        if mechanism.flag is not None:
            claiming = [one for one in self.stanzas if one.claims(mechanism.flag)]
            if claiming:
                return claiming[-1].ours
        best = max(one.order for one in self.stanzas)
        return [one for one in self.stanzas if one.order == best][-1].ours


def stanza(library: Path, profile: str) -> Stanza:
    """Ours, with both knobs: slotFlags for what NSS has lists of, cipherOrder for the rest."""
    for bad in '"\n{}':
        if bad in str(library):
            raise CryptoFDError(22, f"{library}: NSS cannot be told of a path with {bad!r} in it")
    flags = PROFILES[profile]
    said = "cipherOrder=0"
    if flags:
        said = f"cipherOrder={ORDER} slotParams={{0x{CRYPTO:08x}=[slotFlags={','.join(flags)}]}}"
    return Stanza.of(f"library={library}\nname={NAME}\nNSS={said}")


def folders(home: Path) -> Iterable[Path]:
    """Databases that a user is likely to have."""
    patterns = (
        ".pki/nssdb", ".mozilla/firefox/*", ".thunderbird/*",
        "snap/firefox/common/.mozilla/firefox/*",
    )  # fmt: skip
    for pattern in patterns:
        for folder in sorted(home.glob(pattern)):
            if (folder / "pkcs11.txt").is_file():
                yield folder
