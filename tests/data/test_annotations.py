from __future__ import annotations

import json
from collections import Counter
from typing import get_args

import pytest

from nni_nastc.config import DatasetName
from nni_nastc.data.annotations import LOADERS, load_annotations
from nni_nastc.data.records import Annotations, Problems, Segment, VideoRecord, clip_segment
from nni_nastc.errors import AnnotationError

REVERSED = "segment that ends before it starts"
OUTSIDE = "segment outside the video"
REACHES = "segment that reaches outside the video"


def generic(**changes):
    content = {
        "classes": ["tea", "coffee"],
        "task": "multi-label",
        "videos": {
            "a": {"subset": "train", "labels": ["coffee", "tea"]},
            "b": {"subset": "test", "segments": [["coffee", 0, 2.5], ["coffee", 1, 4]], "duration_s": 4},
        },
    }
    return {**content, **changes}


def composed(segments=(("pour", 1, 30), ("stir", 31, 60)), **changes):
    content = {
        "fps": 15.0,
        "activities": ["tea", "coffee"],
        "unit_actions": ["stir", "pour", "rest"],
        "videos": {"a": {"subset": "train", "activity": "coffee", "n_frames": 60, "segments": list(segments)}},
    }
    return {**content, **changes}


@pytest.fixture
def load(tmp_path):
    def load_content(content, target=None):
        path = tmp_path / "annotations.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return load_annotations(path, target)

    return load_content


@pytest.fixture
def message(load):
    def message_of(content, target=None):
        with pytest.raises(AnnotationError) as caught:
            load(content, target)
        text = str(caught.value)
        assert "\n" not in text, f"more than one line: {text!r}"
        return text

    return message_of


def one_video(video, **changes):
    return generic(videos={"a": video}, **changes)


class TestGeneric:
    def test_labels_and_segments(self, load):
        annotations = load(generic())
        assert annotations.classes == ("tea", "coffee")
        assert annotations.task == "multi-label"
        assert annotations.records == (
            VideoRecord("a", "train", ("tea", "coffee")),
            VideoRecord("b", "test", ("coffee",), (Segment("coffee", 0.0, 2.5), Segment("coffee", 1.0, 4.0)), 4),
        )
        assert annotations.notices == ()

    def test_a_video_may_have_no_class(self, load):
        assert load(one_video({"subset": "train", "labels": []})).records[0].labels == ()

    def test_parts_are_no_classes(self, load):
        video = {"subset": "train", "labels": ["tea"], "segments": [["pour", 0, 1]]}
        annotations = load(one_video(video, task="single-label", parts=["pour"], source="mine"))
        assert annotations.parts == ("pour",)
        assert annotations.records[0].labels == ("tea",)
        assert annotations.records[0].segments == (Segment("pour", 0.0, 1.0),)

    def test_a_byte_order_mark_is_no_problem(self, tmp_path):
        path = tmp_path / "a.json"
        path.write_text(json.dumps(generic()), encoding="utf-8-sig")
        assert len(load_annotations(path).records) == 2

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"classes": []}, "classes must be a list of at least one name, got []"),
            ({"classes": ["tea", 3]}, 'got ["tea", 3]'),
            ({"classes": ["tea", "coffee", "tea"]}, 'classes must differ, got "tea" 2 times'),
            ({"task": "single"}, 'task must be one of single-label, multi-label, got "single"'),
            ({"classes": ["tea"], "task": "single-label"}, "single-label needs at least 2 classes, got 1"),
            ({"parts": ["tea"]}, 'parts must not be classes, got "tea"'),
            ({"fps": 3}, 'the file: unknown key "fps", known are classes, task, videos, parts, source'),
            ({"videos": {}}, "at least one video, got {}"),
            ({"videos": ["a"]}, 'got ["a"]'),
            ({"videos": {"a": 3}}, 'video "a" must be an object, got 3'),
            ({"videos": {"x/a": {"subset": "train", "labels": []}}}, 'without folder and suffix, got "x/a"'),
        ],
    )
    def test_it_refuses_files(self, message, changes, told):
        assert told in message(generic(**changes))

    @pytest.mark.parametrize(
        ("video", "told"),
        [
            ({"subset": "val", "labels": []}, 'video "a": subset must be one of train, test, got "val"'),
            ({"labels": []}, 'video "a": subset is missing'),
            ({"subset": "train"}, 'video "a": labels are missing'),
            ({"subset": "train", "labels": "tea"}, 'video "a": labels must be a list, got "tea"'),
            ({"subset": "train", "labels": ["te"]}, '"te", known are ["tea", "coffee"] (did you mean tea?)'),
            ({"subset": "train", "labels": [["tea"]]}, 'unknown class ["tea"]'),
            ({"subset": "train", "label": ["tea"], "labels": []}, 'unknown key "label"'),
            ({"subset": "train", "labels": [], "duration_s": 0}, "duration_s must be a number above 0, got 0"),
            ({"subset": "train", "labels": [], "duration_s": None}, "above 0, got null"),
            ({"subset": "train", "segments": [["tea", 0]]}, 'got ["tea", 0]'),
            ({"subset": "train", "segments": [["tea", "0", "1"]]}, 'got ["tea", "0", "1"]'),
            ({"subset": "train", "segments": [["tea", 0, True]]}, 'got ["tea", 0, true]'),
            ({"subset": "train", "segments": [["tea", 0, 10**400]]}, 'with seconds as numbers, got ["tea", 0, 1000'),
            ({"subset": "train", "segments": [["tea", 2, 2]]}, 'end after its start, got ["tea", 2, 2]'),
            ({"subset": "train", "segments": [["tea", 3, 2]]}, 'end after its start, got ["tea", 3, 2]'),
            ({"subset": "train", "segments": [["tea", -1, 2]]}, 'start at 0 or later and end after its start, got'),
            ({"subset": "train", "segments": [["tea", 0, 9]], "duration_s": 8.5}, 'duration_s 8.5, got ["tea", 0, 9]'),
            ({"subset": "train", "segments": [["wine", 0, 9]]}, 'unknown class "wine"'),
            ({"subset": "train", "labels": ["tea"], "segments": [["coffee", 0, 9]]}, 'of its segments, ["coffee"]'),
        ],
    )
    def test_it_refuses_videos(self, message, video, told):
        assert told in message(one_video(video))

    @pytest.mark.parametrize("labels", [[], ["tea", "coffee"]])
    def test_single_label_needs_one(self, message, labels):
        told = message(one_video({"subset": "train", "labels": labels}, task="single-label"))
        assert f"needs exactly 1 class, got {json.dumps(labels)}" in told

    def test_parts_need_labels_and_are_checked(self, message):
        told = message(one_video({"subset": "train", "segments": [["tea", 0, 1]]}, parts=["pour"]))
        assert "labels are missing" in told
        assert 'unknown part "tea", known are ["pour"]' in told

    def test_missing_keys(self, message):
        told = message({})
        assert "has 3 problems" in told
        for key in ("classes", "task", "videos"):
            assert f"the file: {key} is missing" in told

    def test_infinite_times(self, message):
        text = json.dumps(one_video({"subset": "train", "segments": [["tea", 0, 1]]})).replace("1]", "Infinity]")
        assert 'got ["tea", 0, Infinity]' in message(text)

    def test_an_id_that_is_there_twice(self, message):
        text = json.dumps(generic()).replace('"b"', '"a"')
        assert '"a" may be given only once, got it 2 times' in message(text)

    def test_all_problems_at_once_the_first_ten_by_name(self, message):
        videos = {f"v{i}": {"subset": "train", "labels": ["wine"]} for i in range(13)}
        told = message(generic(videos=videos, task="other"))
        assert "has 14 problems: task must be" in told
        assert told.endswith("; and 4 more"), told
        assert [f'"v{i}"' in told for i in range(13)] == [True] * 9 + [False] * 4

    def test_line_breaks_in_names_stay_out_of_the_message(self, message):
        assert 'video "a b"' in message(generic(videos={"a\nb": {"subset": "train"}}))


class TestComposed:
    def test_activities_are_the_default(self, load):
        annotations = load(composed())
        assert annotations == load(composed(), "activities")
        assert (annotations.classes, annotations.task) == (("tea", "coffee"), "single-label")
        assert annotations.parts == ("stir", "pour", "rest")
        assert annotations.records == (
            VideoRecord("a", "train", ("coffee",), (Segment("pour", 0.0, 2.0), Segment("stir", 2.0, 4.0)), 4.0),
        )

    def test_unit_actions_are_a_set_in_the_order_of_the_classes(self, load):
        segments = [("pour", 1, 30), ("stir", 31, 45), ("pour", 46, 60)]
        annotations = load(composed(segments), "unit-actions")
        assert (annotations.classes, annotations.task) == (("stir", "pour", "rest"), "multi-label")
        assert annotations.records[0].labels == ("stir", "pour")
        assert annotations.parts == ()

    @pytest.mark.parametrize(
        ("segment", "kept", "kinds"),
        [
            (("rest", 1, 1), (0.0, 1 / 15), []),
            (("rest", 60, 60), (59 / 15, 4.0), []),
            (("rest", 46, 90), (3.0, 4.0), []),
            (("rest", 46, 91), (3.0, 4.0), [REACHES]),
            (("rest", -3, 15), (0.0, 1.0), [REACHES]),
            (("rest", 1, 0), None, [REVERSED]),
            (("rest", 30, 20), None, [REVERSED]),
            (("rest", 61, 60), None, [REVERSED]),
            (("rest", 70, 62), None, [REVERSED, OUTSIDE]),
            (("rest", 61, 70), None, [OUTSIDE]),
            (("rest", 61, 99), None, [OUTSIDE, REACHES]),
            (("rest", -9, 0), None, [OUTSIDE, REACHES]),
        ],
    )
    def test_odd_segments_keep_their_label(self, load, segment, kept, kinds):
        annotations = load(composed([segment]), "unit-actions")
        record = annotations.records[0]
        assert record.labels == ("rest",)
        assert [(s.start_s, s.end_s) for s in record.segments] == ([kept] if kept else [])
        assert [(n.kind, n.video) for n in annotations.notices] == [(kind, "a") for kind in kinds]

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"fps": 0}, "fps must be a number above 0, got 0"),
            ({"activities": "tea"}, 'activities must be a list of at least one name, got "tea"'),
            ({"classes": []}, 'unknown key "classes"'),
            ({"segments": [("mix", 1, 3)]}, 'video "a": unknown unit-action "mix", known are ["stir", "pour", "rest"]'),
            ({"segments": [("stir", 1, 3.5)]}, 'got ["stir", 1, 3.5]'),
            ({"segments": [("stir", 1)]}, 'got ["stir", 1]'),
        ],
    )
    def test_it_refuses(self, message, changes, told):
        assert told in message(composed(**changes))

    def test_it_refuses_videos(self, message):
        told = message(composed(videos={"a": {"subset": 1, "activity": "wine", "n_frames": 0, "segments": {}}}))
        for problem in ("test, got 1", 'unknown activity "wine"', "above 0, got 0", "segments must be a list, got {}"):
            assert problem in told

    def test_a_missing_list_is_told_once(self, message):
        content = composed()
        del content["unit_actions"]
        assert "has 1 problem: the file: unit_actions is missing" in message(content)

    def test_breakfast(self, shared):
        path = shared / "annotations" / "breakfast.json"
        activities, units = load_annotations(path), load_annotations(path, "unit-actions")
        assert (len(activities.classes), len(units.classes)) == (10, 48)
        assert Counter(record.subset for record in units.records) == {"train": 1357, "test": 355}
        raw = json.loads(path.read_text())["videos"]
        for record in units.records:
            assert set(record.labels) == {segment[0] for segment in raw[record.id]["segments"]}, record.id
            assert all(0 <= s.start_s < s.end_s <= record.duration_s for s in record.segments), record.id
        tested = {label for record in units.records if record.subset == "test" for label in record.labels}
        missing = {"pour_flour", "pour_oil", "stir_tea", "take_butter", "take_topping"}
        assert set(units.classes) - tested == missing
        assert Counter(notice.kind for notice in units.notices) == {REVERSED: 13}
        assert all(len(record.labels) == 1 for record in activities.records)


class TestFiles:
    def test_no_file(self, tmp_path):
        with pytest.raises(AnnotationError, match="no such file: .*none.json"):
            load_annotations(tmp_path / "none.json")

    def test_a_folder_needs_its_dataset(self, tmp_path):
        with pytest.raises(AnnotationError, match="is a folder.* whose official .*: charades, multithumos, breakfast"):
            load_annotations(tmp_path)

    @pytest.mark.parametrize("text", ["", "{", '{"classes": [', "id,actions\na,c1 0 1"])
    def test_no_json(self, message, text):
        assert "is not JSON in UTF-8" in message(text)

    def test_another_encoding(self, tmp_path):
        path = tmp_path / "a.json"
        path.write_bytes('{"classes": ["thé"]}'.encode("latin-1"))
        with pytest.raises(AnnotationError, match="is not JSON in UTF-8"):
            load_annotations(path)

    def test_no_object(self, message):
        assert "must hold a JSON object with classes and videos, got [1]" in message([1])

    def test_targets(self, message):
        assert 'takes no target, got "activities"' in message(generic(), "activities")
        assert 'must be one of activities, unit-actions, got "actions"' in message(composed(), "actions")


def test_clip_segment_without_a_duration():
    assert clip_segment("a", "x", 1.0, 99.0, None) == (Segment("x", 1.0, 99.0), ())


def test_no_problem_is_no_error(tmp_path):
    Problems(tmp_path).raise_any()


def test_every_data_set_can_be_configured():
    assert set(get_args(DatasetName)) == set(LOADERS)


def test_unknown_data_set(tmp_path):
    with pytest.raises(AnnotationError, match='dataset must be one of json, charades, .*, got "ava"'):
        load_annotations(tmp_path, dataset="ava")


def test_videos_without_a_class_are_kept_unless_nobody_labelled_them():
    records = (VideoRecord("a", "train", ("x",)), VideoRecord("b", "train", ()), VideoRecord("c", "test", ()))
    kept = Annotations(("x",), "multi-label", records)
    assert [record.id for record in kept.of("train")] == ["a", "b"]
    assert [record.id for record in kept.of("test")] == ["c"]
    left_out = Annotations(("x",), "multi-label", records, skips_unlabelled=True)
    assert [record.id for record in left_out.of("train", unlabelled=True)] == ["a"]
    assert left_out.of("test") == []
