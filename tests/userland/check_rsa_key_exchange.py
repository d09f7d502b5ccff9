"""A program, run where OpenSSL hides whether PKCS#1 v1.5's padding was right (3.2 and later): a
server whose RSA key the broker has decrypts the clients' premaster secrets."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(tempfile.mkdtemp())
CRYPTOFD = (sys.executable, "-m", "cryptofd")


def ran(*command: str | Path, given: bytes = b"", fails: bool = False) -> bytes:
    done = subprocess.run(
        command, input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert (done.returncode != 0) == fails, f"{command}: {done.stdout.decode()}"
    return done.stdout


def handshake(version: str, ciphers: str) -> str:
    """Both ends in this process."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain("web.pem", "web.reference")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations("web.pem")
    for context in (server, client):
        context.set_ciphers(ciphers)
        context.minimum_version = getattr(ssl.TLSVersion, version)
    client.maximum_version = getattr(ssl.TLSVersion, version)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname="localhost"),
        server.wrap_bio(up, down, server_side=True),
    ]
    done: set[ssl.SSLObject] = set()
    while len(done) < 2:
        for end in ends:
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                pass
    ends[0].write(b"said")
    assert ends[1].read() == b"said"
    cipher = ends[0].cipher()
    assert cipher is not None
    return cipher[0]


def main() -> None:
    os.chdir(HERE)
    for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "HOME"):
        os.environ[name] = str(HERE)
    # Whoever runs this waits for its output alone.
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    subprocess.run((*CRYPTOFD, "broker"), check=True, stderr=subprocess.DEVNULL, **quiet)
    try:
        ran(*CRYPTOFD, "setup", "openssl")
        usage = "sign,verify,decrypt,encrypt"
        ran(*CRYPTOFD, "key", "generate", "web", "-a", "rsa", "--bits", "2048", "--usage", usage)
        (HERE / "web.reference").write_bytes(ran(*CRYPTOFD, "key", "reference", "web"))
        # libcrypto reads its configuration once in a process.
        os.environ["OPENSSL_CONF"] = str(HERE / "cryptofd" / "openssl.cnf")
        ran(sys.executable, __file__, "serve")
    finally:
        subprocess.run(
            (*CRYPTOFD, "broker", "stop"), check=True, stderr=subprocess.DEVNULL, **quiet
        )
    print("done")


def serve() -> None:
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    ran("openssl", "req", "-new", "-x509", "-key", "cryptofd:web", *name, "-out", "web.pem")
    for cipher in ("AES256-GCM-SHA384", "AES128-SHA256"):
        assert handshake("TLSv1_2", f"{cipher}:@SECLEVEL=0") == cipher
    # As it is, too.
    ran("openssl", "pkeyutl", "-encrypt", "-inkey", "cryptofd:web", "-out", "sealed", given=b"s")
    decrypt = ("openssl", "pkeyutl", "-decrypt", "-inkey", "cryptofd:web", "-in", "sealed")
    assert ran(*decrypt) == b"s"
    # What was never encrypted is decrypted to something, always the same.
    sealed = (HERE / "sealed").read_bytes()
    (HERE / "sealed").write_bytes(bytes([sealed[0] // 2]) + sealed[1:])
    assert ran(*decrypt) == ran(*decrypt) != b"s"


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        HERE = Path.cwd()
        serve()
    else:
        main()
