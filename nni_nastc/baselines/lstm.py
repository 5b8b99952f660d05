"""An LSTM that looks at a window: S. Yeung et al., "Every Moment Counts: Dense Detailed Labeling of Actions in Complex
Videos", IJCV 2018 (MultiLSTM).

Written from that paper, its attention over several inputs. Its several outputs are labels of single frames, of which
there are none here: the mean over time of what the LSTM knows is classified (our choice).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nni_nastc.baselines.embedding import SuperframeEmbedding
from nni_nastc.nn.head import Head

WINDOW = 15
"""Superframes that are attended to, the newest included, as in the paper (there frames)."""

WIDTH = 256
HIDDEN = 512
ATTENTION = 128
"""Sizes of a superframe's vector, of the LSTM, and of the comparison of the two (our choice)."""


class WindowAttention(nn.Module):
    """Weigh the vectors of a window by what the LSTM knew before.

    The weight of v_i is the softmax over the window of w . (tanh(W_h h) * tanh(W_v v_i)).

    Parameters
    ----------
    width, hidden, inner : int
        D of the vectors, size of h, size of the products.
    """

    def __init__(self, width: int, hidden: int, inner: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, inner)
        self.query = nn.Linear(hidden, inner)
        self.weight = nn.Parameter(torch.randn(inner) * inner**-0.5)

    def keys(self, vectors: Tensor) -> Tensor:
        """Map (B, T, D) to what is compared (B, T, inner); once for all windows."""
        return torch.tanh(self.key(vectors))

    def forward(self, vectors: Tensor, keys: Tensor, hidden: Tensor) -> Tensor:
        """Map a window (B, W, D) with its keys (B, W, inner) and h (B, hidden) to its weighted sum (B, D)."""
        query = self.weight * torch.tanh(self.query(hidden))
        weights = (keys @ query[..., None]).softmax(1)  # (B, W, 1)
        return (weights * vectors).sum(1)


class AttentionLSTM(nn.Module):
    """A vector for each superframe - LSTM on attended windows - mean over time - the head that all networks share.

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
        self.attention = WindowAttention(WIDTH, HIDDEN, ATTENTION)
        self.cell = nn.LSTMCell(WIDTH, HIDDEN)
        self.head = Head(HIDDEN, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, T, H, W) to logits (B, K)."""
        vectors = self.embed(features)
        keys = self.attention.keys(vectors)
        hidden = memory = vectors.new_zeros(vectors.shape[0], HIDDEN)
        states = []
        for step in range(vectors.shape[1]):
            window = slice(max(0, step - WINDOW + 1), step + 1)
            hidden, memory = self.cell(self.attention(vectors[:, window], keys[:, window], hidden), (hidden, memory))
            states.append(hidden)
        return self.head(torch.stack(states).mean(0))
