"""Evidence over time, with networks whose answer can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from nni_nastc.evaluation.occlusion import occlusion_evidence, stretches
from nni_nastc.features.superframes import uniform_windows


class Responds(nn.Module):
    """Logit k is the sum over time of the mean of channel k."""

    def forward(self, features):
        assert features.shape[2] == 32, features.shape
        return features.mean((3, 4)).sum(2)


class Order(nn.Module):
    """Logit 0 counts how often channel 0 lights before channel 1, logit 1 how often after."""

    def forward(self, features):
        first, second = (features.mean((3, 4)) - 0.5).relu().unbind(1)
        pairs = first[:, :, None] * second[:, None, :]
        return 8 * torch.stack([pairs.triu().sum((1, 2)), pairs.tril().sum((1, 2))], dim=1)


def seconds(windows: int) -> np.ndarray:
    """Times of windows of 8 frames at 25 frames per second."""
    edges = np.arange(windows + 1) * 8 / 25
    return np.stack([edges[:-1], edges[1:]], axis=1)


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_evidence_is_the_drop_that_the_mean_in_its_place_makes(batch_size):
    features = np.zeros((64, 2, 3, 3), np.float16)
    lit = uniform_windows(64, 32)[10]  # stretch 5 of 16
    features[lit, 1] = 4
    evidence = occlusion_evidence(
        features, seconds(64), Responds(), "multi-label", timesteps=32, batch_size=batch_size
    )
    assert evidence.values.shape == (2, 16)
    assert evidence.times.shape == (16, 2)
    # A mean of 4 / 64 takes the place of two superframes: of 4 and 0 in stretch 5, of 0 and 0 elsewhere.
    expected = np.full(16, sigmoid(4) - sigmoid(4 + 2 * 4 / 64))
    expected[5] = sigmoid(4) - sigmoid(2 * 4 / 64)
    np.testing.assert_allclose(evidence.values[1], expected, atol=1e-7)
    np.testing.assert_allclose(evidence.values[0], 0, atol=1e-7)
    assert evidence.values[1].argmax() == 5
    np.testing.assert_allclose(evidence.times[5], [5 * 4 * 8 / 25, 6 * 4 * 8 / 25])
    start, end = evidence.times[5]
    assert start <= seconds(64)[lit, 0]
    assert seconds(64)[lit, 1] <= end


def test_single_labels_share_their_probability():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 3, 2, 2)).astype(np.float16)
    evidence = occlusion_evidence(features, seconds(50), Responds(), "single-label", timesteps=32)
    np.testing.assert_allclose(evidence.values.sum(axis=0), 0, atol=1e-6)
    assert np.abs(evidence.values).max() > 0.01


def test_an_order_is_found_at_both_of_its_parts():
    features = np.zeros((32, 2, 2, 2), np.float16)
    features[6, 0] = features[21, 1] = 1
    evidence = occlusion_evidence(features, seconds(32), Order(), "single-label", timesteps=32)
    expected = np.zeros(16)
    expected[[3, 10]] = sigmoid(8 * 0.25) - 0.5  # without either part there is no order, and so no preference
    np.testing.assert_allclose(evidence.values, [expected, -expected], atol=1e-6)


def test_every_stretch_is_seen_and_they_tile_the_video():
    for timesteps in (8, 16, 24, 32, 40, 64, 128, 512):
        for windows in (1, 2, 5, 15, 16, 17, 31, 33, 63, 100, 1000):
            stretch = stretches(windows, timesteps)
            assert stretch.shape == (windows,)
            assert stretch[0] == 0
            assert set(np.diff(stretch)) <= {0, 1}, (timesteps, windows)
            seen = np.unique(stretch[uniform_windows(windows, timesteps)])
            assert list(seen) == list(range(stretch[-1] + 1)), (timesteps, windows)
            count = stretch[-1] + 1
            assert count == min(windows, timesteps) if min(windows, timesteps) < 32 else 16 <= count < 32


@pytest.mark.parametrize(("windows", "timesteps"), [(64, 32), (320, 32), (512, 128), (160, 16)])
def test_stretches_are_equal_parts_where_they_can_be(windows, timesteps):
    assert set(np.bincount(stretches(windows, timesteps))) == {windows // 16}


def test_times_join_without_gaps_and_end_with_the_video():
    features = np.random.default_rng(1).random((77, 2, 1, 1)).astype(np.float16)
    evidence = occlusion_evidence(features, seconds(77), Responds(), "multi-label", timesteps=32)
    assert evidence.times[0, 0] == 0
    assert evidence.times[-1, 1] == pytest.approx(77 * 8 / 25)
    np.testing.assert_allclose(evidence.times[1:, 0], evidence.times[:-1, 1])


def test_a_video_shorter_than_a_draw():
    features = np.zeros((3, 2, 1, 1), np.float16)
    features[1, 0] = 3
    evidence = occlusion_evidence(features, seconds(3), Responds(), "multi-label", timesteps=32)
    assert evidence.values.shape == (2, 3)
    assert evidence.values[0].argmax() == 1
