"""``nastc bench``: tables of methods beside the paper's numbers."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "bench",
        help="tables of methods beside the paper's numbers",
        description="params: trainable parameters of NAS-TC and Timeception with 0 to 8 layers, as Markdown, CSV, JSON "
        "and a picture (Fig. 6 and Table III of the paper). It needs no data.",
    )
    parser.add_argument("what", choices=["params"], help="which table")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where to write")
    parser.add_argument(
        "--genotype",
        help="NAS-TC's cell: a shipped genotype, a JSON file, or a search's folder; otherwise one of the paper's size",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Count, write, and show the tables."""
    from nni_nastc.bench.parameters import write_parameters

    tables = write_parameters(arguments.out, arguments.genotype)
    print(f"{tables.caption}\n\n{tables.to_markdown()}")
    print(f"wrote parameters and table_iii (.md, .csv, .json) and parameters.png to {arguments.out}")
    return 0
