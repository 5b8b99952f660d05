"""The command of NNI's trials: what it takes from NNI, what it reports, what it leaves, what it refuses."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import nni
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nni_nastc.experiments.cell_space import cell_space
from nni_nastc.genotype import Genotype
from nni_nastc.search import trial
from nni_nastc.training import train
from tests.toy import ToySet

CELL = Genotype.random(3)


class Experiment:
    """Stands for NNI: gives parameters, and keeps what is reported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parameters: dict = {}
        self.intermediate: list[dict] = []
        self.final: dict | None = None


@pytest.fixture
def experiment(tmp_path, monkeypatch) -> Experiment:
    made = Experiment(tmp_path / "trials" / "abcde")
    made.folder.mkdir(parents=True)
    (made.folder / "trial.stdout").write_text("")
    monkeypatch.setenv("NNI_OUTPUT_DIR", str(made.folder))
    monkeypatch.setattr(nni, "get_next_parameter", lambda: made.parameters)
    monkeypatch.setattr(nni, "report_intermediate_result", made.intermediate.append)
    monkeypatch.setattr(nni, "report_final_result", lambda result: setattr(made, "final", result))
    yield made
    logging.getLogger("nni_nastc").handlers.clear()
    logging.getLogger("nni_nastc").propagate = True


def values(toy: ToySet, **more: object) -> list[str]:
    given = {f"data.{key}": value for key, value in toy.data().items()} | {"trainer.accelerator": "cpu"} | more
    return [f"{key}={value}" for key, value in given.items()]


def cell_parameters(genotype: Genotype) -> dict:
    sample = {label.partition("/")[2]: value for label, value in genotype.to_nni().items()}
    return {name: value[0] if isinstance(value, list) else value for name, value in sample.items()}


def test_a_search_reports_every_epoch_and_keeps_its_cell(experiment, toy):
    experiment.parameters = {
        "seed": 5,
        "num_layers": 1,
        "optimizer.learning_rate": 1e-05,
        "strategy": {"_name": "TempDARTS", "arc_learning_rate": 0.5},
    }
    result = trial.run_trial("search", None, values(toy, space="nastc_small", epochs=3, seed=9, num_layers=2))
    history = json.loads((experiment.folder / "run" / "history.json").read_text())
    assert [report["default"] for report in experiment.intermediate] == [e["val_score"] for e in history["epochs"]]
    for report, entry in zip(experiment.intermediate, history["epochs"], strict=True):
        assert report["alpha_loss"] == entry["alpha_loss"] != report["train_loss"]
    found = Genotype.from_json(experiment.folder / "genotype.json")
    assert found == Genotype.from_json(experiment.folder / "run" / "genotype.json")
    assert (experiment.folder / "cell.png").stat().st_size > 1000
    assert experiment.final == result == experiment.intermediate[-1] | {"cell": "; ".join(found.lines)}
    config = (experiment.folder / "run" / "config.yaml").read_text()
    for line in ("seed: 5", "num_layers: 1", "learning_rate: 1.0e-05", "arc_learning_rate: 0.5"):
        assert line in config, f"the tuner's parameter {line} does not come last"


def test_the_score_of_a_cell_that_was_chosen_is_its_own(experiment, toy):
    """Not that of the path that the last epoch drew, which stays the last value of the curve."""
    strategy = {"_name": "RandomOneShot", "samples": 6}
    experiment.parameters = {"strategy": strategy, "num_layers": 1}
    result = trial.run_trial("search", None, values(toy, space="nastc_small", epochs=2))
    best = json.loads((experiment.folder / "run" / "samples.json").read_text())["samples"][0]
    assert best["genotype"]["nodes"] == Genotype.from_json(experiment.folder / "genotype.json").to_dict()["nodes"]
    assert result["default"] == result["val_score"] == best["score"]
    assert result["val_loss"] == best["loss"] != experiment.intermediate[-1]["val_loss"]


def test_the_temperature_is_reported(experiment, toy):
    experiment.parameters = {"strategy": {"_name": "GumbelDARTS", "temperature": [1.0, 0.25]}, "num_layers": 1}
    trial.run_trial("search", None, values(toy, space="nastc_small", epochs=2))
    history = json.loads((experiment.folder / "run" / "history.json").read_text())
    reported = [report["temperature"] for report in experiment.intermediate]
    assert reported == [entry["temperature"] for entry in history["epochs"]]
    assert reported[0] == 1.0 > reported[1]


def test_tensorboard_has_the_curves_and_the_alphas(experiment, toy):
    strategy = "{name: TempDARTS, arc_learning_rate: 0.5}"
    trial.run_trial("search", None, values(toy, space="nastc_small", epochs=2, strategy=strategy))
    log = EventAccumulator(str(experiment.folder / "tensorboard")).Reload()
    history = json.loads((experiment.folder / "run" / "history.json").read_text())
    for name in ("train_loss", "alpha_loss", "val_loss", "val_score", "learning_rate"):
        written = [(event.step, event.value) for event in log.Scalars(name)]
        assert written == [(e["epoch"], pytest.approx(e[name], rel=1e-6)) for e in history["epochs"]], name
    pictures = log.Images("alphas")
    assert [picture.step for picture in pictures] == [0, 1]
    assert pictures[0].encoded_image_string != pictures[1].encoded_image_string


def test_a_sampled_cell_is_trained_as_nastc_train_does(experiment, toy, tmp_path):
    experiment.parameters = cell_parameters(CELL)
    result = trial.run_trial("cell", None, values(toy, num_layers=2, epochs=2))
    assert Genotype.from_json(experiment.folder / "genotype.json") == CELL
    assert (experiment.folder / "cell.png").exists()
    metrics = train(toy.train(tmp_path / "direct", genotype=str(experiment.folder / "genotype.json")))
    assert result["default"] == experiment.final["default"] == metrics["held_out_accuracy"]
    assert result["parameters"] == metrics["parameters"]
    assert len(experiment.intermediate) == 2


def test_a_training_takes_dotted_parameters(experiment, toy):
    experiment.parameters = {"optimizer.learning_rate": 0.002, "optimizer.schedule": "cosine", "data.batch_size": 4.0}
    trial.run_trial("train", None, values(toy, genotype="sep_conv_3", num_layers=2, epochs=1))
    config = (experiment.folder / "run" / "config.yaml").read_text()
    assert "learning_rate: 0.002" in config
    assert "schedule: cosine" in config
    assert "batch_size: 4\n" in config
    assert Genotype.from_json(experiment.folder / "genotype.json").operations == ("sep_conv_3",) * 8
    assert experiment.final["cell"].startswith("node 0: sep_conv_3(")


def test_other_methods_have_no_cell(experiment, toy):
    result = trial.run_trial("train", None, values(toy, genotype="pool", epochs=1))
    assert "cell" not in result
    assert not (experiment.folder / "genotype.json").exists()


def test_a_trial_ends_with_its_manager(experiment, toy, capsys, monkeypatch):
    def refused(metrics):
        raise ConnectionError("connection refused")

    monkeypatch.setattr(nni, "report_intermediate_result", refused)
    with pytest.raises(SystemExit):
        trial.main(["train", *values(toy, genotype="pool", epochs=1)])
    assert capsys.readouterr().err.startswith("trial: NNI's manager no longer answers: the experiment was stopped")


WRONG_CELLS = {
    "missing": {k: v for k, v in cell_parameters(CELL).items() if k != "op_2_0"},
    "unknown operation": cell_parameters(CELL) | {"op_3_1": "sep_conv_9"},
    "later predecessor": cell_parameters(CELL) | {"input_2_0": 3},
}


@pytest.mark.parametrize(
    ("task", "parameters", "overrides", "message"),
    [
        ("search", {"epoch": 3}, {}, "unknown key epoch (did you mean epochs?)"),
        ("search", {"optimizer.learning_rate": "fast"}, {}, "optimizer.learning_rate"),
        ("search", {}, {"data.store": "nowhere/store"}, "nowhere/store; give the right path"),
        ("train", {}, {"data.annotations": "no.json", "genotype": "pool"}, "data.annotations is not there"),
        ("train", {}, {"final": True, "genotype": "pool"}, "final=true"),
        ("cell", WRONG_CELLS["missing"], {}, "missing ['op_2_0']"),
        ("cell", WRONG_CELLS["unknown operation"], {}, "'sep_conv_9'"),
        ("cell", WRONG_CELLS["later predecessor"], {}, "predecessor 3, allowed are 0 to 1"),
    ],
)
def test_wrong_input_fails_the_trial_in_one_line(experiment, toy, capsys, task, parameters, overrides, message):
    experiment.parameters = parameters
    with pytest.raises(SystemExit) as stop:
        trial.main([task, *values(toy, **overrides)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert experiment.final is None
    assert not (experiment.folder / "run").exists()


def test_a_strategy_that_needs_trials_itself_is_refused(experiment, toy, capsys):
    with pytest.raises(SystemExit):
        trial.main(["search", *values(toy, **{"strategy.name": "Random"})])
    assert "strategy.name is Random, whose networks are trials themselves" in capsys.readouterr().err


def test_a_missing_store_names_the_demo(experiment, toy, capsys):
    with pytest.raises(SystemExit):
        trial.main(["search", *values(toy, **{"data.store": "../../runs/demo/store"})])
    assert "nastc demo --out runs/demo" in capsys.readouterr().err


def test_a_machine_without_the_packages_says_so(experiment, toy, capsys, monkeypatch):
    monkeypatch.setattr(trial, "_MODULES", ("torch", "no_such_package", "nor_this"))
    with pytest.raises(SystemExit):
        trial.main(["search", *values(toy)])
    assert "lacks no_such_package, nor_this; install nni_nastc" in capsys.readouterr().err
    monkeypatch.setattr(trial, "_MODULES", ())
    monkeypatch.setattr(metadata, "version", lambda name: "2.10")
    with pytest.raises(SystemExit):
        trial.main(["search", *values(toy)])
    assert "needs NNI 3.0, this machine has 2.10" in capsys.readouterr().err


def test_trials_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    output = tmp_path / "environments" / "local-env" / "trials" / "abcde"
    (tmp_path / "db").mkdir()
    with sqlite3.connect(tmp_path / "db" / "nni.sqlite") as database:
        database.execute("create table ExperimentProfile (params text, id text, revision integer)")
        for revision, concurrency in ((2, 4), (10, 3), (1, 1)):
            row = (json.dumps({"trialConcurrency": concurrency}), "x", revision)
            database.execute("insert into ExperimentProfile values (?, ?, ?)", row)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert trial.set_threads() is None, "nothing is known of an experiment"
    monkeypatch.setenv("NNI_OUTPUT_DIR", str(output))
    assert trial.set_threads() == 4
    assert os.environ["OMP_NUM_THREADS"] == "4"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert trial.set_threads() is None
    assert os.environ["OMP_NUM_THREADS"] == "7", "what the user has set stays"
    assert trial.set_threads(2) == 2
    assert os.environ["OMP_NUM_THREADS"] == "2"


@pytest.mark.slow
def test_by_hand_outside_nni(toy, tmp_path):
    """As its docstring says: no server, the results in ``output``, no line twice and none of NNI's or Lightning's."""
    repeated = {name: "sep_conv_3" if name.startswith("op") else 0 for name in cell_space()}
    command = [sys.executable, "-m", "nni_nastc.search.trial", "cell", "output=mine", "epochs=2", "num_layers=1"]
    command += [f"{name}={value}" for name, value in repeated.items()]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NNI_")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [*command, *values(toy)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["parameters", "epoch 1 of 2", "epoch 2 of 2", "final result"]
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"cell.png", "genotype.json", "run", "tensorboard"}
    assert Genotype.from_json(tmp_path / "mine" / "genotype.json").nodes[0] == (("sep_conv_3", 0), ("sep_conv_3", 0))
