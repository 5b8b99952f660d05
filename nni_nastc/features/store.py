"""The feature store: a folder with one safetensors file a video, and a manifest that tells how they were made.

::

    STORE/manifest.json          settings of the extraction, and an entry for each video
    STORE/<stem>.safetensors     features (windows, C, H, W) float16, times (windows, 2) float64 in seconds

Files are written whole or not at all. A video's file carries its entry too: the files are the truth, and the manifest
is brought up to date from them where a process was killed between the two. Several processes may write one store.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unicodedata import category

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from nni_nastc.errors import FeatureStoreError
from nni_nastc.features.manifest import (
    MANIFEST_FILE,
    StoreSettings,
    VideoEntry,
    from_metadata,
    read_manifest,
    to_metadata,
    write_manifest,
)
from nni_nastc.features.store_files import VideoWriter, hold, open_video, remove_abandoned, require_finite
from nni_nastc.files import atomic_path, check_folder, make_folder

__all__ = ["FeatureStore", "StoreSettings", "VideoEntry"]

SUFFIX = ".safetensors"

# While videos are added one by one the manifest is not written more often (our choice).
_SAVE_EVERY_S = 10.0


class FeatureStore:
    """A folder of extracted features. Made by :meth:`create_or_open` or :meth:`open`.

    Parameters
    ----------
    path : Path
        The folder.
    settings : StoreSettings
        How the features are made.
    videos : mapping
        Name -> entry.
    """

    def __init__(self, path: Path, settings: StoreSettings, videos: Mapping[str, VideoEntry]) -> None:
        self.path = path
        self.settings = settings
        self._videos = dict(videos)
        self._unsaved: dict[str, VideoEntry] = {}
        self._saved_at = time.monotonic()

    @classmethod
    def open(cls, path: Path | str) -> FeatureStore:
        """Open a store to read from it; the folder is left as it is.

        Raises
        ------
        FeatureStoreError
            If the folder is no store, or its manifest is damaged or of another version.
        """
        path = Path(path)
        settings, listed = read_manifest(path)
        return cls(path, settings, _found_videos(path, settings, listed))

    @classmethod
    def create_or_open(cls, path: Path | str, settings: StoreSettings) -> FeatureStore:
        """Make a store, or open one to add videos that are extracted with the same settings.

        Raises
        ------
        FeatureStoreError
            If the store was made with other settings (says which), or the folder holds other files.
        DiskError
            If the disk is full.
        """
        path = Path(path)
        make_folder(path, FeatureStoreError)
        with _locked(path):
            remove_abandoned([*path.glob(f".*-*{SUFFIX}"), *path.glob(f".{Path(MANIFEST_FILE).stem}-*")])
            if not (path / MANIFEST_FILE).is_file():
                _refuse_foreign_files(path)
                write_manifest(path, settings, {})
            written, listed = read_manifest(path)
            _refuse_other_settings(path, written, settings)
            store = cls(path, written, _found_videos(path, written, listed))
            if store._videos != listed:
                write_manifest(path, written, store.videos)
        return store

    @classmethod
    def find(cls, path: Path | str, settings: StoreSettings) -> FeatureStore | None:
        """Return the store that :meth:`create_or_open` would open, None if it would make one; writes nothing.

        Raises
        ------
        FeatureStoreError
            Where :meth:`create_or_open` would refuse.
        """
        path = Path(path)
        check_folder(path, FeatureStoreError)
        if not path.exists():
            return None
        if not (path / MANIFEST_FILE).is_file():
            _refuse_foreign_files(path)
            return None
        store = cls.open(path)
        _refuse_other_settings(path, store.settings, settings)
        return store

    @property
    def videos(self) -> Mapping[str, VideoEntry]:
        """Name -> entry of every video."""
        return MappingProxyType(self._videos)

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of all windows.

        Raises
        ------
        FeatureStoreError
            If the store is empty, or its videos differ.
        """
        shapes = {entry.shape: stem for stem, entry in self._videos.items()}
        if len(shapes) == 1:
            return next(iter(shapes))
        if not shapes:
            raise FeatureStoreError(f"the store {self.path} holds no videos; extract some into it")
        (one, first), (other, second) = list(shapes.items())[:2]
        raise FeatureStoreError(
            f"all videos of a store have one shape (C, H, W), in {self.path} {first} has {one}, {second} has {other}; "
            "remove the files of one kind and extract those videos again"
        )

    def __contains__(self, stem: object) -> bool:
        return stem in self._videos

    def __len__(self) -> int:
        return len(self._videos)

    def file(self, stem: str) -> Path:
        """Return the file of a video."""
        return self.path / f"{stem}{SUFFIX}"

    def write(
        self,
        stem: str,
        features: NDArray[Any],
        times: NDArray[Any],
        fps: float,
        source: str,
        size_bytes: int,
    ) -> VideoEntry:
        """Add a video, or replace it.

        Parameters
        ----------
        stem : str
            The video's name.
        features : array of shape (windows, C, H, W)
            Stored as float16.
        times : array of shape (windows, 2)
            Start and end of each window in seconds.
        fps, source, size_bytes
            See :class:`VideoEntry`.

        Raises
        ------
        FeatureStoreError
            If shapes are wrong or a feature is NaN or infinite.
        DiskError
            If the disk fills up; nothing half-written stays.
        """
        features, times = np.asarray(features), np.asarray(times)
        if features.ndim != 4 or not len(features) or times.shape != (len(features), 2):
            raise FeatureStoreError(
                f"{stem}: features must be (windows, C, H, W) and times (windows, 2): "
                f"given {features.shape} and {times.shape}"
            )
        channels, height, width = features.shape[1:]
        entry = VideoEntry(
            stem, len(features), (channels, height, width), float(fps), float(times[-1, 1]), source, int(size_bytes)
        )
        with self.writer(entry) as writer:
            writer.append(features, times)
        self.save()
        return entry

    @contextmanager
    def writer(self, entry: VideoEntry) -> Iterator[VideoWriter]:
        """Add a video, or replace it, piece by piece.

        The file takes its place when the block ends, and is not made if an error leaves it. The manifest follows within
        some seconds, or at :meth:`save`.

        Parameters
        ----------
        entry : VideoEntry
            What will be written.

        Yields
        ------
        VideoWriter
            To be given all windows in their order.

        Raises
        ------
        FeatureStoreError
            If other windows come than the entry says, or a feature is NaN or infinite.
        DiskError
            If the disk fills up; nothing half-written stays.
        """
        if entry.stem.startswith("."):
            raise FeatureStoreError(f"a video's name must not start with a dot: given {entry.stem}; rename the file")
        if any(category(letter) in ("Cc", "Cs") for letter in entry.stem):
            raise FeatureStoreError(
                f"a video's name must be text in UTF-8 on one line: given {entry.stem!r}; rename the file"
            )
        with ExitStack() as held, ExitStack() as stack:
            with _locked(self.path):  # so that nobody takes the file for abandoned before it is held
                temporary = stack.enter_context(atomic_path(self.file(entry.stem)))
                hold(held.enter_context(open(temporary, "rb")))
            stream = stack.enter_context(open(temporary, "r+b"))
            writer = VideoWriter(stream, entry.stem, entry.windows, entry.shape, to_metadata(self.settings, entry))
            yield writer
            writer.finish()
        self._videos[entry.stem] = self._unsaved[entry.stem] = entry
        if time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Bring the manifest up to date, with what other processes have added too."""
        if self._unsaved:
            with _locked(self.path):
                _, listed = read_manifest(self.path)
                self._videos = {**self._videos, **listed, **self._unsaved}
                write_manifest(self.path, self.settings, self._videos)
        self._unsaved = {}
        self._saved_at = time.monotonic()

    def read(
        self, stem: str, indices: NDArray[np.integer] | Sequence[int], out: NDArray[np.float16] | None = None
    ) -> NDArray[np.float16]:
        """Read some windows of a video, and no others.

        Parameters
        ----------
        stem : str
            The video's name.
        indices : int array of shape (T,)
            Numbers of windows, in any order, repeated or not.
        out : array of shape (T, C, H, W), optional
            Where to read to: float16 without gaps. A new array by default.

        Returns
        -------
        array of shape (T, C, H, W)
            As stored; ``out`` if it was given.

        Raises
        ------
        FeatureStoreError
            If the video or a window is not in the store, its file is missing or damaged, or a feature is not finite.
        """
        indices = np.asarray(indices)
        with open_video(self._known_file(stem)) as file:
            count = file.shape[0]
            if len(indices) and not 0 <= indices.min() <= indices.max() < count:
                raise FeatureStoreError(
                    f"{stem} has windows 0 to {count - 1} in the store {self.path}: "
                    f"given {indices.min()} to {indices.max()}; extract the video again or draw other windows"
                )
            shape = (len(indices), *file.shape[1:])
            if out is None:
                out = np.empty(shape, np.float16)
            elif out.shape != shape:
                raise FeatureStoreError(
                    f"{stem} has features of shape {shape} in the store {self.path}: {out.shape} was expected; "
                    "all videos of a store have one shape, extract the video again"
                )
            file.read_into(out, indices)
        require_finite(stem, out)
        return out

    def times(self, stem: str) -> NDArray[np.float64]:
        """Return start and end of all windows of a video in seconds, (windows, 2)."""
        with open_video(self._known_file(stem)) as file:
            return file.times()

    def is_whole(self, stem: str) -> bool:
        """Tell whether a video is in the store and its file can be read, by its header and its size."""
        try:
            with open_video(self._known_file(stem)):
                return True
        except FeatureStoreError:
            return False

    def _known_file(self, stem: str) -> Path:
        if stem not in self._videos:
            raise FeatureStoreError(f"the store {self.path} has no video {stem}; extract it")
        return self.file(stem)


def _found_videos(path: Path, settings: StoreSettings, listed: Mapping[str, VideoEntry]) -> dict[str, VideoEntry]:
    """Return the listed videos that have a file, and those whose file the manifest does not know yet."""
    files = {file.stem: file for file in _video_files(path)}
    found = {stem: entry for stem, entry in listed.items() if stem in files}
    for stem in sorted(files.keys() - listed.keys()):
        try:
            with open_video(files[stem]) as file:
                known = from_metadata(file.metadata)
        except FeatureStoreError:
            known = None
        if known is None:
            continue  # nothing that can be used: the video counts as missing, and extraction replaces it
        made_with, entry = known
        if differing := settings.differences(made_with):
            raise FeatureStoreError(
                f"{files[stem]} was made with other settings than its store ({'; '.join(differing)}); move it elsewhere"
            )
        found[stem] = replace(entry, stem=stem)
    return found


def _refuse_other_settings(path: Path, written: StoreSettings, settings: StoreSettings) -> None:
    if differing := written.differences(settings):
        raise FeatureStoreError(
            f"the store {path} was made with other settings ({'; '.join(differing)}); "
            "extract with its settings, or into another folder"
        )


def _refuse_foreign_files(path: Path) -> None:
    """Refuse a folder without a manifest that holds anything but features that lost theirs."""
    foreign = {file for file in path.iterdir() if not file.name.startswith(".")} - set(_video_files(path))
    if foreign:
        raise FeatureStoreError(f"{path} holds other files ({min(foreign).name}, ...); choose an empty folder")


def _video_files(path: Path) -> list[Path]:
    return [file for file in path.glob(f"*{SUFFIX}") if not file.name.startswith(".")]


def _locked(path: Path) -> FileLock:
    """Return the lock under which the manifest is read and written again."""
    return FileLock(path / ".lock")
