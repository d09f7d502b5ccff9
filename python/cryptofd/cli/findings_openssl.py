"""What the doctor looks at of the OpenSSL provider: it loads, and which configurations have it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from cryptofd.cli import openssl_configuration as ossl
from cryptofd.cli.findings import Finding
from cryptofd.cli.openssl_measured import measured, summary

TOPIC = "OpenSSL provider"
AGAIN = ("cryptofd setup openssl, with --system for everybody",)


def provider() -> Iterator[Finding]:
    """It is there, a libcrypto loads it, and the configurations that name it mean what they say."""
    from cryptofd.cli.setup import library

    try:
        path = library(ossl.LIBRARY)
    except OSError as error:
        yield Finding(TOPIC, "broken", f"{error.strerror}")
        return
    why = loads(path)
    if why is not None:
        yield Finding(TOPIC, "broken", f"{path} does not load: {why}", ("install cryptofd again",))
    else:
        yield Finding(TOPIC, "ok", f"{path} loads")
    named = os.environ.get("OPENSSL_CONF")
    files = dict.fromkeys(
        file for file in (Path(named) if named else None, ossl.users(), ossl.system()) if file
    )
    found = [finding for file in files if (finding := configuration(file)) is not None]
    yield from found
    if not found:
        yield Finding(TOPIC, "absent", "no configuration of OpenSSL's names it", AGAIN)
    elif not named and any(ossl.users() == file for file in files) and ossl.users().exists():
        todo = (f"export OPENSSL_CONF={ossl.users()}",)
        yield Finding(TOPIC, "absent", "OPENSSL_CONF does not name your configuration here", todo)


def loads(path: Path) -> str | None:
    """Why not."""
    crypto = ossl.libcrypto()
    if crypto is None:
        return "there is no libcrypto 3 or later"
    pointer = ctypes.c_void_p
    crypto.OSSL_LIB_CTX_new.restype = crypto.OSSL_PROVIDER_load.restype = pointer
    context = pointer(crypto.OSSL_LIB_CTX_new())
    try:
        loaded = pointer(crypto.OSSL_PROVIDER_load(context, os.fsencode(path)))
        if not loaded:
            return "OpenSSL refuses it"
        crypto.OSSL_PROVIDER_unload(loaded)
        return None
    finally:
        crypto.OSSL_LIB_CTX_free(context)


def configuration(file: Path) -> Finding | None:
    """Of one that names a module of ours."""
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return None
    found = ossl.Configuration.parse(text, file.parent)
    if found.module is None:
        return None
    names = list(found.providers)
    name = found.our_name or ""
    own = [one for one in ossl.OWN if found.active(one)]
    if found.profile not in ossl.PROFILES:
        what = f"says profile = {found.profile}: one of {', '.join(ossl.PROFILES)}"
        why = "OpenSSL leaves the provider out, and says nothing"
        return Finding(TOPIC, "broken", f"{file} {what}; {why}", AGAIN)
    if not Path(found.module).exists():
        return Finding(TOPIC, "broken", f"{file}: {found.module} is not there", AGAIN)
    if not own:
        what = "activates no other provider: programs have no crypto but ours"
        return Finding(TOPIC, "broken", f"{file} {what}", AGAIN)
    if name <= max(ossl.OWN) or any(names.index(one) > names.index(name) for one in own):
        what = f"names it {name!r}, or before {' and '.join(own)}"
        why = "OpenSSL would ask it for programs' own keys"
        return Finding(TOPIC, "broken", f"{file} {what}: {why}", AGAIN)
    more = ""
    if found.profile == "bulk":
        more = f"; {summary(measured(Path(found.module)))}"
    return Finding(TOPIC, "ok", f"{file}: profile {found.profile}{more}")
