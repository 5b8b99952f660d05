"""The files of annotated videos, where the official download has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nni_nastc.data.records import VideoRecord
from nni_nastc.errors import VideoError
from nni_nastc.features.video_files import find_videos


def find_annotated(records: Sequence[VideoRecord], folders: Sequence[Path]) -> dict[str, Path]:
    """Find the videos of annotations, which may have other names than their files.

    Parameters
    ----------
    records : sequence of VideoRecord
        The annotated videos.
    folders : sequence of Path
        Where to look: for each record's :attr:`~VideoRecord.file` below each of them, or a folder of images of that
        name without suffix; where the annotations tell no file, for one that has the record's name.

    Returns
    -------
    dict of str to Path
        Record's id -> file or folder; of one that is missing, where it should be.

    Raises
    ------
    VideoError
        If a folder is missing, or none of the videos is there.
    """
    for folder in folders:
        if not folder.is_dir():
            raise VideoError(f"no such folder: {folder}; annotated videos are looked for in folders, check the path")
    named = {} if all(record.file for record in records) else find_videos(folders)
    found = {
        record.id: _place(record.file, folders) if record.file else named.get(record.id, folders[0] / record.id)
        for record in records
    }
    if not any(path.exists() for path in found.values()):
        raise VideoError(
            f"none of the {len(found)} annotated videos is there: the first would be {next(iter(found.values()))}; "
            "check the folder"
        )
    return found


def _place(file: str, folders: Sequence[Path]) -> Path:
    """Return the first place that there is, of the file or of a folder of its images; or else the first file."""
    files = [folder / file for folder in folders]
    return next((place for path in files for place in (path, path.with_suffix("")) if place.exists()), files[0])
