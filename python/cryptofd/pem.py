"""PEM (RFC 7468): the key that stands between its lines, as DER."""

from __future__ import annotations

import binascii
import errno
import re

from cryptofd.errors import InvalidArgument

_ENCRYPTED = "this key is encrypted: decrypt it first (openssl pkey)"
_BLOCK = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]*KEY)-----\s+([A-Za-z0-9+/=\s]*)-----END \1-----", re.ASCII
)


def der(key: bytes) -> bytes:
    """The first key in ``key`` if that is PEM; otherwise ``key`` as it is.

    InvalidArgument (EINVAL) for one that is encrypted, or that has no base64 between its lines.
    """
    if not key.lstrip().startswith(b"-----BEGIN "):
        return key
    found = _BLOCK.search(key)
    if found is None:
        if b"-----BEGIN ENCRYPTED" in key or b"ENCRYPTED\n" in key:
            raise InvalidArgument(
                errno.EINVAL, "this key is encrypted: decrypt it first (openssl pkey)"
            )
        raise InvalidArgument(errno.EINVAL, "this looks like PEM, and there is no key in it")
    label, body = found.groups()
    if label.startswith(b"ENCRYPTED"):
        raise InvalidArgument(
            errno.EINVAL, "this key is encrypted: decrypt it first (openssl pkey)"
        )
    try:
        return binascii.a2b_base64(b"".join(body.split()), strict_mode=True)
    except binascii.Error as error:
        raise InvalidArgument(errno.EINVAL, f"the PEM of this key is no base64: {error}") from None
