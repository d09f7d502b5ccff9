"""Known answers: the files of cryptography-vectors for the table, through every engine.

One test is one file on one engine. A test fails when it ran fewer vectors than the file holds, less
those that it counted as another algorithm's or as beyond the engine.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from host_engines import refusal
from vector_files import Record, count, read, records, under, unhex

import cryptofd
from cryptofd._core import HashFactory

# scrypt of 1 GiB and PBKDF2 of 16,777,216 rounds are for the long run.
SCRYPT_SHORT, PBKDF2_SHORT = 1 << 16, 1 << 16
# Of the 100 chains of 1,000 hashes of a Monte Carlo file, in the short run with system calls.
CHAINS = {"kernel": 2}


@dataclass
class Run:
    """How the vectors of one file went on one engine."""

    engine: str
    long: bool = False
    done: int = 0
    #: Not the table's algorithm, or too long for the short run.
    other: int = 0
    #: The engine said in so many words that it cannot.
    beyond: int = 0
    why: set[str] = field(default_factory=set)

    def on(
        self,
        work: Callable[[cryptofd.CryptoFD], None],
        algorithm: str,
        key: bytes | None = None,
        **options: object,
    ) -> None:
        """Runs ``work`` on a session, or counts why there is none."""
        try:
            with cryptofd.open(algorithm, key=key, engine=self.engine, **options) as fd:  # type: ignore[arg-type]
                work(fd)
        except (cryptofd.NoEngine, cryptofd.TooLarge) as error:
            self.beyond += 1
            self.why.add(str(error))
        else:
            self.done += 1


Runner = Callable[[Run, str], None]


def cipher(algorithm: str) -> Runner:
    """KEY, IV, PLAINTEXT, CIPHERTEXT, whichever section they stand in; both ways each time."""

    def run(run: Run, path: str) -> None:
        for record in records(path, "count"):
            if "key" in record:
                key = unhex(record["key"])
            elif "keys" in record:
                key = unhex(record["keys"]) * 3
            else:
                key = b"".join(unhex(record[f"key{n}"]) for n in (1, 2, 3))
            iv = unhex(record["iv"]) if "ecb" not in algorithm else None
            plain, sealed = unhex(record["plaintext"]), unhex(record["ciphertext"])

            def work(
                fd: cryptofd.CryptoFD, iv: bytes | None = iv, p: bytes = plain, c: bytes = sealed
            ) -> None:
                assert fd.encrypt(p, iv=iv) == c
                assert fd.decrypt(c, iv=iv) == p
                stream = fd.stream("encrypt", iv=iv)
                cut = len(p) // 3
                assert stream.update(p[:cut]) + stream.update(p[cut:]) + stream.finish() == c

            run.on(work, algorithm, key)

    return run


def xts(run: Run, path: str) -> None:
    for record in records(path, "count"):
        if int(record["dataunitlen"]) % 8:
            run.other += 1  # bits beyond whole bytes
            continue
        if "i" in record:
            tweak = unhex(record["i"])
        else:
            tweak = int(record["dataunitseqnumber"]).to_bytes(16, "little")
        plain, sealed = unhex(record["pt"]), unhex(record["ct"])

        def work(
            fd: cryptofd.CryptoFD, tweak: bytes = tweak, p: bytes = plain, c: bytes = sealed
        ) -> None:
            assert fd.encrypt(p, iv=tweak) == c
            assert fd.decrypt(c, iv=tweak) == p

        run.on(work, "xts(aes)", unhex(record["key"]))


def chacha20(run: Run, path: str) -> None:
    for record in records(path, "count"):
        iv = struct.pack("<I", int(record["initial_block_counter"])) + unhex(record["nonce"])
        plain, sealed = unhex(record["plaintext"]), unhex(record["ciphertext"])

        def work(
            fd: cryptofd.CryptoFD, iv: bytes = iv, p: bytes = plain, c: bytes = sealed
        ) -> None:
            assert fd.encrypt(p, iv=iv) == c
            assert fd.decrypt(c, iv=iv) == p

        run.on(work, "chacha20", unhex(record["key"]))


def both_ways(
    iv: bytes, aad: bytes, plain: bytes, box: bytes, fails: bool
) -> Callable[[cryptofd.CryptoFD], None]:
    """Seals and opens; or is refused."""

    def work(fd: cryptofd.CryptoFD) -> None:
        if fails:
            with pytest.raises(cryptofd.BadTag):
                fd.decrypt(box, iv=iv, aad=aad)
        else:
            assert fd.encrypt(plain, iv=iv, aad=aad) == box
            assert fd.decrypt(box, iv=iv, aad=aad) == plain

    return work


def aead(algorithm: str) -> Runner:
    """NIST's GCM and what OpenSSL and BoringSSL write alike."""

    def run(run: Run, path: str) -> None:
        for record in records(path, "count"):

            def value(*names: str, record: Record = record) -> bytes:
                return unhex(next((record[name] for name in names if name in record), ""))

            iv, aad, tag = value("iv", "nonce"), value("aad", "ad"), value("tag")
            plain, sealed = value("pt", "plaintext", "in"), value("ct", "ciphertext")
            sizes = {a.name: a for a in TABLE}[algorithm]
            if (
                len(tag) not in sizes.tag_sizes
                or (sizes.iv and len(iv) not in sizes.iv)
                or (sizes.key and len(value("key")) not in sizes.key)
            ):
                run.other += 1
                continue
            run.on(
                both_ways(iv, aad, plain, sealed + tag, bool(record.keys() & {"fail", "result"})),
                algorithm,
                value("key"),
                tag_size=len(tag),
            )

    return run


def ccm(run: Run, path: str) -> None:
    for record in records(path, "count"):
        aad = unhex(record["adata"])[: int(record["alen"])]
        length, tag = int(record["plen"]), int(record["tlen"])
        fails = record.get("result", "Pass").startswith("Fail")
        plain = b"" if fails else unhex(record["payload"])[:length]
        run.on(
            both_ways(unhex(record["nonce"]), aad, plain, unhex(record["ct"]), fails),
            "ccm(aes)",
            unhex(record["key"]),
            tag_size=tag,
        )


def wrap(algorithm: str) -> Runner:
    def run(run: Run, path: str) -> None:
        for record in records(path, "count"):
            wrapped = unhex(record.get("c") or record["output"])
            fails = "fail" in record
            plain = b"" if fails else unhex(record.get("p") or record["input"])

            def work(
                fd: cryptofd.CryptoFD, p: bytes = plain, c: bytes = wrapped, fails: bool = fails
            ) -> None:
                if fails:
                    with pytest.raises(cryptofd.BadTag):
                        fd.unwrap(c)
                else:
                    assert fd.wrap(p) == c
                    assert fd.unwrap(c) == p

            run.on(work, algorithm, unhex(record.get("k") or record["key"]))

    return run


def hashing(algorithm: str) -> Runner:
    """Len in bits, Msg, MD; Msg = 00 where Len = 0."""

    def run(run: Run, path: str) -> None:
        fd = cryptofd.open(algorithm, engine=run.engine)
        for record in records(path, "len"):
            message = unhex(record["msg"])[: int(record["len"]) // 8]
            digest = unhex(record["md"] if "md" in record else record["output"])
            length = len(digest) if algorithm.startswith("shake") else None
            fd.reset()
            cut = len(message) // 3
            fd.update(message[:cut])
            fd.update(message[cut:])
            assert fd.digest(length) == digest
            run.done += 1

    return run


def steps(algorithm: str) -> Runner:
    """The single steps of a Monte Carlo file: M and MDi."""

    def run(run: Run, path: str) -> None:
        maker = HashFactory(algorithm, engine=run.engine)
        for record in records(path, "i"):
            assert maker.digest(unhex(record["m"])) == unhex(record["mdi"])
            run.done += 1

    return run


def _chains(run: Run, path: str) -> list[Record]:
    found = records(path, "count")
    most = len(found) if run.long else CHAINS.get(run.engine, len(found))
    run.other += len(found) - most
    return found[:most]


def monte(algorithm: str) -> Runner:
    """Chains of 1,000 hashes (SHAVS, section 6.4; SHA3VS, section 6.2.3)."""
    links = 1 if algorithm.startswith("sha3-") else 3

    def run(run: Run, path: str) -> None:
        digest = HashFactory(algorithm, engine=run.engine).digest
        for record in _chains(run, path):
            if not run.done:
                seed = unhex(record["seed"])
            last = [seed] * links
            for _ in range(1000):
                last = [*last[1:], digest(b"".join(last))]
            seed = last[-1]
            assert seed == unhex(record["md"])
            run.done += 1

    return run


def xof_monte(algorithm: str) -> Runner:
    """Chains whose lengths follow from their output (SHA3VS, section 6.3.3)."""

    def run(run: Run, path: str) -> None:
        digest = HashFactory(algorithm, engine=run.engine).digest
        for record in _chains(run, path):
            least = int(record["minimum output length (bits)"]) // 8
            most = int(record["maximum output length (bits)"]) // 8
            if not run.done:
                output, length = unhex(record["msg"]), most
            for _ in range(1000):
                output = digest(output[:16].ljust(16, b"\0"), length)
                size, length = (
                    length,
                    least + int.from_bytes(output[-2:], "big") % (most - least + 1),
                )
            assert (output, size) == (unhex(record["output"]), int(record["outputlen"]) // 8)
            run.done += 1

    return run


def xof(algorithm: str) -> Runner:
    def run(run: Run, path: str) -> None:
        maker = HashFactory(algorithm, engine=run.engine)
        for record in records(path, "count"):
            output = unhex(record["output"])
            assert len(output) * 8 == int(record["outputlen"])
            assert maker.digest(unhex(record["msg"]), len(output)) == output
            run.done += 1

    return run


def mac(algorithm: str, starter: str, message: str, tag: str) -> Runner:
    def run(run: Run, path: str) -> None:
        for record in records(path, starter):
            data, expected = unhex(record[message]), unhex(record[tag])

            def work(fd: cryptofd.CryptoFD, data: bytes = data, tag: bytes = expected) -> None:
                fd.update(data)
                assert fd.digest() == tag
                fd.verify(tag)
                with pytest.raises(cryptofd.BadTag):
                    fd.verify(bytes([tag[0] ^ 1]) + tag[1:])

            run.on(work, algorithm, unhex(record["key"]))

    return run


def hkdf(run: Run, path: str) -> None:
    for record in records(path, "count"):
        salt, info, okm = (unhex(record[name]) for name in ("salt", "info", "okm"))
        assert len(okm) == int(record["l"])

        def work(fd: cryptofd.CryptoFD, s: bytes = salt, i: bytes = info, okm: bytes = okm) -> None:
            assert fd.derive(len(okm), salt=s, info=i) == okm

        name = record["hash"].lower().replace("-", "")
        run.on(work, f"hkdf({name})", unhex(record["ikm"]))


def _text(value: str) -> bytes:
    return value.replace("\\0", "\0").encode()


def pbkdf2(run: Run, path: str) -> None:
    for record in records(path, "count"):
        rounds, salt = int(record["iterations"]), _text(record["salt"])
        if rounds > PBKDF2_SHORT and not run.long:
            run.other += 1
            continue

        def work(
            fd: cryptofd.CryptoFD,
            salt: bytes = salt,
            rounds: int = rounds,
            out: bytes = unhex(record["derived_key"]),
        ) -> None:
            assert fd.derive(len(out), salt=salt, iterations=rounds) == out

        run.on(work, "pbkdf2(hmac(sha1))", _text(record["password"]))


def scrypt(run: Run, path: str) -> None:
    for record in records(path, "count"):
        n, r, p = (int(record[name]) for name in ("n", "r", "p"))
        if n > SCRYPT_SHORT and not run.long:
            run.other += 1
            continue

        def work(
            fd: cryptofd.CryptoFD,
            salt: bytes = _text(record["salt"]),
            costs: tuple[int, int, int] = (n, r, p),
            out: bytes = unhex(record["derived_key"]),
        ) -> None:
            assert fd.derive(len(out), salt=salt, n=costs[0], r=costs[1], p=costs[2]) == out

        run.on(work, "scrypt", _text(record["password"]))


def kbkdf(run: Run, path: str) -> None:
    """Of NIST's combinations the table has HMAC, the counter before the input, 32 bits of it."""
    for record in records(path, "count"):
        prf, place, bits = record["prf"], record["ctrlocation"], record["rlen"]
        if not prf.startswith("HMAC_") or place != "BEFORE_FIXED" or bits != "32_BITS":
            run.other += 1
            continue

        def work(
            fd: cryptofd.CryptoFD,
            info: bytes = unhex(record["fixedinputdata"]),
            out: bytes = unhex(record["ko"]),
        ) -> None:
            assert fd.derive(len(out), info=info) == out

        run.on(work, f"kdf108-ctr(hmac({prf[5:].lower()}))", unhex(record["ki"]))


TABLE = cryptofd.algorithms()


@dataclass(frozen=True)
class Group:
    """Files that are read alike; ``least``: vectors that they hold together."""

    algorithm: str
    runner: Runner
    starter: str
    least: int
    patterns: tuple[str, ...]


AES = "ciphers/AES"
GROUPS = [
    Group("ecb(aes)", cipher("ecb(aes)"), "count", 2138, (f"{AES}/ECB/*.rsp",)),
    Group("cbc(aes)", cipher("cbc(aes)"), "count", 2138, (f"{AES}/CBC/*.rsp",)),
    Group("cfb(aes)", cipher("cfb(aes)"), "count", 2138, (f"{AES}/CFB/CFB128*.rsp",)),
    Group("ctr(aes)", cipher("ctr(aes)"), "count", 9, (f"{AES}/CTR/*.txt",)),
    Group(
        "cbc(des3_ede)", cipher("cbc(des3_ede)"), "count", 530, ("ciphers/3DES/CBC/TCBC[!I]*.rsp",)
    ),
    Group("xts(aes)", xts, "count", 4000, (f"{AES}/XTS/*/*.rsp",)),
    Group("chacha20", chacha20, "count", 3, ("ciphers/ChaCha20/*.txt",)),
    Group("gcm(aes)", aead("gcm(aes)"), "count", 47250, (f"{AES}/GCM/*.rsp",)),
    Group(
        "ccm(aes)",
        ccm,
        "count",
        3600,
        (f"{AES}/CCM/*128.*", f"{AES}/CCM/*192.*", f"{AES}/CCM/*256.*"),
    ),
    Group("gcm-siv(aes)", aead("gcm-siv(aes)"), "count", 92, (f"{AES}/GCM-SIV/*.txt",)),
    Group(
        "rfc7539(chacha20,poly1305)",
        aead("rfc7539(chacha20,poly1305)"),
        "count",
        71,
        ("ciphers/ChaCha20Poly1305/*.txt",),
    ),
    Group("kw(aes)", wrap("kw(aes)"), "count", 3000, ("keywrap/kwtestvectors/KW_A?_???.txt",)),
    Group(
        "kwp(aes)",
        wrap("kwp(aes)"),
        "count",
        3129,
        ("keywrap/kwtestvectors/KWP_A?_???.txt", "keywrap/kwp_botan.txt"),
    ),
    *(
        Group(name, runner(name), starter, least, (pattern,))
        for name, directory, stem in [
            ("sha1", "SHA1", "SHA1"),
            ("sha224", "SHA2", "SHA224"),
            ("sha256", "SHA2", "SHA256"),
            ("sha384", "SHA2", "SHA384"),
            ("sha512", "SHA2", "SHA512"),
            ("sha512/256", "SHA2", "SHA512_256"),
            ("sha3-224", "SHA3", "SHA3_224"),
            ("sha3-256", "SHA3", "SHA3_256"),
            ("sha3-384", "SHA3", "SHA3_384"),
            ("sha3-512", "SHA3", "SHA3_512"),
        ]
        for runner, starter, least, pattern in [
            (hashing, "len", 64, f"hashes/{directory}/{stem}ShortMsg.rsp"),
            (hashing, "len", 64, f"hashes/{directory}/{stem}LongMsg.rsp"),
            (monte, "count", 100, f"hashes/{directory}/{stem}Monte.rsp"),
            (steps, "i", 500, f"hashes/{directory}/{stem}Monte.txt"),
        ]
        if not (directory == "SHA3" and runner is steps)
    ),
    *(
        Group(name, runner(name), starter, least, (f"hashes/SHAKE/{stem}{part}.rsp",))
        for name, stem in [("shake128", "SHAKE128"), ("shake256", "SHAKE256")]
        for runner, starter, least, part in [
            (hashing, "len", 100, "ShortMsg"),
            (hashing, "len", 100, "LongMsg"),
            (xof_monte, "count", 100, "Monte"),
            (xof, "count", 1126, "VariableOut"),
        ]
    ),
    Group("md5", hashing("md5"), "len", 7, ("hashes/MD5/*.txt",)),
    Group("sm3", hashing("sm3"), "len", 6, ("hashes/SM3/*.txt",)),
    Group("blake2b", hashing("blake2b"), "len", 7, ("hashes/blake2/blake2b.txt",)),
    Group("blake2s", hashing("blake2s"), "len", 7, ("hashes/blake2/blake2s.txt",)),
    *(
        Group(
            f"hmac({name})",
            mac(f"hmac({name})", "len", "msg", "md"),
            "len",
            6,
            (f"HMAC/rfc-*-{name}.txt",),
        )
        for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
    ),
    Group(
        "cmac(aes)",
        mac("cmac(aes)", "count", "message", "output"),
        "count",
        12,
        ("CMAC/nist-800-38b-aes*.txt",),
    ),
    Group("poly1305", mac("poly1305", "count", "msg", "tag"), "count", 11, ("poly1305/*.txt",)),
    Group(
        "hkdf(sha256)", hkdf, "count", 4, ("KDF/hkdf-generated.txt", "KDF/rfc-5869-HKDF-SHA256.txt")
    ),
    Group("hkdf(sha1)", hkdf, "count", 4, ("KDF/rfc-5869-HKDF-SHA1.txt",)),
    Group("pbkdf2(hmac(sha1))", pbkdf2, "count", 6, ("KDF/rfc-6070-*.txt",)),
    Group("scrypt", scrypt, "count", 4, ("KDF/scrypt.txt",)),
    Group("kdf108-ctr(hmac(sha256))", kbkdf, "count", 4800, ("KDF/nist-800-108-*.txt",)),
]

#: Files of these folders that are no algorithm of the table, and why.
ELSEWHERE = {
    "CFB1": "CFB with 1 bit of feedback",
    "CFB8": "CFB with 8 bits of feedback",
    "/OFB/": "OFB",
    "/OCB3/": "OCB3",
    "/SIV/": "AES-SIV",
    "TCBCI": "three interleaved chains (TCBC-I)",
    "/3DES/CFB/": "3DES in CFB",
    "/3DES/ECB/": "3DES in ECB",
    "3des": "CMAC with 3DES",
    "ripemd160": "RIPEMD-160",
    "SHA512_224": "SHA-512/224",
    "_inv": "key wrap with the inverse cipher",
    "TKW": "key wrap with 3DES",
    "eadme.txt": "no vectors",
    "ansx963": "the KDF of ANSI X9.63",
    "argon2": "Argon2",
}

FILES = [(path, group) for group in GROUPS for path in under(*group.patterns)]


def check(engine: str, path: str, group: Group, long: bool) -> Run:
    """Runs a file and settles its account."""
    why = refusal(engine, group.algorithm)
    if why is not None:
        pytest.skip(f"{engine} does not offer {group.algorithm}: {why}")
    run = Run(engine, long)
    group.runner(run, path)
    total = count(path, group.starter)
    assert run.done + run.other + run.beyond == total > 0
    if not run.done:
        # A whole file may be of one key size, which the table or the engine lacks.
        pytest.skip(f"{engine}: {', '.join(sorted(run.why)) or 'not an algorithm of the table'}")
    return run


@pytest.mark.parametrize(("path", "group"), FILES, ids=[path for path, _ in FILES])
def test_file(engine: str, path: str, group: Group) -> None:
    check(engine, path, group, long=False)


LONG = [f for f in FILES if f[1].algorithm in {"scrypt", "pbkdf2(hmac(sha1))"} or "Monte" in f[0]]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("path", "group"), LONG, ids=[path for path, _ in LONG])
def test_file_whole(engine: str, path: str, group: Group) -> None:
    assert check(engine, path, group, long=True).other == 0


def test_every_file_is_accounted_for() -> None:
    folders = (
        "CMAC/*", "HMAC/*", "KDF/*", "poly1305/*", "keywrap/**/*", "hashes/*/*",
        "ciphers/AES/**/*", "ciphers/3DES/*/*", "ciphers/ChaCha*/*",
    )  # fmt: skip
    run = {path for path, _ in FILES}
    left = [f for f in under(*folders) if f not in run and not any(e in f for e in ELSEWHERE)]
    assert left == []


@pytest.mark.parametrize("group", GROUPS, ids=lambda g: f"{g.algorithm}:{g.patterns[0]}")
def test_group_holds_what_it_should(group: Group) -> None:
    assert sum(count(path, group.starter) for path in under(*group.patterns)) >= group.least
    for path in under(*group.patterns):
        assert len(records(path, group.starter)) == count(path, group.starter) > 0
        assert read(path)
