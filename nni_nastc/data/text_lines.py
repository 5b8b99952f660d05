"""Reading the text files of official data sets, noting a problem and going on."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from nni_nastc.data.records import SUBSETS, Problems, Subset, VideoRecord


def read_text(path: Path, problems: Problems) -> str:
    """Return the content of a UTF-8 file; nothing, and a problem, if it is missing, empty, or no UTF-8."""
    name = name_of(path, problems)
    if not path.is_file():
        problems.add(f"{name} is missing")
        return ""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problems.add(f"{name}, line {line}: is not UTF-8 text ({error.reason}); save it as UTF-8")
        return ""
    if not text.strip():
        problems.add(f"{name} is empty")
        return ""
    return text


def read_lines(path: Path, problems: Problems) -> list[tuple[str, str]]:
    """Return the lines of a file that are not blank, each with where it is ("FILE, line 3") in front."""
    name = name_of(path, problems)
    lines = enumerate(read_text(path, problems).splitlines(), start=1)
    return [(f"{name}, line {number}", line.strip()) for number, line in lines if line.strip()]


def read_classes(path: Path, pattern: str, first: int, count: int, problems: Problems) -> tuple[str, ...]:
    """Return the names of a class file: ``count`` lines of a number and a name, in the order of the numbers.

    Parameters
    ----------
    path : Path
        The file.
    pattern : str
        What a line looks like: a regular expression with the groups "number" and "name".
    first : int
        The lowest number.
    count : int
        How many classes the data set has.
    problems : Problems
        Gets what is wrong.
    """
    names: dict[int, str] = {}
    before = len(problems)
    for where, line in read_lines(path, problems):
        match = re.fullmatch(pattern, line)
        if not match:
            problems.add(f'{where}: a class is a number and a name, got "{line[:60]}"')
        elif int(match["number"]) in names or match["name"] in names.values():
            problems.add(f'{where}: the classes must differ, got "{line[:60]}" again')
        else:
            names[int(match["number"])] = match["name"]
    if len(problems) > before:
        return tuple(names.values())
    if sorted(names) != list(range(first, first + count)):
        problems.add(
            f"{name_of(path, problems)} must hold {count} classes, numbered from {first},"
            f" got {len(names)} from {min(names)} to {max(names)}"
        )
    return tuple(names[number] for number in sorted(names))


def seconds(text: str) -> float:
    """Return a finite number; not a number if the text is none."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def require_subsets(records: Sequence[VideoRecord], hints: dict[Subset, str], problems: Problems) -> None:
    """Note a part that has no video. The hints say where its videos come from."""
    for subset in SUBSETS:
        if not any(record.subset == subset for record in records):
            problems.add(f"there is no {subset} video ({hints[subset]})")


def name_of(path: Path, problems: Problems) -> str:
    """Return the path of a file below the folder that is read, or the name of the only file."""
    below = path != problems.path and path.is_relative_to(problems.path)
    return str(path.relative_to(problems.path)) if below else path.name
