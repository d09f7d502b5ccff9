"""The provider itself: what it links, exports and says, its profiles; that it leaves nothing."""

from __future__ import annotations

import subprocess

from hosts import LIBRARY, Host
from programs import program

NOWHERE = {"CRYPTOFD_DISABLE": "software,kernel,openssl"}


def test_one_symbol_and_no_libcrypto() -> None:
    read = [program("readelf"), "-W", "--dyn-syms", "--dynamic", LIBRARY]
    said = subprocess.run(read, capture_output=True, text=True, timeout=60, check=True).stdout
    lines = [line.split() for line in said.splitlines()]
    exported = {
        line[7] for line in lines
        if len(line) > 7 and line[4] in ("GLOBAL", "WEAK") and line[6] != "UND"
    }  # fmt: skip
    assert exported == {"OSSL_provider_init"}
    needed = {line[-1] for line in lines if "(NEEDED)" in line}
    assert not [name for name in needed if "crypto" in name or "ssl" in name]
    assert "NODELETE" in said


def test_it_says_who_it_is(whole: Host) -> None:
    import cryptofd

    said = whole.run("openssl", "list", "-providers", "-verbose").decode()
    assert "cryptofd's provider" in said
    assert f"version: {cryptofd.__version__}" in said


def test_a_wrong_profile_is_an_error_that_says_so(keys_only: Host) -> None:
    # A configuration's provider that does not load is passed over without a word; one that the
    # command names is not.
    load = ("-provider-path", LIBRARY.parent, "-provider", LIBRARY.stem)
    command = ("openssl", "dgst", *load, "-sha256")
    env = {"OPENSSL_CONF": "/dev/null", "CRYPTOFD_OPENSSL_PROFILE": "everything"}
    said = keys_only.run(*command, given=b"", fails=True, **env).decode()
    assert "profile = everything: one of keys, bulk, all" in said


def test_the_default_profile_has_no_digest(keys_only: Host, whole: Host) -> None:
    command = ("openssl", "dgst", "-propquery", "provider=cryptofd", "-sha256")
    keys_only.run(*command, given=b"abc", fails=True)
    assert b"ba7816bf" in whole.run(*command, given=b"abc")
    assert b"ba7816bf" in keys_only.run(*command, given=b"abc", CRYPTOFD_OPENSSL_PROFILE="all")
    whole.run(*command, given=b"abc", fails=True, CRYPTOFD_OPENSSL_PROFILE="keys")


def test_an_operation_without_an_engine_says_why(whole: Host) -> None:
    said = whole.run("openssl", "dgst", "-sha256", given=b"", fails=True, **NOWHERE).decode()
    assert "no engine can do it" in said
    assert "software: disabled by preference" in said
    # The engine that this host is itself is never asked.
    assert "openssl: it is the program's own" in said


LOADS = """
    import ctypes, resource
    crypto = ctypes.CDLL("libcrypto.so.3")
    for name in ("OSSL_LIB_CTX_new", "OSSL_PROVIDER_load", "EVP_MD_fetch"):
        getattr(crypto, name).restype = ctypes.c_void_p
    pointer = ctypes.c_void_p
    crypto.OSSL_LIB_CTX_load_config.argtypes = [pointer, ctypes.c_char_p]
    def rounds(count):
        for n in range(count):
            context = pointer(crypto.OSSL_LIB_CTX_new())
            ours = pointer(crypto.OSSL_PROVIDER_load(context, PATH))
            assert ours.value
            if n % 100 == 0:
                digest = pointer(crypto.EVP_MD_fetch(context, b"SHA2-256", b"provider=cryptofd"))
                assert digest.value
                out = ctypes.create_string_buffer(32)
                assert crypto.EVP_Digest(b"abc", 3, out, None, digest, None)
                assert out.raw.hex().startswith("ba7816bf")
                crypto.EVP_MD_free(digest)
            assert crypto.OSSL_PROVIDER_unload(ours)
            crypto.OSSL_LIB_CTX_free(context)
    rounds(500)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rounds(10_000)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_ten_thousand_loads_leave_nothing(keys_only: Host) -> None:
    code = LOADS.replace("PATH", repr(str(LIBRARY).encode()))
    grown = int(keys_only.python(code, OPENSSL_CONF="/dev/null", CRYPTOFD_OPENSSL_PROFILE="all"))
    # Kibibytes; a leak of one small allocation each time would be 300.
    assert grown < 200


def test_valgrind_sees_no_leak_and_no_error(whole: Host) -> None:
    whole.run(
        "valgrind", "-q", "--leak-check=full", "--errors-for-leak-kinds=definite",
        "--error-exitcode=9", program("openssl"), "dgst", "-sha256", given=b"abc",
    )  # fmt: skip
