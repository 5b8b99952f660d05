"""Annotation files -> :class:`~nni_nastc.data.records.Annotations`: one function for each data set.

Another data set is one more function in :data:`LOADERS`: it takes the path and the target, and returns Annotations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from nni_nastc.data.breakfast import load_breakfast
from nni_nastc.data.charades import load_charades
from nni_nastc.data.json_annotations import load_json
from nni_nastc.data.multithumos import load_multithumos
from nni_nastc.data.records import TARGETS, Annotations, Notice, Segment, VideoRecord
from nni_nastc.errors import AnnotationError

__all__ = ["LOADERS", "TARGETS", "Annotations", "Notice", "Segment", "VideoRecord", "load_annotations"]

LOADERS: Mapping[str, Callable[[Path, str | None], Annotations]] = {
    "json": load_json,
    "charades": load_charades,
    "multithumos": load_multithumos,
    "breakfast": load_breakfast,
}
"""Name of a data set -> function that reads its files."""


def load_annotations(path: Path | str, target: str | None = None, *, dataset: str = "json") -> Annotations:
    """Read the annotations of a data set, and check all of them.

    Parameters
    ----------
    path : Path or str
        A JSON file (:mod:`nni_nastc.data.json_annotations`), or the folder of the official files as downloaded.
    target : str, optional
        "activities" or "unit-actions", for Breakfast and composed videos only; None means "activities" there.
    dataset : str
        One of :data:`LOADERS`.

    Returns
    -------
    Annotations
        Classes, task and records.

    Raises
    ------
    AnnotationError
        With all problems of the files together.
    """
    if dataset not in LOADERS:
        raise AnnotationError(f'dataset must be one of {", ".join(LOADERS)}, got "{dataset}"')
    if target is not None and target not in TARGETS:
        raise AnnotationError(f'target must be one of {", ".join(TARGETS)}, got "{target}"; or leave it out')
    if dataset == "json" and Path(path).is_dir():
        others = ", ".join(name for name in LOADERS if name != "json")
        raise AnnotationError(
            f"{path} is a folder, dataset json is one file; give the file, or the dataset whose official files the "
            f"folder holds: {others}"
        )
    annotations = LOADERS[dataset](Path(path), target)
    if target is not None and annotations.target is None:
        raise AnnotationError(f'{path} has one list of classes, so it takes no target, got "{target}"; leave it out')
    return annotations
