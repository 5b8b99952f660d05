"""Class scores of videos as a text file, in the submission format of Charades' official ``Charades_v1_classify.m``.

A line for each video: its id and K numbers, one for each class in the order of the classes, all separated by spaces.
Other sets of videos use the same format.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from nni_nastc.data.records import Problems
from nni_nastc.data.text_lines import read_lines
from nni_nastc.errors import DataError
from nni_nastc.files import atomic_path

_SHOWN_IDS = 5


def write_submission(path: Path, ids: Sequence[str], scores: np.ndarray) -> None:
    """Write scores, each with as many digits as it takes to read the same number again.

    Parameters
    ----------
    path : Path
        The file.
    ids : sequence of str
        N videos.
    scores : np.ndarray
        Class scores (N, K).
    """
    with atomic_path(path) as temporary:
        lines = (" ".join([name, *map(repr, row)]) for name, row in zip(ids, scores.tolist(), strict=True))
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_submission(path: Path, ids: Sequence[str], num_classes: int, *, ignored: Collection[str] = ()) -> np.ndarray:
    """Read scores.

    Parameters
    ----------
    path : Path
        The file; its lines may be in any order, blank ones do not count.
    ids : sequence of str
        The N videos that are to be scored.
    num_classes : int
        K.
    ignored : collection of str
        Videos that may be in the file as well, but are not scored: those that nobody labelled.

    Returns
    -------
    np.ndarray
        (N, K) float64, in the order of ``ids``. Infinities are allowed, NaN is not.

    Raises
    ------
    DataError
        With all problems and their lines: a file that is missing, empty or no text, a wrong number of scores, a score
        that is no number, an id that is unknown or there twice, videos that are missing.
    """
    problems = Problems(path)
    known = {*ids, *ignored}
    found: dict[str, list[float]] = {}
    lines = read_lines(path, problems)
    for where, line in lines:
        name, values = _split(line, known, num_classes)
        if name not in known:
            problems.add(f'{where}: there is no video "{name[:60]}" in the part that is scored')
        elif name in found:
            problems.add(f'{where}: a video may be there only once, got "{name}" again')
        else:
            found[name] = _numbers(where, values, num_classes, problems)
    if lines and (missing := [name for name in ids if name not in found]):
        more = ", ..." if len(missing) > _SHOWN_IDS else ""
        problems.add(f"no line for {len(missing)} of {len(ids)} videos: {', '.join(missing[:_SHOWN_IDS])}{more}")
    problems.raise_any(DataError)
    return np.array([found[name] for name in ids])


def _split(line: str, known: Collection[str], num_classes: int) -> tuple[str, list[str]]:
    """Return the id, which may hold spaces, and what follows it."""
    parts = line.rsplit(maxsplit=num_classes)
    if len(parts) == num_classes + 1 and parts[0] in known:
        return parts[0], parts[1:]
    name, *values = line.split()
    return name, values


def _numbers(where: str, values: Sequence[str], num_classes: int, problems: Problems) -> list[float]:
    if len(values) != num_classes:
        problems.add(f"{where}: a video has {num_classes} scores, one for each class, got {len(values)}")
        return []
    numbers = [_number(value) for value in values]
    if wrong := [k for k, number in enumerate(numbers) if math.isnan(number)]:
        problems.add(f'{where}: scores must be numbers, got "{values[wrong[0]][:60]}" for class {wrong[0] + 1}')
    return numbers


def _number(text: str) -> float:
    """Return a number; not a number if the text is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
