"""Which backbones there are, by name, which of their maps can be stored, and in which precisions they compute."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

I3D_NAME = "i3d"
RESNET_NAME = "resnet152"

BACKBONE_ENDPOINTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {I3D_NAME: ("Mixed_5c",), RESNET_NAME: ("layer4_middle", "layer4_mean")}
)
"""Backbone -> maps, the usual one first. ResNet's is that of a superframe's middle frame, or the mean of all."""

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""The usual one first."""
