"""What the heads do first: fewer channels, so that they need little memory and are of like size (our choice)."""

from __future__ import annotations

from torch import Tensor, nn


class SuperframeEmbedding(nn.Module):
    """Mean over space - linear - batch norm - ReLU: a vector for each superframe.

    The heads that read a sequence of vectors take them from a backbone's last layers in their papers; how they are made
    here is our choice. Batch norm takes out what all superframes of a backbone have in common, which is most of a
    vector: with layer norm in its place LSTM and transformer did not learn real videos' features.

    Parameters
    ----------
    in_channels : int
        C.
    width : int
        D.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Conv1d(in_channels, width, 1), nn.BatchNorm1d(width), nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, T, H, W) to (B, T, D)."""
        return self.project(features.mean((3, 4))).transpose(1, 2)


class ChannelReduction(nn.Sequential):
    """1x1x1 convolution - batch norm - ReLU at each place and time.

    Parameters
    ----------
    in_channels : int
        C.
    width : int
        D.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__(nn.Conv1d(in_channels, width, 1, bias=False), nn.BatchNorm1d(width), nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, T, H, W) to (B, D, T, H, W)."""
        return super().forward(features.flatten(2)).unflatten(2, features.shape[2:])
