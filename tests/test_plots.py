"""Pictures: what they say, that they can be read, and that they are written whole or not at all."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from matplotlib.text import Text

from nni_nastc.errors import NastcError
from nni_nastc.genotype import EDGES, OPERATION_NAMES, SEARCHED_OPERATIONS, Genotype
from nni_nastc.plots import (
    AlphasMap,
    Curve,
    alphas_figure,
    cell_figure,
    curves_figure,
    draw_alphas,
    draw_cell,
    draw_history,
    draw_timeline,
    history_figure,
    timeline_figure,
)
from nni_nastc.plots.style import OPERATION_COLOURS

SAME_SOURCE = Genotype(
    nodes=(
        (("zero", 1), ("identity", 1)),
        (("sep_conv_7", 0), ("max_pool", 2)),
        (("sep_conv_3", 0), ("avg_pool", 3)),
        (("dil_conv_3", 0), ("dil_conv_5", 4)),
    )
)


def texts(figure) -> list[str]:
    """Every text that a figure shows."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def make_history(epochs: int) -> dict:
    """A history in which the alphas of edge e and operation o drift by (e + 1) (o + 1) an epoch, in thousandths."""
    drift = np.outer(np.arange(1, 15), np.arange(1, 10)) / 1000
    return {
        "format": "nni_nastc.history",
        "version": 1,
        "metric": "accuracy",
        "edges": [list(edge) for edge in EDGES],
        "operations": [*SEARCHED_OPERATIONS, "zero"],
        "epochs": [
            {
                "epoch": epoch,
                "train_loss": 2.0 / (epoch + 1),
                "alpha_loss": 2.5 / (epoch + 1),
                "val_loss": 2.2 / (epoch + 1),
                "val_score": 0.5 + 0.25 * epoch / epochs,
                "learning_rate": 0.025,
                "seconds": 1.0,
                "alphas": (epoch * drift).tolist(),
            }
            for epoch in range(epochs)
        ],
    }


@pytest.mark.parametrize("genotype", [Genotype.random(seed) for seed in range(5)] + [SAME_SOURCE])
def test_cell_shows_every_operation_and_node_once(genotype):
    shown = texts(cell_figure(genotype))
    assert sorted(name for name in shown if name in OPERATION_NAMES) == sorted(genotype.operations)
    names = ["$B_0$", "$B_1$", "$B_2$", "$B_3$", "$I_k$", "$I_{k-1}$", "$I_{k-2}$"]
    assert sorted(name for name in shown if "$" in name) == names


@pytest.mark.parametrize("genotype", [Genotype.random(seed) for seed in range(20)] + [SAME_SOURCE])
def test_no_label_of_the_cell_lies_on_another_or_on_the_edge(genotype):
    figure = cell_figure(genotype)
    canvas = FigureCanvasAgg(figure)
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.findobj(Text) if text.get_text()]
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    width, height = canvas.get_width_height()
    assert all(box.x0 > 0 and box.y0 > 0 and box.x1 < width and box.y1 < height for box in boxes)


def test_another_cell_is_another_picture(tmp_path):
    swapped = Genotype(nodes=(*SAME_SOURCE.nodes[:3], (("dil_conv_5", 0), ("dil_conv_3", 4))))
    moved = Genotype(nodes=(*SAME_SOURCE.nodes[:3], (("dil_conv_3", 1), ("dil_conv_5", 4))))
    pictures = []
    for number, genotype in enumerate((SAME_SOURCE, swapped, moved)):
        draw_cell(genotype, tmp_path / f"{number}.png")
        pictures.append(imread(tmp_path / f"{number}.png"))
    assert not np.array_equal(pictures[0], pictures[1]), "swapping two operations changes nothing"
    assert not np.array_equal(pictures[0], pictures[2]), "another predecessor changes nothing"


def test_every_operation_has_a_colour_of_its_own():
    assert set(OPERATION_COLOURS) == set(OPERATION_NAMES)
    colours = [np.array(to_rgb(colour)) for colour in OPERATION_COLOURS.values()]
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(colours, 2)) > 0.15


def test_alphas_are_drawn_as_softmax_weights_on_their_edge():
    figure = alphas_figure(make_history(4))
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 14
    third = next(axes for axes in panels if axes.get_title(loc="left") == r"$B_1$ $\to$ $B_2$")
    lines = {line.get_label(): line for line in third.get_lines()}
    assert set(lines) == set(OPERATION_NAMES)
    edge = EDGES.index((2, 3))
    powers = np.exp(3 * (edge + 1) * np.arange(1, 10) / 1000)
    assert lines["identity"].get_ydata()[-1] == pytest.approx(powers[0] / powers.sum(), rel=1e-12)
    assert lines["zero"].get_ydata()[-1] == pytest.approx(powers[8] / powers.sum(), rel=1e-12)
    assert lines["zero"].get_ydata()[0] == pytest.approx(1 / 9)
    assert list(lines["zero"].get_xdata()) == [1, 2, 3, 4]


def test_alphas_mark_the_edges_that_the_cell_keeps():
    genotype = Genotype.random(3)
    titles = [axes.get_title(loc="left") for axes in alphas_figure(make_history(2), genotype=genotype).axes]
    kept = sorted(title.split(": ")[1] for title in titles if ": " in title)
    assert kept == sorted(genotype.operations)


def test_history_shows_losses_and_the_last_score():
    figure = history_figure(make_history(4))
    losses, score = figure.axes
    assert [line.get_label() for line in losses.get_lines()] == ["training", "alphas", "validation"]
    assert losses.get_lines()[0].get_ydata()[-1] == pytest.approx(0.5)
    assert "68.8 %" in texts(figure)
    assert score.get_title(loc="left") == "validation accuracy"


def test_history_of_a_training_without_validation_has_one_panel():
    history = make_history(2)
    for epoch in history["epochs"]:
        del epoch["val_score"], epoch["val_loss"], epoch["alpha_loss"]
    (losses,) = history_figure(history).axes
    assert [line.get_label() for line in losses.get_lines()] == ["training"]


@pytest.mark.parametrize("draw", [draw_alphas, draw_history])
def test_a_history_without_epochs_is_refused(draw, tmp_path):
    with pytest.raises(NastcError, match="no epoch yet"):
        draw({**make_history(1), "epochs": []}, tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_timeline_shows_each_class_and_each_stretch_at_its_time():
    evidence = np.array([[0.4, -0.1, 0.0], [0.0, 0.2, 0.1]])
    times = np.array([[0.0, 40.0], [40.0, 80.0], [80.0, 125.0]])
    figure = timeline_figure(["make $tea$", "fry"], evidence, times, "a_$b.mp4")
    FigureCanvasAgg(figure).draw()  # writes the tick labels
    shown = texts(figure)
    assert {"make $tea$", "fry", "a_$b.mp4"} <= set(shown)
    assert "1:00" in shown
    assert "2:00" in shown
    assert any("log-odds that this stretch adds" in text for text in shown), shown
    bars = figure.axes[0].patches
    assert [bar.get_height() for bar in bars] == pytest.approx([0.4, -0.1, 0.0])
    assert [bar.get_x() for bar in bars] == [0, 40, 80]
    assert [bar.get_width() for bar in bars] == [40, 40, 45]
    assert bars[0].get_facecolor() != bars[1].get_facecolor(), "for and against look the same"


def test_timeline_of_next_to_nothing_looks_like_it():
    figure = timeline_figure(["a"], np.array([[1e-6, -1e-6]]), np.array([[0, 1], [1, 2]]))
    assert figure.axes[0].get_ylim()[1] > 0.05, "noise fills the picture"


def test_timeline_refuses_shapes_that_do_not_fit():
    with pytest.raises(NastcError, match=r"\(2, 3\) and \(2, 2\) for 2 classes"):
        timeline_figure(["a", "b"], np.zeros((2, 3)), np.zeros((2, 2)))


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_pictures_are_files_of_their_format(suffix, tmp_path):
    magic = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[suffix]
    history = make_history(3)
    draw_cell(SAME_SOURCE, tmp_path / f"cell{suffix}")
    draw_alphas(history, tmp_path / f"alphas{suffix}")
    draw_history(history, tmp_path / f"history{suffix}")
    draw_timeline(["a"], np.ones((1, 2)), np.array([[0, 1], [1, 2]]), tmp_path / f"timeline{suffix}")
    written = sorted(tmp_path.iterdir())
    assert [path.stem for path in written] == ["alphas", "cell", "history", "timeline"]
    for path in written:
        assert path.read_bytes().startswith(magic), path
        assert 2_000 < path.stat().st_size < 400_000, path
    if suffix == ".png":
        height, width = imread(tmp_path / "cell.png").shape[:2]
        assert 1200 < width < 2400
        assert 500 < height < width


def test_other_formats_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(NastcError, match=r"\.png, \.pdf, \.svg file, got 'cell\.bmp'"):
        draw_cell(SAME_SOURCE, tmp_path / "cell.bmp")
    with pytest.raises(NastcError, match="no such folder"):
        draw_cell(SAME_SOURCE, tmp_path / "nowhere" / "cell.png")
    assert not list(tmp_path.iterdir())


def test_drawing_leaves_pyplot_alone():
    code = "import nni_nastc.plots, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_map_of_alphas_shows_the_weights_of_each_epoch():
    """A row an edge, a column an operation: only where weights change does the picture change."""
    alphas = np.zeros((14, 3))
    alphas[11, 1] = 3.0
    drawn = AlphasMap([list(edge) for edge in EDGES], ["identity", "max_pool", "zero"])
    axes = drawn.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["identity", "max_pool", "zero"]
    assert axes.get_yticklabels()[2].get_text() == "I_k-2 \u2192 B1"
    even = drawn.image(np.zeros((14, 3)).tolist())
    image = drawn.image(alphas.tolist())
    shown = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shown[11], np.exp([0, 3, 0]) / np.exp([0, 3, 0]).sum())
    np.testing.assert_allclose(shown[0], 1 / 3)
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    changed = np.argwhere((image != even).any(axis=-1))
    top, bottom = (axes.transAxes.transform((0, share))[1] for share in (1 - 11 / 14, 1 - 12 / 14))
    height = image.shape[0]
    assert height - top - 1 <= changed[:, 0].min() < changed[:, 0].max() <= height - bottom + 1, "the row of the edge"
    np.testing.assert_array_equal(drawn.image(np.zeros((14, 3))), even)


def test_curves_and_the_points_of_others():
    curves = [
        Curve("ours", [(0, 1.0), (1, 3.0)], "a"),
        Curve("ours (published)", [(1, 2.5)], "a", points=True),
        Curve("theirs", [(0, 2.0), (1, 4.0)], "b"),
    ]
    figure = curves_figure(curves, x_label="layers", y_label="parameters")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert lines["ours"].get_color() == lines["ours (published)"].get_color() != lines["theirs"].get_color()
    assert lines["ours (published)"].get_linestyle() == "None"
    assert lines["theirs"].get_xydata().tolist() == [[0, 2], [1, 4]]
    assert axes.get_ylim()[0] == 0
    assert {"ours", "ours (published)", "theirs", "layers", "parameters"} <= set(texts(figure))
