"""`python -m scsuite`, the same as the console script."""

import sys

from scsuite.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
