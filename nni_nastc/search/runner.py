"""Run a search from its configuration, from the first check to the files of the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Lightning, Trainer
from pytorch_lightning.callbacks import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from nni_nastc.config import SearchConfig, SearchOptimizerConfig, find_space
from nni_nastc.data.datamodule import FeatureDataModule, VideoSet
from nni_nastc.data.dataset import make_loader
from nni_nastc.data.splits import halves
from nni_nastc.devices import check_trainer, local_device
from nni_nastc.distributed import check_processes
from nni_nastc.errors import ModelError
from nni_nastc.evaluation.history import EpochHistory, EpochSeed, SaveState, read_history
from nni_nastc.evaluation.module import RecognitionModule
from nni_nastc.files import write_json
from nni_nastc.genotype import EDGES, Genotype
from nni_nastc.models import SEARCH_SPACES
from nni_nastc.nn.network import check_timesteps
from nni_nastc.plots import draw_alphas, draw_cell, draw_history
from nni_nastc.runs import open_run
from nni_nastc.search.strategies import make_strategy
from nni_nastc.search.temp_darts import TempDARTS, TempDartsLightningModule
from nni_nastc.space.network import NasTCSpace

GENOTYPE_FILE = "genotype.json"


def run_search(config: SearchConfig, callbacks: Sequence[Callback] = ()) -> Genotype:
    """Search a cell, or go on with a search that was stopped.

    The training part is split in halves by video: one trains the weights, the other the alphas, and scores the supernet
    after every epoch. The test part is not touched.

    Parameters
    ----------
    config : SearchConfig
        What to do. Its output folder gets ``config.yaml``, ``environment.json``, ``split.json``, ``history.json``
        (after every epoch) and at the end ``genotype.json``, ``cell.png``, ``alphas.png`` and ``history.png``.
    callbacks : sequence of Callback
        Further callbacks of Lightning, such as a progress bar.

    Returns
    -------
    Genotype
        The derived cell. The same for an unbroken and a resumed run with the same seed on a CPU.

    Raises
    ------
    NastcError
        If anything that was given is wrong; before the output folder is made.
    """
    # Everything that can be refused is refused before the folder is made.
    space_config = find_space(config.space, SEARCH_SPACES)
    num_layers = config.num_layers or space_config.num_layers
    check_timesteps(config.data.timesteps, num_layers)
    strategy = make_strategy(config.strategy)
    check_trainer(config.trainer.accelerator, config.trainer.devices, config.trainer.precision)
    check_processes(config.trainer.devices, config.trainer.num_nodes)
    for key in ("devices", "num_nodes"):
        if (given := getattr(config.trainer, key)) != 1:
            raise ModelError(f"a search runs on one device, got trainer.{key} = {given}; set it to 1")
    videos = VideoSet.open(
        config.data.store,
        config.data.annotations,
        dataset=config.data.dataset,
        target=config.data.target,
        timesteps=config.data.timesteps,
        seed=config.seed,
        cache=config.data.cache,
        device=local_device(config.trainer.accelerator),
    )
    weight_half, alpha_half = halves(videos.records("train"), config.seed)
    videos.require_labels(alpha_half, "the alphas' half")
    data = FeatureDataModule(
        videos.dataset(weight_half, "random"),
        videos.dataset(alpha_half, "random"),
        batch_size=config.data.batch_size,
        workers=config.data.workers,
        seed=config.seed,
    )
    pl.seed_everything(config.seed, verbose=False)
    space = NasTCSpace(
        num_classes=videos.num_classes,
        num_layers=num_layers,
        in_channels=videos.store.feature_shape[0],
        num_groups=space_config.num_groups,
        operations=space_config.operations,
    )
    validation = make_loader(
        videos.dataset(alpha_half, "uniform"),
        batch_size=config.data.batch_size,
        shuffle=False,
        workers=config.data.workers,
        seed=config.seed,
    )
    history = EpochHistory(
        config.output,
        videos.task,
        validation,
        header={"edges": [list(edge) for edge in EDGES], "operations": [*space.operations, "zero"]},
        details=_details,
    )
    with open_run(config.output, config, GENOTYPE_FILE) as finished:
        if finished:
            return Genotype.from_json(config.output / GENOTYPE_FILE)
        write_json(
            config.output / "split.json",
            {"weights": [record.id for record in weight_half], "alphas": [record.id for record in alpha_half]},
        )
        sample = _fit(config, strategy, space, data, history, callbacks)
        genotype = Genotype.from_nni(sample, origin=_origin(config, len(videos.records("train"))))
        _write_result(config, genotype)
        return genotype


def _fit(
    config: SearchConfig,
    strategy: TempDARTS,
    space: NasTCSpace,
    data: FeatureDataModule,
    history: EpochHistory,
    callbacks: Sequence[Callback],
) -> dict[str, Any]:
    """Train the supernet through NNI's strategy interface; return the sample that it exports.

    The direct path, not ``NasExperiment``: that keeps metrics from reaching the experiment around a trial.
    """
    trainer = Trainer(
        max_epochs=config.epochs,
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        precision=config.trainer.precision,
        callbacks=[EpochSeed(config.seed), history, *callbacks, SaveState(config.output)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=config.output,
    )
    strategy.mutate_model(space)
    with history.resuming() as arguments:
        evaluator = Lightning(
            RecognitionModule(
                history.task, lambda parameters: _optimizer(parameters, config.optimizer, config.epochs)
            ),
            trainer,
            datamodule=data,
            fit_kwargs=arguments,
        )
        searching = strategy.mutate_evaluator(evaluator)
        searching.evaluate(space)
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


def _origin(config: SearchConfig, num_videos: int) -> str:
    return (
        f"{config.strategy.name}, {config.epochs} epochs on the {num_videos} training videos of "
        f"{config.data.annotations.name}, T = {config.data.timesteps}, seed {config.seed}"
    )


def _write_result(config: SearchConfig, genotype: Genotype) -> None:
    """Draw the pictures, then write the genotype, which marks the run as finished."""
    folder = config.output
    history = read_history(folder, config.epochs)
    draw_cell(genotype, folder / "cell.png")
    draw_alphas(history, folder / "alphas.png", genotype=genotype)
    draw_history(history, folder / "history.png")
    genotype.to_json(folder / GENOTYPE_FILE)
