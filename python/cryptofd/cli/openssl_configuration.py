"""OpenSSL's configuration with cryptofd's provider in it (config(5)): made, read, taken back.

A section that stands twice is one section, and of a name that stands twice in it the last one
counts: what is added at the end of a configuration changes no line of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path

#: The file of the provider, and its name in configurations. The name comes after "base", "default",
#: "fips" and "legacy" in the alphabet: OpenSSL sorts providers, and asks the first that has a type
#: of keys for all keys of this type.
NAME = "libcryptofd-openssl"
LIBRARY = f"{NAME}.so"

BEGIN = "# >>> cryptofd: made by `cryptofd setup openssl`, taken out by its --undo"
END = "# <<< cryptofd"

#: Providers of OpenSSL's own; without one of them there is no crypto but ours.
OWN = ("default", "fips")


#: What a `profile =` may say.
PROFILES = ("keys", "bulk", "all")


def libcrypto() -> ctypes.CDLL | None:
    """The system's."""
    for name in ("libcrypto.so.4", "libcrypto.so.3"):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    return None


def system() -> Path | None:
    """The system's configuration, if there is a libcrypto."""
    library = libcrypto()
    if library is None:
        return None
    library.OpenSSL_version.restype = ctypes.c_char_p
    # OPENSSL_DIR
    said = re.search(r'"(.+)"', library.OpenSSL_version(4).decode())
    return (Path(said[1]) / "openssl.cnf").resolve() if said else None


def users() -> Path:
    """The file that OPENSSL_CONF is to name."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "cryptofd" / "openssl.cnf"


def without(text: str) -> str:
    """A configuration without our part."""
    ours = re.compile(rf"^{re.escape(BEGIN)}$.*?^{re.escape(END)}$\n?", re.DOTALL | re.MULTILINE)
    return ours.sub("", text)


@dataclass
class Configuration:
    """What counts of a configuration."""

    #: Section "" is what stands before the first.
    sections: dict[str, dict[str, str]]

    @classmethod
    def parse(cls, text: str, folder: Path | None = None) -> Configuration:
        """Its sections, those of files that it includes by `.include FILE` among them."""
        made = cls({"": {}})
        made._read(text, folder, 0)
        return made

    def _read(self, text: str, folder: Path | None, depth: int) -> None:
        section = self.sections[""]
        for line in text.replace("\\\n", "").splitlines():
            line = line.strip()
            if line.startswith(".include") and depth < 4:
                path = Path(line.removeprefix(".include").lstrip(" =").strip('"'))
                with contextlib.suppress(OSError):
                    target = path if folder is None else folder / path
                    self._read(target.read_text(errors="replace"), target.parent, depth + 1)
            elif head := re.match(r"\[\s*([^]]+?)\s*\]", line):
                section = self.sections.setdefault(head[1], {})
            elif pair := re.match(r"([^#=\s][^=]*?)\s*=\s*([^#]*)", line):
                section[pair[1]] = pair[2].strip().strip('"')

    def value(self, section: str | None, name: str) -> str | None:
        return self.sections.get(section or "", {}).get(name) if section is not None else None

    @property
    def init(self) -> str | None:
        """The section that libcrypto reads."""
        return self.value("", "openssl_conf")

    @property
    def providers(self) -> dict[str, str]:
        """Their names, in order, and their sections."""
        return self.sections.get(self.value(self.init, "providers") or "\0", {})

    def active(self, name: str) -> bool:
        return (self.value(self.providers.get(name), "activate") or "0").lower() in (
            "1", "yes", "true", "on",
        )  # fmt: skip

    @property
    def module(self) -> str | None:
        """Our module, where a provider of ours is active."""
        for name, section in self.providers.items():
            module = self.value(section, "module")
            if module and Path(module).name == LIBRARY and self.active(name):
                return module
        return None

    @property
    def our_name(self) -> str | None:
        return next(
            (n for n, s in self.providers.items() if self.value(s, "module") == self.module), None
        )

    @property
    def profile(self) -> str:
        name = self.our_name
        return self.value(self.providers.get(name), "profile") or "keys" if name else "keys"


def addition(base: Configuration, library: Path, profile: str) -> str:
    """What makes a configuration one with the provider."""
    init = base.init or "cryptofd_init"
    providers = base.value(init, "providers") or "cryptofd_providers"
    lines = [BEGIN]
    if base.init is None:
        lines += [f"openssl_conf = {init}"]
    lines += [f"[{init}]", f"providers = {providers}"]
    algorithms = base.value(init, "alg_section") or "cryptofd_algorithms"
    if profile != "keys":
        lines.append(f"alg_section = {algorithms}")
    lines.append(f"[{providers}]")
    # Once any provider is activated, none is there unasked.
    own = [name for name in OWN if base.active(name)]
    default = base.providers.get("default") or "cryptofd_default"
    if not own:
        lines.append(f"default = {default}")
    lines += [f"{NAME} = cryptofd_provider"]
    if not own:
        lines += [f"[{default}]", "activate = 1"]
    lines += ["[cryptofd_provider]", f"module = {library}", "activate = 1", f"profile = {profile}"]
    if profile != "keys":
        asked = base.value(algorithms, "default_properties")
        properties = f"{asked},?provider=cryptofd" if asked else "?provider=cryptofd"
        lines += [f"[{algorithms}]", f"default_properties = {properties}"]
    if base.init is None:
        # It stands first; what follows was before every section.
        lines.append("[default]")
    return "\n".join([*lines, END, ""])


def with_ours(text: str, folder: Path, library: Path, profile: str) -> str:
    """A configuration with our part, and no other of ours."""
    text = without(text)
    base = Configuration.parse(text, folder)
    added = addition(base, library, profile)
    if base.init is not None:
        return f"{text.rstrip()}\n\n{added}" if text.strip() else added
    # It is read before the first section only.
    return added + text
