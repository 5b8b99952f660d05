"""The second-order alpha step of DARTS (Liu et al., ICLR 2019, Sec. 2.3, Eq. 6 to 8)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nni_nastc.search.bilevel import TempDartsLightningModule, frozen, loss_of_step

STEP = 0.01
"""Length of the step of the finite difference: epsilon = 0.01 / norm of the gradient, as DARTS publishes (Sec. 2.3)."""


class SecondOrderModule(TempDartsLightningModule):
    """Alphas follow the validation loss after one step of the weights, not at the weights as they are.

    With xi the weights' learning rate and ``w' = w - xi dL_train/dw`` (a plain step: without momentum, decay and
    clipping, our choice) the gradient of the alphas is ``dL_val/da (w') - xi (dL_train/da (w+) - dL_train/da (w-)) /
    (2 epsilon)``, where ``w+-`` is ``w +- epsilon dL_val/dw'``. That is four passes instead of one. The running
    statistics of batch norms stay as they were: none of these weights is the network's.
    """

    def _alpha_step(self, batches: Any, batch_idx: int) -> None:
        alphas, weights = self.arch_parameters(), self.weight_parameters()
        rate = self._weight_learning_rate()
        start = [weight.detach().clone() for weight in weights]
        optimizer = self.architecture_optimizers()
        optimizer.zero_grad()
        with _same_statistics(self.training_module):
            with frozen(alphas):
                step = self._gradients(batches["train"], batch_idx, weights)
            _move(weights, start, step, -rate)
            loss, gradients = self._loss_and_gradients(batches["val"], batch_idx, [*alphas, *weights])
            direction = gradients[len(alphas) :]
            epsilon = STEP / torch.sqrt(sum((g.square().sum() for g in direction), start=torch.zeros(()).to(loss)))
            with frozen(weights):
                _move(weights, start, direction, epsilon)
                ahead = self._gradients(batches["train"], batch_idx, alphas)
                _move(weights, start, direction, -epsilon)
                behind = self._gradients(batches["train"], batch_idx, alphas)
                _move(weights, start, direction, 0)
        for alpha, here, plus, minus in zip(alphas, gradients, ahead, behind, strict=False):
            alpha.grad = here - rate * (plus - minus) / (2 * epsilon)
        optimizer.step()
        self.log("search/alpha_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=1)

    def _weight_learning_rate(self) -> float:
        optimizers = [o for o in self.trainer.optimizers if not getattr(o, "is_arch_optimizer", False)]
        return optimizers[0].param_groups[0]["lr"]

    def _gradients(self, batch: Any, batch_idx: int, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        return self._loss_and_gradients(batch, batch_idx, parameters)[1]

    def _loss_and_gradients(
        self, batch: Any, batch_idx: int, parameters: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor]]:
        loss = loss_of_step(self.training_module.training_step(batch, 2 * batch_idx))
        return loss, torch.autograd.grad(loss, parameters)


@torch.no_grad()
def _move(weights: Sequence[Tensor], start: Sequence[Tensor], direction: Sequence[Tensor], by: float | Tensor) -> None:
    """Set ``weights`` to ``start + by * direction``."""
    for weight, origin, way in zip(weights, start, direction, strict=True):
        weight.copy_(origin + by * way)


@contextmanager
def _same_statistics(module: nn.Module) -> Iterator[None]:
    """Restore all buffers after the block."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
