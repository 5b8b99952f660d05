"""Temp-DARTS: DARTS on the temporal subspace (Sec. III-B of the paper), as a strategy of NNI.

The strategy is NNI's ``DARTS`` with four defects of NNI 3.0 mended, none of which needs a fork:

* the alphas reach their optimiser in a fixed order, so that a resumed search gives each its own Adam state;
* a derived cell never holds ``zero`` and never takes a predecessor twice (see :mod:`nni_nastc.search.supernet`);
* the alpha step computes no gradients of weights, the weight step none of alphas;
* nothing is logged for each alpha at every tenth step; the history of the search has them for each epoch.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from nni.nas.strategy import DARTS

from nni_nastc.search.bilevel import TempDartsLightningModule
from nni_nastc.search.options import Epochs, NonNegative, Order
from nni_nastc.search.second_order import SecondOrderModule
from nni_nastc.search.supernet import TempDartsCell


class TempDARTS(DARTS):
    """Bi-level search of one temporal cell that all layers share.

    Parameters
    ----------
    arc_learning_rate : float
        Learning rate of the alphas' Adam (betas 0.5 and 0.999, weight decay 1e-3, as DARTS publishes).
    gradient_clip_val : float or None
        Largest norm of the weights' gradients; DARTS' 5 by default. Alphas are not clipped.
    warmup_epochs : int
        Epochs at the start in which only weights are trained.
    order : int
        1, or 2 for alphas that follow the loss after a step of the weights, at about three times the cost; see
        :class:`nni_nastc.search.second_order.SecondOrderModule`.
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
        order: Order = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            arc_learning_rate=arc_learning_rate,
            gradient_clip_val=gradient_clip_val,
            warmup_epochs=warmup_epochs,
            **kwargs,
        )
        self.order = order

    def default_mutation_hooks(self) -> list[Any]:
        """Put our cell before NNI's."""
        return [TempDartsCell.mutate, *super().default_mutation_hooks()]

    def configure_oneshot_module(self, training_module: pl.LightningModule) -> TempDartsLightningModule:
        """Wrap the evaluator's module in the search."""
        module = SecondOrderModule if self.order == 2 else TempDartsLightningModule
        return module(
            training_module,
            arc_learning_rate=self.arc_learning_rate,
            gradient_clip_val=self.gradient_clip_val,
            warmup_epochs=self.warmup_epochs,
            penalty=self.penalty,
        )
