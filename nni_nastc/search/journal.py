"""What happened in a search by trials, in its order: the file from which a killed search goes on.

A line of ``journal.jsonl`` is either a cell that the strategy asked for, or a trial that ended. Both are written before
anything follows from them, so that a strategy to which the same results are given at the same places asks for the same
cells again and is then in the state in which it was stopped. Nothing of NNI's own checkpoints, which are pickles and
lack what came after the start, is needed.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nni_nastc.errors import GenotypeError, RunFolderError
from nni_nastc.files import disk_errors
from nni_nastc.genotype import Genotype

JOURNAL_FILE = "journal.jsonl"


@dataclass(frozen=True)
class Asked:
    """A cell that the strategy asked for.

    Attributes
    ----------
    trial : int
        The trial that trains it; an earlier one if the same network was asked for before.
    cell : Genotype
        As the strategy sampled it.
    seconds : float
        Time of the search until then, without the time between a stop and going on.
    """

    trial: int
    cell: Genotype
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the line as JSON values."""
        return {"asked": self.trial, "seconds": round(self.seconds, 3), "cell": self.cell.to_dict()}


@dataclass(frozen=True)
class Ended:
    """A trial that ended.

    Attributes
    ----------
    trial : int
        Its number.
    score : float or None
        The validation score in [0, 1]; None if the trial failed.
    reason : str or None
        Why it failed.
    seconds : float
        As of :class:`Asked`.
    """

    trial: int
    score: float | None
    reason: str | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the line as JSON values."""
        outcome = {"reason": self.reason} if self.score is None else {"score": self.score}
        return {"ended": self.trial, "seconds": round(self.seconds, 3), **outcome}


Entry = Asked | Ended


class Journal:
    """The journal in a run's folder.

    Parameters
    ----------
    folder : Path
        The folder; a journal in it is read, and gone on with.

    Raises
    ------
    RunFolderError
        If a line of it is no entry. A last line that was not written to its end is dropped.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL_FILE
        self.entries: list[Entry] = self._read() if self.path.exists() else []

    def append(self, entry: Entry) -> None:
        """Write an entry to the disk."""
        self.entries.append(entry)
        with disk_errors(self.path), self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry.to_dict()) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _read(self) -> list[Entry]:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(self.path, len(whole))
        entries: list[Entry] = []
        asked, ended = 0, set()  # trials so far
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = _entry(json.loads(line))
                if isinstance(entry, Asked):
                    _require(0 <= entry.trial <= asked, "a trial number is skipped")
                    asked = max(asked, entry.trial + 1)
                else:
                    _require(0 <= entry.trial < asked and entry.trial not in ended, "no such trial is running")
                    ended.add(entry.trial)
            except (ValueError, KeyError, TypeError, GenotypeError) as problem:
                raise RunFolderError(
                    f"line {number} of {self.path} is no entry of a search ({problem}): it was edited or damaged; "
                    "remove the lines from there on, and the search goes on before them"
                ) from None
            entries.append(entry)
        return entries


def _entry(value: Any) -> Entry:
    """Read what ``to_dict`` writes."""
    seconds = _number(value["seconds"])
    if "asked" in value:
        return Asked(_whole(value["asked"]), Genotype.from_dict(value["cell"]), seconds)
    trial = _whole(value["ended"])
    if "score" in value:
        return Ended(trial, _number(value["score"]), None, seconds)
    return Ended(trial, None, str(value["reason"]), seconds)


def _number(value: Any) -> float:
    _require(isinstance(value, int | float) and math.isfinite(value), f"a number is needed, got {value!r}")
    return float(value)


def _whole(value: Any) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool), f"a trial number is needed, got {value!r}")
    return int(value)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)
