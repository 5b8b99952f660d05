"""``nastc nni-env``: what a shell needs so that nnictl's experiments are closed to others."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "nni-env",
        help="print shell lines that close NNI's web server to others",
        description='Use it as: eval "$(nastc nni-env)", then nnictl create ... --url_prefix $NASTC_PREFIX. NNI then '
        "listens on 127.0.0.1 only, under a random path.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the lines."""
    from nni_nastc.experiments.server import shell_lines

    print(shell_lines(), end="")
    return 0
