"""Videos as folders of numbered images, ``img_00001.jpg`` or ``VIDEO-000001.jpg``, as Charades is distributed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nni_nastc.errors import VideoError

_FRAME = re.compile(r"(?P<start>(?!\.).*?)(?P<number>(?<!\d)\d+)(?P<suffix>\.(?:jpg|jpeg|png))", re.IGNORECASE)
# Counting begins at one of these; else the first images are missing.
_FIRST_NUMBERS = (0, 1)
_AGAIN = "; copy or unpack them again"


@dataclass(frozen=True)
class FrameFolder:
    """The images of one video.

    Parameters
    ----------
    path : Path
        The folder.
    start, suffix : str
        What all names have before and after the number.
    digits : int
        Of the number, filled with zeros.
    first : int
        The first number.
    num_frames : int
        F; the numbers go on without a gap.
    size_bytes : int
        Of all images together.
    """

    path: Path
    start: str
    suffix: str
    digits: int
    first: int
    num_frames: int
    size_bytes: int

    @property
    def pattern(self) -> str:
        """Return path and names as FFmpeg writes a sequence of images: ``/FOLDER/img_%05d.jpg``."""
        before, after = (text.replace("%", "%%") for text in (f"{self.path.absolute()}/{self.start}", self.suffix))
        return f"{before}%0{self.digits}d{after}"


def holds_frames(names: Iterable[str]) -> bool:
    """Tell whether there is a numbered image among the files of a folder."""
    return any(_FRAME.fullmatch(name) for name in names)


def read_frame_folder(path: Path) -> FrameFolder:
    """List the images of a video, without opening them; other files are left alone.

    Raises
    ------
    VideoError
        If there is none, they are of several names, or one is missing.
    """
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(path) if _FRAME.fullmatch(entry.name)}
    found = sorted((_parts(name) for name in sizes), key=lambda parts: (parts[0], parts[2], int(parts[1]), parts[1]))
    if not found:
        raise VideoError(f"{path} holds no numbered images (such as img_00001.jpg); give another folder, or a video")
    start, digits, suffix = found[0]
    for other_start, _, other_suffix in found:
        if (other_start, other_suffix) != (start, suffix):
            raise VideoError(
                f"{path} holds images of several names ({start}*{suffix}, {other_start}*{other_suffix}), a video has "
                "one; move the others elsewhere"
            )
    first = int(digits)
    folder = FrameFolder(path, start, suffix, len(digits), first, len(found), sum(sizes.values()))
    if first not in _FIRST_NUMBERS:
        raise VideoError(f"{path}: the first image has the number 0 or 1, the first is {start}{digits}{suffix}{_AGAIN}")
    for number, (_, written, _) in enumerate(found, start=first):
        expected = f"{number:0{len(digits)}d}"
        if written != expected:
            raise VideoError(
                f"{path}: the images are numbered without a gap, {start}{expected}{suffix} is missing before "
                f"{start}{written}{suffix}{_AGAIN}"
            )
    return folder


def size_of(path: Path) -> int:
    """Return the bytes of a video: of its file, or of all its images."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(entry.stat().st_size for entry in os.scandir(path) if _FRAME.fullmatch(entry.name))


def require_rate(path: Path, fps: float | None) -> float:
    """Return the frame rate of images, which must be given because they do not tell it.

    Raises
    ------
    VideoError
        If it is missing.
    """
    if fps is None:
        raise VideoError(
            f"{path} is a folder of images, which do not tell how many are shown a second; "
            "give --fps (24 for the images of Charades)"
        )
    return fps


def _parts(name: str) -> tuple[str, str, str]:
    match = _FRAME.fullmatch(name)
    assert match is not None, "the caller has matched it"
    return match["start"], match["number"], match["suffix"]
