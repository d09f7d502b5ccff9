"""The broker as the tests start it."""

import sys

import fake_pairs

from cryptofd.broker.__main__ import main

if __name__ == "__main__":
    fake_pairs.complete()
    sys.exit(main())
