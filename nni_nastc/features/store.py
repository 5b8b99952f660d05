"""The feature store: a folder with one safetensors file a video, and a manifest that tells how they were made.

::

    STORE/manifest.json          settings of the extraction, and an entry for each video
    STORE/<stem>.safetensors     features (windows, C, H, W) float16, times (windows, 2) float64 in seconds

Files are written whole or not at all. A video's file carries its entry too, so that a manifest that missed it, because
the process was killed between the two, is mended from the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nni_nastc.errors import FeatureStoreError
from nni_nastc.features.superframes import SUPERFRAME_LENGTH
from nni_nastc.files import atomic_path, disk_errors, read_json, write_json

MANIFEST_FILE = "manifest.json"
SUFFIX = ".safetensors"

_FORMAT = "nni_nastc.store"
_VERSION = 1
_ENTRY_KEY = "nni_nastc.video"
_SETTINGS_KEY = "nni_nastc.settings"


@dataclass(frozen=True)
class StoreSettings:
    """How the features of a store are made of videos. All of a store are made alike.

    Parameters
    ----------
    weights : str
        Name of the backbone's weights.
    weights_digest : str
        Their digest, which decides whether two extractions agree.
    backbone, endpoint : str
        Network, and the layer whose output is stored.
    dtype : str
        Of the stored features.
    short_side, crop : int
        Pixels: the frames' short side after the resize, and the centre crop's side.
    superframe_length : int
        Frames a window.
    windows : "all" or int
        All non-overlapping windows of a video, or that many, evenly spaced.
    pool : int or None
        H and W are averaged to this size; None keeps them.
    """

    weights: str
    weights_digest: str
    backbone: str = "i3d"
    endpoint: str = "Mixed_5c"
    dtype: str = "float16"
    short_side: int = 256
    crop: int = 224
    superframe_length: int = SUPERFRAME_LENGTH
    windows: Literal["all"] | int = "all"
    pool: int | None = None

    def differences(self, other: StoreSettings) -> list[str]:
        """Return the settings that differ, as ``name: ours, theirs``. The weights' name does not count."""
        return [
            f"{field.name}: {getattr(self, field.name)}, {getattr(other, field.name)}"
            for field in fields(self)
            if field.name != "weights" and getattr(self, field.name) != getattr(other, field.name)
        ]


@dataclass(frozen=True)
class VideoEntry:
    """What the manifest says of a video.

    Parameters
    ----------
    stem : str
        File name without suffix; the video's name everywhere.
    windows : int
        Stored windows.
    shape : tuple of int
        (C, H, W) of a window.
    fps : float
        Frames a second, on average.
    duration_s : float
        End of the last window in seconds.
    source : str
        File name of the video.
    size_bytes : int
        Size of the video file.
    """

    stem: str
    windows: int
    shape: tuple[int, int, int]
    fps: float
    duration_s: float
    source: str
    size_bytes: int

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> VideoEntry:
        """Read JSON values."""
        return cls(**{**value, "shape": tuple(value["shape"])})


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

    @classmethod
    def open(cls, path: Path | str) -> FeatureStore:
        """Open a store to read from it.

        Raises
        ------
        FeatureStoreError
            If the folder is no store, or its manifest is damaged or of another version.
        """
        path = Path(path)
        manifest = path / MANIFEST_FILE
        if not manifest.is_file():
            raise FeatureStoreError(f"no feature store at {path}: it has no {MANIFEST_FILE}; run nastc extract")
        return cls._parse(path, read_json(manifest, FeatureStoreError))

    @classmethod
    def create_or_open(cls, path: Path | str, settings: StoreSettings) -> FeatureStore:
        """Make a store, or open one to add videos that are extracted with the same settings.

        Raises
        ------
        FeatureStoreError
            If the store was made with other settings (says which), or the folder holds other files.
        """
        path = Path(path)
        try:
            with disk_errors(path):
                path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as problem:
            raise FeatureStoreError(f"the store {path} cannot be made ({problem.strerror}); choose another") from None
        with _locked(path):
            if not (path / MANIFEST_FILE).is_file():
                if foreign := sorted(file.name for file in path.iterdir() if not file.name.startswith(".")):
                    raise FeatureStoreError(f"{path} holds other files ({foreign[0]}, ...); choose an empty folder")
                cls(path, settings, {})._write_manifest()
            store = cls.open(path)
            if differing := store.settings.differences(settings):
                raise FeatureStoreError(
                    f"the store {path} was made with other settings ({'; '.join(differing)}); "
                    "extract with its settings, or into another folder"
                )
            store._mend()
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
            f"all videos of a store have one shape (C, H, W), in {self.path} {first} has {one}, {second} has {other}"
        )

    def __contains__(self, stem: object) -> bool:
        return stem in self._videos

    def __len__(self) -> int:
        return len(self._videos)

    def file(self, stem: str) -> Path:
        """Return the file of a video."""
        return self.path / f"{stem}{SUFFIX}"

    def write(
        self, stem: str, features: np.ndarray, times: np.ndarray, fps: float, source: str, size_bytes: int
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
        features = np.ascontiguousarray(features, dtype=self.settings.dtype)
        times = np.ascontiguousarray(times, dtype=np.float64)
        if features.ndim != 4 or not len(features) or times.shape != (len(features), 2):
            raise FeatureStoreError(
                f"{stem}: features must be (windows, C, H, W) and times (windows, 2), "
                f"got {features.shape} and {times.shape}"
            )
        _require_finite(stem, features)
        duration_s = float(times[-1, 1])
        entry = VideoEntry(stem, len(features), features.shape[1:], float(fps), duration_s, source, int(size_bytes))
        metadata = {_ENTRY_KEY: json.dumps(asdict(entry)), _SETTINGS_KEY: json.dumps(asdict(self.settings))}
        with atomic_path(self.file(stem)) as temporary:
            save_file({"features": features, "times": times}, temporary, metadata=metadata)
        with _locked(self.path):
            # Another process may have added videos since.
            self._videos = {**type(self).open(self.path)._videos, stem: entry}
            self._write_manifest()
        return entry

    def read(self, stem: str, indices: np.ndarray) -> np.ndarray:
        """Read some windows of a video, and no others.

        Parameters
        ----------
        stem : str
            The video's name.
        indices : int array of shape (T,)
            Numbers of windows, in any order, repeated or not.

        Returns
        -------
        array of shape (T, C, H, W)
            As stored.

        Raises
        ------
        FeatureStoreError
            If the video is not in the store, its file is missing or damaged, or a feature is not finite.
        """
        with self._opened(stem) as file:
            features = file.get_slice("features")
            count = features.get_shape()[0]
            if len(indices) and not (min(indices) >= 0 and max(indices) < count):
                raise FeatureStoreError(f"{stem} has windows 0 to {count - 1}, got {min(indices)} to {max(indices)}")
            known = {int(index): features[int(index) : int(index) + 1] for index in np.unique(indices)}
            drawn = np.concatenate([known[int(index)] for index in indices])
        _require_finite(stem, drawn)
        return drawn

    def times(self, stem: str) -> np.ndarray:
        """Return start and end of all windows of a video in seconds, (windows, 2)."""
        with self._opened(stem) as file:
            return file.get_tensor("times")

    @contextmanager
    def _opened(self, stem: str) -> Iterator[Any]:
        """Open a video's file; damage becomes an error that says what to do."""
        if stem not in self._videos:
            raise FeatureStoreError(f"the store {self.path} has no video {stem}; extract it")
        try:
            with safe_open(self.file(stem), framework="numpy") as file:
                yield file
        except (FileNotFoundError, SafetensorError) as problem:
            raise FeatureStoreError(
                f"{self.file(stem)} is missing or damaged ({problem}); remove it and extract the video again"
            ) from problem

    def _mend(self) -> None:
        """Take up videos whose file was written but not yet their entry, and drop entries without a file."""
        files = {file.stem: file for file in self.path.glob(f"*{SUFFIX}") if not file.name.startswith(".")}
        found = {stem: entry for stem, entry in self._videos.items() if stem in files}
        for stem in sorted(set(files) - set(found)):
            if (entry := _entry_in(files[stem], self.settings)) is not None:
                found[stem] = entry
        if found != self._videos:
            self._videos = found
            self._write_manifest()

    def _write_manifest(self) -> None:
        videos = {stem: asdict(self._videos[stem]) for stem in sorted(self._videos)}
        manifest = {"format": _FORMAT, "version": _VERSION, "settings": asdict(self.settings), "videos": videos}
        write_json(self.path / MANIFEST_FILE, manifest)

    @classmethod
    def _parse(cls, path: Path, value: Any) -> FeatureStore:
        """Read the content of a manifest."""
        manifest = path / MANIFEST_FILE
        if not isinstance(value, dict) or value.get("format") != _FORMAT or value.get("version") != _VERSION:
            raise FeatureStoreError(f"{manifest} is no manifest of version {_VERSION}; extract into another folder")
        try:
            settings = StoreSettings(**value["settings"])
            videos = {stem: VideoEntry.from_dict(entry) for stem, entry in value["videos"].items()}
        except (KeyError, TypeError, AttributeError) as problem:
            raise FeatureStoreError(
                f"{manifest} is damaged ({problem}); remove it, and nastc extract mends it from the files"
            ) from problem
        return cls(path, settings, videos)


def _entry_in(file: Path, settings: StoreSettings) -> VideoEntry | None:
    """Return the entry that a video's file carries, or None if it is not whole or of other settings."""
    try:
        with safe_open(file, framework="numpy") as content:
            metadata = content.metadata() or {}
        if settings.differences(StoreSettings(**json.loads(metadata[_SETTINGS_KEY]))):
            return None
        return VideoEntry.from_dict(json.loads(metadata[_ENTRY_KEY]))
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError):
        return None


def _require_finite(stem: str, features: np.ndarray) -> None:
    """Refuse NaN and infinity; a sum in float32 finds them without a temporary of the array's size."""
    if not np.isfinite(features.sum(dtype=np.float32)):
        raise FeatureStoreError(f"{stem} has features that are NaN or infinite; extract the video again")


def _locked(path: Path) -> FileLock:
    """Return the lock under which the manifest is read and written again."""
    return FileLock(path / ".lock")
