"""All operations on all edges of a cell at once: the supernet's forward and backward pass, written for speed.

What DARTS' supernet computes edge by edge and operation by operation is arranged by what it has in common (our choice):

* the edges that leave a node share its ReLU and its pools;
* a pointwise convolution, its batch norm and its weight are one product that is added to the node in place
  (:mod:`nni_nastc.search.folded_norm`): no operation's output exists;
* the backward pass recomputes what is cheap, the depthwise convolutions and the pools, and keeps only the nodes and the
  hidden layers of the separable convolutions;
* gradients that nobody asks for are not computed: the first cell's inputs need none in the alpha step.

The result and all gradients are those of the plain computation up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nni_nastc.genotype import EDGES, NUM_INPUTS, NUM_NODES
from nni_nastc.search.branches import Branch, Record, Wanted, branch_of
from nni_nastc.search.folded_norm import Norms
from nni_nastc.search.states import Node, NodeGradient, Source, as_image, as_matrix


@dataclass(frozen=True)
class CellPlan:
    """What :class:`MixedCell` has to know beside tensors.

    Parameters
    ----------
    branches : sequence of Branch
        The columns: the operations, the same on every edge.
    norms : sequence of sequences of Norms
        A row an edge, a column an operation.
    num_kernels : sequence of int
        How many kernels an operation has.
    """

    branches: Sequence[Branch]
    norms: Sequence[Sequence[Norms]]
    num_kernels: Sequence[int]

    def split(self, kernels: Sequence[Tensor]) -> list[list[Sequence[Tensor]]]:
        """Return the kernels of every row and column."""
        rest = iter(kernels)
        return [[[next(rest) for _ in range(number)] for number in self.num_kernels] for _ in EDGES]


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
        branches=[branch_of(module) for module in rows[0]],
        norms=[[Norms(column, training) for column in row] for row in norms],
        num_kernels=[len(list(module.parameters())) for module in rows[0]],
    )


class MixedCell(torch.autograd.Function):
    """The cell between its two inputs and the concatenation of its nodes.

    ``apply(plan, weights, first, second, *kernels)`` maps the weights (14, n) of the operations on each of
    :data:`nni_nastc.genotype.EDGES`, the two states (B, C, T, S), and all depthwise and pointwise kernels, row by row,
    to (B, 4 C, T, S).
    """

    @staticmethod
    def forward(ctx: Any, plan: CellPlan, weights: Tensor, first: Tensor, second: Tensor, *kernels: Tensor) -> Tensor:
        """Add up the nodes, source by source."""
        images = [x.contiguous(memory_format=torch.channels_last) for x in (first, second)]
        like = as_matrix(images[0])
        nodes = [Node(torch.zeros_like(like), like.new_zeros(like.shape[1])) for _ in range(NUM_NODES)]
        kernels_of = plan.split(kernels)
        records: dict[tuple[int, int], Record] = {}
        for index in range(NUM_INPUTS + NUM_NODES - 1):
            if index >= NUM_INPUTS:
                images.append(as_image(nodes[index - NUM_INPUTS].value(), images[0]))
            source = Source(images[index])
            for row, node in _edges_from(index):
                for column, (branch, weight) in enumerate(zip(plan.branches, weights[row].unbind(), strict=True)):
                    records[row, column] = branch.forward(
                        source, weight, nodes[node], kernels_of[row][column], plan.norms[row][column]
                    )
        hidden = [image for record in records.values() for image in record.hidden]
        ctx.plan = plan
        ctx.norms = {key: (record.norms, len(record.hidden)) for key, record in records.items()}
        ctx.save_for_backward(weights, *images, *hidden, *kernels)
        return torch.cat([*images[NUM_INPUTS:], as_image(nodes[-1].value(), images[0])], dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Go back source by source: all that a node sends on is there before its own edges are."""
        weights, *saved = ctx.saved_tensors
        num_images = NUM_INPUTS + NUM_NODES - 1
        num_kernels = len(EDGES) * sum(ctx.plan.num_kernels)
        images, hidden = saved[:num_images], iter(saved[num_images : len(saved) - num_kernels])
        kernels_of = ctx.plan.split(saved[len(saved) - num_kernels :])
        records = {
            key: Record(norms, [next(hidden) for _ in range(number)]) for key, (norms, number) in ctx.norms.items()
        }
        for_kernels = any(ctx.needs_input_grad[4:])
        parts = gradients[0].chunk(NUM_NODES, dim=1)
        matrices = [as_matrix(part).clone(memory_format=torch.contiguous_format) for part in parts]
        nodes: dict[int, NodeGradient] = {}
        inputs: list[Tensor | None] = [None, None]
        weight_gradients = torch.zeros_like(weights)
        kernel_gradients: dict[tuple[int, int], list[Tensor | None]] = {}
        for index in reversed(range(num_images)):
            if index > 0:
                nodes[index - 1] = NodeGradient(matrices[index - 1], matrices[index - 1].sum(dim=0))
            source = Source(images[index])
            wanted = Wanted(source=index >= NUM_INPUTS or ctx.needs_input_grad[2 + index], kernels=for_kernels)
            for row, node in _edges_from(index):
                for column, branch in enumerate(ctx.plan.branches):
                    weight_gradients[row, column], kernel_gradients[row, column] = branch.backward(
                        source,
                        weights[row, column],
                        nodes[node],
                        kernels_of[row][column],
                        records.pop((row, column)),
                        wanted,
                    )
            if index >= NUM_INPUTS:
                matrices[index - NUM_INPUTS] += source.gradient()
            elif wanted.source:
                inputs[index] = as_image(source.gradient(), images[index])
        flat = [g for row in range(len(EDGES)) for c in range(len(ctx.plan.branches)) for g in kernel_gradients[row, c]]
        return None, weight_gradients, *inputs, *flat


def _edges_from(source: int) -> list[tuple[int, int]]:
    """Return (row, node) of the edges that leave a state."""
    return [(row, node) for row, (node, start) in enumerate(EDGES) if start == source]
