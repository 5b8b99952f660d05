"""Parts of the training videos: halves for the search, a held-out share for choosing. Nothing touches the test part.

Videos are split whole, so that no video is in two parts, and so are groups of videos (``VideoRecord.group``), so that
no person is in two parts; a video without a group is one by itself. Every class is spread as evenly as that and the
labels allow: single and multiple labels alike. The result depends on the videos and the seed, not on the order of the
records.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

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
        At least two groups of videos.
    seed : int
        Another seed, another split.

    Returns
    -------
    first, second : list of VideoRecord
        In the order of ``records``. The first has one video more if their number is odd; with groups, the halves are
        as near to that as groups allow. A class of two groups or more is in both wherever the labels that videos share
        allow it.

    Raises
    ------
    DataError
        If there are fewer than two groups, or a video is there twice.
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
        At least two groups of videos.
    share : float
        Share to hold out, above 0 and below 1; at least one group is held out, and at least one kept.
    seed : int
        Another seed, another split.

    Returns
    -------
    kept, held : list of VideoRecord
        In the order of ``records``. A class of two groups or more stays in the kept part, and is in the held part if
        its share makes a whole video, wherever the labels that videos share allow it.

    Raises
    ------
    DataError
        If there are fewer than two groups, a video is there twice, or the share is out of range.
    """
    if not 0 < share < 1:
        raise DataError(f"share must be above 0 and below 1, got {share}; 0.1 holds out a tenth")
    wanted = min(max(round(share * len(records)), 1), len(records) - 1)
    held, kept = _split(records, share, wanted, seed)
    return kept, held


def _split(
    records: Sequence[VideoRecord], share: float, wanted: int, seed: int
) -> tuple[list[VideoRecord], list[VideoRecord]]:
    """Return a stratified share of about ``wanted`` videos, and the others."""
    if len(records) < 2:
        given = f'1 ("{records[0].id}")' if records else "none"
        raise DataError(f"a split needs at least 2 training videos, got {given}; annotate more videos as train")
    ordered = sorted(records, key=lambda record: record.id)
    for one, other in itertools.pairwise(ordered):
        if one.id == other.id:
            raise DataError(f'a split needs different videos, got "{one.id}" twice; keep one of the two')
    groups: dict[tuple[bool, str], list[VideoRecord]] = {}
    for record in ordered:
        groups.setdefault((record.group is None, record.group or record.id), []).append(record)
    if len(groups) < 2:
        raise DataError(f'a split needs at least 2 groups of videos, got 1 ("{ordered[0].group}"); annotate another')
    names = {name: k for k, name in enumerate(sorted({label for record in ordered for label in record.labels}))}
    # Videos without any label are spread evenly, too, as if that were a label.
    counts = np.zeros((len(groups), len(names) + 1), dtype=int)
    for row, members in zip(counts, groups.values(), strict=True):
        for record in members:
            row[[names[label] for label in record.labels] or -1] += 1
    sizes = np.array([len(members) for members in groups.values()])
    chosen = _choose(_Groups(counts, sizes, share, wanted), np.random.default_rng(seed))
    ids = {record.id for members, is_in in zip(groups.values(), chosen, strict=True) if is_in for record in members}
    return [record for record in records if record.id in ids], [record for record in records if record.id not in ids]


@dataclass(frozen=True)
class _Groups:
    """What is to be split.

    Attributes
    ----------
    labels : ndarray, (G, K)
        How many videos of a group have a label.
    sizes : ndarray, (G,)
        Videos of a group.
    share : float
        Share of the videos, and of those with each label, that is to be chosen.
    wanted : int
        Videos to choose.
    """

    labels: np.ndarray
    sizes: np.ndarray
    share: float
    wanted: int

    @cached_property
    def counts(self) -> np.ndarray:
        """Videos with each label, (K,)."""
        return self.labels.sum(axis=0)

    def lacking(self, in_chosen: np.ndarray) -> np.ndarray:
        """Return which labels (..., K) the chosen part lacks (with a share of a whole video) or the others lack."""
        several = (self.labels > 0).sum(axis=0) >= 2
        none_chosen = (in_chosen == 0) & (self.share * self.counts >= 1)
        return several & (none_chosen | (in_chosen == self.counts))


def _choose(groups: _Groups, rng: np.random.Generator) -> np.ndarray:
    """Choose about ``wanted`` videos, stratified: a mask of groups (G,). The best of some attempts, if need be."""
    best, best_lacking = None, np.inf
    for _ in range(ATTEMPTS):
        chosen = _deal(groups, rng)
        _mend_size(groups, chosen)
        lacking = _mend_coverage(groups, chosen)
        if lacking < best_lacking:
            best, best_lacking = chosen, lacking
        if lacking == 0:
            break
    assert best is not None
    return best


def _deal(groups: _Groups, rng: np.random.Generator) -> np.ndarray:
    """Deal the groups out, rare labels first, as in Sechidis et al., On the Stratification of Multi-Label Data (2011).

    Each goes where it keeps the counts of its labels, and of all videos so far, nearest to the share.
    """
    labels, counts, share = groups.labels, groups.counts, groups.share
    rarity = np.where(labels > 0, counts, groups.sizes.sum()).min(axis=1)
    order = rng.permutation(len(labels))
    chosen = np.zeros(len(labels), dtype=bool)
    surplus, total = np.zeros(labels.shape[1]), 0.0  # how many the chosen part has above its share, so far
    for group in order[np.argsort(rarity[order], kind="stable")]:
        own = labels[group] > 0
        # Choosing n videos adds (1 - share) n to a surplus s, the other part takes share n: the difference of the
        # squares.
        videos = np.append(labels[group, own], groups.sizes[group])
        squares = videos * (2 * np.append(surplus[own], total) + (1 - 2 * share) * videos)
        chosen[group] = squares @ np.append(rarity[group] / counts[own], 1.0) < 0
        surplus[own] += (chosen[group] - share) * labels[group, own]
        total += (chosen[group] - share) * groups.sizes[group]
    return chosen


def _mend_size(groups: _Groups, chosen: np.ndarray) -> None:
    """Move the groups that disturb the counts least while that brings the number of videos nearer to ``wanted``."""
    labels, sizes = groups.labels, groups.sizes
    while missing := groups.wanted - sizes[chosen].sum():
        step = np.sign(missing)
        surplus = labels[chosen].sum(axis=0) - groups.share * groups.counts
        disturbance = (labels * (2 * step * surplus + labels) / np.maximum(groups.counts, 1)).sum(axis=1)
        movable = np.flatnonzero((chosen != (step > 0)) & (sizes < 2 * abs(missing)))
        if not len(movable):
            break
        chosen[movable[disturbance[movable].argmin()]] = step > 0
    # Large groups may leave a part empty.
    if chosen.all() or not chosen.any():
        chosen[sizes.argmin()] ^= True


def _mend_coverage(groups: _Groups, chosen: np.ndarray) -> int:
    """Swap groups while that gives a part a label that it lacks; return how many labels parts still lack.

    That may put the number of videos off by half a group, no further.
    """
    labels, sizes, lacking = groups.labels, groups.sizes, groups.lacking
    in_chosen = labels[chosen].sum(axis=0)
    allowed = max(abs(sizes[chosen].sum() - groups.wanted), sizes.max() / 2)
    improved = True
    while improved:
        improved = False
        for label in np.flatnonzero(lacking(in_chosen)):
            for group in np.flatnonzero(labels[:, label]):
                sign = -1 if chosen[group] else 1
                surplus = sizes[chosen].sum() - groups.wanted + sign * (sizes[group] - sizes)
                partners = np.flatnonzero((chosen != chosen[group]) & (abs(surplus) <= allowed))
                if not len(partners):
                    continue
                after = in_chosen + sign * (labels[group] - labels[partners])
                best = lacking(after).sum(axis=1).argmin()
                if lacking(after[best]).sum() < lacking(in_chosen).sum():
                    chosen[[group, partners[best]]] = chosen[[partners[best], group]]
                    in_chosen, improved = after[best], True
                    break
    return int(lacking(in_chosen).sum())
