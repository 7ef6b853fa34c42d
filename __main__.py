"""`python -m plait` runs the console script `plait`."""

import sys

from .training.cli import main

if __name__ == "__main__":
    sys.exit(main())
