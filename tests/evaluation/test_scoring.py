"""Probabilities and log-odds of logits, against decimal numbers of 800 digits."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch

from nni_nastc.evaluation.scoring import log_odds, probabilities

LOGITS = torch.tensor([[0.5, -1.25, 2.0], [30.0, 1.0, 7.0], [-400.0, 380.0, 0.25], [5.0, 5.0, 5.0]])


def exact(task: str, row: list[float]) -> list[float]:
    """Take the log of p / (1 - p)."""
    with localcontext() as context:
        context.prec = 800  # e^-780 next to 1
        powers = [Decimal(x).exp() for x in row]
        ps = [x / sum(powers) for x in powers] if task == "single-label" else [x / (1 + x) for x in powers]
        return [float((p / (1 - p)).ln()) for p in ps]


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_log_odds_are_exact_where_probabilities_are_0_or_1(task):
    odds = log_odds(task, LOGITS)
    assert odds.dtype == torch.float64
    np.testing.assert_allclose(odds.numpy(), [exact(task, row) for row in LOGITS.tolist()], rtol=1e-14)
    assert probabilities(task, LOGITS)[2, 1] == 1


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_probabilities_are_the_sigmoid_of_log_odds(task):
    np.testing.assert_allclose(log_odds(task, LOGITS).sigmoid(), probabilities(task, LOGITS.double()), rtol=1e-12)


def test_the_only_class_of_a_single_label_is_certain():
    assert log_odds("single-label", torch.tensor([[-3.0], [2.0]])).tolist() == [[np.inf], [np.inf]]
    assert log_odds("multi-label", torch.tensor([[-3.0], [2.0]])).tolist() == [[-3], [2]]
