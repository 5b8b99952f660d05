"""What every annotation format becomes: classes, and a record for each video."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nni_nastc.errors import AnnotationError

Subset = Literal["train", "test"]
Task = Literal["single-label", "multi-label"]
SUBSETS: tuple[Subset, ...] = ("train", "test")
TASKS: tuple[Task, ...] = ("single-label", "multi-label")

SHOWN_PROBLEMS = 10
"""How many problems of a file are told one by one; the others are counted (our choice)."""


@dataclass(frozen=True)
class Segment:
    """What happens from ``start_s`` to ``end_s`` (seconds): a class, or one of the :attr:`Annotations.parts`."""

    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class VideoRecord:
    """The annotation of one video.

    Attributes
    ----------
    id : str
        Name of the video file without folder and suffix: its name in a feature store.
    subset : str
        "train" or "test".
    labels : tuple of str
        Classes of the whole video, in the order of :attr:`Annotations.classes`; exactly one if single-label.
    segments : tuple of Segment
        The timeline, as annotated; empty where there is none.
    duration_s : float or None
        Length of the video in seconds, if the annotations tell it.
    """

    id: str
    subset: Subset
    labels: tuple[str, ...]
    segments: tuple[Segment, ...] = ()
    duration_s: float | None = None


@dataclass(frozen=True)
class Notice:
    """Something odd in a file that is no error there, such as a segment that was clipped.

    Attributes
    ----------
    kind : str
        The same words for all notices of one kind, so that they can be counted.
    video : str
        The record's id.
    detail : str
        What the file says.
    """

    kind: str
    video: str
    detail: str


@dataclass(frozen=True)
class Annotations:
    """The annotations of a data set.

    Attributes
    ----------
    classes : tuple of str
        K class names; their order numbers the outputs of a network.
    task : str
        "single-label" or "multi-label".
    records : tuple of VideoRecord
        One for each video, in the order of the file.
    parts : tuple of str
        What segments are labelled with where that is not the classes (the unit-actions of an activity); else empty.
    notices : tuple of Notice
        What was mended while reading.
    """

    classes: tuple[str, ...]
    task: Task
    records: tuple[VideoRecord, ...]
    parts: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()


class Problems:
    """Gathers all problems of one file, so that they are told together.

    Parameters
    ----------
    path : Path
        The file, for the message.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: list[str] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, problem: str) -> None:
        """Note a problem, and where it is."""
        self._found.append(problem)

    def raise_any(self) -> None:
        """Raise an AnnotationError of one line if there is a problem.

        Raises
        ------
        AnnotationError
            With the first ``SHOWN_PROBLEMS`` problems and the number of the others.
        """
        if not self._found:
            return
        count = len(self._found)
        more = f"; and {count - SHOWN_PROBLEMS} more" if count > SHOWN_PROBLEMS else ""
        shown = "; ".join(" ".join(problem.split()) for problem in self._found[:SHOWN_PROBLEMS])
        raise AnnotationError(f"{self.path} has {count} problem{'s' * (count > 1)}: {shown}{more}")


def clip_segment(
    video: str, label: str, start_s: float, end_s: float, duration_s: float | None
) -> tuple[Segment | None, Notice | None]:
    """Fit a segment of an official file into its video.

    Official files hold segments that end before they start or reach outside the video. They are no errors: the
    label still counts for the video, and the timeline gets what lies inside, if anything.

    Parameters
    ----------
    video : str
        Id of the video.
    label : str
        What the segment shows.
    start_s, end_s : float
        As annotated, in seconds.
    duration_s : float or None
        Length of the video, if known.

    Returns
    -------
    segment : Segment or None
        The part inside the video; None if nothing of the segment does.
    notice : Notice or None
        What was done to it; None for a sound segment.
    """
    detail = f"{label} {start_s:g}-{end_s:g} s"
    if duration_s is not None:
        detail += f" of {duration_s:g} s"
    if end_s <= start_s:
        return None, Notice("segment that ends before it starts", video, detail)
    inside = Segment(label, max(start_s, 0.0), end_s if duration_s is None else min(end_s, duration_s))
    if inside.end_s <= inside.start_s:
        return None, Notice("segment outside the video", video, detail)
    if (inside.start_s, inside.end_s) != (start_s, end_s):
        return inside, Notice("segment that reaches outside the video", video, detail)
    return inside, None
