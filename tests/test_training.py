"""Training and evaluation of fixed networks on made-up features."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from nni_nastc.bundle import load_bundle
from nni_nastc.config import EvaluateConfig
from nni_nastc.data.datamodule import VideoSet
from nni_nastc.errors import CheckpointError, FeatureStoreError, ModelError
from nni_nastc.evaluate import evaluate
from nni_nastc.training import train
from tests.toy import StopAfter, ToySet, history_of, without_times


def evaluation(toy: ToySet, folder, **changes) -> EvaluateConfig:
    values = {
        "checkpoint": folder / "model.safetensors",
        "output": folder / "evaluation",
        "store": toy.store,
        "annotations": toy.annotations,
    }
    return EvaluateConfig.model_validate(values | changes)


def test_order_is_learnt_by_nas_tc_and_not_by_pooling(tmp_path):
    """24 test videos of 4 classes: chance is 0.25, and pooling cannot do better but by luck."""
    toy = ToySet.make(tmp_path / "toy", videos=96, channels=16)
    scores = {}
    for name in ("sep_conv_3", "pool"):
        changes = {"data": toy.data() | {"timesteps": 16}, "optimizer": {"learning_rate": 0.003}}
        train(toy.train(tmp_path / name, genotype=name, final=True, epochs=40, **changes))
        scores[name] = evaluate(evaluation(toy, tmp_path / name))["accuracy"]
    assert scores["sep_conv_3"] >= 0.9
    assert scores["pool"] <= 0.5


def test_results(toy: ToySet, tmp_path):
    metrics = train(toy.train(tmp_path / "run"))
    folder = tmp_path / "run"
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert {"held_out_accuracy", "train_loss", "parameters", "seconds", "epochs"} <= set(metrics)
    bundle, model = load_bundle(folder)
    assert metrics["parameters"] == sum(p.numel() for p in model.parameters())
    assert bundle.task == "single-label"
    assert list(bundle.classes) == json.loads(toy.annotations.read_text())["classes"]
    assert bundle.timesteps == 8
    assert bundle.training["config"]["epochs"] == 2


def test_a_tenth_is_held_out_and_the_final_training_uses_all(toy: ToySet, tmp_path):
    videos = json.loads(toy.annotations.read_text())["videos"]
    training = {name for name, video in videos.items() if video["subset"] == "train"}
    train(toy.train(tmp_path / "part", epochs=1))
    metrics = train(toy.train(tmp_path / "all", epochs=1, final=True))
    part = json.loads((tmp_path / "part" / "split.json").read_text())
    everything = json.loads((tmp_path / "all" / "split.json").read_text())
    assert set(part["train"]) | set(part["held_out"]) == training
    assert not set(part["train"]) & set(part["held_out"])
    assert 2 <= len(part["held_out"]) <= 6
    assert set(everything["train"]) == training
    assert everything["held_out"] == []
    assert "held_out_accuracy" not in metrics


def test_held_out_videos_are_scored_by_their_middle_windows(toy: ToySet, tmp_path):
    metrics = train(toy.train(tmp_path / "run"))
    held = json.loads((tmp_path / "run" / "split.json").read_text())["held_out"]
    videos = VideoSet.open(toy.store, toy.annotations, timesteps=8)
    records = [record for record in videos.records("train") if record.id in held]
    dataset = videos.dataset(records, "uniform")
    model = load_bundle(tmp_path / "run")[1]
    with torch.no_grad():
        losses = [cross_entropy(model(item["features"].float()[None])[0], item["target"]).item() for item in dataset]
    assert metrics["held_out_loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_stopped_training_resumes_to_the_same_network(toy: ToySet, tmp_path):
    train(toy.train(tmp_path / "unbroken", epochs=3))
    config = toy.train(tmp_path / "broken", epochs=3)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        train(config, [StopAfter(1)])
    train(config)
    assert without_times(history_of(tmp_path / "broken")) == without_times(history_of(tmp_path / "unbroken"))
    one, other = (load_bundle(tmp_path / name)[1].state_dict() for name in ("unbroken", "broken"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_evaluation_is_the_mean_of_ten_draws_over_the_test_part(toy: ToySet, tmp_path):
    train(toy.train(tmp_path / "run"))
    metrics = evaluate(evaluation(toy, tmp_path / "run"))
    assert metrics == json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
    assert (metrics["videos"], metrics["draws"], metrics["subset"]) == (8, 10, "test")
    by_class = metrics["accuracy_by_class"]
    assert metrics["accuracy"] == pytest.approx(np.mean(list(by_class.values())))
    assert evaluate(evaluation(toy, tmp_path / "run"))["loss"] == metrics["loss"]
    assert evaluate(evaluation(toy, tmp_path / "run", batch_size=3))["loss"] == pytest.approx(metrics["loss"])
    assert evaluate(evaluation(toy, tmp_path / "run", seed=1))["loss"] != metrics["loss"]
    assert evaluate(evaluation(toy, tmp_path / "run", draws=1))["loss"] != metrics["loss"], "all draws count"


def test_another_class_list_is_refused(toy: ToySet, tmp_path):
    train(toy.train(tmp_path / "run", epochs=1))
    content = json.loads(toy.annotations.read_text())
    content["classes"].append("sleep")
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="another class list.*'sleep'"):
        evaluate(evaluation(toy, tmp_path / "run", annotations=path))


def test_a_store_of_other_settings_is_refused(toy: ToySet, tmp_path):
    train(toy.train(tmp_path / "run", epochs=1))
    other = ToySet.make(tmp_path / "other", seed=5)
    with pytest.raises(FeatureStoreError, match="weights_digest"):
        evaluate(evaluation(toy, tmp_path / "run", store=other.store, annotations=other.annotations))


def test_unknown_networks_are_named(toy: ToySet, tmp_path):
    with pytest.raises(ModelError, match="no network is called 'poll'.*did you mean pool"):
        train(toy.train(tmp_path / "run", genotype="poll"))
    assert not (tmp_path / "run").exists()


def test_multi_label_is_scored_by_map(toy: ToySet, tmp_path):
    content = json.loads(toy.annotations.read_text()) | {"task": "multi-label"}
    content["classes"].append("never")
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    train(toy.train(tmp_path / "run", data=toy.data() | {"annotations": str(path)}))
    metrics = evaluate(evaluation(toy, tmp_path / "run", annotations=path))
    assert 0 < metrics["mAP"] <= 1
    assert metrics["classes_without_videos"] == ["never"]
    assert metrics["mAP"] == pytest.approx(np.mean(list(metrics["average_precision"].values())))
