"""Searches with NNI's one-shot strategies: one supernet is trained, in this process, without an experiment of NNI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Lightning, Trainer
from nni.nas.strategy import DARTS, RandomOneShot
from pytorch_lightning.callbacks import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from nni_nastc.config import SearchOptimizerConfig
from nni_nastc.evaluation.history import EpochHistory, read_history
from nni_nastc.evaluation.module import RecognitionModule
from nni_nastc.evaluation.trainer import trainer_arguments
from nni_nastc.genotype import EDGES, Genotype
from nni_nastc.plots import draw_alphas, draw_history
from nni_nastc.search.task import SearchTask
from nni_nastc.search.temp_darts import TempDartsLightningModule


def search_one_shot(task: SearchTask, callbacks: Sequence[Callback]) -> Genotype:
    """Train the supernet and derive the cell from it.

    Parameters
    ----------
    task : SearchTask
        With a one-shot strategy.
    callbacks : sequence of Callback
        Further callbacks of Lightning.

    Returns
    -------
    Genotype
        The derived cell. ``history.json``, ``history.png`` and ``alphas.png`` are in the output folder.
    """
    config = task.config
    history = EpochHistory(
        config.output,
        task.videos.task,
        task.validation,
        header={"edges": [list(edge) for edge in EDGES], "operations": [*task.space.operations, "zero"]},
        details=_details,
    )
    genotype = Genotype.from_nni(_fit(task, history, callbacks), origin=task.origin)
    course = read_history(config.output, config.epochs)
    draw_alphas(course, config.output / "alphas.png", genotype=genotype)
    draw_history(course, config.output / "history.png")
    return genotype


def _fit(task: SearchTask, history: EpochHistory, callbacks: Sequence[Callback]) -> dict[str, Any]:
    """Train the supernet through NNI's strategy interface; return the sample that it exports.

    The direct path, not ``NasExperiment``: that keeps metrics from reaching the experiment around a trial.
    """
    config, strategy = task.config, cast("DARTS | RandomOneShot", task.strategy)
    trainer = Trainer(**trainer_arguments(config, history, callbacks))
    strategy.mutate_model(task.space)
    with history.resuming() as arguments:
        evaluator = Lightning(
            RecognitionModule(
                history.task, lambda parameters: _optimizer(parameters, config.optimizer, config.epochs)
            ),
            trainer,
            datamodule=task.data,
            fit_kwargs=arguments,
        )
        searching = strategy.mutate_evaluator(evaluator)
        searching.evaluate(task.space)
    return searching.module.export()


def _optimizer(
    parameters: Any, config: SearchOptimizerConfig, epochs: int
) -> tuple[Optimizer, LRScheduler | None]:
    """Return the weights' SGD with its cosine schedule."""
    optimizer = torch.optim.SGD(
        parameters, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )
    return optimizer, CosineAnnealingLR(optimizer, epochs, eta_min=config.final_learning_rate)


def _details(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    """Return what the history of a search has beside scores: both losses, and the alphas."""
    assert isinstance(module, TempDartsLightningModule)
    losses = {
        name: trainer.callback_metrics[key].item()
        for name, key in (("train_loss", "search/weight_loss"), ("alpha_loss", "search/alpha_loss"))
        if key in trainer.callback_metrics
    }
    return {**losses, "alphas": module.alphas().tolist()}
