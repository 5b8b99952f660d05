"""Temporal Gaussian mixtures: A. Piergiovanni, M. Ryoo, "Temporal Gaussian Mixture Layer for Videos", ICML 2019.

Written from that paper. It labels single frames; here the maximum over time is classified (our choice).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nni_nastc.baselines.embedding import SuperframeEmbedding
from nni_nastc.nn.head import Head

NUM_GAUSSIANS = 16
"""M, as in the authors' code."""

KERNEL_SIZE = 15
"""L, in superframes (our choice, odd so that T is kept; three layers see 43 superframes; the authors' code has 5)."""

NUM_LAYERS = 3
"""As in the authors' code."""

NUM_CHANNELS = 8
"""Temporal channels after each layer, as in the authors' code."""

WIDTH = 512


class TGMLayer(nn.Module):
    """Convolve over T with kernels that are mixtures of a few Gaussians.

    A centre m becomes (L - 1)(tanh(m) + 1) / 2, a variance s becomes exp(s); each Gaussian sums to 1 over L. The kernel
    from channel j to channel i mixes them by a softmax, and a learned weight combines the channels j.

    Parameters
    ----------
    in_channels, out_channels : int
        Temporal channels; every one of them holds all D features.
    num_gaussians : int
        M.
    kernel_size : int
        L, odd.
    """

    def __init__(self, in_channels: int, out_channels: int, num_gaussians: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.centres = nn.Parameter(torch.randn(num_gaussians))
        self.variances = nn.Parameter(torch.zeros(num_gaussians))
        self.mixture = nn.Parameter(torch.randn(out_channels, in_channels, num_gaussians))
        self.combination = nn.Parameter(torch.full((out_channels, in_channels), 1 / in_channels))

    def gaussians(self) -> Tensor:
        """Return the Gaussians (M, L)."""
        steps = torch.arange(self.kernel_size, device=self.centres.device)
        centres = (self.kernel_size - 1) * (self.centres.tanh() + 1) / 2
        curves = torch.exp(-((steps - centres[:, None]) ** 2) / (2 * self.variances.exp()[:, None]))
        return curves / curves.sum(1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, D, T) to (B, out, D, T)."""
        kernels = self.mixture.softmax(2) @ self.gaussians()  # (out, in, L)
        weight = (self.combination[..., None] * kernels)[:, :, None]
        return F.conv2d(x, weight, padding=(0, self.kernel_size // 2)).relu()


class TGMNetwork(nn.Module):
    """A vector for each superframe - three layers - beside the vector itself - linear, maximum over T, the shared head.

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
        sizes = [1, *[NUM_CHANNELS] * NUM_LAYERS]
        self.layers = nn.Sequential(
            *(TGMLayer(a, b, NUM_GAUSSIANS, KERNEL_SIZE) for a, b in zip(sizes, sizes[1:], strict=False))
        )
        self.join = nn.Linear(2 * WIDTH, WIDTH)
        self.head = Head(WIDTH, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, T, H, W) to logits (B, K)."""
        vectors = self.embed(features)
        context = self.layers(vectors.transpose(1, 2)[:, None]).amax(1).transpose(1, 2)
        joined = self.join(torch.cat([vectors, context], 2)).relu()
        return self.head(joined.amax(1))
