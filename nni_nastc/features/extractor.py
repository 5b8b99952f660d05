"""Features of videos: one, or a folder of them into a feature store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nni_nastc.errors import FeatureStoreError, VideoError
from nni_nastc.features.extraction_plan import ExtractionPlan, PlannedVideo, estimate_seconds, survey_videos
from nni_nastc.features.feature_batches import FeatureExtractor
from nni_nastc.features.i3d import I3D
from nni_nastc.features.store import FeatureStore, StoreSettings, VideoEntry
from nni_nastc.features.video_files import find_videos

BATCH_SIZE = 8
TRIAL_S = 10.0


@dataclass(frozen=True)
class ExtractionProgress:
    """How far an extraction is.

    Parameters
    ----------
    stage : str
        "looking" while videos are counted, then "extracting".
    video : str
        File name of the video at hand, or of the last one.
    videos_done, videos_total : int
        Of this stage; failed videos count as done.
    superframes_done, superframes_total : int
        Of the videos to be extracted; those that a failed video would have had count as done.
    superframes_extracted : int
        That the network has really seen.
    """

    stage: Literal["looking", "extracting"]
    video: str
    videos_done: int
    videos_total: int
    superframes_done: int = 0
    superframes_total: int = 0
    superframes_extracted: int = 0


ProgressCallback = Callable[[ExtractionProgress], None]


@dataclass(frozen=True)
class ExtractionReport:
    """What an extraction has done.

    Parameters
    ----------
    done : tuple of str
        Names of the videos whose features are now in the store because of this run.
    skipped : tuple of str
        Names of the videos that were there already, of the same file name and size.
    replaced : tuple of str
        Names among ``done`` that the store had from another file before.
    failed : mapping of str to str
        Path -> reason. Nothing of these videos was written.
    superframes : int
        That were extracted.
    seconds : float
        That it took.
    """

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    replaced: tuple[str, ...]
    failed: Mapping[str, str]
    superframes: int
    seconds: float


def extract_video(
    path: Path | str,
    backbone: I3D,
    *,
    short_side: int = 256,
    crop: int = 224,
    windows: Literal["all"] | int = "all",
    pool: int | None = None,
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    progress: ProgressCallback | None = None,
) -> tuple[NDArray[np.float16], NDArray[np.float64]]:
    """Extract the features of one video.

    Parameters
    ----------
    path : Path or str
        The video.
    backbone, short_side, crop, windows, pool, batch_size, device, progress
        See :func:`extract`.

    Returns
    -------
    features : ndarray
        (windows, C, H, W) float16, the same as :func:`extract` stores.
    times : ndarray
        (windows, 2) start and end in seconds.

    Raises
    ------
    VideoError
        If the video is missing, damaged or too short.
    ConfigError
        If a setting is outside its rule.
    """
    path = Path(path)
    settings = _settings(backbone, short_side, crop, windows, pool)
    extractor = FeatureExtractor(backbone, settings, batch_size=batch_size, device=device)
    tracker = _Tracker(progress)
    survey = survey_videos([path], extractor, None, tracker.looked_at)
    if survey.failed:
        raise VideoError(survey.failed[str(path)])
    tracker.start(1, survey.pending[0].windows)
    features, times = [], []
    with closing(extractor.batches(path, survey.pending[0].info)) as batches:
        for batch in batches:
            features.append(batch.features)
            times.append(batch.times)
            tracker.extracted(path.name, len(batch.times))
    return np.concatenate(features), np.concatenate(times)


def extract(
    videos: Iterable[Path | str],
    out: Path | str,
    backbone: I3D,
    *,
    short_side: int = 256,
    crop: int = 224,
    windows: Literal["all"] | int = "all",
    pool: int | None = None,
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    progress: ProgressCallback | None = None,
) -> ExtractionReport:
    """Extract the features of videos into a store, which may have some of them already.

    Decoding overlaps with the network; memory does not grow with the length of a video. A video that fails is left
    out whole, and the others go on. A run that is interrupted or killed loses the video at hand, and the next run goes
    on from there.

    Parameters
    ----------
    videos : iterable of Path or str
        Files, and folders that are searched to the bottom.
    out : Path or str
        Folder of the store.
    backbone : I3D
        From :func:`nni_nastc.load_i3d`. It is moved to the device.
    short_side, crop : int
        Pixels: the short side of a frame after the resize, and the side of the square cut from its centre.
    windows : "all" or int
        All superframes, or that many, evenly spaced; a video with fewer gives those it has.
    pool : int, optional
        Average the map to this height and width before it is stored.
    batch_size : int
        Superframes that the network is given at a time.
    device : str
        "auto" (the first GPU, if there is one), "cpu", "cuda", ...
    progress : callable, optional
        Is told how far it is, after every video that was looked at, every batch and every video.

    Returns
    -------
    ExtractionReport
        What was done, what was there already, what failed and why.

    Raises
    ------
    VideoError
        If a path is missing, a folder holds no video, or two videos have one name; before anything is written.
    FeatureStoreError
        If the store was made with other settings.
    DiskError
        If the disk is too small, before anything is extracted; or if it fills up all the same.
    ConfigError
        If a setting is outside its rule.
    """
    started = time.perf_counter()
    out = Path(out)
    found = find_videos(videos)
    settings = _settings(backbone, short_side, crop, windows, pool)
    extractor = FeatureExtractor(backbone, settings, batch_size=batch_size, device=device)
    tracker = _Tracker(progress)
    plan = survey_videos(found, extractor, FeatureStore.find(out, settings), tracker.looked_at).plan(out)
    plan.check_disk(out)

    store = FeatureStore.create_or_open(out, settings)
    tracker.start(len(plan.pending), plan.superframes)
    failed = dict(plan.failed)
    done = []
    try:
        for video in plan.pending:
            try:
                _extract_into(store, video, extractor, tracker)
                done.append(video.path.stem)
            except (VideoError, FeatureStoreError) as problem:
                failed[str(video.path)] = str(problem)
            tracker.finished(video)
    finally:
        store.save()
    return ExtractionReport(
        done=tuple(done),
        skipped=plan.skipped,
        replaced=tuple(name for name in plan.replaced if name in done),
        failed=failed,
        superframes=tracker.now.superframes_extracted,
        seconds=time.perf_counter() - started,
    )


def plan_extraction(
    videos: Iterable[Path | str],
    out: Path | str,
    backbone: I3D,
    *,
    short_side: int = 256,
    crop: int = 224,
    windows: Literal["all"] | int = "all",
    pool: int | None = None,
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    trial_s: float = TRIAL_S,
    progress: ProgressCallback | None = None,
) -> ExtractionPlan:
    """Tell what :func:`extract` will take, and write nothing.

    Parameters
    ----------
    videos, out, backbone, short_side, crop, windows, pool, batch_size, device, progress
        See :func:`extract`.
    trial_s : float
        Seconds of extraction from which the time is estimated.

    Returns
    -------
    ExtractionPlan
        Videos, superframes, bytes and seconds.

    Raises
    ------
    VideoError, FeatureStoreError, ConfigError
        As :func:`extract`.
    """
    out = Path(out)
    found = find_videos(videos)
    settings = _settings(backbone, short_side, crop, windows, pool)
    extractor = FeatureExtractor(backbone, settings, batch_size=batch_size, device=device)
    survey = survey_videos(found, extractor, FeatureStore.find(out, settings), _Tracker(progress).looked_at)
    return survey.plan(out, seconds=estimate_seconds(survey, trial_s))


class _Tracker:
    """Counts, and tells the caller."""

    def __init__(self, callback: ProgressCallback | None) -> None:
        self.callback = callback
        self.now = ExtractionProgress("looking", "", 0, 0)
        self._due = 0  # superframes that are done when the video at hand is

    def looked_at(self, video: str, done: int, total: int) -> None:
        self._tell(video=video, videos_done=done, videos_total=total)

    def start(self, videos: int, superframes: int) -> None:
        self._tell(stage="extracting", video="", videos_done=0, videos_total=videos, superframes_total=superframes)

    def extracted(self, video: str, superframes: int) -> None:
        self._tell(
            video=video,
            superframes_done=self.now.superframes_done + superframes,
            superframes_extracted=self.now.superframes_extracted + superframes,
        )

    def finished(self, video: PlannedVideo) -> None:
        self._due += video.windows
        self._tell(video=video.path.name, videos_done=self.now.videos_done + 1, superframes_done=self._due)

    def _tell(self, **changes: Any) -> None:
        self.now = replace(self.now, **changes)
        if self.callback is not None:
            self.callback(self.now)


def _extract_into(store: FeatureStore, video: PlannedVideo, extractor: FeatureExtractor, tracker: _Tracker) -> None:
    info, path = video.info, video.path
    entry = VideoEntry(
        path.stem, video.windows, extractor.shape, info.fps, info.duration_s, path.name, info.size_bytes
    )
    with store.writer(entry) as writer, closing(extractor.batches(path, info)) as batches:
        for batch in batches:
            writer.append(batch.features, batch.times)
            tracker.extracted(path.name, len(batch.times))


def _settings(
    backbone: I3D, short_side: int, crop: int, windows: Literal["all"] | int, pool: int | None
) -> StoreSettings:
    return StoreSettings(
        weights=backbone.weights_name,
        weights_digest=backbone.weights_digest,
        short_side=short_side,
        crop=crop,
        windows=windows,
        pool=pool,
    )
