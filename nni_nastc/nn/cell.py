"""The NAS-Temp cell around its operations: what goes in, and the cell that a genotype fixes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nni_nastc.genotype import NUM_INPUTS, Genotype
from nni_nastc.nn.ops import BN_EPS, OPS, pointwise


class CellInputs(nn.Module):
    """Bring the two inputs of a cell to one shape: ReLU - 1x1x1 convolution - batch norm, each (Sec. III-C).

    Where ``I_{k-2}`` has twice the T of ``I_{k-1}``, it is halved first by the parameter-free max-pool that ends a
    layer (our choice; the paper does not say how).

    Parameters
    ----------
    in_channels : tuple of int
        Channels of ``I_{k-2}`` and ``I_{k-1}``, a group.
    width : int
        Channels inside the cell.
    halve : bool
        Whether ``I_{k-2}`` has twice the T.
    affine : bool
        Whether batch norms have scale and shift.
    """

    def __init__(self, in_channels: tuple[int, int], width: int, *, halve: bool, affine: bool) -> None:
        super().__init__()
        self.halve = nn.MaxPool2d((2, 1)) if halve else nn.Identity()
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.ReLU(), pointwise(channels, width), nn.BatchNorm2d(width, eps=BN_EPS, affine=affine))
            for channels in in_channels
        )

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """Map [(B, C0, T or 2T, S), (B, C1, T, S)] to two tensors of (B, width, T, S)."""
        before_last, last = inputs
        return [self.reduce[0](self.halve(before_last)), self.reduce[1](last)]


class NasTempCell(nn.Module):
    """The cell that a genotype fixes (Fig. 4b): a node adds its two operations, the output concatenates the nodes.

    Its submodules are named as in the frozen form of NNI's ``Cell``, so that weights pass between the two.
    """

    def __init__(self, genotype: Genotype, inputs: CellInputs, width: int) -> None:
        super().__init__()
        self.preprocessor = inputs
        self.ops = nn.ModuleList(
            nn.ModuleList(OPS[name](width, True) for name, _ in node) for node in genotype.nodes
        )
        self.sources = [[source for _, source in node] for node in genotype.nodes]

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Map [(B, C0, T or 2T, S), (B, C1, T, S)] to (B, 4 width, T, S)."""
        states = self.preprocessor(inputs)
        for ops, sources in zip(self.ops, self.sources, strict=True):
            first, second = (op(states[source]) for op, source in zip(ops, sources, strict=True))  # type: ignore
            state = first + second
            if state.requires_grad:
                # The concatenation hands back slices, on which batch norm is an order of magnitude slower.
                state.register_hook(_channels_last)
            states.append(state)
        return torch.cat(states[NUM_INPUTS:], dim=1)


def _channels_last(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)
