"""Frame arithmetic against tables and against its formula written another way."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from nni_nastc.features.superframes import num_windows, random_windows, uniform_windows

SIZES = [(w, t) for w in (1, 2, 3, 7, 8, 31, 32, 33, 64, 100, 1000) for t in (1, 2, 3, 8, 32, 64)]


def segment_members(windows: int, timesteps: int) -> list[list[int]]:
    """Return the windows of each segment, by the definition, with exact fractions."""
    members: list[list[int]] = [[] for _ in range(timesteps)]
    for window in range(windows):
        members[floor(Fraction(window * timesteps, windows))].append(window)
    return members


@pytest.mark.parametrize(
    ("frames", "windows"), [(0, 0), (7, 0), (8, 1), (9, 1), (15, 1), (16, 2), (36, 4), (103, 12), (280, 35), (300, 37)]
)
def test_num_windows(frames, windows):
    assert num_windows(frames) == windows


@pytest.mark.parametrize(
    ("windows", "timesteps", "expected"),
    [
        (1, 1, [0]),
        (1, 4, [0, 0, 0, 0]),
        (4, 4, [0, 1, 2, 3]),
        (8, 4, [1, 3, 5, 7]),
        (10, 4, [1, 3, 6, 8]),
        (9, 3, [1, 4, 7]),
        (3, 1, [1]),
        (2, 4, [0, 0, 1, 1]),
        (3, 4, [0, 1, 1, 2]),
        (37, 2, [9, 27]),
    ],
)
def test_uniform_windows_table(windows, timesteps, expected):
    assert uniform_windows(windows, timesteps).tolist() == expected


@pytest.mark.parametrize(("windows", "timesteps"), SIZES)
def test_uniform_windows_is_the_formula_in_exact_fractions(windows, timesteps):
    expected = [floor((s + Fraction(1, 2)) * windows / timesteps) for s in range(timesteps)]
    assert uniform_windows(windows, timesteps).tolist() == expected


@pytest.mark.parametrize(("windows", "timesteps"), [(w, t) for w, t in SIZES if w >= 2 * t or w == t])
def test_uniform_window_lies_in_its_segment(windows, timesteps):
    """With T < W < 2 T a segment's middle may fall into the window before its first."""
    members = segment_members(windows, timesteps)
    assert all(w in own for w, own in zip(uniform_windows(windows, timesteps).tolist(), members, strict=True))


@pytest.mark.parametrize(("windows", "timesteps"), [(4, 4), (10, 4), (37, 8), (33, 32), (100, 7)])
def test_random_windows_reach_every_window_of_their_segment_and_no_other(windows, timesteps):
    rng = np.random.default_rng(0)
    draws = np.stack([random_windows(windows, timesteps, rng) for _ in range(1000)])
    for segment, own in enumerate(segment_members(windows, timesteps)):
        assert sorted(set(draws[:, segment].tolist())) == own, f"segment {segment} of {windows} / {timesteps}"


def test_random_windows_are_uniform_within_a_segment():
    rng = np.random.default_rng(0)
    draws = np.concatenate([random_windows(10, 1, rng) for _ in range(10_000)])
    counts = np.bincount(draws, minlength=10)
    assert counts.min() > 850, counts
    assert counts.max() < 1150, counts


@pytest.mark.parametrize(("windows", "timesteps"), [(1, 8), (3, 4), (31, 32)])
def test_short_videos_repeat_windows_evenly(windows, timesteps):
    drawn = random_windows(windows, timesteps, np.random.default_rng(0))
    assert drawn.tolist() == uniform_windows(windows, timesteps).tolist()
    counts = np.bincount(drawn, minlength=windows)
    assert counts.max() - counts.min() <= 1


def test_random_windows_depend_on_the_generator_alone():
    first, again, other = (random_windows(500, 32, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("windows", "timesteps", "name"), [(0, 4, "num_windows"), (4, 0, "timesteps"), (-1, 4, "num_windows")]
)
def test_sizes_below_one_are_refused(windows, timesteps, name):
    with pytest.raises(ValueError, match=f"{name}.*at least 1: given {min(windows, timesteps)}"):
        uniform_windows(windows, timesteps)
    with pytest.raises(ValueError, match=name):
        random_windows(windows, timesteps, np.random.default_rng(0))


def test_negative_frames_are_refused():
    with pytest.raises(ValueError, match="given -1"):
        num_windows(-1)
