"""The weights of all operations on all edges at one epoch, as a small map for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from scipy.special import softmax

from nni_nastc.genotype import NUM_INPUTS
from nni_nastc.plots.style import INK, MUTED

_NAMES = ("I_k-2", "I_k-1", "B0", "B1", "B2", "B3")
"""As in the other pictures, but plain text: formulas take longer than all the rest."""


class AlphasMap:
    """A map of softmax weights: a row an edge, a column an operation.

    A search draws one every epoch, so all but the weights is drawn once. Colours mean the same in every epoch.

    Parameters
    ----------
    edges : sequence of (node, source)
        The rows, as in ``history.json``.
    operations : sequence of str
        The columns.
    """

    def __init__(self, edges: Sequence[Sequence[int]], operations: Sequence[str]) -> None:
        figure = Figure(figsize=(4.6, 4.6))
        self._canvas = FigureCanvasAgg(figure)
        self.axes = figure.add_axes((0.16, 0.2, 0.68, 0.74))
        # The root tells weights near 1 / n apart, where all of them start.
        scale: dict[str, Any] = {"cmap": "viridis", "norm": PowerNorm(0.5, vmin=0, vmax=1)}
        self._weights = self.axes.imshow(
            np.zeros((len(edges), len(operations))), aspect="auto", animated=True, **scale
        )
        self.axes.set_xticks(range(len(operations)), operations, rotation=45, ha="right")
        rows = [f"{_NAMES[source]} \u2192 {_NAMES[node + NUM_INPUTS]}" for node, source in edges]
        self.axes.set_yticks(range(len(rows)), rows)
        self.axes.spines[:].set_visible(False)
        self.axes.tick_params(length=0, labelsize=7, labelcolor=MUTED)
        self.axes.set_title("weights of the operations", fontsize=9, color=INK, loc="left")
        bar = figure.colorbar(self._weights, cax=figure.add_axes((0.87, 0.2, 0.025, 0.74)))
        bar.ax.tick_params(length=0, labelsize=7, labelcolor=MUTED)
        bar.outline.set_visible(False)
        self._canvas.draw()
        self._without_weights = self._canvas.copy_from_bbox(figure.bbox)

    def image(self, alphas: Any) -> np.ndarray:
        """Return the map of raw alphas (edges, operations) as an array (H, W, 3) of uint8."""
        self._weights.set_data(softmax(np.asarray(alphas, dtype=float), axis=-1))
        self._canvas.restore_region(self._without_weights)
        self.axes.draw_artist(self._weights)
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()
