"""The two alternating steps of a differentiable search: alphas on one batch, weights on another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from nni.nas.oneshot.pytorch.differentiable import DartsLightningModule
from torch import Tensor, nn

from nni_nastc.search.supernet import TempDartsCell


class TempDartsLightningModule(DartsLightningModule):
    """The search part of ``TempDARTS``: an alpha step, then a weight step, for each pair of batches."""

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
            self._alpha_step(batch, batch_idx)
        with frozen(self.arch_parameters()):
            loss = self._weight_step(batch["train"], batch_idx)
        self.advance_lr_schedulers(batch_idx)
        return loss

    def _alpha_step(self, batches: Any, batch_idx: int) -> None:
        optimizer = self.architecture_optimizers()
        optimizer.zero_grad()
        with frozen(self.weight_parameters()):
            loss = loss_of_step(self.training_module.training_step(batches["val"], 2 * batch_idx))
            if self.penalty is not None:
                loss, _ = self.penalty(loss, self.export_probs())
            self.manual_backward(loss)
        optimizer.step()
        # The mean over steps: Lightning cannot tell how many videos a batch of an unknown evaluator holds.
        self.log("search/alpha_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def _weight_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = loss_of_step(self.training_module.training_step(batch, 2 * batch_idx + 1))
        self.advance_optimization(loss, batch_idx, self.gradient_clip_val)
        self.log("search/weight_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
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


def loss_of_step(output: Any) -> Tensor:
    """Return the loss out of what a ``training_step`` may return."""
    return output["loss"] if isinstance(output, dict) else output


@contextmanager
def frozen(parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    """Compute no gradients of ``parameters`` inside the block."""
    trained = [p for p in parameters if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
