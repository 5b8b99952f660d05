"""What an extraction will take: videos, superframes, disk, time."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from nni_nastc.errors import DiskError, VideoError
from nni_nastc.features.feature_batches import FeatureExtractor
from nni_nastc.features.store import FeatureStore
from nni_nastc.features.superframes import SUPERFRAME_LENGTH
from nni_nastc.features.video import VideoInfo, probe

# Beside its features, a window has two times; a video has a header, and an entry in the manifest.
_TIMES_BYTES = 16
_VIDEO_BYTES = 2048


@dataclass(frozen=True)
class PlannedVideo:
    """A video that is to be extracted.

    Parameters
    ----------
    path : Path
        The file.
    info : VideoInfo
        What its packets say.
    windows : int
        Superframes that will be extracted.
    """

    path: Path
    info: VideoInfo
    windows: int


@dataclass(frozen=True)
class ExtractionPlan:
    """What an extraction will take.

    Parameters
    ----------
    pending : tuple of PlannedVideo
        To be extracted.
    skipped : tuple of str
        Names of the videos that the store has already, of the same file name and size.
    replaced : tuple of str
        Names of pending videos that the store has from another file.
    failed : mapping of str to str
        Path -> reason, of the videos that are known not to be usable.
    bytes_needed, bytes_free : int
        On the disk of the store.
    seconds : float or None
        Estimated from a trial, or None without one.
    """

    pending: tuple[PlannedVideo, ...]
    skipped: tuple[str, ...]
    replaced: tuple[str, ...]
    failed: Mapping[str, str]
    bytes_needed: int
    bytes_free: int
    seconds: float | None = None

    @property
    def superframes(self) -> int:
        """Superframes of all pending videos."""
        return sum(video.windows for video in self.pending)

    def check_disk(self, out: Path) -> None:
        """Refuse a disk that is too small.

        Raises
        ------
        DiskError
            If less is free than is needed.
        """
        if self.bytes_needed > self.bytes_free:
            raise DiskError(
                f"the disk of {out} is too small: {self.superframes} superframes need {_gigabytes(self.bytes_needed)}, "
                f"{_gigabytes(self.bytes_free)} are free; free some space, choose another folder, or store less with "
                "--windows or --pool"
            )


@dataclass
class Survey:
    """Looks at videos one after the other; the plan is made of what it has found."""

    extractor: FeatureExtractor
    store: FeatureStore | None
    pending: list[PlannedVideo] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def look_at(self, path: Path) -> None:
        """Sort a video in."""
        if self.store is not None and path.stem in self.store:
            entry = self.store.videos[path.stem]
            unchanged = (entry.source, entry.size_bytes) == (path.name, path.stat().st_size)
            if unchanged and self.store.is_whole(path.stem):
                self.skipped.append(path.stem)
                return
            if not unchanged:
                self.replaced.append(path.stem)
        try:
            info = probe(path)
        except VideoError as problem:
            self.failed[str(path)] = str(problem)
            return
        windows = len(self.extractor.windows(info))
        if windows:
            self.pending.append(PlannedVideo(path, info, windows))
        else:
            self.failed[str(path)] = (
                f"{path} is too short: a superframe needs {SUPERFRAME_LENGTH} frames, it has {info.num_frames}; "
                "leave it out"
            )

    def plan(self, out: Path, seconds: float | None = None) -> ExtractionPlan:
        """Sum up."""
        window_bytes = 2 * math.prod(self.extractor.shape) + _TIMES_BYTES
        return ExtractionPlan(
            pending=tuple(self.pending),
            skipped=tuple(self.skipped),
            replaced=tuple(self.replaced),
            failed=dict(self.failed),
            bytes_needed=sum(video.windows * window_bytes + _VIDEO_BYTES for video in self.pending),
            bytes_free=shutil.disk_usage(_existing(out)).free,
            seconds=seconds,
        )


def survey_videos(
    videos: Sequence[Path],
    extractor: FeatureExtractor,
    store: FeatureStore | None,
    looked_at: Callable[[str, int, int], None],
) -> Survey:
    """Look at all videos, and tell after each its name and how many of how many are done."""
    survey = Survey(extractor, store)
    for number, path in enumerate(videos, start=1):
        survey.look_at(path)
        looked_at(path.name, number, len(videos))
    return survey


def estimate_seconds(survey: Survey, trial_s: float) -> float:
    """Extract for some seconds, throw the features away, and infer how long all pending videos take.

    The pace is counted in frames, because all frames are decoded, also where few windows are wanted.
    """
    frames = 0
    started = time.perf_counter()
    elapsed = 0.0
    for video in survey.pending:
        frames_read = 0
        try:
            with closing(survey.extractor.batches(video.path, video.info)) as batches:
                for batch in batches:
                    frames_read = batch.frames_read
                    elapsed = time.perf_counter() - started
                    if elapsed > trial_s:
                        break
                else:
                    frames_read = video.info.num_frames
        except VideoError:
            continue  # the extraction will say what is wrong with it
        frames += frames_read
        elapsed = time.perf_counter() - started
        if elapsed > trial_s:
            break
    total = sum(video.info.num_frames for video in survey.pending)
    return total * elapsed / frames if frames else elapsed


def _existing(path: Path) -> Path:
    """Return the path, or the closest folder above it that is there."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
