"""Searches with NNI's one-shot strategies: one supernet is trained, in this process, without an experiment of NNI."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Lightning, Trainer
from nni.nas.strategy import DARTS, RandomOneShot
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.utils.data import DataLoader

from nni_nastc.config import SearchOptimizerConfig, TrainerConfig
from nni_nastc.devices import local_device
from nni_nastc.distributed import is_main
from nni_nastc.evaluation.history import EpochHistory, read_history, seed_epoch
from nni_nastc.evaluation.memory import explained_memory
from nni_nastc.evaluation.module import RecognitionModule
from nni_nastc.evaluation.trainer import trainer_arguments
from nni_nastc.genotype import EDGES, Genotype
from nni_nastc.plots import draw_alphas, draw_history
from nni_nastc.search.judging import draw_cells, judge, write_samples
from nni_nastc.search.paths import PathModule, refresh_statistics
from nni_nastc.search.random_one_shot import SampledModule
from nni_nastc.search.task import SearchTask

_logger = logging.getLogger(__name__)

CALIBRATION_VIDEOS = 256
"""Videos of the weights' half whose features give batch norm's statistics of one path (our choice)."""


def search_one_shot(task: SearchTask, callbacks: Sequence[Callback]) -> Genotype:
    """Train the supernet, and derive the cell from it.

    Parameters
    ----------
    task : SearchTask
        With a one-shot strategy.
    callbacks : sequence of Callback
        Further callbacks of Lightning.

    Returns
    -------
    Genotype
        The derived cell; of a strategy that only draws cells, the best of those that were judged, which
        ``samples.json`` lists. ``history.json`` and ``history.png`` are in the output folder, and ``alphas.png`` if
        there are alphas.
    """
    config = task.config
    batches = _calibration(task)
    with_alphas = isinstance(task.strategy, DARTS)
    header = {"edges": [list(edge) for edge in EDGES], "operations": [*task.space.operations, "zero"]}
    history = EpochHistory(
        config.output,
        task.videos.task,
        task.validation,
        header=header if with_alphas else None,
        details=_details,
        network=lambda module: _scored_network(module, batches),
    )
    module = _fit(task, history, callbacks)
    if isinstance(task.strategy, DARTS):
        genotype = Genotype.from_nni(module.export(), origin=task.origin)
    else:
        genotype = _best_sample(task, module, batches)
    if is_main():
        course = read_history(config.output, config.epochs)
        if with_alphas:
            draw_alphas(course, config.output / "alphas.png", genotype=genotype)
        draw_history(course, config.output / "history.png")
    return genotype


def is_distributed(config: TrainerConfig) -> bool:
    """Tell whether several processes search together."""
    return config.devices != 1 or config.num_nodes != 1


def _fit(task: SearchTask, history: EpochHistory, callbacks: Sequence[Callback]) -> Any:
    """Train the supernet through NNI's strategy interface; return the module that searched.

    The direct path, not ``NasExperiment``: that keeps metrics from reaching the experiment around a trial.
    """
    config, strategy = task.config, cast("DARTS | RandomOneShot", task.strategy)
    arguments = trainer_arguments(config, history, callbacks)
    if is_distributed(config.trainer):
        # The alpha step leaves the weights without gradients, the weight step the alphas.
        arguments["strategy"] = "ddp_find_unused_parameters_true"
    if config.trainer.compile:
        _logger.warning("trainer.compile is true, which is for fixed networks only; searching without it")
    trainer = Trainer(**arguments)
    strategy.mutate_model(task.space)
    with history.resuming() as resumed:
        evaluator = Lightning(
            RecognitionModule(
                history.task, lambda parameters: _optimizer(parameters, config.optimizer, config.epochs)
            ),
            trainer,
            datamodule=task.data,
            fit_kwargs=resumed,
        )
        searching = strategy.mutate_evaluator(evaluator)
        channels, *place = task.videos.store.feature_shape
        shape = (channels, config.data.timesteps, *place)
        device = local_device(config.trainer.accelerator)
        with explained_memory("search step", task.space, config.data.batch_size, shape, device):
            searching.evaluate(task.space)
    return searching.module


def _calibration(task: SearchTask) -> DataLoader[Any]:
    """Return batches of some videos of the weights' half, the same ones whenever they are read."""
    half = task.weight_half
    chosen = random.Random(task.config.seed).sample(half, min(len(half), CALIBRATION_VIDEOS))
    return task.videos.scored_batches(chosen, config=task.config.data)


def _scored_network(module: Any, batches: DataLoader[Any]) -> nn.Module:
    """Return the network that is scored after an epoch: the whole supernet, or the path that the search is at."""
    if isinstance(module, PathModule):
        module.take(module.path())
        refresh_statistics(module.model, batches, module.device)
    return module.model


def _best_sample(task: SearchTask, module: SampledModule, batches: DataLoader[Any]) -> Genotype:
    """Return the best of the cells that the trained search draws, and write all of them."""
    seed_epoch(task.config.seed, task.config.epochs)
    cells = draw_cells(module, task.strategy.samples)
    judged = judge(
        module,
        cells,
        task=task.videos.task,
        calibration=batches,
        validation=task.validation,
        device=local_device(task.config.trainer.accelerator),
    )
    write_samples(judged, task.videos.task, task.config.output)
    return replace(judged[0].genotype, origin=f"{task.origin}, the best of {len(judged)} samples")


def _optimizer(
    parameters: Any, config: SearchOptimizerConfig, epochs: int
) -> tuple[Optimizer, LRScheduler | None]:
    """Return the weights' SGD with its cosine schedule."""
    optimizer = torch.optim.SGD(
        parameters, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )
    return optimizer, CosineAnnealingLR(optimizer, epochs, eta_min=config.final_learning_rate)


def _details(trainer: pl.Trainer, module: Any) -> dict[str, Any]:
    """Return what the history of a search has beside scores: losses, the reward, the alphas."""
    names = {"train_loss": "search/weight_loss", "alpha_loss": "search/alpha_loss", "reward": "search/reward"}
    logged = trainer.callback_metrics
    values = {name: logged[key].item() for name, key in names.items() if key in logged}
    return {**values, **module.epoch_values()}
