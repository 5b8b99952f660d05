"""Features that another program extracted, into a feature store.

Video_features, MS-TCN, Timeception and many others leave files of arrays, one a video or one for all. The store says
that its features were imported, under what name and from which layout; where they come from in truth, and how a video
becomes such features, only the user knows. Networks are trained and evaluated on them as on any others.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nni_nastc.errors import DiskError, FeatureStoreError
from nni_nastc.features.array_files import open_arrays
from nni_nastc.features.import_survey import FoundVideo, find_files, survey
from nni_nastc.features.layout import Layout
from nni_nastc.features.manifest import StoreSettings, VideoEntry
from nni_nastc.features.store import FeatureStore

_PIECE_BYTES = 1 << 25


@dataclass(frozen=True)
class ImportReport:
    """What an import has done.

    Parameters
    ----------
    done : tuple of str
        Names of the videos that are in the store because of this run.
    skipped : tuple of str
        Names of the videos that were there already, from a file of the same name and size, and with the same times.
    failed : mapping of str to str
        File, or video -> reason. Nothing of these was written.
    windows : int
        That were written.
    """

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: Mapping[str, str]
    windows: int


def import_features(
    source: Path | str,
    out: Path | str,
    *,
    layout: str,
    name: str | None = None,
    key: str | None = None,
    suffix: str = "",
    fps: float | None = None,
    stride: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> ImportReport:
    """Import features into a store, which may have some of them already.

    Parameters
    ----------
    source : Path or str
        A folder that is searched to the bottom for files of one video each, named after the video; or one file with
        an array for each video, named after it (a ``.npy``, or with ``key``, of one video, named after the file).
    out : Path or str
        Folder of the store.
    layout : str
        Of the arrays; see :class:`nni_nastc.features.layout.Layout`.
    name : str, optional
        What the features are, for whoever reads the manifest; the name of the source by default. Stores of other names
        are features of another kind.
    key : str, optional
        Name of the arrays, where a file, or each group of an HDF5 file, has several.
    suffix : str
        Only files of a folder whose name ends so before the dot; it is no part of the video's name (video_features:
        ``_rgb``).
    fps, stride : float and int, optional
        Frames a second of the videos, and frames from one window to the next, which give each window its time. Without
        them time is counted in windows: a window lasts one second.
    progress : callable, optional
        Is told a video's name, how many are done, and of how many.

    Returns
    -------
    ImportReport
        What was done, what was there already, what failed and why.

    Raises
    ------
    FeatureStoreError
        If the source is missing or holds nothing to import, videos have one name or different (C, H, W), an argument
        is outside its rule, or the store is of other features; before anything is written.
    DiskError
        If the disk is too small, before anything is written; or if it fills up all the same.
    """
    source, out, axes = Path(source), Path(out), Layout(layout)
    window_s, settings = _timing(fps, stride), _settings(name or source.stem, layout, stride)
    fps = fps or 1.0
    videos, failed = survey(find_files(source, suffix), axes, key, suffix, one_for_all=source.is_file())
    store = FeatureStore.find(out, settings)
    skipped = {video.stem for video in videos if store is not None and _is_stored(store, video, fps)}
    pending = [video for video in videos if video.stem not in skipped]
    _check_shapes(videos, store)
    if not pending:
        return ImportReport((), tuple(sorted(skipped)), failed, 0)
    _check_disk(pending, out)
    store = FeatureStore.create_or_open(out, settings)
    done, windows = [], 0
    try:
        for number, video in enumerate(pending, start=1):
            try:
                _import_into(store, video, axes, window_s, fps)
                done.append(video.stem)
                windows += video.shape[0]
            except FeatureStoreError as problem:
                failed[video.stem] = str(problem)
            if progress is not None:
                progress(video.stem, number, len(pending))
    finally:
        store.save()
    return ImportReport(tuple(done), tuple(sorted(skipped)), failed, windows)


def _timing(fps: float | None, stride: int | None) -> float:
    """Return the seconds from one window to the next."""
    if fps is None and stride is None:
        return 1.0
    if fps is None or stride is None or not 0 < fps < float("inf") or stride < 1:
        raise FeatureStoreError(
            f"fps (above 0) and stride (at least 1) are given together or not at all: given {fps} and {stride}"
        )
    return stride / fps


def _settings(name: str, layout: str, stride: int | None) -> StoreSettings:
    return StoreSettings(
        weights=name,
        weights_digest=f"imported: {name}, layout {layout}",
        backbone="imported",
        endpoint="unknown",
        short_side=0,
        crop=0,
        superframe_length=stride or 1,
    )


def _is_stored(store: FeatureStore, video: FoundVideo, fps: float) -> bool:
    entry = store.videos.get(video.stem)
    now = (video.path.name, video.path.stat().st_size, fps)
    return entry is not None and (entry.source, entry.size_bytes, entry.fps) == now and store.is_whole(video.stem)


def _check_shapes(videos: Iterable[FoundVideo], store: FeatureStore | None) -> None:
    """Refuse features of different shapes, those that stay in the store included."""
    shapes = {video.shape[1:]: video.stem for video in videos}
    if store is not None:
        stay = store.videos.keys() - {video.stem for video in videos}
        shapes |= {store.videos[stem].shape: stem for stem in stay}
    if len(shapes) > 1:
        (one, first), (other, second) = list(shapes.items())[:2]
        raise FeatureStoreError(
            f"all videos of a store have one shape (C, H, W): {first} has {one}, {second} has {other}; "
            "is the layout right? if so, import them into two stores"
        )


def _check_disk(videos: Iterable[FoundVideo], out: Path) -> None:
    needed = sum(2 * int(np.prod(video.shape)) for video in videos)
    folder = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if needed > (free := shutil.disk_usage(folder).free):
        raise DiskError(
            f"the disk of {out} is too small: the features need {needed / 1e9:.3g} GB, {free / 1e9:.3g} GB are free; "
            "free some space or choose another folder"
        )


def _import_into(store: FeatureStore, video: FoundVideo, layout: Layout, window_s: float, fps: float) -> None:
    count = video.shape[0]
    starts = np.arange(count + 1) * window_s
    times = np.stack([starts[:-1], starts[1:]], axis=1)
    size_bytes = video.path.stat().st_size
    entry = VideoEntry(video.stem, count, video.shape[1:], fps, float(starts[-1]), video.path.name, size_bytes)
    with open_arrays(video.path) as arrays, store.writer(entry) as writer:
        for start, piece in _pieces(layout.to_stored(arrays[video.array].load())):
            writer.append(_to_float16(video.stem, piece), times[start : start + len(piece)])


def _pieces(features: NDArray[np.number]) -> Iterator[tuple[int, NDArray[np.number]]]:
    """Cut (T, C, H, W) into pieces that are small in memory; yield each with its first window."""
    step = max(1, _PIECE_BYTES // features[0].nbytes)
    for start in range(0, len(features), step):
        yield start, features[start : start + step]


def _to_float16(name: str, features: NDArray[np.number]) -> NDArray[np.float16]:
    if not np.isfinite(features).all():
        raise FeatureStoreError(f"the features of {name} must be finite: given NaN or infinity; extract the video anew")
    with np.errstate(over="ignore"):  # refused below, in words
        converted = features.astype(np.float16)
    if not np.isfinite(converted).all():
        largest = np.finfo(np.float16).max
        raise FeatureStoreError(
            f"the features of {name} must fit into float16, +-{largest:.0f}: given {np.abs(features).max():.6g}; "
            "scale all features down by one number"
        )
    return converted
