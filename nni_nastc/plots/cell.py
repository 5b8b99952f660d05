"""The found cell as a graph, as the paper draws it (Fig. 4b).

The nodes stand on a staircase. An operation stands left of the node that adds it, in a lane of its own; its line leaves
the source on the right, falls, and turns into the lane. The nodes' outputs run right through rows that nothing else
uses. So no label can lie on another one, whatever the cell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from nni_nastc.genotype import NUM_INPUTS, Genotype
from nni_nastc.plots.style import INK, OPERATION_COLOURS, SOURCE_NAMES, ink_on, save

# Lengths in the units of the drawing; a unit is INCHES on paper.
INCHES = 0.66
COLUMN, ROW = 3.15, 1.15
BOX = 0.46  # half the side of a node
LANE = 0.27  # from the middle of a node to either of its lanes
PILL_WIDTH, PILL_HEIGHT = 1.3, 0.42
PILL_GAP = 0.34  # from a pill to its node: room for the arrow head
TRUNK = 0.28  # from a node to the line that falls from it
CORNER = 0.2
LINE = "#808080"
TINT = "#e8eef4"  # inputs and output

Point = tuple[float, float]


def draw_cell(genotype: Genotype, path: Path | str) -> None:
    """Draw a cell to a file.

    Parameters
    ----------
    genotype : Genotype
        The cell.
    path : Path or str
        A ``.png``, ``.pdf`` or ``.svg`` file. Written whole or not at all.
    """
    save(cell_figure(genotype), path)


def cell_figure(genotype: Genotype) -> Figure:
    """Draw a cell: inputs, nodes, output, and every operation on its edge."""
    sources, output_x = _positions(len(genotype.nodes))
    figure, axes = _canvas(output_x + BOX, -sources[-1][1])
    for number, (x, y) in enumerate(sources):
        colour = TINT if number < NUM_INPUTS else "white"
        _box(axes, (x - BOX, y - BOX), 2 * BOX, 2 * BOX, SOURCE_NAMES[number], colour)
    for number, node in enumerate(genotype.nodes):
        _operations(axes, sources, number + NUM_INPUTS, node)
        x, y = sources[number + NUM_INPUTS]
        _arrow(axes, (x + BOX, y), (output_x - BOX, y))
    top, bottom = sources[NUM_INPUTS][1] + BOX, sources[-1][1] - BOX
    _box(axes, (output_x - BOX, bottom), 2 * BOX, top - bottom, "$I_k$", TINT)
    return figure


def _positions(num_nodes: int) -> tuple[list[Point], float]:
    """Return the middles of the inputs and nodes, and the x of the output."""
    inputs = [(0.0, -row * ROW) for row in range(NUM_INPUTS)]
    nodes = [((j + 1) * COLUMN + TRUNK, -(j + NUM_INPUTS) * ROW) for j in range(num_nodes)]
    return inputs + nodes, nodes[-1][0] + 1.8


def _trunk(sources: list[Point], source: int) -> float:
    """Return the x at which the lines of a source fall; I_{k-2}, the upper input, falls right of I_{k-1}."""
    return sources[source][0] + BOX + TRUNK * (2 if source == 0 else 1)


def _canvas(right: float, depth: float) -> tuple[Figure, Axes]:
    margin = 0.3
    left, width, height = -BOX - margin, right + BOX + 2 * margin, depth + 2 * BOX + 2 * margin
    figure = Figure(figsize=(width * INCHES, height * INCHES))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(left, left + width), ylim=(BOX + margin - height, BOX + margin))
    return figure, axes


def _operations(axes: Axes, sources: list[Point], number: int, node: tuple[tuple[str, int], ...]) -> None:
    """Draw the lines, pills and arrows that lead into one node."""
    x, y = sources[number]
    # The line that falls furthest left turns into the lower lane, so that the two do not cross.
    ordered = sorted(node, key=lambda pair: _trunk(sources, pair[1]), reverse=True)
    for lane, (name, source) in zip((y + LANE, y - LANE), ordered, strict=True):
        right = x - BOX - PILL_GAP
        _line(axes, sources, source, (right - PILL_WIDTH, lane))
        _arrow(axes, (right, lane), (x - BOX, lane))
        _pill(axes, right - PILL_WIDTH / 2, lane, name)


def _line(axes: Axes, sources: list[Point], source: int, end: Point) -> None:
    """Draw a line from a source: right, down, round the corner, and right to ``end``."""
    x, y = sources[source]
    trunk = _trunk(sources, source)
    vertices = [
        (x + BOX, y), (trunk - CORNER, y), (trunk, y), (trunk, y - CORNER),
        (trunk, end[1] + CORNER), (trunk, end[1]), (trunk + CORNER, end[1]), end,
    ]  # fmt: skip
    turn = [Curve.LINETO, Curve.CURVE3, Curve.CURVE3]
    codes = [Curve.MOVETO, *turn, *turn, Curve.LINETO]
    # The white rim makes a crossing look like a bridge. The rims of one source lie below all of its lines.
    for colour, width, level in (("white", 5.0, 0.0), (LINE, 1.5, 0.5)):
        style = {"facecolor": "none", "edgecolor": colour, "linewidth": width, "capstyle": "butt"}
        axes.add_patch(PathPatch(Curve(vertices, codes), zorder=2 + source + level, **style))


def _arrow(axes: Axes, start: Point, end: Point) -> None:
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0, "joinstyle": "miter"}
    axes.add_patch(FancyArrowPatch(start, end, color=LINE, linewidth=1.5, zorder=9, **style))


def _pill(axes: Axes, x: float, y: float, name: str) -> None:
    """Draw the name of an operation on a pill of its colour."""
    colour = OPERATION_COLOURS[name]
    corner = (x - PILL_WIDTH / 2, y - PILL_HEIGHT / 2)
    _rounded(axes, corner, PILL_WIDTH, PILL_HEIGHT, PILL_HEIGHT / 2, facecolor=colour, edgecolor="none")
    axes.text(x, y - 0.01, name, color=ink_on(colour), fontsize=9, ha="center", va="center", zorder=11)


def _box(axes: Axes, corner: Point, width: float, height: float, label: str, colour: str) -> None:
    """Draw an input, a node or the output."""
    _rounded(axes, corner, width, height, 0.12, facecolor=colour, edgecolor=INK, linewidth=1.2)
    x, y = corner[0] + width / 2, corner[1] + height / 2
    axes.text(x, y, label, color=INK, fontsize=12, ha="center", va="center", zorder=11)


def _rounded(axes: Axes, corner: Point, width: float, height: float, radius: float, **style: Any) -> None:
    style["boxstyle"] = f"round,pad=0,rounding_size={radius}"
    axes.add_patch(FancyBboxPatch(corner, width, height, zorder=10, **style))
