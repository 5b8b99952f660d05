"""Progress of a search by trials in the terminal: the web page's address, trials done, failed ones, the best so far."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from nni_nastc.search.multi_trial import TrialsCallback
from nni_nastc.search.trial_engine import Trial


class TrialProgress(TrialsCallback):
    """A bar over the trials, and a line for each that fails."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, soft_wrap=True)
        self.bar = Progress(
            TextColumn("searching"),
            BarColumn(bar_width=20),
            TextColumn("trial {task.completed:.0f}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[scores]}"),
            console=self.console,
        )
        self.task = self.bar.add_task("searching", total=None, scores="")
        self._told: set[int] = set()

    def on_trials_start(self, address: str, max_trials: int) -> None:
        """Tell the address, and how to reach it from elsewhere; show the bar."""
        port = urlsplit(address).port
        self.console.print(f"web page: {address}", highlight=False)
        self.console.print(f"from elsewhere: ssh -N -L {port}:127.0.0.1:{port} THIS_MACHINE, then the same address")
        self.bar.update(self.task, total=max_trials)
        self.bar.start()

    def on_trials(self, trials: Sequence[Trial]) -> None:
        """Show how many trials have ended, and the best of them."""
        ended = [trial for trial in trials if trial.ended]
        failed = [trial for trial in ended if trial.score is None]
        for trial in failed:
            if trial.ended and trial.number not in self._told:
                self._told.add(trial.number)
                self.console.print(f"trial {trial.number} failed: {trial.ended.reason}", markup=False)
        best = max((trial.score for trial in ended if trial.score is not None), default=None)
        shown = [] if best is None else [f"best {best:.3f}"]
        shown += [f"{len(failed)} failed"] if failed else []
        self.bar.update(self.task, completed=len(ended), scores="  ".join(shown))

    def on_trials_end(self) -> None:
        """Leave the bar."""
        self.bar.stop()
