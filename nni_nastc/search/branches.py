"""What one operation adds to a node of the supernet, and the gradients of that.

A branch is an operation on an edge. It adds ``weight * norm(operation(source))`` to a node without computing that term
by itself: products go into the node's matrix, what is constant over rows into its shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nni_nastc.nn.ops import TemporalConv, TemporalPool, Zero
from nni_nastc.search.folded_norm import FoldedNorm, Norms, pointwise_backward
from nni_nastc.search.states import Node, NodeGradient, Source, as_image, as_matrix

Kernels = Sequence[Tensor]
"""Depthwise (C, 1, k, 1) and pointwise (C, C, 1, 1) kernels in turn, a pair a stage."""


@dataclass
class Record:
    """What the backward pass of a branch needs of the forward pass, beside the source."""

    norms: list[FoldedNorm] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Wanted:
    """Which gradients are asked for."""

    source: bool
    kernels: bool


class Branch:
    """An operation that adds nothing: ``zero``, and the base of the others."""

    def forward(self, source: Source, weight: Tensor, node: Node, kernels: Kernels, norms: Norms) -> Record:
        """Add this branch to the node."""
        return Record()

    def backward(
        self, source: Source, weight: Tensor, node: NodeGradient, kernels: Kernels, record: Record, wanted: Wanted
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Send the gradient to the source; return those of the weight, a scalar, and of the kernels."""
        return torch.zeros_like(weight), []


class Identity(Branch):
    """The state itself."""

    def forward(self, source: Source, weight: Tensor, node: Node, kernels: Kernels, norms: Norms) -> Record:
        """Add this branch to the node."""
        node.matrix.addcmul_(source.matrix, weight)
        return Record()

    def backward(
        self, source: Source, weight: Tensor, node: NodeGradient, kernels: Kernels, record: Record, wanted: Wanted
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Send the gradient to the source; return that of the weight."""
        if wanted.source:
            source.send_back(node.matrix, weight)
        return torch.dot(node.matrix.view(-1), source.matrix.view(-1)), []


class Pool(Branch):
    """Average or maximum of two steps, then batch norm."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def forward(self, source: Source, weight: Tensor, node: Node, kernels: Kernels, norms: Norms) -> Record:
        """Add this branch to the node."""
        pooled = source.pooled(self.kind)
        norm = norms.of_statistics(0, *pooled.statistics, len(pooled.matrix))
        node.matrix.addcmul_(pooled.matrix, weight * norm.scale)
        node.shift.addcmul_(weight * norm.scale, norm.mean, value=-1)
        return Record([norm])

    def backward(
        self, source: Source, weight: Tensor, node: NodeGradient, kernels: Kernels, record: Record, wanted: Wanted
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Send the gradient to the source; return that of the weight."""
        (norm,) = record.norms
        pooled = source.pooled(self.kind)
        along = norm.scale * ((node.matrix * pooled.matrix).sum(dim=0) - node.sum * norm.mean)
        if wanted.source:
            factor = weight * norm.scale
            slope = constant = None
            if norm.of_batch:
                rows = len(pooled.matrix)
                slope = factor * along * norm.scale / rows
                constant = slope * norm.mean - factor * node.sum / rows
            pooled.send_back(node.matrix, factor, slope, constant)
        return along.sum(), []


@dataclass(frozen=True)
class Stage:
    """The depthwise convolution of a stage."""

    padding: int
    dilation: int

    def forward(self, image: Tensor, kernel: Tensor) -> Tensor:
        """Convolve (B, C, T, S) over T; return (M, C)."""
        channels = image.shape[1]
        return as_matrix(F.conv2d(image, kernel, None, 1, (self.padding, 0), (self.dilation, 1), channels))

    def backward(
        self, gradient: Tensor, image: Tensor, kernel: Tensor, *, for_image: bool, for_kernel: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of the image, as (M, C), and of the kernel."""
        image_gradient, kernel_gradient, _ = torch.ops.aten.convolution_backward(
            as_image(gradient, image),
            image,
            kernel,
            None,
            [1, 1],
            [self.padding, 0],
            [self.dilation, 1],
            False,
            [0, 0],
            image.shape[1],
            [for_image, for_kernel, False],
        )
        return None if image_gradient is None else as_matrix(image_gradient), kernel_gradient


class Conv(Branch):
    """ReLU - depthwise - pointwise - batch norm, once or more."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)

    def forward(self, source: Source, weight: Tensor, node: Node, kernels: Kernels, norms: Norms) -> Record:
        """Add this branch to the node."""
        record = Record()
        image = source.rectified
        for index, stage in enumerate(self.stages):
            filtered = stage.forward(image, kernels[2 * index])
            pointwise = kernels[2 * index + 1].flatten(1)
            norm = norms.of_product(index, filtered, pointwise)
            record.norms.append(norm)
            if index + 1 < len(self.stages):
                product = torch.addmm(-norm.scale * norm.mean, filtered, (norm.scale[:, None] * pointwise).t())
                image = as_image(product.relu_(), image)
                record.hidden.append(image)
            else:
                factor = weight * norm.scale
                node.matrix.addmm_(filtered, (factor[:, None] * pointwise).t())
                node.shift.addcmul_(factor, norm.mean, value=-1)
        return record

    def backward(
        self, source: Source, weight: Tensor, node: NodeGradient, kernels: Kernels, record: Record, wanted: Wanted
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Send the gradient to the source; return those of the weight and of the kernels."""
        images = [source.rectified, *record.hidden]
        gradient, total = node.matrix, node.sum
        share: Tensor | None = weight  # only the last stage adds to the node
        weight_gradient = None
        kernel_gradients: list[Tensor | None] = [None] * len(kernels)
        for index in reversed(range(len(self.stages))):
            image, depthwise, pointwise = images[index], kernels[2 * index], kernels[2 * index + 1]
            filtered = self.stages[index].forward(image, depthwise)
            found = pointwise_backward(
                gradient,
                total,
                filtered,
                pointwise.flatten(1),
                record.norms[index],
                share,
                for_inputs=wanted.source or wanted.kernels,
                for_kernel=wanted.kernels,
            )
            if weight_gradient is None:
                weight_gradient = found.weight
            if found.inputs is None:
                break
            below, kernel_gradients[2 * index] = self.stages[index].backward(
                found.inputs, image, depthwise, for_image=index > 0 or wanted.source, for_kernel=wanted.kernels
            )
            if found.kernel is not None:
                kernel_gradients[2 * index + 1] = found.kernel.view_as(pointwise)
            if index > 0:
                gradient = torch.ops.aten.threshold_backward(below, as_matrix(image), 0)
                total, share = gradient.sum(dim=0), None
            elif below is not None:
                source.send_back_rectified(below)
        assert weight_gradient is not None
        return weight_gradient, kernel_gradients


def branch_of(module: nn.Module) -> Branch:
    """Return the branch of one of the modules of :data:`nni_nastc.nn.ops.OPS`."""
    if isinstance(module, TemporalConv):
        depthwise = [layer for layer in module if isinstance(layer, nn.Conv2d)][::2]
        return Conv([Stage(int(layer.padding[0]), int(layer.dilation[0])) for layer in depthwise])
    if isinstance(module, TemporalPool):
        return Pool("avg" if isinstance(module.pool, nn.AvgPool2d) else "max")
    return Branch() if isinstance(module, Zero) else Identity()
