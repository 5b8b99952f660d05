"""Progress of a bench in the terminal: runs done, the one that goes on, and a line for each that fails."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nni_nastc.bench.plan import Run
from nni_nastc.bench.runner import BenchProgress


class RunProgress(BenchProgress):
    """A bar over the runs."""

    def __init__(self) -> None:
        self.bar = Progress(
            TextColumn("bench"),
            BarColumn(bar_width=20),
            TextColumn("run {task.completed:.0f}/{task.total}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[now]}", markup=False),
            console=Console(stderr=True, soft_wrap=True),
        )
        self.task = self.bar.add_task("bench", total=None, now="")

    def on_start(self, runs: int, finished: int) -> None:
        """Show the bar, at what is finished already."""
        self.bar.update(self.task, total=runs, completed=finished)
        self.bar.start()

    def on_run_start(self, run: Run) -> None:
        """Name the run."""
        self.bar.update(self.task, now=run.name)

    def on_run_end(self, run: Run, reason: str) -> None:
        """Advance, and say why a run failed."""
        self.bar.advance(self.task)
        if reason:
            self.bar.console.print(f"{run.name} failed: {reason}", markup=False, highlight=False)

    def on_end(self) -> None:
        """Leave the bar."""
        self.bar.update(self.task, now="")
        self.bar.stop()
