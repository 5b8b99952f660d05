"""All convolutions that leave one state of the supernet: what they add to nodes, and the gradients of that.

They are computed slab by slab, and a slab serves all of them before the next one is read, so that a processor's cache
holds what is at work. Stages are parted by batch norm's statistics, which are of all slabs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nni_nastc.nn import depthwise
from nni_nastc.search.norms import GradientSums, Moments, Norms, Statistics
from nni_nastc.search.states import Node, Slab, Source, as_image, as_matrix


@dataclass(frozen=True)
class Wanted:
    """Which gradients are asked for."""

    source: bool
    kernels: bool


class Scratch:
    """Memory that is used again and again, and so stays in the processor's cache."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, like: Tensor) -> Tensor:
        """Return memory of the size of ``like`` (rows, C); it holds what was left there."""
        if name not in self._buffers or len(self._buffers[name]) < len(like):
            self._buffers[name] = torch.empty_like(like)
        return self._buffers[name][: len(like)]


@dataclass(eq=False)
class Convolution:
    """ReLU - depthwise - pointwise - batch norm, once or more, on one edge.

    Parameters
    ----------
    dilations : sequence of int
        Of the depthwise convolution of each stage.
    kernels : sequence of Tensor
        Depthwise (C, 1, k, 1) and pointwise (C, C, 1, 1) in turn, a pair a stage.
    norms : Norms
        One a stage.
    weight : Tensor of shape ()
        Its share of the edge's sum.
    node : int
        Where the edge ends.

    Attributes
    ----------
    products : list of Tensor of shape (M, C)
        What each pointwise convolution has returned, before its norm.
    statistics : list of Statistics
        Of each norm.
    weight_gradient : Tensor of shape ()
        After the backward pass.
    kernel_gradients : list of Tensor or None
        Likewise, of all kernels; None if they were not asked for.
    """

    dilations: Sequence[int]
    kernels: Sequence[Tensor]
    norms: Norms
    weight: Tensor
    node: int
    products: list[Tensor] = field(default_factory=list)
    statistics: list[Statistics] = field(default_factory=list)
    weight_gradient: Tensor = field(init=False)
    kernel_gradients: list[Tensor | None] = field(init=False)

    def __post_init__(self) -> None:
        self.kernel_gradients = [None] * len(self.kernels)

    @property
    def depth(self) -> int:
        """How many stages there are."""
        return len(self.dilations)

    def pointwise(self, stage: int) -> Tensor:
        """Return the pointwise kernel of a stage, (C_out, C_in)."""
        return self.kernels[2 * stage + 1].flatten(1)

    def image(self, stage: int, state: Tensor, rows: slice, scratch: Scratch) -> Tensor:
        """Return a slab (B, C, T, S) of what a stage convolves: the state, or the stage before it behind a ReLU."""
        if stage == 0:
            return state
        product = self.products[stage - 1][rows]
        normalised = self.statistics[stage - 1].normalise(product, out=scratch("hidden", product))
        return as_image(normalised.relu_(), state)

    def filtered(self, stage: int, image: Tensor) -> Tensor:
        """Convolve (B, C, T, S) over T; return (M, C)."""
        return as_matrix(depthwise.convolve(image, self.kernels[2 * stage], dilation=self.dilations[stage]))

    def image_gradient(self, stage: int, of_filtered: Tensor) -> Tensor:
        """Return the gradient (M, C) of what a stage convolves, of that (B, C, T, S) of what comes out."""
        kernel, dilation = self.kernels[2 * stage], self.dilations[stage]
        return as_matrix(depthwise.input_gradient(of_filtered, kernel, dilation=dilation))

    def add_kernel_gradients(self, stage: int, of_product: Tensor, of_filtered: Tensor, image: Tensor) -> None:
        """Add a slab's share to the gradients of the kernels of a stage."""
        kernel, dilation = self.kernels[2 * stage], self.dilations[stage]
        temporal = depthwise.kernel_gradient(of_filtered, image, kernel, dilation=dilation)
        pointwise = (of_product.t() @ self.filtered(stage, image)).view_as(self.kernels[2 * stage + 1])
        for index, share in ((2 * stage, temporal), (2 * stage + 1, pointwise)):
            before = self.kernel_gradients[index]
            self.kernel_gradients[index] = share if before is None else before.add_(share)


def add_convolutions(source: Source, convolutions: Sequence[Convolution], nodes: Sequence[Node]) -> None:
    """Add the convolutions of a state to their nodes; they keep what the backward pass needs."""
    scratch = Scratch()
    for stage in range(_depth(convolutions)):
        at_work = [(convolution, Moments()) for convolution in convolutions if convolution.depth > stage]
        for convolution, _ in at_work:
            convolution.products.append(torch.empty_like(source.matrix))
        for slab in source.slabs:
            state = _state(source, slab, stage, scratch)
            for convolution, moments in at_work:
                filtered = convolution.filtered(stage, convolution.image(stage, state, slab.rows, scratch))
                product = convolution.products[stage][slab.rows]
                torch.mm(filtered, convolution.pointwise(stage).t(), out=product)
                if convolution.norms.training:
                    moments.add(product)
        for convolution, moments in at_work:
            convolution.statistics.append(convolution.norms.of(stage, source.matrix.shape[1], moments))
    factors = [convolution.weight * convolution.statistics[-1].scale for convolution in convolutions]
    for convolution, factor in zip(convolutions, factors, strict=True):
        nodes[convolution.node].shift.addcmul_(factor, convolution.statistics[-1].mean, value=-1)
    for slab in source.slabs:
        for convolution, factor in zip(convolutions, factors, strict=True):
            nodes[convolution.node].matrix[slab.rows].addcmul_(convolution.products[-1][slab.rows], factor)


def send_back_convolutions(
    source: Source, convolutions: Sequence[Convolution], gradients: Sequence[Tensor], wanted: Wanted
) -> None:
    """Send the source its share of the gradients (M, C) of the nodes; the convolutions get their own gradients."""
    uppers = [_Upper(convolution, source.slabs, gradients[convolution.node]) for convolution in convolutions]
    for number in range(len(source.slabs)):
        for upper in uppers:
            upper.add_sums(number)
    for upper in uppers:
        upper.convolution.weight_gradient = upper.sums.of_factor().sum()
    if not (wanted.source or wanted.kernels):
        return
    scratch = Scratch()
    for stage in reversed(range(_depth(convolutions))):
        at_work = [upper for upper in uppers if upper.convolution.depth > stage]
        for upper in at_work:
            upper.descend()
        for number, slab in enumerate(source.slabs):
            state = _state(source, slab, stage, scratch)
            total: Tensor | None = None
            for upper in at_work:
                below = upper.send_down(number, state, scratch, wanted)
                total = below if total is None or below is None else total.add_(below)
            if total is not None:
                source.gradient[slab.rows] += torch.ops.aten.threshold_backward(total, as_matrix(state), 0)


class _Upper:
    """The backward pass of a convolution, from its last stage down: the gradients of what a stage has added.

    Parameters
    ----------
    convolution : Convolution
        Whose forward pass is done.
    slabs : list of Slab
        How all matrices are cut.
    gradient : Tensor of shape (M, C)
        Of the node.
    """

    def __init__(self, convolution: Convolution, slabs: list[Slab], gradient: Tensor) -> None:
        self.convolution = convolution
        self.slabs = slabs
        self.stage = convolution.depth  # one above that at work
        self.sums = GradientSums()
        self._factor: Tensor | float = convolution.weight
        self._next = [gradient[slab.rows] for slab in slabs]

    def add_sums(self, number: int) -> None:
        """Add a slab to the sums that the norm of the next stage needs."""
        product, statistics = self.convolution.products[self.stage - 1], self.convolution.statistics[self.stage - 1]
        self.sums.add(self._next[number], product[self.slabs[number].rows], statistics)

    def descend(self) -> None:
        """Go to the next stage, when all slabs of the one above are done."""
        self.stage -= 1
        self._gradients, self._next = self._next, []
        self._through = self.sums.through(self.convolution.statistics[self.stage], self._factor)
        self._factor, self.sums = 1.0, GradientSums()

    def send_down(self, number: int, state: Tensor, scratch: Scratch, wanted: Wanted) -> Tensor | None:
        """Go back through a slab of the stage; return the gradient of the rectified state, if this is the first."""
        convolution, stage, rows = self.convolution, self.stage, self.slabs[number].rows
        product = convolution.products[stage][rows]
        of_product = self._through(self._gradients[number], product, out=scratch("of product", product))
        of_filtered = torch.mm(of_product, convolution.pointwise(stage), out=scratch("of filtered", product))
        of_filtered = as_image(of_filtered, state)
        image = convolution.image(stage, state, rows, scratch)
        if wanted.kernels:
            convolution.add_kernel_gradients(stage, of_product, of_filtered, image)
        if stage == 0:
            return convolution.image_gradient(stage, of_filtered) if wanted.source else None
        below = convolution.image_gradient(stage, of_filtered)
        self._next.append(torch.ops.aten.threshold_backward(below, as_matrix(image), 0))
        self.add_sums(number)
        return None


def _depth(convolutions: Sequence[Convolution]) -> int:
    return max((convolution.depth for convolution in convolutions), default=0)


def _state(source: Source, slab: Slab, stage: int, scratch: Scratch) -> Tensor:
    """Return a slab (B, C, T, S) of the state; behind the ReLU that all share, if it is the first stage's."""
    state = source.image[slab.images]
    if stage > 0:
        return state
    matrix = source.matrix[slab.rows]
    return as_image(torch.clamp_min(matrix, 0, out=scratch("state", matrix)), state)
