"""`python -m cryptofd` is the command `cryptofd`."""

import sys

from cryptofd.cli import main

if __name__ == "__main__":
    sys.exit(main())
