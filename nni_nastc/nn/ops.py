"""The nine operations of the NAS-Temp cell (Table I of the paper), and the one table of them.

All work on (B, C, T, S) tensors, S = H x W flattened, along T only: they are 2D convolutions and pools whose kernel is
1 wide over S. On a CPU that is many times faster than the same thing as a 3D convolution. Every operation keeps the
shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor, nn

from nni_nastc.genotype import OPERATION_NAMES
from nni_nastc.nn.depthwise import TemporalDepthwise

BN_EPS = 1e-5


class Zero(nn.Module):
    """No connection: the output is zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T, S) to zeros of the same shape."""
        return x * 0.0


def pointwise(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Mix the channels at each place and time."""
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


class TemporalConv(nn.Sequential):
    """ReLU - depthwise over T - pointwise - batch norm, applied ``repeats`` times (Fig. 2b).

    As in DARTS a separable convolution applies it twice, a dilated one once (our choice where the paper is silent).
    """

    def __init__(self, channels: int, affine: bool, *, kernel_size: int, dilation: int = 1, repeats: int = 1) -> None:
        layers: list[nn.Module] = []
        for _ in range(repeats):
            layers += [
                nn.ReLU(),
                TemporalDepthwise(channels, kernel_size, dilation),
                pointwise(channels, channels),
                nn.BatchNorm2d(channels, eps=BN_EPS, affine=affine),
            ]
        super().__init__(*layers)


class TemporalPool(nn.Module):
    """Pool of two steps over T with stride 1, then batch norm.

    The past side is padded by repeating the first step, so that the first output is the first input (our choice; the
    paper says that T is kept, and its padding of 1 in Table I, on both sides, would make it T + 1).
    """

    def __init__(self, channels: int, affine: bool, *, kind: str) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d((2, 1), stride=1) if kind == "avg" else nn.MaxPool2d((2, 1), stride=1)
        self.bn = nn.BatchNorm2d(channels, eps=BN_EPS, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T, S) to (B, C, T, S)."""
        return self.bn(self.pool(F.pad(x, (0, 0, 1, 0), mode="replicate")))


def _identity(channels: int, affine: bool) -> nn.Module:
    return nn.Identity()


def _zero(channels: int, affine: bool) -> nn.Module:
    return Zero()


OperationFactory = Callable[[int, bool], nn.Module]

_FACTORIES: dict[str, OperationFactory] = {
    "zero": _zero,
    "identity": _identity,
    "avg_pool": partial(TemporalPool, kind="avg"),
    "max_pool": partial(TemporalPool, kind="max"),
    "dil_conv_3": partial(TemporalConv, kernel_size=3, dilation=2),
    "dil_conv_5": partial(TemporalConv, kernel_size=5, dilation=2),
    "sep_conv_3": partial(TemporalConv, kernel_size=3, repeats=2),
    "sep_conv_5": partial(TemporalConv, kernel_size=5, repeats=2),
    "sep_conv_7": partial(TemporalConv, kernel_size=7, repeats=2),
}

OPS: Mapping[str, OperationFactory] = MappingProxyType({name: _FACTORIES[name] for name in OPERATION_NAMES})
"""Operation name -> factory ``(channels, affine) -> module``. ``affine``: whether batch norms have scale and shift
(not in the search, as in DARTS; in the fixed network)."""
