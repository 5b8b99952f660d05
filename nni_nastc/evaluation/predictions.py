"""From the class probabilities of single draws to one row a video."""

from __future__ import annotations

import numpy as np

from nni_nastc.errors import DataError


def average_draws(indices: np.ndarray, probabilities: np.ndarray, num_videos: int) -> np.ndarray:
    """Average the class probabilities of each video over its draws.

    The test score of a video is the mean of the scores of several random draws, taken after the sigmoid or softmax
    (told by Timeception's author in his repository's issues). The rows may come in any order, as the processes of a
    distributed evaluation deliver them.

    Parameters
    ----------
    indices : np.ndarray
        The video that each row belongs to (M,), integers from 0 to ``num_videos`` - 1.
    probabilities : np.ndarray
        Class probabilities of one draw a row (M, K).
    num_videos : int
        N, the number of videos that were evaluated.

    Returns
    -------
    np.ndarray
        (N, K) float64.

    Raises
    ------
    DataError
        If there are no rows, the shapes do not fit, an index is out of range, or the numbers of draws differ.
    """
    indices, probabilities = np.asarray(indices), np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or indices.shape != probabilities.shape[:1]:
        raise DataError(
            f"indices (M,) and probabilities (M, K) must have the same M, got {indices.shape} and {probabilities.shape}"
        )
    if len(indices) == 0:
        raise DataError("there are no scores to average; evaluate at least one video")
    if indices.min() < 0 or indices.max() >= num_videos:
        raise DataError(f"indices must be from 0 to {num_videos - 1}, got {indices.min()} to {indices.max()}")
    draws = np.bincount(indices, minlength=num_videos)
    if draws.min() == 0 or draws.min() != draws.max():
        raise DataError(
            f"every one of the {num_videos} videos needs the same number of draws, at least 1,"
            f" got {draws.min()} to {draws.max()}; evaluate the whole set, and each draw once"
        )
    total = np.zeros((num_videos, probabilities.shape[1]))
    np.add.at(total, indices, probabilities)
    return total / draws[:, None]
