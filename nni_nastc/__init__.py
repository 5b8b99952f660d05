"""NAS-TC for NNI: search the temporal-convolution cell of a network for complex actions in long videos.

Shapes used throughout: B batch, C channels, T superframes (8 consecutive frames each), H x W feature map, K classes.
A clip is (B, 3, frames, H, W) in [-1, 1]; a stored video is (windows, C, H, W) in float16; a batch of features is
(B, C, T, H, W); logits are (B, K).

The public names are loaded when they are first used, so that importing the package is quick and needs neither NNI nor
a video decoder.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# NNI 3.0 warns at every import about two classes of newer torch releases that it does not need.
warnings.filterwarnings("ignore", message=r".*is found to be not a nn\.Module, which is", category=RuntimeWarning)

# Where the extra "rl" is installed, importing NNI's strategies imports gym, which prints at every start that it has no
# maintainers any more.
try:
    from gym_notices.notices import notices
except ImportError:
    pass
else:
    notices.clear()

_PUBLIC = {
    "Genotype": "nni_nastc.genotype",
    "NasTCSpace": "nni_nastc.space.network",
    "OPS": "nni_nastc.nn.ops",
    "TempDARTS": "nni_nastc.search.temp_darts",
    "build_network": "nni_nastc.nn.network",
    "build_timeception": "nni_nastc.baselines.timeception",
    "load_i3d": "nni_nastc.features.weights",
}

__all__ = [
    "Genotype",
    "NasTCSpace",
    "OPS",
    "TempDARTS",
    "__version__",
    "build_network",
    "build_timeception",
    "load_i3d",
]

if TYPE_CHECKING:
    from nni_nastc.baselines.timeception import build_timeception
    from nni_nastc.features.weights import load_i3d
    from nni_nastc.genotype import Genotype
    from nni_nastc.nn.network import build_network
    from nni_nastc.nn.ops import OPS
    from nni_nastc.search.temp_darts import TempDARTS
    from nni_nastc.space.network import NasTCSpace


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
