"""Pictures: the cell, the search, annotations, the evidence in a video, curves of methods.

Drawn without a display and without ``pyplot``'s state.
"""

from nni_nastc.plots.alphas_map import AlphasMap
from nni_nastc.plots.annotated import AnnotatedVideo, annotated_figure, draw_annotated
from nni_nastc.plots.bench import ScoredMethod, draw_classes, draw_score_by_size, draw_score_by_timesteps
from nni_nastc.plots.cell import cell_figure, draw_cell
from nni_nastc.plots.curves import Curve, curves_figure, draw_curves
from nni_nastc.plots.search import alphas_figure, draw_alphas, draw_history, history_figure
from nni_nastc.plots.timeline import draw_timeline, timeline_figure
from nni_nastc.plots.trials import draw_trials, trials_figure

__all__ = [
    "AlphasMap",
    "AnnotatedVideo",
    "Curve",
    "ScoredMethod",
    "alphas_figure",
    "annotated_figure",
    "cell_figure",
    "curves_figure",
    "draw_alphas",
    "draw_annotated",
    "draw_cell",
    "draw_classes",
    "draw_curves",
    "draw_history",
    "draw_score_by_size",
    "draw_score_by_timesteps",
    "draw_timeline",
    "draw_trials",
    "history_figure",
    "timeline_figure",
    "trials_figure",
]
