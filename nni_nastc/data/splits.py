"""Parts of the training videos: halves for the search, a held-out share for choosing. Nothing touches the test part.

Videos are split whole, so that no video is in two parts, and every class is spread as evenly as the labels allow:
single and multiple labels alike. The result depends on the videos and the seed, not on the order of the records.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from nni_nastc.data.records import VideoRecord
from nni_nastc.errors import DataError

ATTEMPTS = 20
"""How often a split is tried while a part lacks a class that it should have (our choice)."""


def halves(records: Sequence[VideoRecord], seed: int) -> tuple[list[VideoRecord], list[VideoRecord]]:
    """Split videos into two halves: one trains weights, the other alphas, as in DARTS.

    Parameters
    ----------
    records : sequence of VideoRecord
        At least two videos.
    seed : int
        Another seed, another split.

    Returns
    -------
    first, second : list of VideoRecord
        In the order of ``records``. The first has one video more if their number is odd. A class of two videos or more
        is in both wherever the labels that videos share allow it.

    Raises
    ------
    DataError
        If there are fewer than two videos, or a video is there twice.
    """
    second, first = _split(records, 0.5, len(records) // 2, seed)
    return first, second


def hold_out(
    records: Sequence[VideoRecord], share: float = 0.1, seed: int = 0
) -> tuple[list[VideoRecord], list[VideoRecord]]:
    """Hold out a share of the videos, to choose by; never the test part.

    Parameters
    ----------
    records : sequence of VideoRecord
        At least two videos.
    share : float
        Share to hold out, above 0 and below 1; at least one video is held out, and at least one kept.
    seed : int
        Another seed, another split.

    Returns
    -------
    kept, held : list of VideoRecord
        In the order of ``records``. A class of two videos or more stays in the kept part, and is in the held part if
        its share makes a whole video, wherever the labels that videos share allow it.

    Raises
    ------
    DataError
        If there are fewer than two videos, a video is there twice, or the share is out of range.
    """
    if not 0 < share < 1:
        raise DataError(f"share must be above 0 and below 1, got {share}; 0.1 holds out a tenth")
    wanted = min(max(round(share * len(records)), 1), len(records) - 1)
    held, kept = _split(records, share, wanted, seed)
    return kept, held


def _split(
    records: Sequence[VideoRecord], share: float, wanted: int, seed: int
) -> tuple[list[VideoRecord], list[VideoRecord]]:
    """Return a stratified share of ``wanted`` videos, and the others."""
    if len(records) < 2:
        given = f'1 ("{records[0].id}")' if records else "none"
        raise DataError(f"a split needs at least 2 training videos, got {given}; annotate more videos as train")
    ordered = sorted(records, key=lambda record: record.id)
    for one, other in itertools.pairwise(ordered):
        if one.id == other.id:
            raise DataError(f'a split needs different videos, got "{one.id}" twice; keep one of the two')
    names = sorted({label for record in ordered for label in record.labels})
    labels = np.array([[name in record.labels for name in names] for record in ordered], dtype=bool)
    # Videos without any label are spread evenly, too, as if that were a label.
    labels = np.column_stack([labels, ~labels.any(axis=1)])
    chosen = _choose(labels, share, wanted, np.random.default_rng(seed))
    ids = {ordered[video].id for video in np.flatnonzero(chosen)}
    return [record for record in records if record.id in ids], [record for record in records if record.id not in ids]


def _choose(labels: np.ndarray, share: float, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Choose ``wanted`` rows of ``labels`` (N, K), stratified: a mask (N,). The best of some attempts, if need be."""
    best, best_lacking = None, np.inf
    for _ in range(ATTEMPTS):
        chosen = _deal(labels, share, rng)
        _mend_size(labels, chosen, share, wanted)
        lacking = _mend_coverage(labels, chosen, share)
        if lacking < best_lacking:
            best, best_lacking = chosen, lacking
        if lacking == 0:
            break
    assert best is not None
    return best


def _deal(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Deal the videos out, rare labels first, as in Sechidis et al., On the Stratification of Multi-Label Data (2011).

    Each goes where it keeps the counts of its labels, and of all videos so far, nearest to the share.
    """
    counts = labels.sum(axis=0)
    rarity = np.where(labels, counts, len(labels)).min(axis=1)
    order = rng.permutation(len(labels))
    chosen = np.zeros(len(labels), dtype=bool)
    surplus, total = np.zeros(labels.shape[1]), 0.0  # how many the chosen part has above its share, so far
    for video in order[np.argsort(rarity[order], kind="stable")]:
        own = labels[video]
        # Choosing adds 1 - share to a surplus s, the other part takes share: the difference of the squares.
        squares = 2 * np.append(surplus[own], total) + 1 - 2 * share
        chosen[video] = squares @ np.append(rarity[video] / counts[own], 1.0) < 0
        surplus[own] += chosen[video] - share
        total += chosen[video] - share
    return chosen


def _mend_size(labels: np.ndarray, chosen: np.ndarray, share: float, wanted: int) -> None:
    """Move the videos that disturb the counts least until ``wanted`` are chosen."""
    counts = labels.sum(axis=0)
    while (missing := wanted - chosen.sum()) != 0:
        step = np.sign(missing)
        surplus = labels[chosen].sum(axis=0) - share * counts
        disturbance = labels @ ((2 * step * surplus + 1) / np.maximum(counts, 1))
        movable = np.flatnonzero(chosen != (step > 0))
        chosen[movable[disturbance[movable].argmin()]] = step > 0


def _mend_coverage(labels: np.ndarray, chosen: np.ndarray, share: float) -> int:
    """Swap videos while that gives a part a class that it lacks; return how many classes parts still lack."""
    counts = labels.sum(axis=0)

    def lacking(in_chosen: np.ndarray) -> np.ndarray:
        """Return which classes (..., K) the chosen part lacks (with a share of a whole video) or the others lack."""
        return ((in_chosen == 0) & (share * counts >= 1)) | ((in_chosen == counts) & (counts >= 2))

    in_chosen = labels[chosen].sum(axis=0)
    improved = True
    while improved:
        improved = False
        for label in np.flatnonzero(lacking(in_chosen)):
            for video in np.flatnonzero(labels[:, label]):
                partners = np.flatnonzero(chosen != chosen[video])
                sign = -1 if chosen[video] else 1
                after = in_chosen + sign * (labels[video].astype(int) - labels[partners])
                best = lacking(after).sum(axis=1).argmin()
                if lacking(after[best]).sum() < lacking(in_chosen).sum():
                    chosen[[video, partners[best]]] = chosen[[partners[best], video]]
                    in_chosen, improved = after[best], True
                    break
    return int(lacking(in_chosen).sum())
