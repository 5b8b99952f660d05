"""Evaluation: what it writes, the same scores from its file, classes that stand for nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nni_nastc.bundle import load_bundle, save_bundle
from nni_nastc.cli.main import main
from nni_nastc.config import EvaluateConfig, PredictionsConfig
from nni_nastc.data.breakfast import UNIT_ACTIONS
from nni_nastc.errors import ConfigError, DataError, NastcError, RunFolderError
from nni_nastc.evaluate import evaluate, score_predictions
from nni_nastc.training import train
from tests.data.test_charades import write as write_charades
from tests.toy import ToySet

SCORES = ("accuracy", "accuracy_by_class", "classes_without_videos", "videos", "subset")


@pytest.fixture(scope="module")
def trained(toy: ToySet, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(toy.train(folder, epochs=1))
    return folder


def breakfast(folder: Path) -> Path:
    """Three test videos of two unit-actions beside SIL, which is in every one."""
    actions = {"P03_cam01_P03_milk": ["pour_milk"], "P47_cam01_P47_milk": ["pour_milk"]}
    actions |= {"P48_cam01_P48_milk": ["pour_milk", "take_cup"], "P49_cam01_P49_milk": ["take_cup"]}
    folder.mkdir()
    for name, found in actions.items():
        lines = [f"{n * 30 + 1}-{n * 30 + 30} {action}" for n, action in enumerate(["SIL", *found])]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_what_is_not_given_comes_from_the_training(toy: ToySet, trained):
    metrics = evaluate(EvaluateConfig(checkpoint=trained))
    folder = trained / "evaluation"
    assert metrics == json.loads((folder / "metrics.json").read_text())
    assert {file.name for file in folder.iterdir()} == {"metrics.json", "predictions.txt"}
    assert metrics["checkpoint"] == str(trained / "model.safetensors")
    lines = [line.split() for line in (folder / "predictions.txt").read_text().splitlines()]
    videos = json.loads(toy.annotations.read_text())["videos"]
    assert [line[0] for line in lines] == [name for name, video in videos.items() if video["subset"] == "test"]
    assert all(sum(map(float, line[1:])) == pytest.approx(1) for line in lines), "softmax, a score for each class"


def test_a_checkpoint_that_does_not_tell_its_data(trained, tmp_path):
    bundle, model = load_bundle(trained)
    save_bundle(tmp_path / "model.safetensors", model, replace(bundle, training={}))
    with pytest.raises(ConfigError, match="store and annotations must be given"):
        evaluate(EvaluateConfig(checkpoint=tmp_path))


def test_the_written_predictions_have_the_same_scores(toy: ToySet, trained, tmp_path):
    metrics = evaluate(EvaluateConfig(checkpoint=trained, output=tmp_path / "network"))
    again = score_predictions(
        PredictionsConfig(
            predictions=tmp_path / "network" / "predictions.txt", annotations=toy.annotations, output=tmp_path / "file"
        )
    )
    assert {key: again[key] for key in SCORES} == {key: metrics[key] for key in SCORES}
    assert json.loads((tmp_path / "file" / "metrics.json").read_text()) == again


def test_the_folder_of_a_training_is_left_alone(toy: ToySet, trained):
    with pytest.raises(RunFolderError, match="holds another run"):
        score_predictions(PredictionsConfig(predictions="p.txt", annotations=toy.annotations, output=trained))


def test_charades_submission_without_a_network(tmp_path, capsys):
    """Two labelled test videos and one that nobody labelled, whose line counts for nothing."""
    test = ["CCCCC,S3,Bath,none,c156 2.00 30.50,30.00", "DDDDD,S3,Bath,none,,30.00",
            "EEEEE,S3,Bath,none,c000 2.00 30.50;c156 1.00 2.00,30.00"]  # fmt: skip
    folder = write_charades(tmp_path, test=test)
    scores = {"CCCCC": {0: 0.9, 156: 0.5}, "DDDDD": {0: 1.0, 156: 1.0}, "EEEEE": {0: 0.4, 156: 0.3}}
    rows = [f"{name} {' '.join(str(own.get(k, 0)) for k in range(157))}" for name, own in scores.items()]
    (tmp_path / "sent.txt").write_text("\n".join(rows) + "\n")
    given = ["evaluate", "--predictions", str(tmp_path / "sent.txt"), f"annotations={folder}", "dataset=charades"]
    assert main([*given, f"output={tmp_path / 'out'}"]) == 0
    assert "mAP: 0.7500 on 2 test videos" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["average_precision"] == {"Doing 0": 0.5, "Doing 156": 1.0}
    assert len(metrics["classes_without_videos"]) == 155
    assert "mAP_without_SIL" not in metrics
    (tmp_path / "sent.txt").write_text("\n".join(rows[:2]).replace("0.9", "NaN") + "\n")
    assert main(given) == 2
    told = capsys.readouterr().err
    assert "line 1: scores must be numbers" in told
    assert "no line for 1 of 2 videos: EEEEE" in told


def test_unlabelled_videos_count_if_asked(tmp_path):
    test = ["CCCCC,S3,Bath,none,c156 2.00 30.50,30.00", "DDDDD,S3,Bath,none,,30.00"]
    folder = write_charades(tmp_path, test=test)
    rows = ["CCCCC" + " 0.5" * 157, "DDDDD" + " 0.9" * 157]
    (tmp_path / "sent.txt").write_text("\n".join(rows))
    config = PredictionsConfig(predictions=tmp_path / "sent.txt", annotations=folder, dataset="charades")
    assert score_predictions(config)["mAP"] == 1
    assert score_predictions(config.model_copy(update={"unlabelled": True}))["mAP"] == 0.5
    (tmp_path / "sent.txt").write_text(rows[0])
    with pytest.raises(DataError, match="no line for 1 of 2 videos: DDDDD"):
        score_predictions(config.model_copy(update={"unlabelled": True}))


def test_breakfast_is_scored_with_and_without_silence(tmp_path, capsys):
    folder = breakfast(tmp_path / "breakfast")
    rows = []
    for name, milk, cup in (("P47", 0.2, 0.9), ("P48", 0.6, 0.8), ("P49", 0.4, 0.7)):
        scores = np.zeros(48)
        scores[[UNIT_ACTIONS.index("pour_milk"), UNIT_ACTIONS.index("take_cup")]] = milk, cup
        rows.append(f"{name}_cam01_{name}_milk {' '.join(map(str, scores))}")
    (tmp_path / "sent.txt").write_text("\n".join(rows))
    given = ["evaluate", "--predictions", str(tmp_path / "sent.txt"), f"annotations={folder}", "dataset=breakfast"]
    assert main([*given, "target=unit-actions", f"output={tmp_path / 'out'}"]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    milk, cup = (1 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2
    assert metrics["average_precision"] == pytest.approx({"SIL": 1, "pour_milk": milk, "take_cup": cup})
    assert metrics["mAP"] == pytest.approx((1 + milk + cup) / 3)
    assert metrics["mAP_without_SIL"] == pytest.approx((milk + cup) / 2)
    assert f"mAP without SIL: {(milk + cup) / 2:.4f}" in capsys.readouterr().out


def test_command_takes_a_folder_a_file_or_yaml(trained, tmp_path, capsys):
    (tmp_path / "evaluate.yaml").write_text(f"checkpoint: {trained}\noutput: {tmp_path / 'yaml'}\ndraws: 2\n")
    assert main(["evaluate", str(tmp_path / "evaluate.yaml"), "seed=3"]) == 0
    assert main(["evaluate", str(trained), f"output={tmp_path / 'folder'}", "draws=2", "seed=3"]) == 0
    assert main(["evaluate", f"checkpoint={trained}", f"output={tmp_path / 'key'}", "draws=2", "seed=3"]) == 0
    texts = {(tmp_path / name / "metrics.json").read_text() for name in ("yaml", "folder", "key")}
    assert len(texts) == 1
    assert "2 draws each" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([], "nothing to score"),
        (["output=x"], "nothing to score"),
        (["somewhere", "--predictions", "p.txt"], "--predictions needs no checkpoint, got somewhere"),
        (["--predictions", "p.txt"], "annotations is missing"),
        (["--predictions", "p.txt", "annotations=a", "draws=3"], "unknown key draws"),
        (["nowhere"], "no such checkpoint: nowhere"),
    ],
)
def test_wrong_commands(given, problem, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *given]) == 2
    assert problem in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nothing_to_score_is_refused(tmp_path):
    folder = write_charades(tmp_path, test=["CCCCC,S3,Bath,none,,30.00"])
    (tmp_path / "sent.txt").write_text("")
    with pytest.raises(NastcError, match="no test video of .* has a label"):
        score_predictions(
            PredictionsConfig(predictions=tmp_path / "sent.txt", annotations=folder, dataset="charades")
        )
