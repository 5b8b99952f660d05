"""Which superframes of a video are drawn: pure arithmetic.

A superframe is a window of 8 consecutive frames; a video of F frames has W = floor(F / 8) of them that do not overlap.
A draw splits the video into T segments of equal length and takes one superframe of each: window w belongs to segment
floor(w T / W). (NAS-TC, section IV; storing all windows of the 8-frame grid and drawing from them is our choice.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SUPERFRAME_LENGTH = 8
"""Frames in a superframe."""


def num_windows(num_frames: int) -> int:
    """Return W, the number of whole superframes of a video; the remaining frames at its end are left out.

    Parameters
    ----------
    num_frames : int
        Frames of the video.
    """
    if num_frames < 0:
        raise ValueError(f"num_frames must be at least 0: given {num_frames}")
    return num_frames // SUPERFRAME_LENGTH


def uniform_windows(num_windows: int, timesteps: int) -> NDArray[np.int64]:
    """Return the middle window of each segment.

    Parameters
    ----------
    num_windows : int
        W, the windows of the video.
    timesteps : int
        T, the segments.

    Returns
    -------
    ndarray
        (T,) floor((s + 0.5) W / T) for each segment s. With W < T windows repeat, evenly.
    """
    _check(num_windows, timesteps)
    segments = np.arange(timesteps, dtype=np.int64)
    return (2 * segments + 1) * num_windows // (2 * timesteps)


def random_windows(num_windows: int, timesteps: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw one window of each segment, all of a segment's windows with the same probability.

    Parameters
    ----------
    num_windows : int
        W, the windows of the video.
    timesteps : int
        T, the segments.
    rng : numpy.random.Generator
        Where the randomness comes from.

    Returns
    -------
    ndarray
        (T,) in ascending order. With W < T there are segments without a window: then as :func:`uniform_windows`.
    """
    _check(num_windows, timesteps)
    if num_windows < timesteps:
        return uniform_windows(num_windows, timesteps)
    # The first window of segment s is the smallest w with floor(w T / W) = s, which is ceil(s W / T).
    bounds = -(-np.arange(timesteps + 1, dtype=np.int64) * num_windows // timesteps)
    return rng.integers(bounds[:-1], bounds[1:])


def _check(num_windows: int, timesteps: int) -> None:
    for name, value in (("num_windows", num_windows), ("timesteps", timesteps)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1: given {value}")
