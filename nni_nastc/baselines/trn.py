"""Multi-scale temporal relations: B. Zhou et al., "Temporal Relational Reasoning in Videos", ECCV 2018.

Written from that paper.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

from nni_nastc.baselines.embedding import SuperframeEmbedding

WIDTH = 256
"""Of a step's vector (our choice), and of the hidden layers of g (as in the paper)."""

NUM_STEPS = 8
"""The video's steps that are related, N of the multi-scale relation (the paper has 8). Each is the mean of an eighth of
the superframes (our choice; the paper draws frames)."""

DROPOUT = 0.5


class Relation(nn.Module):
    """How ``size`` steps in their order relate: h of the mean of g over all ordered subsets (Eq. 1 and 2).

    The paper draws a few subsets, to save time; on eight steps all of them cost little. Their mean in place of the sum
    keeps the scales alike (our choice).

    Parameters
    ----------
    size : int
        How many steps are related.
    width : int
        D.
    num_classes : int
        K.
    num_steps : int
        N.
    """

    subsets: Tensor

    def __init__(self, size: int, width: int, num_classes: int, num_steps: int = NUM_STEPS) -> None:
        super().__init__()
        self.size = size
        subsets = torch.tensor(list(combinations(range(num_steps), size)))
        self.register_buffer("subsets", subsets.flatten(), persistent=False)
        self.g = nn.Sequential(
            nn.Linear(size * width, WIDTH), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(WIDTH, WIDTH), nn.ReLU()
        )
        self.h = nn.Linear(WIDTH, num_classes)

    def pick(self, steps: Tensor) -> Tensor:
        """Map (B, N, D) to all subsets of ``size`` steps, each in the order of time, (B, subsets, size D)."""
        return steps.index_select(1, self.subsets).unflatten(1, (-1, self.size)).flatten(2)

    def forward(self, steps: Tensor) -> Tensor:
        """Map (B, N, D) to logits (B, K)."""
        return self.h(self.g(self.pick(steps)).mean(1))


class TemporalRelationNetwork(nn.Module):
    """A vector for each superframe - eight steps - relations of 2, 3, ... 8 of them, added up (Eq. 3).

    Parameters
    ----------
    num_classes : int
        K.
    in_channels : int
        C.
    """

    def __init__(self, num_classes: int, in_channels: int = 1024) -> None:
        super().__init__()
        self.embed = SuperframeEmbedding(in_channels, WIDTH)
        self.relations = nn.ModuleList(Relation(size, WIDTH, num_classes) for size in range(2, NUM_STEPS + 1))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, T, H, W) to logits (B, K)."""
        vectors = self.embed(features)
        steps = segment_means(int(vectors.shape[1])).to(vectors) @ vectors  # (B, N, D)
        return torch.stack([relation(steps) for relation in self.relations]).sum(0)


def segment_means(timesteps: int, num_steps: int = NUM_STEPS) -> Tensor:
    """Return the matrix (N, T) that averages T superframes in N segments of equal length, widened to whole superframes.

    A video of fewer superframes than segments repeats them.
    """
    spans = [(n * timesteps // num_steps, -(-(n + 1) * timesteps // num_steps)) for n in range(num_steps)]
    return torch.tensor([[(first <= t < end) / (end - first) for t in range(timesteps)] for first, end in spans])
