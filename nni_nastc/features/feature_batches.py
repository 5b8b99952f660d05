"""One video through the backbone, in batches of superframes, while the next batch is being decoded."""

from __future__ import annotations

import logging
from collections.abc import Generator
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nni_nastc.devices import choose_device, hardware_name, has_bfloat16
from nni_nastc.errors import ConfigError, VideoError
from nni_nastc.features.backbone import Backbone
from nni_nastc.features.extraction_settings import ExtractionSettings
from nni_nastc.features.prefetch import Prefetch
from nni_nastc.features.superframes import SUPERFRAME_LENGTH, num_windows, uniform_windows
from nni_nastc.features.video import VideoInfo, probe, read_superframes

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureBatch:
    """Features of some superframes of a video.

    Parameters
    ----------
    features : ndarray
        (n, C, H, W) float16.
    times : ndarray
        (n, 2) start and end in seconds.
    frames_read : int
        Frames of the video up to the end of the last superframe.
    """

    features: NDArray[np.float16]
    times: NDArray[np.float64]
    frames_read: int


class FeatureExtractor:
    """A backbone on its device, and how videos are prepared for it.

    Parameters
    ----------
    backbone : Backbone
        From :func:`nni_nastc.features.backbones.load_backbone`. It is set to evaluation mode; a copy with folded batch
        norms runs on the device.
    settings : ExtractionSettings
        Sizes, windows, pooling, batches, precision, and the device.

    Attributes
    ----------
    settings : ExtractionSettings
        The same; a device without bfloat16 computes with float32, and says so.
    stored : StoreSettings
        What a store says of such features.
    shape : tuple of int
        (C, H, W) of the features of a superframe.
    deviation : float or None
        How far the first batch in bfloat16 is from the same in float32: the norm of the difference over the norm. None
        in float32, and before that batch.

    Raises
    ------
    ConfigError
        If the features are to be pooled to a larger map.
    ModelError
        If there is no such device.
    """

    def __init__(self, backbone: Backbone, settings: ExtractionSettings) -> None:
        self.device = choose_device(settings.device)
        self.backbone = backbone.eval().folded().to(self.device)
        self.settings = self._usable(settings)
        self.stored = self.settings.stored(backbone)
        self.deviation: float | None = None
        self._bfloat16 = deepcopy(self.backbone).bfloat16() if self.settings.precision == "bfloat16" else None
        self.shape = self._find_shape()

    def probe(self, path: Path) -> VideoInfo:
        """Look at a video without decoding it.

        Raises
        ------
        VideoError
            If it is missing, is no video, or is cut off, or has no superframe.
        """
        info = probe(path, fps=self.settings.fps)
        if not num_windows(info.num_frames):
            raise VideoError(
                f"{path} is too short: a superframe needs {SUPERFRAME_LENGTH} frames, it has {info.num_frames}; "
                "leave it out"
            )
        return info

    def windows(self, info: VideoInfo) -> NDArray[np.int64]:
        """Return the windows of a video that are extracted: all, or as many as there are of those evenly spaced."""
        count = num_windows(info.num_frames)
        if self.settings.windows == "all" or self.settings.windows >= count:
            return np.arange(count)
        return np.unique(uniform_windows(count, self.settings.windows))

    def batches(self, path: Path, info: VideoInfo) -> Generator[FeatureBatch, None, None]:
        """Extract a video.

        Parameters
        ----------
        path : Path
            The video: a file, or a folder of images.
        info : VideoInfo
            What :func:`nni_nastc.features.video.probe` says of it.

        Yields
        ------
        FeatureBatch
            All of its windows, in their order.

        Raises
        ------
        VideoError
            If the video is damaged or too short; possibly after the last batch.
        """
        windows = self.windows(info)
        read = 0
        with Prefetch(self._decoded(path, windows)) as decoded:
            for frames, times, frames_read in decoded:
                read += len(frames)
                yield FeatureBatch(self._features(frames), times, frames_read)
        if read != len(windows):
            raise VideoError(
                f"{path} has {info.num_frames} frames by its packets, so {len(windows)} superframes, but {read} "
                "superframes by its pictures; encode it anew"
            )

    def _usable(self, settings: ExtractionSettings) -> ExtractionSettings:
        """Return the settings, with float32 where the device has no bfloat16."""
        if settings.precision == "bfloat16" and not has_bfloat16(self.device):
            _logger.warning(
                "precision is bfloat16, which %s does not have; extracting with float32", hardware_name(self.device)
            )
            return replace(settings, precision="float32")
        return settings

    def _decoded(
        self, path: Path, windows: NDArray[np.int64]
    ) -> Generator[tuple[NDArray[np.uint8], NDArray[np.float64], int], None, None]:
        """Yield batches: (n, 8, crop, crop, 3) frames, (n, 2) times, and how many frames of the video were read."""
        sizes = self.settings
        wanted = None if sizes.windows == "all" else windows
        superframes = read_superframes(
            path, short_side=sizes.short_side, crop=sizes.crop, windows=wanted, fps=sizes.fps
        )
        while batch := list(islice(superframes, sizes.batch_size)):
            yield (
                np.stack([superframe.frames for superframe in batch]),
                np.array([(superframe.start_s, superframe.end_s) for superframe in batch]),
                (batch[-1].index + 1) * SUPERFRAME_LENGTH,
            )

    def _find_shape(self) -> tuple[int, int, int]:
        side, pool = self.settings.crop, self.settings.pool
        black = np.zeros((1, SUPERFRAME_LENGTH, side, side, 3), np.uint8)
        channels, height, width = self._maps(self.backbone, self._clip(black)).shape[1:]
        if pool is None:
            return channels, height, width
        if pool > min(height, width):
            raise ConfigError(f"pool must be at most the size of the map, {height} x {width}: given {pool}")
        return channels, pool, pool

    @torch.inference_mode()
    def _features(self, frames: NDArray[np.uint8]) -> NDArray[np.float16]:
        """(n, 8, crop, crop, 3) frames to (n, C, H, W) features."""
        clip = self._clip(frames)
        if self._bfloat16 is None:
            maps = self._maps(self.backbone, clip)
        else:
            maps = self._maps(self._bfloat16, clip.bfloat16()).float()
            if self.deviation is None:
                exact = self._maps(self.backbone, clip)
                self.deviation = ((maps - exact).norm() / exact.norm()).item()
        if self.settings.pool is not None:
            maps = F.adaptive_avg_pool2d(maps, self.settings.pool)
        return maps.half().cpu().numpy()

    def _clip(self, frames: NDArray[np.uint8]) -> Tensor:
        """(n, 8, crop, crop, 3) frames to a clip (n, 3, 8, crop, crop) in [-1, 1]."""
        return torch.from_numpy(frames).to(self.device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1

    @torch.inference_mode()
    def _maps(self, network: Backbone, clip: Tensor) -> Tensor:
        """(n, 3, 8, crop, crop) clips to (n, C, h, w) maps of the endpoint."""
        maps = network.features(clip, endpoint=self.stored.endpoint)
        assert maps.shape[2] == 1, f"8 frames give one step in time, not {maps.shape[2]}"
        return maps[:, :, 0]
