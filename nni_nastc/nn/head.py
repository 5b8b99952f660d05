"""The classifier on top of the temporal layers."""

from __future__ import annotations

from torch import Tensor, nn

HIDDEN = 512


class Head(nn.Sequential):
    """Pooled features -> dropout - linear - batch norm - LeakyReLU - dropout - linear -> logits.

    The classifier of Timeception's code (Hussein et al., CVPR 2019), here on all networks (our choice; the paper says
    MLP). With 1024 channels and 157 classes it has 0.606 M parameters (the paper: 0.61, Sec. IV-B3).
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(
            nn.Dropout(0.5),
            nn.Linear(in_channels, HIDDEN),
            nn.BatchNorm1d(HIDDEN),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.25),
            nn.Linear(HIDDEN, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C) to (B, K)."""
        return super().forward(x)
