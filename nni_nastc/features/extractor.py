"""Features of videos: one, or a folder of them into a feature store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nni_nastc.distributed import gather, place
from nni_nastc.errors import DiskError, FeatureStoreError, VideoError
from nni_nastc.features.backbone import Backbone
from nni_nastc.features.extraction_plan import (
    ExtractionPlan,
    PlannedVideo,
    estimate_seconds,
    merge_plans,
    share_out,
    survey_videos,
)
from nni_nastc.features.extraction_progress import ExtractionProgress, ProgressCallback, Tracker
from nni_nastc.features.extraction_settings import ExtractionSettings
from nni_nastc.features.feature_batches import FeatureExtractor
from nni_nastc.features.frame_folders import require_rate
from nni_nastc.features.store import FeatureStore, VideoEntry
from nni_nastc.features.video_files import find_videos

__all__ = [
    "ExtractionJob", "ExtractionProgress", "ExtractionReport", "ExtractionSettings", "ProgressCallback", "extract",
    "extract_video", "plan_extraction",
]  # fmt: skip

TRIAL_S = 10.0

Videos = Iterable[Path | str] | Mapping[str, Path]
"""Files, and folders that are searched to the bottom; or name -> file, or folder of images."""


@dataclass(frozen=True)
class ExtractionReport:
    """What an extraction has done, all of its processes together.

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
    deviation : float or None
        How far bfloat16 features are from float32 ones, by the first batch of each process: the norm of the difference
        over the norm, the largest of all. None in float32, or if nothing was extracted.
    """

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    replaced: tuple[str, ...]
    failed: Mapping[str, str]
    superframes: int
    seconds: float
    deviation: float | None = None


def extract_video(
    path: Path | str,
    backbone: Backbone,
    settings: ExtractionSettings | None = None,
    *,
    progress: ProgressCallback | None = None,
) -> tuple[NDArray[np.float16], NDArray[np.float64]]:
    """Extract the features of one video.

    Parameters
    ----------
    path : Path or str
        The video: a file, or a folder of numbered images.
    backbone, settings, progress
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
    extractor = FeatureExtractor(backbone, settings or ExtractionSettings())
    tracker = Tracker(progress)
    info = extractor.probe(path)
    tracker.looked_at(path.name, 1, 1)
    tracker.start(1, len(extractor.windows(info)))
    features, times = [], []
    with closing(extractor.batches(path, info)) as batches:
        for batch in batches:
            features.append(batch.features)
            times.append(batch.times)
            tracker.extracted(path.name, len(batch.times))
    return np.concatenate(features), np.concatenate(times)


def extract(
    videos: Videos,
    out: Path | str,
    backbone: Backbone,
    settings: ExtractionSettings | None = None,
    *,
    progress: ProgressCallback | None = None,
) -> ExtractionReport:
    """Extract the features of videos into a store, which may have some of them already.

    Decoding overlaps with the network; memory does not grow with the length of a video. A video that fails is left
    out whole, and the others go on. A run that is interrupted or killed loses the video at hand, and the next run goes
    on from there. Several processes that have met share the videos (:func:`nni_nastc.features.processes.extract_on`
    lets them).

    Parameters
    ----------
    videos : iterable of Path or str, or mapping of str to Path
        Files, and folders that are searched to the bottom for files and for folders of numbered images; or the name in
        the store -> file or folder of images.
    out : Path or str
        Folder of the store.
    backbone : Backbone
        From :func:`nni_nastc.features.backbones.load_backbone`. It is set to evaluation mode.
    settings : ExtractionSettings, optional
        Sizes, windows, pooling, batches, precision, and the device.
    progress : callable, optional
        Is told how far it is, after every video that was looked at, every batch and every video.

    Returns
    -------
    ExtractionReport
        What was done, what was there already, what failed and why.

    Raises
    ------
    VideoError
        If a path is missing, a folder holds no video, or two videos have one name, or images have no frame rate; before
        anything is written.
    FeatureStoreError
        If the store was made with other settings.
    DiskError
        If the disk is too small, before anything is extracted; or if it fills up all the same.
    ConfigError
        If a setting is outside its rule.
    """
    job = ExtractionJob(videos, out, FeatureExtractor(backbone, settings or ExtractionSettings()), progress)
    try:
        for video in job.prepare():
            job.extract(video)
    finally:
        job.save()
    return job.report()


def plan_extraction(
    videos: Videos,
    out: Path | str,
    backbone: Backbone,
    settings: ExtractionSettings | None = None,
    *,
    trial_s: float = TRIAL_S,
    progress: ProgressCallback | None = None,
) -> ExtractionPlan:
    """Tell what :func:`extract` will take in one process, and write nothing.

    Parameters
    ----------
    videos, out, backbone, settings, progress
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
    extractor = FeatureExtractor(backbone, settings or ExtractionSettings())
    named = _named(videos, extractor.settings)
    plan = merge_plans([survey_videos(named, Path(out), extractor, Tracker(progress).looked_at)])
    return replace(plan, seconds=estimate_seconds(plan, extractor, trial_s))


class ExtractionJob:
    """The share of one process in an extraction; the only process has all of it.

    :meth:`prepare` and :meth:`report` are for all processes together, :meth:`extract` for each alone.

    Parameters
    ----------
    videos, out, progress
        See :func:`extract`.
    extractor : FeatureExtractor
        The backbone on this process's device.
    """

    def __init__(
        self, videos: Videos, out: Path | str, extractor: FeatureExtractor, progress: ProgressCallback | None
    ) -> None:
        self._started = time.perf_counter()
        self._videos = _named(videos, extractor.settings)
        self._out = Path(out)
        self._extractor = extractor
        self._tracker = Tracker(progress, processes=place()[1])
        self._plan: ExtractionPlan | None = None
        self._store: FeatureStore | None = None
        self._done: list[str] = []
        self._failed: dict[str, str] = {}
        self._full_disk: DiskError | None = None

    def prepare(self) -> list[PlannedVideo]:
        """Look at the videos, open the store, and return the videos that this process is to extract.

        Raises
        ------
        FeatureStoreError
            If the store was made with other settings.
        DiskError
            If the disk is too small.
        """
        rank, processes = place()
        videos = gather(self._videos)[0]  # one list, whatever each finds on its own machine
        part = dict(islice(videos.items(), rank, None, processes))
        self._plan = merge_plans(gather(survey_videos(part, self._out, self._extractor, self._tracker.looked_at)))
        self._plan.check_disk(self._out)
        self._store = FeatureStore.create_or_open(self._out, self._extractor.stored)
        share = share_out(self._plan.pending, processes)[rank]
        self._tracker.start(len(share), sum(video.windows for video in share))
        return share

    def extract(self, video: PlannedVideo) -> None:
        """Extract a video into the store, or remember why that failed; nothing more once the disk is full."""
        assert self._store is not None, "prepare comes first"
        if self._full_disk is not None:
            return
        try:
            _extract_into(self._store, video, self._extractor, self._tracker)
            self._done.append(video.name)
        except (VideoError, FeatureStoreError) as problem:
            self._failed[str(video.path)] = str(problem)
        except DiskError as problem:
            self._full_disk = problem
        self._tracker.finished(video)

    def save(self) -> None:
        """Bring the manifest of the store up to date."""
        if self._store is not None:
            self._store.save()

    def report(self) -> ExtractionReport:
        """Wait for the other processes, and return what all have done.

        Raises
        ------
        DiskError
            If the disk has filled up for one of them.
        """
        assert self._plan is not None, "prepare comes first"
        try:
            self.save()
        except DiskError as problem:
            self._full_disk = problem
        superframes = self._tracker.now.superframes_extracted
        parts = gather((self._done, self._failed, superframes, self._extractor.deviation, self._full_disk))
        for *_, full_disk in parts:
            if full_disk is not None:
                raise full_disk
        done = tuple(sorted(name for names, *_ in parts for name in names))
        failed = {path: reason for _, reasons, *_ in parts for path, reason in reasons.items()}
        return ExtractionReport(
            done=done,
            skipped=self._plan.skipped,
            replaced=tuple(name for name in self._plan.replaced if name in done),
            failed=dict(sorted({**self._plan.failed, **failed}.items())),
            superframes=sum(superframes for _, _, superframes, _, _ in parts),
            seconds=time.perf_counter() - self._started,
            deviation=max((deviation for *_, deviation, _ in parts if deviation is not None), default=None),
        )


def _named(videos: Videos, settings: ExtractionSettings) -> dict[str, Path]:
    """Return name -> path, with a frame rate for images if there are some."""
    named = dict(videos) if isinstance(videos, Mapping) else find_videos(videos)
    for path in named.values():
        if path.is_dir():
            require_rate(path, settings.fps)
    return named


def _extract_into(store: FeatureStore, video: PlannedVideo, extractor: FeatureExtractor, tracker: Tracker) -> None:
    info, path = video.info, video.path
    entry = VideoEntry(
        video.name, video.windows, extractor.shape, info.fps, info.duration_s, path.name, info.size_bytes
    )
    with store.writer(entry) as writer, closing(extractor.batches(path, info)) as batches:
        for batch in batches:
            writer.append(batch.features, batch.times)
            tracker.extracted(path.name, len(batch.times))
