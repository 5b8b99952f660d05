"""NNI's ``RandomOneShot``: a supernet trained on paths drawn at random, and the best of some of its cells."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.oneshot.pytorch.sampling import RandomSamplingLightningModule
from nni.nas.oneshot.pytorch.supermodule.sampling import PathSamplingCell
from nni.nas.strategy import RandomOneShot as NniRandomOneShot
from torch import Tensor

from nni_nastc.genotype import Genotype
from nni_nastc.search.options import Count, NonNegative
from nni_nastc.search.paths import PathModule


class RandomOneShot(NniRandomOneShot):
    """Single-path one-shot search (Guo et al., ECCV 2020) as NNI has it.

    A drawn cell has two different predecessors a node, each pair as likely as any other, and never ``zero``. NNI hands
    over a cell drawn at random; here it is the best of ``samples`` cells, see :mod:`nni_nastc.search.judging`.

    Parameters
    ----------
    samples : int
        Cells that are judged at the end.
    gradient_clip_val : float or None
        Largest norm of the weights' gradients; DARTS' 5 by default (our choice; NNI does not clip).
    **kwargs : Any
        Further arguments of NNI's ``RandomOneShot``.
    """

    def __init__(self, *, samples: Count = 16, gradient_clip_val: NonNegative | None = 5.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.samples = samples
        self.gradient_clip_val = gradient_clip_val

    def default_mutation_hooks(self) -> list[Any]:
        """Put our cell before NNI's."""
        return [SampledCell.mutate, *super().default_mutation_hooks()]

    def configure_oneshot_module(self, training_module: pl.LightningModule) -> RandomModule:
        """Wrap the evaluator's module in the search."""
        return RandomModule(training_module, self.filter, gradient_clip_val=self.gradient_clip_val)

    def val_dataloader(self, *_: Any) -> None:
        """Leave out Lightning's validation: the history of a search scores at the end of an epoch."""


class SampledCell(PathSamplingCell):
    """NNI's cell of one path, drawn with two different predecessors a node and without ``zero``."""

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Take the cell of ``memo``, or draw one; return its sample."""
        sample = memo
        if f"{self.label}/op_{self.num_predecessors}_0" not in memo:
            names = [name for name in self.op_names if name != "zero"]
            sample = Genotype.random(int(torch.randint(2**31, ())), names).to_nni()
        self._sampled = {label: sample[label] for label in self.simplify()}
        return self._sampled


class SampledModule(PathModule):
    """A search in which only weights are trained by gradients."""

    gradient_clip_val: float | None

    @property
    def automatic_optimization(self) -> bool:
        """Whether Lightning makes the steps: it would not clip."""
        return False

    def weight_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Train the weights of the path that was drawn last."""
        loss = self.training_module.training_step(batch, batch_idx)
        self.advance_optimization(loss, batch_idx, self.gradient_clip_val)
        self.log("search/weight_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=1)
        return loss.detach()

    def path(self) -> Genotype:
        """Draw a cell."""
        return Genotype.from_nni(self.resample())

    def epoch_values(self) -> dict[str, Any]:
        """Return what the history says of an epoch beside losses and scores."""
        return {}


class RandomModule(SampledModule, RandomSamplingLightningModule):
    """The search part of :class:`RandomOneShot`."""

    validation_step = pl.LightningModule.validation_step  # none, in place of NNI's

    def __init__(self, *args: Any, gradient_clip_val: float | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gradient_clip_val = gradient_clip_val

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Draw a path, and train its weights."""
        self.resample()
        loss = self.weight_step(batch, batch_idx)
        self.advance_lr_schedulers(batch_idx)
        return loss
