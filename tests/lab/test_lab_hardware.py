"""The lab's crypto device: to this kernel, and to a kernel whose AF_ALG has no hardware."""

import pytest

from lab import Selection

pytestmark = pytest.mark.lab

CHECK = "tests/lab/inner/check_hardware.py"

device = [
    Selection("qemu-6.1", CHECK, hardware=True),
    Selection("qemu-6.12", CHECK, hardware=True),
    Selection("qemu-6.1", CHECK, linux="7.3:0", hardware=True),
]
