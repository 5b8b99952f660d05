"""All operations on all edges of a cell at once: the supernet's forward and backward pass, written for speed.

What DARTS' supernet computes edge by edge and operation by operation is arranged by what it has in common (our choice):

* the edges that leave a node share its ReLU and its pools;
* normalising, weighting and adding up is one pass over what a pointwise convolution returns, and the gradient of all
  three is one more (:mod:`nni_nastc.search.norms`): no operation's output exists;
* the backward pass recomputes what is cheap, ReLUs, depthwise convolutions and pools, and keeps only the nodes and what
  the pointwise convolutions return;
* the channels are filled up with zeros to a multiple of 16, with which products, convolutions and norms are up to twice
  as fast;
* gradients that nobody asks for are not computed: the first cell's inputs need none in the alpha step.

The result and all gradients are those of the plain computation up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from nni_nastc.genotype import EDGES, NUM_INPUTS, NUM_NODES
from nni_nastc.nn.depthwise import TemporalDepthwise
from nni_nastc.nn.ops import TemporalConv, TemporalPool, Zero
from nni_nastc.search.branches import Branch, Identity, Pool
from nni_nastc.search.convolutions import Convolution, Wanted, add_convolutions, send_back_convolutions
from nni_nastc.search.norms import Norms, Statistics
from nni_nastc.search.states import Node, Source, as_image, as_matrix, slabs_of

_NUM_SOURCES = NUM_INPUTS + NUM_NODES - 1
ALIGNMENT = 16
"""Channels are filled up to a multiple of it."""


@dataclass(frozen=True)
class CellPlan:
    """What :class:`MixedCell` has to know beside tensors.

    Parameters
    ----------
    operations : sequence of Branch or of tuple of int
        The columns, the same on every edge: an operation without kernels, or the dilations of a convolution's stages.
    norms : sequence of sequences of Norms
        A row an edge, a column an operation.
    """

    operations: Sequence[Branch | tuple[int, ...]]
    norms: Sequence[Sequence[Norms]]

    def convolutions_of(
        self, source: int, weights: Tensor, kernels: Sequence[Tensor]
    ) -> dict[tuple[int, int], Convolution]:
        """Return the convolutions on the edges that leave a state, by row and column."""
        found = {}
        for row, node in _edges_from(source):
            for column, dilations, place in self._convolutions():
                first = row * self.num_kernels + place
                own = kernels[first : first + 2 * len(dilations)]
                norms = self.norms[row][column]
                found[row, column] = Convolution(dilations, own, norms, weights[row, column], node)
        return found

    def branches_of(self, source: int) -> list[tuple[int, int, int, Branch]]:
        """Return (row, column, node, branch) of the other operations on these edges."""
        return [
            (row, column, node, operation)
            for row, node in _edges_from(source)
            for column, operation in enumerate(self.operations)
            if isinstance(operation, Branch)
        ]

    def _convolutions(self) -> Iterator[tuple[int, tuple[int, ...], int]]:
        """Yield column, dilations, and the place of the first kernel among those of an edge."""
        place = 0
        for column, operation in enumerate(self.operations):
            if not isinstance(operation, Branch):
                yield column, operation, place
                place += 2 * len(operation)

    @property
    def num_kernels(self) -> int:
        """How many kernels an edge has."""
        return sum(2 * len(dilations) for _, dilations, _ in self._convolutions())


def plan_cell(rows: Sequence[Sequence[nn.Module]], *, training: bool) -> CellPlan | None:
    """Plan a cell of the modules of :data:`nni_nastc.nn.ops.OPS`, a row an edge.

    Returns
    -------
    CellPlan or None
        None if a norm is no plain batch norm without scale and shift, such as one over several processes.
    """
    layers = [layer for row in rows for module in row for layer in module.modules() if isinstance(layer, _BatchNorm)]
    if any(type(norm) is not nn.BatchNorm2d or norm.affine for norm in layers):
        return None
    norms = [[[m for m in module.modules() if isinstance(m, nn.BatchNorm2d)] for module in row] for row in rows]
    return CellPlan(
        operations=[_operation_of(module) for module in rows[0]],
        norms=[[Norms(column, training) for column in row] for row in norms],
    )


def _operation_of(module: nn.Module) -> Branch | tuple[int, ...]:
    if isinstance(module, TemporalConv):
        return tuple(int(layer.dilation[0]) for layer in module if isinstance(layer, TemporalDepthwise))
    if isinstance(module, TemporalPool):
        return Pool("avg" if isinstance(module.pool, nn.AvgPool2d) else "max")
    return Branch() if isinstance(module, Zero) else Identity()


class MixedCell(torch.autograd.Function):
    """The cell between its two inputs and the concatenation of its nodes.

    ``apply(plan, weights, first, second, *kernels)`` maps the weights (14, n) of the operations on each of
    :data:`nni_nastc.genotype.EDGES`, the two states (B, C, T, S), and all depthwise and pointwise kernels, row by row,
    to (B, 4 C, T, S).
    """

    @staticmethod
    def forward(ctx: Any, plan: CellPlan, weights: Tensor, first: Tensor, second: Tensor, *kernels: Tensor) -> Tensor:
        """Add up the nodes, source by source."""
        _, channels, steps, places = first.shape
        matrices = [_whole_matrix(state, weights.dtype) for state in (first, second)]
        filled = [_fill_up_kernel(kernel, channels).to(compute_dtype(first)) for kernel in kernels]
        like, slabs = matrices[0], slabs_of(as_image(matrices[0], steps, places))
        nodes = [Node(torch.zeros_like(like), like.new_zeros(like.shape[1])) for _ in range(NUM_NODES)]
        statistics: dict[tuple[int, int], list[Statistics]] = {}
        products: dict[tuple[int, int], list[Tensor]] = {}
        with without_autocast(first.device.type):
            for index in range(_NUM_SOURCES):
                if index >= NUM_INPUTS:
                    matrices.append(nodes[index - NUM_INPUTS].value())
                source = Source(matrices[index], steps, places, slabs)
                for row, column, node, branch in plan.branches_of(index):
                    found = branch.forward(source, weights[row, column], nodes[node], plan.norms[row][column])
                    statistics[row, column] = [] if found is None else [found]
                convolutions = plan.convolutions_of(index, weights, filled)
                add_convolutions(source, list(convolutions.values()), nodes)
                for key, convolution in convolutions.items():
                    statistics[key], products[key] = convolution.statistics, convolution.products
            values = [*matrices[NUM_INPUTS:], nodes[-1].value()]
        ctx.plan, ctx.statistics, ctx.slabs = plan, statistics, slabs
        ctx.num_products = {key: len(kept) for key, kept in products.items()}
        ctx.shape, ctx.kernel_shapes = (channels, steps, places), [kernel.shape for kernel in kernels]
        ctx.dtypes = [x.dtype for x in (first, second, *kernels)]
        kept = [product for of_one in products.values() for product in of_one]
        ctx.save_for_backward(weights, *matrices, *kept, *filled)
        return torch.cat([as_image(value, steps, places)[:, :channels] for value in values], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradients of what :meth:`forward` takes."""
        with without_autocast(gradient.device.type):
            return _go_back(ctx, gradient)


def _go_back(ctx: Any, gradient: Tensor) -> Any:
    """Go back source by source: all that a node sends on is there before its own edges are."""
    plan: CellPlan = ctx.plan
    channels, steps, places = ctx.shape
    weights, *saved = ctx.saved_tensors
    matrices, rest = saved[:_NUM_SOURCES], iter(saved[_NUM_SOURCES:])
    products = {key: [next(rest) for _ in range(number)] for key, number in ctx.num_products.items()}
    kernels = list(rest)
    nodes = [_whole_matrix(part, weights.dtype, copy=True) for part in gradient.chunk(NUM_NODES, dim=1)]
    inputs: list[Tensor | None] = [None, None]
    weight_gradients = torch.zeros_like(weights)
    kernel_gradients: dict[tuple[int, int], list[Tensor | None]] = {}
    for index in reversed(range(_NUM_SOURCES)):
        source = Source(matrices[index], steps, places, ctx.slabs)
        for_source = index >= NUM_INPUTS or ctx.needs_input_grad[2 + index]
        for row, column, node, branch in plan.branches_of(index):
            statistics = next(iter(ctx.statistics[row, column]), None)
            weight_gradients[row, column] = branch.backward(
                source, weights[row, column], nodes[node], statistics, for_source=for_source
            )
        convolutions = plan.convolutions_of(index, weights, kernels)
        for key, convolution in convolutions.items():
            convolution.products, convolution.statistics = products.pop(key), ctx.statistics[key]
        wanted = Wanted(source=for_source, kernels=any(ctx.needs_input_grad[4:]))
        send_back_convolutions(source, list(convolutions.values()), nodes, wanted)
        for key, convolution in convolutions.items():
            weight_gradients[key] = convolution.weight_gradient
            kernel_gradients[key] = convolution.kernel_gradients
        if index >= NUM_INPUTS:
            nodes[index - NUM_INPUTS] += source.whole_gradient()
        elif for_source:
            inputs[index] = as_image(source.whole_gradient(), steps, places)[:, :channels]
    flat = [g for key in sorted(kernel_gradients) for g in kernel_gradients[key]]
    cut = [g if g is None else g[: shape[0], : shape[1]] for g, shape in zip(flat, ctx.kernel_shapes, strict=True)]
    typed = [g if g is None else g.to(dtype) for g, dtype in zip([*inputs, *cut], ctx.dtypes, strict=True)]
    return None, weight_gradients, *typed


def _whole_matrix(image: Tensor, dtype: torch.dtype, *, copy: bool = False) -> Tensor:
    """Return (B, C, T, S) as (M, C), filled up, in its own memory if ``copy`` is true."""
    filled = F.pad(image.to(dtype), (0, 0, 0, 0, 0, -image.shape[1] % ALIGNMENT))
    whole = filled.contiguous(memory_format=torch.channels_last)
    return as_matrix(whole.clone() if copy and whole.data_ptr() == image.data_ptr() else whole)


def compute_dtype(state: Tensor) -> torch.dtype:
    """Return in which precision convolutions of a state are computed: its own, or that of the autocast around."""
    kind = state.device.type
    autocast = is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if autocast else state.dtype


def without_autocast(kind: str) -> AbstractContextManager[Any]:
    """Return a block in which nothing is cast; a kind of device that has no autocast, such as meta, needs none."""
    return torch.autocast(kind, enabled=False) if is_autocast_available(kind) else nullcontext()


def _fill_up_kernel(kernel: Tensor, channels: int) -> Tensor:
    """Fill up a depthwise (C, 1, k, 1) or pointwise (C, C, 1, 1) kernel."""
    missing = -channels % ALIGNMENT
    is_pointwise = kernel.shape[2] == 1
    return F.pad(kernel, (0, 0, 0, 0, 0, missing if is_pointwise else 0, 0, missing))


def _edges_from(source: int) -> list[tuple[int, int]]:
    """Return (row, node) of the edges that leave a state."""
    return [(row, node) for row, (node, start) in enumerate(EDGES) if start == source]
