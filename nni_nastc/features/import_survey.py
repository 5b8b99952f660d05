"""Which videos the files of another extractor hold: names, arrays and shapes, by the files' headers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nni_nastc.errors import FeatureStoreError
from nni_nastc.features.array_files import (
    ARRAY_SUFFIXES,
    HDF5_SUFFIXES,
    PICKLE_SUFFIXES,
    StoredArray,
    open_arrays,
    require_hdf5,
)
from nni_nastc.features.layout import Layout
from nni_nastc.features.video_files import VIDEO_SUFFIXES


@dataclass(frozen=True)
class FoundVideo:
    """An array of features: the video's name, its file, the array's name there, and (T, C, H, W)."""

    stem: str
    path: Path
    array: str
    shape: tuple[int, int, int, int]


class _Refused(FeatureStoreError):
    """Stops the whole import."""


def find_files(source: Path, suffix: str) -> list[Path]:
    """List the files to import, pickles among them, which :func:`survey` refuses one by one.

    Raises
    ------
    FeatureStoreError
        If the source is missing or holds none, or h5py is missing where it is needed.
    """
    if source.is_file():
        files = [source]
    elif source.is_dir():
        known = (*ARRAY_SUFFIXES, *PICKLE_SUFFIXES)
        files = [
            file
            for file in sorted(source.rglob("*"))
            if file.suffix.lower() in known and file.stem.endswith(suffix) and not file.name.startswith(".")
        ]
    else:
        raise FeatureStoreError(f"no such file or folder: {source}; check the path")
    if not files:
        raise FeatureStoreError(
            f"nothing to import in {source}: looked for *{suffix}{f', *{suffix}'.join(ARRAY_SUFFIXES)}"
        )
    if any(file.suffix.lower() in HDF5_SUFFIXES for file in files):
        require_hdf5()
    return files


def survey(
    files: Iterable[Path], layout: Layout, key: str | None, suffix: str, *, one_for_all: bool
) -> tuple[list[FoundVideo], dict[str, str]]:
    """Look at the headers of all files.

    Parameters
    ----------
    files : iterable of Path
        From :func:`find_files`.
    layout : Layout
        Of all arrays.
    key, suffix
        See :func:`nni_nastc.features.importing.import_features`.
    one_for_all : bool
        Whether the arrays are named after their videos, not the files.

    Returns
    -------
    list of FoundVideo
        What can be imported.
    dict
        File -> reason, of those that cannot be used.

    Raises
    ------
    FeatureStoreError
        If two arrays are of one video.
    """
    found: dict[str, FoundVideo] = {}
    failed: dict[str, str] = {}
    for path in files:
        try:
            with open_arrays(path) as arrays:
                named = _named_arrays(path, list(arrays), key, suffix, one_for_all)
                for array, stem in named.items():
                    video = FoundVideo(stem, path, array, _shape(path, array, arrays[array], layout))
                    other = found.setdefault(stem, video)
                    if other is not video:
                        raise _Refused(
                            f"two arrays are of the video {stem}: in {other.path} and {path}; rename or move one"
                        )
        except _Refused:
            raise
        except FeatureStoreError as problem:
            failed[str(path)] = str(problem)
    return list(found.values()), failed


def _named_arrays(path: Path, arrays: list[str], key: str | None, suffix: str, one_for_all: bool) -> dict[str, str]:
    """Return array's name -> video for the arrays of a file."""
    own = path.stem.removesuffix(suffix)
    if key is not None and arrays != [""]:
        # "key" is of the video that the file is named after, "video/key" of another.
        named = {name: name.removesuffix(key).strip("/") or own for name in arrays if name.split("/")[-1] == key}
        rule = f"has no array {key!r}"
    elif one_for_all and arrays != [""]:
        named = {name: name for name in arrays}
        rule = "has no arrays"
    else:
        named = {arrays[0]: own} if len(arrays) == 1 else {}
        rule = "must have one array, or --key says which"
    if not named:
        raise FeatureStoreError(f"{path} {rule}: it has {len(arrays)} ({', '.join(sorted(arrays)[:5])}, ...)")
    if nested := next((stem for stem in named.values() if "/" in stem or stem.startswith(".")), None):
        raise FeatureStoreError(
            f"{path}: a video's name has no slash and no dot in front, given {nested!r}; "
            "for arrays in groups give --key, their name in the group"
        )
    return {name: _without_video_suffix(stem) for name, stem in named.items()}


def _without_video_suffix(stem: str) -> str:
    return Path(stem).stem if Path(stem).suffix.lower() in VIDEO_SUFFIXES else stem


def _shape(path: Path, name: str, array: StoredArray, layout: Layout) -> tuple[int, int, int, int]:
    if array.problem:
        raise FeatureStoreError(f"{path} cannot be imported: {f'{name}: ' if name else ''}{array.problem}")
    try:
        return layout.stored_shape(array.shape)
    except FeatureStoreError as problem:
        raise FeatureStoreError(f"{path}{f', {name}' if name else ''}: {problem}") from None
