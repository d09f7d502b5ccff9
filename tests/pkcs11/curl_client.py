"""curl on another TLS library than this host's: `curl_client.py nss|gnutls MODULE URL CA CERT KEY`.

Prints the page. What follows stands for `curl --cacert CA --cert CERT --key KEY URL`.
"""

from __future__ import annotations

import ctypes
import sys

#: curl/curl.h
URL, CAINFO, CERT, KEY, ERRORBUFFER, FAILONERROR = 10002, 10065, 10025, 10087, 10010, 45


def main(flavour: str, module: str, url: str, authority: str, certificate: str, key: str) -> int:
    if flavour == "gnutls":
        # As p11-kit would, if the module were registered on this host.
        gnutls = ctypes.CDLL("libgnutls.so.30")
        assert gnutls.gnutls_pkcs11_init(0, None) == 0
        assert gnutls.gnutls_pkcs11_add_provider(module.encode(), None) == 0
    curl = ctypes.CDLL(f"libcurl-{flavour}.so.4")
    curl.curl_easy_init.restype = ctypes.c_void_p
    # Its variable arguments begin after the second.
    curl.curl_easy_setopt.argtypes = [ctypes.c_void_p, ctypes.c_int]
    handle = ctypes.c_void_p(curl.curl_easy_init())
    why = ctypes.create_string_buffer(256)
    texts = {URL: url, CAINFO: authority, CERT: certificate, KEY: key}
    for option, text in texts.items():
        if text:
            value = ctypes.c_char_p(text.encode())
            assert curl.curl_easy_setopt(handle, option, value) == 0
    assert curl.curl_easy_setopt(handle, ERRORBUFFER, why) == 0
    assert curl.curl_easy_setopt(handle, FAILONERROR, ctypes.c_long(1)) == 0
    done: int = curl.curl_easy_perform(handle)
    if done:
        print(done, why.value.decode(), file=sys.stderr)
    curl.curl_easy_cleanup(handle)
    return done


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
