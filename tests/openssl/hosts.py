"""Programs that know nothing of cryptofd, with the provider configured for them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from programs import program

import cryptofd

LIBRARY = Path(cryptofd.__file__).parent / "lib" / "libcryptofd-openssl.so"

CONFIGURATION = """\
openssl_conf = init
[init]
providers = providers
alg_section = algorithms
[providers]
default = default_section
{name} = cryptofd_section
[default_section]
activate = 1
[cryptofd_section]
module = {library}
activate = 1
{more}
[algorithms]
{properties}
"""


class Host:
    """A configuration for libcrypto, and programs that run with it."""

    def __init__(
        self, folder: Path, profile: str | None = "all",
        properties: str | None = "?provider=cryptofd", name: str = "libcryptofd-openssl",
    ) -> None:  # fmt: skip
        self.file = folder / f"{profile}-{str(properties).replace('?', 'maybe-')[:30]}.cnf"
        more = "" if profile is None else f"profile = {profile}"
        properties = "" if properties is None else f"default_properties = {properties}"
        text = CONFIGURATION.format(library=LIBRARY, name=name, more=more, properties=properties)
        self.file.write_text(text)

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "OPENSSL_CONF": str(self.file), **more}

    def run(
        self, *command: str | Path, fails: bool = False, given: bytes = b"", **env: str
    ) -> bytes:
        """What a program says that succeeds (its output), or shall fail (both outputs)."""
        done = subprocess.run(
            [program(str(command[0])), *command[1:]], input=given, capture_output=True,
            timeout=240, check=False, env=self.environment(**env),
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{said.decode()}"
        return said if fails else done.stdout

    def python(self, code: str, *, fails: bool = False, **env: str) -> str:
        """The same of a Python program: its hashlib and ssl use the system's libcrypto, PyCA's
        wheel one of its own."""
        text = textwrap.dedent(code)
        return self.run(sys.executable, "-c", text, fails=fails, **env).decode()
