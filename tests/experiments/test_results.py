"""Results of experiments: what is read from NNI's database and the trials' folders, and what is written of it."""

from __future__ import annotations

import base64
import csv
import json
import os
import pickle
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from nni_nastc.cli.main import main
from nni_nastc.errors import ExperimentError, NastcError
from nni_nastc.experiments.results import find_experiment, read_experiment
from nni_nastc.genotype import Genotype
from nni_nastc.plots import trials_figure
from tests.experiments.nni_database import NniDatabase
from tests.search.test_trial import cell_parameters

BEST = Genotype.random(1)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def experiment(home) -> NniDatabase:
    """Four trials: good, failed, better, and one that was running when the manager was killed."""
    made = NniDatabase(home / "nni-experiments" / "ab12cd34")
    made.event(1, "good", "RUNNING", {"seed": 1, "strategy": {"_name": "TempDARTS", "arc_learning_rate": 0.01}})
    made.event(2, "failed", "RUNNING", {"seed": 2})
    made.metric(10, "good", {"default": 0.2, "train_loss": 1.5})
    made.event(20, "failed", "FAILED")
    made.event(21, "best", "RUNNING", {"seed": 3})
    made.metric(30, "good", {"default": 0.5, "train_loss": 1.0})
    made.metric(31, "good", {"default": 0.5, "train_loss": 1.0, "cell": "node 0: ..."}, final=True)
    made.event(61, "good", "SUCCEEDED")
    made.metric(70, "best", 0.7)
    made.metric(75, "best", 0.75, final=True)
    made.event(81, "best", "SUCCEEDED")
    made.event(90, "killed", "RUNNING", {"seed": 4})
    made.metric(99, "killed", {"default": 0.9})
    (made.trial_folder("failed") / "trial.stderr").write_text("a warning\ntrial: data.store is not there: /x\n\n")
    BEST.to_json(made.trial_folder("best") / "genotype.json")
    Genotype.random(2).to_json(made.trial_folder("good") / "genotype.json")
    return made


def test_what_is_read(experiment):
    results = read_experiment(experiment.folder)
    assert (results.id, results.name) == ("ab12cd34", "my search")
    assert [trial.id for trial in results.trials] == ["good", "failed", "best", "killed"]
    good, failed, best, killed = results.trials
    assert (good.status, good.score, good.curve) == ("SUCCEEDED", 0.5, (0.2, 0.5))
    assert good.metrics == {"train_loss": 1.0}
    assert good.parameters == {"seed": 1, "strategy.name": "TempDARTS", "strategy.arc_learning_rate": 0.01}
    assert (good.started_s, good.ended_s) == (1, 61)
    assert (failed.status, failed.score, failed.reason) == ("FAILED", None, "trial: data.store is not there: /x")
    assert (best.score, best.curve, best.genotype) == (0.75, (0.7,), BEST)
    assert (killed.status, killed.score, killed.curve) == ("UNFINISHED", None, (0.9,))
    assert [trial.id for trial in results.ranked()] == ["best", "good", "failed", "killed"]
    assert results.best is best


def test_table_files_and_best_cell(experiment, capsys):
    assert main(["results", "ab12cd34"]) == 0
    out = capsys.readouterr().out
    places = [out.index(text) for text in ("best  ", "good  ", "FAILED", "UNFINISHED", "best cell, of trial 2")]
    assert places == sorted(places), out
    assert "trial: data.store is not there: /x" in out
    assert "\n".join(BEST.lines) in out
    folder = Path("runs", "results", "ab12cd34")
    assert {path.name for path in folder.iterdir()} == {"trials.csv", "trials.png", "genotype.json", "cell.png"}
    assert Genotype.from_json(folder / "genotype.json") == BEST
    with (folder / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["id"], row["score"]) for row in rows] == [
        ("best", "0.75"), ("good", "0.5"), ("failed", ""), ("killed", ""),
    ]  # fmt: skip
    assert rows[1]["p:strategy.arc_learning_rate"] == "0.01"
    assert rows[1]["m:train_loss"] == "1.0"
    assert rows[3]["last_epoch"] == "0.9"


def test_a_copied_folder_is_the_same_and_is_not_touched(experiment, tmp_path):
    first = read_experiment(experiment.folder)
    copy = tmp_path / "usb" / "renamed"
    shutil.copytree(experiment.folder, copy)
    shutil.rmtree(experiment.folder)
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert read_experiment(find_experiment(str(copy))) == first
    assert sorted(path.name for path in (copy / "db").iterdir()) == ["nni.sqlite"]


def test_a_database_that_a_kill_left_with_a_journal(experiment, tmp_path):
    """What was written but not committed is undone, and what was committed is there; the copy beside it stays."""
    connection = sqlite3.connect(experiment.path, isolation_level=None)
    connection.execute("pragma cache_size = 1")
    connection.execute("begin")
    connection.execute("update MetricData set data = '\"0.99\"'")
    for number in range(2000):  # more than the cache holds, so that pages reach the file
        connection.execute("insert into MetricData values (0, 'good', '0', 'PERIODICAL', 0, ?)", (str(number) * 50,))
    killed = tmp_path / "killed"
    shutil.copytree(experiment.folder, killed)
    connection.rollback()
    connection.close()
    assert (killed / "db" / "nni.sqlite-journal").stat().st_size > 0
    assert read_experiment(killed) == read_experiment(experiment.folder)
    assert (killed / "db" / "nni.sqlite-journal").stat().st_size > 0


class Trap:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("executed",)


def test_pickles_stay_text(home):
    made = NniDatabase(home / "nni-experiments" / "trap")
    trap = {"__nni_type__": "bytes:" + base64.b64encode(pickle.dumps(Trap())).decode()}
    made.event(1, "one", "RUNNING", {"x": trap})
    made.metric(2, "one", {"default": 0.5, "other": trap}, final=True)
    made.event(3, "one", "SUCCEEDED")
    assert main(["results", "trap"]) == 0
    assert not Path("executed").exists()
    pickle.loads(base64.b64decode(trap["__nni_type__"][6:]))
    assert Path("executed").exists(), "the trap itself does not work"


def test_the_cell_of_a_tuner_is_known_without_the_trials_folder(home):
    made = NniDatabase(home / "nni-experiments" / "cells", name=None)
    made.event(1, "one", "RUNNING", cell_parameters(BEST))
    made.metric(2, "one", 0.5, final=True)
    results = read_experiment(made.folder)
    assert results.best.genotype == BEST
    assert results.name == "cells"


def test_trials_on_other_machines(home):
    """Their folders are not here: a cell is in the result's words, and logs are where the manager fetches them to."""
    made = NniDatabase(home / "nni-experiments" / "ab12cd34")
    made.event(1, "found", "RUNNING", {"seed": 1})
    made.metric(2, "found", {"default": 0.5, "cell": "; ".join(BEST.lines)}, final=True)
    made.event(3, "broken", "RUNNING", {"seed": 2})
    made.event(4, "broken", "FAILED")
    (made.folder / "trials" / "broken").mkdir(parents=True)
    (made.folder / "trials" / "broken" / "trial.stderr").write_text("no module named torch\n")
    found, broken = read_experiment(made.folder).trials
    assert found.genotype.nodes == BEST.nodes
    assert broken.reason == "no module named torch"


def test_parameters_are_those_that_the_trial_had(home):
    """NNI files two trials that start together under each other's parameters; their metrics have the right number."""
    made = NniDatabase(home / "nni-experiments" / "swapped")
    made.event(1, "one", "RUNNING", {"seed": 1})
    made.event(1, "other", "RUNNING", {"seed": 2})
    made.numbers = {"one": 1, "other": 0}
    made.metric(2, "one", 0.5, final=True)
    made.metric(2, "other", 0.6, final=True)
    results = read_experiment(made.folder)
    assert [(trial.id, trial.parameters) for trial in results.trials] == [("one", {"seed": 2}), ("other", {"seed": 1})]


def test_metrics_that_are_no_numbers(home):
    made = NniDatabase(home / "nni-experiments" / "odd")
    for number, value in enumerate([float("nan"), "text", None, [1], {"default": True}, {"default": 0.25}]):
        made.event(number, f"t{number}", "RUNNING", {})
        made.metric(number, f"t{number}", value, final=True)
    assert [trial.score for trial in read_experiment(made.folder).trials] == [None] * 5 + [0.25]


def test_nothing_has_a_score_yet(home, capsys):
    NniDatabase(home / "nni-experiments" / "empty")
    assert main(["results", "empty", "--out", "there"]) == 0
    assert "0 trials" in capsys.readouterr().out
    assert [path.name for path in Path("there").iterdir()] == ["trials.csv"]


def test_unknown_and_damaged(experiment, home, capsys, tmp_path):
    other = tmp_path / "other disk"
    NniDatabase(other / "zz99")
    listed = {name: {"id": name, "logDir": str(other)} for name in ("zz99", "gone")}
    (home / "nni-experiments" / ".experiment").write_text(json.dumps(listed))
    assert find_experiment("zz99") == other / "zz99"
    with pytest.raises(ExperimentError, match="'nope': known are ab12cd34, zz99; give one of them"):
        find_experiment("nope")
    (tmp_path / "folder").mkdir()
    assert main(["results", "folder"]) == 2
    experiment.path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 20)
    assert main(["results", "ab12cd34"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "folder holds no experiment" in first
    assert "it is damaged, or not NNI's" in second
    shutil.rmtree(home)
    with pytest.raises(ExperimentError, match="there are none in"):
        find_experiment("ab12cd34")


def test_the_folder_of_a_search_by_trials(home, capsys):
    """What ``nastc search`` with a multi-trial strategy leaves, here while the last trial runs."""
    cells = [Genotype.random(seed).to_dict() for seed in (5, 1, 7)]
    search = home / "runs" / "evolution"
    (search / "trials" / "0001").mkdir(parents=True)
    epochs = [{"epoch": n, "val_score": 0.3 + n / 10, "train_loss": 2.0 - n, "val_loss": 1.5} for n in range(2)]
    (search / "trials" / "0001" / "history.json").write_text(json.dumps({"epochs": epochs}))
    trials = [
        {"trial": 0, "status": "failed", "reason": "no [memory]", "started_s": 0.5, "ended_s": 2.0},
        {"trial": 1, "status": "finished", "score": 0.4, "started_s": 1.0, "ended_s": 61.0},
        {"trial": 2, "status": "running", "started_s": 62.0},
    ]
    content = {"format": "nni_nastc.trials", "version": 1, "metric": "accuracy", "strategy": "RegularizedEvolution"}
    content["trials"] = [{**entry, "genotype": cell} for entry, cell in zip(trials, cells, strict=True)]
    (search / "trials.json").write_text(json.dumps(content))
    assert main(["results", str(search), "--out", "report"]) == 0
    out = capsys.readouterr().out
    assert "RegularizedEvolution (evolution): 3 trials" in out
    assert "no [memory]" in out
    assert Genotype.from_json("report/genotype.json") == BEST
    with Path("report", "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    found = [(row["id"], row["status"], row["score"], row["last_epoch"], row["m:train_loss"]) for row in rows]
    assert found == [
        ("0001", "SUCCEEDED", "0.4", "0.4", "1.0"), ("0000", "FAILED", "", "", ""), ("0002", "UNFINISHED", "", "", ""),
    ]  # fmt: skip
    (search / "trials.json").write_text(json.dumps(content | {"version": 9}))
    assert main(["results", str(search)]) == 2
    assert "does not list the trials of a search (format 'nni_nastc.trials', version 9)" in capsys.readouterr().err


def test_picture_shows_the_best_until_then_over_trials_and_time():
    figure = trials_figure([(0, 600.0, 0.3), (1, 60.0, 0.2), (4, 900.0, 0.25), (5, 1200.0, 0.6)])
    by_number, by_time = ({line.get_label(): line for line in axes.get_lines()} for axes in figure.axes)
    np.testing.assert_allclose(by_number["best until then"].get_ydata(), [0.3, 0.3, 0.3, 0.6])
    np.testing.assert_allclose(by_number["trial"].get_xdata(), [0, 1, 4, 5])
    np.testing.assert_allclose(by_time["best until then"].get_xdata(), [1, 10, 15, 20])
    np.testing.assert_allclose(by_time["best until then"].get_ydata(), [0.2, 0.3, 0.3, 0.6])
    with pytest.raises(NastcError, match="no trial has a score yet"):
        trials_figure([])
