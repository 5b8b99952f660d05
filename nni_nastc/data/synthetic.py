"""Data that the package makes itself: videos for ``nastc demo``, and features to try networks without a backbone.

They hold activities that are told only by the order of their parts, or only by how long these take; see
:mod:`nni_nastc.data.orders`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from nni_nastc.data.orders import (
    NUM_PARTS,
    OrderedVideo,
    annotations_of,
    duration_names,
    order_names,
    plan_durations,
    plan_videos,
)
from nni_nastc.data.shapes import SHAPES, draw_frames
from nni_nastc.errors import DataError, RunFolderError
from nni_nastc.features.store import FeatureStore, StoreSettings
from nni_nastc.features.superframes import SUPERFRAME_LENGTH
from nni_nastc.files import atomic_path, make_folder, read_json, write_json

FPS = 16
WINDOW_S = SUPERFRAME_LENGTH / FPS

PART_NAMES = tuple(f"part {part}" for part in range(NUM_PARTS))
"""What the parts of made-up features are called."""


def make_moving_shapes(
    out: Path | str, *, videos: int = 96, frames: int = 128, size: int = 128, classes: int = 4, seed: int = 0
) -> Path:
    """Make small videos of moving shapes, whose activity is the order in which the shapes come.

    A quarter of the videos is the test part. Neither pooling over time nor any single moment tells the activity, so
    their accuracy is chance, 1 / ``classes``. Each video is written whole or not at all, and a second call makes those
    that are missing.

    Parameters
    ----------
    out : Path or str
        Gets ``videos/shapes_000.mp4`` (H.264, 16 frames a second) and so on, and ``annotations.json`` in the generic
        format, with the shapes as parts.
    videos : int
        At least two an activity.
    frames : int
        Frames a video, a multiple of 8, at least 64.
    size : int
        Height and width in pixels, even, at least 32.
    classes : int
        Activities, 2 to 6.
    seed : int
        Seeds everything.

    Returns
    -------
    Path
        ``annotations.json``.

    Raises
    ------
    DataError
        If a number is out of its range.
    RunFolderError
        If ``out`` holds other annotations.
    DiskError
        If the disk fills up.
    """
    if frames % SUPERFRAME_LENGTH:
        raise DataError(f"frames must be a multiple of {SUPERFRAME_LENGTH}, got {frames}")
    if size < 32 or size % 2:
        raise DataError(f"size must be even and at least 32, got {size}")
    plan = plan_videos(
        videos=videos, windows=frames // SUPERFRAME_LENGTH, classes=classes, seed=seed, prefix="shapes"
    )
    source = f"moving shapes: {videos} videos, {frames} frames, {size} pixels, {classes} classes, seed {seed}"
    folder, path = Path(out) / "videos", Path(out) / "annotations.json"
    annotations = annotations_of(plan, SHAPES, order_names(SHAPES, classes), window_s=WINDOW_S, source=source)
    make_folder(folder)
    if path.exists() and read_json(path) != annotations:
        raise RunFolderError(f"{path} is not of the videos asked for ({source}); choose another folder or remove it")
    write_json(path, annotations)
    for number, video in enumerate(plan):
        target = folder / f"{video.name}.mp4"
        if not target.exists():
            rng = np.random.default_rng([seed, number, 1])
            parts = [(run.part, (run.end - run.first) * SUPERFRAME_LENGTH) for run in video.runs]
            with atomic_path(target) as temporary:
                _encode(temporary, draw_frames(parts, size, rng), size)
    return path


def _encode(path: Path, frames: Iterable[np.ndarray], size: int) -> None:
    """Write frames (size, size, 3) uint8 as an H.264 video."""
    import av

    # A key frame every 8 frames, so that no superframe is coloured by the one before it.
    options = {"crf": "18", "preset": "veryfast", "bf": "0", "threads": "1", "sc_threshold": "0"}
    options["g"] = options["keyint_min"] = str(SUPERFRAME_LENGTH)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def make_order_features(
    store: Path | str,
    annotations: Path | str,
    *,
    videos: int = 64,
    windows: int = 16,
    channels: int = 16,
    size: int = 2,
    classes: int = 4,
    noise: float = 0.25,
    seed: int = 0,
) -> FeatureStore:
    """Make features with which an activity is the order of its parts: what I3D would give, for tests.

    Each part has a random vector over the channels. A window's feature is that of its part plus noise, then ReLU.

    Parameters
    ----------
    store : Path or str
        Folder of the feature store to write.
    annotations : Path or str
        JSON file to write, in the generic format. A quarter of the videos is the test part.
    videos, windows, classes : int
        As for :func:`nni_nastc.data.orders.plan_videos`.
    channels, size : int
        C, and H = W.
    noise : float
        Standard deviation of the noise; the vectors of the parts have 1.
    seed : int
        Seeds everything.

    Returns
    -------
    FeatureStore
        With ``videos`` videos of (windows, C, H, W) float16.

    Raises
    ------
    DataError
        If the numbers do not allow it.
    FeatureStoreError
        If the store exists with other settings.
    """
    plan = plan_videos(videos=videos, windows=windows, classes=classes, seed=seed, prefix="order")
    source = f"order features: {videos} videos, {windows} windows, {classes} classes, seed {seed}"
    made = _write_features(store, plan, channels=channels, size=size, noise=noise, seed=seed, endpoint="order")
    _write_annotations(annotations, plan, order_names(PART_NAMES, classes), source)
    return made


def make_duration_features(
    store: Path | str,
    annotations: Path | str,
    *,
    videos: int = 64,
    windows: int = 16,
    channels: int = 16,
    size: int = 2,
    classes: int = 4,
    noise: float = 0.25,
    seed: int = 0,
) -> FeatureStore:
    """Make features with which an activity is the part that takes longest; the order is the same for all.

    Parameters
    ----------
    store, annotations, videos, windows, channels, size, noise, seed
        As for :func:`make_order_features`.
    classes : int
        Activities, 2 to 4.

    Returns
    -------
    FeatureStore
        With ``videos`` videos of (windows, C, H, W) float16.

    Raises
    ------
    DataError
        If the numbers do not allow it.
    FeatureStoreError
        If the store exists with other settings.
    """
    plan = plan_durations(videos=videos, windows=windows, classes=classes, seed=seed, prefix="duration")
    source = f"duration features: {videos} videos, {windows} windows, {classes} classes, seed {seed}"
    made = _write_features(store, plan, channels=channels, size=size, noise=noise, seed=seed, endpoint="duration")
    _write_annotations(annotations, plan, duration_names(PART_NAMES, classes), source)
    return made


def _write_features(
    store: Path | str,
    plan: Sequence[OrderedVideo],
    *,
    channels: int,
    size: int,
    noise: float,
    seed: int,
    endpoint: str,
) -> FeatureStore:
    """Write what a backbone would give: the vector of a window's part plus noise, then ReLU."""
    windows = plan[0].runs[-1].end
    rng = np.random.default_rng([seed, len(plan)])
    vectors = rng.standard_normal((NUM_PARTS, channels, 1, 1))
    starts = np.arange(windows) * WINDOW_S
    times = np.stack([starts, starts + WINDOW_S], axis=1)
    settings = StoreSettings(
        weights="none",
        weights_digest=f"made up, seed {seed}",
        backbone="made up",
        endpoint=endpoint,
        short_side=size,
        crop=size,
    )
    written = FeatureStore.create_or_open(store, settings)
    for video in plan:
        parts = np.concatenate([np.full(run.end - run.first, run.part) for run in video.runs])
        features = vectors[parts] + noise * rng.standard_normal((windows, channels, size, size))
        features = np.maximum(features, 0).astype(np.float16)
        written.write(video.name, features, times, fps=FPS, source=f"{video.name}.mp4", size_bytes=0)
    return written


def _write_annotations(path: Path | str, plan: Sequence[OrderedVideo], classes: Sequence[str], source: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(path, annotations_of(plan, PART_NAMES, classes, window_s=WINDOW_S, source=source))
