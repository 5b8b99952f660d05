"""Mean or max pooling over time, blind to order: the floor to beat ("I3D" in the paper's tables)."""

from __future__ import annotations

from torch import Tensor, nn

from nni_nastc.errors import ModelError
from nni_nastc.nn.head import Head


class PoolingNetwork(nn.Module):
    """Pool the features over time and space, then classify with the head that all networks share.

    Parameters
    ----------
    num_classes : int
        K.
    in_channels : int
        C.
    reduction : "mean" or "max"
        How T, H and W are pooled.

    Raises
    ------
    ModelError
        If the reduction is unknown.
    """

    def __init__(self, num_classes: int, in_channels: int = 1024, *, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "max"):
            raise ModelError(f'the reduction is "mean" or "max", got {reduction!r}')
        self.reduction = reduction
        self.head = Head(in_channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, T, H, W) to logits (B, K)."""
        dims = (2, 3, 4)
        return self.head(features.mean(dims) if self.reduction == "mean" else features.amax(dims))
