"""The supernet cell: every operation on every edge, weighted by the softmax of the edge's alphas.

It takes the place of NNI's differentiable cell through NNI's own mutation hook. What differs is the derivation: DARTS
ranks softmax weights, ``zero`` in the denominator, where NNI 3.0 ranks the raw alphas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedCell
from torch import Tensor

from nni_nastc.errors import GenotypeError
from nni_nastc.genotype import EDGES, NUM_INPUTS, OPS_PER_NODE, Genotype
from nni_nastc.search.mixed_cell import MixedCell, compute_dtype, plan_cell


def derive(alphas: Tensor, operations: Sequence[str]) -> Genotype:
    """Derive the cell from its alphas as DARTS does (Liu et al., ICLR 2019, Sec. 2.4).

    The strength of an operation is its softmax weight among all of its edge. Each edge is as strong as its strongest
    operation that is not ``zero``; each node keeps the strongest operations of its two strongest edges, and so never
    takes the same predecessor twice.

    Parameters
    ----------
    alphas : Tensor of shape (14, n + 1)
        Raw alphas, a row for each of :data:`nni_nastc.genotype.EDGES`; the last column is ``zero``.
    operations : sequence of n str
        The names of the other columns. A ``zero`` among them is never kept either.

    Returns
    -------
    Genotype
        The derived cell. Of equals the one that is listed first wins.

    Raises
    ------
    GenotypeError
        If an alpha is not finite.
    """
    if not alphas.isfinite().all():
        raise GenotypeError("no cell can be derived from alphas that are NaN or infinite; use a smaller learning rate")
    strength = torch.softmax(alphas.detach().double(), dim=-1)[:, :-1]
    strength[:, [name == "zero" for name in operations]] = -1.0
    best, choice = strength.max(dim=-1)
    nodes = []
    for node in range(EDGES[-1][0] + 1):
        rows = [row for row, (target, _) in enumerate(EDGES) if target == node]
        kept = sorted(rows, key=lambda row: -best[row].item())[:OPS_PER_NODE]
        nodes.append(tuple((operations[int(choice[row])], EDGES[row][1]) for row in sorted(kept)))
    return Genotype(nodes=tuple(nodes))


class TempDartsCell(DifferentiableMixedCell):
    """NNI's differentiable cell with DARTS' derivation, for cells of the NAS-TC space."""

    @property
    def alphas(self) -> Tensor:
        """The raw alphas (14, n + 1) in the order of :data:`nni_nastc.genotype.EDGES`, ``zero`` last."""
        return torch.stack(
            [self._arch_alpha[f"{self.label}/{node + NUM_INPUTS}_{source}"] for node, source in EDGES]
        )

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return the sample of the derived cell, unless a cell of the same label has already given it."""
        sample = derive(self.alphas, self.op_names).to_nni()
        return {label: choice for label, choice in sample.items() if label not in memo}

    def forward(self, *inputs: list[Tensor] | Tensor) -> Tensor:
        """Map [(B, C0, T or 2T, S), (B, C1, T, S)] to (B, 4 width, T, S)."""
        states = self.preprocessor(list(inputs[0]) if isinstance(inputs[0], list) else list(inputs))
        # The appended ``zero`` adds nothing to the sum but its share of the softmax.
        weights = self._softmax(self.alphas)[:, :-1]
        rows = [list(edge.values()) for edges in self.ops for edge in edges]
        plan = plan_cell(rows, training=self.training)
        kernels = [kernel for row in rows for module in row for kernel in module.parameters()]
        # The gradients through norms would leave the range of float16.
        if plan is None or compute_dtype(states[0]) == torch.float16:
            return self._add_up(states, weights)
        return MixedCell.apply(plan, weights, *states, *kernels)

    def _add_up(self, states: list[Tensor], weights: Tensor) -> Tensor:
        """Compute every operation on every edge by itself."""
        edge_weights = iter(weights)
        for edges in self.ops:
            states.append(
                sum(
                    weight * op(states[source])
                    for source, edge in enumerate(edges)
                    for weight, op in zip(next(edge_weights), edge.values(), strict=True)
                )
            )
        return torch.cat(states[NUM_INPUTS:], dim=self.concat_dim)
