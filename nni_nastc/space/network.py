"""The NAS-TC network as an NNI model space.

Every layer holds NNI's ``Cell``, which is made of a ``LayerChoice`` and an ``InputChoice`` for each operation of each
node. All layers carry the same label, so they share their choices, and under a differentiable strategy their alphas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nni.nas.nn.pytorch import Cell, ModelSpace
from nni.nas.space import current_model, model_context
from torch import nn

from nni_nastc.errors import GenotypeError
from nni_nastc.genotype import (
    CELL_LABEL,
    NUM_INPUTS,
    NUM_NODES,
    OPERATION_NAMES,
    OPS_PER_NODE,
    SEARCHED_OPERATIONS,
    Genotype,
)
from nni_nastc.nn.cell import CellInputs
from nni_nastc.nn.network import NasTCSkeleton
from nni_nastc.nn.ops import OPS


class NasTCSpace(NasTCSkeleton, ModelSpace):
    """The search space: (B, C, T, H, W) -> logits (B, K).

    Parameters
    ----------
    num_classes : int
        K.
    num_layers : int
        L. T must be divisible by 2^L.
    in_channels : int
        C of the features.
    num_groups : int or None
        N, a divisor of C; None for the one nearest to C / 128, the smaller on a tie.
    operations : sequence of str, optional
        The candidates on each edge; all but ``zero`` by default. ``zero`` needs no naming: NNI's differentiable cell
        appends it itself, so that an edge has nine alphas.

    Raises
    ------
    GenotypeError
        If an operation is unknown or named twice.
    ModelError
        If the sizes are impossible.

    Notes
    -----
    ``freeze(genotype.to_nni())`` is the network that :func:`nni_nastc.build_network` makes: same keys, same output.
    """

    def __init__(
        self,
        num_classes: int,
        num_layers: int = 3,
        in_channels: int = 1024,
        num_groups: int | None = None,
        operations: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.operations = _check_operations(SEARCHED_OPERATIONS if operations is None else operations)
        # As in DARTS, batch norms have no scale and shift while alphas are searched; a frozen space has them.
        affine = current_model() is not None

        def make_cell(inputs: CellInputs, width: int) -> nn.Module:
            return Cell(
                # NNI hands a factory (node, slot, predecessor); the operation is the same on every edge.
                {name: lambda *_, make=OPS[name]: make(width, affine) for name in self.operations},
                num_nodes=NUM_NODES,
                num_ops_per_node=OPS_PER_NODE,
                num_predecessors=NUM_INPUTS,
                preprocessor=inputs,
                label=CELL_LABEL,
            )

        self.assemble(
            make_cell,
            num_classes=num_classes,
            num_layers=num_layers,
            in_channels=in_channels,
            num_groups=num_groups,
            affine=affine,
        )

    def freeze(self, sample: Mapping[str, Any]) -> NasTCSpace:
        """Return the network that a sample chooses, with fresh weights.

        Parameters
        ----------
        sample : mapping
            As from :meth:`nni_nastc.Genotype.to_nni`.

        Raises
        ------
        GenotypeError
            If the sample has other labels than the space, or an operation that the space does not have.
        """
        genotype = Genotype.from_nni(sample)
        if foreign := sorted(set(genotype.operations) - set(self.operations)):
            raise GenotypeError(
                f"the space has the operations {', '.join(self.operations)}, the genotype also {', '.join(foreign)}; "
                "name them in the space's operations"
            )
        # The batch norms of a frozen space differ, so it is made anew, which is NNI's way for dependent parts.
        with model_context(genotype.to_nni()):
            return type(self)(*self.trace_args, **self.trace_kwargs)  # type: ignore[misc, arg-type]


def _check_operations(operations: Sequence[str]) -> tuple[str, ...]:
    """Return the operations as a tuple, or say which are unknown or named twice."""
    names = tuple(operations)
    if not names or len(set(names)) != len(names) or not set(names) <= set(OPERATION_NAMES):
        raise GenotypeError(
            f"operations are different names out of {', '.join(OPERATION_NAMES)}, got {', '.join(map(str, names))}"
        )
    return names
