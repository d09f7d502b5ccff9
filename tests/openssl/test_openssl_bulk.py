"""Profile `bulk`: only what is worth its way is offered, and short messages may stay the host's."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from evp_suite import Choice, Skips, built, run, written
from hosts import LIBRARY, Host
from measured import FROM, claim, environment, measure, record
from test_openssl_ciphers import PROGRAM

#: Who does it, in a program that runs with the configuration.
WHO = """
    import ctypes
    crypto = ctypes.CDLL("libcrypto.so.3")
    for function in ("EVP_MD_fetch", "EVP_MD_get0_provider", "OSSL_PROVIDER_get0_name"):
        getattr(crypto, function).restype = ctypes.c_void_p
    md = ctypes.c_void_p(crypto.EVP_MD_fetch(None, b"{name}", None))
    provider = ctypes.c_void_p(crypto.EVP_MD_get0_provider(md))
    print(ctypes.string_at(crypto.OSSL_PROVIDER_get0_name(provider)).decode())
"""


@pytest.fixture(scope="module")
def bulk(hosts_folder: Path) -> Host:
    return Host(hosts_folder, "bulk")


def who(host: Host, cache: Path, name: str) -> str:
    return host.python(WHO.format(name=name), **environment(cache)).strip()


def test_it_is_measured_once_and_kept(bulk: Host, tmp_path: Path) -> None:
    algorithms = measure(bulk, tmp_path)
    assert {"SHA2-256", "AES-256-GCM", "ChaCha20-Poly1305", "HMAC", "PBKDF2"} <= set(algorithms)
    for one in algorithms.values():
        assert one["from"] is None or one["from"] >= 0
        # On a machine that is at work, any number.
        assert one["gain"] >= 0
    file = record(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.stat().st_mtime_ns
    assert measure(bulk, tmp_path) == algorithms
    assert file.stat().st_mtime_ns == before
    assert list(file.parent.iterdir()) == [file]


def test_what_is_not_worth_it_stays_the_hosts(bulk: Host, tmp_path: Path) -> None:
    measure(bulk, tmp_path)
    for place, name in ((None, "default"), (0, "libcryptofd-openssl")):
        claim(tmp_path, place)
        assert who(bulk, tmp_path, "SHA2-256") == name
    # With a record of another host it is measured.
    hosts = json.loads(record(tmp_path).read_text())
    (one,) = hosts.values()
    record(tmp_path).write_text(json.dumps({"another": one}))
    assert who(bulk, tmp_path, "SHA2-256") in ("default", "libcryptofd-openssl")
    assert len(json.loads(record(tmp_path).read_text())) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', "\xff", "[" * 100_000])
def test_a_broken_record_is_none(bulk: Host, tmp_path: Path, text: str) -> None:
    record(tmp_path).parent.mkdir()
    record(tmp_path).write_text(text, encoding="latin-1")
    assert len(measure(bulk, tmp_path)) >= 45


def test_a_record_that_others_can_write_is_none(bulk: Host, tmp_path: Path) -> None:
    measure(bulk, tmp_path)
    claim(tmp_path, 0)
    record(tmp_path).chmod(0o666)
    measure(bulk, tmp_path)
    assert record(tmp_path).stat().st_mode & 0o777 == 0o600


def test_where_nothing_can_be_written_nothing_is_measured(bulk: Host, tmp_path: Path) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    said = bulk.run("openssl", "dgst", "-sha256", given=b"abc", **environment(nowhere))
    assert b"ba7816bf" in said
    count = f"""
        from cryptofd.cli.openssl_measured import measured
        from pathlib import Path
        print(len(measured(Path({str(LIBRARY)!r}))))
    """
    here = {**environment(nowhere), "PYTHONPATH": os.pathsep.join(sys.path)}
    assert bulk.python(count, **here) == "0\n"
    # It was asked for.
    assert int(bulk.python(count, **{**here, "CRYPTOFD_OPENSSL_MEASURE": "again"})) > 0


def test_a_folder_that_is_a_link_is_not_written_to(bulk: Host, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "cryptofd").symlink_to(elsewhere)
    bulk.run("openssl", "dgst", "-sha256", given=b"", **environment(tmp_path))
    assert list(elsewhere.iterdir()) == []


#: The library under two names, loaded and let go again and again.
TWICE = """
    import os, sys
    sys.path.insert(0, {tests!r})
    from libcrypto import POINTER, cipher_fetch, function, lib_new, provider_load
    unload = function("OSSL_PROVIDER_unload", POINTER)
    free = function("OSSL_LIB_CTX_free", POINTER, result=None)
    let_go = function("EVP_CIPHER_free", POINTER, result=None)
    def pages():
        return int(open("/proc/self/statm").read().split()[1])
    for number in range(300):
        context = lib_new()
        names = ("default", {library!r}, {other!r})
        loaded = [provider_load(context, name.encode()) for name in names]
        assert all(loaded)
        let_go(cipher_fetch(context, b"AES-128-CBC", None))
        for one in loaded:
            unload(one)
        free(context)
        if number == 50:
            before = pages()
    print((pages() - before) * os.sysconf("SC_PAGE_SIZE"))
"""


def test_two_of_it_do_not_keep_each_other(bulk: Host, tmp_path: Path) -> None:
    measure(bulk, tmp_path)
    other = tmp_path / "other.so"
    other.symlink_to(LIBRARY)
    tests = str(Path(__file__).parent)
    code = TWICE.format(tests=tests, library=str(LIBRARY), other=str(other))
    env = {**environment(tmp_path), "CRYPTOFD_OPENSSL_PROFILE": "bulk"}
    # One that stays takes tens of kilobytes.
    assert int(bulk.python(code, OPENSSL_CONF="/dev/null", **env)) < 4 << 20


@pytest.fixture(scope="module")
def routed(bulk: Host, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which short messages are the host's, of every algorithm."""
    cache = tmp_path_factory.mktemp("cache")
    measure(bulk, cache)
    claim(cache, FROM)
    return {**environment(cache), "CRYPTOFD_TEST_LIBRARY": str(LIBRARY)}


def both(host: Host, routed: dict[str, str], seed: int, rounds: int) -> None:
    env = {**routed, "CRYPTOFD_OPENSSL_PROFILE": "bulk", "OPENSSL_CONF": "/dev/null"}
    said = host.run(sys.executable, PROGRAM, str(seed), str(rounds), **env)
    assert said.split() == [b"done"]


def test_routed_ciphers_are_the_same(bulk: Host, routed: dict[str, str]) -> None:
    both(bulk, routed, 3, 300)


@pytest.mark.soak
def test_routed_ciphers_are_the_same_for_long(bulk: Host, routed: dict[str, str]) -> None:
    for number in range(1, 21):
        both(bulk, routed, number * 100_000, 5000)


@pytest.mark.parametrize("place", [1, FROM])
def test_routed_algorithms_pass_openssls_own_tests(
    bulk: Host, tmp_path: Path, hosts_folder: Path, place: int
) -> None:
    """Taken over from their first byte on, or some of them."""
    measure(bulk, tmp_path)
    claim(tmp_path, place)
    only = Host(hosts_folder, "bulk", "provider=cryptofd")
    suite, skips, count = built(), Skips(), 0
    for file in (*suite.files("evpciph"), *suite.files("evpmd")):
        kept = [one for one in Choice.of(file, skips).kept if "wrap" not in one.name.lower()]
        if kept:
            mine = written(tmp_path / file.name, kept)
            ran = run(suite, only.file, mine, **environment(tmp_path))
            assert ran.failed == 0, f"{file.name}: {ran.said[-6000:]}"
            count += ran.count
    assert count > 1000


DIGESTS = """
    import hashlib, random
    chance = random.Random({seed})
    names = ["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3_256", "sha3_512",
             "blake2b512", "blake2s256", "sm3", "sha512_256", "shake_128", "shake_256"]
    for _ in range(3000):
        name = chance.choice(names)
        one = hashlib.new(name, usedforsecurity=False)
        for _ in range(chance.randrange(5)):
            if chance.randrange(3) == 0:
                one = one.copy()
            one.update(chance.randbytes(chance.choice((0, 1, 47, 48, 49, 200, 5000))))
        size = (chance.randrange(1, 300),) if name.startswith("shake") else ()
        print(one.hexdigest(*size))
"""


def test_routed_digests_are_the_same(bulk: Host, routed: dict[str, str]) -> None:
    code = DIGESTS.format(seed=5)
    assert bulk.python(code, **routed) == bulk.python(code, OPENSSL_CONF="/dev/null")
