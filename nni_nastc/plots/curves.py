"""Curves of a few methods over a number, with single points beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nni_nastc.plots.style import BLUE, GREEN, INK, MUTED, VERMILION, plain_axes, save

COLOURS = (BLUE, VERMILION, GREEN, INK)
"""Of the groups, in the order in which they come."""


@dataclass(frozen=True)
class Curve:
    """Values of one method.

    Parameters
    ----------
    label : str
        In the legend.
    values : sequence of (float, float)
        x and y.
    group : str
        Curves of one group have one colour.
    points : bool
        Hollow points in place of a line: values that others measured.
    """

    label: str
    values: Sequence[tuple[float, float]]
    group: str
    points: bool = False


def draw_curves(curves: Sequence[Curve], path: Path | str, *, x_label: str, y_label: str) -> None:
    """Draw curves into one panel, y from zero.

    Parameters
    ----------
    curves : sequence of Curve
        Of four groups at most.
    path : Path or str
        A ``.png``, ``.pdf`` or ``.svg`` file. Written whole or not at all.
    x_label, y_label : str
        What the axes are.
    """
    save(curves_figure(curves, x_label=x_label, y_label=y_label), path)


def curves_figure(curves: Sequence[Curve], *, x_label: str, y_label: str) -> Figure:
    """Return the figure of :func:`draw_curves`."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    groups = list(dict.fromkeys(curve.group for curve in curves))
    for curve in curves:
        colour = COLOURS[groups.index(curve.group)]
        style = {"linestyle": "none", "marker": "o", "markersize": 9, "markerfacecolor": "none"}
        if not curve.points:
            style = {"linestyle": "-", "marker": "o", "markersize": 4, "linewidth": 1.6}
        x, y = zip(*curve.values, strict=True)
        axes.plot(x, y, color=colour, label=curve.label, **style)  # type: ignore[arg-type]
    plain_axes(axes)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(x_label, fontsize=9, color=MUTED)
    axes.set_title(y_label, fontsize=10, color=INK, loc="left")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure
