"""A transformer encoder over time: A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017.

It is not in the paper's tables. Layer norm stands before attention and before the two-layer network (Xiong et al., ICML
2020), which trains without warm-up. Sizes are our choice: with three layers about as many parameters as Timeception
with three.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nni_nastc.baselines.embedding import SuperframeEmbedding
from nni_nastc.errors import ModelError
from nni_nastc.nn.head import Head

WIDTH = 256
NUM_HEADS = 4
EXPANSION = 2
"""Width of the two-layer network, for each of ``WIDTH``."""

DROPOUT = 0.1


def positions(timesteps: int, width: int) -> Tensor:
    """Return the sines and cosines (T, D) that tell a step's place (Sec. 3.5), sines in the even columns; D is even."""
    steps = torch.arange(timesteps)[:, None]
    angles = steps * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)


class SelfAttention(nn.Module):
    """Every step's weighted sum of all steps, in several heads (Sec. 3.2).

    Parameters
    ----------
    width : int
        D, a multiple of ``num_heads``.
    num_heads : int
        Heads.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        query, key, value = self.inputs(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.output(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Attention and a two-layer network at each step, each after a layer norm and added to what is there.

    Parameters
    ----------
    width, num_heads : int
        As of :class:`SelfAttention`.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attend = nn.Sequential(nn.LayerNorm(width), SelfAttention(width, num_heads), nn.Dropout(DROPOUT))
        self.think = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, EXPANSION * width),
            nn.GELU(),
            nn.Linear(EXPANSION * width, width),
            nn.Dropout(DROPOUT),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        x = x + self.attend(x)
        return x + self.think(x)


class TemporalTransformer(nn.Module):
    """A vector for each superframe, and its place - encoder layers - mean over time - the head that all networks share.

    Parameters
    ----------
    num_classes : int
        K.
    in_channels : int
        C.
    num_layers : int
        Encoder layers.

    Raises
    ------
    ModelError
        If the number of layers is negative.
    """

    def __init__(self, num_classes: int, in_channels: int = 1024, *, num_layers: int = 3) -> None:
        super().__init__()
        if num_layers < 0:
            raise ModelError(f"a transformer needs num_layers >= 0, got {num_layers}")
        self.embed = SuperframeEmbedding(in_channels, WIDTH)
        self.layers = nn.Sequential(*(EncoderLayer(WIDTH, NUM_HEADS) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = Head(WIDTH, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, T, H, W) to logits (B, K)."""
        vectors = self.embed(features)
        vectors = vectors + positions(vectors.shape[1], WIDTH).to(vectors)
        return self.head(self.norm(self.layers(vectors)).mean(1))
