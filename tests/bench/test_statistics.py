"""Which differences are more than noise: known cases, nominal rates, and the parts against other implementations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_ind
from sklearn.metrics import average_precision_score

from nni_nastc.bench.statistics import MethodScores, compare, holm, weighted_accuracy, weighted_mean_ap
from nni_nastc.evaluation.metrics import accuracy, mean_average_precision


def single_label(rng: np.random.Generator, videos: int, chances: list[float], hard: np.ndarray) -> MethodScores:
    """Scores of a method that is right with some chance a seed, less so on hard videos."""
    targets = np.arange(videos) % 4
    right = rng.random((len(chances), videos)) < np.clip(np.array(chances)[:, None] + hard, 0, 1)
    answers = np.where(right, targets, (targets + 1) % 4)
    return MethodScores(np.eye(4)[answers], targets)


def multi_label(rng: np.random.Generator, videos: int, signal: float, common: np.ndarray) -> MethodScores:
    """Scores of three seeds that follow the labels with some strength, and share noise with other methods."""
    targets = (np.arange(videos)[:, None] % np.array([2, 3, 4]) == 0).astype(int)
    noise = 0.6 * common + rng.normal(size=(3, videos, 3))
    return MethodScores(signal * targets + noise, targets)


def test_equal_weights_give_the_usual_scores():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((30, 5)).round(1), rng.random((30, 5)) < 0.3
    labels[:, 3] = False
    ones = np.full((1, 30), 0.7)
    assert weighted_mean_ap(scores, labels, ones)[0] == pytest.approx(mean_average_precision(scores, labels).mean_ap)
    classes = rng.integers(0, 5, 30)
    assert weighted_accuracy(scores, classes, ones)[0] == pytest.approx(accuracy(scores, classes))


def test_weighted_precision_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    scores, labels, weights = rng.random((25, 3)), rng.random((25, 3)) < 0.4, rng.exponential(size=(4, 25))
    expected = [
        np.mean([average_precision_score(labels[:, k], scores[:, k], sample_weight=row) for k in range(3)])
        for row in weights
    ]
    assert weighted_mean_ap(scores, labels, weights) == pytest.approx(expected)


def test_variance_over_videos_is_that_of_a_paired_t_test():
    """Seeds that agree leave the videos alone: then it is the t test of the differences of the videos."""
    rng = np.random.default_rng(2)
    first, second = (single_label(rng, 80, [chance], np.zeros(80)) for chance in (0.8, 0.6))
    twice = {name: MethodScores(np.repeat(m.scores, 2, 0), m.targets) for name, m in (("a", first), ("b", second))}
    (test,) = compare(twice, replicates=4000)
    hits = [(m.scores[0].argmax(1) == m.targets).astype(float) for m in (first, second)]
    difference = hits[0] - hits[1]
    error = difference.std(ddof=1) / np.sqrt(80)
    assert test.difference == pytest.approx(difference.mean())
    assert (test.high - test.low) / 2 == pytest.approx(1.9905 * error, rel=0.05), "t of 79 degrees at 97.5 %"


def test_variance_over_seeds_is_that_of_welch():
    """A hundred thousand videos leave the seeds alone."""
    rng = np.random.default_rng(3)
    chances = [[0.9, 0.5, 0.7], [0.5, 0.8, 0.55]]
    first, second = (single_label(rng, 100_000, values, np.zeros(100_000)) for values in chances)
    (test,) = compare({"a": first, "b": second}, replicates=20)
    assert test.p == pytest.approx(ttest_ind(first.by_seed, second.by_seed, equal_var=False).pvalue, abs=0.005)
    assert test.p > 0.3, "seeds differ by more than the methods"


@pytest.mark.parametrize("shared", [0.0, 0.5], ids=["seeds alike", "seeds differ"])
def test_equal_methods_differ_at_most_at_the_nominal_rate(shared):
    rng = np.random.default_rng(4)
    found = []
    for _ in range(300):
        hard = 0.3 * rng.choice([-1, 1], 60)
        chances = 0.6 + 0.2 * shared * rng.normal(size=(2, 3))
        methods = {name: single_label(rng, 60, list(chances[k]), hard) for k, name in enumerate("ab")}
        found += [compare(methods, replicates=100)[0].p < 0.05]
    assert 0.003 <= np.mean(found) <= 0.08, f"{np.mean(found):.3f} of 300 pairs of equal methods"


def test_clear_differences_are_found():
    rng = np.random.default_rng(5)
    hard = 0.2 * rng.choice([-1, 1], 60)
    methods = {name: single_label(rng, 60, [c] * 3, hard) for name, c in (("a", 0.5), ("b", 0.8), ("c", 0.79))}
    tests = {(test.first, test.second): test for test in compare(methods)}
    assert list(tests) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert tests["a", "b"].p < 0.01
    assert tests["a", "b"].high < 0
    assert tests["b", "c"].p > 0.1
    against = compare(methods, against="b")
    assert [(test.first, test.second) for test in against] == [("b", "a"), ("b", "c")]
    assert against[0].difference == pytest.approx(-tests["a", "b"].difference)


def test_mean_average_precision_is_tested_alike():
    rng = np.random.default_rng(6)
    common = rng.normal(size=(40, 3))
    methods = {name: multi_label(rng, 40, s, common) for name, s in (("weak", 0.3), ("strong", 3), ("same", 3))}
    weak, same = (compare(methods, against="strong", replicates=200)[k] for k in (0, 1))
    assert weak.p < 0.001
    assert weak.difference > 0.2
    assert same.p > 0.05


def test_methods_that_say_the_same():
    one = single_label(np.random.default_rng(7), 20, [0.5, 0.5], np.zeros(20))
    (test,) = compare({"a": one, "b": one})
    assert (test.difference, test.p) == (0, 1) or (test.difference == 0 and test.p > 0.99)
    right = MethodScores(np.eye(2)[[[0, 1, 0]] * 2], np.array([0, 1, 0]))
    wrong = MethodScores(np.eye(2)[[[1, 0, 1]] * 2], np.array([0, 1, 0]))
    (test,) = compare({"right": right, "wrong": wrong})
    assert (test.difference, test.low, test.high, test.p) == (1, 1, 1, 0)
    assert compare({"a": one}) == []


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert holm([]) == []
