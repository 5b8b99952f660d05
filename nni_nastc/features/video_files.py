"""Video files in folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from nni_nastc.errors import VideoError

VIDEO_SUFFIXES = frozenset({
    ".3gp", ".asf", ".avi", ".divx", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".ogv", ".ts", ".vob", ".webm", ".wmv",
})
"""What a file in a folder is taken for a video by; a file that is named itself may have any suffix."""


def find_videos(paths: Iterable[Path | str]) -> list[Path]:
    """List videos.

    Parameters
    ----------
    paths : iterable of Path or str
        Videos, and folders that are searched with all their subfolders for files with one of :data:`VIDEO_SUFFIXES`.

    Returns
    -------
    list of Path
        Sorted, each file once.

    Raises
    ------
    VideoError
        If a path does not exist, a folder holds no video, or two videos have the same name without suffix, by which
        features and annotations know them.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        videos = _videos_in(path) if path.is_dir() else [path]
        if not videos:
            raise VideoError(f"no video in the folder {path}: looked for *{', *'.join(sorted(VIDEO_SUFFIXES))}")
        for video in videos:
            check_exists(video)
            found.setdefault(video.resolve(), video)
    by_stem: dict[str, Path] = {}
    for video in sorted(found.values()):
        other = by_stem.setdefault(video.stem, video)
        if other is not video:
            raise VideoError(
                f"two videos have the name {video.stem}: {other} and {video}; names without suffix must differ, "
                "rename one"
            )
    return list(by_stem.values())


def check_exists(path: Path) -> None:
    """Refuse a path that leads to no file.

    Raises
    ------
    VideoError
        If there is none.
    """
    if not path.is_file():
        raise VideoError(f"no such file: {path}; check the path")


def _videos_in(folder: Path) -> list[Path]:
    return [
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith(".")
    ]
