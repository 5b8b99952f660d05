"""The weights of all operations on all edges at one epoch, as a small map for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nni_nastc.genotype import NUM_INPUTS
from nni_nastc.plots.style import INK, MUTED

_NAMES = ("I_k-2", "I_k-1", "B0", "B1", "B2", "B3")
"""As in the other pictures, but plain text: formulas take longer than all the rest, and this is drawn every epoch."""


def alphas_map_figure(history: Mapping[str, Any]) -> Figure:
    """Draw the softmax weights of a history's last epoch: a row an edge, a column an operation."""
    epoch = history["epochs"][-1]
    alphas = np.asarray(epoch["alphas"], dtype=float)
    powers = np.exp(alphas - alphas.max(axis=-1, keepdims=True))
    weights = powers / powers.sum(axis=-1, keepdims=True)
    figure = Figure(figsize=(4.6, 4.6))
    axes = figure.add_axes((0.16, 0.2, 0.68, 0.74))
    picture = axes.imshow(weights, cmap="viridis", vmin=0, vmax=max(2 / weights.shape[1], weights.max()), aspect="auto")
    axes.set_xticks(range(len(history["operations"])), history["operations"], rotation=45, ha="right")
    edges = [f"{_NAMES[source]} \u2192 {_NAMES[node + NUM_INPUTS]}" for node, source in history["edges"]]
    axes.set_yticks(range(len(edges)), edges)
    axes.tick_params(length=0, labelsize=7, labelcolor=MUTED)
    axes.set_title(f"weights of the operations, epoch {epoch['epoch'] + 1}", fontsize=9, color=INK, loc="left")
    bar = figure.colorbar(picture, cax=figure.add_axes((0.87, 0.2, 0.025, 0.74)))
    bar.ax.tick_params(length=0, labelsize=7, labelcolor=MUTED)
    bar.outline.set_visible(False)
    return figure


def alphas_image(history: Mapping[str, Any]) -> np.ndarray:
    """Return :func:`alphas_map_figure` as an array (H, W, 3) of uint8."""
    canvas = FigureCanvasAgg(alphas_map_figure(history))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
