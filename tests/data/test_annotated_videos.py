"""Videos under the names of their annotations."""

from __future__ import annotations

import pytest

from nni_nastc.data.annotated_videos import find_annotated
from nni_nastc.data.records import VideoRecord
from nni_nastc.errors import VideoError
from tests.videos import write_images


def record(name: str, file: str | None = None) -> VideoRecord:
    return VideoRecord(name, "train", (), file=file)


def test_files_folders_of_images_and_missing_ones(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one / "P03" / "cam01", other):
        folder.mkdir(parents=True)
    (one / "P03" / "cam01" / "P03_tea.avi").touch()
    (other / "ABCDE.mp4").touch()
    write_images(one / "FGHIJ", 1)
    (one / "not_annotated.mp4").touch()
    records = [
        record("P03_cam01_P03_tea", "P03/cam01/P03_tea.avi"),
        record("ABCDE", "ABCDE.mp4"),
        record("FGHIJ", "FGHIJ.mp4"),
        record("gone", "gone.mp4"),
    ]
    assert find_annotated(records, [one, other]) == {
        "P03_cam01_P03_tea": one / "P03" / "cam01" / "P03_tea.avi",
        "ABCDE": other / "ABCDE.mp4",
        "FGHIJ": one / "FGHIJ",
        "gone": one / "gone.mp4",
    }


def test_annotations_without_files_name_the_videos(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.mkv").touch()
    (tmp_path / "other.mkv").touch()
    write_images(tmp_path / "b.c", 1)
    found = find_annotated([record("a"), record("b.c"), record("gone.x")], [tmp_path])
    assert found == {"a": tmp_path / "deep" / "a.mkv", "b.c": tmp_path / "b.c", "gone.x": tmp_path / "gone.x"}


def test_none_there(tmp_path):
    with pytest.raises(VideoError, match=r"none of the 2 annotated videos is there: the first would be .*x\.mp4"):
        find_annotated([record("x", "x.mp4"), record("y", "y.mp4")], [tmp_path])
    with pytest.raises(VideoError, match=r"no such folder: .*nowhere"):
        find_annotated([record("x", "x.mp4")], [tmp_path, tmp_path / "nowhere"])
