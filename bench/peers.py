"""Other keepers of keys, set up for the broker's bench: SoftHSM, p11-kit's server, ssh-agent."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

SOFTHSM = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"]
CLIENT = "pkcs11/p11-kit-client.so"
PIN = "1234"


def _first(*paths: str) -> str:
    for path in paths:
        if Path(path).exists():
            return path
    raise SystemExit(f"bench: {paths[0]} is missing: apt install softhsm2 p11-kit p11-kit-modules")


def softhsm(folder: Path) -> str:
    """A token of SoftHSM's in `folder`, for this process and those that it starts; the module."""
    tokens = folder / "tokens"
    tokens.mkdir()
    settings = folder / "softhsm.conf"
    settings.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(settings)
    command = ["softhsm2-util", "--init-token", "--free", "--label", "bench", "--pin", PIN]
    subprocess.run([*command, "--so-pin", PIN], check=True, stdout=subprocess.DEVNULL)
    return _first(*SOFTHSM)


@contextlib.contextmanager
def p11_kit(folder: Path, module: str) -> Iterator[str]:
    """p11-kit's server over that module; the module that its clients load."""
    address = folder / "p11"
    command = ["p11-kit", "server", "-f", "-n", str(address), "--provider", module]
    # It needs a directory to run in, and says where it listens when it does.
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    server = subprocess.Popen(
        [*command, "pkcs11:token=bench"], stdout=subprocess.PIPE, env=environment
    )
    try:
        assert server.stdout
        if not server.stdout.readline():
            raise SystemExit("bench: p11-kit server ended")
        os.environ["P11_KIT_SERVER_ADDRESS"] = f"unix:path={address}"
        yield _first(*(str(one) for one in Path("/usr/lib").glob(f"*/{CLIENT}")))
    finally:
        server.terminate()
        server.wait()


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


class Agent:
    """ssh-agent with one key: its signatures, over its socket, with nothing in between."""

    def __init__(self, folder: Path, kind: str, bits: int) -> None:
        key, address = folder / kind, folder / f"{kind}-agent"
        quiet = ["ssh-keygen", "-q", "-t", kind, "-b", str(bits), "-N", "", "-f", str(key)]
        subprocess.run(quiet, check=True)
        self._agent = subprocess.Popen(
            ["ssh-agent", "-D", "-a", str(address)], stdout=subprocess.PIPE
        )
        assert self._agent.stdout
        self._agent.stdout.readline()
        environment = {**os.environ, "SSH_AUTH_SOCK": str(address)}
        subprocess.run(["ssh-add", "-q", str(key)], check=True, env=environment)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(address))
        # The identity as an agent names it: the public key's blob.
        import base64

        self._blob = base64.b64decode(key.with_suffix(".pub").read_text().split()[1])

    def signing(self, data: bytes, flags: int = 0) -> Callable[[], bytes]:
        """SSH_AGENTC_SIGN_REQUEST; flag 2 is RSA with SHA-256."""
        body = b"\x0d" + _string(self._blob) + _string(data) + struct.pack(">I", flags)
        request = _string(body)

        def call() -> bytes:
            self._socket.sendall(request)
            answer = self._socket.recv(65536)
            if answer[4:5] != b"\x0e":
                raise SystemExit("bench: ssh-agent does not sign")
            return answer

        return call

    def close(self) -> None:
        """Ends it."""
        self._socket.close()
        self._agent.terminate()
        self._agent.wait()


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[Path]:
    """A broker of our own; its socket. Sessions that are opened by reference find it."""
    from cryptofd.broker import private

    address = folder / "broker"
    # The policy is the built-in one.
    environment = {**os.environ, "CRYPTOFD_POLICY": str(folder / "policy.toml")}
    process = private.launch(address, folder / "state", folder / "log", environment)
    try:
        os.environ["CRYPTOFD_BROKER"] = str(address)
        yield address
    finally:
        process.terminate()
        process.wait()


def missing() -> list[str]:
    """Programs that the bench needs and this host lacks."""
    return [name for name in ("softhsm2-util", "p11-kit", "ssh-agent") if not shutil.which(name)]
