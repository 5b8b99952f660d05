"""Temp-DARTS: DARTS on the temporal subspace (Sec. III-B of the paper), as a strategy of NNI.

The strategy is NNI's ``DARTS`` with four defects of NNI 3.0 mended, none of which needs a fork:

* the alphas reach their optimiser in a fixed order, so that a resumed search gives each its own Adam state;
* a derived cell never holds ``zero`` and never takes a predecessor twice (see :mod:`nni_nastc.search.supernet`);
* the alpha step computes no gradients of weights, the weight step none of alphas;
* nothing is logged for each alpha at every tenth step; the history of the search has them for each epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.oneshot.pytorch.differentiable import DartsLightningModule
from nni.nas.strategy import DARTS
from torch import Tensor, nn

from nni_nastc.search.options import Epochs, NonNegative
from nni_nastc.search.supernet import TempDartsCell


class TempDARTS(DARTS):
    """First-order, bi-level search of one temporal cell that all layers share.

    Parameters
    ----------
    arc_learning_rate : float
        Learning rate of the alphas' Adam (betas 0.5 and 0.999, weight decay 1e-3, as DARTS publishes).
    gradient_clip_val : float or None
        Largest norm of the weights' gradients; DARTS' 5 by default. Alphas are not clipped.
    warmup_epochs : int
        Epochs at the start in which only weights are trained.
    **kwargs : Any
        Further arguments of NNI's ``DARTS``.

    Notes
    -----
    Use it as any strategy of NNI, directly (``mutate_model``, ``mutate_evaluator``) or in a ``NasExperiment``. Training
    batches are steps of the weights, validation batches steps of the alphas; the evaluator's ``training_step`` serves
    both.
    """

    def __init__(
        self,
        *,
        arc_learning_rate: NonNegative = 3e-4,
        gradient_clip_val: NonNegative | None = 5.0,
        warmup_epochs: Epochs = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            arc_learning_rate=arc_learning_rate,
            gradient_clip_val=gradient_clip_val,
            warmup_epochs=warmup_epochs,
            **kwargs,
        )

    def default_mutation_hooks(self) -> list[Any]:
        """Put our cell before NNI's."""
        return [TempDartsCell.mutate, *super().default_mutation_hooks()]

    def configure_oneshot_module(self, training_module: pl.LightningModule) -> TempDartsLightningModule:
        """Wrap the evaluator's module in the search."""
        return TempDartsLightningModule(
            training_module,
            arc_learning_rate=self.arc_learning_rate,
            gradient_clip_val=self.gradient_clip_val,
            warmup_epochs=self.warmup_epochs,
            penalty=self.penalty,
        )


class TempDartsLightningModule(DartsLightningModule):
    """The search part of :class:`TempDARTS`: an alpha step, then a weight step, for each pair of batches."""

    def arch_parameters(self) -> list[nn.Parameter]:
        """Return the alphas, each once, in the order of the cells and edges."""
        alphas = (p for m in self.supernet_modules() if hasattr(m, "arch_parameters") for p in m.arch_parameters())
        return list({id(p): p for p in alphas}.values())

    def weight_parameters(self) -> list[nn.Parameter]:
        """Return everything that is trained but the alphas."""
        alphas = {id(p) for p in self.arch_parameters()}
        return [p for p in self.training_module.parameters() if id(p) not in alphas]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Step the alphas on ``batch["val"]`` (after the warm-up), then the weights on ``batch["train"]``."""
        if self.trainer.current_epoch >= self.warmup_epochs:
            with _frozen(self.weight_parameters()):
                self._alpha_step(batch["val"], batch_idx)
        with _frozen(self.arch_parameters()):
            loss = self._weight_step(batch["train"], batch_idx)
        self.advance_lr_schedulers(batch_idx)
        return loss

    def _alpha_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.architecture_optimizers()
        optimizer.zero_grad()
        loss = _loss(self.training_module.training_step(batch, 2 * batch_idx))
        if self.penalty is not None:
            loss, _ = self.penalty(loss, self.export_probs())
        self.manual_backward(loss)
        optimizer.step()
        # The mean over steps: Lightning cannot tell how many videos a batch of an unknown evaluator holds.
        self.log("search/alpha_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=1)

    def _weight_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = _loss(self.training_module.training_step(batch, 2 * batch_idx + 1))
        self.advance_optimization(loss, batch_idx, self.gradient_clip_val)
        self.log("search/weight_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=1)
        return loss.detach()

    def on_train_epoch_start(self) -> None:
        """Leave out NNI's switching of gradients: :meth:`training_step` freezes what a step does not train."""
        self.training_module.on_train_epoch_start()

    def alphas(self) -> Tensor:
        """Return the raw alphas (14, n + 1), which all cells share, ``zero`` last."""
        return next(m for m in self.supernet_modules() if isinstance(m, TempDartsCell)).alphas.detach()

    def epoch_values(self) -> dict[str, Any]:
        """Return what the history says of an epoch beside losses and scores."""
        return {"alphas": self.alphas().tolist()}


def _loss(output: Any) -> Tensor:
    """Return the loss out of what a ``training_step`` may return."""
    return output["loss"] if isinstance(output, dict) else output


@contextmanager
def _frozen(parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    """Compute no gradients of ``parameters`` inside the block."""
    trained = [p for p in parameters if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
