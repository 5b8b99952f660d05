"""Predictions as text: exact round trips, and all that can be wrong with a file that somebody sends."""

from __future__ import annotations

import numpy as np
import pytest

from nni_nastc.errors import DataError
from nni_nastc.evaluation.submission import read_submission, write_submission

IDS = ("AAAAA", "BBBBB", "CCCCC")


def written(tmp_path, text: str):
    path = tmp_path / "sent.txt"
    path.write_text(text)
    return path


def message(tmp_path, text: str, **options) -> str:
    with pytest.raises(DataError) as caught:
        read_submission(written(tmp_path, text), IDS, 2, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_scores_are_read_as_they_were_written(tmp_path):
    scores = np.random.default_rng(0).random((3, 4)) ** 40
    scores[0, :3] = 0.1, 1e-300, 1
    write_submission(tmp_path / "sent.txt", IDS, scores)
    np.testing.assert_array_equal(read_submission(tmp_path / "sent.txt", IDS, 4), scores)
    first = (tmp_path / "sent.txt").read_text().splitlines()[0]
    assert first == f"AAAAA 0.1 1e-300 1.0 {float(scores[0, 3])!r}", "an id, then a score a class, a space between"


def test_any_order_blank_lines_and_spaces_in_ids(tmp_path):
    text = "my video 2 0.5 1\n\nmy video 0 2e-3\n  my   0.25 -inf \n"
    scores = read_submission(written(tmp_path, text), ("my", "my video", "my video 2"), 2)
    np.testing.assert_array_equal(scores, [[0.25, -np.inf], [0, 0.002], [0.5, 1]])


def test_videos_that_nobody_labelled_may_be_there(tmp_path):
    text = "AAAAA 1 2\nDDDDD 3 4\nBBBBB 5 6\nCCCCC 7 8\n"
    scores = read_submission(written(tmp_path, text), IDS, 2, ignored={"DDDDD", "EEEEE"})
    np.testing.assert_array_equal(scores, [[1, 2], [5, 6], [7, 8]])
    assert 'line 2: there is no video "DDDDD"' in message(tmp_path, text)


def test_all_problems_at_once_with_their_lines(tmp_path):
    text = "AAAAA 0.1 nan\nXXXXX 0.1 0.2\n\nBBBBB 0.1 0.2 0.3\nAAAAA 1 2\nBBBBB 0.1 high\nYYYYY\n"
    found = message(tmp_path, text)
    assert "has 7 problems" in found
    for part in (
        'sent.txt, line 1: scores must be numbers, got "nan" for class 2',
        'line 2: there is no video "XXXXX" in the part that is scored',
        "line 4: a video has 2 scores, one for each class, got 3",
        'line 5: a video may be there only once, got "AAAAA" again',
        'line 6: a video may be there only once, got "BBBBB" again',
        'line 7: there is no video "YYYYY"',
        "no line for 1 of 3 videos: CCCCC",
    ):
        assert part in found, f"{part!r} is not in {found!r}"


def test_an_id_without_scores(tmp_path):
    assert "line 1: a video has 2 scores, one for each class, got 0" in message(tmp_path, "AAAAA\n")


def test_many_missing_videos_are_counted(tmp_path):
    ids = [f"V{number:04d}" for number in range(100)]
    with pytest.raises(DataError, match=r"no line for 99 of 100 videos: V0001, V0002, V0003, V0004, V0005, \.\.\.$"):
        read_submission(written(tmp_path, "V0000 1 2\n"), ids, 2)


@pytest.mark.parametrize(("content", "problem"), [(b"", "is empty"), (b"AAAAA 0.1 \xff\n", "line 1: is not UTF-8")])
def test_no_text(tmp_path, content, problem):
    path = tmp_path / "sent.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"has 1 problem: sent\.txt.*{problem}"):
        read_submission(path, IDS, 2)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"sent\.txt is missing"):
        read_submission(tmp_path / "sent.txt", IDS, 2)
