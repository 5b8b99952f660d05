from __future__ import annotations

import numpy as np
import pytest

from nni_nastc.errors import DataError
from nni_nastc.evaluation.predictions import average_draws


def test_it_averages_each_video_whatever_the_order():
    rng = np.random.default_rng(0)
    draws = rng.random((10, 7, 3))
    order = rng.permutation(70)
    indices = np.tile(np.arange(7), 10)[order]
    averaged = average_draws(indices, draws.reshape(70, 3)[order], 7)
    expected = [[sum(draws[d, n, k] for d in range(10)) / 10 for k in range(3)] for n in range(7)]
    np.testing.assert_allclose(averaged, expected, rtol=1e-12)
    assert averaged.dtype == np.float64


def test_one_draw_is_the_draw():
    averaged = average_draws(np.array([1, 0]), np.array([[0.25, 0.75], [1.0, 0.0]], dtype=np.float32), 2)
    assert averaged.tolist() == [[1.0, 0.0], [0.25, 0.75]]


ERRORS = [
    ([0, 1], np.zeros((3, 2)), 2, r"got \(2,\) and \(3, 2\)"),
    ([0, 2], np.zeros((2, 2)), 2, "from 0 to 1, got 0 to 2"),
    ([-1, 0], np.zeros((2, 2)), 2, "got -1 to 0"),
    ([0, 0], np.zeros((2, 2)), 2, "got 0 to 2"),
    ([0, 0, 1], np.zeros((3, 2)), 2, "got 1 to 2"),
    ([], np.zeros((0, 2)), 0, "no scores to average"),
]


@pytest.mark.parametrize(("indices", "probabilities", "num_videos", "message"), ERRORS)
def test_it_refuses(indices, probabilities, num_videos, message):
    with pytest.raises(DataError, match=message):
        average_draws(np.array(indices, dtype=np.int64), probabilities, num_videos)
