"""``python -m nni_nastc``: the same as the console command ``nastc``."""

import sys

from nni_nastc.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
