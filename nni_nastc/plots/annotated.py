"""What annotations say happens when, in some videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nni_nastc.errors import NastcError
from nni_nastc.plots.style import BLUE, GREEN, INK, MUTED, plain_axes, save

ROW_INCHES, HEADER_INCHES = 0.2, 0.55
LABEL_LENGTH = 40
"""Longer class names are cut."""
SHORTEST = 0.003
"""Share of the time axis that a segment takes at least, so that it is seen."""
HIGHEST_INCHES = 300.0
"""What the file formats take."""


@dataclass(frozen=True)
class AnnotatedVideo:
    """A video as annotated.

    Parameters
    ----------
    title : str
        Written above.
    duration_s : float
        Where its time ends.
    segments : sequence of (str, float, float)
        Class, start and end in seconds.
    """

    title: str
    duration_s: float
    segments: Sequence[tuple[str, float, float]]


def draw_annotated(videos: Sequence[AnnotatedVideo], path: Path | str) -> None:
    """Draw the segments of some videos over time.

    Parameters
    ----------
    videos : sequence of AnnotatedVideo
        Top to bottom.
    path : Path or str
        A ``.png``, ``.pdf`` or ``.svg`` file. Written whole or not at all.

    Raises
    ------
    NastcError
        If there is no video, or too many for one picture.
    """
    save(annotated_figure(videos), path)


def annotated_figure(videos: Sequence[AnnotatedVideo]) -> Figure:
    """Draw a panel a video with a row a class, in the order in which the classes begin."""
    if not videos:
        raise NastcError("a picture of timelines needs at least one video with segments, got none")
    heights = [max(len({label for label, *_ in video.segments}), 1) * ROW_INCHES + HEADER_INCHES for video in videos]
    if sum(heights) > HIGHEST_INCHES:
        raise NastcError(f"the timelines of {len(videos)} videos do not fit into one picture; draw fewer")
    figure = Figure(figsize=(9, sum(heights) + 0.3), layout="constrained")
    panels = figure.subplots(len(videos), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, video in zip(panels, videos, strict=True):
        _panel(axes, video)
    figure.supxlabel("seconds", fontsize=9, color=MUTED)
    return figure


def _panel(axes: Axes, video: AnnotatedVideo) -> None:
    plain_axes(axes)
    axes.grid(False, axis="y")
    axes.set_title(video.title, fontsize=9, color=INK, loc="left", pad=3, parse_math=False)
    axes.set_xlim(0, video.duration_s)
    axes.xaxis.set_major_locator(MaxNLocator(10))
    labels = list(dict.fromkeys(label for label, *_ in sorted(video.segments, key=lambda segment: segment[1])))
    names = [label if len(label) <= LABEL_LENGTH else f"{label[: LABEL_LENGTH - 3]}..." for label in labels]
    axes.set_yticks(range(len(labels)), names)
    for tick in axes.get_yticklabels():
        tick.set_parse_math(False)
    axes.set_ylim(max(len(labels), 1) - 0.5, -0.5)
    shortest = SHORTEST * video.duration_s
    for row, label in enumerate(labels):
        spans = [(start, max(end - start, shortest)) for name, start, end in video.segments if name == label]
        # Neighbouring rows differ in colour, so that the eye keeps to one.
        axes.broken_barh(spans, (row - 0.4, 0.8), facecolors=(BLUE, GREEN)[row % 2], edgecolor="white", linewidth=0.4)
