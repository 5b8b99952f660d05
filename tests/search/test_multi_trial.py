"""Searches by trials: through NNI's training service, resumed after a kill, ended cleanly, refused in one line."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
import torch

from nni_nastc.config import SearchConfig, dump_config, load_config
from nni_nastc.errors import ConfigError, ExperimentError, FeatureStoreError, ModelError, NastcError
from nni_nastc.experiments.results import read_experiment
from nni_nastc.experiments.server import find_managers
from nni_nastc.genotype import Genotype
from nni_nastc.search import network_trial
from nni_nastc.search.journal import Asked, Ended, Journal
from nni_nastc.search.multi_trial import TRIALS_FILE
from nni_nastc.search.runner import run_search
from nni_nastc.search.sampling import MULTI_TRIAL
from nni_nastc.search.training_service import cell_parameters
from nni_nastc.search.trial_files import TrialFiles
from nni_nastc.training import METRICS_FILE
from tests.experiments.managers import assert_closed, environment_of, processes_in
from tests.toy import ToySet

OPTIONS = {
    "RegularizedEvolution": {"population_size": 2, "sample_size": 1},
    "PolicyBasedRL": {"samples_per_update": 2},
    "TPE": {"n_startup_jobs": 2},
}


class Command:
    """``nastc search`` in a process of its own, with an NNI of its own."""

    def __init__(self, config: SearchConfig, folder: Path) -> None:
        self.run = config.output
        self.environment = environment_of(folder)
        self.file = folder / "search.yaml"
        self.file.write_text(dump_config(config))

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "nni_nastc", "search", str(self.file)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=self.environment, text=True, **pipes)

    def finish(self, code: int = 0) -> tuple[str, str]:
        with self.start() as process:
            try:
                out, err = process.communicate(timeout=280)
            finally:
                process.kill()
        assert process.returncode == code, err
        return out, err

    def wait(self, process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not reached():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def finished(self) -> dict[str, int]:
        """When which trial was finished."""
        return {p.parent.name: p.stat().st_mtime_ns for p in self.run.glob(f"trials/*/{METRICS_FILE}")}


@pytest.fixture
def command(toy: ToySet, tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Yield what makes a command; nothing of it may be left at the end."""

    def make(name: str = "Random", **trials: object) -> Command:
        values = {"name": name, **OPTIONS.get(name, {})}
        trials = {"concurrency": 2, "max_trials": 3, "epochs": 1} | trials
        return Command(toy.search(tmp_path / "run", epochs=50, strategy=values, trials=trials), tmp_path)

    yield make
    left = processes_in(tmp_path)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(tmp_path) in " ".join(process.cmdline()):
                process.kill()
    assert not left


def trials_of(run: Path) -> list[dict]:
    return json.loads((run / TRIALS_FILE).read_text())["trials"]


def check_result(run: Path, count: int) -> None:
    """The genotype is the best trial's, every trial was asked for and ended once, and has a training of its own."""
    trials = trials_of(run)
    assert [trial["trial"] for trial in trials] == list(range(count))
    scores = []
    for trial in trials:
        assert trial["status"] == "finished"
        metrics = json.loads((run / "trials" / f"{trial['trial']:04d}" / METRICS_FILE).read_text())
        assert trial["score"] == metrics["held_out_accuracy"]
        scores.append(trial["score"])
    best = Genotype.from_dict(trials[scores.index(max(scores))]["genotype"])
    assert Genotype.from_json(run / "genotype.json") == best
    assert len({Genotype.from_dict(trial["genotype"]).canonical() for trial in trials}) == count
    entries = Journal(run).entries
    assert sorted(entry.trial for entry in entries if isinstance(entry, Ended)) == list(range(count))
    assert sorted({entry.trial for entry in entries if isinstance(entry, Asked)}) == list(range(count))
    assert {"trials.png", "cell.png", "split.json", "config.yaml"} <= {path.name for path in run.iterdir()}


def nni_jobs(run: Path) -> list[tuple[dict, list[tuple[str, str]]]]:
    """What NNI's database, which the web page shows, holds: parameters of a job, and its metrics' kinds and values."""
    [database] = run.glob("nni/[!_]*/db/nni.sqlite")
    with closing(sqlite3.connect(database)) as connection:
        events = connection.execute("select trialJobId, data from TrialJobEvent where data is not null").fetchall()
        jobs = {job: json.loads(data) for job, data in events if data}
        metrics = connection.execute("select trialJobId, parameterId, type, data from MetricData").fetchall()
    for job, parameter, _, _ in metrics:
        assert str(jobs[job]["parameter_id"]) == str(parameter), "metrics of another trial"
    return [
        (content["parameters"], [(kind, json.loads(data)) for owner, _, kind, data in metrics if owner == job])
        for job, content in jobs.items()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", MULTI_TRIAL)
def test_strategy_ends_in_a_genotype(name, command):
    search = command(name)
    out, err = search.finish()
    assert "node 0: " in out
    assert "http://127.0.0.1:" in err
    assert "Traceback" not in err
    check_result(search.run, 3)
    scores = {trial["trial"]: trial["score"] for trial in trials_of(search.run)}
    cells = {trial["trial"]: Genotype.from_dict(trial["genotype"]) for trial in trials_of(search.run)}
    jobs = nni_jobs(search.run)
    assert sorted(parameters["trial"] for parameters, _ in jobs) == [0, 1, 2]
    for parameters, metrics in jobs:
        number = parameters.pop("trial")
        assert parameters == cell_parameters(cells[number])
        assert [kind for kind, _ in metrics] == ["PERIODICAL", "FINAL"]
        assert json.loads(metrics[-1][1])["default"] == pytest.approx(scores[number])
    [folder] = search.run.glob("nni/[!_]*")
    results = read_experiment(folder)
    assert {(trial.score, trial.genotype) for trial in results.trials} == {(scores[n], cells[n]) for n in range(3)}
    halves = json.loads((search.run / "split.json").read_text())
    for trial in range(3):
        split = json.loads((search.run / "trials" / f"{trial:04d}" / "split.json").read_text())
        assert split == {"train": halves["weights"], "held_out": halves["alphas"]}


@pytest.mark.slow
def test_killed_search_does_nothing_twice(command):
    """kill -9 of the command while trials run, twice."""
    search = command(max_trials=4, epochs=2)
    for enough in (1, 2):
        process = search.start()
        search.wait(process, lambda count=enough: len(search.finished()) >= count)
        time.sleep(0.3 * enough)
        process.kill()
        process.communicate()
    before = search.finished()
    assert 2 <= len(before) < 4
    search.finish()
    check_result(search.run, 4)
    assert search.finished().items() >= before.items(), "a finished trial was done again"


@pytest.mark.slow
def test_failed_trial_does_not_stop_the_search(command):
    search = command()
    search.run.mkdir()
    (search.run / "config.yaml").write_text(search.file.read_text())
    foreign = search.run / "trials" / "0001" / "thesis.tex"
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    _, err = search.finish()
    assert "trial 1 failed: the output folder" in err
    trials = trials_of(search.run)
    assert [trial["status"] for trial in trials] == ["finished", "failed", "finished"]
    assert "holds other files" in trials[1]["reason"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_leaves_nothing(number, code, command):
    search = command(max_trials=20, epochs=500)
    process = search.start()
    search.wait(process, lambda: any(search.run.glob("trials/*/history.json")))
    (manager,) = [one for one in find_managers() if one.folder.is_relative_to(search.run)]
    assert_closed(manager)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert not processes_in(search.run.parent)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"strategy": {"name": "Radnom"}}, ConfigError, "unknown 'Radnom'.*did you mean Random"),
        ({"strategy": {"name": "TPE", "n_startup_job": 2}}, ConfigError, "n_startup_job.*did you mean n_startup_jobs"),
        ({"strategy": {"name": "TPE", "seed": 2}}, ConfigError, "strategy.seed: unknown"),
        ({"strategy": {"name": "RegularizedEvolution", "sample_size": 30}}, ConfigError, "got 30 of 20"),
        ({"strategy": {"name": "RegularizedEvolution", "mutation_prob": 2}}, ConfigError, "mutation_prob.*got 2"),
        ({"strategy": {"name": "TPE", "gamma": "much"}}, ConfigError, "gamma.*got 'much'"),
        ({"strategy": {"name": "TempDARTS"}, "trials": {"epochs": 3}}, ConfigError, "TempDARTS .*remove the section"),
        ({"epochs": 3}, ConfigError, "Random trains no supernet.* remove epochs, set trials.epochs"),
        ({"optimizer": {"momentum": 0.5}}, ConfigError, "remove optimizer, set trials.optimizer"),
        ({"trials": {"gpus": 0}, "trainer": {"accelerator": "gpu"}}, ConfigError, "accelerator is gpu"),
        ({"trials": {"gpus": 1}}, ConfigError, "trials.gpus is 1, but trainer.accelerator is cpu"),
        ({"trials": {"trials_per_gpu": 2}}, ConfigError, "take no GPU"),
        ({"trials": {"port": 80}}, ExperimentError, "1024 to 65535, got 80"),
    ],
)
def test_refused_before_anything_starts(changes, error, message, toy, tmp_path):
    config = toy.search(tmp_path / "run", **({"epochs": 50, "strategy": {"name": "Random"}} | changes))
    with pytest.raises(error, match=message) as caught:
        run_search(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_gpu_that_is_not_there(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    changes = {"strategy": {"name": "Random"}, "trials": {"gpus": 1}, "trainer": {"accelerator": "auto"}}
    with pytest.raises(ModelError, match="PyTorch can use no GPU"):
        run_search(toy.search(tmp_path / "run", epochs=50, **changes))


@pytest.mark.parametrize(
    ("problem", "raised", "reason"),
    [
        (ModelError("the training has diverged"), SystemExit, "the training has diverged"),
        (RuntimeError("CUDA out of memory\nand more"), RuntimeError, "RuntimeError: CUDA out of memory"),
        (ExperimentError("NNI's manager no longer answers"), SystemExit, None),
    ],
)
def test_only_a_failure_of_the_training_is_recorded(problem, raised, reason, tmp_path, monkeypatch):
    """A trial that ends because NNI has died is done again when the search goes on."""

    def fail(run: Path, files: TrialFiles) -> None:
        raise problem

    files = TrialFiles(tmp_path, 2)
    files.prepare(Genotype.random(0))
    monkeypatch.setattr(network_trial.nni, "get_next_parameter", lambda: {"trial": 2})
    monkeypatch.setattr(network_trial.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(network_trial, "train_network", fail)
    monkeypatch.setenv("NNI_OUTPUT_DIR", str(tmp_path))
    with pytest.raises(raised):
        network_trial.main(tmp_path)
    outcome = files.outcome()
    assert (outcome.reason if outcome else None) == reason
    assert Genotype.from_json(tmp_path / "genotype.json") == Genotype.random(0)


def test_no_experiment_within_a_trial(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("NNI_TRIAL_JOB_ID", "abcde")
    with pytest.raises(ConfigError, match="Random starts an experiment of NNI.*which a trial cannot do"):
        run_search(toy.search(tmp_path / "run", epochs=50, strategy={"name": "Random"}))


def test_port_in_use(toy, tmp_path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        config = toy.search(tmp_path / "run", epochs=50, strategy={"name": "Random"}, trials={"port": port})
        with pytest.raises(NastcError, match=f"port {port} is in use"):
            run_search(config)


def test_missing_store(toy, tmp_path):
    data = toy.data() | {"store": str(tmp_path / "nowhere")}
    with pytest.raises(FeatureStoreError, match="nowhere"):
        run_search(toy.search(tmp_path / "run", epochs=50, strategy={"name": "Random"}, data=data))


def test_resumed_search_may_take_another_port(toy, tmp_path):
    config = toy.search(tmp_path / "run", epochs=50, strategy={"name": "Random"}, trials={"port": 8123})
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(SearchConfig, path).trials.port is None


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("12h", 43200), ("2d", 172800)])
def test_durations(text, seconds, toy, tmp_path):
    assert toy.search(tmp_path, trials={"max_duration": text}).trials.max_seconds == seconds


def test_wrong_duration(tmp_path):
    with pytest.raises(ConfigError, match=r"trials.max_duration.*got '1 week'"):
        load_config(SearchConfig, None, ["trials.max_duration=1 week", "output=x", "data={store: a, annotations: b}"])


def test_parameters_are_flat():
    cell = Genotype.random(5)
    parameters = cell_parameters(cell)
    (name, source), _ = cell.nodes[1]
    assert (parameters["op_3_0"], parameters["input_3_0"]) == (name, source)
    assert len(parameters) == 16
    assert os.linesep not in json.dumps(parameters)
