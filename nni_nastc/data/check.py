"""What a set of annotations holds, what is odd about it, and how it fits a feature store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nni_nastc.data.annotations import Annotations, VideoRecord, load_annotations
from nni_nastc.data.records import SUBSETS, Problems, Subset


@dataclass(frozen=True)
class ClassCount:
    """How many videos of each part show a class."""

    name: str
    train: int
    test: int


@dataclass(frozen=True)
class PartReport:
    """A part of the videos.

    Attributes
    ----------
    videos, unlabelled : int
        All videos, and those without any class.
    segments : int
        On all their timelines.
    durations_s : ndarray
        Seconds of each video: its length, or the end of its last segment where the annotations do not tell it.
    """

    videos: int
    unlabelled: int
    segments: int
    durations_s: np.ndarray


@dataclass(frozen=True)
class CheckReport:
    """What :func:`check_annotations` found.

    Attributes
    ----------
    annotations : Annotations
        As read; where there is a choice of target, the activities.
    parts : dict
        "train" and "test".
    classes : tuple of ClassCount
        The classes; of activities made of unit-actions, the unit-actions.
    activities : tuple of ClassCount
        The activities, if there are any.
    problems : dict
        Kind of problem -> how often it occurs, most frequent first.
    examples : dict
        Kind of problem -> one of them.
    missing : tuple of str or None
        Annotated videos that the store lacks; None without a store.
    unannotated : tuple of str or None
        Videos of the store that have no annotation; None without a store.
    """

    annotations: Annotations
    parts: dict[Subset, PartReport]
    classes: tuple[ClassCount, ...]
    activities: tuple[ClassCount, ...]
    problems: dict[str, int]
    examples: dict[str, str]
    missing: tuple[str, ...] | None = None
    unannotated: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the counts, and the names that the store and the annotations do not share."""
        content: dict[str, Any] = {
            "subsets": {subset: part.videos for subset, part in self.parts.items()},
            "classes": len(self.classes),
            "activities": len(self.activities),
            "problems": self.problems,
        }
        if self.missing is not None and self.unannotated is not None:
            content["store"] = {"missing": list(self.missing), "unannotated": list(self.unannotated)}
        return content

    def require_no_problems(self, path: Path) -> None:
        """Take the problems that official files may have for errors, too.

        Raises
        ------
        AnnotationError
            With all of them.
        """
        problems = Problems(path)
        for notice in self.annotations.notices:
            problems.add(f'video "{notice.video}": {notice.kind}, {notice.detail}')
        problems.raise_any()


def check_annotations(path: Path | str, dataset: str = "json", stored: Collection[str] | None = None) -> CheckReport:
    """Read annotations, and count what is in them.

    Parameters
    ----------
    path : Path or str
        File or folder; see :func:`nni_nastc.data.annotations.load_annotations`.
    dataset : str
        Whose files they are.
    stored : collection of str, optional
        Names of the videos in a feature store, to compare with.

    Returns
    -------
    CheckReport
        The counts.

    Raises
    ------
    AnnotationError
        With all problems of the files that are errors.
    """
    annotations = load_annotations(path, dataset=dataset)
    records = annotations.records
    ids = [record.id for record in records]
    if annotations.target is not None:
        units = load_annotations(path, "unit-actions", dataset=dataset)
        classes = _counts(units.classes, [(record.subset, record.labels) for record in units.records])
    else:
        names = annotations.parts or annotations.classes
        shown = [_happening(record) if annotations.parts else record.labels for record in records]
        classes = _counts(names, [(record.subset, own) for record, own in zip(records, shown, strict=True)])
    activities = [(record.subset, record.labels) for record in records]
    problems = Counter(notice.kind for notice in annotations.notices)
    return CheckReport(
        annotations=annotations,
        parts={subset: _part([record for record in records if record.subset == subset]) for subset in SUBSETS},
        classes=classes,
        activities=_counts(annotations.classes, activities) if annotations.parts else (),
        problems=dict(problems.most_common()),
        examples={notice.kind: f"{notice.video}: {notice.detail}" for notice in reversed(annotations.notices)},
        missing=None if stored is None else tuple(name for name in ids if name not in stored),
        unannotated=None if stored is None else tuple(sorted(set(stored).difference(ids))),
    )


def end_s(record: VideoRecord) -> float:
    """Return the length of a video in seconds; where that is not told, the end of its last segment; else 0."""
    if record.duration_s is not None:
        return record.duration_s
    return max((segment.end_s for segment in record.segments), default=0.0)


def pick_timelines(records: Sequence[VideoRecord], count: int) -> list[VideoRecord]:
    """Return up to ``count`` videos that have segments, evenly spaced over all of them."""
    with_segments = [record for record in records if record.segments]
    places = np.linspace(0, len(with_segments) - 1, min(count, len(with_segments))).round().astype(int)
    return [with_segments[place] for place in places]


def _happening(record: VideoRecord) -> tuple[str, ...]:
    return tuple({segment.label for segment in record.segments})


def _counts(names: Sequence[str], shown: Sequence[tuple[Subset, tuple[str, ...]]]) -> tuple[ClassCount, ...]:
    """Count the videos of each part that show each class."""
    counts = Counter((subset, label) for subset, labels in shown for label in labels)
    return tuple(ClassCount(name, counts["train", name], counts["test", name]) for name in names)


def _part(records: Sequence[VideoRecord]) -> PartReport:
    return PartReport(
        videos=len(records),
        unlabelled=sum(not record.labels for record in records),
        segments=sum(len(record.segments) for record in records),
        durations_s=np.array([end_s(record) for record in records]),
    )
