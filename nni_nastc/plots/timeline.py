"""The evidence for classes over the time of one video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from nni_nastc.errors import NastcError
from nni_nastc.plots.style import BLUE, INK, MUTED, VERMILION, plain_axes, save

LEGEND = (
    "time in the video; height of a bar: the log-odds that this stretch adds to the class, or below 0 takes away\n"
    "(0.7 more doubles the odds of the class, 0.7 less halves them)"
)
SMALLEST_SCALE = 0.1
"""Bars are not stretched to the full height where all are less: the odds change by a tenth at most."""


def draw_timeline(
    class_names: Sequence[str], evidence: np.ndarray, times: np.ndarray, path: Path | str, title: str = ""
) -> None:
    """Draw when a video speaks for each class.

    Parameters
    ----------
    class_names : sequence of K' str
        The rows, top to bottom.
    evidence : ndarray, (K', S)
        The natural log-odds of a class that a stretch of the video adds (above 0) or takes away (below 0).
    times : ndarray, (S, 2)
        Start and end of the stretches in seconds.
    path : Path or str
        A ``.png``, ``.pdf`` or ``.svg`` file. Written whole or not at all.
    title : str
        Written above.

    Raises
    ------
    NastcError
        If the shapes do not fit together.
    """
    save(timeline_figure(class_names, evidence, times, title), path)


def timeline_figure(class_names: Sequence[str], evidence: np.ndarray, times: np.ndarray, title: str = "") -> Figure:
    """Draw one row of bars a class, all on one scale: blue speaks for the class, vermilion against it."""
    evidence, times = np.asarray(evidence, dtype=float), np.asarray(times, dtype=float)
    if evidence.shape != (len(class_names), len(times)) or times.shape != (len(times), 2) or not evidence.size:
        raise NastcError(
            f"evidence is (classes, stretches) and times (stretches, 2): got {evidence.shape} and {times.shape} "
            f"for {len(class_names)} classes; give at least one of each"
        )
    figure = Figure(figsize=(9, 0.85 * len(class_names) + 1.0), layout="constrained")
    rows = figure.subplots(len(class_names), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, name, values in zip(rows, class_names, evidence, strict=True):
        _row(axes, name, values, times)
    rows[0].set_ylim(1.1 * min(evidence.min(), 0), 1.1 * max(evidence.max(), SMALLEST_SCALE))
    rows[0].set_xlim(times[0, 0], times[-1, 1])
    rows[-1].xaxis.set_major_formatter(FuncFormatter(_clock))
    rows[-1].xaxis.set_major_locator(MultipleLocator(_tick_step(times[-1, 1] - times[0, 0])))
    figure.supxlabel(LEGEND, fontsize=9, color=MUTED)
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left", parse_math=False)
    return figure


def _row(axes: Axes, name: str, values: np.ndarray, times: np.ndarray) -> None:
    plain_axes(axes)
    axes.spines["bottom"].set_visible(False)
    colours = np.where(values >= 0, BLUE, VERMILION)
    widths = times[:, 1] - times[:, 0]
    axes.bar(times[:, 0], values, widths, align="edge", color=colours, edgecolor="white", linewidth=0.8)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_title(name, fontsize=9, color=INK, loc="left", pad=3, parse_math=False)


def _tick_step(duration_s: float) -> float:
    """Return the seconds between ticks: a round part of a minute or an hour, about ten ticks at most."""
    steps = (0.1, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
    return next((step for step in steps if duration_s / step <= 10), 7200)


def _clock(seconds: float, _: int | None = None) -> str:
    """Write seconds as m:ss, m:ss.s or h:mm:ss."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    second = f"{rest:02.0f}" if rest == int(rest) else f"{rest:04.1f}"
    return f"{hours}:{minutes:02d}:{second}" if hours else f"{minutes}:{second}"
