from __future__ import annotations

import csv
import re
from collections import Counter

import pytest

from nni_nastc.data.annotations import Segment, load_annotations
from nni_nastc.data.datamodule import VideoSet
from nni_nastc.errors import AnnotationError

HEADER = "id,subject,scene,script,actions,length"
CLASSES = "".join(f"c{number:03d} Doing {number}\n" for number in range(157))
TRAIN = [
    'AAAAA,S1,Hall,"A ""quoted"" word, a comma",c003 1.00 2.50;c001 0.00 9.00;c003 4.00 5.00,9.25',
    'BBBBB,S2,Hall,"two\nlines",,12.00',
]
TEST = ["CCCCC,S3,Bath,none,c156 2.00 30.50,30.00"]


@pytest.fixture
def folder(tmp_path):
    """Small files in the official format."""
    return write(tmp_path)


def write(path, train=TRAIN, test=TEST, classes=CLASSES, header=HEADER):
    (path / "Charades_v1_classes.txt").write_text(classes)
    for subset, rows in {"train": train, "test": test}.items():
        (path / f"Charades_v1_{subset}.csv").write_text("\n".join([header, *rows, ""]))
    return path


def load(folder):
    return load_annotations(folder, dataset="charades")


def message(folder):
    with pytest.raises(AnnotationError) as caught:
        load(folder)
    text = str(caught.value)
    assert "\n" not in text, f"more than one line: {text!r}"
    return text


def test_small_files(folder):
    annotations = load(folder)
    assert annotations.classes[:2] == ("Doing 0", "Doing 1")
    assert (len(annotations.classes), annotations.task, annotations.notices) == (157, "multi-label", ())
    first, second, third = annotations.records
    assert (first.id, first.file, first.subset, first.duration_s) == ("AAAAA", "AAAAA.mp4", "train", 9.25)
    assert first.labels == ("Doing 1", "Doing 3"), "in the order of the classes, each once"
    assert first.segments == (Segment("Doing 3", 1, 2.5), Segment("Doing 1", 0, 9), Segment("Doing 3", 4, 5))
    assert (second.labels, second.segments) == ((), ())
    assert third.subset == "test"
    assert third.segments == (Segment("Doing 156", 2.0, 30.0),), "ends with the video"


def test_a_file_stands_for_its_folder(folder):
    assert load(folder / "Charades_v1_test.csv") == load(folder)


def test_videos_without_action_are_not_for_training(tmp_path):
    annotations = load(write(tmp_path, test=[*TEST, "DDDDD,S,H,none,,5"]))
    assert Counter(record.subset for record in annotations.records) == {"train": 2, "test": 2}
    assert [record.id for record in annotations.of("train")] == ["AAAAA"]
    assert [record.id for record in annotations.of("train", unlabelled=True)] == ["AAAAA"]
    assert [record.id for record in annotations.of("test")] == ["CCCCC"]
    assert [record.id for record in annotations.of("test", unlabelled=True)] == ["CCCCC", "DDDDD"]
    videos = VideoSet(store=None, annotations=annotations, timesteps=8, seed=0)
    assert [record.id for record in videos.records("test")] == ["CCCCC"]
    assert [record.id for record in videos.records("test", unlabelled=True)] == ["CCCCC", "DDDDD"]


def test_odd_segments_keep_their_class(tmp_path):
    annotations = load(write(tmp_path, train=["A,S,H,s,c001 9 4;c002 8 7;c003 1 9,6"]))
    assert annotations.records[0].labels == ("Doing 1", "Doing 2", "Doing 3")
    assert annotations.records[0].segments == (Segment("Doing 3", 1, 6),)
    assert [(notice.kind, notice.detail.split(" s ")[0]) for notice in annotations.notices] == [
        ("segment that ends before it starts", "Doing 1 9-4"),
        ("segment that ends before it starts", "Doing 2 8-7"),
        ("segment outside the video", "Doing 2 8-7"),
        ("segment that reaches outside the video", "Doing 3 1-9"),
    ]
    assert "(Charades_v1_train.csv, line 2)" in annotations.notices[0].detail


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": ["A,S,H,s,c001 1,6"]}, 'line 2: an action is a class, a start and an end in seconds, got'),
        ({"train": ["A,S,H,s,c001 1 x,6"]}, 'got "c001 1 x"'),
        ({"train": ["A,S,H,s,c001 1 nan,6"]}, 'got "c001 1 nan"'),
        ({"train": [TRAIN[1], "A,S,H,s,c200 1 2,6"]}, 'line 4: unknown class "c200", known are c000 to c156'),
        ({"train": ["A,S,H,s,c001 1 2,0"]}, 'line 2: length must be seconds above 0, got "0"'),
        ({"train": ["A,S,H,s,c001 1 2,long"]}, 'length must be seconds above 0, got "long"'),
        ({"train": [",S,H,s,c001 1 2,6"]}, 'line 2: id must be the name of a video, got ""'),
        ({"train": ["A,S,H,s,c001 1 2"]}, "line 2: a row has 6 columns, got 5"),
        ({"train": ['A,S,H,"s,c001 1 2,6']}, "train.csv, line 2: is not CSV (unexpected end of data)"),
        ({"train": [*TRAIN, TRAIN[0]]}, 'line 5: a video may be there only once, got "AAAAA" again'),
        ({"test": [TRAIN[0]]}, 'test.csv, line 2: a video may be there only once, got "AAAAA" again'),
        ({"test": []}, "Charades_v1_test.csv has no videos"),
        ({"test": ["", ""]}, "Charades_v1_test.csv has no videos"),
        ({"header": "id,actions,duration"}, "train.csv, line 1: no column length, got id, actions, duration"),
        ({"header": '"id,actions,length'}, "Charades_v1_test.csv, line 1: is not CSV (unexpected end of data)"),
        ({"classes": CLASSES[:-15]}, "classes.txt must hold 157 classes, numbered from 0, got 156 from 0 to 155"),
        ({"classes": CLASSES + "c157 Else\n"}, "must hold 157 classes, numbered from 0, got 158 from 0 to 157"),
        ({"classes": CLASSES + "Else\n"}, 'line 158: a class is a number and a name, got "Else"'),
        ({"classes": CLASSES + "c001 Doing 1\n"}, 'line 158: the classes must differ, got "c001 Doing 1" again'),
        ({"classes": " \n"}, "Charades_v1_classes.txt is empty"),
    ],
)
def test_it_refuses(tmp_path, changes, told):
    assert told in message(write(tmp_path, **changes))


def test_a_missing_split(folder):
    (folder / "Charades_v1_test.csv").unlink()
    assert message(folder) == f"{folder} has 1 problem: Charades_v1_test.csv is missing"


def test_an_empty_file(folder):
    (folder / "Charades_v1_train.csv").write_text("")
    assert "has 1 problem: Charades_v1_train.csv is empty" in message(folder)


def test_another_encoding(folder):
    path = folder / "Charades_v1_train.csv"
    path.write_bytes(path.read_bytes() + "E,S,Café,s,,5\n".encode("latin-1"))
    assert "Charades_v1_train.csv, line 5: is not UTF-8 text" in message(folder)


def test_no_folder(tmp_path):
    assert "has 3 problems" in message(tmp_path / "none")


def test_all_problems_together(tmp_path):
    rows = ["A,S,H,s,c200 1 2;c001 x 2,6", "B,S,H,s,c001 1 2,-1"]
    told = message(write(tmp_path, train=rows, classes=CLASSES))
    assert "has 3 problems" in told
    assert re.findall(r"train.csv, line (\d)", told) == ["2", "2", "3"]


def test_it_takes_no_target(folder):
    with pytest.raises(AnnotationError, match='takes no target, got "activities"; leave it out'):
        load_annotations(folder, "activities", dataset="charades")


def test_the_real_files(shared):
    annotations = load(shared / "annotations")
    assert Counter(record.subset for record in annotations.records) == {"train": 7985, "test": 1863}
    assert len(annotations.classes) == 157
    assert [len(annotations.of(subset)) for subset in ("train", "test")] == [7985 - 174, 1863 - 49]
    assert len(annotations.of("test", unlabelled=True)) == 1863
    kinds = Counter(notice.kind for notice in annotations.notices)
    assert kinds == {"segment that ends before it starts": 7, "segment outside the video": 5}
    assert all(0 <= s.start_s < s.end_s <= r.duration_s for r in annotations.records for s in r.segments)
    by_id = {record.id: record for record in annotations.records}
    for subset in ("train", "test"):
        with open(shared / "annotations" / f"Charades_v1_{subset}.csv", newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                codes = {int(code) for code in re.findall(r"c(\d{3}) ", row["actions"])}
                labels = tuple(annotations.classes[code] for code in sorted(codes))
                assert by_id[row["id"]].labels == labels, row["id"]
