"""ResNet-152: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.

Written from Sec. 3 and Table 1 of that paper, with torchvision's names and its one departure: a block that halves the
map does so in its 3x3 convolution, not in the 1x1 before it, since that is how torchvision's weights were trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nni_nastc.errors import ModelError
from nni_nastc.features.backbone import Backbone
from nni_nastc.features.backbone_names import BACKBONE_ENDPOINTS, RESNET_NAME

BLOCKS = (3, 8, 36, 3)
"""Blocks of the four stages (Table 1)."""

WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
"""Channels of a stage's output for each inside its blocks."""

FRAME_ENDPOINTS = MIDDLE, MEAN = BACKBONE_ENDPOINTS[RESNET_NAME]
"""The last map, of a superframe's middle frame or the mean of all of its frames."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in [0, 1], as torchvision's weights expect it."""


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, each with batch norm, added to the input; ReLU (Fig. 5, right).

    Parameters
    ----------
    in_channels, width : int
        Channels of the input, and inside; the output has four times as many as inside.
    stride : int
        Of the 3x3 convolution. Where the shape changes, the input goes through a 1x1 convolution (option B).
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, 4 width, H / stride, W / stride)."""
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        return (self.bn3(self.conv3(y)) + self.downsample(x)).relu()


class ResNet152(Backbone):
    """ResNet-152. Use :func:`nni_nastc.features.resnet_weights.load_resnet152` for one with weights.

    Parameters
    ----------
    num_classes : int
        K, the number of classes that its own classifier tells apart.
    endpoint : str
        One of ``FRAME_ENDPOINTS``.
    """

    name, title = RESNET_NAME, "ResNet-152"
    mean: Tensor
    std: Tensor

    def __init__(self, num_classes: int = 1000, endpoint: str = MIDDLE) -> None:
        super().__init__()
        self.endpoint = endpoint
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        channels = 64
        for stage, (blocks, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True), start=1):
            first = Bottleneck(channels, width, stride=1 if stage == 1 else 2)
            channels = EXPANSION * width
            others = (Bottleneck(channels, width, stride=1) for _ in range(blocks - 1))
            self.add_module(f"layer{stage}", nn.Sequential(first, *others))
        self.fc = nn.Linear(channels, num_classes)
        # In the range of clips, [-1, 1].
        self.register_buffer("mean", 2 * torch.tensor(IMAGENET_MEAN).reshape(3, 1, 1) - 1, persistent=False)
        self.register_buffer("std", 2 * torch.tensor(IMAGENET_STD).reshape(3, 1, 1), persistent=False)

    def maps(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [-1, 1] to the last maps (B, 2048, H / 32, W / 32), rounded up."""
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        for stage in range(1, len(BLOCKS) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return x.contiguous()

    def features(self, clip: Tensor, endpoint: str = MIDDLE) -> Tensor:
        """Return the last map of a clip.

        Parameters
        ----------
        clip : Tensor
            (B, 3, frames, H, W) in [-1, 1].
        endpoint : str
            ``layer4_middle``: of frame frames // 2. ``layer4_mean``: the mean over all frames' maps.

        Returns
        -------
        Tensor
            (B, 2048, 1, h, w), h = ceil(H / 32), w = ceil(W / 32).

        Raises
        ------
        ModelError
            If the endpoint is unknown.
        """
        if endpoint not in FRAME_ENDPOINTS:
            raise ModelError(f"unknown endpoint {endpoint!r}: choose one of {', '.join(FRAME_ENDPOINTS)}")
        if endpoint == MIDDLE:
            return self.maps(clip[:, :, clip.shape[2] // 2])[:, :, None]
        maps = self.maps(clip.transpose(1, 2).flatten(0, 1))
        return maps.unflatten(0, (-1, clip.shape[2])).mean(1)[:, :, None]

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [-1, 1] to the logits (B, K) of its own classifier."""
        return self.fc(self.maps(images).mean((2, 3)))
