"""Charades from its official files: Sigurdsson et al., Hollywood in Homes (2016).

A folder with ``Charades_v1_train.csv`` (7,985 videos), ``Charades_v1_test.csv`` (1,863) and ``Charades_v1_classes.txt``
(157 lines such as ``c000 Holding some clothes``). The column "actions" holds ``c092 11.90 21.20;c147 0.00 12.60``:
class, start and end in seconds; "length" the seconds of the video. 174 and 49 videos have no action: nobody labelled
them.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

from nni_nastc.data.records import SUBSETS, Annotations, Notice, Problems, Segment, Subset, VideoRecord, clip_segment
from nni_nastc.data.text_lines import name_of, read_classes, read_text, seconds

NUM_CLASSES = 157
COLUMNS = ("id", "actions", "length")
"""What is read; the other columns are left alone."""


def load_charades(path: Path, target: str | None = None) -> Annotations:
    """Read the official files of Charades.

    Parameters
    ----------
    path : Path
        The folder that holds the three files, or one of them.
    target : str, optional
        Not used: Charades has one list of classes.

    Returns
    -------
    Annotations
        Multi-label; the classes are named in words, in the order of their codes.

    Raises
    ------
    AnnotationError
        With all problems of the three files and their lines.
    """
    folder = path.parent if path.is_file() else path
    problems = Problems(folder)
    names = read_classes(
        folder / "Charades_v1_classes.txt", r"c(?P<number>\d{3})\s+(?P<name>.+)", 0, NUM_CLASSES, problems
    )
    codes = {f"c{number:03d}": name for number, name in enumerate(names)}
    notices: list[Notice] = []
    records: dict[str, VideoRecord] = {}
    for subset in SUBSETS:
        for where, row in _rows(folder / f"Charades_v1_{subset}.csv", problems):
            record = _record(where, row, subset, codes, problems, notices)
            if record.id in records:
                problems.add(f'{where}: a video may be there only once, got "{record.id}" again')
            records[record.id] = record
    problems.raise_any()
    return Annotations(names, "multi-label", tuple(records.values()), (), tuple(notices), skips_unlabelled=True)


def _rows(path: Path, problems: Problems) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """Yield where a row is, and its id, actions and length."""
    name = name_of(path, problems)
    reader = csv.reader(io.StringIO(read_text(path, problems)), strict=True)
    line, rows = 1, 0
    try:
        header = next(reader, None)
        if header is None:
            return
        if missing := [column for column in COLUMNS if column not in header]:
            problems.add(f"{name}, line 1: no column {', '.join(missing)}, got {', '.join(header)[:60]}")
            return
        places = [header.index(column) for column in COLUMNS]
        line = reader.line_num + 1
        for row in reader:
            if len(row) == len(header):
                yield f"{name}, line {line}", (row[places[0]], row[places[1]], row[places[2]])
            elif row:
                problems.add(f"{name}, line {line}: a row has {len(header)} columns, got {len(row)}")
            line, rows = reader.line_num + 1, rows + bool(row)
        if not rows:
            problems.add(f"{name} has no videos")
    except csv.Error as error:
        problems.add(f"{name}, line {line}: is not CSV ({error})")


def _record(
    where: str,
    row: tuple[str, str, str],
    subset: Subset,
    codes: dict[str, str],
    problems: Problems,
    notices: list[Notice],
) -> VideoRecord:
    """Parse a row."""
    video, actions, length = row
    duration = seconds(length)
    if not duration > 0:
        problems.add(f'{where}: length must be seconds above 0, got "{length}"')
    if not video or "/" in video or "\\" in video:
        problems.add(f'{where}: id must be the name of a video, got "{video}"')
    seen: set[str] = set()
    segments: list[Segment] = []
    for action in filter(None, actions.split(";")):
        code, start, end = (*action.split(), "", "", "")[:3]
        start_s, end_s = seconds(start), seconds(end)
        if len(action.split()) != 3 or math.isnan(start_s + end_s):
            problems.add(f'{where}: an action is a class, a start and an end in seconds, got "{action[:60]}"')
        elif code in codes:
            seen.add(code)
            segment, odd = clip_segment(video, codes[code], start_s, end_s, duration, where)
            segments.extend([segment] if segment else [])
            notices.extend(odd)
        elif len(codes) == NUM_CLASSES:  # or else the class file is broken, which is told already
            problems.add(f'{where}: unknown class "{code}", known are c000 to c{NUM_CLASSES - 1}')
    labels = tuple(codes[code] for code in sorted(seen))
    return VideoRecord(video, subset, labels, tuple(segments), duration, file=f"{video}.mp4")
