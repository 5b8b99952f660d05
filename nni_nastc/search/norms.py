"""Batch norms of the supernet: statistics, and the gradients through them, put together slab by slab.

The normalised values are never written down: what follows takes ``scale * z`` and ``-scale * mean`` in its own pass
over memory. Matrices are (rows, channels), a row a place and time; a slab is a part of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Moments:
    """Mean and variance of every channel of a matrix, of which slabs are added one by one."""

    def __init__(self) -> None:
        self._found: list[tuple[int, Tensor, Tensor]] = []

    def add(self, slab: Tensor) -> None:
        """Add a slab (rows, C)."""
        if slab.is_meta:  # memory is being counted; PyTorch's kernel below has no shapes only
            variance, mean = torch.var_mean(slab.float(), dim=0, correction=0)
            self._found.append((len(slab), mean, variance))
            return
        # PyTorch computes in the precision of the statistics that it would update.
        start = slab.new_zeros(slab.shape[1], dtype=torch.promote_types(slab.dtype, torch.float32))
        mean, variance = torch.ops.aten.batch_norm_update_stats(_as_image(slab), start, start.clone(), 0.0)
        self._found.append((len(slab), mean, variance))

    def result(self) -> tuple[int, Tensor, Tensor]:
        """Return the number of rows, and mean and biased variance of the channels, each (C,)."""
        if len(self._found) == 1:
            return self._found[0]
        rows = sum(count for count, _, _ in self._found)
        means = torch.stack([mean for _, mean, _ in self._found])
        variances = torch.stack([variance for _, _, variance in self._found])
        shares = means.new_tensor([count / rows for count, _, _ in self._found])
        mean = shares @ means
        return rows, mean, shares @ (variances + (means - mean).square())


class GradientSums:
    """Sums over rows that the gradient through batch norm needs, of which slabs are added one by one.

    With G the gradient of the loss by ``factor * (z - mean) * scale``: the sum of G, and that of G times the normalised
    values, which is also the gradient of the factor.
    """

    def __init__(self) -> None:
        self._found: list[tuple[Tensor, Tensor]] = []
        self._rows = 0

    def add(self, gradient: Tensor, z: Tensor, statistics: Statistics) -> None:
        """Add a slab (rows, C) of G and of z."""
        upper, image = _as_image(gradient.to(z.dtype)), _as_image(z)
        mean, scale = statistics.mean, statistics.scale
        _, along, total = torch.ops.aten.native_batch_norm_backward(
            upper, image, scale, None, None, mean, scale, True, 0.0, [False, True, True]
        )
        self._found.append((along, total))
        self._rows += len(z)

    def of_factor(self) -> Tensor:
        """Return the gradient of the factor, (C,)."""
        return sum(along for along, _ in self._found)  # type: ignore[return-value]

    def through(self, statistics: Statistics, factor: Tensor | float) -> NormGradient:
        """Return how the gradient of z follows from G."""
        slope = factor * statistics.scale
        if not statistics.of_batch:
            return NormGradient(slope)
        total = sum(total for _, total in self._found)
        bend = -slope * statistics.scale * self.of_factor() / self._rows
        return NormGradient(slope, bend, -slope * total / self._rows - bend * statistics.mean)


@dataclass(frozen=True)
class NormGradient:
    """The gradient of z: ``slope * G + bend * z + constant``, all (C,); the last two None where they are zero."""

    slope: Tensor
    bend: Tensor | None = None
    constant: Tensor | None = None

    def __call__(self, gradient: Tensor, z: Tensor, out: Tensor | None = None) -> Tensor:
        """Return it for a slab (rows, C) of G and of z."""
        if self.bend is None or self.constant is None:
            return torch.mul(gradient, self.slope, out=out)
        return torch.addcmul(self.constant, gradient, self.slope, out=out).addcmul_(z, self.bend)


@dataclass(frozen=True)
class Statistics:
    """What batch norm takes off and multiplies by.

    Parameters
    ----------
    mean : Tensor of shape (C,)
        Of every channel.
    scale : Tensor of shape (C,)
        One over the standard deviation.
    of_batch : bool
        Whether both are the batch's own, so that gradients flow through them.
    """

    mean: Tensor
    scale: Tensor
    of_batch: bool

    def normalise(self, z: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the normalised values of a slab (rows, C)."""
        return torch.addcmul(-self.mean * self.scale, z, self.scale, out=out)


class Norms:
    """The batch norms of one operation on one edge, in the order of its stages.

    Parameters
    ----------
    modules : sequence of BatchNorm2d
        They keep the running statistics. None of them may have scale and shift.
    training : bool
        Whether to normalise by the statistics of the batch, and to add these to the running ones.
    """

    def __init__(self, modules: Sequence[nn.BatchNorm2d], training: bool) -> None:
        self.modules = modules
        self.training = training

    def of(self, stage: int, width: int, moments: Moments) -> Statistics:
        """Return the statistics of a stage, in training those of the batch.

        Parameters
        ----------
        stage : int
            Which of the norms.
        width : int
            Channels, those that only fill up included.
        moments : Moments
            Of what is normalised; without slabs where statistics are not of the batch.
        """
        norm = self.modules[stage]
        assert norm.running_mean is not None
        assert norm.running_var is not None
        if not self.training:
            beyond = (0, width - norm.num_features)
            scale = (norm.running_var + norm.eps).rsqrt()
            return Statistics(F.pad(norm.running_mean, beyond), F.pad(scale, beyond), of_batch=False)
        rows, mean, variance = moments.result()
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean[: norm.num_features], norm.momentum)
        unbiased = variance[: norm.num_features] * (rows / max(rows - 1, 1))
        norm.running_var.lerp_(unbiased, norm.momentum)
        return Statistics(mean, (variance + norm.eps).rsqrt(), of_batch=True)


def _as_image(matrix: Tensor) -> Tensor:
    """View (rows, C) as (1, C, rows, 1), channels last, which PyTorch's kernels of batch norm take."""
    return matrix.t()[None, :, :, None]
