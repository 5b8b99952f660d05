"""Latent super-events: A. Piergiovanni, M. Ryoo, "Learning Latent Super-Events to Detect Multiple Activities in
Videos", CVPR 2018.

Written from that paper. It labels single frames; here the frame's own part of the logits is averaged over time (our
choice).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nni_nastc.baselines.embedding import SuperframeEmbedding

NUM_FILTERS = 5
"""M temporal structure filters (our choice; the authors' code has 2)."""

NUM_CURVES = 3
"""N Cauchy distributions in each, as in the authors' code."""

WIDTH = 512
DROPOUT = 0.5


class StructureFilters(nn.Module):
    """Filters over a whole video, each of several Cauchy distributions with learned centres and widths.

    A centre x becomes (T - 1)(tanh(x) + 1) / 2, so that filters stretch with the video; a width g becomes
    exp(1 - 2 |tanh(g)|) steps (in the authors' code exp(1.5 - 2 |tanh(g)|)). Each distribution sums to 1 over T.

    Parameters
    ----------
    num_filters, num_curves : int
        M and N.
    """

    def __init__(self, num_filters: int, num_curves: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(num_filters, num_curves))
        self.widths = nn.Parameter(torch.randn(num_filters, num_curves))

    def forward(self, timesteps: int) -> Tensor:
        """Return the filters (M, N, T)."""
        steps = torch.arange(timesteps, device=self.centres.device)
        centres = (timesteps - 1) * (self.centres.tanh() + 1) / 2
        widths = torch.exp(1 - 2 * self.widths.tanh().abs())
        curves = 1 / (1 + ((steps - centres[..., None]) / widths[..., None]) ** 2)
        return curves / curves.sum(2, keepdim=True)


class SuperEvents(nn.Module):
    """A vector for each superframe - filters - each class' soft choice of filters - linear.

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
        self.dropout = nn.Dropout(DROPOUT)
        self.filters = StructureFilters(NUM_FILTERS, NUM_CURVES)
        self.choice = nn.Parameter(torch.randn(num_classes, NUM_FILTERS))
        self.weight = nn.Parameter(torch.randn(num_classes, NUM_CURVES * WIDTH) * (NUM_CURVES * WIDTH) ** -0.5)
        self.own = nn.Linear(WIDTH, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, T, H, W) to logits (B, K)."""
        vectors = self.dropout(self.embed(features))
        events = torch.einsum("mnt,btd->bmnd", self.filters(vectors.shape[1]), vectors).flatten(2)  # (B, M, N D)
        # The class' weights times each filter's event, then the mean by its choice: no (B, K, N D) is made.
        scores = (events @ self.weight.T).transpose(1, 2)  # (B, K, M)
        return self.own(vectors.mean(1)) + (scores * self.choice.softmax(1)).sum(2)
