"""What all of the lab shares: the names of kernels and userlands, and the one error."""

NAMES = ("uml", "qemu-6.1", "qemu-6.12")

# Debian's, in the order of their age. `make test` needs the first.
SUITES = ("trixie", "forky", "experimental")


class LabError(Exception):
    """The lab cannot do what was asked; the message says what is missing and what to do."""
