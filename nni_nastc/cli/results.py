"""``nastc results``: what an experiment has found, also long afterwards."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nni_nastc.experiments.results import ExperimentResults, TrialResult

_SHOWN_PARAMETERS = 6
"""More than that do not fit a terminal: a sampled cell has 16."""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "results",
        help="show and save the trials of an experiment, best first",
        description="Show the trials of an experiment of NNI, or of a search by trials, best first, and save them as "
        "CSV and as a picture, with the best cell. It may be over, killed, or copied from another machine.",
    )
    parser.add_argument("experiment", help="NNI's id of the experiment, its folder, or the folder of a search")
    parser.add_argument("--out", type=Path, help="folder for the files (default: runs/results/ID)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show the table, and write the files."""
    from nni_nastc.experiments.report import write_report
    from nni_nastc.experiments.search_results import find_results

    results = find_results(arguments.experiment)
    out = arguments.out or Path("runs", "results", results.id)
    written = write_report(results, out)
    show(results)
    print(f"wrote {', '.join(written)} to {out}")
    return 0


def show(results: ExperimentResults) -> None:
    """Print the table of the trials, and the best cell."""
    from rich.console import Console
    from rich.table import Table

    names = list(dict.fromkeys(name for trial in results.trials for name in trial.parameters))
    names = names if len(names) <= _SHOWN_PARAMETERS else []
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = 200  # a file or a pipe has no width
    table = Table(title=f"{results.name} ({results.id}): {len(results.trials)} trials")
    for name in ("trial", "id", "status", "score", "last epoch", "epochs", "minutes"):
        table.add_column(name, justify="left" if name in ("id", "status") else "right")
    for name in [*names, "reason"] if any(trial.reason for trial in results.trials) else names:
        table.add_column(name, overflow="fold")
    for trial in results.ranked():
        table.add_row(*_cells(trial, names))
    console.print(table)
    if results.best and results.best.genotype:
        print(f"best cell, of trial {results.best.number}:")
        print("\n".join(results.best.genotype.lines))


def _cells(trial: TrialResult, names: list[str]) -> list[str]:
    from rich.markup import escape

    seconds = None if trial.ended_s is None or trial.started_s is None else trial.ended_s - trial.started_s
    return [
        str(trial.number),
        escape(trial.id),
        trial.status,
        "" if trial.score is None else f"{trial.score:.4f}",
        f"{trial.curve[-1]:.4f}" if trial.curve else "",
        str(len(trial.curve)),
        "" if seconds is None else f"{seconds / 60:.1f}",
        *(_short(trial.parameters.get(name, "")) for name in names),
        *([escape(trial.reason)] if trial.reason else []),
    ]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
