"""``nastc demo``: the whole chain on made videos."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nni_nastc.demo import DemoReport


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "demo",
        help="run the whole chain on small made videos, in a few minutes",
        description="Make small videos in which an activity is told only by the order of its parts; extract features, "
        "search a cell, train it, evaluate it against mean pooling, and predict.",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for everything that is made")
    parser.add_argument(
        "--weights",
        default="kinetics400",
        help="I3D weights: kinetics400 (fetched, 47 MB), random, or a file (default: %(default)s)",
    )
    parser.set_defaults(run=run, resumes=True)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo, and show what came of it."""
    from nni_nastc.cli.extract import ExtractionBar, load_backbone
    from nni_nastc.cli.progress import EpochProgress
    from nni_nastc.demo import run_demo
    from nni_nastc.session import training_session

    backbone = load_backbone(arguments.weights)
    with training_session(), ExtractionBar() as bar:
        report = run_demo(
            arguments.out, backbone, progress=lambda title: [EpochProgress(title)], extraction_progress=bar
        )
    _show(report, arguments.out)
    return 0


def _show(report: DemoReport, out: Path) -> None:
    """Print the table at the end."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="nastc demo", caption=f"I3D weights: {report.weights}; everything is in {out}")
    table.add_column("what was done")
    table.add_column("seconds", justify="right")
    for name, seconds in report.steps:
        table.add_row(name, f"{seconds:.1f}")
    table.add_row("all", f"{sum(seconds for _, seconds in report.steps):.1f}")
    scores = Table(title="accuracy on the test videos")
    scores.add_column("network")
    scores.add_column("accuracy", justify="right")
    for name, label in (("nas_tc", "the searched NAS-TC"), ("pool", "mean pooling"), ("chance", "chance")):
        scores.add_row(label, f"{100 * report.accuracy[name]:.1f} %")
    console = Console(file=sys.stdout)
    console.print(table)
    console.print(scores)
    prediction = report.prediction
    console.print(
        f"{prediction['video']} shows {prediction['activity']!r}: predicted {prediction['predicted']!r} with "
        f"{prediction['score']:.2f}\n"
        f"pictures: {out}/search/cell.png, {out}/search/alphas.png, {out}/timeline.png",
        soft_wrap=True,
        markup=False,
    )
