"""TLS of Python's ssl with the bulk behind the provider: every kind of record that libssl knows."""

from __future__ import annotations

from pathlib import Path

from hosts import Host

#: One of a kind: GCM, ChaCha20, CCM, CBC with the MAC before the padding, and after it.
CIPHERS = [
    "AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305",
    "AES128-CCM", "AES256-CCM8", "AES128-SHA", "AES256-SHA256", "ECDHE-RSA-AES256-SHA384",
    "ECDHE-RSA-CAMELLIA256-SHA384",
]  # fmt: skip
SUITES = ["TLS_AES_256_GCM_SHA384"]

PROGRAM = """
    import ssl

    def context(kind, version, cipher):
        made = ssl.SSLContext(kind)
        made.minimum_version = made.maximum_version = version
        if cipher:
            made.set_ciphers(cipher)
        return made

    def talk(version, cipher):
        server = context(ssl.PROTOCOL_TLS_SERVER, version, cipher)
        server.load_cert_chain(%r)
        client = context(ssl.PROTOCOL_TLS_CLIENT, version, cipher)
        client.load_verify_locations(%r)
        one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = [
            client.wrap_bio(one, two, server_hostname="host.example"),
            server.wrap_bio(two, one, server_side=True),
        ]
        waiting = list(ends)
        while waiting:
            for end in list(waiting):
                try:
                    end.do_handshake()
                    waiting.remove(end)
                except ssl.SSLWantReadError:
                    pass
        for size in (1, 15, 16, 17, 100, 16384, 16385, 50000):
            data = bytes(n %% 251 for n in range(size))
            for here, there in (ends, ends[::-1]):
                here.write(data)
                got = b""
                while len(got) < size:
                    got += there.read(1 << 16)
                assert got == data
        return ends[0].cipher()[0]

    for cipher in %r:
        assert talk(ssl.TLSVersion.TLSv1_2, cipher) == cipher
    print(talk(ssl.TLSVersion.TLSv1_3, None))
"""


def test_records(whole: Host, hosts_folder: Path) -> None:
    both = hosts_folder / "server.pem"
    whole.run(
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650",
        "-subj", "/CN=host.example", "-addext", "subjectAltName=DNS:host.example",
        "-keyout", both, "-out", both.with_suffix(".crt"), OPENSSL_CONF="/etc/ssl/openssl.cnf",
    )  # fmt: skip
    both.write_bytes(both.read_bytes() + both.with_suffix(".crt").read_bytes())
    code = PROGRAM % (str(both), str(both), CIPHERS)
    assert whole.python(code).split() == SUITES
    whole.python(code, fails=True, CRYPTOFD_DISABLE="software,kernel")
