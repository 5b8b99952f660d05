"""Train a fixed network: a genotype's, or another method's."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from nni_nastc.acceleration import compile_network, kernels_as_before
from nni_nastc.bundle import MODEL_FILE, Bundle, save_bundle
from nni_nastc.config import TrainConfig, TrainOptimizerConfig
from nni_nastc.data.annotations import VideoRecord
from nni_nastc.data.datamodule import FeatureDataModule, VideoSet
from nni_nastc.data.splits import hold_out
from nni_nastc.devices import check_trainer, local_device
from nni_nastc.distributed import check_processes, is_main
from nni_nastc.errors import RunFolderError
from nni_nastc.evaluation.history import EpochHistory, read_history
from nni_nastc.evaluation.memory import explained_memory
from nni_nastc.evaluation.module import RecognitionModule
from nni_nastc.evaluation.trainer import trainer_arguments, with_usable_precision
from nni_nastc.files import read_object, write_json
from nni_nastc.models import NetworkSpec, build_model, check_model_timesteps, find_network
from nni_nastc.plots import draw_history
from nni_nastc.runs import SPLIT_FILE, environment, open_run

METRICS_FILE = "metrics.json"


@kernels_as_before()
def train(
    config: TrainConfig, callbacks: Sequence[Callback] = (), *, held_out: Collection[str] | None = None
) -> dict[str, Any]:
    """Train a network on the training part, or go on with a training that was stopped.

    A tenth of the training part is held out by video and scored after every epoch, unless ``final`` is set: then all of
    it trains. Either way the network of the last epoch is kept. The test part is not touched.

    Parameters
    ----------
    config : TrainConfig
        What to do. Its output folder gets ``config.yaml``, ``environment.json``, ``split.json``, ``history.json``
        (after every epoch), and at the end ``history.png``, ``model.safetensors`` and ``metrics.json``.
    callbacks : sequence of Callback
        Further callbacks of Lightning, such as a progress bar.
    held_out : collection of str, optional
        The videos to hold out, in place of a share that is drawn.

    Returns
    -------
    dict
        The content of ``metrics.json``.

    Raises
    ------
    NastcError
        If anything that was given is wrong; before the output folder is made.
    """
    start = time.perf_counter()
    check_processes(config.trainer.devices, config.trainer.num_nodes)
    check_trainer(
        config.trainer.accelerator,
        config.trainer.devices,
        config.trainer.precision,
        sync_batchnorm=config.trainer.sync_batchnorm,
    )
    config = with_usable_precision(config)
    device = local_device(config.trainer.accelerator)
    videos = VideoSet.from_config(config.data, seed=config.seed, device=device)
    spec = NetworkSpec(
        network=find_network(config.genotype),
        num_classes=videos.num_classes,
        in_channels=videos.store.feature_shape[0],
        num_layers=config.num_layers,
        num_groups=config.num_groups,
    )
    check_model_timesteps(spec, config.data.timesteps)
    training, held = _parts(config, videos, held_out)
    if held:
        videos.require_labels(held, "the held-out part")
    data = videos.training_batches(training, config=config.data)
    validation = videos.scored_batches(held, config=config.data) if held else None
    pl.seed_everything(config.seed, verbose=False)
    model = build_model(spec)
    with open_run(config.output, config, METRICS_FILE) as finished:
        if finished:
            return read_object(config.output / METRICS_FILE, RunFolderError)
        if is_main():
            write_json(
                config.output / SPLIT_FILE,
                {"train": [record.id for record in training], "held_out": [record.id for record in held]},
            )
        history = EpochHistory(config.output, videos.task, validation)
        channels, *place = videos.store.feature_shape
        shape = (channels, config.data.timesteps, *place)
        with explained_memory("training step", model, config.data.batch_size, shape, device):
            _fit(config, model, data, history, callbacks)
        metrics = _metrics(config, spec, model, time.perf_counter() - start)
        if is_main():
            _write_result(config, spec, model, videos, metrics)
        return metrics


def _parts(
    config: TrainConfig, videos: VideoSet, held_out: Collection[str] | None
) -> tuple[list[VideoRecord], list[VideoRecord]]:
    """Return the records that train and those that are held out."""
    records = videos.records("train")
    if held_out is not None:
        return [r for r in records if r.id not in held_out], [r for r in records if r.id in held_out]
    return (records, []) if config.final else hold_out(records, share=config.hold_out, seed=config.seed)


def _fit(
    config: TrainConfig,
    model: torch.nn.Module,
    data: FeatureDataModule,
    history: EpochHistory,
    callbacks: Sequence[Callback],
) -> None:
    """Train the model with Lightning."""
    module = RecognitionModule(history.task, lambda parameters: _optimizer(parameters, config.optimizer, config.epochs))
    module.set_model(model)
    if config.trainer.compile:
        compile_network(model, local_device(config.trainer.accelerator))
    trainer = pl.Trainer(
        **trainer_arguments(config, history, callbacks), gradient_clip_val=config.optimizer.gradient_clip
    )
    with history.resuming() as arguments:
        trainer.fit(module, datamodule=data, **arguments)


def _optimizer(
    parameters: Any, config: TrainOptimizerConfig, epochs: int
) -> tuple[Optimizer, LRScheduler | None]:
    """Return Adam, with a cosine schedule to zero if asked for."""
    optimizer = torch.optim.Adam(
        parameters, lr=config.learning_rate, eps=config.eps, weight_decay=config.weight_decay
    )
    return optimizer, CosineAnnealingLR(optimizer, epochs) if config.schedule == "cosine" else None


def _metrics(config: TrainConfig, spec: NetworkSpec, model: torch.nn.Module, seconds: float) -> dict[str, Any]:
    """Return what ``metrics.json`` says of a finished training."""
    history = read_history(config.output, config.epochs)
    last = history["epochs"][-1]
    metrics = {
        "network": spec.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": len(history["epochs"]),
        "train_loss": last["train_loss"],
        "seconds": seconds,
    }
    if "val_score" in last:
        metrics |= {f"held_out_{history['metric']}": last["val_score"], "held_out_loss": last["val_loss"]}
    return metrics


def _write_result(
    config: TrainConfig, spec: NetworkSpec, model: torch.nn.Module, videos: VideoSet, metrics: dict[str, Any]
) -> None:
    """Write the picture, the checkpoint, and the metrics, which mark the run as finished."""
    draw_history(read_history(config.output, config.epochs), config.output / "history.png")
    save_bundle(
        config.output / MODEL_FILE,
        model.cpu(),
        Bundle(
            spec=spec,
            classes=videos.annotations.classes,
            task=videos.task,
            timesteps=config.data.timesteps,
            backbone=videos.store.settings,
            feature_shape=videos.store.feature_shape,
            training={
                "config": json.loads(config.model_dump_json()),
                "environment": environment(),
                "metrics": metrics,
            },
        ),
    )
    write_json(config.output / METRICS_FILE, metrics)
