"""``nastc data check``: what is printed and drawn, and the exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.image import imread

from nni_nastc.cli.main import main
from nni_nastc.features.store import FeatureStore, StoreSettings

CLASSES = "".join(f"c{number:03d} Doing {number}\n" for number in range(157))
ROWS = {"train": ["A,c003 1 2;c001 5 4,9", "B,,7"], "test": ["C,c003 8 9.9,9", "D,c000 0 3,9"]}


@pytest.fixture
def charades(tmp_path):
    folder = tmp_path / "charades"
    folder.mkdir()
    (folder / "Charades_v1_classes.txt").write_text(CLASSES)
    for subset, rows in ROWS.items():
        (folder / f"Charades_v1_{subset}.csv").write_text("\n".join(["id,actions,length", *rows, ""]))
    return folder


@pytest.fixture
def store(tmp_path):
    store = FeatureStore.create_or_open(tmp_path / "store", StoreSettings(weights="random", weights_digest="sha256:0"))
    for stem in ("A", "C", "D", "E"):
        features, times = np.ones((3, 2, 1, 1), np.float16), np.arange(6.0).reshape(3, 2)
        store.write(stem, features, times, fps=15.0, source=f"{stem}.mp4", size_bytes=1)
    return tmp_path / "store"


def check(*arguments):
    return main(["data", "check", *map(str, arguments)])


def test_what_is_printed(charades, store, capsys):
    assert check(charades, "--dataset", "charades", "--store", store) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("train  2 videos, 1 segments, 1 without any class; 0.0 h, a video 7.0 to 9.0 s (med")
    assert "157 classes, and the videos that show them" in lines
    assert "  Doing 3         1       1" in lines, "\n".join(lines[:12])
    assert lines[-3] == (
        "1 x segment that ends before it starts, e.g. A: Doing 1 5-4 s of 9 s (Charades_v1_train.csv, line 2)"
    )
    assert lines[-2] == "1 missing in the store, first: B"
    assert lines[-1] == "1 in the store without annotation, first: E"


def test_json(charades, store, capsys):
    assert check(charades, "--dataset", "charades", "--json") == 0
    counts = {
        "subsets": {"train": 2, "test": 2},
        "classes": 157,
        "activities": 0,
        "problems": {"segment that ends before it starts": 1},
    }
    assert json.loads(capsys.readouterr().out) == counts
    assert check(charades, "--dataset", "charades", "--json", "--store", store) == 0
    assert json.loads(capsys.readouterr().out) == {**counts, "store": {"missing": ["B"], "unannotated": ["E"]}}


def test_strict(charades, capsys):
    assert check(charades, "--dataset", "charades", "--strict") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert 'has 1 problem: video "A": segment that ends before it starts' in shown.err


def test_timelines(charades, tmp_path, capsys):
    picture = tmp_path / "timelines.png"
    assert check(charades, "--dataset", "charades", "--timeline", picture, "--videos", 2) == 0
    assert capsys.readouterr().out.endswith(f"wrote {picture}\n")
    two = imread(picture).shape
    assert check(charades, "--dataset", "charades", "--timeline", picture, "--videos", 9) == 0
    three = imread(picture).shape
    assert three[0] > two[0], f"three videos have segments, and take more room than two: {three}, {two}"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--dataset", "ava"], 'dataset must be one of json, charades, multithumos, breakfast, got "ava"'),
        (["--dataset", "json"], "is a folder, dataset json is one file; "),
        (["--dataset", "charades", "--store", "none"], "no feature store at none"),
        (["--dataset", "charades", "--timeline", "a.gif"], "a picture is a .png, .pdf, .svg file, got 'a.gif'"),
    ],
)
def test_it_refuses(charades, capsys, arguments, told):
    assert check(charades, *arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1, shown.err
    assert told in shown.err


def test_no_segments_to_draw(tmp_path, capsys):
    content = {"classes": ["a"], "task": "multi-label", "videos": {"v": {"subset": "train", "labels": ["a"]}}}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert check(tmp_path / "a.json", "--timeline", tmp_path / "a.png") == 2
    assert "at least one video with segments, got none" in capsys.readouterr().err
    assert check(tmp_path / "a.json") == 0
    assert capsys.readouterr().out.endswith("no problems\n")


def test_videos_is_a_number_above_0(charades, capsys):
    with pytest.raises(SystemExit):
        check(charades, "--videos", "0")
    assert "must be at least 1, got 0" in capsys.readouterr().err
