from __future__ import annotations

import json

import pytest

from nni_nastc.data.check import ClassCount, check_annotations, end_s, pick_timelines
from nni_nastc.data.records import Segment, VideoRecord
from nni_nastc.errors import AnnotationError


def composed():
    def video(subset, activity, segments):
        return {"subset": subset, "activity": activity, "n_frames": 60, "segments": segments}

    return {
        "fps": 10.0,
        "activities": ["tea", "milk"],
        "unit_actions": ["stir", "pour", "rest"],
        "videos": {
            "a": video("train", "tea", [["pour", 1, 30], ["stir", 31, 60], ["pour", 60, 60]]),
            "b": video("train", "milk", [["pour", 1, 90], ["rest", 5, 4]]),
            "c": video("test", "tea", [["stir", 70, 60], ["rest", 9, 8]]),
        },
    }


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(composed()))
    return tmp_path / "a.json"


def test_counts(path):
    report = check_annotations(path)
    assert report.activities == (ClassCount("tea", 1, 1), ClassCount("milk", 1, 0))
    assert report.classes == (ClassCount("stir", 1, 1), ClassCount("pour", 2, 0), ClassCount("rest", 1, 1)), (
        "a segment without length counts for its video"
    )
    assert {subset: (part.videos, part.segments) for subset, part in report.parts.items()} == {
        "train": (2, 4),
        "test": (1, 0),
    }
    assert report.parts["train"].durations_s.tolist() == [6.0, 6.0]
    assert report.problems == {
        "segment that ends before it starts": 3,
        "segment that reaches outside the video": 1,
    }
    assert report.examples["segment that ends before it starts"] == "b: rest 0.4-0.4 s of 6 s", "the first of its kind"
    assert report.to_json() == {
        "subsets": {"train": 2, "test": 1},
        "classes": 3,
        "activities": 2,
        "problems": report.problems,
    }


def test_against_a_store(path):
    report = check_annotations(path, stored={"c", "z", "a", "y"})
    assert (report.missing, report.unannotated) == (("b",), ("y", "z"))
    assert report.to_json()["store"] == {"missing": ["b"], "unannotated": ["y", "z"]}
    fitting = check_annotations(path, stored=["a", "b", "c"])
    assert (fitting.missing, fitting.unannotated) == ((), ())


def test_strict(path):
    with pytest.raises(AnnotationError) as caught:
        check_annotations(path).require_no_problems(path)
    assert "has 4 problems" in str(caught.value)
    assert 'video "b": segment that reaches outside the video, pour 0-9 s of 6 s' in str(caught.value)


@pytest.mark.parametrize("parts", [[], ["pour", "stir"]])
def test_the_generic_format(tmp_path, parts):
    label = "pour" if parts else "tea"
    videos = {
        "a": {"subset": "train", "labels": ["tea"], "segments": [[label, 0, 2], [label, 3, 7]]},
        "b": {"subset": "test", "labels": [], "duration_s": 5},
    }
    content = {"classes": ["tea", "milk"], "task": "multi-label", "videos": videos}
    (tmp_path / "a.json").write_text(json.dumps({**content, "parts": parts} if parts else content))
    report = check_annotations(tmp_path / "a.json")
    assert report.classes == tuple(ClassCount(name, int(name == label), 0) for name in parts or ("tea", "milk"))
    assert report.activities == ((ClassCount("tea", 1, 0), ClassCount("milk", 0, 0)) if parts else ())
    assert report.problems == {}
    assert report.parts["test"].unlabelled == 1
    assert [part.durations_s.tolist() for part in report.parts.values()] == [[7.0], [5.0]]
    report.require_no_problems(tmp_path)


def test_end():
    segments = (Segment("x", 1, 9), Segment("x", 2, 4))
    assert end_s(VideoRecord("a", "train", (), segments, 12.0)) == 12.0
    assert end_s(VideoRecord("a", "train", (), segments)) == 9
    assert end_s(VideoRecord("a", "train", ())) == 0


def test_pick_timelines():
    records = [VideoRecord(str(n), "train", (), (Segment("x", 0, 1),) if n % 2 else ()) for n in range(20)]
    assert [record.id for record in pick_timelines(records, 3)] == ["1", "9", "19"]
    assert [record.id for record in pick_timelines(records, 1)] == ["1"]
    assert len(pick_timelines(records, 50)) == 10
    assert pick_timelines(records[:1], 3) == []


@pytest.mark.parametrize(
    ("dataset", "counts"),
    [
        ("charades", [7985, 1863, 157, 0, 12]),
        ("multithumos", [200, 213, 65, 0, 131]),
        ("breakfast", [1357, 355, 48, 10, 13]),
    ],
)
def test_the_real_files(shared, dataset, counts):
    content = check_annotations(shared / "annotations", dataset).to_json()
    found = [content["subsets"]["train"], content["subsets"]["test"], content["classes"], content["activities"]]
    assert [*found, sum(content["problems"].values())] == counts
