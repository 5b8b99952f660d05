"""What a bench does: a run for each method, T and seed, and whether all of them can be done."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nni_nastc.config import BenchConfig, EvaluateConfig, TrainConfig
from nni_nastc.data.datamodule import VideoSet
from nni_nastc.devices import check_trainer
from nni_nastc.errors import ConfigError, NastcError, RunFolderError
from nni_nastc.files import read_object, write_json
from nni_nastc.models import NetworkSpec, build_model, check_model_timesteps, find_network

RUNS_FOLDER = "runs"
RESULT_FILE = "result.json"
EVALUATION_FOLDER = "evaluation"
NETWORKS_FILE = "networks.json"


@dataclass(frozen=True)
class Run:
    """One training with its evaluation.

    Parameters
    ----------
    method : str
        As the configuration names it.
    timesteps : int
        T.
    seed : int
        Of the weights and the draws.
    folder : Path
        Of the training; a finished run has ``result.json`` in it.
    """

    method: str
    timesteps: int
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """What the run is called in lists."""
        return f"{self.method}, T = {self.timesteps}, seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Whether there is a result."""
        return (self.folder / RESULT_FILE).is_file()

    def result(self) -> dict[str, Any]:
        """Return the content of ``result.json``."""
        return read_object(self.folder / RESULT_FILE, RunFolderError)


def resolve(config: BenchConfig) -> BenchConfig:
    """Return the configuration with full paths of output, store and annotations, the same from any working folder."""
    data = config.data.model_copy(
        update={"store": config.data.store.resolve(), "annotations": config.data.annotations.resolve()}
    )
    return config.model_copy(update={"output": config.output.resolve(), "data": data})


def plan_runs(config: BenchConfig) -> list[Run]:
    """Return all runs, all methods of a seed before the next seed: a bench that is stopped can already compare."""
    return [
        find_run(config, method, timesteps, seed)
        for seed in config.seeds
        for timesteps in config.all_timesteps
        for method in config.methods
    ]


def find_run(config: BenchConfig, method: str, timesteps: int, seed: int) -> Run:
    """Return the run of a method, a T and a seed."""
    folder = config.output / RUNS_FOLDER / folder_name(method) / f"T{timesteps}-seed{seed}"
    return Run(method, timesteps, seed, folder)


def choose_run(config: BenchConfig, *, method: Any, timesteps: Any, seed: Any) -> Run:
    """Return the run that a tuner has chosen; None for a T stands for the only one.

    Raises
    ------
    ConfigError
        With all values that are none of the bench's.
    """
    chosen = {"method": method, "timesteps": timesteps, "seed": seed}
    allowed = {"method": config.methods, "timesteps": config.all_timesteps, "seed": config.seeds}
    if timesteps is None and len(config.all_timesteps) == 1:
        chosen["timesteps"] = config.all_timesteps[0]
    problems = [
        f"run.{name} must be one of {', '.join(map(str, allowed[name]))}, got {value!r}"
        for name, value in chosen.items()
        if value not in allowed[name]
    ]
    if problems:
        raise ConfigError(f"no such run in the bench {config.output}: {'; '.join(problems)}")
    return find_run(config, **chosen)


def folder_name(method: str) -> str:
    """Return a method's name, which may be a path, as the name of a folder."""
    return re.sub(r"[^\w.]+", "-", method).strip("-.")


def train_config(config: BenchConfig, run: Run) -> TrainConfig:
    """Return the training of a run: all of the training part, as the bench's protocol says."""
    rate = config.learning_rates.get(run.method, config.optimizer.learning_rate)
    return TrainConfig(
        output=run.folder,
        data=config.data.model_copy(update={"timesteps": run.timesteps}),
        genotype=run.method,
        num_layers=num_layers(config, run.timesteps),
        num_groups=config.num_groups,
        final=True,
        optimizer=config.optimizer.model_copy(update={"learning_rate": rate}),
        epochs=config.epochs,
        seed=run.seed,
        trainer=config.trainer,
    )


def evaluate_config(config: BenchConfig, run: Run) -> EvaluateConfig:
    """Return the evaluation of a run on the test part; the draws of all runs are the same."""
    return EvaluateConfig(
        checkpoint=run.folder,
        output=run.folder / EVALUATION_FOLDER,
        draws=config.draws,
        batch_size=config.data.batch_size,
        workers=config.data.workers,
        cache=config.data.cache,
        device="cpu" if config.trainer.accelerator == "cpu" else "auto",
    )


def num_layers(config: BenchConfig, timesteps: int) -> int:
    """Return L at a T."""
    return config.layers_at.get(timesteps, config.num_layers)


def network_spec(config: BenchConfig, videos: VideoSet, method: str, timesteps: int) -> NetworkSpec:
    """Return what it takes to build the network of a method at a T.

    Raises
    ------
    NastcError
        If the name stands for nothing.
    """
    return NetworkSpec(
        network=find_network(method),
        num_classes=videos.num_classes,
        in_channels=videos.store.feature_shape[0],
        num_layers=num_layers(config, timesteps),
        num_groups=config.num_groups,
    )


def open_videos(config: BenchConfig) -> VideoSet:
    """Open store and annotations, and refuse parts on which nothing can be trained or scored.

    Raises
    ------
    NastcError
        If they are missing, broken, or do not fit together.
    """
    data = config.data
    videos = VideoSet.open(
        data.store, data.annotations, dataset=data.dataset, target=data.target, timesteps=data.timesteps
    )
    for subset in ("train", "test"):
        records = videos.records(subset)
        videos.require_labels(records, f"the {subset} part")
        videos.dataset(records, "uniform")
    return videos


def check_bench(config: BenchConfig) -> VideoSet:
    """Refuse a bench that cannot be done, before anything is written.

    Returns
    -------
    VideoSet
        Store and annotations.

    Raises
    ------
    ConfigError
        With all methods that are unknown, or cannot take the features, a T or the layers.
    NastcError
        If store and annotations do not fit, or this machine lacks what ``trainer`` asks for.
    """
    trainer = config.trainer
    if trainer.devices not in (1, "auto") or trainer.num_nodes != 1:
        raise ConfigError(
            f"a run of a bench takes one device, got trainer.devices={trainer.devices}, "
            f"trainer.num_nodes={trainer.num_nodes}; set both to 1, and spread the runs as trials of nnictl"
        )
    check_trainer(
        trainer.accelerator, trainer.devices, trainer.precision, sync_batchnorm=trainer.sync_batchnorm
    )
    videos = open_videos(config)
    problems = _shared_folders(config)
    problems += [problem for method in config.methods if (problem := _problem(config, videos, method))]
    problems += [problem for name in config.learning_rates if (problem := _unknown(config, name))]
    if problems:
        raise ConfigError(f"the bench cannot be done: {'; '.join(problems)}")
    return videos


def _problem(config: BenchConfig, videos: VideoSet, method: str) -> str:
    """Return why a method cannot be trained, or nothing."""
    try:
        for timesteps in config.all_timesteps:
            spec = network_spec(config, videos, method, timesteps)
            check_model_timesteps(spec, timesteps)
            with torch.device("meta"):
                build_model(spec)
    except NastcError as problem:
        return f"{method}: {problem}"
    return ""


def _unknown(config: BenchConfig, name: str) -> str:
    """Return why a learning rate is nobody's, or nothing; methods that are left out of the bench may have one."""
    try:
        if name not in config.methods:
            find_network(name)
    except NastcError as problem:
        return f"learning_rates: {problem}"
    return ""


def _shared_folders(config: BenchConfig) -> list[str]:
    """Return the methods whose names become one folder."""
    names = [folder_name(method) for method in config.methods]
    twice = {name for name in names if names.count(name) > 1}
    return [f"methods of one folder name {name}; rename a file or folder" for name in sorted(twice)]


def pin_networks(config: BenchConfig) -> None:
    """Write down which cells the names stand for, and refuse other ones when the bench goes on.

    Raises
    ------
    RunFolderError
        If a search or a file has another cell since the bench began.
    """
    path = config.output / NETWORKS_FILE
    networks = {}
    for method in config.methods:
        network = find_network(method)
        networks[method] = network if isinstance(network, str) else network.to_dict()
    if not path.is_file():
        write_json(path, networks)
        return
    before = read_object(path, RunFolderError)
    if changed := [method for method in config.methods if before.get(method) != networks[method]]:
        raise RunFolderError(
            f"the cell of {', '.join(changed)} is another one than when the bench {config.output} began; "
            "choose another output, or bring the old cell back"
        )

