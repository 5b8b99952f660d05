"""Breakfast from its official files: Kuehne et al., The Language of Actions (2014). Ten activities of 48 unit-actions.

Any of

- the folder of the videos, ``PXX/camYY/PXX_activity.avi`` with ``PXX_activity.avi.labels`` or ``.txt`` beside them,
- the folder of the coarse segmentation, ``activity/PXX_camYY_PXX_activity.txt``;
  lines of both are ``31-150 take_bowl``: first and last frame, 1-based and inclusive, 15 a second;
- the folder of MS-TCN with ``mapping.txt`` (48 lines such as ``0 SIL``) and ``groundTruth/*.txt``, a line a frame;
- a JSON file in the format of composed videos (:mod:`nni_nastc.data.json_annotations`).

The persons P03 to P46 (44 in sorted order, 1,357 videos) are for training, P47 to P54 (8, 355 videos) for testing: the
split of Timeception and VideoGraph. A person's videos are a group. Of the stereo camera only channel 0 counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from nni_nastc.data.json_annotations import load_json
from nni_nastc.data.records import (
    TARGETS,
    Annotations,
    Notice,
    Problems,
    Segment,
    Subset,
    VideoRecord,
    clip_segment,
)
from nni_nastc.data.text_lines import name_of, read_classes, read_lines, read_text, require_subsets
from nni_nastc.errors import AnnotationError, did_you_mean

FPS = 15.0
FIRST_PERSON, LAST_TRAIN_PERSON, LAST_PERSON = 3, 46, 54
ACTIVITIES = (
    "cereals", "coffee", "friedegg", "juice", "milk", "pancake", "salat", "sandwich", "scrambledegg", "tea",
)  # fmt: skip
UNIT_ACTIONS = (
    "SIL", "add_saltnpepper", "add_teabag", "butter_pan", "crack_egg", "cut_bun", "cut_fruit", "cut_orange", "fry_egg",
    "fry_pancake", "peel_fruit", "pour_cereals", "pour_coffee", "pour_dough2pan", "pour_egg2pan", "pour_flour",
    "pour_juice", "pour_milk", "pour_oil", "pour_sugar", "pour_water", "put_bunTogether", "put_egg2plate",
    "put_fruit2bowl", "put_pancake2plate", "put_toppingOnTop", "smear_butter", "spoon_flour", "spoon_powder",
    "spoon_sugar", "squeeze_orange", "stir_cereals", "stir_coffee", "stir_dough", "stir_egg", "stir_fruit", "stir_milk",
    "stir_tea", "stirfry_egg", "take_bowl", "take_butter", "take_cup", "take_eggs", "take_glass", "take_knife",
    "take_plate", "take_squeezer", "take_topping",
)  # fmt: skip
"""The 48 unit-actions, for files that do not list them."""
BACKGROUND = "SIL"
"""Silence: nothing happens. It occurs in every video, so its average precision is 1."""

VIDEO_NAME = re.compile(
    r"(?P<person>P(?P<number>\d\d))_(?P<camera>cam\d+|webcam\d+|stereo)(?P<pair>\d*)"
    r"_(?P=person)_(?P<activity>[a-z]+?)(?P<channel>_ch\d)?"
)
LABEL_SUFFIX = re.compile(r"(\.avi)?\.(labels|txt)$")
SUBSET_HINTS: dict[Subset, str] = {"train": "persons P03 to P46", "test": "persons P47 to P54"}


def load_breakfast(path: Path, target: str | None = None) -> Annotations:
    """Read Breakfast.

    Parameters
    ----------
    path : Path
        One of the folders above, or a JSON file.
    target : str, optional
        "activities" (the default; single-label) or "unit-actions" (multi-label).

    Returns
    -------
    Annotations
        Videos sorted by name, which is PXX_camYY_PXX_activity: the videos' own names differ only within their folder.

    Raises
    ------
    AnnotationError
        With all problems of the files and their lines.
    """
    if (path / "breakfast.json").is_file():
        path = path / "breakfast.json"
    if path.is_file():
        annotations = load_json(path, target)
        records = tuple(_with_person(record) for record in annotations.records)
        return replace(annotations, records=records, background=_background(annotations.classes))
    if not path.is_dir():
        raise AnnotationError(f"no such file or folder: {path}; check the path of the annotations")
    problems = Problems(path)
    frame_wise = path if path.name == "groundTruth" else path / "groundTruth"
    if frame_wise.is_dir():
        unit_actions = read_classes(
            frame_wise.with_name("mapping.txt"), r"(?P<number>\d+)\s+(?P<name>\S+)", 0, len(UNIT_ACTIONS), problems
        )
        files = sorted(frame_wise.glob("*.txt"))
    else:
        unit_actions = UNIT_ACTIONS
        files = sorted([*path.rglob("P*.labels"), *path.rglob("P*.txt")])
    reader = _Reader(target or TARGETS[0], unit_actions, frame_wise.is_dir(), problems)
    for file in files:
        reader.read(file)
    require_subsets(list(reader.records.values()), SUBSET_HINTS, problems)
    problems.raise_any()
    records = tuple(reader.records[name] for name in sorted(reader.records))
    if target == "unit-actions":
        return Annotations(
            unit_actions, "multi-label", records, (), tuple(reader.notices), target, _background(unit_actions)
        )
    return Annotations(ACTIVITIES, "single-label", records, unit_actions, tuple(reader.notices), TARGETS[0])


def _background(classes: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in classes if name == BACKGROUND)


class _Reader:
    """Reads one file of a video after the other.

    Parameters
    ----------
    target : str
        "activities" or "unit-actions".
    unit_actions : sequence of str
        The names that files may hold.
    frame_wise : bool
        Whether a line is a frame, or a segment.
    problems : Problems
        Gets what is wrong.
    """

    def __init__(self, target: str, unit_actions: Sequence[str], frame_wise: bool, problems: Problems) -> None:
        self.target = target
        self.order = {name: number for number, name in enumerate(unit_actions)}
        self.known = set(unit_actions if len(unit_actions) == len(UNIT_ACTIONS) else ())
        self.frame_wise = frame_wise
        self.problems = problems
        self.records: dict[str, VideoRecord] = {}
        self.notices: list[Notice] = []

    def read(self, file: Path) -> None:
        """Add the record of a file, if it is one that counts."""
        where = name_of(file, self.problems)
        stem = LABEL_SUFFIX.sub("", file.name)
        in_folders = f"{file.parent.parent.name}_{file.parent.name}_{stem}"
        parts = VIDEO_NAME.fullmatch(stem) or VIDEO_NAME.fullmatch(in_folders)
        if parts is None:
            self.notices.append(Notice("file that is not named as a video", stem, where))
        elif parts["channel"] in (None, "_ch0") and parts["pair"] in ("", "01"):
            self._check_name(where, parts)
            self.records[parts[0]] = self._record(file, parts)

    def _check_name(self, where: str, parts: re.Match[str]) -> None:
        if not FIRST_PERSON <= int(parts["number"]) <= LAST_PERSON:
            self.problems.add(f'{where}: the persons are P03 to P54, got "{parts["person"]}"')
        if parts["activity"] not in ACTIVITIES:
            self.problems.add(f'{where}: unknown activity "{parts["activity"]}", known are {", ".join(ACTIVITIES)}')
        if parts[0] in self.records:
            self.problems.add(f'{where}: a video may be there only once, got "{parts[0]}" again')

    def _record(self, file: Path, parts: re.Match[str]) -> VideoRecord:
        frames, found = self._frames(file) if self.frame_wise else (None, self._segments(file))
        duration = frames / FPS if frames else None
        segments: list[Segment] = []
        for label, first, last, where in found:
            segment, odd = clip_segment(parts[0], label, (first - 1) / FPS, last / FPS, duration, where)
            segments.extend([segment] if segment else [])
            self.notices.extend(odd)
        seen = sorted({label for label, *_ in found}, key=self.order.__getitem__)
        labels = (parts["activity"],) if self.target == "activities" else tuple(seen)
        subset: Subset = "train" if int(parts["number"]) <= LAST_TRAIN_PERSON else "test"
        return _with_person(VideoRecord(parts[0], subset, labels, tuple(segments), duration))

    def _segments(self, file: Path) -> list[tuple[str, int, int, str]]:
        """Return unit-action, first and last frame of each line, and where that is said."""
        found = []
        for where, line in read_lines(file, self.problems):
            match = re.fullmatch(r"(\d{1,9})-(\d{1,9})\s+(\S+)", line)
            if not match:
                self.problems.add(f'{where}: a line is first-last unit_action, got "{line[:60]}"')
            elif self._knows(match[3], where):
                found.append((match[3], int(match[1]), int(match[2]), where))
        return found

    def _frames(self, file: Path) -> tuple[int, list[tuple[str, int, int, str]]]:
        """Return the number of frames, and the runs of one unit-action."""
        found, first = [], 1
        for label, run in groupby(read_text(file, self.problems).rstrip().splitlines(), key=str.strip):
            last = first + sum(1 for _ in run) - 1
            where = f"{name_of(file, self.problems)}, line {first}"
            if self._knows(label, where):
                found.append((label, first, last, where))
            first = last + 1
        return first - 1, found

    def _knows(self, label: str, where: str) -> bool:
        # Without all names the file of them is broken, which is told already.
        if self.known and label not in self.known:
            self.problems.add(f'{where}: unknown unit-action "{label[:60]}"{did_you_mean(label, self.order)}')
        return label in self.known


def _with_person(record: VideoRecord) -> VideoRecord:
    """Add what the name tells: the person, and where the official download has the video."""
    parts = VIDEO_NAME.fullmatch(record.id)
    if not parts:
        return record
    channel = "_ch0" if parts["camera"] == "stereo" else ""
    file = f"{parts['person']}/{parts['camera']}/{parts['person']}_{parts['activity']}{channel}.avi"
    return replace(record, group=parts["person"], file=file)
