"""Which backbones there are, by name, and which of their maps can be stored."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

I3D_NAME = "i3d"
RESNET_NAME = "resnet152"

BACKBONE_ENDPOINTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {I3D_NAME: ("Mixed_5c",), RESNET_NAME: ("layer4_middle", "layer4_mean")}
)
"""Backbone -> maps, the usual one first. ResNet's is that of a superframe's middle frame, or the mean of all."""
