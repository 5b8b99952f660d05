"""ActionVLAD: R. Girdhar et al., "ActionVLAD: Learning Spatio-Temporal Aggregation for Action Classification", CVPR
2017.

Written from Sec. 3.1 of that paper. Blind to order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nni_nastc.nn.head import Head

NUM_CENTRES = 64
"""As in the paper."""

WIDTH = 64
"""Channels of a descriptor (our choice, for a head of about 2 million parameters; the paper has 512)."""

SHARPNESS = 10.0
"""alpha: the larger, the harder a descriptor is assigned to its nearest centre (our choice, for centres that are
learned from random ones; the paper has 1000, for centres that are first found by clustering)."""


class VLAD(nn.Module):
    """Sums of residuals of all descriptors to learned centres, over time and space (Sec. 3.1).

    Each centre's sum is normalised, then all of them together.

    Parameters
    ----------
    width : int
        D.
    num_centres : int
        A.
    """

    def __init__(self, width: int, num_centres: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(F.normalize(torch.randn(num_centres, width), dim=1))

    def residuals(self, descriptors: Tensor) -> Tensor:
        """Map descriptors (B, P, D) to the sums (B, A, D) of softly assigned residuals."""
        # |x - c|^2 without |x|^2, which is the same for all centres.
        distances = self.centres.square().sum(1) - 2 * descriptors @ self.centres.T
        shares = (-SHARPNESS * distances).softmax(2)  # (B, P, A)
        return shares.transpose(1, 2) @ descriptors - shares.sum(1)[..., None] * self.centres

    def forward(self, descriptors: Tensor) -> Tensor:
        """Map descriptors (B, P, D) to (B, A D) of length 1."""
        return F.normalize(F.normalize(self.residuals(descriptors), dim=2).flatten(1), dim=1)


class ActionVLAD(nn.Module):
    """Descriptors of length 1 at each place and time - VLAD - the head that all networks share.

    Parameters
    ----------
    num_classes : int
        K.
    in_channels : int
        C; a linear map brings it down to ``WIDTH``.
    """

    def __init__(self, num_classes: int, in_channels: int = 1024) -> None:
        super().__init__()
        self.reduce = nn.Conv1d(in_channels, WIDTH, 1)
        self.vlad = VLAD(WIDTH, NUM_CENTRES)
        self.head = Head(WIDTH * NUM_CENTRES, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, T, H, W) to logits (B, K)."""
        descriptors = F.normalize(self.reduce(features.flatten(2)), dim=1)
        return self.head(self.vlad(descriptors.transpose(1, 2)))
