"""What every annotation format becomes: classes, and a record for each video."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nni_nastc.errors import AnnotationError, NastcError

Subset = Literal["train", "test"]
Task = Literal["single-label", "multi-label"]
SUBSETS: tuple[Subset, ...] = ("train", "test")
TASKS: tuple[Task, ...] = ("single-label", "multi-label")
TARGETS = ("activities", "unit-actions")
"""What videos that have an activity made of unit-actions can be used for."""

OVERSHOOT_S = 2.0
"""How far a segment may end after its video without a notice: a third of the segments of Charades do, none of them
further, since the annotators' clock and the length of the file differ (our choice)."""

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
    group : str or None
        Who or what the video shares with others that must not be told apart by it, such as the person: a split never
        parts the videos of a group. None: the video is alone.
    file : str or None
        Path of the video below the folder of the official download, if that is known.
    """

    id: str
    subset: Subset
    labels: tuple[str, ...]
    segments: tuple[Segment, ...] = ()
    duration_s: float | None = None
    group: str | None = None
    file: str | None = None


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
    target : str or None
        Which of the ``TARGETS`` the classes are; None where there is no choice.
    background : tuple of str
        The classes that stand for nothing happening, such as Breakfast's SIL. They are classes as all others, but the
        mean over classes is told without them, too.
    skips_unlabelled : bool
        Whether a video without any class is one that nobody labelled, rather than one where nothing of the classes
        happens: it is not for training, and for testing only if asked.
    """

    classes: tuple[str, ...]
    task: Task
    records: tuple[VideoRecord, ...]
    parts: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()
    target: str | None = None
    background: tuple[str, ...] = ()
    skips_unlabelled: bool = False

    def of(self, subset: Subset, *, unlabelled: bool = False) -> list[VideoRecord]:
        """Return the records of a part that are used.

        Parameters
        ----------
        subset : str
            "train" or "test".
        unlabelled : bool
            Keep the test videos that :attr:`skips_unlabelled` leaves out.
        """
        keep = not self.skips_unlabelled or (unlabelled and subset == "test")
        return [record for record in self.records if record.subset == subset and (record.labels or keep)]


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

    def raise_any(self, error: type[NastcError] = AnnotationError) -> None:
        """Raise an error of one line if there is a problem.

        Raises
        ------
        NastcError
            ``error``, with the first ``SHOWN_PROBLEMS`` problems and the number of the others.
        """
        if not self._found:
            return
        count = len(self._found)
        more = f"; and {count - SHOWN_PROBLEMS} more" if count > SHOWN_PROBLEMS else ""
        shown = "; ".join(" ".join(problem.split()) for problem in self._found[:SHOWN_PROBLEMS])
        raise error(f"{self.path} has {count} problem{'s' * (count > 1)}: {shown}{more}")


def clip_segment(
    video: str, label: str, start_s: float, end_s: float, duration_s: float | None, where: str = ""
) -> tuple[Segment | None, tuple[Notice, ...]]:
    """Fit a segment of an official file into its video.

    Official files hold segments that end before they start or lie outside the video. They are no errors: the label
    still counts for the video, and the timeline gets what lies inside, if anything.

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
    where : str
        File and line, for the notices.

    Returns
    -------
    segment : Segment or None
        The part inside the video; None if nothing of the segment is.
    notices : tuple of Notice
        What is odd about it: it ends before it starts, it lies outside the video, it reaches further outside than
        ``OVERSHOOT_S``. One segment may be odd in several ways.
    """
    length = math.inf if duration_s is None else duration_s
    odd = {
        "segment that ends before it starts": end_s <= start_s,
        "segment outside the video": start_s < 0 >= end_s or start_s >= length < end_s,
        "segment that reaches outside the video": start_s < 0 or end_s > length + OVERSHOOT_S,
    }
    inside = Segment(label, max(start_s, 0.0), min(end_s, length))
    segment = inside if inside.start_s < inside.end_s else None
    if not any(odd.values()):
        return segment, ()
    detail = f"{label} {start_s:g}-{end_s:g} s"
    detail += "" if duration_s is None else f" of {duration_s:g} s"
    detail += f" ({where})" if where else ""
    return segment, tuple(Notice(kind, video, detail) for kind, is_so in odd.items() if is_so)
