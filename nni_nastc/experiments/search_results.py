"""The trials of a search by ``nastc search`` with a multi-trial strategy, from the folder of the search."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nni_nastc.errors import ExperimentError, NastcError
from nni_nastc.experiments.results import UNFINISHED, ExperimentResults, TrialResult, find_experiment, read_experiment
from nni_nastc.files import read_object
from nni_nastc.genotype import Genotype

TRIALS_FILE = "trials.json"

_STATUS = {"finished": "SUCCEEDED", "failed": "FAILED", "running": UNFINISHED}
"""The search's own words -> NNI's. Whether a search still runs cannot be seen in its folder."""


def find_results(name: str) -> ExperimentResults:
    """Read what is meant: the folder of a search, the folder of an experiment of NNI, or its id.

    Raises
    ------
    ExperimentError
        If there is none, or it is damaged.
    """
    if (Path(name) / TRIALS_FILE).is_file():
        return read_search(Path(name))
    return read_experiment(find_experiment(name))


def read_search(folder: Path) -> ExperimentResults:
    """Read the folder of a search by trials: its ``trials.json``, and the history of each trial.

    Raises
    ------
    ExperimentError
        If the file is damaged, or not of this format.
    """
    path = folder / TRIALS_FILE
    content = read_object(path, ExperimentError)
    try:
        if content["format"] != "nni_nastc.trials" or content["version"] != 1:
            raise ValueError(f"format {content['format']!r}, version {content['version']!r}")
        trials = tuple(_trial(folder, entry) for entry in content["trials"])
    except (KeyError, TypeError, ValueError) as problem:
        raise ExperimentError(
            f"{path} does not list the trials of a search ({problem}); it was edited, or is of another release"
        ) from problem
    return ExperimentResults(folder.resolve().name, f"{content.get('strategy', 'search')}", trials)


def _trial(folder: Path, entry: Mapping[str, Any]) -> TrialResult:
    number = int(entry["trial"])
    curve: tuple[float, ...] = ()
    metrics: dict[str, float] = {}
    with suppress(NastcError, KeyError, TypeError):
        epochs = read_object(folder / "trials" / f"{number:04d}" / "history.json")["epochs"]
        curve = tuple(float(epoch["val_score"]) for epoch in epochs)
        metrics = {name: float(epochs[-1][name]) for name in ("train_loss", "val_loss")}
    return TrialResult(
        number=number,
        id=f"{number:04d}",
        status=_STATUS[entry["status"]],
        score=None if entry.get("score") is None else float(entry["score"]),
        metrics=metrics if entry.get("score") is not None else {},
        curve=curve,
        started_s=float(entry["started_s"]),
        ended_s=None if entry.get("ended_s") is None else float(entry["ended_s"]),
        reason=str(entry.get("reason") or ""),
        genotype=Genotype.from_dict(entry["genotype"]),
    )
