"""Direct sessions of a broker that runs in the lab's kernel, which has AF_ALG."""

import pytest

from lab import Selection

pytestmark = pytest.mark.lab

CHECK = "tests/lab/inner/check_direct.py"

direct = Selection("qemu-6.1", CHECK)
