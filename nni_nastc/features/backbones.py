"""Any backbone by its name."""

from __future__ import annotations

from pathlib import Path

from nni_nastc.errors import ConfigError, WeightsError
from nni_nastc.features import resnet_weights
from nni_nastc.features import weights as i3d_weights
from nni_nastc.features.backbone import Backbone
from nni_nastc.features.backbone_names import BACKBONE_ENDPOINTS, I3D_NAME


def load_backbone(name: str, weights: str | Path | None, endpoint: str | None = None) -> Backbone:
    """Build a backbone with weights, in evaluation mode.

    Parameters
    ----------
    name : str
        One of :data:`nni_nastc.features.backbone_names.BACKBONE_ENDPOINTS`.
    weights : str, Path or None
        A file, or for I3D ``"kinetics400"``; None for random weights.
    endpoint : str, optional
        The map that is stored; the usual one by default.

    Raises
    ------
    ConfigError
        If there is no such backbone, or it has no such map.
    WeightsError
        If the weights cannot be used.
    """
    if name not in BACKBONE_ENDPOINTS:
        raise ConfigError(f"no backbone is called {name!r}; choose one of {', '.join(BACKBONE_ENDPOINTS)}")
    endpoints = BACKBONE_ENDPOINTS[name]
    endpoint = endpoint or endpoints[0]
    if endpoint not in endpoints:
        raise ConfigError(f"{name} stores {' or '.join(endpoints)}, got the endpoint {endpoint!r}; choose one of these")
    if name == I3D_NAME:
        return i3d_weights.load_i3d(weights)
    if weights == i3d_weights.KINETICS400:
        raise WeightsError(
            f"{weights} are weights of I3D; give those of ResNet-152, torchvision's resnet152-*.pth, with --weights"
        )
    return resnet_weights.load_resnet152(weights, endpoint)
