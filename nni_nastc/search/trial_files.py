"""The files of a search's trials in its folder: which cell a trial trains, where it does so, how it ended.

``trials/0003.json`` is the cell of trial 3, and ``trials/0003`` the folder of its training, as of ``nastc train``. The
trial itself writes how it ended, before it tells NNI: what is on the disk counts, whatever happens to the process that
runs the search.
"""

from __future__ import annotations

from pathlib import Path

import torch

from nni_nastc.config import SearchConfig, TrainConfig, find_space
from nni_nastc.errors import RunFolderError
from nni_nastc.evaluation.history import STATE_FILE
from nni_nastc.files import make_folder, read_object, write_json
from nni_nastc.genotype import Genotype
from nni_nastc.models import SEARCH_SPACES
from nni_nastc.search.trial_engine import Outcome
from nni_nastc.training import METRICS_FILE

TRIALS_FOLDER = "trials"
FAILURE_FILE = "failure.json"


class TrialFiles:
    """The files of one trial.

    Parameters
    ----------
    run : Path
        The folder of the search.
    number : int
        The trial.
    """

    def __init__(self, run: Path, number: int) -> None:
        self.number = number
        self.folder = run / TRIALS_FOLDER / f"{number:04d}"
        self.cell = self.folder.with_suffix(".json")

    def prepare(self, cell: Genotype) -> None:
        """Write the cell, for a job that is about to be asked for."""
        make_folder(self.cell.parent)
        cell.to_json(self.cell)

    def outcome(self) -> Outcome | None:
        """Return how the trial ended; None if nothing says so."""
        if (self.folder / METRICS_FILE).is_file():
            metrics = read_object(self.folder / METRICS_FILE, RunFolderError)
            scores = [value for name, value in metrics.items() if name in ("held_out_accuracy", "held_out_mAP")]
            if len(scores) != 1 or not isinstance(scores[0], int | float):
                raise RunFolderError(f"{self.folder / METRICS_FILE} has no score: it was edited or damaged; remove it")
            return Outcome(self.number, float(scores[0]))
        if (self.folder / FAILURE_FILE).is_file():
            failure = read_object(self.folder / FAILURE_FILE, RunFolderError)
            return Outcome(self.number, None, str(failure.get("reason")))
        return None

    def fail(self, reason: str) -> None:
        """Write why the trial failed."""
        make_folder(self.folder)
        write_json(self.folder / FAILURE_FILE, {"reason": reason})

    def drop_state(self) -> None:
        """Remove the state from which a stopped training would go on: three times the size of the network."""
        (self.folder / STATE_FILE).unlink(missing_ok=True)


def gpus_a_trial(config: SearchConfig) -> int:
    """Return how many GPUs a trial takes: 0 or 1, by default 1 where there is one and none is forbidden."""
    if config.trials.gpus is not None:
        return config.trials.gpus
    return int(config.trainer.accelerator != "cpu" and torch.cuda.is_available())


def trial_config(config: SearchConfig, files: TrialFiles) -> TrainConfig:
    """Return the training of a trial: same videos, seed and sizes for all trials of a search.

    Parameters
    ----------
    config : SearchConfig
        The search.
    files : TrialFiles
        Where the cell is, and where the training goes.
    """
    space = find_space(config.space, SEARCH_SPACES)
    accelerator = "gpu" if gpus_a_trial(config) else "cpu"
    return TrainConfig(
        output=files.folder,
        data=config.data,
        genotype=str(files.cell),
        num_layers=config.num_layers or space.num_layers,
        num_groups=space.num_groups,
        hold_out=0.5,
        optimizer=config.trials.optimizer,
        epochs=config.trials.epochs,
        seed=config.seed,
        trainer=config.trainer.model_copy(update={"accelerator": accelerator, "devices": 1, "num_nodes": 1}),
    )
