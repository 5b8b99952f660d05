"""What can be chosen about an extraction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from nni_nastc.errors import ConfigError
from nni_nastc.features.backbone import Backbone
from nni_nastc.features.backbone_names import PRECISIONS, Precision
from nni_nastc.features.manifest import StoreSettings


@dataclass(frozen=True)
class ExtractionSettings:
    """How videos are extracted.

    Parameters
    ----------
    short_side, crop : int
        Pixels: the short side of a frame after the resize, and the side of the square cut from its centre.
    windows : "all" or int
        All superframes, or that many, evenly spaced; a video with fewer gives those it has.
    pool : int, optional
        Average the map to this height and width before it is stored.
    fps : float, optional
        Frames a second of videos that are folders of images; the others tell it themselves.
    batch_size : int
        Superframes that the network is given at a time.
    precision : "float32" or "bfloat16"
        That the network computes with; "bfloat16" is faster on a GPU, and the features differ a little.
    device : str
        "auto" (the first GPU, if there is one), "cpu", "cuda", "cuda:1", ...

    Raises
    ------
    ConfigError
        If a value is outside its rule.
    """

    short_side: int = 256
    crop: int = 224
    windows: Literal["all"] | int = "all"
    pool: int | None = None
    fps: float | None = None
    batch_size: int = 8
    precision: Precision = "float32"
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}: given {self.precision!r}")
        for name in ("windows", "pool", "batch_size"):
            value = getattr(self, name)
            if value is not None and value != "all" and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name} must be at least 1: given {value}")
        if not 0 < self.crop <= self.short_side:
            raise ConfigError(
                f"crop must lie between 1 and short_side: given crop {self.crop} and short_side {self.short_side}"
            )
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise ConfigError(f"fps must be above 0: given {self.fps}")

    @classmethod
    def of_store(
        cls, stored: StoreSettings, *, fps: float | None = None, device: str = "auto"
    ) -> ExtractionSettings:
        """Return the settings that make features like those of a store."""
        return cls(
            stored.short_side,
            stored.crop,
            stored.windows,
            stored.pool,
            fps=fps,
            precision=stored.precision,
            device=device,
        )

    def stored(self, backbone: Backbone) -> StoreSettings:
        """Return what a store says of features that a backbone makes with these settings."""
        return StoreSettings(
            weights=backbone.weights_name,
            weights_digest=backbone.weights_digest,
            backbone=backbone.name,
            endpoint=backbone.endpoint,
            short_side=self.short_side,
            crop=self.crop,
            windows=self.windows,
            pool=self.pool,
            precision=self.precision,
        )
