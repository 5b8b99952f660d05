from __future__ import annotations

import numpy as np
import pytest

from nni_nastc.data.shapes import COLOURS, Motion, draw_frames

SIZE = 128


def masks(shape, seed, frames=24):
    """Where a shape covers the image: (frames, SIZE, SIZE) bool."""
    axis = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    motion = Motion.random(shape, np.random.default_rng(seed))
    return np.stack([motion.cover(axis[None, :], axis[:, None], frame) > 0 for frame in range(frames)])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("shape", range(4))
def test_shapes_stay_within_the_centre_crop(shape, seed):
    rows, columns = (np.flatnonzero(masks(shape, seed).any(axis=(0, axis))) for axis in (2, 1))
    margin = SIZE // 16  # a crop of 224 of 256 loses a sixteenth at each side
    for pixels in (rows, columns):
        assert margin <= pixels.min(), f"from pixel {pixels.min()}"
        assert pixels.max() < SIZE - margin, f"up to pixel {pixels.max()}"


def test_each_shape_moves_in_its_own_way():
    spans = []
    for shape in range(4):
        covered = masks(shape, 0)
        area = covered.sum(axis=(1, 2))
        rows = (covered.any(axis=2) * np.arange(SIZE)).max(axis=1)
        columns = (covered.any(axis=1) * np.arange(SIZE)).max(axis=1)
        spans.append((np.ptp(columns), np.ptp(rows), np.ptp(area) / area.mean()))
    disc, square, triangle, ring = spans
    assert disc[0] > 30, f"the disc moves sideways, by {disc[0]} pixels"
    assert disc[1] <= 1, f"the disc stays level, moves by {disc[1]} pixels"
    assert square[1] > 30, f"the square moves up and down, by {square[1]} pixels"
    assert square[0] <= 1
    assert triangle[2] < 0.1, f"the triangle keeps its size, changes by {triangle[2]:.2f}"
    assert 3 < triangle[0] < 25, f"the triangle turns in its place, its right end moves by {triangle[0]} pixels"
    assert ring[2] > 0.5, f"the ring grows and shrinks, by {ring[2]:.2f}"


@pytest.mark.parametrize("shape", range(4))
def test_frames_show_the_colour_of_the_part(shape):
    for seed in range(5):
        frames = np.stack(list(draw_frames([(shape, 8)], 64, np.random.default_rng(seed)))).astype(float)
        assert frames.shape == (8, 64, 64, 3)
        distances = np.linalg.norm(frames[..., None, :] - COLOURS, axis=-1)
        close = (distances < 60).sum(axis=(0, 1, 2))
        assert close.argmax() == shape, f"pixels near each colour: {close}"


def test_frames_follow_the_parts_and_the_seed():
    def draw(parts, seed):
        return np.stack(list(draw_frames(parts, 32, np.random.default_rng(seed))))

    one = draw([(0, 3), (2, 5)], 0)
    assert one.dtype == np.uint8
    assert len(one) == 8
    assert np.array_equal(one, draw([(0, 3), (2, 5)], 0))
    assert not np.array_equal(one, draw([(0, 3), (2, 5)], 1))
    assert not np.array_equal(one[3:], draw([(0, 3), (1, 5)], 0)[3:])
