"""Which differences between methods are more than noise: of the seeds, and of the videos that are the test part.

The difference of two methods is that of their scores, averaged over seeds. Two things move it that have nothing to do
with the methods. Other test videos: its variance over them is that of a Bayesian bootstrap (Rubin 1981), in which all
methods and seeds see the same random weights of the videos, so that what makes a video hard for all cancels. Other
seeds: the variance of each method's scores over seeds, divided by their number. The two are added, and the
difference is compared with Student's t distribution, whose degrees of freedom are Welch's and Satterthwaite's. So a
difference counts only if new videos and new trainings would be expected to show it again. What a seed does to single
videos is in both variances: equal methods are called different less often than p says, not more. The p-values of all
pairs are corrected by Holm's rule. Which test is our choice; the paper has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import t as student

REPLICATES = 500
"""Draws of the bootstrap; the standard error that comes of it is known to some 3 %."""

SIGNIFICANCE = 0.05
"""A corrected p-value below it is called more than noise."""


@dataclass(frozen=True)
class MethodScores:
    """What one method says of the test part.

    Parameters
    ----------
    scores : array of shape (S, N, K)
        Class probabilities by seed and video.
    targets : array of shape (N,) or (N, K)
        Class numbers of single labels, or 0 and 1 for each class.
    """

    scores: np.ndarray
    targets: np.ndarray

    @property
    def by_seed(self) -> np.ndarray:
        """Accuracy or mAP of each seed (S,)."""
        return self.weighted(np.ones((1, len(self.targets))))[:, 0]

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        """Return the score of each seed (S, R) with each row of weights (R, N) of the videos."""
        score = weighted_accuracy if self.targets.ndim == 1 else weighted_mean_ap
        return np.stack([score(scores, self.targets, weights) for scores in self.scores])


@dataclass(frozen=True)
class Comparison:
    """Two methods.

    Attributes
    ----------
    first, second : str
        Their names.
    difference : float
        Score of the first minus that of the second.
    low, high : float
        The 95 % confidence interval of the difference, not corrected for the number of pairs.
    p : float
        Probability of a difference at least as large, if there is none; not corrected either.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float


def weighted_accuracy(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the accuracy with weights of the videos.

    Parameters
    ----------
    scores : np.ndarray
        Class scores (N, K).
    labels : np.ndarray
        Class numbers (N,).
    weights : np.ndarray
        A row a draw (R, N).

    Returns
    -------
    np.ndarray
        (R,)
    """
    return weights @ (scores.argmax(1) == labels) / weights.sum(1)


def weighted_mean_ap(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean average precision with weights of the videos; equal weights give the usual one.

    Parameters
    ----------
    scores, labels : np.ndarray
        Class scores, and 0 or 1 (N, K).
    weights : np.ndarray
        A row a draw (R, N).

    Returns
    -------
    np.ndarray
        (R,), means over the classes that have a positive.
    """
    known = labels.any(0)
    order = np.argsort(-scores[:, known], axis=0, kind="stable")
    hits = np.take_along_axis(labels[:, known] == 1, order, axis=0)
    values = []
    for row in weights:
        ranked = row[order]
        positive = ranked * hits
        precision = positive.cumsum(0) / ranked.cumsum(0)
        values.append(((positive * precision).sum(0) / positive.sum(0)).mean())
    return np.array(values)


def compare(
    methods: Mapping[str, MethodScores], *, against: str | None = None, replicates: int = REPLICATES, seed: int = 0
) -> list[Comparison]:
    """Compare methods in pairs.

    Parameters
    ----------
    methods : mapping
        Name -> scores on the same test videos, of at least two seeds each.
    against : str, optional
        Only pairs with this method; all pairs by default.
    replicates : int
        Draws of the bootstrap.
    seed : int
        Of the draws.

    Returns
    -------
    list of Comparison
        In the order of the methods; with ``against``, that is the first of each pair.
    """
    if len(methods) < 2:
        return []
    videos = len(next(iter(methods.values())).targets)
    weights = np.random.default_rng(seed).exponential(size=(replicates, videos))
    draws = {name: scores.weighted(weights).mean(0) for name, scores in methods.items()}
    by_seed = {name: scores.by_seed for name, scores in methods.items()}
    pairs = [(against, name) for name in methods if name != against] if against else list(combinations(methods, 2))
    return [Comparison(a, b, *_test(by_seed[a], by_seed[b], draws[a] - draws[b], videos)) for a, b in pairs]


def _test(
    first: np.ndarray, second: np.ndarray, draws: np.ndarray, videos: int
) -> tuple[float, float, float, float]:
    """Return difference, interval and p-value of scores by seed (S,) and bootstrapped differences (R,)."""
    difference = float(first.mean() - second.mean())
    # The weights' variance is a little too small, as that of a sample is without Bessel's correction.
    of_videos = draws.var(ddof=1) * (videos + 1) / max(1, videos - 1)
    variances = np.array([of_videos, first.var(ddof=1) / len(first), second.var(ddof=1) / len(second)])
    freedom = np.array([max(1, videos - 1), len(first) - 1, len(second) - 1])
    total = variances.sum()
    if total < 1e-18:  # both say the same of every video with every seed, or one is right where the other never is
        return difference, difference, difference, float(abs(difference) < 1e-9)
    degrees = total**2 / (variances**2 / freedom).sum()
    half = student.ppf(0.975, degrees) * np.sqrt(total)
    p = 2 * student.sf(abs(difference) / np.sqrt(total), degrees)
    return difference, float(difference - half), float(difference + half), float(p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down rule (1979)."""
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    factors = count - np.arange(count)
    raised = np.minimum(1, np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors))
    corrected = np.empty(count)
    corrected[order] = raised
    return corrected.tolist()
