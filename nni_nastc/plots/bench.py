"""Scores of methods against their size and against T, and class by class of two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nni_nastc.plots.style import BLUE, FAINT, GREEN, INK, MUTED, VERMILION, plain_axes, save

COLOURS = (BLUE, VERMILION, GREEN, INK, "#cc79a7", "#e69f00", "#56b4e9", "#882255")
MARKERS = ("o", "s", "^", "D", "v")

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
    save(score_by_size_figure(methods, metric=metric), path)


def score_by_size_figure(methods: Sequence[ScoredMethod], *, metric: str) -> Figure:
    """Return the figure of :func:`draw_score_by_size`."""
    figure = Figure(figsize=(6.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, method in enumerate(methods):
        axes.errorbar(
            method.parameters / 1e6, 100 * method.score, yerr=100 * method.deviation, label=method.name,
            linestyle="none", capsize=3, elinewidth=1.2, **_look(number),
        )  # fmt: skip
    plain_axes(axes)
    axes.margins(x=0.08)
    _legend(figure)
    axes.set_xlabel("million parameters", fontsize=9, color=MUTED)
    axes.set_ylabel(f"{metric} (%), one deviation over seeds", fontsize=9, color=MUTED)
    return figure


def draw_score_by_timesteps(methods: Sequence[ScoredMethod], path: Path | str, *, metric: str) -> None:
    """Draw a line for each method over T, with bars of one standard deviation.

    Parameters
    ----------
    methods : sequence of ScoredMethod
        Those of one name are one line.
    path, metric
        As of :func:`draw_score_by_size`.
    """
    save(score_by_timesteps_figure(methods, metric=metric), path)


def score_by_timesteps_figure(methods: Sequence[ScoredMethod], *, metric: str) -> Figure:
    """Return the figure of :func:`draw_score_by_timesteps`."""
    figure = Figure(figsize=(6.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    names = list(dict.fromkeys(method.name for method in methods))
    for number, name in enumerate(names):
        line = sorted((m for m in methods if m.name == name), key=lambda m: m.timesteps)
        axes.errorbar(
            [m.timesteps for m in line],
            [100 * m.score for m in line],
            yerr=[100 * m.deviation for m in line],
            linestyle="-", linewidth=1.4, elinewidth=1.2, capsize=3, label=name, **_look(number),
        )  # fmt: skip
    plain_axes(axes)
    axes.set_xscale("log", base=2)
    ticks = sorted({method.timesteps for method in methods})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("T, superframes of a video", fontsize=9, color=MUTED)
    axes.set_ylabel(f"{metric} (%)", fontsize=9, color=MUTED)
    _legend(figure)
    return figure


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
    save(classes_figure(first, second, names=names), path)


def classes_figure(first: Mapping[str, float], second: Mapping[str, float], *, names: tuple[str, str]) -> Figure:
    """Return the figure of :func:`draw_classes`."""
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
    return figure


def _look(number: int) -> dict[str, Any]:
    """Return colour and marker of a method; together they stay apart up to 40 methods."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "markersize": 6}


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
