"""What all of the lab shares: the kernels' names and the one error."""

NAMES = ("uml", "qemu-6.1", "qemu-6.12")


class LabError(Exception):
    """The lab cannot do what was asked; the message says what is missing and what to do."""
