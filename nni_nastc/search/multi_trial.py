"""Searches with NNI's multi-trial strategies: each network that is sampled is trained by itself, in a trial of NNI."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from nni.nas.space import ExecutableModelSpace, SimplifiedModelSpace
from pytorch_lightning.callbacks import Callback

from nni_nastc.config import SearchConfig
from nni_nastc.errors import ConfigError, ExperimentError, ModelError
from nni_nastc.evaluation.scoring import METRIC_NAMES
from nni_nastc.experiments.server import require_idle
from nni_nastc.files import write_json
from nni_nastc.genotype import CELL_LABEL, Genotype
from nni_nastc.plots import draw_trials
from nni_nastc.search.journal import Journal
from nni_nastc.search.task import SearchTask
from nni_nastc.search.training_service import LocalTrials
from nni_nastc.search.trial_engine import Trial, TrialEngine
from nni_nastc.search.trial_files import gpus_a_trial

TRIALS_FILE = "trials.json"

_FORMAT = "nni_nastc.trials"
_VERSION = 1


class TrialsCallback(Callback):
    """What wants to know how a search by trials goes."""

    def on_trials_start(self, address: str, max_trials: int) -> None:
        """Learn where the web page is, and how many trials there may be."""

    def on_trials(self, trials: Sequence[Trial]) -> None:
        """Learn of all trials so far, whenever one has started or ended."""

    def on_trials_end(self) -> None:
        """Learn that the search has ended, well or not."""


def check_trials(config: SearchConfig) -> None:
    """Refuse what trials cannot do on this machine.

    Raises
    ------
    ConfigError, ModelError
        If a GPU is asked for that is not there, or both forbidden and asked for; or within a trial of NNI.
    ExperimentError
        If the port is in use.
    """
    if "NNI_TRIAL_JOB_ID" in os.environ:
        raise ConfigError(
            f"{config.strategy.name} starts an experiment of NNI with trials of its own, which a trial cannot do; "
            "run it with nastc search, or name a one-shot strategy"
        )
    gpus, accelerator = config.trials.gpus, config.trainer.accelerator
    if (gpus, accelerator) in ((1, "cpu"), (0, "gpu")):
        raise ConfigError(f"trials.gpus is {gpus}, but trainer.accelerator is {accelerator}; change one of them")
    if gpus and not torch.cuda.is_available():
        raise ModelError("trials.gpus is 1, PyTorch can use no GPU on this machine; set it to 0")
    if config.trials.trials_per_gpu > 1 and not gpus_a_trial(config):
        raise ConfigError(
            f"trials.trials_per_gpu is {config.trials.trials_per_gpu}, but trials take no GPU; remove it"
        )
    if config.trials.port is not None:
        require_idle(config.trials.port)


def search_by_trials(task: SearchTask, callbacks: Sequence[Callback]) -> Genotype:
    """Train the cells that the strategy samples, each once, and return the one with the best validation score.

    Parameters
    ----------
    task : SearchTask
        With a multi-trial strategy.
    callbacks : sequence of Callback
        Those that are a :class:`TrialsCallback` are told how the search goes.

    Returns
    -------
    Genotype
        The best cell; of equals the one that was sampled first. ``trials.json``, ``trials.png``, ``journal.jsonl`` and
        the folder of each trial in ``trials`` are in the output folder.

    Raises
    ------
    ExperimentError
        If NNI's manager does not start or ends, or no trial has a score.
    """
    config = task.config
    watchers = [callback for callback in callbacks if isinstance(callback, TrialsCallback)]

    def watch(trials: Sequence[Trial]) -> None:
        _write_trials(trials, task)
        for watcher in watchers:
            watcher.on_trials(trials)

    space = SimplifiedModelSpace.from_model(task.space)
    service = LocalTrials(
        config.output,
        name=f"{config.strategy.name} on {config.data.annotations.name}",
        strategy=config.strategy.name,
        search_space=shown_space(space),
        concurrency=config.trials.concurrency,
        gpus=gpus_a_trial(config),
        trials_per_gpu=config.trials.trials_per_gpu,
        port=config.trials.port,
    )
    journal = Journal(config.output)
    # It logs that the strategy failed whenever anything ends the search, which is told by what ends it.
    logging.getLogger("nni.nas.strategy.base").setLevel(logging.CRITICAL)
    try:
        with service:
            for watcher in watchers:
                watcher.on_trials_start(service.address, config.trials.max_trials)
            engine = TrialEngine(
                service,
                journal,
                concurrency=config.trials.concurrency,
                max_trials=config.trials.max_trials,
                max_seconds=config.trials.max_seconds,
                watch=watch,
            )
            task.strategy.initialize(space, engine)
            task.strategy.run()
            engine.wait_models()
    finally:
        for watcher in watchers:
            watcher.on_trials_end()
    return _best(engine.trials, task)


def shown_space(space: ExecutableModelSpace) -> dict[str, Any]:
    """Return the search space as NNI's web page shows it, with the names that a trial's parameters have."""
    return {
        label.removeprefix(f"{CELL_LABEL}/"): {"_type": "choice", "_value": list(choice.values)}
        for label, choice in space.simplify().items()
    }


def _best(trials: Sequence[Trial], task: SearchTask) -> Genotype:
    """Write the last files; return the best cell."""
    config = task.config
    scored = [trial for trial in trials if trial.score is not None]
    if not scored:
        reasons = [trial.ended.reason for trial in trials if trial.ended]
        raise ExperimentError(
            f"none of the {len(trials)} trials has a score; the first failed because {reasons[0] if reasons else '?'}"
        )
    points = [(t.number, t.ended.seconds, t.ended.score) for t in trials if t.ended and t.ended.score is not None]
    draw_trials(points, config.output / "trials.png", title=f"{config.strategy.name}, {METRIC_NAMES[task.videos.task]}")
    best = max(scored, key=lambda trial: (trial.score or 0.0, -trial.number))
    return Genotype(
        nodes=best.cell.nodes,
        origin=(
            f"{config.strategy.name}, best of {len(scored)} trials of {config.trials.epochs} epochs on the "
            f"{len(task.weight_half) + len(task.alpha_half)} training videos of {config.data.annotations.name}, "
            f"T = {config.data.timesteps}, seed {config.seed}"
        ),
    )


def _write_trials(trials: Sequence[Trial], task: SearchTask) -> None:
    """Write ``trials.json``: every trial with its cell, score or reason, and times in seconds."""
    entries = []
    for trial in trials:
        entry: dict[str, Any] = {"trial": trial.number, "status": "running", "started_s": round(trial.asked, 3)}
        if trial.ended:
            outcome = {"score": trial.score} if trial.score is not None else {"reason": trial.ended.reason}
            status = "finished" if trial.score is not None else "failed"
            entry |= {"status": status, **outcome, "ended_s": round(trial.ended.seconds, 3)}
        entries.append({**entry, "genotype": trial.cell.to_dict()})
    metric = METRIC_NAMES[task.videos.task]
    header = {"format": _FORMAT, "version": _VERSION, "metric": metric, "strategy": task.config.strategy.name}
    write_json(task.config.output / TRIALS_FILE, {**header, "trials": entries})
