"""Prediction from features and from a real video file."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from nni_nastc import predict
from nni_nastc.bundle import Bundle
from nni_nastc.errors import CheckpointError, DataError, ModelError, WeightsError
from nni_nastc.features.extractor import ExtractionSettings
from nni_nastc.features.store import StoreSettings
from nni_nastc.features.superframes import random_windows, uniform_windows
from nni_nastc.models import NetworkSpec
from nni_nastc.predict import Prediction, predict_features, predict_video
from tests.videos import TinyBackbone

BUNDLE = Bundle(
    spec=NetworkSpec("pool", num_classes=3, in_channels=3),
    classes=("red", "green", "blue"),
    task="multi-label",
    timesteps=8,
    backbone=StoreSettings(weights="kinetics400", weights_digest="sha256:12ab"),
    feature_shape=(3, 2, 2),
)


class LastMinusFirst(nn.Module):
    """Logit k is the mean of channel k in the last superframe minus the one in the first: order matters."""

    def forward(self, features):
        assert features.shape[1:] == (3, 8, 2, 2), features.shape
        return (features[:, :, -1] - features[:, :, 0]).mean((2, 3))


@pytest.fixture
def video():
    """Features and times of a video of 40 windows."""
    edges = np.arange(41) * 0.32
    features = np.random.default_rng(3).normal(size=(40, 3, 2, 2)).astype(np.float16)
    return features, np.stack([edges[:-1], edges[1:]], axis=1)


def by_hand(features, windows, softmax=False):
    logits = (features[windows[-1]].astype(float) - features[windows[0]]).mean((1, 2))
    return np.exp(logits) / np.exp(logits).sum() if softmax else 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_scores_are_the_mean_probabilities_of_ten_seeded_draws(video, batch_size):
    features, times = video
    prediction = predict_features(features, times, BUNDLE, LastMinusFirst(), batch_size=batch_size)
    rng = np.random.default_rng(0)
    draws = [random_windows(40, 8, rng) for _ in range(10)]
    assert len({tuple(windows) for windows in draws}) == 10
    expected = np.mean([by_hand(features, windows) for windows in draws], axis=0)
    np.testing.assert_allclose(prediction.scores, expected, rtol=1e-5)
    assert prediction.duration_s == pytest.approx(12.8)
    assert prediction.evidence is None


def test_one_draw_takes_the_middle_of_each_segment(video):
    features, times = video
    single = replace(BUNDLE, task="single-label")
    prediction = predict_features(features, times, single, LastMinusFirst(), draws=1)
    expected = by_hand(features, uniform_windows(40, 8), softmax=True)
    np.testing.assert_allclose(prediction.scores, expected, rtol=1e-5)
    assert prediction.scores.sum() == pytest.approx(1)
    assert prediction.top(2) == [int(n) for n in np.argsort(-expected)[:2]]


def test_the_checkpoint_tells_the_number_of_draws(video):
    two = predict_features(*video, replace(BUNDLE, draws=2), LastMinusFirst()).scores
    np.testing.assert_array_equal(two, predict_features(*video, BUNDLE, LastMinusFirst(), draws=2).scores)
    assert not np.array_equal(two, predict_features(*video, BUNDLE, LastMinusFirst()).scores)


def test_dropout_is_off(video):
    network = nn.Sequential(LastMinusFirst(), nn.Dropout(0.5)).train()
    first = predict_features(*video, BUNDLE, network).scores
    np.testing.assert_array_equal(first, predict_features(*video, BUNDLE, network).scores)


def test_json_holds_the_classes_best_first_with_their_evidence(video):
    prediction = predict_features(*video, BUNDLE, LastMinusFirst(), timeline=True)
    value = json.loads(json.dumps(prediction.to_dict()))
    scores = [entry["score"] for entry in value["classes"]]
    assert scores == sorted(scores, reverse=True)
    assert sorted(entry["name"] for entry in value["classes"]) == ["blue", "green", "red"]
    assert len(value["timeline"]["times_s"]) == 8
    np.testing.assert_array_equal(value["timeline"]["evidence"]["green"], prediction.evidence.values[1])
    short = prediction.to_dict(top=1)
    assert [entry["name"] for entry in short["classes"]] == list(short["timeline"]["evidence"])
    # Only the two ends of the video matter to this network; a logit is the log-odds of one of many labels.
    features = video[0].astype(float)
    channels, mean = features.mean((2, 3)), features.mean((0, 2, 3))
    ends = uniform_windows(40, 8)[[0, -1]]
    expected = np.zeros((3, 8))
    expected[:, 0] = mean - channels[ends[0]]
    expected[:, -1] = channels[ends[1]] - mean
    np.testing.assert_allclose(prediction.evidence.values, expected, atol=1e-5)


def test_captions_tell_nearly_certain_from_certain():
    names = ("a", "b", "c", "d", "e", "f" * 200)
    prediction = Prediction(names, np.array([1, 1 - 1e-9, 0.9994, 0.0004, 0.0, 0.5]), 8.0)
    assert prediction.captions([0, 1, 2]) == ["a (100.0 %)", "b (> 99.9 %)", "c (99.9 %)"]
    assert prediction.captions([4, 3]) == ["e (0.0 %)", "d (< 0.1 %)"]
    assert prediction.captions([5]) == ["f" * 77 + "... (50.0 %)"]


def test_features_of_another_shape_nan_and_no_draws_are_refused(video):
    features, times = video
    with pytest.raises(CheckpointError, match=r"\(3, 2, 2\), got \(3, 2, 1\)"):
        predict_features(features[..., :1], times, BUNDLE, LastMinusFirst())
    with pytest.raises(DataError, match="at least 1 draw, got 0"):
        predict_features(features, times, BUNDLE, LastMinusFirst(), draws=0)
    spoilt = np.full_like(features, np.nan)
    with pytest.raises(DataError, match="the features hold NaN"):
        predict_features(spoilt, times, BUNDLE, LastMinusFirst())
    with pytest.raises(ModelError, match="cuda:99"):
        predict_features(features, times, BUNDLE, LastMinusFirst(), device="cuda:99")


def test_a_backbone_with_other_weights_is_refused_before_decoding(tmp_path):
    backbone = TinyBackbone()
    backbone.weights_name, backbone.weights_digest = "random", "sha256:99ff"
    with pytest.raises(WeightsError, match=r"'kinetics400' \(sha256:12ab\), got 'random' \(sha256:99ff\)"):
        predict_video(tmp_path / "no.mp4", BUNDLE, LastMinusFirst(), backbone)


def test_another_backbone_is_refused(tmp_path):
    bundle = replace(BUNDLE, backbone=replace(BUNDLE.backbone, backbone="resnet152", endpoint="layer4_mean"))
    with pytest.raises(WeightsError, match="features of resnet152, layer4_mean, got i3d, Mixed_5c"):
        predict_video(tmp_path / "no.mp4", bundle, LastMinusFirst(), TinyBackbone())


def test_a_video_is_extracted_as_the_training_was(video, monkeypatch):
    settings = replace(BUNDLE.backbone, short_side=128, crop=112, windows=16, pool=2)
    asked = {}

    def extract_video(path, backbone, settings, **options):
        asked.update(path=path, settings=settings)
        return video

    monkeypatch.setattr(predict, "extract_video", extract_video)
    backbone = TinyBackbone()
    backbone.weights_name, backbone.weights_digest = "kinetics400", "sha256:12ab"
    bundle = replace(BUNDLE, backbone=settings)
    prediction = predict_video("a.mp4", bundle, LastMinusFirst(), backbone, fps=24.0, device="cpu")
    expected = ExtractionSettings(short_side=128, crop=112, windows=16, pool=2, fps=24.0, device="cpu")
    assert asked == {"path": "a.mp4", "settings": expected}
    np.testing.assert_array_equal(prediction.scores, predict_features(*video, BUNDLE, LastMinusFirst()).scores)
