"""Run ``python -m cxrfeat.cli``, the same as the console command ``cxrfeat``."""

import sys

from cxrfeat.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
