"""Timeception: N. Hussein, E. Gavves, A. Smeulders, "Timeception for Complex Action Recognition", CVPR 2019.

Written from that paper. The widths of the branches and the biases are those that give the size in the README of the
authors' code: 1,494,304 parameters for four layers with dilations on 1024 channels, of which 1,479,584 are trained and
the rest are moving statistics of batch norms.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nni_nastc.errors import ModelError
from nni_nastc.nn.depthwise import TemporalDepthwise
from nni_nastc.nn.head import Head
from nni_nastc.nn.network import check_timesteps
from nni_nastc.nn.ops import BN_EPS

KERNELS = ((3, 1), (5, 1), (7, 1))
"""Kernel size and dilation of the three temporal convolutions (the paper's multi-scale kernels)."""

DILATIONS = ((3, 1), (3, 2), (3, 3))
"""The same for the variant that dilates one kernel size."""

NUM_BRANCHES = 5
GROWTH = 1.25
"""Channels of a layer's output for each of its input."""


class PastMaxPool(nn.Module):
    """Max-pool of two steps over T with stride 1; the past side repeats the first step, so that T is kept."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T, S) to (B, C, T, S)."""
        return F.max_pool2d(F.pad(x, (0, 0, 1, 0), mode="replicate"), (2, 1), stride=1)


class TimeceptionLayer(nn.Module):
    """Channel groups with five branches each - concatenation - ReLU - shuffle - max-pool 2x1x1 over T.

    Every group has its own weights. A branch of all groups is a grouped convolution 1x1x1, followed by nothing, by a
    depthwise convolution over T of one of three scales, or by a max-pool over T; then batch norm.

    Parameters
    ----------
    in_channels : int
        Channels of the input, a multiple of ``num_groups``.
    num_groups : int
        N.
    scales : tuple of (int, int)
        Kernel size and dilation of the three temporal convolutions.
    """

    def __init__(self, in_channels: int, num_groups: int, scales: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.num_groups = num_groups
        width = num_groups * max(1, int(GROWTH * in_channels / (NUM_BRANCHES * num_groups)))
        self.out_channels = NUM_BRANCHES * width
        temporal = [nn.Identity(), *(TemporalDepthwise(width, *scale, bias=True) for scale in scales), PastMaxPool()]
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels, width, 1, groups=num_groups), step, nn.BatchNorm2d(width, eps=BN_EPS)
            )
            for step in temporal
        )
        self.pool = nn.MaxPool2d((2, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T, S) to (B, about 1.25 C, T / 2, S)."""
        y = self.pool(torch.cat([branch(x) for branch in self.branches], 1)).relu()
        # The branches hold (branch, group, channel); shuffled, the groups come last.
        return y.unflatten(1, (NUM_BRANCHES, self.num_groups, -1)).transpose(2, 3).flatten(1, 3)


class Timeception(nn.Module):
    """Timeception layers and the head that all networks share. Built by :func:`build_timeception`."""

    def __init__(
        self, num_classes: int, *, num_layers: int, in_channels: int, num_groups: int, dilated: bool
    ) -> None:
        super().__init__()
        if min(num_classes, in_channels, num_groups) < 1 or num_layers < 0 or in_channels % num_groups:
            raise ModelError(
                "Timeception needs num_classes >= 1, num_layers >= 0 and num_groups that divides in_channels, got "
                f"num_classes={num_classes}, num_layers={num_layers}, in_channels={in_channels}, "
                f"num_groups={num_groups}"
            )
        layers: list[TimeceptionLayer] = []
        channels = in_channels
        for _ in range(num_layers):
            layers.append(TimeceptionLayer(channels, num_groups, DILATIONS if dilated else KERNELS))
            channels = layers[-1].out_channels
        self.layers = nn.Sequential(*layers)
        self.head = Head(channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, T, H, W) to logits (B, K); T must be divisible by 2^L, else a :class:`ModelError`."""
        check_timesteps(features.shape[2], len(self.layers))
        return self.head(self.layers(features.flatten(3)).amax((2, 3)))


def build_timeception(
    num_classes: int, num_layers: int = 3, in_channels: int = 1024, num_groups: int = 8, dilated: bool = False
) -> Timeception:
    """Build a Timeception network.

    Parameters
    ----------
    num_classes : int
        K.
    num_layers : int
        L. Every layer halves T and multiplies the channels by about 1.25.
    in_channels : int
        C of the features.
    num_groups : int
        N, a divisor of C.
    dilated : bool
        Three dilations of kernel size 3 in place of the kernel sizes 3, 5 and 7.

    Returns
    -------
    Timeception
        (B, C, T, H, W) -> logits (B, K), for every T divisible by 2^L.

    Raises
    ------
    ModelError
        If the sizes are impossible.
    """
    return Timeception(
        num_classes, num_layers=num_layers, in_channels=in_channels, num_groups=num_groups, dilated=dilated
    )
