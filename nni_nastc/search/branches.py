"""What the operations without kernels, identity and pools, add to a node of the supernet, and the gradients of that."""

from __future__ import annotations

import torch
from torch import Tensor

from nni_nastc.search.norms import GradientSums, Moments, Norms, Statistics
from nni_nastc.search.states import Node, Source


class Branch:
    """An operation that adds nothing: ``zero``, and the base of the others."""

    def forward(self, source: Source, weight: Tensor, node: Node, norms: Norms) -> Statistics | None:
        """Add ``weight`` times this operation to the node; return the statistics of its norm, if it has one."""
        return None

    def backward(
        self, source: Source, weight: Tensor, gradient: Tensor, statistics: Statistics | None, *, for_source: bool
    ) -> Tensor:
        """Take the gradient (M, C) of the node; send the source its share, if wanted; return that of the weight."""
        return torch.zeros_like(weight)


class Identity(Branch):
    """The state itself."""

    def forward(self, source: Source, weight: Tensor, node: Node, norms: Norms) -> Statistics | None:
        """Add the state."""
        node.matrix.addcmul_(source.matrix, weight)
        return None

    def backward(
        self, source: Source, weight: Tensor, gradient: Tensor, statistics: Statistics | None, *, for_source: bool
    ) -> Tensor:
        """Send back the gradient itself."""
        if for_source:
            source.gradient.addcmul_(gradient, weight)
        return torch.dot(gradient.view(-1), source.matrix.view(-1))


class Pool(Branch):
    """Average or maximum of two steps, then batch norm."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def forward(self, source: Source, weight: Tensor, node: Node, norms: Norms) -> Statistics | None:
        """Add the pooled state, normalised."""
        pooled = source.pooled(self.kind)
        moments = pooled.moments if norms.training else Moments()
        statistics = norms.of(0, pooled.matrix.shape[1], moments)
        node.matrix.addcmul_(pooled.matrix, weight * statistics.scale)
        node.shift.addcmul_(weight * statistics.scale, statistics.mean, value=-1)
        return statistics

    def backward(
        self, source: Source, weight: Tensor, gradient: Tensor, statistics: Statistics | None, *, for_source: bool
    ) -> Tensor:
        """Send the gradient through norm and pool."""
        assert statistics is not None
        pooled, sums = source.pooled(self.kind), GradientSums()
        sums.add(gradient, pooled.matrix, statistics)
        if for_source:
            pooled.send_back(sums.through(statistics, weight)(gradient, pooled.matrix))
        return sums.of_factor().sum()
