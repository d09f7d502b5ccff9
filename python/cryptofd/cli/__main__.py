"""`python -m cryptofd.cli` is `cryptofd`."""

import sys

from cryptofd.cli import main

sys.exit(main())
