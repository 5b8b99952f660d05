from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from nni_nastc.data.annotations import load_annotations
from nni_nastc.data.orders import (
    CIRCLES,
    annotations_of,
    duration_names,
    order_names,
    plan_durations,
    plan_videos,
)
from nni_nastc.errors import DataError


def timelines(plan):
    """The part at every superframe (N, W), and the activities (N,)."""
    rows = [[run.part for run in video.runs for _ in range(run.first, run.end)] for video in plan]
    return np.array(rows), np.array([video.activity for video in plan])


def followers(timeline):
    return frozenset((int(a), int(b)) for a, b in zip(timeline, timeline[1:], strict=False) if a != b)


@pytest.fixture(scope="module")
def plan():
    return plan_videos(videos=64, windows=16, classes=4, seed=0)


@pytest.fixture(scope="module")
def large():
    return timelines(plan_videos(videos=4800, windows=16, classes=4, seed=1, test_share=0.25))


def test_the_runs_fill_the_video(plan):
    for video in plan:
        assert video.runs[0].first == 0
        assert video.runs[-1].end == 16
        assert all(one.end == other.first for one, other in zip(video.runs, video.runs[1:], strict=False))
        assert all(run.first < run.end for run in video.runs)
        assert len(video.runs) == 5


def test_the_order_tells_the_activity(plan):
    rows, activities = timelines(plan)
    by_followers = {frozenset((c[i], c[(i + 1) % 4]) for i in range(4)): k for k, c in enumerate(CIRCLES)}
    assert len(by_followers) == 6
    assert [by_followers[followers(row)] for row in rows] == activities.tolist()


def test_subsets_activities_and_first_parts_are_balanced(plan):
    assert Counter((video.subset, video.activity) for video in plan) == {
        **{("train", k): 12 for k in range(4)},
        **{("test", k): 4 for k in range(4)},
    }
    for subset, count in (("train", 3), ("test", 1)):
        firsts = Counter((v.activity, v.runs[0].part) for v in plan if v.subset == subset)
        assert firsts == {(activity, part): count for activity in range(4) for part in range(4)}


def test_the_last_part_is_the_first(plan):
    assert all(video.runs[0].part == video.runs[-1].part for video in plan)


def test_no_moment_tells_the_activity(large):
    rows, activities = large
    for moment in range(16):
        shares = np.array([[np.mean(rows[activities == k, moment] == part) for part in range(4)] for k in range(4)])
        assert np.abs(shares - 0.25).max() < 0.06, f"superframe {moment}: {shares}"


def test_the_time_of_the_parts_does_not_tell_the_activity(large):
    rows, activities = large
    times = np.stack([(rows == part).sum(axis=1) for part in range(4)], axis=1)
    assert times.min() >= 2, "the maximum over time sees every part in every video"
    for part in range(4):
        means = [times[activities == k, part].mean() for k in range(4)]
        assert np.ptp(means) < 0.15, f"part {part}: {means}"
    centred = np.column_stack([times[:, :3] - 4, np.ones(len(times))])
    wanted = np.eye(4)[activities]
    guess = (centred @ np.linalg.lstsq(centred[::2], wanted[::2], rcond=None)[0]).argmax(axis=1)
    assert np.mean(guess[1::2] == activities[1::2]) < 0.29, "a linear classifier of the times is at chance"


def test_the_seed_decides():
    settings = {"videos": 16, "windows": 16, "classes": 4}
    assert plan_videos(**settings, seed=0) == plan_videos(**settings, seed=0)
    assert plan_videos(**settings, seed=0) != plan_videos(**settings, seed=1)


@pytest.mark.parametrize(("videos", "classes", "test_share"), [(4, 2, 0.25), (13, 6, 0.25), (20, 3, 0.9), (21, 4, 0.0)])
def test_every_activity_is_in_both_subsets(videos, classes, test_share):
    plan = plan_videos(videos=videos, windows=8, classes=classes, seed=0, test_share=test_share)
    assert len(plan) == videos
    assert len({video.name for video in plan}) == videos
    assert {(v.subset, v.activity) for v in plan} == {(s, k) for s in ("train", "test") for k in range(classes)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 1}, "2 to 6 activities, got 1"),
        ({"classes": 7}, "2 to 6 activities, got 7"),
        ({"windows": 7}, "at least 8 superframes of 8 frames, got 7"),
        ({"videos": 7}, "at least 8 videos, got 7"),
    ],
)
def test_it_refuses(changes, message):
    with pytest.raises(DataError, match=message):
        plan_videos(**{"videos": 16, "windows": 16, "classes": 4, "seed": 0, **changes})


def test_the_annotations_load(plan, tmp_path):
    path = tmp_path / "annotations.json"
    names = order_names("ABCD", 4)
    path.write_text(json.dumps(annotations_of(plan, "ABCD", names, window_s=0.5, source="a test")))
    annotations = load_annotations(path)
    assert annotations.classes == ("A, B, C, D", "A, D, C, B", "A, B, D, C", "A, C, D, B")
    assert annotations.parts == ("A", "B", "C", "D")
    assert (len(annotations.records), annotations.task) == (64, "single-label")
    for record, video in zip(annotations.records, plan, strict=True):
        assert record.labels == (annotations.classes[video.activity],)
        assert record.duration_s == 8.0
        assert [s.label for s in record.segments] == ["ABCD"[run.part] for run in video.runs]
        assert [s.start_s for s in record.segments] == [run.first / 2 for run in video.runs]


@pytest.fixture(scope="module")
def planned():
    return timelines(plan_durations(videos=1600, windows=16, classes=4, seed=1))


class TestDurations:
    def test_all_have_the_same_order(self, planned):
        circle = frozenset((i, (i + 1) % 4) for i in range(4))
        assert {followers(row) for row in planned[0]} == {circle}
        assert (planned[0][:, 0] == planned[0][:, -1]).all()

    def test_the_longest_part_tells_the_activity(self, planned):
        rows, activities = planned
        lengths = np.stack([(rows == part).sum(1) for part in range(4)], 1)
        assert (lengths >= 2).all()
        assert (lengths.sum(1) == 16).all()
        # 2 and 5 of the 8 further superframes in eighths: 2 + 8 * 5 / 8 = 7 for the long one, 2 + 1 for each other.
        means = np.stack([lengths[activities == k].mean(0) for k in range(4)])
        np.testing.assert_allclose(means, 3 + 4 * np.eye(4), atol=0.2)
        assert (lengths.argmax(1) == activities).mean() > 0.9

    def test_first_parts_are_balanced(self):
        plan = plan_durations(videos=64, windows=16, classes=4, seed=0)
        firsts = Counter((v.activity, v.runs[0].part) for v in plan if v.subset == "train")
        assert firsts == {(activity, part): 3 for activity in range(4) for part in range(4)}

    def test_names(self):
        assert duration_names("ABCD", 2) == ["long A", "long B"]

    def test_it_refuses(self):
        with pytest.raises(DataError, match="2 to 4 activities, got 5"):
            plan_durations(videos=16, windows=16, classes=5, seed=0)
        with pytest.raises(DataError, match="at least 8 superframes of 8 frames, got 7"):
            plan_durations(videos=16, windows=7, classes=4, seed=0)
