"""The Lightning module that trains a network, fixed or searched, for recognition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from nni.nas.evaluator.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from nni_nastc.data.reading import network_input
from nni_nastc.evaluation.scoring import loss_of

OptimizerFactory = Callable[[Any], tuple[Optimizer, torch.optim.lr_scheduler.LRScheduler | None]]


class RecognitionModule(LightningModule):
    """Train ``self.model``, which NNI or :meth:`set_model` puts in, on batches of features.

    It computes losses only. Scores need the whole set, so :class:`nni_nastc.evaluation.history.EpochHistory` computes
    them when an epoch ends: NNI's one-shot strategies have no validation loop, and train on both halves.

    Parameters
    ----------
    task : str
        "single-label" or "multi-label".
    make_optimizer : callable
        Parameters -> (optimiser, its schedule over epochs or None).
    """

    def __init__(self, task: str, make_optimizer: OptimizerFactory) -> None:
        super().__init__()
        self.task = task
        self.make_optimizer = make_optimizer

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, T, H, W) to logits (B, K)."""
        return self.model(features)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a batch."""
        return loss_of(self.task, self(network_input(batch["features"])), batch["target"])

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log it."""
        loss = self.loss(batch)
        size = len(batch["index"])
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        return loss

    def configure_optimizers(self) -> Any:
        """Return the optimiser, with its schedule if it has one."""
        optimizer, schedule = self.make_optimizer(self.parameters())
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}
