"""NNI's ``DARTS`` and ``GumbelDARTS`` on the cell that all layers share.

Both run as :class:`nni_nastc.search.temp_darts.TempDARTS` does, with the same defects of NNI mended.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.oneshot.pytorch.differentiable import LinearTemperatureScheduler
from nni.nas.oneshot.pytorch.supermodule.differentiable import GumbelSoftmax
from torch import Tensor, nn

from nni_nastc.errors import ConfigError
from nni_nastc.search.options import Epochs, NonNegative, Positive
from nni_nastc.search.temp_darts import TempDARTS, TempDartsLightningModule


class DARTS(TempDARTS):
    """NNI's ``DARTS`` with its own defaults: an alpha step, then a weight step; gradients are not clipped.

    Parameters
    ----------
    arc_learning_rate, gradient_clip_val, warmup_epochs, **kwargs
        As of :class:`nni_nastc.search.temp_darts.TempDARTS`.
    """

    def __init__(
        self,
        *,
        arc_learning_rate: NonNegative = 3e-4,
        gradient_clip_val: NonNegative | None = None,
        warmup_epochs: Epochs = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            arc_learning_rate=arc_learning_rate,
            gradient_clip_val=gradient_clip_val,
            warmup_epochs=warmup_epochs,
            **kwargs,
        )


class GumbelDARTS(DARTS):
    """NNI's ``GumbelDARTS``: the weights of an edge are drawn, nearer to a choice of one as the temperature falls.

    Parameters
    ----------
    temperature : float or pair of float
        Of the Gumbel softmax: constant, or at the start and at the end of a linear schedule over the epochs, by
        default from 1.0 to 0.33 as in NNI.
    arc_learning_rate, gradient_clip_val, warmup_epochs, **kwargs
        As of :class:`DARTS`.

    Raises
    ------
    ConfigError
        If the temperature rises.

    Notes
    -----
    Scores are computed without the noise: with softmax(alphas / temperature) (our choice; NNI has no scores).
    """

    def __init__(
        self,
        *,
        arc_learning_rate: NonNegative = 3e-4,
        gradient_clip_val: NonNegative | None = None,
        warmup_epochs: Epochs = 0,
        temperature: Positive | tuple[Positive, Positive] = (1.0, 0.33),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            arc_learning_rate=arc_learning_rate,
            gradient_clip_val=gradient_clip_val,
            warmup_epochs=warmup_epochs,
            **kwargs,
        )
        first, last = temperature if isinstance(temperature, tuple) else (temperature, temperature)
        if first < last:
            raise ConfigError(f"strategy.temperature must not rise, got {first} to {last}; give the larger one first")
        self.temperature = LinearTemperatureScheduler(float(first), float(last))

    def configure_softmax(self) -> nn.Module:
        """Return what turns alphas into weights."""
        return GumbelWeights()

    def configure_oneshot_module(self, training_module: pl.LightningModule) -> GumbelDartsModule:
        """Wrap the evaluator's module in the search."""
        return GumbelDartsModule(
            training_module,
            arc_learning_rate=self.arc_learning_rate,
            gradient_clip_val=self.gradient_clip_val,
            warmup_epochs=self.warmup_epochs,
            penalty=self.penalty,
            temperature=self.temperature,
        )


class GumbelWeights(GumbelSoftmax):
    """NNI's Gumbel softmax in training; in evaluation the same without the noise."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Map alphas (..., n) to weights (..., n) whose sum is 1."""
        return super().forward(inputs) if self.training else torch.softmax(inputs / self.tau, dim=self.dim)


class GumbelDartsModule(TempDartsLightningModule):
    """The search part of :class:`GumbelDARTS`."""

    def __init__(self, *args: Any, temperature: LinearTemperatureScheduler, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.temperature = temperature

    def on_train_epoch_start(self) -> None:
        """Set the temperature of the epoch."""
        tau = self.temperature.step(self.trainer.current_epoch, self.trainer.max_epochs)
        for module in self.modules():
            if isinstance(module, GumbelWeights):
                module.tau = tau
        super().on_train_epoch_start()

    def epoch_values(self) -> dict[str, Any]:
        """Return the alphas and the temperature."""
        tau = next(module.tau for module in self.modules() if isinstance(module, GumbelWeights))
        return {**super().epoch_values(), "temperature": tau}
