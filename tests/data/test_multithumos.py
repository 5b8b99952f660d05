from __future__ import annotations

import json
from collections import Counter

import pytest

from nni_nastc.data.annotations import Segment, load_annotations
from nni_nastc.errors import AnnotationError

NAMES = [f"Sport{number}" for number in range(65, 0, -1)]
CLASS_LIST = "".join(f"{number} {name}\n" for number, name in enumerate(NAMES, start=1))
DEFAULT_LINES = "video_validation_0000266 72.80 76.40\n"


def write(path, class_list=CLASS_LIST, **classes):
    """Write the official files; a class of None has no file."""
    (path / "class_list.txt").write_text(class_list)
    (path / "annotations").mkdir()
    contents = {**dict.fromkeys(NAMES, DEFAULT_LINES), "Sport7": "video_test_0000004 1.5 2\n", **classes}
    for name, lines in contents.items():
        if lines is not None:
            (path / "annotations" / f"{name}.txt").write_text(lines)
    return path


def load(path):
    return load_annotations(path, dataset="multithumos")


def message(path):
    with pytest.raises(AnnotationError) as caught:
        load(path)
    text = str(caught.value)
    assert "\n" not in text, f"more than one line: {text!r}"
    return text


@pytest.mark.parametrize("below", ["", "annotations"])
def test_small_files(tmp_path, below):
    lines = "video_test_0000004 7.0 8.5\r\nvideo_validation_0000001 0.10 0.30 \r\n\r\nvideo_test_0000004 1 2\r\n"
    annotations = load(write(tmp_path, Sport65=lines) / below)
    assert annotations.classes == tuple(NAMES), "in the order of their numbers"
    assert annotations.task == "multi-label"
    test, train, most = annotations.records
    assert (test.id, test.subset, test.file) == ("video_test_0000004", "test", "video_test_0000004.mp4")
    assert test.labels == ("Sport65", "Sport7")
    assert test.segments == (Segment("Sport65", 7, 8.5), Segment("Sport65", 1, 2), Segment("Sport7", 1.5, 2))
    assert (train.id, train.subset, train.duration_s) == ("video_validation_0000001", "train", None)
    assert (most.id, len(most.labels)) == ("video_validation_0000266", 63)


def test_odd_segments_keep_their_class(tmp_path):
    annotations = load(write(tmp_path, Sport1="video_test_0000009 8.0 8.0\n"))
    record = next(record for record in annotations.records if record.id == "video_test_0000009")
    assert (record.labels, record.segments) == (("Sport1",), ())
    (notice,) = annotations.notices
    assert notice.kind == "segment that ends before it starts"
    assert notice.detail == "Sport1 8-8 s (annotations/Sport1.txt, line 1)"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"Sport3": DEFAULT_LINES + "video_test_1 2.0\n"}, "annotations/Sport3.txt, line 2: a line is video_test_N or"),
        ({"Sport3": "video_test_1 2.0 3.0 4.0\n"}, 'got "video_test_1 2.0 3.0 4.0"'),
        ({"Sport3": "video_test_1 2.0 x\n"}, 'got "video_test_1 2.0 x"'),
        ({"Sport3": "video_test_1 2.0 inf\n"}, 'got "video_test_1 2.0 inf"'),
        ({"Sport3": "video_train_1 2.0 3.0\n"}, 'got "video_train_1 2.0 3.0"'),
        ({"Sport3": ""}, "annotations/Sport3.txt is empty"),
        ({"Sport3": None}, "annotations/Sport3.txt is missing"),
        ({"Chess": DEFAULT_LINES}, 'annotations/Chess.txt: unknown class "Chess", known are those of class_list.txt'),
        ({"class_list": CLASS_LIST[:-10]}, "class_list.txt must hold 65 classes, numbered from 1, got 64 from 1 to 64"),
        ({"class_list": CLASS_LIST + "66 Chess\n"}, "must hold 65 classes, numbered from 1, got 66 from 1 to 66"),
        ({"class_list": CLASS_LIST + "Chess\n"}, 'list.txt, line 66: a class is a number and a name, got "Chess"'),
        ({"class_list": CLASS_LIST + "9 Chess\n"}, 'line 66: the classes must differ, got "9 Chess" again'),
        ({"class_list": ""}, "class_list.txt is empty"),
        ({"Sport7": DEFAULT_LINES}, "there is no test video (video_test_*)"),
    ],
)
def test_it_refuses(tmp_path, changes, told):
    assert told in message(write(tmp_path, **changes))


def test_no_class_list(tmp_path):
    write(tmp_path)
    (tmp_path / "class_list.txt").unlink()
    assert message(tmp_path).endswith("has 1 problem: class_list.txt is missing")


def test_another_encoding(tmp_path):
    write(tmp_path)
    (tmp_path / "annotations" / "Sport3.txt").write_bytes(b"video_test_1 1 2\n\xff\xfe")
    assert "annotations/Sport3.txt, line 2: is not UTF-8 text" in message(tmp_path)


def test_no_folder(tmp_path):
    assert "no such file or folder" in message(tmp_path / "none")


def video(**changes):
    return {"subset": "testing", "duration": 20.0, "actions": [[12, 1, 4], [3, 2.5, 9.0]], **changes}


def write_json(path, content):
    file = path / "any_name.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_json_without_names(tmp_path):
    annotations = load(write_json(tmp_path, {"b": video(subset="training", actions=[]), "a": video()}))
    assert annotations.classes == tuple(str(number) for number in range(1, 66))
    first, second = annotations.records
    assert (first.id, first.subset, first.labels, first.duration_s) == ("a", "test", ("3", "12"), 20.0)
    assert first.segments == (Segment("12", 1, 4), Segment("3", 2.5, 9))
    assert (second.subset, second.labels) == ("train", ())


def test_json_with_names(tmp_path):
    (tmp_path / "class_list.txt").write_text(CLASS_LIST)
    annotations = load(write_json(tmp_path, {"b": video(subset="training"), "a": video()}))
    assert annotations.records[0].labels == (NAMES[2], NAMES[11])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"a": video(subset="test")}, 'video "a": subset must be one of training, testing, got "test"'),
        ({"a": video(subset=[1])}, "got [1]"),
        ({"a": video(duration=0)}, 'video "a": duration must be seconds above 0, got 0'),
        ({"a": video(actions={})}, 'video "a": actions must be a list, got {}'),
        ({"a": video(actions=[[66, 1, 2]])}, 'video "a": unknown class 66, known are 1 to 65'),
        ({"a": video(actions=[["1", 1, 2]])}, 'unknown class "1"'),
        ({"a": video(actions=[[1, 2]])}, "an action is [class number, start, end] in seconds, got [1, 2]"),
        ({"a": {"subset": "testing"}}, 'video "a": duration is missing'),
        ({"a": []}, 'video "a" must be an object, got []'),
        ({"a": video()}, "there is no train video"),
        ('{"a": {"subset": "testing", "subset": "training", "duration": 1, "actions": []}}', '"subset" may be given'),
        ([], "must hold a JSON object with at least one video, got []"),
        ("{", "is not JSON in UTF-8"),
    ],
)
def test_json_that_it_refuses(tmp_path, content, told):
    assert told in message(write_json(tmp_path, content))


def test_the_real_file(shared):
    path = shared / "annotations" / "multithumos.json"
    annotations = load(path)
    assert Counter(record.subset for record in annotations.records) == {"train": 200, "test": 213}
    assert annotations.classes == tuple(str(number) for number in range(1, 66))
    kinds = Counter(notice.kind for notice in annotations.notices)
    assert kinds == {
        "segment that ends before it starts": 7,
        "segment outside the video": 60,
        "segment that reaches outside the video": 64,
    }
    raw = json.loads(path.read_text())
    for record in annotations.records:
        assert record.labels == tuple(str(n) for n in sorted({action[0] for action in raw[record.id]["actions"]}))
        assert all(0 <= s.start_s < s.end_s <= record.duration_s for s in record.segments), record.id
    assert load(shared / "annotations") == annotations, "the folder stands for the file in it"
