"""MultiTHUMOS from its official files: Yeung et al., Every Moment Counts (2018).

A folder with ``class_list.txt`` (65 lines such as ``1 BaseballPitch``) and ``annotations/CLASS.txt``, whose lines are
``video_validation_0000266 72.80 76.40``: video, start and end in seconds. The validation videos of THUMOS'14 (200) are
for training, its test videos (213) for testing. The files tell neither lengths nor who filmed, so videos have no group.

The same as one JSON file, which is common too, with the lengths and classes as numbers::

    {"video_test_0000896": {"subset": "testing", "duration": 226.77, "actions": [[12, 18.6, 24.8], ...]}, ...}

There classes have names if ``class_list.txt`` lies beside it; otherwise their names are the numbers.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from nni_nastc.data.json_fields import check_keys, is_number, is_whole, list_of, read_unique, shown
from nni_nastc.data.records import Annotations, Notice, Problems, Segment, Subset, VideoRecord, clip_segment
from nni_nastc.data.text_lines import name_of, read_classes, read_lines, require_subsets, seconds
from nni_nastc.errors import AnnotationError

NUM_CLASSES = 65
CLASS_LIST = "class_list.txt"
CLASS_LINE = r"(?P<number>\d+)\s+(?P<name>\S+)"
VIDEO_NAME = re.compile(r"video_(validation|test)_\d+")
JSON_SUBSETS: dict[str, Subset] = {"training": "train", "testing": "test"}
SUBSET_HINTS: dict[Subset, str] = {"train": "video_validation_*", "test": "video_test_*"}

Timeline = list[tuple[int, float, float, str]]  # number of the class, start and end in seconds, where that is said


def load_multithumos(path: Path, target: str | None = None) -> Annotations:
    """Read MultiTHUMOS.

    Parameters
    ----------
    path : Path
        The folder with ``class_list.txt`` and ``annotations``, the latter itself, or the JSON file.
    target : str, optional
        Not used: MultiTHUMOS has one list of classes.

    Returns
    -------
    Annotations
        Multi-label; videos sorted by name.

    Raises
    ------
    AnnotationError
        With all problems of the files and their lines.
    """
    if (path / "multithumos.json").is_file():
        path = path / "multithumos.json"
    if not path.exists():
        raise AnnotationError(f"no such file or folder: {path}; check the path of the annotations")
    problems = Problems(path)
    annotations = _from_json(path, problems) if path.is_file() else _from_text(path, problems)
    if annotations.classes:  # or else no file was read, which is told already
        require_subsets(annotations.records, SUBSET_HINTS, problems)
    problems.raise_any()
    return annotations


def _from_text(path: Path, problems: Problems) -> Annotations:
    folder = path / "annotations" if (path / "annotations").is_dir() else path
    beside = folder / CLASS_LIST
    class_list = beside if beside.is_file() or folder.name != "annotations" else folder.parent / CLASS_LIST
    classes = read_classes(class_list, CLASS_LINE, 1, NUM_CLASSES, problems)
    complete = len(classes) == NUM_CLASSES  # or else the class list is broken, which is told already
    for file in sorted(folder.glob("*.txt")) if complete else ():
        if file.stem not in classes and file.name != CLASS_LIST and not file.stem.lower().startswith("readme"):
            problems.add(f'{name_of(file, problems)}: unknown class "{file.stem}", known are those of {CLASS_LIST}')
    timelines: dict[str, Timeline] = defaultdict(list)
    for number, name in enumerate(classes, start=1):
        for where, line in read_lines(folder / f"{name}.txt", problems):
            video, start, end = (*line.split(), "", "", "")[:3]
            start_s, end_s = seconds(start), seconds(end)
            if len(line.split()) != 3 or not VIDEO_NAME.fullmatch(video) or math.isnan(start_s + end_s):
                problems.add(f'{where}: a line is video_test_N or video_validation_N, start, end, got "{line[:60]}"')
            else:
                timelines[video].append((number, start_s, end_s, where))
    notices: list[Notice] = []
    records = [
        _record(video, "test" if video.startswith("video_test") else "train", None, timeline, classes, notices)
        for video, timeline in sorted(timelines.items())
    ]
    return Annotations(classes, "multi-label", tuple(records), (), tuple(notices))


def _from_json(path: Path, problems: Problems) -> Annotations:
    content = read_unique(path, problems)
    if not isinstance(content, dict) or not content:
        raise AnnotationError(f"{path} must hold a JSON object with at least one video, got {shown(content)}")
    classes = tuple(str(number) for number in range(1, NUM_CLASSES + 1))
    if path.with_name(CLASS_LIST).is_file():
        classes = read_classes(path.with_name(CLASS_LIST), CLASS_LINE, 1, NUM_CLASSES, problems)
    notices: list[Notice] = []
    records = [_json_record(video, content[video], classes, problems, notices) for video in sorted(content)]
    return Annotations(classes, "multi-label", tuple(records), (), tuple(notices))


def _json_record(
    video: str, entry: Any, classes: tuple[str, ...], problems: Problems, notices: list[Notice]
) -> VideoRecord:
    where = f'video "{video}"'
    if not isinstance(entry, dict):
        problems.add(f"{where} must be an object, got {shown(entry)}")
        return VideoRecord(video, "train", ())
    check_keys(where, entry, ("subset", "duration", "actions"), problems)
    duration, subset = entry.get("duration", 1), entry.get("subset", "training")
    if not (is_number(duration) and duration > 0):
        problems.add(f"{where}: duration must be seconds above 0, got {shown(duration)}")
        duration = None
    if not isinstance(subset, str) or subset not in JSON_SUBSETS:
        problems.add(f"{where}: subset must be one of {', '.join(JSON_SUBSETS)}, got {shown(subset)}")
        subset = "training"
    timeline: Timeline = []
    for item in list_of(where, entry, "actions", problems):
        if not (isinstance(item, list) and len(item) == 3 and is_number(item[1]) and is_number(item[2])):
            problems.add(f"{where}: an action is [class number, start, end] in seconds, got {shown(item)}")
        elif not (is_whole(item[0]) and 1 <= item[0] <= len(classes)):
            problems.add(f"{where}: unknown class {shown(item[0])}, known are 1 to {len(classes)}")
        else:
            timeline.append((item[0], item[1], item[2], ""))
    return _record(video, JSON_SUBSETS[subset], duration, timeline, classes, notices)


def _record(
    video: str,
    subset: Subset,
    duration_s: float | None,
    timeline: Timeline,
    classes: tuple[str, ...],
    notices: list[Notice],
) -> VideoRecord:
    segments: list[Segment] = []
    for number, start_s, end_s, where in timeline:
        segment, odd = clip_segment(video, classes[number - 1], start_s, end_s, duration_s, where)
        segments.extend([segment] if segment else [])
        notices.extend(odd)
    labels = tuple(classes[number - 1] for number in sorted({entry[0] for entry in timeline}))
    return VideoRecord(video, subset, labels, tuple(segments), duration_s, file=f"{video}.mp4")
