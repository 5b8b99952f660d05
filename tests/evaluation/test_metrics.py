from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from nni_nastc.errors import DataError
from nni_nastc.evaluation.metrics import accuracy, mean_average_precision


def charades_average_precision(confidence, labels):
    """Average precision of one class, line by line as Charades_v1_classify.m, with lists and loops only."""
    positions = sorted(range(len(confidence)), key=lambda i: -confidence[i])  # Python's sort is stable
    positives = sum(1 for label in labels if label == 1)
    if positives == 0:
        return None
    true_positives, false_positives, total = 0, 0, 0.0
    for position in positions:
        if labels[position] == 1:
            true_positives += 1
            total += true_positives / (true_positives + false_positives)
        else:
            false_positives += 1
    return total / positives


def charades_map(scores, labels):
    """Values of the classes (None without positives) and their mean."""
    values = [charades_average_precision(list(scores[:, k]), list(labels[:, k])) for k in range(scores.shape[1])]
    known = [value for value in values if value is not None]
    return values, sum(known) / len(known)


def random_case(seed, videos, classes, levels=None, positive_share=0.2):
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((videos, classes))
    if levels:
        scores = np.floor(scores * levels) / levels
    return scores, (rng.random((videos, classes)) < positive_share).astype(np.int64)


@pytest.mark.parametrize("levels", [None, 1, 2, 10], ids=["no ties", "many ties", "ties", "few ties"])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_plain_loops(seed, levels):
    scores, labels = random_case(seed, videos=60, classes=15, levels=levels, positive_share=0.05)
    values, mean = charades_map(scores, labels)
    result = mean_average_precision(scores, labels)
    assert abs(result.mean_ap - mean) < 1e-9, f"mean {result.mean_ap}, loops {mean}"
    for k, value in enumerate(values):
        if value is None:
            assert k in result.left_out, f"class {k} has no positive, left out are {result.left_out}"
            assert np.isnan(result.per_class[k]), f"class {k} has no positive, got {result.per_class[k]}"
        else:
            assert abs(result.per_class[k] - value) < 1e-9, f"class {k}: {result.per_class[k]}, loops {value}"
    assert len(result.left_out) == values.count(None)


@pytest.mark.parametrize("seed", range(3))
def test_equals_sklearn_without_ties(seed):
    scores, labels = random_case(seed, videos=200, classes=9)
    result = mean_average_precision(scores, labels)
    expected = [average_precision_score(labels[:, k], scores[:, k]) for k in range(9)]
    np.testing.assert_allclose(result.per_class, expected, rtol=0, atol=1e-12)
    assert result.mean_ap == pytest.approx(average_precision_score(labels, scores, average="macro"), abs=1e-12)


def test_ties_keep_the_order_of_the_input():
    scores = np.zeros((4, 2))
    labels = np.array([[1, 0], [0, 0], [0, 0], [0, 1]])
    assert mean_average_precision(scores, labels).per_class.tolist() == [1.0, 0.25]


def test_all_equal_scores():
    labels = np.array([[0], [1], [0], [1], [1]])
    result = mean_average_precision(np.full((5, 1), 0.3), labels)
    assert result.mean_ap == pytest.approx((1 / 2 + 2 / 4 + 3 / 5) / 3, abs=1e-12)


def test_one_video():
    result = mean_average_precision(np.array([[0.1, 0.9, 0.5]]), np.array([[1, 0, 1]]))
    assert result.mean_ap == 1.0
    assert result.left_out == (1,)
    assert isinstance(result.mean_ap, float)


def test_a_perfect_and_a_reversed_ranking():
    labels = np.array([[1], [1], [0], [0]])
    assert mean_average_precision(np.array([[4.0], [3], [2], [1]]), labels).mean_ap == 1.0
    reversed_ranking = mean_average_precision(np.array([[1.0], [2], [3], [4]]), labels)
    assert reversed_ranking.mean_ap == pytest.approx((1 / 3 + 2 / 4) / 2, abs=1e-12)


def test_it_is_no_mean_over_batches():
    scores, labels = random_case(3, videos=64, classes=6)
    batches = [mean_average_precision(scores[i : i + 8], labels[i : i + 8]).mean_ap for i in range(0, 64, 8)]
    assert abs(np.mean(batches) - mean_average_precision(scores, labels).mean_ap) > 0.05


@pytest.mark.parametrize("kind", [bool, np.float32, np.uint8])
def test_labels_of_any_number_type(kind):
    scores, labels = random_case(0, videos=30, classes=4)
    assert mean_average_precision(scores, labels.astype(kind)).mean_ap == mean_average_precision(scores, labels).mean_ap


def test_infinite_scores_rank_first_and_last():
    scores = np.array([[-np.inf], [np.inf], [0.0]])
    assert mean_average_precision(scores, np.array([[1], [0], [0]])).mean_ap == pytest.approx(1 / 3)


NAN = np.array([[0.1, 0.2], [0.3, np.nan]])
MAP_ERRORS = [
    (NAN, np.ones((2, 2)), r"got 1 NaN, first at video 1, class 1"),
    (np.zeros((3, 2)), np.ones((2, 3)), r"shape of the scores \(3, 2\), got \(2, 3\)"),
    (np.zeros(3), np.ones(3), r"got shape \(3,\)"),
    (np.zeros((0, 2)), np.ones((0, 2)), r"got shape \(0, 2\)"),
    (np.zeros((2, 1)), np.array([[0], [2]]), "0 or 1, got 2"),
    (np.zeros((2, 1)), np.array([[0.5], [1]]), "0 or 1, got 0.5"),
    (np.zeros((2, 3)), np.zeros((2, 3)), "no class has a positive among 2 videos"),
]


@pytest.mark.parametrize(("scores", "labels", "message"), MAP_ERRORS)
def test_map_refuses(scores, labels, message):
    with pytest.raises(DataError, match=message) as caught:
        mean_average_precision(scores, labels)
    assert "\n" not in str(caught.value)


def test_accuracy():
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.5, 0.5]])
    assert accuracy(scores, np.array([1, 0, 0, 0])) == 0.75
    assert accuracy(scores, np.array([1, 0, 0, 1])) == 0.5, "the lowest class wins a tie"
    assert accuracy(scores[:1], np.array([1])) == 1.0


ACCURACY_ERRORS = [
    (NAN, np.array([0, 1]), "got 1 NaN"),
    (np.zeros((2, 2)), np.array([[0], [1]]), r"shape \(2,\), got \(2, 1\)"),
    (np.zeros((2, 2)), np.array([0, 2]), "from 0 to 1, got 2"),
    (np.zeros((2, 2)), np.array([-1, 0]), "got -1"),
    (np.zeros((2, 2)), np.array([0.0, 1.0]), "got float64"),
]


@pytest.mark.parametrize(("scores", "labels", "message"), ACCURACY_ERRORS)
def test_accuracy_refuses(scores, labels, message):
    with pytest.raises(DataError, match=message):
        accuracy(scores, labels)
