"""A whole bench: every run that is not finished, then the tables and the pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from filelock import FileLock

from nni_nastc.bench.plan import Run, check_bench, pin_networks, plan_runs, resolve
from nni_nastc.bench.results import TABLE, BenchResults
from nni_nastc.bench.run import start as start_process
from nni_nastc.config import BenchConfig
from nni_nastc.files import make_folder, write_json
from nni_nastc.runs import open_run

FAILURES_FILE = "failures.json"

Start = Callable[[BenchConfig, Run], str]
"""Does a run, and returns why it failed, or nothing."""


@dataclass(frozen=True)
class BenchReport:
    """What a bench brought.

    Attributes
    ----------
    tables : str
        In Markdown; nothing if no run is finished.
    failed : dict
        Name of a run -> why it failed, in one line.
    """

    tables: str
    failed: dict[str, str]


class BenchProgress:
    """Is told how a bench goes; this one says nothing of it."""

    def on_start(self, runs: int, finished: int) -> None:
        """Take in how many runs there are, and how many of them are finished."""

    def on_run_start(self, run: Run) -> None:
        """Take in that a run begins."""

    def on_run_end(self, run: Run, reason: str) -> None:
        """Take in that a run has ended; a reason says that it failed."""

    def on_end(self) -> None:
        """Take in that all runs have ended, or the bench was stopped."""


def run_bench(
    config: BenchConfig, *, progress: BenchProgress | None = None, start: Start | None = None
) -> BenchReport:
    """Do every run of a bench that is not finished, one after the other, and write tables and pictures.

    A bench that was stopped or killed goes on when it is started again. A run that fails does not stop the others; it
    is done again the next time.

    Parameters
    ----------
    config : BenchConfig
        What to do. The output folder gets ``runs``, and of what is finished ``table`` and ``comparisons`` (``.md``,
        ``.csv``, ``.json``) and pictures; ``failures.json`` names what is not.
    progress : BenchProgress, optional
        Is told how it goes.
    start : callable, optional
        How a run is done: in a process of its own by default.

    Returns
    -------
    BenchReport
        Tables and failures.

    Raises
    ------
    NastcError
        If anything that was given is wrong, before the output folder is made; or if it holds another bench.
    """
    config = resolve(config)
    progress = progress or BenchProgress()
    videos = check_bench(config)
    with open_run(config.output, config, f"{TABLE}.json"):
        pin_networks(config)
        runs = plan_runs(config)
        failed = _do(config, runs, progress, start or start_process)
        finished = [run for run in runs if run.finished]
        tables = BenchResults(config, videos, finished).write() if finished else ""
        write_json(config.output / FAILURES_FILE, failed)
    return BenchReport(tables, failed)


def claim(config: BenchConfig) -> None:
    """Make the folder of a bench whose runs are done elsewhere, as trials, or see that it is this bench's.

    Many processes may do so at a time. ``nastc bench`` takes up the runs that are finished.

    Parameters
    ----------
    config : BenchConfig
        The bench, resolved.

    Raises
    ------
    NastcError
        If the bench cannot be done, or the folder holds another one.
    """
    check_bench(config)
    make_folder(config.output)
    with FileLock(config.output / ".lock"), open_run(config.output, config, f"{TABLE}.json"):
        pin_networks(config)


def _do(config: BenchConfig, runs: list[Run], progress: BenchProgress, start: Start) -> dict[str, str]:
    """Do the runs that are not finished, and return those that failed."""
    failed = {}
    progress.on_start(len(runs), sum(run.finished for run in runs))
    try:
        for run in runs:
            if run.finished:
                continue
            progress.on_run_start(run)
            reason = start(config, run)
            if reason:
                failed[run.name] = reason
            progress.on_run_end(run, reason)
    finally:
        progress.on_end()
    return failed
