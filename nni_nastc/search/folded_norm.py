"""A pointwise convolution and the batch norm behind it as one linear map, forward and backward.

Batch norm needs the mean and the variance of every channel of ``z = W d``. Both follow from the mean and the
covariance of ``d``: ``mean(z) = W mean(d)`` and ``var(z) = diag(W cov(d) W^T)``. So ``z`` itself is never computed: the
normalised output is ``A d + shift`` with ``A = W / std``, which is added to the node in place. The same holds in the
backward pass, where two small matrices, ``G^T d`` and ``W cov(d)``, tell everything. It is the mathematics of batch
norm without its passes over memory (our choice; DARTS' supernet computes each output by itself).

Matrices are (M, channels), M = B x T x S, a row a place and time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class FoldedNorm:
    """Batch norm of ``z``, a matrix product ``W d`` or a given matrix.

    Parameters
    ----------
    scale : Tensor of shape (C_out,)
        One over the standard deviation of ``z``.
    mean : Tensor of shape (C_out,)
        Mean of ``z``.
    of_batch : bool
        Whether both are the batch's own, so that gradients flow through them.
    input_mean : Tensor of shape (C_in,) or None
        Mean of ``d``, where there is a W and the statistics are the batch's.
    projected_covariance : Tensor of shape (C_out, C_in) or None
        ``W cov(d)``, likewise.
    """

    scale: Tensor
    mean: Tensor
    of_batch: bool = False
    input_mean: Tensor | None = None
    projected_covariance: Tensor | None = None


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

    def of_product(self, index: int, inputs: Tensor, kernel: Tensor) -> FoldedNorm:
        """Fold the norm of ``z = W d`` from d (M, C_in) and W (C_out, C_in)."""
        if not self.training:
            return self._fixed(index)
        rows = len(inputs)
        input_mean = inputs.new_full((rows,), 1 / rows) @ inputs
        covariance = torch.addmm(torch.outer(input_mean, input_mean), inputs.t(), inputs, beta=-1, alpha=1 / rows)
        projected = kernel @ covariance
        mean, variance = kernel @ input_mean, (projected * kernel).sum(dim=1).clamp_min_(0)
        return FoldedNorm(self._track(index, mean, variance, rows), mean, True, input_mean, projected)

    def of_statistics(self, index: int, mean: Tensor, variance: Tensor, rows: int) -> FoldedNorm:
        """Fold the norm of a matrix of ``rows`` whose mean and biased variance, each (C,), are known."""
        if not self.training:
            return self._fixed(index)
        return FoldedNorm(self._track(index, mean, variance, rows), mean, of_batch=True)

    def _fixed(self, index: int) -> FoldedNorm:
        norm = self.modules[index]
        assert norm.running_mean is not None
        assert norm.running_var is not None
        return FoldedNorm((norm.running_var + norm.eps).rsqrt(), norm.running_mean)

    def _track(self, index: int, mean: Tensor, variance: Tensor, rows: int) -> Tensor:
        """Add statistics to the running ones; return one over the standard deviation."""
        norm = self.modules[index]
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (rows / max(rows - 1, 1)), norm.momentum)
        return (variance + norm.eps).rsqrt()


@dataclass(frozen=True)
class PointwiseGradients:
    """Gradients of ``weight * norm(W d)``: of d (M, C_in), W (C_out, C_in) and the weight (); None if not wanted."""

    inputs: Tensor | None
    kernel: Tensor | None
    weight: Tensor


def pointwise_backward(
    gradient: Tensor,
    gradient_sum: Tensor,
    inputs: Tensor,
    kernel: Tensor,
    norm: FoldedNorm,
    weight: Tensor | None,
    *,
    for_inputs: bool,
    for_kernel: bool,
) -> PointwiseGradients:
    """Return the gradients of ``y = weight * norm(W d)``.

    Parameters
    ----------
    gradient : Tensor of shape (M, C_out)
        Of the loss by y.
    gradient_sum : Tensor of shape (C_out,)
        Its sum over the rows.
    inputs : Tensor of shape (M, C_in)
        d.
    kernel : Tensor of shape (C_out, C_in)
        W.
    norm : FoldedNorm
        From the forward pass.
    weight : Tensor of shape () or None
        The branch's share of the sum; None for 1.
    for_inputs, for_kernel : bool
        Whether the gradients of d and W are wanted.
    """
    cross = gradient.t() @ inputs  # (C_out, C_in)
    # The gradient along the normalised output, a channel: sum over rows of G * (W d - mean) / std.
    along = norm.scale * ((cross * kernel).sum(dim=1) - gradient_sum * norm.mean)
    factor = norm.scale if weight is None else weight * norm.scale
    kernel_gradient = input_gradient = None
    if norm.input_mean is None or norm.projected_covariance is None:  # fixed statistics: a linear map and no more
        if for_kernel:
            kernel_gradient = factor[:, None] * cross
        if for_inputs:
            input_gradient = gradient @ (factor[:, None] * kernel)
        return PointwiseGradients(input_gradient, kernel_gradient, along.sum())
    bend = along * norm.scale
    if for_kernel:
        centred = cross - torch.outer(gradient_sum, norm.input_mean)
        kernel_gradient = factor[:, None] * (centred - bend[:, None] * norm.projected_covariance)
    if for_inputs:
        rows = len(inputs)
        bend = factor * bend / rows
        constant = (bend * norm.mean - factor * gradient_sum / rows) @ kernel
        input_gradient = torch.addmm(constant, gradient, factor[:, None] * kernel)
        input_gradient.addmm_(inputs, (kernel.t() * bend) @ kernel, alpha=-1)
    return PointwiseGradients(input_gradient, kernel_gradient, along.sum())
