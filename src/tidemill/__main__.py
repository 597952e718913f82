"""`python -m tidemill`: the command line, where no `tidemill` is on the path."""

import sys

from tidemill.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
