"""What all pictures share: colours that colour-blind readers can tell apart, axes without clutter, whole files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from nni_nastc.errors import NastcError
from nni_nastc.files import atomic_path

INK = "#222222"
MUTED = "#6b6b6b"
FAINT = "#d9d9d9"
BLUE = "#0072b2"
VERMILION = "#d55e00"
GREEN = "#009e73"

# Okabe and Ito's colours; shades of one colour for the operations of one kind.
OPERATION_COLOURS = {
    "zero": "#9a9a9a",
    "identity": "#222222",
    "avg_pool": "#e69f00",
    "max_pool": "#d55e00",
    "dil_conv_3": "#cc79a7",
    "dil_conv_5": "#882255",
    "sep_conv_3": "#56b4e9",
    "sep_conv_5": "#0072b2",
    "sep_conv_7": "#009e73",
}
"""Operation name -> colour, the same in every picture."""

PICTURE_SUFFIXES = (".png", ".pdf", ".svg")
"""File formats of the pictures."""

SOURCE_NAMES = ("$I_{k-2}$", "$I_{k-1}$", "$B_0$", "$B_1$", "$B_2$", "$B_3$")
"""Names of the cell's inputs and nodes (Fig. 3), by predecessor number."""


def plain_axes(axes: Axes) -> None:
    """Take the frame and the tick marks off, and draw a faint grid behind the data."""
    axes.set_axisbelow(True)
    axes.grid(True, axis="y", color=FAINT, linewidth=0.6)
    axes.tick_params(length=0, labelsize=8, labelcolor=MUTED)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def save(figure: Figure, path: Path | str) -> None:
    """Write a figure, whole or not at all.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The picture.
    path : Path or str
        Where to; the suffix chooses the format.

    Raises
    ------
    NastcError
        If the suffix is not one of :data:`PICTURE_SUFFIXES`, or the folder does not exist.
    DiskError
        If the disk fills up.
    """
    path = Path(path)
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise NastcError(f"a picture is a {', '.join(PICTURE_SUFFIXES)} file, got {path.name!r}; give it such a suffix")
    if not path.parent.is_dir():
        raise NastcError(f"no such folder: {path.parent}; make it, or write the picture elsewhere")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=160, facecolor="white")


def ink_on(colour: str) -> str:
    """Return white or dark, whichever reads better on ``colour`` (WCAG's relative luminance)."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if luminance < 0.25 else INK
