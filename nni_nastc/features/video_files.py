"""Videos in folders, and their names: files, and folders of numbered images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from nni_nastc.errors import VideoError
from nni_nastc.features.frame_folders import holds_frames

VIDEO_SUFFIXES = frozenset({
    ".3gp", ".asf", ".avi", ".divx", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".ogv", ".ts", ".vob", ".webm", ".wmv",
})
"""What a file in a folder is taken for a video by; a file that is named itself may have any suffix."""


def find_videos(paths: Iterable[Path | str]) -> dict[str, Path]:
    """List videos.

    Parameters
    ----------
    paths : iterable of Path or str
        Videos, and folders that are searched with all their subfolders for files with one of :data:`VIDEO_SUFFIXES`,
        and for folders that hold numbered images and no such file: each of them is one video.

    Returns
    -------
    dict of str to Path
        Name -> file, or folder of images; sorted by path, each video once.

    Raises
    ------
    VideoError
        If a path does not exist, a folder holds no video, or two videos have the same name, by which features and
        annotations know them.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            check_exists(path)
        videos = _videos_in(path) if path.is_dir() else [path]
        if not videos:
            raise VideoError(
                f"no video in the folder {path}: looked for *{', *'.join(sorted(VIDEO_SUFFIXES))}, and folders of "
                "numbered images"
            )
        for video in videos:
            found.setdefault(video.resolve(), video)
    named: dict[str, Path] = {}
    for video in sorted(found.values()):
        other = named.setdefault(video_name(video), video)
        if other is not video:
            raise VideoError(
                f"two videos have the name {video_name(video)}: {other} and {video}; names without suffix must differ, "
                "rename one, or take the names of the annotations (--annotations)"
            )
    return named


def video_name(path: Path) -> str:
    """Return the name of a video: that of its file without suffix, or that of its folder of images."""
    return path.name if path.is_dir() else path.stem


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
    found = []
    for parent, _, names in os.walk(folder):
        videos = [name for name in names if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith(".")]
        if videos:
            found += [Path(parent, name) for name in videos]
        elif holds_frames(names):
            found.append(Path(parent))
    return found
