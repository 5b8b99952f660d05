"""Where NNI's strategies send the cells that they sample: each network is trained once, in a trial of its own.

The engine is what a strategy sees. It counts the budget, knows which networks were trained, and hands scores back. It
does so only when the strategy asks for a free worker, in its own thread and in the order of the journal: NNI's engine
calls strategies from a second thread, which makes the course of a search depend on chance.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nni.nas.execution import ExecutionEngine
from nni.nas.execution.event import FinalMetricEvent, TrainingEndEvent
from nni.nas.space import ExecutableModelSpace, ModelStatus

from nni_nastc.genotype import Genotype
from nni_nastc.search.journal import Asked, Ended, Journal

PATIENCE = 100
"""Cells in a row that were trained before, after which a search ends: the strategy finds nothing new (our choice)."""


@dataclass
class Trial:
    """A network that is trained, was trained, or could not be.

    Attributes
    ----------
    number : int
        Counts from 0.
    cell : Genotype
        As it was sampled first.
    asked : float
        Seconds from the start of the search.
    ended : Ended or None
        None while it runs.
    waiting : list of ExecutableModelSpace
        Samples of the strategy that wait for the score.
    """

    number: int
    cell: Genotype
    asked: float
    ended: Ended | None = None
    waiting: list[ExecutableModelSpace] = field(default_factory=list)

    @property
    def score(self) -> float | None:
        """The validation score; None while it runs, and if it failed."""
        return self.ended.score if self.ended else None


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: its score, or None and the reason."""

    trial: int
    score: float | None
    reason: str | None = None


class TrialService(Protocol):
    """What runs trials."""

    def start(self, trial: Trial) -> None:
        """Run a trial, or take its result if it has ended unnoticed."""

    def next_outcome(self, timeout_s: float) -> Outcome | None:
        """Wait for a trial to end; None if none does in time."""


class TrialEngine(ExecutionEngine):
    """NNI's execution engine over a :class:`TrialService`, with a journal.

    Parameters
    ----------
    service : TrialService
        Runs the trials.
    journal : Journal
        Of an earlier part of the same search: its results are given to the strategy again, nothing of it is run again.
        Trials that it does not see end are started anew.
    concurrency : int
        Trials at a time.
    max_trials : int
        Networks to train, failed ones included.
    max_seconds : float
        No trial starts later than that. The time in which the search did not run does not count.
    watch : callable, optional
        Gets all trials whenever one has started or ended.
    """

    def __init__(
        self,
        service: TrialService,
        journal: Journal,
        *,
        concurrency: int,
        max_trials: int,
        max_seconds: float = math.inf,
        watch: Callable[[Sequence[Trial]], None] = lambda trials: None,
    ) -> None:
        super().__init__()
        self.service = service
        self.journal = journal
        self.concurrency = concurrency
        self.max_trials = max_trials
        self.max_seconds = max_seconds
        self.watch = watch
        self.trials: list[Trial] = []
        self._by_cell: dict[Genotype, Trial] = {}
        self._script = deque(journal.entries)
        self._live = False
        self._known: list[Trial] = []  # ended before they were asked for again
        self._repeats = 0
        self._before = journal.entries[-1].seconds if journal.entries else 0.0
        self._start = time.monotonic()

    # What a strategy calls.

    def submit_models(self, *models: ExecutableModelSpace) -> None:
        """Train the networks, unless they are known."""
        for model in models:
            self._submit(model)

    def idle_worker_available(self) -> bool:
        """Hand over the scores that there are; wait for a free worker as long as the budget lasts."""
        self._hand_over()
        while self._live and len(self._running()) >= self.concurrency and self._budget_left():
            self._wait()
        return not self._live or len(self._running()) < self.concurrency

    def budget_available(self) -> bool:
        """Tell whether another network may be trained."""
        return bool(self._script) or self._budget_left()

    def wait_models(self, *models: ExecutableModelSpace) -> None:
        """Wait until every trial has ended, whichever models are asked for."""
        self._hand_over()
        while self._running():
            self._wait()

    # What follows from it.

    def _submit(self, model: ExecutableModelSpace) -> None:
        assert model.sample is not None
        cell = Genotype.from_nni(model.sample)
        seconds = self._recorded(cell)
        trial = self._by_cell.get(cell.canonical())
        self._repeats = 0 if trial is None else self._repeats + 1
        if seconds is None:
            seconds = self._seconds()
            self.journal.append(Asked(trial.number if trial else len(self.trials), cell, seconds))
        if trial is None:
            trial = self._add(cell, seconds)
            if self._live:
                self.service.start(trial)
                self.watch(self.trials)
        trial.waiting.append(model)
        model.status = ModelStatus.Training
        if trial.ended:
            self._known.append(trial)

    def _recorded(self, cell: Genotype) -> float | None:
        """Return when the journal says that the strategy asked for this cell; None if it says nothing more."""
        if not self._script:
            self._go_live()
            return None
        entry = self._script[0]
        if isinstance(entry, Asked) and entry.cell == cell:
            self._script.popleft()
            return entry.seconds
        warnings.warn(
            "the strategy does not ask for the cells that it asked for before (another release of it?); "
            "the search goes on with what was trained, and nothing is trained twice",
            stacklevel=2,
        )
        self._read_on()
        return None

    def _read_on(self) -> None:
        """Take the rest of the journal as results; those that the strategy has asked for it gets when it asks next."""
        for entry in self._script:
            if isinstance(entry, Ended):
                self.trials[entry.trial].ended = entry
                self._known.append(self.trials[entry.trial])
            elif entry.trial == len(self.trials):
                self._add(entry.cell, entry.seconds)
        self._script.clear()
        self._go_live()

    def _add(self, cell: Genotype, seconds: float) -> Trial:
        trial = Trial(len(self.trials), cell, seconds)
        self.trials.append(trial)
        self._by_cell[cell.canonical()] = trial
        return trial

    def _hand_over(self) -> None:
        """Give the strategy all scores that there are: those of known networks, recorded ones, those just come in."""
        while self._known:
            self._tell(self._known.pop(0))
        while self._script and isinstance(entry := self._script[0], Ended):
            self._script.popleft()
            self._end(entry)
        if self._script:
            return
        self._go_live()
        while outcome := self.service.next_outcome(0.0):
            self._record(outcome)

    def _go_live(self) -> None:
        """Start what the journal does not see end."""
        if self._live:
            return
        self._live = True
        for trial in self._running():
            self.service.start(trial)
        self.watch(self.trials)

    def _wait(self) -> None:
        """Wait for a trial, but not past the end of the budget."""
        if outcome := self.service.next_outcome(1.0):
            self._record(outcome)

    def _record(self, outcome: Outcome) -> None:
        ended = Ended(outcome.trial, outcome.score, outcome.reason, self._seconds())
        self.journal.append(ended)
        self._end(ended)

    def _end(self, ended: Ended) -> None:
        trial = self.trials[ended.trial]
        trial.ended = ended
        self._tell(trial)
        if self._live:
            self.watch(self.trials)

    def _tell(self, trial: Trial) -> None:
        """Report a trial's outcome to those who asked for its network."""
        waiting, trial.waiting = trial.waiting, []
        for model in waiting:
            if trial.score is not None:
                self.dispatch_model_event(FinalMetricEvent(model, trial.score))
            status = ModelStatus.Failed if trial.score is None else ModelStatus.Trained
            self.dispatch_model_event(TrainingEndEvent(model, status))

    def _running(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.ended is None]

    def _budget_left(self) -> bool:
        return (
            len(self.trials) < self.max_trials and self._seconds() < self.max_seconds and self._repeats < PATIENCE
        )

    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._start
