from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from nni_nastc.data.annotations import load_annotations
from nni_nastc.data.records import VideoRecord
from nni_nastc.data.splits import halves, hold_out
from nni_nastc.errors import DataError


def videos(labels):
    """A record for each entry: a label, or a tuple of labels."""
    return [
        VideoRecord(f"v{i:04d}", "train", (own,) if isinstance(own, str) else tuple(own))
        for i, own in enumerate(labels)
    ]


def skewed_single():
    return videos(["often"] * 61 + ["some"] * 17 + ["few"] * 5 + ["pair"] * 2 + ["once"])


def skewed_multi(seed=0, count=150):
    """Class k of 12 is in a share of 0.6 / 2 ** k of the videos, and in at least two; some videos have no class."""
    rng = np.random.default_rng(seed)
    has = rng.random((count, 12)) < 0.6 / 2.0 ** np.arange(12)
    for k in range(12):
        has[rng.choice(count, 2, replace=False), k] = True
    return videos([tuple(f"c{k:02d}" for k in np.flatnonzero(row)) for row in has])


def counts(records):
    return Counter(label for record in records for label in record.labels)


def assert_is_a_split(records, first, second):
    ids = [record.id for record in first], [record.id for record in second]
    assert not set(ids[0]) & set(ids[1]), f"in both parts: {set(ids[0]) & set(ids[1])}"
    assert sorted(ids[0] + ids[1]) == sorted(record.id for record in records)
    for part in (first, second):
        assert part == [record for record in records if record in part], "the order of the records is kept"


@pytest.mark.parametrize("make", [skewed_single, skewed_multi])
@pytest.mark.parametrize("seed", range(5))
def test_halves(make, seed):
    records = make()
    first, second = halves(records, seed)
    assert_is_a_split(records, first, second)
    assert len(first) - len(second) == len(records) % 2
    for label, count in counts(records).items():
        parts = counts(first)[label], counts(second)[label]
        assert abs(parts[0] - parts[1]) <= max(2, 0.1 * count), f"{label}: {parts} of {count}"
        assert count < 2 or min(parts) > 0, f"{label}: {parts}"


@pytest.mark.parametrize("count", [4, 7, 10, 31])
def test_single_labels_are_halved_to_within_one(count):
    records = videos([f"c{i % 3}" for i in range(count)])
    for seed in range(5):
        first, second = halves(records, seed)
        for label in ("c0", "c1", "c2"):
            assert abs(counts(first)[label] - counts(second)[label]) <= 1, f"seed {seed}, {label}"


@pytest.mark.parametrize("make", [skewed_single, skewed_multi])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.8])
def test_hold_out(make, share):
    records = make()
    kept, held = hold_out(records, share, seed=3)
    assert_is_a_split(records, kept, held)
    assert len(held) == round(share * len(records))
    for label, count in counts(records).items():
        assert abs(counts(held)[label] - share * count) <= max(2, 0.1 * count), f"{label}: {counts(held)[label]}"
        assert count < 2 or counts(kept)[label] > 0, f"{label} has {count} videos, none of them is kept"
        assert share * count < 1 or counts(held)[label] > 0, f"{label} has {count} videos, none of them is held out"


def test_many_small_classes_do_not_lose_their_last():
    """A tenth of ten classes of four videos is four videos: one each of four classes, never a whole class."""
    records = videos([f"c{i % 10}" for i in range(40)])
    for seed in range(10):
        kept, held = hold_out(records, 0.1, seed)
        assert len(held) == 4
        assert max(counts(held).values()) == 1, f"seed {seed}: {counts(held)}"
        assert min(counts(kept).values()) == 3


def test_a_class_of_one_video_is_kept():
    for seed in range(10):
        kept, _ = hold_out(skewed_single(), 0.1, seed)
        assert counts(kept)["once"] == 1, f"seed {seed}"


def test_videos_without_a_class_are_spread_too():
    records = videos([()] * 20 + ["a"] * 20)
    first, second = halves(records, 0)
    assert [sum(not record.labels for record in part) for part in (first, second)] == [10, 10]


def most_covered(records):
    """Over all halves: the largest number of classes of two videos or more that are in both."""
    common = [label for label, count in counts(records).items() if count >= 2]
    best = 0
    for picked in itertools.combinations(range(len(records)), len(records) // 2):
        parts = [counts(records[i] for i in picked), counts(r for i, r in enumerate(records) if i not in picked)]
        best = max(best, sum(parts[0][label] > 0 and parts[1][label] > 0 for label in common))
    return common, best


@pytest.mark.parametrize("seed", range(40))
def test_small_sets_of_shared_rare_labels_are_covered_as_well_as_can_be(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 11))
    has = rng.random((size, 8)) < rng.uniform(0.2, 0.5)
    records = videos([tuple(f"c{k}" for k in np.flatnonzero(row)) for row in has])
    common, best = most_covered(records)
    first, second = halves(records, seed)
    covered = sum(counts(first)[label] > 0 and counts(second)[label] > 0 for label in common)
    assert covered == best, f"{covered} of {len(common)} classes are in both halves, {best} can be"


@pytest.mark.parametrize("split", [lambda r, s: halves(r, s), lambda r, s: hold_out(r, 0.2, s)])
def test_the_seed_and_the_videos_decide(split):
    records = skewed_multi()
    shuffled = [records[i] for i in np.random.default_rng(1).permutation(len(records))]
    ids = [{record.id for record in split(records, seed)[0]} for seed in (0, 0, 1)]
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]
    assert {record.id for record in split(shuffled, 0)[0]} == ids[0], "the order of the records makes no difference"


def test_two_videos():
    records = videos(["a", "b"])
    assert [len(part) for part in halves(records, 0)] == [1, 1]
    assert [len(part) for part in hold_out(records, 0.01)] == [1, 1]
    assert [len(part) for part in hold_out(records, 0.99)] == [1, 1]


@pytest.mark.parametrize("split", [lambda r: halves(r, 0), hold_out])
@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "at least 2 training videos, got none; annotate more"),
        (videos(["a"]), r'at least 2 training videos, got 1 \("v0000"\); annotate more videos as train'),
        (videos(["a", "b"]) + videos(["a"]), 'different videos, got "v0000" twice'),
    ],
)
def test_it_refuses(split, records, message):
    with pytest.raises(DataError, match=message):
        split(records)


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_it_refuses_a_share(share):
    with pytest.raises(DataError, match=f"share must be above 0 and below 1, got {share}"):
        hold_out(videos(["a", "b"]), share)


def grouped(seed, persons=12):
    """Persons who do 2 to 9 of 6 activities each, filmed by 1 to 4 cameras; two videos of nobody."""
    rng = np.random.default_rng(seed)
    records = videos(["a0", "a1"])
    for person in range(persons):
        for activity in rng.choice(6, rng.integers(2, 10)):
            records += [
                VideoRecord(f"p{person}_{len(records)}_{camera}", "train", (f"a{activity}",), group=f"p{person}")
                for camera in range(rng.integers(1, 5))
            ]
    return records


@pytest.mark.parametrize("split", [lambda r, s: halves(r, s), lambda r, s: hold_out(r, 0.2, s)])
@pytest.mark.parametrize("seed", range(10))
def test_no_group_is_in_two_parts(split, seed):
    records = grouped(seed)
    one, other = split(records, seed)
    assert_is_a_split(records, one, other)
    shared_groups = {record.group for record in one} & {record.group for record in other} - {None}
    assert not shared_groups, f"in both parts: {shared_groups}"
    assert [r.id for r in split(list(reversed(records)), seed)[0]] == [r.id for r in reversed(one)]


@pytest.mark.parametrize("seed", range(10))
def test_groups_are_halved_nearly(seed):
    records = grouped(seed, persons=30)
    largest = max(Counter(record.group for record in records).values())
    first, second = halves(records, seed)
    assert abs(len(first) - len(second)) <= largest, f"{len(first)} and {len(second)}, groups up to {largest}"
    for label, count in counts(records).items():
        assert 0.25 <= counts(first)[label] / count <= 0.75, f"{label}: {counts(first)[label]} of {count}"


def test_groups_of_one_are_as_no_groups():
    records = skewed_multi()
    alone = [replace(record, group=f"g{record.id}") for record in records]
    assert [r.id for r in halves(alone, 3)[0]] == [r.id for r in halves(records, 3)[0]]


def test_a_class_of_one_group_is_kept():
    records = [replace(r, group=f"g{i // 4}") for i, r in enumerate(videos(["a"] * 4 + ["b"] * 36))]
    for seed in range(10):
        kept, held = hold_out(records, 0.1, seed)
        assert counts(kept)["a"] == 4, f"seed {seed}: {counts(held)}"
        assert len(held) == 4


def test_groups_that_are_too_large_for_the_share():
    records = [replace(r, group=f"g{i // 10}") for i, r in enumerate(videos(["a", "b"] * 10))]
    assert [len(part) for part in hold_out(records, 0.1, 0)] == [10, 10]


def test_it_refuses_one_group():
    with pytest.raises(DataError, match=r'at least 2 groups of videos, got 1 \("P03"\)'):
        halves([replace(record, group="P03") for record in videos(["a", "b"])], 0)


def test_breakfast_is_split_by_person(shared):
    annotations = load_annotations(shared / "annotations" / "breakfast.json", dataset="breakfast")
    first, second = halves(annotations.of("train"), 0)
    persons = {record.group for record in first}, {record.group for record in second}
    assert not persons[0] & persons[1]
    assert len(persons[0]) + len(persons[1]) == 44
    assert abs(len(first) - len(second)) < 40
