"""``nastc launch``: an experiment with one command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nni_nastc.experiments.launcher import Progress, Running
    from nni_nastc.experiments.results import ExperimentResults

EXIT_INTERRUPTED = 130

_WARNING = (
    "warning: --open lets every machine that reaches this one use NNI's server. It has no login and no encryption:\n"
    "whoever knows the address below can run code and read files as you."
)


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "launch",
        help="run an experiment of NNI, with its web page, to its end",
        description="Run an experiment file of NNI (examples/nnictl), or a search configuration of nastc search. The "
        "web page is on this machine only, under a random path. Ctrl-C ends the experiment and all its trials.",
    )
    parser.add_argument("config", type=Path, help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values in place of the file's")
    parser.add_argument("--port", type=int, help="port of the web page (default: a free one)")
    parser.add_argument("--open", action="store_true", help="let other machines reach the web page: see the warning")
    parser.add_argument("--out", type=Path, help="folder for the results (default: runs/results/ID)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the experiment, then show and save its results."""
    from nni_nastc.config import load_yaml
    from nni_nastc.errors import ConfigError
    from nni_nastc.experiments.files import is_experiment, load_experiment
    from nni_nastc.experiments.server import free_port

    if not is_experiment(load_yaml(arguments.config)):
        if given := [name for name in ("open", "out") if getattr(arguments, name)]:
            raise ConfigError(f"--{given[0]} is for experiment files of NNI; {arguments.config} configures a search")
        from nni_nastc.cli import search

        if arguments.port:
            arguments.overrides.append(f"trials.port={arguments.port}")
        return search.run(arguments)
    config = load_experiment(arguments.config, arguments.overrides, open_to_network=arguments.open)
    return _launch(config, arguments.port or free_port(), arguments.open, arguments.out)


def _launch(config: Any, port: int, open_to_network: bool, out: Path | None) -> int:
    """Run an experiment; it is over when this returns."""
    from nni_nastc.errors import ExperimentError
    from nni_nastc.experiments.launcher import running

    interrupted = False
    if open_to_network:
        print(_WARNING, file=sys.stderr)
    with running(config, port, open_to_network=open_to_network) as experiment:
        _tell_address(experiment, open_to_network)
        try:
            _show_progress(experiment)
        except KeyboardInterrupt:
            interrupted = True
            print("interrupted: ending the trials", file=sys.stderr)
    results = _show_results(experiment, out)
    if interrupted:
        return EXIT_INTERRUPTED
    if results.best is None:
        reason = next((trial.reason for trial in results.trials if trial.reason), "no reason given")
        raise ExperimentError(f"none of the {len(results.trials)} trials has a score; the first failed: {reason}")
    return 0


def _tell_address(experiment: Running, open_to_network: bool) -> None:
    import socket

    print(f"experiment {experiment.id}: {experiment.address}")
    if open_to_network:
        print(f"from elsewhere: {experiment.address.replace('127.0.0.1', socket.gethostname())}")
    else:
        print(f"from another machine, first: {experiment.tunnel}")
    sys.stdout.flush()


def _show_progress(experiment: Running) -> None:
    """Show how far the experiment is, until it is over."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("trials"), BarColumn(bar_width=20), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=experiment.total)
        for progress in experiment.watch():
            bar.update(task, completed=progress.done + progress.failed, description=_in_words(progress))


def _in_words(progress: Progress) -> str:
    total = f" of {progress.total}" if progress.total else ""
    failed = f", {progress.failed} failed" if progress.failed else ""
    best = "" if progress.best is None else f", best {progress.best:.4f} (trial {progress.best_trial})"
    return f"{progress.done}{total} done, {progress.running} running{failed}{best}"


def _show_results(experiment: Running, out: Path | None) -> ExperimentResults:
    from nni_nastc.cli.results import show
    from nni_nastc.experiments.report import write_report
    from nni_nastc.experiments.results import read_experiment

    results = read_experiment(experiment.folder)
    out = out or Path("runs", "results", results.id)
    written = write_report(results, out)
    show(results)
    print(f"wrote {', '.join(written)} to {out}")
    return results
