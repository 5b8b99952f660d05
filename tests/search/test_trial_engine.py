"""The engine that NNI's multi-trial strategies see: repeated networks, failures, budgets, replays of the journal."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path
from zlib import crc32

import pytest
from nni.nas.execution.event import TrainingEndEvent
from nni.nas.space import SimplifiedModelSpace

from nni_nastc.errors import ConfigError, RunFolderError
from nni_nastc.genotype import Genotype
from nni_nastc.search import trial_engine
from nni_nastc.search.journal import JOURNAL_FILE, Asked, Ended, Journal
from nni_nastc.search.sampling import MULTI_TRIAL, regularized_evolution
from nni_nastc.search.trial_engine import Outcome, Trial, TrialEngine
from nni_nastc.space.network import NasTCSpace

OPTIONS = {
    "RegularizedEvolution": {"population_size": 4, "sample_size": 2, "mutation_prob": 0.2},
    "PolicyBasedRL": {"samples_per_update": 3},
    "TPE": {"n_startup_jobs": 4},
}


@pytest.fixture(scope="module")
def space() -> NasTCSpace:
    return NasTCSpace(num_classes=3, num_layers=1, in_channels=8, num_groups=2, operations=["identity", "sep_conv_3"])


def score_of(cell: Genotype) -> float:
    """A score that tells cells apart."""
    return crc32(str(cell.canonical().nodes).encode()) / 2**32


class FakeTrials:
    """Ends trials in the order in which they started, one whenever somebody waits; some fail."""

    def __init__(self, failing: int = 0) -> None:
        self.started: list[Trial] = []
        self.running: list[Trial] = []
        self.most = 0
        self.failing = failing

    def start(self, trial: Trial) -> None:
        self.started.append(trial)
        self.running.append(trial)
        self.most = max(self.most, len(self.running))

    def next_outcome(self, timeout_s: float) -> Outcome | None:
        if not timeout_s or not self.running:
            return None
        trial = self.running.pop(0)
        if self.failing and trial.number % self.failing == 1:
            return Outcome(trial.number, None, "no luck")
        return Outcome(trial.number, score_of(trial.cell))


def search(name: str, space: NasTCSpace, folder: Path, service: FakeTrials | None = None, **limits) -> TrialEngine:
    strategy = MULTI_TRIAL[name](3, **OPTIONS.get(name, {}))
    engine = TrialEngine(
        service or FakeTrials(), Journal(folder), **{"concurrency": 2, "max_trials": 12} | limits
    )
    strategy.initialize(SimplifiedModelSpace.from_model(space), engine)
    strategy.run()
    engine.wait_models()
    return engine


def course(folder: Path) -> list[tuple]:
    """The journal without times."""
    return [
        (entry.trial, entry.cell.nodes) if isinstance(entry, Asked) else (entry.trial, entry.score, entry.reason)
        for entry in Journal(folder).entries
    ]


# Each update of its policy takes half a second.
NAMES = [pytest.param(name, marks=pytest.mark.slow if name == "PolicyBasedRL" else ()) for name in MULTI_TRIAL]


@pytest.mark.parametrize("name", NAMES)
def test_budget_and_scores(name, space, tmp_path):
    service = FakeTrials(failing=4)
    engine = search(name, space, tmp_path, service)
    assert len(engine.trials) == 12
    assert [trial.number for trial in service.started] == list(range(12))
    assert service.most == 2
    assert len({trial.cell.canonical() for trial in engine.trials}) == 12
    for trial in engine.trials:
        expected = None if trial.number % 4 == 1 else score_of(trial.cell)
        assert trial.score == expected
        assert trial.ended is not None
        assert trial.ended.reason == ("no luck" if expected is None else None)


@pytest.mark.parametrize("failing", [0, 4])
@pytest.mark.parametrize("name", NAMES)
def test_killed_search_takes_the_same_course(name, failing, space, tmp_path):
    """Cut within every fifth line: the strategy asks for what it would have asked for."""
    search(name, space, tmp_path, FakeTrials(failing))
    lines = (tmp_path / JOURNAL_FILE).read_text().splitlines(keepends=True)
    unbroken = course(tmp_path)
    for cut in range(0, len(lines), 5):
        folder = tmp_path / f"cut_{cut}"
        folder.mkdir()
        (folder / JOURNAL_FILE).write_text("".join(lines[:cut]) + lines[cut][: len(lines[cut]) // 2])
        ended = {entry["ended"] for entry in map(json.loads, lines[:cut]) if "ended" in entry}
        service = FakeTrials(failing)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            search(name, space, folder, service)
        assert course(folder) == unbroken, f"cut after {cut} lines"
        assert not ended & {trial.number for trial in service.started}, "a trial that had ended was done again"


@pytest.mark.parametrize("name", NAMES)
def test_strategies_learn(name, space, tmp_path):
    """Scores reach the strategies that use them: with all scores alike they take another course."""

    class Alike(FakeTrials):
        def next_outcome(self, timeout_s):
            outcome = super().next_outcome(timeout_s)
            return outcome and Outcome(outcome.trial, 0.5)

    asked = []
    for service in (FakeTrials(), Alike()):
        folder = tmp_path / type(service).__name__
        folder.mkdir()
        asked.append([trial.cell for trial in search(name, space, folder, service, max_trials=16).trials])
    assert (asked[0] != asked[1]) == (name not in ("Random", "GridSearch"))


@pytest.mark.parametrize("name", NAMES)
def test_seed_changes_the_course(name, space, tmp_path):
    cells = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        engine = TrialEngine(FakeTrials(), Journal(folder), concurrency=1, max_trials=3)
        strategy = MULTI_TRIAL[name](seed)
        strategy.initialize(SimplifiedModelSpace.from_model(space), engine)
        strategy.run()
        cells.append([trial.cell for trial in engine.trials])
    assert cells[0] != cells[1]


class Recorder:
    """A strategy's side of the engine: submits cells, and notes what it is told."""

    def __init__(self, space: NasTCSpace, folder: Path, **limits) -> None:
        self.service = FakeTrials(failing=limits.pop("failing", 0))
        self.engine = TrialEngine(self.service, Journal(folder), **{"concurrency": 2, "max_trials": 50} | limits)
        self.space = SimplifiedModelSpace.from_model(space)
        self.told: list[tuple[int, str, float | None]] = []
        self.numbers: dict[int, int] = {}
        self.models: list = []
        self.engine.register_model_event_callback("training_end", self.hear)

    def hear(self, event: TrainingEndEvent) -> None:
        self.told.append((self.numbers[id(event.model)], event.status.value, event.model.metric))

    def submit(self, cell: Genotype) -> None:
        assert self.engine.idle_worker_available()
        model = self.space.freeze(cell.to_nni())
        self.numbers[id(model)] = len(self.models)
        self.models.append(model)
        self.engine.submit_models(model)


def swapped(cell: Genotype) -> Genotype:
    return Genotype(nodes=tuple(tuple(reversed(node)) for node in cell.nodes))


def test_same_network_is_trained_once(space, tmp_path):
    cell, other = (Genotype.random(seed, space.operations) for seed in (0, 1))
    strategy = Recorder(space, tmp_path)
    strategy.submit(cell)
    strategy.submit(swapped(cell))  # while it runs
    strategy.submit(other)
    strategy.engine.wait_models()
    strategy.submit(swapped(cell))  # when it has ended
    strategy.engine.wait_models()
    assert [trial.cell for trial in strategy.service.started] == [cell, other]
    score, third = score_of(cell), score_of(other)
    assert strategy.told == [(0, "trained", score), (1, "trained", score), (2, "trained", third), (3, "trained", score)]
    assert course(tmp_path) == [
        (0, cell.nodes), (0, swapped(cell).nodes), (1, other.nodes), (0, score, None), (1, third, None),
        (0, swapped(cell).nodes),
    ]  # fmt: skip


def test_failed_network_is_not_tried_again(space, tmp_path):
    cells = [Genotype.random(seed, space.operations) for seed in range(3)]
    strategy = Recorder(space, tmp_path, failing=4)
    for cell in [*cells, cells[1]]:
        strategy.submit(cell)
    strategy.engine.wait_models()
    assert len(strategy.service.started) == 3
    scores = (score_of(cells[0]), None, score_of(cells[2]), None)
    status = ("trained", "failed", "trained", "failed")
    assert sorted(strategy.told) == list(zip(range(4), status, scores, strict=True))


def test_strategy_that_finds_nothing_new_ends(space, tmp_path, monkeypatch):
    monkeypatch.setattr(trial_engine, "PATIENCE", 3)
    strategy = Recorder(space, tmp_path)
    cell = Genotype.random(0, space.operations)
    for _ in range(3):
        strategy.submit(cell)
        assert strategy.engine.budget_available()
    strategy.submit(cell)
    assert not strategy.engine.budget_available()
    strategy.submit(Genotype.random(1, space.operations))
    assert strategy.engine.budget_available()


def test_duration_counts_only_while_the_search_runs(space, tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(trial_engine.time, "monotonic", lambda: now[0])
    strategy = Recorder(space, tmp_path, max_seconds=100)
    strategy.submit(Genotype.random(0, space.operations))
    now[0] += 60
    strategy.engine.wait_models()
    now[0] += 10_000  # the search is stopped, and goes on later
    again = Recorder(space, tmp_path, max_seconds=100)
    again.submit(Genotype.random(0, space.operations))
    assert again.engine.budget_available()
    now[0] += 39
    assert again.engine.idle_worker_available()
    assert again.engine.budget_available()
    now[0] += 2
    assert not again.engine.budget_available()


def test_another_course_than_recorded_keeps_the_results(space, tmp_path):
    """As after an update of NNI: the search goes on, and nothing is trained twice."""
    cells = [Genotype.random(seed, space.operations) for seed in range(4)]
    before = Recorder(space, tmp_path)
    for cell in cells[:3]:
        before.submit(cell)
    before.engine.wait_models()
    after = Recorder(space, tmp_path)
    after.submit(cells[0])
    with pytest.warns(UserWarning, match="another release"):
        after.submit(cells[2])
    after.submit(cells[3])
    after.engine.wait_models()
    assert [trial.cell for trial in after.service.started] == [cells[3]]
    assert after.told == [(n, "trained", score_of(cell)) for n, cell in ((0, cells[0]), (1, cells[2]), (2, cells[3]))]


def test_trial_that_was_running_is_started_again(space, tmp_path):
    cells = [Genotype.random(seed, space.operations) for seed in range(3)]
    journal = Journal(tmp_path)
    for number, cell in enumerate(cells):
        journal.append(Asked(number, cell, 1.0))
    journal.append(Ended(1, 0.25, None, 2.0))
    strategy = Recorder(space, tmp_path, concurrency=4)
    for cell in cells:
        strategy.submit(cell)
    assert strategy.engine.idle_worker_available()
    assert [trial.number for trial in strategy.service.started] == [0, 2]
    assert strategy.told == [(1, "trained", 0.25)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"ended": 0, "seconds": 1.0, "score": 0.5}', "no such trial"),
        ('{"ended": 1, "seconds": 1.0, "score": 0.5}', "no such trial"),
        ('{"asked": 0, "seconds": 1.0, "cell": {}}', "a genotype is"),
        ('{"ended": 0, "seconds": 1.0, "score": NaN}', "a number is needed, got nan"),
        ("[1]", "list indices"),
        ("what?", "Expecting value"),
    ],
)
def test_damaged_journal(line, message, space, tmp_path):
    journal = Journal(tmp_path)
    journal.append(Asked(0, Genotype.random(0), 0.5))
    journal.append(Ended(0, 0.5, None, 1.0))
    with journal.path.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(RunFolderError, match=f"line 3 of .*{message}"):
        Journal(tmp_path)


def test_canonical_form_is_that_of_the_network():
    cell = Genotype(nodes=((("zero", 1), ("identity", 0)), *[(("sep_conv_3", 1), ("identity", 1))] * 3))
    same = Genotype(nodes=((("identity", 0), ("zero", 0)), *[(("identity", 1), ("sep_conv_3", 1))] * 3))
    other = Genotype(nodes=((("identity", 1), ("zero", 1)), *[(("identity", 1), ("sep_conv_3", 1))] * 3))
    assert cell.canonical() == same.canonical()
    assert cell.canonical() != other.canonical()
    assert Counter(cell.canonical().operations) == Counter(cell.operations)
    assert cell.canonical().canonical() == cell.canonical()


def test_impossible_tournament():
    with pytest.raises(ConfigError, match="got 6 of 5"):
        regularized_evolution(0, population_size=5, sample_size=6)
