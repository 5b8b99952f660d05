"""I3D-NL on features: X. Wang, R. Girshick, A. Gupta, K. He, "Non-local Neural Networks", CVPR 2018.

Written from Sec. 3 of that paper. There the blocks stand inside the backbone; here they follow it, since the features
are given. With a mean over time after them they are blind to order.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nni_nastc.baselines.embedding import ChannelReduction
from nni_nastc.nn.head import Head

WIDTH = 512
NUM_BLOCKS = 2
"""Our choice, for about 2 million parameters; the paper has 1, 5 or 10 of them between the backbone's own layers."""


class NonLocalBlock(nn.Module):
    """What all places and times say to each one, weighted by likeness, added to what is there (Eq. 1 and 6).

    The embedded Gaussian of Sec. 3.2, with half the channels inside, keys and values max-pooled 1x2x2 (Sec. 3.3).
    The scale of the batch norm after the last convolution starts at zero, so that the block starts as the identity.

    Parameters
    ----------
    width : int
        D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(1, width // 2)
        self.theta = nn.Conv3d(width, inner, 1)
        self.phi = nn.Conv3d(width, inner, 1)
        self.g = nn.Conv3d(width, inner, 1)
        self.out = nn.Conv1d(inner, width, 1)
        self.norm = nn.BatchNorm1d(width)
        nn.init.zeros_(self.norm.weight)

    def response(self, x: Tensor) -> Tensor:
        """Map (B, D, T, H, W) to y (B, T H W, D / 2), the softmax-weighted sum of g(x_j) for each x_i."""
        window = (1, min(2, x.shape[3]), min(2, x.shape[4]))
        fewer = F.max_pool3d(x, window)
        query, key, value = (
            y.flatten(2).transpose(1, 2)[:, None] for y in (self.theta(x), self.phi(fewer), self.g(fewer))
        )
        return F.scaled_dot_product_attention(query, key, value, scale=1.0)[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, T, H, W) to (B, D, T, H, W)."""
        return x + self.norm(self.out(self.response(x).transpose(1, 2))).unflatten(2, x.shape[2:])


class NonLocalNetwork(nn.Module):
    """Fewer channels - two non-local blocks - mean over time and space - the head that all networks share.

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
        self.blocks = nn.Sequential(*(NonLocalBlock(WIDTH) for _ in range(NUM_BLOCKS)))
        self.head = Head(WIDTH, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, T, H, W) to logits (B, K)."""
        return self.head(self.blocks(self.reduce(features)).mean((2, 3, 4)))
