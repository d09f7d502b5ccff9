"""The errors: each an OSError with the errno that the kernel would give."""


class CryptoFDError(OSError):
    """Anything that went wrong; the message names the limit and the way out."""


class UnknownAlgorithm(CryptoFDError, LookupError):
    """No algorithm of this name (ENOENT)."""


class InvalidArgument(CryptoFDError, ValueError):
    """A size, flag or combination that the algorithm does not take (EINVAL)."""


class Refused(CryptoFDError, PermissionError):
    """A policy forbids it, or no validated module is there (EPERM)."""


class NoEngine(CryptoFDError):
    """No engine can serve it (ENODEV), or the one that was asked for failed."""


class BadTag(CryptoFDError):
    """The tag, or the padding, does not verify (EBADMSG); no plaintext was released."""


class BadSignature(BadTag):
    """The signature does not verify (EKEYREJECTED, as keyctl_pkey_verify(3) has it)."""


class TooLarge(CryptoFDError):
    """More than a stated limit (EMSGSIZE)."""


class Unsupported(CryptoFDError):
    """Not something that this object does (EOPNOTSUPP)."""


class StaleStream(CryptoFDError):
    """A stream's state was lost with its engine (ESTALE): begin again."""


class Closed(CryptoFDError, ValueError):
    """Used after close() (EBADF)."""


class NotReady(CryptoFDError, BlockingIOError):
    """Nothing is ready (EAGAIN): wait until the descriptor is."""


class KeyRevoked(CryptoFDError):
    """The key was revoked or has expired (EKEYREVOKED, EKEYEXPIRED)."""
