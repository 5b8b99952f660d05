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
from nni_nastc.features.frame_folders import size_of
from nni_nastc.features.store import FeatureStore, VideoEntry
from nni_nastc.features.video import VideoInfo

# Beside its features, a window has two times; a video has a header, and an entry in the manifest.
_TIMES_BYTES = 16
_VIDEO_BYTES = 2048


@dataclass(frozen=True)
class PlannedVideo:
    """A video that is to be extracted.

    Parameters
    ----------
    name : str
        Its name in the store.
    path : Path
        The file, or folder of images.
    info : VideoInfo
        What its packets say.
    windows : int
        Superframes that will be extracted.
    """

    name: str
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


def survey_videos(
    videos: Mapping[str, Path],
    out: Path,
    extractor: FeatureExtractor,
    looked_at: Callable[[str, int, int], None],
) -> ExtractionPlan:
    """Look at videos, and at what the store has of them; write nothing.

    Parameters
    ----------
    videos : mapping of str to Path
        Name -> file, or folder of images.
    out : Path
        Folder of the store.
    extractor : FeatureExtractor
        What will extract them.
    looked_at : callable
        Is told after each video its file name, and how many of how many are done.

    Raises
    ------
    FeatureStoreError
        If the store was made with other settings, or cannot be made.
    """
    survey = _Survey(extractor, FeatureStore.find(out, extractor.stored))
    for number, (name, path) in enumerate(videos.items(), start=1):
        survey.look_at(name, path)
        looked_at(path.name, number, len(videos))
    return survey.plan(out)


def merge_plans(plans: Sequence[ExtractionPlan]) -> ExtractionPlan:
    """Return the plan of all videos of several plans, sorted."""
    return ExtractionPlan(
        pending=tuple(sorted((video for plan in plans for video in plan.pending), key=lambda video: video.path)),
        skipped=tuple(sorted(name for plan in plans for name in plan.skipped)),
        replaced=tuple(sorted(name for plan in plans for name in plan.replaced)),
        failed=dict(sorted(item for plan in plans for item in plan.failed.items())),
        bytes_needed=sum(plan.bytes_needed for plan in plans),
        bytes_free=min(plan.bytes_free for plan in plans),
    )


def share_out(videos: Sequence[PlannedVideo], processes: int) -> list[list[PlannedVideo]]:
    """Deal videos out to processes: the longest first, always to the one that has the fewest frames so far.

    All frames are decoded, so they tell how long a video takes (the rule of longest processing time, Graham 1969).

    Parameters
    ----------
    videos : sequence of PlannedVideo
        To be extracted.
    processes : int
        How many there are.

    Returns
    -------
    list of list of PlannedVideo
        The share of each, in the order of ``videos``; every video is in one of them.
    """
    frames = [0] * processes
    shares: list[list[int]] = [[] for _ in range(processes)]
    for number in sorted(range(len(videos)), key=lambda number: -videos[number].info.num_frames):
        least = frames.index(min(frames))
        frames[least] += videos[number].info.num_frames
        shares[least].append(number)
    return [[videos[number] for number in sorted(share)] for share in shares]


def estimate_seconds(plan: ExtractionPlan, extractor: FeatureExtractor, trial_s: float) -> float:
    """Extract for some seconds, throw the features away, and infer how long all pending videos take.

    The pace is counted in frames, because all frames are decoded, also where few windows are wanted.
    """
    frames = 0
    started = time.perf_counter()
    elapsed = 0.0
    for video in plan.pending:
        frames_read = 0
        try:
            with closing(extractor.batches(video.path, video.info)) as batches:
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
    total = sum(video.info.num_frames for video in plan.pending)
    return total * elapsed / frames if frames else elapsed


@dataclass
class _Survey:
    """Looks at videos one after the other; the plan is made of what it has found."""

    extractor: FeatureExtractor
    store: FeatureStore | None
    pending: list[PlannedVideo] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def look_at(self, name: str, path: Path) -> None:
        """Sort a video in."""
        if self.store is not None and name in self.store:
            unchanged = self._is_source(self.store.videos[name], path)
            if unchanged and self.store.is_whole(name):
                self.skipped.append(name)
                return
            if not unchanged:
                self.replaced.append(name)
        try:
            info = self.extractor.probe(path)
        except VideoError as problem:
            self.failed[str(path)] = str(problem)
        else:
            self.pending.append(PlannedVideo(name, path, info, len(self.extractor.windows(info))))

    def plan(self, out: Path) -> ExtractionPlan:
        """Sum up."""
        window_bytes = 2 * math.prod(self.extractor.shape) + _TIMES_BYTES
        return ExtractionPlan(
            pending=tuple(self.pending),
            skipped=tuple(self.skipped),
            replaced=tuple(self.replaced),
            failed=dict(self.failed),
            bytes_needed=sum(video.windows * window_bytes + _VIDEO_BYTES for video in self.pending),
            bytes_free=shutil.disk_usage(_existing(out)).free,
        )

    def _is_source(self, entry: VideoEntry, path: Path) -> bool:
        """Tell whether features were made of this video: of its name and size, and images at the same rate."""
        same_rate = not path.is_dir() or entry.fps == self.extractor.settings.fps
        return same_rate and path.exists() and (entry.source, entry.size_bytes) == (path.name, size_of(path))


def _existing(path: Path) -> Path:
    """Return the path, or the closest folder above it that is there."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
