from __future__ import annotations

import pytest
from matplotlib.image import imread

from nni_nastc.errors import NastcError
from nni_nastc.plots import AnnotatedVideo, annotated_figure, draw_annotated
from nni_nastc.plots.annotated import LABEL_LENGTH

VIDEO = AnnotatedVideo("v1: $x_1$", 20.0, [("late", 12, 20), ("early", 1, 4), ("early", 6, 6.001), ("x" * 60, 2, 3)])


def test_a_row_a_class_in_the_order_of_time():
    (axes,) = annotated_figure([VIDEO]).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["early", "x" * (LABEL_LENGTH - 3) + "...", "late"]
    assert axes.get_title(loc="left") == "v1: $x_1$"
    assert axes.get_xlim() == (0, 20)
    spans = [[path.get_extents().x0 for path in bars.get_paths()] for bars in axes.collections]
    assert spans == [[1, 6], [2], [12]]
    shortest = axes.collections[0].get_paths()[1].get_extents()
    assert shortest.width > 0.05, "a segment that is shorter than a pixel is seen"


def test_a_panel_a_video(tmp_path):
    draw_annotated([VIDEO, AnnotatedVideo("v2", 3.0, [("a", 0, 3)])], tmp_path / "a.png")
    picture = imread(tmp_path / "a.png")
    assert picture.shape[1] == 1440
    assert picture[..., :3].std() > 0.1


@pytest.mark.parametrize(("videos", "told"), [([], "at least one video"), ([VIDEO] * 300, "300 videos do not fit")])
def test_it_refuses(videos, told):
    with pytest.raises(NastcError, match=told):
        annotated_figure(videos)
