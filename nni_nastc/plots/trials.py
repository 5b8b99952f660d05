"""The scores of an experiment's trials, in their order and over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nni_nastc.errors import NastcError
from nni_nastc.plots.style import BLUE, INK, MUTED, VERMILION, plain_axes, save


def draw_trials(scores: Sequence[tuple[int, float, float]], path: Path | str, *, title: str = "") -> None:
    """Draw the scores of trials, and the best until then.

    Parameters
    ----------
    scores : sequence of (number, seconds, score)
        Trials that have a score: the number of the trial, the seconds from the start of the experiment to its end.
    path : Path or str
        A ``.png``, ``.pdf`` or ``.svg`` file. Written whole or not at all.
    title : str
        The name of the experiment.

    Raises
    ------
    NastcError
        If there are none.
    """
    save(trials_figure(scores, title=title), path)


def trials_figure(scores: Sequence[tuple[int, float, float]], *, title: str = "") -> Figure:
    """Draw the scores over the trials' numbers, and right of them over the time."""
    if not scores:
        raise NastcError("no trial has a score yet: nothing to draw; let one end")
    figure = Figure(figsize=(8.6, 3.2), layout="constrained")
    numbers, seconds, values = (np.asarray(column, dtype=float) for column in zip(*scores, strict=True))
    long = seconds.max() >= 2 * 3600
    times, unit = seconds / (3600 if long else 60), "hours" if long else "minutes"
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, places, label in ((left, numbers, "trial"), (right, times, f"{unit} from the start")):
        _panel(axes, places, values)
        axes.set_xlabel(label, fontsize=9, color=MUTED)
    left.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    left.set_title(title, fontsize=10, color=INK, loc="left")
    left.set_ylabel("validation score", fontsize=9, color=MUTED)
    left.legend(frameon=False, fontsize=9, handlelength=1.6, loc="lower right")
    return figure


def _panel(axes: Axes, places: np.ndarray, scores: np.ndarray) -> None:
    """Draw points, and the best until then as stairs."""
    order = np.argsort(places, kind="stable")
    best = np.maximum.accumulate(scores[order])
    axes.plot(places[order], best, drawstyle="steps-post", color=VERMILION, linewidth=1.6, label="best until then")
    axes.plot(places, scores, "o", color=BLUE, markersize=4, label="trial")
    plain_axes(axes)
