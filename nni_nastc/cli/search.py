"""``nastc search``: find a cell."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "search",
        help="search a temporal cell on extracted features",
        description="Search a temporal cell, with Temp-DARTS unless the file names another strategy. "
        "A search that was stopped goes on when run again.",
    )
    parser.add_argument("config", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values in place of the file's")
    parser.set_defaults(run=run, resumes=True)


def run(arguments: argparse.Namespace) -> int:
    """Search, and say where the result is."""
    from nni_nastc.config import SearchConfig, load_config

    config = load_config(SearchConfig, arguments.config, arguments.overrides)

    from nni_nastc.cli.progress import EpochProgress
    from nni_nastc.cli.trial_progress import TrialProgress
    from nni_nastc.search.runner import run_search
    from nni_nastc.session import training_session

    with training_session():
        genotype = run_search(config, [EpochProgress("searching"), TrialProgress()])
        print("\n".join(genotype.lines))
        print(f"wrote genotype.json, cell.png and the course of the search to {config.output}")
    return 0
