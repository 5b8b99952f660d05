"""The NAS-TC network (Fig. 4a): channel groups, cells, shuffle, max-pool, head.

The skeleton takes the cells from a factory, so that the fixed network and the search space are the same but for them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nni_nastc.errors import ModelError
from nni_nastc.genotype import NUM_NODES, Genotype
from nni_nastc.nn.cell import CellInputs, NasTempCell
from nni_nastc.nn.head import Head

COMPRESSION = 3
"""M: the cell works on a third of the channels of ``I_{k-1}`` (Sec. III-B and III-C)."""

CHANNELS_PER_GROUP = 128
"""C / N as in Timeception's code: 1024 channels in 8 groups (the paper does not print its N)."""

CellFactory = Callable[[CellInputs, int], nn.Module]


def default_num_groups(in_channels: int) -> int:
    """Return the divisor of C that is nearest to C / 128, the smaller one on a tie (our choice)."""
    divisors = [n for n in range(1, in_channels + 1) if in_channels % n == 0]
    return min(divisors, key=lambda n: (abs(n - in_channels / CHANNELS_PER_GROUP), n))


def cell_width(group_channels: int) -> int:
    """Return the channels inside a cell, a third of the group's channels, at least one."""
    return max(1, round(group_channels / COMPRESSION))


class NasTCLayer(nn.Module):
    """One NAS-TC layer: the cell on each channel group, channel shuffle, max-pool 2x1x1 over T (Sec. III-B).

    The groups share the cell's weights, so they are folded into the batch. (With a cell for each group the network
    would have far more parameters than the paper's Table III and Fig. 6 report.)
    """

    def __init__(self, cell: nn.Module, num_groups: int) -> None:
        super().__init__()
        self.cell = cell
        self.num_groups = num_groups
        self.pool = nn.MaxPool2d((2, 1))

    def forward(self, before_last: Tensor, last: Tensor) -> Tensor:
        """Map folded (B N, C0 / N, T or 2T, S) and (B N, C1 / N, T, S) to (B N, 4 width, T / 2, S)."""
        y = self.pool(self.cell([before_last, last]))  # ahead of the shuffle: the order makes no difference
        y = y.unflatten(0, (-1, self.num_groups)).transpose(1, 2).flatten(1, 2)  # shuffle (Zhang et al., ShuffleNet)
        return fold_groups(y, self.num_groups)


def fold_groups(x: Tensor, num_groups: int) -> Tensor:
    """Fold channel groups into the batch: (B, C, T, S) to (B N, C / N, T, S).

    Channels last in memory: depthwise and pointwise convolutions and pools are many times as fast so.
    """
    return x.reshape(-1, x.shape[1] // num_groups, *x.shape[2:]).contiguous(memory_format=torch.channels_last)


class NasTCSkeleton(nn.Module):
    """Layers and head of a NAS-TC network. A subclass calls :meth:`assemble` once, in its constructor."""

    num_groups: int
    layers: nn.ModuleList
    head: Head

    def assemble(
        self,
        make_cell: CellFactory,
        *,
        num_classes: int,
        num_layers: int,
        in_channels: int,
        num_groups: int | None,
        affine: bool,
    ) -> None:
        """Add the layers and the head.

        Parameters
        ----------
        make_cell : callable
            ``(inputs, width) -> cell``, called once a layer.
        num_classes, num_layers, in_channels : int
            K, L and C.
        num_groups : int or None
            N; None for the divisor of C that is nearest to C / 128.
        affine : bool
            Whether the batch norms of the cells have scale and shift.

        Raises
        ------
        ModelError
            If the sizes are impossible.
        """
        groups = default_num_groups(in_channels) if num_groups is None else num_groups
        if min(num_classes, in_channels, groups) < 1 or num_layers < 0 or in_channels % groups:
            raise ModelError(
                "a NAS-TC network needs num_classes >= 1, num_layers >= 0 and num_groups that divides in_channels, got "
                f"num_classes={num_classes}, num_layers={num_layers}, in_channels={in_channels}, num_groups={groups}"
            )
        self.num_groups = groups
        layers = []
        before_last = last = in_channels // groups
        for layer in range(num_layers):
            width = cell_width(last)
            # The first cell gets the features twice, so that only the later ones have something to halve.
            inputs = CellInputs((before_last, last), width, halve=layer > 0, affine=affine)
            layers.append(NasTCLayer(make_cell(inputs, width), groups))
            before_last, last = last, NUM_NODES * width
        self.layers = nn.ModuleList(layers)
        self.head = Head(last * groups, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Classify videos.

        Parameters
        ----------
        features : Tensor of shape (B, C, T, H, W)
            I3D features; T must be divisible by 2^L.

        Returns
        -------
        Tensor of shape (B, K)
            Logits.

        Raises
        ------
        ModelError
            If T is not divisible by 2^L.
        """
        check_timesteps(features.shape[2], len(self.layers))
        before_last = last = fold_groups(features.flatten(3), self.num_groups)
        for layer in self.layers:
            before_last, last = last, layer(before_last, last)
        return self.head(last.amax(dim=(2, 3)).unflatten(0, (-1, self.num_groups)).flatten(1))


def check_timesteps(timesteps: int, num_layers: int) -> None:
    """Raise a :class:`ModelError` unless T is divisible by 2^L: every layer halves T."""
    if timesteps < 1 or timesteps % 2**num_layers:
        raise ModelError(
            f"T must be divisible by 2^L because every layer halves it, got T = {timesteps} with L = {num_layers} "
            f"(2^L = {2**num_layers}); change the timesteps or the number of layers"
        )


class NasTCNetwork(NasTCSkeleton):
    """The fixed NAS-TC network: (B, C, T, H, W) -> logits (B, K). Built by :func:`build_network`.

    With 1024 channels, 157 classes and a cell of six ``dil_conv_5`` and two ``identity`` it has 1.456, 1.984 and 3.857
    million parameters at L = 3, 4 and 6, the sizes that the paper reports (Table III; at L = 6 by 36 % less than
    Timeception, Sec. I), and besides them 0.2 % in the scale and shift of the cells' batch norms. Six other pointwise
    convolutions differ from that by up to 0.2 %, in the length of the depthwise kernels.
    """

    def __init__(
        self, genotype: Genotype, *, num_classes: int, num_layers: int, in_channels: int, num_groups: int | None
    ) -> None:
        super().__init__()
        self.assemble(
            lambda inputs, width: NasTempCell(genotype, inputs, width),
            num_classes=num_classes,
            num_layers=num_layers,
            in_channels=in_channels,
            num_groups=num_groups,
            affine=True,
        )


def build_network(
    genotype: Genotype, num_classes: int, num_layers: int = 3, in_channels: int = 1024, num_groups: int | None = None
) -> NasTCNetwork:
    """Build the plain PyTorch network of a genotype.

    Parameters
    ----------
    genotype : Genotype
        The cell.
    num_classes : int
        K.
    num_layers : int
        L. Every layer halves T and multiplies the channels by about 4 / 3.
    in_channels : int
        C of the features.
    num_groups : int or None
        N, a divisor of C; None for the one nearest to C / 128, the smaller on a tie.

    Returns
    -------
    NasTCNetwork
        (B, C, T, H, W) -> logits (B, K), for every T divisible by 2^L.

    Raises
    ------
    ModelError
        If the sizes are impossible.
    """
    return NasTCNetwork(
        genotype, num_classes=num_classes, num_layers=num_layers, in_channels=in_channels, num_groups=num_groups
    )
