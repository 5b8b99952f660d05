"""VideoGraph: N. Hussein, E. Gavves, A. Smeulders, "VideoGraph: Recognizing Minutes-Long Human Activities in
Videos", ICCV 2019 workshop on Scene Graph Representation and Learning.

Written from arXiv:1905.05143 (learning the graph's nodes, learning its edges).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nni_nastc.baselines.embedding import ChannelReduction
from nni_nastc.errors import ModelError
from nni_nastc.nn.depthwise import TemporalDepthwise
from nni_nastc.nn.head import Head
from nni_nastc.nn.ops import BN_EPS, pointwise

NUM_NODES = 128
"""Latent concepts, as in the authors' code."""

WIDTH = 128
"""Channels of the features and the nodes (our choice: with all 1024 a batch of 8 x 128 x 128 takes 0.5 GB a tensor)."""

KERNEL_SIZE = 7
"""Over time, and over nodes, as in the authors' code."""

NUM_LAYERS = 2
POOL = 3
"""Each graph embedding pools time and nodes by it. Both numbers are those of the authors' code."""

MIN_TIMESTEPS = POOL**NUM_LAYERS


class NodeAttention(nn.Module):
    """How much each node is in a superframe, times the node (the paper's node attention block).

    The nodes are learned vectors y, transformed by a linear map; a sigmoid of their product with the features says how
    much of each is at a place (our choice; the authors' code offers it, and trains with a leaky ReLU). The mean over
    space follows (our choice).

    Parameters
    ----------
    width : int
        D.
    num_nodes : int
        Y.
    """

    def __init__(self, width: int, num_nodes: int) -> None:
        super().__init__()
        self.nodes = nn.Parameter(torch.randn(num_nodes, width))
        self.transform = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, T, H, W) to (B, D, T, Y)."""
        nodes = self.transform(self.nodes)
        presence = torch.sigmoid(torch.einsum("bdts,yd->btys", x.flatten(3), nodes)).mean(3)
        return presence[:, None] * nodes.T[None, :, None]


class GraphEmbedding(nn.Sequential):
    """Relations over time, over nodes and over channels, each by a convolution; then batch norm, ReLU, max-pool 3x3.

    Parameters
    ----------
    width : int
        D.
    """

    def __init__(self, width: int) -> None:
        over_nodes = nn.Conv2d(
            width, width, (1, KERNEL_SIZE), padding=(0, KERNEL_SIZE // 2), groups=width, bias=False
        )
        super().__init__(
            TemporalDepthwise(width, KERNEL_SIZE),
            over_nodes,
            pointwise(width, width),
            nn.BatchNorm2d(width, eps=BN_EPS),
            nn.ReLU(),
            nn.MaxPool2d(POOL),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, T, Y) to (B, D, T / 3, Y / 3), rounded down."""
        return super().forward(x.contiguous(memory_format=torch.channels_last))


class VideoGraph(nn.Module):
    """Fewer channels - node attention - two graph embeddings - max - the head that all networks share.

    Parameters
    ----------
    num_classes : int
        K.
    in_channels : int
        C.
    """

    def __init__(self, num_classes: int, in_channels: int = 1024) -> None:
        super().__init__()
        self.reduce = ChannelReduction(in_channels, WIDTH)
        self.attention = NodeAttention(WIDTH, NUM_NODES)
        self.edges = nn.Sequential(*(GraphEmbedding(WIDTH) for _ in range(NUM_LAYERS)))
        self.head = Head(WIDTH, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, T, H, W) to logits (B, K); T must be 9 at least, else a :class:`ModelError`."""
        check_videograph_timesteps(features.shape[2])
        return self.head(self.edges(self.attention(self.reduce(features))).amax((2, 3)))


def check_videograph_timesteps(timesteps: int) -> None:
    """Raise a :class:`ModelError` if T is less than what two pools of three steps leave one of."""
    if timesteps < MIN_TIMESTEPS:
        raise ModelError(
            f"VideoGraph takes T of {MIN_TIMESTEPS} and more, because it pools three steps twice, got T = {timesteps}; "
            "change the timesteps"
        )
