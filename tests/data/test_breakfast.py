from __future__ import annotations

import json
from collections import Counter

import pytest

from nni_nastc.data.annotations import Segment, load_annotations
from nni_nastc.data.breakfast import ACTIVITIES, UNIT_ACTIONS
from nni_nastc.errors import AnnotationError

CEREALS = "1-30 SIL  \n31-150 take_bowl  \n151-428 pour_cereals\n"
TEA = "1-15 SIL\n16-30 pour_water\n31-30 SIL\n"
MAPPING = "".join(f"{number} {name}\n" for number, name in enumerate(reversed(UNIT_ACTIONS)))


def write(path, files):
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


def in_folders(suffix=".avi.labels", **more):
    return {
        f"P46/cam01/P46_cereals{suffix}": CEREALS,
        f"P47/webcam02/P47_tea{suffix}": TEA,
        f"P03/stereo/P03_milk_ch0{suffix}": "1-5 pour_milk\n",
        f"P03/stereo/P03_milk_ch1{suffix}": "1-5 stir_milk\n",
        "README.txt": "not of a video",
        **more,
    }


def load(path, target=None):
    return load_annotations(path, target, dataset="breakfast")


def message(path):
    with pytest.raises(AnnotationError) as caught:
        load(path)
    text = str(caught.value)
    assert "\n" not in text, f"more than one line: {text!r}"
    return text


@pytest.mark.parametrize("suffix", [".avi.labels", ".labels", ".txt", ".avi.txt"])
def test_beside_the_videos(tmp_path, suffix):
    annotations = load(write(tmp_path, in_folders(suffix)))
    assert (annotations.classes, annotations.parts, annotations.task) == (ACTIVITIES, UNIT_ACTIONS, "single-label")
    milk, cereals, tea = annotations.records
    assert (milk.id, milk.file) == ("P03_stereo_P03_milk_ch0", "P03/stereo/P03_milk_ch0.avi")
    assert milk.segments == (Segment("pour_milk", 0.0, 5 / 15),), "only channel 0 counts"
    assert (cereals.id, cereals.file) == ("P46_cam01_P46_cereals", "P46/cam01/P46_cereals.avi")
    assert (cereals.subset, cereals.group, cereals.labels) == ("train", "P46", ("cereals",))
    assert cereals.segments[:2] == (Segment("SIL", 0.0, 2.0), Segment("take_bowl", 2.0, 10.0))
    assert (tea.id, tea.subset, tea.group) == ("P47_webcam02_P47_tea", "test", "P47")


def test_unit_actions(tmp_path):
    annotations = load(write(tmp_path, in_folders()), "unit-actions")
    assert (annotations.classes, annotations.parts, annotations.task) == (UNIT_ACTIONS, (), "multi-label")
    assert annotations.records[1].labels == ("SIL", "pour_cereals", "take_bowl"), "in the order of the classes"


def test_odd_segments_keep_their_class(tmp_path):
    annotations = load(write(tmp_path, in_folders(**{"P03/cam01/P03_tea.txt": "9-8 add_teabag\n"})), "unit-actions")
    record = annotations.records[0]
    assert (record.id, record.labels, record.segments) == ("P03_cam01_P03_tea", ("add_teabag",), ())
    kinds = [(notice.kind, notice.video) for notice in annotations.notices]
    assert ("segment that ends before it starts", "P03_cam01_P03_tea") in kinds
    assert "(P03/cam01/P03_tea.txt, line 1)" in next(n.detail for n in annotations.notices if "P03" in n.video)


def test_coarse_segmentation(tmp_path):
    files = {
        "cereals/P46_cam01_P46_cereals.txt": CEREALS,
        "cereals/P46_cam01_P46_cereals.xml": "<?xml?>",
        "cereals/P46_cam01_P46_cereals 2.txt": CEREALS,
        "tea/P47_stereo01_P47_tea.txt": TEA,
        "tea/P47_stereo02_P47_tea.txt": TEA,
    }
    annotations = load(write(tmp_path, files))
    assert [record.id for record in annotations.records] == ["P46_cam01_P46_cereals", "P47_stereo01_P47_tea"]
    assert annotations.records[1].file == "P47/stereo/P47_tea_ch0.avi"
    odd = [notice for notice in annotations.notices if notice.kind == "file that is not named as a video"]
    assert [notice.detail for notice in odd] == ["cereals/P46_cam01_P46_cereals 2.txt"]


def frame_wise(**changes):
    return {
        "mapping.txt": MAPPING,
        "groundTruth/P46_cam01_P46_cereals.txt": "SIL\n" * 30 + "take_bowl\n" * 45 + "SIL\n" * 15,
        "groundTruth/P47_stereo01_P47_tea.txt": "pour_water\n" * 15,
        "splits/test.split1.bundle": "P46_cam01_P46_cereals.txt\n",
        **changes,
    }


@pytest.mark.parametrize("below", ["", "groundTruth"])
def test_frame_wise(tmp_path, below):
    annotations = load(write(tmp_path, frame_wise()) / below, "unit-actions")
    assert annotations.classes == tuple(reversed(UNIT_ACTIONS)), "in the order of mapping.txt"
    cereals, tea = annotations.records
    assert (cereals.id, cereals.subset, cereals.group) == ("P46_cam01_P46_cereals", "train", "P46")
    assert cereals.labels == ("take_bowl", "SIL")
    assert cereals.segments == (Segment("SIL", 0, 2), Segment("take_bowl", 2, 5), Segment("SIL", 5, 6))
    assert (cereals.duration_s, tea.duration_s, tea.subset) == (6.0, 1.0, "test")
    assert load(tmp_path).records[0].labels == ("cereals",)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (in_folders(**{"P03/cam01/P03_tea.txt": CEREALS + "429 SIL\n"}), 'P03_tea.txt, line 4: a line is first'),
        (in_folders(**{"P03/cam01/P03_tea.txt": "1-2 take_cap\n"}), '"take_cap" (did you mean take_cup?)'),
        (in_folders(**{"P03/cam01/P03_tea.txt": f"1-{10**400} SIL\n"}), 'line 1: a line is first-last unit_action'),
        (in_folders(**{"P03/cam01/P03_tea.txt": "1-2 dance\n"}), 'P03_tea.txt, line 1: unknown unit-action "dance"'),
        (in_folders(**{"P03/cam01/P03_wine.txt": TEA}), 'P03/cam01/P03_wine.txt: unknown activity "wine", known are'),
        (in_folders(**{"P99/cam01/P99_tea.txt": TEA}), 'P99/cam01/P99_tea.txt: the persons are P03 to P54, got "P99"'),
        (in_folders(**{"P03/cam01/P03_tea.txt": "\n"}), "P03/cam01/P03_tea.txt is empty"),
        (in_folders(**{"P46/cam01/P46_cereals.txt": CEREALS}), 'only once, got "P46_cam01_P46_cereals" again'),
        ({"P03/cam01/P03_tea.txt": TEA}, "there is no test video (persons P47 to P54)"),
        ({"notes.txt": TEA}, "there is no train video (persons P03 to P46); there is no test video"),
        (frame_wise(**{"mapping.txt": "0 SIL\n"}), "mapping.txt must hold 48 classes, numbered from 0, got 1"),
        (frame_wise(**{"groundTruth/P03_cam01_P03_tea.txt": "SIL\nSIL\ndance\n"}), 'line 3: unknown unit-action "d'),
    ],
)
def test_it_refuses(tmp_path, files, told):
    assert told in message(write(tmp_path, files))


def test_no_mapping(tmp_path):
    write(tmp_path, frame_wise())
    (tmp_path / "mapping.txt").unlink()
    assert "mapping.txt is missing" in message(tmp_path / "groundTruth")


def test_another_encoding(tmp_path):
    write(tmp_path, in_folders())
    (tmp_path / "P46/cam01/P46_cereals.avi.labels").write_bytes(CEREALS.encode("utf-16"))
    assert "P46/cam01/P46_cereals.avi.labels, line 1: is not UTF-8 text" in message(tmp_path)


def test_no_folder(tmp_path):
    assert "no such file or folder" in message(tmp_path / "none")


@pytest.mark.parametrize("target", ["activities", "unit-actions"])
def test_the_real_file(shared, target):
    path = shared / "annotations" / "breakfast.json"
    annotations = load(path, target)
    assert Counter(record.subset for record in annotations.records) == {"train": 1357, "test": 355}
    assert len(annotations.classes) == {"activities": 10, "unit-actions": 48}[target]
    assert annotations.classes == {"activities": ACTIVITIES, "unit-actions": UNIT_ACTIONS}[target]
    assert Counter(notice.kind for notice in annotations.notices) == {"segment that ends before it starts": 13}
    assert len({record.group for record in annotations.records}) == 52
    assert len({record.group for record in annotations.records if record.subset == "train"}) == 44
    assert len({record.file for record in annotations.records}) == 1712
    plain = load_annotations(path, target)
    assert [r.labels for r in plain.records] == [r.labels for r in annotations.records]


def runs(record):
    """Label and start of each segment, but of the first only where one follows another of the same label."""
    return [
        (segment.label, round(segment.start_s, 6))
        for before, segment in zip((None, *record.segments), record.segments, strict=False)
        if before is None or before.label != segment.label
    ]


@pytest.mark.parametrize("target", ["activities", "unit-actions"])
def test_all_formats_say_the_same(shared, tmp_path, target):
    """The official formats, written from the real annotations, are read as those are."""
    content = json.loads((shared / "annotations" / "breakfast.json").read_text())
    chosen = {name: video for n, (name, video) in enumerate(content["videos"].items()) if n % 40 == 0}
    folders, coarse, frames = {}, {}, {"mapping.txt": "".join(f"{n} {u}\n" for n, u in enumerate(UNIT_ACTIONS))}
    for name, video in chosen.items():
        lines = "".join(f"{first}-{last} {unit}\n" for unit, first, last in video["segments"])
        person, camera, stem = name.split("_", 2)
        folders[f"{person}/{camera}/{stem}.avi.labels"] = lines
        coarse[f"{video['activity']}/{name.replace('stereo', 'stereo01').removesuffix('_ch0')}.txt"] = lines
        each = [unit for unit, first, last in video["segments"] for _ in range(first, min(last, video["n_frames"]) + 1)]
        frames[f"groundTruth/{name}.txt"] = "\n".join(each) + "\n"
    (tmp_path / "breakfast.json").write_text(json.dumps({**content, "videos": chosen}))
    expected = load(tmp_path / "breakfast.json", target).records
    read = {
        kind: load(write(tmp_path / kind, files), target).records
        for kind, files in {"folders": folders, "coarse": coarse, "frames": frames}.items()
    }
    by_file = {record.file: record for record in expected}
    for kind, records in read.items():
        assert {record.file for record in records} == set(by_file), kind
        for record in records:
            other = by_file[record.file]
            assert (record.labels, record.subset, record.group) == (other.labels, other.subset, other.group), record.id
            assert runs(record) == runs(other), f"{kind}: {record.id}"
