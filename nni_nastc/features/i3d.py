"""I3D on RGB frames: Inception-v1 inflated to three dimensions.

Source: Carreira & Zisserman, "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", CVPR 2017, Fig. 3;
the widths of the branches are those of Inception-v1 (Szegedy et al., CVPR 2015, Table 1). Padding follows TensorFlow's
SAME rule, with which the released weights were trained: it depends on the input's size and may be one longer at the
far end.

The network computes in the channels-last memory format, which takes about half the time on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nni_nastc.errors import ModelError
from nni_nastc.features.backbone import Backbone
from nni_nastc.features.backbone_names import BACKBONE_ENDPOINTS, I3D_NAME

MIN_LOGITS_FRAMES = 9
MIN_LOGITS_PIXELS = 193


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return TensorFlow's SAME padding of one dimension.

    Parameters
    ----------
    size : int
        Length of the input.
    kernel, stride : int
        Of the convolution or pool.

    Returns
    -------
    tuple of int
        Cells before and after. The output has ceil(size / stride) cells, and after - before is 0 or 1.
    """
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class ConvUnit(nn.Module):
    """Convolution with SAME padding and no bias, batch norm, ReLU: (B, C, t, h, w) -> (B, C', t', h', w').

    Parameters
    ----------
    in_channels, out_channels : int
        C and C'.
    kernel, stride : int
        The same in all three dimensions.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, bias=False)
        self.bn: nn.Module = nn.BatchNorm3d(out_channels, eps=1e-3)  # the released weights' epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations; each dimension shrinks to ceil(size / stride)."""
        return F.relu(self.bn(self.convolve(x)), inplace=True)

    def convolve(self, x: Tensor) -> Tensor:
        """Return what comes before the batch norm, or before the ReLU once that is folded."""
        kernel, stride = self.conv.kernel_size, self.conv.stride
        padding = [same_padding(*dimension) for dimension in zip(x.shape[2:], kernel, stride, strict=True)]
        # The convolution pads both ends by itself; only a longer far end costs a copy.
        if any(after > before for before, after in padding):
            x = F.pad(x, [cells for before, after in reversed(padding) for cells in (0, after - before)])
        return _convolve(x, self.conv.weight, self.conv.bias, stride, [before for before, _ in padding])

    def fold(self) -> None:
        """Fold the batch norm, with its running statistics, into the convolution."""
        assert isinstance(self.bn, nn.BatchNorm3d), "folded already"
        self.conv = fuse_conv_bn_eval(self.conv.eval(), self.bn.eval())
        self.conv.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.bn = nn.Identity()


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], padding: list[int]
) -> Tensor:
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        # PyTorch's own choice for a single clip or a single thread is another kernel, up to three times slower, which
        # also loses the channels-last format.
        return torch.mkldnn_convolution(x, weight, bias, padding, stride, (1, 1, 1), 1)
    return F.conv3d(x, weight, bias, stride, padding)


class SameMaxPool(nn.Module):
    """Max pool with SAME padding, whose padded cells never win.

    Parameters
    ----------
    kernel, stride : tuple of int
        Of (t, h, w).
    """

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return the maxima; each dimension shrinks to ceil(size / stride)."""
        before = [same_padding(*dimension)[0] for dimension in zip(x.shape[2:], self.kernel, self.stride, strict=True)]
        # PyTorch pads with -inf; in ceil mode the last window may hang over the far end, which is SAME's longer end.
        return F.max_pool3d(x, self.kernel, self.stride, before, ceil_mode=True)


class Inception(nn.Module):
    """Four branches side by side, concatenated over the channels: (B, C, t, h, w) -> (B, C', t, h, w).

    Parameters
    ----------
    in_channels : int
        C.
    widths : tuple of six int
        Channels of: the 1x1x1 branch; reduction and 3x3x3 convolution of the second; of the third; the pool branch.
    """

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        point, reduce_1, conv_1, reduce_2, conv_2, pool = widths
        self.branch_0 = ConvUnit(in_channels, point, 1)
        self.branch_1 = nn.Sequential(ConvUnit(in_channels, reduce_1, 1), ConvUnit(reduce_1, conv_1, 3))
        self.branch_2 = nn.Sequential(ConvUnit(in_channels, reduce_2, 1), ConvUnit(reduce_2, conv_2, 3))
        self.branch_3 = nn.Sequential(SameMaxPool((3, 3, 3), (1, 1, 1)), ConvUnit(in_channels, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the four branches' channels in their order."""
        return torch.cat([self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(x)], dim=1)


_STAGES: dict[str, Callable[[], nn.Module]] = {
    # Name and layer of each stage                                           channels; t and h = w after it of a clip
    #                                                                        of 64 (8) frames of 224 x 224
    "Conv3d_1a_7x7": partial(ConvUnit, 3, 64, kernel=7, stride=2),  # .........  64; 32 (4) x 112
    "MaxPool3d_2a_3x3": partial(SameMaxPool, (1, 3, 3), (1, 2, 2)),  # ........  64; 32 (4) x 56
    "Conv3d_2b_1x1": partial(ConvUnit, 64, 64, kernel=1),  # ..................  64; 32 (4) x 56
    "Conv3d_2c_3x3": partial(ConvUnit, 64, 192, kernel=3),  # ................. 192; 32 (4) x 56
    "MaxPool3d_3a_3x3": partial(SameMaxPool, (1, 3, 3), (1, 2, 2)),  # ........ 192; 32 (4) x 28
    "Mixed_3b": partial(Inception, 192, (64, 96, 128, 16, 32, 32)),  # ........ 256; 32 (4) x 28
    "Mixed_3c": partial(Inception, 256, (128, 128, 192, 32, 96, 64)),  # ...... 480; 32 (4) x 28
    "MaxPool3d_4a_3x3": partial(SameMaxPool, (3, 3, 3), (2, 2, 2)),  # ........ 480; 16 (2) x 14
    "Mixed_4b": partial(Inception, 480, (192, 96, 208, 16, 48, 64)),  # ....... 512; 16 (2) x 14
    "Mixed_4c": partial(Inception, 512, (160, 112, 224, 24, 64, 64)),  # ...... 512; 16 (2) x 14
    "Mixed_4d": partial(Inception, 512, (128, 128, 256, 24, 64, 64)),  # ...... 512; 16 (2) x 14
    "Mixed_4e": partial(Inception, 512, (112, 144, 288, 32, 64, 64)),  # ...... 528; 16 (2) x 14
    "Mixed_4f": partial(Inception, 528, (256, 160, 320, 32, 128, 128)),  # .... 832; 16 (2) x 14
    "MaxPool3d_5a_2x2": partial(SameMaxPool, (2, 2, 2), (2, 2, 2)),  # ........ 832; 8 (1) x 7
    "Mixed_5b": partial(Inception, 832, (256, 160, 320, 32, 128, 128)),  # .... 832; 8 (1) x 7
    "Mixed_5c": partial(Inception, 832, (384, 192, 384, 48, 128, 128)),  # ... 1024; 8 (1) x 7
}

ENDPOINTS: tuple[str, ...] = tuple(_STAGES)
"""Names of the maps that :meth:`I3D.features` gives out, from the input to the last convolution."""


class I3D(Backbone):
    """I3D for RGB clips. Use :func:`nni_nastc.load_i3d` for one with weights, in evaluation mode.

    Parameters
    ----------
    num_classes : int
        K, the number of classes that its own classifier tells apart.

    """

    name, title = I3D_NAME, "I3D"
    endpoint = BACKBONE_ENDPOINTS[I3D_NAME][0]

    def __init__(self, num_classes: int = 400) -> None:
        super().__init__()
        for name, stage in _STAGES.items():
            self.add_module(name, stage())
        self.head = nn.Conv3d(1024, num_classes, 1)

    def folded(self) -> I3D:
        """Return a copy in evaluation mode whose batch norms are folded into the convolutions."""
        copy = deepcopy(self).eval()
        for unit in [module for module in copy.modules() if isinstance(module, ConvUnit)]:
            unit.fold()
        return copy

    def features(self, clip: Tensor, endpoint: str = "Mixed_5c") -> Tensor:
        """Return the map after a named stage.

        Parameters
        ----------
        clip : Tensor
            (B, 3, frames, H, W) in [-1, 1], of any number of frames and any size.
        endpoint : str
            One of :data:`ENDPOINTS`.

        Returns
        -------
        Tensor
            (B, C, t, h, w). For ``Mixed_5c`` C = 1024, t = ceil(frames / 8), h = ceil(H / 32), w = ceil(W / 32).

        Raises
        ------
        ModelError
            If the endpoint is unknown or the clip has another shape or type.
        """
        if endpoint not in ENDPOINTS:
            raise ModelError(f"unknown endpoint {endpoint!r}: choose one of {', '.join(ENDPOINTS)}")
        _check_clip(clip)
        x = clip.contiguous(memory_format=torch.channels_last_3d)
        for name in ENDPOINTS[: ENDPOINTS.index(endpoint) + 1]:
            x = self.get_submodule(name)(x)
        return x.contiguous()

    def logits(self, clip: Tensor) -> Tensor:
        """Return the classifier's scores before the softmax.

        Parameters
        ----------
        clip : Tensor
            (B, 3, frames, H, W) in [-1, 1]; at least 9 frames of 193 x 193 pixels, so that the map holds 2 x 7 x 7.

        Returns
        -------
        Tensor
            (B, K). Averages over 2 x 7 x 7 with stride 1, then the mean over what is left.

        Raises
        ------
        ModelError
            If the clip is too short or too small, or has another shape or type.
        """
        _check_clip(clip)
        frames, height, width = clip.shape[2:]
        if frames < MIN_LOGITS_FRAMES or min(height, width) < MIN_LOGITS_PIXELS:
            raise ModelError(
                f"logits need at least {MIN_LOGITS_FRAMES} frames of {MIN_LOGITS_PIXELS} x {MIN_LOGITS_PIXELS} pixels: "
                f"given {frames} frames of {height} x {width} (height x width); give a longer or larger clip"
            )
        x = F.avg_pool3d(self.features(clip), (2, 7, 7), stride=1)
        # The mean comes before the 1x1x1 convolution, which is linear: the result is the same for less work.
        return self.head(x.mean((2, 3, 4), keepdim=True)).flatten(1)

    def forward(self, clip: Tensor) -> Tensor:
        """Return :meth:`logits`."""
        return self.logits(clip)


def _check_clip(clip: Tensor) -> None:
    if clip.ndim != 5 or clip.shape[1] != 3 or 0 in clip.shape or not clip.is_floating_point():
        raise ModelError(
            "a clip must be a floating-point tensor (B, 3, frames, H, W) in [-1, 1], none of them 0: "
            f"given {tuple(clip.shape)} of {clip.dtype}; permute and scale the frames (uint8 / 127.5 - 1)"
        )
