"""The answers of Linux 7.2 and 7.3, made on real AF_ALG, are what those kernels answer."""

from itertools import product

import pytest

from lab import Selection

pytestmark = pytest.mark.lab

CHECK = "tests/lab/inner/check_answers.py"

answers = [
    Selection("uml", CHECK, linux=linux, uid=uid)
    for linux, uid in product((None, "7.2", "7.3:0", "7.3:1", "7.3:2"), (0, 65534))
]
answers_on_6_12 = Selection("qemu-6.12", CHECK, linux="7.3:1", uid=65534)
