"""Checks of JSON values that note a problem and go on, so that all problems of a file are told together."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from nni_nastc.data.records import SUBSETS, Problems, Subset
from nni_nastc.errors import AnnotationError, did_you_mean


def read_unique(path: Path, problems: Problems) -> Any:
    """Parse a JSON file. A key given twice is a problem: JSON readers keep the last and drop the others unseen."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, count in Counter(key for key, _ in pairs).items():
            if count > 1:
                problems.add(f'"{key}" may be given only once, got it {count} times')
        return dict(pairs)

    if not path.is_file():
        raise AnnotationError(f"no such file: {path}; check the path of the annotations")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path} is not JSON in UTF-8 ({error}); mend it or write it anew") from error


def check_keys(
    where: str, mapping: dict[str, Any], required: Sequence[str], problems: Problems, optional: Sequence[str] = ()
) -> None:
    """Note the keys that are missing and those that are not known."""
    for key in required:
        if key not in mapping:
            problems.add(f"{where}: {key} is missing")
    known = [*required, *optional]
    for key in mapping:
        if key not in known:
            problems.add(f'{where}: unknown key "{key}", known are {", ".join(known)}')


def names_of(content: dict[str, Any], key: str, problems: Problems) -> tuple[str, ...]:
    """Return a list of different names; none if the key is missing or holds something else."""
    if key not in content:
        return ()
    names = content[key]
    if not (isinstance(names, list) and names and all(isinstance(name, str) and name.strip() for name in names)):
        problems.add(f"{key} must be a list of at least one name, got {shown(names)}")
        return ()
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            problems.add(f'{key} must differ, got "{name}" {names.count(name)} times')
    return tuple(dict.fromkeys(names))


def list_of(where: str, video: dict[str, Any], key: str, problems: Problems) -> list[Any]:
    """Return a list; an empty one if the key is missing or holds something else."""
    value = video.get(key, [])
    if not isinstance(value, list):
        problems.add(f"{where}: {key} must be a list, got {shown(value)}")
        return []
    return value


def subset_of(where: str, video: dict[str, Any], problems: Problems) -> Subset:
    """Return the subset of a video; "train", and a problem, if it is not one of the two."""
    subset = video.get("subset")
    if "subset" in video and subset not in SUBSETS:
        problems.add(f"{where}: subset must be one of {', '.join(SUBSETS)}, got {shown(subset)}")
    return "test" if subset == "test" else "train"


def is_known(where: str, what: str, name: Any, names: Sequence[str], problems: Problems) -> bool:
    """Tell whether a name is one of a list. An empty list is broken, which is told already, so that is no problem."""
    if names and name not in names:
        hint = did_you_mean(str(name), names)
        problems.add(f"{where}: unknown {what} {shown(name)}, known are {shown(list(names))}{hint}")
    return name in names


def is_number(value: Any) -> TypeGuard[float]:
    """Tell whether a value is a finite number; a whole number that no float can hold is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_whole(value: Any) -> TypeGuard[int]:
    """Tell whether a value is a whole number."""
    return isinstance(value, int) and is_number(value)


def shown(value: Any) -> str:
    """Return a value as short JSON."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
