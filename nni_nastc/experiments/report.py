"""An experiment's results as files: a table, a picture, the best cell."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from nni_nastc.experiments.results import ExperimentResults, TrialResult
from nni_nastc.files import atomic_path, make_folder
from nni_nastc.plots import draw_cell, draw_trials

TABLE_FILE = "trials.csv"
PICTURE_FILE = "trials.png"


def write_report(results: ExperimentResults, folder: Path) -> list[str]:
    """Write what is known of an experiment; files of an earlier report are replaced.

    Parameters
    ----------
    results : ExperimentResults
        The trials.
    folder : Path
        Gets ``trials.csv`` (best first), if a trial has a score ``trials.png``, and if the best one has a cell
        ``genotype.json`` and ``cell.png``.

    Returns
    -------
    list of str
        The names of the files.
    """
    make_folder(folder)
    written = [TABLE_FILE]
    with atomic_path(folder / TABLE_FILE) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        rows = [_row(trial) for trial in results.ranked()]
        names = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(stream, list(names) or ["trial"], restval="")
        writer.writeheader()
        writer.writerows(rows)
    scores = [(t.number, t.ended_s or 0.0, t.score) for t in results.trials if t.score is not None]
    if scores:
        draw_trials(scores, folder / PICTURE_FILE, title=results.name)
        written.append(PICTURE_FILE)
    if results.best and results.best.genotype:
        results.best.genotype.to_json(folder / "genotype.json")
        draw_cell(results.best.genotype, folder / "cell.png")
        written += ["genotype.json", "cell.png"]
    return written


def _row(trial: TrialResult) -> dict[str, Any]:
    """Return a line of the table; ``m:`` stands before the names of metrics, ``p:`` before those of parameters."""
    return {
        "trial": trial.number,
        "id": trial.id,
        "status": trial.status,
        "score": trial.score,
        "last_epoch": trial.curve[-1] if trial.curve else None,
        "epochs": len(trial.curve),
        "started_s": trial.started_s,
        "ended_s": trial.ended_s,
        "reason": trial.reason,
        "cell": "; ".join(trial.genotype.lines) if trial.genotype else "",
        **{f"m:{name}": value for name, value in trial.metrics.items()},
        **{
            f"p:{name}": value if isinstance(value, str | int | float) else json.dumps(value)
            for name, value in trial.parameters.items()
        },
    }
