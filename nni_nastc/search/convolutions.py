"""All convolutions that leave one state of the supernet: what they add to nodes, and the gradients of that.

They are computed slab by slab, and a slab serves all of them before the next one is read, so that a processor's cache
holds what is at work. Stages are parted by batch norm's statistics, which are of all slabs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from nni_nastc.search.filters import Filter, FilterBank, Input, filter_bank
from nni_nastc.search.norms import GradientSums, Moments, Norms, Statistics
from nni_nastc.search.states import Node, Scratch, Source


@dataclass(frozen=True)
class Wanted:
    """Which gradients are asked for."""

    source: bool
    kernels: bool


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

    @property
    def dtype(self) -> torch.dtype:
        """In which the convolutions are computed."""
        return self.kernels[0].dtype

    def filter(self, stage: int) -> Filter:
        """Return the depthwise convolution of a stage."""
        return Filter(self.kernels[2 * stage], self.dilations[stage])

    def pointwise(self, stage: int) -> Tensor:
        """Return the pointwise kernel of a stage, (C_out, C_in)."""
        return self.kernels[2 * stage + 1].flatten(1)

    def add_kernel_gradient(self, index: int, share: Tensor) -> None:
        """Add a slab's share to the gradient of a kernel, in float32 or double."""
        share = share.view_as(self.kernels[index]).to(torch.promote_types(share.dtype, torch.float32))
        before = self.kernel_gradients[index]
        self.kernel_gradients[index] = share if before is None else before.add_(share)


@dataclass(frozen=True)
class _Group:
    """Convolutions of which a stage reads the same: at the first stage all of them, later each by itself."""

    numbers: Sequence[int]
    matrix: Tensor
    statistics: Statistics | None

    def input(self, source: Source, rows: slice, dtype: torch.dtype) -> Input:
        """Return a slab of what they read."""
        return Input(self.matrix[rows], self.statistics, source.steps, source.places, dtype)


def _groups(source: Source, convolutions: Sequence[Convolution], stage: int) -> list[_Group]:
    at_work = [number for number, convolution in enumerate(convolutions) if convolution.depth > stage]
    if stage == 0:
        return [_Group(at_work, source.matrix, None)]
    below = stage - 1
    return [_Group([n], convolutions[n].products[below], convolutions[n].statistics[below]) for n in at_work]


def add_convolutions(source: Source, convolutions: Sequence[Convolution], nodes: Sequence[Node]) -> None:
    """Add the convolutions of a state to their nodes; they keep what the backward pass needs."""
    bank = filter_bank(source.matrix.device, Scratch())
    for stage in range(_depth(convolutions)):
        _go_up(source, convolutions, stage, bank)
    factors = [convolution.weight * convolution.statistics[-1].scale for convolution in convolutions]
    for convolution, factor in zip(convolutions, factors, strict=True):
        nodes[convolution.node].shift.addcmul_(factor, convolution.statistics[-1].mean, value=-1)
    for rows in source.slabs:
        for convolution, factor in zip(convolutions, factors, strict=True):
            nodes[convolution.node].matrix[rows].addcmul_(convolution.products[-1][rows], factor)


def _go_up(source: Source, convolutions: Sequence[Convolution], stage: int, bank: FilterBank) -> None:
    """Compute the products and statistics of a stage."""
    groups = _groups(source, convolutions, stage)
    moments = {number: Moments() for group in groups for number in group.numbers}
    for number in moments:
        convolution = convolutions[number]
        convolution.products.append(torch.empty_like(source.matrix, dtype=convolution.dtype))
    for rows in source.slabs:
        for group in groups:
            members = [convolutions[number] for number in group.numbers]
            filters = [member.filter(stage) for member in members]
            filtered = bank.forward(group.input(source, rows, members[0].dtype), filters)
            for number, member, one in zip(group.numbers, members, filtered, strict=True):
                product = member.products[stage][rows]
                torch.mm(one, member.pointwise(stage).t(), out=product)
                if member.norms.training:
                    moments[number].add(product)
    for number, found in moments.items():
        statistics = convolutions[number].norms.of(stage, source.matrix.shape[1], found)
        convolutions[number].statistics.append(statistics)


def send_back_convolutions(
    source: Source, convolutions: Sequence[Convolution], gradients: Sequence[Tensor], wanted: Wanted
) -> None:
    """Send the source its share of the gradients (M, C) of the nodes; the convolutions get their own gradients."""
    scratch = Scratch()
    bank = filter_bank(source.matrix.device, scratch)
    descents = [_Descent(c, source.slabs, gradients[c.node], scratch) for c in convolutions]
    for slab in range(len(source.slabs)):
        for descent in descents:
            descent.add_sums(slab)
    for descent in descents:
        descent.convolution.weight_gradient = descent.sums.of_factor().sum()
    if not (wanted.source or wanted.kernels):
        return
    for stage in reversed(range(_depth(convolutions))):
        for group in _groups(source, convolutions, stage):
            _go_down(source, group, [descents[number] for number in group.numbers], bank, wanted)


def _go_down(
    source: Source, group: _Group, members: Sequence[_Descent], bank: FilterBank, wanted: Wanted
) -> None:
    """Compute the gradients of a stage of some convolutions that read the same."""
    for member in members:
        member.descend()
    stage = members[0].stage
    filters = [member.convolution.filter(stage) for member in members]
    for slab, rows in enumerate(source.slabs):
        found = bank.backward(
            group.input(source, rows, members[0].convolution.dtype),
            filters,
            partial(_of_filtered, members, slab),
            for_matrix=stage > 0 or wanted.source,
            for_kernels=wanted.kernels,
        )
        for member, share in zip(members, found.kernels, strict=True):
            if share is not None:
                member.convolution.add_kernel_gradient(2 * stage, share)
        if found.matrix is None:
            continue
        if stage == 0:
            source.gradient[rows] += found.matrix
        else:
            members[0].take(slab, found.matrix)


def _of_filtered(members: Sequence[_Descent], slab: int, index: int, filtered: Tensor | None) -> Tensor:
    return members[index].of_filtered(slab, filtered)


class _Descent:
    """The backward pass of a convolution, from its last stage down.

    Parameters
    ----------
    convolution : Convolution
        Whose forward pass is done.
    slabs : list of slice
        How the rows of all matrices are cut.
    gradient : Tensor of shape (M, C)
        Of the node.
    scratch : Scratch
        Memory for what exists only while it is read.
    """

    def __init__(self, convolution: Convolution, slabs: list[slice], gradient: Tensor, scratch: Scratch) -> None:
        self.convolution = convolution
        self.slabs = slabs
        self.stage = convolution.depth  # one above that at work
        self.sums = GradientSums()
        self._scratch = scratch
        self._factor: Tensor | float = convolution.weight
        self._next = [gradient[rows] for rows in slabs]

    def add_sums(self, slab: int) -> None:
        """Add a slab to the sums that the norm of the next stage needs."""
        product, statistics = self.convolution.products[self.stage - 1], self.convolution.statistics[self.stage - 1]
        self.sums.add(self._next[slab], product[self.slabs[slab]], statistics)

    def descend(self) -> None:
        """Go to the next stage, when all slabs of the one above are done."""
        self.stage -= 1
        self._gradients, self._next = self._next, []
        self._through = self.sums.through(self.convolution.statistics[self.stage], self._factor)
        self._factor, self.sums = 1.0, GradientSums()

    def of_filtered(self, slab: int, filtered: Tensor | None) -> Tensor:
        """Return the gradient (rows, C) of ``filtered``; it is given if the gradients of the kernels are wanted."""
        convolution, stage = self.convolution, self.stage
        product = convolution.products[stage][self.slabs[slab]]
        gradient = self._gradients[slab]
        of_product = self._through(gradient, product, out=self._scratch("of product", gradient)).to(product.dtype)
        if filtered is not None:
            convolution.add_kernel_gradient(2 * stage + 1, of_product.t() @ filtered)
        return torch.mm(of_product, convolution.pointwise(stage), out=self._scratch("of filtered", of_product))

    def take(self, slab: int, gradient: Tensor) -> None:
        """Take the gradient of a slab of the next stage's normalised product."""
        self._next.append(gradient)
        self.add_sums(slab)


def _depth(convolutions: Sequence[Convolution]) -> int:
    return max((convolution.depth for convolution in convolutions), default=0)
