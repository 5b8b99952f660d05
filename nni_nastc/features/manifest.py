"""What a feature store says of itself: how it was made, and which videos it holds.

The manifest lists all videos. The header of each video's file says the same of that one video.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from nni_nastc.errors import FeatureStoreError
from nni_nastc.features.backbone_names import BACKBONE_ENDPOINTS, Precision
from nni_nastc.features.superframes import SUPERFRAME_LENGTH
from nni_nastc.files import read_json, typed_fields, write_json

MANIFEST_FILE = "manifest.json"

_FORMAT = "nni_nastc.store"
_VERSION = 1
_ENTRY_KEY = "nni_nastc.video"
_SETTINGS_KEY = "nni_nastc.settings"


@dataclass(frozen=True)
class StoreSettings:
    """How the features of a store are made of videos. All of a store are made alike.

    Features that were imported, or made up, have no backbone of :data:`BACKBONE_ENDPOINTS`: what they are stands in the
    place of weights and digest. The pixels of imported ones are 0.

    Parameters
    ----------
    weights : str
        Name of the backbone's weights.
    weights_digest : str
        Their digest, which decides whether two extractions agree.
    backbone, endpoint : str
        Network, and the layer whose output is stored.
    dtype : str
        Of the stored features: "float16".
    short_side, crop : int
        Pixels: the frames' short side after the resize, and the centre crop's side.
    superframe_length : int
        Frames a window.
    windows : "all" or int
        All non-overlapping windows of a video, or that many, evenly spaced.
    pool : int or None
        H and W are averaged to this size; None keeps them.
    precision : str
        That the backbone computed with: "float32" or "bfloat16".
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
    precision: Precision = "float32"

    @classmethod
    def from_dict(cls, value: Any) -> StoreSettings:
        """Read JSON values; a ``TypeError`` tells what is wrong with them."""
        return cls(**typed_fields(cls, value))

    @property
    def from_videos(self) -> bool:
        """Whether such features can be made of a video here."""
        known = self.endpoint in BACKBONE_ENDPOINTS.get(self.backbone, ())
        return known and self.superframe_length == SUPERFRAME_LENGTH

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
        Length of the video, or the end of its last window where no more is known.
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
    def from_dict(cls, value: Any) -> VideoEntry:
        """Read JSON values; a ``TypeError`` tells what is wrong with them."""
        return cls(**typed_fields(cls, value))


def write_manifest(path: Path, settings: StoreSettings, videos: Mapping[str, VideoEntry]) -> None:
    """Write the manifest of a store, whole or not at all.

    Parameters
    ----------
    path : Path
        The store's folder.
    settings : StoreSettings
        How all videos were extracted.
    videos : mapping
        Name -> entry.
    """
    entries = {stem: asdict(videos[stem]) for stem in sorted(videos)}
    manifest = {"format": _FORMAT, "version": _VERSION, "settings": asdict(settings), "videos": entries}
    write_json(path / MANIFEST_FILE, manifest)


def read_manifest(path: Path) -> tuple[StoreSettings, dict[str, VideoEntry]]:
    """Read the manifest of a store.

    Raises
    ------
    FeatureStoreError
        If it is missing, damaged or of another version.
    """
    manifest = path / MANIFEST_FILE
    if not manifest.is_file():
        raise FeatureStoreError(f"no feature store at {path}: it has no {MANIFEST_FILE}; run nastc extract")
    value = read_json(manifest, FeatureStoreError)
    if not isinstance(value, dict) or value.get("format") != _FORMAT or value.get("version") != _VERSION:
        raise FeatureStoreError(f"{manifest} is no manifest of version {_VERSION}; extract into another folder")
    try:
        settings = StoreSettings.from_dict(value["settings"])
        return settings, {stem: VideoEntry.from_dict(entry) for stem, entry in value["videos"].items()}
    except (KeyError, TypeError, AttributeError) as problem:
        raise FeatureStoreError(
            f"{manifest} is damaged ({problem}); remove it, and nastc extract makes it anew from the other files"
        ) from problem


def to_metadata(settings: StoreSettings, entry: VideoEntry) -> dict[str, str]:
    """Return what the header of a video's file says."""
    return {_ENTRY_KEY: json.dumps(asdict(entry)), _SETTINGS_KEY: json.dumps(asdict(settings))}


def from_metadata(metadata: Mapping[str, str]) -> tuple[StoreSettings, VideoEntry] | None:
    """Return what the header of a video's file says, or None if that makes no sense."""
    try:
        settings = StoreSettings.from_dict(json.loads(metadata[_SETTINGS_KEY]))
        return settings, VideoEntry.from_dict(json.loads(metadata[_ENTRY_KEY]))
    except (ValueError, KeyError, TypeError):
        return None
