"""Made-up activities that are told only by the order of their parts, or only by how long these take.

Four parts follow one another in a circle. An activity is a direction of going round: which part follows which. A
video starts anywhere in the circle and closes it, so that its last part is its first one::

    activity 0: A B C D A, B C D A B, C D A B C, D A B C D
    activity 1: A D C B A, ...

So every activity has the same parts, for times that are drawn alike, and each part is as likely as the others at every
single moment, first and last included: the mean over time, the maximum over time, and any one moment, or the first and
last together, say nothing about the activity. Only what follows what does. Parts change where a superframe ends,
so that no superframe sees two of them (all our choice).

Where durations tell the activity, all go round the first circle, again from anywhere, and activity k lingers at part k:
what the mean over time tells, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nni_nastc.data.records import Subset
from nni_nastc.errors import DataError

CIRCLES = ((0, 1, 2, 3), (0, 3, 2, 1), (0, 1, 3, 2), (0, 2, 3, 1), (0, 2, 1, 3), (0, 3, 1, 2))
"""All ways to go round four parts; each second one is the one before it backwards."""

NUM_PARTS = 4
MIN_WINDOWS = 2 * NUM_PARTS
"""Fewest superframes of a video: two for each part, since the first one comes again at the end."""

LINGERING = 5
"""How many times as likely as another part the lingering one gets a superframe beyond these."""


@dataclass(frozen=True)
class Run:
    """A part from superframe ``first`` to before superframe ``end``."""

    part: int
    first: int
    end: int


@dataclass(frozen=True)
class OrderedVideo:
    """What happens in a video.

    Attributes
    ----------
    name : str
        Of the file, without suffix.
    subset : str
        "train" or "test".
    activity : int
        Its circle, or the part at which it lingers.
    runs : tuple of Run
        The parts in order, without gaps.
    """

    name: str
    subset: Subset
    activity: int
    runs: tuple[Run, ...]


def plan_videos(
    *, videos: int, windows: int, classes: int, seed: int, test_share: float = 0.25, prefix: str = "video"
) -> list[OrderedVideo]:
    """Plan videos that are told by order. In each subset activities, and their first parts, are as balanced as can be.

    Parameters
    ----------
    videos : int
        At least two an activity.
    windows : int
        Superframes of each video, at least ``MIN_WINDOWS``.
    classes : int
        Activities, 2 to 6. Chance is one in ``classes``.
    seed : int
        Seeds the times of the parts.
    test_share : float
        Share of the test part.
    prefix : str
        Start of the names.

    Returns
    -------
    list of OrderedVideo
        Training videos first.

    Raises
    ------
    DataError
        If the numbers do not allow it.
    """
    if not 2 <= classes <= len(CIRCLES):
        raise DataError(f"{NUM_PARTS} parts have orders for 2 to {len(CIRCLES)} activities, got {classes}")
    even = np.full(NUM_PARTS, 1 / NUM_PARTS)

    def runs(activity: int, start: int, rng: np.random.Generator) -> tuple[Run, ...]:
        return _runs(CIRCLES[activity], start, windows, even, rng)

    return _plan(runs, videos, windows, classes, seed, test_share, prefix)


def plan_durations(
    *, videos: int, windows: int, classes: int, seed: int, test_share: float = 0.25, prefix: str = "video"
) -> list[OrderedVideo]:
    """Plan videos that are told by how long their parts take, in the same order for all.

    Parameters
    ----------
    videos, windows, seed, test_share, prefix
        As for :func:`plan_videos`.
    classes : int
        Activities, 2 to 4.

    Returns
    -------
    list of OrderedVideo
        Training videos first.

    Raises
    ------
    DataError
        If the numbers do not allow it.
    """
    if not 2 <= classes <= NUM_PARTS:
        raise DataError(f"one of {NUM_PARTS} parts can linger in 2 to {NUM_PARTS} activities, got {classes}")

    def runs(activity: int, start: int, rng: np.random.Generator) -> tuple[Run, ...]:
        shares = np.ones(NUM_PARTS)
        shares[(activity - start) % NUM_PARTS] = LINGERING  # the first circle counts up from its start
        return _runs(CIRCLES[0], start, windows, shares / shares.sum(), rng)

    return _plan(runs, videos, windows, classes, seed, test_share, prefix)


def _plan(
    runs_of: Callable[[int, int, np.random.Generator], tuple[Run, ...]],
    videos: int,
    windows: int,
    classes: int,
    seed: int,
    test_share: float,
    prefix: str,
) -> list[OrderedVideo]:
    """Plan a balanced set; ``runs_of`` maps an activity, the place where it starts, and chance to the runs."""
    if windows < MIN_WINDOWS:
        raise DataError(f"an activity takes at least {MIN_WINDOWS} superframes of 8 frames, got {windows}")
    if videos < 2 * classes:
        raise DataError(f"{classes} activities in two subsets take at least {2 * classes} videos, got {videos}")
    train = videos - min(max(round(test_share * videos), classes), videos - classes)
    plan = []
    for number in range(videos):
        i = number if number < train else number - train
        activity, start = i % classes, i // classes % NUM_PARTS
        runs = runs_of(activity, start, np.random.default_rng([seed, number]))
        subset: Subset = "train" if number < train else "test"
        plan.append(OrderedVideo(f"{prefix}_{number:03d}", subset, activity, runs))
    return plan


def _runs(
    circle: Sequence[int], start: int, windows: int, shares: np.ndarray, rng: np.random.Generator
) -> tuple[Run, ...]:
    """Go round the circle once, for random times that add up to ``windows``; ``shares`` from the start on."""
    lengths = list(2 + rng.multinomial(windows - MIN_WINDOWS, shares))
    opening = rng.integers(1, lengths[0])
    lengths = [opening, *lengths[1:], lengths[0] - opening]
    ends = np.cumsum(lengths)
    parts = [circle[(start + i) % NUM_PARTS] for i in range(NUM_PARTS + 1)]
    return tuple(Run(p, int(end - n), int(end)) for p, n, end in zip(parts, lengths, ends, strict=True))


def order_names(parts: Sequence[str], classes: int) -> list[str]:
    """Return what the activities are called that are told by the order of their parts."""
    return [", ".join(parts[part] for part in circle) for circle in CIRCLES[:classes]]


def duration_names(parts: Sequence[str], classes: int) -> list[str]:
    """Return what the activities are called that are told by the part at which they linger."""
    return [f"long {part}" for part in parts[:classes]]


def annotations_of(
    plan: Sequence[OrderedVideo], parts: Sequence[str], classes: Sequence[str], *, window_s: float, source: str
) -> dict[str, Any]:
    """Return the annotations of a plan in the generic JSON format: activities as classes, the parts as segments.

    Parameters
    ----------
    plan : sequence of OrderedVideo
        The videos.
    parts : sequence of str
        Names of the four parts.
    classes : sequence of str
        Names of the activities.
    window_s : float
        Length of a superframe in seconds.
    source : str
        Where the videos are from.
    """
    return {
        "source": source,
        "classes": list(classes),
        "task": "single-label",
        "parts": list(parts),
        "videos": {
            video.name: {
                "subset": video.subset,
                "labels": [classes[video.activity]],
                "segments": [[parts[run.part], run.first * window_s, run.end * window_s] for run in video.runs],
                "duration_s": video.runs[-1].end * window_s,
            }
            for video in plan
        },
    }
