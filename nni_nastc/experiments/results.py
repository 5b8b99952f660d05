"""What an experiment leaves behind: its trials with their scores, whether it has ended well or not.

NNI's database is copied and read as plain tables of JSON; nothing of NNI runs, and the pickles that its JSON may hold
stay text. So a running, a killed and a copied experiment can be read, too.
"""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nni_nastc.errors import ExperimentError, GenotypeError
from nni_nastc.experiments.cell_space import cell_of
from nni_nastc.experiments.server import find_managers
from nni_nastc.genotype import Genotype

DATABASE = Path("db", "nni.sqlite")
"""Where an experiment's folder has NNI's database."""

UNFINISHED = "UNFINISHED"
"""Status of a trial that was running when its experiment ended."""

_RUNNING = ("WAITING", "RUNNING", "UNKNOWN")


@dataclass(frozen=True)
class TrialResult:
    """A trial.

    Attributes
    ----------
    number : int
        In the order of the experiment, from 0.
    id : str
        NNI's name of it.
    status : str
        As NNI calls it (SUCCEEDED, FAILED, RUNNING, ...), or :data:`UNFINISHED`.
    score : float or None
        The final default metric.
    metrics : mapping
        All numbers of the final result.
    parameters : mapping
        What the tuner has sampled; names of nested parameters are dotted.
    curve : tuple of float
        The default metric after each epoch.
    started_s, ended_s : float or None
        Seconds from the start of the experiment; the end is that of the last thing heard of it.
    reason : str
        Why it failed.
    genotype : Genotype or None
        Its cell.
    """

    number: int
    id: str
    status: str
    score: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    curve: tuple[float, ...] = ()
    started_s: float | None = None
    ended_s: float | None = None
    reason: str = ""
    genotype: Genotype | None = None


@dataclass(frozen=True)
class ExperimentResults:
    """An experiment: its id, its name, its trials by number."""

    id: str
    name: str
    trials: tuple[TrialResult, ...]

    def ranked(self) -> list[TrialResult]:
        """Return the trials, best first; those without a score last; of equals the earlier one first."""
        return sorted(self.trials, key=lambda trial: -math.inf if trial.score is None else trial.score, reverse=True)

    @property
    def best(self) -> TrialResult | None:
        """The trial of the highest score; None if none has one."""
        first = next(iter(self.ranked()), None)
        return first if first and first.score is not None else None


def nni_home() -> Path:
    """Return the folder in which NNI keeps experiments and the list of them."""
    return Path.home() / "nni-experiments"


def known_experiments() -> dict[str, Path]:
    """Return id -> folder of the experiments that NNI lists or keeps at its usual place, and that are there."""
    folders = {path.parent.parent.name: path.parent.parent for path in nni_home().glob(f"*/{DATABASE}")}
    folders.pop("_latest", None)  # a link to one of the others
    with suppress(OSError, ValueError, AttributeError, TypeError):
        listed = json.loads((nni_home() / ".experiment").read_text(encoding="utf-8"))
        folders |= {name: Path(entry["logDir"], name) for name, entry in listed.items() if entry.get("logDir")}
    return {name: path for name, path in sorted(folders.items()) if (path / DATABASE).is_file()}


def find_experiment(name: str) -> Path:
    """Return the folder of an experiment.

    Parameters
    ----------
    name : str
        The folder itself, or NNI's id.

    Raises
    ------
    ExperimentError
        If there is none; the known ids are given.
    """
    if (Path(name) / DATABASE).is_file():
        return Path(name)
    known = known_experiments()
    if name in known:
        return known[name]
    if Path(name).is_dir():
        raise ExperimentError(f"{name} holds no experiment: there is no {DATABASE} in it; give the experiment's folder")
    ids = f"known are {', '.join(known)}" if known else f"there are none in {nni_home()}"
    raise ExperimentError(f"no experiment of NNI has the id {name!r}: {ids}; give one of them, or a folder")


def read_experiment(folder: Path) -> ExperimentResults:
    """Read the folder of an experiment.

    Parameters
    ----------
    folder : Path
        Has ``db/nni.sqlite``. Nothing in it is changed. What the trials left is found in it wherever it was copied to.

    Raises
    ------
    ExperimentError
        If the database is damaged.
    """
    try:
        profile, events, metrics = _read_tables(folder / DATABASE)
    except (sqlite3.Error, ValueError, TypeError) as problem:
        raise ExperimentError(
            f"{folder / DATABASE} cannot be read ({problem}): it is damaged, or not NNI's; copy the folder anew"
        ) from problem
    running = bool(find_managers(profile["id"]))
    sampled = _sampled(row for some in events.values() for row in some)
    trials = [
        _trial(folder, number, name, some, metrics.get(name, []), sampled, profile["start"], running)
        for number, (name, some) in enumerate(events.items())
    ]
    name = profile["params"].get("experimentName") or profile["id"]
    return ExperimentResults(profile["id"], str(name), tuple(trials))


Row = dict[str, Any]


def _read_tables(path: Path) -> tuple[dict[str, Any], dict[str, list[Row]], dict[str, list[Row]]]:
    """Return the profile, and the events and metrics of each trial in their order.

    A copy is read: a killed manager may leave a journal beside the database, which reading it takes in.
    """
    with tempfile.TemporaryDirectory() as place:
        for file in path.parent.glob(f"{path.name}*"):
            shutil.copyfile(file, Path(place, file.name))
        with closing(sqlite3.connect(Path(place, path.name))) as connection:
            connection.row_factory = sqlite3.Row
            profiles = connection.execute("select * from ExperimentProfile order by revision desc limit 1").fetchall()
            events = connection.execute("select * from TrialJobEvent order by timestamp, rowid").fetchall()
            metrics = connection.execute("select * from MetricData order by timestamp, rowid").fetchall()
    if not profiles:
        raise ValueError("it lists no experiment")
    newest = profiles[0]
    profile = {"id": newest["id"], "start": newest["startTime"], "params": json.loads(newest["params"])}
    return profile, _by_trial(events), _by_trial(metrics)


def _by_trial(rows: Iterable[sqlite3.Row]) -> dict[str, list[Row]]:
    """Return the rows of each trial; other rows have no trial."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["trialJobId"]:
            found.setdefault(row["trialJobId"], []).append(dict(row))
    return found


def _trial(
    folder: Path,
    number: int,
    name: str,
    events: list[Row],
    metrics: list[Row],
    sampled: Mapping[str, dict[str, Any]],
    start: int | None,
    running: bool,
) -> TrialResult:
    """Put together what the tables and the trial's folder say of a trial."""
    # Of trials on other machines, the folder holds what was fetched: logs.
    places = [*sorted(folder.glob(f"environments/*/trials/{name}")), *folder.glob(f"trials/{name}")]
    place = next(iter(places), None)
    status = str(events[-1]["event"])
    reported = next((_reported(row["data"]) for row in reversed(metrics) if row["type"] == "FINAL"), {})
    final = _numbers(reported)
    curve = [_numbers(_reported(row["data"])).get("default") for row in metrics if row["type"] == "PERIODICAL"]
    # NNI may have given a trial the parameters of another that started with it; the metrics say which it really had.
    own = _sampled(events)
    parameters = sampled.get(str(metrics[0]["parameterId"]) if metrics else "") or next(iter(own.values()), {})
    first = start or events[0]["timestamp"]
    return TrialResult(
        number=number,
        id=name,
        status=UNFINISHED if status in _RUNNING and not running else status,
        score=final.get("default"),
        metrics={key: value for key, value in final.items() if key != "default"},
        parameters=parameters,
        curve=tuple(value for value in curve if value is not None),
        started_s=(events[0]["timestamp"] - first) / 1000,
        ended_s=(max(row["timestamp"] for row in [*events, *metrics]) - first) / 1000,
        reason=_last_error(place) if status == "FAILED" else "",
        genotype=_genotype(place, parameters, reported.get("cell")),
    )


def _reported(data: str) -> dict[str, Any]:
    """Return a metric. NNI writes JSON within JSON, and a number alone for the default metric."""
    value: Any = data
    while isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {"default": value}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a metric."""
    return {name: float(number) for name, number in values.items() if _is_number(number)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _sampled(events: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """Return what the tuner has sampled, by the number that it has given it."""
    found = {}
    for row in events:
        with suppress(ValueError, TypeError, KeyError):
            data = json.loads(row["data"])
            found[str(data["parameter_id"])] = _flat(data["parameters"])
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = prefix + ("name" if name == "_name" else name)
        flat |= _flat(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return flat


def _last_error(place: Path | None) -> str:
    """Return the last line that a trial wrote to stderr."""
    if place is None or not (place / "trial.stderr").is_file():
        return ""
    text = (place / "trial.stderr").read_text(encoding="utf-8", errors="replace")
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _genotype(place: Path | None, parameters: Mapping[str, Any], words: Any) -> Genotype | None:
    """Return the cell that a trial has found or was given: of its file, of its parameters, or in its result's words."""
    with suppress(GenotypeError):
        if place and (place / "genotype.json").is_file():
            return Genotype.from_json(place / "genotype.json")
    with suppress(GenotypeError):
        return cell_of(parameters)
    with suppress(GenotypeError):
        return Genotype.from_lines(str(words).split("; "), origin="found by a trial")
    return None
