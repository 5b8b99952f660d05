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
    """Logit 0 is ``sure`` if channel 0 lights before channel 1, logit 1 if after."""

    def __init__(self, sure: float) -> None:
        super().__init__()
        self.sure = sure

    def forward(self, features):
        first, second = (features.mean((3, 4)) - 0.5).relu().unbind(1)
        pairs = 4 * first[:, :, None] * second[:, None, :]
        return self.sure * torch.stack([pairs.triu().sum((1, 2)), pairs.tril().sum((1, 2))], dim=1)


def seconds(windows: int) -> np.ndarray:
    """Times of windows of 8 frames at 25 frames per second."""
    edges = np.arange(windows + 1) * 8 / 25
    return np.stack([edges[:-1], edges[1:]], axis=1)


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
    expected = np.full(16, -2 * 4 / 64)
    expected[5] = 4 - 2 * 4 / 64
    assert evidence.values.dtype == np.float64
    np.testing.assert_allclose(evidence.values, [np.zeros(16), expected], atol=1e-6)
    np.testing.assert_allclose(evidence.times[5], [5 * 4 * 8 / 25, 6 * 4 * 8 / 25])
    start, end = evidence.times[5]
    assert start <= seconds(64)[lit, 0]
    assert seconds(64)[lit, 1] <= end


def test_a_single_label_is_held_against_all_others():
    features = np.zeros((32, 3, 2, 2), np.float16)
    features[8, 0] = 2
    features[20, 1] = 1
    evidence = occlusion_evidence(features, seconds(32), Responds(), "single-label", timesteps=32)
    # Logits 2, 1, 0 of the video; without superframes 8 and 9 twice the mean: 2 * 2 / 32, and 2 / 32 more of class 1.
    e = np.exp
    seen = [2 - np.log(e(1) + e(0)), 1 - np.log(e(2) + e(0)), 0 - np.log(e(2) + e(1))]
    a, b = 1 / 8, 1 + 1 / 16
    without = [a - np.log(e(b) + e(0)), b - np.log(e(a) + e(0)), 0 - np.log(e(a) + e(b))]
    np.testing.assert_allclose(evidence.values[:, 4], np.subtract(seen, without), atol=1e-6)
    assert evidence.values[0, 4] > 1.9
    assert evidence.values[1, 4] < 0
    assert evidence.values[2, 4] < 0


@pytest.mark.parametrize("sure", [2.0, 20.75, 60.0])
@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_an_order_is_found_at_both_of_its_parts_however_sure_the_network_is(task, sure):
    features = np.zeros((32, 2, 2, 2), np.float16)
    features[6, 0] = features[21, 1] = 1
    evidence = occlusion_evidence(features, seconds(32), Order(sure), task, timesteps=32)
    expected = np.zeros(16)
    expected[[3, 10]] = sure  # without either part there is no order, and so no preference: the odds are 1
    other = -expected if task == "single-label" else np.zeros(16)
    np.testing.assert_allclose(evidence.values, [expected, other], atol=1e-9)


def test_certainty_does_not_hide_a_stretch_that_others_make_up_for():
    features = np.zeros((32, 2, 1, 1), np.float16)
    features[6:8, 0] = 8
    features[20:22, 0] = 16
    evidence = occlusion_evidence(features, seconds(32), Responds(), "single-label", timesteps=32)
    # Log-odds of 48, and a mean of 1.5: p is 1 - 6e-16 without superframes 6 and 7, and 1 - 6e-9 without 20 and 21.
    expected = np.full(16, -3.0)
    expected[[3, 10]] = 16 - 3, 32 - 3
    np.testing.assert_allclose(evidence.values[0], expected, atol=1e-6)


@pytest.mark.parametrize(("task", "drop"), [("single-label", 0.0), ("multi-label", 3 - 3 * 2 / 32)])
def test_one_class_alone_is_certain_only_as_a_single_label(task, drop):
    features = np.zeros((32, 1, 1, 1), np.float16)
    features[10] = 3
    values = occlusion_evidence(features, seconds(32), Responds(), task, timesteps=32).values
    assert values.shape == (1, 16)
    assert values[0, 5] == pytest.approx(drop)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("windows", [16, 40, 160])
def test_sixteen_superframes_are_hidden_one_by_one(windows):
    features = np.zeros((windows, 1, 1, 1), np.float16)
    lit = uniform_windows(windows, 16)[11]
    features[lit] = 1
    network = nn.Sequential(nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten())  # the mean over the 16
    evidence = occlusion_evidence(features, seconds(windows), network, "multi-label", timesteps=16)
    expected = np.full(16, -1 / windows / 16)
    expected[11] += 1 / 16
    np.testing.assert_allclose(evidence.values[0], expected, atol=1e-7)
    assert evidence.times[11, 0] <= seconds(windows)[lit, 0] < evidence.times[11, 1]


def test_a_single_window_has_nothing_to_be_told_from():
    features = np.full((1, 2, 1, 1), 3, np.float16)
    evidence = occlusion_evidence(features, seconds(1), Responds(), "single-label", timesteps=32)
    np.testing.assert_allclose(evidence.values, [[0], [0]], atol=1e-6)
    assert evidence.times.tolist() == [[0, 8 / 25]]


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
    # The middle window stands 10 times among the 32, the others 11 times; the mean is 1.
    np.testing.assert_allclose(evidence.values, [[-11, 30 - 10, -11], [0, 0, 0]], atol=1e-6)
