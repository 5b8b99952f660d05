"""NNI's ``Proxyless``: alphas of the choices of each node, of which one path at a time is computed.

Mended without a fork: the derived cell is the most probable one, where NNI 3.0 draws one; a step of the weights
computes its path once, where NNI computes all of them again on the way back; and what
:mod:`nni_nastc.search.temp_darts` mends.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.oneshot.pytorch.supermodule.proxyless import ProxylessMixedInput, ProxylessMixedLayer
from nni.nas.strategy import Proxyless as NniProxyless
from torch import Tensor

from nni_nastc.errors import GenotypeError
from nni_nastc.genotype import CELL_LABEL, EDGES, NUM_INPUTS, NUM_NODES, OPS_PER_NODE, Genotype
from nni_nastc.search.options import Epochs, NonNegative
from nni_nastc.search.paths import PathModule
from nni_nastc.search.temp_darts import TempDartsLightningModule


class Proxyless(NniProxyless):
    """ProxylessNAS (Cai et al., ICLR 2019) as NNI has it: the gradient of the alphas comes from binary gates.

    Each of a node's two slots has alphas of its operation and of its predecessor. Paths are drawn slot by slot, so that
    one may take a predecessor twice; the derived cell never does: of all pairs of different predecessors it has the
    most probable one (our choice).

    Parameters
    ----------
    arc_learning_rate : float
        Learning rate of the alphas' Adam.
    gradient_clip_val : float or None
        Largest norm of the weights' gradients; no clipping by default, as in NNI.
    warmup_epochs : int
        Epochs at the start in which only weights are trained.
    **kwargs : Any
        Further arguments of NNI's ``Proxyless``.
    """

    def __init__(
        self,
        *,
        arc_learning_rate: NonNegative = 3e-4,
        gradient_clip_val: NonNegative | None = None,
        warmup_epochs: Epochs = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            arc_learning_rate=arc_learning_rate,
            gradient_clip_val=gradient_clip_val,
            warmup_epochs=warmup_epochs,
            **kwargs,
        )

    def default_mutation_hooks(self) -> list[Any]:
        """Put our choices before NNI's."""
        return [OnePathLayer.mutate, OnePathInput.mutate, *super().default_mutation_hooks()]

    def configure_oneshot_module(self, training_module: pl.LightningModule) -> ProxylessModule:
        """Wrap the evaluator's module in the search."""
        return ProxylessModule(
            training_module,
            arc_learning_rate=self.arc_learning_rate,
            gradient_clip_val=self.gradient_clip_val,
            warmup_epochs=self.warmup_epochs,
            penalty=self.penalty,
        )


class OnePathLayer(ProxylessMixedLayer):
    """NNI's choice of an operation, without the gradient of the alphas where none is asked for."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the operation that was drawn."""
        if self._arch_alpha.requires_grad and torch.is_grad_enabled():
            return super().forward(x)
        return self.forward_path(self._sample_idx, x)


class OnePathInput(ProxylessMixedInput):
    """NNI's choice of a predecessor, without the gradient of the alphas where none is asked for."""

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Return the predecessor that was drawn."""
        if self._arch_alpha.requires_grad and torch.is_grad_enabled():
            return super().forward(inputs)
        return self.forward_path(self._sampled[0], *inputs)


class ProxylessModule(PathModule, TempDartsLightningModule):
    """The search part of :class:`Proxyless`: a path is drawn for each step."""

    def _alpha_step(self, batch: Any, batch_idx: int) -> None:
        self.resample()
        super()._alpha_step(batch, batch_idx)

    def _weight_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.resample()
        return super()._weight_step(batch, batch_idx)

    def path(self) -> Genotype:
        """Return the most probable cell with two different predecessors a node, without ``zero``.

        Raises
        ------
        GenotypeError
            If an alpha is not finite.
        """
        nodes = []
        for node in range(NUM_NODES):
            predecessors, operations = self._log_probabilities(node)
            pairs = predecessors[0][:, None] + predecessors[1]
            first, second = divmod(int(pairs.fill_diagonal_(-torch.inf).argmax()), len(pairs))
            operations[:, [name == "zero" for name in self.model.operations]] = -torch.inf
            names = [self.model.operations[int(row.argmax())] for row in operations]
            nodes.append(tuple(zip(names, (first, second), strict=True)))
        return Genotype(nodes=tuple(nodes))

    def alphas(self) -> Tensor:
        """Return the logarithm of the share (14, n + 1) that each operation has of each edge.

        A share is the probability, averaged over the two slots of the edge's node, that a slot takes this predecessor
        and this operation; the last column has the slots' share that goes to other predecessors.
        """
        shares = []
        for node, source in EDGES:
            predecessors, operations = self._log_probabilities(node)
            used = (predecessors[:, source, None] + operations).exp().mean(dim=0)
            shares.append(torch.cat([used, 1 - used.sum(dim=0, keepdim=True)]))
        return torch.stack(shares).clamp_min(1e-12).log()

    def _log_probabilities(self, node: int) -> tuple[Tensor, Tensor]:
        """Return those of the predecessors (2, node + 2) and of the operations (2, n) of a node's slots."""
        alphas = {m.label: m._arch_alpha.detach().double() for m in self.supernet_modules()}
        found = []
        for kind in ("input", "op"):
            labels = [f"{CELL_LABEL}/{kind}_{node + NUM_INPUTS}_{slot}" for slot in range(OPS_PER_NODE)]
            found.append(torch.log_softmax(torch.stack([alphas[label] for label in labels]), dim=-1))
        if not all(values.isfinite().all() for values in found):
            raise GenotypeError(
                "no cell can be derived from alphas that are NaN or infinite; use a smaller learning rate"
            )
        return found[0], found[1]
