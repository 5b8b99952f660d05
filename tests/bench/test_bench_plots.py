"""Pictures of a bench: what stands where."""

from __future__ import annotations

import pytest

from nni_nastc.plots import ScoredMethod
from nni_nastc.plots.bench import NAMED_CLASSES, classes_figure, score_by_size_figure, score_by_timesteps_figure

METHODS = [
    ScoredMethod("pool", 610_000, 32, 0.5, 0.02),
    ScoredMethod("pool", 610_000, 128, 0.4, 0.0),
    ScoredMethod("trn", 3_300_000, 32, 0.7, 0.01),
]


def bars(axes):
    """Name -> points, and the length of the bars above and below them."""
    found = {}
    for container in axes.containers:
        points, _, (lines,) = container.lines
        heights = [(segment[1][1] - segment[0][1]) / 2 for segment in lines.get_segments()]
        found[container.get_label()] = (points.get_xydata().tolist(), heights)
    return found


def test_scores_by_size():
    (axes,) = score_by_size_figure([METHODS[0], METHODS[2]], metric="mAP").axes
    found = bars(axes)
    assert found["pool"] == ([[0.61, 50]], [pytest.approx(2)])
    assert found["trn"] == ([[3.3, 70]], [pytest.approx(1)])
    assert "mAP" in axes.get_ylabel()


def test_scores_by_timesteps():
    figure = score_by_timesteps_figure(METHODS[::-1], metric="accuracy")
    found = bars(figure.axes[0])
    assert found["pool"][0] == [[32, 50], [128, 40]], "in the order of T"
    assert found["trn"][0] == [[32, 70]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["trn", "pool"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["32", "128"]


def test_classes():
    second = {f"class {k}": k / 20 for k in range(20)}
    first = {name: value if k >= NAMED_CLASSES + 2 else 1 - value for k, (name, value) in enumerate(second.items())}
    (axes,) = classes_figure(first, second, names=("best", "other")).axes
    x, y = axes.lines[1].get_data()
    assert x.tolist() == pytest.approx([100 * value for value in second.values()])
    assert y.tolist() == pytest.approx([100 * first[name] for name in second])
    named = {text.get_text() for text in axes.texts}
    assert named == {f"class {k}" for k in range(NAMED_CLASSES)}, "those with the largest differences"
    assert axes.get_ylabel().endswith("best")
    (axes,) = classes_figure(second, second, names=("a", "b")).axes
    assert not axes.texts, "where all are equal, none stands out"
