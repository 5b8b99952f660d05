"""The course of a search or a training: weights of the operations on every edge, losses, validation score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.special import softmax

from nni_nastc.errors import NastcError
from nni_nastc.genotype import NUM_INPUTS, Genotype
from nni_nastc.plots.style import BLUE, GREEN, INK, MUTED, OPERATION_COLOURS, SOURCE_NAMES, VERMILION, plain_axes, save

LOSSES = (
    ("train_loss", "training", BLUE),
    ("alpha_loss", "alphas", VERMILION),
    ("val_loss", "validation", GREEN),
)
"""Key of the history, label, colour."""


def draw_alphas(history: Mapping[str, Any], path: Path | str, *, genotype: Genotype | None = None) -> None:
    """Draw the softmax weights of the operations over the epochs, one panel an edge.

    Parameters
    ----------
    history : mapping
        What a search writes to ``history.json``.
    path : Path or str
        A ``.png``, ``.pdf`` or ``.svg`` file. Written whole or not at all.
    genotype : Genotype, optional
        The derived cell; its edges are marked, with the operation they keep.

    Raises
    ------
    NastcError
        If the history has no epoch yet.
    """
    save(alphas_figure(history, genotype=genotype), path)


def draw_history(history: Mapping[str, Any], path: Path | str) -> None:
    """Draw the losses and the validation score over the epochs.

    Parameters
    ----------
    history : mapping
        What a search or a training writes to ``history.json``. Losses and scores that it lacks are left out.
    path : Path or str
        A ``.png``, ``.pdf`` or ``.svg`` file. Written whole or not at all.

    Raises
    ------
    NastcError
        If the history has no epoch yet.
    """
    save(history_figure(history), path)


def alphas_figure(history: Mapping[str, Any], *, genotype: Genotype | None = None) -> Figure:
    """Draw one panel an edge: a row is a node, a column is a predecessor, and the free corner holds the legend."""
    epochs = _epochs(history)
    weights = softmax(_column(epochs, "alphas"), axis=-1)  # (epochs, edges, operations)
    edges = [tuple(edge) for edge in history["edges"]]
    rows, columns = (1 + max(edge[axis] for edge in edges) for axis in (0, 1))
    figure = Figure(figsize=(2.1 * columns + 0.4, 1.65 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for number, edge in enumerate(edges):
        _edge_panel(grid[edge], _column(epochs, "epoch") + 1, weights[:, number], history["operations"])
        _edge_title(grid[edge], edge, genotype)
    figure.supxlabel("epoch", fontsize=9, color=MUTED)
    figure.supylabel("weight of the operation (softmax)", fontsize=9, color=MUTED)
    handles = grid[edges[0]].get_lines()[: len(history["operations"])]
    title = "shaded: kept in the derived cell" if genotype else None
    style: dict[str, Any] = {"ncols": 2, "frameon": False, "fontsize": 10, "title_fontsize": 9, "alignment": "left"}
    figure.legend(handles=handles, title=title, loc="upper right", handlelength=1.6, **style)
    return figure


def history_figure(history: Mapping[str, Any]) -> Figure:
    """Draw the losses, and right of them the validation score where there is one."""
    epochs = _epochs(history)
    numbers = _column(epochs, "epoch") + 1
    scores = _column(epochs, "val_score")
    panels = 1 if np.isnan(scores).all() else 2
    figure = Figure(figsize=(4.3 * panels, 3.2), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for key, label, colour in LOSSES:
        if not np.isnan(values := _column(epochs, key)).all():
            _curve(axes[0], numbers, values, colour, label)
    axes[0].legend(frameon=False, fontsize=9, handlelength=1.6)
    _finish(axes[0], "loss")
    if panels == 2:
        _score_panel(axes[1], numbers, scores, f"validation {history['metric']}")
    figure.supxlabel("epoch", fontsize=9, color=MUTED)
    return figure


def _epochs(history: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    epochs = history["epochs"]
    if not epochs:
        raise NastcError("the history holds no epoch yet: nothing to draw; let the search finish its first epoch")
    return epochs


def _column(epochs: list[Mapping[str, Any]], key: str) -> np.ndarray:
    """Return one quantity over the epochs; NaN where it was not measured."""
    return np.asarray([np.nan if epoch.get(key) is None else epoch[key] for epoch in epochs], dtype=float)


def _edge_panel(axes: Axes, numbers: np.ndarray, weights: np.ndarray, operations: list[str]) -> None:
    """Draw the weights (epochs, operations) of one edge."""
    axes.set_visible(True)
    for name, values in zip(operations, weights.T, strict=True):
        _curve(axes, numbers, values, OPERATION_COLOURS[name], name, dashed=name == "zero")
    _finish(axes, "")


def _edge_title(axes: Axes, edge: tuple[int, int], genotype: Genotype | None) -> None:
    """Name the edge; if the derived cell keeps it, name the operation too and frame the panel."""
    node, source = edge
    kept = [name for name, chosen in genotype.nodes[node] if chosen == source] if genotype else []
    title = f"{SOURCE_NAMES[source]} $\\to$ {SOURCE_NAMES[node + NUM_INPUTS]}"
    if kept:
        axes.set_title(f"{title}: {', '.join(kept)}", fontsize=9, color=INK, loc="left", weight="bold")
        axes.set_facecolor("#f2f5f8")
    else:
        axes.set_title(title, fontsize=9, color=MUTED, loc="left")


def _curve(
    axes: Axes, numbers: np.ndarray, values: np.ndarray, colour: str, label: str, *, dashed: bool = False
) -> None:
    marker = "o" if len(numbers) == 1 else None
    style = "--" if dashed else "-"
    axes.plot(numbers, values, style, color=colour, label=label, linewidth=1.6, marker=marker, markersize=4)


def _score_panel(axes: Axes, numbers: np.ndarray, scores: np.ndarray, label: str) -> None:
    """Draw a score from 0 to 100 %, and write the last one at its point."""
    _curve(axes, numbers, scores, GREEN, label)
    last = np.flatnonzero(~np.isnan(scores))[-1]
    point, text = (numbers[last], scores[last]), f"{100 * scores[last]:.1f} %"
    axes.plot(*point, "o", color=GREEN, markersize=5)
    axes.annotate(text, point, (0, 7), textcoords="offset points", ha="right", fontsize=9, color=INK)
    axes.set_ylim(0, 1.1)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _finish(axes, label)


def _finish(axes: Axes, label: str) -> None:
    plain_axes(axes)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_title(label, fontsize=10, color=INK, loc="left")
