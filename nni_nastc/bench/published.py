"""The numbers that the paper prints (arXiv:2104.01110), in percent. None of them was measured here.

Left out are methods on other inputs than the features of one backbone (two-stream networks, EvaNet), and on MultiTHUMOS
the Multi-LSTM, super-events and TGMs of Table V, which their own papers score on frames, not on videos.
"""

from __future__ import annotations

from collections.abc import Mapping

from nni_nastc.features.backbone_names import I3D_NAME, RESNET_NAME
from nni_nastc.genotype import Genotype
from nni_nastc.models import RANDOM_CELL

NAS_TC = "nas_tc"

CONTROLS = ("sep_conv_3", f"{RANDOM_CELL}:")
"""How the names of cells begin that nobody has searched: they have no published number."""

ANY_T = 0
"""In place of the T of a number that is printed without one."""

PUBLISHED: Mapping[str, Mapping[str, Mapping[str, Mapping[int, float]]]] = {
    "charades": {  # mAP; Tables III and IV
        I3D_NAME: {
            "pool": {ANY_T: 32.9},
            "actionvlad": {ANY_T: 35.4},
            "timeception": {32: 33.9, 64: 35.5, 128: 37.2},
            "nonlocal": {ANY_T: 37.5},
            "videograph": {ANY_T: 37.8},
            NAS_TC: {32: 34.5, 64: 37.2, 128: 39.3},
        },
        RESNET_NAME: {"pool": {ANY_T: 22.8}, "timeception": {ANY_T: 31.6}},
    },
    "multithumos": {  # mAP; Table V
        I3D_NAME: {
            "pool": {ANY_T: 72.43},
            "timeception": {ANY_T: 74.79},
            "timeception_dilated": {ANY_T: 74.52},
            NAS_TC: {ANY_T: 76.83},
        },
    },
    "breakfast-activities": {  # accuracy; Table VI
        I3D_NAME: {
            "pool": {ANY_T: 58.61},
            "actionvlad": {ANY_T: 65.48},
            "timeception": {ANY_T: 67.07},
            "videograph": {ANY_T: 69.45},
            NAS_TC: {ANY_T: 71.89},
        },
        RESNET_NAME: {
            "pool": {ANY_T: 41.13},
            "actionvlad": {ANY_T: 55.49},
            "timeception": {ANY_T: 57.75},
            "videograph": {ANY_T: 59.12},
        },
    },
    "breakfast-unit-actions": {  # mAP; Table VI
        I3D_NAME: {
            "pool": {ANY_T: 47.05},
            "actionvlad": {ANY_T: 60.20},
            "timeception": {ANY_T: 61.82},
            "videograph": {ANY_T: 63.14},
            NAS_TC: {ANY_T: 64.64},
        },
        RESNET_NAME: {
            "pool": {ANY_T: 32.65},
            "actionvlad": {ANY_T: 47.12},
            "timeception": {ANY_T: 48.47},
            "videograph": {ANY_T: 49.38},
        },
    },
}
"""Dataset -> backbone -> method -> T -> score in percent."""


def published_score(
    dataset: str | None, backbone: str, name: str, network: Genotype | str, timesteps: int
) -> float | None:
    """Return the paper's number for a method, or None if it prints none.

    Parameters
    ----------
    dataset : str or None
        One of :data:`PUBLISHED`.
    backbone : str
        Of the features; those of an unknown one stand beside I3D's.
    name : str
        What the method is called.
    network : Genotype or str
        What it is. NAS-TC's number is that of every cell but the :data:`CONTROLS`.
    timesteps : int
        T.

    Returns
    -------
    float or None
        In [0, 1].
    """
    if dataset is None or name.startswith(CONTROLS):
        return None
    by_backbone = PUBLISHED[dataset]
    numbers = by_backbone.get(RESNET_NAME if backbone == RESNET_NAME else I3D_NAME, {})
    by_t = numbers.get(network if isinstance(network, str) else NAS_TC, {})
    percent = by_t.get(timesteps, by_t.get(ANY_T))
    return None if percent is None else percent / 100
