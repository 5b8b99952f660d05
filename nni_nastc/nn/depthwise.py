"""Depthwise convolution over T of (B, C, T, S) tensors, with zero padding that keeps T.

PyTorch's kernels of dilated depthwise convolutions are slow: on a CPU the gradient of the kernel takes ten times as
long as without dilation. With dilation d, steps that are d apart are neighbours of (B, C, T / d, d S), the same memory
seen otherwise, and the convolution is a plain one (our choice).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TemporalDepthwise(nn.Conv2d):
    """Convolve each channel by itself over T: (B, C, T, S) to the same shape.

    Parameters
    ----------
    channels : int
        C.
    kernel_size : int
        Odd.
    dilation : int
        Steps between the taps.
    bias : bool
        Whether to add a bias.
    """

    def __init__(self, channels: int, kernel_size: int, dilation: int = 1, *, bias: bool = False) -> None:
        super().__init__(
            channels,
            channels,
            (kernel_size, 1),
            padding=(dilation * (kernel_size - 1) // 2, 0),
            dilation=(dilation, 1),
            groups=channels,
            bias=bias,
        )

    def forward(self, input: Tensor) -> Tensor:
        """Convolve."""
        return convolve(input, self.weight, self.bias, dilation=int(self.dilation[0]))


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None = None, *, dilation: int = 1) -> Tensor:
    """Convolve (B, C, T, S) over T with a kernel (C, 1, k, 1), k odd."""
    steps, places = x.shape[2:]
    y = F.conv2d(_side_by_side(x, dilation), kernel, bias, padding=_padding(kernel), groups=len(kernel))
    return y.unflatten(3, (dilation, places)).flatten(2, 3)[:, :, :steps]


def input_gradient(gradient: Tensor, kernel: Tensor, *, dilation: int = 1) -> Tensor:
    """Return the gradient (B, C, T, S) by the input of :func:`convolve`, of that by its output."""
    return convolve(gradient, kernel.flip(2), dilation=dilation)  # the kernel is as long to both sides


def kernel_gradient(gradient: Tensor, x: Tensor, kernel: Tensor, *, dilation: int = 1) -> Tensor:
    """Return the gradient (C, 1, k, 1) by the kernel of :func:`convolve`, of that by its output."""
    _, found, _ = torch.ops.aten.convolution_backward(
        _side_by_side(gradient, dilation),
        _side_by_side(x, dilation),
        kernel,
        None,
        [1, 1],
        _padding(kernel),
        [1, 1],
        False,
        [0, 0],
        len(kernel),
        [False, True, False],
    )
    return found


def _side_by_side(x: Tensor, dilation: int) -> Tensor:
    """(B, C, T, S) to (B, C, ceil(T / d), d S): what is ``dilation`` steps apart becomes neighbours over T."""
    if missing := -x.shape[2] % dilation:
        x = F.pad(x, (0, 0, 0, missing))
    return x.unflatten(2, (-1, dilation)).flatten(3)


def _padding(kernel: Tensor) -> list[int]:
    return [(kernel.shape[2] - 1) // 2, 0]
