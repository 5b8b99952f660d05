"""What the search is compared with: the same network in NNI's own form, and DARTS as it is published.

Both have NNI's ``Cell``, or its like, with the same eight candidates as plain 3D convolutions over (B, C, T, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from nni.nas.nn.pytorch import Cell, ModelSpace
from torch import Tensor, nn

from nni_nastc.genotype import EDGES, NUM_INPUTS, NUM_NODES, OPS_PER_NODE
from nni_nastc.nn.head import Head
from nni_nastc.nn.network import cell_width, default_num_groups

MakeCell = Callable[["Inputs3d", int], nn.Module]


class Conv3d(nn.Sequential):
    """ReLU - depthwise - pointwise - batch norm, ``repeats`` times."""

    def __init__(self, channels: int, kernel_size: int, dilation: int = 1, repeats: int = 1) -> None:
        layers: list[nn.Module] = []
        for _ in range(repeats):
            padding = dilation * (kernel_size - 1) // 2
            layers += [
                nn.ReLU(),
                nn.Conv3d(
                    channels,
                    channels,
                    (kernel_size, 1, 1),
                    padding=(padding, 0, 0),
                    dilation=(dilation, 1, 1),
                    groups=channels,
                    bias=False,
                ),
                nn.Conv3d(channels, channels, 1, bias=False),
                nn.BatchNorm3d(channels, affine=False),
            ]
        super().__init__(*layers)


class Pool3d(nn.Module):
    """Pool of two steps over T, the first step repeated before it, then batch norm."""

    def __init__(self, channels: int, pool: type[nn.Module]) -> None:
        super().__init__()
        self.pool = pool((2, 1, 1), stride=1)
        self.bn = nn.BatchNorm3d(channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T, H, W) to the same shape."""
        return self.bn(self.pool(F.pad(x, (0, 0, 0, 0, 1, 0), mode="replicate")))


CANDIDATES: Mapping[str, Callable[[int], nn.Module]] = {
    "identity": lambda channels: nn.Identity(),
    "avg_pool": lambda channels: Pool3d(channels, nn.AvgPool3d),
    "max_pool": lambda channels: Pool3d(channels, nn.MaxPool3d),
    "dil_conv_3": lambda channels: Conv3d(channels, 3, dilation=2),
    "dil_conv_5": lambda channels: Conv3d(channels, 5, dilation=2),
    "sep_conv_3": lambda channels: Conv3d(channels, 3, repeats=2),
    "sep_conv_5": lambda channels: Conv3d(channels, 5, repeats=2),
    "sep_conv_7": lambda channels: Conv3d(channels, 7, repeats=2),
}
"""The candidates on every edge, in the order of :data:`nni_nastc.genotype.SEARCHED_OPERATIONS`."""


class Inputs3d(nn.Module):
    """Bring the two inputs of a cell to one shape."""

    def __init__(self, in_channels: tuple[int, int], width: int, *, halve: bool) -> None:
        super().__init__()
        self.halve = nn.MaxPool3d((2, 1, 1)) if halve else nn.Identity()
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv3d(c, width, 1, bias=False), nn.BatchNorm3d(width, affine=False))
            for c in in_channels
        )

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """Map two inputs to two states (B, width, T, H, W)."""
        return [self.reduce[0](self.halve(inputs[0])), self.reduce[1](inputs[1])]


class Skeleton3d(nn.Module):
    """The layers and the head of NAS-TC on (B, C, T, H, W). A subclass calls :meth:`assemble` in its constructor."""

    def assemble(self, make_cell: MakeCell, *, num_classes: int, num_layers: int, in_channels: int) -> None:
        """Add layers and head; K classes, L layers, C channels."""
        self.num_groups = default_num_groups(in_channels)
        before_last = last = in_channels // self.num_groups
        cells = []
        for layer in range(num_layers):
            width = cell_width(last)
            cells.append(make_cell(Inputs3d((before_last, last), width, halve=layer > 0), width))
            before_last, last = last, NUM_NODES * width
        self.cells = nn.ModuleList(cells)
        self.pool = nn.MaxPool3d((2, 1, 1))
        self.head = Head(last * self.num_groups, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, T, H, W) to logits (B, K)."""
        before_last = last = features
        for cell in self.cells:
            folded = [x.reshape(-1, x.shape[1] // self.num_groups, *x.shape[2:]) for x in (before_last, last)]
            y = cell(folded).unflatten(0, (-1, self.num_groups)).transpose(1, 2).flatten(1, 2)
            before_last, last = last, self.pool(y)
        return self.head(last.amax(dim=(2, 3, 4)))


class StockSpace(Skeleton3d, ModelSpace):
    """The search space as NNI 3.0 has it: its ``Cell``, which its strategies make a supernet of."""

    def __init__(self, num_classes: int, num_layers: int, in_channels: int) -> None:
        super().__init__()
        self.assemble(
            lambda inputs, width: Cell(
                {name: lambda *_, make=make: make(width) for name, make in CANDIDATES.items()},
                num_nodes=NUM_NODES,
                num_ops_per_node=OPS_PER_NODE,
                num_predecessors=NUM_INPUTS,
                preprocessor=inputs,
                label="cell",
            ),
            num_classes=num_classes,
            num_layers=num_layers,
            in_channels=in_channels,
        )


class MixedOps(nn.Module):
    """A cell of the published algorithm (Liu et al., ICLR 2019, Sec. 2.2): each edge sums its weighted operations."""

    def __init__(self, inputs: Inputs3d, width: int, alphas: nn.Parameter) -> None:
        super().__init__()
        self.inputs = inputs
        self.alphas = alphas
        self.edges = nn.ModuleList(nn.ModuleList(make(width) for make in CANDIDATES.values()) for _ in EDGES)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Map two inputs to the concatenation of the nodes."""
        states = self.inputs(inputs)
        weights = torch.softmax(self.alphas, dim=-1)
        for node in range(NUM_NODES):
            rows = [(row, source) for row, (target, source) in enumerate(EDGES) if target == node]
            states.append(
                sum(
                    weight * operation(states[source])
                    for row, source in rows
                    for weight, operation in zip(weights[row], self.edges[row], strict=False)  # type: ignore
                )
            )
        return torch.cat(states[NUM_INPUTS:], dim=1)


class PublishedSupernet(Skeleton3d):
    """The supernet of DARTS as published, on the temporal operations: one set of alphas (14, 9) for all cells."""

    def __init__(self, num_classes: int, num_layers: int, in_channels: int) -> None:
        super().__init__()
        self.alphas = nn.Parameter(1e-3 * torch.randn(len(EDGES), len(CANDIDATES) + 1))
        self.assemble(
            lambda inputs, width: MixedOps(inputs, width, self.alphas),
            num_classes=num_classes,
            num_layers=num_layers,
            in_channels=in_channels,
        )
