"""Scores of methods against their size and against T, and class by class of two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from nni_nastc.plots.style import BLUE, FAINT, INK, MUTED, plain_axes, save

NAMED_CLASSES = 6
"""How many classes are named: those with the largest differences."""


@dataclass(frozen=True)
class ScoredMethod:
    """A point of a picture.

    Parameters
    ----------
    name : str
        Of the method.
    parameters : int
        Of its network.
    timesteps : int
        T.
    score, deviation : float
        Mean and standard deviation over seeds, in [0, 1].
    """

    name: str
    parameters: int
    timesteps: int
    score: float
    deviation: float


def draw_score_by_size(methods: Sequence[ScoredMethod], path: Path | str, *, metric: str) -> None:
    """Draw scores, with bars of one standard deviation, against millions of parameters.

    Parameters
    ----------
    methods : sequence of ScoredMethod
        All of one T.
    path : Path or str
        A ``.png``, ``.pdf`` or ``.svg`` file. Written whole or not at all.
    metric : str
        What the score is.
    """
    figure = Figure(figsize=(6.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for method, colour in zip(methods, _colours(len(methods)), strict=True):
        place, height = method.parameters / 1e6, 100 * method.score
        axes.errorbar(place, height, yerr=100 * method.deviation, fmt="o", color=colour, capsize=3, elinewidth=1.2)
        axes.annotate(method.name, (place, height), (6, 4), textcoords="offset points", fontsize=8, color=INK)
    plain_axes(axes)
    axes.margins(x=0.18, y=0.12)
    axes.set_xlabel("million parameters", fontsize=9, color=MUTED)
    axes.set_ylabel(f"{metric} (%), one deviation over seeds", fontsize=9, color=MUTED)
    save(figure, path)


def draw_score_by_timesteps(methods: Sequence[ScoredMethod], path: Path | str, *, metric: str) -> None:
    """Draw a line for each method over T, with bars of one standard deviation.

    Parameters
    ----------
    methods : sequence of ScoredMethod
        Those of one name are one line.
    path, metric
        As of :func:`draw_score_by_size`.
    """
    figure = Figure(figsize=(6.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    names = list(dict.fromkeys(method.name for method in methods))
    for name, colour in zip(names, _colours(len(names)), strict=True):
        line = sorted((m for m in methods if m.name == name), key=lambda m: m.timesteps)
        axes.errorbar(
            [m.timesteps for m in line],
            [100 * m.score for m in line],
            yerr=[100 * m.deviation for m in line],
            fmt="-o", color=colour, capsize=3, markersize=4, linewidth=1.6, label=name,
        )  # fmt: skip
    plain_axes(axes)
    axes.set_xscale("log", base=2)
    ticks = sorted({method.timesteps for method in methods})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("T, superframes of a video", fontsize=9, color=MUTED)
    axes.set_ylabel(f"{metric} (%)", fontsize=9, color=MUTED)
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def draw_classes(
    first: Mapping[str, float], second: Mapping[str, float], path: Path | str, *, names: tuple[str, str]
) -> None:
    """Draw the average precision of each class with one method against that with another.

    Parameters
    ----------
    first, second : mapping
        Class -> average precision in [0, 1], of the same classes.
    path : Path or str
        As of :func:`draw_score_by_size`.
    names : tuple of str
        Of the two methods.
    """
    figure = Figure(figsize=(5.4, 5.2), layout="constrained")
    axes = figure.add_subplot()
    classes = list(first)
    x, y = (100 * np.array([values[name] for name in classes]) for values in (second, first))
    axes.plot([0, 100], [0, 100], color=FAINT, linewidth=1)
    axes.plot(x, y, "o", color=BLUE, markersize=4)
    for number in np.argsort(-abs(y - x), kind="stable")[:NAMED_CLASSES]:
        if x[number] != y[number]:
            axes.annotate(
                classes[number], (x[number], y[number]), (5, 3), textcoords="offset points", fontsize=7, color=INK
            )
    plain_axes(axes)
    axes.set(xlim=(-2, 102), ylim=(-2, 102), aspect="equal")
    axes.set_xlabel(f"AP of a class (%), {names[1]}", fontsize=9, color=MUTED)
    axes.set_ylabel(f"AP of a class (%), {names[0]}", fontsize=9, color=MUTED)
    save(figure, path)


def _colours(count: int) -> list[tuple[float, ...]]:
    """Return colours that stay apart in print and to colour-blind readers, up to some ten."""
    return [tuple(colormaps["cividis"](place)) for place in np.linspace(0, 0.9, count)]
