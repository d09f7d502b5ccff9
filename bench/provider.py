"""The OpenSSL door: libcrypto with and without the provider, nginx with the broker's key."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cryptofd
from bench import broker
from bench.calls import size
from bench.measure import Effort, Figure, figure, in_turns
from bench.server import run, serving

HERE = Path(__file__).parent
LIBRARY = Path(cryptofd.__file__).parent / "lib" / "libcryptofd-openssl.so"
#: The provider's name in configurations.
OURS = "libcryptofd-openssl"
#: Without a key of the broker's all is as fast as without a provider; in profile bulk nearly so.
SAME, BULK, HANDSHAKES = 1.0, 0.95, 0.9
SIZES = (16, 256, 1 << 10, 16 << 10, 1 << 20)
WORK = {
    "SHA-256": ("digest", "SHA256"),
    "SHA-512": ("digest", "SHA512"),
    "HMAC-SHA-256": ("mac", "SHA256"),
    "BLAKE2b-512": ("digest", "BLAKE2B-512"),
    "AES-256-CBC": ("encrypt", "AES-256-CBC"),
    "AES-256-CTR": ("encrypt", "AES-256-CTR"),
    "AES-256-GCM": ("seal", "AES-256-GCM"),
    "ChaCha20-Poly1305": ("seal", "ChaCha20-Poly1305"),
}
OTHERS = ("AES-256-GCM", "SHA-256")
#: Cost, and what it is.
DERIVED = (("PBKDF2", 1000, "1,000 iterations"), ("SCRYPT", 1024, "n = 1024"))

CONFIGURATION = """\
openssl_conf = init
[init]
providers = providers
alg_section = algorithms
[providers]
default = default_section
{ours}
[default_section]
activate = 1
[cryptofd_section]
module = {library}
profile = {profile}
activate = 1
[algorithms]
{properties}
"""

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    ssl_protocols TLSv1.3;
    ssl_session_cache off;
    ssl_session_tickets off;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/{name}.pem;
        ssl_certificate_key {folder}/{name}.key;
        return 200 "";
    }}
}}
"""


def provider(effort: Effort) -> list[Figure]:
    """What a program of OpenSSL's sees."""
    with broker.own(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        caller = folder / "evp"
        source = HERE / "evp.c"
        subprocess.run(["cc", "-O2", "-o", str(caller), str(source), "-lcrypto"], check=True)
        return [
            *_keys(effort, folder, caller),
            *_bulk(effort, folder, caller),
            *_tls(effort, folder),
        ]


def configured(folder: Path, profile: str | None) -> str:
    """The file for OPENSSL_CONF: of a profile, or without us."""
    text = CONFIGURATION.format(
        ours=f"{OURS} = cryptofd_section" if profile else "",
        library=LIBRARY,
        profile=profile or "keys",
        properties="default_properties = ?provider=cryptofd" if profile in ("bulk", "all") else "",
    )
    file = folder / f"{profile}.cnf"
    file.write_text(text)
    return str(file)


def _job(
    folder: Path, caller: Path, profile: str | None, effort: Effort, *work: str
) -> Callable[[], float]:
    """Seconds of one job. Without us, and in profile keys, it is never ours."""

    def run() -> float:
        by, taken = _done(folder, caller, profile, *work, str(effort.seconds * 1000))
        if by == OURS and profile != "bulk":
            raise SystemExit(f"bench: {work} was done by {by}")
        return taken

    return run


def _done(folder: Path, caller: Path, profile: str | None, *work: str) -> tuple[str, float]:
    """Who did it, and seconds of one."""
    environment = {
        **os.environ, "OPENSSL_CONF": configured(folder, profile),
        # What is measured is this run's.
        "XDG_CACHE_HOME": str(folder), "CRYPTOFD_OPENSSL_MEASURE": "user",
    }  # fmt: skip
    done = subprocess.run(
        [str(caller), *work], check=True, capture_output=True, text=True, env=environment
    )
    by, taken = done.stdout.split()
    return by, float(taken) / 1e9


def _keys(effort: Effort, folder: Path, caller: Path) -> list[Figure]:
    figures = []
    jobs = [(name, each) for name in OTHERS for each in (16, 16 << 10)]
    for name, each in [*jobs, ("a P-256 signature", 32)]:
        kind, algorithm = WORK.get(name, ("sign", "P-256"))
        job = (kind, algorithm, str(each))
        pairs = in_turns(
            _job(folder, caller, "keys", effort, *job),
            _job(folder, caller, None, effort, *job),
            effort.pairs,
        )
        work = f"OpenSSL, profile keys: {name}, {size(each)}"
        figures.append(figure(work, "no provider", SAME, pairs, reaches=True))
    return figures


def _bulk(effort: Effort, folder: Path, caller: Path) -> list[Figure]:
    figures = []
    jobs = [
        (name, size(each), (kind, algorithm, str(each)))
        for name, (kind, algorithm) in WORK.items()
        for each in SIZES
    ]
    jobs += [(name, what, ("derive", name, str(cost))) for name, cost, what in DERIVED]
    # The first program measures what is worth it, for all that come later.
    _done(folder, caller, "bulk", *jobs[0][2], "1")
    for name, what, job in jobs:
        pairs = in_turns(
            _job(folder, caller, "bulk", effort, *job),
            _job(folder, caller, None, effort, *job),
            effort.pairs,
        )
        by, _ = _done(folder, caller, "bulk", *job, "1")
        whose = "ours" if by == OURS else "left to OpenSSL"
        work = f"OpenSSL, profile bulk: {name}, {what} ({whose})"
        figures.append(figure(work, "no provider", BULK, pairs))
    return figures


def _tls(effort: Effort, folder: Path) -> list[Figure]:
    """Full handshakes of nginx, one worker, one client."""
    program = _nginx()
    if program is None:
        raise SystemExit("bench: nginx is missing: make bench fetches it where the release has it")
    cryptofd.connect().keys.generate("web", "ecdsa-nist-p256", usage={"sign"})
    folder.chmod(0o755)
    environment = {**os.environ, "OPENSSL_CONF": configured(folder, "keys")}
    own = folder / "own.key"
    run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "group:P-256", "-out", str(own))
    run(sys.executable, "-m", "cryptofd", "key", "reference", "web", "-o", str(folder / "web.key"))
    for name, key in (("web", "cryptofd:web"), ("own", str(own))):
        run(
            "openssl", "req", "-x509", "-new", "-key", key, "-subj", "/CN=localhost", "-out",
            str(folder / f"{name}.pem"), env=environment,
        )  # fmt: skip
    seconds = 1 if effort.pairs > 5 else 0.3
    pairs = in_turns(
        lambda: _handshake(program, folder, "web", environment, seconds),
        lambda: _handshake(program, folder, "own", environment, seconds),
        effort.pairs,
    )
    work = "TLS 1.3 handshake of nginx, P-256 key of the broker's"
    return [figure(work, "key in nginx", HANDSHAKES, pairs)]


def _nginx() -> Path | None:
    unpacked = HERE.parent / ".lab" / "nginx" / "usr" / "sbin" / "nginx"
    return next((path for path in (Path("/usr/sbin/nginx"), unpacked) if path.exists()), None)


def _handshake(
    program: Path, folder: Path, name: str, environment: dict[str, str], seconds: float
) -> float:
    """Seconds of one handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(folder / f"{name}.pem")
    context.check_hostname = False
    settings = folder / f"{name}.conf"

    def nginx(port: int) -> list[str | Path]:
        settings.write_text(NGINX.format(folder=folder, name=name, port=port))
        return [program, "-p", folder, "-c", settings, "-e", folder / "error.log"]

    with serving(nginx, environment) as port:

        def once() -> None:
            with (
                socket.create_connection(("127.0.0.1", port)) as plain,
                context.wrap_socket(plain) as end,
            ):
                end.recv(0)

        once()
        count, begun = 0, time.perf_counter()
        while (taken := time.perf_counter() - begun) < seconds:
            once()
            count += 1
    return taken / count
