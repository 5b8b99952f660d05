"""Scores over a whole set of videos: mean average precision (multi-label) and accuracy (single label).

Both rank or compare **all** videos at once. A mean of batch-wise average precisions is another, wrong number.
Shapes: N videos, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nni_nastc.errors import DataError


@dataclass(frozen=True)
class MeanAveragePrecision:
    """The result of :func:`mean_average_precision`.

    Attributes
    ----------
    mean_ap : float
        Mean over the classes that have a positive, in [0, 1].
    per_class : np.ndarray
        Average precision of every class (K,), float64; NaN for classes without a positive.
    left_out : tuple of int
        The classes without a positive, which the mean leaves out.
    """

    mean_ap: float
    per_class: np.ndarray
    left_out: tuple[int, ...]


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> MeanAveragePrecision:
    """Return the mean average precision as the official Charades script ``Charades_v1_classify.m`` computes it.

    For each class the videos are sorted by descending score; the average precision is the mean, over the positives,
    of the precision down to and including that positive. Equal scores keep the order of the input (the sort is
    stable, as MATLAB's), so reordering videos with equal scores may change the result: that is the official rule.

    Parameters
    ----------
    scores : np.ndarray
        Class scores (N, K), higher is more certain. Infinities are allowed, NaN is not.
    labels : np.ndarray
        0 or 1 for each video and class (N, K); integers, floats or booleans.

    Returns
    -------
    MeanAveragePrecision
        Mean, values of the classes, and the classes that have no positive and so no average precision.

    Raises
    ------
    DataError
        If the shapes differ or are empty, a score is NaN, a label is neither 0 nor 1, or no class has a positive.
    """
    scores, labels = _checked_scores(scores), np.asarray(labels)
    if labels.shape != scores.shape:
        raise DataError(
            f"labels must have the shape of the scores {scores.shape}, got {labels.shape}; give 0 or 1 for each class"
        )
    other = ~np.isin(labels, (0, 1))
    if other.any():
        raise DataError(f"labels must be 0 or 1, got {labels[other][0]}; mark the classes of a video with 1")
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(labels == 1, order, axis=0)
    precision = np.cumsum(hits, axis=0) / np.arange(1, len(hits) + 1)[:, None]
    positives = hits.sum(axis=0)
    if not positives.any():
        raise DataError(
            f"no class has a positive among {len(labels)} videos, so there is no average precision; check the labels"
        )
    per_class = np.full(scores.shape[1], np.nan)
    np.divide((precision * hits).sum(axis=0), positives, out=per_class, where=positives > 0)
    left_out = tuple(int(k) for k in np.flatnonzero(positives == 0))
    return MeanAveragePrecision(float(np.nanmean(per_class)), per_class, left_out)


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of videos whose highest score is at their class; the lowest class number wins a tie.

    Parameters
    ----------
    scores : np.ndarray
        Class scores (N, K). NaN is not allowed.
    labels : np.ndarray
        Class numbers (N,), integers from 0 to K - 1.

    Returns
    -------
    float
        Accuracy in [0, 1].

    Raises
    ------
    DataError
        If the shapes do not fit or are empty, a score is NaN, or a label is not the number of a class.
    """
    scores, labels = _checked_scores(scores), np.asarray(labels)
    if labels.shape != scores.shape[:1]:
        raise DataError(f"labels must be one class number a video, shape {scores.shape[:1]}, got {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels must be integers (class numbers), got {labels.dtype}; convert them first")
    outside = (labels < 0) | (labels >= scores.shape[1])
    if outside.any():
        raise DataError(
            f"labels must be class numbers from 0 to {scores.shape[1] - 1}, got {labels[outside][0]}; check the classes"
        )
    return float((scores.argmax(axis=1) == labels).mean())


def _checked_scores(scores: np.ndarray) -> np.ndarray:
    """Return the scores as float64 (N, K) if there are any and none is NaN."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or scores.size == 0:
        raise DataError(f"scores must be (videos, classes) with at least one of each, got shape {scores.shape}")
    broken = np.isnan(scores)
    if broken.any():
        video, label = (int(i) for i in np.argwhere(broken)[0])
        raise DataError(
            f"scores must be numbers, got {int(broken.sum())} NaN, first at video {video}, class {label};"
            " the network has diverged or its features are damaged"
        )
    return scores
